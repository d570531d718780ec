//! Bad moments for programs: their worker dies, the server stops, descriptors run short, what is named goes; and what is then said of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use handover_testkit::http::{Connection, request_bytes};
use handover_testkit::{
    CONFIG, Handover, Process, Programs, Signal, Way, Workspace, handover, proc, signal, until,
};

const QUICK: &str = "settle = \"0s\"\n";

fn binary() -> &'static std::path::Path {
    std::path::Path::new(handover!())
}

/// A server with two slots, which say `a` and `b`; `a` serves.
fn slots(more: &str) -> Programs {
    let workspace = Workspace::new();
    for slot in ["a", "b"] {
        workspace.write(format!("releases/{slot}/version"), slot);
    }
    let table = Programs::table(binary(), &["notify"], "").replace("directory = \"app\"\n", "");
    let table = format!("{table}slots = [\"releases/a\", \"releases/b\"]\n{QUICK}{more}");
    let server = Programs::with(handover!(), Way::Route, workspace, &table, "");
    assert_eq!(server.wait_for("a").version, "a");
    server
}

/// A program that needs a lock: the next copy is started when the one before has ended.
fn stop_first(words: &[&str]) -> Programs {
    let workspace = Workspace::new();
    let lock = workspace.path("lock").display().to_string();
    let words = [&["notify", "says", "one", "lock", &lock], words].concat();
    let more = format!("swap = \"stop-first\"\nstop = {{ timeout = \"2s\" }}\n{QUICK}");
    let table = Programs::table(binary(), &words, &more);
    let server = Programs::with(handover!(), Way::Route, workspace, &table, "");
    server.wait_for("one");
    server
}

/// A request that is sent on a new connection, and whose answer nobody has read yet.
fn ask(server: &Programs) -> Connection {
    let mut connection = Connection::open(server.address());
    connection.send(request_bytes("GET", "/", &[], b""));
    connection
}

#[track_caller]
fn wait_held(server: &Programs, wanted: u64) {
    let line = format!("handover_held {wanted}\n");
    until(&format!("{wanted} requests are held"), || {
        server.control().ask("GET", "/metrics", &[], "").text().contains(&line).then_some(())
    });
}

/// The requests that the swap held are gone with the worker: whoever asked for the swap is told.
#[test]
fn a_worker_that_dies_during_a_stop_first_swap_is_told_in_its_answer() {
    let server = stop_first(&["starts-slowly", "1500"]);
    let first = server.says().pid;
    let mut restart = Process::start(server.handover.command(["restart", "app"]));
    until("the old copy has ended", || (!proc::alive(first)).then_some(()));
    let mut held = ask(&server);
    wait_held(&server, 1);
    signal(server.handover.worker(), Signal::KILL);
    assert!(held.try_response("GET").is_err(), "nobody can answer it any more");
    restart.wait().expect_code(14).says("the worker died meanwhile").says("the new copy serves");
    assert_ne!(server.wait_for("one").pid, first);
}

#[test]
fn a_guard_that_a_stop_cuts_short_has_not_seen_its_end() {
    let mut server = slots("");
    let mut deploy = Process::start(server.handover.command(["deploy", "app", "--guard=10m"]));
    until("the guard watches", || {
        let status = server.control().get("/v1/status");
        let steps = status["running"]["steps"].as_array()?.clone();
        steps.iter().any(|step| step["name"] == "guard").then_some(())
    });
    server.cli(&["stop"]).expect_code(0);
    let output = deploy.wait();
    output.expect_code(0).says("slot b serves").says("the guard was cut short");
    assert!(!output.all().contains("kept warm"), "nothing of a server that stops: {}", output.all());
    server.handover.process.wait().expect_code(0);
    server.handover = Handover::of(handover!(), &server.workspace).config_file(CONFIG).start();
    assert_eq!(server.wait_for("b").version, "b");
}

#[test]
fn a_hook_that_takes_too_long_is_killed_with_all_of_it_and_told_with_its_last_words() {
    let server = slots(
        "hook = { command = [\"sh\", \"-c\", \"echo $$ > pid; echo migrating; tail -f /dev/null\"], timeout = \"500ms\" }\n",
    );
    let output = server.cli(&["deploy", "app"]);
    output.expect_code(10).says("did not end within 500ms and was killed").says("| migrating");
    let pid = server.workspace.read("releases/b/pid").trim().parse().unwrap();
    assert!(!proc::alive(pid));
    assert_eq!(server.says().version, "a");
}

/// Neither what ignores the request to end nor what keeps the lock open in a session of its own keeps the next one from it.
#[test]
fn a_stop_first_swap_gets_the_lock_of_a_copy_that_is_frozen_and_of_what_that_has_left_behind() {
    let server = stop_first(&["leaves-children"]);
    let first = server.says().pid;
    signal(first, Signal::STOP);
    let output = server.cli(&["restart", "app"]);
    output.expect_code(14).says("did not end in time and").says("the new copy serves");
    assert!(!proc::alive(first));
    assert_ne!(server.says().pid, first);
}

#[test]
fn a_rollback_of_a_program_that_is_stopped_starts_nothing_and_says_so() {
    let server = slots("warm = \"0s\"\n");
    server.cli(&["deploy", "app"]).expect_code(0);
    server.cli(&["stop", "app"]).expect_code(0);
    let output = server.cli(&["rollback", "app"]);
    output.expect_code(0).says("nothing of it serves now, and slot a is what a start begins with");
    assert!(server.pids().is_empty(), "{}", server.program());
    server.cli(&["start", "app"]).expect_code(0);
    assert_eq!(server.says().version, "a");
}

/// Its connections last until they have ended, and are answered: nobody can resume what has no name any more.
#[test]
fn what_is_held_for_a_listener_that_a_reload_removes_is_answered_and_the_pause_is_over() {
    let server = slots("");
    let before = server.workspace.read(CONFIG);
    server.cli(&["pause", "listener:web", "--for", "10m"]).expect_code(0);
    let mut held = ask(&server);
    wait_held(&server, 1);
    let other = handover_testkit::Port::claim();
    let without = before.replace("listeners.web", "listeners.other");
    let without = without.replace(&server.address().to_string(), &other.address().to_string());
    server.handover.reload_with(&without).expect_code(0);
    assert!(held.response("GET").expect(200).text().starts_with("a "));
    assert_eq!(server.control().get("/v1/status")["paused"].as_array().map_or(0, Vec::len), 0);
    // Also when one of that name comes again.
    server.handover.reload_with(&before).expect_code(0);
    assert_eq!(server.says().version, "a");
}

#[test]
fn a_resume_of_one_of_two_pauses_does_not_say_that_what_both_hold_goes_on() {
    let server = slots("");
    for target in ["program:app", "route:all"] {
        server.cli(&["pause", target, "--for", "10m"]).expect_code(0);
    }
    let mut held = ask(&server);
    wait_held(&server, 1);
    let output = server.cli(&["resume", "route:all"]);
    output.expect_code(0).says("program app is paused");
    assert!(!output.all().contains("let go"), "{}", output.all());
    wait_held(&server, 1);
    server.cli(&["resume", "program:app"]).expect_code(0).says("1 request was let go");
    let _ = held.response("GET").expect(200);
}

/// Descriptors are the supervisor's scarce good: what it cannot hold is not started, and costs nobody the worker.
#[test]
fn more_copies_than_there_are_descriptors_cost_neither_the_worker_nor_other_programs() {
    const FEW: u32 = 96;
    let table = Programs::table(binary(), &["notify", "says", "one"], QUICK);
    let many = Programs::table(binary(), &["notify"], "copies = 60\nprivate = \"socket\"\nafter = \"app\"\n");
    let rest = format!("[program.many]\n{many}");
    let start = |builder: handover_testkit::HandoverBuilder<'_>| builder.descriptors(FEW).start();
    let server = Programs::built(handover!(), Way::Route, Workspace::new(), &table, &rest, start);
    let worker = server.handover.worker();
    until("descriptors run short", || {
        let many = server.control().get("/v1/programs/many");
        many["detail"].as_str()?.contains("Too many open files").then_some(())
    });
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.says().pid)).unwrap();
    let limit = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words: Vec<_> = limit.split_whitespace().skip(3).take(2).collect();
    assert_eq!(
        words,
        [FEW.to_string(), FEW.to_string()],
        "as the server was started, not as it sets its own"
    );
    server.write(&["notify", "says", "one"], QUICK);
    server.cli(&["reload"]).expect_code(0);
    server.cli(&["restart", "app"]).expect_code(0);
    assert_eq!(server.handover.worker(), worker);
}

/// Many get ready at the same moment. Each of them is news for the worker, which keeps their descriptors.
#[test]
fn many_programs_at_once_do_not_use_up_descriptors_by_being_told_to_the_worker() {
    const MANY: usize = 60;
    let one = |at: usize| {
        format!(
            "[program.p{at}]\ncommand = [\"tail\", \"-f\", \"/dev/null\"]\nready = {{ after = \"0s\" }}\n{QUICK}\n"
        )
    };
    let rest: String = (0..MANY).map(one).collect();
    let table = Programs::table(binary(), &["notify", "says", "one"], QUICK);
    let start = |builder: handover_testkit::HandoverBuilder<'_>| builder.descriptors(512).start();
    let server = Programs::built(handover!(), Way::Route, Workspace::new(), &table, &rest, start);
    let worker = server.handover.worker();
    until("all run", || {
        let programs = server.control().get("/v1/programs");
        programs.as_array()?.iter().all(|program| program["state"] == "running").then_some(())
    });
    let log = server.handover.process.stderr();
    assert!(!log.contains("Too many open files"), "{log}");
    assert_eq!(server.handover.worker(), worker);
}

/// Hazard 18.
#[test]
fn restarts_deploys_and_upgrades_leave_no_descriptor_behind() {
    let server = slots("warm = \"0s\"\n");
    let round = || {
        for verb in ["restart", "deploy", "rollback"] {
            server.cli(&[verb, "app"]).expect_code(0);
        }
        server.cli(&["pause", "app"]).expect_code(0);
        server.cli(&["upgrade"]).expect_code(0);
        server.cli(&["resume", "app"]).expect_code(0);
    };
    let kinds = || {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for (of, pid) in [("supervisor", server.handover.pid()), ("worker", server.handover.worker())] {
            for (kind, count) in proc::descriptor_kinds(pid) {
                // Sockets of copies have their numbers.
                let kind: String = kind.chars().filter(|letter| !letter.is_ascii_digit()).collect();
                *kinds.entry(format!("{of} {kind}")).or_default() += count;
            }
        }
        kinds
    };
    (0..2).for_each(|_| round());
    let before = kinds();
    (0..4).for_each(|_| round());
    until("no more descriptors than before", || {
        let more = |(kind, count): (&String, &usize)| *count > before.get(kind).copied().unwrap_or_default();
        (!kinds().iter().any(more)).then_some(())
    });
}

/// Everything that an operator has done to a program is known to the next supervisor, by whichever way it comes.
#[test]
fn what_is_pending_paused_drained_and_warm_goes_through_two_upgrades_and_the_end_of_the_supervisor() {
    let mut server = slots("copies = 2\n");
    server.cli(&["deploy", "app", "--confirm-within", "10m"]).expect_code(0);
    server.cli(&["drain", "app/2"]).expect_code(0);
    server.cli(&["pause", "program:app", "--for", "10m"]).expect_code(0);
    let mut held = ask(&server);
    wait_held(&server, 1);
    let known = |server: &Programs| {
        let program = server.program();
        let copy = |copy: &serde_json::Value| {
            ["number", "pid", "slot", "role", "state", "off"].map(|key| copy[key].clone())
        };
        let copies: Vec<_> = program["copies"].as_array().unwrap().iter().map(copy).collect();
        (copies, program["slot"].clone(), program["pending"].is_null(), program["paused"]["held"].clone())
    };
    let before = known(&server);
    assert!(before.0.len() == 4 && !before.2 && before.3 == 1, "{before:?}");
    for _ in 0..2 {
        server.cli(&["upgrade"]).expect_code(0);
        assert_eq!(known(&server), before);
    }
    server.handover.kill_supervisor();
    let _next = Handover::of(handover!(), &server.workspace).config_file(CONFIG).start();
    assert_eq!(known(&server), before);
    server.cli(&["resume", "app"]).expect_code(0);
    assert!(held.response("GET").expect(200).text().starts_with("b "));
    server.cli(&["cancel", "app"]).expect_code(0);
    assert_eq!(server.says().version, "a");
}
