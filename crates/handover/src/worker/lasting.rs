//! What outlives a supervisor, and what is asked of one: the greeting, carried state, held sockets, reloads.
//!
//! ```text
//!   Welcome ─▶ Hello: what serves, its listeners, the held ones, the carried state, what is kept of programs
//!   Carry   ◀─ the service's state that is in no file has changed
//!   Ask     ◀─ the watch or the service wants a reload ─▶ Asked: what came of it
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use handover_handoff::process::Executable;
use handover_handoff::{Bundle, memfd};
use handover_supervisor::protocol::{
    ListenerSpec, MAX_CARRIED_BYTES, OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, Serving, ToSupervisor,
    common_version,
};

use super::Notice;
use super::control::{Control, Served};
use super::mailbox::Post;
use super::moves::Role;
use crate::files::Seen;
use crate::moving;
use crate::watch::{Came, Watch, Watcher};

/// Reloads that may be asked for and not be answered yet; more than the watch and a service ever need.
const MAX_ASKED: usize = 64;

/// State that outlives this process.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) bytes: Arc<[u8]>,
    /// The same, as it is passed on.
    pub(super) memfd: OwnedFd,
}

impl Carried {
    fn new(bytes: Arc<[u8]>) -> Result<Self, String> {
        if bytes.len() > MAX_CARRIED_BYTES {
            return Err(format!("{} bytes are over the limit of {MAX_CARRIED_BYTES}", bytes.len()));
        }
        let memfd = memfd::sealed("handover-carried", &bytes).map_err(|error| error.to_string())?;
        Ok(Self { bytes, memfd })
    }
}

/// Carried state that came with a message; `None` if it was promised and did not come.
pub(super) fn read_carried(file: Option<OwnedFd>) -> Result<Arc<[u8]>, String> {
    let file = file.ok_or_else(|| "the carried state (keys of session tickets) did not come".to_owned())?;
    let bytes = memfd::read_sealed(file, MAX_CARRIED_BYTES)
        .map_err(|error| format!("the carried state (keys of session tickets) cannot be had: {error}"))?;
    Ok(Arc::from(bytes))
}

impl Control {
    /// `versions`: the oldest and the newest that the supervisor speaks.
    pub(super) fn welcome(&mut self, versions: [u16; 2], worker: u64, carried: Option<Option<OwnedFd>>) {
        if common_version(versions[0], versions[1]).is_none() {
            // It will read our versions in the answer, and decide.
            tracing::warn!(
                "the supervisor speaks versions {versions:?} of the protocol, this worker \
                 {OLDEST_PROTOCOL_VERSION} to {PROTOCOL_VERSION}"
            );
        }
        self.welcomed = true;
        let key = *self.key.get_or_insert(worker);
        if let (None, Some(file)) = (&self.carried, carried) {
            match read_carried(file).and_then(Carried::new) {
                Ok(carried) => self.carried = Some(carried),
                Err(why) => tracing::warn!("this worker begins without it: {why}"),
            }
        }
        // Whatever became of its path.
        let executable = Executable::current().inspect_err(|error| {
            tracing::warn!("the next supervisor will not know which program this is: {error}");
        });
        let executable = executable.ok().filter(|_| self.served.is_some());
        let serving = self.served.as_ref().map(|served| {
            Box::new(Serving {
                worker: key,
                generation: served.generation,
                listeners: served.listeners.iter().map(|(spec, _)| spec.clone()).collect(),
                settings: served.settings.clone(),
                summary: served.summary.clone(),
                accepting: self.drains.accepting(),
                version: served.version.clone(),
                held: self.held.iter().map(|(spec, _)| spec.clone()).collect(),
                carried: self.carried.is_some(),
                executable: executable.is_some(),
                programs: self.kept.as_ref().map(|kept| kept.programs.clone()),
            })
        });
        let mut fds: Vec<BorrowedFd<'_>> = self.served.iter().flat_map(Served::descriptors).collect();
        if serving.is_some() {
            fds.extend(self.held.iter().map(|(_, socket)| socket.as_fd()));
            fds.extend(self.carried.iter().map(|carried| carried.memfd.as_fd()));
            fds.extend(executable.as_ref().map(AsFd::as_fd));
            fds.extend(self.kept.iter().flat_map(|kept| kept.descriptors()));
        }
        let (version, actions) = (self.version.clone(), self.errands.service.actions());
        let formats = moving::formats(&*self.errands.service);
        let hello = ToSupervisor::Hello {
            protocol: PROTOCOL_VERSION,
            oldest: OLDEST_PROTOCOL_VERSION,
            version,
            actions,
            serving,
            formats: formats.as_ref().map_or([0, 0], |formats| [*formats.start(), *formats.end()]),
            threads: self.errands.threads(),
            movable: formats.is_some(),
        };
        self.send(&hello, &fds);
        self.asks.supervisor_came();
    }

    /// Takes the service's state, for who comes after this process.
    pub(super) fn carry(&mut self, bytes: Vec<u8>) {
        match Carried::new(Arc::from(bytes)) {
            Ok(carried) => {
                // Before the greeting nobody expects it; what serves is told in the greeting itself. While another
                // worker serves, its state is the one that counts.
                let now = self.welcomed && self.moves.role == Role::Serving;
                if now {
                    self.send(&ToSupervisor::Carry, &[carried.memfd.as_fd()]);
                }
                self.moves.carry = !now;
                self.carried = Some(carried);
            }
            Err(why) => tracing::error!("state that should outlive this worker cannot be handed over: {why}"),
        }
    }

    /// Keeps sockets for the next supervisor, in place of those kept before.
    pub(super) fn hold(&mut self, listeners: Vec<ListenerSpec>, sockets: Vec<OwnedFd>) {
        if listeners.len() != sockets.len() {
            tracing::error!("{} sockets to hold, and {} came", listeners.len(), sockets.len());
        }
        self.held = listeners.into_iter().zip(sockets).collect();
    }

    /// Asks the supervisor for a reload.
    pub(super) fn ask(&mut self, by: By, why: String) {
        if self.moves.role != Role::Serving {
            self.asks.refuse(by, &why, "another worker serves, or is about to");
        } else if self.is_supervised() {
            if let Some(call) = self.asks.begin(by, &why) {
                self.send(&ToSupervisor::Ask { call, why }, &[]);
            }
        } else {
            self.asks.refuse(by, &why, "there is no supervisor at the moment");
        }
    }
}

impl Served {
    /// The bundle, then the listeners: the order of [`ToSupervisor::Hello`].
    fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.memfd.as_fd()).chain(self.listeners.iter().map(|(_, socket)| socket.as_fd()))
    }
}

/// Who wants a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Watch,
    Service,
}

/// Reloads that were asked for, and the watch that asks.
#[derive(Debug, Default)]
pub(super) struct Asks {
    next: u64,
    open: Vec<(u64, By, String)>,
    watcher: Option<Watcher>,
    /// What the last prepare looked for on the disk in vain, while nothing serves yet.
    tried: Option<Arc<Vec<Seen>>>,
    has_served: bool,
}

impl Asks {
    /// The number under which the answer will come; `None` if too many are open.
    fn begin(&mut self, by: By, why: &str) -> Option<u64> {
        if self.open.len() >= MAX_ASKED {
            self.refuse(by, why, "too many reloads are asked for already");
            return None;
        }
        self.next += 1;
        self.open.push((self.next, by, why.to_owned()));
        Some(self.next)
    }

    fn refuse(&self, by: By, why: &str, because: &str) {
        match by {
            By::Watch => {
                if let Some(watcher) = &self.watcher {
                    watcher.asked(false, because);
                }
            }
            By::Service => tracing::warn!("no reload because of {why}: {because}"),
        }
    }

    /// The supervisor's answer.
    pub(super) fn answered(&mut self, call: u64, done: bool, detail: &str) {
        let Some(at) = self.open.iter().position(|(open, _, _)| *open == call) else { return };
        let (_, by, why) = self.open.swap_remove(at);
        match (by, done) {
            (By::Watch, _) => {
                if let Some(watcher) = &self.watcher {
                    watcher.asked(done, detail);
                }
            }
            (By::Service, true) => tracing::info!("reload because of {why}: {detail}"),
            (By::Service, false) => self.refuse(by, &why, detail),
        }
    }

    /// A supervisor is there; what was asked of another one will not be answered.
    fn supervisor_came(&mut self) {
        for (_, by, why) in std::mem::take(&mut self.open) {
            self.refuse(by, &why, "the supervisor that was asked is gone");
        }
    }

    /// A prepare has looked at the disk, whatever came of it.
    pub(super) fn tried(&mut self, seen: Arc<Vec<Seen>>) {
        match &self.watcher {
            Some(watcher) => watcher.tried(seen),
            None if !self.has_served => self.tried = Some(seen),
            None => {}
        }
    }

    /// A generation serves: begins, goes on with or ends watching.
    pub(super) fn serving(&mut self, watch: Option<Watch>, files: Files, post: &Post<Notice>) {
        self.has_served = true;
        let tried = self.tried.take();
        let Some(watch) = watch else {
            self.watcher = None;
            return;
        };
        let Files { bundle, came, seen } = files;
        if self.watcher.is_none() {
            let post = post.clone();
            match Watcher::start(move |why| post.send(Notice::WatchAsks { why })) {
                Ok(watcher) => {
                    // What was tried in vain before anything served, or else what this generation has read.
                    watcher.tried(tried.filter(|_| came != Came::Read).unwrap_or(seen));
                    self.watcher = Some(watcher);
                }
                Err(error) => tracing::error!("nothing is watched: {error}"),
            }
        }
        if let Some(watcher) = &self.watcher {
            watcher.serving(watch, bundle, came);
        }
    }
}

/// The files of a generation that was committed.
pub(super) struct Files {
    pub(super) bundle: Arc<Bundle>,
    pub(super) came: Came,
    /// What it has looked for on the disk.
    pub(super) seen: Arc<Vec<Seen>>,
}
