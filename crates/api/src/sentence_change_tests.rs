//! The sentences about certificates, confirmation, guards, rollbacks and restores.

use std::time::Duration;

use crate::{
    Actor, Cause, Certificate, Change, ChangeKind, ExitCode, GoesBack, Kind, Operation, Outcome, Pending,
    Problem, Refused, What, certificate_changes, human_time, summarize_changes,
};

/// The sentence of an operation of this kind that ends like this; generation 5 was made, and 4 serves.
fn ended(kind: Kind, outcome: Outcome, cause: Cause, with: impl FnOnce(&mut Operation)) -> String {
    let mut operation = Operation::running("a-1", kind, Actor::signal("HUP"), "2026-11-22T03:01:35.000Z");
    operation.generation = Some(5);
    operation.serving_generation = Some(4);
    with(&mut operation);
    operation.finish(outcome, cause, 3.1);
    operation.message
}

fn goes_back() -> Option<GoesBack> {
    Some(GoesBack { to: 4, at: "2026-11-22T12:10:03.000Z".to_owned(), within_ms: 600_000 })
}

fn certificate(name: &str, not_after: &str, sha256: &str) -> Certificate {
    Certificate {
        names: vec![name.to_owned()],
        issuer: "Example CA".to_owned(),
        not_after: format!("{not_after}T23:59:59Z"),
        key_type: "ECDSA P-256".to_owned(),
        serial: sha256.to_owned(),
        sha256: sha256.to_owned(),
        files: vec![format!("/etc/site/{name}.pem"), format!("/etc/site/{name}.key")],
        ..Certificate::default()
    }
}

#[test]
fn a_renewed_certificate_is_told_with_its_dates_and_an_awaited_confirmation_with_its_deadline() {
    let old = certificate("example.org", "2026-12-01", "aa");
    let new = certificate("example.org", "2027-02-20", "bb");
    let sentence = ended(Kind::Reload, Outcome::Applied, Cause::Done, |operation| {
        operation.serving_generation = Some(5);
        operation.changes = certificate_changes(&[old], &[new]);
        operation.goes_back = goes_back();
    });
    assert_eq!(
        sentence,
        "applied: generation 5 serves, certificate example.org renewed (not after 2027-02-20, was 2026-12-01), no connection cut, in 3.1 ms; it goes back to generation 4 at 12:10:03 UTC (in 10 min) unless 'handover confirm' comes"
    );
}

#[test]
fn what_was_taken_back_says_why_and_what_serves_again() {
    assert_eq!(
        ended(Kind::Rollback, Outcome::RolledBack, Cause::NotConfirmed, |operation| {
            operation.generation = Some(4);
            operation.undone = Some(5);
        }),
        "rolled back: generation 5 was not confirmed in time; generation 4 serves again, in 3.1 ms"
    );
    assert_eq!(
        ended(Kind::Reload, Outcome::RolledBack, Cause::GuardFailed, |operation| {
            operation.errors = vec![Problem::new("5xx 41 % of 120 requests, was 0.2 % of 4000")];
        }),
        "rolled back: generation 5 fared worse than the guard allows: 5xx 41 % of 120 requests, was 0.2 % of 4000; generation 4 serves again, in 3.1 ms"
    );
    assert_eq!(
        ended(Kind::Reload, Outcome::RolledBack, Cause::Cancelled, |_| {}),
        "rolled back: generation 5 was cancelled; generation 4 serves again, in 3.1 ms"
    );
    assert_eq!(
        ended(Kind::Cancel, Outcome::Applied, Cause::Done, |operation| operation.undone = Some(5)),
        "applied: generation 5 was taken back, generation 4 serves again, no connection cut, in 3.1 ms"
    );
    assert_eq!(
        ended(Kind::Start, Outcome::RolledBack, Cause::NotConfirmed, |operation| operation.undone = Some(5)),
        "rolled back: generation 5 was not confirmed in time, so generation 4 was started, in 3.1 ms; the files on disk are still those of generation 5, and the next reload serves them"
    );
}

#[test]
fn what_stays_and_what_is_served_again_says_so() {
    assert_eq!(
        ended(Kind::Confirm, Outcome::Applied, Cause::Done, |_| {}),
        "applied: generation 5 is confirmed and stays, in 3.1 ms"
    );
    assert_eq!(
        ended(Kind::Rollback, Outcome::Applied, Cause::Done, |operation| {
            operation.generation = Some(4);
            operation.changes = vec![Change::new(What::Changed, ChangeKind::Route, "hello")];
        }),
        "applied: generation 4 serves again, 1 route changed (hello), no connection cut, in 3.1 ms; the files on disk stay as they are, and the next reload or start serves them"
    );
    assert_eq!(
        ended(Kind::Rollback, Outcome::Unchanged, Cause::AlreadySo, |_| {}),
        "unchanged: that generation serves already; generation 4 serves, in 3.1 ms"
    );
    let backup = || Some("the backup of generation 7, made 2026-11-20T01:00:00Z".to_owned());
    assert_eq!(
        ended(Kind::Restore, Outcome::Applied, Cause::Done, |operation| {
            operation.serving_generation = Some(5);
            operation.source = backup();
        }),
        "applied: generation 5 serves from the backup of generation 7, made 2026-11-20T01:00:00Z, nothing changed, no connection cut, in 3.1 ms"
    );
    assert_eq!(
        ended(Kind::DryRun, Outcome::Unchanged, Cause::DryRun, |operation| operation.source = backup()),
        "valid: restoring the backup of generation 7, made 2026-11-20T01:00:00Z would change nothing; generation 4 serves"
    );
}

#[test]
fn the_deadline_that_was_moved_is_told() {
    let sentence = ended(Kind::Reload, Outcome::Unchanged, Cause::Extended, |operation| {
        operation.serving_generation = Some(5);
        operation.goes_back = goes_back();
    });
    assert_eq!(
        sentence,
        "unchanged: what is on disk serves already; generation 5 serves, in 3.1 ms; it goes back to generation 4 at 12:10:03 UTC (in 10 min) unless 'handover confirm' comes"
    );
}

#[test]
fn a_store_that_cannot_be_reached_at_the_start_is_told() {
    let sentence = ended(Kind::Start, Outcome::Applied, Cause::Unreachable, |_| {});
    assert_eq!(
        sentence,
        "applied: generation 4 serves, the last good one, because the store that has the configuration cannot be reached; started in 3.1 ms"
    );
    let sentence = ended(Kind::Reload, Outcome::Applied, Cause::Done, |operation| {
        operation.source = Some("etcd revision 42".to_owned());
    });
    assert!(sentence.starts_with("applied: generation 4 serves from etcd revision 42, "), "{sentence}");
}

#[test]
fn what_comes_while_a_change_awaits_confirmation_is_refused_at_the_wrong_time_and_names_it() {
    let left = Duration::from_secs(570);
    let why =
        Refused::Pending { operation: "a-7".to_owned(), generation: 5, back_to: 4, left, upgrade: None };
    assert_eq!(
        why.to_string(),
        "pending: generation 5 (a-7) awaits confirmation for another 9 min 30 s, then generation 4 serves again; 'handover confirm' keeps it, 'handover cancel' goes back now"
    );
    let details = why.problem_details();
    assert_eq!((details.status, details.operation_id.as_deref()), (409, Some("a-7")));
    assert_eq!((details.serving_generation, details.exit_code()), (Some(5), ExitCode::BusyOrStale));

    let mut operation = Operation::running("a-8", Kind::Reload, Actor::supervisor(), "");
    operation.serving_generation = Some(5);
    operation.finish(Outcome::Rejected, Cause::Pending, 1.0);
    assert_eq!((operation.http_status(), ExitCode::from(&operation)), (409, ExitCode::BusyOrStale));
    assert_eq!(
        operation.message,
        "rejected: another change awaits confirmation, and what is on the disk is not that one; generation 5 still serves; 'handover confirm' keeps it, 'handover cancel' goes back"
    );
}

#[test]
fn other_refusals_say_what_there_is_and_have_their_codes() {
    let refused = |why: Refused| (why.to_string(), why.problem_details().exit_code());
    assert_eq!(
        refused(Refused::NothingPending),
        ("nothing awaits confirmation".to_owned(), ExitCode::BusyOrStale)
    );
    assert_eq!(
        refused(Refused::NoSuchGeneration { wanted: Some(3), kept: vec![5, 6, 7] }),
        ("the bytes of generation 3 are not kept; there are: 7, 6, 5".to_owned(), ExitCode::Usage)
    );
    assert_eq!(
        refused(Refused::NoSuchGeneration { wanted: None, kept: (1..=12).collect() }).0,
        "no other generation has served before this one; there are: 12, 11, 10, 9, 8, 7, 6, 5, 4, 3 and 2 more"
    );
    assert_eq!(
        refused(Refused::Archive("this is no backup".to_owned())),
        ("this is no backup".to_owned(), ExitCode::Rejected)
    );
}

#[test]
fn a_pending_change_is_shown_with_the_time_left() {
    let pending = Pending {
        operation_id: "a-7".to_owned(),
        generation: 5,
        back_to: 4,
        actor: Actor::peer(0, 0, Some(7), Some("handover".to_owned())),
        comment: None,
        until: "2026-11-22T12:10:03.000Z".to_owned(),
        left_ms: 570_000,
        upgrade: None,
    };
    assert_eq!(
        pending.sentence(),
        "generation 5 awaits confirmation: it goes back to generation 4 at 12:10:03 UTC (in 9 min 30 s) unless 'handover confirm' comes; asked for by root handover[7] in a-7"
    );
}

#[test]
fn certificates_are_compared_by_what_they_are_for() {
    let before = [
        certificate("same.example", "2027-01-01", "aa"),
        certificate("renewed.example", "2026-12-01", "bb"),
        certificate("removed.example", "2026-12-01", "cc"),
        certificate("renamed.example", "2027-01-01", "dd"),
    ];
    let mut moved = certificate("renewed.example", "2027-03-01", "ee");
    // A set of files that is never changed has new names.
    moved.files = vec!["/etc/site/2026-11-22/a.pem".to_owned()];
    let mut renamed = certificate("renamed.example", "2027-01-01", "ff");
    renamed.names.push("www.renamed.example".to_owned());
    let after = [
        certificate("added.example", "2027-01-01", "gg"),
        moved,
        certificate("same.example", "2027-01-01", "aa"),
        renamed,
    ];
    let lines: Vec<String> = certificate_changes(&before, &after).iter().map(Change::line).collect();
    assert_eq!(
        lines,
        [
            "renewed certificate renewed.example: not after 2027-03-01, was 2026-12-01",
            "replaced certificate renamed.example: names renamed.example www.renamed.example, was renamed.example",
            "added certificate added.example: issuer Example CA, not after 2027-01-01, ECDSA P-256",
            "removed certificate removed.example: issuer Example CA, not after 2026-12-01, ECDSA P-256",
        ]
    );
    let changes = certificate_changes(&before, &after);
    assert_eq!(
        summarize_changes(&changes),
        "1 certificate renewed (renewed.example), 1 certificate replaced (renamed.example), 1 certificate added (added.example), 1 certificate removed (removed.example)"
    );
    assert!(certificate_changes(&before, &before).is_empty());
}

#[test]
fn of_two_certificates_for_the_same_names_the_one_that_did_not_change_is_not_told() {
    let rsa =
        || Certificate { key_type: "RSA 2048".to_owned(), ..certificate("a.example", "2027-01-01", "r1") };
    let before = [certificate("a.example", "2027-01-01", "e1"), rsa()];
    let after = [rsa(), certificate("a.example", "2027-04-01", "e2")];
    let changes = certificate_changes(&before, &after);
    assert_eq!(
        summarize_changes(&changes),
        "certificate a.example renewed (not after 2027-04-01, was 2027-01-01)"
    );
}

#[test]
fn ten_thousand_certificates_are_compared_in_one_go() {
    let set = |round: &str| -> Vec<Certificate> {
        (0..10_000)
            .map(|n| certificate(&format!("{n}.example"), "2027-01-01", &format!("{round}{n}")))
            .collect()
    };
    assert_eq!(certificate_changes(&set("a"), &set("b")).len(), 10_000);
}

#[test]
fn times_to_wait_read_well() {
    for (ms, text) in [
        (0, "0 s"),
        (1, "1 s"),
        (59_001, "1 min"),
        (90_000, "1 min 30 s"),
        (600_000, "10 min"),
        (3_600_000, "1 h"),
        (3_900_000, "1 h 5 min"),
    ] {
        assert_eq!(human_time(Duration::from_millis(ms)), text);
    }
}
