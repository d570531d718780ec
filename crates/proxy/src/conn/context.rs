//! What a connection may use while it runs: everything of its thread except the table of connections.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;

use crate::access_log::AccessLog;
use crate::buffers::Buffers;
use crate::clock::Clock;
use crate::config::ListenAddress;
use crate::event_loop::{Burst, Socket};
use crate::generation::{Generation, ListenerPlan};
use crate::metrics::{ListenerCells, Metrics, ThreadCells};
use crate::reactor::Reactor;
use crate::traffic::{Holding, Published, View};
use crate::upstream::{Balancer, Upstreams};

/// A generation as one thread uses it. Requests keep the one they began with.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) view: Arc<View>,
    pub(crate) generation: Arc<Generation>,
    /// By position of the service.
    pub(crate) balancers: Vec<Balancer>,
}

/// A listening socket, as one thread sees it.
#[derive(Debug)]
pub(crate) struct LocalListener {
    pub(crate) name: Arc<str>,
    pub(crate) address: ListenAddress,
    /// Tells the socket from all others, of the past too.
    pub(crate) serial: u64,
    /// `None` once it is closed.
    pub(crate) socket: Option<Arc<OwnedFd>>,
    /// Connections open on all sockets of this name, over all threads.
    pub(crate) open_everywhere: Arc<AtomicU32>,
    /// Its slot in the poller while it accepts.
    pub(crate) watched: Option<u32>,
    /// How many connections were accepted at once, and when.
    pub(crate) burst: Cell<Burst>,
    /// Connections of this thread that came in here.
    pub(crate) open: Cell<u32>,
    /// The last generation that has it, and its position there.
    pub(crate) local: Rc<Local>,
    pub(crate) position: usize,
    /// No generation has it any more: what is open ends by itself.
    pub(crate) removed: bool,
    /// Removed, and none of its connections is on its way from another thread any more.
    pub(crate) settled: bool,
    /// Removed: what is open then is cut.
    pub(crate) cut_at: Option<u64>,
}

impl LocalListener {
    /// A socket that does not accept yet.
    pub(crate) fn new(socket: &Socket, local: Rc<Local>, position: usize) -> Self {
        Self {
            name: Arc::clone(&socket.name),
            address: socket.address.clone(),
            serial: socket.serial,
            socket: Some(Arc::clone(&socket.fd)),
            open_everywhere: Arc::clone(&socket.open),
            watched: None,
            burst: Cell::default(),
            open: Cell::new(0),
            local,
            position,
            removed: false,
            settled: false,
            cut_at: None,
        }
    }

    /// What its connections may do.
    pub(crate) fn plan(&self) -> Option<&ListenerPlan> {
        self.local.generation.listeners.get(self.position)
    }

    /// Finds itself in a newer generation, which may no longer have it.
    pub(crate) fn follow(&mut self, local: &Rc<Local>) {
        let position = local.generation.listener_at(&self.name, &self.address);
        let alike = position.filter(|position| {
            let (new, old) = (local.generation.listeners.get(*position), self.plan());
            new.zip(old).is_some_and(|(new, old)| new.is_like(old))
        });
        match alike {
            Some(position) if !self.removed => {
                self.local = Rc::clone(local);
                self.position = position;
            }
            _ => self.removed = true,
        }
    }
}

/// One thread's belongings.
#[derive(Debug)]
pub(crate) struct Cx {
    pub(crate) thread: usize,
    pub(crate) reactor: Reactor,
    pub(crate) buffers: Buffers,
    pub(crate) clock: Clock,
    pub(crate) upstreams: Upstreams,
    pub(crate) listeners: slab::Slab<LocalListener>,
    pub(crate) log: AccessLog,
    pub(crate) metrics: Arc<Metrics>,
    /// Text of the supervisor's own metrics, for the metrics listener.
    pub(crate) facts: Arc<ArcSwap<String>>,
    /// The server drains: every response is the last on its connection.
    pub(crate) draining: bool,
    /// Whoever takes connections over understands those that wait for an endpoint.
    pub(crate) gives_waiting: bool,
    /// Everything is cut now: nothing begins any more.
    pub(crate) closing: bool,
    /// The tick in which log lines were handed on last.
    pub(crate) log_tick: u64,
    /// It is the turn of the connection that runs now to compute something long.
    pub(crate) may_step: bool,
    /// What is held on this thread.
    pub(crate) holding: Holding,
    published: Cache<Arc<ArcSwap<View>>, Arc<View>>,
    local: Rc<Local>,
}

impl Cx {
    /// The belongings of thread number `thread`.
    pub(crate) fn new(
        thread: usize,
        reactor: Reactor,
        published: &Published,
        metrics: Arc<Metrics>,
        facts: Arc<ArcSwap<String>>,
        log: AccessLog,
    ) -> Self {
        let published = published.cache();
        // Not what is published by now: that is followed like any other.
        let view = Arc::new(View::nothing());
        let generation = Arc::clone(&view.generation);
        Self {
            thread,
            reactor,
            buffers: Buffers::default(),
            clock: Clock::new(),
            upstreams: Upstreams::default(),
            listeners: slab::Slab::new(),
            log,
            metrics,
            facts,
            draining: false,
            gives_waiting: false,
            closing: false,
            log_tick: 0,
            may_step: false,
            holding: Holding::default(),
            published,
            local: Rc::new(Local { view, generation, balancers: Vec::new() }),
        }
    }

    /// This thread's own counters.
    pub(crate) fn cells(&self) -> &ThreadCells {
        self.metrics.by_thread.of(self.thread)
    }

    /// True if the connection that runs now may take one step of a TLS handshake, which costs as much as hundreds of requests; otherwise
    /// it says [`super::Fate::Later`] and is run again when it may.
    pub(crate) fn takes_step(&mut self) -> bool {
        std::mem::take(&mut self.may_step)
    }

    /// The counters of a connection's listener.
    pub(crate) fn listener_cells(&self, number: u32) -> Option<&ListenerCells> {
        Some(self.listener(number)?.plan()?.cells.of(self.thread))
    }

    /// Follows the generation that is published at this very moment: what [`Cx::listener`] gives afterwards is of that one. What it
    /// costs if nothing changed is one load and one comparison.
    #[inline]
    pub(crate) fn refresh(&mut self) {
        let published = self.published.load();
        if !Arc::ptr_eq(published, &self.local.view) {
            let published = Arc::clone(published);
            self.switch(published);
        }
    }

    /// The generation that this thread follows.
    pub(crate) fn local(&self) -> &Rc<Local> {
        &self.local
    }

    #[cold]
    fn switch(&mut self, view: Arc<View>) {
        let balancers = self.upstreams.follow(&view, self.thread, &mut self.reactor);
        let generation = Arc::clone(&view.generation);
        let dropped = self.log.follow(&generation.config.log);
        self.cells().log_dropped.add(dropped);
        self.local = Rc::new(Local { view, generation, balancers });
        for (_, listener) in &mut self.listeners {
            listener.follow(&self.local);
        }
    }

    /// The listener of a connection.
    pub(crate) fn listener(&self, number: u32) -> Option<&LocalListener> {
        self.listeners.get(number as usize)
    }

    /// Counts a connection out of its listener.
    pub(crate) fn leave_listener(&mut self, number: u32) {
        let Some(listener) = self.listeners.get(number as usize) else { return };
        listener.open_everywhere.fetch_sub(1, Ordering::Relaxed);
        if let Some(plan) = listener.plan() {
            plan.cells.of(self.thread).open.sub(1);
        }
        self.leave_thread(number);
    }

    /// A connection of this listener is not on this thread any more.
    pub(crate) fn leave_thread(&mut self, number: u32) {
        let Some(listener) = self.listeners.get(number as usize) else { return };
        listener.open.set(listener.open.get().saturating_sub(1));
        if listener.settled && listener.open.get() == 0 {
            self.listeners.remove(number as usize);
        }
    }
}
