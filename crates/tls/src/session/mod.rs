//! An established connection's record layer, from Finished onward: plain data, no I/O, no clock.
//!
//! ```text
//!            open: bytes from the peer ──▶ plaintext          seal: plaintext ──▶ bytes to the peer
//!
//!   ┌──────┐ close_notify read  ┌──────────────────┐
//!   │ open │ ─────────────────▶ │ peer has ended   │  may still seal
//!   └──┬───┘                    └────────┬─────────┘
//!      │ close_notify()                  │ close_notify()
//!   ┌──▼───────────────┐                 ▼
//!   │ we have ended    │ ───────────▶  over
//!   └──────────────────┘  close_notify read
//!   any error of open: over, after the bytes of `refuse` are sent
//! ```
//!
//! It can be written down ([`Session::write`]) and read again in another process ([`Session::read`]). From the moment
//! it was written, only one of the two may go on: both would use the same nonces.

use std::ops::Range;

use crate::alert::Alert;
use crate::suite::{Suite, Version};

/// The most plaintext that one record carries (RFC 8446 §5.1).
pub const PLAINTEXT_BYTES: usize = 16_384;

/// The most bytes that one record takes on the wire, its header included (RFC 5246 §6.2.3; TLS 1.3 allows less).
pub const RECORD_BYTES: usize = 5 + PLAINTEXT_BYTES + 2_048;

/// The most bytes that sealing adds to the plaintext of one record.
pub const OVERHEAD_BYTES: usize = 5 + 8 + 16;

/// Bytes of [`Session::write`], at most.
pub const STATE_BYTES: usize = 200;

/// What [`Session::open_record`] found at the front of the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// Less than a whole record: nothing was done. At least `missing` more bytes are needed.
    Partial {
        /// Bytes to read before trying again.
        missing: usize,
    },
    /// A record with data: it now stands, decrypted, at `plain` within the bytes given.
    Data {
        /// Length of the record: the next one begins here.
        consumed: usize,
        /// Where its plaintext is; never empty.
        plain: Range<usize>,
    },
    /// A record without data for the application (key update, ticket, empty record). There may be a reply to send.
    Nothing {
        /// Length of the record.
        consumed: usize,
    },
    /// The peer has ended its direction in order (close_notify). What comes after it is to be ignored.
    Closed {
        /// Length of the record.
        consumed: usize,
    },
}

/// What [`Session::open`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes at the front that are done with: whole records.
    pub consumed: usize,
    /// Bytes that were appended.
    pub plain: usize,
    /// The peer has ended its direction in order.
    pub closed: bool,
}

/// What [`Session::seal_into`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Plaintext bytes, from the front of the parts, that are in records now.
    pub taken: usize,
    /// Bytes written to the front of `out`.
    pub written: usize,
}

/// Why a session cannot go on reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A record that does not decrypt: damaged, repeated, left out, or forged.
    #[error("a record does not decrypt: it was damaged, repeated or left out on the way")]
    Damaged,
    /// A record, or its plaintext, longer than the protocol allows.
    #[error("a record is longer than TLS allows")]
    TooLong,
    /// Something that must not come now; what, in words.
    #[error("the peer sent {0}")]
    Unexpected(&'static str),
    /// A message whose contents are wrong; which, in words.
    #[error("the peer sent {0}")]
    Malformed(&'static str),
    /// A field with a value that it cannot have; which, in words.
    #[error("the peer sent {0}")]
    Illegal(&'static str),
    /// The peer gave up, with this alert.
    #[error("the peer ended the connection with the alert {0}")]
    Alert(Alert),
    /// The session is over: nothing more is read after an error.
    #[error("the session is over")]
    Over,
    /// The library could not build or use a key.
    #[error("a key could not be made")]
    Key,
}

impl RecordError {
    /// The alert to send before closing; none when the peer's own alert ended the session.
    #[must_use]
    pub const fn alert(&self) -> Option<Alert> {
        match self {
            Self::Damaged => Some(Alert::BAD_RECORD_MAC),
            Self::TooLong => Some(Alert::RECORD_OVERFLOW),
            Self::Unexpected(_) => Some(Alert::UNEXPECTED_MESSAGE),
            Self::Malformed(_) => Some(Alert::DECODE_ERROR),
            Self::Illegal(_) => Some(Alert::ILLEGAL_PARAMETER),
            Self::Key => Some(Alert::INTERNAL_ERROR),
            Self::Alert(_) | Self::Over => None,
        }
    }
}

/// Why a session cannot go on writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// close_notify or a fatal alert was sent: nothing may follow it.
    #[error("the session was ended from here: nothing more can be sent")]
    Ended,
    /// TLS 1.2: the key has protected as many records as is safe, and there is no way to change it (RFC 8446 §5.5).
    #[error("the connection has sent as many records as one key may protect; TLS 1.2 cannot change it")]
    Exhausted,
    /// The library could not build or use a key.
    #[error("a key could not be made")]
    Key,
}

/// Why bytes are not the state of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// A format of another release.
    #[error("the state of a TLS session is in format {0}, which this release does not know")]
    Format(u8),
    /// Too few bytes, too many, or ones that cannot be.
    #[error("the state of a TLS session is damaged")]
    Damaged,
}

/// The record layer of an established connection.
#[derive(Debug)]
pub struct Session {
    suite: Suite,
}

impl Session {
    /// The suite that protects it.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The version of the protocol.
    #[must_use]
    pub fn version(&self) -> Version {
        self.suite.version()
    }

    /// Opens the record at the front of `records`, in place. Call it again with what is behind it.
    ///
    /// # Errors
    /// What ends the session; send what [`Session::refuse`] says, then close.
    pub fn open_record(&mut self, records: &mut [u8]) -> Result<Opened, RecordError> {
        let _ = records;
        Err(RecordError::Over)
    }

    /// Opens all whole records at the front of `records` and appends what they carry to `plain`.
    ///
    /// # Errors
    /// What ends the session. What came in order before it has been appended.
    pub fn open(&mut self, records: &mut [u8], plain: &mut Vec<u8>) -> Result<Progress, RecordError> {
        let _ = (records, plain);
        Err(RecordError::Over)
    }

    /// Seals the parts, one after the other as if they were one text, into full records in `out`, as many as fit.
    /// A reply that is due goes first. Nothing is allocated; each byte is read once and written once, except where a
    /// record spans parts.
    ///
    /// # Errors
    /// Nothing more can be sealed; what fitted before is not reported: nothing was written.
    pub fn seal_into(&mut self, parts: &[&[u8]], out: &mut [u8]) -> Result<Sealed, SealError> {
        let _ = (parts, out);
        Err(SealError::Ended)
    }

    /// Appends all of `plaintext` to `out`, as records.
    ///
    /// # Errors
    /// As [`Session::seal_into`].
    pub fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let _ = (plaintext, out);
        Err(SealError::Ended)
    }

    /// The bytes that sealing `plain` bytes takes at most, replies and key updates included.
    #[must_use]
    pub const fn sealed_bytes(plain: usize) -> usize {
        let records = plain.div_ceil(PLAINTEXT_BYTES);
        plain + (records + 2) * OVERHEAD_BYTES
    }

    /// True if [`Session::take_reply`] has something to send.
    #[must_use]
    pub fn has_reply(&self) -> bool {
        false
    }

    /// Appends what the peer must be answered with (a key update it asked for); nothing, when nothing is due.
    ///
    /// # Errors
    /// As [`Session::seal_into`].
    pub fn take_reply(&mut self, out: &mut Vec<u8>) -> Result<(), SealError> {
        let _ = out;
        Err(SealError::Ended)
    }

    /// TLS 1.3: appends a key update, and seals with the next key from then on; `ask` wants the same of the peer.
    /// TLS 1.2 has none: nothing happens. Done by itself before the limits of the cipher.
    ///
    /// # Errors
    /// As [`Session::seal_into`].
    pub fn update_key(&mut self, ask: bool, out: &mut Vec<u8>) -> Result<(), SealError> {
        let _ = (ask, out);
        Err(SealError::Ended)
    }

    /// Appends close_notify: the orderly end of what we send. Once; again it appends nothing.
    pub fn close_notify(&mut self, out: &mut Vec<u8>) {
        let _ = out;
    }

    /// Appends the alert that belongs to `error`, if one does; nothing can be sent after it.
    pub fn refuse(&mut self, error: RecordError, out: &mut Vec<u8>) {
        let _ = (error, out);
    }

    /// True once the peer has ended its direction in order: without it, an end of the stream is a truncation.
    #[must_use]
    pub fn peer_has_ended(&self) -> bool {
        false
    }

    /// Gives back the memory of the expanded keys, for a connection that will rest for long; they are built again
    /// when they are needed.
    pub fn rest(&mut self) {}

    /// Appends everything that another process needs to go on: at most [`STATE_BYTES`]. It holds the keys.
    pub fn write(&self, out: &mut Vec<u8>) {
        let _ = out;
    }

    /// The session that [`Session::write`] wrote. Keys are built when they are first needed.
    ///
    /// # Errors
    /// Bytes that are not exactly one session's state.
    pub fn read(bytes: &[u8]) -> Result<Self, StateError> {
        let _ = bytes;
        Err(StateError::Damaged)
    }
}
