//! An upgrade, up to the moment at which the new worker may take over: everything that can fail.
//!
//! ```text
//!   Examining(Admission) ─▶ Examining(Preflight) ─▶ Raising ───────▶ Examining(Probe) ─▶ Intending ──▶ HandingOver
//!        │ refused: rejected      │                   │ start, prepare,   │                  │           (handing_over.rs)
//!        │ failed, late           │ failed, late      │ bind, stand by    │                  │
//!        ▼                        ▼                   ▼                   ▼                  ▼
//!        └────────────────────────┴─────── Discarding: the candidate is killed and reaped ───┘──▶ not ready
//!
//!   a dry run:                  … ─▶ Raising (a dry run, too) ─▶ Examining(Rehearsal) ─▶ Discarding ──▶ unchanged
//! ```
//!
//! The worker that serves knows nothing of all this; if it dies meanwhile, it is replaced as ever, by one of its own
//! binary, and the upgrade is not ready. The outcome waits until the candidate is reaped, so that nothing of it is left
//! when somebody hears of it.

use super::Machine;
use super::table::{End, Operation, Step, TakingBack, Way, Worker};
use crate::{
    Binary, CandidateKey, Cause, Effect, Exam, Finding, GenerationNumber, Kind, OperationKey, Outcome,
    Request, Role, Source, Stage, StepName, WorkerKey,
};

impl Exam {
    const fn step_name(self) -> StepName {
        match self {
            Self::Admission => StepName::Admission,
            Self::Preflight => StepName::Preflight,
            Self::Probe { .. } => StepName::Probe,
            Self::Rehearsal => StepName::Supervisor,
            Self::Programs { .. } => StepName::Ready,
        }
    }
}

impl Machine {
    /// The worker that is to take over, while it lives.
    pub(super) fn candidate(&self) -> Option<&Worker> {
        self.workers.iter().find(|worker| worker.role == Role::Candidate && worker.stage != Stage::Killed)
    }

    pub(super) fn begin_upgrade(&mut self, operation: OperationKey, request: Request) {
        self.begin(operation, request.kind(), Some(request), Step::Examining(Exam::Admission));
        self.examine(Exam::Admission);
    }

    pub(super) fn examine(&mut self, exam: Exam) {
        if let Some(operation) = &mut self.active {
            operation.step = Step::Examining(exam);
        }
        self.ask_for(exam);
    }

    /// The active operation's step waits for this.
    pub(super) fn ask_for(&mut self, exam: Exam) {
        let by = self.after(match exam {
            Exam::Probe { .. } => self.limits.probe,
            Exam::Admission | Exam::Preflight | Exam::Rehearsal | Exam::Programs { .. } => {
                self.limits.examine
            }
        });
        self.limit_step(by);
        let Some(Operation { key: operation, .. }) = self.active else { return };
        self.progress(operation, exam.step_name());
        self.emit(Effect::Examine { operation, exam });
    }

    /// The exam that the active operation waits for.
    fn exam(&self) -> Option<(OperationKey, Exam)> {
        let operation = self.active?;
        let exam = match operation.step {
            Step::Examining(exam) => exam,
            Step::TakingBack(TakingBack { way: Way::Probing, .. }) => {
                Exam::Probe { worker: self.candidate()?.key }
            }
            _ => return None,
        };
        Some((operation.key, exam))
    }

    pub(super) fn call_off_exam(&mut self) {
        if let Some((operation, exam)) = self.exam() {
            self.emit(Effect::CallOff { operation, exam });
        }
    }

    pub(super) fn examined(&mut self, operation: OperationKey, exam: Exam, finding: Finding) {
        if self.programs_examined(operation, exam, finding) || self.exam() != Some((operation, exam)) {
            return;
        }
        let Some(operation) = self.active else { return };
        match (operation.step, exam, finding) {
            (Step::TakingBack(_), _, Finding::Passed) => self.raised_again(),
            (Step::TakingBack(_), ..) => self.not_raised_again(Cause::ProbeFailed),
            (_, Exam::Admission, Finding::Passed) => self.examine(Exam::Preflight),
            (_, Exam::Preflight, Finding::Passed) => {
                if let Some(operation) = &mut self.active {
                    (operation.step, operation.by) = (Step::Raising, None);
                }
                self.raise(Binary::Candidate);
            }
            (_, Exam::Probe { worker }, Finding::Passed) => self.intend(&operation, worker),
            (_, Exam::Rehearsal, Finding::Passed) if operation.kind != Kind::DryRun => self.may_reexecute(),
            (_, Exam::Rehearsal, Finding::Passed) => self.discard(Outcome::Unchanged, Cause::DryRun),
            (_, Exam::Rehearsal, _) if operation.kind != Kind::DryRun => self.not_reexecuted(),
            (_, Exam::Programs { .. }, _) => {}
            (_, Exam::Probe { .. }, _) => self.discard(Outcome::NotReady, Cause::ProbeFailed),
            (_, _, Finding::Refused) => self.discard(Outcome::Rejected, Cause::BinaryRefused),
            (_, _, Finding::Failed) => self.discard(Outcome::NotReady, Cause::BinaryUnfit),
        }
    }

    pub(super) fn exam_is_late(&mut self, operation: &Operation) {
        self.call_off_exam();
        match operation.step {
            Step::TakingBack(_) => self.not_raised_again(Cause::ProbeFailed),
            Step::Examining(Exam::Rehearsal) if operation.kind != Kind::DryRun => self.not_reexecuted(),
            Step::Examining(Exam::Probe { .. }) => self.discard(Outcome::NotReady, Cause::ProbeFailed),
            _ => self.discard(Outcome::NotReady, Cause::BinaryUnfit),
        }
    }

    /// Starts a worker beside the one that serves.
    pub(super) fn raise(&mut self, binary: Binary) {
        let Some(Operation { key: operation, .. }) = self.active else { return };
        self.progress(operation, StepName::StartWorker);
        let worker = WorkerKey(self.key());
        let by = self.after(self.limits.worker_start);
        self.workers.push(Worker::new(worker, Role::Candidate, by));
        self.emit(Effect::StartWorker { worker, binary });
    }

    /// Gives a candidate that has said hello what serves.
    pub(super) fn employ_candidate(&mut self) {
        let wanted = self.active.filter(|operation| operation.raises());
        let idle = |worker: &&Worker| worker.stage == Stage::Loading && worker.load.is_none();
        let candidate = self.candidate().filter(idle).map(|worker| worker.key);
        if let (Some(operation), Some(worker), Some(held_to)) = (wanted, candidate, self.held_to) {
            self.load(worker, Some(operation.key), Source::Generation(held_to));
        }
    }

    /// The candidate of a dry run has prepared what serves.
    pub(super) fn candidate_rehearsed(&mut self, worker: WorkerKey) {
        self.throw_away(worker, true);
        self.examine(Exam::Rehearsal);
    }

    /// The candidate has what serves, and accepts nothing.
    pub(super) fn stands_by(
        &mut self,
        worker: WorkerKey,
        candidate: CandidateKey,
        generation: GenerationNumber,
    ) {
        let Some(standing) = self.workers.iter_mut().find(|w| w.key == worker) else { return };
        standing.load = None;
        standing.stage = Stage::StandingBy;
        standing.generation = Some(generation);
        standing.stands_for = Some(candidate);
        let exam = Exam::Probe { worker };
        match &mut self.active {
            Some(operation @ Operation { step: Step::TakingBack(_), .. }) => {
                operation.set_way(Way::Probing);
                self.ask_for(exam);
            }
            _ => self.examine(exam),
        }
    }

    /// The journal must know who is to take over, before it does.
    fn intend(&mut self, operation: &Operation, worker: WorkerKey) {
        let by = self.after(self.limits.journal);
        let confirm = self.probation_of(operation);
        let key = operation.key;
        self.active = Some(Operation { step: Step::Intending, by: Some(by), ..*operation });
        self.progress(key, StepName::Journal);
        self.emit(Effect::WriteUpgrade { operation: key, worker, confirm });
    }

    /// What the journal says of that. False if nobody asked.
    pub(super) fn upgrade_intent(
        &mut self,
        operation: OperationKey,
        generation: GenerationNumber,
        written: bool,
    ) -> bool {
        let Some(Operation { key, step: Step::Intending, .. }) = self.active else { return false };
        if key != operation || self.held_to != Some(generation) {
            return false;
        }
        let from = self.main().map(|main| main.key);
        let to = self.candidate().map(|candidate| candidate.key);
        match (from, to) {
            (Some(from), Some(to)) if written => {
                if let Some(operation) = &mut self.active {
                    operation.step = Step::HandingOver;
                }
                self.begin_handoff(from, to);
            }
            _ => self.discard(Outcome::NotReady, Cause::JournalFailed),
        }
        true
    }

    /// Ends the upgrade, once nothing of the candidate is left.
    pub(super) fn discard(&mut self, outcome: Outcome, cause: Cause) {
        let Some(operation) = &mut self.active else { return };
        operation.step = Step::Discarding(End { outcome, cause, made: None });
        operation.by = None;
        if let Some(candidate) = self.candidate().map(|candidate| candidate.key) {
            self.kill(candidate, cause);
        }
    }

    /// The candidate is gone, or was given up, before it was to take over.
    pub(super) fn candidate_lost(&mut self, cause: Cause) {
        let Some(operation) = self.active else { return };
        let cause = match cause {
            Cause::WorkerDied | Cause::NoWorker => Cause::CandidateDied,
            cause => cause,
        };
        match operation.step {
            Step::Raising | Step::Intending | Step::Examining(_) if operation.is_before_handoff() => {
                self.call_off_exam();
                self.discard(Outcome::NotReady, cause);
            }
            Step::TakingBack(back) if matches!(back.way, Way::Raising | Way::Probing) => {
                self.call_off_exam();
                self.not_raised_again(cause);
            }
            _ => {}
        }
    }

    /// What the active upgrade makes of the death of the worker that serves. True if nothing more follows from it.
    pub(super) fn upgrade_lost_main(&mut self, operation: &Operation, cause: Cause) -> bool {
        match operation.step {
            Step::Raising | Step::Intending | Step::Examining(_) if operation.is_before_handoff() => {
                self.call_off_exam();
                self.discard(Outcome::NotReady, Cause::WorkerDied);
            }
            Step::Guarding(_) if operation.is_upgrade() => self.new_one_lost(cause),
            Step::Retiring(_) if operation.is_upgrade() && self.old_one().is_some() => {
                self.new_one_lost(cause);
            }
            Step::Examining(_) | Step::Retiring(_) | Step::Reexecuting(_) => self.lost_connections(cause),
            Step::TakingBack(back) => self.taking_back_lost_main(back, cause),
            Step::Discarding(_) => {}
            _ => return false,
        }
        true
    }
}

impl Operation {
    /// Whether it is an upgrade, or the dry run of one, that has changed nothing yet.
    pub(super) fn is_before_handoff(&self) -> bool {
        self.is_upgrade() && self.back_to.is_none()
    }

    /// Whether it wants a worker beside the one that serves.
    fn raises(&self) -> bool {
        match self.step {
            Step::Raising => true,
            Step::TakingBack(back) => back.way == Way::Raising,
            _ => false,
        }
    }

    pub(super) fn set_way(&mut self, way: Way) {
        if let Step::TakingBack(back) = &mut self.step {
            back.way = way;
            self.by = None;
        }
    }
}
