//! The result of a load, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::tally::Tally;

/// Latencies in microseconds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: histogram.max() }
    }
}

/// The result of one kind of load.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Part {
    pub(crate) ok: u64,
    pub(crate) failures: BTreeMap<&'static str, u64>,
    pub(crate) closed_idle: u64,
    pub(crate) connects: u64,
    pub(crate) bytes: u64,
    pub(crate) latency_us: Latency,
    /// Of the exchanges that ended while the mark was set, if it ever was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) marked_us: Option<Latency>,
}

/// The result of a whole mix.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) seconds: f64,
    pub(crate) parts: BTreeMap<&'static str, Part>,
}

impl Report {
    pub(crate) fn new(seconds: f64, tallies: &BTreeMap<&'static str, Tally>) -> Self {
        let parts = tallies.iter().map(|(name, tally)| (*name, part(tally))).collect();
        Self { seconds, parts }
    }

    /// Exchanges that went well, of every kind.
    pub(crate) fn ok(&self) -> u64 {
        self.parts.values().map(|part| part.ok).sum()
    }

    /// Failures of every kind, added up by kind.
    pub(crate) fn failures(&self) -> BTreeMap<&'static str, u64> {
        let mut sum = BTreeMap::new();
        for (kind, count) in self.parts.values().flat_map(|part| &part.failures) {
            *sum.entry(*kind).or_insert(0) += count;
        }
        sum
    }

    /// Exchanges a second.
    #[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    pub(crate) fn rate(&self) -> f64 {
        self.ok() as f64 / self.seconds
    }
}

fn part(tally: &Tally) -> Part {
    Part {
        ok: tally.ok,
        failures: tally.failures().map(|(kind, count)| (kind.name(), count)).collect(),
        closed_idle: tally.closed_idle,
        connects: tally.connects,
        bytes: tally.bytes,
        latency_us: Latency::of(&tally.latency),
        marked_us: (!tally.marked.is_empty()).then(|| Latency::of(&tally.marked)),
    }
}

/// `refused 3, reset 1`, or `none`.
pub(crate) fn counts(failures: &BTreeMap<&'static str, u64>) -> String {
    if failures.is_empty() {
        return "none".to_owned();
    }
    let words: Vec<String> = failures.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    words.join(", ")
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{:<12} {:>9} {:>8} {:>8} {:>7} {:>8} {:>8} {:>8} {:>9}  failures",
            "load", "ok", "per s", "connects", "closed", "p50 us", "p90 us", "p99 us", "max us"
        )?;
        for (name, part) in &self.parts {
            let latency = &part.latency_us;
            #[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
            let rate = part.ok as f64 / self.seconds;
            writeln!(
                out,
                "{name:<12} {:>9} {rate:>8.0} {:>8} {:>7} {:>8} {:>8} {:>8} {:>9}  {}",
                part.ok,
                part.connects,
                part.closed_idle,
                latency.p50,
                latency.p90,
                latency.p99,
                latency.max,
                counts(&part.failures)
            )?;
        }
        write!(out, "failures in all: {}", counts(&self.failures()))
    }
}
