//! The ways in which a request, or a held connection, can fail its user.

use std::io;

use serde::Serialize;

/// A failure, by what its user would see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Failure {
    /// Nobody listened.
    Refused,
    /// The connection was reset before a request was sent whole, or in the middle of a response.
    Reset,
    /// Nothing happened within the time limit.
    Timeout,
    /// A status other than the expected one.
    BadStatus,
    /// Bytes that are no response, or a response without a length.
    BadResponse,
    /// The response ended before its length.
    ShortBody,
    /// The right number of wrong bytes.
    WrongBytes,
    /// A request was sent and the connection ended without a byte of a response: the client cannot know whether it
    /// was carried out.
    LostRequest,
    /// The TLS handshake failed: an alert, a wrong signature, or an end in its middle.
    Handshake,
    /// The handshake agreed on another version, suite or group than was wished for, or resumed a session.
    Terms,
    /// A held connection (WebSocket, TCP) was ended by the other side.
    Cut,
    /// The load tool itself ran out of something (ports, descriptors): the measurement is void.
    OwnLimit,
}

impl Failure {
    /// Every kind, in the order of the report.
    pub(crate) const ALL: [Self; 12] = [
        Self::Refused,
        Self::Reset,
        Self::Timeout,
        Self::BadStatus,
        Self::BadResponse,
        Self::ShortBody,
        Self::WrongBytes,
        Self::LostRequest,
        Self::Handshake,
        Self::Terms,
        Self::Cut,
        Self::OwnLimit,
    ];

    /// Its name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::BadStatus => "bad_status",
            Self::BadResponse => "bad_response",
            Self::ShortBody => "short_body",
            Self::WrongBytes => "wrong_bytes",
            Self::LostRequest => "lost_request",
            Self::Handshake => "handshake",
            Self::Terms => "terms",
            Self::Cut => "cut",
            Self::OwnLimit => "own_limit",
        }
    }

    /// What a failed `connect` means.
    pub(crate) fn of_connect(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Self::Reset,
            io::ErrorKind::TimedOut => Self::Timeout,
            _ => Self::OwnLimit,
        }
    }
}
