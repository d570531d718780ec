//! What the machine shows of itself: the view, the step of its operation, and how long an operation can take.

use std::time::Duration;

use super::table::{Change, Copy, Life, Phase, Step, What};
use super::{Ask, CopyView, Effect, Machine, PendingView, Plan, Role, State, View};
use crate::StepName;

impl Machine {
    /// A picture of the machine.
    #[must_use]
    pub fn view(&self) -> View {
        let table = &self.table;
        let warm_until = table.before.filter(|before| self.is_warm(*before)).and_then(|before| {
            let warm = table.copies.iter().filter(|copy| copy.role == Role::Warm && copy.edition == before);
            warm.filter_map(|copy| copy.warm_until).min()
        });
        View {
            state: self.state(),
            edition: table.edition,
            wanted: table.wanted,
            before: table.before,
            warm_until,
            pending: table.pending.map(|pending| PendingView {
                operation: pending.operation,
                edition: pending.edition,
                back_to: pending.back_to,
                until: pending.until,
            }),
            paused_until: table.paused,
            operation: self.operation(),
            step: table.change.as_ref().map(|change| self.step_name(change)),
            copies: table.copies.iter().map(|copy| self.copy_view(copy)).collect(),
            restarts: table.restarts,
            next_start: self.next_start(),
        }
    }

    fn copy_view(&self, copy: &Copy) -> CopyView {
        CopyView {
            copy: copy.key,
            edition: copy.edition,
            number: copy.number,
            role: copy.role,
            stage: copy.life.stage(),
            on: copy.serves(),
            restarts: self.number(copy.number).restarts,
        }
    }

    fn state(&self) -> State {
        let ends = matches!(self.table.phase, Phase::Down | Phase::Asleep | Phase::Finished | Phase::Ending);
        let runs = self.table.copies.iter().any(|copy| copy.life != Life::Stuck);
        let changes = self.table.change.as_ref().is_some_and(|change| {
            !matches!(change.what, What::Start | What::Stop | What::Sleep | What::Confirm)
                && change.step != Step::Rising
        });
        let gives_up = self.table.change.as_ref().is_some_and(|change| change.step == Step::Discarding);
        match self.table.phase {
            Phase::New => State::New,
            _ if ends && runs && gives_up => State::Stopping,
            _ if changes => State::Swapping,
            _ if ends && runs => State::Stopping,
            Phase::Down => State::Stopped,
            Phase::Asleep => State::OnDemand,
            Phase::Finished | Phase::Ending | Phase::Over => State::Ended,
            Phase::Up if !self.nothing_serves() => State::Running,
            Phase::Up if self.next_start().is_some() => State::BackOff,
            Phase::Up => State::Starting,
        }
    }

    fn step_name(&self, change: &Change) -> StepName {
        match change.step {
            Step::Hook => StepName::Hook,
            Step::Pausing(_) => StepName::Hold,
            Step::Quieting(_) => StepName::Quiet,
            Step::Stopping | Step::Discarding => StepName::StopProgram,
            Step::Raising => self.rising_name(Role::Candidate),
            Step::Rising => self.rising_name(Role::Serving),
            Step::Held => StepName::SettleProgram,
            Step::Trying | Step::Guarding => StepName::Guard,
            Step::Saving(_) if change.what == What::Confirm => StepName::Confirm,
            Step::Saving(_) => StepName::Journal,
            Step::Switching(_) => StepName::Switch,
            Step::Retiring => {
                let drains = |copy: &Copy| matches!(copy.life, Life::Off(_) | Life::Draining(_));
                if self.table.copies.iter().any(drains) { StepName::Quiet } else { StepName::StopProgram }
            }
            Step::Restoring => StepName::GoBack,
        }
    }

    fn rising_name(&self, role: Role) -> StepName {
        let any = |life: Life| self.table.copies.iter().any(|copy| copy.role == role && copy.life == life);
        if any(Life::Checking) {
            StepName::Ready
        } else if any(Life::Starting) || self.table.copies.iter().all(|copy| copy.role != role) {
            StepName::StartProgram
        } else {
            StepName::SettleProgram
        }
    }

    /// Says what is looked for, which step the operation has come to, and which editions are not needed any more.
    pub(super) fn tell(&mut self) {
        self.watch();
        self.write_whether_stopped();
        let step = self.table.change.as_ref().and_then(|change| {
            let operation = change.operation.filter(|_| change.what != What::Exam)?;
            Some((operation, self.step_name(change)))
        });
        if step != self.table.told {
            self.table.told = step;
            if let Some((operation, step)) = step {
                self.emit(Effect::Step { operation, step });
            }
        }
        self.forget();
    }

    fn forget(&mut self) {
        let table = &self.table;
        let needed = [
            table.edition,
            table.wanted,
            table.before,
            table.apply,
            table.change.as_ref().map(|change| change.to),
        ];
        let waits = table.waiting.and_then(|waiting| waiting.edition());
        let pending = table.pending.map(|pending| pending.back_to);
        let is_needed = |edition| {
            needed.contains(&Some(edition))
                || waits == Some(edition)
                || pending == Some(edition)
                || table.copies.iter().any(|copy| copy.edition == edition)
        };
        let over: Vec<_> = table.plans.iter().map(|(key, _)| *key).filter(|key| !is_needed(*key)).collect();
        self.table.plans.retain(|(key, _)| !over.contains(key));
        over.into_iter().for_each(|edition| self.emit(Effect::Forget { edition }));
    }

    /// The longest time that this operation can take if it begins now.
    #[must_use]
    pub fn longest(&self, ask: &Ask) -> Duration {
        let serving = self.serving_plan();
        let before = self.table.before.map_or(serving, |before| self.plan(before));
        let wanted = self.table.wanted.map_or(serving, |wanted| self.plan(wanted));
        let change = match ask {
            Ask::Start | Ask::Stop => serving.change_at_most(&serving),
            Ask::Restart { batch, .. } => {
                let batch = batch.unwrap_or(wanted.batch).max(1);
                serving
                    .change_at_most(&wanted)
                    .saturating_mul(wanted.copies.div_ceil(batch).saturating_add(1))
            }
            Ask::Deploy { plan, hook, guard, .. } => {
                let plan = plan.bounded();
                let both = serving.change_at_most(&plan) + plan.change_at_most(&serving);
                let hook = hook.map(|limit| limit.saturating_add(Plan::KILL_LIMIT));
                both.saturating_add(hook.unwrap_or_default()).saturating_add(guard.unwrap_or_default())
            }
            Ask::Rollback | Ask::Cancel | Ask::GoBack => serving.change_at_most(&before),
            Ask::Confirm => Plan::SAVE_LIMIT,
        };
        change.saturating_add(self.own_change_at_most())
    }

    /// How long the operation may have to wait for what the machine does by itself.
    fn own_change_at_most(&self) -> Duration {
        let Some(change) = self.table.change.as_ref().filter(|change| change.operation.is_none()) else {
            return self
                .table
                .apply
                .map_or(Duration::ZERO, |to| self.serving_plan().change_at_most(&self.plan(to)));
        };
        let again =
            self.table.apply.map_or(Duration::ZERO, |to| self.plan(change.to).change_at_most(&self.plan(to)));
        self.serving_plan().change_at_most(&self.plan(change.to)).saturating_add(again)
    }

    /// The longest time that the exam of this plan can take if it begins now.
    #[must_use]
    pub fn longest_exam(&self, plan: &Plan) -> Duration {
        let plan = plan.bounded();
        (plan.rises_within() + plan.ends_within()).saturating_add(self.own_change_at_most())
    }
}

impl Plan {
    /// The longest time from starting copies until they are ready and settled.
    fn rises_within(&self) -> Duration {
        Self::START_LIMIT + self.ready_limit + self.settle + Self::TRAFFIC_LIMIT
    }

    /// The longest time from sending copies away until they are gone or given up.
    fn ends_within(&self) -> Duration {
        let drains = Self::TRAFFIC_LIMIT + self.quiet_limit + Self::QUIET_GRACE;
        drains + self.stop_limit + Self::KILL_LIMIT
    }

    /// The longest time of a change from this plan to that one, also if it fails in its last step.
    fn change_at_most(&self, to: &Self) -> Duration {
        let fails = to.ends_within() + self.rises_within();
        to.rises_within() + Self::SAVE_LIMIT + Self::TRAFFIC_LIMIT + self.ends_within() + fails
    }
}
