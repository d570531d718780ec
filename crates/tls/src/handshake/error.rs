//! Why handshakes fail, in people's words.

use crate::alert::Alert;

/// Why a handshake failed. The alert, where one is due, has already been appended to the bytes to send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The first bytes are an HTTP request: somebody forgot the `s` of `https`. No alert is due; a plain 400 helps.
    #[error("the client sent plain HTTP to a TLS port")]
    PlainHttp,
    /// The first bytes are not TLS.
    #[error("the {0} does not speak TLS: its first bytes are no handshake")]
    NotTls(&'static str),
    /// No version in common; what was offered, in words.
    #[error("{0}")]
    Version(String),
    /// No certificate for the name.
    #[error("no certificate for the name {}", .0.as_deref().unwrap_or("(none given)"))]
    NoCertificate(Option<String>),
    /// The client must show a certificate and did not.
    #[error("client certificate required: the client sent none")]
    CertificateRequired,
    /// The peer's certificate was refused; why, in words.
    #[error("{0}")]
    Certificate(String),
    /// No cipher suite, group, signature or application protocol in common; which, in words.
    #[error("{0}")]
    NothingInCommon(String),
    /// The peer gave up, with this alert.
    #[error("the peer ended the handshake with the alert {0}")]
    Alert(Alert),
    /// The peer closed in order before the handshake was done.
    #[error("the peer closed the connection during the handshake")]
    Closed,
    /// The peer broke the protocol; how, in words.
    #[error("{0}")]
    Protocol(String),
    /// The peer sends more than a handshake can need.
    #[error("the handshake is longer than {0} bytes")]
    TooLong(usize),
    /// Something here failed, not there.
    #[error("{0}")]
    Internal(String),
}
