//! Programs in the style of inetd: the supervisor waits for connections, they serve one and end.
//!
//! ```text
//!   each:  queue ──under the limits──▶ accept ─▶ a process, the connection is its standard input and output
//!            ▲ at a limit: connections wait here
//!   wait:  queue ──a connection waits──▶ a process, the socket is its standard input ──it ends──▶ queue
//!                                             └─ at once, without accepting: a growing pause ─┘
//! ```
//!
//! A process is a copy of its own ([`super::copy`]): it has a session and a mark, and when its first process ends, what that
//! leaves behind is asked to end, and killed.

mod each;
mod gate;
mod processes;
mod wait;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::commands::Setting;
use super::common::Teller;
use super::copy::{self, NotStarted, SavedCopy, Started};
use super::happened::Of;
use crate::protocol::{Address, Pass, ResourceLimits, Restart};

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
    /// What each process may use.
    pub(crate) limits: ResourceLimits,
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
    /// How what a process leaves behind is asked to end.
    pub(crate) stop_signal: i32,
    /// How long that may take until it is killed.
    pub(crate) stop_limit: Duration,
    /// Who hears of every start and end; nobody if `None`.
    pub(crate) teller: Option<Teller>,
}

/// A process that serves a connection, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    /// The process.
    pub(crate) pid: u32,
    /// Whose connection it has; nobody's in particular for [`Wait`].
    pub(crate) peer: Option<String>,
    /// When it was started, RFC 3339.
    pub(crate) started_at: String,
}

/// A process, as it is written down. Its pidfd goes with it, as long as it has not ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedProcess {
    /// By what it is found again.
    pub(crate) copy: SavedCopy,
    /// Whose connection it has.
    pub(crate) peer: Option<String>,
}

/// How it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// What runs, oldest first.
    pub(crate) running: Vec<Running>,
    /// Processes started by this supervisor.
    pub(crate) started: u64,
    /// How often connections had to wait because a limit was reached.
    pub(crate) held_back: u64,
    /// Processes that could not be started, or ended otherwise than with 0.
    pub(crate) failed: u64,
    /// The next start waits for the end of a pause of this length ([`Wait`]).
    pub(crate) pause: Option<Duration>,
    /// The last failure, in a sentence.
    pub(crate) last_failure: Option<String>,
}

impl Order {
    /// What runs has changed.
    fn tell(&self) {
        if let Some(teller) = &self.teller {
            teller.tell(Of::Serves);
        }
    }

    /// Starts one process.
    fn start(
        &self,
        mark: &str,
        number: u32,
        stdin: BorrowedFd<'_>,
        stdout: Option<BorrowedFd<'_>>,
        more: &[(&str, String)],
    ) -> Result<Started, NotStarted> {
        let mut environment = self.setting.environment.clone();
        environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        copy::start(&copy::Order {
            program: &self.program,
            number,
            mark,
            command: &self.command,
            directory: self.setting.directory.as_deref(),
            environment: &environment,
            clear_environment: self.setting.clear_environment,
            user: self.setting.user.as_ref(),
            limits: &self.limits,
            sockets: &[],
            pass: &Pass::default(),
            notify: None,
            stdin: Some(stdin),
            stdout,
            output: self.output.as_fd(),
            groups: &self.setting.groups,
        })
    }

    /// The addresses of its sockets.
    fn places(&self) -> Vec<Address> {
        self.sockets.iter().filter_map(address_of).collect()
    }
}

/// Where a socket listens.
fn address_of(socket: impl AsFd) -> Option<Address> {
    let address = rustix::net::getsockname(socket).ok()?;
    if let Ok(address) = SocketAddr::try_from(address.clone()) {
        return Some(Address::Tcp(address));
    }
    let address = rustix::net::SocketAddrUnix::try_from(address).ok()?;
    if let Some(name) = address.abstract_name() {
        return Some(Address::Abstract(String::from_utf8_lossy(name).into_owned()));
    }
    let path = std::str::from_utf8(address.path_bytes()?).ok()?;
    Some(Address::Unix { path: path.into(), mode: 0 })
}

/// Whether accepting fails because this process or the system is short of something, and not because of the connection.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let short = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|raw| short.iter().any(|errno| errno.raw_os_error() == raw))
}

#[cfg(test)]
mod tests;
