//! Children that whoever started them waits for: they must not be reaped as orphans.
//!
//! A process has one supervisor, hence one list. It is locked while a child is started and while orphans are reaped, so
//! that no child ends in between unlisted.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use handover_handoff::process::{self, Child, Exit, Spawn};

static SPARED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn spared() -> MutexGuard<'static, BTreeSet<u32>> {
    SPARED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that is not reaped as an orphan as long as this lives.
#[derive(Debug)]
pub(super) struct SparedChild {
    pub(super) child: Child,
}

impl SparedChild {
    pub(super) fn start(spawn: &Spawn<'_>) -> io::Result<Self> {
        let mut spared = spared();
        let child = spawn.start()?;
        spared.insert(child.pid());
        Ok(Self { child })
    }
}

impl Drop for SparedChild {
    fn drop(&mut self) {
        spared().remove(&self.child.pid());
    }
}

/// Reaps the children that have ended, except for `workers` and those that a preflight waits for. Says which, and how
/// they ended.
///
/// # Errors
/// As [`process::reap_orphans`].
pub(crate) fn reap_orphans(workers: &[u32]) -> io::Result<Vec<(u32, Exit)>> {
    let spared = spared();
    let all: Vec<u32> = workers.iter().chain(spared.iter()).copied().collect();
    process::reap_orphans(&all)
}
