//! Typed messages, with descriptors, over a `SOCK_SEQPACKET` socket.
//!
//! A [`Channel`] is one end. What it receives and what it sends are two types, so that the two ends
//! cannot be mixed up. Bodies are JSON: they are few, small, and read by people when something is wrong.
//! A body above [`frame::MAX_INLINE_BODY_BYTES`] travels in a sealed memory file instead.
//!
//! Every received descriptor is close-on-exec from the moment it exists. If the kernel could not hand
//! over all of them (the receiver is at its descriptor limit), it says so with `MSG_CTRUNC`; those that
//! did arrive are closed and the message is refused: [`ChannelError::Truncated`].
//!
//! The socket's own `O_NONBLOCK` is left alone, because it belongs to the open file and not to the
//! descriptor; every call is made with `MSG_DONTWAIT` and waits, where it may, in `poll` with a deadline.
//!
//! After any error but [`ChannelError::TimedOut`] and those found before anything was sent
//! ([`ChannelError::is_before_sending`]) the channel is of no more use and should be dropped.

mod error;
pub mod frame;

use std::io::{IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use error::ChannelError;
use frame::{Assembler, Body, Frame, MAX_BODY_BYTES, MAX_FDS_PER_FRAME, MAX_FRAME_BYTES, Placed, Whole};

use crate::memfd;

/// One end of a channel: receives `In`, sends `Out`.
///
/// All methods take `&self`: one thread may receive while others send. Messages of several senders do
/// not interleave.
#[derive(Debug)]
pub struct Channel<In, Out> {
    socket: OwnedFd,
    receiving: Mutex<Assembler<OwnedFd>>,
    sending: Mutex<u32>,
    types: PhantomData<fn(Out) -> In>,
}

/// The two ends of one channel.
pub type Pair<In, Out> = (Channel<In, Out>, Channel<Out, In>);

/// A message on its way: cut into frames, some of which may have been sent.
///
/// Made by [`Channel::encode`], moved on by [`Channel::try_send`].
#[derive(Debug)]
pub struct Outgoing<'fd> {
    frames: std::vec::IntoIter<Frame>,
    next: Option<Frame>,
    /// The memory file of a long body: the first descriptor, if there is one.
    body: Option<OwnedFd>,
    fds: Vec<BorrowedFd<'fd>>,
}

/// Two connected ends of a channel that other processes will talk over, both close-on-exec.
///
/// # Errors
/// socketpair(2) failed: the process or the system is out of descriptors.
pub fn socket_pair() -> Result<(OwnedFd, OwnedFd), ChannelError> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| ChannelError::io("create a socket pair", errno))
}

impl<In, Out> Channel<In, Out> {
    /// Two connected ends, both close-on-exec.
    ///
    /// # Errors
    /// socketpair(2) failed: the process or the system is out of descriptors.
    pub fn pair() -> Result<Pair<In, Out>, ChannelError> {
        let (a, b) = socket_pair()?;
        Ok((Channel::wrap(a), Channel::wrap(b)))
    }

    /// Makes a channel of a connected `SOCK_SEQPACKET` socket.
    ///
    /// # Errors
    /// [`ChannelError::Protocol`] if it is something else; [`ChannelError::Io`] if it is no socket.
    pub fn from_socket(socket: OwnedFd) -> Result<Self, ChannelError> {
        let kind = rustix::net::sockopt::socket_type(&socket)
            .map_err(|errno| ChannelError::io("ask for the socket's type", errno))?;
        if kind != SocketType::SEQPACKET {
            return Err(ChannelError::Protocol("the descriptor is not a SOCK_SEQPACKET socket"));
        }
        Ok(Channel::wrap(socket))
    }

    fn wrap(socket: OwnedFd) -> Self {
        Channel { socket, receiving: Mutex::default(), sending: Mutex::default(), types: PhantomData }
    }

    /// Whether nothing of an unfinished message was received: then another program can go on with the socket.
    #[must_use]
    pub fn is_between_messages(&self) -> bool {
        !lock(&self.receiving).is_partial()
    }

    /// The socket, given up. What was received of an unfinished message is dropped.
    #[must_use]
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }
}

impl<In, Out> Channel<In, Out>
where
    In: DeserializeOwned,
    Out: Serialize,
{
    /// Sends one message, waiting until the peer has room for it, but not longer than `within`.
    ///
    /// # Errors
    /// [`ChannelError::TimedOut`] (if part of the message was sent, the channel is broken for sending),
    /// [`ChannelError::Closed`] when the peer is gone, and those of [`Channel::encode`].
    pub fn send(&self, message: &Out, fds: &[BorrowedFd<'_>], within: Duration) -> Result<(), ChannelError> {
        let deadline = Instant::now() + within;
        let mut number = lock(&self.sending);
        let mut outgoing = Self::encode_numbered(message, fds, &mut number)?;
        while !self.push_frames(&mut outgoing)? {
            self.wait(PollFlags::OUT, Some(deadline))?;
        }
        Ok(())
    }

    /// Prepares a message for [`Channel::try_send`].
    ///
    /// # Errors
    /// The message cannot be encoded, is over the limits, or its memory file cannot be made. Nothing
    /// was sent, the channel stays of use.
    pub fn encode<'fd>(&self, message: &Out, fds: &[BorrowedFd<'fd>]) -> Result<Outgoing<'fd>, ChannelError> {
        Self::encode_numbered(message, fds, &mut lock(&self.sending))
    }

    /// Sends what the peer has room for: `true` when the whole message has been sent, `false` when the
    /// caller has to wait until the socket is writable and then go on with the same `outgoing`.
    ///
    /// A caller that uses this must be the channel's only sender until the message is sent.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] when the peer is gone, [`ChannelError::Io`] otherwise.
    pub fn try_send(&self, outgoing: &mut Outgoing<'_>) -> Result<bool, ChannelError> {
        let _sending = lock(&self.sending);
        self.push_frames(outgoing)
    }

    /// Waits for the next message; without `within`, for as long as it takes.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] when the peer has closed its end, [`ChannelError::TimedOut`] when nothing
    /// whole arrived in time (nothing is lost: call again), otherwise the channel is broken.
    pub fn recv(&self, within: Option<Duration>) -> Result<(In, Vec<OwnedFd>), ChannelError> {
        let deadline = within.map(|within| Instant::now() + within);
        loop {
            if let Some(message) = self.try_recv()? {
                return Ok(message);
            }
            self.wait(PollFlags::IN, deadline)?;
        }
    }

    /// The next message if a whole one is there, `None` if the caller has to wait until the socket is
    /// readable.
    ///
    /// # Errors
    /// As [`Channel::recv`], without the waiting.
    pub fn try_recv(&self) -> Result<Option<(In, Vec<OwnedFd>)>, ChannelError> {
        let mut assembler = lock(&self.receiving);
        while let Some((bytes, fds)) = receive_frame(&self.socket)? {
            if let Some(whole) = assembler.push(&bytes, fds)? {
                return decode(whole).map(Some);
            }
        }
        Ok(None)
    }

    fn encode_numbered<'fd>(
        message: &Out,
        fds: &[BorrowedFd<'fd>],
        number: &mut u32,
    ) -> Result<Outgoing<'fd>, ChannelError> {
        let bytes = serde_json::to_vec(message).map_err(ChannelError::Encode)?;
        let next = number.wrapping_add(1);
        let (body, frames) = if bytes.len() <= frame::MAX_INLINE_BODY_BYTES {
            (None, frame::split(next, Placed::Inline(&bytes), fds.len())?)
        } else {
            let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= MAX_BODY_BYTES);
            let length = length.ok_or(ChannelError::TooBig { bytes: bytes.len(), limit: MAX_BODY_BYTES })?;
            let file = memfd::sealed("handover-message", &bytes).map_err(ChannelError::Memfd)?;
            (Some(file), frame::split(next, Placed::Memfd(length), fds.len() + 1)?)
        };
        *number = next;
        Ok(Outgoing { frames: frames.into_iter(), next: None, body, fds: fds.to_vec() })
    }

    fn push_frames(&self, outgoing: &mut Outgoing<'_>) -> Result<bool, ChannelError> {
        loop {
            let Some(frame) = outgoing.next.take().or_else(|| outgoing.frames.next()) else {
                return Ok(true);
            };
            let all: Vec<BorrowedFd<'_>> =
                outgoing.body.iter().map(AsFd::as_fd).chain(outgoing.fds.iter().copied()).collect();
            let fds = all.get(frame.fds.clone()).unwrap_or_default();
            match send_frame(&self.socket, &frame.bytes, fds) {
                Ok(()) => {}
                Err(Errno::AGAIN) => {
                    outgoing.next = Some(frame);
                    return Ok(false);
                }
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Err(ChannelError::Closed),
                Err(errno) => return Err(ChannelError::io("send a message", errno)),
            }
        }
    }

    fn wait(&self, events: PollFlags, deadline: Option<Instant>) -> Result<(), ChannelError> {
        let doing = if events == PollFlags::OUT { "send a message" } else { "receive a message" };
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| rustix::event::Timespec::try_from(left).ok());
            let mut poll = [PollFd::new(&self.socket, events)];
            match rustix::event::poll(&mut poll, timeout.as_ref()) {
                Ok(0) if left.is_some_and(|left| left.is_zero()) => {
                    return Err(ChannelError::TimedOut { doing });
                }
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(ChannelError::io("wait for the channel", errno)),
            }
        }
    }
}

impl<In, Out> AsFd for Channel<In, Out> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<In, Out> AsRawFd for Channel<In, Out> {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// A panic while the lock was held leaves nothing half done that matters: at worst a message number is
/// skipped or a frame is missing, which the peer notices.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn decode<In: DeserializeOwned>(whole: Whole<OwnedFd>) -> Result<(In, Vec<OwnedFd>), ChannelError> {
    let bytes = match whole.body {
        Body::Inline(bytes) => bytes,
        Body::Memfd { file, bytes } => {
            let read = memfd::read_sealed(&file, MAX_BODY_BYTES).map_err(ChannelError::Memfd)?;
            if read.len() != bytes as usize {
                return Err(ChannelError::Protocol("a body's memory file is not as long as announced"));
            }
            read
        }
    };
    let message = serde_json::from_slice(&bytes).map_err(ChannelError::Decode)?;
    Ok((message, whole.fds))
}

fn send_frame(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS_PER_FRAME))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        // `frame::split` never puts more into a frame than the space is for.
        return Err(Errno::INVAL);
    }
    loop {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags) {
            // A SOCK_SEQPACKET socket takes a datagram whole or not at all (socket(2)).
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

type Received = Option<(Vec<u8>, Vec<OwnedFd>)>;

fn receive_frame(socket: &OwnedFd) -> Result<Received, ChannelError> {
    let mut bytes = vec![0; MAX_FRAME_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS_PER_FRAME))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Ok(received) => break received,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::CONNRESET) => return Err(ChannelError::Closed),
            Err(errno) => return Err(ChannelError::io("receive a message", errno)),
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(ChannelError::Truncated { received: fds.len() });
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(ChannelError::Protocol("a frame is longer than any may be"));
    }
    if received.bytes == 0 {
        return Err(ChannelError::Closed);
    }
    bytes.truncate(received.bytes);
    Ok(Some((bytes, fds)))
}

#[cfg(test)]
mod tests;
