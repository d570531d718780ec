//! The machine of one program: which copies of it run, which get requests, and how one edition follows another.
//!
//! Pure, like the server's machine: the driver tells [`Machine::step`] what happened and what time it is, and performs the
//! [`Effect`]s it gets back. Names, commands, addresses and last lines stay with the driver; here are keys, numbers and times.
//!
//! ```text
//!   program ── held to one edition; beside it the one *before* (warm or cold), and one that was applied and failed (*wanted*)
//!      ├─ numbers 1, 2, …   each has one copy that serves, or waits for its back-off          healing.rs
//!      ├─ copies            roles: serving, candidate, warm, leaving; each in one stage       copies.rs
//!      ├─ one change        an operation's or its own: from its first step to its one end     change.rs
//!      ├─ probation         a deploy that goes back unless it is confirmed                    probation.rs
//!      └─ traffic           what requests can reach, as it was said last                      traffic.rs
//! ```
//!
//! `asking.rs` says how each operation begins and which are refused, `applying.rs` what the configuration does, `time.rs` has all
//! deadlines, `saving.rs` what survives the supervisor. Operations wait for nothing but the change that is active; the server has
//! one of them at a time, and a second one is refused here too.
//!
//! # A change
//!
//! ```text
//!   overlap:     hook ─▶ start ─▶ ready ─▶ settle ─▶ write ─▶ switch ─▶ drain ─▶ stop, or keep warm ─▶ done
//!   stop first:  hook ─▶ hold ─▶ quiet ─▶ stop ─▶ start ─▶ ready ─▶ settle ─▶ write ─▶ switch ─▶ resume ─▶ done
//!   guard:       where the old one can stay warm, or stops first: after the switch; on shared sockets: before the old one stops
//! ```
//!
//! A restart of the same edition goes through this in batches, new beside old; everything else takes all copies at once, so that there
//! is one moment at which the edition changes, and one way back. Only what is nowhere else is written: which slot
//! serves, until when it has to be confirmed, and whether an operator has stopped it. A definition is in the configuration.
//!
//! | it fails in             | by                                       | overlap                            | stop first                                   |
//! |-------------------------|------------------------------------------|------------------------------------|----------------------------------------------|
//! | hook                    | its code, its deadline                   | rejected                           | rejected                                     |
//! | hold, quiet             | what is in flight takes longer than requests may be held | –                  | resume; not ready: nothing was stopped       |
//! | quiet                   | its limit                                | goes on: counted                   | goes on: counted                             |
//! | stop                    | its limit                                | killed: applied with losses        | the same                                     |
//! | stop                    | cannot even be killed                    | given up, and still shown          | nothing is started beside it: see *restore*  |
//! | start, ready, settle    | not started, died, said no, its deadline | candidates end; not ready          | candidates end; *restore*: rolled back       |
//! | the same, rolling       | as many as may fail                      | the others are replaced; not ready | (it never rolls)                             |
//! | write                   | failed, its deadline                     | candidates end; not ready          | *restore*: rolled back                       |
//! | guard                   | a death, a check                         | back within the operation: rolled back | the same, stopping first                 |
//! | the way back            | what was before does not get ready       | the new one serves on: applied with losses, not taken back | the same; or unknown |
//! | *restore*               | the old edition does not start again     | –                                  | resume; unknown; it is tried again           |
//! | anything before the switch | called off                            | candidates end; rejected           | before the stop: rejected; then *restore*    |
//! | anything after it       | called off                               | applied; the rest goes on          | applied                                      |
//! | anything                | the end of the server, or of the program | answered at once by what is so     | the same                                     |
//!
//! The old copies go on being healed while candidates rise: a change never keeps a program down. While a program that stops first is
//! swapped, nothing is started beside the swap.
//!
//! # Deaths
//!
//! A copy ends when its first process does; what that has left behind is asked to stop, then killed. Killed without having been asked
//! is only who was never ready.
//!
//! | who dies                        | what follows                                                                        |
//! |---------------------------------|-------------------------------------------------------------------------------------|
//! | one that serves                 | out of traffic at once; another one after its back-off, if its policy wants that      |
//! | one that serves, under guard    | the guard has failed                                                                |
//! | one that serves, on probation   | if none is left, or it is the second death in a row: it goes back                   |
//! | a candidate                     | the change fails (above); one that a reload's exam holds: its apply starts it again  |
//! | one that is warm                | what is left of the warm ones ends: a rollback will be a cold one                   |
//! | all, and none is to be restarted | `Ended`; on demand: it waits for the next connection                                |
//!
//! # Going back by itself
//!
//! When the time is over, or what is on probation dies, the machine *proposes* an operation of the supervisor's; if that does not
//! come within [`Plan::PROPOSE_LIMIT`], because something else runs, it goes back without one. If what was before cannot be made to
//! serve, what serves stays and nothing is pending any more: that somebody serves outranks the deadline. A program that is stopped or
//! asleep goes back by its name alone.
//!
//! # Waiting
//!
//! Every wait has a deadline of the machine's own, so a check, a hook, a worker or a disk that never answers delays and no more.
//! [`Machine::longest`] says how long an operation can take with all of them.

mod applying;
mod asking;
mod change;
mod copies;
mod effect;
mod event;
mod healing;
mod keys;
mod picture;
mod plan;
mod probation;
mod saved;
mod saving;
mod table;
mod time;
mod traffic;
mod view;

use std::time::Duration;

pub use effect::{Effect, Figures, Why};
pub use event::{Ask, Event};
pub use keys::{CopyKey, EditionKey};
pub use plan::{Plan, Restart, Swap};
pub use saved::{Durable, Saved};
use table::{Copy, Phase, Table};
pub use view::{CopyView, PendingView, Role, Stage, State, View};

use crate::{CallKey, OperationKey};

/// One program.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The latest time seen.
    now: Duration,
    table: Table,
    out: Vec<Effect>,
}

impl Machine {
    /// A machine that has not begun: its first event is [`Event::Begin`], [`Event::Prepare`] or [`Event::Apply`]. Keys of copies and
    /// calls count up from `keys_from`.
    #[must_use]
    pub fn new(keys_from: u64) -> Self {
        let table = Table { next_key: keys_from, ..Table::default() };
        Self { now: Duration::ZERO, table, out: Vec::new() }
    }

    /// Takes in one event and says what must be done, in this order.
    ///
    /// `now` is the time since an arbitrary start, monotonic; a value before the last one counts as the last one. Deadlines that
    /// have passed at `now` are acted upon after the event, so that an answer which arrives together with its deadline counts.
    #[must_use]
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        self.now = self.now.max(now);
        self.take_in(event);
        // A limit of zero is over as soon as it begins: once more, then, but not for ever.
        for _ in 0..Self::ROUNDS {
            self.expire();
            self.go_on();
            if self.deadline().is_none_or(|by| by > self.now) {
                break;
            }
        }
        self.tell();
        std::mem::take(&mut self.out)
    }

    /// Stages that a copy can pass through within one moment, if all their limits are zero, and some more.
    const ROUNDS: u32 = 16;

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Begin { edition, plan, before, pending, stopped } => {
                self.begin(edition, plan, before, pending, stopped);
            }
            Event::Resumed => self.resumed(),
            Event::Ask { operation, ask } => self.ask(operation, ask),
            Event::CallOff { operation } | Event::Abort { operation } => self.call_off(operation),
            Event::Prepare { operation, edition, plan } => self.prepare(operation, edition, plan),
            Event::Apply { edition, plan } => self.apply(edition, plan),
            Event::End { limit } => self.end(limit),
            Event::Started { copy } => self.started(copy),
            Event::NotStarted { copy } => self.not_started(copy),
            Event::Ready { copy } => self.ready(copy),
            Event::NotReady { copy } => self.not_ready(copy),
            Event::Exited { copy, ok } => self.exited(copy, ok),
            Event::Gone { copy } => self.gone(copy),
            Event::Demand => self.demanded(),
            Event::Idle => self.idled(),
            Event::TrafficSet { call } => self.traffic_set(call),
            Event::Quiet { call, clean } => self.quiet(call, clean),
            Event::HookDone { operation, ok } => self.hook_done(operation, ok),
            Event::Saved { call, ok } => self.saved(call, ok),
            Event::Time => {}
        }
    }

    /// Begins whatever can begin now. It looks at the state only, not at what just happened, so that no order of events can
    /// leave something waiting for ever.
    fn go_on(&mut self) {
        loop {
            let moved = self.advance()
                || self.begin_next()
                || self.go_back_if_due()
                || self.drop_what_is_not_warm()
                || self.scale()
                || self.heal()
                || self.route()
                || self.await_quiet();
            if !moved {
                break;
            }
        }
        self.end_if_over();
    }

    /// The copy, if something of it is left.
    fn copy(&self, key: CopyKey) -> Option<&Copy> {
        self.table.copies.iter().find(|copy| copy.key == key)
    }

    fn copy_mut(&mut self, key: CopyKey) -> Option<&mut Copy> {
        self.table.copies.iter_mut().find(|copy| copy.key == key)
    }

    /// The keys of the copies of which this is so.
    fn keys(&self, such: impl Fn(&Copy) -> bool) -> Vec<CopyKey> {
        self.table.copies.iter().filter(|copy| such(copy)).map(|copy| copy.key).collect()
    }

    /// How the edition is run.
    fn plan(&self, edition: EditionKey) -> Plan {
        let known = self.table.plans.iter().find(|(key, _)| *key == edition);
        known.map_or_else(Plan::default, |(_, plan)| *plan)
    }

    /// How what serves is run.
    fn serving_plan(&self) -> Plan {
        self.table.edition.map_or_else(Plan::default, |edition| self.plan(edition))
    }

    /// From now on the edition is run so.
    fn learn(&mut self, edition: EditionKey, plan: Plan) {
        let plan = plan.bounded();
        match self.table.plans.iter_mut().find(|(key, _)| *key == edition) {
            Some((_, known)) => *known = plan,
            None => self.table.plans.push((edition, plan)),
        }
    }

    /// Whether everything ends, or has not begun.
    fn is_over(&self) -> bool {
        matches!(self.table.phase, Phase::Ending | Phase::Over)
    }

    /// Whether nothing of it answers anybody.
    fn nothing_serves(&self) -> bool {
        !self.table.copies.iter().any(Copy::serves)
    }

    fn key(&mut self) -> u64 {
        let key = self.table.next_key;
        self.table.next_key = key.saturating_add(1);
        key
    }

    fn call(&mut self) -> CallKey {
        CallKey(self.key())
    }

    fn emit(&mut self, effect: Effect) {
        self.out.push(effect);
    }

    fn after(&self, wait: Duration) -> Duration {
        self.now.saturating_add(wait)
    }

    /// The operation of the change that is active.
    fn operation(&self) -> Option<OperationKey> {
        self.table.change.as_ref().and_then(|change| change.operation)
    }
}
