//! A picture of the machine of a program, for `status`.

use std::time::Duration;

use super::{CopyKey, EditionKey};
use crate::{OperationKey, StepName};

/// What the machine shows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// What it is doing as a whole.
    pub state: State,
    /// What serves, or would.
    pub edition: Option<EditionKey>,
    /// What was applied and could not be swapped to; a restart tries it again.
    pub wanted: Option<EditionKey>,
    /// What a rollback goes to.
    pub before: Option<EditionKey>,
    /// Until when all of that is warm, if it is.
    pub warm_until: Option<Duration>,
    /// What awaits confirmation.
    pub pending: Option<PendingView>,
    /// Until when the machine itself holds requests, if it does.
    pub paused_until: Option<Duration>,
    /// The active operation, or the exam.
    pub operation: Option<OperationKey>,
    /// Its step, or that of a swap of its own.
    pub step: Option<StepName>,
    /// All copies of which something is left.
    pub copies: Vec<CopyView>,
    /// How often a copy was started again because it had ended.
    pub restarts: u64,
    /// When the next one will be, if one waits for that.
    pub next_start: Option<Duration>,
}

/// What a program is doing as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has not begun.
    New,
    /// It is started when a connection comes.
    OnDemand,
    /// Its copies start; none serves yet.
    Starting,
    /// It runs.
    Running,
    /// New copies take over from old ones.
    Swapping,
    /// Nothing of it serves; it is started again after a pause.
    BackOff,
    /// Its copies were asked to stop.
    Stopping,
    /// Somebody has stopped it.
    Stopped,
    /// It has ended, and is not to be started again.
    Ended,
}

/// A deploy that awaits confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingView {
    /// The operation that deployed it; none if it was found at the start.
    pub operation: Option<OperationKey>,
    /// The edition on probation.
    pub edition: EditionKey,
    /// What it goes back to.
    pub back_to: EditionKey,
    /// When.
    pub until: Duration,
}

/// One copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyView {
    /// Its key.
    pub copy: CopyKey,
    /// Of what.
    pub edition: EditionKey,
    /// Its number.
    pub number: u32,
    /// What it is there for.
    pub role: Role,
    /// What it is doing.
    pub stage: Stage,
    /// Whether new requests are sent to it (or, on shared sockets, whether it is ready and serves).
    pub on: bool,
    /// How often the copy with this number was started again.
    pub restarts: u64,
}

/// What a copy is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It serves, or is to.
    Serving,
    /// It is to take over once it is ready.
    Candidate,
    /// It gets nothing new, and would serve again at once.
    Warm,
    /// It is on its way out.
    Leaving,
}

/// What a copy is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Its first process is being started.
    Starting,
    /// It proves that it is ready.
    Checking,
    /// It is ready, and is watched whether it stays so.
    Settling,
    /// It is ready.
    Ready,
    /// It gets nothing new; what is in flight ends.
    Draining,
    /// It was asked to stop, or its first process has ended and what it left behind was.
    Stopping,
    /// It was killed.
    Killed,
    /// It was killed, and something of it is still there after the limit.
    Stuck,
}
