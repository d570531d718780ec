//! A program whose connections the supervisor accepts, or looks for: in the style of inetd. It has no copies that stay, so it
//! needs no machine: what is started is looked up anew for each connection.
//!
//! ```text
//!   waits to begin ─▶ listens ──stop──▶ its processes end ─▶ stopped ──start──▶ listens
//!                        └─ restart, deploy, rollback: the next connection is the new edition's
//! ```

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use handover_api::{
    CopyState, CopyStatus, Losses, Problem, ProgramResult, ProgramState, ProgramStatus, ServesNow,
};
use handover_lifecycle::{Cause, OperationKey, Outcome, StepName};
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use super::asked::What;
use super::commands::{self, Failed, Finished};
use super::common::Common;
use super::editions::{Edition, Place};
use super::happened::Of;
use super::hosted::{environment_of, is_directory, next_slot, place_in, setting_of, sockets_of};
use super::inetd::{Each, Order, SavedProcess, View, Wait};
use super::out::{Ended, Out};
use super::output::OutputKey;
use super::saving::{Packing, Unpacking};
use super::state::DurableProgram;
use crate::protocol::{Accept, CommandSpec, ProgramSpec};

/// How much longer than its parts an operation may take.
const GRACE: Duration = Duration::from_secs(10);

/// One program.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) name: String,
    edition: Edition,
    /// What a rollback goes to.
    before: Option<Edition>,
    listening: Option<Listening>,
    /// Where its processes write.
    output: Option<(Arc<OwnedFd>, OutputKey)>,
    /// Whether an operator has stopped it.
    stopped: bool,
    leaving: bool,
    /// How often its processes are being waited for.
    ends: u32,
    active: Option<Active>,
    /// Processes of another life, until it begins.
    adopted: Vec<(SavedProcess, Option<OwnedFd>)>,
    begun: bool,
    why_not: Option<String>,
}

#[derive(Debug)]
enum Listening {
    Each(Each),
    Wait(Wait),
}

#[derive(Debug)]
struct Active {
    inner: OperationKey,
    ended: Ended,
    /// What it is to be, once the hook has ended.
    next: Option<Edition>,
    task: Option<AbortHandle>,
}

/// It, as it is written down.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedServed {
    spec: Box<ProgramSpec>,
    place: Option<Place>,
    before: Option<Option<Place>>,
    stopped: bool,
    leaving: bool,
    processes: Vec<(SavedProcess, Option<usize>)>,
    output: Option<(OutputKey, usize)>,
}

impl Served {
    pub(super) fn new(edition: Edition, common: &Common) -> Self {
        let name = edition.spec.name.clone();
        let durable = common.durable(&name).cloned().unwrap_or_default();
        let place = place_in(&edition.spec, durable.place);
        let before = durable.before.map(|place| Edition { place: Some(place), ..edition.clone() });
        Served {
            name,
            edition: Edition { place, ..edition },
            before,
            listening: None,
            output: None,
            stopped: durable.stopped,
            leaving: false,
            ends: 0,
            active: None,
            adopted: Vec::new(),
            begun: false,
            why_not: None,
        }
    }

    pub(super) fn spec(&self) -> &Arc<ProgramSpec> {
        &self.edition.spec
    }

    /// Begins to listen, once what it comes after is ready.
    pub(super) fn begin(&mut self, common: &mut Common) {
        if !std::mem::replace(&mut self.begun, true) && !self.stopped {
            self.listen(common);
        }
    }

    pub(super) fn waits_to_begin(&self) -> bool {
        !self.begun && !self.leaving
    }

    pub(super) fn is_up(&self) -> bool {
        self.listening.is_some()
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Whether nothing of it runs.
    pub(super) fn is_over(&self) -> bool {
        self.listening.is_none() && self.ends == 0
    }

    /// This is what it is from now on.
    pub(super) fn apply(&mut self, common: &mut Common, spec: &Arc<ProgramSpec>) {
        self.leaving = false;
        let place = place_in(spec, self.edition.place.clone());
        let sockets = sockets_of(spec, &common.sockets);
        let edition = Edition { spec: Arc::clone(spec), place, sockets };
        let same_sockets = self.edition.sockets.len() == edition.sockets.len()
            && self.edition.sockets.iter().zip(&edition.sockets).all(|(a, b)| a.actual == b.actual);
        let same_kind =
            std::mem::discriminant(&self.edition.spec.accept) == std::mem::discriminant(&spec.accept);
        self.edition = edition;
        if !self.begun || self.stopped {
            return;
        }
        if self.listening.is_some() && same_sockets && same_kind {
            return self.replace(common);
        }
        // The old sockets are let go: what runs ends by itself.
        self.listening = None;
        self.listen(common);
    }

    /// It is no longer wanted: what runs may end.
    pub(super) fn end(&mut self, common: &mut Common, limit: Option<Duration>, leaving: bool) {
        self.leaving |= leaving;
        self.begun = true;
        let limit =
            limit.map_or(self.edition.spec.stop.limit, |limit| limit.min(self.edition.spec.stop.limit));
        self.stop_listening(common, None, limit);
    }

    /// An operation begins.
    pub(super) fn ask(&mut self, common: &mut Common, operation: OperationKey, what: &What) {
        let from = self.place();
        let ended = Ended {
            operation,
            outcome: Outcome::Applied,
            cause: Cause::Done,
            problems: Vec::new(),
            warnings: Vec::new(),
            losses: Losses::default(),
            answer: None,
            program: ProgramResult { from, serves: ServesNow::New, ..ProgramResult::default() },
        };
        let inner = common.next_operation();
        self.active = Some(Active { inner, ended, next: None, task: None });
        match what {
            What::Start => self.start(common),
            What::Stop if self.listening.is_none() => self.finish(common, Outcome::Unchanged, Cause::AlreadySo),
            What::Stop => {
                self.stopped = true;
                self.save(common);
                common.out.push(Out::Step { operation, step: StepName::StopProgram });
                let limit = self.edition.spec.stop.limit;
                self.stop_listening(common, Some(inner), limit);
            }
            What::Restart { .. } => self.go_on_with(common, self.edition.clone(), false),
            What::Deploy { confirm: Some(_), .. } | What::Deploy { guard: Some(_), .. } => self.refuse(
                common,
                "a program of which each connection is a process of its own cannot be watched or taken back by itself: deploy \
                 it without --confirm-within and --guard, and 'handover rollback' if it is no good",
            ),
            What::Deploy { slot, directory, .. } => self.deploy(common, slot.as_deref(), directory.as_deref()),
            What::Rollback => match self.before.clone() {
                Some(before) => self.go_on_with(common, before, true),
                None => self.refuse(common, "nothing was deployed before"),
            },
            What::Reload => self.refuse(
                common,
                "each connection starts it anew, with the configuration that it finds then: there is nothing to reload",
            ),
            What::Confirm | What::Cancel | What::GoBack => self.refuse(common, "nothing awaits confirmation"),
            _ => self.refuse(common, "this is not asked of a program"),
        }
    }

    pub(super) fn call_off(&mut self, common: &mut Common, operation: OperationKey) -> bool {
        let Some(active) = self.active.as_mut().filter(|active| active.ended.operation == operation) else {
            return false;
        };
        if let Some(task) = active.task.take() {
            task.abort();
        }
        self.finish(common, Outcome::Unknown, Cause::ShuttingDown);
        true
    }

    /// The longest time that this may take.
    pub(super) fn longest(&self, what: &What) -> Duration {
        let spec = &self.edition.spec;
        match what {
            What::Stop => spec.stop.limit + GRACE,
            What::Deploy { .. } => spec.hook.as_ref().map_or(Duration::ZERO, |hook| hook.limit) + GRACE,
            _ => GRACE,
        }
    }

    pub(super) fn longest_stop(&self) -> Duration {
        self.edition.spec.stop.limit + Duration::from_secs(5)
    }

    pub(super) fn happened(&mut self, common: &mut Common, what: Of) {
        match what {
            Of::Inetd { operation, killed } => {
                self.ends = self.ends.saturating_sub(1);
                let active = self.active.as_mut().filter(|active| Some(active.inner) == operation);
                if let Some(active) = active {
                    active.ended.program.killed_processes = u32::try_from(killed).unwrap_or(u32::MAX);
                    active.ended.losses.add("program", killed);
                    active.ended.program.serves = ServesNow::Nothing;
                    let outcome = if killed > 0 { Outcome::AppliedWithLosses } else { Outcome::Applied };
                    let cause = if killed > 0 { Cause::StopForced } else { Cause::Done };
                    self.finish(common, outcome, cause);
                }
            }
            Of::Hooked { operation, result } => self.hooked(common, operation, result),
            // The next supervisor is to know of it.
            Of::Serves => common.out.push(Out::Keep),
            _ => {}
        }
    }

    fn place(&self) -> Option<String> {
        self.edition.place.as_ref().map(ToString::to_string)
    }

    fn start(&mut self, common: &mut Common) {
        if self.listening.is_some() {
            return self.finish(common, Outcome::Unchanged, Cause::AlreadySo);
        }
        self.stopped = false;
        self.save(common);
        self.listen(common);
        match self.why_not.clone() {
            Some(why) => {
                self.note(why);
                self.finish(common, Outcome::NotReady, Cause::ProgramNotStarted);
            }
            None => self.finish(common, Outcome::Applied, Cause::Done),
        }
    }

    fn deploy(&mut self, common: &mut Common, slot: Option<&str>, directory: Option<&Path>) {
        let place = match (slot, directory) {
            (Some(_), Some(_)) => Err("a deploy is to a slot or to a directory, not to both".to_owned()),
            (None, Some(directory)) => {
                is_directory(directory).map(|()| Place::Directory(directory.to_owned()))
            }
            (slot, None) => next_slot(&self.edition.spec, self.edition.place.as_ref(), slot),
        };
        let place = match place {
            Ok(place) if Some(&place) == self.edition.place.as_ref() => {
                return self.refuse(common, &format!("{} serves from {place} already", self.name));
            }
            Ok(place) => place,
            Err(why) => return self.refuse(common, &why),
        };
        let next = Edition { place: Some(place), ..self.edition.clone() };
        let Some(hook) = next.spec.hook.clone() else { return self.go_on_with(common, next, true) };
        let words = next.words();
        let setting = setting_of(&next, &environment_of(&next, &words), &words, &common.groups);
        let setting = commands::Setting { place: Some(common.place.clone()), ..setting };
        let (teller, name) = (common.teller(&self.name), self.name.clone());
        let Some(active) = &mut self.active else { return };
        common.out.push(Out::Step { operation: active.ended.operation, step: StepName::Hook });
        active.next = Some(next);
        let operation = active.inner;
        let task = tokio::spawn(async move {
            let command = words.expand_all(&hook.command).unwrap_or(hook.command);
            let result = commands::run(&name, &CommandSpec { command, limit: hook.limit }, &setting).await;
            teller.tell(Of::Hooked { operation, result });
        });
        active.task = Some(task.abort_handle());
    }

    fn hooked(&mut self, common: &mut Common, operation: OperationKey, result: Result<Finished, Failed>) {
        let active = self.active.as_mut().filter(|active| active.inner == operation);
        let Some(next) = active.and_then(|active| active.next.take()) else { return };
        match result {
            Ok(_) => self.go_on_with(common, next, true),
            Err(failed) => {
                self.note(format!("the hook of {} failed: {failed}", self.name));
                self.finish(common, Outcome::Rejected, Cause::HookFailed);
            }
        }
    }

    /// The next connection is this edition's.
    fn go_on_with(&mut self, common: &mut Common, edition: Edition, moves: bool) {
        let old = std::mem::replace(&mut self.edition, edition);
        self.replace(common);
        if let Some(why) = self.why_not.clone() {
            self.edition = old;
            self.note(why);
            return self.finish(common, Outcome::NotReady, Cause::ProgramNotStarted);
        }
        if moves {
            self.before = Some(old);
        }
        self.save(common);
        let (to, running) = (self.place(), self.view().running.len());
        if let Some(active) = &mut self.active {
            active.ended.program.to = to.filter(|_| moves);
            if running > 0 {
                let what = match running {
                    1 => "1 process goes on as it was".to_owned(),
                    _ => format!("{running} processes go on as they were"),
                };
                let warning = format!("{what} started; the next connection gets the new one");
                active.ended.warnings.push(Problem::new(warning));
            }
        }
        self.finish(common, Outcome::Applied, Cause::Done);
    }

    fn listen(&mut self, common: &mut Common) {
        let adopted = std::mem::take(&mut self.adopted);
        let listening = self.order(common).and_then(|order| {
            let started = match self.edition.spec.accept {
                Accept::Wait => Wait::start(order, adopted.into_iter().next()).map(Listening::Wait),
                _ => Each::start(order, adopted).map(Listening::Each),
            };
            started.map_err(|error| format!("the sockets of {} cannot be watched: {error}", self.name))
        });
        self.took(listening.map(Some));
    }

    fn replace(&mut self, common: &mut Common) {
        let replaced = self.order(common).and_then(|order| {
            let replaced = match &self.listening {
                Some(Listening::Each(each)) => each.replace(order),
                Some(Listening::Wait(wait)) => wait.replace(order),
                None => Ok(()),
            };
            replaced.map_err(|error| format!("the sockets of {} cannot be watched: {error}", self.name))
        });
        self.took(replaced.map(|()| None));
    }

    fn took(&mut self, result: Result<Option<Listening>, String>) {
        match result {
            Ok(listening) => {
                self.listening = listening.or(self.listening.take());
                self.why_not = None;
            }
            Err(why) => {
                tracing::error!(program = self.name, "{why}");
                self.why_not = Some(why);
            }
        }
    }

    fn order(&mut self, common: &mut Common) -> Result<Order, String> {
        let (spec, words) = (Arc::clone(&self.edition.spec), self.edition.words());
        let outputs = common.outputs()?;
        let output = match &self.output {
            Some((output, _)) => Arc::clone(output),
            None => {
                let (writer, key) = outputs.open(&self.name, 0).map_err(|error| {
                    format!("no pipe can be made for the output of {}: {error}", self.name)
                })?;
                let writer = Arc::new(writer);
                self.output = Some((Arc::clone(&writer), key));
                writer
            }
        };
        let (processes, per_second) = match spec.accept {
            Accept::Each { processes, per_second } => (processes, per_second),
            Accept::Wait | Accept::Program => (1, 1),
        };
        Ok(Order {
            teller: Some(common.teller(&self.name)),
            program: self.name.clone(),
            command: words.expand_all(self.edition.command()).map_err(|unfilled| unfilled.to_string())?,
            setting: setting_of(
                &self.edition,
                &environment_of(&self.edition, &words),
                &words,
                &common.groups,
            ),
            limits: spec.limits.clone(),
            output,
            sockets: self.edition.sockets.iter().map(|shared| Arc::clone(&shared.socket)).collect(),
            processes,
            per_second,
            restart: spec.restart.clone(),
            stop_signal: spec.stop.signal,
            stop_limit: spec.stop.limit,
        })
    }

    fn stop_listening(&mut self, common: &Common, operation: Option<OperationKey>, limit: Duration) {
        let (teller, stop) = (common.teller(&self.name), self.edition.spec.stop.clone());
        match self.listening.take() {
            Some(Listening::Each(each)) => {
                self.ends += 1;
                let ended = each.stop(limit);
                tokio::spawn(async move { teller.tell(Of::Inetd { operation, killed: ended.await }) });
            }
            Some(Listening::Wait(wait)) => {
                self.ends += 1;
                let ended = wait.stop(&crate::protocol::Stop { limit, ..stop });
                tokio::spawn(
                    async move { teller.tell(Of::Inetd { operation, killed: u64::from(ended.await) }) },
                );
            }
            None => {}
        }
    }

    fn save(&self, common: &mut Common) {
        let before = self.before.as_ref().and_then(|before| before.place.clone());
        let place = self.edition.place.clone();
        let state = DurableProgram { place, before, pending_until: None, stopped: self.stopped };
        common.note_program(&self.name, state);
        common.out.push(Out::Keep);
    }

    fn note(&mut self, why: String) {
        if let Some(active) = &mut self.active {
            active.ended.problems.push(Problem::new(why));
        }
    }

    fn refuse(&mut self, common: &mut Common, why: &str) {
        let why = format!("{}: {why}", self.name);
        self.note(why);
        self.finish(common, Outcome::Rejected, Cause::Unfit);
    }

    fn finish(&mut self, common: &mut Common, outcome: Outcome, cause: Cause) {
        let Some(mut active) = self.active.take() else { return };
        (active.ended.outcome, active.ended.cause) = (outcome, cause);
        if !outcome.is_success() {
            let serves = if self.listening.is_some() { ServesNow::Old } else { ServesNow::Nothing };
            active.ended.program.serves = serves;
        }
        common.out.push(Out::Ended(Box::new(active.ended)));
    }

    fn view(&self) -> View {
        match &self.listening {
            Some(Listening::Each(each)) => each.view(),
            Some(Listening::Wait(wait)) => wait.view(),
            None => View::default(),
        }
    }

    pub(super) fn status(&self) -> ProgramStatus {
        let view = self.view();
        let number = |at: usize| u32::try_from(at + 1).unwrap_or(u32::MAX);
        let copies = view.running.iter().enumerate().map(|(at, running)| CopyStatus {
            number: number(at),
            pid: Some(running.pid),
            slot: self.place(),
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
            warnings: held_back.into_iter().chain(failed).collect(),
            ..ProgramStatus::default()
        }
    }

    pub(super) fn pack(&self, packing: &mut Packing) -> SavedServed {
        let processes = match &self.listening {
            Some(Listening::Each(each)) => each.save(),
            Some(Listening::Wait(wait)) => wait.save().into_iter().collect(),
            None => Vec::new(),
        };
        let packed = processes
            .into_iter()
            .map(|(process, pidfd)| (process, pidfd.map(|pidfd| packing.add(&pidfd))))
            .collect();
        SavedServed {
            spec: Box::new(self.edition.spec.as_ref().clone()),
            place: self.edition.place.clone(),
            before: self.before.as_ref().map(|before| before.place.clone()),
            stopped: self.stopped,
            leaving: self.leaving,
            processes: packed,
            output: self.output.as_ref().map(|(output, key)| (*key, packing.add(output))),
        }
    }

    /// As it was saved. It does nothing before it begins.
    pub(super) fn unpack(saved: SavedServed, unpacking: &mut Unpacking) -> Self {
        let edition = Edition { spec: Arc::new(*saved.spec), place: saved.place, sockets: Vec::new() };
        let adopted = saved
            .processes
            .into_iter()
            .map(|(process, at)| (process, at.and_then(|at| unpacking.take(at))))
            .collect();
        let output = saved.output.and_then(|(key, at)| Some((Arc::new(unpacking.take(at)?), key)));
        Served {
            name: edition.spec.name.clone(),
            before: saved.before.map(|place| Edition { place, ..edition.clone() }),
            edition,
            listening: None,
            output,
            stopped: saved.stopped,
            leaving: saved.leaving,
            ends: 0,
            active: None,
            adopted,
            begun: false,
            why_not: None,
        }
    }
}
