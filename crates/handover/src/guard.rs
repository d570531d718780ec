//! Whether a new generation fares worse than the one before: a comparison of figures, without a clock.
//!
//! ```text
//!   totals, once a second ─▶ the old one's last N seconds ─┐
//!                         └▶ the new one's first seconds ──┴─▶ judge ─▶ may stay, or must go and why
//! ```

use crate::types::{Figures, GuardLimits};

/// What the figures say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the new generation may stay.
    pub passed: bool,
    /// The figures in words, those that decided first.
    pub detail: String,
}

/// Compares what happened under the new generation with what happened under the old one, both as counts.
#[must_use]
pub fn judge(_before: &Figures, _after: &Figures, _limits: &GuardLimits) -> Verdict {
    Verdict { passed: true, detail: "not compared".to_owned() }
}
