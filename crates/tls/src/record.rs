//! One record: its header, and its protection with one key (RFC 8446 §5.2, RFC 5246 §6.2.3.3, RFC 5288, RFC 7905).
//!
//! ```text
//!   TLS 1.3             header(5) │ encrypted: content · type(1) · zeros │ tag(16)      nonce: IV xor number
//!   TLS 1.2 ChaCha20    header(5) │ encrypted: content                   │ tag(16)      nonce: IV xor number
//!   TLS 1.2 AES-GCM     header(5) │ nonce(8) │ encrypted: content        │ tag(16)      nonce: salt(4) · nonce(8)
//! ```

use std::ops::Range;

use aws_lc_rs::aead::{Aad, Nonce};

use crate::keys::{Direction, IV_BYTES, KeyError};
use crate::session::{PLAINTEXT_BYTES, RecordError};
use crate::suite::{Cipher, Suite, Version};

/// Content types (RFC 8446 §5.1).
pub(crate) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(crate) const ALERT: u8 = 21;
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const APPLICATION_DATA: u8 = 23;

/// Bytes of a record's header.
pub(crate) const HEADER_BYTES: usize = 5;

/// Bytes of the proof at the end of a record.
const TAG_BYTES: usize = 16;

/// The part of the nonce that TLS 1.2 sends with AES-GCM (RFC 5288 §3).
const EXPLICIT_NONCE_BYTES: usize = 8;

/// By how much a record may be longer than its plaintext: TLS 1.3 (RFC 8446 §5.2), TLS 1.2 (RFC 5246 §6.2.3).
const EXPANSION_13: usize = 256;
const EXPANSION_12: usize = 2_048;

/// The version that all records carry (RFC 8446 §5.1: legacy).
const WIRE_VERSION: [u8; 2] = [3, 3];

/// True if records carry a part of their nonce.
const fn has_explicit_nonce(suite: Suite) -> bool {
    matches!((suite.version(), suite.cipher()), (Version::Tls12, Cipher::Aes128Gcm | Cipher::Aes256Gcm))
}

/// Bytes of a sealed record in front of its content.
const fn front_bytes(suite: Suite) -> usize {
    if has_explicit_nonce(suite) { HEADER_BYTES + EXPLICIT_NONCE_BYTES } else { HEADER_BYTES }
}

/// Bytes of a sealed record behind its content.
const fn back_bytes(suite: Suite) -> usize {
    match suite.version() {
        Version::Tls13 => 1 + TAG_BYTES,
        Version::Tls12 => TAG_BYTES,
    }
}

/// Bytes that sealing adds to the content of one record.
pub(crate) const fn overhead_bytes(suite: Suite) -> usize {
    front_bytes(suite) + back_bytes(suite)
}

/// The nonce: the number of the record, folded into the IV.
fn nonce(iv: &[u8; IV_BYTES], number: u64) -> [u8; IV_BYTES] {
    let mut nonce = *iv;
    for (byte, number) in nonce.iter_mut().skip(IV_BYTES - 8).zip(number.to_be_bytes()) {
        *byte ^= number;
    }
    nonce
}

/// What TLS 1.2 authenticates beside the content (RFC 5246 §6.2.3.3).
fn additional_12(number: u64, content: u8, length: u16) -> [u8; 13] {
    let mut data = [0; 13];
    let (front, back) = data.split_at_mut(8);
    front.copy_from_slice(&number.to_be_bytes());
    let [high, low] = length.to_be_bytes();
    back.copy_from_slice(&[content, WIRE_VERSION[0], WIRE_VERSION[1], high, low]);
    data
}

/// The length of a record as its header writes it.
fn wire_length(bytes: usize) -> Result<u16, KeyError> {
    u16::try_from(bytes).map_err(|_| KeyError)
}

/// The header at the front of `records`, checked: its length in all; none when it is not there whole.
pub(crate) fn length(suite: Suite, records: &[u8]) -> Result<Option<usize>, RecordError> {
    let Some(&[content, major, minor, high, low]) = records.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let tls13 = suite.version() == Version::Tls13;
    match content {
        APPLICATION_DATA => {}
        ALERT if tls13 => return Err(RecordError::Unexpected("an alert that is not encrypted")),
        HANDSHAKE if tls13 => {
            return Err(RecordError::Unexpected("a handshake message that is not encrypted"));
        }
        ALERT | HANDSHAKE => {}
        CHANGE_CIPHER_SPEC => return Err(RecordError::Unexpected("change_cipher_spec after the handshake")),
        _ => return Err(RecordError::Unexpected("something that is not a TLS record")),
    }
    // TLS 1.3 leaves the version to itself: it is authenticated with the record.
    if major != WIRE_VERSION[0] || (!tls13 && minor != WIRE_VERSION[1]) {
        return Err(RecordError::Unexpected("a record of another version of TLS"));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    let most = PLAINTEXT_BYTES + if tls13 { EXPANSION_13 } else { EXPANSION_12 };
    if length > most { Err(RecordError::TooLong) } else { Ok(Some(HEADER_BYTES + length)) }
}

/// Decrypts `record`, which is one whole record, in place: its content type, and where its content is.
pub(crate) fn open(
    suite: Suite,
    direction: &mut Direction,
    record: &mut [u8],
) -> Result<(u8, Range<usize>), RecordError> {
    let number = direction.number;
    let (key, iv) = direction.ready(suite).map_err(|KeyError| RecordError::Key)?;
    let (header, body) = record.split_first_chunk_mut::<HEADER_BYTES>().ok_or(RecordError::Damaged)?;
    let opened = match suite.version() {
        Version::Tls13 => {
            let nonce = Nonce::assume_unique_for_key(nonce(iv, number));
            let inner =
                key.open_in_place(nonce, Aad::from(*header), body).map_err(|_| RecordError::Damaged)?;
            if inner.len() > PLAINTEXT_BYTES + 1 {
                return Err(RecordError::TooLong);
            }
            let end = inner.iter().rposition(|byte| *byte != 0);
            let end = end.ok_or(RecordError::Unexpected("a record without a content type"))?;
            (inner.get(end).copied().unwrap_or_default(), HEADER_BYTES..HEADER_BYTES + end)
        }
        Version::Tls12 => {
            let overhead = overhead_bytes(suite) - HEADER_BYTES;
            let length = body.len().checked_sub(overhead).ok_or(RecordError::Damaged)?;
            if length > PLAINTEXT_BYTES {
                return Err(RecordError::TooLong);
            }
            let mut nonce = nonce(iv, number);
            let mut sealed = body;
            if has_explicit_nonce(suite) {
                let (explicit, rest) =
                    sealed.split_first_chunk_mut::<EXPLICIT_NONCE_BYTES>().ok_or(RecordError::Damaged)?;
                nonce[..4].copy_from_slice(&iv[..4]);
                nonce[4..].copy_from_slice(explicit);
                sealed = rest;
            }
            let content = header[0];
            let wire = wire_length(length).map_err(|KeyError| RecordError::TooLong)?;
            let additional = Aad::from(additional_12(number, content, wire));
            key.open_in_place(Nonce::assume_unique_for_key(nonce), additional, sealed)
                .map_err(|_| RecordError::Damaged)?;
            let front = front_bytes(suite);
            (content, front..front + length)
        }
    };
    direction.number = number.checked_add(1).ok_or(RecordError::Over)?;
    Ok(opened)
}

/// The content of a record that is to be sealed.
pub(crate) enum Content<'a> {
    /// All of it in one place.
    Whole(&'a [u8]),
    /// Its bytes come from several places: `copy` puts them together where they are sealed.
    Gathered(usize, &'a mut dyn FnMut(&mut [u8])),
}

impl Content<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Whole(content) => content.len(),
            Self::Gathered(length, _) => *length,
        }
    }
}

/// Seals `content` (at most [`PLAINTEXT_BYTES`]) as one record at the front of `out`, which must have room for
/// [`overhead_bytes`] more than that. Returns the length of the record.
pub(crate) fn seal(
    suite: Suite,
    direction: &mut Direction,
    content_type: u8,
    content: Content<'_>,
    out: &mut [u8],
) -> Result<usize, KeyError> {
    let number = direction.number;
    let following = number.checked_add(1).ok_or(KeyError)?;
    let (key, iv) = direction.ready(suite)?;
    let length = content.len();
    let (front, back) = (front_bytes(suite), back_bytes(suite));
    let record = out.get_mut(..front + length + back).ok_or(KeyError)?;
    let nonce = nonce(iv, number);

    let (header, behind) = record.split_first_chunk_mut::<HEADER_BYTES>().ok_or(KeyError)?;
    let [high, low] = wire_length(behind.len())?.to_be_bytes();
    let outer = if suite.version() == Version::Tls13 { APPLICATION_DATA } else { content_type };
    *header = [outer, WIRE_VERSION[0], WIRE_VERSION[1], high, low];
    let (explicit, behind) = behind.split_at_mut(front - HEADER_BYTES);
    if has_explicit_nonce(suite) {
        explicit.copy_from_slice(&nonce[IV_BYTES - EXPLICIT_NONCE_BYTES..]);
    }

    let (body, end) = behind.split_at_mut(length);
    let (additional_13, additional_12) = (*header, additional_12(number, content_type, wire_length(length)?));
    let (additional, inner_type): (&[u8], &[u8]) = match suite.version() {
        Version::Tls13 => (&additional_13, &[content_type]),
        Version::Tls12 => (&additional_12, &[]),
    };
    let (nonce, additional) = (Nonce::assume_unique_for_key(nonce), Aad::from(additional));
    match content {
        Content::Whole(content) => {
            key.seal_out_of_place_scatter(nonce, additional, content, body, inner_type, end)?
        }
        Content::Gathered(_, copy) => {
            copy(body);
            key.seal_in_place_scatter(nonce, additional, body, inner_type, end)?;
        }
    }
    direction.number = following;
    Ok(front + length + back)
}
