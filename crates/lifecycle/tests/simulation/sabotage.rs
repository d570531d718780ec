//! Deliberate mistakes between the machine and the world, one for each rule: a check that does not
//! notice them checks nothing.

use std::time::Duration;

use handover_lifecycle::{
    Binary, CallKey, CandidateKey, Effect, Event, Exam, Kind, Message, OperationKey, Pending, PendingEnd,
    Refusal, StepName, WorkerKey,
};

use crate::ops::State;
use crate::world::World;

/// Which rule is broken, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// 1: throwing away a candidate closes the serving listeners as well.
    ReleasesTooMuch,
    /// 2: nobody is told "busy".
    SaysNothingWhenBusy,
    /// 3: answers without waiting for the journal.
    AnswersBeforeWriting,
    /// 3: forgets to answer.
    NeverAnswers,
    /// 4: a dry run is committed.
    CommitsDryRuns,
    /// 4: a refused configuration has its worker killed.
    KillsTheServingWorker,
    /// 5: lets go of the old listeners when the commit is sent, not when it is confirmed.
    LetsGoTooEarly,
    /// 6: reports the wanted generation as serving although no worker lives.
    ReportsWhatShouldServe,
    /// 6: the generation before comes back under another number.
    GoesBackUnderAnotherNumber,
    /// 7: as soon as the time is over, the listeners of the generation before are closed.
    ReleasesWhenTimeIsOver,
    /// 7: what serves under guard or on probation is taken as final.
    LetsGoWhileUndecided,
    /// 8: the next supervisor takes what it adopts as confirmed.
    AdoptsAsConfirmed,
    /// 8: a start serves from the disk what was not confirmed in time.
    StartsWhatWasNotConfirmed,
    /// 8: an upgrade that could be taken back is said to have to stay.
    GivesUpGoingBack,
    /// 9: a confirmation leaves the deadline as it is.
    ConfirmLeavesTheDeadline,
    /// 9: the verdict of an earlier guard counts for this one.
    TakesTheVerdictOfAnotherGuard,
    /// 3: a worker takes over although the journal could not be told.
    HandsOverUnrecorded,
    /// 3: what a signal asked for is forgotten on the way into another binary.
    ForgetsWhatWasDeferred,
    /// 5: a worker counts as serving when it is told to take over, not when it has.
    SwitchesTooEarly,
    /// 5: the word of the one that hands over is taken for that of the one that takes over.
    BelievesTheGiver,
    /// 5: the old worker is sent away when it is told to hand over.
    StopsTheOldOneTooEarly,
    /// 7: the binary before is forgotten while the upgrade awaits confirmation.
    ForgetsTheBinaryBefore,
    /// 10: a candidate accepts as soon as it has what serves.
    AcceptsBesideTheOther,
    /// 10: the old worker is told to resume when the new one is killed, not when it is dead.
    ResumesBeforeTheOtherIsDead,
    /// 11: the supervisor becomes the new binary as soon as the new worker serves.
    ReexecutesTooEarly,
    /// 12: a candidate is committed although its programs are not proved.
    CommitsWhatIsNotProved,
    /// 12: the programs of a candidate that is thrown away go on.
    LeavesWhatWasProved,
    /// 12: programs are asked to stop when connections are.
    StopsProgramsTooEarly,
    /// 12: the worker is told to end when programs are.
    StopsTheWorkerBeforePrograms,
}

impl World {
    /// The event as the machine gets it.
    pub(crate) fn spoil_event(&self, event: Event) -> Event {
        match (self.sabotage, event) {
            (
                Some(Sabotage::AdoptsAsConfirmed),
                Event::Adopted { operation, worker, generation, accepting, .. },
            ) => Event::Adopted { operation, worker, generation, accepting, pending: None },
            (
                Some(Sabotage::StartsWhatWasNotConfirmed),
                Event::Start { operation, source, pending: Some(pending) },
            ) => {
                let pending = Some(Pending { left: pending.left + Duration::from_secs(100), ..pending });
                Event::Start { operation, source, pending }
            }
            (Some(Sabotage::TakesTheVerdictOfAnotherGuard), Event::GuardEnded { worker, passed, .. }) => {
                let open = self.tally.guards.last().filter(|guard| guard.open);
                match open {
                    Some(guard) => Event::GuardEnded { worker, call: guard.call, passed },
                    None => event,
                }
            }
            (Some(Sabotage::HandsOverUnrecorded), Event::IntentFailed { operation, generation })
                if self.ops.iter().any(|op| op.key == operation && op.kind == Kind::Upgrade) =>
            {
                Event::IntentWritten { operation, generation }
            }
            (Some(Sabotage::BelievesTheGiver), Event::HandedOver { call, .. }) => {
                let to = self.driver.as_ref().and_then(|driver| driver.view.handing_over);
                to.map_or(event, |(_, worker)| Event::TookOver { worker, call, clean: true })
            }
            _ => event,
        }
    }

    /// A confirmation is written; the machine that goes on has not heard of it.
    pub(crate) fn spoil_machine(&mut self, now: Duration, event: Event) -> Option<Vec<Effect>> {
        let (Some(Sabotage::ConfirmLeavesTheDeadline), Event::IntentWritten { operation, generation }) =
            (self.sabotage, event)
        else {
            return None;
        };
        let confirms = self.ops.iter().any(|op| op.key == operation && op.kind == Kind::Confirm);
        let driver = self.driver.as_mut().filter(|_| confirms)?;
        let mut deaf = driver.machine.clone();
        let _ = deaf.step(now, Event::IntentFailed { operation, generation });
        let effects = driver.machine.step(now, event);
        driver.machine = deaf;
        self.tally.deaf = true;
        Some(effects)
    }

    /// The effects as the world gets them.
    pub(crate) fn spoil(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let Some(sabotage) = self.sabotage else { return effects };
        if sabotage == Sabotage::ReportsWhatShouldServe {
            if let Some(driver) = &mut self.driver
                && driver.view.serving.is_none()
                && driver.view.committing.is_none()
            {
                driver.view.serving = driver.view.held_to;
            }
            return effects;
        }
        if let (true, Some(driver)) = (self.tally.deaf, &mut self.driver) {
            driver.view.pending = None;
        }
        let mut spoilt = Vec::new();
        for effect in effects {
            self.spoil_one(sabotage, effect, &mut spoilt);
        }
        spoilt
    }

    fn spoil_one(&mut self, sabotage: Sabotage, effect: Effect, spoilt: &mut Vec<Effect>) {
        match (sabotage, effect) {
            (Sabotage::ReleasesWhenTimeIsOver, Effect::Own { .. })
            | (Sabotage::LetsGoWhileUndecided, Effect::Notify(_)) => spoilt.extend([Effect::LetGo, effect]),
            (Sabotage::ReleasesTooMuch, Effect::Release { .. }) => {
                if let Some(driver) = &mut self.driver {
                    driver.held = 0;
                }
                spoilt.push(effect);
            }
            (Sabotage::SaysNothingWhenBusy, Effect::Refuse { refusal: Refusal::Busy { .. }, .. })
            | (Sabotage::NeverAnswers, Effect::Answer { .. }) => {}
            (Sabotage::AnswersBeforeWriting, Effect::WriteOutcome { operation, verdict }) => {
                spoilt.extend([effect, Effect::Answer { operation, verdict, recorded: true }]);
            }
            (Sabotage::ConfirmLeavesTheDeadline, Effect::Answer { operation, recorded, .. }) => {
                let decided = self.ops.iter().find(|op| op.key == operation).map(|op| op.state);
                spoilt.push(match decided {
                    Some(State::Decided(verdict)) => Effect::Answer { operation, verdict, recorded },
                    _ => effect,
                });
            }
            (Sabotage::GivesUpGoingBack, Effect::PendingOver { generation, upgrade: Some(upgrade), .. }) => {
                let (upgrade, how) = (Some(upgrade), PendingEnd::NotPossible);
                spoilt.push(Effect::PendingOver { generation, upgrade, how });
            }
            (
                Sabotage::CommitsWhatIsNotProved,
                Effect::Examine { exam: Exam::Programs { candidate }, .. },
            ) => {
                spoilt.push(effect);
                let worker = self.workers.iter().find(|w| w.candidate.is_some_and(|c| c.key == candidate));
                let message = Message::Commit { candidate, accept: true };
                spoilt.extend(worker.map(|worker| Effect::Send { worker: worker.key, message }));
            }
            (Sabotage::StopsTheWorkerBeforePrograms, Effect::StopPrograms { .. }) => {
                spoilt.push(effect);
                let message = Message::Stop { now: false };
                let main = self.workers.iter().find(|worker| worker.is_the_one());
                spoilt.extend(main.map(|worker| Effect::Send { worker: worker.key, message }));
            }
            (Sabotage::StopsProgramsTooEarly, Effect::CloseListeners) => {
                spoilt.extend([effect, Effect::StopPrograms { limit: Duration::from_secs(5) }]);
            }
            (_, Effect::HandOver { .. } | Effect::Switch { .. } | Effect::KillWorker { .. })
            | (Sabotage::ForgetsTheBinaryBefore, Effect::Pending { upgrade: Some(_), .. }) => {
                spoilt.push(effect);
                spoilt.extend(self.spoil_upgrade(sabotage, effect));
            }
            (_, Effect::Send { worker, message }) => self.spoil_message(sabotage, worker, message, spoilt),
            _ => spoilt.push(effect),
        }
    }

    /// The message as the worker gets it, with what stands before and after it.
    fn spoil_message(
        &self,
        sabotage: Sabotage,
        worker: WorkerKey,
        message: Message,
        spoilt: &mut Vec<Effect>,
    ) {
        let said = Effect::Send { worker, message };
        match (sabotage, message) {
            (
                Sabotage::GoesBackUnderAnotherNumber,
                Message::Prepare { candidate, generation, source, .. },
            ) if self.is_going_back() => {
                let generation = generation.next();
                let (dry_run, certs_only) = (false, false);
                let message = Message::Prepare { candidate, generation, source, dry_run, certs_only };
                spoilt.push(Effect::Send { worker, message });
            }
            (Sabotage::CommitsDryRuns, Message::Abort { candidate }) if self.is_dry_run(candidate) => {
                spoilt.push(Effect::Send { worker, message: Message::Commit { candidate, accept: true } });
            }
            (Sabotage::KillsTheServingWorker, Message::Abort { .. }) => {
                spoilt.extend([Effect::KillWorker { worker }, said]);
            }
            (Sabotage::AcceptsBesideTheOther, Message::Commit { candidate, .. }) => {
                let message = Message::Commit { candidate, accept: true };
                spoilt.push(Effect::Send { worker, message });
            }
            (Sabotage::LetsGoTooEarly, Message::Commit { candidate, .. }) => {
                spoilt.push(said);
                let generation = self.driver.as_ref().and_then(|driver| driver.view.committing);
                spoilt.extend(generation.map(|generation| Effect::Serve { worker, candidate, generation }));
            }
            _ => spoilt.push(said),
        }
    }

    /// What follows upon this effect and should not.
    fn spoil_upgrade(&self, sabotage: Sabotage, effect: Effect) -> Option<Effect> {
        match (sabotage, effect) {
            (Sabotage::SwitchesTooEarly, Effect::HandOver { operation, to, .. }) => {
                Some(Effect::Switch { worker: to, operation: Some(operation) })
            }
            (Sabotage::StopsTheOldOneTooEarly, Effect::HandOver { from, .. }) => {
                Some(Effect::Send { worker: from, message: Message::Stop { now: false } })
            }
            (Sabotage::ReexecutesTooEarly, Effect::Switch { operation: Some(operation), .. }) => {
                Some(Effect::Reexec { operation })
            }
            (Sabotage::ForgetsTheBinaryBefore, _) => Some(Effect::Forget { binary: Binary::Previous }),
            (Sabotage::ResumesBeforeTheOtherIsDead, Effect::KillWorker { worker }) => {
                let old = self.workers.iter().find(|other| other.key != worker && other.standby)?;
                let message = Message::Resume { call: CallKey(0) };
                Some(Effect::Send { worker: old.key, message })
            }
            _ => None,
        }
    }

    fn is_going_back(&self) -> bool {
        let operation = self.driver.as_ref().and_then(|driver| driver.view.operation);
        operation.is_some_and(|operation| {
            operation.step == StepName::Prepare || operation.step == StepName::GoBack
        }) && operation.is_some_and(|operation| {
            operation.kind == Kind::Cancel || operation.operation >= OperationKey::OWN
        })
    }

    fn is_dry_run(&self, candidate: CandidateKey) -> bool {
        let prepared = self.driver.iter().flat_map(|driver| &driver.prepared);
        prepared.into_iter().any(|(key, _, dry_run)| *key == candidate && *dry_run)
    }
}
