//! What serves, what it may go back to, and until when.
//!
//! ```text
//!   WriteIntent ─▶ (commit) ─▶ Serve ─┬─────────────────────────────▶ LetGo: the old generation's bytes and listeners go
//!                                     ├─ guarded ── GuardEnded ─────▶ LetGo, or Pending, or the old one again
//!                                     └─ Pending ─┬─ confirmed ─────▶ PendingOver, LetGo
//!                                                 └─ taken back ────▶ Own or cancel: the old one, PendingOver, LetGo
//! ```
//!
//! Deadlines are the machine's, by its monotonic clock. What is written into the journal, and shown, is the wall
//! clock's time: the only one that the next supervisor can compare with.

use std::sync::Arc;
use std::time::Duration;

use handover_api::{
    Actor, EventKind, FileDigest, Generation, GoesBack, Kind, Operation, Pending, Problem, operation_id,
};
use handover_lifecycle::{
    CallKey, CandidateKey, Event, GenerationNumber, OperationKey, PendingEnd, Source, WorkerKey,
};
use jiff::Timestamp;

use super::{Candidate, CarriedState, Driver, Input, Loaded, Prepared, Probation, Serving};
use crate::handle::{Ask, Guarding, Terms};
pub(super) use crate::journal::written;
use crate::journal::{Intent, Unconfirmed, now};
use crate::protocol::{GuardFigures, GuardLimits, Settings, ToWorker};

/// An intent as the machine asks for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Intended {
    pub(super) operation: OperationKey,
    pub(super) candidate: CandidateKey,
    pub(super) generation: GenerationNumber,
    pub(super) back_to: Option<GenerationNumber>,
    pub(super) confirm: Option<Duration>,
}

impl Loaded {
    /// As the API describes it, while it serves. Its length is that of the list of files.
    fn described(&self, number: u64, committed_at: String) -> Generation {
        let files = self.drift.bundle().files().map(|(path, file)| FileDigest {
            path: path.display().to_string(),
            bytes: file.bytes.len() as u64,
            blake3: file.digest.clone(),
        });
        Generation {
            number,
            serving: true,
            committed_at,
            operation_id: self.operation_id.clone(),
            source: self.version.clone(),
            files: files.collect(),
            changes: self.changes.clone(),
            forgotten: false,
        }
    }
}

impl Driver {
    pub(super) fn write_intent(&mut self, intended: Intended) {
        let Intended { operation, candidate, generation, back_to, confirm } = intended;
        let noted = self.candidates.get(&candidate);
        let loaded = noted.and_then(|noted| {
            noted.prepared.as_ref().and_then(|prepared| prepared.loaded.clone()).or(noted.given.clone())
        });
        let id = self.operations.get_mut(operation).map(|entry| {
            entry.operation.generation = Some(generation.0);
            entry.operation.id.clone()
        });
        let (Some(loaded), Some(id)) = (loaded, id) else {
            return self.pending.push_back(Event::IntentFailed { operation, generation });
        };
        self.loaded.insert(generation, loaded.clone());
        self.back_to = back_to;
        let confirm = confirm.map(wall_clock);
        let inputs = self.inputs.clone();
        self.parts.scribe.later(move |journal| {
            let intent = Intent {
                operation_id: &id,
                generation: generation.0,
                bundle: loaded.drift.bundle(),
                back_to: back_to.map(|back_to| back_to.0),
                confirm,
            };
            let failure = journal.intend(&intent).err().map(|error| error.to_string());
            let _ = inputs.blocking_send(Input::Intent { operation, generation, failure });
        });
    }

    pub(super) fn serve(&mut self, worker: WorkerKey, candidate: CandidateKey, generation: GenerationNumber) {
        let Some(Candidate { prepared: Some(prepared), given, source, .. }) =
            self.candidates.remove(&candidate)
        else {
            return;
        };
        let Prepared { settings, summary, loaded, .. } = prepared;
        // A worker that was replaced was given these bytes; what it made of them is what it says now.
        let Some(loaded) = self.loaded.get(&generation).cloned().or(loaded).or(given) else { return };
        self.parts.listeners.serve(candidate);
        self.store_listeners();
        self.hold();
        self.loaded.insert(generation, loaded.clone());
        let before_worker = self.serving.as_ref().map(|serving| serving.worker);
        let before = self.serving.take().filter(|serving| serving.generation == generation);
        let is_new = before.is_none();
        let (committed_at, is_rollback) = match before {
            Some(before) => (before.committed_at, before.is_rollback),
            None => (now(), source != Source::Disk && !self.before.unreachable),
        };
        self.apply_settings(&settings);
        self.metrics.serves(generation.0);
        self.connections = None;
        let is_other = before_worker != Some(worker);
        self.apply_programs(candidate, generation, &settings);
        self.serving =
            Some(Serving { worker, generation, loaded, settings, summary, committed_at, is_rollback });
        if is_other {
            self.worker_changed();
        }
        if source == Source::Given {
            self.take_restored_carried();
        }
        if is_new {
            self.record_generation();
            self.note_end_of_rollback();
        }
        // Now, so that they are in place before anybody is told that it serves.
        self.send_facts();
        if self.active().is_none() {
            // Otherwise it is done at the operation's end.
            self.compare();
        }
    }

    /// The archive's carried state is the worker's from now on; it will hand it over itself, unless it dies before.
    fn take_restored_carried(&mut self) {
        let entry = self.active().and_then(|key| self.operations.get(key));
        let Some(Ask::Restore { restored, .. }) = entry.and_then(|entry| entry.ask.as_ref()) else { return };
        if let Some(bytes) = restored.carried.clone()
            && let Some(file) = self.restored_carried()
        {
            self.carried = Some(CarriedState { bytes, file });
        }
    }

    /// Writes down that what serves does.
    pub(super) fn record_generation(&self) {
        let Some(serving) = &self.serving else { return };
        let (number, committed_at) = (serving.generation.0, serving.committed_at.clone());
        let loaded = Arc::clone(&serving.loaded);
        self.parts.scribe.later(move |journal| {
            log_unwritten(journal.commit(&loaded.described(number, committed_at)));
        });
    }

    /// What serves, as the API describes it.
    pub(super) fn generation(&self) -> Option<Generation> {
        let serving = self.serving.as_ref()?;
        Some(serving.loaded.described(serving.generation.0, serving.committed_at.clone()))
    }

    pub(super) fn apply_settings(&mut self, settings: &Settings) {
        if let Err(error) = self.parts.control.set(settings.control_mode, settings.control_group) {
            tracing::warn!("cannot set mode and group of the control socket: {error}");
        }
        self.machine.set_drain(settings.drain_limit.unwrap_or(self.parts.options.limits.drain));
        if let Some(keep) = settings.history {
            self.parts.scribe.later(move |journal| journal.set_keep(keep));
        }
        if let Some(keep) = settings.generations {
            self.parts.scribe.later(move |journal| journal.set_generations(keep));
        }
        if let Some(log) = &settings.log {
            (self.parts.options.apply_log)(log);
            crate::programs::log_to(&log.to);
        }
        self.parts.settings.send_replace(settings.clone());
    }

    pub(super) fn release(&mut self, candidate: CandidateKey) {
        self.abort_programs(candidate);
        self.parts.listeners.release(candidate);
        let Some(released) = self.candidates.remove(&candidate) else { return };
        let view = self.machine.view();
        let number = Some(released.generation);
        let needed = [view.held_to, view.serving, view.committing, view.compared_with, self.back_to];
        let serves = self.serving.as_ref().map(|serving| serving.generation) == number;
        if !serves
            && !needed.contains(&number)
            && !self.candidates.values().any(|c| Some(c.generation) == number)
        {
            self.loaded.remove(&released.generation);
        }
    }

    /// What serves is final.
    pub(super) fn let_go(&mut self) {
        self.parts.listeners.let_go();
        self.hold();
        self.back_to = None;
        let Some(serving) = &self.serving else { return };
        let wanted: Vec<GenerationNumber> = self.candidates.values().map(|c| c.generation).collect();
        self.loaded.retain(|number, _| *number == serving.generation || wanted.contains(number));
        self.metrics.confirmed(serving.generation.0);
        // The bytes of the generation before may have been many; the journal's thread has time for it.
        self.parts.scribe.later(|_journal| handover_handoff::memory::give_back());
    }

    /// Gives the worker the sockets that it must keep for the next supervisor, or takes them from it.
    pub(super) fn hold(&mut self) {
        let (listeners, sockets) = self.parts.listeners.kept();
        if listeners.is_empty() && !self.holding {
            return;
        }
        self.holding = !listeners.is_empty();
        if let Some(worker) = self.serving.as_ref().and_then(|serving| self.workers.get(&serving.worker)) {
            worker.send(ToWorker::Hold { listeners }, sockets);
        }
    }

    /// The same before a commit: if this process dies before it hears of it, the worker may serve the new generation, and the
    /// next supervisor may have to go back.
    pub(super) fn hold_beside(&mut self, worker: WorkerKey, candidate: CandidateKey) {
        let (listeners, sockets) = self.parts.listeners.kept_beside(candidate);
        if let (false, Some(worker)) = (listeners.is_empty(), self.workers.get(&worker)) {
            self.holding = true;
            worker.send(ToWorker::Hold { listeners }, sockets);
        }
    }

    /// The machine begins an operation that nobody asked for.
    pub(super) fn own(&mut self, key: OperationKey, kind: Kind) {
        let mut operation = Operation::running(operation_id(), kind, Actor::supervisor(), now());
        operation.serving_generation = self.serving.as_ref().map(|serving| serving.generation.0);
        if let Some(probation) = &self.probation {
            operation.undone = Some(probation.generation.0).filter(|_| probation.upgrade.is_none());
            operation.comment = Some(format!("{} was not confirmed", probation.operation_id));
        }
        operation.upgrade = self.record_of_pending(kind, &operation.actor);
        self.operations.own_as(key, operation);
    }

    /// A change awaits confirmation, or has a new deadline.
    pub(super) fn await_confirmation(
        &mut self,
        operation: OperationKey,
        generation: GenerationNumber,
        back_to: GenerationNumber,
        left: Duration,
    ) {
        let until = wall_clock(left);
        let same = self.probation.take().filter(|before| before.generation == generation);
        let entry = self.operations.get_mut(operation);
        let of_entry = entry.map(|entry| {
            let within_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            entry.operation.goes_back = Some(GoesBack { to: back_to.0, at: written(until), within_ms });
            let operation = &entry.operation;
            (operation.id.clone(), operation.actor.clone(), operation.comment.clone())
        });
        // Whoever made the change stays the one to ask about it, whoever moves its deadline.
        let made_by = same.map(|before| (before.operation_id, before.actor, before.comment));
        let Some((operation_id, actor, comment)) = made_by.or(of_entry) else {
            return self.pending.push_back(Event::IntentFailed { operation, generation });
        };
        let unconfirmed = Unconfirmed {
            operation_id: operation_id.clone(),
            generation: generation.0,
            back_to: back_to.0,
            until,
        };
        let (until, upgrade) = (written(until), None);
        self.probation =
            Some(Probation { operation_id, actor, comment, generation, back_to, until, upgrade });
        self.back_to = Some(back_to);
        self.metrics.pending(true);
        let inputs = self.inputs.clone();
        self.parts.scribe.later(move |journal| {
            let failure = journal.pend(&unconfirmed).err().map(|error| error.to_string());
            let _ = inputs.blocking_send(Input::Intent { operation, generation, failure });
        });
    }

    pub(super) fn write_confirm(&mut self, operation: OperationKey, generation: GenerationNumber) {
        let upgrade = self.probation.as_ref().and_then(|probation| probation.upgrade.as_ref());
        if let Some((worker, _)) = upgrade {
            return self.confirm_upgrade(operation, generation, *worker);
        }
        let Some(entry) = self.operations.get_mut(operation) else { return };
        // Its worker may be gone at this moment: what is confirmed is known all the same.
        entry.operation.generation = Some(generation.0);
        let id = entry.operation.id.clone();
        let inputs = self.inputs.clone();
        self.parts.scribe.later(move |journal| {
            let failure = journal.confirm(&id, generation.0).err().map(|error| error.to_string());
            let _ = inputs.blocking_send(Input::Intent { operation, generation, failure });
        });
    }

    pub(super) fn confirmation_over(&mut self, generation: GenerationNumber, how: PendingEnd) {
        self.probation = None;
        self.metrics.pending(false);
        if how != PendingEnd::Confirmed {
            self.parts.scribe.later(move |journal| {
                log_unwritten(journal.pending_over(generation.0, how));
            });
        }
        let what = match how {
            PendingEnd::Confirmed => "is confirmed",
            PendingEnd::Cancelled => "was cancelled",
            PendingEnd::NotConfirmed => "was not confirmed in time",
            PendingEnd::WorkersDied => "was taken back: its workers died one after the other",
            PendingEnd::Replaced => "was not confirmed, and something else is on the disk by now",
            // Never said of a generation: the bytes of the one before are at hand.
            PendingEnd::NotPossible => "could not be taken back, and stays",
        };
        self.tell(EventKind::Notice, format!("generation {} {what}", generation.0), None);
    }

    /// The change that awaits confirmation, for `status`.
    pub(super) fn shown_pending(&self) -> Option<Pending> {
        let probation = self.probation.as_ref()?;
        let until = self.machine.view().pending?.until;
        let left = until.saturating_sub(self.begun.elapsed());
        Some(Pending {
            operation_id: probation.operation_id.clone(),
            generation: probation.generation.0,
            back_to: probation.back_to.0,
            actor: probation.actor.clone(),
            comment: probation.comment.clone(),
            until: probation.until.clone(),
            left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            upgrade: probation.upgrade.as_ref().map(|(_, upgrade)| upgrade.clone()),
        })
    }

    /// The generation that serves although the files on the disk, if they differ, are what is wanted.
    pub(super) fn rollback_in_force(&self) -> Option<u64> {
        self.serving.as_ref().filter(|serving| serving.is_rollback).map(|serving| serving.generation.0)
    }

    /// Under which terms a change is made that asks for these, and what its guard looks at.
    pub(super) fn terms(&self, asked: &Terms) -> (handover_lifecycle::Terms, GuardLimits) {
        let configured = self.serving.as_ref().and_then(|serving| serving.settings.guard);
        let mut limits = configured.unwrap_or_default();
        let guard = match asked.guard {
            Guarding::No => None,
            Guarding::Configured => configured.map(|guard| guard.watch),
            Guarding::Asked { watch } => Some(watch.unwrap_or(limits.watch)),
        };
        limits.watch = guard.unwrap_or(limits.watch);
        (handover_lifecycle::Terms { confirm: asked.confirm_within, guard }, limits)
    }

    /// What a worker is told about a guard.
    pub(super) fn guard(&mut self, call: CallKey, operation: OperationKey, watch: Duration) -> ToWorker {
        self.guard = Some((call.0, operation));
        let limits = self.operations.get(operation).map(|entry| entry.guard).unwrap_or_default();
        ToWorker::Guard { call: call.0, limits: GuardLimits { watch, ..limits } }
    }

    pub(super) fn guard_ended(
        &mut self,
        worker: WorkerKey,
        call: u64,
        passed: bool,
        detail: String,
        figures: GuardFigures,
    ) {
        tracing::info!(passed, ?figures, "guard: {detail}");
        let guarded = self.guard.take_if(|(running, _)| *running == call);
        if let Some(entry) = guarded.and_then(|(_, operation)| self.operations.get_mut(operation)) {
            if !passed {
                entry.operation.errors.push(Problem::new(detail.clone()));
            }
            entry.operation.guard = Some(detail);
        }
        self.step(Event::GuardEnded { worker, call: CallKey(call), passed });
    }

    /// The generation that a cancellation takes back.
    pub(super) fn cancelled(&self, ask: Option<&Ask>) -> Option<u64> {
        let of_generation = self.probation.as_ref().is_none_or(|probation| probation.upgrade.is_none());
        let is_cancel = matches!(ask, Some(Ask::Cancel)) && of_generation;
        let serving = self.serving.as_ref().map(|serving| serving.generation);
        let undone = self.probation.as_ref().map(|probation| probation.generation).or(serving);
        undone.filter(|_| is_cancel).map(|generation| generation.0)
    }
}

/// The wall clock's time after `left`.
pub(super) fn wall_clock(left: Duration) -> Timestamp {
    let now = Timestamp::now();
    now.checked_add(left).unwrap_or(now)
}

/// Whether it was written. If not, the log has it.
pub(super) fn log_unwritten<E: std::fmt::Display>(result: Result<(), E>) -> bool {
    match result {
        Ok(()) => true,
        Err(error) => {
            tracing::error!("{error}");
            false
        }
    }
}
