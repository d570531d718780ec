//! What the machine says, done.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use handover_lifecycle::program::{CopyKey, EditionKey, Effect, Event, Why};
use handover_lifecycle::{CallKey, OperationKey};

use super::super::SharedSocket;
use super::super::asked::{Asked, MAX_HELD, What};
use super::super::commands;
use super::super::common::{Common, Prepared};
use super::super::copy;
use super::super::editions::Edition;
use super::super::happened::Of;
use super::super::out::Out;
use super::super::state::DurableProgram;
use super::super::traffic::{Paused, PausedBy, Waiter};
use super::starting::{Starting, setting_of};
use super::{Entry, Hosted, unix_milliseconds};
use crate::journal::now;
use crate::protocol::{CommandSpec, Target};

impl Hosted {
    pub(super) fn perform(&mut self, common: &mut Common, effect: Effect, events: &mut VecDeque<Event>) {
        match effect {
            Effect::Step { operation, step } => {
                if let Some(active) = self.active.as_ref().filter(|active| active.inner == operation) {
                    common.out.push(Out::Step { operation: active.ended.operation, step });
                }
            }
            Effect::Hook { operation, edition, limit } => self.hook(common, operation, edition, limit),
            Effect::EndHook { .. } => {
                if let Some(task) = self.active.as_mut().and_then(|active| active.task.take()) {
                    task.abort();
                }
            }
            Effect::Start { copy, edition, number } => self.start(common, copy, edition, number),
            Effect::Check { copy, limit } => self.check(common, copy, limit),
            Effect::Guard { copies } => self.guard(common, &copies),
            Effect::EndCheck { copy } => {
                if let Some(entry) = self.copies.get_mut(&copy) {
                    entry.end_check();
                }
            }
            Effect::Stop { copy, limit: _ } => self.ask_to_stop(common, copy),
            Effect::Kill { copy } => self.kill(common, copy, events),
            Effect::Route { call, on, off } => self.route(common, call, &on, &off),
            Effect::AwaitQuiet { call, copies, limit } => {
                self.await_quiet(common, call, &copies, limit, events);
            }
            Effect::Pause { call, limit } => self.pause(common, call, limit),
            Effect::Resume => self.let_go(common),
            Effect::Watch { demand, idle } => self.watch(common, demand, idle),
            Effect::Save { call } => {
                let state = self.durable();
                if common.save_program(&self.name, state, call) {
                    events.push_back(Event::Saved { call, ok: true });
                }
            }
            Effect::Prepared { operation, failed } => self.prepared(common, operation, failed),
            Effect::Done { operation, outcome, cause, figures } => {
                self.done(common, operation, outcome, cause, figures);
            }
            Effect::Failed { edition, cause } => self.swap_failed(edition, cause),
            Effect::Propose { why } => self.propose(common, why),
            Effect::PendingOver { edition, how } => {
                self.pending_by = None;
                let slot = self.place_name(edition).unwrap_or_default();
                tracing::info!(
                    program = self.name,
                    slot,
                    ?how,
                    "{}: nothing awaits confirmation any more",
                    self.name
                );
            }
            Effect::Ended { ok } => {
                self.settled = true;
                tracing::debug!(program = self.name, ok, "nothing of {} runs", self.name);
            }
            Effect::Forget { edition } => {
                if self.first != Some(edition) {
                    self.editions.remove(&edition);
                }
            }
        }
        common.out.push(Out::Keep);
    }

    /// The place of an edition as it is shown.
    pub(super) fn place_name(&self, edition: EditionKey) -> Option<String> {
        self.editions.get(&edition)?.place.as_ref().map(ToString::to_string)
    }

    fn hook(&mut self, common: &mut Common, operation: OperationKey, edition: EditionKey, limit: Duration) {
        let teller = common.teller(&self.name);
        let shown = self.editions.get(&edition);
        let hook = shown.and_then(|shown| Some((shown.spec.hook.clone()?, shown)));
        let Some((hook, edition)) = hook else {
            let result = Ok(commands::Finished { said: commands::Said::default(), took: Duration::ZERO });
            return teller.tell(Of::Hooked { operation, result });
        };
        let words = edition.words();
        let filled = |(name, value): (String, String)| {
            let value = words.expand(&value).unwrap_or(value);
            (name, value)
        };
        let environment = edition.environment().into_iter().map(filled).collect();
        let setting = setting_of(edition, &environment, &words, &common.groups);
        let setting = commands::Setting { place: Some(common.place.clone()), ..setting };
        let program = self.name.clone();
        let task = tokio::spawn(async move {
            let result = match words.expand_all(&hook.command) {
                Ok(command) => {
                    let spec = CommandSpec { command, limit: hook.limit.min(limit) };
                    commands::run(&program, &spec, &setting).await
                }
                Err(unfilled) => Err(commands::Failed::NotStarted {
                    command: hook.command.first().cloned().unwrap_or_default(),
                    why: unfilled.to_string(),
                }),
            };
            teller.tell(Of::Hooked { operation, result });
        });
        if let Some(active) = self.active.as_mut().filter(|active| active.inner == operation) {
            active.task = Some(task.abort_handle());
        }
    }

    /// Programs expect sockets that wait in `accept`, if the configuration does not say otherwise. Those that another copy has are
    /// left as they are: it may have set them otherwise, and relies on it.
    fn prepare_shared(&self, edition: &Edition) -> io::Result<()> {
        let editions = self.copies.values().filter_map(|entry| self.editions.get(&entry.edition));
        let used: BTreeSet<_> = editions.flat_map(|used| &used.sockets).map(SharedSocket::identity).collect();
        let shared = edition.sockets.iter().filter(|_| !edition.spec.pass.nonblocking);
        shared
            .filter(|shared| !used.contains(&shared.identity()))
            .try_for_each(|shared| copy::make_blocking(&shared.socket))
    }

    pub(super) fn start(&mut self, common: &mut Common, copy: CopyKey, edition: EditionKey, number: u32) {
        let teller = common.teller(&self.name);
        let made = copy::new_mark(&self.name, number).map_err(|error| error.to_string());
        let prepared = made.and_then(|mark| Ok((mark, common.outputs()?)));
        let (mark, outputs) = match (prepared, self.editions.get(&edition)) {
            (Ok(prepared), Some(_)) => prepared,
            (Err(why), _) => return teller.tell(Of::Started { copy, born: Err(why) }),
            (Ok(_), None) => {
                let why = "nothing is known of what it is to be started from".to_owned();
                return teller.tell(Of::Started { copy, born: Err(why) });
            }
        };
        let Some(known) = self.editions.get(&edition).cloned() else { return };
        if let Err(error) = self.prepare_shared(&known) {
            let why = format!("its socket cannot be prepared: {error}");
            return teller.tell(Of::Started { copy, born: Err(why) });
        }
        let own = |entry: &Entry| entry.born.as_ref().and_then(|born| born.own.as_ref()?.port());
        let starting = Starting {
            key: copy,
            number,
            mark: mark.clone(),
            edition: known,
            place: common.place.clone(),
            taken: self.copies.values().filter_map(own).collect(),
            outputs,
            groups: common.groups.clone(),
        };
        self.last_key = self.last_key.max(copy.0);
        self.copies.insert(copy, Entry::new(edition, number, mark));
        if let Some(active) = &mut self.active {
            active.copies.insert(copy);
        }
        if let Some(exam) = self.exam.as_mut().filter(|exam| exam.edition == edition) {
            exam.copies.insert(copy);
        }
        tokio::task::spawn_blocking(move || {
            let born = starting.start().map(Box::new);
            teller.tell(Of::Started { copy, born });
        });
    }

    fn check(&mut self, common: &Common, copy: CopyKey, limit: Duration) {
        let teller = common.teller(&self.name);
        if let Some(entry) = self.copies.get_mut(&copy)
            && let Some(edition) = self.editions.get(&entry.edition)
        {
            entry.check(copy, edition, limit, &teller);
        }
    }

    fn guard(&mut self, common: &Common, copies: &[CopyKey]) {
        let teller = common.teller(&self.name);
        for copy in copies {
            if let Some(entry) = self.copies.get_mut(copy)
                && let Some(edition) = self.editions.get(&entry.edition)
            {
                entry.guard(*copy, edition, &teller);
            }
        }
    }

    fn ask_to_stop(&mut self, common: &Common, copy: CopyKey) {
        let teller = common.teller(&self.name);
        if let Some(entry) = self.copies.get_mut(&copy)
            && let Some(edition) = self.editions.get(&entry.edition)
        {
            entry.stop(copy, edition, &teller);
        }
    }

    fn kill(&mut self, common: &Common, copy: CopyKey, events: &mut VecDeque<Event>) {
        let teller = common.teller(&self.name);
        match self.copies.get_mut(&copy) {
            Some(entry) => entry.kill(copy, self.editions.get(&entry.edition), &teller),
            None => events.push_back(Event::Gone { copy }),
        }
    }

    fn route(&mut self, common: &mut Common, call: CallKey, on: &[CopyKey], off: &[CopyKey]) {
        let placed = |copies: &[CopyKey], on: bool| -> Vec<_> {
            let known = copies.iter().filter_map(|copy| Some((*copy, self.copies.get(copy)?)));
            let place = known.filter_map(|(copy, entry)| {
                let own = entry.born.as_ref()?.own.as_ref()?;
                Some((copy, entry.number, own.address.clone(), on))
            });
            place.collect()
        };
        let mut all = placed(on, true);
        all.extend(placed(off, false));
        self.ask_held(common);
        if !on.is_empty() {
            self.nobody_waits();
        }
        common.board.route(&self.name, all);
        common.say_traffic(Some(Waiter::Machine(self.name.clone(), call)));
        let target = Target::Program(self.name.clone());
        let by_machine = |paused: &Paused| paused.by == PausedBy::Machine && paused.target == target;
        if !on.is_empty() && !common.board.paused.iter().any(by_machine) {
            self.note_wait(common);
        }
    }

    /// How many are held is asked as long as they are.
    pub(super) fn ask_held(&mut self, common: &mut Common) {
        if self.held_since.is_some() && self.active.is_some() {
            self.asked_held += 1;
            let waiter = Waiter::Figures(self.name.clone());
            let target = vec![Target::Program(self.name.clone())];
            let messages = common.board.await_quiet(target, Duration::ZERO, waiter, Instant::now());
            common.send(messages);
        }
    }

    fn await_quiet(
        &mut self,
        common: &mut Common,
        call: CallKey,
        copies: &[CopyKey],
        limit: Duration,
        events: &mut VecDeque<Event>,
    ) {
        let placed = common.board.placed(&self.name);
        let of = placed.iter().filter(|placed| copies.contains(&placed.copy));
        let targets: Vec<_> = of.map(|placed| Target::Endpoint(placed.name.clone())).collect();
        if targets.is_empty() {
            return events.push_back(Event::Quiet { call, clean: true });
        }
        let waiter = Waiter::Machine(self.name.clone(), call);
        let messages = common.board.await_quiet(targets, limit, waiter, Instant::now());
        common.send(messages);
    }

    fn pause(&mut self, common: &mut Common, call: CallKey, limit: Duration) {
        let max_held = self.spec().map_or(MAX_HELD, |spec| spec.max_held);
        let until = Instant::now().checked_add(limit).unwrap_or_else(Instant::now);
        let target = Target::Program(self.name.clone());
        common.board.pause(Paused {
            target,
            by: PausedBy::Machine,
            until,
            since: now(),
            max_held,
            held: None,
        });
        self.held_since = Some(common.now());
        common.say_traffic(Some(Waiter::Machine(self.name.clone(), call)));
    }

    fn let_go(&mut self, common: &mut Common) {
        let target = Target::Program(self.name.clone());
        common.board.resume(|paused| paused.by == PausedBy::Machine && paused.target == target);
        common.say_traffic(None);
        // The pause may be over before anybody can answer: then they wait on, for an endpoint.
        if self.view().copies.iter().any(|copy| copy.on) {
            self.note_wait(common);
        }
    }

    /// Those that were held are answered from now on.
    fn note_wait(&mut self, common: &Common) {
        if let (Some(since), Some(active)) = (self.held_since.take(), &mut self.active) {
            let waited = common.now().saturating_sub(since).as_millis();
            active.ended.program.longest_wait_ms = Some(u64::try_from(waited).unwrap_or(u64::MAX));
        }
    }

    /// What a start has to know.
    pub(super) fn durable(&self) -> DurableProgram {
        let durable = self.machine.durable();
        let place = |edition: Option<EditionKey>| self.editions.get(&edition?)?.place.clone();
        let until = |left: u64| unix_milliseconds().saturating_add(left);
        DurableProgram {
            place: place(durable.edition.or(self.first)),
            before: place(durable.before),
            pending_until: durable.pending_ms.map(until),
            stopped: durable.stopped,
        }
    }

    fn prepared(
        &mut self,
        common: &mut Common,
        operation: OperationKey,
        failed: Option<handover_lifecycle::Cause>,
    ) {
        let Some(exam) = self.exam.as_mut().filter(|exam| exam.inner == operation) else { return };
        let mut problems = std::mem::take(&mut exam.problems);
        if let Some(cause) = failed.filter(|_| problems.is_empty()) {
            problems.push(format!("program {}: {cause}", self.name));
        }
        let lines = std::mem::take(&mut exam.last_lines);
        let copies = exam.copies.iter().filter_map(|copy| self.copies.get(copy));
        let mut warnings: Vec<_> =
            copies.filter_map(|entry| entry.born.as_ref()).flat_map(|born| born.warnings.clone()).collect();
        warnings.sort();
        warnings.dedup();
        let program = self.name.clone();
        common.prepared.push(Prepared { program, passed: failed.is_none(), problems, lines, warnings });
        if failed.is_some() {
            self.exam = None;
        }
    }

    fn swap_failed(&mut self, edition: EditionKey, cause: handover_lifecycle::Cause) {
        self.settled = true;
        let what = match self.place_name(edition) {
            Some(place) => format!("{} in {place}", self.name),
            None => self.name.clone(),
        };
        let why = self.last_end.as_ref().map(|end| format!(": {}", end.sentence)).unwrap_or_default();
        tracing::error!(
            program = self.name,
            "the new definition of {what} could not be put into service ({cause}{why}); what ran before serves on; \
             'handover restart {}' tries it again",
            self.name
        );
    }

    fn propose(&mut self, common: &mut Common, why: Why) {
        let comment = match why {
            Why::NotConfirmed => "nobody confirmed the deploy in time".to_owned(),
            Why::Dies => match &self.last_end {
                Some(end) => format!("what was deployed fares badly: {}", end.sentence),
                None => "what was deployed fares badly".to_owned(),
            },
        };
        let target = Some(self.name.clone());
        common.out.push(Out::Own { asked: Asked { target, what: What::GoBack }, comment });
    }
}
