//! The one wait of a move's thread: for the other worker's words, its death, other threads, and the clock.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use handover_handoff::Companion;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::worker::Mailbox;

/// What of the other worker has ended, so that it is not waited for any more.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// The conversation.
    pub(crate) closed: bool,
    /// Its process.
    pub(crate) dead: bool,
}

/// Waits until there is something to do.
///
/// # Errors
/// As poll(2): the system is out of memory.
pub(crate) fn wait<T>(
    link: &impl AsFd,
    companion: &Companion,
    mailbox: &Mailbox<T>,
    ends: &Ends,
    deadline: Option<Instant>,
) -> io::Result<()> {
    let mut fds = vec![PollFd::new(mailbox, PollFlags::IN)];
    if !ends.closed {
        fds.push(PollFd::new(link, PollFlags::IN));
    }
    if !ends.dead {
        fds.push(PollFd::new(companion, PollFlags::IN));
    }
    let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
    let timeout = left.and_then(|left| Timespec::try_from(left).ok());
    match rustix::event::poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
