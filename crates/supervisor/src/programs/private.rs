//! The address that a copy has for itself, and the place where such addresses are.
//!
//! ```text
//!   <runtime>/<server>.programs/            0711
//!      web-7.sock       a socket that is bound here and passed (private = "socket")
//!      web-7/app.sock   a path where the program binds (private = "path"); the directory is its user's alone
//!      web-7.notify     its NOTIFY_SOCKET
//!   127.0.0.1:PORT      a free port where the program binds (private = "port")
//! ```
//!
//! What is made for a copy is removed when nothing of the copy is left, by the supervisor that then owns it.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::protocol::{Address, Private, User};
use crate::sockets::{self, SocketFile};

/// Connections that the kernel keeps at a private socket until the copy accepts them.
const BACKLOG: u32 = 4096;
/// Characters of a program's name in a path: the whole of it must not be longer than `sun_path` (unix(7)).
const MAX_NAME: usize = 24;
/// Ports that are tried until one is free that no other copy was given.
const PORT_TRIES: usize = 32;

/// Where addresses of copies are made.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// For programs that run as the supervisor does.
    own: PathBuf,
    /// For those of other users, where `own` cannot be reached by them.
    others: PathBuf,
}

/// The names of one copy's files there.
#[derive(Debug, Clone)]
pub(super) struct Files {
    socket: PathBuf,
    directory: PathBuf,
    /// The copy's `NOTIFY_SOCKET`.
    pub(super) notify: PathBuf,
}

impl Place {
    /// For the server of this name, whose control socket is in `runtime`.
    pub(super) fn new(runtime: &Path, server: &str) -> Self {
        let own = runtime.join(format!("{server}.programs"));
        let digest = blake3::hash(own.as_os_str().as_encoded_bytes()).to_hex();
        let id: String = digest.as_str().chars().take(8).collect();
        let others = match is_reachable(runtime) {
            true => own.clone(),
            false => Path::new("/run").join(format!("{server}-{id}.programs")),
        };
        Place { own, others }
    }

    /// The files of a copy, in a directory that is made if it is not there.
    pub(super) fn files(&self, program: &str, key: u64, user: Option<&User>) -> Result<Files, String> {
        let directory = if user.is_some() { &self.others } else { &self.own };
        make_directory(directory, 0o711)
            .map_err(|error| format!("the directory {} cannot be made: {error}", directory.display()))?;
        let readable = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let name: String = program.chars().map(readable).take(MAX_NAME).collect();
        let file = |end: &str| directory.join(format!("{name}-{key}{end}"));
        Ok(Files { socket: file(".sock"), directory: file(""), notify: file(".notify") })
    }

    /// Removes what an earlier life has left, of which nothing runs any more.
    pub(super) fn clean(&self) {
        for directory in [&self.own, &self.others] {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            }
        }
    }

    /// Removes the directories themselves, if nothing is in them.
    pub(super) fn remove(&self) {
        for directory in [&self.own, &self.others] {
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Whether other users can get to what is below.
fn is_reachable(directory: &Path) -> bool {
    let is_open =
        |path: &Path| fs::metadata(path).map_or(true, |meta| meta.permissions().mode() & 0o001 != 0);
    directory.ancestors().all(is_open)
}

/// Makes it, and those above it, and gives it this mode whatever the umask is.
fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(mode).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error),
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Gives a file to the user as whom the program runs.
pub(super) fn give(path: &Path, user: Option<&User>) -> Result<(), String> {
    let Some(user) = user else { return Ok(()) };
    chown(path, Some(user.uid), Some(user.gid))
        .map_err(|error| format!("{} cannot be given to user {}: {error}", path.display(), user.uid))
}

/// An address that one copy has for itself.
#[derive(Debug)]
pub(super) struct Own {
    /// Where requests are sent.
    pub(super) address: Address,
    /// The socket, if it is passed.
    pub(super) socket: Option<Arc<OwnedFd>>,
    file: Option<SocketFile>,
    directory: Option<PathBuf>,
}

/// It, as it is written down; its socket goes with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SavedOwn {
    /// The address.
    pub(super) address: Address,
    /// The socket's place among the descriptors, if it is passed.
    pub(super) socket: Option<usize>,
    /// The directory that was made for it.
    pub(super) directory: Option<PathBuf>,
}

impl Own {
    /// Makes one. `taken` are the ports that other copies were given. May block on the disk.
    pub(super) fn make(
        kind: Private,
        files: &Files,
        user: Option<&User>,
        taken: &[u16],
    ) -> Result<Self, String> {
        match kind {
            Private::Socket => {
                let address = Address::Unix { path: files.socket.clone(), mode: 0o600 };
                let (socket, file) =
                    sockets::listen_unix(&files.socket, 0o600, BACKLOG).map_err(|unbound| unbound.detail)?;
                Ok(Own { address, socket: Some(Arc::new(socket)), file: Some(file), directory: None })
            }
            Private::Path => {
                let directory = files.directory.clone();
                make_directory(&directory, 0o700).map_err(|error| {
                    format!("the directory {} cannot be made: {error}", directory.display())
                })?;
                give(&directory, user)?;
                let address = Address::Unix { path: directory.join("app.sock"), mode: 0o600 };
                Ok(Own { address, socket: None, file: None, directory: Some(directory) })
            }
            Private::Port => {
                let port = free_port(taken).map_err(|error| format!("no free port was found: {error}"))?;
                let address = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
                Ok(Own { address, socket: None, file: None, directory: None })
            }
        }
    }

    /// Its port, if it has one.
    pub(super) fn port(&self) -> Option<u16> {
        match &self.address {
            Address::Tcp(address) => Some(address.port()),
            _ => None,
        }
    }

    /// What is written down of it; `socket` is the place of its socket among the descriptors.
    pub(super) fn save(&self, socket: Option<usize>) -> SavedOwn {
        SavedOwn { address: self.address.clone(), socket, directory: self.directory.clone() }
    }

    /// One that was written down.
    pub(super) fn restore(saved: SavedOwn, socket: Option<Arc<OwnedFd>>) -> Self {
        let file = match (&saved.address, &socket) {
            (Address::Unix { path, .. }, Some(_)) => SocketFile::of(path).ok(),
            _ => None,
        };
        Own { address: saved.address, socket, file, directory: saved.directory }
    }

    /// Nothing of the copy is left: its files are removed.
    pub(super) fn remove(&self) {
        if let Some(file) = &self.file {
            file.remove();
        }
        if let Some(directory) = &self.directory {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// A loopback port on which nobody listens. Somebody else could still take it before the copy does: then the copy fails to
/// bind, and is not ready.
fn free_port(taken: &[u16]) -> io::Result<u16> {
    for _ in 0..PORT_TRIES {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        if !taken.contains(&port) {
            return Ok(port);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_of_its_own_takes_connections_at_once_and_is_removed_with_the_copy() {
        let runtime = tempfile::tempdir().unwrap();
        let place = Place::new(runtime.path(), "test");
        let files = place.files("web", 7, None).unwrap();
        let own = Own::make(Private::Socket, &files, None, &[]).unwrap();
        let Address::Unix { path, .. } = own.address.clone() else { panic!("{own:?}") };
        UnixStream::connect(&path).unwrap();
        own.remove();
        assert!(!path.exists());
        place.remove();
        assert!(!place.own.exists());
    }

    #[test]
    fn a_directory_for_its_path_is_nobody_elses_and_goes_with_all_that_is_in_it() {
        let runtime = tempfile::tempdir().unwrap();
        let files = Place::new(runtime.path(), "test").files("we/b", 1, None).unwrap();
        let own = Own::make(Private::Path, &files, None, &[]).unwrap();
        let Address::Unix { path, .. } = &own.address else { panic!("{own:?}") };
        let directory = path.parent().unwrap();
        assert_eq!(fs::metadata(directory).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(path, "left").unwrap();
        own.remove();
        assert!(!directory.exists());
    }

    #[test]
    fn two_copies_never_get_the_same_port() {
        let first = free_port(&[]).unwrap();
        assert_ne!(free_port(&[first]).unwrap(), first);
    }
}
