//! How operations on a program begin.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use handover_api::{Problem, ProgramResult};
use handover_lifecycle::program::{Ask, EditionKey, Event, State};
use handover_lifecycle::{Cause, OperationKey, Outcome};

use super::super::asked::{Asker, What};
use super::super::common::Common;
use super::super::editions::{Edition, Place};
use super::super::happened::Of;
use super::super::out::{Ended, Out};
use super::{Active, Hosted, plan_of};
use crate::protocol::{ProgramSpec, Swap};

/// How long an answer waits for the number of requests that were held.
const FIGURES_LIMIT: Duration = Duration::from_millis(200);
/// How much longer an operation may take than its parts: copies are started by threads, and what they say comes through queues.
const GRACE: Duration = Duration::from_secs(5);

impl Hosted {
    /// An operation begins.
    pub(in super::super) fn ask(
        &mut self,
        common: &mut Common,
        operation: OperationKey,
        what: &What,
        asker: Asker,
    ) {
        let inner = common.next_operation();
        let from = self.serving_place();
        let program = ProgramResult { from, ..ProgramResult::default() };
        self.active = Some(Active {
            inner,
            ended: Ended::applied(operation, program),
            what: what.clone(),
            asker,
            copies: BTreeSet::new(),
            edition: None,
            task: None,
        });
        if !self.begun {
            let why = "it waits for the programs that it comes after, and was not started yet";
            return self.refuse(common, Cause::Unfit, &format!("{}: {why}", self.name));
        }
        let ask = match what {
            What::Start => Ask::Start,
            What::Stop => Ask::Stop,
            What::Restart { batch, max_unhealthy } => {
                Ask::Restart { batch: *batch, max_unhealthy: *max_unhealthy }
            }
            What::Rollback => Ask::Rollback,
            What::Confirm => Ask::Confirm,
            What::Cancel => Ask::Cancel,
            What::GoBack => Ask::GoBack,
            What::Reload => return self.reload(common),
            What::Deploy { slot, directory, .. } => {
                return self.look(common, slot.as_deref(), directory.as_deref());
            }
            What::Pause { .. } | What::Resume | What::DrainEndpoint { .. } | What::EnableEndpoint => {
                return self.refuse(common, Cause::Unfit, "this is not asked of a program");
            }
        };
        if matches!(what, What::Rollback) {
            let view = self.view();
            if let (Some(before), Some(active)) = (view.before, &mut self.active) {
                active.edition = Some(before);
            }
            self.show_target();
        }
        if matches!(what, What::Confirm) {
            let stays = self.view().pending.and_then(|pending| self.place_name(pending.edition));
            if let Some(active) = &mut self.active {
                active.ended.program.to = stays;
            }
        }
        self.tell_machine(common, ask);
    }

    pub(super) fn tell_machine(&mut self, common: &mut Common, ask: Ask) {
        let Some(operation) = self.active.as_ref().map(|active| active.inner) else { return };
        self.step(common, Event::Ask { operation, ask });
    }

    /// Nobody waits for it any more.
    pub(in super::super) fn call_off(&mut self, common: &mut Common, operation: OperationKey) -> bool {
        let Some(active) = self.active.as_mut().filter(|active| active.ended.operation == operation) else {
            return false;
        };
        let (inner, task) = (active.inner, active.task.take());
        if let Some(task) = task {
            task.abort();
        }
        if matches!(active.what, What::Reload) {
            self.finish(common, Outcome::Unknown, Cause::ShuttingDown);
            return true;
        }
        self.step(common, Event::CallOff { operation: inner });
        if self.active.as_ref().is_some_and(|active| active.inner == inner && active.edition.is_none()) {
            // The machine was not asked yet.
            let was_asked = self.view().operation == Some(inner);
            if !was_asked {
                self.finish(common, Outcome::Rejected, Cause::ShuttingDown);
            }
        }
        true
    }

    /// The operation ends before anything was done.
    pub(super) fn refuse(&mut self, common: &mut Common, cause: Cause, why: &str) {
        if let Some(active) = &mut self.active {
            active.ended.problems.push(Problem::new(why));
        }
        self.finish(common, Outcome::Rejected, cause);
    }

    /// Where the version lies that serves.
    pub(super) fn serving_place(&self) -> Option<String> {
        self.place_name(self.view().edition.or(self.first)?)
    }

    /// The place that a deploy is to is looked at, elsewhere: the disk may take its time.
    fn look(&mut self, common: &mut Common, slot: Option<&str>, directory: Option<&Path>) {
        let edition = match self.deployed(slot, directory) {
            Ok(edition) => edition,
            Err(why) => return self.refuse(common, Cause::Unfit, &why),
        };
        let directory = edition.directory().map(ToOwned::to_owned);
        let key = self.add(edition);
        let Some(active) = &mut self.active else { return };
        active.edition = Some(key);
        let (operation, teller) = (active.inner, common.teller(&self.name));
        self.show_target();
        tokio::task::spawn_blocking(move || {
            let result = directory.map_or(Ok(()), |directory| is_directory(&directory));
            teller.tell(Of::Looked { operation, result });
        });
    }

    /// It is there, or not: the deploy goes on.
    pub(super) fn looked(
        &mut self,
        common: &mut Common,
        operation: OperationKey,
        result: Result<(), String>,
    ) {
        let Some(active) = self.active.as_ref().filter(|active| active.inner == operation) else { return };
        let (Some(edition), What::Deploy { confirm, guard, .. }) = (active.edition, active.what.clone())
        else {
            return;
        };
        if let Err(why) = result {
            self.editions.remove(&edition);
            return self.refuse(common, Cause::Unfit, &why);
        }
        let Some(spec) = self.editions.get(&edition).map(|edition| Arc::clone(&edition.spec)) else { return };
        self.tell_machine(common, deploy(edition, &spec, confirm, guard));
    }

    /// What a deploy is to start.
    fn deployed(&self, slot: Option<&str>, directory: Option<&Path>) -> Result<Edition, String> {
        let current = self.current().and_then(|key| self.editions.get(&key));
        let Some(current) = current else { return Err(format!("{} is not known yet", self.name)) };
        let place = match (slot, directory) {
            (Some(_), Some(_)) => {
                return Err("a deploy is to a slot or to a directory, not to both".to_owned());
            }
            (None, Some(directory)) => Place::Directory(directory.to_owned()),
            (slot, None) => {
                let serving = self.view().edition.and_then(|key| self.editions.get(&key)?.place.as_ref());
                next_slot(&current.spec, serving, slot)?
            }
        };
        let serving = self.view().edition.and_then(|key| self.editions.get(&key));
        if serving.is_some_and(|serving| serving.place.as_ref() == Some(&place)) {
            return Err(format!(
                "{} serves from {place} already: deploy to another slot, or 'handover restart {}'",
                self.name, self.name
            ));
        }
        Ok(Edition { place: Some(place), ..current.clone() })
    }

    /// The operation shows where it leads to.
    fn show_target(&mut self) {
        let to = self.active.as_ref().and_then(|active| self.place_name(active.edition?));
        if let Some(active) = &mut self.active {
            active.ended.program.to = to;
        }
    }

    /// The longest time that this may take.
    pub(in super::super) fn longest(&self, what: &What) -> Duration {
        let Some(spec) = self.spec() else { return GRACE };
        let ask = match what {
            What::Start => Ask::Start,
            What::Stop => Ask::Stop,
            What::Restart { batch, max_unhealthy } => {
                Ask::Restart { batch: *batch, max_unhealthy: *max_unhealthy }
            }
            What::Deploy { confirm, guard, .. } => deploy(EditionKey(0), &spec, *confirm, *guard),
            What::Rollback => Ask::Rollback,
            What::Confirm => Ask::Confirm,
            What::Cancel => Ask::Cancel,
            What::GoBack => Ask::GoBack,
            What::Reload => return self.longest_reload(&spec) + GRACE,
            _ => return GRACE,
        };
        self.machine.longest(&ask) + GRACE
    }

    /// The longest time that an exam of this definition may take; none if it needs none, or cannot have one.
    pub(in super::super) fn longest_exam(&self, spec: &ProgramSpec) -> Option<Duration> {
        let state = self.view().state;
        let runs = self.begun && !matches!(state, State::Stopped | State::OnDemand | State::Ended);
        let is_examined = match runs {
            true => spec.swap == Swap::Overlap,
            // Of one that was never there, everything can be tried.
            false => !self.begun && !spec.on_demand,
        };
        is_examined.then(|| self.machine.longest_exam(&plan_of(spec)) + GRACE)
    }

    /// Ends the operation; what it says is complete.
    pub(super) fn finish(&mut self, common: &mut Common, outcome: Outcome, cause: Cause) {
        let Some(active) = self.active.take() else { return };
        let mut ended = active.ended;
        (ended.outcome, ended.cause) = (outcome, cause);
        if self.asked_held > 0 {
            self.late = Some((Box::new(ended), common.now() + FIGURES_LIMIT));
            return;
        }
        common.out.push(Out::Ended(Box::new(ended)));
    }

    /// An end that has waited for its figures is told.
    pub(super) fn answer_late(&mut self, common: &mut Common) {
        self.asked_held = 0;
        if let Some((ended, _)) = self.late.take() {
            common.out.push(Out::Ended(ended));
        }
    }
}

fn deploy(
    edition: EditionKey,
    spec: &ProgramSpec,
    confirm: Option<Duration>,
    guard: Option<Duration>,
) -> Ask {
    let hook = spec.hook.as_ref().map(|hook| hook.limit);
    Ask::Deploy { edition, plan: plan_of(spec), hook, confirm, guard }
}

/// Whether something can be started there.
pub(in super::super) fn is_directory(path: &Path) -> Result<(), String> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(format!("{} is no directory", path.display())),
        Err(error) => Err(format!("the directory {} cannot be used: {error}", path.display())),
    }
}

/// The slot of this name, or the one after the one that serves.
pub(in super::super) fn next_slot(
    spec: &ProgramSpec,
    serving: Option<&Place>,
    slot: Option<&str>,
) -> Result<Place, String> {
    let names: Vec<&str> = spec.slots.iter().map(|slot| slot.name.as_str()).collect();
    let at = names.iter().position(|name| serving == Some(&Place::Slot((*name).to_owned())));
    let next = match (slot, at) {
        (Some(slot), _) => names.iter().find(|name| **name == slot),
        (None, Some(at)) => names.get((at + 1) % names.len()),
        (None, None) => names.first(),
    };
    let unknown = || match slot {
        Some(slot) if names.is_empty() => format!("{} has no slots, so there is no slot {slot:?}", spec.name),
        Some(slot) => format!("{} has no slot {slot:?}; its slots are {}", spec.name, names.join(", ")),
        None => format!(
            "{0} has no slots: say '--directory DIR', give it slots in the configuration, or 'handover restart {0}'",
            spec.name
        ),
    };
    next.map(|name| Place::Slot((*name).to_owned())).ok_or_else(unknown)
}
