//! A body's reader written down: the bytes that travel to another process with a connection in the middle of a body.
//!
//! ```text
//!   kind(1)   0 ended · 1 a length: left(8) · 2 until the peer closes
//!             chunked: limit left(8) extensions of the body(2), and
//!             3 size: size(8) digits(1) · 4 extension: size(8) bytes(2) · 5 LF of the size: size(8) · 6 data: left(8)
//!             7 CR of the data · 8 LF of the data · 9 trailers
//!   and 0x80 if it is a response's
//! ```
//!
//! Numbers are big-endian. What is read is no more than what reading a body can lead to, so that reading on cannot go wrong.

use crate::body::{BodyReader, Progress, Side};
use crate::chunked::{Chunked, Place};
use crate::limits::{
    MAX_BODY_EXTENSION_BYTES, MAX_CHUNK_EXTENSION_BYTES, MAX_CHUNK_SIZE_DIGITS, MAX_LENGTH_BYTES,
};

const RESPONSE: u8 = 0x80;

const ENDED: u8 = 0;
const LENGTH: u8 = 1;
const UNTIL_CLOSE: u8 = 2;
const SIZE: u8 = 3;
const EXTENSION: u8 = 4;
const SIZE_LF: u8 = 5;
const DATA: u8 = 6;
const DATA_CR: u8 = 7;
const DATA_LF: u8 = 8;
const TRAILERS: u8 = 9;

impl BodyReader {
    /// The most bytes that [`BodyReader::write`] appends.
    pub const WRITTEN_BYTES: usize = 21;

    /// Appends everything that another process needs to read on.
    pub fn write(&self, out: &mut Vec<u8>) {
        let side = if self.side == Side::Response { RESPONSE } else { 0 };
        match self.progress {
            Progress::Done => out.push(side | ENDED),
            Progress::UntilClose => out.push(side | UNTIL_CLOSE),
            Progress::Length { left } => {
                out.push(side | LENGTH);
                out.extend_from_slice(&left.to_be_bytes());
            }
            Progress::Chunked(chunked) => write_chunked(&chunked, side, out),
        }
    }

    /// The reader that [`BodyReader::write`] wrote at the front of `bytes`, and what follows it. `None`: nothing of the kind.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = bytes;
        let kind = u8::from_be_bytes(take(&mut rest)?);
        let side = if kind & RESPONSE != 0 { Side::Response } else { Side::Request };
        let progress = match kind & !RESPONSE {
            ENDED => Progress::Done,
            UNTIL_CLOSE if side == Side::Response => Progress::UntilClose,
            LENGTH => {
                let left = u64::from_be_bytes(take(&mut rest)?);
                if left == 0 || left > MAX_LENGTH_BYTES {
                    return None;
                }
                Progress::Length { left }
            }
            place => Progress::Chunked(read_chunked(place, &mut rest)?),
        };
        Some((Self { side, progress }, rest))
    }
}

fn write_chunked(chunked: &Chunked, side: u8, out: &mut Vec<u8>) {
    let kind = match chunked.place {
        Place::Size { .. } => SIZE,
        Place::Extension { .. } => EXTENSION,
        Place::SizeLf { .. } => SIZE_LF,
        Place::Data { .. } => DATA,
        Place::DataCr => DATA_CR,
        Place::DataLf => DATA_LF,
        Place::Trailers => TRAILERS,
    };
    out.push(side | kind);
    out.extend_from_slice(&chunked.limit_left.to_be_bytes());
    out.extend_from_slice(&chunked.extension_bytes.to_be_bytes());
    match chunked.place {
        Place::Size { size, digits } => {
            out.extend_from_slice(&size.to_be_bytes());
            out.push(digits);
        }
        Place::Extension { size, bytes } => {
            out.extend_from_slice(&size.to_be_bytes());
            out.extend_from_slice(&bytes.to_be_bytes());
        }
        Place::SizeLf { size: number } | Place::Data { left: number } => {
            out.extend_from_slice(&number.to_be_bytes());
        }
        Place::DataCr | Place::DataLf | Place::Trailers => {}
    }
}

fn read_chunked(place: u8, rest: &mut &[u8]) -> Option<Chunked> {
    let limit_left = u64::from_be_bytes(take(rest)?);
    let extension_bytes = u16::from_be_bytes(take(rest)?);
    let place = match place {
        SIZE => Place::Size { size: size(rest)?, digits: u8::from_be_bytes(take(rest)?) },
        EXTENSION => Place::Extension { size: size(rest)?, bytes: u16::from_be_bytes(take(rest)?) },
        SIZE_LF => Place::SizeLf { size: size(rest)? },
        DATA => Place::Data { left: size(rest)? },
        DATA_CR => Place::DataCr,
        DATA_LF => Place::DataLf,
        TRAILERS => Place::Trailers,
        _ => return None,
    };
    let fits = match place {
        Place::Size { size, digits } => {
            digits <= MAX_CHUNK_SIZE_DIGITS && size.checked_shr(4 * u32::from(digits)).unwrap_or(0) == 0
        }
        Place::Extension { bytes, .. } => bytes <= MAX_CHUNK_EXTENSION_BYTES && bytes <= extension_bytes,
        Place::Data { left } => left != 0,
        _ => true,
    };
    (fits && extension_bytes <= MAX_BODY_EXTENSION_BYTES).then_some(Chunked {
        place,
        limit_left,
        extension_bytes,
    })
}

/// A chunk's size: as many digits as there may be.
fn size(rest: &mut &[u8]) -> Option<u64> {
    let size = u64::from_be_bytes(take(rest)?);
    (size >> (4 * u32::from(MAX_CHUNK_SIZE_DIGITS)) == 0).then_some(size)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (front, back) = rest.split_first_chunk()?;
    *rest = back;
    Some(*front)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BodyKind, BodyState};

    const CHUNKED: &[u8] = b"5;name=\"value\"\r\nhello\r\n0010\r\n0123456789abcdef\r\n0\r\nX-Sum: 1\r\n\r\n";

    /// Everything that can be seen of reading `input` from here on.
    fn rest_of(mut reader: BodyReader, input: &[u8]) -> Vec<u8> {
        let (mut at, mut seen) = (0, Vec::new());
        loop {
            let step = reader.next(&input[at..]).unwrap();
            seen.extend_from_slice(&input[at..][step.data.clone()]);
            seen.extend_from_slice(&input[at..][step.trailers.clone()]);
            at += step.consumed;
            if step.state == BodyState::Done || step.consumed == 0 {
                seen.push(u8::from(reader.is_done()));
                return seen;
            }
        }
    }

    fn moved(reader: &BodyReader) -> BodyReader {
        let mut bytes = Vec::new();
        reader.write(&mut bytes);
        assert!(bytes.len() <= BodyReader::WRITTEN_BYTES);
        for short in 0..bytes.len() {
            assert_eq!(BodyReader::read(&bytes[..short]), None);
        }
        bytes.extend_from_slice(b"rest");
        let (moved, rest) = BodyReader::read(&bytes).unwrap();
        assert_eq!((&moved, rest), (reader, &b"rest"[..]));
        moved
    }

    #[test]
    fn a_body_is_read_on_wherever_its_reader_was_written_down() {
        let readers = [
            (BodyReader::request(BodyKind::Chunked, 100).unwrap(), CHUNKED),
            (BodyReader::response(BodyKind::Chunked), CHUNKED),
            (BodyReader::request(BodyKind::Length(10), 10).unwrap(), b"0123456789GET /"),
            (BodyReader::response(BodyKind::UntilClose), b"until the end"),
            (BodyReader::response(BodyKind::None), b"HTTP/1.1"),
        ];
        for (reader, input) in readers {
            for cut in 0..=input.len() {
                let mut here = reader;
                let (mut at, mut data) = (0, Vec::new());
                while at < cut {
                    let step = here.next(&input[at..cut]).unwrap();
                    data.extend_from_slice(&input[at..][step.data.clone()]);
                    data.extend_from_slice(&input[at..][step.trailers.clone()]);
                    at += step.consumed;
                    if step.consumed == 0 || step.state == BodyState::Done {
                        break;
                    }
                }
                let twin = moved(&here);
                assert_eq!(rest_of(twin, &input[at..]), rest_of(here, &input[at..]));
                data.extend(rest_of(twin, &input[at..]));
                assert_eq!(data, rest_of(reader, input), "moved at {cut}");
            }
        }
    }

    #[test]
    fn what_no_body_leads_to_is_not_read() {
        let huge = [0xff_u8; 32];
        for kind in 0..=u8::MAX {
            let mut bytes = vec![kind];
            bytes.extend_from_slice(&huge);
            let read = BodyReader::read(&bytes);
            assert_eq!(read.is_some(), matches!(kind, 0 | 0x80 | 0x82), "{kind}");
        }
        for no_body in [&[LENGTH, 0, 0, 0, 0, 0, 0, 0, 0][..], &[UNTIL_CLOSE], &[RESPONSE | 10], &[]] {
            assert_eq!(BodyReader::read(no_body), None);
        }
    }
}
