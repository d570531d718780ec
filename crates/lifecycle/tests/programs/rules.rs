//! The rules, looked at in every step.
//!
//! 1. Every operation and every exam ends exactly once, within the time that the machine said.
//! 2. A failed operation leaves what served before.
//! 3. Where two editions may overlap, as many copies as before answer at every moment, unless they die by themselves.
//! 4. What the machine pauses is resumed in time; and not before something serves, unless the time is over or it cannot be.
//! 5. No process that lives is unknown to the machine; in the end nothing is left.
//! 6. New requests go to copies that serve, and only to them.
//! 7. Nothing that is not confirmed serves for long after its deadline.
//! 8. Nobody is killed who was ready and was not asked to stop, for as long as was said.
//! 9. What is saved and goes on in another process obeys all of this too.
//! 10. Deadlines lie ahead, and nothing turns in a circle.
//! 11. Where editions must not overlap, they do not.
//! 12. Effects make sense: nothing forgotten is needed, nothing is done to what never was.
//! 13. What has ended has ended.
//! 14. When all goes well, everything that is asked for succeeds, whatever went before.
//! 15. What serves after a deploy is what the next start would serve.

use std::collections::BTreeSet;
use std::time::Duration;

use handover_lifecycle::program::{
    Ask, CopyKey, CopyView, EditionKey, Plan, Restart, Role, Stage, State, Swap,
};
use handover_lifecycle::{Cause, OperationKey, Outcome, PendingEnd};

use crate::world::{Happening, World};

/// One operation, or one exam.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) operation: OperationKey,
    /// None: an exam.
    pub(crate) ask: Option<Ask>,
    pub(crate) due: Duration,
    pub(crate) ended: bool,
    pub(crate) outcome: Option<(Outcome, Cause)>,
    pub(crate) called_off: bool,
    pub(crate) applied_since: bool,
    edition: Option<EditionKey>,
    capacity: u32,
}

impl Op {
    pub(crate) fn new(operation: OperationKey, ask: Option<Ask>, world: &World, due: Duration) -> Self {
        // What the machine does by itself meanwhile may change what serves.
        let own = world.view.step.is_some() && world.view.operation.is_none();
        Self {
            operation,
            ask,
            due,
            ended: false,
            outcome: None,
            called_off: false,
            applied_since: own,
            edition: world.view.edition,
            capacity: world.capacity,
        }
    }
}

/// What a run, or all of them, has seen: a simulation that never comes to a place does not check it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) ends: [[u64; 8]; 8],
    pub(crate) exams: [u64; 2],
    pub(crate) over: [u64; 5],
    pub(crate) guard_failed: u64,
    pub(crate) not_taken_back: u64,
    pub(crate) down: u64,
    pub(crate) restored: u64,
    pub(crate) unsaved: u64,
    pub(crate) proposed: u64,
    pub(crate) own_failed: u64,
    pub(crate) paused: u64,
    pub(crate) warm: u64,
    pub(crate) resumed: u64,
    pub(crate) crashed: u64,
    pub(crate) stuck: u64,
    pub(crate) asleep: u64,
    pub(crate) finished: u64,
}

impl Tally {
    pub(crate) const ASKS: [&str; 8] =
        ["start", "stop", "restart", "deploy", "rollback", "confirm", "cancel", "go back"];

    pub(crate) fn index(ask: &Ask) -> usize {
        match ask {
            Ask::Start => 0,
            Ask::Stop => 1,
            Ask::Restart { .. } => 2,
            Ask::Deploy { .. } => 3,
            Ask::Rollback => 4,
            Ask::Confirm => 5,
            Ask::Cancel => 6,
            Ask::GoBack => 7,
        }
    }

    pub(crate) fn singles(&mut self) -> [&mut u64; 13] {
        [
            &mut self.guard_failed,
            &mut self.not_taken_back,
            &mut self.down,
            &mut self.restored,
            &mut self.unsaved,
            &mut self.proposed,
            &mut self.own_failed,
            &mut self.paused,
            &mut self.warm,
            &mut self.resumed,
            &mut self.crashed,
            &mut self.asleep,
            &mut self.finished,
        ]
    }

    pub(crate) fn add(&mut self, mut other: Self) {
        for (row, others) in self.ends.iter_mut().zip(&other.ends) {
            row.iter_mut().zip(others).for_each(|(cell, more)| *cell += more);
        }
        self.exams.iter_mut().zip(other.exams).for_each(|(cell, more)| *cell += more);
        self.over.iter_mut().zip(other.over).for_each(|(cell, more)| *cell += more);
        self.stuck += other.stuck;
        self.singles().into_iter().zip(other.singles()).for_each(|(cell, more)| *cell += *more);
    }
}

impl World {
    pub(crate) fn break_rule(&mut self, rule: u8, text: String) {
        self.note(|| format!("!!! rule {rule}: {text}"));
        if self.violation.is_none() {
            self.violation = Some(crate::seeds::Violation { rule, text });
        }
    }

    fn plan(&self, edition: EditionKey) -> Plan {
        self.editions[&edition].0
    }

    fn alone(&self, edition: EditionKey) -> bool {
        self.plan(edition).swap == Swap::StopFirst
    }

    /// Rule 1, and 2 and 15 at its end.
    pub(crate) fn done(&mut self, operation: OperationKey, outcome: Outcome, cause: Cause) {
        let Some(at) = self.ops.iter().position(|op| op.operation == operation) else {
            return self.break_rule(1, format!("{operation} was never asked for"));
        };
        if self.ops[at].ended {
            return self.break_rule(1, format!("{operation} ends twice"));
        }
        self.ops[at].ended = true;
        self.ops[at].outcome = Some((outcome, cause));
        let op = self.ops[at].clone();
        let Some(ask) = op.ask else { return self.break_rule(1, format!("{operation} is an exam")) };
        let place = Outcome::ALL.iter().position(|known| *known == outcome).unwrap();
        self.tally.ends[Tally::index(&ask)][place] += 1;
        self.tally.guard_failed += u64::from(cause == Cause::GuardFailed);
        self.tally.not_taken_back += u64::from(cause == Cause::NotTakenBack);
        self.tally.down += u64::from(cause == Cause::ProgramDown);
        self.tally.unsaved += u64::from(cause == Cause::StateNotSaved);
        if outcome.is_failure() {
            self.check_failure(&op, &ask, outcome, cause);
        }
        let durable =
            matches!(ask, Ask::Deploy { .. } | Ask::Rollback | Ask::Confirm | Ask::Cancel | Ask::GoBack);
        if durable && !op.applied_since && outcome == Outcome::Applied && cause != Cause::StateNotSaved {
            let (disk, view) = (self.disk.0, &self.view);
            if disk.edition != view.edition || disk.pending_ms.is_some() != view.pending.is_some() {
                let text = format!("{ask:?} is done, on the disk is {disk:?}, pending is {:?}", view.pending);
                self.break_rule(15, text);
            }
        }
    }

    fn check_failure(&mut self, op: &Op, ask: &Ask, outcome: Outcome, cause: Cause) {
        let nothing_ran = op.capacity == 0 && matches!(ask, Ask::Restart { .. });
        if self.view.edition != op.edition && !op.applied_since && !nothing_ran {
            let text = format!(
                "{ask:?} ended as {outcome}, and {:?} serves after {:?}",
                self.view.edition, op.edition
            );
            self.break_rule(2, text);
        }
        if let Ask::Deploy { edition, .. } = ask {
            let left = |copy: &&CopyView| copy.edition == *edition && copy.stage != Stage::Stuck;
            if let Some(copy) = self.view.copies.iter().find(left).copied().filter(|_| !self.ending) {
                self.break_rule(2, format!("{ask:?} has failed, and {copy:?} is still there"));
            }
        }
        if outcome == Outcome::RolledBack
            && !op.applied_since
            && !self.ending
            && self.is_up()
            && self.losses == 0
        {
            self.tally.restored += 1;
            // What was restored may have ended by itself in between, which the machine knows.
            // Or the next change has begun in the same step.
            let heals = self.view.next_start.is_some() || self.view.state == State::Starting;
            let heals = heals || self.view.step.is_some();
            if self.serving_now() == 0 && op.capacity > 0 && !heals {
                self.break_rule(2, format!("{ask:?} ended as rolled back ({cause}), and nothing serves"));
            }
        }
    }

    pub(crate) fn prepared(&mut self, operation: OperationKey, failed: Option<Cause>) {
        let Some(op) = self.ops.iter_mut().find(|op| op.operation == operation && op.ask.is_none()) else {
            return self.break_rule(1, format!("{operation} is no exam"));
        };
        if op.ended {
            return self.break_rule(1, format!("{operation} ends twice"));
        }
        op.ended = true;
        self.tally.exams[usize::from(failed.is_some())] += 1;
        let Some(edition) = self.exams.get(&operation).copied() else { return };
        let applies = if failed.is_some() { self.rng.chance(50) } else { self.rng.chance(700) };
        let after = self.rng.millis(0, 3000);
        if failed.is_none() || applies {
            self.schedule(after, Happening::Reload(operation, edition, applies));
        }
    }

    pub(crate) fn pending_over(&mut self, how: PendingEnd) {
        let known = [
            PendingEnd::Confirmed,
            PendingEnd::Cancelled,
            PendingEnd::NotConfirmed,
            PendingEnd::WorkersDied,
            PendingEnd::Replaced,
        ];
        match known.iter().position(|known| *known == how) {
            Some(at) => self.tally.over[at] += 1,
            None => self.tally.not_taken_back += 1,
        }
    }

    /// Rule 12: an edition that the driver was told to forget.
    pub(crate) fn must_know(&mut self, edition: EditionKey) {
        if self.forgotten.contains(&edition) {
            self.break_rule(12, format!("{edition} was forgotten and is needed"));
        }
    }

    pub(crate) fn check_forget(&mut self, edition: EditionKey) {
        let view = &self.view;
        let needed = [view.edition, view.before, view.wanted, view.pending.map(|pending| pending.back_to)];
        if needed.contains(&Some(edition)) || view.copies.iter().any(|copy| copy.edition == edition) {
            self.break_rule(12, format!("{edition} is forgotten and needed"));
        }
        if !self.forgotten.insert(edition) {
            self.break_rule(12, format!("{edition} is forgotten twice"));
        }
    }

    /// Rules 11 and 12: what is started.
    pub(crate) fn check_start(&mut self, key: CopyKey, edition: EditionKey, number: u32) {
        if self.processes.contains_key(&key) {
            self.break_rule(12, format!("{key} is started twice"));
        }
        let beside = self.processes.iter().find(|(_, other)| {
            let alone = self.alone(edition) || self.alone(other.edition);
            other.alive && alone && (other.edition != edition || other.number == number)
        });
        if let Some((other, _)) = beside {
            let text = format!("{key} of {edition} is started beside {other}");
            self.break_rule(11, text);
        }
    }

    /// Rule 8.
    pub(crate) fn check_kill(&mut self, key: CopyKey) {
        let Some(process) = self.processes.get(&key) else {
            return self.break_rule(12, format!("{key} is killed and was never started"));
        };
        let asked = process.stop.is_some_and(|(since, limit)| since + limit <= self.now);
        if process.ready && !process.killed && !asked {
            let text = format!("{key} is killed; it was asked to stop: {:?}", process.stop);
            self.break_rule(8, text);
        }
    }

    pub(crate) fn check_await_quiet(&mut self, copies: &[CopyKey]) {
        let on = copies.iter().find(|key| self.routed_on.contains(key)).copied();
        if let Some(key) = on.filter(|_| self.paused.is_none()) {
            self.break_rule(6, format!("{key} is to be quiet and gets requests"));
        }
    }

    /// Rule 4: those that were held go on.
    pub(crate) fn check_resume(&mut self) {
        let Some((since, limit, edition)) = self.paused.take() else {
            return self.break_rule(4, "resumed without a pause".to_owned());
        };
        self.tally.paused += 1;
        let over = since + limit <= self.now;
        // The next change has begun in the same step: what serves by now is its matter.
        let other = self.view.operation.is_none() || self.view.operation != self.last_operation;
        let next = self.view.step.is_some() && self.view.paused_until.is_none() && other;
        let deaths = self.losses > 0 || self.lost_at.is_some_and(|at| at >= since);
        // What was to be restored failed as well, or something cannot even be killed.
        let hopeless = self.processes.values().any(|process| {
            (process.killed && process.alive) || (Some(process.edition) == edition && !process.ready)
        });
        if self.serving_now() == 0 && !over && !deaths && !hopeless && !next && !self.ending {
            self.break_rule(4, "resumed, and nothing serves".to_owned());
        }
    }

    pub(crate) fn check_ended(&mut self) {
        let lives = self.processes.iter().find(|(_, process)| process.alive && !process.killed);
        if let Some((key, _)) = lives {
            let text = format!("it has ended, and {key} lives");
            self.break_rule(13, text);
        }
        self.ended |= self.ending;
        self.tally.finished += u64::from(!self.ending);
    }

    /// Copies that answer new requests.
    pub(crate) fn serving_now(&self) -> u32 {
        let serves = |key: CopyKey, edition: EditionKey| {
            let process = &self.processes[&key];
            let reached = !self.plan(edition).private || self.routed_on.contains(&key);
            process.first && process.stop.is_none() && !process.killed && reached
        };
        let copies = self.view.copies.iter().filter(|copy| copy.on && serves(copy.copy, copy.edition));
        u32::try_from(copies.count()).unwrap()
    }

    /// What must be so after every step.
    pub(crate) fn check(&mut self) {
        if self.losses > 0 {
            self.lost_at = Some(self.now);
        }
        self.last_operation = self.view.operation;
        self.check_time();
        self.check_tracked();
        self.check_routes();
        self.check_capacity();
        self.check_pending();
        self.follow_disk();
        self.tally.asleep += u64::from(self.view.state == State::OnDemand);
        self.tally.warm += u64::from(self.view.warm_until.is_some());
    }

    fn check_time(&mut self) {
        if let Some(by) = self.machine.deadline()
            && by <= self.now
        {
            self.break_rule(10, format!("a deadline is over: {by:?} at {:?}", self.now));
        }
        let late = self.ops.iter().find(|op| !op.ended && op.due < self.now).cloned();
        if let Some(op) = late {
            self.break_rule(1, format!("{:?} was to have ended {:?} ago", op, self.now - op.due));
        }
        if let Some((since, limit, _)) = self.paused {
            if since + limit < self.now {
                self.break_rule(4, format!("paused for {:?}", self.now - since));
            }
            if self.view.step.is_none() {
                self.break_rule(4, "paused, and nothing is being done".to_owned());
            }
        }
    }

    fn check_tracked(&mut self) {
        let known: BTreeSet<CopyKey> = self.view.copies.iter().map(|copy| copy.copy).collect();
        let lost = self.processes.iter().find(|(key, process)| process.alive && !known.contains(key));
        if let Some((key, _)) = lost {
            let text = format!("{key} lives, and the machine does not know it");
            self.break_rule(5, text);
        }
    }

    fn check_routes(&mut self) {
        let mut should: Vec<CopyKey> = self
            .view
            .copies
            .iter()
            .filter(|copy| copy.on && self.plan(copy.edition).private)
            .map(|copy| copy.copy)
            .collect();
        should.sort_unstable();
        let mut on = self.routed_on.clone();
        on.sort_unstable();
        if on != should {
            self.break_rule(6, format!("requests go to {on:?}, those that serve are {should:?}"));
        }
        let wrong = self.view.copies.iter().find(|copy| copy.on && copy.role != Role::Serving);
        if let Some(copy) = wrong {
            self.break_rule(6, format!("{copy:?} gets requests"));
        }
    }

    /// Rule 3.
    fn check_capacity(&mut self) {
        let now = self.serving_now();
        let before = std::mem::replace(&mut self.capacity, now).saturating_sub(self.losses);
        let alone = self.editions.keys().any(|key| !self.forgotten.contains(key) && self.alone(*key));
        let plan = self.view.edition.map(|edition| self.plan(edition));
        // A number that has ended for good is missing when others are too many.
        let target = plan.filter(|plan| plan.restart == Restart::Always).map_or(1, |plan| plan.copies);
        if self.is_up() && !alone && now < before.min(target) {
            self.break_rule(3, format!("{before} copies served, now {now} do, of {target}"));
        }
    }

    /// Rule 7.
    fn check_pending(&mut self) {
        let overdue = self.view.pending.is_some_and(|pending| pending.until < self.now);
        if !overdue || self.view.step.is_some() || self.ending {
            self.overdue_since = None;
            return;
        }
        let since = *self.overdue_since.get_or_insert(self.now);
        if self.now > since + Plan::PROPOSE_LIMIT {
            self.break_rule(7, format!("{:?} at {:?}", self.view.pending, self.now));
        }
    }

    /// A reload changes what a start serves: it is in the configuration.
    fn follow_disk(&mut self) {
        let now = self.view.edition;
        if now != self.last_edition
            && now.is_some_and(|edition| self.applied.contains(&edition))
            && self.disk.0.edition == self.last_edition
        {
            self.disk.0.edition = now;
        }
        self.last_edition = now;
    }

    /// Everything has come to an end, and everything runs that should.
    pub(crate) fn expect_rest(&mut self) {
        if self.violation.is_some() {
            return;
        }
        let view = self.view.clone();
        if view.step.is_some() || view.paused_until.is_some() || self.paused.is_some() {
            return self.break_rule(1, format!("after an hour of calm: {view:?}"));
        }
        if let Some(op) = self.ops.iter().find(|op| !op.ended).cloned() {
            return self.break_rule(1, format!("{op:?} has never ended"));
        }
        if view.pending.is_some() && !self.ending {
            return self.break_rule(7, format!("still pending: {:?}", view.pending));
        }
        let plan = view.edition.map(|edition| self.plan(edition));
        let always = plan.is_some_and(|plan| plan.restart == Restart::Always);
        let all = plan.is_some_and(|plan| self.serving_now() == plan.copies);
        if self.is_up() && always && !all {
            self.break_rule(14, format!("after an hour of calm not all of it runs: {view:?}"));
        }
    }

    pub(crate) fn expect_nothing_left(&mut self) {
        if self.violation.is_some() {
            return;
        }
        let left = self.processes.iter().find(|(_, process)| process.alive).map(|(key, _)| *key);
        if left.is_some() || !self.view.copies.is_empty() {
            self.break_rule(5, format!("{left:?} is left; the machine knows {:?}", self.view.copies));
        }
        if self.ending && !self.ended {
            self.break_rule(13, "it was to end, and has not".to_owned());
        }
    }
}
