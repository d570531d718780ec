//! What of the traffic changes while a generation serves: the endpoints of programs, what is switched off, and what is held.
//!
//! ```text
//!   generation (commit) ──┐
//!                         ├─▶ View: both together, names resolved ──one store──▶ every thread, at its next look
//!   Traffic (supervisor) ─┘
//! ```
//!
//! Data threads look at one thing only, as they did when generations were all there was: a view costs a request nothing more. Names are
//! looked up when a view is made, by the thread that publishes it.

mod holding;
mod pauses;
mod quiet;
mod wakes;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use handover::traffic::{ProgramEndpoint, Target, Traffic};
use handover::{Address, WorkerHandle};

use crate::config::EndpointAddress;
use crate::generation::{EndpointPlan, Generation, ServicePlan};

pub(crate) use holding::{Beat, Holding};
pub(crate) use pauses::{PausePlan, Pauses, Ticket};
pub(crate) use quiet::{Census, Count, Watches, wait_for_quiet};
pub(crate) use wakes::WakePlan;

/// A generation, and what traffic does at present with it.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) generation: Arc<Generation>,
    /// By position of the service; `None`: all endpoints of the plan, and all of them get requests.
    services: Vec<Option<Box<[EndpointView]>>>,
    /// `None` while nothing is held.
    pub(crate) pauses: Option<Box<Pauses>>,
    /// By position of the service; empty where no program is started when somebody waits for it.
    wakes: Vec<Option<Arc<WakePlan>>>,
}

/// An endpoint at present.
#[derive(Debug, Clone)]
pub(crate) struct EndpointView {
    pub(crate) plan: Arc<EndpointPlan>,
    /// Whether it gets anything new.
    pub(crate) on: bool,
}

impl View {
    /// Of nothing.
    pub(crate) fn nothing() -> Self {
        let generation = Arc::new(Generation::nothing());
        Self { generation, services: Vec::new(), pauses: None, wakes: Vec::new() }
    }

    fn new(generation: Arc<Generation>, state: &State, before: &Self) -> Self {
        let programs = generation.services.iter().any(|service| service.program.is_some());
        let off = Off::of(&state.traffic);
        let services = if programs || !off.is_empty() {
            let known = before.endpoints_of_programs();
            let all = generation.services.iter().zip(&generation.config.services);
            all.map(|(plan, config)| match &plan.program {
                Some(program) => Some(of_program(plan, program, state, &off, &known)),
                None => of_service(plan, config, &off),
            })
            .collect()
        } else {
            Vec::new()
        };
        let pauses = Pauses::new(&generation, &state.pauses).map(Box::new);
        let wake = |plan: &ServicePlan| state.wakes.get(plan.program.as_deref()?).cloned();
        let wakes = match state.wakes.is_empty() {
            true => Vec::new(),
            false => generation.services.iter().map(wake).collect(),
        };
        Self { generation, services, pauses, wakes }
    }

    /// Where this service leads to a program that is started when somebody waits for it: how that is done.
    pub(crate) fn wake(&self, service: usize) -> Option<&WakePlan> {
        self.wakes.get(service)?.as_deref()
    }

    /// The endpoints of a service that differ from its plan's, if they do.
    pub(crate) fn endpoints(&self, service: usize) -> Option<&[EndpointView]> {
        self.services.get(service)?.as_deref()
    }

    /// By service, name and address.
    fn endpoints_of_programs(&self) -> HashMap<(&str, &str, &EndpointAddress), &Arc<EndpointPlan>> {
        let of_programs = self
            .generation
            .services
            .iter()
            .zip(&self.services)
            .filter(|(service, _)| service.program.is_some());
        let endpoints = of_programs.flat_map(|(_, endpoints)| endpoints.iter().flatten());
        endpoints
            .map(|endpoint| &endpoint.plan)
            .map(|plan| ((&*plan.service, &*plan.name, &plan.address), plan))
            .collect()
    }
}

/// Names of endpoints that get nothing new.
struct Off<'t>(Vec<&'t str>);

impl<'t> Off<'t> {
    fn of(traffic: &'t Traffic) -> Self {
        // To pause an endpoint is to pass it over: the others go on.
        let paused = traffic.pauses.iter().filter_map(|pause| match &pause.target {
            Target::Endpoint(name) => Some(name.as_str()),
            _ => None,
        });
        Self(traffic.off.iter().map(String::as_str).chain(paused).collect())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains(&name)
    }
}

/// The copies of a program. Those that were there before stay the same objects, so that their connections are kept.
fn of_program(
    plan: &ServicePlan,
    program: &str,
    state: &State,
    off: &Off<'_>,
    known: &HashMap<(&str, &str, &EndpointAddress), &Arc<EndpointPlan>>,
) -> Box<[EndpointView]> {
    let copies = state.traffic.programs.get(program).map(Vec::as_slice).unwrap_or_default();
    let view = |copy: &ProgramEndpoint| {
        let address = endpoint_address(&copy.address);
        let known = known.get(&(&*plan.name, copy.name.as_str(), &address));
        let on = copy.on && !off.has(&copy.name);
        let plan = known.map_or_else(
            || {
                Arc::new(EndpointPlan {
                    service: Arc::clone(&plan.name),
                    name: copy.name.as_str().into(),
                    label: copy.name.as_str().into(),
                    address: address.clone(),
                    tls: None,
                    active: AtomicU32::new(0),
                })
            },
            |known| Arc::clone(known),
        );
        EndpointView { plan, on }
    };
    copies.iter().map(view).collect()
}

/// The endpoints of an ordinary service, if any of them is off.
fn of_service(
    plan: &ServicePlan,
    config: &crate::config::Service,
    off: &Off<'_>,
) -> Option<Box<[EndpointView]>> {
    if off.is_empty() {
        return None;
    }
    // One plan for every address of every endpoint, in this order.
    let names = config
        .endpoints
        .iter()
        .flat_map(|endpoint| std::iter::repeat_n(&endpoint.name, endpoint.addresses.len()));
    let view = |(plan, name): (&Arc<EndpointPlan>, &Arc<str>)| EndpointView {
        plan: Arc::clone(plan),
        on: !off.has(name) && !off.has(&plan.label),
    };
    let endpoints: Box<[EndpointView]> = plan.endpoints.iter().zip(names).map(view).collect();
    endpoints.iter().any(|endpoint| !endpoint.on).then_some(endpoints)
}

fn endpoint_address(address: &Address) -> EndpointAddress {
    match address {
        Address::Tcp(address) => EndpointAddress::Tcp(*address),
        Address::Unix { path, .. } => EndpointAddress::Unix(path.clone()),
        Address::Abstract(name) => EndpointAddress::Abstract(name.as_str().into()),
    }
}

/// What was said last, and what came of it.
#[derive(Debug, Default)]
struct State {
    traffic: Traffic,
    pauses: Vec<Arc<PausePlan>>,
    wakes: BTreeMap<String, Arc<WakePlan>>,
}

/// What is published, and how it changes.
#[derive(Debug)]
pub(crate) struct Published {
    view: Arc<ArcSwap<View>>,
    state: Mutex<State>,
}

impl Default for Published {
    fn default() -> Self {
        Self { view: Arc::new(ArcSwap::from_pointee(View::nothing())), state: Mutex::default() }
    }
}

impl Published {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a thread looks: one load and one comparison while nothing changes.
    pub(crate) fn cache(&self) -> Cache<Arc<ArcSwap<View>>, Arc<View>> {
        Cache::new(Arc::clone(&self.view))
    }

    /// The generation that is published.
    pub(crate) fn generation(&self) -> Arc<Generation> {
        Arc::clone(&self.view.load().generation)
    }

    /// Publishes a generation; gives back what was there before.
    pub(crate) fn commit(&self, generation: Arc<Generation>) -> Arc<View> {
        let state = self.state();
        let view = View::new(generation, &state, &self.view.load());
        self.view.swap(Arc::new(view))
    }

    /// How many each pause holds now.
    pub(crate) fn held(&self) -> Vec<(Target, u32)> {
        self.state().pauses.iter().map(|pause| (pause.target.clone(), pause.held())).collect()
    }

    /// Publishes what is said of the traffic. Pauses that go on keep what they hold. Who asked waits until every thread acts on it.
    /// `worker` is told when somebody waits for a program that is started then.
    pub(crate) fn traffic(&self, traffic: Traffic, worker: Option<&WorkerHandle>) -> Arc<View> {
        let mut state = self.state();
        let pauses = traffic.pauses.iter().map(|pause| PausePlan::new(pause, &state.pauses));
        let pauses = pauses.map(Arc::new).collect();
        let wake = |(program, wake): (&String, &handover::traffic::Wake)| {
            let before = state.wakes.get(program).map(|plan| &**plan);
            (program.clone(), Arc::new(WakePlan::new(program, wake, before, worker)))
        };
        let wakes = traffic.wakes.iter().map(wake).collect();
        *state = State { traffic, pauses, wakes };
        let before = self.view.load_full();
        let view = View::new(Arc::clone(&before.generation), &state, &before);
        self.view.swap(Arc::new(view))
    }
}
