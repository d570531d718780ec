//! What operators do with programs, and read: restart, reload, drain and enable, ps, logs, status.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use handover_testkit::http::Connection;
use handover_testkit::{
    DEADLINE, Process, Programs, Way, handover, http, proc, text_at, until, wait_for_exit,
};

const WORDS: [&str; 3] = ["notify", "says", "one"];
const QUICK: &str = "settle = \"0s\"\n";

fn start(way: Way, more: &str) -> Programs {
    Programs::start(handover!(), way, &WORDS, &format!("{QUICK}{more}"))
}

#[test]
fn a_restart_replaces_every_copy_one_after_the_other_and_no_request_fails() {
    for way in [Way::Route, Way::Shared] {
        let server = start(way, "copies = 3\n");
        let before: BTreeSet<u32> = server.pids().into_iter().collect();
        assert_eq!(before.len(), 3);
        let mut restart = Process::start(server.handover.command(["restart", "app"]));
        let mut kept = Connection::open(server.address());
        while !restart.ended() {
            assert_eq!(http::get(server.address(), "/").status(), 200);
            // Behind the proxy a kept connection outlives the copy that answered it.
            if way == Way::Route {
                let _ = kept.get("/").expect(200);
            }
        }
        restart.wait().expect_code(0);
        let after: BTreeSet<u32> = server.pids().into_iter().collect();
        assert_eq!(after.len(), 3);
        assert!(before.is_disjoint(&after), "{before:?} {after:?}");
        for pid in before {
            assert!(wait_for_exit(pid, DEADLINE));
        }
    }
}

#[test]
fn a_reload_says_what_is_known_and_nothing_else() {
    // By notification: proved.
    let server = start(Way::Shared, "reload = \"notify\"\n");
    server.cli(&["reload", "app"]).expect_code(0).says("applied");
    assert_eq!(server.says().reloads, 1);
    // By a signal alone: sent, and nobody knows more.
    let server = start(Way::Shared, "reload = { signal = \"HUP\" }\n");
    server.cli(&["reload", "app"]).expect_code(15).says("sent").says("not confirmed");
    until("it has read everything anew", || (server.says().reloads == 1).then_some(()));
    assert_eq!(text_at(&server.last(), "/outcome"), "sent");
    // By a signal that a command proves.
    let check = "reload = { signal = \"HUP\" }\nreload_check = { command = [\"true\"] }\n";
    let server = start(Way::Shared, check);
    server.cli(&["reload", "app"]).expect_code(0);
    // By a command: its exit code and its words are the answer.
    let bad = "reload = { command = [\"sh\", \"-c\", \"echo line 7: no such thing; exit 3\"] }\n";
    let server = start(Way::Shared, bad);
    server.cli(&["reload", "app"]).expect_code(10).says("line 7: no such thing").says("3");
    // By a request.
    let server = start(Way::Shared, "reload = { http = \"/reload\" }\n");
    server.cli(&["reload", "app"]).expect_code(0);
    // Not at all.
    let server = start(Way::Shared, "");
    server.cli(&["reload", "app"]).expect_code(10).says("reload");
}

#[test]
fn an_endpoint_that_is_drained_gets_nothing_new_until_it_is_enabled() {
    let server = start(Way::Route, "copies = 2\n");
    let ask = || server.says().pid;
    let both: BTreeSet<u32> = (0..20).map(|_| ask()).collect();
    assert_eq!(both.len(), 2);
    let first = server.pids()[0];
    server.cli(&["drain", "app/1"]).expect_code(0);
    let one: BTreeSet<u32> = (0..20).map(|_| ask()).collect();
    assert_eq!(one.len(), 1, "{one:?} of {both:?}");
    assert!(!one.contains(&first));
    assert!(proc::alive(first));
    server.cli(&["enable", "app/1"]).expect_code(0);
    let again: BTreeSet<u32> = (0..20).map(|_| ask()).collect();
    assert_eq!(again, both);
    let output = server.cli(&["drain", "app/9"]);
    assert!(output.expect_code(2).stderr.contains("app/9"), "{}", output.all());
}

#[test]
fn a_stopped_program_stays_stopped_until_it_is_started_and_connections_wait() {
    let server = start(Way::Shared, "");
    let first = server.says();
    server.cli(&["stop", "app"]).expect_code(0);
    assert!(wait_for_exit(first.pid, DEADLINE));
    assert!(server.pids().is_empty());
    let mut waits = Connection::open(server.address());
    waits.send(http::request_bytes("GET", "/", &[], b""));
    server.cli(&["start", "app"]).expect_code(0);
    let _ = waits.response("GET").expect(200);
    server.cli(&["start", "app"]).expect_code(0).says("unchanged");
}

#[test]
fn its_processes_its_output_and_its_state_can_be_read() {
    let server = start(Way::Route, "copies = 2\nreload = \"notify\"\n");
    let pids = server.pids();
    let ps = server.cli(&["ps"]);
    ps.expect_code(0);
    for pid in &pids {
        ps.says(&pid.to_string());
    }
    ps.says("app").says("MiB");
    server.cli(&["status"]).expect_code(0).says("app");
    let json: serde_json::Value = serde_json::from_str(&server.cli(&["ps", "-o", "json"]).stdout).unwrap();
    assert!(json.to_string().contains(&pids[0].to_string()), "{json}");
    server.cli(&["reload", "app"]).expect_code(0);
    until("what it wrote is there", || {
        server.cli(&["logs", "app"]).stdout.contains("read everything anew").then_some(())
    });
    let mut follow = Process::start(server.handover.command(["logs", "app", "-f"]));
    until("it follows", || follow.stdout_line("read everything anew"));
    server.cli(&["restart", "app"]).expect_code(0);
    let _ = follow.live_descendants();
    let output = server.cli(&["logs", "nothing"]);
    assert!(output.expect_code(2).stderr.contains("there are: app"), "{}", output.all());
}

#[test]
fn programs_come_and_go_with_the_configuration() {
    let server = start(Way::Route, "");
    let first = server.says();
    let listener = format!("[listeners.web]\naddress = \"{}\"\n", server.address());
    let without = format!("{listener}[[routes]]\nfixed = {{ body = \"nobody\" }}\n");
    server.handover.reload_with(&without).expect_code(0).says("app");
    assert!(wait_for_exit(first.pid, DEADLINE), "it is not in the file any more");
    assert_eq!(server.text("/"), "nobody");
    server.cli(&["rollback"]).expect_code(0);
    let back = server.wait_for("one");
    assert_ne!(back.pid, first.pid);
}

/// What did not change is left alone.
#[test]
fn a_reload_that_changes_something_else_touches_no_program() {
    let server = start(Way::Route, "");
    let first = server.says();
    let file = std::fs::read_to_string(server.workspace.path(handover_testkit::CONFIG)).unwrap();
    let more = format!("{file}\n[[routes]]\npath = \"/more\"\nfixed = {{ body = \"more\" }}\n");
    server.handover.reload_with(more).expect_code(0);
    assert_eq!(server.text("/more"), "more");
    assert_eq!(server.says(), first);
}
