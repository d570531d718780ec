//! Upgrades: not yet.

use super::Machine;
use crate::{
    CallKey, CannotResume, Cause, Exam, Finding, Kind, Limits, OperationKey, Outcome, Recovered, Request,
    Saved, Source, WorkerKey,
};

impl Machine {
    /// What goes with the supervisor into its new binary.
    #[must_use]
    pub fn save(&self) -> Saved {
        Saved::default()
    }

    /// A machine that goes on where another one left off: its first event is [`crate::Event::Reexecuted`].
    ///
    /// `recovered` is looked at only for the numbers that must not be given twice.
    ///
    /// # Errors
    ///
    /// The saved state does not say enough.
    pub fn resume(_: Limits, _: Recovered, saved: Saved) -> Result<Self, CannotResume> {
        let Saved { operation, .. } = saved;
        operation.ok_or(CannotResume::NoOperation)?;
        Err(CannotResume::NoWorker)
    }

    pub(super) fn begin_upgrade(&mut self, operation: OperationKey, request: Request) {
        let step = super::Step::AwaitWorker(Source::Disk);
        self.begin(operation, Kind::Upgrade, Some(request), step);
        self.decide(Outcome::NotReady, Cause::BinaryUnfit);
    }

    pub(super) fn reexecuted(&mut self) {}

    pub(super) fn examined(&mut self, _: OperationKey, _: Exam, _: Finding) {}

    pub(super) fn took_over(&mut self, _: WorkerKey, _: CallKey, _: bool) {}

    pub(super) fn handed_over(&mut self, _: WorkerKey, _: CallKey) {}

    pub(super) fn handoff_failed(&mut self, _: WorkerKey, _: CallKey) {}

    pub(super) fn reexec_failed(&mut self, _: OperationKey) {}
}
