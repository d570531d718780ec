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
//! leaves behind is asked to end, and killed. Before it is started its mark is written down, and then who it is: whatever
//! happens to this supervisor, the next one finds it.

mod care;
mod each;
mod gate;
mod listening;
mod processes;
mod wait;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::commands::Setting;
use super::copy::{self, NotStarted, SavedCopy, Started};
use crate::protocol::{Address, Pass, ResourceLimits, Restart};

pub(crate) use care::Care;
pub(crate) use listening::Listening;
pub(crate) use processes::{Ends, Processes};

/// What is started for a connection. In its command and environment nothing stands for something else any more.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// Who sees to the end of what is started.
    pub(crate) care: Care,
    /// The command; the executable is looked up anew for each process.
    pub(crate) command: Vec<String>,
    /// Where and as whom.
    pub(crate) setting: Setting,
    /// What each process may use.
    pub(crate) limits: ResourceLimits,
    /// Where standard error goes (and standard output, of [`Listening::wait`]): the writing end of the pipe that becomes the log.
    pub(crate) output: Arc<OwnedFd>,
    /// The listening sockets; [`Listening::wait`] has one.
    pub(crate) sockets: Vec<Arc<OwnedFd>>,
    /// Processes at the same time, at least 1 ([`Listening::each`]).
    pub(crate) processes: u32,
    /// Processes started in a second, at least 1 ([`Listening::each`]).
    pub(crate) per_second: u32,
    /// Pauses before it is started again after it has failed ([`Listening::wait`]).
    pub(crate) restart: Restart,
}

/// A process that serves a connection, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    /// The process.
    pub(crate) pid: u32,
    /// Whose connection it has; nobody's in particular for [`Listening::wait`].
    pub(crate) peer: Option<String>,
    /// The slot or directory that it was started from.
    pub(crate) slot: Option<String>,
    /// When it was started, RFC 3339.
    pub(crate) started_at: String,
}

/// A process, as it is written down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedProcess {
    /// By what it is found again.
    pub(crate) copy: SavedCopy,
    /// Whose connection it has; `None` if it has the listening socket.
    pub(crate) peer: Option<String>,
    /// The slot or directory that it was started from.
    pub(crate) slot: Option<String>,
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
    /// The next start waits for the end of a pause of this length ([`Listening::wait`]).
    pub(crate) pause: Option<Duration>,
    /// The last failure, in a sentence.
    pub(crate) last_failure: Option<String>,
}

impl Order {
    /// Starts one process, for this peer. It is found again, whatever happens from now on.
    fn start(
        &self,
        number: u32,
        peer: Option<&str>,
        stdin: BorrowedFd<'_>,
        stdout: Option<BorrowedFd<'_>>,
        more: &[(&str, String)],
    ) -> Result<Started, String> {
        let program = &self.care.program;
        let mark = copy::new_mark(program, number).map_err(|error| error.to_string())?;
        self.care.note(&mark, None, peer);
        let started = self.start_marked(number, &mark, stdin, stdout, more);
        match &started {
            Ok(started) => self.care.note(&mark, Some(started.copy.save()), peer),
            Err(_) => self.care.forget(&mark),
        }
        started.map_err(|error| error.to_string())
    }

    fn start_marked(
        &self,
        number: u32,
        mark: &str,
        stdin: BorrowedFd<'_>,
        stdout: Option<BorrowedFd<'_>>,
        more: &[(&str, String)],
    ) -> Result<Started, NotStarted> {
        let mut environment = self.setting.environment.clone();
        environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        copy::start(&copy::Order {
            program: &self.care.program,
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
