//! An upgrade that does not stay: the binary before serves again.
//!
//! ```text
//!                 the warm worker lives                    its last connections have ended, or were cut
//!   TakingBack ──────────────────────────────▶ Waiting ──────────────────────────────────▶ Moving (handing_over.rs)
//!     │ it is dead                                │ it died                                  ▲   │ Took
//!     ├──────────▶ Raising ◀──────────────────────┘  another worker of the binary before     │   ▼
//!     │               ├────────▶ Probing ────────────────────────────────────────────────────┘  Retiring ──▶ Gone ──▶ (outcome)
//!     │               └─ it cannot be made to serve ──▶ Discarding: the new worker serves on, and stays ──▶ not ready
//!     │ nobody serves
//!     └──────────▶ Resuming: the warm worker, once whoever might accept is certainly dead ────────────────▶ (outcome)
//!                     │ it is dead, too
//!                     ▼
//!                  Settling: a worker of the binary before, started in the place of the one that is to go
//! ```
//!
//! | it fails in         | by                                        | what follows                                   |
//! |---------------------|-------------------------------------------|------------------------------------------------|
//! | Waiting             | the new worker died                       | Resuming                                       |
//! | Raising, Probing    | refused, late, died                       | not ready: the new one stays                   |
//! | Raising, Probing    | the new worker died                       | Settling                                       |
//! | Moving              | HandoffFailed                             | Raising, once; then not ready: the new one stays |
//! | Moving              | both died, or only the new one is left    | it is killed; Settling                         |
//! | Resuming            | late, died                                | Settling                                       |
//! | Settling            | late, died, refused                       | unknown; restarts go on with the binary before |
//!
//! The new binary is not given a second chance: once it is to go, it serves no longer than it takes to do better. But somebody
//! serves: as long as nothing of the binary before stands by in its place, it is not ended. If nothing can be made to, the
//! upgrade stays, its probation is over ([`PendingEnd::NotPossible`]), and the operation that was to take it back is not
//! ready; an upgrade that would have been rolled back says that it was not. Only when the new worker is dead, or hangs, are
//! workers of the binary before started until one serves. A drained
//! server goes back without serving: the warm worker stands in its place, or the resume starts one of the binary before.

use super::Machine;
use super::table::{Fate, Handoff, Operation, Settling, Step, TakingBack, Way};
use crate::{
    Binary, CallKey, Cause, Effect, Kind, Message, Outcome, PendingEnd, Phase, Role, Stage, StepName,
    WorkerKey,
};

impl Machine {
    /// The active operation brings the binary before back.
    pub(super) fn take_upgrade_back(&mut self, why: Cause) {
        let Some(operation) = &mut self.active else { return };
        let (way, raised, switched) = (Way::Waiting, false, !operation.is_before_handoff());
        operation.step = Step::TakingBack(TakingBack { why, way, raised, switched });
        operation.by = None;
        let key = operation.key;
        self.progress(key, StepName::GoBack);
        self.limit_step(self.after(self.limits.handoff));
    }

    /// The new worker is gone, and the one before is there: it serves again at once.
    pub(super) fn new_one_lost(&mut self, why: Cause) {
        self.take_upgrade_back(why);
        self.go_way(Way::Resuming(None));
    }

    fn go_way(&mut self, way: Way) {
        if let Some(operation) = &mut self.active {
            operation.set_way(way);
        }
    }

    /// Looks what can be done next. True if that changed anything.
    pub(super) fn go_on_taking_back(&mut self, back: TakingBack) -> bool {
        match back.way {
            Way::Waiting => self.go_on_waiting(),
            Way::Resuming(None) => self.go_on_resuming(back),
            Way::Retiring => {
                self.end_those_that_gave();
                let gone = self.workers.iter().all(|worker| worker.role == Role::Serving);
                if gone {
                    self.go_way(Way::Gone);
                    self.limit_step(self.after(self.limits.reexec));
                }
                gone
            }
            Way::Gone => {
                let at_rest = self.main().is_some_and(super::Worker::is_at_rest);
                if at_rest {
                    self.taken_back(back);
                }
                at_rest
            }
            Way::Raising | Way::Probing | Way::Moving | Way::Resuming(Some(_)) => false,
        }
    }

    fn go_on_waiting(&mut self) -> bool {
        let main = self.main().filter(|main| main.stage == Stage::Serving && main.load.is_none());
        let serving = main.map(|main| main.key).filter(|_| self.phase != Phase::Drained);
        match (serving, self.old_one().map(|old| (old.key, old.stage))) {
            (Some(from), Some((to, Stage::StandingBy))) => {
                self.go_way(Way::Moving);
                self.begin_handoff(from, to);
            }
            (Some(_), Some(_)) => return false,
            (Some(_), None) => {
                if let Some(Operation { step: Step::TakingBack(back), by, .. }) = &mut self.active {
                    (back.way, back.raised, *by) = (Way::Raising, true, None);
                }
                self.raise(Binary::Previous);
            }
            (None, _) => self.go_way(Way::Resuming(None)),
        }
        true
    }

    /// The warm worker's last connections have had their time.
    pub(super) fn waiting_is_late(&mut self) {
        if let Some(operation) = &mut self.active {
            operation.by = None;
        }
        if let Some(old) = self.old_one().map(|old| old.key) {
            self.drain(old, Some(std::time::Duration::ZERO));
        }
    }

    /// Nobody else may accept when it does: that is not so before whoever might is reaped, or certainly given up.
    fn go_on_resuming(&mut self, back: TakingBack) -> bool {
        if let Some(main) = self.main().map(|main| main.key) {
            self.kill(main, back.why);
        }
        if let Some(candidate) = self.candidate().map(|candidate| candidate.key) {
            self.kill(candidate, back.why);
        }
        let old = self.old_one().map(|old| old.key);
        let dying = self.workers.iter().any(|worker| worker.stage == Stage::Killed);
        match old {
            _ if dying && (old.is_some() || self.phase == Phase::Drained) => return false,
            Some(old) => self.resume_old(back, old),
            None if self.phase == Phase::Drained => {
                self.binary = Binary::Previous;
                self.taken_back(back);
            }
            None => self.settle_on_another(back.why),
        }
        true
    }

    fn resume_old(&mut self, back: TakingBack, old: WorkerKey) {
        let drained = self.phase == Phase::Drained;
        let owner = self.active.map(|operation| operation.key);
        if let Some(main) = self.workers.iter_mut().find(|worker| worker.key == old) {
            // What may be left of its last connections ends by itself.
            (main.role, main.stage) = (Role::Serving, Stage::Drained);
            (main.drain, main.by) = (None, None);
        }
        if back.switched {
            self.switched(old, owner, None);
        }
        if drained {
            return self.taken_back(back);
        }
        let call = CallKey(self.key());
        self.go_way(Way::Resuming(Some(call)));
        self.limit_step(self.after(self.limits.resume));
        if let Some(operation) = owner {
            self.progress(operation, StepName::Resume);
        }
        self.emit(Effect::Send { worker: old, message: Message::Resume { call } });
    }

    /// The warm worker accepts again. True if that was awaited.
    pub(super) fn resumed_after_upgrade(&mut self, worker: WorkerKey, call: CallKey) -> bool {
        let Some(Operation { step: Step::TakingBack(back), .. }) = self.active else { return false };
        if back.way != Way::Resuming(Some(call)) {
            return false;
        }
        if let Some(main) = self.main_mut().filter(|main| main.key == worker) {
            main.stage = Stage::Serving;
            self.restart.serving_since = Some(self.now);
            self.taken_back(back);
        }
        true
    }

    /// Another worker of the binary before stands by, and answers.
    pub(super) fn raised_again(&mut self) {
        let from = self.main().map(|main| main.key);
        let to = self.candidate().map(|candidate| candidate.key);
        match (from, to) {
            (Some(from), Some(to)) => {
                self.go_way(Way::Moving);
                self.begin_handoff(from, to);
            }
            _ => self.not_raised_again(Cause::CandidateDied),
        }
    }

    /// It does not. Whoever serves goes on with it; if nobody does, the binary before is tried until it serves.
    pub(super) fn not_raised_again(&mut self, cause: Cause) {
        let serves = self.main().is_some_and(|main| main.stage == Stage::Serving);
        if serves && self.phase == Phase::Serving {
            self.stays_after_all(cause)
        } else {
            self.go_way(Way::Resuming(None))
        }
    }

    /// The upgrade cannot be taken back, and stays.
    fn stays_after_all(&mut self, cause: Cause) {
        let Some(operation) = self.active else { return };
        let (outcome, cause) = match operation.kind {
            // What was asked for is so, and should not be.
            Kind::Upgrade => (Outcome::AppliedWithLosses, Cause::NotTakenBack),
            _ => (Outcome::NotReady, cause),
        };
        let how = PendingEnd::NotPossible;
        match (self.pending.is_some(), self.held_to, self.main().map(|main| main.key)) {
            (true, ..) => self.end_probation(how),
            // The journal may know that it was to await confirmation.
            (false, Some(generation), upgrade) => self.emit(Effect::PendingOver { generation, upgrade, how }),
            (false, None, _) => {}
        }
        self.discard(outcome, cause);
        self.emit(Effect::Forget { binary: Binary::Previous });
    }

    /// The worker that serves is gone.
    pub(super) fn taking_back_lost_main(&mut self, back: TakingBack, cause: Cause) {
        match back.way {
            Way::Waiting => self.go_way(Way::Resuming(None)),
            Way::Raising | Way::Probing => {
                self.call_off_exam();
                self.go_way(Way::Resuming(None));
            }
            Way::Resuming(Some(_)) => self.settle_on_another(back.why),
            // The binary before serves: its worker is replaced as ever.
            Way::Retiring | Way::Gone => self.lost_connections(cause),
            Way::Moving | Way::Resuming(None) => {}
        }
    }

    /// The handoff back has ended.
    pub(super) fn handed_back(&mut self, back: TakingBack, handoff: &Handoff, fate: Fate) {
        match fate {
            Fate::Took(clean) => {
                self.switch(handoff, clean, Role::Draining);
                self.upgrade_taken_back(back.why);
                self.go_way(Way::Retiring);
                if let Some(operation) = self.active {
                    self.progress(operation.key, StepName::Drain);
                }
            }
            Fate::Stayed => {
                self.kill(handoff.to, Cause::HandoffFailed);
                if back.raised {
                    return self.not_raised_again(Cause::HandoffFailed);
                }
                self.go_way(Way::Waiting);
                self.limit_step(self.after(self.limits.handoff));
            }
            Fate::Given | Fate::Lost => self.go_way(Way::Resuming(None)),
        }
    }

    /// No worker is left that could serve at once: one of the binary before is started in their place.
    pub(super) fn settle_on_another(&mut self, why: Cause) {
        self.upgrade_taken_back(why);
        let Some(operation) = &mut self.active else { return };
        let forgets = match operation.step {
            Step::TakingBack(TakingBack { switched: true, .. }) => {
                self.binary = Binary::Previous;
                false
            }
            _ => !operation.is_before_handoff(),
        };
        operation.step = Step::Settling(Settling { first: None, new: None, cause: why });
        operation.by = None;
        let key = operation.key;
        self.restart.at = Some(self.now);
        self.progress(key, StepName::Settle);
        if forgets {
            self.emit(Effect::Forget { binary: Binary::Previous });
        }
    }

    /// From here on no worker of the new binary is started again.
    pub(super) fn upgrade_taken_back(&mut self, why: Cause) {
        self.end_probation(match why {
            Cause::Cancelled => PendingEnd::Cancelled,
            Cause::WorkerDied => PendingEnd::WorkersDied,
            _ => PendingEnd::NotConfirmed,
        });
    }

    /// The binary before serves again, or will when it is resumed.
    fn taken_back(&mut self, back: TakingBack) {
        self.upgrade_taken_back(back.why);
        let Some(operation) = self.active else { return };
        if self.binary == Binary::Serving && !operation.is_before_handoff() {
            self.emit(Effect::Forget { binary: Binary::Previous });
        }
        match (operation.kind, operation.losses, back.way) {
            (Kind::Cancel, None, Way::Resuming(_)) if self.phase != Phase::Drained => {
                self.decide(Outcome::AppliedWithLosses, Cause::WorkerDied);
            }
            (Kind::Cancel, None, _) => self.decide(Outcome::Applied, Cause::Done),
            (Kind::Cancel, Some(lost), _) => self.decide(Outcome::AppliedWithLosses, lost),
            _ => self.decide(Outcome::RolledBack, back.why),
        }
    }

    pub(super) fn taking_back_is_late(&mut self, back: TakingBack, operation: &Operation) {
        match back.way {
            Way::Waiting => self.waiting_is_late(),
            Way::Probing => self.exam_is_late(operation),
            Way::Resuming(Some(_)) => {
                if let Some(worker) = self.main().map(|worker| worker.key) {
                    self.kill(worker, Cause::NoAnswer);
                }
            }
            Way::Gone => self.taken_back(back),
            // Bounded by the workers, the load or the handoff.
            Way::Raising | Way::Moving | Way::Resuming(None) | Way::Retiring => {}
        }
    }

    /// What a stop says of an upgrade that was being taken back.
    pub(super) fn decide_overtaken_taking_back(&mut self, back: TakingBack, operation: &Operation) {
        self.call_off_exam();
        if let Some(candidate) = self.candidate().map(|candidate| candidate.key) {
            self.go_way(Way::Resuming(None));
            self.kill(candidate, Cause::ShuttingDown);
        }
        if let (Way::Resuming(Some(_)), Some(worker)) = (back.way, self.main_mut()) {
            // It may accept already, and is to be drained again.
            worker.stage = Stage::Serving;
        }
        match (back.way, operation.kind) {
            (Way::Retiring | Way::Gone, _) => self.taken_back(back),
            // It serves what is to go, and will not be asked any more; or it is found out no more who would have served.
            (Way::Resuming(_), _) | (_, Kind::Upgrade) => self.decide(Outcome::Unknown, Cause::ShuttingDown),
            _ => self.decide(Outcome::Rejected, Cause::ShuttingDown),
        }
    }
}
