//! A handoff: everything that is served moves from one worker to another.
//!
//! The two do it between themselves; what they say of it arrives in any order, or not at all.
//!
//! ```text
//!                       TookOver (HandedOver may come before it, after it, or never)
//!   HandOver ──▶ moving ─────────────────────────────────────────────────────────────▶ Took
//!                  │ HandoffFailed: `from` serves as before, `to` is dead                 ▶ Stayed
//!                  │ `to` died, and `from` says that it has handed over                  ▶ Given: `from` accepts nothing
//!                  │ both died                                                           ▶ Lost
//!                  │ `from` died: `to` takes over with what it has got                   ▶ Took, or Lost
//! ```
//!
//! | what is late                                   | what follows                                       |
//! |------------------------------------------------|----------------------------------------------------|
//! | neither has said anything                      | `from` hangs: it is killed, `to` takes over        |
//! | `from` has handed over, `to` says nothing      | `to` hangs: it is killed, and `from` is told to resume |
//! | `to` died, and `from` says nothing             | `from` hangs: it is killed; both are lost          |
//! | `from` died, and `to` says nothing             | `to` hangs: it is killed; both are lost            |
//!
//! No other worker is started meanwhile: one of the two may accept. A stop waits for the end of the handoff, which is
//! bounded. What follows from an end depends on what the handoff was for: the upgrade (`serving_anew.rs`), or its way back
//! (`taking_back.rs`).

use super::Machine;
use super::table::{
    Awaited, Drain, EndStep, Ending, Fate, Handoff, Operation, Step, TakingBack, Way, Worker,
};
use crate::{
    Binary, CallKey, CandidateKey, Cause, Effect, GenerationNumber, Kind, OperationKey, Outcome, Phase, Role,
    Stage, StepName, WorkerKey,
};

impl Machine {
    pub(super) fn begin_handoff(&mut self, from: WorkerKey, to: WorkerKey) {
        let call = CallKey(self.key());
        let (within, limit) = (self.limits.handoff, self.limits.drain.min(self.limits.drain_longest));
        let by = self.after(within.saturating_add(self.limits.handoff_grace));
        let Some(operation) = &mut self.active else { return };
        operation.by = None;
        let owner = operation.key;
        let (handed, drained, cause) = (false, None, None);
        self.handoff = Some(Handoff { call, owner, from, to, handed, drained, cause, by });
        self.progress(owner, StepName::HandOver);
        self.emit(Effect::HandOver { operation: owner, call, from, to, within, limit });
    }

    fn lives(&self, worker: WorkerKey) -> bool {
        self.workers.iter().any(|w| w.key == worker && w.stage != Stage::Killed)
    }

    pub(super) fn took_over(&mut self, worker: WorkerKey, call: CallKey, clean: bool) {
        if self.handoff.is_some_and(|h| h.call == call && h.to == worker) && self.lives(worker) {
            self.handoff_ends(Fate::Took(clean));
        }
    }

    pub(super) fn handed_over(&mut self, worker: WorkerKey, call: CallKey) {
        let by = self.after(self.limits.handoff_grace);
        let lives = self.lives(worker);
        if let Some(handoff) = self.handoff.as_mut().filter(|h| lives && h.call == call && h.from == worker)
            && !handoff.handed
        {
            handoff.handed = true;
            handoff.by = by;
        }
    }

    pub(super) fn handoff_failed(&mut self, worker: WorkerKey, call: CallKey) {
        if !self.lives(worker) {
            return;
        }
        match self.handoff {
            Some(handoff) if handoff.call == call && handoff.from == worker => {
                if !handoff.handed {
                    self.handoff_ends(Fate::Stayed);
                }
            }
            // The other one has taken over, and this one says that it serves: two would accept.
            _ => {
                let gave = |w: &&Worker| w.key == worker && w.drain.is_some_and(|d| d.call == call);
                if self.workers.iter().any(|w| gave(&w)) {
                    self.kill(worker, Cause::HandoffFailed);
                }
            }
        }
    }

    /// Whether this worker is one of the two. Its death was noted if it is.
    pub(super) fn handoff_lost(&mut self, worker: WorkerKey, cause: Cause) -> bool {
        let by = self.after(self.limits.handoff_grace);
        let Some(handoff) = &mut self.handoff else { return false };
        if handoff.from != worker && handoff.to != worker {
            return false;
        }
        handoff.cause = handoff.cause.or(Some(cause));
        // The other one notices at once. What it had to say may be on its way.
        handoff.by = if handoff.from == worker { by } else { handoff.by.min(by) };
        true
    }

    /// What follows from who of the two is left.
    pub(super) fn settle_handoff(&mut self) {
        let Some(handoff) = self.handoff else { return };
        let (from, to) = (self.lives(handoff.from), self.lives(handoff.to));
        let reaped = self.workers.iter().all(|worker| worker.key != handoff.to);
        match (from, to) {
            (false, false) => self.handoff_ends(Fate::Lost),
            (true, false) if handoff.handed && reaped => self.handoff_ends(Fate::Given),
            _ => {}
        }
    }

    pub(super) fn handoff_is_late(&mut self, handoff: &Handoff) {
        let by = self.after(self.limits.handoff_grace.max(self.limits.kill));
        if let Some(handoff) = &mut self.handoff {
            handoff.by = by;
        }
        match (self.lives(handoff.from), self.lives(handoff.to)) {
            (true, _) if !handoff.handed => self.kill(handoff.from, Cause::NoAnswer),
            (_, true) => self.kill(handoff.to, Cause::NoAnswer),
            _ => {}
        }
    }

    fn handoff_ends(&mut self, fate: Fate) {
        let Some(handoff) = self.handoff.take() else { return };
        if self.phase == Phase::Stopping {
            return self.handoff_ends_in_stop(&handoff, fate);
        }
        let Some(operation) = self.active.filter(|operation| operation.key == handoff.owner) else { return };
        match operation.step {
            Step::HandingOver => self.upgrade_handed_over(&operation, &handoff, fate),
            Step::TakingBack(back @ TakingBack { way: Way::Moving, .. }) => {
                self.handed_back(back, &handoff, fate);
            }
            _ => {}
        }
    }

    /// The worker that has handed over accepts nothing more; the rest of its connections may take their time to end.
    pub(super) fn gave(&mut self, handoff: &Handoff, left: Role) {
        let over = self.after(self.limits.drain.min(self.limits.drain_longest));
        let late = over.saturating_add(self.limits.drain_grace);
        let Some(from) = self.workers.iter_mut().find(|w| w.key == handoff.from) else { return };
        from.role = left;
        if from.stage != Stage::Killed && handoff.drained.is_some() {
            from.stage = Stage::StandingBy;
        } else if from.stage != Stage::Killed {
            from.stage = Stage::Draining;
            from.drain = Some(Drain { call: handoff.call, asked: None, over });
            from.by = Some(late);
        }
    }

    /// The worker that has taken over serves; the one before lets the rest of its connections end, as `left`.
    pub(super) fn switch(&mut self, handoff: &Handoff, clean: bool, left: Role) {
        let gave = self.lives(handoff.from);
        self.gave(handoff, left);
        let mut serves = None;
        if let Some(to) = self.workers.iter_mut().find(|w| w.key == handoff.to) {
            to.role = Role::Serving;
            to.stage = Stage::Serving;
            to.drain = None;
            to.by = None;
            serves = to.stands_for.take().zip(to.generation);
        }
        self.restart.serving_since = Some(self.now);
        if !clean || !gave {
            self.lost_connections(handoff.cause.unwrap_or(Cause::WorkerDied));
        }
        if handoff.drained == Some(false) {
            self.lost_connections(Cause::DrainForced);
        }
        self.switched(handoff.to, Some(handoff.owner), serves);
    }

    /// Tells the driver who serves now, and, if it has not served before, as which candidate.
    pub(super) fn switched(
        &mut self,
        worker: WorkerKey,
        operation: Option<OperationKey>,
        serves: Option<(CandidateKey, GenerationNumber)>,
    ) {
        self.binary = Binary::Serving;
        if let Some(Operation { step: Step::TakingBack(back), .. }) = &mut self.active {
            back.switched = false;
        }
        self.emit(Effect::Switch { worker, operation });
        if let Some((candidate, generation)) = serves {
            self.holds_others = true;
            self.emit(Effect::Serve { worker, candidate, generation });
        }
    }

    /// Connections of the active operation's workers were cut, or may have been.
    pub(super) fn lost_connections(&mut self, cause: Cause) {
        if let Some(operation) = &mut self.active {
            operation.losses = operation.losses.or(Some(cause));
        }
    }

    /// A stop has overtaken what the handoff was for.
    fn handoff_ends_in_stop(&mut self, handoff: &Handoff, fate: Fate) {
        let find = |ending: &Ending| match ending.step {
            EndStep::Awaiting { what: Awaited::Handoff(call, why), .. } if call == handoff.call => {
                Some((ending.kind, why))
            }
            _ => None,
        };
        let awaited = self.endings.iter().find_map(find);
        match fate {
            Fate::Took(clean) => self.switch(handoff, clean, Role::Draining),
            Fate::Stayed => {}
            Fate::Given | Fate::Lost => {
                self.gave(handoff, Role::Draining);
                self.lost_connections(handoff.cause.unwrap_or(Cause::WorkerDied));
            }
        }
        if let Some((kind, why)) = awaited {
            let lossless = handoff.drained != Some(false) && self.lives(handoff.from);
            if let (Fate::Took(_), Some(why)) = (fate, why) {
                self.upgrade_taken_back(why);
            }
            let (outcome, cause) = match (fate, why, kind) {
                (Fate::Took(_), Some(why), Kind::Upgrade | Kind::Rollback) => (Outcome::RolledBack, why),
                (Fate::Took(true), ..) if lossless => (Outcome::Applied, Cause::ShuttingDown),
                (Fate::Took(_), ..) => (Outcome::AppliedWithLosses, Cause::ShuttingDown),
                // It serves what was to go.
                (Fate::Stayed, Some(_), Kind::Upgrade) => (Outcome::Unknown, Cause::ShuttingDown),
                (Fate::Stayed, Some(_), _) => (Outcome::Rejected, Cause::ShuttingDown),
                (Fate::Stayed, None, _) => (Outcome::NotReady, Cause::HandoffFailed),
                (Fate::Given | Fate::Lost, ..) => (Outcome::Unknown, Cause::ShuttingDown),
            };
            let what = Awaited::Handoff(handoff.call, why);
            self.resolve(handoff.to, what, outcome, cause, None);
        }
        if fate == Fate::Stayed && self.lives(handoff.to) {
            self.kill(handoff.to, Cause::HandoffFailed);
        }
        self.end_workers();
    }

    /// What a stop makes of a handoff: it is bounded, and both sides go on with it.
    pub(super) fn await_handoff(&mut self, operation: &Operation) -> bool {
        let Some(handoff) = self.handoff.filter(|handoff| handoff.owner == operation.key) else {
            return false;
        };
        let why = match operation.step {
            Step::TakingBack(back) => Some(back.why),
            _ => None,
        };
        self.active = None;
        let what = Awaited::Handoff(handoff.call, why);
        let step = EndStep::Awaiting { worker: handoff.to, what, by: None };
        self.end_later(operation, step);
        true
    }
}
