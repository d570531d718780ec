//! One program: its pure machine, and all that the machine knows by number only.
//!
//! ```text
//!   ask, apply, end ─┐                        ┌─ effects.rs   what the machine says, done
//!   Of ── happened ──┼─▶ event ─▶ Machine ─▶ ─┤
//!   clock ───────────┘                        └─ events of their own, at once
//! ```
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the program, and how its machine is fed |
//! | `effects.rs` | what the machine says, done |
//! | `starting.rs` | a copy on its way: everything that is filled in, bound and passed |
//! | `copies.rs` | a copy that runs: watched, proved, asked to stop, killed |
//! | `happened.rs` | what came of that |
//! | `asking.rs` | operations: how they begin |
//! | `ending.rs` | and how they end |
//! | `reloading.rs` | reloads, which need no machine |
//! | `looking.rs` | how it all stands |
//! | `sleeping.rs` | started by the first request, stopped when there is none |
//! | `saving.rs` | for the supervisor's next life |

mod asking;
mod copies;
mod effects;
mod ending;
mod happened;
mod looking;
mod reloading;
mod saving;
mod sleeping;
mod starting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use handover_api::ExitCode;
use handover_handoff::process::Exit;
use handover_lifecycle::OperationKey;
use handover_lifecycle::program::{
    CopyKey, CopyView, EditionKey, Event, Machine, Plan, Restart as RestartPlan, Stage as CopyStage, State,
    Swap as SwapPlan, View,
};
use tokio::task::AbortHandle;

use super::asked::{Asker, What};
use super::common::Common;
use super::editions::{Edition, Place};
use super::out::Ended;
use crate::protocol::{ProgramSpec, Ready, RestartPolicy, Swap};

pub(super) use asking::{is_directory, next_slot};
pub(super) use copies::Entry;
use copies::TO_REPORT;
pub(super) use saving::{SavedHosted, environment_of};
use sleeping::Sleep;
pub(super) use starting::{Born, setting_of};

/// One program.
#[derive(Debug)]
pub(super) struct Hosted {
    pub(super) name: String,
    machine: Machine,
    editions: BTreeMap<EditionKey, Edition>,
    next_edition: u64,
    copies: BTreeMap<CopyKey, Entry>,
    /// The operation that runs.
    active: Option<Active>,
    /// The exam that runs, or has passed.
    exam: Option<Exam>,
    /// The deploy that awaits confirmation: whose it was.
    pending_by: Option<Asker>,
    /// Whether its machine has begun: what it comes after is ready.
    begun: bool,
    /// What it begins with, until it has.
    first: Option<EditionKey>,
    /// It is no longer wanted, and ends.
    leaving: bool,
    /// It was told to end with the server.
    ends: bool,
    /// What it is to be when it has left.
    again: Option<Edition>,
    /// Who looks for connections, or for none.
    watch: Option<(u64, AbortHandle)>,
    watches: u64,
    sleep: Sleep,
    /// How the copy that was lost last has ended.
    last_end: Option<LastEnd>,
    /// Whether it has been ready, or has failed, since it was first applied.
    pub(super) settled: bool,
    /// When the machine has begun to hold requests.
    held_since: Option<Duration>,
    /// Questions of how many are held that were not answered yet.
    asked_held: u32,
    /// An end that waits for the answer, and until when.
    late: Option<(Box<Ended>, Duration)>,
    /// The highest key of a copy.
    last_key: u64,
    /// It comes from another life, and was not resumed yet.
    restored: bool,
}

/// An operation that runs.
#[derive(Debug)]
struct Active {
    /// As the machine knows it.
    inner: OperationKey,
    /// What is answered.
    ended: Ended,
    what: What,
    asker: Asker,
    /// The copies that were started for it.
    copies: BTreeSet<CopyKey>,
    /// The edition that it is to deploy.
    edition: Option<EditionKey>,
    /// The hook, or the reload.
    task: Option<AbortHandle>,
}

/// The exam of a reload.
#[derive(Debug)]
struct Exam {
    inner: OperationKey,
    edition: EditionKey,
    copies: BTreeSet<CopyKey>,
    /// Why it has failed.
    problems: Vec<String>,
    last_lines: Vec<String>,
}

/// How a copy has ended that nobody had asked to.
#[derive(Debug, Clone)]
struct LastEnd {
    /// `web/1 exited with code 1`.
    sentence: String,
    exit: Option<Exit>,
}

impl Hosted {
    /// A program that has not begun.
    pub(super) fn new(name: &str, keys_from: u64) -> Self {
        Hosted {
            name: name.to_owned(),
            machine: Machine::new(keys_from),
            editions: BTreeMap::new(),
            next_edition: 1,
            copies: BTreeMap::new(),
            active: None,
            exam: None,
            pending_by: None,
            begun: false,
            first: None,
            leaving: false,
            ends: false,
            again: None,
            watch: None,
            watches: 0,
            sleep: Sleep::default(),
            last_end: None,
            settled: false,
            held_since: None,
            asked_held: 0,
            late: None,
            last_key: keys_from,
            restored: false,
        }
    }

    /// Tells the machine, does what it says, and goes on with what came of that.
    fn step(&mut self, common: &mut Common, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            tracing::trace!(program = self.name, ?event, "event");
            for effect in self.machine.step(common.now(), event) {
                tracing::trace!(program = self.name, ?effect, "effect");
                self.perform(common, effect, &mut events);
            }
        }
        let starts = |copy: CopyView| matches!(copy.stage, CopyStage::Starting | CopyStage::Checking);
        if !self.settled && self.begun && self.is_up() && !self.view().copies.into_iter().any(starts) {
            self.settled = true;
        }
        self.say_whether_it_wakes(common);
    }

    /// Whether it does what it is there for: it runs, or waits for its first connection.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.machine.view().state, State::Running | State::Swapping | State::OnDemand)
    }

    /// When the machine wants to know the time, or an answer waits no longer for its figures.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let late = self.late.as_ref().map(|(_, until)| *until);
        self.machine.deadline().into_iter().chain(late).min()
    }

    /// A deadline may have come.
    pub(super) fn time(&mut self, common: &mut Common) {
        if self.machine.deadline().is_some_and(|at| at <= common.now()) {
            self.step(common, Event::Time);
        }
        if self.late.as_ref().is_some_and(|(_, until)| *until <= common.now()) {
            self.answer_late(common);
        }
    }

    /// Takes in an edition and gives it a key.
    fn add(&mut self, edition: Edition) -> EditionKey {
        let key = EditionKey(self.next_edition);
        self.next_edition += 1;
        self.editions.insert(key, edition);
        key
    }

    /// What was applied or deployed last: what a restart starts.
    fn current(&self) -> Option<EditionKey> {
        let view = self.machine.view();
        view.wanted.or(view.edition).or(self.first)
    }

    /// Its definition.
    pub(super) fn spec(&self) -> Option<Arc<ProgramSpec>> {
        let key = self.current()?;
        self.editions.get(&key).map(|edition| Arc::clone(&edition.spec))
    }

    /// The place of a program that has slots, under another definition: the same one, as long as it is there.
    fn place_under(&self, spec: &ProgramSpec) -> Option<Place> {
        let now = self.current().and_then(|key| self.editions.get(&key)?.place.clone());
        place_in(spec, now)
    }

    /// What this definition would be started as, beside what serves.
    pub(super) fn next_edition(&self, spec: &Arc<ProgramSpec>, common_sockets: &super::Sockets) -> Edition {
        Edition {
            spec: Arc::clone(spec),
            place: self.place_under(spec),
            sockets: sockets_of(spec, common_sockets),
        }
    }

    /// Whether this is to be started anew for the edition.
    pub(super) fn is_news(&self, edition: &Edition) -> bool {
        self.current().and_then(|key| self.editions.get(&key)).is_none_or(|now| !now.is_same(edition))
    }

    /// Its first beginning: what it comes after is ready.
    pub(super) fn begin(&mut self, common: &mut Common) {
        let Some(edition) = self.first.filter(|_| !self.begun) else { return };
        self.begun = true;
        let Some(plan) = self.editions.get(&edition).map(|edition| plan_of(&edition.spec)) else { return };
        let durable = common.durable(&self.name).cloned().unwrap_or_default();
        let mut edition = (edition, plan);
        let mut before = None;
        let mut pending = None;
        if let Some(place) = durable.before.clone()
            && let Some(shown) = self.editions.get(&edition.0).cloned()
            && place_in(&shown.spec, Some(place.clone())) == Some(place.clone())
        {
            let key = self.add(Edition { place: Some(place), ..shown });
            before = Some((key, plan));
        }
        if let (Some(until), Some(back_to)) = (durable.pending_until, before) {
            let left = until.saturating_sub(unix_milliseconds());
            if left == 0 {
                let slot = durable.place.as_ref().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(
                    program = self.name,
                    slot,
                    "nobody confirmed the last deploy in time: what served before is started"
                );
                (edition, before) = (back_to, None);
            } else {
                pending = Some(Duration::from_millis(left));
            }
        }
        let stopped = durable.stopped;
        self.step(common, Event::Begin { edition: edition.0, plan: edition.1, before, pending, stopped });
    }

    /// This is what it is from now on.
    pub(super) fn apply(&mut self, common: &mut Common, edition: Edition, examined: bool) {
        if self.leaving {
            self.again = Some(edition);
            return;
        }
        let plan = plan_of(&edition.spec);
        if let Some(exam) = self.exam.take_if(|_| examined) {
            self.begun = true;
            self.first = Some(exam.edition);
            return self.step(common, Event::Apply { edition: exam.edition, plan });
        }
        if !self.begun {
            // What was not started yet is what it is now.
            if let Some(key) = self.first.take() {
                self.editions.remove(&key);
            }
            let durable = common.durable(&self.name).and_then(|durable| durable.place.clone());
            let place = place_in(&edition.spec, durable);
            let key = self.add(Edition { place, ..edition });
            self.first = Some(key);
            return;
        }
        if self.is_news(&edition) {
            let key = self.add(edition);
            return self.step(common, Event::Apply { edition: key, plan });
        }
        let Some(key) = self.current() else { return };
        let is_new_plan = self.editions.get(&key).is_some_and(|known| plan_of(&known.spec) != plan);
        // Times, checks and what is asked of it are those of the new definition, also for what runs.
        self.editions.insert(key, edition);
        if is_new_plan {
            self.step(common, Event::Apply { edition: key, plan });
        }
    }

    /// Starts what this would be beside what runs, and proves it. Says as which operation the machine knows that.
    pub(super) fn examine(&mut self, common: &mut Common, edition: Edition) {
        let plan = plan_of(&edition.spec);
        let inner = common.next_operation();
        let edition = match self.begun || self.first.is_some() {
            true => self.add(edition),
            false => {
                let durable = common.durable(&self.name).and_then(|durable| durable.place.clone());
                let place = place_in(&edition.spec, durable);
                self.add(Edition { place, ..edition })
            }
        };
        let (copies, problems) = (BTreeSet::new(), Vec::new());
        self.exam = Some(Exam { inner, edition, copies, problems, last_lines: Vec::new() });
        self.step(common, Event::Prepare { operation: inner, edition, plan });
    }

    /// What was started for an exam ends.
    pub(super) fn abort(&mut self, common: &mut Common) {
        if let Some(exam) = self.exam.take() {
            self.step(common, Event::Abort { operation: exam.inner });
        }
    }

    /// Nothing of it is to run any more.
    pub(super) fn end(&mut self, common: &mut Common, limit: Option<Duration>, leaving: bool) {
        self.leaving |= leaving;
        self.again = None;
        self.stop_watching();
        self.step(common, Event::End { limit });
    }

    /// The same, if it was not told yet.
    pub(super) fn end_once(&mut self, common: &mut Common, limit: Option<Duration>) {
        if !self.ends {
            self.ends = true;
            self.end(common, limit, false);
        }
    }

    /// Whether it was applied, and waits for what it comes after.
    pub(super) fn waits_to_begin(&self) -> bool {
        !self.begun && self.first.is_some() && !self.ends
    }

    /// Whether there is nothing of it but its name: an exam has failed.
    pub(super) fn is_nothing(&self) -> bool {
        !self.begun && self.first.is_none() && self.exam.is_none() && self.copies.is_empty()
    }

    /// Whether nothing is on its way of which nobody could know what became of it.
    pub(super) fn is_still(&self) -> bool {
        self.copies.values().all(|entry| entry.born.is_some())
    }

    /// It is no longer wanted.
    pub(super) fn leave(&mut self, common: &mut Common) {
        if !self.leaving {
            self.end(common, None, true);
        }
        self.again = None;
    }

    /// Whether this definition would start something else than what runs.
    pub(super) fn starts_otherwise(&self, spec: &ProgramSpec) -> bool {
        let Some(current) = self.current().and_then(|key| self.editions.get(&key)) else { return true };
        let place = self.place_under(spec);
        let next = Edition { spec: Arc::new(spec.clone()), place, sockets: Vec::new() };
        !current.starts_same(&next)
    }

    /// Whether it is on its way out.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// What it is to be again, when it has left; and the keys that were not used yet.
    pub(super) fn take_again(&mut self) -> Option<(Edition, u64)> {
        Some((self.again.take()?, self.last_key.saturating_add(1)))
    }

    /// Whether nothing of it runs, and nothing of it is left.
    pub(super) fn is_over(&self) -> bool {
        let view = self.machine.view();
        let is_idle = matches!(view.state, State::New | State::Ended | State::Stopped | State::OnDemand);
        is_idle && self.copies.is_empty() || !self.begun && self.exam.is_none() && self.copies.is_empty()
    }

    /// Whether it has ended, and nobody is to start it again.
    pub(super) fn has_ended(&self) -> bool {
        self.begun && self.machine.view().state == State::Ended
    }

    /// Whether it is no longer wanted, and nothing of it is left.
    pub(super) fn has_left(&self) -> bool {
        self.leaving && self.is_over()
    }

    /// The exit code that stands for how it has ended: that of its process, or 128 and the signal.
    pub(super) fn code(&self) -> u8 {
        match self.last_end.as_ref().and_then(|end| end.exit) {
            Some(Exit::Code(code)) => u8::try_from(code).unwrap_or(1),
            Some(Exit::Signal(signal)) => u8::try_from(128_i32.saturating_add(signal)).unwrap_or(1),
            // It did not start, or was killed because it did not get ready.
            None if self.last_end.is_some() => ExitCode::NotReady.code(),
            Some(Exit::Unknown) | None => 0,
        }
    }

    /// How long it may take from the signal until everything of it is gone.
    pub(super) fn longest_stop(&self) -> Duration {
        let limits = self.editions.values().map(|edition| edition.spec.stop.limit);
        limits.max().unwrap_or_default() + Plan::KILL_LIMIT
    }

    fn view(&self) -> View {
        self.machine.view()
    }
}

/// The place of a definition that has slots: this one as long as it is there, otherwise the first.
pub(super) fn place_in(spec: &ProgramSpec, now: Option<Place>) -> Option<Place> {
    match now {
        Some(Place::Slot(name)) if spec.slots.iter().any(|slot| slot.name == name) => Some(Place::Slot(name)),
        Some(Place::Directory(path)) => Some(Place::Directory(path)),
        _ => spec.slots.first().map(|slot| Place::Slot(slot.name.clone())),
    }
}

/// The sockets that the definition names, in its order.
pub(super) fn sockets_of(spec: &ProgramSpec, all: &super::Sockets) -> Vec<super::SharedSocket> {
    let find = |wanted: &crate::protocol::ProgramSocket| {
        let fits = |shared: &&super::SharedSocket| shared.address.is_same_place(&wanted.address);
        let of_name = |shared: &&super::SharedSocket| fits(shared) && shared.listener == spec.name;
        all.iter().find(of_name).or_else(|| all.iter().find(fits)).cloned()
    };
    spec.sockets.iter().filter_map(find).collect()
}

/// The numbers and times of a definition.
pub(super) fn plan_of(spec: &ProgramSpec) -> Plan {
    let by_time = match spec.ready {
        // The proof is that it lives for so long: its limit comes later.
        Ready::After(time) => time + Duration::from_secs(1),
        _ => Duration::ZERO,
    };
    Plan {
        copies: spec.copies,
        swap: match spec.swap {
            Swap::Overlap => SwapPlan::Overlap,
            Swap::StopFirst => SwapPlan::StopFirst,
        },
        private: spec.private.is_some(),
        ready_limit: spec.ready_limit.max(by_time) + TO_REPORT,
        settle: spec.settle,
        quiet_limit: spec.stop.limit,
        stop_limit: spec.stop.limit,
        restart: match spec.restart.policy {
            RestartPolicy::Always => RestartPlan::Always,
            RestartPolicy::OnFailure => RestartPlan::OnFailure,
            RestartPolicy::Never => RestartPlan::Never,
        },
        backoff_first: spec.restart.first,
        backoff_longest: spec.restart.longest,
        backoff_reset: spec.restart.reset,
        on_demand: spec.on_demand,
        idle: spec.idle.is_some(),
        warm: spec.warm,
        batch: spec.batch,
        max_unhealthy: spec.max_unhealthy,
        pause_limit: spec.pause_limit,
    }
}

/// Milliseconds since 1970.
pub(super) fn unix_milliseconds() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
