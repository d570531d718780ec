//! A driver that says anything at all: what makes no sense does no harm, and everything that was asked for is still answered once.

use std::collections::BTreeMap;
use std::time::Duration;

use handover_lifecycle::program::{Ask, CopyKey, EditionKey, Effect, Event, Machine, Plan, Restart, Swap};
use handover_lifecycle::{CallKey, OperationKey};

use crate::seeds::rng::Rng;

/// Lives, and events in each of them.
const LIVES: u64 = 3_000;
const EVENTS: u64 = 300;

fn some_plan(rng: &mut Rng) -> Plan {
    Plan {
        copies: u32::try_from(rng.below(4)).unwrap(),
        swap: if rng.chance(400) { Swap::StopFirst } else { Swap::Overlap },
        private: rng.chance(500),
        ready_limit: rng.millis(0, 100),
        settle: rng.millis(0, 100),
        quiet_limit: rng.millis(0, 100),
        stop_limit: rng.millis(0, 100),
        restart: [Restart::Always, Restart::OnFailure, Restart::Never]
            [usize::try_from(rng.below(3)).unwrap()],
        backoff_first: rng.millis(0, 100),
        backoff_longest: rng.millis(0, 100),
        backoff_reset: rng.millis(0, 100),
        on_demand: rng.chance(300),
        idle: rng.chance(500),
        warm: rng.millis(0, 1000),
        batch: u32::try_from(rng.below(3)).unwrap(),
        max_unhealthy: u32::try_from(rng.below(3)).unwrap(),
        pause_limit: rng.millis(0, 1000),
    }
}

fn some_ask(rng: &mut Rng) -> Ask {
    let time = |rng: &mut Rng| rng.chance(500).then(|| rng.millis(0, 1000));
    match rng.below(8) {
        0 => Ask::Start,
        1 => Ask::Stop,
        2 => Ask::Restart { batch: Some(0), max_unhealthy: None },
        3 => Ask::Rollback,
        4 => Ask::Confirm,
        5 => Ask::Cancel,
        6 => Ask::GoBack,
        _ => Ask::Deploy {
            edition: EditionKey(rng.below(5)),
            plan: some_plan(rng),
            hook: time(rng),
            confirm: time(rng),
            guard: time(rng),
        },
    }
}

fn anything(rng: &mut Rng, next_operation: &mut u64, keys: u64) -> Event {
    let copy = CopyKey(rng.below(keys + 2));
    let call = CallKey(rng.below(keys + 2));
    let edition = EditionKey(rng.below(5));
    let operation = OperationKey(rng.below(*next_operation + 2));
    let new = OperationKey(*next_operation);
    match rng.below(22) {
        0 => Event::Begin {
            edition,
            plan: some_plan(rng),
            before: rng.chance(500).then(|| (EditionKey(rng.below(5)), some_plan(rng))),
            pending: rng.chance(500).then(|| rng.millis(0, 1000)),
            stopped: rng.chance(200),
        },
        1 => Event::Resumed,
        2 | 3 => {
            *next_operation += 1;
            Event::Ask { operation: new, ask: some_ask(rng) }
        }
        4 => Event::CallOff { operation },
        5 => {
            *next_operation += 1;
            Event::Prepare { operation: new, edition, plan: some_plan(rng) }
        }
        6 => Event::Abort { operation },
        7 => Event::Apply { edition, plan: some_plan(rng) },
        8 if rng.chance(20) => Event::End { limit: None },
        8 | 9 => Event::Started { copy },
        10 => Event::NotStarted { copy },
        11 | 12 => Event::Ready { copy },
        13 => Event::NotReady { copy },
        14 => Event::Exited { copy, ok: rng.chance(500) },
        15 => Event::Gone { copy },
        16 => Event::Demand,
        17 => Event::Idle,
        18 => Event::TrafficSet { call },
        19 => Event::Quiet { call, clean: rng.chance(500) },
        20 => Event::HookDone { operation, ok: rng.chance(500) },
        _ => Event::Saved { call, ok: rng.chance(500) },
    }
}

/// How often each operation and each exam was answered.
#[derive(Default)]
struct Answers(BTreeMap<OperationKey, u32>);

impl Answers {
    fn hear(&mut self, effects: Vec<Effect>) -> u64 {
        let mut highest = 0;
        for effect in effects {
            match effect {
                Effect::Done { operation, .. } | Effect::Prepared { operation, .. } => {
                    *self.0.entry(operation).or_default() += 1;
                }
                Effect::Start { copy, .. } => highest = highest.max(copy.0),
                Effect::Route { call, .. } | Effect::Save { call } | Effect::Pause { call, .. } => {
                    highest = highest.max(call.0);
                }
                _ => {}
            }
        }
        highest
    }
}

fn live(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut machine = Machine::new(0);
    let (mut now, mut keys, mut next_operation) = (Duration::ZERO, 0, 1);
    let mut answers = Answers::default();
    for _ in 0..EVENTS {
        if rng.chance(200) {
            now += rng.millis(0, 2000);
        }
        let event = anything(&mut rng, &mut next_operation, keys);
        keys = keys.max(answers.hear(machine.step(now, event)));
        let deadline = machine.deadline();
        assert!(deadline.is_none_or(|by| by > now), "seed {seed}: {deadline:?} at {now:?} after {event:?}");
    }
    keys = keys.max(answers.hear(machine.step(now, Event::End { limit: None })));
    let mut steps = 0;
    while let Some(by) = machine.deadline() {
        now = by;
        answers.hear(machine.step(now, Event::Time));
        steps += 1;
        assert!(steps < 10_000, "seed {seed}: it turns in a circle: {:?}", machine.view());
    }
    for operation in (1..next_operation).map(OperationKey) {
        let count = answers.0.get(&operation).copied().unwrap_or_default();
        assert_eq!(count, 1, "seed {seed}: {operation} was answered {count} times; {keys} keys");
    }
}

#[test]
fn nonsense_does_no_harm() {
    (0..LIVES).for_each(live);
}
