//! What is asked about: answered from what is in memory, or by whoever knows, without keeping the driver.

use std::sync::Arc;
use std::time::Duration;

use handover_api::{Generation, JournalStatus, Operation, Status, WorkerRole, WorkerStatus};
use handover_handoff::Bundle;
use handover_lifecycle::{Role, View, WorkerKey};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Driver;
use super::adopting::differs;
use crate::handle::{BACKUP_HISTORY, BackupParts, ServingConfig};
use crate::metrics;
use crate::protocol::{Report, ToWorker};
use crate::worker::Worker;

/// How long a worker may take to say something about itself.
const REPORT_LIMIT: Duration = Duration::from_secs(2);
/// How long a disk is waited for, for an answer that is good without it too.
const DISK_LIMIT: Duration = Duration::from_secs(1);
/// How long a worker may take to count its connections, for an answer that is good without it too.
const COUNT_LIMIT: Duration = Duration::from_millis(250);

impl Driver {
    pub(super) fn status(&mut self, answer: oneshot::Sender<Box<Status>>) {
        let mut status = Box::new(self.known_status());
        let drift = self.serving.as_ref().map(|serving| Arc::clone(&serving.loaded.drift));
        let on_disk = self.serving.as_ref().is_some_and(|serving| is_on_disk(serving.loaded.drift.bundle()));
        let made = self.made_otherwise();
        let scribe = self.parts.scribe.clone();
        let held = self.report_held();
        // While it drains it says so by itself.
        let counted = match status.connections {
            None => self.report(Report::ConnectionCount),
            Some(_) => Reporting(None),
        };
        tokio::spawn(async move {
            let journal = scribe.ask(|journal| journal.status());
            let compared = tokio::task::spawn_blocking(move || drift.map(|drift| drift.differing()));
            let (journal, compared, counted, held) = tokio::join!(
                timeout(DISK_LIMIT, journal),
                timeout(DISK_LIMIT, compared),
                timeout(COUNT_LIMIT, counted.wait()),
                timeout(COUNT_LIMIT, held)
            );
            held.unwrap_or_default().fill(status.paused.iter_mut());
            let counted = counted.ok().flatten().and_then(|count| count.parse().ok());
            status.connections = status.connections.or(counted);
            status.journal = journal.ok().flatten().unwrap_or_else(|| JournalStatus {
                failure: Some("it does not answer: the disk is slow or hangs".to_owned()),
                ..JournalStatus::default()
            });
            status.drift = compared.ok().and_then(Result::ok).flatten().unwrap_or_default();
            status.drift.extend(made);
            // Once the disk has the same, nothing is left to say.
            status.rollback_in_force =
                status.rollback_in_force.filter(|_| !on_disk || !status.drift.is_empty());
            let _ = answer.send(status);
        });
    }

    /// The name of the configuration that the command line makes, if what serves is another one.
    fn made_otherwise(&self) -> Option<String> {
        let (options, serving) = (&self.parts.options, self.serving.as_ref()?);
        let bundle = serving.loaded.drift.bundle();
        let named = options.config.as_deref().filter(|named| Some(*named) == bundle.top())?;
        differs(options.made.as_deref(), bundle).then(|| named.display().to_string())
    }

    /// What is known without asking anybody.
    fn known_status(&mut self) -> Status {
        let view = self.machine.view();
        let options = &self.parts.options;
        let serving = self.serving.as_ref().map(|serving| serving.worker);
        let serving = serving.filter(|serving| self.workers.contains_key(serving));
        let worker = serving.or_else(|| self.workers.keys().next_back().copied());
        let workers = self.worker_status(&view, serving);
        let bundle = self.serving.as_ref().map(|serving| serving.loaded.drift.bundle());
        let top = bundle.and_then(|bundle| bundle.files().find(|(path, _)| Some(*path) == bundle.top()));
        let config = top.filter(|(_, file)| file.on_disk).map(|(path, _)| path.display().to_string());
        let running = self.active().and_then(|key| self.operations.get(key)).filter(|entry| !entry.is_look);
        let running = running.map(|entry| entry.as_it_is());
        Status {
            name: options.name.clone(),
            version: options.version.clone(),
            phase: view.phase,
            pid: std::process::id(),
            started_at: self.started_at.clone(),
            config: config.or_else(|| options.config.as_ref().map(|path| path.display().to_string())),
            control: self.parts.lock.control().display().to_string(),
            generation: self.generation(),
            pending: self.shown_pending(),
            rollback_in_force: self.rollback_in_force(),
            source_version: self.serving.as_ref().and_then(|serving| serving.loaded.version.clone()),
            expiring: Vec::new(),
            drift: Vec::new(),
            worker: workers.iter().find(|(key, _)| Some(*key) == worker).map(|(_, worker)| worker.clone()),
            workers: workers.into_iter().map(|(_, worker)| worker).collect(),
            binary: Some(self.binaries.own.described()),
            previous_binary: self.binaries.kept.clone(),
            respawns: view.restarts,
            connections: self.connections,
            listeners: self.parts.listeners.status(),
            programs: self.programs.status(),
            paused: self.programs.paused(),
            endpoints_off: self.programs.endpoints_off(),
            actions: self.known_actions().unwrap_or_default(),
            running,
            last: self.last.clone(),
            journal: JournalStatus::default(),
        }
    }

    /// All workers, the one that serves first.
    fn worker_status(&self, view: &View, serving: Option<WorkerKey>) -> Vec<(WorkerKey, WorkerStatus)> {
        let role = |key: WorkerKey| {
            let known = view.workers.iter().find(|worker| worker.worker == key).map(|worker| worker.role);
            match known {
                Some(Role::Candidate) => WorkerRole::Candidate,
                Some(Role::Draining) => WorkerRole::Draining,
                Some(Role::Warm) => WorkerRole::Warm,
                Some(Role::Serving) | None => WorkerRole::Serving,
            }
        };
        let status = |(key, worker): (&WorkerKey, &Worker)| {
            let status = WorkerStatus {
                number: worker.number,
                pid: worker.process.pid(),
                started_at: worker.started_at.clone(),
                // Until it has said it itself, what is known of its program.
                version: match worker.version.is_empty() {
                    true => worker.program.version().to_owned(),
                    false => worker.version.clone(),
                },
                sha256: worker.program.sha256().map(str::to_owned),
                role: role(*key),
            };
            (*key, status)
        };
        let mut workers: Vec<_> = self.workers.iter().map(status).collect();
        workers.sort_by_key(|(key, _)| Some(*key) != serving);
        workers
    }

    pub(super) fn operation(&mut self, id: String, answer: oneshot::Sender<Option<Box<Operation>>>) {
        let known = self.operations.by_id(&id).map(|entry| entry.as_it_is());
        if let Some(operation) = known.or_else(|| self.operations.ended(&id).cloned()) {
            let _ = answer.send(Some(Box::new(operation)));
            return;
        }
        self.parts.scribe.later(move |journal| {
            let _ = answer.send(journal.entry(&id).cloned().map(Box::new));
        });
    }

    pub(super) fn history(&mut self, count: usize, answer: oneshot::Sender<Vec<Operation>>) {
        let running =
            self.operations.unanswered().filter(|entry| entry.operation.outcome.is_none() && !entry.is_look);
        let mut operations: Vec<Operation> = running.map(|entry| entry.as_it_is()).collect();
        operations.reverse();
        self.parts.scribe.later(move |journal| {
            operations.extend(journal.history(count));
            operations.truncate(count);
            let _ = answer.send(operations);
        });
    }

    pub(super) fn generations(&self, answer: oneshot::Sender<Vec<Generation>>) {
        self.parts.scribe.later(move |journal| {
            let (mut generations, kept) = (journal.generations(), journal.kept());
            for generation in &mut generations {
                generation.forgotten = kept.binary_search(&generation.number).is_err();
            }
            let _ = answer.send(generations);
        });
    }

    pub(super) fn config(&self) -> Option<ServingConfig> {
        let serving = self.serving.as_ref()?;
        let bundle = serving.loaded.drift.bundle();
        Some(ServingConfig {
            generation: serving.generation.0,
            path: bundle.top()?.display().to_string(),
            bytes: Arc::clone(bundle.top_bytes()?),
        })
    }

    pub(super) fn metrics(&mut self, answer: oneshot::Sender<String>) {
        let drift = self.serving.as_ref().map(|serving| Arc::clone(&serving.loaded.drift));
        let ours = Arc::clone(&self.metrics);
        let worker = self.report(Report::Metrics);
        let programs = self.programs.measure();
        tokio::spawn(async move {
            let compared =
                tokio::task::spawn_blocking(move || drift.map(|drift| drift.differing().is_empty()));
            let (compared, text, programs) =
                tokio::join!(timeout(DISK_LIMIT, compared), worker.wait(), timeout(DISK_LIMIT, programs));
            if let Ok(Ok(Some(equal))) = compared {
                ours.equals_desired(equal);
            }
            let programs = metrics::text_of_programs(&programs.unwrap_or_default());
            let _ = answer.send(metrics::whole(&(ours.text() + &programs), text.as_deref()));
        });
    }

    pub(super) fn connections(&mut self, answer: oneshot::Sender<Option<String>>) {
        let worker = self.report(Report::Connections);
        tokio::spawn(async move { answer.send(worker.wait().await) });
    }

    pub(super) fn certificates(&mut self, answer: oneshot::Sender<Option<String>>) {
        let worker = self.report(Report::Certificates);
        tokio::spawn(async move { answer.send(worker.wait().await) });
    }

    /// What serves, with the journal's tail.
    pub(super) fn backup(&self, answer: oneshot::Sender<Option<Box<BackupParts>>>) {
        let (Some(generation), Some(serving)) = (self.generation(), &self.serving) else {
            let _ = answer.send(None);
            return;
        };
        let mut parts = Box::new(BackupParts {
            name: self.parts.options.name.clone(),
            version: self.parts.options.version.clone(),
            generation,
            bundle: serving.loaded.drift.bundle().clone(),
            carried: self.carried.as_ref().map(|carried| carried.bytes.clone()),
            history: Vec::new(),
        });
        self.parts.scribe.later(move |journal| {
            parts.history = journal.history(BACKUP_HISTORY);
            let _ = answer.send(Some(parts));
        });
    }

    /// Asks the worker that serves.
    pub(super) fn report(&mut self, what: Report) -> Reporting {
        let Some(worker) = self.serving.as_ref().and_then(|serving| self.workers.get(&serving.worker)) else {
            return Reporting(None);
        };
        self.calls += 1;
        let call = self.calls;
        if !worker.send(ToWorker::Report { call, what }, Vec::new()) {
            return Reporting(None);
        }
        let (asked, answered) = oneshot::channel();
        self.reports.retain(|_, asked| !asked.is_closed());
        self.reports.insert(call, asked);
        Reporting(Some(answered))
    }
}

/// Whether the top-level file is one on the disk, and not built in or in a store.
fn is_on_disk(bundle: &Bundle) -> bool {
    bundle.files().next().is_some_and(|(path, file)| bundle.top() == Some(path) && file.on_disk)
}

/// A worker's answer about itself that is on its way.
pub(super) struct Reporting(Option<oneshot::Receiver<String>>);

impl Reporting {
    pub(super) async fn wait(self) -> Option<String> {
        timeout(REPORT_LIMIT, self.0?).await.ok()?.ok()
    }
}
