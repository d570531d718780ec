//! Bad days of programs: the next copy is no good, and the one that serves serves on. What is wrong is done by the testkit's
//! `any_program`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use handover_testkit::servers::any_program;
use handover_testkit::{
    DEADLINE, Process, Programs, Signal, Way, handover, proc, run, signal, text_at, until, wait_for_exit,
};

const WAYS: [Way; 2] = [Way::Route, Way::Shared];

/// A server whose program is well, and whose file has one by now that is told these words.
#[track_caller]
fn with_next(way: Way, words: &[&str], more: &str) -> Programs {
    let quick = "ready_timeout = \"2s\"\nsettle = \"0s\"\nstop = { timeout = \"1s\" }\n";
    let server = Programs::start(handover!(), way, &["notify", "says", "first"], quick);
    server.write(words, more);
    server
}

/// Reloads, which is refused with code 11 and these words; the first copy serves on, alone.
#[track_caller]
fn expect_refused(server: &Programs, says: &[&str]) {
    let before = server.says();
    let output = server.cli(&["reload"]);
    output.expect_code(11);
    for words in says {
        output.says(words);
    }
    assert_eq!(server.says(), before, "{}", output.all());
    expect_alone(server, before.pid);
}

/// Below the supervisor there are its worker and this process, and nothing else.
#[track_caller]
fn expect_alone(server: &Programs, pid: u32) {
    let supervisor = server.handover.pid();
    let mut wanted = vec![supervisor, server.handover.worker(), pid];
    wanted.sort_unstable();
    until("the program is alone", || {
        let mut there: Vec<u32> = proc::tree(supervisor).iter().map(|stat| stat.pid).collect();
        there.sort_unstable();
        (there == wanted).then_some(())
    });
}

#[test]
fn a_new_copy_that_binds_nothing_is_sent_away_and_the_old_one_serves_on() {
    for way in WAYS {
        let more = "ready = { http = \"/\" }\nready_timeout = \"1s\"\n";
        let server = with_next(way, &["says", "second", "binds-nothing"], more);
        expect_refused(&server, &["app", "not ready"]);
    }
}

#[test]
fn a_new_copy_that_answers_500_is_sent_away_and_the_old_one_serves_on() {
    for way in WAYS {
        let more = "ready = { http = \"/\" }\nready_timeout = \"3s\"\n";
        let server = with_next(way, &["says", "second", "answers-500"], more);
        expect_refused(&server, &["500"]);
    }
}

/// Through the socket that both share the old one could answer for the new one: hazard 4.
#[test]
fn the_old_copy_never_answers_for_the_new_one() {
    let more = "ready = { http = \"/\" }\nready_timeout = \"1s\"\n";
    let server = with_next(Way::Shared, &["says", "second", "binds-nothing"], more);
    for _ in 0..2 {
        expect_refused(&server, &[]);
    }
}

#[test]
fn a_new_copy_that_dies_at_once_is_told_with_its_last_words() {
    let server = with_next(Way::Route, &["notify", "dies-at-once"], "");
    expect_refused(&server, &["the moon is full", "exit"]);
}

#[test]
fn a_new_copy_that_is_ready_and_dies_two_seconds_later_is_sent_away_while_it_must_settle() {
    for way in WAYS {
        let server = with_next(way, &["notify", "says", "second", "dies-after", "2000"], "settle = \"5s\"\n");
        expect_refused(&server, &["died of old age"]);
    }
}

#[test]
fn a_copy_that_dies_later_is_started_again_and_no_connection_is_refused() {
    let server = Programs::start(handover!(), Way::Shared, &["notify", "says", "first"], "");
    let first = server.says();
    signal(first.pid, Signal::KILL);
    // The socket is held: who connects now waits.
    let next = server.says();
    assert_ne!(next.pid, first.pid);
    assert_eq!(server.program()["restarts"], 1, "{}", server.program());
}

#[test]
fn a_copy_that_ignores_term_is_killed_when_its_time_is_over_and_counted() {
    for way in WAYS {
        let more = "stop = { timeout = \"500ms\" }\n";
        let server = Programs::start(handover!(), way, &["notify", "says", "first", "ignores-term"], more);
        let first = server.says();
        let output = server.cli(&["restart", "app"]);
        assert!([0, 14].contains(&output.code), "{}", output.all());
        output.says("killed");
        assert!(wait_for_exit(first.pid, DEADLINE));
        assert_ne!(server.wait_for("first").pid, first.pid);
    }
}

#[test]
fn a_copy_that_forks_and_whose_first_process_exits_is_not_taken_for_one_that_serves() {
    let server = with_next(Way::Route, &["notify", "says", "second", "forks"], "");
    expect_refused(&server, &["first process", "behind"]);
}

#[test]
fn children_that_a_copy_leaves_behind_are_ended_too() {
    let more = "stop = { timeout = \"500ms\" }\n";
    let server =
        Programs::start(handover!(), Way::Route, &["notify", "says", "first", "leaves-children"], more);
    let first = server.says();
    server.write(&["notify", "says", "second"], "");
    let output = server.cli(&["reload"]);
    assert!([0, 14].contains(&output.code), "{}", output.all());
    let second = server.wait_for("second");
    assert!(wait_for_exit(first.pid, DEADLINE));
    expect_alone(&server, second.pid);
}

#[test]
fn a_program_that_writes_a_hundred_megabytes_stalls_nobody_and_takes_no_memory() {
    let server = Programs::start(handover!(), Way::Route, &["notify", "says", "first", "floods"], "");
    let memory = proc::memory(server.handover.pid()).resident;
    let _ = server.says();
    assert!(memory < 64 * 1024 * 1024, "{memory} bytes");
    server.cli(&["logs", "app"]).expect_code(0).says("that was all");
    server.cli(&["status"]).expect_code(0);
}

#[test]
fn an_executable_that_is_replaced_while_it_starts_takes_effect_with_the_next_copy() {
    let server = Programs::start(handover!(), Way::Route, &["notify", "says", "first"], "");
    let own = any_program(handover!(), &[]);
    let path = server.workspace.path("bin-app");
    install(&own[0], &path);
    let table = |word: &str| {
        format!(
            "command = [{path:?}, \"notify\", \"says\", \"{word}\", \"starts-slowly\", \"300\"]\nready = \"notify\"\n"
        )
    };
    let listener = format!(
        "[listeners.web]\naddress = \"{}\"\n[[routes]]\nprogram = \"app\"\n[program.app]\n",
        server.address()
    );
    server.handover.write_config(format!("{listener}{}", table("second")));
    let reload = Process::start(server.handover.command(["reload"]));
    // While the new copy starts, its file becomes another one: half a file, as a copy in progress would be.
    until("the copy starts", || {
        proc::tree(server.handover.pid())
            .iter()
            .any(|stat| proc::executable(stat.pid).is_some_and(|at| at == path))
            .then_some(())
    });
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"#!/nonexistent/interpreter\n").unwrap();
    run(chmod(&path)).expect_code(0);
    let mut reload = reload;
    reload.wait().expect_code(0);
    let second = server.wait_for("second");
    // What cannot be executed any more is refused, by name, and nothing is lost.
    let output = server.cli(&["restart", "app"]);
    output.expect_code(11).says("bin-app");
    assert_eq!(server.says().pid, second.pid);
    install(&own[0], &path);
    server.cli(&["restart", "app"]).expect_code(0);
    assert_ne!(server.says().pid, second.pid);
}

/// Copied by a child: a descriptor that this process has open for writing would be inherited by whatever starts meanwhile.
fn install(from: &str, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("--remove-destination").arg(from).arg(to);
    run(command).expect_code(0);
}

fn chmod(path: &Path) -> Command {
    let mut command = Command::new("chmod");
    command.arg("+x").arg(path);
    command
}

#[test]
fn a_restart_that_fails_makes_no_later_one_fail() {
    let server = with_next(Way::Shared, &["notify", "dies-at-once"], "");
    expect_refused(&server, &[]);
    expect_refused(&server, &[]);
    server.write(&["notify", "says", "third"], "");
    server.cli(&["reload"]).expect_code(0);
    let third = server.wait_for("third");
    expect_alone(&server, third.pid);
    let history = server.control().history();
    let outcomes: Vec<&str> = history.iter().map(|operation| text_at(operation, "/outcome")).collect();
    assert_eq!(&outcomes[..3], ["applied", "not_ready", "not_ready"], "{outcomes:?}");
}
