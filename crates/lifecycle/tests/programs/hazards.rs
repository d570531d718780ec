//! Bad days of copies that may overlap: starts, restarts, deaths, stops, reloads.

use std::time::Duration;

use handover_lifecycle::program::{Ask, CopyKey, Effect, Event, Plan, Restart, Role, Stage, State};
use handover_lifecycle::{Cause, OperationKey, Outcome};

use crate::by_hand::{NEW, OLD, PRIVATE, Program, RESTART, SHARED};

const THREE: Plan = Plan { copies: 3, ..PRIVATE };

#[test]
fn a_restart_is_said_in_this_order() {
    let mut program = Program::serving(PRIVATE);
    let restart = program.ask(RESTART);
    program.rise_and_settle();
    program.take_over();
    assert_eq!(program.verdict(restart), Some((Outcome::Applied, Cause::Done)));
    assert_eq!(program.story(), "start 3 of 1; on 3 off 1; quiet 1; stop 1; applied; on 3 off");
}

#[test]
fn on_shared_sockets_the_old_one_is_asked_to_stop_when_the_new_one_has_settled() {
    let mut program = Program::serving(SHARED);
    let restart = program.ask(RESTART);
    program.rise();
    assert_eq!(program.at(Stage::Stopping), [], "it has to stay ready for a moment");
    program.wait();
    assert_eq!(program.at(Stage::Stopping).len(), 1);
    program.obey();
    assert_eq!(program.verdict(restart), Some((Outcome::Applied, Cause::Done)));
    assert_eq!(program.story(), "start 2 of 1; stop 1; applied");
}

#[test]
fn hazard_38_a_new_copy_that_is_never_ready_is_killed_and_the_old_one_serves_on() {
    for says_so in [true, false] {
        let mut program = Program::serving(PRIVATE);
        let old = program.on();
        let restart = program.ask(RESTART);
        let copy = program.at(Stage::Starting)[0];
        program.tell(Event::Started { copy });
        if says_so {
            program.tell(Event::NotReady { copy });
        } else {
            program.wait();
        }
        assert_eq!(program.verdict(restart), None, "it still lives");
        program.buried();
        assert_eq!(program.verdict(restart), Some((Outcome::NotReady, Cause::ProgramNotReady)));
        assert_eq!((program.on(), program.edition()), (old, OLD));
        assert!(
            !program.has_said(|effect| matches!(effect, Effect::Route { .. })),
            "traffic knows nothing of it"
        );
        let next = program.ask(RESTART);
        program.rise_and_settle();
        program.take_over();
        assert_eq!(program.verdict(next), Some((Outcome::Applied, Cause::Done)), "the next one succeeds");
    }
}

#[test]
fn a_new_copy_that_cannot_be_started_changes_nothing() {
    let mut program = Program::serving(SHARED);
    let restart = program.ask(RESTART);
    let copy = program.at(Stage::Starting)[0];
    program.tell(Event::NotStarted { copy });
    assert_eq!(program.verdict(restart), Some((Outcome::NotReady, Cause::ProgramNotStarted)));
    assert_eq!(program.story(), "start 2 of 1; not_ready");
}

#[test]
fn a_new_copy_that_dies_before_it_has_settled_changes_nothing() {
    let mut program = Program::serving(PRIVATE);
    let restart = program.ask(RESTART);
    program.rise();
    let copy = program.at(Stage::Settling)[0];
    program.tell(Event::Exited { copy, ok: false });
    assert_eq!(program.verdict(restart), None, "what it left behind is ended first");
    program.tell(Event::Gone { copy });
    assert_eq!(program.verdict(restart), Some((Outcome::NotReady, Cause::ProgramUnsettled)));
    assert_eq!(program.on().len(), 1);
}

#[test]
fn a_new_copy_that_dies_two_seconds_later_is_started_again_after_its_back_off() {
    let mut program = Program::serving(SHARED);
    program.ask(RESTART);
    program.rise_and_settle();
    program.obey();
    program.pass(Duration::from_secs(1));
    let copy = program.on()[0];
    program.dies(copy);
    assert_eq!(program.view().state, State::BackOff);
    program.wait();
    program.rise();
    assert_eq!((program.view().state, program.view().restarts), (State::Running, 1));
}

#[test]
fn hazard_40_what_ignores_its_stop_signal_is_killed_at_its_limit_and_counted() {
    let mut program = Program::serving(SHARED);
    let restart = program.ask(RESTART);
    program.rise_and_settle();
    let asked = program.now;
    program.wait();
    assert_eq!(program.now, asked + SHARED.stop_limit);
    assert!(program.has_said(|effect| *effect == Effect::Kill { copy: CopyKey(1) }));
    program.buried();
    assert_eq!(program.verdict(restart), Some((Outcome::AppliedWithLosses, Cause::StopForced)));
    assert_eq!(program.figures(restart).killed, 1);
}

#[test]
fn what_cannot_even_be_killed_is_given_up_and_still_shown() {
    let mut program = Program::serving(SHARED);
    let restart = program.ask(RESTART);
    program.rise_and_settle();
    program.wait();
    program.wait();
    assert_eq!(program.at(Stage::Stuck), [CopyKey(1)]);
    assert_eq!(program.verdict(restart), Some((Outcome::AppliedWithLosses, Cause::StopForced)));
    program.tell(Event::Gone { copy: CopyKey(1) });
    assert_eq!(program.view().copies.len(), 1);
}

#[test]
fn hazard_40_what_a_first_process_leaves_behind_is_asked_to_stop_then_killed() {
    let mut program = Program::serving(SHARED);
    program.tell(Event::Exited { copy: CopyKey(1), ok: true });
    assert_eq!(program.story(), "stop 1");
    program.wait();
    assert_eq!(program.copies(Role::Serving).len(), 1, "another one is started beside it");
    program.pass(SHARED.stop_limit);
    assert!(program.has_said(|effect| *effect == Effect::Kill { copy: CopyKey(1) }));
    program.buried();
    assert_eq!(program.at(Stage::Stopping), []);
}

#[test]
fn the_pause_between_failures_doubles_and_begins_anew() {
    let plan = Plan { backoff_longest: Duration::from_millis(500), ..SHARED };
    let mut program = Program::serving(plan);
    for pause in [100, 200, 400, 500, 500] {
        let died = program.now;
        let copy = program.copies(Role::Serving)[0];
        program.dies(copy);
        program.wait();
        assert_eq!(program.now - died, Duration::from_millis(pause));
        program.rise();
    }
    program.pass(plan.backoff_reset);
    let (died, copy) = (program.now, program.on()[0]);
    program.dies(copy);
    program.wait();
    assert_eq!(program.now - died, plan.backoff_first, "it had served for long enough");
}

#[test]
fn what_is_not_to_be_started_again_is_not_and_says_so() {
    let ends = [(Restart::Never, false), (Restart::Never, true), (Restart::OnFailure, true)];
    for (restart, ok) in ends {
        let mut program = Program::serving(Plan { restart, ..SHARED });
        program.tell(Event::Exited { copy: CopyKey(1), ok });
        program.tell(Event::Gone { copy: CopyKey(1) });
        assert!(program.has_said(|effect| *effect == Effect::Ended { ok }));
        assert_eq!((program.view().state, program.machine.deadline()), (State::Ended, None));
        let start = program.ask(Ask::Start);
        program.rise();
        program.wait();
        assert_eq!(program.verdict(start), Some((Outcome::Applied, Cause::Done)));
    }
}

#[test]
fn a_rolling_restart_takes_one_after_the_other() {
    let mut program = Program::serving(THREE);
    let restart = program.ask(RESTART);
    for replaced in 0..3 {
        assert_eq!(program.verdict(restart), None, "{replaced} are replaced");
        assert_eq!(program.copies(Role::Candidate).len(), 1);
        assert_eq!(program.on().len(), 3);
        program.rise_and_settle();
        assert_eq!(program.on().len(), 3, "one for one");
        program.take_over();
    }
    assert_eq!(program.verdict(restart), Some((Outcome::Applied, Cause::Done)));
    let figures = program.figures(restart);
    assert_eq!((figures.ready, figures.ended), (3, 3));
}

#[test]
fn a_rolling_restart_stops_at_the_first_that_fails() {
    let mut program = Program::serving(THREE);
    let restart = program.ask(RESTART);
    program.rise_and_settle();
    program.take_over();
    let copy = program.at(Stage::Starting)[0];
    program.tell(Event::NotStarted { copy });
    assert_eq!(program.verdict(restart), Some((Outcome::NotReady, Cause::ProgramNotStarted)));
    assert_eq!(program.on().len(), 3, "one is new, two are as they were");
    assert_eq!(program.figures(restart).ready, 1);
}

#[test]
fn so_many_may_fail_and_the_others_are_replaced() {
    let mut program = Program::serving(THREE);
    let restart = program.ask(Ask::Restart { batch: Some(3), max_unhealthy: Some(1) });
    let copy = program.at(Stage::Starting)[0];
    program.tell(Event::NotStarted { copy });
    program.rise_and_settle();
    program.take_over();
    assert_eq!(
        program.verdict(restart),
        Some((Outcome::NotReady, Cause::ProgramNotStarted)),
        "not all of them"
    );
    let figures = program.figures(restart);
    assert_eq!((figures.ready, figures.failed, figures.ended), (2, 1, 2));
    assert_eq!(program.on().len(), 3);
}

#[test]
fn two_deploys_at_once_the_second_is_refused() {
    let mut program = Program::serving(PRIVATE);
    let one = program.deploy(PRIVATE, None, None);
    let plan = PRIVATE;
    let edition = handover_lifecycle::program::EditionKey(9);
    let other = program.ask(Ask::Deploy { edition, plan, hook: None, confirm: None, guard: None });
    assert_eq!(program.verdict(other), Some((Outcome::Rejected, Cause::Unfit)));
    assert!(program.has_said(|effect| *effect == Effect::Forget { edition }));
    program.switch();
    program.quiet();
    program.obey();
    assert_eq!(program.verdict(one), Some((Outcome::Applied, Cause::Done)));
    assert_eq!(program.edition(), NEW);
}

#[test]
fn called_off_before_the_switch_a_restart_leaves_the_old_one() {
    let mut program = Program::serving(PRIVATE);
    let restart = program.ask(RESTART);
    program.rise();
    program.tell(Event::CallOff { operation: restart });
    program.obey();
    assert_eq!(program.verdict(restart), Some((Outcome::Rejected, Cause::ShuttingDown)));
    assert_eq!(program.on(), [CopyKey(1)]);
}

#[test]
fn called_off_after_the_switch_the_rest_goes_on_without_it() {
    let mut program = Program::serving(PRIVATE);
    let restart = program.ask(RESTART);
    program.rise_and_settle();
    program.settle_traffic();
    program.tell(Event::CallOff { operation: restart });
    assert_eq!(program.verdict(restart), Some((Outcome::Applied, Cause::Done)));
    program.quiet();
    program.obey();
    assert_eq!((program.view().copies.len(), program.on().len()), (1, 1));
}

#[test]
fn a_stop_ends_all_of_it_and_a_start_brings_it_back() {
    let mut program = Program::serving(THREE);
    let stop = program.ask(Ask::Stop);
    program.take_over();
    assert_eq!(program.verdict(stop), Some((Outcome::Applied, Cause::Done)));
    assert_eq!(
        (program.view().state, program.machine.deadline()),
        (State::Stopped, Some(program.now + Plan::TRAFFIC_LIMIT))
    );
    let again = program.ask(Ask::Stop);
    assert_eq!(program.verdict(again), Some((Outcome::Unchanged, Cause::AlreadySo)));
    let start = program.ask(Ask::Start);
    program.rise();
    program.settle_traffic();
    assert_eq!(program.verdict(start), None, "it has to stay ready for a moment");
    program.wait();
    assert_eq!(program.verdict(start), Some((Outcome::Applied, Cause::Done)));
    assert!(!program.machine.durable().stopped);
}

#[test]
fn a_start_that_fails_leaves_it_stopped() {
    let mut program = Program::serving(SHARED);
    program.ask(Ask::Stop);
    program.obey();
    let start = program.ask(Ask::Start);
    program.rise();
    let copy = program.on()[0];
    program.dies(copy);
    assert_eq!(program.verdict(start), Some((Outcome::NotReady, Cause::ProgramUnsettled)));
    assert_eq!((program.view().state, program.machine.deadline()), (State::Stopped, None));
}

#[test]
fn on_demand_it_starts_with_the_first_connection_and_sleeps_when_idle() {
    let plan = Plan { on_demand: true, idle: true, ..SHARED };
    let mut program = Program::serving(SHARED);
    program.machine = handover_lifecycle::program::Machine::new(1);
    program.tell(Event::Begin { edition: OLD, plan, before: None, pending: None, stopped: false });
    assert_eq!(program.said, [Effect::Watch { demand: true, idle: false }]);
    program.tell(Event::Demand);
    program.rise();
    assert_eq!(program.said.last(), Some(&Effect::Watch { demand: false, idle: true }));
    program.tell(Event::Idle);
    assert!(!program.has_said(|effect| matches!(effect, Effect::Watch { demand: true, idle: true })));
    program.obey();
    assert_eq!(
        program.said.last(),
        Some(&Effect::Watch { demand: true, idle: false }),
        "when nothing of it accepts"
    );
}

#[test]
fn on_demand_one_that_never_gets_ready_is_not_started_as_fast_as_somebody_asks_for_it() {
    let plan = Plan { on_demand: true, restart: Restart::Never, ..SHARED };
    let mut program = Program::serving(SHARED);
    program.machine = handover_lifecycle::program::Machine::new(1);
    program.tell(Event::Begin { edition: OLD, plan, before: None, pending: None, stopped: false });
    program.tell(Event::Demand);
    let copy = program.at(Stage::Starting)[0];
    program.tell(Event::NotStarted { copy });
    assert_eq!(program.view().state, State::OnDemand);
    program.tell(Event::Demand);
    assert_eq!((program.view().state, program.at(Stage::Starting)), (State::BackOff, vec![]));
    program.wait();
    let copy = program.at(Stage::Starting)[0];
    program.rise();
    // It has done what it was there for.
    program.tell(Event::Exited { copy, ok: true });
    program.tell(Event::Gone { copy });
    program.tell(Event::Demand);
    assert_eq!(program.at(Stage::Starting).len(), 1);
}

#[test]
fn a_reload_that_is_examined_switches_without_a_moment_between() {
    let mut program = Program::serving(PRIVATE);
    let operation = OperationKey(50);
    program.tell(Event::Prepare { operation, edition: NEW, plan: PRIVATE });
    program.rise_and_settle();
    assert!(program.has_said(|effect| *effect == Effect::Prepared { operation, failed: None }));
    assert_eq!((program.edition(), program.on()), (OLD, vec![CopyKey(1)]), "it is held");
    program.tell(Event::Apply { edition: NEW, plan: PRIVATE });
    program.take_over();
    assert_eq!(program.story(), "start 3 of 2; on 3 off 1; quiet 1; stop 1; on 3 off");
    assert!(program.has_said(|effect| *effect == Effect::Forget { edition: OLD }));
}

#[test]
fn a_reload_whose_program_is_not_ready_changes_nothing() {
    let mut program = Program::serving(SHARED);
    let operation = OperationKey(50);
    program.tell(Event::Prepare { operation, edition: NEW, plan: SHARED });
    let copy = program.at(Stage::Starting)[0];
    program.tell(Event::Started { copy });
    program.wait();
    program.buried();
    let failed = Some(Cause::ProgramNotReady);
    assert!(program.has_said(|effect| *effect == Effect::Prepared { operation, failed }));
    program.tell(Event::Abort { operation });
    assert_eq!((program.edition(), program.on()), (OLD, vec![CopyKey(1)]));
}

#[test]
fn what_a_reload_held_and_lost_meanwhile_is_started_again_beside_the_old_one() {
    let mut program = Program::serving(PRIVATE);
    let operation = OperationKey(50);
    program.tell(Event::Prepare { operation, edition: NEW, plan: PRIVATE });
    program.rise_and_settle();
    let held = program.copies(Role::Candidate)[0];
    program.dies(held);
    program.tell(Event::Apply { edition: NEW, plan: PRIVATE });
    assert_eq!(program.on(), [CopyKey(1)], "the old one serves meanwhile");
    program.rise_and_settle();
    program.take_over();
    assert_eq!((program.edition(), program.on().len()), (NEW, 1));
}

#[test]
fn what_is_applied_and_fails_is_said_and_a_restart_tries_it_again() {
    let mut program = Program::serving(SHARED);
    program.tell(Event::Apply { edition: NEW, plan: SHARED });
    let copy = program.at(Stage::Starting)[0];
    program.tell(Event::NotStarted { copy });
    let failed = Effect::Failed { edition: NEW, cause: Cause::ProgramNotStarted };
    assert!(program.has_said(|effect| *effect == failed));
    assert_eq!((program.edition(), program.view().wanted), (OLD, Some(NEW)));
    let restart = program.ask(RESTART);
    program.rise_and_settle();
    program.obey();
    assert_eq!(program.verdict(restart), Some((Outcome::Applied, Cause::Done)));
    assert_eq!((program.edition(), program.view().wanted), (NEW, None));
}

#[test]
fn a_configuration_that_changes_while_nothing_gets_ready_is_tried_instead() {
    let mut program = Program::serving(SHARED);
    program.dies(CopyKey(1));
    program.tell(Event::Apply { edition: NEW, plan: SHARED });
    let starts = program.view().copies;
    assert_eq!(starts.iter().map(|copy| copy.edition).collect::<Vec<_>>(), [NEW]);
}

#[test]
fn the_end_ends_everything_in_bounded_time() {
    let mut program = Program::serving(THREE);
    let restart = program.ask(RESTART);
    program.rise();
    program.tell(Event::End { limit: Some(Duration::from_secs(1)) });
    assert_eq!(program.verdict(restart), Some((Outcome::Rejected, Cause::ShuttingDown)));
    let began = program.now;
    while program.machine.deadline().is_some() {
        program.wait();
        program.buried();
    }
    assert!(program.has_said(|effect| matches!(effect, Effect::Ended { .. })));
    assert_eq!(program.view().copies, []);
    let longest = Plan::TRAFFIC_LIMIT + Duration::from_secs(2) + Plan::QUIET_GRACE + Plan::KILL_LIMIT;
    assert!(program.now - began <= longest, "{:?}", program.now - began);
    let late = program.ask(Ask::Start);
    assert_eq!(program.verdict(late), Some((Outcome::Rejected, Cause::ShuttingDown)));
}

#[test]
fn nobody_answers_at_all_and_a_restart_still_ends() {
    let mut program = Program::serving(THREE);
    let asked = program.now;
    let longest = program.machine.longest(&RESTART);
    let restart = program.ask(RESTART);
    while program.verdict(restart).is_none() {
        program.wait();
    }
    assert!(program.now - asked <= longest);
    assert_eq!(program.verdict(restart), Some((Outcome::NotReady, Cause::ProgramNotStarted)));
}
