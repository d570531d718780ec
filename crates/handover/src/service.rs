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

use std::time::Duration;

use crate::drain::Drain;
use crate::moving::Moving;
use crate::prepare::{CalledOff, Prepare};
use crate::traffic::{Quiet, Target, Traffic};
use crate::types::{Change, Figures, Losses, Problem, Settings};
use crate::watch::Watch;
use crate::worker::WorkerHandle;

/// What a worker serves. The proxy implements it; embedders use [`crate::Server`], which implements it
/// for them.
///
/// The runtime calls `prepare`, `drain`, `resume`, `action` and the reports each in a thread of its own, so that the
/// channel to the supervisor is answered whatever they do; [`Candidate::commit`] and the other methods are called
/// from the control thread and should return within milliseconds. Panics in `prepare`, `drain` and `action` are
/// caught and reported.
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

    /// The server is about to end: takes in what waits in the accept queues, then closes every listening socket, so
    /// that who connects from now on is refused and not left waiting. A drain or a stop follows.
    fn close_listeners(&self) {}

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

    /// How many connections are open, for `status`; `None` if that is not known. It is asked for often and must be
    /// cheap. By default what [`Service::metrics`] says under `handover_open_connections`, all labels together.
    fn open_connections(&self) -> Option<u64> {
        sum_of(&self.metrics(), "handover_open_connections")
    }

    /// The totals that a guarded change is judged by; `None` if this service has none, and then a guard sees only whether
    /// the worker lives. It is asked for once a second and must be cheap.
    fn figures(&self) -> Option<Figures> {
        None
    }

    /// A JSON array of the certificates that are served and presented, for `GET /v1/certificates`; empty if
    /// this service has no notion of them.
    fn certificates(&self) -> String {
        String::new()
    }

    /// A JSON object of how many requests each pause holds now, by what is paused (`program web`); empty if nothing is, or this
    /// service holds nothing.
    fn held(&self) -> String {
        "{}".to_owned()
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
    /// Files that it reads through `files` come from the disk; once it has worked they replace those of the same
    /// path in the bundle of the generation that serves. `bind` is of no use there.
    ///
    /// # Errors
    /// The sentence that says why it did not work; answered with status 500.
    fn action(&self, name: &str, _body: &str, _files: &mut Prepare) -> Result<String, String> {
        Err(format!("there is no action named {name:?}"))
    }

    /// Says where requests for programs go, what is taken out, and what is held: all of it, in place of what was said
    /// before. Returns when every thread acts on it. What was said before a [`Candidate::commit`] holds from its first
    /// request on; it may come before the first generation, and outlives them all.
    ///
    /// By default nothing: a service that passes nothing to programs has no use for it.
    fn traffic(&self, _traffic: Traffic) {}

    /// Waits until nothing of this is in flight any more, for `limit` at most, or until nobody waits for the answer; cuts
    /// nothing. May block: it has a thread of its own.
    fn quiet(&self, _target: &Target, _limit: Duration, _called_off: &CalledOff) -> Quiet {
        Quiet::default()
    }

    /// How its live connections move to another worker; `None` if they cannot, and then the new worker accepts while
    /// this one drains.
    fn moving(&self) -> Option<&dyn Moving> {
        None
    }

    /// Called once, before anything else, with a handle to the worker that hosts this service.
    fn attach(&self, _worker: WorkerHandle) {}
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

    /// What is to be watched while this generation serves, so that it is reloaded by itself; `None` for nothing.
    fn watch(&self) -> Option<Watch> {
        None
    }

    /// Switches to this generation. Cannot fail; returns when every thread has switched, so that no answer
    /// of the old generation follows the first one of the new.
    fn commit(self: Box<Self>);
}

/// The sum of all series of a metric in a Prometheus text; `None` if there is none.
fn sum_of(text: &str, metric: &str) -> Option<u64> {
    let series = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(metric).filter(|rest| rest.starts_with(['{', ' ']))?;
        rest.rsplit(' ').next()?.parse::<u64>().ok()
    });
    series.fold(None, |sum, value| Some(sum.unwrap_or(0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_of_a_metric_are_added_and_those_of_others_are_not() {
        let text = "# TYPE a gauge\na{kind=\"x y\"} 3\na{kind=\"z\"} 4\na_total 9\nb 5\n";
        assert_eq!(sum_of(text, "a"), Some(7));
        assert_eq!(sum_of(text, "b"), Some(5));
        assert_eq!(sum_of(text, "c"), None);
    }
}
