//! Reload and drain, as the threads see them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Plane, WEB, to_endpoints};
use handover::{DrainEnd, LogTarget, Service as _};
use handover_testkit::origin::Origin;
use handover_testkit::tunnel::Download;
use handover_testkit::websocket::WebSocket;

fn hello(text: &str) -> String {
    format!("{WEB}[[routes]]\nfixed = \"{text}\"\n")
}

#[test]
fn after_a_commit_no_thread_gives_an_old_answer() {
    let mut plane = Plane::serve(&hello("0"));
    let mut clients: Vec<_> = (0..16).map(|_| plane.connect("web")).collect();
    for number in 1..=100 {
        plane.load(&hello(&number.to_string())).unwrap();
        for client in &mut clients {
            assert_eq!(client.get("/").expect(200).text(), number.to_string());
        }
    }
    assert_eq!(plane.metric("handover_listener_accepted_connections_total{listener=\"web\"}"), 16);
}

#[test]
fn answers_only_go_forward_while_generations_change_under_load() {
    let mut plane = Plane::serve(&hello("0"));
    let ended = Arc::new(AtomicBool::new(false));
    let address = plane.address("web");
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let ended = Arc::clone(&ended);
            std::thread::spawn(move || {
                let mut client = handover_testkit::http::Connection::open(address);
                let (mut last, mut count) = (0, 0);
                while !ended.load(Ordering::Relaxed) {
                    let now: u32 = client.get("/").expect(200).text().parse().unwrap();
                    assert!(now >= last, "{now} came after {last}");
                    (last, count) = (now, count + 1);
                }
                count
            })
        })
        .collect();
    for number in 1..=50 {
        plane.load(&hello(&number.to_string())).unwrap();
        assert_eq!(plane.connect("web").get("/").expect(200).text(), number.to_string());
    }
    ended.store(true, Ordering::Relaxed);
    assert!(clients.into_iter().all(|client| client.join().unwrap() > 0));
}

#[test]
fn a_dropped_candidate_changes_nothing() {
    let mut plane = Plane::serve(&hello("old"));
    let candidate = plane.prepare(&hello("new")).unwrap();
    assert_eq!(candidate.changes().len(), 1);
    drop(candidate);
    assert_eq!(plane.connect("web").get("/").expect(200).text(), "old");
    plane.load(&hello("newer")).unwrap();
    assert_eq!(plane.connect("web").get("/").expect(200).text(), "newer");
}

#[test]
fn what_is_in_flight_goes_on_across_a_reload() {
    let origin = Origin::start("one");
    let routes = to_endpoints(&[origin.address()], "");
    let mut plane = Plane::serve(&[WEB, &routes].concat());
    let mut socket = WebSocket::open(plane.address("web"), "/ws");
    let mut download = Download::begin(plane.address("web"), "/bytes/30000000");
    download.take(1_000_000);
    let mut held = plane.connect("web");
    held.send("GET /held?gate=g HTTP/1.1\r\nHost: a\r\n\r\n");
    let _ = origin.wait_for_requests(3);
    for number in 0..5 {
        plane
            .load(
                &[WEB, &routes, "[[routes]]\npath = \"/n\"\nfixed = \"", &number.to_string(), "\"\n"]
                    .concat(),
            )
            .unwrap();
        socket.echo("still here");
        download.take(1_000_000);
    }
    origin.gate("g").open();
    assert_eq!(held.response("GET").expect(200).text(), "held");
    assert_eq!(held.get("/n").expect(200).text(), "4");
    let mut same = download.finish();
    assert_eq!(same.get("/").expect(200).text(), "one\n");
    socket.echo("and here");
}

#[test]
fn kept_endpoint_connections_survive_a_reload() {
    let origin = Origin::start("one");
    let routes = to_endpoints(&[origin.address()], "");
    let mut plane = Plane::serve_with(1, &[WEB, &routes].concat());
    let mut client = plane.connect("web");
    for number in 0..5 {
        let _ = client.get("/").expect(200);
        plane
            .load(
                &[WEB, &routes, "[[routes]]\npath = \"/n\"\nfixed = \"", &number.to_string(), "\"\n"]
                    .concat(),
            )
            .unwrap();
    }
    assert_eq!(origin.connections(), 1);
    // An endpoint that is no longer named is let go of.
    let other = Origin::start("other");
    plane.load(&[WEB, &to_endpoints(&[other.address()], "")].concat()).unwrap();
    assert_eq!(client.get("/").expect(200).text(), "other\n");
    handover_testkit::until("the old connection to be closed", || {
        (plane.metric("handover_idle_upstream_connections") == 1).then_some(())
    });
}

#[test]
fn a_removed_listener_ends_its_connections_after_their_response() {
    let two = format!("{WEB}[listeners.old]\naddress = \"127.0.0.1:0\"\n[[routes]]\nfixed = \"two\"\n");
    let mut plane = Plane::serve(&two);
    let old = plane.address("old");
    let mut on_old = plane.connect("old");
    let mut on_web = plane.connect("web");
    assert_eq!(on_old.get("/").expect(200).text(), "two");
    assert_eq!(on_web.get("/").expect(200).text(), "two");
    plane.load(&hello("one")).unwrap();
    assert_eq!(on_web.get("/").expect(200).text(), "one");
    let last = on_old.get("/").expect(200);
    assert_eq!((last.text().as_str(), last.header("connection")), ("two", Some("close")));
    on_old.expect_end();
    assert_eq!(on_web.get("/").expect(200).header("connection"), None);
    // The test's stand-in for the supervisor still holds the socket; the proxy does not accept on it.
    let waiting = TcpStream::connect(old).unwrap();
    assert_eq!(on_web.get("/").expect(200).text(), "one");
    assert_eq!(plane.metric("handover_listener_open_connections{listener=\"web\"}"), 1);
    drop(waiting);
}

#[test]
fn an_added_listener_serves_when_the_commit_returns() {
    let mut plane = Plane::serve(&hello("one"));
    for _ in 0..10 {
        let more = format!("{}[listeners.more]\naddress = \"127.0.0.1:0\"\n", hello("two"));
        plane.load(&more).unwrap();
        assert_eq!(plane.connect("more").get("/").expect(200).text(), "two");
        plane.load(&hello("one")).unwrap();
    }
}

#[test]
fn limits_of_open_connections_follow_the_generation() {
    let mut plane = Plane::serve(&hello("one"));
    let mut client = plane.connect("web");
    let long = "x".repeat(5_000);
    let _ = client.request("GET", "/", &[("X-Long", &long)], b"").expect(200);
    let strict =
        format!("{}\nlimits = {{ header_bytes = \"2KiB\" }}\n[[routes]]\nfixed = \"two\"\n", WEB.trim_end());
    plane.load(&strict).unwrap();
    let _ = client.request("GET", "/", &[("X-Long", &long)], b"").expect(431);
}

#[test]
fn a_drain_lets_responses_end_and_closes_idle_connections_without_loss() {
    let origin = Origin::start("one");
    let plane = Plane::serve(&[WEB, &to_endpoints(&[origin.address()], "")].concat());
    let mut idle = plane.connect("web");
    let _ = idle.get("/").expect(200);
    let mut held = plane.connect("web");
    held.send("GET /held?gate=g HTTP/1.1\r\nHost: a\r\n\r\n");
    let _ = origin.wait_for_requests(2);
    let (drain, ended) = plane.drain(Duration::from_secs(60));
    idle.expect_end();
    handover_testkit::until("one connection to be left", || (drain.connections() == 1).then_some(()));
    origin.gate("g").open();
    let response = held.response("GET").expect(200);
    assert_eq!((response.text().as_str(), response.header("connection")), ("held", Some("close")));
    held.expect_end();
    assert!(ended.join().unwrap().is_empty());
}

#[test]
fn what_does_not_end_by_the_deadline_is_cut_and_counted_by_kind() {
    let origin = Origin::start("one");
    let plane = Plane::serve(&[WEB, &to_endpoints(&[origin.address()], "")].concat());
    let mut socket = WebSocket::open(plane.address("web"), "/ws");
    socket.echo("here");
    let mut held = plane.connect("web");
    held.send("GET /held?gate=g HTTP/1.1\r\nHost: a\r\n\r\n");
    let _ = origin.wait_for_requests(2);
    let (_, ended) = plane.drain(Duration::from_millis(100));
    let losses = ended.join().unwrap();
    assert_eq!(losses.0.get("websocket"), Some(&1));
    assert_eq!(losses.0.get("http request"), Some(&1));
    assert_eq!(losses.total(), 2);
    held.expect_end();
    origin.gate("g").open();
}

#[test]
fn a_drain_that_is_taken_back_serves_on() {
    let origin = Origin::start("one");
    let plane = Plane::serve(&[WEB, &to_endpoints(&[origin.address()], "")].concat());
    let mut socket = WebSocket::open(plane.address("web"), "/ws");
    let (drain, ended) = plane.drain(Duration::from_secs(60));
    handover_testkit::until("the drain to look", || (drain.connections() == 1).then_some(()));
    // Nobody accepts now: the connection waits in the queue.
    let mut waiting = plane.connect("web");
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    drain.end(DrainEnd::Resumed);
    assert!(ended.join().unwrap().is_empty());
    plane.service.resume();
    let response = waiting.response("GET").expect(200);
    assert_eq!((response.text().as_str(), response.header("connection")), ("one\n", None));
    socket.echo("still here");
}

#[test]
fn a_drain_that_is_taken_back_spares_nobody_whose_listener_went() {
    let origin = Origin::start("one");
    let routes = to_endpoints(&[origin.address()], "");
    let old = "[listeners.old]\naddress = \"127.0.0.1:0\"\n\n";
    let mut plane = Plane::serve(&[WEB, old, &routes].concat());
    let mut gone = WebSocket::open(plane.address("old"), "/ws");
    let mut stays = WebSocket::open(plane.address("web"), "/ws");
    gone.echo("here");
    plane.load(&[WEB, &routes, "[drain]\ntimeout = \"1s\"\n"].concat()).unwrap();
    let (drain, ended) = plane.drain(Duration::from_secs(60));
    handover_testkit::until("the drain to look", || (drain.connections() > 0).then_some(()));
    drain.end(DrainEnd::Resumed);
    assert!(ended.join().unwrap().is_empty());
    plane.service.resume();
    gone.connection().expect_end();
    stays.echo("here");
    assert_eq!(plane.metric("handover_closed_connections_total{why=\"cut\"}"), 1);
}

#[test]
fn closing_the_listeners_takes_in_who_waits_and_refuses_who_comes_later() {
    let plane = Plane::serve(&hello("one"));
    let mut client = plane.connect("web");
    let _ = client.get("/").expect(200);
    plane.service.close_listeners();
    assert_eq!(client.get("/").expect(200).text(), "one");
    let (_, ended) = plane.drain(Duration::from_secs(60));
    client.expect_end();
    assert!(ended.join().unwrap().is_empty());
}

#[test]
fn what_waits_for_the_next_start_is_pointed_out_until_it_is_taken_back() {
    let control = |table: &str| format!("[control]\n{table}\n\n{}", hello("x"));
    let mut plane = Plane::serve(&control("socket = \"a.sock\"\nstate = \"a\""));
    for _ in 0..2 {
        let candidate = plane.prepare(&control("socket = \"b.sock\"\nstate = \"b\"")).unwrap();
        let warnings = candidate.warnings();
        let places: Vec<_> =
            warnings.iter().map(|warning| (warning.line, warning.pointer.as_deref())).collect();
        assert_eq!(places, [(Some(2), Some("/control/socket")), (Some(3), Some("/control/state"))]);
        assert!(warnings.iter().all(|warning| warning.detail.contains("next start")), "{warnings:?}");
        candidate.commit();
    }
    let removed = plane.prepare(&control("state = \"a\"")).unwrap().warnings();
    assert_eq!(removed.len(), 1, "{removed:?}");
    let back = plane.prepare(&control("socket = \"a.sock\"\nstate = \"a\"\nmode = \"0600\"")).unwrap();
    assert_eq!(back.warnings(), []);
}

#[test]
fn the_supervisor_is_told_how_to_log() {
    let mut plane = Plane::serve(&hello("x"));
    let log = |plane: &mut Plane, table: &str| {
        let candidate = plane.prepare(&format!("{}[log]\n{table}", hello("x"))).unwrap();
        assert_eq!(candidate.warnings(), []);
        candidate.settings().log.unwrap()
    };
    let settings = log(&mut plane, "to = \"stdout\"\nformat = \"json\"\nlevel = \"debug\"\n");
    assert_eq!(
        (settings.json, &settings.to, settings.level.as_deref()),
        (true, &LogTarget::Stdout, Some("debug"))
    );
    let settings = log(&mut plane, "to = \"own.log\"\n");
    let file = LogTarget::File(plane.workspace.path("own.log"));
    assert_eq!((settings.json, &settings.to, settings.level.as_deref()), (false, &file, Some("info")));
}
