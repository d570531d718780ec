//! One direction of a body: bytes from one socket to the other, with nothing in between but one buffer.
//!
//! ```text
//!   source socket ──recv──▶ source.buf ──────────────raw: writev straight from here──────────▶ sink socket
//!                                 └──reframed: decode, write chunks──▶ sink.buf ──send──▶ sink socket
//! ```
//!
//! Nothing is read before what was read is written: that is the back-pressure, and why a body of any size needs constant memory.
//! `sink.buf` may hold a head that has to go first; it goes out with the first bytes of the body in one call.

mod written;

use handover_http1::{
    BodyKind, BodyReader, BodyState, CHUNK_END, Refusal, write_chunk_header, write_last_chunk,
};
use rustix::io::Errno;

use crate::buffers::{Buf, Buffers, LARGE_BYTES};
use crate::reactor::{Io, Reactor, Received};

/// Body bytes up to this many are copied behind the head, so that one plain `send` does; more go by `writev`.
const COPY_BYTES: usize = 4 * 1024;
/// Room that must be free in the sink's buffer before more is decoded into it: a chunk header and a whole trailer section.
const REFRAME_ROOM: usize = handover_http1::limits::MAX_TRAILER_BYTES + 64;
/// A length from which on it is worth having a large buffer.
const LARGE_BODY_BYTES: u64 = 64 * 1024;

/// Where one body is, and how it is framed on both sides. Plain data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    reader: BodyReader,
    /// Neither side is chunked: bytes pass untouched.
    raw: bool,
    /// The sink's side is chunked.
    chunked_out: bool,
    /// The body has been read to its end.
    read: bool,
    /// Reads have filled the buffer: it pays to have a larger one.
    full_reads: bool,
    /// Trailers are not passed on.
    bare: bool,
}

/// Why [`Flow::pump`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// The body and everything before it was written.
    Done,
    /// The source has nothing more now.
    WaitSource,
    /// The sink takes nothing more now.
    WaitSink,
    /// There is more to do, but others want their turn.
    Budget,
}

/// Why a body cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PumpError {
    /// The source broke its framing, or ended too early.
    Source(Refusal),
    /// The source's socket failed.
    SourceLost(Errno),
    /// The sink's socket failed.
    SinkLost(Errno),
}

/// What one call moved.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moved {
    /// Bytes read from the source.
    pub(crate) received: u64,
    /// Bytes written to the sink.
    pub(crate) sent: u64,
}

/// Why [`Flow::reframe`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reframed {
    /// All that can be decoded without more input is in the sink's buffer.
    NeedsInput,
    /// What is in the sink's buffer, perhaps only a long head, must go out first. No event will say that there is more: it was
    /// read already.
    NeedsRoom,
}

/// A socket and the buffer that belongs to this direction of it.
#[derive(Debug)]
pub(crate) struct End<'a> {
    pub(crate) io: &'a Io,
    pub(crate) buf: &'a mut Buf,
}

impl Flow {
    /// A body that comes framed as the reader says and goes out framed as `out` says.
    pub(crate) fn new(reader: BodyReader, incoming: BodyKind, out: BodyKind) -> Self {
        let chunked_out = out == BodyKind::Chunked;
        Self {
            reader,
            raw: !chunked_out && incoming != BodyKind::Chunked,
            chunked_out,
            read: incoming.is_empty(),
            full_reads: matches!(incoming, BodyKind::Length(length) if length >= LARGE_BODY_BYTES),
            bare: false,
        }
    }

    /// The same, without trailers if `bare`: somebody might take them for headers (RFC 9110 §6.5.1 lets them be discarded).
    pub(crate) fn without_trailers(self, bare: bool) -> Self {
        Self { bare, ..self }
    }

    /// A direction without framing: a tunnel.
    pub(crate) fn endless() -> Self {
        Self::new(BodyReader::response(BodyKind::UntilClose), BodyKind::UntilClose, BodyKind::UntilClose)
    }

    /// True once the source has given everything.
    pub(crate) fn is_read(&self) -> bool {
        self.read
    }

    /// Moves as much as goes now.
    pub(crate) fn pump(
        &mut self,
        reactor: &mut Reactor,
        buffers: &mut Buffers,
        source: &mut End<'_>,
        sink: &mut End<'_>,
        budget: &mut usize,
        moved: &mut Moved,
    ) -> Result<Pumped, PumpError> {
        loop {
            self.write_out(reactor, buffers, source, sink, moved)?;
            if !sink.buf.is_empty() || (self.raw && self.ready(source.buf) > 0) {
                return Ok(Pumped::WaitSink);
            }
            if self.read {
                return Ok(Pumped::Done);
            }
            if *budget == 0 {
                return Ok(Pumped::Budget);
            }
            if self.reader_wants_more(source.buf) {
                match self.fill(reactor, buffers, source, budget, moved)? {
                    Received::Bytes(_) => {}
                    Received::Blocked => {
                        buffers.release_if_empty(source.buf);
                        return Ok(Pumped::WaitSource);
                    }
                    Received::End => {
                        self.reader.end_of_input().map_err(PumpError::Source)?;
                        self.read = true;
                        if self.chunked_out {
                            buffers.ensure_small(sink.buf);
                            write_last_chunk(sink.buf.tail(), b"");
                        }
                    }
                }
            }
        }
    }

    /// Body bytes at the front of the source's buffer that pass untouched.
    fn ready(&self, buf: &Buf) -> usize {
        match self.reader.remaining_length() {
            Some(left) => usize::try_from(left).unwrap_or(usize::MAX).min(buf.len()),
            None if self.read => 0,
            None => buf.len(),
        }
    }

    /// In a framing that is decoded, an unfinished chunk header may stay in the buffer.
    fn reader_wants_more(&self, buf: &Buf) -> bool {
        buf.is_empty() || !self.raw
    }

    fn write_out(
        &mut self,
        reactor: &mut Reactor,
        buffers: &mut Buffers,
        source: &mut End<'_>,
        sink: &mut End<'_>,
        moved: &mut Moved,
    ) -> Result<(), PumpError> {
        if self.raw {
            return self.write_raw(reactor, buffers, source, sink, moved);
        }
        loop {
            let reframed = self.reframe(buffers, source.buf, sink.buf).map_err(PumpError::Source)?;
            if sink.buf.is_empty() {
                break;
            }
            let sent = reactor.send(sink.io, sink.buf.unread()).map_err(PumpError::SinkLost)?;
            moved.sent += sent as u64;
            sink.buf.consume(sent);
            if !sink.buf.is_empty() || reframed == Reframed::NeedsInput {
                break;
            }
        }
        buffers.release_if_empty(sink.buf);
        Ok(())
    }

    fn write_raw(
        &mut self,
        reactor: &mut Reactor,
        buffers: &mut Buffers,
        source: &mut End<'_>,
        sink: &mut End<'_>,
        moved: &mut Moved,
    ) -> Result<(), PumpError> {
        let mut ready = self.ready(source.buf);
        if ready > 0 && ready <= COPY_BYTES && !sink.buf.is_empty() && ready <= sink.buf.room() {
            let bytes = source.buf.unread().get(..ready).unwrap_or_default();
            sink.buf.tail().extend_from_slice(bytes);
            self.take(source.buf, ready);
            ready = 0;
        }
        let body = source.buf.unread().get(..ready).unwrap_or_default();
        let sent = reactor.send_two(sink.io, sink.buf.unread(), body).map_err(PumpError::SinkLost)?;
        moved.sent += sent as u64;
        let of_head = sent.min(sink.buf.len());
        sink.buf.consume(of_head);
        buffers.release_if_empty(sink.buf);
        self.take(source.buf, sent - of_head);
        Ok(())
    }

    /// `count` body bytes at the front of the buffer have been dealt with.
    fn take(&mut self, buf: &mut Buf, count: usize) {
        buf.consume(count);
        if self.reader.remaining_length().is_some() {
            self.reader.skip(count as u64);
            self.read = self.reader.is_done();
        }
    }

    /// Decodes what there is into the sink's buffer, and says why it stopped.
    fn reframe(
        &mut self,
        buffers: &mut Buffers,
        source: &mut Buf,
        sink: &mut Buf,
    ) -> Result<Reframed, Refusal> {
        while !self.read && !source.is_empty() {
            buffers.ensure_small(sink);
            let room = sink.room();
            if room <= 2 * REFRAME_ROOM {
                return Ok(Reframed::NeedsRoom);
            }
            let window = source.len().min(room - REFRAME_ROOM);
            let input = source.unread().get(..window).unwrap_or_default();
            let step = self.reader.next(input)?;
            let data = input.get(step.data.clone()).unwrap_or_default();
            if !data.is_empty() {
                if self.chunked_out {
                    write_chunk_header(sink.tail(), data.len());
                    sink.tail().extend_from_slice(data);
                    sink.tail().extend_from_slice(CHUNK_END);
                } else {
                    sink.tail().extend_from_slice(data);
                }
            }
            if step.state == BodyState::Done {
                self.read = true;
                if self.chunked_out {
                    let trailers = if self.bare { None } else { input.get(step.trailers.clone()) };
                    write_last_chunk(sink.tail(), trailers.unwrap_or_default());
                }
            }
            source.consume(step.consumed);
            if step.consumed == 0 {
                break;
            }
        }
        Ok(Reframed::NeedsInput)
    }

    /// Reads once.
    fn fill(
        &mut self,
        reactor: &mut Reactor,
        buffers: &mut Buffers,
        source: &mut End<'_>,
        budget: &mut usize,
        moved: &mut Moved,
    ) -> Result<Received, PumpError> {
        if !reactor.is_readable(source.io) {
            return Ok(Received::Blocked);
        }
        if self.full_reads && self.raw && source.buf.capacity() < LARGE_BYTES {
            buffers.ensure_large(source.buf);
        }
        buffers.ensure_small(source.buf);
        source.buf.make_room();
        let room = source.buf.room();
        let received = reactor.recv(source.io, source.buf).map_err(PumpError::SourceLost)?;
        if let Received::Bytes(count) = received {
            moved.received += count as u64;
            *budget = budget.saturating_sub(count);
            if count == room || reactor.has_more(source.io) {
                self.full_reads = true;
            }
        }
        Ok(received)
    }
}

/// Reads what is left of a body and forgets it; true once there is no more.
pub(crate) fn discard(
    reader: &mut BodyReader,
    reactor: &mut Reactor,
    buffers: &mut Buffers,
    source: &mut End<'_>,
    left: &mut u64,
) -> Result<Pumped, PumpError> {
    loop {
        while !reader.is_done() && !source.buf.is_empty() {
            let step = reader.next(source.buf.unread()).map_err(PumpError::Source)?;
            source.buf.consume(step.consumed);
            if step.state == BodyState::Done {
                return Ok(Pumped::Done);
            }
            if step.consumed == 0 {
                break;
            }
        }
        if reader.is_done() {
            return Ok(Pumped::Done);
        }
        if *left == 0 {
            return Ok(Pumped::Budget);
        }
        buffers.ensure_small(source.buf);
        source.buf.make_room();
        match reactor.recv(source.io, source.buf).map_err(PumpError::SourceLost)? {
            Received::Bytes(count) => *left = left.saturating_sub(count as u64),
            Received::Blocked => {
                buffers.release_if_empty(source.buf);
                return Ok(Pumped::WaitSource);
            }
            Received::End => return Err(PumpError::SourceLost(Errno::CONNRESET)),
        }
    }
}
