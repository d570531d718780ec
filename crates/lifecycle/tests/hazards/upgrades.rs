//! Upgrades, told as stories: in which order everything is said when it goes well, and what must hold when it does not.

use std::time::Duration;

use handover_lifecycle::{
    Binary, CallKey, Caller, Cause, Effect, Event, Exam, Finding, GenerationNumber, Kind, Limits, Machine,
    Message, OperationKey, Outcome, Recovered, Refusal, Request, Role, Stage, Terms, WorkerKey,
};

use crate::server::{RELOAD, STOP, Server, has, sends};

/// What happens to a server.
pub(crate) type Step = fn(&mut Server);

pub(crate) const OLD: WorkerKey = WorkerKey(0);

pub(crate) const fn upgrade(terms: Terms) -> Request {
    Request::Upgrade { dry_run: false, terms }
}

impl Server {
    /// What was asked for last is found out.
    pub(crate) fn finds(&mut self, finding: Finding) -> Vec<Effect> {
        let asked = self.said.iter().rev().find_map(|effect| match *effect {
            Effect::Examine { operation, exam } => Some((operation, exam)),
            _ => None,
        });
        let (operation, exam) = asked.expect("something is examined");
        self.tell(Event::Examined { operation, exam, finding })
    }

    pub(crate) fn passes(&mut self) -> Vec<Effect> {
        self.finds(Finding::Passed)
    }

    pub(crate) fn of_role(&self, role: Role) -> Option<WorkerKey> {
        self.machine.view().workers.iter().find(|worker| worker.role == role).map(|worker| worker.worker)
    }

    /// Up to a candidate that has been started.
    pub(crate) fn raised(&mut self) {
        self.passes();
        self.passes();
    }

    /// Up to a candidate that stands by.
    pub(crate) fn stands_by(&mut self) {
        self.raised();
        self.start_worker();
        self.prepared(true);
        self.committed();
    }

    /// Up to the handoff.
    pub(crate) fn hands_over(&mut self) -> CallKey {
        self.stands_by();
        self.passes();
        self.journal(true);
        self.handoff().0
    }

    /// The last handoff: its call, from whom, to whom.
    pub(crate) fn handoff(&self) -> (CallKey, WorkerKey, WorkerKey) {
        let handoff = self.said.iter().rev().find_map(|effect| match *effect {
            Effect::HandOver { call, from, to, .. } => Some((call, from, to)),
            _ => None,
        });
        handoff.expect("something was to move")
    }

    pub(crate) fn took_over(&mut self) -> Vec<Effect> {
        let (call, _, worker) = self.handoff();
        self.tell(Event::TookOver { worker, call, clean: true })
    }

    pub(crate) fn handed_over(&mut self) -> Vec<Effect> {
        let (call, worker, _) = self.handoff();
        self.tell(Event::HandedOver { worker, call })
    }

    pub(crate) fn drained(&mut self, clean: bool) -> Vec<Effect> {
        let (call, worker, _) = self.handoff();
        self.tell(Event::Drained { worker, call, clean })
    }

    pub(crate) fn exits(&mut self, worker: WorkerKey) -> Vec<Effect> {
        self.tell(Event::WorkerExited { worker })
    }

    /// From the handoff to the supervisor's turn.
    pub(crate) fn retires(&mut self) {
        let (_, old, _) = self.handoff();
        self.took_over();
        self.handed_over();
        self.drained(true);
        self.exits(old);
    }

    /// The supervisor becomes the new binary.
    pub(crate) fn executes(&mut self) -> Vec<Effect> {
        assert!(matches!(self.said.last(), Some(Effect::Reexec { .. })), "{:?}", self.said.last());
        let saved = self.machine.save();
        let recovered = Recovered { keys_from: 500, ..Recovered::default() };
        self.machine = Machine::resume(Limits::DEFAULT, recovered, saved).unwrap();
        self.now = Duration::ZERO;
        self.tell(Event::Reexecuted)
    }

    /// A whole upgrade.
    pub(crate) fn upgrades(&mut self) -> Outcome {
        let (upgrade, _) = self.ask(upgrade(Terms::NONE));
        self.hands_over();
        self.retires();
        self.passes();
        self.executes();
        self.journal(true);
        self.answered(upgrade).unwrap()
    }

    /// How the candidate's death ends the upgrade, and that everything is possible again.
    pub(crate) fn not_ready(&mut self, upgrade: u64, cause: Cause) {
        if let Some(candidate) = self.of_role(Role::Candidate) {
            assert_eq!(self.answered(upgrade), None, "the outcome waits until it is reaped");
            self.exits(candidate);
        }
        self.journal(true);
        let verdict = self.verdict(upgrade).unwrap();
        assert_eq!((verdict.outcome, verdict.cause), (Outcome::NotReady, cause));
        assert_eq!(verdict.serving, Some(GenerationNumber(1)));
        let forgotten = Effect::Forget { binary: Binary::Candidate };
        assert!(self.said.contains(&forgotten), "nothing of it is kept");
        let touched = self.said.iter().any(|effect| {
            matches!(
                effect,
                Effect::KillWorker { worker: OLD }
                    | Effect::Send { worker: OLD, message: Message::Drain { .. } | Message::Stop { .. } }
            )
        });
        assert!(!touched, "the old one knows of nothing");
        let view = self.machine.view();
        assert_eq!((view.operation, view.workers.len()), (None, 1));
        assert_eq!(self.upgrades(), Outcome::Applied, "the next one succeeds");
    }
}

/// What matters of what was said, in order.
fn order(said: &[Effect]) -> Vec<String> {
    let word = |effect: &Effect| {
        Some(match effect {
            Effect::Examine { exam: Exam::Probe { .. }, .. } => "examine probe".to_owned(),
            Effect::Examine { exam, .. } => format!("examine {exam:?}").to_lowercase(),
            Effect::StartWorker { binary, .. } => format!("start {binary:?}").to_lowercase(),
            Effect::Send { message: Message::Prepare { .. }, .. } => "prepare".to_owned(),
            Effect::Send { message: Message::Commit { accept, .. }, .. } => format!("commit {accept}"),
            Effect::Send { worker, message: Message::Stop { .. } } => format!("stop {worker}"),
            Effect::Send { worker, message: Message::Drain { .. } } => format!("drain {worker}"),
            Effect::Send { worker, message: Message::Resume { .. } } => format!("resume {worker}"),
            Effect::Send { worker, message: Message::Guard { .. } } => format!("guard {worker}"),
            Effect::WriteUpgrade { worker, .. } => format!("intent {worker}"),
            Effect::HandOver { from, to, .. } => format!("hand over from {from} to {to}"),
            Effect::Switch { worker, .. } => format!("switch to {worker}"),
            Effect::Serve { .. } => "serve".to_owned(),
            Effect::Pending { upgrade, .. } => format!("pending {}", upgrade.is_some()),
            Effect::PendingOver { how, .. } => format!("pending over: {how:?}").to_lowercase(),
            Effect::WriteConfirm { .. } => "write confirm".to_owned(),
            Effect::Forget { binary } => format!("forget {binary:?}").to_lowercase(),
            Effect::Reexec { .. } => "exec".to_owned(),
            Effect::KillWorker { worker } => format!("kill {worker}"),
            Effect::WriteOutcome { verdict, .. } => format!("write {}", verdict.outcome),
            Effect::Answer { verdict, .. } => format!("answer {}", verdict.outcome),
            _ => return None,
        })
    };
    said.iter().filter_map(word).collect()
}

pub(crate) fn expect_order(server: &Server, expected: &str) {
    let expected: Vec<_> = expected.split(';').map(|words| words.trim().to_owned()).collect();
    assert_eq!(order(&server.said), expected);
}

#[test]
fn an_upgrade_that_goes_well_is_said_in_this_order() {
    let mut server = Server::serving();
    server.said.clear();
    assert_eq!(server.upgrades(), Outcome::Applied);
    expect_order(
        &server,
        "examine admission; examine preflight; start candidate; prepare; commit false; examine probe;
         intent worker 2; hand over from worker 0 to worker 2; switch to worker 2; serve; stop worker 0;
         forget previous; examine rehearsal; exec; write applied; answer applied",
    );
    assert_eq!(server.serves(), Some(1), "the generation is the same");
    assert_eq!(server.machine.view().workers.len(), 1);
}

#[test]
fn an_upgrade_that_is_called_off_in_the_move_is_said_in_this_order() {
    let mut server = Server::serving();
    server.said.clear();
    let (upgrade, _) = server.ask(upgrade(Terms::NONE));
    let call = server.hands_over();
    server.tell(Event::HandoffFailed { worker: OLD, call });
    assert_eq!(server.answered(upgrade), None);
    server.exits(WorkerKey(2));
    server.journal(true);
    expect_order(
        &server,
        "examine admission; examine preflight; start candidate; prepare; commit false; examine probe;
         intent worker 2; hand over from worker 0 to worker 2; kill worker 2; forget candidate;
         write not_ready; answer not_ready",
    );
    assert_eq!(server.verdict(upgrade).unwrap().cause, Cause::HandoffFailed);
}

#[test]
fn a_dry_run_of_an_upgrade_touches_nothing() {
    let mut server = Server::serving();
    server.said.clear();
    let (check, _) = server.ask(Request::Upgrade { dry_run: true, terms: Terms::NONE });
    server.raised();
    server.start_worker();
    let effects = server.prepared(true);
    assert!(sends(&effects, |message| matches!(message, Message::Abort { .. })));
    server.passes();
    server.exits(WorkerKey(2));
    server.journal(true);
    expect_order(
        &server,
        "examine admission; examine preflight; start candidate; prepare; examine rehearsal; kill worker 2;
         forget candidate; write unchanged; answer unchanged",
    );
    let verdict = server.verdict(check).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::Unchanged, Cause::DryRun));
}

#[test]
fn a_binary_that_a_rule_forbids_is_rejected_and_one_that_is_broken_is_not_ready() {
    let findings = [
        (Finding::Refused, Outcome::Rejected, Cause::BinaryRefused),
        (Finding::Failed, Outcome::NotReady, Cause::BinaryUnfit),
    ];
    for (finding, outcome, cause) in findings {
        let mut server = Server::serving();
        let (upgrade, _) = server.ask(upgrade(Terms::NONE));
        server.finds(finding);
        server.journal(true);
        let verdict = server.verdict(upgrade).unwrap();
        assert_eq!((verdict.outcome, verdict.cause), (outcome, cause));
        assert_eq!(server.upgrades(), Outcome::Applied);
    }
}

#[test]
fn hazard_4_the_old_worker_cannot_answer_the_probe_that_is_meant_for_the_new_one() {
    let mut server = Server::serving();
    let (upgrade, _) = server.ask(upgrade(Terms::NONE));
    server.stands_by();
    let (operation, finding) = (OperationKey(upgrade), Finding::Passed);
    let effects = server.tell(Event::Examined { operation, exam: Exam::Probe { worker: OLD }, finding });
    assert_eq!(effects, [], "it counts for nothing");
    let effects = server.wait();
    assert!(has(&effects, |effect| matches!(effect, Effect::CallOff { exam: Exam::Probe { .. }, .. })));
    server.not_ready(upgrade, Cause::ProbeFailed);
}

#[test]
fn hazard_9_a_failed_spawn_leaves_the_next_upgrade_possible() {
    let mut server = Server::serving();
    let (upgrade, _) = server.ask(upgrade(Terms::NONE));
    server.raised();
    let worker = server.of_role(Role::Candidate).unwrap();
    server.tell(Event::WorkerNotStarted { worker });
    server.not_ready(upgrade, Cause::CandidateDied);
}

#[test]
fn hazard_10_a_candidate_that_hangs_anywhere_is_killed_reaped_and_answered() {
    let hangs: [(Step, Cause); 6] = [
        (|_| {}, Cause::BinaryUnfit),
        (
            |server| {
                server.passes();
            },
            Cause::BinaryUnfit,
        ),
        (Server::raised, Cause::CandidateSilent),
        (
            |server| {
                server.raised();
                server.start_worker();
            },
            Cause::PrepareDeadline,
        ),
        (
            |server| {
                server.raised();
                server.start_worker();
                server.prepared(true);
            },
            Cause::CommitDeadline,
        ),
        (Server::stands_by, Cause::ProbeFailed),
    ];
    for (come_to, cause) in hangs {
        let mut server = Server::serving();
        let (upgrade, _) = server.ask(upgrade(Terms::NONE));
        come_to(&mut server);
        server.wait();
        server.not_ready(upgrade, cause);
    }
}

#[test]
fn hazard_11_a_candidate_that_dies_before_it_has_taken_over_changes_nothing() {
    let deaths: [fn(&mut Server); 3] = [Server::raised, Server::stands_by, |server| {
        server.stands_by();
        server.passes();
    }];
    for come_to in deaths {
        let mut server = Server::serving();
        let (upgrade, _) = server.ask(upgrade(Terms::NONE));
        come_to(&mut server);
        server.dies();
        server.not_ready(upgrade, Cause::CandidateDied);
    }
}

#[test]
fn hazard_11_a_candidate_that_refuses_what_serves_is_not_ready() {
    let mut server = Server::serving();
    let (upgrade, _) = server.ask(upgrade(Terms::NONE));
    server.raised();
    server.start_worker();
    server.rejected();
    server.not_ready(upgrade, Cause::Refused);
}

#[test]
fn hazard_12_dead_workers_are_replaced_from_the_binary_that_serves() {
    let started = |server: &Server| {
        let binaries = server.said.iter().rev().find_map(|effect| match effect {
            Effect::StartWorker { binary, .. } => Some(*binary),
            _ => None,
        });
        binaries.unwrap()
    };
    let mut server = Server::serving();
    let (upgrade, _) = server.ask(upgrade(Terms::NONE));
    server.raised();
    server.exits(OLD);
    server.exits(WorkerKey(2));
    server.journal(true);
    let verdict = server.verdict(upgrade).unwrap();
    assert_eq!((verdict.outcome, verdict.cause), (Outcome::NotReady, Cause::WorkerDied));
    server.wait();
    assert_eq!(started(&server), Binary::Serving);
    server.start_worker();
    server.load(true);
    assert_eq!(server.upgrades(), Outcome::Applied);
    server.dies();
    server.wait();
    assert_eq!(started(&server), Binary::Serving);
}

#[test]
fn hazard_14_during_an_upgrade_everybody_is_told_and_a_signal_is_remembered_through_the_exec() {
    let mut server = Server::serving();
    let (first, _) = server.ask(upgrade(Terms::NONE));
    server.stands_by();
    let (reload, effects) = server.ask(RELOAD);
    let refusal = Refusal::Busy { running: OperationKey(first), kind: Kind::Upgrade };
    assert_eq!(effects, [Effect::Refuse { request: OperationKey(reload), refusal }]);
    let (hup, effects) = server.hup();
    assert!(has(&effects, |effect| *effect == Effect::Deferred { request: OperationKey(hup) }));
    server.passes();
    server.journal(true);
    server.retires();
    server.passes();
    server.executes();
    let effects = server.journal(true);
    assert_eq!(server.answered(first), Some(Outcome::Applied));
    assert!(has(&effects, |effect| *effect == Effect::Started { operation: OperationKey(hup) }));
    server.load(false);
    assert_eq!(server.answered(hup), Some(Outcome::Applied));
    assert_eq!(server.serves(), Some(2));
}

#[test]
fn hazard_14_an_upgrade_during_a_drain_is_refused_and_the_drain_keeps_its_time() {
    let mut server = Server::serving();
    let (drain, _) = server.ask(Request::Drain { limit: Some(Duration::from_secs(20)) });
    let by = server.machine.deadline();
    let (key, effects) = server.ask(upgrade(Terms::NONE));
    let refusal = Refusal::Busy { running: OperationKey(drain), kind: Kind::Drain };
    assert_eq!(effects, [Effect::Refuse { request: OperationKey(key), refusal }]);
    assert_eq!(server.machine.deadline(), by);
    let (worker, call) = (server.worker(), server.call());
    server.tell(Event::Drained { worker, call, clean: true });
    server.journal(true);
    let (key, effects) = server.ask(upgrade(Terms::NONE));
    let refusal = Refusal::Drained;
    assert_eq!(effects, [Effect::Refuse { request: OperationKey(key), refusal }]);
}

#[test]
fn hazard_16_a_stray_signal_is_harmless_at_every_step_of_an_upgrade() {
    let mut server = Server::serving();
    let (first, _) = server.ask(upgrade(Terms::NONE));
    let steps: [fn(&mut Server); 5] = [
        Server::raised,
        |server| {
            server.start_worker();
            server.prepared(true);
            server.committed();
        },
        |server| {
            server.passes();
            server.journal(true);
        },
        Server::retires,
        |server| {
            server.passes();
            server.executes();
        },
    ];
    for step in steps {
        let (key, effects) = server.ask_as(upgrade(Terms::NONE), Caller::Signal);
        assert!(has(&effects, |effect| matches!(effect, Effect::Refuse { request, .. } if request.0 == key)));
        server.hup();
        step(&mut server);
    }
    server.journal(true);
    assert_eq!(server.answered(first), Some(Outcome::Applied));
}

#[test]
fn hazard_37_a_stop_before_the_move_ends_the_upgrade_and_the_server() {
    let steps: [fn(&mut Server); 4] = [
        |_| {},
        Server::raised,
        Server::stands_by,
        |server| {
            server.stands_by();
            server.passes();
        },
    ];
    for come_to in steps {
        let mut server = Server::serving();
        let (first, _) = server.ask(upgrade(Terms::NONE));
        come_to(&mut server);
        let (stop, effects) = server.ask(STOP);
        assert!(!has(&effects, |effect| matches!(effect, Effect::HandOver { .. })));
        if let Some(candidate) = server.of_role(Role::Candidate) {
            assert!(has(&effects, |effect| *effect == Effect::KillWorker { worker: candidate }));
            server.exits(candidate);
        }
        server.ends(first, stop, Outcome::Rejected);
    }
}

impl Server {
    /// The call of this worker's last drain.
    fn drain_of(&self, key: WorkerKey) -> CallKey {
        let told = self.said.iter().rev().find_map(|effect| match *effect {
            Effect::Send { worker, message: Message::Drain { call, .. } } if worker == key => Some(call),
            _ => None,
        });
        told.unwrap_or_else(|| self.handoff().0)
    }

    /// Every worker that is left drains and ends; then the server.
    pub(crate) fn ends(&mut self, upgrade: u64, stop: u64, outcome: Outcome) {
        for _ in 0..4 {
            let workers = self.machine.view().workers;
            let Some(worker) = workers.first().map(|worker| (worker.worker, worker.stage)) else { break };
            if worker.1 == Stage::Draining {
                let call = self.drain_of(worker.0);
                self.tell(Event::Drained { worker: worker.0, call, clean: true });
            }
            self.exits(worker.0);
        }
        for operation in [upgrade, stop] {
            self.tell(Event::OutcomeWritten { operation: OperationKey(operation) });
        }
        assert_eq!(self.answered(upgrade), Some(outcome));
        assert!(self.answered(stop).is_some_and(Outcome::is_success));
        assert!(matches!(self.said.last(), Some(Effect::Exit(_))));
    }
}

#[test]
fn hazard_46_a_second_upgrade_while_the_old_worker_drains_is_told_so() {
    let mut server = Server::serving();
    let (first, _) = server.ask(upgrade(Terms::NONE));
    server.hands_over();
    server.took_over();
    server.handed_over();
    for caller in [Caller::Waiting, Caller::Signal] {
        let (second, effects) = server.ask_as(upgrade(Terms::NONE), caller);
        let refusal = Refusal::Busy { running: OperationKey(first), kind: Kind::Upgrade };
        assert_eq!(effects, [Effect::Refuse { request: OperationKey(second), refusal }]);
    }
    let shortened =
        sends(&server.said, |message| matches!(message, Message::Drain { .. } | Message::Stop { .. }));
    assert!(!shortened, "the old one keeps its full time");
}

#[test]
fn a_full_disk_refuses_an_upgrade_before_anything_moves() {
    let mut server = Server::serving();
    let (upgrade, _) = server.ask(upgrade(Terms::NONE));
    server.stands_by();
    server.passes();
    let effects = server.journal(false);
    assert!(!has(&effects, |effect| matches!(effect, Effect::HandOver { .. })));
    server.not_ready(upgrade, Cause::JournalFailed);
}

#[test]
fn a_supervisor_that_cannot_become_the_new_binary_goes_on_and_says_so() {
    let fails: [fn(&mut Server, OperationKey); 4] = [
        |server, _| {
            server.finds(Finding::Failed);
        },
        |server, _| {
            server.wait();
        },
        |server, operation| {
            server.passes();
            server.tell(Event::ReexecFailed { operation });
        },
        |server, _| {
            server.passes();
            server.wait();
        },
    ];
    for fail in fails {
        let mut server = Server::serving();
        let (upgrade, _) = server.ask(upgrade(Terms::NONE));
        server.hands_over();
        server.retires();
        fail(&mut server, OperationKey(upgrade));
        server.journal(true);
        let verdict = server.verdict(upgrade).unwrap();
        assert_eq!((verdict.outcome, verdict.cause), (Outcome::Applied, Cause::NotReexecuted));
        assert_eq!(server.upgrades(), Outcome::Applied);
    }
}

#[test]
fn the_supervisor_waits_until_every_outcome_is_written_and_the_worker_is_at_rest() {
    let mut server = Server::serving();
    server.ask(upgrade(Terms::NONE));
    server.hands_over();
    server.retires();
    let worker = server.of_role(Role::Serving).unwrap();
    server.exits(worker);
    let effects = server.passes();
    assert!(!has(&effects, |effect| matches!(effect, Effect::Reexec { .. })), "nobody serves");
    server.wait();
    server.start_worker();
    server.prepared(true);
    let effects = server.committed();
    assert!(has(&effects, |effect| matches!(effect, Effect::Reexec { .. })));
    server.executes();
    server.journal(true);
    assert_eq!(server.verdict(1).map(|verdict| verdict.outcome), Some(Outcome::AppliedWithLosses));
}
