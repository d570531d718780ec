//! A guard that needs nobody: the new generation is watched at first, and what fares worse than before is taken back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use handover_testkit::config::{everything_to, fixed, service};
use handover_testkit::faults::kill;
use handover_testkit::http::Connection;
use handover_testkit::origin::{Origin, Then};
use handover_testkit::{EndOnDrop, Gate, Output, Port, Secure, Serving, TlsClient, handover, text_at, until};
use serde_json::Value;

/// An origin that answers everything with this status.
fn answering(status: &'static str) -> Origin {
    Origin::with(move |_, answer| answer.whole(status, &[], b"").map(|_| Then::Next))
}

fn to(origin: SocketAddr) -> String {
    service("origin", origin) + &everything_to("origin")
}

/// Asks again and again while `work` is done. How the requests fare is the guard's business.
fn under_load<T>(ask: impl Fn() + Sync, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    let asked = Gate::shut();
    thread::scope(|scope| {
        let _end = EndOnDrop(&over);
        for _ in 0..2 {
            scope.spawn(|| {
                for number in 0.. {
                    ask();
                    if number == 50 {
                        asked.open();
                    }
                    if over.load(Ordering::Acquire) {
                        return;
                    }
                }
            });
        }
        // There must be something to compare with.
        asked.pass();
        work()
    })
}

fn ask(address: SocketAddr) {
    let _ = Connection::try_open(address).and_then(|mut connection| connection.try_get("/"));
}

/// What a guarded change that is taken back looks like, whatever the reason.
#[track_caller]
fn expect_taken_back(output: &Output, server: &Serving, figures: &[&str]) {
    output.expect_code(12);
    let said = output.all();
    for words in figures.iter().chain(&["rolled back", "generation 1"]) {
        assert!(said.contains(words), "{words:?} is missing:\n{said}");
    }
    let newest = &server.handover.control.history()[0];
    assert_eq!(
        (text_at(newest, "/outcome"), text_at(newest, "/cause")),
        ("rolled_back", "guard_failed"),
        "{newest}"
    );
    assert_eq!(newest["undone"], 2, "{newest}");
    assert_eq!(server.handover.control.generation(), 1);
}

#[test]
fn a_generation_that_answers_with_5xx_is_taken_back_with_the_figures() {
    let (good, bad) = (answering("200 OK"), answering("500 Broken"));
    let server = Serving::start(handover!(), &to(good.address()));
    server.write(&to(bad.address()));
    let output = under_load(|| ask(server.address()), || server.handover.cli(["reload", "--guard=30s"]));
    expect_taken_back(&output, &server, &["5xx", "%"]);
    assert_eq!(server.get("/").status(), 200);
    // Taken back is not wedged: the next one is another matter.
    server.reload(&fixed("/", "next")).expect_code(0);
}

#[test]
fn a_generation_whose_endpoints_refuse_connections_is_taken_back() {
    let (good, nobody) = (answering("200 OK"), Port::claim());
    let server = Serving::start(handover!(), &to(good.address()));
    server.write(&to(nobody.address()));
    let output = under_load(|| ask(server.address()), || server.handover.cli(["reload", "--guard=30s"]));
    expect_taken_back(&output, &server, &["%"]);
    assert_eq!(server.get("/").status(), 200);
}

#[test]
fn a_generation_that_fails_handshakes_is_taken_back() {
    let server = Secure::start(handover!(), "", &fixed("/", "x"));
    let client: TlsClient = server.client().only_tls12();
    server.handover.write_config(server.config("minimum_version = \"1.3\"", &fixed("/", "x")));
    let output = under_load(
        || drop(client.try_get(server.address(), "/")),
        || server.handover.cli(["reload", "--guard=30s"]),
    );
    output.expect_code(12);
    assert!(output.all().contains("handshake"), "{}", output.all());
    assert_eq!(client.connect(server.address()).served.version, "1.2");
}

#[test]
fn a_generation_that_fares_well_passes_and_so_does_one_that_nobody_asks() {
    let (one, two) = (answering("200 OK"), answering("200 OK"));
    let server = Serving::start(handover!(), &to(one.address()));
    server.write(&to(two.address()));
    let output = under_load(|| ask(server.address()), || server.handover.cli(["reload", "--guard=1s"]));
    output.expect_code(0).says("applied");
    let guarded = &server.handover.control.history()[0];
    assert!(
        guarded["steps"].as_array().unwrap().iter().any(|step| text_at(step, "/name") == "guard"),
        "{guarded}"
    );
    assert!(!text_at(guarded, "/guard").is_empty(), "what the guard saw: {guarded}");
    assert!(!two.requests().is_empty());

    server.write(&fixed("/", "quiet"));
    server.handover.cli(["reload", "--guard=1s"]).expect_code(0);
    assert_eq!(server.text("/"), "quiet");
}

/// What was bad before is not the new generation's fault.
#[test]
fn a_generation_that_is_no_worse_than_the_one_before_passes() {
    let (bad, as_bad) = (answering("503 Busy"), answering("503 Busy"));
    let server = Serving::start(handover!(), &to(bad.address()));
    server.write(&to(as_bad.address()));
    let output = under_load(|| ask(server.address()), || server.handover.cli(["reload", "--guard=2s"]));
    output.expect_code(0).says("applied");
}

#[test]
fn a_guard_in_the_configuration_watches_every_change_unless_it_is_left_out() {
    let (good, bad) = (answering("200 OK"), answering("502 Broken"));
    let guard = "[guard]\nwatch = \"30s\"\n\n";
    let server = Serving::start(handover!(), &(to(good.address()) + guard));
    server.write(&(to(bad.address()) + guard));
    let output = under_load(|| ask(server.address()), || server.handover.cli(["reload"]));
    expect_taken_back(&output, &server, &["5xx"]);
    let output = under_load(|| ask(server.address()), || server.handover.cli(["reload", "--no-guard"]));
    output.expect_code(0);
    assert_eq!(server.get("/").status(), 502);
    // A rollback is a change like any other.
    under_load(|| ask(server.address()), || server.handover.cli(["rollback", "--no-guard"])).expect_code(0);
    assert_eq!(server.get("/").status(), 200);
}

/// Waits until the guard watches, and gives the operation's ID.
fn wait_until_guarded(server: &Serving) -> String {
    until("the guard watches", || {
        let status = server.handover.control.status();
        let serving = status.pointer("/generation/number").and_then(Value::as_u64)? > 1;
        serving.then(|| text_at(&status, "/running/id").to_owned()).filter(|id| !id.is_empty())
    })
}

#[test]
fn confirm_ends_the_watch_and_cancel_takes_the_change_back() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    for (word, code, outcome, text) in
        [("cancel", 12, "rolled_back", "old"), ("confirm", 0, "applied", "new")]
    {
        server.write(&fixed("/", "new"));
        let mut asked = server.handover.control.begin("/v1/reload?guard=10m", &[]);
        let id = wait_until_guarded(&server);
        assert_eq!(server.text("/"), "new", "it serves while it is watched");
        let output = server.handover.cli(["reload"]);
        assert_eq!(output.code, 13, "{}", output.all());
        assert!(output.all().contains(&id), "{}", output.all());
        server.handover.cli([word]).expect_code(0);
        let answer: Value = serde_json::from_slice(&asked.response("POST").body).unwrap();
        let operation = handover_testkit::operation_of(&answer);
        assert_eq!(text_at(operation, "/outcome"), outcome, "{answer}");
        assert_eq!(server.handover.cli(["show", &id]).code, code);
        assert_eq!(server.text("/"), text);
    }
}

#[test]
fn a_worker_that_dies_while_it_is_watched_takes_its_generation_with_it() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    server.write(&fixed("/", "new"));
    let mut asked = server.handover.control.begin("/v1/reload?guard=10m", &[]);
    wait_until_guarded(&server);
    kill(server.handover.worker());
    let answer: Value = serde_json::from_slice(&asked.response("POST").body).unwrap();
    assert_eq!(text_at(handover_testkit::operation_of(&answer), "/outcome"), "rolled_back", "{answer}");
    until("the old generation serves again", || (server.handover.control.generation() == 1).then_some(()));
    assert_eq!(server.text("/"), "old");
}

/// Guarded first, and then it waits to be confirmed.
#[test]
fn a_guarded_change_can_await_confirmation_as_well() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    server.write(&fixed("/", "new"));
    server.handover.cli(["reload", "--guard=1s", "--confirm-within", "10m"]).expect_code(0);
    assert_eq!(server.handover.control.status()["pending"]["back_to"], 1);
    server.handover.cli(["cancel"]).expect_code(0);
    assert_eq!(server.text("/"), "old");
}
