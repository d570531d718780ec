//! The contract between the machine and its driver: what the driver reports, what it must do.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Asked, CallKey, CandidateKey, GenerationNumber, Kind, OperationKey, Refusal, Verdict, WorkerKey,
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
        /// Whether it equals, byte for byte, the generation that candidates are compared with:
        /// [`crate::View::compared_with`].
        unchanged: bool,
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
    /// What [`Effect::Examine`] asked for is known.
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
        /// Which worker: the [`Effect::HandOver`]'s `to`.
        worker: WorkerKey,
        /// Which handoff.
        call: CallKey,
        /// Whether it got everything that the one before had; not so if that one died on the way.
        clean: bool,
    },
    /// The worker has handed over: it accepts nothing more, has let go of what moved, and lets the rest end within the
    /// limit, which [`Event::Drained`] with the same call reports.
    HandedOver {
        /// Which worker: the [`Effect::HandOver`]'s `from`.
        worker: WorkerKey,
        /// Which handoff.
        call: CallKey,
    },
    /// The worker has not handed over and serves as before. The one that was to take over is dead: it has made sure of
    /// that before it went on.
    HandoffFailed {
        /// Which worker: the [`Effect::HandOver`]'s `from`.
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
    /// What [`Effect::WriteIntent`], [`Effect::WriteUpgrade`], [`Effect::Pending`] or [`Effect::WriteConfirm`] asked for is
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

/// Something that the driver must do, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The machine begins an operation that nobody asked for: the server goes back to the confirmed generation. The
    /// key is the machine's own (see [`OperationKey::OWN`]); make an entry for it, as asked for by the supervisor.
    /// [`Effect::Started`] follows.
    Own {
        /// Its key.
        operation: OperationKey,
        /// What it is.
        kind: Kind,
    },
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
    /// Find this out, then report [`Event::Examined`].
    Examine {
        /// Whose.
        operation: OperationKey,
        /// What.
        exam: Exam,
    },
    /// Nobody waits for this exam any more: end what it has started.
    CallOff {
        /// Whose.
        operation: OperationKey,
        /// What.
        exam: Exam,
    },
    /// Start a process from this kept executable. Leads to `WorkerReady`, or `WorkerNotStarted`, or
    /// `WorkerExited`.
    StartWorker {
        /// The key that it gets.
        worker: WorkerKey,
        /// Of which binary.
        binary: Binary,
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
    /// Until [`Effect::LetGo`] or [`Effect::Release`], both its listeners and all others that are held stay open.
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
    /// `IntentWritten` or `IntentFailed`. Its bundle is kept at hand from now on, for a restart; so is that of
    /// `back_to`, until [`Effect::LetGo`].
    WriteIntent {
        /// Whose.
        operation: OperationKey,
        /// Which candidate.
        candidate: CandidateKey,
        /// The number that it gets; in a rollback the number that it has.
        generation: GenerationNumber,
        /// The generation that the server goes back to if this one does not stay.
        back_to: Option<GenerationNumber>,
        /// The time in which it must be confirmed. Written down as a time of the wall clock, counted from now:
        /// should the supervisor die before [`Effect::Pending`], that is the deadline.
        confirm: Option<Duration>,
    },
    /// Write down that this worker, of another binary, is to take over (the outcome is what is synced), then report
    /// `IntentWritten` or `IntentFailed` with the generation that the server is held to.
    WriteUpgrade {
        /// Whose.
        operation: OperationKey,
        /// The worker that is to take over: who adopts it knows that the upgrade was made.
        worker: WorkerKey,
        /// As in [`Effect::WriteIntent`].
        confirm: Option<Duration>,
    },
    /// Make a socket pair and give each of the two one end and the other's pidfd: everything that `from` serves moves to
    /// `to`. Leads to `TookOver` and `HandedOver`, in either order, then to `Drained` of `from`; or to `HandoffFailed`. If
    /// one of the two cannot be told, report [`Event::ChannelLost`] of it.
    HandOver {
        /// Whose.
        operation: OperationKey,
        /// Repeated in the answers.
        call: CallKey,
        /// The worker that serves.
        from: WorkerKey,
        /// The worker that stands by.
        to: WorkerKey,
        /// How long `from` may take until it has handed over; after that it calls the handoff off by itself.
        within: Duration,
        /// How long connections that cannot move may take to end on `from`, once it has handed over.
        limit: Duration,
    },
    /// This worker serves now, in place of another: reports ask it, and its executable is [`Binary::Serving`]. The one
    /// that was is [`Binary::Previous`] from now on, unless this worker was started from it: then what served is.
    Switch {
        /// The worker.
        worker: WorkerKey,
        /// Whose; none if the operation has ended before.
        operation: Option<OperationKey>,
    },
    /// This binary is not needed any more. Of the previous one a copy is kept on disk if this ends an upgrade.
    Forget {
        /// Which; never the one that serves.
        binary: Binary,
    },
    /// Execute [`Binary::Serving`] in this process, with what [`crate::Machine::save`] says, in this very turn: nothing
    /// comes in between. If it fails, report [`Event::ReexecFailed`]; else the first event is [`Event::Reexecuted`].
    Reexec {
        /// Whose.
        operation: OperationKey,
    },
    /// From now on this change awaits confirmation (or does so for longer than before). Write it down, with the wall
    /// clock's time at which it is over, then report `IntentWritten` or `IntentFailed`; and show it.
    Pending {
        /// The operation that made the change, or moved its deadline.
        operation: OperationKey,
        /// The generation that serves on probation.
        generation: GenerationNumber,
        /// The generation that serves again if nobody confirms.
        back_to: GenerationNumber,
        /// If it is an upgrade: the worker that took over. The binary before must be kept on disk from now on, for the
        /// supervisor after this one; both generations are the same.
        upgrade: Option<WorkerKey>,
        /// The time left, from now.
        left: Duration,
    },
    /// Write down that this generation is confirmed, then report `IntentWritten` or `IntentFailed`.
    WriteConfirm {
        /// The operation that confirms it.
        operation: OperationKey,
        /// Which.
        generation: GenerationNumber,
    },
    /// Nothing awaits confirmation any more: show it no longer. Write it down, unless it was confirmed (that is written
    /// already); nothing waits for that.
    PendingOver {
        /// The generation that was on probation.
        generation: GenerationNumber,
        /// If it was an upgrade: the worker that took over.
        upgrade: Option<WorkerKey>,
        /// What became of it.
        how: PendingEnd,
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
    /// This generation serves, and workers that restart get its bundle. The candidate's listeners are the
    /// listeners now. Those that only the generation before has refuse connections, but their ports and that
    /// generation's bundle stay held until [`Effect::LetGo`]: the server may go back to it.
    Serve {
        /// By which worker.
        worker: WorkerKey,
        /// As which candidate.
        candidate: CandidateKey,
        /// Under which number.
        generation: GenerationNumber,
    },
    /// What serves is final, no longer guarded or on probation: close all listeners that are held and that it does not
    /// have, and forget the bundles of other generations.
    LetGo,
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
        /// Only certificates and their keys are read anew; everything else is as it serves.
        certs_only: bool,
    },
    /// Serve the candidate: cannot fail.
    Commit {
        /// Which.
        candidate: CandidateKey,
        /// Whether the worker accepts connections from now on. If not, it stands by: it holds the listeners and accepts
        /// nothing until it takes over.
        accept: bool,
    },
    /// Throw the candidate away.
    Abort {
        /// Which.
        candidate: CandidateKey,
    },
    /// Compare how the new generation does with how the one before did, then answer: early if it fails.
    Guard {
        /// Repeated in the answer.
        call: CallKey,
        /// The operation whose terms say what is watched and what is too much.
        operation: OperationKey,
        /// How long.
        watch: Duration,
    },
    /// The guard is over: somebody has decided.
    EndGuard {
        /// Which.
        call: CallKey,
        /// Whether the new generation stays.
        passed: bool,
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
    /// The bundle of this generation, as it was read then. It is at hand, or in the journal; if it can no longer be read,
    /// report `Rejected` in the worker's place.
    Generation(GenerationNumber),
    /// The bundle that came with the request, of a restore: the driver has it.
    Given,
}

/// What is to be found out about a new binary, or by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exam {
    /// Whether it may be run at all: the file, its owner and mode, its digest, its signature. It is kept open from then on,
    /// as [`Binary::Candidate`].
    Admission,
    /// Whether it runs, and says that it speaks our channel and can read what we save.
    Preflight,
    /// Whether every thread of this worker, which stands by, answers through its own accept path.
    Probe {
        /// Which.
        worker: WorkerKey,
    },
    /// Whether the binary that is to be executed ([`Binary::Candidate`] in a dry run, else [`Binary::Serving`]) can go on
    /// with what [`crate::Machine::save`] says now.
    Rehearsal,
}

/// What came out of an exam.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finding {
    /// It is well.
    Passed,
    /// A rule of the operator forbids it.
    Refused,
    /// It is broken, or did not answer.
    Failed,
}

/// Which of the kept executables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// That of the worker that serves.
    Serving,
    /// The one that is examined.
    Candidate,
    /// The one that served before, until it is forgotten.
    Previous,
}

/// A change that awaits confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The generation on probation.
    pub generation: GenerationNumber,
    /// The generation that serves again if nobody confirms.
    pub back_to: GenerationNumber,
    /// If it is an upgrade: the worker that took over. Then both generations are the same.
    pub upgrade: Option<WorkerKey>,
    /// The time left. Zero if it is over.
    pub left: Duration,
}

/// What became of a change that awaited confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PendingEnd {
    /// It stays.
    Confirmed,
    /// It was taken back by an operator.
    Cancelled,
    /// It was taken back because nobody confirmed it in time. A start does not serve it from the disk.
    NotConfirmed,
    /// It was taken back because its workers died one after the other.
    WorkersDied,
    /// A start found something else on the disk.
    Replaced,
}

/// The steps that an operator sees in an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepName {
    /// The new binary's file is looked at.
    Admission,
    /// The new binary is run and asked what it can do.
    Preflight,
    /// The new worker answers through its own accept path.
    Probe,
    /// Everything that is served moves to another worker.
    HandOver,
    /// The supervisor becomes the new binary.
    Supervisor,
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
    /// The new generation is watched.
    Guard,
    /// The generation before is brought back.
    GoBack,
    /// The confirmation, or the new deadline, is written into the journal.
    Confirm,
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
