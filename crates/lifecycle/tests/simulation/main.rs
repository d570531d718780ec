//! The machine in a model world: a hundred thousand short lives of a server, each from one seed.
//!
//! Workers die, hang in every step, answer late, twice, or for candidates that are no more; the journal
//! fails and hangs; the clock jumps; everything is asked for in every state; the supervisor is killed and its
//! successor adopts the worker. In an upgrade two workers move everything from one to the other, and die or hang while they
//! do; the supervisor becomes another binary, or does not. In every step the rules are looked at: the six of the design
//! (`rules.rs`, `ops.rs`), those about what may be taken back (`probation.rs`), those about upgrades (`upgrading.rs`,
//! `moving.rs`), and the one about programs (`programs.rs`). `walk.rs` kills each process at each point of an upgrade. At the end of each run the weather turns calm: then the server must serve, and a reload and a
//! stop must succeed, whatever went before.
//!
//! A seed that breaks a rule is printed with its trace. Replay it with `HANDOVER_SIM_SEED=<seed>`;
//! `HANDOVER_SIM_SEEDS=<count>` runs more or fewer of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod driver;
mod journal;
mod lives;
mod moving;
mod ops;
mod probation;
mod programs;
mod rules;
mod sabotage;
#[path = "../seeds/mod.rs"]
mod seeds;
mod strays;
mod upgrading;
mod walk;
mod worker;
mod world;

use handover_lifecycle::Outcome;
use rules::Tally;
use sabotage::Sabotage;
use seeds::Life;
use world::World;

/// Seeds in the ordinary test run.
const SEEDS: u64 = 100_000;

/// Seeds within which each deliberate mistake must be noticed.
const SABOTAGED_SEEDS: u64 = 20_000;

fn live(seed: u64, sabotage: Option<Sabotage>, traced: bool) -> Life<Tally> {
    let World { tally, steps, trace, violation, .. } = World::run(seed, sabotage, traced);
    Life { tally, steps, trace, violation }
}

#[test]
fn twelve_rules_hold_in_every_step_of_a_hundred_thousand_lives() {
    if let Some(tally) = seeds::hold(SEEDS, |seed, traced| live(seed, None, traced), Tally::add) {
        assert_reaches_everything(&tally);
    }
}

/// Every way to end that the machine has, by kind of operation, must have come up.
fn assert_reaches_everything(tally: &Tally) {
    use Outcome::{Applied, AppliedWithLosses, NotReady, Rejected, RolledBack, Unchanged, Unknown};
    let expected: [&[Outcome]; 13] = [
        &[Applied, Unchanged, Rejected, NotReady, RolledBack, Unknown],
        &[Applied, Unchanged, Rejected, NotReady, RolledBack, AppliedWithLosses, Unknown],
        &[Unchanged, Rejected, NotReady],
        &[Applied, NotReady, Unknown],
        &[Applied, Unchanged, RolledBack, AppliedWithLosses],
        &[Applied, Unchanged, Rejected, NotReady],
        &[Applied, AppliedWithLosses],
        &[Applied, Unchanged, Rejected, NotReady, RolledBack, AppliedWithLosses, Unknown],
        &[Applied, Unchanged, Rejected, NotReady, RolledBack, AppliedWithLosses, Unknown],
        &[Applied, NotReady, AppliedWithLosses],
        &[Applied, AppliedWithLosses, Rejected, NotReady, Unknown],
        &[Applied, Rejected, NotReady, RolledBack, AppliedWithLosses, Unknown],
        &Outcome::ALL,
    ];
    for ((kind, seen), expected) in Tally::KINDS.iter().zip(&tally.ends).zip(expected) {
        for (outcome, count) in Outcome::ALL.iter().zip(seen) {
            if expected.contains(outcome) {
                assert!(*count > 0, "no {kind:?} ended as {outcome}: the simulation does not come there");
            } else {
                assert_eq!(*count, 0, "a {kind:?} ended as {outcome}");
            }
        }
    }
    let seen = [tally.adopted, tally.joined, tally.deferred, tally.refused, tally.unrecorded];
    let undecided =
        [tally.pending, tally.own, tally.extended, tally.unreachable, tally.guarded, tally.taken_back];
    let upgrades = [tally.took, tally.stayed, tally.reexecuted, tally.upgrades_pending, tally.proofs];
    for count in seen.into_iter().chain(undecided).chain(tally.over).chain(upgrades) {
        assert!(count > 0, "the simulation does not come everywhere: {tally:?}");
    }
}

fn assert_noticed(sabotage: Sabotage, rules: &[u8]) {
    let live = |seed| live(seed, Some(sabotage), false);
    seeds::assert_noticed(sabotage, rules, SABOTAGED_SEEDS, live, Tally::add);
}

#[test]
fn closing_a_listener_that_serves_is_noticed() {
    assert_noticed(Sabotage::ReleasesTooMuch, &[1]);
}

#[test]
fn a_request_without_an_answer_is_noticed() {
    assert_noticed(Sabotage::SaysNothingWhenBusy, &[2]);
}

#[test]
fn an_answer_before_the_journal_is_noticed() {
    assert_noticed(Sabotage::AnswersBeforeWriting, &[3]);
}

#[test]
fn an_operation_that_never_ends_is_noticed() {
    assert_noticed(Sabotage::NeverAnswers, &[3, 6]);
}

#[test]
fn a_failed_operation_that_changes_what_serves_is_noticed() {
    assert_noticed(Sabotage::CommitsDryRuns, &[4]);
    assert_noticed(Sabotage::KillsTheServingWorker, &[4]);
}

#[test]
fn letting_go_before_the_proof_is_noticed() {
    assert_noticed(Sabotage::LetsGoTooEarly, &[5]);
}

#[test]
fn reporting_what_does_not_serve_is_noticed() {
    assert_noticed(Sabotage::ReportsWhatShouldServe, &[6]);
}

#[test]
fn going_back_under_another_number_is_noticed() {
    assert_noticed(Sabotage::GoesBackUnderAnotherNumber, &[6, 9]);
}

#[test]
fn closing_what_is_needed_for_going_back_is_noticed() {
    assert_noticed(Sabotage::ReleasesWhenTimeIsOver, &[7]);
    assert_noticed(Sabotage::LetsGoWhileUndecided, &[7]);
}

#[test]
fn serving_what_was_not_confirmed_is_noticed() {
    assert_noticed(Sabotage::AdoptsAsConfirmed, &[6, 8]);
    assert_noticed(Sabotage::StartsWhatWasNotConfirmed, &[8]);
    assert_noticed(Sabotage::GivesUpGoingBack, &[8]);
}

#[test]
fn going_back_from_what_was_confirmed_is_noticed() {
    assert_noticed(Sabotage::ConfirmLeavesTheDeadline, &[6, 9]);
}

#[test]
fn a_verdict_of_another_guard_is_noticed() {
    assert_noticed(Sabotage::TakesTheVerdictOfAnotherGuard, &[9]);
}

#[test]
fn a_handoff_that_the_journal_does_not_know_of_is_noticed() {
    assert_noticed(Sabotage::HandsOverUnrecorded, &[3]);
}

#[test]
fn a_reload_that_is_lost_in_the_exec_is_noticed() {
    assert_noticed(Sabotage::ForgetsWhatWasDeferred, &[3]);
}

#[test]
fn a_worker_that_counts_as_serving_before_it_does_is_noticed() {
    assert_noticed(Sabotage::SwitchesTooEarly, &[5]);
    assert_noticed(Sabotage::BelievesTheGiver, &[5, 6]);
}

#[test]
fn an_old_worker_that_goes_before_the_new_one_serves_is_noticed() {
    assert_noticed(Sabotage::StopsTheOldOneTooEarly, &[4, 5]);
}

#[test]
fn a_binary_that_is_forgotten_before_its_time_is_noticed() {
    assert_noticed(Sabotage::ForgetsTheBinaryBefore, &[7]);
}

#[test]
fn two_workers_that_accept_are_noticed() {
    assert_noticed(Sabotage::AcceptsBesideTheOther, &[10]);
    assert_noticed(Sabotage::ResumesBeforeTheOtherIsDead, &[10]);
}

#[test]
fn an_exec_before_its_time_is_noticed() {
    assert_noticed(Sabotage::ReexecutesTooEarly, &[11]);
}

#[test]
fn programs_that_are_not_proved_before_a_commit_are_noticed() {
    assert_noticed(Sabotage::CommitsWhatIsNotProved, &[3, 12]);
}

#[test]
fn programs_that_outlive_the_reload_that_wanted_them_are_noticed() {
    assert_noticed(Sabotage::LeavesWhatWasProved, &[12]);
}

#[test]
fn a_stop_in_the_wrong_order_is_noticed() {
    assert_noticed(Sabotage::StopsProgramsTooEarly, &[12]);
    assert_noticed(Sabotage::StopsTheWorkerBeforePrograms, &[12]);
}

#[test]
fn one_seed_always_gives_the_same_life() {
    for seed in 0..50 {
        let (one, other) = (World::run(seed, None, true), World::run(seed, None, true));
        assert_eq!(one.trace, other.trace, "seed {seed}");
    }
}
