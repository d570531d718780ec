//! Pause and resume: new requests are held, bounded in number and time, and go on in order; nothing is lost in silence.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use handover_testkit::http::{Connection, request_bytes};
use handover_testkit::{Process, Programs, Signal, Way, handover, signal, until};

const WORDS: [&str; 3] = ["notify", "says", "one"];

fn start() -> Programs {
    Programs::start(handover!(), Way::Route, &WORDS, "settle = \"0s\"\n")
}

/// A request that is sent on a new connection, and whose answer nobody has read yet.
fn ask(server: &Programs) -> Connection {
    let mut connection = Connection::open(server.address());
    connection.send(request_bytes("GET", "/", &[], b""));
    connection
}

/// Waits until so many requests are held.
#[track_caller]
fn wait_held(server: &Programs, wanted: u64) {
    until(&format!("{wanted} requests are held"), || {
        let program = server.program();
        (program["paused"]["held"].as_u64() == Some(wanted)).then_some(())
    });
}

#[test]
fn held_requests_are_answered_after_the_resume_also_on_connections_that_were_open_before() {
    for target in ["app", "all", "web"] {
        let server = start();
        let mut kept = Connection::open(server.address());
        let _ = kept.get("/").expect(200);
        server.cli(&["pause", target]).expect_code(0);
        kept.send(request_bytes("GET", "/", &[], b""));
        let mut others: Vec<Connection> = (0..5).map(|_| ask(&server)).collect();
        if target == "app" {
            wait_held(&server, 6);
        }
        server.cli(&["resume", target]).expect_code(0);
        let _ = kept.response("GET").expect(200);
        for connection in &mut others {
            let _ = connection.response("GET").expect(200);
        }
        server.cli(&["resume", target]).expect_code(0).says("unchanged");
    }
}

#[test]
fn a_pause_waits_for_what_is_in_flight() {
    let server = start();
    let mut slow = Connection::open(server.address());
    slow.send(request_bytes("GET", "/wait", &[], b""));
    until("it is in flight", || server.cli(&["logs", "app"]).stdout.contains("somebody waits").then_some(()));
    let mut pause = Process::start(server.handover.command(["pause", "app"]));
    // What ends it must not be held: it comes on a way of its own.
    until("it is paused", || (!server.program()["paused"].is_null()).then_some(()));
    assert!(!pause.ended(), "something is in flight");
    let held = ask(&server);
    wait_held(&server, 1);
    server.cli(&["restart", "app"]).expect_code(13);
    signal(server.pids()[0], Signal::KILL);
    pause.wait().expect_code(0);
    drop((held, slow));
}

#[test]
fn at_the_limit_requests_are_refused_with_retry_after_and_counted() {
    let server = start();
    server.cli(&["pause", "app", "--max-held", "2"]).expect_code(0);
    let mut held = [ask(&server), ask(&server)];
    wait_held(&server, 2);
    let response = ask(&server).response("GET").expect(503);
    let after: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!(after >= 1);
    let metrics = server.control().ask("GET", "/metrics", &[], "").text();
    assert!(metrics.contains("handover_held_refused_total 1"), "{metrics}");
    server.cli(&["resume", "app"]).expect_code(0);
    for connection in &mut held {
        let _ = connection.response("GET").expect(200);
    }
}

/// Hazard 39.
#[test]
fn a_pause_that_nobody_resumes_ends_by_itself() {
    let server = start();
    server.cli(&["pause", "app", "--for", "500ms"]).expect_code(0);
    let _ = ask(&server).response("GET").expect(200);
    until("it is not paused any more", || server.program()["paused"].is_null().then_some(()));
}

#[test]
fn health_checks_are_answered_while_everything_else_is_held() {
    let workspace = handover_testkit::Workspace::new();
    let table = Programs::table(std::path::Path::new(handover!()), &WORDS, "");
    let rest = "[[routes]]\npath = \"/health\"\nprogram = \"app\"\nhealth = true\n";
    let server = Programs::with(handover!(), Way::Route, workspace, &table, rest);
    server.cli(&["pause", "app"]).expect_code(0);
    let mut connection = Connection::open(server.address());
    assert_eq!(connection.get("/health").expect(200).text(), "paused\n");
    server.cli(&["resume", "app"]).expect_code(0);
    assert!(connection.get("/health").text().starts_with("one "));
}

#[test]
fn a_deploy_during_a_pause_leaves_it_paused() {
    let workspace = handover_testkit::Workspace::new();
    for slot in ["a", "b"] {
        workspace.write(format!("releases/{slot}/version"), slot);
    }
    let more = "slots = [\"releases/a\", \"releases/b\"]\nsettle = \"0s\"\n";
    let table = Programs::table(std::path::Path::new(handover!()), &["notify"], more)
        .replace("directory = \"app\"\n", "");
    let server = Programs::with(handover!(), Way::Route, workspace, &table, "");
    server.wait_for("a");
    server.cli(&["pause", "app"]).expect_code(0);
    let mut held = ask(&server);
    wait_held(&server, 1);
    server.cli(&["deploy", "app"]).expect_code(0);
    wait_held(&server, 1);
    server.cli(&["resume", "app"]).expect_code(0);
    assert!(held.response("GET").expect(200).text().starts_with("b "));
}

/// Hazard 37.
#[test]
fn a_stop_releases_what_is_held() {
    let mut server = start();
    server.cli(&["pause", "app"]).expect_code(0);
    let mut held = [ask(&server), ask(&server)];
    wait_held(&server, 2);
    server.handover.signal(Signal::TERM);
    for connection in &mut held {
        let status = connection.response("GET").status();
        assert!([200, 503].contains(&status), "{status}");
    }
    server.handover.process.wait().expect_code(0);
}

#[test]
fn held_requests_survive_an_upgrade_of_handover() {
    let server = start();
    server.cli(&["pause", "app"]).expect_code(0);
    let mut held = [ask(&server), ask(&server)];
    wait_held(&server, 2);
    server.cli(&["upgrade"]).expect_code(0);
    wait_held(&server, 2);
    server.cli(&["resume", "app"]).expect_code(0);
    for connection in &mut held {
        let _ = connection.response("GET").expect(200);
    }
}

#[test]
fn what_cannot_be_paused_says_so_and_why() {
    let server = Programs::start(handover!(), Way::Shared, &WORDS, "");
    server.cli(&["pause", "app"]).expect_code(10).says("accepts its connections itself");
    let output = server.cli(&["pause", "nothing"]);
    assert!([2, 10].contains(&output.code) && output.all().contains("nothing"), "{}", output.all());
}
