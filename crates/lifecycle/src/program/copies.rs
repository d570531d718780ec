//! One copy: started, proved, retired, gone.
//!
//! ```text
//!   Starting ─Started─▶ Checking ─Ready─▶ (Settling) ─▶ Ready ─▶ Off ─TrafficSet─▶ Draining ─Quiet─▶ Ready and warm
//!      │ NotStarted,       │ NotReady,        │ ended      │        (with an address of its own)       │
//!      │ late              │ late, ended      │            │                                           │
//!      ▼                   ▼                  ▼            ▼                                           ▼
//!   lost: killed if something may be left;            Stopping ◀───────────────────────────────────────┘
//!   then Gone                                             │ late                Exited, from every stage: Stopping, for
//!                                                      Killed ─late─▶ Stuck     what it left behind
//!                                                         └── Gone ◀──┘
//! ```
//!
//! What a death means depends on the role: `change.rs` (a candidate), `healing.rs` (one that serves).

use std::time::Duration;

use super::table::{Change, Copy, Life, Step, What};
use super::{CopyKey, EditionKey, Effect, Machine, Plan, Role};
use crate::Cause;

impl Machine {
    pub(super) fn start_copy(&mut self, edition: EditionKey, number: u32, role: Role) {
        let key = CopyKey(self.key());
        let by = Some(self.after(Plan::START_LIMIT));
        self.table.copies.push(Copy { key, edition, number, role, by, ..Copy::default() });
        self.emit(Effect::Start { copy: key, edition, number });
    }

    pub(super) fn started(&mut self, key: CopyKey) {
        let Some(copy) = self.copy(key).copied().filter(|copy| copy.life == Life::Starting) else { return };
        let limit = self.plan(copy.edition).ready_limit;
        let by = Some(self.after(limit));
        self.set(key, |copy| {
            copy.life = Life::Checking;
            copy.by = by;
            copy.checked = true;
        });
        self.emit(Effect::Check { copy: key, limit });
    }

    pub(super) fn not_started(&mut self, key: CopyKey) {
        match self.copy(key).map(|copy| copy.life) {
            Some(Life::Starting) => {
                if let Some(copy) = self.remove(key) {
                    self.lost(&copy, Cause::ProgramNotStarted, false);
                }
            }
            Some(Life::Killed | Life::Stuck | Life::Stopping) => drop(self.remove(key)),
            _ => {}
        }
    }

    pub(super) fn ready(&mut self, key: CopyKey) {
        let Some(copy) = self.copy(key).copied().filter(|copy| copy.life == Life::Checking) else { return };
        // Where nothing else would serve instead, there is nothing to wait for.
        let settle = match copy.role {
            Role::Candidate => self.plan(copy.edition).settle,
            _ => Duration::ZERO,
        };
        let (now, until) = (self.now, self.after(settle));
        self.set(key, |copy| {
            copy.checked = false;
            copy.ready_since = Some(now);
            copy.life = if settle.is_zero() { Life::Ready } else { Life::Settling };
            copy.by = Some(until).filter(|_| !settle.is_zero());
        });
    }

    pub(super) fn not_ready(&mut self, key: CopyKey) {
        match self.copy(key).copied() {
            Some(Copy { life: Life::Checking, .. }) => {
                self.set(key, |copy| copy.checked = false);
                self.give_up(key, Cause::ProgramNotReady);
            }
            Some(Copy { checked: true, life: Life::Ready, .. }) => self.fares_badly(key),
            _ => {}
        }
    }

    /// A guarded copy fares badly.
    fn fares_badly(&mut self, key: CopyKey) {
        match self.table.change.as_ref().map(|change| change.step) {
            Some(Step::Trying) => {
                self.count(|figures| figures.failed += 1);
                self.fail(Cause::GuardFailed);
            }
            Some(Step::Guarding) => self.note_failure(Cause::GuardFailed),
            _ => self.set(key, |copy| copy.checked = false),
        }
    }

    /// The copy does not get ready: it is killed, and counts as lost.
    pub(super) fn give_up(&mut self, key: CopyKey, cause: Cause) {
        let Some(copy) = self.copy(key).copied() else { return };
        self.kill(key);
        self.lost(&copy, cause, false);
    }

    pub(super) fn exited(&mut self, key: CopyKey, ok: bool) {
        let Some(copy) = self.copy(key).copied() else { return };
        if matches!(copy.life, Life::Stopping | Life::Killed | Life::Stuck) {
            return;
        }
        self.stop(key);
        self.lost(&copy, Self::cause_of_end(&copy), ok);
    }

    pub(super) fn gone(&mut self, key: CopyKey) {
        let Some(copy) = self.remove(key) else { return };
        if !matches!(copy.life, Life::Stopping | Life::Killed | Life::Stuck) {
            self.lost(&copy, Self::cause_of_end(&copy), false);
        }
    }

    fn cause_of_end(copy: &Copy) -> Cause {
        match copy.life {
            Life::Starting | Life::Checking => Cause::ProgramEnded,
            _ => Cause::ProgramUnsettled,
        }
    }

    /// The copy, as it was, is lost: it ended, or is being ended, although it was not asked to.
    fn lost(&mut self, copy: &Copy, cause: Cause, ok: bool) {
        match copy.role {
            Role::Candidate => self.candidate_lost(copy, cause),
            Role::Serving => self.serving_lost(copy, cause, ok),
            Role::Warm | Role::Leaving => {}
        }
    }

    /// Nothing of it is left.
    fn remove(&mut self, key: CopyKey) -> Option<Copy> {
        let at = self.table.copies.iter().position(|copy| copy.key == key)?;
        self.end_check(key);
        let copy = self.table.copies.remove(at);
        if self.awaits_end_of(key) {
            self.count(|figures| figures.ended += 1);
        }
        Some(copy)
    }

    /// Whether the active change has sent this copy away, and it is one that served.
    fn awaits_end_of(&self, key: CopyKey) -> bool {
        let sends_away = |change: &Change| {
            matches!(change.step, Step::Stopping | Step::Switching(_) | Step::Guarding | Step::Retiring)
                && change.leaving.contains(&key)
        };
        self.table.change.as_ref().is_some_and(sends_away)
    }

    /// It gets nothing new, and ends when what is in flight has ended; or stays warm until then.
    pub(super) fn retire(&mut self, key: CopyKey, warm_until: Option<Duration>) {
        let Some(copy) = self.copy(key).copied() else { return };
        let role = if warm_until.is_some() { Role::Warm } else { Role::Leaving };
        match copy.life {
            Life::Starting | Life::Checking => self.kill(key),
            // It is quiet already.
            Life::Ready if copy.role == Role::Warm => self.stop(key),
            Life::Ready if copy.routed && self.plan(copy.edition).private => {
                self.end_check(key);
                self.set(key, |copy| {
                    copy.role = role;
                    copy.warm_until = warm_until;
                    copy.life = Life::Off(None);
                    copy.by = None;
                });
            }
            Life::Ready | Life::Settling => self.stop(key),
            Life::Off(_) | Life::Draining(_) => self.set(key, |copy| {
                copy.role = role;
                copy.warm_until = warm_until;
            }),
            Life::Stopping | Life::Killed | Life::Stuck => {}
        }
    }

    /// A candidate is not needed any more. What was warm before is warm again.
    pub(super) fn discard(&mut self, key: CopyKey) {
        let Some(copy) = self.copy(key).copied() else { return };
        if copy.warm_until.is_some() && copy.life == Life::Ready {
            self.set(key, |copy| copy.role = Role::Warm);
        } else {
            self.retire(key, None);
        }
    }

    pub(super) fn stop(&mut self, key: CopyKey) {
        let Some(copy) = self.copy(key).copied() else { return };
        let planned = self.plan(copy.edition).stop_limit;
        let limit = copy.stop_limit.map_or(planned, |limit| limit.min(planned));
        let by = Some(self.after(limit));
        self.end_check(key);
        self.set(key, |copy| {
            copy.role = Role::Leaving;
            copy.life = Life::Stopping;
            copy.by = by;
        });
        self.emit(Effect::Stop { copy: key, limit });
    }

    pub(super) fn kill(&mut self, key: CopyKey) {
        let by = Some(self.after(Plan::KILL_LIMIT));
        self.end_check(key);
        self.set(key, |copy| {
            copy.role = Role::Leaving;
            copy.life = Life::Killed;
            copy.by = by;
        });
        self.emit(Effect::Kill { copy: key });
    }

    /// The deadline of its stage has passed.
    pub(super) fn copy_is_late(&mut self, key: CopyKey) {
        let Some(copy) = self.copy(key).copied() else { return };
        match copy.life {
            Life::Starting => self.give_up(key, Cause::ProgramNotStarted),
            Life::Checking => self.give_up(key, Cause::ProgramNotReady),
            Life::Settling => self.set(key, |copy| {
                copy.life = Life::Ready;
                copy.by = None;
            }),
            Life::Draining(call) => self.quiet(call, false),
            Life::Stopping => {
                if self.awaits_end_of(key) || self.ends_everything() {
                    self.count(|figures| figures.killed += 1);
                }
                self.kill(key);
            }
            Life::Killed => self.set(key, |copy| {
                copy.life = Life::Stuck;
                copy.by = None;
            }),
            Life::Ready | Life::Off(_) | Life::Stuck => self.set(key, |copy| copy.by = None),
        }
    }

    fn ends_everything(&self) -> bool {
        self.table.change.as_ref().is_some_and(|change| matches!(change.what, What::Stop | What::Sleep))
    }

    pub(super) fn end_check(&mut self, key: CopyKey) {
        if self.copy(key).is_some_and(|copy| copy.checked) {
            self.set(key, |copy| copy.checked = false);
            self.emit(Effect::EndCheck { copy: key });
        }
    }

    pub(super) fn set(&mut self, key: CopyKey, change: impl FnOnce(&mut Copy)) {
        if let Some(copy) = self.copy_mut(key) {
            change(copy);
        }
    }
}
