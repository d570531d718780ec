//! Limits on size, number, time and memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::TcpListener;

use common::{Plane, WEB, to_endpoints};
use handover_testkit::http::{Connection, Stream};
use handover_testkit::origin::Origin;
use handover_testkit::pattern;

fn web(settings: &str) -> String {
    format!("{}\n{settings}\n\n", WEB.trim_end())
}

const HELLO: &str = "[[routes]]\nfixed = \"hello\"\n";

#[test]
fn a_head_that_is_too_large_is_refused_with_431() {
    let plane = Plane::serve(&[&web("limits = { header_bytes = \"2KiB\" }"), HELLO].concat());
    let mut client = plane.connect("web");
    let fits = "x".repeat(1_500);
    let _ = client.request("GET", "/", &[("X-Long", &fits)], b"").expect(200);
    let long = "x".repeat(3_000);
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {long}"));
    let _ = client.response("GET").expect(431);
    client.expect_end();
}

#[test]
fn a_head_larger_than_a_buffer_passes_if_it_may() {
    let origin = Origin::start("one");
    let plane = Plane::serve(
        &[web("limits = { header_bytes = \"64KiB\" }"), to_endpoints(&[origin.address()], "")].concat(),
    );
    let mut client = plane.connect("web");
    let long = "x".repeat(50_000);
    let head = client.request("GET", "/head", &[("X-Long", &long)], b"").expect(200).text();
    assert!(head.contains(&long));
    let _ = client.get("/").expect(200);
}

#[test]
fn a_body_that_is_too_large_is_refused_with_413() {
    let origin = Origin::start("one");
    let config =
        [web("limits = { body_bytes = \"100KiB\" }"), to_endpoints(&[origin.address()], "")].concat();
    let plane = Plane::serve(&config);
    let mut client = plane.connect("web");
    assert_eq!(
        client.request("POST", "/echo", &[], &pattern::bytes(102_400)).expect(200).body.len(),
        102_400
    );
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 102401\r\n\r\n");
    let _ = client.response("POST").expect(413);
    client.expect_end();
    // A chunked body shows its size only on the way.
    let mut client = plane.connect("web");
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n19001\r\n");
    let _ = client.try_send(vec![b'x'; 102_401]);
    let _ = client.response("POST").expect(413);
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn a_head_that_does_not_come_in_time_is_answered_408() {
    let plane = Plane::serve(&[&web("timeouts = { header = \"1s\" }"), HELLO].concat());
    let mut client = plane.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n");
    let _ = client.response("GET").expect(408);
    client.expect_end();
    plane.wait_until_idle();
    assert_eq!(plane.metric("handover_closed_connections_total{why=\"header_limit\"}"), 1);
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let plane = Plane::serve(&[&web("timeouts = { header = \"1s\", idle = \"1s\" }"), HELLO].concat());
    let mut silent = plane.connect("web");
    silent.expect_end();
    let mut idle = plane.connect("web");
    let _ = idle.get("/").expect(200);
    idle.expect_end();
    plane.wait_until_idle();
    assert_eq!(plane.metric("handover_closed_connections_total{why=\"idle_limit\"}"), 2);
}

#[test]
fn a_body_that_stands_still_is_answered_408() {
    let origin = Origin::start("one");
    let plane =
        Plane::serve(&[web("timeouts = { body = \"1s\" }"), to_endpoints(&[origin.address()], "")].concat());
    let mut client = plane.connect("web");
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome");
    let _ = client.response("POST").expect(408);
    client.expect_end();
}

#[test]
fn a_client_that_does_not_read_is_cut() {
    let origin = Origin::start("one");
    let plane =
        Plane::serve(&[web("timeouts = { body = \"1s\" }"), to_endpoints(&[origin.address()], "")].concat());
    let mut client = plane.connect("web");
    client.send("GET /bytes/50000000 HTTP/1.1\r\nHost: a\r\n\r\n");
    plane.wait_for_metric("handover_closed_connections_total{why=\"body_limit\"}", 1);
    plane.wait_until_idle();
    drop(client);
}

/// Takes a body of 50 MB for a while, so slowly that the proxy can write nothing meanwhile, and more slowly than the limit for
/// pauses allows for a whole socket's buffer. Time passes by connections that are closed because they say nothing.
fn take_slowly(config: &str, path: &str) {
    let plane = Plane::serve(
        &[
            "[listeners.clock]\naddress = \"127.0.0.1:0\"\ntimeouts = { header = \"200ms\" }\n\n",
            &web("timeouts = { body = \"2s\" }"),
            config,
        ]
        .concat(),
    );
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    socket.connect(&plane.address("web").into()).unwrap();
    let mut client = Connection::over(Stream::Tcp(socket.into())).unwrap();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(client.head().status, 200);
    for _ in 0..20 {
        plane.connect("clock").expect_end();
        let _ = client.exactly(32 * 1024);
    }
    assert_eq!(plane.metric("handover_closed_connections_total{why=\"body_limit\"}"), 0);
    assert_eq!(plane.metric("handover_listener_open_connections{listener=\"web\"}"), 1);
    // Now it stops.
    plane.wait_until_idle();
    assert_eq!(plane.metric("handover_closed_connections_total{why=\"body_limit\"}"), 1);
    drop(client);
}

#[test]
fn a_client_that_reads_slowly_but_steadily_is_not_cut() {
    let origin = Origin::start("one");
    take_slowly(&to_endpoints(&[origin.address()], ""), "/bytes/50000000");
}

#[test]
fn a_client_that_takes_a_file_slowly_but_steadily_is_not_cut() {
    let files = handover_testkit::Workspace::new();
    std::fs::write(files.path("large"), vec![b'x'; 50_000_000]).unwrap();
    let root = files.path("large").parent().unwrap().display().to_string();
    take_slowly(&format!("[[routes]]\ndirectory = \"{root}\"\n"), "/large");
}

#[test]
fn connections_beyond_the_limit_wait_until_one_ends() {
    let plane = Plane::serve(&[&web("limits = { connections = 2 }"), HELLO].concat());
    let mut first = plane.connect("web");
    let mut second = plane.connect("web");
    let _ = first.get("/").expect(200);
    let _ = second.get("/").expect(200);
    let mut third = plane.connect("web");
    third.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    handover_testkit::until("accepting to pause", || {
        (plane.metric("handover_listener_full_total{listener=\"web\"}") > 0).then_some(())
    });
    assert_eq!(plane.metric("handover_listener_open_connections{listener=\"web\"}"), 2);
    drop(first);
    let _ = third.response("GET").expect(200);
}

#[test]
fn a_huge_body_needs_little_memory_whoever_is_slow() {
    const LENGTH: u64 = 1 << 28;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config =
        [web("limits = { body_bytes = \"unlimited\" }"), to_endpoints(&[listener.local_addr().unwrap()], "")];
    let plane = Plane::serve(&config.concat());
    // Down: the endpoint sends as fast as it can, the client reads in pieces; up: the other way round.
    let sender = std::thread::spawn(move || {
        let mut endpoint = Connection::over(Stream::Tcp(listener.accept().unwrap().0)).unwrap();
        let _ = endpoint.try_raw_head().unwrap();
        endpoint.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"));
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..LENGTH >> 20 {
            endpoint.send(&piece);
        }
        let _ = endpoint.try_raw_head().unwrap();
        let mut got = 0;
        while got < LENGTH {
            got += endpoint.try_some(1 << 20).unwrap().len() as u64;
        }
        endpoint.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let mut client = plane.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().status, 200);
    let (mut got, mut most) = (0, 0);
    while got < LENGTH {
        got += client.try_some(1 << 20).unwrap().len() as u64;
        most = most.max(plane.service.buffer_bytes());
    }
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"));
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..LENGTH >> 20 {
        client.send(&piece);
        most = most.max(plane.service.buffer_bytes());
    }
    assert_eq!(client.response("POST").expect(200).text(), "ok");
    sender.join().unwrap();
    assert!(most <= 512 * 1024, "{most} bytes of buffers for one connection");
    drop(client);
    plane.wait_until_idle();
    assert_eq!(plane.service.buffer_bytes(), 0);
}

/// More than a small buffer holds, and no line that could be the last of a head.
fn many_lines() -> String {
    (0..10).map(|number| format!("X-{number}: {}\r\n", "x".repeat(2_000))).collect()
}

/// What holds bytes is seen from outside by the memory that the proxy needs for them.
fn wait_for_buffers(plane: &Plane, least: u64) {
    handover_testkit::until("the bytes to be read", || (plane.service.buffer_bytes() >= least).then_some(()));
}

/// A mistake in the middle of a head is found when the head is whole: it is not read again and again from its beginning,
/// which would cost the square of its length.
#[test]
fn the_head_of_a_request_is_looked_at_when_it_is_whole() {
    let config =
        WEB.trim_end().to_owned() + "\nlimits = { header_bytes = 65536 }\n\n[[routes]]\nfixed = \"hello\"\n";
    let plane = Plane::serve_with(1, &config);
    let mut client = plane.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n");
    wait_for_buffers(&plane, 16 * 1024);
    client.send(format!("no header : x\r\n{}", many_lines()));
    wait_for_buffers(&plane, 32 * 1024);
    client.send("\r\n");
    let _ = client.response("GET").expect(400);
}

#[test]
fn the_head_of_a_response_is_looked_at_when_it_is_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = [WEB, &to_endpoints(&[listener.local_addr().unwrap()], "")].concat();
    let plane = Plane::serve_with(1, &config);
    let mut client = plane.connect("web");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut endpoint = Connection::over(Stream::Tcp(listener.accept().unwrap().0)).unwrap();
    let _ = endpoint.try_raw_head().unwrap();
    // The request holds 16 KiB until its response begins.
    endpoint.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}", many_lines()));
    wait_for_buffers(&plane, (16 + 32) * 1024);
    endpoint.send(format!("no header : x\r\n{}", many_lines()));
    wait_for_buffers(&plane, (16 + 64) * 1024);
    endpoint.send("\r\n");
    let _ = client.response("GET").expect(502);
}
