//! What a copy says to its `NOTIFY_SOCKET` (sd_notify(3)), and which process has said it.
//!
//! ```text
//!   process of the copy ── datagram ─▶ socket of this copy ── with the sender's ID, by the kernel ─▶ Notified
//! ```

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use handover_handoff::{datagram, reactor};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;

/// The longest message that is read; longer ones are cut at the last whole line.
const MESSAGE_BYTES: usize = 8 * 1024;
/// Whoever can reach it may write: a program may have given up the rights that it was started with. Whether the sender
/// belongs to the copy is asked for each message.
const MODE: u32 = 0o666;

/// The socket of one copy. Dropping it closes it; its file is the owner's to remove ([`NotifySocket::unlink`]).
#[derive(Debug)]
pub(crate) struct NotifySocket {
    path: PathBuf,
    socket: AsyncFd<OwnedFd>,
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

#[cfg(test)]
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
    /// Binds it, in place of what may be left there by an earlier one. Who may reach it is decided by the directory. Needs a
    /// tokio runtime.
    ///
    /// # Errors
    /// As bind(2); the path is too long (107 bytes).
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        // Before anybody can write: from then on the kernel notes who does.
        datagram::ask_for_senders(&socket)?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        rustix::net::bind(&socket, &address)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
        Self::restore(path.to_owned(), socket)
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
        loop {
            let mut ready = self.socket.readable().await?;
            match datagram::receive(self.socket.get_ref(), MESSAGE_BYTES) {
                Ok(message) => return Ok(Notified::of(&message)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                // Without its sender it proves nothing, and it is gone.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes its file.
    pub(crate) fn unlink(&self) {
        // It may be gone with its directory.
        let _ = std::fs::remove_file(&self.path);
    }

    /// The socket, to be kept for another supervisor.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }

    /// One that was kept, with the messages that nobody has read yet. Needs a tokio runtime.
    ///
    /// # Errors
    /// It cannot be watched.
    pub(crate) fn restore(path: PathBuf, socket: OwnedFd) -> io::Result<Self> {
        Ok(NotifySocket { path, socket: reactor::register_readable(socket)? })
    }
}

impl Notified {
    fn of(message: &datagram::Datagram) -> Self {
        let text = String::from_utf8_lossy(&message.bytes);
        let mut lines: Vec<String> =
            text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
        if message.truncated && !text.ends_with('\n') {
            lines.pop();
        }
        Notified { pid: message.pid, lines }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use super::super::copy::{self, Order};
    use super::super::groups::Groups;
    use super::*;
    use crate::protocol::{Pass, ResourceLimits};

    const LIMIT: Duration = Duration::from_secs(20);

    async fn next(socket: &NotifySocket) -> Notified {
        tokio::time::timeout(LIMIT, socket.next()).await.unwrap().unwrap()
    }

    fn socket() -> (tempfile::TempDir, NotifySocket) {
        let directory = tempfile::tempdir().unwrap();
        let socket = NotifySocket::bind(&directory.path().join("n")).unwrap();
        (directory, socket)
    }

    #[tokio::test]
    async fn a_message_is_read_with_its_sender_and_line_by_line() {
        let (_directory, socket) = socket();
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(b"STATUS=warming up\nREADY=1\n", socket.path()).unwrap();
        let got = next(&socket).await;
        assert_eq!(got.pid, std::process::id());
        assert!(got.says("READY=1") && !got.says("READY"));
        assert_eq!(
            (got.value("STATUS"), got.value("READY"), got.value("STAT")),
            (Some("warming up"), Some("1"), None)
        );
        sender.send_to(&[b"READY=1\n".as_slice(), &[b'x'; 9000]].concat(), socket.path()).unwrap();
        assert_eq!(next(&socket).await.lines, ["READY=1"], "what is cut says nothing");
    }

    #[tokio::test]
    async fn it_takes_the_place_of_one_that_was_left_and_is_removed_with_its_file() {
        let (directory, socket) = socket();
        let again = NotifySocket::bind(socket.path()).unwrap();
        UnixDatagram::unbound().unwrap().send_to(b"READY=1", again.path()).unwrap();
        assert!(next(&again).await.says("READY=1"));
        again.unlink();
        assert!(!again.path().exists());
        assert!(NotifySocket::bind(&directory.path().join("x".repeat(200))).is_err());
    }

    #[tokio::test]
    async fn another_one_reads_what_the_first_has_not() {
        let (_directory, socket) = socket();
        UnixDatagram::unbound().unwrap().send_to(b"READY=1", socket.path()).unwrap();
        let kept = socket.descriptor().try_clone_to_owned().unwrap();
        let path = socket.path().to_owned();
        drop(socket);
        assert!(next(&NotifySocket::restore(path, kept).unwrap()).await.says("READY=1"));
    }

    #[tokio::test]
    async fn what_a_copy_says_is_known_to_be_its_own_and_what_another_process_says_is_not() {
        let (directory, socket) = socket();
        let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
        let python = "import os, socket, sys\n\
             s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
             s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])\n\
             sys.stdin.read()\n";
        // Its child speaks for it, from a session of its own.
        let script = format!("exec 3<&0; setsid python3 -c \"{python}\" <&3 & wait");
        let (held, hold) = io::pipe().unwrap();
        let order = Order {
            program: "web",
            number: 1,
            mark: &copy::new_mark("web", 1).unwrap(),
            command: &["sh".to_owned(), "-c".to_owned(), script],
            directory: Some(directory.path()),
            environment: &BTreeMap::new(),
            clear_environment: false,
            user: None,
            limits: &ResourceLimits::default(),
            sockets: &[],
            pass: &Pass::default(),
            notify: Some(socket.path()),
            stdin: Some(held.as_fd()),
            stdout: None,
            output: null.as_fd(),
            groups: &Groups::none(),
        };
        if !handover_testkit::have("python3", "notify") {
            return;
        }
        let copy = copy::start(&order).unwrap().copy;
        let got = next(&socket).await;
        assert!(got.says("READY=1"));
        assert_ne!(got.pid, copy.pid());
        assert!(copy.owns(got.pid));
        UnixDatagram::unbound().unwrap().send_to(b"READY=1", socket.path()).unwrap();
        let forged = next(&socket).await;
        assert!(forged.says("READY=1") && !copy.owns(forged.pid));
        drop((held, hold));
        copy.kill_all(LIMIT).await;
    }
}
