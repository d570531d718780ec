//! Sockets that a prepare was lent, counted until whoever holds them has closed them.
//!
//! A candidate that is given up is dropped in a thread of its own, which takes as long as it takes. The next one may need
//! the same port, and the supervisor cannot bind that before its last descriptor is closed: so the next one waits
//! here before it asks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long one prepare waits for another one's sockets. If they are open longer, the supervisor says who has the port.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// What is lent to all the prepares of a worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loans(Arc<Counted>);

#[derive(Debug, Default)]
struct Counted {
    open: Mutex<usize>,
    returned: Condvar,
}

/// What one prepare has been lent. It goes with the candidate, and is dropped after it.
#[derive(Debug, Default)]
pub(crate) struct Loan {
    loans: Loans,
    is_open: AtomicBool,
}

impl Loans {
    /// Nothing, so far.
    pub(crate) fn begin(&self) -> Arc<Loan> {
        Arc::new(Loan { loans: self.clone(), is_open: AtomicBool::new(false) })
    }

    fn count(&self, change: impl FnOnce(&mut usize)) {
        // A number is what it is, whoever panicked.
        change(&mut self.0.open.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.returned.notify_all();
    }
}

impl Loan {
    /// Waits until everybody else has closed what was lent, at most [`MAX_WAIT`].
    pub(crate) fn wait_for_others(&self) {
        let own = usize::from(self.is_open.load(Ordering::Relaxed));
        let open = self.loans.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.loans.0.returned.wait_timeout_while(open, MAX_WAIT, |open| *open > own);
        if waited.is_ok_and(|(_, timeout)| timeout.timed_out()) {
            tracing::warn!("a candidate that was given up has not let go of its sockets after {MAX_WAIT:?}");
        }
    }

    /// Sockets are on their way.
    pub(crate) fn open(&self) {
        if !self.is_open.swap(true, Ordering::Relaxed) {
            self.loans.count(|open| *open += 1);
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if *self.is_open.get_mut() {
            self.loans.count(|open| *open = open.saturating_sub(1));
        }
    }
}
