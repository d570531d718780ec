//! Why a session cannot go on, and what to tell the peer.

use crate::alert::Alert;
use crate::keys::KeyError;

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

impl From<KeyError> for RecordError {
    fn from(_: KeyError) -> Self {
        Self::Key
    }
}

impl From<KeyError> for SealError {
    fn from(_: KeyError) -> Self {
        Self::Key
    }
}
