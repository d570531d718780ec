//! Generations of the journal, differences, carried state, and reloads that a worker asks for.

use handover_testkit::http::Connection;
use handover_testkit::{DEADLINE, Workspace, signal, until, wait_for_exit};
use rustix::process::Signal;
use serde_json::Value;

use crate::server::{START_FROM, Server, another_worker, ask, command, configure};

crate::tests! {
    a_rollback_serves_the_very_bytes_although_the_files_are_gone
    a_rollback_without_a_number_goes_to_what_served_before
    a_rollback_to_what_is_not_kept_names_what_is
    a_rollback_can_await_confirmation_too
    a_start_after_a_rollback_serves_the_disk_and_says_so
    a_start_from_the_journal_serves_what_served_last
    a_start_from_a_generation_that_is_not_kept_is_refused
    a_source_that_cannot_be_reached_at_the_start_is_replaced_by_what_served_last
    a_difference_says_what_would_change_and_shows_the_text
    a_difference_to_a_generation_is_what_a_rollback_would_change
    a_difference_leaves_no_trace_and_keeps_nobody_out
    carried_state_reaches_a_replaced_worker_and_an_adopting_supervisor
    a_backup_that_is_restored_serves_its_bytes_and_hands_over_its_carried_state
    a_worker_that_asks_gets_a_reload_and_an_answer
    a_worker_that_asks_in_vain_is_told_and_fills_no_history
    a_disk_that_is_full_while_intending_refuses_the_change_and_the_old_one_serves
}

const WEB: &str = "listen web 127.0.0.1:0";

fn kill(server: &mut Server) {
    server.process.signal(Signal::KILL);
    assert_eq!(server.process.wait().code, 128 + 9);
}

/// Serves three generations, of which the second reads a file.
fn three(workspace: &Workspace) -> Server {
    let server = Server::start(workspace, &[WEB, "body one"]);
    let extra = workspace.write("extra", "in the second generation");
    let reads = format!("file {}", extra.display());
    assert_eq!(server.reload(workspace, &[WEB, "body two", &reads]).1["generation"], 2);
    assert_eq!(server.reload(workspace, &[WEB, "body three"]).1["generation"], 3);
    workspace.remove("extra");
    server
}

fn a_rollback_serves_the_very_bytes_although_the_files_are_gone() {
    let workspace = Workspace::new();
    let server = three(&workspace);
    let (status, operation) = server.control.post("/v1/rollback?to=2", &[]);
    assert_eq!((status, &operation["outcome"]), (200, &"applied".into()), "{operation}");
    assert_eq!(operation["changes"][0]["name"], "body", "{operation}");
    assert_eq!((ask(server.address("web")), server.control.generation()), ("2 two".to_owned(), 2));
    let status = server.control.status();
    assert_eq!(status["rollback_in_force"], 2, "{status}");
    assert_eq!(server.control.post("/v1/rollback?to=2", &[]).1["outcome"], "unchanged");
    // A worker that is replaced gets those bytes too.
    let worker = server.control.worker();
    signal(worker, Signal::KILL);
    assert!(wait_for_exit(worker, DEADLINE));
    assert_eq!(ask(server.address("web")), "2 two");
    another_worker(&server, worker);
    // The next reload takes the disk, under a new number.
    assert_eq!(server.control.post("/v1/reload", &[]).1["generation"], 4);
    assert_eq!(ask(server.address("web")), "4 three");
}

fn a_rollback_without_a_number_goes_to_what_served_before() {
    let workspace = Workspace::new();
    let server = three(&workspace);
    assert_eq!(server.control.post("/v1/rollback", &[]).1["serving_generation"], 2);
    assert_eq!(ask(server.address("web")), "2 two");
}

fn a_rollback_to_what_is_not_kept_names_what_is() {
    let workspace = Workspace::new();
    let server = three(&workspace);
    let (status, problem) = server.control.post("/v1/rollback?to=17", &[]);
    assert_eq!((status, &problem["type"]), (404, &"no_such_generation".into()), "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("17") && detail.contains("3, 2, 1"), "{problem}");
    assert_eq!(ask(server.address("web")), "3 three");
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one"]);
    let (status, problem) = server.control.post("/v1/rollback", &[]);
    assert_eq!(status, 404, "there is no other: {problem}");
}

fn a_rollback_can_await_confirmation_too() {
    let workspace = Workspace::new();
    let server = three(&workspace);
    let (_, operation) = server.control.post("/v1/rollback?to=1&confirm_within=1h", &[]);
    assert_eq!(operation["goes_back"]["to"], 3, "{operation}");
    assert_eq!(ask(server.address("web")), "1 one");
    assert_eq!(server.control.post("/v1/cancel", &[]).0, 200);
    assert_eq!(ask(server.address("web")), "3 three");
    assert_eq!(server.control.status()["rollback_in_force"], Value::Null, "the disk has just that");
}

fn a_start_after_a_rollback_serves_the_disk_and_says_so() {
    let workspace = Workspace::new();
    let mut first = three(&workspace);
    assert_eq!(first.control.post("/v1/rollback?to=1", &[]).0, 200);
    first.terminate().expect_code(0);
    let mut second = Server::start_again(&workspace);
    assert!(ask(second.address("web")).ends_with(" three"));
    let status = second.control.status();
    let warning = status["last"]["warnings"][0]["detail"].as_str().unwrap_or_default().to_owned();
    assert!(warning.starts_with("generation 1 served before because of a rollback"), "{status}");
    let output = second.terminate();
    assert!(output.stdout.contains(&warning), "{}", output.stdout);
}

fn start_from(workspace: &Workspace, from: &str) -> std::process::Command {
    let mut command = command(workspace);
    command.env(START_FROM, from);
    command
}

fn a_start_from_the_journal_serves_what_served_last() {
    let workspace = Workspace::new();
    let mut first = three(&workspace);
    assert_eq!(first.control.post("/v1/rollback?to=2", &[]).0, 200);
    first.terminate().expect_code(0);
    for (from, expected) in [("last", "2 two"), ("1", "1 one")] {
        let mut next = Server::start_with(&workspace, start_from(&workspace, from));
        assert_eq!(ask(next.address("web")), expected);
        let output = next.terminate();
        assert!(output.stdout.contains("is started from the journal"), "{}", output.stdout);
    }
}

fn a_start_from_a_generation_that_is_not_kept_is_refused() {
    let workspace = Workspace::new();
    let mut first = three(&workspace);
    first.terminate().expect_code(0);
    let output = Server::begin(&workspace, start_from(&workspace, "17")).process.wait();
    output.expect_code(2);
    assert!(output.stderr.contains("generation 17; it has 1, 2, 3"), "{}", output.stderr);
}

fn a_source_that_cannot_be_reached_at_the_start_is_replaced_by_what_served_last() {
    let workspace = Workspace::new();
    let mut first = Server::start(&workspace, &[WEB, "body one"]);
    first.terminate().expect_code(0);
    configure(&workspace, &["unreachable"]);
    let mut second = Server::start_again(&workspace);
    assert_eq!(ask(second.address("web")), "1 one");
    let status = second.control.status();
    assert_eq!(status["last"]["cause"], "unreachable", "{status}");
    // Once it can be reached again, a reload serves what is in it.
    assert_eq!(second.reload(&workspace, &[WEB, "body two"]).0, 200);
    let output = second.terminate();
    assert!(output.stdout.contains("reached"), "{}", output.stdout);
    // A server that has never served anything cannot do that.
    let workspace = Workspace::new();
    configure(&workspace, &["unreachable"]);
    let output = Server::begin(&workspace, command(&workspace)).process.wait();
    assert_ne!(output.code, 0);
    assert!(output.stderr.contains("the store cannot be reached"), "{}", output.stderr);
}

fn a_difference_says_what_would_change_and_shows_the_text() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one"]);
    let same = server.control.get("/v1/diff");
    assert_eq!((&same["same"], &same["changes"]), (&true.into(), &Value::Null), "{same}");
    let extra = workspace.write("extra", "new");
    configure(&workspace, &[WEB, "body two", &format!("file {}", extra.display())]);
    let diff = server.control.get("/v1/diff");
    assert_eq!((&diff["same"], &diff["changes"][0]["name"]), (&false.into(), &"body".into()), "{diff}");
    let states: Vec<_> = diff["files"].as_array().unwrap().iter().map(|file| &file["state"]).collect();
    assert_eq!(states, ["differs", "added"], "{diff}");
    assert!(diff["files"][0]["diff"].as_str().unwrap().contains("-body one\n+body two\n"), "{diff}");
    configure(&workspace, &["reject no", "body two"]);
    let diff = server.control.get("/v1/diff");
    assert_eq!(diff["errors"][0]["detail"], "no", "{diff}");
    assert!(diff["files"][0]["diff"].as_str().unwrap().contains("+reject no\n"), "{diff}");
}

fn a_difference_to_a_generation_is_what_a_rollback_would_change() {
    let workspace = Workspace::new();
    let server = three(&workspace);
    let diff = server.control.get("/v1/diff?against=2");
    assert_eq!((&diff["against"], &diff["serving_generation"]), (&2.into(), &3.into()), "{diff}");
    assert_eq!(diff["changes"][0]["name"], "body", "{diff}");
    assert_eq!(diff["files"].as_array().unwrap().len(), 2, "{diff}");
    assert_eq!(server.control.get("/v1/diff?against=3")["same"], true);
    let answer = server.control.ask("GET", "/v1/diff?against=9", &[], "");
    assert_eq!(answer.status(), 404);
    assert_eq!(ask(server.address("web")), "3 three");
}

fn a_difference_leaves_no_trace_and_keeps_nobody_out() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one"]);
    let before = server.control.status();
    for _ in 0..3 {
        // Begun, and not waited for: the reload waits for its turn.
        let looking = server.control.begin("/v1/diff", &[]);
        let (status, operation) = server.control.post("/v1/reload", &[]);
        assert_eq!((status, &operation["outcome"]), (200, &"unchanged".into()), "{operation}");
        drop(looking);
        let _ = server.control.get("/v1/diff");
    }
    let kinds: Vec<String> = server.history().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["reload", "reload", "reload", "start"]);
    assert_eq!(server.control.status()["generation"], before["generation"]);
}

fn carried(server: &Server) -> String {
    until("the worker answers", || {
        let operation = server.control.post("/v1/actions/carried", &[]).1;
        operation["answer"].as_str().map(str::to_owned)
    })
}

fn carried_state_reaches_a_replaced_worker_and_an_adopting_supervisor() {
    let workspace = Workspace::new();
    let mut first = Server::start(&workspace, &[WEB, "body one"]);
    assert_eq!(carried(&first), "none");
    let answer = first.control.ask("POST", "/v1/actions/carry", &[], "the keys of tickets");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let worker = first.control.worker();
    signal(worker, Signal::KILL);
    assert!(wait_for_exit(worker, DEADLINE));
    another_worker(&first, worker);
    assert_eq!(carried(&first), "the keys of tickets");
    kill(&mut first);
    let second = Server::start_again(&workspace);
    let worker = second.control.worker();
    signal(worker, Signal::KILL);
    assert!(wait_for_exit(worker, DEADLINE));
    another_worker(&second, worker);
    assert_eq!(carried(&second), "the keys of tickets");
}

fn a_backup_that_is_restored_serves_its_bytes_and_hands_over_its_carried_state() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one"]);
    assert_eq!(server.control.ask("POST", "/v1/actions/carry", &[], "old keys").status(), 200);
    let backup = server.control.ask("GET", "/v1/backup", &[], "").expect(200).body;
    assert_eq!(server.control.ask("POST", "/v1/actions/carry", &[], "new keys").status(), 200);
    assert_eq!(server.reload(&workspace, &[WEB, "body two"]).0, 200);
    let restore = |query: &str| {
        let mut connection = Connection::open_unix(server.control.path()).unwrap();
        let headers = [("Accept", "application/json"), ("Content-Type", "application/zstd")];
        let answer = connection.request("POST", &format!("/v1/restore{query}"), &headers, &backup);
        let operation: Value = serde_json::from_str(&answer.text()).unwrap();
        (answer.status(), operation)
    };
    let (status, operation) = restore("?dry_run");
    assert_eq!((status, &operation["changes"][0]["name"]), (200, &"body".into()), "{operation}");
    assert_eq!((ask(server.address("web")), carried(&server)), ("2 two".to_owned(), "new keys".to_owned()));
    let (status, operation) = restore("?confirm_within=1h");
    assert_eq!((status, &operation["outcome"]), (200, &"applied".into()), "{operation}");
    assert_eq!((&operation["kind"], &operation["goes_back"]["to"]), (&"restore".into(), &2.into()));
    assert_eq!((ask(server.address("web")), server.control.generation()), ("3 one".to_owned(), 3));
    assert_eq!(server.control.post("/v1/confirm", &[]).0, 200);
    assert_eq!(carried(&server), "old keys");
    assert_eq!(server.control.status()["rollback_in_force"], 3);
}

fn a_worker_that_asks_gets_a_reload_and_an_answer() {
    let workspace = Workspace::new();
    let mut server = Server::start(&workspace, &[WEB, "body one"]);
    configure(&workspace, &[WEB, "body two"]);
    // The fake worker's way to be told to ask.
    server.process.signal(Signal::USR1);
    let reload = server.control.wait_for_operation("a reload", |one| one["actor"]["kind"] == "watch");
    assert_eq!(
        (&reload["outcome"], &reload["comment"]),
        (&"applied".into(), &"fake.conf has changed".into())
    );
    assert_eq!(ask(server.address("web")), "2 two");
    until("the worker is told", || {
        let asked = server.control.post("/v1/actions/asked", &[]).1["answer"].clone();
        asked.as_str()?.contains("Some((true, \"applied: generation 2 serves").then_some(())
    });
}

fn a_worker_that_asks_in_vain_is_told_and_fills_no_history() {
    let workspace = Workspace::new();
    let mut server = Server::start(&workspace, &[WEB, "body one"]);
    assert_eq!(server.control.post("/v1/drain", &[]).0, 200);
    // The fake worker's way to be told to ask.
    server.process.signal(Signal::USR1);
    assert!(server.process.stderr_line("the reload that the worker asked for: drained").is_some());
    let asked = server.control.post("/v1/actions/asked", &[]).1["answer"].clone();
    assert!(asked.as_str().unwrap().contains("Some((false, \"drained"), "{asked}");
    assert!(!server.history().iter().any(|(kind, _)| kind == "reload"), "{:?}", server.history());
}

fn a_disk_that_is_full_while_intending_refuses_the_change_and_the_old_one_serves() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one"]);
    let pid = server.process.pid().to_string();
    let limit = |fsize: &str| {
        let status = std::process::Command::new("prlimit").args(["--pid", &pid, fsize]).status();
        assert!(status.expect("prlimit of util-linux").success());
    };
    // The journal itself has room, but not a generation with a file as long as this.
    limit("--fsize=1000000:");
    let long = workspace.write("long", vec![b'x'; 2_000_000]);
    configure(&workspace, &[WEB, "body two", &format!("file {}", long.display())]);
    let (status, problem) = server.control.post("/v1/reload?confirm_within=1h", &[]);
    let operation = &problem["operation"];
    assert_eq!((status, &operation["outcome"]), (500, &"not_ready".into()), "{problem}");
    assert_eq!(operation["cause"], "journal_failed", "{problem}");
    let status = server.control.status();
    assert_eq!((&status["pending"], ask(server.address("web"))), (&Value::Null, "1 one".to_owned()));
    limit("--fsize=unlimited:");
    assert_eq!(server.control.post("/v1/reload?confirm_within=1h", &[]).0, 200);
    assert_eq!(server.control.post("/v1/cancel", &[]).0, 200);
    assert_eq!(ask(server.address("web")), "1 one");
}
