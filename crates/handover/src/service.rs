//! What a worker serves, as the runtime sees it.
//!
//! ```text
//!            prepare ──── Err(problems) ──▶ rejected: nothing changed
//!               │
//!               ▼
//!           Candidate ─── dropped ────────▶ aborted: nothing changed
//!               │
//!            commit  (cannot fail; returns when every thread has switched)
//!               ▼
//!            serving
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::prepare::Prepare;
use crate::types::{Change, Losses, Problem, Settings};

/// What a worker serves. The proxy implements it; embedders use [`crate::Server`], which implements it
/// for them.
///
/// The runtime calls `prepare`, `drain` and `action` each in a thread of its own, so that the channel
/// to the supervisor is answered whatever they do; the other methods are called from the control
/// thread and should return within milliseconds. Panics in `prepare` and `action` are caught and reported.
pub trait Service: Send + Sync + 'static {
    /// Builds the next generation beside the one that serves, touching nothing that serves.
    ///
    /// May block, and may be abandoned: then [`Prepare::is_cancelled`] turns true, [`Prepare::bind`] and
    /// [`Prepare::read`] fail, and whatever is returned is dropped.
    ///
    /// # Errors
    /// Every reason why the generation cannot be served, all at once.
    fn prepare(&self, cx: &mut Prepare) -> Result<Box<dyn Candidate>, Vec<Problem>>;

    /// Stops taking new connections and lets what is in flight end. Returns when nothing is left, when the
    /// deadline has passed (what was cut then is counted), or when the drain was called off.
    ///
    /// Listeners stay open: what connects meanwhile waits in their queues.
    fn drain(&self, drain: &Drain) -> Losses;

    /// Serves again after [`Service::drain`] ended or was called off by the supervisor.
    fn resume(&self);

    /// Cuts everything at once and says how many connections that cost. The process exits afterwards.
    fn stop_now(&self) -> Losses;

    /// Prometheus text of this worker's own counters, without the final `# EOF`.
    fn metrics(&self) -> String {
        String::new()
    }

    /// A JSON array of the connections that are open, for `GET /v1/connections`.
    fn connections(&self) -> String {
        "[]".to_owned()
    }

    /// Takes the supervisor's own Prometheus text, for a metrics listener that serves both.
    fn facts(&self, _metrics: String) {}

    /// Reopens log files by name (signal USR1). The library reopens [`crate::logging`]'s own file itself.
    fn reopen_logs(&self) {}

    /// Names of the custom actions that [`Service::action`] knows.
    fn actions(&self) -> Vec<String> {
        Vec::new()
    }

    /// Runs a custom action; the sentence is the answer to `POST /v1/actions/{name}`.
    ///
    /// # Errors
    /// The sentence that says why it did not work; answered with status 500.
    fn action(&self, name: &str, _body: &str) -> Result<String, String> {
        Err(format!("there is no action named {name:?}"))
    }
}

/// A generation that is built and not yet served. Dropping it aborts: it must let go of all it holds and
/// leave what serves as it was.
pub trait Candidate: Send {
    /// What differs from the generation that serves; empty if nothing does.
    fn changes(&self) -> Vec<Change>;

    /// What works and deserves a look all the same.
    fn warnings(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// What the supervisor must know of this generation's configuration.
    fn settings(&self) -> Settings {
        Settings::default()
    }

    /// Lines for the banner that the supervisor prints at start, e.g. `http://127.0.0.1:8080 → 3 routes`.
    fn summary(&self) -> Vec<String> {
        Vec::new()
    }

    /// Switches to this generation. Cannot fail; returns when every thread has switched, so that no answer
    /// of the old generation follows the first one of the new.
    fn commit(self: Box<Self>);
}

/// One drain: its deadline, and the line to the supervisor.
#[derive(Debug, Clone)]
pub struct Drain {
    shared: Arc<DrainShared>,
}

#[derive(Debug)]
struct DrainShared {
    deadline: Instant,
    left: AtomicU64,
    end: Mutex<Option<DrainEnd>>,
    changed: Condvar,
}

/// Why a drain should end before everything is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainEnd {
    /// Its deadline has passed: cut what is left, and count it.
    Deadline,
    /// The supervisor asked to serve on: cut nothing; [`Service::resume`] follows.
    Resumed,
    /// A second stop: cut what is left at once, and count it.
    StopNow,
}

impl Drain {
    /// A drain that ends at the latest `limit` from now.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        let now = Instant::now();
        let deadline = now.checked_add(limit).unwrap_or(now);
        Self {
            shared: Arc::new(DrainShared {
                deadline,
                left: AtomicU64::new(0),
                end: Mutex::new(None),
                changed: Condvar::new(),
            }),
        }
    }

    /// When what is left must be cut.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.shared.deadline
    }

    /// Time until the deadline; zero once it has passed.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.shared.deadline.saturating_duration_since(Instant::now())
    }

    /// Says how many connections are still open. Cheap: call it whenever the number changes.
    pub fn progress(&self, connections: u64) {
        self.shared.left.store(connections, Ordering::Relaxed);
    }

    /// The number last given to [`Drain::progress`].
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.left.load(Ordering::Relaxed)
    }

    /// Whether the drain should end now, and why.
    #[must_use]
    pub fn ended(&self) -> Option<DrainEnd> {
        let end = *self.shared.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.or_else(|| self.remaining().is_zero().then_some(DrainEnd::Deadline))
    }

    /// Waits until the drain should end, at most `limit`.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> Option<DrainEnd> {
        let until = Instant::now() + limit.min(self.remaining());
        let mut end = self.shared.end.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if end.is_some() || left.is_zero() {
                break;
            }
            end = self.shared.changed.wait_timeout(end, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        end.or_else(|| self.remaining().is_zero().then_some(DrainEnd::Deadline))
    }

    /// Ends the drain early. The first reason stays, except that [`DrainEnd::StopNow`] overrides.
    pub fn end(&self, why: DrainEnd) {
        let mut end = self.shared.end.lock().unwrap_or_else(PoisonError::into_inner);
        if end.is_none() || why == DrainEnd::StopNow {
            *end = Some(why);
        }
        self.shared.changed.notify_all();
    }
}
