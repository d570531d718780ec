//! Two workers, as they move everything from one to the other: over a socket pair of their own, of which the supervisor
//! knows nothing but what they tell.
//!
//! ```text
//!   giver    HandOver ─▶ State ────────────────────▶ Ack ─▶ Commit: accepts nothing more ─▶ HandedOver … Drained
//!   taker    TakeOver ──────────▶ checks it ─▶ Ack ──────────────▶ accepts ─▶ TookOver
//! ```
//!
//! Before its commit the giver calls the whole off when the taker dies or its time is over: it kills the taker and goes on
//! when that is dead. When the giver dies, the taker serves what it has.

use std::time::Duration;

use handover_lifecycle::{CallKey, Event, WorkerKey};

use crate::worker::{Act, Worker};
use crate::world::{Happening, World};

/// One side of a move.
#[derive(Clone, Debug)]
pub(crate) struct Move {
    pub(crate) call: CallKey,
    peer: WorkerKey,
    gives: bool,
    limit: Duration,
    /// The taker: has checked what it got, and said so.
    pub(crate) acked: bool,
    /// The giver: has said that the other one serves.
    committed: bool,
    /// The giver: calls it off.
    aborts: bool,
    /// The last message on its way to the other one.
    sent: Duration,
}

/// What the two tell each other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer {
    State,
    Ack,
    Commit,
    /// The other one is dead.
    Gone,
}

impl Move {
    /// Whether this one may yet come to accept by itself, or goes on accepting.
    pub(crate) fn is_open(&self) -> bool {
        !self.committed
    }
}

impl World {
    /// The two ends of a new socket pair, and each other's pidfd, on their way to the two.
    pub(crate) fn hand_over(&mut self, call: CallKey, from: WorkerKey, to: WorkerKey, times: [Duration; 2]) {
        let life = self.life;
        for (worker, act) in [(from, Act::Give(call, to, times[0], times[1])), (to, Act::Take(call, from))] {
            let wait = self.rng.millis(0, 3);
            let at = self.now + wait;
            let Some(told) = self.worker(worker).filter(|w| w.connected && w.life == life) else { continue };
            told.inbound = told.inbound.max(at);
            let at = told.inbound;
            self.at(at, Happening::Act { worker, act });
        }
        if self.faulty(self.faults.channel) {
            let worker = if self.rng.chance(500) { from } else { to };
            self.act_later(worker, 0, 60, Act::LoseChannel);
        }
        self.meddle();
        self.meddle_with_move(from, to);
    }

    /// Somebody dies in the middle of it.
    fn meddle_with_move(&mut self, from: WorkerKey, to: WorkerKey) {
        if !self.faulty(self.faults.moving) {
            return;
        }
        for victim in [Some(from), Some(to), None] {
            if self.rng.chance(400) {
                let wait = self.rng.millis(0, 150);
                self.later(
                    wait,
                    match victim {
                        Some(worker) => Happening::Act { worker, act: Act::Die },
                        None => Happening::KillSupervisor,
                    },
                );
            }
        }
    }

    /// From here it does nothing any more.
    fn hang(&mut self, key: WorkerKey) {
        if let Some(worker) = self.worker(key) {
            (worker.sick, worker.hung) = (true, true);
        }
    }

    fn tell_peer(&mut self, key: WorkerKey, what: Peer) {
        let wait = self.rng.millis(0, 20);
        let at = self.now + wait;
        let Some(moving) = self.worker(key).and_then(|worker| worker.moving.as_mut()) else { return };
        moving.sent = moving.sent.max(at);
        let (at, peer, call) = (moving.sent, moving.peer, moving.call);
        self.at(at, Happening::ToPeer { worker: peer, call, what });
    }

    pub(crate) fn give(&mut self, key: WorkerKey, call: CallKey, to: WorkerKey, times: [Duration; 2]) {
        let Some(worker) = self.worker(key) else { return };
        let [within, limit] = times;
        let (acked, committed, aborts, sent) = (false, false, false, Duration::ZERO);
        worker.moving = Some(Move { call, peer: to, gives: true, limit, acked, committed, aborts, sent });
        if self.faulty(self.faults.moving) {
            return self.hang(key);
        }
        self.later(within, Happening::Act { worker: key, act: Act::CallOff(call) });
        if self.worker(to).is_none() {
            return self.hear_peer(key, call, Peer::Gone);
        }
        self.tell_peer(key, Peer::State);
    }

    pub(crate) fn take(&mut self, key: WorkerKey, call: CallKey, from: WorkerKey) {
        let Some(worker) = self.worker(key) else { return };
        let (limit, acked, committed, aborts) = (Duration::ZERO, false, false, false);
        let sent = Duration::ZERO;
        let early = std::mem::take(&mut worker.early);
        worker.moving = Some(Move { call, peer: from, gives: false, limit, acked, committed, aborts, sent });
        for (of, what) in early {
            self.hear_peer(key, of, what);
        }
        if self.worker(from).is_none() {
            self.hear_peer(key, call, Peer::Gone);
        }
    }

    pub(crate) fn hear_peer(&mut self, key: WorkerKey, call: CallKey, what: Peer) {
        let fault = self.faulty(self.faults.moving);
        let dies = fault && self.rng.chance(500);
        let Some(worker) = self.worker(key).filter(|worker| !worker.killed && !worker.hung) else { return };
        let Some(moving) = worker.moving.as_mut().filter(|moving| moving.call == call) else {
            // Its end of the pair is not here yet.
            return worker.early.push((call, what));
        };
        match (what, moving.gives) {
            (Peer::State | Peer::Commit, true) | (Peer::Ack, false) => {}
            (Peer::State, false) if fault => match self.rng.below(3) {
                0 => self.hang(key),
                // It cannot read what it was sent.
                1 => self.die(key),
                _ => self.act_later(key, 0, 30, Act::Die),
            },
            (Peer::State, false) => {
                moving.acked = true;
                self.tell_peer(key, Peer::Ack);
            }
            (Peer::Ack, true) if moving.aborts => {}
            (Peer::Ack, true) if dies => self.die(key),
            (Peer::Ack, true) => self.commit_move(key, call, fault),
            (Peer::Commit, false) if dies => self.die(key),
            (Peer::Commit, false) if fault => self.hang(key),
            (Peer::Commit, false) => self.has_taken(key, call, true),
            (Peer::Gone, true) if !moving.committed => self.call_off(key, call),
            (Peer::Gone, true) => {}
            (Peer::Gone, false) => self.has_taken(key, call, false),
        }
    }

    fn commit_move(&mut self, key: WorkerKey, call: CallKey, fault: bool) {
        let Some(worker) = self.worker(key) else { return };
        let Some(moving) = &mut worker.moving else { return };
        moving.committed = true;
        let (limit, accepted) = (moving.limit, worker.accepting);
        worker.accepting = false;
        worker.standby = true;
        worker.drain = Some(call);
        worker.drained = None;
        worker.guard = None;
        self.tell_peer(key, Peer::Commit);
        if !accepted {
            self.break_rule(10, format!("{key} hands over, and accepted nothing"));
        }
        if fault && self.rng.chance(400) {
            return self.die(key);
        }
        self.say(key, Event::HandedOver { worker: key, call });
        if fault {
            return self.hang(key);
        }
        self.drain_for(key, call, limit);
    }

    /// The rest of the connections ends, or is cut.
    pub(crate) fn drain_for(&mut self, key: WorkerKey, call: CallKey, limit: Duration) {
        let natural = self.rng.millis(0, 40_000);
        let natural = if self.rng.chance(700) || self.calm { natural / 1000 } else { natural };
        let (wait, clean) = if natural > limit { (limit, false) } else { (natural, true) };
        self.later(wait, Happening::Act { worker: key, act: Act::EndDrain(call, clean) });
    }

    /// From here it serves.
    fn has_taken(&mut self, key: WorkerKey, call: CallKey, clean: bool) {
        let Some(worker) = self.worker(key) else { return };
        worker.moving = None;
        worker.standby = false;
        worker.accepting = true;
        worker.drain = None;
        worker.drained = None;
        worker.took_over = Some(call);
        self.tally.took += 1;
        self.say(key, Event::TookOver { worker: key, call, clean });
        // It says that another one has failed, too.
        if self.faulty(self.faults.stray) {
            self.say(key, Event::HandoffFailed { worker: key, call });
        }
    }

    /// The giver calls it off: the other one must be dead before it goes on.
    pub(crate) fn call_off(&mut self, key: WorkerKey, call: CallKey) {
        let Some(worker) = self.worker(key).filter(|worker| !worker.killed && !worker.hung) else { return };
        let Some(moving) = worker.moving.as_mut().filter(|m| m.call == call && m.gives && !m.committed)
        else {
            return;
        };
        moving.aborts = true;
        let peer = moving.peer;
        match self.workers.iter().find(|other| other.key == peer && other.alive).map(|other| other.killed) {
            None => {
                let Some(worker) = self.worker(key) else { return };
                worker.moving = None;
                self.tally.stayed += 1;
                self.say(key, Event::HandoffFailed { worker: key, call });
            }
            Some(killed) => {
                if !killed {
                    self.kill(peer);
                }
                self.later(Duration::from_millis(5), Happening::Act { worker: key, act: Act::CallOff(call) });
            }
        }
    }

    /// A worker has died: the other side of its move hears of it, after all that it had said.
    pub(crate) fn tell_peer_of_death(&mut self, key: WorkerKey) {
        let dead = self.workers.iter().find(|worker| worker.key == key).and_then(|dead| dead.moving.as_ref());
        let at = dead.map_or(self.now, |moving| moving.sent.max(self.now));
        let waits = |other: &&Worker| other.moving.as_ref().is_some_and(|moving| moving.peer == key);
        let others = self.workers.iter().filter(waits);
        let calls = others.filter_map(|other| Some((other.key, other.moving.as_ref()?.call)));
        for (worker, call) in calls.collect::<Vec<_>>() {
            self.at(at, Happening::ToPeer { worker, call, what: Peer::Gone });
        }
    }

    /// Rule 10: of all that live at most one accepts, and none can come to accept besides it.
    pub(crate) fn check_accepting(&mut self) {
        let now = self.machine_time();
        let kill = self.limits.kill;
        let runs = |worker: &&Worker| {
            worker.alive && worker.accepting && !(worker.killed && worker.killed_at + kill <= now)
        };
        let mut accepting = self.workers.iter().filter(runs).map(|worker| worker.key);
        if let (Some(one), Some(other)) = (accepting.next(), accepting.next()) {
            self.break_rule(10, format!("{one} and {other} accept"));
        }
    }

    /// Rule 10 for one that is told to resume: whoever has, or may have, taken over from it must be dead.
    pub(crate) fn check_resume(&mut self, key: WorkerKey) {
        let now = self.machine_time();
        let kill = self.limits.kill;
        let may = |other: &&Worker| {
            let runs = other.alive && !(other.killed && other.killed_at + kill <= now);
            let moves = other.moving.as_ref().is_some_and(|moving| moving.is_open());
            other.key != key && runs && (other.accepting || moves)
        };
        if let Some(other) = self.workers.iter().find(may).map(|other| other.key) {
            self.break_rule(10, format!("{key} is told to resume while {other} may accept"));
        }
    }
}
