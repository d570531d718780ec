//! What a supervisor leaves for the program in its place: the form, and nothing that is done with it.
//!
//! ```text
//!   { format, descriptors, back, … }    every format has these three: enough to go back
//!     control, journal, listeners, workers, serving, carried, programs, hosted     what is held open, by number
//!     machine, operations, waiting, supervisor, metrics                    what is known
//! ```
//!
//! JSON, in a sealed memory file. Descriptors stand in it by their numbers; the two images are one process, so that the
//! numbers mean the same. Every field may be missing (another version has written it) and what is not known is ignored;
//! `format` is raised only when a reader of the format before would go wrong. `fixtures/` has each format as it was
//! written first, and a test reads them all.

use std::os::fd::RawFd;
use std::path::PathBuf;

use handover_api::{Binary, Change, Operation, StepName};
use handover_lifecycle::Saved as SavedMachine;
use serde::{Deserialize, Serialize};

use super::{NEWEST_FORMAT, OLDEST_FORMAT, ResumeError};
use crate::metrics::SavedMetrics;
use crate::protocol::{GuardLimits, ListenerSpec, Settings};

/// The most bytes of saved state: what serves has a memory file of its own.
pub(super) const MAX_BYTES: usize = 64 * 1024 * 1024;

/// What a supervisor leaves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    /// The form of all this.
    pub(crate) format: u16,
    /// Every descriptor that was left open.
    pub(crate) descriptors: Vec<RawFd>,
    /// The program that wrote this.
    pub(crate) back: Back,
    /// Why the program after it could not go on; then this is read by the one that wrote it.
    pub(crate) came_back: Option<String>,
    /// The process that wrote this.
    pub(crate) pid: u32,
    /// The control socket.
    pub(crate) control: SavedControl,
    /// The journal.
    pub(crate) journal: SavedJournal,
    /// All listening sockets.
    pub(crate) listeners: SavedListeners,
    /// Workers that live.
    pub(crate) workers: Vec<SavedWorker>,
    /// What serves.
    pub(crate) serving: Option<SavedServing>,
    /// The memory file with the carried state.
    pub(crate) carried: Option<RawFd>,
    /// The programs.
    pub(crate) programs: SavedPrograms,
    /// The programs that run under the supervisor.
    pub(crate) hosted: SavedHosted,
    /// The lifecycle machine.
    pub(crate) machine: SavedMachine,
    /// Operations that are not answered yet.
    pub(crate) operations: Vec<SavedOperation>,
    /// How many operations there were.
    pub(crate) operations_made: u64,
    /// Connections that wait for an operation's end.
    pub(crate) waiting: Vec<SavedWaiter>,
    /// The rest of what the supervisor knows.
    pub(crate) supervisor: SavedSupervisor,
    /// Its counters.
    pub(crate) metrics: SavedMetrics,
}

/// A program that can be gone back to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Back {
    /// Its file.
    pub(crate) executable: RawFd,
    /// Where that was found.
    pub(crate) path: PathBuf,
    /// What it is.
    pub(crate) binary: Option<Binary>,
}

/// The control socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedControl {
    /// Its path, absolute.
    pub(crate) path: PathBuf,
    /// The lock beside it.
    pub(crate) lock: RawFd,
    /// The socket.
    pub(crate) socket: RawFd,
    /// Its file (`O_PATH`).
    pub(crate) file: RawFd,
}

/// The journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedJournal {
    /// Its directory.
    pub(crate) directory: PathBuf,
    /// The lock in it.
    pub(crate) lock: RawFd,
}

/// All listening sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedListeners {
    /// Of the generation that serves.
    pub(crate) serving: Vec<SavedListener>,
    /// Of the generation before, if it may have to serve again.
    pub(crate) kept: Vec<SavedListener>,
    /// What the service manager passed.
    pub(crate) passed: Vec<SavedPassed>,
}

/// A listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedListener {
    /// As the generation needs it.
    pub(crate) spec: ListenerSpec,
    /// As it was asked for first, if that is another one.
    #[serde(default)]
    pub(crate) made_for: Option<ListenerSpec>,
    /// The socket.
    pub(crate) socket: RawFd,
    /// Its file, if it is one that this server has made (`O_PATH`).
    #[serde(default)]
    pub(crate) file: Option<RawFd>,
    /// Whether the service manager has made it.
    #[serde(default)]
    pub(crate) inherited: bool,
    /// Whether it was told not to listen.
    #[serde(default)]
    pub(crate) rests: bool,
}

/// A socket that the service manager passed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedPassed {
    /// Its name.
    pub(crate) name: String,
    /// The socket.
    pub(crate) socket: RawFd,
}

/// A worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedWorker {
    /// Its key.
    pub(crate) key: u64,
    /// Its number.
    pub(crate) number: u64,
    /// Its process ID.
    pub(crate) pid: u32,
    /// Its pidfd.
    pub(crate) pidfd: RawFd,
    /// Its channel.
    pub(crate) channel: RawFd,
    /// What it runs.
    pub(crate) executable: RawFd,
    /// What that is.
    pub(crate) binary: Binary,
    /// What it said is its version.
    pub(crate) version: String,
    /// Its actions.
    pub(crate) actions: Vec<String>,
    /// Its data threads.
    pub(crate) threads: u32,
    /// The version of the protocol that is spoken with it; 0 in what was written first.
    pub(crate) protocol: u16,
    /// Where it waits for another supervisor, if this one dies.
    pub(crate) succession: PathBuf,
    /// Since when it is this supervisor's, RFC 3339.
    pub(crate) started_at: String,
    /// Whether it was told to end.
    pub(crate) is_ending: bool,
}

/// What serves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedServing {
    /// The worker.
    pub(crate) worker: u64,
    /// The generation's number.
    pub(crate) generation: u64,
    /// The memory file with its files.
    pub(crate) bundle: RawFd,
    /// Its settings.
    pub(crate) settings: Settings,
    /// Its lines for the banner.
    pub(crate) summary: Vec<String>,
    /// Since when, RFC 3339.
    pub(crate) committed_at: String,
    /// Whether somebody went back to it.
    pub(crate) is_rollback: bool,
    /// The source's own name for it.
    pub(crate) version: Option<String>,
    /// What differed when it was made.
    pub(crate) changes: Vec<Change>,
    /// The operation that made it.
    pub(crate) operation_id: Option<String>,
}

/// The programs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedPrograms {
    /// What the worker that serves runs, and this process from now on: its file.
    pub(crate) executable: RawFd,
    /// What it is.
    pub(crate) binary: Binary,
    /// Where an upgrade looks that does not say where.
    pub(crate) installed: PathBuf,
}

/// The programs that run under the supervisor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedHosted {
    /// What is known of them, in a form of its own; empty if there are none.
    pub(crate) json: String,
    /// What is held open for them, in the order of that.
    pub(crate) descriptors: Vec<RawFd>,
}

/// An operation that is not answered yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedOperation {
    /// Its key.
    pub(crate) key: u64,
    /// As it is so far.
    pub(crate) operation: Operation,
    /// The operation whose end is this one's.
    #[serde(default)]
    pub(crate) joins: Option<u64>,
    /// Whether it has begun.
    #[serde(default)]
    pub(crate) is_begun: bool,
    /// Whether everybody was told so.
    #[serde(default)]
    pub(crate) is_told: bool,
    /// For how long it has run, in milliseconds.
    #[serde(default)]
    pub(crate) ms: f64,
    /// Its step.
    #[serde(default)]
    pub(crate) step: Option<StepName>,
    /// For how long it has been in that, in milliseconds.
    #[serde(default)]
    pub(crate) step_ms: f64,
    /// What its guard compares.
    #[serde(default)]
    pub(crate) guard: GuardLimits,
    /// Of a reload that waits for its turn: only certificates and their keys.
    #[serde(default)]
    pub(crate) certs_only: bool,
}

/// A connection on which somebody waits for an operation's end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedWaiter {
    /// The connection.
    pub(crate) socket: RawFd,
    /// The request's `Accept` fields.
    pub(crate) accept: Vec<String>,
    /// ID of the operation.
    pub(crate) operation: String,
    /// For how long it is waited yet, in milliseconds.
    pub(crate) left_ms: u64,
}

/// The rest of what the supervisor knows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedSupervisor {
    /// Since when it runs, RFC 3339.
    pub(crate) started_at: String,
    /// How many workers were started.
    pub(crate) workers_started: u64,
    /// The last number given to a call of its own.
    pub(crate) calls: u64,
    /// The operation that ended last.
    pub(crate) last: Option<Operation>,
    /// How the worker that was lost last ended.
    pub(crate) last_exit: Option<String>,
    /// Connections, while it drains.
    pub(crate) connections: Option<u64>,
    /// Whether the banner was printed.
    pub(crate) banner_printed: bool,
}

/// What every format has.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Minimal {
    pub(super) format: u16,
    pub(super) descriptors: Vec<RawFd>,
    pub(super) back: Back,
}

impl State {
    /// Reads what another program has written.
    ///
    /// # Errors
    /// It is of a format that this program does not read, or damaged.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, ResumeError> {
        let damaged = |error: serde_json::Error| ResumeError::Damaged(error.to_string());
        let Minimal { format, .. } = serde_json::from_slice(bytes).map_err(damaged)?;
        if !(OLDEST_FORMAT..=NEWEST_FORMAT).contains(&format) {
            return Err(ResumeError::Format { found: format });
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }

    /// Whether it says all that is needed to go on: a worker serves, and that one is there.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn check(&self) -> Result<(), ResumeError> {
        let damaged = |what: &str| Err(ResumeError::Damaged(what.to_owned()));
        match &self.serving {
            None => damaged("it does not say what is served"),
            Some(serving) if !self.workers.iter().any(|worker| worker.key == serving.worker) => {
                damaged("the worker that serves is not among its workers")
            }
            Some(_) => Ok(()),
        }
    }

    /// The bytes of it.
    ///
    /// # Errors
    /// It is longer than a reader takes.
    pub(crate) fn write(&self) -> Result<Vec<u8>, ResumeError> {
        let bytes = serde_json::to_vec(self).map_err(|error| ResumeError::Damaged(error.to_string()))?;
        if bytes.len() > MAX_BYTES {
            return Err(ResumeError::TooBig { bytes: bytes.len() });
        }
        Ok(bytes)
    }
}
