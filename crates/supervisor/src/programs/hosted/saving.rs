//! A program, for the supervisor's next life.
//!
//! ```text
//!   save ─▶ SavedHosted + descriptors ─▶ restore ─▶ (its sockets come with the first apply) ─▶ resume ─▶ it goes on
//! ```

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use handover_handoff::process::Exit;
use handover_lifecycle::program::{CopyKey, EditionKey, Event, Machine, Plan, Saved};
use serde::{Deserialize, Serialize};

use super::super::asked::Asker;
use super::super::checks::{Proof, Spoken};
use super::super::commands::Setting;
use super::super::common::Common;
use super::super::copy::{Copy, SavedCopy};
use super::super::editions::{Edition, Place, Words};
use super::super::groups;
use super::super::happened::Of;
use super::super::notify::NotifySocket;
use super::super::output::OutputKey;
use super::super::private::{Own, SavedOwn};
use super::super::saving::{Packing, Unpacking};
use super::starting::{Born, setting_of};
use super::{Entry, Hosted, LastEnd, sockets_of};
use crate::protocol::ProgramSpec;

/// One program, as it is written down. Every field may be missing: another version has written it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct SavedHosted {
    pub(in super::super) name: String,
    machine: Saved,
    editions: Vec<SavedEdition>,
    next_edition: u64,
    copies: Vec<SavedEntry>,
    pending_by: Option<Asker>,
    begun: bool,
    first: Option<EditionKey>,
    leaving: bool,
    last_end: Option<(String, Option<i32>, Option<i32>)>,
    settled: bool,
    last_key: u64,
    /// For how long requests have been held.
    held_for: Option<Duration>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedEdition {
    key: EditionKey,
    spec: Box<ProgramSpec>,
    #[serde(default)]
    place: Option<Place>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct SavedEntry {
    key: CopyKey,
    edition: EditionKey,
    number: u32,
    mark: String,
    /// What runs; `None` if it was being started.
    born: Option<SavedBorn>,
    proof: Option<(String, bool)>,
    said_ready: bool,
    asked: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedBorn {
    copy: SavedCopy,
    pidfd: Option<usize>,
    own: Option<SavedOwn>,
    notify: Option<(PathBuf, usize)>,
    output: OutputKey,
    #[serde(default)]
    warnings: Vec<String>,
}

impl Hosted {
    pub(in super::super) fn save(&self, now: Duration, packing: &mut Packing) -> SavedHosted {
        let edition = |(key, edition): (&EditionKey, &Edition)| SavedEdition {
            key: *key,
            spec: Box::new(edition.spec.as_ref().clone()),
            place: edition.place.clone(),
        };
        let end = |end: &LastEnd| {
            let (code, signal) = match end.exit {
                Some(Exit::Code(code)) => (Some(code), None),
                Some(Exit::Signal(signal)) => (None, Some(signal)),
                Some(Exit::Unknown) | None => (None, None),
            };
            (end.sentence.clone(), code, signal)
        };
        SavedHosted {
            name: self.name.clone(),
            machine: self.machine.save(now),
            editions: self.editions.iter().map(edition).collect(),
            next_edition: self.next_edition,
            copies: self.copies.iter().map(|(key, entry)| entry.save(*key, packing)).collect(),
            pending_by: self.pending_by.clone(),
            begun: self.begun,
            first: self.first,
            leaving: self.leaving,
            last_end: self.last_end.as_ref().map(end),
            settled: self.settled,
            last_key: self.last_key,
            held_for: self.held_since.map(|since| now.saturating_sub(since)),
        }
    }

    /// As it was saved. It does nothing before [`Hosted::resume`].
    pub(in super::super) fn restore(
        saved: SavedHosted,
        now: Duration,
        unpacking: &mut Unpacking,
    ) -> Result<Self, String> {
        let mut hosted = Hosted::new(&saved.name, saved.last_key);
        hosted.machine = Machine::resume(now, &saved.machine);
        hosted.next_edition = saved.next_edition.max(1);
        for SavedEdition { key, spec, place } in saved.editions {
            hosted.next_edition = hosted.next_edition.max(key.0 + 1);
            hosted.editions.insert(key, Edition { spec: Arc::new(*spec), place, sockets: Vec::new() });
        }
        for entry in saved.copies {
            let key = entry.key;
            let edition = hosted.editions.get(&entry.edition);
            hosted.copies.insert(key, Entry::restore(entry, edition, unpacking)?);
        }
        hosted.pending_by = saved.pending_by;
        (hosted.begun, hosted.first, hosted.leaving) = (saved.begun, saved.first, saved.leaving);
        hosted.last_end = saved.last_end.map(|(sentence, code, signal)| LastEnd {
            sentence,
            exit: code.map(Exit::Code).or(signal.map(Exit::Signal)),
        });
        hosted.settled = saved.settled;
        hosted.held_since = saved.held_for.map(|since| now.saturating_sub(since));
        hosted.restored = true;
        Ok(hosted)
    }

    /// The marks of its copies.
    pub(in super::super) fn marks(&self) -> impl Iterator<Item = String> {
        self.copies.values().map(|entry| entry.mark.clone())
    }

    /// Goes on after another life, once: its sockets are there now.
    pub(in super::super) fn resume(&mut self, common: &mut Common) {
        if !std::mem::take(&mut self.restored) {
            return;
        }
        for edition in self.editions.values_mut() {
            edition.sockets = sockets_of(&edition.spec, &common.sockets);
        }
        let teller = common.teller(&self.name);
        for (copy, entry) in self.copies.iter().filter(|(_, entry)| entry.born.is_none()) {
            // Whether it was started, nobody knows any more: what has its mark is killed, and it is started anew.
            let (place, mark, teller, copy) =
                (common.place.clone(), entry.mark.clone(), teller.clone(), *copy);
            kill_by_mark(entry.mark.clone(), move || {
                place.forget_marks(&[mark].into());
                let why = "the supervisor died while it did so".to_owned();
                teller.tell(Of::Started { copy, born: Err(why) });
            });
        }
        for (key, entry) in &mut self.copies {
            if let Some(born) = entry.born.take() {
                common.save_copy(&self.name, *key, born.copy.save());
                let groups = common.groups.clone();
                let edition = self.editions.get(&entry.edition);
                let born = match edition {
                    Some(edition) => Born { words: words_of(edition, entry.number, &born), ..born },
                    None => born,
                };
                let place = Some(common.place.clone());
                let setting = edition.map(|edition| Setting {
                    place,
                    ..setting_of(edition, &environment_of(edition, &born.words), &born.words, &groups)
                });
                let said_ready = entry.said_ready;
                entry.run(*key, Born { setting: setting.unwrap_or_default(), ..born }, &teller);
                if let Some(spoken) = entry.spoken.as_ref().filter(|_| said_ready) {
                    spoken.send_modify(|spoken: &mut Spoken| spoken.ready = true);
                }
            }
        }
        let running = self.view().operation;
        if self.begun || running.is_some() || !self.copies.is_empty() {
            self.step(common, Event::Resumed);
        }
        if let Some(operation) = running {
            // Whoever asked for it is told by the journal that nobody knows.
            self.step(common, Event::CallOff { operation });
        }
    }
}

impl Entry {
    fn save(&self, key: CopyKey, packing: &mut Packing) -> SavedEntry {
        let born = self.born.as_ref().map(|born| SavedBorn {
            copy: born.copy.save(),
            pidfd: born.copy.descriptor().and_then(|pidfd| packing.add_copy_of(pidfd)),
            own: born.own.as_ref().map(|own| own.save(own.socket.as_ref().map(|socket| packing.add(socket)))),
            notify: born.notify.as_ref().and_then(|notify| {
                Some((notify.path().to_owned(), packing.add_copy_of(notify.descriptor())?))
            }),
            output: born.output,
            warnings: born.warnings.clone(),
        });
        SavedEntry {
            key,
            edition: self.edition,
            number: self.number,
            mark: self.mark.clone(),
            born,
            proof: self.proof.as_ref().map(|proof| (proof.how.clone(), proof.by_time)),
            said_ready: self.spoken.as_ref().is_some_and(|spoken| spoken.borrow().ready),
            asked: self.asked,
        }
    }

    fn restore(
        saved: SavedEntry,
        edition: Option<&Edition>,
        unpacking: &mut Unpacking,
    ) -> Result<Self, String> {
        let mut entry = Entry::new(saved.edition, saved.number, saved.mark);
        (entry.said_ready, entry.asked) = (saved.said_ready, saved.asked);
        entry.proof = saved.proof.map(|(how, by_time)| Proof { how, by_time, took: Duration::ZERO });
        let Some(born) = saved.born else { return Ok(entry) };
        let pidfd = born.pidfd.and_then(|at| unpacking.take(at));
        let copy = Copy::restore(born.copy, pidfd)
            .map_err(|error| format!("a copy that runs cannot be watched: {error}"))?;
        let own = born.own.map(|own| {
            let socket = own.socket.and_then(|at| unpacking.take(at)).map(Arc::new);
            Own::restore(own, socket)
        });
        let notify = born.notify.and_then(|(path, at)| {
            let socket: OwnedFd = unpacking.take(at)?;
            let restored = NotifySocket::restore(path, socket);
            restored
                .inspect_err(|error| tracing::warn!("what a copy says cannot be heard any more: {error}"))
                .ok()
        });
        let words = edition.map(Edition::words).unwrap_or_default();
        entry.born = Some(Born {
            copy: Arc::new(copy),
            own,
            notify: notify.map(Arc::new),
            output: born.output,
            warnings: born.warnings,
            setting: Setting::default(),
            words,
        });
        Ok(entry)
    }
}

/// What stands in braces for this copy.
fn words_of(edition: &Edition, number: u32, born: &Born) -> Words {
    let words = Words { copy: Some(number), pid: Some(born.copy.pid()), ..edition.words() };
    match &born.own {
        Some(own) => words.at(&own.address, own.socket.is_some(), edition.spec.pass.first_fd),
        None => words,
    }
}

/// The variables of an edition, with what is known of a copy filled in.
pub(in super::super) fn environment_of(edition: &Edition, words: &Words) -> BTreeMap<String, String> {
    let filled = |(name, value): (String, String)| {
        let value = words.expand(&value).unwrap_or(value);
        (name, value)
    };
    edition.environment().into_iter().map(filled).collect()
}

/// Kills what has this mark, if anything has; then nothing is left of it, as far as anybody can tell.
fn kill_by_mark(mark: String, over: impl FnOnce() + Send + 'static) {
    let saved = SavedCopy { mark, boot: groups::boot(), ..SavedCopy::default() };
    tokio::spawn(async move {
        match Copy::restore(saved, None) {
            Ok(copy) => drop(copy.kill_all(Plan::KILL_LIMIT).await),
            Err(error) => tracing::warn!("a copy that was being started may run on: {error}"),
        }
        over();
    });
}

impl Packing {
    fn add_copy_of(&mut self, descriptor: std::os::fd::BorrowedFd<'_>) -> Option<usize> {
        let copy = descriptor.as_fd().try_clone_to_owned();
        let copy =
            copy.inspect_err(|error| tracing::warn!("a descriptor of a program cannot be kept: {error}"));
        Some(self.add(&Arc::new(copy.ok()?)))
    }
}
