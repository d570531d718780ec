//! What runs without anybody asking: copies that ended are started again, after a pause that doubles; one that nobody needs sleeps.
//!
//! ```text
//!          begin, start                    ended, and its policy leaves it at that
//!   New ────────────────▶ Up ───────────────────────────────────────────────▶ Finished (or Asleep, if it runs on demand)
//!    │  on demand       ▲ │  ▲
//!    └──────▶ Asleep ───┘ │  └── after its back-off, for each number by itself
//!               ▲ demand  │ idle
//!               └─────────┘
//! ```
//!
//! A number whose copy is lost waits for its back-off whatever else goes on, so a change never keeps a program down that runs; only a
//! change that stops first has the copies to itself.

use std::time::Duration;

use super::table::{Change, Copy, Life, Number, Phase, Step, Watched, What};
use super::{CopyKey, Effect, Machine, Restart, Role, Swap};
use crate::Cause;

impl Machine {
    /// A copy that serves has ended, or never got so far.
    pub(super) fn serving_lost(&mut self, copy: &Copy, cause: Cause, ok: bool) {
        let plan = self.plan(copy.edition);
        let lived = copy.ready_since.map(|since| self.now.saturating_sub(since));
        let now = self.now;
        self.table.last_ok = ok;
        let number = self.number_mut(copy.number);
        if lived.is_some_and(|lived| lived >= plan.backoff_reset) {
            number.failures = 0;
        }
        number.failures = number.failures.saturating_add(1);
        number.at = Some(now.saturating_add(plan.pause_after(number.failures)));
        number.again = true;
        number.ended = match plan.restart {
            Restart::Always => false,
            Restart::OnFailure => ok,
            Restart::Never => true,
        };
        if number.ended && lived.is_some() {
            // It has done what it was there for.
            *number = Number { failures: 0, at: None, ..*number };
        }
        match self.table.change.as_ref().map(|change| change.step) {
            Some(Step::Rising | Step::Restoring) => self.note_failure(cause),
            Some(Step::Guarding) => self.note_failure(Cause::GuardFailed),
            _ => {}
        }
    }

    pub(super) fn number_mut(&mut self, number: u32) -> &mut Number {
        let at = usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1);
        if self.table.numbers.len() <= at {
            self.table.numbers.resize(at.saturating_add(1), Number::default());
        }
        &mut self.table.numbers[at]
    }

    pub(super) fn number(&self, number: u32) -> Number {
        let at = usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1);
        self.table.numbers.get(at).copied().unwrap_or_default()
    }

    /// All numbers begin anew: what is started next is no restart.
    pub(super) fn forgive(&mut self) {
        for number in &mut self.table.numbers {
            *number = Number { restarts: number.restarts, ..Number::default() };
        }
    }

    /// Whether the active change has all copies to itself.
    pub(super) fn is_exclusive(&self) -> bool {
        let owns = |change: &Change| {
            change.stop_first
                && matches!(
                    change.step,
                    Step::Pausing(_)
                        | Step::Quieting(_)
                        | Step::Stopping
                        | Step::Raising
                        | Step::Saving(_)
                        | Step::Discarding
                )
                && change.what != What::Confirm
        };
        self.table.change.as_ref().is_some_and(owns)
    }

    /// The numbers that lack a copy, whether or not their back-off is over.
    fn lacking(&self) -> Vec<u32> {
        if self.table.phase != Phase::Up || self.table.edition.is_none() || self.is_exclusive() {
            return Vec::new();
        }
        (1..=self.serving_plan().copies).filter(|number| self.is_lacking(*number)).collect()
    }

    fn is_lacking(&self, number: u32) -> bool {
        let edition = self.table.edition;
        let plan = self.serving_plan();
        let same = |copy: &&Copy| copy.number == number;
        let serves = |copy: &Copy| {
            copy.role == Role::Serving || (copy.role == Role::Candidate && Some(copy.edition) == edition)
        };
        // Two that must not run side by side: another edition, or another one of the same number.
        let in_the_way = |copy: &Copy| {
            let alone = plan.swap == Swap::StopFirst || self.plan(copy.edition).swap == Swap::StopFirst;
            alone && (copy.number == number || Some(copy.edition) != edition)
        };
        !self.number(number).ended
            && !self.table.copies.iter().filter(same).any(serves)
            && !self.table.copies.iter().any(in_the_way)
    }

    /// Starts what is lacking and may be started.
    pub(super) fn heal(&mut self) -> bool {
        let due: Vec<u32> = self
            .lacking()
            .into_iter()
            .filter(|number| self.number(*number).at.is_none_or(|at| at <= self.now))
            .collect();
        let Some(edition) = self.table.edition.filter(|_| !due.is_empty()) else { return false };
        for number in due {
            let known = self.number_mut(number);
            known.at = None;
            if known.again {
                known.again = false;
                known.restarts = known.restarts.saturating_add(1);
                self.table.restarts = self.table.restarts.saturating_add(1);
            }
            self.start_copy(edition, number, Role::Serving);
        }
        true
    }

    /// When the next copy is to be started, if one waits for that.
    pub(super) fn next_start(&self) -> Option<Duration> {
        self.lacking().into_iter().filter_map(|number| self.number(number).at).min()
    }

    /// Copies that the plan does not have any more are sent away, as far as others serve in their place.
    pub(super) fn scale(&mut self) -> bool {
        if self.table.phase != Phase::Up || self.table.change.is_some() {
            return false;
        }
        let copies = self.serving_plan().copies;
        let serving = self.keys(Copy::serves).len();
        let surplus = serving.saturating_sub(usize::try_from(copies).unwrap_or(usize::MAX));
        let mut too_many: Vec<(bool, u32, CopyKey)> = self
            .table
            .copies
            .iter()
            .filter(|copy| copy.role == Role::Serving && copy.number > copies)
            .map(|copy| (copy.serves(), copy.number, copy.key))
            .collect();
        too_many.sort_unstable();
        let rising = too_many.iter().filter(|(serves, ..)| !serves).count();
        let go: Vec<CopyKey> = too_many.drain(..rising).map(|(.., key)| key).collect();
        let surplus = too_many.iter().rev().take(surplus).map(|(.., key)| *key);
        let go: Vec<CopyKey> = go.into_iter().chain(surplus).collect();
        go.iter().for_each(|key| self.retire(*key, None));
        !go.is_empty()
    }

    /// What was to be warm and is not all there, or not needed any more, ends.
    pub(super) fn drop_what_is_not_warm(&mut self) -> bool {
        if self.table.change.is_some() || self.is_over() {
            return false;
        }
        let now = self.now;
        let whole = self.table.before.is_some_and(|before| self.is_warm(before));
        let (before, pending) = (self.table.before, self.table.pending.is_some());
        let cold = self.keys(|copy| {
            let over = copy.warm_until.is_none_or(|until| until <= now) && !pending;
            copy.role == Role::Warm && (!whole || over || Some(copy.edition) != before)
        });
        cold.iter().for_each(|key| self.retire(*key, None));
        !cold.is_empty()
    }

    /// A connection waits.
    pub(super) fn demanded(&mut self) {
        if self.table.phase == Phase::Asleep && self.table.watched.demand {
            self.table.phase = Phase::Up;
        }
    }

    /// There was no connection for long enough.
    pub(super) fn idled(&mut self) {
        if self.table.watched.idle && self.may_idle() {
            self.begin_end(None, What::Sleep, Phase::Asleep);
        }
    }

    fn may_idle(&self) -> bool {
        let plan = self.serving_plan();
        self.table.phase == Phase::Up
            && plan.on_demand
            && plan.idle
            && self.table.change.is_none()
            && self.table.pending.is_none()
            && !self.nothing_serves()
    }

    /// Says what is looked for, if that has changed.
    pub(super) fn watch(&mut self) {
        let runs = self.table.copies.iter().any(|copy| copy.life != Life::Stuck);
        let demand = self.table.phase == Phase::Asleep && !runs && self.table.change.is_none();
        let watched = Watched { demand, idle: self.may_idle() };
        if watched != self.table.watched {
            self.table.watched = watched;
            self.emit(Effect::Watch { demand: watched.demand, idle: watched.idle });
        }
    }

    /// Whether anything of it may still end by itself.
    fn runs(&self) -> bool {
        self.table.copies.iter().any(|copy| copy.life != Life::Stuck)
    }

    /// Nothing runs, and nothing is to be started.
    pub(super) fn end_if_over(&mut self) {
        if self.runs() || self.table.change.is_some() || self.table.waiting.is_some() {
            return;
        }
        let plan = self.serving_plan();
        match self.table.phase {
            Phase::Ending => self.table.phase = Phase::Over,
            Phase::Up if (1..=plan.copies).all(|number| self.number(number).ended) => {
                if plan.on_demand {
                    self.table.phase = Phase::Asleep;
                    // One that never gets ready is not started as fast as somebody can ask for it.
                    for number in &mut self.table.numbers {
                        *number = Number { ended: false, again: false, ..*number };
                    }
                    return;
                }
                self.table.phase = Phase::Finished;
                self.forgive();
            }
            _ => return,
        }
        self.emit(Effect::Ended { ok: self.table.last_ok });
    }

    /// Those that serve, or are to.
    pub(super) fn serving_keys(&self) -> Vec<CopyKey> {
        self.keys(|copy| copy.role == Role::Serving)
    }
}
