//! The sentences about upgrades, as they are read.

use std::collections::BTreeMap;

use crate::{
    Actor, Binary, Cause, Event, EventKind, ExitCode, GoesBack, Kind, Operation, Outcome, Pending, Problem,
    Refused, Status, Step, Upgrade, WorkerRole, WorkerStatus,
};

const OLD: &str = "1a2b3c4d5e6f0718293a4b5c6d7e8f901a2b3c4d5e6f0718293a4b5c6d7e8f90";
const NEW: &str = "99887766554433221100ffeeddccbbaa99887766554433221100ffeeddccbbaa";

fn binary(version: &str, sha256: &str) -> Binary {
    let path = "/usr/bin/handover".to_owned();
    Binary { version: Some(version.to_owned()), sha256: Some(sha256.to_owned()), path }
}

fn moved() -> BTreeMap<String, u64> {
    [("http", 9_800), ("websocket", 200), ("tcp", 12)].map(|(kind, count)| (kind.to_owned(), count)).into()
}

/// From 0.1.0 to 0.2.0.
fn upgrade() -> Upgrade {
    Upgrade::new(binary("0.1.0", OLD), binary("0.2.0", NEW))
}

/// The operation that goes from 0.1.0 to 0.2.0 and ends like this after 1.2 s, while generation 4 serves.
fn ended(
    kind: Kind,
    outcome: Outcome,
    cause: Cause,
    with: impl FnOnce(&mut Operation, &mut Upgrade),
) -> Operation {
    let mut operation = Operation::running("a-1", kind, Actor::signal("USR2"), "2026-11-22T03:01:35.000Z");
    operation.serving_generation = Some(4);
    let mut upgrade = upgrade();
    with(&mut operation, &mut upgrade);
    operation.upgrade = Some(Box::new(upgrade));
    operation.finish(outcome, cause, 1_234.0);
    operation
}

fn steps(names: &[&str]) -> Vec<Step> {
    names.iter().map(|name| Step { name: (*name).to_owned(), ms: 3.0 }).collect()
}

fn goes_back() -> Option<GoesBack> {
    Some(GoesBack { to: 4, at: "2026-11-22T12:10:03.000Z".to_owned(), within_ms: 600_000 })
}

#[test]
fn an_upgrade_says_from_what_to_what_and_what_became_of_the_connections() {
    let operation = ended(Kind::Upgrade, Outcome::Applied, Cause::Done, |_, upgrade| {
        upgrade.moved = moved();
        upgrade.drained = 3;
        upgrade.freeze_us = Some(7_100);
    });
    assert_eq!(
        operation.message,
        "applied: upgraded from 0.1.0 (sha256 1a2b3c4d5e6f) to 0.2.0 (sha256 998877665544) in 1.23 s; 10,012 connections moved (9,800 http, 200 websocket, 12 tcp), 3 drained, none cut; frozen for 7.1 ms"
    );
    let operation =
        ended(Kind::Upgrade, Outcome::AppliedWithLosses, Cause::DrainForced, |operation, upgrade| {
            upgrade.moved.insert("http".to_owned(), 1);
            upgrade.freeze_us = Some(400);
            operation.losses.add("http request", 2);
        });
    assert_eq!(
        operation.message,
        "applied with losses: upgraded from 0.1.0 (sha256 1a2b3c4d5e6f) to 0.2.0 (sha256 998877665544) in 1.23 s; 1 connection moved (1 http), 2 cut (2 http request); frozen for 0.4 ms"
    );
    assert_eq!(ExitCode::from(&operation), ExitCode::AppliedWithLosses);
    // Who could have counted them was killed.
    let operation = ended(Kind::Upgrade, Outcome::AppliedWithLosses, Cause::Done, |_, upgrade| {
        upgrade.moved.insert("http".to_owned(), 1);
    });
    assert!(
        operation.message.ends_with("1 connection moved (1 http), and a worker died with those that it had"),
        "{}",
        operation.message
    );
}

#[test]
fn without_connections_and_with_the_same_binary_it_says_so() {
    let operation = ended(Kind::Upgrade, Outcome::Applied, Cause::Done, |_, upgrade| {
        upgrade.to = upgrade.from.clone();
    });
    assert_eq!(
        operation.message,
        "applied: 0.1.0 (sha256 1a2b3c4d5e6f) serves with a new worker, the same binary as before, in 1.23 s; no connection was open"
    );
    let operation = ended(Kind::Upgrade, Outcome::Applied, Cause::Done, |_, upgrade| upgrade.drained = 1);
    assert!(operation.message.ends_with("no connection moved, 1 drained, none cut"), "{}", operation.message);
}

#[test]
fn a_pending_upgrade_says_until_when_and_what_it_goes_back_to() {
    let operation = ended(Kind::Upgrade, Outcome::Applied, Cause::Done, |operation, upgrade| {
        operation.goes_back = goes_back();
        upgrade.warm = true;
    });
    assert!(
        operation.message.ends_with(
            "; it goes back to 0.1.0 (sha256 1a2b3c4d5e6f) at 12:10:03 UTC (in 10 min) unless 'handover confirm' comes"
        ),
        "{}",
        operation.message
    );
    let pending = Pending {
        operation_id: "a-1".to_owned(),
        generation: 4,
        back_to: 4,
        actor: Actor::peer(0, 0, Some(7), Some("handover".to_owned())),
        comment: None,
        until: "2026-11-22T12:10:03.000Z".to_owned(),
        left_ms: 570_000,
        upgrade: Some(Box::new(upgrade())),
    };
    assert_eq!(
        pending.sentence(),
        "the upgrade to 0.2.0 (sha256 998877665544) awaits confirmation: it goes back to 0.1.0 (sha256 1a2b3c4d5e6f) at 12:10:03 UTC (in 9 min 30 s) unless 'handover confirm' comes; asked for by root handover[7] in a-1"
    );
    let refused = Refused::Pending {
        operation: "a-1".to_owned(),
        generation: 4,
        back_to: 4,
        left: std::time::Duration::from_secs(570),
        upgrade: Some(Box::new(upgrade())),
    };
    assert_eq!(
        refused.to_string(),
        "pending: the upgrade to 0.2.0 (sha256 998877665544) (a-1) awaits confirmation for another 9 min 30 s, then 0.1.0 (sha256 1a2b3c4d5e6f) serves again; 'handover confirm' keeps it, 'handover cancel' goes back now"
    );
}

#[test]
fn a_supervisor_that_stays_with_the_old_binary_is_told() {
    let operation = ended(Kind::Upgrade, Outcome::Applied, Cause::Done, |_, upgrade| {
        upgrade.supervisor_stays =
            Some("it could not execute /usr/bin/handover: Exec format error".to_owned());
    });
    assert!(
        operation.message.ends_with("; but the supervisor could not become it, and goes on as it was"),
        "{}",
        operation.message
    );
}

#[test]
fn what_was_not_ready_says_in_which_step_why_and_with_which_last_words() {
    let operation = ended(Kind::Upgrade, Outcome::NotReady, Cause::WorkerDied, |operation, upgrade| {
        operation.steps = steps(&["admission", "preflight", "record"]);
        operation.errors = vec![Problem::new("it ended with exit code 3")];
        upgrade.to.version = None;
        upgrade.last_lines = vec!["starting".to_owned(), "cannot \u{1b}[31mstart".to_owned()];
    });
    assert_eq!(
        operation.report(),
        "not ready: the upgrade to /usr/bin/handover (sha256 998877665544) failed in the step 'preflight': it ended with exit code 3; 0.1.0 (sha256 1a2b3c4d5e6f) still serves generation 4\n\nthe last lines of the new binary:\n  | starting\n  | cannot  [31mstart"
    );
    assert_eq!(ExitCode::from(&operation), ExitCode::NotReady);
    let details = operation.problem_details();
    assert_eq!((details.status, details.phase.as_deref()), (500, Some("preflight")));
    assert_eq!(details.report(), operation.report());

    let died = ended(Kind::Upgrade, Outcome::NotReady, Cause::SupervisorDied, |operation, _| {
        operation.steps = steps(&["record"]);
    });
    assert_eq!(
        died.message,
        "not ready: the upgrade to 0.2.0 (sha256 998877665544) failed: the supervisor died meanwhile; 0.1.0 (sha256 1a2b3c4d5e6f) still serves generation 4"
    );

    let missing = ended(Kind::Upgrade, Outcome::NotReady, Cause::Refused, |operation, upgrade| {
        operation.steps = steps(&["admission", "record"]);
        operation.errors = vec![Problem::new("does not exist").in_file("/opt/missing")];
        upgrade.to = Binary::at("/opt/missing");
    });
    assert_eq!(
        missing.message,
        "not ready: /opt/missing: does not exist; 0.1.0 (sha256 1a2b3c4d5e6f) still serves generation 4"
    );
}

#[test]
fn what_was_rejected_names_the_rule() {
    let operation = ended(Kind::Upgrade, Outcome::Rejected, Cause::Refused, |operation, _| {
        let found = "the rule 'mode' forbids it: others may write to it";
        let problem = Problem::new(found).in_file("/tmp/handover").with_help("chmod go-w /tmp/handover");
        operation.errors = vec![problem];
    });
    assert_eq!(
        operation.message,
        "rejected: /tmp/handover: the rule 'mode' forbids it: others may write to it (chmod go-w /tmp/handover); 0.1.0 (sha256 1a2b3c4d5e6f) still serves generation 4"
    );
    assert_eq!(ExitCode::from(&operation), ExitCode::Rejected);
}

#[test]
fn what_was_taken_back_says_why_and_that_the_connections_came_back() {
    let guarded = ended(Kind::Upgrade, Outcome::RolledBack, Cause::GuardFailed, |operation, _| {
        operation.errors = vec![Problem::new("5xx 41 % of 120 requests, was 0.2 % of 4000")];
    });
    assert_eq!(
        guarded.message,
        "rolled back: the upgrade to 0.2.0 (sha256 998877665544) fared worse than the guard allows: 5xx 41 % of 120 requests, was 0.2 % of 4000; 0.1.0 (sha256 1a2b3c4d5e6f) serves again, in 1.23 s; no connection cut"
    );
    let died = ended(Kind::Upgrade, Outcome::RolledBack, Cause::WorkerDied, |operation, _| {
        operation.losses.add("tcp", 1_200);
    });
    assert_eq!(
        died.message,
        "rolled back: the upgrade to 0.2.0 (sha256 998877665544) was taken back: the worker died; 0.1.0 (sha256 1a2b3c4d5e6f) serves again, in 1.23 s; 1,200 connections cut (1,200 tcp)"
    );
    let back = |_: &mut Operation, upgrade: &mut Upgrade| {
        std::mem::swap(&mut upgrade.from, &mut upgrade.to);
        upgrade.moved = moved();
        upgrade.freeze_us = Some(5_000);
    };
    assert_eq!(
        ended(Kind::Rollback, Outcome::RolledBack, Cause::NotConfirmed, back).message,
        "rolled back: the upgrade to 0.2.0 (sha256 998877665544) was not confirmed in time; 0.1.0 (sha256 1a2b3c4d5e6f) serves again, in 1.23 s; 10,012 connections moved (9,800 http, 200 websocket, 12 tcp), none cut; frozen for 5.0 ms"
    );
    assert_eq!(
        ended(Kind::Cancel, Outcome::Applied, Cause::Done, back).message,
        "applied: the upgrade to 0.2.0 (sha256 998877665544) was taken back and 0.1.0 (sha256 1a2b3c4d5e6f) serves again, in 1.23 s; 10,012 connections moved (9,800 http, 200 websocket, 12 tcp), none cut; frozen for 5.0 ms"
    );
    assert_eq!(
        ended(Kind::Cancel, Outcome::NotReady, Cause::NoWorker, back).message,
        "not ready: going back to 0.1.0 (sha256 1a2b3c4d5e6f) failed: no worker could be started in time; 0.2.0 (sha256 998877665544) still serves generation 4, and stays, with nothing that awaits confirmation: upgrade to a binary that works ('handover upgrade --binary PATH')"
    );
}

#[test]
fn what_is_confirmed_stays() {
    assert_eq!(
        ended(Kind::Confirm, Outcome::Applied, Cause::Done, |_, _| {}).message,
        "applied: the upgrade from 0.1.0 (sha256 1a2b3c4d5e6f) to 0.2.0 (sha256 998877665544) is confirmed and stays, no connection cut, in 1.23 s"
    );
}

#[test]
fn a_rehearsal_says_that_it_could_and_that_nothing_was_touched() {
    assert_eq!(
        ended(Kind::DryRun, Outcome::Unchanged, Cause::DryRun, |_, _| {}).message,
        "valid: 0.2.0 (sha256 998877665544) could take over from 0.1.0 (sha256 1a2b3c4d5e6f): it may be run, it can serve what serves, and it understands the supervisor's state; nothing was touched, in 1.23 s"
    );
}

#[test]
fn everything_about_an_upgrade_has_whole_digests_paths_and_the_names_of_its_steps() {
    let operation = ended(Kind::Upgrade, Outcome::Applied, Cause::Done, |operation, _| {
        operation.steps = steps(&[
            "admission",
            "preflight",
            "start_worker",
            "prepare",
            "probe",
            "journal",
            "hand_over",
            "drain",
            "stop_worker",
            "supervisor",
        ]);
    });
    let event = Event {
        kind: EventKind::OperationStep,
        at: "T".to_owned(),
        message: operation.message.clone(),
        operation: Some(operation.clone()),
    };
    assert_eq!(event.line(), "T  upgrade a-1: supervisor");
    let report = operation.full_report();
    for line in [
        format!("  from      0.1.0, sha256 {OLD}, /usr/bin/handover"),
        format!("  to        0.2.0, sha256 {NEW}, /usr/bin/handover"),
        "  steps     admission 3.0 ms, preflight 3.0 ms, start 3.0 ms, prepare 3.0 ms, ready 3.0 ms, commit 3.0 ms, moving connections 3.0 ms, drain 6.0 ms, supervisor 3.0 ms".to_owned(),
    ] {
        assert!(report.lines().any(|other| other == line), "{line}\n{report}");
    }
}

#[test]
fn a_status_shows_which_worker_runs_what() {
    let json = serde_json::json!({
        "name": "handover", "version": "0.1.0", "phase": "serving", "pid": 10, "started_at": "T0",
        "control": "/run/x.sock", "listeners": [], "journal": {"path": "/j", "records": 1},
        "binary": {"version": "0.1.0", "sha256": OLD, "path": "/usr/bin/handover"},
        "previous_binary": {"version": "0.0.9", "sha256": "77", "path": "/usr/bin/handover"},
    });
    let mut status: Status = serde_json::from_value(json).unwrap();
    let worker = |number, version: &str, sha256: &str, role| WorkerStatus {
        number,
        pid: 20 + u32::try_from(number).unwrap(),
        started_at: "T1".to_owned(),
        version: version.to_owned(),
        sha256: Some(sha256.to_owned()),
        role,
    };
    status.workers =
        vec![worker(2, "0.2.0", NEW, WorkerRole::Serving), worker(1, "0.1.0", OLD, WorkerRole::Warm)];
    let report = status.report();
    for line in [
        "  supervisor  pid 10, version 0.1.0 (sha256 1a2b3c4d5e6f), since T0",
        "  worker      pid 22, version 0.2.0 (sha256 998877665544), since T1",
        "  worker      pid 21, since T1, kept warm until the upgrade is confirmed",
        "  previous    0.0.9 (sha256 77) is kept: 'handover rollback --binary' goes back to it",
    ] {
        assert!(report.lines().any(|other| other == line), "{line}\n{report}");
    }
    status.previous_binary = Some(binary("0.2.0", NEW));
    assert!(!status.report().contains("previous"), "what serves already is no way back");
}

#[test]
fn an_upgrade_that_cannot_be_taken_back_stays_and_says_what_to_do() {
    let problem = || Problem::new("worker 3 ended with exit code 1");
    let operation = ended(Kind::Rollback, Outcome::NotReady, Cause::CandidateDied, |operation, upgrade| {
        std::mem::swap(&mut upgrade.from, &mut upgrade.to);
        operation.steps = steps(&["go_back", "start_worker", "stop_worker", "record"]);
        operation.errors.push(problem());
        upgrade.last_lines.push("no such file".to_owned());
    });
    assert_eq!(
        operation.message,
        "not ready: going back to 0.1.0 (sha256 1a2b3c4d5e6f) failed in the step 'start': worker 3 ended with exit code 1; 0.2.0 (sha256 998877665544) still serves generation 4, and stays, with nothing that awaits confirmation: upgrade to a binary that works ('handover upgrade --binary PATH')"
    );
    assert!(operation.report().ends_with("  | no such file"));
    assert_eq!(ExitCode::from(&operation), ExitCode::NotReady);
    let operation =
        ended(Kind::Upgrade, Outcome::AppliedWithLosses, Cause::NotTakenBack, |operation, upgrade| {
            upgrade.moved.insert("http".to_owned(), 1);
            operation.errors.push(problem());
        });
    assert_eq!(
        operation.message,
        "applied with losses: upgraded from 0.1.0 (sha256 1a2b3c4d5e6f) to 0.2.0 (sha256 998877665544) in 1.23 s; 1 connection moved (1 http), none cut; it was to be taken back, but 0.1.0 (sha256 1a2b3c4d5e6f) could not be made to serve (worker 3 ended with exit code 1): the new one serves on, and stays, with nothing that awaits confirmation: upgrade to a binary that works ('handover upgrade --binary PATH')"
    );
}
