//! What the machine shows of itself: for `status`, and for the simulation's checks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::says::says;
use crate::{GenerationNumber, Kind, OperationKey, StepName, WorkerKey};

says! {
    /// Where the server as a whole is.
    pub enum Phase {
        /// Nothing has begun.
        New = "new",
        /// The first worker is being started.
        Starting = "starting",
        /// It serves, or restarts a worker that died in order to serve.
        Serving = "serving",
        /// It accepts nothing and lets connections end. Listeners stay open, new connections wait.
        Draining = "draining",
        /// It accepts nothing until it is resumed.
        Drained = "drained",
        /// It is ending.
        Stopping = "stopping",
        /// It has ended.
        Stopped = "stopped",
    }
}

/// What a worker is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The one that serves, or is to serve as soon as it can.
    Serving,
    /// Prepared beside the serving one, to take its place.
    Candidate,
    /// Served before; its connections end.
    Draining,
    /// Served before, and would again at once if what serves now does not stay.
    Warm,
}

/// How far a worker's process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Started; has not said hello.
    Starting,
    /// Said hello; has no generation yet.
    Loading,
    /// Has its generation and the listeners, and accepts nothing until it takes over.
    StandingBy,
    /// Serves its generation.
    Serving,
    /// Lets its connections end.
    Draining,
    /// Has no connections and accepts none.
    Drained,
    /// Was told to end.
    Stopping,
    /// Was killed and is not reaped yet.
    Killed,
}

/// One worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Its key.
    pub worker: WorkerKey,
    /// What it is there for.
    pub role: Role,
    /// How far it is.
    pub stage: Stage,
    /// What it serves.
    pub generation: Option<GenerationNumber>,
}

/// The operation that is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationView {
    /// Its key.
    pub operation: OperationKey,
    /// What it is.
    pub kind: Kind,
    /// What it does now.
    pub step: StepName,
}

/// The change that awaits confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingView {
    /// The generation on probation.
    pub generation: GenerationNumber,
    /// The generation that serves again if nobody confirms.
    pub back_to: GenerationNumber,
    /// If it is an upgrade: the worker that took over.
    pub upgrade: Option<WorkerKey>,
    /// When that is, on the machine's clock (the `now` of [`crate::Machine::step`]). Past while it goes back.
    pub until: Duration,
}

/// A picture of the machine between two steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Where the server is.
    pub phase: Phase,
    /// The generation that a living worker serves. None while there is no such worker: connections wait
    /// in the accept queue.
    pub serving: Option<GenerationNumber>,
    /// While everything that is served moves from one worker to another: the two.
    pub handing_over: Option<(WorkerKey, WorkerKey)>,
    /// While a commit is under way: the generation that may serve already.
    pub committing: Option<GenerationNumber>,
    /// The generation that the server is held to: what a restarted worker gets.
    pub held_to: Option<GenerationNumber>,
    /// The generation that candidates are compared with, to see whether they are unchanged: the one that the server is
    /// held to, or, at a start, the one that was not confirmed.
    pub compared_with: Option<GenerationNumber>,
    /// The change that awaits confirmation.
    pub pending: Option<PendingView>,
    /// All workers.
    pub workers: Vec<WorkerView>,
    /// The active operation, or the one whose outcome is being written.
    pub operation: Option<OperationView>,
    /// The remembered reload, if a signal asked for one.
    pub deferred: Option<OperationKey>,
    /// How often a dead worker was replaced since the start.
    pub restarts: u64,
    /// When the next worker will be started, if one died.
    pub next_restart: Option<Duration>,
}
