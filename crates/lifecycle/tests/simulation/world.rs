//! The world around the machine: time, processes, messages on their way, a disk, people who ask.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use handover_lifecycle::{
    Asked, CallKey, Caller, Event, GenerationNumber, Kind, Limits, Message, OperationKey, Phase, Request,
    Terms, WorkerKey,
};

use crate::driver::Driver;
use crate::journal::{Journal, Mode, Unconfirmed, Write};
use crate::moving::Peer;
use crate::probation::Tracked;
use crate::programs::Hosted;
use crate::rules::{Op, Tally};
use crate::sabotage::Sabotage;
use crate::seeds::Violation;
use crate::seeds::rng::Rng;
use crate::worker::{Act, Worker};

/// Something that will happen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Happening {
    /// To the supervisor of this life only.
    ToSupervisor {
        life: u64,
        event: Event,
    },
    /// From one worker to another, over their own pair of sockets.
    ToPeer {
        worker: WorkerKey,
        call: CallKey,
        what: Peer,
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
        seq: u64,
        write: Write,
        ok: bool,
    },
    Ask(Asked),
    Edit {
        broken: bool,
    },
    /// The store of the configuration can be reached, or not.
    Store {
        reachable: bool,
    },
    /// The wall clock is set, so many milliseconds further or back.
    SetClock(i64),
    Journal(Mode),
    Jump(Duration),
    KillSupervisor,
    StartSupervisor,
    /// A message about something that never was, or is long gone.
    Stray,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    at: Duration,
    seq: u64,
    pub(crate) what: Happening,
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
    pub(crate) exam: u64,
    pub(crate) moving: u64,
}

/// The configuration on disk: each edit makes another content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk {
    pub(crate) content: u32,
    pub(crate) broken: bool,
    pub(crate) unreachable: bool,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: Duration,
    /// What suspends have added to the supervisor's clock.
    pub(crate) skew: Duration,
    pub(crate) jumped: Option<Duration>,
    /// What the wall clock shows besides, in milliseconds.
    clock: i64,
    seq: u64,
    pub(crate) queue: BinaryHeap<Reverse<Entry>>,
    pub(crate) limits: Limits,
    pub(crate) faults: Faults,
    /// The end of a run, in which nothing goes wrong any more.
    pub(crate) calm: bool,
    pub(crate) disk: Disk,
    /// The binary that is installed, and the one that is kept on disk for going back.
    pub(crate) installed: u32,
    pub(crate) kept_binary: Option<u32>,
    /// In this world there are programs.
    pub(crate) has_programs: bool,
    pub(crate) hosted: Hosted,
    /// In this world upgrades are asked for more often than in others.
    upgrades: bool,
    pub(crate) journal: Journal,
    /// How many writes were begun.
    pub(crate) writes: u64,
    /// The change on probation, as the world sees it.
    pub(crate) tracked: Option<Tracked>,
    /// What was not confirmed when this life of a supervisor began without a worker, its bytes, and the time.
    pub(crate) at_start: Option<(Unconfirmed, Option<u32>)>,
    pub(crate) wall_clock_at_start: Duration,
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
    /// How many there were before everything was to come right.
    pub(crate) before_calm: u64,
    /// At which of them to pause.
    pause_at: Option<u64>,
    /// Since when nobody accepts, and for how long that may be.
    pub(crate) dark: Option<(Duration, Duration)>,
    /// Every guard finds fault.
    pub(crate) guards_fail: bool,
}

impl World {
    pub(crate) fn new(seed: u64, sabotage: Option<Sabotage>, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let mut limits = Limits::DEFAULT;
        if rng.chance(300) {
            limits.prepare = rng.millis(300, 3_000);
            limits.commit = rng.millis(300, 2_000);
            limits.journal = rng.millis(100, 1_000);
            limits.intent = limits.journal;
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
                let which = usize::try_from(rng.below(13)).unwrap();
                *f.all()[which] = rng.below(900);
            }
        }
        let (upgrades, has_programs) = (rng.chance(400), rng.chance(500));
        Self {
            rng,
            now: Duration::ZERO,
            skew: Duration::ZERO,
            jumped: None,
            clock: 0,
            seq: 0,
            queue: BinaryHeap::new(),
            limits,
            faults: f,
            calm: false,
            disk: Disk { content: 1, broken: false, unreachable: false },
            installed: 0,
            kept_binary: None,
            has_programs,
            hosted: Hosted::default(),
            upgrades,
            journal: Journal::new(),
            writes: 0,
            tracked: None,
            at_start: None,
            wall_clock_at_start: Duration::ZERO,
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
            before_calm: 0,
            pause_at: None,
            dark: None,
            guards_fail: false,
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
                86..90 => Happening::Journal(Mode::Well),
                90..92 => Happening::Jump(self.rng.millis(100, 100_000)),
                92..94 => Happening::Store { reachable: self.rng.chance(500) },
                94..96 => Happening::SetClock(i64::try_from(self.rng.below(200_000)).unwrap() - 100_000),
                96..99 => Happening::KillSupervisor,
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

    /// A change is on probation or under guard for this long: somebody decides, asks for more time, drains or stops.
    pub(crate) fn meddle_with_change(&mut self, left: Duration) {
        if self.calm || self.rng.chance(350) {
            return;
        }
        let share = u32::try_from(self.rng.below(1_100)).unwrap();
        let wait = left.min(Duration::from_secs(100)) * share / 1_000;
        let confirm = Some(self.rng.millis(0, 40_000));
        let terms = Terms { confirm, guard: None };
        let limit = Some(self.rng.millis(0, 20_000));
        let request = match self.rng.below(100) {
            0..25 => Request::Confirm,
            25..45 => Request::Cancel,
            45..65 => Request::Reload { dry_run: false, certs_only: false, terms },
            65..72 => Request::VALIDATE,
            72..82 => Request::Drain { limit },
            82..86 => Request::Resume,
            86..90 => Request::Stop { now: false, limit },
            90..93 => return self.later(wait, Happening::KillSupervisor),
            93..96 => return self.later(wait, Happening::Journal(Mode::Slow)),
            _ => return self.later(wait, Happening::Jump(left)),
        };
        let caller = Caller::Waiting;
        self.later(wait, Happening::Ask(Asked { request, caller, expected: None }));
    }

    fn some_request(&mut self) -> Asked {
        let limit = self.rng.chance(500).then(|| self.rng.millis(0, 60_000));
        let signal = self.rng.chance(350);
        let confirm = self.rng.chance(450).then(|| self.rng.millis(0, 40_000)).filter(|_| !signal);
        let guard = self.rng.chance(300).then(|| self.rng.millis(0, 20_000));
        let terms = Terms { confirm, guard };
        let dry_run = self.rng.chance(150);
        // The driver resolves it: see `ask`.
        let to = GenerationNumber(self.rng.below(100));
        let upgrade = if self.upgrades { 400 } else { 40 };
        let request = match self.rng.below(100) {
            _ if self.rng.chance(upgrade) => {
                Request::Upgrade { dry_run, terms: if signal { Terms::NONE } else { terms } }
            }
            _ if self.rng.chance(100) => self.some_carried(),
            0..35 => Request::Reload { dry_run: false, certs_only: self.rng.chance(200) && !signal, terms },
            35..43 => Request::VALIDATE,
            43..51 if !signal => Request::Rollback { to, dry_run, terms },
            51..56 if !signal => Request::Restore { dry_run, terms },
            56..64 if !signal => Request::Confirm,
            64..70 if !signal => Request::Cancel,
            70..77 => Request::Action,
            77..85 => Request::Drain { limit },
            85..93 => Request::Resume,
            93..100 => Request::Stop { now: self.rng.chance(300), limit },
            _ => Request::Reload { dry_run: false, certs_only: false, terms },
        };
        let caller = if signal { Caller::Signal } else { Caller::Waiting };
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

    /// Before everything else that is still to happen at this time.
    pub(crate) fn now_next(&mut self, what: Happening) {
        self.queue.push(Reverse(Entry { at: Duration::ZERO, seq: 0, what }));
    }

    pub(crate) fn later(&mut self, wait: Duration, what: Happening) {
        self.at(self.now.saturating_add(wait), what);
    }

    /// What supervisors go by from one life to the next.
    pub(crate) fn wall_clock(&self) -> Duration {
        const LONG_AGO: u64 = 1_000_000_000;
        let clock = Duration::from_millis(LONG_AGO.saturating_add_signed(self.clock));
        clock + self.machine_time()
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
            if self.pause_at.is_some_and(|at| self.steps >= at) {
                return;
            }
            self.steps += 1;
            if self.steps > 20_000 {
                return self.break_rule(3, "the world does not come to rest".to_owned());
            }
            let tick = self.driver.as_ref().and_then(|driver| driver.machine.deadline());
            let epoch = self.driver.as_ref().map_or(Duration::ZERO, |driver| driver.epoch);
            let tick = tick.map(|at| (at + epoch).saturating_sub(self.skew).max(self.now));
            let next = self.queue.peek().map(|Reverse(entry)| entry.at);
            match (next, tick) {
                (None, None) => return,
                (Some(at), tick) if tick.is_none_or(|tick| at <= tick) => {
                    let Some(Reverse(entry)) = self.queue.pop() else { return };
                    self.now = entry.at.max(self.now);
                    self.check_time();
                    self.check_overdue();
                    self.check_dark();
                    self.happen(entry.what);
                    self.check_accepting();
                }
                (_, Some(tick)) => {
                    self.now = tick;
                    self.check_time();
                    self.check_overdue();
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
            Happening::ToPeer { worker, call, what } => self.hear_peer(worker, call, what),
            Happening::ToWorker { worker, message } => self.receive(worker, message),
            Happening::Act { worker, act } => self.act(worker, act),
            Happening::Orphan { worker } => self.orphan(worker),
            Happening::Kill { worker } => self.die(worker),
            Happening::EndWrite { life, seq, write, ok } => {
                if life == self.life && self.driver.is_some() {
                    self.end_write(seq, write, ok);
                }
            }
            Happening::Ask(asked) => {
                self.ask(asked);
            }
            Happening::Edit { broken } => {
                self.disk = Disk { content: self.disk.content + 1, broken, ..self.disk };
            }
            Happening::Store { reachable } => self.disk.unreachable = !reachable,
            Happening::SetClock(by) => self.clock += by,
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
    pub(crate) fn ask(&mut self, mut asked: Asked) -> Option<OperationKey> {
        self.driver.as_ref()?;
        if let Request::Rollback { to, .. } = &mut asked.request {
            let numbers = self.journal.numbers();
            let which = usize::try_from(to.0 % (numbers.len() as u64).max(1)).unwrap();
            // What is not kept is refused before the machine hears of it.
            *to = *numbers.get(which)?;
        }
        let operation = OperationKey(self.next_operation);
        self.next_operation += 1;
        self.ops.push(Op::new(operation, asked, self.now, self.disk.content));
        if matches!(asked.request, Request::Upgrade { .. }) {
            self.installed = self.ops.last().map_or(0, |op| op.binary);
        }
        self.feed(Event::Request { operation, asked });
        Some(operation)
    }

    /// Nothing goes wrong by itself any more.
    pub(crate) fn be_calm(&mut self) {
        self.calm = true;
        self.journal.mode = Mode::Well;
    }

    /// Goes on until so many things have happened, or nothing is left to happen.
    pub(crate) fn go_to_step(&mut self, step: u64) {
        self.pause_at = Some(step);
        self.go_until(None);
        self.pause_at = None;
    }

    /// From here nothing goes wrong any more, and everything must come right.
    pub(crate) fn end_calmly(&mut self) {
        self.before_calm = self.steps;
        if self.violation.is_some() {
            return;
        }
        self.note("calm".to_owned());
        self.be_calm();
        self.disk = Disk { content: self.disk.content + 1, broken: false, unreachable: false };
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
        let limit = Duration::from_secs(5);
        self.expect_end(Request::Carried { kind: Kind::ProgramRestart, limit }, "applied");
        self.expect_end(Request::Upgrade { dry_run: false, terms: Terms::NONE }, "applied");
        self.expect_end(Request::Stop { now: false, limit: None }, "applied");
        self.go_until(None);
        if self.violation.is_none() && self.driver.is_some() {
            self.break_rule(3, "a stop in calm weather did not end the process".to_owned());
        }
    }
}

impl Faults {
    fn all(&mut self) -> [&mut u64; 13] {
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
            &mut self.exam,
            &mut self.moving,
        ]
    }
}
