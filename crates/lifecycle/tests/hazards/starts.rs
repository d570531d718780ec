//! What a start serves, and what an adopted worker goes on with.

use std::time::Duration;

use handover_lifecycle::{
    Caller, Cause, Effect, Event, GenerationNumber, Message, Notice, OperationKey, Outcome, Pending,
    PendingEnd, Phase, Recovered, Source, WorkerKey,
};

use crate::changes::lets_go;
use crate::server::{RELOAD, Server, has, sends};

/// A start after a supervisor that left generation 5 unconfirmed, to go back to 4.
fn started(left: Duration, unchanged: bool) -> Server {
    let last_generation = GenerationNumber(5);
    let recovered = Recovered { last_generation, keys_from: 100, ..Recovered::default() };
    let mut server = Server::recovered(recovered);
    let pending = Pending { generation: last_generation, back_to: GenerationNumber(4), upgrade: None, left };
    server.tell(Event::Start { operation: OperationKey(0), source: Source::Disk, pending: Some(pending) });
    assert_eq!(server.machine.view().compared_with, Some(last_generation));
    server.start_worker();
    server.prepared(unchanged);
    server
}

#[test]
fn hazard_32_a_start_does_not_serve_what_was_not_confirmed_in_time() {
    let mut server = started(Duration::ZERO, true);
    let before = Source::Generation(GenerationNumber(4));
    assert!(matches!(server.last_message(), Message::Prepare { source, .. } if source == before));
    server.load(false);
    let verdict = server.verdict(0).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::RolledBack, Cause::NotConfirmed));
    assert_eq!((server.serves(), server.machine.view().pending), (Some(4), None));
    assert!(has(&server.said, |effect| *effect == Effect::Notify(Notice::Ready)), "it serves");
}

#[test]
fn a_start_serves_what_was_not_confirmed_for_the_time_that_is_left() {
    let left = Duration::from_secs(60);
    let mut server = started(left, true);
    let intent = |effect: &Effect| {
        matches!(*effect, Effect::WriteIntent { generation: GenerationNumber(6), back_to, confirm, .. }
            if back_to == Some(GenerationNumber(4)) && confirm == Some(left))
    };
    assert!(has(&server.said, intent), "a number of its own, and the same deadline");
    server.journal(true);
    server.committed();
    server.journal(true);
    assert_eq!((server.answered(0), server.serves()), (Some(Outcome::Applied), Some(6)));
    assert_eq!(server.machine.view().pending.map(|pending| pending.until), Some(left));
    server.wait();
    let before = Source::Generation(GenerationNumber(4));
    assert!(matches!(server.last_message(), Message::Prepare { source, .. } if source == before));
}

#[test]
fn a_start_serves_what_is_new_on_the_disk_whatever_was_not_confirmed() {
    let mut server = started(Duration::ZERO, false);
    server.journal(true);
    let effects = server.committed();
    let generation = GenerationNumber(5);
    let replaced = Effect::PendingOver { generation, upgrade: None, how: PendingEnd::Replaced };
    assert!(has(&effects, |effect| *effect == replaced));
    server.journal(true);
    assert_eq!((server.answered(0), server.serves()), (Some(Outcome::Applied), Some(6)));
    assert_eq!(server.machine.view().pending, None);
}

#[test]
fn hazard_32_an_adopted_change_goes_on_waiting_or_goes_back_at_once() {
    let adopted = |left, serves| {
        let mut server = Server::recovered(Recovered { keys_from: 100, ..Recovered::default() });
        let (generation, back_to) = (GenerationNumber(5), GenerationNumber(4));
        let effects = server.tell(Event::Adopted {
            operation: OperationKey(0),
            worker: WorkerKey(7),
            generation: GenerationNumber(serves),
            accepting: true,
            pending: Some(Pending { generation, back_to, upgrade: None, left }),
        });
        (server, effects)
    };
    let (mut server, effects) = adopted(Duration::from_secs(60), 5);
    assert!(!lets_go(&effects) && !has(&effects, |effect| matches!(effect, Effect::Own { .. })));
    server.tell(Event::OutcomeWritten { operation: OperationKey(0) });
    server.wait();
    assert_eq!(server.now, Duration::from_secs(60));
    server.own();
    let (server, effects) = adopted(Duration::ZERO, 5);
    server.own();
    let before = Source::Generation(GenerationNumber(4));
    assert!(sends(
        &effects,
        |message| matches!(message, Message::Prepare { source, .. } if *source == before)
    ));
    // It went back already, only its supervisor did not live to say so.
    let (server, effects) = adopted(Duration::ZERO, 4);
    assert!(lets_go(&effects) && server.machine.view().pending.is_none());
}

#[test]
fn a_start_whose_store_cannot_be_reached_serves_the_last_good_generation() {
    let last_good = Some(GenerationNumber(3));
    let recovered =
        Recovered { last_generation: GenerationNumber(3), keys_from: 100, last_good, ..Recovered::default() };
    let mut server = Server::recovered(recovered);
    server.tell(Event::Start { operation: OperationKey(0), source: Source::Disk, pending: None });
    server.start_worker();
    let (worker, candidate) = (server.worker(), server.candidate());
    server.tell(Event::Rejected { worker, candidate, unreachable: true });
    server.load(false);
    let verdict = server.verdict(0).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::Applied, Cause::Unreachable));
    assert_eq!(server.serves(), Some(3));
    // A reload meanwhile fails, and the good one serves on.
    let (reload, _) = server.ask_as(RELOAD, Caller::Waiting);
    let (worker, candidate) = (server.worker(), server.candidate());
    server.tell(Event::Rejected { worker, candidate, unreachable: true });
    server.journal(true);
    let verdict = server.verdict(reload).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::NotReady, Cause::Unreachable));
    assert_eq!(server.serves(), Some(3));
}

#[test]
fn a_start_without_a_good_generation_ends_when_its_store_cannot_be_reached() {
    let mut server = Server::new();
    server.tell(Event::Start { operation: OperationKey(0), source: Source::Disk, pending: None });
    server.start_worker();
    let (worker, candidate) = (server.worker(), server.candidate());
    let effects = server.tell(Event::Rejected { worker, candidate, unreachable: true });
    assert!(has(&effects, |effect| *effect == Effect::CloseListeners));
    assert_eq!(server.machine.view().phase, Phase::Stopping);
}

#[test]
fn a_start_from_the_journal_serves_that_generation_under_its_number() {
    let recovered =
        Recovered { last_generation: GenerationNumber(9), keys_from: 100, ..Recovered::default() };
    let mut server = Server::recovered(recovered);
    let source = Source::Generation(GenerationNumber(3));
    server.tell(Event::Start { operation: OperationKey(0), source, pending: None });
    server.start_worker();
    server.load(false);
    assert_eq!((server.answered(0), server.serves()), (Some(Outcome::Applied), Some(3)));
    server.ask(RELOAD);
    server.load(false);
    assert_eq!(server.serves(), Some(10));
}
