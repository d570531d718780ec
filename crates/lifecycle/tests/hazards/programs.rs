//! Programs, as far as the machine of the server goes: what is carried, what a reload proves, in which order a stop ends all.

use std::time::Duration;

use handover_lifecycle::{
    Cause, Effect, Event, Exam, Exit, Finding, Kind, Limits, Message, Notice, OperationKey, Outcome, Phase,
    Refusal, Request, StepName, Terms,
};

use crate::server::{RELOAD, STOP, Server, has, sends};

const MINUTE: Duration = Duration::from_secs(60);
const RESTART: Request = Request::Carried { kind: Kind::ProgramRestart, limit: MINUTE };
const RESUME: Request = Request::Carried { kind: Kind::ResumeTraffic, limit: MINUTE };

fn carried(server: &mut Server, operation: u64, outcome: Outcome, cause: Cause) -> Vec<Effect> {
    server.tell(Event::Carried { operation: OperationKey(operation), outcome, cause })
}

fn is_called_off(effects: &[Effect], operation: u64) -> bool {
    has(
        effects,
        |effect| matches!(effect, Effect::CallOffProgram { operation: OperationKey(key) } if *key == operation),
    )
}

/// A reload whose programs differ, up to the exam.
fn examined(server: &mut Server, terms: Terms) -> (u64, Exam, Vec<Effect>) {
    let (reload, _) = server.ask(Request::Reload { dry_run: false, certs_only: false, terms });
    let (worker, candidate) = (server.worker(), server.candidate());
    let programs = Some(MINUTE);
    let effects = server.tell(Event::Prepared { worker, candidate, unchanged: false, programs });
    (reload, Exam::Programs { candidate }, effects)
}

fn finds(server: &mut Server, reload: u64, exam: Exam, finding: Finding) -> Vec<Effect> {
    server.tell(Event::Examined { operation: OperationKey(reload), exam, finding })
}

/// A server with programs that take ten seconds to end.
fn hosting() -> Server {
    let mut server = Server::serving();
    server.machine.set_programs(Some(Duration::from_secs(10)));
    server
}

#[test]
fn what_is_carried_ends_as_it_is_told_and_is_written_before_it_is_answered() {
    for (outcome, cause) in [
        (Outcome::Applied, Cause::Done),
        (Outcome::Sent, Cause::Unproved),
        (Outcome::NotReady, Cause::ProgramNotReady),
        (Outcome::RolledBack, Cause::GuardFailed),
    ] {
        let mut server = Server::serving();
        let (restart, effects) = server.ask(RESTART);
        let operation = OperationKey(restart);
        assert_eq!(effects, [Effect::Started { operation }, Effect::Carry { operation }]);
        assert_eq!(server.machine.view().operation.map(|running| running.kind), Some(Kind::ProgramRestart));
        carried(&mut server, restart, outcome, cause);
        assert_eq!(server.answered(restart), None, "not yet");
        server.journal(true);
        let verdict = server.verdict(restart).unwrap();
        assert_eq!((verdict.outcome, verdict.cause), (outcome, cause));
        assert_eq!(server.serves(), Some(1));
    }
}

#[test]
fn two_deploys_at_once_are_one_and_a_refusal_that_names_it() {
    let mut server = Server::serving();
    let deploy = Request::Carried { kind: Kind::ProgramDeploy, limit: MINUTE };
    let (first, _) = server.ask(deploy);
    for request in [deploy, RELOAD, RESUME] {
        let (second, effects) = server.ask(request);
        let refusal = Refusal::Busy { running: OperationKey(first), kind: Kind::ProgramDeploy };
        assert_eq!(effects, [Effect::Refuse { request: OperationKey(second), refusal }]);
    }
    let (_, effects) = server.hup();
    assert!(has(&effects, |effect| matches!(effect, Effect::Deferred { .. })));
    let told = [Effect::Notify(Notice::Reloading), Effect::Notify(Notice::Ready)];
    assert!(told.iter().all(|notice| effects.contains(notice)), "it may take minutes");
    carried(&mut server, first, Outcome::Applied, Cause::Done);
    let effects = server.journal(true);
    assert!(sends(&effects, |message| matches!(message, Message::Prepare { .. })), "its turn");
}

#[test]
fn nothing_about_programs_begins_while_a_reload_runs_and_a_dead_worker_does_not_keep_it_from_beginning() {
    let mut server = Server::serving();
    let (reload, _) = server.ask(RELOAD);
    let (_, effects) = server.ask(RESTART);
    let refusal = Refusal::Busy { running: OperationKey(reload), kind: Kind::Reload };
    assert!(has(&effects, |effect| matches!(effect, Effect::Refuse { refusal: why, .. } if *why == refusal)));
    server.load(false);
    server.dies();
    let (restart, effects) = server.ask(RESTART);
    assert!(has(&effects, |effect| matches!(effect, Effect::Carry { .. })), "they do not live in it");
    server.wait();
    server.start_worker();
    server.load(true);
    assert_eq!(server.serves(), Some(2), "its worker is replaced meanwhile");
    carried(&mut server, restart, Outcome::Applied, Cause::Done);
    server.journal(true);
    assert_eq!(server.answered(restart), Some(Outcome::Applied));
}

#[test]
fn what_takes_too_long_is_called_off_and_says_itself_how_it_ended() {
    let mut server = Server::serving();
    let (restart, _) = server.ask(RESTART);
    let began = server.now;
    let effects = server.wait();
    assert!(is_called_off(&effects, restart));
    assert_eq!(server.now, began + MINUTE);
    carried(&mut server, restart, Outcome::NotReady, Cause::Overdue);
    server.journal(true);
    assert_eq!(server.answered(restart), Some(Outcome::NotReady));

    let (silent, _) = server.ask(RESTART);
    server.wait();
    let effects = server.wait();
    assert!(!is_called_off(&effects, silent), "once is enough");
    server.journal(true);
    let verdict = server.verdict(silent).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::Unknown, Cause::Overdue));
    let late = carried(&mut server, silent, Outcome::Applied, Cause::Done);
    assert_eq!(late, [], "it was answered");
    let (_, effects) = server.ask(RESTART);
    assert!(has(&effects, |effect| matches!(effect, Effect::Carry { .. })));
}

#[test]
fn a_change_of_the_server_that_awaits_confirmation_and_programs_leave_each_other_alone() {
    let mut server = Server::on_probation();
    let (restart, effects) = server.ask(RESTART);
    assert!(has(&effects, |effect| matches!(effect, Effect::Carry { .. })));
    carried(&mut server, restart, Outcome::Applied, Cause::Done);
    server.journal(true);
    assert_eq!(server.answered(restart), Some(Outcome::Applied));
    assert!(server.machine.view().pending.is_some());
}

#[test]
fn what_is_carried_is_hurried_when_a_change_has_to_go_back() {
    let mut server = Server::on_probation();
    let until = server.machine.view().pending.unwrap().until;
    let (pause, _) =
        server.ask(Request::Carried { kind: Kind::Pause, limit: Duration::from_secs(24 * 60 * 60) });
    server.wait();
    assert_eq!(server.now, until);
    assert!(!is_called_off(&server.said, pause), "it gets a moment");
    let effects = server.wait();
    assert!(is_called_off(&effects, pause));
    assert_eq!(server.now, until + Limits::DEFAULT.call_off);
    carried(&mut server, pause, Outcome::Applied, Cause::NotQuiet);
    server.journal(true);
    server.goes_back();
    assert_eq!(server.serves(), Some(1));
}

#[test]
fn a_reload_whose_programs_are_ready_is_committed_after_they_are() {
    let mut server = hosting();
    let (reload, exam, effects) = examined(&mut server, Terms::NONE);
    let operation = OperationKey(reload);
    assert_eq!(
        effects,
        [Effect::Progress { operation, step: StepName::Ready }, Effect::Examine { operation, exam }]
    );
    let effects = finds(&mut server, reload, exam, Finding::Passed);
    assert!(has(&effects, |effect| matches!(effect, Effect::WriteIntent { .. })));
    server.journal(true);
    server.committed();
    server.journal(true);
    assert_eq!(server.answered(reload), Some(Outcome::Applied));
    assert!(!has(&server.said, |effect| matches!(effect, Effect::CallOff { .. })));
}

#[test]
fn hazard_38_a_reload_whose_programs_do_not_get_ready_changes_nothing() {
    for late in [false, true] {
        let mut server = hosting();
        let (reload, exam, _) = examined(&mut server, Terms::NONE);
        let candidate = server.candidate();
        let effects = if late { server.wait() } else { finds(&mut server, reload, exam, Finding::Failed) };
        let operation = OperationKey(reload);
        assert!(has(&effects, |effect| *effect == Effect::CallOff { operation, exam }));
        assert!(has(&effects, |effect| *effect == Effect::Release { candidate }));
        assert!(sends(&effects, |message| *message == Message::Abort { candidate }));
        server.journal(true);
        let verdict = server.verdict(reload).unwrap();
        assert_eq!((verdict.outcome, verdict.cause), (Outcome::NotReady, Cause::ProgramNotReady));
        assert_eq!(server.serves(), Some(1));
        let stray = finds(&mut server, reload, exam, Finding::Passed);
        assert_eq!(stray, [], "too late");
        let (next, _) = server.ask(RELOAD);
        server.load(false);
        assert_eq!(server.answered(next), Some(Outcome::Applied));
    }
}

#[test]
fn programs_of_a_reload_that_is_given_up_meanwhile_are_ended() {
    let ended = |effects: &[Effect], exam: Exam| {
        has(effects, |effect| matches!(effect, Effect::CallOff { exam: of, .. } if *of == exam))
    };
    let mut server = hosting();
    let (reload, exam, _) = examined(&mut server, Terms::NONE);
    let effects = server.dies();
    assert!(ended(&effects, exam));
    server.journal(true);
    assert_eq!(server.answered(reload), Some(Outcome::NotReady), "its worker died");

    let mut server = hosting();
    let (reload, exam, _) = examined(&mut server, Terms::NONE);
    let (_, effects) = server.ask(STOP);
    assert!(ended(&effects, exam));
    server.journal(true);
    assert_eq!(
        server.verdict(reload).map(|v| (v.outcome, v.cause)),
        Some((Outcome::Rejected, Cause::ShuttingDown))
    );

    // What was proved and then cannot be written down is thrown away with its candidate.
    let mut server = hosting();
    let (reload, exam, _) = examined(&mut server, Terms::NONE);
    finds(&mut server, reload, exam, Finding::Passed);
    let candidate = server.candidate();
    let effects = server.journal(false);
    assert!(has(&effects, |effect| *effect == Effect::Release { candidate }));
}

#[test]
fn nothing_is_proved_when_what_served_is_brought_back_or_nobody_serves() {
    let mut server = Server::on_probation();
    server.machine.set_programs(Some(MINUTE));
    let (cancel, _) = server.ask(Request::Cancel);
    let (worker, candidate) = (server.worker(), server.candidate());
    let programs = Some(MINUTE);
    let effects = server.tell(Event::Prepared { worker, candidate, unchanged: false, programs });
    assert!(sends(&effects, |message| matches!(message, Message::Commit { .. })));
    server.committed();
    server.journal(true);
    assert_eq!(server.answered(cancel), Some(Outcome::Applied));

    let mut server = Server::new();
    let source = handover_lifecycle::Source::Disk;
    server.tell(Event::Start { operation: OperationKey(0), source, pending: None });
    server.start_worker();
    let (worker, candidate) = (server.worker(), server.candidate());
    let effects = server.tell(Event::Prepared { worker, candidate, unchanged: false, programs });
    assert!(has(&effects, |effect| matches!(effect, Effect::WriteIntent { .. })), "a start serves first");
}

#[test]
fn a_stop_ends_connections_then_programs_then_the_worker() {
    let mut server = hosting();
    let (stop, effects) = server.ask(STOP);
    let call = server.call();
    assert!(sends(&effects, |message| matches!(message, Message::Drain { .. })));
    assert!(!has(&effects, |effect| matches!(effect, Effect::StopPrograms { .. })), "they still answer");
    let worker = server.worker();
    let effects = server.tell(Event::Drained { worker, call, clean: true });
    assert!(has(&effects, |effect| *effect == Effect::StopPrograms { limit: Duration::from_secs(10) }));
    assert!(!sends(&effects, |message| matches!(message, Message::Stop { .. })));
    let running = server.machine.view().operation.unwrap();
    assert_eq!((running.kind, running.step), (Kind::Stop, StepName::StopProgram));
    let effects = server.tell(Event::ProgramsStopped { clean: true });
    assert!(sends(&effects, |message| *message == Message::Stop { now: false }));
    server.dies();
    let effects = server.journal(true);
    assert_eq!(server.answered(stop), Some(Outcome::Applied));
    assert!(has(&effects, |effect| *effect == Effect::Exit(Exit::Stopped)));
}

#[test]
fn programs_that_were_killed_in_a_stop_or_do_not_end_are_told() {
    for dead in [true, false] {
        let mut server = hosting();
        let (stop, _) = server.ask(STOP);
        let (worker, call) = (server.worker(), server.call());
        server.tell(Event::Drained { worker, call, clean: true });
        let effects = match dead {
            true => server.tell(Event::ProgramsStopped { clean: false }),
            false => server.wait(),
        };
        assert!(sends(&effects, |message| matches!(message, Message::Stop { .. })));
        server.dies();
        server.journal(true);
        let verdict = server.verdict(stop).unwrap();
        assert_eq!((verdict.outcome, verdict.cause), (Outcome::AppliedWithLosses, Cause::StopForced));
    }
}

#[test]
fn who_says_stop_twice_is_not_left_waiting_for_programs() {
    let mut server = hosting();
    let (_, _) = server.ask(STOP);
    let (worker, call) = (server.worker(), server.call());
    server.tell(Event::Drained { worker, call, clean: true });
    let (_, effects) = server.ask(Request::Stop { now: true, limit: None });
    assert!(has(&effects, |effect| *effect == Effect::StopPrograms { limit: Limits::DEFAULT.stop_now }));

    let mut server = hosting();
    server.ask(Request::Stop { now: true, limit: None });
    let (worker, call) = (server.worker(), server.call());
    let effects = server.tell(Event::Drained { worker, call, clean: true });
    assert!(has(&effects, |effect| *effect == Effect::StopPrograms { limit: Limits::DEFAULT.stop_now }));
}

#[test]
fn a_stop_without_a_worker_ends_programs_all_the_same() {
    let mut server = hosting();
    server.dies();
    let (stop, effects) = server.ask(STOP);
    assert!(has(&effects, |effect| matches!(effect, Effect::StopPrograms { .. })));
    server.tell(Event::ProgramsStopped { clean: true });
    server.journal(true);
    assert_eq!(server.answered(stop), Some(Outcome::Applied));
}

#[test]
fn hazard_37_a_stop_calls_off_what_is_carried_and_waits_for_its_word() {
    let mut server = hosting();
    let (pause, _) = server.ask(Request::Carried { kind: Kind::Pause, limit: MINUTE });
    let (stop, effects) = server.ask(STOP);
    assert!(is_called_off(&effects, pause));
    assert!(has(&effects, |effect| matches!(effect, Effect::Started { operation } if operation.0 == stop)));
    carried(&mut server, pause, Outcome::RolledBack, Cause::ShuttingDown);
    server.journal(true);
    assert_eq!(server.answered(pause), Some(Outcome::RolledBack));

    let mut server = Server::serving();
    let (restart, _) = server.ask(RESTART);
    server.ask(STOP);
    let (worker, call) = (server.worker(), server.call());
    server.tell(Event::Drained { worker, call, clean: true });
    server.dies();
    assert_eq!(server.machine.view().phase, Phase::Stopping, "it is still to say how it ended");
    server.journal(true);
    let begun = server.now;
    while server.answered(restart).is_none() {
        server.wait();
        server.journal(true);
    }
    assert!(server.now <= begun + Limits::DEFAULT.call_off + Limits::DEFAULT.journal);
    assert_eq!(server.answered(restart), Some(Outcome::Unknown));
    assert_eq!(server.machine.view().phase, Phase::Stopped);
}

#[test]
fn hazard_39_resume_works_during_shutdown() {
    let mut server = hosting();
    server.ask(STOP);
    let (resume, _) = server.ask(RESUME);
    server.journal(true);
    assert_eq!(server.answered(resume), Some(Outcome::Unchanged), "nothing is held any more");
    let (_, effects) = server.ask(RESTART);
    assert!(has(&effects, |effect| matches!(effect, Effect::Refuse { refusal: Refusal::Stopping, .. })));
}
