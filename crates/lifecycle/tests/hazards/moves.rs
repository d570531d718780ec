//! What goes wrong while everything moves from one worker to another, told as stories.

use handover_lifecycle::{Binary, Cause, Effect, Event, Message, Outcome, Role, Terms, WorkerKey};

use crate::server::{STOP, Server, has, sends};
use crate::upgrades::{OLD, Step, upgrade};

#[test]
fn hazard_11_a_candidate_that_dies_in_the_move_leaves_the_old_one_serving() {
    let mut server = Server::serving();
    let (upgrade, _) = server.ask(upgrade(Terms::NONE));
    let call = server.hands_over();
    let effects = server.exits(WorkerKey(2));
    assert!(!has(&effects, |effect| matches!(effect, Effect::Send { .. })), "the old one says what it did");
    server.tell(Event::HandoffFailed { worker: OLD, call });
    server.not_ready(upgrade, Cause::CandidateDied);
}

#[test]
fn hazard_11_a_worker_that_dies_just_after_it_was_handed_everything_is_replaced_by_the_old_one_at_once() {
    let orders: [fn(&mut Server); 3] = [
        |server| {
            server.handed_over();
            server.exits(WorkerKey(2));
        },
        |server| {
            server.exits(WorkerKey(2));
            server.handed_over();
        },
        |server| {
            server.took_over();
            server.exits(WorkerKey(2));
        },
    ];
    for happen in orders {
        let mut server = Server::serving();
        let (upgrade, _) = server.ask(upgrade(Terms::NONE));
        server.hands_over();
        happen(&mut server);
        assert!(matches!(server.last_message(), Message::Resume { .. }));
        let call = server.call();
        server.tell(Event::Resumed { worker: OLD, call });
        server.journal(true);
        assert_eq!(server.answered(upgrade), Some(Outcome::RolledBack));
        assert_eq!(server.of_role(Role::Serving), Some(OLD));
        assert_eq!(server.machine.view().workers.len(), 1);
        assert_eq!(server.upgrades(), Outcome::Applied, "and the next one succeeds");
    }
}

#[test]
fn the_old_worker_is_told_to_resume_only_when_the_new_one_is_certainly_dead() {
    let mut server = Server::serving();
    server.ask(upgrade(Terms::NONE));
    server.hands_over();
    server.took_over();
    let effects = server.tell(Event::ChannelLost { worker: WorkerKey(2) });
    assert!(has(&effects, |effect| *effect == Effect::KillWorker { worker: WorkerKey(2) }));
    assert!(!sends(&server.said, |message| matches!(message, Message::Resume { .. })), "not yet");
    let effects = server.exits(WorkerKey(2));
    assert!(sends(&effects, |message| matches!(message, Message::Resume { .. })));
}

#[test]
fn hazard_13_a_handoff_that_fails_does_not_end_the_old_worker() {
    let mut server = Server::serving();
    let (upgrade, _) = server.ask(upgrade(Terms::NONE));
    let call = server.hands_over();
    server.tell(Event::HandoffFailed { worker: OLD, call });
    server.not_ready(upgrade, Cause::HandoffFailed);
}

#[test]
fn hazard_13_a_worker_that_hangs_in_the_move_is_killed_and_the_other_one_serves() {
    // The giver has said nothing: it hangs.
    let mut server = Server::serving();
    let (upgrade_key, _) = server.ask(upgrade(Terms::NONE));
    server.hands_over();
    let effects = server.wait();
    assert!(has(&effects, |effect| *effect == Effect::KillWorker { worker: OLD }));
    server.exits(OLD);
    let (call, _, worker) = server.handoff();
    server.tell(Event::TookOver { worker, call, clean: false });
    server.passes();
    server.executes();
    server.journal(true);
    assert_eq!(server.answered(upgrade_key), Some(Outcome::AppliedWithLosses));
    // The giver has handed over, and the taker says nothing.
    let mut server = Server::serving();
    let (upgrade_key, _) = server.ask(upgrade(Terms::NONE));
    server.hands_over();
    server.handed_over();
    let effects = server.wait();
    assert!(has(&effects, |effect| *effect == Effect::KillWorker { worker: WorkerKey(2) }));
    server.exits(WorkerKey(2));
    let call = server.call();
    server.tell(Event::Resumed { worker: OLD, call });
    server.journal(true);
    assert_eq!(server.answered(upgrade_key), Some(Outcome::RolledBack));
}

#[test]
fn who_was_given_up_cannot_take_over_any_more() {
    let mut server = Server::serving();
    server.ask(upgrade(Terms::NONE));
    let call = server.hands_over();
    server.tell(Event::ChannelLost { worker: WorkerKey(2) });
    let effects = server.tell(Event::TookOver { worker: WorkerKey(2), call, clean: true });
    assert_eq!(effects, [], "it is being killed");
    let effects = server.tell(Event::HandoffFailed { worker: OLD, call });
    assert!(!has(&effects, |effect| matches!(effect, Effect::Switch { .. })));
}

#[test]
fn an_old_worker_that_says_it_serves_after_another_has_taken_over_is_killed() {
    let mut server = Server::serving();
    server.ask(upgrade(Terms::NONE));
    let call = server.hands_over();
    server.took_over();
    let effects = server.tell(Event::HandoffFailed { worker: OLD, call });
    assert!(has(&effects, |effect| *effect == Effect::KillWorker { worker: OLD }), "two would accept");
}

#[test]
fn when_both_die_in_the_move_a_worker_of_the_old_binary_serves() {
    for first in [OLD, WorkerKey(2)] {
        let second = if first == OLD { WorkerKey(2) } else { OLD };
        let mut server = Server::serving();
        let (upgrade, _) = server.ask(upgrade(Terms::NONE));
        server.hands_over();
        server.exits(first);
        let effects = server.exits(second);
        let (worker, binary) = (server.worker(), Binary::Serving);
        assert!(has(&effects, |effect| *effect == Effect::StartWorker { worker, binary }));
        server.start_worker();
        server.load(true);
        server.journal(true);
        assert_eq!(server.answered(upgrade), Some(Outcome::RolledBack));
        assert_eq!(server.upgrades(), Outcome::Applied);
    }
}

#[test]
fn an_old_worker_that_dies_while_its_last_connections_end_is_told_as_a_loss() {
    let mut server = Server::serving();
    let (upgrade, _) = server.ask(upgrade(Terms::NONE));
    server.hands_over();
    server.took_over();
    server.handed_over();
    server.exits(OLD);
    server.passes();
    server.executes();
    server.journal(true);
    let verdict = server.verdict(upgrade).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::AppliedWithLosses, Cause::WorkerDied));
}

#[test]
fn hazard_37_a_stop_during_the_move_waits_for_its_end_which_is_bounded() {
    let ends: [(Step, Outcome); 3] = [
        (
            |server| {
                server.took_over();
                server.handed_over();
                server.drained(true);
                server.exits(OLD);
            },
            Outcome::Applied,
        ),
        (
            |server| {
                let (call, _, to) = server.handoff();
                server.tell(Event::HandoffFailed { worker: OLD, call });
                server.exits(to);
            },
            Outcome::NotReady,
        ),
        (
            |server| {
                server.wait();
                server.exits(OLD);
                server.wait();
                server.exits(WorkerKey(2));
            },
            Outcome::Unknown,
        ),
    ];
    for (happen, outcome) in ends {
        let mut server = Server::serving();
        let (first, _) = server.ask(upgrade(Terms::NONE));
        server.hands_over();
        let (stop, effects) = server.ask(STOP);
        assert!(
            !has(&effects, |effect| matches!(effect, Effect::Send { .. })),
            "both are in the middle of it"
        );
        happen(&mut server);
        server.ends(first, stop, outcome);
    }
}
