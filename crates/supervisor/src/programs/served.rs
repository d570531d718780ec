//! A program whose connections the supervisor accepts, or looks for: in the style of inetd. It has no copies that stay, so it
//! needs no machine: what is started is looked up anew for each connection.
//!
//! ```text
//!   waits to begin ─▶ listens ──stop──▶ its processes end ─▶ stopped ──start──▶ listens
//!                        └─ restart, deploy, rollback: the next connection is the new edition's
//! ```
//!
//! | file | what |
//! |---|---|
//! | `served.rs` | it listens, is something else from now on, stops |
//! | `served/changing.rs` | operations that change what the next connection gets |
//! | `served/pending.rs` | what is taken back: by the guard, by the time, by somebody |
//! | `served/looking.rs` | how it stands |
//! | `served/saving.rs` | for the supervisor's next life |
//!
//! Its processes are its own, whatever it is meanwhile: those that run end as they were started, and are counted until then. Who
//! has a connection (`accept = "each"`) may serve it to its end; who has the listening socket (`"wait"`) is asked to end when
//! something else is to be started.

mod changing;
mod looking;
mod pending;
mod saving;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use handover_api::{Problem, ProgramResult, ServesNow};
use handover_lifecycle::{Cause, OperationKey, Outcome, StepName};
use tokio::task::AbortHandle;

use super::asked::{Asker, What};
use super::common::Common;
use super::editions::Edition;
use super::happened::Of;
use super::hosted::{environment_of, place_in, setting_of, sockets_of, unix_milliseconds};
use super::inetd::{Care, Ends, Listening, Order, Processes, SavedProcess};
use super::out::{Ended, Out};
use super::output::OutputKey;
use super::state::DurableProgram;
use crate::protocol::{Accept, ProgramSpec};
use pending::Pending;

pub(super) use saving::SavedServed;

/// How much longer than its parts an operation may take.
const GRACE: Duration = Duration::from_secs(10);

/// One program.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) name: String,
    edition: Edition,
    /// What a rollback goes to.
    before: Option<Edition>,
    processes: Processes,
    listening: Option<Listening>,
    /// Where its processes write.
    output: Option<(Arc<OwnedFd>, OutputKey)>,
    /// Whether an operator has stopped it.
    stopped: bool,
    leaving: bool,
    /// How often its processes are being waited for.
    ends: u32,
    active: Option<Active>,
    /// The deploy that goes back by itself.
    pending: Option<Pending>,
    /// Processes of another life, until it begins.
    adopted: Vec<(SavedProcess, Option<OwnedFd>)>,
    begun: bool,
    why_not: Option<String>,
}

/// An operation that runs.
#[derive(Debug)]
struct Active {
    inner: OperationKey,
    ended: Ended,
    what: What,
    asker: Asker,
    /// What it waits for.
    waits: Option<Waits>,
    /// Whether what served before is to serve again.
    goes_back: bool,
    task: Option<AbortHandle>,
}

/// What an operation waits for.
#[derive(Debug)]
enum Waits {
    /// The place of what is to be started is looked at.
    Look(Edition),
    /// The hook.
    Hook(Edition),
    /// What a start has to know is written down.
    Saved(Box<changing::Move>),
    /// Those that have the listening socket end.
    End,
    /// The guard's time.
    Guard(Duration),
}

impl Served {
    pub(super) fn new(edition: Edition, common: &Common) -> Self {
        let name = edition.spec.name.clone();
        let durable = common.durable(&name).cloned().unwrap_or_default();
        let mut place = place_in(&edition.spec, durable.place);
        let mut before = durable.before.map(|place| Edition { place: Some(place), ..edition.clone() });
        let mut pending = None;
        if let (Some(until), Some(back_to)) = (durable.pending_until, &before) {
            let left = until.saturating_sub(unix_milliseconds());
            if left == 0 {
                tracing::warn!(
                    program = name,
                    "nobody confirmed the last deploy of {name} in time: what served before serves again"
                );
                place.clone_from(&back_to.place);
                before = None;
            } else {
                let until = common.now().saturating_add(Duration::from_millis(left));
                pending = Some(Pending::new(until, Asker::supervisor()));
            }
        }
        Served {
            name,
            edition: Edition { place, ..edition },
            before,
            processes: Processes::default(),
            listening: None,
            output: None,
            stopped: durable.stopped,
            leaving: false,
            ends: 0,
            active: None,
            pending,
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
        if !std::mem::replace(&mut self.begun, true) {
            self.adopt(common);
            if !self.stopped {
                self.listen(common);
            }
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

    /// Whether it comes from another life, and was not told anything yet.
    pub(super) fn waits_for_resume(&self) -> bool {
        !self.begun
    }

    /// Whether nothing of it runs.
    pub(super) fn is_over(&self) -> bool {
        self.listening.is_none() && self.ends == 0 && self.processes.is_empty() && self.adopted.is_empty()
    }

    /// Processes of an earlier life that serve connections of it.
    pub(super) fn found(&mut self, common: &Common, processes: Vec<SavedProcess>) {
        self.adopted.extend(processes.into_iter().map(|process| (process, None)));
        if self.begun {
            self.adopt(common);
        }
    }

    /// Takes in the processes of another life.
    fn adopt(&mut self, common: &Common) {
        let adopted = std::mem::take(&mut self.adopted);
        if adopted.is_empty() {
            return;
        }
        let count = self.processes.restore(adopted, &self.care(common));
        let (name, what) = (
            &self.name,
            match count {
                0 => return,
                1 => "1 process of an earlier life runs on".to_owned(),
                _ => format!("{count} processes of an earlier life run on"),
            },
        );
        tracing::info!(program = name, "{name}: {what}, and counts as one that was started now");
    }

    /// This is what it is from now on.
    pub(super) fn apply(&mut self, common: &mut Common, spec: &Arc<ProgramSpec>) {
        self.leaving = false;
        let place = place_in(spec, self.edition.place.clone());
        let sockets = sockets_of(spec, &common.sockets);
        let edition = Edition { spec: Arc::clone(spec), place, sockets };
        let is_same = self.edition.is_same(&edition);
        let same_sockets = self.edition.sockets.len() == edition.sockets.len()
            && self.edition.sockets.iter().zip(&edition.sockets).all(|(a, b)| a.actual == b.actual);
        let same_kind =
            std::mem::discriminant(&self.edition.spec.accept) == std::mem::discriminant(&spec.accept);
        self.edition = edition;
        // What it goes back to is in its place, if that is still there; all else is as it is defined now.
        let before = self.before.take().map(|before| Edition { place: before.place, ..self.edition.clone() });
        self.before = before.filter(|before| place_in(spec, before.place.clone()) == before.place);
        if self.before.is_none() {
            self.pending = None;
        }
        if !self.begun || self.stopped {
            return;
        }
        if self.listening.is_some() && same_sockets && same_kind {
            self.replace(common);
        } else {
            // The old sockets are let go: who has a connection ends by itself.
            self.listening = None;
            self.listen(common);
        }
        if !(is_same && same_kind) {
            let _ = self.end_with_socket(common, None);
        }
    }

    /// It is no longer wanted: what runs may end.
    pub(super) fn end(&mut self, common: &mut Common, limit: Option<Duration>, leaving: bool) {
        self.leaving |= leaving;
        self.begun = true;
        self.adopt(common);
        let limit =
            limit.map_or(self.edition.spec.stop.limit, |limit| limit.min(self.edition.spec.stop.limit));
        self.stop_listening(common, None, limit);
    }

    /// An operation begins.
    pub(super) fn ask(&mut self, common: &mut Common, operation: OperationKey, what: &What, asker: Asker) {
        let from = self.place();
        let program = ProgramResult { from, serves: ServesNow::New, ..ProgramResult::default() };
        let ended = Ended::applied(operation, program);
        let inner = common.next_operation();
        let (what, waits) = (what.clone(), None);
        self.active =
            Some(Active { inner, ended, what: what.clone(), asker, waits, goes_back: false, task: None });
        match &what {
            What::Start => self.start(common),
            What::Stop if self.listening.is_none() => self.finish(common, Outcome::Unchanged, Cause::AlreadySo),
            What::Stop => {
                self.stopped = true;
                self.note_state(common);
                common.out.push(Out::Step { operation, step: StepName::StopProgram });
                let limit = self.edition.spec.stop.limit;
                self.stop_listening(common, Some(inner), limit);
            }
            What::Restart { .. } => self.restart(common),
            What::Deploy { slot, directory, .. } => self.deploy(common, slot.as_deref(), directory.as_deref()),
            What::Rollback => self.roll_back(common),
            What::Confirm => self.confirm(common),
            What::Cancel | What::GoBack => self.take_back(common),
            What::Reload => self.refuse(
                common,
                Cause::Unfit,
                "each connection starts it anew, with the configuration that it finds then: there is nothing to reload",
            ),
            _ => self.refuse(common, Cause::Unfit, "this is not asked of a program"),
        }
    }

    /// The longest time that this may take.
    pub(super) fn longest(&self, what: &What) -> Duration {
        let spec = &self.edition.spec;
        // Who has the listening socket is asked to end, forth and back.
        let ends = spec.stop.limit * 2;
        GRACE
            + match what {
                What::Stop => spec.stop.limit,
                What::Deploy { guard, .. } => {
                    let hook = spec.hook.as_ref().map_or(Duration::ZERO, |hook| hook.limit);
                    hook + guard.unwrap_or_default() + ends
                }
                _ => ends,
            }
    }

    pub(super) fn longest_stop(&self) -> Duration {
        self.edition.spec.stop.limit + Duration::from_secs(7)
    }

    pub(super) fn happened(&mut self, common: &mut Common, what: Of) {
        match what {
            Of::Inetd { operation, ends } => {
                self.ends = self.ends.saturating_sub(1);
                self.ended(common, operation, ends);
            }
            Of::Looked { operation, result } => self.looked(common, operation, result),
            Of::Hooked { operation, result } => self.hooked(common, operation, result),
            // The next supervisor is to know of it.
            Of::Serves => {
                common.out.push(Out::Keep);
                self.judge(common);
            }
            _ => {}
        }
    }

    /// Those have ended that were waited for.
    fn ended(&mut self, common: &mut Common, operation: Option<OperationKey>, ends: Ends) {
        let Some(active) = self.active.as_mut().filter(|active| Some(active.inner) == operation) else {
            return common.lost.add("program", ends.connections);
        };
        let killed = u32::try_from(ends.killed).unwrap_or(u32::MAX);
        active.ended.program.killed_processes += killed;
        active.ended.losses.add("program", ends.asked);
        if matches!(active.waits, Some(Waits::End)) {
            active.waits = None;
            return self.moved(common);
        }
        active.ended.program.serves = ServesNow::Nothing;
        let (outcome, cause) = match ends.asked {
            0 => (Outcome::Applied, Cause::Done),
            _ => (Outcome::AppliedWithLosses, Cause::StopForced),
        };
        self.finish(common, outcome, cause);
    }

    fn place(&self) -> Option<String> {
        self.edition.place.as_ref().map(ToString::to_string)
    }

    fn start(&mut self, common: &mut Common) {
        if self.listening.is_some() {
            return self.finish(common, Outcome::Unchanged, Cause::AlreadySo);
        }
        self.stopped = false;
        self.note_state(common);
        self.listen(common);
        match self.why_not.clone() {
            Some(why) => {
                self.note(why);
                self.finish(common, Outcome::NotReady, Cause::ProgramNotStarted);
            }
            None => self.finish(common, Outcome::Applied, Cause::Done),
        }
    }

    fn listen(&mut self, common: &mut Common) {
        let listening = self.order(common).and_then(|order| {
            let processes = self.processes.clone();
            let started = match self.edition.spec.accept {
                Accept::Wait => Listening::wait(order, processes),
                _ => Listening::each(order, processes),
            };
            started.map_err(|error| format!("the sockets of {} cannot be watched: {error}", self.name))
        });
        self.took(listening.map(Some));
    }

    /// The next connection is served by what it is now.
    fn replace(&mut self, common: &mut Common) {
        let replaced = self.order(common).and_then(|order| {
            let replaced = self.listening.as_ref().map_or(Ok(()), |listening| listening.replace(order));
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

    fn care(&self, common: &Common) -> Care {
        let stop = &self.edition.spec.stop;
        Care {
            program: self.name.clone(),
            slot: self.place(),
            signal: stop.signal,
            limit: stop.limit,
            teller: Some(common.teller_of_served(&self.name)),
            place: Some(common.place.clone()),
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
            care: self.care(common),
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
        })
    }

    /// Nothing new is accepted; what runs may end by itself in this time.
    fn stop_listening(&mut self, common: &Common, operation: Option<OperationKey>, limit: Duration) {
        let was = self.listening.take();
        if was.is_none() && self.processes.is_empty() {
            return;
        }
        self.processes.ask_with_socket();
        let (teller, ended) = (common.teller_of_served(&self.name), self.processes.end(limit));
        self.ends += 1;
        tokio::spawn(async move { teller.tell(Of::Inetd { operation, ends: ended.await }) });
    }

    /// Who has the listening socket would go on serving, and is asked to end. False if nobody has it.
    fn end_with_socket(&mut self, common: &Common, operation: Option<OperationKey>) -> bool {
        let Some(ended) = self.processes.end_with_socket(self.edition.spec.stop.limit) else { return false };
        let teller = common.teller_of_served(&self.name);
        self.ends += 1;
        tokio::spawn(async move { teller.tell(Of::Inetd { operation, ends: ended.await }) });
        true
    }

    /// What a start has to know.
    fn durable(&self, common: &Common) -> DurableProgram {
        let before = self.before.as_ref().and_then(|before| before.place.clone());
        let pending_until = self.pending.as_ref().map(|pending| pending.time_of_day(common));
        DurableProgram { place: self.edition.place.clone(), before, pending_until, stopped: self.stopped }
    }

    /// It is written down, and nobody waits for that.
    fn note_state(&self, common: &mut Common) {
        common.note_program(&self.name, self.durable(common));
        common.out.push(Out::Keep);
    }

    fn note(&mut self, why: String) {
        if let Some(active) = &mut self.active {
            active.ended.problems.push(Problem::new(why));
        }
    }

    fn refuse(&mut self, common: &mut Common, cause: Cause, why: &str) {
        let why = format!("{}: {why}", self.name);
        self.note(why);
        self.finish(common, Outcome::Rejected, cause);
    }

    fn finish(&mut self, common: &mut Common, outcome: Outcome, cause: Cause) {
        let Some(mut active) = self.active.take() else { return };
        (active.ended.outcome, active.ended.cause) = (outcome, cause);
        let result = &mut active.ended.program;
        if !outcome.is_success() && outcome != Outcome::RolledBack {
            result.serves = if self.listening.is_some() { ServesNow::Old } else { ServesNow::Nothing };
        }
        result.next_connection = self.listening.is_some();
        if !active.what.is_move() {
            (result.from, result.to) = (None, None);
        }
        common.out.push(Out::Ended(Box::new(active.ended)));
    }
}
