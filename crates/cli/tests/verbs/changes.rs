//! Changes that await confirmation, are guarded or taken back; differences and certificates.

use std::time::Duration;

use handover_api::{Certificate, GoesBack, certificate_changes};

use super::*;

#[test]
fn terms_and_generations_are_sent_as_they_were_asked_for() {
    let mut ended = operation(Kind::Reload);
    ended.finish(Outcome::Applied, Cause::Done, 3.0);
    for (arguments, line) in [
        (vec!["reload", "--certs"], "POST /v1/reload?certs=true HTTP/1.1"),
        (vec!["reload", "--confirm-within", "10m"], "POST /v1/reload?confirm_within=600000ms HTTP/1.1"),
        (vec!["reload", "--guard"], "POST /v1/reload?guard=true HTTP/1.1"),
        (vec!["reload", "--guard=30s"], "POST /v1/reload?guard=30000ms HTTP/1.1"),
        (vec!["reload", "--no-guard"], "POST /v1/reload?guard=false HTTP/1.1"),
        (vec!["confirm"], "POST /v1/confirm HTTP/1.1"),
        (vec!["cancel"], "POST /v1/cancel HTTP/1.1"),
        (vec!["rollback"], "POST /v1/rollback HTTP/1.1"),
        (
            vec!["rollback", "--guard", "7", "--confirm-within", "1h"],
            "POST /v1/rollback?confirm_within=3600000ms&guard=true&to=7 HTTP/1.1",
        ),
    ] {
        let server = answered(&ended);
        let output = handover(&server.path, &arguments);
        assert_eq!(code(&output), 0, "{arguments:?}: {}", stderr(&output));
        let sent = server.asked();
        assert!(sent.starts_with(&format!("{line}\r\n")), "{arguments:?}: {sent}");
    }
}

#[test]
fn what_comes_at_the_wrong_time_is_13_and_what_is_not_there_is_2() {
    let left = Duration::from_secs(60);
    for (refused, verb, expected) in [
        (
            Refused::Pending { operation: "a-7".to_owned(), generation: 5, back_to: 4, left, upgrade: None },
            "reload",
            13,
        ),
        (Refused::NothingPending, "confirm", 13),
        (Refused::NothingPending, "cancel", 13),
        (Refused::NoSuchGeneration { wanted: Some(3), kept: vec![4, 5] }, "rollback", 2),
    ] {
        let problem = serde_json::to_string(&refused.problem_details()).unwrap();
        let server = canned(refused.http_status(), "application/problem+json", problem);
        let output = handover(&server.path, &[verb]);
        assert_eq!(code(&output), expected, "{refused}");
        assert_eq!(stderr(&output), format!("handover: {refused}\n"));
    }
    let mut ended = operation(Kind::Reload);
    ended.finish(Outcome::Rejected, Cause::Pending, 3.0);
    let output = handover(&answered(&ended).path, &["reload", "--confirm-within", "1m"]);
    assert_eq!((code(&output), stdout(&output)), (13, format!("{}\n", ended.sentence())));
}

#[test]
fn what_a_guard_takes_back_is_12_with_its_figures() {
    let mut ended = operation(Kind::Reload);
    ended.generation = Some(2);
    ended.errors = vec![Problem::new("5xx 41 % of 120 requests, was 0.2 % of 4000")];
    ended.finish(Outcome::RolledBack, Cause::GuardFailed, 10_004.0);
    let output = handover(&answered(&ended).path, &["reload", "--guard"]);
    assert_eq!(
        (code(&output), stdout(&output).as_str()),
        (
            12,
            "rolled back: generation 2 fared worse than the guard allows: 5xx 41 % of 120 requests, was 0.2 % of 4000; generation 1 serves again, in 10.0 s\n"
        )
    );
}

fn certificate(name: &str, not_after: &str) -> Certificate {
    Certificate {
        names: ["", "www.", "a.", "b."].iter().map(|prefix| format!("{prefix}{name}")).collect(),
        issuer: "Example CA".to_owned(),
        not_after: format!("{not_after}T00:00:00Z"),
        key_type: "ECDSA P-256".to_owned(),
        sha256: format!("{name}{not_after}"),
        listeners: vec!["https".to_owned()],
        services: if name == "b.example" { vec!["app".to_owned()] } else { Vec::new() },
        ..Certificate::default()
    }
}

#[test]
fn a_reload_lists_every_certificate_that_changed_and_one_alone_is_in_the_sentence() {
    let old = [certificate("a.example", "2026-12-01"), certificate("b.example", "2026-12-01")];
    let new = [certificate("a.example", "2027-02-20"), certificate("b.example", "2027-02-20")];
    let mut ended = operation(Kind::Reload);
    ended.changes = certificate_changes(&old, &new);
    ended.changes.push(Change::new(What::Changed, ChangeKind::Route, "hello"));
    ended.warnings = vec![Problem::new("odd")];
    ended.finish(Outcome::Applied, Cause::Done, 3.0);
    let output = handover(&answered(&ended).path, &["reload", "--certs"]);
    assert_eq!(
        stdout(&output),
        "applied: generation 1 serves, 2 certificates renewed (a.example, b.example), 1 route changed (hello), no connection cut, in 3.0 ms\n  \
         renewed certificate a.example: not after 2027-02-20, was 2026-12-01\n  \
         renewed certificate b.example: not after 2027-02-20, was 2026-12-01\n\nwarning: odd\n"
    );
    ended.changes = certificate_changes(&old[..1], &new[..1]);
    ended.warnings.clear();
    let at = "2026-11-22T12:10:03.000Z".to_owned();
    ended.goes_back = Some(GoesBack { to: 1, at, within_ms: 90_000 });
    ended.finish(Outcome::Applied, Cause::Done, 3.0);
    let output = handover(&answered(&ended).path, &["reload"]);
    assert_eq!(
        stdout(&output),
        "applied: generation 1 serves, certificate a.example renewed (not after 2027-02-20, was 2026-12-01), no connection cut, in 3.0 ms; it goes back to generation 1 at 12:10:03 UTC (in 1 min 30 s) unless 'handover confirm' comes\n"
    );
}

#[test]
fn certificates_are_a_table_under_both_names_of_the_verb() {
    let all = vec![certificate("a.example", "2020-01-01"), certificate("b.example", "2999-01-01")];
    let json = serde_json::to_string(&all).unwrap();
    for verb in ["certificates", "certs"] {
        let server = canned(200, "application/json", json.clone());
        let output = handover(&server.path, &[verb]);
        let said = stdout(&output);
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines[0].starts_with("NAMES ") && lines[0].contains("NOT AFTER   LEFT"), "{said}");
        assert!(
            lines[1].starts_with("a.example www.a.example a.a.example +1  Example CA  2020-01-01  over "),
            "{said}"
        );
        assert!(
            lines[2].contains("  2999-01-01  ")
                && lines[2].ends_with(" days  ECDSA P-256  https, service app"),
            "{said}"
        );
    }
    let output = handover(&canned(200, "application/json", "[]".to_owned()).path, &["certs"]);
    assert_eq!(stdout(&output), "no certificate serves\n");
}

#[test]
fn a_difference_against_a_generation_says_what_a_rollback_would_change() {
    let diff = Diff {
        serving_generation: Some(3),
        against: Some(1),
        changes: vec![Change::new(What::Removed, ChangeKind::Route, "hello")],
        files: vec![FileDiff {
            path: "a.key".to_owned(),
            state: FileState::Differs,
            diff: "a private key, not shown".to_owned(),
        }],
        ..Diff::default()
    };
    let server = canned(200, "application/json", serde_json::to_string(&diff).unwrap());
    let output = handover(&server.path, &["diff", "--against", "1"]);
    assert!(server.asked().starts_with("GET /v1/diff?against=1 HTTP/1.1\r\n"));
    assert_eq!(
        (code(&output), stdout(&output).as_str()),
        (
            1,
            "differs: generation 1 differs from generation 3, which serves\na rollback to it would change:\n  removed route hello\n\na.key: a private key, not shown\n"
        )
    );
}
