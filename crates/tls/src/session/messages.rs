//! Handshake messages after the handshake: what may come, and what it means (RFC 8446 §4.6, RFC 5246 §7.4.1).
//!
//! ```text
//!   nothing begun ── first byte ──▶ type known: may it come? ── 4 bytes ──▶ length known ── body ──▶ nothing begun
//! ```
//!
//! A message may be cut anywhere by records; nothing of other types may stand between its pieces.

use crate::session::RecordError;
use crate::suite::Version;

/// The most bytes of a message's body: a session ticket with all its fields at their longest fits (RFC 8446 §4.6.1).
pub(crate) const BODY_BYTES: u32 = 9 + 255 + 2 + 65_535 + 2 + 65_535;

/// Bytes in front of a message's body: its type and its length.
const HEAD_BYTES: usize = 4;

const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// Which end of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// A message that may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    KeyUpdate,
    Ticket,
    Renegotiation,
}

/// The kind of a message by its first byte.
fn kind(side: Side, version: Version, first: u8) -> Result<Kind, RecordError> {
    match (version, side, first) {
        (Version::Tls13, _, KEY_UPDATE) => Ok(Kind::KeyUpdate),
        (Version::Tls13, Side::Client, NEW_SESSION_TICKET) => Ok(Kind::Ticket),
        (Version::Tls12, Side::Server, CLIENT_HELLO) | (Version::Tls12, Side::Client, HELLO_REQUEST) => {
            Ok(Kind::Renegotiation)
        }
        _ => Err(RecordError::Unexpected("a handshake message that may not come after the handshake")),
    }
}

/// What a record's messages ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The peer has changed its key; `answer`: we must change ours.
    KeyUpdate { answer: bool },
    /// The peer wants to begin again (TLS 1.2).
    Renegotiation,
}

/// Where tickets go: all or pieces of the body, in order; `true` with the last piece.
pub(crate) type TakeTicket<'a> = &'a mut dyn FnMut(&[u8], bool) -> Result<(), RecordError>;

/// A message of which only the beginning has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    head: [u8; HEAD_BYTES],
    /// Bytes of `head` that are there.
    have: usize,
    /// Bytes of the body that are still to come, once the head is there.
    left: u32,
}

impl Pending {
    /// True if no message is begun.
    pub(crate) fn is_none(&self) -> bool {
        self.have == 0
    }

    /// Takes the content of one handshake record. At most one thing is asked for: a key update must be the last of
    /// its record, and of requests to begin again one is enough.
    pub(crate) fn take(
        &mut self,
        side: Side,
        version: Version,
        mut content: &[u8],
        ticket: TakeTicket<'_>,
    ) -> Result<Option<Asked>, RecordError> {
        if content.is_empty() {
            return Err(RecordError::Unexpected("an empty handshake record"));
        }
        let mut asked = None;
        while let Some((first, rest)) = content.split_first() {
            if self.have < HEAD_BYTES {
                self.head[self.have] = *first;
                self.have += 1;
                content = rest;
                let kind = kind(side, version, self.head[0])?;
                if self.have == HEAD_BYTES {
                    self.left = body_length(kind, self.head)?;
                    if self.left == 0 {
                        asked = Some(Asked::Renegotiation);
                        *self = Self::default();
                    }
                }
                continue;
            }
            let count = content.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let (body, rest) = content.split_at(count);
            content = rest;
            self.left -= u32::try_from(count).unwrap_or(self.left);
            match kind(side, version, self.head[0])? {
                Kind::KeyUpdate if !rest.is_empty() => {
                    return Err(RecordError::Unexpected("a message behind a key update, in the same record"));
                }
                Kind::KeyUpdate => {
                    asked = Some(Asked::KeyUpdate {
                        answer: match body {
                            [0] => false,
                            [1] => true,
                            _ => {
                                return Err(RecordError::Illegal(
                                    "a key update that asks for what there is not",
                                ));
                            }
                        },
                    });
                }
                Kind::Ticket => ticket(body, self.left == 0)?,
                Kind::Renegotiation => asked = Some(Asked::Renegotiation),
            }
            if self.left == 0 {
                *self = Self::default();
            }
        }
        Ok(asked)
    }

    /// Appends what is there of the message.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::try_from(self.have).unwrap_or_default());
        out.extend_from_slice(self.head.get(..self.have).unwrap_or_default());
        if self.have == HEAD_BYTES {
            out.extend_from_slice(&self.left.to_be_bytes());
        }
    }

    /// What [`Pending::write`] wrote, if it can be; `take` takes so many bytes.
    pub(crate) fn read<'a>(
        side: Side,
        version: Version,
        mut take: impl FnMut(usize) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let mut pending = Self { have: usize::from(*take(1)?.first()?), ..Self::default() };
        pending.head.get_mut(..pending.have)?.copy_from_slice(take(pending.have)?);
        if pending.have > 0 {
            let kind = kind(side, version, pending.head[0]).ok()?;
            if pending.have == HEAD_BYTES {
                pending.left = u32::from_be_bytes(*take(4)?.first_chunk()?);
                let whole = body_length(kind, pending.head).ok()?;
                (1..=whole).contains(&pending.left).then_some(())?;
            }
        }
        Some(pending)
    }
}

/// The length of a message's body, if that can be.
fn body_length(kind: Kind, head: [u8; HEAD_BYTES]) -> Result<u32, RecordError> {
    let [_, high, middle, low] = head;
    let length = u32::from_be_bytes([0, high, middle, low]);
    match kind {
        Kind::KeyUpdate if length != 1 => Err(RecordError::Malformed("a key update of the wrong length")),
        Kind::Ticket if length == 0 => Err(RecordError::Malformed("an empty session ticket")),
        _ if length > BODY_BYTES => Err(RecordError::Malformed("a handshake message longer than any can be")),
        _ => Ok(length),
    }
}
