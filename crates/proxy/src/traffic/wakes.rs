//! Programs that are started when somebody waits for them: how long, and how many, and whether that was said.
//!
//! ```text
//!   first that waits ──told──▶ the supervisor starts it ──▶ its endpoints are said: all that wait go on
//!   those after it   ──(told already)
//! ```
//!
//! With each message about traffic all is forgotten that was told: whoever has sent it may know nothing of that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use handover::WorkerHandle;
use handover::traffic::Wake;

use super::pauses::{Ticket, take_place};
use crate::clock::Ticks;

/// One such program.
#[derive(Debug)]
pub(crate) struct WakePlan {
    program: Arc<str>,
    /// Beside the time to connect.
    pub(crate) limit: Ticks,
    max_held: u32,
    held: Arc<AtomicU32>,
    told: AtomicBool,
    worker: Option<WorkerHandle>,
}

impl WakePlan {
    /// From now on; what waits already under `before` stays counted.
    pub(super) fn new(
        program: &str,
        wake: &Wake,
        before: Option<&Self>,
        worker: Option<&WorkerHandle>,
    ) -> Self {
        Self {
            program: program.into(),
            limit: Ticks::from(wake.limit),
            max_held: wake.max_held,
            held: before.map(|before| Arc::clone(&before.held)).unwrap_or_default(),
            told: AtomicBool::new(false),
            worker: worker.cloned(),
        }
    }

    /// Somebody waits: that is told once.
    pub(crate) fn tell(&self) {
        if !self.told.swap(true, Ordering::Relaxed)
            && let Some(worker) = &self.worker
        {
            worker.want_program(&self.program);
        }
    }

    /// A place among those that wait, if there is one. One that has a place keeps it.
    pub(crate) fn ticket(&self, present: Option<Ticket>) -> Option<Ticket> {
        take_place(&self.held, self.max_held, present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_and_anew_after_each_word_about_traffic_and_who_waits_stays_counted() {
        let wake = Wake { limit: std::time::Duration::from_secs(2), max_held: 1 };
        let first = WakePlan::new("lazy", &wake, None, None);
        first.tell();
        assert!(first.told.load(Ordering::Relaxed));
        let ticket = first.ticket(None);
        assert!(ticket.is_some() && first.ticket(None).is_none());
        let next = WakePlan::new("lazy", &wake, Some(&first), None);
        assert!(!next.told.load(Ordering::Relaxed));
        assert!(next.ticket(None).is_none());
        let kept = next.ticket(ticket);
        assert!(kept.is_some());
        drop(kept);
        assert!(next.ticket(None).is_some());
    }
}
