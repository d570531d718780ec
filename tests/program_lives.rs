//! Programs outlive what is above them: the supervisor that becomes another binary, the one that is killed, the worker.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use handover_testkit::http::{Connection, request_bytes};
use handover_testkit::{
    CONFIG, DEADLINE, Handover, Programs, Signal, Way, Workspace, handover, proc, signal, until,
    wait_for_exit,
};

const WORDS: [&str; 3] = ["notify", "says", "one"];
const WAYS: [Way; 2] = [Way::Route, Way::Shared];

fn slots(more: &str) -> Programs {
    let workspace = Workspace::new();
    for slot in ["a", "b"] {
        workspace.write(format!("releases/{slot}/version"), slot);
    }
    let more = format!("slots = [\"releases/a\", \"releases/b\"]\nsettle = \"0s\"\n{more}");
    let table = Programs::table(std::path::Path::new(handover!()), &["notify"], &more)
        .replace("directory = \"app\"\n", "");
    let server = Programs::with(handover!(), Way::Route, workspace, &table, "");
    server.wait_for("a");
    server
}

#[test]
fn an_upgrade_of_handover_leaves_programs_as_they_are() {
    for way in WAYS {
        let server = Programs::start(handover!(), way, &WORDS, "settle = \"0s\"\n");
        let before = server.says();
        server.cli(&["upgrade"]).expect_code(0);
        assert_eq!(server.says(), before);
        server.cli(&["restart", "app"]).expect_code(0);
        assert_ne!(server.wait_for("one").pid, before.pid);
        assert!(wait_for_exit(before.pid, DEADLINE));
        server.cli(&["logs", "app"]).expect_code(0);
    }
}

#[test]
fn a_deploy_that_awaits_its_confirmation_goes_through_an_upgrade_of_handover() {
    let server = slots("");
    let first = server.says();
    server.cli(&["deploy", "app", "--confirm-within", "10m"]).expect_code(0);
    server.cli(&["upgrade"]).expect_code(0);
    assert_eq!(server.says().version, "b");
    assert!(!server.program()["pending"].is_null(), "{}", server.program());
    server.cli(&["cancel", "app"]).expect_code(0);
    assert_eq!(server.says(), first);
}

/// The supervisor is killed; the next one has the programs, their sockets, and what awaits confirmation.
#[test]
fn a_supervisor_that_is_killed_has_a_successor_that_adopts_its_programs() {
    for way in WAYS {
        let mut server = Programs::start(handover!(), way, &WORDS, "settle = \"0s\"\n");
        let before = server.says();
        server.handover.kill_supervisor();
        assert_eq!(server.says(), before, "it serves on");
        let next = Handover::of(handover!(), &server.workspace).config_file(CONFIG).start();
        let first = std::mem::replace(&mut server.handover, next);
        assert_eq!(server.says(), before);
        assert_eq!(server.pids(), [before.pid]);
        server.cli(&["restart", "app"]).expect_code(0);
        assert_ne!(server.wait_for("one").pid, before.pid);
        assert!(wait_for_exit(before.pid, DEADLINE));
        drop(first);
    }
}

#[test]
fn a_deploy_that_awaits_its_confirmation_outlives_the_supervisor() {
    let mut server = slots("");
    let first = server.says();
    server.cli(&["deploy", "app", "--confirm-within", "10m"]).expect_code(0);
    server.handover.kill_supervisor();
    let next = Handover::of(handover!(), &server.workspace).config_file(CONFIG).start();
    let before = std::mem::replace(&mut server.handover, next);
    assert_eq!(server.says().version, "b");
    server.cli(&["rollback", "app"]).expect_code(0);
    assert_eq!(server.says(), first);
    drop(before);
}

/// After a power cut of sorts: supervisor and worker are gone, the program is not. It does not run twice.
#[test]
fn what_an_earlier_life_left_running_is_ended_before_a_fresh_start() {
    let workspace = Workspace::new();
    let lock = workspace.path("lock").display().to_string();
    let table =
        Programs::table(std::path::Path::new(handover!()), &["notify", "says", "one", "lock", &lock], "");
    let mut server = Programs::with(handover!(), Way::Route, workspace, &table, "");
    let before = server.wait_for("one");
    let worker = server.handover.worker();
    server.handover.kill_supervisor();
    signal(worker, Signal::KILL);
    assert!(wait_for_exit(worker, DEADLINE));
    let next = Handover::of(handover!(), &server.workspace).config_file(CONFIG).start();
    let first = std::mem::replace(&mut server.handover, next);
    until("the next one serves", || (server.wait_for("one").pid != before.pid).then_some(()));
    assert!(wait_for_exit(before.pid, DEADLINE));
    drop(first);
}

#[test]
fn a_worker_that_dies_leaves_programs_as_they_are() {
    let server = Programs::start(handover!(), Way::Route, &WORDS, "");
    let before = server.says();
    let worker = server.handover.worker();
    server.cli(&["pause", "app"]).expect_code(0);
    signal(worker, Signal::KILL);
    assert!(wait_for_exit(worker, DEADLINE));
    let mut held = Connection::open(server.address());
    held.send(request_bytes("GET", "/", &[], b""));
    until("the next worker holds requests too", || {
        (server.program()["paused"]["held"].as_u64() == Some(1)).then_some(())
    });
    server.cli(&["resume", "app"]).expect_code(0);
    let _ = held.response("GET").expect(200);
    assert_eq!(server.says(), before);
}

/// Hazards 18 and 36: a program gets its sockets and nothing else, however often it was restarted and handover upgraded.
#[test]
fn programs_get_their_sockets_and_nothing_else() {
    for way in WAYS {
        let server = Programs::start(handover!(), way, &WORDS, "settle = \"0s\"\n");
        let kinds = |text: String| -> Vec<String> {
            let numbers = text.lines().map(|line| line.split(' ').next().unwrap_or_default().to_owned());
            numbers.collect()
        };
        // The program's own: signals, the listing itself, the connection that asks.
        let first = kinds(server.text("/descriptors"));
        let round = || {
            server.cli(&["restart", "app"]).expect_code(0);
            server.cli(&["upgrade"]).expect_code(0);
        };
        round();
        // The private socket of each copy has a name of its own.
        let held = || {
            let kinds = proc::descriptor_kinds(server.handover.pid()).into_iter();
            let private =
                |kind: String| if kind.contains("/app-") { "private socket".to_owned() } else { kind };
            kinds.map(|(kind, count)| (private(kind), count)).collect::<Vec<_>>()
        };
        let supervisor = held();
        (0..3).for_each(|_| round());
        until("no descriptor is left over", || (held() == supervisor).then_some(()));
        assert_eq!(kinds(server.text("/descriptors")).len(), first.len());
        let environment = server.text("/environment");
        let pid = server.says().pid;
        assert!(environment.contains(&format!("LISTEN_PID={pid}\n")), "{environment}");
        for private in ["HANDOVER_CHANNEL", "HANDOVER_SUCCESSION", "HANDOVER_SAVED", "WATCHDOG_USEC"] {
            assert!(!environment.contains(private), "{environment}");
        }
    }
}
