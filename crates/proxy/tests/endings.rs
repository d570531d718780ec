//! How connections end: answers that arrive whole, and clients that go on sending.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::TcpListener;
use std::time::Duration;

use common::{Plane, WEB, to_endpoints};
use handover_testkit::http::{Connection, Stream};
use handover_testkit::pattern;

/// More than a client's socket holds that does not read, less than the proxy's does.
const ANSWER_BYTES: usize = 1_000_000;

fn accept(listener: &TcpListener) -> Connection {
    Connection::over(Stream::Tcp(listener.accept().unwrap().0)).unwrap()
}

/// Answers the request that has come to `endpoint`, and waits until the proxy has written the whole of it, whether or not
/// the client has read it.
fn answer(endpoint: &mut Connection, plane: &Plane) {
    endpoint.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {ANSWER_BYTES}\r\n\r\n"));
    endpoint.send(pattern::bytes(ANSWER_BYTES));
    handover_testkit::until("the answer to be written", || {
        (plane.metric("handover_requests_total{listener=\"web\",status=\"2xx\"}") == 1).then_some(())
    });
}

fn before(listener: &TcpListener) -> Plane {
    Plane::serve(&[WEB, &to_endpoints(&[listener.local_addr().unwrap()], "")].concat())
}

#[test]
fn what_a_client_sends_after_its_last_request_does_not_cost_it_the_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plane = before(&listener);
    let mut client = plane.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut endpoint = accept(&listener);
    let _ = endpoint.try_raw_head().unwrap();
    // The request was read; this is not.
    client.send("\r\nGET /again HTTP/1.1\r\nHost: a\r\n\r\n");
    answer(&mut endpoint, &plane);
    let response = client.response("GET").expect(200);
    assert_eq!(response.body, pattern::bytes(ANSWER_BYTES));
    assert_eq!(client.try_rest().unwrap(), b"");
    drop(client);
    plane.wait_until_idle();
    assert_eq!(plane.metric("handover_closed_connections_total{why=\"done\"}"), 1);
}

#[test]
fn a_request_that_crosses_the_last_answer_does_not_destroy_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plane = before(&listener);
    let mut client = plane.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut endpoint = accept(&listener);
    let _ = endpoint.try_raw_head().unwrap();
    // From here on every answer is its connection's last: the client cannot know that yet.
    let (drain, ended) = plane.drain(Duration::from_secs(60));
    handover_testkit::until("the drain to begin", || (drain.connections() == 1).then_some(()));
    answer(&mut endpoint, &plane);
    client.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response("GET").expect(200);
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(response.body, pattern::bytes(ANSWER_BYTES));
    assert_eq!(client.try_rest().unwrap(), b"");
    drop(client);
    assert!(ended.join().unwrap().is_empty());
}

#[test]
fn a_large_upload_that_is_refused_gets_its_answer() {
    let web = format!("{}\nlimits = {{ body_bytes = \"1KiB\" }}\n\n", WEB.trim_end());
    let plane = Plane::serve(&[&web, "[[routes]]\nfixed = \"hello\"\n"].concat());
    let mut client = plane.connect("web");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n");
    // A client that reads nothing before it has sent everything.
    for _ in 0..20 {
        client.send(vec![b'x'; 1_000_000]);
    }
    let _ = client.response("POST").expect(413);
    assert_eq!(client.try_rest().unwrap(), b"");
}
