//! Nothing wedges while the binary is upgraded: hazards 14, 16, 36, 37 and 46.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::thread;

use handover_testkit::bad::Candidate;
use handover_testkit::config::{fixed, listener};
use handover_testkit::http::{self, Connection};
use handover_testkit::relay::Relay;
use handover_testkit::{
    Everything, Handover, Output, Port, Program, Signal, Workspace, handover, proc, run, signal, text_at,
    until,
};
use serde_json::Value;

fn wait_running(server: &Everything, kind: &str) -> String {
    until("an operation runs", || {
        let status = server.control().status();
        (text_at(&status, "/running/kind") == kind).then(|| text_at(&status, "/running/id").to_owned())
    })
}

/// An upgrade that goes on until its candidate, which does nothing, is given up.
fn begin_slow(server: &Everything) -> (thread::JoinHandle<Output>, String) {
    let path = Candidate::Hangs.make(&server.program, handover!());
    let command = server.handover.command(["upgrade", "--binary", path.to_str().unwrap()]);
    let upgrading = thread::spawn(move || run(command));
    let id = wait_running(server, "upgrade");
    (upgrading, id)
}

/// An upgrade of which the old worker drains for as long as a client's handshake is held back.
struct Draining {
    relay: Relay,
    client: thread::JoinHandle<Connection>,
    upgrading: thread::JoinHandle<Output>,
    id: String,
}

impl Draining {
    fn begin(server: &Everything, version: &str) -> Self {
        let client = server.client();
        let relay = Relay::holding(server.secure.address(), client.hello().len() / 2);
        let address = relay.address();
        let client = thread::spawn(move || client.connect(address).connection);
        relay.wait_held();
        let worker = server.handover.worker();
        let upgrading = server.begin_upgrade_to(version, &[]);
        server.wait_for_another_worker(worker);
        let id = wait_running(server, "upgrade");
        Self { relay, client, upgrading, id }
    }

    /// Lets the handshake end, and with it the upgrade, which must have succeeded.
    #[track_caller]
    fn end(self) -> Connection {
        self.relay.release();
        let mut connection = self.client.join().unwrap();
        assert_eq!(connection.get("/").text(), "origin\n");
        self.upgrading.join().unwrap().expect_code(0);
        connection
    }
}

/// Hazard 14: a reload, and another upgrade, during an upgrade.
#[test]
fn what_comes_during_an_upgrade_is_answered_at_once_with_its_name() {
    let server = Everything::start(handover!());
    let (upgrading, id) = begin_slow(&server);
    for words in [["upgrade"], ["reload"]] {
        let output = server.handover.cli(words);
        assert_eq!(output.code, 13, "{words:?}: {}", output.all());
        assert!(output.all().contains(&id), "{words:?} names {id}: {}", output.all());
    }
    assert_eq!(server.get("/").text(), "origin\n");
    upgrading.join().unwrap().expect_code(11);
    server.upgrade(&[]).expect_code(0);
}

/// Hazards 14 and 46: the first one's old worker drains, for its full time, and whoever asks meanwhile is told so.
#[test]
fn an_upgrade_while_an_old_worker_drains_is_answered_and_never_dropped() {
    let mut server = Everything::start(handover!());
    let draining = Draining::begin(&server, "2");
    let output = server.upgrade(&[]);
    assert_eq!(output.code, 13, "{}", output.all());
    assert!(output.all().contains(&draining.id), "{}", output.all());
    // By signal nobody hears an answer: the history has it, and the log.
    server.handover.signal(Signal::USR2);
    let refused = server.control().wait_for_operation("the refused signal", |one| {
        text_at(one, "/actor/kind") == "signal" && text_at(one, "/kind") == "upgrade"
    });
    assert_ne!(text_at(&refused, "/outcome"), "applied", "{refused}");
    assert!(server.handover.process.stderr_line("USR2").is_some());
    let mut late = draining.end();
    server.upgrade(&[]).expect_code(0);
    assert_eq!(late.get("/bytes/1").body.len(), 1);
}

/// Hazard 14: an upgrade of a drained server says what to do first.
#[test]
fn an_upgrade_of_a_drained_server_is_refused_and_possible_after_resume() {
    let server = Everything::start(handover!());
    server.handover.cli(["drain"]).expect_code(0);
    let output = server.upgrade_to("2", &[]);
    assert_eq!(output.code, 13, "{}", output.all());
    assert!(output.all().contains("resume"), "{}", output.all());
    server.handover.cli(["resume"]).expect_code(0);
    server.upgrade(&[]).expect_code(0);
    assert_eq!(server.get("/").text(), "origin\n");
}

/// Hazard 14: while a reload awaits confirmation.
#[test]
fn an_upgrade_while_a_reload_awaits_confirmation_is_refused_by_its_name() {
    let server = Everything::start(handover!());
    let config = server.workspace.read("handover.toml");
    server.handover.write_config(config + &fixed("/added", "added"));
    server.handover.cli(["reload", "--confirm-within", "10m"]).expect_code(0);
    let id = text_at(&server.control().status(), "/pending/operation_id").to_owned();
    let output = server.upgrade_to("2", &[]);
    assert_eq!(output.code, 13, "{}", output.all());
    assert!(output.all().contains(&id), "{}", output.all());
    server.handover.cli(["confirm"]).expect_code(0);
    server.upgrade(&[]).expect_code(0);
    assert_eq!(server.get("/added").text(), "added");
}

/// Hazards 14 and 16: a reload by signal, which cannot be refused, is carried out afterwards, by the new supervisor.
#[test]
fn a_sighup_during_an_upgrade_is_carried_out_after_it() {
    let mut server = Everything::start(handover!());
    let draining = Draining::begin(&server, "2");
    let config = server.workspace.read("handover.toml");
    server.handover.write_config(config + &fixed("/added", "by signal"));
    server.handover.signal(Signal::HUP);
    // The signal has been taken: a request behind it is answered.
    let _ = server.control().status();
    assert_eq!(server.get("/added").text(), "origin\n", "not yet");
    draining.end();
    let reload = server.control().wait_for_operation("the remembered reload", |one| {
        text_at(one, "/kind") == "reload" && text_at(one, "/actor/kind") == "signal"
    });
    assert_eq!(text_at(&reload, "/outcome"), "applied", "{reload}");
    assert_eq!(server.get("/added").text(), "by signal");
}

/// Hazard 16: everybody gets signals that mean nothing now, in every step of an upgrade.
#[test]
fn stray_signals_during_an_upgrade_are_harmless() {
    let mut server = Everything::start(handover!());
    let pid = server.handover.pid();
    let mut idle = server.idle(1);
    let upgrading = server.begin_upgrade_to("2", &[]);
    while !upgrading.is_finished() {
        for stray in [Signal::USR1, Signal::PIPE, Signal::WINCH] {
            // A process that was just forked has no handlers yet, and nobody else can know its number.
            for one in proc::tree(pid).iter().filter(|one| proc::catches(one.pid, Signal::HUP)) {
                if proc::alive(one.pid) {
                    signal(one.pid, stray);
                }
            }
        }
        thread::yield_now();
    }
    upgrading.join().unwrap().expect_code(0);
    assert!(!server.handover.process.ended());
    assert_eq!(server.handover.pid(), pid);
    idle.ask();
}

/// Hazard 37: before the move the upgrade gives way; the server exits, with nothing left behind.
#[test]
fn a_stop_during_an_upgrade_is_carried_out_and_the_upgrade_told_to_have_failed() {
    let mut server = Everything::start(handover!());
    let (upgrading, _) = begin_slow(&server);
    server.handover.signal(Signal::TERM);
    server.handover.process.wait().expect_code(0);
    let output = upgrading.join().unwrap();
    assert_ne!(output.code, 0, "{}", output.all());
    assert!(server.handover.process.live_descendants().is_empty(), "nothing is left");
}

/// Hazard 37: after it the stop comes next, and what is in flight on either worker may end.
#[test]
fn a_stop_while_an_old_worker_drains_ends_in_bounded_time() {
    let mut server = Everything::start_with(handover!(), "[drain]\ntimeout = \"60s\"\n\n", |it| it);
    let draining = Draining::begin(&server, "2");
    server.handover.signal(Signal::TERM);
    draining.relay.release();
    server.handover.process.wait().expect_code(0);
    let _ = draining.upgrading.join().unwrap();
    // Accepted before the end, or refused: never left waiting.
    let _ = draining.client.join();
    assert!(server.handover.process.live_descendants().is_empty(), "nothing is left");
}

/// Hazard 36: the number of the process stays, and so LISTEN_PID would be right by mistake after the supervisor has become
/// another program.
#[test]
fn inherited_listeners_travel_and_their_variables_do_not() {
    let (workspace, port) = (Workspace::new(), Port::claim());
    let program = Program::install(&workspace, handover!());
    let inherited = TcpListener::bind(port.address()).unwrap();
    let held = proc::listeners(port.number());
    let config = listener("web", &port) + &fixed("/", "inherited");
    let server =
        Handover::of(program.path(), &workspace).config(config).inherit(inherited, "web", true).start();
    for version in ["2", "3"] {
        program.replace(version);
        server.cli(["upgrade"]).expect_code(0);
        assert_eq!(http::get(port.address(), "/").text(), "inherited");
        assert_eq!(proc::listeners(port.number()), held);
        for pid in [server.pid(), server.worker()] {
            let environment = proc::environment(pid);
            assert!(!environment.iter().any(|variable| variable.starts_with("LISTEN_")), "{environment:?}");
        }
    }
    server.cli(["reload"]).expect_code(0);
    let status = server.control.status();
    let web = status["listeners"].as_array().unwrap().iter().find(|one| one["name"] == "web").cloned();
    assert_eq!(web.unwrap()["inherited"], Value::Bool(true), "{status}");
}

/// What was found out before is no longer so when the supervisor's turn comes: it goes on as it was, and says so.
#[test]
fn a_supervisor_that_cannot_become_the_new_binary_goes_on_as_it_was_and_says_so() {
    let server = Everything::start(handover!());
    let mut idle = server.idle(1);
    let supervisor = std::fs::read_link(format!("/proc/{}/exe", server.handover.pid())).unwrap();
    let draining = Draining::begin(&server, "2");
    // Nobody executes it any more (execve(2): EACCES, for root, too).
    server.workspace.mode("bin/handover", 0o000);
    draining.relay.release();
    let output = draining.upgrading.join().unwrap();
    let said = output.expect_code(0).all();
    assert!(said.contains("applied: upgraded") && said.contains("goes on as it was"), "{said}");
    let last = server.last();
    assert_eq!(text_at(&last, "/cause"), "not_reexecuted", "{last}");
    assert_eq!(
        draining.client.join().unwrap().get("/").text(),
        "origin\n",
        "whoever shook hands meanwhile is served"
    );
    let runs = std::fs::read_link(format!("/proc/{}/exe", server.handover.pid())).unwrap();
    assert!(runs.display().to_string().starts_with(&supervisor.display().to_string()), "{runs:?}");
    // It does everything as before, and the next upgrade takes it along.
    idle.ask();
    server.handover.cli(["reload"]).expect_code(0);
    server.upgrade_to("3", &[]).expect_code(0);
    idle.ask();
    let runs = std::fs::read_link(format!("/proc/{}/exe", server.handover.pid())).unwrap();
    assert_eq!(runs, server.program.path(), "the supervisor is the new one");
}
