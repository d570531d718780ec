//! Programs in the style of inetd: the supervisor waits for connections, they serve one and end.
//!
//! ```text
//!   each:  queue ──under the limits──▶ accept ─▶ a process, the connection is its standard input and output
//!            ▲ at a limit: connections wait here
//!   wait:  queue ──a connection waits──▶ a process, the socket is its standard input ──it ends──▶ queue
//!                                             └─ at once, without accepting: a growing pause ─┘
//! ```

mod each;
mod gate;
mod wait;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::commands::Setting;
use crate::protocol::Restart;

pub(crate) use each::Each;
pub(crate) use wait::Wait;

/// What is started for a connection. In its command and environment nothing stands for something else any more.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// The program's name.
    pub(crate) program: String,
    /// The command; the executable is looked up anew for each process.
    pub(crate) command: Vec<String>,
    /// Where and as whom.
    pub(crate) setting: Setting,
    /// `RLIMIT_NOFILE`, if it has one of its own.
    pub(crate) nofile: Option<u64>,
    /// Where standard error goes (and standard output, of [`Wait`]): the writing end of the pipe that becomes the log.
    pub(crate) output: Arc<OwnedFd>,
    /// The listening sockets; [`Wait`] has one.
    pub(crate) sockets: Vec<Arc<OwnedFd>>,
    /// Processes at the same time, at least 1 ([`Each`]).
    pub(crate) processes: u32,
    /// Processes started in a second, at least 1 ([`Each`]).
    pub(crate) per_second: u32,
    /// Pauses before it is started again after it has failed ([`Wait`]).
    pub(crate) restart: Restart,
}

/// A process that serves a connection, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    /// The process.
    pub(crate) pid: u32,
    /// Whose connection it has; nobody's in particular for [`Wait`].
    pub(crate) peer: Option<String>,
    /// When it was started.
    pub(crate) since: SystemTime,
}

/// How it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// What runs.
    pub(crate) running: Vec<Running>,
    /// Processes started, ever.
    pub(crate) started: u64,
    /// How often connections had to wait because a limit was reached.
    pub(crate) held_back: u64,
    /// Processes that could not be started, or ended otherwise than with 0.
    pub(crate) failed: u64,
    /// The next start waits for the end of a pause of this length.
    pub(crate) pause: Option<Duration>,
}
