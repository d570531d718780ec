//! The model: processes, traffic, a disk, a driver that performs what the machine says, and the weather.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use handover_lifecycle::program::{
    Ask, CopyKey, Durable, EditionKey, Event, Machine, Plan, Restart, State, Swap, View,
};
use handover_lifecycle::{CallKey, OperationKey};

use crate::rules::{Op, Tally};
use crate::sabotage::Sabotage;
use crate::seeds::Violation;
use crate::seeds::rng::Rng;

/// What a process does when it is treated in this way or that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mood {
    /// It is started; or cannot be; or nobody says.
    pub(crate) starts: Option<bool>,
    /// It gets ready after this long; or says that it is not; or says nothing.
    pub(crate) ready: Option<(bool, Duration)>,
    /// It ends by itself after this long, counted from its start.
    pub(crate) dies: Option<(Duration, bool)>,
    /// It obeys its stop signal after this long.
    pub(crate) obeys: Option<Duration>,
    /// Its first process leaves others behind.
    pub(crate) leaves: bool,
    /// How long the kernel needs to kill it.
    pub(crate) killed_in: Duration,
}

/// One copy, as it really is.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) edition: EditionKey,
    pub(crate) number: u32,
    /// Its first process lives.
    pub(crate) first: bool,
    /// Something of it lives.
    pub(crate) alive: bool,
    /// The machine was told that it is ready.
    pub(crate) ready: bool,
    /// When it was asked to stop, and how long it was given.
    pub(crate) stop: Option<(Duration, Duration)>,
    pub(crate) killed: bool,
    pub(crate) mood: Mood,
}

/// Something that is going to happen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Happening {
    /// An answer of this life of the supervisor's.
    Answer(u32, Event),
    /// The kernel's, whoever listens.
    Tell(Event),
    /// The first process of a copy ends by itself.
    Dies(CopyKey, bool),
    /// The rest of a copy is gone.
    Goes(CopyKey),
    /// Something out of the blue.
    Chaos,
    /// A reload goes on after its exam.
    Reload(OperationKey, EditionKey, bool),
    /// The supervisor's own operation gets its turn.
    OwnTurn(u32),
}

/// How bad it is, per mille.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) fault: u64,
    /// Nobody connects any more.
    pub(crate) calm: bool,
}

/// What an edition is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quality {
    Good,
    NeverReady,
    DiesEarly,
    DiesInSettle,
    DiesLater,
    IgnoresStop,
}

/// One life of a program.
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: Duration,
    pub(crate) machine: Machine,
    pub(crate) view: View,
    pub(crate) processes: BTreeMap<CopyKey, Process>,
    pub(crate) editions: BTreeMap<EditionKey, (Plan, Quality)>,
    pub(crate) forgotten: BTreeSet<EditionKey>,
    pub(crate) queue: BTreeMap<(Duration, u64), Happening>,
    sequence: u64,
    pub(crate) weather: Weather,
    /// Counts the supervisor's lives.
    pub(crate) life: u32,
    pub(crate) ops: Vec<Op>,
    pub(crate) next_operation: u64,
    /// Which edition which reload brings.
    pub(crate) exams: BTreeMap<OperationKey, EditionKey>,
    next_edition: u64,
    /// The last that was said about traffic.
    pub(crate) routed_on: Vec<CopyKey>,
    pub(crate) routed_off: Vec<CopyKey>,
    pub(crate) last_call: CallKey,
    /// Since when requests are held, for how long at most, and what served then.
    pub(crate) paused: Option<(Duration, Duration, Option<EditionKey>)>,
    /// When a copy that served was lost last.
    pub(crate) lost_at: Option<Duration>,
    /// Editions that the configuration has brought.
    pub(crate) applied: BTreeSet<EditionKey>,
    pub(crate) last_edition: Option<EditionKey>,
    pub(crate) last_operation: Option<OperationKey>,
    pub(crate) watched: (bool, bool),
    /// What is on the disk, and since when.
    pub(crate) disk: (Durable, Duration),
    /// What is on its way to it.
    pub(crate) writing: Option<(CallKey, Durable)>,
    /// Ready copies that ended without having been asked to, in this step.
    pub(crate) losses: u32,
    pub(crate) capacity: u32,
    pub(crate) overdue_since: Option<Duration>,
    pub(crate) ending: bool,
    pub(crate) ended: bool,
    pub(crate) sabotage: Option<Sabotage>,
    /// Copies that a mistake stops, and those that it believes to be gone.
    pub(crate) sentenced: Vec<CopyKey>,
    pub(crate) believed: Vec<CopyKey>,
    pub(crate) violation: Option<Violation>,
    pub(crate) tally: Tally,
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) steps: u64,
}

/// Happenings in one life at most: one that goes on for longer turns in a circle.
const MOST_STEPS: u64 = 20_000;

impl World {
    pub(crate) fn run(seed: u64, sabotage: Option<Sabotage>, traced: bool) -> Self {
        let mut world = Self::new(seed, sabotage, traced);
        world.begin();
        let end = world.now + Duration::from_secs(180);
        for _ in 0..world.rng.below(40) + 3 {
            let at = world.rng.millis(0, 150_000);
            world.schedule(at, Happening::Chaos);
        }
        world.go_on_until(end, false);
        world.calm_down();
        world
    }

    fn new(seed: u64, sabotage: Option<Sabotage>, traced: bool) -> Self {
        let machine = Machine::new(1);
        let mut rng = Rng::new(seed);
        let fault = [0, 30, 100, 250][usize::try_from(rng.below(4)).unwrap()];
        let weather = Weather { fault, calm: false };
        Self {
            rng,
            now: Duration::from_secs(1000),
            view: machine.view(),
            machine,
            processes: BTreeMap::new(),
            editions: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            weather,
            life: 0,
            ops: Vec::new(),
            next_operation: 1,
            exams: BTreeMap::new(),
            next_edition: 1,
            routed_on: Vec::new(),
            routed_off: Vec::new(),
            last_call: CallKey(0),
            paused: None,
            lost_at: None,
            applied: BTreeSet::new(),
            last_edition: None,
            last_operation: None,
            watched: (false, false),
            disk: (Durable::default(), Duration::ZERO),
            writing: None,
            losses: 0,
            capacity: 0,
            overdue_since: None,
            ending: false,
            ended: false,
            sabotage,
            sentenced: Vec::new(),
            believed: Vec::new(),
            violation: None,
            tally: Tally::default(),
            trace: traced.then(Vec::new),
            steps: 0,
        }
    }

    fn begin(&mut self) {
        let (edition, plan) = self.new_edition(None);
        self.disk = (Durable { edition: Some(edition), ..Durable::default() }, self.now);
        let stopped = self.rng.chance(50);
        if self.rng.chance(100) {
            self.feed(Event::Apply { edition, plan });
        } else {
            self.feed(Event::Begin { edition, plan, before: None, pending: None, stopped });
        }
    }

    /// Happenings in their order, deadlines among them, until that time; or until nothing more is to happen.
    pub(crate) fn go_on_until(&mut self, end: Duration, until_rest: bool) {
        while self.violation.is_none() {
            let next = self.queue.keys().next().copied();
            let deadline = self.machine.deadline();
            let at = [next.map(|(at, _)| at), deadline].into_iter().flatten().min();
            let Some(at) = at.filter(|at| *at <= end) else { break };
            if until_rest && self.is_at_rest() {
                return;
            }
            self.steps += 1;
            if self.steps > MOST_STEPS {
                return self.break_rule(10, format!("more than {MOST_STEPS} happenings"));
            }
            self.now = self.now.max(at);
            match next.filter(|(time, _)| *time == at) {
                Some(key) => {
                    let happening = self.queue.remove(&key).unwrap();
                    self.happen(happening);
                }
                None => self.feed(Event::Time),
            }
        }
        self.now = self.now.max(end.min(self.now + Duration::from_secs(1_000_000)));
    }

    /// Nobody waits for anything.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.view.step.is_none() && self.ops.iter().all(|op| op.ended)
    }

    pub(crate) fn schedule(&mut self, after: Duration, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), happening);
    }

    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>10.3} {}", now.as_secs_f64() - 1000.0, text()));
        }
    }

    pub(crate) fn fault(&mut self) -> bool {
        let fault = self.weather.fault;
        self.rng.chance(fault)
    }

    /// An edition that nobody has seen yet.
    pub(crate) fn new_edition(&mut self, like: Option<Plan>) -> (EditionKey, Plan) {
        let key = EditionKey(self.next_edition);
        self.next_edition += 1;
        let plan = like.unwrap_or_else(|| self.some_plan());
        let quality = match self.rng.below(if self.weather.fault == 0 { 1 } else { 10 }) {
            5 => Quality::NeverReady,
            6 => Quality::DiesEarly,
            7 => Quality::DiesInSettle,
            8 => Quality::DiesLater,
            9 => Quality::IgnoresStop,
            _ => Quality::Good,
        };
        self.editions.insert(key, (plan, quality));
        self.note(|| format!("   {key} is {quality:?}: {plan:?}"));
        (key, plan)
    }

    fn some_plan(&mut self) -> Plan {
        let rng = &mut self.rng;
        let on_demand = rng.chance(150);
        Plan {
            copies: u32::try_from(rng.below(4) + 1).unwrap(),
            swap: if rng.chance(300) { Swap::StopFirst } else { Swap::Overlap },
            private: rng.chance(600),
            ready_limit: rng.millis(500, 4000),
            settle: rng.millis(0, 1500),
            quiet_limit: rng.millis(0, 3000),
            stop_limit: rng.millis(0, 3000),
            restart: [Restart::Always, Restart::Always, Restart::OnFailure, Restart::Never]
                [usize::try_from(rng.below(4)).unwrap()],
            backoff_first: Duration::from_millis(100),
            backoff_longest: rng.millis(100, 5000),
            backoff_reset: rng.millis(1000, 10_000),
            on_demand,
            idle: on_demand && rng.chance(700),
            warm: if rng.chance(500) { rng.millis(1000, 30_000) } else { Duration::ZERO },
            batch: u32::try_from(rng.below(3) + 1).unwrap(),
            max_unhealthy: u32::try_from(rng.below(2)).unwrap(),
            pause_limit: rng.millis(500, 20_000),
        }
    }

    /// How a process of this edition behaves today.
    pub(crate) fn some_mood(&mut self, edition: EditionKey) -> Mood {
        let (plan, quality) = self.editions[&edition];
        let mut mood = Mood {
            starts: Some(true),
            ready: Some((true, self.rng.millis(5, 400))),
            dies: None,
            obeys: Some(self.rng.millis(1, 300)),
            leaves: false,
            killed_in: self.rng.millis(1, 20),
        };
        if self.weather.fault == 0 {
            return mood;
        }
        match quality {
            Quality::Good => {}
            Quality::NeverReady => {
                mood.ready = if self.rng.chance(500) { None } else { Some((false, self.rng.millis(5, 900))) }
            }
            Quality::DiesEarly => mood.dies = Some((self.rng.millis(0, 300), self.rng.chance(300))),
            Quality::DiesInSettle => {
                let soon = mood.ready.unwrap().1 + self.rng.millis(5, 1000);
                mood.dies = Some((soon, self.rng.chance(300)));
            }
            Quality::DiesLater => {
                mood.dies = Some((plan.settle + self.rng.millis(400, 12_000), self.rng.chance(300)))
            }
            Quality::IgnoresStop => mood.obeys = None,
        }
        if self.fault() {
            mood.starts = if self.rng.chance(700) { Some(false) } else { None };
        }
        if self.fault() {
            mood.ready = None;
        }
        if self.fault() {
            mood.dies = Some((self.rng.millis(0, 20_000), self.rng.chance(300)));
        }
        if self.fault() {
            mood.obeys = None;
        }
        mood.leaves = self.fault();
        if self.fault() && self.rng.chance(200) {
            mood.killed_in = self.rng.millis(4000, 15_000);
        }
        mood
    }

    pub(crate) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Answer(life, event) if life == self.life => {
                self.hear(event);
                // Said twice, or once more when nobody listens any more.
                if self.fault() && self.rng.chance(200) {
                    let later = self.rng.millis(0, 3000);
                    self.schedule(later, Happening::Answer(life, event));
                }
            }
            Happening::Answer(..) => {}
            Happening::Tell(event) => self.feed(event),
            Happening::Dies(key, ok) => self.dies(key, ok),
            Happening::Goes(key) => self.goes(key),
            Happening::Chaos => self.chaos(),
            Happening::Reload(operation, edition, applies) => {
                self.go_on_with_reload(operation, edition, applies)
            }
            Happening::OwnTurn(life) if life == self.life => self.ask(Ask::GoBack),
            Happening::OwnTurn(_) => {}
        }
    }

    /// An answer, with what it says about the world.
    fn hear(&mut self, event: Event) {
        match event {
            Event::Ready { copy } => match self.processes.get_mut(&copy) {
                Some(process) if process.first => process.ready = true,
                _ => return,
            },
            Event::Saved { call, ok: true } => {
                if let Some((_, durable)) = self.writing.take_if(|(waits, _)| *waits == call) {
                    self.disk = (durable, self.now);
                }
            }
            _ => {}
        }
        self.feed(event);
    }

    /// The first process ends by itself.
    pub(crate) fn dies(&mut self, key: CopyKey, ok: bool) {
        let Some(process) = self.processes.get_mut(&key).filter(|process| process.first) else { return };
        process.first = false;
        let leaves = process.mood.leaves && !process.killed;
        if process.ready && process.stop.is_none() && !process.killed {
            self.losses += 1;
        }
        let soon = self.rng.millis(0, 5);
        if !leaves {
            self.schedule(soon, Happening::Goes(key));
        }
        self.feed(Event::Exited { copy: key, ok });
    }

    fn goes(&mut self, key: CopyKey) {
        let Some(process) = self.processes.get_mut(&key).filter(|process| process.alive) else { return };
        if process.first && process.ready && process.stop.is_none() && !process.killed {
            self.losses += 1;
        }
        process.first = false;
        process.alive = false;
        self.feed(Event::Gone { copy: key });
    }

    /// Tells the machine, does what it says, and looks whether all rules hold.
    pub(crate) fn feed(&mut self, event: Event) {
        if self.violation.is_some() {
            return;
        }
        let event = self.spoil_event(event);
        self.note(|| format!("-> {event:?}"));
        let now = self.now;
        let effects = self.machine.step(now, event);
        let effects = self.spoil(effects);
        self.view = self.machine.view();
        for effect in effects {
            self.note(|| format!("     {effect:?}"));
            self.perform(effect);
        }
        self.spoil_world();
        self.check();
        self.losses = 0;
    }

    pub(crate) fn is_up(&self) -> bool {
        !matches!(
            self.view.state,
            State::New | State::OnDemand | State::Stopping | State::Stopped | State::Ended
        )
    }
}
