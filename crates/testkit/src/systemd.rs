//! A real systemd above the server: a `systemd --user` manager in namespaces of its own (`scripts/user-manager`).
//!
//! ```text
//!   Manager::start ──READY=1──▶ unit ──▶ systemctl start ──▶ systemctl reload, kill … ──▶ dropped: everything in it ends
//! ```
//!
//! Processes in it have other numbers inside (as systemctl tells them) than outside; [`Manager::run`] runs a command inside.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::deadline::until;
use crate::notify::Notifications;
use crate::proc;
use crate::process::{Output, Process, run};
use crate::skip::{have, root, skip};
use crate::workspace::Workspace;

/// Where Debian and others have the manager.
const PLACES: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

/// A manager that runs, with its units. It ends with this.
#[derive(Debug)]
pub struct Manager {
    process: Process,
    /// Its first process, as it is numbered outside.
    first: u32,
    runtime: PathBuf,
    units: PathBuf,
    /// Held open for as long as the manager is to live.
    _input: std::io::PipeWriter,
}

impl Manager {
    /// Starts one and waits until it is ready; `None`, and that is noted, where there is no systemd, or no right to
    /// make namespaces.
    #[must_use]
    pub fn start(workspace: &Workspace, test: &str) -> Option<Self> {
        if !root(test) || !have("unshare", test) || !have("nsenter", test) || !have("systemctl", test) {
            return None;
        }
        if !PLACES.iter().any(|place| Path::new(place).exists()) {
            skip(&format!("{test}: systemd is not installed"));
            return None;
        }
        let able = Command::new("unshare").args(["--mount", "--cgroup", "--pid", "--fork", "true"]).output();
        if !able.is_ok_and(|done| done.status.success()) {
            skip(&format!("{test}: no namespaces can be made here"));
            return None;
        }
        let runtime = workspace.path("manager");
        let units = workspace.path("home/.config/systemd/user");
        std::fs::create_dir_all(&units).expect("directory of units");
        std::fs::create_dir(&runtime).expect("directory of the manager");
        workspace.mode("manager", 0o700);
        let notifications = Notifications::listen(&runtime.join("ready.sock"));
        let (input, keep) = std::io::pipe().expect("a pipe");
        let mut command = Command::new(script());
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", workspace.path("home"))
            .env("XDG_RUNTIME_DIR", &runtime)
            .env("NOTIFY_SOCKET", notifications.path());
        let mut process = Process::try_start_with_input(command, Stdio::from(input)).expect("user-manager");
        let ready = notifications.wait_after_unless(0, "READY=1", || process.ended());
        assert!(ready.is_some(), "systemd --user ended:\n{}", process.wait().all());
        let first = proc::children(process.pid()).first().expect("first process of the manager").pid;
        process.remember();
        Some(Self { process, first, runtime, units, _input: keep })
    }

    /// Writes a unit (or writes it anew) and has the manager read it.
    pub fn unit(&self, name: &str, text: &str) {
        std::fs::write(self.units.join(name), text).expect("unit written");
        self.systemctl(&["daemon-reload"]).expect_code(0);
    }

    /// The command line that [`Manager::run`] runs.
    #[must_use]
    pub fn command<A: AsRef<std::ffi::OsStr>>(&self, words: &[A]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.to_string(), "--mount", "--cgroup", "--pid", "--"]);
        command.args(words).env("XDG_RUNTIME_DIR", &self.runtime).env("NO_COLOR", "1");
        command
    }

    /// Runs a command inside, where numbers of processes are those that systemd tells.
    #[must_use]
    pub fn run<A: AsRef<std::ffi::OsStr>>(&self, words: &[A]) -> Output {
        run(self.command(words))
    }

    /// Runs `systemctl --user`.
    #[must_use]
    pub fn systemctl(&self, words: &[&str]) -> Output {
        let mut all = vec!["systemctl", "--user", "--no-pager", "--no-ask-password"];
        all.extend_from_slice(words);
        self.run(&all)
    }

    /// A property of a unit: `MainPID`, `ActiveState`, `StatusText` …
    #[must_use]
    pub fn property(&self, unit: &str, name: &str) -> String {
        let output = self.systemctl(&["show", "--value", "--property", name, unit]);
        output.expect_code(0).stdout.trim().to_owned()
    }

    /// Waits until a property of a unit has this value.
    #[track_caller]
    pub fn wait_for(&self, unit: &str, name: &str, value: &str) {
        until(&format!("{name} of {unit} is {value}"), || (self.property(unit, name) == value).then_some(()));
    }

    /// The processes of a unit, as they are numbered inside, zombies too.
    #[must_use]
    pub fn processes(&self, unit: &str) -> Vec<u32> {
        let group = self.property(unit, "ControlGroup");
        if group.is_empty() {
            return Vec::new();
        }
        let script = format!("cat /sys/fs/cgroup{group}/cgroup.procs");
        let listed = self.run(&["sh", "-c", &script]);
        listed.stdout.lines().filter_map(|line| line.trim().parse().ok()).collect()
    }

    /// What the manager has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.stderr()
    }
}

fn script() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("root of the repository");
    root.join("scripts/user-manager")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_started_shown_and_ended_with_its_manager() {
        let workspace = Workspace::new();
        let Some(manager) =
            Manager::start(&workspace, "a_service_is_started_shown_and_ended_with_its_manager")
        else {
            return;
        };
        manager.unit("rest.service", "[Service]\nExecStart=tail -f /dev/null\n");
        manager.systemctl(&["start", "rest"]).expect_code(0);
        manager.wait_for("rest", "ActiveState", "active");
        let main: u32 = manager.property("rest", "MainPID").parse().unwrap();
        assert_eq!(manager.processes("rest"), [main]);
        manager.systemctl(&["kill", "--signal=KILL", "rest"]).expect_code(0);
        manager.wait_for("rest", "ActiveState", "failed");
        assert_eq!(manager.systemctl(&["start", "nonsense"]).code, 5, "{}", manager.log());
    }
}
