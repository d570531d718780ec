//! The requests that are not answered yet, and the operations that ended lately.
//!
//! ```text
//!   request ─▶ asked ──┬── Started / Deferred ─▶ runs ─▶ ended, written, answered
//!                      ├── Joined ─────────────▶ waits for another one's end, ends like it
//!                      └── Refuse ─────────────▶ refused, written, answered
//! ```

mod saving;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use handover_api::{ActorKind, Binary, Operation, Refused, Step, StepName, operation_id};
use handover_lifecycle::{Cause, Kind, OperationKey, Verdict};
use tokio::sync::oneshot;

use crate::driver::Loaded;
use crate::handle::{Ask, NewOperation, ProgramWhat, Ticket};
use crate::journal::now;
use crate::protocol::GuardLimits;

/// Ended operations that are found without asking the journal.
const RECENT: usize = 16;
/// Steps of one operation that are noted.
const MAX_STEPS: usize = 64;

/// Who waits for a request to be admitted or refused.
pub(crate) type Admission = oneshot::Sender<Result<Ticket, Refused>>;

/// A request that is not answered yet.
#[derive(Debug)]
pub(crate) struct Entry {
    /// What will be written and answered.
    pub(crate) operation: Operation,
    /// What was asked; `None` for the supervisor's own and for those of an earlier supervisor.
    pub(crate) ask: Option<Ask>,
    /// The operation whose end is this one's.
    pub(crate) joins: Option<OperationKey>,
    /// Whether its beginning is in the journal, or on its way there.
    pub(crate) is_noted: bool,
    /// Whether it has begun: not while it waits for its turn.
    pub(crate) is_begun: bool,
    /// Whether everybody was told that it has begun.
    pub(crate) is_told: bool,
    /// Whether it only looks, and leaves no trace.
    pub(crate) is_look: bool,
    /// What its guard compares, if it has one.
    pub(crate) guard: GuardLimits,
    /// The kept binary that it upgrades to, if it asks for that.
    pub(crate) binary: Option<Binary>,
    /// Who wants to see the bytes that it prepares.
    shows: Option<oneshot::Sender<Arc<Loaded>>>,
    begun: Instant,
    step: Option<(StepName, Instant)>,
    admission: Option<Admission>,
    waiting: Vec<oneshot::Sender<Operation>>,
}

/// What is written of a request that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trace {
    /// Nothing, if somebody is there to be told.
    None,
    /// That it was refused.
    New,
    /// The end of what is noted already: it waited for its turn.
    Noted,
}

/// All requests that are not answered yet.
#[derive(Debug)]
pub(crate) struct Operations {
    made: u64,
    entries: BTreeMap<OperationKey, Entry>,
    recent: VecDeque<Operation>,
}

impl Operations {
    pub(crate) fn new() -> Self {
        Operations { made: 0, entries: BTreeMap::new(), recent: VecDeque::new() }
    }

    /// Takes in a request; what becomes of it is told to `admission`.
    pub(crate) fn ask(
        &mut self,
        new: NewOperation,
        serving: Option<u64>,
        admission: Option<Admission>,
    ) -> OperationKey {
        let id = new.id.clone().unwrap_or_else(operation_id);
        let mut operation = described(id, &new);
        operation.serving_generation = serving;
        self.insert(operation, Some(new.ask), admission)
    }

    /// Takes in an operation that nobody asked this supervisor for.
    pub(crate) fn own(&mut self, operation: Operation) -> OperationKey {
        self.insert(operation, None, None)
    }

    /// The same under a key that the machine has chosen.
    pub(crate) fn own_as(&mut self, key: OperationKey, operation: Operation) {
        self.insert_as(key, operation, None, None);
    }

    /// Takes in a dry run that leaves no trace. `shows` gets the bytes that it prepares.
    pub(crate) fn look(
        &mut self,
        new: NewOperation,
        serving: Option<u64>,
        admission: Admission,
        shows: oneshot::Sender<Arc<Loaded>>,
    ) -> OperationKey {
        let mut operation = Operation::running(operation_id(), Kind::DryRun, new.actor, now());
        operation.serving_generation = serving;
        let key = self.insert(operation, Some(new.ask), Some(admission));
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.is_look = true;
            entry.shows = Some(shows);
        }
        key
    }

    fn insert(
        &mut self,
        operation: Operation,
        ask: Option<Ask>,
        admission: Option<Admission>,
    ) -> OperationKey {
        self.made += 1;
        let key = OperationKey(self.made);
        self.insert_as(key, operation, ask, admission);
        key
    }

    fn insert_as(
        &mut self,
        key: OperationKey,
        operation: Operation,
        ask: Option<Ask>,
        admission: Option<Admission>,
    ) {
        let entry = Entry {
            operation,
            ask,
            joins: None,
            is_noted: false,
            is_begun: false,
            is_told: false,
            is_look: false,
            guard: GuardLimits::DEFAULT,
            binary: None,
            shows: None,
            begun: Instant::now(),
            step: None,
            admission,
            waiting: Vec::new(),
        };
        self.entries.insert(key, entry);
    }

    pub(crate) fn get_mut(&mut self, key: OperationKey) -> Option<&mut Entry> {
        self.entries.get_mut(&key)
    }

    pub(crate) fn get(&self, key: OperationKey) -> Option<&Entry> {
        self.entries.get(&key)
    }

    /// The one with this public ID, if it is not answered yet.
    pub(crate) fn by_id(&mut self, id: &str) -> Option<&mut Entry> {
        self.entries.values_mut().find(|entry| entry.operation.id == id)
    }

    /// The one with this public ID, if it ended lately.
    pub(crate) fn ended(&self, id: &str) -> Option<&Operation> {
        self.recent.iter().rev().find(|operation| operation.id == id && operation.refused.is_none())
    }

    /// All that are not answered yet.
    pub(crate) fn unanswered(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.values_mut()
    }

    /// The requests that joined this one.
    pub(crate) fn joined(&self, key: OperationKey) -> Vec<OperationKey> {
        self.entries.iter().filter(|(_, entry)| entry.joins == Some(key)).map(|(key, _)| *key).collect()
    }

    /// Answers whoever waits, and forgets the request. `None` if there is nothing to tell anybody else.
    pub(crate) fn answer(&mut self, key: OperationKey) -> Option<Operation> {
        let mut entry = self.entries.remove(&key)?;
        // It ended before its beginning could be written: the journal hangs.
        entry.admit();
        for waiting in entry.waiting {
            let _ = waiting.send(entry.operation.clone());
        }
        if entry.is_look {
            return None;
        }
        self.recent.push_back(entry.operation.clone());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        Some(entry.operation)
    }

    /// Takes the request out, to refuse it; and what is to be written of that.
    pub(crate) fn take(&mut self, key: OperationKey) -> Option<(Operation, Option<Admission>, Trace)> {
        let entry = self.entries.remove(&key)?;
        let is_watch = entry.operation.actor.kind == ActorKind::Watch;
        let trace = match entry.is_noted {
            true => Trace::Noted,
            false if entry.is_look || is_watch => Trace::None,
            false => Trace::New,
        };
        Some((entry.operation, entry.admission, trace))
    }
}

impl Entry {
    /// It was admitted: whoever asked gets a ticket.
    pub(crate) fn admit(&mut self) {
        if let Some(admission) = self.admission.take() {
            let _ = admission.send(Ok(self.ticket()));
        }
    }

    /// A ticket for somebody who waits for the end.
    pub(crate) fn ticket(&mut self) -> Ticket {
        let (done, waiting) = oneshot::channel();
        self.waiting.push(done);
        Ticket { operation: self.as_it_is(), done: waiting }
    }

    /// It prepares these bytes.
    pub(crate) fn show(&mut self, loaded: &Arc<Loaded>) {
        if let Some(shows) = self.shows.take() {
            let _ = shows.send(Arc::clone(loaded));
        }
    }

    /// It comes to its next step.
    pub(crate) fn step(&mut self, step: StepName) {
        self.end_step();
        self.step = Some((step, Instant::now()));
    }

    /// The operation as it is now.
    pub(crate) fn as_it_is(&self) -> Operation {
        let mut operation = self.operation.clone();
        if operation.outcome.is_none() {
            operation.ms = milliseconds(self.begun);
            let running = self.step.map(|(step, since)| named(step, since));
            operation.steps.extend(running);
        }
        operation
    }

    /// It ends like this.
    pub(crate) fn finish(&mut self, verdict: Verdict) {
        self.end_step();
        self.operation.serving_generation = verdict.serving.map(|generation| generation.0);
        if let Some(made) = verdict.made {
            self.operation.generation = Some(made.0);
        }
        // How long it took in the life of another supervisor is not known better than that one knew it.
        let of_another = verdict.cause == Cause::SupervisorDied;
        let ms = if of_another { self.operation.ms } else { milliseconds(self.begun) };
        self.operation.finish(verdict.outcome, verdict.cause, ms);
    }

    /// It ends as the one that it joined.
    pub(crate) fn finish_like(&mut self, other: &Operation) {
        let own = self.operation.clone();
        self.operation = other.clone();
        self.operation.id = own.id;
        self.operation.actor = own.actor;
        self.operation.comment = own.comment;
        self.operation.started_at = own.started_at;
        self.operation.ms = milliseconds(self.begun);
    }

    fn end_step(&mut self) {
        if let Some((step, since)) = self.step.take()
            && self.operation.steps.len() < MAX_STEPS
        {
            self.operation.steps.push(named(step, since));
        }
    }
}

/// What a request will be as an operation.
pub(crate) fn described(id: String, new: &NewOperation) -> Operation {
    let mut operation = Operation::running(id, kind_of(&new.ask), new.actor.clone(), now());
    if let Ask::Action { name, .. } = &new.ask {
        operation.action = Some(name.clone());
    }
    if let Ask::Restore { restored, .. } = &new.ask {
        operation.source = Some(restored.source.clone());
        operation.warnings.clone_from(&restored.notes);
    }
    if let Ask::Program(asked) = &new.ask {
        operation.target.clone_from(&asked.target);
    }
    operation.comment.clone_from(&new.comment);
    operation.message = operation.sentence();
    operation
}

/// What kind of operation a request asks for.
pub(crate) fn kind_of(ask: &Ask) -> Kind {
    match ask {
        Ask::Reload { .. } => Kind::Reload,
        Ask::Validate | Ask::Restore { dry_run: true, .. } | Ask::Upgrade { dry_run: true, .. } => {
            Kind::DryRun
        }
        Ask::Rollback { .. } => Kind::Rollback,
        Ask::Restore { .. } => Kind::Restore,
        Ask::Upgrade { .. } => Kind::Upgrade,
        Ask::Confirm => Kind::Confirm,
        Ask::Cancel => Kind::Cancel,
        Ask::Action { .. } => Kind::Action,
        Ask::Drain { .. } => Kind::Drain,
        Ask::Resume => Kind::Resume,
        Ask::Program(asked) => kind_of_program(&asked.what),
        Ask::Stop { .. } => Kind::Stop,
    }
}

/// The same for what is about programs.
pub(crate) fn kind_of_program(what: &ProgramWhat) -> Kind {
    match what {
        ProgramWhat::Start => Kind::ProgramStart,
        ProgramWhat::Stop => Kind::ProgramStop,
        ProgramWhat::Restart { .. } => Kind::ProgramRestart,
        ProgramWhat::Reload => Kind::ProgramReload,
        ProgramWhat::Deploy { .. } => Kind::ProgramDeploy,
        ProgramWhat::Rollback | ProgramWhat::GoBack => Kind::ProgramRollback,
        ProgramWhat::Confirm => Kind::ProgramConfirm,
        ProgramWhat::Cancel => Kind::ProgramCancel,
        ProgramWhat::Pause { .. } => Kind::Pause,
        ProgramWhat::Resume => Kind::ResumeTraffic,
        ProgramWhat::DrainEndpoint { .. } => Kind::DrainEndpoint,
        ProgramWhat::EnableEndpoint => Kind::EnableEndpoint,
    }
}

fn named(step: StepName, since: Instant) -> Step {
    let name = serde_json::to_value(step).ok().and_then(|name| name.as_str().map(str::to_owned));
    Step { name: name.unwrap_or_default(), ms: milliseconds(since) }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use handover_api::Actor;

    use super::*;

    #[test]
    fn everybody_who_waits_is_answered() {
        let mut operations = Operations::new();
        let new = NewOperation::new(Ask::reload(), Actor::signal("HUP"));
        let (admission, mut admitted) = oneshot::channel();
        let key = operations.ask(new, Some(1), Some(admission));
        operations.get_mut(key).unwrap().admit();
        let mut first = admitted.try_recv().unwrap().unwrap();
        let mut second = operations.get_mut(key).unwrap().ticket();
        operations.answer(key);
        assert_eq!(first.done.try_recv().unwrap().id, second.done.try_recv().unwrap().id);
        assert!(operations.ended(&first.operation.id).is_some());
    }
}
