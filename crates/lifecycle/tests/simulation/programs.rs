//! Programs, as a model: what is carried for them, what a reload proves of them, how they end; and the rules about that.
//!
//! 12. Nothing is committed whose programs are to be proved first and are not. What was started for a proof is ended with
//!     whatever wanted it. Programs are asked to stop when connections have ended, and the worker when programs have.
//!
//! They are no part of a worker, and outlive the supervisor: the next one finds them again.

use std::time::Duration;

use handover_lifecycle::{
    CandidateKey, Cause, Effect, Event, Exam, Finding, Kind, OperationKey, Outcome, Phase, Request, WorkerKey,
};

use crate::ops::State;
use crate::sabotage::Sabotage;
use crate::world::{Happening, World};

/// All that can be carried.
const CARRIED: [Kind; 12] = [
    Kind::ProgramStart,
    Kind::ProgramStop,
    Kind::ProgramRestart,
    Kind::ProgramReload,
    Kind::ProgramDeploy,
    Kind::ProgramRollback,
    Kind::ProgramConfirm,
    Kind::ProgramCancel,
    Kind::Pause,
    Kind::ResumeTraffic,
    Kind::DrainEndpoint,
    Kind::EnableEndpoint,
];

/// The longest that programs may take to end, in this world.
pub(crate) const STOP: Duration = Duration::from_secs(12);

/// The longest that programs may take to be proved.
pub(crate) const LONGEST_PROOF: Duration = Duration::from_secs(20);

/// The programs of the server, in one life of its supervisor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosted {
    /// What is carried now, and whether it was called off.
    carried: Option<(OperationKey, bool)>,
    /// Candidates whose programs differ, and those that were proved.
    differ: Vec<CandidateKey>,
    proved: Vec<CandidateKey>,
    /// What runs for a proof.
    examined: Option<(OperationKey, CandidateKey)>,
    /// By when they must have ended, if they were asked to, and whether they have.
    stop_by: Option<Duration>,
    gone: bool,
}

impl Hosted {
    /// Whether what serves the connections to them must stay.
    fn run(&self, now: Duration) -> bool {
        !self.gone && self.stop_by.is_none_or(|by| by > now)
    }
}

impl World {
    /// The machine learns that there are programs, when something with programs serves.
    pub(crate) fn host_programs(&mut self) {
        if let Some(driver) = self.driver.as_mut().filter(|_| self.has_programs) {
            driver.machine.set_programs(Some(STOP));
            driver.hosts = true;
        }
    }

    pub(crate) fn perform_programs(&mut self, effect: Effect) {
        match effect {
            Effect::Carry { operation } => self.carry(operation),
            Effect::CallOffProgram { operation } => self.call_off_carried(operation),
            Effect::StopPrograms { limit } => self.stop_programs(limit),
            Effect::Examine { operation, exam: Exam::Programs { candidate } } => {
                self.examine_programs(operation, candidate);
            }
            Effect::CallOff { exam: Exam::Programs { candidate }, .. } | Effect::Release { candidate } => {
                let leaves = self.sabotage == Some(Sabotage::LeavesWhatWasProved);
                self.hosted.examined.take_if(|(_, of)| *of == candidate && !leaves);
            }
            Effect::Serve { candidate, generation, .. } => {
                let same = self.candidate_content(candidate);
                let examined = self.hosted.examined.take();
                let other = examined.filter(|(_, of)| self.candidate_content(*of) != same);
                if let Some((operation, _)) = other {
                    let why = format!("{generation} serves, and what {operation} proved was something else");
                    self.break_rule(12, why);
                }
                self.host_programs();
            }
            _ => {}
        }
    }

    /// Something to be carried.
    pub(crate) fn some_carried(&mut self) -> Request {
        let which = usize::try_from(self.rng.below(CARRIED.len() as u64)).unwrap();
        let longest = [300, 3_000, 100_000][usize::try_from(self.rng.below(3)).unwrap()];
        Request::Carried { kind: CARRIED[which], limit: self.rng.millis(0, longest) }
    }

    fn carry(&mut self, operation: OperationKey) {
        if let Some((other, _)) = self.hosted.carried.filter(|(other, _)| !self.has_ended(*other)) {
            self.break_rule(2, format!("{operation} is carried while {other} is"));
        }
        self.hosted.carried = Some((operation, false));
        if self.faulty(self.faults.exam) {
            return;
        }
        let limit = self.ops.iter().find(|op| op.key == operation).and_then(|op| op.limit);
        let longest = limit.unwrap_or_default().min(Duration::from_secs(40)) * 5 / 4;
        let share = u32::try_from(self.rng.below(1_000)).unwrap();
        let wait = if self.calm { Duration::from_millis(20) } else { longest * share / 1_000 };
        self.end_carried(operation, wait);
        self.meddle();
    }

    fn end_carried(&mut self, operation: OperationKey, wait: Duration) {
        let which = usize::try_from(self.rng.below(8)).unwrap();
        let (outcome, cause) = match self.calm {
            true => (Outcome::Applied, Cause::Done),
            false => (Outcome::ALL[which], Cause::ProgramNotReady),
        };
        let life = self.life;
        let event = Event::Carried { operation, outcome, cause };
        self.later(wait, Happening::ToSupervisor { life, event });
    }

    fn call_off_carried(&mut self, operation: OperationKey) {
        match &mut self.hosted.carried {
            Some((carried, called_off @ false)) if *carried == operation => *called_off = true,
            other => {
                let why = format!("{operation} is called off, and {other:?} is carried");
                return self.break_rule(3, why);
            }
        }
        if !self.faulty(self.faults.exam) {
            let wait = self.rng.millis(0, 3_000);
            self.end_carried(operation, wait);
        }
    }

    /// A worker has prepared a candidate: how long its programs take to prove, if there is something to prove.
    pub(crate) fn programs_of(&mut self, candidate: CandidateKey, serves: bool) -> Option<Duration> {
        if !self.has_programs || !self.rng.chance(400) {
            return None;
        }
        if serves {
            self.hosted.differ.push(candidate);
        }
        Some(self.rng.millis(100, 20_000).min(LONGEST_PROOF))
    }

    fn examine_programs(&mut self, operation: OperationKey, candidate: CandidateKey) {
        self.tally.proofs += 1;
        if let Some((_, other)) = self.hosted.examined.replace((operation, candidate)) {
            self.break_rule(12, format!("{candidate} is to be proved, and {other} is still there"));
        }
        self.meddle();
        if self.faulty(self.faults.exam) {
            return;
        }
        let fails = self.faulty(self.faults.exam);
        let finding = if fails { Finding::Failed } else { Finding::Passed };
        let wait = if self.calm { self.rng.millis(0, 90) } else { self.rng.millis(0, 15_000) };
        let (life, exam) = (self.life, Exam::Programs { candidate });
        let event = Event::Examined { operation, exam, finding };
        self.later(wait, Happening::ToSupervisor { life, event });
    }

    /// What was found out about programs arrives.
    pub(crate) fn note_proof(&mut self, event: &Event) {
        match *event {
            Event::Examined { exam: Exam::Programs { candidate }, finding: Finding::Passed, .. } => {
                self.hosted.proved.push(candidate);
            }
            Event::ProgramsStopped { .. } => self.hosted.gone |= self.hosted.stop_by.is_some(),
            _ => {}
        }
    }

    /// Rule 12 for a commit of something new.
    pub(crate) fn check_proved(&mut self, candidate: CandidateKey) {
        let differs = self.hosted.differ.contains(&candidate);
        if differs && !self.hosted.proved.contains(&candidate) {
            self.break_rule(12, format!("{candidate} is committed, and its programs were not proved"));
        }
    }

    /// Rule 12 for an operation that is answered.
    pub(crate) fn check_nothing_left(&mut self, operation: OperationKey) {
        // All programs end in a stop.
        let stops = self.driver.as_ref().is_some_and(|driver| driver.view.phase == Phase::Stopping);
        let left = self.hosted.examined.filter(|(of, _)| *of == operation && !stops);
        if let Some((_, candidate)) = left {
            self.break_rule(12, format!("{operation} is over, and the programs of {candidate} still run"));
        }
    }

    fn stop_programs(&mut self, limit: Duration) {
        let serves = self.workers.iter().find(|worker| {
            let heard = worker.heard || !worker.connected || worker.life != self.life;
            let told = self.was_told_to_end(worker.key);
            worker.alive && !worker.killed && worker.is_the_one() && worker.accepting && !heard && !told
        });
        if let Some(worker) = serves.map(|worker| worker.key) {
            self.break_rule(12, format!("programs are to stop, and {worker} still accepts"));
        }
        let phase = self.driver.as_ref().map(|driver| driver.view.phase);
        if !matches!(phase, Some(Phase::Stopping)) {
            self.break_rule(12, format!("programs are to stop while {phase:?}"));
        }
        let by = self.machine_time() + limit + self.limits.kill;
        self.hosted.stop_by = Some(self.hosted.stop_by.map_or(by, |earlier| earlier.min(by)));
        if self.faulty(self.faults.exam) {
            return;
        }
        let share = u32::try_from(self.rng.below(1_100)).unwrap();
        let wait = if self.calm { Duration::from_millis(50) } else { limit * share / 1_000 };
        let clean = self.calm || self.rng.chance(700);
        let (life, event) = (self.life, Event::ProgramsStopped { clean });
        self.later(wait, Happening::ToSupervisor { life, event });
    }

    /// Rule 12 for a worker that is told to end in a stop.
    pub(crate) fn check_programs_before(&mut self, worker: WorkerKey) {
        let hosts = self.driver.as_ref().is_some_and(|driver| driver.hosts);
        if hosts && self.hosted.run(self.machine_time()) {
            self.break_rule(12, format!("{worker} is told to end, and programs still run"));
        }
    }

    /// The same for the end of the process.
    pub(crate) fn check_programs_at_exit(&mut self) {
        let hosts = self.driver.as_ref().is_some_and(|driver| driver.hosts);
        if hosts && self.hosted.run(self.machine_time()) {
            self.break_rule(12, "the supervisor ends, and programs still run".to_owned());
        }
    }

    fn has_ended(&self, operation: OperationKey) -> bool {
        let op = self.ops.iter().find(|op| op.key == operation);
        op.is_none_or(|op| op.state != State::Started)
    }
}
