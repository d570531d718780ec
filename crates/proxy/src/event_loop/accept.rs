//! Connections come in: from a listener's queue, or from another thread.
//!
//! ```text
//!   queue ─accept, counted─▶ HTTP ──▶ open ──kept after its first response, others have clearly fewer──┐
//!     │                  └─▶ TCP, or a TLS handshake ──others have clearly fewer──▶ their mailbox ◀────┘
//!     │                       └──else──▶ open                        └──▶ arriving ──▶ open there
//!     └─the listener goes: all at once──▶ arriving ──▶ open
//! ```
//!
//! A connection for one request is best served where it was accepted: to wake another thread costs more than it brings. One that is
//! kept is worth it, once, and holds nothing then but its socket (and a TLS session at rest). A tunnel cannot be moved later, and
//! a handshake costs so much more than waking a thread that it is worth it at once.
//!
//! A connection is counted by the thread that accepts it and counted out by the thread where it ends: it is never missing
//! while it is on its way, and only sums over all threads mean anything.

use super::*;

/// Connections that have arrived and are opened in one turn, so that events and commands get theirs.
const ARRIVALS_PER_TURN: usize = 64;

/// A connection that is counted and not yet open.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// The socket that it came in on.
    pub(super) serial: u64,
    /// It is no HTTP connection.
    pub(super) tcp: bool,
    /// It begins with a TLS handshake.
    pub(super) handshake: bool,
    pub(super) fd: OwnedFd,
    /// What protects it, if that handshake is over.
    pub(super) secure: Option<Box<Secure>>,
    pub(super) peer: Option<IpAddr>,
    /// It was kept on another thread: the idle limit holds.
    pub(super) past: Option<Past>,
}

/// What a look into a listener's queue brought.
enum Accepted {
    One(Arrival),
    /// One that had gone again.
    Gone,
    /// Nothing waits, or accepting is paused.
    Nothing,
}

impl EventLoop {
    /// Watches every listener that should accept and is not watched.
    pub(super) fn watch_listeners(&mut self) {
        if self.cx.draining || self.standing {
            return;
        }
        for number in 0..self.cx.listeners.capacity() {
            if self.rests(number) {
                continue;
            }
            let Some(listener) = self.cx.listeners.get_mut(number) else { continue };
            let (None, false, Some(socket)) = (listener.watched, listener.removed, &listener.socket) else {
                continue;
            };
            let Ok(owner) = u32::try_from(number).map(Owner::Listener) else { continue };
            match self.cx.reactor.watch(&**socket, owner, true) {
                Ok(slot) => listener.watched = Some(slot),
                Err(errno) => {
                    tracing::error!(listener = %listener.name, "cannot watch {}: {errno}", listener.address);
                    self.accept_again = Some(self.cx.clock.after(ACCEPT_PAUSE));
                }
            }
        }
    }

    pub(super) fn unwatch(&mut self, number: usize) {
        let Some(listener) = self.cx.listeners.get_mut(number) else { return };
        if let (Some(slot), Some(socket)) = (listener.watched.take(), &listener.socket) {
            self.cx.reactor.unwatch(&**socket, slot);
        }
    }

    /// Stops accepting on a listener for a moment: connections wait in its queue.
    fn pause(&mut self, number: u32) {
        self.unwatch(number as usize);
        self.accept_again = Some(self.cx.clock.after(ACCEPT_PAUSE));
    }

    /// A listener has connections waiting: it is level-triggered, and says so again if they are not all taken.
    pub(super) fn accept_some(&mut self, number: u32) {
        let (now, Some(listener)) = (self.turns, self.cx.listener(number)) else { return };
        let Burst { most, turn } = listener.burst.get();
        let waited = turn.wrapping_add(1) == now;
        let most = if waited { most.saturating_mul(2).min(ACCEPTS_PER_TURN) } else { 1 };
        let emptied = self.accept(number, most);
        if let Some(listener) = self.cx.listener(number) {
            listener.burst.set(Burst { most: if emptied { 1 } else { most }, turn: now });
        }
    }

    /// Takes up to `limit` connections; true if the queue was emptied, or accepting is paused.
    fn accept(&mut self, number: u32, limit: usize) -> bool {
        for _ in 0..limit {
            match self.accept_one(number) {
                Accepted::One(arrival) => self.place(number, arrival),
                Accepted::Gone => {}
                Accepted::Nothing => return true,
            }
        }
        false
    }

    /// Takes all that waits in the queue of a listener that goes, and opens it later: taking is so much faster than opening that the
    /// queue is empty soon even while more arrive. At most what the queue can hold, which is what was there before, is taken.
    pub(super) fn accept_last(&mut self, number: u32) {
        let Some(listener) = self.cx.listener(number) else { return };
        let most = listener.local.generation.backlog(listener.position).saturating_add(1);
        for _ in 0..most {
            match self.accept_one(number) {
                Accepted::One(arrival) => {
                    self.count_here();
                    self.arrive(number, arrival);
                }
                Accepted::Gone => {}
                Accepted::Nothing => return,
            }
        }
    }

    fn accept_one(&mut self, number: u32) -> Accepted {
        let Some(listener) = self.cx.listener(number) else { return Accepted::Nothing };
        let (Some(plan), Some(socket)) = (listener.plan(), &listener.socket) else {
            return Accepted::Nothing;
        };
        if listener.open_everywhere.load(Ordering::Relaxed) >= plan.connections {
            plan.cells.of(self.cx.thread).full.add(1);
            self.pause(number);
            return Accepted::Nothing;
        }
        match acceptfrom_with(&**socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((fd, peer)) => {
                let tcp = matches!(plan.kind, ListenerKind::Tcp(_));
                let handshake = plan.tls.is_some();
                plan.cells.of(self.cx.thread).accepted.add(1);
                plan.cells.of(self.cx.thread).open.add(1);
                listener.open_everywhere.fetch_add(1, Ordering::Relaxed);
                self.kind_of_arrival(tcp, handshake).add(1);
                let (serial, peer) = (listener.serial, ip_of(peer));
                Accepted::One(Arrival { serial, tcp, handshake, fd, secure: None, peer, past: None })
            }
            Err(Errno::AGAIN) => Accepted::Nothing,
            Err(Errno::INTR | Errno::CONNABORTED) => Accepted::Gone,
            Err(errno) => {
                let cells = self.cx.cells();
                if cells.accept_errors.get() == 0 {
                    tracing::warn!(
                        listener = %listener.name,
                        "cannot accept connections: {errno}; those that wait are tried again every 100 ms \
                         (this is said once; see the metric accept_errors)"
                    );
                }
                cells.accept_errors.add(1);
                self.pause(number);
                Accepted::Nothing
            }
        }
    }

    fn kind_of_arrival(&self, tcp: bool, handshake: bool) -> &Cell {
        let cells = self.cx.cells();
        match (handshake, tcp) {
            (true, _) => &cells.tls,
            (false, true) => &cells.tcp,
            (false, false) => &cells.http,
        }
    }

    /// One more is, or is about to be, open on this thread.
    pub(super) fn count_here(&self) {
        if let Some(open) = self.peers.open.get(self.cx.thread) {
            open.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One fewer is open on this thread.
    pub(super) fn uncount_here(&self) {
        if let Some(open) = self.peers.open.get(self.cx.thread) {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The thread with the fewest connections, if it has clearly fewer than this one.
    fn better_place(&self) -> Option<usize> {
        let own = self.peers.open.get(self.cx.thread)?.load(Ordering::Relaxed);
        let others = self.peers.open.iter().enumerate();
        let (count, thread) = others.map(|(thread, open)| (open.load(Ordering::Relaxed), thread)).min()?;
        (own > count + IMBALANCE + count / 8).then_some(thread)
    }

    /// Gives a connection to another thread.
    fn send_away(&self, thread: usize, arrival: Arrival) {
        let (Some(mailbox), Some(open)) = (self.peers.mailboxes.get(thread), self.peers.open.get(thread))
        else {
            return;
        };
        // Counted at once, so that a burst does not all go to the same thread.
        open.fetch_add(1, Ordering::Relaxed);
        mailbox.send(Command::Adopt(arrival));
    }

    /// Takes a connection, or gives a tunnel or a handshake to the thread that has fewest.
    fn place(&mut self, number: u32, arrival: Arrival) {
        if (arrival.tcp || arrival.handshake)
            && let Some(thread) = self.better_place()
        {
            self.send_away(thread, arrival);
            return;
        }
        self.count_here();
        if let Some(listener) = self.cx.listener(number) {
            listener.open.set(listener.open.get() + 1);
        }
        self.open(number, arrival);
    }

    /// The thread to which a connection should go that has just been parked.
    #[inline]
    pub(super) fn place_for(&self, conn: &mut Conn) -> Option<usize> {
        let Conn::Http(http) = conn else { return None };
        // Its sockets may have been sent by this thread, and its state must be.
        if self.gives() {
            return None;
        }
        if http.looks_for_place() { self.better_place_for(http.listener()) } else { None }
    }

    #[cold]
    fn better_place_for(&self, listener: u32) -> Option<usize> {
        let stays = self.cx.draining || self.cx.listener(listener).is_none_or(|listener| listener.removed);
        if stays { None } else { self.better_place() }
    }

    /// Moves a connection that [`EventLoop::place_for`] has found a place for. What its client sends meanwhile waits in the socket, which
    /// is read first thing there.
    #[cold]
    pub(super) fn move_to(&mut self, thread: usize, key: ConnKey, conn: Conn) {
        let Conn::Http(http) = conn else { return };
        let number = http.listener();
        let Some(serial) = self.cx.listener(number).map(|listener| listener.serial) else { return };
        let Kept { fd, secure, peer, past } = http.leave(&mut self.cx);
        self.cx.leave_thread(number);
        self.vacate(key);
        let past = Some(past);
        self.send_away(thread, Arrival { serial, tcp: false, handshake: false, fd, secure, peer, past });
    }

    /// A connection has come to this thread, and is opened soon.
    fn arrive(&mut self, number: u32, arrival: Arrival) {
        if let Some(listener) = self.cx.listener(number) {
            listener.open.set(listener.open.get() + 1);
        }
        self.arriving.push_back((number, arrival));
    }

    /// A connection has come from another thread. That one may have been told of the listener before this one: then it waits.
    pub(super) fn adopt(&mut self, arrival: Arrival) {
        // While a listener turns into one of another kind there are two with this socket.
        let secure = arrival.handshake || arrival.secure.is_some();
        let alike = |listener: &LocalListener| {
            listener.plan().is_some_and(|plan| {
                plan.tls.is_some() == secure && matches!(plan.kind, ListenerKind::Tcp(_)) == arrival.tcp
            })
        };
        let mut listeners = self.cx.listeners.iter();
        let number = listeners
            .find(|(_, listener)| listener.serial == arrival.serial && alike(listener))
            .map(|(number, _)| number);
        match number.and_then(|number| u32::try_from(number).ok()) {
            Some(number) => self.arrive(number, arrival),
            None => self.early.push(arrival),
        }
    }

    /// Opens some of what has arrived.
    pub(super) fn take_in(&mut self) {
        for _ in 0..ARRIVALS_PER_TURN {
            let Some((number, arrival)) = self.arriving.pop_front() else { return };
            self.open(number, arrival);
        }
    }

    /// Counts out what has arrived and will not be opened.
    pub(super) fn turn_away(&mut self, number: Option<u32>, arrival: &Arrival) {
        self.kind_of_arrival(arrival.tcp, arrival.handshake).sub(1);
        if let Some(number) = number {
            self.cx.leave_listener(number);
        }
        self.uncount_here();
    }

    /// Makes a connection of a socket and lets it run.
    fn open(&mut self, number: u32, arrival: Arrival) {
        let Arrival { serial, tcp, handshake, fd, secure, peer, past } = arrival;
        let key = self.claim();
        // A client's first message over TLS is not there yet: the event that it came is worth waiting for.
        let io = self.cx.reactor.adopt(fd, Owner::Conn(key), !handshake);
        if let Some(secure) = secure {
            self.cx.reactor.protect(&io, secure);
        }
        let conn = if handshake {
            Handshake::new(key, io, peer, number, &self.cx)
                .map(|handshake| Conn::Handshake(Box::new(handshake)))
        } else if tcp {
            Tunnel::tcp(key, io, peer, number, &self.cx).map(|tunnel| Conn::Tunnel(Box::new(tunnel)))
        } else {
            HttpConn::new(key, io, peer, number, &self.cx).map(|http| Conn::Http(Box::new(http)))
        };
        match conn {
            Ok(mut conn) => {
                if let (Conn::Http(http), Some(past)) = (&mut conn, past) {
                    http.go_on(past, &self.cx);
                }
                self.retire_if_late(number, &mut conn);
                let fate = conn.run(&mut self.cx);
                self.settle(key, conn, fate);
            }
            Err(io) => {
                let (fd, secure) = self.cx.reactor.release(io);
                let arrival = Arrival { serial, tcp, handshake, fd, secure, peer, past };
                self.turn_away(Some(number), &arrival);
                self.free.push(key.index);
            }
        }
    }

    /// What is opened after its listener went, or while the server drains, ends like what was open then.
    pub(super) fn retire_if_late(&self, number: u32, conn: &mut Conn) {
        let Some(listener) = self.cx.listener(number) else { return };
        if listener.cut_at.is_some() {
            conn.retire(self.cx.clock.after(RETIRE_SPREAD), listener.cut_at);
        }
        if self.cx.draining {
            conn.retire(self.cx.clock.after(self.drain_spread), None);
        }
    }
}

/// The peer's IP address; IPv4 addresses as such also where they came in on an IPv6 socket.
fn ip_of(peer: Option<SocketAddrAny>) -> Option<IpAddr> {
    let address = std::net::SocketAddr::try_from(peer?).ok()?;
    Some(address.ip().to_canonical())
}
