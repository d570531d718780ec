//! Two slots: a deploy prepares, starts, proves and switches; what served before stays warm, and can be gone back to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use handover_testkit::http::Connection;
use handover_testkit::{
    DEADLINE, Process, Programs, Signal, Way, Workspace, handover, proc, signal, text_at, until,
    wait_for_exit,
};

/// A server with two slots, which say `a` and `b`; `a` serves.
fn slots(way: Way, words: &[&str], more: &str) -> Programs {
    let workspace = Workspace::new();
    for slot in ["a", "b"] {
        workspace.write(format!("releases/{slot}/version"), slot);
    }
    let words = [&["notify"], words].concat();
    let table =
        Programs::table(std::path::Path::new(handover!()), &words, "").replace("directory = \"app\"\n", "");
    let table = format!("{table}slots = [\"releases/a\", \"releases/b\"]\nsettle = \"0s\"\n{more}");
    let server = Programs::with(handover!(), way, workspace, &table, "");
    assert_eq!(server.wait_for("a").version, "a");
    server
}

#[test]
fn a_deploy_switches_to_the_idle_slot_and_a_rollback_goes_back_to_the_warm_one() {
    let server = slots(Way::Route, &[], "warm = \"10m\"\n");
    let first = server.says();
    server.cli(&["deploy", "app"]).expect_code(0).says("b");
    let second = server.says();
    assert_eq!(second.version, "b");
    assert!(proc::alive(first.pid), "the slot before is kept warm");
    server.cli(&["rollback", "app"]).expect_code(0);
    assert_eq!(server.says(), first, "the very process that served before");
    // And there again: each is the other one's way back.
    server.cli(&["deploy", "app"]).expect_code(0);
    assert_eq!(server.says().version, "b");
}

#[test]
fn on_a_shared_socket_nothing_can_be_kept_warm_and_a_rollback_starts_it_afresh() {
    let server = slots(Way::Shared, &[], "warm = \"10m\"\n");
    let first = server.says();
    server.cli(&["deploy", "app"]).expect_code(0);
    assert!(wait_for_exit(first.pid, DEADLINE), "it would go on accepting");
    assert_eq!(server.wait_for("b").version, "b");
    server.cli(&["rollback", "app"]).expect_code(0);
    assert_ne!(server.wait_for("a").pid, first.pid);
}

#[test]
fn a_deploy_that_nobody_confirms_goes_back_by_itself() {
    let server = slots(Way::Route, &[], "");
    let first = server.says();
    server.cli(&["deploy", "app", "--confirm-within", "1s"]).expect_code(0);
    until("the slot before serves again", || (server.says() == first).then_some(()));
    let last = server
        .control()
        .wait_for_operation("the way back", |operation| text_at(operation, "/kind") == "program_rollback");
    assert_eq!(text_at(&last, "/actor/kind"), "supervisor", "{last}");
}

#[test]
fn a_deploy_that_is_confirmed_stays() {
    let server = slots(Way::Route, &[], "");
    server.cli(&["deploy", "app", "--confirm-within", "10m"]).expect_code(0);
    server.cli(&["confirm", "app"]).expect_code(0).says("app: slot b is confirmed and stays");
    assert_eq!(server.says().version, "b");
    assert!(server.program()["pending"].is_null(), "{}", server.program());
    server.cli(&["cancel", "app"]).expect_code(13);
}

#[test]
fn a_deploy_whose_copy_dies_before_it_is_confirmed_goes_back_at_once() {
    let server = slots(Way::Route, &[], "");
    let first = server.says();
    server.cli(&["deploy", "app", "--confirm-within", "10m"]).expect_code(0);
    let second = server.says();
    signal(second.pid, Signal::KILL);
    assert_eq!(server.wait_for("a"), first);
}

/// Two deploys at once: one runs, the other one is told which.
#[test]
fn of_two_deploys_at_once_one_runs_and_the_other_is_told_which() {
    let server = slots(Way::Route, &["starts-when", "version"], "");
    // The copy of the other slot starts when there is a version of it.
    server.workspace.remove("releases/b/version");
    let mut first = Process::start(server.handover.command(["deploy", "app"]));
    until("the deploy runs", || (!server.control().get("/v1/status")["running"].is_null()).then_some(()));
    let second = server.cli(&["deploy", "app"]);
    assert!(second.expect_code(13).stderr.contains("busy: deploy "), "{}", second.all());
    server.workspace.write("releases/b/version", "b");
    first.wait().expect_code(0);
    assert_eq!(server.says().version, "b");
}

#[test]
fn a_deploy_that_fails_leaves_the_slot_that_serves_and_the_next_one_succeeds() {
    let server = slots(Way::Route, &[], "");
    let first = server.says();
    server.workspace.write("releases/broken/version", "broken");
    let output = server.cli(&["deploy", "app", "--slot", "c"]);
    output.expect_code(10).says("c").says("a").says("b");
    let output = server.cli(&["deploy", "app", "--directory", "releases/nothing-here"]);
    output.expect_code(10).says("nothing-here");
    assert_eq!(server.says(), first);
    server.cli(&["deploy", "app"]).expect_code(0);
    assert_eq!(server.says().version, "b");
}

#[test]
fn a_hook_prepares_the_idle_slot_and_its_failure_is_the_answer() {
    let hook = "hook = { command = [\"sh\", \"-c\", \"echo prepared > prepared; test ! -e broken || { echo no disk left; exit 7; }\"] }\n";
    let server = slots(Way::Route, &[], hook);
    server.workspace.write("releases/b/broken", "");
    let output = server.cli(&["deploy", "app"]);
    output.expect_code(10).says("no disk left").says("7");
    assert_eq!(server.says().version, "a");
    server.workspace.remove("releases/b/broken");
    server.cli(&["deploy", "app"]).expect_code(0);
    assert_eq!(server.workspace.read("releases/b/prepared"), "prepared\n");
    assert_eq!(server.says().version, "b");
}

/// What was deployed serves after everything was gone, too.
#[test]
fn a_start_serves_the_slot_that_was_deployed() {
    let mut server = slots(Way::Route, &[], "");
    server.cli(&["deploy", "app"]).expect_code(0);
    server.handover.terminate().expect_code(0);
    let again = handover_testkit::Handover::of(handover!(), &server.workspace)
        .config_file(handover_testkit::CONFIG)
        .start();
    server.handover = again;
    assert_eq!(server.wait_for("b").version, "b");
}

/// One database lock: the next one cannot start before the old one has ended. Users see a delay and no error.
#[test]
fn a_stop_first_swap_holds_requests_until_the_next_one_serves() {
    let workspace = Workspace::new();
    let lock = workspace.path("lock").display().to_string();
    let words = ["notify", "says", "one", "lock", &lock, "starts-slowly", "300"];
    let more = "swap = \"stop-first\"\nsettle = \"0s\"\n";
    let table = Programs::table(std::path::Path::new(handover!()), &words, more);
    let server = Programs::with(handover!(), Way::Route, workspace, &table, "");
    let first = server.wait_for("one");
    let mut kept = Connection::open(server.address());
    let _ = kept.get("/");
    let mut restart = Process::start(server.handover.command(["restart", "app"]));
    // Asked while there is nobody: held, answered by the next one, on a connection that was open before too.
    while !restart.ended() {
        assert_eq!(kept.get("/").status(), 200);
        assert_eq!(server.says().version, "one");
    }
    restart.wait().expect_code(0);
    assert_ne!(server.says().pid, first.pid);
}

#[test]
fn a_stop_first_swap_that_fails_starts_the_old_one_again_before_requests_go_on() {
    let workspace = Workspace::new();
    for slot in ["a", "b"] {
        workspace.write(format!("releases/{slot}/version"), slot);
    }
    workspace.write("releases/b/lock/is-a-directory", "");
    let words = ["notify", "lock", "lock"];
    let more = "swap = \"stop-first\"\nslots = [\"releases/a\", \"releases/b\"]\nready_timeout = \"2s\"\nsettle = \"0s\"\n";
    let table =
        Programs::table(std::path::Path::new(handover!()), &words, more).replace("directory = \"app\"\n", "");
    let server = Programs::with(handover!(), Way::Route, workspace, &table, "");
    server.wait_for("a");
    let mut deploy = Process::start(server.handover.command(["deploy", "app"]));
    while !deploy.ended() {
        assert_eq!(server.says().version, "a");
    }
    let output = deploy.wait();
    assert!([11, 12].contains(&output.code), "{}", output.all());
    assert_eq!(server.says().version, "a");
}
