//! Bringing a generation into a worker: prepare, bind, journal, commit; and what follows when it fails.

use super::Machine;
use super::table::{Awaited, Load, LoadStep, Operation, Settling, Step, Worker};
use crate::{
    CandidateKey, Cause, Effect, GenerationNumber, Kind, Message, Notice, OperationKey, Outcome, Phase,
    Source, Stage, StepName, WorkerKey,
};

impl Load {
    pub(super) fn is_committing(&self) -> bool {
        self.step == LoadStep::Committing
    }
}

impl Machine {
    /// Gives the worker what it should have, if it has nothing to do: what the active operation wants,
    /// or the generation that the server is held to.
    pub(super) fn employ_worker(&mut self) {
        let Some(worker) = self.main() else { return };
        if !worker.is_usable() || worker.load.is_some() {
            return;
        }
        let (key, fresh) = (worker.key, worker.stage == Stage::Loading);
        let held_to = self.held_to.map(Source::Generation);
        let wanted = match &mut self.active {
            Some(Operation { key: operation, kind, step: step @ Step::AwaitWorker(_), by })
                if !fresh || *kind != Kind::Reload || self.restart.failures > 1 =>
            {
                let Step::AwaitWorker(source) = *step else { return };
                *step = Step::Loading;
                *by = None;
                Some((Some(*operation), source, *kind == Kind::DryRun))
            }
            Some(Operation { key: operation, step: Step::Settling(settling), .. }) => match settling.back {
                false => Some((Some(*operation), Source::Generation(settling.new), false)),
                true => held_to.map(|source| (Some(*operation), source, false)),
            },
            _ if fresh && self.phase == Phase::Serving => held_to.map(|source| (None, source, false)),
            _ => None,
        };
        match wanted {
            Some((owner, source, dry_run)) => self.load(key, owner, source, dry_run),
            // Nobody needs it (any more): it would wait for ever.
            None if fresh => self.kill(key, Cause::Done),
            None => {}
        }
    }

    fn load(&mut self, worker: WorkerKey, owner: Option<OperationKey>, source: Source, dry_run: bool) {
        let candidate = CandidateKey(self.key());
        let generation = match source {
            Source::Disk | Source::Given => self.last_generation.next(),
            Source::Generation(generation) => generation,
        };
        let by = self.after(self.limits.prepare);
        let step = LoadStep::Preparing;
        let Some(loading) = self.workers.iter_mut().find(|w| w.key == worker) else { return };
        loading.load = Some(Load { candidate, generation, source, dry_run, owner, step, prepare_by: by, by });
        if let Some(operation) = owner {
            self.progress(operation, StepName::Prepare);
        }
        self.emit(Effect::Send {
            worker,
            message: Message::Prepare { candidate, generation, source, dry_run, certs_only: false },
        });
    }

    /// The load that a worker's message is about, if it is still wanted and in one of these steps.
    fn current(
        &mut self,
        worker: WorkerKey,
        candidate: CandidateKey,
        steps: &[LoadStep],
    ) -> Option<&mut Load> {
        let worker = self.workers.iter_mut().find(|w| w.key == worker && w.stage != Stage::Killed)?;
        worker.load.as_mut().filter(|load| load.candidate == candidate && steps.contains(&load.step))
    }

    pub(super) fn need(&mut self, worker: WorkerKey, candidate: CandidateKey) {
        let bind_by = self.after(self.limits.bind);
        let Some(load) = self.current(worker, candidate, &[LoadStep::Preparing]) else { return };
        load.step = LoadStep::Binding;
        load.by = bind_by.min(load.prepare_by);
        let (owner, dry_run) = (load.owner, load.dry_run);
        if let Some(operation) = owner {
            self.progress(operation, StepName::Bind);
        }
        self.emit(Effect::Bind { worker, candidate, dry_run });
    }

    pub(super) fn bound(&mut self, worker: WorkerKey, candidate: CandidateKey) {
        let Some(load) = self.current(worker, candidate, &[LoadStep::Binding]) else { return };
        load.step = LoadStep::Preparing;
        load.by = load.prepare_by;
        if let Some(operation) = load.owner {
            self.progress(operation, StepName::Prepare);
        }
    }

    pub(super) fn prepared(&mut self, worker: WorkerKey, candidate: CandidateKey, unchanged: bool) {
        let journal_by = self.after(self.limits.journal);
        let unchanged = unchanged && self.held_to.is_some();
        // The worker knows best whether it has what it needs.
        let steps = [LoadStep::Preparing, LoadStep::Binding];
        let Some(load) = self.current(worker, candidate, &steps) else { return };
        let Load { generation, source, dry_run, owner, .. } = *load;
        match (owner, source) {
            _ if dry_run => self.end_load(worker, Outcome::Unchanged, Cause::DryRun),
            (Some(_), Source::Disk) if unchanged => self.prepared_unchanged(worker),
            (Some(operation), Source::Disk | Source::Given) => {
                load.step = LoadStep::Journaling;
                load.by = journal_by;
                self.last_generation = generation;
                self.progress(operation, StepName::Journal);
                self.emit(Effect::WriteIntent {
                    operation,
                    candidate,
                    generation,
                    back_to: None,
                    confirm: None,
                });
            }
            (_, Source::Generation(_)) | (None, _) => self.commit(worker),
        }
    }

    pub(super) fn rejected(&mut self, worker: WorkerKey, candidate: CandidateKey) {
        let steps = [LoadStep::Preparing, LoadStep::Binding];
        if self.current(worker, candidate, &steps).is_some() {
            self.load_failed(worker, Cause::Refused, false);
        }
    }

    pub(super) fn intent(&mut self, operation: OperationKey, generation: GenerationNumber, written: bool) {
        let worker = self.workers.iter().find(|worker| {
            worker.load.is_some_and(|load| {
                load.owner == Some(operation)
                    && load.generation == generation
                    && load.step == LoadStep::Journaling
            })
        });
        let Some(worker) = worker.map(|worker| worker.key) else { return };
        if written { self.commit(worker) } else { self.intent_failed(worker) }
    }

    /// A reload that cannot be recorded is not made. A start is: refusing it would leave nobody serving.
    pub(super) fn intent_failed(&mut self, worker: WorkerKey) {
        match self.active {
            Some(Operation { kind: Kind::Start, .. }) => self.commit(worker),
            _ => self.load_failed(worker, Cause::JournalFailed, true),
        }
    }

    fn commit(&mut self, worker: WorkerKey) {
        let by = self.after(self.limits.commit);
        let Some(load) = self.workers.iter_mut().find(|w| w.key == worker).and_then(|w| w.load.as_mut())
        else {
            return;
        };
        load.step = LoadStep::Committing;
        load.by = by;
        let (candidate, owner) = (load.candidate, load.owner);
        if let Some(operation) = owner {
            self.progress(operation, StepName::Commit);
        }
        self.emit(Effect::Send { worker, message: Message::Commit { candidate } });
    }

    pub(super) fn committed(&mut self, worker: WorkerKey, candidate: CandidateKey) {
        if self.current(worker, candidate, &[LoadStep::Committing]).is_none() {
            return;
        }
        let Some(serving) = self.workers.iter_mut().find(|w| w.key == worker) else { return };
        let Some(Load { generation, owner, source, .. }) = serving.load.take() else { return };
        serving.generation = Some(generation);
        if serving.stage == Stage::Loading {
            serving.stage = Stage::Serving;
            self.restart.serving_since = Some(self.now);
        }
        let made = Some(generation).filter(|_| self.held_to != Some(generation));
        self.held_to = Some(generation);
        self.emit(Effect::Serve { worker, candidate, generation });
        self.emit(Effect::LetGo);
        if self.resolve(worker, Awaited::Commit(candidate), Outcome::Applied, Cause::Done, made) {
            return;
        }
        let Some(operation) = self.active.filter(|operation| owner == Some(operation.key)) else {
            return self.serves_at_last();
        };
        match (operation.kind, operation.step) {
            (_, Step::Settling(Settling { back: true, cause, .. })) => {
                self.decide(Outcome::RolledBack, cause)
            }
            (_, Step::Settling(Settling { cause, .. })) => {
                self.decide_made(Outcome::AppliedWithLosses, cause, made);
            }
            (Kind::Start | Kind::Resume, _) => {
                self.phase = Phase::Serving;
                self.decide_made(Outcome::Applied, Cause::Done, made);
            }
            // The disk had nothing new for a fresh worker: see `prepared_unchanged`.
            _ if source != Source::Disk => self.decide(Outcome::Unchanged, Cause::AlreadySo),
            _ => self.decide_made(Outcome::Applied, Cause::Done, made),
        }
    }

    /// A start that found nothing to serve may have ended before: who waits for READY hears of it now.
    fn serves_at_last(&mut self) {
        if !self.told_ready && self.phase == Phase::Serving {
            self.emit(Effect::Notify(Notice::Ready));
        }
    }

    /// The disk has nothing new. A worker that serves goes on; a fresh one is given what the server is held to
    /// before anybody is told that it serves.
    fn prepared_unchanged(&mut self, worker: WorkerKey) {
        let fresh = self.main().is_some_and(|main| main.stage == Stage::Loading);
        match (&mut self.active, self.held_to) {
            (Some(operation), Some(held_to)) if fresh => {
                operation.step = Step::AwaitWorker(Source::Generation(held_to));
                self.throw_away(worker, true);
            }
            _ => self.end_load(worker, Outcome::Unchanged, Cause::AlreadySo),
        }
    }

    /// The worker prepared, and that is all: the candidate is thrown away.
    fn end_load(&mut self, worker: WorkerKey, outcome: Outcome, cause: Cause) {
        self.throw_away(worker, true);
        self.decide(outcome, cause);
    }

    /// Ends the active operation's load, unless it is past calling off.
    pub(super) fn call_off_load(&mut self) {
        let active = self.active.map(|operation| operation.key);
        let ours = |worker: &&Worker| {
            active.is_some() && worker.load.is_some_and(|load| load.owner == active && !load.is_committing())
        };
        if let Some(worker) = self.main().filter(ours).map(|worker| worker.key) {
            self.throw_away(worker, true);
        }
    }

    fn throw_away(&mut self, worker: WorkerKey, tell: bool) {
        let Some(load) = self.workers.iter_mut().find(|w| w.key == worker).and_then(|w| w.load.take()) else {
            return;
        };
        if tell {
            self.emit(Effect::Send { worker, message: Message::Abort { candidate: load.candidate } });
        }
        self.emit(Effect::Release { candidate: load.candidate });
    }

    /// A living worker did not get through prepare, bind or the journal.
    pub(super) fn load_failed(&mut self, worker: WorkerKey, cause: Cause, tell: bool) {
        let Some(load) = self.workers.iter().find(|w| w.key == worker).and_then(|w| w.load) else { return };
        self.throw_away(worker, tell);
        // What served before and is refused now is no mistake of the one who asks.
        let refused = cause == Cause::Refused && load.source == Source::Disk;
        let outcome = if refused { Outcome::Rejected } else { Outcome::NotReady };
        let owner = load.owner;
        let operation = self.active.filter(|operation| owner == Some(operation.key));
        match operation.map(|operation| (operation.kind, operation.step)) {
            Some((_, Step::Settling(settling))) => self.settle_further(settling),
            Some((Kind::Start, _)) => self.fail_start(outcome, cause),
            // What it serves, it goes on serving; if it has nothing yet, `employ_worker` sees to that.
            Some(_) => self.decide(outcome, cause),
            None => self.kill(worker, cause),
        }
    }

    /// The worker is lost, and with it its load.
    pub(super) fn load_lost(&mut self, load: Option<Load>, cause: Cause) {
        let Some(operation) = self.active else {
            self.release_lost(load);
            return;
        };
        let outcome = Outcome::NotReady;
        let ours = load.filter(|load| load.owner == Some(operation.key));
        match (operation.kind, operation.step, ours) {
            (Kind::Reload, Step::Loading, Some(load))
                if load.is_committing() && load.source == Source::Disk =>
            {
                let settling = Settling { first: load.candidate, new: load.generation, back: false, cause };
                self.active = Some(Operation { step: Step::Settling(settling), by: None, ..operation });
                self.progress(operation.key, StepName::Settle);
                return;
            }
            (_, Step::Settling(settling), _) => self.settle_further(settling),
            (Kind::Start, Step::Loading | Step::AwaitWorker(_), _) => self.fail_start(outcome, cause),
            (Kind::Resume, Step::AwaitWorker(_), _) | (_, Step::Loading, Some(_)) => {
                self.decide(outcome, cause)
            }
            _ => {}
        }
        self.release_lost(load);
    }

    fn release_lost(&mut self, load: Option<Load>) {
        if let Some(load) = load {
            self.emit(Effect::Release { candidate: load.candidate });
        }
    }

    /// One attempt to find out what can be served has failed.
    fn settle_further(&mut self, settling: Settling) {
        if settling.back {
            self.decide(Outcome::Unknown, settling.cause);
            return;
        }
        self.emit(Effect::Release { candidate: settling.first });
        if let Some(operation) = &mut self.active {
            operation.step = Step::Settling(Settling { back: true, ..settling });
        }
    }
}
