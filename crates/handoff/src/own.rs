//! What a process does to itself: keep its memory from others, make room for descriptors, become another program.
//!
//! ```text
//!   exec_in_place:  everything close-on-exec ─▶ but what is kept ─▶ execveat ─┬─▶ (another program, same process)
//!                                                                             └─ failed ─▶ all close-on-exec again
//! ```

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::inherit;
use crate::process::{self, Executable};

/// Keeps this process's memory, in which session keys are, from core dumps and from other processes of the same user
/// (`PR_SET_DUMPABLE`, prctl(2)). A program that is executed in its place is dumpable again.
///
/// # Errors
/// None that is known of.
pub fn undumpable() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// Makes room for `descriptors` open descriptors at once, so that the table has not to grow while they arrive: growing it
/// in a process with threads waits for every one of them, which takes up to a tenth of a second at twenty thousand.
/// Call it before threads are started. What the limit on descriptors (`RLIMIT_NOFILE`) does not allow is left out.
/// Says for how many there is room now.
///
/// # Errors
/// The system is out of memory.
pub fn grow_descriptor_table(descriptors: u32) -> io::Result<u32> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or(u32::MAX, |limit| u32::try_from(limit).unwrap_or(u32::MAX));
    let wanted = descriptors.min(limit);
    let Some(highest) = wanted.checked_sub(1).and_then(|highest| i32::try_from(highest).ok()) else {
        return Ok(0);
    };
    // The table is made as large as the highest number in use needs it, and never shrinks (fcntl(2), F_DUPFD_CLOEXEC).
    // Anything that is open can be duplicated; standard input need not be.
    let (reader, _writer) = io::pipe()?;
    match rustix::io::fcntl_dupfd_cloexec(&reader, highest) {
        Ok(_closed_at_once) => Ok(wanted),
        // All numbers from there on are taken, so it is as large already.
        Err(rustix::io::Errno::MFILE) => Ok(wanted),
        Err(errno) => Err(errno.into()),
    }
}

/// The most descriptors that are kept back, and which part of all that may be open.
const KEPT_BACK: u64 = 64;
const KEPT_BACK_PART: u64 = 8;

/// Whether this process may open as many descriptors as its hard limit allows (`RLIMIT_NOFILE`, getrlimit(2)): all of them, or all but a
/// few that are kept back for what matters more than another connection. What is open stays open. A descriptor that arrives
/// over a socket while there is no room is lost, and with it the message that it belongs to.
///
/// # Errors
/// None that is known of: the hard limit is never exceeded.
pub fn use_all_descriptors(all: bool) -> io::Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    // Without a limit there is nothing to keep back from.
    let Some(most) = limit.maximum else { return Ok(()) };
    let kept_back = if all { 0 } else { KEPT_BACK.min(most / KEPT_BACK_PART) };
    let wanted = Some(most - kept_back);
    if limit.current == wanted {
        return Ok(());
    }
    let limit = rustix::process::Rlimit { current: wanted, maximum: limit.maximum };
    Ok(rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?)
}

/// The soft limit that this process was started with, if it keeps descriptors back for its messages.
static STARTED_WITH: OnceLock<Option<u64>> = OnceLock::new();

/// From now on this process opens as many descriptors as its hard limit allows, but for a few, which are for messages
/// ([`ForMessages`]). What it starts ([`crate::launch`]), and what is executed in its place, has the limit that it was itself started with.
///
/// # Errors
/// As [`use_all_descriptors`].
pub fn keep_descriptors_for_messages() -> io::Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    STARTED_WITH.get_or_init(|| limit.current);
    use_all_descriptors(false)
}

/// What the limit of a program that this process starts is, if it is not this process's own.
pub(crate) fn started_with() -> Option<rustix::process::Rlimit> {
    let current = *STARTED_WITH.get()?;
    let maximum = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    Some(rustix::process::Rlimit { current, maximum })
}

/// How many [`ForMessages`] there are.
static FOR_MESSAGES: Mutex<usize> = Mutex::new(0);

/// As long as one of these lives, descriptors that were kept back may be used: a message with descriptors is received, or
/// read. By any thread: one that starts something meanwhile may be quicker.
#[derive(Debug)]
pub struct ForMessages(());

impl ForMessages {
    /// In a process that keeps none back this changes nothing.
    #[must_use]
    pub fn begin() -> Self {
        Self::change(|count| count + 1);
        Self(())
    }

    fn change(change: impl FnOnce(usize) -> usize) {
        // A number is what it is, whoever panicked.
        let mut count = FOR_MESSAGES.lock().unwrap_or_else(PoisonError::into_inner);
        *count = change(*count);
        if STARTED_WITH.get().is_some() {
            // The hard limit is never exceeded, so nothing can be said against it.
            let _ = use_all_descriptors(*count > 0);
        }
    }
}

impl Drop for ForMessages {
    fn drop(&mut self) {
        Self::change(|count| count.saturating_sub(1));
    }
}

/// Executes `executable` in the place of this program: the process ID, its children, the directory and the signals that
/// are blocked or pending stay; every other thread ends. The next program has the standard streams and the `kept`
/// descriptors, under the same numbers, and no other. Returns only if that failed: then every descriptor but the
/// standard streams is close-on-exec, and nothing else has changed.
///
/// `arguments` begins with the program's name; `environment` is the whole of it.
///
/// # Errors
/// As execve(2): the file cannot be executed, or the system is out of memory; or an argument has a NUL byte.
pub fn exec_in_place(
    executable: &Executable,
    arguments: &[OsString],
    environment: &[(OsString, OsString)],
    kept: &[BorrowedFd<'_>],
) -> io::Error {
    if let Some(limit) = started_with() {
        // It makes its own of it; if this fails, it begins with more than it needs.
        let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
    }
    match prepare_and_exec(executable, arguments, environment, kept) {
        Ok(never) => match never {},
        Err(error) => {
            ForMessages::change(|count| count);
            for descriptor in kept {
                // It was open a moment ago, and setting a flag on an open descriptor does not fail.
                let _ = inherit::set_inheritable(descriptor, false);
            }
            error
        }
    }
}

fn prepare_and_exec(
    executable: &Executable,
    arguments: &[OsString],
    environment: &[(OsString, OsString)],
    kept: &[BorrowedFd<'_>],
) -> io::Result<std::convert::Infallible> {
    let arguments: Vec<CString> =
        arguments.iter().map(|argument| text(argument)).collect::<io::Result<_>>()?;
    let environment: Vec<CString> =
        environment.iter().map(|(name, value)| variable(name, value)).collect::<io::Result<_>>()?;
    process::close_others_on_exec();
    for descriptor in kept {
        inherit::set_inheritable(descriptor, true)?;
    }
    Err(execute(executable.as_fd(), &arguments, &environment))
}

fn text(argument: &OsStr) -> io::Result<CString> {
    CString::new(argument.as_bytes()).map_err(io::Error::from)
}

fn variable(name: &OsStr, value: &OsStr) -> io::Result<CString> {
    let mut both = name.as_bytes().to_vec();
    both.push(b'=');
    both.extend_from_slice(value.as_bytes());
    CString::new(both).map_err(io::Error::from)
}

/// execveat(2). Returns only if it failed.
fn execute(executable: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    let empty = c"";
    // SAFETY: needed because no safe call executes a program by its descriptor. Sound: the two arrays end with a null
    // pointer, everything in them points to NUL-terminated strings that their callers hold until this returns, and the
    // descriptor is borrowed. If it succeeds, nothing of this program is left that could be touched.
    #[allow(unsafe_code, reason = "see above")]
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            executable.as_raw_fd(),
            empty.as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::OwnedFd;
    use std::path::Path;

    use rustix::event::{PollFd, PollFlags, Timespec};

    use crate::process::{Exit, Spawn};

    use super::*;

    /// Says which part a test plays in a process of its own.
    const ROLE: &str = "HANDOVER_TEST_ROLE";

    /// Runs a test of this module once more, in a process of its own in which signals are blocked; gives what it wrote to
    /// standard output.
    fn alone(test: &str) -> Option<String> {
        if std::env::var_os(ROLE).is_some() {
            return None;
        }
        let (mut reader, writer) = io::pipe().unwrap();
        let test = format!("own::tests::{test}");
        let spawn = Spawn {
            executable: &Executable::current().unwrap(),
            arguments: &["test", "--exact", "--nocapture", &test].map(OsString::from),
            environment: &[(ROLE.into(), "1".into())],
            descriptors: &[],
            stdout: Some(writer.as_fd()),
            stderr: None,
            ends_with_thread: false,
        };
        let child = spawn.start().unwrap();
        drop(writer);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
        rustix::event::poll(&mut [PollFd::new(&child, PollFlags::IN)], Some(&limit)).unwrap();
        assert_eq!(child.try_wait().unwrap(), Some(Exit::Code(0)), "{said}");
        Some(said)
    }

    fn shell(script: &str) -> (Executable, Vec<OsString>) {
        let arguments = ["sh", "-c", script].map(OsString::from);
        (Executable::open(Path::new("/bin/sh")).unwrap(), arguments.to_vec())
    }

    #[test]
    fn another_program_in_place_is_the_same_process_with_what_was_kept_and_nothing_else() {
        if let Some(said) =
            alone("another_program_in_place_is_the_same_process_with_what_was_kept_and_nothing_else")
        {
            assert!(said.contains("as it should be"), "{said}");
            return;
        }
        let (kept, _writer) = io::pipe().unwrap();
        let kept = OwnedFd::from(kept);
        // As if it had come from a parent that did not care.
        let (stray, _other) = io::pipe().unwrap();
        inherit::set_inheritable(&stray, true).unwrap();
        let script = format!(
            "test $$ = {} && test -e /proc/self/fd/{} && ! test -e /proc/self/fd/{} && test \"$MINE\" = yes && \
             test -z \"${ROLE}\" && echo as it should be",
            std::process::id(),
            kept.as_raw_fd(),
            stray.as_raw_fd()
        );
        let (executable, arguments) = shell(&script);
        let path = std::env::var_os("PATH").unwrap();
        let environment = [("PATH".into(), path), ("MINE".into(), "yes".into())];
        let error = exec_in_place(&executable, &arguments, &environment, &[kept.as_fd()]);
        panic!("{error}");
    }

    #[test]
    fn a_signal_that_is_blocked_waits_for_the_next_program() {
        if let Some(said) = alone("a_signal_that_is_blocked_waits_for_the_next_program") {
            // What waits for the whole process (proc_pid_status(5)); HUP is the first signal.
            assert!(said.contains("ShdPnd:\t0000000000000001"), "{said}");
            return;
        }
        crate::signals::raise(libc::SIGHUP).unwrap();
        assert!(crate::signals::raise(libc::SIGKILL).is_err());
        let (executable, arguments) = shell("exec cat /proc/self/status");
        let environment = [("PATH".into(), std::env::var_os("PATH").unwrap())];
        panic!("{}", exec_in_place(&executable, &arguments, &environment, &[]));
    }

    #[test]
    fn what_cannot_be_executed_leaves_everything_as_it_was_and_close_on_exec() {
        if alone("what_cannot_be_executed_leaves_everything_as_it_was_and_close_on_exec").is_some() {
            return;
        }
        let (mut reader, kept) = io::pipe().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("text");
        std::fs::write(&path, "text").unwrap();
        let executable = Executable::open(&path).unwrap();
        let error = exec_in_place(&executable, &["text".into()], &[], &[kept.as_fd()]);
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(rustix::io::fcntl_getfd(&kept).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        drop(kept);
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
        let nul = exec_in_place(&executable, &["te\0xt".into()], &[], &[]);
        assert_eq!(nul.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_descriptor_table_grows_to_what_was_asked_for_or_the_limit() {
        if alone("the_descriptor_table_grows_to_what_was_asked_for_or_the_limit").is_some() {
            return;
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let size = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
            line.trim().parse::<u64>().unwrap()
        };
        let wanted = limit.min(5_000);
        let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
        assert_eq!(u64::from(grow_descriptor_table(5_000).unwrap()), wanted);
        assert!(size() >= wanted, "{} of {wanted}", size());
        assert_eq!(std::fs::read_dir("/proc/self/fd").unwrap().count(), before, "nothing is left open");
        assert_eq!(grow_descriptor_table(0).unwrap(), 0);
    }

    #[test]
    fn some_descriptors_are_kept_back_until_they_are_needed() {
        if alone("some_descriptors_are_kept_back_until_they_are_needed").is_some() {
            return;
        }
        let limits = || rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let set = |current, maximum| {
            let limit = rustix::process::Rlimit { current: Some(current), maximum: Some(maximum) };
            rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
        };
        for (most, less) in [(1_024, 960), (80, 70)] {
            set(60, most);
            use_all_descriptors(false).unwrap();
            assert_eq!(limits().current, Some(less));
            let open: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
            assert!(!open.is_empty());
            use_all_descriptors(true).unwrap();
            assert_eq!(limits().current, Some(most));
            drop(std::fs::File::open("/dev/null").unwrap());
            use_all_descriptors(false).unwrap();
            assert!(std::fs::File::open("/dev/null").is_err());
            drop(open);
        }
    }

    #[test]
    fn what_is_kept_back_is_for_messages_and_what_is_started_has_the_limit_that_was_found() {
        if alone("what_is_kept_back_is_for_messages_and_what_is_started_has_the_limit_that_was_found")
            .is_some()
        {
            return;
        }
        let set = |current, maximum| {
            let limit = rustix::process::Rlimit { current: Some(current), maximum: Some(maximum) };
            rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
        };
        set(100, 400);
        keep_descriptors_for_messages().unwrap();
        let open: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        assert!(open.len() > 300, "{}", open.len());
        {
            let _room = ForMessages::begin();
            drop(std::fs::File::open("/dev/null").unwrap());
        }
        assert!(std::fs::File::open("/dev/null").is_err());
        let started = started_with().unwrap();
        assert_eq!((started.current, started.maximum), (Some(100), Some(400)));
    }

    #[test]
    fn no_other_process_of_the_same_user_can_look_into_one_that_is_undumpable() {
        if alone("no_other_process_of_the_same_user_can_look_into_one_that_is_undumpable").is_some() {
            return;
        }
        undumpable().unwrap();
        let behavior = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(behavior, rustix::process::DumpableBehavior::NotDumpable);
    }
}
