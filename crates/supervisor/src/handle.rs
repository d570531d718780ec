//! The line to the driver, for those who ask: the control server, signals, and the supervisor itself.
//!
//! A [`DriverHandle`] can be cloned and sent anywhere. Everything that is asked goes through one queue to
//! the driver, which alone knows and changes the state.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use handover_api::{
    Actor, Diff, Event, Generation, LogLine, Operation, Problem, ProgramStatus, Refused, Status,
};
use handover_handoff::Bundle;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::control::Crossing;
pub use crate::programs::{Asked as ProgramAsked, GUARD_TIME, What as ProgramWhat};
use crate::protocol::Settings;

/// How many requests may wait for the driver; further ones wait with whoever asks.
pub(crate) const QUEUE: usize = 64;
/// How many events a slow subscriber may fall behind before it loses the oldest.
pub const EVENTS_KEPT: usize = 256;
/// How long whoever asks about the present state waits for the driver.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long a difference is waited for: it includes a worker's prepare.
const DIFF_LIMIT: Duration = Duration::from_secs(40);

/// Under which terms a change is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// It is taken back after this long unless somebody confirms it.
    pub confirm_within: Option<Duration>,
    /// Whether it is watched at first, and taken back if it fares badly.
    pub guard: Guarding,
}

/// Which binary an upgrade is to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum WhichBinary {
    /// What lies now where the running program was started from.
    #[default]
    Default,
    /// This file; absolute.
    Path(PathBuf),
    /// The kept copy of the binary that served before.
    Previous,
}

/// Whether a change is guarded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Guarding {
    /// If the configuration that serves until then says so: a new one cannot take off its own guard.
    #[default]
    Configured,
    /// Yes; for this long, or for the configured or usual time if `None`.
    Asked {
        /// How long.
        watch: Option<Duration>,
    },
    /// No, whatever the configuration says.
    No,
}

/// What an archive gives back: checked against its digests already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The generation's files.
    pub bundle: Bundle,
    /// The carried state (keys of session tickets), if the archive has it.
    pub carried: Option<Carried>,
    /// What it is, for the operation's `source`: `the backup of generation 7, made …`.
    pub source: String,
    /// What deserves a look, for the operation's warnings: keys that were not in the archive.
    pub notes: Vec<Problem>,
}

/// Carried state, at most [`crate::protocol::MAX_CARRIED_BYTES`]. It may be secret: it is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Carried(pub Arc<[u8]>);

impl std::fmt::Debug for Carried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Carried({} bytes)", self.0.len())
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Serve what is on disk.
    Reload {
        /// Take only certificates and their keys from the disk, and the rest from what serves.
        certs_only: bool,
        /// Under which terms.
        terms: Terms,
    },
    /// Check what is on disk, and say what would change.
    Validate,
    /// Serve the bytes of a generation that served before.
    Rollback {
        /// Its number; the last one that served before the one that serves now if `None`. While an upgrade awaits
        /// confirmation, `None` takes that back.
        to: Option<u64>,
        /// Under which terms.
        terms: Terms,
    },
    /// Serve what an archive holds.
    Restore {
        /// What it holds.
        restored: Arc<Restored>,
        /// Check only, and say what would change.
        dry_run: bool,
        /// Under which terms.
        terms: Terms,
    },
    /// Run another binary.
    Upgrade {
        /// Which.
        binary: WhichBinary,
        /// The SHA-256 digest that it must have: 64 lower-case hexadecimal digits.
        sha256: Option<String>,
        /// Check and rehearse only: what serves is not touched.
        dry_run: bool,
        /// Under which terms.
        terms: Terms,
    },
    /// Keep the change that awaits confirmation, or is guarded.
    Confirm,
    /// Take the change back that awaits confirmation, or is guarded.
    Cancel,
    /// Run one of the server's own actions.
    Action {
        /// Its name.
        name: String,
        /// What came with it.
        body: String,
    },
    /// Let connections end.
    Drain {
        /// How long they may take; the configured limit if `None`.
        limit: Option<Duration>,
    },
    /// Serve again after a drain.
    Resume,
    /// Something about a program, or about the traffic to something.
    Program(ProgramAsked),
    /// Drain and exit.
    Stop {
        /// Without draining.
        now: bool,
        /// How long the drain may take; the configured limit if `None`.
        limit: Option<Duration>,
    },
}

impl Ask {
    /// A reload of everything, under the usual terms.
    #[must_use]
    pub fn reload() -> Self {
        Ask::Reload { certs_only: false, terms: Terms::default() }
    }

    /// An upgrade to what lies where the running program was started from, under the usual terms.
    #[must_use]
    pub fn upgrade() -> Self {
        let (binary, terms) = (WhichBinary::Default, Terms::default());
        Ask::Upgrade { binary, sha256: None, dry_run: false, terms }
    }
}

/// A request that is to become an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOperation {
    /// What.
    pub ask: Ask,
    /// Who asks.
    pub actor: Actor,
    /// Why, in the asker's words.
    pub comment: Option<String>,
    /// The ID that it shall have (`Idempotency-Key`). If there is one with this ID already, that one is answered.
    pub id: Option<String>,
    /// Only if this generation serves (`If-Match`).
    pub if_match: Option<u64>,
}

impl NewOperation {
    /// A request without comment, ID or condition.
    #[must_use]
    pub fn new(ask: Ask, actor: Actor) -> Self {
        NewOperation { ask, actor, comment: None, id: None, if_match: None }
    }
}

/// An operation that was admitted. Dropping the ticket does not call it off.
#[derive(Debug)]
pub struct Ticket {
    /// The operation as it was when it was admitted (or found by its ID).
    pub operation: Operation,
    pub(crate) done: oneshot::Receiver<Operation>,
}

impl Ticket {
    /// Waits until it has ended. Bounded: every operation ends in bounded time.
    ///
    /// # Errors
    /// [`Refused::Unavailable`] if the supervisor ends before the operation does.
    pub async fn done(self) -> Result<Operation, Refused> {
        self.done.await.map_err(|_gone| gone())
    }
}

/// The serving configuration's top-level file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServingConfig {
    /// The generation it belongs to, which is its entity tag too.
    pub generation: u64,
    /// Its path, or the name of what is built in.
    pub path: String,
    /// Its bytes, as they were read.
    pub bytes: Arc<[u8]>,
}

/// What a backup is made of: all of one moment.
#[derive(Debug, Clone)]
pub struct BackupParts {
    /// Name of the server.
    pub name: String,
    /// The supervisor's version.
    pub version: String,
    /// What serves.
    pub generation: Generation,
    /// Its files.
    pub bundle: Bundle,
    /// The carried state, if the worker has handed any over.
    pub carried: Option<Carried>,
    /// The journal's tail, the newest first: at most [`BACKUP_HISTORY`] operations.
    pub history: Vec<Operation>,
}

/// What a program has written, and what it writes from now on.
#[derive(Debug)]
pub struct ProgramLogs {
    /// The last lines, oldest first.
    pub lines: Vec<LogLine>,
    /// Lines of all programs that come after those; a receiver that is too slow is told how many it missed.
    pub follow: broadcast::Receiver<LogLine>,
}

/// How many operations go into a backup.
pub const BACKUP_HISTORY: usize = 100;

/// The line to the driver.
#[derive(Debug, Clone)]
pub struct DriverHandle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) settings: watch::Receiver<Settings>,
    pub(crate) closing: watch::Receiver<bool>,
    pub(crate) crossing: Crossing,
}

/// What goes through the queue to the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Request(Box<NewOperation>, oneshot::Sender<Result<Ticket, Refused>>),
    Refuse(Box<NewOperation>, Refused, oneshot::Sender<Operation>),
    Status(oneshot::Sender<Box<Status>>),
    Operation(String, oneshot::Sender<Option<Box<Operation>>>),
    History(usize, oneshot::Sender<Vec<Operation>>),
    Generations(oneshot::Sender<Vec<Generation>>),
    Config(oneshot::Sender<Option<ServingConfig>>),
    Diff(Option<u64>, Actor, oneshot::Sender<Result<Diff, Refused>>),
    Backup(oneshot::Sender<Option<Box<BackupParts>>>),
    Certificates(oneshot::Sender<Option<String>>),
    Metrics(oneshot::Sender<String>),
    Connections(oneshot::Sender<Option<String>>),
    Programs(oneshot::Sender<Vec<ProgramStatus>>),
    Logs(String, usize, oneshot::Sender<Result<ProgramLogs, Refused>>),
    ReopenLogs,
}

fn gone() -> Refused {
    Refused::Unavailable("it is ending".to_owned())
}

impl DriverHandle {
    /// Asks for an operation. Answers as soon as it is admitted or refused; a refused one is in the journal then.
    ///
    /// # Errors
    /// Why it is not admitted; nothing was changed.
    pub async fn request(&self, new: NewOperation) -> Result<Ticket, Refused> {
        self.ask(|answer| Command::Request(Box::new(new), answer)).await?
    }

    /// Writes down a request that was refused before it got here (the peer's role does not allow it), and
    /// returns it as it stands in the history.
    ///
    /// # Errors
    /// [`Refused::Unavailable`].
    pub async fn refuse(&self, new: NewOperation, why: Refused) -> Result<Operation, Refused> {
        self.ask(|answer| Command::Refuse(Box::new(new), why, answer)).await
    }

    /// What runs now.
    ///
    /// # Errors
    /// [`Refused::Unavailable`].
    pub async fn status(&self) -> Result<Status, Refused> {
        self.ask(Command::Status).await.map(|status| *status)
    }

    /// An operation by its ID, running or ended.
    ///
    /// # Errors
    /// [`Refused::Unavailable`].
    pub async fn operation(&self, id: &str) -> Result<Option<Operation>, Refused> {
        let found = self.ask(|answer| Command::Operation(id.to_owned(), answer)).await?;
        Ok(found.map(|operation| *operation))
    }

    /// The last operations, refused ones too, the newest first; one that runs comes before all others.
    ///
    /// # Errors
    /// [`Refused::Unavailable`].
    pub async fn history(&self, count: usize) -> Result<Vec<Operation>, Refused> {
        self.ask(|answer| Command::History(count, answer)).await
    }

    /// The generations that are remembered, the newest first.
    ///
    /// # Errors
    /// [`Refused::Unavailable`].
    pub async fn generations(&self) -> Result<Vec<Generation>, Refused> {
        self.ask(Command::Generations).await
    }

    /// The top-level file of what serves; `None` if nothing does, or it has none.
    ///
    /// # Errors
    /// [`Refused::Unavailable`].
    pub async fn config(&self) -> Result<Option<ServingConfig>, Refused> {
        self.ask(Command::Config).await
    }

    /// How the files on disk differ from what serves; with `against`, how that generation does: what a rollback to it
    /// would change. `actor` asks; nothing of it stands in the history.
    ///
    /// # Errors
    /// [`Refused::Unavailable`]; or there is no such generation, or its bytes are not kept any more.
    pub async fn diff(&self, against: Option<u64>, actor: Actor) -> Result<Diff, Refused> {
        self.ask_for(DIFF_LIMIT, |answer| Command::Diff(against, actor, answer)).await?
    }

    /// All that a backup of what serves needs; `None` if nothing serves.
    ///
    /// # Errors
    /// [`Refused::Unavailable`].
    pub async fn backup(&self) -> Result<Option<BackupParts>, Refused> {
        Ok(self.ask(Command::Backup).await?.map(|parts| *parts))
    }

    /// The certificates that the worker serves and presents, a JSON array; `None` without an answer.
    ///
    /// # Errors
    /// [`Refused::Unavailable`].
    pub async fn certificates(&self) -> Result<Option<String>, Refused> {
        self.ask(Command::Certificates).await
    }

    /// The metrics of supervisor and worker, Prometheus text with its `# EOF`. Without an answer of the
    /// worker, the supervisor's alone.
    ///
    /// # Errors
    /// [`Refused::Unavailable`].
    pub async fn metrics(&self) -> Result<String, Refused> {
        self.ask(Command::Metrics).await
    }

    /// The worker's open connections, a JSON array; `None` without an answer.
    ///
    /// # Errors
    /// [`Refused::Unavailable`].
    pub async fn connections(&self) -> Result<Option<String>, Refused> {
        self.ask(Command::Connections).await
    }

    /// The programs, with memory and connections as they are now.
    ///
    /// # Errors
    /// [`Refused::Unavailable`].
    pub async fn programs(&self) -> Result<Vec<ProgramStatus>, Refused> {
        self.ask(Command::Programs).await
    }

    /// The last `lines` lines that a program has written, and those that it writes from now on.
    ///
    /// # Errors
    /// [`Refused::Unavailable`]; [`Refused::NoSuchProgram`].
    pub async fn logs(&self, name: &str, lines: usize) -> Result<ProgramLogs, Refused> {
        self.ask(|answer| Command::Logs(name.to_owned(), lines, answer)).await?
    }

    /// Opens log files again, in supervisor and worker.
    pub async fn reopen_logs(&self) {
        let _ = self.commands.send(Command::ReopenLogs).await;
    }

    /// What happens from now on. A receiver that falls behind by more than [`EVENTS_KEPT`] is told how many it missed.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// The settings of what serves (roles among them), and their changes.
    #[must_use]
    pub fn settings(&self) -> watch::Receiver<Settings> {
        self.settings.clone()
    }

    /// Turns true when the supervisor is about to end: every operation was answered by then; write the answers
    /// and close.
    #[must_use]
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.clone()
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Refused> {
        self.ask_for(ANSWER_LIMIT, command).await
    }

    async fn ask_for<T>(
        &self,
        limit: Duration,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Refused> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.commands.send(command(answer)).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())
        };
        match tokio::time::timeout(limit, asked).await {
            Ok(result) => result,
            Err(_) => Err(Refused::Unavailable(format!("no answer within {} s", limit.as_secs()))),
        }
    }
}
