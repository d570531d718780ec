//! The pieces that states are made of.
//!
//! Numbers, lengths and the rest of the small change are [`crate::moving::bytes`]; here is what the states of connections need besides:
//! the format, what is wrong in words, a limit on everything, and secrets that leave no copies behind.
//!
//! Why not a crate for it: what is written must stay the same, byte for byte, for as long as a format is read, whatever becomes of the
//! structs behind it; ten thousand idle connections are read while none of them is served; and every value is checked as it is read.
//! A derived codec would need a second set of structs for the first, and a second pass for the last.

use std::ops::Deref;

use zeroize::Zeroizing;

use super::StateError;
use crate::moving::bytes::{Input, put_bytes, put_varint};
use crate::moving::facts::{FactsIn, FactsOut};
use crate::reactor::Secure;

/// Both numbers of bytes and of microseconds stay below this, so that sums of them are numbers too.
pub(super) const MAX_AMOUNT: u64 = 1 << 62;

/// The first format that has everything: the one before leaves out what [`Encoder::is_full`] guards.
const FULL_FORMAT: u16 = 2;

/// The first format that has what waits for an endpoint, and the routes of what is in flight.
pub(super) const WAITING_FORMAT: u16 = 3;

/// Room that is made for a state before it is written, besides that for its buffers: two TLS sessions and all numbers.
const ITEM_BYTES: usize = 1024;

/// Writes states.
pub(super) struct Encoder {
    format: u16,
    /// It holds secrets.
    out: Zeroizing<Vec<u8>>,
    facts: FactsOut,
}

impl Encoder {
    pub(super) fn new(format: u16) -> Self {
        Self { format, out: Zeroizing::new(Vec::new()), facts: FactsOut::default() }
    }

    /// Whether what the older format leaves out is written.
    pub(super) fn is_full(&self) -> bool {
        self.format >= FULL_FORMAT
    }

    /// Whether routes are written, and what waits for an endpoint can be.
    pub(super) fn has_waiting(&self) -> bool {
        self.format >= WAITING_FORMAT
    }

    /// Makes room for a state whose buffers hold so many bytes. A vector that grows by itself would leave secrets in the memory that it
    /// gives back.
    pub(super) fn make_room(&mut self, buffers: usize) {
        let needed = self.out.len() + buffers + ITEM_BYTES;
        if needed > self.out.capacity() {
            let mut roomy = Vec::with_capacity(needed.max(self.out.capacity() * 2));
            roomy.extend_from_slice(&self.out);
            self.out = Zeroizing::new(roomy);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.out.push(byte);
    }

    pub(super) fn number(&mut self, number: u64) {
        put_varint(&mut self.out, number);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        put_bytes(&mut self.out, bytes);
    }

    /// Bytes whose length is known.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Up to eight answers in a byte, the first one lowest.
    pub(super) fn bits<const N: usize>(&mut self, bits: [bool; N]) {
        const { assert!(N <= 8) };
        self.byte(bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit)));
    }

    /// The vector, for what writes itself.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    pub(super) fn secure(&mut self, secure: &Secure) {
        let facts = self.facts.number(secure.facts());
        secure.write(facts, &mut self.out);
    }

    /// The table of what the TLS connections have agreed on.
    pub(super) fn facts_table(&mut self) {
        self.facts.write(&mut self.out);
    }

    /// Puts a number of eight bytes, big-endian, where room was left for it.
    pub(super) fn patch(&mut self, at: usize, number: u64) {
        if let Some(place) = self.out.get_mut(at..).and_then(|out| out.first_chunk_mut()) {
            *place = number.to_be_bytes();
        }
    }

    /// What was written. Whoever has it overwrites it afterwards.
    pub(super) fn finish(mut self) -> Vec<u8> {
        std::mem::take(&mut *self.out)
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("format", &self.format).finish_non_exhaustive()
    }
}

/// Reads states.
#[derive(Debug)]
pub(super) struct Decoder<'a, 'f> {
    format: u16,
    input: Input<'a>,
    facts: &'f FactsIn,
}

impl<'a, 'f> Decoder<'a, 'f> {
    pub(super) fn new(format: u16, bytes: &'a [u8], facts: &'f FactsIn) -> Self {
        Self { format, input: Input::new(bytes), facts }
    }

    /// Whether there is what the older format leaves out.
    pub(super) fn is_full(&self) -> bool {
        self.format >= FULL_FORMAT
    }

    /// Whether there are routes, and there can be what waits for an endpoint.
    pub(super) fn has_waiting(&self) -> bool {
        self.format >= WAITING_FORMAT
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.input.is_empty()
    }

    pub(super) fn byte(&mut self, what: &'static str) -> Result<u8, StateError> {
        self.input.byte().map_err(|_| StateError::Value(what))
    }

    /// A number up to `limit`.
    pub(super) fn number(&mut self, what: &'static str, limit: u64) -> Result<u64, StateError> {
        let found = self.input.varint().map_err(|_| StateError::Value(what))?;
        if found > limit {
            return Err(StateError::Limit { what, found, limit });
        }
        Ok(found)
    }

    /// A number that is stored in fewer bits, up to `limit`.
    pub(super) fn small<T>(&mut self, what: &'static str, limit: T) -> Result<T, StateError>
    where
        T: Copy + TryFrom<u64> + TryInto<u64>,
    {
        let limit = limit.try_into().unwrap_or(u64::MAX);
        T::try_from(self.number(what, limit)?).map_err(|_| StateError::Value(what))
    }

    /// At most `limit` bytes, still where they were read.
    pub(super) fn bytes(&mut self, what: &'static str, limit: usize) -> Result<&'a [u8], StateError> {
        let count = self.small(what, limit)?;
        self.input.take(count).map_err(|_| StateError::Value(what))
    }

    pub(super) fn text(&mut self, what: &'static str, limit: usize) -> Result<&'a str, StateError> {
        std::str::from_utf8(self.bytes(what, limit)?).map_err(|_| StateError::Value(what))
    }

    pub(super) fn raw<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], StateError> {
        let bytes = self.input.take(N).map_err(|_| StateError::Value(what))?;
        bytes.first_chunk().copied().ok_or(StateError::Value(what))
    }

    /// What [`Encoder::bits`] wrote; the bits above are 0.
    pub(super) fn bits<const N: usize>(&mut self, what: &'static str) -> Result<[bool; N], StateError> {
        let mut byte = self.byte(what)?;
        let bits = std::array::from_fn(|_| {
            let bit = byte & 1 != 0;
            byte >>= 1;
            bit
        });
        if byte == 0 { Ok(bits) } else { Err(StateError::Value(what)) }
    }

    /// What reads itself from the front of the rest.
    pub(super) fn with<T>(
        &mut self,
        what: &'static str,
        read: impl FnOnce(&mut Input<'a>) -> Option<T>,
    ) -> Result<T, StateError> {
        read(&mut self.input).ok_or(StateError::Value(what))
    }

    pub(super) fn secure(&mut self) -> Result<Box<Secure>, StateError> {
        let facts = self.facts;
        match Secure::read(&mut self.input, |number| facts.get(number)) {
            Ok(secure) => Ok(Box::new(secure)),
            Err(_) => Err(StateError::Value("a TLS session")),
        }
    }
}

/// What protects a socket: still in use where it is written down, or read.
#[derive(Debug)]
pub(super) enum Guard<'a> {
    Used(&'a Secure),
    Read(Box<Secure>),
}

impl Deref for Guard<'_> {
    type Target = Secure;

    fn deref(&self) -> &Secure {
        match self {
            Self::Used(secure) => secure,
            Self::Read(secure) => secure,
        }
    }
}
