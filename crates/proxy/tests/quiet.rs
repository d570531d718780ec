//! What is in flight, and who waits for its end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use common::pausing::{copies, copy, off, pause, service};
use common::{Plane, WEB, to_endpoints};
use handover::traffic::{Quiet, Target};
use handover::{CalledOff, Service as _};
use handover_testkit::echo::Echo;
use handover_testkit::http::Connection;
use handover_testkit::origin::Origin;
use handover_testkit::tunnel::Tunnel;
use handover_testkit::websocket::WebSocket;
use handover_testkit::{DEADLINE, until};

const MANY: u32 = 1_000;

fn now(plane: &Plane, target: &Target) -> (u64, u64) {
    let Quiet { left, held, .. } = plane.service.quiet(target, Duration::ZERO, &CalledOff::default());
    (left, held)
}

fn wait(plane: &Plane, target: Target) -> JoinHandle<Quiet> {
    let service = Arc::clone(&plane.service);
    std::thread::spawn(move || service.quiet(&target, DEADLINE, &CalledOff::default()))
}

fn route(name: &str) -> Target {
    Target::Route(name.to_owned())
}

fn listener(name: &str) -> Target {
    Target::Listener(name.to_owned())
}

fn endpoint(origin: &Origin) -> Target {
    Target::Endpoint(origin.address().to_string())
}

fn ask(plane: &Plane, path: &str) -> Connection {
    let mut client = plane.connect("web");
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client
}

fn scene() -> (Origin, Echo, Plane) {
    let (origin, echo) = (Origin::start("one"), Echo::start());
    let config = [
        WEB,
        "[listeners.raw]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nservice = \"echo\"\n\n",
        &format!("[services.echo]\nendpoints = \"{}\"\n\n", echo.address()),
        "[[routes]]\nname = \"held\"\npath = \"/held\"\nservice = \"app\"\n\n",
        &to_endpoints(&[origin.address()], "").replace("[[routes]]", "[[routes]]\nname = \"rest\""),
    ];
    let plane = Plane::serve(&config.concat());
    (origin, echo, plane)
}

#[test]
fn what_is_in_flight_is_counted_by_every_name_and_its_end_is_waited_for() {
    let (origin, _echo, plane) = scene();
    let mut busy: Vec<_> = (0..7).map(|_| ask(&plane, "/held?gate=g")).collect();
    let _ = origin.wait_for_requests(7);
    let mut idle = plane.connect("web");
    let _ = idle.get("/").expect(200);
    for target in [service("app"), route("held"), listener("web"), endpoint(&origin)] {
        assert_eq!(now(&plane, &target), (7, 0), "{target}");
    }
    for target in [service("echo"), route("rest"), listener("raw"), Target::Program("app".to_owned())] {
        assert_eq!(now(&plane, &target), (0, 0), "{target}");
    }
    plane.traffic(pause(service("app"), MANY));
    let mut held = ask(&plane, "/");
    plane.wait_for_held(1);
    let quiet = wait(&plane, service("app"));
    assert_eq!(now(&plane, &service("app")), (7, 1));
    assert_eq!(now(&plane, &route("rest")), (0, 1));
    assert!(!quiet.is_finished());
    origin.gate("g").open();
    assert_eq!(quiet.join().unwrap(), Quiet { left: 0, held: 1, begun: None });
    for client in &mut busy {
        let _ = client.response("GET").expect(200);
    }
    plane.resume();
    let _ = held.response("GET").expect(200);
}

#[test]
fn tunnels_are_in_flight_until_they_end() {
    let (origin, _echo, plane) = scene();
    let mut websocket = WebSocket::open(plane.address("web"), "/ws");
    let mut tunnel = Tunnel::open(plane.address("raw"));
    websocket.echo("hello");
    tunnel.echo(b"hello");
    for target in [service("app"), route("rest"), listener("web"), endpoint(&origin)] {
        assert_eq!(now(&plane, &target), (1, 0), "{target}");
    }
    assert_eq!(now(&plane, &service("echo")), (1, 0));
    assert_eq!(now(&plane, &listener("raw")), (1, 0));
    // Whatever is paused, they go on.
    plane.traffic(pause(service("app"), MANY));
    let quiet = wait(&plane, endpoint(&origin));
    websocket.echo("still");
    drop(websocket);
    assert_eq!(quiet.join().unwrap(), Quiet::default());
    plane.traffic(pause(service("echo"), MANY));
    tunnel.echo(b"still");
    let quiet = wait(&plane, service("echo"));
    drop(tunnel);
    assert_eq!(quiet.join().unwrap(), Quiet::default());
}

#[test]
fn who_waits_in_vain_is_told_how_many_are_left() {
    let (origin, _echo, plane) = scene();
    let _busy: Vec<_> = (0..3).map(|_| ask(&plane, "/held?gate=g")).collect();
    let _ = origin.wait_for_requests(3);
    let left = plane.service.quiet(&service("app"), Duration::from_millis(30), &CalledOff::default());
    assert_eq!(left, Quiet { left: 3, held: 0, begun: None });
    assert_eq!(
        Plane::serve(WEB).service.quiet(&service("app"), DEADLINE, &CalledOff::default()),
        Quiet::default()
    );
}

#[test]
fn an_endpoint_that_is_off_gets_nothing_new_and_ends_what_it_has() {
    let (first, second) = (Origin::start("first"), Origin::start("second"));
    let addresses = [first.address(), second.address()];
    let plane = Plane::serve(&[WEB, &to_endpoints(&addresses, "")].concat());
    let mut clients: Vec<_> = (0..8).map(|_| plane.connect("web")).collect();
    for client in &mut clients {
        let _ = client.get("/").expect(200);
        let _ = client.get("/").expect(200);
    }
    assert!(plane.metric("handover_idle_upstream_connections") >= 2);
    let mut busy: Vec<_> = (0..8).map(|_| ask(&plane, "/held?gate=g")).collect();
    until("both to have some", || (first.requests().len() + second.requests().len() == 24).then_some(()));
    let name = first.address().to_string();
    let (before, kept) = (first.requests().len(), first.connections());
    plane.traffic(off(&[&name]));
    for client in &mut clients {
        assert_eq!(client.get("/").expect(200).text(), "second\n");
    }
    assert_eq!((first.requests().len(), first.connections()), (before, kept));
    let quiet = wait(&plane, endpoint(&first));
    assert!(now(&plane, &endpoint(&first)).0 > 0);
    first.gate("g").open();
    assert_eq!(quiet.join().unwrap(), Quiet::default());
    second.gate("g").open();
    for client in &mut busy {
        let _ = client.response("GET").expect(200);
    }
    // Nothing is kept that leads there: it can be stopped, and nobody notices.
    first.cut();
    for client in &mut clients {
        assert_eq!(client.request("POST", "/echo", &[], b"x").expect(200).text(), "x");
    }
    plane.resume();
    let both: std::collections::BTreeSet<_> =
        (0..16).map(|_| plane.connect("web").get("/").expect(200).text()).collect();
    assert_eq!(both.len(), 2);
}

#[test]
fn copies_of_a_program_are_counted_each() {
    let (first, second) = (Origin::start("first"), Origin::start("second"));
    let plane = Plane::serve(&[WEB, common::pausing::PROGRAM].concat());
    let (one, two) = (copy("app/1", first.address(), true), copy("app/2", second.address(), true));
    plane.traffic(copies(&[one.clone(), two.clone()]));
    let mut busy: Vec<_> = (0..8).map(|_| ask(&plane, "/held?gate=g")).collect();
    until("all to be there", || (first.requests().len() + second.requests().len() == 8).then_some(()));
    let program = Target::Program("app".to_owned());
    let of = |name: &str| now(&plane, &Target::Endpoint(name.to_owned())).0;
    assert_eq!(now(&plane, &program), (8, 0));
    assert_eq!(of("app/1") + of("app/2"), 8);
    plane.traffic(copies(&[copy("app/1", first.address(), false), two]));
    let quiet = wait(&plane, Target::Endpoint("app/1".to_owned()));
    first.gate("g").open();
    assert_eq!(quiet.join().unwrap(), Quiet::default());
    second.gate("g").open();
    for client in &mut busy {
        let _ = client.response("GET").expect(200);
    }
}
