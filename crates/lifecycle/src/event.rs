//! The contract between the machine and its driver: what the driver reports, what it must do.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Asked, CallKey, CandidateKey, GenerationNumber, OperationKey, Refusal, Verdict, WorkerKey};

/// Something that happened. Events about a worker, candidate or call that the machine no longer
/// knows are ignored: late, repeated and stray ones do no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Begin: start a worker with the configuration on disk. The first event, or [`Event::Adopted`] is.
    Start {
        /// The operation under which the start is recorded.
        operation: OperationKey,
    },
    /// Begin with a worker that an earlier supervisor left behind, and that serves. It has dropped any
    /// candidate that it was not told to commit, and finished the commit that it was told. An orphan that does not
    /// answer, or serves nothing yet, is killed and reaped before [`Event::Start`] instead.
    Adopted {
        /// The operation under which the adoption is recorded.
        operation: OperationKey,
        /// The key that this worker was given when it was started.
        worker: WorkerKey,
        /// The generation that it says it serves. The driver holds its bundle and its listeners.
        generation: GenerationNumber,
        /// Whether it accepts connections; if not (it was drained), it is told to resume.
        accepting: bool,
    },
    /// Somebody asks for something. Answered in the same step by exactly one of
    /// [`Effect::Started`], [`Effect::Joined`], [`Effect::Deferred`], [`Effect::Refuse`].
    Request {
        /// The key for this request.
        operation: OperationKey,
        /// What is asked, and by what kind of caller.
        asked: Asked,
    },
    /// Time has passed: sent when [`crate::Machine::deadline`] is reached. Harmless at any other time.
    Tick,
    /// A started worker said hello and speaks our protocol version.
    WorkerReady {
        /// Which.
        worker: WorkerKey,
    },
    /// A worker's process could not be started: there is nothing to reap.
    WorkerNotStarted {
        /// Which.
        worker: WorkerKey,
    },
    /// A worker's process has ended and was reaped. Report first what can still be read from its channel: what it
    /// had said is true.
    WorkerExited {
        /// Which.
        worker: WorkerKey,
    },
    /// A worker's channel ended, or it broke the protocol: it may live but cannot be talked to.
    ChannelLost {
        /// Which.
        worker: WorkerKey,
    },
    /// A worker names the listeners that its candidate needs.
    Need {
        /// Which worker.
        worker: WorkerKey,
        /// Which candidate.
        candidate: CandidateKey,
    },
    /// The driver has bound (or, in a dry run, looked at) these listeners and told the worker.
    Bound {
        /// Which worker.
        worker: WorkerKey,
        /// Which candidate.
        candidate: CandidateKey,
    },
    /// A candidate is ready to be committed.
    Prepared {
        /// Which worker.
        worker: WorkerKey,
        /// Which candidate.
        candidate: CandidateKey,
        /// Whether it equals the generation that the server is held to, byte for byte.
        unchanged: bool,
    },
    /// The worker refused the configuration; it keeps nothing of the candidate.
    Rejected {
        /// Which worker.
        worker: WorkerKey,
        /// Which candidate.
        candidate: CandidateKey,
    },
    /// Every thread of the worker serves the candidate.
    Committed {
        /// Which worker.
        worker: WorkerKey,
        /// Which candidate.
        candidate: CandidateKey,
    },
    /// The worker accepts nothing and has no connection left.
    Drained {
        /// Which worker.
        worker: WorkerKey,
        /// Which drain.
        call: CallKey,
        /// Whether no connection had to be cut.
        clean: bool,
    },
    /// The worker accepts again.
    Resumed {
        /// Which worker.
        worker: WorkerKey,
        /// Which resume.
        call: CallKey,
    },
    /// An embedder's action has ended.
    ActionDone {
        /// Which worker.
        worker: WorkerKey,
        /// Which action.
        call: CallKey,
        /// Whether it says that it succeeded.
        ok: bool,
    },
    /// The intent and the generation's bytes are written. Not synced: a crash of the process loses nothing of them, a
    /// crash of the system may lose both together with the commit that they came before.
    IntentWritten {
        /// Whose.
        operation: OperationKey,
        /// For which generation.
        generation: GenerationNumber,
    },
    /// They are not.
    IntentFailed {
        /// Whose.
        operation: OperationKey,
        /// For which generation.
        generation: GenerationNumber,
    },
    /// The outcome, and everything before it, is in the journal and synced.
    OutcomeWritten {
        /// Whose.
        operation: OperationKey,
    },
    /// It is not.
    OutcomeFailed {
        /// Whose.
        operation: OperationKey,
    },
}

/// Something that the driver must do, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The request was admitted and begins now. Note in the journal that it began.
    Started {
        /// Which.
        operation: OperationKey,
    },
    /// The request asks for what another one is about to do: answer it with that one's answer.
    Joined {
        /// The request.
        request: OperationKey,
        /// The operation that it joined.
        operation: OperationKey,
    },
    /// A signal that asks for a reload is remembered; [`Effect::Started`] follows when its turn comes, or
    /// [`Effect::Refuse`] if the server stops first. Note it in the journal like a start.
    Deferred {
        /// The request.
        request: OperationKey,
    },
    /// The request is refused. Record it in the journal (as rejected) and answer it at once.
    Refuse {
        /// The request.
        request: OperationKey,
        /// Why.
        refusal: Refusal,
    },
    /// The operation has come to this step: for its list of steps and their times.
    Progress {
        /// Which.
        operation: OperationKey,
        /// What it does now.
        step: StepName,
    },
    /// Start a process from the kept executable. Leads to `WorkerReady`, or `WorkerNotStarted`, or
    /// `WorkerExited`.
    StartWorker {
        /// The key that it gets.
        worker: WorkerKey,
    },
    /// Send this to a worker. If it cannot be sent, report [`Event::ChannelLost`].
    Send {
        /// To which.
        worker: WorkerKey,
        /// What.
        message: Message,
    },
    /// Bind what the worker needs and does not get from what is held, send it to the worker, then
    /// report [`Event::Bound`], also when some could not be bound. A dry run only looks.
    /// Until [`Effect::Serve`] or [`Effect::Release`] names the candidate, both its listeners and the serving ones stay open.
    Bind {
        /// For which worker.
        worker: WorkerKey,
        /// For which candidate.
        candidate: CandidateKey,
        /// Whether nothing may be bound.
        dry_run: bool,
    },
    /// Kill this worker with SIGKILL, and report [`Event::WorkerExited`] when it is reaped.
    KillWorker {
        /// Which.
        worker: WorkerKey,
    },
    /// Write the candidate's bytes and the intent to serve it (the outcome is what is synced), then report
    /// `IntentWritten` or `IntentFailed`. Its bundle is kept at hand from now on, for a restart.
    WriteIntent {
        /// Whose.
        operation: OperationKey,
        /// Which candidate.
        candidate: CandidateKey,
        /// The number that it gets.
        generation: GenerationNumber,
    },
    /// Write and sync this outcome, then report `OutcomeWritten` or `OutcomeFailed`.
    WriteOutcome {
        /// Whose.
        operation: OperationKey,
        /// How it ended.
        verdict: Verdict,
    },
    /// Answer the operation, and all requests that joined it.
    Answer {
        /// Which.
        operation: OperationKey,
        /// How it ended.
        verdict: Verdict,
        /// Whether the outcome is in the journal. If not, the journal cannot be written: say so.
        recorded: bool,
    },
    /// This generation serves, and workers that restart get its bundle. The candidate's listeners are
    /// the listeners now: close all others that are held.
    Serve {
        /// By which worker.
        worker: WorkerKey,
        /// As which candidate.
        candidate: CandidateKey,
        /// Under which number.
        generation: GenerationNumber,
    },
    /// Close what was bound for this candidate alone, now or when its binding ends; forget its bundle.
    Release {
        /// Which.
        candidate: CandidateKey,
    },
    /// The server stops: close every listener, so that new connections are refused and not left waiting.
    CloseListeners,
    /// Tell the process manager.
    Notify(Notice),
    /// End the supervisor's process. Nothing follows.
    Exit(Exit),
}

/// What is said to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Build a candidate.
    Prepare {
        /// Its key.
        candidate: CandidateKey,
        /// The number it will have if it is committed.
        generation: GenerationNumber,
        /// Where its bytes come from.
        source: Source,
        /// Whether it will be thrown away whatever happens.
        dry_run: bool,
    },
    /// Serve the candidate: cannot fail.
    Commit {
        /// Which.
        candidate: CandidateKey,
    },
    /// Throw the candidate away.
    Abort {
        /// Which.
        candidate: CandidateKey,
    },
    /// Stop accepting and let connections end; cut those left after `limit`, then answer.
    Drain {
        /// Repeated in the answer.
        call: CallKey,
        /// How long connections may take.
        limit: Duration,
    },
    /// Accept again, then answer.
    Resume {
        /// Repeated in the answer.
        call: CallKey,
    },
    /// Run the action that the operation names, then answer.
    Action {
        /// Repeated in the answer.
        call: CallKey,
        /// The operation that has the action's name and body.
        operation: OperationKey,
    },
    /// End the process.
    Stop {
        /// Cut what is left at once.
        now: bool,
    },
}

/// Where a candidate's bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The files as they are now.
    Disk,
    /// The bundle of this generation, as it was read then.
    Generation(GenerationNumber),
}

/// The steps that an operator sees in an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepName {
    /// Waiting for a worker to be started.
    StartWorker,
    /// The worker reads, checks and builds.
    Prepare,
    /// The supervisor binds listeners.
    Bind,
    /// The intent is written into the journal.
    Journal,
    /// The worker's threads switch.
    Commit,
    /// The worker died while switching: another one finds out which generation can be served.
    Settle,
    /// The embedder's action runs.
    Action,
    /// Connections end.
    Drain,
    /// The worker begins to accept again.
    Resume,
    /// The worker's process ends.
    StopWorker,
    /// The outcome is written into the journal.
    Record,
}

/// What a process manager is told (`sd_notify(3)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// `READY=1`: after the start, and after every reload however it ended.
    Ready,
    /// `RELOADING=1` with `MONOTONIC_USEC`.
    Reloading,
    /// `STOPPING=1`.
    Stopping,
}

/// Why the supervisor ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was asked to.
    Stopped,
    /// Nothing could be served: the start's verdict says why.
    StartFailed(Verdict),
}
