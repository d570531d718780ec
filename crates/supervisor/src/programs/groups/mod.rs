//! What belongs to a copy: its control group where there can be one, its session, its mark; and its limits.
//!
//! ```text
//!   a place to make control groups (delegated, version 2) ─┬─ yes ─▶ one for each copy: limits, kill of all at once
//!                                                          └─ no ──▶ session, descendants, mark: found in /proc
//! ```

use std::path::Path;

/// Where copies get control groups of their own, if there is such a place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Groups;

impl Groups {
    /// Looks for the place (cgroups(7), version 2): where this process is, if that was delegated to it, or is the root that it sees.
    pub(crate) fn detect(server: &str) -> Self {
        let _ = server;
        Groups
    }

    /// No control groups.
    pub(crate) fn none() -> Self {
        Groups
    }

    /// In this directory.
    pub(crate) fn within(directory: &Path, server: &str) -> Self {
        let _ = (directory, server);
        Groups
    }
}

/// All processes, as they were at one moment. Taking one reads all of `/proc`: some ten microseconds a process.
#[derive(Debug, Default)]
pub(crate) struct Survey;

impl Survey {
    /// Looks.
    pub(crate) fn take() -> Self {
        Survey
    }
}
