//! What is counted.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::failure::Failure;

/// Latencies above this are recorded as this.
const LONGEST_US: u64 = 120_000_000;
/// Significant decimal digits that a histogram keeps.
const DIGITS: u8 = 3;

/// The counts of one kind of load on one thread; merged at the end.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Exchanges that went well.
    pub(crate) ok: u64,
    /// Failures, in the order of [`Failure::ALL`].
    failures: [u64; Failure::ALL.len()],
    /// Kept connections that the server ended between two requests: its right, and no failure.
    pub(crate) closed_idle: u64,
    /// Connections opened.
    pub(crate) connects: u64,
    /// Bytes of bodies received.
    pub(crate) bytes: u64,
    /// Time from when a request was due until its response was whole, in microseconds.
    pub(crate) latency: Histogram<u64>,
    /// The same, of exchanges that ended while the mark was set.
    pub(crate) marked: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            ok: 0,
            failures: Default::default(),
            closed_idle: 0,
            connects: 0,
            bytes: 0,
            latency: histogram(),
            marked: histogram(),
        }
    }
}

#[allow(clippy::expect_used, reason = "its arguments are constants that are allowed")]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LONGEST_US, DIGITS).expect("bounds")
}

impl Tally {
    /// Counts an exchange that went well.
    pub(crate) fn success(&mut self, took: Duration, bytes: u64, marked: bool) {
        self.ok += 1;
        self.bytes += bytes;
        let us = u64::try_from(took.as_micros()).unwrap_or(LONGEST_US);
        self.latency.saturating_record(us);
        if marked {
            self.marked.saturating_record(us);
        }
    }

    /// Counts a failure.
    pub(crate) fn failure(&mut self, failure: Failure) {
        for (kind, count) in Failure::ALL.into_iter().zip(&mut self.failures) {
            *count += u64::from(kind == failure);
        }
    }

    /// The failures that happened, by kind.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (Failure, u64)> + '_ {
        Failure::ALL.into_iter().zip(self.failures).filter(|(_, count)| *count > 0)
    }

    /// Adds another thread's counts.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.ok += other.ok;
        self.closed_idle += other.closed_idle;
        self.connects += other.connects;
        self.bytes += other.bytes;
        for (mine, theirs) in self.failures.iter_mut().zip(other.failures) {
            *mine += theirs;
        }
        // Both have the same bounds, so that nothing can fail to fit.
        let _ = self.latency.add(&other.latency);
        let _ = self.marked.add(&other.marked);
    }
}
