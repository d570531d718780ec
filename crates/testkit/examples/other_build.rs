//! The program under test as another build of it would be: it sets a variable, or removes it, and becomes the program that
//! its own end names.
//!
//! ```text
//!   …its own bytes…\n/path/of/the/program\nNAME=VALUE        or NAME= to remove it
//! ```
//!
//! Descriptors, arguments and the process's number stay as they are, so that nobody can tell the difference.
#![allow(clippy::expect_used, clippy::print_stderr, reason = "a helper of tests fails by ending")]

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let own = std::fs::read("/proc/self/exe").expect("its own bytes");
    let mut lines = own.rsplit(|byte| *byte == b'\n').map(|line| String::from_utf8_lossy(line).into_owned());
    let variable = lines.next().expect("a variable at its end");
    let program = lines.next().expect("a program before it");
    let (name, value) = variable.split_once('=').expect("a name and a value");
    let mut arguments = std::env::args_os();
    let mut command = Command::new(&program);
    command.arg0(arguments.next().expect("its own name")).args(arguments);
    match value {
        "" => command.env_remove(name),
        value => command.env(name, value),
    };
    eprintln!("other_build: cannot become {program}: {}", command.exec());
    ExitCode::FAILURE
}
