//! The lifecycle of one server: what may be asked of it, what happens then, and how it ends.
//!
//! This crate is pure. It has no clock, no input or output, no runtime and no system calls: the
//! driver in the supervisor tells [`Machine::step`] what happened and what time it is, and performs
//! the [`Effect`]s it gets back. So every interleaving and every crash can be replayed from a seed
//! (see `tests/simulation.rs`).
//!
//! Reading order: [`Machine`] draws the states and every way to fail; [`admit`] says which request
//! may start when; [`Event`] and [`Effect`] are the contract with the driver; [`Outcome`] is what an
//! operator is told.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod admission;
mod effect;
mod event;
mod ids;
mod limits;
mod machine;
mod outcome;
pub mod program;
mod recovery;
mod saved;
mod says;
mod view;
mod words;

pub use admission::{
    Active, Admission, Asked, Caller, Kind, Refusal, Request, Situation, Terms, WorkerState, admit,
};
pub use effect::{Effect, Exit, Message, Notice};
pub use event::Event;
pub use ids::{CallKey, CandidateKey, GenerationNumber, OperationKey, WorkerKey};
pub use limits::Limits;
pub use machine::Machine;
pub use outcome::{Cause, Outcome, Verdict};
pub use recovery::{Recovered, Unfinished};
pub use saved::{CannotResume, Saved, SavedOperation, SavedReload, SavedWorker};
pub use view::{OperationView, PendingView, Phase, Role, Stage, View, WorkerView};
pub use words::{Binary, Exam, Finding, Pending, PendingEnd, Source, StepName};
