//! The program that a server is upgraded from and to: a copy of the binary under test, installed in a workspace.
//!
//! ```text
//!   binary under test ──strip──▶ kept beside it ──copied──▶ bin/handover          what the server is started from
//!                                               ──copied──▶ bin/handover-MARK     another version: other bytes at its end
//! ```
//!
//! What stands after the end of an executable is of no importance to the kernel, but makes another file of it, with another
//! digest. All files are written by child processes: a descriptor that this process has open for writing would be inherited
//! for a moment by whatever another thread starts just then, and who runs the file in that moment gets ETXTBSY.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::process::run;
use crate::workspace::Workspace;

/// Where programs are installed in a workspace.
const DIRECTORY: &str = "bin";

/// Two tests of one process must not both make the stripped copy.
static MAKING: Mutex<()> = Mutex::new(());

/// A program that is installed in a workspace.
#[derive(Debug, Clone)]
pub struct Program {
    binary: PathBuf,
    path: PathBuf,
}

impl Program {
    /// Installs `binary` as `bin/handover`.
    #[must_use]
    pub fn install(workspace: &Workspace, binary: impl AsRef<Path>) -> Self {
        let this =
            Self { binary: stripped(binary.as_ref()), path: workspace.path(DIRECTORY).join("handover") };
        fs::create_dir_all(workspace.path(DIRECTORY)).expect("directory of programs");
        copy(&this.binary, &this.path, "");
        this
    }

    /// Where it is installed.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another version, installed beside it.
    #[must_use]
    pub fn version(&self, mark: &str) -> PathBuf {
        let path = self.beside(&format!("handover-{mark}"));
        copy(&self.binary, &path, &format!("\nversion {mark}\n"));
        path
    }

    /// Puts another version in its place, as a package manager does: another file, renamed over the old one.
    pub fn replace(&self, mark: &str) {
        fs::rename(self.version(mark), &self.path).expect("program put in place");
    }

    /// A path in the directory where it is installed.
    #[must_use]
    pub fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }

    /// Installs another program beside it, with `end` as its last bytes.
    #[must_use]
    pub fn other(&self, name: &str, program: &Path, end: &str) -> PathBuf {
        let path = self.beside(name);
        copy(&stripped(program), &path, end);
        path
    }

    /// Installs another build of it beside it, which is it with this variable in its environment (without it, if `value` is
    /// empty); `binary` is the program under test (see [`crate::example()`]).
    #[must_use]
    pub fn build(&self, name: &str, binary: &str, variable: &str, value: &str) -> PathBuf {
        let other = crate::example::example_of("handover-testkit", binary, "other_build");
        let becomes = self.version(&format!("{name}-itself"));
        self.other(name, &other, &format!("\n{}\n{variable}={value}", becomes.display()))
    }
}

/// The SHA-256 of a file in hexadecimal digits, as sha256sum(1) tells it.
#[must_use]
pub fn sha256(path: &Path) -> String {
    let mut command = Command::new("sha256sum");
    command.arg(path);
    let output = run(command);
    output.expect_code(0);
    output.stdout.split_whitespace().next().expect("a digest").to_owned()
}

/// Copies an executable and appends to it; the copy appears whole or not at all.
fn copy(from: &Path, to: &Path, end: &str) {
    let mut shell = Command::new("sh");
    let script = "cp \"$0\" \"$1.new\" && printf %s \"$2\" >> \"$1.new\" && chmod 755 \"$1.new\" && mv -f \"$1.new\" \"$1\"";
    shell.args(["-c", script]).arg(from).arg(to).arg(end);
    run(shell).expect_code(0);
}

/// Puts a text in place that is executed. (Not as a [`crate::Process`]: with the first of these orphans begin to come to this
/// process, which not every test that has children wants.)
pub fn script(path: &Path, text: &str) {
    let mut shell = Command::new("sh");
    let script = "printf %s \"$1\" > \"$0.new\" && chmod 755 \"$0.new\" && mv -f \"$0.new\" \"$0\"";
    let status = shell.args(["-c", script]).arg(path).arg(text).status();
    assert!(status.is_ok_and(|status| status.success()), "{} cannot be written", path.display());
}

/// The binary without its debug information, which makes it a third as long and quicker to copy and to hash. Without
/// strip(1) it is the binary as it is.
fn stripped(binary: &Path) -> PathBuf {
    let _one = MAKING.lock();
    let path = binary.with_extension("stripped");
    let time = |path: &Path| fs::metadata(path).and_then(|about| about.modified()).ok();
    if time(&path).is_some_and(|made| time(binary).is_some_and(|built| made >= built)) {
        return path;
    }
    let other = binary.with_extension(format!("stripped.{}", std::process::id()));
    let done = Command::new("strip").arg("-o").arg(&other).arg(binary).status();
    if done.is_ok_and(|status| status.success()) {
        fs::rename(&other, &path).expect("stripped program put in place");
        path
    } else {
        binary.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_runs_and_has_another_digest() {
        let workspace = Workspace::new();
        let program = Program::install(&workspace, std::env::current_exe().unwrap());
        let next = program.version("2");
        assert_ne!(sha256(program.path()), sha256(&next));
        let mut list = Command::new(&next);
        list.arg("--list");
        run(list).expect_code(0).says("another_version_runs");
        program.replace("2");
        assert_eq!(sha256(program.path()), sha256(&program.version("2")));
    }
}
