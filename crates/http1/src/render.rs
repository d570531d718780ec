//! Responses that the proxy makes itself, and the chunked coding on the way out.

use crate::copy::push_content_length;
use crate::date::DateText;
use crate::message::Version;
use crate::reply::{push_date, push_persistence, push_status_line};
use crate::rules::{RuleError, check};
use crate::status::reason_phrase;

/// How a response made here goes to its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The request's version.
    pub version: Version,
    /// Whether the connection goes on afterwards.
    pub keep_alive: bool,
    /// Answer to `HEAD`: the body is left out, its length is not.
    pub head_only: bool,
}

/// A response made here whose head is rendered once: everything but `Date` and `Connection`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    head: Box<[u8]>,
    body: Box<[u8]>,
}

impl Prepared {
    /// Renders a response; `content_type` may be empty. Statuses that have no body (204, 304) get none.
    ///
    /// # Errors
    /// A header that would break or frame the message.
    pub fn new(
        status: u16,
        content_type: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Self, RuleError> {
        let mut head = Vec::new();
        push_status_line(&mut head, status, reason_phrase(status));
        let content_type = (!content_type.is_empty()).then_some(("Content-Type", content_type));
        for (name, value) in content_type.iter().chain(headers) {
            check(name, value.as_bytes())?;
            crate::copy::push_header(&mut head, name.as_bytes(), value.as_bytes());
        }
        let body = if has_no_body(status) { &[] } else { body };
        if !has_no_body(status) {
            push_content_length(&mut head, body.len() as u64);
        }
        Ok(Self { head: head.into(), body: body.into() })
    }

    /// Appends the response to `out`.
    pub fn write(&self, out: &mut Vec<u8>, delivery: Delivery, date: &DateText) {
        self.write_head(out, delivery, date);
        if !delivery.head_only {
            out.extend_from_slice(&self.body);
        }
    }

    /// Appends the head alone, for callers that send [`Prepared::body`] without copying it.
    pub fn write_head(&self, out: &mut Vec<u8>, delivery: Delivery, date: &DateText) {
        out.extend_from_slice(&self.head);
        end_head(out, delivery, date);
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// 204 and 304 end with their head (1xx are not made here).
const fn has_no_body(status: u16) -> bool {
    matches!(status, 204 | 304)
}

fn end_head(out: &mut Vec<u8>, delivery: Delivery, date: &DateText) {
    push_date(out, date);
    push_persistence(out, delivery.version, delivery.keep_alive);
    out.extend_from_slice(b"\r\n");
}

/// Appends a one-line text response: errors and refusals. The body is `reason` and a newline.
pub fn write_plain(out: &mut Vec<u8>, status: u16, reason: &str, delivery: Delivery, date: &DateText) {
    let length = (!has_no_body(status)).then_some(reason.len() as u64 + 1);
    write_own_head(out, status, length, &[("Content-Type", b"text/plain; charset=utf-8")], delivery, date);
    if !delivery.head_only && length.is_some() {
        out.extend_from_slice(reason.as_bytes());
        out.push(b'\n');
    }
}

/// Appends the status line, the given headers, framing, `Date` and `Connection`: for bodies that are streamed from
/// here (files). `length` is the body's, `None` where the status has none. Values must come from checked input:
/// they are written as they are, and must not frame the message.
pub fn write_own_head(
    out: &mut Vec<u8>,
    status: u16,
    length: Option<u64>,
    headers: &[(&str, &[u8])],
    delivery: Delivery,
    date: &DateText,
) {
    push_status_line(out, status, reason_phrase(status));
    for (name, value) in headers {
        crate::copy::push_header(out, name.as_bytes(), value);
    }
    if let Some(length) = length {
        push_content_length(out, length);
    }
    end_head(out, delivery, date);
}

/// `HTTP/1.1 100 Continue` and its empty line.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What ends a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// Bytes that [`write_chunk_header`] may append: 16 digits and CR LF.
pub const MAX_CHUNK_HEADER_BYTES: usize = 18;

/// Appends the line that begins a chunk of `size` bytes.
///
/// A size of 0 would end the body, so nothing is written for it; write no [`CHUNK_END`] then either.
pub fn write_chunk_header(out: &mut Vec<u8>, size: usize) {
    if size == 0 {
        return;
    }
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4);
    for place in (0..digits).rev() {
        let digit = (size >> (place * 4)) & 0xf;
        out.extend(b"0123456789abcdef".get(digit));
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the last chunk, the trailer lines as [`crate::Step::trailers`] gave them, and the empty line.
pub fn write_last_chunk(out: &mut Vec<u8>, trailers: &[u8]) {
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(trailers);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    const KEEP: Delivery = Delivery { version: Version::Http11, keep_alive: true, head_only: false };

    fn date() -> DateText {
        DateText::new(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777))
    }

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn chunk_headers_are_hexadecimal_and_never_end_the_body() {
        for size in [1, 9, 10, 15, 16, 255, 256, 4096, 16_384, 65_535, usize::MAX] {
            assert_eq!(text(|out| write_chunk_header(out, size)), format!("{size:x}\r\n"));
        }
        assert_eq!(text(|out| write_chunk_header(out, 0)), "");
    }

    #[test]
    fn a_prepared_response_is_whole() {
        let hello = Prepared::new(200, "text/plain", &[("X-A", "1")], b"Hello").unwrap();
        assert_eq!(
            text(|out| hello.write(out, KEEP, &date())),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: 1\r\nContent-Length: 5\r\n\
             Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\nHello"
        );
        let head_only = Delivery { version: Version::Http10, keep_alive: false, head_only: true };
        assert!(text(|out| hello.write(out, head_only, &date())).ends_with("Connection: close\r\n\r\n"));
        let old = Delivery { version: Version::Http10, ..KEEP };
        assert!(text(|out| hello.write(out, old, &date())).contains("Connection: keep-alive\r\n"));
    }

    #[test]
    fn responses_without_a_body_state_no_length() {
        let empty = Prepared::new(204, "", &[], b"ignored").unwrap();
        assert_eq!(
            text(|out| empty.write(out, KEEP, &date())),
            "HTTP/1.1 204 No Content\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n"
        );
    }

    #[test]
    fn a_prepared_response_cannot_be_split_by_its_headers() {
        assert!(Prepared::new(302, "", &[("Location", "/a\r\nX: y")], b"").is_err());
        assert!(Prepared::new(200, "", &[("Content-Length", "7")], b"").is_err());
        assert!(Prepared::new(200, "a\nb", &[], b"").is_err());
    }

    #[test]
    fn a_refusal_is_one_line_of_text() {
        let close = Delivery { keep_alive: false, ..KEEP };
        assert_eq!(
            text(|out| write_plain(out, 400, "no Host header", close, &date())),
            "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 15\r\n\
             Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: close\r\n\r\nno Host header\n"
        );
    }
}
