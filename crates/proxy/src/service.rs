//! The proxy as a service of the library: prepare beside what serves, commit in one step.
//!
//! ```text
//!   prepare:  read ─▶ parse, check, resolve ─▶ build the generation ─▶ bind its listeners ─▶ candidate
//!   commit:   publish (one store: from here on every request gets the new generation, on every thread)
//!             ─▶ each thread takes the new sockets, lets go of the old ones, says so ─▶ done
//! ```

mod logs;
mod moves;
mod programs;
mod report;
mod sockets;
mod traffic;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use handover::logging;
use handover::moving::Moving;
use handover::traffic::{Quiet, Target, Traffic};
use handover::{
    CalledOff, Candidate, Change, Drain, DrainEnd, Figures, Grant, GuardLimits, Losses, Prepare, Problem,
    Roles, Service, Settings, UpgradeRules, WorkerHandle, watch::Watch,
};
use handover_tls::{Schedule, Tickets};

use crate::access_log::LogWriter;
use crate::clock::Ticks;
use crate::config::{self, Checked, ListenAddress, Moment, SystemResolver};
use crate::conn::Shown;
use crate::event_loop::{Command, Socket};
use crate::generation::{Generation, ListenerKind, METRICS_LISTENER};
use crate::metrics::{Expiry, Metrics};
use crate::moving::Mover;
use crate::source::{self, ConfigSource, Reader};
use crate::threads::{Rotation, Shared, Threads};
use crate::traffic::Published;
use logs::{Logs, log_settings, open_logs};

/// Idle connections are closed within this time when the server drains, or within a quarter of the time limit.
const DRAIN_SPREAD: Duration = Duration::from_secs(2);
/// The most connections that are listed.
const MOST_SHOWN: usize = 10_000;
/// How often a drain looks whether anything is left.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// The proxy.
#[derive(Debug)]
pub struct ProxyService {
    source: Reader,
    threads: usize,
    plane: OnceLock<Result<Arc<Plane>, String>>,
    worker: Arc<OnceLock<WorkerHandle>>,
    mover: Arc<Mover>,
    /// What is served, and what traffic does with it: may be told of the latter before there is anything of the former.
    published: Arc<Published>,
}

/// The data plane: threads, what they share, and the sockets that they serve.
#[derive(Debug)]
struct Plane {
    shared: Shared,
    threads: Threads,
    sockets: Mutex<Vec<Socket>>,
    next_serial: AtomicU64,
    /// Of the first generation: what is changed of it takes effect when the server starts anew.
    first_control: OnceLock<config::Control>,
    mover: Arc<Mover>,
}

impl ProxyService {
    /// A proxy that serves what `source` says, with one thread per processor.
    #[must_use]
    pub fn new(source: ConfigSource) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let source = Reader::new(source);
        Self {
            source,
            threads,
            plane: OnceLock::new(),
            worker: Arc::default(),
            mover: Arc::default(),
            published: Arc::default(),
        }
    }

    /// Makes relative paths in a configuration that is no file relative to this directory, instead of that in which
    /// the server was started.
    #[must_use]
    pub fn with_base(mut self, base: PathBuf) -> Self {
        self.source = self.source.with_base(base);
        self
    }

    /// With so many threads (at least one).
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Bytes of memory that connections hold in buffers, for tests of back-pressure.
    #[must_use]
    pub fn buffer_bytes(&self) -> u64 {
        self.running().map_or(0, |plane| plane.shared.metrics.buffer_bytes())
    }

    /// Connections open on each thread, for tests of balance.
    #[must_use]
    pub fn open_by_thread(&self) -> Vec<u32> {
        self.running().map(|plane| plane.threads.open()).unwrap_or_default()
    }

    fn running(&self) -> Option<&Arc<Plane>> {
        self.plane.get()?.as_ref().ok()
    }

    /// The data plane; its threads start with the first prepare.
    fn plane(&self) -> Result<&Arc<Plane>, Vec<Problem>> {
        let start = || {
            let published = Arc::clone(&self.published);
            Plane::start(self.threads, Arc::clone(&self.worker), Arc::clone(&self.mover), published)
                .map(Arc::new)
                .map_err(|error| format!("the data plane's threads cannot be started: {error}"))
        };
        self.plane.get_or_init(start).as_ref().map_err(|detail| vec![Problem::new(detail.as_str())])
    }
}

impl Service for ProxyService {
    fn prepare(&self, cx: &mut Prepare) -> Result<Box<dyn Candidate>, Vec<Problem>> {
        let plane = self.plane()?;
        let source::Text { name, bytes: text, warnings: about_source } = self.source.read(cx)?;
        let base = cx.base().to_owned();
        let old = plane.shared.published.generation();
        let again = cx.given_top().is_some() && !cx.is_certificates_only();
        let moment = Moment {
            now: SystemTime::now(),
            serving: Some(&old.config),
            lenient: again || old.config.listeners.is_empty(),
        };
        let mut files = Read { cx, again };
        let Checked { config, routes, mut warnings, spans } =
            config::parse_beside(&name, &base, &text, &mut files, &mut SystemResolver::default(), moment)?;
        let changes = config::diff(&old.config, &config);
        warnings.extend(about_source);
        warnings.extend(self.source.without_effect(&config.control, &spans));
        warnings.extend(plane.waits_for_start(&config.control, &spans));
        let drain = config.drain.timeout;
        let mut problems = Vec::new();
        let log = open_logs(&config, cx.is_dry_run(), &spans, &mut problems);
        let keys = plane.carried_keys(cx, &mut warnings);
        let tickets = &plane.shared.tickets;
        let built = Generation::build(config, &routes, Some(&old), &plane.shared.metrics, tickets);
        let generation = match built {
            Ok(generation) => generation,
            Err(errors) => {
                problems
                    .extend(errors.iter().map(|error| spans.problem(&error.pointer(), &error.to_string())));
                return Err(problems);
            }
        };
        let (sockets, places) = plane.bind(&generation, cx, &spans, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let expiries = report::expiries(&generation.config);
        Ok(Box::new(Ready {
            plane: Arc::clone(plane),
            generation: Arc::new(generation),
            sockets,
            changes,
            warnings,
            drain,
            log,
            keys,
            expiries,
            places,
            source: self.source.clone(),
        }))
    }

    fn drain(&self, drain: &Drain) -> Losses {
        let Some(plane) = self.running() else { return Losses::default() };
        let spread = DRAIN_SPREAD.min(drain.remaining() / 4);
        plane.threads.ask(|done| Command::Drain { spread: Ticks::from(spread), done });
        loop {
            let open = plane.shared.metrics.open();
            drain.progress(open);
            if open == 0 {
                // Nothing is left to lose: this only brings the last log lines out.
                let losses = plane.threads.cut();
                plane.shared.log.sync();
                return losses;
            }
            match drain.wait(DRAIN_LOOK) {
                None => {}
                Some(DrainEnd::Resumed) => return Losses::default(),
                Some(DrainEnd::Deadline | DrainEnd::StopNow) => return self.stop_now(),
            }
        }
    }

    fn resume(&self) {
        self.mover.resumed();
        if let Some(plane) = self.running() {
            plane.threads.ask(|done| Command::Resume { done });
        }
    }

    fn close_listeners(&self) {
        if let Some(plane) = self.running() {
            plane.threads.ask(|done| Command::CloseListeners { done });
            plane.sockets.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    fn stop_now(&self) -> Losses {
        let Some(plane) = self.running() else { return Losses::default() };
        plane.threads.ask(|done| Command::Drain { spread: Ticks(0), done });
        let losses = plane.threads.cut();
        plane.shared.log.sync();
        losses
    }

    fn metrics(&self) -> String {
        self.running().map(|plane| plane.shared.metrics.encode()).unwrap_or_default()
    }

    fn connections(&self) -> String {
        let shown = self.running().map(|plane| plane.threads.connections(MOST_SHOWN)).unwrap_or_default();
        serde_json::Value::Array(shown.iter().map(Shown::json).collect()).to_string()
    }

    fn open_connections(&self) -> Option<u64> {
        let open = self.running().map_or(0, |plane| plane.shared.metrics.open());
        // Threads are read one after the other: what moved meanwhile may be counted out and not in.
        Some(open.cast_signed().max(0).cast_unsigned())
    }

    fn figures(&self) -> Option<Figures> {
        Some(self.running()?.shared.metrics.figures())
    }

    fn certificates(&self) -> String {
        let shown =
            self.running().map(|plane| report::certificates(&plane.shared.published.generation().config));
        serde_json::to_string(&shown.unwrap_or_default()).unwrap_or_default()
    }

    fn facts(&self, metrics: String) {
        if let Some(plane) = self.running() {
            plane.shared.facts.store(Arc::new(metrics));
        }
    }

    fn reopen_logs(&self) {
        if let Some(plane) = self.running() {
            plane.shared.log.reopen();
        }
    }

    fn moving(&self) -> Option<&dyn Moving> {
        Some(self)
    }

    fn held(&self) -> String {
        self.held_by_pauses()
    }

    fn traffic(&self, traffic: Traffic) {
        self.follow(traffic);
    }

    fn quiet(&self, target: &Target, limit: Duration, called_off: &CalledOff) -> Quiet {
        self.wait(target, limit, called_off)
    }

    fn attach(&self, worker: WorkerHandle) {
        // Attached once; a second handle would lead to the same place.
        let _ = self.worker.set(worker);
    }
}

impl Plane {
    fn start(
        threads: usize,
        worker: Arc<OnceLock<WorkerHandle>>,
        mover: Arc<Mover>,
        published: Arc<Published>,
    ) -> std::io::Result<Self> {
        let schedule = schedule(config::Tickets::default());
        let tickets = Tickets::new(schedule, SystemTime::now()).map_err(std::io::Error::other)?;
        let shared = Shared {
            published,
            metrics: Arc::new(Metrics::new(threads)),
            facts: Arc::default(),
            log: LogWriter::start()?,
            tickets: Arc::new(tickets),
            worker,
        };
        let threads = Threads::start(threads, &shared)?;
        if mover.is_standing() {
            mover.stand_by(Some(&threads));
        }
        Ok(Self {
            shared,
            threads,
            sockets: Mutex::default(),
            next_serial: AtomicU64::new(1),
            first_control: OnceLock::new(),
            mover,
        })
    }

    /// The keys of tickets that outlive workers, if they are others than those at hand.
    fn carried_keys(&self, cx: &Prepare, warnings: &mut Vec<Problem>) -> Option<Vec<u8>> {
        let carried = cx.carried().filter(|carried| **carried != **self.shared.tickets.export())?;
        // Tried on keys of nobody, so that a commit has nothing to find fault with.
        let nobody = Tickets::new(schedule(config::Tickets::default()), SystemTime::now()).ok()?;
        match nobody.import(carried, SystemTime::now()) {
            Ok(_) => Some(carried.to_vec()),
            Err(error) => {
                let detail = format!("sessions of before are not resumed, clients begin new ones: {error}");
                warnings.push(Problem::new(detail));
                None
            }
        }
    }

    /// What of a configuration has no effect before the next start.
    fn waits_for_start(&self, control: &config::Control, spans: &config::Spans) -> Vec<Problem> {
        let Some(first) = self.first_control.get() else { return Vec::new() };
        let places = [
            ("/control/socket", first.socket != control.socket, "the control socket"),
            ("/control/state", first.state != control.state, "the journal"),
        ];
        let changed = places.into_iter().filter(|(_, changed, _)| *changed);
        changed
            .map(|(pointer, _, what)| {
                let detail =
                    format!("{what} stays where it is: this takes effect at the next start of the server");
                spans.problem(pointer, &detail)
            })
            .collect()
    }
}

/// Where the bytes of files come from: certificates are read anew also where nothing else is.
struct Read<'a> {
    cx: &'a mut Prepare,
    /// A generation is served again: what the disk has by now is not what is read.
    again: bool,
}

impl config::Files for Read<'_> {
    fn read(&mut self, path: &Path) -> std::io::Result<Arc<[u8]>> {
        self.cx.read(path)
    }

    fn read_certificate(&mut self, path: &Path) -> std::io::Result<Arc<[u8]>> {
        self.cx.read_certificate(path)
    }

    fn mode(&mut self, path: &Path) -> Option<u32> {
        let metadata = if self.again { None } else { std::fs::metadata(path).ok() };
        metadata.map(|metadata| metadata.mode() & 0o7777)
    }

    fn stands(&mut self, path: &Path) -> Option<config::Standing> {
        (!self.again).then(|| config::Standing::on_disk(path))
    }
}

fn schedule(tickets: config::Tickets) -> Schedule {
    Schedule { rotate: tickets.rotate, keep: tickets.keep }
}

/// A generation that is built and bound.
struct Ready {
    plane: Arc<Plane>,
    generation: Arc<Generation>,
    sockets: Vec<Socket>,
    changes: Vec<Change>,
    warnings: Vec<Problem>,
    drain: Duration,
    log: Option<Logs>,
    /// Keys of tickets that are to be taken over.
    keys: Option<Vec<u8>>,
    /// When its certificates expire.
    expiries: Vec<Expiry>,
    /// Where the sockets of programs listen.
    places: Vec<String>,
    source: Reader,
}

impl Candidate for Ready {
    fn changes(&self) -> Vec<Change> {
        self.changes.clone()
    }

    fn warnings(&self) -> Vec<Problem> {
        self.warnings.clone()
    }

    fn settings(&self) -> Settings {
        let config = &self.generation.config;
        let grant = |from: &config::Grant| Grant { users: from.users.clone(), groups: from.groups.clone() };
        Settings {
            control_mode: Some(config.control.mode),
            control_group: config.control.group,
            roles: Roles {
                admin: grant(&config.control.roles.admin),
                operate: grant(&config.control.roles.operate),
                read: grant(&config.control.roles.read),
            },
            history: Some(config.control.history as usize),
            generations: Some(config.control.generations as usize),
            guard: config.guard.map(|guard| GuardLimits {
                watch: guard.watch,
                min_requests: guard.requests.into(),
                errors_5xx_points: guard.errors_5xx.percent(),
                connect_failures_points: guard.connect_failures.percent(),
                handshake_failures_points: guard.handshake_failures.percent(),
            }),
            drain_limit: Some(config.drain.timeout),
            log: Some(log_settings(&config.log)),
            upgrade: UpgradeRules {
                directories: config.upgrade.directories.clone(),
                owner: config.upgrade.owner,
                sha256: config.upgrade.sha256.clone(),
                public_key: config.upgrade.public_key.clone(),
            },
            programs: programs::definitions(config),
            names: programs::names(config),
        }
    }

    fn summary(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (position, listener) in self.generation.listeners.iter().enumerate() {
            let (http, tcp) = if listener.tls.is_some() { ("https", "tls") } else { ("http", "tcp") };
            for address in self.generation.addresses(position) {
                let shown = self.shown_address(&listener.name, address);
                lines.push(match &listener.kind {
                    ListenerKind::Http(_) => match (address, self.generation.routes_on(position)) {
                        (ListenAddress::Tcp(_), 1) => format!("{http}://{shown} → 1 route"),
                        (ListenAddress::Tcp(_), count) => format!("{http}://{shown} → {count} routes"),
                        (_, 1) => format!("{http} on {shown} → 1 route"),
                        (_, count) => format!("{http} on {shown} → {count} routes"),
                    },
                    ListenerKind::Tcp(service) => {
                        let name =
                            self.generation.services.get(*service).map_or("?", |service| &service.name);
                        format!("{tcp} on {shown} → service {name}")
                    }
                    ListenerKind::Metrics(path) => match address {
                        ListenAddress::Tcp(_) => format!("http://{shown}{path} → {METRICS_LISTENER}"),
                        _ => format!("http on {shown} → {METRICS_LISTENER} at {path}"),
                    },
                });
            }
        }
        lines.extend(programs::summary(&self.generation.config, &self.places));
        lines
    }

    fn watch(&self) -> Option<Watch> {
        let watch = self.generation.config.watch?;
        Some(Watch { settle: watch.settle, retry: watch.retry, source: self.source.watched(watch.poll) })
    }

    fn commit(self: Box<Self>) {
        let Self { plane, generation, sockets, drain, log, keys, expiries, .. } = *self;
        if let Some(Logs { own, access }) = log {
            logging::switch(own);
            if let Some((target, file)) = access {
                plane.shared.log.hand(target, file);
            }
        }
        let first = plane.first_control.get().is_none();
        plane.first_control.get_or_init(|| generation.config.control.clone());
        plane.shared.tickets.set_schedule(schedule(generation.config.tickets));
        // Tried in prepare.
        let imported = keys.is_some_and(|keys| plane.shared.tickets.import(&keys, SystemTime::now()).is_ok());
        plane.shared.metrics.set_certificates(expiries);
        // Held to the end, so that what must be freed of a large generation is not freed by a data thread.
        let before = plane.shared.published.commit(generation);
        let all: Arc<[Socket]> = sockets.clone().into();
        let cut_after = Ticks::from(drain);
        plane.threads.ask(|done| Command::Listen { sockets: Arc::clone(&all), cut_after, done });
        plane.threads.ask(|done| Command::Sweep { done });
        *plane.sockets.lock().unwrap_or_else(PoisonError::into_inner) = sockets;
        drop(before);
        plane.shared.metrics.prune();
        // Of a worker that stands by, the keys are those of the one that serves.
        if (first || imported) && !plane.mover.is_standing() {
            Rotation::new(&plane.shared).carry();
        }
    }
}

impl Ready {
    /// The address as bound: with the port that the kernel chose, if it was asked to.
    fn shown_address(&self, name: &str, address: &ListenAddress) -> String {
        let bound = self
            .sockets
            .iter()
            .find(|socket| &*socket.name == name && socket.address == *address)
            .and_then(|socket| rustix::net::getsockname(&socket.fd).ok())
            .and_then(|bound| std::net::SocketAddr::try_from(bound).ok());
        match (address, bound) {
            (ListenAddress::Tcp(_), Some(bound)) => bound.to_string(),
            _ => address.to_string(),
        }
    }
}
