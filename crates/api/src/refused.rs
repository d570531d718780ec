//! Why a request was refused before it became an operation.

use thiserror::Error;

use crate::{ExitCode, Kind, ProblemDetails};

/// Why a request was refused. Nothing was changed by it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    /// Another operation runs.
    #[error("busy: {} {running} runs; wait for it with 'handover show {running}'", kind.as_str())]
    Busy {
        /// ID of the one that runs.
        running: String,
        /// What it is.
        kind: Kind,
    },
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
        if known.is_empty() { "this server has none".to_owned() } else { format!("there are: {}", known.join(", ")) }
    )]
    NoSuchAction {
        /// The name that was asked for.
        name: String,
        /// The names that there are.
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

impl Refused {
    /// A stable word for it: the `type` of the error answer and `refused` of the operation in the history.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "busy",
            Self::Drained => "drained",
            Self::Stopping => "stopping",
            Self::NotStarted => "not_started",
            Self::NoWorker => "no_worker",
            Self::Stale { .. } => "stale",
            Self::Forbidden { .. } => "forbidden",
            Self::NoSuchAction { .. } => "no_such_action",
            Self::KeyReused { .. } => "key_reused",
            Self::Journal(_) => "journal",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// The HTTP status of the answer.
    #[must_use]
    pub fn http_status(&self) -> u16 {
        match self {
            Self::Busy { .. } | Self::Drained | Self::Stopping | Self::NotStarted | Self::NoWorker => 409,
            Self::Stale { .. } => 412,
            Self::Forbidden { .. } => 403,
            Self::NoSuchAction { .. } => 404,
            Self::KeyReused { .. } => 422,
            Self::Journal(_) => 500,
            Self::Unavailable(_) => 503,
        }
    }

    /// The error answer. The caller adds what serves.
    #[must_use]
    pub fn problem_details(&self) -> ProblemDetails {
        let title = match self {
            Self::Busy { .. } => "Another operation runs",
            Self::Drained => "The server is drained",
            Self::Stopping => "The server is shutting down",
            Self::NotStarted => "The server has not started yet",
            Self::NoWorker => "No worker runs at this moment",
            Self::Stale { .. } => "Another generation serves",
            Self::Forbidden { .. } => "Not permitted",
            Self::NoSuchAction { .. } => "No such action",
            Self::KeyReused { .. } => "The Idempotency-Key was used for something else",
            Self::Journal(_) => "The journal cannot be written",
            Self::Unavailable(_) => "The supervisor does not answer",
        };
        let mut details = ProblemDetails::new(self.http_status(), self.word(), title, self.to_string());
        if let Self::Busy { running, .. } = self {
            details.operation_id = Some(running.clone());
        }
        if let Self::Stale { serving, .. } = self {
            details.serving_generation = *serving;
        }
        details
    }
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
