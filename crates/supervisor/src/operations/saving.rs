//! Operations that are not answered yet, across an execution of another program. Who waits for them is kept by the control
//! server, with the connection; here is what will be answered.

use std::time::{Duration, Instant};

use handover_lifecycle::{Kind, OperationKey};

use super::{Entry, Operations, milliseconds};
use crate::handle::{Ask, Terms};
use crate::reexec::SavedOperation;

impl Operations {
    /// How many there were, and those that are not answered yet.
    pub(crate) fn save(&self) -> (u64, Vec<SavedOperation>) {
        let saved =
            self.entries.iter().filter(|(_, entry)| !entry.is_look).map(|(key, entry)| SavedOperation {
                key: key.0,
                operation: entry.operation.clone(),
                joins: entry.joins.map(|key| key.0),
                is_begun: entry.is_begun,
                is_told: entry.is_told,
                ms: milliseconds(entry.begun),
                step: entry.step.map(|(step, _)| step),
                step_ms: entry.step.map_or(0.0, |(_, since)| milliseconds(since)),
                guard: entry.guard,
                certs_only: matches!(entry.ask, Some(Ask::Reload { certs_only: true, .. })),
            });
        (self.made, saved.collect())
    }

    /// Goes on with what another program has left.
    pub(crate) fn resume(made: u64, saved: Vec<SavedOperation>) -> Self {
        let mut operations = Operations { made, ..Operations::new() };
        for saved in saved {
            let key = OperationKey(saved.key);
            operations.made = operations.made.max(saved.key);
            let waits = saved.operation.kind == Kind::Reload && !saved.is_begun;
            let ask = waits.then(|| Ask::Reload { certs_only: saved.certs_only, terms: Terms::default() });
            operations.insert_as(key, saved.operation.clone(), ask, None);
            if let Some(entry) = operations.get_mut(key) {
                entry.resume(&saved);
            }
        }
        operations
    }
}

impl Entry {
    fn resume(&mut self, saved: &SavedOperation) {
        self.joins = saved.joins.map(OperationKey);
        self.is_noted = true;
        self.is_begun = saved.is_begun;
        self.is_told = saved.is_told;
        self.guard = saved.guard;
        self.begun = ago(saved.ms);
        self.step = saved.step.map(|step| (step, ago(saved.step_ms)));
    }
}

/// The moment that was so many milliseconds ago, as far as this machine's clock goes back.
fn ago(ms: f64) -> Instant {
    let now = Instant::now();
    let passed = Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default();
    now.checked_sub(passed).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use handover_api::{Actor, StepName};

    use super::*;
    use crate::handle::NewOperation;

    #[test]
    fn what_was_left_is_answered_as_if_nothing_had_been() {
        let mut operations = Operations::new();
        let upgrade = operations.ask(NewOperation::new(Ask::upgrade(), Actor::signal("USR2")), Some(3), None);
        let reload = Ask::Reload { certs_only: true, terms: Terms::default() };
        let waits = operations.ask(NewOperation::new(reload.clone(), Actor::signal("HUP")), Some(3), None);
        let entry = operations.get_mut(upgrade).unwrap();
        (entry.is_begun, entry.is_told) = (true, true);
        entry.step(StepName::Supervisor);
        let (made, saved) = operations.save();
        let saved = serde_json::from_str(&serde_json::to_string(&saved).unwrap()).unwrap();
        let mut resumed = Operations::resume(made, saved);
        assert_eq!(resumed.get(waits).unwrap().ask, Some(reload));
        let entry = resumed.get_mut(upgrade).unwrap();
        assert!(entry.is_begun && entry.is_told && entry.is_noted);
        assert_eq!(entry.as_it_is().steps.len(), 1);
        let ticket = entry.ticket();
        let answered = resumed.answer(upgrade).unwrap();
        assert_eq!(ticket.operation.id, answered.id);
        // Keys go on where they were.
        let next = resumed.ask(NewOperation::new(Ask::Resume, Actor::supervisor()), None, None);
        assert!(next.0 > waits.0);
    }

    #[test]
    fn a_time_before_the_clock_began_is_now() {
        for ms in [-1.0, f64::MAX, f64::NAN, f64::INFINITY] {
            assert!(ago(ms) <= Instant::now());
        }
    }
}
