//! Response heads: the same strictness towards upstreams, whose faults become 502.

use std::time::Duration;

use crate::diagnose;
use crate::header::{BARE_LF, Header, HeaderStorage, list_members};
use crate::limits::{HeadLimits, MAX_HEADERS};
use crate::message::{BodyKind, Parsed, Version};
use crate::refusal::Refusal;
use crate::request::keeps_alive;
use crate::scan::{Marks, Scan, scan};

/// What must be known of a request to read its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The method was `HEAD`: no body, whatever the lengths say.
    pub head: bool,
    /// An upgrade was asked for (and passed on): 101 is a possible answer.
    pub upgrade: bool,
}

/// A response head that has passed every check.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'h, 'b> {
    /// The upstream's version.
    pub version: Version,
    /// 100 to 999.
    pub status: u16,
    /// The reason phrase; empty if there was none or it was not plain ASCII.
    pub reason: &'b str,
    /// All headers in order, as sent.
    pub headers: &'h [Header<'b>],
    /// How the body is delimited. `None` for 1xx, 204, 304 and answers to `HEAD`.
    pub body: BodyKind,
    /// `Content-Length` as stated, also where no body follows (`HEAD`, 304).
    pub content_length: Option<u64>,
    /// May the connection carry another request, as far as the upstream is concerned?
    pub keep_alive: bool,
    /// How long the upstream says that it keeps an idle connection (`Keep-Alive: timeout=`).
    pub keep_alive_for: Option<Duration>,
    /// The protocol that a 101 switches to, or that a 426 asks for.
    pub upgrade: Option<&'b [u8]>,
    /// Bytes of the head in the buffer; the body begins here.
    pub len: usize,
    pub(crate) raw: &'b [u8],
    /// Where the header lines begin in `raw`.
    pub(crate) lines_at: usize,
    pub(crate) marks: Marks,
    pub(crate) has_date: bool,
}

impl<'b> ResponseHead<'_, 'b> {
    /// The value of the first header of this name (any case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'b [u8]> {
        self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    /// 1xx other than 101: another head follows. Not to be sent to HTTP/1.0 clients.
    #[must_use]
    pub const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// 101: from here on the connection is a tunnel.
    #[must_use]
    pub const fn is_upgrade(&self) -> bool {
        self.status == 101
    }
}

/// Parses the response head at the start of `buf`.
///
/// # Errors
/// A [`Refusal`] with status 502.
pub fn parse_response_head<'h, 'b>(
    buf: &'b [u8],
    asked: Asked,
    limits: &HeadLimits,
    storage: &'h mut HeaderStorage<'b>,
) -> Result<Parsed<ResponseHead<'h, 'b>>, Refusal> {
    let raw = buf.get(..limits.head_bytes).unwrap_or(buf);
    if let Some(b'\r' | b'\n') = raw.first() {
        return Err(Refusal::new(502, "an empty line before the status line"));
    }
    let slots = storage.slots.get_mut(..limits.headers.min(MAX_HEADERS)).unwrap_or_default();
    let mut response = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let len = match parser.parse_response_with_uninit_headers(&mut response, raw, slots) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if buf.len() >= limits.head_bytes => {
            return Err(Refusal::new(502, "the upstream's response head is too large"));
        }
        Ok(httparse::Status::Partial) => return Ok(Parsed::Partial),
        Err(error) => return Err(diagnose::response(raw, error)),
    };
    let httparse::Response { version, code: Some(status), reason, headers } = response else {
        return Err(Refusal::new(502, "the status line is incomplete"));
    };
    let headers: &'h [Header<'b>] = headers;
    check_complete(
        raw.get(..len).unwrap_or(raw),
        asked,
        Version::from_minor(version),
        status,
        reason,
        headers,
    )
    .map_err(Refusal::by_upstream)
}

fn check_complete<'h, 'b>(
    raw: &'b [u8],
    asked: Asked,
    version: Version,
    status: u16,
    reason: Option<&'b str>,
    headers: &'h [Header<'b>],
) -> Result<Parsed<ResponseHead<'h, 'b>>, Refusal> {
    let line_end = memchr::memchr(b'\n', raw).unwrap_or_default();
    if line_end == 0 || raw.get(line_end - 1) != Some(&b'\r') || !raw.ends_with(b"\r\n") {
        return Err(BARE_LF);
    }
    if status < 100 {
        return Err(Refusal::bad("the status is out of range"));
    }
    let found = scan::<false>(raw, headers)?;
    let body = framing_of(asked, version, status, &found)?;
    let mut head = ResponseHead {
        version,
        status,
        reason: reason.unwrap_or_default(),
        headers,
        body,
        content_length: found.content_length,
        // A 204 that states a body has none, but bytes may follow that were meant as one.
        keep_alive: keeps_alive(version, &found)
            && body != BodyKind::UntilClose
            && !(status == 204 && states_a_body(&found)),
        keep_alive_for: found.keep_alive.and_then(keep_alive_timeout),
        upgrade: None,
        len: raw.len(),
        raw,
        lines_at: line_end + 1,
        marks: found.marks,
        has_date: found.has_date,
    };
    if matches!(status, 101 | 426) {
        head.upgrade = found.upgrade.filter(|protocols| !protocols.is_empty());
    }
    if status == 101 && !asked.upgrade {
        return Err(Refusal::bad("the upstream switches protocols without being asked"));
    }
    if status == 101 && head.upgrade.is_none() {
        return Err(Refusal::bad("the upstream switches protocols and does not say to which"));
    }
    Ok(Parsed::Complete(head))
}

/// RFC 9112 §6.3, without its leniency.
fn framing_of(asked: Asked, version: Version, status: u16, found: &Scan<'_>) -> Result<BodyKind, Refusal> {
    if found.transfer_encoding && found.content_length.is_some() {
        return Err(Refusal::bad("both Content-Length and Transfer-Encoding"));
    }
    if found.transfer_encoding && version == Version::Http10 {
        return Err(Refusal::bad("Transfer-Encoding in an HTTP/1.0 message"));
    }
    if status < 200 && states_a_body(found) {
        return Err(Refusal::bad("an interim response with a body"));
    }
    if asked.head || status < 200 || status == 204 || status == 304 {
        return Ok(BodyKind::None);
    }
    Ok(match found.content_length {
        _ if found.transfer_encoding => BodyKind::Chunked,
        Some(length) => BodyKind::Length(length),
        None => BodyKind::UntilClose,
    })
}

const fn states_a_body(found: &Scan<'_>) -> bool {
    found.transfer_encoding || matches!(found.content_length, Some(length) if length > 0)
}

/// The `timeout` of `Keep-Alive: timeout=5, max=100`; nothing if there is none that makes sense.
fn keep_alive_timeout(value: &[u8]) -> Option<Duration> {
    list_members(value).find_map(|member| {
        let (name, seconds) = member.split_at_checked("timeout=".len())?;
        if !name.eq_ignore_ascii_case(b"timeout=") {
            return None;
        }
        let seconds = std::str::from_utf8(seconds).ok()?.parse::<u32>().ok()?;
        Some(Duration::from_secs(u64::from(seconds)))
    })
}
