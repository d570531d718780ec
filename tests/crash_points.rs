//! Every step of every change that spans time, and a death at each: somebody serves, or the next start tells the truth.
//!
//! The events of an operation tell its steps. Each run follows them and ends the supervisor, the worker or both at one of
//! them; the next run one step later, until the operation ends before the blow falls.
//!
//! What must hold afterwards, whatever was killed when: a server serves (the same one, or the next); what it serves is
//! what it says it serves; every operation has exactly one outcome; and the next change succeeds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt;

use handover_testkit::config::{fixed, listener};
use handover_testkit::faults::kill;
use handover_testkit::http::Connection;
use handover_testkit::{Handover, Port, Workspace, handover, run, text_at, until};
use serde_json::Value;

/// More steps than any operation has.
const MOST_STEPS: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Supervisor,
    Worker,
    Both,
}

/// A change in the course of which somebody dies.
#[derive(Debug, Clone, Copy)]
enum Change {
    ReloadConfirmWithin,
    Confirm,
    Cancel,
    Rollback,
    Restore,
}

impl Change {
    fn path(self) -> &'static str {
        match self {
            Self::ReloadConfirmWithin => "/v1/reload?confirm_within=10m",
            Self::Confirm => "/v1/confirm",
            Self::Cancel => "/v1/cancel",
            Self::Rollback => "/v1/rollback",
            Self::Restore => "",
        }
    }

    /// Which texts may be served afterwards: those from before and after the change.
    fn texts(self) -> &'static [&'static str] {
        match self {
            Self::Confirm => &["two"],
            _ => &["one", "two"],
        }
    }
}

/// Everything that belongs to one run.
struct Scene {
    workspace: Workspace,
    port: Port,
    change: Change,
    victim: Victim,
    at: usize,
    /// Supervisors that were killed: they still clean up at the end.
    before: Vec<Handover>,
    now: Handover,
}

impl fmt::Display for Scene {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}, {:?} killed at step {}", self.change, self.victim, self.at)
    }
}

impl Scene {
    /// "one" and "two" have served; the change is due.
    fn new(change: Change, victim: Victim, at: usize) -> Self {
        let (workspace, port) = (Workspace::new(), Port::claim());
        let config = |text: &str| listener("web", &port) + &fixed("/", text);
        let now = Handover::of(handover!(), &workspace).config(config("one")).start();
        let file = workspace.path("site.backup").display().to_string();
        now.write_config(config("two"));
        let run = |words: &[&str]| {
            now.cli(words).expect_code(0).says("2");
        };
        match change {
            Change::ReloadConfirmWithin => {}
            Change::Confirm | Change::Cancel => run(&["reload", "--confirm-within", "10m"]),
            Change::Rollback => run(&["reload"]),
            Change::Restore => {
                now.cli(["backup", &file]).expect_code(0);
                run(&["reload"]);
            }
        }
        Self { workspace, port, change, victim, at, before: Vec::new(), now }
    }

    /// Asks for the change and lets the blow fall at the step; false if the operation ended first.
    fn strike(&mut self) -> bool {
        let mut events = self.now.control.events();
        let worker = self.now.worker();
        let asked = match self.change {
            Change::Restore => {
                let file = self.workspace.path("site.backup").display().to_string();
                let restore = self.now.command(["restore", file.as_str()]);
                Err(std::thread::spawn(move || run(restore)))
            }
            change => Ok(self.now.control.begin(change.path(), &[])),
        };
        let mut struck = false;
        for step in 0..MOST_STEPS {
            let event =
                events.wait_for("a step of the operation", |event| event.data["operation"].is_object());
            if step == self.at {
                self.kill(worker);
                struck = true;
                break;
            }
            if text_at(&event.data, "/kind") == "operation_done" {
                break;
            }
        }
        // Whoever asked may never get an answer; what matters is that it can be asked for later.
        match asked {
            Ok(connection) => drop(connection),
            Err(command) => drop(command.join()),
        }
        struck
    }

    fn kill(&mut self, worker: u32) {
        self.now.process.remember();
        if self.victim != Victim::Worker {
            kill(self.now.pid());
        }
        if self.victim != Victim::Supervisor {
            kill(worker);
        }
        if self.victim != Victim::Worker {
            self.now.process.wait();
        }
    }

    /// A supervisor for what is left.
    fn succeed(&mut self) {
        if self.victim == Victim::Worker {
            return;
        }
        if self.victim == Victim::Supervisor {
            // The worker alone serves, old or new, and no connection is refused.
            let text = self.text().unwrap_or_else(|error| panic!("{self}: nobody serves: {error}"));
            assert!(self.change.texts().contains(&text.as_str()), "{self}: {text:?}");
        }
        let next = Handover::of(handover!(), &self.workspace).config_file("handover.toml").start();
        self.before.push(std::mem::replace(&mut self.now, next));
    }

    fn text(&self) -> std::io::Result<String> {
        Ok(Connection::try_open(self.port.address())?.try_get("/")?.text())
    }

    /// Waits until nothing runs any more.
    fn wait_for_rest(&self) {
        until("nothing runs any more", || {
            let status = self.now.control.status();
            (text_at(&status, "/phase") == "serving"
                && status["running"].is_null()
                && status["worker"].is_object())
            .then_some(())
        });
    }

    /// What must hold whatever happened.
    fn check(&self) {
        self.wait_for_rest();
        let text = self.text().unwrap_or_else(|error| panic!("{self}: nobody serves: {error}"));
        assert!(self.change.texts().contains(&text.as_str()), "{self}: {text:?}");
        let served = self.now.cli(["config"]).expect_code(0).stdout.clone();
        assert!(
            served.contains(&format!("fixed = \"{text}\"")),
            "{self}: {text:?} serves, it says\n{served}"
        );
        let status = self.now.control.status();
        let generation = self.now.control.get(&format!("/v1/generations/{}", self.now.control.generation()));
        assert_eq!(generation["serving"], true, "{self}: {generation}");
        for operation in self.now.control.history() {
            assert_eq!(text_at(&operation, "/state"), "done", "{self}: {operation}");
            assert!(operation["outcome"].is_string(), "{self}: {operation}");
        }
        self.check_pending(&text, &status);
    }

    /// A change that served on probation either waits still, or was confirmed, or what was before serves. Only where
    /// nothing is on probation the file on disk is what a start serves (hazard 32): because the change had not been
    /// committed when everything died, or because it had been called off.
    fn check_pending(&self, text: &str, status: &Value) {
        let history = self.now.control.history();
        let ended = |kind: &str, outcome: &str| {
            history.iter().any(|one| text_at(one, "/kind") == kind && text_at(one, "/outcome") == outcome)
        };
        let waits = status["pending"].is_object();
        match self.change {
            Change::ReloadConfirmWithin | Change::Confirm | Change::Cancel if text == "two" => {
                let from_disk = self.victim == Victim::Both
                    && match self.change {
                        Change::ReloadConfirmWithin => ended("reload", "not_ready"),
                        Change::Cancel => status.pointer("/last/warnings/0").is_some(),
                        _ => false,
                    };
                let confirmed = ended("confirm", "applied");
                assert!(
                    waits || confirmed || from_disk,
                    "{self}: nobody confirmed it: {status}\n{history:#?}"
                );
                assert!(!(waits && confirmed), "{self}: it is confirmed: {status}\n{history:#?}");
            }
            _ => assert!(!waits, "{self}: {status}"),
        }
    }

    /// Whatever happened, the next change is one like any other.
    fn check_the_next_change(&self) {
        if self.now.control.status()["pending"].is_object() {
            self.now.cli(["confirm"]).expect_code(0);
        }
        let config = listener("web", &self.port) + &fixed("/", "three");
        self.now.reload_with(config).expect_code(0);
        assert_eq!(self.text().unwrap(), "three", "{self}");
    }
}

/// Goes through all steps of a change.
fn at_every_step(change: Change, victim: Victim) {
    for at in 0..MOST_STEPS {
        let mut scene = Scene::new(change, victim, at);
        let struck = scene.strike();
        if struck {
            scene.succeed();
        }
        scene.check();
        scene.check_the_next_change();
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
    the_supervisor_may_die_at_any_step_of_a_reload_with_confirmation: ReloadConfirmWithin, Supervisor;
    the_worker_may_die_at_any_step_of_a_reload_with_confirmation: ReloadConfirmWithin, Worker;
    both_may_die_at_any_step_of_a_reload_with_confirmation: ReloadConfirmWithin, Both;
    the_supervisor_may_die_at_any_step_of_a_confirmation: Confirm, Supervisor;
    the_worker_may_die_at_any_step_of_a_confirmation: Confirm, Worker;
    both_may_die_at_any_step_of_a_confirmation: Confirm, Both;
    the_supervisor_may_die_at_any_step_of_calling_off: Cancel, Supervisor;
    the_worker_may_die_at_any_step_of_calling_off: Cancel, Worker;
    both_may_die_at_any_step_of_calling_off: Cancel, Both;
    the_supervisor_may_die_at_any_step_of_a_rollback: Rollback, Supervisor;
    the_worker_may_die_at_any_step_of_a_rollback: Rollback, Worker;
    both_may_die_at_any_step_of_a_rollback: Rollback, Both;
    the_supervisor_may_die_at_any_step_of_a_restore: Restore, Supervisor;
    the_worker_may_die_at_any_step_of_a_restore: Restore, Worker;
    both_may_die_at_any_step_of_a_restore: Restore, Both;
}
