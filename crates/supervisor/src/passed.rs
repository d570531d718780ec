//! Sockets that the service manager passed, and which listener gets which.
//!
//! | a passed socket | and a listener of the generation | |
//! |---|---|---|
//! | has its address | | is that listener's; of several with one address (`SO_REUSEPORT`), the one with its name |
//! | has its name | with the same IP address and port 0 | is that listener's: the manager has chosen the port |
//! | has its name | at another address, or is no stream socket | the generation is refused |
//! | has neither | | nobody's |
//! | was put into the manager's store for this listener by an earlier supervisor (`systemd/store.rs`) | | is that listener's, before all others |
//!
//! A name is the manager's `FileDescriptorName=` and the listener's name in the configuration. Refused, because
//! two files contradict each other and neither guess is safe: to serve where the configuration does not say could
//! show the world what was meant for the loopback, and to bind the configured address would leave clients
//! of the passed one waiting in a queue that nobody looks at.
//!
//! A socket from the store is the server's own again, as if it had never let go of it: it rests, and its path is unlinked,
//! as those that the server has bound.
//!
//! What nobody wants when the server has started is said and closed. What a later generation does without is
//! kept: the next one may want it back, and could not bind it, because the manager holds it too.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::sync::Arc;

use handover_handoff::inherit::{Inherited, STORED_PREFIX};
use rustix::io::Errno;
use rustix::net::SocketType;

use crate::protocol::{Address, ListenerSpec};
use crate::sockets::{self, SocketFile, Unbound};
use crate::systemd;

/// A socket from the service manager.
#[derive(Debug)]
pub(crate) struct Passed {
    /// Where it listens.
    pub(crate) address: String,
    /// Its name (`FileDescriptorName=`; without one, systemd gives that of the unit).
    pub(crate) name: String,
    /// The socket.
    pub(crate) socket: Arc<OwnedFd>,
    is_stream: bool,
}

/// `web (127.0.0.1:8080)`.
impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_stream { "" } else { ", no stream socket" };
        write!(f, "{} ({}{kind})", self.name, self.address)
    }
}

impl Passed {
    pub(crate) fn new(inherited: Inherited) -> Self {
        let Inherited { name, socket } = inherited;
        // Workers accept without blocking; a manager passes blocking sockets unless told otherwise.
        if let Err(error) = rustix::io::ioctl_fionbio(&socket, true) {
            tracing::warn!("cannot set the socket {name} from the service manager non-blocking: {error}");
        }
        Self::of(name, Arc::new(socket))
    }

    /// One that was taken up before, by another image of this process.
    pub(crate) fn of(name: String, socket: Arc<OwnedFd>) -> Self {
        let address = sockets::local_address(&socket).unwrap_or_default();
        let is_stream = rustix::net::sockopt::socket_type(&socket) == Ok(SocketType::STREAM);
        Passed { address, name, socket, is_stream }
    }

    /// Whether `other` is a descriptor of the same socket.
    pub(crate) fn is(&self, other: impl AsFd) -> bool {
        sockets::is_same(&*self.socket, other)
    }

    /// Whether it comes from the manager's store, where an earlier supervisor has put it.
    pub(crate) fn is_stored(&self) -> bool {
        self.name.starts_with(STORED_PREFIX)
    }

    /// Its path in the file system, if it is for this server to unlink.
    pub(crate) fn file(&self, spec: &ListenerSpec) -> Option<SocketFile> {
        match &spec.address {
            Address::Unix { path, .. } if self.is_stored() => SocketFile::of(path).ok(),
            _ => None,
        }
    }

    /// Whether it can be reached where the listener is to be: the path of a stored one may be gone, with its directory.
    fn is_reachable(&self, spec: &ListenerSpec) -> bool {
        match &spec.address {
            Address::Unix { path, .. } if self.is_stored() => {
                std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
            }
            _ => true,
        }
    }

    fn was_stored_for(&self, spec: &ListenerSpec) -> bool {
        self.is_stream && self.name == systemd::name_of(spec) && self.is_reachable(spec)
    }

    fn fits(&self, spec: &ListenerSpec) -> bool {
        let is_there = self.address == spec.address.to_string() && self.is_reachable(spec);
        self.is_stream && (is_there || self.has_chosen_the_port_of(spec))
    }

    fn has_chosen_the_port_of(&self, spec: &ListenerSpec) -> bool {
        let Address::Tcp(wanted) = &spec.address else { return false };
        let own = self.address.parse::<std::net::SocketAddr>();
        self.name == spec.name && wanted.port() == 0 && own.is_ok_and(|own| own.ip() == wanted.ip())
    }
}

/// The socket that was passed for `spec`, which is one of `all` listeners of a generation.
pub(crate) fn passed_for<'a>(
    spec: &ListenerSpec,
    all: &[ListenerSpec],
    passed: &'a [Arc<Passed>],
) -> Result<Option<&'a Arc<Passed>>, Unbound> {
    if let Some(stored) = passed.iter().find(|passed| passed.was_stored_for(spec)) {
        return Ok(Some(stored));
    }
    let fitting = || passed.iter().filter(|passed| passed.fits(spec));
    if let Some(found) = fitting().find(|passed| passed.name == spec.name).or_else(|| fitting().next()) {
        return Ok(Some(found));
    }
    let named = passed.iter().find(|passed| passed.name == spec.name);
    match named.filter(|passed| !all.iter().any(|spec| passed.fits(spec))) {
        None => Ok(None),
        Some(other) => Err(Unbound {
            errno: Errno::INVAL.raw_os_error(),
            detail: format!(
                "cannot listen on {}: for the listener {} the service manager passed the socket {other}; give both \
                 the same address, or one of them another name",
                spec.address, spec.name
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use super::*;

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    fn passed(name: &str) -> (Arc<Passed>, SocketAddr) {
        let socket = TcpListener::bind(any()).unwrap();
        let address = socket.local_addr().unwrap();
        (Arc::new(Passed::new(Inherited { name: name.to_owned(), socket: socket.into() })), address)
    }

    fn spec(name: &str, address: SocketAddr) -> ListenerSpec {
        ListenerSpec { name: name.to_owned(), address: Address::Tcp(address), backlog: 16 }
    }

    fn name_for(
        spec: &ListenerSpec,
        all: &[ListenerSpec],
        passed: &[Arc<Passed>],
    ) -> Result<String, Unbound> {
        passed_for(spec, all, passed).map(|found| found.map(|p| p.name.clone()).unwrap_or_default())
    }

    #[test]
    fn of_two_sockets_with_one_address_each_listener_gets_the_one_with_its_name() {
        let shared = |name: &str, at: SocketAddr| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&at.into()).unwrap();
            socket.listen(8).unwrap();
            let at = socket.local_addr().unwrap().as_socket().unwrap();
            (Arc::new(Passed::new(Inherited { name: name.to_owned(), socket: socket.into() })), at)
        };
        let (first, address) = shared("first", any());
        let both = [first, shared("second", address).0];
        for name in ["first", "second"] {
            assert_eq!(name_for(&spec(name, address), &[], &both).as_deref(), Ok(name));
        }
        assert_eq!(name_for(&spec("third", address), &[], &both).as_deref(), Ok("first"), "by address");
    }

    #[test]
    fn a_socket_from_the_store_is_its_listeners_whatever_port_the_kernel_has_chosen() {
        let wanted = spec("web", any());
        let (stored, _) = passed(&systemd::name_of(&wanted));
        assert!(stored.is_stored());
        let sockets = [passed("web").0, stored];
        assert_eq!(name_for(&wanted, &[], &sockets).unwrap(), systemd::name_of(&wanted));
        assert_eq!(name_for(&spec("api", any()), &[], &sockets).as_deref(), Ok(""));
    }

    #[test]
    fn a_stored_socket_whose_path_is_gone_is_bound_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.sock");
        let wanted = ListenerSpec {
            name: "app".to_owned(),
            address: Address::Unix { path: path.clone(), mode: 0o600 },
            backlog: 16,
        };
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let name = systemd::name_of(&wanted);
        let stored = [Arc::new(Passed::new(Inherited { name: name.clone(), socket: socket.into() }))];
        assert_eq!(name_for(&wanted, &[], &stored).as_deref(), Ok(name.as_str()));
        assert!(stored[0].file(&wanted).is_some(), "its path is the server's own again");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(name_for(&wanted, &[], &stored).as_deref(), Ok(""));
    }

    #[test]
    fn a_name_that_fits_decides_the_port_where_the_configuration_leaves_it_open() {
        let sockets = [passed("web").0];
        assert_eq!(name_for(&spec("web", any()), &[], &sockets).as_deref(), Ok("web"));
        assert_eq!(name_for(&spec("api", any()), &[], &sockets).as_deref(), Ok(""));
    }

    #[test]
    fn a_name_at_another_address_or_of_another_family_is_refused_and_both_are_named() {
        let (socket, address) = passed("web");
        let sockets = [socket];
        for elsewhere in ["127.0.0.2:1", "[::1]:0", "0.0.0.0:0"] {
            let wanted = spec("web", elsewhere.parse().unwrap());
            let refused = name_for(&wanted, std::slice::from_ref(&wanted), &sockets).unwrap_err().detail;
            assert!(refused.contains(elsewhere) && refused.contains(&address.to_string()), "{refused}");
        }
        // One listener with two addresses, of which one is passed, and a socket that another listener wants.
        let (more, here) = (spec("web", "127.0.0.2:1".parse().unwrap()), spec("web", address));
        assert_eq!(name_for(&more, &[here, more.clone()], &sockets).as_deref(), Ok(""));
        assert_eq!(name_for(&more, &[spec("api", address), more.clone()], &sockets).as_deref(), Ok(""));
    }

    #[test]
    fn a_socket_of_another_type_is_never_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("packets");
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::SEQPACKET, None).unwrap();
        socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(8).unwrap();
        let sockets = [Arc::new(Passed::new(Inherited { name: "app".to_owned(), socket: socket.into() }))];
        let at = |name: &str| ListenerSpec {
            name: name.to_owned(),
            address: Address::Unix { path: path.clone(), mode: 0o600 },
            backlog: 16,
        };
        assert_eq!(name_for(&at("other"), &[], &sockets).as_deref(), Ok(""));
        assert!(name_for(&at("app"), &[], &sockets).unwrap_err().detail.contains("no stream socket"));
    }
}
