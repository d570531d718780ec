//! What requests can reach, what is held, and when nothing is in flight any more.
//!
//! ```text
//!   what is so now ≠ what was said ─▶ Route {call} ─ TrafficSet {call}, or its limit ─▶ what is off: AwaitQuiet ─▶ Quiet
//! ```
//!
//! Calls count up, and traffic is told everything in their order: an answer to one is an answer to all before it.

use super::table::{Copy, Life, Step};
use super::{CopyKey, Effect, Machine, Plan, Role};
use crate::CallKey;

impl Machine {
    /// Says what requests can reach, if it was not said.
    pub(super) fn route(&mut self) -> bool {
        let private = |machine: &Self, copy: &Copy| machine.plan(copy.edition).private;
        let mut on: Vec<(u32, CopyKey)> = self
            .table
            .copies
            .iter()
            .filter(|copy| copy.serves() && private(self, copy))
            .map(|copy| (copy.number, copy.key))
            .collect();
        on.sort_unstable();
        let on: Vec<CopyKey> = on.into_iter().map(|(_, key)| key).collect();
        let off = self.keys(|copy| copy.routed && !on.contains(&copy.key));
        let said = self.table.routes.on == on && self.table.routes.off == off;
        if !said {
            let (call, by) = (self.call(), self.after(Plan::TRAFFIC_LIMIT));
            self.table
                .copies
                .iter_mut()
                .filter(|copy| on.contains(&copy.key))
                .for_each(|copy| copy.routed = true);
            let routes = &mut self.table.routes;
            (routes.call, routes.by) = (call, Some(by));
            (routes.on, routes.off) = (on.clone(), off.clone());
            self.emit(Effect::Route { call, on, off });
        }
        let call = self.table.routes.call;
        for copy in &mut self.table.copies {
            if copy.life == Life::Off(None) {
                copy.life = Life::Off(Some(call));
            }
        }
        !said
    }

    pub(super) fn traffic_set(&mut self, call: CallKey) {
        let routes = &mut self.table.routes;
        if call <= routes.call {
            routes.set = routes.set.max(call);
        }
        if routes.set >= routes.call {
            routes.by = None;
        }
    }

    /// Nobody answers: it goes on as if traffic were set. A worker that does not answer is another machine's matter, and the next
    /// one is told before it serves.
    pub(super) fn traffic_is_late(&mut self) {
        let routes = &mut self.table.routes;
        routes.set = routes.call;
        routes.by = None;
    }

    /// Whether requests go where they should, as far as anybody knows.
    pub(super) fn is_routed(&self, copy: &Copy) -> bool {
        let routes = &self.table.routes;
        !self.plan(copy.edition).private || (routes.set >= routes.call && routes.on.contains(&copy.key))
    }

    /// What gets nothing new, since traffic is so: its end is waited for.
    pub(super) fn await_quiet(&mut self) -> bool {
        let set = self.table.routes.set;
        let off = |copy: &Copy| matches!(copy.life, Life::Off(Some(call)) if call <= set);
        let copies = self.keys(off);
        let Some(limit) = copies
            .iter()
            .filter_map(|key| self.copy(*key))
            .map(|copy| {
                let planned = self.plan(copy.edition).quiet_limit;
                copy.stop_limit.map_or(planned, |limit| limit.min(planned))
            })
            .max()
        else {
            return false;
        };
        let (call, by) = (self.call(), self.after(limit.saturating_add(Plan::QUIET_GRACE)));
        for key in &copies {
            self.set(*key, |copy| {
                copy.life = Life::Draining(call);
                copy.by = Some(by);
            });
        }
        self.emit(Effect::AwaitQuiet { call, copies, limit });
        true
    }

    pub(super) fn quiet(&mut self, call: CallKey, clean: bool) {
        for key in self.keys(|copy| copy.life == Life::Draining(call)) {
            let waited = self.table.change.as_ref().is_some_and(|change| change.leaving.contains(&key));
            if self.copy(key).is_some_and(|copy| copy.role == Role::Warm) {
                self.set(key, |copy| {
                    copy.life = Life::Ready;
                    copy.by = None;
                });
                continue;
            }
            if !clean && waited {
                self.count(|figures| figures.unquiet += 1);
            }
            self.stop(key);
        }
        if self.table.change.as_ref().is_some_and(|change| change.step == Step::Quieting(call)) {
            if !clean {
                let serving = self.keys(Copy::serves).len();
                self.count(|figures| figures.unquiet += u32::try_from(serving).unwrap_or(u32::MAX));
            }
            self.stop_old();
        }
    }

    /// New requests are held.
    pub(super) fn pause(&mut self) -> CallKey {
        let limit = self.serving_plan().pause_limit;
        let (call, by) = (self.call(), self.after(Plan::TRAFFIC_LIMIT));
        self.table.paused = Some(self.after(limit));
        let routes = &mut self.table.routes;
        (routes.call, routes.by) = (call, Some(by));
        self.emit(Effect::Pause { call, limit });
        call
    }

    /// Those that are held go on.
    pub(super) fn resume_traffic(&mut self) {
        if self.table.paused.take().is_some() {
            self.emit(Effect::Resume);
        }
    }
}
