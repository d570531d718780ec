//! Every kind of connection goes along when the binary is upgraded, in the middle of whatever it does, and every byte of it
//! is compared. Hazards 17, 19, 20, 26 and 27; what only TLS has is in `upgrade_tls.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::net::Shutdown;
use std::thread;

use handover_testkit::config::{fixed, listener};
use handover_testkit::http::{Connection, Stream, request_bytes};
use handover_testkit::tunnel::{Download, Tunnel};
use handover_testkit::websocket::{TEXT, WebSocket, client_frame};
use handover_testkit::{
    DEADLINE, Everything, Handover, Port, TlsClient, Workspace, handover, pattern, proc, text_at, until,
    wait_for_exit,
};
use serde_json::Value;

/// How connections come to the server: plain, over TLS 1.3, over TLS 1.2.
fn ways(server: &Everything) -> [Option<TlsClient>; 3] {
    [None, Some(server.client().only_tls13()), Some(server.client().only_tls12())]
}

/// A connection to the listener for HTTP.
fn http(server: &Everything, way: &Option<TlsClient>) -> Connection {
    match way {
        None => Connection::open(server.web.address()),
        Some(client) => client.connect(server.secure.address()).connection,
    }
}

/// A connection to the listener for TCP.
fn tcp(server: &Everything, way: &Option<TlsClient>) -> Connection {
    match way {
        None => Connection::open(server.tcp.address()),
        Some(client) => client.connect(server.tls.address()).connection,
    }
}

/// Upgrades, and waits until the old worker is gone: whatever lives now was moved.
#[track_caller]
fn upgrade(server: &Everything, version: &str) -> Value {
    let worker = server.handover.worker();
    let output = server.upgrade_to(version, &[]);
    output.expect_code(0);
    assert!(output.stdout.contains("none cut") && !output.stdout.contains("drained"), "{}", output.stdout);
    assert!(wait_for_exit(worker, DEADLINE), "the old worker ends");
    server.last()
}

/// Hazards 20 and 25: whoever asks at any moment is answered over the same connection, and keys change all the time.
#[test]
fn clients_of_every_kind_that_never_rest_notice_nothing() {
    let server = Everything::start(handover!());
    let crowd = server.crowd();
    let mut idle = server.idle(5);
    crowd.rounds(2);
    for version in ["2", "3", "4"] {
        server.upgrade_to(version, &[]).expect_code(0);
        crowd.rounds(5);
        idle.ask();
    }
    crowd.finish();
}

#[test]
fn idle_connections_go_along_and_hear_nothing_of_it() {
    let server = Everything::start(handover!());
    let mut idle = server.idle(40);
    for version in ["2", "3"] {
        let operation = upgrade(&server, version);
        assert_eq!(
            operation.pointer("/upgrade/moved/http").and_then(Value::as_u64),
            Some(120),
            "{operation}"
        );
        assert_eq!(server.control().status()["connections"], 120);
    }
    idle.ask();
}

#[test]
fn a_head_that_is_half_there_goes_along_and_so_do_requests_that_wait_behind_each_other() {
    let server = Everything::start(handover!());
    let mut halves: Vec<Connection> = ways(&server).iter().map(|way| http(&server, way)).collect();
    for half in &mut halves {
        half.send("GET /bytes/100 HTTP/1.1\r\nHo");
    }
    // Behind one that is held back by the origin stand two more, unread.
    let mut behind: Vec<Connection> = ways(&server).iter().map(|way| http(&server, way)).collect();
    for waiting in &mut behind {
        for path in ["/held?gate=held", "/bytes/3000", "/bytes/70000"] {
            waiting.send(request_bytes("GET", path, &[], b""));
        }
    }
    server.origin.gate("held").arrived(3);
    upgrade(&server, "2");
    for half in &mut halves {
        half.send("st: test\r\n\r\n");
        assert_eq!(half.response("GET").body, pattern::bytes(100));
        assert_eq!(half.get("/bytes/10").body, pattern::bytes(10));
    }
    server.origin.gate("held").open();
    for waiting in &mut behind {
        assert_eq!(waiting.response("GET").text(), "held");
        assert_eq!(waiting.response("GET").body, pattern::bytes(3000));
        assert_eq!(waiting.response("GET").body, pattern::bytes(70_000));
    }
}

#[test]
fn downloads_go_along_in_the_middle_however_their_end_is_told() {
    const LENGTH: usize = 1_000_000;
    let server = Everything::start(handover!());
    let mut by_length = Vec::new();
    let mut others = Vec::new();
    for way in ways(&server) {
        let mut download = Download::over(http(&server, &way), &format!("/slow/{LENGTH}?gate=rest"));
        download.take(LENGTH / 2);
        by_length.push(download);
        for how in ["chunked", "stream"] {
            let mut connection = http(&server, &way);
            let path = format!("/slow/{LENGTH}?gate=rest&how={how}");
            connection.send(request_bytes("GET", &path, &[], b""));
            others.push(connection);
        }
    }
    server.origin.gate("rest").arrived(9);
    upgrade(&server, "2");
    upgrade(&server, "3");
    server.origin.gate("rest").open();
    for download in by_length {
        let mut kept = download.finish();
        assert_eq!(kept.get("/bytes/10").body, pattern::bytes(10), "the connection is kept");
    }
    for mut connection in others {
        assert_eq!(connection.response("GET").body, pattern::bytes(LENGTH));
    }
}

#[test]
fn uploads_go_along_in_the_middle_also_in_the_middle_of_a_chunk() {
    let server = Everything::start(handover!());
    let body = pattern::bytes(600_000);
    let (first, rest) = body.split_at(250_001);
    let mut by_length: Vec<Connection> = ways(&server).iter().map(|way| http(&server, way)).collect();
    for upload in &mut by_length {
        upload.send(format!("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()));
        upload.send(first);
    }
    let mut chunked: Vec<Connection> = ways(&server).iter().map(|way| http(&server, way)).collect();
    for upload in &mut chunked {
        upload.send("POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
        upload.send(format!("{:x}\r\n", body.len()));
        upload.send(first);
    }
    upgrade(&server, "2");
    for upload in &mut by_length {
        upload.send(rest);
        assert_eq!(upload.response("POST").body, body);
    }
    for upload in &mut chunked {
        upload.send(rest);
        upload.send("\r\n0\r\n\r\n");
        assert_eq!(upload.response("POST").body, body);
        assert_eq!(upload.get("/bytes/10").body, pattern::bytes(10));
    }
}

/// What is written and not yet read by the client, in every buffer on its way, is neither lost nor sent twice.
#[test]
fn a_client_that_does_not_read_gets_all_that_was_written_for_it() {
    const LENGTH: usize = 20_000_000;
    let server = Everything::start(handover!());
    let mut downloads: Vec<Download> = ways(&server)
        .iter()
        .map(|way| {
            let mut download = Download::over(http(&server, way), &format!("/bytes/{LENGTH}"));
            download.take(1);
            download
        })
        .collect();
    for version in ["2", "3", "4"] {
        upgrade(&server, version);
        for download in &mut downloads {
            download.take(3_000_000);
        }
    }
    for download in downloads {
        download.finish();
    }
}

#[test]
fn websockets_go_along_in_the_middle_of_a_frame() {
    let server = Everything::start(handover!());
    let mut sockets: Vec<WebSocket> =
        ways(&server).iter().map(|way| WebSocket::upgrade(http(&server, way), "/ws")).collect();
    let text = "half a frame ".repeat(4000);
    let frame = client_frame(TEXT, text.as_bytes());
    for version in ["2", "3"] {
        for socket in &mut sockets {
            socket.echo("before");
            socket.connection().send(&frame[..frame.len() / 2]);
        }
        let operation = upgrade(&server, version);
        let moved = operation.pointer("/upgrade/moved/websocket").and_then(Value::as_u64);
        assert_eq!(moved, Some(3), "{operation}");
        for socket in &mut sockets {
            socket.connection().send(&frame[frame.len() / 2..]);
            let (_, back) = socket.try_frame().unwrap();
            assert_eq!(back, text.as_bytes());
            socket.echo("after");
        }
    }
}

#[test]
fn tunnels_go_along_with_everything_that_is_in_them() {
    /// More than all buffers on the way hold, there and back.
    const TIMES: usize = 60;
    let server = Everything::start(handover!());
    let mut quiet: Vec<Connection> = ways(&server).iter().map(|way| tcp(&server, way)).collect();
    for tunnel in &mut quiet {
        tunnel.send("before");
        assert_eq!(tunnel.exactly(6), b"before");
    }
    let piece = pattern::bytes(1_000_000);
    thread::scope(|scope| {
        // Filled until nobody on the way can take any more.
        let mut full: Vec<Connection> = Vec::new();
        for _ in 0..2 {
            let (stream, _) = Connection::open(server.tcp.address()).into_stream();
            let Stream::Tcp(stream) = stream else { panic!("TCP is TCP") };
            let mut writing = stream.try_clone().unwrap();
            let piece = &piece;
            scope.spawn(move || {
                for _ in 0..TIMES {
                    writing.write_all(piece).unwrap();
                }
                writing.shutdown(Shutdown::Write).unwrap();
            });
            let mut tunnel = Connection::over(Stream::Tcp(stream)).unwrap();
            // Something has come back: it is open on both sides.
            assert_eq!(tunnel.exactly(1), piece[..1]);
            full.push(tunnel);
        }
        let operation = upgrade(&server, "2");
        assert_eq!(operation.pointer("/upgrade/moved/tcp").and_then(Value::as_u64), Some(5), "{operation}");
        upgrade(&server, "3");
        for tunnel in &mut full {
            assert!(tunnel.exactly(piece.len() - 1) == piece[1..], "other bytes came back");
            for _ in 1..TIMES {
                assert!(tunnel.exactly(piece.len()) == piece, "other bytes came back");
            }
            tunnel.expect_end();
        }
    });
    for tunnel in &mut quiet {
        tunnel.send("after");
        assert_eq!(tunnel.exactly(5), b"after");
    }
    assert_eq!(server.echo.accepted(), 5, "no tunnel was opened again");
}

/// A client has said that it sends no more, and the other side goes on for as long as it likes.
#[test]
fn a_tunnel_of_which_one_direction_is_over_goes_along() {
    let server = Everything::start(handover!());
    for way in ways(&server) {
        let mut socket = WebSocket::upgrade(http(&server, &way), "/ws");
        socket.echo("before");
        upgrade(&server, "next");
        socket.echo("after");
        socket.connection().finish();
        // The origin ends its side when it has seen the end of the other.
        assert_eq!(socket.connection().try_rest().unwrap(), b"");
    }
}

/// Every counter in a Prometheus text, by name and labels.
fn counters(text: &str) -> Vec<(String, f64)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            let counts = name.split('{').next()?.ends_with("_total");
            counts.then(|| Some((name.to_owned(), value.parse().ok()?)))?
        })
        .collect()
}

/// Hazard 27: the listeners for control and metrics travel, and no counter ever goes back.
#[test]
fn control_and_metrics_travel_and_no_counter_ever_goes_back() {
    let server = Everything::start(handover!());
    let mut scraper = Connection::open(server.metrics.address());
    let mut kept = server.connect();
    for _ in 0..20 {
        assert_eq!(kept.get("/bytes/1000").body, pattern::bytes(1000));
    }
    let listening = proc::listeners(server.metrics.number());
    let mut before = counters(&scraper.get("/metrics").text());
    assert!(before.iter().any(|(name, value)| name.contains("requests") && *value > 10.0), "{before:?}");
    for version in ["2", "3"] {
        upgrade(&server, version);
        let now = counters(&scraper.get("/metrics").text());
        for (name, value) in &before {
            let found = now.iter().find(|(other, _)| other == name);
            assert!(found.is_some_and(|(_, now)| now >= value), "{name}: {value}, then {found:?}");
        }
        before = now;
        assert_eq!(proc::listeners(server.metrics.number()), listening, "the very same socket");
    }
    assert_eq!(kept.get("/bytes/10").body, pattern::bytes(10));
    assert_eq!(text_at(&server.control().status(), "/phase"), "serving");
}

/// Hazard 19: what waits in the accept queue is accepted, whoever accepts by then.
#[test]
fn nobody_who_waits_to_be_accepted_is_lost() {
    const AT_ONCE: usize = 100;
    let server = Everything::start(handover!());
    let listening = proc::listeners(server.web.number());
    for version in ["2", "3"] {
        let worker = server.handover.worker();
        let upgrading = server.begin_upgrade_to(version, &[]);
        let mut count = 0;
        // Whole bursts come, until the other worker serves.
        while !upgrading.is_finished() || count == 0 {
            let mut burst: Vec<Connection> =
                (0..AT_ONCE).map(|_| Connection::open(server.web.address())).collect();
            for connection in &mut burst {
                connection.send(request_bytes("GET", "/bytes/100", &[("Connection", "close")], b""));
            }
            for connection in &mut burst {
                assert_eq!(connection.response("GET").body, pattern::bytes(100));
            }
            count += AT_ONCE;
        }
        upgrading.join().unwrap().expect_code(0);
        assert_ne!(server.handover.worker(), worker);
    }
    assert_eq!(proc::listeners(server.web.number()), listening, "the very same sockets");
}

/// Hazard 26: the path of a Unix socket belongs to whoever serves there.
#[test]
fn the_path_of_a_unix_socket_stays_through_upgrades_and_goes_with_the_server() {
    use std::os::unix::fs::MetadataExt as _;
    let workspace = Workspace::new();
    let program = handover_testkit::Program::install(&workspace, handover!());
    let path = workspace.path("run/web.sock");
    let text = format!("[listeners.web]\naddress = \"unix:{}\"\n\n{}", path.display(), fixed("/", "here"));
    let mut server = Handover::of(program.path(), &workspace).config(text).start();
    let inode = || std::fs::metadata(&path).unwrap().ino();
    let before = inode();
    let mut kept = Connection::open_unix(&path).unwrap();
    assert_eq!(kept.get("/").text(), "here");
    for version in ["2", "3"] {
        program.replace(version);
        let worker = server.worker();
        server.cli(["upgrade"]).expect_code(0);
        assert!(wait_for_exit(worker, DEADLINE));
        assert_eq!(inode(), before);
        assert_eq!(kept.get("/").text(), "here");
        assert_eq!(Connection::open_unix(&path).unwrap().get("/").text(), "here");
    }
    server.terminate().expect_code(0);
    assert!(!path.exists(), "its last owner unlinks it");
}

/// Hazard 17: no number of listeners or connections is too many for a message.
#[test]
fn more_listeners_and_connections_than_fit_into_one_message_go_along() {
    const LISTENERS: usize = 300;
    let ports: Vec<Port> = (0..LISTENERS).map(|_| Port::claim()).collect();
    let more: String =
        ports.iter().enumerate().map(|(n, port)| listener(&format!("more-{n}"), port)).collect();
    let server = Everything::start_with(handover!(), &more, |it| it);
    let mut kept: Vec<Connection> = ports.iter().map(|port| Connection::open(port.address())).collect();
    for connection in &mut kept {
        assert_eq!(connection.get("/bytes/10").body, pattern::bytes(10));
    }
    let mut idle = server.idle(150);
    for version in ["2", "3"] {
        upgrade(&server, version);
    }
    for connection in &mut kept {
        assert_eq!(connection.get("/bytes/20").body, pattern::bytes(20));
    }
    idle.ask();
}

/// Hazard 17: a receiver that may not have more descriptors says so, and nothing has happened.
#[test]
fn a_candidate_without_room_for_all_descriptors_is_sent_away_or_copes() {
    let server = Everything::start_with(handover!(), "", |builder| builder.descriptors(150));
    let mut kept: Vec<Connection> = (0..40).map(|_| server.connect()).collect();
    for connection in &mut kept {
        assert_eq!(connection.get("/bytes/10").body, pattern::bytes(10));
    }
    let output = server.upgrade_to("2", &[]);
    assert!([0, 11].contains(&output.code), "{}", output.all());
    for connection in &mut kept {
        assert_eq!(connection.get("/bytes/20").body, pattern::bytes(20));
    }
    assert_eq!(server.get("/").text(), "origin\n");
}

/// Hazard 17: what a worker is told comes with descriptors. If it has no room for them, what it serves must not be lost with them.
#[test]
fn a_worker_with_as_many_connections_as_it_can_have_is_reloaded_and_upgraded() {
    let (workspace, port) = (Workspace::new(), Port::claim());
    let config = |body: &str| listener("web", &port) + &fixed("/", body);
    let server = Handover::of(handover!(), &workspace).config(config("1")).descriptors(150).start();
    let worker = server.worker();
    let mut kept: Vec<Connection> = (0..60).map(|_| Connection::open(port.address())).collect();
    let ask_all = |kept: &mut Vec<Connection>, body: &str| {
        kept.iter_mut().for_each(|connection| assert_eq!(connection.get("/").text(), body));
    };
    ask_all(&mut kept, "1");
    let waiting: Vec<Connection> = (0..150).map(|_| Connection::open(port.address())).collect();
    until("no more are accepted", || {
        let metrics = server.cli(["metrics"]).stdout;
        let line = metrics.lines().find(|line| line.starts_with("handover_accept_errors_total "))?;
        (!line.ends_with(" 0")).then_some(())
    });
    let output = server.reload_with(config("2"));
    assert!([0, 10].contains(&output.code), "{}", output.all());
    let body = if output.code == 0 { "2" } else { "1" };
    ask_all(&mut kept, body);
    assert_eq!(server.worker(), worker, "it is still the same");
    let output = server.cli(["upgrade"]);
    assert!([0, 11].contains(&output.code), "{}", output.all());
    assert!(!output.all().contains(" cut ("), "{}", output.all());
    ask_all(&mut kept, body);
    drop(waiting);
    server.cli(["upgrade"]).expect_code(0);
    ask_all(&mut kept, body);
}

/// The connections to endpoints that are kept go along too: nobody has to make them anew.
#[test]
fn kept_connections_to_endpoints_go_along() {
    let server = Everything::start(handover!());
    let mut kept = server.connect();
    assert_eq!(kept.get("/").text(), "origin\n");
    let made = server.origin.connections();
    for version in ["2", "3"] {
        upgrade(&server, version);
        assert_eq!(kept.get("/").text(), "origin\n");
    }
    assert_eq!(server.origin.connections(), made, "the origin has met nobody new");
}

/// What the operator's tools count is true afterwards.
#[test]
fn what_is_listed_after_an_upgrade_is_what_is_open() {
    let server = Everything::start(handover!());
    let mut socket = WebSocket::open(server.web.address(), "/ws");
    socket.echo("here");
    let mut tunnel = Tunnel::open(server.tcp.address());
    tunnel.echo(b"here");
    let idle = server.idle(1);
    upgrade(&server, "2");
    let listed = server.control().get("/v1/connections");
    let listed = listed.as_array().unwrap();
    let kinds = |kind: &str| listed.iter().filter(|one| text_at(one, "/kind") == kind).count();
    assert_eq!((kinds("http"), kinds("websocket"), kinds("tcp")), (3, 1, 1), "{listed:?}");
    socket.echo("still here");
    tunnel.echo(b"still here");
    drop((socket, tunnel, idle));
    until("nothing is open any more", || (server.control().status()["connections"] == 0).then_some(()));
}
