//! Whether a peer takes what was written to it slowly, or not at all.
//!
//! A full socket is said to be writable again only when a third of its send buffer is free: of the 4 MiB to which the
//! kernel lets it grow, that is more than a minute for a client that reads 20 KB/s. Nothing can be written meanwhile, and
//! yet the peer does not stand still. So the kernel is asked, a few times within the limit, how much it still holds.
//!
//! ```text
//!   written ──¼ limit──▶ look: remember ──¼──▶ look: less ⇒ the limit begins anew
//!                                                    as much, and the limit is over ⇒ the peer stands still
//! ```
//!
//! Since nothing is known of the time before the first look, a peer that takes nothing at all has up to a quarter more than the
//! limit. This costs nothing while bytes move.

use super::state::PatienceState;
use crate::clock::Ticks;
use crate::reactor::{Io, Reactor};

/// Looks within one limit.
const LOOKS: u32 = 4;

/// How long a peer that takes nothing is waited for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Patience {
    /// What the kernel held at the last look.
    held: Option<usize>,
    /// When it is over, if nothing is taken.
    over: u64,
}

impl Patience {
    /// Something was written, and there is more. Says when to look.
    pub(super) fn begin(&mut self, now: u64, limit: Ticks) -> u64 {
        self.held = None;
        self.renew(now, limit)
    }

    /// Asks how much is still held of what was written to this socket. Says when to look again; `None`: the peer stands still.
    pub(super) fn look(&mut self, io: &Io, reactor: &Reactor, now: u64, limit: Ticks) -> Option<u64> {
        let held = reactor.unsent_bytes(io).ok()?;
        self.seen(held, now, limit)
    }

    /// What is written down of it.
    pub(super) fn to_state(self, now: u64) -> PatienceState {
        PatienceState { held: self.held, left: self.over.saturating_sub(now) }
    }

    /// It goes on here.
    pub(super) fn from_state(state: PatienceState, now: u64) -> Self {
        Self { held: state.held, over: now + state.left }
    }

    fn seen(&mut self, held: usize, now: u64, limit: Ticks) -> Option<u64> {
        if self.held.replace(held).is_none_or(|before| held < before) {
            return Some(self.renew(now, limit));
        }
        (now < self.over).then(|| self.next_look(now, limit))
    }

    fn renew(&mut self, now: u64, limit: Ticks) -> u64 {
        // One more, because the present tick has begun already: never early.
        self.over = now + u64::from(limit.0) + 1;
        self.next_look(now, limit)
    }

    fn next_look(&self, now: u64, limit: Ticks) -> u64 {
        self.over.min(now + u64::from(limit.0 / LOOKS) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Ticks = Ticks(40);

    /// The tick at which a peer whose socket holds `held(tick)` is given up.
    fn given_up(held: impl Fn(u64) -> usize, until: u64) -> Option<u64> {
        let mut patience = Patience::default();
        let mut now = patience.begin(0, LIMIT);
        while now < until {
            match patience.seen(held(now), now, LIMIT) {
                Some(next) => {
                    assert!(next > now);
                    now = next;
                }
                None => return Some(now),
            }
        }
        None
    }

    #[test]
    fn a_peer_that_takes_nothing_is_given_up_soon_after_the_limit() {
        let at = given_up(|_| 1_000, 1_000).unwrap();
        assert!((41..=52).contains(&at), "{at}");
    }

    #[test]
    fn a_peer_that_takes_little_but_steadily_is_never_given_up() {
        assert_eq!(given_up(|tick| 1_000_000 - usize::try_from(tick).unwrap(), 100_000), None);
        // Not more often than once within the limit.
        assert_eq!(given_up(|tick| 1_000_000 - usize::try_from(tick / 40).unwrap(), 100_000), None);
    }

    #[test]
    fn what_is_known_of_a_peer_holds_in_a_process_with_another_clock() {
        let mut patience = Patience::default();
        let next = patience.begin(100, LIMIT);
        assert!(patience.seen(1_000, next, LIMIT).is_some());
        let mut moved = Patience::from_state(patience.to_state(120), 7_000_120);
        for now in 121..160 {
            let there = moved.seen(1_000, 7_000_000 + now, LIMIT).map(|next| next - 7_000_000);
            assert_eq!(patience.seen(1_000, now, LIMIT), there, "{now}");
        }
        assert_eq!(moved.seen(1_000, 7_000_160, LIMIT), None);
    }

    #[test]
    fn a_peer_that_stops_is_given_up_the_limit_later() {
        let at = given_up(|tick| 1_000 - usize::try_from(tick.min(500)).unwrap(), 1_000).unwrap();
        assert!((540..=563).contains(&at), "{at}");
    }
}
