//! A connection that speaks HTTP, between two requests or in the middle of one that passes through.
//!
//! ```text
//!   client(unsaid, placed, keep alive)  bytes counted in, out  then:
//!     waiting:  ticks left  what was read of a head; if anything: seen  bytes in  µs since it began
//!     passing:  see `proxy`
//! ```

use super::codec::{Decoder, Encoder, MAX_AMOUNT};
use super::proxy::ProxyState;
use super::socket::{ClientState, MAX_BUFFER_BYTES, MAX_TICKS};
use super::{Names, StateError};

/// A connection that speaks HTTP.
#[derive(Debug)]
pub(in crate::conn) struct HttpState<'a> {
    pub(in crate::conn) kept: KeptState<'a>,
    pub(in crate::conn) phase: PhaseState<'a>,
}

/// What it keeps from request to request.
#[derive(Debug)]
pub(in crate::conn) struct KeptState<'a> {
    pub(in crate::conn) client: ClientState<'a>,
    /// A handshake has left something to be sent.
    pub(in crate::conn) unsaid: bool,
    /// The thread on which it stays is settled.
    pub(in crate::conn) placed: bool,
    /// The client wants to go on after the present request, or wanted to after the last one.
    pub(in crate::conn) keep_alive: bool,
    pub(in crate::conn) counted_in: u64,
    pub(in crate::conn) counted_out: u64,
}

/// What it is doing.
#[derive(Debug)]
pub(in crate::conn) enum PhaseState<'a> {
    Waiting(WaitingState<'a>),
    Passing(Box<ProxyState<'a>>),
}

/// Waiting for a request, or for the rest of its head.
#[derive(Debug)]
pub(in crate::conn) struct WaitingState<'a> {
    /// Ticks until its time is over.
    pub(in crate::conn) left: u64,
    /// What was read and not understood yet.
    pub(in crate::conn) inbuf: &'a [u8],
    /// So many bytes of that were looked at in vain.
    pub(in crate::conn) seen: usize,
    pub(in crate::conn) bytes_in: u64,
    /// Since its first byte (µs).
    pub(in crate::conn) since_us: u64,
}

impl<'a> HttpState<'a> {
    /// The bytes in its buffers.
    pub(super) fn buffered(&self) -> usize {
        match &self.phase {
            PhaseState::Waiting(waiting) => waiting.inbuf.len(),
            PhaseState::Passing(proxy) => proxy.buffered(),
        }
    }

    pub(super) fn write(&self, encoder: &mut Encoder) {
        self.kept.write(encoder);
        match &self.phase {
            PhaseState::Waiting(waiting) => waiting.write(encoder),
            PhaseState::Passing(proxy) => proxy.write(encoder),
        }
    }

    pub(super) fn read(
        decoder: &mut Decoder<'a, '_>,
        names: &Names<'_>,
        passing: bool,
    ) -> Result<Self, StateError> {
        let kept = KeptState::read(decoder, names)?;
        let phase = if passing {
            PhaseState::Passing(Box::new(ProxyState::read(decoder, names)?))
        } else {
            PhaseState::Waiting(WaitingState::read(decoder)?)
        };
        Ok(Self { kept, phase })
    }
}

impl<'a> KeptState<'a> {
    fn write(&self, encoder: &mut Encoder) {
        self.client.write([self.unsaid, self.placed, self.keep_alive], encoder);
        encoder.number(self.counted_in);
        encoder.number(self.counted_out);
    }

    fn read(decoder: &mut Decoder<'a, '_>, names: &Names<'_>) -> Result<Self, StateError> {
        let (client, [unsaid, placed, keep_alive]) = ClientState::read(decoder)?;
        names.check_listener(client.listener, client.socket.is_protected(), true)?;
        Ok(Self {
            client,
            unsaid,
            placed,
            keep_alive,
            counted_in: decoder.number("bytes read", MAX_AMOUNT)?,
            counted_out: decoder.number("bytes written", MAX_AMOUNT)?,
        })
    }
}

impl<'a> WaitingState<'a> {
    fn write(&self, encoder: &mut Encoder) {
        encoder.number(self.left);
        encoder.bytes(self.inbuf);
        if !self.inbuf.is_empty() {
            encoder.number(self.seen as u64);
            encoder.number(self.bytes_in);
            encoder.number(self.since_us);
        }
    }

    fn read(decoder: &mut Decoder<'a, '_>) -> Result<Self, StateError> {
        let left = decoder.number("the time for a request", MAX_TICKS)?;
        let inbuf = decoder.bytes("the beginning of a request", MAX_BUFFER_BYTES)?;
        if inbuf.is_empty() {
            return Ok(Self { left, inbuf, seen: 0, bytes_in: 0, since_us: 0 });
        }
        Ok(Self {
            left,
            inbuf,
            seen: decoder.small("bytes looked at", inbuf.len())?,
            bytes_in: decoder.number("bytes read", MAX_AMOUNT)?,
            since_us: decoder.number("the age of a request", MAX_AMOUNT)?,
        })
    }
}
