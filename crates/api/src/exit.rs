//! Exit codes of the command line: a contract with scripts.

use crate::{Operation, Outcome};

/// How the command line ends. The numbers never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// 0: applied or unchanged; `diff`: the same.
    Success = 0,
    /// 1: `diff`: it differs. Also anything unforeseen.
    Differs = 1,
    /// 2: the command line is wrong.
    Usage = 2,
    /// 4: not permitted.
    NotPermitted = 4,
    /// 7: nothing answers on the control socket.
    NotRunning = 7,
    /// 10: rejected; what served still serves.
    Rejected = 10,
    /// 11: the candidate was not ready; what served still serves.
    NotReady = 11,
    /// 12: begun and rolled back; what served still serves.
    RolledBack = 12,
    /// 13: another operation runs, a change awaits confirmation (or none does, and one was to be confirmed), or what
    /// `--if-match` names no longer serves.
    BusyOrStale = 13,
    /// 14: applied, and connections were cut.
    AppliedWithLosses = 14,
    /// 15: a program was told, and nothing proves that it did what it was told.
    Sent = 15,
    /// 124: the deadline passed; the outcome is unknown, ask by ID.
    Unknown = 124,
}

impl ExitCode {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Applied | Outcome::Unchanged => Self::Success,
            Outcome::Rejected => Self::Rejected,
            Outcome::NotReady => Self::NotReady,
            Outcome::RolledBack => Self::RolledBack,
            Outcome::AppliedWithLosses => Self::AppliedWithLosses,
            Outcome::Sent => Self::Sent,
            Outcome::Unknown => Self::Unknown,
        }
    }
}

impl From<&Operation> for ExitCode {
    /// That of the outcome; a running operation's outcome is unknown. What was rejected because another change
    /// awaits confirmation, or because none does that could be confirmed or cancelled, came at the wrong time.
    fn from(operation: &Operation) -> Self {
        if operation.is_untimely() {
            return Self::BusyOrStale;
        }
        operation.outcome.map_or(Self::Unknown, Self::from)
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.code())
    }
}
