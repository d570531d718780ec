//! What a running server gets from the library.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::RuntimeFlavor;
use tokio::sync::watch;

use super::movable::Exit;
use super::track::{Tracked, Tracker};
use crate::drain::Drain;
use crate::types::{Address, ListenerSpec};

/// The server's line to the library: its listeners, readiness, and the drain. Clones are cheap and the same.
///
/// It belongs to one *run*: one call of the closure given to [`crate::Server::run`]. After a drain that was taken
/// back (`handover resume`) the closure is called again, with a new one.
#[derive(Clone)]
pub struct Context {
    shared: Arc<Shared>,
}

struct Shared {
    listeners: Mutex<Arc<Listeners>>,
    draining: watch::Sender<bool>,
    /// The way to the worker that serves now, once this one does not.
    exit: watch::Sender<Option<Arc<Exit>>>,
    tracker: Tracker,
    state: Mutex<State>,
    changed: Condvar,
}

/// What a server listens on, by the name that it gave.
pub(crate) type Listeners = BTreeMap<String, (ListenerSpec, OwnedFd)>;

#[derive(Debug, Default)]
struct State {
    ready: bool,
    /// Another worker serves: who asks for a listener waits.
    shut: bool,
    /// The run is being dropped, and nothing will ever come.
    cut: bool,
    /// Set once the server's future is over: what it returned.
    ended: Option<Result<(), String>>,
    /// Told when the run ends.
    drain: Option<Drain>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("draining", &self.is_draining()).finish_non_exhaustive()
    }
}

impl Context {
    /// `shut`: another worker serves as yet.
    pub(crate) fn new(listeners: Arc<Listeners>, shut: bool) -> Self {
        let shared = Shared {
            listeners: Mutex::new(listeners),
            draining: watch::Sender::new(false),
            exit: watch::Sender::new(None),
            tracker: Tracker::default(),
            state: Mutex::new(State { shut, ..State::default() }),
            changed: Condvar::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The TCP listener of this name, ready to accept. The supervisor holds it too: it stays open, and keeps its
    /// queue of waiting connections, whatever happens to this process.
    ///
    /// In the worker of a new binary this call waits until the old one has handed over. What a server needs before it can
    /// serve should therefore be done before it asks for its first listener.
    ///
    /// # Errors
    /// When no listener has this name, or it is a Unix socket.
    pub fn listener(&self, name: &str) -> io::Result<tokio::net::TcpListener> {
        let (spec, socket) = self.find(name)?;
        if !matches!(spec.address, Address::Tcp(_)) {
            return Err(unfit(name, "a Unix socket, and a TCP address is needed"));
        }
        let listener = std::net::TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    }

    /// The Unix listener of this name, ready to accept.
    ///
    /// # Errors
    /// When no listener has this name, or it is a TCP socket.
    pub fn unix_listener(&self, name: &str) -> io::Result<tokio::net::UnixListener> {
        let (spec, socket) = self.find(name)?;
        if matches!(spec.address, Address::Tcp(_)) {
            return Err(unfit(name, "a TCP address, and a Unix socket is needed"));
        }
        let listener = std::os::unix::net::UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener)
    }

    fn find(&self, name: &str) -> io::Result<(ListenerSpec, OwnedFd)> {
        self.wait_open()?;
        match self.listeners().get(name) {
            Some((spec, socket)) => Ok((spec.clone(), socket.try_clone()?)),
            None => Err(unfit(name, "not declared: call `Server::listener` first")),
        }
    }

    /// Ends when the server should stop accepting and let what is in flight end: for
    /// `axum::serve(…).with_graceful_shutdown(cx.draining())`, or one arm of a `select!`.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut draining = self.shared.draining.subscribe();
        async move {
            // The sender lives in the context; if even that is gone the run is over, which is no other answer.
            let _ = draining.wait_for(|draining| *draining).await;
        }
    }

    /// Whether [`Context::draining`] has ended.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.shared.draining.borrow()
    }

    /// Counts as one open connection of this kind (`tcp`, `websocket` …) until the guard is dropped. A drain waits
    /// for it, and reports it as cut if its deadline passes first.
    pub fn track(&self, kind: &'static str) -> Tracked {
        self.shared.tracker.track(kind)
    }

    /// Says that the server is ready. Only needed with [`crate::Server::ready_when_told`].
    pub fn ready(&self) {
        self.lock().ready = true;
        self.shared.changed.notify_all();
    }

    /// Waits until this worker is to serve. To have come here is to be ready.
    fn wait_open(&self) -> io::Result<()> {
        if !self.lock().shut {
            return Ok(());
        }
        self.ready();
        let wait = || {
            let shut = |state: &mut State| state.shut && !state.cut;
            let state =
                self.shared.changed.wait_while(self.lock(), shut).unwrap_or_else(PoisonError::into_inner);
            if state.shut { Err(io::Error::other("this worker ends, and never served")) } else { Ok(()) }
        };
        // The runtime's other tasks go on meanwhile, even if it has one thread only.
        match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
            _ => wait(),
        }
    }

    /// This worker serves.
    pub(crate) fn open(&self) {
        self.lock().shut = false;
        self.shared.changed.notify_all();
    }

    /// Nobody waits for this run any more.
    pub(crate) fn cut(&self) {
        self.lock().cut = true;
        self.shared.changed.notify_all();
    }

    /// Another worker serves: stop accepting, and move there what can.
    pub(crate) fn move_out(&self, exit: &Arc<Exit>) {
        self.shared.exit.send_replace(Some(Arc::clone(exit)));
        self.shared.draining.send_replace(true);
    }

    /// Ends when another worker serves, with the way there.
    pub(crate) async fn exit(&self) -> Arc<Exit> {
        let mut exit = self.shared.exit.subscribe();
        loop {
            if let Some(exit) = exit.borrow_and_update().clone() {
                return exit;
            }
            // The sender lives in the context, which is borrowed.
            if exit.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Lets go of the library's copies of the sockets. The server's own are its own affair.
    pub(crate) fn close_listeners(&self) {
        *self.listeners() = Arc::default();
    }

    fn listeners(&self) -> MutexGuard<'_, Arc<Listeners>> {
        self.shared.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tracker(&self) -> &Tracker {
        &self.shared.tracker
    }

    /// The server's future is over.
    pub(crate) fn end(&self, result: Result<(), String>) {
        let mut state = self.lock();
        state.ended = Some(result);
        if let Some(drain) = &state.drain {
            drain.progress(self.shared.tracker.total());
        }
        self.shared.changed.notify_all();
    }

    /// Waits until the server said that it is ready, or is over; `None` if neither happened within `limit`.
    pub(crate) fn wait_ready(&self, limit: Duration) -> Option<Result<(), String>> {
        let state = self.lock();
        let waiting = |state: &mut State| !state.ready && state.ended.is_none();
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, limit, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        match &state.ended {
            Some(Err(error)) => Some(Err(error.clone())),
            Some(Ok(())) => Some(Err("it ended as soon as it began".to_owned())),
            None => state.ready.then_some(Ok(())),
        }
    }

    /// Asks the server to stop, and lets `drain` hear of every connection that ends and of its own end.
    pub(crate) fn begin_drain(&self, drain: &Drain) {
        self.lock().drain = Some(drain.clone());
        self.shared.tracker.report_to(drain);
        self.shared.draining.send_replace(true);
    }

    /// True when the server's future is over and nothing that it tracked is open.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().ended.is_some() && self.shared.tracker.total() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unfit(name: &str, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("listener {name:?} is {why}"))
}
