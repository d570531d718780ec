//! What workers say, and how they end.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use handover_api::{Actor, EventKind, Generation, Losses, Operation, Problem, operation_id};
use handover_handoff::Bundle;
use handover_handoff::process::{self, Exit};
use handover_lifecycle::{
    CallKey, CandidateKey, Event, GenerationNumber, Kind, OperationKey, Source, WorkerKey,
};

use super::{Driver, Input, Loaded, PINGS_UNANSWERED, Prepared, Serving, Unpacked};
use crate::journal::now;
use crate::listeners::Binding;
use crate::protocol::{BindResult, PROTOCOL_VERSION, ToSupervisor, ToWorker};
use crate::worker::{Adopted, Found, FromWorker, Reporter};

impl Driver {
    pub(super) fn worker_did(&mut self, key: WorkerKey, what: FromWorker) {
        match what {
            FromWorker::Said(message, descriptors) => self.said(key, message, descriptors),
            FromWorker::Lost(why) => self.lost(key, &why),
            FromWorker::Ended => self.ended(key),
        }
    }

    fn said(&mut self, key: WorkerKey, message: ToSupervisor, descriptors: Vec<OwnedFd>) {
        tracing::trace!(worker = %key, ?message, "worker says");
        match message {
            ToSupervisor::Hello { protocol, version, actions, .. } => {
                self.hello(key, protocol, version, actions)
            }
            ToSupervisor::Need { candidate, listeners } => {
                let candidate = CandidateKey(candidate);
                if let Some(noted) = self.candidates.get_mut(&candidate).filter(|noted| noted.worker == key) {
                    noted.needs = listeners;
                    self.step(Event::Need { worker: key, candidate });
                }
            }
            ToSupervisor::Prepared { candidate, changes, warnings, settings, summary, .. } => {
                let prepared = Prepared { changes, warnings, settings: *settings, summary, loaded: None };
                self.prepared(key, CandidateKey(candidate), prepared, descriptors.into_iter().next());
            }
            ToSupervisor::Rejected { candidate, problems, .. } => {
                self.rejected(key, CandidateKey(candidate), problems);
            }
            ToSupervisor::Committed { candidate } => {
                self.step(Event::Committed { worker: key, candidate: CandidateKey(candidate) });
            }
            ToSupervisor::DrainProgress { connections, .. } => {
                self.connections = Some(connections);
                tracing::debug!(connections, "draining");
            }
            ToSupervisor::Drained { call, losses } => {
                self.connections = Some(0);
                self.lose_connections(&losses);
                let (call, clean) = (CallKey(call), losses.is_empty());
                self.step(Event::Drained { worker: key, call, clean });
            }
            ToSupervisor::Resumed { call } => {
                self.connections = None;
                self.step(Event::Resumed { worker: key, call: CallKey(call) });
            }
            ToSupervisor::ActionDone { call, ok, message } => {
                if let Some(entry) = self.actions.remove(&call).and_then(|op| self.operations.get_mut(op)) {
                    entry.operation.answer = Some(message);
                }
                match descriptors.into_iter().next() {
                    None => self.step(Event::ActionDone { worker: key, call: CallKey(call), ok }),
                    Some(bundle) => self.unpack_renewed(key, call, ok, bundle),
                }
            }
            ToSupervisor::Reported { call, body } => {
                if let Some(asked) = self.reports.remove(&call) {
                    let _ = asked.send(body);
                }
            }
            ToSupervisor::Pong { .. } => {
                self.pings.unanswered = 0;
                self.parts.notifier.feed_watchdog();
            }
            ToSupervisor::GuardEnded { .. } | ToSupervisor::Carry | ToSupervisor::Ask { .. } => {}
            ToSupervisor::Stopping { losses } => self.lose_connections(&losses),
        }
    }

    fn hello(&mut self, key: WorkerKey, protocol: u16, version: String, actions: Vec<String>) {
        let Some(worker) = self.workers.get_mut(&key) else { return };
        if protocol != PROTOCOL_VERSION {
            let why = format!(
                "it speaks version {protocol} of the protocol, this supervisor version {PROTOCOL_VERSION}"
            );
            return self.lost(key, &why);
        }
        worker.version = version;
        worker.actions = actions;
        self.step(Event::WorkerReady { worker: key });
        self.send_facts();
    }

    /// Connections were cut: that belongs to whatever ends connections now.
    fn lose_connections(&mut self, losses: &Losses) {
        for entry in self.operations.unanswered() {
            let operation = &mut entry.operation;
            if operation.outcome.is_none() && matches!(operation.kind, Kind::Drain | Kind::Stop) {
                operation.losses.merge(losses);
            }
        }
    }

    pub(super) fn bound(&mut self, worker: WorkerKey, candidate: CandidateKey, bindings: &[Binding]) {
        // Called off meanwhile: what was bound for it is closed here.
        let Some(noted) = self.candidates.get(&candidate) else {
            return self.parts.listeners.release(candidate);
        };
        if !noted.dry_run {
            self.parts.listeners.hold(candidate, bindings);
        }
        let sockets =
            bindings.iter().filter_map(|(_, held)| held.as_ref().map(|(_, held)| held.socket.clone()));
        let results: Vec<BindResult> = bindings.iter().map(|(result, _)| result.clone()).collect();
        let message = ToWorker::Bound { candidate: candidate.0, results };
        if self.workers.get(&worker).is_some_and(|to| to.send(message, sockets.collect())) {
            self.step(Event::Bound { worker, candidate });
        } else {
            self.step(Event::ChannelLost { worker });
        }
    }

    fn prepared(
        &mut self,
        worker: WorkerKey,
        candidate: CandidateKey,
        prepared: Prepared,
        bundle: Option<OwnedFd>,
    ) {
        let Some(noted) = self.candidates.get_mut(&candidate).filter(|noted| noted.worker == worker) else {
            return;
        };
        noted.prepared = Some(prepared);
        if noted.source != Source::Disk {
            // It was given these bytes by us.
            return self.step(Event::Prepared { worker, candidate, unchanged: false });
        }
        let Some(file) = bundle else {
            return self.lost(worker, "it does not pass the bundle of what it prepared");
        };
        let inputs = self.inputs.clone();
        tokio::task::spawn_blocking(move || {
            let bundle = Bundle::from_memfd(&file).map(|bundle| Unpacked { bundle, file });
            let bundle = Box::new(bundle.map_err(|error| error.to_string()));
            let _ = inputs.blocking_send(Input::Unpacked { worker, candidate, bundle });
        });
    }

    pub(super) fn unpacked(
        &mut self,
        worker: WorkerKey,
        candidate: CandidateKey,
        unpacked: Result<Unpacked, String>,
    ) {
        let unpacked = match unpacked {
            Ok(unpacked) => unpacked,
            Err(why) => return self.lost(worker, &why),
        };
        let serving = self.serving.as_ref().map(|serving| serving.loaded.drift.bundle().digest());
        let Some(prepared) = self.candidates.get_mut(&candidate).and_then(|noted| noted.prepared.as_mut())
        else {
            return;
        };
        let unchanged = prepared.changes.is_empty() && serving == Some(unpacked.bundle.digest());
        prepared.loaded = Some(Loaded::new(unpacked, prepared.changes.clone()));
        let (changes, warnings) = (prepared.changes.clone(), prepared.warnings.clone());
        if let Some(entry) = self.active().and_then(|key| self.operations.get_mut(key)) {
            entry.operation.changes = changes;
            entry.operation.warnings = warnings;
        }
        self.step(Event::Prepared { worker, candidate, unchanged });
    }

    /// An action has read files anew: the same generation serves other bytes from now on.
    fn unpack_renewed(&self, worker: WorkerKey, call: u64, ok: bool, file: OwnedFd) {
        let inputs = self.inputs.clone();
        tokio::task::spawn_blocking(move || {
            let bundle = Bundle::from_memfd(&file).map(|bundle| Unpacked { bundle, file });
            let bundle = Box::new(bundle.map_err(|error| error.to_string()));
            let _ = inputs.blocking_send(Input::Renewed { worker, call, ok, bundle });
        });
    }

    /// A worker that replaces this one gets the new bytes; then the action has ended.
    pub(super) fn renewed(
        &mut self,
        worker: WorkerKey,
        call: u64,
        ok: bool,
        unpacked: Result<Unpacked, String>,
    ) {
        let unpacked = match unpacked {
            Ok(unpacked) => unpacked,
            Err(why) => return self.lost(worker, &why),
        };
        if let Some(serving) = self.serving.as_mut().filter(|serving| serving.worker == worker) {
            serving.loaded = Loaded::new(unpacked, serving.loaded.changes.clone());
            self.loaded.insert(serving.generation, Arc::clone(&serving.loaded));
            self.compare();
        }
        self.step(Event::ActionDone { worker, call: CallKey(call), ok });
    }

    fn rejected(&mut self, worker: WorkerKey, candidate: CandidateKey, problems: Vec<Problem>) {
        let Some(noted) = self.candidates.get(&candidate).filter(|noted| noted.worker == worker) else {
            return;
        };
        if noted.source == Source::Disk {
            if let Some(entry) = self.active().and_then(|key| self.operations.get_mut(key)) {
                entry.operation.errors = problems;
            }
        } else {
            for problem in problems {
                tracing::error!(
                    generation = noted.generation.0,
                    "a worker refuses what served before: {problem}"
                );
            }
        }
        self.step(Event::Rejected { worker, candidate, unreachable: false });
    }

    fn lost(&mut self, key: WorkerKey, why: &str) {
        if let Some(worker) = self.workers.get(&key) {
            if !worker.is_ending {
                let pid = worker.process.pid();
                tracing::error!(worker = worker.number, pid, "the worker cannot be talked to: {why}");
                self.last_exit = Some(format!("the worker (pid {pid}) cannot be talked to: {why}"));
            }
            self.step(Event::ChannelLost { worker: key });
        }
    }

    /// A worker's process has ended, and all it had said was read.
    fn ended(&mut self, key: WorkerKey) {
        // Reaps it, unless that has been done: for its exit status, and so that no zombie stays.
        let exit = match self.workers.get(&key).map(|worker| worker.process.try_wait()) {
            None => return,
            Some(Ok(Some(exit))) => exit,
            // An adopted worker is not this process's child.
            Some(_) => Exit::Unknown,
        };
        let Some(worker) = self.workers.remove(&key) else { return };
        let what = format!("worker {} (pid {}) {exit}", worker.number, worker.process.pid());
        if worker.is_ending {
            tracing::info!("{what}");
        } else {
            tracing::error!("{what} unexpectedly");
            self.last_exit = Some(format!("the {what}"));
        }
        // It unlinks the path itself when it ends in order; the next worker has another one.
        let _ = std::fs::remove_file(&worker.succession);
        self.tell(EventKind::Worker, what, None);
        self.actions.clear();
        self.step(Event::WorkerExited { worker: key });
        self.reap();
    }

    /// Reaps orphans that fell to this process. Workers are reaped one by one, when they have been listened to.
    pub(super) fn reap(&self) {
        let workers: Vec<u32> = self.workers.values().map(|worker| worker.process.pid()).collect();
        match process::reap_orphans(&workers) {
            Ok(reaped) => {
                for (pid, exit) in reaped {
                    tracing::debug!("an orphan (pid {pid}) {exit}");
                }
            }
            Err(error) => tracing::error!("cannot reap children: {error}"),
        }
    }

    /// Asks the worker that serves whether it is there.
    pub(super) fn ping(&mut self) {
        self.pings.next = tokio::time::Instant::now() + self.pings.interval;
        let Some(worker) = self.serving.as_ref().and_then(|serving| self.workers.get(&serving.worker)) else {
            return;
        };
        self.pings.unanswered = self.pings.unanswered.saturating_add(1);
        if self.pings.unanswered == PINGS_UNANSWERED + 1 {
            let since: Duration = self.pings.interval * PINGS_UNANSWERED;
            tracing::warn!(worker = worker.number, "the worker has not answered for {since:?}");
        }
        self.calls += 1;
        worker.send(ToWorker::Ping { call: self.calls }, Vec::new());
    }

    /// Takes over a worker of an earlier supervisor, as if this one had started it and made it serve. Gives the
    /// event to begin with. `known` is what the journal knows of the generation that it serves.
    pub(crate) fn adopt(&mut self, found: Found, known: Option<Generation>) -> std::io::Result<Event> {
        let (key, generation) = (WorkerKey(found.serving.worker), GenerationNumber(found.serving.generation));
        self.workers_started += 1;
        let report = Reporter::new(key, self.from_workers.clone());
        let Adopted { serving, bundle, bundle_file, listeners, worker } =
            found.adopt(self.workers_started, report)?;
        let pid = worker.process.pid();
        tracing::info!(pid, "adopted the worker that an earlier supervisor left behind");
        if let (Some(named), Some(top)) = (&self.parts.options.config, bundle.top())
            && named != top
        {
            tracing::warn!(
                "the adopted worker serves {}, and reloads read that file, not {}; to serve that one, stop and start anew",
                top.display(),
                named.display()
            );
        }
        self.workers.insert(key, worker);
        self.parts.listeners.adopt(serving.listeners.into_iter().zip(listeners).collect(), Vec::new());
        let loaded = Loaded::new(
            Unpacked { bundle, file: bundle_file },
            known.as_ref().map(|known| known.changes.clone()).unwrap_or_default(),
        );
        self.loaded.insert(generation, Arc::clone(&loaded));
        self.apply_settings(&serving.settings);
        self.metrics.serves(generation.0);
        self.serving = Some(Serving {
            worker: key,
            generation,
            loaded,
            settings: serving.settings,
            summary: serving.summary,
            committed_at: known.as_ref().map_or_else(now, |known| known.committed_at.clone()),
            operation_id: known.and_then(|known| known.operation_id),
        });
        let operation = self.own_start();
        Ok(Event::Adopted { operation, worker: key, generation, accepting: serving.accepting, pending: None })
    }

    /// The supervisor's own first operation.
    pub(crate) fn own_start(&mut self) -> OperationKey {
        self.operations.own(Operation::running(operation_id(), Kind::Start, Actor::supervisor(), now()))
    }
}
