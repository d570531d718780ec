//! What is asked for, on its way to the machine: looked up, checked, admitted or refused.

use handover_api::{Actor, ActorKind, Binary, Operation, Refused, Upgrade, operation_id};
use handover_lifecycle::{Asked, Caller, Event, GenerationNumber, Kind, Phase, Request};
use tokio::sync::oneshot;

use super::exams::asked_for;
use super::{Checked, Driver, Input, RefusalAnswer};
use crate::handle::{Ask, Command, NewOperation, ProgramAsked, ProgramWhat, Terms, Ticket, WhichBinary};
use crate::journal::Journal;
use crate::operations::{Admission, described, kind_of, kind_of_program};
use crate::protocol::GuardLimits;

impl Driver {
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Request(new, admission) => self.request(*new, Some(admission)),
            Command::Refuse(new, why, written) => {
                let operation = described(operation_id(), &new);
                self.refuse(operation, &why, RefusalAnswer::Written(written));
            }
            Command::Status(answer) => self.status(answer),
            Command::Operation(id, answer) => self.operation(id, answer),
            Command::History(count, answer) => self.history(count, answer),
            Command::Generations(answer) => self.generations(answer),
            Command::Config(answer) => {
                let _ = answer.send(self.config());
            }
            Command::Diff(against, actor, answer) => self.diff(against, actor, answer),
            Command::Backup(answer) => self.backup(answer),
            Command::Certificates(answer) => self.certificates(answer),
            Command::Metrics(answer) => self.metrics(answer),
            Command::Connections(answer) => self.connections(answer),
            Command::Programs(answer) => self.answer_programs(answer),
            Command::Logs(name, lines, answer) => self.answer_logs(&name, lines, answer),
            Command::ReopenLogs => self.reopen_logs(),
        }
    }

    pub(super) fn ask_by_signal(&mut self, ask: Ask, actor: Actor) {
        tracing::info!("{actor}");
        self.request(NewOperation::new(ask, actor), None);
    }

    /// Looks the ID up, and asks the journal for room. Ending and serving again are never refused for want of room.
    pub(super) fn request(&mut self, mut new: NewOperation, admission: Option<Admission>) {
        let is_upgrade = self.probation.as_ref().is_some_and(|probation| probation.upgrade.is_some());
        if is_upgrade && matches!(new.ask, Ask::Rollback { to: None, .. }) {
            // What there is to be taken back is the upgrade that nobody has confirmed yet.
            new.ask = Ask::Cancel;
        }
        if matches!(new.ask, Ask::Resume) && self.holds_requests() {
            // Nothing is drained: what there is to go on with is what is held.
            new.ask = Ask::Program(ProgramAsked { target: None, what: ProgramWhat::Resume });
        }
        let needs_room = needs_room(&new.ask);
        let serving = self.serving.as_ref().map(|serving| serving.generation.0);
        if !needs_room && new.id.is_none() {
            return self.admit(new, None, admission);
        }
        let inputs = self.inputs.clone();
        self.parts.scribe.later(move |journal| {
            let found = new.id.as_deref().and_then(|id| journal.operation(id).cloned());
            let room = if needs_room && found.is_none() { journal.check() } else { Ok(()) };
            let target = match &new.ask {
                Ask::Rollback { to, .. } => Some(target(journal, *to, serving)),
                _ => None,
            };
            let binary = match &new.ask {
                Ask::Upgrade { binary: WhichBinary::Previous, .. } => {
                    Some(journal.previous_binary().cloned().ok_or_else(no_previous_binary))
                }
                _ => None,
            };
            let checked = Checked { new, admission, found, room, target, binary };
            let _ = inputs.blocking_send(Input::Checked(Box::new(checked)));
        });
    }

    pub(super) fn checked(&mut self, checked: Checked) {
        let Checked { mut new, admission, found, room, target, binary } = checked;
        if let Some(id) = new.id.as_deref() {
            if let Some(entry) = self.operations.by_id(id) {
                let kind = entry.operation.kind;
                let same = is_same(&new.ask, &entry.operation);
                let ticket = if same { Ok(entry.ticket()) } else { Err(key_reused(id, kind)) };
                return answer(admission, ticket);
            }
            if let Some(ended) = self.operations.ended(id).cloned().or(found) {
                let ended_kind = ended.kind;
                let same = is_same(&new.ask, &ended);
                let ticket = if same { Ok(ended_ticket(ended)) } else { Err(key_reused(id, ended_kind)) };
                return answer(admission, ticket);
            }
        }
        if admission.as_ref().is_some_and(oneshot::Sender::is_closed) {
            return tracing::warn!(actor = %new.actor, "a request was given up before its turn came: it is not carried out");
        }
        match (&mut new.ask, target) {
            (Ask::Rollback { to, .. }, Some(Ok(target))) => *to = Some(target),
            (_, Some(Err(why))) => return self.refuse_request(&new, why, admission),
            _ => {}
        }
        let binary = match binary.transpose() {
            Ok(binary) => binary,
            Err(why) => return self.refuse_request(&new, why, admission),
        };
        match room {
            Ok(()) => self.admit(new, binary, admission),
            Err(error) => {
                let why = Refused::Journal(error.to_string());
                if matches!(new.ask, Ask::Reload { .. }) && new.actor.signal.is_some() {
                    self.tell_of_refused_signal(&why);
                }
                self.refuse_request(&new, why, admission);
            }
        }
    }

    /// A signal's reload is over before the machine has seen it. A service manager that sent the signal waits all the
    /// same for RELOADING and READY, of which the latter follows anyway if a reload runs.
    fn tell_of_refused_signal(&self, why: &Refused) {
        let view = self.machine.view();
        if !matches!(view.phase, Phase::Serving | Phase::Draining | Phase::Drained) {
            return;
        }
        self.parts.notifier.reloading();
        self.parts.notifier.status(&format!("reload refused: {why}"));
        if !view.operation.is_some_and(|running| running.kind == Kind::Reload) {
            self.parts.notifier.ready();
        }
    }

    fn refuse_request(&mut self, new: &NewOperation, why: Refused, admission: Option<Admission>) {
        if new.actor.kind == ActorKind::Watch {
            // It asks again by itself, and would fill the history.
            return answer(admission, Err(why));
        }
        let answer = match admission {
            Some(admission) => RefusalAnswer::Admission(admission, why.clone()),
            None => RefusalAnswer::Nobody,
        };
        self.refuse(described(operation_id(), new), &why, answer);
    }

    pub(super) fn admit(
        &mut self,
        mut new: NewOperation,
        binary: Option<Binary>,
        admission: Option<Admission>,
    ) {
        if self.looks() && !matches!(new.ask, Ask::Stop { .. }) {
            return self.after_look.push_back((new, binary, admission));
        }
        let drain_limit = self.drain_limit();
        let mut guard = GuardLimits::DEFAULT;
        let mut terms = |terms: &Terms| {
            let (terms, limits) = self.terms(terms);
            guard = limits;
            terms
        };
        let request = match &mut new.ask {
            Ask::Reload { certs_only, terms: asked } => {
                Request::Reload { dry_run: false, certs_only: *certs_only, terms: terms(asked) }
            }
            Ask::Rollback { to, terms: asked } => {
                let to = GenerationNumber(to.unwrap_or_default());
                Request::Rollback { to, dry_run: false, terms: terms(asked) }
            }
            Ask::Restore { dry_run, terms: asked, .. } => {
                Request::Restore { dry_run: *dry_run, terms: terms(asked) }
            }
            Ask::Upgrade { dry_run, terms: asked, .. } => {
                Request::Upgrade { dry_run: *dry_run, terms: terms(asked) }
            }
            Ask::Confirm => Request::Confirm,
            Ask::Cancel => Request::Cancel,
            Ask::Validate => Request::VALIDATE,
            Ask::Action { name, .. } => {
                let known = self.known_actions();
                if known.as_ref().is_some_and(|known| !known.contains(name)) {
                    let why = Refused::NoSuchAction { name: name.clone(), known: known.unwrap_or_default() };
                    return self.refuse_request(&new, why, admission);
                }
                Request::Action
            }
            Ask::Drain { limit } => Request::Drain { limit: limit.or(drain_limit) },
            Ask::Resume => Request::Resume,
            Ask::Program(asked) => {
                if let Some(why) = self.programs.refusal(asked) {
                    return self.refuse_request(&new, why, admission);
                }
                Request::Carried { kind: kind_of_program(&asked.what), limit: self.programs.limit(asked) }
            }
            Ask::Stop { now, limit } => Request::Stop { now: *now, limit: limit.or(drain_limit) },
        };
        let caller = if new.actor.signal.is_some() { Caller::Signal } else { Caller::Waiting };
        let expected = new.if_match.map(GenerationNumber);
        let serving = self.serving.as_ref().map(|serving| serving.generation.0);
        let upgrade = asked_for(&new.ask, &self.binaries.installed, binary.as_ref());
        let upgrade = upgrade.map(|to| Box::new(Upgrade::new(self.binaries.serving.described(), to)));
        let operation = self.operations.ask(new, serving, admission);
        if let Some(entry) = self.operations.get_mut(operation) {
            entry.operation.upgrade = upgrade;
            entry.binary = binary;
            entry.guard = guard;
            entry.operation.guard_ms = guarded_ms(&request);
        }
        self.step(Event::Request { operation, asked: Asked { request, caller, expected } });
    }

    /// The actions of the worker that serves; `None` without one, when nobody knows.
    pub(super) fn known_actions(&self) -> Option<Vec<String>> {
        let worker = self.workers.get(&self.serving.as_ref()?.worker)?;
        Some(worker.actions.clone())
    }
}

/// How long a guard watches the change, if it is one and has one.
fn guarded_ms(request: &Request) -> Option<u64> {
    let (Request::Reload { dry_run: false, terms, .. }
    | Request::Rollback { dry_run: false, terms, .. }
    | Request::Upgrade { dry_run: false, terms }
    | Request::Restore { dry_run: false, terms }) = request
    else {
        return None;
    };
    Some(u64::try_from(terms.guard?.as_millis()).unwrap_or(u64::MAX))
}

/// Whether the journal must have room for it. Ending, serving again and going back are never refused for want of room.
fn needs_room(ask: &Ask) -> bool {
    matches!(
        ask,
        Ask::Upgrade { .. }
            | Ask::Reload { .. }
            | Ask::Rollback { .. }
            | Ask::Restore { .. }
            | Ask::Action { .. }
            | Ask::Confirm
    ) || matches!(ask, Ask::Program(asked) if changes_programs(&asked.what))
}

/// Whether it changes what runs, and does not bring back or let go of anything.
fn changes_programs(what: &ProgramWhat) -> bool {
    match what {
        ProgramWhat::Start
        | ProgramWhat::Restart { .. }
        | ProgramWhat::Reload
        | ProgramWhat::Deploy { .. }
        | ProgramWhat::Confirm
        | ProgramWhat::Pause { .. }
        | ProgramWhat::DrainEndpoint { .. } => true,
        ProgramWhat::Stop
        | ProgramWhat::Rollback
        | ProgramWhat::Cancel
        | ProgramWhat::GoBack
        | ProgramWhat::Resume
        | ProgramWhat::EnableEndpoint => false,
    }
}

/// The generation that a rollback goes to.
fn target(journal: &Journal, to: Option<u64>, serving: Option<u64>) -> Result<u64, Refused> {
    let kept = journal.kept();
    let target = to.or_else(|| journal.previous());
    target
        .filter(|target| Some(*target) == serving || kept.contains(target))
        .ok_or(Refused::NoSuchGeneration { wanted: to, kept })
}

fn no_previous_binary() -> Refused {
    let why = "there is no binary to go back to: none was upgraded from since this journal began, or no copy could be kept";
    Refused::NoPreviousBinary(why.to_owned())
}

fn answer(admission: Option<Admission>, ticket: Result<Ticket, Refused>) {
    if let Some(admission) = admission {
        let _ = admission.send(ticket);
    }
}

fn ended_ticket(ended: Operation) -> Ticket {
    let (done, waiting) = oneshot::channel();
    let _ = done.send(ended.clone());
    Ticket { operation: ended, done: waiting }
}

fn key_reused(id: &str, kind: Kind) -> Refused {
    Refused::KeyReused { id: id.to_owned(), kind }
}

/// Whether an operation with the same key is the same request: sent again, not another one.
fn is_same(ask: &Ask, known: &Operation) -> bool {
    let (action, target) = match ask {
        Ask::Action { name, .. } => (Some(name), None),
        Ask::Program(asked) => (None, asked.target.as_ref()),
        _ => (None, None),
    };
    // Sent again when the upgrade was taken back that it was about.
    let took_back = matches!(ask, Ask::Rollback { to: None, .. }) && known.kind == Kind::Cancel;
    // Sent again when what was held went on.
    let went_on = matches!(ask, Ask::Resume) && known.kind == Kind::ResumeTraffic;
    let same_kind = kind_of(ask) == known.kind || took_back || went_on;
    same_kind && action == known.action.as_ref() && target == known.target.as_ref()
}
