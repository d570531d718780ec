//! Which endpoint gets a request, what is sent twice and what never is, and what the client is told when nothing works.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Plane, WEB, to_endpoints};
use handover_testkit::http::{Connection, Stream};
use handover_testkit::origin::{Origin, Then};
use handover_testkit::{Gate, Port, pattern};

fn accept(listener: &TcpListener) -> Connection {
    Connection::over(Stream::Tcp(listener.accept().unwrap().0)).unwrap()
}

#[test]
fn requests_go_round() {
    let origins: Vec<_> = ["a", "b", "c"].into_iter().map(Origin::start).collect();
    let addresses: Vec<_> = origins.iter().map(Origin::address).collect();
    let plane = Plane::serve_with(1, &[WEB, &to_endpoints(&addresses, "")].concat());
    let mut client = plane.connect("web");
    let mut counts = BTreeMap::new();
    for _ in 0..30 {
        *counts.entry(client.get("/").expect(200).text()).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [10, 10, 10]);
}

#[test]
fn the_endpoint_with_the_fewest_requests_is_chosen() {
    let (slow, fast) = (Origin::start("slow"), Origin::start("fast"));
    let settings = "balance = \"least-connections\"";
    let plane =
        Plane::serve_with(1, &[WEB, &to_endpoints(&[slow.address(), fast.address()], settings)].concat());
    // One request is held on one of the two: the other gets all that follow.
    let mut held = plane.connect("web");
    held.send("GET /held?gate=g HTTP/1.1\r\nHost: a\r\n\r\n");
    handover_testkit::until("the held request to arrive", || {
        (slow.requests().len() + fast.requests().len() == 1).then_some(())
    });
    let (busy, free) = if slow.requests().len() == 1 { (&slow, &fast) } else { (&fast, &slow) };
    let mut client = plane.connect("web");
    for _ in 0..10 {
        let _ = client.get("/").expect(200);
    }
    assert_eq!((busy.requests().len(), free.requests().len()), (1, 10));
    busy.gate("g").open();
    let _ = held.response("GET").expect(200);
}

#[test]
fn a_dead_endpoint_is_passed_over() {
    let origin = Origin::start("alive");
    let dead = [Port::claim(), Port::claim()];
    let endpoints = [dead[0].address(), origin.address(), dead[1].address()];
    let plane = Plane::serve(&[WEB, &to_endpoints(&endpoints, "")].concat());
    let mut client = plane.connect("web");
    for _ in 0..20 {
        assert_eq!(client.request("POST", "/", &[], b"body").expect(200).text(), "alive\n");
    }
    client.finish();
    plane.wait_until_idle();
    assert!(plane.metric("handover_service_connect_failures_total{service=\"app\"}") > 0);
}

/// A listener that answers nobody: its queue, of one, is full.
fn full() -> (TcpListener, TcpStream) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let listener = TcpListener::from(socket);
    let waiting = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener, waiting)
}

/// The kernel asks again after a second: the first endpoint then refuses, the second one accepts. Both are within the limit
/// for one attempt, and not together.
fn reach_the_second(listener: &str, ask: fn(&mut Connection)) {
    let ((first, _one), (second, _other)) = (full(), full());
    let addresses = [first.local_addr().unwrap(), second.local_addr().unwrap()];
    let config = [listener, &to_endpoints(&addresses, "connect_timeout = \"1800ms\"")].concat();
    let plane = Plane::serve_with(1, &config);
    let attempts = |count| {
        handover_testkit::until("an attempt", || {
            (plane.metric("handover_service_connects_total{service=\"app\"}") == count).then_some(())
        });
    };
    let mut client = plane.connect("web");
    ask(&mut client);
    attempts(1);
    drop(first);
    attempts(2);
    let _ = second.accept().unwrap();
    second.set_nonblocking(true).unwrap();
    let (endpoint, _) = handover_testkit::until("the second to be connected to", || second.accept().ok());
    endpoint.set_nonblocking(false).unwrap();
    let mut endpoint = Connection::over(Stream::Tcp(endpoint)).unwrap();
    assert_eq!(endpoint.exactly(5), b"GET /");
    assert_eq!(plane.metric("handover_service_connect_failures_total{service=\"app\"}"), 1);
}

#[test]
fn after_a_refusal_the_next_endpoint_has_the_whole_time_to_connect() {
    reach_the_second(WEB, |client| client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
}

#[test]
fn after_a_refusal_the_next_endpoint_of_a_tunnel_has_the_whole_time_to_connect() {
    let tcp = format!("{}\nprotocol = \"tcp\"\nservice = \"app\"\n\n", WEB.trim_end());
    reach_the_second(&tcp, |client| client.send("GET /"));
}

#[test]
fn if_no_endpoint_can_be_reached_the_client_gets_503_and_keeps_its_connection() {
    let dead = [Port::claim(), Port::claim()];
    let plane = Plane::serve(&[WEB, &to_endpoints(&dead.each_ref().map(Port::address), "")].concat());
    let mut client = plane.connect("web");
    for _ in 0..5 {
        assert_eq!(client.get("/").expect(503).text(), "no endpoint of this service can be reached\n");
    }
}

#[test]
fn a_kept_connection_that_the_endpoint_closed_is_not_used() {
    let origin = Origin::start("one");
    let plane = Plane::serve_with(1, &[WEB, &to_endpoints(&[origin.address()], "")].concat());
    let mut client = plane.connect("web");
    let _ = client.get("/").expect(200);
    origin.cut();
    handover_testkit::until("the closed connection to leave the pool", || {
        (plane.metric("handover_idle_upstream_connections") == 0).then_some(())
    });
    // Not idempotent, and still no failure: nothing was sent on the dead connection.
    assert_eq!(client.request("POST", "/", &[], b"x").expect(200).text(), "one\n");
}

/// An endpoint that answers one request on its first connection, and cuts that connection when the second one is there.
fn cuts_the_second() -> (Origin, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let origin = Origin::with(move |request, answer| {
        count.fetch_add(1, Ordering::SeqCst);
        if request.connection == 1 && request.path() == "/cut" {
            return Ok(Then::Reset);
        }
        answer.whole("200 OK", &[], &request.body)
    });
    (origin, seen)
}

#[test]
fn an_idempotent_request_on_a_dead_kept_connection_is_sent_once_more() {
    for (method, body) in [("GET", ""), ("PUT", "short body")] {
        let (origin, seen) = cuts_the_second();
        let plane = Plane::serve_with(1, &[WEB, &to_endpoints(&[origin.address()], "")].concat());
        let mut client = plane.connect("web");
        let _ = client.get("/").expect(200);
        assert_eq!(client.request(method, "/cut", &[], body.as_bytes()).expect(200).text(), body);
        assert_eq!(seen.load(Ordering::SeqCst), 3);
        assert_eq!(plane.metric("handover_service_retries_total{service=\"app\"}"), 1);
    }
}

#[test]
fn a_request_that_is_not_idempotent_is_never_sent_twice() {
    let (origin, seen) = cuts_the_second();
    let plane = Plane::serve_with(1, &[WEB, &to_endpoints(&[origin.address()], "")].concat());
    let mut client = plane.connect("web");
    let _ = client.get("/").expect(200);
    let _ = client.request("POST", "/cut", &[], b"order").expect(502);
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}

#[test]
fn a_new_connection_that_breaks_is_the_endpoints_answer_and_not_tried_again() {
    let origin = Origin::start("one");
    let plane = Plane::serve(&[WEB, &to_endpoints(&[origin.address()], "")].concat());
    let mut client = plane.connect("web");
    let _ = client.get("/drop").expect(502);
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn a_body_that_streams_is_not_sent_twice() {
    let (origin, seen) = cuts_the_second();
    let plane = Plane::serve_with(1, &[WEB, &to_endpoints(&[origin.address()], "")].concat());
    let mut client = plane.connect("web");
    let _ = client.get("/").expect(200);
    let _ = client.request("PUT", "/cut", &[], &pattern::bytes(100_000)).expect(502);
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}

#[test]
fn an_endpoint_that_does_not_answer_in_time_becomes_504() {
    let gate = Gate::shut();
    let its = gate.clone();
    let origin = Origin::with(move |_, answer| {
        its.pass();
        answer.whole("200 OK", &[], b"late")
    });
    let plane =
        Plane::serve(&[WEB, &to_endpoints(&[origin.address()], "response_timeout = \"1s\"")].concat());
    let mut client = plane.connect("web");
    assert_eq!(client.get("/").expect(504).text(), "the endpoint did not answer in time\n");
    gate.open();
    let _ = client.get("/").expect(200);
    assert_eq!(plane.metric("handover_service_timeouts_total{service=\"app\"}"), 1);
}

#[test]
fn an_endpoint_that_does_not_take_connections_becomes_504() {
    // A queue of one place that is full: SYNs are dropped, and connecting never ends.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _fill: Vec<_> = (0..3)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address.into());
            socket
        })
        .collect();
    let plane = Plane::serve(&[WEB, &to_endpoints(&[address], "connect_timeout = \"200ms\"")].concat());
    let mut client = plane.connect("web");
    let _ = client.get("/").expect(504);
}

#[test]
fn a_client_that_goes_away_frees_the_endpoint() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plane = Plane::serve(&[WEB, &to_endpoints(&[listener.local_addr().unwrap()], "")].concat());
    let mut client = plane.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut endpoint = accept(&listener);
    let _ = endpoint.try_raw_head().unwrap();
    let (stream, _) = client.into_stream();
    if let Stream::Tcp(stream) = &stream {
        socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
    drop(stream);
    endpoint.expect_end();
    plane.wait_until_idle();
    assert_eq!(plane.metric("handover_closed_connections_total{why=\"client_gone\"}"), 1);
}

#[test]
fn a_request_without_host_gets_that_of_its_endpoint() {
    let origin = Origin::start("one");
    let directory = handover_testkit::Workspace::new();
    let path = directory.path("app.sock");
    let _by_path = Origin::on_unix("two", &path);
    let config = format!(
        "{WEB}{}[services.local]\nendpoints = \"unix:{}\"\n[[routes]]\npath = \"/head\"\nmethod = \"POST\"\nservice = \"local\"\n",
        to_endpoints(&[origin.address()], ""),
        path.display()
    );
    let plane = Plane::serve(&config);
    for (method, host) in [("GET", origin.address().to_string()), ("POST", "localhost".to_owned())] {
        let mut client = plane.connect("web");
        client.send(format!("{method} /head HTTP/1.0\r\nContent-Length: 0\r\n\r\n"));
        let head = client.response(method).expect(200).text();
        assert!(head.contains(&format!("\r\nHost: {host}\r\n")), "{head}");
    }
}

#[test]
fn via_is_sent_both_ways_if_it_is_wanted() {
    let origin = Origin::start("one");
    for (settings, sent) in [("", false), ("forwarded = { via = true }", true)] {
        let plane = Plane::serve(&[WEB, &to_endpoints(&[origin.address()], settings)].concat());
        let response = plane.connect("web").get("/head").expect(200);
        assert_eq!(response.header("via"), sent.then_some("1.1 handover"));
        let text = response.text();
        assert_eq!(text.contains("\r\nVia: 1.1 handover\r\n"), sent, "{text}");
    }
}
