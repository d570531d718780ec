//! What the tests of the codec share: reading whole messages through the public API.
#![allow(dead_code)]

use handover_http1::*;

pub(crate) mod differential;

/// A whole message, as a recipient understood it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) start: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<u8>,
    /// Bytes of the message.
    pub(crate) len: usize,
}

/// What came of reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Whole(Message),
    Refused(Refusal),
    Unfinished,
}

pub(crate) const LIMITS: HeadLimits = HeadLimits::DEFAULT;

fn list(headers: &[Header<'_>]) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|header| (header.name.to_owned(), header.value.to_owned())).collect()
}

/// Reads a request whole, from one buffer.
pub(crate) fn read_request(bytes: &[u8]) -> Read {
    read_request_within(bytes, &LIMITS, u64::MAX)
}

pub(crate) fn read_request_within(bytes: &[u8], limits: &HeadLimits, body_limit: u64) -> Read {
    let mut storage = HeaderStorage::new();
    let head = match parse_request_head(bytes, limits, &mut storage) {
        Ok(Parsed::Complete(head)) => head,
        Ok(Parsed::Partial) => return Read::Unfinished,
        Err(refusal) => return Read::Refused(refusal),
    };
    let start = format!("{} {} {:?}", head.method, head.target, head.version);
    match BodyReader::request(head.body, body_limit) {
        Ok(body) => read_body(start, list(head.headers), body, bytes, head.len),
        Err(refusal) => Read::Refused(refusal),
    }
}

/// Reads a response whole, from one buffer that ends where the connection does.
pub(crate) fn read_response(bytes: &[u8], asked: Asked) -> Read {
    let mut storage = HeaderStorage::new();
    let head = match parse_response_head(bytes, asked, &LIMITS, &mut storage) {
        Ok(Parsed::Complete(head)) => head,
        Ok(Parsed::Partial) => return Read::Unfinished,
        Err(refusal) => return Read::Refused(refusal),
    };
    let start = format!("{} {} {:?}", head.status, head.reason, head.version);
    read_body(start, list(head.headers), BodyReader::response(head.body), bytes, head.len)
}

fn read_body(
    start: String,
    headers: Vec<(String, Vec<u8>)>,
    mut reader: BodyReader,
    bytes: &[u8],
    head_len: usize,
) -> Read {
    let mut message = Message { start, headers, body: Vec::new(), trailers: Vec::new(), len: head_len };
    loop {
        let input = &bytes[message.len..];
        let step = match reader.next(input) {
            Ok(step) => step,
            Err(refusal) => return Read::Refused(refusal),
        };
        message.body.extend_from_slice(&input[step.data.clone()]);
        message.trailers.extend_from_slice(&input[step.trailers.clone()]);
        message.len += step.consumed;
        match step.state {
            BodyState::Done => return Read::Whole(message),
            BodyState::More if step.consumed == 0 || message.len == bytes.len() => {
                let until_close = reader.end_of_input().is_ok();
                return if until_close { Read::Whole(message) } else { Read::Unfinished };
            }
            BodyState::More => {}
        }
    }
}

/// The value of the only header of this name.
pub(crate) fn only<'a>(headers: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a [u8]> {
    let mut found = headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
    let first = found.next();
    assert!(found.next().is_none(), "{name} stands there twice");
    first.map(|(_, value)| value.as_slice())
}
