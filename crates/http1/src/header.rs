//! Header fields as they stand in the buffer, and which of them the proxy must understand.

use std::mem::MaybeUninit;

use crate::limits::MAX_HEADERS;
use crate::refusal::Refusal;

/// One header line: a name (a token, case as sent) and a value without the whitespace around it.
pub type Header<'b> = httparse::Header<'b>;

/// Room for the header lines of one head, on the caller's stack. Making one costs nothing: it is not zeroed.
#[derive(Debug)]
pub struct HeaderStorage<'b> {
    pub(crate) slots: [MaybeUninit<Header<'b>>; MAX_HEADERS],
}

impl HeaderStorage<'_> {
    /// Room for [`MAX_HEADERS`] headers.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self { slots: [const { MaybeUninit::uninit() }; MAX_HEADERS] }
    }
}

impl Default for HeaderStorage<'_> {
    #[inline]
    fn default() -> Self {
        Self::new()
    }
}

/// The headers that framing, persistence and forwarding depend on. All others only pass through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Other,
    Te,
    Host,
    Date,
    Expect,
    Trailer,
    Upgrade,
    Forwarded,
    Connection,
    KeepAlive,
    ContentLength,
    Http2Settings,
    XForwardedFor,
    XForwardedHost,
    ProxyConnection,
    XForwardedProto,
    TransferEncoding,
    /// One of the above, with `_` where it has `-`: gateways that turn names into variables read it as the real
    /// one, so it could smuggle a length or a client address past us.
    Disguised,
}

/// Does `name`, a token that begins with N bytes, begin with `lower` in any case?
///
/// Setting bit 5 maps letters to lower case; among token characters nothing else collides with a letter, a digit
/// or `-`, so this is exact. (Among all bytes only CR collides with `-`, and no name or value has one.)
#[inline(always)]
fn is<const N: usize>(name: &[u8], lower: &[u8; N]) -> bool {
    name.first_chunk::<N>().is_some_and(|name| {
        let mut difference = 0;
        for (a, b) in name.iter().zip(lower) {
            difference |= (a | 0x20) ^ b;
        }
        difference == 0
    })
}

/// One candidate of its length: the real name, its disguise, or another.
#[inline(always)]
fn known<const N: usize>(name: &[u8], lower: &[u8; N], as_known: Known) -> Known {
    if is(name, lower) {
        return as_known;
    }
    // Only names that begin alike come here, so this is rare.
    let disguised = name
        .iter()
        .zip(lower)
        .all(|(a, b)| if *b == b'-' { matches!(a, b'-' | b'_') } else { a | 0x20 == *b });
    if disguised { Known::Disguised } else { Known::Other }
}

/// Does a value equal `lower` in any case?
#[inline(always)]
pub(crate) fn value_is<const N: usize>(value: &[u8], lower: &[u8; N]) -> bool {
    value.len() == N && is(value, lower)
}

/// Which header a name is: one jump by length and first letter, then at most one comparison.
#[inline]
pub(crate) fn classify(name: &[u8]) -> Known {
    let Some(first) = name.first() else { return Known::Other };
    match (name.len(), first | 0x20) {
        (2, b't') => known(name, b"te", Known::Te),
        (4, b'h') => known(name, b"host", Known::Host),
        (4, b'd') => known(name, b"date", Known::Date),
        (6, b'e') => known(name, b"expect", Known::Expect),
        (7, b't') => known(name, b"trailer", Known::Trailer),
        (7, b'u') => known(name, b"upgrade", Known::Upgrade),
        (9, b'f') => known(name, b"forwarded", Known::Forwarded),
        (10, b'c') => known(name, b"connection", Known::Connection),
        (10, b'k') => known(name, b"keep-alive", Known::KeepAlive),
        (14, b'c') => known(name, b"content-length", Known::ContentLength),
        (14, b'h') => known(name, b"http2-settings", Known::Http2Settings),
        (15, b'x') => known(name, b"x-forwarded-for", Known::XForwardedFor),
        (16, b'x') => known(name, b"x-forwarded-host", Known::XForwardedHost),
        (16, b'p') => known(name, b"proxy-connection", Known::ProxyConnection),
        (17, b'x') => known(name, b"x-forwarded-proto", Known::XForwardedProto),
        (17, b't') => known(name, b"transfer-encoding", Known::TransferEncoding),
        _ => Known::Other,
    }
}

/// Is this byte one of RFC 9110's token characters?
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// A token: at least one token character and nothing else.
pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

/// The members of a comma-separated list (RFC 9110 §5.6.1), trimmed; empty members, which a recipient must
/// accept, are passed over.
pub(crate) fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// Where a part of `raw` begins in it. Both must belong to the same buffer.
#[inline(always)]
pub(crate) fn offset_in(raw: &[u8], part: *const u8) -> usize {
    (part as usize).wrapping_sub(raw.as_ptr() as usize)
}

/// How a header line is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `Name: value CR LF` with exactly one space: can be copied as it stands.
    Plain,
    /// Other whitespace around the value, which is legal: to be written anew.
    Odd,
}

/// Checks what httparse leaves open about a line: that it ends in CR LF and not in a bare LF.
#[inline(always)]
pub(crate) fn check_line(raw: &[u8], header: &Header<'_>) -> Result<Layout, Refusal> {
    let value_at = offset_in(raw, header.value.as_ptr());
    let value_end = value_at + header.value.len();
    if raw.get(value_end) == Some(&b'\r') {
        let name_end = offset_in(raw, header.name.as_ptr()) + header.name.len();
        let plain = value_at == name_end + 2 && raw.get(name_end + 1) == Some(&b' ');
        return Ok(if plain { Layout::Plain } else { Layout::Odd });
    }
    let rest = raw.get(value_end..).unwrap_or_default();
    match rest.iter().find(|byte| !matches!(byte, b' ' | b'\t')) {
        Some(b'\r') => Ok(Layout::Odd),
        _ => Err(BARE_LF),
    }
}

/// RFC 9112 §2.2 lets a recipient take a bare LF for a line end; others do not, so it is refused.
pub(crate) const BARE_LF: Refusal = Refusal::bad("a line of the head ends in a bare LF");

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [(&str, Known); 16] = [
        ("te", Known::Te),
        ("host", Known::Host),
        ("date", Known::Date),
        ("expect", Known::Expect),
        ("trailer", Known::Trailer),
        ("upgrade", Known::Upgrade),
        ("forwarded", Known::Forwarded),
        ("connection", Known::Connection),
        ("keep-alive", Known::KeepAlive),
        ("content-length", Known::ContentLength),
        ("http2-settings", Known::Http2Settings),
        ("x-forwarded-for", Known::XForwardedFor),
        ("x-forwarded-host", Known::XForwardedHost),
        ("proxy-connection", Known::ProxyConnection),
        ("x-forwarded-proto", Known::XForwardedProto),
        ("transfer-encoding", Known::TransferEncoding),
    ];

    #[test]
    fn known_names_are_recognised_in_any_case_and_nothing_else_is() {
        for (name, expected) in NAMES {
            assert_eq!(classify(name.as_bytes()), expected, "{name}");
            assert_eq!(classify(name.to_uppercase().as_bytes()), expected, "{name}");
            for at in 0..name.len() {
                for byte in (0u8..=255).filter(|byte| is_token_byte(*byte)) {
                    let mut other = name.as_bytes().to_vec();
                    let was = other[at];
                    other[at] = byte;
                    let found = classify(&other);
                    if byte.eq_ignore_ascii_case(&was) {
                        assert_eq!(found, expected);
                    } else if was == b'-' && byte == b'_' {
                        assert_eq!(found, Known::Disguised);
                    } else {
                        assert_eq!(found, Known::Other, "{}", String::from_utf8_lossy(&other));
                    }
                }
            }
        }
        for other in ["", "x", "accept", "cookie", "user-agent", "accept-encoding", "if-modified-since"] {
            assert_eq!(classify(other.as_bytes()), Known::Other, "{other}");
        }
    }
}
