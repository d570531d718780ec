//! Old and lazy programs: a process for each connection, one that is given the listening socket, and one that is started by the
//! first connection and stopped when nobody needs it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use handover_testkit::http::Connection;
use handover_testkit::servers::{any_program, toml};
use handover_testkit::{
    CONFIG, DEADLINE, Handover, Programs, Signal, Way, Workspace, handover, proc, signal, until,
    wait_for_exit,
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
        // Who served a connection has not ended by itself: that is a loss.
        match accept {
            "each" => server.cli(&["stop", "--now"]).expect_code(14).says("1 program"),
            _ => server.cli(&["stop", "--now"]).expect_code(0),
        };
        assert!(wait_for_exit(before[0], DEADLINE), "{accept}");
        drop(first);
    }
}

/// Sends another line and reads one.
fn again(connection: &mut Connection) -> String {
    connection.send("again\n");
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        answer.extend(connection.exactly(1));
    }
    String::from_utf8(answer).unwrap().trim_end().to_owned()
}

/// Nobody has its connection but the process itself: a fresh start has it again, with its limit, and ends it with the server.
#[test]
fn who_serves_a_connection_goes_on_when_supervisor_and_worker_are_killed_and_is_had_again() {
    let mut server = inetd(&["inetd"], "accept = \"each\"\nmax_processes = 1\n");
    let (mut held, first) = line(&server, "hello");
    let before = server.pids();
    let worker = server.handover.worker();
    server.handover.kill_supervisor();
    signal(worker, Signal::KILL);
    assert!(wait_for_exit(worker, DEADLINE));
    let next = Handover::of(handover!(), &server.workspace).config_file(CONFIG).start();
    let killed = std::mem::replace(&mut server.handover, next);
    assert_eq!(server.pids(), before);
    assert_eq!(again(&mut held), first.replace("hello", "again"));
    let mut second = Connection::open(server.address());
    second.send("second\n");
    until("the second waits", || {
        server.program()["warnings"].to_string().contains("had to wait").then_some(())
    });
    assert_eq!(server.pids(), before, "one is as many as may");
    drop(held);
    assert!(again(&mut second).starts_with("second "));
    let pid = server.pids()[0];
    server.cli(&["stop", "--now"]).expect_code(14).says("1 program");
    assert!(wait_for_exit(pid, DEADLINE));
    drop(killed);
}

/// It would accept from a socket that nobody else has any more, at an address that the next one needs.
#[test]
fn who_has_the_listening_socket_is_ended_when_supervisor_and_worker_were_killed() {
    let mut server = inetd(&["inetd-wait", "says", "waits"], "accept = \"wait\"\n");
    let before = server.says();
    let worker = server.handover.worker();
    server.handover.kill_supervisor();
    signal(worker, Signal::KILL);
    assert!(wait_for_exit(worker, DEADLINE));
    let next = Handover::of(handover!(), &server.workspace).config_file(CONFIG).start();
    let killed = std::mem::replace(&mut server.handover, next);
    assert!(wait_for_exit(before.pid, DEADLINE));
    assert_ne!(server.says().pid, before.pid);
    drop(killed);
}

#[test]
fn an_upgrade_of_handover_leaves_processes_of_connections_as_they_are() {
    let server = inetd(&["inetd"], "accept = \"each\"\nmax_processes = 2\n");
    let (mut held, first) = line(&server, "hello");
    let before = server.pids();
    server.cli(&["upgrade"]).expect_code(0);
    assert_eq!(server.pids(), before);
    assert_eq!(again(&mut held), first.replace("hello", "again"));
    let (_second, _) = line(&server, "second");
    assert_eq!(server.pids().len(), 2);
    drop(held);
    assert!(wait_for_exit(before[0], DEADLINE));
    until("its end is noticed", || (!server.pids().contains(&before[0])).then_some(()));
}

#[test]
fn a_deploy_is_what_the_next_connection_gets_until_it_is_taken_back() {
    let workspace = Workspace::new();
    for slot in ["a", "b"] {
        workspace.write(format!("releases/{slot}/version"), slot);
    }
    let command = toml(&any_program(handover!(), &["inetd"]));
    let slots = "slots = [\"releases/a\", \"releases/b\"]";
    let table = format!("command = {command}\naccept = \"each\"\n{slots}\n");
    let server = Programs::with(handover!(), Way::Shared, workspace, &table, "");
    let (mut held, first) = line(&server, "hello");
    assert!(first.starts_with("hello a "), "{first}");
    let said = server.cli(&["deploy", "app", "--confirm-within", "10m"]);
    said.expect_code(0).says("the next connection starts slot b");
    assert!(line(&server, "hello").1.starts_with("hello b "));
    assert_eq!(again(&mut held), first.replace("hello", "again"));
    server.cli(&["cancel", "app"]).expect_code(0);
    assert!(line(&server, "hello").1.starts_with("hello a "));
    server.cli(&["restart", "app"]).expect_code(0).says("the next connection starts it");
}

#[test]
fn a_reload_that_takes_the_program_away_gives_its_connections_the_time_of_stop_and_no_more() {
    let more = "accept = \"each\"\nstop = { timeout = \"300ms\" }\n";
    let server = inetd(&["inetd"], more);
    let (mut held, _) = line(&server, "hello");
    let pid = server.pids()[0];
    let other = server.workspace.path("other.sock");
    server.handover.write_config(format!("[listeners.other]\naddress = \"unix:{}\"\n", other.display()));
    server.cli(&["reload"]).expect_code(0);
    assert!(wait_for_exit(pid, DEADLINE));
    held.expect_end();
    until("it is gone", || (!server.cli(&["ps"]).all().contains("app")).then_some(()));
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
