//! Messages of a datagram socket, each with the process that has sent it.
//!
//! ```text
//!   any process ── sendmsg ─▶ socket with SO_PASSCRED ── receive ─▶ bytes + process, user and group, by the kernel
//!                                                              └─▶ descriptors that came along: closed at once
//! ```
//!
//! A sender cannot claim to be another process, unless it is privileged to (unix(7), `SCM_CREDENTIALS`): systemd-notify(1)
//! speaks for its parent in that way. It also waits until a descriptor is closed that it has sent (`BARRIER=1`,
//! sd_notify(3)): hence nothing that arrives is kept.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

/// Room for control messages: the credentials, and as many descriptors as a message can have (`SCM_MAX_FD`).
const CONTROL_WORDS: usize = 256;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// What it says.
    pub bytes: Vec<u8>,
    /// Whether it was longer than what was asked for, so that its end is lost.
    pub truncated: bool,
    /// Who has sent it, in this process's PID namespace; 0 if that is not visible from here.
    pub pid: u32,
    /// As which user.
    pub uid: u32,
    /// As which group.
    pub gid: u32,
}

/// Has the kernel say who sends. Messages sent before are without: set it before anybody can know of the socket.
///
/// # Errors
/// It is not a Unix socket.
pub fn ask_for_senders(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_passcred(socket, true)?)
}

/// The next message, of which `limit` bytes are read.
///
/// # Errors
/// `WouldBlock`: there is none, and the socket does not wait. `InvalidData`: it came without its sender (see
/// [`ask_for_senders`]), and is gone. Otherwise as recvmsg(2).
pub fn receive(socket: impl AsFd, limit: usize) -> io::Result<Datagram> {
    let mut bytes = vec![0; limit];
    let mut control = [MaybeUninit::<u64>::uninit(); CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: needed because the structure has private padding on some platforms. Sound: all zero is valid for it.
    #[allow(unsafe_code, reason = "see above")]
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: needed because the safe wrapper at hand keeps the process ID in a type that cannot be 0, which it is for a
    // sender outside of this PID namespace. Sound: every buffer that `message` points to outlives the call and is as
    // long as it says.
    #[allow(unsafe_code, reason = "see above")]
    let count =
        unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let Ok(count) = usize::try_from(count) else { return Err(io::Error::last_os_error()) };
    bytes.truncate(count);
    let sender = sender(&message);
    let Some(libc::ucred { pid, uid, gid }) = sender else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message came without its sender"));
    };
    let truncated = message.msg_flags & libc::MSG_TRUNC != 0;
    Ok(Datagram { bytes, truncated, pid: pid.unsigned_abs(), uid, gid })
}

/// Who has sent a message. Closes the descriptors that came with it.
fn sender(message: &libc::msghdr) -> Option<libc::ucred> {
    let mut sender = None;
    // SAFETY: needed because control messages can only be walked by pointers. Sound: `message` was filled by recvmsg(2),
    // so that its control messages lie one after the other in a buffer that still exists, which is aligned for them and
    // as long as `msg_controllen` says; the macros stay within it. Data is read unaligned, and only as much as the
    // message's length covers. A descriptor in it is new, and nobody's but this function's.
    #[allow(unsafe_code, clippy::unnecessary_cast, reason = "see above; lengths have one type or another")]
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(control) = header.as_ref() {
            let data = libc::CMSG_DATA(header);
            let length = (control.cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
            match (control.cmsg_level, control.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= size_of::<libc::ucred>() => {
                    sender = Some(data.cast::<libc::ucred>().read_unaligned());
                }
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    for at in 0..length / size_of::<RawFd>() {
                        drop(OwnedFd::from_raw_fd(data.cast::<RawFd>().add(at).read_unaligned()));
                    }
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    sender
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

    use super::*;

    fn pair() -> (UnixDatagram, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ask_for_senders(&ours).unwrap();
        (ours, theirs)
    }

    #[test]
    fn the_kernel_says_who_has_sent_a_message() {
        let (ours, theirs) = pair();
        theirs.send(b"READY=1").unwrap();
        let got = receive(&ours, 100).unwrap();
        assert_eq!((&*got.bytes, got.truncated), (&b"READY=1"[..], false));
        assert_eq!((got.pid, got.uid), (std::process::id(), rustix::process::getuid().as_raw()));
    }

    #[test]
    fn a_long_message_is_cut_and_the_next_one_is_whole() {
        let (ours, theirs) = pair();
        theirs.send(&[b'x'; 50]).unwrap();
        theirs.send(b"next").unwrap();
        let got = receive(&ours, 10).unwrap();
        assert_eq!((got.bytes.len(), got.truncated), (10, true));
        assert_eq!(receive(&ours, 10).unwrap().bytes, b"next");
        ours.set_nonblocking(true).unwrap();
        assert_eq!(receive(&ours, 10).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn descriptors_that_come_along_are_closed() {
        let (ours, theirs) = pair();
        let (mut reader, writer) = io::pipe().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let both = [writer.as_fd(), writer.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&both)));
        let said = [io::IoSlice::new(b"BARRIER=1")];
        rustix::net::sendmsg(&theirs, &said, &mut control, SendFlags::empty()).unwrap();
        drop(writer);
        assert_eq!(receive(&ours, 100).unwrap().bytes, b"BARRIER=1");
        // The end comes only when nobody can write any more.
        assert_eq!(io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_message_without_a_sender_is_refused() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.send(b"READY=1").unwrap();
        assert_eq!(receive(&ours, 100).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
