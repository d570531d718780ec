//! The control API and the command line: every verb, as scripts use them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;

use handover_testkit::config::{everything_to, fixed, listener, service};
use handover_testkit::faults::can_mount;
use handover_testkit::http::{self, Connection};
use handover_testkit::origin::Origin;
use handover_testkit::{
    Control, Handover, Port, Process, Serving, Workspace, handover, have, operation_of, proc, root, run,
    text_at, until,
};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn status_tells_a_person_and_a_program_what_runs() {
    let server = Serving::start(handover!(), &fixed("/", "x"));
    let text = server.handover.cli(["status"]);
    text.expect_code(0).says("generation 1").says("serving").says(&server.port.to_string());
    let status = json(&server.handover.cli(["status", "-o", "json"]).expect_code(0).stdout);
    assert_eq!(text_at(&status, "/phase"), "serving");
    assert_eq!(status["pid"], server.handover.pid());
    assert_eq!(status["generation"]["number"], 1);
    assert_eq!(text_at(&status, "/listeners/0/name"), "web");
    assert_eq!(text_at(&status, "/listeners/0/address"), server.address().to_string());
    assert!(proc::alive(server.handover.worker()));
}

#[test]
fn validate_and_dry_run_say_what_would_happen_and_change_nothing() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    server.write(&fixed("/", "new"));
    for arguments in [vec!["validate"], vec!["reload", "--dry-run"]] {
        let output = server.handover.cli(&arguments);
        output.expect_code(0).says("valid");
        assert_eq!((server.text("/").as_str(), server.handover.control.generation()), ("old", 1));
    }
    server.write("[nonsense]\n");
    let output = server.handover.cli(["validate"]);
    assert_eq!(output.code, 10, "{}", output.all());
    assert!(output.all().contains("nonsense"), "{}", output.all());
}

#[test]
fn a_reload_for_another_generation_than_the_one_that_serves_is_stale() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    server.write(&fixed("/", "new"));
    let output = server.handover.cli(["reload", "--if-match", "7"]);
    assert_eq!(output.code, 13, "{}", output.all());
    let (status, problem) = server.handover.control.post("/v1/reload", &[("If-Match", "\"7\"")]);
    assert_eq!((status, problem["serving_generation"].as_u64()), (412, Some(1)), "{problem}");
    assert_eq!(server.text("/"), "old");
    server.handover.cli(["reload", "--if-match", "1"]).expect_code(0);
    assert_eq!(server.text("/"), "new");
}

#[test]
fn the_same_idempotency_key_gets_the_same_answer_and_is_carried_out_once() {
    let server = Serving::start(handover!(), &fixed("/", "1"));
    server.write(&fixed("/", "2"));
    let key = [("Idempotency-Key", "deploy-42")];
    let (status, first) = server.handover.control.post("/v1/reload", &key);
    assert_eq!((status, text_at(&first, "/id")), (200, "deploy-42"), "{first}");
    server.write(&fixed("/", "3"));
    let (status, again) = server.handover.control.post("/v1/reload", &key);
    assert_eq!(status, 200);
    assert_eq!(again, first);
    assert_eq!(server.text("/"), "2");
    let (status, problem) = server.handover.control.post("/v1/drain", &key);
    assert_eq!(status, 422, "the key is that of another kind of operation: {problem}");
}

#[test]
fn a_detached_reload_is_answered_with_a_place_to_ask() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    server.write(&fixed("/", "new"));
    let response = server.handover.control.ask("POST", "/v1/reload?detach", &[], "").expect(202);
    let place = response.header("location").unwrap().to_owned();
    let operation = until("the detached reload has ended", || {
        let operation = server.handover.control.get(&place);
        (text_at(&operation, "/state") == "done").then_some(operation)
    });
    assert_eq!(text_at(&operation, "/outcome"), "applied");
    assert_eq!(server.text("/"), "new");

    server.write(&fixed("/", "newer"));
    let output = server.handover.cli(["reload", "--detach"]);
    output.expect_code(0);
    until("the detached reload has been applied", || (server.text("/") == "newer").then_some(()));
}

#[test]
fn events_tell_the_beginning_and_the_end_of_an_operation() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    let mut events = server.handover.control.events();
    server.reload(&fixed("/", "new")).expect_code(0);
    let started =
        events.wait_for("the beginning", |event| text_at(&event.data, "/kind") == "operation_started");
    let done = events.wait_for("the end", |event| text_at(&event.data, "/kind") == "operation_done");
    assert_eq!(started.data["operation"]["id"], done.data["operation"]["id"]);
    assert_eq!(text_at(&done.data, "/operation/outcome"), "applied");
}

#[test]
fn diff_exits_with_0_for_the_same_and_1_for_different() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    server.handover.cli(["diff"]).expect_code(0);
    server.write(&fixed("/", "new"));
    let output = server.handover.cli(["diff"]);
    output.expect_code(1).says("old").says("new");
    server.handover.cli(["reload"]).expect_code(0);
    server.handover.cli(["diff"]).expect_code(0);
}

#[test]
fn comments_and_who_asked_are_in_the_history() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    server.write(&fixed("/", "new"));
    server.handover.cli(["reload", "--comment", "as discussed"]).expect_code(0);
    let history = server.handover.control.get("/v1/history");
    let newest = &history[0];
    assert_eq!(text_at(newest, "/comment"), "as discussed");
    assert_eq!(text_at(newest, "/actor/kind"), "peer");
    assert_eq!(text_at(newest, "/actor/command"), "handover");
    assert!(newest["actor"]["uid"].is_u64() && newest["actor"]["pid"].is_u64());
    assert!(newest["ms"].as_f64().unwrap() > 0.0);
    server.handover.cli(["history"]).expect_code(0).says("as discussed");
}

#[test]
fn drain_lets_connections_end_and_resume_serves_those_that_waited() {
    let origin = Origin::start("origin");
    let rest = service("origin", origin.address()) + &everything_to("origin");
    let server = Serving::start(handover!(), &rest);
    let mut idle = Connection::open(server.address());
    assert_eq!(idle.get("/").text(), "origin\n");
    server.handover.cli(["drain"]).expect_code(0);
    idle.expect_end();
    assert_eq!(text_at(&server.handover.control.status(), "/phase"), "drained");
    // The listener is held: a client that comes now waits in its queue.
    let mut waiting = Connection::open(server.address());
    waiting.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    server.handover.cli(["resume"]).expect_code(0);
    assert_eq!(waiting.response("GET").text(), "origin\n");
}

#[test]
fn stop_ends_the_server_and_says_so() {
    let mut server = Serving::start(handover!(), &fixed("/", "x"));
    let output = server.handover.cli(["stop"]);
    output.expect_code(0).says("stopped");
    server.handover.process.wait().expect_code(0);
}

#[test]
fn what_is_not_understood_is_refused_and_not_ignored() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    server.write(&fixed("/", "new"));
    for path in ["/v1/reload?dryrun", "/v1/reload?dry_run=perhaps", "/v1/reload?timeout=soon"] {
        let (status, problem) = server.handover.control.post(path, &[]);
        assert_eq!(status, 400, "{path}: {problem}");
    }
    let (status, _) = server.handover.control.post("/v1/actions/no-such-action", &[]);
    assert_eq!(status, 404);
    assert_eq!(server.text("/"), "old");
    assert_eq!(server.handover.cli(["reload", "--no-such-flag"]).code, 2);
}

#[test]
fn metrics_and_the_description_of_the_api_are_there() {
    let server = Serving::start(handover!(), &fixed("/", "x"));
    assert_eq!(server.text("/"), "x");
    server.reload(&fixed("/", "y")).expect_code(0);
    let metrics = server.handover.cli(["metrics"]);
    metrics.expect_code(0).says("handover_generation 2").says("kind=\"reload\",outcome=\"applied\"");
    let description = server.handover.control.get("/openapi.json");
    assert!(description["paths"]["/v1/reload"]["post"].is_object());
}

/// Runs curl as another user against the control socket: status code and body.
fn curl_as(uid: u32, server: &Serving, method: &str, path: &str) -> (String, String) {
    let mut command = Command::new("setpriv");
    let id = uid.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "curl", "--silent", "--show-error"]);
    command.arg("--unix-socket").arg(server.handover.control.path());
    command.args(["-X", method, "--write-out", "\n%{http_code}", &format!("http://localhost{path}")]);
    let output = run(command);
    let (body, status) = output.expect_code(0).stdout.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

#[test]
fn roles_come_from_the_peers_user_and_refusals_are_in_the_history() {
    let test = "roles_come_from_the_peers_user_and_refusals_are_in_the_history";
    if !root(test) || !have("curl", test) || !have("setpriv", test) {
        return;
    }
    let (nobody, reader, operator) = (54_321, 54_322, 54_323);
    let control = format!(
        "[control]\nmode = \"0666\"\nroles.read.users = [{reader}]\nroles.operate.users = [{operator}]\n"
    );
    let workspace = Workspace::new();
    workspace.mode("", 0o755);
    workspace.mode("run", 0o755);
    let server = Serving::prepared(handover!(), workspace, &(fixed("/", "old") + &control));
    server.write(&(fixed("/", "new") + &control));
    for (uid, method, path, expected) in [
        (nobody, "GET", "/v1/status", "403"),
        (reader, "GET", "/v1/status", "200"),
        (reader, "POST", "/v1/reload", "403"),
        (operator, "POST", "/v1/stop", "403"),
        (operator, "POST", "/v1/reload", "200"),
    ] {
        let (status, body) = curl_as(uid, &server, method, path);
        assert_eq!(status, expected, "{uid} {method} {path}: {body}");
    }
    assert_eq!(server.text("/"), "new");
    let history = server.handover.control.get("/v1/history");
    let by = |uid: u32| {
        let all = history.as_array().unwrap();
        all.iter().filter(|one| one["actor"]["uid"] == uid).cloned().collect::<Vec<_>>()
    };
    let refused = by(reader);
    assert_eq!(refused.len(), 1, "{history}");
    assert_eq!(text_at(&refused[0], "/outcome"), "rejected");
    assert_eq!(text_at(&refused[0], "/actor/command"), "curl");
    assert_eq!(by(operator).len(), 2, "{history}");
}

#[test]
fn a_full_disk_refuses_the_change_and_says_why_and_room_is_all_it_takes_to_go_on() {
    if !can_mount("a_full_disk_refuses_the_change_and_says_why_and_room_is_all_it_takes_to_go_on") {
        return;
    }
    let (workspace, port) = (Workspace::new(), Port::claim());
    let config = listener("web", &port) + &fixed("/", "0");
    let server = Handover::of(handover!(), &workspace).config(config).disk("size=64k").start();
    let control = &server.control;
    let mut served = 0;
    let refused = (1..2000).find_map(|number| {
        workspace.write("handover.toml", listener("web", &port) + &fixed("/", number));
        let (status, answer) = control.post("/v1/reload", &[]);
        if status == 200 {
            served = number;
            return None;
        }
        Some((status, answer))
    });
    let (status, problem) = refused.expect("64 KiB are full at some point");
    assert_eq!(status, 500, "{problem}");
    assert!(problem.to_string().contains("No space left"), "{problem}");
    let mut reload = handover_testkit::command(handover!().as_ref(), &workspace);
    reload.arg("reload");
    let output = run(reload);
    assert_eq!(output.code, 11, "{}", output.all());
    assert!(output.all().contains("No space left"), "{}", output.all());
    assert_eq!(http::get(port.address(), "/").text(), served.to_string());
    assert!(control.status()["journal"]["failure"].is_string());

    let state = workspace.state().display().to_string();
    server.beside(&["mount", "-o", "remount,size=1m", &state]).expect_code(0);
    let (status, operation) = control.post("/v1/reload", &[]);
    assert_eq!((status, text_at(&operation, "/outcome")), (200, "applied"), "{operation}");
    assert_eq!(http::get(port.address(), "/").text(), (served + 1).to_string());
    assert!(control.status()["journal"]["failure"].is_null());
}

/// (Under a server that runs, the system lets nobody make a file system read-only: the journal is open.)
#[test]
fn a_read_only_state_directory_refuses_the_start_and_says_what_to_do() {
    if !can_mount("a_read_only_state_directory_refuses_the_start_and_says_what_to_do") {
        return;
    }
    let (workspace, port) = (Workspace::new(), Port::claim());
    let config = listener("web", &port) + &fixed("/", "0");
    let output = Handover::of(handover!(), &workspace).config(config).disk("ro").try_start().unwrap_err();
    assert_ne!(output.code, 0, "{}", output.all());
    for words in ["Read-only file system", "--state"] {
        assert!(output.all().contains(words), "{words:?} is missing: {}", output.all());
    }
    workspace.mode("state", 0o700);
    Handover::of(handover!(), &workspace).config_file("handover.toml").start().terminate().expect_code(0);
}

#[test]
fn an_operation_of_a_server_without_control_of_its_own_is_found_by_its_socket() {
    let (workspace, port) = (Workspace::new(), Port::claim());
    let config = listener("web", &port) + &fixed("/", "x") + "[control]\nsocket = \"run/of-the-file.sock\"\n";
    let file = workspace.write("handover.toml", config);
    let mut command = handover_testkit::command(handover!().as_ref(), &workspace);
    command.env_remove("HANDOVER_CONTROL").arg("serve").arg(file);
    let socket = workspace.path("run/of-the-file.sock");
    let _process = Process::start(command);
    let control = Control::at(&socket);
    until("it serves", || {
        let answer = control.try_ask("GET", "/v1/status", &[("Accept", "application/json")], "").ok()?;
        (text_at(&json(&answer.text()), "/phase") == "serving").then_some(())
    });
    let mut status = handover_testkit::command(handover!().as_ref(), &workspace);
    status.args(["--control", socket.to_str().unwrap(), "status"]);
    run(status).expect_code(0).says("generation 1");
    let answer = control.reload();
    assert_eq!(text_at(operation_of(&answer), "/outcome"), "unchanged");
}
