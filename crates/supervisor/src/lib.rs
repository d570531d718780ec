//! The supervisor: the process whose PID never changes.
//!
//! It holds the listening sockets, the control socket and the journal; starts, watches and retires workers;
//! and never parses traffic or configuration. What is to be done when, is decided by the pure machine of
//! `handover-lifecycle`; this crate feeds it with what happens and does what it says.
//!
//! ```text
//!   control server ─┐                    ┌─▶ workers   (start, send, kill)
//!   signals ────────┼─▶ driver ─ machine ┼─▶ listeners (bind, hold, close)
//!   workers ────────┤   one task         ├─▶ journal   (a thread of its own)
//!   journal, clock ─┘                    └─▶ service manager, log, metrics
//! ```
//!
//! [`run`] is the whole life of a supervisor. [`handle`] is how others talk to it, [`protocol`] what it and
//! its workers say to each other.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod handle;
pub mod journal;
mod options;
pub mod paths;
pub mod protocol;
// Binding of listeners, stale socket files, and who holds a port: used by the driver's listeners.
#[allow(dead_code, reason = "the driver's listeners are about to use it")]
mod sockets;

use std::process::ExitCode;

pub use options::Options;

/// Supervises until it is told to stop, or until the first generation cannot be served. Returns the exit code
/// of `handover serve`: 0 after a stop, 10 if the configuration was rejected, 11 if the worker did not become
/// ready, 13 if another supervisor has the control socket, 1 otherwise.
///
/// Call it from the main thread, before other threads exist.
#[must_use]
pub fn run(options: Options) -> ExitCode {
    drop(options);
    ExitCode::FAILURE
}
