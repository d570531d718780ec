//! Requests on their way to programs whose copies come and go.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::pausing::{PROGRAM, copies, copy, copy_at, off};
use common::{Plane, WEB};
use handover::traffic::{Pause, Target, Traffic};
use handover_testkit::http::Connection;
use handover_testkit::origin::{Origin, Then};
use handover_testkit::{DEADLINE, Gate, Port, until};

fn scene() -> Plane {
    Plane::serve(&[WEB, PROGRAM].concat())
}

/// As [`PROGRAM`], with a short time to connect.
fn impatient() -> Plane {
    let service = "[program.app]\ncommand = [\"/bin/true\"]\n\n[services.app]\nprogram = \"app\"\nconnect_timeout = \"300ms\"\n\n\
                   [[routes]]\nname = \"well\"\npath = \"/well\"\nservice = \"app\"\nhealth = true\n\n[[routes]]\nservice = \"app\"\n\n";
    Plane::serve(&[WEB, service].concat())
}

fn ask(plane: &Plane, request: &str) -> Connection {
    let mut client = plane.connect("web");
    client.send(request);
    client
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_request_that_comes_before_the_first_copy_waits_for_it() {
    let plane = scene();
    let mut first = ask(&plane, GET);
    let mut second = ask(&plane, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    plane.wait_for_held(2);
    let origin = Origin::start("one");
    // It is there, and nobody has said that it may get anything.
    plane.traffic(copies(&[copy("app/1", origin.address(), false)]));
    plane.wait_for_held(2);
    plane.traffic(copies(&[copy("app/1", origin.address(), true)]));
    assert_eq!(first.response("GET").expect(200).text(), "one\n");
    assert_eq!(second.response("POST").expect(200).text(), "hello");
    assert_eq!(origin.connections(), 2);
}

#[test]
fn a_copy_that_was_said_before_the_first_generation_gets_its_first_request() {
    let origin = Origin::start("one");
    let traffic = copies(&[copy("app/1", origin.address(), true)]);
    let plane = Plane::serve_told(traffic, &[WEB, PROGRAM].concat());
    let _ = plane.connect("web").get("/").expect(200);
    assert_eq!(plane.metric("handover_holds_total"), 0);
}

#[test]
fn without_a_copy_a_request_is_told_to_come_again_when_its_time_is_over() {
    let plane = impatient();
    let mut client = plane.connect("web");
    for _ in 0..2 {
        let answer = client.get("/").expect(503);
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert!(!answer.head.closes());
    }
    assert_eq!(client.get("/well").expect(200).text(), "paused\n");
}

#[test]
fn a_copy_that_refuses_connections_is_waited_for() {
    let plane = scene();
    let port = Port::claim();
    let address = port.address();
    plane.traffic(copies(&[copy("app/1", address, true)]));
    let mut clients = [
        ask(&plane, GET),
        ask(&plane, "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxx"),
        ask(&plane, "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ];
    until("all of them to be refused once", || {
        (plane.metric("handover_service_connect_failures_total{service=\"app\"}") >= 3).then_some(())
    });
    let listener = TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    for _ in &clients {
        let (stream, _) = until("a request", || listener.accept().ok());
        stream.set_nonblocking(false).unwrap();
        let mut endpoint = Connection::over(handover_testkit::http::Stream::Tcp(stream)).unwrap();
        let _ = endpoint.try_raw_head().unwrap();
        endpoint.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.head().status, 200);
    }
}

#[test]
fn a_copy_that_refuses_connections_for_too_long_is_said_to() {
    let plane = impatient();
    let nobody = plane.workspace.path("nobody.sock");
    plane.traffic(copies(&[copy_at("app/1", &nobody, true)]));
    let answer = plane.connect("web").get("/").expect(503);
    assert_eq!(answer.header("retry-after"), Some("1"));
    // One attempt, and many that are not worth counting.
    let failures = plane.metric("handover_service_connect_failures_total{service=\"app\"}");
    assert!((1..=2).contains(&failures), "{failures}");
}

#[test]
fn who_waits_when_the_server_goes_is_told_at_once() {
    let plane = scene();
    let mut before_any = ask(&plane, GET);
    plane.wait_for_held(1);
    let nobody = plane.workspace.path("nobody.sock");
    plane.traffic(copies(&[copy_at("app/1", &nobody, true)]));
    let mut refused = ask(&plane, GET);
    until("both to be refused once", || {
        (plane.metric("handover_service_connect_failures_total{service=\"app\"}") >= 2).then_some(())
    });
    let (_, drained) = plane.drain(DEADLINE);
    for client in [&mut before_any, &mut refused] {
        let answer = client.response("GET").expect(503);
        assert!(answer.head.closes() && answer.header("retry-after").is_some());
        client.finish();
    }
    assert_eq!(drained.join().unwrap(), handover::Losses::default());
}

#[test]
fn more_requests_than_the_queue_of_a_copy_can_hold_wait_for_their_turn() {
    let plane = scene();
    let path = plane.workspace.path("app.sock");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(2).unwrap();
    let listener = UnixListener::from(std::os::fd::OwnedFd::from(socket));
    plane.traffic(copies(&[copy_at("app/1", &path, true)]));
    let mut clients: Vec<_> = (0..40).map(|_| ask(&plane, GET)).collect();
    until("the queue to be full", || {
        (plane.metric("handover_service_connect_failures_total{service=\"app\"}") >= 30).then_some(())
    });
    let server = std::thread::spawn(move || {
        for _ in 0..40 {
            let (stream, _) = listener.accept().unwrap();
            let mut endpoint = Connection::over(handover_testkit::http::Stream::Unix(stream)).unwrap();
            let _ = endpoint.try_raw_head().unwrap();
            endpoint.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    for client in &mut clients {
        let _ = client.response("GET").expect(200);
    }
    server.join().unwrap();
}

#[test]
fn one_copy_follows_the_other_and_no_request_notices() {
    let plane = scene();
    let first = Origin::start("first");
    plane.traffic(copies(&[copy("app/1", first.address(), true)]));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..6)
        .map(|number| {
            let (stop, served, address) = (Arc::clone(&stop), Arc::clone(&served), plane.address("web"));
            std::thread::spawn(move || {
                let mut client = Connection::open(address);
                while !stop.load(Ordering::Relaxed) {
                    match number % 3 {
                        0 => drop(Connection::open(address).get("/").expect(200)),
                        1 => drop(client.get("/").expect(200)),
                        _ => drop(client.request("POST", "/echo", &[], b"body").expect(200)),
                    }
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut present = (1, first);
    for number in 2..12 {
        let goal = served.load(Ordering::Relaxed) + 50;
        until("some requests", || (served.load(Ordering::Relaxed) >= goal).then_some(()));
        let next = Origin::start("next");
        let (old, new) = (present.1.address(), next.address());
        let name = format!("app/{}", present.0);
        plane.traffic(copies(&[copy(&name, old, true), copy("app/9", new, false)]));
        plane.traffic(copies(&[copy(&name, old, false), copy(&format!("app/{number}"), new, true)]));
        let target = Target::Endpoint(name);
        let quiet = plane.quiet(&target);
        assert_eq!(quiet.left, 0);
        // Dropping it cuts all that it has.
        present = (number, next);
    }
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    for class in ["4xx", "5xx", "none"] {
        assert_eq!(
            plane.metric(&format!("handover_requests_total{{listener=\"web\",status=\"{class}\"}}")),
            0
        );
    }
}

#[test]
fn a_swap_with_a_pause_between_delays_requests_and_fails_none() {
    let plane = scene();
    let first = Origin::start("first");
    let old = copies(&[copy("app/1", first.address(), true)]);
    plane.traffic(old.clone());
    let mut busy = ask(&plane, "GET /held?gate=g HTTP/1.1\r\nHost: a\r\n\r\n");
    let _ = first.wait_for_requests(1);
    let program = Target::Program("app".to_owned());
    let pause = Pause { target: program.clone(), left: DEADLINE * 10, max_held: 100, refuse: false };
    plane.traffic(Traffic { pauses: vec![pause.clone()], ..old });
    let mut waiting: Vec<_> = (0..10).map(|_| ask(&plane, GET)).collect();
    plane.wait_for_held(10);
    first.gate("g").open();
    assert_eq!(plane.quiet(&program).left, 0);
    let _ = busy.response("GET").expect(200);
    drop(first);
    plane.traffic(Traffic { pauses: vec![pause.clone()], ..copies(&[]) });
    let second = Origin::start("second");
    let new = copies(&[copy("app/1", second.address(), true)]);
    plane.traffic(Traffic { pauses: vec![pause], ..new.clone() });
    plane.wait_for_held(10);
    plane.traffic(new);
    for client in &mut waiting {
        assert_eq!(client.response("GET").expect(200).text(), "second\n");
    }
}

#[test]
fn a_request_whose_copy_dies_before_it_answers_goes_to_the_next_one_if_it_may() {
    let plane = scene();
    let asked = Arc::new(AtomicUsize::new(0));
    let dying = {
        let asked = Arc::clone(&asked);
        Origin::with(move |_, _| {
            asked.fetch_add(1, Ordering::Relaxed);
            Ok(Then::Reset)
        })
    };
    let well = Origin::start("well");
    plane.traffic(copies(&[copy("app/1", dying.address(), true), copy("app/2", well.address(), true)]));
    for _ in 0..4 {
        assert_eq!(plane.connect("web").get("/").expect(200).text(), "well\n");
    }
    assert!(asked.load(Ordering::Relaxed) >= 1);
    // Nobody knows what it has done with this one.
    plane.traffic(copies(&[copy("app/1", dying.address(), true)]));
    let _ = plane.connect("web").request("POST", "/", &[], b"x").expect(502);
    // And what kills every copy is not given to all of them for ever.
    let _ = plane.connect("web").get("/").expect(502);
    assert!(asked.load(Ordering::Relaxed) < 12);
}

#[test]
fn a_request_whose_copy_dies_during_a_pause_is_held_and_nothing_is_in_flight_any_more() {
    let plane = scene();
    let gate = Gate::shut();
    let dying = {
        let gate = gate.clone();
        Origin::with(move |_, _| {
            gate.pass();
            Ok(Then::Reset)
        })
    };
    let program = Target::Program("app".to_owned());
    let pause = Pause { target: program.clone(), left: DEADLINE * 10, max_held: 100, refuse: false };
    let old = copies(&[copy("app/1", dying.address(), true)]);
    plane.traffic(old.clone());
    let mut client = ask(&plane, GET);
    let _ = dying.wait_for_requests(1);
    plane.traffic(Traffic { pauses: vec![pause], ..old });
    gate.open();
    let quiet = plane.quiet(&program);
    assert_eq!((quiet.left, quiet.held), (0, 1));
    let next = Origin::start("next");
    plane.traffic(copies(&[copy("app/1", next.address(), true)]));
    assert_eq!(client.response("GET").expect(200).text(), "next\n");
    assert_eq!(dying.requests().len(), 1);
}

#[test]
fn what_cannot_be_sent_twice_does_not_go_over_a_kept_connection() {
    let plane = Plane::serve_with(1, &[WEB, PROGRAM].concat());
    let origin = Origin::start("one");
    plane.traffic(copies(&[copy("app/1", origin.address(), true)]));
    let mut client = plane.connect("web");
    let _ = client.get("/").expect(200);
    let _ = client.get("/").expect(200);
    assert_eq!(origin.connections(), 1);
    let _ = client.request("POST", "/echo", &[], b"x").expect(200);
    assert_eq!(origin.connections(), 2);
}

#[test]
fn a_copy_is_switched_off_by_its_name() {
    let plane = scene();
    let (first, second) = (Origin::start("first"), Origin::start("second"));
    let both = copies(&[copy("app/1", first.address(), true), copy("app/2", second.address(), true)]);
    plane.traffic(Traffic { off: off(&["app/1"]).off, ..both.clone() });
    for _ in 0..6 {
        assert_eq!(plane.connect("web").get("/").expect(200).text(), "second\n");
    }
    plane.traffic(Traffic { off: off(&["app/1", "app/2"]).off, ..both.clone() });
    let mut client = ask(&plane, GET);
    plane.wait_for_held(1);
    plane.traffic(both);
    let _ = client.response("GET").expect(200);
}

#[test]
fn connections_of_a_tcp_listener_wait_in_its_queue_while_its_program_is_paused() {
    let echo = handover_testkit::echo::Echo::start();
    let config = "[program.app]\ncommand = [\"/bin/true\"]\n\n[services.app]\nprogram = \"app\"\n\n\
                  [listeners.raw]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nservice = \"app\"\n\n\
                  [listeners.more]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nservice = \"app\"\n\n";
    let plane = Plane::serve(config);
    let said = copies(&[copy("app/1", echo.address(), true)]);
    plane.traffic(said.clone());
    let mut open = handover_testkit::tunnel::Tunnel::open(plane.address("raw"));
    open.echo(b"before");
    for target in [
        Target::Program("app".to_owned()),
        Target::Listener("raw".to_owned()),
        Target::Service("app".to_owned()),
    ] {
        let pause = Pause { target: target.clone(), left: DEADLINE * 10, max_held: 100, refuse: false };
        plane.traffic(Traffic { pauses: vec![pause], ..said.clone() });
        let accepted = echo.accepted();
        let mut waiting = plane.connect("raw");
        waiting.send("hello");
        open.echo(b"meanwhile");
        assert_eq!(plane.metric("handover_open_connections{kind=\"tcp\"}"), 1, "{target}");
        if matches!(target, Target::Listener(_)) {
            handover_testkit::tunnel::Tunnel::open(plane.address("more")).echo(b"the other one goes on");
            plane.wait_for_tunnels(1);
        } else {
            assert_eq!(echo.accepted(), accepted);
        }
        plane.traffic(said.clone());
        assert_eq!(waiting.exactly(5), b"hello");
        drop(waiting);
        plane.wait_for_tunnels(1);
    }
}

#[test]
fn a_tunnel_waits_for_the_first_copy() {
    let config = "[program.app]\ncommand = [\"/bin/true\"]\n\n[services.app]\nprogram = \"app\"\n\n\
                  [listeners.raw]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nservice = \"app\"\n\n";
    let plane = Plane::serve(config);
    let mut client = plane.connect("raw");
    client.send("hello");
    plane.wait_for_held(1);
    let echo = handover_testkit::echo::Echo::start();
    plane.traffic(copies(&[copy("app/1", echo.address(), true)]));
    assert_eq!(client.exactly(5), b"hello");
    plane.wait_for_held(0);
    assert_eq!(plane.quiet_within(&Target::Program("app".to_owned()), Duration::ZERO).left, 1);
}
