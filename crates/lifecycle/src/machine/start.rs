//! What a start serves: the disk, unless it has an unconfirmed change or cannot be reached.
//!
//! | the disk                                            | served                              | outcome of the start        |
//! |-----------------------------------------------------|-------------------------------------|-----------------------------|
//! | has something else than the unconfirmed change      | the disk                            | applied                     |
//! | has the unconfirmed change, and there is time left  | the disk, for the time that is left | applied, and it is pending  |
//! | has the unconfirmed change, and its time is over    | the generation before it            | rolled back: not confirmed  |
//! | cannot be reached                                   | the last good generation            | applied: unreachable        |
//!
//! Told to serve a generation of the journal, it does; that one stays on probation if it was, and has time left.

use super::Machine;
use super::table::{Load, Operation, Probation, Step};
use crate::{Cause, Effect, GenerationNumber, Outcome, PendingEnd, Phase, Source, WorkerKey};

impl Machine {
    /// The generation that a candidate is compared with, to see whether it is unchanged.
    pub(super) fn compared_with(&self) -> Option<GenerationNumber> {
        self.held_to.or(self.unconfirmed.map(|unconfirmed| unconfirmed.generation))
    }

    /// The disk has the very bytes of the change that was not confirmed.
    pub(super) fn prepared_unconfirmed(&mut self, worker: WorkerKey) {
        let Some(Probation { back_to, by, .. }) = self.unconfirmed else { return };
        let over = by <= self.now;
        let Some(operation) = &mut self.active else { return };
        if over {
            operation.step = Step::AwaitWorker(Source::Generation(back_to));
            operation.instead = Some(Cause::NotConfirmed);
            self.throw_away(worker, true);
        } else {
            // It gets a new number like everything that a start serves, and keeps its deadline.
            operation.back_to = Some(back_to);
            let operation = *operation;
            self.write_intent(worker, &operation);
        }
    }

    /// The store that has the configuration cannot be reached: the last good generation will do, if there is one.
    pub(super) fn start_from_journal(&mut self, load: &Load) -> bool {
        let (Source::Disk, Some(last_good)) = (load.source, self.recovered.last_good) else { return false };
        let Some(operation) = &mut self.active else { return false };
        operation.step = Step::AwaitWorker(Source::Generation(last_good));
        operation.instead = Some(Cause::Unreachable);
        true
    }

    /// The start has made a generation serve.
    pub(super) fn start_serves(
        &mut self,
        operation: &Operation,
        generation: GenerationNumber,
        made: Option<GenerationNumber>,
    ) {
        self.phase = Phase::Serving;
        if let Some(unconfirmed) = self.unconfirmed {
            self.unconfirmed_at_start(operation, unconfirmed, generation);
        }
        self.unconfirmed = None;
        match operation.instead {
            Some(cause @ Cause::NotConfirmed) => self.decide(Outcome::RolledBack, cause),
            Some(cause) => self.decide_made(Outcome::Applied, cause, made),
            None => self.decide_made(Outcome::Applied, Cause::Done, made),
        }
    }

    fn unconfirmed_at_start(
        &mut self,
        operation: &Operation,
        unconfirmed: Probation,
        generation: GenerationNumber,
    ) {
        let told_so = generation == unconfirmed.generation;
        if operation.instead.is_none() && told_so && unconfirmed.by > self.now {
            let back_to = unconfirmed.back_to;
            if let Some(active) = &mut self.active {
                active.back_to = Some(back_to);
            }
        }
        match operation.instead {
            None if self.active.is_some_and(|active| active.back_to.is_some()) => self.begin_probation(),
            None => {
                let how = PendingEnd::Replaced;
                self.emit(Effect::PendingOver { generation: unconfirmed.generation, upgrade: None, how });
            }
            Some(Cause::NotConfirmed) => {
                let how = PendingEnd::NotConfirmed;
                self.emit(Effect::PendingOver { generation: unconfirmed.generation, upgrade: None, how });
            }
            // It stays unconfirmed, for the next start too.
            Some(_) => {}
        }
    }
}
