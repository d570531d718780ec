//! The configuration: what runs from now on, the exam of a reload, and the end of everything.
//!
//! ```text
//!   Prepare ─▶ Raising ─▶ Held ─ Apply of the same edition ─▶ Switching ─▶ Retiring
//!                 │         └─── Abort, another edition, too late ─▶ Discarding
//!                 └ failed: Prepared {failed}
//!
//!   Apply, unexamined:  it runs ─▶ a change of the machine's own;  it does not ─▶ only what would serve is another
//! ```

use std::time::Duration;

use super::table::{Life, Pending, Phase, Step, Waiting, What};
use super::{EditionKey, Effect, Machine, Plan, Role};
use crate::{Cause, OperationKey, Outcome};

impl Machine {
    pub(super) fn begin(
        &mut self,
        edition: EditionKey,
        plan: Plan,
        before: Option<(EditionKey, Plan)>,
        pending: Option<Duration>,
        stopped: bool,
    ) {
        if self.table.phase != Phase::New {
            return self.apply(edition, plan);
        }
        self.learn(edition, plan);
        let before = before.filter(|(key, _)| *key != edition);
        if let Some((key, plan)) = before {
            self.learn(key, plan);
        }
        self.table.edition = Some(edition);
        self.table.before = before.map(|(key, _)| key);
        self.table.pending = self.table.before.zip(pending).map(|(back_to, left)| Pending {
            operation: None,
            edition,
            back_to,
            since: self.now,
            until: self.after(left),
            proposed_by: None,
        });
        self.table.phase = match (stopped, plan.on_demand) {
            (true, _) => Phase::Down,
            (false, true) => Phase::Asleep,
            (false, false) => Phase::Up,
        };
        self.table.durable = self.durable_now();
    }

    pub(super) fn prepare(&mut self, operation: OperationKey, edition: EditionKey, plan: Plan) {
        match &self.table.change {
            _ if self.is_over() => return self.examined(operation, Some(Cause::ShuttingDown)),
            Some(change) if change.operation.is_some() || self.table.waiting.is_some() => {
                return self.examined(operation, Some(Cause::Unfit));
            }
            Some(_) => {
                self.table.waiting = Some(Waiting::Prepare { operation, edition, plan });
                return;
            }
            None => {}
        }
        // What does not run proves nothing by running; what must stop first cannot be beside the old one.
        let runs = matches!(self.table.phase, Phase::New | Phase::Up);
        if !runs || self.table.edition == Some(edition) {
            return self.examined(operation, None);
        }
        let known = self.table.plans.iter().any(|(key, _)| *key == edition);
        if !known {
            self.learn(edition, plan);
        }
        if (self.table.edition.is_some() && self.stops_first(edition)) || plan.on_demand {
            return self.examined(operation, None);
        }
        let change = self.change_to(Some(operation), What::Exam, edition);
        self.table.change = Some(change);
        self.enter();
    }

    fn examined(&mut self, operation: OperationKey, failed: Option<Cause>) {
        self.emit(Effect::Prepared { operation, failed });
    }

    pub(super) fn apply(&mut self, edition: EditionKey, plan: Plan) {
        if self.is_over() {
            return;
        }
        self.learn(edition, plan);
        if self.table.edition == Some(edition) {
            // Only numbers differ. What is active goes on, and may be about to serve another edition.
            self.table.apply = None;
            self.apply_now(edition);
        } else {
            self.table.apply = Some(edition);
        }
        let Some(change) = &self.table.change else { return };
        match (change.what, change.step) {
            (What::Exam, Step::Held) if change.to == edition && self.is_complete(edition) => {
                self.table.apply = None;
                if let Some(change) = &mut self.table.change {
                    change.what = What::Apply;
                    change.operation = None;
                }
                self.switch();
            }
            // What it proves is not needed any more; or the newer definition is.
            (What::Exam, _) => self.fail(Cause::Refused),
            (What::Apply, _) if !self.has_switched() && change.to != edition => self.call_off_change(),
            _ => {}
        }
    }

    /// Whether all candidates of this edition are ready.
    fn is_complete(&self, edition: EditionKey) -> bool {
        let ready = |number: u32| {
            self.table.copies.iter().any(|copy| {
                copy.role == Role::Candidate
                    && copy.edition == edition
                    && copy.number == number
                    && copy.life == Life::Ready
            })
        };
        (1..=self.plan(edition).copies).all(ready)
    }

    /// Nothing is active: the edition serves from now on.
    pub(super) fn apply_now(&mut self, edition: EditionKey) {
        let plan = self.plan(edition);
        match self.table.phase {
            Phase::New => {
                self.table.edition = Some(edition);
                self.table.phase = if plan.on_demand { Phase::Asleep } else { Phase::Up };
            }
            _ if self.table.edition == Some(edition) => {
                self.table.wanted = None;
                if self.table.phase == Phase::Asleep && !plan.on_demand {
                    self.table.phase = Phase::Up;
                }
            }
            Phase::Up if !self.nothing_serves() => {
                self.table.wanted = Some(edition);
                self.table.change = Some(self.change_to(None, What::Apply, edition));
                self.enter();
            }
            _ => {
                self.hold_to(edition);
                self.serving_keys().iter().for_each(|key| self.retire(*key, None));
                self.table.phase = match self.table.phase {
                    Phase::Asleep if plan.on_demand => Phase::Asleep,
                    Phase::Down => Phase::Down,
                    _ => Phase::Up,
                };
            }
        }
    }

    pub(super) fn call_off(&mut self, operation: OperationKey) {
        match self.table.waiting {
            Some(Waiting::Ask { operation: waits, .. }) if waits == operation => {
                self.table.waiting = None;
                return self.refuse(operation, Cause::ShuttingDown);
            }
            Some(Waiting::Prepare { operation: waits, .. }) if waits == operation => {
                self.table.waiting = None;
                return self.examined(operation, Some(Cause::ShuttingDown));
            }
            _ => {}
        }
        if self.operation() == Some(operation) {
            self.call_off_change();
        }
    }

    /// The active change ends as soon as what served before serves.
    pub(super) fn call_off_change(&mut self) {
        let Some(change) = &self.table.change else { return };
        let (step, operation, within) = (change.step, change.operation, change.within);
        match (change.what, step) {
            // They end soon by themselves.
            (What::Stop | What::Sleep | What::Confirm, _) | (_, Step::Discarding | Step::Restoring) => {}
            // On its way back to what served before already.
            _ if within => {}
            (_, Step::Hook) => {
                if let Some(operation) = operation {
                    self.emit(Effect::EndHook { operation });
                }
                self.note_failure(Cause::ShuttingDown);
                self.fail_for_good();
            }
            (_, Step::Pausing(_) | Step::Quieting(_)) => {
                self.note_failure(Cause::ShuttingDown);
                self.fail_for_good();
            }
            (_, Step::Stopping | Step::Raising | Step::Held | Step::Trying | Step::Saving(_)) => {
                self.fail(Cause::ShuttingDown);
            }
            (_, Step::Rising) => self.note_failure(Cause::ShuttingDown),
            (_, Step::Switching(_) | Step::Guarding | Step::Retiring) => self.let_it_be(),
        }
    }

    /// The change has happened: what is left of it goes on without the operation.
    fn let_it_be(&mut self) {
        if self.table.change.as_ref().is_some_and(|change| !change.todo.is_empty()) {
            return self.finish(Outcome::NotReady, Cause::ShuttingDown);
        }
        let (outcome, cause) = self.success();
        // What a guard has not seen to its end, nobody knows.
        let guarded = self.table.change.as_ref().is_some_and(|change| matches!(change.step, Step::Guarding));
        self.begin_probation();
        self.finish(outcome, if guarded { Cause::ShuttingDown } else { cause });
    }

    pub(super) fn end(&mut self, limit: Option<Duration>) {
        if self.is_over() {
            return;
        }
        match self.table.waiting.take() {
            Some(Waiting::Ask { operation, .. }) => self.refuse(operation, Cause::ShuttingDown),
            Some(Waiting::Prepare { operation, .. }) => self.examined(operation, Some(Cause::ShuttingDown)),
            None => {}
        }
        self.table.apply = None;
        self.table.phase = Phase::Ending;
        self.cut_short();
        self.resume_traffic();
        for key in self.keys(|_| true) {
            self.set(key, |copy| copy.stop_limit = limit);
            self.retire(key, None);
        }
    }

    /// The active change ends now; what ends anyway, goes on.
    fn cut_short(&mut self) {
        let Some(change) = &self.table.change else { return };
        match (change.what, change.step) {
            (What::Stop | What::Sleep | What::Confirm, _) => {}
            _ if self.has_switched() => self.let_it_be(),
            // The guard has failed, and what it failed for serves.
            _ if change.within => self.finish(Outcome::AppliedWithLosses, Cause::NotTakenBack),
            (_, Step::Discarding | Step::Restoring) => {
                let cause = change.failed.unwrap_or(Cause::ShuttingDown);
                self.finish(Outcome::NotReady, cause);
            }
            (_, Step::Hook) => self.call_off_change(),
            (_, Step::Rising) => self.finish(Outcome::NotReady, Cause::ShuttingDown),
            _ => {
                let begun = change.figures.ready > 0;
                let outcome = if begun { Outcome::NotReady } else { Outcome::Rejected };
                self.finish(outcome, Cause::ShuttingDown);
            }
        }
    }
}
