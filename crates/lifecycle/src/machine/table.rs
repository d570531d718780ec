//! What the machine remembers: workers, what is being loaded into them, operations and their ends.

use std::time::Duration;

use crate::{
    CallKey, CandidateKey, Cause, Exam, GenerationNumber, Kind, OperationKey, Outcome, Request, Role, Source,
    Stage, Terms, Verdict, WorkerKey,
};

/// One worker process. There are few, so they live in a list.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) key: WorkerKey,
    pub(super) role: Role,
    pub(super) stage: Stage,
    /// When the stage has lasted too long. `Loading` has its deadlines in the load, `Serving` and `Drained`
    /// have none.
    pub(super) by: Option<Duration>,
    /// The drain that it is in, and when that is over for the worker itself.
    pub(super) drain: Option<Drain>,
    /// What it has committed.
    pub(super) generation: Option<GenerationNumber>,
    /// What it is preparing or committing.
    pub(super) load: Option<Load>,
    /// The candidate for which it stands by: what is bound for that is kept apart until the worker takes over.
    pub(super) stands_for: Option<CandidateKey>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    pub(super) call: CallKey,
    /// As asked: only the same request joins.
    pub(super) asked: Option<Duration>,
    /// When the worker cuts what is left.
    pub(super) over: Duration,
}

/// A generation on its way into a worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) candidate: CandidateKey,
    pub(super) generation: GenerationNumber,
    pub(super) source: Source,
    pub(super) dry_run: bool,
    /// Whether it makes the server serve something else: the journal must know of that before it is committed. Not so
    /// for what is only brought back: after a crash, or because a change does not stay.
    pub(super) changes: bool,
    /// The operation that wants it; none for a restart, which nobody asked for.
    pub(super) owner: Option<OperationKey>,
    pub(super) step: LoadStep,
    /// When the whole of preparing must be over.
    pub(super) prepare_by: Duration,
    /// When this step must be over.
    pub(super) by: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoadStep {
    Preparing,
    Binding,
    /// The programs of the candidate get ready.
    Examining,
    Journaling,
    Committing,
}

/// The one operation that is active.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    pub(super) key: OperationKey,
    pub(super) kind: Kind,
    /// What was asked for; nobody asks for a start or for the server's own going back.
    pub(super) request: Option<Request>,
    pub(super) step: Step,
    /// When this step must be over, if nothing else bounds it.
    pub(super) by: Option<Duration>,
    /// What served before its change: where the server goes back to if that does not stay.
    pub(super) back_to: Option<GenerationNumber>,
    /// Why a start serves something else than it was told.
    pub(super) instead: Option<Cause>,
    /// Why connections were cut in a stop, or while workers took over from each other, if they were.
    pub(super) losses: Option<Cause>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// A worker must be there first; then this is loaded into it.
    AwaitWorker(Source),
    /// The serving worker has a load that is ours.
    Loading,
    /// The worker was lost between our commit and its answer.
    Settling(Settling),
    /// The new generation serves and is watched.
    Guarding(Guarding),
    /// The generation before is on its way back.
    GoingBack(GoingBack),
    /// The confirmation, or another deadline for it, is being written.
    Noting(Note),
    /// The embedder's action runs.
    Acting(CallKey),
    /// The serving worker drains.
    Draining,
    /// The serving worker was told to resume.
    Resuming(CallKey),
    /// All workers are being ended.
    Stopping,
    /// The new binary is looked at, or is asked something.
    Examining(Exam),
    /// A worker of the new binary starts, and gets what serves.
    Raising,
    /// The journal is told which worker is to take over.
    Intending,
    /// The candidate takes over from the worker that serves: what comes of it is in the handoff.
    HandingOver,
    /// The candidate was killed; when it is gone, the operation ends like this.
    Discarding(End),
    /// The new worker serves and stays; the one before lets its last connections end.
    Retiring(Retiring),
    /// The supervisor becomes the new binary as soon as nothing else is under way. True when it was told to.
    Reexecuting(bool),
    /// The binary before is on its way back.
    TakingBack(TakingBack),
    /// It is about programs, which the driver knows. True when it was told to come to an end.
    Carrying { called_off: bool },
}

/// What becomes of the worker that served before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retiring {
    /// It stays, warm, when its last connection has ended: the upgrade comes on probation then.
    ToWarm,
    /// It is ended; then the supervisor becomes the new binary, if it is not.
    ToNothing { reexec: bool },
    /// It is gone. The server is at rest when the one that took over is.
    Gone { reexec: bool },
}

/// How the binary before is brought back.
#[derive(Clone, Copy, Debug)]
pub(super) struct TakingBack {
    pub(super) why: Cause,
    pub(super) way: Way,
    /// Another worker of it had to be started.
    pub(super) raised: bool,
    /// The driver still has the new binary as the one that serves.
    pub(super) switched: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The warm worker's last connections are to end before it takes over; when that takes too long they are cut.
    Waiting,
    /// Another worker of the binary before starts beside the one that serves, and is probed.
    Raising,
    Probing,
    /// The one takes over from the other: what comes of it is in the handoff.
    Moving,
    /// Nobody serves: the warm worker is told to, when whoever might accept is certainly dead. The call when it was.
    Resuming(Option<CallKey>),
    /// The worker before serves; the one that had taken over lets its last connections end, and is ended.
    Retiring,
    /// That one is gone: over when the worker before is at rest.
    Gone,
}

/// Everything that is served, on its way from one worker to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handoff {
    pub(super) call: CallKey,
    /// The operation that wants it.
    pub(super) owner: OperationKey,
    pub(super) from: WorkerKey,
    pub(super) to: WorkerKey,
    /// `from` has said that it has handed over.
    pub(super) handed: bool,
    /// `from` has said that its last connections have ended, and whether none had to be cut.
    pub(super) drained: Option<bool>,
    /// What the first of the two died of that was lost.
    pub(super) cause: Option<Cause>,
    /// When one of the two counts as hung.
    pub(super) by: Duration,
}

/// How a handoff ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The one has taken over; false if something was lost.
    Took(bool),
    /// The other serves as before.
    Stayed,
    /// The other has handed over, and the one that was to take over is dead.
    Given,
    /// Neither lives.
    Lost,
}

/// Finding out after a crash which generation can be served: first the new one, then the old one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settling {
    /// The candidate whose commit was not answered: its listeners are still held.
    pub(super) first: Option<CandidateKey>,
    /// The generation that was being committed. None when it has failed a second time, or is not to stay: then the old
    /// one is loaded.
    pub(super) new: Option<GenerationNumber>,
    /// What happened to the first worker, or why the new one is not to stay.
    pub(super) cause: Cause,
}

/// A new generation under guard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guarding {
    pub(super) call: CallKey,
    /// Where the server goes back to if it fails.
    pub(super) back_to: GenerationNumber,
    /// How the operation ends if it passes.
    pub(super) passed: End,
}

/// How an operation is to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) cause: Cause,
    pub(super) made: Option<GenerationNumber>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct GoingBack {
    pub(super) to: GenerationNumber,
    pub(super) why: Cause,
}

/// What the journal is writing about the change on probation.
#[derive(Clone, Copy, Debug)]
pub(super) enum Note {
    /// It is confirmed.
    Confirm,
    /// It has another deadline.
    Extend(Duration),
}

/// A change that awaits confirmation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probation {
    pub(super) generation: GenerationNumber,
    pub(super) back_to: GenerationNumber,
    /// If it is an upgrade: the worker that took over.
    pub(super) upgrade: Option<WorkerKey>,
    /// When its time is over.
    pub(super) by: Duration,
    /// How many workers in a row had died before it served: what they died of is not its fault.
    pub(super) failures: u32,
    /// The worker that took over in an upgrade is gone: the binary before is brought back.
    pub(super) died: bool,
    /// Whether the supervisor is to become the new binary when it is confirmed. Not so if that made the upgrade
    /// whose successor this one is.
    pub(super) reexec: bool,
    /// Why connections of the warm worker were cut, if they were.
    pub(super) losses: Option<Cause>,
}

/// An operation that is over but for its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) key: OperationKey,
    pub(super) kind: Kind,
    pub(super) step: EndStep,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum EndStep {
    /// A stop came first, but the worker will still say how this went.
    Awaiting { worker: WorkerKey, what: Awaited, by: Option<Duration> },
    /// The outcome is being written.
    Recording { verdict: Verdict, by: Duration, attempt: u32 },
    /// It could not be written and will be tried again.
    Pausing { verdict: Verdict, until: Duration, attempt: u32 },
    /// A stop came first; the journal will still say whether this is written.
    Noting { note: Note, by: Duration },
    /// A stop came first; it was called off and will still say how it ended.
    Carrying { by: Duration },
    /// It ends together with another operation: that one's change is taken back, which is what this one asks for.
    With(OperationKey),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    Commit(CandidateKey),
    /// The commit of the generation before, and why the server goes back to it.
    Back(CandidateKey, Cause),
    Action(CallKey),
    Drain(CallKey),
    /// A handoff, and if it takes an upgrade back, why.
    Handoff(CallKey, Option<Cause>),
}

impl Operation {
    pub(super) fn new(key: OperationKey, kind: Kind, request: Option<Request>, step: Step) -> Self {
        Self { key, kind, request, step, by: None, back_to: None, instead: None, losses: None }
    }

    pub(super) fn terms(&self) -> Terms {
        match self.request {
            Some(
                Request::Reload { terms, .. }
                | Request::Rollback { terms, .. }
                | Request::Restore { terms, .. }
                | Request::Upgrade { terms, .. },
            ) => terms,
            _ => Terms::NONE,
        }
    }

    pub(super) fn certs_only(&self) -> bool {
        matches!(self.request, Some(Request::Reload { certs_only: true, .. }))
    }

    /// Whether it is an upgrade, or the dry run of one.
    pub(super) fn is_upgrade(&self) -> bool {
        matches!(self.request, Some(Request::Upgrade { .. }))
    }

    /// Whether a reload that waits for its end may wait for minutes.
    pub(super) fn may_take_long(&self) -> bool {
        self.is_upgrade()
            || self.kind.is_carried()
            || matches!(self.step, Step::Retiring(_) | Step::TakingBack(_))
    }

    /// Whether it is to make the server serve something else.
    pub(super) fn is_change(&self) -> bool {
        matches!(self.kind, Kind::Reload | Kind::Rollback | Kind::Restore)
    }
}

impl Worker {
    /// One whose process is being started.
    pub(super) fn new(key: WorkerKey, role: Role, by: Duration) -> Self {
        let (drain, generation, load, stands_for) = (None, None, None, None);
        Self { key, role, stage: Stage::Starting, by: Some(by), drain, generation, load, stands_for }
    }

    /// Whether it can be talked to and is meant to live.
    pub(super) fn is_usable(&self) -> bool {
        matches!(self.stage, Stage::Loading | Stage::Serving | Stage::Draining | Stage::Drained)
    }

    /// Whether it has a generation and can run an action or a dry run now.
    pub(super) fn is_at_rest(&self) -> bool {
        matches!(self.stage, Stage::Serving | Stage::Drained) && self.load.is_none()
    }

    /// Whether it has served before, and could serve again.
    pub(super) fn can_come_back(&self) -> bool {
        matches!(self.role, Role::Draining | Role::Warm)
            && matches!(self.stage, Stage::Draining | Stage::StandingBy)
    }

    /// Whether it may take new connections: it serves, or was told to and has not said yet that it does.
    pub(super) fn may_accept(&self) -> bool {
        let committing = self.load.is_some_and(|load| load.step == LoadStep::Committing);
        let is_told = self.stage == Stage::Loading && committing && self.role == Role::Serving;
        self.stage == Stage::Serving || is_told
    }

    /// Whether ending it now cuts connections, as far as anybody knows.
    pub(super) fn may_have_connections(&self) -> bool {
        match self.stage {
            Stage::Draining => true,
            // It has not said that it is drained.
            Stage::Stopping => self.drain.is_some(),
            _ => self.may_accept(),
        }
    }
}
