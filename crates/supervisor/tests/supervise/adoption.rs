//! A supervisor dies, its worker goes on, and the next supervisor takes it over.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use handover_testkit::{DEADLINE, Process, Workspace, proc, signal, until, wait_for_exit};
use rustix::process::Signal;

use crate::server::{Server, another_worker, ask, command, configure, try_ask};

crate::tests! {
    a_worker_outlives_its_supervisor_and_is_adopted_without_a_refused_connection
    an_adopted_worker_that_dies_is_replaced
    a_worker_is_adopted_as_often_as_it_must
    a_reload_that_died_with_its_supervisor_is_ended_by_the_next_one
    a_drained_worker_that_is_adopted_serves_again
    a_unix_listener_survives_adoption_and_is_unlinked_at_the_end
    an_adopted_worker_stops_with_its_supervisor
    an_orphan_that_does_not_answer_is_ended_before_its_port_is_bound_anew
    an_orphan_that_had_not_come_to_serve_is_ended_before_the_start
}

const WEB: &str = "listen web 127.0.0.1:0";

fn kill(server: &mut Server) {
    server.process.signal(Signal::KILL);
    assert_eq!(server.process.wait().code, 128 + 9);
}

fn a_worker_outlives_its_supervisor_and_is_adopted_without_a_refused_connection() {
    let workspace = Workspace::new();
    let mut first = Server::start(&workspace, &[WEB, "body one"]);
    first.reload(&workspace, &[WEB, "body two"]);
    let (address, worker) = (first.address("web"), first.control.worker());
    let done = Arc::new(AtomicBool::new(false));
    let asking = Arc::clone(&done);
    let client = thread::spawn(move || {
        let mut answers = 0;
        while !asking.load(Ordering::Relaxed) {
            assert_eq!(try_ask(address).expect("no connection may be refused"), "2 two");
            answers += 1;
        }
        answers
    });
    kill(&mut first);
    assert!(proc::alive(worker));
    assert_eq!(ask(address), "2 two");
    let second = Server::start_again(&workspace);
    assert_eq!(second.control.generation(), 2);
    assert_eq!((second.address("web"), second.control.worker()), (address, worker));
    let kinds: Vec<String> = second.history().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["start", "reload", "start"]);
    assert_eq!(second.control.status()["last"]["cause"], "adopted");
    assert_eq!(second.reload(&workspace, &[WEB, "body two"]).1["outcome"], "unchanged");
    done.store(true, Ordering::Relaxed);
    assert!(client.join().unwrap() > 0);
    assert_eq!(second.reload(&workspace, &[WEB, "body three"]).1["generation"], 3);
    assert_eq!(ask(address), "3 three");
    drop(second);
    drop(first);
}

fn an_adopted_worker_that_dies_is_replaced() {
    let workspace = Workspace::new();
    let mut first = Server::start(&workspace, &[WEB, "body one"]);
    let (address, worker) = (first.address("web"), first.control.worker());
    kill(&mut first);
    configure(&workspace, &["prepare die"]);
    let second = Server::start_again(&workspace);
    signal(worker, Signal::KILL);
    assert!(wait_for_exit(worker, DEADLINE));
    assert_eq!(ask(address), "1 one");
    another_worker(&second, worker);
}

fn a_worker_is_adopted_as_often_as_it_must() {
    let workspace = Workspace::new();
    // Dropped last: they all listened for notifications at one path, where the newest listens.
    let mut dead = Vec::new();
    let mut server = Server::start(&workspace, &[WEB, "body one"]);
    let (address, worker) = (server.address("web"), server.control.worker());
    for number in 2..5 {
        kill(&mut server);
        dead.push(std::mem::replace(&mut server, Server::start_again(&workspace)));
        assert_eq!(server.control.worker(), worker);
        let body = format!("body {number}");
        assert_eq!(server.reload(&workspace, &[WEB, &body]).1["generation"], number);
        assert_eq!(ask(address), format!("{number} {number}"));
    }
}

fn a_reload_that_died_with_its_supervisor_is_ended_by_the_next_one() {
    let workspace = Workspace::new();
    let mut first = Server::start(&workspace, &[WEB, "body one"]);
    configure(&workspace, &["prepare hang"]);
    let mut events = first.control.events();
    let key = [("Idempotency-Key", "lost"), ("Prefer", "respond-async")];
    assert_eq!(first.control.post("/v1/reload", &key).0, 202);
    events.wait_for("the reload begins", |event| event.name == "operation_started");
    kill(&mut first);
    let second = Server::start_again(&workspace);
    let operation = second.control.get("/v1/operations/lost");
    assert_eq!(
        (&operation["outcome"], &operation["cause"]),
        (&"not_ready".into(), &"supervisor_died".into())
    );
    assert_eq!(ask(second.address("web")), "1 one");
}

fn a_drained_worker_that_is_adopted_serves_again() {
    let workspace = Workspace::new();
    let mut first = Server::start(&workspace, &[WEB, "body one"]);
    let address = first.address("web");
    assert_eq!(first.control.post("/v1/drain", &[]).0, 200);
    let waiting = TcpStream::connect(address).unwrap();
    kill(&mut first);
    let second = Server::start_again(&workspace);
    let mut waiting = waiting;
    assert_eq!(crate::server::read_answer(&mut waiting).unwrap(), "1 one");
    assert_eq!(second.control.status()["phase"], "serving");
}

fn a_unix_listener_survives_adoption_and_is_unlinked_at_the_end() {
    let workspace = Workspace::new();
    let path = workspace.path("app.sock");
    let mut first = Server::start(&workspace, &[&format!("listen app unix:{}", path.display())]);
    kill(&mut first);
    let mut second = Server::start_again(&workspace);
    std::os::unix::net::UnixStream::connect(&path).unwrap();
    second.terminate().expect_code(0);
    assert!(!path.exists());
}

fn an_orphan_that_does_not_answer_is_ended_before_its_port_is_bound_anew() {
    let workspace = Workspace::new();
    let mut first = Server::start(&workspace, &[WEB, "body one"]);
    let (address, worker) = (first.address("web"), first.control.worker());
    signal(worker, Signal::STOP);
    kill(&mut first);
    configure(&workspace, &[&format!("listen web {address}"), "body two"]);
    let second = Server::start_again(&workspace);
    assert_eq!(ask(address), "2 two");
    assert!(!proc::alive(worker) && second.control.worker() != worker);
    assert!(second.process.stderr_line("does not answer").is_some(), "{}", second.process.stderr());
}

fn an_orphan_that_had_not_come_to_serve_is_ended_before_the_start() {
    let workspace = Workspace::new();
    configure(&workspace, &["prepare hang"]);
    let mut first = Server::begin(&workspace, command(&workspace));
    let worker = until("the worker prepares", || {
        let status =
            first.control.try_ask("GET", "/v1/status", &[("Accept", "application/json")], "").ok()?;
        let status: serde_json::Value = serde_json::from_str(&status.text()).ok()?;
        let steps = status["running"]["steps"].as_array()?.iter().any(|step| step["name"] == "prepare");
        steps.then(|| u32::try_from(status.pointer("/worker/pid")?.as_u64()?).ok())?
    });
    kill(&mut first);
    configure(&workspace, &[WEB, "body two"]);
    let second = Server::start_again(&workspace);
    assert!(ask(second.address("web")).ends_with("two"));
    assert!(!proc::alive(worker));
}

fn an_adopted_worker_stops_with_its_supervisor() {
    let workspace = Workspace::new();
    let mut first = Server::start(&workspace, &[WEB, "body one"]);
    let (address, worker) = (first.address("web"), first.control.worker());
    kill(&mut first);
    let mut second = Server::start_again(&workspace);
    second.terminate().expect_code(0);
    assert!(wait_for_exit(worker, DEADLINE) && try_ask(address).is_err());
    until("nothing is left", || {
        let left = workspace.listing();
        (!left.iter().any(|path| path.starts_with("run/") && !path.ends_with("notify.sock"))).then_some(())
    });
    // And the next start is a fresh one.
    let third = Process::start(command(&workspace));
    assert!(third.stdout_line("generation 2").is_some());
}
