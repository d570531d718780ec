//! Work that may take its time, in threads of its own, with the result as a notice.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use handover_handoff::Bundle;
use handover_supervisor::protocol::{Report, Target};

use super::candidates::panic_text;
use super::loans::Loans;
use super::mailbox::Post;
use super::{Notice, Number};
use crate::drain::Drain;
use crate::prepare::{CalledOff, Prepare};
use crate::service::Service;
use crate::traffic::Quiet;
use crate::types::Losses;

/// Where to: the service that does the work, and the mailbox that its result goes to.
#[derive(Clone)]
pub(crate) struct Errands {
    pub(crate) service: Arc<dyn Service>,
    pub(crate) post: Post<Notice>,
    pub(crate) loans: Loans,
}

impl Errands {
    /// How many threads of the service answer a probe.
    pub(crate) fn threads(&self) -> u32 {
        self.service.moving().map_or(1, |moving| moving.threads().max(1))
    }

    /// Runs an action. `files` reads from the disk and binds nothing.
    pub(crate) fn action(&self, call: Number, name: String, body: String, mut files: Prepare) {
        let service = Arc::clone(&self.service);
        self.run("action", move || {
            let result = catch_unwind(AssertUnwindSafe(|| service.action(&name, &body, &mut files)))
                .unwrap_or_else(|payload| Err(format!("the action panicked: {}", panic_text(&payload))));
            Notice::ActionDone { call, result, files: files.into_bundle() }
        })
        .unwrap_or_else(|error| {
            let result = Err(format!("a thread for the action could not be started: {error}"));
            self.post.send(Notice::ActionDone { call, result, files: Bundle::new() });
        });
    }

    /// Asks the service about itself.
    pub(crate) fn report(&self, call: Number, what: Report) {
        let service = Arc::clone(&self.service);
        let report = move || match what {
            Report::Metrics => service.metrics(),
            Report::Connections => service.connections(),
            Report::Certificates => service.certificates(),
            Report::Held => service.held(),
            Report::ConnectionCount => {
                service.open_connections().map_or_else(String::new, |count| count.to_string())
            }
        };
        self.run("report", move || {
            let body = catch_unwind(AssertUnwindSafe(report)).unwrap_or_else(|payload| {
                tracing::error!("reporting {what:?} panicked: {}", panic_text(&payload));
                String::new()
            });
            Notice::Reported { call, body }
        })
        .unwrap_or_else(|error| {
            tracing::error!("a thread for a report could not be started: {error}");
            self.post.send(Notice::Reported { call, body: String::new() });
        });
    }

    /// Waits until nothing of this is in flight.
    pub(crate) fn quiet(&self, call: Number, target: Target, limit: Duration, called_off: CalledOff) {
        let service = Arc::clone(&self.service);
        self.run("quiet", move || {
            let wait = || service.quiet(&target, limit, &called_off);
            let quiet = catch_unwind(AssertUnwindSafe(wait)).unwrap_or_else(|payload| {
                tracing::error!("waiting until {target} is quiet panicked: {}", panic_text(&payload));
                Quiet::UNKNOWN
            });
            Notice::Quiet { call, quiet }
        })
        .unwrap_or_else(|error| {
            tracing::error!("a thread to wait for quiet in could not be started: {error}");
            self.post.send(Notice::Quiet { call, quiet: Quiet::UNKNOWN });
        });
    }

    /// Drains.
    pub(crate) fn drain(&self, drain: &Drain) {
        let (service, running) = (Arc::clone(&self.service), drain.clone());
        self.end("drain", move || service.drain(&running));
    }

    /// Cuts everything.
    pub(crate) fn stop_now(&self) {
        let service = Arc::clone(&self.service);
        self.end("stop", move || service.stop_now());
    }

    /// Runs what ends connections; if it panics or cannot run, nobody knows what was lost.
    fn end(&self, name: &'static str, work: impl FnOnce() -> Losses + Send + 'static) {
        let end = move || {
            let losses = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
                tracing::error!("the {name} panicked: {}", panic_text(&payload));
                unknown_losses()
            });
            Notice::Drained { losses }
        };
        self.run(name, end).unwrap_or_else(|error| {
            tracing::error!("a thread for the {name} could not be started: {error}");
            self.post.send(Notice::Drained { losses: unknown_losses() });
        });
    }

    /// Serves again.
    pub(crate) fn resume(&self) {
        let service = Arc::clone(&self.service);
        self.run("resume", move || match catch_unwind(AssertUnwindSafe(|| service.resume())) {
            Ok(()) => Notice::Resumed,
            Err(payload) => Notice::Failed { why: format!("resuming panicked: {}", panic_text(&payload)) },
        })
        .unwrap_or_else(|error| {
            let why = format!("a thread to resume in could not be started: {error}");
            self.post.send(Notice::Failed { why });
        });
    }

    fn run(&self, name: &str, work: impl FnOnce() -> Notice + Send + 'static) -> std::io::Result<()> {
        let post = self.post.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || post.send(work())).map(drop)
    }
}

fn unknown_losses() -> Losses {
    let mut losses = Losses::default();
    losses.add("unknown", 1);
    losses
}

/// How long a stop that is not "now" lets what is being written end.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(1);

/// How long after a stop's deadline the process ends although the service has not answered.
pub(crate) const STOP_AT_THE_LATEST: Duration = Duration::from_secs(2);
