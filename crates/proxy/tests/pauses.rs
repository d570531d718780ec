//! Requests that are held: in order, bounded, never silently, and for as long as somebody waits for them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::pausing::{PROGRAM, copies, copy, pause, pause_for, service};
use common::{Plane, WEB, to_endpoints};
use handover::Service as _;
use handover::traffic::{Target, Traffic};
use handover_testkit::http::Connection;
use handover_testkit::origin::Origin;
use handover_testkit::websocket::WebSocket;
use handover_testkit::{Authority, TlsClient, Workspace, pattern, until};

const MANY: u32 = 1_000;

fn scene(threads: usize) -> (Origin, Plane) {
    let origin = Origin::start("one");
    let config = [
        WEB,
        "[listeners.other]\naddress = \"127.0.0.1:0\"\n\n",
        "[[routes]]\nname = \"well\"\npath = \"/well\"\nservice = \"app\"\nhealth = true\n\n",
        "[[routes]]\nname = \"own\"\npath = \"/own\"\nfixed = \"ours\"\n\n",
        "[[routes]]\nname = \"api\"\npath_prefix = \"/api\"\nservice = \"app\"\n\n",
        &to_endpoints(&[origin.address()], ""),
    ];
    let plane = Plane::serve_with(threads, &config.concat());
    (origin, plane)
}

fn ask(plane: &Plane, listener: &str, path: &str) -> Connection {
    let mut client = plane.connect(listener);
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client
}

#[test]
fn requests_wait_while_their_service_is_paused_and_go_on_in_the_order_in_which_they_came() {
    let (origin, plane) = scene(1);
    plane.traffic(pause(service("app"), MANY));
    let mut clients: Vec<_> = (0..20)
        .map(|number| {
            let client = ask(&plane, "web", &format!("/{number}"));
            plane.wait_for_held(number + 1);
            client
        })
        .collect();
    assert!(origin.requests().is_empty());
    assert_eq!(plane.service.held(), "{\"service app\":20}");
    let shown = plane.service.connections();
    assert_eq!(shown.matches("\"state\":\"held\"").count(), 20);
    assert_eq!(shown.matches("\"service\":\"app\"").count(), 20);
    plane.resume();
    for client in &mut clients {
        let _ = client.response("GET").expect(200);
    }
    // Each on a connection of its own to the origin, whose threads take turns: what is in order is that they were made.
    let mut order: Vec<_> =
        origin.requests().into_iter().map(|request| (request.connection, request.target)).collect();
    order.sort_unstable_by_key(|(connection, _)| *connection);
    let targets: Vec<_> = order.into_iter().map(|(_, target)| target).collect();
    assert_eq!(targets, (0..20).map(|number| format!("/{number}")).collect::<Vec<_>>());
    assert_eq!(plane.service.held(), "{}");
    assert_eq!(plane.metric("handover_held"), 0);
    assert_eq!(plane.metric("handover_holds_total"), 20);
    assert_eq!(plane.metric("handover_held_refused_total"), 0);
}

#[test]
fn many_are_released_and_all_are_served() {
    let (_origin, plane) = scene(2);
    plane.traffic(pause(service("app"), MANY));
    let mut clients: Vec<_> = (0..800).map(|_| ask(&plane, "web", "/")).collect();
    plane.wait_for_held(800);
    // Saying it once more changes nothing for those that are held.
    plane.traffic(pause(service("app"), MANY));
    plane.wait_for_held(800);
    plane.resume();
    for client in &mut clients {
        let _ = client.response("GET").expect(200);
    }
    assert_eq!(plane.metric("handover_holds_total"), 800);
}

#[test]
fn a_kept_connection_and_one_over_tls_and_a_body_that_comes_meanwhile_are_held_too() {
    let root = Authority::new("root");
    let workspace = Workspace::new();
    root.pair(&["a.test"]).write(&workspace, "a");
    let origin = Origin::start("one");
    let secure = "[listeners.secure]\naddress = \"127.0.0.1:0\"\n\
                  [listeners.secure.tls]\ncertificate = \"a.pem\"\nkey = \"a.key\"\n\n";
    let config = [WEB, secure, &to_endpoints(&[origin.address()], "")].concat();
    let plane = Plane::serve_in(workspace, 2, &config);
    let mut kept = plane.connect("web");
    let _ = kept.get("/").expect(200);
    let client = TlsClient::trusting(root.pem(), "a.test");
    let mut sealed = client.connect(plane.address("secure")).connection;
    let _ = sealed.get("/").expect(200);
    plane.traffic(pause(service("app"), MANY));
    let body = pattern::bytes(300_000);
    kept.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n");
    kept.send(&body[..10]);
    sealed.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    plane.wait_for_held(2);
    let writer = std::thread::spawn(move || {
        kept.send(&body[10..]);
        (kept, body)
    });
    plane.resume();
    let (mut kept, body) = writer.join().unwrap();
    assert!(kept.response("POST").expect(200).body == body);
    assert_eq!(sealed.response("POST").expect(200).text(), "hello");
    let _ = kept.get("/").expect(200);
    let _ = sealed.get("/").expect(200);
}

#[test]
fn a_second_request_behind_one_that_is_held_waits_for_its_turn() {
    let (origin, plane) = scene(1);
    plane.traffic(pause(service("app"), MANY));
    let mut client = plane.connect("web");
    client.send("GET /first HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n\r\n");
    plane.wait_for_held(1);
    plane.resume();
    let _ = client.response("GET").expect(200);
    let _ = client.response("GET").expect(200);
    let targets: Vec<_> = origin.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/first", "/second"]);
}

#[test]
fn beyond_the_limit_requests_are_told_to_come_again_and_their_connections_stay() {
    let (origin, plane) = scene(2);
    plane.traffic(pause(service("app"), 2));
    let mut held = [ask(&plane, "web", "/"), ask(&plane, "web", "/")];
    plane.wait_for_held(2);
    let mut beyond = plane.connect("web");
    let answer = beyond.request("POST", "/", &[], b"body").expect(503);
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(seconds >= 1);
    assert!(!answer.head.closes());
    assert_eq!(plane.metric("handover_held_refused_total"), 1);
    // One goes, and there is room for another one.
    let [first, second] = &mut held;
    first.finish();
    plane.wait_for_held(1);
    beyond.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    plane.wait_for_held(2);
    plane.resume();
    let _ = beyond.response("GET").expect(200);
    let _ = second.response("GET").expect(200);
    assert_eq!(origin.requests().len(), 2, "who had gone was not served");
}

#[test]
fn clients_that_go_away_are_noticed_whoever_closes() {
    let (origin, plane) = scene(2);
    plane.traffic(pause(service("app"), MANY));
    let clients: Vec<_> = (0..10).map(|_| ask(&plane, "web", "/")).collect();
    plane.wait_for_held(10);
    drop(clients);
    plane.wait_for_held(0);
    plane.wait_until_idle();
    plane.resume();
    let _ = plane.connect("web").get("/").expect(200);
    assert_eq!(origin.requests().len(), 1);
    assert_eq!(plane.metric("handover_closed_connections_total{why=\"client_gone\"}"), 10);
}

#[test]
fn a_pause_that_nobody_ends_ends_by_itself() {
    let (_origin, plane) = scene(2);
    plane.traffic(pause_for(service("app"), MANY, Duration::from_millis(300)));
    let mut clients: Vec<_> = (0..10).map(|_| ask(&plane, "web", "/")).collect();
    for client in &mut clients {
        let _ = client.response("GET").expect(200);
    }
    // Nothing that comes now is held.
    let _ = plane.connect("web").get("/").expect(200);
    assert_eq!(plane.metric("handover_held"), 0);
}

#[test]
fn no_limit_of_the_listener_ends_what_is_held() {
    let origin = Origin::start("one");
    let web = "[listeners.web]\naddress = \"127.0.0.1:0\"\ntimeouts = { header = \"600ms\", idle = \"600ms\" }\n\n\
               [listeners.clock]\naddress = \"127.0.0.1:0\"\ntimeouts = { header = \"1500ms\" }\n\n";
    let plane = Plane::serve_with(1, &[web, &to_endpoints(&[origin.address()], "")].concat());
    plane.traffic(pause(service("app"), MANY));
    let mut client = ask(&plane, "web", "/");
    // Nothing is said there, until its limit is over.
    plane.connect("clock").expect_end();
    assert_eq!(plane.metric("handover_held"), 1);
    plane.resume();
    let _ = client.response("GET").expect(200);
}

#[test]
fn a_route_is_paused_and_others_go_on() {
    let (_origin, plane) = scene(2);
    plane.traffic(pause(Target::Route("api".to_owned()), MANY));
    let mut held = ask(&plane, "web", "/api/x");
    plane.wait_for_held(1);
    let _ = plane.connect("web").get("/").expect(200);
    let _ = plane.connect("web").get("/own").expect(200);
    plane.traffic(pause(Target::Route("own".to_owned()), MANY));
    let _ = held.response("GET").expect(200);
    let mut own = ask(&plane, "web", "/own");
    plane.wait_for_held(1);
    plane.resume();
    assert_eq!(own.response("GET").expect(200).text(), "ours");
}

#[test]
fn a_listener_is_paused_and_the_other_one_goes_on() {
    let (_origin, plane) = scene(2);
    plane.traffic(pause(Target::Listener("web".to_owned()), MANY));
    let mut held = [ask(&plane, "web", "/api/x"), ask(&plane, "web", "/own"), ask(&plane, "web", "/")];
    plane.wait_for_held(3);
    let _ = plane.connect("other").get("/own").expect(200);
    let _ = plane.connect("other").get("/").expect(200);
    plane.resume();
    for client in &mut held {
        let _ = client.response("GET").expect(200);
    }
}

#[test]
fn who_asks_for_health_is_answered_by_the_proxy_while_the_service_is_paused() {
    let (origin, plane) = scene(2);
    assert_eq!(plane.connect("web").get("/well").expect(200).text(), "one\n");
    for target in [service("app"), Target::Route("well".to_owned()), Target::Listener("web".to_owned())] {
        plane.traffic(pause(target, MANY));
        let mut client = plane.connect("web");
        assert_eq!(client.get("/well").expect(200).text(), "paused\n");
        assert_eq!(client.get("/well").expect(200).text(), "paused\n", "its connection stays");
    }
    plane.resume();
    assert_eq!(plane.connect("web").get("/well").expect(200).text(), "one\n");
    assert_eq!(origin.requests().len(), 2);
}

#[test]
fn what_is_held_follows_a_reload() {
    let (origin, mut plane) = scene(2);
    plane.traffic(pause(service("app"), MANY));
    let mut clients: Vec<_> = (0..6).map(|_| ask(&plane, "web", "/")).collect();
    plane.wait_for_held(6);
    let next = Origin::start("next");
    plane.load(&[WEB, &to_endpoints(&[next.address()], "")].concat()).unwrap();
    plane.wait_for_held(6);
    let mut one_more = ask(&plane, "web", "/");
    plane.wait_for_held(7);
    plane.resume();
    for client in clients.iter_mut().chain([&mut one_more]) {
        assert_eq!(client.response("GET").expect(200).text(), "next\n");
    }
    assert!(origin.requests().is_empty());
    assert_eq!(plane.metric("handover_holds_total"), 7);
}

#[test]
fn what_is_held_on_a_listener_that_goes_is_served_at_the_resume() {
    let (origin, mut plane) = scene(2);
    plane.traffic(pause(service("app"), MANY));
    let mut client = ask(&plane, "web", "/");
    plane.wait_for_held(1);
    let other = "[listeners.other]\naddress = \"127.0.0.1:0\"\n\n";
    plane.load(&[other, &to_endpoints(&[origin.address()], "")].concat()).unwrap();
    plane.resume();
    assert!(client.response("GET").expect(200).head.closes());
}

#[test]
fn who_waits_on_a_listener_whose_time_is_over_is_told_to_come_again() {
    let (origin, mut plane) = scene(2);
    plane.traffic(pause(service("app"), MANY));
    let mut client = ask(&plane, "web", "/");
    plane.wait_for_held(1);
    let other = "[drain]\ntimeout = \"100ms\"\n\n[listeners.other]\naddress = \"127.0.0.1:0\"\n\n";
    plane.load(&[other, &to_endpoints(&[origin.address()], "")].concat()).unwrap();
    let response = client.response("GET").expect(503);
    assert!(response.head.closes() && response.header("retry-after").is_some(), "{response:?}");
    client.finish();
    assert_eq!(plane.metric("handover_held"), 0);
    assert!(origin.requests().is_empty());
}

#[test]
fn a_pause_that_is_over_does_not_end_another_one_of_the_same_service() {
    let origin = Origin::start("one");
    let config = format!("{WEB}[services.front]\nprogram = \"app\"\n\n{PROGRAM}")
        .replace("[[routes]]\nprogram = \"app\"", "[[routes]]\nservice = \"front\"");
    let plane = Plane::serve_with(1, &config);
    let copies = copies(&[copy("app/1", origin.address(), true)]);
    let over = pause_for(service("front"), MANY, Duration::ZERO).pauses;
    let still = pause(Target::Program("app".to_owned()), MANY).pauses;
    plane.traffic(Traffic { pauses: [over, still].concat(), ..copies.clone() });
    let mut client = ask(&plane, "web", "/");
    plane.wait_for_held(1);
    plane.traffic(copies);
    let _ = client.response("GET").expect(200);
}

#[test]
fn a_drain_lets_what_is_held_go_on() {
    let (_origin, plane) = scene(2);
    plane.traffic(pause(service("app"), MANY));
    let mut clients: Vec<_> = (0..10).map(|_| ask(&plane, "web", "/")).collect();
    plane.wait_for_held(10);
    let (_, drained) = plane.drain(handover_testkit::DEADLINE);
    for client in &mut clients {
        assert!(client.response("GET").expect(200).head.closes());
        client.finish();
    }
    assert_eq!(drained.join().unwrap(), handover::Losses::default());
}

#[test]
fn what_must_not_wait_any_more_is_told_to_come_again() {
    let (origin, plane) = scene(2);
    let paused = pause(service("app"), MANY);
    plane.traffic(paused.clone());
    let mut clients: Vec<_> = (0..10).map(|_| ask(&plane, "web", "/")).collect();
    plane.wait_for_held(10);
    let mut refused = paused;
    refused.pauses[0].refuse = true;
    plane.traffic(refused);
    let mut late = ask(&plane, "web", "/");
    for client in clients.iter_mut().chain([&mut late]) {
        let answer = client.response("GET").expect(503);
        assert!(answer.head.closes() && answer.header("retry-after").is_some());
    }
    assert_eq!(plane.connect("web").get("/well").expect(200).text(), "paused\n");
    assert!(origin.requests().is_empty());
}

#[test]
fn a_stop_at_once_tells_those_who_wait() {
    let (origin, plane) = scene(2);
    plane.traffic(pause(service("app"), MANY));
    let mut clients: Vec<_> = (0..10).map(|_| ask(&plane, "web", "/")).collect();
    plane.wait_for_held(10);
    let _ = plane.service.stop_now();
    for client in &mut clients {
        let answer = client.response("GET").expect(503);
        assert!(answer.head.closes() && answer.header("retry-after").is_some());
    }
    assert!(origin.requests().is_empty());
}

#[test]
fn a_websocket_that_is_asked_for_during_a_pause_begins_after_it() {
    let (_origin, plane) = scene(2);
    let mut before = WebSocket::open(plane.address("web"), "/ws");
    plane.traffic(pause(service("app"), MANY));
    before.echo("goes on");
    let mut client = plane.connect("web");
    client.send(handover_testkit::websocket::upgrade_request("/ws"));
    plane.wait_for_held(1);
    plane.resume();
    assert_eq!(client.head().status, 101);
    client.send(handover_testkit::websocket::client_frame(1, b"hello"));
    assert_eq!(handover_testkit::websocket::read_frame(&mut client).unwrap().1, b"hello");
}

#[test]
fn two_pauses_of_one_request_both_hold_it() {
    let (_origin, plane) = scene(2);
    let mut both = pause(service("app"), MANY);
    both.pauses.extend(pause(Target::Route("api".to_owned()), MANY).pauses);
    plane.traffic(both);
    let mut client = ask(&plane, "web", "/api/x");
    plane.wait_for_held(1);
    plane.traffic(pause(service("app"), MANY));
    plane.wait_for_held(1);
    plane.traffic(pause(Target::Route("api".to_owned()), MANY));
    plane.wait_for_held(1);
    plane.traffic(Traffic::default());
    let _ = client.response("GET").expect(200);
    until("nothing to be held", || (plane.metric("handover_held") == 0).then_some(()));
    assert_eq!(plane.metric("handover_holds_total"), 1);
}
