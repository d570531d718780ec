//! Live connections go to another worker, and come from one: what the data plane's threads do about it, together.
//!
//! ```text
//!                     ┌─────────────────── serve, resume ───────────────────┐
//!                     ▼                                                     │
//!   stand_by ──▶ standing by ──serve──▶ serving ──precopy──▶ going ahead ──release──▶ given away: standing by again; what is
//!                     │                    ▲                    │   │                 left goes late, or drains
//!                  sockets                 └──thaw── standing still ◀── freeze
//!                  adopt (nothing is
//!                  served by it)
//! ```
//!
//! Each thread writes down its own connections, in one section, and sends their sockets itself: see `event_loop/giving.rs`.
//! A thread of the taker gets those of one or more threads of the giver, by their numbers: see `event_loop/taking.rs`. How
//! a connection is written down is in `conn/state`.

pub(crate) mod bytes;
mod common;
pub(crate) mod facts;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use handover::moving::{Counts, Frozen, FrozenView, Outlet, Piece, Probe};

use crate::event_loop::{Command, Kinds, Verdict, Written};
use crate::metrics::Totals;
use crate::threads::{Rotation, Shared, Threads};
use common::Common;

/// Sending sockets ahead takes a fraction of a second; what has not gone by then goes in the freeze.
const AHEAD_LIMIT: Duration = Duration::from_secs(10);
/// Threads stand still, or have read what came, within milliseconds. If one has not within this time, there is no move.
const STILL_LIMIT: Duration = Duration::from_secs(5);

/// Where a worker is in moving connections.
#[derive(Debug, Default)]
pub(crate) struct Mover {
    standing: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How threads that stand still learn what becomes of it.
    verdicts: Vec<Sender<Verdict>>,
    /// What had been counted when they stood still.
    at_freeze: Option<Totals>,
    /// What came with the connections that were adopted.
    taken: Option<Common>,
}

impl Mover {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True while another worker serves, or will until this one is told to.
    pub(crate) fn is_standing(&self) -> bool {
        self.standing.load(Ordering::Relaxed)
    }

    /// From now on nothing is accepted; threads that start later are told by who starts them.
    pub(crate) fn stand_by(&self, threads: Option<&Threads>) {
        self.standing.store(true, Ordering::Relaxed);
        if let Some(threads) = threads {
            threads.ask(|done| Command::StandBy { done });
        }
    }

    /// The worker serves again, without anything having come from another.
    pub(crate) fn resumed(&self) {
        self.standing.store(false, Ordering::Relaxed);
        *self.state() = State::default();
    }

    // ---- giving ----

    /// See [`handover::moving::Moving::precopy`].
    pub(crate) fn precopy(&self, threads: &Threads, outlet: &Arc<Outlet>, format: u16) {
        *self.state() = State::default();
        threads.wake_by(outlet);
        let (done, all_done) = channel();
        threads.tell(|| Command::Precopy { outlet: Arc::clone(outlet), format, done: done.clone() });
        drop(done);
        if all_done.recv_timeout(AHEAD_LIMIT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(
                "not all sockets went to the other worker within {AHEAD_LIMIT:?}: the rest goes while connections stand \
                 still"
            );
        }
    }

    /// See [`handover::moving::Moving::freeze`].
    pub(crate) fn freeze(&self, threads: &Threads, shared: &Shared) -> Result<Frozen, String> {
        let (frozen, all) = channel();
        let mut verdicts = Vec::new();
        threads.tell(|| {
            let (tell, verdict) = channel();
            verdicts.push(tell);
            Command::Freeze { frozen: frozen.clone(), verdict }
        });
        drop(frozen);
        let until = Instant::now() + STILL_LIMIT;
        let written = verdicts.iter().map(|_| {
            let left = until.saturating_duration_since(Instant::now());
            all.recv_timeout(left)
                .unwrap_or_else(|_| Err(format!("a data thread did not stand still within {STILL_LIMIT:?}")))
        });
        let written: Result<Vec<Written>, String> = written.collect();
        match written {
            Ok(written) => {
                let totals = shared.metrics.totals();
                let common = common::write(&shared.tickets.export(), &totals);
                let mut frozen = Frozen::default();
                frozen.common = common;
                for Written { section, counts } in written {
                    add(&mut frozen.moved, counts);
                    frozen.sections.push(section);
                }
                let mut state = self.state();
                (state.verdicts, state.at_freeze) = (verdicts, Some(totals));
                Ok(frozen)
            }
            Err(why) => {
                // Those that stand still go on; the others do not begin to.
                drop(all);
                thaw_all(&verdicts);
                Err(why)
            }
        }
    }

    /// See [`handover::moving::Moving::thaw`].
    pub(crate) fn thaw(&self, threads: &Threads) {
        let State { verdicts, .. } = std::mem::take(&mut *self.state());
        if verdicts.is_empty() {
            threads.tell(|| Command::CallOff);
        }
        thaw_all(&verdicts);
    }

    /// See [`handover::moving::Moving::release`].
    pub(crate) fn release(&self, threads: &Threads) {
        self.standing.store(true, Ordering::Relaxed);
        let verdicts = std::mem::take(&mut self.state().verdicts);
        let mut verdicts = verdicts.into_iter();
        threads.ask_each(|done| {
            // Who is gone has nothing to let go of.
            verdicts.next().into_iter().for_each(|verdict| {
                let _ = verdict.send(Verdict::Release { done: done.clone() });
            });
        });
    }

    /// See [`handover::moving::Moving::totals`].
    pub(crate) fn totals(&self, shared: &Shared) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(before) = &self.state().at_freeze {
            shared.metrics.totals().since(before).write(&mut out);
        }
        out
    }

    // ---- taking ----

    /// See [`handover::moving::Moving::probe`].
    pub(crate) fn probe(&self, threads: &Threads, probe: &Arc<Probe>) {
        threads.tell(|| Command::Probe(Arc::clone(probe)));
    }

    /// See [`handover::moving::Moving::sockets`].
    pub(crate) fn sockets(&self, threads: &Threads, thread: u32, first: u64, sockets: Vec<OwnedFd>) {
        threads.send(of_thread(thread, threads), Command::Sockets { first, sockets });
    }

    /// See [`handover::moving::Moving::adopt`].
    pub(crate) fn adopt(&self, threads: &Threads, format: u16, frozen: FrozenView) -> Result<Counts, String> {
        let taken_in_common = common::read(&frozen.common)?;
        let mut by_thread: Vec<Vec<Piece>> = vec![Vec::new(); threads.count()];
        for (thread, section) in frozen.sections {
            by_thread
                .get_mut(of_thread(thread, threads))
                .into_iter()
                .for_each(|all| all.push(section.clone()));
        }
        let (taken, all) = channel();
        for (thread, sections) in by_thread.into_iter().enumerate() {
            threads.send(thread, Command::TakeIn { format, sections, taken: taken.clone() });
        }
        drop(taken);
        let until = Instant::now() + STILL_LIMIT;
        let mut counts = Counts::new();
        let mut result = Ok(());
        for _ in 0..threads.count() {
            let left = until.saturating_duration_since(Instant::now());
            let taken = all.recv_timeout(left).unwrap_or_else(|_| {
                Err(format!("a data thread did not take its connections within {STILL_LIMIT:?}"))
            });
            match taken {
                Ok(kinds) => add(&mut counts, kinds),
                Err(why) => result = Err(why),
            }
        }
        result?;
        self.state().taken = Some(taken_in_common);
        Ok(counts)
    }

    /// See [`handover::moving::Moving::serve`].
    pub(crate) fn serve(&self, threads: &Threads, shared: &Shared) {
        self.standing.store(false, Ordering::Relaxed);
        let State { taken, .. } = std::mem::take(&mut *self.state());
        if let Some(Common { keys, totals }) = taken {
            // Before any of the threads counts; keys were tried before.
            shared.metrics.go_on_from(&totals);
            let _ = shared.tickets.import(&keys, SystemTime::now());
        }
        threads.ask(|done| Command::Serve { done });
        Rotation::new(shared).carry();
    }

    /// See [`handover::moving::Moving::late`].
    pub(crate) fn late(
        &self,
        threads: &Threads,
        format: u16,
        thread: u32,
        state: &[u8],
        sockets: Vec<OwnedFd>,
    ) {
        let state = Piece::from(state.to_vec());
        threads.send(of_thread(thread, threads), Command::Late { format, state, sockets });
    }

    /// See [`handover::moving::Moving::add_totals`].
    pub(crate) fn add_totals(&self, shared: &Shared, totals: &[u8]) {
        if totals.is_empty() {
            return;
        }
        match Totals::read(&mut bytes::Input::new(totals)) {
            Ok(totals) => shared.metrics.add_totals(&totals),
            Err(error) => {
                tracing::warn!("what the worker before counted at its end is not counted here: {error}")
            }
        }
    }
}

fn thaw_all(verdicts: &[Sender<Verdict>]) {
    for verdict in verdicts {
        // Who could not stand still goes on anyway.
        let _ = verdict.send(Verdict::Thaw);
    }
}

fn add(counts: &mut Counts, kinds: Kinds) {
    for (kind, count) in kinds.named() {
        *counts.entry(kind.to_owned()).or_default() += count;
    }
}

/// The thread here that gets what a thread of the other worker had.
fn of_thread(thread: u32, threads: &Threads) -> usize {
    usize::try_from(thread).unwrap_or_default() % threads.count().max(1)
}
