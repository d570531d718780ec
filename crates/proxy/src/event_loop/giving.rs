//! The thread's connections go to another worker.
//!
//! ```text
//!   No ──Precopy──▶ Ahead: serves; each turn some sockets go ahead ──few are left──▶ says so
//!    ▲                │
//!    │ CallOff        │ Freeze: the last sockets; all that can move is written down; stands still
//!    │                ▼
//!    ├──Thaw──── (still) ──Release──▶ Late: what was written is let go; nothing is accepted any more; what can
//!    │                                      │   move at the end of a turn is sent, one by one
//!    └──Resume, Serve, nobody takes any more┘
//! ```
//!
//! Nothing is changed by standing still: after a thaw all goes on as if nothing had been. What has come meanwhile waits in
//! the sockets, commands in the mailbox, events of the turn in the poller: of sockets that are let go they find nobody.
//!
//! In `Late` a drain does not close what is idle, as nothing is idle here for longer than a moment: a connection that has
//! ended its step goes over instead.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::mpsc::Receiver;

use handover::moving::{Lost, Outlet, Piece, Section};

use super::*;
use crate::conn::state::{self, Sheet};
use crate::reactor::Io;

/// So many places are looked at in one turn, so that requests get theirs.
const LOOKS_PER_TURN: usize = 4_096;
/// When a round through all places has found no more sockets than this, the rest can wait for the freeze.
const FEW: usize = 64;
/// More rounds than this only run after what comes and goes.
const ROUNDS: usize = 8;
/// Standing still ends in a fraction of a second. Who hears nothing for so long has lost its worker, and may not go on: the
/// connections may be served elsewhere.
const VERDICT_LIMIT: Duration = Duration::from_secs(60);

/// What becomes of connections that stand still.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// They go on here, as if nothing had been.
    Thaw,
    /// They go on elsewhere. `done` is dropped when they have been let go.
    Release { done: Sender<()> },
}

/// What a thread has written down.
#[derive(Debug)]
pub(crate) struct Written {
    /// The connections: see [`crate::conn::state`]. There are keys in it.
    pub(crate) section: Section,
    /// How many connections that are, by kind.
    pub(crate) counts: Kinds,
}

/// Numbers of connections by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kinds {
    pub(crate) http: u64,
    pub(crate) websocket: u64,
    pub(crate) tcp: u64,
}

impl Kinds {
    /// One more.
    pub(super) fn count(&mut self, conn: &Conn) {
        match conn {
            Conn::Tunnel(tunnel) if tunnel.kind() == TunnelKind::Tcp => self.tcp += 1,
            Conn::Tunnel(_) => self.websocket += 1,
            Conn::Http(_) | Conn::Handshake(_) => self.http += 1,
        }
    }

    /// All that there are any of, with their names.
    pub(crate) fn named(self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = [("http", self.http), ("websocket", self.websocket), ("tcp", self.tcp)];
        all.into_iter().filter(|(_, count)| *count > 0)
    }
}

/// Where the thread is in giving its connections away.
#[derive(Debug)]
pub(super) enum Giving {
    /// It keeps them.
    No,
    /// Their sockets go ahead.
    Ahead(Ahead),
    /// What is left goes one by one.
    Late(Late),
}

#[derive(Debug)]
pub(super) struct Ahead {
    outlet: Arc<Outlet>,
    format: u16,
    /// The place to be looked at next.
    next: usize,
    /// Sockets sent in this round, and rounds so far.
    sent: usize,
    rounds: usize,
    /// Dropped when nearly all have been sent.
    done: Option<Sender<()>>,
}

#[derive(Debug)]
pub(super) struct Late {
    outlet: Arc<Outlet>,
    format: u16,
    /// A drain that begins if nobody takes anything any more: its spread.
    drain: Option<Ticks>,
}

/// Connections, by their places, and idle ones to endpoints, by their numbers in the pool, that were written down.
#[derive(Debug, Default)]
struct Stood {
    places: Vec<u32>,
    idle: Vec<usize>,
}

impl EventLoop {
    /// From now on sockets go ahead of their connections.
    pub(super) fn begin_giving(&mut self, outlet: Arc<Outlet>, format: u16, done: Sender<()>) {
        self.cx.reactor.begin_numbers();
        self.cx.gives_waiting = state::has_waiting(format);
        let (next, sent, rounds) = (0, 0, 0);
        self.giving = Giving::Ahead(Ahead { outlet, format, next, sent, rounds, done: Some(done) });
    }

    /// True while connections are being given away: they stay on this thread until they go.
    pub(super) fn gives(&self) -> bool {
        !matches!(self.giving, Giving::No)
    }

    /// True if there is something to be sent ahead at once.
    pub(super) fn has_to_give(&self) -> bool {
        matches!(&self.giving, Giving::Ahead(ahead) if ahead.done.is_some() && ahead.outlet.may_send())
    }

    /// Sends a batch of sockets ahead, if the other side takes one.
    pub(super) fn give_ahead(&mut self) {
        let Giving::Ahead(ahead) = &self.giving else { return };
        if ahead.done.is_none() {
            return;
        }
        let over = if ahead.outlet.has_ended() {
            true
        } else if ahead.outlet.may_send() {
            // The freeze finds out again, and fails if it must.
            matches!(self.send_batch(LOOKS_PER_TURN), Err(Lost::Ended | Lost::Refused(_)))
        } else {
            false
        };
        if let (true, Giving::Ahead(ahead)) = (over, &mut self.giving) {
            ahead.done = None;
        }
    }

    /// Looks at up to `most` places from where the last look ended, and sends the sockets that were not sent yet: one batch. At the end of
    /// a round it is the turn of the pool.
    fn send_batch(&mut self, most: usize) -> Result<(), Lost> {
        self.cx.refresh();
        let Giving::Ahead(ahead) = &mut self.giving else { return Ok(()) };
        let mut batch: Vec<&Io> = Vec::new();
        let end = self.places.len().min(ahead.next.saturating_add(most));
        let mut next = ahead.next;
        // Room for both sockets of one more.
        while next < end && batch.len() + 2 <= Outlet::MAX_BATCH {
            let conn = self.places.get(next).and_then(|place| place.conn.as_ref());
            next += 1;
            let Some(conn) = conn.filter(|conn| conn.is_movable(&self.cx)) else { continue };
            let Some((client, endpoint)) = conn.sockets() else { continue };
            batch.extend(
                std::iter::once(client).chain(endpoint).filter(|io| self.cx.reactor.number(io).is_none()),
            );
        }
        if next < self.places.len() {
            send_ahead(&ahead.outlet, self.cx.thread, &batch, &mut self.cx.reactor)?;
            (ahead.next, ahead.sent) = (next, ahead.sent + batch.len());
            return Ok(());
        }
        let of_conns = batch.len();
        let unsent = |io: &&Io| self.cx.reactor.number(io).is_none();
        let room = Outlet::MAX_BATCH - of_conns;
        batch.extend(self.cx.upstreams.idle().map(|(_, io, ..)| io).filter(unsent).take(room));
        send_ahead(&ahead.outlet, self.cx.thread, &batch, &mut self.cx.reactor)?;
        ahead.sent += batch.len();
        ahead.next = next;
        if batch.len() < Outlet::MAX_BATCH {
            // All of the pool has gone, too: the round is over.
            ahead.rounds += 1;
            if ahead.sent <= FEW || ahead.rounds >= ROUNDS {
                ahead.done = None;
            }
            (ahead.next, ahead.sent) = (0, 0);
        }
        Ok(())
    }

    /// Stands still: writes everything down that can move, says so, and waits for what becomes of it.
    pub(super) fn freeze(&mut self, frozen: &Sender<Result<Written, String>>, verdict: &Receiver<Verdict>) {
        let (written, stood) = match self.write_down() {
            Ok((written, stood)) => (Ok(written), Some(stood)),
            Err(why) => (Err(why), None),
        };
        let told = frozen.send(written).is_ok();
        let (true, Some(stood)) = (told, stood) else {
            self.call_off();
            return;
        };
        match verdict.recv_timeout(VERDICT_LIMIT) {
            Ok(Verdict::Thaw) => self.call_off(),
            Ok(Verdict::Release { done }) => {
                self.release(stood);
                drop(done);
            }
            Err(_) => {
                tracing::error!(
                    "a data thread ends: its connections stood still for another worker, and it was not told within \
                     {VERDICT_LIMIT:?} whether they moved"
                );
                (self.running, self.stranded) = (false, true);
            }
        }
    }

    fn write_down(&mut self) -> Result<(Written, Stood), String> {
        self.send_rest()?;
        self.cx.clock.update();
        let Giving::Ahead(ahead) = &self.giving else { return Err("no sockets were sent ahead".to_owned()) };
        let mut sheet = Sheet::new(ahead.format);
        let (mut stood, mut counts) = (Stood::default(), Kinds::default());
        let mut unsent = 0_usize;
        let cx = &self.cx;
        let mut number = |io: &Io| {
            cx.reactor.number(io).unwrap_or_else(|| {
                unsent += 1;
                u64::MAX
            })
        };
        for (index, place) in (0_u32..).zip(&self.places) {
            let Some(conn) = place.conn.as_ref().filter(|conn| conn.is_movable(cx)) else { continue };
            sheet.push(conn, cx, &mut number);
            counts.count(conn);
            stood.places.push(index);
        }
        let now = cx.clock.tick();
        for (index, io, endpoint, until) in cx.upstreams.idle() {
            let left = Ticks(u32::try_from(until.saturating_sub(now)).unwrap_or(u32::MAX));
            sheet.push_idle(&endpoint.plan, io, left, cx, &mut number);
            stood.idle.push(index);
        }
        if unsent > 0 {
            return Err(format!("{unsent} sockets of connections were not sent"));
        }
        let section = Section { thread: thread_number(cx.thread), bytes: sheet.finish() };
        Ok((Written { section, counts }, stood))
    }

    /// Sends all sockets that are left, waiting if it must.
    fn send_rest(&mut self) -> Result<(), String> {
        let Giving::Ahead(ahead) = &mut self.giving else {
            return Err("no sockets were sent ahead".to_owned());
        };
        let rounds = ahead.rounds;
        (ahead.next, ahead.sent, ahead.done) = (0, 0, None);
        while matches!(&self.giving, Giving::Ahead(ahead) if ahead.rounds == rounds) {
            self.send_batch(usize::MAX).map_err(|lost| lost.to_string())?;
        }
        Ok(())
    }

    /// The move is off: all goes on here.
    pub(super) fn call_off(&mut self) {
        self.giving = Giving::No;
        self.cx.reactor.forget_numbers();
    }

    /// What was written down goes on elsewhere.
    fn release(&mut self, stood: Stood) {
        for index in stood.places {
            let Some(place) = self.places.get_mut(index as usize) else { continue };
            let key = ConnKey { index, stamp: place.stamp };
            if let Some(conn) = place.conn.take() {
                self.let_go(key, conn);
            }
        }
        for number in stood.idle {
            self.cx.upstreams.let_go(number, &mut self.cx.reactor);
        }
        self.cx.reactor.forget_numbers();
        self.stand_by();
        self.giving = match std::mem::replace(&mut self.giving, Giving::No) {
            Giving::Ahead(Ahead { outlet, format, .. }) => Giving::Late(Late { outlet, format, drain: None }),
            other => other,
        };
    }

    /// A connection goes on elsewhere: nobody is told.
    fn let_go(&mut self, key: ConnKey, conn: Conn) {
        self.kind_cell(&conn).sub(1);
        let listener = conn.listener();
        conn.let_go(&mut self.cx);
        self.cx.leave_listener(listener);
        self.vacate(key);
    }

    /// Sends a connection after the others, if it can move by now; gives it back if it stays.
    #[cold]
    pub(super) fn give_late(&mut self, key: ConnKey, mut conn: Conn) -> Option<Conn> {
        self.cx.refresh();
        let Giving::Late(late) = &self.giving else { return Some(conn) };
        // If there is no room, this thread is woken when there is, and looks at all that it has.
        if !conn.is_movable(&self.cx) || !late.outlet.may_send() {
            return Some(conn);
        }
        let Some((client, endpoint)) = conn.sockets() else { return Some(conn) };
        let mut sheet = Sheet::new(late.format);
        sheet.push(&conn, &self.cx, &mut |io| u64::from(!std::ptr::eq(io, client)));
        let state = Piece::from(sheet.finish());
        let sockets: Vec<BorrowedFd<'_>> =
            std::iter::once(client).chain(endpoint).map(|io| io.as_fd()).collect();
        let mut kinds = Kinds::default();
        kinds.count(&conn);
        let kind = kinds.named().next().map_or("connection", |(kind, _)| kind);
        match late.outlet.send_late_of(kind, thread_number(self.cx.thread), &state, &sockets) {
            Ok(()) => {
                self.let_go(key, conn);
                None
            }
            Err(Lost::Full) => Some(conn),
            Err(Lost::Ended) => {
                self.nobody_takes();
                // It is not in the table just now.
                self.retire_if_late(conn.listener(), &mut conn);
                Some(conn)
            }
            Err(why) => {
                tracing::warn!("a connection does not move to the other worker, and ends here: {why}");
                conn.retire(self.cx.clock.after(RETIRE_SPREAD), None);
                Some(conn)
            }
        }
    }

    /// There is room again at the other side, or it is gone.
    pub(super) fn woken(&mut self) {
        let Giving::Late(late) = &self.giving else { return };
        if late.outlet.has_ended() {
            self.nobody_takes();
            return;
        }
        for index in 0_u32.. {
            let Some(place) = self.places.get_mut(index as usize) else { return };
            let key = ConnKey { index, stamp: place.stamp };
            let Some(conn) = place.conn.take() else { continue };
            if let Some(conn) = self.give_late(key, conn) {
                self.wheel.arm(index, conn.deadline());
                if let Some(place) = self.places.get_mut(index as usize) {
                    place.conn = Some(conn);
                }
            }
        }
    }

    /// What is left here ends here.
    fn nobody_takes(&mut self) {
        if let Giving::Late(Late { drain: Some(spread), .. }) =
            std::mem::replace(&mut self.giving, Giving::No)
        {
            self.drain(spread);
        }
    }

    /// A drain begins. True: it waits, as long as connections go over instead of ending.
    pub(super) fn puts_off_drain(&mut self, spread: Ticks) -> bool {
        match &mut self.giving {
            Giving::Late(late) if !late.outlet.has_ended() => {
                late.drain = Some(spread);
                true
            }
            _ => false,
        }
    }
}

/// Sends sockets ahead and notes their numbers.
fn send_ahead(
    outlet: &Outlet,
    thread: usize,
    sockets: &[&Io],
    reactor: &mut crate::reactor::Reactor,
) -> Result<(), Lost> {
    if sockets.is_empty() {
        return Ok(());
    }
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|io| io.as_fd()).collect();
    let first = outlet.send_sockets(thread_number(thread), &descriptors)?;
    for (number, io) in (first..).zip(sockets) {
        if !reactor.note_number(io, number) {
            return Err(Lost::Refused("too many sockets were sent".to_owned()));
        }
    }
    Ok(())
}

/// The number of a thread, as other processes are told.
pub(super) fn thread_number(thread: usize) -> u32 {
    u32::try_from(thread).unwrap_or(u32::MAX)
}
