//! Reloading by itself when what is served from has changed.
//!
//! ```text
//!   something changed ─▶ wait until it is still (settle) ─▶ differs from what was read last? ─▶ ask for a reload
//!         ▲                                                                                        │
//!         └── what was refused is tried again, at growing intervals; so is what was rejected ◀─────┘
//! ```
//!
//! One thread waits for the kernel's news (inotify(7)) of the directories in which the files are, and of those that
//! lead there; a second one, only if there is a [`Source`], waits for that. Neither runs unless watching is asked for.
//!
//! | module | for |
//! |---|---|
//! | `decide` | when to look and when to ask, purely |
//! | `places` | which directories decide about a path, links and all |
//! | `baseline` | what was read last, compared with what is there now |
//! | `kernel` | inotify: a set of directories and the names in them that matter |
//! | `watcher` | the thread |
//! | `sources` | the thread that waits for what is no file |

mod baseline;
mod decide;
mod kernel;
mod places;
mod sources;
#[cfg(test)]
mod tests;
mod watcher;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use watcher::Watcher;

/// Where the files of a generation that was committed come from, as far as the watch is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// They were read for it.
    Read,
    /// They were read for it, by a worker that has ended: what differs on the disk by now is news.
    WasRead,
    /// They are those of another time: that the disk differs is wanted, and no news.
    FromElsewhere,
}

/// What is to be watched beside the files that were read, and how patiently.
#[derive(Clone)]
pub struct Watch {
    /// How long nothing may change before a reload is asked for.
    pub settle: Duration,
    /// How soon what could not be served is tried again; the interval doubles up to [`LONGEST_RETRY`].
    pub retry: Duration,
    /// A source that is no file.
    pub source: Option<Arc<dyn Source>>,
}

/// The longest interval between two attempts.
pub const LONGEST_RETRY: Duration = Duration::from_secs(5 * 60);

/// Something that is no file and can be watched: a key in a datastore, say.
pub trait Source: Send + Sync {
    /// What it is, for messages: without anything secret.
    fn name(&self) -> String;

    /// Waits until it differs from what was read of it last, and says in a few words what happened. `Ok(None)` if that
    /// is not the case yet: return so after half a minute at the latest.
    ///
    /// # Errors
    /// Why it cannot be watched at the moment, in one sentence. It is tried again later.
    fn wait(&self) -> Result<Option<String>, String>;
}

impl Default for Watch {
    fn default() -> Self {
        Self { settle: Duration::from_millis(500), retry: Duration::from_secs(10), source: None }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("settle", &self.settle)
            .field("retry", &self.retry)
            .field("source", &self.source.as_ref().map(|source| source.name()))
            .finish()
    }
}
