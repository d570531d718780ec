//! Why handshakes fail, in people's words.

use std::fmt;

use rustls::{CertificateError, Error, PeerIncompatible};

use super::hello::Hello;
use crate::alert::Alert;

/// Why a handshake failed. The alert, where one is due, has already been appended to the bytes to send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The first bytes are an HTTP request: somebody forgot the `s` of `https`. No alert is sent; a plain 400 helps.
    #[error("the client sent plain HTTP to a TLS port")]
    PlainHttp,
    /// The first bytes are not TLS.
    #[error("the {0} does not speak TLS: its first bytes are no handshake")]
    NotTls(Peer),
    /// No version in common; what was offered, in words.
    #[error("{0}")]
    Version(String),
    /// No certificate for the name that was asked for.
    #[error("no certificate for {}", name_in_words(.0.as_deref()))]
    NoCertificate(Option<Box<str>>),
    /// The client must show a certificate and did not.
    #[error("client certificate required: the client sent none")]
    CertificateRequired,
    /// The peer's certificate was refused; why, in words.
    #[error("the {0}'s certificate was refused: {1}")]
    Certificate(Peer, String),
    /// No cipher suite, group, signature or application protocol in common; which, in words.
    #[error("the {0} has {1} in common with us")]
    NothingInCommon(Peer, &'static str),
    /// The peer gave up, with this alert.
    #[error("the {0} ended the handshake with the alert {1}")]
    Alert(Peer, Alert),
    /// The peer closed in order before the handshake was done.
    #[error("the peer closed the connection during the handshake")]
    Closed,
    /// The peer broke the protocol; how, in words.
    #[error("the {0} broke the protocol: {1}")]
    Protocol(Peer, String),
    /// The peer sends more than a handshake can need.
    #[error("the peer sends more than {0} bytes during the handshake")]
    TooLong(usize),
    /// Something here failed, not there.
    #[error("the handshake failed here: {0}")]
    Internal(String),
}

/// The other end of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// It connected to us.
    Client,
    /// We connected to it.
    Server,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

fn name_in_words(name: Option<&str>) -> String {
    name.map_or_else(|| "a client that names no server".to_owned(), |name| format!("the name {name}"))
}

impl HandshakeError {
    /// The alert that says it to the peer; none where the peer ended it itself or does not speak TLS. Where rustls
    /// chose, it may have chosen a narrower one.
    #[must_use]
    pub const fn alert(&self) -> Option<Alert> {
        match self {
            Self::PlainHttp | Self::NotTls(_) | Self::Alert(..) | Self::Closed => None,
            Self::Version(_) => Some(Alert::PROTOCOL_VERSION),
            Self::NoCertificate(_) => Some(Alert::UNRECOGNIZED_NAME),
            Self::CertificateRequired => Some(Alert::CERTIFICATE_REQUIRED),
            Self::Certificate(..) => Some(Alert::BAD_CERTIFICATE),
            Self::NothingInCommon(..) => Some(Alert::HANDSHAKE_FAILURE),
            Self::Protocol(..) => Some(Alert::UNEXPECTED_MESSAGE),
            Self::TooLong(_) => Some(Alert::DECODE_ERROR),
            Self::Internal(_) => Some(Alert::INTERNAL_ERROR),
        }
    }

    /// What rustls says, in our words; `hello` is what the client offered, as far as it was read.
    pub(super) fn from_rustls(error: Error, peer: Peer, hello: &Hello) -> Self {
        match error {
            Error::PeerIncompatible(why) => incompatible(&why, peer, hello),
            Error::NoApplicationProtocol => Self::NothingInCommon(peer, "no application protocol (ALPN)"),
            Error::NoCertificatesPresented => Self::CertificateRequired,
            Error::InvalidCertificate(why) => Self::Certificate(peer, certificate(&why)),
            Error::AlertReceived(alert) => Self::Alert(peer, Alert(u8::from(alert))),
            // What rustls says when its resolver has no certificate: it has no error of its own for it.
            Error::General(what) if what == "no server certificate chain resolved" => {
                Self::NoCertificate(hello.name.clone())
            }
            Error::General(what) => Self::Internal(what),
            Error::FailedToGetCurrentTime | Error::FailedToGetRandomBytes | Error::EncryptError => {
                Self::Internal(error.to_string())
            }
            error => Self::Protocol(peer, error.to_string()),
        }
    }
}

fn incompatible(why: &PeerIncompatible, peer: Peer, hello: &Hello) -> HandshakeError {
    use PeerIncompatible as P;
    match why {
        _ if hello.is_old() => HandshakeError::Version(hello.versions_in_words()),
        P::Tls12NotOffered | P::Tls12NotOfferedOrEnabled | P::SupportedVersionsExtensionRequired => {
            HandshakeError::Version(hello.versions_in_words())
        }
        P::ServerDoesNotSupportTls12Or13 => {
            HandshakeError::Version("the server speaks only older TLS".to_owned())
        }
        P::ServerTlsVersionIsDisabledByOurConfig => HandshakeError::Version(
            "the server speaks only a version of TLS that is not allowed here".to_owned(),
        ),
        P::NoCipherSuitesInCommon => HandshakeError::NothingInCommon(peer, "no cipher suite"),
        P::NoKxGroupsInCommon | P::NamedGroupsExtensionRequired | P::KeyShareExtensionRequired => {
            HandshakeError::NothingInCommon(peer, "no group for the key exchange")
        }
        P::NoSignatureSchemesInCommon
        | P::NoCertificateRequestSignatureSchemesInCommon
        | P::SignatureAlgorithmsExtensionRequired => {
            HandshakeError::NothingInCommon(peer, "no signature scheme for the certificate")
        }
        other => HandshakeError::Protocol(peer, format!("{other:?}")),
    }
}

fn certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet".to_owned()
        }
        CertificateError::UnknownIssuer => "its issuer is not trusted here".to_owned(),
        CertificateError::BadSignature => "its signature does not fit".to_owned(),
        CertificateError::Revoked => "it was revoked".to_owned(),
        CertificateError::NotValidForName => "it is for another name".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            // rustls has them as `DnsName("a.example")`.
            let bare = |name: &String| match (name.find('"'), name.rfind('"')) {
                (Some(from), Some(to)) if from < to => name.get(from + 1..to).unwrap_or(name).to_owned(),
                _ => name.clone(),
            };
            let names: Vec<String> = presented.iter().map(bare).collect();
            let presented = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            format!("it is for {presented}, not for {}", expected.to_str())
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is for another purpose (extended key usage)".to_owned()
        }
        other => other.to_string(),
    }
}
