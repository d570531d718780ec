//! The command line as it is typed.

use std::path::Path;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};

use super::{Arguments, Format, GoBackTo, Verb};

fn parse(line: &str) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(std::iter::once("handover").chain(line.split_whitespace()))
}

#[test]
fn the_definition_contradicts_itself_nowhere() {
    Arguments::command().debug_assert();
}

#[test]
fn options_of_all_verbs_may_stand_before_or_after_the_verb() {
    for line in ["--control /x.sock -o json status", "status --control /x.sock --output json"] {
        let arguments = parse(line).unwrap();
        assert_eq!(arguments.common.control.as_deref(), Some(Path::new("/x.sock")), "{line}");
        assert_eq!(arguments.common.output, Format::Json, "{line}");
    }
}

#[test]
fn an_operation_takes_all_that_the_api_takes() {
    let line = "reload --dry-run --timeout 1.5s --if-match 7 --comment why --idempotency-key k-1";
    let Verb::Reload(reload) = parse(line).unwrap().verb else { panic!() };
    assert!(reload.dry_run);
    assert_eq!(reload.operate.timeout, Some(Duration::from_millis(1_500)));
    assert_eq!(reload.operate.if_match, Some(7));
    assert_eq!(reload.operate.comment.as_deref(), Some("why"));
    assert_eq!(reload.operate.idempotency_key.as_deref(), Some("k-1"));
}

#[test]
fn a_guard_has_a_time_or_not_and_a_number_after_it_is_no_time() {
    let guard = |line: &str| match parse(line).unwrap().verb {
        Verb::Reload(reload) => (reload.terms.guard, None),
        Verb::Rollback(rollback) => (rollback.terms.guard, rollback.to),
        _ => panic!("{line}"),
    };
    assert_eq!(guard("reload"), (None, None));
    assert_eq!(guard("reload --guard"), (Some(None), None));
    assert_eq!(guard("reload --guard=30s"), (Some(Some(Duration::from_secs(30))), None));
    assert_eq!(guard("rollback --guard 3"), (Some(None), Some(GoBackTo::Generation(3))));
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    for line in [
        "",
        "relaod",
        "reload web --dry-run",
        "reload web --confirm-within 1m",
        "reload --detach --timeout 1s",
        "reload --timeout soon",
        "reload --if-match latest",
        "reload --dry-run --confirm-within 1s",
        "reload --guard 10s",
        "reload --guard --no-guard",
        "reload --confirm-within 0",
        "rollback 99999999999999999999",
        "restart",
        "restart web --batch 0",
        "deploy",
        "deploy web --slot a --directory /b",
        "deploy web --guard 10s",
        "deploy web --no-guard",
        "pause",
        "pause web --for 0s",
        "enable",
        "start",
        "stop web --now",
        "logs",
        "logs web -n many",
        "ps web",
        "rollback 3 --binary",
        "upgrade /usr/bin/handover",
        "upgrade --sha256 1a2b",
        "upgrade --dry-run --confirm-within 1m",
        "upgrade --binary",
        "upgrade --detach --timeout 1s",
        "restore a --into b --write",
        "restore a --force",
        "restore",
        "backup",
        "backup a --passphrase secret",
        "backup a --passphrase-file f",
        "restore a --write --confirm-within 1m",
        "restore a --write --detach",
        "stop --now --limit 1s",
        "serve --threads 0",
        "serve --generation first",
        "serve a.toml --config b.toml",
        "status -o yaml",
        "show",
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn every_verb_says_what_it_does_and_no_line_of_help_is_too_long() {
    for verb in Arguments::command().get_subcommands_mut() {
        assert!(verb.get_about().is_some(), "{}", verb.get_name());
        for line in verb.render_long_help().to_string().lines() {
            assert!(line.chars().count() <= 110, "{}: {line}", verb.get_name());
        }
    }
}
