//! What is asked for, on its way to the machine: looked up, checked, admitted or refused.

use handover_api::{Actor, Refused};
use handover_lifecycle::{Asked, Caller, Event, GenerationNumber, Kind, Phase, Request};
use tokio::sync::oneshot;

use super::{Checked, Driver, Input, RefusalAnswer};
use crate::handle::{Ask, Command, NewOperation, Ticket};
use crate::operations::{Admission, described, kind_of};

impl Driver {
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Request(new, admission) => self.request(*new, Some(admission)),
            Command::Refuse(new, why, written) => {
                let operation = described(String::new(), &new);
                self.refuse(operation, &why, RefusalAnswer::Written(written));
            }
            Command::Status(answer) => self.status(answer),
            Command::Operation(id, answer) => self.operation(id, answer),
            Command::History(count, answer) => self.history(count, answer),
            Command::Generations(answer) => self.generations(answer),
            Command::Config(answer) => {
                let _ = answer.send(self.config());
            }
            Command::Diff(_, _, answer) => self.diff(answer),
            Command::Backup(answer) => self.backup(answer),
            Command::Certificates(answer) => self.certificates(answer),
            Command::Metrics(answer) => self.metrics(answer),
            Command::Connections(answer) => self.connections(answer),
            Command::ReopenLogs => self.reopen_logs(),
        }
    }

    pub(super) fn ask_by_signal(&mut self, ask: Ask, actor: Actor) {
        tracing::info!("{actor}");
        self.request(NewOperation::new(ask, actor), None);
    }

    /// Looks the ID up, and asks the journal for room. Ending and serving again are never refused for want of room.
    fn request(&mut self, new: NewOperation, admission: Option<Admission>) {
        let needs_room = matches!(
            new.ask,
            Ask::Reload { .. } | Ask::Rollback { .. } | Ask::Restore { .. } | Ask::Action { .. }
        );
        if !needs_room && new.id.is_none() {
            return self.admit(new, admission);
        }
        let inputs = self.inputs.clone();
        self.parts.scribe.later(move |journal| {
            let found = new.id.as_deref().and_then(|id| journal.operation(id).cloned());
            let room = if needs_room && found.is_none() { journal.check() } else { Ok(()) };
            let checked = Checked { new, admission, found, room };
            let _ = inputs.blocking_send(Input::Checked(Box::new(checked)));
        });
    }

    pub(super) fn checked(&mut self, checked: Checked) {
        let Checked { new, admission, found, room } = checked;
        if let Some(id) = new.id.as_deref() {
            if let Some(entry) = self.operations.by_id(id) {
                let (kind, action) = (entry.operation.kind, entry.operation.action.clone());
                let same = is_same(&new.ask, kind, action.as_deref());
                let ticket = if same { Ok(entry.ticket()) } else { Err(key_reused(id, kind)) };
                return answer(admission, ticket);
            }
            if let Some(ended) = self.operations.ended(id).cloned().or(found) {
                let ended_kind = ended.kind;
                let same = is_same(&new.ask, ended_kind, ended.action.as_deref());
                let ticket = if same { Ok(ended_ticket(ended)) } else { Err(key_reused(id, ended_kind)) };
                return answer(admission, ticket);
            }
        }
        if admission.as_ref().is_some_and(oneshot::Sender::is_closed) {
            return tracing::warn!(actor = %new.actor, "a request was given up before its turn came: it is not carried out");
        }
        match room {
            Ok(()) => self.admit(new, admission),
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
        let answer = match admission {
            Some(admission) => RefusalAnswer::Admission(admission, why.clone()),
            None => RefusalAnswer::Nobody,
        };
        self.refuse(described(String::new(), new), &why, answer);
    }

    fn admit(&mut self, mut new: NewOperation, admission: Option<Admission>) {
        let drain_limit = self.drain_limit();
        let request = match &mut new.ask {
            Ask::Reload { .. } => Request::RELOAD,
            Ask::Rollback { .. } | Ask::Restore { .. } | Ask::Confirm | Ask::Cancel => {
                let why = Refused::Unavailable("this is not built yet".to_owned());
                return self.refuse_request(&new, why, admission);
            }
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
            Ask::Stop { now, limit } => Request::Stop { now: *now, limit: limit.or(drain_limit) },
        };
        let caller = if new.actor.signal.is_some() { Caller::Signal } else { Caller::Waiting };
        let expected = new.if_match.map(GenerationNumber);
        let serving = self.serving.as_ref().map(|serving| serving.generation.0);
        let operation = self.operations.ask(new, serving, admission);
        self.step(Event::Request { operation, asked: Asked { request, caller, expected } });
    }

    /// The actions of the worker that serves; `None` without one, when nobody knows.
    pub(super) fn known_actions(&self) -> Option<Vec<String>> {
        let worker = self.workers.get(&self.serving.as_ref()?.worker)?;
        Some(worker.actions.clone())
    }
}

fn answer(admission: Option<Admission>, ticket: Result<Ticket, Refused>) {
    if let Some(admission) = admission {
        let _ = admission.send(ticket);
    }
}

fn ended_ticket(ended: handover_api::Operation) -> Ticket {
    let (done, waiting) = oneshot::channel();
    let _ = done.send(ended.clone());
    Ticket { operation: ended, done: waiting }
}

fn key_reused(id: &str, kind: Kind) -> Refused {
    Refused::KeyReused { id: id.to_owned(), kind }
}

/// Whether an operation with the same key is the same request: sent again, not another one.
fn is_same(ask: &Ask, kind: Kind, action: Option<&str>) -> bool {
    let asked_action = match ask {
        Ask::Action { name, .. } => Some(name.as_str()),
        _ => None,
    };
    kind_of(ask) == kind && asked_action == action
}
