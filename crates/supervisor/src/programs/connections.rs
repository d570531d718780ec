//! Which process has which connection, as the kernel tells it (`/proc/net`, `/proc/PID/fd`, sock_diag(7)).
//!
//! ```text
//!   connection ─ its far end's inode ─▶ open in a process of this copy? ─▶ theirs │ somebody else's │ nobody's yet
//! ```

mod descriptors;
mod diag;
mod tables;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::protocol::Address;

/// Connections that are listed one by one.
pub(crate) const MAX_LISTED: usize = 1000;

/// A connection that a process holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connection {
    /// The process.
    pub(crate) pid: u32,
    /// Its end: `127.0.0.1:8080`, `unix:/run/app.sock`.
    pub(crate) local: String,
    /// The other end; of a Unix socket nothing is known.
    pub(crate) peer: Option<String>,
    /// Whether it was accepted at one of the places that were asked for.
    pub(crate) accepted: bool,
}

/// The connections of some processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Each; of a copy with very many, the first [`MAX_LISTED`].
    pub(crate) listed: Vec<Connection>,
    /// How many there are: over TCP all, over Unix sockets those that were accepted.
    pub(crate) established: u64,
    /// How many of them were accepted at the places that were asked for: what is cut if these processes are killed now.
    pub(crate) accepted: u64,
}

/// What to look for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// The processes of one copy.
    pub(crate) processes: Vec<u32>,
    /// The addresses of its shared and own sockets, as they really are.
    pub(crate) places: Vec<Address>,
}

/// What is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FarEnd {
    /// It waits in the queue.
    Waiting,
    /// It was accepted: the inode of the socket that it became.
    Accepted(u64),
    /// It was closed already.
    Gone,
}

impl FarEnd {
    /// What an inode says: a socket that nobody has accepted has none.
    fn of(inode: u64) -> Self {
        if inode == 0 { Self::Waiting } else { Self::Accepted(inode) }
    }
}

/// The connections of several copies, in the same order; the tables are read once, in a thread of their own: with many
/// connections that takes long.
///
/// # Errors
/// The tables cannot be read (`/proc` is not mounted).
pub(crate) async fn survey(wanted: Vec<Wanted>) -> io::Result<Vec<Survey>> {
    elsewhere(move || {
        let (tcp, unix) = (tables::tcp()?, tables::unix()?);
        let tcp: HashMap<u64, &tables::Tcp> = tcp.iter().map(|one| (one.inode, one)).collect();
        let unix: HashMap<u64, &tables::Unix> = unix.iter().map(|one| (one.inode, one)).collect();
        Ok(wanted.iter().map(|wanted| survey_one(wanted, &tcp, &unix)).collect())
    })
    .await
}

fn survey_one(
    wanted: &Wanted,
    tcp: &HashMap<u64, &tables::Tcp>,
    unix: &HashMap<u64, &tables::Unix>,
) -> Survey {
    let mut survey = Survey::default();
    // A descriptor may be open in several processes: the connection is one.
    let mut seen = HashSet::new();
    for &pid in &wanted.processes {
        // What may not be looked at is not counted.
        for inode in descriptors::sockets_of(pid).unwrap_or_default() {
            let connection = match (tcp.get(&inode), unix.get(&inode)) {
                (Some(tcp), _) => Connection {
                    pid,
                    local: tcp.local.to_string(),
                    peer: Some(tcp.peer.to_string()),
                    accepted: wanted.places.iter().any(|place| is_tcp_at(place, tcp.local)),
                },
                (None, Some(unix)) => Connection {
                    pid,
                    local: format!("unix:{}", unix.path),
                    peer: None,
                    accepted: wanted.places.iter().any(|place| is_unix_at(place, &unix.path)),
                },
                (None, None) => continue,
            };
            if !seen.insert(inode) {
                continue;
            }
            survey.established += 1;
            survey.accepted += u64::from(connection.accepted);
            if survey.listed.len() < MAX_LISTED {
                survey.listed.push(connection);
            }
        }
    }
    survey
}

/// How many connections there are at these addresses, whoever holds them, those that wait to be accepted included.
///
/// # Errors
/// As [`survey`].
pub(crate) async fn established_on(places: Vec<Address>) -> io::Result<u64> {
    elsewhere(move || {
        let mut count = 0;
        if places.iter().any(|place| matches!(place, Address::Tcp(_))) {
            let at = |one: &&tables::Tcp| places.iter().any(|place| is_tcp_at(place, one.local));
            count += tables::tcp()?.iter().filter(at).count();
        }
        if places.iter().any(|place| !matches!(place, Address::Tcp(_))) {
            let at = |one: &&tables::Unix| places.iter().any(|place| is_unix_at(place, &one.path));
            count += tables::unix()?.iter().filter(at).count();
        }
        Ok(u64::try_from(count).unwrap_or(u64::MAX))
    })
    .await
}

/// The connections at these addresses that nobody has accepted yet, by their far ends; those over Unix sockets, which have no
/// names, by numbers from 0.
///
/// # Errors
/// As [`survey`].
pub(crate) async fn waiting_at(places: Vec<Address>) -> io::Result<BTreeSet<String>> {
    elsewhere(move || {
        let mut waiting = BTreeSet::new();
        for place in &places {
            if matches!(place, Address::Tcp(_)) {
                let here = |one: &tables::Tcp| one.inode == 0 && is_tcp_at(place, one.local);
                waiting.extend(tables::tcp()?.iter().filter(|one| here(one)).map(|one| one.peer.to_string()));
            } else {
                let here = |one: &tables::Unix| one.inode == 0 && is_unix_at(place, &one.path);
                let count = tables::unix()?.iter().filter(|one| here(one)).count();
                waiting.extend((0..count).map(|number| format!("{place} {number}")));
            }
        }
        Ok(waiting)
    })
    .await
}

/// Whether a TCP connection at these addresses has ended within `time`, as far as the kernel remembers: it does where one end
/// of it on this machine was closed first.
///
/// # Errors
/// As [`survey`].
pub(crate) async fn ended_within(places: Vec<Address>, time: Duration) -> io::Result<bool> {
    elsewhere(move || {
        if !places.iter().any(|place| matches!(place, Address::Tcp(_))) {
            return Ok(false);
        }
        let at = |one: &tables::Tcp| {
            places.iter().any(|place| is_tcp_at(place, one.local) || is_tcp_at(place, one.peer))
        };
        Ok(tables::closed()?.iter().any(|(one, since)| *since < time && at(one)))
    })
    .await
}

/// Runs what reads much in a thread where that holds up nobody.
async fn elsewhere<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// The far end of a TCP connection that this process has made.
///
/// # Errors
/// The kernel's tables cannot be read.
pub(crate) fn far_end_tcp(near: SocketAddr, far: SocketAddr) -> io::Result<FarEnd> {
    if let Ok(end) = diag::tcp(near, far) {
        return Ok(end);
    }
    // A kernel without tcp_diag, or one that lets nobody ask.
    let found = tables::tcp()?.into_iter().find(|one| one.local == far && plain(one.peer) == near);
    Ok(found.map_or(FarEnd::Gone, |one| FarEnd::of(one.inode)))
}

/// The far end of a connection over a Unix socket, whose near end has this inode.
///
/// # Errors
/// The kernel has no `unix_diag`: only that tells which socket belongs to which.
pub(crate) fn far_end_unix(near: u64) -> io::Result<FarEnd> {
    diag::unix(near)
}

/// Whether one of these processes holds a connection that was accepted at this address, whoever has made it.
///
/// # Errors
/// The kernel's tables cannot be read, or some of the processes may not be looked at.
pub(crate) fn has_accepted_at(processes: &[u32], place: &Address) -> io::Result<Option<u32>> {
    let accepted: HashSet<u64> = match place {
        Address::Tcp(_) => {
            tables::tcp()?.iter().filter(|one| is_tcp_at(place, one.local)).map(|one| one.inode).collect()
        }
        _ => tables::unix()?.iter().filter(|one| is_unix_at(place, &one.path)).map(|one| one.inode).collect(),
    };
    first(processes, |inodes| inodes.iter().any(|inode| *inode != 0 && accepted.contains(inode)))
}

/// Which of these processes has the socket with this inode open.
///
/// # Errors
/// None of those that may be looked at, and some may not be.
pub(crate) fn holder(processes: &[u32], inode: u64) -> io::Result<Option<u32>> {
    first(processes, |inodes| inodes.contains(&inode))
}

/// The first process whose sockets are such.
fn first(processes: &[u32], is: impl Fn(&[u64]) -> bool) -> io::Result<Option<u32>> {
    let mut unseen = None;
    for &pid in processes {
        match descriptors::sockets_of(pid) {
            Ok(inodes) if is(&inodes) => return Ok(Some(pid)),
            Ok(_) => {}
            Err(error) => unseen = Some(error),
        }
    }
    unseen.map_or(Ok(None), Err)
}

/// Whether a connection with this local address was accepted there.
fn is_tcp_at(place: &Address, local: SocketAddr) -> bool {
    let Address::Tcp(address) = place else { return false };
    let local = plain(local);
    address.port() == local.port()
        && match (address.ip(), local.ip()) {
            (IpAddr::V4(any), IpAddr::V4(_)) if any.is_unspecified() => true,
            // A program that binds itself may take both families on one socket.
            (IpAddr::V6(any), _) if any.is_unspecified() => true,
            (one, other) => one == other,
        }
}

/// An IPv4 address that is written as one of IPv6 (`::ffff:127.0.0.1`), as itself.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn is_unix_at(place: &Address, path: &str) -> bool {
    match place {
        Address::Tcp(_) => false,
        Address::Unix { path: bound, .. } => bound.to_str() == Some(path),
        Address::Abstract(name) => path.strip_prefix('@') == Some(name),
    }
}

#[cfg(test)]
mod tests;
