//! What goes to disk, and what goes through the supervisor's exec or death.

use std::time::Duration;

use super::table::{Life, Pending, Phase, Routes, Step, Table, Watched, What};
use super::{Durable, EditionKey, Effect, Machine, Plan, Saved, Why};
use crate::{CallKey, Cause, Outcome};

impl Machine {
    /// What a start will have to know is written down, then the change goes on.
    pub(super) fn write_down(
        &mut self,
        edition: Option<EditionKey>,
        before: Option<EditionKey>,
        pending: Option<Duration>,
    ) {
        let pending_ms = pending.map(milliseconds);
        let deploys = self.table.change.as_ref().is_some_and(|change| change.what == What::Deploy);
        let stopped = self.table.phase == Phase::Down && !deploys;
        let call = self.write(Durable { edition, before, pending_ms, stopped });
        let by = Some(self.after(Plan::SAVE_LIMIT));
        self.at_step(Step::Saving(call));
        if let Some(change) = &mut self.table.change {
            change.by = by;
        }
    }

    fn write(&mut self, durable: Durable) -> CallKey {
        self.table.durable = durable;
        let call = self.call();
        self.emit(Effect::Save { call });
        call
    }

    /// What a start has to know as things are now.
    pub(super) fn durable_now(&self) -> Durable {
        let left = |pending: Pending| milliseconds(pending.until.saturating_sub(self.now));
        Durable {
            edition: self.table.edition,
            before: self.table.before,
            pending_ms: self.table.pending.map(left),
            stopped: self.table.phase == Phase::Down,
        }
    }

    /// That an operator has stopped it, or started it again, is written down too; nothing waits for that.
    pub(super) fn write_whether_stopped(&mut self) {
        let waits = |change: &super::table::Change| matches!(change.step, Step::Saving(_) | Step::Rising);
        let waits = self.table.change.as_ref().is_some_and(waits);
        let differs = self.table.durable.stopped != (self.table.phase == Phase::Down);
        if differs && !waits && !self.is_over() && self.table.phase != Phase::New {
            self.write(self.durable_now());
        }
    }

    pub(super) fn saved(&mut self, call: CallKey, ok: bool) {
        let Some(change) = &self.table.change else { return };
        if change.step != Step::Saving(call) {
            return;
        }
        match change.what {
            What::Confirm if ok => self.confirmed(),
            What::Confirm => self.finish(Outcome::NotReady, Cause::StateNotSaved),
            // It must not stay, whatever the disk says; a start from that finds it overdue.
            What::Back if !ok => {
                if let Some(change) = &mut self.table.change {
                    change.succeeds.get_or_insert((Outcome::Applied, Cause::StateNotSaved));
                }
                self.switch();
            }
            _ if ok => self.switch(),
            _ => self.fail(Cause::StateNotSaved),
        }
    }

    /// What a start has to know, as of the last [`Effect::Save`].
    #[must_use]
    pub fn durable(&self) -> Durable {
        self.table.durable
    }

    /// Everything, for another process. `now` as in [`Machine::step`].
    #[must_use]
    pub fn save(&self, now: Duration) -> Saved {
        Saved { at: self.now.max(now), table: self.table.clone() }
    }

    /// The machine as it was saved; its first event is [`super::Event::Resumed`], and what has become of copies meanwhile is told after
    /// that. `now` is the new process's time at the moment of the saving: if a while has passed since, that much less than its
    /// time now, so that deadlines are where they were.
    #[must_use]
    pub fn resume(now: Duration, saved: &Saved) -> Self {
        let mut table = saved.table.clone();
        let at = saved.at;
        let move_time = |time: &mut Duration| {
            *time = now.saturating_add(time.saturating_sub(at)).saturating_sub(at.saturating_sub(*time));
        };
        table.times().for_each(move_time);
        table.watched = Watched::default();
        table.told = None;
        Self { now, table, out: Vec::new() }
    }

    /// Asks again for all that was asked for and is not answered: whoever was to answer is no more.
    pub(super) fn resumed(&mut self) {
        let now = self.now;
        let left = |by: Option<Duration>| by.map_or(Duration::ZERO, |by| by.saturating_sub(now));
        for copy in self.table.copies.clone() {
            match copy.life {
                Life::Checking => self.emit(Effect::Check { copy: copy.key, limit: left(copy.by) }),
                Life::Killed | Life::Stuck => self.emit(Effect::Kill { copy: copy.key }),
                _ => {}
            }
        }
        self.await_quiet_again();
        self.route_again();
        self.change_again();
        if let Some(pending) = self.table.pending.filter(|pending| pending.proposed_by.is_some()) {
            let over = pending.until <= self.now;
            self.emit(Effect::Propose { why: if over { Why::NotConfirmed } else { Why::Dies } });
        }
    }

    /// What drains is asked about anew, with the time that it has left.
    fn await_quiet_again(&mut self) {
        let mut calls: Vec<CallKey> = Vec::new();
        for copy in &self.table.copies {
            if let Life::Draining(call) = copy.life
                && !calls.contains(&call)
            {
                calls.push(call);
            }
        }
        for old in calls {
            let copies = self.keys(|copy| copy.life == Life::Draining(old));
            let by = copies.first().and_then(|key| self.copy(*key)).and_then(|copy| copy.by);
            let limit = by.unwrap_or(self.now).saturating_sub(self.now).saturating_sub(Plan::QUIET_GRACE);
            let call = self.call();
            copies.iter().for_each(|key| self.set(*key, |copy| copy.life = Life::Draining(call)));
            self.emit(Effect::AwaitQuiet { call, copies, limit });
        }
    }

    /// Traffic is told anew: its next answer is one to all that was said before.
    fn route_again(&mut self) {
        let paused = self.table.paused.map(|until| until.saturating_sub(self.now));
        let waits = self.table.routes.set < self.table.routes.call;
        if self.table.routes.on.is_empty() && self.table.routes.off.is_empty() && paused.is_none() {
            return;
        }
        let routes = std::mem::take(&mut self.table.routes);
        let (call, by) = (self.call(), self.after(Plan::TRAFFIC_LIMIT));
        let set = if waits { routes.set } else { call };
        let (on, off) = (routes.on.clone(), routes.off.clone());
        self.table.routes = Routes { call, set, by: waits.then_some(by), ..routes };
        self.emit(Effect::Route { call, on, off });
        if let Some(limit) = paused {
            let call = self.call();
            if !waits {
                self.table.routes.set = call;
            }
            self.table.routes.call = call;
            self.emit(Effect::Pause { call, limit });
        }
    }

    /// The active change asks again.
    fn change_again(&mut self) {
        let Some(change) = self.table.change.clone() else {
            // Whether it was stopped may have been on its way to the disk.
            if self.table.edition.is_some() && !self.is_over() {
                self.write(self.durable_now());
            }
            return;
        };
        let left = change.by.map_or(Duration::ZERO, |by| by.saturating_sub(self.now));
        match change.step {
            // Whether it ran to its end, nobody knows; it is not run twice.
            Step::Hook => {
                self.note_failure(Cause::SupervisorDied);
                self.fail_for_good();
            }
            Step::Quieting(_) => {
                let call = self.call();
                if let Some(change) = &mut self.table.change {
                    change.step = Step::Quieting(call);
                }
                let copies = self.keys(super::table::Copy::serves);
                self.emit(Effect::AwaitQuiet { call, copies, limit: left.saturating_sub(Plan::QUIET_GRACE) });
            }
            Step::Saving(_) => {
                let call = self.call();
                if let Some(change) = &mut self.table.change {
                    change.step = Step::Saving(call);
                }
                self.emit(Effect::Save { call });
            }
            Step::Trying | Step::Guarding => {
                let copies = self.keys(|copy| copy.checked && copy.life == Life::Ready);
                self.emit(Effect::Guard { copies });
            }
            // The reload that it was for has ended with the supervisor.
            Step::Raising | Step::Held if change.what == What::Exam => self.fail(Cause::SupervisorDied),
            _ => {}
        }
    }
}

/// Milliseconds, as they are written.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Table {
    /// All moments in it.
    fn times(&mut self) -> impl Iterator<Item = &mut Duration> {
        let copies = self.copies.iter_mut();
        let of_copies = copies.flat_map(|copy| [&mut copy.by, &mut copy.ready_since, &mut copy.warm_until]);
        let numbers = self.numbers.iter_mut().map(|number| &mut number.at);
        let change = self.change.iter_mut().flat_map(|change| [&mut change.by, &mut change.switched_at]);
        let pending = self.pending.iter_mut();
        let of_pending = pending.flat_map(|pending| {
            let Pending { since, until, proposed_by, .. } = pending;
            [Some(since), Some(until), proposed_by.as_mut()].into_iter().flatten()
        });
        let single = [&mut self.routes.by, &mut self.paused];
        of_copies.chain(numbers).chain(change).chain(single).flatten().chain(of_pending)
    }
}
