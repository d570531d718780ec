//! The event loop's view of the kernel: readiness, and the reads and writes that depend on it.
//!
//! Why not a general runtime here: a proxied request costs two reads, two writes and a share of an `epoll_wait`, and the target leaves about
//! two microseconds for everything else. A connection that lives in a future can neither be taken out of the loop nor
//! written down; here it is a plain struct in a table, and freezing the data plane is to stop the loop and take the table.
//!
//! Every socket is registered once, edge-triggered, for everything (`IN|OUT|RDHUP`), and never changed afterwards. What the
//! kernel said is kept as flags in a *slot*; operations look at the flags first and clear them when the kernel
//! says that it has no more:
//!
//! ```text
//!            event IN            read fills the buffer: stays
//!   blocked ─────────▶ readable ─────────────────────────────┐
//!      ▲                  │  ▲                               │
//!      │  EAGAIN, or      │  └───────────────────────────────┘
//!      └── a short read ──┘      (after RDHUP a short read does not clear: the end is still to be read)
//! ```
//!
//! A slot says who owns the socket. When an upstream connection goes to the pool and comes back, only that field is
//! written. The event's token carries the slot's stamp, so that an event of a socket that was closed earlier in the same
//! batch finds nobody.

mod encrypted;
mod mailbox;
mod moved;
mod secure;
mod secure_state;
#[cfg(test)]
mod tests_moved;
#[cfg(test)]
mod tests_secure;
mod wheel;

use std::fmt;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::{self, Errno};
use rustix::net::{self, RecvFlags, SendFlags};

pub(crate) use mailbox::Mailbox;
pub(crate) use secure::Secure;
pub(crate) use wheel::{TICK, Wheel};

use crate::buffers::Buf;

/// The most events taken from the kernel at once.
const EVENTS_PER_TURN: usize = 512;

/// A connection's place in the thread's table, and which connection that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnKey {
    pub(crate) index: u32,
    pub(crate) stamp: u32,
}

/// Whom an event concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody: events are noted and nothing is done.
    Nobody,
    /// A connection; which of its sockets it is shows in the flags of both.
    Conn(ConnKey),
    /// An idle upstream connection, by its number in the pool.
    Idle(u32),
    /// A listener, by its place in the thread's table.
    Listener(u32),
    /// The mailbox.
    Mailbox,
    /// The socket of a question whether this thread serves.
    Probe,
}

/// A registered socket. It must be given back with [`Reactor::close`].
#[derive(Debug)]
pub(crate) struct Io {
    fd: OwnedFd,
    slot: u32,
}

impl AsFd for Io {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now; an event will come.
    Blocked,
    /// The peer has finished sending.
    End,
}

const READABLE: u8 = 1;
const WRITABLE: u8 = 2;
/// The peer finished sending, or everything is over: reads must go on until they say so.
const FINISHED: u8 = 4;
/// Both directions are over.
const BROKEN: u8 = 8;
const REGISTERED: u8 = 16;
/// What passes through is encrypted: see [`encrypted`].
const SECURE: u8 = 32;
/// The session has something for the reader by itself.
const PENDING: u8 = 64;

#[derive(Debug, Clone, Copy)]
struct Slot {
    stamp: u32,
    flags: u8,
    owner: Owner,
}

/// The poller and its slots.
pub(crate) struct Reactor {
    epoll: OwnedFd,
    slots: Vec<Slot>,
    free: Vec<u32>,
    events: Vec<epoll::Event>,
    /// By slot: what protects the socket.
    secured: Vec<Option<Box<Secure>>>,
    scratch: encrypted::Scratch,
    /// Bytes that sessions hold between two calls.
    held: usize,
    /// By slot, while connections are being moved: see [`moved`].
    numbers: Option<Vec<u32>>,
}

impl Reactor {
    /// A poller without sockets, around a descriptor of [`Reactor::create_epoll`].
    pub(crate) fn new(epoll: OwnedFd) -> Self {
        Self {
            epoll,
            slots: Vec::new(),
            free: Vec::new(),
            events: Vec::with_capacity(EVENTS_PER_TURN),
            secured: Vec::new(),
            scratch: encrypted::Scratch::default(),
            held: 0,
            numbers: None,
        }
    }

    /// What can fail about a poller: done before the thread that will own it starts.
    pub(crate) fn create_epoll() -> io::Result<OwnedFd> {
        epoll::create(epoll::CreateFlags::CLOEXEC)
    }

    /// Takes a socket in. It is *not* yet registered with the kernel: a short connection may end before that is needed. `readable` if a
    /// read is worth trying before any event.
    pub(crate) fn adopt(&mut self, fd: OwnedFd, owner: Owner, readable: bool) -> Io {
        let flags = WRITABLE | if readable { READABLE } else { 0 };
        self.adopt_with(fd, owner, flags)
    }

    /// Takes a socket in whose `connect` is under way, and registers it: the first event says how it ended.
    pub(crate) fn adopt_connecting(&mut self, fd: OwnedFd, owner: Owner) -> io::Result<Io> {
        let io = self.adopt_with(fd, owner, 0);
        match self.register(&io) {
            Ok(()) => Ok(io),
            Err(errno) => {
                self.close(io);
                Err(errno)
            }
        }
    }

    fn adopt_with(&mut self, fd: OwnedFd, owner: Owner, flags: u8) -> Io {
        Io { fd, slot: self.take_slot(flags, owner) }
    }

    /// A slot that was free, with the stamp that tells its new owner from those before, or a new one.
    fn take_slot(&mut self, flags: u8, owner: Owner) -> u32 {
        if let Some(slot) = self.free.pop()
            && let Some(place) = self.slots.get_mut(slot as usize)
        {
            place.flags = flags;
            place.owner = owner;
            return slot;
        }
        let slot = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.push(Slot { stamp: 0, flags, owner });
        slot
    }

    /// Registers a socket, if it is not yet: from now on events come for it.
    #[inline]
    pub(crate) fn register(&mut self, io: &Io) -> io::Result<()> {
        let Some(slot) = self.slots.get_mut(io.slot as usize) else { return Ok(()) };
        if slot.flags & REGISTERED != 0 {
            return Ok(());
        }
        slot.flags |= REGISTERED;
        let flags =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, io, token(io.slot, slot.stamp), flags)
    }

    /// True once events come for the socket.
    pub(crate) fn is_registered(&self, io: &Io) -> bool {
        self.has(io, REGISTERED)
    }

    /// Watches a descriptor that stays somebody else's, level-triggered: a listener (only one of the threads that
    /// watch it is woken) or a mailbox.
    pub(crate) fn watch(&mut self, fd: impl AsFd, owner: Owner, exclusive: bool) -> io::Result<u32> {
        let slot = self.take_slot(REGISTERED, owner);
        let stamp = self.slots.get(slot as usize).map_or(0, |place| place.stamp);
        let mut flags = epoll::EventFlags::IN;
        if exclusive {
            flags |= epoll::EventFlags::EXCLUSIVE;
        }
        match epoll::add(&self.epoll, fd, token(slot, stamp), flags) {
            Ok(()) => Ok(slot),
            Err(errno) => {
                self.retire(slot);
                Err(errno)
            }
        }
    }

    /// Stops watching a descriptor.
    pub(crate) fn unwatch(&mut self, fd: impl AsFd, slot: u32) {
        // It can only fail if it is not watched.
        let _ = epoll::delete(&self.epoll, fd);
        self.retire(slot);
    }

    /// Gives a socket a new owner.
    pub(crate) fn set_owner(&mut self, io: &Io, owner: Owner) {
        if let Some(slot) = self.slots.get_mut(io.slot as usize) {
            slot.owner = owner;
        }
    }

    /// Closes a socket: nothing comes for it any more. Over TLS its peer is told so first.
    pub(crate) fn close(&mut self, io: Io) {
        if self.has(&io, SECURE) {
            self.farewell(&io);
            self.unprotect(io.slot);
        }
        if self.numbers.is_some() {
            self.end_for_all(&io);
        }
        self.retire(io.slot);
        drop(io.fd);
    }

    /// Lets go of a socket that stays open, and of what protects it: nothing comes for it here any more.
    pub(crate) fn release(&mut self, io: Io) -> (OwnedFd, Option<Box<Secure>>) {
        if self.is_registered(&io) {
            // It can only fail if it is not watched.
            let _ = epoll::delete(&self.epoll, &io);
        }
        let secure = self.unprotect(io.slot);
        self.retire(io.slot);
        (io.fd, secure)
    }

    fn retire(&mut self, slot: u32) {
        if let Some(place) = self.slots.get_mut(slot as usize) {
            place.stamp = place.stamp.wrapping_add(1);
            place.owner = Owner::Nobody;
            place.flags = 0;
            self.free.push(slot);
        }
        self.forget_number(slot);
    }

    /// Waits for events, at most `limit`; `None` waits without limit. [`Reactor::event`] gives them one by one.
    pub(crate) fn wait(&mut self, limit: Option<Duration>) -> io::Result<usize> {
        self.events.clear();
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        });
        epoll::wait(&self.epoll, spare_capacity(&mut self.events), limit.as_ref())
    }

    /// Notes event number `index` of the last wait, and says whom it concerns.
    pub(crate) fn event(&mut self, index: usize) -> Owner {
        let Some(event) = self.events.get(index) else { return Owner::Nobody };
        let (data, happened) = (event.data.u64(), event.flags);
        let Some((slot, stamp)) = split(data) else { return Owner::Nobody };
        let Some(slot) = self.slots.get_mut(slot) else { return Owner::Nobody };
        if slot.stamp != stamp {
            return Owner::Nobody;
        }
        if happened.intersects(epoll::EventFlags::IN) {
            slot.flags |= READABLE;
        }
        if happened.intersects(epoll::EventFlags::OUT) {
            slot.flags |= WRITABLE;
        }
        if happened.intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            slot.flags |= READABLE | FINISHED;
            if happened.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                slot.flags |= WRITABLE | BROKEN;
            }
        }
        slot.owner
    }

    /// True if a write may succeed.
    pub(crate) fn is_writable(&self, io: &Io) -> bool {
        self.has(io, WRITABLE)
    }

    /// True if a read may bring something.
    pub(crate) fn is_readable(&self, io: &Io) -> bool {
        self.has(io, READABLE | PENDING)
    }

    /// True if nothing was sent that nobody has read, and the peer has not finished. Costs a system call only if the last read
    /// filled its buffer, so that nobody knows.
    pub(crate) fn is_quiet(&mut self, io: &Io) -> bool {
        if self.has(io, FINISHED | PENDING) {
            return false;
        }
        if self.has(io, SECURE) {
            return self.is_quiet_secure(io);
        }
        if !self.has(io, READABLE) {
            return true;
        }
        let quiet = net::recv(io, &mut [0_u8; 1], RecvFlags::PEEK) == Err(Errno::AGAIN);
        if quiet {
            self.clear(io, READABLE);
        }
        quiet
    }

    /// True if the peer has gone altogether, not only finished sending.
    pub(crate) fn is_broken(&self, io: &Io) -> bool {
        self.has(io, BROKEN)
    }

    /// True if the peer has said that it sends nothing more, whether or not all of what it sent is read.
    pub(crate) fn has_finished(&self, io: &Io) -> bool {
        self.has(io, FINISHED)
    }

    fn has(&self, io: &Io, flag: u8) -> bool {
        self.slots.get(io.slot as usize).is_some_and(|slot| slot.flags & flag != 0)
    }

    fn clear(&mut self, io: &Io, flag: u8) {
        if let Some(slot) = self.slots.get_mut(io.slot as usize) {
            slot.flags &= !flag;
        }
    }

    /// Reads into the room that `buf` has behind its bytes (there must be some).
    pub(crate) fn recv(&mut self, io: &Io, buf: &mut Buf) -> io::Result<Received> {
        if !self.has(io, READABLE | PENDING) {
            return Ok(Received::Blocked);
        }
        if self.has(io, SECURE) {
            return self.recv_secure(io, buf);
        }
        let room = buf.room();
        if room == 0 {
            return Ok(Received::Blocked);
        }
        loop {
            return match net::recv(io, spare_capacity(buf.tail()), RecvFlags::empty()) {
                Ok((0, _)) => Ok(Received::End),
                Ok((count, _)) => {
                    if count < room && !self.has(io, FINISHED) {
                        self.clear(io, READABLE);
                    }
                    Ok(Received::Bytes(count))
                }
                Err(Errno::AGAIN) => {
                    self.clear(io, READABLE);
                    Ok(Received::Blocked)
                }
                Err(Errno::INTR) => continue,
                Err(errno) => Err(errno),
            };
        }
    }

    /// Writes as much of `bytes` as the kernel takes now; 0: an event will come.
    pub(crate) fn send(&mut self, io: &Io, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() || !self.has(io, WRITABLE) {
            return Ok(0);
        }
        if self.has(io, SECURE) {
            return self.send_secure(io, bytes, &[]);
        }
        let result = net::send(io, bytes, SendFlags::NOSIGNAL);
        self.sent(io, result, bytes.len())
    }

    /// Writes as much of `first` and then `second` as the kernel takes now, in one call.
    pub(crate) fn send_two(&mut self, io: &Io, first: &[u8], second: &[u8]) -> io::Result<usize> {
        if first.is_empty() {
            return self.send(io, second);
        }
        if second.is_empty() {
            return self.send(io, first);
        }
        if !self.has(io, WRITABLE) {
            return Ok(0);
        }
        if self.has(io, SECURE) {
            return self.send_secure(io, first, second);
        }
        // The process ignores SIGPIPE, as every Rust program does, so a plain writev is safe.
        let result = io::writev(io, &[IoSlice::new(first), IoSlice::new(second)]);
        self.sent(io, result, first.len() + second.len())
    }

    /// Sends up to `count` bytes of `file` from `offset`, which moves on. Nothing sent and the socket still writable means that the file
    /// has become shorter.
    pub(crate) fn send_file(
        &mut self,
        io: &Io,
        file: impl AsFd,
        offset: &mut u64,
        count: usize,
    ) -> io::Result<usize> {
        if !self.has(io, WRITABLE) {
            return Ok(0);
        }
        if self.has(io, SECURE) {
            return self.send_file_secure(io, file, offset, count);
        }
        match rustix::fs::sendfile(io, file, Some(offset), count) {
            Ok(sent) => Ok(sent),
            Err(Errno::AGAIN) => {
                self.clear(io, WRITABLE);
                Ok(0)
            }
            Err(Errno::INTR) => Ok(0),
            Err(errno) => Err(errno),
        }
    }

    fn sent(&mut self, io: &Io, result: io::Result<usize>, wanted: usize) -> io::Result<usize> {
        match result {
            Ok(count) => {
                if count < wanted {
                    self.clear(io, WRITABLE);
                }
                Ok(count)
            }
            Err(Errno::AGAIN) => {
                self.clear(io, WRITABLE);
                Ok(0)
            }
            Err(Errno::INTR) => Ok(0),
            Err(errno) => Err(errno),
        }
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

fn token(slot: u32, stamp: u32) -> epoll::EventData {
    epoll::EventData::new_u64(u64::from(stamp) << 32 | u64::from(slot))
}

fn split(data: u64) -> Option<(usize, u32)> {
    let slot = usize::try_from(data & u64::from(u32::MAX)).ok()?;
    let stamp = u32::try_from(data >> 32).ok()?;
    Some((slot, stamp))
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    }

    const KEY: Owner = Owner::Conn(ConnKey { index: 1, stamp: 1 });

    #[test]
    fn an_event_of_a_socket_closed_in_the_same_batch_finds_nobody() {
        let mut reactor = Reactor::new(Reactor::create_epoll().unwrap());
        let (near, far) = pair();
        let io = reactor.adopt(near, KEY, false);
        reactor.register(&io).unwrap();
        io::write(&far, b"x").unwrap();
        assert_eq!(reactor.wait(Some(Duration::from_secs(5))).unwrap(), 1);
        reactor.close(io);
        let (other, _far) = pair();
        let _other = reactor.adopt(other, KEY, false);
        assert_eq!(reactor.event(0), Owner::Nobody);
    }

    #[test]
    fn a_descriptor_that_is_watched_again_and_again_needs_one_slot() {
        let mut reactor = Reactor::new(Reactor::create_epoll().unwrap());
        let (near, far) = pair();
        for _ in 0..3 {
            let slot = reactor.watch(&near, Owner::Listener(1), true).unwrap();
            reactor.unwatch(&near, slot);
        }
        let slot = reactor.watch(&near, Owner::Listener(2), true).unwrap();
        assert_eq!(reactor.slots.len(), 1);
        assert_eq!(reactor.watch(&near, Owner::Listener(3), true), Err(Errno::EXIST));
        assert_eq!((reactor.slots.len(), reactor.free.len()), (2, 1), "nothing is lost by a failure");
        io::write(&far, b"x").unwrap();
        reactor.wait(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(reactor.event(0), Owner::Listener(2));
        reactor.unwatch(&near, slot);
        assert_eq!(reactor.event(0), Owner::Nobody);
    }

    #[test]
    fn the_end_is_read_after_the_last_bytes() {
        let mut reactor = Reactor::new(Reactor::create_epoll().unwrap());
        let (near, far) = pair();
        let io = reactor.adopt(near, KEY, false);
        reactor.register(&io).unwrap();
        io::write(&far, b"last").unwrap();
        drop(far);
        reactor.wait(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(reactor.event(0), KEY);
        let mut buf = Buf::none();
        crate::buffers::Buffers::default().ensure_small(&mut buf);
        assert_eq!(reactor.recv(&io, &mut buf).unwrap(), Received::Bytes(4));
        assert_eq!(reactor.recv(&io, &mut buf).unwrap(), Received::End);
    }

    #[test]
    fn a_full_socket_is_written_again_after_its_event() {
        let mut reactor = Reactor::new(Reactor::create_epoll().unwrap());
        let (near, far) = pair();
        let io = reactor.adopt(near, KEY, false);
        reactor.register(&io).unwrap();
        reactor.wait(Some(Duration::from_secs(5))).unwrap();
        let _ = reactor.event(0);
        let chunk = vec![7; 1 << 20];
        let mut written = 0;
        while reactor.is_writable(&io) {
            written += reactor.send(&io, &chunk).unwrap();
        }
        let mut sink = vec![0; written];
        let mut read = 0;
        while read < written {
            read += io::read(&far, &mut *sink).unwrap();
        }
        assert!(reactor.wait(Some(Duration::from_secs(5))).unwrap() >= 1);
        assert_eq!(reactor.event(0), KEY);
        assert!(reactor.is_writable(&io));
    }
}
