//! Skipping, loudly: a test that cannot run here says so where nobody can miss it.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;

/// The file whose lines `scripts/test` prints at its end.
const FILE: &str = "HANDOVER_TEST_SKIPS";

/// Notes that something was not tested, and why.
pub fn skip(what: &str) {
    eprintln!("SKIPPED: {what}");
    if let Some(path) = std::env::var_os(FILE) {
        let file = OpenOptions::new().append(true).create(true).open(path);
        // Without the file there is nobody to tell.
        let _ = file.and_then(|mut file| file.write_all(format!("{what}\n").as_bytes()));
    }
}

/// Whether a command is there; if not, notes that this test was skipped.
#[must_use]
pub fn have(command: &str, test: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {command}")]).output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        skip(&format!("{test}: {command} is not installed"));
    }
    found
}

/// Whether this is root; if not, notes that this test was skipped.
#[must_use]
pub fn root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip(&format!("{test}: only root can do this"));
    }
    root
}
