//! The machine: one state, one `step`.
//!
//! ```text
//!            Start                 committed                    drain
//!   New ───────────────▶ Starting ──────────▶ Serving ──────────────────▶ Draining
//!    │                      │                 ▲  ▲  │ ◀────────────────────   │
//!    │ Adopted              │ failed          │  │  │   resume (drain is      │ no connection left, or
//!    └──────────────────────┼─────────────────┘  │  │   rolled back)          │ the limit is over, or
//!                           │                    │  │                         │ the worker died
//!                           │        resume      │  │ stop                    ▼
//!                           │     ┌──────────────┴──┼──────────────────── Drained
//!                           ▼     │                 ▼                         │
//!                        Stopping ◀──────────── (from every phase) ◀──────────┘
//!                           │ every worker reaped, every outcome answered
//!                           ▼
//!                        Stopped
//! ```
//!
//! *Serving* includes the time in which a dead worker is being replaced: its listeners stay open, and
//! connections wait. The phases say what the server is for; beside them stand three small tables:
//!
//! - **workers**, each with a role and a stage. One has the role *serving*. A candidate, a warm one and one that drains
//!   stand beside it in the same table; of all of them at most one accepts. What moves between two is a *handoff*.
//! - **one active operation** with an explicit step. What it needs of a worker is a *load*: a
//!   generation on its way into that worker. A restart is a load too, that nobody asked for.
//! - **endings**: operations whose outcome is decided and on its way into the journal, before it is
//!   answered; and those that a stop overtook and whose truth the worker will still tell.
//!
//! # A load
//!
//! ```text
//!   Preparing ──Need──▶ Binding ──Bound──▶ Preparing ──Prepared──▶ Journaling ──IntentWritten──▶ Committing ──Committed──▶ serves
//!                                               programs differ │      ▲  └─ nothing new for the journal ─▶┘
//!                                                               ▼      │
//!                                                             Examining ┘  they are ready
//! ```
//!
//! | it fails in         | by                                  | reload, rollback, restore                 | start          | restart            |
//! |---------------------|-------------------------------------|-------------------------------------------|----------------|--------------------|
//! | Preparing, Binding  | Rejected                            | rejected; not ready if the store is unreachable | rejected, exit; the last good generation if unreachable | kill, back-off |
//! | Preparing, Binding  | its deadline: Abort                 | not ready; the worker serves on           | not ready, exit | kill, back-off |
//! | Preparing … Journaling | the worker died                  | not ready; restart with the old           | not ready, exit | back-off      |
//! | Examining           | a program that is not ready, its deadline | not ready; what was started is ended | (no exam)      | (no exam)          |
//! | Journaling          | IntentFailed, or its deadline       | not ready; Abort, the worker serves on    | goes on: an unrecorded server is better than none | (no intent) |
//! | Committing          | the worker died, or its deadline (kill) | *settle*, below                       | not ready, exit | (kill,) back-off |
//!
//! # A change that serves, until it is final
//!
//! ```text
//!               guard                   passed                  confirm-within               confirmed
//!   Committed ────────▶ Guarding ─────────────────▶ (outcome) ────────────────▶ on probation ──────────▶ final
//!        │                  │ failed, cancelled,       ▲  │ without one             │ cancelled, time over,
//!        └──────────────────┼── without one ───────────┘  └──▶ final                │ workers die in a row
//!                           ▼                                                       ▼
//!                       GoingBack ◀─────────────────────────────────────────────────┘
//!                           │ the generation before serves again: final
//! ```
//!
//! Until a change is *final*, the driver holds the listeners and the bytes of the generation before, so that going back
//! cannot fail for want of them; [`Effect::LetGo`] says when it is. The journal knows of the probation before the
//! commit, so that it outlives every process.
//!
//! | while                | the worker dies                       | a stop                                | SIGHUP               |
//! |----------------------|---------------------------------------|---------------------------------------|----------------------|
//! | Guarding             | back to the one before, in another worker: rolled back | applied: it served; nobody finds out more | remembered |
//! | on probation         | restarted with the change; when two in a row die, the machine goes back by itself | the journal keeps that it is unconfirmed | remembered |
//! | GoingBack            | the same in another worker, once; if that fails, unknown, and restarts go on trying the one before | if its commit is on its way, the worker says; else unknown, or for a cancel rejected | remembered, then refused: the disk still has what was taken back |
//! | Noting (confirm, extend) | goes on: the journal answers      | goes on: the journal answers          | remembered           |
//!
//! When its time is over while something else is active, a dry run or a reload that has not changed anything gives way;
//! the rest is waited for, each of which has its own deadline. A drained server goes back without serving: its worker is
//! ended, and what is resumed is the generation before. What a start does with an unconfirmed change: `start.rs`.
//!
//! # Settling a commit that was not answered
//!
//! The intent is in the journal, the commit was sent, and the worker is gone. The next worker is given
//! the **new** generation. If it serves: `applied_with_losses`, because the crash cut connections. If
//! that fails in any way, the **old** one is loaded: `rolled_back`. If that fails too, `unknown`: the
//! supervisor keeps trying the old one, and `status` says when it serves. Each attempt is bounded by the load's own deadlines.
//!
//! # A worker that dies
//!
//! It is replaced after a pause that doubles from [`Limits::backoff_first`] to
//! [`Limits::backoff_longest`], and begins again after a worker has served for [`Limits::backoff_reset`]. The new one gets
//! the bytes of the generation that the server is held to, not the disk. A reload asked for meanwhile waits for the worker;
//! but if workers die one after the other, the reload's configuration is loaded *instead*, because the old
//! one may be what kills them. While drained, a dead worker is replaced by the resume.
//!
//! What an adopted worker leaves behind when it dies is treated the same: a server that has served is never
//! given up, however often its worker fails. Only a start that has never served anything ends the process.
//!
//! # An upgrade
//!
//! ```text
//!   admission ─▶ preflight ─▶ start ─▶ prepare ─▶ stand by ─▶ probe ─▶ journal ─▶ handoff ─▶ guard ─▶ drain ─▶ stop ─▶ exec
//!   └──────────────── the old worker serves and knows of nothing ────────────────┘    │        └── the new one serves ──┘
//!                                                                      one moment: the giver's commit
//! ```
//!
//! | it fails in                    | by                                 | what follows                                        |
//! |--------------------------------|------------------------------------|-----------------------------------------------------|
//! | admission                      | a rule                             | rejected                                            |
//! | admission, preflight, probe    | a finding, the deadline            | not ready: the candidate is killed and reaped first |
//! | start, prepare, stand by       | refused, late, the candidate died  | not ready, the same                                 |
//! | journal                        | IntentFailed, its deadline         | not ready, the same                                 |
//! | anything before the handoff    | the old worker died                | not ready, the same; a restart of the old binary    |
//! | handoff                        | HandoffFailed                      | not ready: the old one serves on                    |
//! | handoff                        | the new one died after the commit  | the old one resumes: rolled back                    |
//! | handoff                        | the old one died                   | the new one takes over: applied with losses         |
//! | handoff                        | both died                          | a worker of the old binary: rolled back, or unknown |
//! | handoff                        | late                               | the one that hangs is killed, then as above         |
//! | guard, or drain before the end | guard failed, cancelled            | everything moves back: rolled back                  |
//! | guard, or drain before the end | the new one died                   | the old one resumes at once: rolled back            |
//! | drain, stop                    | the old one died or hangs          | goes on: applied with losses                        |
//! | exec                           | rehearsal failed, ReexecFailed, late | applied; the supervisor goes on as it was, and says so |
//! | on probation                   | cancel, time over, the new one died | taken back (`taking_back.rs`); then the same as for a change |
//!
//! The steps before the handoff are in `upgrade.rs`, the handoff in `handing_over.rs`, what follows in `serving_anew.rs` and
//! `taking_back.rs`, what goes through the exec in `saving.rs`. While an upgrade is *pending* the warm worker stands by with
//! everything but the connections; the exec waits for the confirmation. A stop before the handoff ends the upgrade as
//! rejected; one during it waits for its end, which is bounded; one after it finds it applied. A SIGHUP is remembered,
//! through the exec too; a second upgrade is told which one runs.
//!
//! # A stop
//!
//! Drain (if something is served) → programs end → Stop → exit of the process; each step has a deadline that leads to the
//! harder one: Stop at once → SIGKILL → given up. What was active ends first: a reload as `rejected`, unless its commit is
//! on its way: then the worker says; what is carried is called off, and says itself how it ended. A drain goes on as part of the stop, and ends with it.
//!
//! # Where the rest enters
//!
//! - *Programs* and the traffic to them have machines of their own; what is asked of them is *carried* (`programs.rs`).

mod begin;
mod end;
mod guard;
mod handing_over;
mod load;
mod pending;
mod programs;
mod saving;
mod serving_anew;
mod start;
mod table;
mod taking_back;
mod time;
mod upgrade;
mod workers;

use std::time::Duration;

use crate::{
    Active, Asked, Binary, Effect, Event, Exam, Exit, GenerationNumber, Kind, Limits, Notice, OperationKey,
    OperationView, PendingView, Phase, Recovered, Request, Role, Situation, Source, Stage, StepName, View,
    WorkerState, WorkerView,
};
use programs::{Programs, carried_step_name};
use table::{
    EndStep, Ending, Handoff, LoadStep, Operation, Probation, Retiring, Step, TakingBack, Way, Worker,
};

/// The lifecycle of one server.
#[derive(Clone, Debug)]
pub struct Machine {
    limits: Limits,
    /// The latest time seen.
    now: Duration,
    phase: Phase,
    workers: Vec<Worker>,
    /// What is moving from one worker to another.
    handoff: Option<Handoff>,
    /// The binary of which workers are started that serve.
    binary: Binary,
    active: Option<Operation>,
    endings: Vec<Ending>,
    /// A reload that a signal asked for while something else ran.
    deferred: Option<(OperationKey, Request)>,
    /// The generation that the server is held to.
    held_to: Option<GenerationNumber>,
    /// The change that awaits confirmation: what the server is held to meanwhile.
    pending: Option<Probation>,
    /// The change that was not confirmed in the life of an earlier supervisor, until the start is over.
    unconfirmed: Option<Probation>,
    /// Whether listeners and bundles of other generations than the one that serves may be held.
    holds_others: bool,
    /// The highest number given to a generation.
    last_generation: GenerationNumber,
    /// The next key for a worker, candidate or call.
    next_key: u64,
    restart: Restart,
    /// Whether the process manager was told that the server is ready.
    told_ready: bool,
    /// What the process ends with when all else is over.
    exit: Exit,
    recovered: Recovered,
    programs: Programs,
    out: Vec<Effect>,
}

/// When dead workers are replaced.
#[derive(Clone, Copy, Debug)]
struct Restart {
    /// When the next worker is to be started.
    at: Option<Duration>,
    /// Workers that died without having served for long, since the last one that had.
    failures: u32,
    /// Since when the worker serves.
    serving_since: Option<Duration>,
    /// How many were started in place of dead ones.
    count: u64,
}

impl Machine {
    /// A machine that has not begun: its first event is [`Event::Start`] or [`Event::Adopted`].
    #[must_use]
    pub fn new(limits: Limits, recovered: Recovered) -> Self {
        Self {
            limits: limits.bounded(),
            now: Duration::ZERO,
            phase: Phase::New,
            workers: Vec::new(),
            handoff: None,
            binary: Binary::Serving,
            active: None,
            endings: Vec::new(),
            deferred: None,
            held_to: None,
            pending: None,
            unconfirmed: None,
            holds_others: false,
            last_generation: recovered.last_generation,
            next_key: recovered.keys_from,
            restart: Restart { at: None, failures: 0, serving_since: None, count: 0 },
            told_ready: false,
            exit: Exit::Stopped,
            recovered,
            programs: Programs::default(),
            out: Vec::new(),
        }
    }

    /// How long connections may take to end from now on where no request says it: what serves may have a limit of its
    /// own. What runs already keeps the one that it began with.
    pub fn set_drain(&mut self, limit: Duration) {
        self.limits = Limits { drain: limit, ..self.limits }.bounded();
    }

    /// Takes in one event and says what must be done, in this order.
    ///
    /// `now` is the time since an arbitrary start, monotonic; a value before the last one counts as the
    /// last one. Deadlines that have passed at `now` are acted upon after the event, so that an answer
    /// which arrives together with its deadline counts.
    #[must_use]
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        self.now = self.now.max(now);
        self.take_in(event);
        if self.phase != Phase::Stopped {
            self.expire();
            self.go_on();
        }
        std::mem::take(&mut self.out)
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Start { operation, source, pending } => self.begin_start(operation, source, pending),
            Event::Adopted { operation, worker, generation, accepting, pending } => {
                self.begin_adopted(operation, worker, generation, accepting, pending);
            }
            Event::Reexecuted => self.reexecuted(),
            Event::Request { operation, asked } => self.request(operation, &asked),
            Event::Tick => {}
            Event::WorkerReady { worker } => self.worker_ready(worker),
            Event::WorkerNotStarted { worker } => self.worker_gone(worker, false),
            Event::WorkerExited { worker } => self.worker_gone(worker, true),
            Event::ChannelLost { worker } => self.channel_lost(worker),
            Event::Need { worker, candidate } => self.need(worker, candidate),
            Event::Bound { worker, candidate } => self.bound(worker, candidate),
            Event::Prepared { worker, candidate, unchanged, programs } => {
                self.prepared(worker, candidate, unchanged, programs);
            }
            Event::Rejected { worker, candidate, unreachable } => {
                self.rejected(worker, candidate, unreachable);
            }
            Event::Committed { worker, candidate } => self.committed(worker, candidate),
            Event::Examined { operation, exam, finding } => self.examined(operation, exam, finding),
            Event::TookOver { worker, call, clean } => self.took_over(worker, call, clean),
            Event::HandedOver { worker, call } => self.handed_over(worker, call),
            Event::HandoffFailed { worker, call } => self.handoff_failed(worker, call),
            Event::ReexecFailed { operation } => self.reexec_failed(operation),
            Event::GuardEnded { worker, call, passed } => self.guard_ended(worker, call, passed),
            Event::Drained { worker, call, clean } => self.drained(worker, call, clean),
            Event::Resumed { worker, call } => self.resumed(worker, call),
            Event::ActionDone { worker, call, ok } => self.action_done(worker, call, ok),
            Event::IntentWritten { operation, generation } => self.intent(operation, generation, true),
            Event::IntentFailed { operation, generation } => self.intent(operation, generation, false),
            Event::Carried { operation, outcome, cause } => self.carried(operation, outcome, cause),
            Event::ProgramsStopped { clean } => self.programs_stopped(clean),
            Event::OutcomeWritten { operation } => self.outcome_written(operation),
            Event::OutcomeFailed { operation } => self.outcome_failed(operation),
        }
    }

    /// Begins whatever can begin now. It looks at the state only, not at what just happened, so that
    /// no order of events can leave something waiting for ever.
    fn go_on(&mut self) {
        self.go_on_with_upgrade();
        self.go_back_if_due();
        self.go_on_with_upgrade();
        self.start_worker_if_due();
        self.employ_worker();
        self.employ_candidate();
        if self.active.is_none()
            && self.endings.is_empty()
            && self.phase == Phase::Serving
            && self.pending.is_none()
            && let Some((operation, request)) = self.deferred.take()
        {
            self.begin_change(operation, request, Source::Disk);
            self.start_worker_if_due();
            self.employ_worker();
        }
        self.let_go_if_final();
        self.stop_programs_if_due();
        if self.phase == Phase::Stopping && self.workers.is_empty() && !self.programs_run() {
            self.finish_stop();
        }
        // Nothing may follow it.
        self.reexecute_if_alone();
    }

    /// Everything about upgrades that follows from who lives, and who is gone.
    fn go_on_with_upgrade(&mut self) {
        loop {
            self.settle_handoff();
            let went_on = match self.active.map(|operation| operation.step) {
                Some(Step::Discarding(end)) => {
                    let gone = self.workers.iter().all(|worker| worker.role != Role::Candidate);
                    if gone {
                        self.decide_made(end.outcome, end.cause, end.made);
                    }
                    gone
                }
                Some(Step::Retiring(retiring)) => self.go_on_retiring(retiring),
                Some(Step::TakingBack(back)) => self.go_on_taking_back(back),
                _ => false,
            };
            if !went_on {
                return;
            }
        }
    }

    /// Listeners and bundles of other generations go when the one that the server is held to serves, and nothing can
    /// take it back any more.
    fn let_go_if_final(&mut self) {
        let undecided = matches!(
            self.active,
            Some(Operation {
                step: Step::Guarding(_) | Step::GoingBack(_) | Step::Settling(_) | Step::TakingBack(_),
                ..
            })
        );
        let serves =
            self.main().is_some_and(|main| main.generation.is_some() && main.generation == self.held_to);
        let ends = matches!(self.phase, Phase::Stopping | Phase::Stopped);
        if self.holds_others && serves && !undecided && !ends && self.pending.is_none() {
            self.holds_others = false;
            self.emit(Effect::LetGo);
        }
    }

    /// What admission may look at.
    fn situation(&self, asked: &Asked) -> Situation {
        let active = match (&self.active, self.endings.first()) {
            (Some(operation), _) => Some(Active {
                operation: operation.key,
                kind: operation.kind,
                joinable: self.is_joinable(operation, asked),
                guarding: matches!(operation.step, Step::Guarding(_)) || operation.warms(),
                ended: false,
            }),
            (None, Some(ending)) => {
                let (operation, kind) = (ending.key, ending.kind);
                Some(Active { operation, kind, joinable: false, guarding: false, ended: true })
            }
            (None, None) => None,
        };
        let at_rest = self.main().is_some_and(Worker::is_at_rest);
        Situation {
            phase: self.phase,
            active,
            deferred: self.deferred.map(|(operation, _)| operation),
            generation: self.held_to,
            pending: self.pending_now(),
            worker: if at_rest { WorkerState::Present } else { WorkerState::Absent },
        }
    }

    fn is_joinable(&self, operation: &Operation, asked: &Asked) -> bool {
        match (operation.kind, asked.request) {
            (Kind::Reload, request) => {
                matches!(operation.step, Step::AwaitWorker(_)) && operation.request == Some(request)
            }
            (Kind::Confirm | Kind::Cancel, request) => operation.request == Some(request),
            (Kind::Drain, Request::Drain { limit }) => {
                self.main().and_then(|worker| worker.drain).is_some_and(|drain| drain.asked == limit)
            }
            (Kind::Stop, _) => true,
            _ => false,
        }
    }

    /// A picture of the machine, for `status`.
    #[must_use]
    pub fn view(&self) -> View {
        let main = self.main();
        View {
            phase: self.phase,
            serving: main.filter(|worker| worker.is_usable()).and_then(|worker| worker.generation),
            handing_over: self.handoff.map(|handoff| (handoff.from, handoff.to)),
            committing: main
                .and_then(|worker| worker.load)
                .filter(|load| load.step == LoadStep::Committing)
                .map(|load| load.generation),
            held_to: self.held_to,
            compared_with: self.compared_with(),
            pending: self.pending.map(|pending| PendingView {
                generation: pending.generation,
                back_to: pending.back_to,
                upgrade: pending.upgrade,
                until: pending.by,
            }),
            workers: self
                .workers
                .iter()
                .map(|w| WorkerView { worker: w.key, role: w.role, stage: w.stage, generation: w.generation })
                .collect(),
            operation: self.operation_view(),
            deferred: self.deferred.map(|(operation, _)| operation),
            restarts: self.restart.count,
            next_restart: self.restart.at,
        }
    }

    fn operation_view(&self) -> Option<OperationView> {
        if let Some(operation) = &self.active {
            let step = self.step_name(operation);
            return Some(OperationView { operation: operation.key, kind: operation.kind, step });
        }
        self.endings.first().map(|ending| OperationView {
            operation: ending.key,
            kind: ending.kind,
            step: match ending.step {
                EndStep::Awaiting { .. } => StepName::StopWorker,
                EndStep::Carrying { .. } => StepName::StopProgram,
                EndStep::Noting { .. } => StepName::Confirm,
                EndStep::With(_) => StepName::GoBack,
                EndStep::Recording { .. } | EndStep::Pausing { .. } => StepName::Record,
            },
        })
    }

    fn step_name(&self, operation: &Operation) -> StepName {
        match operation.step {
            Step::AwaitWorker(_) => StepName::StartWorker,
            Step::Loading => match self.main().and_then(|worker| worker.load).map(|load| load.step) {
                Some(LoadStep::Preparing) | None => StepName::Prepare,
                Some(LoadStep::Binding) => StepName::Bind,
                Some(LoadStep::Examining) => StepName::Ready,
                Some(LoadStep::Journaling) => StepName::Journal,
                Some(LoadStep::Committing) => StepName::Commit,
            },
            Step::Settling(_) => StepName::Settle,
            Step::Guarding(_) => StepName::Guard,
            Step::GoingBack(_) => StepName::GoBack,
            Step::Noting(_) => StepName::Confirm,
            Step::Acting(_) => StepName::Action,
            Step::Draining => StepName::Drain,
            Step::Resuming(_) => StepName::Resume,
            Step::Carrying { .. } => carried_step_name(operation.kind),
            Step::Stopping => match self.workers.iter().any(|worker| worker.stage == Stage::Draining) {
                true => StepName::Drain,
                false if self.programs_run() => StepName::StopProgram,
                false => StepName::StopWorker,
            },
            Step::Examining(Exam::Admission) => StepName::Admission,
            Step::Examining(Exam::Preflight) => StepName::Preflight,
            Step::Examining(Exam::Rehearsal) | Step::Reexecuting(_) => StepName::Supervisor,
            Step::Examining(Exam::Probe { .. }) => StepName::Probe,
            Step::Examining(Exam::Programs { .. }) => StepName::Ready,
            Step::Raising => self.raising_step_name(),
            Step::Intending => StepName::Journal,
            Step::HandingOver => StepName::HandOver,
            Step::Discarding(_) => StepName::StopWorker,
            Step::Retiring(retiring) => self.retiring_step_name(retiring == Retiring::ToWarm),
            Step::TakingBack(TakingBack { way, .. }) => match way {
                Way::Waiting => StepName::GoBack,
                Way::Raising => self.raising_step_name(),
                Way::Probing => StepName::Probe,
                Way::Moving => StepName::HandOver,
                Way::Resuming(_) => StepName::Resume,
                Way::Retiring | Way::Gone => self.retiring_step_name(false),
            },
        }
    }

    fn raising_step_name(&self) -> StepName {
        let candidate = self.candidate();
        match (candidate.map(|worker| worker.stage), candidate.and_then(|worker| worker.load)) {
            (Some(Stage::Starting) | None, _) => StepName::StartWorker,
            (_, Some(load)) if load.step == LoadStep::Binding => StepName::Bind,
            _ => StepName::Prepare,
        }
    }

    fn retiring_step_name(&self, warm: bool) -> StepName {
        let drains = warm || self.workers.iter().any(|worker| worker.stage == Stage::Draining);
        if drains { StepName::Drain } else { StepName::StopWorker }
    }

    /// The worker that serves or is to serve, unless it is on its way out.
    fn main(&self) -> Option<&Worker> {
        self.workers.iter().find(|worker| worker.role == Role::Serving && worker.stage != Stage::Killed)
    }

    /// Whether a process is or may still be there that accepts, even one that is being killed.
    fn slot_taken(&self) -> bool {
        let may_accept = |worker: &Worker| worker.role == Role::Serving || worker.stage == Stage::Killed;
        self.handoff.is_some() || self.workers.iter().any(may_accept)
    }

    fn main_mut(&mut self) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| worker.role == Role::Serving && worker.stage != Stage::Killed)
    }

    fn key(&mut self) -> u64 {
        let key = self.next_key;
        self.next_key = self.next_key.saturating_add(1);
        key
    }

    fn emit(&mut self, effect: Effect) {
        self.told_ready |= effect == Effect::Notify(Notice::Ready);
        self.out.push(effect);
    }

    fn after(&self, wait: Duration) -> Duration {
        self.now.saturating_add(wait)
    }
}
