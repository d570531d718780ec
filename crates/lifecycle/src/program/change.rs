//! The one change that is active: from its first step to its one end.
//!
//! ```text
//!   overlap:      (Hook) ─▶ Raising ─▶ (Trying) ─▶ (Saving) ─▶ Switching ─▶ (Guarding) ─▶ Retiring ─▶ next batch, or done
//!                             │ ▲          │           │                        │
//!                             │ └ Held ◀─ exam         │                        │ failed: goes back, as a change of its own
//!                             ▼                        ▼                        ▼ within the same operation
//!                         Discarding ◀──────────── (before the switch) ─▶ done: what served serves
//!
//!   stop first:   (Hook) ─▶ (Pausing ─▶ Quieting) ─▶ Stopping ─▶ Raising ─▶ (Saving) ─▶ Switching ─▶ resume ─▶ (Guarding) ─▶ done
//!                                                       │           └─ failed ─▶ Discarding ─▶ Restoring ─▶ resume ─▶ done
//!                                                       └─ cannot be ended ────────▲
//!
//!   nothing runs: Rising ─▶ done
//! ```

use std::time::Duration;

use super::table::{Change, Copy, Life, Phase, Step, What};
use super::{CopyKey, EditionKey, Effect, Figures, Machine, Plan, Role};
use crate::{Cause, OperationKey, Outcome};

impl Machine {
    /// A change to this edition, that has not begun.
    pub(super) fn change_to(&self, operation: Option<OperationKey>, what: What, to: EditionKey) -> Change {
        let plan = self.plan(to);
        let stop_first = self.stops_first(to);
        let rolling = what == What::Restart && self.table.edition == Some(to) && !stop_first;
        Change {
            operation,
            what,
            to,
            stop_first: stop_first && what != What::Exam,
            todo: (1..=plan.copies).collect(),
            batch_size: if rolling { plan.batch } else { plan.copies },
            was: self.table.phase,
            keys_from: self.table.next_key,
            ..Change::default()
        }
    }

    /// The change begins, after its hook.
    pub(super) fn enter(&mut self) {
        let Some(change) = self.table.change.as_mut() else { return };
        let (to, stop_first) = (change.to, change.stop_first);
        change.by = None;
        let goes_back = matches!(change.what, What::Rollback | What::Back | What::Apply);
        if goes_back && !stop_first && self.is_warm(to) {
            self.employ_warm(to);
            self.save_or_switch();
        } else if stop_first && !self.table.copies.is_empty() {
            if self.serving_plan().private && !self.nothing_serves() {
                let call = self.pause();
                self.at_step(Step::Pausing(call));
            } else {
                self.stop_old();
            }
        } else {
            self.raise();
        }
    }

    /// What is warm is a candidate that is ready already.
    fn employ_warm(&mut self, to: EditionKey) {
        for key in self.keys(|copy| copy.role == Role::Warm && copy.edition == to) {
            self.set(key, |copy| {
                copy.role = Role::Candidate;
                copy.life = Life::Ready;
                copy.by = None;
            });
        }
        if let Some(change) = &mut self.table.change {
            change.batch = std::mem::take(&mut change.todo);
        }
    }

    /// Whether all copies of this edition are there and would serve again at once.
    pub(super) fn is_warm(&self, edition: EditionKey) -> bool {
        let warm = |copy: &Copy| copy.role == Role::Warm && copy.edition == edition && copy.life.answers();
        let there = |number: u32| self.table.copies.iter().any(|copy| copy.number == number && warm(copy));
        (1..=self.plan(edition).copies).all(there)
    }

    /// The candidates of the next batch are started.
    fn raise(&mut self) {
        let Some(change) = self.table.change.as_mut() else { return };
        let size = usize::try_from(change.batch_size.max(1)).unwrap_or(usize::MAX).min(change.todo.len());
        change.batch = change.todo.drain(..size).collect();
        change.leaving.clear();
        let (to, batch) = (change.to, change.batch.clone());
        self.at_step(Step::Raising);
        for number in batch {
            self.start_copy(to, number, Role::Candidate);
        }
    }

    /// Stop-first: what runs is asked to stop, also what is warm.
    pub(super) fn stop_old(&mut self) {
        for key in self.keys(|copy| matches!(copy.role, Role::Serving | Role::Warm)) {
            match self.copy(key).map(|copy| copy.life) {
                Some(Life::Starting | Life::Checking) => self.kill(key),
                _ => self.stop(key),
            }
        }
        let leaving = self.keys(|_| true);
        if let Some(change) = &mut self.table.change {
            change.stopped_old = true;
            change.leaving = leaving;
        }
        self.at_step(Step::Stopping);
    }

    /// Goes on with the active change, if it can go on now.
    pub(super) fn advance(&mut self) -> bool {
        let Some(change) = &self.table.change else { return false };
        match change.step {
            Step::Pausing(call) if self.table.routes.set >= call => self.hold_until_quiet(),
            Step::Stopping => return self.go_on_when_stopped(),
            Step::Raising => return self.go_on_when_raised(),
            Step::Switching(call) if self.table.routes.set >= call => self.switched(),
            Step::Guarding if change.failed.is_some() => self.go_back_within(),
            Step::Retiring if self.have_left() => self.go_on_after_batch(),
            Step::Discarding if self.have_left() => self.go_on_when_discarded(),
            Step::Restoring | Step::Rising => return self.go_on_rising(),
            _ => return false,
        }
        true
    }

    fn hold_until_quiet(&mut self) {
        let limit = self.serving_plan().quiet_limit;
        let (call, copies) = (self.call(), self.keys(Copy::serves));
        self.at_step(Step::Quieting(call));
        let by = Some(self.after(limit.saturating_add(Plan::QUIET_GRACE)));
        if let Some(change) = &mut self.table.change {
            change.by = by;
        }
        self.emit(Effect::AwaitQuiet { call, copies, limit });
    }

    fn go_on_when_stopped(&mut self) -> bool {
        if self.table.copies.iter().any(|copy| copy.life == Life::Stuck) {
            // Two must not run side by side, and one cannot be ended.
            self.fail(Cause::StopForced);
        } else if self.table.copies.is_empty() {
            self.raise();
        } else {
            return false;
        }
        true
    }

    fn go_on_when_raised(&mut self) -> bool {
        let Some(change) = &self.table.change else { return false };
        let (to, what, guard) = (change.to, change.what, change.guard);
        let ready = |number: &u32| {
            self.table.copies.iter().any(|copy| {
                copy.role == Role::Candidate && copy.number == *number && copy.life == Life::Ready
            })
        };
        if !change.batch.iter().all(ready) {
            return false;
        }
        if change.batch.is_empty() {
            // All of them have failed, and so many may.
            self.go_on_after_batch();
        } else if what == What::Exam {
            let by = Some(self.after(Plan::HELD_LIMIT));
            let operation = change.operation;
            self.at_step(Step::Held);
            if let Some(change) = &mut self.table.change {
                change.by = by;
                change.told = true;
            }
            if let Some(operation) = operation {
                self.emit(Effect::Prepared { operation, failed: None });
            }
        } else if let Some(guard) = guard.filter(|_| !self.plan(to).private && !change.stop_first) {
            self.watch_over(Step::Trying, guard, Role::Candidate);
        } else {
            self.save_or_switch();
        }
        true
    }

    /// The copies of this role are looked at again and again.
    fn watch_over(&mut self, step: Step, guard: Duration, role: Role) {
        let by = Some(self.after(guard));
        self.at_step(step);
        if let Some(change) = &mut self.table.change {
            change.by = by;
        }
        let copies = self.keys(|copy| copy.role == role && copy.life == Life::Ready);
        copies.iter().for_each(|key| self.set(*key, |copy| copy.checked = true));
        self.emit(Effect::Guard { copies });
    }

    /// Nobody looks at them any more.
    pub(super) fn end_watch(&mut self) {
        for key in self.keys(|copy| copy.checked && copy.life == Life::Ready) {
            self.end_check(key);
        }
    }

    /// Everything that could fail has not.
    pub(super) fn save_or_switch(&mut self) {
        self.end_watch();
        let Some(change) = &self.table.change else { return };
        let (to, confirm) = (change.to, change.confirm);
        let from = self.table.edition.filter(|from| *from != to);
        match change.what {
            What::Deploy => self.write_down(Some(to), from, confirm.filter(|_| from.is_some())),
            What::Rollback => self.write_down(Some(to), from, None),
            What::Back => self.write_down(Some(to), None, None),
            _ => self.switch(),
        }
    }

    /// The candidates serve, and what they replace does not. Cannot fail.
    pub(super) fn switch(&mut self) {
        let Some(change) = self.table.change.clone() else { return };
        let from = self.table.edition;
        let new = self.keys(|copy| copy.role == Role::Candidate && copy.life == Life::Ready);
        let replaced =
            |copy: &Copy| from != Some(change.to) || change.stop_first || change.batch.contains(&copy.number);
        let old = self.keys(|copy| copy.role == Role::Serving && replaced(copy));
        let warm_until = self.warm_until(&change);
        old.iter().for_each(|key| self.retire(*key, warm_until));
        for key in &new {
            self.set(*key, |copy| {
                copy.role = Role::Serving;
                copy.warm_until = None;
            });
        }
        for number in &change.batch {
            let restarts = self.number(*number).restarts;
            *self.number_mut(*number) = super::table::Number { restarts, ..Default::default() };
        }
        if !new.is_empty() && !self.is_over() {
            self.table.phase = Phase::Up;
        }
        if from != Some(change.to) {
            self.serve_edition(&change);
        }
        let ready = u32::try_from(new.len()).unwrap_or(u32::MAX);
        self.count(|figures| figures.ready += ready);
        // What a guard has failed for may have left something behind.
        let failed = |copy: &Copy| change.within && copy.role == Role::Leaving && Some(copy.edition) == from;
        let leaving = self.keys(|copy| old.contains(&copy.key) || failed(copy));
        let now = self.now;
        if let Some(change) = &mut self.table.change {
            change.switched_at = Some(now);
            change.leaving = leaving;
        }
        self.route();
        self.at_step(Step::Switching(self.table.routes.call));
    }

    /// Until when what this change replaces is kept warm, if it is.
    fn warm_until(&self, change: &Change) -> Option<Duration> {
        if !matches!(change.what, What::Deploy | What::Rollback) || change.stop_first {
            return None;
        }
        let plan = self.serving_plan();
        let times = [Some(plan.warm), change.confirm, change.guard];
        let longest = times.into_iter().flatten().max().filter(|warm| !warm.is_zero() && plan.private)?;
        Some(self.after(longest))
    }

    fn switched(&mut self) {
        self.resume_traffic();
        let guard = self.table.change.as_ref().and_then(|change| change.guard);
        // Without an address of its own it was watched before.
        let private = self.serving_plan().private;
        match guard {
            Some(guard) if private || self.table.change.as_ref().is_some_and(|change| change.stop_first) => {
                self.watch_over(Step::Guarding, guard, Role::Serving);
            }
            _ => self.settle(),
        }
    }

    /// It stays, unless nobody confirms it.
    pub(super) fn settle(&mut self) {
        self.end_watch();
        self.begin_probation();
        self.at_step(Step::Retiring);
    }

    /// Whether everything that the change has sent away is gone, given up, or warm.
    fn have_left(&self) -> bool {
        let Some(change) = &self.table.change else { return true };
        change.leaving.iter().filter_map(|key| self.copy(*key)).all(|copy| match copy.role {
            Role::Leaving => copy.life == Life::Stuck,
            Role::Warm => copy.life == Life::Ready,
            Role::Serving | Role::Candidate => true,
        })
    }

    fn go_on_after_batch(&mut self) {
        let Some(change) = &self.table.change else { return };
        if change.todo.is_empty() { self.succeed() } else { self.raise() }
    }

    fn go_on_when_discarded(&mut self) {
        let restores = self.table.change.as_ref().is_some_and(|change| change.stopped_old);
        if !restores || self.table.phase != Phase::Up || self.table.edition.is_none() {
            return self.fail_for_good();
        }
        self.forgive();
        let plan = self.serving_plan();
        let by = Some(self.after(Plan::START_LIMIT + plan.ready_limit + Plan::TRAFFIC_LIMIT));
        self.at_step(Step::Restoring);
        if let Some(change) = &mut self.table.change {
            change.by = by;
            change.restore_failed = None;
        }
    }

    /// What serves anyway is started: whether all of it does.
    fn go_on_rising(&mut self) -> bool {
        let Some(change) = &self.table.change else { return false };
        let restoring = change.step == Step::Restoring;
        let failed = if restoring { change.restore_failed } else { change.failed };
        if let Some(cause) = failed {
            if restoring {
                self.fail_for_good()
            } else {
                self.fail_rising(cause)
            }
            return true;
        }
        if self.rising_until().is_none_or(|until| until > self.now) {
            return false;
        }
        if restoring {
            self.fail_for_good()
        } else {
            let copies = self.serving_plan().copies;
            self.count(|figures| figures.ready = copies);
            self.succeed()
        }
        true
    }

    /// If all that is to serve does: when it has done so for long enough.
    pub(super) fn rising_until(&self) -> Option<Duration> {
        let change = self.table.change.as_ref()?;
        let plan = self.serving_plan();
        let settle = if change.step == Step::Rising { plan.settle } else { Duration::ZERO };
        let mut until = Duration::ZERO;
        for number in 1..=plan.copies {
            let serves = |copy: &&Copy| copy.number == number && copy.serves() && self.is_routed(copy);
            let copy = self.table.copies.iter().find(serves)?;
            until = until.max(copy.ready_since.unwrap_or(self.now).saturating_add(settle));
        }
        Some(until)
    }

    fn fail_rising(&mut self, cause: Cause) {
        let was = self.table.change.as_ref().map(|change| change.was);
        if let Some(was @ (Phase::Down | Phase::Asleep | Phase::Finished)) = was
            && self.table.phase == Phase::Up
        {
            self.table.phase = was;
            let all = self.serving_keys();
            all.iter().for_each(|key| self.retire(*key, None));
            if let Some(change) = &mut self.table.change {
                change.leaving = all;
            }
            self.note_failure(cause);
            self.at_step(Step::Discarding);
        } else {
            self.fail_for_good();
        }
    }

    /// A candidate has ended, or does not get ready.
    pub(super) fn candidate_lost(&mut self, copy: &Copy, cause: Cause) {
        self.count(|figures| figures.failed += 1);
        let rolling = self.is_rolling();
        let Some(change) = &mut self.table.change else { return };
        match change.step {
            // Whoever applies finds that it is not complete.
            Step::Held | Step::Discarding => {}
            Step::Trying => self.fail(Cause::GuardFailed),
            _ if rolling && change.figures.failed <= change.max_unhealthy => {
                change.batch.retain(|number| *number != copy.number);
                change.failed.get_or_insert(cause);
            }
            _ => self.fail(cause),
        }
    }

    fn is_rolling(&self) -> bool {
        let rolls = |change: &Change| {
            change.what == What::Restart && !change.stop_first && self.table.edition == Some(change.to)
        };
        self.table.change.as_ref().is_some_and(rolls)
    }

    /// What is started by the active change has failed; the step decides what follows.
    pub(super) fn note_failure(&mut self, cause: Cause) {
        if let Some(change) = &mut self.table.change {
            match change.step {
                Step::Restoring => change.restore_failed.get_or_insert(cause),
                _ => change.failed.get_or_insert(cause),
            };
        }
    }

    /// The change fails before the switch: its candidates end, and what served serves on.
    pub(super) fn fail(&mut self, cause: Cause) {
        for key in self.keys(|copy| copy.role == Role::Candidate) {
            self.discard(key);
        }
        let Some(change) = &mut self.table.change else { return };
        change.failed.get_or_insert(cause);
        // Also one that has failed before; and, stop-first, what was asked to stop before it is started again.
        let (from, all) = (CopyKey(change.keys_from), change.stopped_old);
        let leaving = self.keys(|copy| all || (copy.role == Role::Leaving && copy.key >= from));
        if let Some(change) = &mut self.table.change {
            change.leaving = leaving;
        }
        self.at_step(Step::Discarding);
    }

    pub(super) fn at_step(&mut self, step: Step) {
        if let Some(change) = &mut self.table.change {
            change.step = step;
            change.by = None;
        }
    }

    pub(super) fn count(&mut self, count: impl FnOnce(&mut Figures)) {
        if let Some(change) = &mut self.table.change {
            count(&mut change.figures);
        }
    }

    /// The change has done what it is for.
    pub(super) fn succeed(&mut self) {
        let (outcome, cause) = self.success();
        self.finish(outcome, cause);
    }
}

impl Machine {
    /// How the active change ends if nothing of it is left to do.
    pub(super) fn success(&self) -> (Outcome, Cause) {
        let Some(change) = &self.table.change else { return (Outcome::Applied, Cause::Done) };
        match (change.succeeds, change.failed) {
            (Some(end), _) => end,
            (None, Some(cause)) => (Outcome::NotReady, cause),
            (None, None) if change.figures.killed > 0 => (Outcome::AppliedWithLosses, Cause::StopForced),
            (None, None) if change.figures.unquiet > 0 => (Outcome::AppliedWithLosses, Cause::NotQuiet),
            (None, None) => (Outcome::Applied, Cause::Done),
        }
    }
}
