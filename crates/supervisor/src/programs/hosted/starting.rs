//! A copy on its way: words filled in, addresses bound, sockets passed, the process started.
//!
//! ```text
//!   Starting (all that is known) ── a thread that may block ─▶ Born │ why not
//! ```

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use handover_lifecycle::program::CopyKey;

use super::super::checks::{Place as Asked, Processes, Spoken, Subject};
use super::super::commands::Setting;
use super::super::copy::{self, Copy, Order};
use super::super::editions::{Edition, Words};
use super::super::groups::Groups;
use super::super::notify::NotifySocket;
use super::super::output::{OutputKey, Outputs};
use super::super::private::{self, Own, Place};
use super::super::{SharedSocket, actual_address};
use crate::protocol::{Private, Ready, Reload};

/// All that is known of a copy that is to be started.
#[derive(Debug)]
pub(in super::super) struct Starting {
    pub(super) key: CopyKey,
    pub(super) number: u32,
    pub(super) mark: String,
    pub(super) edition: Edition,
    pub(super) place: Place,
    /// Ports that other copies were given.
    pub(super) taken: Vec<u16>,
    pub(super) outputs: Outputs,
    pub(super) groups: Groups,
}

/// A copy that was started.
#[derive(Debug)]
pub(in super::super) struct Born {
    pub(super) copy: Arc<Copy>,
    /// The address that it has for itself.
    pub(super) own: Option<Own>,
    pub(super) notify: Option<Arc<NotifySocket>>,
    pub(super) output: OutputKey,
    pub(super) warnings: Vec<String>,
    /// How commands about it are run.
    pub(super) setting: Setting,
    pub(super) words: Words,
}

impl Starting {
    /// Starts it. Blocks for a moment; needs a tokio runtime.
    pub(super) fn start(self) -> Result<Born, String> {
        let spec = Arc::clone(&self.edition.spec);
        let user = spec.user.as_ref();
        let files = self.place.files(&spec.name, self.key.0, user)?;
        // Before there is anything: it is to be found, whenever this life ends.
        files.note_mark(&self.mark);
        let own = spec.private.map(|kind| Own::make(kind, &files, user, &self.taken)).transpose();
        let own = own.inspect_err(|_| files.forget_mark())?;
        let started = self.start_with(own.as_ref(), &files);
        match started {
            Ok((copy, notify, output, warnings, setting, words)) => {
                Ok(Born { copy: Arc::new(copy), own, notify, output, warnings, setting, words })
            }
            Err(why) => {
                files.forget_mark();
                if let Some(own) = own {
                    own.remove();
                }
                Err(why)
            }
        }
    }

    #[allow(clippy::type_complexity, reason = "the parts of what is built one line later")]
    fn start_with(
        &self,
        own: Option<&Own>,
        files: &private::Files,
    ) -> Result<(Copy, Option<Arc<NotifySocket>>, OutputKey, Vec<String>, Setting, Words), String> {
        let spec = &self.edition.spec;
        let words = self.words(own);
        let command = words.expand_all(self.edition.command()).map_err(|unfilled| unfilled.to_string())?;
        let environment = self.environment(&words)?;
        self.prepare_sockets(own)?;
        let notify = match wants_notify(&self.edition) {
            true => Some(self.bind_notify(files)?),
            false => None,
        };
        let (output, key) = self
            .outputs
            .open(&spec.name, self.number)
            .map_err(|error| format!("no pipe can be made for its output: {error}"))?;
        let mut sockets: Vec<_> = spec
            .sockets
            .iter()
            .zip(&self.edition.sockets)
            .map(|(socket, shared)| (socket.name.as_str(), shared.socket.as_fd()))
            .collect();
        if let Some(socket) = own.and_then(|own| own.socket.as_ref()) {
            sockets.push(("private", socket.as_fd()));
        }
        let directory = self.edition.directory();
        let order = Order {
            program: &spec.name,
            number: self.number,
            mark: &self.mark,
            command: &command,
            directory,
            environment: &environment,
            clear_environment: spec.clear_environment,
            user: spec.user.as_ref(),
            limits: &spec.limits,
            sockets: &sockets,
            pass: &spec.pass,
            notify: notify.as_deref().map(NotifySocket::path),
            stdin: None,
            stdout: None,
            output: output.as_fd(),
            groups: &self.groups,
        };
        match copy::start(&order) {
            Ok(started) => {
                let words = Words { pid: Some(started.copy.pid()), ..words };
                let setting = self.setting(&environment, &words);
                Ok((started.copy, notify, key, started.warnings, setting, words))
            }
            Err(failed) => {
                if let Some(notify) = notify {
                    notify.unlink();
                }
                self.outputs.finish(key);
                Err(failed.why)
            }
        }
    }

    fn words(&self, own: Option<&Own>) -> Words {
        let words = Words { copy: Some(self.number), ..self.edition.words() };
        match own {
            Some(own) => words.at(&own.address, own.socket.is_some(), self.edition.spec.pass.first_fd),
            None => words,
        }
    }

    fn environment(&self, words: &Words) -> Result<BTreeMap<String, String>, String> {
        let filled = |(name, value): (String, String)| Ok((name, words.expand(&value)?));
        let all: Result<_, super::super::editions::Unfilled> =
            self.edition.environment().into_iter().map(filled).collect();
        all.map_err(|unfilled| unfilled.to_string())
    }

    /// Programs expect sockets that wait in `accept`, if the configuration does not say otherwise; the shared ones do by now.
    fn prepare_sockets(&self, own: Option<&Own>) -> Result<(), String> {
        let missing = self.edition.spec.sockets.get(self.edition.sockets.len());
        if let Some(missing) = missing {
            return Err(format!("its socket {} is not held", missing.address));
        }
        let own = own.and_then(|own| own.socket.as_ref());
        let shared = self.edition.sockets.iter().map(|shared| &shared.socket);
        let prepared = match self.edition.spec.pass.nonblocking {
            true => shared.chain(own).try_for_each(copy::make_nonblocking),
            false => own.into_iter().try_for_each(copy::make_blocking),
        };
        prepared.map_err(|error| format!("its socket cannot be prepared: {error}"))?;
        Ok(())
    }

    fn bind_notify(&self, files: &private::Files) -> Result<Arc<NotifySocket>, String> {
        let path = &files.notify;
        let socket = NotifySocket::bind(path)
            .map_err(|error| format!("its notify socket {} cannot be made: {error}", path.display()))?;
        private::give(path, self.edition.spec.user.as_ref())?;
        Ok(Arc::new(socket))
    }

    fn setting(&self, environment: &BTreeMap<String, String>, words: &Words) -> Setting {
        let place = Some(self.place.clone());
        Setting { place, ..setting_of(&self.edition, environment, words, &self.groups) }
    }
}

/// How commands about a program are run: hooks, checks, reloads.
pub(in super::super) fn setting_of(
    edition: &Edition,
    environment: &BTreeMap<String, String>,
    words: &Words,
    groups: &Groups,
) -> Setting {
    let spec = &edition.spec;
    let mut all = environment.clone();
    let known = [
        ("HANDOVER_PROGRAM", Some(spec.name.clone())),
        ("HANDOVER_COPY", words.copy.map(|copy| copy.to_string())),
        ("HANDOVER_PID", words.pid.map(|pid| pid.to_string())),
        ("HANDOVER_SLOT", words.slot.clone()),
        ("HANDOVER_PORT", words.port.map(|port| port.to_string())),
        ("HANDOVER_SOCKET", words.socket.clone()),
    ];
    let known = known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    all.extend(known);
    Setting {
        directory: edition.directory().map(ToOwned::to_owned),
        environment: all,
        clear_environment: spec.clear_environment,
        user: spec.user.clone(),
        groups: groups.clone(),
        place: None,
    }
}

fn wants_notify(edition: &Edition) -> bool {
    edition.spec.ready == Ready::Notify || matches!(edition.spec.reload, Some(Reload::Notify { .. }))
}

/// Where a copy is asked whether it is ready.
pub(super) fn asked_at(edition: &Edition, own: Option<&Own>) -> Option<Asked> {
    if let Some(own) = own {
        // Anybody could have taken the port before the copy did; a socket that we bound, or a directory of its own, nobody.
        let is_own = edition.spec.private != Some(Private::Port);
        return Some(Asked { address: own.address.clone(), own: is_own });
    }
    let first: &SharedSocket = edition.sockets.first()?;
    Some(Asked { address: actual_address(first), own: false })
}

/// The copy, for those who ask it something.
pub(super) fn subject(
    born: &Born,
    edition: &Edition,
    number: u32,
    spoken: Option<tokio::sync::watch::Receiver<Spoken>>,
) -> Subject {
    let copy = Arc::clone(&born.copy);
    Subject {
        program: edition.spec.name.clone(),
        number,
        pid: born.copy.pid(),
        processes: Processes::new(move || copy.processes()),
        place: asked_at(edition, born.own.as_ref()),
        spoken,
        setting: born.setting.clone(),
    }
}
