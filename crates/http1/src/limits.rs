//! Every bound of the codec, with its unit in its name.

/// The most header lines that any head may have; more are refused with 431 (or 502).
///
/// A hard bound: the classification of a head is one bit per header in a `u128`.
pub const MAX_HEADERS: usize = 128;

/// Digits that a `Content-Length` may have: 19 digits always fit a `u64`.
pub const MAX_LENGTH_DIGITS: usize = 19;

/// The largest `Content-Length` in bytes: what programs that count with a sign understand as well.
pub const MAX_LENGTH_BYTES: u64 = i64::MAX as u64;

/// Hexadecimal digits that a chunk size may have (leading zeros count).
pub const MAX_CHUNK_SIZE_DIGITS: u8 = 15;

/// Bytes of chunk extensions in one chunk header; they are read, checked and dropped.
pub const MAX_CHUNK_EXTENSION_BYTES: u16 = 256;

/// Bytes of chunk extensions in one whole body.
pub const MAX_BODY_EXTENSION_BYTES: u16 = 16 * 1024;

/// Bytes of a trailer section, its ending empty line included. The section must stand in the caller's
/// buffer as a whole, so buffers must be larger than this.
pub const MAX_TRAILER_BYTES: usize = 4 * 1024;

/// Fields of a trailer section.
pub const MAX_TRAILERS: usize = 32;

/// Bytes of a method; the longest registered one has 17 (`UPDATEREDIRECTREF`).
pub const MAX_METHOD_BYTES: usize = 32;

/// Options that all `Connection` headers of one message may name together.
pub const MAX_CONNECTION_OPTIONS: usize = 32;

/// Bytes of `Host` or of an authority: a DNS name has at most 253, a port 6.
pub const MAX_HOST_BYTES: usize = 260;

/// Empty lines before a request line that are passed over (RFC 9112 §2.2 asks for at least one).
pub const MAX_LEADING_EMPTY_LINES: usize = 1;

/// How large a head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the whole head, from its first byte to the empty line that ends it (431; 502 for a response).
    pub head_bytes: usize,
    /// Header lines (431); at most [`MAX_HEADERS`] whatever is said here.
    pub headers: usize,
    /// Bytes of the request target (414).
    pub target_bytes: usize,
}

impl HeadLimits {
    /// What is used when nothing is configured: 16 KiB of head, 100 headers, 8 KiB of target.
    pub const DEFAULT: Self = Self { head_bytes: 16 * 1024, headers: 100, target_bytes: 8 * 1024 };
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
