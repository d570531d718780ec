//! What is held goes to another worker, and goes on being held there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::moves::{Move, hand_over};
use common::pausing::{PROGRAM, copies, copy, pause, service};
use common::{Plane, WEB, to_endpoints};
use handover::Service as _;
use handover::traffic::{Pause, Target, Traffic};
use handover_testkit::http::Connection;
use handover_testkit::origin::Origin;
use handover_testkit::{DEADLINE, pattern};

const MANY: u32 = 1_000;

fn ask(plane: &Plane, path: &str) -> Connection {
    let mut client = plane.connect("web");
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client
}

#[test]
fn requests_that_are_held_move_and_keep_their_order() {
    let origin = Origin::start("one");
    let first = Plane::serve_with(1, &[WEB, &to_endpoints(&[origin.address()], "")].concat());
    let paused = pause(service("app"), 10);
    first.traffic(paused.clone());
    let mut clients = Vec::new();
    for number in 0..9_u64 {
        clients.push(ask(&first, &format!("/{number}")));
        first.wait_for_held(number + 1);
    }
    // The first in the table is not the one that came first.
    clients.remove(0).finish();
    first.wait_for_held(8);
    clients.push(ask(&first, "/9"));
    first.wait_for_held(9);
    let mut with_body = first.connect("web");
    with_body.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nab");
    first.wait_for_held(10);
    let second = first.candidate_told(1, paused);
    assert_eq!(hand_over(&first, &second)["http"], 10);
    assert_eq!(first.metric("handover_held"), 0);
    second.wait_for_held(10);
    // There is no room for one more here, either.
    let _ = second.connect("web").get("/").expect(503);
    assert!(origin.requests().is_empty());
    let body = pattern::bytes(100_000 - 2);
    second.resume();
    with_body.send(&body);
    for client in &mut clients {
        let _ = client.response("GET").expect(200);
    }
    assert_eq!(with_body.response("POST").expect(200).body.len(), 100_000);
    let mut order: Vec<_> =
        origin.requests().into_iter().map(|request| (request.connection, request.target)).collect();
    order.sort_unstable_by_key(|(connection, _)| *connection);
    let targets: Vec<_> = order.into_iter().map(|(_, target)| target).collect();
    let expected: Vec<_> = (1..10).map(|number| format!("/{number}")).chain(["/echo".to_owned()]).collect();
    assert_eq!(targets, expected);
}

#[test]
fn a_move_that_is_called_off_leaves_held_what_is() {
    let origin = Origin::start("one");
    let first = Plane::serve(&[WEB, &to_endpoints(&[origin.address()], "")].concat());
    let paused = pause(service("app"), 5);
    first.traffic(paused.clone());
    let mut clients: Vec<_> = (0..5).map(|_| ask(&first, "/")).collect();
    first.wait_for_held(5);
    let second = first.candidate_told(2, paused);
    let going = Move::begin(&first, &second);
    let _ = going.freeze();
    going.thaw();
    assert_eq!(first.metric("handover_held"), 5);
    let _ = first.connect("web").get("/").expect(503);
    first.resume();
    for client in &mut clients {
        let _ = client.response("GET").expect(200);
    }
}

#[test]
fn what_waits_for_a_copy_is_served_by_the_next_worker() {
    let first = Plane::serve(&[WEB, PROGRAM].concat());
    let mut client = ask(&first, "/");
    first.wait_for_held(1);
    let second = first.candidate_told(2, Traffic::default());
    let _ = hand_over(&first, &second);
    second.wait_for_held(1);
    let origin = Origin::start("one");
    second.traffic(copies(&[copy("app/1", origin.address(), true)]));
    let _ = client.response("GET").expect(200);
}

#[test]
fn a_request_in_flight_on_a_copy_that_is_off_is_counted_by_the_next_worker_too() {
    let first = Plane::serve(&[WEB, PROGRAM].concat());
    let origin = Origin::start("one");
    let on = copies(&[copy("app/1", origin.address(), true)]);
    first.traffic(on);
    let mut client = ask(&first, "/held?gate=g");
    let _ = origin.wait_for_requests(1);
    let off = copies(&[copy("app/1", origin.address(), false)]);
    first.traffic(off.clone());
    let second = first.candidate_told(2, off);
    let _ = hand_over(&first, &second);
    let (endpoint, program) = (Target::Endpoint("app/1".to_owned()), Target::Program("app".to_owned()));
    for target in [&endpoint, &program] {
        assert_eq!(second.quiet_within(target, std::time::Duration::ZERO).left, 1, "{target}");
    }
    let (plane, target) = (std::sync::Arc::clone(&second.service), endpoint);
    let quiet = std::thread::spawn(move || plane.quiet(&target, DEADLINE, &handover::CalledOff::default()));
    origin.gate("g").open();
    let _ = client.response("GET").expect(200);
    assert_eq!(quiet.join().unwrap().left, 0);
}

#[test]
fn a_request_that_waits_for_a_copy_that_refuses_goes_on_waiting_there() {
    let first = Plane::serve(&[WEB, PROGRAM].concat());
    let path = first.workspace.path("app.sock");
    let there = copies(&[common::pausing::copy_at("app/1", &path, true)]);
    first.traffic(there.clone());
    let mut get = ask(&first, "/");
    let mut post = first.connect("web");
    post.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nab");
    handover_testkit::until("both to be refused once", || {
        (first.metric("handover_service_connect_failures_total{service=\"app\"}") >= 2).then_some(())
    });
    let second = first.candidate_told(2, there);
    assert_eq!(hand_over(&first, &second)["http"], 2);
    // It is bound only now, and at another place: who gave them away would not know.
    let origin = Origin::start("one");
    second.traffic(copies(&[copy("app/1", origin.address(), true)]));
    assert_eq!(get.response("GET").expect(200).text(), "one\n");
    post.send(pattern::bytes(99_998));
    assert_eq!(post.response("POST").expect(200).body.len(), 100_000);
}

#[test]
fn a_tcp_connection_that_is_held_goes_on_being_held_there() {
    let config = "[program.app]\ncommand = [\"/bin/true\"]\n\n[services.app]\nprogram = \"app\"\n\n\
                  [listeners.raw]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nservice = \"app\"\n\n";
    let first = Plane::serve(config);
    let mut client = first.connect("raw");
    client.send("hello");
    first.wait_for_held(1);
    let target = Target::Program("app".to_owned());
    let pauses = vec![Pause { target, left: DEADLINE * 10, max_held: MANY, refuse: false }];
    let second = first.candidate_told(2, Traffic { pauses, ..Traffic::default() });
    assert_eq!(hand_over(&first, &second)["tcp"], 1);
    second.wait_for_held(1);
    let echo = handover_testkit::echo::Echo::start();
    second.traffic(copies(&[copy("app/1", echo.address(), true)]));
    assert_eq!(client.exactly(5), b"hello");
}

#[test]
fn what_is_in_flight_on_a_route_is_known_to_the_next_worker() {
    let origin = Origin::start("one");
    let named = to_endpoints(&[origin.address()], "").replace("[[routes]]", "[[routes]]\nname = \"all\"");
    let first = Plane::serve(&[WEB, &named].concat());
    let mut client = ask(&first, "/held?gate=g");
    let mut websocket = handover_testkit::websocket::WebSocket::open(first.address("web"), "/ws");
    websocket.echo("one");
    let _ = origin.wait_for_requests(2);
    let second = first.candidate(2);
    let _ = hand_over(&first, &second);
    let target = Target::Route("all".to_owned());
    assert_eq!(second.quiet_within(&target, std::time::Duration::ZERO).left, 2);
    websocket.echo("two");
    drop(websocket);
    origin.gate("g").open();
    let _ = client.response("GET").expect(200);
    assert_eq!(second.quiet(&target).left, 0);
}
