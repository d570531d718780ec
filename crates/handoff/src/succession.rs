//! How a worker that has outlived its supervisor is found by the next one.
//!
//! The worker listens on a private Unix socket (`SOCK_SEQPACKET`) from its start on and accepts nothing there as
//! long as its supervisor lives. Once its channel has ended, it accepts one connection, which becomes the new
//! channel. Whoever connects earlier waits in the queue: only after the old supervisor is gone, and its lock with
//! it, can there be a new one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::peer::Peer;

/// Permission bits of the socket: its owner only.
const MODE: u32 = 0o600;
/// Successors that may wait: one, and one more that is refused by what it finds.
const BACKLOG: i32 = 2;

/// A worker's private socket for its next supervisor. Dropping it unlinks the path, if it is still its own.
#[derive(Debug)]
pub struct Door {
    socket: OwnedFd,
    path: PathBuf,
    identity: (u64, u64),
}

impl Door {
    /// Listens at `path`, where nothing may stand.
    ///
    /// # Errors
    /// As bind(2); the path is too long for a socket (107 bytes).
    pub fn open(path: &Path) -> io::Result<Door> {
        let socket = seqpacket()?;
        // The mode of the descriptor is the mode that the path gets, less the umask (unix(7)): there is no
        // moment in which others could connect.
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(MODE))?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, BACKLOG)?;
        let meta = std::fs::symlink_metadata(path)?;
        Ok(Door { socket, path: path.to_owned(), identity: (meta.st_dev(), meta.st_ino()) })
    }

    /// Takes the next connection whose peer runs as this process's user or as root; others are closed. `None` if
    /// nobody waits. The descriptor that [`AsFd`] gives becomes readable when somebody does.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn accept(&self) -> io::Result<Option<OwnedFd>> {
        loop {
            match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(connection) => {
                    let uid = Peer::of(&connection)?.uid;
                    if uid == 0 || uid == rustix::process::geteuid().as_raw() {
                        return Ok(Some(connection));
                    }
                }
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let now = std::fs::symlink_metadata(&self.path).map(|meta| (meta.st_dev(), meta.st_ino()));
        if now.is_ok_and(|now| now == self.identity) {
            // A path that cannot be removed is found stale by the next supervisor, and removed then.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Connects to the worker that listens at `path`, to become its supervisor.
///
/// # Errors
/// `ConnectionRefused`: the path is stale, the worker is gone. `NotFound`: there is none. Others as connect(2).
pub fn knock(path: &Path) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn seqpacket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_successor_gets_a_channel_to_the_worker_and_knows_its_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("worker");
        let door = Door::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert!(door.accept().unwrap().is_none());
        let ours = knock(&path).unwrap();
        assert_eq!(Peer::of(&ours).unwrap().pid, std::process::id());
        let theirs = door.accept().unwrap().unwrap();
        let ours = crate::Channel::<String, String>::from_socket(ours).unwrap();
        let theirs = crate::Channel::<String, String>::from_socket(theirs).unwrap();
        ours.send(&"hello".to_owned(), &[], std::time::Duration::from_secs(20)).unwrap();
        assert_eq!(theirs.recv(Some(std::time::Duration::from_secs(20))).unwrap().0, "hello");
    }

    #[test]
    fn a_worker_that_is_gone_leaves_no_path_or_a_stale_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("worker");
        drop(Door::open(&path).unwrap());
        assert_eq!(knock(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let door = Door::open(&path).unwrap();
        let moved = directory.path().join("moved");
        std::fs::rename(&path, &moved).unwrap();
        std::fs::write(&path, "another's").unwrap();
        drop(door);
        assert!(path.exists(), "only its own path may be unlinked");
        assert_eq!(knock(&moved).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
