//! Changes that go back by themselves unless they are confirmed: `--confirm-within`, confirm, cancel, and deaths in between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::{Duration, SystemTime};

use handover_testkit::config::{fixed, listener};
use handover_testkit::http::{self, Connection};
use handover_testkit::{Handover, Port, Serving, Signal, handover, operation_of, text_at, until};
use serde_json::Value;

/// Long enough that no test meets its end.
const LONG: &str = "10m";
/// Short enough to be waited for.
const SHORT: &str = "1s";
/// Short enough, and long enough for something else to be done before it is over.
const NOT_SO_SHORT: &str = "5s";

fn pending(handover: &Handover) -> Value {
    handover.control.status()["pending"].clone()
}

/// A server whose second generation awaits confirmation for this long.
fn with_pending(within: &str) -> Serving {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    server.write(&fixed("/", "new"));
    server.handover.cli(["reload", "--confirm-within", within]).expect_code(0);
    server
}

/// Waits until the operation by which the supervisor took the change back has ended.
fn wait_for_going_back(handover: &Handover) -> Value {
    handover.control.wait_for_operation("the change goes back by itself", |one| {
        text_at(one, "/cause") == "not_confirmed" && text_at(one, "/outcome") == "rolled_back"
    })
}

#[test]
fn a_change_serves_at_once_says_what_becomes_of_it_and_stays_once_confirmed() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    server.write(&fixed("/", "new"));
    let output = server.handover.cli(["reload", "--confirm-within", LONG]);
    output.expect_code(0).says("applied").says("generation 1").says("handover confirm");
    assert_eq!(server.text("/"), "new");
    let waits = pending(&server.handover);
    assert_eq!((waits["generation"].as_u64(), waits["back_to"].as_u64()), (Some(2), Some(1)), "{waits}");
    let left = waits["left_ms"].as_u64().unwrap();
    assert!(left <= 600_000 && left > 500_000, "{waits}");
    server.handover.cli(["status"]).expect_code(0).says("confirm");

    server.handover.cli(["confirm", "--comment", "looks good"]).expect_code(0).says("generation 2");
    assert_eq!(pending(&server.handover), Value::Null);
    assert_eq!((server.text("/").as_str(), server.handover.control.generation()), ("new", 2));
    let newest = &server.handover.control.history()[0];
    assert_eq!((text_at(newest, "/kind"), text_at(newest, "/outcome")), ("confirm", "applied"), "{newest}");
    assert_eq!(text_at(newest, "/comment"), "looks good");
    server.reload(&fixed("/", "next")).expect_code(0);
}

#[test]
fn cancel_goes_back_at_once() {
    let server = with_pending(LONG);
    assert_eq!(server.text("/"), "new");
    server.handover.cli(["cancel"]).expect_code(0).says("generation 1");
    assert_eq!((server.text("/").as_str(), server.handover.control.generation()), ("old", 1));
    assert_eq!(pending(&server.handover), Value::Null);
    // The file still says what was called off, and `diff` says so; the next reload takes it.
    server.handover.cli(["diff"]).expect_code(1);
    server.handover.cli(["reload"]).expect_code(0);
    assert_eq!(server.text("/"), "new");
}

#[test]
fn nobody_confirms_and_the_supervisor_goes_back_and_says_why() {
    let server = with_pending(SHORT);
    let operation = wait_for_going_back(&server.handover);
    assert_eq!(text_at(&operation, "/kind"), "rollback");
    assert_eq!(text_at(&operation, "/actor/kind"), "supervisor");
    assert_eq!((operation["serving_generation"].as_u64(), operation["undone"].as_u64()), (Some(1), Some(2)));
    assert_eq!((server.text("/").as_str(), server.handover.control.generation()), ("old", 1));
    assert_eq!(pending(&server.handover), Value::Null);
    for words in [["confirm"], ["cancel"]] {
        assert_eq!(server.handover.cli(words).code, 13, "too late: {words:?}");
    }
}

#[test]
fn another_confirm_within_moves_the_deadline_both_ways() {
    let server = with_pending(LONG);
    let output = server.handover.cli(["reload", "--confirm-within", "1h"]);
    output.expect_code(0).says("unchanged");
    let waits = pending(&server.handover);
    assert!(waits["left_ms"].as_u64().unwrap() > 3_000_000, "{waits}");
    assert_eq!(waits["back_to"], 1);
    server.handover.cli(["reload", "--confirm-within", SHORT]).expect_code(0);
    wait_for_going_back(&server.handover);
    assert_eq!(server.text("/"), "old");
}

#[test]
fn while_one_awaits_confirmation_other_changes_are_refused_by_its_name_and_looking_is_allowed() {
    let server = with_pending(LONG);
    let id = text_at(&pending(&server.handover), "/operation_id").to_owned();
    let cli = |words: &[&str]| server.handover.cli(words);
    for words in [&["reload"][..], &["rollback"], &["rollback", "1"]] {
        let output = cli(words);
        assert_eq!(output.code, 13, "{words:?}: {}", output.all());
        assert!(output.all().contains(&id), "{words:?} names {id}: {}", output.all());
    }
    let (status, problem) = server.handover.control.post("/v1/reload", &[]);
    assert_eq!((status, text_at(&problem, "/type")), (409, "pending"), "{problem}");
    // A reload with a new deadline extends only if there is nothing else to it.
    server.write(&fixed("/", "another"));
    assert_eq!(cli(&["reload", "--confirm-within", LONG]).code, 13);
    assert_eq!(server.text("/"), "new");

    cli(&["reload", "--dry-run"]).expect_code(0);
    cli(&["diff"]).expect_code(1);
    cli(&["drain"]).expect_code(0);
    cli(&["resume"]).expect_code(0);
    assert_eq!(server.text("/"), "new");
    assert_eq!(text_at(&pending(&server.handover), "/operation_id"), id);
    cli(&["cancel"]).expect_code(0);
    assert_eq!(server.text("/"), "old");
}

#[test]
fn there_is_nothing_to_confirm_or_to_cancel_and_that_is_said() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    for words in [["confirm"], ["cancel"]] {
        let output = server.handover.cli(words);
        assert_eq!(output.code, 13, "{words:?}: {}", output.all());
        assert!(output.all().contains("confirm"), "{}", output.all());
    }
    // A change that comes out unchanged has nothing to go back from.
    server.handover.cli(["reload", "--confirm-within", LONG]).expect_code(0).says("unchanged");
    assert_eq!(pending(&server.handover), Value::Null);
}

#[test]
fn a_sighup_while_one_awaits_confirmation_runs_after_it() {
    let mut server = with_pending(LONG);
    server.write(&fixed("/", "by signal"));
    server.handover.signal(Signal::HUP);
    // Whether the confirmation or the signal is heard first, in the end both have been.
    assert_eq!(server.text("/"), "new");
    server.handover.cli(["confirm"]).expect_code(0);
    let reload = server.handover.control.wait_for_operation("the reload by signal", |one| {
        text_at(one, "/actor/kind") == "signal" && text_at(one, "/outcome") == "applied"
    });
    assert_eq!(text_at(&reload, "/kind"), "reload");
    assert_eq!(server.text("/"), "by signal");
}

/// Going back cannot fail for want of a port: the old listeners are held as long as it may come to that.
#[test]
fn listeners_that_a_pending_change_takes_away_are_held_silent_and_come_back_with_it() {
    let (one, two) = (Port::claim(), Port::claim());
    let server = Serving::start(handover!(), &(fixed("/", "old") + &listener("one", &one)));
    let get = |port: &Port| Connection::try_open(port.address()).and_then(|mut it| it.try_get("/"));
    server.write(&(fixed("/", "new") + &listener("two", &two)));
    server.handover.cli(["reload", "--confirm-within", LONG]).expect_code(0);
    assert_eq!(get(&two).unwrap().text(), "new");
    assert_eq!(
        Connection::try_open(one.address()).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    // Nobody else can have the port meanwhile.
    assert!(std::net::TcpListener::bind(one.address()).is_err());
    server.handover.cli(["cancel"]).expect_code(0);
    assert_eq!(get(&one).unwrap().text(), "old");
    assert_eq!(
        Connection::try_open(two.address()).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );

    // Confirmed, they are let go.
    server.handover.cli(["reload", "--confirm-within", LONG]).expect_code(0);
    server.handover.cli(["confirm"]).expect_code(0);
    assert_eq!(get(&two).unwrap().text(), "new");
    drop(std::net::TcpListener::bind(one.address()).expect("a port that was let go"));
}

/// Starts the next supervisor for what the first one left.
fn next(server: &Serving) -> Handover {
    Handover::of(handover!(), &server.workspace).config_file("handover.toml").start()
}

/// The moment at which the pending change goes back, by the status.
fn until_over(handover: &Handover) -> SystemTime {
    let left = pending(handover)["left_ms"].as_u64().unwrap();
    SystemTime::now() + Duration::from_millis(left)
}

fn wait_for_moment(moment: SystemTime) {
    until("the time to confirm is over", || (SystemTime::now() > moment).then_some(()));
}

#[test]
fn a_pending_change_survives_its_supervisor_and_can_be_confirmed_at_the_next_one() {
    let mut server = with_pending(LONG);
    let worker = server.handover.worker();
    let before = pending(&server.handover);
    server.handover.kill_supervisor();
    assert_eq!(server.text("/"), "new");
    let second = next(&server);
    assert_eq!(second.worker(), worker, "adopted");
    let after = pending(&second);
    for field in ["operation_id", "generation", "back_to", "until"] {
        assert_eq!(after[field], before[field], "{field}: {after}");
    }
    assert!(after["left_ms"].as_u64().unwrap() <= before["left_ms"].as_u64().unwrap());
    assert_eq!(second.cli(["reload"]).code, 13, "still pending");
    second.cli(["cancel"]).expect_code(0);
    assert_eq!(server.text("/"), "old");
    second.cli(["reload", "--confirm-within", LONG]).expect_code(0);
    second.cli(["confirm"]).expect_code(0);
    assert_eq!(server.text("/"), "new");
}

#[test]
fn an_adopted_worker_whose_change_was_not_confirmed_in_time_goes_back_at_once() {
    let mut server = with_pending(NOT_SO_SHORT);
    let over = until_over(&server.handover);
    server.handover.kill_supervisor();
    wait_for_moment(over);
    let second = next(&server);
    wait_for_going_back(&second);
    assert_eq!((server.text("/").as_str(), second.control.generation()), ("old", 1));
    assert_eq!(pending(&second), Value::Null);
}

#[test]
fn after_a_crash_an_unconfirmed_generation_past_its_time_is_not_used_and_that_is_said() {
    let server = with_pending(NOT_SO_SHORT);
    let Serving { handover, port, workspace } = server;
    let over = until_over(&handover);
    handover.crash();
    wait_for_moment(over);
    let second = Handover::of(handover!(), &workspace).config_file("handover.toml").start();
    assert_eq!(http::get(port.address(), "/").text(), "old");
    let start = second.control.wait_for_operation("the start", |one| text_at(one, "/kind") == "start");
    assert_eq!(
        (text_at(&start, "/outcome"), text_at(&start, "/cause")),
        ("rolled_back", "not_confirmed"),
        "{start}"
    );
    let said = second.process.stderr() + &second.process.stdout();
    assert!(said.contains("confirm"), "the start says why it does not serve the file:\n{said}");
    second.cli(["diff"]).expect_code(1);
    second.cli(["status"]).expect_code(0);
    // Asked for, the file is taken.
    second.cli(["reload"]).expect_code(0);
    assert_eq!(http::get(port.address(), "/").text(), "new");
}

#[test]
fn after_a_crash_within_the_time_the_change_still_awaits_confirmation() {
    let Serving { handover, port, workspace } = with_pending(LONG);
    handover.crash();
    let second = Handover::of(handover!(), &workspace).config_file("handover.toml").start();
    assert_eq!(http::get(port.address(), "/").text(), "new");
    assert_eq!(pending(&second)["back_to"], 1, "{}", second.control.status());
    second.cli(["cancel"]).expect_code(0);
    assert_eq!(http::get(port.address(), "/").text(), "old");
}

#[test]
fn after_a_crash_files_that_are_neither_old_nor_unconfirmed_are_a_new_thing() {
    let server = with_pending(NOT_SO_SHORT);
    server.write(&fixed("/", "something else"));
    let Serving { handover, port, workspace } = server;
    let over = until_over(&handover);
    handover.crash();
    wait_for_moment(over);
    let second = Handover::of(handover!(), &workspace).config_file("handover.toml").start();
    assert_eq!(http::get(port.address(), "/").text(), "something else");
    assert_eq!(pending(&second), Value::Null);
}

#[test]
fn a_stop_while_one_awaits_confirmation_keeps_in_mind_that_it_was_not_confirmed() {
    let mut server = with_pending(NOT_SO_SHORT);
    let over = until_over(&server.handover);
    server.handover.cli(["stop"]).expect_code(0);
    server.handover.process.wait().expect_code(0);
    wait_for_moment(over);
    let _second = next(&server);
    assert_eq!(server.text("/"), "old");
}

/// Whoever asks, in whatever order: the last word is one outcome, and what serves is what it says.
#[test]
fn confirm_and_cancel_at_the_same_moment_have_one_winner() {
    let server = with_pending(LONG);
    for round in 0..10 {
        let control = &server.handover.control;
        let mut asked = [control.begin("/v1/confirm", &[]), control.begin("/v1/cancel", &[])];
        let answers = asked.each_mut().map(|one| {
            let response = one.response("POST");
            (response.status(), serde_json::from_slice::<Value>(&response.body).unwrap())
        });
        let won: Vec<&str> = answers
            .iter()
            .filter(|(status, _)| *status == 200)
            .map(|(_, answer)| text_at(operation_of(answer), "/kind"))
            .collect();
        assert_eq!(won.len(), 1, "round {round}: {answers:?}");
        assert_eq!(pending(&server.handover), Value::Null);
        let expected = if won[0] == "confirm" { control.generation() > 1 } else { server.text("/") != "new" };
        assert!(expected, "round {round}: {won:?}, {}", control.status());
        server.write(&fixed("/", format!("round {round}")));
        server.handover.cli(["reload", "--confirm-within", LONG]).expect_code(0);
        server.handover.cli(["cancel"]).expect_code(0);
        server.write(&fixed("/", "old"));
        server.handover.cli(["reload"]).expect_code(0);
        server.write(&fixed("/", "new"));
        server.handover.cli(["reload", "--confirm-within", LONG]).expect_code(0);
    }
}

/// Under the whole run connections that the change does not concern are untouched, there and back.
#[test]
fn a_connection_that_is_kept_lives_through_change_and_going_back() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    let mut kept = Connection::open(server.address());
    assert_eq!(kept.get("/").text(), "old");
    server.write(&fixed("/", "new"));
    server.handover.cli(["reload", "--confirm-within", NOT_SO_SHORT]).expect_code(0);
    assert_eq!(kept.get("/").text(), "new");
    wait_for_going_back(&server.handover);
    assert_eq!(kept.get("/").text(), "old");
}
