//! A change that goes back by itself unless somebody confirms it.
//!
//! ```text
//!   reload --confirm-within 10m ─▶ applied, pending ──┬─ confirm ─▶ it stays
//!                                     ▲       │       ├─ cancel ──▶ the generation before serves again
//!                                     └───────┘       └─ nothing ─▶ the same, by the supervisor
//!                            reload --confirm-within: a new deadline
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Actor, Upgrade, human_time};

/// What becomes of a change if nobody confirms it: in the operation that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GoesBack {
    /// The generation that then serves again.
    pub to: u64,
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// How long that was from the moment the operation ended, in milliseconds.
    pub within_ms: u64,
}

/// The change that waits to be confirmed, as the status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pending {
    /// The operation that made it.
    pub operation_id: String,
    /// The generation that serves on probation.
    pub generation: u64,
    /// The generation that serves again if nobody confirms.
    pub back_to: u64,
    /// Who asked for it.
    pub actor: Actor,
    /// Why, in the words of who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// When it goes back, RFC 3339 in UTC.
    pub until: String,
    /// The time left when this was answered, in milliseconds.
    pub left_ms: u64,
    /// If what awaits confirmation is an upgrade: from which binary to which. The generation is the same in both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Box<Upgrade>>,
}

impl Pending {
    /// `generation 5 awaits confirmation: it goes back to generation 4 at 12:10:03 UTC (in 9 min 30 s) …`.
    #[must_use]
    pub fn sentence(&self) -> String {
        let (change, back_to) = names(self.upgrade.as_deref(), self.generation, self.back_to);
        format!(
            "{change} awaits confirmation: it goes back to {back_to} at {} (in {}) unless 'handover confirm' comes; asked for by {} in {}",
            clock(&self.until),
            human_time(Duration::from_millis(self.left_ms)),
            self.actor,
            self.operation_id,
        )
    }
}

/// What awaits confirmation, and what serves again without one.
pub(crate) fn names(upgrade: Option<&Upgrade>, generation: u64, back_to: u64) -> (String, String) {
    match upgrade {
        Some(Upgrade { from, to, .. }) => (format!("the upgrade to {to}"), from.to_string()),
        None => (format!("generation {generation}"), format!("generation {back_to}")),
    }
}

/// `12:10:03 UTC` of an RFC 3339 time: what a person needs who reads it now. Anything else as it is.
pub(crate) fn clock(rfc3339: &str) -> String {
    match rfc3339.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%H:%M:%S UTC").to_string(),
        Err(_) => rfc3339.to_owned(),
    }
}
