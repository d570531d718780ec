//! Descriptors that a process finds open when it starts, announced by number in its environment.
//!
//! - `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`: listening sockets from a service manager
//!   (sd_listen_fds(3)). They are for the process with the announced ID only; a child that inherited the
//!   variables must leave them alone, and must not be given them in the first place.
//! - [`CHANNEL_VARIABLE`]: a worker's channel to its supervisor.
//! - [`SAVED_VARIABLE`]: what a supervisor that executed another program in its place has left for it: a sealed memory
//!   file, in which the numbers of all other descriptors stand.
//!
//! Taking ownership of a descriptor by its number is sound only if nobody else in the process owns that
//! number. So both are to be taken first thing in `main`; each number is given out once; and what is
//! found there must be what was announced (a listening socket, a `SOCK_SEQPACKET` socket), which a
//! descriptor that the process opened for itself at that point is not.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::FdFlags;
use rustix::net::SocketType;

/// Environment variable with the number of a worker's channel to its supervisor.
pub const CHANNEL_VARIABLE: &str = "HANDOVER_CHANNEL";
/// Environment variable with the path at which a worker, once its supervisor is gone, is found by the next one.
pub const SUCCESSION_VARIABLE: &str = "HANDOVER_SUCCESSION";
/// Environment variable with the number of the memory file that a supervisor has left for the program in its place, or for
/// the one that rehearses to take that place.
pub const SAVED_VARIABLE: &str = "HANDOVER_SAVED";
/// Environment variable that asks a program to say which versions it speaks, and to end.
pub const PREFLIGHT_VARIABLE: &str = "HANDOVER_PREFLIGHT";
/// Environment variable with the number of descriptors that a worker should make room for before it starts threads.
pub const DESCRIPTORS_VARIABLE: &str = "HANDOVER_DESCRIPTORS";

/// Variables that mean this process and nobody else: never passed on to a child, unless set for it anew.
pub const PRIVATE_VARIABLES: [&str; 13] = [
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "FDSTORE",
    CHANNEL_VARIABLE,
    SUCCESSION_VARIABLE,
    SAVED_VARIABLE,
    PREFLIGHT_VARIABLE,
    DESCRIPTORS_VARIABLE,
];

/// What the names begin with of sockets that a supervisor has put into the service manager's store (`FDSTORE=1`,
/// sd_pid_notify_with_fds(3)) and that come back from there.
pub const STORED_PREFIX: &str = "handover-";

/// The first descriptor that a service manager passes (`SD_LISTEN_FDS_START`).
const LISTEN_FDS_START: RawFd = 3;
/// The most that are taken from a service manager.
const MAX_LISTEN_FDS: usize = 1024;

/// A socket from the service manager.
#[derive(Debug)]
pub struct Inherited {
    /// Its name (`FileDescriptorName=`), `unknown` if the manager gave none.
    pub name: String,
    /// The listening socket, close-on-exec.
    pub socket: OwnedFd,
}

/// Why announced descriptors cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InheritError {
    /// A variable does not say what it should.
    #[error("the environment variable {variable}={value:?} {problem}")]
    Variable {
        /// The variable's name.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The descriptor is not open, or not what it should be.
    #[error("descriptor {fd}, announced by {variable}, {problem}")]
    Descriptor {
        /// The variable that announced it.
        variable: &'static str,
        /// Its number.
        fd: RawFd,
        /// What is wrong with it.
        problem: String,
    },
}

/// Numbers that were given out already.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// The listening sockets that a service manager passed to this very process; none if they are meant for
/// another one, or were taken already. One from its store that does not listen any more is closed and left out. Call it
/// first thing in `main`.
///
/// # Errors
/// The variables contradict themselves or what is open. Then nothing is taken.
pub fn listen_fds() -> Result<Vec<Inherited>, InheritError> {
    let variable = |name| env::var(name).ok();
    let (pid, fds, names) = (variable("LISTEN_PID"), variable("LISTEN_FDS"), variable("LISTEN_FDNAMES"));
    let names = announced(std::process::id(), pid.as_deref(), fds.as_deref(), names.as_deref())?;
    let mut numbered = Vec::with_capacity(names.len());
    let mut useless = Vec::new();
    for (fd, name) in (LISTEN_FDS_START..).zip(names) {
        match check(fd, "LISTEN_FDS", is_listening) {
            Ok(()) => numbered.push((fd, name)),
            // It was stored by an earlier supervisor, which died when it no longer served it.
            Err(_) if name.starts_with(STORED_PREFIX) && check(fd, "LISTEN_FDS", is_open).is_ok() => {
                useless.push(fd);
            }
            Err(error) => return Err(error),
        }
    }
    useless.into_iter().for_each(|fd| drop(take(fd)));
    let taken = numbered.into_iter().filter_map(|(fd, name)| Some(Inherited { name, socket: take(fd)? }));
    Ok(taken.collect())
}

/// The channel to the supervisor that started this process as its worker; `None` in any other process, or
/// if it was taken already. Call it first thing in `main`.
///
/// # Errors
/// The variable does not hold the number of a connected `SOCK_SEQPACKET` socket.
pub fn channel() -> Result<Option<OwnedFd>, InheritError> {
    let Ok(value) = env::var(CHANNEL_VARIABLE) else { return Ok(None) };
    let variable = CHANNEL_VARIABLE;
    let Some(fd) = value.parse::<RawFd>().ok().filter(|fd| *fd >= LISTEN_FDS_START) else {
        return Err(InheritError::Variable { variable, value, problem: "is not a descriptor's number" });
    };
    check(fd, variable, is_channel)?;
    Ok(take(fd))
}

/// The memory file that [`SAVED_VARIABLE`] announces; `None` if it announces none, or it was taken already. Call it first
/// thing in `main`.
///
/// # Errors
/// The variable does not hold the number of a sealed memory file.
pub fn saved() -> Result<Option<OwnedFd>, InheritError> {
    let variable = SAVED_VARIABLE;
    let Ok(value) = env::var(variable) else { return Ok(None) };
    let Some(fd) = value.parse::<RawFd>().ok().filter(|fd| *fd >= LISTEN_FDS_START) else {
        return Err(InheritError::Variable { variable, value, problem: "is not a descriptor's number" });
    };
    check(fd, variable, is_sealed)?;
    Ok(take(fd))
}

/// What a descriptor must be of which the number stood in what [`saved`] gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// A socket: one that listens or rests, or a connection.
    Socket,
    /// A connected `SOCK_SEQPACKET` socket.
    Channel,
    /// A sealed memory file.
    MemoryFile,
    /// Any other: a lock, an executable, a process.
    Other,
}

/// The descriptors that another program has left open for the one in its place, by their numbers. They stay open, under
/// these numbers, until this is dropped: so long this program can still go back into the one before.
#[derive(Debug, Default)]
pub struct LeftOpen {
    descriptors: BTreeMap<RawFd, OwnedFd>,
}

impl LeftOpen {
    /// Takes hold of all that have these numbers, which stood in what [`saved`] gave. Those that are not open are missed
    /// when they are asked for. Each number is given out once. Call it first thing in `main`.
    #[must_use]
    pub fn take(numbers: &[RawFd]) -> Self {
        let is_there = |fd: &RawFd| *fd >= LISTEN_FDS_START && check(*fd, SAVED_VARIABLE, is_open).is_ok();
        let numbers = numbers.iter().copied().filter(is_there);
        Self { descriptors: numbers.filter_map(|fd| Some((fd, take(fd)?))).collect() }
    }

    /// A duplicate of the descriptor with this number.
    ///
    /// # Errors
    /// It is not there, or not what it should be, or the process is out of descriptors.
    pub fn duplicate(&self, fd: RawFd, expected: Expected) -> Result<OwnedFd, InheritError> {
        let variable = SAVED_VARIABLE;
        let problem = |problem: String| InheritError::Descriptor { variable, fd, problem };
        let Some(descriptor) = self.descriptors.get(&fd) else {
            return Err(problem("is not open, or was not announced".to_owned()));
        };
        let fits = match expected {
            Expected::Socket => is_socket,
            Expected::Channel => is_channel,
            Expected::MemoryFile => is_sealed,
            Expected::Other => is_open,
        };
        check(fd, variable, fits)?;
        descriptor.try_clone().map_err(|error| problem(format!("cannot be duplicated: {error}")))
    }

    /// All of them, to be left open for another program.
    pub fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.descriptors.values().map(AsFd::as_fd)
    }
}

/// What the three variables say: the names of descriptors 3, 4 …
fn announced(
    own_pid: u32,
    pid: Option<&str>,
    fds: Option<&str>,
    names: Option<&str>,
) -> Result<Vec<String>, InheritError> {
    let (Some(pid), Some(fds)) = (pid, fds) else { return Ok(Vec::new()) };
    let wrong = |variable, value: &str, problem| InheritError::Variable {
        variable,
        value: value.to_owned(),
        problem,
    };
    let Ok(pid) = pid.parse::<u32>() else {
        return Err(wrong("LISTEN_PID", pid, "is not a process ID"));
    };
    if pid != own_pid {
        return Ok(Vec::new());
    }
    let Some(count) = fds.parse::<usize>().ok().filter(|count| *count <= MAX_LISTEN_FDS) else {
        return Err(wrong("LISTEN_FDS", fds, "is not a number of descriptors, or too high"));
    };
    let Some(names) = names else { return Ok(vec!["unknown".to_owned(); count]) };
    let split: Vec<String> = names.split(':').map(str::to_owned).collect();
    if split.len() != count && !(count == 0 && names.is_empty()) {
        return Err(wrong("LISTEN_FDNAMES", names, "does not have as many names as LISTEN_FDS says"));
    }
    Ok(split.into_iter().take(count).collect())
}

fn check(
    fd: RawFd,
    variable: &'static str,
    fits: fn(BorrowedFd<'_>) -> io::Result<Result<(), &'static str>>,
) -> Result<(), InheritError> {
    let problem = |problem: String| InheritError::Descriptor { variable, fd, problem };
    // SAFETY: needed because the number comes from the environment. `fd` is 3 or above and so not -1. If it
    // is not open, the system calls made with it say EBADF; nothing closes it while it is borrowed here,
    // because this is the start of `main`, and the borrow ends with this function.
    #[allow(unsafe_code, reason = "a descriptor is known by its number only; see above")]
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    match fits(borrowed) {
        Ok(Ok(())) => {}
        Ok(Err(why)) => return Err(problem(why.to_owned())),
        Err(error) => return Err(problem(format!("cannot be used: {error}"))),
    }
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)
        .map_err(|errno| problem(format!("cannot be set close-on-exec: {errno}")))
}

fn is_listening(fd: BorrowedFd<'_>) -> io::Result<Result<(), &'static str>> {
    let listens = rustix::net::sockopt::socket_acceptconn(fd)?;
    Ok(if listens { Ok(()) } else { Err("is a socket that does not listen") })
}

fn is_channel(fd: BorrowedFd<'_>) -> io::Result<Result<(), &'static str>> {
    let kind = rustix::net::sockopt::socket_type(fd)?;
    let listens = rustix::net::sockopt::socket_acceptconn(fd)?;
    Ok(if kind == SocketType::SEQPACKET && !listens {
        Ok(())
    } else {
        Err("is not a connected SOCK_SEQPACKET socket")
    })
}

fn is_sealed(fd: BorrowedFd<'_>) -> io::Result<Result<(), &'static str>> {
    Ok(if crate::memfd::is_sealed(fd) { Ok(()) } else { Err("is not a sealed memory file") })
}

fn is_socket(fd: BorrowedFd<'_>) -> io::Result<Result<(), &'static str>> {
    rustix::net::sockopt::socket_type(fd)?;
    Ok(Ok(()))
}

fn is_open(fd: BorrowedFd<'_>) -> io::Result<Result<(), &'static str>> {
    rustix::io::fcntl_getfd(fd)?;
    Ok(Ok(()))
}

fn take(fd: RawFd) -> Option<OwnedFd> {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if !taken.insert(fd) {
        return None;
    }
    // SAFETY: needed because an inherited descriptor has no owner in this program yet. `check` saw that it is
    // open and of the announced kind, and TAKEN that this is the first and only time it is given out.
    #[allow(unsafe_code, reason = "takes ownership of an inherited descriptor; see above")]
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    Some(owned)
}

/// Sets or clears close-on-exec on a descriptor, which is what decides whether the next program has it.
pub(crate) fn set_inheritable(fd: impl AsFd, inheritable: bool) -> io::Result<()> {
    let flags = if inheritable { FdFlags::empty() } else { FdFlags::CLOEXEC };
    Ok(rustix::io::fcntl_setfd(fd, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_for_another_process_are_left_alone() {
        assert_eq!(announced(7, Some("8"), Some("1"), Some("web")).unwrap(), Vec::<String>::new());
        assert_eq!(announced(7, None, Some("1"), None).unwrap(), Vec::<String>::new());
        assert_eq!(announced(7, Some("7"), None, Some("web")).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn names_are_checked_against_the_count() {
        assert_eq!(announced(7, Some("7"), Some("2"), Some("web:api")).unwrap(), ["web", "api"]);
        assert_eq!(announced(7, Some("7"), Some("2"), None).unwrap(), ["unknown", "unknown"]);
        assert_eq!(announced(7, Some("7"), Some("0"), Some("")).unwrap(), Vec::<String>::new());
        assert!(announced(7, Some("7"), Some("2"), Some("web")).is_err());
        assert!(announced(7, Some("7"), Some("1"), Some("web:api")).is_err());
    }

    #[test]
    fn numbers_that_are_none_or_too_high_are_refused() {
        for fds in ["", "-1", "+", "1 ", "0x1", "1025", "99999999999999999999"] {
            assert!(announced(7, Some("7"), Some(fds), None).is_err(), "{fds:?}");
        }
        assert!(announced(7, Some("seven"), Some("1"), None).is_err());
    }

    #[test]
    fn what_was_left_open_is_duplicated_if_it_is_what_it_should_be_and_stays_under_its_number() {
        use std::os::fd::{AsRawFd, IntoRawFd};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let numbers = [
            listener.into_raw_fd(),
            tempfile::tempfile().unwrap().into_raw_fd(),
            crate::memfd::sealed("test", b"bytes").unwrap().into_raw_fd(),
        ];
        let left = LeftOpen::take(&[numbers[0], numbers[1], numbers[2], numbers[0], 1, -1, 1_000_000]);
        assert_eq!(left.all().count(), 3, "each once, and no standard stream");
        let socket = left.duplicate(numbers[0], Expected::Socket).unwrap();
        assert_ne!(socket.as_raw_fd(), numbers[0]);
        left.duplicate(numbers[2], Expected::MemoryFile).unwrap();
        for (number, expected) in [
            (numbers[0], Expected::Channel),
            (numbers[0], Expected::MemoryFile),
            (numbers[1], Expected::Socket),
            (numbers[1], Expected::MemoryFile),
            (1_000_000, Expected::Other),
            (1, Expected::Other),
        ] {
            assert!(left.duplicate(number, expected).is_err(), "{number} {expected:?}");
        }
        drop(left);
        // The duplicate is the same socket, and all that is left of it.
        std::net::TcpStream::connect(address).unwrap();
        drop(socket);
        assert!(std::net::TcpStream::connect(address).is_err());
        assert_eq!(LeftOpen::take(&numbers).all().count(), 0, "given out once");
    }

    #[test]
    fn a_descriptor_that_is_not_open_or_no_socket_is_refused() {
        use std::os::fd::AsRawFd;
        let file = tempfile::tempfile().unwrap();
        let error = check(file.as_raw_fd(), "LISTEN_FDS", is_listening).unwrap_err();
        assert!(error.to_string().contains("announced by LISTEN_FDS"), "{error}");
        assert!(check(1_000_000, "LISTEN_FDS", is_listening).is_err());
        let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(check(stream.as_raw_fd(), "LISTEN_FDS", is_listening).is_err());
        assert!(check(stream.as_raw_fd(), CHANNEL_VARIABLE, is_channel).is_err());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        check(listener.as_raw_fd(), "LISTEN_FDS", is_listening).unwrap();
    }
}
