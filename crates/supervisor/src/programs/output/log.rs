//! From the reader to the log: a bounded queue, and a thread that writes when the log takes it.
//!
//! ```text
//!   reader ── push ─▶ queue ─▶ logger ── room in the log's pipe? ─┬─ yes ─▶ tracing
//!                      │                                          └─ no ──▶ waits, and holds no lock meanwhile
//!                      └─ full: the reader waits a while, then leaves lines out
//! ```
//!
//! Who writes to standard error holds its lock. If the reader of that pipe stands still, a thread that writes blocks there
//! with the lock, and every other thread at its next line. So this one looks first whether there is room.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::lines::LINE_COST;
use crate::protocol::LogTarget;

/// Bytes in the queue, with what it takes to keep a line there. One read more may come on top.
const QUEUE_BYTES: usize = 1024 * 1024;
/// What a line of the log has beside the text.
const LOG_LINE_EXTRA: usize = 512;
/// Which part of the log's pipe is left to others.
const RESERVED_PART: usize = 4;
/// Between two looks at a pipe that has room, but not enough.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A line on its way into the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Queued {
    pub(super) program: Arc<str>,
    pub(super) copy: u32,
    pub(super) text: Arc<str>,
    /// Lines before it that are not logged.
    pub(super) left_out: u64,
}

/// Where lines go in the end.
pub(super) type Sink = Box<dyn FnMut(&Queued) + Send>;

/// The queue.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Queued>,
    bytes: usize,
    /// Lines that the logger has taken and not written.
    taken: usize,
    is_closed: bool,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether more may be put in.
    pub(super) fn has_room(&self) -> bool {
        self.state().bytes < QUEUE_BYTES
    }

    /// Whether it is half empty: time to go on after a pause.
    pub(super) fn is_half_empty(&self) -> bool {
        self.state().bytes < QUEUE_BYTES / 2
    }

    /// Puts a line in.
    pub(super) fn push(&self, line: Queued) {
        let mut state = self.state();
        state.bytes += line.text.len() + LINE_COST;
        state.lines.push_back(line);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until all lines are written, but not longer than `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let is_busy = |state: &mut State| !state.lines.is_empty() || state.taken > 0;
        // What is not written by then stays in the queue.
        drop(self.changed.wait_timeout_while(self.state(), limit, is_busy));
    }

    /// The logger ends when all lines are written.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_all();
    }

    /// The logger's life. `progress` is called when there is room again.
    pub(super) fn write(&self, mut sink: Sink, progress: impl Fn()) {
        loop {
            let state = self.state();
            let idle = |state: &mut State| state.lines.is_empty() && !state.is_closed;
            let waited = self.changed.wait_while(state, idle);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            let Some(line) = state.lines.pop_front() else { return };
            state.taken = 1;
            drop(state);
            sink(&line);
            let mut state = self.state();
            let was_half_empty = state.bytes < QUEUE_BYTES / 2;
            state.bytes -= line.text.len() + LINE_COST;
            state.taken = 0;
            let is_half_empty = state.bytes < QUEUE_BYTES / 2;
            drop(state);
            self.changed.notify_all();
            if is_half_empty && !was_half_empty {
                progress();
            }
        }
    }
}

/// Which standard stream this process logs to: its number, or 0 for none.
static STREAM: AtomicU8 = AtomicU8::new(2);

/// This process logs there from now on; to standard error until this is said.
pub(super) fn log_to(target: &LogTarget) {
    let stream = match target {
        LogTarget::Stdout => 1,
        LogTarget::Stderr => 2,
        LogTarget::File(_) => 0,
    };
    STREAM.store(stream, Ordering::Relaxed);
}

/// Waits until this much can be logged without blocking.
fn wait_for_the_log(bytes: usize) {
    match STREAM.load(Ordering::Relaxed) {
        1 => wait_for_room(std::io::stdout().as_fd(), bytes),
        2 => wait_for_room(std::io::stderr().as_fd(), bytes),
        _ => {}
    }
}

/// Waits until there is room in whatever this is. Only a pipe can say how much.
pub(super) fn wait_for_room(stream: BorrowedFd<'_>, bytes: usize) {
    loop {
        match rustix::event::poll(&mut [PollFd::new(&stream, PollFlags::OUT)], None) {
            // A pipe that nobody can read any more is writable, too: writing says so.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        let (Ok(size), Ok(used)) =
            (rustix::pipe::fcntl_getpipe_size(stream), rustix::io::ioctl_fionread(stream))
        else {
            return;
        };
        // Each write begins in a page of its own; and what this process says of itself must not find the pipe full.
        let free = size.saturating_sub(usize::try_from(used).unwrap_or(size));
        if used == 0 || free > 2 * bytes + size / RESERVED_PART {
            return;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Into this process's log.
pub(super) fn to_the_log() -> Sink {
    Box::new(|line: &Queued| {
        let Queued { program, copy, text, left_out } = line;
        wait_for_the_log(text.len() + LOG_LINE_EXTRA);
        if *left_out > 0 {
            tracing::warn!(
                %program,
                copy,
                "{left_out} lines of its output were left out: the log did not take them in time"
            );
        }
        // One with nothing but that count is no line.
        if *left_out == 0 || !text.is_empty() {
            tracing::info!(%program, copy, "{text}");
        }
    })
}
