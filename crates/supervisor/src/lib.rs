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

pub mod archive;
mod banner;
mod binary;
pub mod control;
mod control_socket;
mod drift;
mod driver;
mod found;
pub mod handle;
mod image;
pub mod journal;
mod listeners;
mod locking;
mod metrics;
mod operations;
mod options;
mod passed;
pub mod paths;
pub mod preflight;
mod probe;
mod programs;
pub mod protocol;
pub mod reexec;
mod scribe;
mod signals;
mod sockets;
mod sparing;
mod start;
mod systemd;
mod tee;
mod worker;

pub use options::{Options, StartFrom};
pub use start::run;
