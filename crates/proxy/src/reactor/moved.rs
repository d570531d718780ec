//! Sockets that go to another process, and those that come from one.
//!
//! ```text
//!   giving:  not sent ──note_number──▶ sent ──closed──▶ shut down for both processes, number forgotten
//!                                       │
//!                                       └──the move is over, one way or the other──▶ all numbers are forgotten
//!   taking:  receive: registered at once, for nobody; events are noted ──set_owner──▶ a connection's
//! ```
//!
//! What was sent is open in two processes, and so closing it tells the peer nothing: it is shut down first. Numbers
//! are kept beside the slots, and only while something is being moved: they cost nothing at other times.

use std::os::fd::OwnedFd;

use rustix::event::epoll;
use rustix::io;
use rustix::net::{self, Shutdown};

use super::{Io, Owner, Reactor};

/// Not sent. Numbers begin with 0, and nobody has so many sockets.
const NOT_SENT: u32 = u32::MAX;

impl Reactor {
    /// From now on it is noted which sockets were sent, and under which numbers.
    pub(crate) fn begin_numbers(&mut self) {
        self.numbers = Some(Vec::new());
    }

    /// The move is over: nothing counts as sent any more.
    pub(crate) fn forget_numbers(&mut self) {
        self.numbers = None;
    }

    /// The number under which a socket was sent, if it was.
    #[inline]
    pub(crate) fn number(&self, io: &Io) -> Option<u64> {
        let number = self.numbers.as_ref()?.get(io.slot as usize)?;
        (*number != NOT_SENT).then_some(u64::from(*number))
    }

    /// A socket was sent under this number. False: the number is too high to be noted, and the socket does not count as sent.
    pub(crate) fn note_number(&mut self, io: &Io, number: u64) -> bool {
        let (Some(numbers), Ok(number)) = (&mut self.numbers, u32::try_from(number)) else { return false };
        let place = io.slot as usize;
        if numbers.len() <= place {
            numbers.resize(self.slots.len().max(place + 1), NOT_SENT);
        }
        if let Some(entry) = numbers.get_mut(place) {
            *entry = number;
        }
        number != NOT_SENT
    }

    pub(super) fn forget_number(&mut self, slot: u32) {
        if let Some(entry) = self.numbers.as_mut().and_then(|numbers| numbers.get_mut(slot as usize)) {
            *entry = NOT_SENT;
        }
    }

    /// A socket of which another process holds a copy is about to be closed: its peer must see the end, and the poller must forget
    /// it, although that copy stays open.
    #[cold]
    pub(super) fn end_for_all(&mut self, io: &Io) {
        if self.number(io).is_none() {
            return;
        }
        // Both can only fail if there is nothing to be done any more.
        let _ = net::shutdown(io, Shutdown::Both);
        let _ = epoll::delete(&self.epoll, io);
    }

    /// Takes a socket in that another process has sent, and registers it for nobody: events are noted from now on. The first one
    /// says how it is now (epoll_ctl(2): what is ready already is reported, edge-triggered or not), so that nothing is missed.
    ///
    /// # Errors
    /// The poller's. The socket is closed.
    pub(crate) fn receive(&mut self, fd: OwnedFd) -> io::Result<Io> {
        let io = self.adopt_with(fd, Owner::Nobody, 0);
        match self.register(&io) {
            Ok(()) => Ok(io),
            Err(errno) => {
                self.close(io);
                Err(errno)
            }
        }
    }

    /// A socket that a move has left here, and nobody wants: closed without a word.
    pub(crate) fn discard(&mut self, io: Io) {
        drop(self.release(io));
    }
}
