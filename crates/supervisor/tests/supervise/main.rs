//! The supervisor as a process, with a worker that does what a test tells it to.
//!
//! The program is its own supervisor and its own worker: it executes itself, as a server that embeds the library
//! does. Which of the three it is, is in its environment.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "a test"
)]

mod adoption;
mod endings;
mod probation;
mod programs;
mod reexec;
mod reloads;
mod rollbacks;
mod server;
mod starts;
mod upgrades;
mod upgrading;
mod worker;

use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use handover_testkit::{Signal, proc, signal, until};

/// Longer than all the deadlines that one test can wait for, one after the other.
const TEST_LIMIT: Duration = Duration::from_secs(300);

/// A test and its name.
type Test = (&'static str, fn());

fn main() -> ExitCode {
    if std::env::var_os("HANDOVER_CHANNEL").is_some() {
        return worker::run();
    }
    if handover_supervisor::preflight::is_asked() {
        return upgrading::preflight();
    }
    if std::env::var_os(server::ROLE).is_some() {
        return server::supervise();
    }
    let all = [
        starts::TESTS,
        reloads::TESTS,
        endings::TESTS,
        adoption::TESTS,
        probation::TESTS,
        rollbacks::TESTS,
        reexec::TESTS,
        upgrades::TESTS,
        programs::TESTS,
    ];
    run_tests(&all.concat())
}

/// Understands what cargo and people give a test program: `--list`, `--exact`, and parts of names.
fn run_tests(tests: &[Test]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let is_wanted = |name: &str| {
        wanted.is_empty() || wanted.iter().any(|w| if exact { *w == name } else { name.contains(w.as_str()) })
    };
    let chosen: Vec<&Test> = tests.iter().filter(|(name, _)| is_wanted(name)).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let mut failed: Vec<&str> = Vec::new();
    for (name, test) in &chosen {
        let (done, waiting) = mpsc::channel();
        let test = *test;
        let thread = thread::spawn(move || {
            let _done: mpsc::Sender<()> = done;
            test();
        });
        if waiting.recv_timeout(TEST_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            println!("test {name} ... FAILED: it hangs");
            end_everything();
            return ExitCode::FAILURE;
        }
        let passed = thread.join().is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed.extend((!passed).then_some(*name));
    }
    let result = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {result}. {} passed; {} failed\n", chosen.len() - failed.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ends what a test that hangs has started: this process is its reaper, so that nothing gets out of its tree.
fn end_everything() {
    let own = std::process::id();
    until("everything that was started has ended", || {
        let left: Vec<_> = proc::tree(own).into_iter().filter(|s| s.pid != own && s.state != 'Z').collect();
        left.iter().for_each(|stat| signal(stat.pid, Signal::KILL));
        left.is_empty().then_some(())
    });
}

/// Names the tests of a module.
#[macro_export]
macro_rules! tests {
    ($($name:ident)*) => {
        pub const TESTS: &[$crate::Test] = &[$((concat!(module_path!(), "::", stringify!($name)), $name)),*];
    };
}
