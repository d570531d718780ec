//! One drain, seen from the service: its deadline, its early end, and the count of what is left.
//!
//! ```text
//!   Drain::new ──▶ open ──┬── nothing left ──────────▶ the service returns no losses
//!                         ├── Deadline, StopNow ─────▶ it cuts what is left and counts it
//!                         └── Resumed ───────────────▶ it cuts nothing; `resume` follows
//! ```

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest drain that can be asked for; longer ones end here.
pub const LONGEST_DRAIN: Duration = Duration::from_secs(7 * 24 * 3600);

/// One drain: what the service asks for its deadline, and tells what is left.
#[derive(Debug, Clone)]
pub struct Drain {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    deadline: Instant,
    connections: u64,
    /// Counts calls that changed something, so that a waiter sees what happened before it began to wait.
    changes: u64,
    end: Option<DrainEnd>,
}

/// Why a drain should end before nothing is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainEnd {
    /// Its deadline has passed: cut what is left, and count it.
    Deadline,
    /// The supervisor asked to serve on: cut nothing; [`crate::Service::resume`] follows.
    Resumed,
    /// A second stop: cut what is left at once, and count it.
    StopNow,
}

impl Drain {
    /// A drain that ends at the latest `limit` from now, and after [`LONGEST_DRAIN`] in any case.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        let deadline = Instant::now() + limit.min(LONGEST_DRAIN);
        let state = State { deadline, connections: 0, changes: 0, end: None };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }) }
    }

    /// When what is left must be cut. It may move nearer while the drain runs.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.lock().deadline
    }

    /// Time until the deadline; zero once it has passed.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline().saturating_duration_since(Instant::now())
    }

    /// Ends it at the latest `limit` from now; a nearer deadline stays.
    pub(crate) fn shorten(&self, limit: Duration) {
        let mut state = self.lock();
        state.deadline = state.deadline.min(Instant::now() + limit.min(LONGEST_DRAIN));
        state.changes = state.changes.wrapping_add(1);
        self.shared.changed.notify_all();
    }

    /// Says how many connections are still open, and wakes who waits. Cheap: call it whenever that changes.
    pub fn progress(&self, connections: u64) {
        let mut state = self.lock();
        state.connections = connections;
        state.changes = state.changes.wrapping_add(1);
        self.shared.changed.notify_all();
    }

    /// The number last given to [`Drain::progress`].
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.lock().connections
    }

    /// Whether the drain should end now, and why.
    #[must_use]
    pub fn ended(&self) -> Option<DrainEnd> {
        self.lock().why()
    }

    /// Waits until the drain should end, at most `limit`.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> Option<DrainEnd> {
        self.wait_until(limit, |state| state.end.is_some())
    }

    /// How often something changed so far; for [`Drain::wait_change`].
    pub(crate) fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Waits until the drain should end or anything changed since `seen` was asked for; at most until the deadline.
    pub(crate) fn wait_change(&self, seen: u64) -> Option<DrainEnd> {
        self.wait_until(self.remaining(), |state| state.end.is_some() || state.changes != seen)
    }

    /// Ends the drain early. The first reason stays, except that [`DrainEnd::StopNow`] overrides it.
    pub fn end(&self, why: DrainEnd) {
        let mut state = self.lock();
        if state.end.is_none() || why == DrainEnd::StopNow {
            state.end = Some(why);
            state.changes = state.changes.wrapping_add(1);
            self.shared.changed.notify_all();
        }
    }

    fn wait_until(&self, limit: Duration, done: impl Fn(&State) -> bool) -> Option<DrainEnd> {
        let until = Instant::now() + limit.min(LONGEST_DRAIN);
        let mut state = self.lock();
        loop {
            let left = until.min(state.deadline).saturating_duration_since(Instant::now());
            if done(&state) || left.is_zero() {
                return state.why();
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn why(&self) -> Option<DrainEnd> {
        self.end.or_else(|| (self.deadline <= Instant::now()).then_some(DrainEnd::Deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_without_time_has_ended_at_its_deadline() {
        assert_eq!(Drain::new(Duration::ZERO).wait(Duration::from_secs(60)), Some(DrainEnd::Deadline));
    }

    #[test]
    fn the_first_reason_stays_and_a_second_stop_overrides_it() {
        let drain = Drain::new(Duration::from_secs(60));
        assert_eq!(drain.ended(), None);
        drain.end(DrainEnd::Resumed);
        drain.end(DrainEnd::Deadline);
        assert_eq!(drain.ended(), Some(DrainEnd::Resumed));
        drain.end(DrainEnd::StopNow);
        assert_eq!(drain.wait(Duration::from_secs(60)), Some(DrainEnd::StopNow));
    }

    #[test]
    fn a_deadline_moves_nearer_and_never_away() {
        let drain = Drain::new(Duration::from_secs(60));
        drain.shorten(Duration::from_secs(120));
        assert!(drain.remaining() <= Duration::from_secs(60));
        drain.shorten(Duration::ZERO);
        assert_eq!(drain.wait(Duration::from_secs(60)), Some(DrainEnd::Deadline));
    }

    #[test]
    fn a_change_made_before_the_waiting_began_is_not_missed() {
        let drain = Drain::new(Duration::from_secs(60));
        let seen = drain.changes();
        drain.progress(3);
        assert_eq!(drain.wait_change(seen), None);
        assert_eq!(drain.connections(), 3);
    }

    #[test]
    fn the_longest_limit_is_no_overflow() {
        let drain = Drain::new(Duration::MAX);
        assert_eq!(drain.ended(), None);
        drain.end(DrainEnd::StopNow);
        assert_eq!(drain.wait(Duration::MAX), Some(DrainEnd::StopNow));
    }
}
