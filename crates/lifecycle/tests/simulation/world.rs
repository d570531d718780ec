//! The world around the machine: time, processes, messages on their way, a disk, people who ask.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use handover_lifecycle::{
    Asked, Event, Limits, Machine, Message, OperationKey, Phase, Request, Source, WorkerKey,
};

use crate::driver::Driver;
use crate::journal::{Journal, Mode, Write};
use crate::rng::Rng;
use crate::rules::{Op, Tally, Violation};
use crate::sabotage::Sabotage;
use crate::worker::{Act, Worker};

/// Something that will happen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Happening {
    /// To the supervisor of this life only.
    ToSupervisor {
        life: u64,
        event: Event,
    },
    ToWorker {
        worker: WorkerKey,
        message: Message,
    },
    Act {
        worker: WorkerKey,
        act: Act,
    },
    /// The worker notices that its supervisor is gone.
    Orphan {
        worker: WorkerKey,
    },
    Kill {
        worker: WorkerKey,
    },
    EndWrite {
        life: u64,
        write: Write,
        ok: bool,
    },
    Ask(Asked),
    Edit {
        broken: bool,
    },
    Journal(Mode),
    Jump(Duration),
    KillSupervisor,
    StartSupervisor,
    /// A message about something that never was, or is long gone.
    Stray,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Duration,
    seq: u64,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// How often what goes wrong, in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) start: u64,
    pub(crate) die: u64,
    pub(crate) channel: u64,
    pub(crate) hang: u64,
    pub(crate) slow: u64,
    pub(crate) commit: u64,
    pub(crate) bind: u64,
    pub(crate) bundle: u64,
    pub(crate) twice: u64,
    pub(crate) stray: u64,
    pub(crate) kill: u64,
}

/// The configuration on disk: each edit makes another content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk {
    pub(crate) content: u32,
    pub(crate) broken: bool,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: Duration,
    /// What suspends have added to the supervisor's clock.
    pub(crate) skew: Duration,
    pub(crate) jumped: Option<Duration>,
    seq: u64,
    queue: BinaryHeap<Reverse<Entry>>,
    pub(crate) limits: Limits,
    pub(crate) faults: Faults,
    /// The end of a run, in which nothing goes wrong any more.
    pub(crate) calm: bool,
    pub(crate) disk: Disk,
    pub(crate) journal: Journal,
    pub(crate) life: u64,
    pub(crate) driver: Option<Driver>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) ops: Vec<Op>,
    pub(crate) next_operation: u64,
    pub(crate) tally: Tally,
    pub(crate) violation: Option<Violation>,
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) steps: u64,
}

impl World {
    pub(crate) fn new(seed: u64, sabotage: Option<Sabotage>, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let mut limits = Limits::DEFAULT;
        if rng.chance(300) {
            limits.prepare = rng.millis(300, 3_000);
            limits.commit = rng.millis(300, 2_000);
            limits.journal = rng.millis(100, 1_000);
            limits.kill = rng.millis(200, 2_000);
        }
        // A third of the worlds is nearly well, a third bad, a third has one bad habit.
        let mild = rng.below(20);
        let mut f = Faults { kill: mild / 2, ..Faults::default() };
        for fault in f.all() {
            *fault = mild;
        }
        match rng.below(3) {
            0 => {}
            1 => f.all().into_iter().for_each(|fault| *fault = rng.below(200)),
            _ => {
                let which = usize::try_from(rng.below(11)).unwrap();
                *f.all()[which] = rng.below(900);
            }
        }
        Self {
            rng,
            now: Duration::ZERO,
            skew: Duration::ZERO,
            jumped: None,
            seq: 0,
            queue: BinaryHeap::new(),
            limits,
            faults: f,
            calm: false,
            disk: Disk { content: 1, broken: false },
            journal: Journal::new(),
            life: 0,
            driver: None,
            workers: Vec::new(),
            ops: Vec::new(),
            next_operation: 1,
            tally: Tally::default(),
            violation: None,
            trace: traced.then(Vec::new),
            sabotage,
            steps: 0,
        }
    }

    /// Runs one seed to its end. The trace is kept only if asked for.
    pub(crate) fn run(seed: u64, sabotage: Option<Sabotage>, traced: bool) -> Self {
        let mut world = Self::new(seed, sabotage, traced);
        world.plan();
        world.start_supervisor();
        world.go_until(None);
        world.end_calmly();
        world
    }

    /// Everything that comes from outside is laid down beforehand; the rest follows from it.
    fn plan(&mut self) {
        let horizon = [300, 3_000, 30_000, 200_000][usize::try_from(self.rng.below(4)).unwrap()];
        let mut at = Duration::ZERO;
        for _ in 0..self.rng.below(30) + 3 {
            // Half of what happens follows closely upon something else.
            at =
                if self.rng.chance(500) { at + self.rng.millis(0, 150) } else { self.rng.millis(0, horizon) };
            let what = match self.rng.below(100) {
                0..55 => Happening::Ask(self.some_request()),
                55..75 => Happening::Edit { broken: self.rng.chance(250) },
                75..82 => Happening::Stray,
                82..86 => Happening::Journal(if self.rng.chance(600) { Mode::Full } else { Mode::Slow }),
                86..92 => Happening::Journal(Mode::Well),
                92..94 => Happening::Jump(self.rng.millis(100, 100_000)),
                94..97 => Happening::KillSupervisor,
                _ => Happening::Stray,
            };
            self.at(at, what);
        }
    }

    /// Something was just said to a worker: the best moment to get in between.
    pub(crate) fn meddle(&mut self) {
        if self.calm {
            return;
        }
        let wait = self.rng.millis(0, 40);
        match self.rng.below(1000) {
            0..40 => {
                let asked = self.some_request();
                self.later(wait, Happening::Ask(asked));
            }
            40..46 => self.later(wait, Happening::KillSupervisor),
            46..52 => self.later(wait, Happening::Journal(Mode::Full)),
            52..58 => self.later(wait, Happening::Journal(Mode::Well)),
            58..60 => {
                let by = self.rng.millis(100, 100_000);
                self.later(wait, Happening::Jump(by));
            }
            _ => {}
        }
    }

    fn some_request(&mut self) -> Asked {
        use handover_lifecycle::{Caller, GenerationNumber};
        let limit = self.rng.chance(500).then(|| self.rng.millis(0, 60_000));
        let request = match self.rng.below(100) {
            0..45 => Request::RELOAD,
            45..57 => Request::VALIDATE,
            57..67 => Request::Action,
            67..78 => Request::Drain { limit },
            78..90 => Request::Resume,
            _ => Request::Stop { now: self.rng.chance(300), limit },
        };
        let caller = if self.rng.chance(350) { Caller::Signal } else { Caller::Waiting };
        let expected = self.rng.chance(100).then(|| GenerationNumber(self.rng.below(5)));
        Asked { request, caller, expected }
    }

    pub(crate) fn faulty(&mut self, per_mille: u64) -> bool {
        !self.calm && self.rng.chance(per_mille)
    }

    pub(crate) fn at(&mut self, at: Duration, what: Happening) {
        self.seq += 1;
        self.queue.push(Reverse(Entry { at: at.max(self.now), seq: self.seq, what }));
    }

    pub(crate) fn later(&mut self, wait: Duration, what: Happening) {
        self.at(self.now.saturating_add(wait), what);
    }

    pub(crate) fn machine_time(&self) -> Duration {
        self.now + self.skew
    }

    /// Goes on until nothing is left to happen, or until this operation is answered.
    pub(crate) fn go_until(&mut self, answered: Option<OperationKey>) {
        while self.violation.is_none() {
            if answered.is_some_and(|key| self.is_answered(key)) {
                return;
            }
            self.steps += 1;
            if self.steps > 20_000 {
                return self.break_rule(3, "the world does not come to rest".to_owned());
            }
            let tick = self.driver.as_ref().and_then(|driver| driver.machine.deadline());
            let tick = tick.map(|at| at.saturating_sub(self.skew).max(self.now));
            let next = self.queue.peek().map(|Reverse(entry)| entry.at);
            match (next, tick) {
                (None, None) => return,
                (Some(at), tick) if tick.is_none_or(|tick| at <= tick) => {
                    let Some(Reverse(entry)) = self.queue.pop() else { return };
                    self.now = entry.at;
                    self.check_time();
                    self.happen(entry.what);
                }
                (_, Some(tick)) => {
                    self.now = tick;
                    self.check_time();
                    self.feed(Event::Tick);
                }
                (Some(_), None) => return,
            }
        }
    }

    fn happen(&mut self, what: Happening) {
        if self.trace.is_some() && !matches!(what, Happening::ToSupervisor { .. }) {
            self.note(format!("{what:?}"));
        }
        match what {
            Happening::ToSupervisor { life, event } => {
                if life == self.life && self.driver.is_some() {
                    self.feed(event);
                }
            }
            Happening::ToWorker { worker, message } => self.receive(worker, message),
            Happening::Act { worker, act } => self.act(worker, act),
            Happening::Orphan { worker } => self.orphan(worker),
            Happening::Kill { worker } => self.die(worker),
            Happening::EndWrite { life, write, ok } => {
                if life == self.life && self.driver.is_some() {
                    self.end_write(write, ok);
                }
            }
            Happening::Ask(asked) => {
                self.ask(asked);
            }
            Happening::Edit { broken } => {
                self.disk = Disk { content: self.disk.content + 1, broken };
            }
            Happening::Journal(mode) => {
                self.tally.journal_trouble |= mode != Mode::Well;
                self.journal.mode = mode;
            }
            Happening::Jump(by) => {
                self.skew += by;
                self.jumped = Some(self.now);
            }
            Happening::KillSupervisor => self.kill_supervisor(),
            Happening::StartSupervisor => self.start_supervisor(),
            Happening::Stray => self.stray(),
        }
    }

    pub(crate) fn note(&mut self, line: String) {
        let (now, skew) = (self.now, self.skew);
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>10.3} {line}", (now + skew).as_secs_f64()));
        }
    }

    /// Somebody asks; if nobody is there to be asked, nothing happens.
    pub(crate) fn ask(&mut self, asked: Asked) -> Option<OperationKey> {
        self.driver.as_ref()?;
        let operation = OperationKey(self.next_operation);
        self.next_operation += 1;
        self.ops.push(Op::new(operation, asked, self.now, self.disk.content));
        self.feed(Event::Request { operation, asked });
        Some(operation)
    }

    /// An answer that fits nothing: everything the machine may be told, with numbers out of the air.
    fn stray(&mut self) {
        use handover_lifecycle::{CallKey, CandidateKey, GenerationNumber};
        let near = self.life * 1_000_000 + self.rng.below(12);
        let worker = WorkerKey(if self.rng.chance(500) { near } else { self.rng.below(50) });
        let candidate = CandidateKey(1_000_000_000 + self.rng.below(9));
        let call = CallKey(1_000_000_000 + self.rng.below(9));
        let operation = OperationKey(1_000_000_000 + self.rng.below(9));
        let generation = GenerationNumber(self.rng.below(9));
        let event = match self.rng.below(15) {
            0 => Event::Tick,
            1 => Event::Start { operation, source: Source::Disk, pending: None },
            2 => Event::Adopted { operation, worker, generation, accepting: true, pending: None },
            3 => Event::Need { worker, candidate },
            4 => Event::Bound { worker, candidate },
            5 => Event::Prepared { worker, candidate, unchanged: true },
            6 => Event::Rejected { worker, candidate, unreachable: false },
            7 => Event::Committed { worker, candidate },
            8 => Event::Drained { worker, call, clean: true },
            9 => Event::Resumed { worker, call },
            10 => Event::ActionDone { worker, call, ok: true },
            11 => Event::IntentWritten { operation, generation },
            12 => Event::IntentFailed { operation, generation },
            13 => Event::OutcomeWritten { operation },
            _ => Event::OutcomeFailed { operation },
        };
        if self.driver.is_some() {
            self.feed(event);
        }
    }

    /// From here nothing goes wrong any more, and everything must come right.
    fn end_calmly(&mut self) {
        if self.violation.is_some() {
            return;
        }
        self.note("calm".to_owned());
        self.calm = true;
        self.journal.mode = Mode::Well;
        self.disk = Disk { content: self.disk.content + 1, broken: false };
        self.go_until(None);
        if self.driver.is_none() {
            self.start_supervisor();
            self.go_until(None);
        }
        self.check_at_rest();
        if self.driver.as_ref().is_some_and(|driver| driver.view.phase == Phase::Drained) {
            self.expect_end(Request::Resume, "applied");
            // A remembered reload runs now.
            self.go_until(None);
        }
        self.disk.content += 1;
        self.expect_end(Request::RELOAD, "applied");
        self.expect_end(Request::RELOAD, "unchanged");
        self.expect_end(Request::Stop { now: false, limit: None }, "applied");
        self.go_until(None);
        if self.violation.is_none() && self.driver.is_some() {
            self.break_rule(3, "a stop in calm weather did not end the process".to_owned());
        }
    }
}

impl Faults {
    fn all(&mut self) -> [&mut u64; 11] {
        [
            &mut self.start,
            &mut self.die,
            &mut self.channel,
            &mut self.hang,
            &mut self.slow,
            &mut self.commit,
            &mut self.bind,
            &mut self.bundle,
            &mut self.twice,
            &mut self.stray,
            &mut self.kill,
        ]
    }
}

impl World {
    /// The first supervisor, or the next one: it adopts the worker that lived on, if one did.
    pub(crate) fn start_supervisor(&mut self) {
        if self.driver.is_some() {
            return;
        }
        // A worker that was told to commit says hello to the next supervisor when it has done so.
        if self
            .workers
            .iter()
            .any(|worker| worker.alive && !worker.killed && worker.is_committing() && !worker.sick)
        {
            return self.later(Duration::from_millis(10), Happening::StartSupervisor);
        }
        self.life += 1;
        let recovered = self.journal.recover(self.life * 1_000_000);
        for unfinished in &recovered.unfinished {
            self.reopen(unfinished.operation, unfinished.kind);
        }
        let machine = Machine::new(self.limits, recovered);
        self.driver = Some(Driver::new(machine));
        let operation = OperationKey(self.next_operation);
        self.next_operation += 1;
        self.ops.push(Op::start(operation, self.now, self.disk.content));
        let adopted = self.workers.iter().find(|worker| {
            worker.alive && !worker.killed && worker.serving.is_some() && !worker.is_committing()
        });
        let adopted = adopted.map(|worker| worker.key);
        // An orphan that cannot be adopted is killed first: two workers must not accept.
        self.workers.retain(|worker| adopted == Some(worker.key));
        let Some(key) = adopted else {
            return self.feed(Event::Start { operation, source: Source::Disk, pending: None });
        };
        let life = self.life;
        let Some(worker) = self.worker(key) else { return };
        let Some((generation, content)) = worker.serving else { return };
        let accepting = worker.accepting;
        worker.life = life;
        worker.connected = true;
        if let Some(driver) = &mut self.driver {
            driver.adopt(generation, content);
        }
        self.tally.adopted += 1;
        self.feed(Event::Adopted { operation, worker: key, generation, accepting, pending: None });
    }

    fn kill_supervisor(&mut self) {
        if self.driver.take().is_none() {
            return;
        }
        // Writes that were under way happened, or did not.
        let entries = std::mem::take(&mut self.queue).into_vec();
        for Reverse(entry) in entries {
            match entry.what {
                Happening::EndWrite { life, write, ok } if life == self.life => {
                    if ok && self.rng.chance(500) {
                        self.journal.append(write);
                    }
                }
                Happening::ToSupervisor { life, .. } if life == self.life => {}
                _ => self.queue.push(Reverse(entry)),
            }
        }
        self.abandon_ops();
        let mut noticed = self.now;
        for (key, inbound) in
            self.workers.iter().filter(|w| w.alive).map(|w| (w.key, w.inbound)).collect::<Vec<_>>()
        {
            let at = inbound.max(self.now) + self.rng.millis(0, 5);
            noticed = noticed.max(at);
            self.at(at, Happening::Orphan { worker: key });
        }
        let at = noticed + self.rng.millis(1, 5_000);
        self.at(at, Happening::StartSupervisor);
    }
}
