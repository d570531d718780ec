//! A program's own connections that move to the worker of the next binary: state to bytes and back.
//!
//! ```text
//!   old worker:  Mover::asked ─▶ Mover::give(state, socket) ──┐      (or it goes on here, and drains)
//!                                                             ▼
//!   new worker:                                     Adopted::next ─▶ (state, socket)
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::context::Context;
use super::track::Tracked;
use crate::moving::{Lost, Outlet};

/// What is to be known of a connection so that another process can go on with it: all that the program holds for it, bytes
/// that were read and not used yet among it.
pub trait Movable: Sized + Send + 'static {
    /// Writes it down in this format (see [`Server::state_formats`](super::Server::state_formats)).
    fn write(&self, format: u16) -> Vec<u8>;

    /// Reads what another process has written in this format, perhaps one of another version.
    ///
    /// # Errors
    /// One sentence; the connection is closed then.
    fn read(format: u16, bytes: &[u8]) -> Result<Self, String>;
}

/// What connections are made of: a tokio stream, a pair of them, or bare descriptors.
pub trait Sockets: Sized + sealed::Sealed {
    /// Takes it out of the runtime.
    ///
    /// # Errors
    /// The runtime does not let go of it.
    fn into_descriptors(self) -> io::Result<Vec<OwnedFd>>;

    /// Makes it of as many descriptors as it takes, which become non-blocking, in the runtime that calls.
    ///
    /// # Errors
    /// They are too many, too few, or no such sockets.
    fn from_descriptors(descriptors: Vec<OwnedFd>) -> io::Result<Self>;
}

mod sealed {
    pub trait Sealed {}
}

/// Connections of one kind that can move: see [`Server::movable`](super::Server::movable). Clones are the same.
pub struct Moves<T> {
    kind: Arc<Kind<T>>,
}

/// One connection that can move. It counts as open, as [`Context::track`] does, until it is dropped.
pub struct Mover<T> {
    kind: Arc<Kind<T>>,
    cx: Context,
    /// An attempt has failed: it stays.
    stays: bool,
    _tracked: Tracked,
}

/// The connections that come from another worker.
pub struct Adopted<T> {
    kind: Arc<Kind<T>>,
}

/// A connection that could not be given away, and goes on here.
#[derive(Debug)]
pub struct Kept<S> {
    /// Why, in one sentence.
    pub why: String,
    /// Its sockets, in the runtime again; or why that failed, and then the connection is lost.
    pub sockets: io::Result<S>,
}

/// The way out of a worker that hands over.
pub(crate) struct Exit {
    outlet: Arc<Outlet>,
    format: u16,
    /// There may be room again, or the end has come.
    changed: Notify,
}

/// One kind of connections.
pub(crate) struct Kind<T> {
    name: &'static str,
    waiting: Mutex<VecDeque<(T, Vec<OwnedFd>)>>,
    came: Notify,
}

/// A [`Kind`] whose type is forgotten.
pub(crate) trait AnyKind: Send + Sync {
    fn name(&self) -> &'static str;

    /// Takes a connection from another worker.
    fn adopt(&self, format: u16, state: &[u8], sockets: Vec<OwnedFd>) -> Result<(), String>;

    /// Gives away what came and was not taken by the program.
    fn give_waiting(&self, exit: &Exit);
}

impl<T: Movable> Moves<T> {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { kind: Arc::new(Kind { name, waiting: Mutex::default(), came: Notify::new() }) }
    }

    pub(crate) fn kind(&self) -> Arc<dyn AnyKind> {
        Arc::clone(&self.kind) as Arc<dyn AnyKind>
    }

    /// For one connection that was accepted or adopted, while it lasts.
    #[must_use]
    pub fn mover(&self, cx: &Context) -> Mover<T> {
        let tracked = cx.track(self.kind.name);
        Mover { kind: Arc::clone(&self.kind), cx: cx.clone(), stays: false, _tracked: tracked }
    }

    /// The connections that come from the worker that served before. One of these for each run of the server: wait for
    /// the next one beside `accept`.
    #[must_use]
    pub fn adopted(&self) -> Adopted<T> {
        Adopted { kind: Arc::clone(&self.kind) }
    }
}

impl<T: Movable> Mover<T> {
    /// Ends when this connection should move, as soon as it can be written down: another worker serves. Never ends
    /// otherwise. It may be dropped at any time and called again (cancel-safe), so it may be one arm of a `select!`.
    pub async fn asked(&mut self) {
        if !self.stays {
            let exit = self.cx.exit().await;
            if !exit.outlet.has_ended() {
                return;
            }
            self.stays = true;
        }
        std::future::pending().await
    }

    /// Gives the connection to the other worker. Nothing may be read or written while it is written down, and nothing
    /// afterwards: its sockets are closed here without a goodbye, and go on there.
    ///
    /// # Errors
    /// It stays here; [`Mover::asked`] does not end again. Let it come to its end: the drain waits for it.
    pub async fn give<S: Sockets>(&mut self, state: &T, sockets: S) -> Result<(), Kept<S>> {
        let exit = self.cx.exit().await;
        let result = self.give_to(&exit, state, sockets).await;
        self.stays = true;
        result
    }

    async fn give_to<S: Sockets>(&self, exit: &Exit, state: &T, sockets: S) -> Result<(), Kept<S>> {
        if let Err(lost) = exit.room().await {
            return Err(Kept { why: lost.to_string(), sockets: Ok(sockets) });
        }
        let descriptors = match sockets.into_descriptors() {
            Ok(descriptors) => descriptors,
            Err(error) => return Err(Kept { why: error.to_string(), sockets: Err(error) }),
        };
        exit.send(self.kind.name, &state.write(exit.format), &descriptors)
            .map_err(|lost| Kept { why: lost.to_string(), sockets: S::from_descriptors(descriptors) })
    }
}

impl<T: Movable> Adopted<T> {
    /// The next connection. Ends only with one; it may be dropped at any time and called again (cancel-safe).
    ///
    /// # Errors
    /// A connection came that is not made of such sockets, and is lost.
    pub async fn next<S: Sockets>(&mut self) -> io::Result<(T, S)> {
        loop {
            let came = self.kind.came.notified();
            if let Some((state, sockets)) = self.kind.waiting().pop_front() {
                // Whoever waits beside this one sees the rest.
                self.kind.came.notify_one();
                return S::from_descriptors(sockets).map(|sockets| (state, sockets));
            }
            came.await;
        }
    }
}

impl Exit {
    pub(crate) fn new(outlet: Arc<Outlet>, format: u16) -> Arc<Self> {
        let exit = Arc::new(Self { outlet: Arc::clone(&outlet), format, changed: Notify::new() });
        // Weak: the outlet would keep itself alive otherwise.
        let woken = Arc::downgrade(&exit);
        outlet.notify(Arc::new(move || {
            if let Some(exit) = woken.upgrade() {
                exit.changed.notify_waiters();
            }
        }));
        exit
    }

    /// Waits until something can be sent without waiting.
    async fn room(&self) -> Result<(), Lost> {
        loop {
            let changed = self.changed.notified();
            if self.outlet.has_ended() {
                return Err(Lost::Ended);
            }
            if self.outlet.may_send() {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Sends one connection: the length of its kind's name, the name, its state.
    fn send(&self, kind: &str, state: &[u8], sockets: &[OwnedFd]) -> Result<(), Lost> {
        let length =
            u16::try_from(kind.len()).map_err(|_| Lost::Refused("its name is too long".to_owned()))?;
        let bytes = [&length.to_le_bytes()[..], kind.as_bytes(), state].concat();
        let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(|socket| socket.as_fd()).collect();
        self.outlet.send_late_of(kind, 0, &bytes, &sockets)
    }
}

/// Reads what [`Exit`] has sent: the kind's name, and the state.
pub(crate) fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (name, state) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    Some((std::str::from_utf8(name).ok()?, state))
}

impl<T> Kind<T> {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<(T, Vec<OwnedFd>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Movable> AnyKind for Kind<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn adopt(&self, format: u16, state: &[u8], sockets: Vec<OwnedFd>) -> Result<(), String> {
        let state = T::read(format, state)?;
        self.waiting().push_back((state, sockets));
        self.came.notify_one();
        Ok(())
    }

    fn give_waiting(&self, exit: &Exit) {
        let waiting = std::mem::take(&mut *self.waiting());
        for (state, sockets) in waiting {
            if let Err(lost) = exit.send(self.name, &state.write(exit.format), &sockets) {
                tracing::error!("a connection of {:?} that nobody had taken is lost: {lost}", self.name);
            }
        }
    }
}

impl<T> Clone for Moves<T> {
    fn clone(&self) -> Self {
        Self { kind: Arc::clone(&self.kind) }
    }
}

impl<T> fmt::Debug for Moves<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moves").field("name", &self.kind.name).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Mover<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mover").field("name", &self.kind.name).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Adopted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adopted").field("name", &self.kind.name).finish_non_exhaustive()
    }
}

impl<S> fmt::Display for Kept<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the connection stays where it is: {}", self.why)
    }
}

impl sealed::Sealed for tokio::net::TcpStream {}

impl Sockets for tokio::net::TcpStream {
    fn into_descriptors(self) -> io::Result<Vec<OwnedFd>> {
        Ok(vec![self.into_std()?.into()])
    }

    fn from_descriptors(descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let [descriptor] = exactly(descriptors)?;
        let stream = std::net::TcpStream::from(descriptor);
        stream.set_nonblocking(true)?;
        Self::from_std(stream)
    }
}

impl sealed::Sealed for tokio::net::UnixStream {}

impl Sockets for tokio::net::UnixStream {
    fn into_descriptors(self) -> io::Result<Vec<OwnedFd>> {
        Ok(vec![self.into_std()?.into()])
    }

    fn from_descriptors(descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let [descriptor] = exactly(descriptors)?;
        let stream = std::os::unix::net::UnixStream::from(descriptor);
        stream.set_nonblocking(true)?;
        Self::from_std(stream)
    }
}

impl sealed::Sealed for OwnedFd {}

impl Sockets for OwnedFd {
    fn into_descriptors(self) -> io::Result<Vec<OwnedFd>> {
        Ok(vec![self])
    }

    fn from_descriptors(descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        exactly(descriptors).map(|[descriptor]| descriptor)
    }
}

impl sealed::Sealed for Vec<OwnedFd> {}

impl Sockets for Vec<OwnedFd> {
    fn into_descriptors(self) -> io::Result<Vec<OwnedFd>> {
        Ok(self)
    }

    fn from_descriptors(descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        Ok(descriptors)
    }
}

impl<A: Sockets, B: Sockets> sealed::Sealed for (A, B) {}

/// Two of one descriptor each: a client and what it is connected to.
impl<A: Sockets, B: Sockets> Sockets for (A, B) {
    fn into_descriptors(self) -> io::Result<Vec<OwnedFd>> {
        Ok([self.0.into_descriptors()?, self.1.into_descriptors()?].into_iter().flatten().collect())
    }

    fn from_descriptors(descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let [first, second] = exactly(descriptors)?;
        Ok((A::from_descriptors(vec![first])?, B::from_descriptors(vec![second])?))
    }
}

fn exactly<const N: usize>(descriptors: Vec<OwnedFd>) -> io::Result<[OwnedFd; N]> {
    <[OwnedFd; N]>::try_from(descriptors).map_err(|descriptors| {
        let text = format!("a connection came with {} sockets, and has {N}", descriptors.len());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_split_again_and_nonsense_is_refused() {
        let bytes = [&5_u16.to_le_bytes()[..], b"lines", b"state"].concat();
        assert_eq!(split(&bytes), Some(("lines", &b"state"[..])));
        assert_eq!(split(&bytes[..6]), None);
        assert_eq!(split(b"\x01"), None);
        assert_eq!(split(b"\x01\x00\xff"), None);
    }
}
