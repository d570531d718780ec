//! What supervisor and worker say to each other over their channel.
//!
//! ```text
//!   supervisor                                       worker
//!       │ ── Welcome ─────────────────────────────────▶ │   always first, to an adopted worker too
//!       │ ◀───────────────────────────────────── Hello ─│   with `serving`, if it outlived a supervisor
//!       │ ── Prepare ─────────────────────────────────▶ │   + bundle, if from one
//!       │ ◀────────────────────────────────────── Need ─│   all listeners of the new generation
//!       │ ── Bound ───────────────────────────────────▶ │   + the sockets (none in a dry run)
//!       │ ◀────────────────── Prepared | Rejected ──────│   Prepared: + bundle
//!       │ ── Commit | Abort ──────────────────────────▶ │
//!       │ ◀───────────────────────────────── Committed ─│
//! ```
//!
//! A candidate that needs no listener may skip `Need`. `Abort` may come at any time and is not answered;
//! what the worker says about an aborted candidate afterwards is ignored. `Drain`, `Resume`, `Action`, `Report`
//! and `Ping` carry a number that the answer repeats.
//!
//! **When the channel ends** without a `Stop`, the supervisor is gone. The worker then drops a candidate that
//! was not told to commit, ends no drain, goes on serving, and accepts one connection at the socket that
//! [`handover_handoff::inherit::SUCCESSION_VARIABLE`] names (a [`handover_handoff::succession::Door`]). That
//! connection is the channel to the next supervisor, which speaks first.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use handover_api::{Change, Losses, Problem};
use handover_handoff::Channel;
use serde::{Deserialize, Serialize};

/// The version of these messages. A worker that speaks another one is refused with a reason.
pub const PROTOCOL_VERSION: u16 = 1;

/// A worker's end of the channel.
pub type WorkerChannel = Channel<ToWorker, ToSupervisor>;
/// The supervisor's end of the channel.
pub type SupervisorChannel = Channel<ToSupervisor, ToWorker>;

/// From the supervisor to its worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum ToWorker {
    /// The first message.
    Welcome {
        /// [`PROTOCOL_VERSION`] of the supervisor.
        protocol: u16,
        /// The worker's key: it says it again to a later supervisor.
        worker: u64,
    },
    /// Build a candidate. Answered by `Need`, then `Prepared` or `Rejected`.
    Prepare {
        /// Its key.
        candidate: u64,
        /// The number that it will have when it is committed.
        generation: u64,
        /// Where its files come from.
        source: Source,
        /// It will be thrown away whatever comes of it.
        dry_run: bool,
    },
    /// The answer to `Need`, in its order. The sockets of those that are [`BindResult::Bound`] come with it, in
    /// the same order; in a dry run there are no sockets.
    Bound {
        /// The candidate.
        candidate: u64,
        /// One for each listener that it needs.
        results: Vec<BindResult>,
    },
    /// Serve it. Answered by `Committed` when every thread has switched.
    Commit {
        /// The candidate.
        candidate: u64,
    },
    /// Drop it.
    Abort {
        /// The candidate.
        candidate: u64,
    },
    /// Accept nothing more and let connections end. Answered by `DrainProgress` now and then, and by `Drained`.
    Drain {
        /// Repeated in the answers.
        call: u64,
        /// What is left after this long is cut.
        limit: Duration,
    },
    /// Call a drain off, or serve again after one. Answered by `Resumed`; a drain that still ran is not answered.
    Resume {
        /// Repeated in the answer.
        call: u64,
    },
    /// Run one of the actions that `Hello` named. Answered by `ActionDone`.
    Action {
        /// Repeated in the answer.
        call: u64,
        /// Its name.
        name: String,
        /// What came with it.
        body: String,
    },
    /// Say something about yourself. Answered by `Reported`.
    Report {
        /// Repeated in the answer.
        call: u64,
        /// What about.
        what: Report,
    },
    /// Are you there? Answered by `Pong` from the thread that reads the channel.
    Ping {
        /// Repeated in the answer.
        call: u64,
    },
    /// The supervisor's own metrics, Prometheus text without `# EOF`, for a metrics listener. Not answered.
    Facts {
        /// The text.
        metrics: String,
    },
    /// Open log files again by their names. Not answered.
    ReopenLogs,
    /// The server is about to end: take in what waits in the accept queues, then close every listening socket, so
    /// that who connects now is refused and not left waiting. A drain or stop follows. Not answered.
    CloseListeners,
    /// End the process. What is still open is cut and, if there is anything, counted in `Stopping` before.
    Stop {
        /// At once, without letting answers that are being written end.
        now: bool,
    },
}

/// From a worker to its supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum ToSupervisor {
    /// The answer to `Welcome`. With `serving`, the descriptors are: the bundle, then `serving.listeners` in order.
    Hello {
        /// [`PROTOCOL_VERSION`] of the worker.
        protocol: u16,
        /// The program's version, for `status`.
        version: String,
        /// Names of its actions.
        actions: Vec<String>,
        /// What it serves, if an earlier supervisor made it serve something.
        serving: Option<Box<Serving>>,
    },
    /// All listeners of the generation that is being prepared, those that did not change too.
    Need {
        /// The candidate.
        candidate: u64,
        /// Each with an address of its own.
        listeners: Vec<ListenerSpec>,
    },
    /// It can be committed; the bundle of its files comes with it.
    Prepared {
        /// The candidate.
        candidate: u64,
        /// What differs from what serves; with no difference in the files' bytes either, the candidate is
        /// aborted and the operation ends as unchanged.
        changes: Vec<Change>,
        /// What deserves a look.
        warnings: Vec<Problem>,
        /// What the supervisor must know of the configuration.
        settings: Box<Settings>,
        /// What is served, for the banner at the start: one or two lines.
        summary: Vec<String>,
    },
    /// It cannot be served. Nothing of it is kept.
    Rejected {
        /// The candidate.
        candidate: u64,
        /// Every reason.
        problems: Vec<Problem>,
    },
    /// Every thread serves it, and no answer of the one before will follow.
    Committed {
        /// The candidate.
        candidate: u64,
    },
    /// How far a drain is.
    DrainProgress {
        /// The drain.
        call: u64,
        /// Connections still open.
        connections: u64,
    },
    /// Nothing is accepted, nothing is open.
    Drained {
        /// The drain.
        call: u64,
        /// What had to be cut.
        losses: Losses,
    },
    /// It accepts again.
    Resumed {
        /// The resume.
        call: u64,
    },
    /// An action ended. If it has read files anew, the bundle of what serves from now on comes with it: a worker that
    /// replaces this one must be given that one.
    ActionDone {
        /// The action's call.
        call: u64,
        /// Whether it worked.
        ok: bool,
        /// What it says about it.
        message: String,
    },
    /// What was asked by `Report`.
    Reported {
        /// The report's call.
        call: u64,
        /// Prometheus text without `# EOF`, or JSON.
        body: String,
    },
    /// The answer to `Ping`.
    Pong {
        /// The ping's call.
        call: u64,
    },
    /// The process ends now, and this was cut.
    Stopping {
        /// By kind.
        losses: Losses,
    },
}

/// What a worker serves that has outlived its supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Serving {
    /// The key that `Welcome` gave it.
    pub worker: u64,
    /// The generation's number.
    pub generation: u64,
    /// Its listeners, as it needed them.
    pub listeners: Vec<ListenerSpec>,
    /// Its settings.
    pub settings: Settings,
    /// Its lines for the banner.
    pub summary: Vec<String>,
    /// False after a drain.
    pub accepting: bool,
}

/// Where a candidate's files come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// From the disk, as they are now.
    Disk,
    /// From the bundle that comes with the message, and from nowhere else.
    Bundle,
}

/// What a worker can be asked about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// Its metrics.
    Metrics,
    /// Its open connections.
    Connections,
    /// How many connections it has open: a number, or nothing if it does not know.
    ConnectionCount,
}

/// An address to listen on, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ListenerSpec {
    /// The listener's name in the configuration; one listener may have several addresses.
    pub name: String,
    /// The address.
    pub address: Address,
    /// Connections that the kernel keeps until they are accepted (listen(2)).
    pub backlog: u32,
}

/// An address to listen on. Two of them are the same listener if they are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// TCP over IPv4 or IPv6 (never both: `IPV6_V6ONLY` is set). Port 0: the kernel chooses one, once.
    Tcp(SocketAddr),
    /// A Unix socket (unix(7)) at a path.
    Unix {
        /// The path, absolute.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A Unix socket with an abstract name, which is given without the NUL byte in front.
    Abstract(String),
}

impl Address {
    /// Whether both mean the same place, whatever its mode.
    #[must_use]
    pub fn is_same_place(&self, other: &Address) -> bool {
        match (self, other) {
            (Address::Unix { path: a, .. }, Address::Unix { path: b, .. }) => a == b,
            _ => self == other,
        }
    }
}

/// `127.0.0.1:8080`, `unix:/run/app.sock`, `unix:@app`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix { path, .. } => write!(f, "unix:{}", path.display()),
            Address::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

/// What came of one listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindResult {
    /// It is held; in a dry run: nothing speaks against it.
    Bound,
    /// It cannot be had.
    Failed {
        /// The system's error number (errno(3)), 0 if none fits.
        errno: i32,
        /// One sentence that names the address and, where it can be found, who has it.
        detail: String,
    },
}

/// What the supervisor must know of a generation's configuration. It takes effect when the generation serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Permission bits of the control socket; 0600 if not given.
    pub control_mode: Option<u32>,
    /// The group that owns the control socket; that of the process if not given.
    pub control_group: Option<u32>,
    /// Who may do what over the control socket, beside root and the user that runs the server.
    pub roles: Roles,
    /// How many operations the journal keeps.
    pub history: Option<usize>,
    /// How long connections may take to end, in a drain or stop that names no limit.
    pub drain_limit: Option<Duration>,
    /// How the supervisor logs; as before if not given.
    pub log: Option<LogSettings>,
}

/// How a process logs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSettings {
    /// One JSON object a line instead of text for people.
    pub json: bool,
    /// Where to.
    pub to: LogTarget,
    /// The least severe lines that are written: `error`, `warn`, `info`, `debug` or `trace`; `info` if not given.
    pub level: Option<String>,
}

/// Where log lines go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogTarget {
    /// The standard error stream.
    #[default]
    Stderr,
    /// The standard output stream.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// Who may do what. A higher role includes those below it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Roles {
    /// Everything, stopping too.
    pub admin: Grant,
    /// Reload, drain, resume, actions, and everything below.
    pub operate: Grant,
    /// Looking only.
    pub read: Grant,
}

/// Users and groups that have a role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grant {
    /// User IDs.
    pub users: Vec<u32>,
    /// Group IDs.
    pub groups: Vec<u32>,
}
