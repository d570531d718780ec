//! A program's [`Server`](super::Server) as a [`Service`]: what the worker prepares, commits and drains.
//!
//! ```text
//!   prepare ── every value loads? ── every listener bound? ──┬── first: run starts, is ready? ──▶ candidate
//!      │ no: all problems at once        │ no                └── later ───────────────────────▶ candidate
//!      ▼                                 ▼
//!   nothing changed                  nothing changed
//! ```
//!
//! The first generation's values are published while it is prepared, because the program's future needs them to
//! become ready; nothing serves yet that could see them too early.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::address::Declared;
use super::certificates::Certificates;
use super::context::Listeners;
use super::counters::Counters;
use super::movable::AnyKind;
use super::moving::GivingAway;
use super::reloadable::{Ready, Value};
use super::run::{Body, NotReady, Run};
use super::{Action, Call};
use crate::drain::Drain;
use crate::moving::Moving;
use crate::prepare::{Bound, Prepare};
use crate::service::{Candidate, Service};
use crate::types::{Change, ChangeKind, Figures, ListenerSpec, Losses, Problem, Settings, What};
use crate::watch::Watch;
use crate::worker::WorkerHandle;

/// What the program declared.
pub(crate) struct Declarations {
    pub(crate) listeners: Vec<Declared>,
    /// What takes part in reloads, the certificates among it.
    pub(crate) values: Vec<Arc<dyn Value>>,
    pub(crate) certificates: Vec<Certificates>,
    pub(crate) actions: BTreeMap<String, Arc<Action>>,
    pub(crate) counters: Option<Counters>,
    pub(crate) watch: Option<Watch>,
    pub(crate) told: bool,
    /// Connections that can move, and the formats of their states.
    pub(crate) kinds: Vec<Arc<dyn AnyKind>>,
    pub(crate) state_formats: RangeInclusive<u16>,
    pub(crate) settings: Settings,
    pub(crate) mistakes: Vec<Problem>,
    pub(crate) body: Arc<Body>,
}

/// The service that the worker hosts.
pub(crate) struct Hosted {
    pub(super) declared: Declarations,
    worker: OnceLock<WorkerHandle>,
    serving: Arc<Mutex<Serving>>,
    /// Held while a first generation is published and started: two prepares, one of them abandoned, must not mix.
    starting: Mutex<()>,
    /// Another worker serves as yet.
    pub(super) stands_by: AtomicBool,
    giving_away: Mutex<GivingAway>,
}

#[derive(Default)]
pub(super) struct Serving {
    pub(super) run: Option<Run>,
    listeners: Option<Arc<Listeners>>,
}

/// The values, each loaded anew, and where to listen.
type Loaded = (Vec<Box<dyn Ready>>, Vec<ListenerSpec>);

impl Hosted {
    pub(crate) fn new(declared: Declarations) -> Self {
        Self {
            declared,
            worker: OnceLock::new(),
            serving: Arc::default(),
            starting: Mutex::new(()),
            stands_by: AtomicBool::new(false),
            giving_away: Mutex::default(),
        }
    }

    /// Loads every value and reads every address: all problems at once.
    fn load(&self, cx: &mut Prepare) -> Result<Loaded, Vec<Problem>> {
        let mut problems = self.declared.mistakes.clone();
        let mut ready = Vec::new();
        let only_certificates = cx.is_certificates_only();
        let wanted =
            self.declared.values.iter().filter(|value| !only_certificates || value.is_certificates());
        for value in wanted {
            match value.prepare(cx) {
                Ok(loaded) => ready.push(loaded),
                Err(failed) => problems.extend(failed),
            }
        }
        if let Err(error) = cx.keep_the_rest() {
            problems.push(Problem::new(error.to_string()));
        }
        let mut specs = Vec::new();
        for listener in &self.declared.listeners {
            match listener.spec(|key| std::env::var(key).ok()) {
                Ok(spec) => specs.push(spec),
                Err(problem) => problems.push(*problem),
            }
        }
        if problems.is_empty() { Ok((ready, specs)) } else { Err(problems) }
    }

    /// Publishes a first generation's values and starts the program's future on them.
    fn start_first(
        &self,
        cx: &Prepare,
        ready: Vec<Box<dyn Ready>>,
        listeners: &Arc<Listeners>,
    ) -> Result<Run, Vec<Problem>> {
        let _alone = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if cx.is_cancelled() {
            return Err(vec![Problem::new("the change was called off before the server was started")]);
        }
        for value in ready {
            value.commit();
        }
        let problem = |error: NotReady| vec![Problem::new(error.to_string())];
        let run = self.start(Arc::clone(listeners)).map_err(problem)?;
        run.wait_ready(|| !cx.is_cancelled()).map_err(problem)?;
        Ok(run)
    }

    fn start(&self, listeners: Arc<Listeners>) -> Result<Run, NotReady> {
        let worker = self.worker.get().cloned();
        let how = [self.declared.told, self.stands_by.load(Ordering::Relaxed)];
        Run::start(&self.declared.body, listeners, how, move |result| {
            let why = match result {
                Ok(()) => "the server ended although nobody asked it to".to_owned(),
                Err(error) => format!("the server ended: {error}"),
            };
            match worker {
                Some(worker) => worker.fail(&why),
                None => tracing::error!("{why}"),
            }
        })
    }

    /// Calls the closure again, with the listeners of what serves; `wait` waits until it is ready.
    pub(super) fn start_again(&self, wait: impl FnOnce(&Run) -> Result<(), NotReady>) -> Result<(), String> {
        let listeners = self.serving().listeners.clone();
        let Some(listeners) = listeners else { return Ok(()) };
        let run = self.start(listeners).map_err(|error| error.to_string())?;
        wait(&run).map_err(|error| error.to_string())?;
        self.serving().run = Some(run);
        Ok(())
    }

    pub(super) fn serving(&self) -> MutexGuard<'_, Serving> {
        lock(&self.serving)
    }

    pub(super) fn giving_away(&self) -> MutexGuard<'_, GivingAway> {
        self.giving_away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(serving: &Mutex<Serving>) -> MutexGuard<'_, Serving> {
    serving.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service for Hosted {
    fn prepare(&self, cx: &mut Prepare) -> Result<Box<dyn Candidate>, Vec<Problem>> {
        let (ready, specs) = self.load(cx)?;
        let (listeners, problems) = bind(cx, &specs);
        if !problems.is_empty() {
            return Err(problems);
        }
        let first = self.serving().listeners.is_none();
        let mut changes: Vec<Change> = Vec::new();
        if first {
            let added = |spec: &ListenerSpec| {
                Change::new(What::Added, ChangeKind::Listener, &spec.name)
                    .with_detail(spec.address.to_string())
            };
            changes.extend(specs.iter().map(added));
        }
        changes.extend(ready.iter().flat_map(|value| value.changes(first)));
        let warnings = ready.iter().flat_map(|value| value.warnings()).collect();
        let summary =
            specs.iter().map(|spec| format!("{} on {}", spec.name, place(spec, &listeners))).collect();
        let mut prepared = Prepared {
            serving: Arc::clone(&self.serving),
            changes,
            warnings,
            summary,
            settings: self.declared.settings.clone(),
            watch: self.declared.watch.clone(),
            ready: Vec::new(),
            listeners: Arc::new(listeners),
            run: None,
        };
        if first && !cx.is_dry_run() {
            let run = self.start_first(cx, ready, &prepared.listeners)?;
            prepared.run = Some(run);
        } else {
            prepared.ready = ready;
        }
        Ok(Box::new(prepared))
    }

    fn drain(&self, drain: &Drain) -> Losses {
        let run = self.serving().run.take();
        run.map_or_else(Losses::default, |run| run.drain(drain))
    }

    /// The program holds copies of its own, which it lets go when it drains.
    fn close_listeners(&self) {
        let mut serving = self.serving();
        serving.listeners = serving.listeners.is_some().then(Arc::default);
        if let Some(run) = &serving.run {
            run.close_listeners();
        }
    }

    fn resume(&self) {
        self.stands_by.store(false, Ordering::Relaxed);
        if let Some(run) = &self.serving().run {
            return run.open();
        }
        if let (Err(error), Some(worker)) = (self.start_again(|_| Ok(())), self.worker.get()) {
            worker.fail(&error);
        }
    }

    fn stop_now(&self) -> Losses {
        let run = self.serving().run.take();
        run.map_or_else(Losses::default, Run::cut)
    }

    fn metrics(&self) -> String {
        let open = Family::<[(&'static str, &'static str); 1], Gauge>::default();
        if let Some(run) = &self.serving().run {
            for (kind, count) in run.connections() {
                open.get_or_create(&[("kind", kind)]).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        let mut registry = Registry::with_prefix("handover");
        registry.register("open_connections", "Connections that the server tracks, by kind", open);
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &registry);
        text.trim_end().trim_end_matches("# EOF").to_owned()
    }

    fn figures(&self) -> Option<Figures> {
        self.declared.counters.as_ref().map(Counters::figures)
    }

    fn certificates(&self) -> String {
        if self.declared.certificates.is_empty() {
            return String::new();
        }
        let all: Vec<_> = self.declared.certificates.iter().flat_map(Certificates::serving).collect();
        serde_json::to_string(&all).unwrap_or_default()
    }

    fn moving(&self) -> Option<&dyn Moving> {
        Some(self)
    }

    fn actions(&self) -> Vec<String> {
        self.declared.actions.keys().cloned().collect()
    }

    fn action(&self, name: &str, body: &str, files: &mut Prepare) -> Result<String, String> {
        let Some(action) = self.declared.actions.get(name) else {
            return Err(format!("there is no action named {name:?}"));
        };
        let mut call = Call { body, files, reloaded: Vec::new() };
        let answer = action(&mut call);
        if !call.reloaded.is_empty() {
            tracing::info!(action = name, "reloaded {}", call.reloaded.join(", "));
        }
        answer
    }

    fn attach(&self, worker: WorkerHandle) {
        let _ = self.worker.set(worker);
    }
}

/// Asks for the listeners; what cannot be had is a problem each.
fn bind(cx: &mut Prepare, specs: &[ListenerSpec]) -> (Listeners, Vec<Problem>) {
    let (mut listeners, mut problems) = (Listeners::new(), Vec::new());
    for (spec, answer) in specs.iter().zip(cx.bind(specs)) {
        match answer {
            Ok(Bound::Socket(socket)) => {
                listeners.insert(spec.name.clone(), (spec.clone(), socket));
            }
            Ok(Bound::OnlyChecked) => {}
            Err(error) => {
                problems.push(Problem::new(format!("listener {:?} on {}: {error}", spec.name, spec.address)));
            }
        }
    }
    (listeners, problems)
}

/// Where a listener listens: with the port that the kernel chose, if it was to choose one.
fn place(spec: &ListenerSpec, listeners: &Listeners) -> String {
    let bound = listeners.get(&spec.name).and_then(|(_, socket)| rustix::net::getsockname(socket).ok());
    match bound.and_then(|bound| SocketAddr::try_from(bound).ok()) {
        Some(bound) => bound.to_string(),
        None => spec.address.to_string(),
    }
}

/// A generation that is loaded and not yet served.
struct Prepared {
    serving: Arc<Mutex<Serving>>,
    changes: Vec<Change>,
    warnings: Vec<Problem>,
    summary: Vec<String>,
    settings: Settings,
    watch: Option<Watch>,
    ready: Vec<Box<dyn Ready>>,
    listeners: Arc<Listeners>,
    run: Option<Run>,
}

impl Candidate for Prepared {
    fn changes(&self) -> Vec<Change> {
        self.changes.clone()
    }

    fn warnings(&self) -> Vec<Problem> {
        self.warnings.clone()
    }

    fn settings(&self) -> Settings {
        self.settings.clone()
    }

    fn watch(&self) -> Option<Watch> {
        self.watch.clone()
    }

    fn summary(&self) -> Vec<String> {
        self.summary.clone()
    }

    fn commit(self: Box<Self>) {
        let Self { serving, ready, listeners, run, .. } = *self;
        for value in ready {
            value.commit();
        }
        let mut serving = lock(&serving);
        serving.listeners = Some(listeners);
        if let Some(run) = run {
            serving.run = Some(run);
        }
    }
}
