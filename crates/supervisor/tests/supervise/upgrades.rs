//! Upgrades: another binary takes over, or is sent away; and whoever dies on the way, somebody serves.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::Path;

use handover_testkit::program::sha256;
use handover_testkit::{DEADLINE, Deadline, Program, Workspace, proc, signal, until, wait_for_exit};
use rustix::process::Signal;
use serde_json::Value;

use crate::server::{self, Server, ask, configure};
use crate::{probation, upgrading};

crate::tests! {
    an_upgrade_is_served_by_a_worker_of_the_new_binary
    an_upgrade_may_be_to_the_same_binary_and_to_one_that_lies_elsewhere
    a_signal_upgrades_to_what_lies_where_the_program_was_started_from
    a_binary_that_a_rule_forbids_is_rejected
    a_candidate_that_is_no_good_leaves_everything_as_it_was
    a_candidate_that_dies_when_everything_was_given_to_it_is_replaced_by_the_one_that_gave
    a_candidate_that_hangs_is_given_up_in_time
    a_worker_that_does_not_hand_over_as_it_should_is_no_obstacle
    a_second_upgrade_is_refused_while_one_runs_and_a_reload_too
    a_dry_run_touches_nothing
    an_upgrade_that_is_not_confirmed_goes_back_to_the_worker_that_was_kept_warm
    an_upgrade_that_awaits_confirmation_can_be_confirmed_or_taken_back
    a_new_worker_that_dies_on_probation_is_replaced_by_the_one_before
    a_guard_that_fails_brings_the_old_worker_back
    the_binary_before_can_be_upgraded_to
    a_supervisor_that_dies_in_any_step_leaves_somebody_who_serves_and_the_next_one_knows_who
    a_supervisor_that_starts_in_the_middle_of_a_handoff_waits_for_its_end
    an_upgrade_that_awaits_confirmation_outlives_the_supervisor
    an_upgrade_whose_time_is_over_while_nobody_supervises_is_taken_back_at_once
    a_stop_ends_the_candidate_too
    a_stop_ends_what_is_asked_about_itself_too
}

const WEB: &str = "listen web 127.0.0.1:0";

/// A server that was started from a program which can be replaced.
pub struct Upgraded {
    pub workspace: Workspace,
    pub program: Program,
    pub server: Server,
    pub address: SocketAddr,
}

pub fn start(mark: &str, lines: &[&str]) -> Upgraded {
    let workspace = Workspace::new();
    let program = Program::install(&workspace, std::env::current_exe().unwrap());
    program.replace(mark);
    configure(&workspace, &[&[WEB, "body one"], lines].concat());
    let server = start_again(&workspace, &program);
    let address = server.address("web");
    Upgraded { workspace, program, server, address }
}

pub fn start_again(workspace: &Workspace, program: &Program) -> Server {
    let mut command = server::command_of(workspace, program.path());
    command.env(server::SHORT_LIMITS, "1");
    Server::start_with(workspace, command)
}

impl Upgraded {
    /// Upgrades to the version with this mark, installed in the place of the one before.
    pub fn upgrade(&self, mark: &str, query: &str) -> (u16, Value) {
        self.program.replace(mark);
        self.server.control.post(&format!("/v1/upgrade{query}"), &[])
    }

    /// The same to one that lies beside it.
    fn upgrade_to(&self, path: &Path) -> (u16, Value) {
        let path = path.display();
        self.server.control.post(&format!("/v1/upgrade?binary={path}"), &[])
    }

    pub fn pid(&self) -> u32 {
        self.server.process.pid()
    }

    pub fn worker(&self) -> u32 {
        self.server.control.worker()
    }

    /// That this one serves, and nobody else is left: no second worker, no zombie.
    pub fn expect_alone(&self, worker: u32) {
        assert_eq!(ask(self.address), "1 one");
        assert_eq!(self.worker(), worker);
        let children: Vec<(u32, char)> =
            proc::children(self.pid()).iter().map(|c| (c.pid, c.state)).collect();
        assert!(matches!(children[..], [(only, state)] if only == worker && state != 'Z'), "{children:?}");
        let workers = self.server.control.status()["workers"].as_array().unwrap().len();
        assert_eq!(workers, 1);
    }

    /// The supervisor's descriptors, by kind. Connections to its control socket may be among them for another moment.
    pub fn descriptors(&self) -> BTreeMap<String, usize> {
        let kinds = proc::descriptor_kinds(self.pid()).into_iter();
        kinds.map(|(kind, count)| (kind.trim_end_matches(" (deleted)").to_owned(), count)).collect()
    }

    /// That there are no more of them than before, once what was begun has ended.
    pub fn expect_descriptors(&self, before: &BTreeMap<String, usize>) {
        let more = || {
            let now = self.descriptors();
            let more = |(kind, count): &(String, usize)| *count > before.get(kind).copied().unwrap_or(0);
            now.into_iter().filter(more).collect::<Vec<_>>()
        };
        let deadline = Deadline::usual();
        while !more().is_empty() {
            assert!(!deadline.passed(), "more descriptors than before: {:?}", more());
            std::thread::yield_now();
        }
    }

    pub fn kill_supervisor(&mut self) {
        self.server.process.signal(Signal::KILL);
        assert_eq!(self.server.process.wait().code, 128 + 9);
    }
}

pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The problem of a refusal, or the operation, whole.
pub fn outcome(answer: &Value) -> String {
    let of = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    of("/outcome").or(of("/operation/outcome")).unwrap_or_else(|| answer.to_string())
}

fn an_upgrade_is_served_by_a_worker_of_the_new_binary() {
    let up = start("1", &[]);
    let (pid, old) = (up.pid(), up.worker());
    let from = sha256(up.program.path());
    let (status, operation) = up.upgrade("2", "");
    let to = sha256(up.program.path());
    assert_eq!((status, outcome(&operation)), (200, "applied".to_owned()), "{operation}");
    let upgrade = &operation["upgrade"];
    assert_eq!((text(upgrade, "/from/sha256"), text(upgrade, "/to/sha256")), (&*from, &*to));
    assert_eq!(text(upgrade, "/to/version"), "fake 2");
    assert_eq!((&upgrade["moved"]["fake"], &upgrade["drained"]), (&3.into(), &1.into()));
    assert_eq!(upgrade["freeze_us"], 2000);
    let steps = operation["steps"].as_array().unwrap();
    let steps: Vec<&str> = steps.iter().map(|step| text(step, "/name")).collect();
    let wanted =
        ["admission", "preflight", "start_worker", "prepare", "probe", "journal", "hand_over", "supervisor"];
    let mut rest = steps.iter();
    assert!(wanted.iter().all(|wanted| rest.any(|step| step == wanted)), "{steps:?}");
    let new = up.worker();
    assert_ne!(new, old);
    assert!(wait_for_exit(old, DEADLINE));
    up.expect_alone(new);
    assert_eq!(up.pid(), pid);
    let status = up.server.control.status();
    assert_eq!((text(&status, "/worker/sha256"), text(&status, "/worker/role")), (&*to, "serving"));
    // The supervisor, too, by now; its process is the same.
    assert_eq!((text(&status, "/binary/sha256"), text(&status, "/version")), (&*to, "fake 2"), "{status}");
    assert!(operation["warnings"].is_null(), "{operation}");
    assert_eq!(text(&status, "/previous_binary/sha256"), from);
    assert!(
        up.workspace.path("state/binaries").join(&from).is_file()
            || up.workspace.state().join("binaries").join(&from).is_file()
    );
    assert_eq!(up.server.history()[0], ("upgrade".to_owned(), "applied".to_owned()));
    let before = up.descriptors();
    assert_eq!(up.upgrade("3", "").0, 200);
    up.expect_descriptors(&before);
    // What dies is replaced by one of the same binary.
    let third = up.worker();
    signal(third, Signal::KILL);
    server::another_worker(&up.server, third);
    assert_eq!(text(&up.server.control.status(), "/worker/version"), "fake 3");
}

fn an_upgrade_may_be_to_the_same_binary_and_to_one_that_lies_elsewhere() {
    let up = start("1", &[]);
    let old = up.worker();
    let (status, operation) = up.server.control.post("/v1/upgrade", &[]);
    assert_eq!((status, outcome(&operation)), (200, "applied".to_owned()), "{operation}");
    let fresh = up.worker();
    assert_ne!(fresh, old);
    let elsewhere = up.program.version("2");
    let (status, operation) = up.upgrade_to(&elsewhere);
    assert_eq!((status, text(&operation, "/upgrade/to/version")), (200, "fake 2"), "{operation}");
    let digest = sha256(&up.program.version("3"));
    let (status, operation) = up.upgrade("3", &format!("?sha256={digest}"));
    assert_eq!((status, text(&operation, "/upgrade/to/sha256")), (200, &*digest), "{operation}");
}

fn a_signal_upgrades_to_what_lies_where_the_program_was_started_from() {
    let mut up = start("1", &[]);
    let old = up.worker();
    up.program.replace("2");
    up.server.process.signal(Signal::USR2);
    let new = server::another_worker(&up.server, old);
    let control = &up.server.control;
    let operation = control.wait_for_operation("the upgrade is over", |o| o["kind"] == "upgrade");
    assert_eq!((text(&operation, "/outcome"), text(&operation, "/actor/signal")), ("applied", "USR2"));
    up.expect_alone(new);
    // A refused one stands in the history, too.
    assert_eq!(up.server.control.post("/v1/drain", &[]).0, 200);
    up.server.process.signal(Signal::USR2);
    let refused =
        up.server.control.wait_for_operation("the refusal", |o| o["refused"].as_str() == Some("drained"));
    assert_eq!(text(&refused, "/kind"), "upgrade");
}

fn a_binary_that_a_rule_forbids_is_rejected() {
    let up = start("1", &[]);
    let (worker, before) = (up.worker(), up.descriptors());
    let (status, problem) = up.upgrade("2", &format!("?sha256={}", "0".repeat(64)));
    assert_eq!((status, outcome(&problem)), (422, "rejected".to_owned()), "{problem}");
    assert!(problem.to_string().contains("the rule 'sha256' forbids it"), "{problem}");
    up.expect_alone(worker);
    up.expect_descriptors(&before);
}

/// Upgrades that come to nothing, and then one that does not.
fn come_to_nothing(cases: &[(&str, &str)]) {
    let up = start("1", &[]);
    let worker = up.worker();
    let before = up.descriptors();
    for (mark, why) in cases {
        let (status, problem) = up.upgrade(mark, "");
        assert_eq!((status, outcome(&problem)), (500, "not_ready".to_owned()), "{mark}: {problem}");
        assert!(problem.to_string().contains(why), "{mark}: {why}? {problem}");
        up.expect_alone(worker);
        up.expect_descriptors(&before);
    }
    let (status, operation) = up.upgrade("good", "");
    assert_eq!((status, outcome(&operation)), (200, "applied".to_owned()), "{operation}");
    up.expect_alone(up.worker());
}

fn a_candidate_that_is_no_good_leaves_everything_as_it_was() {
    come_to_nothing(&[
        ("2-preflight-die", "this program is no good"),
        ("2-preflight-rubbish", "usage: fake"),
        ("2-preflight-old", "version"),
        ("2-hello-die", "dying in the step hello"),
        ("2-hello-old", "version 2 of the protocol"),
        ("2-prepare-die", "dying in the step prepare"),
        ("2-prepare-reject", "does not know that setting"),
        ("2-standby-die", "dying in the step standby"),
        ("2-probe-die", "dying in the step probe"),
        ("2-probe-wrong", "another question"),
        ("2-take-die", "ended in the middle"),
        ("2-take-refuse", "cannot read that"),
    ]);
}

fn a_candidate_that_dies_when_everything_was_given_to_it_is_replaced_by_the_one_that_gave() {
    let up = start("1", &[]);
    let old = up.worker();
    let (status, problem) = up.upgrade("2-ready-die", "");
    assert_eq!(status, 500, "{problem}");
    // The giver has said that the other one may serve, or has noticed before.
    match &*outcome(&problem) {
        "rolled_back" => assert_eq!(problem["operation"]["losses"]["fake"], 3, "{problem}"),
        "not_ready" => assert!(problem.to_string().contains("ended in the middle"), "{problem}"),
        other => panic!("{other}: {problem}"),
    }
    up.expect_alone(old);
}

fn a_candidate_that_hangs_is_given_up_in_time() {
    come_to_nothing(&[
        ("2-preflight-hang", "did not answer within"),
        ("2-hello-hang", "hello in time"),
        ("2-prepare-hang", "not_ready"),
        ("2-standby-hang", "not_ready"),
        ("2-probe-hang", "0 of its 2 threads"),
        ("2-take-hang", "not_ready"),
    ]);
}

fn a_worker_that_does_not_hand_over_as_it_should_is_no_obstacle() {
    for (mark, wanted) in [
        ("1-give-die", "with_losses"),
        ("1-commit-die", "with_losses"),
        ("1-give-hang", "with_losses"),
        ("1-give-refuse", "not_ready"),
    ] {
        let up = start(mark, &[]);
        let old = up.worker();
        let (_, answer) = up.upgrade("2", "");
        assert!(outcome(&answer).contains(wanted) || outcome(&answer) == "not_ready", "{mark}: {answer}");
        let serving = until("one worker is left, and serves", || {
            let status = up.server.control.status();
            let workers = status["workers"].as_array()?.len();
            let pid = u32::try_from(status.pointer("/worker/pid")?.as_u64()?).ok()?;
            (workers == 1 && status["phase"] == "serving" && proc::alive(pid)).then_some(pid)
        });
        assert_eq!(ask(up.address), "1 one");
        if mark == "1-give-refuse" {
            assert_eq!((outcome(&answer), serving), ("not_ready".to_owned(), old), "{answer}");
        }
        up.expect_alone(serving);
    }
}

fn a_second_upgrade_is_refused_while_one_runs_and_a_reload_too() {
    let up = start("1", &[]);
    let mut events = up.server.control.events();
    up.program.replace("2-hello-hang");
    assert_eq!(up.server.control.post("/v1/upgrade", &[("Prefer", "respond-async")]).0, 202);
    events.wait_for("the worker is started", |event| {
        event.data["message"].as_str().is_some_and(|m| m.contains("started"))
    });
    for path in ["/v1/upgrade", "/v1/reload", "/v1/drain"] {
        let (status, problem) = up.server.control.post(path, &[]);
        assert_eq!(status, 409, "{path}: {problem}");
    }
    let over = up.server.control.wait_for_operation("it is over", |o| o["outcome"] == "not_ready");
    assert_eq!(text(&over, "/kind"), "upgrade");
    up.expect_alone(up.worker());
}

fn a_dry_run_touches_nothing() {
    let up = start("1", &[]);
    let (worker, before) = (up.worker(), up.descriptors());
    let (status, operation) = up.upgrade("2", "?dry_run=true");
    assert_eq!((status, outcome(&operation)), (200, "unchanged".to_owned()), "{operation}");
    assert_eq!(text(&operation, "/upgrade/to/version"), "fake 2");
    let (status, problem) = up.upgrade("2-prepare-reject", "?dry_run=true");
    assert_eq!(status, 500, "{problem}");
    up.expect_alone(worker);
    up.expect_descriptors(&before);
    assert_eq!(ask(up.address), "1 one");
}

fn an_upgrade_that_is_not_confirmed_goes_back_to_the_worker_that_was_kept_warm() {
    let up = start("1", &[]);
    let (old, before) = (up.worker(), up.descriptors());
    let (status, operation) = up.upgrade("2", "?confirm_within=2s");
    assert_eq!((status, outcome(&operation)), (200, "applied".to_owned()), "{operation}");
    let new = up.worker();
    assert_ne!(new, old);
    let shown = up.server.control.status();
    assert_eq!(text(&shown, "/pending/upgrade/to/version"), "fake 2", "{shown}");
    let roles: Vec<&str> = shown["workers"].as_array().unwrap().iter().map(|w| text(w, "/role")).collect();
    assert_eq!(roles, ["serving", "warm"]);
    let back = up.server.control.wait_for_operation("it goes back", |o| o["kind"] == "rollback");
    assert_eq!((text(&back, "/outcome"), text(&back, "/cause")), ("rolled_back", "not_confirmed"), "{back}");
    assert_eq!(text(&back, "/upgrade/to/version"), "fake 1", "{back}");
    assert!(wait_for_exit(new, DEADLINE));
    up.expect_alone(old);
    up.expect_descriptors(&before);
    assert_eq!(up.server.control.status()["pending"], Value::Null);
}

fn an_upgrade_that_awaits_confirmation_can_be_confirmed_or_taken_back() {
    let up = start("1", &[]);
    let old = up.worker();
    assert_eq!(up.upgrade("2", "?confirm_within=1h").0, 200);
    for path in ["/v1/reload", "/v1/upgrade"] {
        let (status, problem) = up.server.control.post(path, &[]);
        assert_eq!((status, text(&problem, "/refused")), (409, ""), "{problem}");
        assert!(problem.to_string().contains("fake 2"), "{problem}");
    }
    // Without a number it means the upgrade.
    let (status, operation) = up.server.control.post("/v1/rollback", &[]);
    assert_eq!((status, text(&operation, "/kind")), (200, "cancel"), "{operation}");
    assert_eq!(outcome(&operation), "applied", "{operation}");
    up.expect_alone(old);
    assert_eq!(up.upgrade("2", "?confirm_within=1h").0, 200);
    let new = up.worker();
    let (status, operation) = up.server.control.post("/v1/confirm", &[]);
    assert_eq!((status, outcome(&operation)), (200, "applied".to_owned()), "{operation}");
    assert_eq!(text(&operation, "/upgrade/to/version"), "fake 2", "{operation}");
    assert!(wait_for_exit(old, DEADLINE));
    up.expect_alone(new);
}

fn a_new_worker_that_dies_on_probation_is_replaced_by_the_one_before() {
    let up = start("1", &[]);
    let old = up.worker();
    assert_eq!(up.upgrade("2", "?confirm_within=1h").0, 200);
    signal(up.worker(), Signal::KILL);
    let back = up.server.control.wait_for_operation("it goes back", |o| o["kind"] == "rollback");
    assert_eq!(text(&back, "/outcome"), "rolled_back", "{back}");
    up.expect_alone(old);
    // And one that dies in the operation itself.
    let (_, answer) = up.upgrade("3-took-die", "?confirm_within=1h");
    until("the old one serves", || (up.worker() == old).then_some(()));
    until("it is over", || up.server.control.status()["pending"].is_null().then_some(()));
    up.expect_alone(old);
    assert!(["rolled_back", "applied"].contains(&&*outcome(&answer)), "{answer}");
}

fn a_guard_that_fails_brings_the_old_worker_back() {
    let up = start("1", &[]);
    let old = up.worker();
    let (_, problem) = up.upgrade("2-guard-fail", "?guard=1s");
    assert_eq!(outcome(&problem), "rolled_back", "{problem}");
    up.expect_alone(old);
    let (status, operation) = up.upgrade("2", "?guard=1s");
    assert_eq!((status, outcome(&operation)), (200, "applied".to_owned()), "{operation}");
}

fn the_binary_before_can_be_upgraded_to() {
    let up = start("1", &[]);
    let (status, problem) = up.server.control.post("/v1/rollback?binary", &[]);
    assert_eq!(status, 404, "{problem}");
    let first = sha256(up.program.path());
    assert_eq!(up.upgrade("2", "").0, 200);
    let second = sha256(up.program.path());
    up.program.replace("3");
    until("a copy is kept", || {
        (text(&up.server.control.status(), "/previous_binary/sha256") == first).then_some(())
    });
    let (status, operation) = up.server.control.post("/v1/rollback?binary", &[]);
    assert_eq!((status, outcome(&operation)), (200, "applied".to_owned()), "{operation}");
    assert_eq!(text(&operation, "/upgrade/to/sha256"), first, "{operation}");
    until("and of the other one", || {
        (text(&up.server.control.status(), "/previous_binary/sha256") == second).then_some(())
    });
    assert_eq!(text(&up.server.control.status(), "/worker/version"), "fake 1");
}

fn a_supervisor_that_dies_in_any_step_leaves_somebody_who_serves_and_the_next_one_knows_who() {
    for (first, second, wanted) in [
        ("1", "2-orphan-hello", Some("not_ready")),
        ("1", "2-orphan-standby", Some("not_ready")),
        ("1", "2-orphan-probe", Some("not_ready")),
        // Each of the two was told, or was not when it died.
        ("1-orphan-give", "2", None),
        ("1", "2-orphan-take", None),
        ("1", "2-orphan-ready", Some("applied")),
        ("1-orphan-gave", "2", Some("applied")),
        ("1", "2-orphan-took", Some("applied")),
    ] {
        let mut up = start(first, &[]);
        let old = up.worker();
        up.program.replace(second);
        let key = [("Idempotency-Key", "lost"), ("Prefer", "respond-async")];
        assert_eq!(up.server.control.post("/v1/upgrade", &key).0, 202);
        assert_eq!(up.server.process.wait().code, 128 + 9, "{first}, {second}");
        // Whoever serves needs no supervisor for it.
        assert_eq!(ask(up.address), "1 one", "{first}, {second}");
        up.program.replace("3");
        let next = start_again(&up.workspace, &up.program);
        let gone = std::mem::replace(&mut up.server, next);
        let operation = up.server.control.get("/v1/operations/lost");
        let wanted = wanted.unwrap_or(if up.worker() == old { "not_ready" } else { "applied" });
        assert_eq!(
            (text(&operation, "/outcome"), text(&operation, "/cause")),
            (wanted, "supervisor_died"),
            "{first}, {second}: {operation}"
        );
        assert_eq!(up.worker() == old, wanted == "not_ready", "{first}, {second}");
        assert_eq!(up.server.address("web"), up.address, "{first}, {second}");
        until("the other worker has ended", || (proc::children(up.pid()).len() <= 1).then_some(()));
        assert_eq!(ask(up.address), "1 one", "{first}, {second}");
        // What replaces the adopted worker is the program that it runs, not the supervisor's.
        let adopted = up.worker();
        signal(adopted, Signal::KILL);
        server::another_worker(&up.server, adopted);
        let version = if wanted == "applied" { "fake 2" } else { "fake 1" };
        assert_eq!(text(&up.server.control.status(), "/worker/version"), version, "{first}, {second}");
        drop(gone);
    }
}

fn a_supervisor_that_starts_in_the_middle_of_a_handoff_waits_for_its_end() {
    for (mark, wanted) in [("2-gated", "applied"), ("2-gated-take-refuse", "not_ready")] {
        let mut up = start("1", &[]);
        let old = up.worker();
        let first = sha256(up.program.path());
        let gate = UnixListener::bind(up.workspace.path(upgrading::GATE)).unwrap();
        up.program.replace(mark);
        let key = [("Idempotency-Key", "lost"), ("Prefer", "respond-async")];
        assert_eq!(up.server.control.post("/v1/upgrade", &key).0, 202);
        // The new worker waits at the gate, the old one for the new one, and both have no supervisor.
        let (waits, _) = gate.accept().unwrap();
        assert_eq!(up.server.process.wait().code, 128 + 9);
        let copied = up.workspace.state().join("binaries").join(&first).is_file();
        let mut command = server::command_of(&up.workspace, up.program.path());
        command.env(server::SHORT_LIMITS, "1");
        let mut next = Server::begin(&up.workspace, command);
        drop((waits, gate));
        let ready = next.notifications.wait_after_unless(0, "READY=1", || next.process.ended());
        assert!(ready.is_some(), "{mark}: {:?}", next.process.wait());
        let gone = std::mem::replace(&mut up.server, next);
        let operation = up.server.control.get("/v1/operations/lost");
        assert_eq!(text(&operation, "/outcome"), wanted, "{mark}: {operation}");
        assert_eq!(up.worker() == old, wanted == "not_ready", "{mark}");
        assert_eq!(ask(up.address), "1 one");
        let kept = text(&up.server.control.status(), "/previous_binary/version").to_owned();
        assert_eq!(kept == "fake 1", wanted == "applied" && copied, "{mark}: {kept}");
        drop(gone);
    }
}

fn an_upgrade_whose_time_is_over_while_nobody_supervises_is_taken_back_at_once() {
    let mut up = start("1", &[]);
    let first = sha256(up.program.path());
    assert_eq!(up.upgrade("2", "?confirm_within=3s").0, 200);
    let (new, pending) = (up.worker(), up.server.control.status()["pending"].clone());
    up.kill_supervisor();
    probation::wait_until_it_is_over(&pending);
    let next = start_again(&up.workspace, &up.program);
    let gone = std::mem::replace(&mut up.server, next);
    let back = up.server.control.wait_for_operation("it goes back", |o| o["kind"] == "rollback");
    assert_eq!((text(&back, "/outcome"), text(&back, "/cause")), ("rolled_back", "not_confirmed"), "{back}");
    let status = up.server.control.status();
    assert_eq!((text(&status, "/worker/sha256"), &status["pending"]), (&*first, &Value::Null), "{status}");
    assert!(wait_for_exit(new, DEADLINE));
    up.expect_alone(up.worker());
    drop(gone);
}

fn an_upgrade_that_awaits_confirmation_outlives_the_supervisor() {
    let mut up = start("1", &[]);
    assert_eq!(up.upgrade("2", "?confirm_within=1h").0, 200);
    let (new, first) = (up.worker(), sha256(&up.program.version("1")));
    up.kill_supervisor();
    let next = start_again(&up.workspace, &up.program);
    let gone = std::mem::replace(&mut up.server, next);
    assert_eq!(up.worker(), new);
    let status = up.server.control.status();
    assert_eq!(text(&status, "/pending/upgrade/from/sha256"), first, "{status}");
    // The warm worker has ended with its supervisor: a fresh one of the kept binary takes over.
    let (code, operation) = up.server.control.post("/v1/cancel", &[]);
    assert_eq!((code, outcome(&operation)), (200, "applied".to_owned()), "{operation}");
    let status = up.server.control.status();
    assert_eq!((text(&status, "/worker/sha256"), &status["pending"]), (&*first, &Value::Null), "{status}");
    assert_ne!(up.worker(), new);
    up.expect_alone(up.worker());
    drop(gone);
}

fn a_stop_ends_the_candidate_too() {
    let mut up = start("1", &[]);
    let mut events = up.server.control.events();
    up.program.replace("2-hello-hang");
    assert_eq!(up.server.control.post("/v1/upgrade", &[("Prefer", "respond-async")]).0, 202);
    events.wait_for("the worker is started", |event| {
        event.data["message"].as_str().is_some_and(|m| m.contains("started"))
    });
    let children: Vec<u32> = proc::children(up.pid()).iter().map(|child| child.pid).collect();
    assert_eq!(children.len(), 2);
    assert_eq!(up.server.terminate().code, 0);
    assert!(children.iter().all(|child| !proc::alive(*child)));
}

fn a_stop_ends_what_is_asked_about_itself_too() {
    let mut up = start("1", &[]);
    up.program.replace("2-preflight-hang");
    assert_eq!(up.server.control.post("/v1/upgrade", &[("Prefer", "respond-async")]).0, 202);
    let children = until("it is asked", || {
        let children: Vec<u32> = proc::children(up.pid()).iter().map(|child| child.pid).collect();
        (children.len() == 2).then_some(children)
    });
    assert_eq!(up.server.terminate().code, 0);
    until("it has ended", || children.iter().all(|child| !proc::alive(*child)).then_some(()));
}
