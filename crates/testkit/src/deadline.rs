//! Deadlines: every wait in a test ends, and says what it waited for.

use std::thread;
use std::time::{Duration, Instant};

/// How long any single wait may last. Generous: a busy two-core machine must not fail a correct program.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How long a server of the test's own waits for its client, who may have to wait for something else first.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// How often state is looked at that no event announces (see [`until`]).
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A moment after which a wait is given up.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// The usual deadline, [`DEADLINE`] from now.
    #[must_use]
    pub fn usual() -> Self {
        Self::after(DEADLINE)
    }

    /// A deadline `limit` from now.
    #[must_use]
    pub fn after(limit: Duration) -> Self {
        Self(Instant::now() + limit)
    }

    /// The time that is left; zero once it has passed.
    #[must_use]
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    #[must_use]
    pub fn passed(self) -> bool {
        self.left().is_zero()
    }
}

/// Waits for state that no event announces (a table of the kernel's, a counter of another process) until `probe` gives
/// a value; panics with `what` after [`DEADLINE`]. Where an event exists, wait for that instead.
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Deadline::usual();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(!deadline.passed(), "waited {DEADLINE:?} in vain until {what}");
        thread::park_timeout(LOOK_AGAIN);
    }
}
