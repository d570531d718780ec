//! The machine goes with the supervisor into its new binary: see [`Saved`].

use std::time::Duration;

use super::table::{Operation, Step, Worker};
use super::{Machine, Restart};
use crate::{
    CannotResume, Cause, Kind, Limits, Outcome, Phase, Recovered, Request, Role, Saved, SavedOperation,
    SavedReload, SavedWorker, Stage, Terms,
};

impl Machine {
    /// What goes with the supervisor into its new binary. It can be asked for at any time, to rehearse with; what is under
    /// way then is not in it, because nothing is when it counts.
    #[must_use]
    pub fn save(&self) -> Saved {
        let served =
            self.restart.serving_since.map_or(Duration::ZERO, |since| self.now.saturating_sub(since));
        Saved {
            operation: self.active.map(|operation| SavedOperation {
                key: operation.key,
                kind: operation.kind,
                outcome: match operation.losses {
                    None => Outcome::Applied,
                    Some(_) => Outcome::AppliedWithLosses,
                },
                cause: operation.losses.unwrap_or(Cause::Done),
            }),
            worker: self.main().map(|main| SavedWorker {
                key: main.key,
                drained: self.phase == Phase::Drained,
                served_ms: u64::try_from(served.as_millis()).unwrap_or(u64::MAX),
            }),
            held_to: self.held_to,
            last_generation: self.last_generation,
            next_key: self.next_key,
            deferred: self.deferred.and_then(|(operation, request)| match request {
                Request::Reload { certs_only, terms, .. } => {
                    let Terms { confirm, guard } = terms;
                    Some(SavedReload { operation, certs_only, confirm, guard })
                }
                _ => None,
            }),
            restarts: self.restart.count,
            failures: self.restart.failures,
        }
    }

    /// A machine that goes on where another one left off: its first event is [`crate::Event::Reexecuted`]. Its clock
    /// begins anew.
    ///
    /// `recovered` is looked at only for numbers that must not be given twice; what the journal calls unfinished goes on.
    ///
    /// # Errors
    ///
    /// The saved state does not say enough to go on with.
    pub fn resume(limits: Limits, recovered: Recovered, saved: Saved) -> Result<Self, CannotResume> {
        let operation = saved.operation.ok_or(CannotResume::NoOperation)?;
        let worker = saved.worker.ok_or(CannotResume::NoWorker)?;
        let held_to = saved.held_to.ok_or(CannotResume::NoGeneration)?;
        let mut machine = Self::new(limits, Recovered { unfinished: Vec::new(), ..recovered });
        machine.last_generation = machine.last_generation.max(saved.last_generation).max(held_to);
        machine.next_key = machine.next_key.max(saved.next_key).max(worker.key.0.saturating_add(1));
        machine.phase = if worker.drained { Phase::Drained } else { Phase::Serving };
        machine.held_to = Some(held_to);
        machine.holds_others = true;
        machine.told_ready = true;
        // The machine's clock begins at zero, and cannot say that something was before that.
        let reset = machine.limits.backoff_reset;
        let long = Duration::from_millis(worker.served_ms) >= reset;
        let failures = if long { 0 } else { saved.failures };
        machine.restart =
            Restart { at: None, failures, serving_since: Some(Duration::ZERO), count: saved.restarts };
        machine.workers.push(Worker {
            generation: Some(held_to),
            stage: if worker.drained { Stage::Drained } else { Stage::Serving },
            by: None,
            ..Worker::new(worker.key, Role::Serving, Duration::ZERO)
        });
        machine.deferred = saved.deferred.map(|reload| {
            let SavedReload { operation, certs_only, confirm, guard } = reload;
            (operation, Request::Reload { dry_run: false, certs_only, terms: Terms { confirm, guard } })
        });
        let by = machine.limits.reexec;
        machine.active = Some(Operation {
            losses: (operation.outcome == Outcome::AppliedWithLosses).then_some(operation.cause),
            by: Some(by),
            ..Operation::new(operation.key, operation.kind, None, Step::Reexecuting(true))
        });
        Ok(machine)
    }

    /// The supervisor is the new binary now, and what it goes on with is its last step.
    pub(super) fn reexecuted(&mut self) {
        if let Some(Operation { step: Step::Reexecuting(true), kind, .. }) = self.active {
            match kind {
                Kind::Upgrade | Kind::Confirm => self.decide_upgrade(Cause::Done),
                // Nothing else ends like this: it was written by something that knows more than this one.
                _ => self.decide(Outcome::Unknown, Cause::SupervisorDied),
            }
        }
    }
}
