//! Every sentence, as it is read by people and matched by scripts.

use crate::{
    Actor, Cause, Change, ChangeKind, Kind, Losses, Operation, Outcome, Problem, Refused, What, human_ms,
    summarize_changes,
};

fn operation(kind: Kind) -> Operation {
    let mut operation = Operation::running("a-1", kind, Actor::signal("HUP"), "2026-11-22T03:01:35.000Z");
    operation.serving_generation = Some(1);
    operation
}

fn mistake() -> Problem {
    Problem::new("unknown key \"mesage\"")
        .in_file("hello.toml")
        .at(7, 3)
        .with_help("did you mean \"message\"?")
}

/// The sentence of an operation of this kind that ends like this, after `with` has filled it in.
fn ended(kind: Kind, outcome: Outcome, cause: Cause, with: impl FnOnce(&mut Operation)) -> String {
    let mut operation = operation(kind);
    with(&mut operation);
    operation.finish(outcome, cause, 3.1);
    assert_eq!(operation.message, operation.sentence());
    operation.message
}

#[test]
fn a_reload_that_is_applied_says_what_serves_what_changed_and_how_long_it_took() {
    let sentence = ended(Kind::Reload, Outcome::Applied, Cause::Done, |operation| {
        operation.serving_generation = Some(2);
        operation.changes = vec![Change::new(What::Changed, ChangeKind::Route, "hello")];
    });
    assert_eq!(
        sentence,
        "applied: generation 2 serves, 1 route changed (hello), no connection cut, in 3.1 ms"
    );
}

#[test]
fn what_is_wrong_comes_first_and_what_serves_last() {
    let rejected = |errors: Vec<Problem>| {
        ended(Kind::Reload, Outcome::Rejected, Cause::Refused, |operation| operation.errors = errors)
    };
    assert_eq!(
        rejected(vec![mistake()]),
        "rejected: hello.toml:7:3: unknown key \"mesage\" (did you mean \"message\"?); generation 1 still serves"
    );
    assert_eq!(
        rejected(vec![mistake(), Problem::new("another")]),
        "rejected: 2 mistakes, the first: hello.toml:7:3: unknown key \"mesage\" (did you mean \"message\"?); generation 1 still serves"
    );
    let start = ended(Kind::Start, Outcome::Rejected, Cause::Refused, |operation| {
        operation.errors = vec![mistake()];
        operation.serving_generation = None;
    });
    assert!(start.ends_with("; nothing serves"), "{start}");
}

#[test]
fn every_other_ending_of_a_reload_has_its_sentence() {
    let reload = |outcome, cause| ended(Kind::Reload, outcome, cause, |_| {});
    assert_eq!(
        reload(Outcome::Unchanged, Cause::AlreadySo),
        "unchanged: what is on disk serves already; generation 1 serves, in 3.1 ms"
    );
    assert_eq!(
        reload(Outcome::NotReady, Cause::PrepareDeadline),
        "not ready: preparing took longer than its time limit; generation 1 still serves"
    );
    assert_eq!(
        reload(Outcome::RolledBack, Cause::WorkerDied),
        "rolled back: the worker died; generation 1 still serves"
    );
    assert_eq!(
        reload(Outcome::Rejected, Cause::ShuttingDown),
        "rejected: the server is shutting down; generation 1 still serves"
    );
    assert_eq!(
        reload(Outcome::Unknown, Cause::SupervisorDied),
        "unknown: the supervisor died meanwhile, so nobody can say how reload a-1 ended; 'handover status' says what serves"
    );
}

#[test]
fn a_validation_says_what_a_reload_would_do() {
    assert_eq!(
        ended(Kind::DryRun, Outcome::Unchanged, Cause::DryRun, |_| {}),
        "valid: a reload would change nothing; generation 1 serves"
    );
    assert_eq!(
        ended(Kind::DryRun, Outcome::Unchanged, Cause::DryRun, |operation| {
            operation.changes = vec![Change::new(What::Added, ChangeKind::Listener, "admin")];
        }),
        "valid: a reload would make this of it: 1 listener added (admin); generation 1 serves"
    );
}

#[test]
fn draining_and_stopping_say_what_was_cut() {
    let cut = |operation: &mut Operation| {
        operation.losses.add("websocket", 2);
        operation.losses.add("tcp", 1);
    };
    assert_eq!(
        ended(Kind::Stop, Outcome::AppliedWithLosses, Cause::DrainForced, cut),
        "applied with losses: stopped, 3 connections cut (1 tcp, 2 websocket), in 3.1 ms"
    );
    assert_eq!(
        ended(Kind::Stop, Outcome::Applied, Cause::Done, |_| {}),
        "applied: stopped, no connection cut, in 3.1 ms"
    );
    assert_eq!(
        ended(Kind::Drain, Outcome::Applied, Cause::Done, |_| {}),
        "applied: drained, no connection cut, in 3.1 ms; new connections wait, 'handover resume' serves them"
    );
    assert_eq!(
        ended(Kind::Resume, Outcome::Applied, Cause::Done, |_| {}),
        "applied: generation 1 serves again, in 3.1 ms"
    );
}

#[test]
fn a_start_says_whether_a_worker_was_adopted() {
    assert_eq!(
        ended(Kind::Start, Outcome::Applied, Cause::Done, |_| {}),
        "applied: generation 1 serves, started in 3.1 ms"
    );
    assert_eq!(
        ended(Kind::Start, Outcome::Applied, Cause::Adopted, |_| {}),
        "applied: adopted the worker that was running, generation 1 serves, in 3.1 ms"
    );
    assert_eq!(
        ended(Kind::Start, Outcome::Unchanged, Cause::Adopted, |_| {}),
        "unchanged: adopted the worker that was running, generation 1 serves, in 3.1 ms"
    );
}

#[test]
fn an_action_speaks_for_itself() {
    let action = |outcome, answer: Option<&str>| {
        ended(Kind::Action, outcome, Cause::ActionFailed, |operation| {
            operation.action = Some("reload_certs".to_owned());
            operation.answer = answer.map(str::to_owned);
        })
    };
    assert_eq!(action(Outcome::Applied, Some("Successfully reloaded cert")), "Successfully reloaded cert");
    assert_eq!(action(Outcome::Rejected, Some("could not reload cert: no")), "could not reload cert: no");
    assert_eq!(action(Outcome::Applied, None), "applied: action reload_certs in 3.1 ms");
    assert_eq!(action(Outcome::NotReady, None), "not ready: the action failed; generation 1 still serves");
}

#[test]
fn a_refusal_says_why_and_nothing_else() {
    let refused = |why: Refused| operation(Kind::Reload).refused(&why, Some(1)).message;
    assert_eq!(
        refused(Refused::Busy { running: "a-7".to_owned(), kind: Kind::Drain }),
        "busy: drain a-7 runs; wait for it with 'handover show a-7'"
    );
    assert_eq!(
        refused(Refused::Busy { running: "a-7".to_owned(), kind: Kind::ProgramRestart }),
        "busy: restart a-7 runs; wait for it with 'handover show a-7'"
    );
    assert_eq!(
        refused(Refused::Stale { expected: 4, serving: Some(5) }),
        "stale: generation 4 was expected, generation 5 serves"
    );
    assert_eq!(
        refused(Refused::NoSuchAction { name: "x".to_owned(), known: vec!["y".to_owned(), "z".to_owned()] }),
        "there is no action \"x\"; there are: y, z"
    );
}

#[test]
fn every_outcome_of_every_kind_has_a_sentence_that_begins_with_its_word() {
    let kinds = [
        Kind::Start,
        Kind::Reload,
        Kind::DryRun,
        Kind::Rollback,
        Kind::Restore,
        Kind::Upgrade,
        Kind::Confirm,
        Kind::Cancel,
        Kind::Drain,
        Kind::Resume,
        Kind::Stop,
    ];
    for kind in kinds {
        for outcome in Outcome::ALL {
            let sentence = ended(kind, outcome, Cause::Done, |_| {});
            let word = if (kind, outcome) == (Kind::DryRun, Outcome::Unchanged) {
                "valid".to_owned()
            } else if outcome == Outcome::Sent {
                "sent, not confirmed".to_owned()
            } else {
                outcome.as_str().replace('_', " ")
            };
            assert!(sentence.starts_with(&format!("{word}: ")), "{kind:?} {outcome}: {sentence}");
        }
    }
}

#[test]
fn a_report_shows_every_mistake_with_its_excerpt_and_none_twice() {
    let mut operation = operation(Kind::Reload);
    operation.errors = vec![Problem::new("only this")];
    operation.finish(Outcome::Rejected, Cause::Refused, 1.0);
    assert_eq!(operation.report(), "rejected: only this; generation 1 still serves");
    operation.errors[0].excerpt = Some("7 | mesage\n  | ^^^^^^\n".to_owned());
    operation.warnings = vec![Problem::new("odd").in_file("hello.toml")];
    assert_eq!(
        operation.report(),
        "rejected: only this; generation 1 still serves\n\nonly this\n7 | mesage\n  | ^^^^^^\n\nwarning: hello.toml: odd"
    );
}

#[test]
fn changes_are_grouped_counted_and_named() {
    let change = |what, kind, name: &str| Change::new(what, kind, name);
    assert_eq!(summarize_changes(&[]), "nothing changed");
    let mut changes = vec![
        change(What::Added, ChangeKind::Listener, "http"),
        change(What::Removed, ChangeKind::Route, "a"),
    ];
    changes.extend(["b", "c", "d", "e"].map(|name| change(What::Removed, ChangeKind::Route, name)));
    assert_eq!(summarize_changes(&changes), "1 listener added (http), 5 routes removed (a, b, c and 2 more)");
}

#[test]
fn losses_and_durations_read_well() {
    let mut losses = Losses::default();
    assert_eq!(losses.to_string(), "no connection cut");
    losses.add("tcp", 0);
    assert!(losses.is_empty());
    losses.add("tcp", 1);
    assert_eq!(losses.to_string(), "1 connection cut (1 tcp)");
    losses.merge(&losses.clone());
    assert_eq!(losses.to_string(), "2 connections cut (2 tcp)");
    for (ms, text) in [
        (0.0, "0.0 ms"),
        (0.44, "0.4 ms"),
        (99.94, "99.9 ms"),
        (99.96, "100 ms"),
        (999.4, "999 ms"),
        (1_234.5, "1.23 s"),
        (9_994.0, "9.99 s"),
        (12_345.0, "12.3 s"),
        (185_000.0, "3 min 5 s"),
        (f64::NAN, "0.0 ms"),
        (-1.0, "0.0 ms"),
    ] {
        assert_eq!(human_ms(ms), text);
    }
}
