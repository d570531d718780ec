//! Which of the two processes this is, and its whole life.
//!
//! ```text
//!   asked about itself? ─ yes ─▶ one line about its versions, and the end   (the preflight of an upgrade)
//!        │ no
//!   a channel? ─ yes ─▶ worker      ─ no ─▶ supervisor: with the state of the one whose place it has taken, if any
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use handover_handoff::inherit::{self, SUCCESSION_VARIABLE};
use handover_supervisor::preflight;

use crate::logging;
use crate::service::Service;
use crate::worker::{self, Setup};

pub use handover_supervisor::Options as HostOptions;

/// The exit code of a process that was started in a way it cannot run in (sysexits.h: EX_USAGE is 64; this is the
/// command line's own code for it).
const EXIT_USAGE: u8 = 2;

/// Runs this process: as the supervisor, or, when the supervisor started it, as the worker that serves
/// `service`. Returns when the process should exit, with the code to exit with.
///
/// Call it first thing in `main`, from the main thread, before other threads exist. `service` is built in the
/// worker only. Logging goes to stderr unless [`logging::init`] was called before.
///
/// A supervisor that is about to become this program runs it first, with the same arguments, only to hear which versions
/// it speaks: then this says so on standard output and returns at once. What `main` does before this call is done then,
/// too, so it should not bind, write or start anything.
pub fn host<S: Service>(mut options: HostOptions, service: impl FnOnce() -> S) -> ExitCode {
    if preflight::is_asked() {
        return preflight::answer(&options.name, &options.version);
    }
    logging::start_default();
    let channel = match inherit::channel() {
        Ok(channel) => channel,
        Err(error) => {
            tracing::error!("this process cannot be a worker: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match channel {
        None => {
            let before = Arc::clone(&options.reopen_logs);
            options.reopen_logs = Arc::new(move || {
                reopen_logs();
                before();
            });
            let before = Arc::clone(&options.apply_log);
            options.apply_log = Arc::new(move |settings| {
                if let Err(error) = logging::init(&settings.into()) {
                    tracing::error!("{error}; the supervisor logs on as before");
                }
                before(settings);
            });
            handover_supervisor::run(options)
        }
        Some(channel) => {
            worker::first_thing();
            worker::run(Setup {
                channel,
                succession: std::env::var_os(SUCCESSION_VARIABLE).map(PathBuf::from),
                version: options.version,
                service: Arc::new(service()),
            })
        }
    }
}

/// Opens this process's log file again; if that fails, the old one is kept and says so.
pub(crate) fn reopen_logs() {
    if let Err(error) = logging::reopen() {
        tracing::error!("{error}; lines go on into the file that was open");
    }
}
