//! What an operation is, and how it ended.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The first generation after the supervisor came up.
    Start,
    /// A new generation from the files on disk; with `dry_run`, only checked.
    Reload,
    /// One of the server's own actions, e.g. `reload_certs`.
    Action,
    /// What is in flight ends; listeners are held; new connections wait in the accept queue.
    Drain,
    /// Serve again after a drain.
    Resume,
    /// Drain, then exit.
    Stop,
    /// A dead worker is replaced by another with the serving generation.
    Respawn,
}

/// How an operation ended: exactly one of these, written to the journal before anybody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done, and it serves.
    Applied,
    /// There was nothing to do: what was asked for is what serves.
    Unchanged,
    /// Refused: the configuration is wrong, or the operation may not run now. Nothing changed.
    Rejected,
    /// The candidate failed or took too long. The old generation serves.
    NotReady,
    /// It was begun and undone. The old generation serves.
    RolledBack,
    /// Done, and connections had to be cut at the deadline: see the losses.
    AppliedWithLosses,
    /// Nobody can say; ask for the operation by its ID.
    Unknown,
}
