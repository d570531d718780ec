//! Request heads on their way to an upstream.

use std::net::IpAddr;

use crate::request::RequestHead;
use crate::rules::HeaderRules;

/// What is done with the forwarding headers that a client sent itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientSent {
    /// `X-Forwarded-For` and `Forwarded` are appended to, `X-Forwarded-Proto` and `-Host` are overwritten.
    #[default]
    Append,
    /// As `Append`, but `X-Forwarded-Proto` and `-Host` are kept: for a trusted proxy in front.
    Trust,
    /// All of them are dropped before ours are written: for the outermost proxy.
    Replace,
}

/// How requests to one service are rewritten; prepared at build time.
#[derive(Clone, Debug, Default)]
pub struct RequestRules {
    /// Set and removed headers.
    pub headers: HeaderRules,
    /// What to do with forwarding headers from the client.
    pub client_sent: ClientSent,
    /// Write no `X-Forwarded-*`.
    pub omit_x_forwarded: bool,
    /// Write no `Forwarded` (RFC 7239).
    pub omit_forwarded: bool,
    /// `Host` for requests that came without one (HTTP/1.0); empty is legal.
    pub fallback_host: Box<str>,
}

/// The client's address as the forwarding headers spell it; made once a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLabel {
    ip: Option<IpAddr>,
    secure: bool,
}

impl ClientLabel {
    /// For a peer with this address (`None`: a Unix socket, spelt `unknown`), over TLS or not.
    #[must_use]
    pub fn new(ip: Option<IpAddr>, secure: bool) -> Self {
        Self { ip, secure }
    }
}

/// Appends the head to send upstream to `out`: HTTP/1.1, origin-form target, hop-by-hop headers removed, framing
/// written anew, forwarding headers added. The body follows in the framing of `head.body`.
///
/// `close`: the upstream shall close after the response (`Connection: close`).
pub fn write_request_head(
    out: &mut Vec<u8>,
    head: &RequestHead<'_, '_>,
    rules: &RequestRules,
    client: &ClientLabel,
    close: bool,
) {
    let _ = (out, head, rules, client, close);
}
