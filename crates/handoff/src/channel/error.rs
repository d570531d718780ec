//! What can go wrong with a channel.

use std::io;

use rustix::io::Errno;

use crate::memfd::MemfdError;

/// What went wrong with a channel, and what it means for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The peer closed its end, or its process is gone.
    #[error("the other process closed the channel")]
    Closed,
    /// The deadline passed. A receiver may go on; a sender may not, since half a message may be sent.
    #[error("could not {doing} before the deadline")]
    TimedOut {
        /// What was being done.
        doing: &'static str,
    },
    /// The kernel could not hand over all descriptors of a message. Those it did were closed.
    #[error(
        "only {received} of a message's descriptors arrived: this process is at its limit of open \
         descriptors (see `ulimit -n`)"
    )]
    Truncated {
        /// How many arrived.
        received: usize,
    },
    /// The peer sent what no peer of this version sends.
    #[error("the other process does not speak the channel's protocol: {0}")]
    Protocol(&'static str),
    /// The peer lays its frames out in another way.
    #[error("the other process speaks version {theirs} of the channel, this one version {ours}")]
    Version {
        /// The version in the frame that arrived.
        theirs: u16,
        /// [`super::frame::FRAME_VERSION`].
        ours: u16,
    },
    /// A message is too long to be sent; nothing was sent.
    #[error("a message of {bytes} bytes is over the limit of {limit}")]
    TooBig {
        /// Its length.
        bytes: usize,
        /// The limit that it is over.
        limit: usize,
    },
    /// A message has too many descriptors to be sent; nothing was sent.
    #[error("a message with {count} descriptors is over the limit of {limit}")]
    TooManyDescriptors {
        /// How many it has.
        count: usize,
        /// [`super::frame::MAX_FDS_PER_MESSAGE`].
        limit: usize,
    },
    /// A message cannot be written as JSON; nothing was sent.
    #[error("a message cannot be encoded: {0}")]
    Encode(#[source] serde_json::Error),
    /// A message that arrived is not what was expected: the two processes differ in version.
    #[error("a message cannot be understood: {0}")]
    Decode(#[source] serde_json::Error),
    /// The memory file of a long message could not be made or read.
    #[error(transparent)]
    Memfd(MemfdError),
    /// A system call failed.
    #[error("could not {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl ChannelError {
    pub(crate) fn io(doing: &'static str, errno: Errno) -> Self {
        ChannelError::Io { doing, source: errno.into() }
    }

    /// Whether the system is short of something just now (descriptors, memory), nothing was sent, and the same may be tried again.
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        let ChannelError::Memfd(MemfdError::Io { source, .. }) = self else { return false };
        matches!(Errno::from_io_error(source), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
    }

    /// Whether the error was found before anything was sent, so that the channel is still of use.
    #[must_use]
    pub fn is_before_sending(&self) -> bool {
        matches!(
            self,
            ChannelError::TooBig { .. } | ChannelError::TooManyDescriptors { .. } | ChannelError::Encode(_)
        )
    }
}
