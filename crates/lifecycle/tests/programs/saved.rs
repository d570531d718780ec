//! The machine goes on in another process: what was not answered is asked for again, and deadlines stay where they were.

use std::time::Duration;

use handover_lifecycle::program::{Ask, Effect, Event, Machine, Plan, Saved, Stage};
use handover_lifecycle::{Cause, Outcome};

use crate::by_hand::{ALONE, NEW, OLD, PRIVATE, Program, RESTART, SHARED};

impl Program {
    /// Saved, written, read, and gone on with, in a process whose clock says something else.
    fn reincarnate(&mut self, now: Duration) {
        let json = serde_json::to_string(&self.machine.save(self.now)).unwrap();
        let saved: Saved = serde_json::from_str(&json).unwrap();
        self.machine = Machine::resume(now, &saved);
        self.now = now;
        self.said.clear();
        self.tell(Event::Resumed);
    }
}

#[test]
fn the_time_to_confirm_is_the_same_in_the_next_process() {
    let mut program = Program::serving(SHARED);
    program.deploy(SHARED, Some(60), None);
    program.switch();
    program.obey();
    program.pass(Duration::from_secs(20));
    program.reincarnate(Duration::from_secs(5));
    let until = program.view().pending.map(|pending| pending.until);
    assert_eq!(until, Some(Duration::from_secs(45)), "forty seconds are left");
}

#[test]
fn a_check_is_asked_for_again_with_the_time_it_has_left() {
    let mut program = Program::serving(PRIVATE);
    let restart = program.ask(RESTART);
    let copy = program.at(Stage::Starting)[0];
    program.tell(Event::Started { copy });
    program.pass(Duration::from_secs(10));
    program.reincarnate(Duration::from_secs(1000));
    assert!(program.has_said(|effect| *effect == Effect::Check { copy, limit: Duration::from_secs(20) }));
    assert!(program.has_said(|effect| matches!(effect, Effect::Route { .. })), "traffic is told again");
    program.rise_and_settle();
    program.take_over();
    assert_eq!(program.verdict(restart), Some((Outcome::Applied, Cause::Done)));
}

#[test]
fn in_the_middle_of_a_swap_that_stops_first_requests_stay_held_and_the_swap_goes_on() {
    let mut program = Program::serving(ALONE);
    let restart = program.ask(RESTART);
    program.settle_traffic();
    program.reincarnate(Duration::from_secs(1));
    assert!(program.has_said(|effect| matches!(effect, Effect::Pause { .. })));
    program.quiet();
    program.obey();
    program.reincarnate(Duration::from_secs(2));
    program.rise_and_settle();
    program.settle_traffic();
    assert_eq!(program.verdict(restart), Some((Outcome::Applied, Cause::Done)));
    assert!(program.has_said(|effect| *effect == Effect::Resume));
}

#[test]
fn a_hook_is_not_run_twice() {
    let mut program = Program::serving(PRIVATE);
    let hook = Some(Duration::from_secs(60));
    let deploy = program.ask(Ask::Deploy { edition: NEW, plan: PRIVATE, hook, confirm: None, guard: None });
    program.reincarnate(Duration::from_secs(1));
    assert_eq!(program.verdict(deploy), Some((Outcome::NotReady, Cause::SupervisorDied)));
    assert_eq!(program.edition(), OLD);
}

#[test]
fn what_died_meanwhile_is_started_again() {
    let mut program = Program::serving(SHARED);
    program.reincarnate(Duration::from_secs(1));
    let copy = program.on()[0];
    program.dies(copy);
    program.wait();
    program.rise();
    assert_eq!(program.on().len(), 1);
}

#[test]
fn what_another_version_has_left_out_has_a_default() {
    let saved: Saved = serde_json::from_str(r#"{"table":{"phase":"up"}}"#).unwrap();
    let mut machine = Machine::resume(Duration::ZERO, &saved);
    assert_eq!(machine.step(Duration::ZERO, Event::Resumed), []);
    let plan = Plan::default();
    let effects = machine.step(Duration::ZERO, Event::Apply { edition: OLD, plan });
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Start { .. })));
}
