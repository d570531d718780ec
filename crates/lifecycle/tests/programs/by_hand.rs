//! One program, played by hand: the machine, a clock, and everything that it has said.

use std::time::Duration;

use handover_lifecycle::program::{
    Ask, CopyKey, EditionKey, Effect, Event, Figures, Machine, Plan, Role, Stage, Swap, View,
};
use handover_lifecycle::{CallKey, Cause, OperationKey, Outcome};

pub(crate) const OLD: EditionKey = EditionKey(1);
pub(crate) const NEW: EditionKey = EditionKey(2);
pub(crate) const RESTART: Ask = Ask::Restart { batch: None, max_unhealthy: None };

/// One copy on shared sockets.
pub(crate) const SHARED: Plan = Plan::USUAL;

/// One copy with an address of its own.
pub(crate) const PRIVATE: Plan = Plan { private: true, ..SHARED };

/// One copy that must not run beside another.
pub(crate) const ALONE: Plan = Plan { swap: Swap::StopFirst, ..PRIVATE };

pub(crate) struct Program {
    pub(crate) now: Duration,
    pub(crate) machine: Machine,
    pub(crate) said: Vec<Effect>,
    next_operation: u64,
}

impl Program {
    /// One that serves, with all its copies.
    pub(crate) fn serving(plan: Plan) -> Self {
        let machine = Machine::new(1);
        let mut program =
            Self { now: Duration::from_secs(100), machine, said: Vec::new(), next_operation: 1 };
        program.tell(Event::Begin { edition: OLD, plan, before: None, pending: None, stopped: false });
        program.rise();
        program.settle_traffic();
        assert_eq!(program.on().len(), usize::try_from(plan.copies).unwrap());
        program.said.clear();
        program
    }

    pub(crate) fn tell(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.machine.step(self.now, event);
        self.said.extend(effects.clone());
        effects
    }

    pub(crate) fn ask(&mut self, ask: Ask) -> OperationKey {
        let operation = OperationKey(self.next_operation);
        self.next_operation += 1;
        self.tell(Event::Ask { operation, ask });
        operation
    }

    pub(crate) fn deploy(&mut self, plan: Plan, confirm: Option<u64>, guard: Option<u64>) -> OperationKey {
        let seconds = |time: Option<u64>| time.map(Duration::from_secs);
        let (confirm, guard) = (seconds(confirm), seconds(guard));
        self.ask(Ask::Deploy { edition: NEW, plan, hook: None, confirm, guard })
    }

    /// Time passes until the next deadline, which is acted upon.
    pub(crate) fn wait(&mut self) -> Vec<Effect> {
        self.now = self.machine.deadline().expect("something is waited for");
        self.tell(Event::Time)
    }

    /// So much time passes, with every deadline in it.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(by) = self.machine.deadline().filter(|by| *by <= end) {
            self.now = by;
            self.tell(Event::Time);
        }
        self.now = end;
    }

    pub(crate) fn view(&self) -> View {
        self.machine.view()
    }

    pub(crate) fn copies(&self, role: Role) -> Vec<CopyKey> {
        self.view().copies.iter().filter(|copy| copy.role == role).map(|copy| copy.copy).collect()
    }

    pub(crate) fn at(&self, stage: Stage) -> Vec<CopyKey> {
        self.view().copies.iter().filter(|copy| copy.stage == stage).map(|copy| copy.copy).collect()
    }

    /// Those that serve and are ready.
    pub(crate) fn on(&self) -> Vec<CopyKey> {
        self.view().copies.iter().filter(|copy| copy.on).map(|copy| copy.copy).collect()
    }

    pub(crate) fn edition(&self) -> EditionKey {
        self.view().edition.unwrap()
    }

    /// What is being started starts, and gets ready.
    pub(crate) fn rise(&mut self) {
        for copy in self.at(Stage::Starting) {
            self.tell(Event::Started { copy });
        }
        for copy in self.at(Stage::Checking) {
            self.tell(Event::Ready { copy });
        }
    }

    /// The same, and it stays ready for as long as it has to.
    pub(crate) fn rise_and_settle(&mut self) {
        self.rise();
        if !self.at(Stage::Settling).is_empty() {
            self.wait();
        }
    }

    /// What was asked to stop ends.
    pub(crate) fn obey(&mut self) {
        for copy in self.at(Stage::Stopping) {
            self.tell(Event::Exited { copy, ok: true });
            self.tell(Event::Gone { copy });
        }
    }

    /// What was killed is gone.
    pub(crate) fn buried(&mut self) {
        for copy in self.at(Stage::Killed) {
            self.tell(Event::Gone { copy });
        }
    }

    /// The copy ends by itself, and nothing of it is left.
    pub(crate) fn dies(&mut self, copy: CopyKey) {
        self.tell(Event::Exited { copy, ok: false });
        self.tell(Event::Gone { copy });
    }

    fn last_call(&self, such: impl Fn(&Effect) -> Option<CallKey>) -> Option<CallKey> {
        self.said.iter().rev().find_map(such)
    }

    /// Traffic is as it was said.
    pub(crate) fn settle_traffic(&mut self) {
        let call = self.last_call(|effect| match effect {
            Effect::Route { call, .. } | Effect::Pause { call, .. } => Some(*call),
            _ => None,
        });
        if let Some(call) = call {
            self.tell(Event::TrafficSet { call });
        }
    }

    /// Nothing is in flight any more.
    pub(crate) fn quiet(&mut self) {
        let call = self.last_call(|effect| match effect {
            Effect::AwaitQuiet { call, .. } => Some(*call),
            _ => None,
        });
        let call = call.expect("quiet was asked for");
        self.tell(Event::Quiet { call, clean: true });
    }

    /// Traffic goes to those that are ready; what is in flight ends, and then those before do as they are asked.
    pub(crate) fn take_over(&mut self) {
        self.settle_traffic();
        self.quiet();
        self.obey();
    }

    /// It is on the disk, or cannot be.
    pub(crate) fn saved(&mut self, ok: bool) {
        let call = self.last_call(|effect| match effect {
            Effect::Save { call } => Some(*call),
            _ => None,
        });
        let call = call.expect("something was to be written");
        self.tell(Event::Saved { call, ok });
    }

    /// A deploy of `NEW` up to its switch.
    pub(crate) fn switch(&mut self) {
        self.rise_and_settle();
        self.saved(true);
        self.settle_traffic();
    }

    pub(crate) fn verdict(&self, of: OperationKey) -> Option<(Outcome, Cause)> {
        let ends: Vec<_> = self
            .said
            .iter()
            .filter_map(|effect| match effect {
                Effect::Done { operation, outcome, cause, .. } if *operation == of => {
                    Some((*outcome, *cause))
                }
                _ => None,
            })
            .collect();
        assert!(ends.len() < 2, "{of} ends twice: {ends:?}");
        ends.first().copied()
    }

    pub(crate) fn figures(&self, of: OperationKey) -> Figures {
        let figures = self.said.iter().find_map(|effect| match effect {
            Effect::Done { operation, figures, .. } if *operation == of => Some(*figures),
            _ => None,
        });
        figures.expect("it has ended")
    }

    pub(crate) fn has_said(&self, such: impl Fn(&Effect) -> bool) -> bool {
        self.said.iter().any(such)
    }

    /// The story so far, in short: only what is done to copies, to traffic and to the disk.
    pub(crate) fn story(&self) -> String {
        let list =
            |copies: &[CopyKey]| copies.iter().map(|copy| copy.0.to_string()).collect::<Vec<_>>().join("+");
        let words = self.said.iter().filter_map(|effect| match effect {
            Effect::Hook { .. } => Some("hook".to_owned()),
            Effect::Start { copy, edition, .. } => Some(format!("start {} of {}", copy.0, edition.0)),
            Effect::Stop { copy, .. } => Some(format!("stop {}", copy.0)),
            Effect::Kill { copy } => Some(format!("kill {}", copy.0)),
            Effect::Route { on, off, .. } => {
                Some(format!("on {} off {}", list(on), list(off)).replace("  ", " "))
            }
            Effect::AwaitQuiet { copies, .. } => Some(format!("quiet {}", list(copies))),
            Effect::Pause { .. } => Some("pause".to_owned()),
            Effect::Resume => Some("resume".to_owned()),
            Effect::Save { .. } => Some("save".to_owned()),
            Effect::Guard { copies } => Some(format!("guard {}", list(copies))),
            Effect::Propose { .. } => Some("propose".to_owned()),
            Effect::Done { outcome, .. } => Some(outcome.to_string()),
            _ => None,
        });
        words.map(|word| word.trim().to_owned()).collect::<Vec<_>>().join("; ")
    }
}
