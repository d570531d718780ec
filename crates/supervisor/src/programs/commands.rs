//! A command that ends by itself: hooks, checks, reloads. It has a deadline, its output is kept, and nothing of it is left.
//!
//! ```text
//!   run ─▶ running in a process group of its own ──first process ends──▶ the group is killed ─▶ Finished | Failed::Ended
//!             │ limit, or dropped                                             ▲
//!             └───────────────────────────────────────────────────────────────┘ Failed::TooLong
//! ```

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use handover_handoff::process::Exit;

use crate::protocol::{CommandSpec, User};

/// Bytes of output that are kept: the last.
pub(crate) const MAX_OUTPUT_BYTES: usize = 8 * 1024;

/// Where and as whom a command is run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Its working directory; the supervisor's if `None`.
    pub(crate) directory: Option<PathBuf>,
    /// Variables beside those that are passed on.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// Whether the supervisor's own variables are not passed on (but `PATH`, `HOME`, `USER`, `LANG`).
    pub(crate) clear_environment: bool,
    /// As whom; as the supervisor if `None`.
    pub(crate) user: Option<User>,
}

/// What a command has written to standard output and standard error, in the order in which it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// The last [`MAX_OUTPUT_BYTES`], without the part of a line that they may begin with.
    pub(crate) text: String,
    /// Bytes that came before and were not kept.
    pub(crate) left_out: u64,
}

/// It has exited with 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finished {
    /// What it said.
    pub(crate) said: Said,
    /// How long it took.
    pub(crate) took: Duration,
}

/// It has not done what it was to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failed {
    /// It was not started.
    #[error("'{command}' cannot be started: {why}")]
    NotStarted {
        /// Its first word.
        command: String,
        /// The system's words, and what to look at.
        why: String,
    },
    /// It has ended otherwise than with 0.
    #[error("'{command}' {exit}")]
    Ended {
        /// Its first word.
        command: String,
        /// How.
        exit: Exit,
        /// What it said before.
        said: Said,
    },
    /// It was killed at its deadline, with everything in its process group.
    #[error("'{command}' did not end within {limit:?} and was killed")]
    TooLong {
        /// Its first word.
        command: String,
        /// The deadline.
        limit: Duration,
        /// What it said before.
        said: Said,
    },
}

/// Runs a command (in which nothing stands for something else any more) until it ends. Dropping this kills it, and its
/// process group.
///
/// # Errors
/// It cannot be started, does not exit with 0, or takes longer than it may.
pub(crate) async fn run(spec: &CommandSpec, setting: &Setting) -> Result<Finished, Failed> {
    let _ = setting;
    let command = spec.command.first().cloned().unwrap_or_default();
    Err(Failed::NotStarted { command, why: "not yet".to_owned() })
}
