//! The sockets that a process has open (`/proc/PID/fd`, proc(5)).
//!
//! ```text
//!   read ──▶ inodes        not permitted ──▶ once more as the process's own user ──▶ inodes │ not permitted
//! ```
//!
//! Who may look at another process is decided as for ptrace(2): the same user, or whoever has CAP_SYS_PTRACE, which root has not
//! in a container or under a hardened unit. But whoever may start programs as other users may look as one of them: a thread does
//! it, whose credentials are its own, and then ends.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::thread;

use rustix::fs::{Gid, Uid};

/// Descriptors of one process that are looked at.
const MAX_DESCRIPTORS: usize = 1_000_000;

/// The inodes of its sockets; none if it has ended.
///
/// # Errors
/// It may not be looked at.
pub(super) fn sockets_of(pid: u32) -> io::Result<Vec<u64>> {
    match read(pid) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => as_its_user(pid).map_err(|_| error),
        result => result,
    }
}

fn read(pid: u32) -> io::Result<Vec<u64>> {
    let entries = match std::fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut inodes = Vec::new();
    for entry in entries.take(MAX_DESCRIPTORS) {
        let target = match entry.and_then(|entry| std::fs::read_link(entry.path())) {
            Ok(target) => target,
            // Closed meanwhile, or the process has ended.
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        let socket = target.to_str().and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']'));
        inodes.extend(socket.and_then(|inode| inode.parse::<u64>().ok()));
    }
    Ok(inodes)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// In a thread that takes the user and group that the process runs as, as far as it may.
fn as_its_user(pid: u32) -> io::Result<Vec<u64>> {
    let owner = std::fs::metadata(format!("/proc/{pid}"))?;
    let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    let look = move || {
        // These system calls are about the calling thread only (setresuid(2), "C library/kernel differences"); the user comes last,
        // since it may not change groups.
        rustix::thread::set_thread_res_gid(None, gid, None)?;
        rustix::thread::set_thread_res_uid(None, uid, None)?;
        read(pid)
    };
    let thread = thread::Builder::new().name("looking".to_owned()).spawn(look)?;
    thread.join().map_err(|_| io::Error::other("the thread that looked has failed"))?
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    use handover_testkit::root;

    use super::*;

    #[test]
    fn the_sockets_of_another_users_process_are_seen_without_the_right_to_trace_it() {
        if !root("the_sockets_of_another_users_process_are_seen_without_the_right_to_trace_it") {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
        let (until, keep) = io::pipe().unwrap();
        let mut child = Command::new("sh");
        child.args(["-c", "read line <&2 || true"]).stdin(std::os::fd::OwnedFd::from(listener));
        let mut child = child.stdout(Stdio::null()).stderr(until).uid(65_534).gid(65_534).spawn().unwrap();
        let pid = child.id();
        // As in a container: root without CAP_SYS_PTRACE. Of this thread only.
        let looked = thread::spawn(move || {
            let without =
                rustix::thread::CapabilitySet::SYS_PTRACE | rustix::thread::CapabilitySet::DAC_READ_SEARCH;
            let mut sets = rustix::thread::capabilities(None).unwrap();
            sets.effective -= without;
            sets.permitted -= without;
            rustix::thread::set_capabilities(None, sets).unwrap();
            (read(pid).map_err(|error| error.kind()), sockets_of(pid).unwrap())
        });
        let (plainly, found) = looked.join().unwrap();
        assert_eq!(plainly, Err(io::ErrorKind::PermissionDenied), "or this tests nothing");
        assert!(found.contains(&inode), "{found:?}");
        // The thread that is left is who it was.
        assert!(rustix::process::geteuid().is_root());
        drop(keep);
        child.wait().unwrap();
        assert_eq!(sockets_of(pid).unwrap(), Vec::<u64>::new());
    }
}
