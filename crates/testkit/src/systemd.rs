//! A real systemd above the server: a `systemd --user` manager in namespaces of its own (`scripts/user-manager`).
//!
//! ```text
//!   Manager::start ──READY=1──▶ unit ──▶ systemctl start ──▶ systemctl reload, kill … ──▶ dropped: everything in it ends
//! ```
//!
//! Processes in it have other numbers inside (as systemctl tells them) than outside; [`Manager::run`] runs a command inside.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::config;
use crate::control::Control;
use crate::deadline::{DEADLINE, until};
use crate::http;
use crate::notify::Notifications;
use crate::ports::Port;
use crate::proc;
use crate::process::{Output, Process, run, wait_for_exit};
use crate::program::Program;
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
    input: Option<std::io::PipeWriter>,
}

impl Drop for Manager {
    fn drop(&mut self) {
        // It clears away its control group when its input ends; what is killed cannot.
        drop(self.input.take());
        let _ = wait_for_exit(self.process.pid(), DEADLINE);
    }
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
        Some(Self { process, first, runtime, units, input: Some(keep) })
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

/// The name of a [`Site`]'s unit.
pub const UNIT: &str = "site.service";

/// The server as a unit of a systemd of its own, with a listener `web`.
#[derive(Debug)]
pub struct Site {
    /// What is above it.
    pub manager: Manager,
    /// What it is started from.
    pub program: Program,
    /// The port of its listener.
    pub port: Port,
    /// Where its files are.
    pub workspace: Workspace,
    operator: PathBuf,
}

impl Site {
    /// A unit with these further lines in its section `[Service]`, not started yet.
    #[must_use]
    pub fn new(test: &str, binary: impl AsRef<Path>, lines: &str) -> Option<Self> {
        let workspace = Workspace::new();
        let manager = Manager::start(&workspace, test)?;
        let (program, port) = (Program::install(&workspace, &binary), Port::claim());
        let site = Self { manager, program, port, workspace, operator: binary.as_ref().to_owned() };
        site.manager.unit(UNIT, &site.text(lines));
        Some(site)
    }

    /// As [`Site::new`], serving this configuration.
    #[must_use]
    #[track_caller]
    pub fn started(test: &str, binary: impl AsRef<Path>, lines: &str, rest: &str) -> Option<Self> {
        let site = Self::new(test, binary, lines)?;
        site.write(rest);
        site.systemctl(&["start", UNIT], 0);
        Some(site)
    }

    fn text(&self, lines: &str) -> String {
        let program = self.program.path().display();
        let file = self.workspace.path("handover.toml").display().to_string();
        let control = self.workspace.control_socket().display().to_string();
        let state = self.workspace.path("state/handover").display().to_string();
        let log = self.workspace.path("log").display().to_string();
        format!(
            "[Service]\nType=notify\nExecStart={program} serve {file}\nExecReload={program} reload\n\
             Environment=HANDOVER_CONTROL={control} HANDOVER_STATE={state} NO_COLOR=1\n\
             StandardOutput=append:{log}\nStandardError=append:{log}\n{lines}\n"
        )
    }

    /// Writes the listener `web` and this rest to its file.
    pub fn write(&self, rest: &str) {
        self.workspace.write("handover.toml", config::listener("web", &self.port) + rest);
    }

    /// Runs an operator's command line, which must end with this code.
    #[track_caller]
    pub fn cli(&self, words: &[&str], code: i32) -> Output {
        let mut command = crate::handover::command(&self.operator, &self.workspace);
        command.args(words);
        let output = run(command);
        assert_eq!(output.code, code, "{words:?}: {}\n{}", output.all(), self.said());
        output
    }

    /// Runs `systemctl --user`, which must end with this code.
    #[track_caller]
    pub fn systemctl(&self, words: &[&str], code: i32) -> String {
        let output = self.manager.systemctl(words);
        assert_eq!(output.code, code, "{words:?}: {}\n{}", output.all(), self.said());
        output.all()
    }

    /// A property of its unit.
    #[must_use]
    pub fn property(&self, name: &str) -> String {
        self.manager.property(UNIT, name)
    }

    /// The process that systemd takes for the service, as it is numbered inside.
    #[must_use]
    pub fn main_pid(&self) -> u32 {
        self.property("MainPID").parse().expect("a process id")
    }

    /// Its control socket.
    #[must_use]
    pub fn control(&self) -> Control {
        Control::at(&self.workspace.control_socket())
    }

    /// The serving worker's process, as it is numbered inside.
    #[must_use]
    pub fn worker(&self) -> u32 {
        self.control().worker()
    }

    /// The text of a GET on a new connection.
    #[must_use]
    #[track_caller]
    pub fn text_of(&self, path: &str) -> String {
        http::get(self.port.address(), path).text()
    }

    /// What server and manager have said, for a failure's message.
    #[must_use]
    pub fn said(&self) -> String {
        let log = std::fs::read_to_string(self.workspace.path("log")).unwrap_or_default();
        format!("--- server\n{log}\n--- manager\n{}", self.manager.log())
    }

    /// Waits until nothing of the unit runs, and nothing is left.
    pub fn wait_until_empty(&self) {
        until("no process of the unit is left", || self.manager.processes(UNIT).is_empty().then_some(()));
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
