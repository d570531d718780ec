//! Request heads on their way to an upstream.
//!
//! | header | what becomes of it |
//! |---|---|
//! | `Connection` and what it names, `Keep-Alive`, `Proxy-Connection`, `HTTP2-Settings` | dropped; `Connection` cannot name end-to-end headers away |
//! | `Content-Length`, `Transfer-Encoding` | written from what was understood, never copied unread |
//! | `TE` | `trailers` alone is passed on |
//! | `Upgrade` | passed on with `Connection: upgrade` if [`RequestHead::upgrade`] says so, else dropped |
//! | `Expect: 100-continue` | passed on if a body follows |
//! | `Host` | passed on as sent |
//! | `X-Forwarded-For`, `-Proto`, `-Host`, `Forwarded` | see [`ClientSent`] |
//! | `Via` | passed on, and ours behind it if [`HeaderRules::with_via`] says so |
//! | all others | passed on in order; odd whitespace around values becomes one space |

use std::net::IpAddr;

use crate::copy::{CHUNKED_LINE, copy_lines, push_content_length, push_header};
use crate::header::{Header, Known, classify};
use crate::message::{BodyKind, Version};
use crate::request::RequestHead;
use crate::rules::HeaderRules;

/// What is done with the forwarding headers that a client sent itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientSent {
    /// The client's address is appended to `X-Forwarded-For` and `Forwarded`; `X-Forwarded-Proto` and `-Host`
    /// are overwritten. An upstream that reads the last entry reads ours.
    #[default]
    Append,
    /// As `Append`, but `X-Forwarded-Proto` and `-Host` are kept where they were sent: for use behind another
    /// proxy that is trusted.
    Trust,
    /// All of them are dropped, also those of a kind that is not written here, and only ours are sent: for an
    /// outermost proxy.
    Replace,
}

/// How requests to one service are rewritten; prepared at build time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestRules {
    /// Headers to set and to remove.
    pub headers: HeaderRules,
    /// What to do with forwarding headers from the client.
    pub client_sent: ClientSent,
    /// Write no `X-Forwarded-*`. What came is passed on as it is, unless [`ClientSent::Replace`] drops it.
    pub omit_x_forwarded: bool,
    /// Write no `Forwarded` (RFC 7239). What came is passed on as it is, unless [`ClientSent::Replace`] drops it.
    pub omit_forwarded: bool,
    /// `Host` for requests that came without one (HTTP/1.0); empty is legal.
    pub fallback_host: Box<str>,
}

/// The client's address as the forwarding headers spell it; made once a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLabel {
    /// `192.0.2.1`, `"[2001:db8::1]"` or `unknown`, as `Forwarded` wants it.
    text: [u8; Self::ROOM],
    len: u8,
    /// Quote and bracket on each side that `X-Forwarded-For` goes without.
    wrapping: u8,
    secure: bool,
}

impl ClientLabel {
    /// The longest address has 39 bytes, and gets two brackets and two quotes; an IPv4-mapped one is shorter.
    const ROOM: usize = 44;

    /// For a peer with this address (`None`: a Unix socket, spelt `unknown`), over TLS (`secure`) or not.
    #[must_use]
    pub fn new(ip: Option<IpAddr>, secure: bool) -> Self {
        use std::io::Write as _;
        let mut text = [0; Self::ROOM];
        let mut rest = &mut text[..];
        let ip = ip.map(|ip| ip.to_canonical());
        // What is written always fits; see `ROOM`.
        let _ = match ip {
            None => write!(rest, "unknown"),
            Some(IpAddr::V4(ip)) => write!(rest, "{ip}"),
            Some(IpAddr::V6(ip)) => write!(rest, "\"[{ip}]\""),
        };
        let len = u8::try_from(Self::ROOM - rest.len()).unwrap_or_default();
        let wrapping = if matches!(ip, Some(IpAddr::V6(_))) { 2 } else { 0 };
        Self { text, len, wrapping, secure }
    }

    /// As in `X-Forwarded-For` and in logs.
    #[must_use]
    pub fn address(&self) -> &[u8] {
        let wrapping = usize::from(self.wrapping);
        self.text.get(wrapping..usize::from(self.len) - wrapping).unwrap_or_default()
    }

    /// As in `Forwarded: for=`.
    fn node(&self) -> &[u8] {
        self.text.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// `http` or `https`.
    #[must_use]
    pub const fn proto(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
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
    let plan = Forwarding::of(head, rules);
    let keeps_length_line = matches!(head.body, BodyKind::Length(_)) && head.marks.length != 0;
    let dropped = head.marks.dropped | plan.dropped | rules.headers.taken_out(head.headers);
    out.reserve(head.raw.len() + rules.headers.rendered().len() + ROOM_FOR_ADDED);
    let from = if head.version == Version::Http11 && head.target.starts_with('/') {
        0
    } else {
        write_request_line(out, head);
        head.lines_at
    };
    copy_lines(out, head.raw, from, head.headers, dropped, head.marks.odd);
    if !head.has_host_header && !rules.headers.names_host {
        let host = head.host.map_or(&*rules.fallback_host, |host| host.raw);
        push_header(out, b"Host", host.as_bytes());
    }
    match head.body {
        BodyKind::Length(length) if !keeps_length_line => push_content_length(out, length),
        BodyKind::Chunked => out.extend_from_slice(CHUNKED_LINE),
        _ => {}
    }
    write_connection(out, head, close);
    plan.write(out, head, client);
    rules.headers.write(out, head.version);
    out.extend_from_slice(b"\r\n");
}

/// Enough for what is usually added: forwarding headers, `Connection`.
const ROOM_FOR_ADDED: usize = 256;

#[cold]
fn write_request_line(out: &mut Vec<u8>, head: &RequestHead<'_, '_>) {
    out.extend_from_slice(head.method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.path.as_bytes());
    if let Some(query) = head.query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

fn write_connection(out: &mut Vec<u8>, head: &RequestHead<'_, '_>, close: bool) {
    let options: &[u8] = match (head.upgrade.is_some(), head.accepts_trailers, close) {
        (false, false, false) => return,
        (false, false, true) => b"Connection: close\r\n",
        (false, true, false) => b"Connection: TE\r\n",
        (false, true, true) => b"Connection: TE, close\r\n",
        // An upgraded connection is not used again, whatever was wished.
        (true, false, _) => b"Connection: upgrade\r\n",
        (true, true, _) => b"Connection: TE, upgrade\r\n",
    };
    out.extend_from_slice(options);
    if head.accepts_trailers {
        out.extend_from_slice(b"TE: trailers\r\n");
    }
    if let Some(protocols) = head.upgrade {
        push_header(out, b"Upgrade", protocols);
    }
}

/// Which forwarding headers are dropped, and which are written.
struct Forwarding {
    dropped: u128,
    x_for: Write,
    x_proto: Write,
    x_host: Write,
    forwarded: Write,
}

/// What to do about one forwarding header: the client's lines to repeat before ours.
#[derive(Clone, Copy)]
enum Write {
    No,
    After(u128),
}

impl Forwarding {
    fn of(head: &RequestHead<'_, '_>, rules: &RequestRules) -> Self {
        let (mut x_for, mut x_proto, mut x_host, mut forwarded) = (0u128, 0u128, 0u128, 0u128);
        let mut sent = head.marks.forwarding;
        while sent != 0 {
            let bit = sent & sent.wrapping_neg();
            sent ^= bit;
            let Some(header) = head.headers.get(bit.trailing_zeros() as usize) else { break };
            match classify(header.name.as_bytes()) {
                Known::XForwardedFor => x_for |= bit,
                Known::XForwardedProto => x_proto |= bit,
                Known::XForwardedHost => x_host |= bit,
                _ => forwarded |= bit,
            }
        }
        let mut plan = Self {
            dropped: 0,
            x_for: Write::No,
            x_proto: Write::No,
            x_host: Write::No,
            forwarded: Write::No,
        };
        let append = rules.client_sent != ClientSent::Replace;
        if !append {
            // A line that a rule names is taken out by the rule, which then has the say.
            plan.dropped = x_for | x_proto | x_host | forwarded;
        }
        let trust = rules.client_sent == ClientSent::Trust;
        if !rules.omit_x_forwarded {
            plan.x_for = plan.decide(x_for, append, false, rules.headers.names_x_forwarded_for);
            plan.x_proto = plan.decide(x_proto, false, trust, rules.headers.names_x_forwarded_proto);
            plan.x_host = plan.decide(x_host, false, trust, rules.headers.names_x_forwarded_host);
        }
        if !rules.omit_forwarded {
            let balanced = forwarded != 0 && Self::quotes_balance(forwarded, head.headers);
            plan.forwarded = plan.decide(forwarded, append && balanced, false, rules.headers.names_forwarded);
        }
        plan
    }

    /// `sent`: the client's lines; `append`: they go before ours; `keep`: they stand instead of ours; `ruled`: a
    /// rule has the say (and takes the client's lines out).
    fn decide(&mut self, sent: u128, append: bool, keep: bool, ruled: bool) -> Write {
        if ruled || (keep && sent != 0) {
            return Write::No;
        }
        self.dropped |= sent;
        Write::After(if append { sent } else { 0 })
    }

    /// An open quote in a client's `Forwarded` would swallow the element that we append.
    #[cold]
    fn quotes_balance(lines: u128, headers: &[Header<'_>]) -> bool {
        headers.iter().enumerate().filter(|(at, _)| lines & (1 << at) != 0).all(|(_, header)| {
            let mut quoted = false;
            let mut bytes = header.value.iter();
            while let Some(byte) = bytes.next() {
                match byte {
                    b'"' => quoted = !quoted,
                    b'\\' if quoted => {
                        let _ = bytes.next();
                    }
                    _ => {}
                }
            }
            !quoted
        })
    }

    fn write(&self, out: &mut Vec<u8>, head: &RequestHead<'_, '_>, client: &ClientLabel) {
        let host = head.host.map(|host| host.raw.as_bytes());
        if let Write::After(sent) = self.x_for {
            begin_list(out, b"X-Forwarded-For: ", sent, head.headers);
            out.extend_from_slice(client.address());
            out.extend_from_slice(b"\r\n");
        }
        if let Write::After(_) = self.x_proto {
            let line: &[u8] =
                if client.secure { b"X-Forwarded-Proto: https\r\n" } else { b"X-Forwarded-Proto: http\r\n" };
            out.extend_from_slice(line);
        }
        if let (Write::After(_), Some(host)) = (self.x_host, host) {
            out.extend_from_slice(b"X-Forwarded-Host: ");
            out.extend_from_slice(host);
            out.extend_from_slice(b"\r\n");
        }
        if let Write::After(sent) = self.forwarded {
            begin_list(out, b"Forwarded: ", sent, head.headers);
            out.extend_from_slice(b"for=");
            out.extend_from_slice(client.node());
            if let Some(host) = head.host {
                // Of what a checked host may hold, only colons and brackets are no token characters.
                let quoted = host.raw.len() != host.name.len() || host.name.starts_with('[');
                out.extend_from_slice(if quoted { b";host=\"" } else { b";host=" });
                out.extend_from_slice(host.raw.as_bytes());
                out.extend_from_slice(if quoted { b"\"" } else { b"" });
            }
            out.extend_from_slice(if client.secure { b";proto=https\r\n" } else { b";proto=http\r\n" });
        }
    }
}

/// Begins a list header: the name, and what the client sent, ready for one more member.
fn begin_list(out: &mut Vec<u8>, name: &[u8], sent: u128, headers: &[Header<'_>]) {
    out.extend_from_slice(name);
    let mut sent = sent;
    while sent != 0 {
        let at = sent.trailing_zeros() as usize;
        sent &= sent - 1;
        if let Some(header) = headers.get(at)
            && !header.value.is_empty()
        {
            out.extend_from_slice(header.value);
            out.extend_from_slice(b", ");
        }
    }
}
