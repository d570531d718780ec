//! What the world remembers about every request, and the rules about answers: 2, 3, 4 and half of 6.

use std::time::Duration;

use handover_lifecycle::{
    Asked, Caller, Cause, Effect, GenerationNumber, Kind, OperationKey, Outcome, Phase, Refusal, Request,
    Terms, Verdict,
};

use crate::journal::Write;
use crate::world::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Asked,
    Deferred,
    Started,
    /// The outcome is decided (its writing was asked for).
    Decided(Verdict),
    Answered(Verdict),
    Joined,
    Refused,
    /// Its supervisor died.
    Abandoned,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    pub(crate) key: OperationKey,
    pub(crate) kind: Kind,
    pub(crate) limit: Option<Duration>,
    pub(crate) terms: Terms,
    /// The generation that a rollback is to, and what a restore brings.
    pub(crate) to: Option<GenerationNumber>,
    pub(crate) given: u32,
    pub(crate) state: State,
    /// A reload that claims success must have read the disk as it was then, or later.
    pub(crate) must_include: u32,
    /// It has begun to read the disk.
    pub(crate) read: bool,
    pub(crate) held_at_start: Option<GenerationNumber>,
    pub(crate) began: Duration,
    /// When it must have been answered.
    pub(crate) by: Duration,
    /// A worker died since it began with connections that may have been cut.
    pub(crate) cut: bool,
    /// It was left over by an earlier supervisor.
    pub(crate) left_over: bool,
    /// Whether it is an upgrade or the dry run of one; to which binary; and which served when it began.
    pub(crate) upgrades: bool,
    pub(crate) binary: u32,
    pub(crate) served_by: u32,
    /// Whether it takes an upgrade back; then `served_by` is the binary that is to serve again.
    pub(crate) takes_back: bool,
}

impl Op {
    pub(crate) fn new(key: OperationKey, asked: Asked, now: Duration, disk: u32) -> Self {
        let limit = match asked.request {
            Request::Drain { limit } => limit,
            Request::Stop { now: true, .. } => Some(Duration::ZERO),
            Request::Stop { now: false, limit } => limit,
            Request::Carried { limit, .. } => Some(limit),
            _ => None,
        };
        let (terms, to) = match asked.request {
            Request::Reload { terms, .. } | Request::Restore { terms, .. } => (terms, None),
            Request::Rollback { terms, to, .. } => (terms, Some(to)),
            Request::Upgrade { terms, .. } => (terms, None),
            _ => (Terms::NONE, None),
        };
        Self {
            key,
            kind: asked.request.kind(),
            limit,
            terms,
            to,
            // What a restore brings is never on the disk.
            given: 1_000_000 + disk,
            state: State::Asked,
            must_include: disk,
            read: false,
            held_at_start: None,
            began: now,
            by: now,
            cut: false,
            left_over: false,
            upgrades: matches!(asked.request, Request::Upgrade { .. }),
            binary: u32::try_from(key.0 % 1_000_000).unwrap(),
            served_by: 0,
            takes_back: false,
        }
    }

    pub(crate) fn start(key: OperationKey, now: Duration, disk: u32) -> Self {
        let request = Request::RELOAD;
        let asked = Asked { request, caller: Caller::Waiting, expected: None };
        Self { kind: Kind::Start, ..Self::new(key, asked, now, disk) }
    }

    /// Begun and not answered.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Started | State::Decided(_))
    }
}

/// How things are when an outcome is decided.
struct SoFar {
    held_to: Option<GenerationNumber>,
    phase: Phase,
    /// Of the worker that has a generation and is not being killed, if there is one.
    lives: bool,
    serving: Option<GenerationNumber>,
    accepting: bool,
    drained: Option<bool>,
    /// A worker has died, and the machine does not know yet.
    unheard: bool,
}

impl World {
    fn op(&mut self, key: OperationKey) -> Option<&mut Op> {
        self.ops.iter_mut().find(|op| op.key == key)
    }

    pub(crate) fn is_answered(&self, key: OperationKey) -> bool {
        self.ops
            .iter()
            .find(|op| op.key == key)
            .is_some_and(|op| matches!(op.state, State::Answered(_) | State::Refused | State::Joined))
    }

    /// Rule 2: every request has an answer in the step that it came in.
    pub(crate) fn check_answered_at_once(&mut self, request: OperationKey, effects: &[Effect]) {
        let answers = effects
            .iter()
            .filter(|effect| match effect {
                Effect::Started { operation } => *operation == request,
                Effect::Joined { request: key, .. }
                | Effect::Deferred { request: key }
                | Effect::Refuse { request: key, .. } => *key == request,
                _ => false,
            })
            .count();
        // A reload that is remembered and whose turn comes in the same step is deferred and started.
        if answers == 0 || answers > 2 {
            self.break_rule(2, format!("{request} was answered {answers} times at once"));
        }
    }

    pub(crate) fn op_started(&mut self, key: OperationKey) {
        let Some(op) = self.op(key).copied() else {
            return self.break_rule(2, format!("{key} was started and never asked for"));
        };
        if !matches!(op.state, State::Asked | State::Deferred) {
            self.break_rule(2, format!("{key} was started as {:?}", op.state));
        }
        let guarding = self.tally.guards.last().is_some_and(|guard| guard.open) || self.is_warming();
        let decides = matches!(op.kind, Kind::Cancel | Kind::Confirm);
        let overtakes = op.kind == Kind::Stop || (decides && guarding);
        // Who decides, or goes back, does not wait for an outcome to be written.
        let own = key >= OperationKey::OWN;
        // What was held has been let go of by then.
        let late = op.kind == Kind::ResumeTraffic
            && self.driver.as_ref().is_some_and(|driver| driver.view.phase == Phase::Stopping);
        let overtakes = overtakes || late;
        let preempts = overtakes || own || matches!(op.kind, Kind::Resume | Kind::Confirm | Kind::Cancel);
        for other in self.ops.clone() {
            let undecided = other.state == State::Started && !other.left_over;
            if (undecided && !overtakes) || (other.is_open() && !preempts && !other.left_over) {
                self.break_rule(2, format!("{key} was started while {} was active", other.key));
            }
        }
        let held_to = self.driver.as_ref().and_then(|driver| driver.view.held_to);
        let now = self.now;
        let by = now + self.bound(op.kind, op.limit, op.terms.guard);
        if let Some(op) = self.op(key) {
            op.state = State::Started;
            op.held_at_start = held_to;
            op.began = now;
            op.by = by;
        }
        if op.kind == Kind::Cancel {
            self.note_cancelled(key);
        }
        self.note_upgrade(key);
        if overtakes {
            // Those that it overtook end with it.
            for other in self.ops.iter_mut().filter(|other| other.is_open()) {
                other.by = other.by.max(by);
            }
        }
        self.note_began(key, op.kind);
    }

    pub(crate) fn op_deferred(&mut self, key: OperationKey) {
        self.tally.deferred += 1;
        if let Some(op) = self.op(key) {
            op.state = State::Deferred;
        }
        self.note_began(key, Kind::Reload);
    }

    pub(crate) fn op_joined(&mut self, request: OperationKey, target: OperationKey) {
        self.tally.joined += 1;
        let Some(joined) = self.op(request).copied() else { return };
        let Some(op) = self.op(target).copied() else {
            return self.break_rule(2, format!("{request} joined {target}, which is not there"));
        };
        if !op.is_open() && op.state != State::Deferred {
            self.break_rule(2, format!("{request} joined {target}, which is over"));
        }
        if op.kind != joined.kind {
            self.break_rule(2, format!("{request} joined {target}, which does something else"));
        }
        if op.read && op.kind == Kind::Reload {
            self.break_rule(6, format!("{request} joined {target}, which had read the disk before"));
        }
        if let Some(op) = self.op(target) {
            op.must_include = op.must_include.max(joined.must_include);
        }
        if let Some(joined) = self.op(request) {
            joined.state = State::Joined;
        }
    }

    pub(crate) fn op_refused(&mut self, key: OperationKey, refusal: Refusal) {
        self.tally.refused += 1;
        self.tally.taken_back += u64::from(refusal == Refusal::TakenBack);
        if let Refusal::Busy { running, .. } = refusal
            && !self.op(running).is_some_and(|op| op.is_open())
        {
            self.break_rule(2, format!("{key} was refused because of {running}, which does not run"));
        }
        if matches!(refusal, Refusal::Pending { .. }) != self.tracked.is_some()
            && matches!(refusal, Refusal::Pending { .. } | Refusal::NothingPending)
        {
            self.break_rule(6, format!("{key} was refused: {refusal}; on probation is {:?}", self.tracked));
        }
        let may_be = matches!(refusal, Refusal::Busy { .. } | Refusal::Pending { .. } | Refusal::TakenBack);
        if self.calm && self.dark.is_none() && !may_be {
            self.break_rule(4, format!("{key} was refused in calm weather: {refusal}"));
        }
        match self.op(key) {
            Some(op) if matches!(op.state, State::Asked | State::Deferred) => op.state = State::Refused,
            _ => self.break_rule(2, format!("{key} was refused after it had begun")),
        }
    }

    pub(crate) fn op_decided(&mut self, key: OperationKey, verdict: Verdict) {
        let Some(op) = self.op(key) else {
            return self.break_rule(3, format!("an outcome of {key}, which is not there"));
        };
        match op.state {
            State::Started => {
                op.state = State::Decided(verdict);
                let op = *op;
                if !op.left_over {
                    self.tally.count(op.kind, verdict);
                    self.check_verdict(&op, verdict);
                }
            }
            // Written again because the journal failed.
            State::Decided(before) if before == verdict => {}
            state => self.break_rule(3, format!("{key} ends as {verdict:?} and is {state:?}")),
        }
    }

    pub(crate) fn op_answered(&mut self, key: OperationKey, verdict: Verdict, recorded: bool) {
        let written = self.journal.outcome(key);
        let calm = self.calm;
        let Some(op) = self.op(key) else {
            return self.break_rule(3, format!("an answer for {key}, which is not there"));
        };
        if op.state != State::Decided(verdict) {
            let state = op.state;
            return self.break_rule(3, format!("{key} is answered {verdict:?} and is {state:?}"));
        }
        op.state = State::Answered(verdict);
        self.check_nothing_left(key);
        if recorded && written != Some(verdict) {
            self.break_rule(3, format!("{key} is answered {verdict:?}; the journal says {written:?}"));
        }
        if !recorded {
            self.tally.unrecorded += 1;
            if calm && self.jumped != Some(self.now) && !self.tally.journal_trouble {
                self.break_rule(3, format!("{key} is answered unrecorded by a journal that is well"));
            }
        }
    }

    /// The journal never says two things about one operation, nor two about one number.
    pub(crate) fn check_append(&mut self, write: Write) {
        match write {
            Write::Outcome { operation, verdict }
                if self.journal.outcome(operation).is_some_and(|before| before != verdict) =>
            {
                self.break_rule(3, format!("a second outcome for {operation} in the journal"));
            }
            Write::Intent { generation, content, .. }
                if self.journal.content(generation).is_some_and(|before| before != content) =>
            {
                self.break_rule(6, format!("{generation} was given to two states"));
            }
            _ => {}
        }
    }

    /// Rule 3, the bounded time.
    pub(crate) fn check_time(&mut self) {
        if self.driver.is_none() {
            return;
        }
        let now = self.now;
        if let Some(late) = self.ops.iter().find(|op| op.is_open() && op.by < now).copied() {
            self.break_rule(3, format!("{} ({:?}) has not ended in time", late.key, late.kind));
        }
    }

    /// An operation in the journal without an end is one again, for the next supervisor.
    pub(crate) fn reopen(&mut self, key: OperationKey, kind: Kind) {
        let by = self.now + self.bound(kind, None, None);
        if let Some(op) = self.op(key) {
            *op = Op { state: State::Started, by, left_over: true, ..*op };
        }
    }

    pub(crate) fn abandon_ops(&mut self) {
        for op in &mut self.ops {
            if op.is_open() || matches!(op.state, State::Deferred | State::Asked) {
                op.state = State::Abandoned;
            }
        }
    }

    /// What an outcome says must be so at the moment at which it is decided.
    fn check_verdict(&mut self, op: &Op, verdict: Verdict) {
        let Some(so) = self.so_far(verdict) else { return };
        let change = self.wrong_of_change(op, verdict, &so).or_else(|| self.wrong_of_upgrade(op, verdict));
        if let Some((rule, why)) = change.or_else(|| Self::wrong_of_other(op, verdict, &so)) {
            let name = format!("{} ({:?}) {:?}", op.key, op.kind, verdict);
            self.break_rule(rule, format!("{name}, but {why}"));
        }
        self.check_judgement(op, verdict);
    }

    fn so_far(&self, verdict: Verdict) -> Option<SoFar> {
        let view = &self.driver.as_ref()?.view;
        // What is due after it begins in the same step.
        let goes_back_now = self.tracked.is_some_and(|tracked| {
            (Some(tracked.generation), Some(tracked.back_to)) == (verdict.held_to, view.held_to)
        });
        let worker = self.workers.iter().find(|worker| worker.is_the_one());
        Some(SoFar {
            held_to: if goes_back_now { verdict.held_to } else { view.held_to },
            phase: view.phase,
            lives: worker.is_some(),
            serving: worker.and_then(|worker| worker.serving).map(|(number, _)| number),
            accepting: worker.is_some_and(|worker| worker.accepting),
            drained: worker.and_then(|worker| worker.drained),
            unheard: self.workers.iter().any(|worker| !worker.alive && !worker.heard),
        })
    }

    /// What is wrong with the outcome of something that changes what is served: which rule, and why.
    fn wrong_of_change(&self, op: &Op, verdict: Verdict, so: &SoFar) -> Option<(u8, String)> {
        use Kind::{Cancel, Reload, Restore, Rollback, Start};
        use Outcome::{Applied, AppliedWithLosses, NotReady, Rejected, RolledBack, Unchanged};
        let SoFar { held_to, serving, phase, .. } = *so;
        let content = held_to.and_then(|number| self.bundle(number));
        let fresh = content.is_some_and(|content| content >= op.must_include);
        let wanted = self.wanted(op);
        let own = op.key >= OperationKey::OWN;
        // In a drained server the worker is replaced by the resume.
        let another = serving.is_some() && serving != held_to;
        match (op.kind, verdict.outcome) {
            (Reload | Rollback | Restore | Cancel | Start, Applied | AppliedWithLosses | RolledBack | Unchanged)
                if another && phase != Phase::Drained =>
            {
                Some((6, format!("{serving:?} serves")))
            }
            (Reload, Applied | AppliedWithLosses | Unchanged) if !fresh => Some((
                6,
                format!("what serves ({content:?}) is older than the request ({})", op.must_include),
            )),
            (Rollback | Restore, Applied | AppliedWithLosses | Unchanged)
                if !own && wanted.is_some() && content != wanted =>
            {
                Some((6, format!("{content:?} is not what was to be brought, {wanted:?}")))
            }
            (Reload | Rollback | Restore, Applied | AppliedWithLosses) if own => None,
            (Reload | Rollback | Restore, Applied | AppliedWithLosses)
                if verdict.made.is_none() || verdict.made != held_to =>
            {
                Some((6, format!("the server is held to {held_to:?}")))
            }
            (Reload | Rollback | Restore, Unchanged | Rejected | NotReady | RolledBack)
            | (Kind::DryRun | Kind::Action | Kind::Confirm, _)
            | (Cancel, Rejected | NotReady)
                if !own && held_to != op.held_at_start =>
            {
                Some((4, format!("{:?} was served before, {held_to:?} is now", op.held_at_start)))
            }
            (Reload | Rollback | Restore | Cancel, Rejected | NotReady) | (Kind::DryRun | Kind::Action, _)
                if another =>
            {
                Some((4, format!("{serving:?} serves, not {held_to:?}")))
            }
            (Reload | Rollback | Restore | Cancel, Applied | AppliedWithLosses | RolledBack | Unchanged)
                // The deadline is moved, whoever serves.
                if verdict.serving.is_none()
                    && phase == Phase::Serving
                    && verdict.cause != Cause::Extended
                    // It did, and died since.
                    && !(op.takes_back && self.lost_worker(op)) =>
            {
                Some((6, "nobody serves it".to_owned()))
            }
            _ => None,
        }
    }

    /// The same for everything else, and what holds for all.
    fn wrong_of_other(op: &Op, verdict: Verdict, so: &SoFar) -> Option<(u8, String)> {
        use Outcome::{Applied, AppliedWithLosses, RolledBack, Unchanged, Unknown};
        let SoFar { held_to, serving, accepting, .. } = *so;
        match (op.kind, verdict.outcome) {
            (Kind::DryRun, Applied | AppliedWithLosses | RolledBack | Unknown) => {
                Some((4, "a dry run says that it did something".to_owned()))
            }
            (Kind::Drain, Applied | AppliedWithLosses) if accepting => Some((6, "it accepts".to_owned())),
            (Kind::Drain, Applied) if so.lives && so.drained != Some(true) => {
                Some((6, "it was not drained cleanly".to_owned()))
            }
            (Kind::Drain | Kind::Stop, Applied) if op.cut => Some((6, "connections were cut".to_owned())),
            (Kind::Resume, Applied | Unchanged) if so.lives && !accepting => {
                Some((6, "it does not accept".to_owned()))
            }
            (Kind::Stop, _) if so.lives => Some((6, "a worker lives".to_owned())),
            _ if verdict.held_to != held_to => Some((6, format!("the server is held to {held_to:?}"))),
            _ if verdict.serving.is_some() && verdict.serving != serving && !so.unheard => {
                Some((6, format!("{serving:?} serves")))
            }
            _ => None,
        }
    }

    /// The bytes that a rollback or a restore is to bring.
    fn wanted(&self, op: &Op) -> Option<u32> {
        match op.kind {
            Kind::Restore => Some(op.given),
            _ => self.bundle(op.to?),
        }
    }

    /// The machine begins something by itself.
    pub(crate) fn op_own(&mut self, key: OperationKey, kind: Kind) {
        let asked = Asked { request: Request::Cancel, caller: Caller::Waiting, expected: None };
        self.ops.push(Op { kind, ..Op::new(key, asked, self.now, self.disk.content) });
        self.tally.own += 1;
        if self.tracked.is_none() {
            self.break_rule(9, format!("{key} goes back, and nothing is on probation"));
        }
    }
}
