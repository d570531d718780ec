//! Messages that look odd and are right: each is taken, and understood as the grammar says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use handover_http1::*;

/// (what is odd, bytes, body)
type Case = (&'static str, &'static [u8], &'static [u8]);

#[rustfmt::skip]
const REQUESTS: &[Case] = &[
    ("one empty line first", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ("no space after the colon", b"GET / HTTP/1.1\r\nHost:a\r\n\r\n", b""),
    ("whitespace around the value", b"GET / HTTP/1.1\r\nHost: \t a \t \r\n\r\n", b""),
    ("whitespace around the length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\t 5 \r\n\r\nhello", b"hello"),
    ("names in any case", b"POST / HTTP/1.1\r\nhOST: a\r\ncONTENT-lENGTH: 5\r\n\r\nhello", b"hello"),
    ("length with leading zeros", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 005\r\n\r\nhello", b"hello"),
    ("length of zero", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", b""),
    ("no length on POST", b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ("body on GET", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    ("coding in any case", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: cHuNkEd\r\n\r\n1\r\nx\r\n0\r\n\r\n", b"x"),
    ("chunked GET", b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
    ("chunk size with leading zeros and capitals",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n000A\r\n0123456789\r\n00\r\n\r\n", b"0123456789"),
    ("chunk extensions",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a;b=\"c;d\" ; e=f\r\nx\r\n0;z\r\n\r\n", b"x"),
    ("trailers",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n", b"x"),
    ("chunk data that looks like framing",
     b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    ("header without a value", b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\nY: \r\n\r\n", b""),
    ("every token character in a name", b"GET / HTTP/1.1\r\nHost: a\r\n!#$%&'*+-.^_`|~09azAZ: 1\r\n\r\n", b""),
    ("underscore in an ordinary name", b"GET / HTTP/1.1\r\nHost: a\r\nX_Request_Id: 1\r\n\r\n", b""),
    ("UTF-8 and Latin-1 in values", b"GET / HTTP/1.1\r\nHost: a\r\nX: \xc3\xa9 \xe9\tz\r\n\r\n", b""),
    ("colons and commas in values", b"GET / HTTP/1.1\r\nHost: a\r\nX: ::, ,:;\r\n\r\n", b""),
    ("unknown method", b"BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ("method in lower case", b"get / HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ("method with a hyphen", b"M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ("OPTIONS *", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ("absolute target", b"GET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ("absolute target, cases and default port", b"GET HTTP://A.Example:80/b HTTP/1.1\r\nHost: a.eXample\r\n\r\n", b""),
    ("absolute target without a path", b"GET http://a HTTP/1.1\r\nHost: a:80\r\n\r\n", b""),
    ("absolute target with a query alone", b"GET http://a?b HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ("slash in the query of an absolute target", b"GET http://a?b/c://d@e HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ("absolute https target", b"GET https://a/ HTTP/1.1\r\nHost: a:443\r\n\r\n", b""),
    ("double slash", b"GET //b/../c HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ("dots and escapes in the path", b"GET /../%2e%2e/%00/%zz/%;x HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ("characters that browsers leave in paths", b"GET /a[0]|{b}^`'()*!$&+,;=:@~ HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ("characters that people leave in queries", b"GET /?q={\"a\":[1]}&b=<c>\\?d?e HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ("empty query", b"GET /? HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ("IPv4 host", b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n", b""),
    ("IPv6 host", b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n\r\n", b""),
    ("IPv6 host without a port", b"GET / HTTP/1.1\r\nHost: [::ffff:1.2.3.4]\r\n\r\n", b""),
    ("host with an empty port", b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", b""),
    ("host with underscores, hyphens and a last dot", b"GET / HTTP/1.1\r\nHost: _a-b.c_d.example.:1\r\n\r\n", b""),
    ("HTTP/1.0 without Host", b"GET / HTTP/1.0\r\n\r\n", b""),
    ("HTTP/1.0 with an absolute target", b"GET http://a/ HTTP/1.0\r\n\r\n", b""),
    ("HTTP/1.0 with a body", b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    ("odd lists in Connection", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: , ,Keep-Alive ,,x\r\nConnection:\r\n\r\n", b""),
    ("Expect in capitals", b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-CONTINUE\r\nContent-Length: 1\r\n\r\nx", b"x"),
];

#[rustfmt::skip]
const RESPONSES: &[Case] = &[
    ("no reason", b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    ("empty reason", b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    ("reason with many words", b"HTTP/1.1 200 It is all right, really!\r\nContent-Length: 0\r\n\r\n", b""),
    ("reason that is not ASCII", b"HTTP/1.1 200 C'est r\xe9gl\xe9\r\nContent-Length: 0\r\n\r\n", b""),
    ("status of no class", b"HTTP/1.1 999 Request denied\r\nContent-Length: 0\r\n\r\n", b""),
    ("no header at all", b"HTTP/1.1 200 OK\r\n\r\nhello", b"hello"),
    ("until close", b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\nhello", b"hello"),
    ("204 with a length of zero", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", b""),
    ("304 with a length", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b""),
    ("304 with a coding", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", b""),
    ("interim", b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n", b""),
    ("chunked with extensions and trailers",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nServer-Timing: x;dur=1\r\n\r\n", b"hello"),
    ("whitespace", b"HTTP/1.1 200 OK\r\nContent-Length:5\t\r\n\r\nhello", b"hello"),
    ("upgrade offered", b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n", b""),
    ("Host and Expect mean nothing here", b"HTTP/1.1 200 OK\r\nHost: a\r\nHost: b\r\nExpect: x\r\nContent-Length: 0\r\n\r\n", b""),
];

const NOT_ASKED: Asked = Asked { head: false, upgrade: false };

fn check(cases: &[Case], next: &[u8], read: impl Fn(&[u8]) -> Read) {
    for (name, bytes, body) in cases {
        match read(&[bytes, next].concat()) {
            Read::Whole(message) => {
                assert_eq!(message.body, *body, "{name}");
                assert_eq!(message.len, bytes.len(), "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
        for end in 0..bytes.len() - body.len() {
            assert!(!matches!(read(&bytes[..end]), Read::Refused(_)), "{name}: refused at {end} bytes");
        }
    }
}

#[test]
fn odd_but_valid_requests_are_taken() {
    assert!(REQUESTS.len() >= 30);
    check(REQUESTS, b"GET /next HTTP/1.1\r\n", read_request);
}

#[test]
fn odd_but_valid_responses_are_taken() {
    check(RESPONSES, b"", |bytes| read_response(bytes, NOT_ASKED));
}

fn request<T>(bytes: &[u8], look: impl FnOnce(&RequestHead<'_, '_>) -> T) -> T {
    match parse_request_head(bytes, &LIMITS, &mut HeaderStorage::new()) {
        Ok(Parsed::Complete(head)) => look(&head),
        other => panic!("{other:?}"),
    }
}

fn response<T>(bytes: &[u8], asked: Asked, look: impl FnOnce(&ResponseHead<'_, '_>) -> T) -> T {
    match parse_response_head(bytes, asked, &LIMITS, &mut HeaderStorage::new()) {
        Ok(Parsed::Complete(head)) => look(&head),
        other => panic!("{other:?}"),
    }
}

#[test]
fn targets_are_taken_apart_and_not_changed() {
    let parts = |target: &str, host: &str| {
        let method = if target == "*" || target == "http://a.b" { "OPTIONS" } else { "GET" };
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        request(head.as_bytes(), |head| (head.path.to_owned(), head.query.map(ToOwned::to_owned)))
    };
    let path = |path: &str| (path.to_owned(), None);
    let both = |path: &str, query: &str| (path.to_owned(), Some(query.to_owned()));
    assert_eq!(parts("/a/../b//c/%2e", "a"), path("/a/../b//c/%2e"));
    assert_eq!(parts("/a?b?c", "a"), both("/a", "b?c"));
    assert_eq!(parts("/?", "a"), both("/", ""));
    assert_eq!(parts("http://a:80", "a"), path("/"));
    assert_eq!(parts("http://a?b/c", "a"), both("/", "b/c"));
    assert_eq!(parts("https://a/b/?c", "a:443"), both("/b/", "c"));
    assert_eq!(parts("*", "a"), path("*"));
    assert_eq!(parts("http://a.b", "a.b"), path("*"), "OPTIONS without a path is OPTIONS *");
}

#[test]
fn hosts_are_split_from_their_ports() {
    let host = |text: &str| {
        request(format!("GET / HTTP/1.1\r\nHost: {text}\r\n\r\n").as_bytes(), |head| {
            let host = head.host.unwrap();
            assert_eq!(host.raw, text);
            (host.name.to_owned(), host.port)
        })
    };
    assert_eq!(host("a.Example"), ("a.Example".to_owned(), None));
    assert_eq!(host("a:"), ("a".to_owned(), None));
    assert_eq!(host("a:65535"), ("a".to_owned(), Some(65535)));
    assert_eq!(host("[2001:DB8::1]:8080"), ("[2001:DB8::1]".to_owned(), Some(8080)));
    assert_eq!(host("[::1]"), ("[::1]".to_owned(), None));
    let absolute = b"GET http://b:81/ HTTP/1.0\r\n\r\n";
    assert_eq!(request(absolute, |head| head.host.map(|host| host.raw.to_owned())), Some("b:81".to_owned()));
    assert!(request(b"GET / HTTP/1.0\r\n\r\n", |head| head.host.is_none()));
}

#[test]
fn persistence_follows_version_and_connection() {
    let keeps = |version: &str, connection: &str| {
        let head = format!("GET / {version}\r\nHost: a\r\n{connection}\r\n");
        request(head.as_bytes(), |head| head.keep_alive)
    };
    assert!(keeps("HTTP/1.1", ""));
    assert!(!keeps("HTTP/1.1", "Connection: Close\r\n"));
    assert!(!keeps("HTTP/1.1", "Connection: keep-alive\r\nConnection: x, close\r\n"));
    assert!(keeps("HTTP/1.1", "Proxy-Connection: close\r\n"));
    assert!(!keeps("HTTP/1.0", ""));
    assert!(keeps("HTTP/1.0", "Connection: Keep-Alive\r\n"));
    assert!(!keeps("HTTP/1.0", "Connection: keep-alive, close\r\n"));
    let answer = |head: &[u8]| response(head, NOT_ASKED, |head| (head.keep_alive, head.body));
    assert_eq!(answer(b"HTTP/1.1 200 OK\r\n\r\n"), (false, BodyKind::UntilClose));
    assert_eq!(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), (true, BodyKind::Length(5)));
    assert_eq!(answer(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n"), (false, BodyKind::Length(5)));
    assert_eq!(answer(b"HTTP/1.1 204 X\r\nContent-Length: 5\r\n\r\n"), (false, BodyKind::None));
    assert_eq!(answer(b"HTTP/1.1 204 X\r\n\r\n"), (true, BodyKind::None));
}

#[test]
fn expectations_count_where_a_body_follows() {
    let expects = |version: &str, length: &str| {
        let head = format!("POST / {version}\r\nHost: a\r\nExpect: 100-continue\r\n{length}\r\n");
        request(head.as_bytes(), |head| head.expect_continue)
    };
    assert!(expects("HTTP/1.1", "Content-Length: 1\r\n"));
    assert!(expects("HTTP/1.1", "Transfer-Encoding: chunked\r\n"));
    assert!(!expects("HTTP/1.1", "Content-Length: 0\r\n"));
    assert!(!expects("HTTP/1.1", ""));
    assert!(!expects("HTTP/1.0", "Content-Length: 1\r\n"));
}

#[test]
fn upgrades_are_passed_on_only_where_they_can_be() {
    let upgrade = |version: &str, lines: &str| {
        let head = format!("GET / {version}\r\nHost: a\r\n{lines}\r\n");
        request(head.as_bytes(), |head| head.upgrade.map(<[u8]>::to_vec))
    };
    let websocket = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n";
    assert_eq!(upgrade("HTTP/1.1", websocket), Some(b"websocket".to_vec()));
    assert_eq!(upgrade("HTTP/1.0", websocket), None);
    assert_eq!(upgrade("HTTP/1.1", "Upgrade: websocket\r\n"), None);
    assert_eq!(upgrade("HTTP/1.1", "Upgrade: a\r\nUpgrade: b\r\nConnection: upgrade\r\n"), None);
    assert_eq!(upgrade("HTTP/1.1", "Upgrade: websocket, H2C\r\nConnection: upgrade\r\n"), None);
    assert_eq!(
        upgrade("HTTP/1.1", "Upgrade: x\r\nHTTP2-Settings: AAA\r\nConnection: upgrade, HTTP2-Settings\r\n"),
        None
    );
    assert_eq!(upgrade("HTTP/1.1", &format!("{websocket}Content-Length: 1\r\n")), None);
    let switching = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
    response(switching, Asked { head: false, upgrade: true }, |head| {
        assert!(head.is_upgrade() && !head.is_interim());
        assert_eq!((head.upgrade, head.body), (Some(&b"websocket"[..]), BodyKind::None));
    });
}

#[test]
fn answers_to_head_have_no_body_and_keep_their_length() {
    let asked = Asked { head: true, upgrade: false };
    response(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", asked, |head| {
        assert_eq!((head.body, head.content_length, head.keep_alive), (BodyKind::None, Some(5), true));
    });
    response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", asked, |head| {
        assert_eq!((head.body, head.content_length, head.keep_alive), (BodyKind::None, None, true));
    });
}

#[test]
fn the_upstreams_idle_time_is_read() {
    let idle = |value: &str| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: {value}\r\n\r\n");
        response(head.as_bytes(), NOT_ASKED, |head| head.keep_alive_for.map(|time| time.as_secs()))
    };
    assert_eq!(idle("timeout=5, max=100"), Some(5));
    assert_eq!(idle("max=100,Timeout=60"), Some(60));
    assert_eq!(idle("timeout=-1"), None);
    assert_eq!(idle("timeout=99999999999"), None);
    assert_eq!(idle(""), None);
}

#[test]
fn a_body_reader_survives_being_written_down() {
    let mut reader = BodyReader::request(BodyKind::Chunked, 100).unwrap();
    reader.next(b"5;x=y\r\nhel").unwrap();
    let mut bytes = Vec::new();
    reader.write(&mut bytes);
    let (mut moved, rest) = BodyReader::read(&bytes).unwrap();
    assert_eq!((moved, rest), (reader, &b""[..]));
    let step = moved.next(b"lo\r\n0\r\n\r\nGET").unwrap();
    assert_eq!((step.data, step.consumed, step.state), (0..2, 9, BodyState::Done));
    assert!(size_of::<BodyReader>() <= 48);
}

#[test]
fn stated_lengths_can_go_by_unseen() {
    let mut reader = BodyReader::request(BodyKind::Length(10), 10).unwrap();
    assert_eq!(reader.next(b"0123").unwrap().data, 0..4);
    assert_eq!(reader.remaining_length(), Some(6));
    reader.skip(5);
    assert!(!reader.is_done());
    let step = reader.next(b"9GET").unwrap();
    assert_eq!((step.data, step.consumed, step.state), (0..1, 1, BodyState::Done));
    assert!(reader.is_done());
    assert_eq!(reader.next(b"GET").unwrap().consumed, 0);
}
