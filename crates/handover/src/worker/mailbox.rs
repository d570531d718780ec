//! Notices from other threads to the control thread, which waits in `poll` and so needs a descriptor to wake it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use rustix::event::EventfdFlags;

/// The control thread's end.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    notices: Receiver<T>,
    bell: Arc<OwnedFd>,
}

/// Everybody else's end. Clones post into the same mailbox.
pub(crate) struct Post<T> {
    notices: Sender<T>,
    bell: Arc<OwnedFd>,
}

/// A mailbox and a way to post into it.
///
/// # Errors
/// The process is out of descriptors.
pub(crate) fn mailbox<T>() -> io::Result<(Mailbox<T>, Post<T>)> {
    let bell = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, receiver) = mpsc::channel();
    let mailbox = Mailbox { notices: receiver, bell: Arc::clone(&bell) };
    Ok((mailbox, Post { notices: sender, bell }))
}

impl<T> Mailbox<T> {
    /// The next notice, `None` if there is none now.
    ///
    /// The bell is silenced before looking, so that a notice posted in between rings it again.
    pub(crate) fn next(&self) -> Option<T> {
        if let Ok(notice) = self.notices.try_recv() {
            return Some(notice);
        }
        let mut count = [0; 8];
        let _nothing_rang = rustix::io::read(&self.bell, &mut count);
        self.notices.try_recv().ok()
    }
}

impl<T> AsFd for Mailbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl<T> Post<T> {
    /// Posts a notice. If the control thread is gone the process is about to exit, and nobody needs it.
    pub(crate) fn send(&self, notice: T) {
        if self.notices.send(notice).is_ok() {
            // Fails only when it has rung 2^64 - 2 times already, and then it rings.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }
}

impl<T> Clone for Post<T> {
    fn clone(&self) -> Self {
        Self { notices: self.notices.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<T> fmt::Debug for Post<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec};

    use super::*;

    #[test]
    fn every_notice_wakes_who_waits() {
        let (mailbox, post) = mailbox().unwrap();
        let sent = 1_000;
        let sender = std::thread::spawn(move || (0..sent).for_each(|n| post.send(n)));
        let mut got = Vec::new();
        while got.len() < sent {
            let within = Timespec::try_from(Duration::from_secs(60)).unwrap();
            let mut fds = [PollFd::new(&mailbox, PollFlags::IN)];
            assert_eq!(rustix::event::poll(&mut fds, Some(&within)).unwrap(), 1, "nobody rang");
            while let Some(n) = mailbox.next() {
                got.push(n);
            }
        }
        sender.join().unwrap();
        assert_eq!(got, (0..sent).collect::<Vec<_>>());
    }
}
