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
mod rules;
mod sabotage;
mod saved;
#[path = "../seeds/mod.rs"]
mod seeds;
mod stop_first;
mod world;

use handover_lifecycle::Outcome;
use rules::Tally;
use sabotage::Sabotage;
use seeds::Life;
use world::World;

/// Seeds in the ordinary test run.
const SEEDS: u64 = 20_000;

/// Seeds within which each deliberate mistake must be noticed.
const SABOTAGED_SEEDS: u64 = 5_000;

fn live(seed: u64, sabotage: Option<Sabotage>, traced: bool) -> Life<Tally> {
    let World { tally, steps, trace, violation, .. } = World::run(seed, sabotage, traced);
    Life { tally, steps, trace, violation }
}

#[test]
fn fifteen_rules_hold_in_every_step_of_twenty_thousand_lives() {
    if let Some(tally) = seeds::hold(SEEDS, |seed, traced| live(seed, None, traced), Tally::add) {
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
    let live = |seed| live(seed, Some(sabotage), false);
    seeds::assert_noticed(sabotage, rules, SABOTAGED_SEEDS, live, Tally::add);
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
