//! All programs, for the supervisor's next life: by `execve`, or kept by the worker.

use std::os::fd::OwnedFd;

use super::{Kept, Programs, Setup};

impl Programs {
    /// All of this, for the supervisor's next life: by `execve`, or kept by the worker (`Keep`). The same bytes.
    pub(crate) fn save(&self) -> Kept {
        Kept { json: String::new(), descriptors: Vec::new() }
    }

    /// Whether [`Programs::restore`] could read this: for a rehearsal, which touches nothing.
    ///
    /// # Errors
    /// One sentence.
    pub(crate) fn readable(kept: &str) -> Result<(), String> {
        let _ = kept;
        Ok(())
    }

    /// Goes on where an earlier supervisor, or an earlier life of this process, has left. [`Programs::apply`] with the same
    /// programs follows, with their sockets; then [`Programs::worker_changed`]. What has to be asked for by [`super::Out::Own`],
    /// and [`super::Out::AllEnded`], is said again. Dropping the result ends nothing and unlinks nothing.
    ///
    /// # Errors
    /// One sentence, if it cannot be read: then nothing is known of the programs that run.
    pub(crate) fn restore(setup: Setup, kept: &str, descriptors: Vec<OwnedFd>) -> Result<Self, String> {
        let _ = (kept, descriptors);
        Ok(Self::new(setup))
    }
}
