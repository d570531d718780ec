//! The supervisor's question whether a candidate serves, answered through the candidate's own accept path.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use handover_supervisor::protocol::ProbeAnswer;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::SocketFlags;

/// How long the supervisor may take to connect.
const ACCEPT_WITHIN: Duration = Duration::from_secs(10);

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
        let answer = ProbeAnswer { worker: self.worker, nonce: self.nonce.clone(), thread };
        // Writing numbers and a string does not fail.
        let mut line = serde_json::to_vec(&answer).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// Answers in a thread of its own, for a service whose threads cannot: once, as thread 0.
    pub(crate) fn answer_elsewhere(self: Arc<Self>) {
        let spawned =
            std::thread::Builder::new().name("probe".to_owned()).spawn(move || match self.accept() {
                Ok(connection) => {
                    let sent = std::fs::File::from(connection).write_all(&self.answer(0));
                    match sent {
                        Ok(()) => self.answered(0),
                        Err(error) => tracing::error!("the probe cannot be answered: {error}"),
                    }
                }
                Err(error) => tracing::error!("the probe cannot be accepted: {error}"),
            });
        if let Err(error) = spawned {
            tracing::error!("a thread to answer the probe could not be started: {error}");
        }
    }

    fn accept(&self) -> io::Result<OwnedFd> {
        let within = Timespec::try_from(ACCEPT_WITHIN).ok();
        match rustix::event::poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], within.as_ref())? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC)?),
        }
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
        assert_eq!(probe.answer(1), b"{\"worker\":7,\"nonce\":\"n\",\"thread\":1}\n");
        probe.answered(0);
        probe.answered(0);
        assert_eq!(done.load(Ordering::Relaxed), 0);
        probe.answered(1);
        probe.answered(1);
        assert_eq!(done.load(Ordering::Relaxed), 1);
    }
}
