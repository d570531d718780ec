//! How operations end: decided, written, and only then answered.

use super::Machine;
use super::table::{Awaited, EndStep, Ending, Operation, Step, Worker};
use crate::{
    Binary, Cause, Effect, Exit, GenerationNumber, Kind, Notice, OperationKey, Outcome, Phase, Stage,
    StepName, Verdict, WorkerKey,
};

impl Machine {
    pub(super) fn progress(&mut self, operation: OperationKey, step: StepName) {
        self.emit(Effect::Progress { operation, step });
    }

    /// The active operation ends like this, having made no generation.
    pub(super) fn decide(&mut self, outcome: Outcome, cause: Cause) {
        self.decide_made(outcome, cause, None);
    }

    pub(super) fn decide_made(&mut self, outcome: Outcome, cause: Cause, made: Option<GenerationNumber>) {
        if let Some(operation) = self.active.take() {
            if operation.is_before_handoff() {
                self.emit(Effect::Forget { binary: Binary::Candidate });
            }
            self.record(operation.key, operation.kind, outcome, cause, made);
        }
    }

    /// Has an outcome written. Its answer follows when it is, or when it is certain that it cannot be.
    pub(super) fn record(
        &mut self,
        operation: OperationKey,
        kind: Kind,
        outcome: Outcome,
        cause: Cause,
        made: Option<GenerationNumber>,
    ) {
        let serves = |worker: &&Worker| matches!(worker.stage, Stage::Serving | Stage::Draining);
        let serving = self.main().filter(serves).and_then(|worker| worker.generation);
        let verdict = Verdict { outcome, cause, made, serving, held_to: self.held_to };
        self.write(operation, kind, verdict, 1);
        self.end_with(operation, outcome, cause);
    }

    /// Ends what ends together with this one: somebody asked for its change to be taken back.
    fn end_with(&mut self, operation: OperationKey, outcome: Outcome, cause: Cause) {
        let waits = |ending: &&Ending| matches!(ending.step, EndStep::With(other) if other == operation);
        let Some(&Ending { key, kind, .. }) = self.endings.iter().find(waits) else { return };
        match outcome {
            Outcome::RolledBack => self.record(key, kind, Outcome::Applied, Cause::Done, None),
            _ if cause == Cause::NotTakenBack => self.record(key, kind, Outcome::NotReady, cause, None),
            _ => self.record(key, kind, Outcome::Unknown, cause, None),
        }
    }

    fn write(&mut self, operation: OperationKey, kind: Kind, verdict: Verdict, attempt: u32) {
        let by = self.after(self.limits.journal);
        let step = EndStep::Recording { verdict, by, attempt };
        match self.endings.iter_mut().find(|ending| ending.key == operation) {
            Some(ending) => ending.step = step,
            None => self.endings.push(Ending { key: operation, kind, step }),
        }
        if attempt == 1 {
            self.progress(operation, StepName::Record);
        }
        self.emit(Effect::WriteOutcome { operation, verdict });
    }

    pub(super) fn record_unfinished(&mut self, adopted: Option<(WorkerKey, GenerationNumber)>) {
        for unfinished in std::mem::take(&mut self.recovered.unfinished) {
            self.write(unfinished.operation, unfinished.kind, unfinished.verdict(adopted), 1);
        }
    }

    pub(super) fn outcome_written(&mut self, operation: OperationKey) {
        self.answer(operation, true);
    }

    pub(super) fn outcome_failed(&mut self, operation: OperationKey) {
        let until = self.after(self.limits.journal_retry);
        let attempts = self.limits.journal_attempts;
        let Some(ending) = self.endings.iter_mut().find(|ending| ending.key == operation) else { return };
        let EndStep::Recording { verdict, attempt, .. } = ending.step else { return };
        if attempt < attempts {
            ending.step = EndStep::Pausing { verdict, until, attempt };
        } else {
            self.answer(operation, false);
        }
    }

    pub(super) fn answer(&mut self, operation: OperationKey, recorded: bool) {
        let Some(index) = self.endings.iter().position(|ending| ending.key == operation) else { return };
        let (EndStep::Recording { verdict, .. } | EndStep::Pausing { verdict, .. }) =
            self.endings[index].step
        else {
            return;
        };
        let kind = self.endings.remove(index).kind;
        self.emit(Effect::Answer { operation, verdict, recorded });
        // A process manager waits for READY after every reload, failed ones too.
        let tells = match kind {
            Kind::Start => verdict.outcome.is_success() || verdict.outcome == Outcome::RolledBack,
            Kind::Reload | Kind::Rollback | Kind::Restore | Kind::Cancel => true,
            _ => false,
        };
        let earlier = verdict.cause == Cause::SupervisorDied;
        if tells && !earlier && !matches!(self.phase, Phase::Stopping | Phase::Stopped) {
            self.emit(Effect::Notify(Notice::Ready));
        }
    }

    /// An ending's deadline has passed.
    pub(super) fn ending_is_late(&mut self, ending: Ending) {
        match ending.step {
            EndStep::Awaiting { .. } => {
                self.record(ending.key, ending.kind, Outcome::Unknown, Cause::NoAnswer, None);
            }
            EndStep::Recording { .. } => self.answer(ending.key, false),
            EndStep::Pausing { verdict, attempt, .. } => {
                self.write(ending.key, ending.kind, verdict, attempt + 1)
            }
            EndStep::Noting { note, .. } => self.noted(ending.key, note, None),
            EndStep::Carrying { .. } => {
                self.record(ending.key, ending.kind, Outcome::Unknown, Cause::ShuttingDown, None);
            }
            EndStep::With(_) => {}
        }
    }

    /// What a stop had overtaken is known now. Says whether anything was waiting for it.
    pub(super) fn resolve(
        &mut self,
        worker: WorkerKey,
        what: Awaited,
        outcome: Outcome,
        cause: Cause,
        made: Option<GenerationNumber>,
    ) -> bool {
        let found = self.endings.iter().find(|ending| {
            matches!(ending.step, EndStep::Awaiting { worker: w, what: awaited, .. } if w == worker && awaited == what)
        });
        let Some(&Ending { key, kind, .. }) = found else { return false };
        self.record(key, kind, outcome, cause, made);
        true
    }

    /// The worker that would have said how these went is gone.
    pub(super) fn resolve_all_of(&mut self, worker: WorkerKey, cause: Cause) {
        for ending in self.endings.clone() {
            match ending.step {
                // The other one of the two may still say.
                EndStep::Awaiting { what: Awaited::Handoff(..), .. } => {}
                EndStep::Awaiting { worker: w, what, .. } if w == worker => {
                    let (outcome, cause) = match (what, cause) {
                        (Awaited::Drain(_), _) => (Outcome::AppliedWithLosses, cause),
                        (_, Cause::DrainForced) => (Outcome::Unknown, Cause::ShuttingDown),
                        _ => (Outcome::Unknown, cause),
                    };
                    self.record(ending.key, ending.kind, outcome, cause, None);
                }
                _ => {}
            }
        }
    }

    /// Nothing can be served: ends the start, then the process. But an adopted server has served before, and
    /// holds its listeners: its worker is replaced until it serves again.
    pub(super) fn fail_start(&mut self, outcome: Outcome, cause: Cause) {
        if self.held_to.is_some() {
            self.phase = Phase::Serving;
            return self.decide(outcome, cause);
        }
        self.exit = Exit::StartFailed(Verdict { outcome, cause, made: None, serving: None, held_to: None });
        self.decide(outcome, cause);
        self.enter_stopping();
        for (worker, stage) in self.workers.iter().map(|w| (w.key, w.stage)).collect::<Vec<_>>() {
            match stage {
                Stage::Killed | Stage::Stopping => {}
                Stage::Starting => self.kill(worker, cause),
                _ => self.stop_worker(worker, true),
            }
        }
    }

    /// All workers are gone: the stop ends, and after the last answer the process.
    pub(super) fn finish_stop(&mut self) {
        if let Some(Operation { step: Step::Stopping, losses, .. }) = self.active {
            match losses {
                None => self.decide(Outcome::Applied, Cause::Done),
                Some(cause) => self.decide(Outcome::AppliedWithLosses, cause),
            }
        }
        if self.active.is_none() && self.endings.is_empty() {
            self.phase = Phase::Stopped;
            self.emit(Effect::Exit(self.exit));
        }
    }
}
