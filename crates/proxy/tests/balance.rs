//! Connections are spread over the threads, and lose nothing by it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Plane, WEB, to_endpoints};
use handover_testkit::http::Connection;
use handover_testkit::origin::Origin;
use handover_testkit::pattern;

const HELLO: &str = "[[routes]]\nfixed = \"hello\"\n";
/// So many more connections may be on one of two threads, when there are 64.
const UNEVEN: u32 = 8;

#[track_caller]
fn assert_balanced(plane: &Plane, count: u32) {
    let open = plane.service.open_by_thread();
    assert_eq!(open.iter().sum::<u32>(), count);
    assert!(open.iter().max().unwrap() - open.iter().min().unwrap() <= UNEVEN, "{open:?}");
}

#[test]
fn kept_connections_of_one_client_are_balanced_and_lose_no_request() {
    let plane = Plane::serve(&[WEB, HELLO].concat());
    for _ in 0..10 {
        let mut clients: Vec<_> = (0..64).map(|_| plane.connect("web")).collect();
        // The second request is sent the moment that the first is answered: when the connection moves, or is about to.
        for client in &mut clients {
            for _ in 0..4 {
                assert_eq!(client.get("/").expect(200).text(), "hello");
            }
        }
        assert_balanced(&plane, 64);
        for client in &mut clients {
            assert_eq!(client.get("/").expect(200).text(), "hello");
        }
        drop(clients);
        plane.wait_until_idle();
    }
    assert_eq!(plane.service.open_by_thread(), [0, 0]);
    assert_eq!(plane.metric("handover_requests_total{listener=\"web\",status=\"2xx\"}"), 10 * 64 * 5);
}

#[test]
fn requests_that_come_in_pieces_or_together_survive_the_move() {
    let origin = Origin::start("one");
    let plane = Plane::serve(&[WEB, &to_endpoints(&[origin.address()], "")].concat());
    let mut clients: Vec<Connection> = (0..64).map(|_| plane.connect("web")).collect();
    let body = pattern::bytes(20_000);
    let post = handover_testkit::http::request_bytes("POST", "/echo", &[], &body);
    for client in &mut clients {
        let (some, rest) = post.split_at(30);
        client.send([b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", some].concat());
        assert_eq!(client.response("GET").expect(200).text(), "one\n");
        client.send(rest);
        assert_eq!(client.response("POST").expect(200).body, body);
        client.send([&post[..], &post[..]].concat());
        assert_eq!(client.response("POST").expect(200).body, body);
        assert_eq!(client.response("POST").expect(200).body, body);
    }
    assert_balanced(&plane, 64);
}
