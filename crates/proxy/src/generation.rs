//! A generation: everything that requests need, built once in prepare, never changed afterwards, shared by all threads.

mod tls;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use handover::traffic::Target;
use handover_http1::{ClientSent, HeadLimits, HeaderRules, Prepared, RequestRules};
use handover_tls::{SettingsError, Tickets};
use rustix::fs::{Mode, OFlags};
use rustls::ClientConfig;

use crate::clock::Ticks;
use crate::config::{
    self, Balance, Config, Directory, EndpointAddress, HeaderEdits, Incoming, ListenAddress, Redirect,
};
use crate::metrics::{Cells, ListenerCells, Metrics, ServiceCells};
use crate::routes::{RouteTable, Routes};

pub(crate) use tls::{EndpointTls, ListenerTls};

/// The name under which the metrics listener appears.
pub(crate) const METRICS_LISTENER: &str = "metrics";
/// Connections that may wait on the metrics listener.
const METRICS_BACKLOG: u32 = 128;

/// Everything that is served, in the form in which requests need it.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) config: Config,
    /// As in the configuration, the metrics listener last.
    pub(crate) listeners: Vec<ListenerPlan>,
    pub(crate) services: Vec<ServicePlan>,
    /// By position of the route in the configuration.
    pub(crate) actions: Vec<Action>,
}

/// A listener: what its connections may do.
#[derive(Debug)]
pub(crate) struct ListenerPlan {
    pub(crate) name: Arc<str>,
    pub(crate) kind: ListenerKind,
    pub(crate) connections: u32,
    pub(crate) head: HeadLimits,
    pub(crate) body_bytes: u64,
    pub(crate) header: Ticks,
    pub(crate) idle: Ticks,
    pub(crate) body: Ticks,
    pub(crate) tunnel: Ticks,
    pub(crate) cells: Arc<Cells<ListenerCells>>,
    /// `None`: connections are plain.
    pub(crate) tls: Option<Arc<ListenerTls>>,
}

/// What a listener's connections speak.
#[derive(Debug)]
pub(crate) enum ListenerKind {
    /// HTTP, dispatched by a table.
    Http(Arc<RouteTable>),
    /// Bytes for a service.
    Tcp(usize),
    /// HTTP, answered with the metrics at this path.
    Metrics(Arc<str>),
}

impl ListenerKind {
    /// True if connections of the one kind can go on under the other.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// A service: how requests reach its endpoints.
#[derive(Debug)]
pub(crate) struct ServicePlan {
    pub(crate) name: Arc<str>,
    /// The program that it leads to: its endpoints are those of [`crate::traffic::View`].
    pub(crate) program: Option<Arc<str>>,
    pub(crate) balance: Balance,
    /// One for every address of every endpoint.
    pub(crate) endpoints: Vec<Arc<EndpointPlan>>,
    pub(crate) connect: Ticks,
    pub(crate) response: Ticks,
    pub(crate) keep_idle: usize,
    pub(crate) idle_limit: Ticks,
    pub(crate) request_rules: RequestRules,
    pub(crate) response_rules: HeaderRules,
    pub(crate) cells: Arc<Cells<ServiceCells>>,
    /// `None`: connections are plain.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// An address to connect to; the same value in all generations that name it.
#[derive(Debug)]
pub(crate) struct EndpointPlan {
    pub(crate) service: Arc<str>,
    /// As the configuration names it; a copy of a program: `web/1`.
    pub(crate) name: Arc<str>,
    pub(crate) address: EndpointAddress,
    /// What logs call it: the address as text; a copy of a program by its name.
    pub(crate) label: Box<str>,
    /// `None`: connections are plain.
    pub(crate) tls: Option<Arc<EndpointTls>>,
    /// Requests and tunnels in progress, over all threads.
    pub(crate) active: AtomicU32,
}

/// What is done with a request, ready to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Pass it to this service.
    Service(usize),
    /// Answer these bytes.
    Fixed { status: u16, prepared: Prepared },
    /// Send the client elsewhere.
    Redirect(Redirect),
    /// Answer with a file below this directory.
    Directory(Root),
}

impl BuildError {
    /// Where in the configuration the reason stands (RFC 6901).
    pub(crate) fn pointer(&self) -> String {
        match self {
            Self::Directory { route, .. } => format!("/routes/{route}/directory"),
            Self::Fixed { route, .. } => format!("/routes/{route}/fixed"),
            Self::Rule { service, .. } => format!("/services/{service}"),
            Self::ListenerTls { listener, .. } => format!("/listeners/{listener}/tls"),
            Self::ServiceTls { service, .. } => format!("/services/{service}/tls"),
        }
    }
}

/// A directory that is served.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) directory: OwnedFd,
    pub(crate) plan: Directory,
}

/// Why a configuration that is right in itself cannot be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    /// The directory of a route cannot be opened.
    #[error("cannot open the directory {path}: {error}")]
    Directory {
        /// Position of the route.
        route: usize,
        /// The directory.
        path: String,
        /// The system's reason.
        error: rustix::io::Errno,
    },
    /// A header field of a fixed response cannot be.
    #[error("{error}")]
    Fixed {
        /// Position of the route.
        route: usize,
        /// The reason.
        error: handover_http1::RuleError,
    },
    /// A header rule of a service cannot be.
    #[error("service {service}: {error}")]
    Rule {
        /// Name of the service.
        service: Arc<str>,
        /// The reason.
        error: handover_http1::RuleError,
    },
    /// A listener's TLS cannot be set up.
    #[error("listener {listener}: {error}")]
    ListenerTls {
        /// Name of the listener.
        listener: Arc<str>,
        /// The reason.
        error: SettingsError,
    },
    /// A service's TLS cannot be set up.
    #[error("service {service}: {error}")]
    ServiceTls {
        /// Name of the service.
        service: Arc<str>,
        /// The reason.
        error: SettingsError,
    },
}

impl Generation {
    /// Builds what `config` says. What `previous` has as well stays the same object: endpoints, so that their connections are kept,
    /// and everything about TLS that did not change.
    pub(crate) fn build(
        config: Config,
        routes: &Routes,
        previous: Option<&Self>,
        metrics: &Metrics,
        tickets: &Arc<Tickets>,
    ) -> Result<Self, Vec<BuildError>> {
        let mut errors = Vec::new();
        let secured = tls::build_listeners(&config, previous, tickets, &mut errors);
        let services = build_services(&config, previous, metrics, &mut errors);
        let actions = build_actions(&config, &mut errors);
        let mut listeners: Vec<_> = config
            .listeners
            .iter()
            .zip(secured)
            .enumerate()
            .map(|(index, (listener, tls))| {
                let kind = match listener.protocol {
                    config::Protocol::Http => {
                        ListenerKind::Http(routes.table(index).cloned().unwrap_or_default())
                    }
                    config::Protocol::Tcp { service } => ListenerKind::Tcp(service),
                };
                ListenerPlan::new(listener, kind, tls, metrics)
            })
            .collect();
        if let Some(plan) = &config.metrics {
            listeners.push(ListenerPlan::for_metrics(plan, metrics));
        }
        if errors.is_empty() { Ok(Self { config, listeners, services, actions }) } else { Err(errors) }
    }

    /// Position of the listener that has this name and this address.
    pub(crate) fn listener_at(&self, name: &str, address: &ListenAddress) -> Option<usize> {
        let position = self.listeners.iter().position(|listener| &*listener.name == name)?;
        self.addresses(position).contains(address).then_some(position)
    }

    /// The addresses of the listener at this position.
    pub(crate) fn addresses(&self, position: usize) -> &[ListenAddress] {
        match (self.config.listeners.get(position), &self.config.metrics) {
            (Some(listener), _) => &listener.addresses,
            (None, Some(metrics)) if position == self.config.listeners.len() => &metrics.addresses,
            _ => &[],
        }
    }

    /// How many connections may wait in the queue of the listener at this position.
    pub(crate) fn backlog(&self, position: usize) -> u32 {
        self.config.listeners.get(position).map_or(METRICS_BACKLOG, |listener| listener.backlog)
    }

    /// Number of routes that exist on the listener at this position.
    pub(crate) fn routes_on(&self, position: usize) -> usize {
        self.config.routes.iter().filter(|route| route.matcher.listeners.contains(&position)).count()
    }

    /// Of a program: another number after each request or tunnel that was passed to it; `None` of anything else.
    pub(crate) fn begun(&self, target: &Target) -> Option<u64> {
        let Target::Program(program) = target else { return None };
        let leads = |plan: &&ServicePlan| plan.program.as_deref() == Some(program);
        Some(self.services.iter().filter(leads).map(|plan| plan.cells.begun()).fold(0, u64::wrapping_add))
    }

    /// A generation that serves nothing: what threads have before the first one. Its settings are the defaults, so that
    /// the first one is said to change only those that somebody wrote.
    pub(crate) fn nothing() -> Self {
        let config = Config {
            listeners: Vec::new(),
            routes: Vec::new(),
            services: Vec::new(),
            control: config::Control {
                socket: None,
                mode: 0o660,
                group: None,
                roles: config::Roles::default(),
                state: None,
                history: 1000,
                generations: 20,
            },
            log: config::Log {
                format: config::LogFormat::Text,
                to: config::LogTarget::Stderr,
                level: config::LogLevel::Info,
                access: None,
            },
            metrics: None,
            drain: config::Drain { timeout: Duration::from_secs(30) },
            tickets: config::Tickets::default(),
            watch: None,
            guard: None,
            upgrade: config::Upgrade::default(),
            programs: Vec::new(),
        };
        Self { config, listeners: Vec::new(), services: Vec::new(), actions: Vec::new() }
    }
}

impl ListenerPlan {
    /// True if connections that began under the other can go on under this one.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let same_tls = match (&self.tls, &other.tls) {
            (None, None) => true,
            (Some(new), Some(old)) => new.lets_in_like(old),
            _ => false,
        };
        same_tls && self.kind.is_like(&other.kind)
    }

    fn new(
        listener: &config::Listener,
        kind: ListenerKind,
        tls: Option<Arc<ListenerTls>>,
        metrics: &Metrics,
    ) -> Self {
        let limits = &listener.limits;
        let cells = metrics.listener(&listener.name);
        if tls.is_some() {
            cells.of(0).secure.set(1);
        }
        Self {
            name: Arc::clone(&listener.name),
            kind,
            connections: limits.connections,
            head: HeadLimits {
                head_bytes: limits.header_bytes,
                headers: limits.headers,
                target_bytes: limits.target_bytes,
            },
            body_bytes: limits.body_bytes.unwrap_or(u64::MAX),
            header: listener.timeouts.header.into(),
            idle: listener.timeouts.idle.into(),
            body: listener.timeouts.body.into(),
            tunnel: listener.timeouts.tunnel.into(),
            cells,
            tls,
        }
    }

    fn for_metrics(plan: &config::Metrics, metrics: &Metrics) -> Self {
        let name: Arc<str> = METRICS_LISTENER.into();
        let half_a_minute = Ticks(300);
        Self {
            kind: ListenerKind::Metrics(Arc::clone(&plan.path)),
            connections: 256,
            head: HeadLimits::DEFAULT,
            body_bytes: 0,
            header: Ticks(100),
            idle: half_a_minute,
            body: half_a_minute,
            tunnel: half_a_minute,
            cells: metrics.listener(&name),
            name,
            tls: None,
        }
    }
}

/// What this proxy calls itself in `Via`.
const VIA: &str = "handover";

fn with_via(rules: HeaderRules) -> Result<HeaderRules, handover_http1::RuleError> {
    rules.with_via(VIA)
}

fn build_services(
    config: &Config,
    previous: Option<&Generation>,
    metrics: &Metrics,
    errors: &mut Vec<BuildError>,
) -> Vec<ServicePlan> {
    let old: HashMap<(&str, &EndpointAddress), &Arc<EndpointPlan>> = previous
        .into_iter()
        .flat_map(|generation| &generation.services)
        .flat_map(|service| &service.endpoints)
        .map(|endpoint| ((&*endpoint.service, &endpoint.address), endpoint))
        .collect();
    let secured = tls::build_services(config, previous, errors);
    let guarded = tls::subject_headers(config);
    config
        .services
        .iter()
        .zip(secured)
        .map(|(service, tls)| {
            let mut rules = |edits: &HeaderEdits| {
                let set: Vec<_> =
                    edits.set.iter().map(|field| (&*field.name, field.value.as_bytes())).collect();
                let rules = HeaderRules::new(&set, &edits.remove);
                let rules = if service.forwarded.via { rules.and_then(with_via) } else { rules };
                rules.unwrap_or_else(|error| {
                    errors.push(BuildError::Rule { service: Arc::clone(&service.name), error });
                    HeaderRules::default()
                })
            };
            let request_headers = rules(&service.request_headers).guarding(&guarded);
            let response_rules = rules(&service.response_headers);
            let endpoints = endpoints(service, tls.as_ref(), &old);
            ServicePlan {
                name: Arc::clone(&service.name),
                program: service.program.clone(),
                balance: service.balance,
                endpoints,
                connect: service.connect_timeout.into(),
                response: service.response_timeout.into(),
                keep_idle: service.keep_alive.idle as usize,
                idle_limit: service.keep_alive.idle_timeout.into(),
                request_rules: RequestRules {
                    headers: request_headers,
                    client_sent: match service.forwarded.incoming {
                        Incoming::Replace => ClientSent::Replace,
                        Incoming::Append => ClientSent::Append,
                        Incoming::Trust => ClientSent::Trust,
                    },
                    omit_x_forwarded: !service.forwarded.x_forwarded,
                    omit_forwarded: !service.forwarded.forwarded,
                    fallback_host: authority(service).into(),
                },
                response_rules,
                cells: metrics.service(&service.name),
                tls,
            }
        })
        .collect()
}

/// One for every address of every endpoint: those that there were before, if connections to them are still what is wanted.
fn endpoints(
    service: &config::Service,
    tls: Option<&Arc<ClientConfig>>,
    old: &HashMap<(&str, &EndpointAddress), &Arc<EndpointPlan>>,
) -> Vec<Arc<EndpointPlan>> {
    let mut endpoints = Vec::new();
    for (position, endpoint) in service.endpoints.iter().enumerate() {
        let name = service.tls.as_ref().and_then(|tls| tls.server_names.get(position));
        let tls = tls
            .zip(name)
            .map(|(config, name)| Arc::new(EndpointTls { config: Arc::clone(config), name: name.clone() }));
        for address in &endpoint.addresses {
            let alike = |known: &&&Arc<EndpointPlan>| match (&known.tls, &tls) {
                (None, None) => true,
                (Some(before), Some(now)) => before.is_like(now),
                _ => false,
            };
            endpoints.push(match old.get(&(&*service.name, address)).filter(alike) {
                Some(known) => Arc::clone(known),
                None => Arc::new(EndpointPlan {
                    service: Arc::clone(&service.name),
                    name: Arc::clone(&endpoint.name),
                    address: address.clone(),
                    label: address.to_string().into(),
                    tls: tls.clone(),
                    active: AtomicU32::new(0),
                }),
            });
        }
    }
    endpoints
}

/// What `Host` says in requests that came without one: the name and port of the first endpoint that has them. Behind a
/// Unix socket the server is on this machine.
fn authority(service: &config::Service) -> &str {
    let named = service.endpoints.iter().find(|endpoint| {
        // A zone, as in "[fe80::1%2]:80", means nothing to the other side.
        matches!(endpoint.addresses.first(), Some(EndpointAddress::Tcp(_))) && !endpoint.name.contains('%')
    });
    named.map_or("localhost", |endpoint| &endpoint.name)
}

fn build_actions(config: &Config, errors: &mut Vec<BuildError>) -> Vec<Action> {
    let mut actions = Vec::with_capacity(config.routes.len());
    for (route, plan) in config.routes.iter().enumerate() {
        match &plan.action {
            config::Action::Service(service) => actions.push(Action::Service(*service)),
            config::Action::Fixed(fixed) => {
                let headers: Vec<_> =
                    fixed.headers.iter().map(|field| (&*field.name, &*field.value)).collect();
                let content_type = fixed.content_type.as_deref().unwrap_or_default();
                match Prepared::new(fixed.status, content_type, &headers, &fixed.body) {
                    Ok(prepared) => actions.push(Action::Fixed { status: fixed.status, prepared }),
                    Err(error) => errors.push(BuildError::Fixed { route, error }),
                }
            }
            config::Action::Redirect(redirect) => actions.push(Action::Redirect(redirect.clone())),
            config::Action::Directory(directory) => {
                let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
                match rustix::fs::open(&directory.root, flags, Mode::empty()) {
                    Ok(opened) => {
                        actions.push(Action::Directory(Root { directory: opened, plan: directory.clone() }));
                    }
                    Err(error) => {
                        let path = directory.root.display().to_string();
                        errors.push(BuildError::Directory { route, path, error });
                    }
                }
            }
        }
    }
    actions
}
