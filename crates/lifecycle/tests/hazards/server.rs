//! A machine that is told one event after the other, and remembers what it said.

use std::time::Duration;

use handover_lifecycle::{
    Asked, CallKey, Caller, CandidateKey, Effect, Event, GenerationNumber, Limits, Machine, Message,
    OperationKey, Outcome, Recovered, Request, Source, Terms, Verdict, WorkerKey,
};

pub(crate) const RELOAD: Request = Request::RELOAD;
pub(crate) const VALIDATE: Request = Request::VALIDATE;
pub(crate) const STOP: Request = Request::Stop { now: false, limit: None };

pub(crate) const TEN_MINUTES: Duration = Duration::from_secs(600);

/// A machine, a clock, and everything that it said.
pub(crate) struct Server {
    pub(crate) machine: Machine,
    pub(crate) now: Duration,
    pub(crate) said: Vec<Effect>,
    pub(crate) asked: u64,
}

impl Server {
    pub(crate) fn new() -> Self {
        Self::recovered(Recovered::default())
    }

    pub(crate) fn recovered(recovered: Recovered) -> Self {
        let machine = Machine::new(Limits::DEFAULT, recovered);
        Self { machine, now: Duration::ZERO, said: Vec::new(), asked: 0 }
    }

    /// One that serves generation 1.
    pub(crate) fn serving() -> Self {
        let mut server = Self::new();
        server.tell(Event::Start { operation: OperationKey(0), source: Source::Disk, pending: None });
        server.start_worker();
        server.load(false);
        assert_eq!(server.answered(0), Some(Outcome::Applied));
        assert_eq!(server.machine.view().serving, Some(GenerationNumber(1)));
        server
    }

    pub(crate) fn tell(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.machine.step(self.now, event);
        self.said.extend(&effects);
        effects
    }

    pub(crate) fn ask(&mut self, request: Request) -> (u64, Vec<Effect>) {
        self.ask_as(request, Caller::Waiting)
    }

    pub(crate) fn ask_as(&mut self, request: Request, caller: Caller) -> (u64, Vec<Effect>) {
        self.asked += 1;
        let operation = OperationKey(self.asked);
        let asked = Asked { request, caller, expected: None };
        (self.asked, self.tell(Event::Request { operation, asked }))
    }

    pub(crate) fn hup(&mut self) -> (u64, Vec<Effect>) {
        self.ask_as(RELOAD, Caller::Signal)
    }

    /// Lets time pass up to the next deadline.
    pub(crate) fn wait(&mut self) -> Vec<Effect> {
        self.now = self.machine.deadline().expect("something must be waited for");
        self.tell(Event::Tick)
    }

    pub(crate) fn worker(&self) -> WorkerKey {
        self.machine.view().workers.last().expect("a worker").worker
    }

    pub(crate) fn last_message(&self) -> Message {
        let sent = self.said.iter().rev().find_map(|effect| match effect {
            Effect::Send { message, .. } => Some(*message),
            _ => None,
        });
        sent.expect("a message was sent")
    }

    pub(crate) fn candidate(&self) -> CandidateKey {
        let prepared = self.said.iter().rev().find_map(|effect| match effect {
            Effect::Send { message: Message::Prepare { candidate, .. }, .. } => Some(*candidate),
            _ => None,
        });
        prepared.expect("something was prepared")
    }

    pub(crate) fn call(&self) -> CallKey {
        match self.last_message() {
            Message::Drain { call, .. }
            | Message::Resume { call }
            | Message::Action { call, .. }
            | Message::Guard { call, .. } => call,
            other => panic!("{other:?} has no call"),
        }
    }

    pub(crate) fn start_worker(&mut self) {
        let worker = self.worker();
        self.tell(Event::WorkerReady { worker });
    }

    pub(crate) fn prepared(&mut self, unchanged: bool) -> Vec<Effect> {
        let (worker, candidate) = (self.worker(), self.candidate());
        self.tell(Event::Prepared { worker, candidate, unchanged, programs: None })
    }

    pub(crate) fn rejected(&mut self) -> Vec<Effect> {
        let (worker, candidate) = (self.worker(), self.candidate());
        self.tell(Event::Rejected { worker, candidate, unreachable: false })
    }

    pub(crate) fn committed(&mut self) -> Vec<Effect> {
        let (worker, candidate) = (self.worker(), self.candidate());
        self.tell(Event::Committed { worker, candidate })
    }

    pub(crate) fn dies(&mut self) -> Vec<Effect> {
        let worker = self.worker();
        self.tell(Event::WorkerExited { worker })
    }

    /// The journal does what it was told last.
    pub(crate) fn journal(&mut self, well: bool) -> Vec<Effect> {
        let held_to = self.machine.view().held_to;
        let event = self.said.iter().rev().find_map(|effect| match *effect {
            Effect::WriteUpgrade { operation, .. } => held_to.map(|generation| match well {
                true => Event::IntentWritten { operation, generation },
                false => Event::IntentFailed { operation, generation },
            }),
            Effect::WriteIntent { operation, generation, .. }
            | Effect::WriteConfirm { operation, generation, .. } => Some(match well {
                true => Event::IntentWritten { operation, generation },
                false => Event::IntentFailed { operation, generation },
            }),
            Effect::WriteOutcome { operation, .. } if well => Some(Event::OutcomeWritten { operation }),
            Effect::WriteOutcome { operation, .. } => Some(Event::OutcomeFailed { operation }),
            _ => None,
        });
        self.tell(event.expect("something is to be written"))
    }

    /// Everything from prepare to the answer, as it goes when nothing goes wrong.
    pub(crate) fn load(&mut self, from_bundle: bool) {
        self.prepared(false);
        if !from_bundle {
            self.journal(true);
        }
        self.committed();
        if !from_bundle {
            self.journal(true);
        }
    }

    /// One on which a reload has made generation 2, under these terms; and the key of the reload.
    pub(crate) fn changed(terms: Terms) -> (Self, u64) {
        let mut server = Self::serving();
        let (reload, _) = server.ask(Request::Reload { dry_run: false, certs_only: false, terms });
        server.prepared(false);
        server.journal(true);
        server.committed();
        (server, reload)
    }

    /// The same, and generation 2 awaits confirmation for ten minutes.
    pub(crate) fn on_probation() -> Self {
        let (mut server, reload) = Self::changed(Terms { confirm: Some(TEN_MINUTES), guard: None });
        server.journal(true);
        assert_eq!(server.answered(reload), Some(Outcome::Applied));
        assert_eq!(
            server.machine.view().pending.map(|pending| pending.until),
            Some(server.now + TEN_MINUTES)
        );
        server
    }

    /// The generation before is given to the worker and serves; the outcome is written.
    pub(crate) fn goes_back(&mut self) {
        let source = Source::Generation(GenerationNumber(1));
        assert!(matches!(self.last_message(), Message::Prepare { source: from, .. } if from == source));
        self.prepared(false);
        self.committed();
        self.journal(true);
    }

    /// The key of what the machine began by itself.
    pub(crate) fn own(&self) -> u64 {
        let own = self.said.iter().rev().find_map(|effect| match effect {
            Effect::Own { operation, .. } => Some(operation.0),
            _ => None,
        });
        own.expect("the machine began something by itself")
    }

    pub(crate) fn verdict(&self, operation: u64) -> Option<Verdict> {
        self.said.iter().find_map(|effect| match effect {
            Effect::Answer { operation: OperationKey(key), verdict, .. } if *key == operation => {
                Some(*verdict)
            }
            _ => None,
        })
    }

    pub(crate) fn answered(&self, operation: u64) -> Option<Outcome> {
        self.verdict(operation).map(|verdict| verdict.outcome)
    }

    pub(crate) fn serves(&self) -> Option<u64> {
        self.machine.view().serving.map(|generation| generation.0)
    }
}

pub(crate) fn has(effects: &[Effect], wanted: impl Fn(&Effect) -> bool) -> bool {
    effects.iter().any(wanted)
}

pub(crate) fn sends(effects: &[Effect], wanted: impl Fn(&Message) -> bool) -> bool {
    has(effects, |effect| matches!(effect, Effect::Send { message, .. } if wanted(message)))
}
