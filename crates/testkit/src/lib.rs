//! What the end-to-end tests and the benchmarks are written with: real processes, real sockets.
//!
//! - [`Workspace`]: a directory of one test, with its own configuration, state and runtime directories.
//! - [`Handover`]: the shipped binary, started, awaited, signalled, and cleaned up with every process it began.
//! - [`Process`]: the same for any command (nginx, HAProxy, socat …).
//! - [`http`], [`websocket`], [`tunnel`], [`curl`]: clients that send exact bytes and show exact bytes.
//! - [`Authority`], [`tls`]: certificates of any kind, and clients that show what a handshake served.
//! - [`origin`], [`echo`]: servers behind the proxy, steered by the test.
//! - [`faults`]: what goes wrong, on purpose: frozen processes, foreign listeners, few descriptors, files that hang.
//! - [`servers`]: real programs that nobody wrote for handover: gunicorn, uvicorn, Node.js, nginx, and one that does everything wrong.
//! - [`config`]: pieces of configuration files.
//! - [`proc`]: what the kernel says about a process: children, descriptors, memory, CPU, zombies.
//!
//! Rules: nothing here sleeps for a fixed time in place of an event; every wait has a [`Deadline`] and says, when it
//! passes, what was waited for. A helper that cannot do its work panics: its failure is the test's failure.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper fails by failing the test"
)]
#![allow(clippy::print_stderr, reason = "the test runner captures what a helper says about a failure")]

pub mod authority;
pub mod bad;
pub mod config;
pub mod crowd;
pub mod curl;
pub mod echo;
mod ending;
pub mod faults;
pub mod http;
pub mod notify;
pub mod origin;
pub mod pattern;
pub mod proc;
pub mod program;
pub mod programs;
pub mod relay;
pub mod servers;
pub mod systemd;
pub mod tls;
pub mod tunnel;
pub mod websocket;

mod alone;
mod control;
mod deadline;
mod everything;
mod example;
mod gate;
mod handover;
mod handshakes;
mod ports;
mod process;
mod serving;
mod signer;
mod skip;
mod stream;
mod workspace;

pub use alone::{is_alone, is_alone_in};
pub use authority::{Authority, KeyType, Pair};
pub use control::{Control, Event, Events};
pub use deadline::{DEADLINE, Deadline, until};
pub use ending::EndOnDrop;
pub use everything::Everything;
pub use example::example;
pub use gate::{Gate, Gates};
pub use handover::{CONFIG, Handover, HandoverBuilder, command};
pub use handshakes::{Handshakes, Met};
pub use ports::Port;
pub use process::{Output, Process, run, signal, wait_for_exit};
pub use program::{Program, sha256};
pub use programs::{Programs, Said, Way};
pub use rustix::process::Signal;
pub use serving::{SITE, Secure, Serving, operation_of, text_at};
pub use signer::{Signer, signature_of};
pub use skip::{have, root, skip};
pub use tls::TlsClient;
pub use workspace::{Entry, Workspace};

/// The path of the binary under test, in a test that cargo runs for the package which builds it.
#[macro_export]
macro_rules! handover {
    () => {
        env!("CARGO_BIN_EXE_handover")
    };
}
