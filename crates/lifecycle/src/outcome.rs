//! How an operation ends.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::GenerationNumber;

/// The one final word about an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// What was asked for is done, and nothing was lost.
    Applied,
    /// There was nothing to do: what serves is already what was asked for. Also the outcome of a dry
    /// run that found no mistake, because a dry run changes nothing.
    Unchanged,
    /// The configuration or the request was refused; what served before serves.
    Rejected,
    /// The candidate failed (died, hung, could not be recorded); what served before serves.
    NotReady,
    /// The change was begun and taken back; what served before serves again.
    RolledBack,
    /// Done, but connections were cut: the counts are in the operation's losses.
    AppliedWithLosses,
    /// A program was told, and nothing proves that it did what it was told.
    Sent,
    /// It could not be found out what happened. The operation's message says how to find out.
    Unknown,
}

impl Outcome {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::Applied,
        Self::Unchanged,
        Self::Rejected,
        Self::NotReady,
        Self::RolledBack,
        Self::AppliedWithLosses,
        Self::Sent,
        Self::Unknown,
    ];

    /// The word used in JSON, in the journal and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Rejected => "rejected",
            Self::NotReady => "not_ready",
            Self::RolledBack => "rolled_back",
            Self::AppliedWithLosses => "applied_with_losses",
            Self::Sent => "sent",
            Self::Unknown => "unknown",
        }
    }

    /// Whether what was asked for is now so (with or without losses).
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Applied | Self::Unchanged | Self::AppliedWithLosses)
    }

    /// Whether it is certain that what was asked for is not so. `Sent` and `Unknown` are neither this nor a success.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Rejected | Self::NotReady | Self::RolledBack)
    }

    /// Whether a generation other than the one before may serve because of this operation.
    #[must_use]
    pub const fn may_have_changed(self) -> bool {
        matches!(self, Self::Applied | Self::AppliedWithLosses | Self::Unknown)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an operation ended as it did. The sentences for operators are made from this in `api`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It went as asked.
    Done,
    /// It was so already.
    AlreadySo,
    /// A dry run found no mistake.
    DryRun,
    /// A worker of an earlier supervisor was adopted; it serves what it served.
    Adopted,
    /// The worker refused the configuration: its problems are in the operation.
    Refused,
    /// The worker did not finish preparing in time.
    PrepareDeadline,
    /// The listeners were not bound in time.
    BindDeadline,
    /// The worker did not finish switching in time and was killed.
    CommitDeadline,
    /// The worker died while the operation needed it.
    WorkerDied,
    /// No worker could be started, or none in time.
    NoWorker,
    /// The worker did not answer in time.
    NoAnswer,
    /// The journal could not be written, so the change was not made.
    JournalFailed,
    /// The server is shutting down.
    ShuttingDown,
    /// A drain was called off by a resume.
    Resumed,
    /// The time for draining was over and connections were cut.
    DrainForced,
    /// The action ran and said that it failed.
    ActionFailed,
    /// The supervisor died during the operation; its successor found this out.
    SupervisorDied,
    /// Nobody confirmed the change in time.
    NotConfirmed,
    /// The guard found that the new generation does worse than its limits allow, or its worker died under guard.
    GuardFailed,
    /// Somebody cancelled the change.
    Cancelled,
    /// Another change awaits confirmation, and what is on the disk is not that one.
    Pending,
    /// The deadline for the confirmation was moved.
    Extended,
    /// The store that has the configuration could not be reached.
    Unreachable,
    /// A rule of the operator forbids the binary.
    BinaryRefused,
    /// The binary is broken, does not run, or does not speak our versions.
    BinaryUnfit,
    /// The new worker died before it had taken over, or its process could not be started.
    CandidateDied,
    /// The new worker did not say hello in time.
    CandidateSilent,
    /// The new worker did not answer the probe through its own accept path.
    ProbeFailed,
    /// The handoff was called off; the worker that served goes on.
    HandoffFailed,
    /// The new binary serves, but the supervisor could not become it and goes on as it was.
    NotReexecuted,
    /// The upgrade was to be taken back, and nothing of the binary before could be made to serve: the new one serves on.
    NotTakenBack,
    /// The first process of a program's copy could not be started.
    ProgramNotStarted,
    /// A new copy of a program ended before it was ready.
    ProgramEnded,
    /// A new copy of a program was not ready in time.
    ProgramNotReady,
    /// A new copy of a program was ready, and did not stay so.
    ProgramUnsettled,
    /// The new copies failed, and those before could not be started again: nothing of the program runs, and it is tried again.
    ProgramDown,
    /// The hook that prepares a slot failed.
    HookFailed,
    /// The program said that it did not reload.
    ReloadRefused,
    /// A signal was sent, and nothing says what became of it.
    Unproved,
    /// What was asked for does not fit the program, or what the configuration says about it.
    Unfit,
    /// What did not end in time was killed.
    StopForced,
    /// What was in flight did not end in time.
    NotQuiet,
    /// What a start has to know could not be written down.
    StateNotSaved,
    /// It did not end within the longest time that it may take.
    Overdue,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::AlreadySo => "it was so already",
            Self::DryRun => "a dry run: nothing was changed",
            Self::Adopted => "a running worker was adopted",
            Self::Refused => "the worker refused the configuration",
            Self::PrepareDeadline => "preparing took longer than its time limit",
            Self::BindDeadline => "binding the listeners took longer than its time limit",
            Self::CommitDeadline => "switching took longer than its time limit",
            Self::WorkerDied => "the worker died",
            Self::NoWorker => "no worker could be started in time",
            Self::NoAnswer => "the worker did not answer in time",
            Self::JournalFailed => "the journal could not be written",
            Self::ShuttingDown => "the server is shutting down",
            Self::Resumed => "a resume called it off",
            Self::DrainForced => "connections were cut when the time for draining was over",
            Self::ActionFailed => "the action failed",
            Self::SupervisorDied => "the supervisor died meanwhile",
            Self::NotConfirmed => "nobody confirmed the change in time",
            Self::GuardFailed => "the new generation did worse than the guard's limits allow",
            Self::Cancelled => "it was cancelled",
            Self::Pending => "another change awaits confirmation, and what is on the disk is not that one",
            Self::Extended => "the deadline for the confirmation was moved",
            Self::Unreachable => "the store that has the configuration could not be reached",
            Self::BinaryRefused => "a rule forbids this binary",
            Self::BinaryUnfit => "the binary cannot be used",
            Self::CandidateDied => "the new worker died before it had taken over",
            Self::CandidateSilent => "the new worker did not say hello in time",
            Self::ProbeFailed => "the new worker did not answer through its own listener",
            Self::HandoffFailed => "the handoff was called off",
            Self::NotReexecuted => "the supervisor could not become the new binary and goes on as it was",
            Self::NotTakenBack => "it was to be taken back, and the binary before could not be made to serve",
            Self::ProgramNotStarted => "the program could not be started",
            Self::ProgramEnded => "the new copy ended before it was ready",
            Self::ProgramNotReady => "the new copy was not ready in time",
            Self::ProgramUnsettled => "the new copy was ready and did not stay so",
            Self::ProgramDown => "the new copy failed, and the one before could not be started again",
            Self::HookFailed => "the hook failed",
            Self::ReloadRefused => "the program refused to reload",
            Self::Unproved => "nothing says what became of the signal",
            Self::Unfit => "the configuration does not allow it",
            Self::StopForced => "what did not end in time was killed",
            Self::NotQuiet => "what was in flight did not end in time",
            Self::StateNotSaved => "what the next start has to know could not be written down",
            Self::Overdue => "it took longer than it may",
        })
    }
}

/// What is written into the journal and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Verdict {
    /// The final word.
    pub outcome: Outcome,
    /// Why.
    pub cause: Cause,
    /// The generation that this operation made and that serves because of it.
    pub made: Option<GenerationNumber>,
    /// The generation that a living worker serves at the moment of this verdict. None if none does: the
    /// server is drained, or has ended, or a dead worker is being replaced.
    pub serving: Option<GenerationNumber>,
    /// The generation that the server is held to after this operation: what a replaced worker gets.
    pub held_to: Option<GenerationNumber>,
}
