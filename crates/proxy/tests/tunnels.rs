//! Bytes passed unread: TCP listeners and upgraded connections.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use common::{Plane, WEB, to_endpoints};
use handover_testkit::DEADLINE;
use handover_testkit::echo::Echo;
use handover_testkit::http::Connection;
use handover_testkit::origin::Origin;
use handover_testkit::pattern;
use handover_testkit::tunnel::Tunnel;
use handover_testkit::websocket::WebSocket;

fn tcp(endpoint: SocketAddr) -> String {
    format!(
        "[listeners.raw]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nservice = \"app\"\n\n\
         [services.app]\nendpoints = \"{endpoint}\"\n"
    )
}

#[test]
fn bytes_pass_both_ways() {
    let echo = Echo::start();
    let plane = Plane::serve(&tcp(echo.address()));
    let mut tunnel = Tunnel::open(plane.address("raw"));
    for length in [1, 10, 4_096, 100_000, 1_000_000] {
        let bytes = pattern::bytes(length);
        let mut writer = match tunnel.connection().local_address() {
            Some(_) => bytes.clone(),
            None => Vec::new(),
        };
        // In pieces, so that neither side must buffer everything.
        while !writer.is_empty() {
            let piece: Vec<u8> = writer.drain(..writer.len().min(8_192)).collect();
            tunnel.echo(&piece);
        }
    }
    assert_eq!(plane.metric("handover_open_connections{kind=\"tcp\"}"), 1);
    drop(tunnel);
    plane.wait_until_idle();
    assert_eq!(plane.service.buffer_bytes(), 0);
}

#[test]
fn the_end_of_one_direction_leaves_the_other_open() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plane = Plane::serve(&tcp(listener.local_addr().unwrap()));
    let mut client = TcpStream::connect(plane.address("raw")).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (mut endpoint, _) = listener.accept().unwrap();
    endpoint.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut question = Vec::new();
    endpoint.read_to_end(&mut question).unwrap();
    assert_eq!(question, b"question");
    // The client has finished; what the endpoint says now must still arrive, and then its end.
    endpoint.write_all(b"answer").unwrap();
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
    drop(endpoint);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    plane.wait_until_idle();
    assert_eq!(plane.metric("handover_closed_connections_total{why=\"done\"}"), 1);
}

#[test]
fn an_endpoint_that_speaks_first_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plane = Plane::serve(&tcp(listener.local_addr().unwrap()));
    let mut client = plane.connect("raw");
    let (mut endpoint, _) = listener.accept().unwrap();
    endpoint.write_all(b"220 ready\r\n").unwrap();
    assert_eq!(client.exactly(11), b"220 ready\r\n");
}

#[test]
fn an_endpoint_that_cannot_be_reached_ends_the_connection() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let plane = Plane::serve(&tcp(free));
    let mut client = plane.connect("raw");
    client.expect_end();
    plane.wait_until_idle();
    assert_eq!(plane.metric("handover_closed_connections_total{why=\"upstream_unreachable\"}"), 1);
}

#[test]
fn a_unix_socket_can_be_the_endpoint() {
    let directory = handover_testkit::Workspace::new();
    let path = directory.path("app.sock");
    let _origin = Origin::on_unix("by path", &path);
    let config = format!(
        "{WEB}[services.app]\nendpoints = \"unix:{}\"\n[[routes]]\nservice = \"app\"\n",
        path.display()
    );
    let plane = Plane::serve(&config);
    let mut client = plane.connect("web");
    for _ in 0..5 {
        assert_eq!(client.get("/").expect(200).text(), "by path\n");
    }
    assert_eq!(plane.metric("handover_service_connects_total{service=\"app\"}"), 1);
}

#[test]
fn a_unix_socket_can_be_the_listener() {
    let directory = handover_testkit::Workspace::new();
    let path = directory.path("web.sock");
    let origin = Origin::start("one");
    let config = format!(
        "[listeners.web]\naddress = \"unix:{}\"\n{}",
        path.display(),
        to_endpoints(&[origin.address()], "")
    );
    let _plane = Plane::serve(&config);
    let mut client = Connection::open_unix(&path).unwrap();
    let head = client.get("/head").expect(200).text();
    assert!(head.contains("\r\nX-Forwarded-For: unknown\r\n"), "{head}");
}

#[test]
fn a_websocket_passes_and_outlives_the_idle_limit_of_http() {
    let origin = Origin::start("one");
    let config = format!(
        "{}timeouts = {{ idle = \"1s\" }}\n\n{}",
        WEB.trim_end(),
        to_endpoints(&[origin.address()], "")
    );
    let plane = Plane::serve(&config.replace("0\"timeouts", "0\"\ntimeouts"));
    let mut socket = WebSocket::open(plane.address("web"), "/ws");
    for text in ["a", "hello", &"x".repeat(60_000)] {
        socket.echo(text);
    }
    assert_eq!(plane.metric("handover_open_connections{kind=\"websocket\"}"), 1);
    assert_eq!(plane.metric("handover_requests_total{listener=\"web\",status=\"1xx\"}"), 1);
    drop(socket);
    plane.wait_until_idle();
}

#[test]
fn an_idle_tunnel_holds_no_buffer() {
    let echo = Echo::start();
    let plane = Plane::serve(&tcp(echo.address()));
    let mut tunnels: Vec<_> = (0..10).map(|_| Tunnel::open(plane.address("raw"))).collect();
    for tunnel in &mut tunnels {
        tunnel.echo(b"hello");
    }
    handover_testkit::until("all buffers to be given back", || {
        (plane.service.buffer_bytes() == 0).then_some(())
    });
    for tunnel in &mut tunnels {
        tunnel.echo(b"still there");
    }
}
