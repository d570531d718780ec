//! One thread of the data plane: waits, lets connections run, looks after their time limits, obeys commands.
//!
//! ```text
//!   ┌─▶ wait ─▶ events: connections run, listeners accept, idle upstream connections that broke are dropped
//!   │           mailbox: commands
//!   │           connections that had more to do run again
//!   └────────── ticks (100 ms): time limits, pool, logs
//! ```

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use handover::Losses;
use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};

use crate::clock::Ticks;
use crate::config::ListenAddress;
use crate::conn::{Conn, Cx, End, Fate, HttpConn, LocalListener, Shown, Tunnel, TunnelKind};
use crate::generation::ListenerKind;
use crate::reactor::{ConnKey, Mailbox, Owner, Wheel};
use crate::spread::Spread;

/// The most connections accepted from one listener in one turn. It begins with one and doubles while more are waiting, so that a
/// single new connection does not cost a second, useless `accept`.
const ACCEPTS_PER_TURN: usize = 16;
/// Connections taken from the queue of a listener that goes.
const LAST_ACCEPTS: usize = 4096;
/// A listener that cannot accept is left alone for so long (100 ms).
const ACCEPT_PAUSE: Ticks = Ticks(1);
/// A connection goes to the thread that has fewest if this one has so many more, and an eighth.
const IMBALANCE: u32 = 4;
/// Idle connections of a listener that goes are closed within this time (3 s).
const RETIRE_SPREAD: Ticks = Ticks(30);
/// The pool of upstream connections is looked through this often (1 s).
const POOL_TICKS: u64 = 10;

/// A listening socket, as all threads get it.
#[derive(Debug, Clone)]
pub(crate) struct Socket {
    /// Tells it from all others, of the past too.
    pub(crate) serial: u64,
    pub(crate) name: Arc<str>,
    pub(crate) address: ListenAddress,
    pub(crate) fd: Arc<OwnedFd>,
    /// Connections open on all sockets of this name.
    pub(crate) open: Arc<AtomicU32>,
}

/// What other threads ask of an event loop. `done` is dropped when it is done.
#[derive(Debug)]
pub(crate) enum Command {
    /// Follow the published generation: these are all its sockets. What goes is cut after a time.
    Listen { sockets: Arc<[Socket]>, cut_after: Ticks, done: Sender<()> },
    /// A connection that another thread accepted.
    Adopt { serial: u64, fd: OwnedFd, peer: Option<IpAddr> },
    /// Accept nothing more; close idle connections within `spread`; end the others when their response is out.
    Drain { spread: Ticks, done: Sender<()> },
    /// Accept again.
    Resume { done: Sender<()> },
    /// Take in what waits in the queues, then close the listening sockets.
    CloseListeners { done: Sender<()> },
    /// Say what is open, as long as `left` are still to be shown.
    Show { left: Arc<AtomicUsize>, shown: Sender<Vec<Shown>> },
    /// Close everything, and say what was lost.
    Cut { losses: Sender<Losses> },
    /// The thread ends.
    Stop,
}

/// Open connections of each thread, for giving new ones to who has fewest.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) mailboxes: Vec<Arc<Mailbox<Command>>>,
    pub(crate) open: Vec<AtomicU32>,
}

/// A place in the table.
#[derive(Debug)]
struct Place {
    stamp: u32,
    conn: Option<Conn>,
}

/// One thread.
pub(crate) struct EventLoop {
    cx: Cx,
    places: Vec<Place>,
    free: Vec<u32>,
    wheel: Wheel,
    mailbox: Arc<Mailbox<Command>>,
    peers: Arc<Peers>,
    again: Vec<ConnKey>,
    expired: Vec<u32>,
    /// The tick at which paused listeners accept again.
    accept_again: Option<u64>,
    pool_tick: u64,
    spread: Spread,
    running: bool,
}

impl EventLoop {
    /// A loop that has nothing to do yet.
    pub(crate) fn new(mut cx: Cx, peers: Arc<Peers>) -> Result<Self, Errno> {
        let mailbox = peers.mailboxes.get(cx.thread).cloned().ok_or(Errno::INVAL)?;
        cx.reactor.watch(&*mailbox, Owner::Mailbox, false)?;
        let wheel = Wheel::new(cx.clock.tick());
        let spread = Spread::new(cx.thread as u64 + 1);
        Ok(Self {
            cx,
            places: Vec::new(),
            free: Vec::new(),
            wheel,
            mailbox,
            peers,
            again: Vec::new(),
            expired: Vec::new(),
            accept_again: None,
            pool_tick: 0,
            spread,
            running: true,
        })
    }

    /// Serves until [`Command::Stop`]: true. False: it cannot go on.
    pub(crate) fn run(mut self) -> bool {
        while self.running {
            let limit = self.wait_limit();
            let events = match self.cx.reactor.wait(limit) {
                Ok(events) => events,
                Err(Errno::INTR) => 0,
                Err(errno) => {
                    tracing::error!("a data thread ends: it cannot wait for events: {errno}");
                    return false;
                }
            };
            self.cx.clock.update();
            for index in 0..events {
                match self.cx.reactor.event(index) {
                    Owner::Conn(key) => self.drive(key),
                    Owner::Idle(number) => self.cx.upstreams.idle_event(number, &mut self.cx.reactor),
                    Owner::Listener(number) => self.accept_some(number),
                    Owner::Mailbox => self.obey(),
                    Owner::Nobody => {}
                }
            }
            for key in std::mem::take(&mut self.again) {
                self.drive(key);
            }
            self.keep_time();
        }
        true
    }

    fn wait_limit(&self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let next_tick = self.cx.clock.tick() + 1;
        let log = self.cx.log.is_pending().then_some(next_tick);
        let pool = (self.cx.upstreams.idle_count() > 0).then_some(self.pool_tick.max(next_tick));
        let next = [self.wheel.next_due(), self.accept_again, log, pool].into_iter().flatten().min();
        next.map(|tick| self.cx.clock.until(tick))
    }

    /// Lets a connection do what it can.
    fn drive(&mut self, key: ConnKey) {
        let Some(place) = self.places.get_mut(key.index as usize) else { return };
        if place.stamp != key.stamp {
            return;
        }
        let Some(mut conn) = place.conn.take() else { return };
        let fate = conn.run(&mut self.cx);
        self.settle(key, conn, fate);
    }

    fn settle(&mut self, key: ConnKey, mut conn: Conn, mut fate: Fate) {
        while matches!(fate, Fate::Upgraded) {
            conn = match conn {
                Conn::Http(http) => match http.into_tunnel(&mut self.cx) {
                    Ok(tunnel) => {
                        self.cx.cells().http.sub(1);
                        self.cx.cells().websocket.add(1);
                        Conn::Tunnel(Box::new(tunnel))
                    }
                    Err(http) => Conn::Http(http),
                },
                tunnel @ Conn::Tunnel(_) => tunnel,
            };
            fate = conn.run(&mut self.cx);
        }
        match fate {
            Fate::Over(end) => self.close(key, conn, end),
            Fate::Parked | Fate::Again | Fate::Upgraded => {
                if matches!(fate, Fate::Again) {
                    self.again.push(key);
                }
                self.wheel.arm(key.index, conn.deadline());
                if let Some(place) = self.places.get_mut(key.index as usize) {
                    place.conn = Some(conn);
                }
            }
        }
    }

    fn close(&mut self, key: ConnKey, conn: Conn, end: End) {
        self.kind_cell(&conn, false);
        let listener = conn.listener();
        conn.close(end, &mut self.cx);
        self.cx.leave_listener(listener);
        if let Some(place) = self.places.get_mut(key.index as usize) {
            place.stamp = place.stamp.wrapping_add(1);
            self.free.push(key.index);
        }
        if let Some(open) = self.peers.open.get(self.cx.thread) {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn kind_cell(&self, conn: &Conn, opened: bool) {
        let cells = self.cx.cells();
        let cell = match conn {
            Conn::Http(_) => &cells.http,
            Conn::Tunnel(tunnel) if tunnel.kind() == TunnelKind::Tcp => &cells.tcp,
            Conn::Tunnel(_) => &cells.websocket,
        };
        if opened { cell.add(1) } else { cell.sub(1) }
    }

    fn keep_time(&mut self) {
        let now = self.cx.clock.tick();
        let places = &self.places;
        let mut expired = std::mem::take(&mut self.expired);
        let deadline_of = |index: u32| places.get(index as usize)?.conn.as_ref().map(Conn::deadline);
        self.wheel.advance(now, deadline_of, &mut expired);
        for index in expired.drain(..) {
            let Some(place) = self.places.get_mut(index as usize) else { continue };
            let key = ConnKey { index, stamp: place.stamp };
            let Some(mut conn) = place.conn.take() else { continue };
            let fate = conn.expire(&mut self.cx);
            self.settle(key, conn, fate);
        }
        self.expired = expired;
        if now >= self.pool_tick {
            self.pool_tick = now + POOL_TICKS;
            self.cx.upstreams.sweep(&self.cx.clock, &mut self.cx.reactor);
        }
        if self.cx.log.is_pending() && self.cx.log_tick != now {
            self.cx.log_tick = now;
            let dropped = self.cx.log.flush();
            self.cx.cells().log_dropped.add(dropped);
        }
        if self.accept_again.is_some_and(|tick| tick <= now) {
            self.accept_again = None;
            self.watch_listeners();
        }
        let cells = self.cx.cells();
        cells.idle_upstream.set(self.cx.upstreams.idle_count() as u64);
        cells.buffer_bytes.set(self.cx.buffers.bytes_out() as u64);
    }

    // ---- Accepting -------------------------------------------------------------------------------------------------

    /// Watches every listener that should accept and is not watched.
    fn watch_listeners(&mut self) {
        if self.cx.draining {
            return;
        }
        for number in 0..self.cx.listeners.capacity() {
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

    fn unwatch(&mut self, number: usize) {
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
    fn accept_some(&mut self, number: u32) {
        let Some(listener) = self.cx.listener(number) else { return };
        let burst = listener.burst.get().clamp(1, ACCEPTS_PER_TURN);
        let emptied = self.accept(number, burst);
        if let Some(listener) = self.cx.listener(number) {
            listener.burst.set(if emptied { burst / 2 } else { burst * 2 });
        }
    }

    /// Takes up to `limit` connections; true if the queue was emptied, or accepting is paused.
    fn accept(&mut self, number: u32, limit: usize) -> bool {
        for _ in 0..limit {
            let Some(listener) = self.cx.listener(number) else { return true };
            let (Some(plan), Some(socket)) = (listener.plan(), &listener.socket) else { return true };
            if listener.open_everywhere.load(Ordering::Relaxed) >= plan.connections {
                plan.cells.of(self.cx.thread).full.add(1);
                self.pause(number);
                return true;
            }
            match acceptfrom_with(&**socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((fd, peer)) => {
                    let serial = listener.serial;
                    self.place(number, serial, fd, ip_of(peer));
                }
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
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
                    return true;
                }
            }
        }
        false
    }

    /// Takes a connection, or gives it to the thread that has fewest.
    fn place(&mut self, number: u32, serial: u64, fd: OwnedFd, peer: Option<IpAddr>) {
        let own = self.peers.open.get(self.cx.thread).map_or(0, |open| open.load(Ordering::Relaxed));
        let fewest = self
            .peers
            .open
            .iter()
            .enumerate()
            .map(|(thread, open)| (open.load(Ordering::Relaxed), thread))
            .min();
        if let Some((count, thread)) = fewest
            && own > count + IMBALANCE + count / 8
            && let (Some(mailbox), Some(open)) =
                (self.peers.mailboxes.get(thread), self.peers.open.get(thread))
        {
            // Counted at once, so that a burst does not all go to the same thread.
            open.fetch_add(1, Ordering::Relaxed);
            mailbox.send(Command::Adopt { serial, fd, peer });
            return;
        }
        if let Some(open) = self.peers.open.get(self.cx.thread) {
            open.fetch_add(1, Ordering::Relaxed);
        }
        self.open(number, fd, peer);
    }

    /// Makes a connection of a socket and lets it run.
    fn open(&mut self, number: u32, fd: OwnedFd, peer: Option<IpAddr>) {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
                self.places.push(Place { stamp: 0, conn: None });
                index
            }
        };
        let stamp = self.places.get(index as usize).map_or(0, |place| place.stamp);
        let key = ConnKey { index, stamp };
        let io = self.cx.reactor.adopt(fd, Owner::Conn(key), true);
        let is_tcp = self.cx.listener(number).and_then(LocalListener::plan).map(|plan| {
            plan.cells.of(self.cx.thread).accepted.add(1);
            plan.cells.of(self.cx.thread).open.add(1);
            matches!(plan.kind, ListenerKind::Tcp(_))
        });
        let conn = match is_tcp {
            Some(true) => {
                Tunnel::tcp(key, io, peer, number, &self.cx).map(|tunnel| Conn::Tunnel(Box::new(tunnel)))
            }
            Some(false) => {
                HttpConn::new(key, io, peer, number, &self.cx).map(|http| Conn::Http(Box::new(http)))
            }
            None => Err(io),
        };
        match conn {
            Ok(mut conn) => {
                if let Some(listener) = self.cx.listener(number) {
                    listener.open.set(listener.open.get() + 1);
                    listener.open_everywhere.fetch_add(1, Ordering::Relaxed);
                }
                self.kind_cell(&conn, true);
                let fate = conn.run(&mut self.cx);
                self.settle(key, conn, fate);
            }
            Err(io) => {
                self.cx.reactor.close(io);
                self.free.push(index);
                if let Some(open) = self.peers.open.get(self.cx.thread) {
                    open.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
    }

    // ---- Commands --------------------------------------------------------------------------------------------------

    fn obey(&mut self) {
        for command in self.mailbox.take() {
            match command {
                Command::Adopt { serial, fd, peer } => self.adopt(serial, fd, peer),
                Command::Listen { sockets, cut_after, done } => {
                    self.listen(&sockets, cut_after);
                    drop(done);
                }
                Command::Drain { spread, done } => {
                    self.drain(spread);
                    drop(done);
                }
                Command::Resume { done } => {
                    self.cx.draining = false;
                    for place in &mut self.places {
                        if let Some(conn) = &mut place.conn {
                            conn.unretire(&self.cx);
                        }
                    }
                    self.watch_listeners();
                    drop(done);
                }
                Command::CloseListeners { done } => {
                    self.close_listeners();
                    drop(done);
                }
                Command::Show { left, shown } => {
                    let _ = shown.send(self.show(&left));
                }
                Command::Cut { losses } => {
                    // Who asked may have given up waiting.
                    let _ = losses.send(self.cut());
                }
                Command::Stop => self.running = false,
            }
        }
    }

    fn adopt(&mut self, serial: u64, fd: OwnedFd, peer: Option<IpAddr>) {
        let number = self.cx.listeners.iter().find(|(_, listener)| listener.serial == serial).map(|(n, _)| n);
        match number.and_then(|number| u32::try_from(number).ok()) {
            Some(number) => self.open(number, fd, peer),
            None => {
                // Its listener went, and with it the last connection, while it was on its way.
                if let Some(open) = self.peers.open.get(self.cx.thread) {
                    open.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Follows the published generation and its sockets.
    fn listen(&mut self, sockets: &[Socket], cut_after: Ticks) {
        self.cx.refresh();
        let mut gone = Vec::new();
        for number in 0..self.cx.listeners.capacity() {
            let Some(listener) = self.cx.listeners.get_mut(number) else { continue };
            let stays = !listener.removed && sockets.iter().any(|socket| socket.serial == listener.serial);
            if !stays && listener.socket.is_some() {
                gone.push(number);
            }
        }
        for number in gone {
            self.retire_listener(number, cut_after);
        }
        let local = Rc::clone(self.cx.local());
        for socket in sockets {
            let known = |(_, listener): (usize, &LocalListener)| {
                listener.serial == socket.serial && !listener.removed
            };
            if self.cx.listeners.iter().any(known) {
                continue;
            }
            let Some(position) = local.generation.listener_at(&socket.name, &socket.address) else {
                continue;
            };
            self.cx.listeners.insert(LocalListener::new(socket, Rc::clone(&local), position));
        }
        self.watch_listeners();
    }

    /// A listener goes: what waits in its queue is taken in, what is open ends by itself or is cut.
    fn retire_listener(&mut self, number: usize, cut_after: Ticks) {
        let Ok(short) = u32::try_from(number) else { return };
        let _ = self.accept(short, LAST_ACCEPTS);
        self.unwatch(number);
        if let Some(listener) = self.cx.listeners.get_mut(number) {
            listener.removed = true;
            listener.socket = None;
            if listener.open.get() == 0 {
                self.cx.listeners.remove(number);
                return;
            }
        }
        let cut_at = self.cx.clock.after(cut_after);
        self.retire_conns(Some(short), RETIRE_SPREAD, Some(cut_at));
    }

    fn retire_conns(&mut self, listener: Option<u32>, spread: Ticks, cut_at: Option<u64>) {
        for (index, place) in self.places.iter_mut().enumerate() {
            let Some(conn) = &mut place.conn else { continue };
            if listener.is_some_and(|listener| conn.listener() != listener) {
                continue;
            }
            let idle_until = self.cx.clock.after(self.spread.within(spread));
            conn.retire(idle_until, cut_at);
            if let Ok(index) = u32::try_from(index) {
                self.wheel.arm(index, conn.deadline());
            }
        }
    }

    fn drain(&mut self, spread: Ticks) {
        self.cx.draining = true;
        for number in 0..self.cx.listeners.capacity() {
            self.unwatch(number);
        }
        self.retire_conns(None, spread, None);
    }

    fn close_listeners(&mut self) {
        for number in 0..self.cx.listeners.capacity() {
            let Ok(short) = u32::try_from(number) else { continue };
            let _ = self.accept(short, LAST_ACCEPTS);
            self.unwatch(number);
            if let Some(listener) = self.cx.listeners.get_mut(number) {
                listener.socket = None;
            }
        }
    }

    fn show(&self, left: &AtomicUsize) -> Vec<Shown> {
        let one_less = |left: usize| left.checked_sub(1);
        let open = self.places.iter().filter_map(|place| place.conn.as_ref());
        open.take_while(|_| left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok())
            .map(|conn| conn.show(&self.cx))
            .collect()
    }

    fn cut(&mut self) -> Losses {
        let mut losses = Losses::default();
        for index in 0..self.places.len() {
            let Some(place) = self.places.get_mut(index) else { continue };
            let stamp = place.stamp;
            let (Some(conn), Ok(index)) = (place.conn.take(), u32::try_from(index)) else { continue };
            if let Some(kind) = conn.loss() {
                losses.add(kind, 1);
            }
            self.close(ConnKey { index, stamp }, conn, End::Cut);
        }
        let dropped = self.cx.log.flush();
        self.cx.cells().log_dropped.add(dropped);
        losses
    }
}

/// The peer's IP address; IPv4 addresses as such also where they came in on an IPv6 socket.
fn ip_of(peer: Option<SocketAddrAny>) -> Option<IpAddr> {
    let address = std::net::SocketAddr::try_from(peer?).ok()?;
    Some(address.ip().to_canonical())
}
