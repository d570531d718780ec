//! Deadlines: every wait of the machine has one, and they are all here.

use std::time::Duration;

use super::Machine;
use super::table::{EndStep, Ending, LoadStep, Operation, Retiring, Step};
use crate::{Cause, Outcome, WorkerKey};

impl Machine {
    /// The earliest time at which [`crate::Event::Tick`] is wanted. Ask again after every step.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let workers = self.workers.iter().flat_map(|worker| [worker.by, worker.load.map(|load| load.by)]);
        let endings = self.endings.iter().map(Ending::by);
        let slot_free = !self.slot_taken();
        workers
            .chain(endings)
            .chain([
                self.handoff.map(|handoff| handoff.by),
                self.active.and_then(|operation| operation.by),
                self.restart.at.filter(|_| slot_free),
                // Once it is over, what holds it up has a deadline of its own.
                self.pending.map(|pending| pending.by).filter(|by| *by > self.now),
                self.programs_by(),
            ])
            .flatten()
            .min()
    }

    /// Acts upon every deadline that has passed, once.
    pub(super) fn expire(&mut self) {
        let now = self.now;
        let late = |by: Option<Duration>| by.is_some_and(|by| by <= now);
        let workers: Vec<WorkerKey> = self.workers.iter().map(|worker| worker.key).collect();
        for key in workers {
            let find = |machine: &Self| machine.workers.iter().find(|worker| worker.key == key).cloned();
            if let Some(load) = find(self).and_then(|worker| worker.load)
                && late(Some(load.by))
            {
                self.load_is_late(key, load.step);
            }
            if let Some(worker) = find(self)
                && late(worker.by)
            {
                self.worker_is_late(key, worker.stage);
            }
        }
        if let Some(handoff) = self.handoff
            && late(Some(handoff.by))
        {
            self.handoff_is_late(&handoff);
        }
        if let Some(operation) = self.active
            && late(operation.by)
        {
            self.operation_is_late(operation);
        }
        if late(self.programs_by()) {
            self.programs_stopped(false);
        }
        for ending in self.endings.clone() {
            if late(ending.by()) {
                self.ending_is_late(ending);
            }
        }
    }

    fn load_is_late(&mut self, worker: WorkerKey, step: LoadStep) {
        match step {
            LoadStep::Preparing => self.load_failed(worker, Cause::PrepareDeadline, true),
            LoadStep::Binding => self.load_failed(worker, Cause::BindDeadline, true),
            LoadStep::Examining => self.load_failed(worker, Cause::ProgramNotReady, true),
            LoadStep::Journaling => self.intent_failed(worker),
            // Some of its threads may have switched and others not: no abort can be trusted.
            LoadStep::Committing => self.kill(worker, Cause::CommitDeadline),
        }
    }

    fn operation_is_late(&mut self, operation: Operation) {
        match operation.step {
            Step::AwaitWorker(_) => self.decide(Outcome::NotReady, Cause::NoWorker),
            Step::Acting(_) => self.decide(Outcome::Unknown, Cause::NoAnswer),
            Step::Resuming(_) => {
                if let Some(worker) = self.main().map(|worker| worker.key) {
                    self.kill(worker, Cause::NoAnswer);
                }
            }
            Step::Guarding(guarding) => self.guard_is_late(guarding),
            Step::Noting(note) => self.noted(operation.key, note, None),
            Step::Examining(_) => self.exam_is_late(&operation),
            Step::Intending => self.discard(Outcome::NotReady, Cause::JournalFailed),
            Step::Retiring(Retiring::Gone { reexec: false }) => self.decide_upgrade(Cause::Done),
            Step::Retiring(Retiring::Gone { .. }) | Step::Reexecuting(_) => self.not_reexecuted(),
            Step::TakingBack(back) => self.taking_back_is_late(back, &operation),
            Step::Carrying { called_off } => self.carrying_is_late(called_off),
            // Bounded by the workers', their loads' or the handoff's deadlines.
            Step::Loading
            | Step::Settling(_)
            | Step::GoingBack(_)
            | Step::Draining
            | Step::Stopping
            | Step::Raising
            | Step::HandingOver
            | Step::Discarding(_)
            | Step::Retiring(_) => {}
        }
    }
}

impl Ending {
    fn by(&self) -> Option<Duration> {
        match self.step {
            EndStep::Awaiting { by, .. } => by,
            EndStep::Recording { by, .. } => Some(by),
            EndStep::Noting { by, .. } | EndStep::Carrying { by } => Some(by),
            EndStep::Pausing { until, .. } => Some(until),
            // The other one's.
            EndStep::With(_) => None,
        }
    }
}
