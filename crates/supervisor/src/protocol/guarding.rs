//! Figures that a guard compares, and how much worse they may get.
//!
//! ```text
//!   before: the last seconds of the generation before ─┐
//!   after: the same time of the guarded one ───────────┴─▶ limits ─▶ stays, or goes
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a guard looks at: totals since the worker's start, of what a generation's clients and endpoints saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Requests that were answered.
    pub requests: u64,
    /// Of these, with a status from 500 to 599.
    pub errors_5xx: u64,
    /// Connections to endpoints that were tried.
    pub connects: u64,
    /// Of these, failed.
    pub connect_failures: u64,
    /// TLS handshakes with clients that were begun.
    pub handshakes: u64,
    /// Of these, failed.
    pub handshake_failures: u64,
}

/// What a guard compared: counts, not totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuardFigures {
    /// Of the generation before, in its last seconds.
    pub before: Figures,
    /// Of the guarded one.
    pub after: Figures,
}

/// When a guarded generation has to go: how much worse it may be than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuardLimits {
    /// How long it is watched; the same time of the one before is what it is compared with.
    pub watch: Duration,
    /// Fewer requests, connects or handshakes than this are no ground to judge their failures by.
    pub min_requests: u64,
    /// Percentage points by which the share of answers with 5xx may be higher.
    pub errors_5xx_points: f64,
    /// Percentage points by which the share of failed connects to endpoints may be higher.
    pub connect_failures_points: f64,
    /// Percentage points by which the share of failed TLS handshakes may be higher.
    pub handshake_failures_points: f64,
}

impl GuardLimits {
    /// What is used where nothing else is said.
    pub const DEFAULT: Self = Self {
        watch: Duration::from_secs(10),
        min_requests: 10,
        errors_5xx_points: 5.0,
        connect_failures_points: 5.0,
        handshake_failures_points: 5.0,
    };
    /// The longest time that a generation may be watched.
    pub const LONGEST_WATCH: Duration = Duration::from_secs(60 * 60);
}

impl Default for GuardLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
