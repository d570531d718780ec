//! HTTP/1.1 through the proxy: what must arrive, in both directions, byte for byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Plane, WEB, to_endpoints};
use handover_testkit::http::Connection;
use handover_testkit::origin::{Origin, Then};
use handover_testkit::pattern;

fn before(origin: &Origin) -> Plane {
    Plane::serve(&[WEB, &to_endpoints(&[origin.address()], "")].concat())
}

#[test]
fn many_requests_share_one_connection_on_both_sides() {
    let origin = Origin::start("one");
    let plane = before(&origin);
    let mut client = plane.connect("web");
    for _ in 0..20 {
        assert_eq!(client.get("/").expect(200).text(), "one\n");
    }
    assert_eq!(origin.connections(), 1);
    assert_eq!(plane.metric("handover_service_reused_connections_total{service=\"app\"}"), 19);
    client.finish();
    plane.wait_until_idle();
    assert_eq!(plane.metric("handover_requests_total{listener=\"web\",status=\"2xx\"}"), 20);
    assert_eq!(plane.service.buffer_bytes(), 0);
}

#[test]
fn a_head_that_comes_byte_by_byte_is_understood() {
    let origin = Origin::start("one");
    let plane = before(&origin);
    let mut client = plane.connect("web");
    for byte in b"GET /head HTTP/1.1\r\nHost: a.test\r\nX-One: 1\r\n\r\n" {
        client.send([*byte]);
    }
    let response = client.response("GET").expect(200);
    assert!(response.text().contains("X-One: 1\r\n"), "{}", response.text());
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start("one");
    let plane = before(&origin);
    let mut client = plane.connect("web");
    let mut all = Vec::new();
    for count in 1..=50 {
        all.extend_from_slice(format!("GET /bytes/{count} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    }
    client.send(&all);
    for count in 1..=50 {
        assert_eq!(client.response("GET").expect(200).body, pattern::bytes(count));
    }
}

#[test]
fn pipelined_requests_with_bodies_keep_their_bodies() {
    let origin = Origin::start("one");
    let plane = before(&origin);
    let mut client = plane.connect("web");
    let mut all = Vec::new();
    for count in [0, 1, 5_000, 40_000, 3] {
        all.extend_from_slice(
            format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {count}\r\n\r\n").as_bytes(),
        );
        all.extend_from_slice(&pattern::bytes(count));
    }
    client.send(&all);
    for count in [0, 1, 5_000, 40_000, 3] {
        assert_eq!(client.response("POST").expect(200).body, pattern::bytes(count));
    }
}

#[test]
fn bodies_of_every_framing_arrive_whole() {
    let origin = Origin::start("one");
    let plane = before(&origin);
    let mut client = plane.connect("web");
    for length in [0, 1, 100, 4_096, 10_000, 16_384, 20_000, 1_000_000] {
        assert_eq!(client.get(&format!("/bytes/{length}")).expect(200).body, pattern::bytes(length));
        let chunked = client.get(&format!("/chunked/{length}")).expect(200);
        assert_eq!(chunked.body, pattern::bytes(length));
        assert_eq!(chunked.header("transfer-encoding"), Some("chunked"));
        assert!(chunked.trailers.iter().any(|(name, value)| name == "X-Check" && value == "done"));
        // Without a length the end of the body is the end of the connection; towards the client it is chunked.
        assert_eq!(client.get(&format!("/stream/{length}")).expect(200).body, pattern::bytes(length));
    }
}

/// Header fields of so many bytes in all.
fn padding(bytes: usize) -> String {
    format!("X-Padding: {}\r\n", "x".repeat(bytes))
}

/// A head that fills the buffer in which its body is to be framed anew must not keep the body there: all of it was read,
/// so no event would ever come for it.
#[test]
fn a_body_that_comes_with_a_long_head_is_passed_on() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let web = format!("{}\nlimits = {{ header_bytes = \"64KiB\" }}\n\n", WEB.trim_end());
    let plane = Plane::serve_with(1, &[web, to_endpoints(&[listener.local_addr().unwrap()], "")].concat());
    let mut client = plane.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let socket = listener.accept().unwrap().0;
    let mut endpoint = Connection::over(handover_testkit::http::Stream::Tcp(socket)).unwrap();
    let _ = endpoint.try_raw_head().unwrap();
    endpoint.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let _ = client.response("GET").expect(200);
    let (chunk, body) = (format!("400\r\n{}\r\n0\r\n\r\n", "b".repeat(1_024)), "b".repeat(1_024));
    for kib in 7..63 {
        let padding = padding(kib * 1_024);
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{padding}Transfer-Encoding: chunked\r\n\r\n{chunk}"
        ));
        let _ = endpoint.try_raw_head().unwrap();
        assert_eq!(endpoint.try_chunked().unwrap().0, body.as_bytes(), "a request with {kib} KiB of head");
        endpoint.send(format!("HTTP/1.1 200 OK\r\n{padding}Transfer-Encoding: chunked\r\n\r\n{chunk}"));
        let response = client.response("POST").expect(200);
        assert_eq!(response.text(), body, "a response with {kib} KiB of head");
    }
}

#[test]
fn a_chunked_request_arrives_chunked_with_its_trailers() {
    let origin = Origin::start("one");
    let plane = before(&origin);
    let mut client = plane.connect("web");
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5;x=1\r\nhello\r\n");
    client.send("6\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n");
    assert_eq!(client.response("POST").expect(200).text(), "hello world");
    let request = origin.wait_for_requests(1).remove(0);
    assert_eq!(request.header("transfer-encoding"), Some("chunked"));
    assert!(request.trailers.iter().any(|(name, value)| name == "X-Sum" && value == "11"));
}

#[test]
fn an_http_1_0_client_gets_what_it_can_read() {
    let origin = Origin::start("one");
    let plane = before(&origin);
    let mut client = plane.connect("web");
    client.send("GET /chunked/5000 HTTP/1.0\r\nHost: a\r\n\r\n");
    let head = client.head();
    assert!(head.header("transfer-encoding").is_none());
    assert_eq!(client.try_rest().unwrap(), pattern::bytes(5_000));

    let mut client = plane.connect("web");
    client.send("GET /bytes/10 HTTP/1.0\r\nConnection: keep-alive\r\nHost: a\r\n\r\n");
    let response = client.response("GET").expect(200);
    assert_eq!(response.header("connection"), Some("keep-alive"));
    assert_eq!(client.get("/").expect(200).text(), "one\n");
}

#[test]
fn head_brings_the_length_and_no_body() {
    let origin = Origin::start("one");
    let plane = before(&origin);
    let mut client = plane.connect("web");
    for _ in 0..3 {
        let response = client.request("HEAD", "/bytes/5000", &[], b"").expect(200);
        assert_eq!(response.header("content-length"), Some("5000"));
        assert!(response.body.is_empty());
    }
    assert_eq!(client.get("/").expect(200).text(), "one\n");
}

#[test]
fn the_endpoint_learns_who_asked_and_gets_no_hop_by_hop_fields() {
    let origin = Origin::start("one");
    let plane = before(&origin);
    let mut client = plane.connect("web");
    let headers = [
        ("Host", "shop.test:8080"),
        ("Connection", "keep-alive, X-Private"),
        ("X-Private", "secret"),
        ("Keep-Alive", "timeout=5"),
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Public", "yes"),
    ];
    let head = client.request("GET", "/head", &headers, b"").expect(200).text();
    assert!(head.contains("\r\nX-Public: yes\r\n"), "{head}");
    assert!(head.contains("\r\nX-Forwarded-For: 127.0.0.1\r\n"), "{head}");
    assert!(head.contains("\r\nX-Forwarded-Proto: http\r\n"), "{head}");
    assert!(head.contains("\r\nX-Forwarded-Host: shop.test:8080\r\n"), "{head}");
    assert!(!head.contains("secret") && !head.contains("Keep-Alive") && !head.contains("6.6.6.6"), "{head}");
    assert!(!head.to_ascii_lowercase().contains("\r\nvia:"), "{head}");
}

#[test]
fn expect_100_continue_goes_through_to_the_endpoint_and_back() {
    let origin = Origin::with(|_, answer| answer.whole("200 OK", &[], b"took it"));
    let plane = before(&origin);
    // This origin reads the body before it answers, and so would wait for ever if nobody said 100: say it by hand.
    drop(plane);

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let plane = Plane::serve(&[WEB, &to_endpoints(&[listener.local_addr().unwrap()], "")].concat());
    let mut client = plane.connect("web");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    let (socket, _) = listener.accept().unwrap();
    let mut endpoint = Connection::over(handover_testkit::http::Stream::Tcp(socket)).unwrap();
    let head = String::from_utf8(endpoint.try_raw_head().unwrap()).unwrap();
    assert!(head.contains("\r\nExpect: 100-continue\r\n"), "{head}");
    endpoint.send("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.head().status, 100);
    client.send("body");
    assert_eq!(endpoint.exactly(4), b"body");
    endpoint
        .send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let hints = client.head();
    assert_eq!((hints.status, hints.header("link")), (103, Some("</x>")));
    assert_eq!(client.response("POST").expect(200).text(), "ok");
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let origin = Origin::with(|_, answer| answer.whole("200 OK", &[], b""));
    drop(origin);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let plane = Plane::serve(&[WEB, &to_endpoints(&[listener.local_addr().unwrap()], "")].concat());
    let mut client = plane.connect("web");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nfirst");
    let (socket, _) = listener.accept().unwrap();
    let mut endpoint = Connection::over(handover_testkit::http::Stream::Tcp(socket)).unwrap();
    let _ = endpoint.try_raw_head().unwrap();
    assert_eq!(endpoint.exactly(5), b"first");
    endpoint.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
    let response = client.response("POST").expect(403);
    assert_eq!(response.text(), "no");
    assert_eq!(response.header("connection"), Some("close"));
    // What the client still sends must not destroy the answer it has not read yet.
    client.send(vec![b'x'; 100_000]);
    client.expect_end();
}

#[test]
fn configured_header_edits_are_made_in_both_directions() {
    let origin = Origin::with(|request, answer| {
        let seen = request.header("x-new").unwrap_or("none").to_owned();
        let old = request.header("x-old").is_some();
        answer.whole(
            "200 OK",
            &[("Server", "secret/1.0"), ("X-Kept", "1")],
            format!("{seen} {old}").as_bytes(),
        )
    });
    let edits = "request_headers = { set = { X-New = \"value\" }, remove = [\"X-Old\"] }\n\
                 response_headers = { set = { X-Frame-Options = \"DENY\" }, remove = [\"Server\"] }";
    let plane = Plane::serve(&[WEB, &to_endpoints(&[origin.address()], edits)].concat());
    let mut client = plane.connect("web");
    let response = client.request("GET", "/", &[("X-Old", "1")], b"").expect(200);
    assert_eq!(response.text(), "value false");
    assert_eq!(response.header("x-frame-options"), Some("DENY"));
    assert_eq!((response.header("server"), response.header("x-kept")), (None, Some("1")));
}

#[test]
fn what_cannot_be_understood_is_refused_and_never_forwarded() {
    let origin = Origin::start("one");
    let plane = before(&origin);
    for (bad, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03", 400),
    ] {
        let mut client = plane.connect("web");
        client.send(bad);
        let response = client.response("GET").expect(status);
        assert_eq!(response.header("connection"), Some("close"), "{bad:?}");
        client.expect_end();
    }
    let mut client = plane.connect("web");
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    let _ = client.response("POST").expect(400);
    client.expect_end();
    assert!(origin.requests().is_empty());
}

#[test]
fn a_response_that_cannot_be_understood_becomes_502() {
    let origin = Origin::with(|_, answer| {
        answer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx")?;
        Ok(Then::Close)
    });
    let plane = before(&origin);
    let mut client = plane.connect("web");
    let _ = client.get("/").expect(502);
    // The client did nothing wrong: its connection goes on.
    let _ = client.get("/").expect(502);
}

#[test]
fn a_response_that_breaks_off_is_never_passed_off_as_whole() {
    let origin = Origin::start("one");
    let plane = before(&origin);
    let mut client = plane.connect("web");
    client.send("GET /cut/100000 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.try_response("GET").is_err());
    plane.wait_until_idle();
    assert_eq!(plane.metric("handover_closed_connections_total{why=\"upstream_cut\"}"), 1);
}
