//! What the next connection gets: restarts, deploys, rollbacks.
//!
//! ```text
//!   deploy ─▶ look ─▶ hook ─▶ write down ─▶ the next connection is the new edition's ─▶ who has the socket ends ─▶ guard ─▶ done
//!   rollback, cancel ──────────────▲          restart ──▲
//! ```
//!
//! What fails before it is written down has changed nothing.

use std::path::{Path, PathBuf};

use handover_api::{Problem, ServesNow};
use handover_lifecycle::{CallKey, Cause, OperationKey, Outcome, StepName};

use super::super::asked::What;
use super::super::commands::{self, Failed, Finished};
use super::super::common::Common;
use super::super::editions::{Edition, Place};
use super::super::happened::Of;
use super::super::hosted::{environment_of, is_directory, next_slot, setting_of};
use super::super::out::Out;
use super::super::state::DurableProgram;
use super::pending::Pending;
use super::{Served, Waits};
use crate::protocol::CommandSpec;

/// What it is to be.
#[derive(Debug)]
pub(super) struct Move {
    pub(super) next: Edition,
    pub(super) before: Option<Edition>,
    pub(super) pending: Option<Pending>,
    /// Whether a deploy is taken back by it: that somebody serves outranks that it is written down.
    pub(super) back: bool,
}

impl Served {
    /// Each process is started anew anyway: only who has the listening socket has to make room.
    pub(super) fn restart(&mut self, common: &mut Common) {
        self.replace(common);
        self.go_on_with_others(common);
    }

    pub(super) fn deploy(&mut self, common: &mut Common, slot: Option<&str>, directory: Option<&Path>) {
        if self.pending.is_some() {
            let why = format!(
                "a deploy awaits confirmation: 'handover confirm {0}' or 'handover cancel {0}' first",
                self.name
            );
            return self.refuse(common, Cause::Pending, &why);
        }
        let place = match (slot, directory) {
            (Some(_), Some(_)) => Err("a deploy is to a slot or to a directory, not to both".to_owned()),
            (None, Some(directory)) => Ok(Place::Directory(directory.to_owned())),
            (slot, None) => next_slot(&self.edition.spec, self.edition.place.as_ref(), slot),
        };
        let place = match place {
            Ok(place) if Some(&place) == self.edition.place.as_ref() => {
                return self.refuse(common, Cause::Unfit, &format!("{place} serves already"));
            }
            Ok(place) => place,
            Err(why) => return self.refuse(common, Cause::Unfit, &why),
        };
        let next = Edition { place: Some(place), ..self.edition.clone() };
        let words = next.words();
        let command = match words.expand_all(next.command()) {
            Ok(command) => command,
            Err(unfilled) => return self.refuse(common, Cause::Unfit, &unfilled.to_string()),
        };
        let mut path = environment_of(&next, &words).remove("PATH");
        path = path.or_else(|| std::env::var("PATH").ok());
        let directory = next.directory().map(Path::to_owned);
        let teller = common.teller_of_served(&self.name);
        let Some(active) = &mut self.active else { return };
        active.ended.program.to = next.place.as_ref().map(ToString::to_string);
        active.waits = Some(Waits::Look(next));
        let operation = active.inner;
        tokio::task::spawn_blocking(move || {
            let result = directory.as_deref().map_or(Ok(()), is_directory);
            let result = result.and_then(|()| is_there(&command, directory.as_deref(), path.as_deref()));
            teller.tell(Of::Looked { operation, result });
        });
    }

    /// The place of a deploy was looked at.
    pub(super) fn looked(
        &mut self,
        common: &mut Common,
        operation: OperationKey,
        result: Result<(), String>,
    ) {
        let active = self.active.as_mut().filter(|active| active.inner == operation);
        let Some(Waits::Look(next)) = active.and_then(|active| active.waits.take()) else { return };
        if let Err(why) = result {
            return self.refuse(common, Cause::Unfit, &why);
        }
        let Some(hook) = next.spec.hook.clone() else { return self.deploy_to(common, next) };
        let words = next.words();
        let setting = setting_of(&next, &environment_of(&next, &words), &words, &common.groups);
        let setting = commands::Setting { place: Some(common.place.clone()), ..setting };
        let (teller, name) = (common.teller_of_served(&self.name), self.name.clone());
        let Some(active) = &mut self.active else { return };
        common.out.push(Out::Step { operation: active.ended.operation, step: StepName::Hook });
        active.waits = Some(Waits::Hook(next));
        let task = tokio::spawn(async move {
            let command = words.expand_all(&hook.command).unwrap_or(hook.command);
            let result = commands::run(&name, &CommandSpec { command, limit: hook.limit }, &setting).await;
            teller.tell(Of::Hooked { operation, result });
        });
        active.task = Some(task.abort_handle());
    }

    pub(super) fn hooked(
        &mut self,
        common: &mut Common,
        operation: OperationKey,
        result: Result<Finished, Failed>,
    ) {
        let active = self.active.as_mut().filter(|active| active.inner == operation);
        let Some(Waits::Hook(next)) = active.and_then(|active| active.waits.take()) else { return };
        match result {
            Ok(_) => self.deploy_to(common, next),
            Err(failed) => {
                self.note(format!("the hook of {} failed: {failed}", self.name));
                self.finish(common, Outcome::Rejected, Cause::HookFailed);
            }
        }
    }

    fn deploy_to(&mut self, common: &mut Common, next: Edition) {
        let Some(active) = &self.active else { return };
        let What::Deploy { confirm, guard, .. } = &active.what else { return };
        let until = confirm.map(|confirm| common.now() + guard.unwrap_or_default() + confirm);
        let pending = until.map(|until| Pending::new(until, active.asker.clone()));
        self.move_to(common, Move { next, before: Some(self.edition.clone()), pending, back: false });
    }

    pub(super) fn roll_back(&mut self, common: &mut Common) {
        if self.pending.is_some() {
            return self.take_back(common);
        }
        match self.before.clone() {
            Some(next) => {
                let before = Some(self.edition.clone());
                self.move_to(common, Move { next, before, pending: None, back: false });
            }
            None => {
                let why = "there is nothing that it ran before its last deploy and could go back to";
                self.refuse(common, Cause::Unfit, why);
            }
        }
    }

    /// It is written down what it is to be, and then it is that.
    pub(super) fn move_to(&mut self, common: &mut Common, to: Move) {
        let Some(active) = &mut self.active else { return };
        let durable = DurableProgram {
            place: to.next.place.clone(),
            before: to.before.as_ref().and_then(|before| before.place.clone()),
            pending_until: to.pending.as_ref().map(|pending| pending.time_of_day(common)),
            stopped: self.stopped,
        };
        let call = CallKey(active.inner.0);
        active.waits = Some(Waits::Saved(Box::new(to)));
        if common.save_program(&self.name, durable, call) {
            self.saved(common, call, true);
        }
    }

    /// It was written down, or could not be.
    pub(in super::super) fn saved(&mut self, common: &mut Common, call: CallKey, ok: bool) {
        let active = self.active.as_mut().filter(|active| CallKey(active.inner.0) == call);
        let Some(active) = active.filter(|active| matches!(active.waits, Some(Waits::Saved(_)))) else {
            return;
        };
        let Some(Waits::Saved(to)) = active.waits.take() else { return };
        if !ok {
            let why = format!(
                "which slot of {} serves could not be written down, and a restart would not know it: look at the disk of the \
                 state directory",
                self.name
            );
            if !to.back {
                self.note(why);
                self.note_state(common);
                return self.finish(common, Outcome::NotReady, Cause::StateNotSaved);
            }
            active.ended.warnings.push(Problem::new(why));
        }
        let moves = self.edition.place != to.next.place;
        (self.before, self.pending) = (to.before, to.pending);
        common.out.push(Out::Keep);
        if !moves {
            return self.done(common);
        }
        self.edition = to.next;
        self.processes.watch();
        if self.listening.is_some() {
            self.replace(common);
        }
        self.go_on_with_others(common);
    }

    /// The next connection gets something else, unless that is not possible; who has the socket makes room.
    fn go_on_with_others(&mut self, common: &mut Common) {
        if let Some(why) = self.why_not.clone() {
            self.note(why);
            return self.finish(common, Outcome::NotReady, Cause::ProgramNotStarted);
        }
        let Some(inner) = self.active.as_ref().map(|active| active.inner) else { return };
        if self.end_with_socket(common, Some(inner)) {
            if let Some(active) = &mut self.active {
                active.waits = Some(Waits::End);
            }
            return;
        }
        self.moved(common);
    }

    /// The next connection is the new edition's, and nobody else serves.
    pub(super) fn moved(&mut self, common: &mut Common) {
        let Some(active) = &mut self.active else { return };
        match active.what {
            What::Deploy { guard: Some(time), .. } if !active.goes_back && self.listening.is_some() => {
                common.out.push(Out::Step { operation: active.ended.operation, step: StepName::Guard });
                active.waits = Some(Waits::Guard(common.now() + time));
                self.judge(common);
            }
            _ => self.done(common),
        }
    }

    /// The operation has reached its end.
    pub(super) fn done(&mut self, common: &mut Common) {
        let (place, others) = (self.place(), self.others());
        let goes_back = self.goes_back(common);
        let Some(active) = &mut self.active else { return };
        let result = &mut active.ended.program;
        let is_back = active.goes_back && matches!(active.what, What::Deploy { .. });
        if is_back {
            result.serves = ServesNow::OldAgain;
        } else {
            result.to = place;
            result.goes_back = goes_back.filter(|_| matches!(active.what, What::Deploy { .. }));
        }
        if self.listening.is_none() {
            result.serves = ServesNow::Nothing;
        }
        if others > 0 && !matches!(active.what, What::Confirm) {
            let what = match others {
                1 => "1 process goes on as it was started".to_owned(),
                _ => format!("{others} processes go on as they were started"),
            };
            active.ended.warnings.push(Problem::new(what));
        }
        let (outcome, cause) = match (is_back, active.ended.losses.is_empty()) {
            (true, _) => (Outcome::RolledBack, Cause::GuardFailed),
            (false, true) => (Outcome::Applied, Cause::Done),
            (false, false) => (Outcome::AppliedWithLosses, Cause::StopForced),
        };
        self.finish(common, outcome, cause);
    }

    pub(in super::super) fn call_off(&mut self, common: &mut Common, operation: OperationKey) -> bool {
        let Some(active) = self.active.as_mut().filter(|active| active.ended.operation == operation) else {
            return false;
        };
        if let Some(task) = active.task.take() {
            task.abort();
        }
        match active.waits {
            // Nothing was changed yet.
            Some(Waits::Look(_) | Waits::Hook(_)) => {
                self.finish(common, Outcome::Rejected, Cause::ShuttingDown);
            }
            Some(Waits::Guard(_)) => self.finish(common, Outcome::Applied, Cause::ShuttingDown),
            _ => self.finish(common, Outcome::Unknown, Cause::ShuttingDown),
        }
        true
    }
}

impl What {
    /// Whether a program goes from one place to another.
    pub(super) fn is_move(&self) -> bool {
        matches!(self, What::Deploy { .. } | What::Rollback | What::Cancel | What::Confirm | What::GoBack)
    }
}

/// Whether there is something to be started, as far as that can be seen without starting it.
fn is_there(command: &[String], directory: Option<&Path>, path: Option<&str>) -> Result<(), String> {
    let Some(name) = command.first() else { return Err("its command is empty".to_owned()) };
    let at = |path: PathBuf| directory.map_or(path.clone(), |directory| directory.join(&path));
    let candidates: Vec<PathBuf> = match (name.contains('/'), path) {
        (true, _) => vec![at(PathBuf::from(name))],
        (false, Some(path)) => std::env::split_paths(path).map(|entry| at(entry.join(name))).collect(),
        // Somewhere where the system looks.
        (false, None) => return Ok(()),
    };
    let may_run =
        |path: &PathBuf| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    if candidates.iter().any(may_run) {
        return Ok(());
    }
    match candidates.as_slice() {
        [only] if only.exists() => Err(format!("{} cannot be executed", only.display())),
        [only] => Err(format!("there is no {}", only.display())),
        _ => Err(format!("there is no {name} in PATH")),
    }
}
