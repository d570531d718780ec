//! Response heads on their way to a client.
//!
//! | header | what becomes of it |
//! |---|---|
//! | `Connection` and what it names, `Keep-Alive`, `Proxy-Connection` | dropped; ours is written where it is needed |
//! | `Content-Length`, `Transfer-Encoding` | written from what was understood and what the client can take |
//! | `Trailer` | passed on if the body goes out chunked |
//! | `Upgrade` | passed on with 101 and 426 |
//! | `Date` | added where it is missing (RFC 9110 §6.6.1) |
//! | `Via` | passed on, and ours behind it if [`HeaderRules::with_via`] says so |
//! | all others | passed on in order; odd whitespace around values becomes one space |

use crate::copy::{CHUNKED_LINE, copy_lines, push_content_length, push_decimal, push_header};
use crate::date::DateText;
use crate::message::{BodyKind, Version};
use crate::response::ResponseHead;
use crate::rules::HeaderRules;
use crate::status::reason_phrase;

/// What the client of an exchange can take, and what we want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToClient {
    /// The request's version.
    pub version: Version,
    /// Both sides want to go on: the request's `keep_alive` and no wish of ours to close.
    pub keep_alive: bool,
}

/// How the body goes out after a head was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Framing towards the client: write chunk headers if `Chunked`, close after it if `UntilClose`.
    pub body: BodyKind,
    /// May the client's connection go on after this response? (The head says so.)
    pub keep_alive: bool,
}

/// Appends the head to send to the client to `out`; also for interim (1xx) heads and 101.
pub fn write_response_head(
    out: &mut Vec<u8>,
    head: &ResponseHead<'_, '_>,
    rules: &HeaderRules,
    to: ToClient,
    date: &DateText,
) -> Outgoing {
    let outgoing = outgoing(head, to);
    // The length line can stay where it is if it is what would be written.
    let length = match outgoing.body {
        BodyKind::Length(length) => Some(length),
        BodyKind::None if head.status >= 200 && head.status != 204 => head.content_length,
        _ => None,
    };
    let mut dropped = head.marks.dropped | rules.taken_out(head.headers);
    if length.is_none() {
        dropped |= head.marks.length;
    }
    if outgoing.body != BodyKind::Chunked {
        dropped |= head.marks.trailer;
    }
    out.reserve(head.raw.len() + rules.rendered().len() + ROOM_FOR_ADDED);
    let from = if head.version == Version::Http11 && !head.reason.is_empty() {
        0
    } else {
        write_status_line(out, head);
        head.lines_at
    };
    copy_lines(out, head.raw, from, head.headers, dropped, head.marks.odd);
    if let Some(length) = length
        && head.marks.length == 0
    {
        push_content_length(out, length);
    }
    if outgoing.body == BodyKind::Chunked {
        out.extend_from_slice(CHUNKED_LINE);
    }
    write_connection(out, head, to, outgoing);
    if !head.has_date && head.status >= 200 && !rules.names_date {
        push_date(out, date);
    }
    rules.write(out, head.version);
    out.extend_from_slice(b"\r\n");
    outgoing
}

/// Enough for what is usually added: `Date`, `Connection`, framing.
const ROOM_FOR_ADDED: usize = 160;

/// The framing that the client understands, and whether its connection survives it.
fn outgoing(head: &ResponseHead<'_, '_>, to: ToClient) -> Outgoing {
    match (head.body, to.version) {
        (BodyKind::Chunked | BodyKind::UntilClose, Version::Http11) => {
            Outgoing { body: BodyKind::Chunked, keep_alive: to.keep_alive }
        }
        (BodyKind::Chunked | BodyKind::UntilClose, Version::Http10) => {
            Outgoing { body: BodyKind::UntilClose, keep_alive: false }
        }
        (body, _) => Outgoing { body, keep_alive: to.keep_alive && !head.is_upgrade() },
    }
}

fn write_connection(out: &mut Vec<u8>, head: &ResponseHead<'_, '_>, to: ToClient, outgoing: Outgoing) {
    if head.is_interim() {
        return;
    }
    if let Some(protocols) = head.upgrade {
        let close = !head.is_upgrade() && !outgoing.keep_alive;
        out.extend_from_slice(if close {
            b"Connection: upgrade, close\r\n"
        } else {
            b"Connection: upgrade\r\n"
        });
        push_header(out, b"Upgrade", protocols);
        return;
    }
    push_persistence(out, to.version, outgoing.keep_alive);
}

/// Appends `Connection` where the version's default is not what is meant.
pub(crate) fn push_persistence(out: &mut Vec<u8>, version: Version, keep_alive: bool) {
    match (version, keep_alive) {
        (_, false) => out.extend_from_slice(b"Connection: close\r\n"),
        (Version::Http10, true) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (Version::Http11, true) => {}
    }
}

/// Appends `Date`.
pub(crate) fn push_date(out: &mut Vec<u8>, date: &DateText) {
    out.extend_from_slice(b"Date: ");
    out.extend_from_slice(date.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends `HTTP/1.1 STATUS REASON`.
pub(crate) fn push_status_line(out: &mut Vec<u8>, status: u16, reason: &str) {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cold]
fn write_status_line(out: &mut Vec<u8>, head: &ResponseHead<'_, '_>) {
    let reason = if head.reason.is_empty() { reason_phrase(head.status) } else { head.reason };
    push_status_line(out, head.status, reason);
}
