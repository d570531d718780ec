//! What the machine has its driver do, and what it has said to workers.

use std::time::Duration;

use crate::{
    Binary, CallKey, CandidateKey, Exam, GenerationNumber, Kind, OperationKey, PendingEnd, Refusal, Source,
    StepName, Verdict, WorkerKey,
};

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
    /// Find this out, then report [`crate::Event::Examined`].
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
    /// Do what this operation, of a [`Kind`] that [`Kind::is_carried`], is about; then report [`crate::Event::Carried`].
    Carry {
        /// Which.
        operation: OperationKey,
    },
    /// It takes too long, or the server stops: bring it to an end, whichever way is shorter, and report
    /// [`crate::Event::Carried`] all the same.
    CallOffProgram {
        /// Which.
        operation: OperationKey,
    },
    /// Ask all programs to stop, kill what is left after this time, then report [`crate::Event::ProgramsStopped`]. Said
    /// again with less time if somebody is in a hurry.
    StopPrograms {
        /// How long they have.
        limit: Duration,
    },
    /// Start a process from this kept executable. Leads to `WorkerReady`, or `WorkerNotStarted`, or
    /// `WorkerExited`.
    StartWorker {
        /// The key that it gets.
        worker: WorkerKey,
        /// Of which binary.
        binary: Binary,
    },
    /// Send this to a worker. If it cannot be sent, report [`crate::Event::ChannelLost`].
    Send {
        /// To which.
        worker: WorkerKey,
        /// What.
        message: Message,
    },
    /// Bind what the worker needs and does not get from what is held, send it to the worker, then
    /// report [`crate::Event::Bound`], also when some could not be bound. A dry run only looks.
    /// Until [`Effect::LetGo`] or [`Effect::Release`], both its listeners and all others that are held stay open.
    Bind {
        /// For which worker.
        worker: WorkerKey,
        /// For which candidate.
        candidate: CandidateKey,
        /// Whether nothing may be bound.
        dry_run: bool,
    },
    /// Kill this worker with SIGKILL, and report [`crate::Event::WorkerExited`] when it is reaped.
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
    /// `IntentWritten` or `IntentFailed` with the generation that the server is held to. With `confirm`, a copy of the
    /// binary that serves is on disk before that, for the supervisor after this one.
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
    /// one of the two cannot be told, report [`crate::Event::ChannelLost`] of it.
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
    /// Execute [`Binary::Serving`] in this process, with what [`crate::Machine::save`] says, in this very turn: it is the
    /// last effect of its step, and no event comes in between. If it fails, report [`crate::Event::ReexecFailed`]; else the first event is [`crate::Event::Reexecuted`].
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
        /// If it is an upgrade: the worker that took over. Both generations are the same then.
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
        /// If it is an upgrade: the worker that took over.
        upgrade: Option<WorkerKey>,
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
