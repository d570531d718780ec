//! Moving live connections from the worker that serves to the one that will: what a service does for it.
//!
//! ```text
//!   giver (serves)                                       taker (stands by)
//!     precopy ── sockets, in batches, while it serves ───▶ sockets   kept, not waited on
//!     freeze  ── the newest sockets, then all states ────▶ adopt     validates all, serves none
//!        │ ◀──────────────────────────────────── ready ─────│
//!     release ── commit ─────────────────────────────────▶ serve     cannot fail
//!     drain   ── what ends its step, one by one ─────────▶ late
//!
//!   anything fails before the commit: the taker is dead for certain, then  thaw  ─ the giver serves on
//! ```
//!
//! A service that can move its connections implements [`Moving`] and says so in [`Service::moving`].
//! For one that does not, the new worker accepts and the old one drains.
//!
//! The library owns the conversation, its deadlines and its failures; the service owns the connections and how they are
//! written down. Nothing here has a path in the file system: the two workers talk over a socket pair.

mod calls;
mod flow;
mod frozen;
mod giver;
mod giving;
mod link;
mod outlet;
mod probe;
mod taker;
mod taking;
#[cfg(test)]
mod tests;
mod waiting;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::service::Service;

pub use frozen::{Frozen, FrozenView, Piece, Section};
pub(crate) use giving::{Gave, Give, Giving};
pub use outlet::{Lost, Outlet, Sink};
pub use probe::Probe;
pub(crate) use taking::{Take, Taking, Took};
pub(crate) use wire::Sample;

/// Environment variable with the newest format that a worker may state, whatever it knows: for upgrades to a build that
/// will have to be left for an older one again, and for tests of that.
pub const STATE_FORMAT_VARIABLE: &str = "HANDOVER_STATE_FORMAT";

/// How many connections moved, by kind: `http`, `tunnel`, `tcp`.
pub type Counts = BTreeMap<String, u64>;

/// What a service does to hand its live connections to another process, and to take them over. The same service does both
/// in its life, any number of times: an unconfirmed upgrade that is taken back moves everything the other way round.
///
/// [`Moving::stand_by`] and [`Moving::probe`] are called from the worker's control thread and return at once; [`Moving::formats`]
/// and [`Moving::threads`] are asked from anywhere. All others are called from a thread of the move, never two at the same
/// time, and may block for as long as each says. A panic before the commit calls the move off; one in [`Moving::release`] or
/// [`Moving::serve`] ends the process.
pub trait Moving: Send + Sync {
    /// The formats in which connections can be written and read, oldest and newest. Both workers use the newest that both
    /// know; if there is none, nothing moves: the new one accepts and the old one drains.
    fn formats(&self) -> RangeInclusive<u16>;

    /// How many threads serve connections, at least 1: each answers a [`Probe`] of its own.
    fn threads(&self) -> u32;

    // ---- giving ----

    /// Sends the sockets of open connections ahead, in batches, from the threads that serve them and while they do
    /// ([`Outlet::send_sockets`]). It has four seconds, the freeze three. Returns when nearly all are sent, or when [`Outlet::has_ended`]. A connection that
    /// ends from now on must be shut down (shutdown(2)) as well as closed, since another process has its socket too.
    ///
    /// `outlet` and `format` are those of this move: for [`Moving::freeze`] and what follows too.
    fn precopy(&self, outlet: &Arc<Outlet>, format: u16);

    /// Stops every thread, sends the sockets that were not sent yet, and writes down all connections that can move.
    /// What it wrote may still be forgotten: nothing is changed by it. New connections wait in the accept queues.
    ///
    /// # Errors
    /// One sentence why it cannot be done; [`Moving::thaw`] is not called then, all must go on as before by itself.
    fn freeze(&self) -> Result<Frozen, String>;

    /// The move was called off, and the taker is dead for certain: all goes on as before the freeze (or during
    /// `precopy`, which has returned). Must return at once.
    fn thaw(&self);

    /// Committed: lets go of all that was in [`Frozen`] (deregister, then close, without goodbye) and accepts nothing from
    /// now on. Every connection that becomes movable later is sent by [`Outlet::send_late`]. A
    /// [`Service::drain`] follows for the rest. Cannot fail; returns when every thread has let go.
    fn release(&self);

    /// What was counted since [`Moving::freeze`], for [`Moving::add_totals`] of the other worker: called once, when the
    /// drain is over.
    fn totals(&self) -> Vec<u8> {
        Vec::new()
    }

    // ---- taking ----

    /// From now on, publish what is committed without accepting anything: this worker is a candidate. Called before its first
    /// [`Candidate::commit`](crate::Candidate::commit); [`Moving::serve`] or [`Service::resume`]
    /// ends it.
    fn stand_by(&self);

    /// Has every thread accept exactly one connection from the probe's socket, in the way in which it accepts all others,
    /// write [`Probe::answer`] into it, close it, and say [`Probe::answered`]. Returns at once.
    fn probe(&self, probe: Arc<Probe>);

    /// Takes sockets that were sent ahead, numbered from `first` on, which came from the other worker's thread `thread`: all
    /// sockets of one connection come from the same one, and its state too. They may be made known to a poller, but not
    /// be read, written or shut down. Must return soon: the giver sends no more until it has.
    fn sockets(&self, thread: u32, first: u64, sockets: Vec<OwnedFd>);

    /// Reads all that was frozen, checks all of it, and serves none of it yet. Says what it has adopted.
    ///
    /// # Errors
    /// One sentence. The move is called off, and this process is ended.
    fn adopt(&self, format: u16, frozen: FrozenView) -> Result<Counts, String>;

    /// Serves what was adopted, and accepts. Sockets that were sent ahead and that no adopted connection names are
    /// taken out of pollers and closed, without shutting them down: their connections may come late. If nothing was
    /// adopted (the giver has died early), that is all of them. Cannot fail.
    fn serve(&self);

    /// Takes and serves one connection that was not movable at the freeze. Its state names its sockets by their places in
    /// `sockets`, from 0. Must return soon. If it cannot be read, it is closed and counted by the service.
    fn late(&self, format: u16, thread: u32, state: &[u8], sockets: Vec<OwnedFd>);

    /// Adds what the other worker has counted since its freeze; called once, when it has drained.
    fn add_totals(&self, _totals: &[u8]) {}
}

/// The formats that this process states; `None` if its connections cannot move.
pub(crate) fn formats(service: &dyn Service) -> Option<RangeInclusive<u16>> {
    let formats = service.moving()?.formats();
    let newest = std::env::var(STATE_FORMAT_VARIABLE).ok().and_then(|text| text.parse().ok());
    let newest = newest.map_or(*formats.end(), |newest: u16| newest.min(*formats.end()));
    (newest >= *formats.start()).then(|| *formats.start()..=newest)
}
