//! What of the machine goes with the supervisor into its new binary.
//!
//! ```text
//!   upgrade, or the confirmation of one, in its last step ──save──▶ exec ──resume──▶ Reexecuted: recorded, answered
//! ```
//!
//! At that moment nothing else is under way: one worker serves (or is drained), one operation has only its end before it.
//! So little has to be written down. Times are written as what is left or has passed of them, because the clock of the
//! machine begins anew. Every field may be missing: another version has written it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Cause, GenerationNumber, Kind, OperationKey, Outcome, WorkerKey};

/// All that the machine needs to go on in another process image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    /// The operation whose last step this is.
    pub operation: Option<SavedOperation>,
    /// The worker that serves.
    pub worker: Option<SavedWorker>,
    /// The generation that the server is held to.
    pub held_to: Option<GenerationNumber>,
    /// The highest number given to a generation.
    pub last_generation: GenerationNumber,
    /// The next key for a worker, candidate or call.
    pub next_key: u64,
    /// A reload that a signal asked for and that waits for its turn.
    pub deferred: Option<SavedReload>,
    /// How often a dead worker was replaced.
    pub restarts: u64,
    /// Workers that died in a row.
    pub failures: u32,
}

/// The operation whose last step this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedOperation {
    /// Its key.
    pub key: OperationKey,
    /// What it is.
    pub kind: Kind,
    /// How it ends.
    pub outcome: Outcome,
    /// Why.
    pub cause: Cause,
}

/// The worker that serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedWorker {
    /// Its key.
    pub key: WorkerKey,
    /// Whether it is drained: it accepts nothing until it is resumed.
    pub drained: bool,
    /// How long it has served, in milliseconds.
    pub served_ms: u64,
}

/// A reload that waits for its turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedReload {
    /// Its key.
    pub operation: OperationKey,
    /// Only certificates and their keys are read anew.
    pub certs_only: bool,
    /// The time in which it must be confirmed.
    pub confirm: Option<Duration>,
    /// The time for which it is watched.
    pub guard: Option<Duration>,
}

impl Default for SavedOperation {
    fn default() -> Self {
        Self {
            key: OperationKey::default(),
            kind: Kind::Upgrade,
            outcome: Outcome::Applied,
            cause: Cause::Done,
        }
    }
}

/// Why a saved state is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CannotResume {
    /// It names no operation that goes on.
    #[error("the saved state names no operation that is to go on")]
    NoOperation,
    /// It names no worker.
    #[error("the saved state names no worker that serves")]
    NoWorker,
    /// It does not say what is served.
    #[error("the saved state does not say which generation is served")]
    NoGeneration,
}
