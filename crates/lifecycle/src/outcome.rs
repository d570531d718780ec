//! How an operation ends.

use serde::{Deserialize, Serialize};

use crate::GenerationNumber;
use crate::says::says;

says! {
    /// The one final word about an operation.
    pub enum Outcome {
        /// What was asked for is done, and nothing was lost.
        Applied = "applied",
        /// There was nothing to do: what serves is already what was asked for. Also the outcome of a dry
        /// run that found no mistake, because a dry run changes nothing.
        Unchanged = "unchanged",
        /// The configuration or the request was refused; what served before serves.
        Rejected = "rejected",
        /// The candidate failed (died, hung, could not be recorded); what served before serves.
        NotReady = "not_ready",
        /// The change was begun and taken back; what served before serves again.
        RolledBack = "rolled_back",
        /// Done, but connections were cut: the counts are in the operation's losses.
        AppliedWithLosses = "applied_with_losses",
        /// A program was told, and nothing proves that it did what it was told.
        Sent = "sent",
        /// It could not be found out what happened. The operation's message says how to find out.
        Unknown = "unknown",
    }
}

impl Outcome {
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

says! {
    /// Why an operation ended as it did. The sentences for operators are made from this in `api`.
    pub enum Cause {
        /// It went as asked.
        Done = "done",
        /// It was so already.
        AlreadySo = "it was so already",
        /// A dry run found no mistake.
        DryRun = "a dry run: nothing was changed",
        /// A worker of an earlier supervisor was adopted; it serves what it served.
        Adopted = "a running worker was adopted",
        /// The worker refused the configuration: its problems are in the operation.
        Refused = "the worker refused the configuration",
        /// The worker did not finish preparing in time.
        PrepareDeadline = "preparing took longer than its time limit",
        /// The listeners were not bound in time.
        BindDeadline = "binding the listeners took longer than its time limit",
        /// The worker did not finish switching in time and was killed.
        CommitDeadline = "switching took longer than its time limit",
        /// The worker died while the operation needed it.
        WorkerDied = "the worker died",
        /// No worker could be started, or none in time.
        NoWorker = "no worker could be started in time",
        /// The worker did not answer in time.
        NoAnswer = "the worker did not answer in time",
        /// The journal could not be written, so the change was not made.
        JournalFailed = "the journal could not be written",
        /// The server is shutting down.
        ShuttingDown = "the server is shutting down",
        /// A drain was called off by a resume.
        Resumed = "a resume called it off",
        /// The time for draining was over and connections were cut.
        DrainForced = "connections were cut when the time for draining was over",
        /// The action ran and said that it failed.
        ActionFailed = "the action failed",
        /// The supervisor died during the operation; its successor found this out.
        SupervisorDied = "the supervisor died meanwhile",
        /// Nobody confirmed the change in time.
        NotConfirmed = "nobody confirmed the change in time",
        /// The guard found that the new generation does worse than its limits allow, or its worker died under guard.
        GuardFailed = "the new generation did worse than the guard's limits allow",
        /// Somebody cancelled the change.
        Cancelled = "it was cancelled",
        /// Another change awaits confirmation, and what is on the disk is not that one.
        Pending = "another change awaits confirmation, and what is on the disk is not that one",
        /// The deadline for the confirmation was moved.
        Extended = "the deadline for the confirmation was moved",
        /// The store that has the configuration could not be reached.
        Unreachable = "the store that has the configuration could not be reached",
        /// A rule of the operator forbids the binary.
        BinaryRefused = "a rule forbids this binary",
        /// The binary is broken, does not run, or does not speak our versions.
        BinaryUnfit = "the binary cannot be used",
        /// The new worker died before it had taken over, or its process could not be started.
        CandidateDied = "the new worker died before it had taken over",
        /// The new worker did not say hello in time.
        CandidateSilent = "the new worker did not say hello in time",
        /// The new worker did not answer the probe through its own accept path.
        ProbeFailed = "the new worker did not answer through its own listener",
        /// The handoff was called off; the worker that served goes on.
        HandoffFailed = "the handoff was called off",
        /// The new binary serves, but the supervisor could not become it and goes on as it was.
        NotReexecuted = "the supervisor could not become the new binary and goes on as it was",
        /// The upgrade was to be taken back, and nothing of the binary before could be made to serve: the new one serves on.
        NotTakenBack = "it was to be taken back, and the binary before could not be made to serve",
        /// The first process of a program's copy could not be started.
        ProgramNotStarted = "the program could not be started",
        /// A new copy of a program ended before it was ready.
        ProgramEnded = "the new copy ended before it was ready",
        /// A new copy of a program was not ready in time.
        ProgramNotReady = "the new copy was not ready in time",
        /// A new copy of a program was ready, and did not stay so.
        ProgramUnsettled = "the new copy was ready and did not stay so",
        /// The new copies failed, and those before could not be started again: nothing of the program runs, and it is tried again.
        ProgramDown = "the new copy failed, and the one before could not be started again",
        /// The hook that prepares a slot failed.
        HookFailed = "the hook failed",
        /// The program said that it did not reload.
        ReloadRefused = "the program refused to reload",
        /// A signal was sent, and nothing says what became of it.
        Unproved = "nothing says what became of the signal",
        /// What was asked for does not fit the program, or what the configuration says about it.
        Unfit = "the configuration does not allow it",
        /// What did not end in time was killed.
        StopForced = "what did not end in time was killed",
        /// What was in flight did not end in time.
        NotQuiet = "what was in flight did not end in time",
        /// What a start has to know could not be written down.
        StateNotSaved = "what the next start has to know could not be written down",
        /// It did not end within the longest time that it may take.
        Overdue = "it took longer than it may",
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
