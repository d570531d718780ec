//! Channels and processes in tokio's event loop (feature `tokio`).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::channel::Channel;
use crate::process::Child;

/// Registers a channel, to wait until it can be read from or written to.
///
/// # Errors
/// epoll_ctl(2): the system is out of memory or watches.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn register_channel<In, Out>(channel: Channel<In, Out>) -> io::Result<AsyncFd<Channel<In, Out>>> {
    // SAFETY: needed because `AsRawFd` alone promises nothing about the descriptor. A `Channel` owns its socket
    // (an `OwnedFd` that is set when it is made and never replaced), so that its number is open, always the same
    // one, and stays so until the channel, which the `AsyncFd` owns, is dropped.
    #[allow(unsafe_code, reason = "see above")]
    let registered = unsafe { AsyncFd::register(channel) };
    registered.map_err(io::Error::from)
}

/// Registers a process, to wait until it has ended: then it becomes readable, and stays so.
///
/// # Errors
/// As [`register_channel`].
///
/// # Panics
/// Outside of a tokio runtime.
pub fn register_child(child: Arc<Child>) -> io::Result<AsyncFd<Arc<Child>>> {
    // SAFETY: as for a channel: a `Child` owns its pidfd and never replaces it, and the `AsyncFd` owns a reference
    // to the child, so that the pidfd is not closed before.
    #[allow(unsafe_code, reason = "see above")]
    let registered = unsafe { AsyncFd::register(child) };
    registered.map_err(io::Error::from)
}

/// Registers any descriptor, to wait until it can be read from (until it becomes so: what is said once is not said again).
///
/// # Errors
/// As [`register_channel`]; EPERM: it is of a kind that cannot be waited for, as a file.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn register_readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as for a channel: the `AsyncFd` owns the descriptor, which always has the same number.
    #[allow(unsafe_code, reason = "see above")]
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    registered.map_err(io::Error::from)
}
