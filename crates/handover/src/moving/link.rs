//! The giver's end of the conversation, as its data threads and the thread of the move share it.
//!
//! ```text
//!   data threads ── Sockets, Late ──┐
//!   thread of the move ─ the rest ──┴─▶ one at a time ─▶ socket      Taken ─▶ room ─▶ who waits is woken
//! ```

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use handover_handoff::{ChannelError, memfd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::flow::Flow;
use super::wire::{GiverChannel, MAX_LATE_BYTES, ToGiver, ToTaker};
use super::{Lost, Outlet, Sink};

/// How long a sender waits for room.
const ROOM_WITHIN: Duration = Duration::from_secs(2);
/// How long one message may take to be sent.
const SEND_WITHIN: Duration = Duration::from_secs(2);

/// What may be sent by the service's threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Sockets, ahead of their states.
    Ahead,
    /// Whole connections, late.
    Late,
    /// Nothing.
    Closed,
}

/// The giver's end.
pub(crate) struct Link {
    channel: GiverChannel,
    /// One message at a time.
    sending: Mutex<()>,
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    stage: Stage,
    flow: Flow,
    wakers: Vec<Arc<dyn Fn() + Send + Sync>>,
}

/// Why a message was not sent.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// The taker has closed its end: it is dead, or about to be.
    Closed,
    /// Anything else, in one sentence.
    Failed(String),
}

impl Link {
    pub(crate) fn new(channel: GiverChannel) -> Arc<Self> {
        let inner = Inner { stage: Stage::Ahead, flow: Flow::default(), wakers: Vec::new() };
        let (sending, changed) = (Mutex::default(), Condvar::new());
        Arc::new(Self { channel, sending, inner: Mutex::new(inner), changed })
    }

    /// The next message of the taker, if there is one.
    ///
    /// # Errors
    /// As [`handover_handoff::Channel::try_recv`].
    pub(crate) fn try_recv(&self) -> Result<Option<(ToGiver, Vec<OwnedFd>)>, ChannelError> {
        self.channel.try_recv()
    }

    /// Sends a message. Nothing of it was sent if it fails.
    ///
    /// # Errors
    /// See [`Unsent`].
    pub(crate) fn say(&self, message: &ToTaker, fds: &[BorrowedFd<'_>]) -> Result<(), Unsent> {
        self.say_at(None, message, fds)
    }

    /// The same, if this is still the stage for it when it is this message's turn.
    fn say_at(&self, stage: Option<Stage>, message: &ToTaker, fds: &[BorrowedFd<'_>]) -> Result<(), Unsent> {
        let until = Instant::now() + SEND_WITHIN;
        let _alone = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        if stage.is_some_and(|stage| self.lock().stage != stage) {
            return Err(Unsent::Closed);
        }
        loop {
            match self.try_say(message, fds) {
                Ok(true) => return Ok(()),
                Ok(false) if Instant::now() >= until => {
                    return Err(Unsent::Failed("the new worker does not read what it is sent".to_owned()));
                }
                Ok(false) => self.wait_writable(until),
                // Descriptors that are on their way are over this process's limit: some of them will arrive.
                Err(ChannelError::Io { source, .. })
                    if source.raw_os_error() == Some(Errno::TOOMANYREFS.raw_os_error())
                        && Instant::now() < until =>
                {
                    self.wait_for_less(until);
                }
                Err(ChannelError::Closed) => return Err(Unsent::Closed),
                Err(error) => return Err(Unsent::Failed(format!("the new worker cannot be told: {error}"))),
            }
        }
    }

    /// One message is one datagram: it is sent whole or not at all.
    fn try_say(&self, message: &ToTaker, fds: &[BorrowedFd<'_>]) -> Result<bool, ChannelError> {
        let mut outgoing = self.channel.encode(message, fds)?;
        self.channel.try_send(&mut outgoing)
    }

    fn wait_writable(&self, until: Instant) {
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok();
        // Whatever it says: the next attempt to send finds out.
        let _ = rustix::event::poll(&mut [PollFd::new(&self.channel, PollFlags::OUT)], left.as_ref());
    }

    /// Waits until the taker has taken something more, or a moment.
    fn wait_for_less(&self, until: Instant) {
        const MOMENT: Duration = Duration::from_millis(10);
        let left = until.saturating_duration_since(Instant::now()).min(MOMENT);
        let inner = self.lock();
        drop(self.changed.wait_timeout(inner, left));
    }

    /// The taker has taken so many messages.
    ///
    /// # Errors
    /// More than were sent.
    pub(crate) fn taken(&self, messages: u64) -> Result<(), String> {
        let mut inner = self.lock();
        let was_full = !inner.flow.has_room_for(Outlet::MAX_BATCH);
        inner.flow.taken(messages)?;
        if was_full && inner.flow.has_room_for(Outlet::MAX_BATCH) {
            self.wake(inner);
        } else {
            drop(inner);
            self.changed.notify_all();
        }
        Ok(())
    }

    /// From now on connections may be sent late, and no sockets ahead.
    pub(crate) fn committed(&self) {
        let mut inner = self.lock();
        if inner.stage == Stage::Ahead {
            inner.stage = Stage::Late;
        }
    }

    /// From now on nothing may be sent by the service's threads. What one of them is just sending is sent when this returns.
    pub(crate) fn close(&self) {
        self.end();
        drop(self.sending.lock());
    }

    fn end(&self) {
        let mut inner = self.lock();
        inner.stage = Stage::Closed;
        self.wake(inner);
    }

    fn wake(&self, inner: MutexGuard<'_, Inner>) {
        let wakers = inner.wakers.clone();
        drop(inner);
        self.changed.notify_all();
        for wake in wakers {
            wake();
        }
    }

    /// Waits for room, and counts the message as sent: before it is, since the answer may come at once.
    fn reserve(&self, stage: Stage, descriptors: usize) -> Result<(), Lost> {
        let until = Instant::now() + ROOM_WITHIN;
        let mut inner = self.lock();
        loop {
            if inner.stage == Stage::Closed {
                return Err(Lost::Ended);
            }
            if inner.stage != stage {
                return Err(Lost::Refused("it is not the time for that".to_owned()));
            }
            if inner.flow.has_room_for(descriptors) {
                inner.flow.sent(descriptors);
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Lost::Full);
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn send(&self, stage: Stage, message: &ToTaker, fds: &[BorrowedFd<'_>]) -> Result<(), Lost> {
        self.reserve(stage, fds.len())?;
        let sent = self.say_at(Some(stage), message, fds);
        let mut inner = self.lock();
        match sent {
            Ok(()) => Ok(()),
            Err(Unsent::Closed) => {
                inner.flow.unsent(fds.len());
                drop(inner);
                self.end();
                Err(Lost::Ended)
            }
            Err(Unsent::Failed(why)) => {
                inner.flow.unsent(fds.len());
                Err(Lost::Refused(why))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("channel", &self.channel).finish_non_exhaustive()
    }
}

/// The outlet's way into a link.
pub(crate) struct LinkSink(pub(crate) Arc<Link>);

impl Sink for LinkSink {
    fn sockets(&self, thread: u32, first: u64, sockets: &[BorrowedFd<'_>]) -> Result<(), Lost> {
        self.0.send(Stage::Ahead, &ToTaker::Sockets { thread, first }, sockets)
    }

    fn late(&self, thread: u32, state: &[u8], sockets: &[BorrowedFd<'_>]) -> Result<(), Lost> {
        if state.len() > MAX_LATE_BYTES {
            return Err(Lost::Refused(format!("its state has {} bytes", state.len())));
        }
        let file = memfd::sealed("handover-late", state).map_err(|error| Lost::Refused(error.to_string()))?;
        let fds: Vec<BorrowedFd<'_>> = [file.as_fd()].into_iter().chain(sockets.iter().copied()).collect();
        self.0.send(Stage::Late, &ToTaker::Late { thread }, &fds)
    }

    fn may_send(&self) -> bool {
        let inner = self.0.lock();
        inner.stage != Stage::Closed && inner.flow.has_room_for(Outlet::MAX_BATCH)
    }

    fn has_ended(&self) -> bool {
        self.0.lock().stage == Stage::Closed
    }

    fn notify(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.0.lock().wakers.push(wake);
    }
}
