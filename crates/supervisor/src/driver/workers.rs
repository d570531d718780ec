//! What workers say, and how they end.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use handover_api::{EventKind, Losses};
use handover_handoff::memfd;
use handover_handoff::own::ForMessages;
use handover_handoff::process::Exit;
use handover_lifecycle::{CallKey, CandidateKey, Event, Kind, WorkerKey};

use super::{CarriedState, Driver, PINGS_UNANSWERED, Prepared};
use crate::handle::Carried;
use crate::programs::Said;
use crate::protocol::{MAX_CARRIED_BYTES, PROTOCOL_VERSION, ToSupervisor, ToWorker, common_version};
use crate::sparing;
use crate::worker::FromWorker;

/// The signal that ends a process for certain (signal(7)).
const KILLED: i32 = rustix::process::Signal::KILL.as_raw();

impl CarriedState {
    /// Takes it out of the memory file that it came in.
    pub(super) fn of(file: OwnedFd) -> Result<Self, String> {
        let bytes = memfd::read_sealed(&file, MAX_CARRIED_BYTES).map_err(|error| error.to_string())?;
        Ok(CarriedState { bytes: Carried(bytes.into()), file: Arc::new(file) })
    }
}

impl Driver {
    pub(super) fn worker_did(&mut self, key: WorkerKey, what: FromWorker) {
        let _room = ForMessages::begin();
        match what {
            FromWorker::Said(message, descriptors) => self.said(key, message, descriptors),
            FromWorker::Lost(why) => self.lost(key, &why),
            FromWorker::Ended => self.ended(key),
        }
    }

    fn said(&mut self, key: WorkerKey, message: ToSupervisor, descriptors: Vec<OwnedFd>) {
        tracing::trace!(worker = %key, ?message, "worker says");
        match message {
            ToSupervisor::Hello { protocol, oldest, version, actions, threads, .. } => {
                self.hello(key, (oldest, protocol), version, actions, threads);
            }
            ToSupervisor::Need { candidate, listeners } => {
                let candidate = CandidateKey(candidate);
                if let Some(noted) = self.candidates.get_mut(&candidate).filter(|noted| noted.worker == key) {
                    noted.needs = listeners;
                    self.step(Event::Need { worker: key, candidate });
                }
            }
            ToSupervisor::Prepared { candidate, changes, warnings, settings, summary, version } => {
                let loaded = None;
                let prepared = Prepared { changes, warnings, settings: *settings, summary, version, loaded };
                self.prepared(key, CandidateKey(candidate), prepared, descriptors.into_iter().next());
            }
            ToSupervisor::Rejected { candidate, problems, unreachable } => {
                self.rejected(key, CandidateKey(candidate), problems, unreachable);
            }
            ToSupervisor::Committed { candidate } => {
                self.step(Event::Committed { worker: key, candidate: CandidateKey(candidate) });
            }
            ToSupervisor::DrainProgress { connections, .. } => {
                if self.serving.as_ref().is_some_and(|serving| serving.worker == key) {
                    self.connections = Some(connections);
                }
                tracing::debug!(worker = %key, connections, "draining");
            }
            ToSupervisor::Drained { call, losses, late, ended } => {
                self.drained(key, call, &losses, late, ended);
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
            ToSupervisor::Reported { call, body } => self.reported(call, body),
            ToSupervisor::Pong { .. } => self.is_there(),
            ToSupervisor::GuardEnded { call, passed, detail, figures } => {
                self.guard_ended(key, call, passed, detail, figures);
            }
            ToSupervisor::Carry => self.carry(key, descriptors.into_iter().next()),
            ToSupervisor::Ask { call, why } => self.ask_by_worker(key, call, why),
            // Its answers on the connections say more.
            ToSupervisor::Probed { .. } => {}
            ToSupervisor::TrafficSet { call } => self.said_about_traffic(key, Said::TrafficSet { call }),
            ToSupervisor::Quiet { call, left, held, begun } => {
                self.said_about_traffic(key, Said::Quiet { call, left, held, begun })
            }
            ToSupervisor::Wanted { program } => self.program_wanted(key, &program),
            ToSupervisor::TookOver { call, moved, losses, freeze } => {
                self.took_over(key, call, moved, &losses, freeze);
            }
            ToSupervisor::HandedOver { call, moved, freeze } => self.handed_over(key, call, moved, freeze),
            ToSupervisor::HandoffFailed { call, why } => self.handoff_failed(key, call, why),
            ToSupervisor::Stopping { losses } => self.lose_connections(&losses),
        }
    }

    fn reported(&mut self, call: u64, body: String) {
        if let Some(asked) = self.reports.remove(&call) {
            let _ = asked.send(body);
        }
    }

    fn hello(
        &mut self,
        key: WorkerKey,
        speaks: (u16, u16),
        version: String,
        actions: Vec<String>,
        threads: u32,
    ) {
        let Some(worker) = self.workers.get_mut(&key) else { return };
        let Some(protocol) = common_version(speaks.0, speaks.1) else {
            let why = format!(
                "it speaks version {} of the protocol, this supervisor version {PROTOCOL_VERSION}",
                speaks.1
            );
            return self.lost(key, &why);
        };
        worker.protocol = protocol;
        worker.program.is_version(version.clone());
        worker.version = version;
        worker.actions = actions;
        worker.threads = threads;
        self.step(Event::WorkerReady { worker: key });
        self.send_facts();
    }

    /// The worker's carried state has changed: the next worker gets it, and a backup has it.
    fn carry(&mut self, key: WorkerKey, file: Option<OwnedFd>) {
        let taken = file.ok_or_else(|| "nothing came with it".to_owned()).and_then(CarriedState::of);
        match taken {
            Ok(carried) if self.serving.as_ref().is_some_and(|serving| serving.worker != key) => {
                self.upgrading.carried.insert(key, carried);
            }
            Ok(carried) => self.carried = Some(carried),
            Err(why) => self.lost(key, &format!("it hands over its state, and {why}")),
        }
    }

    /// Connections were cut: that belongs to whatever ends connections now.
    pub(super) fn lose_connections(&mut self, losses: &Losses) {
        for entry in self.operations.unanswered() {
            let operation = &mut entry.operation;
            let ends = matches!(operation.kind, Kind::Drain | Kind::Stop) || operation.upgrade.is_some();
            if operation.outcome.is_none() && entry.is_begun && ends {
                operation.losses.merge(losses);
            }
        }
    }

    pub(super) fn lost(&mut self, key: WorkerKey, why: &str) {
        if let Some(worker) = self.workers.get(&key) {
            if !worker.is_ending {
                let pid = worker.process.pid();
                tracing::error!(worker = worker.number, pid, "the worker cannot be talked to: {why}");
                let why = format!("the worker (pid {pid}) cannot be talked to: {why}");
                self.note_lost(key, Some(&why));
                self.last_exit = Some(why);
            }
            self.step(Event::ChannelLost { worker: key });
        }
    }

    /// A worker's process has ended, and all it had said was read.
    pub(super) fn ended(&mut self, key: WorkerKey) {
        // Reaps it, unless that has been done: for its exit status, and so that no zombie stays.
        let exit = match self.workers.get(&key).map(|worker| worker.process.try_wait()) {
            None => return,
            Some(Ok(Some(exit))) => exit,
            // An adopted worker is not this process's child.
            Some(_) => Exit::Unknown,
        };
        // Who hands over kills the other one, if that fails, and says why.
        let by_giver = exit == Exit::Signal(KILLED) && self.is_to_take_over(key);
        let unexpected = self.workers.get(&key).filter(|worker| !worker.is_ending && !by_giver);
        let why = unexpected
            .map(|worker| format!("the worker {} (pid {}) {exit}", worker.number, worker.process.pid()));
        self.note_lost(key, why.as_deref());
        let Some(worker) = self.workers.remove(&key) else { return };
        self.upgrading.carried.remove(&key);
        self.hosting.told.remove(&key);
        self.lost_taker(key);
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
        if self.serving.as_ref().is_none_or(|serving| serving.worker == key) {
            self.actions.clear();
            if !worker.is_ending {
                self.cut_meanwhile();
            }
        }
        self.step(Event::WorkerExited { worker: key });
        self.reap();
    }

    /// Reaps orphans that fell to this process. Workers are reaped one by one, when they have been listened to.
    pub(super) fn reap(&self) {
        let workers: Vec<u32> = self.workers.values().map(|worker| worker.process.pid()).collect();
        match sparing::reap_orphans(&workers) {
            Ok(reaped) => {
                for (pid, exit) in reaped {
                    tracing::debug!("an orphan (pid {pid}) {exit}");
                }
            }
            Err(error) => tracing::error!("cannot reap children: {error}"),
        }
    }

    /// It has answered.
    fn is_there(&mut self) {
        self.pings.unanswered = 0;
        self.parts.notifier.feed_watchdog();
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
}
