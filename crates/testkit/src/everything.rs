//! A server with everything that connections can go through, started from a program that can be replaced.
//!
//! ```text
//!   web     HTTP ───────────┐
//!   secure  HTTP over TLS ──┼──▶ origin, over HTTP         clients: keep-alive, new, WebSocket, downloads, uploads
//!   tcp     TCP ────────────┐
//!   tls     TCP over TLS ───┴──▶ echo                      clients: tunnels
//!   metrics
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::authority::Authority;
use crate::config;
use crate::control::Control;
use crate::crowd::{self, Crowd, Idle};
use crate::deadline::until;
use crate::echo::Echo;
use crate::handover::{Handover, HandoverBuilder};
use crate::http::{self, Connection, Response};
use crate::origin::Origin;
use crate::ports::Port;
use crate::process::{Output, run};
use crate::program::Program;
use crate::serving::SITE;
use crate::tls::TlsClient;
use crate::workspace::Workspace;

/// The server, and what is before and behind it. It ends with this.
#[derive(Debug)]
pub struct Everything {
    /// The server.
    pub handover: Handover,
    /// What it was started from.
    pub program: Program,
    /// Who signs its certificate.
    pub authority: Authority,
    /// The origin behind its routes.
    pub origin: Origin,
    /// What is behind its TCP listeners.
    pub echo: Echo,
    /// Its listener for HTTP.
    pub web: Port,
    /// Its listener for HTTP over TLS.
    pub secure: Port,
    /// Its listener for TCP.
    pub tcp: Port,
    /// Its listener for TCP over TLS.
    pub tls: Port,
    /// Its listener for metrics.
    pub metrics: Port,
    /// Where its files are.
    pub workspace: Workspace,
}

impl Everything {
    /// Installs `binary` and starts it.
    #[must_use]
    #[track_caller]
    pub fn start(binary: impl AsRef<Path>) -> Self {
        Self::start_with(binary, "", |builder| builder)
    }

    /// As [`Everything::start`], with more configuration (tables of its own) and with more about the process.
    #[must_use]
    #[track_caller]
    pub fn start_with(
        binary: impl AsRef<Path>,
        more: &str,
        about: impl FnOnce(HandoverBuilder<'_>) -> HandoverBuilder<'_>,
    ) -> Self {
        let (workspace, authority) = (Workspace::new(), Authority::new("Test Authority"));
        let program = Program::install(&workspace, &binary);
        authority.pair(&[SITE]).write(&workspace, "site");
        let (origin, echo) = (Origin::start("origin"), Echo::start());
        let [web, secure, tcp, tls, metrics] = std::array::from_fn(|_| Port::claim());
        let text = [
            format!("[metrics]\naddress = \"{}\"\n\n", metrics.address()),
            config::listener("web", &web),
            config::patient("web"),
            config::tls_listener("secure", &secure, &["site"], ""),
            config::patient("secure"),
            config::tcp_listener("tcp", &tcp, "echo"),
            tcp_over_tls(&tls),
            config::service("origin", origin.address()),
            config::service("echo", echo.address()),
            config::everything_to("origin"),
            more.to_owned(),
        ]
        .concat();
        let handover =
            about(Handover::of(program.path(), &workspace).operator(binary.as_ref()).config(text)).start();
        Self { handover, program, authority, origin, echo, web, secure, tcp, tls, metrics, workspace }
    }

    /// Its control socket.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.handover.control
    }

    /// A client that trusts its certificate.
    #[must_use]
    pub fn client(&self) -> TlsClient {
        TlsClient::trusting(self.authority.pem(), SITE)
    }

    /// A new connection to the listener for HTTP.
    #[must_use]
    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::open(self.web.address())
    }

    /// A GET on a new connection.
    #[must_use]
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        http::get(self.web.address(), path)
    }

    /// The ways to its listeners: plain, over TLS 1.3, over TLS 1.2.
    #[must_use]
    #[track_caller]
    fn connections(&self) -> [Way; 3] {
        let tls13 = self.client().only_tls13();
        let tls12 = self.client().only_tls12();
        [
            Way {
                name: "plain",
                http: self.web.address(),
                tcp: self.tcp.address(),
                client: None,
                keys: false,
            },
            Way {
                name: "TLS 1.3",
                http: self.secure.address(),
                tcp: self.tls.address(),
                client: Some(tls13),
                keys: true,
            },
            Way {
                name: "TLS 1.2",
                http: self.secure.address(),
                tcp: self.tls.address(),
                client: Some(tls12),
                keys: false,
            },
        ]
    }

    /// Clients of every kind, plain, over TLS 1.3 (with changes of keys) and over TLS 1.2.
    #[must_use]
    #[track_caller]
    pub fn crowd(&self) -> Crowd {
        let mut crowd = Crowd::new();
        for way in self.connections() {
            let name = |what: &str| format!("{what}, {}", way.name);
            crowd.add(&name("new ones"), crowd::fresh(way.http, way.client.clone()));
            crowd.add(&name("keep-alive"), crowd::keep_alive(way.connect(way.http), way.keys));
            crowd.add(&name("WebSocket"), crowd::websocket(way.connect(way.http), way.keys));
            crowd.add(&name("download"), crowd::download(way.connect(way.http), way.keys));
            crowd.add(&name("upload"), crowd::upload(way.connect(way.http), way.keys));
            crowd.add(&name("tunnel"), crowd::tunnel(way.connect(way.tcp), way.keys));
        }
        crowd
    }

    /// A few clients, of every kind of connection one: for what takes long.
    #[must_use]
    #[track_caller]
    pub fn small_crowd(&self) -> Crowd {
        let mut crowd = Crowd::new();
        let [plain, tls13, tls12] = self.connections();
        crowd.add("new ones", crowd::fresh(plain.http, None));
        crowd.add("keep-alive, TLS 1.3", crowd::keep_alive(tls13.connect(tls13.http), true));
        crowd.add("WebSocket, TLS 1.2", crowd::websocket(tls12.connect(tls12.http), false));
        crowd.add("upload", crowd::upload(plain.connect(plain.http), false));
        crowd.add("tunnel", crowd::tunnel(plain.connect(plain.tcp), false));
        crowd
    }

    /// So many silent connections of each: plain, over TLS 1.3 and over TLS 1.2.
    #[must_use]
    #[track_caller]
    pub fn idle(&self, of_each: usize) -> Idle {
        let mut idle = Idle::default();
        for way in self.connections() {
            for _ in 0..of_each {
                idle.add(way.connect(way.http));
            }
        }
        idle
    }

    /// Puts another version of the program in place and runs `handover upgrade` with further words.
    #[must_use]
    pub fn upgrade_to(&self, version: &str, words: &[&str]) -> Output {
        self.program.replace(version);
        self.upgrade(words)
    }

    /// Runs `handover upgrade` with further words.
    #[must_use]
    pub fn upgrade(&self, words: &[&str]) -> Output {
        let mut all = vec!["upgrade"];
        all.extend_from_slice(words);
        self.handover.cli(all)
    }

    /// Runs `handover upgrade --binary PATH` with further words.
    #[must_use]
    pub fn upgrade_from(&self, path: &Path, words: &[&str]) -> Output {
        let mut all = vec![PathBuf::from("upgrade"), "--binary".into(), path.to_owned()];
        all.extend(words.iter().map(PathBuf::from));
        self.handover.cli(all)
    }

    /// Puts another version in place and begins `handover upgrade`, which goes on beside the test.
    #[must_use]
    pub fn begin_upgrade_to(&self, version: &str, words: &[&str]) -> std::thread::JoinHandle<Output> {
        self.program.replace(version);
        let mut all = vec!["upgrade"];
        all.extend_from_slice(words);
        let command = self.handover.command(all);
        std::thread::spawn(move || run(command))
    }

    /// Waits until another worker than this one serves.
    #[track_caller]
    pub fn wait_for_another_worker(&self, than: u32) -> u32 {
        until("another worker serves", || {
            let answer =
                self.control().try_ask("GET", "/v1/status", &[("Accept", "application/json")], "").ok()?;
            let status: Value = serde_json::from_slice(&answer.body).ok()?;
            let pid = status.pointer("/worker/pid").and_then(Value::as_u64)?;
            let serves = status["phase"] == "serving" && pid != u64::from(than);
            serves.then(|| u32::try_from(pid).expect("a process id"))
        })
    }

    /// The operation that ended last.
    #[must_use]
    #[track_caller]
    pub fn last(&self) -> Value {
        self.control().history().swap_remove(0)
    }
}

/// One way to its listeners.
struct Way {
    name: &'static str,
    http: SocketAddr,
    tcp: SocketAddr,
    client: Option<TlsClient>,
    keys: bool,
}

impl Way {
    #[track_caller]
    fn connect(&self, address: SocketAddr) -> Connection {
        match &self.client {
            Some(client) => client.connect(address).connection,
            None => Connection::open(address),
        }
    }
}

fn tcp_over_tls(port: &Port) -> String {
    let address = port.address();
    format!(
        "[listeners.tls]\naddress = \"{address}\"\nprotocol = \"tcp\"\nservice = \"echo\"\n\n[listeners.tls.tls]\n\
         certificates = [ {{ certificate = \"site.pem\", key = \"site.key\" }} ]\n\n"
    )
}
