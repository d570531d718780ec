//! Programs, as far as the supervisor carries them: started, replaced and ended beside the worker; through its own exec and
//! its own death.

use std::net::TcpStream;
use std::time::Duration;

use handover_testkit::{DEADLINE, Workspace, proc, signal, until, wait_for_exit};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::server::{self, Server, ask, command, configure, try_ask};
use crate::upgrades::{self, text};

crate::tests! {
    a_program_runs_beside_the_worker_and_ends_before_the_server_does
    a_restart_is_an_operation_like_any_other
    what_is_carried_keeps_other_operations_away_and_they_are_told_by_whom
    a_stop_calls_off_what_is_carried_and_leaves_nothing_behind
    a_reload_whose_program_does_not_get_ready_changes_nothing_and_shows_its_last_lines
    a_reload_replaces_a_program_before_it_is_answered
    a_program_that_is_taken_out_of_the_configuration_is_ended
    what_was_proved_serves_although_the_worker_dies_in_the_commit
    a_stop_during_the_proof_of_a_reload_leaves_nothing_behind
    every_worker_knows_the_traffic_before_it_serves
    a_supervisor_that_is_killed_finds_its_programs_again
    programs_go_with_the_supervisor_into_another_binary
    a_deploy_that_awaits_confirmation_outlives_an_upgrade_of_handover
    a_deploy_that_awaits_confirmation_outlives_the_supervisor
    a_deploy_that_nobody_confirms_goes_back_as_the_supervisors_own_operation
    what_an_earlier_life_has_left_is_ended_before_programs_are_started
    orphans_of_programs_are_reaped
    a_server_that_is_there_for_a_program_says_so_when_that_is_ready_and_ends_with_it
}

const WEB: &str = "listen web 127.0.0.1:0";
/// A command that lives until it is asked to end, and says its name first.
const LIVES: [&str; 3] = ["sh", "-c", "echo here is $0; exec sleep 1000"];

/// A program that runs this.
fn program(name: &str, command: &[&str]) -> Value {
    let duration = |ms: u64| json!({ "secs": ms / 1000, "nanos": (ms % 1000) * 1_000_000 });
    json!({
        "name": name,
        "command": command,
        "directory": null,
        "copies": 1,
        "ready": { "after": duration(50) },
        "ready_limit": duration(10_000),
        "settle": duration(50),
        "stop": { "signal": 15, "limit": duration(5_000) },
        "restart": {
            "policy": "always", "first": duration(50), "longest": duration(500), "reset": duration(10_000),
        },
        "batch": 1,
        "max_held": 100,
        "pause_limit": duration(10_000),
        "warm": duration(60_000),
    })
}

fn web() -> Value {
    program("web", &LIVES)
}

/// One with two slots, which are directories.
fn slotted(workspace: &Workspace) -> Value {
    let mut web = web();
    let slot = |name: &str| {
        let directory = workspace.path(name);
        std::fs::create_dir_all(&directory).unwrap();
        json!({ "name": name, "directory": directory, "command": null, "environment": {} })
    };
    web["slots"] = json!([slot("a"), slot("b")]);
    web
}

fn line(program: &Value) -> String {
    format!("program {program}")
}

fn start(workspace: &Workspace, programs: &[Value]) -> Server {
    let lines = lines(programs);
    Server::start(workspace, &lines.iter().map(String::as_str).collect::<Vec<_>>())
}

fn lines(programs: &[Value]) -> Vec<String> {
    let fixed = [WEB.to_owned(), "body one".to_owned()];
    fixed.into_iter().chain(programs.iter().map(line)).collect()
}

fn reload(server: &Server, workspace: &Workspace, programs: &[Value]) -> (u16, Value) {
    let lines = lines(programs);
    server.reload(workspace, &lines.iter().map(String::as_str).collect::<Vec<_>>())
}

/// What the status says of a program.
fn status(server: &Server, name: &str) -> Value {
    let status = server.control.status();
    let programs = status["programs"].as_array().cloned().unwrap_or_default();
    programs.into_iter().find(|program| program["name"] == name).unwrap_or_default()
}

/// The process IDs of the copies that serve.
fn pids(server: &Server, name: &str) -> Vec<u32> {
    let status = status(server, name);
    let copies = status["copies"].as_array().cloned().unwrap_or_default();
    let serves = |copy: &&Value| copy["role"] == "serving" && copy["state"] == "ready";
    let pid = |copy: &Value| copy["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    copies.iter().filter(serves).filter_map(pid).collect()
}

/// Waits until one copy of it serves.
fn running(server: &Server, name: &str) -> u32 {
    until("a copy of the program serves", || match pids(server, name)[..] {
        [pid] => Some(pid),
        _ => None,
    })
}

fn outcome(operation: &Value) -> String {
    text(operation, "/outcome").to_owned()
}

fn expect(answer: &(u16, Value), wanted: &str) {
    assert_eq!(outcome(&answer.1), wanted, "{} {}", answer.0, answer.1);
}

fn a_program_runs_beside_the_worker_and_ends_before_the_server_does() {
    let workspace = Workspace::new();
    let mut server = start(&workspace, &[web()]);
    let pid = running(&server, "web");
    assert_eq!(ask(server.address("web")), "1 one");
    let mut names = Vec::new();
    let mut descriptors: Vec<u32> = proc::descriptors(pid).into_keys().collect();
    descriptors.sort_unstable();
    assert_eq!(descriptors, [0, 1, 2], "nothing else of the supervisor's");
    for variable in proc::environment(pid) {
        names.push(variable.split('=').next().unwrap_or_default().to_owned());
    }
    for private in ["HANDOVER_CHANNEL", "HANDOVER_SUCCESSION", "NOTIFY_SOCKET", "LISTEN_FDS"] {
        assert!(!names.contains(&private.to_owned()), "{private}");
    }
    assert_eq!(server.terminate().code, 0);
    assert!(!proc::alive(pid));
}

fn a_restart_is_an_operation_like_any_other() {
    let workspace = Workspace::new();
    let server = start(&workspace, &[web()]);
    let before = running(&server, "web");
    let answer = server.control.post("/v1/programs/web/restart", &[("Idempotency-Key", "the-restart")]);
    expect(&answer, "applied");
    assert_eq!((text(&answer.1, "/kind"), text(&answer.1, "/target")), ("program_restart", "web"));
    let after = running(&server, "web");
    assert_ne!(before, after);
    assert!(!proc::alive(before));
    assert_eq!(server.history()[0], ("program_restart".to_owned(), "applied".to_owned()));
    let again = server.control.post("/v1/programs/web/restart", &[("Idempotency-Key", "the-restart")]);
    assert_eq!(again.1["id"], "the-restart");
    assert_eq!(running(&server, "web"), after, "the same key is the same operation");
    let (status, problem) = server.control.post("/v1/programs/other/restart", &[]);
    assert_eq!(status, 404, "{problem}");
}

fn what_is_carried_keeps_other_operations_away_and_they_are_told_by_whom() {
    let workspace = Workspace::new();
    let server = start(&workspace, &[slow_when(&workspace, "slow")]);
    running(&server, "web");
    workspace.write("slow", "");
    let headers = [("Idempotency-Key", "slow-restart"), ("Prefer", "respond-async")];
    assert_eq!(server.control.post("/v1/programs/web/restart", &headers).0, 202);
    for path in ["/v1/reload", "/v1/programs/web/restart", "/v1/drain"] {
        let (status, problem) = server.control.post(path, &[]);
        assert_eq!((status, text(&problem, "/operation_id")), (409, "slow-restart"), "{path}: {problem}");
    }
    assert_eq!(ask(server.address("web")), "1 one");
    workspace.write("fast", "");
    let ended = server.control.wait_for_operation("the restart ends", |one| one["id"] == "slow-restart");
    assert_eq!(outcome(&ended), "applied", "{ended}");
    expect(&server.control.post("/v1/reload", &[]), "unchanged");
}

/// A program that is ready when a command says so: not as long as the file `name` is there and `fast` is not.
fn slow_when(workspace: &Workspace, name: &str) -> Value {
    let (slow, fast) = (workspace.path(name), workspace.path("fast"));
    let check = format!("test -e {} || ! test -e {}", fast.display(), slow.display());
    let mut web = web();
    let limit = json!({ "secs": 5, "nanos": 0 });
    web["ready"] = json!({ "command": { "command": ["sh", "-c", check], "limit": limit } });
    web["ready_limit"] = json!({ "secs": 60, "nanos": 0 });
    web
}

fn a_stop_calls_off_what_is_carried_and_leaves_nothing_behind() {
    let workspace = Workspace::new();
    let mut server = start(&workspace, &[slow_when(&workspace, "slow")]);
    let pid = running(&server, "web");
    workspace.write("slow", "");
    let headers = [("Idempotency-Key", "called-off"), ("Prefer", "respond-async")];
    assert_eq!(server.control.post("/v1/programs/web/restart", &headers).0, 202);
    let new = until("the new copy is there", || {
        let copies = status(&server, "web")["copies"].clone();
        let copies = copies.as_array()?;
        copies.iter().filter_map(|copy| copy["pid"].as_u64()).find(|new| *new != u64::from(pid))
    });
    assert_eq!(server.terminate().code, 0);
    assert!(!proc::alive(pid) && !proc::alive(u32::try_from(new).unwrap()));
    std::fs::remove_file(workspace.path("slow")).unwrap();
    let server = Server::start_again(&workspace);
    let operation = server.control.get("/v1/operations/called-off");
    assert!(!["applied", ""].contains(&outcome(&operation).as_str()), "{operation}");
}

fn a_reload_whose_program_does_not_get_ready_changes_nothing_and_shows_its_last_lines() {
    let workspace = Workspace::new();
    let server = start(&workspace, &[web()]);
    let pid = running(&server, "web");
    let broken = program("web", &["sh", "-c", "echo this goes wrong; exit 3"]);
    let (status, problem) = reload(&server, &workspace, &[broken]);
    assert_eq!(status, 500, "{problem}");
    assert_eq!(text(&problem, "/operation/outcome"), "not_ready", "{problem}");
    assert!(problem.to_string().contains("this goes wrong"), "{problem}");
    assert_eq!(pids(&server, "web"), [pid]);
    assert_eq!(ask(server.address("web")), "1 one", "and so does generation 1");
    expect(&reload(&server, &workspace, &[web()]), "unchanged");
}

fn a_reload_replaces_a_program_before_it_is_answered() {
    let workspace = Workspace::new();
    let server = start(&workspace, &[web()]);
    let pid = running(&server, "web");
    let mut other = web();
    other["environment"] = json!({ "OTHER": "1" });
    expect(&reload(&server, &workspace, &[other, program("second", &LIVES)]), "applied");
    let new = running(&server, "web");
    assert_ne!(new, pid);
    assert!(proc::environment(new).contains(&"OTHER=1".to_owned()));
    assert!(wait_for_exit(pid, DEADLINE));
    running(&server, "second");
    // What does not differ is left alone.
    let lines = ["listen web 127.0.0.1:0".to_owned(), "body two".to_owned()];
    let mut other = web();
    other["environment"] = json!({ "OTHER": "1" });
    let all: Vec<String> =
        lines.into_iter().chain([line(&other), line(&program("second", &LIVES))]).collect();
    expect(&server.reload(&workspace, &all.iter().map(String::as_str).collect::<Vec<_>>()), "applied");
    assert_eq!(running(&server, "web"), new);
}

fn a_program_that_is_taken_out_of_the_configuration_is_ended() {
    let workspace = Workspace::new();
    let server = start(&workspace, &[web(), program("second", &LIVES)]);
    let (web, second) = (running(&server, "web"), running(&server, "second"));
    expect(&reload(&server, &workspace, &[self::web()]), "applied");
    assert!(wait_for_exit(second, DEADLINE));
    assert_eq!(running(&server, "web"), web);
    until("it is shown no longer", || status(&server, "second").is_null().then_some(()));
}

fn what_was_proved_serves_although_the_worker_dies_in_the_commit() {
    let workspace = Workspace::new();
    let server = start(&workspace, &[web()]);
    let pid = running(&server, "web");
    let mut other = web();
    other["environment"] = json!({ "OTHER": "1" });
    let mut lines = lines(&[other]);
    lines.push(format!("commit die-once {}", workspace.path("died").display()));
    let answer = server.reload(&workspace, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    expect(&answer, "applied_with_losses");
    let new = running(&server, "web");
    assert!(proc::environment(new).contains(&"OTHER=1".to_owned()));
    assert!(wait_for_exit(pid, DEADLINE));
    let supervisor = server.process.pid();
    until("worker and copy, and nobody else", || (proc::children(supervisor).len() == 2).then_some(()));
    expect(&server.control.post("/v1/programs/web/restart", &[]), "applied");
}

fn a_stop_during_the_proof_of_a_reload_leaves_nothing_behind() {
    let workspace = Workspace::new();
    let mut server = start(&workspace, &[web()]);
    let pid = running(&server, "web");
    workspace.write("slow", "");
    let mut other = slow_when(&workspace, "slow");
    other["environment"] = json!({ "OTHER": "1" });
    let lines = lines(&[other]);
    configure(&workspace, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    let headers = [("Idempotency-Key", "never-proved"), ("Prefer", "respond-async")];
    assert_eq!(server.control.post("/v1/reload", &headers).0, 202);
    let supervisor = server.process.pid();
    let copies = until("the new copy is there", || {
        let children: Vec<u32> = proc::children(supervisor).iter().map(|child| child.pid).collect();
        (children.len() >= 3).then_some(children)
    });
    assert!(copies.contains(&pid));
    assert_eq!(server.terminate().code, 0);
    assert!(copies.into_iter().all(|pid| !proc::alive(pid)));
    configure(&workspace, &[WEB, "body one"]);
    let server = Server::start_again(&workspace);
    assert_eq!(outcome(&server.control.get("/v1/operations/never-proved")), "rejected");
}

/// One with an address of its own for each copy.
fn private() -> Value {
    let mut web = web();
    web["private"] = json!("socket");
    web
}

fn traffic(server: &Server) -> Value {
    let answer = until("a worker answers", || {
        let (status, answer) = server.control.post("/v1/actions/traffic", &[]);
        (status != 409).then_some(answer)
    });
    serde_json::from_str(text(&answer, "/answer")).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

fn every_worker_knows_the_traffic_before_it_serves() {
    let workspace = Workspace::new();
    let server = start(&workspace, &[private()]);
    running(&server, "web");
    let endpoint = |traffic: &Value| {
        let endpoints = traffic.pointer("/programs/web")?.as_array()?.clone();
        endpoints.into_iter().find(|endpoint| endpoint["on"] == true)
    };
    let first = until("the endpoint is known", || endpoint(&traffic(&server)));
    assert_eq!(first["name"], "web/1");
    let worker = server.control.worker();
    signal(worker, Signal::KILL);
    server::another_worker(&server, worker);
    assert_eq!(endpoint(&traffic(&server)), Some(first.clone()), "the next worker knows it, too");
    expect(&server.control.post("/v1/programs/web/restart", &[]), "applied");
    let second = endpoint(&traffic(&server)).unwrap();
    assert_ne!(second["address"], first["address"]);
}

fn kill(server: &mut Server) {
    server.process.signal(Signal::KILL);
    assert_eq!(server.process.wait().code, 128 + 9);
}

/// Waits until what the worker keeps is the newest: nothing changes any more by itself.
fn kept(server: &Server) {
    until("the worker keeps what the next supervisor needs", || {
        let answer = server.control.post("/v1/actions/kept", &[]).1;
        text(&answer, "/answer").parse::<u32>().is_ok_and(|count| count > 0).then_some(())
    });
}

fn a_supervisor_that_is_killed_finds_its_programs_again() {
    let workspace = Workspace::new();
    let mut first = start(&workspace, &[private(), program("second", &LIVES)]);
    let (web, second) = (running(&first, "web"), running(&first, "second"));
    kept(&first);
    let traffic_before = traffic(&first);
    kill(&mut first);
    assert!(proc::alive(web) && proc::alive(second), "they do not end with it");
    let next = Server::start_again(&workspace);
    assert_eq!((running(&next, "web"), running(&next, "second")), (web, second));
    assert_eq!(traffic(&next), traffic_before);
    // It notices when one of them dies, and replaces it.
    signal(web, Signal::KILL);
    let replaced = until("it is replaced", || pids(&next, "web").into_iter().find(|pid| *pid != web));
    expect(&next.control.post("/v1/programs/second/restart", &[]), "applied");
    assert!(wait_for_exit(second, DEADLINE));
    let mut next = next;
    assert_eq!(next.terminate().code, 0);
    assert!(!proc::alive(replaced));
}

/// A server from a program that can be replaced, with these programs.
fn upgradable(workspace_lines: impl Fn(&Workspace) -> Vec<Value>) -> upgrades::Upgraded {
    let up = upgrades::start("1", &[]);
    let programs = workspace_lines(&up.workspace);
    expect(&reload(&up.server, &up.workspace, &programs), "applied");
    up
}

fn programs_go_with_the_supervisor_into_another_binary() {
    let mut up = upgradable(|_| vec![private(), program("second", &LIVES)]);
    let (web, second) = (running(&up.server, "web"), running(&up.server, "second"));
    let traffic_before = traffic(&up.server);
    for mark in ["2", "3"] {
        expect(&up.upgrade(mark, ""), "applied");
        assert_eq!(text(&up.server.control.status(), "/version"), format!("fake {mark}"));
        assert_eq!((running(&up.server, "web"), running(&up.server, "second")), (web, second));
        assert_eq!(traffic(&up.server), traffic_before);
    }
    // Its exit is heard and what it writes is read as before.
    signal(web, Signal::KILL);
    until("it is replaced", || pids(&up.server, "web").into_iter().find(|pid| *pid != web));
    expect(&up.server.control.post("/v1/programs/second/restart", &[]), "applied");
    assert!(!proc::alive(second));
    assert!(proc::zombies(up.pid()).is_empty());
    assert_eq!(up.server.terminate().code, 0);
}

fn deploy(server: &Server, query: &str) -> (u16, Value) {
    server.control.post(&format!("/v1/programs/web/deploy{query}"), &[])
}

fn a_deploy_that_awaits_confirmation_outlives_an_upgrade_of_handover() {
    let up = upgradable(|workspace| vec![slotted(workspace)]);
    running(&up.server, "web");
    expect(&deploy(&up.server, "?confirm_within=10m"), "applied");
    let new = running(&up.server, "web");
    let before = status(&up.server, "web");
    assert_eq!((text(&before, "/slot"), text(&before, "/pending/back_to")), ("b", "a"), "{before}");
    expect(&up.upgrade("2", ""), "applied");
    let after = status(&up.server, "web");
    for same in ["/slot", "/pending/operation_id", "/pending/back_to"] {
        assert_eq!(after.pointer(same), before.pointer(same), "{same}");
    }
    assert_eq!(running(&up.server, "web"), new);
    expect(&up.server.control.post("/v1/programs/web/confirm", &[]), "applied");
    assert!(status(&up.server, "web")["pending"].is_null());
    // And a reload of the server does not care about it either way.
    expect(&up.server.control.post("/v1/reload", &[]), "unchanged");
}

fn a_deploy_that_awaits_confirmation_outlives_the_supervisor() {
    let workspace = Workspace::new();
    let web = slotted(&workspace);
    let mut first = start(&workspace, &[web]);
    running(&first, "web");
    expect(&deploy(&first, "?confirm_within=10m"), "applied");
    let new = running(&first, "web");
    let before = status(&first, "web");
    kept(&first);
    kill(&mut first);
    let next = Server::start_again(&workspace);
    assert_eq!(running(&next, "web"), new);
    let after = status(&next, "web");
    for same in ["/slot", "/pending/operation_id", "/pending/back_to"] {
        assert_eq!(after.pointer(same), before.pointer(same), "{same}: {after}");
    }
    expect(&next.control.post("/v1/programs/web/cancel", &[]), "applied");
    assert_eq!(text(&status(&next, "web"), "/slot"), "a");
}

fn a_deploy_that_nobody_confirms_goes_back_as_the_supervisors_own_operation() {
    let workspace = Workspace::new();
    let web = slotted(&workspace);
    let server = start(&workspace, &[web]);
    let old = running(&server, "web");
    expect(&deploy(&server, "?confirm_within=1s"), "applied");
    let back = server.control.wait_for_operation("it goes back", |one| one["kind"] == "program_rollback");
    assert_eq!(text(&back, "/actor/kind"), "supervisor", "{back}");
    assert_eq!(text(&status(&server, "web"), "/slot"), "a");
    let serves = running(&server, "web");
    assert!(serves == old || !proc::alive(old), "the warm one, or a new one of the same slot");
}

fn what_an_earlier_life_has_left_is_ended_before_programs_are_started() {
    let workspace = Workspace::new();
    let mut first = start(&workspace, &[web()]);
    let (pid, worker) = (running(&first, "web"), first.control.worker());
    kept(&first);
    kill(&mut first);
    signal(worker, Signal::KILL);
    assert!(wait_for_exit(worker, DEADLINE));
    assert!(proc::alive(pid), "nobody is left who knows it");
    let next = Server::start_again(&workspace);
    let new = running(&next, "web");
    assert_ne!(new, pid);
    assert!(wait_for_exit(pid, DEADLINE));
}

fn orphans_of_programs_are_reaped() {
    let workspace = Workspace::new();
    let forks = "for i in 1 2 3 4 5; do (sh -c 'true' & ); done; exec sleep 1000";
    let server = start(&workspace, &[program("web", &["sh", "-c", forks])]);
    running(&server, "web");
    expect(&server.control.post("/v1/programs/web/restart", &[]), "applied");
    let supervisor = server.process.pid();
    until("nobody is left unreaped", || proc::zombies(supervisor).is_empty().then_some(()));
    expect(&server.control.post("/v1/programs/web/stop", &[]), "applied");
    until("only the worker is left", || (proc::children(supervisor).len() == 1).then_some(()));
}

fn a_server_that_is_there_for_a_program_says_so_when_that_is_ready_and_ends_with_it() {
    let workspace = Workspace::new();
    let mut job = slow_when(&workspace, "slow");
    let end = workspace.path("end");
    let runs = format!("until test -e {}; do sleep 0.05; done; exit 7", end.display());
    job["command"] = json!(["sh", "-c", runs]);
    job["restart"]["policy"] = json!("never");
    workspace.write("slow", "");
    let lines = lines(&[job]);
    configure(&workspace, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    let mut command = command(&workspace);
    command.env(server::FOR_PROGRAMS, "1");
    let mut server = Server::begin(&workspace, command);
    until("it serves", || {
        let status =
            server.control.try_ask("GET", "/v1/status", &[("Accept", "application/json")], "").ok()?;
        status.text().contains("\"phase\":\"serving\"").then_some(())
    });
    let address = server.address("web");
    assert!(try_ask(address).is_ok(), "it is up");
    assert!(
        !server.notifications.messages().iter().any(|notice| notice.contains("READY=1")),
        "and does not say so"
    );
    workspace.write("fast", "");
    let _ = server.notifications.wait_after(0, "READY=1");
    workspace.write("end", "");
    assert_eq!(server.process.wait().code, 7, "the program's exit code");
    assert!(TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_err());
}
