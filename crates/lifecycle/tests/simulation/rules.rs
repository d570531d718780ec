//! The rules about what serves: 1, 4, 5 and 6, looked at in every step; and what must be so at rest.

use std::time::Duration;

use handover_lifecycle::{
    Asked, Caller, CandidateKey, Cause, Effect, GenerationNumber, Kind, Message, OperationKey, Outcome,
    Phase, Request, Role, Source, Stage, StepName, Verdict, WorkerKey,
};

use crate::moving::Move;
pub(crate) use crate::ops::Op;
use crate::ops::State;
use crate::probation::Guard;
use crate::worker::{Worker, listeners};
use crate::world::World;

/// What a run, or all of them, has seen: a simulation that never comes to a place does not check it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) ends: [[u64; 8]; 13],
    pub(crate) adopted: u64,
    pub(crate) joined: u64,
    pub(crate) deferred: u64,
    pub(crate) refused: u64,
    pub(crate) unrecorded: u64,
    /// Changes that came on probation, and what became of them.
    pub(crate) pending: u64,
    pub(crate) over: [u64; 6],
    /// What the machine began by itself.
    pub(crate) own: u64,
    pub(crate) extended: u64,
    pub(crate) unreachable: u64,
    pub(crate) guarded: u64,
    pub(crate) taken_back: u64,
    /// Workers that took over, those that stayed after all, supervisors that became another binary.
    pub(crate) took: u64,
    pub(crate) stayed: u64,
    pub(crate) reexecuted: u64,
    /// Upgrades that came on probation.
    pub(crate) upgrades_pending: u64,
    /// Reloads whose programs were to be proved first.
    pub(crate) proofs: u64,
    pub(crate) journal_trouble: bool,
    /// Changes on probation of which nobody holds what the generation before had: a start has found them on the disk.
    pub(crate) begun_anew: Vec<GenerationNumber>,
    /// One of these that is gone back to.
    pub(crate) not_held: Option<GenerationNumber>,
    /// The machine has not heard of a confirmation: a sabotage.
    pub(crate) deaf: bool,
    /// The guards of this life.
    pub(crate) guards: Vec<Guard>,
    /// When a worker was lost last.
    pub(crate) lost: Option<Duration>,
    /// When a worker of the binary before was started last.
    pub(crate) raised_previous: Option<Duration>,
    /// What each candidate of this run was built from.
    pub(crate) contents: Vec<(CandidateKey, u32)>,
}

impl Tally {
    pub(crate) const KINDS: [Kind; 13] = [
        Kind::Start,
        Kind::Reload,
        Kind::DryRun,
        Kind::Action,
        Kind::Drain,
        Kind::Resume,
        Kind::Stop,
        Kind::Rollback,
        Kind::Restore,
        Kind::Confirm,
        Kind::Cancel,
        Kind::Upgrade,
        // And all others that are carried.
        Kind::ProgramRestart,
    ];

    pub(crate) fn count(&mut self, kind: Kind, verdict: Verdict) {
        let kind = if kind.is_carried() { Kind::ProgramRestart } else { kind };
        let kind = Self::KINDS.iter().position(|known| *known == kind).unwrap();
        let outcome = Outcome::ALL.iter().position(|known| *known == verdict.outcome).unwrap();
        self.extended += u64::from(verdict.cause == Cause::Extended);
        self.unreachable += u64::from(verdict.cause == Cause::Unreachable);
        self.guarded += u64::from(verdict.cause == Cause::GuardFailed);
        self.ends[kind][outcome] += 1;
    }

    pub(crate) fn add(&mut self, other: Self) {
        for (row, others) in self.ends.iter_mut().zip(&other.ends) {
            for (cell, more) in row.iter_mut().zip(others) {
                *cell += more;
            }
        }
        self.adopted += other.adopted;
        self.joined += other.joined;
        self.deferred += other.deferred;
        self.refused += other.refused;
        self.unrecorded += other.unrecorded;
        self.pending += other.pending;
        for (cell, more) in self.over.iter_mut().zip(other.over) {
            *cell += more;
        }
        self.own += other.own;
        self.extended += other.extended;
        self.unreachable += other.unreachable;
        self.guarded += other.guarded;
        self.taken_back += other.taken_back;
        self.took += other.took;
        self.stayed += other.stayed;
        self.reexecuted += other.reexecuted;
        self.upgrades_pending += other.upgrades_pending;
        self.proofs += other.proofs;
    }
}

impl World {
    pub(crate) fn break_rule(&mut self, rule: u8, text: String) {
        self.note(format!("!!! rule {rule}: {text}"));
        if self.violation.is_none() {
            self.violation = Some(crate::seeds::Violation { rule, text });
        }
    }

    /// Rule 1: the supervisor holds every listener of what serves, or is to serve again. The worker may
    /// die at any moment.
    pub(crate) fn check_listeners(&mut self) {
        let Some(driver) = &self.driver else { return };
        if !driver.serves || driver.closed {
            return;
        }
        let served = self
            .workers
            .iter()
            .find(|worker| worker.alive && !worker.killed)
            .and_then(|worker| worker.serving)
            .map(|(_, content)| content);
        let anew = self.tracked.filter(|tracked| self.tally.begun_anew.contains(&tracked.generation));
        let not_held = self.tally.not_held.or(anew.map(|tracked| tracked.back_to));
        let held_to = driver.view.held_to.filter(|number| not_held != Some(*number));
        let Some(content) = served.or_else(|| self.bundle(held_to?)) else { return };
        let (needed, held) = (listeners(content), driver.holds());
        if held & needed != needed {
            self.break_rule(1, format!("listeners {needed:#b} are needed, {held:#b} are held"));
        }
    }

    /// What the machine wants done must make sense in the world as it is.
    pub(crate) fn check_effect(&mut self, effect: &Effect, before: Phase) {
        self.check_probation(effect);
        match *effect {
            Effect::Send { worker, message } => self.check_message(worker, message),
            Effect::KillWorker { worker } => {
                // Two that move are watched by each other, too: see `moving.rs`.
                let healthy = self
                    .worker(worker)
                    .is_some_and(|w| w.is_the_one() && w.connected && !w.sick && w.moving.is_none());
                let served = matches!(before, Phase::Serving | Phase::Drained);
                // A switch that takes too long ends it, and so does a clock that jumps over its deadline. And a change
                // that is to go must go.
                if healthy && served && self.jumped != Some(self.now) && !self.goes_back() {
                    self.break_rule(4, format!("{worker} served well and is killed"));
                }
            }
            // It stands by until another one has handed over to it.
            Effect::StartWorker { worker, .. } if self.role(worker) == Some(Role::Candidate) => {}
            Effect::StartWorker { worker, .. } => {
                // One that cannot be reaped is given up after a while; until then it may still be seen to accept.
                let now = self.machine_time();
                let kill = self.limits.kill;
                let may_accept = |other: &&Worker| {
                    let runs = other.alive && (!other.killed || other.killed_at + kill > now);
                    runs && (!other.standby || other.moving.as_ref().is_some_and(Move::is_open))
                };
                if let Some(other) = self.workers.iter().find(may_accept) {
                    let other = other.key;
                    self.break_rule(5, format!("{worker} is started while {other} lives"));
                }
            }
            Effect::CloseListeners => {
                let phase = self.driver.as_ref().map(|driver| driver.view.phase);
                if !matches!(phase, Some(Phase::Stopping | Phase::Stopped)) {
                    self.break_rule(1, format!("every listener is closed while {phase:?}"));
                }
            }
            Effect::Serve { worker, candidate, generation } => {
                let said =
                    self.workers.iter().any(|w| w.key == worker && w.said_committed == Some(candidate));
                if !said {
                    self.break_rule(
                        5,
                        format!("the old listeners go before {generation} has proved that it serves"),
                    );
                }
            }
            _ => {}
        }
    }

    /// Whether the generation before is being brought back.
    fn goes_back(&self) -> bool {
        let operation = self.driver.as_ref().and_then(|driver| driver.view.operation);
        operation.is_some_and(|operation| {
            let upgrade = operation.kind == Kind::Upgrade && operation.step == StepName::Resume;
            upgrade || matches!(operation.step, StepName::GoBack | StepName::Settle)
        }) || self.ops.iter().any(|op| {
            op.is_open() && (op.kind == Kind::Cancel || op.key >= OperationKey::OWN) && !op.left_over
        })
    }

    fn check_message(&mut self, worker: WorkerKey, message: Message) {
        let Some(driver) = &mut self.driver else { return };
        let phase = driver.view.phase;
        match message {
            Message::Prepare { candidate, source, dry_run, .. } => {
                driver.prepared.push((candidate, source, dry_run));
                if let Source::Generation(number) = source {
                    match self.bundle(number) {
                        Some(content) => self.tally.contents.push((candidate, content)),
                        None => self.break_rule(4, format!("{number} has no bundle to be loaded from")),
                    }
                }
                if source == Source::Given {
                    let brings = |op: &&Op| {
                        op.state == State::Started
                            && matches!(op.kind, Kind::Restore | Kind::DryRun)
                            && !op.left_over
                    };
                    match self.ops.iter().find(brings).map(|op| op.given) {
                        Some(given) => self.tally.contents.push((candidate, given)),
                        None => self.break_rule(4, format!("{candidate} is to be made from nothing")),
                    }
                }
                if source == Source::Disk && !dry_run {
                    let reads =
                        |op: &&mut Op| op.state == State::Started && op.kind == Kind::Reload && !op.left_over;
                    if let Some(op) = self.ops.iter_mut().find(reads) {
                        op.read = true;
                    }
                }
            }
            Message::Abort { candidate } => {
                driver.aborted.push(candidate);
                if driver.committed.contains(&candidate) {
                    self.break_rule(4, format!("{candidate} is aborted after its commit"));
                }
            }
            Message::Commit { candidate, .. } => self.check_commit(worker, candidate),
            Message::Drain { .. } | Message::Stop { .. }
                if matches!(self.role(worker), Some(Role::Draining | Role::Warm)) =>
            {
                if self.worker(worker).is_some_and(|worker| !worker.standby) && !self.stops() {
                    self.break_rule(5, format!("{worker} is sent away before another one serves"));
                }
            }
            Message::Drain { .. } | Message::Stop { .. } => {
                // One that does not answer is told to end at once, whatever else runs.
                if matches!(message, Message::Stop { now: false }) {
                    self.check_programs_before(worker);
                }
                if !matches!(phase, Phase::Draining | Phase::Stopping) {
                    self.break_rule(4, format!("{worker} is sent away while {phase:?}"));
                }
            }
            Message::Resume { .. } => self.check_resume(worker),
            Message::Action { .. } | Message::Guard { .. } | Message::EndGuard { .. } => {}
        }
    }

    fn check_commit(&mut self, worker: WorkerKey, candidate: CandidateKey) {
        let Some(driver) = &mut self.driver else { return };
        let twice = driver.committed.contains(&candidate) || driver.aborted.contains(&candidate);
        driver.committed.push(candidate);
        let known = driver.prepared.iter().find(|(key, ..)| *key == candidate).copied();
        let from_disk = matches!(known, Some((_, Source::Disk | Source::Given, _)));
        if twice || known.is_none_or(|(_, _, dry_run)| dry_run) {
            return self.break_rule(4, format!("{candidate} is committed and must not be"));
        }
        let starting =
            self.ops.iter().any(|op| op.kind == Kind::Start && op.state == State::Started && !op.left_over);
        let Some(prepared) = self.worker(worker).and_then(|w| w.candidate).filter(|c| c.key == candidate)
        else {
            return;
        };
        self.check_proved(candidate);
        if !prepared.prepared {
            self.break_rule(5, format!("{candidate} is committed before it is prepared"));
        }
        if from_disk && !starting && self.journal.content(prepared.generation) != Some(prepared.content) {
            self.break_rule(3, format!("{candidate} is committed and its intent is not in the journal"));
        }
    }

    /// Rule 6: what `status` says is what the processes do.
    pub(crate) fn check_view(&mut self) {
        let Some(driver) = &self.driver else { return };
        let view = &driver.view;
        let main = view.workers.iter().find(|w| w.role == Role::Serving && w.stage != Stage::Killed);
        let main = main.and_then(|main| self.workers.iter().find(|worker| worker.key == main.worker));
        let mut wrong = None;
        if let Some(reported) = view.serving {
            wrong = match main {
                Some(worker) if worker.alive => match worker.serving {
                    Some((number, content)) if number == reported => {
                        let bundle = self.bundle(number);
                        (bundle != Some(content)).then(|| format!("{number} has other bytes than {bundle:?}"))
                    }
                    Some((number, _)) if view.committing == Some(number) => None,
                    serving => Some(format!("{reported} is reported, {serving:?} serves")),
                },
                // It died, and nobody has heard of it yet.
                Some(worker) if !worker.heard => None,
                _ => Some(format!("{reported} is reported, no worker lives")),
            };
        } else if let Some((number, _)) = self
            .workers
            .iter()
            .find(|w| w.is_the_one() && w.connected && w.life == self.life && !self.was_told_to_end(w.key))
            .and_then(|worker| worker.serving)
            && view.committing != Some(number)
            && view.handing_over.is_none()
        {
            wrong = Some(format!("{number} serves and is not reported"));
        }
        let acting = |op: &&Op| op.kind == Kind::Action && op.state == State::Started && !op.left_over;
        if let Some(op) = self.ops.iter().find(acting)
            && view.workers.iter().all(|worker| worker.stage == Stage::Killed)
        {
            wrong = Some(format!("{} runs, and no worker does", op.key));
        }
        let open = self.ops.iter().find(|op| op.is_open());
        if open.is_some() != view.operation.is_some() {
            wrong = Some(format!("{open:?} is open, {:?} is reported", view.operation));
        }
        if let Some(why) = wrong {
            self.break_rule(6, why);
        }
    }

    fn stops(&self) -> bool {
        self.driver.as_ref().is_some_and(|driver| driver.view.phase == Phase::Stopping)
    }

    pub(crate) fn was_told_to_end(&self, worker: WorkerKey) -> bool {
        let workers = self.driver.as_ref().map(|driver| &driver.view.workers);
        workers.is_some_and(|all| all.iter().any(|w| w.worker == worker && w.stage == Stage::Stopping))
    }

    pub(crate) fn check_exit(&mut self) {
        if let Some(op) = self.ops.iter().find(|op| op.is_open() || op.state == State::Deferred).copied() {
            self.break_rule(3, format!("the supervisor ends and {} ({:?}) has no answer", op.key, op.kind));
        }
        if let Some(worker) = self.workers.iter().find(|worker| worker.alive && !worker.killed) {
            let key = worker.key;
            self.break_rule(1, format!("the supervisor ends and {key} lives"));
        }
        self.check_programs_at_exit();
    }

    /// Nothing happens any more by itself: nothing may be left half done.
    pub(crate) fn check_at_rest(&mut self) {
        if self.violation.is_some() {
            return;
        }
        let Some(driver) = &self.driver else {
            return self.break_rule(3, "the server does not start in calm weather".to_owned());
        };
        let view = &driver.view;
        let worker = self.workers.iter().find(|worker| worker.is_the_one());
        let lone = self.workers.iter().filter(|worker| worker.alive).count() <= 1;
        let open = self.ops.iter().find(|op| op.is_open());
        let well = match view.phase {
            Phase::Serving => {
                view.serving.is_some()
                    && view.deferred.is_none()
                    && worker.is_some_and(|w| w.accepting && w.drain.is_none() && w.candidate.is_none())
            }
            Phase::Drained => !worker.is_some_and(|worker| worker.accepting),
            _ => false,
        };
        let idle = |w: &handover_lifecycle::WorkerView| matches!(w.stage, Stage::Starting | Stage::Loading);
        let kept = driver.binaries;
        let tidy = driver.bound.is_empty()
            && lone
            && kept.candidate.is_none()
            && (kept.previous.is_none() || view.phase == Phase::Drained)
            && view.handing_over.is_none()
            && !view.workers.iter().any(idle)
            && !driver.reloading
            && !driver.signalled
            && self.tracked.is_none()
            && match (self.held_content().map(listeners), view.phase) {
                // What was taken back while drained is let go of when it is resumed.
                (Some(needed), Phase::Drained) => {
                    driver.holds() & needed == needed || self.tally.not_held == view.held_to
                }
                (needed, _) => needed == Some(driver.held) && driver.kept == 0,
            }
            && view.serving.is_none_or(|number| view.held_to == Some(number));
        if !well || !tidy || open.is_some() {
            let text = format!(
                "left over at rest: {view:?}, {kept:?}, held {:#b}, bound {:?}, reloading {}, {worker:?}, {open:?}",
                driver.held, driver.bound, driver.reloading
            );
            self.break_rule(4, text);
        }
    }

    /// In calm weather, what is asked for is done, whatever went before.
    pub(crate) fn expect_end(&mut self, request: Request, outcome: &str) {
        for _ in 0..2 {
            if self.violation.is_some() {
                return;
            }
            let asked = Asked { request, caller: Caller::Waiting, expected: None };
            let Some(key) = self.ask(asked) else {
                return self.break_rule(3, "nobody is there to be asked".to_owned());
            };
            self.go_until(Some(key));
            match self.ops.iter().find(|op| op.key == key).map(|op| op.state) {
                Some(State::Answered(verdict)) if verdict.outcome.as_str() == outcome => return,
                // A remembered reload came first.
                Some(State::Refused) => self.go_until(None),
                state => {
                    let text = format!("in calm weather {request:?} should be {outcome} and is {state:?}");
                    return self.break_rule(4, text);
                }
            }
        }
    }
}
