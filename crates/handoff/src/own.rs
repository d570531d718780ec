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
    match prepare_and_exec(executable, arguments, environment, kept) {
        Ok(never) => match never {},
        Err(error) => {
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
