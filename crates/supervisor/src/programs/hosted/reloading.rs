//! Reloads of a program: told, and what came of it. No copy comes or goes, so the machine is not asked.

use std::sync::Arc;
use std::time::Duration;

use handover_api::{Problem, ServesNow};
use handover_lifecycle::program::Role;
use handover_lifecycle::{Cause, OperationKey, Outcome, StepName};

use super::super::common::Common;
use super::super::editions::Edition;
use super::super::happened::Of;
use super::super::out::Out;
use super::super::reloading::{self, AwaitEnd, NotReloaded, Reloaded, Reloading};
use super::happened::LAST_LINES;
use super::{Entry, Hosted};
use crate::protocol::{CommandSpec, ProgramSpec, Reload, RestartPolicy};

impl Hosted {
    pub(super) fn reload(&mut self, common: &mut Common) {
        let Some(spec) = self.spec() else {
            return self.refuse(common, Cause::Unfit, "nothing of it is known yet");
        };
        let Some(how) = spec.reload.clone() else {
            let why = format!(
                "the configuration does not say how {0} reloads: give it 'reload', or 'handover restart {0}'",
                self.name
            );
            return self.refuse(common, Cause::Unfit, &why);
        };
        let serving = self.view().copies.into_iter().filter(|copy| copy.role == Role::Serving);
        let keys: Vec<_> = serving.map(|copy| copy.copy).collect();
        let known = keys.iter().filter_map(|key| self.copies.get(key));
        let copies: Vec<Reloading> = known
            .filter(|entry| entry.exit.is_none())
            .filter_map(|entry| reloading_of(entry, self.editions.get(&entry.edition)?))
            .collect();
        if copies.is_empty() {
            let why = format!("no copy of {} runs that could reload: 'handover ps' says why", self.name);
            if let Some(active) = &mut self.active {
                active.ended.program.serves = ServesNow::Nothing;
            }
            return self.refuse(common, Cause::Unfit, &why);
        }
        let limit = self.longest_reload(&spec);
        let how = with_words(how, keys.first().and_then(|key| self.copies.get(key)));
        let check = spec.reload_check.clone();
        let teller = common.teller(&self.name);
        let Some(active) = &mut self.active else { return };
        common.out.push(Out::Step { operation: active.ended.operation, step: StepName::ReloadProgram });
        let operation = active.inner;
        active.copies = keys.iter().copied().collect();
        let task = tokio::spawn(async move {
            let result = reloading::reload(&how, check.as_ref(), &copies, limit).await;
            teller.tell(Of::Reloaded { operation, result });
        });
        active.task = Some(task.abort_handle());
    }

    pub(super) fn reloaded(
        &mut self,
        common: &mut Common,
        operation: OperationKey,
        result: Result<Reloaded, NotReloaded>,
    ) {
        let how = self.spec();
        let Some(active) = self.active.as_mut().filter(|active| active.inner == operation) else { return };
        active.task = None;
        match result {
            Ok(Reloaded::Applied { answer }) => {
                active.ended.program.proof = proof(how.as_deref());
                active.ended.answer = answer;
                self.finish(common, Outcome::Applied, Cause::Done);
            }
            Ok(Reloaded::Sent) => {
                active.ended.program.proof = proof(how.as_deref());
                self.finish(common, Outcome::Sent, Cause::Unproved);
            }
            Err(NotReloaded { why, ended: true, .. }) => {
                let never = how.is_some_and(|spec| spec.restart.policy == RestartPolicy::Never);
                let again = if never { "" } else { "; what has ended is started again" };
                let name = &self.name;
                let why =
                    format!("{why}{again}; if {name} cannot reload, 'handover restart {name}' is the way");
                // Instead of what its end was noted as: this says it, and why.
                active.ended.problems = vec![Problem::new(why)];
                active.ended.program.serves = ServesNow::Nothing;
                self.finish(common, Outcome::Rejected, Cause::ReloadRefused);
            }
            Err(NotReloaded { why, said, .. }) => {
                active.ended.problems.push(Problem::new(why));
                let lines: Vec<&str> = said.as_deref().map(|said| said.lines().collect()).unwrap_or_default();
                let first = lines.len().saturating_sub(LAST_LINES);
                active.ended.program.last_lines =
                    lines[first..].iter().map(|line| (*line).to_owned()).collect();
                active.ended.answer = said;
                self.finish(common, Outcome::Rejected, Cause::ReloadRefused);
            }
        }
    }

    /// The longest time that a reload of all copies may take.
    pub(super) fn longest_reload(&self, spec: &ProgramSpec) -> Duration {
        let one = match &spec.reload {
            Some(Reload::Command(command)) => command.limit,
            Some(Reload::Http { limit, .. }) => *limit,
            Some(Reload::Notify { .. }) => spec.ready_limit,
            Some(Reload::Signal { .. }) | None => Duration::from_secs(1),
        };
        let check = spec.reload_check.as_ref().map_or(Duration::ZERO, |check| check.limit);
        (one + check).saturating_mul(spec.copies.max(1))
    }
}

/// What proved it; where nothing did, what was sent.
fn proof(spec: Option<&ProgramSpec>) -> Option<String> {
    let spec = spec?;
    Some(match spec.reload.as_ref()? {
        Reload::Notify { .. } => "it said RELOADING=1 and READY=1".to_owned(),
        Reload::Command(_) => "its command exited with 0".to_owned(),
        Reload::Http { path, .. } => format!("it accepted a POST of {path}"),
        Reload::Signal { .. } if spec.reload_check.is_some() => "its check exited with 0".to_owned(),
        Reload::Signal { signal } => match handover_handoff::signals::name(*signal) {
            Some(name) => format!("SIG{name}"),
            None => format!("signal {signal}"),
        },
    })
}

fn reloading_of(entry: &Entry, edition: &Edition) -> Option<Reloading> {
    let subject = entry.subject(edition)?;
    let copy = Arc::clone(&entry.born.as_ref()?.copy);
    let ended: AwaitEnd = {
        let copy = Arc::clone(&copy);
        Arc::new(move || {
            let copy = Arc::clone(&copy);
            Box::pin(async move { copy.exited().await })
        })
    };
    Some(Reloading { subject, signal: Arc::new(move |signal| copy.signal(signal)), ended })
}

/// With what stands for something filled in, but `{pid}`: that is each copy's own.
fn with_words(how: Reload, entry: Option<&Entry>) -> Reload {
    let (Reload::Command(spec), Some(born)) = (&how, entry.and_then(|entry| entry.born.as_ref())) else {
        return how;
    };
    let words = super::super::editions::Words { pid: None, ..born.words.clone() };
    let command: Vec<String> =
        spec.command
            .iter()
            .map(|text| {
                if text.contains("{pid}") { text.clone() } else { words.expand(text).unwrap_or(text.clone()) }
            })
            .collect();
    Reload::Command(CommandSpec { command, limit: spec.limit })
}
