//! One question to the kernel about one socket: sock_diag(7).
//!
//! ```text
//!   our end of a connection ─▶ NETLINK_SOCK_DIAG ─▶ the inode of the other end: 0 as long as nobody has accepted it
//! ```
//!
//! It is answered within the system call that asks, and looks for one socket, not through all of them: a table in `/proc/net`
//! with a hundred thousand connections takes a tenth of a second to read.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use super::FarEnd;

/// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR` (netlink(7)).
const ERROR: u16 = 2;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// Bytes of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// Where `idiag_inode` is in an answer about TCP: after the header, four bytes, `struct inet_diag_sockid` and four words.
const TCP_INODE_AT: usize = HEADER_BYTES + 4 + 48 + 16;
/// Where the attributes begin in an answer about Unix sockets: after the header and `struct unix_diag_msg`.
const UNIX_ATTRIBUTES_AT: usize = HEADER_BYTES + 16;
/// `UDIAG_SHOW_PEER` (linux/unix_diag.h).
const SHOW_PEER: u32 = 4;
/// `UNIX_DIAG_PEER`.
const PEER: u16 = 2;
/// `UNIX_DIAG_SHUTDOWN`.
const SHUTDOWN: u16 = 6;
/// `SHUTDOWN_MASK`: closed in both directions.
const BOTH: u8 = 3;
/// `TCP_ESTABLISHED`, `TCP_SYN_RECV` and `TCP_CLOSE_WAIT` (linux/tcp_states.h): whoever accepts or has accepted it can answer.
const OPEN: [u8; 3] = [1, 3, 8];
/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 8192;
/// Any state, and any cookie.
const ANY: u32 = u32::MAX;

/// The far end of the TCP connection between these two, seen from `near`.
///
/// # Errors
/// The kernel does not answer such questions (it lacks `tcp_diag`), or this process may not ask.
pub(super) fn tcp(near: SocketAddr, far: SocketAddr) -> io::Result<FarEnd> {
    let family = if far.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let mut request = vec![family_byte(family), TCP, 0, 0];
    request.extend(ANY.to_ne_bytes());
    // As the far end sees it: its own address comes first.
    request.extend(far.port().to_be_bytes());
    request.extend(near.port().to_be_bytes());
    request.extend(address_bytes(far.ip()));
    request.extend(address_bytes(near.ip()));
    // No interface in particular, and whatever cookie it has.
    request.extend(0_u32.to_ne_bytes());
    request.extend(ANY.to_ne_bytes());
    request.extend(ANY.to_ne_bytes());
    let Some(answer) = ask(&request)? else { return Ok(FarEnd::Gone) };
    let state = *answer.get(HEADER_BYTES + 1).ok_or(io::ErrorKind::InvalidData)?;
    if !OPEN.contains(&state) {
        // It was closed, or all that is found is the socket that listens.
        return Ok(FarEnd::Gone);
    }
    Ok(FarEnd::of(word(&answer, TCP_INODE_AT)?.into()))
}

/// The far end of the Unix socket with this inode.
///
/// # Errors
/// As [`tcp`].
pub(super) fn unix(inode: u64) -> io::Result<FarEnd> {
    let inode = u32::try_from(inode).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut request = vec![family_byte(AddressFamily::UNIX), 0, 0, 0];
    request.extend(ANY.to_ne_bytes());
    request.extend(inode.to_ne_bytes());
    request.extend(SHOW_PEER.to_ne_bytes());
    request.extend(ANY.to_ne_bytes());
    request.extend(ANY.to_ne_bytes());
    let Some(answer) = ask(&request)? else { return Ok(FarEnd::Gone) };
    let mut end = FarEnd::Gone;
    let mut at = UNIX_ATTRIBUTES_AT;
    while let (Ok(length), Ok(kind)) = (half(&answer, at), half(&answer, at + 2)) {
        if kind == PEER {
            end = FarEnd::of(word(&answer, at + 4)?.into());
        } else if kind == SHUTDOWN && answer.get(at + 4) == Some(&BOTH) {
            return Ok(FarEnd::Gone);
        }
        // Attributes are padded to four bytes; none is shorter than its own head.
        at += usize::from(length.max(4)).next_multiple_of(4);
    }
    Ok(end)
}

/// Asks; `None` if there is no such socket.
fn ask(request: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let socket = socket()?;
    let length = HEADER_BYTES + request.len();
    let mut message = Vec::with_capacity(length);
    message.extend(u32::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?.to_ne_bytes());
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    // Its number and the sender: nobody else answers on this socket.
    message.extend([0; 8]);
    message.extend(request);
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = vec![0; MAX_ANSWER_BYTES];
    let (count, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::DONTWAIT)?;
    answer.truncate(count);
    if half(&answer, 4)? != ERROR {
        return Ok(Some(answer));
    }
    let errno = word(&answer, HEADER_BYTES)?.cast_signed().wrapping_neg();
    match Errno::from_raw_os_error(errno) {
        Errno::NOENT => Ok(None),
        errno => Err(errno.into()),
    }
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    Ok(rustix::net::socket_with(family, kind, flags, Some(netlink::SOCK_DIAG))?)
}

/// Families have small numbers (socket(2)), and the request has one byte for it.
fn family_byte(family: AddressFamily) -> u8 {
    u8::try_from(family.as_raw()).unwrap_or_default()
}

/// Sixteen bytes, of which IPv4 uses the first four.
fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            bytes
        }
    }
}

fn word(bytes: &[u8], at: usize) -> io::Result<u32> {
    let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    Ok(u32::from_ne_bytes(bytes.ok_or(io::ErrorKind::InvalidData)?))
}

fn half(bytes: &[u8], at: usize) -> io::Result<u16> {
    let bytes = bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
    Ok(u16::from_ne_bytes(bytes.ok_or(io::ErrorKind::InvalidData)?))
}
