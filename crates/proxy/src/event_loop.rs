//! One thread of the data plane: waits, lets connections run, looks after their time limits, obeys commands.
//!
//! ```text
//!   ┌─▶ wait ─▶ events: connections run, listeners accept, idle upstream connections that broke are dropped
//!   │           mailbox: commands
//!   │           connections that had more to do run again; a few of those that shake hands take a step
//!   └────────── ticks (100 ms): time limits, pool, logs
//! ```

mod accept;
mod commands;
mod giving;
mod holding;
mod probing;
mod taking;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_moving;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use handover::Losses;
use handover::moving::{Outlet, Piece, Probe};
use handover::traffic::Target;
use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};

use crate::clock::Ticks;
use crate::config::ListenAddress;
use crate::conn::{
    Conn, Cx, End, Fate, Handshake, HttpConn, Kept, LocalListener, Past, Shown, Tunnel, TunnelKind,
};
use crate::generation::ListenerKind;
use crate::metrics::Cell;
use crate::reactor::{ConnKey, Mailbox, Owner, Secure, Wheel};
use crate::spread::Spread;
use crate::threads::Rotation;
use crate::traffic::{Census, Watches};

pub(crate) use accept::Arrival;
pub(crate) use giving::{Kinds, Verdict, Written};

use giving::Giving;
use taking::Taking;

/// The most connections accepted from one listener in one turn. It begins with one, and doubles when there are still some waiting in the
/// turn after: a connection that comes alone does not cost a second, useless `accept`.
const ACCEPTS_PER_TURN: usize = 16;
/// A listener that cannot accept is left alone for so long (100 ms).
const ACCEPT_PAUSE: Ticks = Ticks(1);
/// A connection goes to the thread that has fewest if this one has so many more, and an eighth.
const IMBALANCE: u32 = 4;
/// Idle connections of a listener that goes are closed within this time (3 s).
const RETIRE_SPREAD: Ticks = Ticks(30);
/// Whether it is time for another ticket key is looked at this often (1 min) by each thread to which anything happens.
const ROTATION_TICKS: u64 = 600;
/// For each so many events of a turn, one step of a handshake is taken, and one in any case: handshakes hold nobody up for long, and are
/// not held up by many requests.
const EVENTS_PER_STEP: usize = 16;
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
    /// All threads have obeyed the last [`Command::Listen`]: forget the sockets that went.
    Sweep { done: Sender<()> },
    /// A connection that another thread accepted.
    Adopt(Arrival),
    /// Accept nothing more; close idle connections within `spread`; end the others when their response is out.
    Drain { spread: Ticks, done: Sender<()> },
    /// Accept again.
    Resume { done: Sender<()> },
    /// Take in what waits in the queues, then close the listening sockets.
    CloseListeners { done: Sender<()> },
    /// Act on what is published of the traffic.
    Traffic { done: Sender<()> },
    /// Count what is in flight of something, now and whenever that changes.
    Census(Census),
    /// Say what is open, as long as `left` are still to be shown.
    Show { left: Arc<AtomicUsize>, shown: Sender<Vec<Shown>> },
    /// Close everything, and say what was lost.
    Cut { losses: Sender<Losses> },
    /// Hold the listeners and accept nothing.
    StandBy { done: Sender<()> },
    /// Answer this question through the accept path.
    Probe(Arc<Probe>),
    /// Send the sockets of connections ahead to another worker; `done` is dropped when nearly all have been sent.
    Precopy { outlet: Arc<Outlet>, format: u16, done: Sender<()> },
    /// Write down what can move, and stand still until the verdict comes.
    Freeze { frozen: Sender<Result<Written, String>>, verdict: Receiver<Verdict> },
    /// The move is off before anything stood still.
    CallOff,
    /// The other worker has room again, or is gone.
    Woken,
    /// Sockets that another worker has sent ahead.
    Sockets { first: u64, sockets: Vec<OwnedFd> },
    /// Make connections of what another worker has written down, and serve none of them yet.
    TakeIn { format: u16, sections: Vec<Piece>, taken: Sender<Result<Kinds, String>> },
    /// Serve what was taken in, and accept.
    Serve { done: Sender<()> },
    /// One more connection of another worker.
    Late { format: u16, state: Piece, sockets: Vec<OwnedFd> },
    /// The thread ends.
    Stop,
}

/// Open connections of each thread, for giving new ones to who has fewest.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) mailboxes: Vec<Arc<Mailbox<Command>>>,
    pub(crate) open: Vec<AtomicU32>,
}

/// How many connections a listener's last turn brought at most, and which turn that was.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Burst {
    most: usize,
    turn: u64,
}

/// A place in the table.
#[derive(Debug)]
struct Place {
    stamp: u32,
    /// It is in `again`.
    queued: bool,
    /// It is in `steps`.
    in_steps: bool,
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
    /// Those that have a step of a handshake to take, each of which costs as much as many requests.
    steps: VecDeque<ConnKey>,
    /// Counted and not yet open, with the place of their listener.
    arriving: VecDeque<(u32, Arrival)>,
    /// From other threads, for a listener that this one has not been told of.
    early: Vec<Arrival>,
    expired: Vec<u32>,
    /// The tick at which paused listeners accept again.
    accept_again: Option<u64>,
    pool_tick: u64,
    /// Idle connections are closed within this time of a drain's beginning.
    drain_spread: Ticks,
    spread: Spread,
    /// Not in tests.
    rotation: Option<Rotation>,
    rotation_tick: u64,
    /// Turns since the beginning.
    turns: u64,
    /// It holds the listeners and accepts nothing: another worker serves.
    standing: bool,
    giving: Giving,
    taking: Taking,
    probe: Option<probing::Asked>,
    watches: Watches,
    /// The tick at which a pause ends by itself.
    pause_ends: Option<u64>,
    running: bool,
    /// It ends because nobody knows any more who serves its connections.
    stranded: bool,
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
            steps: VecDeque::new(),
            arriving: VecDeque::new(),
            early: Vec::new(),
            expired: Vec::new(),
            accept_again: None,
            pool_tick: 0,
            drain_spread: Ticks(0),
            spread,
            rotation: None,
            rotation_tick: 0,
            turns: 0,
            standing: false,
            giving: Giving::No,
            taking: Taking::default(),
            probe: None,
            watches: Watches::default(),
            pause_ends: None,
            running: true,
            stranded: false,
        })
    }

    /// Looks after the keys of session tickets, too.
    pub(crate) fn with_rotation(mut self, rotation: Option<Rotation>) -> Self {
        self.rotation = rotation;
        self
    }

    /// Serves until [`Command::Stop`]: true. False: it cannot go on.
    pub(crate) fn run(mut self) -> bool {
        while self.running {
            let limit = self.wait_limit();
            match self.turn(limit) {
                Ok(()) | Err(Errno::INTR) => {}
                Err(errno) => {
                    tracing::error!("a data thread ends: it cannot wait for events: {errno}");
                    return false;
                }
            }
        }
        !self.stranded
    }

    /// Waits for events, at most `limit`, and does everything that follows from them.
    fn turn(&mut self, limit: Option<Duration>) -> Result<(), Errno> {
        let events = self.cx.reactor.wait(limit)?;
        self.turns = self.turns.wrapping_add(1);
        self.cx.clock.update();
        for index in 0..events {
            match self.cx.reactor.event(index) {
                Owner::Conn(key) => self.drive(key),
                Owner::Idle(number) => self.cx.upstreams.idle_event(number, &mut self.cx.reactor),
                Owner::Listener(number) => self.accept_some(number),
                Owner::Mailbox => self.obey(),
                Owner::Probe => self.answer_probe(),
                Owner::Nobody => {}
            }
        }
        if !self.arriving.is_empty() {
            self.take_in();
        }
        self.run_again();
        self.take_steps(1 + events / EVENTS_PER_STEP);
        self.give_ahead();
        self.keep_time();
        self.keep_holding();
        Ok(())
    }

    /// Lets those that had more to do run once more.
    fn run_again(&mut self) {
        for key in std::mem::take(&mut self.again) {
            if let Some(place) = self.places.get_mut(key.index as usize)
                && place.stamp == key.stamp
            {
                place.queued = false;
            }
            self.drive(key);
        }
    }

    /// Lets those that have waited longest take a step of their handshakes.
    fn take_steps(&mut self, mut count: usize) {
        while count > 0
            && let Some(key) = self.steps.pop_front()
        {
            match self.places.get_mut(key.index as usize) {
                Some(place) if place.stamp == key.stamp => place.in_steps = false,
                _ => continue,
            }
            self.cx.may_step = true;
            self.drive(key);
            if !std::mem::take(&mut self.cx.may_step) {
                count -= 1;
            }
        }
    }

    fn wait_limit(&self) -> Option<Duration> {
        let queued = !self.again.is_empty() || !self.arriving.is_empty() || !self.steps.is_empty();
        if queued || self.has_to_give() {
            return Some(Duration::ZERO);
        }
        let next_tick = self.cx.clock.tick() + 1;
        let log = self.cx.log.is_pending().then_some(next_tick);
        let pool = (self.cx.upstreams.idle_count() > 0).then_some(self.pool_tick.max(next_tick));
        let next = [self.wheel.next_due(), self.accept_again, log, pool].into_iter().flatten().min();
        let next = next.map(|tick| self.cx.clock.until(tick));
        next.into_iter().chain(self.held_limit()).min()
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
        self.watches.note();
        while matches!(fate, Fate::Upgraded) {
            self.kind_cell(&conn).sub(1);
            conn = match conn {
                Conn::Http(http) => match http.into_tunnel(&mut self.cx) {
                    Ok(tunnel) => Conn::Tunnel(Box::new(tunnel)),
                    Err(http) => Conn::Http(http),
                },
                Conn::Handshake(handshake) => match handshake.into_conn(&mut self.cx) {
                    Ok(conn) => conn,
                    Err(handshake) => Conn::Handshake(handshake),
                },
                tunnel @ Conn::Tunnel(_) => tunnel,
            };
            self.kind_cell(&conn).add(1);
            fate = conn.run(&mut self.cx);
        }
        match fate {
            Fate::Over(end) => self.close(key, conn, end),
            Fate::Parked if let Some(thread) = self.place_for(&mut conn) => self.move_to(thread, key, conn),
            Fate::Parked | Fate::Again | Fate::Later | Fate::Upgraded => {
                let conn = if self.gives() { self.give_late(key, conn) } else { Some(conn) };
                let Some(conn) = conn else { return };
                self.wheel.arm(key.index, conn.deadline());
                if let Some(place) = self.places.get_mut(key.index as usize) {
                    place.conn = Some(conn);
                    if matches!(fate, Fate::Later) && !place.in_steps {
                        place.in_steps = true;
                        self.steps.push_back(key);
                    }
                    // An event may have made it run although it was in the list.
                    if matches!(fate, Fate::Again) && !place.queued {
                        place.queued = true;
                        self.again.push(key);
                    }
                }
            }
        }
    }

    fn close(&mut self, key: ConnKey, conn: Conn, end: End) {
        self.kind_cell(&conn).sub(1);
        let listener = conn.listener();
        conn.close(end, &mut self.cx);
        self.cx.leave_listener(listener);
        self.vacate(key);
    }

    /// A place in the table is free again.
    fn vacate(&mut self, key: ConnKey) {
        if let Some(place) = self.places.get_mut(key.index as usize) {
            place.stamp = place.stamp.wrapping_add(1);
            place.queued = false;
            place.in_steps = false;
            self.free.push(key.index);
        }
        self.uncount_here();
    }

    fn kind_cell(&self, conn: &Conn) -> &Cell {
        let cells = self.cx.cells();
        match conn {
            Conn::Http(_) => &cells.http,
            Conn::Handshake(_) => &cells.tls,
            Conn::Tunnel(tunnel) if tunnel.kind() == TunnelKind::Tcp => &cells.tcp,
            Conn::Tunnel(_) => &cells.websocket,
        }
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
        if let Some(rotation) = &self.rotation
            && now >= self.rotation_tick
            && !self.standing
        {
            self.rotation_tick = now + ROTATION_TICKS;
            rotation.advance();
        }
        if self.accept_again.is_some_and(|tick| tick <= now) {
            self.accept_again = None;
            self.watch_listeners();
        }
        let cells = self.cx.cells();
        cells.idle_upstream.set(self.cx.upstreams.idle_count() as u64);
        let held = self.cx.buffers.bytes_out() + self.cx.reactor.held_bytes();
        cells.buffer_bytes.set(held as u64);
    }
}
