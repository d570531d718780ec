//! Where the next supervisor finds a worker whose own is gone.
//!
//! ```text
//!   supervised ── channel at its end ──▶ orphan ── a successor connects, same user ──▶ supervised
//!                                          │
//!                                          └── TERM ──▶ drains, exits
//! ```
//!
//! The socket exists from the worker's start, so that nothing has to be bound in the moment of need; who connects
//! while the supervisor lives is turned away. It is `SOCK_SEQPACKET`, like the channel that it becomes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use handover_handoff::peer::Peer;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Supervisors that may wait to be let in; there should be one.
const BACKLOG: i32 = 4;

/// The private socket. Its path is unlinked when this is dropped.
#[derive(Debug)]
pub(crate) struct Succession {
    socket: OwnedFd,
    path: PathBuf,
}

impl Succession {
    /// Binds the socket; what a dead worker left at the path is replaced. Call it before other threads exist: it
    /// changes the process's umask for a moment, so that nobody else can ever connect.
    ///
    /// # Errors
    /// As from the system.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let before = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
        let bound = rustix::net::bind(&socket, &address);
        rustix::process::umask(before);
        bound?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// The next one that waits to be let in, if it is run by this process's user or by root.
    ///
    /// # Errors
    /// As from the system, `PermissionDenied` for somebody else; the next one may be asked for.
    pub(crate) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        let accepted = match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC) {
            Ok(accepted) => accepted,
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let peer = Peer::of(&accepted)?;
        if peer.uid == 0 || peer.uid == rustix::process::geteuid().as_raw() {
            return Ok(Some(accepted));
        }
        let who = format!("user {} may not take over this worker", peer.uid);
        Err(io::Error::new(io::ErrorKind::PermissionDenied, who))
    }
}

impl AsFd for Succession {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Succession {
    fn drop(&mut self) {
        // The directory may be gone already; then so is the socket.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn connect(path: &Path) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    }

    #[test]
    fn only_its_own_user_can_reach_it_and_nothing_is_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("worker.sock");
        std::fs::write(&path, "left by a dead worker").unwrap();
        let succession = Succession::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(succession.accept().unwrap().is_none());
        let _successor = connect(&path).unwrap();
        assert!(succession.accept().unwrap().is_some());
        drop(succession);
        assert!(!path.exists());
    }
}
