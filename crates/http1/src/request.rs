//! Request heads.

use crate::header::{Header, HeaderStorage};
use crate::limits::HeadLimits;
use crate::message::{BodyKind, Parsed, Version};
use crate::refusal::Refusal;
use crate::target::Host;

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
    /// The protocols of `Upgrade`, if the client asks for one that may be passed on.
    pub upgrade: Option<&'b [u8]>,
    /// The client sent `TE: trailers`.
    pub accepts_trailers: bool,
    /// Bytes of the head in the buffer; the body begins here.
    pub len: usize,
}

/// Parses the request head at the start of `buf`.
///
/// # Errors
/// A [`Refusal`] with the status to answer: 400, 414, 417, 431, 501 or 505.
pub fn parse_request_head<'h, 'b>(
    buf: &'b [u8],
    limits: &HeadLimits,
    storage: &'h mut HeaderStorage<'b>,
) -> Result<Parsed<RequestHead<'h, 'b>>, Refusal> {
    let _ = (buf, limits, storage);
    Err(Refusal::bad("the parser is not here yet"))
}

impl<'b> RequestHead<'_, 'b> {
    /// The value of the first header of this name (any case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'b [u8]> {
        self.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
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
