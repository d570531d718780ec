//! Why a message is not taken.

/// A message that is refused: never forwarded, never repaired.
///
/// After a refusal the position in the byte stream is unknown, so the connection must not be used for another
/// message. For requests `status` is what the client is answered; for responses it is always 502, because it is
/// what the *client* of the exchange gets to see when an upstream cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{status}: {reason}")]
pub struct Refusal {
    /// The HTTP status to answer with.
    pub status: u16,
    /// One line for the answer's body and for the log, without a full stop.
    pub reason: &'static str,
}

impl Refusal {
    /// A refusal with this status and reason.
    #[must_use]
    pub const fn new(status: u16, reason: &'static str) -> Self {
        Self { status, reason }
    }

    /// 400: the message breaks the grammar or can be read in two ways.
    pub(crate) const fn bad(reason: &'static str) -> Self {
        Self::new(400, reason)
    }

    /// The same fault found in an upstream's response.
    pub(crate) const fn by_upstream(self) -> Self {
        Self::new(502, self.reason)
    }
}
