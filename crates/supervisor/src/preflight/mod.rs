//! Running another binary as a child, to learn which versions it speaks and whether it can take over.
//!
//! ```text
//!   supervisor ── starts, HANDOVER_PREFLIGHT=1, HANDOVER_SAVED=n ──▶ candidate: host() sees it first thing
//!       ▲                                                               │ reads what this supervisor would leave,
//!       │                                                               │ and rehearses to take it over
//!       ├── one line of JSON, and exit code 0 ◀───────────────────────────┘
//!       └── anything else, or nothing in time: killed, reaped, not ready
//! ```

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use handover_handoff::process::Executable;
use serde::{Deserialize, Serialize};

/// What a binary says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stated {
    /// The program's version.
    pub version: String,
    /// The oldest and the newest version of the protocol between supervisor and worker.
    pub protocol: [u16; 2],
    /// The oldest and the newest form of what a supervisor leaves for the program in its place.
    pub saved: [u16; 2],
}

/// Children that whoever started them waits for: they must not be reaped as orphans.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spared(Arc<Mutex<BTreeSet<u32>>>);

/// What is needed to ask a binary.
#[derive(Debug)]
pub(crate) struct Preflight<'a> {
    /// The binary.
    pub(crate) executable: &'a Executable,
    /// `argv` of the supervisor.
    pub(crate) arguments: &'a [OsString],
    /// Variables that workers get, too.
    pub(crate) environment: &'a [(OsString, OsString)],
    /// What the supervisor would leave for it: it rehearses taking that over.
    pub(crate) saved: Option<BorrowedFd<'a>>,
    /// How long it may take.
    pub(crate) limit: Duration,
    /// Where its process ID stands meanwhile.
    pub(crate) spared: &'a Spared,
}

/// Why a binary cannot be used: a sentence, and the last lines that it wrote to standard error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(crate) struct NotUsable {
    /// What happened.
    pub(crate) why: String,
    /// Its last lines of standard error.
    pub(crate) said: Vec<String>,
}

impl Preflight<'_> {
    /// Runs it, and waits for what it says. Blocks for at most [`Preflight::limit`] and the time it takes to kill it.
    ///
    /// # Errors
    /// It cannot be started, hangs, ends without a word, says something else, speaks no version that this program
    /// speaks, or cannot take over.
    pub(crate) fn run(self) -> Result<Stated, NotUsable> {
        Err(NotUsable { why: "no binary can be asked yet".to_owned(), said: Vec::new() })
    }
}
