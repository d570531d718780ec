//! Trailer sections (RFC 9112 §7.1.2, RFC 9110 §6.5): bounded, checked as strictly as heads, and without any field
//! that would have had to be known before the body.

use crate::diagnose;
use crate::header::{Known, check_line, classify};
use crate::limits::{MAX_TRAILER_BYTES, MAX_TRAILERS};
use crate::refusal::Refusal;

/// What stands after the last chunk.
pub(crate) enum Section {
    /// It does not end here.
    Partial,
    /// The lines take `lines` bytes; with the empty line, `len`.
    Complete { len: usize, lines: usize },
}

const TOO_LARGE: Refusal = Refusal::new(431, "the trailer section is too large");

/// Reads the section at the start of `input`; wants it whole.
pub(crate) fn read_section(input: &[u8]) -> Result<Section, Refusal> {
    match input {
        [b'\r', b'\n', ..] => return Ok(Section::Complete { len: 2, lines: 0 }),
        [] | [b'\r'] => return Ok(Section::Partial),
        _ => {}
    }
    let within = input.get(..MAX_TRAILER_BYTES).unwrap_or(input);
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    let (len, fields) = match httparse::parse_headers(within, &mut fields) {
        Ok(httparse::Status::Complete(found)) => found,
        Ok(httparse::Status::Partial) if input.len() >= MAX_TRAILER_BYTES => return Err(TOO_LARGE),
        Ok(httparse::Status::Partial) => return Ok(Section::Partial),
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
        Err(error) => return Err(diagnose::trailers(within, error)),
    };
    let section = within.get(..len).unwrap_or(within);
    if !section.ends_with(b"\r\n") {
        return Err(Refusal::bad("a trailer line ends in a bare LF"));
    }
    for field in fields {
        check_line(section, field)?;
        if is_forbidden(field.name.as_bytes()) {
            return Err(Refusal::bad("a trailer field that belongs into the head"));
        }
    }
    Ok(Section::Complete { len, lines: section.len().saturating_sub(2) })
}

/// RFC 9110 §6.5.1: fields for framing, routing, modifying the request, authentication, or reading the content.
fn is_forbidden(name: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 4] = [b"content-", b"x-forwarded-", b"if-", b"proxy-"];
    const NAMES: [&[u8]; 21] = [
        b"age",
        b"authorization",
        b"cache-control",
        b"connection",
        b"cookie",
        b"expect",
        b"expires",
        b"forwarded",
        b"host",
        b"keep-alive",
        b"location",
        b"max-forwards",
        b"pragma",
        b"range",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"vary",
        b"www-authenticate",
    ];
    classify(name) != Known::Other
        || PREFIXES
            .iter()
            .any(|prefix| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
        || NAMES.iter().any(|forbidden| forbidden.eq_ignore_ascii_case(name))
}
