//! The data plane in the test's own process: real threads, real sockets, no supervisor.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub(crate) mod moves;
pub(crate) mod pausing;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use handover::traffic::Traffic;
use handover::{
    Address, BindError, Bound, Candidate, Drain, ListenerSpec, Losses, Prepare, Problem, Service,
};
use handover_proxy::{ConfigSource, ProxyService};
use handover_testkit::Workspace;
use handover_testkit::http::Connection;

/// A proxy that serves; port 0 in its configuration is a port of its own, found by the listener's name.
pub(crate) struct Plane {
    pub(crate) service: Arc<ProxyService>,
    pub(crate) workspace: Arc<Workspace>,
    file: PathBuf,
    held: Arc<Mutex<Vec<(ListenerSpec, OwnedFd)>>>,
    generation: u64,
}

impl Plane {
    /// Serves this configuration with two threads.
    #[track_caller]
    pub(crate) fn serve(config: &str) -> Self {
        Self::serve_with(2, config)
    }

    /// Serves this configuration.
    #[track_caller]
    pub(crate) fn serve_with(threads: usize, config: &str) -> Self {
        Self::serve_in(Workspace::new(), threads, config)
    }

    /// Serves this configuration, whose files are in the workspace.
    #[track_caller]
    pub(crate) fn serve_in(workspace: Workspace, threads: usize, config: &str) -> Self {
        Self::begin(Arc::new(workspace), Arc::default(), threads, config, false, None)
    }

    /// Serves this configuration, and knows of the traffic before.
    #[track_caller]
    pub(crate) fn serve_told(traffic: Traffic, config: &str) -> Self {
        Self::begin(Arc::new(Workspace::new()), Arc::default(), 2, config, false, Some(traffic))
    }

    /// Another one beside it, which knows of the traffic.
    #[track_caller]
    pub(crate) fn candidate_told(&self, threads: usize, traffic: Traffic) -> Self {
        let config = std::fs::read_to_string(&self.file).unwrap();
        let (workspace, held) = (Arc::clone(&self.workspace), Arc::clone(&self.held));
        Self::begin(workspace, held, threads, &config, true, Some(traffic))
    }

    /// Another one beside it, which holds the same listeners and accepts nothing yet.
    #[track_caller]
    pub(crate) fn candidate(&self, threads: usize) -> Self {
        let config = std::fs::read_to_string(&self.file).unwrap();
        Self::begin(Arc::clone(&self.workspace), Arc::clone(&self.held), threads, &config, true, None)
    }

    #[track_caller]
    fn begin(
        workspace: Arc<Workspace>,
        held: Arc<Mutex<Vec<(ListenerSpec, OwnedFd)>>>,
        threads: usize,
        config: &str,
        stands_by: bool,
        traffic: Option<Traffic>,
    ) -> Self {
        let file = workspace.path("handover.toml");
        let service = ProxyService::new(ConfigSource::File(file.clone())).with_threads(threads);
        if stands_by {
            service.moving().unwrap().stand_by();
        }
        traffic.into_iter().for_each(|traffic| service.traffic(traffic));
        let mut plane = Self { service: Arc::new(service), workspace, file, held, generation: 0 };
        if let Err(problems) = plane.load(config) {
            let all: Vec<_> = problems.iter().map(Problem::report).collect();
            panic!("the configuration was refused: {}", all.join("\n"));
        }
        plane
    }

    /// Prepares a configuration.
    pub(crate) fn prepare(&mut self, config: &str) -> Result<Box<dyn Candidate>, Vec<Problem>> {
        std::fs::write(&self.file, config).unwrap();
        self.generation += 1;
        let held = Arc::clone(&self.held);
        let directory = self.file.parent().unwrap().to_owned();
        let mut cx = Prepare::stand_alone(self.generation, false, &directory, move |specs| {
            let mut held = held.lock().unwrap();
            specs.iter().map(|spec| lend(&mut held, spec)).collect()
        });
        self.service.prepare(&mut cx)
    }

    /// Prepares and commits a configuration.
    pub(crate) fn load(&mut self, config: &str) -> Result<(), Vec<Problem>> {
        self.prepare(config)?.commit();
        Ok(())
    }

    /// The address of a listener.
    #[track_caller]
    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        let held = self.held.lock().unwrap();
        let (_, socket) = held.iter().find(|(spec, _)| spec.name == name).expect("a listener of that name");
        let socket = TcpListener::from(socket.try_clone().unwrap());
        socket.local_addr().unwrap()
    }

    /// A connection to a listener.
    #[track_caller]
    pub(crate) fn connect(&self, name: &str) -> Connection {
        Connection::open(self.address(name))
    }

    /// Begins to drain.
    pub(crate) fn drain(&self, limit: Duration) -> (Drain, JoinHandle<Losses>) {
        let drain = Drain::new(limit);
        let (service, its) = (Arc::clone(&self.service), drain.clone());
        (drain, std::thread::spawn(move || service.drain(&its)))
    }

    /// Waits until no connection is open: everything that ended is counted then.
    #[track_caller]
    pub(crate) fn wait_until_idle(&self) {
        handover_testkit::until("all connections to be closed", || {
            let metrics = self.service.metrics();
            let open = metrics.lines().filter(|line| line.starts_with("handover_open_connections{"));
            open.map(|line| line.rsplit(' ').next()).all(|count| count == Some("0")).then_some(())
        });
    }

    /// Waits until a number of the metrics is this: for connections that may not even have been accepted yet.
    #[track_caller]
    pub(crate) fn wait_for_metric(&self, line: &str, wanted: u64) {
        handover_testkit::until(line, || (self.metric(line) == wanted).then_some(()));
    }

    /// One number of the metrics.
    #[track_caller]
    pub(crate) fn metric(&self, line: &str) -> u64 {
        let metrics = self.service.metrics();
        let found = metrics.lines().find_map(|candidate| candidate.strip_prefix(line)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no metric {line} in\n{metrics}")).parse().unwrap()
    }
}

fn lend(held: &mut Vec<(ListenerSpec, OwnedFd)>, spec: &ListenerSpec) -> Result<Bound, BindError> {
    if let Some((_, socket)) =
        held.iter().find(|(known, _)| known.name == spec.name && known.address == spec.address)
    {
        return Ok(Bound::Socket(socket.try_clone().unwrap()));
    }
    let bound: std::io::Result<OwnedFd> = match &spec.address {
        Address::Tcp(address) => TcpListener::bind(address).map(OwnedFd::from),
        Address::Unix { path, .. } => UnixListener::bind(path).map(OwnedFd::from),
        Address::Abstract(_) => Err(std::io::Error::other("not in these tests")),
    };
    match bound {
        Ok(socket) => {
            let lent = socket.try_clone().unwrap();
            held.push((spec.clone(), socket));
            Ok(Bound::Socket(lent))
        }
        Err(error) => {
            Err(BindError::Refused { errno: error.raw_os_error().unwrap_or(0), detail: error.to_string() })
        }
    }
}

/// An HTTP listener named `web`.
pub(crate) const WEB: &str = "[listeners.web]\naddress = \"127.0.0.1:0\"\n\n";

/// Everything goes to these endpoints.
pub(crate) fn to_endpoints(endpoints: &[SocketAddr], settings: &str) -> String {
    let all: Vec<_> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    format!(
        "[services.app]\nendpoints = [{}]\n{settings}\n\n[[routes]]\nservice = \"app\"\n\n",
        all.join(", ")
    )
}
