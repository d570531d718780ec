//! `handover run`: the sockets of programs that nobody wrote for it are held, and outlive them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use handover_testkit::servers::{any_program, gunicorn, nginx, node, uvicorn};
use handover_testkit::{
    DEADLINE, Handover, Output, Port, Signal, Workspace, handover, http, proc, signal, until, wait_for_exit,
};

/// `handover run` with these words before the command, and this command, in the workspace's directory `app`.
fn run(workspace: &Workspace, words: &[&str], command: &[String]) -> Handover {
    builder(workspace, words, command).start()
}

fn builder<'a>(
    workspace: &'a Workspace,
    words: &[&str],
    command: &[String],
) -> handover_testkit::HandoverBuilder<'a> {
    std::fs::create_dir_all(workspace.path("app")).unwrap();
    let mut all: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    all.extend(["--name", "app", "--directory", "app", "--"].map(str::to_owned));
    all.extend(command.iter().cloned());
    Handover::of(handover!(), workspace).verb("run").arguments(all)
}

fn text(port: &Port) -> String {
    http::get(port.address(), "/").expect(200).text()
}

fn pid_in(text: &str) -> u32 {
    text.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{text:?}"))
}

/// Restarts it: the next one answers, on the same socket, and the one before is gone.
#[track_caller]
fn restarts(handover: &Handover, port: &Port) -> Output {
    let before = pid_in(&text(port));
    let output = handover.cli(["restart", "app"]);
    output.expect_code(0);
    until("the next copy answers", || (pid_in(&text(port)) != before).then_some(()));
    assert!(wait_for_exit(before, DEADLINE));
    output
}

/// Its answers begin so; it is restarted; all of it ends.
#[track_caller]
fn serves_and_restarts(mut handover: Handover, port: &Port, says: &str) {
    assert!(text(port).starts_with(says));
    let _ = restarts(&handover, port);
    handover.terminate().expect_code(0);
}

#[test]
fn gunicorn_runs_as_it_comes() {
    let workspace = Workspace::new();
    let Some(command) = gunicorn(&workspace, "app", "gunicorn_runs_as_it_comes") else { return };
    let port = Port::claim();
    let words = ["--listen", &port.address().to_string(), "--ready", "notify"];
    serves_and_restarts(run(&workspace, &words, &command), &port, "python ");
}

#[test]
fn uvicorn_takes_a_descriptor_by_number() {
    let workspace = Workspace::new();
    let Some(command) = uvicorn(&workspace, "app", "uvicorn_takes_a_descriptor_by_number") else { return };
    let port = Port::claim();
    let handover = run(&workspace, &["--listen", &port.address().to_string()], &command);
    serves_and_restarts(handover, &port, "python ");
}

#[test]
fn node_takes_a_descriptor_by_number() {
    let workspace = Workspace::new();
    let Some(command) = node(&workspace, "app", "node_takes_a_descriptor_by_number") else { return };
    let port = Port::claim();
    let handover = run(&workspace, &["--listen", &port.address().to_string()], &command);
    serves_and_restarts(handover, &port, "node ");
}

#[test]
fn nginx_finds_its_socket_in_a_variable_of_its_own() {
    let workspace = Workspace::new();
    let port = Port::claim();
    let address = port.address().to_string();
    let Some(command) = nginx(&workspace, "app", &address, "nginx_finds_its_socket") else { return };
    let words = ["--listen", &address, "--env", "NGINX={fd};", "--nonblocking", "--stop-signal", "QUIT"];
    serves_and_restarts(run(&workspace, &words, &command), &port, "nginx ");
}

/// One that only knows accept(2) on a descriptor, and one that binds a port itself.
#[test]
fn a_descriptor_in_a_variable_a_number_of_its_own_and_a_port() {
    let workspace = Workspace::new();
    let port = Port::claim();
    let address = port.address().to_string();
    for words in [&["--fd", "7"][..], &["--fd-env", "SOCKETS"], &[]] {
        let number = if words.first() == Some(&"--fd") { "7" } else { "{fd}" };
        let command = any_program(handover!(), &["says", "any", "fd", number]);
        let mut handover = run(&workspace, &[&["--listen", &address], words].concat(), &command);
        assert!(text(&port).starts_with("any "));
        let environment = http::get(port.address(), "/environment").text();
        if words.first() == Some(&"--fd-env") {
            assert!(environment.contains("SOCKETS=3\n"), "{environment}");
        }
        handover.terminate().expect_code(0);
    }
}

#[test]
fn a_crash_refuses_nobody() {
    let workspace = Workspace::new();
    let port = Port::claim();
    let command = any_program(handover!(), &["says", "any"]);
    let handover = run(&workspace, &["--listen", &port.address().to_string()], &command);
    let first = pid_in(&text(&port));
    signal(first, Signal::KILL);
    assert_ne!(pid_in(&text(&port)), first);
    drop(handover);
}

/// What runs goes on as it was; a reload applies the words of now. The next copies get a new socket, and wait in accept as the first
/// ones did, although those still run on theirs.
#[test]
fn other_words_than_those_of_before_are_told_and_applied_by_a_reload() {
    let workspace = Workspace::new();
    let ports = [Port::claim(), Port::claim()];
    let words =
        |port: &Port| ["--listen", &port.address().to_string(), "--ready", "100ms"].map(str::to_owned);
    let command = ["sleep", "1000"].map(str::to_owned);
    let start = |port: &Port, more: &[&str]| {
        let words = words(port);
        let words: Vec<&str> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
        run(&workspace, &words, &command)
    };
    let copies = |handover: &Handover| -> Vec<u32> {
        let all: serde_json::Value =
            serde_json::from_str(&handover.cli(["-o", "json", "ps"]).stdout).unwrap();
        let serving = all[0]["copies"].as_array().unwrap().iter().filter(|copy| copy["role"] == "serving");
        serving.map(|copy| u32::try_from(copy["pid"].as_u64().unwrap()).unwrap()).collect()
    };
    let mut first = start(&ports[0], &[]);
    let before = copies(&first);
    first.kill_supervisor();
    let next = start(&ports[1], &["--copies", "2"]);
    assert_eq!(copies(&next), before, "it runs on");
    until("it is said at the start", || next.process.stdout_line("'handover reload' applies it"));
    next.cli(["status"]).expect_code(0).says("made of the command line differs from what serves");
    next.cli(["diff"]).expect_code(1).says("+copies = 2");
    next.cli(["reload"]).expect_code(0);
    next.cli(["diff"]).expect_code(0);
    let after = copies(&next);
    assert_eq!(after.len(), 2);
    for pid in after {
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/3")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = u32::from_str_radix(flags, 8).unwrap();
        assert_eq!(flags & rustix::fs::OFlags::NONBLOCK.bits(), 0, "accept would not wait: {info}");
    }
    drop(first);
}

#[test]
fn it_ends_with_the_programs_own_code_where_it_is_not_started_again() {
    let workspace = Workspace::new();
    let command = ["sh", "-c", "echo over and out; exit 7"].map(str::to_owned);
    let mut handover = builder(&workspace, &["--restart", "never"], &command).start_unawaited();
    let output = handover.process.wait();
    assert!(output.expect_code(7).stderr.contains("over and out"), "{}", output.all());
}

#[test]
fn a_command_that_does_not_exist_is_refused_by_name() {
    let workspace = Workspace::new();
    let command = ["no-such-command".to_owned()];
    let output = builder(&workspace, &["--listen", "127.0.0.1:0"], &command).try_start().unwrap_err();
    assert!(output.expect_code(10).stderr.contains("no-such-command"), "{}", output.all());
}

/// Nothing of it stays behind.
#[test]
fn a_stop_ends_the_program_and_what_it_has_started() {
    let workspace = Workspace::new();
    let port = Port::claim();
    let command = any_program(handover!(), &["says", "any", "leaves-children"]);
    let words = ["--listen", &port.address().to_string(), "--stop-timeout", "500ms"];
    let mut handover = run(&workspace, &words, &command);
    let _ = text(&port);
    let below: Vec<u32> = proc::tree(handover.pid()).iter().map(|stat| stat.pid).collect();
    assert!(below.len() >= 5, "{below:?}");
    handover.terminate();
    for pid in below {
        assert!(wait_for_exit(pid, DEADLINE), "{pid} is still there: {:?}", proc::command_line(pid));
    }
    assert!(Path::new(handover!()).exists());
}
