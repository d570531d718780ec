//! What this process leaves for another program in its place, and how that goes on with it.
//!
//! ```text
//!   Driver ── save ──▶ State + descriptors ══ execveat ══▶ unpack (all that can fail) ── resume ──▶ Driver
//! ```
//!
//! A rehearsal writes the same, and the other program only reads it.

use std::collections::BTreeMap;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use handover_api::Binary;
use handover_handoff::inherit::Expected;
use handover_handoff::process::{Child, Executable};
use handover_lifecycle::{GenerationNumber, WorkerKey};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{CarriedState, Driver, Loaded, Serving, exams};
use crate::control::Waiter;
use crate::handle::Ticket;
use crate::image::Image;
use crate::programs::{Kept, Programs, Setup};
use crate::protocol::{PROTOCOL_VERSION, SupervisorChannel};
use crate::reexec::{
    self, Back, NEWEST_FORMAT, Packing, ResumeError, SavedHosted, SavedJournal, SavedPrograms, SavedServing,
    SavedSupervisor, SavedWaiter, SavedWorker, State, Unpacking,
};
use crate::worker::{Reporter, Running, Worker};

/// Everything that is taken up before anything is held.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// What this process runs.
    pub(crate) own: Arc<Image>,
    serving: Option<Serving>,
    serving_program: Arc<Image>,
    carried: Option<CarriedState>,
    workers: Vec<(SavedWorker, Running)>,
    waiters: Vec<Waiter>,
    programs: Programs,
}

impl Driver {
    /// What this process would leave for another program in its place, in a sealed memory file, for a rehearsal.
    ///
    /// # Errors
    /// A sentence: it cannot be written down.
    pub(super) fn rehearsal(&self) -> Result<Option<OwnedFd>, String> {
        let waiters = self.parts.crossing.waiters();
        let kept = self.programs.save();
        let state = self.save(&mut Packing::default(), None, &waiters, &kept);
        reexec::sealed(&state).map(Some).map_err(|error| error.to_string())
    }

    /// Writes down everything that goes with this process, and packs the descriptors. `lock` is the journal's.
    pub(super) fn save<'a>(
        &'a self,
        packing: &mut Packing<'a>,
        lock: Option<&'a OwnedFd>,
        waiters: &'a [Waiter],
        kept: &'a Kept,
    ) -> State {
        let own = &self.binaries.own;
        let serving = &self.binaries.serving;
        let (operations_made, operations) = self.operations.save();
        let mut state = State {
            format: NEWEST_FORMAT,
            descriptors: Vec::new(),
            back: Back {
                executable: packing.put(own.executable()),
                path: own.path().to_owned(),
                binary: Some(own.described()),
            },
            came_back: None,
            pid: std::process::id(),
            control: self.parts.lock.save(&self.parts.control, packing),
            journal: SavedJournal {
                directory: self.parts.options.state.clone(),
                lock: lock.map_or(-1, |lock| packing.put(lock)),
            },
            listeners: self.parts.listeners.save(packing),
            workers: self.workers.iter().map(|(key, worker)| saved_worker(*key, worker, packing)).collect(),
            serving: self.serving.as_ref().map(|serving| saved_serving(serving, packing)),
            carried: self.carried.as_ref().map(|carried| packing.put(&carried.file)),
            programs: SavedPrograms {
                executable: packing.put(serving.executable()),
                binary: serving.described(),
                installed: self.binaries.installed.clone(),
            },
            hosted: SavedHosted {
                json: kept.json.clone(),
                descriptors: kept.descriptors.iter().map(|descriptor| packing.put(descriptor)).collect(),
            },
            machine: self.machine.save(),
            operations,
            operations_made,
            waiting: waiters.iter().map(|waiter| saved_waiter(waiter, packing)).collect(),
            supervisor: SavedSupervisor {
                started_at: self.started_at.clone(),
                workers_started: self.workers_started,
                calls: self.calls,
                last: self.last.clone(),
                last_exit: self.last_exit.clone(),
                connections: self.connections,
                banner_printed: self.banner_printed,
            },
            metrics: self.metrics.save(),
        };
        state.descriptors = packing.numbers();
        state
    }

    /// Makes the service manager's store have the sockets that serve.
    pub(super) fn store_listeners(&mut self) {
        self.parts.store.set(self.parts.listeners.to_store());
    }

    /// Goes on where another program of this process has left off. Gives those who wait for an answer, with what they wait
    /// for.
    ///
    /// # Errors
    /// A worker cannot be watched: the system is out of memory or watches. Nothing may be dropped then.
    pub(crate) fn resume(
        &mut self,
        state: &State,
        unpacked: Unpacked,
    ) -> std::io::Result<Vec<(Waiter, Ticket)>> {
        for (saved, running) in unpacked.workers {
            let key = WorkerKey(saved.key);
            let mut worker = Worker::new(running, Reporter::new(key, self.from_workers.clone()))?;
            worker.started_at = saved.started_at;
            worker.version = saved.version;
            worker.actions = saved.actions;
            worker.threads = saved.threads;
            // What does not say it was written for this very program, of which its worker is, too.
            worker.protocol = if saved.protocol == 0 { PROTOCOL_VERSION } else { saved.protocol };
            worker.is_ending = saved.is_ending;
            self.workers.insert(key, worker);
        }
        let saved = &state.supervisor;
        self.started_at.clone_from(&saved.started_at);
        self.workers_started = saved.workers_started;
        self.calls = saved.calls;
        self.last.clone_from(&saved.last);
        self.last_exit.clone_from(&saved.last_exit);
        self.connections = saved.connections;
        self.banner_printed = saved.banner_printed;
        self.metrics.restore(&state.metrics);
        self.carried = unpacked.carried;
        self.binaries.serving = unpacked.serving_program;
        self.holding = !state.listeners.kept.is_empty();
        self.programs = unpacked.programs;
        self.hosting.awaited = false;
        if let Some(serving) = unpacked.serving {
            self.loaded.insert(serving.generation, Arc::clone(&serving.loaded));
            self.metrics.serves(serving.generation.0);
            self.apply_settings(&serving.settings);
            self.go_on_with_programs(&serving.settings);
            self.serving = Some(serving);
        }
        if let Some(why) = &state.came_back {
            tracing::error!("the new binary could not go on as the supervisor, the old one does: {why}");
            let operation = state.machine.operation.map(|operation| operation.key);
            if let Some(entry) = operation.and_then(|key| self.operations.get_mut(key)) {
                exams::supervisor_stays(entry, why.clone());
            }
        }
        self.reap();
        self.store_listeners();
        Ok(self.tickets(unpacked.waiters))
    }

    /// Tells the machine of workers that have ended while this process became another program: what their end cost belongs to
    /// the operation that is about to be recorded.
    pub(crate) fn look_for_the_dead(&mut self) {
        let has_ended = |worker: &Worker| {
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut [PollFd::new(&*worker.process, PollFlags::IN)], Some(&at_once)) == Ok(1)
        };
        let dead: Vec<WorkerKey> =
            self.workers.iter().filter(|(_, worker)| has_ended(worker)).map(|(key, _)| *key).collect();
        dead.into_iter().for_each(|key| self.ended(key));
    }

    fn tickets(&mut self, waiters: Vec<Waiter>) -> Vec<(Waiter, Ticket)> {
        let with_ticket = |waiter: Waiter| {
            let ticket = self.operations.by_id(&waiter.operation)?.ticket();
            Some((waiter, ticket))
        };
        waiters.into_iter().filter_map(with_ticket).collect()
    }
}

fn saved_worker<'a>(key: WorkerKey, worker: &'a Worker, packing: &mut Packing<'a>) -> SavedWorker {
    SavedWorker {
        key: key.0,
        number: worker.number,
        pid: worker.process.pid(),
        pidfd: packing.put(&*worker.process),
        channel: packing.put(worker.channel()),
        executable: packing.put(worker.program.executable()),
        binary: worker.program.described(),
        version: worker.version.clone(),
        actions: worker.actions.clone(),
        threads: worker.threads,
        protocol: worker.protocol,
        succession: worker.succession.clone(),
        started_at: worker.started_at.clone(),
        is_ending: worker.is_ending,
    }
}

fn saved_serving<'a>(serving: &'a Serving, packing: &mut Packing<'a>) -> SavedServing {
    let loaded = &serving.loaded;
    SavedServing {
        worker: serving.worker.0,
        generation: serving.generation.0,
        bundle: packing.put(&loaded.file),
        settings: serving.settings.clone(),
        summary: serving.summary.clone(),
        committed_at: serving.committed_at.clone(),
        is_rollback: serving.is_rollback,
        version: loaded.version.clone(),
        changes: loaded.changes.clone(),
        operation_id: loaded.operation_id.clone(),
    }
}

fn saved_waiter<'a>(waiter: &'a Waiter, packing: &mut Packing<'a>) -> SavedWaiter {
    let left = waiter.until.saturating_duration_since(Instant::now());
    SavedWaiter {
        socket: packing.put(&waiter.socket),
        accept: waiter.accept.clone(),
        operation: waiter.operation.clone(),
        left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
    }
}

/// Takes up what the driver of another program of this process has left.
///
/// # Errors
/// Something of it is missing.
pub(crate) fn unpack(
    state: &State,
    setup: Setup,
    unpacking: &mut Unpacking<'_>,
) -> Result<Unpacked, ResumeError> {
    let mut programs = Images::default();
    let serving_program = programs.take(state.programs.executable, &state.programs.binary, unpacking)?;
    let own = match (&state.came_back, &state.back.binary) {
        // This is the program that has written it.
        (Some(_), Some(binary)) => programs.take(state.back.executable, binary, unpacking)?,
        _ => Arc::clone(&serving_program),
    };
    let mut workers = Vec::with_capacity(state.workers.len());
    for saved in &state.workers {
        let channel = unpacking.owned(saved.channel, Expected::Channel)?;
        let channel = SupervisorChannel::from_socket(channel)
            .map_err(|error| ResumeError::Damaged(error.to_string()))?;
        let running = Running {
            number: saved.number,
            process: Child::from_pidfd(saved.pid, unpacking.owned(saved.pidfd, Expected::Other)?),
            channel,
            program: programs.take(saved.executable, &saved.binary, unpacking)?,
            succession: saved.succession.clone(),
            tee: None,
        };
        workers.push((saved.clone(), running));
    }
    let mut waiters = Vec::with_capacity(state.waiting.len());
    for saved in &state.waiting {
        waiters.push(Waiter {
            socket: unpacking.shared(saved.socket, Expected::Socket)?,
            accept: saved.accept.clone(),
            operation: saved.operation.clone(),
            until: Instant::now() + Duration::from_millis(saved.left_ms).min(reexec::LONGEST_WAIT),
        });
    }
    Ok(Unpacked {
        own,
        serving: state.serving.as_ref().map(|saved| unpack_serving(saved, unpacking)).transpose()?,
        serving_program,
        carried: state.carried.map(|file| unpack_carried(file, unpacking)).transpose()?,
        workers,
        waiters,
        programs: unpack_programs(&state.hosted, setup, unpacking)?,
    })
}

/// The programs of the supervisor go on with it.
fn unpack_programs(
    saved: &SavedHosted,
    setup: Setup,
    unpacking: &Unpacking<'_>,
) -> Result<Programs, ResumeError> {
    if saved.json.is_empty() {
        return Ok(Programs::new(setup));
    }
    let descriptors =
        saved.descriptors.iter().map(|descriptor| unpacking.owned(*descriptor, Expected::Other));
    let descriptors = descriptors.collect::<Result<_, _>>()?;
    Programs::restore(setup, &saved.json, descriptors).map_err(ResumeError::Damaged)
}

fn unpack_serving(saved: &SavedServing, unpacking: &Unpacking<'_>) -> Result<Serving, ResumeError> {
    let file = unpacking.owned(saved.bundle, Expected::MemoryFile)?;
    let mut loaded = Loaded::from_file(file, None).map_err(ResumeError::Damaged)?;
    loaded.version.clone_from(&saved.version);
    loaded.changes.clone_from(&saved.changes);
    loaded.operation_id.clone_from(&saved.operation_id);
    Ok(Serving {
        worker: WorkerKey(saved.worker),
        generation: GenerationNumber(saved.generation),
        loaded: Arc::new(loaded),
        settings: saved.settings.clone(),
        summary: saved.summary.clone(),
        committed_at: saved.committed_at.clone(),
        is_rollback: saved.is_rollback,
    })
}

fn unpack_carried(file: RawFd, unpacking: &Unpacking<'_>) -> Result<CarriedState, ResumeError> {
    CarriedState::of(unpacking.owned(file, Expected::MemoryFile)?).map_err(ResumeError::Damaged)
}

/// Images by the descriptor that stood for them: the same one is the same program.
#[derive(Debug, Default)]
struct Images(BTreeMap<RawFd, Arc<Image>>);

impl Images {
    fn take(
        &mut self,
        executable: RawFd,
        binary: &Binary,
        unpacking: &Unpacking<'_>,
    ) -> Result<Arc<Image>, ResumeError> {
        if let Some(known) = self.0.get(&executable) {
            return Ok(Arc::clone(known));
        }
        let file = unpacking.owned(executable, Expected::Other)?;
        let file = Executable::from_descriptor(file, binary.path.clone().into());
        let program = Arc::new(Image::known(Arc::new(file), binary));
        self.0.insert(executable, Arc::clone(&program));
        Ok(program)
    }
}
