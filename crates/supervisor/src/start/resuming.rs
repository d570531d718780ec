//! The life of a supervisor that has become another program: it goes on where the one before has stopped.
//!
//! ```text
//!   arrived ─▶ signals (they still wait) ─▶ all taken up, journal open ─▶ held ─▶ signals taken ─▶ drive
//!                        │ anything fails
//!                        └─▶ back into the program before, which has everything as it was
//! ```
//!
//! Until all that can fail is done, nothing is held that would undo something when it is let go of.

use std::sync::Arc;

use handover_api::Binary;
use handover_handoff::inherit::Expected;
use handover_handoff::process;
use handover_lifecycle::{Event, Machine, Recovered};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::{DEFAULT_KEEP, Journal, Line, Over, StartError, drive, recovered_numbers};
use crate::control;
use crate::control_socket::{self, Lock};
use crate::driver::{self, Driver, Parts, QUEUE, Queues};
use crate::listeners::{self, Listeners};
use crate::operations::Operations;
use crate::options::Options;
use crate::programs::Setup;
use crate::reexec::{Arrived, ResumeError, State};
use crate::scribe::Scribe;
use crate::signals::Signals;
use crate::systemd::{FdStore, Notifier};

/// Everything that can fail, done.
struct Ready {
    signals: Signals,
    control: control_socket::Unpacked,
    listeners: listeners::Unpacked,
    left: driver::Unpacked,
    machine: Machine,
    scribe: Scribe,
    kept: Option<Binary>,
    state: State,
}

/// Goes on where another program of this process has stopped; or goes back into it, which does not return.
///
/// # Errors
/// There is no way on, and none back.
pub(super) async fn go_on(arrived: Arrived, options: Options) -> Result<Over, StartError> {
    let why = match get_ready(&arrived, &options) {
        Ok(ready) => match hold(ready, options) {
            Ok(mut held) => {
                // Duplicates of all this are held by now: there is no way back any more.
                drop(arrived);
                held.driver.look_for_the_dead();
                return Ok(drive(held.driver, Event::Reexecuted, held.queues, held.server, held.close).await);
            }
            Err(why) => why,
        },
        Err(why) => why,
    };
    tracing::error!("the supervisor cannot go on in this binary, and goes back into the one before: {why}");
    let stranded = arrived.go_back(&why);
    Err(StartError::Stranded { why, stranded })
}

fn get_ready(arrived: &Arrived, options: &Options) -> Result<Ready, ResumeError> {
    let other = |doing| move |error: std::io::Error| ResumeError::Other { doing, why: error.to_string() };
    let state = match &arrived.state {
        Ok(state) => state.clone(),
        Err(error) => return Err(ResumeError::Damaged(error.to_string())),
    };
    state.check()?;
    // A process that was executed by a descriptor may have its number for a name. Going on matters more.
    let _ = process::take_programs_name();
    if state.pid != std::process::id() {
        return Err(ResumeError::Damaged("it is another process's".to_owned()));
    }
    let signals = Signals::install().map_err(other("install signal handlers"))?;
    let mut unpacking = arrived.unpack();
    let control = Lock::unpack(&state.control, &unpacking)?;
    let listeners = Listeners::unpack(&state.listeners, &mut unpacking)?;
    let left = driver::unpack(&state, setup(&state, options), &mut unpacking)?;
    let lock = unpacking.owned(state.journal.lock, Expected::Other)?;
    let journal = Journal::open_locked(&state.journal.directory, DEFAULT_KEEP, Some(lock));
    let journal =
        journal.map_err(|error| ResumeError::Other { doing: "open the journal", why: error.to_string() })?;
    let recovered = Recovered { unfinished: Vec::new(), ..recovered_numbers(&journal) };
    let machine = Machine::resume(options.limits, recovered, state.machine.clone())?;
    let kept = journal.previous_binary().cloned();
    let scribe = Scribe::start(journal).map_err(other("start the journal's thread"))?;
    Ok(Ready { signals, control, listeners, left, machine, scribe, kept, state })
}

/// What programs need to know of the server: the one that has left them.
fn setup(state: &State, options: &Options) -> Setup {
    let control = &state.control.path;
    driver::programs_setup(&options.name, control, &state.journal.directory)
}

/// A driver that can be run, and everything around it.
struct Held {
    driver: Driver,
    queues: Queues,
    server: JoinHandle<std::io::Result<()>>,
    close: watch::Sender<bool>,
}

fn hold(ready: Ready, options: Options) -> Result<Held, ResumeError> {
    let Ready { signals, control, listeners, left, machine, scribe, kept, state } = ready;
    let Line { requests, events, settings, close, handle } = Line::new();
    let (socket, lock, control) = control.hold();
    let listeners = listeners.hold();
    let options =
        Options { control: lock.control().to_owned(), state: state.journal.directory.clone(), ..options };
    let parts = Parts {
        options,
        program: Arc::clone(&left.own),
        installed: state.programs.installed.clone(),
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
    let operations = Operations::resume(state.operations_made, state.operations.clone());
    let (inputs, taken_inputs) = mpsc::channel(QUEUE);
    let (from_workers, said) = mpsc::channel(QUEUE);
    let mut driver = Driver::new(parts, machine, operations, inputs, from_workers);
    let waiting = match driver.resume(&state, left) {
        Ok(waiting) => waiting,
        Err(error) => {
            // What it holds would be unlinked, and the program before still needs it.
            std::mem::forget(driver);
            return Err(ResumeError::Other { doing: "watch the worker", why: error.to_string() });
        }
    };
    for (waiter, ticket) in waiting {
        tokio::spawn(waiter.answer(ticket));
    }
    let server = tokio::spawn(control::serve(socket, handle));
    signals.release();
    let queues = Queues { commands: requests, inputs: taken_inputs, workers: said, signals };
    Ok(Held { driver, queues, server, close })
}
