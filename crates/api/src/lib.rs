//! What goes over the control socket, and what is said about it.
//!
//! Everything that a person or a script learns from `handover` passes through these types: the control
//! server writes them as JSON, the journal keeps them, the command line reads them. The one sentence that
//! describes an outcome ([`Operation::sentence`]), the HTTP status ([`Operation::http_status`]) and the exit
//! code ([`ExitCode`]) are decided here and nowhere else, so that curl, the command line, the log and
//! systemd never disagree.
//!
//! ```text
//!   Operation ── who asked (Actor), what for (Kind), what came of it (Outcome)
//!      ├─ changes   Change    what is served differently now
//!      ├─ errors    Problem   what was wrong, with file, line, column
//!      ├─ losses    Losses    connections that had to be cut, by kind
//!      ├─ upgrade   Upgrade   from which binary to which, and what moved
//!      ├─ program   ProgramResult   of a program: what serves, from which slot to which, what was held
//!      └─ steps     Step      what took how long
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod actor;
mod certificate;
mod change;
mod client;
mod duration;
mod event;
mod exit;
mod generation;
mod id;
mod losses;
mod operation;
mod outcome;
mod pending;
mod problem;
mod problem_details;
mod program;
mod refused;
mod sentence;
#[cfg(test)]
mod sentence_change_tests;
mod sentence_program;
#[cfg(test)]
mod sentence_program_tests;
#[cfg(test)]
mod sentence_tests;
mod sentence_upgrade;
#[cfg(test)]
mod sentence_upgrade_tests;
mod status;
mod text;
mod text_program;
mod upgrade;

pub use actor::{Actor, ActorKind};
pub use certificate::{Certificate, certificate_changes, days_until};
pub use change::{Change, ChangeKind, What, summarize_changes};
pub use client::{Answer, Call, Client, ClientError, Events, Lines, percent_encoded};
pub use duration::{MAX_DURATION, parse_duration};
pub use event::{Event, EventKind};
pub use exit::ExitCode;
pub use generation::{Diff, FileDiff, FileDigest, FileState, Generation};
pub use id::operation_id;
pub use losses::Losses;
pub use operation::{Operation, OperationState, Step};
pub use outcome::{Cause, Kind, Outcome, Phase, StepName};
pub use pending::{GoesBack, Pending};
pub use problem::Problem;
pub use problem_details::{PROBLEM_CONTENT_TYPE, ProblemDetails};
pub use program::{
    CopyRole, CopyState, CopyStatus, LogLine, PauseStatus, ProgramGoesBack, ProgramPending, ProgramResult,
    ProgramState, ProgramStatus, ServesNow,
};
pub use refused::Refused;
pub use sentence::{human_ms, human_time};
pub use status::{JournalStatus, ListenerStatus, Status, WorkerStatus};
pub use text_program::{human_age, human_bytes};
pub use upgrade::{Binary, Upgrade, WorkerRole, parse_sha256};
