//! What a driver does for an upgrade, as a model: exams, the kept binaries, the exec; and the rules about them.
//!
//! 10. At most one worker accepts, and none is told to while another may (`moving.rs`).
//! 11. The supervisor becomes the new binary only when nothing else is under way, and the operation goes on in it.
//!
//! A binary is a number. Each upgrade brings another one.

use handover_lifecycle::{
    Binary, Cause, Effect, Event, Exam, Finding, Kind, Limits, Machine, OperationKey, Outcome, Recovered,
    Role, Saved, Verdict, WorkerKey,
};

use crate::ops::Op;
use crate::sabotage::Sabotage;
use crate::worker::Act;
use crate::world::{Happening, World};

/// The executables that the driver keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binaries {
    pub(crate) serving: u32,
    pub(crate) candidate: Option<u32>,
    pub(crate) previous: Option<u32>,
    /// The one that the supervisor itself runs.
    pub(crate) own: u32,
}

impl Binaries {
    pub(crate) fn new(serving: u32, previous: Option<u32>) -> Self {
        Self { serving, candidate: None, previous, own: serving }
    }

    fn of(&self, binary: Binary) -> Option<u32> {
        match binary {
            Binary::Serving => Some(self.serving),
            Binary::Candidate => self.candidate,
            Binary::Previous => self.previous,
        }
    }
}

impl World {
    pub(crate) fn perform_upgrade(&mut self, effect: Effect) {
        match effect {
            Effect::Examine { operation, exam } => self.examine(operation, exam),
            Effect::CallOff { operation, exam } => self.call_off_exam(operation, exam),
            Effect::HandOver { operation, call, from, to, within, limit } => {
                self.check_hand_over(operation, from, to);
                self.hand_over(call, from, to, [within, limit]);
            }
            Effect::Switch { worker, .. } => self.switch(worker),
            Effect::Forget { binary } => self.forget(binary),
            Effect::Reexec { operation } => self.reexec(operation),
            _ => {}
        }
    }

    /// A worker of this binary, which must be at hand.
    pub(crate) fn start_worker(&mut self, worker: WorkerKey, binary: Binary) {
        let Some(driver) = &self.driver else { return };
        if binary == Binary::Previous {
            self.tally.raised_previous = Some(self.now);
        }
        match driver.binaries.of(binary) {
            Some(binary) => self.spawn(worker, binary),
            None => {
                self.break_rule(7, format!("{worker} is to be started from {binary:?}, which is not kept"))
            }
        }
    }

    fn examine(&mut self, operation: OperationKey, exam: Exam) {
        let hangs = self.faulty(self.faults.exam);
        let fails = self.faulty(self.faults.exam);
        let refuses = fails && exam == Exam::Admission && self.rng.chance(500);
        let finding = match (fails, refuses) {
            (false, _) => Finding::Passed,
            (true, false) => Finding::Failed,
            (true, true) => Finding::Refused,
        };
        self.meddle();
        if let (Some(driver), Exam::Admission, Finding::Passed) = (&mut self.driver, exam, finding) {
            driver.binaries.candidate = self.ops.iter().find(|op| op.key == operation).map(|op| op.binary);
        }
        if let Some(driver) = &mut self.driver {
            driver.exam = Some((operation, exam));
        }
        if hangs {
            return;
        }
        if let (Exam::Probe { worker }, false) = (exam, fails) {
            return self.act_later(worker, 0, 30, Act::AnswerProbe(operation));
        }
        let (wait, life) = (self.rng.millis(0, 60), self.life);
        let event = Event::Examined { operation, exam, finding };
        self.later(wait, Happening::ToSupervisor { life, event });
    }

    /// The worker answers a probe: its own, through its own accept path, or not at all.
    pub(crate) fn answer_probe(&mut self, key: WorkerKey, operation: OperationKey) {
        let Some(worker) = self.worker(key).filter(|worker| !worker.hung) else { return };
        let (well, life) = (worker.serving.is_some() && worker.standby, worker.life);
        let finding = if well { Finding::Passed } else { Finding::Failed };
        let event = Event::Examined { operation, exam: Exam::Probe { worker: key }, finding };
        let wait = self.rng.millis(0, 5);
        self.later(wait, Happening::ToSupervisor { life, event });
    }

    fn call_off_exam(&mut self, operation: OperationKey, exam: Exam) {
        let Some(driver) = &mut self.driver else { return };
        if driver.exam != Some((operation, exam)) {
            self.break_rule(3, format!("{exam:?} of {operation} is called off, and was not asked for"));
        }
    }

    fn switch(&mut self, key: WorkerKey) {
        let worker = self.workers.iter().find(|worker| worker.key == key);
        let Some((binary, proved)) = worker.map(|worker| {
            // It accepts, or it has handed over and would again, because nobody does.
            let gave = worker.moving.as_ref().is_some_and(|moving| !moving.is_open());
            (worker.binary, !worker.standby || gave)
        }) else {
            return self.break_rule(5, format!("{key} is to serve and does not exist"));
        };
        let others = self.workers.iter().filter(|other| other.key != key && other.is_the_one());
        let taken = others.into_iter().any(|other| other.accepting);
        if !proved || taken {
            self.break_rule(5, format!("{key} is said to serve before it has proved it"));
        }
        let Some(driver) = &mut self.driver else { return };
        let kept = &mut driver.binaries;
        if binary != kept.serving {
            kept.previous = Some(kept.serving);
            kept.serving = binary;
            kept.candidate = kept.candidate.filter(|candidate| *candidate != binary);
        }
    }

    /// Rule 7, for binaries.
    fn forget(&mut self, binary: Binary) {
        let undecided = self.tracked.is_some_and(|tracked| tracked.upgrade.is_some());
        let Some(driver) = &mut self.driver else { return };
        match binary {
            Binary::Candidate => driver.binaries.candidate = None,
            Binary::Previous => driver.binaries.previous = None,
            Binary::Serving => return self.break_rule(7, "what serves is forgotten".to_owned()),
        }
        if binary == Binary::Previous && undecided {
            self.break_rule(7, "the binary to go back to is forgotten".to_owned());
        }
    }

    /// Rules 3 and 5 for a handoff.
    fn check_hand_over(&mut self, operation: OperationKey, from: WorkerKey, to: WorkerKey) {
        let upgrade = self.ops.iter().any(|op| op.key == operation && op.kind == Kind::Upgrade);
        let back = self.worker(from).is_some_and(|worker| worker.took_over.is_some()) && !upgrade;
        if upgrade && !back && !self.journal.has_upgrade(operation) {
            self.break_rule(3, format!("{to} is to take over, and the journal does not know"));
        }
        let stands = self.worker(to).is_none_or(|to| to.standby && to.serving.is_some());
        if !stands {
            self.break_rule(5, format!("{to} is to take over, and is not ready"));
        }
    }

    /// The machine goes into another process image, by way of what is written down of it.
    fn reexec(&mut self, operation: OperationKey) {
        self.check_alone(operation);
        if self.faulty(self.faults.kill) {
            return self.kill_supervisor();
        }
        if self.faulty(self.faults.exam) {
            let (wait, life) = (self.rng.millis(0, 5), self.life);
            let event = Event::ReexecFailed { operation };
            return self.later(wait, Happening::ToSupervisor { life, event });
        }
        let now = self.machine_time();
        let floor = Recovered { keys_from: self.life * 1_000_000, ..Recovered::default() };
        let limits = self.limits;
        let forgets = self.sabotage == Some(Sabotage::ForgetsWhatWasDeferred);
        let Some(driver) = &mut self.driver else { return };
        let mut saved = driver.machine.save();
        if forgets {
            saved.deferred = None;
        }
        match resumed(limits, floor, &saved) {
            Ok(machine) => {
                driver.machine = machine;
                driver.epoch = now;
                driver.binaries.own = driver.binaries.serving;
                driver.view = driver.machine.view();
                driver.hosts = false;
            }
            Err(why) => return self.break_rule(11, why),
        }
        self.host_programs();
        self.tally.reexecuted += 1;
        self.flush_writes();
        if self.faulty(self.faults.kill) {
            return self.kill_supervisor();
        }
        let life = self.life;
        // What came in meanwhile has waited.
        self.now_next(Happening::ToSupervisor { life, event: Event::Reexecuted });
    }

    /// Rule 11.
    fn check_alone(&mut self, operation: OperationKey) {
        let other = self.ops.iter().find(|op| op.is_open() && op.key != operation).map(|op| op.key);
        let workers = self.driver.as_ref().map_or(0, |driver| driver.view.workers.len());
        let moving = self.driver.as_ref().is_some_and(|driver| driver.view.handing_over.is_some());
        if let Some(other) = other {
            self.break_rule(11, format!("the supervisor is to be executed anew while {other} is open"));
        }
        if workers != 1 || moving {
            self.break_rule(11, format!("the supervisor is to be executed anew with {workers} workers"));
        }
    }

    /// What an upgrade says must be so: which rule it breaks, and why.
    pub(crate) fn wrong_of_upgrade(&self, op: &Op, verdict: Verdict) -> Option<(u8, String)> {
        use Outcome::{Applied, AppliedWithLosses, NotReady, Rejected, RolledBack, Unchanged, Unknown};
        let driver = self.driver.as_ref()?;
        let kept = driver.binaries;
        let of_upgrade = op.kind == Kind::Upgrade || (op.kind == Kind::DryRun && op.upgrades);
        let serving = self.workers.iter().find(|worker| worker.is_the_one()).map(|worker| worker.binary);
        let shown = serving.unwrap_or(kept.serving);
        match (op.kind, verdict.outcome) {
            (Kind::Upgrade, Unchanged) | (Kind::DryRun, Applied) if of_upgrade => {
                Some((6, "it says so of an upgrade".to_owned()))
            }
            (Kind::Upgrade, Applied | AppliedWithLosses)
                if kept.serving != op.binary || shown != op.binary =>
            {
                Some((6, format!("{} serves, {kept:?}", shown)))
            }
            (Kind::Upgrade, Applied | AppliedWithLosses)
                if op.terms.confirm.is_none()
                    && !matches!(
                        verdict.cause,
                        Cause::NotReexecuted | Cause::ShuttingDown | Cause::NotTakenBack
                    )
                    && kept.own != op.binary =>
            {
                Some((6, format!("the supervisor is {}", kept.own)))
            }
            (Kind::Upgrade, Rejected | NotReady | RolledBack) | (Kind::DryRun, _)
                if of_upgrade && (shown != op.served_by || kept.serving != op.served_by) =>
            {
                Some((4, format!("{} served before, {shown} does now, {kept:?}", op.served_by)))
            }
            (Kind::Cancel | Kind::Rollback, Applied | AppliedWithLosses | RolledBack)
                if op.takes_back && (shown != op.served_by || kept.serving != op.served_by) =>
            {
                // In a drained server the next worker is of the binary before.
                let resumed = verdict.serving.is_none() && kept.previous == Some(op.served_by);
                (!resumed).then(|| (6, format!("{} is to serve again, {kept:?}", op.served_by)))
            }
            (Kind::Upgrade, Applied) if op.cut && !self.has_unheard() => {
                Some((6, "connections were cut".to_owned()))
            }
            (Kind::Upgrade, Applied | AppliedWithLosses | RolledBack) if verdict.serving.is_none() => {
                let excused = matches!(verdict.cause, Cause::ShuttingDown) || self.lost_worker(op);
                (!excused).then(|| (6, "nobody serves".to_owned()))
            }
            (Kind::Upgrade, Unknown)
                if verdict.cause != Cause::ShuttingDown
                    && !self.lost_worker(op)
                    && !self.workers.iter().any(|worker| worker.killed) =>
            {
                Some((6, "nobody died, and it is said not to be known".to_owned()))
            }
            _ => None,
        }
    }

    /// What an upgrade of this life is to bring, and what serves when it begins.
    pub(crate) fn note_upgrade(&mut self, key: OperationKey) {
        let Some(kept) = self.driver.as_ref().map(|driver| driver.binaries) else { return };
        let undecided = self.is_warming() || self.tracked.is_some_and(|tracked| tracked.upgrade.is_some());
        let own = key >= OperationKey::OWN;
        let Some(op) = self.ops.iter_mut().find(|op| op.key == key) else { return };
        op.served_by = kept.serving;
        if (own || op.kind == Kind::Cancel)
            && let Some(previous) = kept.previous.filter(|_| undecided)
        {
            (op.takes_back, op.served_by) = (true, previous);
        }
    }

    fn has_unheard(&self) -> bool {
        self.workers.iter().any(|worker| !worker.alive && !worker.heard)
    }

    /// Whether this role is the machine's for a worker at the moment.
    pub(crate) fn role(&self, key: WorkerKey) -> Option<Role> {
        let driver = self.driver.as_ref()?;
        driver.view.workers.iter().find(|worker| worker.worker == key).map(|worker| worker.role)
    }
}

/// By way of the bytes that the next binary reads.
fn resumed(limits: Limits, floor: Recovered, saved: &Saved) -> Result<Machine, String> {
    let bytes = serde_json::to_vec(saved).map_err(|error| error.to_string())?;
    let read: Saved = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    Machine::resume(limits, floor, read).map_err(|error| error.to_string())
}
