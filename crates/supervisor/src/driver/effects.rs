//! What the machine says, done.

use std::sync::Arc;

use handover_api::{EventKind, FileDigest, Generation};
use handover_lifecycle::{
    CandidateKey, Effect, Event, GenerationNumber, Message, Notice, OperationKey, Source, WorkerKey,
};

use super::{Candidate, Driver, Input, Loaded, Prepared, Serving};
use crate::journal::{Intent, now};
use crate::protocol::{self, Settings, ToWorker};
use crate::worker::{Reporter, Start};

impl Driver {
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Started { operation } => self.started(operation),
            Effect::Joined { request, operation } => self.joined(request, operation),
            Effect::Deferred { request } => self.deferred(request),
            Effect::Refuse { request, refusal } => self.refuse_by_machine(request, refusal),
            Effect::Progress { operation, step } => self.progress(operation, step),
            Effect::StartWorker { worker } => self.start_worker(worker),
            Effect::Send { worker, message } => self.send(worker, message),
            Effect::Bind { worker, candidate, dry_run } => self.bind(worker, candidate, dry_run),
            Effect::KillWorker { worker } => self.kill_worker(worker),
            Effect::WriteIntent { operation, candidate, generation, .. } => {
                self.write_intent(operation, candidate, generation);
            }
            Effect::WriteOutcome { operation, verdict } => self.write_outcome(operation, verdict),
            Effect::Answer { operation, recorded, .. } => self.answer(operation, recorded),
            Effect::Serve { worker, candidate, generation } => self.serve(worker, candidate, generation),
            // They come with changes that await confirmation, which nobody can ask for yet.
            Effect::Own { .. }
            | Effect::Pending { .. }
            | Effect::WriteConfirm { .. }
            | Effect::PendingOver { .. } => {}
            // Serving lets go of the others, for now.
            Effect::LetGo => {}
            Effect::Release { candidate } => self.release(candidate),
            Effect::CloseListeners => self.close_listeners(),
            Effect::Notify(notice) => self.notify(notice),
            Effect::Exit(exit) => self.exit = Some(exit),
        }
    }

    fn start_worker(&mut self, key: WorkerKey) {
        self.workers_started += 1;
        let start = Start {
            executable: &self.parts.executable,
            arguments: &self.parts.options.arguments,
            environment: &self.parts.options.environment,
            number: self.workers_started,
            succession: self.parts.lock.worker_path(key.0),
        };
        match start.start(Reporter::new(key, self.from_workers.clone())) {
            Ok(worker) => {
                tracing::info!(worker = worker.number, pid = worker.process.pid(), "worker started");
                let message = format!("worker {} started (pid {})", worker.number, worker.process.pid());
                self.workers.insert(key, worker);
                self.tell(EventKind::Worker, message, None);
            }
            Err(error) => {
                let why = format!(
                    "a worker could not be started from {}: {error}",
                    self.parts.executable.path().display()
                );
                tracing::error!("{why}");
                self.tell(EventKind::Worker, why.clone(), None);
                self.last_exit = Some(why);
                self.pending.push_back(Event::WorkerNotStarted { worker: key });
            }
        }
    }

    fn kill_worker(&mut self, key: WorkerKey) {
        let Some(worker) = self.workers.get_mut(&key) else { return };
        worker.is_ending = true;
        if let Err(error) = worker.process.kill() {
            tracing::error!(worker = worker.number, "the worker could not be killed: {error}");
        }
    }

    fn send(&mut self, key: WorkerKey, message: Message) {
        let mut descriptors = Vec::new();
        let message = match message {
            Message::Prepare { candidate, generation, source, dry_run, .. } => {
                let Some(source) = self.begin_candidate(key, candidate, generation, source, dry_run) else {
                    return self.pending.push_back(Event::Rejected {
                        worker: key,
                        candidate,
                        unreachable: false,
                    });
                };
                descriptors.extend(source.1);
                ToWorker::Prepare {
                    candidate: candidate.0,
                    generation: generation.0,
                    source: source.0,
                    dry_run,
                    scope: protocol::Scope::All,
                    given_carried: false,
                }
            }
            Message::Commit { candidate } => ToWorker::Commit { candidate: candidate.0 },
            Message::Abort { candidate } => ToWorker::Abort { candidate: candidate.0 },
            Message::Guard { .. } | Message::EndGuard { .. } => return,
            Message::Drain { call, limit } => ToWorker::Drain { call: call.0, limit },
            Message::Resume { call } => ToWorker::Resume { call: call.0 },
            Message::Action { call, operation } => {
                self.actions.insert(call.0, operation);
                let ask = self.operations.get(operation).and_then(|entry| entry.ask.clone());
                let Some(crate::handle::Ask::Action { name, body }) = ask else { return };
                ToWorker::Action { call: call.0, name, body }
            }
            Message::Stop { now } => {
                if let Some(worker) = self.workers.get_mut(&key) {
                    worker.is_ending = true;
                }
                ToWorker::Stop { now }
            }
        };
        if !self.workers.get(&key).is_some_and(|worker| worker.send(message, descriptors)) {
            self.pending.push_back(Event::ChannelLost { worker: key });
        }
    }

    /// Notes a candidate, and says where the worker gets its files from. `None` if they are not at hand.
    fn begin_candidate(
        &mut self,
        worker: WorkerKey,
        candidate: CandidateKey,
        generation: GenerationNumber,
        source: Source,
        dry_run: bool,
    ) -> Option<(protocol::Source, Option<Arc<std::os::fd::OwnedFd>>)> {
        let from = match source {
            Source::Disk => (protocol::Source::Disk, None),
            Source::Given => return None,
            Source::Generation(number) => {
                let loaded = self.loaded.get(&number)?;
                (protocol::Source::Bundle, Some(Arc::clone(&loaded.file)))
            }
        };
        let noted = Candidate { worker, generation, source, dry_run, needs: Vec::new(), prepared: None };
        self.candidates.insert(candidate, noted);
        Some(from)
    }

    fn bind(&mut self, worker: WorkerKey, candidate: CandidateKey, dry_run: bool) {
        let Some(noted) = self.candidates.get(&candidate) else { return };
        let binder = self.parts.listeners.binder(noted.needs.clone(), dry_run);
        let inputs = self.inputs.clone();
        tokio::task::spawn_blocking(move || {
            let bindings = binder();
            // If the driver is gone, so is everything that was bound.
            let _ = inputs.blocking_send(Input::Bound { worker, candidate, bindings });
        });
    }

    fn write_intent(
        &mut self,
        operation: OperationKey,
        candidate: CandidateKey,
        generation: GenerationNumber,
    ) {
        let loaded = self.candidates.get(&candidate).and_then(|c| c.prepared.as_ref()?.loaded.clone());
        let id = self.operations.get_mut(operation).map(|entry| {
            entry.operation.generation = Some(generation.0);
            entry.operation.id.clone()
        });
        let (Some(loaded), Some(id)) = (loaded, id) else {
            return self.pending.push_back(Event::IntentFailed { operation, generation });
        };
        self.loaded.insert(generation, Arc::clone(&loaded));
        let inputs = self.inputs.clone();
        self.parts.scribe.later(move |journal| {
            let intent = Intent {
                operation_id: &id,
                generation: generation.0,
                bundle: loaded.drift.bundle(),
                back_to: None,
                confirm: None,
            };
            let written = match journal.intend(&intent) {
                Ok(()) => true,
                Err(error) => log_unwritten(&error),
            };
            let _ = inputs.blocking_send(Input::Intent { operation, generation, written });
        });
    }

    fn serve(&mut self, worker: WorkerKey, candidate: CandidateKey, generation: GenerationNumber) {
        let Some(Candidate { prepared: Some(prepared), .. }) = self.candidates.remove(&candidate) else {
            return;
        };
        let Prepared { settings, summary, loaded, .. } = prepared;
        // A worker that was replaced was given these bytes; what it made of them is what it says now.
        let Some(loaded) = self.loaded.get(&generation).cloned().or(loaded) else { return };
        self.parts.listeners.serve(candidate);
        self.parts.listeners.let_go();
        self.loaded.retain(|number, _| *number == generation);
        self.loaded.insert(generation, Arc::clone(&loaded));
        let is_new = self.serving.as_ref().is_none_or(|serving| serving.generation != generation);
        let (committed_at, operation_id) = match &self.serving {
            Some(serving) if !is_new => (serving.committed_at.clone(), serving.operation_id.clone()),
            _ => (now(), self.active_id()),
        };
        self.apply_settings(&settings);
        self.metrics.serves(generation.0);
        self.connections = None;
        self.serving =
            Some(Serving { worker, generation, loaded, settings, summary, committed_at, operation_id });
        if is_new && let Some(generation) = self.generation() {
            self.parts.scribe.later(move |journal| {
                if let Err(error) = journal.commit(&generation) {
                    log_unwritten(&error);
                }
            });
        }
        self.compare();
    }

    /// What serves, as the API describes it.
    pub(super) fn generation(&self) -> Option<Generation> {
        let serving = self.serving.as_ref()?;
        let files = serving.loaded.drift.bundle().files().map(|(path, file)| FileDigest {
            path: path.display().to_string(),
            bytes: file.bytes.len() as u64,
            blake3: file.digest.clone(),
        });
        Some(Generation {
            number: serving.generation.0,
            serving: true,
            committed_at: serving.committed_at.clone(),
            operation_id: serving.operation_id.clone(),
            source: None,
            files: files.collect(),
            changes: serving.loaded.changes.clone(),
        })
    }

    pub(super) fn apply_settings(&mut self, settings: &Settings) {
        if let Err(error) = self.parts.control.set(settings.control_mode, settings.control_group) {
            tracing::warn!("cannot set mode and group of the control socket: {error}");
        }
        if let Some(keep) = settings.history {
            self.parts.scribe.later(move |journal| journal.set_keep(keep));
        }
        if let Some(log) = &settings.log {
            (self.parts.options.apply_log)(log);
        }
        self.parts.settings.send_replace(settings.clone());
    }

    fn release(&mut self, candidate: CandidateKey) {
        self.parts.listeners.release(candidate);
        let Some(released) = self.candidates.remove(&candidate) else { return };
        let needed = |number: GenerationNumber| {
            let view = self.machine.view();
            [view.held_to, view.serving, view.committing].contains(&Some(number))
                || self.candidates.values().any(|candidate| candidate.generation == number)
        };
        if !needed(released.generation) {
            self.loaded.remove(&released.generation);
        }
    }

    fn close_listeners(&mut self) {
        self.parts.listeners.close();
        for worker in self.workers.values() {
            worker.send(ToWorker::CloseListeners, Vec::new());
        }
    }

    fn notify(&mut self, notice: Notice) {
        match notice {
            Notice::Ready => self.parts.notifier.ready(),
            Notice::Reloading => self.parts.notifier.reloading(),
            Notice::Stopping => {
                let limits = &self.parts.options.limits;
                let drain = self.drain_limit().unwrap_or(limits.drain);
                self.parts.notifier.stopping(drain + limits.drain_grace + limits.stop + limits.kill);
                self.parts.notifier.status("stopping");
            }
        }
    }
}

impl Loaded {
    pub(super) fn new(unpacked: super::Unpacked, changes: Vec<handover_api::Change>) -> Arc<Self> {
        let drift = Arc::new(crate::drift::Drift::new(unpacked.bundle));
        Arc::new(Loaded { file: Arc::new(unpacked.file), drift, changes })
    }
}

/// `false`, for where it is the answer.
fn log_unwritten(error: &dyn std::fmt::Display) -> bool {
    tracing::error!("{error}");
    false
}
