//! Real curl, because that is what operators and scripts use.

use std::path::Path;
use std::process::Command;

use crate::process::{Output, run};

/// The longest that curl itself may wait, in seconds.
const LIMIT_SECONDS: &str = "25";

/// Runs `curl --silent --show-error` with these arguments.
#[must_use]
pub fn curl<I, A>(arguments: I) -> Output
where
    I: IntoIterator<Item = A>,
    A: AsRef<std::ffi::OsStr>,
{
    let mut command = Command::new("curl");
    // No configuration file of the user's and no proxy of the environment's.
    command.args(["--disable", "--silent", "--show-error", "--noproxy", "*", "--max-time", LIMIT_SECONDS]);
    command.args(arguments);
    run(command)
}

/// The body of a GET, which must succeed.
#[track_caller]
#[must_use]
pub fn body(url: &str) -> String {
    curl(["--fail", url]).expect_code(0).stdout.clone()
}

/// Runs curl over a Unix socket.
#[must_use]
pub fn over_unix(socket: &Path, arguments: &[&str]) -> Output {
    let mut all = vec!["--unix-socket".to_owned(), socket.display().to_string()];
    all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    curl(all)
}
