//! Listeners, services and endpoints that are not the same where a connection goes.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::rig::*;
use crate::clock::Ticks;
use crate::conn::state::{Sheet, StateError, read};
use crate::conn::{Conn, End};
use crate::reactor::Owner;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\n\r\nhello";

/// A request that waits for its response.
fn asked(stage: &Stage, process: &mut Process) -> (Conn, std::os::fd::OwnedFd, std::os::fd::OwnedFd) {
    let (conn, client) = process.connect("web");
    say(&client, GET);
    let conn = process.run(conn).unwrap();
    (conn, client, stage.accept().unwrap())
}

/// Why a connection cannot go to a process with this configuration.
fn refused(conn: &Conn, from: &Process, text: &str) -> StateError {
    let written = write(from, [conn], 2);
    read(2, &written.bytes).unwrap().places(&Process::new(text).cx).unwrap_err()
}

#[test]
fn what_a_connection_needs_and_is_not_there_is_named() {
    let stage = Stage::new();
    let mut here = stage.process();
    let (conn, _client, _endpoint) = asked(&stage, &mut here);
    let text = stage.config();
    let error = refused(&conn, &here, &text.replace("[listeners.web]", "[listeners.other]"));
    assert_eq!(
        error.to_string(),
        "a connection came in on the listener web at 127.0.0.1:0, which does not exist here"
    );
    let error = refused(
        &conn,
        &here,
        &text.replace("\"127.0.0.1:0\"\n[listeners.raw]", "\"127.0.0.2:0\"\n[listeners.raw]"),
    );
    assert!(matches!(error, StateError::Listener { .. }), "{error}");
    let error = refused(
        &conn,
        &here,
        &text.replace("\"app\"", "\"other\"").replace("services.app", "services.other"),
    );
    assert_eq!(error.to_string(), "a connection is on its way to the service app, which does not exist here");
    let tcp = text.replacen(":0\"\n", ":0\"\nprotocol = \"tcp\"\nservice = \"app\"\n", 1);
    let tcp = tcp.replace("[[routes]]\nservice = \"app\"\n", "");
    let error = refused(&conn, &here, &tcp);
    assert!(matches!(error, StateError::Misfit(_)), "{error}");
    conn.close(End::Cut, &mut here.cx);
}

#[test]
fn a_socket_that_did_not_come_costs_the_connection_and_nothing_else() {
    let stage = Stage::new();
    let (mut here, mut there) = (stage.process(), stage.process());
    let (conn, client, _endpoint) = asked(&stage, &mut here);
    let mut written = write(&here, [&conn], 2);
    let section = read(2, &written.bytes).unwrap();
    let places = section.places(&there.cx).unwrap();
    let first = written.sockets.remove(&0).unwrap();
    let mut first = Some(there.cx.reactor.receive(first).unwrap());
    for parsed in section.conns {
        let mut take = |number| if number == 0 { first.take() } else { None };
        let result = parsed.into_conn(&places, &mut there.cx, KEY, &mut take);
        assert_eq!(result.unwrap_err(), StateError::Socket(1));
    }
    assert_eq!((there.active(), there.in_use()), (0, 0));
    assert!(!hear(&client, &mut Vec::new()), "here it goes on");
    conn.close(End::Cut, &mut here.cx);
}

#[test]
fn a_request_of_an_earlier_generation_moves_if_its_service_is_still_there() {
    let stage = Stage::new();
    let mut here = stage.process();
    let text = stage.config();
    let (conn, client, endpoint) = asked(&stage, &mut here);
    let elsewhere = text.replace("/endpoint", "/elsewhere");
    here.reload(&elsewhere);
    assert!(conn.is_movable(&here.cx));
    // Its endpoint is not configured any more: it goes on with a stand-in.
    let mut there = Process::new(&elsewhere);
    let written = write(&here, [&conn], 2);
    conn.let_go(&mut here.cx);
    let conn = take(&mut there, written, 2).pop().unwrap();
    assert_eq!(there.active(), 1);
    assert_eq!(there.in_use(), 0, "the endpoint that is configured has nothing to do with it");
    say(&endpoint, OK);
    let conn = there.run(conn).unwrap();
    let mut got = Vec::new();
    assert!(!hear(&client, &mut got) && got.ends_with(b"hello"));
    assert!(hear(&endpoint, &mut Vec::new()), "its connection is not kept");
    assert_eq!(there.active(), 0);
    conn.close(End::Done, &mut there.cx);
}

#[test]
fn what_has_lost_its_service_or_listener_stays() {
    let stage = Stage::new();
    let mut here = stage.process();
    let text = stage.config();
    let (request, _client, _endpoint) = asked(&stage, &mut here);
    let (idle, _other) = here.connect("web");
    let idle = here.run(idle).unwrap();
    here.reload(&text.replace("\"app\"", "\"other\"").replace("services.app", "services.other"));
    assert!(!request.is_movable(&here.cx) && idle.is_movable(&here.cx));
    here.reload(&text);
    assert!(request.is_movable(&here.cx));
    here.reload(&text.replace("[listeners.web]", "[listeners.other]"));
    assert!(!request.is_movable(&here.cx) && !idle.is_movable(&here.cx));
    idle.close(End::Retired, &mut here.cx);
    request.close(End::Cut, &mut here.cx);
}

/// What a client gets whose request was on a kept connection when that moved and broke, and whether it was sent once more.
fn on_a_kept_connection(request: &str) -> (String, bool) {
    let stage = Stage::new();
    let text = stage.config().replace("idle = 0", "idle = 4");
    let (mut here, mut there) = (Process::new(&text), Process::new(&text));
    let (conn, client, endpoint) = asked(&stage, &mut here);
    say(&endpoint, OK);
    let conn = here.run(conn).unwrap();
    let mut got = Vec::new();
    hear(&client, &mut got);
    got.clear();
    say(&client, request.as_bytes());
    let conn = here.run(conn).unwrap();
    assert!(stage.accept().is_none(), "it is on the kept connection");
    let conn = move_to(&mut here, &mut there, conn, 1);
    drop(endpoint);
    let conn = there.run(conn).unwrap();
    let endpoint = stage.accept();
    if let Some(endpoint) = &endpoint {
        let mut asked = Vec::new();
        hear(endpoint, &mut asked);
        assert!(asked.starts_with(request.split("\r\n").next().unwrap().as_bytes()));
        say(endpoint, OK);
    }
    let conn = there.run(conn).unwrap();
    hear(&client, &mut got);
    conn.close(End::Done, &mut there.cx);
    (String::from_utf8(got).unwrap(), endpoint.is_some())
}

#[test]
fn a_request_whose_kept_connection_breaks_after_a_move_is_sent_once_more_if_it_may_be() {
    let (got, again) = on_a_kept_connection("GET /again HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(again && got.ends_with("hello"), "{got}");
    let (got, again) = on_a_kept_connection("POST /once HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert!(!again && got.starts_with("HTTP/1.1 502 "), "{got}");
}

#[test]
fn what_makes_a_connection_or_is_answered_here_stays_until_that_is_over() {
    let stage = Stage::new();
    let mut here = stage.process();
    let (conn, client) = here.connect("web");
    say(&client, b"nonsense\r\n\r\n");
    let conn = here.run(conn).unwrap();
    assert!(!conn.is_movable(&here.cx), "it lingers");
    conn.close(End::Refused, &mut here.cx);
    // An endpoint whose queue is full takes its time.
    let busy = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    busy.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    busy.listen(0).unwrap();
    let address = busy.local_addr().unwrap().as_socket().unwrap();
    let _in_queue = TcpStream::connect_timeout(&address, Duration::from_secs(20)).unwrap();
    let endpoint = format!("unix:{}", stage.directory.path().join("endpoint").display());
    let mut here = Process::new(&stage.config().replace(&endpoint, &address.to_string()));
    let (conn, client) = here.connect("web");
    say(&client, GET);
    let conn = here.run(conn).unwrap();
    assert!(conn.sockets().is_some_and(|(_, endpoint)| endpoint.is_some()));
    assert!(!conn.is_movable(&here.cx), "it connects");
    conn.close(End::Cut, &mut here.cx);
}

#[test]
fn an_idle_connection_to_an_endpoint_moves_to_the_same_endpoint_or_is_let_go() {
    let stage = Stage::new();
    let (mut here, mut there) = (stage.process(), stage.process());
    let mut elsewhere = Process::new(&stage.config().replace("/endpoint", "/elsewhere"));
    let (near, far) = pair();
    let io = here.cx.reactor.adopt(near, Owner::Nobody, true);
    let mut sheet = Sheet::new(1);
    let plan = here.cx.local().generation.services[0].endpoints[0].clone();
    sheet.push_idle(&plan, &io, Ticks(77), &here.cx, &mut |_| 5);
    let bytes = sheet.finish();
    for (process, known) in [(&mut there, true), (&mut elsewhere, false)] {
        let section = read(1, &bytes).unwrap();
        let places = section.places(&process.cx).unwrap();
        let copy = std::os::fd::AsFd::as_fd(&io).try_clone_to_owned().unwrap();
        let mut ios = HashMap::from([(5, process.cx.reactor.receive(copy).unwrap())]);
        for idle in section.idle {
            assert_eq!(idle.left, Ticks(77));
            let taken = idle.into_io(&places, &mut process.cx, &mut |number| ios.remove(&number)).unwrap();
            assert_eq!(taken.as_ref().map(|(_, service, _)| *service), known.then_some(0));
            taken.into_iter().for_each(|(io, ..)| process.cx.reactor.discard(io));
        }
        assert!(ios.is_empty());
        assert!(!hear(&far, &mut Vec::new()));
    }
    here.cx.reactor.close(io);
    assert!(hear(&far, &mut Vec::new()));
}

#[test]
fn time_goes_on_where_it_was() {
    let stage = Stage::new();
    let (mut here, mut there) = (stage.process(), stage.process());
    let (conn, _client) = here.connect("web");
    let conn = here.run(conn).unwrap();
    let left = conn.deadline() - here.cx.clock.tick();
    let conn = move_to(&mut here, &mut there, conn, 2);
    let still_left = conn.deadline() - there.cx.clock.tick();
    assert!(left > 10 && left.abs_diff(still_left) <= 1, "{left} and then {still_left} ticks");
    // Retired here, not there: it need not hurry.
    let mut conn = conn;
    conn.retire(there.cx.clock.tick() + 2, Some(there.cx.clock.tick() + 3));
    let conn = move_to(&mut there, &mut here, conn, 2);
    assert!(conn.deadline() - here.cx.clock.tick() > 10);
    conn.close(End::Done, &mut here.cx);
}

#[test]
fn how_old_a_connection_is_is_known_in_a_process_that_is_younger() {
    let stage = Stage::new();
    let mut here = stage.process();
    for (format, kept) in [(2, true), (1, false)] {
        let (conn, _client) = here.connect("web");
        let conn = here.run(conn).unwrap();
        // The other process begins now; this one has lived for longer.
        let before = Instant::now();
        while before.elapsed() < Duration::from_millis(3) {
            std::thread::yield_now();
        }
        here.events();
        let age = conn.show(&here.cx).age_us;
        let mut there = stage.process();
        let conn = move_to(&mut here, &mut there, conn, format);
        let still = conn.show(&there.cx).age_us;
        assert_eq!(still >= age, kept, "{age} and then {still} µs");
        conn.close(End::Done, &mut there.cx);
    }
}
