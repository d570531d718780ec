//! What heads look like after they were rewritten, byte for byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use common::LIMITS;
use handover_http1::*;

const NONE: [&str; 0] = [];
const NO_SET: [(&str, &str); 0] = [];

fn client(address: &str) -> ClientLabel {
    ClientLabel::new(Some(address.parse::<IpAddr>().unwrap()), false)
}

fn forward_as(request: &str, rules: &RequestRules, client: ClientLabel, close: bool) -> String {
    let mut storage = HeaderStorage::new();
    let Ok(Parsed::Complete(head)) = parse_request_head(request.as_bytes(), &LIMITS, &mut storage) else {
        panic!("not taken: {request}");
    };
    let mut out = Vec::new();
    write_request_head(&mut out, &head, rules, &client, close);
    String::from_utf8(out).unwrap()
}

/// Without forwarding headers, to see the rest.
fn forward(request: &str) -> String {
    let rules = RequestRules { omit_x_forwarded: true, omit_forwarded: true, ..RequestRules::default() };
    forward_as(request, &rules, client("192.0.2.1"), false)
}

/// The forwarding headers alone.
fn forwarding(lines: &str, rules: &RequestRules, client: ClientLabel) -> String {
    let out = forward_as(&format!("GET / HTTP/1.1\r\nHost: a:81\r\n{lines}\r\n"), rules, client, false);
    out.strip_prefix("GET / HTTP/1.1\r\nHost: a:81\r\n").unwrap().strip_suffix("\r\n").unwrap().to_owned()
}

const REQUEST_PREFIX: &str = "GET / HTTP/1.1\r\nHost: a\r\n";

fn unchanged(lines: &str) {
    let request = format!("{REQUEST_PREFIX}{lines}\r\n");
    assert_eq!(forward(&request), request);
}

fn becomes(lines: &str, expected: &str) {
    assert_eq!(forward(&format!("{REQUEST_PREFIX}{lines}\r\n")), format!("{REQUEST_PREFIX}{expected}\r\n"));
}

#[test]
fn ordinary_headers_go_through_in_order() {
    unchanged("");
    unchanged("User-Agent: x\r\nAccept: */*\r\ncookie: a=b\r\nCookie: c=d\r\nContent-Length: 5\r\n");
}

#[test]
fn odd_whitespace_becomes_one_space() {
    becomes("X:1\r\nY: \t 2 \t\r\nZ:\r\nA: b\r\n", "X: 1\r\nY: 2\r\nZ: \r\nA: b\r\n");
}

#[test]
fn hop_by_hop_headers_stay_behind() {
    becomes(
        "Connection: keep-alive, X-Mine\r\nKeep-Alive: timeout=5\r\nX-Mine: 1\r\nX-Yours: 2\r\nx-mine: 3\r\n\
         Proxy-Connection: keep-alive\r\nTE: gzip\r\nUpgrade: websocket\r\n",
        "X-Yours: 2\r\n",
    );
}

#[test]
fn connection_cannot_take_away_what_is_not_its_own() {
    let kept = "Content-Length: 5\r\nAuthorization: x\r\nCookie: y\r\nCache-Control: z\r\nX-Real-IP: w\r\n";
    becomes(
        &format!(
            "{kept}Connection: close, Host, Content-Length, Authorization, cookie, Cache-Control, X-Real-Ip\r\n"
        ),
        kept,
    );
    let rules = RequestRules { omit_forwarded: true, ..RequestRules::default() };
    let out = forwarding(
        "X-Forwarded-For: 1.1.1.1\r\nConnection: X-Forwarded-For\r\n",
        &rules,
        client("192.0.2.1"),
    );
    assert!(out.starts_with("X-Forwarded-For: 1.1.1.1, 192.0.2.1\r\n"), "{out}");
}

#[test]
fn framing_is_written_from_what_was_understood() {
    becomes("Content-Length: 005\r\nX: 1\r\n", "X: 1\r\nContent-Length: 5\r\n");
    becomes("Content-Length:0\r\n", "Content-Length: 0\r\n");
    becomes("transfer-encoding:  CHUNKED\r\nX: 1\r\n", "X: 1\r\nTransfer-Encoding: chunked\r\n");
    becomes("Trailer: X\r\nTransfer-Encoding: chunked\r\n", "Trailer: X\r\nTransfer-Encoding: chunked\r\n");
    becomes("Trailer: X\r\nContent-Length: 1\r\n", "Content-Length: 1\r\n");
}

#[test]
fn te_upgrade_and_expect_go_on_where_they_mean_something() {
    becomes("TE: trailers\r\nConnection: TE\r\n", "Connection: TE\r\nTE: trailers\r\n");
    becomes("TE: gzip;q=0.5, Trailers\r\n", "Connection: TE\r\nTE: trailers\r\n");
    becomes(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        "Sec-WebSocket-Version: 13\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
    );
    becomes("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n", "");
    becomes("Expect: 100-continue\r\nContent-Length: 1\r\n", "Expect: 100-continue\r\nContent-Length: 1\r\n");
    becomes("Expect: 100-continue\r\n", "");
}

#[test]
fn a_connection_that_shall_close_says_so() {
    let rules = RequestRules { omit_x_forwarded: true, omit_forwarded: true, ..RequestRules::default() };
    let close = |lines: &str| {
        forward_as(&format!("{REQUEST_PREFIX}{lines}\r\n"), &rules, client("192.0.2.1"), true)
            .strip_prefix(REQUEST_PREFIX)
            .unwrap()
            .to_owned()
    };
    assert_eq!(close(""), "Connection: close\r\n\r\n");
    assert_eq!(close("TE: trailers\r\n"), "Connection: TE, close\r\nTE: trailers\r\n\r\n");
}

#[test]
fn targets_go_on_in_origin_form() {
    let first = |request: &str| forward(request).lines().next().unwrap().to_owned();
    assert_eq!(first("GET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n"), "GET /b?c HTTP/1.1");
    assert_eq!(first("GET http://a?c HTTP/1.1\r\nHost: a\r\n\r\n"), "GET /?c HTTP/1.1");
    assert_eq!(first("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n"), "GET / HTTP/1.1");
    assert_eq!(first("OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n"), "OPTIONS * HTTP/1.1");
    assert_eq!(first("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), "OPTIONS * HTTP/1.1");
    assert_eq!(first("GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n"), "GET /a/../b HTTP/1.1");
}

#[test]
fn old_requests_become_new_ones_with_a_host() {
    assert_eq!(forward("GET / HTTP/1.0\r\nX: 1\r\n\r\n"), "GET / HTTP/1.1\r\nX: 1\r\nHost: \r\n\r\n");
    assert_eq!(forward("GET http://a:81/ HTTP/1.0\r\n\r\n"), "GET / HTTP/1.1\r\nHost: a:81\r\n\r\n");
    assert_eq!(forward("\r\nGET / HTTP/1.0\r\nHost: a\r\n\r\n"), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let rules = RequestRules {
        omit_x_forwarded: true,
        omit_forwarded: true,
        fallback_host: "up".into(),
        ..Default::default()
    };
    let out = forward_as("GET / HTTP/1.0\r\nTE: trailers\r\n\r\n", &rules, client("192.0.2.1"), false);
    assert_eq!(out, "GET / HTTP/1.1\r\nHost: up\r\n\r\n");
}

#[test]
fn the_client_is_named_to_the_upstream() {
    let rules = RequestRules::default();
    assert_eq!(
        forwarding("", &rules, client("192.0.2.1")),
        "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a:81\r\n\
         Forwarded: for=192.0.2.1;host=\"a:81\";proto=http\r\n"
    );
    let longest = "2001:db8:1111:2222:3333:4444:5555:6666";
    let secure = ClientLabel::new(Some(longest.parse().unwrap()), true);
    assert_eq!(secure.address(), longest.as_bytes());
    assert_eq!(
        forwarding("", &rules, secure),
        format!(
            "X-Forwarded-For: {longest}\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a:81\r\n\
             Forwarded: for=\"[{longest}]\";host=\"a:81\";proto=https\r\n"
        )
    );
    assert_eq!(client("::ffff:192.0.2.1").address(), b"192.0.2.1");
    assert_eq!(ClientLabel::new(None, false).address(), b"unknown");
    let out = forward_as("GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n", &rules, client("::1"), false);
    assert!(out.ends_with("Forwarded: for=\"[::1]\";host=\"[::1]\";proto=http\r\n\r\n"), "{out}");
    let out = forward_as("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", &rules, client("::1"), false);
    assert!(out.ends_with(";host=a.example;proto=http\r\n\r\n"), "{out}");
}

const SENT: &str = "X-Forwarded-For: 1.1.1.1\r\nx-forwarded-for: 2.2.2.2\r\nX-Forwarded-Proto: https\r\n\
                    X-Forwarded-Host: b\r\nForwarded: for=1.1.1.1\r\n";

#[test]
fn what_the_client_said_of_forwarding_is_appended_to_or_overwritten() {
    let out = forwarding(SENT, &RequestRules::default(), client("192.0.2.1"));
    assert_eq!(
        out,
        "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a:81\r\n\
         Forwarded: for=1.1.1.1, for=192.0.2.1;host=\"a:81\";proto=http\r\n"
    );
}

#[test]
fn a_trusted_clients_proto_and_host_are_kept() {
    let rules = RequestRules { client_sent: ClientSent::Trust, ..RequestRules::default() };
    assert_eq!(
        forwarding(SENT, &rules, client("192.0.2.1")),
        "X-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\nX-Forwarded-For: 1.1.1.1, 2.2.2.2, 192.0.2.1\r\n\
         Forwarded: for=1.1.1.1, for=192.0.2.1;host=\"a:81\";proto=http\r\n"
    );
}

#[test]
fn an_outermost_proxy_replaces_what_the_client_said() {
    let rules = RequestRules { client_sent: ClientSent::Replace, ..RequestRules::default() };
    let ours = forwarding("", &rules, client("192.0.2.1"));
    assert_eq!(forwarding(SENT, &rules, client("192.0.2.1")), ours);
}

#[test]
fn forwarding_headers_that_are_left_alone_go_through() {
    let rules = RequestRules { omit_x_forwarded: true, omit_forwarded: true, ..RequestRules::default() };
    assert_eq!(forwarding(SENT, &rules, client("192.0.2.1")), SENT);
}

#[test]
fn nothing_of_what_the_client_said_gets_past_an_outermost_proxy_that_writes_less() {
    for (omit_x_forwarded, omit_forwarded) in [(false, true), (true, false), (true, true)] {
        let rules = RequestRules {
            client_sent: ClientSent::Replace,
            omit_x_forwarded,
            omit_forwarded,
            ..RequestRules::default()
        };
        let ours = forwarding("", &rules, client("192.0.2.1"));
        assert_eq!(forwarding(SENT, &rules, client("192.0.2.1")), ours);
    }
}

#[test]
fn an_open_quote_cannot_swallow_our_element() {
    let rules = RequestRules { omit_x_forwarded: true, ..RequestRules::default() };
    for sent in ["for=\"", "for=\"a\\\"", "for=a;x=\"y\", for=\"b"] {
        let out = forwarding(&format!("Forwarded: {sent}\r\n"), &rules, client("192.0.2.1"));
        assert_eq!(out, "Forwarded: for=192.0.2.1;host=\"a:81\";proto=http\r\n", "{sent}");
    }
    let out = forwarding("Forwarded: for=\"\\\"x\"\r\n", &rules, client("192.0.2.1"));
    assert_eq!(out, "Forwarded: for=\"\\\"x\", for=192.0.2.1;host=\"a:81\";proto=http\r\n");
}

#[test]
fn rules_have_the_last_word() {
    let headers = HeaderRules::new(
        &[("Host", "inner"), ("X-Forwarded-Proto", "https"), ("X-Added", "1"), ("X-Added", "2")],
        &["Cookie", "forwarded"],
    )
    .unwrap();
    let rules = RequestRules { headers, ..RequestRules::default() };
    let request =
        "GET / HTTP/1.1\r\nHost: a\r\nCookie: x\r\nX-Added: 0\r\nX-Forwarded-Proto: y\r\nAccept: z\r\n\r\n";
    assert_eq!(
        forward_as(request, &rules, client("192.0.2.1"), false),
        "GET / HTTP/1.1\r\nAccept: z\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: a\r\n\
         Host: inner\r\nX-Forwarded-Proto: https\r\nX-Added: 1\r\nX-Added: 2\r\n\r\n"
    );
}

#[test]
fn via_names_the_version_that_came_and_stands_behind_the_others() {
    let plain = RequestRules { omit_x_forwarded: true, omit_forwarded: true, ..RequestRules::default() };
    let with =
        |headers: HeaderRules| RequestRules { headers: headers.with_via("me").unwrap(), ..plain.clone() };
    let rules = with(HeaderRules::default());
    let send = |request: &str, rules: &RequestRules| forward_as(request, rules, client("192.0.2.1"), false);
    let request = format!("{REQUEST_PREFIX}Via: 1.0 a, 1.1 b\r\n\r\n");
    assert_eq!(send(&request, &plain), request);
    assert_eq!(send(&request, &rules), format!("{REQUEST_PREFIX}Via: 1.0 a, 1.1 b\r\nVia: 1.1 me\r\n\r\n"));
    assert!(send("GET / HTTP/1.0\r\nHost: a\r\n\r\n", &rules).contains("\r\nVia: 1.0 me\r\n"));
    let ruled = with(HeaderRules::new(&[("via", "1.1 other")], &NONE).unwrap());
    assert_eq!(send(&request, &ruled), format!("{REQUEST_PREFIX}via: 1.1 other\r\n\r\n"));
    let asked = Asked { head: false, upgrade: false };
    let response = format!("HTTP/1.0 200 OK\r\nVia: 1.1 b\r\n{DATE}Content-Length: 5\r\n\r\n");
    let (out, _) = reply_to(&response, asked, &rules.headers, KEEP);
    let expected = response.replace("HTTP/1.0", "HTTP/1.1").replace("5\r\n\r\n", "5\r\nVia: 1.0 me\r\n\r\n");
    assert_eq!(out, expected);
    assert!(HeaderRules::default().with_via("not a token").is_err());
}

fn date() -> DateText {
    DateText::new(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777))
}

const KEEP: ToClient = ToClient { version: Version::Http11, keep_alive: true };
const OLD: ToClient = ToClient { version: Version::Http10, keep_alive: true };
const DATE: &str = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";

fn reply_to(response: &str, asked: Asked, rules: &HeaderRules, to: ToClient) -> (String, Outgoing) {
    let mut storage = HeaderStorage::new();
    let Ok(Parsed::Complete(head)) = parse_response_head(response.as_bytes(), asked, &LIMITS, &mut storage)
    else {
        panic!("not taken: {response}");
    };
    let mut out = Vec::new();
    let outgoing = write_response_head(&mut out, &head, rules, to, &date());
    (String::from_utf8(out).unwrap(), outgoing)
}

fn reply(response: &str, to: ToClient) -> (String, Outgoing) {
    let asked = Asked { head: false, upgrade: true };
    reply_to(response, asked, &HeaderRules::default(), to)
}

fn goes(body: BodyKind, keep_alive: bool) -> Outgoing {
    Outgoing { body, keep_alive }
}

#[test]
fn a_response_of_known_length_goes_through() {
    let response =
        format!("HTTP/1.1 200 OK\r\nServer: x\r\n{DATE}Content-Length: 5\r\nContent-Type: a/b\r\n\r\n");
    assert_eq!(reply(&response, KEEP), (response.clone(), goes(BodyKind::Length(5), true)));
    let (closing, outgoing) = reply(&response, ToClient { keep_alive: false, ..KEEP });
    assert!(closing.ends_with("\r\nConnection: close\r\n\r\n") && !outgoing.keep_alive);
    let (old, outgoing) = reply(&response, OLD);
    assert!(old.ends_with("\r\nConnection: keep-alive\r\n\r\n") && outgoing.keep_alive);
}

#[test]
fn a_missing_date_is_added() {
    let (out, _) = reply("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", KEEP);
    assert_eq!(out, format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n{DATE}\r\n"));
    let rules = HeaderRules::new(&NO_SET, &["Date", "Server"]).unwrap();
    let asked = Asked { head: false, upgrade: false };
    let response = format!("HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n{DATE}\r\n");
    assert_eq!(reply_to(&response, asked, &rules, KEEP).0, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
}

#[test]
fn what_concerns_the_upstreams_connection_stays_behind() {
    let (out, outgoing) = reply(
        "HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\n\
         Proxy-Connection: close\r\nContent-Length:5\r\nX: 1\r\n\r\n",
        KEEP,
    );
    assert_eq!(out, format!("HTTP/1.1 200 OK\r\nX: 1\r\nContent-Length: 5\r\n{DATE}\r\n"));
    assert_eq!(outgoing, goes(BodyKind::Length(5), true));
}

#[test]
fn bodies_without_a_length_go_out_as_the_client_can_take_them() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n";
    let until_close = "HTTP/1.0 200 OK\r\n\r\n";
    let (out, outgoing) = reply(chunked, KEEP);
    assert_eq!(out, format!("HTTP/1.1 200 OK\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\n{DATE}\r\n"));
    assert_eq!(outgoing, goes(BodyKind::Chunked, true));
    let (out, outgoing) = reply(until_close, KEEP);
    assert_eq!(out, format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{DATE}\r\n"));
    assert_eq!(outgoing, goes(BodyKind::Chunked, true));
    for response in [chunked, until_close] {
        let (out, outgoing) = reply(response, OLD);
        assert_eq!(out, format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{DATE}\r\n"));
        assert_eq!(outgoing, goes(BodyKind::UntilClose, false));
    }
}

#[test]
fn answers_without_a_body_keep_the_length_that_they_state() {
    let head = Asked { head: true, upgrade: false };
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n{DATE}\r\n");
    assert_eq!(
        reply_to(&response, head, &HeaderRules::default(), KEEP),
        (response, goes(BodyKind::None, true))
    );
    let chunked = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{DATE}\r\n");
    let (out, _) = reply_to(&chunked, head, &HeaderRules::default(), KEEP);
    assert_eq!(out, format!("HTTP/1.1 200 OK\r\n{DATE}\r\n"));
    let (out, _) = reply(&format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 05\r\n{DATE}\r\n"), KEEP);
    assert_eq!(out, format!("HTTP/1.1 304 Not Modified\r\n{DATE}Content-Length: 5\r\n\r\n"));
    let (out, _) = reply(&format!("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n{DATE}\r\n"), KEEP);
    assert_eq!(out, format!("HTTP/1.1 204 No Content\r\n{DATE}\r\n"));
}

#[test]
fn interim_heads_and_switches_go_through_bare() {
    let (out, _) = reply("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\nx: y\r\n\r\n", KEEP);
    assert_eq!(out, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    let (out, outgoing) = reply(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: x\r\nContent-Length: 0\r\n\r\n",
        KEEP,
    );
    assert_eq!(
        out,
        "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    assert_eq!(outgoing, goes(BodyKind::None, false));
    let (out, _) = reply(
        &format!("HTTP/1.1 426 Upgrade Required\r\nUpgrade: TLS/1.3\r\nContent-Length: 0\r\n{DATE}\r\n"),
        KEEP,
    );
    assert!(out.ends_with("Connection: upgrade\r\nUpgrade: TLS/1.3\r\n\r\n"), "{out}");
}

#[test]
fn old_and_odd_status_lines_become_new_ones() {
    let first = |response: &str| reply(response, KEEP).0.lines().next().unwrap().to_owned();
    assert_eq!(first("HTTP/1.0 200 Fine\r\n\r\n"), "HTTP/1.1 200 Fine");
    assert_eq!(first("HTTP/1.1 404\r\n\r\n"), "HTTP/1.1 404 Not Found");
    assert_eq!(first("HTTP/1.1 200 Gr\u{fc}n\r\n\r\n"), "HTTP/1.1 200 OK");
    assert_eq!(first("HTTP/1.1 999\r\n\r\n"), "HTTP/1.1 999 Unknown");
}

#[test]
fn response_rules_set_and_remove() {
    let rules = HeaderRules::new(&[("X-Frame-Options", "DENY")], &["Server"]).unwrap();
    let asked = Asked { head: false, upgrade: false };
    let response = format!(
        "HTTP/1.1 200 OK\r\nServer: x\r\nx-frame-options: y\r\n{DATE}Content-Length: 0\r\nSERVER: z\r\n\r\n"
    );
    let (out, _) = reply_to(&response, asked, &rules, KEEP);
    assert_eq!(out, format!("HTTP/1.1 200 OK\r\n{DATE}Content-Length: 0\r\nX-Frame-Options: DENY\r\n\r\n"));
}

#[test]
fn a_rule_set_without_rules_is_empty() {
    assert!(HeaderRules::new(&NO_SET, &NONE).unwrap().is_empty());
}
