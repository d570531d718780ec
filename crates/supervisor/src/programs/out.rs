//! What programs say to the driver, and what the driver passes on to them.
//!
//! ```text
//!   worker ── TrafficSet, Quiet ─▶ driver ── Said ─▶ Programs ── Out ─▶ driver ─▶ worker, operations, journal
//! ```

use std::os::fd::OwnedFd;
use std::sync::Arc;

use handover_api::{Losses, Problem, ProgramResult};
use handover_lifecycle::{Cause, OperationKey, Outcome, StepName};

use super::asked::Asked;
use crate::protocol::ToWorker;

/// What the worker that serves has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// Every thread acts on what was sent.
    TrafficSet {
        /// The call of `Traffic`.
        call: u64,
    },
    /// Nothing is in flight any more, or the limit is over.
    Quiet {
        /// The call of `AwaitQuiet`.
        call: u64,
        /// What is still in flight.
        left: u64,
        /// What is held.
        held: u64,
        /// Of a program: another number after each request that was passed to it, if the worker can tell.
        begun: Option<u64>,
    },
}

/// What the driver is to do.
#[derive(Debug)]
pub(crate) enum Out {
    /// Send this to the worker that serves (no descriptors); forget it if there is none: [`super::Programs::worker_changed`] asks
    /// again.
    ToWorker(ToWorker),
    /// The operation comes to its next step.
    Step { operation: OperationKey, step: StepName },
    /// The operation has ended.
    Ended(Box<Ended>),
    /// The exam of a reload is over.
    Examined { operation: OperationKey, passed: bool, problems: Vec<Problem>, warnings: Vec<Problem> },
    /// Begin this operation as the supervisor's own; if another one runs, as soon as it has ended. The comment says why.
    Own { asked: Asked, comment: String },
    /// What is kept for the next supervisor has changed.
    Keep,
    /// The same, and what has changed nobody could learn again: a copy says only once that it is ready.
    KeepNow,
    /// Every program that was applied first has been ready by now, or has failed. Said once.
    Settled,
    /// For the log and `/v1/events`: one sentence (a pause that ended by itself, a copy that died, a deploy that was taken back).
    Notice(String),
    /// Nothing of any program runs any more: the answer to [`super::Programs::stop`], with what was cut. Not clean if something
    /// was, or runs on although it was killed.
    Stopped { clean: bool, losses: Losses },
    /// All programs have ended, and none is to be started again. The code is that of the program, if there is one only.
    AllEnded { code: u8 },
}

/// How a carried operation has ended.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) operation: OperationKey,
    pub(crate) outcome: Outcome,
    pub(crate) cause: Cause,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
    /// What was cut because of it.
    pub(crate) losses: Losses,
    /// What the program itself has answered.
    pub(crate) answer: Option<String>,
    /// What became of the program: figures, last lines, what serves.
    pub(crate) program: ProgramResult,
}

impl Ended {
    /// It went as asked: what every operation begins with.
    pub(crate) fn applied(operation: OperationKey, program: ProgramResult) -> Self {
        Ended {
            operation,
            outcome: Outcome::Applied,
            cause: Cause::Done,
            problems: Vec::new(),
            warnings: Vec::new(),
            losses: Losses::default(),
            answer: None,
            program,
        }
    }
}

/// What is left to the next supervisor.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// What the descriptors are, and all else.
    pub(crate) json: String,
    /// In the order of the JSON.
    pub(crate) descriptors: Vec<Arc<OwnedFd>>,
}
