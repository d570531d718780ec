//! The supervisor's own metrics.
//!
//! | name | what |
//! |---|---|
//! | `handover_generation` | number of the generation that serves |
//! | `handover_generation_confirmed` | number of the generation that serves or served last without awaiting confirmation |
//! | `handover_pending_change` | 1 while a change awaits confirmation |
//! | `handover_operations_total{kind,outcome}` | operations that ended |
//! | `handover_requests_refused_total{reason}` | requests that never became an operation |
//! | `handover_last_operation_success` | 1 if the last operation that could change what serves succeeded |
//! | `handover_running_equals_desired` | 1 if the files on disk are those that serve |
//! | `handover_worker_restarts_total` | workers that died and were replaced |
//! | `handover_reload_duration_seconds` | from a reload's admission to its outcome |
//! | `handover_upgrade_duration_seconds` | from an upgrade's admission to its outcome |
//! | `handover_connections_moved_total{kind}` | connections that one worker has handed over to another |
//! | `handover_handoff_freeze_seconds` | for how long nothing was served while they were |
//! | `handover_program_…` | see `programs.rs` |
//!
//! An alarm belongs on `handover_running_equals_desired`: it follows what is, so that it ends when the good file
//! is back, whether or not anybody reloads.

mod programs;
mod tally;

use std::collections::BTreeMap;
use std::time::Duration;

use handover_api::{Operation, Outcome};
use handover_lifecycle::Kind;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

pub(crate) use programs::text_of_programs;
pub(crate) use tally::SavedMetrics;
use tally::{Observed, Tallies};

/// Ends a text of metrics in the OpenMetrics format.
const END: &str = "# EOF\n";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    kind: String,
    outcome: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedFor {
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Moved {
    kind: String,
}

/// The supervisor's own metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    generation: Gauge,
    confirmed: Gauge,
    pending: Gauge,
    operations: Family<Ended, Counter>,
    refused: Family<RefusedFor, Counter>,
    last_success: Gauge,
    equals_desired: Gauge,
    restarts: Counter,
    reloads: Observed,
    upgrades: Observed,
    moved: Family<Moved, Counter>,
    freeze: Observed,
    /// The same once more, to be saved.
    tallies: Tallies,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Metrics {
            registry: Registry::with_prefix("handover"),
            generation: Gauge::default(),
            confirmed: Gauge::default(),
            pending: Gauge::default(),
            operations: Family::default(),
            refused: Family::default(),
            last_success: Gauge::default(),
            equals_desired: Gauge::default(),
            restarts: Counter::default(),
            // 1 ms to 32 s.
            reloads: Observed::new(0.001),
            // 10 ms to 5 min.
            upgrades: Observed::new(0.01),
            moved: Family::default(),
            // 0.1 ms to 3 s.
            freeze: Observed::new(0.0001),
            tallies: Tallies::default(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("generation", "Number of the generation that serves", self.generation.clone());
        let confirmed = "Number of the generation that served last without awaiting confirmation";
        registry.register("generation_confirmed", confirmed, self.confirmed.clone());
        let pending = "Whether a change awaits confirmation";
        registry.register("pending_change", pending, self.pending.clone());
        registry.register("operations", "Operations that ended", self.operations.clone());
        let refused = "Requests that never became an operation";
        registry.register("requests_refused", refused, self.refused.clone());
        let success = "Whether the last operation that could change what serves succeeded";
        registry.register("last_operation_success", success, self.last_success.clone());
        let equals = "Whether the files on disk are those that serve";
        registry.register("running_equals_desired", equals, self.equals_desired.clone());
        registry.register("worker_restarts", "Workers that died and were replaced", self.restarts.clone());
        let duration = "From a reload's admission to its outcome";
        registry.register("reload_duration_seconds", duration, self.reloads.histogram());
        let duration = "From an upgrade's admission to its outcome";
        registry.register("upgrade_duration_seconds", duration, self.upgrades.histogram());
        let moved = "Connections that one worker has handed over to another";
        registry.register("connections_moved", moved, self.moved.clone());
        let freeze = "For how long nothing was served while connections were handed over";
        registry.register("handoff_freeze_seconds", freeze, self.freeze.histogram());
        self
    }

    /// An operation has ended.
    pub(crate) fn ended(&self, operation: &Operation) {
        let outcome = operation.outcome.unwrap_or(Outcome::Unknown);
        let labels = Ended { kind: operation.kind.as_str().to_owned(), outcome: outcome.as_str().to_owned() };
        self.operations.get_or_create(&labels).inc();
        self.tallies.ended(&labels.kind, &labels.outcome);
        if operation.kind != Kind::DryRun {
            // That nobody can say what became of a signal is no failure.
            self.last_success.set(i64::from(outcome.is_success() || outcome == Outcome::Sent));
        }
        match operation.kind {
            Kind::Reload => self.reloads.observe(operation.ms / 1000.0),
            Kind::Upgrade => self.upgrades.observe(operation.ms / 1000.0),
            _ => {}
        }
    }

    /// These connections were handed over; nothing was served for that long.
    pub(crate) fn moved(&self, moved: &BTreeMap<String, u64>, freeze: Duration) {
        self.moved_late(moved);
        self.freeze.observe(freeze.as_secs_f64());
    }

    /// These were handed over afterwards, while the rest was served.
    pub(crate) fn moved_late(&self, moved: &BTreeMap<String, u64>) {
        for (kind, count) in moved {
            self.moved.get_or_create(&Moved { kind: kind.clone() }).inc_by(*count);
            self.tallies.moved(kind, *count);
        }
    }

    /// A request was refused.
    pub(crate) fn refused(&self, operation: &Operation) {
        let reason = operation.refused.clone().unwrap_or_default();
        self.tallies.refused(&reason);
        self.refused.get_or_create(&RefusedFor { reason }).inc();
    }

    /// This generation serves.
    pub(crate) fn serves(&self, generation: u64) {
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// This generation serves, and awaits no confirmation.
    pub(crate) fn confirmed(&self, generation: u64) {
        self.confirmed.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// A change awaits confirmation, or none does.
    pub(crate) fn pending(&self, pending: bool) {
        self.pending.set(i64::from(pending));
    }

    /// The files on disk are, or are not, those that serve.
    pub(crate) fn equals_desired(&self, equal: bool) {
        self.equals_desired.set(i64::from(equal));
    }

    /// This many workers were replaced since the start.
    pub(crate) fn restarts(&self, count: u64) {
        self.restarts.inc_by(count.saturating_sub(self.restarts.get()));
    }

    /// What the next image of this process goes on counting from.
    pub(crate) fn save(&self) -> SavedMetrics {
        SavedMetrics {
            last_success: self.last_success.get(),
            equals_desired: self.equals_desired.get(),
            confirmed: self.confirmed.get(),
            reloads: self.reloads.save(),
            upgrades: self.upgrades.save(),
            freeze: self.freeze.save(),
            ..self.tallies.save()
        }
    }

    /// Goes on counting from what another image of this process has counted.
    pub(crate) fn restore(&self, saved: &SavedMetrics) {
        for ((kind, outcome), count) in saved.operations.iter().flat_map(|(kind, by_outcome)| {
            by_outcome.iter().map(move |(outcome, count)| ((kind, outcome), *count))
        }) {
            let labels = Ended { kind: kind.clone(), outcome: outcome.clone() };
            self.operations.get_or_create(&labels).inc_by(count);
        }
        for (reason, count) in &saved.refused {
            self.refused.get_or_create(&RefusedFor { reason: reason.clone() }).inc_by(*count);
        }
        for (kind, count) in &saved.moved {
            self.moved.get_or_create(&Moved { kind: kind.clone() }).inc_by(*count);
        }
        self.last_success.set(saved.last_success);
        self.equals_desired.set(saved.equals_desired);
        self.confirmed.set(saved.confirmed);
        self.reloads.restore(&saved.reloads);
        self.upgrades.restore(&saved.upgrades);
        self.freeze.restore(&saved.freeze);
        self.tallies.restore(saved);
    }

    /// All of them as text, without its end.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        if let Err(error) = text::encode(&mut out, &self.registry) {
            tracing::warn!("cannot write the metrics: {error}");
        }
        out.truncate(out.strip_suffix(END).map_or(out.len(), str::len));
        out
    }
}

/// The supervisor's and the worker's metrics as one text.
pub(crate) fn whole(ours: &str, workers: Option<&str>) -> String {
    let workers = workers.unwrap_or_default();
    let workers = workers.strip_suffix(END).unwrap_or(workers);
    let break_between = if workers.is_empty() || workers.ends_with('\n') { "" } else { "\n" };
    format!("{ours}{workers}{break_between}{END}")
}

#[cfg(test)]
mod tests {
    use handover_api::{Actor, Cause};

    use super::*;

    fn ended(kind: Kind, outcome: Outcome) -> Operation {
        let mut operation = Operation::running("1", kind, Actor::supervisor(), "");
        operation.finish(outcome, Cause::Done, 3.0);
        operation
    }

    #[test]
    fn the_text_says_what_happened() {
        let metrics = Metrics::new();
        metrics.ended(&ended(Kind::Start, Outcome::Applied));
        metrics.ended(&ended(Kind::Reload, Outcome::Rejected));
        metrics.ended(&ended(Kind::DryRun, Outcome::Unchanged));
        metrics.serves(7);
        metrics.restarts(2);
        metrics.restarts(2);
        metrics.ended(&ended(Kind::Upgrade, Outcome::RolledBack));
        let moved = [("http".to_owned(), 5), ("tcp".to_owned(), 1)].into();
        metrics.moved(&moved, Duration::from_millis(7));
        metrics.moved_late(&[("http".to_owned(), 2)].into());
        let text = metrics.text();
        for line in [
            "handover_operations_total{kind=\"reload\",outcome=\"rejected\"} 1",
            "handover_last_operation_success 0",
            "handover_generation 7",
            "handover_worker_restarts_total 2",
            "handover_reload_duration_seconds_count 1",
            "handover_operations_total{kind=\"upgrade\",outcome=\"rolled_back\"} 1",
            "handover_upgrade_duration_seconds_count 1",
            "handover_connections_moved_total{kind=\"http\"} 7",
            "handover_handoff_freeze_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn the_next_image_goes_on_counting() {
        let metrics = Metrics::new();
        for ms in [3.0, 40.0, 41.0, 1e9] {
            let mut operation = ended(Kind::Reload, Outcome::Applied);
            operation.ms = ms;
            metrics.ended(&operation);
        }
        metrics.ended(&ended(Kind::Upgrade, Outcome::RolledBack));
        metrics.moved(&BTreeMap::from([("http".to_owned(), 7)]), Duration::from_micros(900));
        metrics.equals_desired(true);
        metrics.confirmed(3);
        let saved: SavedMetrics =
            serde_json::from_str(&serde_json::to_string(&metrics.save()).unwrap()).unwrap();
        let next = Metrics::new();
        next.restore(&saved);
        let sorted = |metrics: &Metrics| {
            let mut lines: Vec<String> = metrics.text().lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&next), sorted(&metrics));
        assert_eq!(next.save(), saved, "once more");
    }

    #[test]
    fn two_texts_become_one_with_one_end() {
        assert_eq!(whole("a 1\n", Some("b 2")), "a 1\nb 2\n# EOF\n");
        assert_eq!(whole("a 1\n", Some("b 2\n# EOF\n")), "a 1\nb 2\n# EOF\n");
        assert_eq!(whole("a 1\n", None), "a 1\n# EOF\n");
    }
}
