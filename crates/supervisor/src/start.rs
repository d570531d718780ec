//! The life of a supervisor, from its first system call to its exit code.
//!
//! ```text
//!   signals ─▶ lock ─┬─ a worker of an earlier supervisor lives ─▶ adopt it ─┐
//!                    └─ none ───────────────────▶ start one ─────────────────┼─▶ drive ─▶ let go ─▶ exit
//!   this process was another program until now ─▶ go on (`resuming.rs`) ─────┘
//! ```
//!
//! The order matters. Signals first, so that a stray one is harmless. The lock before anything that two
//! supervisors must not both do. At the end everything that the next supervisor needs (lock, journal, control socket,
//! ports) is let go of before the last answer is written, so that whoever waited for `stop` can start anew at once.

mod resuming;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use handover_api::{Event as Told, Outcome};
use handover_handoff::inherit::{self, InheritError, Inherited};
use handover_handoff::process::{self, Executable};
use handover_lifecycle::{Event, Exit, GenerationNumber, Limits, Machine, Recovered, Unfinished, WorkerKey};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;

use crate::binary;
use crate::control::{self, Crossing};
use crate::control_socket::{ControlError, Lock};
use crate::driver::{self, Before, Driver, Ended, Parts, QUEUE, Queues};
use crate::found::{CannotAdopt, Found};
use crate::handle::{self, Command, DriverHandle};
use crate::image::Image;
use crate::journal::{DEFAULT_KEEP, Journal, JournalError};
use crate::listeners::Listeners;
use crate::operations::Operations;
use crate::options::{Options, StartFrom};
use crate::programs::Programs;
use crate::protocol::Settings;
use crate::reexec::{self, ResumeError};
use crate::scribe::Scribe;
use crate::signals::Signals;
use crate::systemd::{FdStore, Notifier};

/// How long answers that are being written may take at the end, the control server's own limit included.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// Why a supervisor cannot begin. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("the sockets from the service manager cannot be used: {0}")]
    Inherit(#[from] InheritError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Adopt(#[from] CannotAdopt),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("this process was a supervisor in another binary, and cannot go on: {0}")]
    Resume(#[from] ResumeError),
    #[error(
        "this binary cannot go on with the supervisor's state: {why}; and there is no way back: {stranded}"
    )]
    Stranded { why: ResumeError, stranded: ResumeError },
    #[error("{}", not_kept(*wanted, kept))]
    NotKept { wanted: StartFrom, kept: Vec<u64> },
    #[error("cannot {doing}: {source}")]
    Io { doing: &'static str, source: std::io::Error },
}

impl StartError {
    fn io(doing: &'static str) -> impl Fn(std::io::Error) -> StartError {
        move |source| StartError::Io { doing, source }
    }

    fn exit_code(&self) -> handover_api::ExitCode {
        match self {
            StartError::Control(ControlError::Held { .. })
            | StartError::Journal(JournalError::InUse { .. })
            | StartError::Adopt(_) => handover_api::ExitCode::BusyOrStale,
            StartError::Inherit(_)
            | StartError::NotKept { .. }
            | StartError::Control(ControlError::TooLong { .. }) => handover_api::ExitCode::Usage,
            _ => handover_api::ExitCode::Differs,
        }
    }
}

fn not_kept(wanted: StartFrom, kept: &[u64]) -> String {
    let what = match wanted {
        StartFrom::Last => "the journal has no generation to start from".to_owned(),
        StartFrom::Generation(number) => {
            format!("the journal does not have the bytes of generation {number}")
        }
    };
    match kept {
        [] => format!("{what}; start from the files on disk, without --generation"),
        kept => {
            let kept: Vec<String> = kept.iter().map(u64::to_string).collect();
            format!("{what}; it has {}", kept.join(", "))
        }
    }
}

/// Supervises until it is told to stop, or until the first generation cannot be served. Returns the exit code
/// of `handover serve`: 0 after a stop, 10 if the configuration was rejected, 11 if the worker did not become
/// ready, 13 if another supervisor has the control socket, 2 if it was started in a way it cannot run in, 1
/// otherwise; with [`Options::for_programs`] that of the program, if the server ended with it. What was wrong is printed on stderr.
///
/// Call it from the main thread, before other threads exist.
#[must_use]
pub fn run(options: Options) -> ExitCode {
    let name = options.name.clone();
    match begin(options) {
        Ok(Over { exit: Exit::Stopped, code: Some(code), .. }) => code.into(),
        Ok(ended) => exit_code(&name, &ended).into(),
        Err(error) => {
            complain(&name, &error.to_string());
            error.exit_code().into()
        }
    }
}

fn begin(options: Options) -> Result<Over, StartError> {
    let arrived = reexec::arrived()?;
    if let Err(error) = handover_handoff::own::keep_descriptors_for_messages() {
        tracing::warn!("the limit of open descriptors cannot be changed: {error}");
    }
    // Signals are the main thread's alone: it must be able to keep them back.
    let block = || {
        if let Err(error) = handover_handoff::signals::block_managed() {
            tracing::warn!("signals cannot be kept from a thread: {error}");
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().on_thread_start(block).build();
    let runtime = runtime.map_err(StartError::io("start the event loop"))?;
    let result = match arrived {
        None => runtime.block_on(live(options)),
        Some(arrived) => runtime.block_on(resuming::go_on(arrived, options)),
    };
    // A thread that waits for a disk that hangs must not keep the process.
    runtime.shutdown_background();
    result
}

fn exit_code(name: &str, ended: &Over) -> handover_api::ExitCode {
    let Exit::StartFailed(verdict) = ended.exit else { return handover_api::ExitCode::Success };
    match &ended.report {
        Some(report) => complain(name, report),
        None => complain(name, &verdict.cause.to_string()),
    }
    match verdict.outcome {
        Outcome::Rejected => handover_api::ExitCode::Rejected,
        _ => handover_api::ExitCode::NotReady,
    }
}

/// Says on stderr why there is no server. For people, whatever the log looks like.
fn complain(name: &str, why: &str) {
    use std::io::Write as _;
    // If stderr is closed, the exit code has to do.
    let _ = writeln!(std::io::stderr().lock(), "{name}: {why}");
}

/// How it ended.
struct Over {
    exit: Exit,
    report: Option<String>,
    /// The exit code of the program that the server was there for, if it ended with it.
    code: Option<u8>,
}

async fn live(options: Options) -> Result<Over, StartError> {
    let signals = Signals::install().map_err(StartError::io("install signal handlers"))?;
    let inherited = inherit::listen_fds()?;
    let executable = Executable::current().map_err(StartError::io("keep the program's own file open"))?;
    let installed = binary::started_from().map_err(StartError::io("find out where the program lies"))?;
    process::become_subreaper().map_err(StartError::io("become the reaper of orphans"))?;
    let lock = Lock::take(&options.control)?;
    let found = find_worker(&lock, &options.limits)?;
    let journal = Journal::open(&options.state, DEFAULT_KEEP)?;
    let (socket, control) = lock.bind()?;

    let Line { requests, events, settings, close, handle } = Line::new();
    let mut operations = Operations::new();
    let recovered = recovered(&journal, &mut operations);
    let from = match options.start_from.filter(|_| found.is_none()) {
        None => None,
        Some(wanted) => {
            let from = driver::start_from(&journal, wanted);
            Some(from.map_err(|kept| StartError::NotKept { wanted, kept })?)
        }
    };
    let before = Before::of(&journal, found.is_some());
    let kept = journal.previous_binary().cloned();
    let known = found.as_ref().and_then(|found| journal.generation(found.serving.generation).cloned());
    let made_by = found.as_ref().and_then(|found| journal.recovery().meant(found.serving.generation));
    let scribe = Scribe::start(journal).map_err(StartError::io("start the journal's thread"))?;
    let machine = Machine::new(options.limits, recovered);
    let program = Arc::new(Image::new(executable, Some(options.version.clone())));
    let listeners = listeners(inherited);
    let parts = Parts {
        options,
        program,
        installed,
        kept,
        lock,
        control,
        store: FdStore::new(listeners.passed()),
        listeners,
        scribe,
        notifier: Notifier::new(),
        crossing: handle.crossing.clone(),
        events,
        settings,
    };
    let (inputs, taken_inputs) = mpsc::channel(QUEUE);
    let (from_workers, said) = mpsc::channel(QUEUE);
    if found.is_none() {
        let setup = driver::programs_setup(&parts.options.name, parts.lock.control(), &parts.options.state);
        for ended in Programs::end_leftovers(&setup).await {
            tracing::warn!("{ended}");
        }
    }
    let mut driver = Driver::new(parts, machine, operations, inputs, from_workers);
    let begin = match found {
        Some(found) => {
            driver.adopt(found, known, made_by, before).map_err(StartError::io("watch the worker"))?
        }
        None => driver.begin(before, from),
    };
    let server = tokio::spawn(control::serve(socket, handle));
    let queues = Queues { commands: requests, inputs: taken_inputs, workers: said, signals };
    Ok(drive(driver, begin, queues, server, close).await)
}

/// Drives until it is over, and lets go of everything.
async fn drive(
    driver: Driver,
    begin: Event,
    queues: Queues,
    server: JoinHandle<std::io::Result<()>>,
    close: watch::Sender<bool>,
) -> Over {
    let Ended { exit, scribe, last, code } = driver.run(begin, queues).await;
    scribe.close();
    close.send_replace(true);
    if tokio::time::timeout(LAST_ANSWERS, server).await.is_err() {
        tracing::warn!("the control server did not end in time");
    }
    Over { exit, report: last.map(|operation| operation.report()), code }
}

/// The line between the driver and those who ask: its end for them is `handle`.
struct Line {
    requests: mpsc::Receiver<Command>,
    events: broadcast::Sender<Told>,
    settings: watch::Sender<Settings>,
    close: watch::Sender<bool>,
    handle: DriverHandle,
}

impl Line {
    fn new() -> Self {
        let (commands, requests) = mpsc::channel(handle::QUEUE);
        let (events, _) = broadcast::channel(handle::EVENTS_KEPT);
        let (settings, seen_settings) = watch::channel(Settings::default());
        let (close, closing) = watch::channel(false);
        let handle = DriverHandle {
            commands,
            events: events.clone(),
            settings: seen_settings,
            closing,
            crossing: Crossing::default(),
        };
        Line { requests, events, settings, close, handle }
    }
}

fn listeners(inherited: Vec<Inherited>) -> Listeners {
    for Inherited { name, .. } in &inherited {
        tracing::info!("the service manager passed the socket {name}");
    }
    Listeners::new(inherited)
}

/// The worker of an earlier supervisor, if one lives.
fn find_worker(lock: &Lock, limits: &Limits) -> Result<Option<Found>, StartError> {
    Ok(Found::behind(&lock.worker_paths(), limits)?)
}

/// What the journal says of the time before. Operations without an outcome get a place among those of now, so
/// that the machine can end them.
fn recovered(journal: &Journal, operations: &mut Operations) -> Recovered {
    let recovery = journal.recovery();
    if recovery.torn_bytes > 0 || recovery.damaged_lines > 0 {
        tracing::warn!(
            torn_bytes = recovery.torn_bytes,
            damaged_lines = recovery.damaged_lines,
            "the journal was damaged and has been mended"
        );
    }
    let unfinished = recovery.unfinished.iter().map(|unfinished| Unfinished {
        operation: operations.own(unfinished.operation.clone()),
        kind: unfinished.operation.kind,
        intent: unfinished.intent.map(GenerationNumber),
        upgrade: unfinished.upgrade.map(WorkerKey),
    });
    let unfinished = unfinished.collect();
    Recovered { unfinished, ..recovered_numbers(journal) }
}

/// The numbers that must not be given twice.
fn recovered_numbers(journal: &Journal) -> Recovered {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Recovered {
        last_generation: GenerationNumber(journal.last_generation()),
        keys_from: u64::try_from(since.as_millis()).unwrap_or(0),
        last_good: journal.last_good().map(GenerationNumber),
        unfinished: Vec::new(),
    }
}
