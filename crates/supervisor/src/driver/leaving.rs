//! This process about to become another program: everything comes to rest, and then there is no way between here and there on
//! which anything could be lost.
//!
//! ```text
//!   Reexec ─▶ nothing new is accepted; what is asked is answered ─▶ workers are read no more, outboxes empty
//!      ─▶ signals wait ─▶ the journal has written everything ─▶ saved ─▶ execveat ─┬─▶ (driver/reexec.rs, in the other image)
//!                                                                                  └─▶ all goes on: ReexecFailed
//! ```
//!
//! The machine hears nothing meanwhile: it has said what is to be saved. What it would have to hear is kept back. If another
//! program goes on, that hears of it by itself (a process that ended, a channel that was closed); if not, the machine hears
//! it then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use handover_api::Refused;
use handover_lifecycle::{Event, OperationKey, WorkerKey};
use tokio::time::sleep;

use super::{Driver, Input, Queues, exams};
use crate::handle::{Ask, Command, NewOperation};
use crate::operations::Admission;
use crate::protocol::ToSupervisor;
use crate::reexec::{self, Packing};
use crate::signals::Arrived;
use crate::worker::{FromWorker, Worker};

/// How long each of the things may take that must come to rest.
const REST_LIMIT: Duration = Duration::from_secs(3);
/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(1);

/// Why it does not become another program when somebody asks for a stop.
const STOPS: &str = "the server is to stop";

/// What came in the meantime, and would have changed something.
#[derive(Debug, Default)]
struct KeptBack {
    workers: Vec<(WorkerKey, FromWorker)>,
    inputs: Vec<Input>,
    signals: Vec<Arrived>,
    /// A stop that was asked for: it comes before everything else.
    stop: Option<(Box<NewOperation>, Admission)>,
}

impl Driver {
    /// Becomes the program of the worker that serves, as soon as this turn is over: see [`Driver::leave`].
    pub(super) fn reexecute(&mut self, operation: OperationKey) {
        self.leaving = Some(operation);
    }

    /// Becomes the program of the worker that serves. Returns only if that failed; then the machine has been told.
    pub(super) async fn leave(&mut self, operation: OperationKey, queues: &mut Queues) {
        let mut kept_back = KeptBack::default();
        let why = match self.come_to_rest(queues, &mut kept_back).await {
            Ok(()) => self.go(queues, &mut kept_back).await,
            Err(why) => why,
        };
        tracing::warn!("the supervisor does not become the new binary, and goes on: {why}");
        self.parts.crossing.set_leaving(false);
        self.programs.rest(false);
        self.workers.values().for_each(|worker| worker.set_paused(false));
        queues.signals.release();
        if let Some(entry) = self.operations.get_mut(operation) {
            exams::supervisor_stays(entry, why);
        }
        self.step(Event::ReexecFailed { operation });
        let KeptBack { workers, inputs, signals, stop } = kept_back;
        workers.into_iter().for_each(|(worker, what)| self.worker_did(worker, what));
        inputs.into_iter().for_each(|input| self.input(input));
        signals.into_iter().for_each(|arrived| self.signal(arrived));
        if let Some((new, admission)) = stop {
            self.command(Command::Request(new, admission));
        }
    }

    /// Waits until only connections are open that wait for an operation, and nothing is on its way to or from a worker.
    async fn come_to_rest(&mut self, queues: &mut Queues, kept_back: &mut KeptBack) -> Result<(), String> {
        self.parts.crossing.set_leaving(true);
        self.programs.rest(true);
        let quiet = |driver: &Driver| driver.parts.crossing.is_quiet();
        let is_quiet = self.wait_for(queues, kept_back, quiet).await.is_ok();
        if kept_back.stop.is_some() {
            return Err(STOPS.to_owned());
        }
        if !is_quiet {
            // Whoever sends a request byte by byte must not keep the supervisor what it is.
            tracing::warn!("requests on the control socket did not end, and are cut");
        }
        self.workers.values().for_each(|worker| worker.set_paused(true));
        let still =
            |driver: &Driver| driver.workers.values().all(Worker::is_still) && driver.programs.is_still();
        match (self.wait_for(queues, kept_back, still).await, &kept_back.stop) {
            (Ok(()), _) => Ok(()),
            (Err(()), Some(_)) => Err(STOPS.to_owned()),
            (Err(()), None) => Err("messages are on their way to or from a worker".to_owned()),
        }
    }

    /// Answers what is asked until it is so and nothing waits in the queues, or somebody asks for a stop.
    async fn wait_for(
        &mut self,
        queues: &mut Queues,
        kept_back: &mut KeptBack,
        is_so: impl Fn(&Driver) -> bool,
    ) -> Result<(), ()> {
        let deadline = Instant::now() + REST_LIMIT;
        loop {
            tokio::select! {
                biased;
                Some((worker, what)) = queues.workers.recv() => self.said_while_leaving(worker, what, kept_back),
                Some(input) = queues.inputs.recv() => self.input_while_leaving(input, kept_back),
                Some(command) = queues.commands.recv() => {
                    match command {
                        Command::Request(new, admission) if matches!(new.ask, Ask::Stop { .. }) => {
                            kept_back.stop = Some((new, admission));
                            return Err(());
                        }
                        command => self.command_while_leaving(command),
                    }
                }
                // What they want done waits; another program hears of it again.
                happened = self.programs.next() => self.programs.take(happened),
                () = sleep(LOOK) => {
                    if is_so(self) {
                        return Ok(());
                    }
                    if Instant::now() >= deadline {
                        return Err(());
                    }
                }
            }
        }
    }

    /// The last steps. Returns only if one of them failed, and then says why.
    async fn go(&mut self, queues: &mut Queues, kept_back: &mut KeptBack) -> String {
        match queues.signals.hold().await {
            Ok(arrived) => kept_back.signals.extend(arrived),
            Err(error) => return format!("signals cannot be held back: {error}"),
        }
        // From here on nothing is waited for that lets other tasks run.
        self.await_copy();
        let lock = match self.parts.scribe.rest(REST_LIMIT) {
            Ok(lock) => lock,
            Err(why) => return why,
        };
        while let Ok(input) = queues.inputs.try_recv() {
            self.input_while_leaving(input, kept_back);
        }
        if !(self.workers.values().all(Worker::is_still) && self.programs.is_still()) {
            return "something has begun again".to_owned();
        }
        let program = Arc::clone(&self.binaries.serving);
        if let Err(why) = program.check() {
            return why.to_string();
        }
        let waiters = self.parts.crossing.waiters();
        let kept = self.programs.save();
        let mut packing = Packing::default();
        let state = self.save(&mut packing, Some(&lock), &waiters, &kept);
        let raised = kept_back.signals.iter().try_for_each(|arrived| arrived.raise());
        if let Err(error) = raised {
            return format!("a signal that has arrived cannot be left to the new binary: {error}");
        }
        let path = program.path().display();
        tracing::info!(version = program.version(), "the supervisor becomes {path}");
        let why = reexec::go(program.executable(), &state, &packing).to_string();
        // They wait to be delivered once more, and are when signals are taken again.
        kept_back.signals.clear();
        why
    }

    fn said_while_leaving(&mut self, key: WorkerKey, what: FromWorker, kept_back: &mut KeptBack) {
        match what {
            FromWorker::Said(
                ToSupervisor::Pong { .. } | ToSupervisor::Reported { .. } | ToSupervisor::Carry,
                _,
            ) => self.worker_did(key, what),
            FromWorker::Said(ToSupervisor::Ask { call, .. }, _) => {
                self.answer_worker(key, call, false, "an upgrade is about to end".to_owned());
            }
            what => kept_back.workers.push((key, what)),
        }
    }

    fn input_while_leaving(&mut self, input: Input, kept_back: &mut KeptBack) {
        match input {
            Input::Checked(checked) => {
                let (new, admission) = checked.given_up();
                match (new.actor.signal.as_deref().and_then(Arrived::named), admission) {
                    // It arrives once more, here or there.
                    (Some(signal), _) => kept_back.signals.push(signal),
                    (None, admission) => self.refuse_as_busy(&new, admission),
                }
            }
            Input::Noted { .. }
            | Input::Joined { .. }
            | Input::Refused { .. }
            | Input::Compared { .. }
            | Input::Asked { .. }
            | Input::Counted { .. }
            | Input::Kept { .. } => self.input(input),
            input => kept_back.inputs.push(input),
        }
    }

    fn command_while_leaving(&mut self, command: Command) {
        match command {
            Command::Request(new, admission) => self.refuse_as_busy(&new, Some(admission)),
            Command::Diff(_, _, answer) => drop(answer.send(Err(self.busy()))),
            command => self.command(command),
        }
    }

    /// Refuses a request, unless it is the one that runs, asked for once more.
    fn refuse_as_busy(&mut self, new: &NewOperation, admission: Option<Admission>) {
        let Some(admission) = admission else { return };
        let same = new.id.as_deref().and_then(|id| self.operations.by_id(id));
        let answer = match same {
            Some(entry) => Ok(entry.ticket()),
            None => Err(self.busy()),
        };
        // Whoever asked may be gone.
        let _ = admission.send(answer);
    }

    fn busy(&self) -> Refused {
        let running = self.active().and_then(|key| self.operations.get(key));
        match running {
            Some(entry) => Refused::Busy { running: entry.operation.id.clone(), kind: entry.operation.kind },
            None => Refused::Unavailable("it is becoming another program; ask again".to_owned()),
        }
    }
}
