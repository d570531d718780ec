//! A server with one program, `app`: behind a route, or on a socket that its copies share.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::control::Control;
use crate::deadline::until;
use crate::handover::{Handover, HandoverBuilder};
use crate::http;
use crate::ports::Port;
use crate::proc;
use crate::process::Output;
use crate::servers::{any_program, toml};
use crate::workspace::Workspace;

/// How requests come to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Through a listener `web` and a route `all`; each copy has a private socket.
    Route,
    /// Through a socket that the copies share.
    Shared,
}

/// A server with a program. It ends with this.
#[derive(Debug)]
pub struct Programs {
    /// The server.
    pub handover: Handover,
    /// Where requests go.
    pub port: Port,
    /// Where its files are; the program's directory is `app`.
    pub workspace: Workspace,
    binary: PathBuf,
    way: Way,
}

/// What the program that can do everything wrong says: `WORD PID NUMBER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Which version it is.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// How often it has read everything anew.
    pub reloads: u64,
}

impl Programs {
    /// Starts `binary` with a program that is told these words (see `examples/any_program.rs`), and more lines of its table. It says
    /// when it is ready.
    #[must_use]
    #[track_caller]
    pub fn start(binary: impl AsRef<Path>, way: Way, words: &[&str], more: &str) -> Self {
        let table = Self::table(binary.as_ref(), words, more);
        Self::with(binary, way, Workspace::new(), &table, "")
    }

    /// Starts `binary` with this table of the program, in a workspace that holds files already, and more tables.
    #[must_use]
    #[track_caller]
    pub fn with(binary: impl AsRef<Path>, way: Way, workspace: Workspace, table: &str, rest: &str) -> Self {
        let this = |builder: HandoverBuilder<'_>| builder.start();
        Self::built(binary, way, workspace, table, rest, this)
    }

    /// The same, started in a way of the test's own.
    #[must_use]
    #[track_caller]
    pub fn built(
        binary: impl AsRef<Path>,
        way: Way,
        workspace: Workspace,
        table: &str,
        rest: &str,
        start: impl FnOnce(HandoverBuilder<'_>) -> Handover,
    ) -> Self {
        std::fs::create_dir_all(workspace.path("app")).expect("the program's directory");
        let (port, binary) = (Port::claim(), binary.as_ref().to_owned());
        let text = configuration(way, &port, table, rest);
        let handover = start(Handover::of(&binary, &workspace).config(text));
        let this = Self { handover, port, workspace, binary, way };
        this.wait_until_it_runs();
        this
    }

    /// A server serves before its programs do: waits until every copy is ready, or starts when it is asked for.
    #[track_caller]
    pub fn wait_until_it_runs(&self) {
        until("the program runs", || {
            let program = self.program();
            let is_ready = |copy: &Value| copy["state"] == "ready";
            let all = program["copies"].as_array().is_some_and(|copies| copies.iter().all(is_ready));
            let runs = ["running", "on_demand"].contains(&program["state"].as_str().unwrap_or_default());
            (runs && all).then_some(())
        });
    }

    /// The table of a program that is told these words, after `[program.app]`.
    #[must_use]
    pub fn table(binary: &Path, words: &[&str], more: &str) -> String {
        let binary = binary.to_str().expect("a path in UTF-8");
        let notify = if words.contains(&"notify") { "ready = \"notify\"\n" } else { "" };
        format!("command = {}\ndirectory = \"app\"\n{notify}{more}", toml(&any_program(binary, words)))
    }

    /// Writes another table of the program to the file, without a reload.
    pub fn write(&self, words: &[&str], more: &str) {
        let table = Self::table(&self.binary, words, more);
        self.handover.write_config(configuration(self.way, &self.port, &table, ""));
    }

    /// Where requests go.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// A GET on a new connection.
    #[must_use]
    #[track_caller]
    pub fn text(&self, path: &str) -> String {
        http::get(self.address(), path).text()
    }

    /// What the program says on a new connection.
    #[must_use]
    #[track_caller]
    pub fn says(&self) -> Said {
        Said::of(&self.text("/"))
    }

    /// Waits until the program of this version answers.
    #[track_caller]
    pub fn wait_for(&self, version: &str) -> Said {
        until(&format!("version {version} answers"), || {
            let text = http::Connection::try_open(self.address()).ok()?.try_get("/").ok()?.text();
            text.starts_with(&format!("{version} ")).then(|| Said::of(&text))
        })
    }

    /// An operator's command line.
    #[must_use]
    pub fn cli(&self, words: &[&str]) -> Output {
        self.handover.cli(words)
    }

    /// Its control socket.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.handover.control
    }

    /// The program, as the API shows it.
    #[must_use]
    #[track_caller]
    pub fn program(&self) -> Value {
        self.control().get("/v1/programs/app")
    }

    /// The first processes of its copies that live, in the order of their numbers.
    #[must_use]
    #[track_caller]
    pub fn pids(&self) -> Vec<u32> {
        let program = self.program();
        let copies = program["copies"].as_array().unwrap_or_else(|| panic!("{program}"));
        let pid = |copy: &Value| copy["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        copies.iter().filter_map(pid).filter(|pid| proc::alive(*pid)).collect()
    }

    /// The latest operation of the history.
    #[must_use]
    pub fn last(&self) -> Value {
        self.control().history().into_iter().next().expect("an operation")
    }
}

impl Said {
    /// Reads what the program says.
    #[must_use]
    #[track_caller]
    pub fn of(text: &str) -> Self {
        let mut words = text.split_whitespace();
        let mut next = || words.next().unwrap_or_else(|| panic!("not what the program says: {text:?}"));
        let version = next().to_owned();
        let pid = next().parse().unwrap_or_else(|_| panic!("not what the program says: {text:?}"));
        Self { version, pid, reloads: words.next().and_then(|word| word.parse().ok()).unwrap_or_default() }
    }
}

fn configuration(way: Way, port: &Port, table: &str, rest: &str) -> String {
    let address = port.address();
    let (before, listen) = match way {
        Way::Route => (
            format!(
                "[listeners.web]\naddress = \"{address}\"\n\n[[routes]]\nname = \"all\"\nprogram = \"app\"\n\n"
            ),
            String::new(),
        ),
        Way::Shared => (String::new(), format!("listen = [\"{address}\"]\n")),
    };
    format!("{before}[program.app]\n{listen}{table}\n{rest}")
}
