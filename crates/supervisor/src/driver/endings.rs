//! How requests begin and end: noted, written, answered, in this order.

use handover_api::{EventKind, Operation, Problem, Refused, StepName, operation_id};
use handover_lifecycle::{Cause, Event, Kind, OperationKey, Outcome, Refusal, Verdict};

use super::{Driver, Input, RefusalAnswer};
use crate::banner;
use crate::metrics;
use crate::operations::Trace;
use crate::protocol::ToWorker;

impl Driver {
    pub(super) fn started(&mut self, key: OperationKey) {
        self.last_exit = None;
        let serving = self.serving.as_ref().map(|serving| serving.generation.0);
        let undone = self.cancelled(self.operations.get(key).and_then(|entry| entry.ask.as_ref()));
        let decided = self.operations.get(key).map(|entry| &entry.operation);
        let decided = decided.and_then(|decided| self.record_of_pending(decided.kind, &decided.actor));
        let Some(entry) = self.operations.get_mut(key) else { return };
        entry.operation.upgrade = entry.operation.upgrade.take().or(decided);
        entry.operation.serving_generation = serving;
        entry.operation.undone = entry.operation.undone.or(undone);
        if entry.is_look {
            return entry.admit();
        }
        entry.is_begun = true;
        let (id, actor) = (&entry.operation.id, &entry.operation.actor);
        tracing::info!(operation = id, %actor, "{} begins", entry.operation.title());
        self.note(key);
    }

    /// Writes down that it began, once. That this cannot be written is found by asking for room before. Nobody is told
    /// of it before it is written: what was told must be found after a crash.
    fn note(&mut self, key: OperationKey) {
        let Some(entry) = self.operations.get_mut(key) else { return };
        if entry.is_noted {
            return self.noted(key);
        }
        entry.is_noted = true;
        let operation = entry.operation.clone();
        let inputs = self.inputs.clone();
        self.parts.scribe.later(move |journal| {
            if let Err(error) = journal.admit(&operation) {
                tracing::error!(operation = operation.id, "{error}");
            }
            let _ = inputs.blocking_send(Input::Noted { operation: key });
        });
    }

    /// That it began, or waits for its turn, is written.
    pub(super) fn noted(&mut self, key: OperationKey) {
        let Some(entry) = self.operations.get_mut(key) else { return };
        entry.admit();
        if !entry.is_begun || entry.is_told {
            return;
        }
        entry.is_told = true;
        let operation = entry.operation.clone();
        self.tell(EventKind::OperationStarted, operation.message.clone(), Some(operation));
        self.tell_step(key);
    }

    pub(super) fn joined(&mut self, request: OperationKey, operation: OperationKey) {
        let with = self.operations.get(operation).map(|entry| entry.operation.id.clone()).unwrap_or_default();
        if let Some(entry) = self.operations.get_mut(request) {
            tracing::info!(operation = entry.operation.id, with, "{} joins", entry.operation.title());
            entry.joins = Some(operation);
            entry.admit();
        }
    }

    pub(super) fn deferred(&mut self, request: OperationKey) {
        self.note(request);
        if let Some(entry) = self.operations.get_mut(request) {
            tracing::info!(operation = entry.operation.id, "{} waits for its turn", entry.operation.title());
        }
    }

    pub(super) fn refuse_by_machine(&mut self, request: OperationKey, refusal: Refusal) {
        let refused = match refusal {
            Refusal::Busy { running, kind } => Refused::Busy {
                running: self.operations.get(running).map(|e| e.operation.id.clone()).unwrap_or_default(),
                kind,
            },
            Refusal::Pending { generation, back_to, left, .. } => Refused::Pending {
                operation: self.probation.as_ref().map(|p| p.operation_id.clone()).unwrap_or_default(),
                generation: generation.0,
                back_to: back_to.0,
                left,
                upgrade: self.probation.as_ref().and_then(|p| Some(p.upgrade.as_ref()?.1.clone())),
            },
            Refusal::TakenBack => Refused::TakenBack,
            Refusal::NothingPending => Refused::NothingPending,
            Refusal::Drained => Refused::Drained,
            Refusal::Stopping => Refused::Stopping,
            Refusal::NotStarted => Refused::NotStarted,
            Refusal::NoWorker => Refused::NoWorker,
            Refusal::Stale { expected, serving } => {
                Refused::Stale { expected: expected.0, serving: serving.map(|serving| serving.0) }
            }
        };
        let Some((mut operation, mut admission, trace)) = self.operations.take(request) else { return };
        if let Some(admission) = admission.take_if(|_| trace == Trace::None) {
            let _ = admission.send(Err(refused));
            return;
        }
        // Its ID may be asked for again, and is then another request's; but what is noted ends under its own.
        if trace != Trace::Noted {
            operation.id = operation_id();
        }
        let answer = match admission {
            Some(admission) => RefusalAnswer::Admission(admission, refused.clone()),
            None => RefusalAnswer::Nobody,
        };
        self.refuse(operation, &refused, answer);
    }

    /// Writes down a refusal; whoever waits is answered when that is done.
    pub(super) fn refuse(&mut self, operation: Operation, why: &Refused, answer: RefusalAnswer) {
        let serving = self.serving.as_ref().map(|serving| serving.generation.0);
        let operation = operation.refused(why, serving);
        tracing::warn!(actor = %operation.actor, "{} refused: {why}", operation.title());
        let inputs = self.inputs.clone();
        self.parts.scribe.later(move |journal| {
            if let Err(error) = journal.finish(&operation) {
                tracing::error!("{error}");
            }
            let _ = inputs.blocking_send(Input::Refused { operation: Box::new(operation), answer });
        });
    }

    pub(super) fn refusal_written(&mut self, operation: Operation, answer: RefusalAnswer) {
        match answer {
            RefusalAnswer::Nobody => {}
            RefusalAnswer::Admission(admission, refused) => {
                let _ = admission.send(Err(refused));
            }
            RefusalAnswer::Written(written) => {
                let _ = written.send(operation.clone());
            }
        }
        self.metrics.refused(&operation);
        self.tell(EventKind::Refused, operation.message.clone(), Some(operation));
    }

    pub(super) fn progress(&mut self, key: OperationKey, step: StepName) {
        let Some(entry) = self.operations.get_mut(key) else { return };
        entry.step(step);
        self.tell_step(key);
    }

    /// Tells of the step that it takes, if it was told that it began.
    fn tell_step(&self, key: OperationKey) {
        let Some(entry) = self.operations.get(key).filter(|entry| entry.is_told) else { return };
        // What it changes may be long, and comes with its end.
        let operation = Operation { changes: Vec::new(), ..entry.as_it_is() };
        self.tell(EventKind::OperationStep, operation.message.clone(), Some(operation));
    }

    pub(super) fn active(&self) -> Option<OperationKey> {
        self.machine.view().operation.map(|operation| operation.operation)
    }

    pub(super) fn active_id(&self) -> Option<String> {
        let entry = self.operations.get(self.active()?)?;
        Some(entry.operation.id.clone())
    }

    pub(super) fn write_outcome(&mut self, key: OperationKey, verdict: Verdict) {
        let lost = matches!(verdict.cause, Cause::WorkerDied | Cause::NoWorker);
        let last_exit = self.last_exit.clone().filter(|_| lost && !verdict.outcome.is_success());
        let inputs = self.inputs.clone();
        let not_confirmed = self.before.not_confirmed();
        let Some(entry) = self.operations.get_mut(key) else { return };
        let operation = &mut entry.operation;
        if operation.errors.is_empty() {
            operation.errors.extend(last_exit.map(Problem::new));
        }
        if verdict.outcome.is_success() && verdict.cause != Cause::NotTakenBack {
            // What stood in the way and was got round.
            operation.warnings.append(&mut operation.errors);
            if let Some(upgrade) = &mut operation.upgrade {
                upgrade.last_lines.clear();
            }
        }
        operation.undone = operation.undone.or(match (verdict.outcome, verdict.cause, operation.kind) {
            (Outcome::RolledBack, Cause::NotConfirmed, Kind::Start) => not_confirmed,
            (Outcome::RolledBack, Cause::GuardFailed | Cause::Cancelled, _) => operation.generation,
            _ => None,
        });
        entry.finish(verdict);
        if entry.is_look {
            return self.pending.push_back(Event::OutcomeWritten { operation: key });
        }
        let operation = entry.operation.clone();
        self.parts.scribe.later(move |journal| {
            let written = journal.finish(&operation);
            if let Err(error) = &written {
                tracing::error!(operation = operation.id, "{error}");
            }
            let _ = inputs.blocking_send(Input::Outcome { operation: key, written: written.is_ok() });
        });
    }

    pub(super) fn answer(&mut self, key: OperationKey, recorded: bool) {
        if !recorded && let Some(entry) = self.operations.get_mut(key) {
            let unrecorded = Problem::new("the outcome could not be written into the journal");
            entry.operation.warnings.push(unrecorded);
        }
        let Some(operation) = self.operations.answer(key) else { return };
        for request in self.operations.joined(key) {
            self.end_joined(request, &operation);
        }
        log(&operation);
        self.metrics.ended(&operation);
        if operation.kind != Kind::DryRun {
            self.parts.notifier.status(&operation.message);
        }
        self.last = Some(operation.clone());
        if operation.kind == Kind::Start {
            self.close_unwanted();
            self.print_banner(&operation);
        }
        self.tell(EventKind::OperationDone, operation.message.clone(), Some(operation));
        self.compare();
    }

    fn end_joined(&mut self, request: OperationKey, like: &Operation) {
        let Some(entry) = self.operations.get_mut(request) else { return };
        entry.finish_like(like);
        let operation = entry.operation.clone();
        let inputs = self.inputs.clone();
        self.parts.scribe.later(move |journal| {
            if let Err(error) = journal.finish(&operation) {
                tracing::error!(operation = operation.id, "{error}");
            }
            let _ = inputs.blocking_send(Input::Joined { request });
        });
    }

    /// What the service manager passed and nothing serves would let clients wait for ever.
    fn close_unwanted(&mut self) {
        if self.serving.is_none() {
            return;
        }
        for unwanted in self.parts.listeners.close_unwanted() {
            tracing::warn!(
                "the service manager passed the socket {unwanted}, and no listener has its name or address: closed"
            );
        }
    }

    pub(super) fn print_banner(&mut self, start: &Operation) {
        if self.awaits_programs() {
            self.hosting.banner_waits = Some(Box::new(start.clone()));
            return;
        }
        let Some(serving) = self.serving.as_ref().filter(|_| !self.banner_printed) else { return };
        self.banner_printed = true;
        let mut notes = self.notes.clone();
        if matches!(start.cause, Some(Cause::NotConfirmed | Cause::Unreachable)) {
            notes.push(start.message.clone());
        }
        notes.extend(self.shown_pending().map(|pending| pending.sentence()));
        if self.parts.options.for_programs {
            notes.extend(banner::programs(&self.programs.status()));
        }
        if self.parts.options.banner {
            let serving = banner::Serves {
                summary: &serving.summary,
                generation: serving.generation.0,
                listeners: &self.parts.listeners.status(),
                notes: &notes,
            };
            banner::print(&self.parts.options, &serving, self.parts.lock.control());
        }
    }

    /// Compares the disk with what serves, elsewhere, for the metrics.
    pub(super) fn compare(&self) {
        let Some(serving) = &self.serving else { return };
        let (drift, generation) = (serving.loaded.drift.clone(), serving.generation);
        let inputs = self.inputs.clone();
        tokio::task::spawn_blocking(move || {
            let equal = drift.differing().is_empty();
            let _ = inputs.blocking_send(Input::Compared { generation, equal });
        });
    }

    /// Gives the worker the supervisor's metrics, for its metrics listener.
    pub(super) fn send_facts(&self) {
        let Some(worker) = self.serving.as_ref().and_then(|serving| self.workers.get(&serving.worker)) else {
            return;
        };
        let programs = metrics::text_of_programs(&self.programs.status());
        worker.send(ToWorker::Facts { metrics: self.metrics.text() + &programs }, Vec::new());
    }
}

fn log(operation: &Operation) {
    let (id, actor) = (&operation.id, &operation.actor);
    let title = operation.title();
    match operation.outcome {
        Some(outcome) if outcome.is_success() || outcome == Outcome::Sent => {
            tracing::info!(operation = id, %actor, "{title} {}", operation.message);
        }
        _ => tracing::warn!(operation = id, %actor, "{title} {}", operation.message),
    }
}
