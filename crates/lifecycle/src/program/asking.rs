//! Operations: how each begins, and which are refused at once.
//!
//! | asked for         | nothing was begun | runs nothing (stopped, asleep, ended) | up                    | something is pending     |
//! |-------------------|-------------------|---------------------------------------|-----------------------|--------------------------|
//! | start             | refuse            | rise                                  | unchanged, or rise    | the same                 |
//! | stop              | refuse            | unchanged, or only no longer on demand | end all, warm ones too | the same; it goes back all the same |
//! | restart           | refuse            | rise                                  | roll, or stop first   | the same                 |
//! | deploy            | refuse            | raise the new edition                 | change                | refuse                   |
//! | rollback          | refuse            | only what would serve is another      | change; warm: at once | the same as cancel       |
//! | confirm, cancel   | refuse            | refuse, or as when up                 | refuse                | write down; go back      |
//! | go back           | refuse            | unchanged, or as when up              | unchanged             | go back                  |
//!
//! While another operation is active everything is refused (the server has one at a time anyway); while the machine changes something
//! by itself one operation waits for its end.

use super::table::{Change, Life, Phase, Step, Waiting, What};
use super::{Ask, Effect, Figures, Machine, Plan};
use crate::{Cause, OperationKey, Outcome, PendingEnd};

impl Machine {
    pub(super) fn ask(&mut self, operation: OperationKey, ask: Ask) {
        if let Ask::Deploy { edition, plan, .. } = ask
            && self.table.plans.iter().all(|(known, _)| *known != edition)
        {
            self.learn(edition, plan);
        }
        match &self.table.change {
            _ if self.is_over() => self.refuse(operation, Cause::ShuttingDown),
            _ if self.table.edition.is_none() => self.refuse(operation, Cause::Unfit),
            Some(change) if change.operation.is_some() || self.table.waiting.is_some() => {
                self.refuse(operation, Cause::Unfit);
            }
            Some(_) => self.table.waiting = Some(Waiting::Ask { operation, ask }),
            None => self.begin_operation(operation, ask),
        }
    }

    /// What waits begins, if nothing is active any more.
    pub(super) fn begin_next(&mut self) -> bool {
        if self.table.change.is_some() {
            return false;
        }
        // What the configuration says comes first: whoever asked meanwhile asked for it.
        if let Some(edition) = self.table.apply.take() {
            self.apply_now(edition);
            return true;
        }
        match self.table.waiting.take() {
            Some(Waiting::Ask { operation, ask }) => self.begin_operation(operation, ask),
            Some(Waiting::Prepare { operation, edition, plan }) => self.prepare(operation, edition, plan),
            None => return false,
        }
        true
    }

    fn begin_operation(&mut self, operation: OperationKey, ask: Ask) {
        match ask {
            Ask::Start => self.begin_start(operation),
            Ask::Stop => self.begin_stop(operation),
            Ask::Restart { batch, max_unhealthy } => self.begin_restart(operation, batch, max_unhealthy),
            Ask::Deploy { .. } => self.begin_deploy(operation, &ask),
            Ask::Rollback => self.begin_rollback(operation),
            Ask::Confirm => self.begin_confirm(operation),
            Ask::Cancel if self.table.pending.is_none() => self.refuse(operation, Cause::Unfit),
            Ask::Cancel => self.begin_back(Some(operation), PendingEnd::Cancelled),
            Ask::GoBack if self.table.pending.is_none() => {
                self.answer(operation, Outcome::Unchanged, Cause::AlreadySo)
            }
            Ask::GoBack => self.begin_back(Some(operation), self.how_it_ends()),
        }
    }

    pub(super) fn refuse(&mut self, operation: OperationKey, cause: Cause) {
        self.answer(operation, Outcome::Rejected, cause);
    }

    fn answer(&mut self, operation: OperationKey, outcome: Outcome, cause: Cause) {
        self.emit(Effect::Done { operation, outcome, cause, figures: Figures::default() });
    }

    fn all_serve(&self) -> bool {
        let serves =
            |number: u32| self.table.copies.iter().any(|copy| copy.number == number && copy.serves());
        self.table.phase == Phase::Up && (1..=self.serving_plan().copies).all(serves)
    }

    fn begin_start(&mut self, operation: OperationKey) {
        if self.all_serve() {
            self.answer(operation, Outcome::Unchanged, Cause::AlreadySo);
        } else {
            self.rise(operation, What::Start);
        }
    }

    /// What serves anyway is started now, and the operation ends when all of it serves.
    fn rise(&mut self, operation: OperationKey, what: What) {
        let Some(edition) = self.table.edition else { return };
        let plan = self.plan(edition);
        let left_first =
            plan.quiet_limit + Plan::QUIET_GRACE + plan.stop_limit + Plan::KILL_LIMIT + Plan::TRAFFIC_LIMIT;
        let rises = Plan::START_LIMIT + plan.ready_limit + plan.settle + Plan::TRAFFIC_LIMIT;
        let by = Some(self.after(left_first + rises));
        let change = self.change_to(Some(operation), what, edition);
        self.table.change =
            Some(Change { step: Step::Rising, by, stop_first: false, todo: Vec::new(), ..change });
        self.table.phase = Phase::Up;
        self.forgive();
    }

    fn begin_stop(&mut self, operation: OperationKey) {
        let runs = self.table.copies.iter().any(|copy| copy.life != Life::Stuck);
        if self.table.phase == Phase::Down && !runs {
            self.answer(operation, Outcome::Unchanged, Cause::AlreadySo);
        } else {
            self.begin_end(Some(operation), What::Stop, Phase::Down);
        }
    }

    /// Everything of it ends, warm ones too.
    pub(super) fn begin_end(&mut self, operation: Option<OperationKey>, what: What, phase: Phase) {
        let Some(edition) = self.table.edition else { return };
        let all = self.keys(|_| true);
        let change = self.change_to(operation, what, edition);
        self.table.change =
            Some(Change { step: Step::Retiring, todo: Vec::new(), leaving: all.clone(), ..change });
        self.table.phase = phase;
        self.forgive();
        all.iter().for_each(|key| self.retire(*key, None));
    }

    fn begin_restart(&mut self, operation: OperationKey, batch: Option<u32>, max_unhealthy: Option<u32>) {
        let Some(edition) = self.table.edition else { return };
        let to = self.table.wanted.unwrap_or(edition);
        if self.nothing_serves() {
            // There is nothing to take over from.
            self.hold_to(to);
            let all = self.serving_keys();
            all.iter().for_each(|key| self.retire(*key, None));
            return self.rise(operation, What::Restart);
        }
        let mut change = self.change_to(Some(operation), What::Restart, to);
        let plan = self.plan(to);
        if to == edition && !change.stop_first {
            change.batch_size = batch.unwrap_or(plan.batch).max(1);
        }
        change.max_unhealthy = max_unhealthy.unwrap_or(plan.max_unhealthy);
        self.table.change = Some(change);
        self.enter();
    }

    fn begin_deploy(&mut self, operation: OperationKey, ask: &Ask) {
        let Ask::Deploy { edition, hook, confirm, guard, plan } = *ask else { return };
        if self.table.pending.is_some() {
            return self.refuse(operation, Cause::Pending);
        }
        if self.table.edition == Some(edition) {
            return self.refuse(operation, Cause::Unfit);
        }
        self.learn(edition, plan);
        let some = |time: &std::time::Duration| !time.is_zero();
        let (confirm, guard) = (confirm.filter(some), guard.filter(some));
        let change = self.change_to(Some(operation), What::Deploy, edition);
        // Its own limit comes first, and says why.
        let by = hook.map(|limit| self.after(limit.saturating_add(Plan::KILL_LIMIT)));
        self.table.change = Some(Change { confirm, guard, by, ..change });
        match hook {
            Some(limit) => self.emit(Effect::Hook { operation, edition, limit }),
            None => self.enter(),
        }
    }

    pub(super) fn hook_done(&mut self, operation: OperationKey, ok: bool) {
        let runs = |change: &Change| change.step == Step::Hook && change.operation == Some(operation);
        if !self.table.change.as_ref().is_some_and(runs) {
            return;
        }
        if ok {
            self.enter();
        } else {
            self.note_failure(Cause::HookFailed);
            self.fail_for_good();
        }
    }

    fn begin_rollback(&mut self, operation: OperationKey) {
        if self.table.pending.is_some() {
            return self.begin_back(Some(operation), PendingEnd::Cancelled);
        }
        let Some(before) = self.table.before else { return self.refuse(operation, Cause::Unfit) };
        let change = self.change_to(Some(operation), What::Rollback, before);
        self.begin_return(change);
    }

    fn begin_confirm(&mut self, operation: OperationKey) {
        if self.table.pending.is_none() {
            return self.refuse(operation, Cause::Unfit);
        }
        let Some(edition) = self.table.edition else { return };
        let change = self.change_to(Some(operation), What::Confirm, edition);
        self.table.change = Some(Change { todo: Vec::new(), ..change });
        self.write_down(Some(edition), self.table.before, None);
    }

    /// From now on this edition is what is run, without any that would serve meanwhile.
    pub(super) fn hold_to(&mut self, edition: super::EditionKey) {
        if self.table.edition != Some(edition) {
            let change = Change { to: edition, what: What::Apply, ..Change::default() };
            self.serve_edition(&change);
        }
    }
}
