//! The thread takes connections that another worker has served.
//!
//! ```text
//!   StandBy: holds the listeners, accepts nothing
//!   Sockets: registered, for nobody: events are noted, nothing is read
//!   TakeIn:  states are read; connections are made of them, beside the table ──anything wrong──▶ all is let go
//!   Serve:   into the table; those that have something to do run; accepts
//!   Late:    one more, with its sockets: into the table, and runs
//! ```
//!
//! What was sent and is named by no state is closed without being shut down: the other worker goes on with it.

use handover::moving::Piece;

use super::giving::Kinds;
use super::*;
use crate::conn::state;
use crate::reactor::{Io, Reactor};
use crate::upstream::Endpoint;

/// Sockets that came together, numbered from `first` on.
#[derive(Debug)]
struct Batch {
    first: u64,
    sockets: Vec<Option<Io>>,
}

/// What has been taken and is not served yet.
#[derive(Debug, Default)]
pub(super) struct Taking {
    batches: Vec<Batch>,
    adopted: Vec<(ConnKey, Conn)>,
    /// Idle connections to endpoints: with the position of their service, and how long they may stay.
    idle: Vec<(Io, usize, Rc<Endpoint>, Ticks)>,
}

impl Taking {
    /// Takes the socket of this number out of those that came. Batches are in order.
    fn socket(batches: &mut [Batch], number: u64) -> Option<Io> {
        let batch = batches.partition_point(|batch| batch.first <= number).checked_sub(1)?;
        let batch = batches.get_mut(batch)?;
        batch.sockets.get_mut(usize::try_from(number - batch.first).ok()?)?.take()
    }
}

impl EventLoop {
    /// Holds the listeners and accepts nothing, until [`Command::Serve`] or [`Command::Resume`].
    pub(super) fn stand_by(&mut self) {
        self.standing = true;
        self.accept_again = None;
        for number in 0..self.cx.listeners.capacity() {
            self.unwatch(number);
        }
    }

    /// Sockets have come ahead of their connections.
    pub(super) fn take_sockets(&mut self, first: u64, sockets: Vec<OwnedFd>) {
        let reactor = &mut self.cx.reactor;
        let take = |fd| match reactor.receive(fd) {
            Ok(io) => Some(io),
            Err(errno) => {
                tracing::error!("a connection of the other worker cannot be watched: {errno}");
                None
            }
        };
        let sockets = sockets.into_iter().map(take).collect();
        self.taking.batches.push(Batch { first, sockets });
    }

    /// Reads what another worker's threads have written down, and makes connections of it. All or nothing.
    pub(super) fn take_in_all(&mut self, format: u16, sections: &[Piece]) -> Result<Kinds, String> {
        self.taking.batches.sort_by_key(|batch| batch.first);
        self.cx.refresh();
        self.cx.clock.update();
        for section in sections {
            if let Err(error) = self.adopt_section(format, section) {
                self.abandon();
                return Err(error.to_string());
            }
        }
        let mut counts = Kinds::default();
        self.taking.adopted.iter().for_each(|(_, conn)| counts.count(conn));
        Ok(counts)
    }

    fn adopt_section(&mut self, format: u16, bytes: &[u8]) -> Result<(), state::StateError> {
        let section = state::read(format, bytes)?;
        let places = section.places(&self.cx)?;
        self.taking.adopted.reserve(section.conns.len());
        for parsed in section.conns {
            let key = self.claim();
            let batches = &mut self.taking.batches;
            let mut take = |number| Taking::socket(batches, number);
            match parsed.into_conn(&places, &mut self.cx, key, &mut take) {
                Ok(conn) => self.taking.adopted.push((key, conn)),
                Err(error) => {
                    self.give_up(key);
                    return Err(error);
                }
            }
        }
        for parsed in section.idle {
            let left = parsed.left;
            let batches = &mut self.taking.batches;
            let mut take = |number| Taking::socket(batches, number);
            if let Some((io, service, endpoint)) = parsed.into_io(&places, &mut self.cx, &mut take)? {
                self.taking.idle.push((io, service, endpoint, left));
            }
        }
        Ok(())
    }

    /// A place in the table that is free.
    pub(super) fn claim(&mut self) -> ConnKey {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
                self.places.push(Place { stamp: 0, queued: false, in_steps: false, conn: None });
                index
            }
        };
        ConnKey { index, stamp: self.places.get(index as usize).map_or(0, |place| place.stamp) }
    }

    /// A claimed place is not needed.
    fn give_up(&mut self, key: ConnKey) {
        if let Some(place) = self.places.get_mut(key.index as usize) {
            place.stamp = place.stamp.wrapping_add(1);
            self.free.push(key.index);
        }
    }

    /// Lets go of all that was taken and is not served: its peers notice nothing, as long as another process has the sockets.
    fn abandon(&mut self) {
        let Taking { batches, adopted, idle } = std::mem::take(&mut self.taking);
        for (key, conn) in adopted {
            conn.let_go(&mut self.cx);
            self.give_up(key);
        }
        idle.into_iter().for_each(|(io, ..)| self.cx.reactor.discard(io));
        discard_all(batches, &mut self.cx.reactor);
    }

    /// Serves what was taken, and accepts. Those that have something to do run at the end of this turn.
    pub(super) fn serve(&mut self) {
        // What was left here of an earlier move goes on, too.
        self.resume();
        let Taking { batches, adopted, idle } = std::mem::take(&mut self.taking);
        for (key, conn) in adopted {
            let rests = conn.is_at_rest(&self.cx);
            self.install(key, conn);
            if !rests && let Some(place) = self.places.get_mut(key.index as usize) {
                place.queued = true;
                self.again.push(key);
            }
        }
        for (io, service, endpoint, left) in idle {
            let local = Rc::clone(self.cx.local());
            let until = self.cx.clock.after(left);
            match local.generation.services.get(service) {
                Some(plan) => self.cx.upstreams.keep(&endpoint, io, plan, until, &mut self.cx.reactor),
                None => self.cx.reactor.close(io),
            }
        }
        discard_all(batches, &mut self.cx.reactor);
    }

    /// A connection is one of this thread's from now on.
    fn install(&mut self, key: ConnKey, conn: Conn) {
        self.watches.note();
        let number = conn.listener();
        self.kind_cell(&conn).add(1);
        if let Some(listener) = self.cx.listener(number) {
            listener.open_everywhere.fetch_add(1, Ordering::Relaxed);
            listener.open.set(listener.open.get() + 1);
            if let Some(plan) = listener.plan() {
                plan.cells.of(self.cx.thread).open.add(1);
            }
        }
        self.count_here();
        self.wheel.arm(key.index, conn.deadline());
        if let Some(place) = self.places.get_mut(key.index as usize) {
            place.conn = Some(conn);
        }
    }

    /// One more connection, after all others.
    pub(super) fn take_late(&mut self, format: u16, bytes: &[u8], sockets: Vec<OwnedFd>) {
        self.cx.refresh();
        let mut received = Vec::new();
        let mut why = None;
        for fd in sockets {
            match self.cx.reactor.receive(fd) {
                Ok(io) => received.push(Some(io)),
                Err(errno) => why = Some(format!("its socket cannot be watched: {errno}")),
            }
        }
        let mut batches = vec![Batch { first: 0, sockets: received }];
        let taken = match why {
            Some(why) => Err(why),
            None => self.take_one(format, bytes, &mut batches).map_err(|error| error.to_string()),
        };
        discard_all(batches, &mut self.cx.reactor);
        match taken {
            Ok((key, mut conn)) => {
                let listener = conn.listener();
                self.retire_if_late(listener, &mut conn);
                self.install(key, conn);
                self.drive(key);
            }
            Err(why) => {
                tracing::warn!("a connection of the other worker is lost: {why}");
                self.cx.cells().moves_failed.add(1);
            }
        }
    }

    fn take_one(
        &mut self,
        format: u16,
        bytes: &[u8],
        batches: &mut [Batch],
    ) -> Result<(ConnKey, Conn), state::StateError> {
        let section = state::read(format, bytes)?;
        let places = section.places(&self.cx)?;
        let mut conns = section.conns.into_iter();
        let (Some(parsed), None) = (conns.next(), conns.next()) else {
            return Err(state::StateError::Value("the number of connections that come late"));
        };
        let key = self.claim();
        let mut take = |number| Taking::socket(batches, number);
        match parsed.into_conn(&places, &mut self.cx, key, &mut take) {
            Ok(conn) => Ok((key, conn)),
            Err(error) => {
                self.give_up(key);
                Err(error)
            }
        }
    }
}

/// Closes what nobody has named, and says nothing to its peers.
fn discard_all(batches: Vec<Batch>, reactor: &mut Reactor) {
    for batch in batches {
        batch.sockets.into_iter().flatten().for_each(|io| reactor.discard(io));
    }
}
