//! A test in a process of its own, where what it counts or changes is nobody else's.

use std::fs;
use std::process::{Command, Stdio};

/// What tells a process that it is one test's own.
const ALONE: &str = "HANDOVER_TEST_IS_ALONE";

/// Whether this process is the own one of `test` (its name with its modules). If not, runs the test once more in one that is,
/// and fails if that fails: there is nothing left to do here then.
#[must_use]
pub fn is_alone(test: &str) -> bool {
    is_alone_in(test, || Command::new(std::env::current_exe().unwrap()))
}

/// The same in a process that is made in a special way. The command is that of this very program.
#[must_use]
pub fn is_alone_in(test: &str, command: impl FnOnce() -> Command) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("output");
    // No pipe: what the test leaves behind may still hold it when it has failed.
    let file = fs::File::create(&output).unwrap();
    let mut command = command();
    command.args(["--exact", test]).env(ALONE, "1").stdin(Stdio::null());
    let status = command.stdout(file.try_clone().unwrap()).stderr(file).status().unwrap();
    let text = fs::read_to_string(output).unwrap();
    assert!(status.success() && text.contains("1 passed"), "{test} in a process of its own: {text}");
    false
}
