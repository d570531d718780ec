//! What holds for every message, tried on generated ones: well-formed, nearly well-formed, and arbitrary bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::differential::*;
use common::*;
use handover_http1::*;
use proptest::prelude::*;
use proptest::sample::select;

/// Lines that interact: framing, connection, forwarding, odd whitespace, and some that are wrong.
const LINES: [&str; 52] = [
    "Host: a.example",
    "host:a.example:8080 ",
    "Host: [::1]:80",
    "Content-Length: 5",
    "content-length:\t005",
    "Content-Length: 0",
    "Content-Length: 18446744073709551615",
    "Transfer-Encoding: chunked",
    "transfer-encoding:CHUNKED",
    "Transfer-Encoding: gzip, chunked",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: Upgrade, X-Hop",
    "Connection: x, Y, te",
    "Connection: Host, Content-Length, X-Forwarded-For",
    "Connection: ,",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
    "TE: trailers",
    "TE: gzip, trailers;q=1",
    "Trailer: X-Sum",
    "Upgrade: websocket",
    "Upgrade: h2c",
    "HTTP2-Settings: AAM",
    "Expect: 100-continue",
    "Expect: 100-Continue ",
    "X-Forwarded-For: 1.1.1.1",
    "x-forwarded-for:",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: b",
    "Forwarded: for=1.1.1.1;by=\"x\"",
    "Forwarded: for=\"",
    "X-Hop: 1",
    "X:1",
    "Y:  2\t ",
    "X-A:",
    "X-B: ",
    "Date: Sun, 06 Nov 1994 08:49:37 GMT",
    "User-Agent: x/1 (y; z)",
    "Accept-Encoding: gzip, br",
    "Cookie: a=b; c=d",
    "Vary: Accept",
    "X-Caf\u{e9}-Value: \u{e9}",
    "X-Value: \u{e9}",
    "Content_Length: 5",
    "X-Forwarded_For: 1",
    "X : 1",
    " folded",
    ": empty",
    "no colon",
    "X: a\rb",
    "X: \u{0}",
];

const REQUEST_LINES: [&str; 12] = [
    "GET / HTTP/1.1",
    "POST /a?b HTTP/1.1",
    "HEAD /%2e/../x HTTP/1.1",
    "GET / HTTP/1.0",
    "POST /?? HTTP/1.0",
    "OPTIONS * HTTP/1.1",
    "GET http://a.example/b HTTP/1.1",
    "GET http://a.example:8080?q HTTP/1.0",
    "OPTIONS http://a.example HTTP/1.1",
    "CONNECT a.example:443 HTTP/1.1",
    "GET /a b HTTP/1.1",
    "\r\nPUT /x HTTP/1.1",
];

const STATUS_LINES: [&str; 10] = [
    "HTTP/1.1 200 OK",
    "HTTP/1.0 200 OK",
    "HTTP/1.1 204 No Content",
    "HTTP/1.1 304 Not Modified",
    "HTTP/1.1 404",
    "HTTP/1.1 500 Caf\u{e9}",
    "HTTP/1.1 100 Continue",
    "HTTP/1.1 103 Early Hints",
    "HTTP/1.1 101 Switching Protocols",
    "HTTP/1.1 426 Upgrade Required",
];

/// Mostly CR LF.
fn line_end() -> impl Strategy<Value = &'static str> {
    prop_oneof![60 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r\r\n")]
}

fn head(first: impl Strategy<Value = &'static str>, host: bool) -> impl Strategy<Value = Vec<u8>> {
    let lines = prop::collection::vec((select(&LINES[1..]), line_end()), 0..8);
    (first, line_end(), any::<bool>(), lines, line_end()).prop_map(
        move |(first, end, first_host, lines, last)| {
            let mut head = format!("{first}{end}");
            if host && first_host {
                head += "Host: a.example\r\n";
            }
            for (line, end) in lines {
                head += line;
                head += end;
            }
            head += last;
            head.into_bytes()
        },
    )
}

fn request_head() -> impl Strategy<Value = Vec<u8>> {
    head(select(&REQUEST_LINES[..]), true)
}

fn response_head() -> impl Strategy<Value = Vec<u8>> {
    head(select(&STATUS_LINES[..]), false)
}

/// Lines that a request may have all at once.
fn valid_head() -> impl Strategy<Value = Vec<u8>> {
    let framing =
        select(&["", "Content-Length: 7\r\n", "Transfer-Encoding: chunked\r\n", "content-length:07\r\n"][..]);
    let name = "[a-z][a-zA-Z0-9!#$%&'*+.^`|~-]{0,20}";
    let value = "[ -~\u{e9}\t]{0,30}";
    (select(&REQUEST_LINES[..3]), framing, prop::collection::vec((name, value), 0..20)).prop_map(
        |(first, framing, fields)| {
            let mut head = format!("{first}\r\nHost: a.example\r\n{framing}");
            for (name, value) in fields {
                // Names of ours would need values of theirs.
                head += &format!("z{name}: {value}\r\n");
            }
            (head + "\r\n").into_bytes()
        },
    )
}

fn asked() -> impl Strategy<Value = Asked> {
    (any::<bool>(), any::<bool>()).prop_map(|(head, upgrade)| Asked { head, upgrade })
}

/// Chunked bodies, mostly right.
fn chunked() -> impl Strategy<Value = Vec<u8>> {
    let chunk = prop_oneof![
        20 => prop::collection::vec(any::<u8>(), 1..40).prop_map(|data| {
            let mut out = format!("{:x}\r\n", data.len()).into_bytes();
            out.extend_from_slice(&data);
            out.extend_from_slice(b"\r\n");
            out
        }),
        4 => Just(b"3;a=\"b\";c\r\nabc\r\n".to_vec()),
        2 => Just(b"00a\r\n0123456789\r\n".to_vec()),
        1 => select(vec![&b"3\nabc\r\n"[..], b"3\r\nabc\n", b"3 \r\nabc\r\n", b"-1\r\n", b"3\r\nabcd\r\n", b"1;\n\r\n"])
            .prop_map(<[u8]>::to_vec),
    ];
    let end = prop_oneof![
        8 => Just(&b"0\r\n\r\n"[..]),
        4 => Just(&b"0\r\nX-Sum: 1\r\nServer-Timing:\t x \r\n\r\n"[..]),
        1 => Just(&b"000;x\r\n\r\nGET / HTTP/1.1\r\n"[..]),
        1 => Just(&b"0\r\nContent-Length: 1\r\n\r\n"[..]),
        1 => Just(&b"0\r\nX: 1\n\r\n"[..]),
        1 => Just(&b"0\r\n"[..]),
    ];
    (prop::collection::vec(chunk, 0..6), end).prop_map(|(chunks, end)| [&chunks.concat()[..], end].concat())
}

/// One byte changed, dropped or doubled.
fn damaged(whole: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (whole, any::<prop::sample::Index>(), 0..3, prop_oneof![any::<u8>(), select(&b"\r\n\0 :;,\t"[..])])
        .prop_map(|(mut bytes, at, how, byte)| {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => {
                        bytes.remove(at);
                    }
                }
            }
            bytes
        })
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(any::<usize>(), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_forwarded_is_the_message_that_came(head in request_head(), damaged in damaged(request_head())) {
        check_request_head(&head);
        check_request_head(&damaged);
    }

    #[test]
    fn what_is_sent_back_is_the_response_that_came(
        head in response_head(), damaged in damaged(response_head()), asked in asked()
    ) {
        check_response_head(&head, asked);
        check_response_head(&damaged, asked);
    }

    #[test]
    fn well_formed_requests_are_taken_and_forwarded(head in valid_head(), cuts in cuts()) {
        prop_assert!(matches!(
            parse_request_head(&head, &LIMITS, &mut HeaderStorage::new()),
            Ok(Parsed::Complete(parsed)) if parsed.len == head.len()
        ));
        check_request_head(&head);
        check_head_arrival(&head, &cuts);
    }

    #[test]
    fn heads_are_the_same_however_they_arrive(head in request_head(), damaged in damaged(request_head()), cuts in cuts()) {
        check_head_arrival(&head, &cuts);
        check_head_arrival(&damaged, &cuts);
    }

    #[test]
    fn chunked_bodies_are_the_same_however_they_arrive(
        body in chunked(), damaged in damaged(chunked()), cuts in cuts(), limit in prop_oneof![Just(u64::MAX), 0..100u64]
    ) {
        check_chunked(&body, &cuts, limit);
        check_chunked(&damaged, &cuts, limit);
    }

    #[test]
    fn a_body_of_stated_length_is_the_same_however_it_arrives(
        length in 0..200u64, bytes in prop::collection::vec(any::<u8>(), 0..200), cuts in cuts()
    ) {
        let reader = BodyReader::request(BodyKind::Length(length), u64::MAX).unwrap();
        let whole = usize::try_from(length).unwrap();
        let expected = if bytes.len() >= whole {
            Body::Whole { data: bytes[..whole].to_vec(), trailers: Vec::new(), len: whole }
        } else {
            Body::Unfinished { data: bytes.clone() }
        };
        prop_assert_eq!(read_pieces(reader, cut(&bytes, &cuts).into_iter()), expected);
    }

    #[test]
    fn no_bytes_can_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), asked in asked(), cuts in cuts()) {
        check_request_head(&bytes);
        check_response_head(&bytes, asked);
        check_chunked(&bytes, &cuts, 1000);
        check_head_arrival(&bytes, &cuts);
        let _ = read_request(&[b"GET ", &bytes[..]].concat());
        let _ = read_response(&[b"HTTP/1.1 ", &bytes[..]].concat(), asked);
        let _ = read_request(&[b"GET / HTTP/1.1\r\nHost: ", &bytes[..], b"\r\n\r\n"].concat());
    }
}
