//! The programs that workers are started from, by what they are there for; and the copy of the one before.
//!
//! ```text
//!   admitted ─▶ candidate ── Switch ─▶ serving ── Switch to another ─▶ previous ─┬─ Forget, the upgrade stays ─▶ copy kept
//!                   └── Forget                        ▲                          └─ sent away ─▶ nothing of it
//!                                                     └──── going back: Switch ◀────┘
//! ```
//!
//! A copy is made as soon as another one was let in: should this process die on the way, whoever comes next has something
//! to go back to.

use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use handover_api::{Binary as Described, Problem};
use handover_lifecycle::Binary;

use super::{Driver, Input, Parts};
use crate::binary;
use crate::image::Image;
use crate::journal::UnconfirmedUpgrade;

/// How long a copy that is still being written is waited for before this process becomes another program.
const COPY_LIMIT: Duration = Duration::from_secs(2);

/// The programs.
#[derive(Debug)]
pub(super) struct Binaries {
    /// What this process runs.
    pub(super) own: Arc<Image>,
    /// What the worker that serves runs, and those that replace it.
    pub(super) serving: Arc<Image>,
    /// The one that is examined.
    pub(super) candidate: Option<Arc<Image>>,
    /// The one that served before, until it is forgotten.
    pub(super) previous: Option<Arc<Image>>,
    /// Whether that one was sent away: it is not what one goes back to.
    sent_away: bool,
    /// Where this process was started from.
    pub(super) installed: PathBuf,
    /// The one that can be gone back to: a copy of it is kept, and nothing awaits confirmation.
    pub(super) kept: Option<Described>,
    /// The last copy that was begun: ends when it is whole, or has failed.
    copying: Option<Receiver<()>>,
    /// The digest of the last copy that is whole.
    copied: Option<String>,
    /// One copy at a time.
    disk: Arc<Mutex<()>>,
}

impl Binaries {
    pub(super) fn new(parts: &Parts) -> Self {
        Binaries {
            own: Arc::clone(&parts.program),
            serving: Arc::clone(&parts.program),
            candidate: None,
            previous: None,
            sent_away: false,
            installed: parts.installed.clone(),
            kept: parts.kept.clone(),
            copying: None,
            copied: None,
            disk: Arc::default(),
        }
    }

    /// The program that is meant.
    pub(super) fn get(&self, binary: Binary) -> Option<&Arc<Image>> {
        match binary {
            Binary::Serving => Some(&self.serving),
            Binary::Candidate => self.candidate.as_ref(),
            Binary::Previous => self.previous.as_ref(),
        }
    }

    /// A worker of this program serves now.
    pub(super) fn switch(&mut self, to: &Arc<Image>) {
        let goes_back = self.previous.as_ref().is_some_and(|previous| Arc::ptr_eq(previous, to));
        let before = std::mem::replace(&mut self.serving, Arc::clone(to));
        self.candidate.take_if(|candidate| Arc::ptr_eq(candidate, to));
        self.previous = Some(before);
        self.sent_away = goes_back;
    }
}

impl Driver {
    /// Reads the digest of what this process runs, elsewhere: it is large, and nobody waits for it yet.
    pub(super) fn learn_digests(&self) {
        let programs = [Arc::clone(&self.binaries.own), Arc::clone(&self.binaries.serving)];
        tokio::task::spawn_blocking(move || {
            for program in programs {
                if let Err(error) = program.find_sha256() {
                    tracing::warn!("the digest of {} cannot be known: {error}", program.path().display());
                }
            }
        });
    }

    /// The machine needs it no more.
    pub(super) fn forget(&mut self, binary: Binary) {
        match binary {
            Binary::Candidate => self.binaries.candidate = None,
            Binary::Previous => {
                let sent_away = std::mem::take(&mut self.binaries.sent_away);
                if let Some(previous) = self.binaries.previous.take().filter(|_| !sent_away) {
                    self.keep_previous(previous);
                }
            }
            // Never said.
            Binary::Serving => {}
        }
    }

    /// This program is what `rollback --binary` goes back to from now on.
    fn keep_previous(&mut self, previous: Arc<Image>) {
        if previous.sha256().is_none() || previous.sha256() != self.binaries.copied.as_deref() {
            return self.copy(previous, true);
        }
        let binary = previous.described();
        self.binaries.kept = Some(binary.clone());
        self.parts.scribe.later(move |journal| {
            super::changes::log_unwritten(journal.keep_binary(&binary));
        });
    }

    /// The same of a binary of which an earlier supervisor has made a copy, if it came so far.
    pub(super) fn keep_previous_if_copied(&mut self, binary: Described) {
        let sha256 = binary.sha256.as_deref().unwrap_or_default();
        if binary::is_kept(&self.parts.options.state, sha256) {
            self.binaries.kept = Some(binary.clone());
            self.parts.scribe.later(move |journal| {
                super::changes::log_unwritten(journal.keep_binary(&binary));
            });
        }
    }

    /// Keeps a copy of a program, elsewhere. `previous`: it is what `rollback --binary` goes back to from then on.
    pub(super) fn copy(&mut self, program: Arc<Image>, previous: bool) {
        let (state, inputs) = (self.parts.options.state.clone(), self.inputs.clone());
        let (scribe, disk) = (self.parts.scribe.clone(), Arc::clone(&self.binaries.disk));
        let (done, copying) = mpsc::channel();
        self.binaries.copying = Some(copying);
        tokio::task::spawn_blocking(move || {
            let _turn = disk.lock().unwrap_or_else(PoisonError::into_inner);
            let sha256 = program.find_sha256().map(str::to_owned);
            let kept = sha256.and_then(|sha256| binary::keep(&state, program.executable(), &sha256));
            let binary = Box::new(program.described());
            if kept.is_ok() && previous {
                // Before anybody can become another program.
                let binary = binary.clone();
                scribe.later(move |journal| {
                    super::changes::log_unwritten(journal.keep_binary(&binary));
                });
            }
            let failure = kept.err().map(|error| {
                let path = program.path().display();
                format!(
                    "no copy of {path} could be kept in {}, so it cannot be gone back to later: {error}",
                    state.display()
                )
            });
            drop(done);
            let _ = inputs.blocking_send(Input::Kept { binary, previous, failure });
        });
    }

    pub(super) fn kept(&mut self, binary: Described, previous: bool, failure: Option<String>) {
        match failure {
            None => {
                self.binaries.copied.clone_from(&binary.sha256);
                if previous {
                    self.binaries.kept = Some(binary);
                }
            }
            Some(why) => {
                tracing::warn!("{why}");
                let entry = self.active().and_then(|key| self.operations.get_mut(key));
                if let Some(entry) = entry.filter(|entry| entry.operation.upgrade.is_some()) {
                    // Made ahead, and once more when it is needed: said once.
                    let problem = Problem::new(why);
                    if !entry.operation.warnings.contains(&problem) {
                        entry.operation.warnings.push(problem);
                    }
                }
            }
        }
    }

    /// What waits for a copy that is being written. Not for long, if the disk hangs: call it where that may take its time.
    pub(super) fn whole_copy(&mut self) -> impl FnOnce() + Send + use<> {
        let copying = self.binaries.copying.take();
        move || {
            // It ends without a word.
            let waited = copying.map(|copying| copying.recv_timeout(COPY_LIMIT));
            if waited == Some(Err(mpsc::RecvTimeoutError::Timeout)) {
                tracing::warn!("the copy of the binary before is not whole after {COPY_LIMIT:?}");
            }
        }
    }

    /// Waits for a copy that is being written: it would be cut off. Not for long, if the disk hangs.
    pub(super) fn await_copy(&mut self) {
        if let Some(copying) = self.binaries.copying.take()
            && copying.recv_timeout(COPY_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout)
        {
            tracing::warn!(
                "the copy of the binary before is not whole after {COPY_LIMIT:?}, and is given up"
            );
        }
    }

    /// An upgrade of an earlier supervisor still awaits confirmation: what it goes back to is the kept copy. Reads it.
    pub(super) fn find_previous(&mut self, unconfirmed: &UnconfirmedUpgrade) {
        let from = &unconfirmed.made.from;
        let sha256 = from.sha256.clone().unwrap_or_default();
        match binary::admit_kept(&self.parts.options.state, &sha256) {
            Ok(admitted) => {
                self.binaries.previous = Some(Arc::new(Image::known(admitted.executable, from)));
                // It was made ahead of the handoff, and is whole: there is nothing to copy when the upgrade stays.
                self.binaries.copied = Some(sha256);
            }
            Err(why) => tracing::error!("the binary before cannot be gone back to: {why}"),
        }
    }
}
