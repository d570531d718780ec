//! Deploys that are guarded or await confirmation, and how they are taken back: warm, cold, by a person, by themselves.

use std::time::Duration;

use handover_lifecycle::program::{Ask, CopyKey, Effect, Event, Plan, Role, Stage, Why};
use handover_lifecycle::{Cause, Outcome, PendingEnd};

use crate::by_hand::{ALONE, NEW, OLD, PRIVATE, Program, SHARED};

const MINUTE: Duration = Duration::from_secs(60);
const WARM: Plan = Plan { warm: MINUTE, ..PRIVATE };

/// A deploy that has to be confirmed within a minute, up to its answer.
fn deployed(plan: Plan) -> Program {
    let mut program = Program::serving(plan);
    let deploy = program.deploy(plan, Some(60), None);
    program.switch();
    if plan.private {
        program.quiet();
    }
    program.obey();
    assert_eq!(program.verdict(deploy), Some((Outcome::Applied, Cause::Done)));
    assert_eq!(program.view().pending.map(|pending| (pending.edition, pending.back_to)), Some((NEW, OLD)));
    program
}

#[test]
fn a_deploy_is_said_in_this_order_and_what_was_before_stays_warm() {
    let mut program = Program::serving(WARM);
    let deploy = program.deploy(WARM, None, None);
    program.switch();
    program.quiet();
    assert_eq!(program.verdict(deploy), Some((Outcome::Applied, Cause::Done)));
    assert_eq!(program.story(), "start 3 of 2; save; on 3 off 1; quiet 1; applied");
    assert_eq!(program.copies(Role::Warm), [CopyKey(1)]);
    program.pass(MINUTE);
    assert_eq!(program.at(Stage::Stopping), [CopyKey(1)], "no longer than was said");
    program.obey();
    assert_eq!(program.view().before, Some(OLD), "a rollback starts it afresh");
}

#[test]
fn the_hook_comes_first_and_if_it_fails_nothing_was_touched() {
    for ok in [Some(false), None] {
        let mut program = Program::serving(PRIVATE);
        let hook = Some(Duration::from_secs(5));
        let deploy =
            program.ask(Ask::Deploy { edition: NEW, plan: PRIVATE, hook, confirm: None, guard: None });
        assert_eq!(program.story(), "hook");
        match ok {
            Some(ok) => drop(program.tell(Event::HookDone { operation: deploy, ok })),
            None => drop(program.wait()),
        }
        assert_eq!(program.verdict(deploy), Some((Outcome::Rejected, Cause::HookFailed)));
        assert_eq!((program.edition(), program.on()), (OLD, vec![CopyKey(1)]));
    }
}

#[test]
fn a_rollback_to_what_is_warm_needs_no_start() {
    let mut program = Program::serving(WARM);
    program.deploy(WARM, None, None);
    program.switch();
    program.quiet();
    program.said.clear();
    let rollback = program.ask(Ask::Rollback);
    program.saved(true);
    program.settle_traffic();
    program.quiet();
    assert_eq!(program.verdict(rollback), Some((Outcome::Applied, Cause::Done)));
    assert_eq!(program.story(), "save; on 1 off 3; quiet 3; applied");
    assert_eq!(
        (program.edition(), program.view().before),
        (OLD, Some(NEW)),
        "and forward again the same way"
    );
}

#[test]
fn a_rollback_to_what_still_drains_is_as_quick() {
    let mut program = Program::serving(WARM);
    let deploy = program.deploy(WARM, None, None);
    program.switch();
    program.tell(Event::CallOff { operation: deploy });
    let rollback = program.ask(Ask::Rollback);
    program.saved(true);
    program.settle_traffic();
    program.quiet();
    assert_eq!(program.verdict(rollback), Some((Outcome::Applied, Cause::Done)));
    assert_eq!(program.on(), [CopyKey(1)]);
}

#[test]
fn a_rollback_to_what_is_cold_starts_it_beside_the_other() {
    let mut program = Program::serving(SHARED);
    program.deploy(SHARED, None, None);
    program.switch();
    program.obey();
    program.said.clear();
    let rollback = program.ask(Ask::Rollback);
    program.rise_and_settle();
    program.saved(true);
    program.obey();
    assert_eq!(program.verdict(rollback), Some((Outcome::Applied, Cause::Done)));
    assert_eq!(program.story(), "start 4 of 1; save; stop 2; applied");
}

#[test]
fn a_warm_copy_that_dies_makes_the_rollback_a_cold_one() {
    let mut program = Program::serving(WARM);
    program.deploy(WARM, None, None);
    program.switch();
    program.quiet();
    program.dies(CopyKey(1));
    let rollback = program.ask(Ask::Rollback);
    program.rise_and_settle();
    program.saved(true);
    program.settle_traffic();
    program.quiet();
    assert_eq!(program.verdict(rollback), Some((Outcome::Applied, Cause::Done)));
    assert_eq!(program.edition(), OLD);
}

#[test]
fn there_is_nothing_to_roll_back_confirm_or_cancel() {
    let mut program = Program::serving(PRIVATE);
    for ask in [Ask::Rollback, Ask::Confirm, Ask::Cancel] {
        let operation = program.ask(ask);
        assert_eq!(program.verdict(operation), Some((Outcome::Rejected, Cause::Unfit)), "{ask:?}");
    }
    let back = program.ask(Ask::GoBack);
    assert_eq!(program.verdict(back), Some((Outcome::Unchanged, Cause::AlreadySo)));
}

#[test]
fn what_is_confirmed_stays_and_only_when_that_is_on_the_disk() {
    let mut program = deployed(PRIVATE);
    let fails = program.ask(Ask::Confirm);
    program.saved(false);
    assert_eq!(program.verdict(fails), Some((Outcome::NotReady, Cause::StateNotSaved)));
    assert!(program.view().pending.is_some());
    let confirm = program.ask(Ask::Confirm);
    assert_eq!(program.verdict(confirm), None);
    program.saved(true);
    assert_eq!(program.verdict(confirm), Some((Outcome::Applied, Cause::Done)));
    let over = Effect::PendingOver { edition: NEW, how: PendingEnd::Confirmed };
    assert!(program.has_said(|effect| *effect == over));
    program.obey();
    program.pass(MINUTE * 10);
    assert_eq!((program.edition(), program.copies(Role::Warm)), (NEW, vec![]));
}

#[test]
fn a_deploy_that_cannot_be_written_down_does_not_happen() {
    let mut program = Program::serving(PRIVATE);
    let deploy = program.deploy(PRIVATE, None, None);
    program.rise_and_settle();
    program.saved(false);
    program.obey();
    assert_eq!(program.verdict(deploy), Some((Outcome::NotReady, Cause::StateNotSaved)));
    assert_eq!((program.edition(), program.on()), (OLD, vec![CopyKey(1)]));
}

#[test]
fn while_it_is_pending_no_other_deploy_begins() {
    let mut program = deployed(PRIVATE);
    let edition = handover_lifecycle::program::EditionKey(9);
    let deploy = program.ask(Ask::Deploy { edition, plan: PRIVATE, hook: None, confirm: None, guard: None });
    assert_eq!(program.verdict(deploy), Some((Outcome::Rejected, Cause::Pending)));
}

#[test]
fn what_nobody_confirms_goes_back_as_an_operation_of_the_supervisors() {
    let mut program = deployed(PRIVATE);
    program.pass(MINUTE);
    assert_eq!(program.said.last(), Some(&Effect::Propose { why: Why::NotConfirmed }));
    assert_eq!(program.edition(), NEW, "as soon as it is the operation's turn");
    let back = program.ask(Ask::GoBack);
    program.saved(true);
    program.take_over();
    assert_eq!(program.verdict(back), Some((Outcome::Applied, Cause::Done)));
    assert_eq!((program.edition(), program.on()), (OLD, vec![CopyKey(1)]));
    let over = Effect::PendingOver { edition: NEW, how: PendingEnd::NotConfirmed };
    assert!(program.has_said(|effect| *effect == over));
}

#[test]
fn if_the_operation_does_not_get_its_turn_it_goes_back_without() {
    let mut program = deployed(PRIVATE);
    program.pass(MINUTE + Plan::PROPOSE_LIMIT);
    program.saved(false);
    program.take_over();
    assert_eq!((program.edition(), program.view().pending), (OLD, None), "whatever the disk says");
    let late = program.ask(Ask::GoBack);
    assert_eq!(program.verdict(late), Some((Outcome::Unchanged, Cause::AlreadySo)), "and not forward again");
}

#[test]
fn what_dies_while_it_is_pending_goes_back_at_once() {
    let mut program = deployed(PRIVATE);
    let copy = program.on()[0];
    program.dies(copy);
    assert!(program.has_said(|effect| *effect == Effect::Propose { why: Why::Dies }));
    let back = program.ask(Ask::GoBack);
    program.saved(true);
    program.settle_traffic();
    assert_eq!(program.on(), [CopyKey(1)]);
    program.buried();
    assert_eq!(program.verdict(back), Some((Outcome::Applied, Cause::Done)));
    let over = Effect::PendingOver { edition: NEW, how: PendingEnd::WorkersDied };
    assert!(program.has_said(|effect| *effect == over));
}

#[test]
fn if_what_was_before_cannot_be_made_to_serve_what_serves_stays() {
    let mut program = deployed(SHARED);
    program.pass(MINUTE);
    let back = program.ask(Ask::GoBack);
    let copy = program.at(Stage::Starting)[0];
    program.tell(Event::NotStarted { copy });
    assert_eq!(program.verdict(back), Some((Outcome::NotReady, Cause::NotTakenBack)));
    assert_eq!((program.edition(), program.view().pending, program.on().len()), (NEW, None, 1));
}

#[test]
fn while_it_is_stopped_it_goes_back_all_the_same() {
    let mut program = deployed(PRIVATE);
    program.ask(Ask::Stop);
    program.take_over();
    program.pass(MINUTE + Plan::PROPOSE_LIMIT);
    program.saved(true);
    assert_eq!((program.edition(), program.view().pending, program.view().copies.len()), (OLD, None, 0));
}

#[test]
fn a_guard_that_passes_ends_the_deploy() {
    let mut program = Program::serving(PRIVATE);
    let deploy = program.deploy(PRIVATE, None, Some(10));
    program.switch();
    program.quiet();
    assert_eq!(program.verdict(deploy), None, "it is watched");
    program.pass(Duration::from_secs(10));
    program.obey();
    assert_eq!(program.verdict(deploy), Some((Outcome::Applied, Cause::Done)));
    assert_eq!(program.view().copies.len(), 1);
}

#[test]
fn a_guard_that_fails_goes_back_within_the_deploy() {
    for dies in [true, false] {
        let mut program = Program::serving(PRIVATE);
        let deploy = program.deploy(PRIVATE, Some(60), Some(10));
        program.switch();
        program.quiet();
        let copy = program.on()[0];
        if dies {
            program.dies(copy);
        } else {
            program.tell(Event::NotReady { copy });
        }
        program.saved(true);
        program.settle_traffic();
        assert_eq!(program.on(), [CopyKey(1)], "it was warm");
        if !dies {
            program.quiet();
        }
        program.obey();
        program.buried();
        assert_eq!(program.verdict(deploy), Some((Outcome::RolledBack, Cause::GuardFailed)));
        assert_eq!((program.edition(), program.view().pending), (OLD, None));
    }
}

#[test]
fn on_shared_sockets_the_old_one_serves_on_until_the_guard_has_passed() {
    let mut program = Program::serving(SHARED);
    let deploy = program.deploy(SHARED, None, Some(10));
    program.rise_and_settle();
    assert_eq!((program.on(), program.edition()), (vec![CopyKey(1)], OLD));
    let copy = program.copies(Role::Candidate)[0];
    program.tell(Event::NotReady { copy });
    program.obey();
    assert_eq!(program.verdict(deploy), Some((Outcome::RolledBack, Cause::GuardFailed)));
    assert_eq!(program.story(), "start 2 of 2; guard 2; stop 2; rolled_back");
}

#[test]
fn what_cannot_overlap_is_never_warm() {
    let mut program = Program::serving(Plan { warm: MINUTE, ..ALONE });
    program.deploy(Plan { warm: MINUTE, ..ALONE }, Some(60), None);
    program.take_over();
    program.switch();
    assert_eq!(program.copies(Role::Warm), []);
    assert!(program.view().pending.is_some());
}
