//! Why a request was refused before it became an operation.

use std::time::Duration;

use thiserror::Error;

use crate::pending::names;
use crate::sentence_program::verb;
use crate::{ExitCode, Kind, ProblemDetails, Upgrade, human_time};

/// Why a request was refused. Nothing was changed by it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    /// Another operation runs.
    #[error("busy: {} {running} runs; wait for it with 'handover show {running}'", verb(*kind))]
    Busy {
        /// ID of the one that runs.
        running: String,
        /// What it is.
        kind: Kind,
    },
    /// A change awaits confirmation, and this would change what is judged.
    #[error("{}", pending(operation, *left, &names(upgrade.as_deref(), *generation, *back_to)))]
    Pending {
        /// ID of the operation that made the change.
        operation: String,
        /// The generation on probation.
        generation: u64,
        /// The one that serves again if nobody confirms.
        back_to: u64,
        /// The time left.
        left: Duration,
        /// If it is an upgrade: from which binary to which.
        upgrade: Option<Box<Upgrade>>,
    },
    /// `confirm` or `cancel`, and there is nothing to confirm or to cancel.
    #[error("nothing awaits confirmation")]
    NothingPending,
    /// A signal's reload that waited for the end of a probation, and the change was taken back.
    #[error("the change that this waited for was taken back, and what is on the disk may bring it again")]
    TakenBack,
    /// The generation to go back to, or to compare with, is not there.
    #[error("{}", no_such_generation(*wanted, kept))]
    NoSuchGeneration {
        /// Its number; `None`: the one before the one that serves.
        wanted: Option<u64>,
        /// Those whose bytes are kept, in order.
        kept: Vec<u64>,
    },
    /// `rollback --binary`, and there is no binary to go back to, or it is not what it was; this says so.
    #[error("{0}")]
    NoPreviousBinary(String),
    /// The archive of a restore cannot be used.
    #[error("{0}")]
    Archive(String),
    /// It is drained, and a reload would change what nobody serves.
    #[error("drained: 'handover resume' first")]
    Drained,
    /// The server is on its way out.
    #[error("the server is shutting down")]
    Stopping,
    /// The first generation is not serving yet.
    #[error("the server has not started yet")]
    NotStarted,
    /// The worker died and another is being started.
    #[error("no worker is running at this moment; one is being started, try again")]
    NoWorker,
    /// `If-Match` names a generation that does not serve.
    #[error("stale: generation {expected} was expected, {}", serving.map_or_else(|| "none serves".to_owned(), |g| format!("generation {g} serves")))]
    Stale {
        /// The expected one.
        expected: u64,
        /// The one that serves.
        serving: Option<u64>,
    },
    /// The peer's role does not allow it.
    #[error("not permitted: {who} has the role {has}, and {what} needs {needs}")]
    Forbidden {
        /// Who asked.
        who: String,
        /// The role that the peer has: `none`, `read`, `operate`, `admin`.
        has: String,
        /// What was asked for.
        what: String,
        /// The role that it needs.
        needs: String,
    },
    /// The server has no such action.
    #[error(
        "there is no action {name:?}; {}",
        if known.is_empty() { "this server has none".to_owned() } else { listed(known) }
    )]
    NoSuchAction {
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// No program has this name.
    #[error(
        "there is no program {name:?}; {}",
        if known.is_empty() { "this server runs none".to_owned() } else { listed(known) }
    )]
    NoSuchProgram {
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// Nothing that could be paused, or no endpoint, has this name.
    #[error(
        "there is no {what} {name:?}; {}",
        if known.is_empty() { "there are none".to_owned() } else { listed(known) }
    )]
    NoSuchTarget {
        /// What it was looked for among: `endpoint`, `program, service, route or listener`.
        what: &'static str,
        /// The name that was asked for.
        name: String,
        /// The names that there are, as they can be asked for.
        known: Vec<String>,
    },
    /// The Idempotency-Key was used for something else.
    #[error("the key {id:?} is that of an earlier {}: use another", kind.as_str())]
    KeyReused {
        /// The key.
        id: String,
        /// What it was used for.
        kind: Kind,
    },
    /// The journal cannot be written: what cannot be written down is not done.
    #[error("{0}")]
    Journal(String),
    /// The supervisor did not answer in time, or is gone.
    #[error("the supervisor does not answer: {0}")]
    Unavailable(String),
}

fn pending(operation: &str, left: Duration, (change, back_to): &(String, String)) -> String {
    format!(
        "pending: {change} ({operation}) awaits confirmation for another {}, then {back_to} serves again; 'handover confirm' keeps it, 'handover cancel' goes back now",
        human_time(left)
    )
}

/// Numbers of generations named in a sentence before it says "and n more".
const NUMBERS_IN_A_SENTENCE: usize = 10;

fn no_such_generation(wanted: Option<u64>, kept: &[u64]) -> String {
    let what = match wanted {
        Some(number) => format!("the bytes of generation {number} are not kept"),
        None => "no other generation has served before this one".to_owned(),
    };
    let shown: Vec<String> = kept.iter().rev().take(NUMBERS_IN_A_SENTENCE).map(ToString::to_string).collect();
    match kept.len().saturating_sub(NUMBERS_IN_A_SENTENCE) {
        _ if shown.is_empty() => format!("{what}; none are"),
        0 => format!("{what}; there are: {}", shown.join(", ")),
        more => format!("{what}; there are: {} and {more} more", shown.join(", ")),
    }
}

impl Refused {
    /// A stable word for it: the `type` of the error answer and `refused` of the operation in the history.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "busy",
            Self::Pending { .. } => "pending",
            Self::NothingPending => "nothing_pending",
            Self::TakenBack => "taken_back",
            Self::NoSuchGeneration { .. } => "no_such_generation",
            Self::NoPreviousBinary(_) => "no_previous_binary",
            Self::Archive(_) => "archive",
            Self::Drained => "drained",
            Self::Stopping => "stopping",
            Self::NotStarted => "not_started",
            Self::NoWorker => "no_worker",
            Self::Stale { .. } => "stale",
            Self::Forbidden { .. } => "forbidden",
            Self::NoSuchAction { .. } => "no_such_action",
            Self::NoSuchProgram { .. } => "no_such_program",
            Self::NoSuchTarget { .. } => "no_such_target",
            Self::KeyReused { .. } => "key_reused",
            Self::Journal(_) => "journal",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// The HTTP status of the answer.
    #[must_use]
    pub fn http_status(&self) -> u16 {
        match self {
            Self::Busy { .. }
            | Self::Pending { .. }
            | Self::NothingPending
            | Self::TakenBack
            | Self::Drained
            | Self::Stopping
            | Self::NotStarted
            | Self::NoWorker => 409,
            Self::Stale { .. } => 412,
            Self::Forbidden { .. } => 403,
            Self::NoSuchAction { .. }
            | Self::NoSuchGeneration { .. }
            | Self::NoSuchProgram { .. }
            | Self::NoSuchTarget { .. }
            | Self::NoPreviousBinary(_) => 404,
            Self::KeyReused { .. } | Self::Archive(_) => 422,
            Self::Journal(_) => 500,
            Self::Unavailable(_) => 503,
        }
    }

    /// The error answer. The caller adds what serves.
    #[must_use]
    pub fn problem_details(&self) -> ProblemDetails {
        let title = match self {
            Self::Busy { .. } => "Another operation runs",
            Self::Pending { .. } => "A change awaits confirmation",
            Self::NothingPending => "Nothing awaits confirmation",
            Self::TakenBack => "What it waited for was taken back",
            Self::NoSuchGeneration { .. } => "No such generation",
            Self::NoPreviousBinary(_) => "No binary to go back to",
            Self::Archive(_) => "The archive cannot be used",
            Self::Drained => "The server is drained",
            Self::Stopping => "The server is shutting down",
            Self::NotStarted => "The server has not started yet",
            Self::NoWorker => "No worker runs at this moment",
            Self::Stale { .. } => "Another generation serves",
            Self::Forbidden { .. } => "Not permitted",
            Self::NoSuchAction { .. } => "No such action",
            Self::NoSuchProgram { .. } => "No such program",
            Self::NoSuchTarget { .. } => "Nothing has this name",
            Self::KeyReused { .. } => "The Idempotency-Key was used for something else",
            Self::Journal(_) => "The journal cannot be written",
            Self::Unavailable(_) => "The supervisor does not answer",
        };
        let mut details = ProblemDetails::new(self.http_status(), self.word(), title, self.to_string());
        if let Self::Busy { running: operation, .. } | Self::Pending { operation, .. } = self {
            details.operation_id = Some(operation.clone());
        }
        if let Self::Pending { generation, .. } = self {
            details.serving_generation = Some(*generation);
        }
        if let Self::Stale { serving, .. } = self {
            details.serving_generation = *serving;
        }
        details
    }
}

/// Names that are listed; of more, only their number.
const MAX_LISTED: usize = 20;

/// `there are: a, b`.
fn listed(known: &[String]) -> String {
    let more = known.len().saturating_sub(MAX_LISTED);
    let named = known[..known.len() - more].join(", ");
    if more > 0 { format!("there are: {named} and {more} more") } else { format!("there are: {named}") }
}

impl ProblemDetails {
    /// The exit code of a command line that got this answer.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        if let Some(operation) = self.operation.as_ref().filter(|o| o.refused.is_none()) {
            return ExitCode::from(operation);
        }
        match self.status {
            403 => ExitCode::NotPermitted,
            409 | 412 => ExitCode::BusyOrStale,
            422 => ExitCode::Rejected,
            500 => ExitCode::NotReady,
            503 | 504 => ExitCode::Unknown,
            _ => ExitCode::Usage,
        }
    }
}
