//! Workers that die, drains, and the end of the supervisor.

use std::net::TcpStream;

use handover_testkit::{DEADLINE, Workspace, proc, signal, until, wait_for_exit};
use rustix::process::Signal;

use crate::server::{Server, another_worker, ask, command, configure, read_answer, try_ask};

crate::tests! {
    a_killed_worker_is_replaced_and_no_connection_is_refused
    a_worker_is_replaced_from_the_kept_executable_and_the_bytes_that_served
    no_zombie_stays
    a_drained_server_holds_connections_until_it_is_resumed
    a_stop_says_how_many_connections_were_cut
    a_worker_that_does_not_stop_is_killed_in_bounded_time
    a_second_term_ends_a_drain_at_once
    a_stopped_worker_closes_its_ports_and_a_new_start_goes_on_counting
    stray_signals_to_the_worker_are_harmless
    the_watchdog_is_fed_as_long_as_the_worker_answers
}

const WEB: &str = "listen web 127.0.0.1:0";

/// Kills a worker, and waits until it accepts no connection any more.
fn kill(worker: u32) {
    signal(worker, Signal::KILL);
    assert!(wait_for_exit(worker, DEADLINE));
}

fn a_killed_worker_is_replaced_and_no_connection_is_refused() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one"]);
    let (address, worker) = (server.address("web"), server.control.worker());
    kill(worker);
    for _ in 0..20 {
        // Refused would be an error; those that came before the next worker wait for it.
        assert_eq!(ask(address), "1 one");
    }
    let next = another_worker(&server, worker);
    assert_eq!(proc::children(server.process.pid()).iter().map(|stat| stat.pid).collect::<Vec<_>>(), [next]);
    assert_eq!(server.control.status()["respawns"], 1);
}

fn a_worker_is_replaced_from_the_kept_executable_and_the_bytes_that_served() {
    let workspace = Workspace::new();
    let program = workspace.path("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    configure(&workspace, &[WEB, "body kept"]);
    let mut command = std::process::Command::new(&program);
    for (name, value) in crate::server::command(&workspace).get_envs() {
        value.into_iter().for_each(|value| {
            command.env(name, value);
        });
    }
    let server = Server::start_with(&workspace, command);
    let (address, worker) = (server.address("web"), server.control.worker());
    std::fs::remove_file(&program).unwrap();
    std::fs::write(&program, "half a copy").unwrap();
    configure(&workspace, &["prepare die"]);
    kill(worker);
    assert_eq!(ask(address), "1 kept");
}

fn no_zombie_stays() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB]);
    let worker = server.control.worker();
    let (status, operation) = server.control.post("/v1/actions/orphan", &[]);
    assert_eq!(status, 200);
    let orphan: u32 = operation["answer"].as_str().unwrap().parse().unwrap();
    until("the orphan is reaped", || (!proc::alive(orphan) && proc::stat(orphan).is_none()).then_some(()));
    kill(worker);
    another_worker(&server, worker);
    until("no zombie is left", || proc::zombies(server.process.pid()).is_empty().then_some(()));
}

fn a_drained_server_holds_connections_until_it_is_resumed() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one", "losses 2"]);
    let address = server.address("web");
    let (status, operation) = server.control.post("/v1/drain", &[]);
    assert_eq!((status, &operation["losses"]["test"]), (200, &2.into()), "{operation}");
    assert_eq!(operation["outcome"], "applied_with_losses");
    let mut waiting = TcpStream::connect(address).unwrap();
    assert_eq!(server.control.status()["phase"], "drained");
    assert_eq!(server.control.post("/v1/reload", &[]).0, 409);
    assert_eq!(server.control.post("/v1/resume", &[]).0, 200);
    assert_eq!(read_answer(&mut waiting).unwrap(), "1 one");
}

fn a_stop_says_how_many_connections_were_cut() {
    let workspace = Workspace::new();
    let mut server = Server::start(&workspace, &[WEB, "losses 3"]);
    let output = server.terminate();
    output.expect_code(0);
    assert!(output.stderr.contains("3 connections cut (3 test)"), "{}", output.stderr);
}

fn a_worker_that_does_not_stop_is_killed_in_bounded_time() {
    let workspace = Workspace::new();
    let mut server = Server::start(&workspace, &[WEB, "stop hang"]);
    let worker = server.control.worker();
    server.terminate().expect_code(0);
    assert!(!proc::alive(worker));
}

fn a_second_term_ends_a_drain_at_once() {
    let workspace = Workspace::new();
    let mut server = Server::start(&workspace, &[WEB, "drain hang"]);
    let mark = server.notifications.mark();
    server.process.signal(Signal::TERM);
    assert_eq!(server.notifications.wait_after(mark, "STOPPING=1"), "STOPPING=1");
    // The drain alone would take ten seconds, by the worker's own settings.
    server.terminate().expect_code(0);
    assert_eq!(server.process.live_descendants(), [0; 0]);
}

fn a_stopped_worker_closes_its_ports_and_a_new_start_goes_on_counting() {
    let workspace = Workspace::new();
    let mut server = Server::start(&workspace, &[WEB, "body one"]);
    let address = server.address("web");
    let (status, operation) = server.control.post("/v1/stop", &[]);
    assert_eq!((status, &operation["outcome"]), (200, &"applied".into()), "{operation}");
    // Whoever waited for the answer can start anew at once.
    let again = Server::start_again(&workspace);
    assert!(try_ask(address).is_err());
    assert_eq!(again.control.generation(), 2);
    let kinds: Vec<String> = again.history().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["start", "stop", "start"]);
    server.process.wait().expect_code(0);
}

fn stray_signals_to_the_worker_are_harmless() {
    let workspace = Workspace::new();
    let server = Server::start(&workspace, &[WEB, "body one"]);
    let worker = server.control.worker();
    for stray in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::TERM, Signal::INT, Signal::QUIT] {
        signal(worker, stray);
    }
    assert_eq!(ask(server.address("web")), "1 one");
    assert_eq!(server.control.worker(), worker);
}

fn the_watchdog_is_fed_as_long_as_the_worker_answers() {
    let workspace = Workspace::new();
    configure(&workspace, &[WEB]);
    let mut watched = command(&workspace);
    watched.env("WATCHDOG_USEC", "60000");
    let server = Server::start_with(&workspace, watched);
    let fed = || server.notifications.wait_after(server.notifications.mark(), "WATCHDOG=1");
    assert_eq!((fed(), fed()), ("WATCHDOG=1".to_owned(), "WATCHDOG=1".to_owned()));
    signal(server.control.worker(), Signal::STOP);
    // What was answered before it was stopped may still come; then the supervisor itself finds that it does not answer.
    assert!(server.process.stderr_line("the worker has not answered").is_some());
    let mark = server.notifications.mark();
    let mut events = server.control.events();
    configure(&workspace, &[WEB, "body two"]);
    let key = [("Prefer", "respond-async")];
    assert_eq!(server.control.post("/v1/reload", &key).0, 202);
    events.wait_for("the reload begins", |event| event.name == "operation_started");
    assert_eq!(server.notifications.wait_after(mark, "RELOADING=1"), "RELOADING=1");
    assert!(!server.notifications.messages()[mark..].iter().any(|message| message.contains("WATCHDOG")));
    signal(server.control.worker(), Signal::CONT);
    assert_eq!(server.notifications.wait_after(mark, "WATCHDOG=1"), "WATCHDOG=1");
    assert_eq!(server.notifications.wait_after(mark, "READY=1"), "READY=1");
}
