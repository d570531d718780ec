//! What programs write, line by line: into the log, to those who follow, and the last lines kept.
//!
//! ```text
//!   copy ── stdout, stderr ─▶ pipe ─▶ reader (one thread, epoll) ─┬─▶ the last lines of the copy
//!                                                                 ├─▶ who follows
//!                                                                 └─▶ queue ─▶ logger (one thread) ─▶ log
//! ```
//!
//! Everything is bounded: a line, the lines of a copy, the queue. If the log is slow, the programs are slowed down, as if they
//! wrote to it themselves; if it does not take lines for a while, they are left out and counted, so that no program waits for
//! ever. While nothing is written, nothing wakes up.

mod lines;
mod log;
mod reading;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use handover_api::LogLine;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::protocol::LogTarget;
use lines::Line;
use log::Sink;
use reading::{Output, Shared};

/// What a pipe holds while nobody reads, in bytes: for this process's own restarts. Whoever is not root may have only so much
/// in all its pipes together.
const PIPE_BYTES: usize = 1024 * 1024;
const PIPE_BYTES_UNPRIVILEGED: usize = 256 * 1024;
/// Lines that a slow follower may be behind.
const FOLLOWERS_LINES: usize = 512;
/// Copies of a program that have ended and of which the last lines are kept.
const ENDED_COPIES: usize = 4;
/// How long the log may take for what was read, before this process becomes another program or ends.
const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// This process logs there from now on; to standard error until this is said. Of a stream, it is looked first whether it
/// takes what programs have written.
pub(crate) fn log_to(target: &LogTarget) {
    log::log_to(target);
}

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
    /// The line that has not ended.
    #[serde(default)]
    pub(crate) unended: String,
}

/// All outputs. Clones are the same; the threads end with the last of them.
#[derive(Debug, Clone)]
pub(crate) struct Outputs(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
        self.0.queue.flush(FLUSH_LIMIT);
        self.0.queue.close();
    }
}

/// All outputs, by their keys.
#[derive(Debug, Default)]
pub(super) struct Table {
    outputs: BTreeMap<OutputKey, Arc<Mutex<Output>>>,
    last: u64,
    /// Those that were finished, oldest first, with their programs.
    finished: Vec<(OutputKey, Arc<str>)>,
}

impl Table {
    fn get(&self, key: OutputKey) -> Option<Arc<Mutex<Output>>> {
        self.outputs.get(&key).cloned()
    }

    fn next_key(&mut self) -> OutputKey {
        self.last += 1;
        OutputKey(self.last)
    }

    fn insert(&mut self, key: OutputKey, output: Output) {
        self.last = self.last.max(key.0);
        self.outputs.insert(key, Arc::new(Mutex::new(output)));
    }

    /// Notes that one has ended, and lets go of what that is one too many of.
    fn finish(&mut self, key: OutputKey, program: Arc<str>) {
        let same = |other: &Arc<str>| **other == *program;
        let before = self.finished.iter().filter(|(_, other)| same(other)).count();
        if before >= ENDED_COPIES
            && let Some(at) = self.finished.iter().position(|(_, other)| same(other))
        {
            let (oldest, _) = self.finished.remove(at);
            self.outputs.remove(&oldest);
        }
        self.finished.push((key, program));
    }
}

impl Outputs {
    /// Starts the threads.
    ///
    /// # Errors
    /// The process is out of descriptors or threads.
    pub(crate) fn start() -> io::Result<Self> {
        Self::start_with(log::to_the_log())
    }

    fn start_with(sink: Sink) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(broadcast::channel(FOLLOWERS_LINES).0)?);
        let (reader, logger) = (Arc::clone(&shared), Arc::clone(&shared));
        let handle = Handle(shared);
        spawn("output", move || reader.read())?;
        spawn("output-log", move || logger.queue.write(sink, || logger.ring()))?;
        Ok(Outputs(Arc::new(handle)))
    }

    fn shared(&self) -> &Shared {
        &self.0.0
    }

    /// A pipe for a copy: what is written into it is read from now on. The writer may be given to several processes.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub(crate) fn open(&self, program: &str, copy: u32) -> io::Result<(OwnedFd, OutputKey)> {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let root = rustix::process::geteuid().is_root();
        let size = if root { PIPE_BYTES } else { PIPE_BYTES_UNPRIVILEGED };
        // As large as it may be.
        let _ = rustix::pipe::fcntl_setpipe_size(&reader, size);
        let key = self.shared().table().next_key();
        self.add(key, Output::new(program, copy, Some(reader)))?;
        Ok((writer, key))
    }

    fn add(&self, key: OutputKey, mut output: Output) -> io::Result<()> {
        if let Some(pipe) = &output.pipe {
            // The reader never waits in a read; who writes may.
            let flags = rustix::fs::fcntl_getfl(pipe)?;
            rustix::fs::fcntl_setfl(pipe, flags | rustix::fs::OFlags::NONBLOCK)?;
        }
        let mut table = self.shared().table();
        // Before it can be found, and found as soon as there is something to read.
        output.watch(self.shared(), key)?;
        table.insert(key, output);
        Ok(())
    }

    fn with<T>(&self, key: OutputKey, then: impl FnOnce(&mut Output) -> T) -> Option<T> {
        let output = self.shared().table().get(key)?;
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        Some(then(&mut output))
    }

    /// The last lines of a copy, oldest first: all that it has written until now, and also the line that has not ended.
    pub(crate) fn last_lines(&self, key: OutputKey, lines: usize) -> Vec<String> {
        let found = self.with(key, |output| {
            output.pull_now(self.shared(), PIPE_BYTES);
            let unended = String::from_utf8_lossy(output.splitter.unended()).into_owned();
            let unended = Some(unended).filter(|line| !line.is_empty());
            let kept = output.kept.lines().rev().map(|line| line.text.as_ref().to_owned());
            let mut last: Vec<String> = unended.into_iter().chain(kept).take(lines).collect();
            last.reverse();
            last
        });
        found.unwrap_or_default()
    }

    /// The last lines of a program, of all its copies and of some that have ended.
    pub(crate) fn tail(&self, program: &str, lines: usize) -> Vec<LogLine> {
        let all: Vec<_> = self.shared().table().outputs.values().cloned().collect();
        let mut found: Vec<(u64, LogLine)> = Vec::new();
        for output in all {
            let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
            if *output.program == *program {
                output.pull_now(self.shared(), PIPE_BYTES);
                let last = output.kept.lines().rev().take(lines);
                found.extend(last.map(|line| (line.number, output.told(line))));
            }
        }
        found.sort_by_key(|(number, _)| *number);
        let unwanted = found.len().saturating_sub(lines);
        found.into_iter().skip(unwanted).map(|(_, line)| line).collect()
    }

    /// All lines from now on. One who does not keep up is told how many lines were missed, and nobody else waits.
    pub(crate) fn follow(&self) -> broadcast::Receiver<LogLine> {
        self.shared().follow.subscribe()
    }

    /// The copy is gone: what it has written is read, and its pipe closed. The last lines of the last few stay.
    pub(crate) fn finish(&self, key: OutputKey) {
        let program = self.with(key, |output| {
            output.pull_now(self.shared(), PIPE_BYTES);
            output.close(self.shared());
            Arc::clone(&output.program)
        });
        if let Some(program) = program {
            self.shared().table().finish(key, program);
        }
    }

    /// The program is gone: nothing of it is kept.
    pub(crate) fn forget(&self, program: &str) {
        let mut table = self.shared().table();
        table.finished.retain(|(_, other)| **other != *program);
        table.outputs.retain(|_, output| {
            let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
            let stays = *output.program != *program;
            if !stays {
                output.close(self.shared());
            }
            stays
        });
    }

    /// Reads nothing more until [`Outputs::release`]: what is not read yet can be read by another program in the place of
    /// this one. What was read is logged first, as far as the log takes it at once.
    pub(crate) fn hold(&self) {
        self.shared().hold(true);
        let all: Vec<_> = self.shared().table().outputs.values().cloned().collect();
        for output in all {
            // Whoever reads has it locked.
            drop(output.lock().unwrap_or_else(PoisonError::into_inner));
        }
        self.flush();
    }

    /// Goes on reading.
    pub(crate) fn release(&self) {
        self.shared().hold(false);
        self.shared().ring();
    }

    /// Waits until what was read is logged, as far as the log takes it at once: before this process ends.
    pub(crate) fn flush(&self) {
        self.shared().queue.flush(FLUSH_LIMIT);
    }

    /// What is written down, each with its descriptor; none for one that has ended.
    pub(crate) fn save(&self) -> Vec<(SavedOutput, Option<Arc<OwnedFd>>)> {
        let all: Vec<_> =
            self.shared().table().outputs.iter().map(|(key, output)| (*key, Arc::clone(output))).collect();
        let save = |(key, output): (OutputKey, Arc<Mutex<Output>>)| {
            let output = output.lock().unwrap_or_else(PoisonError::into_inner);
            let saved = SavedOutput {
                key,
                program: output.program.as_ref().to_owned(),
                copy: output.copy,
                lines: output.kept.lines().map(|line| output.told(line)).collect(),
                unended: String::from_utf8_lossy(output.splitter.unended()).into_owned(),
            };
            (saved, output.pipe.clone())
        };
        all.into_iter().map(save).collect()
    }

    /// One that was saved, under the key that it had. Restore them before new ones are opened.
    ///
    /// # Errors
    /// The pipe cannot be watched.
    pub(crate) fn restore(&self, saved: SavedOutput, descriptor: Option<OwnedFd>) -> io::Result<()> {
        let has_ended = descriptor.is_none();
        let mut output = Output::new(&saved.program, saved.copy, descriptor);
        for line in saved.lines {
            let at = line.at.parse::<Timestamp>().unwrap_or(Timestamp::UNIX_EPOCH);
            let number = self.shared().next_line();
            output.kept.push(Line { number, at, text: line.line.into(), left_out: 0 });
        }
        output.splitter.take(saved.unended.as_bytes(), |_| {});
        let program = Arc::clone(&output.program);
        self.add(saved.key, output)?;
        if has_ended {
            self.shared().table().finish(saved.key, program);
        }
        Ok(())
    }
}

/// A thread that leaves the signals to the others.
fn spawn(name: &str, life: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let life = move || {
        if let Err(error) = handover_handoff::signals::block_managed() {
            tracing::warn!("signals cannot be kept from a thread: {error}");
        }
        life();
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(life).map(drop)
}
