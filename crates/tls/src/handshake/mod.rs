//! Handshakes, up to the moment from which the session is ours: rustls speaks, one record at a time is given to it.
//!
//! ```text
//!   Accepting / Connecting ── feed(bytes) ──▶ Fed::More       send `out`, read more
//!                                        ├─▶ Fed::Done       send `out`; session, facts, bytes that came after
//!                                        └─▶ HandshakeError  send `out` (the alert), close
//! ```
//!
//! The configurations need two things, see [`prepare_server`] and [`prepare_client`]: secrets may be extracted, and the
//! key log hook is [`TrafficSecrets`].

mod accept;
mod connect;
mod drive;
mod error;
mod established;
mod facts;
mod hello;
mod subject;

#[cfg(test)]
mod tests;

use rustls::{ClientConfig, ServerConfig};

pub use accept::Accepting;
pub use connect::Connecting;
pub use error::{HandshakeError, Peer};

use crate::session::Session;
use crate::suite::{Suite, Version};

/// What was agreed, for logs, metrics and headers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Facts {
    /// The name that the client asked for; for [`Connecting`], the name that was asked for, if it is a DNS name.
    pub sni: Option<Box<str>>,
    /// The application protocol that was agreed (RFC 7301).
    pub alpn: Option<Box<[u8]>>,
    /// The version of TLS.
    pub version: Version,
    /// The cipher suite.
    pub suite: Suite,
    /// True if the session continues an earlier one, without certificates being shown again.
    pub resumed: bool,
    /// The group of the key exchange; none for TLS 1.2 sessions that were resumed.
    pub group: Option<&'static str>,
    /// The subject of the client's certificate as RFC 4514 writes it: on servers, when one was asked for and shown.
    pub client_subject: Option<Box<str>>,
}

/// A handshake that succeeded.
#[derive(Debug)]
pub struct Established {
    /// What protects the connection from now on.
    pub session: Session,
    /// What was agreed.
    pub facts: Facts,
    /// Bytes that came behind the handshake: records for [`Session::open`]. Often the first request.
    pub leftover: Vec<u8>,
}

/// What feeding bytes to a handshake led to.
#[derive(Debug)]
pub enum Fed {
    /// It goes on: more bytes are needed.
    More,
    /// It succeeded.
    Done(Box<Established>),
}

/// Makes a server's configuration fit for [`Accepting`].
pub fn prepare_server(config: &mut ServerConfig) {
    config.enable_secret_extraction = true;
    config.key_log = TrafficSecrets::hook();
}

/// Makes a client's configuration fit for [`Connecting`].
pub fn prepare_client(config: &mut ClientConfig) {
    config.enable_secret_extraction = true;
    config.key_log = TrafficSecrets::hook();
}

use crate::keys::TrafficSecrets;
