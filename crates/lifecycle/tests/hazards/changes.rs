//! Changes that may be taken back: confirmed, not confirmed, cancelled, guarded, rolled back, restored.

use std::time::Duration;

use handover_lifecycle::{
    Cause, Effect, Event, GenerationNumber, Kind, Message, Notice, OperationKey, Outcome, PendingEnd, Phase,
    Refusal, Request, Source, StepName, Terms, WorkerKey,
};

use crate::server::{RELOAD, STOP, Server, TEN_MINUTES, VALIDATE, has, sends};

const CONFIRM: Terms = Terms { confirm: Some(TEN_MINUTES), guard: None };
const GUARD: Terms = Terms { confirm: None, guard: Some(Duration::from_secs(10)) };
const BOTH: Terms = Terms { confirm: Some(TEN_MINUTES), guard: Some(Duration::from_secs(10)) };

fn extend(within: Duration) -> Request {
    let terms = Terms { confirm: Some(within), guard: None };
    Request::Reload { dry_run: false, certs_only: false, terms }
}

pub(crate) fn lets_go(effects: &[Effect]) -> bool {
    has(effects, |effect| *effect == Effect::LetGo)
}

fn over(effects: &[Effect], how: PendingEnd) -> bool {
    let generation = GenerationNumber(2);
    has(effects, |effect| *effect == Effect::PendingOver { generation, upgrade: None, how })
}

fn guard_ends(server: &mut Server, passed: bool) -> Vec<Effect> {
    let (worker, call) = (server.worker(), server.call());
    server.tell(Event::GuardEnded { worker, call, passed })
}

#[test]
fn a_change_that_nobody_confirms_goes_back_by_itself() {
    let mut server = Server::on_probation();
    assert!(!lets_go(&server.said[server.said.len() - 5..]), "the old listeners are needed for going back");
    let effects = server.wait();
    let operation = OperationKey(server.own());
    assert!(operation >= OperationKey::OWN);
    assert_eq!(
        effects[..2],
        [Effect::Own { operation, kind: Kind::Rollback }, Effect::Started { operation }]
    );
    server.goes_back();
    let verdict = server.verdict(operation.0).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::RolledBack, Cause::NotConfirmed));
    assert_eq!((server.serves(), server.machine.view().pending), (Some(1), None));
    assert!(over(&server.said, PendingEnd::NotConfirmed) && lets_go(&server.said));
}

#[test]
fn a_confirmed_change_stays_and_only_then_the_old_listeners_go() {
    let mut server = Server::on_probation();
    let before = server.said.iter().filter(|effect| **effect == Effect::LetGo).count();
    assert_eq!(before, 1, "at the start");
    let (confirm, effects) = server.ask(Request::Confirm);
    assert!(!lets_go(&effects) && !over(&effects, PendingEnd::Confirmed), "the journal must have it first");
    let effects = server.journal(true);
    assert!(lets_go(&effects) && over(&effects, PendingEnd::Confirmed));
    server.journal(true);
    assert_eq!(server.answered(confirm), Some(Outcome::Applied));
    assert_eq!((server.machine.deadline(), server.serves()), (None, Some(2)), "nothing is waited for");
    assert_eq!(refusal(&mut server, Request::Confirm), Refusal::NothingPending);
}

fn refusal(server: &mut Server, request: Request) -> Refusal {
    match server.ask(request).1[..] {
        [Effect::Refuse { refusal, .. }] => refusal,
        ref other => panic!("{request:?} is not refused: {other:?}"),
    }
}

#[test]
fn a_confirmation_that_cannot_be_written_is_none() {
    let mut server = Server::on_probation();
    let (confirm, _) = server.ask(Request::Confirm);
    server.journal(false);
    server.journal(true);
    let verdict = server.verdict(confirm).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::NotReady, Cause::JournalFailed));
    server.wait();
    server.goes_back();
    assert_eq!(server.serves(), Some(1));
}

#[test]
fn a_confirmation_that_is_written_too_late_is_taken_back_in_the_journal() {
    let mut server = Server::on_probation();
    let until = server.machine.view().pending.unwrap().until;
    server.ask(Request::Confirm);
    let effects = server.wait();
    let again =
        |effect: &Effect| matches!(*effect, Effect::Pending { left, .. } if left == until - server.now);
    assert!(has(&effects, again), "what is written last counts: {effects:?}");
    assert_eq!(server.machine.view().pending.unwrap().until, until);
}

#[test]
fn a_confirmation_on_its_way_into_the_journal_comes_before_a_deadline_that_passes_meanwhile() {
    let mut server = Server::on_probation();
    server.now = server.machine.view().pending.unwrap().until - Duration::from_millis(1);
    let (confirm, _) = server.ask(Request::Confirm);
    server.now += Duration::from_secs(1);
    let effects = server.tell(Event::Tick);
    assert_eq!(effects, [], "nothing is decided yet");
    let generation = GenerationNumber(2);
    server.tell(Event::IntentWritten { operation: OperationKey(confirm), generation });
    server.journal(true);
    assert_eq!((server.answered(confirm), server.serves()), (Some(Outcome::Applied), Some(2)));
    assert_eq!(server.machine.view().pending, None);
}

#[test]
fn a_cancelled_change_goes_back_at_once_and_the_cancellation_is_answered_when_it_has() {
    let mut server = Server::on_probation();
    let (cancel, _) = server.ask(Request::Cancel);
    assert_eq!(server.answered(cancel), None);
    server.goes_back();
    assert_eq!((server.answered(cancel), server.serves()), (Some(Outcome::Applied), Some(1)));
    assert!(over(&server.said, PendingEnd::Cancelled));
    assert_eq!(server.machine.deadline(), None);
}

#[test]
fn more_time_is_given_if_the_disk_has_nothing_else() {
    let mut server = Server::on_probation();
    server.now += Duration::from_secs(300);
    let (reload, _) = server.ask(extend(TEN_MINUTES));
    let effects = server.prepared(true);
    assert!(has(&effects, |effect| matches!(effect, Effect::Pending { left: TEN_MINUTES, .. })));
    let operation = OperationKey(reload);
    server.tell(Event::IntentWritten { operation, generation: GenerationNumber(2) });
    server.journal(true);
    let verdict = server.verdict(reload).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::Unchanged, Cause::Extended));
    assert_eq!(server.machine.view().pending.unwrap().until, server.now + TEN_MINUTES);
    // Not so if the disk has something else: that would be another change.
    let (reload, _) = server.ask(extend(TEN_MINUTES));
    server.prepared(false);
    server.journal(true);
    let verdict = server.verdict(reload).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::Rejected, Cause::Pending));
    assert_eq!(server.serves(), Some(2));
}

#[test]
fn another_change_is_refused_with_the_time_that_is_left() {
    let mut server = Server::on_probation();
    server.now += Duration::from_secs(570);
    let (generation, back_to) = (GenerationNumber(2), GenerationNumber(1));
    let pending = Refusal::Pending { generation, back_to, upgrade: false, left: Duration::from_secs(30) };
    let to = GenerationNumber(1);
    let rollback = Request::Rollback { to, dry_run: false, terms: Terms::NONE };
    let another = Request::Rollback { to, dry_run: false, terms: CONFIRM };
    let restore = Request::Restore { dry_run: false, terms: Terms::NONE };
    for request in [RELOAD, rollback, another, restore, Request::Action] {
        assert_eq!(refusal(&mut server, request), pending);
    }
}

#[test]
fn a_rollback_or_a_restore_that_is_pending_gets_more_time_by_being_asked_for_again() {
    let rollback = Request::Rollback { to: GenerationNumber(2), dry_run: false, terms: CONFIRM };
    let restore = Request::Restore { dry_run: false, terms: CONFIRM };
    for request in [rollback, restore] {
        let mut server = Server::on_probation();
        server.now += Duration::from_secs(300);
        let (asked, effects) = server.ask(request);
        let moved = |effects: &[Effect]| has(effects, |effect| matches!(effect, Effect::Pending { .. }));
        assert!(moved(&effects) || moved(&server.prepared(true)), "{request:?}");
        let operation = OperationKey(asked);
        server.tell(Event::IntentWritten { operation, generation: GenerationNumber(2) });
        server.journal(true);
        let verdict = server.verdict(asked).unwrap();
        assert_eq!((verdict.outcome, verdict.cause), (Outcome::Unchanged, Cause::Extended));
    }
    // Another archive would be another change.
    let mut server = Server::on_probation();
    let (asked, _) = server.ask(restore);
    server.prepared(false);
    server.journal(true);
    let verdict = server.verdict(asked).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::Rejected, Cause::Pending));
    assert_eq!(server.serves(), Some(2));
}

#[test]
fn when_the_time_is_over_what_only_looks_gives_way() {
    let mut server = Server::on_probation();
    server.now = server.machine.view().pending.unwrap().until - Duration::from_secs(1);
    for request in [VALIDATE, extend(TEN_MINUTES)] {
        let mut server = Server { machine: server.machine.clone(), said: server.said.clone(), ..server };
        let (looks, _) = server.ask(request);
        let effects = server.wait();
        assert!(sends(&effects, |message| matches!(message, Message::Abort { .. })), "{request:?}");
        let verdict = effects.iter().find_map(|effect| match effect {
            Effect::WriteOutcome { operation, verdict } if operation.0 == looks => Some(*verdict),
            _ => None,
        });
        let verdict = verdict.unwrap();
        assert_eq!((verdict.outcome, verdict.cause), (Outcome::NotReady, Cause::NotConfirmed));
        server.goes_back();
        assert_eq!(server.serves(), Some(1));
    }
}

#[test]
fn a_signals_reload_waits_for_the_confirmation_and_is_refused_when_the_change_is_taken_back() {
    let mut server = Server::on_probation();
    let (hup, effects) = server.hup();
    let told = [Effect::Notify(Notice::Reloading), Effect::Notify(Notice::Ready)];
    assert_eq!(effects, [&[Effect::Deferred { request: OperationKey(hup) }][..], &told].concat());
    let mut confirmed = Server { machine: server.machine.clone(), said: server.said.clone(), ..server };
    confirmed.ask(Request::Confirm);
    confirmed.journal(true);
    let effects = confirmed.journal(true);
    assert!(has(&effects, |effect| *effect == Effect::Started { operation: OperationKey(hup) }));
    // The disk still has what was taken back: nobody asked for that to serve without confirmation.
    server.wait();
    server.goes_back();
    let request = OperationKey(hup);
    assert!(has(&server.said, |effect| *effect == Effect::Refuse { request, refusal: Refusal::TakenBack }));
    assert_eq!((server.serves(), server.machine.view().deferred), (Some(1), None));
}

#[test]
fn a_worker_that_dies_on_probation_is_replaced_and_when_the_next_one_dies_too_the_server_goes_back() {
    let mut server = Server::on_probation();
    server.dies();
    server.wait();
    server.start_worker();
    let change = Source::Generation(GenerationNumber(2));
    assert!(matches!(server.last_message(), Message::Prepare { source, .. } if source == change));
    server.load(true);
    assert_eq!(server.serves(), Some(2));
    assert!(server.machine.view().pending.is_some() && !lets_go(&server.said[server.said.len() - 2..]));
    let effects = server.dies();
    let own = server.own();
    assert!(has(&effects, |effect| matches!(effect, Effect::StartWorker { .. })), "without a pause");
    server.start_worker();
    server.goes_back();
    let verdict = server.verdict(own).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::RolledBack, Cause::WorkerDied));
    assert!(over(&server.said, PendingEnd::WorkersDied));
    assert_eq!(server.serves(), Some(1));
}

#[test]
fn workers_that_died_before_the_change_do_not_count_against_it() {
    let mut server = Server::serving();
    for _ in 0..3 {
        server.dies();
        server.wait();
    }
    server.start_worker();
    server.load(true);
    let (_, _) = server.ask(extend(TEN_MINUTES));
    server.prepared(false);
    server.journal(true);
    server.committed();
    server.journal(true);
    assert!(server.machine.view().pending.is_some());
    server.dies();
    assert!(server.machine.view().pending.is_some(), "it was the first");
    server.wait();
    server.start_worker();
    server.dies();
    assert_eq!(server.machine.view().pending.map(|pending| pending.back_to), Some(GenerationNumber(1)));
    server.own();
}

#[test]
fn a_worker_that_dies_while_going_back_is_replaced_with_the_generation_before() {
    let mut server = Server::on_probation();
    let (cancel, _) = server.ask(Request::Cancel);
    server.prepared(false);
    server.dies();
    assert_eq!(server.machine.view().held_to, Some(GenerationNumber(1)));
    server.start_worker();
    server.goes_back();
    assert_eq!(server.answered(cancel), Some(Outcome::AppliedWithLosses), "the crash cut connections");
    assert_eq!(server.serves(), Some(1));
}

#[test]
fn a_worker_that_does_not_take_the_generation_before_is_replaced_and_the_end_is_told_truly() {
    let mut server = Server::on_probation();
    server.wait();
    let own = server.own();
    let effects = server.rejected();
    assert!(has(&effects, |effect| matches!(effect, Effect::KillWorker { .. })));
    server.dies();
    server.start_worker();
    server.rejected();
    server.journal(true);
    assert_eq!(server.answered(own), Some(Outcome::Unknown));
    assert_eq!((server.serves(), server.machine.view().held_to), (None, Some(GenerationNumber(1))));
    // It goes on trying, and never tries the change again.
    server.dies();
    server.wait();
    server.start_worker();
    server.load(true);
    assert_eq!(server.serves(), Some(1));
}

#[test]
fn while_drained_the_generation_before_is_what_a_resume_will_serve() {
    let mut server = Server::on_probation();
    let (drain, _) = server.ask(Request::Drain { limit: None });
    let (worker, call) = (server.worker(), server.call());
    server.tell(Event::Drained { worker, call, clean: true });
    server.journal(true);
    assert_eq!(server.answered(drain), Some(Outcome::Applied));
    let effects = server.wait();
    assert!(has(&effects, |effect| matches!(effect, Effect::KillWorker { .. })), "it has no connection");
    assert!(!lets_go(&effects), "the old listeners are still to be served");
    server.journal(true);
    assert_eq!(server.answered(server.own()), Some(Outcome::RolledBack));
    server.tell(Event::WorkerExited { worker });
    server.ask(Request::Resume);
    server.start_worker();
    let before = Source::Generation(GenerationNumber(1));
    assert!(matches!(server.last_message(), Message::Prepare { source, .. } if source == before));
    server.prepared(false);
    assert!(lets_go(&server.committed()));
    assert_eq!((server.serves(), server.machine.view().phase), (Some(1), Phase::Serving));
}

#[test]
fn a_stop_leaves_an_unconfirmed_change_to_the_journal() {
    let mut server = Server::on_probation();
    server.ask(STOP);
    let (worker, call) = (server.worker(), server.call());
    server.tell(Event::Drained { worker, call, clean: true });
    server.dies();
    server.journal(true);
    assert!(!has(&server.said, |effect| matches!(effect, Effect::PendingOver { .. })));
    assert_eq!(server.machine.view().phase, Phase::Stopped);
}

#[test]
fn a_guard_that_passes_lets_the_change_stay_and_the_answer_waits_for_it() {
    let (mut server, reload) = Server::changed(GUARD);
    let Message::Guard { operation, watch, .. } = server.last_message() else { panic!("no guard") };
    assert_eq!((operation.0, watch), (reload, Duration::from_secs(10)));
    assert_eq!(server.machine.view().operation.map(|operation| operation.step), Some(StepName::Guard));
    assert_eq!((server.answered(reload), server.serves()), (None, Some(2)));
    assert!(lets_go(&guard_ends(&mut server, true)));
    server.journal(true);
    assert_eq!(server.answered(reload), Some(Outcome::Applied));
}

#[test]
fn a_guard_that_fails_brings_the_generation_before_back_without_anybody() {
    let (mut server, reload) = Server::changed(BOTH);
    let effects = guard_ends(&mut server, false);
    assert!(!lets_go(&effects));
    server.goes_back();
    let verdict = server.verdict(reload).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::RolledBack, Cause::GuardFailed));
    assert_eq!((verdict.made, server.serves(), server.machine.view().pending), (None, Some(1), None));
}

#[test]
fn a_guard_that_passes_is_followed_by_the_probation() {
    let (mut server, reload) = Server::changed(BOTH);
    server.now += Duration::from_secs(10);
    guard_ends(&mut server, true);
    server.journal(true);
    assert_eq!(server.answered(reload), Some(Outcome::Applied));
    assert_eq!(server.machine.view().pending.unwrap().until, server.now + TEN_MINUTES, "from then on");
}

#[test]
fn a_guard_that_does_not_answer_has_failed() {
    let (mut server, reload) = Server::changed(GUARD);
    let effects = server.wait();
    assert!(sends(&effects, |message| matches!(message, Message::EndGuard { passed: false, .. })));
    server.goes_back();
    assert_eq!(server.answered(reload), Some(Outcome::RolledBack));
}

#[test]
fn a_worker_that_dies_under_guard_is_replaced_with_the_generation_before() {
    let (mut server, reload) = Server::changed(GUARD);
    server.dies();
    server.start_worker();
    server.goes_back();
    let verdict = server.verdict(reload).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::RolledBack, Cause::GuardFailed));
}

#[test]
fn whoever_decides_under_guard_is_heard_at_once() {
    let (mut server, reload) = Server::changed(BOTH);
    let (confirm, effects) = server.ask(Request::Confirm);
    assert!(sends(&effects, |message| matches!(message, Message::EndGuard { passed: true, .. })));
    let generation = GenerationNumber(2);
    server.tell(Event::IntentWritten { operation: OperationKey(confirm), generation });
    for operation in [reload, confirm] {
        server.tell(Event::OutcomeWritten { operation: OperationKey(operation) });
        assert_eq!(server.answered(operation), Some(Outcome::Applied));
    }
    assert_eq!((server.machine.view().pending, server.serves()), (None, Some(2)), "confirmed for good");

    let (mut server, reload) = Server::changed(BOTH);
    let (cancel, effects) = server.ask(Request::Cancel);
    assert!(sends(&effects, |message| matches!(message, Message::EndGuard { passed: false, .. })));
    server.prepared(false);
    server.committed();
    for operation in [reload, cancel] {
        server.tell(Event::OutcomeWritten { operation: OperationKey(operation) });
    }
    let verdict = server.verdict(reload).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::RolledBack, Cause::Cancelled));
    assert_eq!((server.answered(cancel), server.serves()), (Some(Outcome::Applied), Some(1)));
}

#[test]
fn a_late_verdict_of_another_guard_does_not_count() {
    let (mut server, reload) = Server::changed(GUARD);
    let (worker, call) = (server.worker(), server.call());
    let other = handover_lifecycle::CallKey(call.0 - 1);
    assert_eq!(server.tell(Event::GuardEnded { worker, call: other, passed: true }), []);
    assert_eq!(server.tell(Event::GuardEnded { worker: WorkerKey(99), call, passed: true }), []);
    assert_eq!(server.answered(reload), None);
}

#[test]
fn a_rollback_serves_an_old_generation_under_its_own_number() {
    let mut server = Server::serving();
    let (_, _) = server.ask(RELOAD);
    server.load(false);
    let to = GenerationNumber(1);
    let (rollback, _) = server.ask(Request::Rollback { to, dry_run: false, terms: Terms::NONE });
    let Message::Prepare { source, generation, .. } = server.last_message() else {
        panic!("nothing prepared")
    };
    assert_eq!((source, generation), (Source::Generation(to), to));
    let effects = server.prepared(false);
    let intent = |effect: &Effect| {
        matches!(*effect, Effect::WriteIntent { generation, back_to, .. }
            if generation == to && back_to == Some(GenerationNumber(2)))
    };
    assert!(has(&effects, intent), "the journal has it before the commit");
    server.journal(true);
    server.committed();
    server.journal(true);
    let verdict = server.verdict(rollback).unwrap();
    assert_eq!((verdict.outcome, verdict.made), (Outcome::Applied, Some(to)));
    assert_eq!(server.serves(), Some(1));
    // Again: it is so already, and the next reload gets a number of its own.
    let (again, _) = server.ask(Request::Rollback { to, dry_run: false, terms: Terms::NONE });
    server.journal(true);
    assert_eq!(server.answered(again), Some(Outcome::Unchanged));
    let (next, _) = server.ask(RELOAD);
    server.load(false);
    assert_eq!((server.answered(next), server.serves()), (Some(Outcome::Applied), Some(3)));
}

#[test]
fn a_restore_gets_a_number_of_its_own_and_may_be_guarded_and_on_probation() {
    let mut server = Server::serving();
    let (restore, _) = server.ask(Request::Restore { dry_run: false, terms: BOTH });
    let Message::Prepare { source, generation, .. } = server.last_message() else {
        panic!("nothing prepared")
    };
    assert_eq!((source, generation), (Source::Given, GenerationNumber(2)));
    server.prepared(false);
    server.journal(true);
    server.committed();
    guard_ends(&mut server, true);
    server.journal(true);
    assert_eq!(server.answered(restore), Some(Outcome::Applied));
    server.wait();
    server.goes_back();
    assert_eq!(server.serves(), Some(1));
}

#[test]
fn a_commit_of_a_rollback_that_was_not_answered_is_settled_like_any_other() {
    let mut server = Server::serving();
    server.ask(RELOAD);
    server.load(false);
    let to = GenerationNumber(1);
    let (rollback, _) = server.ask(Request::Rollback { to, dry_run: false, terms: CONFIRM });
    server.prepared(false);
    server.journal(true);
    server.dies();
    server.wait();
    server.start_worker();
    server.load(true);
    server.journal(true);
    assert_eq!(server.answered(rollback), Some(Outcome::AppliedWithLosses));
    let pending = server.machine.view().pending.unwrap();
    assert_eq!((pending.generation, pending.back_to), (to, GenerationNumber(2)));
}

#[test]
fn a_reload_of_certificates_says_so_and_is_not_joined_by_a_reload_of_everything() {
    let mut server = Server::serving();
    server.dies();
    let certificates = Request::Reload { dry_run: false, certs_only: true, terms: Terms::NONE };
    let (first, _) = server.ask(certificates);
    let (second, effects) = server.ask(certificates);
    assert_eq!(effects, [Effect::Joined { request: OperationKey(second), operation: OperationKey(first) }]);
    assert!(matches!(refusal(&mut server, RELOAD), Refusal::Busy { .. }));
    server.start_worker();
    server.load(true);
    assert!(matches!(server.last_message(), Message::Prepare { certs_only: true, source: Source::Disk, .. }));
}
