//! Old and lazy programs: a process for each connection, one that is given the listening socket, and one that is started by the
//! first connection and stopped when nobody needs it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use handover_testkit::http::Connection;
use handover_testkit::servers::{any_program, toml};
use handover_testkit::{
    CONFIG, DEADLINE, Handover, Programs, Way, Workspace, handover, proc, until, wait_for_exit,
};

/// A program of the inetd kind, with more lines of its table; its version stands in `app/version`.
fn inetd(words: &[&str], more: &str) -> Programs {
    let workspace = Workspace::new();
    workspace.write("app/version", "first");
    let table = format!("command = {}\ndirectory = \"app\"\n{more}", toml(&any_program(handover!(), words)));
    Programs::with(handover!(), Way::Shared, workspace, &table, "")
}

/// Sends a line and reads one.
fn line(server: &Programs, text: &str) -> (Connection, String) {
    let mut connection = Connection::open(server.address());
    connection.send(format!("{text}\n"));
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        answer.extend(connection.exactly(1));
    }
    (connection, String::from_utf8(answer).unwrap().trim_end().to_owned())
}

#[test]
fn each_connection_has_a_process_of_its_own_and_what_replaces_it_takes_effect_for_the_next() {
    let server = inetd(&["inetd"], "accept = \"each\"\n");
    let (held, first) = line(&server, "hello");
    assert!(first.starts_with("hello first "), "{first}");
    server.workspace.write("app/version", "second");
    let (_other, second) = line(&server, "hello");
    assert!(second.starts_with("hello second "), "{second}");
    let pid = |text: &str| text.rsplit(' ').next().unwrap().parse::<u32>().unwrap();
    assert_ne!(pid(&first), pid(&second));
    assert!(proc::alive(pid(&first)), "the first one ends with its connection");
    drop(held);
    assert!(wait_for_exit(pid(&first), DEADLINE));
    until("it is reaped", || proc::zombies(server.handover.pid()).is_empty().then_some(()));
}

#[test]
fn the_next_supervisor_knows_the_processes_of_one_that_was_killed_and_ends_them_with_the_server() {
    for accept in ["each", "wait"] {
        let words: &[&str] = if accept == "each" { &["inetd"] } else { &["inetd-wait", "says", "waits"] };
        let mut server = inetd(words, &format!("accept = \"{accept}\"\n"));
        let _held = (accept == "each").then(|| line(&server, "hello"));
        if accept == "wait" {
            assert_eq!(server.says().version, "waits");
        }
        // What was answered is kept, and with it all that was before.
        let _ = server.cli(&["resume", "app"]);
        let before = server.pids();
        assert_eq!(before.len(), 1);
        server.handover.kill_supervisor();
        let next = Handover::of(handover!(), &server.workspace).config_file(CONFIG).start();
        let first = std::mem::replace(&mut server.handover, next);
        assert_eq!(server.pids(), before, "{accept}");
        server.cli(&["stop", "--now"]).expect_code(0);
        assert!(wait_for_exit(before[0], DEADLINE), "{accept}");
        drop(first);
    }
}

/// What was inetd's plague: at the limit connections wait, none is refused, and nothing is started for them.
#[test]
fn at_the_limit_of_processes_connections_wait_their_turn() {
    let server = inetd(&["inetd"], "accept = \"each\"\nmax_processes = 2\n");
    let (first, _) = line(&server, "one");
    let (_second, _) = line(&server, "two");
    let mut third = Connection::open(server.address());
    third.send("three\n");
    let running = || {
        let name = |pid| proc::command_line(pid).iter().any(|word| word == "inetd");
        proc::tree(server.handover.pid()).iter().filter(|stat| name(stat.pid)).count()
    };
    assert_eq!(running(), 2);
    drop(first);
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        answer.extend(third.exactly(1));
    }
    assert!(answer.starts_with(b"three "));
    assert_eq!(running(), 2);
}

#[test]
fn one_that_waits_is_given_the_listening_socket() {
    let server = inetd(&["inetd-wait", "says", "waits"], "accept = \"wait\"\n");
    assert!(server.pids().is_empty(), "nobody has asked yet");
    let first = server.says();
    assert_eq!(first.version, "waits");
    assert_eq!(server.says().pid, first.pid);
}

#[test]
fn it_is_started_by_the_first_connection_and_stopped_when_there_is_none() {
    let more = "on_demand = true\nidle = \"1s\"\n";
    let server = Programs::start(handover!(), Way::Shared, &["notify", "says", "lazy"], more);
    assert!(server.pids().is_empty(), "{}", server.program());
    let first = server.says();
    assert!(wait_for_exit(first.pid, DEADLINE), "nobody needs it");
    let next = server.says();
    assert_ne!(next.pid, first.pid);
}

#[test]
fn what_is_open_keeps_it_running() {
    let more = "on_demand = true\nidle = \"1s\"\n";
    let server = Programs::start(handover!(), Way::Shared, &["notify", "says", "lazy"], more);
    let mut kept = Connection::open(server.address());
    let first = kept.get("/").expect(200).text();
    // A second program's whole life fits into the time after which this one would be stopped.
    let other = Programs::start(handover!(), Way::Shared, &["notify", "says", "other"], more);
    let pid = other.says().pid;
    assert!(wait_for_exit(pid, DEADLINE));
    assert_eq!(kept.get("/").expect(200).text(), first);
    drop(kept);
    assert!(Path::new(handover!()).exists());
    until("it is stopped", || server.pids().is_empty().then_some(()));
}
