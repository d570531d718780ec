//! How operations begin: the start, the adoption, and every request.

use std::time::Duration;

use super::Machine;
use super::table::{Awaited, Drain, EndStep, Ending, Operation, Probation, Step, Worker};
use crate::{
    Admission, Asked, CallKey, Caller, Cause, Effect, GenerationNumber, Kind, Message, Notice, OperationKey,
    Outcome, Pending, PendingEnd, Phase, Refusal, Request, Role, Source, Stage, StepName, WorkerKey, admit,
};

impl Machine {
    pub(super) fn begin_start(&mut self, operation: OperationKey, source: Source, pending: Option<Pending>) {
        if self.phase != Phase::New {
            return;
        }
        self.phase = Phase::Starting;
        self.record_unfinished(None);
        // Whichever binary was started now, it is not that worker any more.
        if let Some(Pending { generation, upgrade: upgrade @ Some(_), .. }) = pending {
            self.emit(Effect::PendingOver { generation, upgrade, how: PendingEnd::Replaced });
        }
        let of_generation = pending.filter(|pending| pending.upgrade.is_none());
        self.unconfirmed = of_generation.map(|pending| self.probation(pending));
        self.begin(operation, Kind::Start, None, Step::AwaitWorker(source));
        self.progress(operation, StepName::StartWorker);
        self.restart.at = Some(self.now);
    }

    pub(super) fn begin_adopted(
        &mut self,
        operation: OperationKey,
        worker: WorkerKey,
        generation: GenerationNumber,
        accepting: bool,
        pending: Option<Pending>,
    ) {
        if self.phase != Phase::New {
            return;
        }
        self.next_key = self.next_key.max(worker.0.saturating_add(1));
        self.last_generation = self.last_generation.max(generation);
        self.held_to = Some(generation);
        self.record_unfinished(Some((worker, generation)));
        self.workers.push(Worker {
            stage: if accepting { Stage::Serving } else { Stage::Drained },
            by: None,
            generation: Some(generation),
            ..Worker::new(worker, Role::Serving, Duration::ZERO)
        });
        self.restart.serving_since = Some(self.now);
        let on_probation = pending.filter(|pending| {
            pending.generation == generation && pending.upgrade.is_none_or(|upgrade| upgrade == worker)
        });
        if let (None, Some(Pending { generation, upgrade: upgrade @ Some(_), .. })) = (on_probation, pending)
        {
            self.emit(Effect::PendingOver { generation, upgrade, how: PendingEnd::Replaced });
        }
        self.pending = on_probation.map(|pending| self.probation(pending));
        self.holds_others = true;
        if accepting {
            self.phase = Phase::Serving;
            self.emit(Effect::Started { operation });
            self.record(operation, Kind::Start, Outcome::Unchanged, Cause::Adopted, None);
        } else {
            self.phase = Phase::Starting;
            self.begin_resuming(operation, Kind::Start, worker);
        }
    }

    fn probation(&self, pending: Pending) -> Probation {
        let Pending { generation, back_to, upgrade, left } = pending;
        let (by, failures) = (self.after(left), self.restart.failures);
        let (died, reexec, losses) = (false, false, None);
        Probation { generation, back_to, upgrade, by, failures, died, reexec, losses }
    }

    pub(super) fn request(&mut self, operation: OperationKey, asked: &Asked) {
        match admit(&self.situation(asked), asked) {
            Admission::Start => self.begin_request(operation, asked.request),
            Admission::Preempt(_) => match asked.request {
                Request::Resume => {
                    self.decide(Outcome::RolledBack, Cause::Resumed);
                    self.begin_request(operation, asked.request);
                }
                _ => self.begin_request(operation, asked.request),
            },
            Admission::AlreadySo => {
                self.emit(Effect::Started { operation });
                self.record(operation, asked.request.kind(), Outcome::Unchanged, Cause::AlreadySo, None);
            }
            Admission::Join(running) => self.join(operation, running, asked),
            Admission::Force(running) => {
                self.emit(Effect::Joined { request: operation, operation: running });
                self.force_stop();
            }
            Admission::Defer => self.defer(operation, asked.request),
            Admission::Refuse(refusal) => self.emit(Effect::Refuse { request: operation, refusal }),
        }
    }

    fn join(&mut self, request: OperationKey, operation: OperationKey, asked: &Asked) {
        self.emit(Effect::Joined { request, operation });
        // A process manager that sent the signal waits for a notice that is younger than its signal.
        let runs = self.active.is_some_and(|active| active.key == operation && active.kind == Kind::Reload);
        if runs && asked.caller == Caller::Signal {
            self.emit(Effect::Notify(Notice::Reloading));
        }
        if self.deferred.is_some_and(|(deferred, _)| deferred == operation) {
            self.tell_that_it_may_take_long();
        }
    }

    fn begin_request(&mut self, operation: OperationKey, request: Request) {
        match request {
            Request::Reload { .. } => self.begin_change(operation, request, Source::Disk),
            Request::Rollback { to, .. } => self.begin_change(operation, request, Source::Generation(to)),
            Request::Restore { .. } => self.begin_change(operation, request, Source::Given),
            Request::Upgrade { .. } => self.begin_upgrade(operation, request),
            Request::Confirm => self.begin_confirm(operation),
            Request::Cancel => self.begin_cancel(operation),
            Request::Action => self.begin_action(operation),
            Request::Drain { limit } => self.begin_drain(operation, limit),
            Request::Resume => self.begin_resume(operation),
            Request::Stop { now, limit } => self.begin_stop(operation, now, limit),
            Request::Carried { limit, .. } => self.begin_carried(operation, request, limit),
        }
    }

    pub(super) fn begin(
        &mut self,
        operation: OperationKey,
        kind: Kind,
        request: Option<Request>,
        step: Step,
    ) {
        self.active = Some(Operation::new(operation, kind, request, step));
        self.emit(Effect::Started { operation });
    }

    /// The active operation's step must be over by then.
    pub(super) fn limit_step(&mut self, by: Duration) {
        if let Some(operation) = &mut self.active {
            operation.by = Some(by);
        }
    }

    /// A signal's reload waits for its turn.
    fn defer(&mut self, operation: OperationKey, request: Request) {
        self.deferred = Some((operation, request));
        self.emit(Effect::Deferred { request: operation });
        self.tell_that_it_may_take_long();
    }

    /// While the server is drained or drains, or a change is guarded or on probation, a remembered reload may wait for
    /// long: a process manager that waits for it is told at once that it is over, or it would give up on a server that is
    /// well.
    pub(super) fn tell_that_it_may_take_long(&mut self) {
        let waits = matches!(self.phase, Phase::Draining | Phase::Drained)
            || self.pending.is_some()
            || self.is_guarding()
            || self.active.is_some_and(|operation| operation.may_take_long());
        if waits && self.deferred.is_some() {
            self.emit(Effect::Notify(Notice::Reloading));
            self.emit(Effect::Notify(Notice::Ready));
        }
    }

    /// It waits for a worker even if one is there: [`Machine::go_on`] finds that out.
    pub(super) fn begin_change(&mut self, operation: OperationKey, request: Request, source: Source) {
        let kind = request.kind();
        // A dying worker may have to be reaped and its successor given the old generation first.
        let wait =
            self.limits.kill + self.limits.backoff_longest + self.limits.worker_start + self.limits.prepare;
        let by = self.after(wait + self.limits.commit);
        self.begin(operation, kind, Some(request), Step::AwaitWorker(source));
        self.limit_step(by);
        if kind != Kind::DryRun {
            self.emit(Effect::Notify(Notice::Reloading));
            if let Some(at) = self.restart.at {
                self.restart.at = Some(at.min(self.now));
            }
        }
    }

    fn begin_action(&mut self, operation: OperationKey) {
        let Some(worker) = self.main().map(|worker| worker.key) else { return };
        let call = CallKey(self.key());
        let by = self.after(self.limits.action);
        self.begin(operation, Kind::Action, Some(Request::Action), Step::Acting(call));
        self.limit_step(by);
        self.progress(operation, StepName::Action);
        self.emit(Effect::Send { worker, message: Message::Action { call, operation } });
    }

    fn begin_drain(&mut self, operation: OperationKey, limit: Option<Duration>) {
        self.begin(operation, Kind::Drain, Some(Request::Drain { limit }), Step::Draining);
        self.progress(operation, StepName::Drain);
        self.phase = Phase::Draining;
        self.restart.at = None;
        match self.main().map(|worker| (worker.key, worker.may_accept())) {
            Some((worker, true)) => self.drain(worker, limit),
            // A worker that is only being restarted has no connections.
            Some((worker, false)) => {
                self.phase = Phase::Drained;
                self.decide(Outcome::Applied, Cause::Done);
                self.kill(worker, Cause::Done);
            }
            None => {
                self.phase = Phase::Drained;
                self.decide(Outcome::Applied, Cause::Done);
            }
        }
    }

    /// Tells a worker to drain, or, if it drains already, to be done earlier.
    pub(super) fn drain(&mut self, worker: WorkerKey, asked: Option<Duration>) {
        let limit = asked.unwrap_or(self.limits.drain).min(self.limits.drain_longest);
        let (over, grace) = (self.after(limit), self.limits.drain_grace);
        let call = CallKey(self.key());
        let Some(draining) = self.workers.iter_mut().find(|w| w.key == worker) else { return };
        let call = match draining.drain {
            Some(drain) if drain.over <= over => return,
            Some(drain) => drain.call,
            None => call,
        };
        draining.drain = Some(Drain { call, asked, over });
        draining.stage = Stage::Draining;
        draining.by = Some(over.saturating_add(grace));
        self.emit(Effect::Send { worker, message: Message::Drain { call, limit } });
    }

    fn begin_resume(&mut self, operation: OperationKey) {
        match self.main().map(|worker| (worker.key, worker.stage)) {
            Some((worker, Stage::Draining | Stage::Drained)) => {
                self.begin_resuming(operation, Kind::Resume, worker)
            }
            _ => {
                let source = self.held_to.map_or(Source::Disk, Source::Generation);
                self.begin(operation, Kind::Resume, Some(Request::Resume), Step::AwaitWorker(source));
                self.progress(operation, StepName::StartWorker);
                self.phase = Phase::Drained;
                self.restart.at = Some(self.now);
            }
        }
    }

    fn begin_resuming(&mut self, operation: OperationKey, kind: Kind, worker: WorkerKey) {
        let call = CallKey(self.key());
        let by = self.after(self.limits.resume);
        self.begin(operation, kind, Some(Request::Resume), Step::Resuming(call));
        self.limit_step(by);
        self.progress(operation, StepName::Resume);
        if kind == Kind::Resume {
            self.phase = Phase::Drained;
        }
        if let Some(drained) = self.main_mut() {
            drained.stage = Stage::Drained;
            drained.drain = None;
            drained.by = None;
        }
        self.emit(Effect::Send { worker, message: Message::Resume { call } });
    }

    /// Ends what is active, then every worker.
    fn begin_stop(&mut self, operation: OperationKey, now: bool, limit: Option<Duration>) {
        self.overtake();
        self.begin(operation, Kind::Stop, Some(Request::Stop { now, limit }), Step::Stopping);
        self.enter_stopping();
        self.end_workers();
    }

    /// Every worker is drained and ended. Two of which one is about to take over from the other end that first.
    pub(super) fn end_workers(&mut self) {
        let Some(Operation { key: operation, request: Some(Request::Stop { now, limit }), .. }) = self.active
        else {
            return;
        };
        let limit = if now { Some(Duration::ZERO) } else { limit };
        let moves = self.handoff.map(|handoff| [handoff.from, handoff.to]);
        let workers = self.workers.iter().filter(|w| moves.is_none_or(|moves| !moves.contains(&w.key)));
        for (worker, stage, may_accept) in
            workers.map(|w| (w.key, w.stage, w.may_accept())).collect::<Vec<_>>()
        {
            match stage {
                _ if may_accept || stage == Stage::Draining => {
                    self.progress(operation, StepName::Drain);
                    self.drain(worker, limit);
                }
                // It is needed as long as programs run.
                Stage::Drained if self.programs_run() => {}
                Stage::Drained | Stage::StandingBy => self.stop_worker(worker, now),
                Stage::Starting | Stage::Loading => self.kill(worker, Cause::ShuttingDown),
                Stage::Serving | Stage::Draining | Stage::Stopping | Stage::Killed => {}
            }
        }
    }

    pub(super) fn enter_stopping(&mut self) {
        self.phase = Phase::Stopping;
        self.restart.at = None;
        if let Some((request, _)) = self.deferred.take() {
            self.emit(Effect::Refuse { request, refusal: Refusal::Stopping });
        }
        self.emit(Effect::Notify(Notice::Stopping));
        self.emit(Effect::CloseListeners);
    }

    /// A stop comes first. What cannot be called off any more is awaited; the rest ends as rejected.
    fn overtake(&mut self) {
        let Some(operation) = self.active else { return };
        if self.await_handoff(&operation) {
            return;
        }
        let main = self.main().map(|worker| (worker.key, worker.load, worker.drain));
        let awaited = match (operation.step, main) {
            (Step::Loading, Some((worker, Some(load), _))) if load.is_committing() && load.changes => {
                Some((worker, Awaited::Commit(load.candidate), None))
            }
            (Step::GoingBack(back), Some((worker, Some(load), _)))
                if load.is_committing() && load.owner == Some(operation.key) =>
            {
                Some((worker, Awaited::Back(load.candidate, back.why), None))
            }
            (Step::Acting(call), Some((worker, ..))) => Some((worker, Awaited::Action(call), operation.by)),
            (Step::Draining, Some((worker, _, Some(drain)))) => {
                Some((worker, Awaited::Drain(drain.call), None))
            }
            _ => None,
        };
        if let Some((worker, what, by)) = awaited {
            self.active = None;
            return self.end_later(&operation, EndStep::Awaiting { worker, what, by });
        }
        match operation.step {
            Step::Carrying { .. } => self.overtake_carried(&operation),
            // One of two generations would have served: nobody will find out which.
            Step::Settling(_) | Step::Acting(_) => self.decide(Outcome::Unknown, Cause::ShuttingDown),
            // It serves what is to go, and will not be asked any more.
            Step::GoingBack(_) if operation.is_change() && operation.request.is_some() => {
                self.call_off_load();
                self.decide(Outcome::Unknown, Cause::ShuttingDown);
            }
            // It serves; whether it would have passed is not found out.
            Step::Guarding(guarding) => {
                let passed = guarding.passed;
                match operation.is_upgrade() {
                    true => self.decide_upgrade(Cause::ShuttingDown),
                    false => self.decide_made(passed.outcome, Cause::ShuttingDown, passed.made),
                }
            }
            Step::Noting(note) => {
                let by = operation.by.unwrap_or(self.now);
                self.active = None;
                self.end_later(&operation, EndStep::Noting { note, by });
            }
            Step::TakingBack(back) => self.decide_overtaken_taking_back(back, &operation),
            Step::Discarding(end) => self.decide_made(end.outcome, end.cause, end.made),
            _ if operation.is_final_upgrade() => self.decide_overtaken_upgrade(),
            _ if operation.is_before_handoff() => {
                self.call_off_exam();
                self.discard(Outcome::Rejected, Cause::ShuttingDown);
                self.decide(Outcome::Rejected, Cause::ShuttingDown);
            }
            step => {
                if let (Step::Resuming(_), Some(worker)) = (step, self.main_mut()) {
                    // It may accept already, and is to be drained again.
                    worker.stage = Stage::Serving;
                }
                self.call_off_load();
                self.decide(Outcome::Rejected, Cause::ShuttingDown);
            }
        }
    }

    pub(super) fn end_later(&mut self, operation: &Operation, step: EndStep) {
        self.endings.push(Ending { key: operation.key, kind: operation.kind, step });
    }

    /// Two stops in a row: no more draining.
    fn force_stop(&mut self) {
        if let Some(Operation { request: Some(Request::Stop { now, .. }), .. }) = &mut self.active {
            *now = true;
        }
        if let Some(handoff) = self.handoff {
            self.kill(handoff.to, Cause::ShuttingDown);
            self.kill(handoff.from, Cause::ShuttingDown);
        }
        self.hurry_programs();
        for (worker, stage) in self.workers.iter().map(|w| (w.key, w.stage)).collect::<Vec<_>>() {
            match stage {
                Stage::Serving | Stage::Draining => self.drain(worker, Some(Duration::ZERO)),
                Stage::Stopping => self.stop_worker(worker, true),
                _ => {}
            }
        }
    }
}
