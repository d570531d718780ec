//! The shipped binary under test: started, awaited by its own notification of readiness, ended without remainder.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::control::Control;
use crate::faults::{through_shell, with_few_descriptors};
use crate::notify::Notifications;
use crate::process::{Output, Process, run};
use crate::workspace::Workspace;

/// The name of the configuration file in a workspace.
pub const CONFIG: &str = "handover.toml";

/// What is to be started.
#[derive(Debug)]
pub struct HandoverBuilder<'a> {
    binary: PathBuf,
    operator: Option<PathBuf>,
    verb: &'static str,
    workspace: &'a Workspace,
    config: Option<String>,
    file: Option<PathBuf>,
    environment: Vec<(OsString, OsString)>,
    arguments: Vec<OsString>,
    disk: Option<String>,
    user: Option<u32>,
    descriptors: Option<u32>,
    inherited: Option<Inherited>,
}

/// A listener that is passed on as systemd does it (sd_listen_fds(3)).
#[derive(Debug)]
struct Inherited {
    listener: OwnedFd,
    name: String,
    for_it: bool,
}

impl HandoverBuilder<'_> {
    /// Serves this configuration, written to `handover.toml` in the workspace. Without it the embedded default.
    #[must_use]
    pub fn config(mut self, text: impl Into<String>) -> Self {
        self.config = Some(text.into());
        self
    }

    /// Serves a file that is in the workspace already.
    #[must_use]
    pub fn config_file(mut self, name: &str) -> Self {
        self.file = Some(self.workspace.path(name));
        self
    }

    /// Operators run this binary, whatever becomes of the one that the server is started from.
    #[must_use]
    pub fn operator(mut self, binary: impl Into<PathBuf>) -> Self {
        self.operator = Some(binary.into());
        self
    }

    /// Runs this verb instead of `serve`.
    #[must_use]
    pub fn verb(mut self, verb: &'static str) -> Self {
        self.verb = verb;
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Adds words to its command line: `["--generation", "last"]`.
    #[must_use]
    pub fn arguments<A: Into<OsString>>(mut self, words: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(words.into_iter().map(Into::into));
        self
    }

    /// Puts its state directory on a file system of its own, mounted with these options (`size=64k`) in a mount namespace
    /// of its own: see [`crate::faults::can_mount`].
    #[must_use]
    pub fn disk(mut self, options: &str) -> Self {
        self.disk = Some(options.to_owned());
        self
    }

    /// Runs it as this user (and group), to whom everything in the workspace is given before. Takes root and setpriv(1).
    #[must_use]
    pub fn user(mut self, id: u32) -> Self {
        self.user = Some(id);
        self
    }

    /// Allows it this many open descriptors.
    #[must_use]
    pub fn descriptors(mut self, most: u32) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// Passes a listener on as descriptor 3, with `LISTEN_FDS`, `LISTEN_FDNAMES` and a `LISTEN_PID` that is its own, or,
    /// if not `for_it`, another process's.
    #[must_use]
    pub fn inherit(mut self, listener: impl Into<OwnedFd>, name: &str, for_it: bool) -> Self {
        self.inherited = Some(Inherited { listener: listener.into(), name: name.to_owned(), for_it });
        self
    }

    /// Starts it and waits until it says that it is ready.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Handover {
        match self.try_start() {
            Ok(handover) => handover,
            Err(output) => {
                panic!("handover ended with {} instead of serving:\n{}", output.code, output.all())
            }
        }
    }

    /// Starts it and waits until it is ready or has ended.
    ///
    /// # Errors
    /// It ended before it was ready; what it left.
    pub fn try_start(self) -> Result<Handover, Output> {
        let mut handover = self.start_unawaited();
        handover.wait_ready(0)?;
        Ok(handover)
    }

    /// Starts it and waits for nothing.
    #[must_use]
    pub fn start_unawaited(self) -> Handover {
        let notifications = Notifications::listen(&self.workspace.path("run/notify.sock"));
        let mut command = command(&self.binary, self.workspace);
        command.arg(self.verb);
        let written = self.config.as_ref().map(|text| self.workspace.write(CONFIG, text));
        command.args(written.or(self.file));
        command.args(&self.arguments);
        command.env("NOTIFY_SOCKET", notifications.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(most) = self.descriptors {
            command = with_few_descriptors(&command, most);
        }
        if let Some(user) = self.user {
            command = as_user(&command, self.workspace, user);
        }
        if let Some(options) = self.disk {
            let state = self.workspace.state();
            let mount = format!("mount -t tmpfs -o {options} none '{}'", state.display());
            let inner = through_shell(&command, &format!("{mount} && exec \"$0\" \"$@\""));
            command = through_shell(&inner, "exec unshare --mount \"$0\" \"$@\"");
        }
        let process = match self.inherited {
            None => Process::start(command),
            Some(inherited) => inherited.start(&command),
        };
        let control = Control::at(&self.workspace.control_socket());
        let binary = self.operator.unwrap_or(self.binary);
        Handover { binary, root: Paths::of(self.workspace), process, notifications, control }
    }
}

/// `command` as another user's, with a copy of its program that this user can reach.
fn as_user(command: &Command, workspace: &Workspace, user: u32) -> Command {
    let program = workspace.path("program");
    std::fs::copy(command.get_program(), &program).expect("a copy of the program");
    for name in workspace.listing() {
        std::os::unix::fs::lchown(workspace.path(name), Some(user), Some(user))
            .expect("given to another user");
    }
    std::os::unix::fs::lchown(workspace.root(), Some(user), Some(user)).expect("given to another user");
    let script =
        format!("exec setpriv --reuid={user} --regid={user} --clear-groups '{}' \"$@\"", program.display());
    through_shell(command, &script)
}

impl Inherited {
    /// A shell puts the descriptor and the variables into place and becomes the command: the process id stays.
    fn start(self, command: &Command) -> Process {
        let pid = if self.for_it { "$$" } else { "$PPID" };
        let script = format!(
            "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_FDNAMES='{}' LISTEN_PID={pid}; exec \"$0\" \"$@\"",
            self.name
        );
        let shell = through_shell(command, &script);
        Process::try_start_with_input(shell, self.listener).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// What a command line for a workspace needs to know of it.
#[derive(Debug, Clone)]
struct Paths {
    root: PathBuf,
    runtime: PathBuf,
    state: PathBuf,
    control: PathBuf,
}

impl Paths {
    fn of(workspace: &Workspace) -> Self {
        Self {
            root: workspace.root().to_owned(),
            runtime: workspace.runtime(),
            state: workspace.state(),
            control: workspace.control_socket(),
        }
    }

    /// Nothing of the user's own environment may matter: not the home, not another server's control socket.
    fn command(&self, binary: &Path) -> Command {
        let mut command = Command::new(binary);
        command
            .current_dir(&self.root)
            .env("HOME", self.root.join("home"))
            .env("XDG_RUNTIME_DIR", &self.runtime)
            .env("XDG_STATE_HOME", &self.state)
            .env("HANDOVER_CONTROL", &self.control)
            .env("HANDOVER_STATE", self.state.join("handover"))
            .env("NO_COLOR", "1")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID");
        command
    }
}

/// A command line of the binary for this workspace: its control socket and state directory are set, nothing else.
#[must_use]
pub fn command(binary: &Path, workspace: &Workspace) -> Command {
    Paths::of(workspace).command(binary)
}

/// A running `handover serve`.
#[derive(Debug)]
pub struct Handover {
    /// What operators run.
    binary: PathBuf,
    root: Paths,
    /// The supervisor.
    pub process: Process,
    /// What it told the service manager.
    pub notifications: Notifications,
    /// Its control socket.
    pub control: Control,
}

impl Handover {
    /// Says what is to be started: `binary` in this workspace.
    #[must_use]
    pub fn of<'a>(binary: impl Into<PathBuf>, workspace: &'a Workspace) -> HandoverBuilder<'a> {
        HandoverBuilder {
            binary: binary.into(),
            operator: None,
            verb: "serve",
            workspace,
            config: None,
            file: None,
            environment: Vec::new(),
            arguments: Vec::new(),
            disk: None,
            user: None,
            descriptors: None,
            inherited: None,
        }
    }

    /// Waits for `READY=1` after `mark` (see [`Notifications::mark`]).
    ///
    /// # Errors
    /// The process ended first; what it left.
    pub fn wait_ready(&mut self, mark: usize) -> Result<(), Output> {
        let process = &mut self.process;
        match self.notifications.wait_after_unless(mark, "READY=1", || process.ended()) {
            Some(_) => Ok(()),
            None => Err(self.process.wait()),
        }
    }

    /// The supervisor's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends the supervisor a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// SIGTERM, and what it left when it had ended.
    pub fn terminate(&mut self) -> Output {
        self.signal(Signal::TERM);
        self.process.wait()
    }

    /// Ends the supervisor alone, by SIGKILL; the worker goes on. Keep this until the end: it still cleans up.
    pub fn kill_supervisor(&mut self) {
        self.process.remember();
        crate::faults::kill(self.pid());
        self.process.wait();
    }

    /// Ends everything at once, by SIGKILL, as a power cut would.
    pub fn crash(mut self) {
        self.process.kill();
    }

    /// Runs a command where its state directory is mounted (see [`HandoverBuilder::disk`]).
    #[must_use]
    pub fn beside(&self, words: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.pid().to_string()]).args(words);
        run(command)
    }

    /// Replaces the configuration file, without a reload.
    pub fn write_config(&self, text: impl AsRef<[u8]>) {
        let path = self.root.root.join(CONFIG);
        let other = self.root.root.join("handover.toml.new");
        std::fs::write(&other, text).expect("configuration written");
        std::fs::rename(other, path).expect("configuration put in place");
    }

    /// Runs an operator's command line against it: `["reload", "--dry-run"]`.
    #[must_use]
    pub fn cli<I, A>(&self, arguments: I) -> Output
    where
        I: IntoIterator<Item = A>,
        A: AsRef<std::ffi::OsStr>,
    {
        run(self.command(arguments))
    }

    /// The command line that [`Handover::cli`] runs.
    #[must_use]
    pub fn command<I, A>(&self, arguments: I) -> Command
    where
        I: IntoIterator<Item = A>,
        A: AsRef<std::ffi::OsStr>,
    {
        let mut command = self.root.command(&self.binary);
        command.args(arguments);
        command
    }

    /// Replaces the configuration and reloads: the command's output.
    #[must_use]
    pub fn reload_with(&self, text: impl AsRef<[u8]>) -> Output {
        self.write_config(text);
        self.cli(["reload"])
    }

    /// The serving worker's process.
    #[must_use]
    #[track_caller]
    pub fn worker(&self) -> u32 {
        self.control.worker()
    }
}
