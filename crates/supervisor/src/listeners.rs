//! The listening sockets, held by this process from generation to generation.
//!
//! ```text
//!                    bind                      serve
//!   (nothing) ──────────────▶ of a candidate ─────────▶ of the generation that serves
//!       ▲                          │ release                 │ the next one serves
//!       │                          │                         ▼
//!       └──────────────────────────┴───────────────────── kept: rests until the change is final
//!         closed, and its path unlinked        let go        (serve again: it listens again)
//! ```
//!
//! As long as a change may be taken back, what only the generation before it had is **kept**, so that going back cannot
//! fail for want of a port. Clients must be refused meanwhile and not left waiting: a TCP socket of ours *rests*.
//! shutdown(2) ends its listening and keeps its port; listen(2) begins again. (Tried on Linux only. For the port
//! to be kept it must have been asked for by its number in bind(2), which [`sockets::listen_tcp`] sees to, and
//! `SO_REUSEADDR` must be off meanwhile, or another process could listen there.) A Unix socket cannot listen again after a
//! shutdown, and one from the service manager is also the manager's: whoever connects to these waits.
//!
//! A socket that several of them need (the serving generation, a candidate, the one after a crash) is one
//! socket, held by all of them, and closed when the last lets go. So a generation that fails to bind a port takes none
//! away from the one that serves, and a port that stays is never without its queue of connections.
//!
//! Sockets that the service manager passed are used by the generations that name them (`passed.rs`).

mod saving;
mod sharing;

use std::collections::{BTreeMap, HashSet};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use handover_api::ListenerStatus;
use handover_handoff::inherit::Inherited;
use handover_lifecycle::CandidateKey;
use rustix::io::Errno;

use crate::passed::{Passed, passed_for};
use crate::protocol::{Address, BindResult, ListenerSpec};
use crate::sockets::{self, SocketFile, Unbound};

pub(crate) use saving::Unpacked;

/// One listening socket. Dropping the last reference closes this process's descriptor and unlinks its path.
#[derive(Debug)]
pub(crate) struct Held {
    /// As it was asked for.
    spec: ListenerSpec,
    /// The socket, shared with messages that are on their way to a worker.
    pub(crate) socket: Arc<OwnedFd>,
    /// Where it really listens: the port that the kernel chose, for port 0.
    actual: String,
    file: Option<SocketFile>,
    inherited: bool,
    /// Whether it was told not to listen.
    rests: AtomicBool,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            file.remove();
        }
    }
}

impl Held {
    fn new(spec: ListenerSpec, socket: Arc<OwnedFd>, file: Option<SocketFile>, inherited: bool) -> Arc<Self> {
        let actual = sockets::local_address(&socket).unwrap_or_else(|| spec.address.to_string());
        Arc::new(Held { spec, socket, actual, file, inherited, rests: AtomicBool::new(false) })
    }

    /// One that the service manager passed: its own, or, out of its store, one of an earlier supervisor's.
    fn passed(spec: ListenerSpec, passed: &Passed) -> Arc<Self> {
        let file = passed.file(&spec);
        Self::new(spec, passed.socket.clone(), file, !passed.is_stored())
    }

    /// Refuses connections from now on, and keeps its port.
    fn rest(&self) {
        if self.inherited
            || !matches!(self.spec.address, Address::Tcp(_))
            || self.rests.swap(true, Ordering::Relaxed)
        {
            return;
        }
        if let Err(error) = sockets::rest(&*self.socket) {
            tracing::warn!("{} cannot refuse connections meanwhile: {error}", self.actual);
        }
    }

    /// Listens again, if it rests.
    fn wake(&self, backlog: u32) -> std::io::Result<()> {
        if self.rests.load(Ordering::Relaxed) {
            sockets::wake(&*self.socket, backlog)?;
            self.rests.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether this is the socket for `spec`. With port 0 the kernel's choice is kept for as long as the name is.
    fn fits(&self, spec: &ListenerSpec) -> bool {
        match &self.spec.address {
            Address::Tcp(address) if address.port() == 0 => {
                self.spec.name == spec.name && self.spec.address == spec.address
            }
            address => address.is_same_place(&spec.address),
        }
    }
}

/// One answer to a worker's need: the result, and the socket if there is one.
pub(crate) type Binding = (BindResult, Option<(ListenerSpec, Arc<Held>)>);

/// All listening sockets.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    serving: Vec<(ListenerSpec, Arc<Held>)>,
    candidates: BTreeMap<CandidateKey, Vec<(ListenerSpec, Arc<Held>)>>,
    /// Of the generation before, as long as it may have to serve again.
    kept: Vec<(ListenerSpec, Arc<Held>)>,
    passed: Arc<[Arc<Passed>]>,
}

impl Listeners {
    /// With what the service manager passed.
    pub(crate) fn new(inherited: Vec<Inherited>) -> Self {
        let passed = inherited.into_iter().map(Passed::new).map(Arc::new);
        Listeners { passed: passed.collect(), ..Listeners::default() }
    }

    /// Takes over what an earlier supervisor held, from the worker that got it from it: what serves, and what was
    /// kept.
    pub(crate) fn adopt(
        &mut self,
        serving: Vec<(ListenerSpec, OwnedFd)>,
        kept: Vec<(ListenerSpec, OwnedFd)>,
    ) {
        let taken_over = |(spec, socket): (ListenerSpec, OwnedFd)| {
            // The manager passes it to every supervisor that it starts; its file is the manager's.
            if let Some(passed) = self.passed.iter().find(|passed| passed.is(&socket)) {
                return (spec.clone(), Held::passed(spec, passed));
            }
            let file = match &spec.address {
                Address::Unix { path, .. } => SocketFile::of(path).ok(),
                Address::Tcp(_) | Address::Abstract(_) => None,
            };
            (spec.clone(), Held::new(spec, Arc::new(socket), file, false))
        };
        self.serving = serving.into_iter().map(&taken_over).collect();
        // It was told what to keep before it was told to commit: what still serves is not kept, and must not rest.
        let serves =
            |socket: &OwnedFd| self.serving.iter().any(|(_, held)| sockets::is_same(&*held.socket, socket));
        let kept: Vec<_> = kept.into_iter().filter(|(_, socket)| !serves(socket)).collect();
        self.kept = kept.into_iter().map(&taken_over).collect();
        self.kept.iter().for_each(|(_, held)| held.rest());
    }

    /// What will bind these listeners; to be called where it may block.
    pub(crate) fn binder(
        &self,
        specs: Vec<ListenerSpec>,
        dry_run: bool,
    ) -> impl FnOnce() -> Vec<Binding> + use<> {
        let known: Vec<Arc<Held>> = self
            .serving
            .iter()
            .chain(self.candidates.values().flatten())
            .chain(&self.kept)
            .map(|(_, held)| held.clone())
            .collect();
        let passed = Arc::clone(&self.passed);
        move || {
            let mut free = known.clone();
            let all = specs.clone();
            let mut bind = |spec: ListenerSpec| {
                if let Some(found) = free.iter().position(|held| held.fits(&spec)) {
                    // Taken out, with its other references, so that two listeners never share one.
                    let held = free.swap_remove(found);
                    free.retain(|other| !Arc::ptr_eq(other, &held));
                    if !dry_run && let Err(error) = held.wake(spec.backlog) {
                        let errno = error.raw_os_error().unwrap_or(0);
                        let detail = format!("cannot listen on {} again: {error}", spec.address);
                        return (BindResult::Failed { errno, detail }, None);
                    }
                    return (BindResult::Bound, (!dry_run).then_some((spec, held)));
                }
                bind_new(spec, &all, dry_run, &known, &passed)
            };
            specs.into_iter().map(&mut bind).collect()
        }
    }

    /// Holds what was bound for a candidate.
    pub(crate) fn hold(&mut self, candidate: CandidateKey, bindings: &[Binding]) {
        let held = bindings.iter().filter_map(|(_, held)| held.clone()).collect();
        self.candidates.insert(candidate, held);
    }

    /// The candidate serves: its listeners are the listeners now. Those of the generation before are kept, and rest.
    pub(crate) fn serve(&mut self, candidate: CandidateKey) {
        let Some(listeners) = self.candidates.remove(&candidate) else { return };
        for (spec, held) in &listeners {
            // Always: what they are now may be another generation's.
            if let Err(error) = sockets::set_backlog(&*held.socket, spec.backlog) {
                tracing::warn!("cannot set the backlog of {}: {error}", spec.address);
            }
            if let (Address::Unix { path, mode }, Some(_)) = (&spec.address, &held.file)
                && let Err(error) = std::fs::set_permissions(path, std::fs::Permissions::from_mode(*mode))
            {
                tracing::warn!("cannot set the mode of {}: {error}", spec.address);
            }
        }
        let before = std::mem::replace(&mut self.serving, listeners);
        self.kept.extend(before);
        let serving: HashSet<*const Held> = self.serving.iter().map(|(_, held)| Arc::as_ptr(held)).collect();
        self.kept.retain(|(_, held)| !serving.contains(&Arc::as_ptr(held)));
        self.rest_kept();
    }

    /// What serves is final: what only the generation before had is closed.
    pub(crate) fn let_go(&mut self) {
        self.kept.clear();
    }

    /// What is kept, for the worker to hold on to if this process dies.
    pub(crate) fn kept(&self) -> (Vec<ListenerSpec>, Vec<Arc<OwnedFd>>) {
        self.kept.iter().map(|(spec, held)| (spec.clone(), held.socket.clone())).unzip()
    }

    /// The same while the candidate is being committed, and nobody knows which of the two serves: what is kept already, and
    /// what only the one that serves now has.
    pub(crate) fn kept_beside(&self, candidate: CandidateKey) -> (Vec<ListenerSpec>, Vec<Arc<OwnedFd>>) {
        let Some(next) = self.candidates.get(&candidate) else { return self.kept() };
        let next: HashSet<*const Held> = next.iter().map(|(_, held)| Arc::as_ptr(held)).collect();
        let goes = self.serving.iter().filter(|(_, held)| !next.contains(&Arc::as_ptr(held)));
        self.kept.iter().chain(goes).map(|(spec, held)| (spec.clone(), held.socket.clone())).unzip()
    }

    /// The candidate is gone: what was bound for it alone is closed.
    pub(crate) fn release(&mut self, candidate: CandidateKey) {
        self.candidates.remove(&candidate);
        self.rest_kept();
    }

    /// What is kept rests, unless a candidate is about to serve it again.
    fn rest_kept(&self) {
        let needed: HashSet<*const Held> =
            self.candidates.values().flatten().map(|(_, held)| Arc::as_ptr(held)).collect();
        let resting = self.kept.iter().filter(|(_, held)| !needed.contains(&Arc::as_ptr(held)));
        resting.for_each(|(_, held)| held.rest());
    }

    /// Everything is closed.
    pub(crate) fn close(&mut self) {
        self.serving.clear();
        self.candidates.clear();
        self.kept.clear();
        self.passed = Arc::default();
    }

    /// Of what serves, for `status`.
    pub(crate) fn status(&self) -> Vec<ListenerStatus> {
        let status = |(spec, held): &(ListenerSpec, Arc<Held>)| ListenerStatus {
            name: spec.name.clone(),
            address: held.actual.clone(),
            inherited: held.inherited,
        };
        self.serving.iter().map(status).collect()
    }

    /// Closes the passed sockets that nothing wants, and says which.
    pub(crate) fn close_unwanted(&mut self) -> Vec<String> {
        let held = || self.serving.iter().chain(self.candidates.values().flatten()).chain(&self.kept);
        let is_wanted = |passed: &Passed| held().any(|(_, held)| Arc::ptr_eq(&held.socket, &passed.socket));
        let (wanted, unwanted): (Vec<_>, Vec<_>) =
            self.passed.iter().cloned().partition(|passed| is_wanted(passed));
        self.passed = wanted.into();
        unwanted.iter().map(ToString::to_string).collect()
    }
}

fn bind_new(
    spec: ListenerSpec,
    all: &[ListenerSpec],
    dry_run: bool,
    known: &[Arc<Held>],
    passed: &[Arc<Passed>],
) -> Binding {
    match passed_for(&spec, all, passed) {
        Err(Unbound { errno, detail }) => return (BindResult::Failed { errno, detail }, None),
        Ok(Some(passed)) => {
            let held = (!dry_run).then(|| Held::passed(spec.clone(), passed));
            return (BindResult::Bound, held.map(|held| (spec, held)));
        }
        Ok(None) => {}
    }
    let bound = if dry_run { check(&spec).map(|()| None) } else { listen(&spec).map(Some) };
    match bound {
        Ok(socket) => {
            let held = socket.map(|(socket, file)| Held::new(spec.clone(), Arc::new(socket), file, false));
            (BindResult::Bound, held.map(|held| (spec, held)))
        }
        Err(unbound) => {
            let detail = match known.iter().find(|held| excludes(&unbound, &spec, held)) {
                Some(held) => format!(
                    "cannot listen on {} while listener {} of this server has {}: remove that one \
                     with a reload of its own first",
                    spec.address, held.spec.name, held.actual
                ),
                None => unbound.detail,
            };
            (BindResult::Failed { errno: unbound.errno, detail }, None)
        }
    }
}

/// Whether it is one of our own sockets that keeps the address from being bound.
fn excludes(unbound: &Unbound, spec: &ListenerSpec, held: &Held) -> bool {
    let actual = held.actual.parse::<std::net::SocketAddr>();
    match (&spec.address, actual) {
        (Address::Tcp(wanted), Ok(actual)) => {
            unbound.errno == Errno::ADDRINUSE.raw_os_error()
                && wanted.port() == actual.port()
                && wanted.is_ipv4() == actual.is_ipv4()
                && (wanted.ip() == actual.ip()
                    || wanted.ip().is_unspecified()
                    || actual.ip().is_unspecified())
        }
        _ => false,
    }
}

fn listen(spec: &ListenerSpec) -> Result<(OwnedFd, Option<SocketFile>), Unbound> {
    match &spec.address {
        Address::Tcp(address) => Ok((sockets::listen_tcp(*address, spec.backlog)?, None)),
        Address::Unix { path, mode } => {
            sockets::listen_unix(path, *mode, spec.backlog).map(|(socket, file)| (socket, Some(file)))
        }
        Address::Abstract(name) => Ok((sockets::listen_abstract(name, spec.backlog)?, None)),
    }
}

fn check(spec: &ListenerSpec) -> Result<(), Unbound> {
    match &spec.address {
        Address::Tcp(address) => sockets::check_tcp(*address),
        Address::Unix { path, .. } => sockets::check_unix(path),
        Address::Abstract(name) => sockets::check_abstract(name),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    const FIRST: CandidateKey = CandidateKey(1);
    const SECOND: CandidateKey = CandidateKey(2);

    fn tcp(name: &str, address: SocketAddr) -> ListenerSpec {
        ListenerSpec { name: name.to_owned(), address: Address::Tcp(address), backlog: 16 }
    }

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    fn bind(listeners: &mut Listeners, candidate: CandidateKey, specs: Vec<ListenerSpec>) -> Vec<Binding> {
        let bindings = listeners.binder(specs, false)();
        listeners.hold(candidate, &bindings);
        bindings
    }

    fn address(listeners: &Listeners, index: usize) -> SocketAddr {
        listeners.status()[index].address.parse().unwrap()
    }

    #[test]
    fn a_listener_that_stays_is_the_same_socket() {
        let mut listeners = Listeners::default();
        bind(&mut listeners, FIRST, vec![tcp("web", any())]);
        listeners.serve(FIRST);
        let before = address(&listeners, 0);
        let waiting = TcpStream::connect(before).unwrap();
        bind(&mut listeners, SECOND, vec![tcp("web", any()), tcp("api", any())]);
        listeners.serve(SECOND);
        assert_eq!(address(&listeners, 0), before);
        assert_ne!(address(&listeners, 1), before);
        let accepting = TcpListener::from(listeners.serving[0].1.socket.try_clone().unwrap());
        assert_eq!(accepting.accept().unwrap().1, waiting.local_addr().unwrap());
    }

    #[test]
    fn two_listeners_whose_port_the_kernel_chooses_never_share_a_socket() {
        let mut listeners = Listeners::default();
        for candidate in [FIRST, SECOND] {
            bind(&mut listeners, candidate, vec![tcp("web", any()), tcp("web", any())]);
            listeners.serve(candidate);
            assert_ne!(address(&listeners, 0), address(&listeners, 1));
        }
    }

    #[test]
    fn a_released_candidate_closes_what_only_it_had() {
        let mut listeners = Listeners::default();
        bind(&mut listeners, FIRST, vec![tcp("web", any())]);
        listeners.serve(FIRST);
        let (serving, new) =
            (address(&listeners, 0), TcpListener::bind(any()).unwrap().local_addr().unwrap());
        let bindings = bind(&mut listeners, SECOND, vec![tcp("web", any()), tcp("new", new)]);
        drop(bindings);
        TcpStream::connect(new).unwrap();
        listeners.release(SECOND);
        assert!(TcpStream::connect(new).is_err());
        TcpStream::connect(serving).unwrap();
    }

    #[test]
    fn a_listener_that_is_gone_refuses_and_its_path_is_unlinked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.sock");
        let unix = |mode| ListenerSpec {
            name: "app".to_owned(),
            address: Address::Unix { path: path.clone(), mode },
            backlog: 16,
        };
        let mut listeners = Listeners::default();
        bind(&mut listeners, FIRST, vec![unix(0o600)]);
        listeners.serve(FIRST);
        bind(&mut listeners, SECOND, vec![unix(0o660)]);
        listeners.serve(SECOND);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        bind(&mut listeners, FIRST, vec![]);
        listeners.serve(FIRST);
        assert!(path.exists(), "kept until the change is final");
        listeners.let_go();
        assert!(!path.exists());
    }

    #[test]
    fn what_may_be_needed_again_refuses_meanwhile_and_serves_again_without_a_bind() {
        let mut listeners = Listeners::default();
        // With a port of the kernel's choice, and with a port that was asked for.
        let fixed = TcpListener::bind(any()).unwrap().local_addr().unwrap();
        bind(&mut listeners, FIRST, vec![tcp("web", any()), tcp("old", any()), tcp("fixed", fixed)]);
        listeners.serve(FIRST);
        let old = [address(&listeners, 1), fixed];
        bind(&mut listeners, SECOND, vec![tcp("web", any())]);
        listeners.serve(SECOND);
        for address in old {
            assert!(TcpStream::connect(address).is_err(), "refused, not left waiting");
            assert!(TcpListener::bind(address).is_err(), "nobody else can have the port");
        }
        // A candidate that takes them back and fails, then one that serves.
        for third in [CandidateKey(3), CandidateKey(4)] {
            assert!(old.iter().all(|address| TcpStream::connect(address).is_err()));
            drop(bind(
                &mut listeners,
                third,
                vec![tcp("web", any()), tcp("old", any()), tcp("fixed", fixed)],
            ));
            if third == CandidateKey(3) {
                listeners.release(third);
            } else {
                listeners.serve(third);
            }
        }
        listeners.let_go();
        for address in old {
            TcpStream::connect(address).unwrap();
        }
    }

    #[test]
    fn what_is_let_go_frees_its_port() {
        let mut listeners = Listeners::default();
        bind(&mut listeners, FIRST, vec![tcp("web", any())]);
        listeners.serve(FIRST);
        let address = address(&listeners, 0);
        bind(&mut listeners, SECOND, vec![]);
        listeners.serve(SECOND);
        assert_eq!(listeners.kept().0.len(), 1);
        listeners.let_go();
        TcpListener::bind(address).unwrap();
    }

    #[test]
    fn kept_sockets_of_an_earlier_supervisor_listen_again() {
        let mut first = Listeners::default();
        bind(&mut first, FIRST, vec![tcp("old", any())]);
        first.serve(FIRST);
        let old = address(&first, 0);
        bind(&mut first, SECOND, vec![]);
        first.serve(SECOND);
        let (specs, sockets) = first.kept();
        let held = specs.into_iter().zip(sockets.iter().map(|socket| socket.try_clone().unwrap())).collect();
        drop(first);
        let mut next = Listeners::default();
        next.adopt(Vec::new(), held);
        assert!(TcpStream::connect(old).is_err());
        bind(&mut next, CandidateKey(3), vec![tcp("old", any())]);
        next.serve(CandidateKey(3));
        assert_eq!(address(&next, 0), old);
        TcpStream::connect(old).unwrap();
    }

    #[test]
    fn a_dry_run_binds_nothing_and_says_what_binding_would_say() {
        let foreign = TcpListener::bind(any()).unwrap();
        let taken = foreign.local_addr().unwrap();
        let listeners = Listeners::default();
        let bindings = listeners.binder(vec![tcp("web", taken), tcp("api", any())], true)();
        assert!(matches!(&bindings[0].0, BindResult::Failed { detail, .. } if detail.contains("(pid ")));
        assert!(matches!(bindings[1], (BindResult::Bound, None)));
    }

    #[test]
    fn an_address_that_overlaps_one_of_our_own_is_refused_by_the_name_of_that_listener() {
        let mut listeners = Listeners::default();
        bind(&mut listeners, FIRST, vec![tcp("web", any())]);
        listeners.serve(FIRST);
        let everywhere = SocketAddr::new("0.0.0.0".parse().unwrap(), address(&listeners, 0).port());
        let bindings = bind(&mut listeners, SECOND, vec![tcp("all", everywhere)]);
        assert!(
            matches!(&bindings[0].0, BindResult::Failed { detail, .. } if detail.contains("listener web"))
        );
    }

    fn passed(name: &str) -> (Inherited, SocketAddr) {
        let socket = TcpListener::bind(any()).unwrap();
        let address = socket.local_addr().unwrap();
        (Inherited { name: name.to_owned(), socket: socket.into() }, address)
    }

    #[test]
    fn a_socket_from_the_service_manager_is_used_for_its_address_and_one_that_nobody_wants_is_closed() {
        let ((web, address), (other, unwanted)) = (passed("web.socket"), passed("other.socket"));
        let mut listeners = Listeners::new(vec![web, other]);
        bind(&mut listeners, FIRST, vec![tcp("web", address)]);
        listeners.serve(FIRST);
        assert!(listeners.status()[0].inherited);
        TcpStream::connect(unwanted).unwrap();
        assert_eq!(listeners.close_unwanted(), [format!("other.socket ({unwanted})")]);
        assert!(TcpStream::connect(unwanted).is_err());
        assert_eq!(listeners.close_unwanted(), [""; 0]);
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn a_socket_from_the_service_manager_whose_name_says_another_address_is_refused_by_a_dry_run_too() {
        let (web, address) = passed("web");
        let listeners = Listeners::new(vec![web]);
        for dry_run in [false, true] {
            let bindings = listeners.binder(vec![tcp("web", "127.0.0.2:0".parse().unwrap())], dry_run)();
            assert!(
                matches!(&bindings[0].0, BindResult::Failed { detail, .. } if detail.contains(&address.to_string())),
                "{bindings:?}"
            );
        }
    }

    #[test]
    fn a_passed_socket_is_known_again_in_what_is_adopted() {
        let (web, address) = passed("web");
        let worker_has = web.socket.try_clone().unwrap();
        let mut listeners = Listeners::new(vec![web]);
        listeners.adopt(vec![(tcp("web", address), worker_has)], Vec::new());
        assert_eq!(listeners.close_unwanted(), [""; 0]);
        assert!(listeners.status()[0].inherited);
    }

    #[test]
    fn what_was_to_be_kept_after_a_commit_that_never_came_goes_on_listening() {
        let mut before = Listeners::default();
        bind(&mut before, FIRST, vec![tcp("web", any()), tcp("old", any())]);
        before.serve(FIRST);
        let (web, old) = (address(&before, 0), address(&before, 1));
        bind(&mut before, SECOND, vec![tcp("web", any())]);
        let (specs, sockets) = before.kept_beside(SECOND);
        let names: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, ["old"], "the other one stays");
        // The worker has both, and one of them twice.
        let copy =
            |(spec, held): &(ListenerSpec, Arc<Held>)| (spec.clone(), held.socket.try_clone().unwrap());
        let serving = before.serving.iter().map(copy).collect();
        let sockets = sockets.iter().map(|socket| socket.try_clone().unwrap());
        let mut after = Listeners::default();
        after.adopt(serving, specs.into_iter().zip(sockets).collect());
        TcpStream::connect(old).unwrap();
        after.let_go();
        TcpStream::connect(old).unwrap();
        TcpStream::connect(web).unwrap();
    }
}
