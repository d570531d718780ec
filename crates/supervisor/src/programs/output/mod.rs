//! What programs write, line by line: into the log, to those who follow, and the last lines kept.
//!
//! ```text
//!   copy ── stdout, stderr ─▶ pipe ─▶ reader (one thread, epoll) ─┬─▶ the last lines of the copy
//!                                                                 ├─▶ who follows
//!                                                                 └─▶ queue ─▶ logger (one thread) ─▶ log
//! ```
//!
//! Everything is bounded: a line, the lines of a copy, the queue. If the log does not take lines for a while, they are left
//! out and counted, so that no program waits for ever.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use handover_api::LogLine;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// Names the output of one copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct OutputKey(pub(crate) u64);

/// The output of one copy, as it is written down. Its descriptor goes with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedOutput {
    /// Its key, the same afterwards.
    pub(crate) key: OutputKey,
    /// The program's name.
    pub(crate) program: String,
    /// The copy's number.
    pub(crate) copy: u32,
    /// Its last lines.
    #[serde(default)]
    pub(crate) lines: Vec<LogLine>,
}

/// All outputs. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Outputs {
    follow: broadcast::Sender<LogLine>,
}

impl Outputs {
    /// Starts the threads.
    ///
    /// # Errors
    /// The process is out of descriptors or threads.
    pub(crate) fn start() -> io::Result<Self> {
        Ok(Outputs { follow: broadcast::channel(1024).0 })
    }

    /// A pipe for a copy: what is written into it is read from now on. The writer may be given to several processes.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub(crate) fn open(&self, program: &str, copy: u32) -> io::Result<(OwnedFd, OutputKey)> {
        let _ = (program, copy);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The last lines of a copy, oldest first: all that it has written until now, and also the line that has not ended.
    pub(crate) fn last_lines(&self, key: OutputKey, lines: usize) -> Vec<String> {
        let _ = (key, lines);
        Vec::new()
    }

    /// The last lines of a program, of all its copies and of those before them.
    pub(crate) fn tail(&self, program: &str, lines: usize) -> Vec<LogLine> {
        let _ = (program, lines);
        Vec::new()
    }

    /// All lines from now on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<LogLine> {
        self.follow.subscribe()
    }

    /// The copy is gone: what it has written is read, and its pipe closed. Its last lines stay for a while.
    pub(crate) fn finish(&self, key: OutputKey) {
        let _ = key;
    }

    /// The program is gone: nothing of it is kept.
    pub(crate) fn forget(&self, program: &str) {
        let _ = program;
    }

    /// Reads nothing more until [`Outputs::release`]: what is not read yet can be read by another program in the place of
    /// this one. What was read is logged first, as far as the log takes it at once.
    pub(crate) fn hold(&self) {}

    /// Goes on reading.
    pub(crate) fn release(&self) {}

    /// What is written down, each with its descriptor; none for one that has ended.
    pub(crate) fn save(&self) -> Vec<(SavedOutput, Option<Arc<OwnedFd>>)> {
        Vec::new()
    }

    /// One that was saved, under the key that it had.
    ///
    /// # Errors
    /// The pipe cannot be watched.
    pub(crate) fn restore(&self, saved: SavedOutput, descriptor: Option<OwnedFd>) -> io::Result<()> {
        let _ = (saved, descriptor);
        Ok(())
    }
}
