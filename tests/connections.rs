//! Connections that a reload does not concern are not touched by it: hazard 22, and what follows from it; hazards 20 and 23.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use handover_testkit::config::{drain, everything_to, fixed, service, tcp_listener};
use handover_testkit::echo::Echo;
use handover_testkit::http::Connection;
use handover_testkit::origin::Origin;
use handover_testkit::pattern;
use handover_testkit::tunnel::{Download, Tunnel};
use handover_testkit::websocket::WebSocket;
use handover_testkit::{Port, Serving, handover, text_at, until};

/// Hazard 22.
#[test]
fn websockets_downloads_and_tunnels_live_through_reloads_that_do_not_concern_them() {
    const RELOADS: usize = 10;
    let (origin, echo, tunnel_port) = (Origin::start("origin"), Echo::start(), Port::claim());
    let rest = |number: usize| {
        [
            tcp_listener("tunnel", &tunnel_port, "echo"),
            service("origin", origin.address()),
            service("echo", echo.address()),
            everything_to("origin"),
            fixed("/version", number),
            // A route that comes and goes.
            if number.is_multiple_of(2) { fixed("/even", "even") } else { String::new() },
        ]
        .concat()
    };
    let server = Serving::start(handover!(), &rest(0));
    let mut sockets: Vec<WebSocket> = (0..5).map(|_| WebSocket::open(server.address(), "/ws")).collect();
    let mut tunnel = Tunnel::open(tunnel_port.address());
    let mut download = Download::begin(server.address(), "/slow/1000000?gate=rest");
    let mut kept = Connection::open(server.address());
    let client = kept.local_address();
    for number in 1..=RELOADS {
        server.reload(&rest(number)).expect_code(0);
        for socket in &mut sockets {
            socket.echo("still there?");
        }
        tunnel.echo(b"still there?");
        download.take(1000);
        assert_eq!(kept.get("/version").text(), number.to_string());
    }
    assert_eq!(kept.local_address(), client, "one client connection served by every generation");
    assert_eq!(echo.accepted(), 1, "the tunnel was never opened again");
    origin.gate("rest").open();
    download.finish();
    let websockets = origin.requests().iter().filter(|request| request.path() == "/ws").count();
    assert_eq!(websockets, 5, "no WebSocket was opened again");
}

/// A request that began on one generation ends on it.
#[test]
fn a_request_in_flight_ends_on_the_generation_it_began_with() {
    let (old, new) = (Origin::start("old"), Origin::start("new"));
    let rest = |origin: &Origin| service("app", origin.address()) + &everything_to("app");
    let server = Serving::start(handover!(), &rest(&old));
    let mut held = Connection::open(server.address());
    held.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
    old.gate("gate").arrived(1);
    let mut upload = Connection::open(server.address());
    let body = pattern::bytes(100_000);
    upload.send(format!("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()));
    upload.send(&body[..50_000]);

    server.reload(&rest(&new)).expect_code(0);
    assert_eq!(server.text("/name"), "new\n");
    old.gate("gate").open();
    assert_eq!(held.response("GET").text(), "held");
    upload.send(&body[50_000..]);
    assert_eq!(upload.response("POST").body, body);
    // And the same connections go on with the new generation.
    assert_eq!(held.get("/name").text(), "new\n");
    assert_eq!(upload.get("/name").text(), "new\n");
}

/// A listener that is removed stops taking connections; what it has taken ends by itself.
#[test]
fn a_removed_listener_takes_no_more_and_lets_its_connections_end() {
    let (origin, other) = (Origin::start("origin"), Port::claim());
    let rest = service("origin", origin.address()) + &everything_to("origin");
    let both = handover_testkit::config::listener("other", &other) + &rest;
    let server = Serving::start(handover!(), &both);
    let mut held = Download::begin(other.address(), "/slow/200000?gate=rest");
    held.take(1000);
    let operation = {
        server.write(&rest);
        server.handover.control.reload()
    };
    assert_eq!(text_at(&operation, "/outcome"), "applied", "{operation}");
    let refused = Connection::try_open(other.address()).expect_err("nobody listens any more");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    origin.gate("rest").open();
    held.finish();
    assert_eq!(server.text("/"), "origin\n");
}

/// Hazard 20's rule: where a kept connection must close, the last response says so first.
#[test]
fn a_kept_connection_of_a_removed_listener_is_told_before_it_is_closed() {
    let (origin, other) = (Origin::start("origin"), Port::claim());
    let rest = service("origin", origin.address()) + &everything_to("origin");
    let server = Serving::start(handover!(), &(handover_testkit::config::listener("other", &other) + &rest));
    let mut kept = Connection::open(other.address());
    kept.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
    origin.gate("gate").arrived(1);
    server.reload(&rest).expect_code(0);
    origin.gate("gate").open();
    let last = kept.response("GET");
    assert!(last.head.closes(), "{}", String::from_utf8_lossy(&last.head.raw));
    kept.expect_end();
}

/// Hazard 23: who loses a connection comes back at once, and not everybody may do so in the same moment.
#[test]
fn idle_connections_are_not_all_closed_at_once_when_the_server_drains() {
    const KEPT: usize = 200;
    let origin = Origin::start("origin");
    let rest = [service("origin", origin.address()), everything_to("origin"), drain("60s")].concat();
    let server = Serving::start(handover!(), &rest);
    let mut kept: Vec<Connection> = (0..KEPT).map(|_| Connection::open(server.address())).collect();
    for connection in &mut kept {
        assert_eq!(connection.get("/").text(), "origin\n");
    }
    let draining = server.handover.control.begin("/v1/drain", &[]);
    let open_at_first = until("the first is closed", || {
        let open = kept.iter_mut().filter_map(|one| one.is_open().then_some(())).count();
        (open < KEPT).then_some(open)
    });
    assert!(open_at_first > 0, "all were closed at once");
    for connection in &mut kept {
        connection.expect_end();
    }
    drop(draining);
}
