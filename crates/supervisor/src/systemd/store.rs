//! The listening sockets in the service manager's store (sd_pid_notify_with_fds(3), `FDSTORE=1`): they stay open although
//! every process of the unit is killed, and are passed to the next start among `LISTEN_FDS`.
//!
//! ```text
//!   serves ──▶ FDSTORE=1, FDNAME=handover-…          the unit dies ──▶ LISTEN_FDS ──▶ passed.rs: the same socket again
//!   let go ──▶ FDSTOREREMOVE=1, FDNAME=handover-…    the server stops ─▶ removed: who connects is refused
//! ```
//!
//! Only what serves is stored: a socket that rests would come back as one that does not listen. The name says which
//! listener it is for, whatever port the kernel has chosen; it is a digest, because a name may not have every character.
//! `FDPOLL=0`: the manager must not take a socket out by itself because something happened on it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use handover_handoff::inherit::STORED_PREFIX;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};

use crate::protocol::{Address, ListenerSpec};
use crate::sockets;

/// Hexadecimal digits of the digest in a name.
const DIGITS: usize = 16;
/// The environment variable with the manager's socket (sd_notify(3)).
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// What is in the store, as far as this process knows.
#[derive(Debug, Default)]
pub(crate) struct FdStore {
    stored: BTreeMap<String, Arc<OwnedFd>>,
}

/// The name under which a listener's socket is stored: the same for the same listener in every process.
pub(crate) fn name_of(spec: &ListenerSpec) -> String {
    let place = match &spec.address {
        // Its mode may change, and it stays the same socket.
        Address::Unix { path, .. } => format!("unix:{}", path.display()),
        other => other.to_string(),
    };
    let digest = blake3::hash(format!("{}\0{place}", spec.name).as_bytes()).to_hex();
    let digits: String = digest.as_str().chars().take(DIGITS).collect();
    format!("{STORED_PREFIX}{digits}")
}

/// What must be done so that the store has just this.
#[derive(Debug, Default)]
struct Changes {
    remove: Vec<String>,
    add: Vec<(String, Arc<OwnedFd>)>,
}

impl FdStore {
    /// With what the manager has passed out of it.
    pub(crate) fn new(passed: impl Iterator<Item = (String, Arc<OwnedFd>)>) -> Self {
        Self { stored: passed.filter(|(name, _)| name.starts_with(STORED_PREFIX)).collect() }
    }

    /// Makes the store have what serves, and nothing else of ours.
    pub(crate) fn set(&mut self, serving: impl Iterator<Item = (ListenerSpec, Arc<OwnedFd>)>) {
        let Some(manager) = std::env::var_os(NOTIFY_SOCKET) else { return };
        let changes = self.changes(serving.map(|(spec, socket)| (name_of(&spec), socket)).collect());
        let failed = |error: io::Error| tracing::warn!("cannot tell the service manager's store: {error}");
        for name in changes.remove {
            let text = format!("FDSTOREREMOVE=1\nFDNAME={name}\n");
            send(&manager, &text, None).unwrap_or_else(failed);
        }
        for (name, socket) in changes.add {
            let text = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}\n");
            send(&manager, &text, Some(socket.as_fd())).unwrap_or_else(failed);
        }
    }

    fn changes(&mut self, wanted: BTreeMap<String, Arc<OwnedFd>>) -> Changes {
        let is_wanted = |name: &str, socket: &OwnedFd| {
            wanted.get(name).is_some_and(|wanted| sockets::is_same(&**wanted, socket))
        };
        let before = std::mem::take(&mut self.stored);
        let (stay, go): (BTreeMap<_, _>, BTreeMap<_, _>) =
            before.into_iter().partition(|(name, socket)| is_wanted(name, socket));
        let add = wanted.iter().filter(|(name, _)| !stay.contains_key(*name));
        let changes = Changes {
            remove: go.into_keys().collect(),
            add: add.map(|(name, socket)| (name.clone(), Arc::clone(socket))).collect(),
        };
        self.stored = wanted;
        changes
    }
}

/// Sends one notification, with a descriptor or without.
fn send(manager: &OsStr, text: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let address = match manager.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(path)?,
    };
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    // Not waiting: a manager that does not read must not keep the supervisor.
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg_addr(&socket, &address, &[IoSlice::new(text.as_bytes())], &mut control, flags)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn spec(name: &str, address: &str) -> ListenerSpec {
        ListenerSpec { name: name.to_owned(), address: Address::Tcp(address.parse().unwrap()), backlog: 16 }
    }

    fn socket() -> Arc<OwnedFd> {
        Arc::new(TcpListener::bind("127.0.0.1:0").unwrap().into())
    }

    #[test]
    fn a_name_is_that_of_the_listener_and_has_no_character_that_a_name_may_not_have() {
        let name = name_of(&spec("web:\n\u{e4}", "127.0.0.1:0"));
        assert_eq!(name, name_of(&spec("web:\n\u{e4}", "127.0.0.1:0")));
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{name}");
        assert_ne!(name, name_of(&spec("web", "127.0.0.1:0")));
        assert_ne!(name_of(&spec("web", "127.0.0.1:1")), name_of(&spec("web", "127.0.0.1:2")));
        let unix = |mode| ListenerSpec {
            address: Address::Unix { path: "/a".into(), mode },
            ..spec("a", "[::1]:1")
        };
        assert_eq!(name_of(&unix(0o600)), name_of(&unix(0o660)));
    }

    #[test]
    fn only_what_has_changed_is_told() {
        let (web, api) = (socket(), socket());
        let wanted = |all: &[(&str, &Arc<OwnedFd>)]| {
            all.iter().map(|(name, socket)| ((*name).to_owned(), Arc::clone(socket))).collect()
        };
        let passed = [("handover-old".to_owned(), socket()), ("systemd's".to_owned(), socket())];
        let mut store = FdStore::new(passed.into_iter());
        let changes = store.changes(wanted(&[("web", &web), ("api", &api)]));
        assert_eq!(changes.remove, ["handover-old"], "another one's is left alone");
        assert_eq!(changes.add.len(), 2);
        let same = store.changes(wanted(&[("web", &web), ("api", &api)]));
        assert!(same.remove.is_empty() && same.add.is_empty());
        let other = socket();
        let changes = store.changes(wanted(&[("web", &other)]));
        assert_eq!(
            changes.remove,
            ["api", "web"],
            "of another socket under the same name, the old one goes first"
        );
        assert_eq!(changes.add.len(), 1);
        assert!(sockets::is_same(&*changes.add[0].1, &*other));
    }

    #[test]
    fn the_manager_gets_the_text_and_the_descriptor_by_path_and_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let stored = socket();
        send(path.as_os_str(), "FDSTORE=1\n", Some(stored.as_fd())).unwrap();
        let mut text = [0; 100];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let mut into = [io::IoSliceMut::new(&mut text)];
        let flags = rustix::net::RecvFlags::CMSG_CLOEXEC;
        let received = rustix::net::recvmsg(&manager, &mut into, &mut control, flags).unwrap();
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        for message in control.drain() {
            if let rustix::net::RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        assert_eq!(&text[..received.bytes], b"FDSTORE=1\n");
        assert!(sockets::is_same(&descriptors[0], &*stored));
        let name = format!("handover-test-notify-{}", std::process::id());
        let address =
            <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name);
        let manager = UnixDatagram::bind_addr(&address.unwrap()).unwrap();
        send(OsStr::new(&format!("@{name}")), "FDSTOREREMOVE=1\n", None).unwrap();
        let count = manager.recv(&mut text).unwrap();
        assert_eq!(&text[..count], b"FDSTOREREMOVE=1\n");
    }
}
