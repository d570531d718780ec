//! An upgrade whose worker has taken over, until it is final: watched, on probation, and then the supervisor's turn.
//!
//! ```text
//!                  guard             passed                     confirm-within, and the one before is drained
//!   Took ──────────────▶ Guarding ───────────▶ Retiring(ToWarm) ────────────────────▶ (outcome) on probation
//!     │                     │                     │                                             │ confirmed
//!     │ without             │ passed, without     │ confirmed                                   ▼
//!     └─────────────────────┴─────────────────────┴───────────────────────▶ Retiring(ToNothing): drained, stopped, reaped
//!                                                                                               ▼
//!           (outcome) ◀── Reexecuting ◀─────────── Examining(Rehearsal) ◀─────────── Retiring(Gone): at rest
//! ```
//!
//! | it fails in             | by                                 | what follows                                            |
//! |-------------------------|------------------------------------|---------------------------------------------------------|
//! | Guarding                | GuardEnded{failed}, its deadline, a cancel | taken back by another handoff: rolled back (`taking_back.rs`) |
//! | Guarding, Retiring with the one before alive | the new worker died | the one before resumes at once: rolled back         |
//! | Retiring without it     | the new worker died                | another one of the new binary: applied with losses      |
//! | Retiring                | the one before died or hangs       | goes on: applied with losses                            |
//! | Examining(Rehearsal)    | failed, late                       | applied, and the supervisor goes on as it was           |
//! | Reexecuting             | ReexecFailed, its deadline         | the same                                                |
//!
//! The supervisor becomes the new binary only when nothing else is under way: one worker, at rest, and every other outcome
//! written. The last two steps belong to the confirmation if there is one.

use super::Machine;
use super::table::{End, Fate, Handoff, Operation, Retiring, Step, Worker};
use crate::{Binary, Cause, Effect, Exam, Kind, Outcome, Role, Stage, StepName, WorkerKey};

impl Machine {
    /// The worker that served before, if it could serve again.
    pub(super) fn old_one(&self) -> Option<&Worker> {
        self.workers.iter().find(|worker| worker.can_come_back())
    }

    /// The handoff of an upgrade has ended.
    pub(super) fn upgrade_handed_over(&mut self, operation: &Operation, handoff: &Handoff, fate: Fate) {
        let died = handoff.cause.map_or(Cause::HandoffFailed, |_| Cause::CandidateDied);
        match fate {
            Fate::Took(clean) => {
                let stays = operation.terms().guard.or(operation.terms().confirm).is_some();
                self.switch(handoff, clean, if stays { Role::Warm } else { Role::Draining });
                if let Some(operation) = &mut self.active {
                    operation.back_to = self.held_to;
                }
                self.change_serves(End { outcome: Outcome::Applied, cause: Cause::Done, made: None });
            }
            Fate::Stayed => {
                // It is dead, says the other; this makes it certain.
                self.discard(Outcome::NotReady, died);
            }
            Fate::Given => {
                self.gave(handoff, Role::Warm);
                self.new_one_lost(Cause::CandidateDied);
            }
            Fate::Lost => self.settle_on_another(Cause::CandidateDied),
        }
    }

    /// The new worker is final as far as guard and terms go.
    pub(super) fn upgrade_stays(&mut self) {
        let Some(operation) = self.active else { return };
        match operation.terms().confirm {
            Some(_) => self.retire(Retiring::ToWarm),
            None => self.retire(Retiring::ToNothing { reexec: true }),
        }
    }

    pub(super) fn retire(&mut self, retiring: Retiring) {
        let Some(operation) = &mut self.active else { return };
        operation.step = Step::Retiring(retiring);
        operation.by = None;
        let key = operation.key;
        if retiring != Retiring::ToWarm {
            self.workers.iter_mut().filter(|w| w.role == Role::Warm).for_each(|w| w.role = Role::Draining);
        }
        if self.workers.iter().any(|worker| worker.stage == Stage::Draining) {
            self.progress(key, StepName::Drain);
        }
    }

    /// Somebody has decided before the last connections of the one before have ended.
    pub(super) fn come_on_probation(&mut self) {
        self.begin_probation();
        self.decide_upgrade(Cause::Done);
    }

    /// Looks how far the workers that are to go are. True if that changed anything.
    pub(super) fn go_on_retiring(&mut self, retiring: Retiring) -> bool {
        match retiring {
            Retiring::ToWarm => {
                let waits = self.workers.iter().any(|w| w.role == Role::Warm && w.stage == Stage::Draining);
                if !waits {
                    self.come_on_probation();
                }
                !waits
            }
            Retiring::ToNothing { reexec } => {
                self.end_those_that_gave();
                let gone = self.workers.iter().all(|worker| worker.role == Role::Serving);
                if gone {
                    self.retire(Retiring::Gone { reexec });
                    self.limit_step(self.after(self.limits.reexec));
                    self.emit(Effect::Forget { binary: Binary::Previous });
                }
                gone
            }
            Retiring::Gone { reexec } => {
                let at_rest = self.main().is_some_and(Worker::is_at_rest);
                match (at_rest, reexec) {
                    (true, true) => self.examine(Exam::Rehearsal),
                    (true, false) => self.decide_upgrade(Cause::Done),
                    (false, _) => {}
                }
                at_rest
            }
        }
    }

    /// Those that have handed over, and have no connection left, are told to end.
    pub(super) fn end_those_that_gave(&mut self) {
        let gave =
            |w: &&Worker| matches!(w.role, Role::Draining | Role::Warm) && w.stage == Stage::StandingBy;
        for worker in self.workers.iter().filter(gave).map(|w| w.key).collect::<Vec<WorkerKey>>() {
            self.stop_worker(worker, false);
        }
    }

    /// The supervisor's turn, as soon as nothing else is under way.
    pub(super) fn may_reexecute(&mut self) {
        if let Some(operation) = &mut self.active {
            operation.step = Step::Reexecuting(false);
        }
        self.limit_step(self.after(self.limits.reexec));
    }

    pub(super) fn reexecute_if_alone(&mut self) {
        let Some(operation @ Operation { step: Step::Reexecuting(false), .. }) = self.active else { return };
        let alone = self.endings.is_empty() && self.workers.len() == 1;
        if alone && self.main().is_some_and(Worker::is_at_rest) {
            let by = self.after(self.limits.reexec);
            self.active = Some(Operation { step: Step::Reexecuting(true), by: Some(by), ..operation });
            self.emit(Effect::Reexec { operation: operation.key });
        }
    }

    pub(super) fn reexec_failed(&mut self, operation: crate::OperationKey) {
        if let Some(Operation { key, step: Step::Reexecuting(true), .. }) = self.active
            && key == operation
        {
            self.not_reexecuted();
        }
    }

    /// The new worker serves all the same.
    pub(super) fn not_reexecuted(&mut self) {
        self.decide_upgrade(Cause::NotReexecuted);
    }

    /// The active operation has done what it was for; what it cost is in its losses.
    pub(super) fn decide_upgrade(&mut self, cause: Cause) {
        let Some(operation) = self.active else { return };
        match (operation.losses, cause) {
            (None, cause) => self.decide(Outcome::Applied, cause),
            (Some(lost), Cause::Done) => self.decide(Outcome::AppliedWithLosses, lost),
            (Some(_), cause) => self.decide(Outcome::AppliedWithLosses, cause),
        }
    }

    /// What a stop says of an upgrade whose worker serves, or of its confirmation.
    pub(super) fn decide_overtaken_upgrade(&mut self) {
        self.call_off_exam();
        self.decide_upgrade(Cause::ShuttingDown);
    }
}

impl Operation {
    /// Whether it only waits for the one before to come to rest, before it is on probation.
    pub(super) fn warms(&self) -> bool {
        matches!(self.step, Step::Retiring(Retiring::ToWarm))
    }

    /// Whether its worker serves for good, or it is the confirmation of one.
    pub(super) fn is_final_upgrade(&self) -> bool {
        matches!(self.step, Step::Retiring(_) | Step::Reexecuting(_))
            || (matches!(self.step, Step::Examining(Exam::Rehearsal)) && self.kind != Kind::DryRun)
    }
}
