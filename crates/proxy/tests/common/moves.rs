//! Connections move from one data plane to another in the same process, over nothing but calls.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use handover::moving::{Counts, Frozen, FrozenView, Lost, Moving, Outlet, Sink};
use handover::{Losses, Service as _};
use handover_proxy::ProxyService;
use handover_testkit::config::patient;
use handover_testkit::crowd::{self, Crowd};
use handover_testkit::echo::Echo;
use handover_testkit::http::Connection;
use handover_testkit::origin::Origin;
use handover_testkit::{Authority, DEADLINE, TlsClient, Workspace};

use super::{Plane, to_endpoints};

type Wakes = Arc<Mutex<Vec<Arc<dyn Fn() + Send + Sync>>>>;

/// Gives everything to the other one at once, for as long as that takes it.
struct Direct {
    to: Arc<ProxyService>,
    format: u16,
    ended: Arc<AtomicBool>,
    wakes: Wakes,
}

fn copies(sockets: &[BorrowedFd<'_>]) -> Vec<std::os::fd::OwnedFd> {
    sockets.iter().map(|socket| socket.try_clone_to_owned().unwrap()).collect()
}

impl Sink for Direct {
    fn sockets(&self, thread: u32, first: u64, sockets: &[BorrowedFd<'_>]) -> Result<(), Lost> {
        if self.has_ended() {
            return Err(Lost::Ended);
        }
        self.to.sockets(thread, first, copies(sockets));
        Ok(())
    }

    fn late(&self, thread: u32, state: &[u8], sockets: &[BorrowedFd<'_>]) -> Result<(), Lost> {
        if self.has_ended() {
            return Err(Lost::Ended);
        }
        self.to.late(self.format, thread, state, copies(sockets));
        Ok(())
    }

    fn may_send(&self) -> bool {
        !self.has_ended()
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn notify(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.wakes.lock().unwrap().push(wake);
    }
}

/// A move that has begun: sockets have gone ahead.
pub(crate) struct Move {
    from: Arc<ProxyService>,
    to: Arc<ProxyService>,
    format: u16,
    outlet: Arc<Outlet>,
    ended: Arc<AtomicBool>,
    wakes: Wakes,
}

/// A move that is committed: what is left ends on the giver, or comes late.
pub(crate) struct Committed {
    pub(crate) moved: Counts,
    /// Bytes of all states.
    pub(crate) bytes: usize,
    going: Move,
    drain: handover::Drain,
    drains: JoinHandle<Losses>,
}

impl Move {
    pub(crate) fn begin(from: &Plane, to: &Plane) -> Self {
        let (from, to) = (Arc::clone(&from.service), Arc::clone(&to.service));
        let format = *from.formats().end().min(to.formats().end());
        let (ended, wakes) = (Arc::new(AtomicBool::new(false)), Wakes::default());
        let direct =
            Direct { to: Arc::clone(&to), format, ended: Arc::clone(&ended), wakes: Arc::clone(&wakes) };
        let outlet = Outlet::new(Box::new(direct));
        from.precopy(&outlet, format);
        Self { from, to, format, outlet, ended, wakes }
    }

    pub(crate) fn freeze(&self) -> Frozen {
        self.from.freeze().unwrap()
    }

    /// It is called off; the other one would be killed now.
    pub(crate) fn thaw(self) {
        self.end();
        self.from.thaw();
    }

    /// Nothing can be sent any more.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.wakes.lock().unwrap().iter().for_each(|wake| wake());
    }

    /// Goes through with it.
    #[track_caller]
    pub(crate) fn commit(self) -> Committed {
        let frozen = self.freeze();
        let bytes = frozen.sections.iter().map(|section| section.bytes.len()).sum();
        let moved = frozen.moved.clone();
        let adopted = self.to.adopt(self.format, FrozenView::from(frozen)).unwrap();
        assert_eq!(adopted, moved);
        self.to.serve();
        self.from.release();
        let service = Arc::clone(&self.from);
        let drain = handover::Drain::new(DEADLINE);
        let its = drain.clone();
        let drains = std::thread::spawn(move || service.drain(&its));
        Committed { moved, bytes, going: self, drain, drains }
    }
}

impl Committed {
    /// The move itself.
    pub(crate) fn going(&self) -> &Move {
        &self.going
    }

    /// Nothing comes late any more, and what is left at the giver does not end either: everything goes back to it.
    pub(crate) fn call_off_the_rest(self) {
        self.going.end();
        self.drain.end(handover::DrainEnd::Resumed);
        self.drains.join().unwrap();
    }

    /// Waits until the giver has nothing left.
    #[track_caller]
    pub(crate) fn finish(self) -> Counts {
        let losses = self.drains.join().unwrap();
        assert_eq!(losses, Losses::default());
        self.going.end();
        self.going.to.add_totals(&self.going.from.totals());
        drop(self.going.outlet);
        self.moved
    }
}

/// Moves everything; says what moved in the freeze.
#[track_caller]
pub(crate) fn hand_over(from: &Plane, to: &Plane) -> Counts {
    Move::begin(from, to).commit().finish()
}

/// All kinds of listeners, an origin and an echo behind them.
pub(crate) struct Scene {
    pub(crate) root: Authority,
    pub(crate) origin: Origin,
    _echo: Echo,
    pub(crate) planes: [Plane; 2],
}

impl Scene {
    pub(crate) fn new(threads: [usize; 2]) -> Self {
        Self::with(threads, "")
    }

    /// `routes` are more of them, before the one to the origin.
    pub(crate) fn with(threads: [usize; 2], routes: &str) -> Self {
        let root = Authority::new("root");
        let workspace = Workspace::new();
        root.pair(&["a.test"]).write(&workspace, "a");
        let (origin, echo) = (Origin::start("one"), Echo::start());
        let tls =
            |name: &str| format!("[listeners.{name}.tls]\ncertificate = \"a.pem\"\nkey = \"a.key\"\n\n");
        let config = [
            "[listeners.web]\naddress = \"127.0.0.1:0\"\n\n",
            &patient("web"),
            "[listeners.secure]\naddress = \"127.0.0.1:0\"\n\n",
            &tls("secure"),
            &patient("secure"),
            "[listeners.raw]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nservice = \"echo\"\n\n",
            "[listeners.sealed]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nservice = \"echo\"\n\n",
            &tls("sealed"),
            &format!("[services.echo]\nendpoints = \"{}\"\n\n", echo.address()),
            routes,
            &to_endpoints(&[origin.address()], ""),
        ]
        .concat();
        let first = Plane::serve_in(workspace, threads[0], &config);
        let second = first.candidate(threads[1]);
        Self { root, origin, _echo: echo, planes: [first, second] }
    }

    pub(crate) fn plain(&self, listener: &str) -> Connection {
        self.planes[0].connect(listener)
    }

    pub(crate) fn client(&self) -> TlsClient {
        TlsClient::trusting(self.root.pem(), "a.test")
    }

    pub(crate) fn secure(&self, listener: &str) -> Connection {
        self.client().connect(self.planes[0].address(listener)).connection
    }

    pub(crate) fn tls12(&self, listener: &str) -> Connection {
        self.client().only_tls12().connect(self.planes[0].address(listener)).connection
    }

    /// Clients of every kind, over all versions of TLS and without it.
    pub(crate) fn crowd(&self) -> Crowd {
        let mut crowd = Crowd::new();
        crowd.add("keep-alive", crowd::keep_alive(self.plain("web"), false));
        crowd.add("keep-alive, TLS 1.3", crowd::keep_alive(self.secure("secure"), true));
        crowd.add("keep-alive, TLS 1.2", crowd::keep_alive(self.tls12("secure"), false));
        crowd.add("fresh", crowd::fresh(self.planes[0].address("web"), None));
        crowd.add("fresh, TLS", crowd::fresh(self.planes[0].address("secure"), Some(self.client())));
        crowd.add("WebSocket", crowd::websocket(self.plain("web"), false));
        crowd.add("WebSocket, TLS", crowd::websocket(self.secure("secure"), true));
        crowd.add("tunnel", crowd::tunnel(self.plain("raw"), false));
        crowd.add("tunnel, TLS 1.3", crowd::tunnel(self.secure("sealed"), true));
        crowd.add("tunnel, TLS 1.2", crowd::tunnel(self.tls12("sealed"), false));
        crowd.add("download", crowd::download(self.plain("web"), false));
        crowd.add("download, TLS", crowd::download(self.secure("secure"), true));
        crowd.add("upload", crowd::upload(self.plain("web"), false));
        crowd.add("upload, TLS", crowd::upload(self.secure("secure"), true));
        crowd
    }

    pub(crate) fn total(&self, plane: usize, metric: &str) -> u64 {
        self.planes[plane].metric(metric)
    }
}
