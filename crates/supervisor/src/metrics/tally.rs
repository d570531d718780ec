//! Counters that can be written down: the library's own can only be shown.
//!
//! ```text
//!   counted ─┬─▶ the library's counter ─▶ text           saved ─▶ (another image of this process) ─▶ restored
//!            └─▶ tally ─▶ saved                                        counted from zero, up to what was saved
//! ```

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use serde::{Deserialize, Serialize};

/// Buckets of a histogram, beside the one above all.
const BUCKETS: u16 = 16;
/// The most observations of one bucket that are made once more: more are counted as so many.
const MAX_REPEATED: u64 = 1_000_000;

/// The supervisor's counters, written down.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedMetrics {
    /// Operations that ended: by kind, then by outcome.
    pub(crate) operations: BTreeMap<String, BTreeMap<String, u64>>,
    /// Requests that were refused, by reason.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Connections that were handed over, by kind.
    pub(crate) moved: BTreeMap<String, u64>,
    /// Whether the last operation succeeded.
    pub(crate) last_success: i64,
    /// Whether the disk has what serves.
    pub(crate) equals_desired: i64,
    /// The last generation that needed no confirmation.
    pub(crate) confirmed: i64,
    /// How long reloads took.
    pub(crate) reloads: Vec<SavedBucket>,
    /// How long upgrades took.
    pub(crate) upgrades: Vec<SavedBucket>,
    /// How long nothing was served.
    pub(crate) freeze: Vec<SavedBucket>,
}

/// What was observed between two bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedBucket {
    /// How often.
    pub(crate) count: u64,
    /// The sum.
    pub(crate) sum: f64,
}

/// The counters by label.
#[derive(Debug, Default)]
pub(super) struct Tallies(Mutex<SavedMetrics>);

impl Tallies {
    fn now(&self) -> MutexGuard<'_, SavedMetrics> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ended(&self, kind: &str, outcome: &str) {
        let mut now = self.now();
        *now.operations.entry(kind.to_owned()).or_default().entry(outcome.to_owned()).or_default() += 1;
    }

    pub(super) fn refused(&self, reason: &str) {
        *self.now().refused.entry(reason.to_owned()).or_default() += 1;
    }

    pub(super) fn moved(&self, kind: &str, count: u64) {
        *self.now().moved.entry(kind.to_owned()).or_default() += count;
    }

    pub(super) fn save(&self) -> SavedMetrics {
        self.now().clone()
    }

    pub(super) fn restore(&self, saved: &SavedMetrics) {
        let SavedMetrics { operations, refused, moved, .. } = saved.clone();
        *self.now() = SavedMetrics { operations, refused, moved, ..SavedMetrics::default() };
    }
}

/// A histogram of seconds.
#[derive(Debug)]
pub(super) struct Observed {
    histogram: Histogram,
    bounds: Vec<f64>,
    buckets: Mutex<Vec<SavedBucket>>,
}

impl Observed {
    /// With bounds from `least` on, each twice the one before.
    pub(super) fn new(least: f64) -> Self {
        let bounds: Vec<f64> = exponential_buckets(least, 2.0, BUCKETS).collect();
        let buckets = vec![SavedBucket::default(); bounds.len() + 1];
        Self { histogram: Histogram::new(bounds.iter().copied()), bounds, buckets: Mutex::new(buckets) }
    }

    /// As the library shows it.
    pub(super) fn histogram(&self) -> Histogram {
        self.histogram.clone()
    }

    fn now(&self) -> MutexGuard<'_, Vec<SavedBucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn observe(&self, seconds: f64) {
        self.histogram.observe(seconds);
        let at = self.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(self.bounds.len());
        if let Some(bucket) = self.now().get_mut(at) {
            bucket.count += 1;
            bucket.sum += seconds;
        }
    }

    pub(super) fn save(&self) -> Vec<SavedBucket> {
        self.now().clone()
    }

    /// Observes the mean of each bucket as often as something was observed in it: the mean of what is between two bounds
    /// is between them, too, so that counts and sum are what they were.
    pub(super) fn restore(&self, saved: &[SavedBucket]) {
        for bucket in saved.iter().filter(|bucket| bucket.count > 0) {
            #[allow(clippy::cast_precision_loss, reason = "a mean")]
            let mean = bucket.sum / bucket.count as f64;
            for _ in 0..bucket.count.min(MAX_REPEATED) {
                self.histogram.observe(mean);
            }
        }
        let mut now = self.now();
        for (bucket, saved) in now.iter_mut().zip(saved) {
            *bucket = *saved;
        }
    }
}
