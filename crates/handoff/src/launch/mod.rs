//! Starting a program that knows nothing of this crate: its sockets under the numbers that it expects, and nothing else.
//!
//! ```text
//!   this process                          the new one
//!   all prepared, signals blocked ─ fork ─▶ session ─▶ control group ─▶ descriptors ─▶ limits ─▶ user ─▶ directory
//!        │                                   │                                                            │
//!        │◀── which step failed, and why ────┴───────────────────────────────────────────── failed ── execve
//!        └◀── end of the pipe ─────────────────────────────────────────────────────────── it runs ◀───────┘
//! ```
//!
//! [`crate::process::Spawn`] is for executables of this kind, which are kept open; this is for commands, found in `PATH`.
//! The new process shares neither session nor signals nor descriptors with this one: every signal has its default
//! disposition (this process ignores PIPE, which is inherited otherwise) and none is blocked.

mod child;
mod error;
#[cfg(test)]
mod tests;

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Gid, Rlimit, Uid};

use crate::own;
use crate::process::Child;
use child::{Failure, Move, Prepared, Texts};

pub use error::{Doing, LaunchError};

/// How long a new process may take to come to its program. It takes longer only if the directory or the executable lie
/// on a file system that does not answer.
pub const LAUNCH_LIMIT: Duration = Duration::from_secs(5);

/// Where commands are looked for if the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// As whom a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity<'a> {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// All its groups; those of this process are given up.
    pub groups: &'a [u32],
}

/// What a program is started with.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The command and its arguments. One without a slash is looked for in `PATH` of `environment`; a relative one, in
    /// `directory`.
    pub command: &'a [OsString],
    /// All its variables.
    pub environment: &'a [(OsString, OsString)],
    /// A variable that gets the process ID of the program itself (`LISTEN_PID`, sd_listen_fds(3)).
    pub pid_variable: Option<&'a OsStr>,
    /// Where it is started; this process's directory if `None`.
    pub directory: Option<&'a Path>,
    /// As whom it runs; as this process if `None`.
    pub identity: Option<Identity<'a>>,
    /// Its umask; this process's if `None`.
    pub umask: Option<u32>,
    /// How many descriptors it may have (`RLIMIT_NOFILE`, both limits); if `None` as this process was started with.
    pub open_files: Option<u64>,
    /// `cgroup.procs` of the control group that it joins, open for writing.
    pub control_group: Option<BorrowedFd<'a>>,
    /// Its standard input; `/dev/null` if `None`.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Its standard output.
    pub stdout: BorrowedFd<'a>,
    /// Its standard error.
    pub stderr: BorrowedFd<'a>,
    /// Its other descriptors: under consecutive numbers, in this order.
    pub sockets: &'a [BorrowedFd<'a>],
    /// The number of the first of them. Below 3 they take the place of standard streams.
    pub first_socket: RawFd,
}

impl Launch<'_> {
    /// Starts it, as the first process of a session of its own. Returns when it runs its program, or could not.
    ///
    /// # Errors
    /// Which step failed, and why; then no process is left. One that does not come to its program within [`LAUNCH_LIMIT`] is
    /// killed, and is the caller's to reap like an orphan.
    pub fn start(&self) -> Result<Child, LaunchError> {
        let null;
        let stdin = match self.stdin {
            Some(stdin) => stdin,
            None => {
                null =
                    File::open("/dev/null").map_err(|error| self.error(Doing::Descriptors, None, error))?;
                null.as_fd()
            }
        };
        let mut prepared = self.prepare(stdin)?;
        let fork = |error| self.error(Doing::Fork, None, error);
        let (reader, writer) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| fork(errno.into()))?;
        let pid = child::fork(&mut prepared, &writer).map_err(fork)?;
        drop(writer);
        let child = Child::of(pid).map_err(fork)?;
        match wait(&reader) {
            Ok(None) => Ok(child),
            Ok(Some(failure)) => {
                reap(&child);
                Err(self.failed(&failure, &prepared))
            }
            Err(error) => {
                let _ = child.kill();
                Err(self.error(Doing::Wait, None, error))
            }
        }
    }

    /// Everything that the new process needs, so that it allocates nothing.
    fn prepare(&self, stdin: BorrowedFd<'_>) -> Result<Prepared, LaunchError> {
        let wrong = |error| self.error(Doing::Prepare, None, error);
        let nul = || wrong(io::Error::new(io::ErrorKind::InvalidInput, "there is a NUL byte in it"));
        if self.first_socket < 0 {
            return Err(wrong(io::Error::new(
                io::ErrorKind::InvalidInput,
                "descriptors have no such number",
            )));
        }
        let arguments = self.command.iter().map(|argument| argument.as_bytes().to_vec());
        let arguments = Texts::new(arguments.collect()).ok_or_else(nul)?;
        let mut variables = Vec::with_capacity(self.environment.len() + 1);
        for (name, value) in self.environment {
            variables.push([name.as_bytes(), b"=", value.as_bytes()].concat());
        }
        let mut environment = Texts::new(variables).ok_or_else(nul)?;
        if let Some(name) = self.pid_variable {
            environment.push_pid(name.as_bytes());
        }
        let candidates = self.candidates();
        let candidates: Vec<CString> = candidates
            .into_iter()
            .map(|path| CString::new(path.into_os_string().into_vec()))
            .collect::<Result<_, _>>()
            .map_err(|_| nul())?;
        let directory = self.directory.map(|path| CString::new(path.as_os_str().as_bytes())).transpose();
        let mut moves: Vec<Move> = [stdin, self.stdout, self.stderr]
            .iter()
            .zip(0..)
            .map(|(source, target)| Move::new(source.as_raw_fd(), target))
            .collect();
        // Afterwards, so that they take the place of a standard stream with the same number.
        let sockets = self.sockets.iter().zip(self.first_socket..);
        moves.extend(sockets.map(|(source, target)| Move::new(source.as_raw_fd(), target)));
        Ok(Prepared {
            candidates,
            arguments,
            environment,
            directory: directory.map_err(|_| nul())?,
            moves,
            control_group: self.control_group.map(|group| group.as_raw_fd()),
            identity: self.identity.filter(|identity| identity.is_another()).map(|identity| {
                let groups = identity.groups.iter().map(|group| Gid::from_raw(*group)).collect();
                (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid), groups)
            }),
            umask: self.umask,
            open_files: match self.open_files {
                Some(files) => Some(Rlimit { current: Some(files), maximum: Some(files) }),
                None => own::started_with(),
            },
        })
    }

    /// The paths that the command may mean, best first.
    fn candidates(&self) -> Vec<PathBuf> {
        let Some(command) = self.command.first().filter(|command| !command.is_empty()) else {
            return Vec::new();
        };
        if command.as_bytes().contains(&b'/') {
            return vec![PathBuf::from(command)];
        }
        std::env::split_paths(self.search_path()).map(|directory| directory.join(command)).collect()
    }

    fn search_path(&self) -> &OsStr {
        let path = self.environment.iter().find(|(name, _)| name == "PATH");
        path.map_or(OsStr::new(DEFAULT_PATH), |(_, value)| value.as_os_str())
    }

    fn failed(&self, failure: &Failure, prepared: &Prepared) -> LaunchError {
        let source = io::Error::from_raw_os_error(failure.errno);
        let candidate = prepared.candidates.get(failure.candidate);
        let candidate = candidate.map(|path| PathBuf::from(OsStr::from_bytes(path.as_bytes())));
        self.error(failure.doing, candidate, source)
    }

    fn error(&self, doing: Doing, candidate: Option<PathBuf>, source: io::Error) -> LaunchError {
        let command = self.command.first().map(PathBuf::from).unwrap_or_default();
        let within = |path: PathBuf| self.directory.map_or_else(|| path.clone(), |from| from.join(&path));
        // In the search none was found that can be executed; one may be there all the same.
        let found = || self.candidates().into_iter().map(within).find(|path| path.is_file());
        let path = match doing {
            Doing::Directory => self.directory.map(Path::to_owned).unwrap_or_default(),
            Doing::Execute if source.raw_os_error() == Some(libc::ENOENT) => found().unwrap_or(command),
            Doing::Execute => candidate.map(within).unwrap_or(command),
            _ => command,
        };
        let searched = self.command.first().is_some_and(|command| !command.as_bytes().contains(&b'/'));
        let searched = searched.then(|| self.search_path().to_owned());
        LaunchError { doing, path, searched, open_files: self.open_files, source }
    }
}

impl Identity<'_> {
    /// Whether anything has to be done for it: one who is nobody else need not be allowed to become it.
    fn is_another(&self) -> bool {
        rustix::process::geteuid().is_root()
            || rustix::process::geteuid().as_raw() != self.uid
            || rustix::process::getegid().as_raw() != self.gid
    }
}

/// What the new process says: nothing if it runs its program.
fn wait(reader: &OwnedFd) -> io::Result<Option<Failure>> {
    let deadline = Instant::now() + LAUNCH_LIMIT;
    let mut said = Vec::with_capacity(Failure::BYTES);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match rustix::event::poll(
            &mut [PollFd::new(reader, PollFlags::IN)],
            Timespec::try_from(left).ok().as_ref(),
        ) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut bytes = [0; Failure::BYTES];
        match rustix::io::read(reader, &mut bytes) {
            Ok(0) => return Ok(Failure::decode(&said)),
            Ok(count) => said.extend_from_slice(bytes.get(..count).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Waits for a process that has said that it ends.
fn reap(child: &Child) {
    let limit = Timespec::try_from(LAUNCH_LIMIT).ok();
    let _ = rustix::event::poll(&mut [PollFd::new(child, PollFlags::IN)], limit.as_ref());
    // Whatever it says, it is not there any more.
    let _ = child.try_wait();
}
