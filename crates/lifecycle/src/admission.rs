//! Which request may start when: one pure function.
//!
//! | asked                  | nothing runs, serving | a change is pending    | guarding       | another runs             | drained            | stopping |
//! |------------------------|-----------------------|------------------------|----------------|--------------------------|--------------------|----------|
//! | reload (a caller)      | start                 | pending                | busy           | join¹ or busy            | refuse: drained    | refuse   |
//! | reload, confirm-within | start                 | start³                 | busy           | join¹ or busy            | refuse: drained    | refuse   |
//! | reload (SIGHUP)        | start                 | remember⁴              | remember⁴      | join¹ or remember        | remember           | refuse   |
//! | rollback, restore      | start                 | pending⁵               | busy           | busy                     | refuse: drained    | refuse   |
//! | any of these, dry run  | start²                | start²                 | busy           | busy                     | start²             | refuse   |
//! | confirm                | nothing is pending    | start                  | the guard ends as passed | join a confirm, or busy | as when serving | refuse |
//! | cancel                 | nothing is pending    | start                  | the guard ends as failed | join a cancel, or busy | as when serving | refuse |
//! | upgrade, or its dry run | start²               | pending                | busy           | busy                     | refuse: drained    | refuse   |
//! | action                 | start²                | pending                | busy           | busy                     | start²             | refuse   |
//! | drain                  | start                 | start                  | busy           | join a drain, or busy    | already so         | refuse   |
//! | resume                 | already so            | already so             | busy           | pre-empt a drain, or busy| start              | refuse   |
//! | about programs         | start                 | start⁶                 | busy           | busy                     | start              | refuse; `resume` is already so |
//! | stop                   | start                 | start                  | pre-empt       | pre-empt                 | start              | join; a signal, or `now`, forces |
//!
//! ¹ only a reload that has not begun to read, and under the same terms: what a later one would read may be different.
//! ² refused while no worker is there to do it.
//! ³ it moves the deadline if the disk has nothing else than what is pending, and is rejected otherwise.
//! ⁴ it runs when the change is confirmed; it is refused when the change is taken back, because the disk still has it.
//! ⁵ with confirm-within it starts if it is what is pending: a rollback to that generation, or a restore, to which ³ applies.
//! ⁶ a deploy has a confirmation of its own, and neither of the two stands in the way of the other.
//!
//! *Guarding* is also the time in which an upgrade with confirm-within waits for the old worker's last connections.
//! A second USR2 is refused like everybody else: it is not remembered, because nobody could tell what it would find.
//!
//! A request that names the generation it expects is refused as stale when another one serves.

use std::time::Duration;

use thiserror::Error;

use crate::says::says;
use crate::{GenerationNumber, OperationKey, Pending, Phase};

/// What can be asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Serve what is on disk.
    Reload {
        /// Do everything except commit, and bind nothing.
        dry_run: bool,
        /// Read only certificates and their keys anew.
        certs_only: bool,
        /// Under which terms it stays.
        terms: Terms,
    },
    /// Serve a generation that was served before, under its own number.
    Rollback {
        /// Which. The driver has resolved it, and knows that its bytes are kept.
        to: GenerationNumber,
        /// Do everything except commit, and bind nothing.
        dry_run: bool,
        /// Under which terms it stays.
        terms: Terms,
    },
    /// Serve the bundle that came with the request.
    Restore {
        /// Do everything except commit, and bind nothing.
        dry_run: bool,
        /// Under which terms it stays.
        terms: Terms,
    },
    /// Have another binary serve: a worker of it takes over from the one that serves, then the supervisor becomes it too.
    /// The driver knows which.
    Upgrade {
        /// Examine the binary, let a worker of it prepare what serves, and that is all.
        dry_run: bool,
        /// Under which terms it stays.
        terms: Terms,
    },
    /// The change that awaits confirmation, or is guarded, stays.
    Confirm,
    /// The change that awaits confirmation, or is guarded, is taken back.
    Cancel,
    /// Run an embedder's own action in the worker. The driver keeps its name and body.
    Action,
    /// Accept nothing more and let connections end.
    Drain {
        /// How long they may take; `Limits::drain` if none.
        limit: Option<Duration>,
    },
    /// Accept again.
    Resume,
    /// Drain, then end.
    Stop {
        /// Do not drain.
        now: bool,
        /// How long the drain may take; `Limits::drain` if none.
        limit: Option<Duration>,
    },
    /// Something about programs, or the traffic to them. The driver knows what; the machine carries it.
    Carried {
        /// What kind: one that [`Kind::is_carried`].
        kind: Kind,
        /// The longest that it may take; it is called off then.
        limit: Duration,
    },
}

/// Under which terms a change stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// It is taken back after this time unless it is confirmed.
    pub confirm: Option<Duration>,
    /// It is watched for this time first, and taken back if it does badly.
    pub guard: Option<Duration>,
}

says! {
    /// What an operation is, without its parameters.
    pub enum Kind {
        /// The supervisor's own first operation.
        Start = "start",
        /// A reload.
        Reload = "reload",
        /// A reload, rollback, restore or upgrade that changes nothing (`validate`).
        DryRun = "dry_run",
        /// A generation that served before; also the supervisor's own when nobody confirms a change.
        Rollback = "rollback",
        /// The bundle of an archive.
        Restore = "restore",
        /// Another binary.
        Upgrade = "upgrade",
        /// A confirmation.
        Confirm = "confirm",
        /// A cancellation.
        Cancel = "cancel",
        /// An embedder's action.
        Action = "action",
        /// A drain.
        Drain = "drain",
        /// A resume.
        Resume = "resume",
        /// A stop.
        Stop = "stop",
        /// A program that is stopped is started.
        ProgramStart = "program_start",
        /// A program is stopped, until somebody starts it.
        ProgramStop = "program_stop",
        /// New copies of a program take over from those that run.
        ProgramRestart = "program_restart",
        /// A program is told to read its configuration anew.
        ProgramReload = "program_reload",
        /// Another slot or directory of a program takes over.
        ProgramDeploy = "program_deploy",
        /// The slot that served before a deploy takes over again; also the supervisor's own when nobody confirms a deploy.
        ProgramRollback = "program_rollback",
        /// A deploy stays.
        ProgramConfirm = "program_confirm",
        /// A deploy is taken back.
        ProgramCancel = "program_cancel",
        /// New requests for something are held.
        Pause = "pause",
        /// What was held goes on. (`Resume` is the opposite of a drain of the whole server.)
        ResumeTraffic = "resume_traffic",
        /// An endpoint gets nothing new.
        DrainEndpoint = "drain_endpoint",
        /// An endpoint gets requests again.
        EnableEndpoint = "enable_endpoint",
    }
}

impl Terms {
    /// None: what is committed stays.
    pub const NONE: Self = Self { confirm: None, guard: None };
}

impl Kind {
    /// Whether it is about programs and the traffic to them, not about the server: the machine then only says when it may begin, and
    /// carries it until it has ended.
    #[must_use]
    pub const fn is_carried(self) -> bool {
        match self {
            Self::ProgramStart
            | Self::ProgramStop
            | Self::ProgramRestart
            | Self::ProgramReload
            | Self::ProgramDeploy
            | Self::ProgramRollback
            | Self::ProgramConfirm
            | Self::ProgramCancel
            | Self::Pause
            | Self::ResumeTraffic
            | Self::DrainEndpoint
            | Self::EnableEndpoint => true,
            Self::Start
            | Self::Reload
            | Self::DryRun
            | Self::Rollback
            | Self::Restore
            | Self::Upgrade
            | Self::Confirm
            | Self::Cancel
            | Self::Action
            | Self::Drain
            | Self::Resume
            | Self::Stop => false,
        }
    }
}

impl Request {
    /// A reload of everything, without terms.
    pub const RELOAD: Self = Self::Reload { dry_run: false, certs_only: false, terms: Terms::NONE };
    /// The same as a dry run.
    pub const VALIDATE: Self = Self::Reload { dry_run: true, certs_only: false, terms: Terms::NONE };

    /// What kind of operation it is.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Reload { dry_run: true, .. }
            | Self::Rollback { dry_run: true, .. }
            | Self::Restore { dry_run: true, .. }
            | Self::Upgrade { dry_run: true, .. } => Kind::DryRun,
            Self::Reload { .. } => Kind::Reload,
            Self::Rollback { .. } => Kind::Rollback,
            Self::Restore { .. } => Kind::Restore,
            Self::Upgrade { .. } => Kind::Upgrade,
            Self::Confirm => Kind::Confirm,
            Self::Cancel => Kind::Cancel,
            Self::Action => Kind::Action,
            Self::Drain { .. } => Kind::Drain,
            Self::Resume => Kind::Resume,
            Self::Stop { .. } => Kind::Stop,
            Self::Carried { kind, .. } => kind,
        }
    }
}

/// Whether anybody can be told "busy".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Somebody who gets an answer.
    Waiting,
    /// A signal: nobody hears the answer, so a reload is remembered instead of refused.
    Signal,
}

/// A request and its circumstances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What.
    pub request: Request,
    /// By what kind of caller.
    pub caller: Caller,
    /// Only if this generation serves (`If-Match`).
    pub expected: Option<GenerationNumber>,
}

/// The operation that runs, as far as admission needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Active {
    /// Its key.
    pub operation: OperationKey,
    /// What it is.
    pub kind: Kind,
    /// Whether this request asks for the same and may still join: a reload that has not begun to read, a
    /// drain with the same limit, a stop.
    pub joinable: bool,
    /// Whether it has changed what serves and only watches that now: a confirmation or a cancellation ends this.
    pub guarding: bool,
    /// Whether its outcome is decided and only being written.
    pub ended: bool,
}

/// Whether there is a worker to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// One lives and answers.
    Present,
    /// None does: it is being started, or died.
    Absent,
}

/// All that admission looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// Where the server is.
    pub phase: Phase,
    /// The operation that runs, or whose outcome is being written.
    pub active: Option<Active>,
    /// A reload that a signal asked for and that waits for its turn.
    pub deferred: Option<OperationKey>,
    /// The generation that the server is held to.
    pub generation: Option<GenerationNumber>,
    /// The change that awaits confirmation.
    pub pending: Option<Pending>,
    /// Whether there is a worker to ask.
    pub worker: WorkerState,
}

/// The answer of [`admit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Begin.
    Start,
    /// Begin, and end the operation that runs.
    Preempt(OperationKey),
    /// It is so already: ends at once as unchanged.
    AlreadySo,
    /// Wait for the answer of this one.
    Join(OperationKey),
    /// Wait for the answer of this stop, and do it without draining any longer.
    Force(OperationKey),
    /// Remember it and begin when nothing runs.
    Defer,
    /// No.
    Refuse(Refusal),
}

/// Why a request is refused: nothing has been changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Another operation runs.
    #[error("busy: {running} ({}) is running", kind.as_str())]
    Busy {
        /// Which.
        running: OperationKey,
        /// What it is.
        kind: Kind,
    },
    /// Another change awaits confirmation.
    #[error("pending: {} awaits confirmation for another {} s, then {} serves again",
        if *upgrade { "the new binary".to_owned() } else { generation.to_string() }, left.as_secs(),
        if *upgrade { "the binary before".to_owned() } else { back_to.to_string() })]
    Pending {
        /// The generation on probation.
        generation: GenerationNumber,
        /// The generation that serves again if nobody confirms; the same if it is a binary that is on probation.
        back_to: GenerationNumber,
        /// Whether it is a binary that is on probation.
        upgrade: bool,
        /// The time left.
        left: Duration,
    },
    /// There is nothing to confirm or cancel.
    #[error("nothing awaits confirmation")]
    NothingPending,
    /// A signal's reload that waited for the end of a probation, and the change was taken back: what is on the disk
    /// may bring it again.
    #[error("the change that this waited for was taken back, and what is on the disk may bring it again")]
    TakenBack,
    /// The server is drained, and a reload would change what nobody serves.
    #[error("drained: resume first")]
    Drained,
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Stopping,
    /// Nothing has been started yet.
    #[error("the server has not started yet")]
    NotStarted,
    /// There is no worker at this moment; one is being started.
    #[error("no worker is running at this moment; one is being started")]
    NoWorker,
    /// The caller expected another generation to serve.
    #[error("stale: {expected} was expected, {} serves", serving.map_or_else(|| "none".to_owned(), |g| g.to_string()))]
    Stale {
        /// The expected one.
        expected: GenerationNumber,
        /// The one that the server is held to.
        serving: Option<GenerationNumber>,
    },
}

/// Says whether this request may start now. Pure: looks at nothing but its arguments.
#[must_use]
pub fn admit(now: &Situation, asked: &Asked) -> Admission {
    if matches!(now.phase, Phase::Stopping | Phase::Stopped) {
        return admit_while_stopping(now, asked);
    }
    if let Some(expected) = asked.expected
        && now.generation != Some(expected)
    {
        return Admission::Refuse(Refusal::Stale { expected, serving: now.generation });
    }
    match asked.request {
        Request::Stop { .. } => match now.active {
            Some(active) if !active.ended => Admission::Preempt(active.operation),
            _ => Admission::Start,
        },
        Request::Reload { dry_run: true, .. }
        | Request::Rollback { dry_run: true, .. }
        | Request::Restore { dry_run: true, .. } => admit_in_worker(now),
        Request::Reload { terms, .. } => {
            admit_reload(now, asked.caller, now.pending.filter(|_| terms.confirm.is_none()))
        }
        // Asked for again what awaits confirmation, with a new time: it moves the deadline.
        Request::Rollback { to, terms, .. } => {
            let again = terms.confirm.is_some() && now.generation == Some(to);
            admit_change(now, now.pending.filter(|_| !again))
        }
        Request::Restore { terms, .. } => admit_change(now, now.pending.filter(|_| terms.confirm.is_none())),
        Request::Upgrade { .. } => admit_upgrade(now),
        Request::Confirm | Request::Cancel => admit_verdict(now, asked.request.kind()),
        Request::Action => match (now.active, now.pending) {
            (None, Some(pending)) => Admission::Refuse(pending.into()),
            _ => admit_in_worker(now),
        },
        Request::Drain { .. } => admit_drain(now),
        Request::Resume => admit_resume(now),
        Request::Carried { .. } => admit_carried(now),
    }
}

fn admit_while_stopping(now: &Situation, asked: &Asked) -> Admission {
    match (asked.request, now.active) {
        (
            Request::Stop { now: at_once, .. },
            Some(Active { operation, kind: Kind::Stop, ended: false, .. }),
        ) => {
            if at_once || asked.caller == Caller::Signal {
                Admission::Force(operation)
            } else {
                Admission::Join(operation)
            }
        }
        // Whatever was held has been let go, or refused, before the server said that it stops.
        (Request::Carried { kind: Kind::ResumeTraffic, .. }, _) if now.phase == Phase::Stopping => {
            Admission::AlreadySo
        }
        _ => Admission::Refuse(Refusal::Stopping),
    }
}

/// Programs live beside the workers: neither a drain nor a change that awaits confirmation keeps anybody from them.
fn admit_carried(now: &Situation) -> Admission {
    match (now.active, now.phase) {
        (Some(active), _) => busy(active),
        (None, Phase::New | Phase::Starting) => Admission::Refuse(Refusal::NotStarted),
        (None, _) => Admission::Start,
    }
}

/// `pending` is the change that it would disturb.
fn admit_reload(now: &Situation, caller: Caller, pending: Option<Pending>) -> Admission {
    match (now.active, caller) {
        (Some(Active { operation, kind: Kind::Reload, joinable: true, .. }), _) => Admission::Join(operation),
        (_, Caller::Signal) if now.active.is_some() || pending.is_some() || now.phase != Phase::Serving => {
            now.deferred.map_or(Admission::Defer, Admission::Join)
        }
        _ => admit_change(now, pending),
    }
}

fn admit_change(now: &Situation, pending: Option<Pending>) -> Admission {
    match (now.active, now.phase, pending) {
        (Some(active), ..) => busy(active),
        (None, Phase::New | Phase::Starting, _) => Admission::Refuse(Refusal::NotStarted),
        (None, Phase::Draining | Phase::Drained, _) => Admission::Refuse(Refusal::Drained),
        (None, Phase::Serving, Some(pending)) => Admission::Refuse(pending.into()),
        (None, Phase::Serving, None) => Admission::Start,
        (None, Phase::Stopping | Phase::Stopped, _) => Admission::Refuse(Refusal::Stopping),
    }
}

/// It takes over from a worker that serves. Its dry run rehearses just that, so the same holds for it.
fn admit_upgrade(now: &Situation) -> Admission {
    match (admit_change(now, now.pending), now.worker) {
        (Admission::Start, WorkerState::Absent) => Admission::Refuse(Refusal::NoWorker),
        (admission, _) => admission,
    }
}

/// Somebody decides whether a change stays.
fn admit_verdict(now: &Situation, kind: Kind) -> Admission {
    // An outcome that is only being written changes nothing any more: who decides in time need not wait for it.
    match (now.active.filter(|active| !active.ended), now.phase) {
        (Some(Active { operation, guarding: true, .. }), _) => Admission::Preempt(operation),
        (Some(active), _) if active.joinable && active.kind == kind => Admission::Join(active.operation),
        (Some(active), _) => busy(active),
        (None, Phase::New | Phase::Starting) => Admission::Refuse(Refusal::NotStarted),
        (None, _) if now.pending.is_none() => Admission::Refuse(Refusal::NothingPending),
        (None, _) => Admission::Start,
    }
}

fn admit_in_worker(now: &Situation) -> Admission {
    match (now.active, now.phase, now.worker) {
        (Some(active), _, _) => busy(active),
        (None, Phase::New | Phase::Starting, _) => Admission::Refuse(Refusal::NotStarted),
        (None, _, WorkerState::Absent) => Admission::Refuse(Refusal::NoWorker),
        (None, _, WorkerState::Present) => Admission::Start,
    }
}

fn admit_drain(now: &Situation) -> Admission {
    match (now.active, now.phase) {
        (Some(Active { operation, kind: Kind::Drain, joinable: true, .. }), _) => Admission::Join(operation),
        (Some(active), _) => busy(active),
        (None, Phase::New | Phase::Starting) => Admission::Refuse(Refusal::NotStarted),
        (None, Phase::Draining | Phase::Drained) => Admission::AlreadySo,
        (None, _) => Admission::Start,
    }
}

fn admit_resume(now: &Situation) -> Admission {
    match (now.active, now.phase) {
        (Some(Active { operation, kind: Kind::Drain, ended: false, .. }), _) => Admission::Preempt(operation),
        (Some(active), _) => busy(active),
        (None, Phase::New | Phase::Starting) => Admission::Refuse(Refusal::NotStarted),
        (None, Phase::Serving) => Admission::AlreadySo,
        (None, _) => Admission::Start,
    }
}

impl From<Pending> for Refusal {
    fn from(pending: Pending) -> Self {
        let Pending { generation, back_to, upgrade, left } = pending;
        Self::Pending { generation, back_to, upgrade: upgrade.is_some(), left }
    }
}

fn busy(active: Active) -> Admission {
    Admission::Refuse(Refusal::Busy { running: active.operation, kind: active.kind })
}
