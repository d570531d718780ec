//! Waiting until nothing of something is in flight any more.
//!
//! ```text
//!   who waits ──Census──▶ each thread: counts its table, says it; whenever something has happened since, and at most once in 10 ms,
//!             ◀──counts──              counts again, and says it if it is another number
//! ```
//!
//! Requests never change threads, so the sum of what the threads have said last is exact once nothing new can begin; that is what a
//! pause, or an endpoint switched off, makes sure of. The hot path counts nothing for it.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use handover::CalledOff;
use handover::traffic::{Quiet, Target};

use crate::event_loop::Command;
use crate::threads::Threads;

/// A thread counts again after this time at the earliest (µs).
const COUNT_AGAIN_US: u64 = 10_000;
/// A thread answers within microseconds; who does not within this time is not waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Whether anybody still waits for the answer is looked at this often.
const LOOK: Duration = Duration::from_millis(50);

/// What of something is in progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// In flight.
    pub(crate) left: u64,
    /// Held, or waiting for an endpoint.
    pub(crate) held: u64,
}

/// A question to a thread.
#[derive(Debug)]
pub(crate) struct Census {
    pub(crate) target: Target,
    /// Gets the thread's number with each count.
    pub(crate) tell: Sender<(usize, Count)>,
    /// Dropped by who asked when nobody waits for counts any more.
    pub(crate) wanted: Weak<()>,
}

impl Census {
    fn is_over(&self) -> bool {
        self.wanted.strong_count() == 0
    }
}

#[derive(Debug)]
struct Watch {
    census: Census,
    said: Count,
}

/// The questions that one thread answers.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    all: Vec<Watch>,
    next_us: u64,
    /// Something has happened since the last count.
    stale: bool,
}

impl Watches {
    /// One more; its first answer.
    pub(crate) fn add(&mut self, thread: usize, census: Census, said: Count) {
        self.all.retain(|watch| !watch.census.is_over());
        // Who asked may have gone by now.
        let _ = census.tell.send((thread, said));
        self.all.push(Watch { census, said });
    }

    /// Something has happened.
    #[inline]
    pub(crate) fn note(&mut self) {
        self.stale = !self.all.is_empty();
    }

    /// When it is time to count again; `None`: nothing has happened, or nobody asks.
    pub(crate) fn next_us(&self) -> Option<u64> {
        self.stale.then_some(self.next_us)
    }

    /// Counts again, if it is time.
    pub(crate) fn count(&mut self, thread: usize, now_us: u64, count: impl Fn(&Target) -> Count) {
        if !self.stale || now_us < self.next_us {
            return;
        }
        self.stale = false;
        self.next_us = now_us + COUNT_AGAIN_US;
        self.all.retain(|watch| !watch.census.is_over());
        for watch in &mut self.all {
            let now = count(&watch.census.target);
            if std::mem::replace(&mut watch.said, now) != now {
                let _ = watch.census.tell.send((thread, now));
            }
        }
    }
}

/// Asks all threads, and waits until nothing is left, for `limit` at most, or until nobody waits any more.
pub(crate) fn wait_for_quiet(
    threads: &Threads,
    target: &Target,
    limit: Duration,
    called_off: &CalledOff,
) -> Quiet {
    let begun = Instant::now();
    let (tell, counts) = channel();
    let mut known: Vec<Option<Count>> = vec![None; threads.count()];
    let wanted = Arc::new(());
    let census = || Census { target: target.clone(), tell: tell.clone(), wanted: Arc::downgrade(&wanted) };
    threads.tell(|| Command::Census(census()));
    drop(tell);
    loop {
        let all = known.iter().all(Option::is_some);
        // However short the time is, what there is can be said.
        let limit = if all { limit } else { limit.max(ANSWER_LIMIT) };
        let left = limit.saturating_sub(begun.elapsed());
        let quiet = sum(&known);
        if (all && quiet.left == 0) || left.is_zero() || called_off.is_set() {
            return quiet;
        }
        match counts.recv_timeout(left.min(LOOK)) {
            Ok((thread, count)) => {
                if let Some(place) = known.get_mut(thread) {
                    *place = Some(count);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            // The threads have ended.
            Err(RecvTimeoutError::Disconnected) => return sum(&known),
        }
    }
}

/// A thread that has not answered yet may have something.
fn sum(known: &[Option<Count>]) -> Quiet {
    let mut quiet = Quiet::default();
    for count in known {
        let count = count.unwrap_or(Count { left: 1, held: 0 });
        quiet.left += count.left;
        quiet.held += count.held;
    }
    quiet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_says_what_changes_not_too_often_and_to_nobody_who_has_gone() {
        let (tell, counts) = channel();
        let wanted = Arc::new(());
        let target = Target::Service("app".to_owned());
        let census =
            || Census { target: target.clone(), tell: tell.clone(), wanted: Arc::downgrade(&wanted) };
        let mut watches = Watches::default();
        let count = |left| Count { left, held: 0 };
        watches.note();
        assert_eq!(watches.next_us(), None, "nobody asks");
        watches.add(1, census(), count(3));
        assert_eq!(counts.try_recv(), Ok((1, count(3))));
        assert_eq!(watches.next_us(), None, "nothing has happened");
        watches.note();
        watches.count(1, 5, |_| count(2));
        assert_eq!(counts.try_recv(), Ok((1, count(2))));
        watches.note();
        watches.count(1, 5 + COUNT_AGAIN_US - 1, |_| count(1));
        assert!(counts.try_recv().is_err(), "too early");
        assert_eq!(watches.next_us(), Some(5 + COUNT_AGAIN_US));
        watches.count(1, 5 + COUNT_AGAIN_US, |_| count(2));
        assert!(counts.try_recv().is_err(), "as before");
        drop(wanted);
        watches.note();
        watches.count(1, 5 + 2 * COUNT_AGAIN_US, |_| count(0));
        assert!(counts.try_recv().is_err() && watches.all.is_empty());
    }
}
