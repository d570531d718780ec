//! What the driver does of what the machine says, well or badly; and what comes out of the blue.

use std::time::Duration;

use handover_lifecycle::program::{Ask, CopyKey, Durable, EditionKey, Effect, Event, Machine, Saved, Swap};
use handover_lifecycle::{CallKey, OperationKey};

use crate::rules::Op;
use crate::world::{Happening, Process, Weather, World};

impl World {
    /// An answer after a while, or much too late, or never.
    fn answer(&mut self, event: Event, soon: (u64, u64)) {
        let after = if self.fault() {
            if self.rng.chance(500) {
                return;
            }
            self.rng.millis(0, 15_000)
        } else {
            self.rng.millis(soon.0, soon.1)
        };
        let life = self.life;
        self.schedule(after, Happening::Answer(life, event));
    }

    pub(crate) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Start { copy, edition, number } => self.start(copy, edition, number),
            Effect::Check { copy, .. } => self.check_copy(copy),
            Effect::Guard { copies } => self.guard(&copies),
            Effect::Stop { copy, limit } => self.stop(copy, limit),
            Effect::Kill { copy } => self.kill(copy),
            Effect::Hook { operation, edition, .. } => {
                self.must_know(edition);
                let ok = !self.fault();
                self.answer(Event::HookDone { operation, ok }, (1, 2000));
            }
            Effect::Route { call, on, off } => {
                self.expect_next_call(call);
                self.routed_on = on;
                self.routed_off = off;
                self.answer(Event::TrafficSet { call }, (0, 5));
            }
            Effect::AwaitQuiet { call, copies, limit } => {
                self.check_await_quiet(&copies);
                let clean = !self.fault();
                let longest = u64::try_from(limit.as_millis()).unwrap();
                let most = if self.weather.fault == 0 { 100 } else { 800 };
                let after = if clean { (0, longest.min(most)) } else { (longest, longest) };
                self.answer(Event::Quiet { call, clean }, after);
            }
            Effect::Pause { call, limit } => {
                self.expect_next_call(call);
                // Said again after the supervisor's exec, it is still the same pause.
                let (since, _, edition) = self.paused.unwrap_or((self.now, limit, self.view.edition));
                self.paused = Some((since, self.now - since + limit, edition));
                self.answer(Event::TrafficSet { call }, (0, 5));
            }
            Effect::Resume => self.check_resume(),
            Effect::Watch { demand, idle } => {
                self.watched = (demand, idle);
                let event = if demand { Event::Demand } else { Event::Idle };
                if (demand || idle) && !self.weather.calm {
                    self.answer(event, (100, 20_000));
                }
            }
            Effect::Save { call } => {
                self.writing = Some((call, self.machine.durable()));
                let ok = !self.fault();
                self.answer(Event::Saved { call, ok }, (0, 30));
            }
            Effect::Prepared { operation, failed } => self.prepared(operation, failed),
            Effect::Done { operation, outcome, cause, .. } => self.done(operation, outcome, cause),
            Effect::Propose { .. } => {
                self.tally.proposed += 1;
                let (life, busy) = (self.life, self.fault());
                let after = if busy { self.rng.millis(0, 20_000) } else { self.rng.millis(0, 20) };
                self.schedule(after, Happening::OwnTurn(life));
            }
            Effect::PendingOver { how, .. } => self.pending_over(how),
            Effect::Ended { .. } => self.check_ended(),
            Effect::Forget { edition } => self.check_forget(edition),
            Effect::Failed { .. } => self.tally.own_failed += 1,
            Effect::Step { .. } | Effect::EndHook { .. } | Effect::EndCheck { .. } => {}
        }
    }

    fn expect_next_call(&mut self, call: CallKey) {
        if call <= self.last_call {
            self.break_rule(6, format!("{call} after {}", self.last_call));
        }
        self.last_call = call;
    }

    fn start(&mut self, key: CopyKey, edition: EditionKey, number: u32) {
        self.must_know(edition);
        self.check_start(key, edition, number);
        let mood = self.some_mood(edition);
        let alive = mood.starts != Some(false);
        self.processes.insert(
            key,
            Process { edition, number, first: alive, alive, ready: false, stop: None, killed: false, mood },
        );
        let life = self.life;
        let soon = self.rng.millis(0, 5);
        match mood.starts {
            Some(true) => self.schedule(soon, Happening::Answer(life, Event::Started { copy: key })),
            Some(false) => self.schedule(soon, Happening::Tell(Event::NotStarted { copy: key })),
            None => {}
        }
        if let Some((after, ok)) = mood.dies {
            self.schedule(after, Happening::Dies(key, ok));
        }
    }

    fn check_copy(&mut self, key: CopyKey) {
        let Some(process) = self.processes.get(&key) else { return };
        let Some((well, after)) = process.mood.ready else { return };
        let life = self.life;
        let event = if well { Event::Ready { copy: key } } else { Event::NotReady { copy: key } };
        self.schedule(after, Happening::Answer(life, event));
    }

    fn guard(&mut self, copies: &[CopyKey]) {
        if self.fault()
            && let Some(copy) = copies.first().copied()
        {
            let (life, after) = (self.life, self.rng.millis(0, 5000));
            self.schedule(after, Happening::Answer(life, Event::NotReady { copy }));
        }
    }

    fn stop(&mut self, key: CopyKey, limit: Duration) {
        let now = self.now;
        let Some(process) = self.processes.get_mut(&key) else {
            return self.break_rule(12, format!("{key} is stopped and was never started"));
        };
        process.stop.get_or_insert((now, limit));
        let (first, obeys, leaves) = (process.first, process.mood.obeys, process.mood.leaves);
        let Some(after) = obeys else { return };
        if first {
            self.schedule(after, Happening::Dies(key, true));
        } else if !leaves {
            self.schedule(after, Happening::Goes(key));
        }
    }

    fn kill(&mut self, key: CopyKey) {
        self.check_kill(key);
        let Some(process) = self.processes.get_mut(&key) else { return };
        process.killed = true;
        let after = process.mood.killed_in;
        if process.alive {
            self.schedule(after, Happening::Goes(key));
        } else {
            // Nothing was left: the driver says so.
            self.schedule(after, Happening::Tell(Event::Gone { copy: key }));
        }
    }

    /// Something out of the blue.
    pub(crate) fn chaos(&mut self) {
        match self.rng.below(100) {
            0..48 => self.ask_something(),
            48..54 => self.call_off(),
            54..62 => self.reload(),
            62..68 => self.apply_something(),
            68..76 => self.something_dies(),
            76..84 => self.stray(),
            84..92 => self.resume(),
            92..94 => self.crash(),
            94 => self.end(),
            95..97 => self.feed(Event::Idle),
            97..99 => self.feed(Event::Demand),
            _ => self.feed(Event::Time),
        }
    }

    fn ask_something(&mut self) {
        // The server has one operation at a time, nearly always.
        if self.ops.iter().any(|op| !op.ended) && !self.rng.chance(100) {
            return;
        }
        let confirm = self.rng.chance(500).then(|| self.rng.millis(500, 20_000));
        let guard = self.rng.chance(300).then(|| self.rng.millis(100, 4000));
        let ask = match self.rng.below(20) {
            0..2 => Ask::Start,
            2..4 => Ask::Stop,
            4..8 => Ask::Restart {
                batch: self.rng.chance(200).then_some(2),
                max_unhealthy: self.rng.chance(200).then_some(1),
            },
            8..14 => {
                let like =
                    self.rng.chance(700).then(|| self.view.edition.map(|edition| self.editions[&edition].0));
                let (edition, plan) = self.new_edition(like.flatten());
                let hook = self.rng.chance(400).then(|| self.rng.millis(500, 4000));
                Ask::Deploy { edition, plan, hook, confirm, guard }
            }
            14..16 => Ask::Rollback,
            16..18 => Ask::Confirm,
            18 => Ask::Cancel,
            _ => Ask::GoBack,
        };
        self.ask(ask);
    }

    pub(crate) fn ask(&mut self, ask: Ask) {
        let operation = OperationKey(self.next_operation);
        self.next_operation += 1;
        let due = self.now + self.machine.longest(&ask);
        let op = Op::new(operation, Some(ask), self, due);
        self.ops.push(op);
        self.feed(Event::Ask { operation, ask });
    }

    fn call_off(&mut self) {
        let open: Vec<OperationKey> = self.ops.iter().filter(|op| !op.ended).map(|op| op.operation).collect();
        let some = self.rng.below(self.next_operation + 2);
        let operation = open.first().copied().unwrap_or(OperationKey(some));
        if let Some(op) = self.ops.iter_mut().find(|op| op.operation == operation) {
            op.called_off = true;
        }
        self.feed(Event::CallOff { operation });
    }

    fn reload(&mut self) {
        if self.ops.iter().any(|op| !op.ended) {
            return;
        }
        let like = self.rng.chance(700).then(|| self.view.edition.map(|edition| self.editions[&edition].0));
        let (edition, plan) = self.new_edition(like.flatten());
        let operation = OperationKey(self.next_operation);
        self.next_operation += 1;
        let due = self.now + self.machine.longest_exam(&plan);
        let op = Op::new(operation, None, self, due);
        self.ops.push(op);
        self.exams.insert(operation, edition);
        self.feed(Event::Prepare { operation, edition, plan });
    }

    pub(crate) fn go_on_with_reload(&mut self, operation: OperationKey, edition: EditionKey, applies: bool) {
        if applies {
            let plan = self.editions[&edition].0;
            self.apply(edition, plan);
        } else {
            self.feed(Event::Abort { operation });
        }
    }

    fn apply_something(&mut self) {
        let known = self.view.edition.map(|edition| (edition, self.editions[&edition].0));
        if let Some(before) = self.view.before.filter(|_| self.rng.chance(100)) {
            return self.apply(before, self.editions[&before].0);
        }
        match known.filter(|_| self.rng.chance(300)) {
            // The same edition, with other numbers.
            Some((edition, plan)) => {
                let copies = u32::try_from(self.rng.below(4) + 1).unwrap();
                let plan = handover_lifecycle::program::Plan { copies, ..plan };
                self.editions.get_mut(&edition).unwrap().0 = plan;
                self.apply(edition, plan);
            }
            None => {
                let like = self.rng.chance(700).then_some(known.map(|(_, plan)| plan)).flatten();
                let (edition, plan) = self.new_edition(like);
                self.apply(edition, plan);
            }
        }
    }

    pub(crate) fn apply(&mut self, edition: EditionKey, plan: handover_lifecycle::program::Plan) {
        self.forgotten.remove(&edition);
        self.applied.insert(edition);
        self.ops.iter_mut().for_each(|op| op.applied_since = true);
        self.feed(Event::Apply { edition, plan });
    }

    fn something_dies(&mut self) {
        let alive: Vec<CopyKey> =
            self.processes.iter().filter(|(_, process)| process.first).map(|(key, _)| *key).collect();
        if alive.is_empty() {
            return;
        }
        let which = alive[usize::try_from(self.rng.below(u64::try_from(alive.len()).unwrap())).unwrap()];
        let ok = self.rng.chance(300);
        self.dies(which, ok);
    }

    /// Nonsense, and what comes much too late.
    fn stray(&mut self) {
        let ended: Vec<CopyKey> =
            self.processes.iter().filter(|(_, process)| !process.alive).map(|(key, _)| *key).collect();
        let copy = match ended.last() {
            Some(key) if self.rng.chance(700) => *key,
            _ => CopyKey(1_000_000 + self.rng.below(100)),
        };
        let call = CallKey(self.rng.below(self.last_call.0 + 1));
        let old = self.ops.iter().rev().find(|op| op.ended).map_or(OperationKey(999), |op| op.operation);
        let event = match self.rng.below(9) {
            0 => Event::Started { copy },
            1 => Event::Ready { copy },
            2 => Event::NotReady { copy },
            3 => Event::Exited { copy, ok: true },
            4 => Event::Gone { copy },
            5 => Event::NotStarted { copy },
            6 => Event::HookDone { operation: old, ok: true },
            7 => Event::Abort { operation: old },
            _ => Event::TrafficSet { call },
        };
        self.feed(event);
    }

    /// The supervisor executes another binary, or dies and its successor finds what it left. Nobody answers any more what was
    /// asked before.
    pub(crate) fn resume(&mut self) {
        self.tally.resumed += 1;
        self.life += 1;
        let saved = self.machine.save(self.now);
        let json = serde_json::to_string(&saved).unwrap();
        let read: Saved = serde_json::from_str(&json).unwrap();
        if read != saved {
            return self.break_rule(9, format!("what was saved reads differently: {json}"));
        }
        let read = self.spoil_saved(&json, read);
        self.machine = Machine::resume(self.now, &read);
        if self.sabotage.is_none()
            && self.machine.save(self.now) != Machine::resume(self.now, &read).save(self.now)
        {
            return self.break_rule(9, "what was saved is not what goes on".to_owned());
        }
        self.writing = None;
        self.note(|| "== the supervisor is another process".to_owned());
        // The driver starts processes in the same breath; what it had not begun is not begun now.
        self.feed(Event::Resumed);
    }

    /// Everything dies, and the next start knows what is on the disk.
    fn crash(&mut self) {
        self.tally.crashed += 1;
        (self.ending, self.ended) = (false, false);
        self.life += 1;
        self.note(|| "== everything dies".to_owned());
        let stays = |happening: &Happening| matches!(happening, Happening::Chaos);
        self.queue.retain(|_, happening| stays(happening));
        self.processes.clear();
        (self.routed_on, self.routed_off) = (Vec::new(), Vec::new());
        (self.paused, self.writing, self.watched) = (None, None, (false, false));
        self.capacity = 0;
        self.overdue_since = None;
        self.ops.iter_mut().for_each(|op| op.ended = true);
        let keys_from = self.machine.save(self.now);
        let from = serde_json::to_value(&keys_from).unwrap()["table"]["next_key"].as_u64().unwrap();
        self.machine = Machine::new(from);
        let (Durable { edition, before, pending_ms, stopped }, since) = self.disk;
        let Some(edition) = edition else { return };
        let plan = self.editions[&edition].0;
        self.forgotten.remove(&edition);
        let before = before.map(|before| (before, self.editions[&before].0));
        if let Some((before, _)) = before {
            self.forgotten.remove(&before);
        }
        let pending =
            pending_ms.map(|left| Duration::from_millis(left).saturating_sub(self.now.saturating_sub(since)));
        self.disk = (
            Durable {
                pending_ms: pending.map(|left| u64::try_from(left.as_millis()).unwrap()),
                ..self.disk.0
            },
            self.now,
        );
        self.feed(Event::Begin { edition, plan, before, pending, stopped });
    }

    fn end(&mut self) {
        if self.rng.chance(500) {
            return;
        }
        self.ending = true;
        let limit = self.rng.chance(500).then(|| self.rng.millis(0, 3000));
        self.feed(Event::End { limit });
    }

    /// From now on everything goes well. Then the program must do what it is asked to, whatever went before.
    pub(crate) fn calm_down(&mut self) {
        self.weather = Weather { fault: 0, calm: true };
        self.processes.values_mut().for_each(|process| process.mood.killed_in = Duration::from_millis(5));
        self.queue.retain(|_, happening| !matches!(happening, Happening::Chaos));
        self.note(|| "== the weather is calm".to_owned());
        let a_while = Duration::from_secs(3600);
        self.go_on_until(self.now + a_while, false);
        self.expect_rest();
        if !self.ending {
            self.expect_success(Ask::Start);
            self.expect_success(Ask::Restart { batch: None, max_unhealthy: None });
            let like = self.view.edition.map(|edition| self.editions[&edition].0);
            let (edition, plan) = self.new_edition(like);
            self.expect_success(Ask::Deploy { edition, plan, hook: None, confirm: None, guard: None });
            if plan.private
                && plan.swap == Swap::Overlap
                && !plan.warm.is_zero()
                && self.view.warm_until.is_none()
            {
                self.break_rule(14, "what was deployed before is not warm".to_owned());
            }
            self.expect_success(Ask::Rollback);
            self.expect_success(Ask::Stop);
        }
        self.go_on_until(self.now + a_while, false);
        self.expect_nothing_left();
    }

    fn expect_success(&mut self, ask: Ask) {
        if self.violation.is_some() {
            return;
        }
        self.ask(ask);
        self.go_on_until(self.now + Duration::from_secs(3600), true);
        let last = self.ops.last().unwrap();
        if !last.outcome.is_some_and(|(outcome, _)| outcome.is_success()) {
            let text = format!("in calm weather {ask:?} ended as {:?}", last.outcome);
            self.break_rule(14, text);
        }
    }
}
