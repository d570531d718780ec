//! Workers as a model: they read the disk, prepare, switch, drain — and die, hang, or speak twice.

use std::time::Duration;

use handover_lifecycle::{
    CallKey, CandidateKey, Event, GenerationNumber, Message, OperationKey, Source, WorkerKey,
};

use crate::moving::{Move, Peer};
use crate::world::{Happening, World};

/// What a worker has prepared or is preparing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) key: CandidateKey,
    pub(crate) generation: GenerationNumber,
    pub(crate) content: u32,
    pub(crate) source: Source,
    pub(crate) prepared: bool,
    /// The commit has arrived: from here the worker switches whatever happens to its supervisor.
    pub(crate) committing: bool,
}

/// One worker process.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) key: WorkerKey,
    pub(crate) alive: bool,
    /// It was sent SIGKILL, or is one of the rare ones that this does not end at once.
    pub(crate) killed: bool,
    /// When, by the supervisor's clock.
    pub(crate) killed_at: Duration,
    /// The supervisor that it talks to, and whether the channel is whole.
    pub(crate) life: u64,
    pub(crate) connected: bool,
    pub(crate) serving: Option<(GenerationNumber, u32)>,
    pub(crate) accepting: bool,
    pub(crate) candidate: Option<Candidate>,
    pub(crate) drain: Option<CallKey>,
    resuming: Option<CallKey>,
    /// Something in it hangs: it may be killed for good reason.
    pub(crate) sick: bool,
    /// All of it hangs.
    pub(crate) hung: bool,
    /// The last message on the way to it and from it: channels keep their order.
    pub(crate) inbound: Duration,
    pub(crate) outbound: Duration,
    /// The last candidate that it said was committed, for rule 5.
    pub(crate) said_committed: Option<CandidateKey>,
    /// The guard that it keeps.
    pub(crate) guard: Option<CallKey>,
    /// What it has said about guards.
    pub(crate) judged: Vec<(CallKey, bool)>,
    /// Listeners that it holds for the supervisor besides its own.
    pub(crate) kept: u8,
    /// Those that come to it just before it is told to commit.
    pub(crate) to_keep: u8,
    /// Whether its drain has ended, and cleanly.
    pub(crate) drained: Option<bool>,
    /// Whether the supervisor knows that it is gone.
    pub(crate) heard: bool,
    /// Which program it runs.
    pub(crate) binary: u32,
    /// It has what serves, and another one serves it: before it has taken over, or after it has handed over.
    pub(crate) standby: bool,
    pub(crate) moving: Option<Move>,
    /// What came from the other one before its end of the pair.
    pub(crate) early: Vec<(CallKey, Peer)>,
    /// The handoff in which it took over, for rule 5.
    pub(crate) took_over: Option<CallKey>,
}

impl Worker {
    pub(crate) fn new(key: WorkerKey, life: u64, binary: u32) -> Self {
        Self {
            key,
            alive: true,
            killed: false,
            killed_at: Duration::ZERO,
            life,
            connected: true,
            serving: None,
            accepting: false,
            candidate: None,
            drain: None,
            resuming: None,
            sick: false,
            hung: false,
            inbound: Duration::ZERO,
            outbound: Duration::ZERO,
            said_committed: None,
            guard: None,
            judged: Vec::new(),
            kept: 0,
            to_keep: 0,
            drained: None,
            heard: false,
            binary,
            standby: false,
            moving: None,
            early: Vec::new(),
            took_over: None,
        }
    }
}

/// What a worker does some time after it was told to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Hello,
    /// Has read its configuration and names its listeners.
    Need(CandidateKey),
    /// Has built everything, or found a mistake.
    EndPrepare(CandidateKey, bool),
    /// Every thread has switched.
    Switch(CandidateKey),
    EndDrain(CallKey, bool),
    Resume(CallKey),
    EndAction(CallKey, bool),
    Judge(CallKey, bool),
    Exit,
    Die,
    LoseChannel,
    /// The two sides of a handoff: with whom, within which time, and how long the rest may take.
    Give(CallKey, WorkerKey, Duration, Duration),
    Take(CallKey, WorkerKey),
    /// The giver's time is over; or it waits for the taker's death.
    CallOff(CallKey),
    /// A connection comes in through the listener that is only for this question.
    AnswerProbe(OperationKey),
}

/// The listeners that a configuration needs, as bits.
pub(crate) fn listeners(content: u32) -> u8 {
    1 | (2 << (content % 3))
}

impl World {
    pub(crate) fn worker(&mut self, key: WorkerKey) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| worker.key == key && worker.alive)
    }

    pub(crate) fn act_later(&mut self, worker: WorkerKey, low: u64, high: u64, act: Act) {
        let wait = self.rng.millis(low, high);
        self.later(wait, Happening::Act { worker, act });
    }

    /// A message from a worker: arrives in order, if the channel lives.
    pub(crate) fn say(&mut self, key: WorkerKey, event: Event) {
        let wait = self.rng.millis(0, 5);
        let at = self.now + wait;
        let Some(worker) = self.worker(key) else { return };
        if !worker.connected {
            return;
        }
        worker.outbound = worker.outbound.max(at);
        let (at, life) = (worker.outbound, worker.life);
        self.at(at, Happening::ToSupervisor { life, event });
        if self.faulty(self.faults.twice) {
            let again = self.now + self.rng.millis(0, 40);
            let at = at.max(again);
            if let Some(worker) = self.worker(key) {
                worker.outbound = worker.outbound.max(at);
            }
            self.at(at, Happening::ToSupervisor { life, event });
        }
    }

    fn sicken(&mut self, key: WorkerKey) {
        if let Some(worker) = self.worker(key) {
            worker.sick = true;
        }
    }

    /// A process begins.
    pub(crate) fn spawn(&mut self, key: WorkerKey, binary: u32) {
        if self.faulty(self.faults.start) {
            match self.rng.below(3) {
                0 => {
                    let (wait, life) = (self.rng.millis(0, 20), self.life);
                    let event = Event::WorkerNotStarted { worker: key };
                    return self.later(wait, Happening::ToSupervisor { life, event });
                }
                1 => self.act_later(key, 0, 300, Act::Die),
                _ => {}
            }
            self.workers.push(Worker::new(key, self.life, binary));
            return;
        }
        self.workers.push(Worker::new(key, self.life, binary));
        self.act_later(key, 5, 150, Act::Hello);
        if self.faulty(self.faults.die) {
            self.act_later(key, 0, 60_000, Act::Die);
        }
        if self.faulty(self.faults.channel) {
            self.act_later(key, 0, 20_000, Act::LoseChannel);
        }
    }

    /// The supervisor is gone: a worker that serves goes on, one that does not has no reason to.
    pub(crate) fn orphan(&mut self, key: WorkerKey) {
        let Some(worker) = self.worker(key) else { return };
        worker.connected = false;
        if worker.candidate.is_some_and(|candidate| !candidate.committing) {
            worker.candidate = None;
        }
        let moves = worker.moving.as_ref().is_some_and(Move::is_open);
        let no_reason = worker.serving.is_none() && worker.candidate.is_none();
        // One that only stood by, or was kept warm, has no reason either; and one that has handed over ends when the
        // rest of its connections does: nobody looks at that here.
        if no_reason || (worker.standby && !moves) {
            self.end_orphan(key);
        }
    }

    pub(crate) fn receive(&mut self, key: WorkerKey, message: Message) {
        if self.worker(key).is_none_or(|worker| worker.hung) {
            return;
        }
        match message {
            Message::Prepare { candidate, generation, source, .. } => {
                self.receive_prepare(key, candidate, generation, source);
            }
            Message::Commit { candidate, accept } => self.receive_commit(key, candidate, accept),
            Message::Abort { candidate } => {
                let Some(worker) = self.worker(key) else { return };
                worker.candidate = worker.candidate.filter(|known| known.key != candidate);
                // A late word about a candidate that is no more.
                if self.faulty(self.faults.stray) {
                    let event = match self.rng.below(4) {
                        0 => Event::Need { worker: key, candidate },
                        1 => Event::Rejected { worker: key, candidate, unreachable: false },
                        2 => Event::Committed { worker: key, candidate },
                        _ => Event::Prepared { worker: key, candidate, unchanged: false, programs: None },
                    };
                    self.say(key, event);
                }
            }
            Message::Drain { call, limit } => self.receive_drain(key, call, limit),
            Message::Resume { call } => {
                if let Some(worker) = self.worker(key) {
                    worker.drain = None;
                    worker.moving = None;
                    worker.resuming = Some(call);
                }
                if self.faulty(self.faults.hang) {
                    self.sicken(key);
                } else {
                    self.act_later(key, 0, 20, Act::Resume(call));
                }
            }
            Message::Guard { call, watch, .. } => self.receive_guard(key, call, watch),
            Message::EndGuard { call, .. } => {
                let Some(worker) = self.worker(key) else { return };
                worker.guard = worker.guard.filter(|kept| *kept != call);
                // Late, or about another one.
                if self.faulty(self.faults.stray) {
                    let call = CallKey(call.0 - self.rng.below(2));
                    let passed = self.rng.chance(500);
                    self.say(key, Event::GuardEnded { worker: key, call, passed });
                }
            }
            Message::Action { call, operation } => self.receive_action(key, call, operation),
            Message::Stop { now } => {
                if let Some(worker) = self.worker(key) {
                    worker.accepting = false;
                }
                if self.faulty(self.faults.hang) {
                    self.sicken(key);
                } else {
                    self.act_later(key, 0, if now { 10 } else { 50 }, Act::Exit);
                }
            }
        }
    }

    fn receive_prepare(
        &mut self,
        key: WorkerKey,
        candidate: CandidateKey,
        generation: GenerationNumber,
        source: Source,
    ) {
        let (content, broken) = match source {
            Source::Disk => (self.disk.content, self.disk.broken || self.disk.unreachable),
            // The bundle came with the message.
            Source::Generation(_) | Source::Given => {
                (self.candidate_content(candidate).unwrap_or_default(), self.faulty(self.faults.bundle))
            }
        };
        self.tally.contents.push((candidate, content));
        let Some(worker) = self.worker(key) else { return };
        worker.candidate = Some(Candidate {
            key: candidate,
            generation,
            content,
            source,
            prepared: false,
            committing: false,
        });
        if self.faulty(self.faults.hang) {
            return;
        }
        if self.faulty(self.faults.die) {
            self.act_later(key, 0, 100, Act::Die);
        }
        match self.faulty(self.faults.slow) {
            // Some are done long after the deadline, and say so.
            true => self.act_later(key, 20_000, 60_000, Act::Need(candidate)),
            false if broken => self.act_later(key, 0, 40, Act::EndPrepare(candidate, false)),
            false => self.act_later(key, 0, 40, Act::Need(candidate)),
        }
    }

    fn receive_commit(&mut self, key: WorkerKey, candidate: CandidateKey, accept: bool) {
        let Some(worker) = self.worker(key) else { return };
        match &mut worker.candidate {
            Some(known) if known.key == candidate => known.committing = true,
            _ => return,
        }
        worker.standby = !accept;
        worker.kept = worker.to_keep;
        if self.faulty(self.faults.commit) {
            return match self.rng.below(3) {
                0 => self.sicken(key),
                1 => self.act_later(key, 0, 5, Act::Die),
                _ => {
                    // It has switched, and dies before or as it says so.
                    self.act_later(key, 0, 5, Act::Switch(candidate));
                    self.act_later(key, 0, 8, Act::Die);
                }
            };
        }
        self.act_later(key, 0, 30, Act::Switch(candidate));
    }

    fn receive_drain(&mut self, key: WorkerKey, call: CallKey, limit: Duration) {
        let Some(worker) = self.worker(key) else { return };
        worker.accepting = false;
        worker.resuming = None;
        if worker.drain != Some(call) {
            worker.drained = None;
        }
        worker.drain = Some(call);
        if self.faulty(self.faults.hang) {
            return self.sicken(key);
        }
        self.drain_for(key, call, limit);
    }

    fn receive_guard(&mut self, key: WorkerKey, call: CallKey, watch: Duration) {
        let Some(worker) = self.worker(key) else { return };
        worker.guard = Some(call);
        if self.faulty(self.faults.stray) {
            // About a guard of before.
            let (call, passed) = (CallKey(call.0 - 1 - self.rng.below(3)), self.rng.chance(500));
            self.say(key, Event::GuardEnded { worker: key, call, passed });
        }
        if self.faulty(self.faults.hang) {
            return;
        }
        let passes = (self.calm || self.rng.chance(650)) && !self.guards_fail;
        let share = if passes { 1_000 } else { self.rng.below(1_000) };
        let wait = watch * u32::try_from(share).unwrap() / 1_000;
        self.later(wait, Happening::Act { worker: key, act: Act::Judge(call, passes) });
    }

    fn receive_action(&mut self, key: WorkerKey, call: CallKey, _operation: OperationKey) {
        if self.faulty(self.faults.hang) {
            return;
        }
        let ok = self.rng.chance(700);
        let high = if self.faulty(self.faults.slow) { 60_000 } else { 200 };
        self.act_later(key, 0, high, Act::EndAction(call, ok));
    }

    fn say_prepared(&mut self, key: WorkerKey, candidate: CandidateKey) {
        let Some(worker) = self.worker(key) else { return };
        let Some(known) = &mut worker.candidate else { return };
        known.prepared = true;
        let content = known.content;
        let differs = matches!(known.source, Source::Disk | Source::Given);
        let serves = worker.serving.is_some() && worker.accepting && differs;
        let unchanged = self.compared_content() == Some(content);
        let programs = self.programs_of(candidate, serves && !unchanged);
        self.say(key, Event::Prepared { worker: key, candidate, unchanged, programs });
    }

    pub(crate) fn act(&mut self, key: WorkerKey, act: Act) {
        let bind_fails = self.faulty(self.faults.bind);
        let now = self.now;
        let Some(worker) = self.worker(key) else { return };
        if (worker.killed || worker.hung) && !matches!(act, Act::Die | Act::LoseChannel) {
            return;
        }
        match act {
            Act::Hello => self.say(key, Event::WorkerReady { worker: key }),
            Act::Need(candidate) if worker.has(candidate) => {
                self.say(key, Event::Need { worker: key, candidate })
            }
            Act::EndPrepare(candidate, ok) if worker.has(candidate) => {
                if worker.candidate.is_some_and(|known| known.prepared) {
                    return;
                }
                if !ok || bind_fails {
                    let from_disk = worker.candidate.take().is_some_and(|known| known.source == Source::Disk);
                    let unreachable = !ok && from_disk && self.disk.unreachable;
                    return self.say(key, Event::Rejected { worker: key, candidate, unreachable });
                }
                self.say_prepared(key, candidate);
            }
            Act::Switch(candidate) if worker.has(candidate) => {
                let Some(known) = worker.candidate.take() else { return };
                // Only its first generation makes it accept; a drained one stays so.
                worker.accepting |= worker.serving.is_none() && worker.drain.is_none() && !worker.standby;
                worker.serving = Some((known.generation, known.content));
                worker.said_committed = Some(candidate);
                self.say(key, Event::Committed { worker: key, candidate });
            }
            Act::EndDrain(call, clean) if worker.drain == Some(call) => {
                // It says the same again if it is told twice.
                let clean = *worker.drained.get_or_insert(clean);
                self.say(key, Event::Drained { worker: key, call, clean });
            }
            Act::Resume(call) if worker.resuming == Some(call) => {
                worker.accepting = true;
                worker.standby = false;
                worker.drain = None;
                worker.drained = None;
                self.say(key, Event::Resumed { worker: key, call });
            }
            Act::Judge(call, passed) if worker.guard == Some(call) => {
                worker.guard = None;
                worker.judged.push((call, passed));
                self.say(key, Event::GuardEnded { worker: key, call, passed });
            }
            Act::Judge(..) => {}
            Act::EndAction(call, ok) => self.say(key, Event::ActionDone { worker: key, call, ok }),
            Act::Give(call, to, within, limit) => self.give(key, call, to, [within, limit]),
            Act::Take(call, from) => self.take(key, call, from),
            Act::CallOff(call) => self.call_off(key, call),
            Act::AnswerProbe(operation) => self.answer_probe(key, operation),
            Act::Exit | Act::Die => self.die(key),
            Act::LoseChannel => {
                if worker.connected {
                    worker.connected = false;
                    let (at, life) = (worker.outbound.max(now), worker.life);
                    self.at(at, Happening::ToSupervisor { life, event: Event::ChannelLost { worker: key } });
                }
            }
            Act::Need(_) | Act::EndPrepare(..) | Act::Switch(_) | Act::EndDrain(..) | Act::Resume(_) => {}
        }
    }

    /// The process ends; its parent hears of it, sometimes before the last messages were read.
    pub(crate) fn die(&mut self, key: WorkerKey) {
        let wait = self.rng.millis(0, 5);
        let overtakes = self.rng.chance(300);
        let now = self.now;
        let Some(worker) = self.worker(key) else { return };
        worker.alive = false;
        // What it had moved away, or not got yet, is not cut.
        let cut = worker.cuts_connections() && !worker.killed;
        let life = worker.life;
        let at = if overtakes { now + wait } else { worker.outbound.max(now + wait) };
        let connected = worker.connected;
        if connected && self.rng.chance(500) {
            self.at(at, Happening::ToSupervisor { life, event: Event::ChannelLost { worker: key } });
        }
        self.at(at, Happening::ToSupervisor { life, event: Event::WorkerExited { worker: key } });
        if cut {
            self.ops.iter_mut().filter(|op| op.is_open()).for_each(|op| op.cut = true);
        }
        self.tell_peer_of_death(key);
    }

    /// It ends by itself, and nobody hears of it.
    fn end_orphan(&mut self, key: WorkerKey) {
        if let Some(worker) = self.worker(key) {
            worker.alive = false;
        }
        self.tell_peer_of_death(key);
    }
}

impl Worker {
    /// Whether its end now would cut connections that may still be there.
    pub(crate) fn cuts_connections(&self) -> bool {
        self.serving.is_some() && self.drained.is_none() && (!self.standby || self.drain.is_some())
    }

    pub(crate) fn is_committing(&self) -> bool {
        self.candidate.is_some_and(|known| known.committing)
            || self.moving.as_ref().is_some_and(Move::is_open)
    }

    /// Whether it is the one that serves, or is drained, and not one that stands by.
    pub(crate) fn is_the_one(&self) -> bool {
        self.alive && !self.killed && self.serving.is_some() && !self.standby
    }

    fn has(&self, candidate: CandidateKey) -> bool {
        self.candidate.is_some_and(|known| known.key == candidate)
    }
}
