//! What requests and responses have in common: version, framing.

use serde::{Deserialize, Serialize};

/// The outcome of looking for a head in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// The head is whole.
    Complete(T),
    /// Nothing wrong so far, but the head does not end within the buffer.
    Partial,
}

/// The two versions that are spoken; others are refused with 505 (or 502).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// How a message's body is delimited (RFC 9112 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BodyKind {
    /// No body, and no length was stated.
    None,
    /// Exactly this many bytes (0 if `Content-Length: 0` was sent).
    Length(u64),
    /// The chunked coding.
    Chunked,
    /// Until the peer closes its side; responses only.
    UntilClose,
}

impl BodyKind {
    /// True if no byte of body follows the head.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }
}
