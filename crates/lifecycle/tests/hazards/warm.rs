//! Upgrades that await confirmation or are guarded, and how they are taken back.

use std::time::Duration;

use handover_lifecycle::{
    Binary, Cause, Effect, Event, Exam, Finding, GenerationNumber, Kind, Machine, Message, OperationKey,
    Outcome, Pending, PendingEnd, Phase, Recovered, Refusal, Request, Role, Saved, Source, Stage, Terms,
    Unfinished, WorkerKey,
};

use crate::server::{RELOAD, Server, TEN_MINUTES, has, sends};
use crate::upgrades::{OLD, expect_order, upgrade};

const NEW: WorkerKey = WorkerKey(2);

const WITHIN: Terms = Terms { confirm: Some(TEN_MINUTES), guard: None };

const WATCHED: Terms = Terms { confirm: None, guard: Some(Duration::from_secs(60)) };

impl Server {
    /// One whose upgrade awaits confirmation for ten minutes.
    fn upgraded() -> (Self, u64) {
        let mut server = Self::serving();
        server.said.clear();
        let (key, _) = server.ask(upgrade(WITHIN));
        server.hands_over();
        server.took_over();
        server.handed_over();
        assert_eq!(server.answered(key), None, "the old one still has connections");
        server.drained(true);
        server.journal(true);
        assert_eq!(server.answered(key), Some(Outcome::Applied));
        (server, key)
    }

    /// Everything moves back, and the new worker is ended.
    fn moves_back(&mut self) {
        let (_, from, to) = self.handoff();
        assert_eq!((from, self.of_role(Role::Serving)), (NEW, Some(NEW)));
        self.handed_over();
        self.took_over();
        assert_eq!(self.of_role(Role::Serving), Some(to));
        self.drained(true);
        self.exits(NEW);
        self.journal(true);
    }
}

#[test]
fn an_upgrade_that_is_confirmed_is_said_in_this_order() {
    let (mut server, _) = Server::upgraded();
    let warm = server.machine.view().workers.iter().find(|worker| worker.role == Role::Warm).copied();
    assert_eq!(warm.map(|warm| (warm.worker, warm.stage)), Some((OLD, Stage::StandingBy)));
    let (confirm, _) = server.ask(Request::Confirm);
    server.journal(true);
    server.exits(OLD);
    server.passes();
    server.executes();
    server.journal(true);
    assert_eq!(server.answered(confirm), Some(Outcome::Applied));
    expect_order(
        &server,
        "examine admission; examine preflight; start candidate; prepare; commit false; examine probe;
         intent worker 2; hand over from worker 0 to worker 2; switch to worker 2; serve; pending true;
         write applied; answer applied; write confirm; pending over: confirmed; stop worker 0;
         forget previous; examine rehearsal; exec; write applied; answer applied",
    );
}

#[test]
fn an_upgrade_that_is_cancelled_is_said_in_this_order() {
    let (mut server, _) = Server::upgraded();
    server.said.clear();
    let (cancel, _) = server.ask(Request::Cancel);
    server.moves_back();
    assert_eq!(server.answered(cancel), Some(Outcome::Applied));
    expect_order(
        &server,
        "hand over from worker 2 to worker 0; switch to worker 0; pending over: cancelled; stop worker 2;
         forget previous; write applied; answer applied",
    );
    assert_eq!(server.machine.view().pending, None);
}

#[test]
fn an_upgrade_that_nobody_confirms_in_time_is_taken_back_connections_too() {
    let (mut server, _) = Server::upgraded();
    server.wait();
    let own = server.own();
    // The operator is late, and asks for the same.
    let (_, effects) = server.ask(Request::Cancel);
    assert!(matches!(effects[..], [Effect::Refuse { refusal: Refusal::Busy { .. }, .. }]));
    server.moves_back();
    let verdict = server.verdict(own).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::RolledBack, Cause::NotConfirmed));
    assert_eq!(server.upgrades(), Outcome::Applied);
}

#[test]
fn the_time_that_ends_while_somebody_cancels_begins_nothing_more() {
    let (mut server, _) = Server::upgraded();
    let until = server.machine.view().pending.unwrap().until;
    server.ask(Request::Cancel);
    server.now = until;
    let effects = server.tell(Event::Tick);
    assert!(!has(&effects, |effect| matches!(effect, Effect::Own { .. })));
}

#[test]
fn a_guard_that_finds_fault_takes_the_upgrade_back_within_it() {
    let mut server = Server::serving();
    server.said.clear();
    let (key, _) = server.ask(upgrade(WATCHED));
    server.hands_over();
    server.took_over();
    server.handed_over();
    let call = server.call();
    server.drained(true);
    server.tell(Event::GuardEnded { worker: NEW, call, passed: false });
    server.moves_back();
    let verdict = server.verdict(key).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::RolledBack, Cause::GuardFailed));
    expect_order(
        &server,
        "examine admission; examine preflight; start candidate; prepare; commit false; examine probe;
         intent worker 2; hand over from worker 0 to worker 2; switch to worker 2; serve; guard worker 2;
         hand over from worker 2 to worker 0; switch to worker 0; stop worker 2; forget previous;
         write rolled_back; answer rolled_back",
    );
}

#[test]
fn last_connections_of_the_old_worker_get_their_chance_before_it_takes_over_again() {
    let mut server = Server::serving();
    let (key, _) = server.ask(upgrade(WATCHED));
    let first = server.hands_over();
    server.took_over();
    server.handed_over();
    let call = server.call();
    let effects = server.tell(Event::GuardEnded { worker: NEW, call, passed: false });
    assert!(!has(&effects, |effect| matches!(effect, Effect::HandOver { .. })), "it has connections");
    let effects = server.wait();
    let cut = Message::Drain { call: first, limit: Duration::ZERO };
    assert!(sends(&effects, |message| *message == cut), "for so long, and no longer");
    let effects = server.tell(Event::Drained { worker: OLD, call: first, clean: false });
    assert!(has(&effects, |effect| matches!(effect, Effect::HandOver { from: NEW, to: OLD, .. })));
    server.moves_back();
    assert_eq!(server.answered(key), Some(Outcome::RolledBack));
}

#[test]
fn hazard_45_when_the_new_worker_dies_on_probation_the_warm_one_serves_at_once() {
    let (mut server, _) = Server::upgraded();
    let effects = server.exits(NEW);
    assert!(has(&effects, |effect| matches!(effect, Effect::Switch { worker: OLD, .. })));
    assert!(sends(&effects, |message| matches!(message, Message::Resume { .. })));
    assert!(!has(&effects, |effect| matches!(effect, Effect::StartWorker { .. })));
    let (call, own) = (server.call(), server.own());
    server.tell(Event::Resumed { worker: OLD, call });
    server.journal(true);
    let verdict = server.verdict(own).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::RolledBack, Cause::WorkerDied));
    let over = PendingEnd::WorkersDied;
    assert!(has(&server.said, |effect| matches!(effect, Effect::PendingOver { how, .. } if *how == over)));
}

#[test]
fn when_the_warm_worker_is_dead_another_one_of_the_binary_before_takes_over() {
    let (mut server, _) = Server::upgraded();
    server.exits(OLD);
    assert_eq!(server.serves(), Some(1), "nothing else follows from that");
    server.said.clear();
    let (cancel, _) = server.ask(Request::Cancel);
    server.start_worker();
    server.prepared(true);
    server.committed();
    server.passes();
    server.moves_back();
    assert_eq!(server.answered(cancel), Some(Outcome::Applied));
    let another = server.of_role(Role::Serving).unwrap();
    expect_order(
        &server,
        &format!(
            "start previous; prepare; commit false; examine probe; hand over from worker 2 to {another};
             switch to {another}; serve; pending over: cancelled; stop worker 2; forget previous;
             write applied; answer applied"
        ),
    );
}

#[test]
fn when_nothing_of_the_binary_before_can_be_made_to_serve_the_new_worker_serves_on_and_stays() {
    for cancelled in [true, false] {
        let (mut server, _) = Server::upgraded();
        server.exits(OLD);
        server.said.clear();
        let operation = match cancelled {
            true => server.ask(Request::Cancel).0,
            false => {
                server.wait();
                server.own()
            }
        };
        let raised = server.of_role(Role::Candidate).unwrap();
        server.exits(raised);
        server.journal(true);
        let verdict = server.verdict(operation).unwrap();
        let (outcome, serving) = (Outcome::NotReady, Some(GenerationNumber(1)));
        assert_eq!((verdict.outcome, verdict.cause), (outcome, Cause::CandidateDied));
        assert_eq!((verdict.serving, server.of_role(Role::Serving)), (serving, Some(NEW)));
        expect_order(
            &server,
            "start previous; pending over: notpossible; forget previous; write not_ready; answer not_ready",
        );
        // Nothing awaits confirmation: a good binary is let in, and nobody goes back any more.
        assert_eq!(server.machine.view().pending, None);
        let (again, _) = server.ask(upgrade(Terms::NONE));
        assert_eq!(server.answered(again), None, "it runs");
        assert!(!has(&server.said, |effect| *effect == Effect::KillWorker { worker: NEW }));
    }
}

#[test]
fn an_upgrade_that_its_guard_would_take_back_stays_if_nothing_else_can_serve() {
    let mut server = Server::serving();
    let terms = Terms { confirm: Some(TEN_MINUTES), guard: WATCHED.guard };
    let (key, _) = server.ask(upgrade(terms));
    server.hands_over();
    server.took_over();
    server.handed_over();
    let call = server.call();
    server.drained(true);
    server.exits(OLD);
    server.said.clear();
    server.tell(Event::GuardEnded { worker: NEW, call, passed: false });
    server.start_worker();
    server.prepared(true);
    server.committed();
    let raised = server.of_role(Role::Candidate).unwrap();
    let operation = OperationKey(key);
    let (exam, finding) = (Exam::Probe { worker: raised }, Finding::Failed);
    server.tell(Event::Examined { operation, exam, finding });
    assert_eq!(server.verdict(key), None, "what was tried is reaped first");
    server.exits(raised);
    server.journal(true);
    let verdict = server.verdict(key).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::AppliedWithLosses, Cause::NotTakenBack));
    assert_eq!(server.of_role(Role::Serving), Some(NEW));
    // The journal has known from the start that it was to await confirmation.
    expect_order(
        &server,
        &format!(
            "start previous; prepare; commit false; examine probe; pending over: notpossible; kill {raised};
             forget previous; write applied_with_losses; answer applied_with_losses"
        ),
    );
}

#[test]
fn when_the_new_worker_is_dead_too_the_binary_before_is_tried_until_it_serves() {
    let (mut server, _) = Server::upgraded();
    server.exits(OLD);
    server.wait();
    let own = server.own();
    let raised = server.of_role(Role::Candidate).unwrap();
    server.exits(NEW);
    assert!(has(&server.said, |effect| *effect == Effect::KillWorker { worker: raised }));
    let effects = server.exits(raised);
    assert!(has(&effects, |effect| matches!(effect, Effect::StartWorker { binary: Binary::Previous, .. })));
    server.start_worker();
    server.prepared(true);
    let effects = server.committed();
    assert!(has(&effects, |effect| matches!(effect, Effect::Switch { .. })));
    server.journal(true);
    assert_eq!(server.answered(own), Some(Outcome::RolledBack));
}

#[test]
fn while_an_upgrade_awaits_confirmation_changes_are_refused_and_its_deadline_can_be_moved() {
    let (mut server, _) = Server::upgraded();
    let pending = |refusal: &Refusal| matches!(refusal, Refusal::Pending { upgrade: true, .. });
    for request in [RELOAD, upgrade(Terms::NONE), upgrade(WITHIN)] {
        let (_, effects) = server.ask(request);
        assert!(has(&effects, |effect| matches!(effect, Effect::Refuse { refusal, .. } if pending(refusal))));
    }
    server.now += Duration::from_secs(60);
    let (more, _) = server.ask(Request::Reload { dry_run: false, certs_only: false, terms: WITHIN });
    let (worker, candidate) = (NEW, server.candidate());
    server.tell(Event::Prepared { worker, candidate, unchanged: true, programs: None });
    let (operation, generation) = (OperationKey(more), GenerationNumber(1));
    server.tell(Event::IntentWritten { operation, generation });
    server.journal(true);
    assert_eq!(server.verdict(more).map(|verdict| verdict.cause), Some(Cause::Extended));
    assert_eq!(server.machine.view().pending.map(|pending| pending.until), Some(server.now + TEN_MINUTES));
}

#[test]
fn a_drained_server_goes_back_without_serving() {
    let (mut server, _) = Server::upgraded();
    server.ask(Request::Drain { limit: None });
    let call = server.call();
    server.tell(Event::Drained { worker: NEW, call, clean: true });
    server.journal(true);
    let (cancel, effects) = server.ask(Request::Cancel);
    assert!(has(&effects, |effect| *effect == Effect::KillWorker { worker: NEW }));
    server.exits(NEW);
    server.journal(true);
    assert_eq!(server.answered(cancel), Some(Outcome::Applied));
    assert!(!sends(&server.said, |message| matches!(message, Message::Resume { .. })));
    assert_eq!((server.machine.view().phase, server.of_role(Role::Serving)), (Phase::Drained, Some(OLD)));
    let (resume, _) = server.ask(Request::Resume);
    let call = server.call();
    server.tell(Event::Resumed { worker: OLD, call });
    server.journal(true);
    assert_eq!(server.answered(resume), Some(Outcome::Applied));
}

#[test]
fn a_confirmation_during_the_guard_makes_the_upgrade_final() {
    let mut server = Server::serving();
    let (key, _) = server.ask(upgrade(WATCHED));
    server.hands_over();
    server.took_over();
    server.handed_over();
    let (confirm, effects) = server.ask(Request::Confirm);
    assert!(sends(&effects, |message| matches!(message, Message::EndGuard { passed: true, .. })));
    server.journal(true);
    assert_eq!(server.answered(confirm), Some(Outcome::Applied));
    server.drained(true);
    server.exits(OLD);
    server.passes();
    server.executes();
    server.journal(true);
    assert_eq!(server.answered(key), Some(Outcome::Applied));
}

#[test]
fn the_next_supervisor_goes_on_counting_and_goes_back_by_the_kept_binary() {
    let upgraded = |worker, upgrade| {
        let mut server = Server::new();
        let generation = GenerationNumber(4);
        let (left, upgrade) = (Duration::from_secs(30), Some(WorkerKey(upgrade)));
        let pending = Some(Pending { generation, back_to: generation, upgrade, left });
        let (operation, worker) = (OperationKey(0), WorkerKey(worker));
        server.tell(Event::Adopted { operation, worker, generation, accepting: true, pending });
        server.journal(true);
        server
    };
    let mut server = upgraded(7, 7);
    assert_eq!(server.machine.view().pending.map(|pending| pending.until), Some(Duration::from_secs(30)));
    let effects = server.wait();
    assert!(has(&effects, |effect| matches!(effect, Effect::StartWorker { binary: Binary::Previous, .. })));
    // Another worker serves than the one that took over: it was taken back, or has died.
    let server = upgraded(5, 7);
    assert_eq!(server.machine.view().pending, None);
    let over = |effect: &Effect| matches!(effect, Effect::PendingOver { how: PendingEnd::Replaced, .. });
    assert!(has(&server.said, over));
}

#[test]
fn a_confirmation_in_the_life_of_the_next_supervisor_needs_no_exec() {
    let mut server = Server::new();
    let (operation, worker, generation) = (OperationKey(0), WorkerKey(7), GenerationNumber(4));
    let (left, upgrade) = (Duration::from_secs(30), Some(worker));
    let pending = Some(Pending { generation, back_to: generation, upgrade, left });
    server.tell(Event::Adopted { operation, worker, generation, accepting: true, pending });
    server.journal(true);
    let (confirm, _) = server.ask(Request::Confirm);
    server.journal(true);
    server.journal(true);
    assert_eq!(server.answered(confirm), Some(Outcome::Applied));
    assert!(!has(&server.said, |effect| matches!(effect, Effect::Examine { .. } | Effect::Reexec { .. })));
}

#[test]
fn the_worker_that_lives_tells_how_an_unfinished_upgrade_ended() {
    let verdict = |kind, intent: bool, adopted: Option<u64>| {
        let (operation, generation) = (OperationKey(9), GenerationNumber(3));
        let intent = intent.then_some(generation);
        let unfinished = Unfinished { operation, kind, intent, upgrade: intent.map(|_| WorkerKey(20)) };
        unfinished.verdict(adopted.map(|worker| (WorkerKey(worker), generation))).outcome
    };
    assert_eq!(verdict(Kind::Upgrade, false, Some(10)), Outcome::NotReady, "nothing was to move yet");
    assert_eq!(verdict(Kind::Upgrade, false, None), Outcome::NotReady);
    assert_eq!(verdict(Kind::Upgrade, true, Some(10)), Outcome::NotReady, "the old one serves");
    assert_eq!(verdict(Kind::Upgrade, true, Some(20)), Outcome::Applied);
    assert_eq!(verdict(Kind::Upgrade, true, Some(30)), Outcome::Unknown, "of which binary is it?");
    assert_eq!(verdict(Kind::Upgrade, true, None), Outcome::Unknown);
    assert_eq!(verdict(Kind::Cancel, true, Some(10)), Outcome::Applied, "it is taken back");
    assert_eq!(verdict(Kind::Cancel, true, Some(20)), Outcome::NotReady);
    assert_eq!(verdict(Kind::Rollback, true, Some(30)), Outcome::Applied, "another one of the binary before");
    assert_eq!(verdict(Kind::Confirm, true, Some(20)), Outcome::Applied);
}

/// As a supervisor of this version writes it; later ones must read it.
const WRITTEN: &str = r#"{
    "operation": {"key": 3, "kind": "upgrade", "outcome": "applied_with_losses", "cause": "worker_died"},
    "worker": {"key": 1012, "drained": false, "served_ms": 250},
    "held_to": 7,
    "last_generation": 9,
    "next_key": 1020,
    "deferred": {"operation": 4, "certs_only": true, "confirm": null, "guard": null},
    "restarts": 2,
    "failures": 1
}"#;

#[test]
fn what_an_earlier_version_has_saved_is_gone_on_with() {
    let saved: Saved = serde_json::from_str(WRITTEN).unwrap();
    let limits = handover_lifecycle::Limits::DEFAULT;
    let recovered = Recovered { last_generation: GenerationNumber(9), keys_from: 5, ..Recovered::default() };
    let mut machine = Machine::resume(limits, recovered, saved).unwrap();
    let effects = machine.step(Duration::ZERO, Event::Reexecuted);
    let ended = |effect: &Effect| {
        matches!(effect, Effect::WriteOutcome { operation: OperationKey(3), verdict }
            if (verdict.outcome, verdict.cause) == (Outcome::AppliedWithLosses, Cause::WorkerDied)
                && verdict.serving == Some(GenerationNumber(7)))
    };
    assert!(has(&effects, ended));
    let effects = machine.step(Duration::ZERO, Event::OutcomeWritten { operation: OperationKey(3) });
    let prepares = |message: &Message| {
        matches!(message, Message::Prepare { generation, source, certs_only: true, .. }
            if *generation == GenerationNumber(10) && *source == Source::Disk)
    };
    assert!(sends(&effects, prepares), "the remembered reload runs, under the next number");
    assert_eq!(machine.view().restarts, 2);
}

#[test]
fn a_saved_state_of_another_version_is_read_as_far_as_it_goes() {
    let worker = r#""worker": {"key": 5, "more": [1, 2]}, "held_to": 2"#;
    let more = format!(r#"{{"operation": {{"key": 1}}, {worker}, "something": {{"new": true}}}}"#);
    let limits = handover_lifecycle::Limits::DEFAULT;
    let resume = |text: &str| {
        let saved: Saved = serde_json::from_str(text).unwrap();
        Machine::resume(limits, Recovered::default(), saved)
    };
    assert!(resume(&more).is_ok());
    assert_eq!(resume("{}").unwrap_err().to_string(), "the saved state names no operation that is to go on");
    assert!(resume(&format!("{{{worker}}}")).is_err());
    assert!(resume(r#"{"operation": {}, "held_to": 2}"#).is_err());
    assert!(resume(r#"{"operation": {}, "worker": {}}"#).is_err());
}
