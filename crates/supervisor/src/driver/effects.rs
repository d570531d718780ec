//! What the machine says, done.

use std::sync::Arc;
use std::time::Duration;

use handover_api::EventKind;
use handover_lifecycle::{Binary, Effect, Event, Message, Notice, Role, WorkerKey};

use super::Driver;
use super::changes::Intended;
use super::upgrades::Handoff;
use crate::protocol::ToWorker;
use crate::worker::{Reporter, Start};

impl Driver {
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Started { operation } => self.started(operation),
            Effect::Joined { request, operation } => self.joined(request, operation),
            Effect::Deferred { request } => self.deferred(request),
            Effect::Refuse { request, refusal } => self.refuse_by_machine(request, refusal),
            Effect::Progress { operation, step } => self.progress(operation, step),
            Effect::StartWorker { worker, binary } => self.start_worker(worker, binary),
            Effect::Send { worker, message } => self.send(worker, message),
            Effect::Bind { worker, candidate, dry_run } => self.bind(worker, candidate, dry_run),
            Effect::KillWorker { worker } => self.kill_worker(worker),
            Effect::WriteIntent { operation, candidate, generation, back_to, confirm } => {
                self.write_intent(Intended { operation, candidate, generation, back_to, confirm });
            }
            Effect::Own { operation, kind } => self.own(operation, kind),
            Effect::Pending { operation, generation, upgrade: Some(worker), left, .. } => {
                self.await_upgrade(operation, generation, worker, left);
            }
            Effect::Pending { operation, generation, back_to, left, .. } => {
                self.await_confirmation(operation, generation, back_to, left);
            }
            Effect::WriteConfirm { operation, generation, .. } => self.write_confirm(operation, generation),
            Effect::PendingOver { upgrade: Some(worker), how, .. } => {
                self.upgrade_confirmation_over(worker, how);
            }
            Effect::PendingOver { generation, how, .. } => self.confirmation_over(generation, how),
            Effect::LetGo => self.let_go(),
            Effect::WriteOutcome { operation, verdict } => self.write_outcome(operation, verdict),
            Effect::Answer { operation, recorded, .. } => self.answer(operation, recorded),
            Effect::Serve { worker, candidate, generation } => self.serve(worker, candidate, generation),
            Effect::Release { candidate } => self.release(candidate),
            Effect::Examine { operation, exam } => self.examine(operation, exam),
            Effect::CallOff { operation, exam } => self.call_off(operation, exam),
            Effect::WriteUpgrade { operation, worker, confirm } => {
                self.write_upgrade(operation, worker, confirm);
            }
            Effect::HandOver { operation, call, from, to, within, limit } => {
                self.hand_over(Handoff { operation, call, from, to, within, limit });
            }
            Effect::Switch { worker, .. } => self.switch(worker),
            Effect::Forget { binary } => self.forget(binary),
            Effect::Reexec { operation } => self.reexecute(operation),
            Effect::Carry { operation } => self.carry_program(operation),
            Effect::CallOffProgram { operation } => self.call_off_program(operation),
            Effect::StopPrograms { limit } => self.stop_programs(limit),
            Effect::CloseListeners => self.close_listeners(),
            Effect::Notify(notice) => self.notify(notice),
            Effect::Exit(exit) => self.exit = Some(exit),
        }
    }

    fn start_worker(&mut self, key: WorkerKey, binary: Binary) {
        let program = self.binaries.get(binary).cloned();
        let Some(program) = program else {
            return self.not_started(key, "there is no binary to start a worker from".to_owned());
        };
        if let Err(why) = program.check() {
            return self.not_started(key, why.to_string());
        }
        self.workers_started += 1;
        let path = program.path().display().to_string();
        let is_beside = self
            .machine
            .view()
            .workers
            .iter()
            .any(|worker| worker.worker == key && worker.role == Role::Candidate);
        let start = Start {
            program,
            arguments: &self.parts.options.arguments,
            environment: &self.parts.options.environment,
            number: self.workers_started,
            succession: self.parts.lock.worker_path(key.0),
            carried: self.carried.as_ref().map(|carried| Arc::clone(&carried.file)),
            beside: is_beside.then(|| self.room_for_descriptors()),
        };
        match start.start(Reporter::new(key, self.from_workers.clone())) {
            Ok(worker) => {
                tracing::info!(worker = worker.number, pid = worker.process.pid(), "worker started");
                let message = format!("worker {} started (pid {})", worker.number, worker.process.pid());
                self.workers.insert(key, worker);
                self.tell(EventKind::Worker, message, None);
            }
            Err(error) => {
                self.not_started(key, format!("a worker could not be started from {path}: {error}"));
            }
        }
    }

    fn not_started(&mut self, key: WorkerKey, why: String) {
        tracing::error!("{why}");
        self.tell(EventKind::Worker, why.clone(), None);
        if let Some(operation) = self.active()
            && self.operations.get(operation).is_some_and(|entry| entry.operation.upgrade.is_some())
        {
            self.note_failure(operation, why.clone(), Vec::new());
        }
        self.last_exit = Some(why);
        self.pending.push_back(Event::WorkerNotStarted { worker: key });
    }

    pub(super) fn kill_worker(&mut self, key: WorkerKey) {
        let Some(worker) = self.workers.get_mut(&key) else { return };
        worker.is_ending = true;
        if let Err(error) = worker.process.kill() {
            tracing::error!(worker = worker.number, "the worker could not be killed: {error}");
        }
    }

    fn send(&mut self, key: WorkerKey, message: Message) {
        let message = match message {
            Message::Prepare { .. } => return self.prepare(key, message),
            Message::Commit { candidate, accept } => {
                if accept {
                    self.hold_beside(key, candidate);
                }
                self.tell_traffic(key);
                ToWorker::Commit { candidate: candidate.0, accept }
            }
            Message::Abort { candidate } => ToWorker::Abort { candidate: candidate.0 },
            Message::Guard { call, operation, watch } => self.guard(call, operation, watch),
            Message::EndGuard { call, passed } => {
                self.guard = None;
                ToWorker::EndGuard { call: call.0, passed }
            }
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
        if !self.workers.get(&key).is_some_and(|worker| worker.send(message, Vec::new())) {
            self.pending.push_back(Event::ChannelLost { worker: key });
        }
    }

    fn close_listeners(&mut self) {
        self.parts.listeners.close();
        self.store_listeners();
        for worker in self.workers.values() {
            worker.send(ToWorker::CloseListeners, Vec::new());
        }
    }

    fn notify(&mut self, notice: Notice) {
        match notice {
            Notice::Ready if self.awaits_programs() => self.hosting.ready_waits = true,
            Notice::Ready => self.parts.notifier.ready(),
            Notice::Reloading => self.parts.notifier.reloading(),
            Notice::Stopping => {
                // What is held is let go of before connections are ended.
                self.programs.ending();
                let limits = &self.parts.options.limits;
                let drain = self.drain_limit().unwrap_or(limits.drain);
                let programs = self.programs.longest_stop().map_or(Duration::ZERO, |stop| stop + limits.kill);
                let all = drain + limits.drain_grace + programs + limits.stop + limits.kill;
                self.parts.notifier.stopping(all);
                self.parts.notifier.status("stopping");
            }
        }
    }
}
