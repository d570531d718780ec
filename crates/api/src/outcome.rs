//! The lifecycle's own words, and how the API's description (OpenAPI) shows them.
//!
//! The lifecycle crate knows nothing of OpenAPI. The enums here say the same words to the generator: one that is missing
//! does not compile, and a test holds each against the original.

pub use handover_lifecycle::{Cause, Kind, Outcome, Phase, StepName};
use utoipa::ToSchema;

/// An enum that is described as `$original`, of the same words.
macro_rules! described {
    ($(#[$about:meta])* $original:ident as $twin:ident { $($word:ident,)* }) => {
        $(#[$about])*
        #[derive(ToSchema, serde::Serialize)]
        #[schema(as = $original)]
        #[serde(rename_all = "snake_case")]
        #[allow(dead_code, reason = "only its schema is used")]
        pub(crate) enum $twin {
            $($word,)*
        }

        #[cfg(test)]
        impl $twin {
            const DESCRIBED: &[$original] = &[$($original::$word,)*];

            /// A new word does not compile until it is described.
            fn of(original: $original) -> Self {
                match original {
                    $($original::$word => Self::$word,)*
                }
            }
        }
    };
}

described! {
    /// What was asked for.
    Kind as KindSchema {
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
}

described! {
    /// How an operation ended: exactly one of these, in the journal before anybody is told.
    Outcome as OutcomeSchema {
        Applied,
        Unchanged,
        Rejected,
        NotReady,
        RolledBack,
        AppliedWithLosses,
        Sent,
        Unknown,
    }
}

described! {
    /// Why it ended so.
    Cause as CauseSchema {
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
}

described! {
    /// What the server as a whole is doing.
    Phase as PhaseSchema {
        New,
        Starting,
        Serving,
        Draining,
        Drained,
        Stopping,
        Stopped,
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    fn assert_same<Sent: Copy + Serialize, Twin: Serialize>(described: &[Sent], twin: fn(Sent) -> Twin) {
        for sent in described {
            assert_eq!(serde_json::to_string(sent).unwrap(), serde_json::to_string(&twin(*sent)).unwrap());
        }
    }

    #[test]
    fn the_description_uses_the_words_that_are_sent() {
        assert_same(KindSchema::DESCRIBED, KindSchema::of);
        assert_same(OutcomeSchema::DESCRIBED, OutcomeSchema::of);
        assert_same(CauseSchema::DESCRIBED, CauseSchema::of);
        assert_same(PhaseSchema::DESCRIBED, PhaseSchema::of);
    }
}
