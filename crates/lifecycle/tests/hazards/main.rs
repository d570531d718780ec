//! What has gone wrong in systems like this, played to the machine by hand, event by event.
//!
//! The simulation finds what nobody thought of; these tests say in the order of a story what must hold.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod changes;
mod moves;
mod programs;
mod server;
mod starts;
mod upgrades;
mod warm;

use std::time::Duration;

use handover_lifecycle::{
    Asked, Caller, Cause, Effect, Event, Exit, GenerationNumber, Kind, Limits, Machine, Message, Notice,
    OperationKey, Outcome, Phase, Recovered, Refusal, Request, Source, Unfinished, Verdict, WorkerKey,
};
use server::{RELOAD, STOP, Server, VALIDATE, has, sends};

#[test]
fn hazard_2_the_outcome_is_in_the_journal_before_it_is_answered() {
    let mut server = Server::serving();
    let (reload, _) = server.ask(RELOAD);
    server.prepared(false);
    assert!(!sends(
        &server.said,
        |message| matches!(message, Message::Commit { candidate, .. } if *candidate == server.candidate())
    ));
    let effects = server.journal(true);
    assert!(sends(&effects, |message| matches!(message, Message::Commit { .. })), "after its intent");
    let effects = server.committed();
    assert!(has(&effects, |effect| matches!(effect, Effect::WriteOutcome { .. })));
    assert_eq!(server.answered(reload), None, "not yet");
    server.journal(true);
    assert_eq!(server.answered(reload), Some(Outcome::Applied));
    assert_eq!(server.serves(), Some(2));
}

#[test]
fn hazard_3_what_cannot_be_bound_is_refused_like_a_syntax_error_and_the_old_serves() {
    let mut server = Server::serving();
    let (reload, _) = server.ask(RELOAD);
    let (worker, candidate) = (server.worker(), server.candidate());
    let effects = server.tell(Event::Need { worker, candidate });
    assert!(has(&effects, |effect| matches!(effect, Effect::Bind { dry_run: false, .. })));
    server.tell(Event::Bound { worker, candidate });
    let effects = server.rejected();
    assert!(
        has(&effects, |effect| *effect == Effect::Release { candidate }),
        "what was bound for it is closed"
    );
    server.journal(true);
    let verdict = server.verdict(reload).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::Rejected, Cause::Refused));
    assert_eq!(verdict.serving, Some(GenerationNumber(1)));
    assert_eq!(server.serves(), Some(1));
}

#[test]
fn hazard_8_unknown_is_said_only_when_nobody_can_know() {
    let mut server = Server::serving();
    let (action, _) = server.ask(Request::Action);
    server.dies();
    server.journal(true);
    assert_eq!(server.answered(action), Some(Outcome::Unknown), "it may have done its work or not");
    assert!(!Outcome::Unknown.is_success() && !Outcome::Unknown.is_failure());
}

#[test]
fn hazard_10_a_candidate_that_hangs_is_given_up_and_the_next_reload_succeeds() {
    let mut server = Server::serving();
    let (hangs, _) = server.ask(RELOAD);
    let hanging = server.candidate();
    let effects = server.wait();
    assert!(sends(&effects, |message| *message == Message::Abort { candidate: hanging }));
    server.journal(true);
    let verdict = server.verdict(hangs).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::NotReady, Cause::PrepareDeadline));
    let (next, _) = server.ask(RELOAD);
    // The first one is done after all, much too late.
    let worker = server.worker();
    let effects =
        server.tell(Event::Prepared { worker, candidate: hanging, unchanged: false, programs: None });
    assert_eq!(effects, [], "nobody waits for it");
    server.load(false);
    assert_eq!(server.answered(next), Some(Outcome::Applied));
    assert_eq!(server.serves(), Some(2), "a candidate that failed uses up no number");
}

#[test]
fn hazard_11_a_worker_that_dies_in_prepare_is_replaced_with_what_served() {
    let mut server = Server::serving();
    let (reload, _) = server.ask(RELOAD);
    server.dies();
    server.journal(true);
    let verdict = server.verdict(reload).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::NotReady, Cause::WorkerDied));
    assert_eq!(verdict.serving, None, "at this moment nobody serves");
    assert_eq!(verdict.held_to, Some(GenerationNumber(1)));
    server.wait();
    server.start_worker();
    let bundle = Source::Generation(GenerationNumber(1));
    assert!(matches!(server.last_message(), Message::Prepare { source, .. } if source == bundle));
    server.load(true);
    assert_eq!(server.serves(), Some(1));
    let (next, _) = server.ask(RELOAD);
    server.load(false);
    assert_eq!(server.answered(next), Some(Outcome::Applied));
}

/// The worker dies between the commit and its answer.
fn dies_in_commit() -> (Server, u64) {
    let mut server = Server::serving();
    let (reload, _) = server.ask(RELOAD);
    server.prepared(false);
    server.journal(true);
    server.dies();
    assert_eq!(server.answered(reload), None);
    server.wait();
    server.start_worker();
    let new = Source::Generation(GenerationNumber(2));
    assert!(
        matches!(server.last_message(), Message::Prepare { source, .. } if source == new),
        "first the new one"
    );
    (server, reload)
}

#[test]
fn a_commit_that_was_not_answered_is_applied_if_the_next_worker_can_serve_it() {
    let (mut server, reload) = dies_in_commit();
    server.load(true);
    server.journal(true);
    assert_eq!(server.answered(reload), Some(Outcome::AppliedWithLosses), "the crash cut connections");
    assert_eq!(server.serves(), Some(2));
}

#[test]
fn a_commit_that_was_not_answered_is_rolled_back_if_the_next_worker_refuses_it() {
    let (mut server, reload) = dies_in_commit();
    server.rejected();
    let old = Source::Generation(GenerationNumber(1));
    assert!(
        matches!(server.last_message(), Message::Prepare { source, .. } if source == old),
        "then the old one"
    );
    server.load(true);
    server.journal(true);
    assert_eq!(server.answered(reload), Some(Outcome::RolledBack));
    assert_eq!(server.serves(), Some(1));
    let (next, _) = server.ask(RELOAD);
    server.prepared(false);
    server.journal(true);
    server.committed();
    assert_eq!(server.serves(), Some(3), "number 2 was given away");
    server.journal(true);
    assert_eq!(server.answered(next), Some(Outcome::Applied));
}

#[test]
fn a_commit_that_was_not_answered_is_unknown_if_nothing_can_be_started() {
    let (mut server, reload) = dies_in_commit();
    server.dies();
    server.wait();
    server.dies();
    server.journal(true);
    assert_eq!(server.answered(reload), Some(Outcome::Unknown));
    assert_eq!(server.machine.view().held_to, Some(GenerationNumber(1)));
    server.wait();
    server.start_worker();
    server.load(true);
    assert_eq!(server.serves(), Some(1), "it goes on trying");
}

#[test]
fn a_worker_that_hangs_while_switching_is_killed_because_its_threads_may_differ() {
    let mut server = Server::serving();
    server.ask(RELOAD);
    server.prepared(false);
    server.journal(true);
    let effects = server.wait();
    assert!(has(&effects, |effect| matches!(effect, Effect::KillWorker { .. })));
    assert!(
        !sends(&effects, |message| matches!(message, Message::Abort { .. })),
        "a commit is not called off"
    );
    assert_eq!(server.serves(), None);
}

#[test]
fn hazard_14_of_two_reloads_one_runs_and_the_other_is_told_which() {
    let mut server = Server::serving();
    let (first, _) = server.ask(RELOAD);
    let (second, effects) = server.ask(RELOAD);
    let refusal = Refusal::Busy { running: OperationKey(first), kind: Kind::Reload };
    assert_eq!(effects, [Effect::Refuse { request: OperationKey(second), refusal }]);
    server.load(false);
    assert_eq!(server.answered(first), Some(Outcome::Applied));
}

#[test]
fn hazard_14_signals_during_a_reload_are_remembered_once() {
    let mut server = Server::serving();
    let (first, _) = server.ask(RELOAD);
    let (second, effects) = server.hup();
    assert_eq!(effects, [Effect::Deferred { request: OperationKey(second) }]);
    let (third, effects) = server.hup();
    let joined = Effect::Joined { request: OperationKey(third), operation: OperationKey(second) };
    assert_eq!(effects, [joined]);
    server.prepared(false);
    server.journal(true);
    server.committed();
    let effects = server.journal(true);
    assert_eq!(server.answered(first), Some(Outcome::Applied));
    assert!(has(&effects, |effect| *effect == Effect::Started { operation: OperationKey(second) }));
    server.prepared(true);
    server.journal(true);
    assert_eq!(server.answered(second), Some(Outcome::Unchanged));
    assert_eq!(server.machine.view().operation, None);
}

#[test]
fn hazard_14_a_reload_that_has_not_begun_to_read_is_joined() {
    let mut server = Server::serving();
    server.dies();
    let (first, _) = server.ask(RELOAD);
    let (second, effects) = server.ask(RELOAD);
    assert_eq!(effects, [Effect::Joined { request: OperationKey(second), operation: OperationKey(first) }]);
    server.start_worker();
    server.load(true);
    assert_eq!(server.serves(), Some(1), "first what served serves again");
    let (third, effects) = server.ask(RELOAD);
    assert!(matches!(effects[..], [Effect::Refuse { .. }]), "now it reads: {third} may want something newer");
    server.load(false);
    assert_eq!(server.answered(first), Some(Outcome::Applied));
}

#[test]
fn hazard_16_a_stray_signal_is_harmless_in_every_state() {
    let mut server = Server::new();
    server.tell(Event::Start { operation: OperationKey(0), source: Source::Disk, pending: None });
    let (hup, effects) = server.hup();
    assert_eq!(effects, [Effect::Deferred { request: OperationKey(hup) }]);
    server.start_worker();
    server.load(false);
    assert_eq!(server.answered(0), Some(Outcome::Applied));
    server.prepared(true);
    server.journal(true);
    assert_eq!(server.answered(hup), Some(Outcome::Unchanged), "it runs when the start is over");
    server.ask(STOP);
    let (late, effects) = server.hup();
    assert_eq!(effects, [Effect::Refuse { request: OperationKey(late), refusal: Refusal::Stopping }]);
    let (worker, call) = (server.worker(), server.call());
    server.tell(Event::Drained { worker, call, clean: true });
    server.dies();
    let effects = server.journal(true);
    assert!(has(&effects, |effect| *effect == Effect::Exit(Exit::Stopped)));
    let (after, effects) = server.hup();
    assert_eq!(effects, [Effect::Refuse { request: OperationKey(after), refusal: Refusal::Stopping }]);
}

#[test]
fn hazard_34_every_reload_however_it_ends_is_reloading_then_ready() {
    let mut server = Server::serving();
    let endings: [fn(&mut Server); 4] = [
        |server| server.load(false),
        |server| {
            server.prepared(true);
            server.journal(true);
        },
        |server| {
            server.rejected();
            server.journal(true);
        },
        |server| {
            server.wait();
            server.journal(true);
        },
    ];
    for end in endings {
        server.said.clear();
        server.hup();
        end(&mut server);
        let notices: Vec<_> =
            server.said.iter().filter(|effect| matches!(effect, Effect::Notify(_))).collect();
        assert_eq!(notices, [&Effect::Notify(Notice::Reloading), &Effect::Notify(Notice::Ready)]);
    }
}

#[test]
fn a_full_disk_refuses_a_reload_and_leaves_what_serves_alone() {
    let mut server = Server::serving();
    let (reload, _) = server.ask(RELOAD);
    server.prepared(false);
    let effects = server.journal(false);
    assert!(sends(&effects, |message| matches!(message, Message::Abort { .. })));
    for _ in 0..2 {
        server.journal(false);
        assert_eq!(server.answered(reload), None);
        server.wait();
    }
    let effects = server.journal(false);
    assert!(has(&effects, |effect| matches!(effect, Effect::Answer { recorded: false, .. })), "and says so");
    let verdict = server.verdict(reload).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::NotReady, Cause::JournalFailed));
    assert_eq!(server.serves(), Some(1));
}

#[test]
fn a_journal_that_hangs_holds_up_an_answer_only_so_long() {
    let mut server = Server::serving();
    let (check, _) = server.ask(VALIDATE);
    server.prepared(false);
    assert_eq!(server.answered(check), None);
    server.wait();
    assert_eq!(server.answered(check), Some(Outcome::Unchanged));
}

#[test]
fn a_dry_run_is_never_committed() {
    let mut server = Server::serving();
    let (check, _) = server.ask(VALIDATE);
    let effects = server.prepared(false);
    assert!(sends(&effects, |message| matches!(message, Message::Abort { .. })));
    server.journal(true);
    let verdict = server.verdict(check).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::Unchanged, Cause::DryRun));
    assert_eq!(server.serves(), Some(1));
}

#[test]
fn the_pause_before_a_restart_doubles_and_is_forgotten_after_a_while_of_serving() {
    let mut server = Server::serving();
    let mut pauses = Vec::new();
    for _ in 0..10 {
        let died = server.now;
        server.dies();
        server.wait();
        pauses.push((server.now - died).as_millis());
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
    server.start_worker();
    server.load(true);
    server.now += Limits::DEFAULT.backoff_reset;
    let died = server.now;
    server.dies();
    server.wait();
    assert_eq!((server.now - died).as_millis(), 100);
}

#[test]
fn a_reload_heals_a_configuration_that_kills_its_workers() {
    let mut server = Server::serving();
    server.dies();
    server.wait();
    server.start_worker();
    server.load(true);
    server.dies();
    let (reload, effects) = server.ask(RELOAD);
    assert!(has(&effects, |effect| matches!(effect, Effect::StartWorker { .. })), "without the pause");
    server.start_worker();
    assert!(
        matches!(server.last_message(), Message::Prepare { source: Source::Disk, .. }),
        "not what kills it"
    );
    server.load(false);
    assert_eq!(server.answered(reload), Some(Outcome::Applied));
    assert_eq!(server.serves(), Some(2));
}

#[test]
fn a_reload_with_nothing_new_is_unchanged_only_when_somebody_serves() {
    let mut server = Server::serving();
    server.dies();
    server.wait();
    server.dies();
    let (reload, _) = server.ask(RELOAD);
    server.start_worker();
    server.prepared(true);
    assert_eq!(server.answered(reload), None, "nobody serves yet");
    let held = Source::Generation(GenerationNumber(1));
    assert!(matches!(server.last_message(), Message::Prepare { source, .. } if source == held));
    server.load(true);
    server.journal(true);
    assert_eq!(
        server.verdict(reload).map(|v| (v.outcome, v.serving)),
        Some((Outcome::Unchanged, Some(GenerationNumber(1))))
    );
}

#[test]
fn a_stop_drains_a_worker_that_may_have_resumed() {
    let mut server = Server::serving();
    server.ask(Request::Drain { limit: None });
    let (worker, call) = (server.worker(), server.call());
    server.tell(Event::Drained { worker, call, clean: true });
    server.journal(true);
    server.ask(Request::Resume);
    let (_, effects) = server.ask(STOP);
    assert!(sends(
        &effects,
        |message| matches!(message, Message::Drain { call: again, .. } if *again != call)
    ));
}

#[test]
fn a_drain_waits_for_a_worker_that_is_just_told_to_serve() {
    let mut server = Server::serving();
    server.dies();
    server.wait();
    server.start_worker();
    server.prepared(false);
    let (drain, effects) = server.ask(Request::Drain { limit: None });
    assert!(sends(&effects, |message| matches!(message, Message::Drain { .. })), "it may accept already");
    let (worker, call) = (server.worker(), server.call());
    server.committed();
    server.tell(Event::Drained { worker, call, clean: true });
    server.journal(true);
    assert_eq!(server.answered(drain), Some(Outcome::Applied));
}

#[test]
fn a_start_that_fails_ends_the_process_after_its_answer() {
    let mut server = Server::new();
    server.tell(Event::Start { operation: OperationKey(0), source: Source::Disk, pending: None });
    server.start_worker();
    server.rejected();
    server.journal(true);
    assert_eq!(server.answered(0), Some(Outcome::Rejected));
    let effects = server.dies();
    assert!(matches!(
        effects[..],
        [Effect::Exit(Exit::StartFailed(Verdict { outcome: Outcome::Rejected, .. }))]
    ));
    assert!(!has(&server.said, |effect| *effect == Effect::Notify(Notice::Ready)));
}

#[test]
fn a_resume_calls_a_drain_off() {
    let mut server = Server::serving();
    let (drain, _) = server.ask(Request::Drain { limit: Some(Duration::from_secs(3600)) });
    let (worker, stale) = (server.worker(), server.call());
    let (resume, _) = server.ask(Request::Resume);
    let call = server.call();
    assert_eq!(server.tell(Event::Drained { worker, call: stale, clean: true }), [], "too late");
    server.tell(Event::OutcomeWritten { operation: OperationKey(drain) });
    assert_eq!(server.answered(drain), Some(Outcome::RolledBack));
    server.tell(Event::Resumed { worker, call });
    server.journal(true);
    assert_eq!(server.answered(resume), Some(Outcome::Applied));
    assert_eq!(server.machine.view().phase, Phase::Serving);
}

#[test]
fn a_stop_drains_and_a_second_signal_cuts_it_short() {
    let mut server = Server::serving();
    let (stop, effects) = server.ask_as(STOP, Caller::Signal);
    assert!(has(&effects, |effect| *effect == Effect::CloseListeners));
    let (worker, call) = (server.worker(), server.call());
    let (again, effects) = server.ask_as(STOP, Caller::Signal);
    let joined = Effect::Joined { request: OperationKey(again), operation: OperationKey(stop) };
    let at_once = Message::Drain { call, limit: Duration::ZERO };
    assert_eq!(effects, [joined, Effect::Send { worker, message: at_once }]);
    server.tell(Event::Drained { worker, call, clean: false });
    server.dies();
    let effects = server.journal(true);
    assert_eq!(server.answered(stop), Some(Outcome::AppliedWithLosses));
    assert!(has(&effects, |effect| *effect == Effect::Exit(Exit::Stopped)));
}

#[test]
fn a_worker_that_ignores_every_word_is_killed_and_the_stop_ends() {
    let mut server = Server::serving();
    let (stop, _) = server.ask(STOP);
    let effects = server.wait();
    assert!(sends(&effects, |message| *message == Message::Stop { now: true }));
    let effects = server.wait();
    assert!(has(&effects, |effect| matches!(effect, Effect::KillWorker { .. })));
    server.wait();
    server.journal(true);
    assert_eq!(server.answered(stop), Some(Outcome::AppliedWithLosses), "even one that cannot be reaped");
    let limits = Limits::DEFAULT;
    assert_eq!(server.now, limits.drain + limits.drain_grace + limits.stop_now + limits.kill);
}

#[test]
fn a_stop_waits_for_a_commit_that_is_on_its_way() {
    let mut server = Server::serving();
    let (reload, _) = server.ask(RELOAD);
    server.prepared(false);
    server.journal(true);
    let (stop, _) = server.ask(STOP);
    assert_eq!(server.answered(reload), None);
    server.committed();
    server.journal(true);
    assert_eq!(server.answered(reload), Some(Outcome::Applied), "it was, before the stop");
    assert_eq!(server.answered(stop), None);
}

#[test]
fn an_orphaned_worker_is_adopted_and_what_was_unfinished_gets_its_outcome() {
    let (kind, upgrade) = (Kind::Reload, None);
    let reload = |key, intent| Unfinished { operation: OperationKey(key), kind, intent, upgrade };
    let unfinished =
        vec![reload(91, Some(GenerationNumber(4))), reload(92, Some(GenerationNumber(5))), reload(93, None)];
    let recovered =
        Recovered { last_generation: GenerationNumber(5), keys_from: 1000, last_good: None, unfinished };
    let mut server = Server::recovered(recovered);
    let effects = server.tell(Event::Adopted {
        operation: OperationKey(0),
        worker: WorkerKey(7),
        generation: GenerationNumber(4),
        accepting: true,
        pending: None,
    });
    assert!(!has(&effects, |effect| matches!(effect, Effect::StartWorker { .. } | Effect::Send { .. })));
    for operation in [91, 92, 93, 0] {
        server.tell(Event::OutcomeWritten { operation: OperationKey(operation) });
    }
    assert_eq!(server.answered(91), Some(Outcome::Applied), "the worker serves what was meant");
    assert_eq!(server.answered(92), Some(Outcome::NotReady));
    assert_eq!(server.answered(93), Some(Outcome::NotReady));
    assert_eq!(server.answered(0), Some(Outcome::Unchanged));
    assert_eq!(server.serves(), Some(4));
    server.ask(RELOAD);
    server.load(false);
    assert_eq!(server.serves(), Some(6), "5 was given away");
}

#[test]
fn an_adopted_server_is_never_given_up() {
    let mut server = Server::recovered(Recovered { keys_from: 1000, ..Recovered::default() });
    let (operation, worker, generation) = (OperationKey(0), WorkerKey(7), GenerationNumber(4));
    server.tell(Event::Adopted { operation, worker, generation, accepting: false, pending: None });
    server.dies();
    server.dies();
    server.journal(true);
    assert_eq!(server.answered(0), Some(Outcome::NotReady));
    server.wait();
    server.start_worker();
    server.load(true);
    assert_eq!(server.serves(), Some(4));
    assert!(has(&server.said, |effect| *effect == Effect::Notify(Notice::Ready)), "it serves at last");
}

#[test]
fn limits_of_any_size_neither_overflow_nor_spin() {
    for limit in [Duration::ZERO, Duration::MAX] {
        let limits = Limits {
            worker_start: limit,
            prepare: limit,
            commit: limit,
            kill: limit,
            backoff_first: limit,
            backoff_longest: limit,
            journal_attempts: 0,
            ..Limits::DEFAULT
        };
        let mut machine = Machine::new(limits, Recovered::default());
        let _ = machine.step(
            Duration::MAX,
            Event::Start { operation: OperationKey(0), source: Source::Disk, pending: None },
        );
        let asked = Asked { request: RELOAD, caller: Caller::Signal, expected: None };
        let _ = machine.step(Duration::ZERO, Event::Request { operation: OperationKey(1), asked });
        assert!(machine.deadline().is_some_and(|at| at >= Duration::MAX));
    }
}
