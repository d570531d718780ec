//! Nothing wedges: hazards 14 and 16.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Write as _;

use handover_testkit::config::{drain, everything_to, fixed, listener, service};
use handover_testkit::faults::freeze;
use handover_testkit::origin::Origin;
use handover_testkit::tunnel::Download;
use handover_testkit::{
    Handover, Port, Serving, Signal, Workspace, handover, operation_of, proc, signal, text_at, until,
};

fn wait_running(server: &Serving, kind: &str) -> String {
    until("an operation runs", || {
        let status = server.handover.control.status();
        (text_at(&status, "/running/kind") == kind).then(|| text_at(&status, "/running/id").to_owned())
    })
}

/// Hazard 14: a reload during a reload.
#[test]
fn of_two_reloads_at_once_one_runs_and_the_other_is_answered_at_once() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    let control = &server.handover.control;
    server.write(&fixed("/", "new"));
    let worker = freeze(server.handover.worker());
    let mut first = control.begin("/v1/reload", &[]);
    let running = wait_running(&server, "reload");

    let (status, problem) = control.post("/v1/reload", &[]);
    assert_eq!(status, 409, "{problem}");
    assert_eq!(text_at(&problem, "/operation_id"), running, "{problem}");
    let output = server.handover.cli(["reload"]);
    assert_eq!(output.code, 13, "{}", output.all());
    assert!(output.all().contains(&running), "the running operation's ID: {}", output.all());

    drop(worker);
    let answer: serde_json::Value = serde_json::from_slice(&first.response("POST").expect(200).body).unwrap();
    assert_eq!((text_at(&answer, "/id"), text_at(&answer, "/outcome")), (running.as_str(), "applied"));
    server.reload(&fixed("/", "newer")).expect_code(0);
    assert_eq!(server.text("/"), "newer");
}

/// Hazard 14: ten at once, none lost, and what serves is what the file says.
#[test]
fn of_ten_reloads_at_once_each_is_answered_and_the_last_state_of_the_file_serves() {
    let server = Serving::start(handover!(), &fixed("/", "old"));
    server.write(&fixed("/", "new"));
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let control = &server.handover.control;
        let asked: Vec<_> = (0..10).map(|_| scope.spawn(|| control.post("/v1/reload", &[]).0)).collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|status| [200, 409].contains(status)), "{answers:?}");
    assert!(answers.contains(&200), "{answers:?}");
    assert_eq!(server.text("/"), "new");
    server.handover.cli(["reload"]).expect_code(0);
}

/// Hazard 14: SIGHUP cannot be told "busy", so it is remembered.
#[test]
fn a_sighup_during_a_reload_is_carried_out_after_it() {
    let mut server = Serving::start(handover!(), &fixed("/", "old"));
    let mut events = server.handover.control.events();
    server.write(&fixed("/", "first"));
    let worker = freeze(server.handover.worker());
    let mut first = server.handover.control.begin("/v1/reload", &[]);
    wait_running(&server, "reload");
    server.write(&fixed("/", "second"));
    server.handover.signal(Signal::HUP);
    server.handover.signal(Signal::HUP);
    // Both signals have been taken before the worker goes on: a request behind them is answered.
    let _ = server.handover.control.status();
    drop(worker);
    let _ = first.response("POST").expect(200);
    events.wait_for("the remembered reload", |event| {
        text_at(&event.data, "/kind") == "operation_done"
            && text_at(&event.data, "/operation/actor/kind") == "signal"
    });
    assert_eq!(server.text("/"), "second");
}

/// Hazards 14 and 16: a hundred signals while one reload is slow are one more reload, and the server is well.
#[test]
fn a_storm_of_sighups_during_a_slow_reload_is_one_more_reload() {
    let mut server = Serving::start(handover!(), &fixed("/", "old"));
    let mark = server.handover.notifications.mark();
    server.write(&fixed("/", "first"));
    let worker = freeze(server.handover.worker());
    let mut first = server.handover.control.begin("/v1/reload", &[]);
    wait_running(&server, "reload");
    server.write(&fixed("/", "second"));
    for _ in 0..100 {
        server.handover.signal(Signal::HUP);
        // It has been taken before the next one comes: a request behind it is answered.
        let _ = server.handover.control.get("/v1/generations");
    }
    drop(worker);
    let _ = first.response("POST").expect(200);
    let last = until("the remembered reload has ended", || {
        let status = server.handover.control.status();
        (text_at(&status, "/last/actor/kind") == "signal" && status["running"].is_null()).then_some(status)
    });
    // The first one, held up before it had read the file, has taken the second text: the other finds it serving.
    assert_eq!((&last["generation"]["number"], text_at(&last, "/last/outcome")), (&2.into(), "unchanged"));
    assert_eq!(server.text("/"), "second");
    // Signals may melt into one; all that arrived are in the history, with one end.
    let history = server.handover.control.get("/v1/history?limit=300");
    let signals = history.as_array().unwrap().iter().filter(|one| text_at(one, "/actor/kind") == "signal");
    let outcomes: Vec<&str> = signals.map(|one| text_at(one, "/outcome")).collect();
    assert!(outcomes.len() > 1 && outcomes.iter().all(|outcome| *outcome == "unchanged"), "{history}");
    // The service manager's last word on it is READY.
    let told = server.handover.notifications.messages().split_off(mark);
    let mut states = told.iter().filter(|m| m.starts_with("RELOADING=1") || m.starts_with("READY=1"));
    assert!(states.next_back().is_some_and(|last| last.starts_with("READY=1")), "{told:?}");
    server.reload(&fixed("/", "third")).expect_code(0);
    assert_eq!(server.text("/"), "third");
}

/// Hazard 14: a reload, and a resume, while connections drain.
#[test]
fn a_reload_during_a_drain_is_refused_and_resume_goes_back_to_serving() {
    let origin = Origin::start("origin");
    let rest = service("origin", origin.address()) + &everything_to("origin");
    let server = Serving::start(handover!(), &rest);
    let control = &server.handover.control;
    let mut held = Download::begin(server.address(), "/slow/100000?gate=rest");
    held.take(10);
    let mut draining = control.begin("/v1/drain", &[]);
    wait_running(&server, "drain");
    let (status, problem) = control.post("/v1/reload", &[]);
    assert_eq!(status, 409, "{problem}");

    let (status, operation) = control.post("/v1/resume", &[]);
    assert_eq!(status, 200, "{operation}");
    let drained: serde_json::Value = serde_json::from_slice(&draining.response("POST").body).unwrap();
    assert_ne!(text_at(operation_of(&drained), "/outcome"), "applied", "the drain was broken off: {drained}");
    assert_eq!(server.text("/x"), "origin\n");
    origin.gate("rest").open();
    held.finish();
    server.handover.cli(["reload"]).expect_code(0);
}

/// Hazard 14: a stop during a drain takes its place, and a request that goes on is not cut by either.
#[test]
fn a_stop_during_a_drain_takes_over_and_what_is_in_flight_ends_whole() {
    let origin = Origin::start("origin");
    let rest = [service("origin", origin.address()), everything_to("origin"), drain("60s")].concat();
    let mut server = Serving::start(handover!(), &rest);
    let mut held = Download::begin(server.address(), "/slow/100000?gate=rest");
    held.take(10);
    let _draining = server.handover.control.begin("/v1/drain", &[]);
    wait_running(&server, "drain");
    server.handover.signal(Signal::TERM);
    wait_running(&server, "stop");
    origin.gate("rest").open();
    held.finish();
    server.handover.process.wait().expect_code(0);
}

/// Hazard 16: the supervisor, while it starts.
#[test]
fn stray_signals_during_start_up_are_harmless() {
    let (workspace, port) = (Workspace::new(), Port::claim());
    // Many routes make the start long enough to be disturbed.
    let mut config = listener("web", &port);
    for number in 0..2000 {
        writeln!(config, "[[routes]]\npath = \"/{number}\"\nfixed = \"{number}\"").unwrap();
    }
    let mut server = Handover::of(handover!(), &workspace).config(config).start_unawaited();
    let pid = server.pid();
    until("signals are handled", || {
        assert!(proc::alive(pid), "it ended: {}", server.process.stderr());
        (proc::catches(pid, Signal::HUP) && proc::catches(pid, Signal::USR1)).then_some(())
    });
    let deadline = handover_testkit::Deadline::usual();
    while !server.notifications.messages().iter().any(|message| message.contains("READY=1")) {
        assert!(!deadline.passed(), "it does not become ready: {}", server.process.stderr());
        server.signal(Signal::HUP);
        server.signal(Signal::USR1);
        assert!(!server.process.ended(), "a signal ended it: {}", server.process.stderr());
        std::thread::yield_now();
    }
    assert_eq!(handover_testkit::http::get(port.address(), "/1999").text(), "1999");
}

/// Hazard 16: supervisor and worker, while they serve and while a reload runs.
#[test]
fn stray_signals_while_serving_and_reloading_are_harmless() {
    let mut server = Serving::start(handover!(), &fixed("/", "old"));
    let (supervisor, worker) = (server.handover.pid(), server.handover.worker());
    for stray in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::PIPE, Signal::WINCH] {
        // Somebody says `killall -HUP handover`: both processes get it. To the supervisor USR2 is not stray: it asks for
        // an upgrade.
        signal(worker, stray);
        if stray != Signal::USR2 {
            signal(supervisor, stray);
        }
    }
    assert_eq!(server.text("/"), "old");
    server.write(&fixed("/", "new"));
    let frozen = freeze(worker);
    // Whatever the signals began ends first, or joins.
    let mut reload = server.handover.control.begin("/v1/reload", &[]);
    for stray in [Signal::HUP, Signal::USR1] {
        signal(worker, stray);
        server.handover.signal(stray);
    }
    drop(frozen);
    let status = reload.response("POST").status();
    assert!([200, 409].contains(&status), "{status}");
    until("the new configuration serves", || (server.text("/") == "new").then_some(()));
    assert_eq!((server.handover.pid(), server.handover.worker()), (supervisor, worker));
}

/// Hazard 16: while it ends.
#[test]
fn stray_signals_during_shutdown_are_harmless() {
    let origin = Origin::start("origin");
    let rest = [service("origin", origin.address()), everything_to("origin"), drain("60s")].concat();
    let mut server = Serving::start(handover!(), &rest);
    let worker = server.handover.worker();
    let mut held = Download::begin(server.address(), "/slow/100000?gate=rest");
    held.take(10);
    server.handover.signal(Signal::TERM);
    wait_running(&server, "stop");
    for stray in [Signal::HUP, Signal::USR1, Signal::HUP] {
        signal(worker, stray);
        server.handover.signal(stray);
    }
    origin.gate("rest").open();
    held.finish();
    server.handover.process.wait().expect_code(0);
}
