//! Programs, their copies, and what is held for them: as the status shows them, and in the operation that changed them.
//!
//! ```text
//!   ProgramStatus ── state, slot, copies: CopyStatus ── pid, role, state, age, memory, connections
//!      ├─ pending   ProgramPending   a deploy that goes back by itself unless it is confirmed
//!      └─ paused    PauseStatus      new requests are held
//!
//!   Operation.program: ProgramResult ── from which slot to which, what proved it ready, what was held, killed, left behind,
//!                                       the last lines of what failed
//! ```

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Actor;
use crate::operation::is_zero;

/// What a program is doing as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProgramState {
    /// It was not started yet: another program must be ready before.
    #[default]
    Waiting,
    /// It is started when the first connection comes.
    OnDemand,
    /// Its copies start; none serves yet.
    Starting,
    /// It runs.
    Running,
    /// New copies take over from old ones.
    Swapping,
    /// It failed, and is started again after a pause.
    BackOff,
    /// Its copies were asked to stop.
    Stopping,
    /// Somebody has stopped it.
    Stopped,
    /// It has ended, and is not to be started again.
    Ended,
}

/// What one copy is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CopyState {
    /// It was started, and is not ready yet.
    #[default]
    Starting,
    /// It is ready, and is watched for a moment, whether it stays so.
    Settling,
    /// It is ready.
    Ready,
    /// It reads its configuration anew.
    Reloading,
    /// It was asked to stop.
    Stopping,
    /// Its first process has ended, and what it left behind is being ended.
    Cleaning,
}

/// What a copy is there for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CopyRole {
    /// It serves.
    #[default]
    Serving,
    /// It is to serve once it is ready.
    Candidate,
    /// It gets nothing new, and ends what is in flight.
    Draining,
    /// It served before a deploy, gets nothing new, and would serve again at once.
    Warm,
}

/// One running copy of a program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CopyStatus {
    /// Its number among the copies of the program, from 1. While copies are replaced two may have the same.
    pub number: u32,
    /// The process ID of its first process; absent while there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The slot or directory that it was started from, where the program has such.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// What it is there for.
    pub role: CopyRole,
    /// What it is doing.
    pub state: CopyState,
    /// Whether it gets no new requests because an operator said so (`handover drain`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub off: bool,
    /// When it was started, RFC 3339 in UTC.
    pub started_at: String,
    /// What proved that it is ready: `it said READY=1`, `GET /health answered 200`, `alive for 2 s; nothing else was checked`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// The address that it has for itself: `unix:/run/handover/web-7.sock`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Memory of all its processes in bytes, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Its processes, where they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// Connections that its processes have accepted and not closed, where they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// How often the copy with this number was started again because it had ended.
    pub restarts: u64,
}

impl CopyStatus {
    /// `web/1`: the endpoint's name, as `handover drain` takes it.
    #[must_use]
    pub fn name(&self, program: &str) -> String {
        format!("{program}/{}", self.number)
    }
}

/// A deploy that goes back by itself unless it is confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProgramPending {
    /// The operation that deployed it.
    pub operation_id: String,
    /// The slot or directory on probation.
    pub slot: String,
    /// The slot or directory that serves again if nobody confirms.
    pub back_to: String,
    /// Who deployed it.
    pub actor: Actor,
    /// Why, in the words of who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// When it goes back, RFC 3339 in UTC.
    pub until: String,
    /// The time left when this was answered, in milliseconds.
    pub left_ms: u64,
}

/// Something for which new requests are held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PauseStatus {
    /// What is paused: `program web`, `route /api`.
    pub target: String,
    /// The operation that paused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<String>,
    /// Requests held when it was last asked; absent where nobody has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<u64>,
    /// Requests held at most; what comes then is answered with 503.
    pub max_held: u32,
    /// Since when, RFC 3339 in UTC.
    pub since: String,
    /// When it ends by itself, RFC 3339 in UTC.
    pub until: String,
    /// The time left when this was answered, in milliseconds.
    pub left_ms: u64,
}

/// A program, as `GET /v1/programs` answers it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ProgramStatus {
    /// Its name in the configuration.
    pub name: String,
    /// What it is doing.
    pub state: ProgramState,
    /// What there is to say about that, if anything: `exited with code 1; started again in 4 s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The slot or directory that serves, where the program has such.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// All its slots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<String>,
    /// Copies that should run.
    pub wanted: u32,
    /// Those that run: the ones that serve first.
    pub copies: Vec<CopyStatus>,
    /// The addresses of the sockets that all copies share.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<String>,
    /// A deploy that awaits confirmation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<ProgramPending>,
    /// Until when what served before the last deploy is kept running, RFC 3339 in UTC: `handover rollback` goes back to it at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_until: Option<String>,
    /// New requests for it are held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<PauseStatus>,
    /// How often one of its copies was started again because it had ended.
    pub restarts: u64,
    /// Connections of all copies, where they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// What deserves a look: `memory is not limited: there is no control group to limit it with`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What becomes of a deploy if nobody confirms it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ProgramGoesBack {
    /// The slot or directory that then serves again.
    pub to: String,
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// How long that was from the moment the operation ended, in milliseconds.
    pub within_ms: u64,
}

/// What serves of a program when an operation has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServesNow {
    /// The copies that the operation started.
    New,
    /// The copies that ran before, untouched.
    #[default]
    Old,
    /// What ran before, started again.
    OldAgain,
    /// None: it is stopped, or waits for its first connection, or is tried again after a pause.
    Nothing,
}

/// The part of an operation that is about a program, or about the traffic to something. What is not known is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ProgramResult {
    /// What serves of it now.
    pub serves: ServesNow,
    /// The slot or directory that served before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The slot or directory that was to serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// New copies that were started and are ready.
    #[serde(skip_serializing_if = "is_zero")]
    pub started: u32,
    /// Old copies that have ended because they were asked to.
    #[serde(skip_serializing_if = "is_zero")]
    pub stopped: u32,
    /// What proved that the new copies are ready; see [`CopyStatus::proof`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// Requests that were held meanwhile (of a pause: at the moment of the answer; of a resume: those that were let go).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<u64>,
    /// The longest that one of them waited, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest_wait_ms: Option<u64>,
    /// Requests and connections that were in flight and have ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight_ended: Option<u64>,
    /// Those that had not ended when their time was over.
    #[serde(skip_serializing_if = "is_zero")]
    pub in_flight_left: u64,
    /// Processes that were killed because they did not end in time.
    #[serde(skip_serializing_if = "is_zero")]
    pub killed_processes: u32,
    /// Processes that a first process left behind when it ended; they were ended too.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_processes: u32,
    /// Connections of shared sockets that the old copies themselves closed after they were asked to stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_by_program: Option<u64>,
    /// How the copy that failed ended: `exited with code 1`, `killed by SIGSEGV`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<String>,
    /// The last lines that it wrote; of a reload or a hook, those of the command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
    /// Until when what served before is kept running, RFC 3339 in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_until: Option<String>,
    /// What becomes of the deploy if nobody confirms it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goes_back: Option<ProgramGoesBack>,
    /// Nothing of it was started: the next connection starts it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub next_connection: bool,
    /// Of a pause: when it ends by itself, RFC 3339 in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<String>,
}

/// One line that a program wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LogLine {
    /// When it was read, RFC 3339 in UTC.
    pub at: String,
    /// The program's name.
    pub program: String,
    /// The copy's number; 0 for what is said about the lines themselves.
    pub copy: u32,
    /// The line without its end; what is not UTF-8 is replaced, and a very long one is cut in pieces.
    pub line: String,
    /// Lines that were left out before this one, because they came faster than they could be kept.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

impl ProgramState {
    /// The words for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::OnDemand => "on demand",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Swapping => "swapping",
            Self::BackOff => "back-off",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Ended => "ended",
        }
    }
}

impl CopyState {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Settling => "settling",
            Self::Ready => "ready",
            Self::Reloading => "reloading",
            Self::Stopping => "stopping",
            Self::Cleaning => "cleaning up",
        }
    }
}

impl CopyRole {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Candidate => "candidate",
            Self::Draining => "draining",
            Self::Warm => "warm",
        }
    }
}
