//! Children that whoever started them waits for: they must not be reaped as orphans.
//!
//! A process has one supervisor, hence one list. It is locked while a child is started and while orphans are reaped, so
//! that no child ends in between unlisted.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use handover_handoff::process::{self, Child, Exit};

static SPARED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn spared() -> MutexGuard<'static, BTreeSet<u32>> {
    SPARED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that is not reaped as an orphan as long as this lives. Who has it reaps it ([`Child::try_wait`]); otherwise it is an
/// orphan from then on.
#[derive(Debug)]
pub(crate) struct SparedChild {
    pub(crate) child: Arc<Child>,
}

impl SparedChild {
    /// Starts one, by whatever makes one.
    pub(crate) fn start<E>(start: impl FnOnce() -> Result<Child, E>) -> Result<Self, E> {
        let mut spared = spared();
        let child = start()?;
        spared.insert(child.pid());
        Ok(Self { child: Arc::new(child) })
    }

    /// One that was started before: by this process in an earlier life, or by another one.
    pub(crate) fn adopt(child: Child) -> Self {
        spared().insert(child.pid());
        Self { child: Arc::new(child) }
    }
}

impl Drop for SparedChild {
    fn drop(&mut self) {
        spared().remove(&self.child.pid());
    }
}

/// Reaps the children that have ended, except for `workers` and those that are spared. Says which, and how
/// they ended.
///
/// # Errors
/// As [`process::reap_orphans`].
pub(crate) fn reap_orphans(workers: &[u32]) -> io::Result<Vec<(u32, Exit)>> {
    let spared = spared();
    let all: Vec<u32> = workers.iter().chain(spared.iter()).copied().collect();
    process::reap_orphans(&all)
}
