//! Two processes: what happens when one of them dies, is asked to end, or has a service manager above it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use handover_testkit::config::{drain, everything_to, fixed, listener, service, tcp_listener};
use handover_testkit::echo::Echo;
use handover_testkit::faults::kill;
use handover_testkit::http::{self, Connection};
use handover_testkit::origin::Origin;
use handover_testkit::tunnel::{Download, Tunnel};
use handover_testkit::websocket::WebSocket;
use handover_testkit::{
    DEADLINE, EndOnDrop, Handover, Port, Process, Serving, Signal, Workspace, handover, proc, root, signal,
    text_at, until, wait_for_exit,
};
use serde_json::Value;

fn wait_for_another_worker(server: &Handover, than: u32) -> u32 {
    until("another worker serves", || {
        let status = server.control.status();
        let pid = status.pointer("/worker/pid").and_then(Value::as_u64)?;
        (text_at(&status, "/phase") == "serving" && pid != u64::from(than))
            .then(|| u32::try_from(pid).unwrap())
    })
}

#[test]
fn connections_wait_in_the_queue_while_a_dead_worker_is_replaced() {
    let server = Serving::start(handover!(), &fixed("/", "served"));
    let worker = server.handover.worker();
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _clients = EndOnDrop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                // A connection that the dying worker had accepted is lost with it; refused is none.
                let mut client = Connection::try_open(server.address()).expect("the listener stays open");
                if client.try_get("/").is_ok_and(|response| response.text() == "served") {
                    answered.fetch_add(1, Ordering::AcqRel);
                }
            }
        });
        until("clients are answered", || (answered.load(Ordering::Acquire) > 10).then_some(()));
        kill(worker);
        wait_for_another_worker(&server.handover, worker);
        let before = answered.load(Ordering::Acquire);
        until("clients are answered again", || {
            (answered.load(Ordering::Acquire) > before + 10).then_some(())
        });
    });
    assert!(proc::zombies(server.handover.pid()).is_empty());
    assert_eq!(server.handover.control.status()["respawns"], 1);
    server.reload(&fixed("/", "still reloads")).expect_code(0);
    assert_eq!(server.text("/"), "still reloads");
}

#[test]
fn a_second_server_on_the_same_control_socket_is_refused_by_name() {
    let server = Serving::start(handover!(), &fixed("/", "first"));
    let other = Port::claim();
    let file = server.workspace.write("second.toml", listener("web", &other) + &fixed("/", "second"));
    let output = server.handover.cli(["serve", file.to_str().unwrap()]);
    let said = output.all();
    assert_eq!(output.code, 13, "{said}");
    assert!(said.contains("another supervisor"), "{said}");
    assert!(said.contains(&server.handover.pid().to_string()), "{said}");
    assert!(said.contains(&server.handover.control.path().display().to_string()), "{said}");
    assert_eq!(server.text("/"), "first");
    assert!(proc::listeners(other.number()).is_empty());
}

#[test]
fn a_stale_control_socket_is_replaced() {
    let (workspace, port) = (Workspace::new(), Port::claim());
    drop(std::os::unix::net::UnixListener::bind(workspace.control_socket()).unwrap());
    assert!(workspace.control_socket().exists());
    let config = listener("web", &port) + &fixed("/", "served");
    let server = Handover::of(handover!(), &workspace).config(config).start();
    assert_eq!(server.control.generation(), 1);
}

#[test]
fn sigterm_lets_what_is_in_flight_end_and_exits_with_zero() {
    let origin = Origin::start("origin");
    let rest = [service("origin", origin.address()), everything_to("origin"), drain("60s")].concat();
    let mut server = Serving::start(handover!(), &rest);
    let worker = server.handover.worker();
    let mut held = Download::begin(server.address(), "/slow/1000000?gate=rest");
    held.take(1000);
    let mut idle = Connection::open(server.address());
    assert_eq!(idle.get("/").text(), "origin\n");
    server.handover.signal(Signal::TERM);
    // Idle connections are closed; that is the sign that the drain has begun.
    idle.expect_end();
    origin.gate("rest").open();
    held.finish();
    let output = server.handover.process.wait();
    output.expect_code(0);
    assert!(wait_for_exit(worker, DEADLINE));
    assert!(!server.handover.control.path().exists(), "the control socket is unlinked");
    assert!(Connection::try_open(server.address()).is_err(), "nobody listens any more");
}

#[test]
fn sigterm_cuts_what_does_not_end_in_time_and_says_what_it_was() {
    let (origin, echo, tunnel_port) = (Origin::start("origin"), Echo::start(), Port::claim());
    let rest = [
        tcp_listener("tunnel", &tunnel_port, "echo"),
        service("origin", origin.address()),
        service("echo", echo.address()),
        everything_to("origin"),
        drain("300ms"),
    ]
    .concat();
    let mut server = Serving::start(handover!(), &rest);
    let mut websocket = WebSocket::open(server.address(), "/ws");
    websocket.echo("here");
    let mut tunnel = Tunnel::open(tunnel_port.address());
    tunnel.echo(b"here");
    let output = server.handover.terminate();
    output.expect_code(0);
    for word in ["websocket", "tcp"] {
        assert!(output.all().contains(word), "{word:?} is missing: {}", output.all());
    }
    assert!(websocket.try_echo("gone?").is_err());
}

#[test]
fn a_second_sigterm_ends_it_at_once() {
    let origin = Origin::start("origin");
    let rest = [service("origin", origin.address()), everything_to("origin"), drain("1h")].concat();
    let mut server = Serving::start(handover!(), &rest);
    let mut websocket = WebSocket::open(server.address(), "/ws");
    websocket.echo("here");
    let mut idle = Connection::open(server.address());
    assert_eq!(idle.get("/").text(), "origin\n");
    server.handover.signal(Signal::TERM);
    idle.expect_end();
    server.handover.signal(Signal::TERM);
    server.handover.process.wait().expect_code(0);
}

/// If the supervisor dies, the worker goes on serving, and the next supervisor adopts it.
#[test]
fn a_worker_outlives_its_supervisor_and_is_adopted_with_its_connections() {
    let origin = Origin::start("origin");
    let rest = |message: &str| {
        [service("origin", origin.address()), fixed("/hello", message), everything_to("origin")].concat()
    };
    let mut server = Serving::start(handover!(), &rest("old"));
    let worker = server.handover.worker();
    let mut websocket = WebSocket::open(server.address(), "/ws");
    websocket.echo("here");
    let held = proc::listeners(server.port.number());
    server.handover.process.remember();
    kill(server.handover.pid());
    server.handover.process.wait();
    assert_eq!(server.text("/hello"), "old", "the worker goes on");
    websocket.echo("still here");

    // The first supervisor's process is kept for its clean-up of the worker.
    let Serving { handover: first, port, workspace } = server;
    let second = Handover::of(handover!(), &workspace).config_file("handover.toml").start();
    assert_eq!(second.worker(), worker, "adopted, not replaced");
    assert_eq!(proc::listeners(port.number()), held, "the very same listening socket");
    websocket.echo("and still here");
    workspace.write("handover.toml", listener("web", &port) + &rest("new"));
    second.cli(["reload"]).expect_code(0);
    assert_eq!(http::get(port.address(), "/hello").text(), "new");
    websocket.echo("and after a reload");
    // The adopted worker is replaced like any other when it dies.
    kill(worker);
    wait_for_another_worker(&second, worker);
    assert_eq!(http::get(port.address(), "/hello").text(), "new");
    drop((second, first));
}

/// Drained, its supervisor killed, adopted: it serves again, those first who have waited since the drain.
#[test]
fn a_drained_worker_whose_supervisor_is_killed_is_adopted_and_serves_again() {
    let mut server = Serving::start(handover!(), &fixed("/", "served"));
    let worker = server.handover.worker();
    server.handover.cli(["drain"]).expect_code(0);
    let mut waiting = Connection::open(server.address());
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    server.handover.process.remember();
    kill(server.handover.pid());
    server.handover.process.wait();
    let Serving { handover: first, port, workspace } = server;
    let second = Handover::of(handover!(), &workspace).config_file("handover.toml").start();
    assert_eq!(second.worker(), worker, "adopted, not replaced");
    assert_eq!(waiting.response("GET").text(), "served");
    assert_eq!(http::get(port.address(), "/").text(), "served");
    assert_eq!(text_at(&second.control.status(), "/phase"), "serving");
    workspace.write("handover.toml", listener("web", &port) + &fixed("/", "reloaded"));
    second.cli(["reload"]).expect_code(0);
    assert_eq!(http::get(port.address(), "/").text(), "reloaded");
    drop((second, first));
}

#[test]
fn status_counts_open_connections() {
    let server = Serving::start(handover!(), &fixed("/", "served"));
    let held: Vec<Connection> = (0..3)
        .map(|_| {
            let mut held = Connection::open(server.address());
            assert_eq!(held.get("/").text(), "served");
            held
        })
        .collect();
    assert_eq!(server.handover.control.status()["connections"], 3);
    drop(held);
    until("they are counted no more", || {
        (server.handover.control.status()["connections"] == 0).then_some(())
    });
}

#[test]
fn descriptors_and_processes_after_fifty_reloads_are_those_after_one() {
    let (origin, other) = (Origin::start("origin"), Port::claim());
    let rest = |number: usize| {
        let extra = if number.is_multiple_of(2) { listener("other", &other) } else { String::new() };
        [service("origin", origin.address()), fixed("/version", number), everything_to("origin"), extra]
            .concat()
    };
    let server = Serving::start(handover!(), &rest(0));
    let pids = [server.handover.pid(), server.handover.worker()];
    let descriptors = |number: usize| {
        server.reload(&rest(number)).expect_code(0);
        // Connections of the control socket and of clients that just ended may take a moment to be closed.
        let counts = || pids.map(|pid| proc::descriptors(pid).len());
        until("the descriptors are at rest", || {
            let before = counts();
            let status = server.handover.control.status();
            (text_at(&status, "/phase") == "serving" && counts() == before).then_some(before)
        })
    };
    let after_two = descriptors(2);
    for number in 3..50 {
        server.reload(&rest(number)).expect_code(0);
    }
    let after_fifty = until("the descriptors are back where they were", || {
        let now = descriptors(50);
        (now.iter().zip(after_two).all(|(now, then)| *now <= then)).then_some(now)
    });
    assert_eq!(after_fifty.len(), 2);
    assert_eq!(proc::tree(server.handover.pid()).len(), 2, "supervisor and worker, nobody else");
}

#[test]
fn the_service_manager_is_told_of_every_reload_its_clock_and_its_verdict() {
    let mut server = Serving::start(handover!(), &fixed("/", "old"));
    for (rest, verdict) in [(fixed("/", "new"), "applied"), ("[nonsense]\n".to_owned(), "rejected")] {
        let mark = server.handover.notifications.mark();
        server.write(&rest);
        server.handover.signal(Signal::HUP);
        let notifications = &server.handover.notifications;
        let _ = notifications.wait_after(mark, "RELOADING=1");
        let _ = notifications.wait_after(mark, "READY=1");
        let clock = notifications.wait_after(mark, "MONOTONIC_USEC=");
        assert!(clock.trim_start_matches("MONOTONIC_USEC=").parse::<u64>().is_ok(), "{clock}");
        let told = until("the verdict is in STATUS", || {
            let messages = notifications.messages();
            let mut lines = messages[mark..].iter().flat_map(|message| message.lines());
            lines.find(|line| line.starts_with("STATUS=") && line.contains(verdict)).map(str::to_owned)
        });
        assert!(told.contains("generation 2"), "{told}");
    }
    server.handover.terminate().expect_code(0);
    let _ = server.handover.notifications.wait_after(0, "STOPPING=1");
}

#[test]
fn the_watchdog_is_fed() {
    let (workspace, port) = (Workspace::new(), Port::claim());
    let config = listener("web", &port) + &fixed("/", "x");
    let server = Handover::of(handover!(), &workspace).config(config).env("WATCHDOG_USEC", "300000").start();
    for _ in 0..3 {
        let mark = server.notifications.mark();
        let _ = server.notifications.wait_after(mark, "WATCHDOG=1");
    }
}

/// In a container: signals have no default action for PID 1, and orphans become its children.
#[test]
fn as_the_first_process_it_handles_signals_and_reaps_orphans() {
    if !root("as_the_first_process_it_handles_signals_and_reaps_orphans") {
        return;
    }
    let (workspace, port) = (Workspace::new(), Port::claim());
    let file = workspace.write("handover.toml", listener("web", &port) + &fixed("/", "contained"));
    let serve = handover_testkit::command(handover!().as_ref(), &workspace);
    let mut unshare = handover_testkit::faults::through_shell(
        &serve,
        "exec unshare --pid --fork --kill-child --mount-proc \"$0\" \"$@\"",
    );
    unshare.arg("serve").arg(file);
    let mut process = Process::start(unshare);
    until("it serves", || {
        assert!(!process.ended(), "{}", process.stderr());
        let mut client = Connection::try_open(port.address()).ok()?;
        (client.try_get("/").ok()?.text() == "contained").then_some(())
    });
    let first = proc::children(process.pid())[0].pid;

    // An orphan: its parent ends at once.
    let mut enter = Command::new("nsenter");
    enter.args(["--pid", "--target", &first.to_string(), "sh", "-c", "(exec cat /dev/null) & exit 0"]);
    handover_testkit::run(enter).expect_code(0);
    until("orphans are reaped", || proc::zombies(first).is_empty().then_some(()));
    for stray in [Signal::HUP, Signal::USR1] {
        signal(first, stray);
    }
    assert_eq!(http::get(port.address(), "/").text(), "contained");
    signal(first, Signal::TERM);
    process.wait().expect_code(0);
}
