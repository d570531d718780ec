//! Rules 7 to 9, about changes that may be taken back.
//!
//! 7. While one may, the supervisor holds the listeners of the generation before, and has its bytes.
//! 8. One that was not confirmed does not serve past its deadline, in no life of any supervisor, for longer than going
//!    back may take; and no start serves it after that.
//! 9. A change is either confirmed or taken back; a guard is judged by its own worker, and always ends.
//!
//! What is on probation is tracked here from the effects and the journal alone, and compared with what the machine shows.

use std::time::Duration;

use handover_lifecycle::{
    CallKey, Cause, Effect, Event, GenerationNumber, Kind, Message, OperationKey, Outcome, Pending,
    PendingEnd, Phase, Role, Stage, Verdict, WorkerKey,
};

use crate::driver::Driver;
use crate::journal::{Unconfirmed, UnconfirmedUpgrade};
use crate::ops::Op;
use crate::worker::{Worker, listeners};
use crate::world::World;

/// A change on probation, on the supervisor's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tracked {
    pub(crate) generation: GenerationNumber,
    pub(crate) back_to: GenerationNumber,
    pub(crate) by: Duration,
    /// If it is an upgrade: the worker that took over.
    pub(crate) upgrade: Option<WorkerKey>,
    /// Since when its time is over, on the world's clock, which does not jump.
    overdue: Option<Duration>,
    /// Another deadline that is being written, and for which operation.
    extends: Option<(OperationKey, Duration)>,
}

/// A guard, as the world saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    pub(crate) operation: OperationKey,
    pub(crate) call: CallKey,
    pub(crate) by: Duration,
    /// What the operation may end as, by now.
    pub(crate) passed: Option<bool>,
    pub(crate) cancelled: bool,
    /// Its operation is not decided yet.
    pub(crate) open: bool,
}

impl World {
    /// What the journal says of the time before, for the machine.
    pub(crate) fn pending_of(&self, known: Unconfirmed) -> Pending {
        let left = known.until.saturating_sub(self.wall_clock());
        Pending { generation: known.generation, back_to: known.back_to, upgrade: None, left }
    }

    /// The same of an upgrade.
    pub(crate) fn pending_upgrade_of(&self, known: UnconfirmedUpgrade) -> Pending {
        let left = known.until.saturating_sub(self.wall_clock());
        let UnconfirmedUpgrade { generation, worker, .. } = known;
        Pending { generation, back_to: generation, upgrade: Some(worker), left }
    }

    /// Whether an upgrade's worker serves, and the one before lets its last connections end.
    pub(crate) fn is_warming(&self) -> bool {
        let Some(driver) = &self.driver else { return false };
        driver.view.workers.iter().any(|w| w.role == Role::Warm && w.stage == Stage::Draining)
            || driver.view.pending.is_some_and(|pending| pending.upgrade.is_some())
    }

    pub(crate) fn track(&mut self, pending: Option<Pending>) {
        let now = self.machine_time();
        self.tracked = pending.map(|Pending { generation, back_to, upgrade, left }| Tracked {
            generation,
            back_to,
            by: now + left,
            upgrade,
            overdue: None,
            extends: None,
        });
    }

    /// Before the effects of an event are performed.
    pub(crate) fn watch_probation(&mut self, event: &Event) {
        match *event {
            Event::GuardEnded { call, passed, .. } => {
                if let Some(guard) = self.tally.guards.iter_mut().rev().find(|guard| guard.call == call) {
                    guard.passed.get_or_insert(passed);
                }
            }
            Event::IntentWritten { operation, generation } => {
                if let Some(tracked) = &mut self.tracked
                    && tracked.generation == generation
                    && let Some((_, by)) = tracked.extends.filter(|(key, _)| *key == operation)
                {
                    tracked.extends = None;
                    let waits = self.driver.as_ref().and_then(|driver| driver.pending());
                    // It came in time only if the machine was still waiting for it.
                    if waits.is_some_and(|(_, _, until)| until == by) {
                        tracked.by = by;
                        tracked.overdue = None;
                    }
                }
            }
            _ => {}
        }
    }

    /// The effects that say something about changes on probation.
    pub(crate) fn check_probation(&mut self, effect: &Effect) {
        match *effect {
            Effect::Pending { operation, generation, back_to, upgrade, left } => {
                let by = self.machine_time() + left;
                match &mut self.tracked {
                    Some(tracked) if tracked.generation == generation => {
                        tracked.extends = Some((operation, by));
                    }
                    _ => {
                        let (overdue, extends) = (None, None);
                        self.tracked = Some(Tracked { generation, back_to, by, upgrade, overdue, extends });
                        self.tally.upgrades_pending += u64::from(upgrade.is_some());
                        self.tally.begun_anew.retain(|number| *number != generation);
                        if self.ops.iter().any(|op| op.key == operation && op.kind == Kind::Start) {
                            self.tally.begun_anew.push(generation);
                        }
                        self.tally.pending += 1;
                    }
                }
                self.meddle_with_change(left);
            }
            Effect::PendingOver { generation, upgrade, how } => self.check_over(generation, upgrade, how),
            Effect::Send { message: Message::Guard { call, operation, watch }, .. } => {
                let by = self.machine_time() + watch + self.limits.guard_grace;
                let (passed, cancelled, open) = (None, false, true);
                self.tally.guards.push(Guard { operation, call, by, passed, cancelled, open });
                self.meddle_with_change(watch);
            }
            Effect::Send { message: Message::EndGuard { call, passed }, .. } => {
                if let Some(guard) = self.tally.guards.iter_mut().rev().find(|guard| guard.call == call) {
                    guard.passed.get_or_insert(passed);
                }
            }
            _ => {}
        }
    }

    fn check_over(&mut self, generation: GenerationNumber, upgrade: Option<WorkerKey>, how: PendingEnd) {
        self.tally.over[how as usize] += 1;
        if self.tracked.is_none() && upgrade.is_some() && how == PendingEnd::Replaced {
            return;
        }
        if how == PendingEnd::NotPossible {
            self.check_not_possible(upgrade);
            if self.tracked.is_none() {
                return;
            }
        }
        let Some(tracked) = self.tracked.take() else {
            // A start found the disk changed, or serves the one before.
            let starts = self.at_start.is_some_and(|(unconfirmed, _)| unconfirmed.generation == generation);
            if !starts || !matches!(how, PendingEnd::Replaced | PendingEnd::NotConfirmed) {
                self.break_rule(9, format!("{generation} is {how:?}, and was not on probation"));
            }
            return;
        };
        if tracked.generation != generation || tracked.upgrade != upgrade {
            return self.break_rule(9, format!("{generation} is {how:?}, and {tracked:?} was on probation"));
        }
        if self.tally.begun_anew.contains(&generation) {
            self.tally.not_held = Some(tracked.back_to);
        }
        let now = self.machine_time();
        let serves = self.workers.iter().any(|worker| worker.serves_on_probation(&tracked));
        match how {
            PendingEnd::Confirmed => {
                let confirms = |op: &&Op| op.kind == Kind::Confirm && self.journal.is_confirmed(op.key);
                if !self.ops.iter().any(|op| confirms(&op)) {
                    self.break_rule(9, format!("{generation} is confirmed, and nobody did"));
                }
            }
            PendingEnd::NotConfirmed if now < tracked.by => {
                self.break_rule(9, format!("{generation} was to have until {:?}", tracked.by));
            }
            PendingEnd::NotPossible => {}
            _ if serves => self.break_rule(9, format!("{generation} is {how:?}, and serves")),
            _ => {}
        }
    }

    /// Rule 8 has one exception: nothing of the binary before could be made to serve, and the new worker does. So there is no
    /// warm worker, and one of that binary was raised and is dead, or has not become ready.
    fn check_not_possible(&mut self, upgrade: Option<WorkerKey>) {
        let Some(driver) = &self.driver else { return };
        let warm = driver.view.workers.iter().find(|w| w.role == Role::Warm && w.stage == Stage::StandingBy);
        let warm = warm.and_then(|w| self.workers.iter().find(|worker| worker.key == w.worker));
        let warm = warm.filter(|worker| worker.alive && !worker.killed).map(|worker| worker.key);
        let began = self.ops.iter().filter(|op| op.is_open() && !op.left_over).map(|op| op.began).min();
        let tried =
            self.tally.raised_previous.is_some_and(|raised| began.is_some_and(|began| raised >= began));
        let serves =
            upgrade == driver.view.workers.iter().find(|w| w.role == Role::Serving).map(|w| w.worker);
        if warm.is_some() || !tried || !serves {
            let text = format!(
                "{upgrade:?} is said to have to stay: {warm:?} is warm, tried: {tried}, serves: {serves}"
            );
            self.break_rule(8, text);
        }
    }

    /// Rules 7 and 8, and that what is shown is so: looked at after every step.
    pub(crate) fn check_undecided(&mut self) {
        let Some(driver) = &self.driver else { return };
        let phase = driver.view.phase;
        let guarded = self.tally.guards.last().filter(|guard| guard.open);
        let guarded = guarded.and_then(|guard| self.ops.iter().find(|op| op.key == guard.operation));
        let back_to = self.tracked.map(|tracked| tracked.back_to);
        let back_to = back_to.or_else(|| guarded.and_then(|op| op.held_at_start));
        let shown = driver.pending();
        let tracked = self.tracked.map(|tracked| (tracked.generation, tracked.back_to, tracked.by));
        let mut wrong = None;
        if let Some(back_to) = back_to
            && !driver.closed
            && matches!(phase, Phase::Serving | Phase::Draining | Phase::Drained)
        {
            match self.bundle(back_to).map(listeners) {
                None => wrong = Some((7, format!("{back_to} has no bundle to go back to"))),
                // A start finds the change on the disk, and nobody who holds what the one before had.
                _ if self.tally.not_held == Some(back_to) => {}
                _ if self
                    .tracked
                    .is_some_and(|tracked| self.tally.begun_anew.contains(&tracked.generation)) => {}
                Some(needed) if driver.holds() & needed != needed => {
                    let held = driver.holds();
                    wrong =
                        Some((7, format!("{back_to} needs {needed:#b} to go back to, {held:#b} is held")));
                }
                Some(_) => {}
            }
        }
        if shown != tracked && matches!(phase, Phase::Serving | Phase::Draining | Phase::Drained) {
            wrong = Some((6, format!("{shown:?} is shown as pending, and it is {tracked:?}")));
        }
        let upgraded = self.tracked.is_some_and(|tracked| tracked.upgrade.is_some());
        if upgraded && driver.binaries.previous.is_none() && matches!(phase, Phase::Serving | Phase::Drained)
        {
            wrong = Some((7, "the binary to go back to is not kept".to_owned()));
        }
        if let Some((rule, why)) = wrong {
            self.break_rule(rule, why);
        }
    }

    /// Rule 8: looked at as time passes.
    pub(crate) fn check_overdue(&mut self) {
        let (now, machine_time) = (self.now, self.machine_time());
        let Some(tracked) = self.tracked.as_mut().filter(|tracked| tracked.by < machine_time) else { return };
        let overdue = *tracked.overdue.get_or_insert(now);
        let tracked = *tracked;
        let serves = self.workers.iter().any(|worker| worker.serves_on_probation(&tracked));
        // What is active may have to end first: at worst a resume, or the journal with a new deadline.
        let l = &self.limits;
        let allowed = l.resume + l.journal + self.bound(Kind::Cancel, None, None);
        let is_serving = self.driver.as_ref().is_some_and(|driver| driver.view.phase == Phase::Serving);
        if serves && is_serving && now > overdue + allowed {
            self.break_rule(8, format!("{:?} serves long after its time", self.tracked));
        }
    }

    /// Rule 8 for starts: the disk may still have what was not confirmed.
    pub(crate) fn check_started(&mut self, op: &Op) {
        let (Some((unconfirmed, content)), Kind::Start) = (self.at_start, op.kind) else { return };
        // The one before may have the same bytes.
        let held_to = self.driver.as_ref().and_then(|driver| driver.view.held_to);
        let held = self.held_content().filter(|_| held_to != Some(unconfirmed.back_to));
        let over = unconfirmed.until <= self.wall_clock_at_start;
        if over
            && content.is_some()
            && held == content
            && self.driver.as_ref().is_some_and(|driver| !driver.from_journal)
        {
            self.break_rule(8, format!("{unconfirmed:?} was over and is served by a start"));
        }
    }

    pub(crate) fn note_cancelled(&mut self, cancel: OperationKey) {
        if let Some(guard) = self.tally.guards.last_mut().filter(|guard| guard.open) {
            guard.cancelled = true;
            let operation = guard.operation;
            let held = self.ops.iter().find(|op| op.key == operation).and_then(|op| op.held_at_start);
            if let Some(op) = self.ops.iter_mut().find(|op| op.key == cancel) {
                op.to = held;
            }
        } else if let Some(tracked) = self.tracked
            && let Some(op) = self.ops.iter_mut().find(|op| op.key == cancel)
        {
            op.to = Some(tracked.back_to);
        } else if let Some(op) = self.ops.iter_mut().find(|op| op.key == cancel) {
            // An upgrade whose old worker still lets connections end.
            op.to = op.held_at_start;
        }
    }

    /// Rule 9: what an operation says of its guard, of a confirmation or a cancellation.
    pub(crate) fn check_judgement(&mut self, op: &Op, verdict: Verdict) {
        use Outcome::{Applied, AppliedWithLosses, RolledBack};
        let now = self.machine_time();
        let held_to = self.driver.as_ref().and_then(|driver| driver.view.held_to);
        let died = op.cut;
        if let Some(guard) = self.tally.guards.iter_mut().rev().find(|guard| guard.operation == op.key) {
            guard.open = false;
            let guard = *guard;
            let excused = matches!(verdict.cause, Cause::ShuttingDown | Cause::NotTakenBack);
            let passed = guard.passed == Some(true) || excused;
            if matches!(verdict.outcome, Applied | AppliedWithLosses) && !passed {
                self.break_rule(9, format!("{} is {verdict:?}, and its guard says {guard:?}", op.key));
            }
            let failed = guard.passed == Some(false) || guard.by <= now || died || self.lost_worker(op);
            if verdict.outcome == RolledBack && !failed && !guard.cancelled {
                self.break_rule(9, format!("{} is {verdict:?}, and its guard says {guard:?}", op.key));
            }
        }
        match (op.kind, verdict.outcome) {
            (Kind::Confirm, Applied) if self.tracked.is_some() => {
                self.break_rule(9, format!("{} confirms, and {:?} stays on probation", op.key, self.tracked));
            }
            (Kind::Cancel, Applied | AppliedWithLosses) if held_to != op.to => {
                self.break_rule(9, format!("{} cancels, and the server is held to {held_to:?}", op.key));
            }
            (Kind::Start, _) => self.check_started(op),
            _ => {}
        }
    }

    /// Whether a worker was lost while this ran.
    pub(crate) fn lost_worker(&self, op: &Op) -> bool {
        self.tally.lost.is_some_and(|lost| lost >= op.began)
    }
}

impl Driver {
    /// What the machine shows, on the supervisor's clock.
    fn pending(&self) -> Option<(GenerationNumber, GenerationNumber, Duration)> {
        let pending = self.view.pending?;
        Some((pending.generation, pending.back_to, pending.until + self.epoch))
    }
}

impl Worker {
    /// Whether it accepts as what is on probation.
    fn serves_on_probation(&self, tracked: &Tracked) -> bool {
        let same = self.serving.is_some_and(|(number, _)| number == tracked.generation);
        let it = tracked.upgrade.is_none_or(|upgrade| upgrade == self.key);
        self.alive && !self.killed && self.accepting && same && it
    }
}
