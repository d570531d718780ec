//! The supervisor's way into another binary: what it leaves, and how that is taken over.
//!
//! ```text
//!   old image                                            new image (the same process)
//!   quiet ─▶ state written down ─▶ sealed memory file ─▶ run() finds it ─▶ all checked ─┬─▶ goes on
//!     ▲                                                                                 └─▶ back into the old image,
//!     └──────────────── execveat fails: goes on ◀─────────────────────────────────────────  with a note of why
//! ```
//!
//! No listener and no channel is closed on the way, the control socket is not either; signals wait; workers notice
//! nothing. What is left is in `state.rs`; it is gathered and taken up again by `driver/reexec.rs`.

mod packing;
mod state;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, OwnedFd};

use handover_handoff::inherit::InheritError;
use handover_handoff::memfd;
use handover_lifecycle::{CannotResume, Limits, Machine, Recovered};

pub(crate) use packing::{Arrived, Packing, Unpacking, arrived, go};
pub(crate) use state::{
    Back, SavedControl, SavedHosted, SavedJournal, SavedListener, SavedListeners, SavedOperation,
    SavedPassed, SavedPrograms, SavedServing, SavedSupervisor, SavedWaiter, SavedWorker, State,
};

use crate::programs::Programs;

/// The oldest form of saved state that this program reads.
pub const OLDEST_FORMAT: u16 = 1;
/// The newest form of saved state that this program reads, and the one that it writes.
pub const NEWEST_FORMAT: u16 = 1;

/// The longest time for which somebody waits yet.
pub(crate) const LONGEST_WAIT: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// Why saved state cannot be taken over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// A descriptor that should have been left open was not.
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
    /// There is too much of it.
    #[error("the saved state has {bytes} bytes, and at most {} are read", state::MAX_BYTES)]
    TooBig {
        /// Its length.
        bytes: usize,
    },
    /// It contradicts itself.
    #[error(transparent)]
    Machine(#[from] CannotResume),
    /// The memory file of it cannot be used.
    #[error(transparent)]
    Memfd(#[from] memfd::MemfdError),
    /// Something that the new program needs cannot be had.
    #[error("cannot {doing}: {why}")]
    Other {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        why: String,
    },
}

/// Reads what a supervisor would leave, as if to go on with it, and touches nothing.
///
/// # Errors
/// Why this program could not go on with it.
pub fn rehearse(saved: impl AsFd) -> Result<(), ResumeError> {
    let state = State::read(&memfd::read_sealed(saved, state::MAX_BYTES)?)?;
    state.check()?;
    if !state.hosted.json.is_empty() {
        Programs::readable(&state.hosted.json).map_err(ResumeError::Damaged)?;
    }
    // Asked before it has come to its last step, a machine says nothing that could be gone on with.
    if state.machine.operation.is_some() {
        let recovered = Recovered::default();
        Machine::resume(Limits::DEFAULT, recovered, state.machine)?;
    }
    Ok(())
}

/// The state in a sealed memory file.
///
/// # Errors
/// It is too long, or the system is out of memory.
pub(crate) fn sealed(state: &State) -> Result<OwnedFd, ResumeError> {
    Ok(memfd::sealed("handover-state", &state.write()?)?)
}
