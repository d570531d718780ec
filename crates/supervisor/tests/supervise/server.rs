//! A supervisor under test.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use handover_lifecycle::Limits;
use handover_supervisor::{Options, StartFrom};
use handover_testkit::notify::Notifications;
use handover_testkit::{Control, DEADLINE, Output, Process, Workspace, until};
use serde_json::Value;

use crate::{upgrading, worker};

/// Variable that makes this program a supervisor.
pub const ROLE: &str = "FAKE_SUPERVISOR";
/// Variable with a shorter time limit for preparing, in milliseconds.
pub const PREPARE_LIMIT: &str = "FAKE_PREPARE_LIMIT";

/// Variable that makes all time limits of an upgrade short.
pub const SHORT_LIMITS: &str = "FAKE_SHORT_LIMITS";

/// Variable that says which generation of the journal to start from.
pub const START_FROM: &str = "FAKE_START_FROM";

/// Variable that makes it a server that is there for its programs.
pub const FOR_PROGRAMS: &str = "FAKE_FOR_PROGRAMS";

/// A tracing subscriber that writes what happens to stderr, where a failing test shows it.
struct Log;

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::DEBUG
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = event.metadata().level().to_string();
        event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            use std::fmt::Write as _;
            let _ = write!(line, " {field}={value:?}");
        });
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// The supervisor's `main`.
pub fn supervise() -> ExitCode {
    let _ = tracing::subscriber::set_global_default(Log);
    upgrading::hinder_resuming();
    let mut options = Options::new("fake", &upgrading::version());
    options.control = std::env::var_os("FAKE_CONTROL").unwrap().into();
    options.state = std::env::var_os("FAKE_STATE").unwrap().into();
    if let Ok(limit) = std::env::var(PREPARE_LIMIT) {
        let prepare = Duration::from_millis(limit.parse().unwrap());
        options.limits = Limits { prepare, ..Limits::DEFAULT };
    }
    if std::env::var_os(SHORT_LIMITS).is_some() {
        let short = Duration::from_secs(5);
        options.limits = Limits {
            examine: short,
            worker_start: short,
            prepare: short,
            commit: short,
            probe: short,
            handoff: short,
            handoff_grace: Duration::from_secs(3),
            ..options.limits
        };
    }
    options.for_programs = std::env::var_os(FOR_PROGRAMS).is_some();
    options.start_from = match std::env::var(START_FROM).as_deref() {
        Ok("last") => Some(StartFrom::Last),
        Ok(number) => Some(StartFrom::Generation(number.parse().unwrap())),
        Err(_) => None,
    };
    handover_supervisor::run(options)
}

/// A supervisor, its worker, and the directory that they live in.
pub struct Server {
    pub process: Process,
    pub notifications: Notifications,
    pub control: Control,
}

/// The command that starts a supervisor in a workspace.
pub fn command(workspace: &Workspace) -> Command {
    command_of(workspace, &std::env::current_exe().unwrap())
}

/// The same from a copy of this program.
pub fn command_of(workspace: &Workspace, program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env(ROLE, "1")
        .env("FAKE_CONTROL", workspace.control_socket())
        .env("FAKE_STATE", workspace.state())
        .env(worker::CONFIG, workspace.path("fake.conf"))
        .env_remove("NOTIFY_SOCKET");
    command
}

/// Writes the configuration file.
pub fn configure(workspace: &Workspace, lines: &[&str]) {
    workspace.write("fake.conf", lines.join("\n") + "\n");
}

impl Server {
    /// Starts a supervisor with this configuration, and waits until it says that it is ready.
    pub fn start(workspace: &Workspace, lines: &[&str]) -> Server {
        configure(workspace, lines);
        Server::start_again(workspace)
    }

    /// The same with the configuration that is there.
    pub fn start_again(workspace: &Workspace) -> Server {
        Server::start_with(workspace, command(workspace))
    }

    pub fn start_with(workspace: &Workspace, command: Command) -> Server {
        let mut server = Server::begin(workspace, command);
        let Server { notifications, process, .. } = &mut server;
        let ready = notifications.wait_after_unless(0, "READY=1", || process.ended());
        assert!(ready.is_some(), "it ended: {:?}", server.process.wait());
        server
    }

    /// Starts it and does not wait.
    pub fn begin(workspace: &Workspace, mut command: Command) -> Server {
        let notifications = Notifications::listen(&workspace.path("run/notify.sock"));
        command.env("NOTIFY_SOCKET", notifications.path());
        let process = Process::start(command);
        Server { process, notifications, control: Control::at(&workspace.control_socket()) }
    }

    /// Where its listener of this name listens.
    pub fn address(&self, name: &str) -> SocketAddr {
        let status = self.control.status();
        let listeners = status["listeners"].as_array().unwrap();
        let listener = listeners.iter().find(|listener| listener["name"] == name);
        listener.unwrap_or_else(|| panic!("no {name}: {status}"))["address"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    /// Reloads: the HTTP status and the operation.
    pub fn reload(&self, workspace: &Workspace, lines: &[&str]) -> (u16, Value) {
        configure(workspace, lines);
        self.control.post("/v1/reload", &[])
    }

    /// The operations of the history, the newest first: kind and outcome.
    pub fn history(&self) -> Vec<(String, String)> {
        let history = self.control.get("/v1/history");
        let operations = history.as_array().unwrap_or_else(|| panic!("{history}"));
        let text = |operation: &Value, field: &str| operation[field].as_str().unwrap_or_default().to_owned();
        operations.iter().map(|operation| (text(operation, "kind"), text(operation, "outcome"))).collect()
    }

    /// Ends it in order.
    pub fn terminate(&mut self) -> Output {
        self.process.signal(rustix::process::Signal::TERM);
        self.process.wait()
    }
}

/// What a connection is answered: the generation and the body.
pub fn ask(address: SocketAddr) -> String {
    try_ask(address).unwrap_or_else(|error| panic!("{address}: {error}"))
}

pub fn try_ask(address: SocketAddr) -> std::io::Result<String> {
    let mut connection = TcpStream::connect_timeout(&address, DEADLINE)?;
    read_answer(&mut connection)
}

/// Reads the answer of a connection that may have waited for a while.
pub fn read_answer(connection: &mut TcpStream) -> std::io::Result<String> {
    connection.set_read_timeout(Some(DEADLINE))?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}

/// Waits until another worker than this one serves.
pub fn another_worker(server: &Server, than: u32) -> u32 {
    until("another worker serves", || {
        let status = server.control.status();
        let pid = u32::try_from(status.pointer("/worker/pid")?.as_u64()?).ok()?;
        (pid != than).then_some(pid)
    })
}
