//! Giver and taker against each other, in every order that a seed draws: losses, deaths at every step, time-outs, liars.
//!
//! Rules, asserted after every step:
//! - never do both serve the same connections while both live;
//! - a giver that has sent states serves again only when the taker is dead;
//! - a taker serves only when it was told so, or the giver is dead;
//! - every run ends, in bounded time, and then exactly one serves, or one of the two is dead.
//!
//! `HANDOVER_SEED=n` runs one seed.

use std::collections::VecDeque;

use super::super::giver::{self, Giver};
use super::super::taker::{self, Taker};

/// Runs of the ordinary test.
const SEEDS: u64 = 20_000;
/// Steps in which every run must have ended.
const MOST_STEPS: usize = 400;
/// What a liar says before it falls silent.
const MOST_LIES: usize = 60;
/// Virtual time in which every run must have ended, in milliseconds.
const LONGEST: u64 = 60_000;

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap() % limit
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Offer,
    Sockets,
    State,
    Commit,
    Late,
    Totals,
    Bye,
    Accept,
    Ready,
    Refuse,
    Enough,
}

const FROM_GIVER: [Message; 7] = [
    Message::Offer,
    Message::Sockets,
    Message::State,
    Message::Commit,
    Message::Late,
    Message::Totals,
    Message::Bye,
];
const FROM_TAKER: [Message; 4] = [Message::Accept, Message::Ready, Message::Refuse, Message::Enough];

/// What a service was asked and has not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Precopy,
    Freeze,
    Release,
    Totals,
    Adopt,
    Serve,
}

/// What may go wrong in a run.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    /// One message in so many cannot be sent; 0: none.
    unsent: usize,
    /// One call of a service in so many never returns, and one fails.
    hanging: usize,
    /// The taker cannot be killed.
    immortal: bool,
    /// Before this step, kill: true the giver, false the taker.
    kill: Option<(usize, bool)>,
    /// One of the two says anything at any time: true the giver.
    liar: Option<bool>,
    /// Deadlines come although something else could happen first.
    impatient: bool,
}

/// One of the two processes.
struct Process {
    alive: bool,
    /// It was sent SIGKILL, and does a few more things before it is gone.
    doomed: Option<usize>,
    /// It has been told that the other has closed its end, or is dead.
    told: [bool; 2],
    inbox: VecDeque<Message>,
    calls: VecDeque<Call>,
    hung: bool,
    deadline: Option<u64>,
    serves: bool,
    over: bool,
}

impl Process {
    fn new(serves: bool) -> Self {
        Self {
            alive: true,
            doomed: None,
            told: [false; 2],
            inbox: VecDeque::new(),
            calls: VecDeque::new(),
            hung: false,
            deadline: None,
            serves,
            over: false,
        }
    }

    fn end(&mut self) {
        (self.alive, self.serves, self.deadline) = (false, false, None);
        self.calls.clear();
    }
}

struct World {
    random: Random,
    faults: Faults,
    now: u64,
    giver: Giver,
    taker: Taker,
    g: Process,
    t: Process,
    states_sent: bool,
    commit_read: bool,
    /// The worker that gave everything wants it back: the taker was told to finish.
    finished: bool,
    drained: bool,
    lies: usize,
    trace: Vec<String>,
}

impl World {
    fn new(seed: u64, faults: Faults) -> Self {
        let ((giver, first), (taker, second)) = (Giver::begin(), Taker::begin());
        let mut world = Self {
            random: Random::new(seed),
            faults,
            now: 0,
            giver,
            taker,
            g: Process::new(true),
            t: Process::new(false),
            states_sent: false,
            commit_read: false,
            finished: false,
            drained: false,
            lies: 0,
            trace: Vec::new(),
        };
        world.give(first);
        world.take(second);
        world
    }

    fn is_fault(&mut self, one_in: usize) -> bool {
        one_in > 0 && self.random.one_in(one_in)
    }

    // ---- the giver's driver ----

    fn give(&mut self, actions: Vec<giver::Action>) {
        for action in actions {
            self.trace.push(format!("giver does {action:?}"));
            if let Some(event) = self.do_give(action) {
                self.giver_event(event);
            }
        }
    }

    fn giver_event(&mut self, event: giver::Event) {
        self.trace.push(format!("giver hears {event:?}"));
        let actions = self.giver.step(event);
        self.give(actions);
    }

    fn do_give(&mut self, action: giver::Action) -> Option<giver::Event> {
        use giver::{Action, Event};
        match action {
            Action::Offer => return self.giver_says(Message::Offer),
            Action::Precopy => self.g.calls.push_back(Call::Precopy),
            Action::Freeze => self.g.calls.push_back(Call::Freeze),
            Action::SendState => {
                assert!(!self.g.serves, "states are sent by who stands still");
                let failed = self.giver_says(Message::State);
                self.states_sent |= failed.is_none();
                return failed;
            }
            Action::Commit => return self.giver_says(Message::Commit).or(Some(Event::CommitSent)),
            Action::CloseOutlet => {}
            Action::Kill if self.t.alive && !self.faults.immortal => {
                self.t.doomed = Some(self.random.below(3));
            }
            Action::Kill => {}
            Action::Thaw => {
                assert!(!self.states_sent || !self.t.alive, "thawed although the taker lives");
                self.g.serves = true;
            }
            Action::Release => self.g.calls.push_back(Call::Release),
            Action::HandedOver => assert!(self.giver.has_committed()),
            Action::Failed(_) => assert!(self.g.serves, "failed, and nobody serves"),
            Action::GiveUp(_) => self.g.end(),
            Action::Part => self.g.calls.push_back(Call::Totals),
            Action::Deadline(within) => self.g.deadline = Some(self.now + millis(within)),
            Action::End => (self.g.over, self.g.deadline) = (true, None),
        }
        None
    }

    fn giver_says(&mut self, message: Message) -> Option<giver::Event> {
        if !self.t.alive || self.is_fault(self.faults.unsent) {
            return Some(giver::Event::Nonsense("it cannot be sent".to_owned()));
        }
        self.t.inbox.push_back(message);
        None
    }

    fn giver_returns(&mut self, call: Call) {
        use giver::Event;
        let fails = self.faults.hanging > 0 && self.random.one_in(self.faults.hanging * 2);
        let event = match call {
            Call::Precopy => {
                for _ in 0..self.random.below(3) {
                    let _ = self.giver_says(Message::Sockets);
                }
                Event::Copied
            }
            Call::Freeze if fails => Event::Frozen(Err("scripted".to_owned())),
            Call::Freeze => {
                self.g.serves = false;
                Event::Frozen(Ok(()))
            }
            Call::Release => Event::Released,
            _ => {
                let _ = self.giver_says(Message::Totals);
                let _ = self.giver_says(Message::Bye);
                Event::Parted
            }
        };
        self.giver_event(event);
    }

    fn giver_reads(&mut self, message: Message) {
        use giver::Event;
        let event = match message {
            Message::Accept => Event::Accepted { moves: !self.random.one_in(5) },
            Message::Ready => Event::Ready,
            Message::Refuse => Event::Refused("scripted".to_owned()),
            _ => Event::Enough,
        };
        self.giver_event(event);
    }

    // ---- the taker's driver ----

    fn take(&mut self, actions: Vec<taker::Action>) {
        for action in actions {
            self.trace.push(format!("taker does {action:?}"));
            if let Some(event) = self.do_take(action) {
                self.taker_event(event);
            }
        }
    }

    fn taker_event(&mut self, event: taker::Event) {
        self.trace.push(format!("taker hears {event:?}"));
        let actions = self.taker.step(event);
        self.take(actions);
    }

    fn do_take(&mut self, action: taker::Action) -> Option<taker::Event> {
        use taker::Action;
        match action {
            Action::Accept => return self.taker_says(Message::Accept),
            Action::SayReady => return self.taker_says(Message::Ready),
            Action::Refuse(_) => drop(self.taker_says(Message::Refuse)),
            Action::SayEnough => drop(self.taker_says(Message::Enough)),
            Action::Adopt => self.t.calls.push_back(Call::Adopt),
            Action::Serve { .. } => {
                assert!(self.commit_read || !self.g.alive, "it serves, and nobody said so");
                self.t.calls.push_back(Call::Serve);
            }
            Action::TookOver { .. } => assert!(self.t.serves),
            Action::Failed(_) | Action::GiveUp(_) => self.t.end(),
            Action::Take | Action::Late | Action::Totals => {}
            Action::Deadline(within) => self.t.deadline = within.map(|within| self.now + millis(within)),
            Action::End => (self.t.over, self.t.deadline) = (true, None),
        }
        None
    }

    fn taker_says(&mut self, message: Message) -> Option<taker::Event> {
        if self.is_fault(self.faults.unsent) {
            return Some(taker::Event::Nonsense("it cannot be sent".to_owned()));
        }
        // A closed conversation is noticed by reading from it.
        if self.g.alive {
            self.g.inbox.push_back(message);
        }
        None
    }

    fn taker_returns(&mut self, call: Call) {
        use taker::Event;
        let fails = self.faults.hanging > 0 && self.random.one_in(self.faults.hanging * 2);
        let event = match call {
            Call::Adopt if fails => Event::Adopted(Err("scripted".to_owned())),
            Call::Adopt => Event::Adopted(Ok(())),
            _ => {
                self.t.serves = true;
                Event::Served
            }
        };
        self.taker_event(event);
    }

    fn taker_reads(&mut self, message: Message) {
        use taker::Event;
        let event = match message {
            Message::Offer => Event::Offered,
            Message::Sockets => Event::Sockets,
            Message::State => Event::State,
            Message::Commit => Event::Commit,
            Message::Late => Event::Late,
            Message::Totals => Event::Totals,
            _ => Event::Bye,
        };
        self.commit_read |= message == Message::Commit;
        self.taker_event(event);
    }

    // ---- the world ----

    /// What could happen next, as numbers of [`World::happen`].
    fn possible(&mut self) -> Vec<usize> {
        let mut can = Vec::new();
        let mut add = |number: usize, when: bool| can.extend(when.then_some(number));
        let (g, t) = (&self.g, &self.t);
        let (giver, taker) =
            (g.alive && self.faults.liar != Some(true), t.alive && self.faults.liar != Some(false));
        add(0, giver && !g.over && !g.inbox.is_empty());
        add(1, taker && !t.over && !t.inbox.is_empty());
        add(2, giver && !g.hung && !g.calls.is_empty());
        add(3, taker && !t.hung && !t.calls.is_empty());
        // The end of the conversation is read behind everything that was said before; death is seen by itself, after it.
        add(4, giver && !g.over && !g.told[0] && (!t.alive || t.over) && g.inbox.is_empty());
        add(5, taker && !t.over && !t.told[0] && (!g.alive || g.over) && t.inbox.is_empty());
        add(6, giver && !g.over && !g.told[1] && !t.alive);
        add(7, taker && !t.over && t.told[0] && !t.told[1] && !g.alive);
        add(8, self.giver.has_committed() && giver && !self.drained && !g.over && g.calls.is_empty());
        add(9, taker && t.serves && !self.finished && !t.over && self.random.one_in(4));
        if let Some(liar) = self.faults.liar {
            add(10, if liar { g.alive } else { t.alive });
        }
        let waits = (giver && g.deadline.is_some()) || (taker && t.deadline.is_some());
        if waits && (can.is_empty() || self.faults.impatient || self.faults.liar.is_some()) {
            can.push(11);
        }
        can
    }

    fn happen(&mut self, number: usize) {
        match number {
            0 => {
                let message = self.g.inbox.pop_front().unwrap();
                self.giver_reads(message);
            }
            1 => {
                let message = self.t.inbox.pop_front().unwrap();
                self.taker_reads(message);
            }
            2 => match self.is_fault(self.faults.hanging) {
                true => self.g.hung = true,
                false => {
                    let call = self.g.calls.pop_front().unwrap();
                    self.giver_returns(call);
                }
            },
            3 => match self.is_fault(self.faults.hanging) {
                true => self.t.hung = true,
                false => {
                    let call = self.t.calls.pop_front().unwrap();
                    self.taker_returns(call);
                }
            },
            4 => {
                self.g.told[0] = true;
                self.giver_event(giver::Event::Closed);
            }
            5 => {
                self.t.told[0] = true;
                self.taker_event(taker::Event::Closed);
            }
            6 => {
                self.g.told[1] = true;
                self.giver_event(giver::Event::Dead);
            }
            7 => {
                self.t.told[1] = true;
                self.taker_event(taker::Event::Dead);
            }
            8 => self.drain(),
            9 => {
                self.finished = true;
                self.taker_event(taker::Event::Finish);
            }
            10 => self.lie(),
            _ => self.time_passes(),
        }
    }

    fn drain(&mut self) {
        let _ = self.giver_says(Message::Late);
        if self.random.one_in(2) {
            self.drained = true;
            self.giver_event(giver::Event::Drained);
        }
    }

    fn lie(&mut self) {
        if self.faults.liar == Some(true) {
            let message = FROM_GIVER[self.random.below(FROM_GIVER.len())];
            self.t.inbox.push_back(message);
            // A liar may have done anything with its connections; only the other's own rules hold.
            self.g.serves = false;
        } else {
            let message = FROM_TAKER[self.random.below(FROM_TAKER.len())];
            self.g.inbox.push_back(message);
        }
        self.lies += 1;
        if self.random.one_in(8) || self.lies > MOST_LIES {
            if self.faults.liar == Some(true) { self.g.end() } else { self.t.end() }
        }
    }

    fn time_passes(&mut self) {
        let liar = self.faults.liar;
        let next =
            |process: &Process, giver| process.deadline.filter(|_| process.alive && liar != Some(giver));
        let both = [next(&self.g, true), next(&self.t, false)];
        let at = both.into_iter().flatten().min().unwrap();
        self.now = self.now.max(at);
        if both[0] == Some(at) {
            self.g.deadline = None;
            self.giver_event(giver::Event::TimeOver);
        } else {
            self.t.deadline = None;
            self.taker_event(taker::Event::TimeOver);
        }
    }

    fn check(&self) {
        assert!(!(self.g.alive && self.g.serves && self.t.alive && self.t.serves), "both serve");
    }

    fn run(&mut self) {
        for step in 0..MOST_STEPS {
            if let Some((_, whom)) = self.faults.kill.filter(|(at, _)| *at == step) {
                self.trace.push(format!("killed: {}", if whom { "giver" } else { "taker" }));
                if whom { self.g.end() } else { self.t.end() }
            }
            match self.t.doomed {
                Some(0) if self.t.alive => self.t.end(),
                Some(left) => self.t.doomed = Some(left.saturating_sub(1)),
                None => {}
            }
            let can = self.possible();
            if can.is_empty() {
                if self.t.alive && self.t.doomed.is_some() {
                    continue;
                }
                return self.check_end();
            }
            let number = can[self.random.below(can.len())];
            self.happen(number);
            self.check();
        }
        panic!("it does not end");
    }

    fn check_end(&self) {
        assert!(!self.g.alive || self.giver.is_over() == self.g.over);
        assert!(!self.t.alive || self.taker.is_over() == self.t.over);
        assert!(self.now <= LONGEST, "it took {} ms", self.now);
        let serving = usize::from(self.g.alive && self.g.serves) + usize::from(self.t.alive && self.t.serves);
        let both_live = self.g.alive && self.t.alive;
        if self.faults.liar.is_none() {
            assert!(serving == 1 || (serving == 0 && !both_live), "{serving} serve");
            assert!(!self.g.alive || self.g.over, "the giver waits for ever");
            assert!(!self.t.alive || self.t.over || self.t.serves, "the taker waits for ever");
        }
        if let Some(giver_lies) = self.faults.liar {
            let honest = if giver_lies { &self.t } else { &self.g };
            assert!(!honest.alive || honest.over || honest.serves, "the honest one hangs");
        }
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

/// Runs it, and shows how it went if a rule is broken.
#[allow(clippy::print_stderr, reason = "the way to a failure is what a simulation is for")]
fn run(seed: u64, faults: Faults) -> World {
    let mut world = World::new(seed, faults);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
    if let Err(payload) = result {
        eprintln!("seed {seed}, {faults:?}:\n  {}", world.trace.join("\n  "));
        std::panic::resume_unwind(payload);
    }
    world
}

fn seeds() -> Vec<u64> {
    match std::env::var("HANDOVER_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (1..=SEEDS).collect(),
    }
}

#[test]
fn without_faults_everything_moves() {
    for seed in seeds() {
        let world = run(seed, Faults::default());
        assert!(world.t.serves && world.g.alive && !world.g.serves, "seed {seed}");
        assert!(world.g.over && world.t.over, "seed {seed}: the conversation goes on");
    }
}

#[test]
fn after_a_death_at_any_step_exactly_one_serves() {
    for seed in seeds().into_iter().take(2_000) {
        for step in 0..24 {
            for whom in [true, false] {
                let world = run(seed, Faults { kill: Some((step, whom)), ..Faults::default() });
                let survivor = if whom { &world.t } else { &world.g };
                // A giver that has handed over stands by: its supervisor tells it to serve again.
                assert!(
                    survivor.serves || (!whom && world.giver_let_go()),
                    "seed {seed}, step {step}: the survivor does not serve"
                );
            }
        }
    }
}

impl World {
    fn giver_let_go(&self) -> bool {
        self.trace.iter().any(|line| line.contains("giver hears CommitSent"))
    }
}

#[test]
fn whatever_fails_hangs_or_dies_never_both_serve_and_every_run_ends() {
    for seed in seeds() {
        let mut random = Random::new(seed ^ 0xFA17);
        let faults = Faults {
            unsent: [0, 0, 5, 20][random.below(4)],
            hanging: [0, 0, 4, 12][random.below(4)],
            immortal: random.one_in(6),
            kill: random.one_in(2).then(|| (random.below(24), random.one_in(2))),
            liar: None,
            impatient: random.one_in(2),
        };
        run(seed, faults);
    }
}

#[test]
fn a_liar_at_the_other_end_breaks_no_rule_of_the_honest_one() {
    for seed in seeds() {
        for giver in [true, false] {
            let mut random = Random::new(seed ^ 0x11A2);
            let (unsent, hanging) = ([0, 10][random.below(2)], [0, 8][random.below(2)]);
            run(seed, Faults { liar: Some(giver), unsent, hanging, ..Faults::default() });
        }
    }
}
