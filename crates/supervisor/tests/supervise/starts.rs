//! Starting: what is printed, what is refused, what is left behind.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use handover_testkit::{Process, Workspace, proc, until};
use rustix::process::Signal;

use crate::server::{Server, ask, command, configure};

crate::tests! {
    a_start_prints_four_lines_and_serves
    a_rejected_start_says_everything_exits_10_and_leaves_nothing
    a_worker_that_dies_in_prepare_fails_the_start_with_11
    a_port_in_use_is_refused_by_the_name_of_who_has_it
    a_second_supervisor_is_refused_and_the_first_serves_on
    a_stale_control_socket_is_replaced
    sockets_of_the_service_manager_are_used_for_this_process_only
    a_socket_of_the_service_manager_that_nothing_wants_is_said_and_closed
    a_socket_of_the_service_manager_with_the_name_of_a_listener_elsewhere_is_refused
    signals_before_the_start_is_over_are_harmless
    stop_during_the_start_ends_it
}

fn a_start_prints_four_lines_and_serves() {
    let workspace = Workspace::new();
    let mut server = Server::start(&workspace, &["listen web 127.0.0.1:0", "body hello"]);
    let address = server.address("web");
    assert_eq!(ask(address), "1 hello");
    let output = server.terminate();
    output.expect_code(0);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{output:?}");
    assert_eq!(lines[0], "fake fake 1 serves: fake");
    assert_eq!(lines[1], format!("generation 1 listens on {address}"));
    assert_eq!(lines[2], format!("control socket: {}", workspace.control_socket().display()));
    assert!(lines[3].starts_with("next: "));
    assert!(server.notifications.messages().iter().any(|message| message.contains("STOPPING=1")));
}

fn a_rejected_start_says_everything_exits_10_and_leaves_nothing() {
    let workspace = Workspace::new();
    configure(
        &workspace,
        &["listen web 127.0.0.1:0", "reject the first mistake", "reject the second mistake"],
    );
    let mut process = Process::start(command(&workspace));
    let output = process.wait();
    output.expect_code(10);
    assert!(output.stderr.contains("the first mistake") && output.stderr.contains("the second mistake"));
    assert_eq!(process.live_descendants(), [0; 0]);
    let left: Vec<String> = workspace.listing().into_iter().filter(|path| path.starts_with("run/")).collect();
    assert_eq!(left, [""; 0], "sockets or locks are left");
}

fn a_worker_that_dies_in_prepare_fails_the_start_with_11() {
    let workspace = Workspace::new();
    configure(&workspace, &["prepare die"]);
    let output = Process::start(command(&workspace)).wait();
    output.expect_code(11);
    assert!(output.stderr.contains("exited with code 7"), "{}", output.stderr);
}

fn a_port_in_use_is_refused_by_the_name_of_who_has_it() {
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let workspace = Workspace::new();
    configure(&workspace, &[&format!("listen web {}", foreign.local_addr().unwrap())]);
    let output = Process::start(command(&workspace)).wait();
    output.expect_code(10);
    assert!(output.stderr.contains(&format!("(pid {})", std::process::id())), "{}", output.stderr);
}

fn a_second_supervisor_is_refused_and_the_first_serves_on() {
    let workspace = Workspace::new();
    let first = Server::start(&workspace, &["listen web 127.0.0.1:0", "body first"]);
    let second = Process::start(command(&workspace)).wait();
    second.expect_code(13);
    assert!(second.stderr.contains(&format!("(pid {})", first.process.pid())), "{}", second.stderr);
    assert_eq!(ask(first.address("web")), "1 first");
}

fn a_stale_control_socket_is_replaced() {
    let workspace = Workspace::new();
    drop(std::os::unix::net::UnixListener::bind(workspace.control_socket()).unwrap());
    let server = Server::start(&workspace, &["listen web 127.0.0.1:0"]);
    assert_eq!(server.control.generation(), 1);
}

/// Starts a supervisor that is passed a socket with the name `web`.
fn start_with_socket(workspace: &Workspace, passed: TcpListener, for_it: bool) -> Process {
    let pid = if for_it { "$$" } else { "$PPID" };
    let script =
        format!("exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_FDNAMES=web LISTEN_PID={pid}; exec \"$0\"");
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(script).arg(std::env::current_exe().unwrap());
    for (name, value) in command(workspace).get_envs() {
        value.into_iter().for_each(|value| {
            shell.env(name, value);
        });
    }
    Process::try_start_with_input(shell, std::os::fd::OwnedFd::from(passed)).unwrap()
}

fn sockets_of_the_service_manager_are_used_for_this_process_only() {
    for for_it in [true, false] {
        let passed = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = passed.local_addr().unwrap();
        let workspace = Workspace::new();
        configure(&workspace, &[&format!("listen web {address}"), "body passed"]);
        let mut process = start_with_socket(&workspace, passed, for_it);
        if !for_it {
            // It is left alone: then the address is in use, by that very descriptor.
            process.wait().expect_code(10);
            continue;
        }
        assert!(process.stdout_line("next: ").is_some(), "{}", process.stderr());
        assert_eq!(ask(address), "1 passed");
        let control = handover_testkit::Control::at(&workspace.control_socket());
        assert_eq!(control.status()["listeners"][0]["inherited"], true);
        let environment = proc::environment(control.worker());
        assert!(!environment.iter().any(|variable| variable.starts_with("LISTEN_")), "{environment:?}");
    }
}

fn a_socket_of_the_service_manager_that_nothing_wants_is_said_and_closed() {
    let passed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = passed.local_addr().unwrap();
    let workspace = Workspace::new();
    configure(&workspace, &["listen other 127.0.0.1:0"]);
    let process = start_with_socket(&workspace, passed, true);
    assert!(process.stdout_line("next: ").is_some(), "{}", process.stderr());
    assert!(process.stderr_line(&format!("web ({address})")).is_some(), "{}", process.stderr());
    assert!(TcpStream::connect(address).is_err());
}

fn a_socket_of_the_service_manager_with_the_name_of_a_listener_elsewhere_is_refused() {
    let passed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = passed.local_addr().unwrap();
    let workspace = Workspace::new();
    configure(&workspace, &["listen web 127.0.0.2:0"]);
    let output = start_with_socket(&workspace, passed, true).wait();
    output.expect_code(10);
    assert!(output.stderr.contains(&format!("web ({address})")), "{}", output.stderr);
}

fn signals_before_the_start_is_over_are_harmless() {
    let workspace = Workspace::new();
    let fifo = workspace.path("fake.conf");
    // A worker that reads this file waits until somebody writes it.
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let mut server = Server::begin(&workspace, command(&workspace));
    until("the control socket answers", || server.control.try_ask("GET", "/v1/status", &[], "").ok());
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::CHILD, Signal::HUP] {
        server.process.signal(signal);
    }
    // Opening fails as long as nobody reads, and never waits.
    let write = |text: &str| {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
        options.open(&fifo).and_then(|mut file| file.write_all(text.as_bytes())).ok()
    };
    until("the worker reads its configuration", || write("listen web 127.0.0.1:0\nbody started\n"));
    // The remembered HUP reads the file again.
    until("the reload has ended", || {
        let status = server.control.status();
        if status["running"]["kind"] == "reload" {
            write("listen web 127.0.0.1:0\nbody reloaded\n");
        }
        (status["last"]["kind"] == "reload").then_some(())
    });
    assert_eq!(ask(server.address("web")), "2 reloaded");
    assert_eq!(server.history()[0], ("reload".to_owned(), "applied".to_owned()));
}

fn stop_during_the_start_ends_it() {
    let workspace = Workspace::new();
    configure(&workspace, &["prepare hang"]);
    let mut server = Server::begin(&workspace, command(&workspace));
    until("the control socket answers", || server.control.try_ask("GET", "/v1/status", &[], "").ok());
    server.terminate().expect_code(0);
    assert_eq!(server.process.live_descendants(), [0; 0]);
}
