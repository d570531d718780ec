//! What is held goes on, tries again, is answered: when something has changed, and when its time has come.
//!
//! ```text
//!   Traffic, another generation, a pause's time is over, a drain begins ──▶ a pass: all that are held, in order of arrival
//!   beats (10 ms) while a pass goes on, or somebody waits for an endpoint ──▶ some of them run
//! ```
//!
//! A TCP listener that is paused, by itself or by where it leads, accepts nothing: its connections wait in the queue.

use super::*;
use crate::conn::Part;
use crate::traffic::{Beat, Count};

impl EventLoop {
    /// Acts on what is published of the traffic.
    pub(super) fn follow_traffic(&mut self) {
        self.cx.refresh();
        for number in 0..self.cx.listeners.capacity() {
            if self.rests(number) {
                self.unwatch(number);
            }
        }
        self.watch_listeners();
        self.look_at_held();
    }

    /// Something has changed for those that are held, or wait.
    pub(super) fn look_at_held(&mut self) {
        self.cx.holding.begin_pass();
        self.pause_ends = self.next_pause_end();
        self.watches.note();
    }

    /// The tick at which the first of the pauses ends by itself.
    fn next_pause_end(&self) -> Option<u64> {
        let pauses = self.cx.local().view.pauses.as_ref()?;
        let left =
            pauses.all.iter().filter(|pause| !pause.refuse && !pause.is_over()).map(|pause| pause.left());
        left.min().map(|left| self.cx.clock.after(Ticks::from(left)))
    }

    /// True if connections wait in the queue of this listener, because what they are for is paused.
    pub(super) fn rests(&self, number: usize) -> bool {
        let view = &self.cx.local().view;
        let (Some(pauses), Some(listener)) = (&view.pauses, self.cx.listeners.get(number)) else {
            return false;
        };
        let Some(ListenerKind::Tcp(service)) = listener.plan().map(|plan| &plan.kind) else { return false };
        let same = Arc::ptr_eq(&view.generation, &listener.local.generation);
        same && pauses.find(Some(listener.position), None, Some(*service)).is_some_and(|pause| !pause.refuse)
    }

    /// What is to be done once in a while, as long as something is held or waits.
    pub(super) fn keep_holding(&mut self) {
        if self.pause_ends.is_some_and(|tick| tick <= self.cx.clock.tick()) {
            self.end_pauses();
        }
        let now_us = self.cx.clock.now_us();
        if self.cx.holding.next_beat().is_some_and(|due| due <= now_us) {
            let beat = self.cx.holding.beat(now_us);
            self.run_held(beat);
        }
        if self.watches.next_us().is_some_and(|due| due <= now_us) {
            let (places, cx) = (&self.places, &self.cx);
            self.watches.count(cx.thread, now_us, |target| count(places, cx, target));
        }
    }

    /// Pauses that nobody has ended in time end by themselves.
    #[cold]
    fn end_pauses(&mut self) {
        if let Some(pauses) = &self.cx.local().view.pauses {
            for pause in pauses.all.iter().filter(|pause| pause.is_over() && pause.is_news()) {
                // The supervisor tells the operator.
                tracing::debug!("the pause of {} has ended by itself", pause.target);
            }
        }
        self.follow_traffic();
    }

    /// All that are held or wait run at once: the server is about to end.
    pub(super) fn answer_held(&mut self) {
        let all = self.cx.holding.all();
        self.run_held(all);
    }

    fn run_held(&mut self, beat: Beat) {
        for key in beat.go_on {
            if let Some(place) = self.places.get_mut(key.index as usize)
                && place.stamp == key.stamp
                && let Some(conn) = &mut place.conn
            {
                conn.go_on(&mut self.cx);
            }
            self.drive(key);
        }
        for key in beat.retry {
            self.cx.holding.may_retry = true;
            self.drive(key);
            self.cx.holding.may_retry = false;
        }
    }

    /// When something of this must be looked at again, if nothing happens before.
    pub(super) fn held_limit(&self) -> Option<Duration> {
        let clock = &self.cx.clock;
        let moments = [self.cx.holding.next_beat(), self.watches.next_us()];
        let next = moments.into_iter().flatten().min().map(|moment| clock.until_us(moment));
        next.into_iter().chain(self.pause_ends.map(|tick| clock.until(tick))).min()
    }

    /// Counts what is in flight of something, now and whenever that changes.
    pub(super) fn answer_census(&mut self, census: Census) {
        let now = count(&self.places, &self.cx, &census.target);
        self.watches.add(self.cx.thread, census, now);
    }
}

fn count(places: &[Place], cx: &Cx, target: &Target) -> Count {
    let mut sum = Count::default();
    for conn in places.iter().filter_map(|place| place.conn.as_ref()) {
        match conn.part_of(target, cx) {
            Part::Nothing => {}
            Part::InFlight => sum.left += 1,
            Part::Held => sum.held += 1,
        }
    }
    sum
}
