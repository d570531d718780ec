//! The supervisor's question whether a candidate serves, answered through the candidate's own accept path.

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// One question to all threads of a service: see [`Moving::probe`](super::Moving::probe).
///
/// The supervisor connects once for each thread, and knows by the peer's credentials (SO_PEERCRED, unix(7)) which process
/// has answered: another worker cannot.
pub struct Probe {
    socket: OwnedFd,
    worker: u64,
    nonce: String,
    threads: u32,
    /// The threads that have answered.
    answered: Mutex<BTreeSet<u32>>,
    /// Called once, when all have.
    done: Box<dyn Fn() + Send + Sync>,
}

impl Probe {
    /// A probe of `threads` threads at the listening Unix socket `socket`, answered with the worker's key and `nonce`; `done` is
    /// called once, when every thread has answered.
    #[must_use]
    pub fn new(
        socket: OwnedFd,
        worker: u64,
        nonce: String,
        threads: u32,
        done: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self { socket, worker, nonce, threads, answered: Mutex::default(), done }
    }

    /// What the thread writes into the connection that it has accepted: one line of JSON,
    /// `{"worker":7,"nonce":"…","thread":0}`.
    #[must_use]
    pub fn answer(&self, thread: u32) -> Vec<u8> {
        let mut line =
            serde_json::json!({"worker": self.worker, "nonce": self.nonce, "thread": thread}).to_string();
        line.push('\n');
        line.into_bytes()
    }

    /// The thread has written its answer.
    pub fn answered(&self, thread: u32) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let before = answered.len();
        answered.insert(thread);
        let all = usize::try_from(self.threads).unwrap_or(usize::MAX);
        let complete = before < all && answered.len() >= all;
        drop(answered);
        if complete {
            (self.done)();
        }
    }
}

/// The listening socket: non-blocking, one connection for each thread.
impl AsFd for Probe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe")
            .field("worker", &self.worker)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_probe_is_done_once_when_every_thread_has_answered() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let done = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&done);
        let count = Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let probe = Probe::new(socket.into(), 7, "n".to_owned(), 2, count);
        assert_eq!(probe.answer(1), b"{\"nonce\":\"n\",\"thread\":1,\"worker\":7}\n");
        probe.answered(0);
        probe.answered(0);
        assert_eq!(done.load(Ordering::Relaxed), 0);
        probe.answered(1);
        probe.answered(1);
        assert_eq!(done.load(Ordering::Relaxed), 1);
    }
}
