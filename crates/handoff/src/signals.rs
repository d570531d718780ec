//! Signals that a managed process must survive, and a descriptor to read them from.
//!
//! A worker is told what to do over its channel, never by signals; but `killall -HUP` and a service
//! manager that signals a whole control group reach it all the same. So it is started with
//! [`MANAGED`] blocked: a stray one stays pending and harms nothing. A worker that wants to know of them (one
//! whose supervisor is gone, say) reads them from [`Signals`].
//!
//! Blocked, rather than ignored: programs that a worker starts through [`std::process::Command`] get an empty
//! mask, but would inherit what is ignored, and then could not be ended by TERM.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// The signals that a managed process does not take from just anybody.
pub const MANAGED: [i32; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

/// The name of a signal that a process may end by, or be sent, without `SIG`.
#[must_use]
pub fn name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "HUP",
        libc::SIGINT => "INT",
        libc::SIGQUIT => "QUIT",
        libc::SIGILL => "ILL",
        libc::SIGTRAP => "TRAP",
        libc::SIGABRT => "ABRT",
        libc::SIGBUS => "BUS",
        libc::SIGFPE => "FPE",
        libc::SIGKILL => "KILL",
        libc::SIGUSR1 => "USR1",
        libc::SIGSEGV => "SEGV",
        libc::SIGUSR2 => "USR2",
        libc::SIGPIPE => "PIPE",
        libc::SIGALRM => "ALRM",
        libc::SIGTERM => "TERM",
        libc::SIGXCPU => "XCPU",
        libc::SIGXFSZ => "XFSZ",
        libc::SIGSYS => "SYS",
        _ => return None,
    })
}

fn managed_set() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: needed because a signal set can only be built by the C library. Sound: `sigemptyset` initialises
    // the whole set, and the signals are constants that exist on Linux, so that neither call can fail.
    #[allow(unsafe_code, reason = "see above")]
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in MANAGED {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Blocks [`MANAGED`] in the calling thread and the threads and programs it starts from now on. Makes system
/// calls only, so that it may be called between fork and exec.
///
/// # Errors
/// None that is known of.
pub fn block_managed() -> io::Result<()> {
    change_mask(libc::SIG_BLOCK)
}

/// Takes [`MANAGED`] again, in the calling thread: what waited meanwhile arrives. A program that was executed in the place of
/// another one begins with the signals blocked that were blocked then (execve(2)).
///
/// # Errors
/// None that is known of.
pub fn unblock_managed() -> io::Result<()> {
    change_mask(libc::SIG_UNBLOCK)
}

fn change_mask(how: libc::c_int) -> io::Result<()> {
    let set = managed_set();
    // SAFETY: needed because no safe call sets a thread's mask. Sound: `set` is initialised and outlives the
    // call; a null pointer for the old mask is allowed (pthread_sigmask(3)).
    #[allow(unsafe_code, reason = "see above")]
    let error = unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Sends one of [`MANAGED`] to this process, to be delivered when a thread takes it.
///
/// # Errors
/// There is no such signal.
pub fn raise(signal: i32) -> io::Result<()> {
    let signal = MANAGED.into_iter().find(|managed| *managed == signal);
    let signal =
        signal.and_then(rustix::process::Signal::from_named_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::kill_process(rustix::process::getpid(), signal)?)
}

/// A descriptor from which pending [`MANAGED`] signals can be read (signalfd(2)): readable when there is one.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks [`MANAGED`] in the calling thread and opens the descriptor. Call it before other threads exist.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        block_managed()?;
        let set = managed_set();
        // SAFETY: needed because no safe call creates a signalfd. Sound: -1 asks for a new descriptor, `set` is
        // initialised and outlives the call, and the result is checked before it is taken as owned.
        #[allow(unsafe_code, reason = "see above")]
        let fd = unsafe {
            let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Signals { fd })
    }

    /// The number of the next pending signal (see [`name`]), `None` if there is none now.
    ///
    /// # Errors
    /// As read(2).
    pub fn next(&self) -> io::Result<Option<i32>> {
        // The first field of `struct signalfd_siginfo` is the signal's number.
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.fd, &mut info) {
            Ok(_) => Ok(Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
