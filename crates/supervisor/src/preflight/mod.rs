//! Running another binary as a child, to learn which versions it speaks and whether it can take over.
//!
//! ```text
//!   supervisor ── starts, HANDOVER_PREFLIGHT=1, HANDOVER_SAVED=n ──▶ candidate: host() sees it first thing
//!       ▲                                                               │ reads what this supervisor would leave,
//!       │                                                               │ and rehearses to take it over
//!       ├── one line of JSON, and exit code 0 ◀─────────────────────────┘
//!       └── anything else, or nothing in time: killed, reaped, not ready
//! ```
//!
//! The candidate gets the memory file and its three standard streams, and nothing else: it touches nothing. `asking.rs` is
//! the supervisor's side, `answering.rs` the candidate's.

mod answering;
mod asking;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use answering::{answer, is_asked};
pub(crate) use asking::{NotUsable, Preflight};

/// The longest answer.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// What a binary says of itself. What a later version says beside that is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stated {
    /// The server's name ([`Options::name`](crate::Options)): what serves is not left to a program for something else. Not
    /// compared if it is not said.
    #[serde(default)]
    pub name: Option<String>,
    /// The program's version.
    pub version: String,
    /// The oldest and the newest version of the protocol between supervisor and worker.
    pub protocol: [u16; 2],
    /// The oldest and the newest form of what a supervisor leaves for the program in its place.
    pub saved: [u16; 2],
    /// Why it could not go on with what it was given; `None` if it could.
    #[serde(default)]
    pub cannot: Option<String>,
}
