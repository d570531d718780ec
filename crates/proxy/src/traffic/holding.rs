//! One thread's requests and connections that are held, and those that wait for an endpoint that does not answer.
//!
//! ```text
//!   held:     enter ──(something changed: a pass over all, in order of arrival, some in each beat)──▶ run: goes on, or is held again
//!                └── the client goes, or its time is over ──▶ leave
//!   waiting:  wait  ──some in each beat, first come first served──▶ run: tries once more
//! ```
//!
//! Pure: the loop runs them. Nothing here costs anything while nothing is held.

use std::collections::{BTreeSet, VecDeque};

use crate::reactor::ConnKey;

/// Time between two beats (µs).
const BEAT_US: u64 = 10_000;
/// So many of those that are held go on in one beat: when ten thousand do, each endpoint gets its share after the other.
const RELEASED_PER_BEAT: usize = 250;
/// So many try once more in one beat to reach an endpoint that refused them.
const RETRIES_PER_BEAT: usize = 64;

/// When it came (µs), and what it is.
type Entry = (u64, u32, u32);

fn entry(came_us: u64, key: ConnKey) -> Entry {
    (came_us, key.index, key.stamp)
}

fn key((_, index, stamp): Entry) -> ConnKey {
    ConnKey { index, stamp }
}

/// One thread's.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    held: BTreeSet<Entry>,
    /// What is looked at next, and last.
    pass: Option<(Entry, Entry)>,
    waiting: VecDeque<ConnKey>,
    next_beat_us: u64,
    /// It is the turn of the connection that runs now to try once more.
    pub(crate) may_retry: bool,
}

impl Holding {
    /// Something is held that came at this time. True if it was not held before.
    pub(crate) fn enter(&mut self, came_us: u64, key: ConnKey) -> bool {
        self.held.insert(entry(came_us, key))
    }

    /// It is not held any more.
    pub(crate) fn leave(&mut self, came_us: u64, key: ConnKey) -> bool {
        self.held.remove(&entry(came_us, key))
    }

    /// It waits until it may try again.
    pub(crate) fn wait(&mut self, key: ConnKey) {
        self.waiting.push_back(key);
    }

    /// Something has changed: all that are held are looked at once more.
    pub(crate) fn begin_pass(&mut self) {
        self.pass = self.held.first().copied().zip(self.held.last().copied());
        self.next_beat_us = 0;
    }

    /// When the next beat is due; `None` if nothing needs one.
    pub(crate) fn next_beat(&self) -> Option<u64> {
        (self.pass.is_some() || !self.waiting.is_empty()).then_some(self.next_beat_us)
    }

    /// It is time for a beat: those that go on, and those that try again after them.
    pub(crate) fn beat(&mut self, now_us: u64) -> Beat {
        self.next_beat_us = now_us + BEAT_US;
        let retry = self.waiting.len().min(RETRIES_PER_BEAT);
        Beat { go_on: self.some(RELEASED_PER_BEAT), retry: self.waiting.drain(..retry).collect() }
    }

    /// All at once.
    pub(crate) fn all(&mut self) -> Beat {
        self.begin_pass();
        Beat { go_on: self.some(usize::MAX), retry: self.waiting.drain(..).collect() }
    }

    fn some(&mut self, most: usize) -> Vec<ConnKey> {
        let Some((next, last)) = self.pass.take() else { return Vec::new() };
        let mut rest = self.held.range(next..=last);
        let some = rest.by_ref().take(most).copied().map(key).collect();
        self.pass = rest.next().copied().map(|next| (next, last));
        some
    }
}

/// Who runs in a beat.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Beat {
    pub(crate) go_on: Vec<ConnKey>,
    pub(crate) retry: Vec<ConnKey>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(index: u32) -> ConnKey {
        ConnKey { index, stamp: 7 }
    }

    #[test]
    fn what_is_held_goes_on_in_the_order_in_which_it_came_some_in_each_beat() {
        let mut holding = Holding::default();
        assert_eq!(holding.next_beat(), None);
        for index in 0..600 {
            // The last one in the table came first.
            assert!(holding.enter(u64::from(1_000 - index), number(index)));
        }
        assert_eq!(holding.next_beat(), None, "nothing has changed");
        holding.begin_pass();
        let mut order = Vec::new();
        let mut now = 5_000;
        while let Some(due) = holding.next_beat() {
            now = due.max(now);
            let Beat { go_on, retry } = holding.beat(now);
            assert!(go_on.len() <= RELEASED_PER_BEAT && retry.is_empty());
            order.extend(go_on.iter().map(|key| key.index));
            // Each second one is held again: it is not looked at twice.
            for key in go_on.into_iter().filter(|key| key.index % 2 == 0) {
                assert!(holding.leave(u64::from(1_000 - key.index), key));
            }
        }
        assert_eq!(order, (0..600).rev().collect::<Vec<_>>());
        assert_eq!(now, 5_000 + 2 * BEAT_US);
        assert_eq!(holding.all().go_on.len(), 300);
    }

    #[test]
    fn those_that_wait_for_an_endpoint_try_in_turn() {
        let mut holding = Holding::default();
        (0..100).for_each(|index| holding.wait(number(index)));
        let first = holding.beat(0);
        assert_eq!((first.go_on.len(), first.retry.len()), (0, RETRIES_PER_BEAT));
        first.retry.into_iter().for_each(|key| holding.wait(key));
        let second: Vec<_> = holding.beat(BEAT_US).retry.iter().map(|key| key.index).collect();
        assert_eq!(second, (64..100).chain(0..28).collect::<Vec<_>>());
    }
}
