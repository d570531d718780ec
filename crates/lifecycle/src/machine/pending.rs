//! Changes on probation: confirmed, extended, or taken back.
//!
//! ```text
//!                       confirm-within                    confirm: written
//!   a change serves ───────────────────────▶ on probation ─────────────────▶ it stays
//!                                              │  ▲  │ reload --confirm-within, nothing new: another deadline, written
//!                                              │  └──┘
//!                       cancel, or time over,  │
//!                       or workers die in a row▼
//!                                           GoingBack ──Committed──▶ the generation before serves again
//!                                              │ refused, late, the worker died
//!                                              ▼
//!                                  Settling: in another worker ──Committed──▶ the same, with losses
//!                                              │ failed
//!                                              ▼
//!                                           unknown: the supervisor goes on trying the generation before
//! ```
//!
//! The change on probation is never given a second chance: once it is to go, it is not loaded into any worker again.

use std::time::Duration;

use super::Machine;
use super::table::{
    Awaited, EndStep, Ending, GoingBack, Note, Operation, Probation, Retiring, Settling, Step,
};
use crate::{
    CandidateKey, Cause, Effect, GenerationNumber, Kind, Notice, OperationKey, Outcome, Pending, PendingEnd,
    Phase, Refusal, Request, StepName, WorkerKey,
};

impl Machine {
    /// The change on probation, with the time left.
    pub(super) fn pending_now(&self) -> Option<Pending> {
        let Probation { generation, back_to, upgrade, by, .. } = self.pending?;
        Some(Pending { generation, back_to, upgrade, left: by.saturating_sub(self.now) })
    }

    /// The time in which the operation's change must be confirmed, from now.
    pub(super) fn probation_of(&self, operation: &Operation) -> Option<Duration> {
        match (operation.kind, self.unconfirmed) {
            (Kind::Start, Some(unconfirmed)) => {
                operation.back_to.map(|_| unconfirmed.by.saturating_sub(self.now))
            }
            _ => operation.terms().confirm.map(|within| within.min(self.limits.confirm_longest)),
        }
    }

    /// The active operation's change serves, and its worker has passed the guard if there was one.
    pub(super) fn begin_probation(&mut self) {
        let Some(operation) = self.active else { return };
        let (Some(generation), Some(back_to)) = (self.held_to, operation.back_to) else { return };
        let Some(left) = self.probation_of(&operation) else { return };
        let by = self.after(left);
        let upgrade = self.main().map(|main| main.key).filter(|_| operation.is_upgrade());
        let (failures, died, reexec) = (self.restart.failures, false, upgrade.is_some());
        let losses = None;
        self.pending = Some(Probation { generation, back_to, upgrade, by, failures, died, reexec, losses });
        self.emit(Effect::Pending { operation: operation.key, generation, back_to, upgrade, left });
        self.tell_that_it_may_take_long();
    }

    /// What is asked for serves already: at most the deadline is moved.
    pub(super) fn is_unchanged(&mut self) {
        let Some(operation) = self.active else { return };
        let within = operation.terms().confirm.map(|within| within.min(self.limits.confirm_longest));
        let (Some(pending), Some(left)) = (self.pending, within) else {
            return self.decide(Outcome::Unchanged, Cause::AlreadySo);
        };
        let Probation { generation, back_to, upgrade, .. } = pending;
        self.begin_noting(Note::Extend(self.after(left)));
        self.emit(Effect::Pending { operation: operation.key, generation, back_to, upgrade, left });
    }

    pub(super) fn begin_confirm(&mut self, operation: OperationKey) {
        if let Some(Operation { step: Step::Guarding(guarding), .. }) = self.active {
            self.end_guard(&guarding, true);
        }
        match self.active {
            Some(upgrade) if upgrade.warms() => self.come_on_probation(),
            // It was only guarded, and has its own end before it.
            Some(_) => {
                self.emit(Effect::Started { operation });
                return self.record(operation, Kind::Confirm, Outcome::Applied, Cause::Done, None);
            }
            None => {}
        }
        let note = Step::Noting(Note::Confirm);
        self.begin(operation, Kind::Confirm, Some(Request::Confirm), note);
        match self.pending {
            Some(Probation { generation, upgrade, .. }) => {
                self.begin_noting(Note::Confirm);
                self.emit(Effect::WriteConfirm { operation, generation, upgrade });
            }
            // It was only guarded.
            None => self.decide(Outcome::Applied, Cause::Done),
        }
    }

    fn begin_noting(&mut self, note: Note) {
        let by = self.after(self.limits.journal);
        let Some(operation) = &mut self.active else { return };
        operation.step = Step::Noting(note);
        operation.by = Some(by);
        let key = operation.key;
        self.progress(key, StepName::Confirm);
    }

    /// The journal has, or has not, written what was to be noted about the change on probation.
    pub(super) fn note_written(
        &mut self,
        operation: OperationKey,
        generation: GenerationNumber,
        written: bool,
    ) {
        if self.pending.is_none_or(|pending| pending.generation != generation) {
            return;
        }
        let active =
            self.active.filter(|active| active.key == operation).and_then(|active| match active.step {
                Step::Noting(note) => Some(note),
                _ => None,
            });
        let ending = self.endings.iter().find_map(|ending| match ending.step {
            EndStep::Noting { note, .. } if ending.key == operation => Some(note),
            _ => None,
        });
        if let Some(note) = active.or(ending) {
            self.noted(operation, note, Some(written));
        }
    }

    /// The same, or nobody knows (`None`): the time for writing is over, and it may still be written later.
    pub(super) fn noted(&mut self, operation: OperationKey, note: Note, written: Option<bool>) {
        let (outcome, cause) = match (note, written) {
            (_, None | Some(false)) => (Outcome::NotReady, Cause::JournalFailed),
            (Note::Confirm, Some(true)) => (Outcome::Applied, Cause::Done),
            (Note::Extend(_), Some(true)) => (Outcome::Unchanged, Cause::Extended),
        };
        let upgrade = self.pending.filter(|pending| pending.upgrade.is_some());
        match (note, written) {
            (Note::Confirm, Some(true)) => self.end_probation(PendingEnd::Confirmed),
            (Note::Extend(by), Some(true)) => {
                if let Some(pending) = &mut self.pending {
                    pending.by = by;
                }
            }
            // What is written last counts: the deadline stays what it was.
            (_, None) => {
                if let Some(Pending { generation, back_to, upgrade, left }) = self.pending_now() {
                    self.emit(Effect::Pending { operation, generation, back_to, upgrade, left });
                }
            }
            (_, Some(false)) => {}
        }
        match (self.endings.iter().find(|ending| ending.key == operation), upgrade, note) {
            (Some(&Ending { kind, .. }), ..) => self.record(operation, kind, outcome, cause, None),
            (None, Some(Probation { reexec, losses, .. }), Note::Confirm) if outcome == Outcome::Applied => {
                if let Some(operation) = &mut self.active {
                    operation.losses = losses;
                }
                self.retire(Retiring::ToNothing { reexec });
            }
            (None, ..) => self.decide(outcome, cause),
        }
    }

    pub(super) fn begin_cancel(&mut self, operation: OperationKey) {
        let kind = Kind::Cancel;
        if let Some(Operation { key, step, back_to: Some(back_to), .. }) = self.active {
            self.emit(Effect::Started { operation });
            self.endings.push(Ending { key: operation, kind, step: EndStep::With(key) });
            if let Step::Guarding(guarding) = step {
                self.end_guard(&guarding, false);
            }
            return self.go_back(back_to, Cause::Cancelled);
        }
        let Some(Probation { back_to, .. }) = self.pending else { return };
        let step = Step::GoingBack(GoingBack { to: back_to, why: Cause::Cancelled });
        self.begin(operation, kind, Some(Request::Cancel), step);
        self.emit(Effect::Notify(Notice::Reloading));
        self.go_back(back_to, Cause::Cancelled);
    }

    /// Takes the change on probation back by itself, if its time is over or its workers die one after the other.
    pub(super) fn go_back_if_due(&mut self) {
        let Some(pending) = self.pending else { return };
        let overdue = pending.by <= self.now;
        let deadly = pending.died
            || (pending.upgrade.is_none() && self.restart.failures > pending.failures.saturating_add(1));
        if !(overdue || deadly) || !matches!(self.phase, Phase::Serving | Phase::Drained) {
            return;
        }
        let why = if overdue { Cause::NotConfirmed } else { Cause::WorkerDied };
        match self.active {
            None => {}
            // It only looks, or could at most have moved the deadline.
            Some(operation) if self.gives_way(&operation) => {
                self.call_off_load();
                self.decide(Outcome::NotReady, why);
            }
            Some(Operation { step: Step::Carrying { .. }, .. }) => return self.hurry_carried(deadly),
            Some(_) => return,
        }
        let operation = OperationKey(OperationKey::OWN.0 | self.key());
        let kind = Kind::Rollback;
        self.emit(Effect::Own { operation, kind });
        let step = Step::GoingBack(GoingBack { to: pending.back_to, why });
        self.begin(operation, kind, None, step);
        self.emit(Effect::Notify(Notice::Reloading));
        self.go_back(pending.back_to, why);
    }

    fn gives_way(&self, operation: &Operation) -> bool {
        let committing = self
            .main()
            .and_then(|main| main.load)
            .is_some_and(|load| load.owner == Some(operation.key) && load.is_committing());
        (operation.kind == Kind::DryRun || operation.is_change())
            && matches!(operation.step, Step::AwaitWorker(_) | Step::Loading)
            && !committing
    }

    /// The active operation brings this generation back. [`Machine::employ_worker`] gives it to the worker.
    pub(super) fn go_back(&mut self, to: GenerationNumber, why: Cause) {
        let Some(operation) = &mut self.active else { return };
        if operation.is_upgrade() || self.pending.is_some_and(|pending| pending.upgrade.is_some()) {
            return self.take_upgrade_back(why);
        }
        operation.step = Step::GoingBack(GoingBack { to, why });
        operation.by = None;
        let key = operation.key;
        self.progress(key, StepName::GoBack);
        if self.phase == Phase::Drained {
            // Nobody is served: the next worker gets it, when it is resumed.
            let worker = self.main().map(|worker| worker.key);
            self.take_back(to, why);
            self.went_back(why, false);
            if let Some(worker) = worker {
                self.kill(worker, Cause::Done);
            }
        } else if !self.slot_taken() {
            self.restart.at = Some(self.now);
        }
    }

    /// The worker that was to take the generation before is gone, or did not take it.
    /// `first` has its listeners, if it may have switched.
    pub(super) fn go_back_in_another(
        &mut self,
        to: GenerationNumber,
        why: Cause,
        first: Option<CandidateKey>,
    ) {
        self.take_back(to, why);
        let Some(operation) = &mut self.active else { return };
        operation.step = Step::Settling(Settling { first, new: None, cause: why });
        operation.by = None;
        let key = operation.key;
        self.restart.at = Some(self.now);
        self.progress(key, StepName::Settle);
    }

    /// From here on no worker is given the change again.
    pub(super) fn take_back(&mut self, to: GenerationNumber, why: Cause) {
        self.held_to = Some(to);
        self.end_probation(match why {
            Cause::Cancelled => PendingEnd::Cancelled,
            Cause::WorkerDied => PendingEnd::WorkersDied,
            _ => PendingEnd::NotConfirmed,
        });
        // It would bring back what was just taken back.
        if let Some((request, _)) = self.deferred.take() {
            self.emit(Effect::Notify(Notice::Reloading));
            self.emit(Effect::Refuse { request, refusal: Refusal::TakenBack });
            self.emit(Effect::Notify(Notice::Ready));
        }
    }

    /// The generation before serves again, in the worker that served or (`anew`) in another.
    pub(super) fn went_back(&mut self, why: Cause, anew: bool) {
        let Some(operation) = self.active else { return };
        if let (Some(held_to), false) = (self.held_to, anew) {
            self.take_back(held_to, why);
        }
        match (operation.kind, anew) {
            (Kind::Cancel, false) => self.decide(Outcome::Applied, Cause::Done),
            (Kind::Cancel, true) => self.decide(Outcome::AppliedWithLosses, Cause::WorkerDied),
            _ => self.decide(Outcome::RolledBack, why),
        }
    }

    /// The same when a stop had overtaken it.
    pub(super) fn resolve_back(&mut self, worker: WorkerKey, candidate: CandidateKey) -> bool {
        let found = self.endings.iter().find_map(|ending| match ending.step {
            EndStep::Awaiting { worker: w, what: Awaited::Back(c, why), .. }
                if w == worker && c == candidate =>
            {
                Some((ending.key, ending.kind, why))
            }
            _ => None,
        });
        let Some((key, kind, why)) = found else { return false };
        if let Some(held_to) = self.held_to {
            self.take_back(held_to, why);
        }
        match kind {
            Kind::Cancel => self.record(key, kind, Outcome::Applied, Cause::Done, None),
            _ => self.record(key, kind, Outcome::RolledBack, why, None),
        }
        true
    }

    pub(super) fn end_probation(&mut self, how: PendingEnd) {
        if let Some(Probation { generation, upgrade, .. }) = self.pending.take() {
            self.emit(Effect::PendingOver { generation, upgrade, how });
        }
    }
}
