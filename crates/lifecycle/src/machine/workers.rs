//! Worker processes: started, lost, replaced, drained, ended.

use std::time::Duration;

use super::Machine;
use super::table::{Awaited, Operation, Step, Worker};
use crate::{
    CallKey, Cause, Effect, Kind, Message, Outcome, Phase, Role, Source, Stage, StepName, WorkerKey,
};

impl Machine {
    /// Whether a worker with the serving role has something to do.
    fn wants_worker(&self) -> bool {
        match self.phase {
            Phase::Starting | Phase::Serving => true,
            Phase::Drained => {
                matches!(self.active, Some(Operation { kind: Kind::Resume, step: Step::AwaitWorker(_), .. }))
            }
            Phase::New | Phase::Draining | Phase::Stopping | Phase::Stopped => false,
        }
    }

    /// Starts the next worker when its time has come and the one before is gone: two of them would
    /// both accept.
    pub(super) fn start_worker_if_due(&mut self) {
        if !self.wants_worker() {
            self.restart.at = None;
            return;
        }
        if self.slot_taken() {
            return;
        }
        let at = match self.restart.at {
            Some(at) => at,
            None => self.after(self.pause()),
        };
        if at > self.now {
            self.restart.at = Some(at);
            return;
        }
        self.restart.at = None;
        if self.phase == Phase::Serving {
            self.restart.count = self.restart.count.saturating_add(1);
        }
        let worker = WorkerKey(self.key());
        let by = self.after(self.limits.worker_start);
        self.workers.push(Worker::new(worker, Role::Serving, by));
        self.emit(Effect::StartWorker { worker, binary: self.binary });
    }

    /// The pause before the next restart: it doubles with each worker that died without having served
    /// for long.
    fn pause(&self) -> Duration {
        let doublings = self.restart.failures.saturating_sub(1).min(30);
        self.limits.backoff_first.saturating_mul(1 << doublings).min(self.limits.backoff_longest)
    }

    pub(super) fn worker_ready(&mut self, worker: WorkerKey) {
        if let Some(ready) = self.workers.iter_mut().find(|w| w.key == worker && w.stage == Stage::Starting) {
            ready.stage = Stage::Loading;
            ready.by = None;
        }
    }

    /// Its process is gone.
    pub(super) fn worker_gone(&mut self, worker: WorkerKey, lived: bool) {
        let Some(index) = self.workers.iter().position(|w| w.key == worker) else { return };
        let gone = self.workers.remove(index);
        let cause = match gone.stage {
            Stage::Killed => return,
            Stage::Stopping => Cause::DrainForced,
            _ if lived => Cause::WorkerDied,
            _ => Cause::NoWorker,
        };
        self.lose(gone, cause);
    }

    pub(super) fn channel_lost(&mut self, worker: WorkerKey) {
        match self.workers.iter().find(|w| w.key == worker).map(|w| w.stage) {
            // It closes its channel on its way out; its own deadline is running.
            None | Some(Stage::Stopping | Stage::Killed) => {}
            Some(_) => self.kill(worker, Cause::WorkerDied),
        }
    }

    /// Gives a worker up and has it killed. What it was needed for fails now; its place is free when it is reaped.
    pub(super) fn kill(&mut self, worker: WorkerKey, cause: Cause) {
        let by = self.after(self.limits.kill);
        let Some(killed) = self.workers.iter_mut().find(|w| w.key == worker && w.stage != Stage::Killed)
        else {
            return;
        };
        let lost = killed.clone();
        killed.stage = Stage::Killed;
        killed.by = Some(by);
        killed.generation = None;
        killed.load = None;
        killed.drain = None;
        self.emit(Effect::KillWorker { worker });
        self.lose(lost, cause);
    }

    /// Everything that depended on this worker.
    fn lose(&mut self, lost: Worker, cause: Cause) {
        let in_handoff = self.handoff_lost(lost.key, cause);
        match lost.role {
            Role::Serving => self.lose_main(lost, cause, in_handoff),
            Role::Candidate => {
                self.release_lost(lost.load);
                if let Some(candidate) = lost.stands_for {
                    self.emit(Effect::Release { candidate });
                }
                if !in_handoff {
                    self.candidate_lost(cause);
                }
            }
            Role::Draining | Role::Warm => self.lose_old(&lost, cause),
        }
    }

    /// One that has served before.
    fn lose_old(&mut self, lost: &Worker, cause: Cause) {
        self.resolve_all_of(lost.key, cause);
        if !lost.may_have_connections() {
            return;
        }
        self.lost_connections(cause);
        if let Some(pending) = &mut self.pending {
            pending.losses = pending.losses.or(Some(cause));
        }
    }

    /// The one that serves.
    fn lose_main(&mut self, lost: Worker, cause: Cause, in_handoff: bool) {
        if let Some(since) = self.restart.serving_since.take()
            && since.saturating_add(self.limits.backoff_reset) <= self.now
        {
            self.restart.failures = 0;
        }
        if !matches!(cause, Cause::Done | Cause::ShuttingDown) {
            self.restart.failures = self.restart.failures.saturating_add(1);
        }
        if let Some(pending) = self.pending.as_mut().filter(|pending| pending.upgrade.is_some()) {
            pending.died = true;
        }
        let cut = lost.may_have_connections();
        if let Some(operation @ Operation { step: Step::Stopping, .. }) = &mut self.active
            && cut
        {
            operation.losses = operation.losses.or(Some(cause));
        }
        if in_handoff {
            return;
        }
        self.resolve_all_of(lost.key, cause);
        if let Some(operation) = self.active
            && self.upgrade_lost_main(&operation, cause)
        {
            self.release_lost(lost.load);
            return;
        }
        self.load_lost(lost.load, cause);
        match &mut self.active {
            Some(Operation { step: Step::Acting(_), .. }) => self.decide(Outcome::Unknown, cause),
            Some(Operation { step: Step::Draining, .. }) => {
                self.drain_ended(Outcome::AppliedWithLosses, cause)
            }
            // What serves in its place is the binary before.
            Some(Operation { step: Step::Resuming(_), kind, .. }) if self.pending.is_some_and(|p| p.died) => {
                match kind {
                    Kind::Start => self.fail_start(Outcome::NotReady, cause),
                    _ => self.decide(Outcome::NotReady, cause),
                }
            }
            Some(operation @ Operation { step: Step::Resuming(_), .. }) => {
                // Its successor will do; it is given the same generation.
                operation.step = Step::AwaitWorker(self.held_to.map_or(Source::Disk, Source::Generation));
                operation.by = None;
                self.restart.at = Some(self.now);
            }
            _ => {}
        }
    }

    pub(super) fn drained(&mut self, worker: WorkerKey, call: CallKey, clean: bool) {
        if let Some(handoff) = self.handoff.as_mut().filter(|h| h.from == worker && h.call == call) {
            // It is told so before the other one says that it serves.
            handoff.drained = handoff.drained.or(Some(clean));
            return;
        }
        let Some(drained) = self.workers.iter_mut().find(|w| {
            w.key == worker
                && w.drain.is_some_and(|drain| drain.call == call)
                && matches!(w.stage, Stage::Draining | Stage::Stopping)
        }) else {
            return;
        };
        drained.drain = None;
        let serves = drained.role == Role::Serving;
        let (outcome, cause) = match clean {
            true => (Outcome::Applied, Cause::Done),
            false => (Outcome::AppliedWithLosses, Cause::DrainForced),
        };
        let on_time = drained.stage == Stage::Draining;
        if on_time {
            drained.stage = if serves { Stage::Drained } else { Stage::StandingBy };
            drained.by = None;
        }
        self.resolve(worker, Awaited::Drain(call), outcome, cause, None);
        match &mut self.active {
            Some(Operation { step: Step::Draining, .. }) if serves => self.drain_ended(outcome, cause),
            Some(operation) if !clean && (operation.kind == Kind::Stop || !serves) => {
                operation.losses = operation.losses.or(Some(cause));
            }
            _ => {}
        }
        if let Some(pending) = self.pending.as_mut().filter(|_| !clean && !serves) {
            pending.losses = pending.losses.or(Some(cause));
        }
        if on_time && self.phase == Phase::Stopping && !(serves && self.programs_run()) {
            self.stop_worker(worker, false);
        }
    }

    pub(super) fn drain_ended(&mut self, outcome: Outcome, cause: Cause) {
        self.phase = Phase::Drained;
        self.restart.at = None;
        self.decide(outcome, cause);
    }

    pub(super) fn resumed(&mut self, worker: WorkerKey, call: CallKey) {
        if self.resumed_after_upgrade(worker, call) {
            return;
        }
        let Some(Operation { step: Step::Resuming(expected), .. }) = self.active else { return };
        let Some(main) = self.main_mut() else { return };
        if expected != call || main.key != worker {
            return;
        }
        main.stage = Stage::Serving;
        self.phase = Phase::Serving;
        self.decide(Outcome::Applied, Cause::Done);
    }

    pub(super) fn action_done(&mut self, worker: WorkerKey, call: CallKey, ok: bool) {
        let (outcome, cause) = match ok {
            true => (Outcome::Applied, Cause::Done),
            false => (Outcome::NotReady, Cause::ActionFailed),
        };
        if self.resolve(worker, Awaited::Action(call), outcome, cause, None) {
            return;
        }
        if let Some(Operation { step: Step::Acting(expected), .. }) = self.active
            && expected == call
            && self.main().is_some_and(|main| main.key == worker)
        {
            self.decide(outcome, cause);
        }
    }

    /// Tells a worker to end its process, in a bounded time.
    pub(super) fn stop_worker(&mut self, worker: WorkerKey, now: bool) {
        let by = self.after(if now { self.limits.stop_now } else { self.limits.stop });
        let Some(stopping) = self.workers.iter_mut().find(|w| w.key == worker) else { return };
        stopping.by =
            Some(stopping.by.filter(|_| stopping.stage == Stage::Stopping).map_or(by, |old| old.min(by)));
        stopping.stage = Stage::Stopping;
        if let Some(Operation {
            key, step: Step::Stopping | Step::Retiring(_) | Step::TakingBack(_), ..
        }) = self.active
        {
            self.progress(key, StepName::StopWorker);
        }
        self.emit(Effect::Send { worker, message: Message::Stop { now } });
    }

    /// A worker's stage has lasted too long.
    pub(super) fn worker_is_late(&mut self, worker: WorkerKey, stage: Stage) {
        match stage {
            Stage::Starting if self.candidate().is_some_and(|candidate| candidate.key == worker) => {
                self.kill(worker, Cause::CandidateSilent);
            }
            Stage::Starting => self.kill(worker, Cause::NoWorker),
            Stage::Draining if self.phase == Phase::Stopping => self.stop_worker(worker, true),
            Stage::Draining | Stage::Stopping => self.kill(worker, Cause::NoAnswer),
            // It cannot be reaped. It is given up: nothing may wait for it for ever.
            Stage::Killed => self.workers.retain(|w| w.key != worker),
            Stage::Loading | Stage::StandingBy | Stage::Serving | Stage::Drained => {}
        }
    }
}
