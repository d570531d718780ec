//! How a program in the style of inetd stands.

use handover_api::{CopyState, CopyStatus, ProgramState, ProgramStatus};

use super::super::common::Common;
use super::Served;

impl Served {
    pub(in super::super) fn status(&self, common: &Common) -> ProgramStatus {
        let view = self.processes.view();
        let number = |at: usize| u32::try_from(at + 1).unwrap_or(u32::MAX);
        let copies = view.running.iter().enumerate().map(|(at, running)| CopyStatus {
            number: number(at),
            pid: Some(running.pid),
            slot: running.slot.clone(),
            state: CopyState::Ready,
            started_at: running.started_at.clone(),
            address: running.peer.clone(),
            connections: running.peer.as_ref().map(|_| 1),
            ..CopyStatus::default()
        });
        let held_back = (view.held_back > 0)
            .then(|| format!("connections had to wait {} times because a limit was reached", view.held_back));
        let failed = view.last_failure.clone();
        ProgramStatus {
            name: self.name.clone(),
            state: match (self.begun, self.is_up()) {
                (false, _) => ProgramState::Waiting,
                (true, true) if view.running.is_empty() => ProgramState::OnDemand,
                (true, true) => ProgramState::Running,
                (true, false) if self.ends > 0 => ProgramState::Stopping,
                (true, false) if self.stopped => ProgramState::Stopped,
                (true, false) => ProgramState::Ended,
            },
            detail: self.why_not.clone(),
            slot: self.place(),
            slots: self.edition.spec.slots.iter().map(|slot| slot.name.clone()).collect(),
            wanted: u32::try_from(view.running.len()).unwrap_or(u32::MAX),
            copies: copies.collect(),
            sockets: self.edition.sockets.iter().map(|shared| shared.actual.clone()).collect(),
            pending: self.pending_shown(common),
            warnings: held_back.into_iter().chain(failed).collect(),
            ..ProgramStatus::default()
        }
    }

    /// Processes that run on as they were started, whatever it is meanwhile.
    pub(super) fn others(&self) -> usize {
        self.processes.view().running.len()
    }
}
