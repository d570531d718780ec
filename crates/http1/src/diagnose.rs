//! Finds words for what httparse refused. Only refused messages pay for this.

use crate::header::is_token_byte;
use crate::refusal::Refusal;

/// Explains why httparse refused a request.
#[cold]
pub(crate) fn request(raw: &[u8], error: httparse::Error) -> Refusal {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => Refusal::new(431, "too many headers"),
        Error::Version => version(raw),
        Error::Token => request_line(raw),
        Error::NewLine if version_text(raw).len() != "HTTP/1.1".len() => MALFORMED_VERSION,
        Error::NewLine => Refusal::bad("a line of the head does not end in CR LF"),
        Error::HeaderName => header_name(header_lines(raw)),
        Error::HeaderValue => header_value(header_lines(raw)),
        Error::Status => Refusal::bad("malformed request line"),
    }
}

/// Explains why httparse refused a response.
#[cold]
pub(crate) fn response(raw: &[u8], error: httparse::Error) -> Refusal {
    use httparse::Error;
    let refusal = match error {
        Error::TooManyHeaders => Refusal::bad("too many headers in the upstream's response"),
        Error::Version => Refusal::bad("the upstream speaks neither HTTP/1.0 nor HTTP/1.1"),
        Error::Token | Error::Status => Refusal::bad("malformed status line"),
        Error::NewLine => Refusal::bad("a line of the head does not end in CR LF"),
        Error::HeaderName => header_name(header_lines(raw)),
        Error::HeaderValue => header_value(header_lines(raw)),
    };
    refusal.by_upstream()
}

/// Explains why httparse refused a trailer section.
#[cold]
pub(crate) fn trailers(raw: &[u8], error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::HeaderName => header_name(raw.split(|byte| *byte == b'\n')),
        httparse::Error::HeaderValue => header_value(raw.split(|byte| *byte == b'\n')),
        _ => Refusal::bad("a line of the trailer section does not end in CR LF"),
    }
}

fn first_line(raw: &[u8]) -> &[u8] {
    raw.split(|byte| *byte == b'\n').next().unwrap_or_default()
}

const MALFORMED_VERSION: Refusal = Refusal::bad("malformed HTTP version");

/// What stands after the target.
fn version_text(raw: &[u8]) -> &[u8] {
    let line = first_line(raw);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.splitn(3, |byte| *byte == b' ').nth(2).unwrap_or_default()
}

fn version(raw: &[u8]) -> Refusal {
    match version_text(raw) {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Refusal::new(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
        }
        _ => MALFORMED_VERSION,
    }
}

fn request_line(raw: &[u8]) -> Refusal {
    let line = first_line(raw);
    let method = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    if method.is_empty() || !method.iter().all(|byte| is_token_byte(*byte)) {
        return Refusal::bad("malformed method");
    }
    let rest = line.get(method.len() + 1..).unwrap_or_default();
    match rest.iter().find(|byte| **byte <= b' ' || **byte >= 0x7f) {
        None | Some(b'\r') => Refusal::bad("the request line has no HTTP version"),
        Some(b' ') if rest.starts_with(b" ") => Refusal::bad("more than one space in the request line"),
        Some(0x80..) => Refusal::bad("the target has a byte that is not ASCII"),
        _ => Refusal::bad("the target has a control character"),
    }
}

fn header_lines(raw: &[u8]) -> impl Iterator<Item = &[u8]> {
    raw.split(|byte| *byte == b'\n').skip(1)
}

fn header_name<'b>(lines: impl Iterator<Item = &'b [u8]>) -> Refusal {
    for line in lines {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        let Some(bad) = name.iter().find(|byte| !is_token_byte(**byte)) else {
            if name.is_empty() && !line.is_empty() {
                return Refusal::bad("a header has no name");
            }
            continue;
        };
        if line == b"\r" {
            break;
        }
        return match (name.first(), bad) {
            (Some(b' ' | b'\t'), _) => Refusal::bad("a folded header line"),
            (_, b' ' | b'\t') if line.contains(&b':') => Refusal::bad("whitespace in or after a header name"),
            (_, b'\r' | b' ' | b'\t') if name.len() == line.len() => {
                Refusal::bad("a header line without a colon")
            }
            _ => Refusal::bad("a header name has a character that it may not have"),
        };
    }
    Refusal::bad("malformed header name")
}

fn header_value<'b>(lines: impl Iterator<Item = &'b [u8]>) -> Refusal {
    for line in lines {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.iter().find(|byte| (**byte < b' ' && **byte != b'\t') || **byte == 0x7f) {
            Some(0) => return Refusal::bad("a header value has a NUL"),
            Some(b'\r') => return Refusal::bad("a header value has a bare CR"),
            Some(_) => return Refusal::bad("a header value has a control character"),
            None => {}
        }
    }
    Refusal::bad("malformed header value")
}
