//! The giver's way out: what its threads send to the other worker.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Counts;

/// Why something was not sent. The connection stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// The move has ended, well or not, or the other worker is gone.
    #[error("the other worker takes nothing any more")]
    Ended,
    /// So much is on its way that there was no room within the time that a sender waits.
    #[error("the other worker has not taken what was sent before")]
    Full,
    /// It could not be sent, and others may be.
    #[error("it cannot be sent: {0}")]
    Refused(String),
}

/// Sends connections to the worker that takes over. All threads of a service use the same one.
pub struct Outlet {
    sink: Box<dyn Sink>,
    /// The number of the next socket.
    next: AtomicU64,
    /// What was sent late, by kind.
    late: Mutex<Counts>,
}

/// What an [`Outlet`] sends into: the conversation with the other worker, or in tests whatever is wanted.
pub trait Sink: Send + Sync {
    /// Sends sockets ahead, numbered from `first` on.
    ///
    /// # Errors
    /// See [`Lost`].
    fn sockets(&self, thread: u32, first: u64, sockets: &[BorrowedFd<'_>]) -> Result<(), Lost>;

    /// Sends one connection with its sockets.
    ///
    /// # Errors
    /// See [`Lost`].
    fn late(&self, thread: u32, state: &[u8], sockets: &[BorrowedFd<'_>]) -> Result<(), Lost>;

    /// Whether something can be sent without waiting.
    fn may_send(&self) -> bool;

    /// Whether nothing can be sent any more.
    fn has_ended(&self) -> bool;

    /// Calls this, from any thread, whenever [`Sink::may_send`] or [`Sink::has_ended`] turns true.
    fn notify(&self, wake: Arc<dyn Fn() + Send + Sync>);
}

impl Outlet {
    /// The most sockets in one batch: as many descriptors as the kernel takes in one message (`SCM_MAX_FD`, unix(7)).
    pub const MAX_BATCH: usize = 253;
    /// The most sockets of one late connection.
    pub const MAX_LATE: usize = 16;

    /// An outlet into `sink`.
    #[must_use]
    pub fn new(sink: Box<dyn Sink>) -> Arc<Self> {
        Arc::new(Self { sink, next: AtomicU64::new(0), late: Mutex::default() })
    }

    /// Sends sockets ahead, at most [`Outlet::MAX_BATCH`], and says the number of the first; the others follow it. In
    /// the state of a connection a socket is named by its number. They stay open here.
    ///
    /// Waits if too much is unacknowledged: a thread that must not wait asks [`Outlet::may_send`] before.
    ///
    /// # Errors
    /// See [`Lost`]; none of them was sent.
    pub fn send_sockets(&self, thread: u32, sockets: &[BorrowedFd<'_>]) -> Result<u64, Lost> {
        if sockets.len() > Self::MAX_BATCH {
            return Err(Lost::Refused(format!("{} sockets are too many for one batch", sockets.len())));
        }
        let count = u64::try_from(sockets.len()).unwrap_or(u64::MAX);
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        if !sockets.is_empty() {
            self.sink.sockets(thread, first, sockets)?;
        }
        Ok(first)
    }

    /// Sends one connection after the commit: its state, which names its sockets by their places here (from 0), and the
    /// sockets. When it is sent, let go of it as in [`Moving::release`](super::Moving::release). It is counted as a
    /// `connection`; see [`Outlet::send_late_of`].
    ///
    /// # Errors
    /// See [`Lost`]; it stays here, and ends here unless a later attempt succeeds.
    pub fn send_late(&self, thread: u32, state: &[u8], sockets: &[BorrowedFd<'_>]) -> Result<(), Lost> {
        self.send_late_of("connection", thread, state, sockets)
    }

    /// The same, counted as a connection of this kind: `http`, `websocket`, `tcp`.
    ///
    /// # Errors
    /// As [`Outlet::send_late`].
    pub fn send_late_of(
        &self,
        kind: &str,
        thread: u32,
        state: &[u8],
        sockets: &[BorrowedFd<'_>],
    ) -> Result<(), Lost> {
        if sockets.len() > Self::MAX_LATE {
            return Err(Lost::Refused(format!("{} sockets are too many for one connection", sockets.len())));
        }
        self.sink.late(thread, state, sockets)?;
        *self.late_counts().entry(kind.to_owned()).or_default() += 1;
        Ok(())
    }

    /// How many connections were sent late, by kind.
    pub(crate) fn late(&self) -> Counts {
        self.late_counts().clone()
    }

    fn late_counts(&self) -> MutexGuard<'_, Counts> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether little enough is unacknowledged, so that a batch or a connection can be sent without waiting.
    #[must_use]
    pub fn may_send(&self) -> bool {
        self.sink.may_send()
    }

    /// Whether nothing can be sent any more: the other worker is gone, or the move was called off or is over.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.sink.has_ended()
    }

    /// Calls `wake`, from a thread of the move, whenever there is room again or the end has come. One for each thread; it
    /// must return at once.
    pub fn notify(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.sink.notify(wake);
    }
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet").field("next", &self.next).finish_non_exhaustive()
    }
}
