//! Telling the service manager (sd_notify(3)): silent when there is none.
//!
//! ```text
//!   start ───── READY=1, STATUS=the start's sentence
//!   reload ──── RELOADING=1 + MONOTONIC_USEC … STATUS=the verdict … READY=1, also when the reload failed
//!   stop ────── STOPPING=1, EXTEND_TIMEOUT_USEC=as long as the drain may take
//!   always ──── WATCHDOG=1, as long as the worker answers
//!   listeners ─ FDSTORE=1 while they serve (`store.rs`)
//! ```
//!
//! `Type=notify-reload` hangs when MONOTONIC_USEC is missing, or READY=1 after a reload that failed.

mod store;

use std::time::Duration;

use sd_notify::NotifyState;

pub(crate) use store::{FdStore, name_of};

/// The line to the service manager.
#[derive(Debug)]
pub(crate) struct Notifier {
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Finds out from the environment whether there is a service manager, and what it wants.
    pub(crate) fn new() -> Self {
        Notifier { watchdog: sd_notify::watchdog_enabled() }
    }

    /// How often the watchdog must be fed at least: a third of what the manager allows. `None`: not at all.
    pub(crate) fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 3)
    }

    /// The server is ready, or a reload is over.
    pub(crate) fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// A reload begins.
    pub(crate) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!("cannot read the clock for the service manager: {error}"),
        }
    }

    /// The server stops and may take this long.
    pub(crate) fn stopping(&self, within: Duration) {
        let microseconds = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
        tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(microseconds)]);
    }

    /// One line for `systemctl status`.
    pub(crate) fn status(&self, line: &str) {
        // A line feed would begin another assignment.
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        tell(&[NotifyState::Status(&line)]);
    }

    /// The worker has answered.
    pub(crate) fn feed_watchdog(&self) {
        if self.watchdog.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot tell the service manager: {error}");
    }
}
