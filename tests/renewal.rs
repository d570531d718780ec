//! Certificates renewed while everybody shakes hands: hazard 28, explicitly and watched, and reloads under load.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use handover_testkit::config::{everything_to, fixed, service, tls_listener};
use handover_testkit::faults::kill;
use handover_testkit::http::Connection;
use handover_testkit::origin::Origin;
use handover_testkit::{
    Authority, EndOnDrop, Handover, Handshakes, Pair, Port, SITE, Secure, Signal, TlsClient, Workspace,
    handover, pattern, text_at, until,
};
use serde_json::Value;

/// In which order the two files of a pair change.
#[derive(Debug, Clone, Copy)]
enum First {
    Certificate,
    Key,
}

impl First {
    fn write_one(self, pair: &Pair, server: &Secure) {
        match self {
            Self::Certificate => pair.write_certificate(&server.workspace, "site"),
            Self::Key => pair.write_key(&server.workspace, "site"),
        }
    }

    fn write_other(self, pair: &Pair, server: &Secure) {
        match self {
            Self::Certificate => Self::Key.write_one(pair, server),
            Self::Key => Self::Certificate.write_one(pair, server),
        }
    }
}

/// Hazard 28.
#[test]
fn a_pair_that_is_replaced_in_two_steps_is_never_served_by_halves_whoever_asks_for_the_reload() {
    let mut server = Secure::start(handover!(), "", &fixed("/", "x"));
    let handshakes = server.handshakes();
    let mut served = server.first.serial;
    for first in [First::Certificate, First::Key] {
        for words in [&["reload", "--certs"][..], &["reload"]] {
            let pair = server.another();
            first.write_one(&pair, &server);
            let output = server.handover.cli(words);
            assert_eq!(output.code, 10, "{first:?} first, {words:?}: {}", output.all());
            assert!(output.all().contains("site.key"), "{}", output.all());
            // The files stay like this for a while, and the reload is asked for again.
            handshakes.two_more();
            assert_eq!(server.handover.cli(words).code, 10);
            assert_eq!(handshakes.met().last, served);
            first.write_other(&pair, &server);
            handshakes.two_more();
            assert_eq!(handshakes.met().last, served, "nobody has asked yet");
            server.handover.cli(words).expect_code(0);
            assert_eq!(server.serial(), pair.serial);
            served = pair.serial;
        }
        // By a signal, whose outcome is in the history.
        let pair = server.another();
        first.write_one(&pair, &server);
        for expected in ["rejected", "applied"] {
            let mut events = server.handover.control.events();
            server.handover.signal(Signal::HUP);
            let done = events
                .wait_for("the end of the reload", |event| text_at(&event.data, "/kind") == "operation_done");
            assert_eq!(text_at(&done.data, "/operation/outcome"), expected);
            first.write_other(&pair, &server);
        }
        assert_eq!(server.serial(), pair.serial);
        served = pair.serial;
    }
    let met = handshakes.finish();
    met.expect_all_good();
    assert_eq!(met.serials.len(), 7, "each whole pair was met and nothing else: {met:?}");
}

/// Hazard 28, with nobody who asks: the half-changed pair is reported and tried again, never served.
#[test]
fn a_watched_pair_that_is_replaced_in_two_steps_is_served_once_it_is_whole() {
    let watch = "[watch]\nsettle = \"100ms\"\nretry = \"1s\"\n\n".to_owned();
    let server = Secure::start(handover!(), "", &(fixed("/", "x") + &watch));
    let handshakes = server.handshakes();
    let mut served = server.first.serial;
    for first in [First::Certificate, First::Key] {
        let pair = server.another();
        first.write_one(&pair, &server);
        let refused =
            server.handover.control.wait_for_operation("the half-changed pair is reported", |one| {
                text_at(one, "/actor/kind") == "watch"
                    && text_at(one, "/outcome") == "rejected"
                    && one["serving_generation"] == server.handover.control.generation()
            });
        assert!(refused.to_string().contains("site.key"), "{refused}");
        handshakes.two_more();
        assert_eq!(handshakes.met().last, served);
        first.write_other(&pair, &server);
        handshakes.wait_for(pair.serial);
        let applied = server.handover.control.wait_for_operation("the whole pair is reported", |one| {
            text_at(one, "/actor/kind") == "watch" && text_at(one, "/outcome") == "applied"
        });
        assert_eq!(text_at(&applied, "/kind"), "reload");
        served = pair.serial;
    }
    let met = handshakes.finish();
    met.expect_all_good();
    assert_eq!(met.serials.len(), 3, "{met:?}");
}

/// Hazard 28: what was read once is what serves, also by the next worker, whatever lies on the disk meanwhile.
#[test]
fn a_worker_that_dies_while_a_pair_is_half_changed_is_followed_by_one_that_serves_the_old_pair() {
    let server = Secure::start(handover!(), "", &fixed("/", "x"));
    let pair = server.another();
    pair.write_certificate(&server.workspace, "site");
    let worker = server.handover.worker();
    kill(worker);
    until("another worker serves", || {
        let status = server.handover.control.status();
        (status.pointer("/worker/pid").and_then(Value::as_u64)? != u64::from(worker)).then_some(())
    });
    assert_eq!(server.serial(), server.first.serial);
    pair.write_key(&server.workspace, "site");
    server.handover.cli(["reload", "--certs"]).expect_code(0);
    assert_eq!(server.serial(), pair.serial);
}

/// Hazards 28 and 29: a mounted secret is swapped as a whole, behind links, again and again.
#[test]
fn a_pair_behind_a_directory_symlink_is_renewed_by_each_swap_and_every_handshake_is_good() {
    let (workspace, port, authority) = (Workspace::new(), Port::claim(), Authority::new("CA"));
    let swap = |number: usize| {
        let (pair, name) = (authority.pair(&[SITE]), format!("..version_{number}"));
        pair.write(&workspace, &format!("{name}/site"));
        symlink(&name, workspace.path("..data_tmp")).unwrap();
        fs::rename(workspace.path("..data_tmp"), workspace.path("..data")).unwrap();
        if let Some(before) = number.checked_sub(1) {
            fs::remove_dir_all(workspace.path(format!("..version_{before}"))).unwrap();
        }
        pair.serial
    };
    let first = swap(0);
    for name in ["site.pem", "site.key"] {
        symlink(format!("..data/{name}"), workspace.path(name)).unwrap();
    }
    let text =
        tls_listener("secure", &port, &["site"], "") + &fixed("/", "x") + "[watch]\nsettle = \"100ms\"\n";
    let _server = Handover::of(handover!(), &workspace).config(text).start();
    let client = TlsClient::trusting(authority.pem(), SITE);
    let handshakes = Handshakes::start(client, port.address(), "/");
    handshakes.wait_for(first);
    for number in 1..=4 {
        handshakes.wait_for(swap(number));
    }
    let met = handshakes.finish();
    met.expect_all_good();
    assert_eq!(met.serials.len(), 5, "{met:?}");
}

/// Requests over kept connections until the end: how many were answered. Any failure is the test's.
fn keep_asking(server: &Secure, over: &AtomicBool, answered: &AtomicUsize) {
    let open = || -> Connection { server.client().connect(server.address()).connection };
    let mut kept = open();
    while !over.load(Ordering::Acquire) {
        let response = kept.try_get("/bytes/20000").expect("an answer on a kept connection");
        assert_eq!(response.body, pattern::bytes(20_000));
        answered.fetch_add(1, Ordering::AcqRel);
        if response.head.closes() {
            kept = open();
        }
    }
}

/// What the bench does at length, in short: nobody notices a hundred renewals, and each is served when it is answered.
#[test]
fn a_hundred_reloads_with_alternating_certificates_fail_no_handshake_and_no_request() {
    let origin = Origin::start("origin");
    let rest = service("origin", origin.address()) + &everything_to("origin");
    let server = Secure::start(handover!(), "", &rest);
    let pairs = [server.another(), server.first.clone()];
    let fresh: Vec<Handshakes> = (0..2).map(|_| server.handshakes()).collect();
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _end = EndOnDrop(&over);
        let kept: Vec<_> = (0..2).map(|_| scope.spawn(|| keep_asking(&server, &over, &answered))).collect();
        for (number, pair) in pairs.iter().cycle().take(100).enumerate() {
            pair.write(&server.workspace, "site");
            let path = if number % 2 == 0 { "/v1/reload" } else { "/v1/reload?certs" };
            let (status, operation) = server.handover.control.post(path, &[]);
            assert_eq!((status, text_at(&operation, "/outcome")), (200, "applied"), "{operation}");
            assert_eq!(server.serial(), pair.serial, "served when it is answered, reload {number}");
        }
        over.store(true, Ordering::Release);
        kept.into_iter().for_each(|client| client.join().expect("a client with all its answers"));
    });
    assert!(answered.load(Ordering::Acquire) > 100, "{answered:?} requests on kept connections");
    for client in fresh {
        let met = client.finish();
        met.expect_all_good();
        assert_eq!(met.serials.len(), 2, "{met:?}");
    }
}

/// A pair is changed beneath a reload again and again: whatever is read, what serves is a pair.
#[test]
fn reloads_while_the_files_change_all_the_time_serve_whole_pairs_only() {
    let server = Secure::start(handover!(), "", &fixed("/", "x"));
    let pairs = [server.another(), server.first.clone(), server.another()];
    let handshakes = server.handshakes();
    let over = AtomicBool::new(false);
    let outcomes = std::thread::scope(|scope| {
        let _end = EndOnDrop(&over);
        scope.spawn(|| {
            for pair in pairs.iter().cycle() {
                pair.write(&server.workspace, "site");
                if over.load(Ordering::Acquire) {
                    return;
                }
            }
        });
        let mut outcomes = std::collections::BTreeMap::<String, usize>::new();
        for _ in 0..200 {
            let (_, answer) = server.handover.control.post("/v1/reload?certs", &[]);
            let operation = handover_testkit::operation_of(&answer);
            let outcome = text_at(operation, "/outcome").to_owned();
            assert!(["applied", "unchanged", "rejected"].contains(&outcome.as_str()), "{answer}");
            *outcomes.entry(outcome).or_default() += 1;
        }
        outcomes
    });
    assert!(outcomes.contains_key("applied"), "{outcomes:?}");
    let last = server.another();
    last.write(&server.workspace, "site");
    server.handover.cli(["reload", "--certs"]).expect_code(0);
    assert_eq!(server.serial(), last.serial);
    handshakes.finish().expect_all_good();
}
