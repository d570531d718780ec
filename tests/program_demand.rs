//! Programs behind routes that run only when somebody needs them: the first request starts them, idleness stops them, and nobody who
//! comes in any moment of that is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use handover_testkit::config::{tcp_listener, tls_listener};
use handover_testkit::http::{Connection, get, request_bytes};
use handover_testkit::{
    Authority, CONFIG, DEADLINE, Handover, Port, Programs, Said, Signal, TlsClient, Way, Workspace, handover,
    proc, signal, until, wait_for_exit,
};

const WORDS: [&str; 3] = ["notify", "says", "lazy"];
/// It sleeps until somebody comes, and is not stopped by itself.
const SLEEPS: &str = "on_demand = true\nsettle = \"0s\"\n";
/// It is stopped soon.
const DOZES: &str = "on_demand = true\nidle = \"1s\"\nsettle = \"0s\"\n";

fn start(words: &[&str], more: &str) -> Programs {
    Programs::start(handover!(), Way::Route, words, more)
}

/// A request that is sent on a new connection, and whose answer nobody has read yet.
fn ask(server: &Programs) -> Connection {
    let mut connection = Connection::open(server.address());
    connection.send(request_bytes("GET", "/", &[], b""));
    connection
}

/// One that is ready when [`open`] has been called, with more lines of its table.
fn gated(more: &str) -> Programs {
    let workspace = Workspace::new();
    let gate = workspace.path("gate").display().to_string();
    let more = format!("ready = {{ command = [\"test\", \"-e\", \"{gate}\"] }}\n{more}");
    let table = Programs::table(Path::new(handover!()), &["says", "lazy"], &more);
    Programs::with(handover!(), Way::Route, workspace, &table, "")
}

fn open(server: &Programs) {
    server.workspace.write("gate", "");
}

fn answer(connection: &mut Connection) -> Said {
    Said::of(&connection.response("GET").expect(200).text())
}

fn is_in(server: &Programs, state: &str) {
    until(&format!("the program is in the state {state}"), || {
        (server.program()["state"] == state).then_some(())
    });
}

fn wait_held(server: &Programs, wanted: u64) {
    let line = format!("handover_held {wanted}\n");
    until(&format!("{wanted} requests are held"), || {
        server.control().ask("GET", "/metrics", &[], "").text().contains(&line).then_some(())
    });
}

/// The supervisor was killed: another one is started. What is left of the first must be kept until the end.
fn succeed(server: &mut Programs) -> Handover {
    let next = Handover::of(handover!(), &server.workspace).config_file(CONFIG).start();
    std::mem::replace(&mut server.handover, next)
}

#[test]
fn the_first_request_starts_it_and_when_nobody_needs_it_it_is_stopped() {
    let server = start(&WORDS, DOZES);
    assert!(server.pids().is_empty(), "{}", server.program());
    assert_eq!(server.program()["state"], "on_demand");
    server.cli(&["ps"]).expect_code(0).says("on demand");
    // A connection that is kept and has nothing to ask does not keep it awake.
    let mut kept = Connection::open(server.address());
    let first = Said::of(&kept.get("/").expect(200).text());
    assert!(wait_for_exit(first.pid, DEADLINE), "nobody needs it");
    is_in(&server, "on_demand");
    let next = Said::of(&kept.get("/").expect(200).text());
    assert_ne!(next.pid, first.pid);
}

#[test]
fn what_is_in_flight_keeps_it_awake_and_so_do_requests_that_come_and_go() {
    let server = start(&WORDS, &DOZES.replace("1s", "3s"));
    let mut slow = Connection::open(server.address());
    slow.send(request_bytes("GET", "/wait", &[], b""));
    // A second program's whole life fits into the time after which this one would be stopped.
    let other = start(&WORDS, DOZES);
    assert!(wait_for_exit(other.says().pid, DEADLINE));
    let first = server.says();
    assert_eq!(Said::of(&server.text("/go")), first);
    assert_eq!(answer(&mut slow), first);
    let next = other.says();
    while proc::alive(next.pid) {
        // Each of these is over long before anybody looks.
        assert_eq!(server.says(), first);
    }
    assert!(wait_for_exit(first.pid, DEADLINE), "now nobody needs it");
}

#[test]
fn several_at_once_start_it_once() {
    let server = gated(SLEEPS);
    let mut clients: Vec<Connection> = (0..20).map(|_| ask(&server)).collect();
    wait_held(&server, 20);
    open(&server);
    let said: Vec<Said> = clients.iter_mut().map(answer).collect();
    assert!(said.iter().all(|one| *one == said[0]), "{said:?}");
    assert_eq!(server.program()["restarts"], 0);
}

#[test]
fn a_request_that_comes_while_it_is_being_stopped_waits_and_starts_it_again() {
    let more = format!("{DOZES}stop = {{ timeout = \"3s\" }}\n");
    let server = start(&["notify", "says", "lazy", "ignores-term"], &more);
    let first = server.says();
    is_in(&server, "stopping");
    let mut client = ask(&server);
    let next = answer(&mut client);
    assert_ne!(next.pid, first.pid);
    assert!(!proc::alive(first.pid), "they never run side by side");
}

#[test]
fn tls_and_tcp_wake_it_too() {
    let (workspace, secure, raw) = (Workspace::new(), Port::claim(), Port::claim());
    let authority = Authority::new("CA");
    authority.leaf(&["a.test"]).make().write(&workspace, "a");
    let rest = tls_listener("secure", &secure, &["a"], "")
        + "[services.tunnel]\nprogram = \"app\"\n\n"
        + &tcp_listener("raw", &raw, "tunnel");
    let table = Programs::table(Path::new(handover!()), &WORDS, DOZES);
    let server = Programs::with(handover!(), Way::Route, workspace, &table, &rest);
    let (_, response) = TlsClient::trusting(authority.pem(), "a.test").get(secure.address(), "/");
    let first = Said::of(&response.text());
    assert!(wait_for_exit(first.pid, DEADLINE));
    is_in(&server, "on_demand");
    let mut tunnel = Connection::open(raw.address());
    let second = Said::of(&tunnel.get("/").expect(200).text());
    assert_ne!(second.pid, first.pid);
    // A tunnel that is open is in use, whatever passes.
    let other = start(&WORDS, DOZES);
    assert!(wait_for_exit(other.says().pid, DEADLINE));
    assert_eq!(Said::of(&tunnel.get("/").expect(200).text()), second);
    drop(tunnel);
    assert!(wait_for_exit(second.pid, DEADLINE));
}

#[test]
fn who_waits_for_one_that_does_not_start_is_told_to_come_again_and_it_is_tried_again() {
    let workspace = Workspace::new();
    let lock = workspace.write("lock", "");
    let held = std::fs::File::open(&lock).unwrap();
    held.lock().unwrap();
    let path = lock.display().to_string();
    let more = format!("{SLEEPS}restart = {{ longest = \"1s\" }}\n");
    let table = Programs::table(Path::new(handover!()), &["notify", "says", "lazy", "lock", &path], &more);
    let rest = "[services.short]\nprogram = \"app\"\nconnect_timeout = \"200ms\"\n\n\
                [[routes]]\npath = \"/short\"\nservice = \"short\"\n";
    let server = Programs::with(handover!(), Way::Route, workspace, &table, rest);
    let response = get(server.address(), "/short").expect(503);
    assert_eq!(response.header("retry-after"), Some("1"));
    is_in(&server, "back_off");
    drop(held);
    until("it has started after all", || {
        (Connection::open(server.address()).get("/short").status() == 200).then_some(())
    });
}

#[test]
fn no_more_wait_than_may() {
    let more = format!("{SLEEPS}max_held = 2\n");
    let server = gated(&more);
    let mut clients = [ask(&server), ask(&server)];
    wait_held(&server, 2);
    let response = ask(&server).response("GET").expect(503);
    assert_eq!(response.header("retry-after"), Some("1"));
    open(&server);
    clients.iter_mut().for_each(|client| drop(answer(client)));
}

#[test]
fn health_checks_are_answered_while_it_sleeps_and_do_not_wake_it() {
    let table = Programs::table(Path::new(handover!()), &WORDS, SLEEPS);
    let rest = "[[routes]]\npath = \"/health\"\nprogram = \"app\"\nhealth = true\n";
    let server = Programs::with(handover!(), Way::Route, Workspace::new(), &table, rest);
    assert_eq!(server.text("/health"), "paused\n");
    assert_eq!(server.program()["state"], "on_demand");
    let _ = server.says();
    assert!(server.text("/health").starts_with("lazy "));
}

#[test]
fn a_restart_a_pause_and_a_stop_of_one_that_sleeps_do_what_they_say() {
    let server = start(&WORDS, SLEEPS);
    server.cli(&["pause", "app"]).expect_code(0);
    let mut client = ask(&server);
    wait_held(&server, 1);
    assert!(server.pids().is_empty(), "it is paused: nobody needs it yet");
    server.cli(&["resume", "app"]).expect_code(0);
    let first = answer(&mut client);
    server.cli(&["stop", "app"]).expect_code(0);
    assert!(wait_for_exit(first.pid, DEADLINE));
    server.cli(&["start", "app"]).expect_code(0);
    let second = server.says();
    server.cli(&["restart", "app"]).expect_code(0);
    assert_ne!(server.says().pid, second.pid);
}

#[test]
fn a_deploy_of_one_that_sleeps_starts_the_new_version() {
    let workspace = Workspace::new();
    for slot in ["a", "b"] {
        workspace.write(format!("releases/{slot}/version"), slot);
    }
    let more = format!("slots = [\"releases/a\", \"releases/b\"]\n{DOZES}");
    let table =
        Programs::table(Path::new(handover!()), &["notify"], &more).replace("directory = \"app\"\n", "");
    let server = Programs::with(handover!(), Way::Route, workspace, &table, "");
    server.cli(&["deploy", "app"]).expect_code(0);
    is_in(&server, "on_demand");
    assert_eq!(server.says().version, "b");
}

#[test]
fn a_reload_changes_what_sleeps_and_what_comes_is_answered_by_the_new_definition() {
    let server = start(&["notify", "says", "lazy"], SLEEPS);
    server.write(&["notify", "says", "next"], SLEEPS);
    server.cli(&["reload"]).expect_code(0);
    assert!(server.pids().is_empty());
    assert_eq!(server.says().version, "next");
    server.write(&["notify", "says", "always"], "settle = \"0s\"\n");
    server.cli(&["reload"]).expect_code(0);
    assert_eq!(server.wait_for("always").version, "always");
}

#[test]
fn a_supervisor_that_is_killed_while_it_sleeps_has_a_successor_that_wakes_it_and_stops_it() {
    let mut server = start(&WORDS, DOZES);
    server.handover.kill_supervisor();
    let before = succeed(&mut server);
    let first = server.says();
    assert!(wait_for_exit(first.pid, DEADLINE));
    is_in(&server, "on_demand");
    assert_ne!(server.says().pid, first.pid);
    drop(before);
}

#[test]
fn who_comes_between_two_supervisors_waits_for_the_next_one() {
    let mut server = start(&WORDS, SLEEPS);
    server.handover.kill_supervisor();
    let mut client = ask(&server);
    let before = succeed(&mut server);
    let _ = answer(&mut client);
    drop(before);
}

#[test]
fn a_supervisor_that_is_killed_while_it_wakes_has_a_successor_that_goes_on() {
    let mut server = gated(SLEEPS);
    let mut client = ask(&server);
    is_in(&server, "starting");
    server.handover.kill_supervisor();
    let before = succeed(&mut server);
    open(&server);
    let said = answer(&mut client);
    assert_eq!(server.pids(), [said.pid]);
    drop(before);
}

#[test]
fn a_worker_that_dies_leaves_it_asleep_and_the_next_one_wakes_it() {
    let server = start(&WORDS, SLEEPS);
    let worker = server.handover.worker();
    signal(worker, Signal::KILL);
    assert!(wait_for_exit(worker, DEADLINE));
    let mut client = ask(&server);
    let _ = answer(&mut client);
}

#[test]
fn an_upgrade_of_handover_leaves_it_asleep_and_takes_those_along_who_wait() {
    let server = gated(DOZES);
    server.cli(&["upgrade"]).expect_code(0);
    assert!(server.pids().is_empty());
    let mut clients = [ask(&server), ask(&server)];
    wait_held(&server, 2);
    server.cli(&["upgrade"]).expect_code(0);
    wait_held(&server, 2);
    open(&server);
    let said = clients.each_mut().map(answer);
    assert_eq!(said[0], said[1]);
    assert!(wait_for_exit(said[0].pid, DEADLINE), "it is stopped as before");
}

#[test]
fn a_stop_of_the_server_does_not_wait_for_one_that_wakes() {
    let mut server = gated(SLEEPS);
    let mut client = ask(&server);
    wait_held(&server, 1);
    server.handover.signal(Signal::TERM);
    let _ = client.response("GET").expect(503);
    server.handover.process.wait().expect_code(0);
}
