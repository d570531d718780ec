//! What the driver reports to the machine. What the machine answers with is an [`crate::Effect`].

use std::time::Duration;

use crate::{
    Asked, CallKey, CandidateKey, Cause, Exam, Finding, GenerationNumber, OperationKey, Outcome, Pending,
    Source, WorkerKey,
};

/// Something that happened. Events about a worker, candidate or call that the machine no longer
/// knows are ignored: late, repeated and stray ones do no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Begin: start a worker. The first event, or [`Event::Adopted`] is.
    Start {
        /// The operation under which the start is recorded.
        operation: OperationKey,
        /// What it is to serve: the disk, or a generation whose bytes the journal has.
        source: Source,
        /// The change that was not confirmed when the supervisor before this one ended, with the time that was left
        /// of it by now (zero if it is over): if the disk still has its very bytes, it is served for that time only,
        /// or not at all.
        pending: Option<Pending>,
    },
    /// Begin where [`crate::Machine::save`] left off: this process is the same, its binary another one. The first event of
    /// a machine made by [`crate::Machine::resume`].
    Reexecuted,
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
        /// The change that was not confirmed when the supervisor before this one ended. Looked at only if this worker
        /// serves it (of an upgrade: is the very worker that took over): then the time goes on, and if it is over, the server goes back at once.
        pending: Option<Pending>,
    },
    /// Somebody asks for something. Answered in the same step by exactly one of
    /// [`crate::Effect::Started`], [`crate::Effect::Joined`], [`crate::Effect::Deferred`], [`crate::Effect::Refuse`].
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
        /// Whether it equals, byte for byte, the generation that candidates are compared with:
        /// [`crate::View::compared_with`].
        unchanged: bool,
        /// If it has programs that differ from those that run and can be proved before it is committed: how long that may
        /// take. Nothing else is proved of programs here.
        programs: Option<Duration>,
    },
    /// The worker refused the configuration; it keeps nothing of the candidate.
    Rejected {
        /// Which worker.
        worker: WorkerKey,
        /// Which candidate.
        candidate: CandidateKey,
        /// Whether nothing is wrong with the configuration: the store that has it could not be reached.
        unreachable: bool,
    },
    /// Every thread of the worker serves the candidate.
    Committed {
        /// Which worker.
        worker: WorkerKey,
        /// Which candidate.
        candidate: CandidateKey,
    },
    /// The worker has judged the new generation, or says that it does not watch it (any more).
    GuardEnded {
        /// Which worker.
        worker: WorkerKey,
        /// Which guard.
        call: CallKey,
        /// Whether the new generation does as well as the one before.
        passed: bool,
    },
    /// What [`crate::Effect::Examine`] asked for is known.
    Examined {
        /// Whose.
        operation: OperationKey,
        /// Which.
        exam: Exam,
        /// What came out.
        finding: Finding,
    },
    /// The worker has taken over and accepts: it was told to commit by the one before, or that one is dead. It says so
    /// only when it is certain that the one before accepts nothing any more.
    TookOver {
        /// Which worker: the [`crate::Effect::HandOver`]'s `to`.
        worker: WorkerKey,
        /// Which handoff.
        call: CallKey,
        /// Whether it got everything that the one before had; not so if that one died on the way.
        clean: bool,
    },
    /// The worker has handed over: it accepts nothing more, has let go of what moved, and lets the rest end within the
    /// limit, which [`Event::Drained`] with the same call reports.
    HandedOver {
        /// Which worker: the [`crate::Effect::HandOver`]'s `from`.
        worker: WorkerKey,
        /// Which handoff.
        call: CallKey,
    },
    /// The worker has not handed over and serves as before. The one that was to take over is dead: it has made sure of
    /// that before it went on.
    HandoffFailed {
        /// Which worker: the [`crate::Effect::HandOver`]'s `from`.
        worker: WorkerKey,
        /// Which handoff.
        call: CallKey,
    },
    /// The supervisor could not become the new binary, and goes on as it is.
    ReexecFailed {
        /// Whose.
        operation: OperationKey,
    },
    /// The worker accepts nothing and has no connection left.
    Drained {
        /// Which worker.
        worker: WorkerKey,
        /// Which drain, or which handoff.
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
    /// What [`crate::Effect::Carry`] began has ended, or was called off.
    Carried {
        /// Which.
        operation: OperationKey,
        /// How.
        outcome: Outcome,
        /// Why.
        cause: Cause,
    },
    /// What [`crate::Effect::StopPrograms`] asked for is done: no program runs any more.
    ProgramsStopped {
        /// Whether all of them ended by themselves when they were asked to.
        clean: bool,
    },
    /// What [`crate::Effect::WriteIntent`], [`crate::Effect::WriteUpgrade`], [`crate::Effect::Pending`] or [`crate::Effect::WriteConfirm`] asked for is
    /// written. Not synced:
    /// a crash of the process loses nothing of it, a crash of the system may lose it together with what follows.
    IntentWritten {
        /// Whose.
        operation: OperationKey,
        /// For which generation.
        generation: GenerationNumber,
    },
    /// It is not.
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
