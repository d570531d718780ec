//! Bytes passed unread: TCP listeners and upgraded connections.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use common::{Plane, WEB, to_endpoints};
use handover::Service as _;
use handover_testkit::echo::Echo;
use handover_testkit::http::Connection;
use handover_testkit::origin::Origin;
use handover_testkit::tunnel::Tunnel;
use handover_testkit::websocket::WebSocket;
use handover_testkit::{DEADLINE, Port, pattern};

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
fn a_tunnel_on_which_nobody_speaks_outlives_the_limit_for_connecting() {
    let echo = Echo::start();
    let clock = "connect_timeout = \"600ms\"\n\n\
                 [listeners.clock]\naddress = \"127.0.0.1:0\"\ntimeouts = { header = \"1500ms\" }\n";
    let plane = Plane::serve_with(1, &[&tcp(echo.address()), clock].concat());
    let mut tunnel = Tunnel::open(plane.address("raw"));
    handover_testkit::until("the endpoint to be connected", || (echo.accepted() == 1).then_some(()));
    // Nothing is said there either, until its limit is over.
    plane.connect("clock").expect_end();
    assert_eq!(plane.metric("handover_open_connections{kind=\"tcp\"}"), 1);
    tunnel.echo(b"hello");
}

#[test]
fn a_tunnel_does_not_take_the_kept_connections_of_requests() {
    let origin = Origin::start("one");
    let config = [&tcp(origin.address()), "\n[[routes]]\nservice = \"app\"\n\n", WEB].concat();
    let plane = Plane::serve_with(1, &config);
    let mut client = plane.connect("web");
    let _ = client.get("/").expect(200);
    let mut tunnel = plane.connect("raw");
    assert_eq!(tunnel.get("/").expect(200).text(), "one\n");
    assert_eq!(plane.metric("handover_idle_upstream_connections"), 1);
    assert_eq!(plane.metric("handover_service_reused_connections_total{service=\"app\"}"), 0);
    let _ = client.get("/").expect(200);
    assert_eq!(origin.connections(), 2);
}

/// Closes a socket so that its peer gets a reset.
fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(stream);
}

fn read_end(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_tunnel_ends_when_a_client_that_had_finished_goes_away() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plane = Plane::serve(&tcp(listener.local_addr().unwrap()));
    let client = TcpStream::connect(plane.address("raw")).unwrap();
    let (mut endpoint, _) = listener.accept().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    read_end(&mut endpoint);
    // The endpoint says nothing, so that nothing is written to the client, which would show it.
    reset(client);
    plane.wait_until_idle();
    assert_eq!(plane.metric("handover_closed_connections_total{why=\"client_gone\"}"), 1);
    read_end(&mut endpoint);
}

#[test]
fn a_tunnel_ends_when_an_endpoint_that_had_finished_goes_away() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plane = Plane::serve(&tcp(listener.local_addr().unwrap()));
    let mut client = TcpStream::connect(plane.address("raw")).unwrap();
    let (endpoint, _) = listener.accept().unwrap();
    endpoint.shutdown(Shutdown::Write).unwrap();
    read_end(&mut client);
    reset(endpoint);
    plane.wait_until_idle();
    assert_eq!(plane.metric("handover_closed_connections_total{why=\"upstream_cut\"}"), 1);
}

#[test]
fn an_endpoint_that_cannot_be_reached_ends_the_connection() {
    let free = Port::claim();
    let plane = Plane::serve(&tcp(free.address()));
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

/// The connections that are listed, as soon as there are so many in this state.
#[track_caller]
fn shown(plane: &Plane, state: &str, count: usize) -> Vec<serde_json::Value> {
    handover_testkit::until(&format!("{count} connections in state {state}"), || {
        let list: Vec<serde_json::Value> = serde_json::from_str(&plane.service.connections()).unwrap();
        let found: Vec<_> = list.into_iter().filter(|one| one["state"] == state).collect();
        (found.len() == count).then_some(found)
    })
}

#[test]
fn open_connections_are_listed_with_what_they_do() {
    let (origin, echo) = (Origin::start("one"), Echo::start());
    let config =
        [WEB, &to_endpoints(&[origin.address()], ""), &tcp(echo.address()).replace("app", "echo")].concat();
    let plane = Plane::serve(&config);
    assert_eq!(plane.service.connections(), "[]");
    let mut tunnel = Tunnel::open(plane.address("raw"));
    tunnel.echo(b"hello");
    let mut socket = WebSocket::open(plane.address("web"), "/ws");
    socket.echo("hello");
    let mut held = plane.connect("web");
    held.send("GET /held?gate=g HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut reading = plane.connect("web");
    reading.send("GET /");
    let mut idle = plane.connect("web");
    let _ = idle.get("/").expect(200);

    let one = &shown(&plane, "waiting", 1)[0];
    assert_eq!(
        (&one["kind"], &one["service"], &one["bytes_in"]),
        (&"http".into(), &"app".into(), &38.into())
    );
    assert_eq!(one["endpoint"], origin.address().to_string());
    let one = &shown(&plane, "reading", 1)[0];
    assert_eq!(
        (&one["client"], &one["bytes_in"], &one["bytes_out"]),
        (&"127.0.0.1".into(), &5.into(), &0.into())
    );
    let one = &shown(&plane, "idle", 1)[0];
    assert!(one["bytes_in"].as_u64() > Some(0) && one["bytes_out"].as_u64() > Some(0), "{one}");
    assert!(one["age_ms"].is_u64() && one["service"].is_null(), "{one}");
    let tunnels = shown(&plane, "open", 2);
    let raw = tunnels.iter().find(|one| one["kind"] == "tcp").unwrap();
    assert_eq!((&raw["listener"], &raw["service"]), (&"raw".into(), &"echo".into()));
    assert_eq!((&raw["bytes_in"], &raw["bytes_out"]), (&5.into(), &5.into()));
    let web = tunnels.iter().find(|one| one["kind"] == "websocket").unwrap();
    assert_eq!((&web["listener"], &web["endpoint"]), (&"web".into(), &origin.address().to_string().into()));
    origin.gate("g").open();
    let _ = held.response("GET").expect(200);
}

#[test]
fn tunnels_leave_a_line_in_the_access_log_when_they_end() {
    let (origin, echo) = (Origin::start("one"), Echo::start());
    for format in ["json", "text"] {
        let files = handover_testkit::Workspace::new();
        let log = files.path("access.log");
        let config = [
            WEB,
            &to_endpoints(&[origin.address()], ""),
            &tcp(echo.address()).replace("app", "echo"),
            &format!("[log]\nformat = \"{format}\"\naccess = \"{}\"\n", log.display()),
        ]
        .concat();
        let plane = Plane::serve(&config);
        let mut tunnel = Tunnel::open(plane.address("raw"));
        tunnel.echo(b"hello");
        drop(tunnel);
        // Threads write their lines one after the other, not in the order of what happened.
        handover_testkit::until("the line of the tunnel", || {
            std::fs::read_to_string(&log).unwrap_or_default().ends_with('\n').then_some(())
        });
        let mut socket = WebSocket::open(plane.address("web"), "/ws");
        socket.echo("hello");
        drop(socket);
        let text = handover_testkit::until("three lines in the access log", || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            (text.lines().count() >= 3).then_some(text)
        });
        let lines: Vec<_> = text.lines().collect();
        if format == "text" {
            assert!(lines[0].contains("] \"tcp raw\" "), "{text}");
            assert!(
                lines[0].contains(" 5 5 0.") && lines[0].ends_with(&echo.address().to_string()),
                "{text}"
            );
            assert!(lines[2].contains("] \"websocket web\" "), "{text}");
            continue;
        }
        let line = |number: usize| serde_json::from_str::<serde_json::Value>(lines[number]).unwrap();
        let (raw, request, web) = (line(0), line(1), line(2));
        assert_eq!(
            (&raw["kind"], &raw["listener"], &raw["client"]),
            (&"tcp".into(), &"raw".into(), &"127.0.0.1".into())
        );
        assert_eq!((&raw["bytes_in"], &raw["bytes_out"]), (&5.into(), &5.into()));
        assert!(raw["seconds"].is_f64() && raw["end"].is_string(), "{raw}");
        assert_eq!(raw["endpoint"], echo.address().to_string());
        assert_eq!((&request["status"], &request["target"]), (&101.into(), &"/ws".into()));
        assert_eq!(
            (&web["kind"], &web["endpoint"]),
            (&"websocket".into(), &origin.address().to_string().into())
        );
    }
}
