//! Reads and writes of connections over TLS: the same contract as for plain ones, so that nobody else need know.
//!
//! Ciphertext lives in one scratch area per thread, in both directions; what is in between two calls, in [`Secure`].
//! The edge-triggered flags go on saying what the kernel has; `PENDING` says that the session has something by itself: opened bytes
//! for which there was no room, records nobody has looked at, the end. No event will come for those.
//!
//! | the peer | a read says |
//! |---|---|
//! | sends data, in whatever pieces | bytes, as soon as a record is whole |
//! | sends close_notify | what came before it, then the end |
//! | closes without close_notify | `ECONNRESET`: somebody may have cut the connection (RFC 8446 §6.1) |
//! | breaks the rules | `EPROTO`; it gets the alert with the last thing that is sent |

use std::os::fd::AsFd;

use handover_tls::{RECORD_BYTES, SealError, Session};
use rustix::io::{self, Errno};
use rustix::net::{self, RecvFlags, SendFlags, Shutdown};

use super::secure::Secure;
use super::{FINISHED, Io, PENDING, READABLE, Reactor, Received, SECURE, Slot, WRITABLE};
use crate::buffers::{Buf, LARGE_BYTES};

/// The most bytes that are sealed for one system call, four records: what the kernel does not take of them must be kept.
const PIECE_BYTES: usize = 64 * 1024;
/// What waits to be sent goes out together with what follows, if it is not more than this.
const CARRY_BYTES: usize = 4 * 1024;

/// One thread's room for bytes that are being opened or sealed.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Ciphertext received: as much as a large buffer may ask for, and the record that began before it.
    cipher: Vec<u8>,
    /// Bytes opened for which the caller may not have room.
    plain: Vec<u8>,
    /// Ciphertext to be sent.
    sealed: Vec<u8>,
}

impl Scratch {
    fn cipher(&mut self) -> &mut [u8] {
        self.cipher.resize(LARGE_BYTES + RECORD_BYTES, 0);
        &mut self.cipher
    }

    fn sealed(&mut self) -> &mut [u8] {
        self.sealed.resize(CARRY_BYTES + Session::sealed_bytes(PIECE_BYTES), 0);
        &mut self.sealed
    }
}

/// A connection over TLS in the middle of a call.
struct Line<'a> {
    io: &'a Io,
    slot: &'a mut Slot,
    secure: &'a mut Secure,
    scratch: &'a mut Scratch,
}

impl Reactor {
    /// Everything that passes through a socket is protected from now on.
    pub(crate) fn protect(&mut self, io: &Io, secure: Box<Secure>) {
        let place = io.slot as usize;
        let Some(slot) = self.slots.get_mut(place) else { return };
        slot.flags |= SECURE;
        if secure.has_input() {
            slot.flags |= PENDING;
        }
        self.held += secure.held();
        if self.secured.len() <= place {
            self.secured.resize_with(place + 1, || None);
        }
        if let Some(entry) = self.secured.get_mut(place) {
            *entry = Some(secure);
        }
    }

    /// True if over TLS the beginning of a record has come, and not its end.
    pub(crate) fn has_part(&self, io: &Io) -> bool {
        self.has(io, SECURE) && self.secure(io).is_some_and(Secure::has_part)
    }

    /// True if over TLS something that was handed over for sending is out in part, and not counted as sent yet.
    pub(crate) fn has_begun(&self, io: &Io) -> bool {
        self.has(io, SECURE) && self.secure(io).is_some_and(Secure::owes)
    }

    /// What protects a socket, if anything does.
    pub(crate) fn secure(&self, io: &Io) -> Option<&Secure> {
        self.secured.get(io.slot as usize)?.as_deref()
    }

    /// The socket goes: so does what protected it.
    pub(super) fn unprotect(&mut self, slot: u32) -> Option<Box<Secure>> {
        let secure = self.secured.get_mut(slot as usize)?.take()?;
        self.held = self.held.saturating_sub(secure.held());
        Some(secure)
    }

    /// Runs `act` on a protected socket, and keeps account.
    fn on_line<T>(&mut self, io: &Io, act: impl FnOnce(&mut Line<'_>) -> io::Result<T>) -> io::Result<T> {
        let place = io.slot as usize;
        let (Some(slot), Some(Some(secure))) = (self.slots.get_mut(place), self.secured.get_mut(place))
        else {
            return Err(Errno::NOTCONN);
        };
        let before = secure.held();
        let mut line = Line { io, slot, secure, scratch: &mut self.scratch };
        let result = act(&mut line);
        if line.secure.has_input() {
            line.slot.flags |= PENDING;
        } else {
            line.slot.flags &= !PENDING;
        }
        self.held = (self.held + line.secure.held()).saturating_sub(before);
        result
    }

    #[inline(never)]
    pub(super) fn recv_secure(&mut self, io: &Io, buf: &mut Buf) -> io::Result<Received> {
        let room = buf.room();
        if room == 0 {
            return Ok(Received::Blocked);
        }
        self.on_line(io, |line| {
            if line.secure.has_plain() {
                return Ok(Received::Bytes(line.secure.give(buf.tail(), room)));
            }
            line.pull(buf.tail(), room)
        })
    }

    #[inline(never)]
    pub(super) fn send_secure(&mut self, io: &Io, first: &[u8], second: &[u8]) -> io::Result<usize> {
        self.on_line(io, |line| line.send(first, second))
    }

    #[inline(never)]
    pub(super) fn send_file_secure(
        &mut self,
        io: &Io,
        file: impl AsFd,
        offset: &mut u64,
        count: usize,
    ) -> io::Result<usize> {
        self.on_line(io, |line| line.send_file(file, offset, count))
    }

    /// True if the peer has said nothing to the application and has not ended. What it says to the session is dealt with.
    pub(super) fn is_quiet_secure(&mut self, io: &Io) -> bool {
        (!self.has(io, READABLE) || self.absorb(io) == Ok(Received::Blocked)) && !self.has_part(io)
    }

    /// Reads what has come without giving it to anybody. `Bytes`: there is something to be taken.
    pub(super) fn absorb(&mut self, io: &Io) -> io::Result<Received> {
        self.on_line(io, |line| {
            if line.secure.has_plain() {
                return Ok(Received::Bytes(0));
            }
            line.pull(&mut Vec::new(), 0)
        })
    }

    /// The end of what is sent, in order: close_notify, then FIN. False: the kernel takes nothing now; come again.
    pub(crate) fn finish(&mut self, io: &Io) -> bool {
        if !self.has(io, SECURE) {
            let _ = net::shutdown(io, Shutdown::Write);
            return true;
        }
        let finished = self.on_line(io, |line| {
            if line.secure.shut {
                return Ok(true);
            }
            line.secure.end();
            if line.flush()?.is_none() {
                return Ok(false);
            }
            line.secure.shut = true;
            let _ = net::shutdown(line.io, Shutdown::Write);
            Ok(true)
        });
        // A connection that has failed needs no more words.
        finished.unwrap_or(true)
    }

    /// The last words before a socket is closed, if the kernel takes them.
    pub(super) fn farewell(&mut self, io: &Io) {
        let _ = self.on_line(io, |line| {
            // Who has said the same and sent its FIN does not listen any more.
            let gone = line.secure.ended && line.slot.flags & FINISHED != 0;
            if !line.secure.shut && !gone {
                if !line.secure.cut {
                    line.secure.end();
                }
                line.flush()?;
            }
            Ok(())
        });
    }

    /// What is sent breaks off: when the socket is closed, its peer is not told that this is the end (RFC 8446 §6.1). Without it, what
    /// was cut short on one side of us would look whole on the other.
    pub(crate) fn cut(&mut self, io: &Io) {
        if self.has(io, SECURE) {
            let _ = self.on_line(io, |line| {
                line.secure.cut = true;
                Ok(())
            });
        }
    }

    /// Sends what waits to be sent by itself: what a handshake has left, for instance.
    pub(crate) fn flush(&mut self, io: &Io) {
        if self.has(io, SECURE) {
            let _ = self.on_line(io, |line| if line.secure.owes() { Ok(None) } else { line.flush() });
        }
    }

    /// What was handed over for sending and is not out will not be handed over again: it goes out all the same, in front of what is
    /// handed over next.
    pub(crate) fn disown(&mut self, io: &Io) {
        if self.has(io, SECURE) {
            let _ = self.on_line(io, |line| {
                line.secure.disown();
                Ok(())
            });
        }
    }

    /// Bytes that were handed over for sending, whoever holds them, and that the peer has not got yet.
    pub(crate) fn unsent_bytes(&self, io: &Io) -> std::io::Result<usize> {
        let here = self.secure(io).map_or(0, |secure| secure.unsent().len());
        Ok(handover_handoff::socket::unsent_bytes(io)? + here)
    }

    /// True if the last read over TLS did not bring all that there is: it never fills its buffer.
    pub(crate) fn has_more(&self, io: &Io) -> bool {
        self.has(io, SECURE) && self.has(io, READABLE | PENDING) && !self.has(io, FINISHED)
    }

    /// What has come, also if it is not told yet by an event: nothing is given to anybody.
    pub(crate) fn look(&mut self, io: &Io) -> io::Result<Received> {
        if !self.has(io, SECURE) {
            return match net::recv(io, &mut [0_u8; 1], RecvFlags::empty()) {
                Ok((0, _)) => Ok(Received::End),
                Ok((count, _)) => Ok(Received::Bytes(count)),
                Err(Errno::AGAIN | Errno::INTR) => Ok(Received::Blocked),
                Err(errno) => Err(errno),
            };
        }
        if let Some(slot) = self.slots.get_mut(io.slot as usize) {
            slot.flags |= READABLE;
        }
        self.absorb(io)
    }

    /// Bytes that sessions hold between two calls.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held
    }
}

impl Line<'_> {
    fn clear(&mut self, flag: u8) {
        self.slot.flags &= !flag;
    }

    /// Reads until something can be given to `to`, at most `room` bytes; what is opened beyond that waits in the session.
    fn pull(&mut self, to: &mut Vec<u8>, room: usize) -> io::Result<Received> {
        loop {
            if self.secure.broken {
                return Err(Errno::PROTO);
            }
            if self.secure.ended {
                return Ok(Received::End);
            }
            let Some(filled) = self.receive(room)? else { return Ok(Received::Blocked) };
            let count = self.open(filled, to, room);
            if count > 0 || self.secure.has_plain() {
                return Ok(Received::Bytes(count));
            }
        }
    }

    /// Gets ciphertext into the scratch: what was kept, and what the kernel has. How many bytes there are now; `None`: nothing new.
    fn receive(&mut self, room: usize) -> io::Result<Option<usize>> {
        let kept = self.secure.received.len();
        let unopened = std::mem::take(&mut self.secure.unopened);
        if !unopened && self.slot.flags & READABLE == 0 {
            return Ok(None);
        }
        let cipher = self.scratch.cipher();
        // One record at least, so that there is something to open; and not much more than there is room for.
        let wanted = room.max(RECORD_BYTES).max(kept).min(cipher.len());
        let Some((front, rest)) = cipher.get_mut(..wanted).and_then(|all| all.split_at_mut_checked(kept))
        else {
            return Err(Errno::MSGSIZE);
        };
        front.copy_from_slice(&self.secure.received);
        if unopened {
            return Ok(Some(kept));
        }
        match io::retry_on_intr(|| net::recv(self.io, &mut *rest, RecvFlags::empty())) {
            Ok((0, _)) => {
                // Nobody is there to whom an end could be announced.
                self.secure.shut = true;
                Err(Errno::CONNRESET)
            }
            Ok((count, _)) => {
                if count < rest.len() && self.slot.flags & FINISHED == 0 {
                    self.clear(READABLE);
                }
                Ok(Some(kept + count))
            }
            Err(Errno::AGAIN) => {
                self.clear(READABLE);
                Ok(None)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Opens the records in the scratch. How many bytes went to `to`.
    fn open(&mut self, filled: usize, to: &mut Vec<u8>, room: usize) -> usize {
        let Scratch { cipher, plain, .. } = &mut *self.scratch;
        let Some(records) = cipher.get_mut(..filled) else { return 0 };
        let before = to.len();
        // Data is always shorter than its records.
        let straight = filled <= room;
        plain.clear();
        let result = self.secure.session.open(records, if straight { to } else { plain });
        if !straight {
            let (given, kept) = plain.split_at(plain.len().min(room));
            to.extend_from_slice(given);
            self.secure.keep_plain(kept);
        }
        match result {
            Ok(progress) => {
                self.secure.ended |= progress.closed;
                self.secure.keep_received(records.get(progress.consumed..).unwrap_or_default());
            }
            Err(error) => {
                self.secure.refuse(error);
                self.secure.keep_received(&[]);
            }
        }
        to.len() - before
    }

    /// Writes once, and notes when the kernel is full.
    fn write(io: &Io, slot: &mut Slot, bytes: &[u8]) -> io::Result<usize> {
        match io::retry_on_intr(|| net::send(io, bytes, SendFlags::NOSIGNAL)) {
            Ok(count) => {
                if count < bytes.len() {
                    slot.flags &= !WRITABLE;
                }
                Ok(count)
            }
            Err(Errno::AGAIN) => {
                slot.flags &= !WRITABLE;
                Ok(0)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Sends what waits. When all of it is out: how many of the caller's bytes were in it.
    fn flush(&mut self) -> io::Result<Option<usize>> {
        if self.secure.unsent().is_empty() {
            return Ok(Some(0));
        }
        if self.slot.flags & WRITABLE == 0 {
            return Ok(None);
        }
        let count = Self::write(self.io, self.slot, self.secure.unsent())?;
        Ok(self.secure.was_sent(count))
    }

    /// Seals and sends, piece by piece, until everything is out or the kernel is full.
    fn send(&mut self, first: &[u8], second: &[u8]) -> io::Result<usize> {
        let total = first.len() + second.len();
        let mut sent = 0;
        if self.secure.unsent().len() > CARRY_BYTES {
            match self.flush()? {
                None => return Ok(0),
                Some(owed) => sent = owed,
            }
        }
        while sent < total || !self.secure.unsent().is_empty() {
            let Self { io, slot, secure, scratch } = self;
            let room = scratch.sealed();
            let carried = secure.unsent().len();
            let Some((front, rest)) = room.split_at_mut_checked(carried) else { return Err(Errno::MSGSIZE) };
            front.copy_from_slice(secure.unsent());
            let owed = secure.was_sent(carried).unwrap_or(0);
            let parts = after(first, second, sent + owed);
            let sealed = secure.session.seal_into(&parts, rest).map_err(errno_of)?;
            let Some(bytes) = room.get(..carried + sealed.written) else { return Err(Errno::MSGSIZE) };
            let in_them = owed + sealed.taken;
            let count = match Self::write(io, slot, bytes) {
                // So that nobody takes what went before for unsent: see [`Reactor::has_begun`].
                Err(errno) if sent > 0 => {
                    secure.keep_sealed(bytes, in_them);
                    return Err(errno);
                }
                result => result?,
            };
            if let Some(left) = bytes.get(count..).filter(|left| !left.is_empty()) {
                secure.keep_sealed(left, in_them);
                return Ok(sent);
            }
            sent += in_them;
        }
        Ok(sent.min(total))
    }

    /// Reads, seals and sends, piece by piece.
    fn send_file(&mut self, file: impl AsFd, offset: &mut u64, count: usize) -> io::Result<usize> {
        let Some(mut sent) = self.flush()? else { return Ok(0) };
        *offset += sent as u64;
        while sent < count && self.slot.flags & WRITABLE != 0 {
            let mut plain = std::mem::take(&mut self.scratch.plain);
            plain.resize(PIECE_BYTES.min(count - sent), 0);
            let read = io::retry_on_intr(|| io::pread(&file, &mut *plain, *offset));
            let result = match read {
                Ok(read) => self.send(plain.get(..read).unwrap_or_default(), &[]).map(|out| (read, out)),
                Err(errno) => Err(errno),
            };
            self.scratch.plain = plain;
            let (read, out) = result?;
            *offset += out as u64;
            sent += out;
            if read == 0 || out < read {
                break;
            }
        }
        Ok(sent)
    }
}

/// What is left of two slices after so many bytes.
fn after<'a>(first: &'a [u8], second: &'a [u8], count: usize) -> [&'a [u8]; 2] {
    match first.get(count..) {
        Some(rest) => [rest, second],
        None => [&[], second.get(count - first.len()..).unwrap_or_default()],
    }
}

/// A session that cannot seal is as good as a broken pipe.
fn errno_of(error: SealError) -> Errno {
    match error {
        SealError::Ended => Errno::PIPE,
        SealError::Exhausted | SealError::Key => Errno::PROTO,
    }
}
