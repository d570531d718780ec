//! The values that decide where a message ends and whether its connection goes on: `Content-Length`,
//! `Transfer-Encoding`, `Connection`.

use crate::header::{is_token, list_members, value_is};
use crate::limits::{MAX_CONNECTION_OPTIONS, MAX_LENGTH_BYTES, MAX_LENGTH_DIGITS};
use crate::refusal::Refusal;

/// `Content-Length = 1*DIGIT` (RFC 9110 §8.6): no sign, no list, no other base, at most 19 digits.
pub(crate) fn parse_content_length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() {
        return Err(Refusal::bad("Content-Length is empty"));
    }
    if let Some(bad) = value.iter().find(|byte| !byte.is_ascii_digit()) {
        return Err(Refusal::bad(match bad {
            b',' => "Content-Length is a list",
            _ => "Content-Length is not a decimal number",
        }));
    }
    if value.len() > MAX_LENGTH_DIGITS {
        return Err(TOO_LONG_A_NUMBER);
    }
    // 19 digits fit: 10^19 - 1 < 2^64.
    let length = value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0'));
    if length > MAX_LENGTH_BYTES { Err(TOO_LONG_A_NUMBER) } else { Ok(length) }
}

const TOO_LONG_A_NUMBER: Refusal = Refusal::bad("Content-Length is too long a number");

/// `Transfer-Encoding` must be `chunked` and nothing else (RFC 9112 §6.1, §7).
///
/// Other registered codings would have to be undone to forward the body, which nobody asks of a proxy: 501 where
/// the message would be well formed, 400 where its length could not be known.
pub(crate) fn check_transfer_encoding(value: &[u8]) -> Result<(), Refusal> {
    if value_is(value, b"chunked") {
        return Ok(());
    }
    if value.is_empty() {
        return Err(Refusal::bad("Transfer-Encoding is empty"));
    }
    let members = || value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    if !members().all(is_token) {
        return Err(Refusal::bad("Transfer-Encoding is malformed"));
    }
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    if members().filter(|coding| is_chunked(coding)).count() > 1 {
        return Err(Refusal::bad("the chunked coding is applied twice"));
    }
    if members().next_back().is_some_and(is_chunked) {
        return Err(Refusal::new(501, "the only transfer coding taken here is chunked"));
    }
    Err(Refusal::bad("the last transfer coding is not chunked"))
}

/// The options of all `Connection` headers of a message (RFC 9110 §7.6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
    others: bool,
    count: usize,
}

impl Options {
    /// Adds the options of one header.
    pub(crate) fn read(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if value_is(value, b"keep-alive") {
            self.keep_alive = true;
            return Ok(());
        }
        for option in list_members(value) {
            self.count += 1;
            if self.count > MAX_CONNECTION_OPTIONS {
                return Err(Refusal::bad("too many options in Connection"));
            }
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if is_token(option) {
                self.others = true;
            } else {
                return Err(Refusal::bad("Connection is malformed"));
            }
        }
        Ok(())
    }

    /// True if some option may name a header.
    pub(crate) const fn names_others(self) -> bool {
        self.others
    }
}

/// Headers that `Connection` may not take away: they concern the recipient of the message, so naming them is a
/// fault or an attempt to hide them from it (RFC 9110 §7.6.1 forbids senders to do it).
#[cold]
pub(crate) fn is_end_to_end(name: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 6] =
        [b"content-", b"x-forwarded-", b"sec-", b"access-control-", b"if-", b"accept"];
    const NAMES: [&[u8]; 17] = [
        b"host",
        b"date",
        b"forwarded",
        b"via",
        b"x-real-ip",
        b"cache-control",
        b"authorization",
        b"www-authenticate",
        b"cookie",
        b"set-cookie",
        b"expect",
        b"origin",
        b"range",
        b"etag",
        b"location",
        b"vary",
        b"expires",
    ];
    PREFIXES
        .iter()
        .any(|prefix| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
        || NAMES.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_taken_up_to_the_largest_and_no_further() {
        assert_eq!(parse_content_length(b"0"), Ok(0));
        assert_eq!(parse_content_length(b"0000000000000000005"), Ok(5));
        assert_eq!(parse_content_length(b"9223372036854775807"), Ok(MAX_LENGTH_BYTES));
        assert_eq!(parse_content_length(b"9223372036854775808"), Err(TOO_LONG_A_NUMBER));
        assert_eq!(parse_content_length(b"9999999999999999999"), Err(TOO_LONG_A_NUMBER));
        assert_eq!(parse_content_length(b"00000000000000000005"), Err(TOO_LONG_A_NUMBER));
    }
}
