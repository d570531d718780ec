//! The guard: a new generation serves and is watched before it may stay.
//!
//! ```text
//!   Committed ──▶ Guarding ──GuardEnded{passed}, or confirm──▶ it stays, perhaps on probation (pending.rs)
//!                    │
//!                    │ GuardEnded{failed}, or cancel, or no answer in time        its worker died
//!                    ▼                                                               ▼
//!                 GoingBack (in the same worker, pending.rs)                      Settling: in another worker
//! ```

use super::Machine;
use super::table::{End, Guarding, Operation, Step};
use crate::{CallKey, Cause, Effect, Message, Notice, StepName, WorkerKey};

impl Machine {
    pub(super) fn is_guarding(&self) -> bool {
        matches!(self.active, Some(Operation { step: Step::Guarding(_), .. }))
    }

    /// The active operation's change serves.
    pub(super) fn change_serves(&mut self, end: End) {
        let Some(operation) = self.active else { return };
        let watch = operation.terms().guard.map(|watch| watch.min(self.limits.guard_longest));
        let worker = self.main().map(|worker| worker.key);
        let (Some(watch), Some(back_to), Some(worker)) = (watch, operation.back_to, worker) else {
            return self.change_stays(end);
        };
        let call = CallKey(self.key());
        let by = self.after(watch.saturating_add(self.limits.guard_grace));
        let step = Step::Guarding(Guarding { call, back_to, passed: end });
        self.active = Some(Operation { step, by: Some(by), ..operation });
        self.progress(operation.key, StepName::Guard);
        let message = Message::Guard { call, operation: operation.key, watch };
        self.emit(Effect::Send { worker, message });
        // A process manager waits for the new generation to serve, not for what is found out about it later.
        self.emit(Effect::Notify(Notice::Ready));
        self.tell_that_it_may_take_long();
    }

    fn change_stays(&mut self, end: End) {
        if self.active.is_some_and(|operation| operation.is_upgrade()) {
            return self.upgrade_stays();
        }
        self.begin_probation();
        self.decide_made(end.outcome, end.cause, end.made);
    }

    pub(super) fn guard_ended(&mut self, worker: WorkerKey, call: CallKey, passed: bool) {
        let Some(Operation { step: Step::Guarding(guarding), .. }) = self.active else { return };
        if guarding.call != call || self.main().is_none_or(|main| main.key != worker) {
            return;
        }
        if passed {
            self.change_stays(guarding.passed);
        } else {
            self.go_back(guarding.back_to, Cause::GuardFailed);
        }
    }

    /// It does not answer: nobody knows how the new generation does.
    pub(super) fn guard_is_late(&mut self, guarding: Guarding) {
        self.tell_end(&guarding, false);
        self.go_back(guarding.back_to, Cause::GuardFailed);
    }

    /// Somebody has decided what the guard was to find out.
    pub(super) fn end_guard(&mut self, guarding: &Guarding, passed: bool) {
        self.tell_end(guarding, passed);
        if passed {
            self.change_stays(guarding.passed);
        }
    }

    fn tell_end(&mut self, guarding: &Guarding, passed: bool) {
        if let Some(worker) = self.main().map(|worker| worker.key) {
            let message = Message::EndGuard { call: guarding.call, passed };
            self.emit(Effect::Send { worker, message });
        }
    }
}
