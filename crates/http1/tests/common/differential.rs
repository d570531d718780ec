//! Checks that hold for any bytes whatever; the property tests and the fuzz targets run the same ones.
//!
//! The rewriting is compared with a second, slow and simple notion of it that shares no code with the codec.
#![allow(dead_code)]

use handover_http1::*;

const LIMITS: HeadLimits = HeadLimits::DEFAULT;
/// What is forwarded may be a little larger than what came.
const LIMITS_AFTER: HeadLimits = HeadLimits { head_bytes: 64 * 1024, headers: 128, target_bytes: 64 * 1024 };

type Headers = Vec<(String, Vec<u8>)>;

fn list(headers: &[Header<'_>]) -> Headers {
    headers.iter().map(|header| (header.name.to_ascii_lowercase(), header.value.to_owned())).collect()
}

fn members(value: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(value).to_ascii_lowercase();
    text.split(',').map(|member| member.trim().to_owned()).filter(|member| !member.is_empty()).collect()
}

const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];
const HOP_BY_HOP: [&str; 4] = ["connection", "keep-alive", "proxy-connection", "upgrade"];
/// Those that `Connection` may name among the headers that the fuzzers' dictionaries know.
const NAMEABLE: [&str; 8] = ["x", "y", "x-a", "x-b", "x-hop", "foo", "bar", "http2-settings"];

/// What must come out on the other side, in order.
fn expected(headers: &Headers, also_dropped: &[&str]) -> Headers {
    let named: Vec<String> = headers
        .iter()
        .filter(|(name, _)| name == "connection")
        .flat_map(|(_, value)| members(value))
        .collect();
    headers
        .iter()
        .filter(|(name, _)| {
            let stays_behind = FRAMING.contains(&&**name)
                || HOP_BY_HOP.contains(&&**name)
                || also_dropped.contains(&&**name)
                || (named.contains(name) && NAMEABLE.contains(&&**name));
            !stays_behind
        })
        .cloned()
        .collect()
}

/// The same view of what came out. Headers that `Connection` named and that are neither surely droppable nor surely
/// kept are left out of the comparison on both sides.
fn without(headers: Headers, names: &[&str], unsure: &[String]) -> Headers {
    headers
        .into_iter()
        .filter(|(name, _)| {
            !names.contains(&&**name) && (!unsure.contains(name) || NAMEABLE.contains(&&**name))
        })
        .collect()
}

fn named_by_connection(headers: &Headers) -> Vec<String> {
    headers.iter().filter(|(name, _)| name == "connection").flat_map(|(_, value)| members(value)).collect()
}

/// Lines end in CR LF and nothing else, and nothing but the end is empty.
fn assert_clean_lines(head: &[u8]) {
    assert!(head.ends_with(b"\r\n\r\n"));
    for (at, byte) in head.iter().enumerate() {
        match byte {
            b'\n' => assert!(at > 0 && head[at - 1] == b'\r', "a bare LF was written"),
            b'\r' => assert_eq!(head.get(at + 1), Some(&b'\n'), "a bare CR was written"),
            _ => assert!(*byte == b'\t' || *byte >= b' ' && *byte != 0x7f, "a control character was written"),
        }
    }
    assert!(!head[..head.len() - 4].windows(4).any(|window| window == b"\r\n\r\n"), "the head ends twice");
}

fn forward(head: &RequestHead<'_, '_>, rules: &RequestRules, close: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let client = ClientLabel::new(Some([192, 0, 2, 1].into()), false);
    write_request_head(&mut out, head, rules, &client, close);
    out
}

/// If `bytes` begin with an acceptable request head, what is forwarded for it must be the same message: to a second
/// reader as strict as the first, and in the eyes of the slow notion above.
pub(crate) fn check_request_head(bytes: &[u8]) {
    let mut storage = HeaderStorage::new();
    let Ok(Parsed::Complete(head)) = parse_request_head(bytes, &LIMITS, &mut storage) else { return };
    assert!(head.len <= bytes.len());
    let plain = RequestRules { omit_x_forwarded: true, omit_forwarded: true, ..RequestRules::default() };
    for (rules, close) in
        [(&plain, false), (&plain, true), (&RequestRules::default(), false), (&replacing(), true)]
    {
        let out = forward(&head, rules, close);
        assert_clean_lines(&out);
        let mut storage = HeaderStorage::new();
        let again = match parse_request_head(&out, &LIMITS_AFTER, &mut storage) {
            Ok(Parsed::Complete(again)) => again,
            Err(Refusal { reason: "the host is empty", .. }) if head.host.is_none() => continue,
            other => panic!("what is forwarded is not taken: {other:?}\n{}", out.escape_ascii()),
        };
        assert_eq!(again.len, out.len());
        assert_eq!((again.method, again.path, again.query), (head.method, head.path, head.query));
        assert_eq!(again.host, head.host);
        assert_eq!(again.body, head.body);
        assert_eq!((again.upgrade, again.expect_continue), (head.upgrade, head.expect_continue));
        assert_eq!(again.accepts_trailers, head.accepts_trailers);
        assert_eq!(again.keep_alive, !close || head.upgrade.is_some());
        compare_request_headers(&head, &again, rules);
        if rules.omit_forwarded {
            assert_eq!(forward(&again, rules, close), out, "forwarding once more changes nothing");
        }
    }
}

fn replacing() -> RequestRules {
    RequestRules { client_sent: ClientSent::Replace, ..RequestRules::default() }
}

const FORWARDING: [&str; 4] = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"];

fn compare_request_headers(head: &RequestHead<'_, '_>, again: &RequestHead<'_, '_>, rules: &RequestRules) {
    let sent = list(head.headers);
    let mut dropped = vec!["te", "http2-settings", "host"];
    if !rules.omit_forwarded {
        dropped.extend(FORWARDING);
    }
    if !head.expect_continue {
        dropped.push("expect");
    }
    if head.body != BodyKind::Chunked {
        dropped.push("trailer");
    }
    let unsure = named_by_connection(&sent);
    let came = without(list(again.headers), &[&FRAMING[..], &HOP_BY_HOP, &dropped].concat(), &unsure);
    assert_eq!(came, without(expected(&sent, &dropped), &[], &unsure));
    if !rules.omit_forwarded {
        let value = again.header("x-forwarded-for").unwrap_or_default();
        assert!(value.ends_with(b"192.0.2.1"), "the client's address is the last one");
        let forwarded = again.header("forwarded").unwrap_or_default();
        assert!(forwarded.ends_with(b";proto=http"));
    }
}

/// The same for responses, to clients of both versions.
pub(crate) fn check_response_head(bytes: &[u8], asked: Asked) {
    let mut storage = HeaderStorage::new();
    let Ok(Parsed::Complete(head)) = parse_response_head(bytes, asked, &LIMITS, &mut storage) else { return };
    let date = DateText::new(std::time::SystemTime::UNIX_EPOCH);
    for (version, keep_alive) in
        [(Version::Http11, true), (Version::Http11, false), (Version::Http10, true), (Version::Http10, false)]
    {
        let to = ToClient { version, keep_alive };
        let mut out = Vec::new();
        let outgoing = write_response_head(&mut out, &head, &HeaderRules::default(), to, &date);
        assert_clean_lines(&out);
        let mut storage = HeaderStorage::new();
        let Ok(Parsed::Complete(again)) = parse_response_head(&out, asked, &LIMITS_AFTER, &mut storage)
        else {
            panic!("what is forwarded is not taken:\n{}", out.escape_ascii());
        };
        assert_eq!(again.len, out.len());
        assert_eq!(again.status, head.status);
        assert_eq!(again.body, outgoing.body, "the client sees the framing that is going to be used");
        if !head.is_interim() && !head.is_upgrade() {
            assert_eq!(again.keep_alive, outgoing.keep_alive);
            assert!(!outgoing.keep_alive || keep_alive);
            assert!(again.header("date").is_some());
        }
        if head.body == BodyKind::None && head.status >= 200 && head.status != 204 {
            assert_eq!(again.content_length, head.content_length);
        }
        let sent = list(head.headers);
        let unsure = named_by_connection(&sent);
        let mut dropped = Vec::new();
        if outgoing.body != BodyKind::Chunked {
            dropped.push("trailer");
        }
        let came = list(again.headers);
        let had_date = sent.iter().any(|(name, _)| name == "date");
        let mut came = without(came, &[&FRAMING[..], &HOP_BY_HOP, &dropped].concat(), &unsure);
        if !had_date {
            came.retain(|(name, _)| name != "date");
        }
        assert_eq!(came, without(expected(&sent, &dropped), &[], &unsure));
    }
}

/// What became of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Whole { data: Vec<u8>, trailers: Vec<u8>, len: usize },
    Refused(Refusal),
    Unfinished { data: Vec<u8> },
}

/// Reads a body that arrives in pieces, as a connection would: what is not consumed stays in front of the next piece.
pub(crate) fn read_pieces<'a>(mut reader: BodyReader, pieces: impl Iterator<Item = &'a [u8]>) -> Body {
    let (mut data, mut trailers, mut len) = (Vec::new(), Vec::new(), 0);
    let mut buffer = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let step = match reader.next(&buffer) {
                Ok(step) => step,
                Err(refusal) => return Body::Refused(refusal),
            };
            assert!(step.consumed <= buffer.len());
            assert!(step.data.end <= step.consumed && step.trailers.end <= step.consumed);
            data.extend_from_slice(&buffer[step.data.clone()]);
            trailers.extend_from_slice(&buffer[step.trailers.clone()]);
            len += step.consumed;
            buffer.drain(..step.consumed);
            if step.state == BodyState::Done {
                assert!(reader.is_done());
                return Body::Whole { data, trailers, len };
            }
            assert!(buffer.len() <= limits::MAX_TRAILER_BYTES || step.consumed > 0, "too much is kept back");
            if step.consumed == 0 || buffer.is_empty() {
                break;
            }
        }
    }
    Body::Unfinished { data }
}

/// Cuts `bytes` at these places.
pub(crate) fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let mut pieces = Vec::new();
    let mut from = 0;
    for cut in cuts {
        pieces.push(&bytes[from..cut]);
        from = cut;
    }
    pieces.push(&bytes[from..]);
    pieces
}

/// A chunked body reads the same however it is cut; and encoded again it is the same body.
pub(crate) fn check_chunked(bytes: &[u8], cuts: &[usize], limit: u64) {
    let Ok(reader) = BodyReader::request(BodyKind::Chunked, limit) else { return };
    let whole = read_pieces(reader, std::iter::once(bytes));
    let cut = read_pieces(reader, cut(bytes, cuts).into_iter());
    let one_by_one = read_pieces(reader, bytes.chunks(1));
    for other in [&cut, &one_by_one] {
        match (&whole, other) {
            // Where a head's worth of lines is at fault twice, the first fault seen depends on the cuts.
            (Body::Refused(_), Body::Refused(_)) => {}
            _ => assert_eq!(&whole, other),
        }
    }
    let Body::Whole { data, trailers, .. } = &whole else { return };
    let mut encoded = Vec::new();
    for piece in data.chunks(7.max(cuts.len())) {
        write_chunk_header(&mut encoded, piece.len());
        encoded.extend_from_slice(piece);
        encoded.extend_from_slice(CHUNK_END);
    }
    write_last_chunk(&mut encoded, trailers);
    let len = encoded.len();
    encoded.extend_from_slice(b"GET / HTTP/1.1\r\n");
    let again = read_pieces(reader, std::iter::once(&encoded[..]));
    assert_eq!(again, Body::Whole { data: data.clone(), trailers: trailers.clone(), len });
}

/// A head is found at the same place however its bytes arrive, and looked for only where that can change the verdict.
pub(crate) fn check_head_arrival(bytes: &[u8], cuts: &[usize]) {
    let whole = {
        let mut storage = HeaderStorage::new();
        parse_request_head(bytes, &LIMITS, &mut storage).map(|parsed| match parsed {
            Parsed::Complete(head) => Some(head.len),
            Parsed::Partial => None,
        })
    };
    let mut buffer: Vec<u8> = Vec::new();
    let mut seen = 0;
    for piece in cut(bytes, cuts) {
        buffer.extend_from_slice(piece);
        if buffer.is_empty() || !LIMITS.worth_parsing(&buffer, seen) {
            continue;
        }
        seen = buffer.len();
        let mut storage = HeaderStorage::new();
        match parse_request_head(&buffer, &LIMITS, &mut storage) {
            Ok(Parsed::Partial) => {}
            Ok(Parsed::Complete(head)) => return assert_eq!(whole, Ok(Some(head.len))),
            Err(_) => return assert!(whole.is_err(), "refused in pieces, taken whole"),
        }
    }
    assert!(!matches!(whole, Ok(Some(_))), "taken whole, not found in pieces");
}
