//! Who is at the other end of a Unix socket.
//!
//! User, group and process ID come from the kernel (`SO_PEERCRED`, unix(7)) and cannot be forged by the
//! peer. What is read from `/proc` afterwards (the command's name, further groups) may belong to
//! another process if the peer has gone in the meantime and its ID was given out again: good enough for
//! a log, and for groups checked again by nobody with more rights than the peer's own user could have
//! arranged anyway.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};

/// The peer of a connected Unix socket, as it was when the connection was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Process ID, in this process's PID namespace; 0 if it is not visible from here.
    pub pid: u32,
    /// Effective user ID.
    pub uid: u32,
    /// Effective group ID.
    pub gid: u32,
}

impl Peer {
    /// Asks the kernel.
    ///
    /// # Errors
    /// The descriptor is no connected Unix socket.
    pub fn of(socket: impl AsFd) -> std::io::Result<Peer> {
        let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
        // SAFETY: needed because the safe wrapper at hand keeps the process ID in a type that cannot be 0, which
        // it is for a peer outside of this PID namespace. Sound: the kernel writes at most `length` bytes to
        // `credentials`, any value of which is valid, and both outlive the call.
        #[allow(unsafe_code, reason = "see above")]
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut credentials).cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Peer { pid: credentials.pid.unsigned_abs(), uid: credentials.uid, gid: credentials.gid })
    }

    /// The name of the peer's command (`/proc/<pid>/comm`), if it still runs and can be seen.
    #[must_use]
    pub fn command(&self) -> Option<String> {
        command_of(self.pid)
    }

    /// The peer's supplementary groups, its effective one first; only the latter if `/proc` says nothing.
    #[must_use]
    pub fn groups(&self) -> Vec<u32> {
        let mut groups = vec![self.gid];
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        // Its ID may be another process's by now; only one of the same user may speak for it.
        if effective_user(&status) == Some(self.uid) {
            groups.extend(supplementary_groups(&status).filter(|&group| group != self.gid));
        }
        groups
    }
}

/// The name of a process's command, if it runs and can be seen.
#[must_use]
pub fn command_of(pid: u32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name = String::from_utf8_lossy(&name).trim_end().chars().filter(|c| !c.is_control()).collect();
    Some(name)
}

fn effective_user(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn supplementary_groups(status: &str) -> impl Iterator<Item = u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    line.unwrap_or_default().split_ascii_whitespace().filter_map(|group| group.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_kernel_says_who_the_peer_is() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(&ours).unwrap();
        assert_eq!(peer.pid, std::process::id());
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.groups()[0], peer.gid);
        assert!(!peer.command().unwrap().is_empty());
    }

    #[test]
    fn supplementary_groups_are_read_from_the_status_file() {
        let status = "Name:\tcurl\nUid:\t1000\t1000\nGroups:\t4 24 1000 \nNStgid:\t9\n";
        assert_eq!(supplementary_groups(status).collect::<Vec<_>>(), [4, 24, 1000]);
        assert_eq!(supplementary_groups("Groups:\t \n").count(), 0);
        assert_eq!(supplementary_groups("").count(), 0);
        assert_eq!(effective_user(status), Some(1000));
        assert_eq!(effective_user(""), None);
    }

    #[test]
    fn a_process_that_is_gone_has_no_command() {
        // PIDs end at 4,194,304 (proc(5), pid_max).
        assert_eq!(command_of(u32::MAX), None);
    }
}
