//! Answers that do not lie: hazards 1 to 8.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Write as _;

use handover_testkit::config::{fixed, from_file, listener};
use handover_testkit::faults::{Squatter, freeze, kill};
use handover_testkit::http::Connection;
use handover_testkit::{
    Handover, Port, Serving, Workspace, curl, handover, have, operation_of, text_at, until,
};
use serde_json::Value;

/// Hazard 1.
#[test]
fn a_failed_reload_exits_non_zero_says_why_and_the_old_configuration_serves() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    let output = server.reload(&fixed("no-slash", "new"));
    assert_eq!(output.code, 10, "{}", output.all());
    assert!(output.all().contains("no-slash"), "the reason: {}", output.all());
    assert_eq!(server.text("/"), "old");
    assert_eq!(server.handover.control.generation(), 1);
}

/// Hazard 2.
#[test]
fn success_is_told_only_after_it_serves_and_is_written_down() {
    let server = Serving::start(handover!(), &fixed("/", "0"));
    let control = &server.handover.control;
    let mut kept = Connection::open(server.address());
    for number in 1..=20 {
        server.write(&fixed("/", number));
        let (status, operation) = control.post("/v1/reload", &[]);
        assert_eq!((status, text_at(&operation, "/outcome")), (200, "applied"), "{operation}");
        assert_eq!(kept.get("/").text(), number.to_string(), "on a kept connection");
        assert_eq!(server.text("/"), number.to_string(), "on a new connection");
        let written = control.get(&format!("/v1/operations/{}", text_at(&operation, "/id")));
        assert_eq!(text_at(&written, "/state"), "done");
        assert_eq!(written["outcome"], operation["outcome"]);
        assert_eq!(written["message"], operation["message"]);
    }
    // A failure's status says so from the first byte: no 200 that is taken back in the body.
    server.write("[nonsense]\n");
    let (status, problem) = control.post("/v1/reload", &[]);
    assert_eq!(status, 422, "{problem}");
    assert_eq!(text_at(operation_of(&problem), "/outcome"), "rejected");
}

/// Hazard 3. The mistakes of the tour's test are not repeated here.
#[test]
fn what_is_impossible_at_run_time_is_refused_like_a_syntax_error() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    std::fs::create_dir(server.workspace.path("directory")).unwrap();
    let elsewhere = "[listeners.elsewhere]\naddress = \"192.0.2.1:80\"\n";
    let socket = "[listeners.socket]\naddress = \"unix:missing/directory/socket\"\n";
    let log = "[log]\nto = \"missing/directory/log\"\n";
    let cases = [
        (
            "an address that is not this machine's",
            elsewhere.to_owned(),
            "192.0.2.1",
            "assign requested address",
        ),
        (
            "a socket in a directory that is not there",
            socket.to_owned(),
            "missing/directory/socket",
            "does not exist",
        ),
        ("a body that is a directory", from_file("/a", "directory"), "directory", "irectory"),
        ("a log in a directory that is not there", log.to_owned(), "missing/directory/log", "No such file"),
    ];
    for (name, rest, at, why) in cases {
        let output = server.reload(&(rest + &fixed("/", "new")));
        let said = output.all();
        assert_eq!(output.code, 10, "{name}:\n{said}");
        let text = server.workspace.read("handover.toml");
        let line = text.lines().position(|line| line.contains(at)).unwrap() + 1;
        assert!(
            said.contains(&format!("handover.toml:{line}:")),
            "{name}: line {line} is not named:\n{said}"
        );
        assert!(said.contains(why), "{name}: {why:?} is missing:\n{said}");
        assert!(said.contains("generation 1 still serves"), "{name}:\n{said}");
        assert_eq!(server.text("/"), "old", "{name}");
    }
}

/// Hazard 3: the descriptor limit.
#[test]
fn too_many_listeners_for_the_descriptor_limit_are_refused_and_the_next_reload_works() {
    const DESCRIPTORS: u32 = 64;
    let (workspace, port) = (Workspace::new(), Port::claim());
    let few = listener("web", &port) + &fixed("/", "old");
    let server = Handover::of(handover!(), &workspace).config(&few).descriptors(DESCRIPTORS).start();
    let ports: Vec<Port> = (0..DESCRIPTORS).map(|_| Port::claim()).collect();
    let many: String =
        ports.iter().enumerate().map(|(number, port)| listener(&format!("l{number}"), port)).collect();
    let output = server.reload_with(few.clone() + &many);
    assert!([10, 11].contains(&output.code), "{}\n{}", output.code, output.all());
    assert!(output.all().contains("open files"), "the reason: {}", output.all());
    assert_eq!(handover_testkit::http::get(port.address(), "/").text(), "old");
    server.reload_with(few.replace("old", "new")).expect_code(0);
    assert_eq!(handover_testkit::http::get(port.address(), "/").text(), "new");
    // What the refused reload had bound was let go again.
    for port in &ports {
        drop(Squatter::alone(port.address()));
    }
}

/// Hazard 4: a foreign server that answers on the port does not make ours ready.
#[test]
fn readiness_is_not_taken_from_somebody_who_answers_on_the_same_port() {
    let (workspace, port) = (Workspace::new(), Port::claim());
    let _foreign = Squatter::inviting(port.address());
    let started = Handover::of(handover!(), &workspace)
        .config(listener("web", &port) + &fixed("/", "ours"))
        .try_start();
    let output = started.expect_err("it must not say that it is ready");
    assert_ne!(output.code, 0);
    assert!(output.all().contains("in use"), "{}", output.all());
}

/// Hazard 4: after a worker's death it is the new worker that is reported, and that answers.
#[test]
fn a_respawned_worker_is_ready_only_by_its_own_word() {
    let server = Serving::start(handover!(), &fixed("/", "served"));
    let first = server.handover.worker();
    kill(first);
    let second = until("another worker serves", || {
        let status = server.handover.control.status();
        let pid = status.pointer("/worker/pid").and_then(Value::as_u64)?;
        (text_at(&status, "/phase") == "serving" && pid != u64::from(first)).then_some(pid)
    });
    let mut kept = Connection::open(server.address());
    assert_eq!(kept.get("/").text(), "served");
    // The connection is held by the worker that the status names, and by nobody else.
    let status = server.handover.control.status();
    assert_eq!(status.pointer("/worker/pid").and_then(Value::as_u64), Some(second));
    assert_eq!(status["generation"]["number"], 1);
    assert!(kept.is_open());
}

/// Hazard 5.
#[test]
fn the_outcome_can_be_learned_after_the_client_gave_up_and_after_a_restart() {
    let mut server = Serving::start(handover!(), &fixed("/", "old"));
    server.write(&fixed("/", "new"));
    let worker = freeze(server.handover.worker());
    let impatient = server.handover.control.begin("/v1/reload", &[("Idempotency-Key", "gave-up-1")]);
    until("the reload of the client that will go away runs", || {
        let status = server.handover.control.status();
        (text_at(&status, "/running/id") == "gave-up-1").then_some(())
    });
    drop(impatient);
    drop(worker);
    let ended = |server: &Serving| {
        until("the operation of the client that went away has ended", || {
            let operation = server.handover.control.get("/v1/operations/gave-up-1");
            (text_at(&operation, "/state") == "done").then_some(operation)
        })
    };
    assert_eq!(text_at(&ended(&server), "/outcome"), "applied");
    assert_eq!(server.text("/"), "new");

    // Both processes go; the journal stays.
    server.handover.terminate().expect_code(0);
    let Serving { handover, port, workspace } = server;
    drop(handover);
    let config = workspace.read("handover.toml");
    let handover = Handover::of(handover!(), &workspace).config(config).start();
    let server = Serving { handover, port, workspace };
    assert_eq!(text_at(&ended(&server), "/outcome"), "applied");
    server.handover.cli(["history"]).expect_code(0).says("gave-up-1");
}

/// Hazard 6.
#[test]
fn a_long_answer_is_read_whole() {
    const MISTAKES: usize = 3000;
    let server = Serving::start(handover!(), &fixed("/", "old"));
    let mut rest = String::new();
    for number in 0..MISTAKES {
        writeln!(rest, "[[routes]]\npath = \"/{number}\"\nservice = \"nobody-{number}\"").unwrap();
    }
    server.write(&rest);
    let (status, problem) = server.handover.control.post("/v1/reload", &[]);
    assert_eq!(status, 422);
    let errors = operation_of(&problem)["errors"].as_array().unwrap();
    let told = errors.len();
    assert!(told >= 100, "only {told} of {MISTAKES} mistakes are told");
    let last = text_at(&errors[told - 1], "/detail").to_owned();

    let output = server.handover.cli(["reload"]);
    output.expect_code(10);
    assert!(output.all().contains(&last), "the last mistake is cut off: {last}");
    if have("curl", "a_long_answer_is_read_whole") {
        let arguments = ["-X", "POST", "http://localhost/v1/reload"];
        let output = curl::over_unix(server.handover.control.path(), &arguments);
        output.expect_code(0).says(&last);
    }
}

/// The value of a metric without labels.
fn gauge(server: &Serving, name: &str) -> f64 {
    let metrics = server.handover.control.ask("GET", "/metrics", &[], "").expect(200).text();
    let line = metrics.lines().find(|line| line.split(' ').next() == Some(name));
    let value =
        line.and_then(|line| line.split(' ').nth(1)).unwrap_or_else(|| panic!("no {name}:\n{metrics}"));
    value.parse().unwrap()
}

/// Hazard 7.
#[test]
fn the_gauge_of_success_follows_what_runs() {
    const IN_SYNC: &str = "handover_running_equals_desired";
    let server = Serving::start(handover!(), &fixed("/", "good"));
    assert_eq!(gauge(&server, IN_SYNC), 1.0);
    server.reload("[nonsense]\n").expect_code(10);
    assert_eq!(gauge(&server, IN_SYNC), 0.0);
    // The good configuration comes back: what runs is what is desired, though nothing needed to be applied.
    server.reload(&fixed("/", "good")).expect_code(0);
    assert_eq!(gauge(&server, IN_SYNC), 1.0);
}

/// Hazard 8: nobody answers in time; the outcome is unknown, which is neither success nor failure.
#[test]
fn an_unknown_outcome_has_its_own_exit_code_and_can_be_asked_for_later() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    server.write(&fixed("/", "new"));
    let worker = freeze(server.handover.worker());
    let output = server.handover.cli(["reload", "--timeout", "2s"]);
    assert_eq!(output.code, 124, "{}", output.all());
    let running = server.handover.control.status();
    let id = text_at(&running, "/running/id").to_owned();
    assert!(output.all().contains(&id), "how to ask for {id}: {}", output.all());
    drop(worker);
    let operation = until("the operation has ended", || {
        let operation = server.handover.control.get(&format!("/v1/operations/{id}"));
        (text_at(&operation, "/state") == "done").then_some(operation)
    });
    assert_eq!(text_at(&operation, "/outcome"), "applied");
    assert_eq!(server.text("/"), "new");
}

/// Hazard 8: nobody is there at all, which is something else again.
#[test]
fn nobody_there_has_its_own_exit_code_too() {
    let mut server = Serving::start(handover!(), &fixed("/", "x"));
    server.handover.terminate().expect_code(0);
    for verb in ["reload", "status"] {
        let output = server.handover.cli([verb]);
        assert_eq!(output.code, 7, "{verb}: {}", output.all());
    }
}
