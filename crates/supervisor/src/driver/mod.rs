//! The driver: tells the lifecycle machine what happens, and does what it says.
//!
//! It is one task, and the only one that knows or changes the state. It never waits for anything but the next
//! thing that happens; what may take long is done elsewhere and comes back as an [`Input`].
//!
//! ```text
//!   signals ───────────┐
//!   workers ───────────┤                          ┌─ effects.rs    journal, listeners, workers, answers
//!   requests ──────────┼─▶ event ─▶ machine ─▶ effects
//!   journal, binding ──┤                          └─ events of their own, at once
//!   clock ─────────────┘
//! ```
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the loop |
//! | `effects.rs` | what the machine says, done |
//! | `loads.rs` | a generation on its way into a worker: where its bytes come from, what it needs, what came of it |
//! | `changes.rs` | what serves, what it may go back to, and until when: intents, guards, confirmation |
//! | `endings.rs` | outcomes: written, then answered |
//! | `requests.rs` | what is asked for, admitted or refused |
//! | `report.rs` | what is asked about: status, history, metrics |
//! | `diffs.rs` | what a reload or rollback would change |
//! | `workers.rs` | what workers say |
//! | `exams.rs` | a new binary looked at, asked, and probed |
//! | `upgrades.rs` | one worker taking over from another, and what is written of that |
//! | `binaries.rs` | the programs that workers are started from |
//! | `leaving.rs` | this process about to become another program |
//! | `reexec.rs` | what it leaves for that, and how that goes on |
//! | `adopting.rs` | the beginning: alone, or with a worker that was left behind |
//! | `asking.rs` | reloads that workers ask for |
//! | `programs.rs` | programs, and the traffic to them |

mod adopting;
mod asking;
mod binaries;
mod changes;
mod diffs;
mod effects;
mod endings;
mod exams;
mod leaving;
mod loads;
mod programs;
mod reexec;
mod report;
mod requests;
mod upgrades;
mod workers;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use handover_api::{Actor, Binary, Change, Event as Told, EventKind, Operation, Problem, Refused, Upgrade};
use handover_lifecycle::{
    CandidateKey, Event, Exam, Exit, GenerationNumber, Machine, OperationKey, Source, WorkerKey,
};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::control::Crossing;
use crate::control_socket::{ControlSocket, Lock};
use crate::drift::Drift;
use crate::handle::{Carried, Command, NewOperation};
use crate::image::Image;
use crate::journal::{JournalError, now};
use crate::listeners::{Binding, Listeners};
use crate::metrics::Metrics;
use crate::operations::{Admission, Operations};
use crate::options::Options;
use crate::programs::{Programs, Setup};
use crate::protocol::{ListenerSpec, Settings, ToWorker};
use crate::scribe::Scribe;
use crate::signals::{Arrived, Signals};
use crate::systemd::{FdStore, Notifier};
use crate::worker::{FromWorker, Worker};

pub(crate) use adopting::{Before, start_from};
pub(crate) use reexec::{Unpacked, unpack};

/// How often the worker is asked whether it is there, if the service manager's watchdog does not want it oftener.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Pings in a row without an answer before that is worth a line in the log.
const PINGS_UNANSWERED: u32 = 3;
/// Things that may wait for the driver, of each kind.
pub(crate) const QUEUE: usize = 256;

/// Something that was done elsewhere for the driver.
#[derive(Debug)]
pub(crate) enum Input {
    /// A request was looked up in the journal and the journal was asked whether there is room for it.
    Checked(Box<Checked>),
    /// Listeners were bound.
    Bound { worker: WorkerKey, candidate: CandidateKey, bindings: Vec<Binding> },
    /// The bytes that a candidate is to be made from were fetched.
    Fetched { worker: WorkerKey, candidate: CandidateKey, fetched: Result<Arc<Loaded>, Problem> },
    /// A candidate's bundle was read.
    Unpacked { worker: WorkerKey, candidate: CandidateKey, loaded: Result<Arc<Loaded>, String> },
    /// The bundle that came with the end of an action was read.
    Renewed { worker: WorkerKey, call: u64, ok: bool, loaded: Result<Arc<Loaded>, String> },
    /// A reload that a worker asked for has ended, or was refused.
    Asked { worker: WorkerKey, call: u64, done: bool, detail: String },
    /// That an operation began, or waits for its turn, was written, or cannot be.
    Noted { operation: OperationKey },
    /// An intent was written, or why not.
    Intent { operation: OperationKey, generation: GenerationNumber, failure: Option<String> },
    /// An outcome was written, or not.
    Outcome { operation: OperationKey, written: bool },
    /// The end of a request that joined another was written, or not.
    Joined { request: OperationKey },
    /// A refusal was written, or not.
    Refused { operation: Box<Operation>, answer: RefusalAnswer },
    /// The disk was compared with what serves.
    Compared { generation: GenerationNumber, equal: bool },
    /// An exam of a binary, or of a worker of it, is over.
    Examined { operation: OperationKey, exam: Exam, result: exams::Examined },
    /// The connections of the worker that serves were counted, for the one that is to take over.
    Counted { operation: OperationKey, connections: u64 },
    /// A copy of a binary was kept, or why not; of one that can be gone back to if `previous`.
    Kept { binary: Box<Binary>, previous: bool, failure: Option<String> },
}

/// A request on its way to admission.
#[derive(Debug)]
pub(crate) struct Checked {
    new: NewOperation,
    admission: Option<Admission>,
    /// An operation that has this ID already.
    found: Option<Operation>,
    room: Result<(), JournalError>,
    /// The generation that a rollback is to go to.
    target: Option<Result<u64, Refused>>,
    /// The kept binary that an upgrade is to.
    binary: Option<Result<Binary, Refused>>,
}

impl Checked {
    /// The request, and who waits for its admission: nothing becomes of it.
    fn given_up(self) -> (NewOperation, Option<Admission>) {
        (self.new, self.admission)
    }
}

/// Who waits for a refusal to be written.
#[derive(Debug)]
pub(crate) enum RefusalAnswer {
    Nobody,
    Admission(Admission, Refused),
    Written(oneshot::Sender<Operation>),
}

/// A generation that is being prepared.
#[derive(Debug)]
struct Candidate {
    worker: WorkerKey,
    generation: GenerationNumber,
    source: Source,
    dry_run: bool,
    /// The message that begins it, as long as what it is made from is being fetched.
    order: Option<ToWorker>,
    /// What it is made from, if not from the disk.
    given: Option<Arc<Loaded>>,
    needs: Vec<ListenerSpec>,
    prepared: Option<Prepared>,
}

/// What a worker said about a candidate that is ready.
#[derive(Debug)]
struct Prepared {
    changes: Vec<Change>,
    warnings: Vec<Problem>,
    settings: Settings,
    summary: Vec<String>,
    version: Option<String>,
    loaded: Option<Arc<Loaded>>,
}

/// A generation, at hand for the next worker.
#[derive(Debug)]
pub(crate) struct Loaded {
    file: Arc<OwnedFd>,
    drift: Arc<Drift>,
    /// What differed when it was made.
    changes: Vec<Change>,
    /// The source's own name for it.
    version: Option<String>,
    /// The operation that made it.
    operation_id: Option<String>,
}

/// What serves.
#[derive(Debug)]
struct Serving {
    worker: WorkerKey,
    generation: GenerationNumber,
    loaded: Arc<Loaded>,
    settings: Settings,
    summary: Vec<String>,
    committed_at: String,
    /// Whether it serves because somebody went back to it, or restored it, and not because it was on the disk.
    is_rollback: bool,
}

/// The change that awaits confirmation, as it is shown.
#[derive(Debug, Clone)]
pub(crate) struct Probation {
    operation_id: String,
    actor: Actor,
    comment: Option<String>,
    generation: GenerationNumber,
    back_to: GenerationNumber,
    /// RFC 3339.
    until: String,
    /// If it is an upgrade: the worker that took over, and from which binary to which. Both generations are the same.
    upgrade: Option<(WorkerKey, Box<Upgrade>)>,
}

/// What must outlive a worker and is no file.
#[derive(Debug, Clone)]
struct CarriedState {
    bytes: Carried,
    file: Arc<OwnedFd>,
}

/// Everything around the driver that lasts as long as the supervisor.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) options: Options,
    /// What this process runs.
    pub(crate) program: Arc<Image>,
    /// Where it was started from: what lies there is what an upgrade is to, unless it says otherwise.
    pub(crate) installed: PathBuf,
    /// The binary that can be gone back to, as the journal says.
    pub(crate) kept: Option<Binary>,
    pub(crate) lock: Lock,
    pub(crate) control: ControlSocket,
    pub(crate) listeners: Listeners,
    pub(crate) scribe: Scribe,
    pub(crate) notifier: Notifier,
    pub(crate) store: FdStore,
    pub(crate) crossing: Crossing,
    pub(crate) events: broadcast::Sender<Told>,
    pub(crate) settings: watch::Sender<Settings>,
}

/// The queues that the driver takes from.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) inputs: mpsc::Receiver<Input>,
    pub(crate) workers: mpsc::Receiver<(WorkerKey, FromWorker)>,
    pub(crate) signals: Signals,
}

/// The driver.
#[derive(Debug)]
pub(crate) struct Driver {
    parts: Parts,
    machine: Machine,
    begun: Instant,
    started_at: String,
    inputs: mpsc::Sender<Input>,
    from_workers: mpsc::Sender<(WorkerKey, FromWorker)>,
    workers: BTreeMap<WorkerKey, Worker>,
    workers_started: u64,
    candidates: BTreeMap<CandidateKey, Candidate>,
    loaded: BTreeMap<GenerationNumber, Arc<Loaded>>,
    serving: Option<Serving>,
    /// The generation that the server may have to go back to: its bytes are kept at hand.
    back_to: Option<GenerationNumber>,
    probation: Option<Probation>,
    carried: Option<CarriedState>,
    binaries: binaries::Binaries,
    /// The operation for which this process becomes another program when this turn is over.
    leaving: Option<OperationKey>,
    upgrading: upgrades::Upgrading,
    /// Whether the worker holds sockets that it does not serve.
    holding: bool,
    operations: Operations,
    programs: Programs,
    hosting: programs::Hosting,
    /// Requests that wait until a look at what would change has ended.
    after_look: VecDeque<(NewOperation, Option<Binary>, Option<Admission>)>,
    asks: asking::Asks,
    last: Option<Operation>,
    metrics: Arc<Metrics>,
    /// Reports that workers were asked for.
    reports: BTreeMap<u64, oneshot::Sender<String>>,
    /// Actions that run: which call is which operation's.
    actions: BTreeMap<u64, OperationKey>,
    /// The guard that runs: its call and whose it is.
    guard: Option<(u64, OperationKey)>,
    calls: u64,
    pings: Pings,
    /// How the worker that was lost last ended.
    last_exit: Option<String>,
    connections: Option<u64>,
    banner_printed: bool,
    /// What the banner must say beside what serves: why it is not what is on the disk.
    notes: Vec<String>,
    before: Before,
    pending: VecDeque<Event>,
    exit: Option<Exit>,
}

#[derive(Debug)]
struct Pings {
    next: tokio::time::Instant,
    interval: Duration,
    unanswered: u32,
}

impl Driver {
    pub(crate) fn new(
        parts: Parts,
        machine: Machine,
        operations: Operations,
        inputs: mpsc::Sender<Input>,
        from_workers: mpsc::Sender<(WorkerKey, FromWorker)>,
    ) -> Self {
        let interval =
            parts.notifier.watchdog_interval().map_or(PING_INTERVAL, |wanted| wanted.min(PING_INTERVAL));
        let binaries = binaries::Binaries::new(&parts);
        let options = &parts.options;
        let setup = programs_setup(&options.name, parts.lock.control(), &options.state);
        let programs = Programs::new(setup);
        let hosting = programs::Hosting { awaited: parts.options.for_programs, ..Default::default() };
        Driver {
            parts,
            binaries,
            leaving: None,
            upgrading: upgrades::Upgrading::default(),
            machine,
            begun: Instant::now(),
            started_at: now(),
            inputs,
            from_workers,
            workers: BTreeMap::new(),
            workers_started: 0,
            candidates: BTreeMap::new(),
            loaded: BTreeMap::new(),
            serving: None,
            back_to: None,
            probation: None,
            carried: None,
            holding: false,
            operations,
            programs,
            hosting,
            after_look: VecDeque::new(),
            asks: asking::Asks::default(),
            last: None,
            metrics: Arc::new(Metrics::new()),
            reports: BTreeMap::new(),
            actions: BTreeMap::new(),
            guard: None,
            calls: 0,
            pings: Pings { next: tokio::time::Instant::now() + interval, interval, unanswered: 0 },
            last_exit: None,
            connections: None,
            banner_printed: false,
            notes: Vec::new(),
            before: Before::default(),
            pending: VecDeque::new(),
            exit: None,
        }
    }

    /// Runs until the machine says that it is over.
    pub(crate) async fn run(mut self, begin: Event, mut queues: Queues) -> Ended {
        self.step(begin);
        // What was left behind is told where requests go now, and what was not answered is asked again.
        self.worker_changed();
        self.go_on();
        while self.exit.is_none() {
            if let Some(operation) = self.leaving.take() {
                self.leave(operation, &mut queues).await;
                continue;
            }
            let deadline = self.deadline();
            tokio::select! {
                arrived = queues.signals.next() => self.signal(arrived),
                Some((worker, what)) = queues.workers.recv() => self.worker_did(worker, what),
                Some(input) = queues.inputs.recv() => self.input(input),
                Some(command) = queues.commands.recv() => self.command(command),
                () = tokio::time::sleep_until(self.pings.next) => self.ping(),
                happened = self.programs.next() => {
                    self.programs.take(happened);
                    self.go_on();
                }
                () = wait_until(self.hosting.keep_at) => self.keep(),
                () = wait_until(deadline) => self.step(Event::Tick),
            }
        }
        self.end()
    }

    /// Tells the machine, does what it says, and goes on with what came of that.
    fn step(&mut self, event: Event) {
        self.pending.push_back(event);
        self.go_on();
    }

    fn go_on(&mut self) {
        loop {
            while let Some(event) = self.pending.pop_front() {
                tracing::trace!(?event, "event");
                for effect in self.machine.step(self.begun.elapsed(), event) {
                    tracing::trace!(?effect, "effect");
                    self.perform(effect);
                }
            }
            if !self.hear_programs() && self.pending.is_empty() {
                break;
            }
        }
        self.metrics.restarts(self.machine.view().restarts);
        if !self.after_look.is_empty() {
            self.after_look();
        }
        self.ask_for_own();
    }

    fn deadline(&self) -> Option<tokio::time::Instant> {
        let at = self.machine.deadline()?;
        Some(tokio::time::Instant::from_std(self.begun.checked_add(at)?))
    }

    fn signal(&mut self, arrived: Arrived) {
        use crate::handle::Ask;
        match arrived {
            Arrived::Hangup => self.ask_by_signal(Ask::reload(), Actor::signal("HUP")),
            Arrived::End(name) => {
                let limit = self.drain_limit();
                self.ask_by_signal(Ask::Stop { now: false, limit }, Actor::signal(name));
            }
            Arrived::User1 => self.reopen_logs(),
            Arrived::User2 => self.ask_by_signal(Ask::upgrade(), Actor::signal("USR2")),
            Arrived::Child => self.reap(),
        }
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Checked(checked) => self.checked(*checked),
            Input::Bound { worker, candidate, bindings } => self.bound(worker, candidate, &bindings),
            Input::Fetched { worker, candidate, fetched } => self.fetched(worker, candidate, fetched),
            Input::Unpacked { worker, candidate, loaded } => self.unpacked(worker, candidate, loaded),
            Input::Renewed { worker, call, ok, loaded } => self.renewed(worker, call, ok, loaded),
            Input::Asked { worker, call, done, detail } => self.asked(worker, call, done, detail),
            Input::Noted { operation } => self.noted(operation),
            Input::Intent { operation, generation, failure: None } => {
                self.step(Event::IntentWritten { operation, generation });
            }
            Input::Intent { operation, generation, failure: Some(why) } => {
                tracing::error!("{why}");
                if let Some(entry) = self.operations.get_mut(operation) {
                    entry.operation.errors.push(Problem::new(why));
                }
                self.step(Event::IntentFailed { operation, generation });
            }
            Input::Outcome { operation, written: true } => self.step(Event::OutcomeWritten { operation }),
            Input::Outcome { operation, written: false } => self.step(Event::OutcomeFailed { operation }),
            Input::Joined { request } => {
                self.operations.answer(request);
            }
            Input::Refused { operation, answer } => self.refusal_written(*operation, answer),
            Input::Examined { operation, exam, result } => self.examined(operation, exam, result),
            Input::Counted { operation, connections } => self.counted(operation, connections),
            Input::Kept { binary, previous, failure } => self.kept(*binary, previous, failure),
            Input::Compared { generation, equal } => {
                if self.serving.as_ref().is_some_and(|serving| serving.generation == generation) {
                    self.metrics.equals_desired(equal);
                    self.send_facts();
                }
            }
        }
    }

    /// Says something to everybody who listens to events.
    fn tell(&self, kind: EventKind, message: String, operation: Option<Operation>) {
        // Fails only if nobody listens.
        let _ = self.parts.events.send(Told { kind, at: now(), message, operation });
    }

    /// How long connections may take to end, if a request does not say.
    fn drain_limit(&self) -> Option<Duration> {
        self.serving.as_ref().and_then(|serving| serving.settings.drain_limit)
    }

    fn reopen_logs(&self) {
        for worker in self.workers.values() {
            worker.send(ToWorker::ReopenLogs, Vec::new());
        }
        (self.parts.options.reopen_logs)();
        tracing::info!("log files were opened again");
    }

    /// Lets go of everything but the journal: listeners are closed, control socket and lock unlinked.
    fn end(self) -> Ended {
        let code = self.hosting.code;
        Ended { exit: self.exit.unwrap_or(Exit::Stopped), scribe: self.parts.scribe, last: self.last, code }
    }
}

/// What is left when the driver has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    pub(crate) scribe: Scribe,
    /// The operation that ended last: the start that failed, or the stop.
    pub(crate) last: Option<Operation>,
    /// The exit code of the program that the server was there for, if it ended with it.
    pub(crate) code: Option<u8>,
}

/// What programs need to know of their server.
pub(crate) fn programs_setup(name: &str, control: &Path, state: &Path) -> Setup {
    Setup {
        name: name.to_owned(),
        runtime: control.parent().map_or_else(PathBuf::new, Path::to_owned),
        state: state.to_owned(),
    }
}

async fn wait_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
