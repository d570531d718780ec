//! Upgrades on the command line: what is sent, how each outcome is shown, and that no answer is lost when the supervisor
//! becomes another program in the middle.

use handover_api::{Binary, Event, EventKind, Step, Upgrade};

use super::*;

const DIGEST: &str = "1a2b3c4d5e6f0718293a4b5c6d7e8f901a2b3c4d5e6f0718293a4b5c6d7e8f90";

fn upgrade() -> Operation {
    let mut operation = operation(Kind::Upgrade);
    let binary = |version: &str| Binary {
        version: Some(version.to_owned()),
        sha256: Some(DIGEST.to_owned()),
        path: "/usr/bin/handover".to_owned(),
    };
    let mut to = binary("0.2.0");
    to.sha256 = Some(DIGEST.chars().rev().collect());
    operation.upgrade = Some(Box::new(Upgrade::new(binary("0.1.0"), to)));
    operation
}

fn applied() -> Operation {
    let mut operation = upgrade();
    operation.steps =
        ["admission", "hand_over", "record"].map(|name| Step { name: name.to_owned(), ms: 3.0 }).to_vec();
    if let Some(upgrade) = &mut operation.upgrade {
        upgrade.moved.insert("http".to_owned(), 9_800);
        upgrade.freeze_us = Some(7_100);
    }
    operation.finish(Outcome::Applied, Cause::Done, 1_234.0);
    operation
}

/// What is answered about an operation by its ID.
fn response(operation: &Operation) -> Vec<u8> {
    let body = serde_json::to_string(operation).unwrap();
    let length = body.len();
    format!("HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
        .into_bytes()
}

#[test]
fn which_binary_and_under_which_terms_is_sent_as_it_was_asked_for() {
    let here = std::env::current_dir().unwrap().display().to_string().replace('/', "%2F");
    let relative = format!("POST /v1/upgrade?binary={here}%2Fnew%20one HTTP/1.1");
    let digest = format!("POST /v1/upgrade?binary=%2Fopt%2Fnew&sha256={DIGEST} HTTP/1.1");
    let upper = DIGEST.to_uppercase();
    for (arguments, line) in [
        (vec!["upgrade"], "POST /v1/upgrade HTTP/1.1"),
        (vec!["upgrade", "--binary", "new one"], relative.as_str()),
        (vec!["upgrade", "--binary", "/opt/new", "--sha256", upper.as_str()], digest.as_str()),
        (vec!["upgrade", "--dry-run"], "POST /v1/upgrade?dry_run=true HTTP/1.1"),
        (
            vec!["upgrade", "--confirm-within", "10m", "--guard=30s", "--comment", "a b"],
            "POST /v1/upgrade?confirm_within=600000ms&guard=30000ms&comment=a%20b HTTP/1.1",
        ),
        (vec!["rollback", "--binary"], "POST /v1/rollback?binary=true HTTP/1.1"),
    ] {
        let server = answered(&applied());
        let output = handover(&server.path, &arguments);
        assert_eq!(code(&output), 0, "{arguments:?}: {}", stderr(&output));
        let sent = server.asked();
        assert!(sent.starts_with(&format!("{line}\r\n")), "{arguments:?}: {sent}");
    }
}

#[test]
fn each_outcome_has_its_exit_code_its_sentence_and_what_the_new_binary_said() {
    let output = handover(&answered(&applied()).path, &["upgrade"]);
    assert_eq!(
        (code(&output), stdout(&output).as_str()),
        (
            0,
            "applied: upgraded from 0.1.0 (sha256 1a2b3c4d5e6f) to 0.2.0 (sha256 09f8e7d6c5b4) in 1.23 s; 9,800 connections moved (9,800 http), none cut; frozen for 7.1 ms\n"
        )
    );
    for (outcome, cause, expected, begin) in [
        (Outcome::AppliedWithLosses, Cause::DrainForced, 14, "applied with losses: upgraded from 0.1.0"),
        (
            Outcome::Rejected,
            Cause::BinaryRefused,
            10,
            "rejected: it is so; 0.1.0 (sha256 1a2b3c4d5e6f) still",
        ),
        (
            Outcome::NotReady,
            Cause::BinaryUnfit,
            11,
            "not ready: the upgrade to 0.2.0 (sha256 09f8e7d6c5b4) fa",
        ),
        (Outcome::RolledBack, Cause::GuardFailed, 12, "rolled back: the upgrade to 0.2.0"),
    ] {
        let mut ended = upgrade();
        ended.steps = vec![Step { name: "preflight".to_owned(), ms: 3.0 }];
        ended.errors = vec![Problem::new("it is so")];
        if let Some(upgrade) = &mut ended.upgrade {
            upgrade.last_lines = vec!["its last line".to_owned()];
        }
        ended.finish(outcome, cause, 30.0);
        let output = handover(&answered(&ended).path, &["upgrade"]);
        let said = stdout(&output);
        assert_eq!(code(&output), expected, "{said}");
        assert!(said.starts_with(begin), "{said}");
        assert!(said.ends_with("\n\nthe last lines of the new binary:\n  | its last line\n"), "{said}");
        assert_eq!(stderr(&output), "", "a quick one needs no progress");
    }
}

#[test]
fn an_answer_that_is_lost_is_asked_for_by_its_id_until_it_is_there() {
    let running = upgrade();
    let mut failed = upgrade();
    failed.finish(Outcome::RolledBack, Cause::WorkerDied, 30.0);
    for (ended, arguments, expected) in [
        (applied(), vec!["upgrade"], 0),
        (failed.clone(), vec!["upgrade", "--timeout", "30s"], 12),
        (failed, vec!["upgrade", "-o", "json"], 12),
    ] {
        let unavailable = b"HTTP/1.1 503 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec();
        let turns = vec![Vec::new(), Vec::new(), unavailable, response(&running), response(&ended)];
        let server = canned_in_turn(turns);
        let output = handover(&server.path, &[&arguments[..], &["--idempotency-key", "u-1"]].concat());
        assert_eq!(code(&output), expected, "{}", stderr(&output));
        assert!(server.asked().starts_with("POST /v1/upgrade"));
        for _ in 0..4 {
            let asked = server.asked();
            assert!(asked.starts_with("GET /v1/operations/u-1?timeout=30s HTTP/1.1\r\n"), "{asked}");
        }
        if arguments.contains(&"json") {
            let problem: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
            assert_eq!((&problem["type"], &problem["status"]), (&"rolled_back".into(), &500.into()));
        } else {
            assert_eq!(stdout(&output), format!("{}\n", ended.message));
        }
    }
}

#[test]
fn an_answer_that_nobody_can_give_is_124_with_how_to_ask() {
    let gone = b"HTTP/1.1 404 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec();
    let server = canned_in_turn(vec![Vec::new(), gone]);
    let output = handover(&server.path, &["upgrade", "--idempotency-key", "u-2"]);
    assert_eq!(code(&output), 124);
    assert!(stderr(&output).contains("'handover show u-2'"), "{}", stderr(&output));
}

#[test]
fn a_digest_that_is_none_is_a_usage_error() {
    let server = answered(&applied());
    let output = handover(&server.path, &["upgrade", "--sha256", "latest"]);
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).contains("64 hexadecimal digits, as sha256sum prints them"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn events_go_on_across_a_supervisor_that_becomes_another_program_and_what_ended_meanwhile_is_told() {
    let stream = |kind: EventKind, message: &str, operation: Option<Operation>| {
        let at = "2026-11-22T03:01:36.000Z".to_owned();
        let event = Event { kind, at, message: message.to_owned(), operation };
        let data = serde_json::to_string(&event).unwrap();
        format!("HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n: listening\n\ndata: {data}\n\n")
            .into_bytes()
    };
    let begun = stream(EventKind::OperationStarted, "upgrade op-1 begins", Some(upgrade()));
    let later = stream(EventKind::Notice, "all is well", None);
    let server = canned_in_turn(vec![begun, later, response(&applied())]);
    let output = handover(&server.path, &["events"]);
    assert_eq!((code(&output), stderr(&output).as_str()), (7, "the server has ended\n"));
    let said = stdout(&output);
    let lines: Vec<&str> = said.lines().collect();
    let expected = [
        "2026-11-22T03:01:36.000Z  upgrade op-1 begins".to_owned(),
        format!("2026-11-22T03:01:36.234Z  {}", applied().message),
        "2026-11-22T03:01:36.000Z  all is well".to_owned(),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn an_outcome_that_is_waited_for_is_asked_for_again_when_the_supervisor_becomes_another_program() {
    let server = canned_in_turn(vec![response(&upgrade()), Vec::new(), response(&applied())]);
    let output = handover(&server.path, &["show", "op-1", "--timeout", "20s"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).starts_with("applied: upgraded from 0.1.0"), "{}", stdout(&output));
    let server = answered(&upgrade());
    let output = handover(&server.path, &["show", "op-1", "--timeout", "0"]);
    assert_eq!(code(&output), 124, "{}", stdout(&output));
}
