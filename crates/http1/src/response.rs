//! Response heads.

use std::time::Duration;

use crate::header::{Header, HeaderStorage};
use crate::limits::HeadLimits;
use crate::message::{BodyKind, Parsed, Version};
use crate::refusal::Refusal;

/// What must be known of a request to read its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The method was `HEAD`: no body, whatever the lengths say.
    pub head: bool,
    /// An upgrade was asked for: 101 is a possible answer.
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
    /// Bytes of the head in the buffer; the body begins here.
    pub len: usize,
}

impl<'b> ResponseHead<'_, 'b> {
    /// The value of the first header of this name (any case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'b [u8]> {
        self.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
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
    let _ = (buf, asked, limits, storage);
    Err(Refusal::new(502, "the parser is not here yet"))
}
