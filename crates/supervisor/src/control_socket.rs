//! Who is the supervisor of a control socket: the one that holds the lock beside it.
//!
//! The lock (`flock` on `<control socket>.lock`) is let go by the kernel when its holder dies, however it dies.
//! So a socket that stands there without its lock being held is stale, and is replaced; and a second supervisor
//! is refused, with the process ID of the first.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use handover_handoff::inherit::{Expected, InheritError};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::locking::{self, AFTERLIFE};
use crate::reexec::{Packing, SavedControl, Unpacking};
use crate::sockets::{self, SocketFile, Unbound};

/// Permission bits of the socket's directory, if it has to be made.
const DIRECTORY_MODE: u32 = 0o750;
/// Permission bits of the socket until a configuration says otherwise.
const FIRST_MODE: u32 = 0o600;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 128;
/// The longest path that a socket can have (unix(7), `sun_path` less its NUL).
const MAX_PATH_BYTES: usize = 107;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// Another supervisor has it.
    #[error(
        "another supervisor{} has the control socket {}; ask it with 'handover status', end it with \
         'handover stop', or give this one a control socket of its own with --control",
        pid.map_or_else(String::new, |pid| format!(" (pid {pid})")),
        path.display()
    )]
    Held {
        /// The socket.
        path: PathBuf,
        /// The process ID of the other one, if its lock file says so.
        pid: Option<u32>,
    },
    /// Its path cannot be a socket's, or the paths beside it.
    #[error(
        "the path of the control socket is too long: {} has {} bytes, and with what is added for the worker's \
         socket the kernel takes {MAX_PATH_BYTES}; give a shorter one with --control",
        path.display(),
        path.as_os_str().len()
    )]
    TooLong {
        /// The socket.
        path: PathBuf,
    },
    /// The directory belongs to somebody else, who could replace the socket.
    #[error("the directory of the control socket, {}, {problem}; choose another with --control", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A system call failed.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The socket cannot be bound although the lock is ours.
    #[error("{0}")]
    Bind(#[from] Unbound),
}

/// The lock: there is one supervisor for this control socket, and this process is it. Dropping it lets go, and
/// unlinks the lock file.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    file: File,
    control: PathBuf,
}

/// The control socket. Dropping it unlinks it, if it is still this process's own.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    file: SocketFile,
    path: PathBuf,
    /// A duplicate of the socket, for another program in this one's place.
    socket: OwnedFd,
}

impl Lock {
    /// Takes the lock of `control`, whose directory is made if it is missing.
    pub(crate) fn take(control: &Path) -> Result<Lock, ControlError> {
        let control = std::path::absolute(control).map_err(io_error("find", control))?;
        if control.as_os_str().len() + WORKER_SUFFIX_BYTES > MAX_PATH_BYTES {
            return Err(ControlError::TooLong { path: control });
        }
        make_directory(&control)?;
        let path = with_suffix(&control, ".lock");
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(io_error("open the lock", &path))?;
            let patience = if holder(&path).is_some_and(lives) { Duration::ZERO } else { AFTERLIFE };
            match locking::lock(&file, patience) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let pid = holder(&path);
                    return Err(ControlError::Held { path: control, pid });
                }
                Err(errno) => return Err(io_error("lock", &path)(errno.into())),
            }
            if !is_at(&file, &path) {
                // Its last holder unlinked it between our opening and locking it: lock the one that is there.
                continue;
            }
            let write = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            write.map_err(io_error("write the lock", &path))?;
            return Ok(Lock { path, file, control });
        }
    }

    /// The absolute path of the control socket.
    pub(crate) fn control(&self) -> &Path {
        &self.control
    }

    /// Binds the control socket, in the place of a stale one.
    pub(crate) fn bind(&self) -> Result<(OwnedFd, ControlSocket), ControlError> {
        let (socket, file) = sockets::listen_unix(&self.control, FIRST_MODE, BACKLOG)?;
        let kept = socket.try_clone().map_err(io_error("keep", &self.control))?;
        Ok((socket, ControlSocket { file, path: self.control.clone(), socket: kept }))
    }

    /// Packs the lock and the socket for another program in this one's place.
    pub(crate) fn save<'a>(&'a self, socket: &'a ControlSocket, packing: &mut Packing<'a>) -> SavedControl {
        SavedControl {
            path: self.control.clone(),
            lock: packing.put(&self.file),
            socket: packing.put(&socket.socket),
            file: packing.put(socket.file.descriptor()),
        }
    }

    /// Takes them up. It is held by being open; nothing of it is dropped before [`Unpacked::hold`].
    ///
    /// # Errors
    /// One of them was not left open.
    pub(crate) fn unpack(saved: &SavedControl, unpacking: &Unpacking<'_>) -> Result<Unpacked, InheritError> {
        Ok(Unpacked {
            control: saved.path.clone(),
            lock: unpacking.owned(saved.lock, Expected::Other)?,
            socket: unpacking.owned(saved.socket, Expected::Socket)?,
            kept: unpacking.owned(saved.socket, Expected::Socket)?,
            file: unpacking.owned(saved.file, Expected::Other)?,
        })
    }

    /// Where a worker with this key waits for the next supervisor.
    pub(crate) fn worker_path(&self, worker: u64) -> PathBuf {
        with_suffix(&self.control, &format!("{WORKER_INFIX}{worker:016x}"))
    }

    /// Where workers of earlier supervisors may wait.
    pub(crate) fn worker_paths(&self) -> Vec<PathBuf> {
        let Some((directory, name)) = self.control.parent().zip(self.control.file_name()) else {
            return Vec::new();
        };
        let prefix = format!("{}{WORKER_INFIX}", name.to_string_lossy());
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        ours.map(|entry| entry.path()).collect()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the file is closed, hence while the lock is held. If it stays, the next one locks it again.
        let _ = fs::remove_file(&self.path);
    }
}

/// Lock and control socket, taken up and not held yet: dropping this unlinks nothing.
#[derive(Debug)]
pub(crate) struct Unpacked {
    control: PathBuf,
    lock: OwnedFd,
    socket: OwnedFd,
    kept: OwnedFd,
    file: OwnedFd,
}

impl Unpacked {
    /// Holds them. The first is the socket to serve on.
    pub(crate) fn hold(self) -> (OwnedFd, Lock, ControlSocket) {
        let Unpacked { control, lock, socket, kept, file } = self;
        let file = SocketFile::from_descriptor(&control, file);
        let control_socket = ControlSocket { file, path: control.clone(), socket: kept };
        let lock = Lock { path: with_suffix(&control, ".lock"), file: lock.into(), control };
        (socket, lock, control_socket)
    }
}

impl ControlSocket {
    /// Applies what a configuration says about the socket.
    pub(crate) fn set(&self, mode: Option<u32>, group: Option<u32>) -> io::Result<()> {
        if let Some(group) = group {
            std::os::unix::fs::lchown(&self.path, None, Some(group))?;
        }
        fs::set_permissions(&self.path, fs::Permissions::from_mode(mode.unwrap_or(FIRST_MODE)))
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.file.remove();
    }
}

/// Between the control socket's path and the worker's key in the path of the worker's socket.
const WORKER_INFIX: &str = ".worker-";
/// What is added to the control socket's path for a worker's.
const WORKER_SUFFIX_BYTES: usize = WORKER_INFIX.len() + 16;

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    PathBuf::from(text)
}

fn io_error(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> ControlError {
    let path = path.to_owned();
    move |source| ControlError::Io { doing, path: path.clone(), source }
}

/// The process ID in a lock file. Without it a refusal is as good.
fn holder(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Whether there is such a process; one of somebody else's counts, too.
fn lives(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Makes the directory if it is missing. One that is there must not be writable by others (unless it is sticky,
/// like /tmp): they could put a socket of theirs in the place of ours.
fn make_directory(control: &Path) -> Result<(), ControlError> {
    let Some(directory) = control.parent() else { return Ok(()) };
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(directory)
        .map_err(io_error("make the directory", directory))?;
    let meta = fs::metadata(directory).map_err(io_error("look at the directory", directory))?;
    let refuse = |problem: String| Err(ControlError::Directory { path: directory.to_owned(), problem });
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me && meta.uid() != 0 {
        return refuse(format!("belongs to uid {}, and this is uid {me}", meta.uid()));
    }
    if meta.mode() & 0o002 != 0 && meta.mode() & 0o1000 == 0 {
        return refuse("can be written by everybody".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_second_supervisor_is_refused_and_told_who_has_the_socket() {
        let directory = tempfile::tempdir().unwrap();
        let control = directory.path().join("run/control.sock");
        let lock = Lock::take(&control).unwrap();
        let error = Lock::take(&control).unwrap_err();
        assert!(error.to_string().contains(&format!("(pid {})", std::process::id())), "{error}");
        drop(lock);
        assert_eq!(fs::read_dir(directory.path().join("run")).unwrap().count(), 0, "nothing is left behind");
        Lock::take(&control).unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced_and_the_new_one_is_private_at_first() {
        let directory = tempfile::tempdir().unwrap();
        let control = directory.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&control).unwrap());
        let lock = Lock::take(&control).unwrap();
        let (_listening, socket) = lock.bind().unwrap();
        assert_eq!(fs::metadata(&control).unwrap().mode() & 0o777, FIRST_MODE);
        UnixStream::connect(&control).unwrap();
        socket.set(Some(0o660), None).unwrap();
        assert_eq!(fs::metadata(&control).unwrap().mode() & 0o777, 0o660);
        drop(socket);
        assert!(!control.exists());
    }

    #[test]
    fn a_directory_in_which_everybody_may_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = Lock::take(&directory.path().join("control.sock")).unwrap_err();
        assert!(error.to_string().contains("can be written by everybody"), "{error}");
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_by_its_length() {
        let directory = tempfile::tempdir().unwrap();
        let error = Lock::take(&directory.path().join("x".repeat(100))).unwrap_err();
        assert!(matches!(error, ControlError::TooLong { .. }), "{error}");
    }

    #[test]
    fn sockets_of_workers_are_found_beside_the_control_socket() {
        let directory = tempfile::tempdir().unwrap();
        let lock = Lock::take(&directory.path().join("a.sock")).unwrap();
        fs::write(lock.worker_path(7), "").unwrap();
        fs::write(directory.path().join("b.sock.worker-0000000000000007"), "").unwrap();
        assert_eq!(lock.worker_paths(), [lock.worker_path(7)]);
    }
}
