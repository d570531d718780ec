//! How other threads reach an event loop: a list of commands behind a lock, and an eventfd that wakes it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io;

/// The receiving end belongs to one event loop; anybody may send.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    wake: OwnedFd,
    waiting: Mutex<Vec<T>>,
}

impl<T> Mailbox<T> {
    /// An empty mailbox.
    pub(crate) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { wake, waiting: Mutex::new(Vec::new()) })
    }

    /// Leaves a command and wakes the loop.
    pub(crate) fn send(&self, command: T) {
        let first = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(command);
            waiting.len() == 1
        };
        if first {
            // EAGAIN means that the counter is full, and then the loop is awake anyway.
            let _ = io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }

    /// Everything that was sent since the last time, in order.
    pub(crate) fn take(&self) -> Vec<T> {
        let mut counter = [0; 8];
        let _ = io::read(&self.wake, &mut counter);
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> AsFd for Mailbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
