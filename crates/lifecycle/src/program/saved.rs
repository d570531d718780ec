//! What of the machine of a program goes through the supervisor's exec, and through its death.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::EditionKey;
use super::table::Table;

/// All that the machine needs to go on in another process. Opaque; written by serde. Every field may be missing: another version has
/// written it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    /// The machine's time when this was saved.
    pub(super) at: Duration,
    pub(super) table: Table,
}

/// What a start from nothing has to know: written to disk by [`super::Effect::Save`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Durable {
    /// What serves.
    pub edition: Option<EditionKey>,
    /// What a rollback goes to.
    pub before: Option<EditionKey>,
    /// If it awaits confirmation: the time left, in milliseconds.
    pub pending_ms: Option<u64>,
    /// Whether an operator has stopped it.
    pub stopped: bool,
}
