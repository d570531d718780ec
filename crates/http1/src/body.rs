//! Reading bodies: where they end, and nothing else. No byte is copied.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::message::BodyKind;
use crate::refusal::Refusal;

/// Which side a body comes from: decides between 400/413 and 502.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// A client's request.
    Request,
    /// An upstream's response.
    Response,
}

/// Reads one body from the bytes after a head, in pieces of any size. Plain data: it can be stored and moved to
/// another process between any two calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyReader {
    side: Side,
    kind: BodyKind,
    limit_left: u64,
}

/// What one call of [`BodyReader::next`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that are dealt with; the rest must be presented again.
    pub consumed: usize,
    /// Body bytes within the input (before `consumed`); may be empty.
    pub data: Range<usize>,
    /// The checked trailer lines within the input, each with its CRLF, without the ending empty line; empty
    /// unless `state` is `Done`.
    pub trailers: Range<usize>,
    /// Whether the body has ended.
    pub state: BodyState,
}

/// Whether a body has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyState {
    /// Call again with the rest of the input, if there is one and something was consumed; else with more input.
    More,
    /// The body is whole; what follows `consumed` belongs to the next message.
    Done,
}

impl BodyReader {
    /// A reader for a request's body of at most `limit` bytes (`u64::MAX`: any).
    ///
    /// # Errors
    /// 413 if the stated length is over the limit already.
    pub fn request(kind: BodyKind, limit: u64) -> Result<Self, Refusal> {
        if let BodyKind::Length(length) = kind
            && length > limit
        {
            return Err(Refusal::new(413, "the body is larger than allowed here"));
        }
        Ok(Self { side: Side::Request, kind, limit_left: limit })
    }

    /// A reader for a response's body.
    #[must_use]
    pub const fn response(kind: BodyKind) -> Self {
        Self { side: Side::Response, kind, limit_left: u64::MAX }
    }

    /// Looks at the next bytes of the stream.
    ///
    /// Finds at most one run of body bytes a call. `consumed == 0` with `More` means: more input is needed, and
    /// what was given must be kept in front of it.
    ///
    /// # Errors
    /// 400, 413 or 431 for requests, 502 for responses.
    pub fn next(&mut self, input: &[u8]) -> Result<Step, Refusal> {
        let _ = (input, self.side, self.limit_left, self.kind);
        Err(Refusal::bad("the body reader is not here yet"))
    }

    /// The peer closed its side. Fine (`Ok`) only where that is how the body ends, or it has ended already.
    ///
    /// # Errors
    /// The body is cut short: 400 or 502.
    pub fn end_of_input(&mut self) -> Result<(), Refusal> {
        Ok(())
    }

    /// True once the body has ended.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.kind.is_empty()
    }

    /// Bytes that are certainly still to come, where a length was stated: lets a caller splice or copy them
    /// without looking; tell the reader with [`BodyReader::skip`].
    #[must_use]
    pub const fn remaining_length(&self) -> Option<u64> {
        if let BodyKind::Length(left) = self.kind { Some(left) } else { None }
    }

    /// `count` body bytes went by without being shown, at most [`BodyReader::remaining_length`].
    pub fn skip(&mut self, count: u64) {
        if let BodyKind::Length(left) = &mut self.kind {
            *left = left.saturating_sub(count);
        }
    }
}
