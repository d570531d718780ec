//! The thread that reads all pipes: it waits while nothing is written, however many there are.
//!
//! ```text
//!   epoll ─▶ a pipe has something ─▶ pull ─┬─ line by line ─▶ kept, followers, queue
//!                                          ├─ the queue is full ─▶ this pipe waits ─┬─ room again ─▶ all go on
//!                                          │                                        └─ too long ──▶ leaves out
//!                                          └─ its end ─▶ closed
//! ```

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use handover_api::LogLine;
use jiff::Timestamp;
use rustix::event::{EventfdFlags, Timespec, epoll};
use rustix::io::Errno;
use tokio::sync::broadcast;

use super::lines::{Kept, Line, Splitter};
use super::log::{Queue, Queued};
use super::{OutputKey, Table};

/// How long the log may stand still before lines are left out.
const STALL_LIMIT: Duration = Duration::from_secs(1);
/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;
/// Bytes read from one pipe before it is another's turn.
const TURN_BYTES: usize = 64 * 1024;
/// Events taken at once.
const EVENTS: usize = 64;
/// What the kernel gives back for the bell; no output has this key.
const BELL: u64 = u64::MAX;

/// The output of one copy.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) program: Arc<str>,
    pub(super) copy: u32,
    /// `None` after its end.
    pub(super) pipe: Option<Arc<OwnedFd>>,
    pub(super) splitter: Splitter,
    pub(super) kept: Kept,
    /// Lines that were not put into the queue.
    left_out: u64,
    /// Whether the reader waits for it. What waits for room in the queue is not waited for.
    is_watched: bool,
}

/// How a pull ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pulled {
    /// There is nothing more now.
    Empty,
    /// There may be more.
    More,
    /// The queue is full.
    Full,
    /// Nobody can write any more.
    End,
}

/// What the threads and the handles share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) table: Mutex<Table>,
    pub(super) queue: Queue,
    pub(super) follow: broadcast::Sender<LogLine>,
    epoll: OwnedFd,
    bell: OwnedFd,
    lines: AtomicU64,
    /// Whether lines are left out, because the log stands still.
    leaves_out: AtomicBool,
    is_held: Mutex<bool>,
    released: Condvar,
    is_closed: AtomicBool,
}

impl Output {
    pub(super) fn new(program: &str, copy: u32, pipe: Option<OwnedFd>) -> Self {
        Output {
            program: program.into(),
            copy,
            pipe: pipe.map(Arc::new),
            splitter: Splitter::default(),
            kept: Kept::default(),
            left_out: 0,
            is_watched: false,
        }
    }

    /// Reads up to `budget` bytes.
    fn pull(&mut self, shared: &Shared, budget: usize, waits: bool) -> Pulled {
        let Some(pipe) = self.pipe.clone() else { return Pulled::End };
        let mut left = budget;
        let mut buffer = [0; READ_BYTES];
        while left > 0 {
            let leaves_out = shared.leaves_out.load(Ordering::Relaxed);
            let has_room = shared.queue.has_room();
            if !has_room && waits && !leaves_out {
                return Pulled::Full;
            }
            match rustix::io::read(&pipe, &mut buffer) {
                Ok(0) => return Pulled::End,
                Ok(count) => {
                    let bytes = buffer.get(..count).unwrap_or_default();
                    self.take(shared, bytes, has_room && !leaves_out);
                    left = left.saturating_sub(count);
                }
                Err(Errno::AGAIN) => return Pulled::Empty,
                Err(Errno::INTR) => {}
                Err(_) => return Pulled::End,
            }
        }
        Pulled::More
    }

    fn take(&mut self, shared: &Shared, bytes: &[u8], logs: bool) {
        let mut splitter = std::mem::take(&mut self.splitter);
        splitter.take(bytes, |line| self.line(shared, line, logs));
        self.splitter = splitter;
    }

    fn line(&mut self, shared: &Shared, text: &str, logs: bool) {
        let text: Arc<str> = text.into();
        let number = shared.next_line();
        let mut line = Line { number, at: Timestamp::now(), text, left_out: 0 };
        if logs {
            line.left_out = std::mem::take(&mut self.left_out);
            shared.queue.push(Queued {
                program: Arc::clone(&self.program),
                copy: self.copy,
                text: Arc::clone(&line.text),
                left_out: line.left_out,
            });
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
        if shared.follow.receiver_count() > 0 {
            // They have all lines, also those that the log has not: nothing was left out for them.
            let told = LogLine { left_out: 0, ..self.told(&line) };
            // The last one may have left just now.
            let _ = shared.follow.send(told);
        }
        self.kept.push(Line { left_out: 0, ..line });
    }

    /// A line as it is told.
    pub(super) fn told(&self, line: &Line) -> LogLine {
        LogLine {
            at: crate::journal::written(line.at),
            program: self.program.as_ref().to_owned(),
            copy: self.copy,
            line: line.text.as_ref().to_owned(),
            left_out: line.left_out,
        }
    }

    /// Reads what is there, up to `budget` bytes, whatever the log does.
    pub(super) fn pull_now(&mut self, shared: &Shared, budget: usize) {
        if shared.holds() {
            return;
        }
        if self.pull(shared, budget, false) == Pulled::End {
            self.close(shared);
        }
    }

    /// Nothing more is read.
    pub(super) fn close(&mut self, shared: &Shared) {
        self.unwatch(shared);
        self.pipe = None;
        let mut splitter = std::mem::take(&mut self.splitter);
        let logs = shared.queue.has_room();
        splitter.finish(|line| self.line(shared, line, logs));
        if self.left_out > 0 && logs {
            let (program, left_out) = (Arc::clone(&self.program), std::mem::take(&mut self.left_out));
            shared.queue.push(Queued { program, copy: self.copy, text: "".into(), left_out });
        }
    }

    /// Has the reader wait for it.
    pub(super) fn watch(&mut self, shared: &Shared, key: OutputKey) -> rustix::io::Result<()> {
        if let Some(pipe) = self.pipe.as_ref().filter(|_| !self.is_watched) {
            epoll::add(&shared.epoll, pipe, epoll::EventData::new_u64(key.0), epoll::EventFlags::IN)?;
            self.is_watched = true;
        }
        Ok(())
    }

    /// Has the reader leave it alone. Closing would not do that: another process may hold the same pipe.
    fn unwatch(&mut self, shared: &Shared) {
        if let Some(pipe) = self.pipe.as_ref().filter(|_| self.is_watched) {
            // It was added.
            let _ = epoll::delete(&shared.epoll, pipe);
        }
        self.is_watched = false;
    }
}

impl Shared {
    pub(super) fn new(follow: broadcast::Sender<LogLine>) -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
        Ok(Shared {
            table: Mutex::default(),
            queue: Queue::default(),
            follow,
            epoll,
            bell,
            lines: AtomicU64::new(0),
            leaves_out: AtomicBool::new(false),
            is_held: Mutex::new(false),
            released: Condvar::new(),
            is_closed: AtomicBool::new(false),
        })
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next line.
    pub(super) fn next_line(&self) -> u64 {
        self.lines.fetch_add(1, Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    /// Wakes the reader.
    pub(super) fn ring(&self) {
        // If it is full, it has rung.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.hold(false);
        self.ring();
    }

    /// Whether nothing is to be read.
    fn holds(&self) -> bool {
        *self.is_held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hold(&self, holds: bool) {
        *self.is_held.lock().unwrap_or_else(PoisonError::into_inner) = holds;
        self.released.notify_all();
    }

    /// The reader's life.
    pub(super) fn read(&self) {
        let mut waiting: Vec<OutputKey> = Vec::new();
        let mut since = Instant::now();
        let mut events = Vec::with_capacity(EVENTS);
        while !self.is_closed.load(Ordering::Relaxed) {
            if self.leaves_out.load(Ordering::Relaxed) && self.queue.is_half_empty() {
                self.leaves_out.store(false, Ordering::Relaxed);
            }
            let left = STALL_LIMIT.saturating_sub(since.elapsed());
            if !waiting.is_empty() && (self.queue.is_half_empty() || left.is_zero()) {
                // The log stands still: what comes now is counted only.
                self.leaves_out.store(!self.queue.is_half_empty(), Ordering::Relaxed);
                waiting.drain(..).for_each(|key| self.watch_again(key));
            }
            let limit = if waiting.is_empty() { None } else { Timespec::try_from(left).ok() };
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), limit.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => {
                    return tracing::error!("the output of programs cannot be read any more: {errno}");
                }
            }
            self.wait_while_held();
            for event in &events {
                let key = event.data.u64();
                if key == BELL {
                    let _ = rustix::io::read(&self.bell, &mut [0; 8]);
                } else if self.turn(OutputKey(key)) {
                    if waiting.is_empty() {
                        since = Instant::now();
                    }
                    waiting.push(OutputKey(key));
                }
            }
        }
    }

    /// One pipe's turn; whether it has to wait for room in the queue.
    fn turn(&self, key: OutputKey) -> bool {
        let Some(output) = self.table().get(key) else { return false };
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at with the lock held that `Outputs::hold` waits for.
        if self.holds() {
            return false;
        }
        match output.pull(self, TURN_BYTES, true) {
            Pulled::Empty | Pulled::More => {}
            Pulled::End => output.close(self),
            Pulled::Full => {
                output.unwatch(self);
                return true;
            }
        }
        false
    }

    fn watch_again(&self, key: OutputKey) {
        let Some(output) = self.table().get(key) else { return };
        let watched = output.lock().unwrap_or_else(PoisonError::into_inner).watch(self, key);
        if let Err(errno) = watched {
            tracing::error!("the output of a program cannot be read any more: {errno}");
        }
    }

    fn wait_while_held(&self) {
        let held = self.is_held.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.released.wait_while(held, |held| *held));
    }
}
