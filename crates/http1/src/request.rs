//! Request heads: parsed once, checked as a whole, borrowed from the caller's buffer.
//!
//! ```text
//!  bytes ─ leading empty line? ─ httparse (tokens) ─ our line checks + classification (scan) ─ target ─ framing ─ host
//!              │                     │ Partial: over a limit? → 414 / 431      │                │         │        │
//!              └── refused           └ Err: explained (diagnose) → 400 …       └────────── any ──┴─ 400 …  ┴────────┘
//! ```

use crate::diagnose;
use crate::header::{BARE_LF, Header, HeaderStorage};
use crate::limits::{HeadLimits, MAX_HEADERS, MAX_LEADING_EMPTY_LINES, MAX_METHOD_BYTES};
use crate::message::{BodyKind, Parsed, Version};
use crate::refusal::Refusal;
use crate::scan::{Marks, Scan, scan};
use crate::target::{Host, Target, agree, parse_host, parse_target};

/// A request head that has passed every check.
///
/// `'b` is the buffer that it was parsed from, `'h` the storage of its header list.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'h, 'b> {
    /// The method, case-sensitive.
    pub method: &'b str,
    /// The target as sent (origin-form, absolute-form or `*`).
    pub target: &'b str,
    /// The path as sent, neither decoded nor normalised: what routes match. `*` for the asterisk-form.
    pub path: &'b str,
    /// What follows the first `?`, if there is one.
    pub query: Option<&'b str>,
    /// The client's version.
    pub version: Version,
    /// The host asked for; only HTTP/1.0 requests may be without.
    pub host: Option<Host<'b>>,
    /// All headers in order, as sent.
    pub headers: &'h [Header<'b>],
    /// How the body is delimited; never `UntilClose`.
    pub body: BodyKind,
    /// May another request follow on this connection, as far as the client is concerned?
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// The protocols of `Upgrade`, if the client asks for one that may be passed on: HTTP/1.1, no body, named by
    /// `Connection`, and not `h2c` (which would tunnel requests past every rule).
    pub upgrade: Option<&'b [u8]>,
    /// The client sent `TE: trailers`.
    pub accepts_trailers: bool,
    /// Bytes of the head in the buffer; the body begins here.
    pub len: usize,
    /// The head without a leading empty line.
    pub(crate) raw: &'b [u8],
    /// Where the header lines begin in `raw`.
    pub(crate) lines_at: usize,
    pub(crate) marks: Marks,
    pub(crate) has_host_header: bool,
}

/// Parses the request head at the start of `buf`.
///
/// `Partial` is only answered while the head may still become acceptable: call again with more bytes, see
/// [`HeadLimits::worth_parsing`].
///
/// # Errors
/// A [`Refusal`] with the status to answer: 400, 414, 417, 431, 501 or 505.
pub fn parse_request_head<'h, 'b>(
    buf: &'b [u8],
    limits: &HeadLimits,
    storage: &'h mut HeaderStorage<'b>,
) -> Result<Parsed<RequestHead<'h, 'b>>, Refusal> {
    let whole = buf.len() <= limits.head_bytes;
    let buf = buf.get(..limits.head_bytes).unwrap_or(buf);
    let skipped = if matches!(buf.first(), Some(b'\r' | b'\n')) { skip_empty_lines(buf)? } else { 0 };
    let raw = buf.get(skipped..).unwrap_or_default();
    let slots = storage.slots.get_mut(..limits.headers.min(MAX_HEADERS)).unwrap_or_default();
    let mut request = httparse::Request::new(&mut []);
    let raw_len = match request.parse_with_uninit_headers(raw, slots) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => {
            check_partial(raw, &request, limits)?;
            if !whole || buf.len() == limits.head_bytes {
                return Err(TOO_LARGE);
            }
            return Ok(Parsed::Partial);
        }
        Err(error) => {
            check_target_length(&request, limits)?;
            return Err(diagnose::request(raw, error));
        }
    };
    check_target_length(&request, limits)?;
    let httparse::Request { method: Some(method), path: Some(target), version, headers } = request else {
        return Err(Refusal::bad("the request line is incomplete"));
    };
    check_method_length(method)?;
    let headers: &'h [Header<'b>] = headers;
    let raw = raw.get(..raw_len).unwrap_or(raw);
    let version = Version::from_minor(version);
    // httparse has seen exactly `method SP target SP HTTP/1.x`.
    let line_end = method.len() + target.len() + 2 + "HTTP/1.1".len();
    if raw.get(line_end) != Some(&b'\r') || !raw.ends_with(b"\r\n") {
        return Err(BARE_LF);
    }
    let parts = parse_target(method, target)?;
    let found = scan::<true>(raw, headers)?;
    let body = framing_of(method, version, &found)?;
    let host = host_of(version, &found, &parts)?;
    let mut head = RequestHead {
        method,
        target,
        path: parts.path,
        query: parts.query,
        version,
        host,
        headers,
        body,
        keep_alive: keeps_alive(version, &found),
        expect_continue: false,
        upgrade: None,
        accepts_trailers: found.accepts_trailers && version == Version::Http11,
        len: skipped + raw_len,
        raw,
        lines_at: line_end + 2,
        marks: found.marks,
        has_host_header: found.host.is_some(),
    };
    head.read_expect(&found)?;
    head.read_upgrade(&found);
    if body != BodyKind::Chunked {
        head.marks.dropped |= found.marks.trailer;
    }
    Ok(Parsed::Complete(head))
}

/// The head does not end within the limit.
const TOO_LARGE: Refusal = Refusal::new(431, "the request head is too large");

#[cold]
fn skip_empty_lines(buf: &[u8]) -> Result<usize, Refusal> {
    let mut at = 0;
    for _ in 0..=MAX_LEADING_EMPTY_LINES {
        match buf.get(at..) {
            Some([b'\r', b'\n', ..]) => at += 2,
            // Not decided yet: httparse will say Partial.
            Some([b'\r']) => return Ok(at),
            Some([b'\r' | b'\n', ..]) => {
                return Err(Refusal::bad("the request begins with a bare CR or LF"));
            }
            _ => return Ok(at),
        }
    }
    Err(Refusal::bad("too many empty lines before the request"))
}

/// While the request line is not whole: is a part of it too long already?
#[cold]
fn check_partial(
    raw: &[u8],
    request: &httparse::Request<'_, '_>,
    limits: &HeadLimits,
) -> Result<(), Refusal> {
    let Some(method) = request.method else { return check_method_length(raw) };
    check_method_length(method)?;
    let target_so_far = raw.len().saturating_sub(method.len() + 1);
    match request.path {
        None if target_so_far > limits.target_bytes => Err(TARGET_TOO_LONG),
        _ => check_target_length(request, limits),
    }
}

fn check_method_length(method: impl AsRef<[u8]>) -> Result<(), Refusal> {
    if method.as_ref().len() > MAX_METHOD_BYTES {
        return Err(Refusal::new(501, "the method is too long"));
    }
    Ok(())
}

const TARGET_TOO_LONG: Refusal = Refusal::new(414, "the request target is too long");

#[inline]
fn check_target_length(request: &httparse::Request<'_, '_>, limits: &HeadLimits) -> Result<(), Refusal> {
    match request.path {
        Some(target) if target.len() > limits.target_bytes => Err(TARGET_TOO_LONG),
        _ => Ok(()),
    }
}

/// RFC 9112 §6.3, without its leniency: two statements about the length are one too many.
fn framing_of(method: &str, version: Version, found: &Scan<'_>) -> Result<BodyKind, Refusal> {
    let body = match (found.transfer_encoding, found.content_length) {
        (true, Some(_)) => return Err(Refusal::bad("both Content-Length and Transfer-Encoding")),
        (true, None) if version == Version::Http10 => {
            return Err(Refusal::bad("Transfer-Encoding in an HTTP/1.0 message"));
        }
        (true, None) => BodyKind::Chunked,
        (false, Some(length)) => BodyKind::Length(length),
        (false, None) => BodyKind::None,
    };
    if method == "TRACE" && !body.is_empty() {
        return Err(Refusal::bad("TRACE with a body"));
    }
    Ok(body)
}

/// RFC 9112 §3.2: exactly one valid `Host`, and one that agrees with the target.
fn host_of<'b>(version: Version, found: &Scan<'b>, target: &Target<'b>) -> Result<Option<Host<'b>>, Refusal> {
    let Some(host) = found.host else {
        return match (version, target.authority) {
            (Version::Http11, _) => Err(Refusal::bad("no Host header")),
            (Version::Http10, authority) => Ok(authority.map(|(host, _)| host)),
        };
    };
    let host = parse_host(host)?;
    if let Some((authority, default_port)) = target.authority
        && !agree(authority, host, default_port)
    {
        return Err(Refusal::bad("Host differs from the target"));
    }
    Ok(Some(host))
}

/// RFC 9112 §9.3.
pub(crate) const fn keeps_alive(version: Version, found: &Scan<'_>) -> bool {
    match version {
        Version::Http11 => !found.options.close,
        Version::Http10 => found.options.keep_alive && !found.options.close,
    }
}

impl<'b> RequestHead<'_, 'b> {
    /// RFC 9110 §10.1.1: one expectation exists; it means nothing in HTTP/1.0 or without a body, and goes no further.
    fn read_expect(&mut self, found: &Scan<'_>) -> Result<(), Refusal> {
        let Some(expect) = found.expect else { return Ok(()) };
        if !expect.eq_ignore_ascii_case(b"100-continue") {
            return Err(Refusal::new(417, "the only expectation met here is 100-continue"));
        }
        self.expect_continue = self.version == Version::Http11 && !self.body.is_empty();
        if !self.expect_continue {
            self.marks.dropped |= found.expect_line;
        }
        Ok(())
    }

    fn read_upgrade(&mut self, found: &Scan<'b>) {
        let Some(protocols) = found.upgrade else { return };
        let possible = found.options.upgrade
            && self.version == Version::Http11
            && self.body.is_empty()
            && !found.http2_settings
            && !protocols.is_empty();
        let names_h2c = || {
            crate::header::list_members(protocols)
                .any(|protocol| protocol.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(b"h2")))
        };
        if possible && !names_h2c() {
            self.upgrade = Some(protocols);
        }
    }

    /// The value of the first header of this name (any case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'b [u8]> {
        self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    /// Is the method `HEAD`?
    #[must_use]
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// May the request be sent twice (RFC 9110 §9.2.2)?
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }
}
