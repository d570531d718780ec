//! The lifecycle's own words, and how the API's description (OpenAPI) shows them.
//!
//! The lifecycle crate knows nothing of OpenAPI. The enums here say the same words to the generator; a test
//! holds them against the originals.

pub use handover_lifecycle::{Cause, Kind, Outcome, Phase, StepName};
use utoipa::ToSchema;

/// What was asked for.
#[derive(ToSchema, serde::Serialize)]
#[schema(as = Kind)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) enum KindSchema {
    Start,
    Reload,
    DryRun,
    Rollback,
    Restore,
    Upgrade,
    Confirm,
    Cancel,
    Action,
    Drain,
    Resume,
    Stop,
    ProgramStart,
    ProgramStop,
    ProgramRestart,
    ProgramReload,
    ProgramDeploy,
    ProgramRollback,
    ProgramConfirm,
    ProgramCancel,
    Pause,
    ResumeTraffic,
    DrainEndpoint,
    EnableEndpoint,
}

/// How an operation ended: exactly one of these, in the journal before anybody is told.
#[derive(ToSchema, serde::Serialize)]
#[schema(as = Outcome)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) enum OutcomeSchema {
    Applied,
    Unchanged,
    Rejected,
    NotReady,
    RolledBack,
    AppliedWithLosses,
    Sent,
    Unknown,
}

/// Why it ended so.
#[derive(ToSchema, serde::Serialize)]
#[schema(as = Cause)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) enum CauseSchema {
    Done,
    AlreadySo,
    DryRun,
    Adopted,
    Refused,
    PrepareDeadline,
    BindDeadline,
    CommitDeadline,
    WorkerDied,
    NoWorker,
    NoAnswer,
    JournalFailed,
    ShuttingDown,
    Resumed,
    DrainForced,
    ActionFailed,
    SupervisorDied,
    NotConfirmed,
    GuardFailed,
    Cancelled,
    Pending,
    Extended,
    Unreachable,
    BinaryRefused,
    BinaryUnfit,
    CandidateDied,
    CandidateSilent,
    ProbeFailed,
    HandoffFailed,
    NotReexecuted,
    NotTakenBack,
    ProgramNotStarted,
    ProgramEnded,
    ProgramNotReady,
    ProgramUnsettled,
    ProgramDown,
    HookFailed,
    ReloadRefused,
    Unproved,
    Unfit,
    StopForced,
    NotQuiet,
    StateNotSaved,
    Overdue,
}

/// What the server as a whole is doing.
#[derive(ToSchema, serde::Serialize)]
#[schema(as = Phase)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) enum PhaseSchema {
    New,
    Starting,
    Serving,
    Draining,
    Drained,
    Stopping,
    Stopped,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The twin of every variant, so that a new one does not compile until it is described.
    fn kind(kind: Kind) -> KindSchema {
        match kind {
            Kind::Start => KindSchema::Start,
            Kind::Reload => KindSchema::Reload,
            Kind::DryRun => KindSchema::DryRun,
            Kind::Rollback => KindSchema::Rollback,
            Kind::Restore => KindSchema::Restore,
            Kind::Upgrade => KindSchema::Upgrade,
            Kind::Confirm => KindSchema::Confirm,
            Kind::Cancel => KindSchema::Cancel,
            Kind::Action => KindSchema::Action,
            Kind::Drain => KindSchema::Drain,
            Kind::Resume => KindSchema::Resume,
            Kind::Stop => KindSchema::Stop,
            Kind::ProgramStart => KindSchema::ProgramStart,
            Kind::ProgramStop => KindSchema::ProgramStop,
            Kind::ProgramRestart => KindSchema::ProgramRestart,
            Kind::ProgramReload => KindSchema::ProgramReload,
            Kind::ProgramDeploy => KindSchema::ProgramDeploy,
            Kind::ProgramRollback => KindSchema::ProgramRollback,
            Kind::ProgramConfirm => KindSchema::ProgramConfirm,
            Kind::ProgramCancel => KindSchema::ProgramCancel,
            Kind::Pause => KindSchema::Pause,
            Kind::ResumeTraffic => KindSchema::ResumeTraffic,
            Kind::DrainEndpoint => KindSchema::DrainEndpoint,
            Kind::EnableEndpoint => KindSchema::EnableEndpoint,
        }
    }

    fn outcome(outcome: Outcome) -> OutcomeSchema {
        match outcome {
            Outcome::Applied => OutcomeSchema::Applied,
            Outcome::Unchanged => OutcomeSchema::Unchanged,
            Outcome::Rejected => OutcomeSchema::Rejected,
            Outcome::NotReady => OutcomeSchema::NotReady,
            Outcome::RolledBack => OutcomeSchema::RolledBack,
            Outcome::AppliedWithLosses => OutcomeSchema::AppliedWithLosses,
            Outcome::Sent => OutcomeSchema::Sent,
            Outcome::Unknown => OutcomeSchema::Unknown,
        }
    }

    fn cause(cause: Cause) -> CauseSchema {
        match cause {
            Cause::Done => CauseSchema::Done,
            Cause::AlreadySo => CauseSchema::AlreadySo,
            Cause::DryRun => CauseSchema::DryRun,
            Cause::Adopted => CauseSchema::Adopted,
            Cause::Refused => CauseSchema::Refused,
            Cause::PrepareDeadline => CauseSchema::PrepareDeadline,
            Cause::BindDeadline => CauseSchema::BindDeadline,
            Cause::CommitDeadline => CauseSchema::CommitDeadline,
            Cause::WorkerDied => CauseSchema::WorkerDied,
            Cause::NoWorker => CauseSchema::NoWorker,
            Cause::NoAnswer => CauseSchema::NoAnswer,
            Cause::JournalFailed => CauseSchema::JournalFailed,
            Cause::ShuttingDown => CauseSchema::ShuttingDown,
            Cause::Resumed => CauseSchema::Resumed,
            Cause::DrainForced => CauseSchema::DrainForced,
            Cause::ActionFailed => CauseSchema::ActionFailed,
            Cause::SupervisorDied => CauseSchema::SupervisorDied,
            Cause::NotConfirmed => CauseSchema::NotConfirmed,
            Cause::GuardFailed => CauseSchema::GuardFailed,
            Cause::Cancelled => CauseSchema::Cancelled,
            Cause::Pending => CauseSchema::Pending,
            Cause::Extended => CauseSchema::Extended,
            Cause::Unreachable => CauseSchema::Unreachable,
            Cause::BinaryRefused => CauseSchema::BinaryRefused,
            Cause::BinaryUnfit => CauseSchema::BinaryUnfit,
            Cause::CandidateDied => CauseSchema::CandidateDied,
            Cause::CandidateSilent => CauseSchema::CandidateSilent,
            Cause::ProbeFailed => CauseSchema::ProbeFailed,
            Cause::HandoffFailed => CauseSchema::HandoffFailed,
            Cause::NotReexecuted => CauseSchema::NotReexecuted,
            Cause::NotTakenBack => CauseSchema::NotTakenBack,
            Cause::ProgramNotStarted => CauseSchema::ProgramNotStarted,
            Cause::ProgramEnded => CauseSchema::ProgramEnded,
            Cause::ProgramNotReady => CauseSchema::ProgramNotReady,
            Cause::ProgramUnsettled => CauseSchema::ProgramUnsettled,
            Cause::ProgramDown => CauseSchema::ProgramDown,
            Cause::HookFailed => CauseSchema::HookFailed,
            Cause::ReloadRefused => CauseSchema::ReloadRefused,
            Cause::Unproved => CauseSchema::Unproved,
            Cause::Unfit => CauseSchema::Unfit,
            Cause::StopForced => CauseSchema::StopForced,
            Cause::NotQuiet => CauseSchema::NotQuiet,
            Cause::StateNotSaved => CauseSchema::StateNotSaved,
            Cause::Overdue => CauseSchema::Overdue,
        }
    }

    fn phase(phase: Phase) -> PhaseSchema {
        match phase {
            Phase::New => PhaseSchema::New,
            Phase::Starting => PhaseSchema::Starting,
            Phase::Serving => PhaseSchema::Serving,
            Phase::Draining => PhaseSchema::Draining,
            Phase::Drained => PhaseSchema::Drained,
            Phase::Stopping => PhaseSchema::Stopping,
            Phase::Stopped => PhaseSchema::Stopped,
        }
    }

    #[test]
    fn the_description_uses_the_words_that_are_sent() {
        let word = |value: &dyn erased::Word| value.word();
        for o in Outcome::ALL {
            assert_eq!(word(&o), word(&outcome(o)));
        }
        assert_eq!(word(&Kind::DryRun), word(&kind(Kind::DryRun)));
        assert_eq!(word(&Cause::NoWorker), word(&cause(Cause::NoWorker)));
        assert_eq!(word(&Phase::Drained), word(&phase(Phase::Drained)));
    }

    mod erased {
        pub(super) trait Word {
            fn word(&self) -> String;
        }
        impl<T: serde::Serialize> Word for T {
            fn word(&self) -> String {
                serde_json::to_string(self).unwrap()
            }
        }
    }
}
