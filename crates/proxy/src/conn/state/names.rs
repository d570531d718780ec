//! Listeners and endpoints by name, each once: connections refer to them by number.
//!
//! ```text
//!   count, then each listener:   bits(http, tls)  name  address
//!   count, then each endpoint:   bits(kept, tls)  name of its service  address
//!   count, then each route:      name                                                   (from format 3 on)
//!
//!   address:  0 IPv4(4) port(2) · 1 IPv6(16) port(2) flow scope · 2 path · 3 name in the abstract namespace
//! ```
//!
//! Positions would be shorter, but only names mean the same in two processes. What a listener or service may do is what it
//! says in the generation that serves where the connection goes. An endpoint may be missing there: its service's host name may
//! lead elsewhere by now. Then the connection goes on with a stand-in, to which no other one is made.

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::codec::{Decoder, Encoder};
use super::{Cx, StateError};
use crate::config::{EndpointAddress, ListenAddress, MAX_UNIX_PATH_BYTES};
use crate::conn::LocalListener;
use crate::conn::context::Local;
use crate::generation::{EndpointPlan, ListenerKind};
use crate::upstream::Endpoint;

/// The most listeners, and the most endpoints, that one section names.
const MAX_NAMES: usize = 1 << 20;
/// The longest name of a listener or service.
const MAX_NAME_BYTES: usize = 1024 * 1024;

/// The table while it is made.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// The number by the thread's number of the listener.
    listeners: Vec<Option<u64>>,
    /// The number by the address of the plan, which `endpoint_names` keeps where it is.
    endpoints: HashMap<usize, u64, foldhash::fast::RandomState>,
    /// In the order of their numbers.
    listener_names: Vec<(Arc<str>, ListenAddress, bool, bool)>,
    endpoint_names: Vec<(Arc<EndpointPlan>, bool, bool)>,
    /// The numbers by name of the service: those of endpoints that nobody leads to.
    any: HashMap<Arc<str>, u64, foldhash::fast::RandomState>,
    routes: HashMap<Arc<str>, u64, foldhash::fast::RandomState>,
    route_names: Vec<Arc<str>>,
}

impl Book {
    /// The number of a listener of this thread.
    pub(super) fn listener(&mut self, number: u32, cx: &Cx) -> u64 {
        let place = number as usize;
        if let Some(Some(known)) = self.listeners.get(place) {
            return *known;
        }
        let next = self.listener_names.len() as u64;
        let Some(listener) = cx.listener(number) else { return next };
        let ListenerName { http, tls, .. } = ListenerName::of(listener);
        self.listener_names.push((Arc::clone(&listener.name), listener.address.clone(), http, tls));
        if self.listeners.len() <= place {
            self.listeners.resize(place + 1, None);
        }
        if let Some(entry) = self.listeners.get_mut(place) {
            *entry = Some(next);
        }
        next
    }

    /// The number of an endpoint. `kept`: it is configured, and connections to it are kept. `tls`: they are over TLS, whatever its plan
    /// says: a stand-in has none of the settings with which they began.
    pub(super) fn endpoint(&mut self, plan: &Arc<EndpointPlan>, kept: bool, tls: bool) -> u64 {
        let next = self.endpoint_names.len() as u64;
        *self.endpoints.entry(Arc::as_ptr(plan) as usize).or_insert_with(|| {
            self.endpoint_names.push((Arc::clone(plan), kept, tls));
            next
        })
    }

    /// The number of an endpoint of this service to which nothing leads.
    pub(super) fn any_endpoint(&mut self, service: &Arc<str>) -> u64 {
        let next = self.endpoint_names.len() as u64;
        *self.any.entry(Arc::clone(service)).or_insert_with(|| {
            let plan = stand_in(service, EndpointAddress::Abstract("".into()));
            self.endpoint_names.push((Arc::new(plan), false, false));
            next
        })
    }

    /// The number of a route.
    pub(super) fn route(&mut self, name: &Arc<str>) -> u64 {
        let next = self.route_names.len() as u64;
        *self.routes.entry(Arc::clone(name)).or_insert_with(|| {
            self.route_names.push(Arc::clone(name));
            next
        })
    }

    pub(super) fn write(&self, encoder: &mut Encoder) {
        let listeners = self.listener_names.iter().map(|(name, address, http, tls)| ListenerName {
            name,
            address: Address::from(address),
            http: *http,
            tls: *tls,
        });
        let endpoints = self.endpoint_names.iter().map(|(plan, kept, tls)| EndpointName {
            service: &plan.service,
            address: Address::from(&plan.address),
            kept: *kept,
            tls: *tls,
        });
        let routes = self.route_names.iter().map(|name| &**name).collect();
        Names { listeners: listeners.collect(), endpoints: endpoints.collect(), routes }.write(encoder);
    }
}

/// The table that was read.
#[derive(Debug, Default)]
pub(super) struct Names<'a> {
    pub(super) listeners: Vec<ListenerName<'a>>,
    pub(super) endpoints: Vec<EndpointName<'a>>,
    pub(super) routes: Vec<&'a str>,
}

/// A listener. Whether it is for HTTP, and over TLS, is said so that nothing goes on as something else.
#[derive(Debug)]
pub(super) struct ListenerName<'a> {
    pub(super) name: &'a str,
    pub(super) address: Address<'a>,
    pub(super) http: bool,
    pub(super) tls: bool,
}

/// An endpoint. `kept`: connections to it may carry other requests.
#[derive(Debug)]
pub(super) struct EndpointName<'a> {
    pub(super) service: &'a str,
    pub(super) address: Address<'a>,
    pub(super) kept: bool,
    pub(super) tls: bool,
}

impl<'a> ListenerName<'a> {
    fn of(listener: &'a LocalListener) -> Self {
        let plan = listener.plan();
        Self {
            name: &listener.name,
            address: Address::from(&listener.address),
            http: plan.is_some_and(|plan| !matches!(plan.kind, ListenerKind::Tcp(_))),
            tls: plan.is_some_and(|plan| plan.tls.is_some()),
        }
    }

    /// The listener of this thread that this is.
    fn find(&self, cx: &Cx) -> Result<ListenerPlace, StateError> {
        let is_it = |listener: &LocalListener| {
            !listener.removed
                && *listener.name == *self.name
                && Address::from(&listener.address) == self.address
        };
        let found = cx.listeners.iter().find(|(_, listener)| is_it(listener));
        let found = found.and_then(|(number, listener)| Some((u32::try_from(number).ok()?, listener)));
        let Some((number, listener)) = found else {
            let address = self.address.to_string();
            return Err(StateError::Listener { name: self.name.to_owned(), address });
        };
        let here = ListenerName::of(listener);
        if (here.http, here.tls) != (self.http, self.tls) {
            return Err(StateError::Misfit(format!("the listener {}", self.name)));
        }
        Ok(ListenerPlace { number, local: Rc::clone(&listener.local), position: listener.position })
    }
}

impl EndpointName<'_> {
    /// The service, and the endpoint or a stand-in for it.
    fn find(&self, cx: &Cx) -> Result<EndpointPlace, StateError> {
        let local = cx.local();
        let services = &local.generation.services;
        let Some(service) = services.iter().position(|plan| *plan.name == *self.service) else {
            return Err(StateError::Service(self.service.to_owned()));
        };
        let is_it = |endpoint: &&Rc<Endpoint>| {
            Address::from(&endpoint.plan.address) == self.address && endpoint.plan.tls.is_some() == self.tls
        };
        let mut known = local.balancers.get(service).into_iter().flat_map(|balancer| balancer.endpoints());
        let endpoint = known.find(is_it).filter(|_| self.kept).cloned();
        let endpoint = endpoint.unwrap_or_else(|| {
            // One that is off has a name, and is counted by it.
            let off = local.view.endpoints(service).unwrap_or_default().iter();
            let off = off
                .map(|endpoint| &endpoint.plan)
                .find(|plan| Address::from(&plan.address) == self.address && plan.tls.is_some() == self.tls);
            let plan = off.cloned();
            Rc::new(Endpoint::stand_in(
                plan.unwrap_or_else(|| Arc::new(stand_in(&self.service.into(), self.address.to_endpoint()))),
            ))
        });
        Ok(EndpointPlace { local: Rc::clone(local), service, endpoint })
    }
}

/// For an endpoint that is not configured.
fn stand_in(service: &Arc<str>, address: EndpointAddress) -> EndpointPlan {
    EndpointPlan {
        service: Arc::clone(service),
        name: address.to_string().into(),
        label: address.to_string().into(),
        address,
        tls: None,
        active: AtomicU32::new(0),
    }
}

impl<'a> Names<'a> {
    pub(super) fn write(&self, encoder: &mut Encoder) {
        encoder.number(self.listeners.len() as u64);
        for listener in &self.listeners {
            encoder.bits([listener.http, listener.tls]);
            encoder.bytes(listener.name.as_bytes());
            listener.address.write(encoder);
        }
        encoder.number(self.endpoints.len() as u64);
        for endpoint in &self.endpoints {
            encoder.bits([endpoint.kept, endpoint.tls]);
            encoder.bytes(endpoint.service.as_bytes());
            endpoint.address.write(encoder);
        }
        if encoder.has_waiting() {
            encoder.number(self.routes.len() as u64);
            self.routes.iter().for_each(|name| encoder.bytes(name.as_bytes()));
        }
    }

    pub(super) fn read(decoder: &mut Decoder<'a, '_>) -> Result<Self, StateError> {
        let mut names = Self::default();
        for _ in 0..decoder.small("a table of listeners", MAX_NAMES)? {
            let [http, tls] = decoder.bits("a listener")?;
            let name = decoder.text("the name of a listener", MAX_NAME_BYTES)?;
            names.listeners.push(ListenerName { name, address: Address::read(decoder)?, http, tls });
        }
        for _ in 0..decoder.small("a table of endpoints", MAX_NAMES)? {
            let [kept, tls] = decoder.bits("an endpoint")?;
            let service = decoder.text("the name of a service", MAX_NAME_BYTES)?;
            names.endpoints.push(EndpointName { service, address: Address::read(decoder)?, kept, tls });
        }
        if decoder.has_waiting() {
            for _ in 0..decoder.small("a table of routes", MAX_NAMES)? {
                names.routes.push(decoder.text("the name of a route", MAX_NAME_BYTES)?);
            }
        }
        Ok(names)
    }

    /// Whether connections have the numbers of a listener and of an endpoint that the table has, and are protected as those say.
    pub(super) fn check_listener(&self, number: u64, tls: bool, http: bool) -> Result<(), StateError> {
        let listener = usize::try_from(number).ok().and_then(|number| self.listeners.get(number));
        let Some(listener) = listener else {
            return Err(StateError::Value("the number of a listener"));
        };
        if (listener.http, listener.tls) == (http, tls) {
            return Ok(());
        }
        Err(StateError::Misfit(format!("the listener {}", listener.name)))
    }

    /// The same for an endpoint.
    pub(super) fn check_endpoint(&self, number: u64, tls: bool) -> Result<(), StateError> {
        let endpoint = usize::try_from(number).ok().and_then(|number| self.endpoints.get(number));
        let Some(endpoint) = endpoint else {
            return Err(StateError::Value("the number of an endpoint"));
        };
        if endpoint.tls == tls {
            return Ok(());
        }
        Err(StateError::Misfit(format!(
            "the endpoint {} of the service {}",
            endpoint.address, endpoint.service
        )))
    }

    pub(super) fn places(&self, cx: &Cx) -> Result<Places, StateError> {
        let listeners = self.listeners.iter().map(|listener| listener.find(cx)).collect::<Result<_, _>>()?;
        let endpoints = self.endpoints.iter().map(|endpoint| endpoint.find(cx)).collect::<Result<_, _>>()?;
        // One that does not exist any more has nothing that anybody could ask for.
        let position =
            |name: &&str| cx.local().generation.config.routes.iter().position(|route| *route.name == **name);
        let routes = self.routes.iter().map(position).collect();
        Ok(Places { listeners, endpoints, routes })
    }
}

/// This thread's listeners, services and endpoints, as a section names them.
#[derive(Debug)]
pub(crate) struct Places {
    listeners: Vec<ListenerPlace>,
    endpoints: Vec<EndpointPlace>,
    routes: Vec<Option<usize>>,
}

/// A listener of this thread.
#[derive(Debug, Clone)]
pub(in crate::conn) struct ListenerPlace {
    pub(in crate::conn) number: u32,
    pub(in crate::conn) local: Rc<Local>,
    pub(in crate::conn) position: usize,
}

/// An endpoint, as this thread sees it.
#[derive(Debug, Clone)]
pub(in crate::conn) struct EndpointPlace {
    pub(in crate::conn) local: Rc<Local>,
    pub(in crate::conn) service: usize,
    /// Retired if it only stands in.
    pub(in crate::conn) endpoint: Rc<Endpoint>,
}

impl Places {
    pub(in crate::conn) fn listener(&self, number: u64) -> Result<&ListenerPlace, StateError> {
        let place = usize::try_from(number).ok().and_then(|number| self.listeners.get(number));
        place.ok_or(StateError::Value("the number of a listener"))
    }

    /// Its position in the generation that this thread follows, if it is there.
    pub(in crate::conn) fn route(&self, number: Option<u64>) -> Option<usize> {
        *self.routes.get(usize::try_from(number?).ok()?)?
    }

    pub(in crate::conn) fn endpoint(&self, number: u64) -> Result<&EndpointPlace, StateError> {
        let place = usize::try_from(number).ok().and_then(|number| self.endpoints.get(number));
        place.ok_or(StateError::Value("the number of an endpoint"))
    }
}

/// Where something listens, or is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Address<'a> {
    Tcp(SocketAddr),
    Unix(&'a Path),
    Abstract(&'a str),
}

const V4: u8 = 0;
const V6: u8 = 1;
const UNIX: u8 = 2;
const ABSTRACT: u8 = 3;

impl<'a> Address<'a> {
    fn write(&self, encoder: &mut Encoder) {
        match self {
            Self::Tcp(SocketAddr::V4(address)) => {
                encoder.byte(V4);
                encoder.raw(&address.ip().octets());
                encoder.raw(&address.port().to_be_bytes());
            }
            Self::Tcp(SocketAddr::V6(address)) => {
                encoder.byte(V6);
                encoder.raw(&address.ip().octets());
                encoder.raw(&address.port().to_be_bytes());
                encoder.number(u64::from(address.flowinfo()));
                encoder.number(u64::from(address.scope_id()));
            }
            Self::Unix(path) => {
                encoder.byte(UNIX);
                encoder.bytes(path.as_os_str().as_bytes());
            }
            Self::Abstract(name) => {
                encoder.byte(ABSTRACT);
                encoder.bytes(name.as_bytes());
            }
        }
    }

    fn read(decoder: &mut Decoder<'a, '_>) -> Result<Self, StateError> {
        const WHAT: &str = "an address";
        Ok(match decoder.byte(WHAT)? {
            V4 => {
                let ip = Ipv4Addr::from(decoder.raw::<4>(WHAT)?);
                let port = u16::from_be_bytes(decoder.raw(WHAT)?);
                Self::Tcp(SocketAddr::V4(SocketAddrV4::new(ip, port)))
            }
            V6 => {
                let ip = Ipv6Addr::from(decoder.raw::<16>(WHAT)?);
                let port = u16::from_be_bytes(decoder.raw(WHAT)?);
                let (flow, scope) = (decoder.small(WHAT, u32::MAX)?, decoder.small(WHAT, u32::MAX)?);
                Self::Tcp(SocketAddr::V6(SocketAddrV6::new(ip, port, flow, scope)))
            }
            UNIX => {
                let path = decoder.bytes(WHAT, MAX_UNIX_PATH_BYTES)?;
                Self::Unix(Path::new(std::ffi::OsStr::from_bytes(path)))
            }
            ABSTRACT => Self::Abstract(decoder.text(WHAT, MAX_UNIX_PATH_BYTES)?),
            _ => return Err(StateError::Value(WHAT)),
        })
    }

    fn to_endpoint(self) -> EndpointAddress {
        match self {
            Self::Tcp(address) => EndpointAddress::Tcp(address),
            Self::Unix(path) => EndpointAddress::Unix(PathBuf::from(path)),
            Self::Abstract(name) => EndpointAddress::Abstract(name.into()),
        }
    }
}

impl<'a> From<&'a ListenAddress> for Address<'a> {
    fn from(address: &'a ListenAddress) -> Self {
        match address {
            ListenAddress::Tcp(address) => Self::Tcp(*address),
            ListenAddress::Unix { path, .. } => Self::Unix(path),
            ListenAddress::Abstract(name) => Self::Abstract(name),
        }
    }
}

impl<'a> From<&'a EndpointAddress> for Address<'a> {
    fn from(address: &'a EndpointAddress) -> Self {
        match address {
            EndpointAddress::Tcp(address) => Self::Tcp(*address),
            EndpointAddress::Unix(path) => Self::Unix(path),
            EndpointAddress::Abstract(name) => Self::Abstract(name),
        }
    }
}

/// As [`EndpointAddress`] does.
impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_endpoint().fmt(f)
    }
}
