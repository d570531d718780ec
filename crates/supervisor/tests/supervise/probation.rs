//! Changes that go back by themselves unless they are confirmed, and changes that are guarded.

use std::net::TcpStream;

use handover_testkit::{DEADLINE, Workspace, signal, until, wait_for_exit};
use rustix::process::Signal;
use serde_json::Value;

use crate::server::{Server, another_worker, ask, configure, try_ask};

crate::tests! {
    a_change_that_is_confirmed_in_time_stays
    a_change_that_is_not_confirmed_goes_back_by_itself
    a_change_that_is_cancelled_goes_back_at_once
    the_deadline_is_moved_by_asking_again
    other_changes_are_refused_while_one_awaits_confirmation_and_it_is_named
    a_pending_change_outlives_its_supervisor_and_still_goes_back
    an_adopted_change_can_be_confirmed
    a_change_whose_time_ran_out_while_nobody_lived_is_not_used
    a_start_in_time_goes_on_waiting_for_confirmation
    something_new_on_the_disk_is_not_the_change_that_was_not_confirmed
    a_worker_that_dies_while_its_generation_is_pending_is_replaced_with_it
    a_change_whose_worker_has_just_died_is_confirmed_by_its_number
    a_signals_reload_that_waited_in_vain_ends_as_what_it_began_as
    a_removed_listener_refuses_while_pending_and_comes_back_on_cancel
    a_removed_listener_comes_back_after_the_supervisor_was_killed
    a_removed_listener_comes_back_after_the_supervisor_was_killed_during_the_commit
    a_guard_that_passes_lets_the_change_stay
    a_guard_that_fails_takes_the_change_back_with_its_figures
    a_worker_that_dies_under_guard_takes_the_change_back
    somebody_may_decide_before_the_guard_does
    the_configuration_can_guard_every_change
}

const WEB: &str = "listen web 127.0.0.1:0";

fn kill(server: &mut Server) {
    server.process.signal(Signal::KILL);
    assert_eq!(server.process.wait().code, 128 + 9);
}

/// Serves `one` as generation 1, then `two` as generation 2 for this long.
fn pending(workspace: &Workspace, within: &str) -> Server {
    let server = Server::start(workspace, &[WEB, "body one"]);
    configure(workspace, &[WEB, "body two"]);
    let (status, operation) = server.control.post(&format!("/v1/reload?confirm_within={within}"), &[]);
    assert_eq!((status, &operation["outcome"]), (200, &"applied".into()), "{operation}");
    assert_eq!(operation["goes_back"]["to"], 1, "{operation}");
    server
}

fn shown(server: &Server) -> Value {
    server.control.status()["pending"].clone()
}

/// Waits for the operation with which the supervisor goes back.
fn wait_until_it_went_back(server: &Server) -> Value {
    server.control.wait_for_operation("it goes back", |operation| {
        operation["actor"]["kind"] == "supervisor" && operation["cause"] == "not_confirmed"
    })
}

fn a_change_that_is_confirmed_in_time_stays() {
    let workspace = Workspace::new();
    let server = pending(&workspace, "1h");
    let pending = shown(&server);
    assert_eq!((&pending["generation"], &pending["back_to"]), (&2.into(), &1.into()), "{pending}");
    assert!(pending["left_ms"].as_u64().is_some_and(|left| left > 3_500_000 && left <= 3_600_000));
    let metrics = server.control.ask("GET", "/metrics", &[], "").text();
    assert!(
        metrics.contains("handover_pending_change 1") && metrics.contains("handover_generation_confirmed 1")
    );
    let (status, operation) = server.control.post("/v1/confirm", &[]);
    assert_eq!((status, &operation["outcome"]), (200, &"applied".into()), "{operation}");
    assert_eq!((shown(&server), ask(server.address("web"))), (Value::Null, "2 two".to_owned()));
    let (status, problem) = server.control.post("/v1/confirm", &[]);
    assert_eq!((status, &problem["type"]), (409, &"nothing_pending".into()), "{problem}");
    let metrics = server.control.ask("GET", "/metrics", &[], "").text();
    assert!(
        metrics.contains("handover_pending_change 0") && metrics.contains("handover_generation_confirmed 2")
    );
}

fn a_change_that_is_not_confirmed_goes_back_by_itself() {
    let workspace = Workspace::new();
    let server = pending(&workspace, "300ms");
    let (address, worker) = (server.address("web"), server.control.worker());
    let back = wait_until_it_went_back(&server);
    assert_eq!((&back["outcome"], &back["kind"]), (&"rolled_back".into(), &"rollback".into()), "{back}");
    assert_eq!((&back["undone"], &back["serving_generation"]), (&2.into(), &1.into()), "{back}");
    assert_eq!((ask(address), server.control.worker()), ("1 one".to_owned(), worker));
    assert_eq!(shown(&server), Value::Null);
    let status = server.control.status();
    assert_eq!(status["rollback_in_force"], 1, "the disk has the other: {status}");
    // The next reload serves what is on the disk.
    assert_eq!(server.control.post("/v1/reload", &[]).1["generation"], 3);
    assert_eq!(server.control.status()["rollback_in_force"], Value::Null);
}

fn a_change_that_is_cancelled_goes_back_at_once() {
    let workspace = Workspace::new();
    let server = pending(&workspace, "1h");
    let (status, operation) = server.control.post("/v1/cancel", &[]);
    assert_eq!((status, &operation["outcome"]), (200, &"applied".into()), "{operation}");
    assert_eq!((&operation["kind"], &operation["undone"]), (&"cancel".into(), &2.into()), "{operation}");
    assert_eq!((ask(server.address("web")), shown(&server)), ("1 one".to_owned(), Value::Null));
    assert_eq!(server.control.post("/v1/cancel", &[]).0, 409);
    assert_eq!(server.control.generation(), 1);
}

fn the_deadline_is_moved_by_asking_again() {
    let workspace = Workspace::new();
    let server = pending(&workspace, "1h");
    let before = shown(&server);
    let (status, operation) = server.control.post("/v1/reload?confirm_within=2h", &[]);
    assert_eq!((status, &operation["outcome"]), (200, &"unchanged".into()), "{operation}");
    assert_eq!(operation["cause"], "extended", "{operation}");
    let after = shown(&server);
    assert!(after["left_ms"].as_u64() > before["left_ms"].as_u64(), "{before} {after}");
    assert_eq!(after["operation_id"], before["operation_id"]);
    // But not if the disk has something else by now.
    configure(&workspace, &[WEB, "body three"]);
    let (status, problem) = server.control.post("/v1/reload?confirm_within=3h", &[]);
    assert_ne!(status, 200, "{problem}");
    assert_eq!(ask(server.address("web")), "2 two");
    // And it can be made short.
    configure(&workspace, &[WEB, "body two"]);
    assert_eq!(server.control.post("/v1/reload?confirm_within=200ms", &[]).0, 200);
    wait_until_it_went_back(&server);
    assert_eq!(ask(server.address("web")), "1 one");
}

fn other_changes_are_refused_while_one_awaits_confirmation_and_it_is_named() {
    let workspace = Workspace::new();
    let server = pending(&workspace, "1h");
    let made_by = shown(&server)["operation_id"].as_str().unwrap().to_owned();
    for path in ["/v1/reload", "/v1/rollback", "/v1/rollback?to=1", "/v1/actions/echo"] {
        let (status, problem) = server.control.post(path, &[]);
        assert_eq!((status, &problem["type"]), (409, &"pending".into()), "{path}: {problem}");
        assert_eq!(problem["operation_id"], made_by.as_str(), "{problem}");
    }
    // What changes nothing is not refused.
    assert_eq!(server.control.post("/v1/validate", &[]).0, 200);
    assert_eq!(server.control.post("/v1/drain", &[]).0, 200);
    assert_eq!(server.control.post("/v1/resume", &[]).0, 200);
    assert_eq!(
        (ask(server.address("web")), shown(&server)["generation"].clone()),
        ("2 two".into(), 2.into())
    );
}

fn a_pending_change_outlives_its_supervisor_and_still_goes_back() {
    let workspace = Workspace::new();
    let mut first = pending(&workspace, "3s");
    let (address, worker) = (first.address("web"), first.control.worker());
    kill(&mut first);
    assert_eq!(ask(address), "2 two");
    let second = Server::start_again(&workspace);
    assert_eq!(second.control.worker(), worker);
    let back = wait_until_it_went_back(&second);
    assert_eq!((&back["outcome"], &back["undone"]), (&"rolled_back".into(), &2.into()), "{back}");
    assert_eq!((ask(address), second.control.worker()), ("1 one".to_owned(), worker));
}

fn an_adopted_change_can_be_confirmed() {
    let workspace = Workspace::new();
    let mut first = pending(&workspace, "1h");
    let made_by = shown(&first)["operation_id"].clone();
    kill(&mut first);
    let mut second = Server::start_again(&workspace);
    let adopted = shown(&second);
    assert_eq!((&adopted["operation_id"], &adopted["back_to"]), (&made_by, &1.into()), "{adopted}");
    assert_eq!(adopted["actor"]["kind"], "peer", "whoever made it: {adopted}");
    assert_eq!(second.control.post("/v1/confirm", &[]).0, 200);
    // It is confirmed for the one after that too.
    kill(&mut second);
    let third = Server::start_again(&workspace);
    assert_eq!((shown(&third), ask(third.address("web"))), (Value::Null, "2 two".to_owned()));
}

/// Kills supervisor and worker, so that nobody goes back in time.
fn kill_both(server: &mut Server) {
    let worker = server.control.worker();
    kill(server);
    signal(worker, Signal::KILL);
    assert!(wait_for_exit(worker, DEADLINE));
}

/// Waits until this time (RFC 3339) is over by the wall clock.
pub fn wait_until_it_is_over(pending: &Value) {
    let over: jiff::Timestamp = pending["until"].as_str().unwrap().parse().unwrap();
    until("the deadline is over", || (jiff::Timestamp::now() > over).then_some(()));
}

fn a_change_whose_time_ran_out_while_nobody_lived_is_not_used() {
    let workspace = Workspace::new();
    let mut first = pending(&workspace, "4s");
    let pending = shown(&first);
    kill_both(&mut first);
    wait_until_it_is_over(&pending);
    let mut second = Server::start_again(&workspace);
    assert!(ask(second.address("web")).ends_with(" one"), "{}", ask(second.address("web")));
    let status = second.control.status();
    assert_eq!(status["last"]["cause"], "not_confirmed", "{status}");
    assert_eq!(
        (&status["last"]["kind"], &status["last"]["undone"]),
        (&"start".into(), &2.into()),
        "{status}"
    );
    assert_eq!((&status["rollback_in_force"], &status["pending"]), (&1.into(), &Value::Null), "{status}");
    let output = second.terminate();
    output.expect_code(0);
    assert!(output.stdout.contains("confirmed"), "the banner says it: {}", output.stdout);
}

fn a_start_in_time_goes_on_waiting_for_confirmation() {
    let workspace = Workspace::new();
    let mut first = pending(&workspace, "1h");
    kill_both(&mut first);
    let second = Server::start_again(&workspace);
    assert!(ask(second.address("web")).ends_with(" two"));
    let pending = shown(&second);
    assert_eq!(pending["back_to"], 1, "{pending}");
    let (status, operation) = second.control.post("/v1/cancel", &[]);
    assert_eq!(status, 200, "{operation}");
    assert!(ask(second.address("web")).ends_with(" one"));
}

fn something_new_on_the_disk_is_not_the_change_that_was_not_confirmed() {
    let workspace = Workspace::new();
    let mut first = pending(&workspace, "1h");
    kill_both(&mut first);
    configure(&workspace, &[WEB, "body three"]);
    let second = Server::start_again(&workspace);
    assert!(ask(second.address("web")).ends_with(" three"));
    assert_eq!(shown(&second), Value::Null);
}

fn a_worker_that_dies_while_its_generation_is_pending_is_replaced_with_it() {
    let workspace = Workspace::new();
    let server = pending(&workspace, "1h");
    let (address, worker) = (server.address("web"), server.control.worker());
    signal(worker, Signal::KILL);
    assert!(wait_for_exit(worker, DEADLINE));
    assert_eq!(ask(address), "2 two");
    another_worker(&server, worker);
    assert_eq!(shown(&server)["generation"], 2);
    assert_eq!(server.control.post("/v1/cancel", &[]).0, 200);
    assert_eq!(ask(address), "1 one");
}

fn a_change_whose_worker_has_just_died_is_confirmed_by_its_number() {
    let workspace = Workspace::new();
    let server = pending(&workspace, "1h");
    let worker = server.control.worker();
    signal(worker, Signal::KILL);
    // Whether the next worker serves already or not.
    let (status, operation) = server.control.post("/v1/confirm", &[]);
    assert_eq!((status, &operation["generation"]), (200, &2.into()), "{operation}");
    let message = operation["message"].as_str().unwrap();
    assert!(message.starts_with("applied: generation 2 is confirmed and stays"), "{message}");
}

fn a_signals_reload_that_waited_in_vain_ends_as_what_it_began_as() {
    let workspace = Workspace::new();
    let mut server = pending(&workspace, "1h");
    server.process.signal(Signal::HUP);
    let by_signal = |operation: &Value| operation["actor"]["kind"] == "signal";
    let waits = || server.control.history().into_iter().find(by_signal);
    let id = until("the signal's reload waits", || waits()?["id"].as_str().map(ToOwned::to_owned));
    assert_eq!(server.control.post("/v1/cancel", &[]).1["outcome"], "applied");
    let ended = server
        .control
        .wait_for_operation("it was refused", |one| by_signal(one) && one["refused"] == "taken_back");
    assert_eq!(ended["id"], id.as_str(), "{ended}");
    // It can be looked at, as everything that the history names; and nothing is left of it for the next supervisor.
    assert_eq!(server.control.get(&format!("/v1/operations/{id}"))["refused"], "taken_back");
    assert_eq!(server.control.history().iter().filter(|one| by_signal(one)).count(), 1);
}

fn a_removed_listener_refuses_while_pending_and_comes_back_on_cancel() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "listen old 127.0.0.1:0", "body one"]);
    let old = server.address("old");
    configure(&workspace, &[WEB, "body two"]);
    assert_eq!(server.control.post("/v1/reload?confirm_within=1h", &[]).0, 200);
    assert!(TcpStream::connect(old).is_err(), "refused, and not left waiting");
    assert_eq!(server.control.post("/v1/cancel", &[]).0, 200);
    assert_eq!((ask(old), server.address("old")), ("1 one".to_owned(), old));
    // Once confirmed, its port is free for others.
    assert_eq!(server.control.post("/v1/reload?confirm_within=1h", &[]).0, 200);
    assert!(TcpStream::connect(old).is_err());
    assert_eq!(server.control.post("/v1/confirm", &[]).0, 200);
    until("its port is free", || std::net::TcpListener::bind(old).ok());
}

fn a_removed_listener_comes_back_after_the_supervisor_was_killed() {
    let workspace = Workspace::new();
    let mut first = Server::start(&workspace, &[WEB, "listen old 127.0.0.1:0", "body one"]);
    let old = first.address("old");
    configure(&workspace, &[WEB, "body two"]);
    assert_eq!(first.control.post("/v1/reload?confirm_within=1h", &[]).0, 200);
    kill(&mut first);
    assert!(try_ask(old).is_err() && std::net::TcpListener::bind(old).is_err(), "the worker holds it");
    let second = Server::start_again(&workspace);
    assert_eq!(second.control.post("/v1/actions/held", &[]).0, 409, "an action is refused meanwhile");
    assert_eq!(second.control.post("/v1/cancel", &[]).0, 200);
    assert_eq!((ask(old), second.address("old")), ("1 one".to_owned(), old));
    assert_eq!(second.control.post("/v1/actions/held", &[]).1["answer"], "0", "nothing is held any more");
}

fn a_removed_listener_comes_back_after_the_supervisor_was_killed_during_the_commit() {
    let workspace = Workspace::new();
    let mut first = Server::start(&workspace, &[WEB, "listen old 127.0.0.1:0", "body one"]);
    let (web, old) = (first.address("web"), first.address("old"));
    let orphan = format!("commit orphan-once {}", workspace.path("orphaned").display());
    configure(&workspace, &[WEB, "body two", &orphan]);
    let _unanswered = first.control.begin("/v1/reload?confirm_within=1h", &[]);
    assert_eq!(first.process.wait().code, 128 + 9);
    assert!(std::net::TcpListener::bind(old).is_err(), "the worker holds it");
    let second = Server::start_again(&workspace);
    assert_eq!((ask(web), shown(&second)["generation"].clone()), ("2 two".to_owned(), 2.into()));
    assert!(try_ask(old).is_err(), "it rests");
    assert_eq!(second.control.post("/v1/cancel", &[]).0, 200);
    assert_eq!((ask(old), second.address("old")), ("1 one".to_owned(), old));
}

/// Serves `one`, then `two` under guard.
fn guarded(workspace: &Workspace, how: &str) -> (Server, u16, Value) {
    let server = Server::start(workspace, &[WEB, "body one"]);
    configure(workspace, &[WEB, "body two", how]);
    let (status, operation) = server.control.post("/v1/reload?guard=5s", &[]);
    (server, status, operation)
}

fn a_guard_that_passes_lets_the_change_stay() {
    let workspace = Workspace::new();
    let (server, status, operation) = guarded(&workspace, "guard pass");
    assert_eq!((status, &operation["outcome"]), (200, &"applied".into()), "{operation}");
    assert_eq!(operation["guard"], "no worse than before", "{operation}");
    assert_eq!(ask(server.address("web")), "2 two");
}

fn a_guard_that_fails_takes_the_change_back_with_its_figures() {
    let workspace = Workspace::new();
    let (server, status, problem) = guarded(&workspace, "guard fail");
    let operation = &problem["operation"];
    assert_eq!((status, &operation["outcome"]), (500, &"rolled_back".into()), "{problem}");
    assert_eq!(operation["cause"], "guard_failed", "{problem}");
    assert!(operation["message"].as_str().unwrap().contains("41 % of 120"), "{problem}");
    assert_eq!((&operation["undone"], &operation["serving_generation"]), (&2.into(), &1.into()), "{problem}");
    assert_eq!(ask(server.address("web")), "1 one");
    // Its number is not given out again.
    assert_eq!(server.reload(&workspace, &[WEB, "body three"]).1["generation"], 3);
}

fn a_worker_that_dies_under_guard_takes_the_change_back() {
    let workspace = Workspace::new();
    let (server, status, problem) = guarded(&workspace, "guard die");
    let operation = &problem["operation"];
    assert_eq!((status, &operation["outcome"]), (500, &"rolled_back".into()), "{problem}");
    assert_eq!((ask(server.address("web")), &operation["cause"]), ("1 one".into(), &"guard_failed".into()));
}

fn somebody_may_decide_before_the_guard_does() {
    for (verb, outcome, body) in [("confirm", "applied", "2 two"), ("cancel", "rolled_back", "1 one")] {
        let workspace = Workspace::new();
        let server = Server::start(&workspace, &[WEB, "body one"]);
        configure(&workspace, &[WEB, "body two", "guard hang"]);
        let key = [("Idempotency-Key", "guarded"), ("Prefer", "respond-async")];
        assert_eq!(server.control.post("/v1/reload?guard=1h", &key).0, 202);
        until("it is guarded", || {
            let steps = server.control.status()["running"]["steps"].clone();
            steps.as_array()?.iter().any(|step| step["name"] == "guard").then_some(())
        });
        let (status, operation) = server.control.post(&format!("/v1/{verb}"), &[]);
        assert_eq!((status, &operation["outcome"]), (200, &"applied".into()), "{operation}");
        let ended = server.control.wait_for_operation("the reload ends", |one| one["id"] == "guarded");
        assert_eq!(ended["outcome"], outcome, "{ended}");
        assert_eq!(ask(server.address("web")), body);
    }
}

fn the_configuration_can_guard_every_change() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one", "guarded"]);
    configure(&workspace, &[WEB, "body two", "guard fail"]);
    let (status, problem) = server.control.post("/v1/reload", &[]);
    assert_eq!((status, &problem["operation"]["cause"]), (500, &"guard_failed".into()), "{problem}");
    let (status, operation) = server.control.post("/v1/reload?guard=no", &[]);
    assert_eq!((status, &operation["outcome"]), (200, &"applied".into()), "{operation}");
    // A guard before confirmation.
    configure(&workspace, &[WEB, "body three", "guard pass"]);
    let (_, operation) = server.control.post("/v1/reload?guard=5s&confirm_within=1h", &[]);
    assert_eq!((&operation["outcome"], &operation["goes_back"]["to"]), (&"applied".into(), &3.into()));
}
