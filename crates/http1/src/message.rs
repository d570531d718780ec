//! What requests and responses have in common: version, framing, and when a head is worth parsing.

use crate::limits::HeadLimits;

/// The outcome of looking for a head in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// The head is whole.
    Complete(T),
    /// Nothing wrong so far, but the head does not end within the buffer.
    Partial,
}

/// The two versions that are spoken; others are refused with 505 (or 502).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

impl Version {
    /// From the minor version that httparse reports.
    pub(crate) const fn from_minor(minor: Option<u8>) -> Self {
        match minor {
            Some(1) => Self::Http11,
            _ => Self::Http10,
        }
    }
}

/// How a message's body is delimited (RFC 9112 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// No body, and no length was stated.
    None,
    /// Exactly this many bytes (0 if `Content-Length: 0` was sent).
    Length(u64),
    /// The chunked coding.
    Chunked,
    /// Until the peer closes its side; responses only.
    UntilClose,
}

impl BodyKind {
    /// True if no byte of body follows the head.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }
}

impl HeadLimits {
    /// Is it worth parsing a head that was `Partial` when the buffer held `seen` bytes?
    ///
    /// A head is parsed from its beginning each time, so a peer that sends it byte by byte could make that cost
    /// grow with the square of its length. Only an empty line, or a buffer over the limit, can change the
    /// verdict from `Partial`; both are found here by looking at the new bytes only. Always true for `seen == 0`,
    /// so that garbage is refused at first sight.
    #[must_use]
    pub fn worth_parsing(&self, buf: &[u8], seen: usize) -> bool {
        if seen == 0 || buf.len() >= self.head_bytes {
            return true;
        }
        // The empty line may have begun in what was seen: LF, or LF CR.
        let new = buf.get(seen.saturating_sub(2)..).unwrap_or_default();
        memchr::memchr_iter(b'\n', new)
            .any(|at| matches!(new.get(at + 1..), Some([b'\n', ..] | [b'\r', b'\n', ..])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_line_is_noticed_wherever_the_reads_split_it() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for seen in 1..head.len() {
            for end in seen..head.len() {
                assert!(!HeadLimits::DEFAULT.worth_parsing(&head[..end], seen), "{seen}..{end}");
            }
            assert!(HeadLimits::DEFAULT.worth_parsing(head, seen), "{seen}");
        }
    }

    #[test]
    fn a_buffer_over_the_limit_is_parsed_so_that_it_is_refused() {
        let limits = HeadLimits { head_bytes: 8, ..HeadLimits::DEFAULT };
        assert!(!limits.worth_parsing(b"GET /aa", 3));
        assert!(limits.worth_parsing(b"GET /aaa", 3));
    }
}
