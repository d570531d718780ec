//! The chunked coding (RFC 9112 §7.1), read byte by byte where it is framing and run by run where it is data.
//!
//! ```text
//!                ┌────────────────────────────────────────────────────┐
//!                ▼                                                    │
//!   Size ── hex digits ── ';' ──▶ Extension ── CR ──▶ SizeLf ── LF ─▶ Data ── n bytes ─▶ DataCr ─ CR ─▶ DataLf ─ LF
//!     └───────────── CR ──────────────────────────────▲ │
//!                                                       └─ size 0 ─▶ Trailers ── lines, empty line ──▶ done
//! ```
//!
//! Anything that does not fit is refused. In particular: no digit, a sign, `0x`, whitespace before or after the size,
//! a bare CR or LF anywhere, and extensions beyond a bound. Extensions are checked for harmful bytes and dropped.

use crate::body::{BodyState, Step, TOO_LARGE};
use crate::limits::{MAX_BODY_EXTENSION_BYTES, MAX_CHUNK_EXTENSION_BYTES, MAX_CHUNK_SIZE_DIGITS};
use crate::refusal::Refusal;
use crate::trailers::{Section, read_section};

/// Where in the coding the stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunked {
    pub(crate) place: Place,
    /// Data bytes that may still come.
    pub(crate) limit_left: u64,
    /// Bytes of extensions seen in the whole body.
    pub(crate) extension_bytes: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Size { size: u64, digits: u8 },
    Extension { size: u64, bytes: u16 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailers,
}

impl Chunked {
    pub(crate) const fn new(limit: u64) -> Self {
        Self { place: Place::Size { size: 0, digits: 0 }, limit_left: limit, extension_bytes: 0 }
    }

    /// One run of data at most, and all framing before and after it.
    pub(crate) fn next(&mut self, input: &[u8]) -> Result<Step, Refusal> {
        let mut at = 0;
        let mut data = 0..0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            let Some(byte) = rest.first() else {
                return Ok(Step::new(at, data, BodyState::More));
            };
            match &mut self.place {
                Place::Data { left } => {
                    if !data.is_empty() {
                        return Ok(Step::new(at, data, BodyState::More));
                    }
                    let here = usize::try_from(*left).map_or(rest.len(), |left| left.min(rest.len()));
                    *left -= here as u64;
                    data = at..at + here;
                    at += here;
                    if *left == 0 {
                        self.place = Place::DataCr;
                    }
                }
                Place::Trailers => return self.trailers(rest, at, data),
                _ => {
                    self.framing(*byte)?;
                    at += 1;
                }
            }
        }
    }

    /// One byte of framing.
    fn framing(&mut self, byte: u8) -> Result<(), Refusal> {
        self.place = match self.place {
            Place::Size { size, digits } => self.size_byte(byte, size, digits)?,
            Place::Extension { size, bytes } => self.extension_byte(byte, size, bytes)?,
            Place::SizeLf { size } if byte == b'\n' => self.begin_data(size)?,
            Place::SizeLf { .. } => return Err(Refusal::bad("a bare CR in a chunk header")),
            Place::DataCr if byte == b'\r' => Place::DataLf,
            Place::DataLf if byte == b'\n' => Place::Size { size: 0, digits: 0 },
            Place::DataCr | Place::DataLf => {
                return Err(Refusal::bad("a chunk is longer than its size says"));
            }
            place @ (Place::Data { .. } | Place::Trailers) => place,
        };
        Ok(())
    }

    fn size_byte(&self, byte: u8, size: u64, digits: u8) -> Result<Place, Refusal> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if digits > 0 => return Ok(Place::SizeLf { size }),
            b';' if digits > 0 => return Ok(Place::Extension { size, bytes: 0 }),
            b'\n' => return Err(Refusal::bad("a bare LF in a chunk header")),
            b' ' | b'\t' => return Err(Refusal::bad("whitespace around a chunk size")),
            _ => return Err(Refusal::bad("a chunk size is not a hexadecimal number")),
        };
        if digits == MAX_CHUNK_SIZE_DIGITS {
            return Err(Refusal::bad("a chunk size has too many digits"));
        }
        // 15 digits are 60 bits: nothing is shifted out.
        Ok(Place::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
    }

    fn extension_byte(&mut self, byte: u8, size: u64, bytes: u16) -> Result<Place, Refusal> {
        match byte {
            b'\r' if bytes == 0 => return Err(Refusal::bad("a chunk extension without a name")),
            b'\r' => return Ok(Place::SizeLf { size }),
            b'\n' => return Err(Refusal::bad("a bare LF in a chunk header")),
            b'\t' | b' '..=b'~' => {}
            _ => return Err(Refusal::bad("a chunk extension has a character that it may not have")),
        }
        if bytes == MAX_CHUNK_EXTENSION_BYTES || self.extension_bytes == MAX_BODY_EXTENSION_BYTES {
            return Err(Refusal::bad("chunk extensions are too long"));
        }
        self.extension_bytes += 1;
        Ok(Place::Extension { size, bytes: bytes + 1 })
    }

    fn begin_data(&mut self, size: u64) -> Result<Place, Refusal> {
        if size == 0 {
            return Ok(Place::Trailers);
        }
        self.limit_left = self.limit_left.checked_sub(size).ok_or(TOO_LARGE)?;
        Ok(Place::Data { left: size })
    }

    fn trailers(&self, rest: &[u8], at: usize, data: std::ops::Range<usize>) -> Result<Step, Refusal> {
        Ok(match read_section(rest)? {
            Section::Partial => Step::new(at, data, BodyState::More),
            Section::Complete { len, lines } => {
                Step { consumed: at + len, data, trailers: at..at + lines, state: BodyState::Done }
            }
        })
    }
}
