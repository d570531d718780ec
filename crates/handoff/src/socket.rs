//! What the kernel still holds of what was written to a socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes written to a connected socket that its peer has not got yet: for TCP those not yet acknowledged, the end of the
/// stream included as one (`SIOCOUTQ`, tcp(7)); for Unix sockets the memory of what the peer has not read (unix(7)).
///
/// # Errors
/// The descriptor is no such socket.
pub fn unsent_bytes(socket: impl AsFd) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: needed because no safe wrapper at hand has this request. Sound: `TIOCOUTQ`, which is `SIOCOUTQ` for sockets,
    // writes one `int` to the address that it is given, any value of which is valid, and `count` outlives the call.
    #[allow(unsafe_code, reason = "see above")]
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn what_the_peer_takes_is_no_longer_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut far = listener.accept().unwrap().0;
        assert_eq!(unsent_bytes(&near).unwrap(), 0);
        near.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(count) = near.write(&[7; 65_536]) {
            written += count;
        }
        assert!(unsent_bytes(&near).unwrap() > 0);
        let mut all = vec![0; written];
        far.read_exact(&mut all).unwrap();
        // The last acknowledgement may be on its way.
        let deadline = Instant::now() + Duration::from_secs(30);
        while unsent_bytes(&near).unwrap() > 0 {
            assert!(Instant::now() < deadline, "everything was read and something is still counted");
            std::thread::yield_now();
        }
    }

    #[test]
    fn other_descriptors_are_refused() {
        assert!(unsent_bytes(std::fs::File::open("/proc/self/stat").unwrap()).is_err());
    }
}
