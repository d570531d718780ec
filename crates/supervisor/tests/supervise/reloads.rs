//! Reloads, by request and by signal, and everything that can go wrong with one.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};

use handover_testkit::{Port, Workspace, proc, signal, until};
use rustix::process::Signal;

use crate::server::{PREPARE_LIMIT, Server, another_worker, ask, command, configure, read_answer};

crate::tests! {
    a_reload_is_applied_in_the_same_worker_and_says_what_changed
    a_reload_of_the_same_file_is_unchanged
    a_dry_run_changes_nothing_and_binds_nothing
    a_rejected_reload_changes_nothing_and_the_next_one_works
    a_prepare_that_hangs_is_not_ready_and_the_old_generation_serves
    a_worker_that_dies_in_prepare_is_replaced_and_the_old_generation_serves
    a_worker_that_dies_in_commit_is_replaced_with_the_new_generation
    a_generation_that_always_dies_in_commit_is_rolled_back
    a_port_that_cannot_be_bound_takes_no_other_away
    a_removed_listener_is_closed_and_an_added_one_opened
    the_same_key_gets_the_same_answer_and_another_kind_is_refused
    a_stale_condition_is_refused
    actions_answer_in_their_own_words
    a_hundred_reloads_leave_descriptors_and_processes_as_they_were
    the_service_manager_is_told_of_reloads_that_failed_too
    the_service_manager_is_told_of_a_signal_that_the_journal_refuses
    metrics_and_differences_follow_the_disk
    status_counts_the_connections_and_does_not_wait_for_a_worker_that_hangs
}

const WEB: &str = "listen web 127.0.0.1:0";

fn a_reload_is_applied_in_the_same_worker_and_says_what_changed() {
    let workspace = Workspace::new();
    let mut server = Server::start(&workspace, &[WEB, "body one"]);
    let (address, worker) = (server.address("web"), server.control.worker());
    let (status, operation) = server.reload(&workspace, &[WEB, "body two"]);
    assert_eq!(
        (status, &operation["outcome"], &operation["generation"]),
        (200, &"applied".into(), &2.into())
    );
    assert_eq!(operation["changes"][0]["name"], "body", "{operation}");
    assert_eq!(ask(address), "2 two");
    configure(&workspace, &[WEB, "body three"]);
    let mut events = server.control.events();
    server.process.signal(Signal::HUP);
    let ended = events.wait_for("the end of the reload", |event| event.name == "operation_done");
    assert_eq!(ended.data["operation"]["actor"]["signal"], "HUP");
    assert_eq!(ask(address), "3 three");
    assert_eq!((server.address("web"), server.control.worker()), (address, worker));
}

fn a_reload_of_the_same_file_is_unchanged() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one"]);
    let (status, operation) = server.reload(&workspace, &[WEB, "body one"]);
    assert_eq!((status, &operation["outcome"]), (200, &"unchanged".into()), "{operation}");
    assert_eq!(server.control.generation(), 1);
}

fn a_dry_run_changes_nothing_and_binds_nothing() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one"]);
    let free = Port::claim();
    configure(&workspace, &[WEB, &format!("listen new {}", free.address()), "body two"]);
    let (status, operation) = server.control.post("/v1/validate", &[]);
    assert_eq!((status, &operation["changes"][0]["name"]), (200, &"body".into()), "{operation}");
    assert!(TcpStream::connect(free.address()).is_err());
    assert_eq!(ask(server.address("web")), "1 one");
}

fn a_rejected_reload_changes_nothing_and_the_next_one_works() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one"]);
    let (status, operation) = server.reload(&workspace, &[WEB, "reject no", "reject and again no"]);
    assert_eq!((status, operation["errors"].as_array().unwrap().len()), (422, 2), "{operation}");
    assert_eq!(ask(server.address("web")), "1 one");
    assert_eq!(server.reload(&workspace, &[WEB, "body two"]).0, 200);
    assert_eq!(ask(server.address("web")), "2 two");
}

fn a_prepare_that_hangs_is_not_ready_and_the_old_generation_serves() {
    let workspace = Workspace::new();
    configure(&workspace, &[WEB, "body one"]);
    let mut limited = command(&workspace);
    // Not so short that a good one does not get ready on a busy machine.
    limited.env(PREPARE_LIMIT, "2000");
    let server = Server::start_with(&workspace, limited);
    let worker = server.control.worker();
    let (status, problem) = server.reload(&workspace, &["prepare hang"]);
    assert_eq!(status, 500, "{problem}");
    assert_eq!(server.history()[0].1, "not_ready");
    assert_eq!((ask(server.address("web")), server.control.worker()), ("1 one".to_owned(), worker));
    assert_eq!(server.reload(&workspace, &[WEB, "body two"]).0, 200);
}

fn a_worker_that_dies_in_prepare_is_replaced_and_the_old_generation_serves() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one"]);
    let (address, worker) = (server.address("web"), server.control.worker());
    let (status, problem) = server.reload(&workspace, &["prepare die"]);
    assert_eq!(status, 500);
    assert!(problem["detail"].as_str().unwrap().contains("exited with code 7"), "{problem}");
    // Served from the bytes of before: the file on disk would kill this worker too.
    assert_eq!(ask(address), "1 one");
    assert_ne!(another_worker(&server, worker), worker);
}

fn a_worker_that_dies_in_commit_is_replaced_with_the_new_generation() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one"]);
    let address = server.address("web");
    let died = format!("commit die-once {}", workspace.path("died").display());
    let (status, operation) = server.reload(&workspace, &[WEB, "body two", &died]);
    assert_eq!((status, &operation["outcome"]), (200, &"applied_with_losses".into()), "{operation}");
    assert_eq!(ask(address), "2 two");
}

fn a_generation_that_always_dies_in_commit_is_rolled_back() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one"]);
    let address = server.address("web");
    let (status, _) = server.reload(&workspace, &[WEB, "body two", "commit die"]);
    assert_eq!((status, server.history()[0].1.as_str()), (500, "rolled_back"));
    assert_eq!(ask(address), "1 one");
    assert_eq!(server.reload(&workspace, &[WEB, "body three"]).1["generation"], 3);
    assert_eq!(ask(address), "3 three");
}

fn a_port_that_cannot_be_bound_takes_no_other_away() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one"]);
    let address = server.address("web");
    let mut waiting = TcpStream::connect(address).unwrap();
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("listen more {}", foreign.local_addr().unwrap());
    let (status, problem) = server.reload(&workspace, &["listen other 127.0.0.1:0", &taken, "body two"]);
    assert_eq!(status, 422);
    assert!(problem.to_string().contains(&format!("(pid {})", std::process::id())), "{problem}");
    assert_eq!(read_answer(&mut waiting).unwrap(), "1 one");
    assert_eq!(ask(address), "1 one");
}

fn a_removed_listener_is_closed_and_an_added_one_opened() {
    let workspace = Workspace::new();
    let socket = workspace.path("app.sock");
    let server = Server::start(&workspace, &[WEB, "listen old 127.0.0.1:0", "body one"]);
    let (web, old) = (server.address("web"), server.address("old"));
    let unix = format!("listen app unix:{}", socket.display());
    server.reload(&workspace, &[WEB, &unix, "body two"]);
    assert!(TcpStream::connect(old).is_err());
    assert_eq!((ask(web), server.address("web")), ("2 two".to_owned(), web));
    std::os::unix::net::UnixStream::connect(&socket).unwrap();
    server.reload(&workspace, &[WEB, "body three"]);
    assert!(!socket.exists());
}

fn the_same_key_gets_the_same_answer_and_another_kind_is_refused() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one"]);
    configure(&workspace, &[WEB, "body two"]);
    let key = [("Idempotency-Key", "deploy-7")];
    let first = server.control.post("/v1/reload", &key);
    configure(&workspace, &[WEB, "body three"]);
    assert_eq!(server.control.post("/v1/reload", &key), first);
    assert_eq!(ask(server.address("web")), "2 two");
    assert_eq!(server.control.get("/v1/operations/deploy-7"), first.1);
    assert_eq!(server.control.post("/v1/drain", &key).0, 422);
}

fn a_stale_condition_is_refused() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one"]);
    configure(&workspace, &[WEB, "body two"]);
    assert_eq!(server.control.post("/v1/reload", &[("If-Match", "\"2\"")]).0, 412);
    assert_eq!(server.control.post("/v1/reload", &[("If-Match", "\"1\"")]).0, 200);
}

fn actions_answer_in_their_own_words() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB]);
    let echo = server.control.ask("POST", "/v1/actions/echo", &[("Accept", "text/plain")], "some words");
    assert_eq!((echo.status(), echo.text().trim()), (200, "some words"));
    let fail = server.control.ask("POST", "/v1/actions/fail", &[("Accept", "text/plain")], "");
    assert_eq!((fail.status(), fail.text().trim()), (500, "it failed"));
    assert_eq!(server.control.post("/v1/actions/nothing", &[]).0, 404);
    let (status, problem) = server.control.post("/v1/actions/die", &[]);
    assert_eq!(status, 500, "{problem}");
    assert_eq!(server.history()[0], ("action".to_owned(), "unknown".to_owned()));
}

fn a_hundred_reloads_leave_descriptors_and_processes_as_they_were() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body 0"]);
    let worker = server.control.worker();
    let count = |pid: u32| {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for link in proc::descriptors(pid).into_values() {
            *kinds.entry(link.split(':').next().unwrap_or_default().to_owned()).or_default() += 1;
        }
        kinds
    };
    server.reload(&workspace, &[WEB, "listen more 127.0.0.1:0", "body first"]);
    let before = (count(server.process.pid()), count(worker));
    for number in 0..100 {
        let extra = if number % 2 == 0 { "body even" } else { "listen more 127.0.0.1:0" };
        let broken = if number % 3 == 0 { "reject no" } else { "" };
        server.reload(&workspace, &[WEB, extra, broken, &format!("body {number}")]);
    }
    server.reload(&workspace, &[WEB, "listen more 127.0.0.1:0", "body last"]);
    // A connection to the control socket may have been counted before; whatever leaks, leaks a hundred times.
    let at_most = |now: &BTreeMap<String, usize>, before: &BTreeMap<String, usize>| {
        now.iter().all(|(kind, count)| count <= before.get(kind).unwrap_or(&0))
    };
    until("there are no more descriptors than before", || {
        let now = (count(server.process.pid()), count(worker));
        (at_most(&now.0, &before.0) && at_most(&now.1, &before.1)).then_some(())
    });
    assert_eq!(proc::children(server.process.pid()).len(), 1);
}

fn the_service_manager_is_told_of_reloads_that_failed_too() {
    let workspace = Workspace::new();
    let mut server = Server::start(&workspace, &[WEB, "body one"]);
    let mark = server.notifications.mark();
    configure(&workspace, &["reject a mistake"]);
    server.process.signal(Signal::HUP);
    assert!(server.notifications.wait_after(mark, "RELOADING=1").starts_with("RELOADING"));
    assert!(server.notifications.wait_after(mark, "MONOTONIC_USEC=").len() > "MONOTONIC_USEC=".len());
    assert!(server.notifications.wait_after(mark, "STATUS=rejected").contains("a mistake"));
    assert_eq!(server.notifications.wait_after(mark, "READY=1"), "READY=1");
}

/// Hazard 34: the machine never hears of it, and the service manager must all the same.
fn the_service_manager_is_told_of_a_signal_that_the_journal_refuses() {
    let workspace = Workspace::new();
    let mut server = Server::start(&workspace, &[WEB, "body one"]);
    configure(&workspace, &[WEB, "body two"]);
    // No file of the server's may grow any more, and it is not ended for trying. The reload that finds that out
    // fails in the course of it, the next one is refused.
    let pid = server.process.pid().to_string();
    let limit = |fsize: &str| {
        let status = std::process::Command::new("prlimit").args(["--pid", &pid, fsize]).status();
        assert!(status.expect("prlimit of util-linux").success());
    };
    limit("--fsize=0:");
    let mark = server.notifications.mark();
    server.process.signal(Signal::HUP);
    assert_eq!(server.notifications.wait_after(mark, "READY=1"), "READY=1");
    // Unless the journal has no room to reserve from the start: it may have some left that it had reserved before.
    let told = server.notifications.messages().split_off(mark);
    let began = !told.iter().any(|message| message.contains("STATUS=reload refused"));
    let mark = server.notifications.mark();
    server.process.signal(Signal::HUP);
    let status = server.notifications.wait_after(mark, "STATUS=reload refused");
    assert!(status.contains("cannot reserve room in the journal"), "{status}");
    assert_eq!(server.notifications.wait_after(mark, "READY=1"), "READY=1");
    let told = server.notifications.messages().split_off(mark);
    assert!(told.first().is_some_and(|first| first.starts_with("RELOADING=1")), "{told:?}");
    assert_eq!(ask(server.address("web")), "1 one");
    limit("--fsize=unlimited:");
    let mark = server.notifications.mark();
    server.process.signal(Signal::HUP);
    let _ = server.notifications.wait_after(mark, "STATUS=applied");
    // A number that the first one was given is not given out again.
    assert_eq!(ask(server.address("web")), if began { "3 two" } else { "2 two" });
}

fn metrics_and_differences_follow_the_disk() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one"]);
    let metrics = || server.control.ask("GET", "/metrics", &[], "").expect(200).text();
    assert!(metrics().contains("handover_running_equals_desired 1"));
    server.reload(&workspace, &[WEB, "body two", "reject no"]);
    let text = metrics();
    for line in [
        "handover_running_equals_desired 0",
        "handover_last_operation_success 0",
        "handover_generation 1",
        "handover_operations_total{kind=\"reload\",outcome=\"rejected\"} 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("fake_facts 0"), "the worker was not told the supervisor's metrics: {text}");
    let diff = server.control.get("/v1/diff");
    assert!(diff["files"][0]["diff"].as_str().unwrap().contains("-body one\n+body two"), "{diff}");
    configure(&workspace, &[WEB, "body one"]);
    assert!(metrics().contains("handover_running_equals_desired 1"));
    assert_eq!(server.control.get("/v1/diff")["same"], true);
    // A dead worker's metrics are missing, and the supervisor's are there all the same.
    signal(server.control.worker(), Signal::STOP);
    assert!(metrics().contains("handover_generation 1"));
}

fn status_counts_the_connections_and_does_not_wait_for_a_worker_that_hangs() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB]);
    assert_eq!(server.control.status()["connections"], 7);
    signal(server.control.worker(), Signal::STOP);
    let status = server.control.status();
    assert!(status["phase"] == "serving" && status["connections"].is_null(), "{status}");
    assert_eq!(server.control.post("/v1/stop", &[("Prefer", "respond-async")]).0, 202);
}
