//! Another worker's process, as it is told of: to end it for certain, and to know that it has ended.
//!
//! Two workers between which connections move hold each other's pidfd (pidfd_open(2)), which the supervisor gave to
//! both. A process ID alone could mean another process by the time that it is used; a pidfd never does.
//!
//! ```text
//!   lives ── kill ──▶ about to end ── (readable) ──▶ ended: it touches nothing any more
//! ```

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::Signal;

/// A process that this one holds by a pidfd, and that need not be its child. [`AsFd`] gives the pidfd, which becomes
/// readable when the process has ended and stays so.
#[derive(Debug)]
pub struct Companion {
    pid: u32,
    pidfd: OwnedFd,
}

impl Companion {
    /// The process that `pidfd` holds; `pid` is its ID, for messages.
    ///
    /// # Errors
    /// The descriptor is no pidfd, or `/proc` is not mounted.
    pub fn new(pidfd: OwnedFd, pid: u32) -> io::Result<Self> {
        // proc_pid_fdinfo(5): only a pidfd's says of which process it is.
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
        if info.lines().any(|line| line.starts_with("Pid:")) {
            return Ok(Companion { pid, pidfd });
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "a descriptor was passed as a process, and is none"))
    }

    /// Its process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends it at once (SIGKILL). That it has ended already is no error.
    ///
    /// # Errors
    /// It may not be signalled by this user.
    pub fn kill(&self) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether it has ended: its threads run no more and its descriptors are closed. It may still be a zombie.
    ///
    /// # Errors
    /// As poll(2): the system is out of memory.
    pub fn has_ended(&self) -> io::Result<bool> {
        self.wait_ended(Duration::ZERO)
    }

    /// Waits until it has ended, but not longer than `within`; `false` if it still lives then.
    ///
    /// # Errors
    /// As [`Companion::has_ended`].
    pub fn wait_ended(&self, within: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).ok();
            match rustix::event::poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], timeout.as_ref()) {
                Ok(0) if left.is_zero() => return Ok(false),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Companion {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for Companion {
    fn as_raw_fd(&self) -> i32 {
        self.pidfd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use crate::process::Child;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// A process that ends when it is killed, and its pidfd.
    fn sleeper() -> (std::process::Child, Companion) {
        let sleeper = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let pidfd = Child::of(sleeper.id()).unwrap().as_fd().try_clone_to_owned().unwrap();
        let companion = Companion::new(pidfd, sleeper.id()).unwrap();
        (sleeper, companion)
    }

    #[test]
    fn it_lives_until_it_is_killed_and_then_it_has_ended_before_anybody_reaps_it() {
        let (mut sleeper, companion) = sleeper();
        assert!(!companion.has_ended().unwrap());
        assert_eq!(companion.pid(), sleeper.id());
        companion.kill().unwrap();
        assert!(companion.wait_ended(LIMIT).unwrap());
        assert!(companion.has_ended().unwrap());
        sleeper.wait().unwrap();
        // Reaped: its ID may be another's by now, and is still this one's here.
        companion.kill().unwrap();
        assert!(companion.has_ended().unwrap());
    }

    #[test]
    fn waiting_for_one_that_lives_ends() {
        let (mut sleeper, companion) = sleeper();
        assert!(!companion.wait_ended(Duration::from_millis(10)).unwrap());
        companion.kill().unwrap();
        sleeper.wait().unwrap();
    }

    #[test]
    fn another_descriptor_is_refused() {
        let (reader, _writer) = io::pipe().unwrap();
        assert!(Companion::new(reader.into(), 1).is_err());
    }
}
