//! Keep a server running while everything about it changes.
//!
//! A program that embeds this library is two processes from one executable: a *supervisor*, whose
//! PID never changes and which holds the listening sockets, the control socket and the journal, and a
//! *worker*, which serves. [`host()`] decides which of the two this process is and never returns to
//! the caller before its work is over.
//!
//! - [`Server`] is what most programs want: named listeners, values that can be loaded anew, actions, drain, in
//!   about ten lines. `docs/embedding.md` is its guide, `examples/` has whole programs.
//! - [`Service`] is what lies beneath, for a program that brings its own threads, as the proxy does: it *prepares* a
//!   new generation beside the one it serves (everything that can fail happens there), and the [`Candidate`] it
//!   hands back is *committed* in one step that cannot fail, or dropped, which aborts it.
//!
//! ```text
//!   main ─▶ Server::run ─▶ host ─┬─ no channel ──▶ supervisor (handover-supervisor): until it is told to stop
//!                                └─ a channel ───▶ worker: control thread ─▶ Service ─▶ your code
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod drain;
mod files;
pub mod guard;
mod host;
pub mod logging;
pub mod moving;
mod prepare;
mod server;
mod service;
mod types;
pub mod watch;
mod worker;

pub use drain::{Drain, DrainEnd, LONGEST_DRAIN};
pub use files::MAX_FILE_BYTES;
pub use host::{HostOptions, host};
pub use prepare::{BindError, Bound, CalledOff, GivenTop, Prepare};
pub use server::{
    Adopted, Call, Certificates, Context, Counters, Kept, LISTEN_VARIABLE_PREFIX, LoadError, Movable, Mover,
    Moves, Reloadable, Server, Sockets, Tracked, TrackedStream,
};
pub use service::{Candidate, Service};
pub use types::{
    Address, Change, ChangeKind, Figures, Grant, GuardFigures, GuardLimits, ListenerSpec, LogSettings,
    LogTarget, Losses, Problem, Roles, Settings, UpgradeRules, What,
};
pub use types::{program, traffic};
pub use worker::WorkerHandle;

/// Certificates that are replaced as one set while they serve, for [`Server::certificates`] or without any of the rest.
pub mod tls {
    pub use handover_api::Certificate;
    pub use handover_tls::{
        CertificateError, CertificateStore, CertificateWarning, Concern, Disk, Files, Pair, Prepared, Reason,
        Schedule, Tickets, Unknown,
    };
}

/// The programs in the book compile.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/embedding.md")]
struct Embedding;
