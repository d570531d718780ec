//! The `Date` header's text, made once a second instead of once a response.

use std::time::SystemTime;

/// An HTTP date, `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateText([u8; Self::LEN]);

impl DateText {
    /// Bytes of the text.
    pub const LEN: usize = 29;

    /// The text for this moment.
    #[must_use]
    pub fn new(now: SystemTime) -> Self {
        let mut text = [b' '; Self::LEN];
        let mut rest = &mut text[..];
        // The text always has 29 bytes; a shorter one would leave spaces, which is still a valid value.
        let _ = std::io::Write::write_fmt(&mut rest, format_args!("{}", httpdate::HttpDate::from(now)));
        Self(text)
    }

    /// The text.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
