//! Programs, as far as the machine of the server goes: when something may be done about them, and in which order.
//!
//! ```text
//!   Carried request ──▶ Carrying ──Carried──────────────────────────────▶ (outcome, as it was told)
//!                          │ its limit, or a change of the server has to go back   ▲
//!                          ▼                                                       │
//!                      called off ──Carried────────────────────────────────────────┤
//!                          └── no answer in time: unknown                          │
//!     a stop: called off, and awaited beside it (an ending) ──Carried──────────────┘
//!
//!   a load that changes programs:  Preparing ──▶ Examining ──Passed──▶ Journaling ──▶ Committing
//!                                                    └─ failed, late, overtaken: not ready, the candidate is released
//!
//!   a stop:  workers are drained ──▶ StopPrograms ──ProgramsStopped──▶ the worker is stopped ──▶ Exit
//! ```
//!
//! What is done about a program, and how, its own machine knows ([`crate::program`]). This one makes sure that it is one thing
//! at a time, that it ends, and that it is recorded. A worker that dies changes nothing about programs: they do not live
//! in it.

use std::time::Duration;

use super::Machine;
use super::table::{EndStep, Ending, LoadStep, Operation, Step};
use crate::{
    Cause, Effect, Exam, Finding, Kind, OperationKey, Outcome, Phase, Request, Stage, StepName, WorkerKey,
};

/// The programs of the server, all together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Programs {
    /// How long it may take until all have ended, once they are asked to; none if there are none.
    stop: Option<Duration>,
    ending: ProgramsEnding,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ProgramsEnding {
    #[default]
    NotAsked,
    /// They were asked to stop.
    Asked { by: Duration },
    /// None of them runs any more, or those that cannot be ended were given up.
    Gone,
}

impl Machine {
    /// Whether there are programs, and how long they may take to end when all of them are asked to.
    pub fn set_programs(&mut self, stop: Option<Duration>) {
        self.programs.stop = stop.map(|stop| stop.min(self.limits.carried_longest));
    }

    pub(super) fn begin_carried(&mut self, operation: OperationKey, request: Request, limit: Duration) {
        let by = self.after(limit.min(self.limits.carried_longest));
        self.begin(operation, request.kind(), Some(request), Step::Carrying { called_off: false });
        self.limit_step(by);
        self.emit(Effect::Carry { operation });
    }

    pub(super) fn carried(&mut self, operation: OperationKey, outcome: Outcome, cause: Cause) {
        match self.active {
            Some(Operation { key, step: Step::Carrying { .. }, .. }) if key == operation => {
                self.decide(outcome, cause);
            }
            _ => {
                let ours = |ending: &&Ending| {
                    ending.key == operation && matches!(ending.step, EndStep::Carrying { .. })
                };
                if let Some(&Ending { key, kind, .. }) = self.endings.iter().find(ours) {
                    self.record(key, kind, outcome, cause, None);
                }
            }
        }
    }

    /// It has taken as long as it may.
    pub(super) fn carrying_is_late(&mut self, called_off: bool) {
        match called_off {
            false => self.call_off_carried(),
            true => self.decide(Outcome::Unknown, Cause::Overdue),
        }
    }

    /// It is told to come to an end, and has a moment for that.
    pub(super) fn call_off_carried(&mut self) {
        let by = self.after(self.limits.call_off);
        let Some(Operation { key, step: step @ Step::Carrying { called_off: false }, by: limit, .. }) =
            &mut self.active
        else {
            return;
        };
        *step = Step::Carrying { called_off: true };
        *limit = Some(by);
        let operation = *key;
        self.emit(Effect::CallOffProgram { operation });
    }

    /// Something of the server has to be done as soon as it is over: it may take a moment longer, but not for ever.
    pub(super) fn hurry_carried(&mut self, at_once: bool) {
        let by = self.after(self.limits.call_off);
        match &mut self.active {
            Some(Operation { step: Step::Carrying { called_off: false }, by: limit, .. }) if !at_once => {
                *limit = Some(limit.map_or(by, |limit| limit.min(by)));
            }
            _ => self.call_off_carried(),
        }
    }

    /// A stop comes first: it is told so, and what it says then is its outcome.
    pub(super) fn overtake_carried(&mut self, operation: &Operation) {
        self.call_off_carried();
        self.active = None;
        let by = self.after(self.limits.call_off);
        self.end_later(operation, EndStep::Carrying { by });
    }

    /// The programs of what the worker has prepared are to be proved before it serves.
    pub(super) fn examine_programs(&mut self, worker: WorkerKey, limit: Duration) {
        let by = self.after(limit.min(self.limits.carried_longest));
        let Some(load) = self.workers.iter_mut().find(|w| w.key == worker).and_then(|w| w.load.as_mut())
        else {
            return;
        };
        load.step = LoadStep::Examining;
        load.by = by;
        let (candidate, owner) = (load.candidate, load.owner);
        let Some(operation) = owner else { return };
        self.progress(operation, StepName::Ready);
        self.emit(Effect::Examine { operation, exam: Exam::Programs { candidate } });
    }

    /// What came of that. False if it is about something else.
    pub(super) fn programs_examined(
        &mut self,
        operation: OperationKey,
        exam: Exam,
        finding: Finding,
    ) -> bool {
        let Exam::Programs { candidate } = exam else { return false };
        let examining = |worker: &&super::table::Worker| {
            worker.load.is_some_and(|load| {
                load.candidate == candidate
                    && load.owner == Some(operation)
                    && load.step == LoadStep::Examining
            })
        };
        let worker = self.workers.iter().find(examining).map(|worker| worker.key);
        let (Some(worker), Some(active)) = (worker, self.active) else { return true };
        match finding {
            Finding::Passed => self.write_intent(worker, &active),
            Finding::Refused => self.load_failed(worker, Cause::Unfit, true),
            Finding::Failed => self.load_failed(worker, Cause::ProgramNotReady, true),
        }
        true
    }

    /// Whether programs still run, so that what serves them has to wait.
    pub(super) fn programs_run(&self) -> bool {
        self.programs.stop.is_some() && self.programs.ending != ProgramsEnding::Gone
    }

    /// When they must have ended.
    pub(super) fn programs_by(&self) -> Option<Duration> {
        match self.programs.ending {
            ProgramsEnding::Asked { by } => Some(by),
            ProgramsEnding::NotAsked | ProgramsEnding::Gone => None,
        }
    }

    /// Programs answer as long as connections end; then it is their turn.
    pub(super) fn stop_programs_if_due(&mut self) {
        let serves = |worker: &super::table::Worker| worker.stage == Stage::Draining || worker.may_accept();
        let due = self.phase == Phase::Stopping
            && self.programs.ending == ProgramsEnding::NotAsked
            && self.handoff.is_none()
            && !self.workers.iter().any(serves);
        let Some(stop) = self.programs.stop.filter(|_| due) else { return };
        let in_a_hurry =
            matches!(self.active, Some(Operation { request: Some(Request::Stop { now: true, .. }), .. }));
        self.ask_programs_to_stop(if in_a_hurry { stop.min(self.limits.stop_now) } else { stop });
    }

    fn ask_programs_to_stop(&mut self, limit: Duration) {
        let by = self.after(limit.saturating_add(self.limits.kill));
        let by = self.programs_by().map_or(by, |earlier| earlier.min(by));
        self.programs.ending = ProgramsEnding::Asked { by };
        if let Some(Operation { key, kind: Kind::Stop, .. }) = self.active {
            self.progress(key, StepName::StopProgram);
        }
        self.emit(Effect::StopPrograms { limit });
    }

    /// Somebody has said "stop" twice.
    pub(super) fn hurry_programs(&mut self) {
        if matches!(self.programs.ending, ProgramsEnding::Asked { .. }) {
            self.ask_programs_to_stop(self.limits.stop_now);
        }
    }

    /// None of them runs any more; or, if nobody says so in time, they are given up: nothing may wait for ever.
    pub(super) fn programs_stopped(&mut self, clean: bool) {
        if !matches!(self.programs.ending, ProgramsEnding::Asked { .. }) {
            return;
        }
        self.programs.ending = ProgramsEnding::Gone;
        if let Some(operation @ Operation { kind: Kind::Stop, .. }) = &mut self.active
            && !clean
        {
            operation.losses = operation.losses.or(Some(Cause::StopForced));
        }
        self.end_workers();
    }
}

/// What a carried operation does, as long as nobody says anything more precise.
pub(super) const fn carried_step_name(kind: Kind) -> StepName {
    match kind {
        Kind::ProgramStop => StepName::StopProgram,
        Kind::ProgramReload => StepName::ReloadProgram,
        Kind::ProgramConfirm => StepName::Confirm,
        Kind::ProgramCancel => StepName::GoBack,
        Kind::Pause => StepName::Hold,
        Kind::ResumeTraffic => StepName::Release,
        Kind::DrainEndpoint => StepName::Quiet,
        Kind::EnableEndpoint => StepName::Switch,
        _ => StepName::StartProgram,
    }
}
