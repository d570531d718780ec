//! Programs, as the configuration describes them: what the supervisor needs to run them.
//!
//! ```text
//!   configuration ─▶ worker: checked, users and paths resolved ── Prepared {settings.programs} ─▶ supervisor: runs them
//! ```
//!
//! In the command, the environment and the hooks these stand for something: `{port}`, `{socket}` and `{fd}` (of the first socket),
//! `{slot}` and `{directory}`, `{copy}` (the copy's number, from 1), `{name}`. `{{` and `}}` are braces.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Address;

/// One program. Two of them are the same if they have the same name; what else differs is a change that takes another copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramSpec {
    /// The table's name: `web` in `[program.web]`.
    pub name: String,
    /// The command and its arguments; a slot may have its own.
    pub command: Vec<String>,
    /// Where it is started, absolute; a slot's directory comes before it.
    pub directory: Option<PathBuf>,
    /// Variables beside those of the supervisor.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Whether it gets none of the supervisor's own variables (but `PATH`, `HOME`, `USER`, `LANG`).
    #[serde(default)]
    pub clear_environment: bool,
    /// As whom it runs; as the supervisor if not given.
    #[serde(default)]
    pub user: Option<User>,
    /// What it may use.
    #[serde(default)]
    pub limits: ResourceLimits,
    /// Sockets that all copies share: held by the supervisor, passed to each copy.
    #[serde(default)]
    pub sockets: Vec<ProgramSocket>,
    /// How sockets are passed.
    #[serde(default)]
    pub pass: Pass,
    /// The address that each copy gets for itself, to which requests are passed by routes; none if it has none.
    #[serde(default)]
    pub private: Option<Private>,
    /// Copies that run side by side.
    pub copies: u32,
    /// Whether two generations of copies may run at the same time.
    #[serde(default)]
    pub swap: Swap,
    /// The places that a deploy alternates between; none or at least two.
    #[serde(default)]
    pub slots: Vec<Slot>,
    /// Run in the idle slot before a deploy starts it. Its exit code is the answer.
    #[serde(default)]
    pub hook: Option<CommandSpec>,
    /// How a copy is known to be ready.
    pub ready: Ready,
    /// The longest time until it is.
    pub ready_limit: Duration,
    /// How long it must stay so before it counts.
    #[serde(default)]
    pub settle: Duration,
    /// How it is told to read its configuration anew; `None`: it cannot.
    #[serde(default)]
    pub reload: Option<Reload>,
    /// A command that proves that a reload took effect, where the reload itself cannot tell.
    #[serde(default)]
    pub reload_check: Option<CommandSpec>,
    /// How it is asked to end.
    pub stop: Stop,
    /// When it is started again.
    pub restart: Restart,
    /// Programs that are started, and ready, before it.
    #[serde(default)]
    pub after: Vec<String>,
    /// Who accepts connections.
    #[serde(default)]
    pub accept: Accept,
    /// It is started when the first connection comes.
    #[serde(default)]
    pub on_demand: bool,
    /// It is stopped when there was no connection for so long.
    #[serde(default)]
    pub idle: Option<Duration>,
    /// How long what was deployed before is kept running after a deploy.
    #[serde(default)]
    pub warm: Duration,
    /// Copies that are replaced at the same time in a rolling restart, at least 1.
    pub batch: u32,
    /// Copies that may be missing before a rolling restart stops.
    #[serde(default)]
    pub max_unhealthy: u32,
    /// New requests held at most, while it is paused.
    pub max_held: u32,
    /// The longest time for which it pauses itself (stop-first).
    pub pause_limit: Duration,
}

/// As whom a program runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The name, if it has one.
    pub name: Option<String>,
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// All its groups.
    pub groups: Vec<u32>,
    /// Its home directory.
    pub home: Option<PathBuf>,
}

/// What a program may use. For memory, CPU and processes a control group is needed (cgroups(7), version 2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceLimits {
    /// Open files (`RLIMIT_NOFILE`).
    pub nofile: Option<u64>,
    /// Bytes, all processes of a copy together.
    pub memory: Option<u64>,
    /// Thousandths of a CPU.
    pub cpu: Option<u64>,
    /// Processes and threads of a copy.
    pub processes: Option<u64>,
}

/// A socket that all copies share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramSocket {
    /// The address; it is among the listeners that the generation needs.
    pub address: Address,
    /// Its name in `LISTEN_FDNAMES`.
    pub name: String,
}

/// How sockets are passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pass {
    /// By `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` (sd_listen_fds(3)).
    pub listen_fds: bool,
    /// A variable that gets the numbers, separated by commas.
    pub fd_env: Option<String>,
    /// The number of the first; the others follow. 3 where `listen_fds` is used.
    pub first_fd: i32,
    /// Whether accept(2) on them returns at once (`NonBlocking=` of systemd.service(5)). A program that waits for events and
    /// takes it for granted (nginx, by its variable `NGINX`) would hang while another copy takes its connection.
    pub nonblocking: bool,
}

impl Default for Pass {
    fn default() -> Self {
        Pass { listen_fds: true, fd_env: None, first_fd: 3, nonblocking: false }
    }
}

/// An address that each copy gets for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Private {
    /// A Unix socket that the supervisor binds and passes like a shared one.
    Socket,
    /// A path (`{socket}`) where the program itself binds a Unix socket.
    Path,
    /// A free loopback port (`{port}`) where the program itself binds.
    Port,
}

/// Whether two generations of copies may run at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Swap {
    /// The next one is ready before the old one is asked to stop.
    #[default]
    Overlap,
    /// The old one has ended before the next one is started; requests are held meanwhile.
    StopFirst,
}

/// A place for one version of a program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Its directory, absolute: where the command is started.
    pub directory: Option<PathBuf>,
    /// A command of its own.
    pub command: Option<Vec<String>>,
    /// Variables of its own.
    pub environment: BTreeMap<String, String>,
}

/// A command that ends by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandSpec {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// The longest time that it may take; then it is killed and has failed.
    pub limit: Duration,
}

/// How a copy is known to be ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ready {
    /// It says `READY=1` (sd_notify(3)).
    Notify,
    /// It answers a request with this status (any 2xx if none is given), over a connection that this very copy has accepted.
    Http {
        /// The request's target.
        path: String,
        /// The `Host` of the request.
        host: String,
        /// The status wanted.
        status: Option<u16>,
        /// Where, if not at its own or its first shared address.
        address: Option<Address>,
    },
    /// It accepts a connection.
    Tcp {
        /// Where, if not at its own or its first shared address.
        address: Option<Address>,
    },
    /// This command exits with 0.
    Command(CommandSpec),
    /// It has lived for so long: the last resort.
    After(Duration),
}

/// How a program is told to read its configuration anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reload {
    /// A signal; then `RELOADING=1` and `READY=1` are waited for (`Type=notify-reload` of systemd.service(5)).
    Notify {
        /// The signal's number.
        signal: i32,
    },
    /// A command; `{pid}` is the copy's.
    Command(CommandSpec),
    /// An HTTP POST; a 2xx is success, and its body is the answer.
    Http {
        /// The request's target.
        path: String,
        /// The `Host` of the request.
        host: String,
        /// The longest time that it may take.
        limit: Duration,
    },
    /// A signal, of which nobody says what became.
    Signal {
        /// The signal's number.
        signal: i32,
    },
}

/// How a program is asked to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// The signal's number; sent to the first process of a copy.
    pub signal: i32,
    /// What still lives after this long is killed.
    pub limit: Duration,
}

/// When a program is started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// After which end.
    pub policy: RestartPolicy,
    /// The first pause before that.
    pub first: Duration,
    /// The pause doubles up to this.
    pub longest: Duration,
    /// A copy that has lived for so long begins with the first pause again.
    pub reset: Duration,
}

/// After which end a program is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// After every end.
    Always,
    /// Unless it exits with 0.
    OnFailure,
    /// Never. When all programs of `handover run` have ended, so does the server.
    Never,
}

/// Who accepts the connections of a program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accept {
    /// The program.
    #[default]
    Program,
    /// The supervisor: a process for each connection, which is its standard input and output.
    Each {
        /// Processes at the same time.
        processes: u32,
        /// Processes started in a second.
        per_second: u32,
    },
    /// The program, which gets the socket as its standard input when a connection waits; until it ends nobody else looks.
    Wait,
}
