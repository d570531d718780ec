//! Bringing a generation into a worker: prepare, bind, journal, commit; and what follows when it fails.

use std::time::Duration;

use super::Machine;
use super::table::{Awaited, End, Load, LoadStep, Operation, Settling, Step, Worker};
use crate::{
    Binary, CandidateKey, Cause, Effect, Exam, GenerationNumber, Kind, Message, Notice, OperationKey,
    Outcome, Phase, Role, Source, Stage, StepName, WorkerKey,
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
            Some(operation @ Operation { step: Step::AwaitWorker(_), .. })
                if !fresh || !operation.is_change() || self.restart.failures > 1 =>
            {
                let Step::AwaitWorker(source) = operation.step else { return };
                if operation.kind == Kind::Rollback && Some(source) == held_to && !fresh {
                    return self.is_unchanged();
                }
                operation.step = Step::Loading;
                operation.by = None;
                Some((Some(operation.key), source))
            }
            Some(Operation { key: operation, step: Step::Settling(settling), .. }) => match settling.new {
                Some(new) => Some((Some(*operation), Source::Generation(new))),
                None => held_to.map(|source| (Some(*operation), source)),
            },
            Some(Operation { key: operation, step: Step::GoingBack(back), .. }) => {
                Some((Some(*operation), Source::Generation(back.to)))
            }
            _ if fresh && self.phase == Phase::Serving => held_to.map(|source| (None, source)),
            _ => None,
        };
        match wanted {
            Some((owner, source)) => self.load(key, owner, source),
            // Nobody needs it (any more): it would wait for ever.
            None if fresh => self.kill(key, Cause::Done),
            None => {}
        }
    }

    pub(super) fn load(&mut self, worker: WorkerKey, owner: Option<OperationKey>, source: Source) {
        let candidate = CandidateKey(self.key());
        let generation = match source {
            Source::Disk | Source::Given => self.last_generation.next(),
            Source::Generation(generation) => generation,
        };
        let operation = self.active.filter(|operation| owner == Some(operation.key));
        let dry_run = operation.is_some_and(|operation| operation.kind == Kind::DryRun);
        let certs_only = operation.is_some_and(|operation| operation.certs_only());
        let changes = !dry_run && operation.is_some_and(|operation| self.is_new(&operation, source));
        let by = self.after(self.limits.prepare);
        let step = LoadStep::Preparing;
        let Some(loading) = self.workers.iter_mut().find(|w| w.key == worker) else { return };
        loading.load =
            Some(Load { candidate, generation, source, dry_run, changes, owner, step, prepare_by: by, by });
        if let Some(operation) = owner {
            self.progress(operation, StepName::Prepare);
        }
        self.emit(Effect::Send {
            worker,
            message: Message::Prepare { candidate, generation, source, dry_run, certs_only },
        });
    }

    /// Whether this makes the server serve something else than it is held to.
    fn is_new(&self, operation: &Operation, source: Source) -> bool {
        match (operation.kind, operation.step, source) {
            (_, Step::Loading, Source::Disk | Source::Given) => true,
            (Kind::Start | Kind::Rollback, Step::Loading, Source::Generation(number)) => {
                self.held_to != Some(number)
            }
            _ => false,
        }
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

    /// `programs` is how long its programs may take to prove that they are ready, if there is something to prove.
    pub(super) fn prepared(
        &mut self,
        worker: WorkerKey,
        candidate: CandidateKey,
        unchanged: bool,
        programs: Option<Duration>,
    ) {
        // The worker knows best whether it has what it needs.
        let steps = [LoadStep::Preparing, LoadStep::Binding];
        let Some(load) = self.current(worker, candidate, &steps).copied() else { return };
        let unchanged = unchanged && load.source.may_be_unchanged() && self.compared_with().is_some();
        match self.active.filter(|operation| load.owner == Some(operation.key)) {
            Some(Operation { kind: Kind::DryRun, step: Step::Raising, .. }) => {
                self.candidate_rehearsed(worker)
            }
            Some(Operation { kind: Kind::DryRun, .. }) => {
                self.end_load(worker, Outcome::Unchanged, Cause::DryRun);
            }
            Some(Operation { kind: Kind::Start, .. }) if load.changes && unchanged => {
                self.prepared_unconfirmed(worker);
            }
            Some(_) if load.changes && unchanged => self.prepared_unchanged(worker),
            // It was let in because it might only have moved the deadline.
            Some(_) if load.changes && self.pending.is_some() => {
                self.end_load(worker, Outcome::Rejected, Cause::Pending);
            }
            Some(operation) if load.changes => {
                let serves = self.main().is_some_and(|main| main.stage == Stage::Serving);
                match programs.filter(|_| operation.is_change() && serves) {
                    Some(limit) => self.examine_programs(worker, limit),
                    // Who waits for a server that nobody answers for is served first.
                    None => self.write_intent(worker, &operation),
                }
            }
            _ => self.commit(worker),
        }
    }

    /// What the worker has prepared is to serve, and the journal must know of it first.
    pub(super) fn write_intent(&mut self, worker: WorkerKey, operation: &Operation) {
        let by = self.after(self.limits.intent);
        let (key, held_to) = (operation.key, self.held_to);
        let Some(load) = self.workers.iter_mut().find(|w| w.key == worker).and_then(|w| w.load.as_mut())
        else {
            return;
        };
        load.step = LoadStep::Journaling;
        load.by = by;
        let (candidate, generation) = (load.candidate, load.generation);
        self.last_generation = self.last_generation.max(generation);
        let Some(active) = &mut self.active else { return };
        active.back_to = active.back_to.or(held_to);
        let back_to = active.back_to;
        let confirm = self.probation_of(operation).filter(|_| back_to.is_some());
        self.progress(key, StepName::Journal);
        self.emit(Effect::WriteIntent { operation: key, candidate, generation, back_to, confirm });
    }

    pub(super) fn rejected(&mut self, worker: WorkerKey, candidate: CandidateKey, unreachable: bool) {
        let steps = [LoadStep::Preparing, LoadStep::Binding];
        if self.current(worker, candidate, &steps).is_some() {
            let cause = if unreachable { Cause::Unreachable } else { Cause::Refused };
            self.load_failed(worker, cause, false);
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
        let Some(worker) = worker.map(|worker| worker.key) else {
            if self.upgrade_intent(operation, generation, written) {
                return;
            }
            return self.note_written(operation, generation, written);
        };
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
        let Some(loaded) = self.workers.iter_mut().find(|w| w.key == worker) else { return };
        let accept = loaded.role == Role::Serving;
        let Some(load) = &mut loaded.load else { return };
        load.step = LoadStep::Committing;
        load.by = by;
        let (candidate, owner) = (load.candidate, load.owner);
        // For who looks on, a worker that is only to stand by is still being prepared.
        if let Some(operation) = owner.filter(|_| accept) {
            self.progress(operation, StepName::Commit);
        }
        self.emit(Effect::Send { worker, message: Message::Commit { candidate, accept } });
    }

    pub(super) fn committed(&mut self, worker: WorkerKey, candidate: CandidateKey) {
        if self.current(worker, candidate, &[LoadStep::Committing]).is_none() {
            return;
        }
        let Some(serving) = self.workers.iter_mut().find(|w| w.key == worker) else { return };
        let Some(load) = serving.load.take() else { return };
        let generation = load.generation;
        if serving.role == Role::Candidate {
            return self.stands_by(worker, candidate, generation);
        }
        serving.generation = Some(generation);
        if serving.stage == Stage::Loading {
            serving.stage = Stage::Serving;
            self.restart.serving_since = Some(self.now);
        }
        let made = Some(generation).filter(|_| self.held_to != Some(generation));
        self.held_to = Some(generation);
        self.holds_others = true;
        let previous = self.binary == Binary::Previous;
        if previous {
            let settles = self.active.filter(|operation| matches!(operation.step, Step::Settling(_)));
            self.switched(worker, settles.map(|operation| operation.key), None);
        }
        self.emit(Effect::Serve { worker, candidate, generation });
        if previous {
            self.emit(Effect::Forget { binary: Binary::Previous });
        }
        if self.resolve(worker, Awaited::Commit(candidate), Outcome::Applied, Cause::Done, made)
            || self.resolve_back(worker, candidate)
        {
            return;
        }
        let Some(operation) = self.active.filter(|operation| load.owner == Some(operation.key)) else {
            return self.serves_at_last();
        };
        let end = |outcome, cause| End { outcome, cause, made };
        match (operation.kind, operation.step) {
            (_, Step::GoingBack(back)) => self.went_back(back.why, false),
            (_, Step::Settling(Settling { new: None, cause, .. })) => self.went_back(cause, true),
            (_, Step::Settling(Settling { new: Some(_), cause, .. })) => {
                self.change_serves(end(Outcome::AppliedWithLosses, cause));
            }
            (Kind::Start, _) => self.start_serves(&operation, generation, made),
            (Kind::Resume, _) => {
                self.phase = Phase::Serving;
                self.decide_made(Outcome::Applied, Cause::Done, made);
            }
            // The disk had nothing new for a fresh worker: see `prepared_unchanged`.
            _ if !load.changes => self.is_unchanged(),
            _ => self.change_serves(end(Outcome::Applied, Cause::Done)),
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
            _ => {
                self.throw_away(worker, true);
                self.is_unchanged();
            }
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

    pub(super) fn throw_away(&mut self, worker: WorkerKey, tell: bool) {
        let Some(load) = self.workers.iter_mut().find(|w| w.key == worker).and_then(|w| w.load.take()) else {
            return;
        };
        if tell {
            self.emit(Effect::Send { worker, message: Message::Abort { candidate: load.candidate } });
        }
        self.release_lost(Some(load));
    }

    /// A living worker did not get through prepare, bind or the journal.
    pub(super) fn load_failed(&mut self, worker: WorkerKey, cause: Cause, tell: bool) {
        let Some(failed) = self.workers.iter().find(|w| w.key == worker) else { return };
        let Some(load) = failed.load else { return };
        if failed.role == Role::Candidate {
            return self.kill(worker, cause);
        }
        self.throw_away(worker, tell);
        // What served before and is refused now is no mistake of the one who asks.
        let refused = matches!(cause, Cause::Refused | Cause::Unfit) && (load.changes || load.dry_run);
        let outcome = if refused { Outcome::Rejected } else { Outcome::NotReady };
        let operation = self.active.filter(|operation| load.owner == Some(operation.key));
        match operation.map(|operation| (operation.kind, operation.step)) {
            Some((_, Step::Settling(settling))) => self.settle_further(settling),
            // It goes on in another worker.
            Some((_, Step::GoingBack(_))) => self.kill(worker, cause),
            Some((Kind::Start, _)) if cause == Cause::Unreachable && self.start_from_journal(&load) => {}
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
            (kind, Step::Loading, Some(load))
                if kind != Kind::Start && load.is_committing() && load.changes =>
            {
                let (first, new) = (Some(load.candidate), Some(load.generation));
                let settling = Settling { first, new, cause };
                self.active = Some(Operation { step: Step::Settling(settling), by: None, ..operation });
                self.progress(operation.key, StepName::Settle);
                return;
            }
            (_, Step::Guarding(guarding), _) => {
                self.go_back_in_another(guarding.back_to, Cause::GuardFailed, None);
            }
            (_, Step::GoingBack(back), lost) => {
                // It may have switched, and then nobody else holds its listeners.
                let first = lost.filter(Load::is_committing).map(|load| load.candidate);
                self.go_back_in_another(back.to, back.why, first);
                if first.is_some() {
                    return;
                }
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

    pub(super) fn release_lost(&mut self, load: Option<Load>) {
        let Some(Load { candidate, owner, step, .. }) = load else { return };
        if let (LoadStep::Examining, Some(operation)) = (step, owner) {
            self.emit(Effect::CallOff { operation, exam: Exam::Programs { candidate } });
        }
        self.emit(Effect::Release { candidate });
    }

    /// One attempt to find out what can be served has failed.
    fn settle_further(&mut self, settling: Settling) {
        if let Some(first) = settling.first {
            self.emit(Effect::Release { candidate: first });
        }
        if settling.new.is_none() {
            return self.decide(Outcome::Unknown, settling.cause);
        }
        if let Some(operation) = &mut self.active {
            operation.step = Step::Settling(Settling { first: None, new: None, ..settling });
        }
    }
}

impl Source {
    /// Whether the driver compares it with what serves.
    fn may_be_unchanged(self) -> bool {
        matches!(self, Self::Disk | Self::Given)
    }
}
