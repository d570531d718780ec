//! A deploy that is not final: guarded, awaiting confirmation, taken back; and how every change ends.
//!
//! ```text
//!   Switching ─▶ (Guarding) ─▶ probation ─ Confirm, written ─▶ final
//!                   │ failed      │ Cancel, Rollback
//!                   ▼             │ time over, or its copies die: Propose ─▶ GoBack; or, if that does not come, without an operation
//!              goes back within   ▼
//!              the operation    Back: warm: at once; cold: as any change
//!                                 └─ the edition before cannot be made to serve: what serves stays, and nothing is pending any more
//! ```

use std::time::Duration;

use super::table::{Change, Pending, Phase, Step, What};
use super::{EditionKey, Effect, Machine, Plan, Swap, Why};
use crate::{Cause, OperationKey, Outcome, PendingEnd};

impl Machine {
    /// The edition of this change is what serves now, and what it replaces is what a rollback goes to.
    pub(super) fn serve_edition(&mut self, change: &Change) {
        let from = self.table.edition.replace(change.to);
        self.table.wanted = None;
        self.forgive();
        match change.what {
            What::Deploy => self.table.before = from,
            What::Rollback => {
                self.table.before = from;
                self.end_probation(PendingEnd::Cancelled);
            }
            What::Back => {
                self.table.before = None;
                self.end_probation(change.how.unwrap_or(PendingEnd::Cancelled));
            }
            // The configuration itself has gone back to it.
            _ if self.table.pending.is_some_and(|pending| pending.back_to == change.to) => {
                self.end_probation(PendingEnd::Replaced);
            }
            // Another definition of the same slot: what is on probation is still that slot.
            _ => {
                if let Some(pending) =
                    self.table.pending.as_mut().filter(|pending| Some(pending.edition) == from)
                {
                    pending.edition = change.to;
                }
            }
        }
        if self.table.before == self.table.edition {
            self.table.before = None;
        }
    }

    /// From now on the deploy awaits confirmation, if it has to be confirmed.
    pub(super) fn begin_probation(&mut self) {
        let Some(change) = self.table.change.as_mut().filter(|change| change.what == What::Deploy) else {
            return;
        };
        let (Some(confirm), Some(back_to)) = (change.confirm.take(), self.table.before) else { return };
        let since = change.switched_at.unwrap_or(self.now);
        self.table.pending = Some(Pending {
            operation: change.operation,
            edition: change.to,
            back_to,
            since,
            until: since.saturating_add(confirm),
            proposed_by: None,
        });
    }

    /// Nothing awaits confirmation any more.
    pub(super) fn end_probation(&mut self, how: PendingEnd) {
        if let Some(pending) = self.table.pending.take() {
            self.emit(Effect::PendingOver { edition: pending.edition, how });
        }
    }

    /// The guard has failed: the edition before serves again, within the same operation.
    pub(super) fn go_back_within(&mut self) {
        self.end_watch();
        let Some(to) = self.table.before else { return self.settle() };
        let stop_first = self.stops_first(to);
        let copies = self.plan(to).copies;
        let keys_from = self.table.next_key;
        if let Some(change) = &mut self.table.change {
            *change = Change {
                keys_from,
                operation: change.operation,
                what: What::Back,
                to,
                todo: (1..=copies).collect(),
                batch_size: copies,
                succeeds: Some((Outcome::RolledBack, Cause::GuardFailed)),
                within: true,
                stop_first,
                was: change.was,
                figures: change.figures,
                ..Change::default()
            };
        }
        self.enter();
    }

    /// Whether what runs must have ended before this edition is started.
    pub(super) fn stops_first(&self, to: EditionKey) -> bool {
        let alone = |edition: EditionKey| self.plan(edition).swap == Swap::StopFirst;
        alone(to)
            || self.serving_plan().swap == Swap::StopFirst
            || self.table.copies.iter().any(|copy| copy.edition != to && alone(copy.edition))
    }

    /// Why the deploy on probation has to go, if it has.
    fn must_go_back(&self, pending: &Pending) -> Option<Why> {
        if pending.until <= self.now {
            return Some(Why::NotConfirmed);
        }
        let failures = |at_least: u32| self.table.numbers.iter().any(|number| number.failures >= at_least);
        let dies = failures(2) || (failures(1) && self.nothing_serves());
        (self.table.phase == Phase::Up && dies).then_some(Why::Dies)
    }

    /// Goes back when it is time to and nobody has asked for it, after having proposed it.
    pub(super) fn go_back_if_due(&mut self) -> bool {
        if self.table.change.is_some() || self.is_over() {
            return false;
        }
        let Some(pending) = self.table.pending else { return false };
        match (self.must_go_back(&pending), pending.proposed_by) {
            (Some(why), None) => {
                let limit = match why {
                    Why::Dies if self.nothing_serves() => Plan::PROPOSE_LIMIT_DOWN,
                    _ => Plan::PROPOSE_LIMIT,
                };
                let by = Some(self.after(limit));
                if let Some(pending) = &mut self.table.pending {
                    pending.proposed_by = by;
                }
                self.emit(Effect::Propose { why });
                true
            }
            (_, Some(by)) if by <= self.now => {
                self.begin_back(None, self.how_it_ends());
                true
            }
            _ => false,
        }
    }

    /// What becomes of what is pending if the supervisor takes it back now.
    pub(super) fn how_it_ends(&self) -> PendingEnd {
        let over = self.table.pending.is_some_and(|pending| pending.until <= self.now);
        if over { PendingEnd::NotConfirmed } else { PendingEnd::WorkersDied }
    }

    /// The edition before takes over from the one on probation.
    pub(super) fn begin_back(&mut self, operation: Option<OperationKey>, how: PendingEnd) {
        let Some(pending) = self.table.pending else { return };
        let change = Change { how: Some(how), ..self.change_to(operation, What::Back, pending.back_to) };
        self.begin_return(change);
    }

    /// A change to what served before. Where nothing runs only the name of what would serve changes.
    pub(super) fn begin_return(&mut self, change: Change) {
        self.table.change = Some(change);
        if self.table.phase == Phase::Up {
            self.enter();
        } else {
            if let Some(change) = &mut self.table.change {
                change.todo.clear();
            }
            self.save_or_switch();
        }
    }

    /// The active change has failed for good, and all that it started has ended.
    pub(super) fn fail_for_good(&mut self) {
        let (outcome, cause) = self.failure();
        let returns =
            self.table.change.as_ref().is_some_and(|change| change.what == What::Back && !change.within);
        let how = self.table.change.as_ref().and_then(|change| change.how);
        if returns && how != Some(PendingEnd::Cancelled) {
            // That somebody serves outranks the deadline.
            self.end_probation(PendingEnd::NotPossible);
        }
        self.finish(outcome, cause);
    }

    /// How the active change ends, having failed.
    pub(super) fn failure(&self) -> (Outcome, Cause) {
        let Some(change) = &self.table.change else { return (Outcome::NotReady, Cause::ProgramNotReady) };
        let cause = change.failed.unwrap_or(Cause::ProgramNotReady);
        let by_itself = change.what == What::Back && change.how != Some(PendingEnd::Cancelled);
        match cause {
            _ if change.restore_failed.is_some() => (Outcome::Unknown, Cause::ProgramDown),
            Cause::ShuttingDown if change.stopped_old => (Outcome::RolledBack, cause),
            Cause::ShuttingDown if change.figures.ready > 0 => (Outcome::NotReady, cause),
            Cause::ShuttingDown | Cause::HookFailed => (Outcome::Rejected, cause),
            _ if change.within => (Outcome::AppliedWithLosses, Cause::NotTakenBack),
            _ if by_itself => (Outcome::NotReady, Cause::NotTakenBack),
            _ if change.stopped_old => (Outcome::RolledBack, cause),
            Cause::GuardFailed => (Outcome::RolledBack, cause),
            _ => (Outcome::NotReady, cause),
        }
    }

    /// The active change is over, and its operation is answered.
    pub(super) fn finish(&mut self, outcome: Outcome, cause: Cause) {
        self.resume_traffic();
        self.end_watch();
        let Some(change) = self.table.change.take() else { return };
        self.table.told = None;
        let mut figures = change.figures;
        let warm = self.table.before.filter(|before| self.is_warm(*before));
        figures.warm = warm.map_or(0, |edition| self.plan(edition).copies);
        match (change.what, change.operation) {
            // Its finding was told, unless it has failed.
            (What::Exam, operation) => {
                if let Some(operation) = operation.filter(|_| !change.told) {
                    self.emit(Effect::Prepared { operation, failed: Some(cause) });
                }
            }
            (_, Some(operation)) => self.emit(Effect::Done { operation, outcome, cause, figures }),
            (_, None)
                if !outcome.is_success() && outcome != Outcome::RolledBack || change.failed.is_some() =>
            {
                self.emit(Effect::Failed { edition: change.to, cause });
            }
            (_, None) => {}
        }
    }

    /// A confirmation is written down.
    pub(super) fn confirmed(&mut self) {
        let since = self.table.pending.map_or(Duration::ZERO, |pending| pending.since);
        self.end_probation(PendingEnd::Confirmed);
        let until = since.saturating_add(self.serving_plan().warm);
        for copy in &mut self.table.copies {
            copy.warm_until = copy.warm_until.map(|_| until);
        }
        self.finish(Outcome::Applied, Cause::Done);
    }

    /// The step is one that cannot be called off any more: the change has happened.
    pub(super) fn has_switched(&self) -> bool {
        let switched = |change: &Change| {
            matches!(change.step, Step::Switching(_) | Step::Guarding | Step::Retiring)
                && !matches!(change.what, What::Stop | What::Sleep)
        };
        self.table.change.as_ref().is_some_and(switched)
    }
}
