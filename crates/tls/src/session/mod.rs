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

mod error;
mod messages;
mod resumption;
mod sealing;
mod state;

#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::alert::Alert;
use crate::keys::Direction;
use crate::record;
use crate::suite::{Cipher, Suite, Version};

pub use error::{RecordError, SealError, StateError};
pub(crate) use messages::Side;
pub(crate) use resumption::Resumption;

use messages::{Asked, Pending};

/// The most plaintext that one record carries (RFC 8446 §5.1).
pub const PLAINTEXT_BYTES: usize = 16_384;

/// The most bytes that one record takes on the wire, its header included (RFC 5246 §6.2.3; TLS 1.3 allows less).
pub const RECORD_BYTES: usize = 5 + PLAINTEXT_BYTES + 2_048;

/// The most bytes that sealing adds to the plaintext of one record.
pub const OVERHEAD_BYTES: usize = 5 + 8 + 16;

/// Bytes of [`Session::write`], at most.
pub const STATE_BYTES: usize = 200;

/// How many records one key of AES-GCM protects at most: about a third of what RFC 8446 §5.5 allows.
const RECORDS_PER_KEY: u64 = 1 << 23;

/// How many records without data may come in a row; and how many key updates.
const WITHOUT_DATA: u8 = 32;

/// How many warnings of TLS 1.2 are passed over.
const WARNINGS: u8 = 4;

/// Bytes of the content of a key update (RFC 8446 §4.6.3), and of an alert.
const KEY_UPDATE_BYTES: usize = 5;

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

/// The record layer of an established connection.
///
/// Dropping it overwrites its secrets; its `Debug` shows none.
#[derive(Debug)]
pub struct Session {
    suite: Suite,
    side: Side,
    /// What the peer seals with.
    reading: Direction,
    /// What we seal with.
    writing: Direction,
    /// A handshake message that has begun.
    pending: Pending,
    due: Due,
    peer_ended: bool,
    we_ended: bool,
    /// An error ended it: nothing is read any more.
    over: bool,
    /// TLS 1.2: the peer wanted to begin again, and was told no.
    rebuffed: bool,
    /// How many more records without data, key updates and warnings are put up with.
    patience: Patience,
    /// Where a client keeps what it may resume with.
    resumption: Option<Box<Resumption>>,
}

/// What must be sent before data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Due {
    /// A key update: the peer asked for it.
    answer: bool,
    /// A key update that asks the peer for one: its key is worn out.
    ask: bool,
    /// TLS 1.2: the warning no_renegotiation.
    rebuff: bool,
}

impl Due {
    const NOTHING: Self = Self { answer: false, ask: false, rebuff: false };
}

/// What is put up with until data comes.
#[derive(Debug, Clone, Copy)]
struct Patience {
    empty: u8,
    updates: u8,
    warnings: u8,
}

impl Patience {
    const FRESH: Self = Self { empty: WITHOUT_DATA, updates: WITHOUT_DATA, warnings: WARNINGS };
}

/// One less, or the error.
fn bear(patience: &mut u8, what: &'static str) -> Result<(), RecordError> {
    *patience = patience.checked_sub(1).ok_or(RecordError::Unexpected(what))?;
    Ok(())
}

impl Session {
    /// A session that begins.
    pub(crate) fn new(suite: Suite, side: Side, reading: Direction, writing: Direction) -> Self {
        Self {
            suite,
            side,
            reading,
            writing,
            pending: Pending::default(),
            due: Due::NOTHING,
            peer_ended: false,
            we_ended: false,
            over: false,
            rebuffed: false,
            patience: Patience::FRESH,
            resumption: None,
        }
    }

    /// Keeps the session tickets that come.
    pub(crate) fn keep_tickets(&mut self, resumption: Resumption) {
        self.resumption = Some(Box::new(resumption));
    }

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
        if self.over {
            return Err(RecordError::Over);
        }
        let opened = self.open_next(records);
        self.over = opened.is_err();
        opened
    }

    fn open_next(&mut self, records: &mut [u8]) -> Result<Opened, RecordError> {
        if self.peer_ended {
            return Ok(Opened::Closed { consumed: records.len() });
        }
        let Some(consumed) = record::length(self.suite, records)? else {
            return Ok(Opened::Partial { missing: record::HEADER_BYTES - records.len() });
        };
        let Some(record) = records.get_mut(..consumed) else {
            return Ok(Opened::Partial { missing: consumed - records.len() });
        };
        let (content, plain) = record::open(self.suite, &mut self.reading, record)?;
        if content == record::APPLICATION_DATA && !plain.is_empty() && self.pending.is_none() {
            self.patience = Patience::FRESH;
            if self.resumption.as_mut().is_some_and(|resumption| resumption.is_done_after_data()) {
                self.resumption = None;
            }
            self.watch_peers_key();
            return Ok(Opened::Data { consumed, plain });
        }
        if content != record::HANDSHAKE && !self.pending.is_none() {
            return Err(RecordError::Unexpected("something else in the middle of a handshake message"));
        }
        let plain = record.get(plain).unwrap_or_default();
        match content {
            record::APPLICATION_DATA => {
                bear(&mut self.patience.empty, "too many empty records")?;
                Ok(Opened::Nothing { consumed })
            }
            record::HANDSHAKE => self.take_handshake(plain).map(|()| Opened::Nothing { consumed }),
            record::ALERT => {
                self.take_alert(plain)?;
                Ok(if self.peer_ended { Opened::Closed { consumed } } else { Opened::Nothing { consumed } })
            }
            record::CHANGE_CIPHER_SPEC => Err(RecordError::Unexpected("an encrypted change_cipher_spec")),
            _ => Err(RecordError::Unexpected("a record of a type that TLS does not have")),
        }
    }

    fn take_handshake(&mut self, content: &[u8]) -> Result<(), RecordError> {
        let resumption = &mut self.resumption;
        let mut take = |body: &[u8], last: bool| match resumption {
            Some(resumption) => resumption.take(body, last),
            None => Ok(()),
        };
        match self.pending.take(self.side, self.suite.version(), content, &mut take)? {
            // A piece of a message: the message's length bounds them.
            None if !self.pending.is_none() => Ok(()),
            None => bear(&mut self.patience.empty, "too many session tickets without data between them"),
            Some(Asked::KeyUpdate { answer }) => {
                bear(&mut self.patience.updates, "too many key updates without data between them")?;
                self.reading.update(self.suite)?;
                self.due.answer |= answer;
                Ok(())
            }
            Some(Asked::Renegotiation) if self.rebuffed => {
                Err(RecordError::Unexpected("another request to renegotiate, after it was told no"))
            }
            Some(Asked::Renegotiation) => {
                (self.rebuffed, self.due.rebuff) = (true, true);
                Ok(())
            }
        }
    }

    fn take_alert(&mut self, content: &[u8]) -> Result<(), RecordError> {
        const WARNING: u8 = 1;
        let &[level, number] = content else {
            return Err(RecordError::Malformed("an alert of the wrong length"));
        };
        let passed_over = match self.suite.version() {
            // RFC 8446 §6: the level is of no account.
            Version::Tls13 => Alert(number) == Alert::USER_CANCELED,
            Version::Tls12 => level == WARNING,
        };
        if Alert(number) == Alert::CLOSE_NOTIFY {
            self.peer_ended = true;
        } else if passed_over {
            bear(&mut self.patience.warnings, "too many warnings")?;
        } else {
            self.we_ended = true;
            return Err(RecordError::Alert(Alert(number)));
        }
        Ok(())
    }

    /// Asks for another key when the peer should have changed it long ago.
    fn watch_peers_key(&mut self) {
        self.due.ask |=
            self.suite.version() == Version::Tls13 && self.reading.number == self.records_per_key();
    }

    const fn records_per_key(&self) -> u64 {
        match self.suite.cipher() {
            Cipher::Aes128Gcm | Cipher::Aes256Gcm => RECORDS_PER_KEY,
            Cipher::ChaCha20Poly1305 => u64::MAX,
        }
    }

    /// Opens all whole records at the front of `records` and appends what they carry to `plain`.
    ///
    /// # Errors
    /// What ends the session. What came in order before it has been appended.
    pub fn open(&mut self, records: &mut [u8], plain: &mut Vec<u8>) -> Result<Progress, RecordError> {
        let before = plain.len();
        let mut done = 0;
        let closed = loop {
            let rest = records.get_mut(done..).unwrap_or_default();
            match self.open_record(rest)? {
                Opened::Partial { .. } => break false,
                Opened::Data { consumed, plain: range } => {
                    plain.extend_from_slice(rest.get(range).unwrap_or_default());
                    done += consumed;
                }
                Opened::Nothing { consumed } => done += consumed,
                Opened::Closed { consumed } => {
                    done += consumed;
                    break true;
                }
            }
        };
        Ok(Progress { consumed: done, plain: plain.len() - before, closed })
    }

    /// True once the peer has ended its direction in order: without it, an end of the stream is a truncation.
    #[must_use]
    pub fn peer_has_ended(&self) -> bool {
        self.peer_ended
    }

    /// True once close_notify or a fatal alert was sent, or a fatal alert came: nothing more can be sealed.
    #[must_use]
    pub fn we_have_ended(&self) -> bool {
        self.we_ended
    }

    /// Gives back the memory of the expanded keys, and what waits for session tickets, for a connection that will rest
    /// for long; the keys are built again when they are needed.
    pub fn rest(&mut self) {
        self.reading.rest();
        self.writing.rest();
        self.resumption = None;
    }
}
