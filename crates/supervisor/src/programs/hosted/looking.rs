//! How a program stands, for `status`.

use std::sync::Arc;

use handover_api::{CopyRole, CopyState, CopyStatus, ProgramPending, ProgramState, ProgramStatus};
use handover_lifecycle::program::{CopyView, Role, Stage, State, View};

use super::super::actual_address;
use super::super::common::Common;
use super::super::copy::Copy;
use super::super::traffic::endpoint_name;
use super::{Asker, Hosted};
use crate::protocol::Address;

/// A copy whose memory and connections can be measured: its program, its place in the status, where connections to it are.
pub(in super::super) type Measured = (usize, Arc<Copy>, Vec<Address>);

impl Hosted {
    pub(in super::super) fn status(&self, common: &Common) -> ProgramStatus {
        let view = self.view();
        let spec = self.spec();
        let slots = spec.as_ref().map(|spec| spec.slots.iter().map(|slot| slot.name.clone()).collect());
        let shown = self.current().and_then(|key| self.editions.get(&key));
        let sockets =
            shown.map(|edition| edition.sockets.iter().map(|shared| shared.actual.clone()).collect());
        let warnings = self.copies.values().filter_map(|entry| entry.born.as_ref());
        let mut warnings: Vec<String> = warnings.flat_map(|born| born.warnings.clone()).collect();
        warnings.sort();
        warnings.dedup();
        ProgramStatus {
            name: self.name.clone(),
            state: if self.begun { state(view.state) } else { ProgramState::Waiting },
            detail: self.detail(common, &view),
            slot: self.serving_place(),
            slots: slots.unwrap_or_default(),
            wanted: spec.as_ref().map_or(0, |spec| spec.copies),
            copies: self.copies_shown(common, &view),
            sockets: sockets.unwrap_or_default(),
            pending: self.pending(common, &view),
            warm_until: view.warm_until.map(|at| common.time_of_day(at)),
            paused: None,
            restarts: view.restarts,
            connections: None,
            warnings,
        }
    }

    fn detail(&self, common: &Common, view: &View) -> Option<String> {
        if !self.begun {
            let after = self.spec().map(|spec| spec.after.join(", ")).unwrap_or_default();
            return Some(format!("it comes after {after}"));
        }
        let end = || self.last_end.as_ref().map(|end| end.sentence.clone());
        match (view.state, view.next_start) {
            (State::BackOff, Some(at)) => {
                let left = at.saturating_sub(common.now());
                let what = end().map(|end| format!("{end}; ")).unwrap_or_default();
                Some(format!("{what}started again in {:.1} s", left.as_secs_f64()))
            }
            (State::BackOff | State::Ended | State::Starting, _) => end(),
            (State::Running, Some(_)) => end(),
            _ if view.wanted.is_some_and(|wanted| Some(wanted) != view.edition) => Some(format!(
                "what is configured could not be put into service; 'handover restart {}' tries it again",
                self.name
            )),
            _ => None,
        }
    }

    fn copies_shown(&self, common: &Common, view: &View) -> Vec<CopyStatus> {
        let mut copies: Vec<_> = view.copies.iter().map(|copy| self.copy_shown(common, copy)).collect();
        let order = |role: CopyRole| match role {
            CopyRole::Serving => 0,
            CopyRole::Candidate => 1,
            CopyRole::Draining => 2,
            CopyRole::Warm => 3,
        };
        copies.sort_by_key(|copy| (order(copy.role), copy.number));
        copies
    }

    fn copy_shown(&self, common: &Common, view: &CopyView) -> CopyStatus {
        let entry = self.copies.get(&view.copy);
        let born = entry.and_then(|entry| entry.born.as_ref());
        let has_ended = entry.is_some_and(|entry| entry.exit.is_some());
        CopyStatus {
            number: view.number,
            pid: born.map(|born| born.copy.pid()).filter(|_| !has_ended),
            slot: self.place_name(view.edition),
            role: match view.role {
                Role::Serving => CopyRole::Serving,
                Role::Candidate => CopyRole::Candidate,
                Role::Warm => CopyRole::Warm,
                Role::Leaving => CopyRole::Draining,
            },
            state: match view.stage {
                Stage::Starting | Stage::Checking => CopyState::Starting,
                Stage::Settling => CopyState::Settling,
                Stage::Ready | Stage::Draining => CopyState::Ready,
                Stage::Stopping if !has_ended => CopyState::Stopping,
                Stage::Stopping | Stage::Killed | Stage::Stuck => CopyState::Cleaning,
            },
            off: common.board.off.contains(&endpoint_name(&self.name, view.number)),
            started_at: born.map(|born| born.copy.started_at().to_owned()).unwrap_or_default(),
            proof: entry.and_then(|entry| entry.proof.as_ref()).map(|proof| proof.how.clone()),
            address: born.and_then(|born| born.own.as_ref()).map(|own| own.address.to_string()),
            memory_bytes: None,
            processes: None,
            connections: None,
            restarts: view.restarts,
        }
    }

    fn pending(&self, common: &Common, view: &View) -> Option<ProgramPending> {
        let pending = view.pending?;
        let left = pending.until.saturating_sub(common.now());
        let by = self.pending_by.clone().unwrap_or_else(Asker::supervisor);
        Some(ProgramPending {
            operation_id: by.id,
            slot: self.place_name(pending.edition).unwrap_or_default(),
            back_to: self.place_name(pending.back_to).unwrap_or_default(),
            actor: by.actor,
            comment: by.comment,
            until: common.in_time(left),
            left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// What can be measured, in the order of the copies in the status.
    pub(in super::super) fn measurable(&self, status: &ProgramStatus) -> Vec<Measured> {
        let mut all = Vec::new();
        for entry in self.copies.values() {
            let Some(born) = &entry.born else { continue };
            let at = status.copies.iter().position(|copy| copy.pid == Some(born.copy.pid()));
            let Some(at) = at else { continue };
            let edition = self.editions.get(&entry.edition);
            let mut places: Vec<Address> = edition
                .map(|edition| edition.sockets.iter().map(actual_address).collect())
                .unwrap_or_default();
            places.extend(born.own.as_ref().map(|own| own.address.clone()));
            all.push((at, Arc::clone(&born.copy), places));
        }
        all
    }
}

fn state(state: State) -> ProgramState {
    match state {
        State::New => ProgramState::Waiting,
        State::OnDemand => ProgramState::OnDemand,
        State::Starting => ProgramState::Starting,
        State::Running => ProgramState::Running,
        State::Swapping => ProgramState::Swapping,
        State::BackOff => ProgramState::BackOff,
        State::Stopping => ProgramState::Stopping,
        State::Stopped => ProgramState::Stopped,
        State::Ended => ProgramState::Ended,
    }
}
