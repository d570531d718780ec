//! What becomes of each kind of connection when live connections move: at once, late, or never.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::moves::{Move, Scene, hand_over};
use common::{Plane, WEB, to_endpoints};
use handover::Service as _;
use handover::moving::{FrozenView, Moving as _, Piece, Probe};
use handover_testkit::http::{Connection, Response, request_bytes};
use handover_testkit::origin::Origin;
use handover_testkit::tls::origin_config;
use handover_testkit::websocket::WebSocket;
use handover_testkit::{Authority, DEADLINE, Workspace, pattern, until};

const OPEN_HTTP: &str = "handover_open_connections{kind=\"http\"}";
const OPEN_TLS: &str = "handover_open_connections{kind=\"tls_handshake\"}";
const OPEN_ON_WEB: &str = "handover_listener_open_connections{listener=\"web\"}";
const ACCEPTED: &str = "handover_listener_accepted_connections_total{listener=\"web\"}";

/// It is an answer.
#[track_caller]
fn ok(response: &Response) {
    assert_eq!(response.status(), 200);
}

/// Sends a request, and waits until it is with the origin.
fn ask_and_wait(scene: &Scene, connection: &mut Connection, target: &str) {
    let before = scene.origin.requests().len();
    connection.send(request_bytes("GET", target, &[], b""));
    let _ = scene.origin.wait_for_requests(before + 1);
}

#[test]
fn who_stands_by_accepts_nothing_and_serves_when_it_is_told_to() {
    let scene = Scene::new([2, 2]);
    let [first, second] = &scene.planes;
    for _ in 0..20 {
        assert_eq!(scene.plain("web").get("/").expect(200).text(), "one\n");
    }
    assert_eq!((first.metric(ACCEPTED), second.metric(ACCEPTED)), (20, 0));
    hand_over(first, second);
    for _ in 0..20 {
        assert_eq!(scene.plain("web").get("/").expect(200).text(), "one\n");
    }
    assert_eq!((first.metric(ACCEPTED), second.metric(ACCEPTED)), (20, 40), "totals go on");
}

#[test]
fn what_waits_in_the_queue_while_nobody_accepts_is_served_by_the_next() {
    let scene = Scene::new([1, 1]);
    let [first, second] = &scene.planes;
    let going = Move::begin(first, second);
    let frozen = going.freeze();
    let mut waiting = scene.plain("web");
    waiting.send(request_bytes("GET", "/", &[], b""));
    second.service.adopt(3, FrozenView::from(frozen)).unwrap();
    second.service.serve();
    assert_eq!(waiting.response("GET").expect(200).text(), "one\n");
    first.service.release();
    assert_eq!((first.metric(OPEN_HTTP), second.metric(OPEN_HTTP)), (0, 1));
}

#[test]
fn gauges_follow_the_connections_and_limits_hold_on_the_other_side() {
    let config = [
        "[listeners.web]\naddress = \"127.0.0.1:0\"\nlimits = { connections = 2 }\n\n",
        "[[routes]]\nfixed = \"hello\"\n",
    ];
    let first = Plane::serve(&config.concat());
    let second = first.candidate(2);
    let mut open = [first.connect("web"), first.connect("web")];
    open.iter_mut().for_each(|connection| ok(&connection.get("/")));
    let moved = hand_over(&first, &second);
    assert_eq!(moved.into_iter().collect::<Vec<_>>(), [("http".to_owned(), 2)]);
    assert_eq!([&first, &second].map(|plane| plane.metric(OPEN_ON_WEB)), [0, 2]);
    assert_eq!([&first, &second].map(|plane| plane.service.open_by_thread().iter().sum::<u32>()), [0, 2]);
    let mut third = first.connect("web");
    third.send(request_bytes("GET", "/", &[], b""));
    until("the listener to be full", || {
        (second.metric("handover_listener_full_total{listener=\"web\"}") > 0).then_some(())
    });
    let [mut one, other] = open;
    ok(&one.get("/"));
    drop((one, other));
    ok(&third.response("GET"));
    drop(third);
    second.wait_until_idle();
    assert_eq!(second.service.buffer_bytes(), 0);
}

#[test]
fn requests_that_wait_for_their_answer_move_and_get_it() {
    let scene = Scene::new([1, 2]);
    let [first, second] = &scene.planes;
    let mut waiting: Vec<Connection> =
        vec![scene.plain("web"), scene.secure("secure"), scene.tls12("secure")];
    for (number, connection) in waiting.iter_mut().enumerate() {
        ask_and_wait(&scene, connection, &format!("/held?gate={number}"));
    }
    assert_eq!(hand_over(first, second)["http"], 3);
    assert_eq!(second.metric("handover_service_active{service=\"app\"}"), 3);
    assert_eq!(first.metric("handover_service_active{service=\"app\"}"), 0);
    for (number, connection) in waiting.iter_mut().enumerate() {
        scene.origin.gate(&number.to_string()).open();
        assert_eq!(connection.response("GET").expect(200).text(), "held");
        ok(&connection.get("/bytes/5"));
    }
    assert_eq!(second.metric("handover_requests_total{listener=\"web\",status=\"2xx\"}"), 2);
}

#[test]
fn kept_connections_to_endpoints_move_and_are_used_again() {
    let scene = Scene::new([1, 1]);
    let [first, second] = &scene.planes;
    let mut connection = scene.plain("web");
    ok(&connection.get("/"));
    until("a kept connection", || (first.metric("handover_idle_upstream_connections") == 1).then_some(()));
    hand_over(first, second);
    ok(&connection.get("/"));
    hand_over(second, first);
    ok(&connection.get("/"));
    assert_eq!(scene.origin.connections(), 1, "one connection served all three");
    assert_eq!(first.metric("handover_service_reused_connections_total{service=\"app\"}"), 2);
    // The endpoint closes it while nobody looks: it is not used.
    let going = Move::begin(first, second);
    let frozen = going.freeze();
    scene.origin.cut();
    second.service.adopt(3, FrozenView::from(frozen)).unwrap();
    second.service.serve();
    first.service.release();
    ok(&connection.get("/"));
    assert_eq!(scene.origin.connections(), 2);
}

#[test]
fn a_tunnel_over_tls_to_an_endpoint_that_is_no_longer_configured_moves_again_and_again() {
    let root = Authority::new("root");
    let workspace = Workspace::new();
    std::fs::write(workspace.path("ca.pem"), root.pem()).unwrap();
    let origin = |name: &str| Origin::tls(name, origin_config(&root.pair(&["app.internal"]), None));
    let (old, new) = (origin("old"), origin("new"));
    let config = |origin: &Origin| {
        let tls = "[services.app.tls]\nca = \"ca.pem\"\nserver_name = \"app.internal\"\n";
        [WEB, &to_endpoints(&[origin.address()], tls)].concat()
    };
    let mut first = Plane::serve_in(workspace, 1, &config(&old));
    let mut held = WebSocket::upgrade(first.connect("web"), "/ws");
    held.echo("before");
    first.load(&config(&new)).unwrap();
    let second = first.candidate(1);
    for _ in 0..2 {
        assert_eq!(hand_over(&first, &second)["websocket"], 1);
        held.echo("there");
        assert_eq!(hand_over(&second, &first)["websocket"], 1);
        held.echo("and back");
    }
}

#[test]
fn an_answer_of_our_own_ends_where_it_began_and_its_connection_comes_late() {
    // More than what the kernel keeps of it on the way.
    const LENGTH: usize = 48_000_000;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("big"), pattern::bytes(LENGTH)).unwrap();
    let root = directory.path().display();
    let route = format!("[[routes]]\npath_prefix = \"/own\"\ndirectory = \"{root}\"\n\n");
    let scene = Scene::with([1, 2], &route);
    let [first, second] = &scene.planes;
    for tls in [false, true] {
        let mut connection = if tls { scene.secure("secure") } else { scene.plain("web") };
        connection.send(request_bytes("GET", "/own/big", &[], b""));
        let head = connection.head();
        assert_eq!((head.status, head.closes()), (200, false));
        let committed = Move::begin(first, second).commit();
        assert_eq!(committed.moved.get("http"), None, "it is not finished yet");
        assert_eq!((first.metric(OPEN_HTTP), second.metric(OPEN_HTTP)), (1, 0));
        assert_eq!(connection.exactly(LENGTH), pattern::bytes(LENGTH));
        committed.finish();
        assert_eq!((first.metric(OPEN_HTTP), second.metric(OPEN_HTTP)), (0, 1));
        ok(&connection.get("/bytes/10"));
        drop(connection);
        second.wait_until_idle();
        hand_over(second, first);
    }
}

#[test]
fn a_handshake_ends_where_it_began_and_its_connection_comes_late() {
    let scene = Scene::new([1, 1]);
    let [first, second] = &scene.planes;
    for name in ["secure", "sealed"] {
        let stream = TcpStream::connect(first.address(name)).unwrap();
        until("a handshake", || (first.metric(OPEN_TLS) == 1).then_some(()));
        let committed = Move::begin(first, second).commit();
        assert!(committed.moved.is_empty());
        let mut connection = scene.client().handshake(stream).unwrap().connection;
        committed.finish();
        if name == "secure" {
            assert_eq!(second.metric(OPEN_HTTP), 1);
            ok(&connection.get("/bytes/100"));
        } else {
            connection.send(b"through the tunnel");
            assert_eq!(connection.exactly(18), b"through the tunnel");
        }
        drop(connection);
        second.wait_until_idle();
        hand_over(second, first);
    }
    assert_eq!(
        first.metric("handover_tls_handshakes_total{listener=\"secure\",version=\"TLSv1.3\",resumed=\"no\"}"),
        1
    );
}

#[test]
fn half_closed_tunnels_stay_half_closed() {
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = format!(
        "[listeners.raw]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nservice = \"app\"\n\n\
         [services.app]\nendpoints = \"{}\"\n",
        endpoint.local_addr().unwrap()
    );
    let first = Plane::serve(&config);
    let second = first.candidate(1);
    let mut client = TcpStream::connect(first.address("raw")).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (mut server, _) = endpoint.accept().unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut question = Vec::new();
    server.read_to_end(&mut question).unwrap();
    assert_eq!(question, b"question");
    assert_eq!(hand_over(&first, &second)["tcp"], 1);
    server.write_all(b"answer").unwrap();
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    hand_over(&second, &first);
    drop(server);
    assert_eq!((&answer, client.read(&mut [0; 1]).unwrap()), (b"answer", 0));
    first.wait_until_idle();
    assert_eq!(second.metric("handover_open_connections{kind=\"tcp\"}"), 0);
}

#[test]
fn who_leaves_in_the_middle_of_a_move_is_noticed_by_whoever_serves() {
    let scene = Scene::new([2, 2]);
    let [first, second] = &scene.planes;
    let connect = || {
        let mut connection = scene.plain("web");
        ok(&connection.get("/"));
        connection
    };
    // Before, while its socket is open twice; while all stand still; afterwards.
    let clients = [connect(), connect(), connect()];
    let going = Move::begin(first, second);
    let [before, still, after] = clients;
    drop(before);
    until("its end", || (first.metric(OPEN_HTTP) == 2).then_some(()));
    let frozen = going.freeze();
    drop(still);
    second.service.adopt(3, FrozenView::from(frozen)).unwrap();
    second.service.serve();
    first.service.release();
    until("its end", || (second.metric(OPEN_HTTP) == 1).then_some(()));
    drop(after);
    second.wait_until_idle();
    first.wait_until_idle();
}

#[test]
fn a_connection_that_we_close_after_its_socket_was_sent_ends_for_its_client() {
    let scene = Scene::new([1, 1]);
    let [first, second] = &scene.planes;
    let mut connections = [scene.plain("web"), scene.secure("secure")];
    for connection in &mut connections {
        ok(&connection.get("/"));
    }
    let going = Move::begin(first, second);
    for connection in &mut connections {
        connection.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        ok(&connection.response("GET"));
        connection.expect_end();
    }
    going.thaw();
}

#[test]
fn what_cannot_be_read_is_refused_and_the_giver_goes_on() {
    let scene = Scene::new([2, 2]);
    let [first, second] = &scene.planes;
    let mut connection = scene.secure("secure");
    ok(&connection.get("/"));
    for damage in 0..4 {
        let going = Move::begin(first, second);
        let mut view = FrozenView::from(going.freeze());
        match damage {
            0 => view.common = Piece::from(vec![9]),
            1 => {
                for (_, section) in &mut view.sections {
                    let mut bytes = section.to_vec();
                    bytes.pop();
                    *section = Piece::from(bytes);
                }
            }
            // The sockets have gone to the other thread.
            2 => view.sections.iter_mut().for_each(|(thread, _)| *thread += 1),
            _ => {}
        }
        let format = if damage == 3 { 99 } else { 2 };
        let why = second.service.adopt(format, view).unwrap_err();
        assert!(!why.is_empty());
        going.thaw();
        ok(&connection.get("/"));
        assert_eq!(second.metric(OPEN_HTTP), 0);
    }
    hand_over(first, second);
    ok(&connection.get("/"));
}

#[test]
fn what_comes_late_and_cannot_be_read_is_closed_and_counted() {
    let scene = Scene::new([1, 1]);
    let [_, second] = &scene.planes;
    second.service.serve();
    let (near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
    second.service.late(2, 0, b"nothing of the kind", vec![near.into()]);
    far.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(far.read(&mut [0; 1]).unwrap(), 0);
    until("it to be counted", || (second.metric("handover_failed_moves_total") == 1).then_some(()));
}

#[test]
fn when_nobody_takes_any_more_what_is_left_drains() {
    let scene = Scene::new([1, 1]);
    let [first, second] = &scene.planes;
    let stream = TcpStream::connect(first.address("secure")).unwrap();
    until("a handshake", || (first.metric(OPEN_TLS) == 1).then_some(()));
    let committed = Move::begin(first, second).commit();
    committed.going().end();
    let mut connection = scene.client().handshake(stream).unwrap().connection;
    // As soon as that is noticed.
    until("it ends here", || connection.get("/").expect(200).head.closes().then_some(()));
    connection.expect_end();
    committed.finish();
}

#[test]
fn what_was_left_goes_on_when_everything_comes_back() {
    let scene = Scene::new([2, 2]);
    let [first, second] = &scene.planes;
    let mut moved = scene.plain("web");
    ok(&moved.get("/"));
    let stream = TcpStream::connect(first.address("secure")).unwrap();
    until("a handshake", || (first.metric(OPEN_TLS) == 1).then_some(()));
    let committed = Move::begin(first, second).commit();
    assert_eq!((first.metric(OPEN_TLS), second.metric(OPEN_HTTP)), (1, 1));
    committed.call_off_the_rest();
    hand_over(second, first);
    let mut left = scene.client().handshake(stream).unwrap().connection;
    for connection in [&mut moved, &mut left] {
        let response = connection.get("/").expect(200);
        assert!(!response.head.closes(), "it is kept");
        ok(&connection.get("/bytes/10"));
    }
    assert_eq!(first.service.open_connections(), Some(2));
    assert_eq!(first.metric(ACCEPTED), 1);
}

#[test]
fn who_has_given_everything_away_serves_again_when_it_is_told_to() {
    let scene = Scene::new([2, 2]);
    let [first, second] = &scene.planes;
    let mut moved = scene.plain("web");
    ok(&moved.get("/"));
    hand_over(first, second);
    // The other one has died.
    second.service.stop_now();
    moved.expect_end();
    first.service.resume();
    let mut connection = scene.plain("web");
    assert_eq!(connection.get("/").expect(200).text(), "one\n");
    assert!(!connection.get("/").expect(200).head.closes());
    assert_eq!(first.metric(OPEN_HTTP), 1);
}

#[test]
fn every_thread_answers_a_question_by_itself_while_it_stands_by() {
    let first = Plane::serve([WEB, "[[routes]]\nfixed = \"hello\"\n"].concat().as_str());
    let second = first.candidate(3);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    socket.set_nonblocking(true).unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&done);
    let count = Box::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let probe = Probe::new(socket.into(), 7, "nonce".to_owned(), second.service.threads(), count);
    second.service.probe(Arc::new(probe));
    let mut answers: Vec<String> = (0..3)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
        .collect();
    answers.sort();
    for (thread, answer) in answers.iter().enumerate() {
        assert!(answer.contains(&format!("\"thread\":{thread}")), "{answers:?}");
        assert!(answer.contains("\"worker\":7") && answer.contains("\"nonce\":\"nonce\""), "{answer}");
    }
    until("all to have answered", || (done.load(Ordering::SeqCst) == 1).then_some(()));
    assert_eq!(second.metric(ACCEPTED), 0);
}
