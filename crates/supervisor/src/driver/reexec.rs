//! This process becoming another program: what it leaves for that, and what comes of it.

use std::os::fd::OwnedFd;

use handover_lifecycle::{Event, OperationKey};

use super::{Driver, exams};

impl Driver {
    /// What this process would leave for another program in its place, in a sealed memory file, for a rehearsal. `None`: it
    /// is only asked for its versions.
    ///
    /// # Errors
    /// A sentence: it cannot be written down.
    pub(super) fn rehearsal(&self) -> Result<Option<OwnedFd>, String> {
        Ok(None)
    }

    /// Becomes the program of the worker that serves. Returns only if that failed; the machine is told then.
    pub(super) fn reexecute(&mut self, operation: OperationKey) {
        self.await_copy();
        if let Some(entry) = self.operations.get_mut(operation) {
            exams::supervisor_stays(entry, "it cannot become another program yet".to_owned());
        }
        self.pending.push_back(Event::ReexecFailed { operation });
    }
}
