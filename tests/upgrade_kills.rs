//! Every step of an upgrade, and of taking one back, and a death at each: of the supervisor, the old worker, the candidate.
//!
//! As in `crash_points.rs`, the events of an operation tell its steps. Each run lets the blow fall one step later, until the
//! operation ends first. What must hold afterwards, whoever was killed when: somebody serves, and the state can be told;
//! connections of a worker that was not killed live; and the next upgrade succeeds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt;
use std::thread;
use std::time::Duration;

use handover_testkit::config::{everything_to, listener, patient, service};
use handover_testkit::http::Connection;
use handover_testkit::origin::Origin;
use handover_testkit::{
    Handover, Port, Program, Signal, Workspace, handover, proc, sha256, signal, text_at, until,
};
use serde_json::Value;

/// More steps than any operation has.
const MOST_STEPS: usize = 40;
/// The step in which connections change hands.
const MOVE: &str = "hand_over";
/// So many are open, so that the move takes a moment.
const CONNECTIONS: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Supervisor,
    /// The worker that serves when it is asked for.
    Old,
    /// Whoever else is there: the binary that is asked about itself, the candidate, the new worker, the one that rehearses.
    New,
}

/// An operation in the course of which somebody dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Upgrade,
    UpgradeConfirmWithin,
    Confirm,
    Cancel,
}

impl Change {
    fn path(self) -> &'static str {
        match self {
            Self::Upgrade => "/v1/upgrade",
            Self::UpgradeConfirmWithin => "/v1/upgrade?confirm_within=10m",
            Self::Confirm => "/v1/confirm",
            Self::Cancel => "/v1/cancel",
        }
    }
}

/// When the blow is to fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// At this event.
    Event(usize),
    /// So long after the two workers were told to move connections.
    InTheMove(Duration),
}

/// Everything that belongs to one run.
struct Scene {
    workspace: Workspace,
    program: Program,
    port: Port,
    _origin: Origin,
    change: Change,
    victim: Victim,
    /// At which event, or, if that is not known beforehand, how long after the move has begun.
    when: When,
    /// The digest of the binary that is upgraded to.
    next: String,
    /// Where the blow fell.
    step: String,
    /// Connections that were there before.
    kept: Vec<Connection>,
    /// Supervisors that were killed: they still clean up at the end.
    before: Vec<Handover>,
    now: Handover,
}

impl fmt::Display for Scene {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}, {:?} killed at {:?} ({})", self.change, self.victim, self.when, self.step)
    }
}

impl Scene {
    fn new(change: Change, victim: Victim, when: When) -> Self {
        let (workspace, port, origin) = (Workspace::new(), Port::claim(), Origin::start("origin"));
        let program = Program::install(&workspace, handover!());
        let config = [
            listener("web", &port),
            patient("web"),
            service("origin", origin.address()),
            everything_to("origin"),
        ]
        .concat();
        let now = Handover::of(program.path(), &workspace).operator(handover!()).config(config).start();
        program.replace("2");
        if matches!(change, Change::Confirm | Change::Cancel) {
            now.cli(["upgrade", "--confirm-within", "10m"]).expect_code(0);
        }
        let mut kept: Vec<Connection> = (0..CONNECTIONS).map(|_| Connection::open(port.address())).collect();
        for connection in &mut kept {
            assert_eq!(connection.get("/").text(), "origin\n");
        }
        let (before, step, next) = (Vec::new(), String::new(), sha256(program.path()));
        Self {
            workspace,
            program,
            port,
            _origin: origin,
            change,
            victim,
            when,
            next,
            step,
            kept,
            before,
            now,
        }
    }

    /// Asks for the change and lets the blow fall at the event; false if the operation ended first.
    fn strike(&mut self) -> bool {
        let mut events = self.now.control.events();
        let worker = self.now.worker();
        let asked = self.now.control.begin(self.change.path(), &[]);
        let (mut count, mut struck) = (0, false);
        // The supervisor that becomes another program lets go of who listens: that is an end, too.
        while let Some(event) = events.next_or_end() {
            let steps = event.data.pointer("/operation/steps").and_then(Value::as_array);
            let step = steps.and_then(|steps| steps.last()).map_or("", |step| text_at(step, "/name"));
            let strikes = match self.when {
                When::Event(at) => count == at,
                When::InTheMove(_) => step == MOVE,
            };
            if strikes {
                if let When::InTheMove(after) = self.when {
                    thread::park_timeout(after);
                }
                self.step = format!("{} {step}", text_at(&event.data, "/kind"));
                self.kill(worker);
                struck = true;
                break;
            }
            if text_at(&event.data, "/kind") == "operation_done" {
                break;
            }
            count += 1;
        }
        // Whoever asked may never get an answer; what matters is that it can be asked for later.
        drop(asked);
        struck
    }

    fn kill(&mut self, worker: u32) {
        self.now.process.remember();
        let supervisor = self.now.pid();
        match self.victim {
            Victim::Supervisor => {
                signal(supervisor, Signal::KILL);
                self.now.process.wait();
            }
            Victim::Old => end(worker),
            Victim::New => {
                for stat in proc::tree(supervisor) {
                    if ![supervisor, worker].contains(&stat.pid) && stat.state != 'Z' {
                        end(stat.pid);
                    }
                }
            }
        }
    }

    /// Lets the blow fall and looks whether all is well afterwards; false if the operation ended before.
    fn run(&mut self) -> bool {
        let struck = self.strike();
        if struck {
            self.succeed();
        }
        self.check();
        self.check_the_next_upgrade();
        struck
    }

    /// A supervisor for what is left.
    fn succeed(&mut self) {
        if self.victim != Victim::Supervisor {
            return;
        }
        // The worker alone serves, old or new, and no connection is refused.
        let text = self.text().unwrap_or_else(|error| panic!("{self}: nobody serves: {error}"));
        assert_eq!(text, "origin\n", "{self}");
        let next = Handover::of(self.program.path(), &self.workspace)
            .operator(handover!())
            .config_file("handover.toml")
            .start();
        self.before.push(std::mem::replace(&mut self.now, next));
    }

    fn text(&self) -> std::io::Result<String> {
        Ok(Connection::try_open(self.port.address())?.try_get("/")?.text())
    }

    /// What must hold whatever happened.
    fn check(&mut self) {
        until(&format!("{self}: nothing runs any more"), || {
            let accept = [("Accept", "application/json")];
            let answer = self.now.control.try_ask("GET", "/v1/status", &accept, "").ok()?;
            let status: Value = serde_json::from_slice(&answer.body).ok()?;
            (text_at(&status, "/phase") == "serving"
                && status["running"].is_null()
                && status["worker"].is_object())
            .then_some(())
        });
        let text = self.text().unwrap_or_else(|error| panic!("{self}: nobody serves: {error}"));
        assert_eq!(text, "origin\n", "{self}");
        for operation in self.now.control.history() {
            assert_eq!(text_at(&operation, "/state"), "done", "{self}: {operation}");
            assert!(operation["outcome"].is_string(), "{self}: {operation}");
        }
        self.check_pending();
        self.check_truth();
        self.check_connections();
    }

    /// What came of the upgrade is what serves.
    fn check_truth(&self) {
        if self.change != Change::Upgrade {
            return;
        }
        let serving = until("the digest is known", || {
            let status = self.now.control.status();
            Some(text_at(&status, "/worker/sha256").to_owned()).filter(|digest| !digest.is_empty())
        });
        let history = self.now.control.history();
        for upgrade in history.iter().filter(|one| text_at(one, "/kind") == "upgrade") {
            let new = serving == self.next;
            match text_at(upgrade, "/outcome") {
                "applied" | "applied_with_losses" => assert!(new, "{self}: {upgrade}"),
                "unknown" => {}
                _ => assert!(!new, "{self}: {upgrade}"),
            }
        }
    }

    /// Connections end with the worker that has them, and for no other reason.
    fn check_connections(&mut self) {
        let history = self.now.control.history();
        let not_ready = |one: &Value| text_at(one, "/outcome") == "not_ready";
        let safe = match self.victim {
            Victim::Supervisor => true,
            // The old worker has had them all the time.
            Victim::New => history.iter().any(not_ready),
            Victim::Old => false,
        };
        if !safe {
            return;
        }
        let name = self.to_string();
        for connection in &mut self.kept {
            match connection.try_get("/") {
                Ok(response) => assert_eq!(response.text(), "origin\n", "{name}"),
                Err(error) => panic!("{name}: a connection is broken: {error}"),
            }
        }
    }

    /// An upgrade that was to be confirmed either waits, or was confirmed, or what was before serves.
    fn check_pending(&self) {
        let status = self.now.control.status();
        let history = self.now.control.history();
        let waits = status["pending"].is_object();
        let count = |role: &str| {
            let all = status["workers"].as_array().cloned().unwrap_or_default();
            all.iter().filter(|one| text_at(one, "/role") == role).count()
        };
        assert_eq!(count("serving"), 1, "{self}: {status}");
        assert_eq!(count("candidate"), 0, "{self}: {status}");
        if self.change == Change::Upgrade {
            assert!(!waits, "{self}: {status}");
        }
        let confirmed = history
            .iter()
            .any(|one| text_at(one, "/kind") == "confirm" && text_at(one, "/outcome") == "applied");
        assert!(!(waits && confirmed), "{self}: it is confirmed: {status}\n{history:#?}");
    }

    /// Whatever happened, the next upgrade is one like any other.
    fn check_the_next_upgrade(&mut self) {
        if self.now.control.status()["pending"].is_object() {
            let output = self.now.cli(["confirm"]);
            assert_eq!(output.code, 0, "{self}: {}", output.all());
        }
        let mut kept = Connection::open(self.port.address());
        assert_eq!(kept.get("/").text(), "origin\n", "{self}");
        self.program.replace("3");
        let output = self.now.cli(["upgrade"]);
        assert_eq!(output.code, 0, "{self}: {}", output.all());
        assert_eq!(kept.get("/").text(), "origin\n", "{self}");
        let supervisor = self.now.pid();
        until(&format!("{self}: supervisor and worker are alone"), || {
            let tree = proc::tree(supervisor);
            let adopted = self.victim == Victim::Supervisor;
            (tree.len() == 2 || adopted && tree.len() == 1).then_some(())
        });
    }
}

/// Kills a process that may be gone by now.
fn end(pid: u32) {
    if proc::alive(pid) {
        signal(pid, Signal::KILL);
    }
}

/// No event tells what two workers do while they move connections: there the blow falls a little later each time.
fn in_the_move(change: Change, victim: Victim) {
    for milliseconds in [0, 1, 2, 3, 5, 8, 13, 21] {
        let mut scene = Scene::new(change, victim, When::InTheMove(Duration::from_millis(milliseconds)));
        assert!(scene.run(), "{scene}: an upgrade without a move");
    }
}

/// Goes through all steps of a change.
fn at_every_step(change: Change, victim: Victim) {
    for at in 0..MOST_STEPS {
        let mut scene = Scene::new(change, victim, When::Event(at));
        let struck = scene.run();
        if !struck {
            assert!(at > 1, "{scene}: an operation of no steps");
            return;
        }
    }
    panic!("{change:?} has more than {MOST_STEPS} steps");
}

macro_rules! at_every_step {
    ($($name:ident: $change:ident, $victim:ident;)*) => {
        $(
            #[test]
            fn $name() {
                at_every_step(Change::$change, Victim::$victim);
            }
        )*
    };
}

at_every_step! {
    the_supervisor_may_die_at_any_step_of_an_upgrade: Upgrade, Supervisor;
    the_old_worker_may_die_at_any_step_of_an_upgrade: Upgrade, Old;
    the_new_one_may_die_at_any_step_of_an_upgrade: Upgrade, New;
    the_supervisor_may_die_at_any_step_of_an_upgrade_with_confirmation: UpgradeConfirmWithin, Supervisor;
    the_old_worker_may_die_at_any_step_of_an_upgrade_with_confirmation: UpgradeConfirmWithin, Old;
    the_new_one_may_die_at_any_step_of_an_upgrade_with_confirmation: UpgradeConfirmWithin, New;
    the_supervisor_may_die_at_any_step_of_a_confirmation: Confirm, Supervisor;
    the_new_worker_may_die_at_any_step_of_a_confirmation: Confirm, Old;
    the_warm_worker_may_die_at_any_step_of_a_confirmation: Confirm, New;
    the_supervisor_may_die_at_any_step_of_calling_off: Cancel, Supervisor;
    the_new_worker_may_die_at_any_step_of_calling_off: Cancel, Old;
    the_warm_worker_may_die_at_any_step_of_calling_off: Cancel, New;
}

#[test]
fn the_supervisor_may_die_in_the_middle_of_the_move() {
    in_the_move(Change::Upgrade, Victim::Supervisor);
}

#[test]
fn the_old_worker_may_die_in_the_middle_of_the_move() {
    in_the_move(Change::Upgrade, Victim::Old);
}

#[test]
fn the_new_worker_may_die_in_the_middle_of_the_move() {
    in_the_move(Change::Upgrade, Victim::New);
}
