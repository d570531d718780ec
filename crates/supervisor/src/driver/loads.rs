//! A generation on its way into a worker: where its bytes come from, what it needs, what came of it.
//!
//! ```text
//!   Prepare ─┬─ from the disk ──────────────────────────────────────┐
//!            ├─ at hand ─────────────────────────────────────────┐  │
//!            ├─ in the journal ─▶ read there ─┐                  │  │
//!            └─ in an archive ──▶ packed ─────┴─▶ Fetched ───────┴──┴─▶ worker ─┬─ Need ─▶ bind ─▶ Bound ─▶ worker
//!                                                                               ├─ Rejected
//!                                                                               └─ Prepared ─▶ Unpacked (disk only)
//! ```
//!
//! Bytes are read, packed and hashed in other threads. Of a bundle that comes from the disk, what serves already
//! is shared, and neither copied nor hashed again.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use handover_api::{Kind, Problem, StepName};
use handover_handoff::Bundle;
use handover_lifecycle::{CandidateKey, Event, GenerationNumber, Message, Source, WorkerKey};

use super::{Candidate, Driver, Input, Loaded, Prepared};
use crate::drift::Drift;
use crate::handle::Ask;
use crate::journal::{GenerationError, Journal};
use crate::listeners::Binding;
use crate::protocol::{self, BindResult, Scope, ToWorker};

impl Loaded {
    /// A generation whose bundle is in this memory file. `like` is one that has mostly the same files. Reads and
    /// hashes: call it where that may take its time.
    pub(super) fn from_file(file: OwnedFd, like: Option<&Drift>) -> Result<Self, String> {
        let bundle = match like {
            Some(like) => Bundle::from_memfd_like(&file, like.bundle()),
            None => Bundle::from_memfd(&file),
        };
        let bundle = bundle.map_err(|error| error.to_string())?;
        Ok(Self::new(bundle, file, like))
    }

    /// A generation with these files, which are packed into a memory file. The same holds.
    pub(super) fn pack(bundle: Bundle, like: Option<&Drift>) -> Result<Self, String> {
        let file = bundle.to_memfd().map_err(|error| error.to_string())?;
        Ok(Self::new(bundle, file, like))
    }

    pub(super) fn new(bundle: Bundle, file: OwnedFd, like: Option<&Drift>) -> Self {
        Loaded {
            file: Arc::new(file),
            drift: Arc::new(Drift::new(bundle, like)),
            changes: Vec::new(),
            version: None,
            operation_id: None,
        }
    }

    /// A generation from the journal.
    pub(super) fn from_journal(
        journal: &Journal,
        generation: u64,
        like: Option<&Drift>,
    ) -> Result<Self, GenerationError> {
        let damaged = |reason| GenerationError::Damaged { generation, reason };
        let mut loaded = Self::pack(journal.bundle(generation)?, like).map_err(damaged)?;
        if let Some(known) = journal.generation(generation) {
            loaded.changes.clone_from(&known.changes);
            loaded.version.clone_from(&known.source);
            loaded.operation_id.clone_from(&known.operation_id);
        }
        Ok(loaded)
    }
}

impl Driver {
    /// Begins a candidate: tells the worker at once, or when what it is to be made from is at hand.
    pub(super) fn prepare(&mut self, worker: WorkerKey, message: Message) {
        let Message::Prepare { candidate, generation, source, dry_run, certs_only } = message else { return };
        let from = if source == Source::Disk { protocol::Source::Disk } else { protocol::Source::Bundle };
        let order = ToWorker::Prepare {
            candidate: candidate.0,
            generation: generation.0,
            source: from,
            dry_run,
            scope: if certs_only { Scope::Certificates } else { Scope::All },
            continues: self.continues(source),
            given_carried: false,
            made: self.parts.options.made.clone().filter(|_| source == Source::Disk),
        };
        let noted = Candidate {
            worker,
            generation,
            source,
            dry_run,
            order: Some(order),
            given: None,
            needs: Vec::new(),
            prepared: None,
        };
        self.candidates.insert(candidate, noted);
        match source {
            Source::Disk => self.order(worker, candidate, Vec::new()),
            Source::Generation(number) => match self.loaded.get(&number).cloned() {
                Some(loaded) => self.given(worker, candidate, loaded),
                None => self.fetch(worker, candidate, number),
            },
            Source::Given => self.take_given(worker, candidate),
        }
    }

    /// Whether it is what serves, and what serves is what was wanted last.
    fn continues(&self, source: Source) -> bool {
        let serving = self.serving.as_ref().filter(|serving| !serving.is_rollback);
        serving.is_some_and(|serving| source == Source::Generation(serving.generation))
    }

    fn order(&mut self, worker: WorkerKey, candidate: CandidateKey, descriptors: Vec<Arc<OwnedFd>>) {
        let Some(order) = self.candidates.get_mut(&candidate).and_then(|noted| noted.order.take()) else {
            return;
        };
        if !self.workers.get(&worker).is_some_and(|worker| worker.send(order, descriptors)) {
            self.pending.push_back(Event::ChannelLost { worker });
        }
    }

    /// What it is made from is at hand.
    fn given(&mut self, worker: WorkerKey, candidate: CandidateKey, loaded: Arc<Loaded>) {
        let carried = match self.candidates.get(&candidate) {
            Some(Candidate { source: Source::Given, .. }) => self.restored_carried(),
            _ => None,
        };
        let Some(noted) = self.candidates.get_mut(&candidate) else { return };
        if let (Some(_), Some(ToWorker::Prepare { given_carried, .. })) = (&carried, &mut noted.order) {
            *given_carried = true;
        }
        let descriptors = [Some(Arc::clone(&loaded.file)), carried].into_iter().flatten().collect();
        noted.given = Some(loaded);
        self.order(worker, candidate, descriptors);
    }

    /// The carried state of the archive that is being restored.
    pub(super) fn restored_carried(&self) -> Option<Arc<OwnedFd>> {
        let entry = self.operations.get(self.active()?)?;
        let Some(Ask::Restore { restored, .. }) = &entry.ask else { return None };
        let bytes = &restored.carried.as_ref()?.0;
        match handover_handoff::memfd::sealed("handover-carried", bytes) {
            Ok(file) => Some(Arc::new(file)),
            Err(error) => {
                tracing::warn!("the archive's carried state cannot be passed on: {error}");
                None
            }
        }
    }

    fn fetch(&self, worker: WorkerKey, candidate: CandidateKey, number: GenerationNumber) {
        let like = self.serving.as_ref().map(|serving| Arc::clone(&serving.loaded.drift));
        let inputs = self.inputs.clone();
        self.parts.scribe.later(move |journal| {
            let fetched = Loaded::from_journal(journal, number.0, like.as_deref()).map(Arc::new);
            let fetched = fetched.map_err(|error| Problem::new(error.to_string()));
            let _ = inputs.blocking_send(Input::Fetched { worker, candidate, fetched });
        });
    }

    /// What is restored is in the request.
    fn take_given(&mut self, worker: WorkerKey, candidate: CandidateKey) {
        let entry = self.active().and_then(|key| self.operations.get(key));
        let Some(Ask::Restore { restored, .. }) = entry.and_then(|entry| entry.ask.clone()) else {
            return self.pending.push_back(Event::Rejected { worker, candidate, unreachable: false });
        };
        let like = self.serving.as_ref().map(|serving| Arc::clone(&serving.loaded.drift));
        let inputs = self.inputs.clone();
        tokio::task::spawn_blocking(move || {
            let fetched = Loaded::pack(restored.bundle.clone(), like.as_deref()).map(Arc::new);
            let fetched = fetched.map_err(|error| Problem::new(format!("it cannot be passed on: {error}")));
            let _ = inputs.blocking_send(Input::Fetched { worker, candidate, fetched });
        });
    }

    pub(super) fn fetched(
        &mut self,
        worker: WorkerKey,
        candidate: CandidateKey,
        fetched: Result<Arc<Loaded>, Problem>,
    ) {
        // Called off meanwhile.
        let Some(noted) = self.candidates.get(&candidate) else { return };
        match fetched {
            Ok(loaded) => {
                if let Source::Generation(number) = noted.source {
                    self.loaded.insert(number, Arc::clone(&loaded));
                }
                self.given(worker, candidate, loaded);
                self.go_on();
            }
            Err(problem) => self.rejected(worker, candidate, vec![problem], false),
        }
    }

    pub(super) fn bind(&mut self, worker: WorkerKey, candidate: CandidateKey, dry_run: bool) {
        let Some(noted) = self.candidates.get(&candidate) else { return };
        let binder = self.parts.listeners.binder(noted.needs.clone(), dry_run);
        let inputs = self.inputs.clone();
        tokio::task::spawn_blocking(move || {
            let bindings = binder();
            // If the driver is gone, so is everything that was bound.
            let _ = inputs.blocking_send(Input::Bound { worker, candidate, bindings });
        });
    }

    pub(super) fn bound(&mut self, worker: WorkerKey, candidate: CandidateKey, bindings: &[Binding]) {
        // Called off meanwhile: what was bound for it is closed here, and what was woken for it rests again.
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

    pub(super) fn prepared(
        &mut self,
        worker: WorkerKey,
        candidate: CandidateKey,
        prepared: Prepared,
        bundle: Option<OwnedFd>,
    ) {
        let Some(noted) = self.candidates.get_mut(&candidate).filter(|noted| noted.worker == worker) else {
            return;
        };
        let (source, given) = (noted.source, noted.given.clone());
        noted.prepared = Some(prepared);
        match (source, given, bundle) {
            // It was given these bytes by us.
            (Source::Given, Some(given), _) => self.unpacked(worker, candidate, Ok(given)),
            (Source::Generation(_), Some(given), _) => {
                self.note_changes(candidate, &given);
                let programs = self.programs_differ(candidate);
                self.step(Event::Prepared { worker, candidate, unchanged: false, programs });
            }
            (Source::Disk, _, Some(file)) => {
                let like = self.serving.as_ref().map(|serving| Arc::clone(&serving.loaded.drift));
                let inputs = self.inputs.clone();
                tokio::task::spawn_blocking(move || {
                    let loaded = Loaded::from_file(file, like.as_deref()).map(Arc::new);
                    let _ = inputs.blocking_send(Input::Unpacked { worker, candidate, loaded });
                });
            }
            _ => self.lost(worker, "it does not pass the bundle of what it prepared"),
        }
    }

    /// A candidate that is to be a generation of its own is ready, and its bytes are known.
    pub(super) fn unpacked(
        &mut self,
        worker: WorkerKey,
        candidate: CandidateKey,
        loaded: Result<Arc<Loaded>, String>,
    ) {
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(why) => return self.lost(worker, &why),
        };
        let compared_with = self.machine.view().compared_with;
        let same = compared_with
            .and_then(|number| self.loaded.get(&number))
            .is_some_and(|compared| compared.drift.digest() == loaded.drift.digest());
        let (serves, operation_id) = (self.serving.is_some(), self.active_id());
        let Some(prepared) = self.candidates.get_mut(&candidate).and_then(|noted| noted.prepared.as_mut())
        else {
            return;
        };
        // Without anything that serves, everything is a change.
        let unchanged = same && (prepared.changes.is_empty() || !serves);
        prepared.loaded = Some(Arc::new(Loaded {
            file: Arc::clone(&loaded.file),
            drift: Arc::clone(&loaded.drift),
            changes: prepared.changes.clone(),
            version: prepared.version.clone(),
            operation_id,
        }));
        self.note_changes(candidate, &loaded);
        let programs = self.programs_differ(candidate);
        self.step(Event::Prepared { worker, candidate, unchanged, programs });
    }

    /// Tells the active operation what its candidate would change.
    fn note_changes(&mut self, candidate: CandidateKey, loaded: &Arc<Loaded>) {
        let view = self.machine.view();
        let Some(running) = view.operation else { return };
        let Some(Candidate { source, prepared: Some(prepared), .. }) = self.candidates.get(&candidate) else {
            return;
        };
        let is_own = match source {
            Source::Disk | Source::Given => true,
            // A replaced worker gets what served; and what a change goes back to is not what it changes.
            Source::Generation(number) => {
                Some(*number) != view.held_to
                    && (running.kind == Kind::Cancel || running.step != StepName::GoBack)
            }
        };
        let (changes, warnings) = (prepared.changes.clone(), prepared.warnings.clone());
        let version = prepared.version.clone();
        let Some(entry) = self.operations.get_mut(running.operation).filter(|_| is_own) else { return };
        entry.operation.changes = changes;
        // What a request brought along stands before.
        let new = warnings.into_iter().filter(|warning| !entry.operation.warnings.contains(warning));
        let new: Vec<Problem> = new.collect();
        entry.operation.warnings.extend(new);
        if version.is_some() {
            entry.operation.source = version;
        }
        entry.show(loaded);
    }

    pub(super) fn rejected(
        &mut self,
        worker: WorkerKey,
        candidate: CandidateKey,
        problems: Vec<Problem>,
        unreachable: bool,
    ) {
        let Some(noted) = self.candidates.get(&candidate).filter(|noted| noted.worker == worker) else {
            return;
        };
        let view = self.machine.view();
        let starts = view.operation.is_some_and(|running| running.kind == Kind::Start);
        self.before.unreachable |= unreachable && starts;
        let serves = self.serving.as_ref().is_none_or(|serving| serving.worker == worker);
        if let Source::Generation(number) = noted.source
            && serves
            && (Some(number) == view.held_to || view.operation.is_none())
        {
            for problem in &problems {
                tracing::error!(generation = number.0, "a worker refuses what served before: {problem}");
            }
        } else if let Some(entry) =
            view.operation.and_then(|running| self.operations.get_mut(running.operation))
        {
            entry.operation.errors.extend(problems);
        }
        self.step(Event::Rejected { worker, candidate, unreachable });
    }

    /// An action has read files anew: the same generation serves other bytes from now on.
    pub(super) fn unpack_renewed(&self, worker: WorkerKey, call: u64, ok: bool, file: OwnedFd) {
        let like = self.serving.as_ref().map(|serving| Arc::clone(&serving.loaded.drift));
        let inputs = self.inputs.clone();
        tokio::task::spawn_blocking(move || {
            let loaded = Loaded::from_file(file, like.as_deref()).map(Arc::new);
            let _ = inputs.blocking_send(Input::Renewed { worker, call, ok, loaded });
        });
    }

    /// A worker that replaces this one gets the new bytes; then the action has ended.
    pub(super) fn renewed(
        &mut self,
        worker: WorkerKey,
        call: u64,
        ok: bool,
        loaded: Result<Arc<Loaded>, String>,
    ) {
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(why) => return self.lost(worker, &why),
        };
        if let Some(serving) = self.serving.as_mut().filter(|serving| serving.worker == worker) {
            serving.loaded = Arc::new(Loaded {
                file: Arc::clone(&loaded.file),
                drift: Arc::clone(&loaded.drift),
                changes: serving.loaded.changes.clone(),
                version: serving.loaded.version.clone(),
                operation_id: serving.loaded.operation_id.clone(),
            });
            self.loaded.insert(serving.generation, Arc::clone(&serving.loaded));
            self.compare();
        }
        self.step(Event::ActionDone { worker, call: handover_lifecycle::CallKey(call), ok });
    }
}
