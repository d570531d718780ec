//! Making listening sockets, and explaining why one cannot be made.
//!
//! Sockets are bound without `SO_REUSEPORT`, so that a port on which anybody listens is refused instead of
//! silently shared, and with `SO_REUSEADDR`, so that connections of a former owner in `TIME_WAIT` do not matter.

mod owner;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use socket2::{Domain, SockAddr, Socket, Type};

/// Why a listening socket cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Unbound {
    /// The system's error number; 0 if the refusal is ours.
    pub(crate) errno: i32,
    /// One sentence: which address, why, and who holds it where that can be found.
    pub(crate) detail: String,
}

impl Unbound {
    fn new(what: &str, error: &io::Error) -> Self {
        Self { errno: error.raw_os_error().unwrap_or(0), detail: format!("cannot listen on {what}: {error}") }
    }
}

/// A socket file that we made. It is kept open (O_PATH), so that its inode number cannot be given to another file
/// that somebody puts in its place, and the two are never taken for each other.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    file: OwnedFd,
}

impl SocketFile {
    /// Takes hold of the file that `path` leads to now.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// The file at `path`, which was held by this descriptor all the time.
    pub(crate) fn from_descriptor(path: &Path, file: OwnedFd) -> Self {
        Self { path: path.to_owned(), file }
    }

    /// What it is held by.
    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.file
    }

    /// Unlinks the file, unless somebody else's stands there by now.
    pub(crate) fn remove(&self) {
        let there = rustix::fs::lstat(&self.path);
        let ours = rustix::fs::fstat(&self.file);
        if let (Ok(there), Ok(ours)) = (there, ours)
            && (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
        {
            // Nothing is left to do about a failure: the next start replaces a stale socket.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens on an IP address and port; an IPv6 socket takes IPv6 only.
pub(crate) fn listen_tcp(address: SocketAddr, backlog: u32) -> Result<OwnedFd, Unbound> {
    let bound = |address: SocketAddr| -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        Ok(socket)
    };
    let attempt = || -> io::Result<OwnedFd> {
        let mut socket = bound(address)?;
        if address.port() == 0 {
            // Once more by its number, beside the first one, for the kernel to keep the port while it rests.
            let chosen = socket.local_addr()?.as_socket().unwrap_or(address);
            socket = bound(chosen)?;
        }
        socket.listen(backlog_of(backlog))?;
        Ok(socket.into())
    };
    attempt().map_err(|error| explain_tcp(address, &error))
}

/// Could `address` be bound, as far as can be told without binding it?
pub(crate) fn check_tcp(address: SocketAddr) -> Result<(), Unbound> {
    if address.port() == 0 || owner::tcp_occupant(address).is_none() {
        return Ok(());
    }
    Err(explain_tcp(address, &io::Error::from_raw_os_error(rustix::io::Errno::ADDRINUSE.raw_os_error())))
}

fn explain_tcp(address: SocketAddr, error: &io::Error) -> Unbound {
    let mut unbound = Unbound::new(&address.to_string(), error);
    if error.kind() == io::ErrorKind::AddrInUse
        && let Some(occupant) = owner::tcp_occupant(address).or_else(|| owner::dual_stack_occupant(address))
    {
        let place =
            if occupant.address == address { String::new() } else { format!(" as {}", occupant.address) };
        let who = occupant.owner.map_or_else(|| "another process".to_owned(), |owner| owner.to_string());
        unbound.detail.push_str(&format!("; held{place} by {who}"));
    } else if error.kind() == io::ErrorKind::AddrNotAvailable {
        unbound.detail.push_str("; no interface of this machine has that address");
    } else if error.kind() == io::ErrorKind::PermissionDenied && address.port() < 1024 {
        unbound
            .detail
            .push_str("; ports below 1024 need root, CAP_NET_BIND_SERVICE, or a socket from systemd");
    }
    unbound
}

/// Whether two descriptors are of one socket.
pub(crate) fn is_same(one: impl AsFd, other: impl AsFd) -> bool {
    match (rustix::fs::fstat(one), rustix::fs::fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

/// The address that a socket is bound to, as it is shown to people.
pub(crate) fn local_address(socket: impl AsFd) -> Option<String> {
    let address = rustix::net::getsockname(socket).ok()?;
    if let Ok(address) = SocketAddr::try_from(address.clone()) {
        return Some(address.to_string());
    }
    let address = rustix::net::SocketAddrUnix::try_from(address).ok()?;
    match (address.path_bytes(), address.abstract_name()) {
        (Some(path), _) => Some(format!("unix:{}", String::from_utf8_lossy(path))),
        (None, Some(name)) => Some(format!("unix:@{}", String::from_utf8_lossy(name))),
        (None, None) => None,
    }
}

/// Changes how many connections the kernel keeps until they are accepted (listen(2) may be called again).
pub(crate) fn set_backlog(socket: impl AsFd, backlog: u32) -> io::Result<()> {
    Ok(rustix::net::listen(socket, backlog_of(backlog))?)
}

/// Makes a listening TCP socket refuse connections, and keep its port: nobody else can listen there meanwhile. What waits
/// in its queue is reset.
pub(crate) fn rest(socket: impl AsFd) -> io::Result<()> {
    // Once more would shut down a socket that does not listen, which lasts: every connection that it accepts when it
    // listens again would come shut down.
    if !rustix::net::sockopt::socket_acceptconn(&socket)? {
        return Ok(());
    }
    rustix::net::sockopt::set_socket_reuseaddr(&socket, false)?;
    Ok(rustix::net::shutdown(socket, rustix::net::Shutdown::Both)?)
}

/// Makes a socket listen again that rested.
pub(crate) fn wake(socket: impl AsFd, backlog: u32) -> io::Result<()> {
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    set_backlog(socket, backlog)
}

/// Listens on a socket file of the given mode. A file that nobody answers on is replaced; anything else that stands
/// there is left alone and the address refused.
pub(crate) fn listen_unix(path: &Path, mode: u32, backlog: u32) -> Result<(OwnedFd, SocketFile), Unbound> {
    check_unix(path)?;
    let attempt = || -> io::Result<(OwnedFd, SocketFile)> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
        // The mode of the descriptor becomes that of the path, less the umask (unix(7)), so that nobody whom the
        // mode keeps out can connect at any moment; what the umask took is given back afterwards.
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => socket.bind(&SockAddr::unix(path)?)?,
        }
        let finish = || -> io::Result<SocketFile> {
            let file = SocketFile::of(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            socket.listen(backlog_of(backlog))?;
            Ok(file)
        };
        let file = finish().inspect_err(|_| {
            let _ = fs::remove_file(path);
        })?;
        Ok((socket.into(), file))
    };
    attempt().map_err(|error| Unbound::new(&format!("unix:{}", path.display()), &error))
}

/// Could `path` be bound, as far as can be told without binding it?
pub(crate) fn check_unix(path: &Path) -> Result<(), Unbound> {
    let refuse = |errno: rustix::io::Errno, why: &str| {
        let what = path.display();
        Err(Unbound { errno: errno.raw_os_error(), detail: format!("cannot listen on unix:{what}: {why}") })
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => refuse(
                rustix::io::Errno::NOENT,
                &format!("the directory {} does not exist", parent.display()),
            ),
            _ => Ok(()),
        },
        Err(error) => Err(Unbound::new(&format!("unix:{}", path.display()), &error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            refuse(rustix::io::Errno::EXIST, "a file that is no socket stands there")
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            _ => refuse(rustix::io::Errno::ADDRINUSE, "another process listens there"),
        },
    }
}

/// Listens on a name in the abstract namespace (unix(7)), given without its leading NUL byte.
pub(crate) fn listen_abstract(name: &str, backlog: u32) -> Result<OwnedFd, Unbound> {
    let attempt = || -> io::Result<OwnedFd> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
        socket.bind(&SockAddr::unix(format!("\0{name}"))?)?;
        socket.listen(backlog_of(backlog))?;
        Ok(socket.into())
    };
    attempt().map_err(|error| Unbound::new(&format!("unix:@{name}"), &error))
}

/// Could the abstract name be bound, as far as can be told without binding it?
pub(crate) fn check_abstract(name: &str) -> Result<(), Unbound> {
    let taken =
        UnixAddr::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address)).is_ok();
    if !taken {
        return Ok(());
    }
    let errno = rustix::io::Errno::ADDRINUSE.raw_os_error();
    Err(Unbound { errno, detail: format!("cannot listen on unix:@{name}: another process listens there") })
}

fn backlog_of(backlog: u32) -> i32 {
    i32::try_from(backlog).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_port_in_use_is_refused_and_its_holder_named() {
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        for unbound in [listen_tcp(address, 8).unwrap_err(), check_tcp(address).unwrap_err()] {
            assert_eq!(unbound.errno, rustix::io::Errno::ADDRINUSE.raw_os_error());
            assert!(unbound.detail.contains(&format!("(pid {})", std::process::id())), "{unbound}");
        }
    }

    #[test]
    fn a_port_shared_by_a_foreign_process_is_refused_not_joined() {
        let foreign = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        foreign.set_reuse_port(true).unwrap();
        foreign.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        foreign.listen(8).unwrap();
        let address = foreign.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(listen_tcp(address, 8).unwrap_err().errno, rustix::io::Errno::ADDRINUSE.raw_os_error());
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (socket, file) = listen_unix(&path, 0o600, 8).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(listen_unix(&path, 0o600, 8).unwrap_err().detail.contains("another process listens"));
        drop(socket);
        file.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_file_that_another_owner_put_there_is_not_unlinked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.sock");
        let (old, file) = listen_unix(&path, 0o600, 8).unwrap();
        drop(old);
        let (_new, _) = listen_unix(&path, 0o600, 8).unwrap();
        file.remove();
        assert!(path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious.txt");
        fs::write(&path, "mine").unwrap();
        assert!(listen_unix(&path, 0o600, 8).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn an_abstract_name_in_use_is_refused() {
        let name = format!("handover-test-{}", std::process::id());
        let held = listen_abstract(&name, 8).unwrap();
        assert!(check_abstract(&name).is_err());
        assert!(listen_abstract(&name, 8).is_err());
        drop(held);
        assert_eq!(check_abstract(&name), Ok(()));
    }
}
