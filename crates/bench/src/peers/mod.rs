//! The proxies that are compared: the same work, each in its own configuration language, run the same way.

pub(crate) mod certificates;
mod config;
mod upgrade;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use handover_testkit::{Handover, Pair, Port, Process, Signal, Workspace, http, proc};

use crate::Result;

/// Which proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// This project's.
    Handover,
    /// nginx, as installed.
    Nginx,
    /// HAProxy, as installed.
    Haproxy,
}

/// What all the proxies of one comparison have in common.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// The binary to measure; by default the one beside this program.
    #[arg(long)]
    handover: Option<PathBuf>,
    /// Only these proxies.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Kind>,
    /// Threads (or worker processes) of each proxy; handover has as many as there are cores.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// What one proxy is started with.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// Where the origin answers HTTP.
    pub(crate) origin: SocketAddr,
    /// Where the origin echoes TCP.
    pub(crate) echo: SocketAddr,
    /// Routes `/r/N/` beside the others.
    pub(crate) routes: usize,
    /// With the settings that make reloads lose less, where there are such.
    pub(crate) tuned: bool,
    /// The pairs of a listener that speaks TLS; without any there is no such listener.
    pub(crate) certificates: Arc<Vec<Pair>>,
}

impl Setting {
    /// No further routes, nothing tuned, no TLS.
    pub(crate) fn of(origin: SocketAddr, echo: SocketAddr) -> Self {
        Self { origin, echo, routes: 0, tuned: false, certificates: Arc::default() }
    }
}

/// A running proxy.
pub(crate) struct Peer {
    pub(crate) name: String,
    kind: Kind,
    process: Running,
    http: Port,
    https: Port,
    tcp: Option<Port>,
    setting: Setting,
    threads: usize,
    workspace: Workspace,
}

enum Running {
    Handover(Box<Handover>),
    Other(Process),
}

/// The ports of the origin that this process runs for a comparison.
pub(crate) fn own_origin() -> Result<(SocketAddr, SocketAddr)> {
    let (http, echo) = (Port::claim(), Port::claim());
    let addresses = (http.address(), echo.address());
    crate::origin::start(&crate::origin::Options {
        listen: addresses.0,
        echo: Some(addresses.1),
        threads: 2,
    })?;
    // The origin lives as long as this process, and so do its claims.
    std::mem::forget((http, echo));
    Ok(addresses)
}

impl Common {
    /// The proxies to compare, in the order in which they take turns. Says which are missing, and why.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let all = [Kind::Handover, Kind::Nginx, Kind::Haproxy];
        let wanted = all.into_iter().filter(|kind| self.only.is_empty() || self.only.contains(kind));
        wanted
            .filter(|kind| match self.program(*kind) {
                Ok(_) => true,
                Err(error) => {
                    eprintln!("SKIPPED {}: {error}", kind.name());
                    false
                }
            })
            .collect()
    }

    fn program(&self, kind: Kind) -> Result<PathBuf> {
        match kind {
            Kind::Handover => {
                let beside = std::env::current_exe()?.with_file_name("handover");
                let path = self.handover.clone().unwrap_or(beside);
                if path.exists() { Ok(path) } else { Err(format!("no {}", path.display()).into()) }
            }
            Kind::Nginx | Kind::Haproxy => {
                Command::new(kind.name())
                    .arg("-v")
                    .output()
                    .map_err(|error| format!("{}: {error}", kind.name()))?;
                Ok(kind.name().into())
            }
        }
    }
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Handover => "handover",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    /// The first line of what it says of its version.
    pub(crate) fn version(self, common: &Common) -> String {
        let Ok(program) = common.program(self) else { return format!("{}: missing", self.name()) };
        let argument = if self == Self::Handover { "--version" } else { "-v" };
        let Ok(output) = Command::new(program).arg(argument).output() else { return self.name().to_owned() };
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
    }
}

impl Peer {
    /// Starts a proxy that answers `v1` at `/version`, and waits until it does.
    pub(crate) fn start(kind: Kind, common: &Common, setting: &Setting) -> Result<Self> {
        let workspace = Workspace::new();
        let (http, https, tcp) = (Port::claim(), Port::claim(), Port::claim());
        let has_tcp = kind != Kind::Nginx || config::nginx_stream_module().is_some();
        let filled = config::Filled {
            kind,
            setting,
            threads: common.threads,
            http: http.address(),
            https: https.address(),
            tcp: tcp.address(),
            version: 1,
            directory: workspace.root(),
        };
        // nginx's workers belong to another user when its master is root.
        workspace.mode("", 0o755);
        for (number, pair) in setting.certificates.iter().enumerate() {
            certificates::put(kind, workspace.root(), number, pair)?;
        }
        let text = filled.text()?;
        let process = match kind {
            Kind::Handover => {
                let handover = Handover::of(common.program(kind)?, &workspace).config(text).try_start();
                let handover = handover.map_err(|output| format!("handover: {}", output.all()))?;
                Running::Handover(Box::new(handover))
            }
            Kind::Nginx | Kind::Haproxy => {
                let file = workspace.write(kind.file(), text);
                Running::Other(Process::try_start(kind.command(&file))?)
            }
        };
        let name = format!("{}{}", kind.name(), if setting.tuned { " tuned" } else { "" });
        let mut peer = Self {
            name,
            kind,
            process,
            http,
            https,
            tcp: has_tcp.then_some(tcp),
            setting: setting.clone(),
            threads: common.threads,
            workspace,
        };
        peer.wait_for_version(1)?;
        Ok(peer)
    }

    /// Where it answers HTTP.
    pub(crate) fn http(&self) -> SocketAddr {
        self.http.address()
    }

    /// Where it answers HTTP over TLS, if it has certificates.
    pub(crate) fn https(&self) -> SocketAddr {
        self.https.address()
    }

    /// Where it passes TCP, if it can.
    pub(crate) fn tcp(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().map(Port::address)
    }

    /// Writes the configuration that answers `v<version>`, without telling the proxy.
    pub(crate) fn write(&self, version: u64) -> Result<()> {
        let text = config::Filled {
            kind: self.kind,
            setting: &self.setting,
            threads: self.threads,
            http: self.http.address(),
            https: self.https.address(),
            tcp: self.tcp.as_ref().map_or(self.http.address(), Port::address),
            version,
            directory: self.workspace.root(),
        }
        .text()?;
        self.workspace.write(self.kind.file(), text);
        Ok(())
    }

    /// Asks it to take the written configuration. Only handover answers; the others get their signal.
    pub(crate) fn reload(&mut self) -> Result<Option<serde_json::Value>> {
        match (&mut self.process, self.kind) {
            (Running::Handover(handover), _) => {
                let (status, operation) = handover.control.post("/v1/reload", &[]);
                if status != 200 {
                    return Err(format!("handover refused the reload: {status} {operation}").into());
                }
                Ok(Some(operation))
            }
            (Running::Other(process), Kind::Haproxy) => signal_haproxy(process).map(|()| None),
            (Running::Other(_), _) => {
                handover_testkit::signal(self.pid(), Signal::HUP);
                Ok(None)
            }
        }
    }

    /// Whether it answers a reload with the outcome.
    pub(crate) fn answers(&self) -> bool {
        self.kind == Kind::Handover
    }

    /// Waits until it is able to take a reload or an upgrade: HAProxy's master forgets a signal that comes before it has
    /// said that the worker before is up, or within a moment after; nginx, see `nginx_in_background`.
    pub(crate) fn settle(&self) {
        if let (Running::Other(process), Kind::Haproxy) = (&self.process, self.kind) {
            handover_testkit::until("HAProxy says that its worker is up", || {
                let said = process.stderr();
                (count(&said, HAPROXY_UP) > count(&said, HAPROXY_RELOADING)).then_some(())
            });
            // Nothing tells when that moment is over.
            std::thread::sleep(HAPROXY_DEAF);
        }
        if let (Running::Other(process), Kind::Nginx) = (&self.process, self.kind) {
            let alone = || (proc::tree(process.pid()).len() == 1).then_some(());
            handover_testkit::until("nginx's first parent has gone", alone);
        }
    }

    /// Waits until a new connection is answered `v<version>`.
    pub(crate) fn wait_for_version(&mut self, version: u64) -> Result<()> {
        let expected = format!("v{version}");
        let deadline = handover_testkit::Deadline::usual();
        while !deadline.passed() {
            if self.version().is_ok_and(|version| version == expected) {
                return Ok(());
            }
            if self.ended() {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        Err(format!("{} does not answer {expected}:\n{}", self.name, self.complaints()).into())
    }

    /// What `/version` answers on a new connection.
    pub(crate) fn version(&self) -> std::io::Result<String> {
        let mut connection = http::Connection::try_open(self.http())?;
        connection.try_send("GET /version HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        Ok(connection.try_response("GET")?.text())
    }

    fn ended(&mut self) -> bool {
        match &mut self.process {
            Running::Handover(handover) => handover.process.ended(),
            Running::Other(process) => process.ended(),
        }
    }

    /// What it wrote to its standard error.
    pub(crate) fn complaints(&self) -> String {
        match &self.process {
            Running::Handover(handover) => handover.process.stderr(),
            Running::Other(process) => process.stderr(),
        }
    }

    fn pid(&self) -> u32 {
        match &self.process {
            Running::Handover(handover) => handover.pid(),
            Running::Other(process) => self.nginx_master().unwrap_or_else(|| process.pid()),
        }
    }

    /// CPU time of all its processes that are alive.
    pub(crate) fn cpu(&self) -> Duration {
        proc::tree_cpu(self.pid())
    }

    /// Memory of all its processes.
    pub(crate) fn memory(&self) -> proc::Memory {
        proc::tree_memory(self.pid())
    }

    /// How many processes it is.
    pub(crate) fn processes(&self) -> usize {
        proc::tree(self.pid()).len()
    }
}

/// What HAProxy's master says when a worker is up,
const HAPROXY_UP: &str = "Loading success.";
/// and when it has understood a signal.
const HAPROXY_RELOADING: &str = "Reloading HAProxy";
/// For how long after that it may still miss a signal.
const HAPROXY_DEAF: Duration = Duration::from_millis(100);
/// After this time a signal that it has not taken is sent again.
const SIGNAL_LOST: Duration = Duration::from_secs(1);

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

/// Sends the signal until HAProxy's master says that it got it.
fn signal_haproxy(process: &mut Process) -> Result<()> {
    let before = count(&process.stderr(), HAPROXY_RELOADING);
    for _ in 0..3 {
        process.signal(Signal::USR2);
        let deadline = handover_testkit::Deadline::after(SIGNAL_LOST);
        while !deadline.passed() {
            if count(&process.stderr(), HAPROXY_RELOADING) > before {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        eprintln!("haproxy: the signal to reload had no effect, sent again");
    }
    Err(format!("haproxy does not reload:\n{}", process.stderr()).into())
}

impl Kind {
    /// Whether it has settings that make its reloads lose less; if not, why.
    pub(crate) fn can_be_tuned(self) -> std::result::Result<(), String> {
        config::can_be_tuned(self)
    }

    /// How many connections its configuration here lets it hold.
    pub(crate) fn most_connections(self) -> usize {
        match self {
            Self::Handover => usize::MAX,
            // 8192 for each worker, which do not share evenly.
            Self::Nginx => 8000,
            Self::Haproxy => 7900,
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Handover => handover_testkit::CONFIG,
            Self::Nginx => "nginx.conf",
            Self::Haproxy => "haproxy.cfg",
        }
    }

    fn command(self, file: &Path) -> Command {
        match self {
            Self::Nginx => upgrade::nginx_in_background(file),
            // Master and worker, in the foreground.
            _ => {
                let mut command = Command::new(self.name());
                command.args(["-W", "-db", "-f"]).arg(file);
                command
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use handover_testkit::{Authority, TlsClient};

    /// handover's own reload is tested end to end elsewhere.
    #[test]
    fn the_peers_that_are_installed_start_and_reload_with_their_configurations_here() {
        let (origin, echo) = own_origin().unwrap();
        let common = Common { handover: None, only: vec![Kind::Nginx, Kind::Haproxy], threads: 2 };
        for kind in [Kind::Nginx, Kind::Haproxy] {
            if !handover_testkit::have(kind.name(), "the configurations of the bench's peers") {
                continue;
            }
            for tuned in [false, true] {
                let certificates = certificates::of_both_kinds();
                let setting = Setting { routes: 20, tuned, certificates, ..Setting::of(origin, echo) };
                let mut peer = Peer::start(kind, &common, &setting).unwrap();
                peer.settle();
                peer.write(2).unwrap();
                peer.reload().unwrap();
                peer.wait_for_version(2).unwrap();
                let mut client = http::Connection::open(peer.http());
                assert_eq!(client.get("/r/7/x").text(), "origin\n", "{}", peer.name);
                assert!(peer.memory().resident > 0 && peer.processes() > 1);
                for (name, pair) in
                    [certificates::ECDSA, certificates::RSA].iter().zip(&*setting.certificates)
                {
                    let (served, response) = TlsClient::curious(name).get(peer.https(), "/bytes/10");
                    assert_eq!(
                        (served.serial, response.body.len()),
                        (pair.serial, 10),
                        "{}: {name}",
                        peer.name
                    );
                }
                let next = Authority::new("next").pair(&[certificates::ECDSA]);
                peer.settle();
                peer.put(0, &next).unwrap();
                peer.reload().unwrap();
                let client = TlsClient::curious(certificates::ECDSA);
                handover_testkit::until("the new certificate is served", || {
                    (client.serial(peer.https()) == next.serial).then_some(())
                });
            }
        }
    }
}
