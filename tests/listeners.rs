//! Listeners: what was seen when the peers were measured, hazards 41 to 44; and inherited ones, hazard 36.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use handover_testkit::config::{everything_to, fixed, listener, service};
use handover_testkit::faults::{Squatter, foreign_process};
use handover_testkit::http::{self, Connection};
use handover_testkit::origin::Origin;
use handover_testkit::{
    EndOnDrop, Handover, Port, Serving, Workspace, handover, have, operation_of, proc, text_at,
};
use serde_json::Value;

/// Hazard 41: not one refused connection while reloads fail to bind.
#[test]
fn a_reload_that_cannot_bind_leaves_the_other_listeners_alone() {
    let (server, taken) = (Serving::start(handover!(), &fixed("/", "old")), Port::claim());
    let _squatter = Squatter::alone(taken.address());
    let held = proc::listeners(server.port.number());
    let rest = listener("other", &taken) + &fixed("/", "new");
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _clients = EndOnDrop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    assert_eq!(http::get(server.address(), "/").text(), "old");
                    asked.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        for _ in 0..5 {
            let before = asked.load(Ordering::Acquire);
            server.reload(&rest).expect_code(10);
            handover_testkit::until("clients were answered", || {
                (asked.load(Ordering::Acquire) > before + 10).then_some(())
            });
        }
    });
    assert_eq!(proc::listeners(server.port.number()), held, "the very same listening socket");
}

/// Hazard 41's other half: a reload that applies keeps the listening socket as well.
#[test]
fn a_listener_that_stays_is_the_same_socket_after_every_reload() {
    let server = Serving::start(handover!(), &fixed("/", "0"));
    let held = proc::listeners(server.port.number());
    assert_eq!(held.len(), 1);
    for number in 1..=5 {
        server.reload(&fixed("/", number)).expect_code(0);
        assert_eq!(proc::listeners(server.port.number()), held);
    }
}

/// Hazard 42: the foreign listener invites to share, and is not joined.
#[test]
fn a_port_that_a_foreign_process_shares_is_refused_and_the_process_is_named() {
    let (server, taken) = (Serving::start(handover!(), &fixed("/", "ours")), Port::claim());
    let foreign = Squatter::inviting(taken.address());
    let output = server.reload(&(listener("other", &taken) + &fixed("/", "new")));
    assert_eq!(output.code, 10, "{}", output.all());
    assert!(output.all().contains("in use"), "{}", output.all());
    let pid = std::process::id().to_string();
    assert!(output.all().contains(&pid), "the process {pid} is not named: {}", output.all());
    // All that comes to the port is the foreign process's.
    for _ in 0..20 {
        let mut client = Connection::open(taken.address());
        client.send("hello");
        drop(foreign.accept());
    }
    assert_eq!(server.text("/"), "ours");
}

/// Hazard 42: another program, by its own name.
#[test]
fn the_program_that_holds_the_port_is_named() {
    if !have("socat", "the_program_that_holds_the_port_is_named") {
        return;
    }
    let (server, taken) = (Serving::start(handover!(), &fixed("/", "ours")), Port::claim());
    let foreign = foreign_process(taken.number()).expect("socat");
    let output = server.reload(&(listener("other", &taken) + &fixed("/", "new")));
    assert_eq!(output.code, 10, "{}", output.all());
    for word in ["socat", &foreign.pid().to_string()] {
        assert!(output.all().contains(word), "{word:?} is missing: {}", output.all());
    }
}

/// Hazard 42: the worker was executed by a descriptor, and is not called by its number.
#[test]
fn the_worker_goes_by_the_name_of_the_program_and_so_does_who_holds_its_port() {
    let server = Serving::start(handover!(), &fixed("/", "ours"));
    let name = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name(server.handover.worker()), "handover\n");
    assert_eq!(name(server.handover.pid()), "handover\n");
    let workspace = Workspace::new();
    let config = listener("web", &server.port) + &fixed("/", "theirs");
    let output = Handover::of(handover!(), &workspace).config(config).try_start().unwrap_err();
    assert!(output.all().contains("held by handover (pid "), "{}", output.all());
}

/// Asks `/` until told to stop; fails if an answer is older than one that somebody had before the request was sent.
fn watch(server: &Serving, newest: &AtomicU64, stop: &AtomicBool, kept: bool) {
    let mut connection = Connection::open(server.address());
    while !stop.load(Ordering::Acquire) {
        let known = newest.load(Ordering::Acquire);
        let response = connection.get("/");
        let answer: u64 = response.text().parse().unwrap();
        assert!(answer >= known, "answered {answer} after {known} had been answered");
        newest.fetch_max(answer, Ordering::AcqRel);
        if !kept {
            connection = Connection::open(server.address());
        }
    }
}

/// Hazard 43: on every thread, on kept and on new connections.
#[test]
fn no_old_answer_is_given_after_a_new_one() {
    const RELOADS: u64 = 30;
    let server = Serving::start(handover!(), &fixed("/", 0));
    let (newest, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let _clients = EndOnDrop(&stop);
        for client in 0..8 {
            let (server, newest, stop) = (&server, &newest, &stop);
            scope.spawn(move || watch(server, newest, stop, client % 2 == 0));
        }
        for number in 1..=RELOADS {
            server.write(&fixed("/", number));
            let answer = server.handover.control.reload();
            assert_eq!(text_at(operation_of(&answer), "/outcome"), "applied", "{answer}");
            // The answer of the reload is an answer too: nothing older may follow it.
            newest.fetch_max(number, Ordering::AcqRel);
        }
    });
    assert_eq!(newest.load(Ordering::Acquire), RELOADS);
}

fn changes(operation: &Value) -> Vec<(String, String, String)> {
    let changes = operation["changes"].as_array().cloned().unwrap_or_default();
    let text = |change: &Value, name: &str| change[name].as_str().unwrap_or_default().to_owned();
    changes.iter().map(|change| (text(change, "what"), text(change, "kind"), text(change, "name"))).collect()
}

/// Hazard 44.
#[test]
fn what_serves_equals_the_file_and_the_answer_lists_what_was_added_changed_and_removed() {
    let origin = Origin::start("origin");
    let (server, other) =
        (Serving::start(handover!(), &(fixed("/a", "a") + &fixed("/b", "b"))), Port::claim());
    let rest = [
        listener("other", &other),
        service("app", origin.address()),
        fixed("/b", "b, changed"),
        fixed("/c", "c"),
        everything_to("app"),
    ]
    .concat();
    server.write(&rest);
    let operation = server.handover.control.reload();
    assert_eq!(text_at(&operation, "/outcome"), "applied", "{operation}");
    let listed = changes(&operation);
    for (what, kind, name) in [
        ("added", "listener", "other"),
        ("added", "service", "app"),
        ("removed", "route", "/a"),
        ("changed", "route", "/b"),
        ("added", "route", "/c"),
    ] {
        let wanted = (what.to_owned(), kind.to_owned(), name.to_owned());
        assert!(listed.contains(&wanted), "{wanted:?} is missing in {listed:?}");
    }
    assert_eq!(server.text("/b"), "b, changed");
    assert_eq!(server.text("/c"), "c");
    assert_eq!(server.text("/a"), "origin\n", "a removed route is gone");
    assert_eq!(http::get(other.address(), "/c").text(), "c");
    let serving = server.handover.control.ask("GET", "/v1/config", &[], "").expect(200).text();
    assert_eq!(serving, server.workspace.read("handover.toml"));

    // Everything goes again, and what is gone is gone.
    server.reload(&fixed("/a", "a")).expect_code(0);
    assert_eq!(server.text("/a"), "a");
    assert_eq!(server.get("/c").status(), 404);
    assert!(proc::listeners(other.number()).is_empty());
    // The file as it is: nothing to do, and the answer says so.
    let operation = server.handover.control.reload();
    assert_eq!(text_at(&operation, "/outcome"), "unchanged", "{operation}");
    assert!(changes(&operation).is_empty());
}

/// Hazard 36: inherited by name, not bound a second time, and not handed on by variables.
#[test]
fn a_listener_that_the_service_manager_passes_is_used_and_the_variables_go_no_further() {
    let (workspace, port) = (Workspace::new(), Port::claim());
    let inherited = TcpListener::bind(port.address()).unwrap();
    let held = proc::listeners(port.number());
    let config = listener("web", &port) + &fixed("/", "inherited");
    let server = Handover::of(handover!(), &workspace).config(config).inherit(inherited, "web", true).start();
    assert_eq!(http::get(port.address(), "/").text(), "inherited");
    assert_eq!(proc::listeners(port.number()), held);
    let status = server.control.status();
    let web = status["listeners"].as_array().unwrap().iter().find(|one| one["name"] == "web").cloned();
    assert_eq!(web.unwrap()["inherited"], true, "{status}");
    let environment = proc::environment(server.worker());
    assert!(!environment.iter().any(|variable| variable.starts_with("LISTEN_")), "{environment:?}");
}

/// Hazard 36: LISTEN_PID names somebody else.
#[test]
fn a_listener_meant_for_another_process_is_not_taken_and_not_passed_on() {
    let (workspace, port, own) = (Workspace::new(), Port::claim(), Port::claim());
    let foreign = TcpListener::bind(port.address()).unwrap();
    let socket = proc::listeners(port.number()).remove(0);
    let config = listener("web", &own) + &fixed("/", "own");
    let server = Handover::of(handover!(), &workspace).config(config).inherit(foreign, "web", false).start();
    assert_eq!(http::get(own.address(), "/").text(), "own");
    let status = server.control.status();
    let inherited = |one: &Value| one["inherited"] == true;
    assert!(!status["listeners"].as_array().unwrap().iter().any(inherited), "{status}");
    let worker = server.worker();
    let environment = proc::environment(worker);
    assert!(!environment.iter().any(|variable| variable.starts_with("LISTEN_")), "{environment:?}");
    let passed_on = proc::descriptors(worker);
    assert!(!passed_on.values().any(|what| *what == socket), "{passed_on:?}");
}
