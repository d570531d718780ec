//! Workers that lie, a driver that is confused: any event, in any order, about anything that exists.
//!
//! Nothing can be promised about what is served then. But the machine must not panic, must not spin, must not
//! grow, must answer every request at once, and must still end when it is told to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "seeds/rng.rs"]
mod rng;

use std::time::Duration;

use handover_lifecycle::{
    Asked, CallKey, Caller, CandidateKey, Cause, Effect, Event, Exam, Finding, GenerationNumber, Kind,
    Limits, Machine, Message, OperationKey, Outcome, Pending, Phase, Recovered, Request, Source, Terms,
    WorkerKey,
};
use rng::Rng;

const LIVES: u64 = 20_000;
const EVENTS: u64 = 120;

/// Everything that the machine has named, to be repeated to it out of place.
#[derive(Default)]
struct Known {
    workers: Vec<WorkerKey>,
    candidates: Vec<CandidateKey>,
    calls: Vec<CallKey>,
    operations: Vec<OperationKey>,
    exams: Vec<Exam>,
}

impl Known {
    fn learn(&mut self, effects: &[Effect]) {
        for effect in effects {
            match *effect {
                Effect::StartWorker { worker, .. } => self.workers.push(worker),
                Effect::Send { message: Message::Prepare { candidate, .. }, .. } => {
                    self.candidates.push(candidate)
                }
                Effect::Send {
                    message:
                        Message::Drain { call, .. }
                        | Message::Resume { call }
                        | Message::Guard { call, .. }
                        | Message::Action { call, .. },
                    ..
                } => self.calls.push(call),
                Effect::Own { operation, .. } => self.operations.push(operation),
                Effect::Examine { exam, .. } => self.exams.push(exam),
                Effect::HandOver { call, .. } => self.calls.push(call),
                _ => {}
            }
        }
    }
}

/// One of the last few, so that many hit what is going on.
fn pick<T: Copy>(rng: &mut Rng, known: &[T], or: T) -> T {
    let back = usize::try_from(rng.below(3)).unwrap() + 1;
    known.len().checked_sub(back).and_then(|index| known.get(index)).copied().unwrap_or(or)
}

fn some_event(rng: &mut Rng, known: &mut Known) -> Event {
    let worker = pick(rng, &known.workers, WorkerKey(0));
    let candidate = pick(rng, &known.candidates, CandidateKey(0));
    let call = pick(rng, &known.calls, CallKey(0));
    let operation = pick(rng, &known.operations, OperationKey(0));
    let generation = GenerationNumber(rng.below(6));
    let yes = rng.chance(500);
    let exam = pick(rng, &known.exams, Exam::Admission);
    let finding = if rng.chance(850) { Finding::Passed } else { Finding::Failed };
    match rng.below(44) {
        28..32 => Event::Examined { operation, exam, finding },
        32..34 => Event::TookOver { worker, call, clean: yes },
        34..36 => Event::HandedOver { worker, call },
        36 => Event::HandoffFailed { worker, call },
        37 => Event::ReexecFailed { operation },
        38 => Event::Reexecuted,
        39..41 => Event::Carried { operation, outcome: Outcome::Applied, cause: Cause::Done },
        41 => Event::ProgramsStopped { clean: yes },
        0 => Event::Start { operation, source: Source::Disk, pending: some_pending(rng) },
        1 => Event::Adopted { operation, worker, generation, accepting: yes, pending: some_pending(rng) },
        2..5 => Event::WorkerReady { worker },
        5 => Event::WorkerNotStarted { worker },
        6 => Event::WorkerExited { worker },
        7 => Event::ChannelLost { worker },
        8 => Event::Need { worker, candidate },
        9 => Event::Bound { worker, candidate },
        10..13 => Event::Prepared {
            worker,
            candidate,
            unchanged: rng.chance(200),
            programs: yes.then(|| rng.millis(0, 9_000)),
        },
        13 => Event::Rejected { worker, candidate, unreachable: yes },
        14 => Event::Committed { worker, candidate },
        15 => Event::Drained { worker, call, clean: yes },
        16 => Event::Resumed { worker, call },
        17 => Event::ActionDone { worker, call, ok: yes },
        18 => Event::IntentWritten { operation, generation },
        19 => Event::IntentFailed { operation, generation },
        20 => Event::OutcomeWritten { operation },
        21 => Event::OutcomeFailed { operation },
        22 => Event::Tick,
        23 => Event::GuardEnded { worker, call, passed: yes },
        _ => {
            let request = some_request(rng, yes);
            let operation = OperationKey(known.operations.len() as u64 + 1);
            known.operations.push(operation);
            let caller = if rng.chance(500) { Caller::Signal } else { Caller::Waiting };
            Event::Request { operation, asked: Asked { request, caller, expected: None } }
        }
    }
}

fn some_pending(rng: &mut Rng) -> Option<Pending> {
    let (generation, back_to) = (GenerationNumber(rng.below(6)), GenerationNumber(rng.below(6)));
    let left = if rng.chance(300) { Duration::ZERO } else { rng.millis(0, 100_000) };
    let upgrade = rng.chance(300).then_some(WorkerKey(0));
    rng.chance(500).then_some(Pending { generation, back_to, upgrade, left })
}

fn some_request(rng: &mut Rng, yes: bool) -> Request {
    let some = |rng: &mut Rng| {
        let wait = if rng.chance(50) { Duration::MAX } else { rng.millis(0, 100_000) };
        rng.chance(500).then_some(wait)
    };
    let terms = Terms { confirm: some(rng), guard: some(rng) };
    let (to, dry_run) = (GenerationNumber(rng.below(6)), rng.chance(100));
    match rng.below(18) {
        16..18 => {
            let kind = if yes { Kind::ProgramDeploy } else { Kind::ResumeTraffic };
            let limit = if rng.chance(50) { Duration::MAX } else { rng.millis(0, 100_000) };
            Request::Carried { kind, limit }
        }
        13..16 => Request::Upgrade { dry_run, terms },
        0..3 => Request::RELOAD,
        3 => Request::VALIDATE,
        4 => Request::Action,
        5 => Request::Drain { limit: yes.then_some(Duration::MAX) },
        6 => Request::Resume,
        7 => Request::Stop { now: yes, limit: None },
        8 => Request::Reload { dry_run, certs_only: yes, terms },
        9 => Request::Rollback { to, dry_run, terms },
        10 => Request::Restore { dry_run, terms },
        11 => Request::Confirm,
        _ => Request::Cancel,
    }
}

/// Acts upon every deadline that has passed. One that stays in the past would keep the driver busy for ever.
fn settle(machine: &mut Machine, now: Duration, known: &mut Known, seed: u64) {
    for _ in 0..20 {
        if machine.deadline().is_none_or(|at| at > now) {
            return;
        }
        known.learn(&machine.step(now, Event::Tick));
    }
    panic!("life {seed}: a deadline stays in the past: {machine:?}");
}

#[test]
fn no_order_of_events_panics_spins_or_grows() {
    for seed in 0..LIVES {
        let mut rng = Rng::new(seed);
        let last_good = rng.chance(500).then_some(GenerationNumber(2));
        let recovered = Recovered { keys_from: 100, last_good, ..Recovered::default() };
        let mut machine = Machine::new(Limits::DEFAULT, recovered);
        let (mut now, mut known) = (Duration::ZERO, Known::default());
        known.learn(&machine.step(
            now,
            Event::Start {
                operation: OperationKey(0),
                source: Source::Disk,
                pending: some_pending(&mut rng),
            },
        ));
        for _ in 0..EVENTS {
            now += if rng.chance(50) { rng.millis(0, 60_000) } else { rng.millis(0, 20) };
            let event = some_event(&mut rng, &mut known);
            let effects = machine.step(now, event);
            known.learn(&effects);
            if let Event::Request { operation, .. } = event {
                let answered = effects.iter().any(|effect| {
                    matches!(effect,
                        Effect::Started { operation: key }
                        | Effect::Joined { request: key, .. }
                        | Effect::Deferred { request: key }
                        | Effect::Refuse { request: key, .. } if *key == operation)
                });
                assert!(answered, "life {seed}: {event:?} has no answer in {effects:?}");
            }
            settle(&mut machine, now, &mut known, seed);
            assert!(machine.view().workers.len() <= 4, "life {seed}: {:?}", machine.view());
        }
        let asked = Asked {
            request: Request::Stop { now: true, limit: None },
            caller: Caller::Signal,
            expected: None,
        };
        let saved = machine.save();
        let _ = machine.step(now, Event::Request { operation: OperationKey(u64::MAX), asked });
        let mut waits = 0;
        while let Some(at) = machine.deadline() {
            now = now.max(at);
            settle(&mut machine, now, &mut known, seed);
            waits += 1;
            assert!(waits < 100, "life {seed}: it does not end: {:?}", machine.view());
        }
        assert_eq!(machine.view().phase, Phase::Stopped, "life {seed}");
        // Whatever it was in the middle of, the next binary can rehearse with it.
        let next = Machine::resume(Limits::DEFAULT, Recovered::default(), saved.clone());
        let enough = saved.operation.is_some() && saved.worker.is_some() && saved.held_to.is_some();
        assert_eq!(next.is_ok(), enough, "life {seed}: {saved:?}");
    }
}
