//! Going back to a generation that served before, whatever became of its files; diff; and the one rule for the next start.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use handover_testkit::config::{fixed, from_file, listener, tls_listener};
use handover_testkit::faults::kill;
use handover_testkit::{
    Authority, Handover, Port, SITE, Serving, TlsClient, Workspace, handover, http, text_at, until,
};
use serde_json::Value;

/// The very bytes: configuration, body, certificate and key, all overwritten or deleted since.
#[test]
fn a_rollback_serves_the_bytes_of_that_generation_though_its_files_were_overwritten_and_deleted() {
    let (workspace, port, authority) = (Workspace::new(), Port::claim(), Authority::new("CA"));
    let first = authority.pair(&[SITE]);
    first.write(&workspace, "old");
    workspace.write("body.txt", "the first body");
    let config = |pair: &str, body: &str| {
        tls_listener("secure", &port, &[pair], "") + &fixed("/", body) + &from_file("/body", "body.txt")
    };
    let server = Handover::of(handover!(), &workspace).config(config("old", "one")).start();
    let second = authority.pair(&[SITE]);
    second.write(&workspace, "new");
    workspace.write("body.txt", "the second body");
    server.reload_with(config("new", "two")).expect_code(0);
    for name in ["old.pem", "old.key", "body.txt"] {
        workspace.remove(name);
    }
    workspace.write("handover.toml", "[nonsense]\n");

    let client = TlsClient::trusting(authority.pem(), SITE);
    let get = |path: &str| client.get(port.address(), path).1.text();
    let output = server.cli(["rollback", "1", "--comment", "the new one is wrong"]);
    output.expect_code(0).says("applied").says("generation 1");
    assert_eq!((get("/"), get("/body")), ("one".to_owned(), "the first body".to_owned()));
    assert_eq!(client.serial(port.address()), first.serial);
    let status = server.control.status();
    assert_eq!((server.control.generation(), status["rollback_in_force"].as_u64()), (1, Some(1)), "{status}");
    server.cli(["status"]).expect_code(0).says("rollback");
    server.cli(["diff"]).expect_code(1).says("generation 1").says("gone back to");
    assert_eq!(text_at(&server.control.history()[0], "/comment"), "the new one is wrong");

    // And forward again, to the newest: that too is a generation that served.
    server.cli(["rollback", "2"]).expect_code(0);
    assert_eq!((get("/"), get("/body")), ("two".to_owned(), "the second body".to_owned()));
    assert_eq!(client.serial(port.address()), second.serial);
}

#[test]
fn a_rollback_without_a_number_goes_to_the_one_before_and_again_forth() {
    let server = Serving::start(handover!(), &fixed("/", "1"));
    for number in 2..=3 {
        server.reload(&fixed("/", number)).expect_code(0);
    }
    server.handover.cli(["rollback"]).expect_code(0).says("generation 2");
    assert_eq!(server.text("/"), "2");
    server.handover.cli(["rollback", "2"]).expect_code(0).says("unchanged");
    // The next reload takes the file, which still says 3, and a rollback is no longer in force.
    server.handover.cli(["reload"]).expect_code(0);
    assert_eq!(server.text("/"), "3");
    assert_eq!(server.handover.control.status()["rollback_in_force"], Value::Null);
    server.handover.cli(["diff"]).expect_code(0);
}

#[test]
fn a_generation_that_is_not_kept_is_refused_by_number_and_those_kept_are_named() {
    let control = "[control]\ngenerations = 3\n\n";
    let server = Serving::start(handover!(), &(fixed("/", "1") + control));
    let output = server.handover.cli(["rollback"]);
    assert_ne!(output.code, 0, "there was nothing before: {}", output.all());
    for number in 2..=6 {
        server.reload(&(fixed("/", number) + control)).expect_code(0);
    }
    for number in ["1", "99"] {
        let output = server.handover.cli(["rollback", number]);
        assert_ne!(output.code, 0, "{}", output.all());
        for kept in ["4", "5", "6"] {
            assert!(output.all().contains(kept), "{kept} is kept: {}", output.all());
        }
    }
    assert_eq!(server.text("/"), "6");
    server.handover.cli(["rollback", "4"]).expect_code(0);
    assert_eq!(server.text("/"), "4");
    // What serves is kept, however old it becomes: the worker after one that dies needs it.
    let worker = server.handover.worker();
    kill(worker);
    until("another worker serves", || {
        let status = server.handover.control.status();
        (status.pointer("/worker/pid").and_then(Value::as_u64)? != u64::from(worker)).then_some(())
    });
    assert_eq!(server.text("/"), "4");
}

#[test]
fn diff_says_0_for_the_same_and_1_for_different_and_what_a_reload_or_a_rollback_would_change() {
    let server = Serving::start(handover!(), &fixed("/", "1"));
    server.handover.cli(["diff"]).expect_code(0);
    let other = Port::claim();
    let rest = listener("other", &other) + &fixed("/", "2") + &fixed("/more", "x");
    server.write(&rest);
    let output = server.handover.cli(["diff"]);
    output.expect_code(1).says("other").says("/more");
    // As text too.
    output.says("+fixed = \"2\"").says("-fixed = \"1\"");
    server.handover.cli(["reload"]).expect_code(0);
    server.handover.cli(["diff"]).expect_code(0);
    let back = server.handover.cli(["diff", "--against", "1"]);
    back.expect_code(1).says("other");
    server.handover.cli(["diff", "--against", "2"]).expect_code(0);
    assert!(![0, 1].contains(&server.handover.cli(["diff", "--against", "99"]).code));
    // What would be refused is said, and it differs all the same.
    server.write("[nonsense]\n");
    server.handover.cli(["diff"]).expect_code(1).says("nonsense");
}

fn start_again(server: Serving, arguments: &[&str]) -> (Serving, String) {
    let Serving { mut handover, port, workspace } = server;
    handover.terminate().expect_code(0);
    drop(handover);
    let next = Handover::of(handover!(), &workspace)
        .config_file("handover.toml")
        .arguments(arguments.iter().copied());
    let handover = next.start();
    let said = handover.process.stdout() + &handover.process.stderr();
    (Serving { handover, port, workspace }, said)
}

/// Hazard 32: one rule. The file on disk is what is desired; a start that leaves a rollback behind says so.
#[test]
fn the_next_start_serves_the_file_and_says_so_and_the_journal_only_when_told_to() {
    let server = Serving::start(handover!(), &fixed("/", "1"));
    server.reload(&fixed("/", "2")).expect_code(0);
    server.handover.cli(["rollback", "1"]).expect_code(0);

    let (server, said) = start_again(server, &["--generation", "last"]);
    assert_eq!((server.text("/").as_str(), server.handover.control.generation()), ("1", 1), "{said}");
    assert!(said.contains("generation 1"), "{said}");
    server.handover.cli(["diff"]).expect_code(1);

    let (server, said) = start_again(server, &["--generation", "2"]);
    assert_eq!((server.text("/").as_str(), server.handover.control.generation()), ("2", 2), "{said}");
    server.handover.cli(["rollback", "1"]).expect_code(0);

    let (server, said) = start_again(server, &[]);
    assert_eq!(server.text("/"), "2", "the file is desired");
    assert!(
        said.contains("rollback") || said.contains("--generation last"),
        "that a rollback ends is said:\n{said}"
    );
    server.handover.cli(["diff"]).expect_code(0);

    let Serving { handover, port: _port, workspace } = server;
    drop(handover);
    let next =
        Handover::of(handover!(), &workspace).config_file("handover.toml").arguments(["--generation", "99"]);
    let output = next.try_start().expect_err("no such generation");
    assert_ne!(output.code, 0);
    assert!(output.all().contains("99"), "{}", output.all());
}

/// Hazard 32, by a power cut instead of a stop.
#[test]
fn after_a_crash_during_a_rollback_in_force_the_same_rule_holds() {
    let server = Serving::start(handover!(), &fixed("/", "1"));
    server.reload(&fixed("/", "2")).expect_code(0);
    server.handover.cli(["rollback", "1"]).expect_code(0);
    let Serving { handover, port, workspace } = server;
    handover.crash();
    let next = Handover::of(handover!(), &workspace).config_file("handover.toml").start();
    assert_eq!(http::get(port.address(), "/").text(), "2");
    let said = next.process.stdout() + &next.process.stderr();
    assert!(said.contains("rollback") || said.contains("--generation last"), "{said}");
    // The rolled-back generation is there still.
    next.cli(["rollback", "1"]).expect_code(0);
    assert_eq!(http::get(port.address(), "/").text(), "1");
}

#[test]
fn a_rollback_can_await_confirmation_and_goes_back_forward() {
    let server = Serving::start(handover!(), &fixed("/", "1"));
    server.reload(&fixed("/", "2")).expect_code(0);
    server.handover.cli(["rollback", "--confirm-within", "10m"]).expect_code(0);
    assert_eq!(server.text("/"), "1");
    server.handover.cli(["cancel"]).expect_code(0);
    assert_eq!((server.text("/").as_str(), server.handover.control.generation()), ("2", 2));
    server.handover.cli(["diff"]).expect_code(0);
}
