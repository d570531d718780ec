//! Bad days of programs that must not run twice: pause, stop, start, resume.

use std::time::Duration;

use handover_lifecycle::program::{Effect, Event, Plan, Role, Stage, State};
use handover_lifecycle::{Cause, Outcome};

use crate::by_hand::{ALONE, NEW, OLD, Program, RESTART};

/// Up to the moment at which the old one is gone and the new one is started.
fn paused_and_stopped(program: &mut Program) {
    program.settle_traffic();
    program.quiet();
    assert_eq!(program.copies(Role::Candidate), [], "not beside the old one");
    program.obey();
    assert_eq!(program.copies(Role::Candidate).len(), 1);
}

#[test]
fn a_swap_is_said_in_this_order() {
    let mut program = Program::serving(ALONE);
    let restart = program.ask(RESTART);
    paused_and_stopped(&mut program);
    program.rise_and_settle();
    program.settle_traffic();
    assert_eq!(program.verdict(restart), Some((Outcome::Applied, Cause::Done)));
    assert_eq!(
        program.story(),
        "pause; quiet 1; stop 1; on off 1; start 6 of 1; on off; on 6 off; resume; applied"
    );
}

#[test]
fn if_the_new_one_fails_the_old_one_is_started_again_before_anybody_goes_on() {
    let mut program = Program::serving(ALONE);
    let deploy = program.deploy(ALONE, None, None);
    paused_and_stopped(&mut program);
    let copy = program.at(Stage::Starting)[0];
    program.tell(Event::Started { copy });
    program.tell(Event::NotReady { copy });
    program.buried();
    assert_eq!(program.verdict(deploy), None);
    assert!(!program.has_said(|effect| *effect == Effect::Resume));
    program.rise();
    program.settle_traffic();
    assert_eq!(program.verdict(deploy), Some((Outcome::RolledBack, Cause::ProgramNotReady)));
    assert_eq!(
        program.story(),
        "pause; quiet 1; stop 1; on off 1; start 6 of 2; on off; kill 6; start 8 of 1; on 8 off; resume; rolled_back"
    );
    assert_eq!(program.edition(), OLD);
}

#[test]
fn if_the_old_one_cannot_be_started_again_either_that_is_said_and_tried_further() {
    let mut program = Program::serving(ALONE);
    let deploy = program.deploy(ALONE, None, None);
    paused_and_stopped(&mut program);
    let copy = program.at(Stage::Starting)[0];
    program.tell(Event::NotStarted { copy });
    let copy = program.at(Stage::Starting)[0];
    program.tell(Event::NotStarted { copy });
    assert_eq!(program.verdict(deploy), Some((Outcome::Unknown, Cause::ProgramDown)));
    assert!(program.has_said(|effect| *effect == Effect::Resume));
    assert_eq!(program.view().state, State::BackOff);
    program.wait();
    program.wait();
    program.rise();
    assert_eq!((program.edition(), program.on().len()), (OLD, 1));
}

#[test]
fn hazard_39_requests_are_held_no_longer_than_was_said() {
    let plan = Plan { pause_limit: Duration::from_secs(2), ..ALONE };
    let mut program = Program::serving(plan);
    let began = program.now;
    let restart = program.ask(RESTART);
    paused_and_stopped(&mut program);
    let copy = program.at(Stage::Starting)[0];
    program.tell(Event::Started { copy });
    while !program.has_said(|effect| *effect == Effect::Resume) {
        program.wait();
    }
    assert_eq!(program.now - began, plan.pause_limit);
    assert_eq!(program.verdict(restart), None, "the change itself goes on");
    program.rise_and_settle();
    program.settle_traffic();
    assert_eq!(program.verdict(restart), Some((Outcome::Applied, Cause::Done)));
    let resumed = program.said.iter().filter(|effect| **effect == Effect::Resume).count();
    assert_eq!(resumed, 1);
}

#[test]
fn if_what_is_in_flight_takes_longer_than_requests_may_be_held_nothing_is_stopped() {
    let plan = Plan { pause_limit: Duration::from_secs(2), ..ALONE };
    let mut program = Program::serving(plan);
    let restart = program.ask(RESTART);
    program.settle_traffic();
    program.wait();
    assert_eq!(program.verdict(restart), Some((Outcome::NotReady, Cause::NotQuiet)));
    assert_eq!(program.story(), "pause; quiet 1; resume; not_ready");
}

#[test]
fn what_is_in_flight_for_longer_than_its_limit_is_cut_and_counted() {
    let mut program = Program::serving(ALONE);
    let restart = program.ask(RESTART);
    program.settle_traffic();
    program.wait();
    program.obey();
    program.rise_and_settle();
    program.settle_traffic();
    assert_eq!(program.verdict(restart), Some((Outcome::AppliedWithLosses, Cause::NotQuiet)));
    assert_eq!(program.figures(restart).unquiet, 1);
}

#[test]
fn called_off_while_it_is_held_everything_goes_on_as_it_was() {
    let mut program = Program::serving(ALONE);
    let restart = program.ask(RESTART);
    program.settle_traffic();
    program.tell(Event::CallOff { operation: restart });
    assert_eq!(program.verdict(restart), Some((Outcome::Rejected, Cause::ShuttingDown)));
    assert_eq!(program.story(), "pause; quiet 1; resume; rejected");
}

#[test]
fn called_off_after_the_old_one_was_stopped_it_is_started_again_first() {
    let mut program = Program::serving(ALONE);
    let restart = program.ask(RESTART);
    paused_and_stopped(&mut program);
    program.tell(Event::CallOff { operation: restart });
    assert_eq!(program.verdict(restart), None);
    program.buried();
    program.rise();
    program.settle_traffic();
    assert_eq!(program.verdict(restart), Some((Outcome::RolledBack, Cause::ShuttingDown)));
    assert_eq!(program.on().len(), 1);
}

#[test]
fn an_old_one_that_cannot_be_killed_keeps_the_new_one_from_being_started() {
    let mut program = Program::serving(ALONE);
    let restart = program.ask(RESTART);
    program.settle_traffic();
    program.quiet();
    while program.verdict(restart).is_none() {
        program.wait();
    }
    assert_eq!(program.verdict(restart), Some((Outcome::Unknown, Cause::ProgramDown)));
    assert!(!program.has_said(|effect| matches!(effect, Effect::Start { .. })));
    program.tell(Event::Gone { copy: program.at(Stage::Stuck)[0] });
    assert_eq!(program.copies(Role::Serving).len(), 1, "as soon as it is gone");
}

#[test]
fn a_dead_copy_is_started_again_only_when_nothing_of_it_is_left() {
    let mut program = Program::serving(ALONE);
    let copy = program.on()[0];
    program.tell(Event::Exited { copy, ok: false });
    program.pass(Duration::from_secs(1));
    assert_eq!(program.copies(Role::Serving), []);
    program.tell(Event::Gone { copy });
    assert_eq!(program.copies(Role::Serving).len(), 1);
}

#[test]
fn a_guard_that_fails_stops_the_new_one_first_too() {
    let mut program = Program::serving(ALONE);
    let deploy = program.deploy(ALONE, None, Some(10));
    paused_and_stopped(&mut program);
    program.switch();
    let copy = program.on()[0];
    program.tell(Event::NotReady { copy });
    program.take_over();
    program.rise_and_settle();
    program.saved(true);
    program.settle_traffic();
    assert_eq!(program.verdict(deploy), Some((Outcome::RolledBack, Cause::GuardFailed)));
    assert_eq!(program.edition(), OLD);
    let resumed = program.said.iter().filter(|effect| **effect == Effect::Resume).count();
    assert_eq!(resumed, 2, "each pause");
    assert!(program.has_said(|effect| *effect == Effect::Forget { edition: NEW }));
}
