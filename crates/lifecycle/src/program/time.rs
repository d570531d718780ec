//! Deadlines: every wait of the machine has one, and they are all here.

use std::time::Duration;

use super::table::Step;
use super::{CopyKey, Machine};
use crate::Cause;

impl Machine {
    /// The earliest time at which [`super::Event::Time`] is wanted. Ask again after every step.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let table = &self.table;
        let copies = table.copies.iter().map(|copy| copy.by);
        let change = table.change.as_ref();
        let rising = change.filter(|change| matches!(change.step, Step::Rising | Step::Restoring));
        let at_rest = table.change.is_none() && !self.is_over();
        let later = |time: &Duration| *time > self.now;
        // Once one of these is over, what holds it up has a deadline of its own.
        let warm = table
            .copies
            .iter()
            .filter_map(|copy| copy.warm_until)
            .filter(|_| at_rest && table.pending.is_none());
        let pending = table.pending.filter(|_| at_rest);
        let proposed = pending.and_then(|pending| pending.proposed_by);
        let until = pending.filter(|_| proposed.is_none()).map(|pending| pending.until);
        copies
            .chain([
                change.and_then(|change| change.by),
                rising.and_then(|_| self.rising_until()).filter(later),
                table.routes.by,
                table.paused,
                self.next_start().filter(later),
                warm.min().filter(later),
                until.filter(later),
                proposed.filter(later),
            ])
            .flatten()
            .min()
    }

    /// Acts upon every deadline that has passed, once.
    pub(super) fn expire(&mut self) {
        let now = self.now;
        let late = |by: Option<Duration>| by.is_some_and(|by| by <= now);
        let copies: Vec<CopyKey> = self.keys(|copy| late(copy.by));
        for key in copies {
            // One that was late may have taken others with it.
            if self.copy(key).is_some_and(|copy| late(copy.by)) {
                self.copy_is_late(key);
            }
        }
        if late(self.table.routes.by) {
            self.traffic_is_late();
        }
        if late(self.table.paused) {
            self.pause_is_over();
        }
        if late(self.table.change.as_ref().and_then(|change| change.by)) {
            self.change_is_late();
        }
    }

    /// Requests are held no longer. What was not asked to stop yet goes on serving; otherwise the change goes on without.
    fn pause_is_over(&mut self) {
        self.resume_traffic();
        let step = self.table.change.as_ref().map(|change| change.step);
        if matches!(step, Some(Step::Pausing(_) | Step::Quieting(_))) {
            self.note_failure(Cause::NotQuiet);
            self.fail_for_good();
        }
    }

    fn change_is_late(&mut self) {
        let Some(change) = &mut self.table.change else { return };
        change.by = None;
        let operation = change.operation;
        match change.step {
            Step::Hook => {
                if let Some(operation) = operation {
                    self.emit(super::Effect::EndHook { operation });
                }
                self.note_failure(Cause::HookFailed);
                self.fail_for_good();
            }
            Step::Quieting(call) => self.quiet(call, false),
            // Nobody has said what becomes of the reload.
            Step::Held => self.fail(Cause::ShuttingDown),
            Step::Trying => self.save_or_switch(),
            Step::Saving(call) => self.saved(call, false),
            Step::Guarding => self.settle(),
            Step::Rising | Step::Restoring => self.note_failure(Cause::ProgramNotReady),
            // They have no deadline of their own: copies and traffic have.
            Step::Pausing(_)
            | Step::Stopping
            | Step::Raising
            | Step::Switching(_)
            | Step::Retiring
            | Step::Discarding => {}
        }
    }
}
