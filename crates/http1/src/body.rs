//! Reading bodies: where they end, and nothing else. No byte is copied.
//!
//! ```text
//!   None, Length(0) ───────────────────────────────▶ Done
//!   Length(n) ── n bytes seen or skipped ──────────▶ Done
//!   UntilClose ─ end_of_input ─────────────────────▶ Done
//!   Chunked ──── see `chunked` ────────────────────▶ Done
//!
//!   ends otherwise:  over the limit → 413 · broken coding → 400 / 502 · trailers too large → 431 / 502
//!                    peer closes before the end → 400 / 502
//! ```

use std::ops::Range;

use crate::chunked::Chunked;
use crate::message::BodyKind;
use crate::refusal::Refusal;

/// Which side a body comes from: decides between 400, 413, 431 and 502.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A client's request.
    Request,
    /// An upstream's response.
    Response,
}

/// Reads one body from the bytes after a head, in pieces of any size. Plain data: it can be stored and moved to
/// another process between any two calls: see [`BodyReader::write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyReader {
    pub(crate) side: Side,
    pub(crate) progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Length { left: u64 },
    Chunked(Chunked),
    UntilClose,
    Done,
}

/// What one call of [`BodyReader::next`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that are dealt with; the rest must be presented again.
    pub consumed: usize,
    /// Body bytes within the input (before `consumed`); may be empty.
    pub data: Range<usize>,
    /// The checked trailer lines within the input, each with its CRLF, without the ending empty line: as
    /// [`crate::write_last_chunk`] takes them. Empty unless `state` is `Done`.
    pub trailers: Range<usize>,
    /// Whether the body has ended.
    pub state: BodyState,
}

impl Step {
    pub(crate) const fn new(consumed: usize, data: Range<usize>, state: BodyState) -> Self {
        Self { consumed, data, trailers: 0..0, state }
    }
}

/// Whether a body has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyState {
    /// Call again with the rest of the input if something was consumed and something is left; else with more.
    More,
    /// The body is whole; what follows `consumed` belongs to the next message.
    Done,
}

impl BodyReader {
    /// A reader for a request's body of at most `limit` bytes (`u64::MAX`: any).
    ///
    /// # Errors
    /// 413 if the stated length is over the limit already.
    #[inline]
    pub fn request(kind: BodyKind, limit: u64) -> Result<Self, Refusal> {
        if let BodyKind::Length(length) = kind
            && length > limit
        {
            return Err(TOO_LARGE);
        }
        Ok(Self::new(Side::Request, kind, limit))
    }

    /// A reader for a response's body, of any size.
    #[inline]
    #[must_use]
    pub const fn response(kind: BodyKind) -> Self {
        Self::new(Side::Response, kind, u64::MAX)
    }

    const fn new(side: Side, kind: BodyKind, limit: u64) -> Self {
        let progress = match kind {
            BodyKind::None | BodyKind::Length(0) => Progress::Done,
            BodyKind::Length(left) => Progress::Length { left },
            BodyKind::Chunked => Progress::Chunked(Chunked::new(limit)),
            BodyKind::UntilClose => Progress::UntilClose,
        };
        Self { side, progress }
    }

    /// Looks at the next bytes of the stream: at most one run of body bytes a call, and the framing around it.
    ///
    /// `More` with `consumed == input.len()` or `consumed == 0` means: more input is needed, and what was not
    /// consumed must be kept in front of it. Only a trailer section is ever kept back like that, at most
    /// [`crate::limits::MAX_TRAILER_BYTES`].
    ///
    /// # Errors
    /// 400, 413 or 431 for requests, 502 for responses. The reader must not be used afterwards.
    #[inline]
    pub fn next(&mut self, input: &[u8]) -> Result<Step, Refusal> {
        match &mut self.progress {
            Progress::Length { left } => {
                let available = input.len();
                let here = usize::try_from(*left).map_or(available, |left| left.min(available));
                *left -= here as u64;
                let state = if *left == 0 { BodyState::Done } else { BodyState::More };
                if state == BodyState::Done {
                    self.progress = Progress::Done;
                }
                Ok(Step::new(here, 0..here, state))
            }
            Progress::Chunked(chunked) => {
                let step = chunked.next(input).map_err(|refusal| self.side.refuse(refusal))?;
                if step.state == BodyState::Done {
                    self.progress = Progress::Done;
                }
                Ok(step)
            }
            Progress::UntilClose => Ok(Step::new(input.len(), 0..input.len(), BodyState::More)),
            Progress::Done => Ok(Step::new(0, 0..0, BodyState::Done)),
        }
    }

    /// The peer closed its side. Fine only where that is how the body ends, or if it has ended already.
    ///
    /// # Errors
    /// The body is cut short: 400 or 502. What was forwarded of it must not look whole: close without the last
    /// chunk.
    pub fn end_of_input(&mut self) -> Result<(), Refusal> {
        match self.progress {
            Progress::Done => Ok(()),
            Progress::UntilClose => {
                self.progress = Progress::Done;
                Ok(())
            }
            Progress::Length { .. } | Progress::Chunked(_) => {
                Err(self.side.refuse(Refusal::bad("the body ends before it is whole")))
            }
        }
    }

    /// True once the body has ended.
    #[inline]
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.progress, Progress::Done)
    }

    /// True while a body in the chunked coding is read.
    #[inline]
    #[must_use]
    pub const fn is_chunked(&self) -> bool {
        matches!(self.progress, Progress::Chunked(_))
    }

    /// The side from which the body comes.
    #[inline]
    #[must_use]
    pub const fn side(&self) -> Side {
        self.side
    }

    /// Bytes still to come, where a length was stated: lets a caller splice them, or copy them without looking.
    /// Tell the reader with [`BodyReader::skip`].
    #[inline]
    #[must_use]
    pub const fn remaining_length(&self) -> Option<u64> {
        if let Progress::Length { left } = self.progress { Some(left) } else { None }
    }

    /// `count` body bytes went by without being shown, at most [`BodyReader::remaining_length`].
    #[inline]
    pub fn skip(&mut self, count: u64) {
        if let Progress::Length { left } = &mut self.progress {
            debug_assert!(count <= *left, "more bytes went by than the body has");
            *left = left.saturating_sub(count);
            if *left == 0 {
                self.progress = Progress::Done;
            }
        }
    }
}

impl Side {
    const fn refuse(self, refusal: Refusal) -> Refusal {
        match self {
            Self::Request => refusal,
            Self::Response => refusal.by_upstream(),
        }
    }
}

/// The body's limit is reached.
pub(crate) const TOO_LARGE: Refusal = Refusal::new(413, "the body is larger than allowed here");
