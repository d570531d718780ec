//! What happens, as it happens: server-sent events on `GET /v1/events`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Operation;

/// Which sort of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// An operation was admitted.
    OperationStarted,
    /// A running operation took a step; its last step says which.
    OperationStep,
    /// An operation ended; its outcome is in the journal.
    OperationDone,
    /// A request was refused.
    Refused,
    /// A worker started, died or was replaced.
    Worker,
    /// Anything else worth a line, e.g. a phase that changed.
    Notice,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Which sort.
    pub kind: EventKind,
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// One sentence.
    pub message: String,
    /// The operation as it is now, for events about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
}
