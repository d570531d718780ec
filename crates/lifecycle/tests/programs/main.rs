//! The machine of one program: in a model world, tens of thousands of short lives from one seed each, and in stories told by hand.
//!
//! Copies cannot be started, never get ready, die at every moment, ignore their stop signal, leave children behind, cannot even be
//! killed for a while; traffic, the disk and hooks answer late, twice, or never; the supervisor becomes another process, or
//! everything dies; everything is asked for in every state, called off, and said too late. In every step the rules of `rules.rs`
//! are looked at. At the end of each life the weather turns calm: then everything must succeed, whatever went before.
//!
//! A seed that breaks a rule is printed with its trace. Replay it with `HANDOVER_SIM_SEED=<seed>`; `HANDOVER_SIM_SEEDS=<count>` runs
//! more or fewer of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod by_hand;
mod driver;
mod hazards;
mod liars;
mod probation;
#[path = "../simulation/rng.rs"]
mod rng;
mod rules;
mod sabotage;
mod saved;
mod stop_first;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use handover_lifecycle::Outcome;
use rules::{Tally, Violation};
use sabotage::Sabotage;
use world::World;

/// Seeds in the ordinary test run.
const SEEDS: u64 = 20_000;

/// Seeds within which each deliberate mistake must be noticed.
const SABOTAGED_SEEDS: u64 = 5_000;

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, not a number")))
}

/// Runs seeds on all cores until one fails; the smallest one that failed is returned.
fn run_seeds(count: u64, sabotage: Option<Sabotage>) -> (Tally, u64, Option<(u64, Violation)>) {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let (mut tally, mut steps) = (Tally::default(), 0);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count {
                return (tally, steps, None);
            }
            let world = World::run(seed, sabotage, false);
            tally.add(world.tally);
            steps += world.steps;
            if let Some(violation) = world.violation {
                next.store(count, Ordering::Relaxed);
                return (tally, steps, Some((seed, violation)));
            }
        }
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (mut all, mut happenings, mut failed): (Tally, u64, Option<(u64, Violation)>) = Default::default();
    for (tally, steps, failure) in results {
        all.add(tally);
        happenings += steps;
        if let Some((seed, violation)) = failure
            && failed.as_ref().is_none_or(|(other, _)| seed < *other)
        {
            failed = Some((seed, violation));
        }
    }
    (all, happenings, failed)
}

fn report(seed: u64) -> String {
    let world = World::run(seed, None, true);
    let trace = world.trace.unwrap_or_default().join("\n");
    match world.violation {
        Some(Violation { rule, text }) => {
            format!("{trace}\n\nseed {seed} breaks rule {rule}: {text}\nreplay: HANDOVER_SIM_SEED={seed}")
        }
        None => format!("{trace}\n\nseed {seed} breaks no rule"),
    }
}

#[test]
#[allow(clippy::print_stderr)] // A trace is read by people.
fn fifteen_rules_hold_in_every_step_of_twenty_thousand_lives() {
    if let Some(seed) = number_from("HANDOVER_SIM_SEED") {
        let world = World::run(seed, None, true);
        eprintln!("{}", report(seed));
        assert!(world.violation.is_none(), "seed {seed} fails");
        return;
    }
    let count = number_from("HANDOVER_SIM_SEEDS").unwrap_or(SEEDS);
    let (tally, steps, failed) = run_seeds(count, None);
    if let Some((seed, _)) = failed {
        panic!("{}", report(seed));
    }
    eprintln!("{count} seeds, {steps} happenings\n{tally:?}");
    if count >= SEEDS {
        assert_reaches_everything(tally);
    }
}

/// Every way to end that the machine has, by what was asked for, must have come up.
fn assert_reaches_everything(mut tally: Tally) {
    use Outcome::{Applied, AppliedWithLosses, NotReady, Rejected, RolledBack, Unchanged, Unknown};
    let expected: [&[Outcome]; 8] = [
        &[Applied, Unchanged, Rejected, NotReady],
        &[Applied, Unchanged, Rejected, AppliedWithLosses],
        &[Applied, Rejected, NotReady, RolledBack, AppliedWithLosses, Unknown],
        &[Applied, Rejected, NotReady, RolledBack, AppliedWithLosses, Unknown],
        &[Applied, Rejected, NotReady, RolledBack, AppliedWithLosses, Unknown],
        &[Applied, Rejected, NotReady],
        &[Applied, Rejected, NotReady, RolledBack, AppliedWithLosses, Unknown],
        &[Applied, Unchanged, Rejected, NotReady, RolledBack, AppliedWithLosses, Unknown],
    ];
    for ((ask, seen), expected) in Tally::ASKS.iter().zip(&tally.ends).zip(expected) {
        for (outcome, count) in Outcome::ALL.iter().zip(seen) {
            if expected.contains(outcome) {
                assert!(*count > 0, "no {ask} ended as {outcome}: the simulation does not come there");
            } else {
                assert_eq!(*count, 0, "a {ask} ended as {outcome}");
            }
        }
    }
    let (exams, over) = (tally.exams, tally.over);
    let singles = tally.singles().map(|count| *count);
    for count in exams.into_iter().chain(over).chain(singles) {
        assert!(count > 0, "the simulation does not come everywhere: {tally:?}");
    }
}

fn assert_noticed(sabotage: Sabotage, rules: &[u8]) {
    let (_, _, failed) = run_seeds(SABOTAGED_SEEDS, Some(sabotage));
    let Some((seed, violation)) = failed else {
        panic!("{sabotage:?} went unnoticed");
    };
    assert!(rules.contains(&violation.rule), "{sabotage:?} was noticed in seed {seed} as {violation:?}");
}

#[test]
fn an_operation_that_does_not_end_once_is_noticed() {
    assert_noticed(Sabotage::NeverAnswers, &[1]);
    assert_noticed(Sabotage::AnswersTwice, &[1]);
}

#[test]
fn a_failure_that_changed_what_serves_is_noticed() {
    assert_noticed(Sabotage::CallsSuccessFailure, &[2, 14]);
}

#[test]
fn capacity_that_falls_is_noticed() {
    assert_noticed(Sabotage::StopsBeforeTheOtherIsReady, &[3]);
}

#[test]
fn a_pause_that_ends_never_or_too_early_is_noticed() {
    assert_noticed(Sabotage::NeverResumes, &[4]);
    assert_noticed(Sabotage::ResumesTooEarly, &[4]);
}

#[test]
fn a_process_that_is_left_is_noticed() {
    assert_noticed(Sabotage::ForgetsToKill, &[1, 5, 14]);
    assert_noticed(Sabotage::LosesACopyInTheExec, &[5, 6]);
}

#[test]
fn requests_to_what_does_not_serve_are_noticed() {
    assert_noticed(Sabotage::RoutesToWhatIsOff, &[6]);
}

#[test]
fn serving_what_was_not_confirmed_is_noticed() {
    assert_noticed(Sabotage::ForgetsTheDeadline, &[7]);
}

#[test]
fn a_kill_without_a_warning_is_noticed() {
    assert_noticed(Sabotage::KillsAtOnce, &[8]);
}

#[test]
fn two_that_must_not_run_side_by_side_are_noticed() {
    assert_noticed(Sabotage::BelievesTheStopSignal, &[5, 11]);
}

#[test]
fn an_edition_that_is_forgotten_before_its_time_is_noticed() {
    assert_noticed(Sabotage::ForgetsTheEditionBefore, &[12]);
}

#[test]
fn believing_that_it_was_written_is_noticed() {
    assert_noticed(Sabotage::BelievesTheDisk, &[15]);
}

#[test]
fn one_seed_always_gives_the_same_life() {
    for seed in 0..50 {
        let (one, other) = (World::run(seed, None, true), World::run(seed, None, true));
        assert_eq!(one.trace, other.trace, "seed {seed}");
    }
}
