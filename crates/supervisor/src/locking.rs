//! Locks of files that are let go of a moment after their holder has died.
//!
//! The kernel lets go of such a lock when nobody has the open file any more. A process that the holder had just forked has it, too,
//! until it executes its program: so whoever comes next may find the lock taken by nobody.
//!
//! ```text
//!   ask ──free──▶ ours
//!    ▲ └─taken──▶ wait a moment ──time over──▶ taken
//!    └─────────────────┘
//! ```

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// Longer than a process takes from its fork to its program, on a machine that is busy.
pub(crate) const AFTERLIFE: Duration = Duration::from_secs(1);
/// How often it is asked for meanwhile.
const STEP: Duration = Duration::from_millis(5);

/// Takes the lock of a file, waiting for so long while somebody else has it.
///
/// # Errors
/// `WOULDBLOCK`: somebody has it still; otherwise as flock(2).
pub(crate) fn lock(file: &File, patience: Duration) -> Result<(), Errno> {
    let asked = Instant::now();
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if asked.elapsed() < patience => thread::sleep(STEP),
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_let_go_of_is_taken_and_one_that_is_held_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let open = || File::create(&path).unwrap();
        let first = open();
        lock(&first, Duration::ZERO).unwrap();
        assert_eq!(lock(&open(), STEP), Err(Errno::WOULDBLOCK));
        let next = open();
        let waiting = thread::spawn(move || lock(&next, handover_testkit::DEADLINE));
        drop(first);
        assert_eq!(waiting.join().unwrap(), Ok(()));
    }
}
