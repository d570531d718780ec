//! Responses that the proxy makes itself, and the chunked coding on the way out.

use crate::date::DateText;
use crate::message::Version;

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
    /// Renders a response. `headers` are written as given, they must not frame the message; `content_type` may
    /// be empty.
    #[must_use]
    pub fn new(status: u16, content_type: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let _ = (status, content_type, headers);
        Self { head: Box::default(), body: body.into() }
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
        let _ = (delivery, date);
        out.extend_from_slice(&self.head);
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// Appends a one-line text response: errors and refusals. The body is `reason` and a newline.
pub fn write_plain(out: &mut Vec<u8>, status: u16, reason: &str, delivery: Delivery, date: &DateText) {
    let _ = (out, status, reason, delivery, date);
}

/// Appends `HTTP/1.1 STATUS REASON`, the given headers, framing, `Date` and `Connection`: for bodies that are
/// streamed from here (files). `length` is the body's; `headers` must not frame the message.
pub fn write_own_head(
    out: &mut Vec<u8>,
    status: u16,
    length: Option<u64>,
    headers: &[(&str, &[u8])],
    delivery: Delivery,
    date: &DateText,
) {
    let _ = (out, status, length, headers, delivery, date);
}

/// `HTTP/1.1 100 Continue` and its empty line.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Appends the line that begins a chunk of `size` bytes (more than 0).
pub fn write_chunk_header(out: &mut Vec<u8>, size: usize) {
    let _ = (out, size);
}

/// What ends a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// Appends the last chunk, the trailer lines as [`crate::Step::trailers`] gave them, and the empty line.
pub fn write_last_chunk(out: &mut Vec<u8>, trailers: &[u8]) {
    let _ = (out, trailers);
}
