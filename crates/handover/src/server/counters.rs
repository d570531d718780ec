//! What a program counts so that a guard can tell whether a new generation fares worse than the one before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::Figures;

/// Counts what clients saw: see [`Server::counters`](super::Server::counters). Clones count together; counting costs one
/// or two atomic additions.
#[derive(Debug, Clone, Default)]
pub struct Counters(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    errors_5xx: AtomicU64,
    connects: AtomicU64,
    connect_failures: AtomicU64,
    handshakes: AtomicU64,
    handshake_failures: AtomicU64,
}

impl Counters {
    /// A request was answered with this status.
    pub fn request(&self, status: u16) {
        count(&self.0.requests, &self.0.errors_5xx, (500..=599).contains(&status));
    }

    /// A connection to something that the server needs was tried.
    pub fn connect(&self, worked: bool) {
        count(&self.0.connects, &self.0.connect_failures, !worked);
    }

    /// A TLS handshake with a client has ended.
    pub fn handshake(&self, worked: bool) {
        count(&self.0.handshakes, &self.0.handshake_failures, !worked);
    }

    fn parts(&self) -> [&AtomicU64; 6] {
        let Counts { requests, errors_5xx, connects, connect_failures, handshakes, handshake_failures } =
            &*self.0;
        [requests, errors_5xx, connects, connect_failures, handshakes, handshake_failures]
    }

    /// Another worker has counted this far.
    pub(crate) fn set(&self, figures: &Figures) {
        for (count, figure) in self.parts().into_iter().zip(parts_of(figures)) {
            count.store(figure, Ordering::Relaxed);
        }
    }

    /// Another worker has counted this, beside this one.
    pub(crate) fn add(&self, figures: &Figures) {
        for (count, figure) in self.parts().into_iter().zip(parts_of(figures)) {
            count.fetch_add(figure, Ordering::Relaxed);
        }
    }

    /// The totals so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        // The failures first: one that is counted in between is then not more than all.
        let (errors_5xx, connect_failures) = (of(&self.0.errors_5xx), of(&self.0.connect_failures));
        let handshake_failures = of(&self.0.handshake_failures);
        Figures {
            requests: of(&self.0.requests),
            errors_5xx,
            connects: of(&self.0.connects),
            connect_failures,
            handshakes: of(&self.0.handshakes),
            handshake_failures,
        }
    }
}

fn parts_of(figures: &Figures) -> [u64; 6] {
    let Figures { requests, errors_5xx, connects, connect_failures, handshakes, handshake_failures } =
        *figures;
    [requests, errors_5xx, connects, connect_failures, handshakes, handshake_failures]
}

fn count(all: &AtomicU64, bad: &AtomicU64, is_bad: bool) {
    all.fetch_add(1, Ordering::Relaxed);
    if is_bad {
        bad.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_from_500_to_599_are_errors_and_clones_count_together() {
        let counters = Counters::default();
        for status in [200, 404, 499, 500, 599, 600] {
            counters.clone().request(status);
        }
        counters.connect(true);
        counters.handshake(false);
        let expected = Figures {
            requests: 6,
            errors_5xx: 2,
            connects: 1,
            connect_failures: 0,
            handshakes: 1,
            handshake_failures: 1,
        };
        assert_eq!(counters.figures(), expected);
        // What another worker has counted is gone on from, and added to.
        let other = Counters::default();
        other.request(500);
        other.set(&expected);
        other.add(&expected);
        assert_eq!((other.figures().requests, other.figures().handshake_failures), (12, 2));
    }
}
