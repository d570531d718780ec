//! One thread's view of the endpoints: which one is next, the connections it keeps to each, and new ones.
//!
//! ```text
//!              connect                 taken                 response whole, both sides keep
//!   (nothing) ─────────▶ in use ◀──────────────── idle ◀───────────────────────────────── in use
//!                          │                        │
//!                          └──▶ closed ◀────────────┘  the peer closed, sent something unasked, its time is over,
//!                                                      or its endpoint is no longer configured
//! ```
//!
//! Idle connections stay registered with the poller, so that a close by the peer is seen before a request is put on them.
//! Endpoints are known by service and address and survive reloads together with their idle connections.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::{self, Errno};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::clock::Clock;
use crate::config::{Balance, EndpointAddress};
use crate::generation::{EndpointPlan, ServicePlan};
use crate::reactor::{ConnKey, Io, Owner, Reactor};
use crate::traffic::View;

/// For this many ticks (1 s) an endpoint that could not be connected to is passed over, unless all are.
const AVOID_TICKS: u64 = 10;

/// Trouble that stays the same is logged again after so many ticks (1 min).
const SAY_AGAIN_TICKS: u64 = 600;

/// An endpoint, as one thread sees it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) plan: Arc<EndpointPlan>,
    /// Numbers of its idle connections in the pool; the last one is the freshest.
    idle: RefCell<Vec<u32>>,
    /// Tick until which it is passed over.
    avoid_until: Cell<u64>,
    /// No longer configured: its connections are not kept.
    retired: Cell<bool>,
    /// Switched off: it gets nothing new, from those either that began with it.
    off: Cell<bool>,
    /// Why the last handshake failed, and the tick until which that is not said again.
    trouble: RefCell<Option<(Arc<str>, u64)>>,
}

impl Endpoint {
    fn new(plan: Arc<EndpointPlan>) -> Self {
        Self {
            plan,
            idle: RefCell::default(),
            avoid_until: Cell::new(0),
            retired: Cell::new(false),
            off: Cell::new(false),
            trouble: RefCell::default(),
        }
    }

    /// One that is not configured, for a connection that leads to it nevertheless.
    pub(crate) fn stand_in(plan: Arc<EndpointPlan>) -> Self {
        let endpoint = Self::new(plan);
        endpoint.retired.set(true);
        endpoint
    }

    /// True if it is not configured (any more): its connections are not kept.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// A request or tunnel begins on it; `shared`: it is counted for comparison.
    pub(crate) fn begin(&self, shared: bool) {
        if shared {
            self.plan.active.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request or tunnel has ended on it.
    pub(crate) fn finish(&self, shared: bool) {
        if shared {
            self.plan.active.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A TLS handshake with it has ended; `why` it failed. It is logged when it is news, or has not been said for a while.
    pub(crate) fn note_trouble(&self, why: Option<String>, service: &str, clock: &Clock) -> Option<Arc<str>> {
        let mut trouble = self.trouble.borrow_mut();
        let Some(why) = why else {
            if trouble.take().is_some() {
                tracing::info!(service, endpoint = %self.plan.label, "TLS with {} works again", self.plan.label);
            }
            return None;
        };
        let now = clock.tick();
        if let Some((known, until)) = &*trouble
            && **known == *why
            && now < *until
        {
            return Some(Arc::clone(known));
        }
        tracing::warn!(service, endpoint = %self.plan.label, "no TLS with {}: {why}", self.plan.label);
        let why: Arc<str> = why.into();
        *trouble = Some((Arc::clone(&why), now + SAY_AGAIN_TICKS));
        Some(why)
    }

    /// It could not be connected to.
    pub(crate) fn failed(&self, clock: &Clock) {
        self.avoid_until.set(clock.tick() + AVOID_TICKS);
    }
}

/// A service's endpoints, and whose turn it is.
#[derive(Debug)]
pub(crate) struct Balancer {
    endpoints: Vec<Rc<Endpoint>>,
    next: Cell<usize>,
}

impl Balancer {
    /// The endpoint for the next request.
    pub(crate) fn choose(&self, balance: Balance, clock: &Clock) -> Option<Rc<Endpoint>> {
        let count = self.endpoints.len();
        let turn = self.next.get();
        self.next.set(if turn + 1 >= count { 0 } else { turn + 1 });
        let is_on = |endpoint: &&Rc<Endpoint>| !endpoint.off.get();
        if count == 1 {
            return self.endpoints.first().filter(is_on).cloned();
        }
        let now = clock.tick();
        let in_turn =
            || (0..count).filter_map(|step| self.endpoints.get((turn + step) % count)).filter(is_on);
        let well = || in_turn().filter(|endpoint| endpoint.avoid_until.get() <= now);
        let chosen = match balance {
            Balance::RoundRobin => well().next(),
            Balance::LeastConnections => {
                well().min_by_key(|endpoint| endpoint.plan.active.load(Ordering::Relaxed))
            }
        };
        chosen.or_else(|| in_turn().next()).cloned()
    }

    /// All of them.
    pub(crate) fn endpoints(&self) -> &[Rc<Endpoint>] {
        &self.endpoints
    }

    /// How many endpoints there are.
    pub(crate) fn len(&self) -> usize {
        self.endpoints.len()
    }
}

/// A kept connection.
#[derive(Debug)]
struct Idle {
    io: Io,
    endpoint: Rc<Endpoint>,
    /// The tick at which it is closed.
    until: u64,
}

/// A new connection to an endpoint, ready or under way.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) io: Io,
    /// False: the first event on it will say whether the connection was made.
    pub(crate) ready: bool,
}

/// All endpoints of one thread, and its pool.
#[derive(Debug, Default)]
pub(crate) struct Upstreams {
    /// By the address of the plan, which the endpoint keeps alive.
    known: HashMap<usize, Rc<Endpoint>>,
    pool: slab::Slab<Idle>,
}

impl Upstreams {
    /// Follows a new view: one balancer per service. Endpoints that it does not name, or that are off, lose their idle connections.
    pub(crate) fn follow(&mut self, view: &View, first_turn: usize, reactor: &mut Reactor) -> Vec<Balancer> {
        let mut known = HashMap::with_capacity(self.known.len());
        let mut one = |plan: &Arc<EndpointPlan>| {
            let key = Arc::as_ptr(plan) as usize;
            let endpoint = self
                .known
                .remove(&key)
                .or_else(|| known.get(&key).cloned())
                .unwrap_or_else(|| Rc::new(Endpoint::new(Arc::clone(plan))));
            known.insert(key, Rc::clone(&endpoint));
            endpoint
        };
        let mut off = Vec::new();
        let mut balancers = Vec::with_capacity(view.generation.services.len());
        for (position, service) in view.generation.services.iter().enumerate() {
            let endpoints: Vec<_> = match view.endpoints(position) {
                None => service.endpoints.iter().map(&mut one).collect(),
                Some(endpoints) => {
                    off.extend(
                        endpoints.iter().filter(|endpoint| !endpoint.on).map(|endpoint| &endpoint.plan),
                    );
                    endpoints
                        .iter()
                        .filter(|endpoint| endpoint.on)
                        .map(|endpoint| one(&endpoint.plan))
                        .collect()
                }
            };
            let next = Cell::new(first_turn % endpoints.len().max(1));
            balancers.push(Balancer { endpoints, next });
        }
        let mut gone = std::mem::replace(&mut self.known, known);
        for plan in off {
            if let Some(endpoint) = gone.get(&(Arc::as_ptr(plan) as usize)) {
                endpoint.off.set(true);
            }
        }
        for (_, endpoint) in gone.drain() {
            endpoint.retired.set(true);
            for number in endpoint.idle.take() {
                self.close_idle(number, reactor);
            }
        }
        balancers
    }

    /// Takes the freshest idle connection to an endpoint for `key`, if there is one that is still good.
    pub(crate) fn take_idle(
        &mut self,
        endpoint: &Endpoint,
        key: ConnKey,
        reactor: &mut Reactor,
    ) -> Option<Io> {
        loop {
            let number = endpoint.idle.borrow_mut().pop()?;
            let Some(idle) = self.pool.try_remove(number as usize) else { continue };
            if !reactor.is_quiet(&idle.io) {
                // It was closed, or says something that nobody asked for.
                reactor.close(idle.io);
                continue;
            }
            reactor.set_owner(&idle.io, Owner::Conn(key));
            return Some(idle.io);
        }
    }

    /// Keeps a connection for a later request, or closes it if there are enough.
    pub(crate) fn give_back(
        &mut self,
        endpoint: &Rc<Endpoint>,
        io: Io,
        service: &ServicePlan,
        clock: &Clock,
        reactor: &mut Reactor,
    ) {
        self.keep(endpoint, io, service, clock.after(service.idle_limit), reactor);
    }

    /// Keeps a connection until a tick, or closes it if there are enough.
    pub(crate) fn keep(
        &mut self,
        endpoint: &Rc<Endpoint>,
        io: Io,
        service: &ServicePlan,
        until: u64,
        reactor: &mut Reactor,
    ) {
        let enough = endpoint.idle.borrow().len() >= service.keep_idle;
        if enough || endpoint.retired.get() || !reactor.is_quiet(&io) {
            reactor.close(io);
            return;
        }
        let entry = self.pool.vacant_entry();
        let Ok(number) = u32::try_from(entry.key()) else {
            reactor.close(io);
            return;
        };
        reactor.set_owner(&io, Owner::Idle(number));
        endpoint.idle.borrow_mut().push(number);
        entry.insert(Idle { io, endpoint: Rc::clone(endpoint), until });
    }

    /// All idle connections: numbers in the pool, sockets, endpoints, and the ticks at which they are closed.
    pub(crate) fn idle(&self) -> impl Iterator<Item = (usize, &Io, &Rc<Endpoint>, u64)> {
        self.pool.iter().map(|(number, idle)| (number, &idle.io, &idle.endpoint, idle.until))
    }

    /// An idle connection goes on in another process: it is closed here without a word.
    pub(crate) fn let_go(&mut self, number: usize, reactor: &mut Reactor) {
        let Some(idle) = self.pool.try_remove(number) else { return };
        idle.endpoint.idle.borrow_mut().retain(|other| *other as usize != number);
        reactor.discard(idle.io);
    }

    /// Something happened on an idle connection: whatever it is, it is of no use any more.
    pub(crate) fn idle_event(&mut self, number: u32, reactor: &mut Reactor) {
        let Some(idle) = self.pool.get(number as usize) else { return };
        if !reactor.is_quiet(&idle.io) {
            idle.endpoint.idle.borrow_mut().retain(|other| *other != number);
            self.close_idle(number, reactor);
        }
    }

    /// Closes what has been idle for too long.
    pub(crate) fn sweep(&mut self, clock: &Clock, reactor: &mut Reactor) {
        let now = clock.tick();
        let over: Vec<usize> =
            self.pool.iter().filter(|(_, idle)| idle.until <= now).map(|(n, _)| n).collect();
        for number in over {
            let Some(idle) = self.pool.try_remove(number) else { continue };
            idle.endpoint.idle.borrow_mut().retain(|other| *other as usize != number);
            reactor.close(idle.io);
        }
    }

    /// Idle connections of this thread.
    pub(crate) fn idle_count(&self) -> usize {
        self.pool.len()
    }

    fn close_idle(&mut self, number: u32, reactor: &mut Reactor) {
        if let Some(idle) = self.pool.try_remove(number as usize) {
            reactor.close(idle.io);
        }
    }
}

/// Begins a connection to an endpoint.
///
/// # Errors
/// The system's: refused at once, no descriptors left, no such Unix socket.
pub(crate) fn connect(endpoint: &Endpoint, key: ConnKey, reactor: &mut Reactor) -> io::Result<Connected> {
    let (fd, ready) = match &endpoint.plan.address {
        EndpointAddress::Tcp(address) => connect_tcp(*address)?,
        EndpointAddress::Unix(path) => connect_unix(&SocketAddrUnix::new(path.as_path())?)?,
        EndpointAddress::Abstract(name) => {
            connect_unix(&SocketAddrUnix::new_abstract_name(name.as_bytes())?)?
        }
    };
    let io = if ready {
        let io = reactor.adopt(fd, Owner::Conn(key), false);
        match reactor.register(&io) {
            Ok(()) => io,
            Err(errno) => {
                reactor.close(io);
                return Err(errno);
            }
        }
    } else {
        reactor.adopt_connecting(fd, Owner::Conn(key))?
    };
    Ok(Connected { io, ready })
}

fn connect_tcp(address: SocketAddr) -> io::Result<(OwnedFd, bool)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    match net::connect(&fd, &address) {
        Ok(()) => Ok((fd, true)),
        Err(Errno::INPROGRESS | Errno::INTR) => Ok((fd, false)),
        Err(errno) => Err(errno),
    }
}

fn connect_unix(address: &SocketAddrUnix) -> io::Result<(OwnedFd, bool)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // A Unix socket connects at once, or says EAGAIN when the peer's queue is full: that is a failure.
    net::connect(&fd, address)?;
    Ok((fd, true))
}

/// How a connect ended; `None` if it is still under way.
pub(crate) fn connect_result(io: &Io, reactor: &Reactor) -> Option<Result<(), Errno>> {
    if !reactor.is_writable(io) && !reactor.is_broken(io) {
        return None;
    }
    Some(sockopt::socket_error(io).unwrap_or_else(Err))
}
