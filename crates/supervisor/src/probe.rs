//! Whether a new worker would serve: asked through its own accept path, and proved by its own identity.
//!
//! ```text
//!   supervisor                                     new worker, standing by
//!      │ connects, once for each thread
//!      │ ── Probe {nonce} + listening socket ─────────▶ │  every thread accepts one, as it accepts all others
//!      │ ◀── {worker, nonce, thread} ──────────────────│  written by a thread of that very process
//! ```
//!
//! The connections wait in the socket's queue before anybody else can have learned its name, so that nobody can come
//! before them.
//!
//! A port that answers proves nothing: the old worker listens on the same sockets (and on a socket that only the new one
//! has, any process could listen that found its name). So the answer must repeat a number that nobody else was told,
//! and the kernel says which process has written it (SO_PASSCRED, unix(7)); and every thread must have answered, since
//! each accepts by itself.

use std::collections::BTreeSet;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags,
    SocketType, sockopt,
};

use crate::protocol::{MAX_PROBE_BYTES, ProbeAnswer};

/// The most threads that are asked; more of them are not known of any machine.
const MAX_THREADS: u32 = 4096;
/// Bytes of the nonce.
const NONCE_BYTES: usize = 16;

const UNANSWERED: &str = "it closed the connection without an answer";

/// A probe that can be sent.
#[derive(Debug)]
pub(crate) struct Probe {
    /// For the worker.
    pub(crate) nonce: String,
    connections: Vec<Connection>,
}

/// Whose answers count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) worker: u64,
    pub(crate) pid: u32,
}

impl Probe {
    /// A probe, and the listening socket that goes with it to the worker.
    pub(crate) fn new(threads: u32) -> io::Result<(Probe, OwnedFd)> {
        let mut bytes = [0; NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no random numbers can be had"))?;
        let nonce = u128::from_be_bytes(bytes);
        let nonce = format!("{nonce:032x}");
        let address = SocketAddrUnix::new_abstract_name(format!("handover-probe-{nonce}").as_bytes())?;
        let socket = socket()?;
        rustix::net::bind(&socket, &address)?;
        let count = threads.clamp(1, MAX_THREADS);
        // Room for all of them, so that connecting never waits.
        rustix::net::listen(&socket, i32::try_from(count).unwrap_or(i32::MAX))?;
        let connections = (0..count).map(|_| connect(&address)).collect::<io::Result<_>>()?;
        Ok((Probe { nonce, connections }, socket))
    }

    /// Asks, and waits for all answers, but not longer than `limit`. Blocks.
    ///
    /// # Errors
    /// A sentence: who did not answer, or what was answered instead.
    pub(crate) fn ask(self, expected: Expected, limit: Duration) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        let mut waiting = self.connections;
        let count = waiting.len();
        let mut answered = BTreeSet::new();
        while !waiting.is_empty() {
            wait(&waiting, deadline)
                .map_err(|why| format!("{why}: {} of its {count} threads have answered", answered.len()))?;
            let mut rest = Vec::with_capacity(waiting.len());
            for mut connection in waiting {
                match connection.read(expected.pid)? {
                    None => rest.push(connection),
                    Some(answer) => {
                        let ProbeAnswer { worker, nonce, thread } = answer;
                        if worker != expected.worker || nonce != self.nonce {
                            return Err("the answer is another worker's, or to another question".to_owned());
                        }
                        answered.insert(thread);
                    }
                }
            }
            waiting = rest;
        }
        if answered.len() < count {
            return Err(format!("only {} of its {count} threads have answered", answered.len()));
        }
        Ok(())
    }
}

fn wait(waiting: &[Connection], deadline: Instant) -> Result<(), String> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err("it did not answer in time".to_owned());
    }
    let limit = Timespec::try_from(left).ok();
    let mut polled: Vec<PollFd<'_>> =
        waiting.iter().map(|connection| PollFd::new(&connection.socket, PollFlags::IN)).collect();
    match poll(&mut polled, limit.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(format!("it cannot be waited for: {errno}")),
    }
}

/// One connection, to one thread of the worker.
#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    said: Vec<u8>,
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

fn connect(address: &SocketAddrUnix) -> io::Result<Connection> {
    let socket = socket()?;
    // Before anything can be written: from then on the kernel notes who writes.
    sockopt::set_socket_passcred(&socket, true)?;
    rustix::net::connect(&socket, address)?;
    Ok(Connection { socket, said: Vec::new() })
}

impl Connection {
    /// Reads what there is: the whole answer, or nothing yet.
    fn read(&mut self, pid: u32) -> Result<Option<ProbeAnswer>, String> {
        loop {
            let mut buffer = [0; MAX_PROBE_BYTES];
            let (count, from) = match receive(self.socket.as_fd(), &mut buffer) {
                Ok(received) => received,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(Errno::CONNRESET) => return Err(UNANSWERED.to_owned()),
                Err(errno) => return Err(format!("its answer cannot be read: {errno}")),
            };
            if count == 0 {
                return Err(UNANSWERED.to_owned());
            }
            if from != Some(pid) {
                let from = from.map_or_else(|| "nobody knows whom".to_owned(), |pid| format!("pid {pid}"));
                return Err(format!("the answer was written by {from}, and not by it (pid {pid})"));
            }
            self.said.extend_from_slice(buffer.get(..count).unwrap_or_default());
            if let Some(end) = self.said.iter().position(|byte| *byte == b'\n') {
                let line = self.said.get(..end).unwrap_or_default();
                let answer = serde_json::from_slice(line);
                return answer.map(Some).map_err(|error| format!("its answer is none: {error}"));
            }
            if self.said.len() >= MAX_PROBE_BYTES {
                return Err("its answer is longer than an answer is".to_owned());
            }
        }
    }
}

/// Bytes, and the process that has written them.
fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<(usize, Option<u32>), Errno> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(buffer)];
    let received = rustix::net::recvmsg(socket, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let from = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => {
            u32::try_from(credentials.pid.as_raw_nonzero().get()).ok()
        }
        _ => None,
    });
    Ok((received.bytes, from))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::thread;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(50);

    fn expected() -> Expected {
        Expected { worker: 7, pid: std::process::id() }
    }

    fn line(worker: u64, nonce: &str, thread: u32) -> Vec<u8> {
        let answer = ProbeAnswer { worker, nonce: nonce.to_owned(), thread };
        let mut line = serde_json::to_vec(&answer).unwrap();
        line.push(b'\n');
        line
    }

    /// Answers each connection with what `answer` says for it.
    fn answered(
        threads: u32,
        answer: impl Fn(u32, &str) -> Vec<u8> + Send + 'static,
    ) -> (Probe, thread::JoinHandle<()>) {
        let (probe, socket) = Probe::new(threads).unwrap();
        let nonce = probe.nonce.clone();
        let listener = UnixListener::from(socket);
        listener.set_nonblocking(false).unwrap();
        let thread = thread::spawn(move || {
            for number in 0..threads {
                let (mut connection, _) = listener.accept().unwrap();
                // Who asks may have given up by then.
                let _ = connection.write_all(&answer(number, &nonce));
            }
        });
        (probe, thread)
    }

    fn outcome(threads: u32, answer: impl Fn(u32, &str) -> Vec<u8> + Send + 'static) -> Result<(), String> {
        let (probe, thread) = answered(threads, answer);
        let outcome = probe.ask(expected(), LIMIT);
        thread.join().unwrap();
        outcome
    }

    #[test]
    fn every_thread_must_answer_and_repeat_what_only_it_was_told() {
        assert_eq!(outcome(3, |thread, nonce| line(7, nonce, thread)), Ok(()));
        assert!(outcome(1, |thread, _| line(7, "another", thread)).is_err());
        assert!(outcome(1, |thread, nonce| line(8, nonce, thread)).is_err());
        let twice = outcome(2, |_, nonce| line(7, nonce, 1)).unwrap_err();
        assert_eq!(twice, "only 1 of its 2 threads have answered");
    }

    #[test]
    fn what_is_no_answer_is_told_from_one() {
        assert!(outcome(1, |_, _| b"hello\n".to_vec()).unwrap_err().starts_with("its answer is none"));
        assert_eq!(outcome(1, |_, _| Vec::new()).unwrap_err(), "it closed the connection without an answer");
        assert_eq!(
            outcome(1, |_, _| vec![b'x'; MAX_PROBE_BYTES]).unwrap_err(),
            "its answer is longer than an answer is"
        );
    }

    #[test]
    fn an_answer_of_another_process_is_none() {
        let (probe, thread) = answered(1, |thread, nonce| line(7, nonce, thread));
        let other = Expected { pid: 1, ..expected() };
        let why = probe.ask(other, LIMIT).unwrap_err();
        thread.join().unwrap();
        assert_eq!(
            why,
            format!("the answer was written by pid {}, and not by it (pid 1)", std::process::id())
        );
    }

    #[test]
    fn who_accepts_nothing_is_not_waited_for_for_ever() {
        let (probe, listening) = Probe::new(2).unwrap();
        let why = probe.ask(expected(), SHORT).unwrap_err();
        assert_eq!(why, "it did not answer in time: 0 of its 2 threads have answered");
        drop(listening);
        // And who is gone is not waited for at all.
        let (probe, listening) = Probe::new(2).unwrap();
        drop(listening);
        assert_eq!(probe.ask(expected(), LIMIT).unwrap_err(), UNANSWERED);
    }

    #[test]
    fn an_answer_that_comes_in_pieces_is_whole() {
        let (probe, socket) = Probe::new(1).unwrap();
        let nonce = probe.nonce.clone();
        let listener = UnixListener::from(socket);
        listener.set_nonblocking(false).unwrap();
        let thread = thread::spawn(move || {
            let (mut connection, _): (UnixStream, _) = listener.accept().unwrap();
            for byte in line(7, &nonce, 0) {
                connection.write_all(&[byte]).unwrap();
            }
        });
        assert_eq!(probe.ask(expected(), LIMIT), Ok(()));
        thread.join().unwrap();
    }
}
