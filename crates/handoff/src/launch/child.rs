//! The new process's side of a launch: what happens between fork and execve.
//!
//! ```text
//!   signals default ─▶ setsid ─▶ cgroup.procs ─▶ all close-on-exec ─▶ copies above all targets ─▶ placed
//!                   ─▶ RLIMIT_NOFILE ─▶ umask, groups, user ─▶ chdir ─▶ own ID written ─▶ mask empty ─▶ execve
//! ```
//!
//! Other threads of this process may have held any lock when it was forked, also the allocator's. So nothing here
//! allocates, locks or unwinds: only system calls, on memory that was prepared before.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid};

use super::Doing;

/// The highest signal (`_NSIG` of the kernel).
const SIGNALS: libc::c_int = 64;
/// The size of the kernel's signal set.
const SIGNAL_SET_BYTES: usize = 8;
/// Digits of the greatest process ID, and one more.
const PID_DIGITS: usize = 11;
/// Descriptors up to this one are made close-on-exec one by one where the kernel cannot do it at once.
const HIGHEST: RawFd = 65_536;
/// What a process ends with that did not come to its program; nobody looks.
const NO_PROGRAM: libc::c_int = 127;

/// NUL-terminated texts, and the array of pointers to them that execve(2) takes.
#[derive(Debug)]
pub(super) struct Texts {
    texts: Vec<Vec<u8>>,
    /// Empty, with room for all; filled in the new process.
    pointers: Vec<*const libc::c_char>,
    /// The text that ends with the process ID, and where that begins in it.
    pid: Option<(usize, usize)>,
}

impl Texts {
    /// `None` if there is a NUL byte in one.
    pub(super) fn new(mut texts: Vec<Vec<u8>>) -> Option<Self> {
        if texts.iter().any(|text| text.contains(&0)) {
            return None;
        }
        texts.iter_mut().for_each(|text| text.push(0));
        // One more for the process ID, and one for the end.
        let pointers = Vec::with_capacity(texts.len() + 2);
        Some(Texts { texts, pointers, pid: None })
    }

    /// A variable that will have the new process's ID.
    pub(super) fn push_pid(&mut self, name: &[u8]) {
        let mut text = [name, b"="].concat();
        self.pid = Some((self.texts.len(), text.len()));
        text.resize(text.len() + PID_DIGITS, 0);
        self.texts.push(text);
    }

    /// The array. Allocates nothing.
    fn fill(&mut self) -> *const *const libc::c_char {
        if let Some(digits) = self.pid.and_then(|(at, from)| self.texts.get_mut(at)?.get_mut(from..)) {
            write_number(digits, rustix::process::getpid().as_raw_nonzero().get().unsigned_abs());
        }
        self.pointers.clear();
        let all = self.texts.iter().map(|text| text.as_ptr().cast());
        for pointer in all.chain([std::ptr::null()]) {
            // There is room: see `new`.
            if self.pointers.len() < self.pointers.capacity() {
                self.pointers.push(pointer);
            }
        }
        self.pointers.as_ptr()
    }
}

/// Writes a number in decimal digits; what follows it stays.
fn write_number(into: &mut [u8], number: u32) {
    let mut digits = 1;
    let mut rest = number;
    while rest >= 10 {
        rest /= 10;
        digits += 1;
    }
    let mut rest = number;
    for place in into.iter_mut().take(digits).rev() {
        *place = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
    }
}

/// A descriptor that gets another number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Move {
    source: RawFd,
    /// A copy of it, above all targets.
    copy: RawFd,
    target: RawFd,
}

impl Move {
    pub(super) fn new(source: RawFd, target: RawFd) -> Self {
        Move { source, copy: -1, target }
    }
}

/// All that the new process needs.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) candidates: Vec<CString>,
    pub(super) arguments: Texts,
    pub(super) environment: Texts,
    pub(super) directory: Option<CString>,
    pub(super) moves: Vec<Move>,
    pub(super) control_group: Option<RawFd>,
    pub(super) identity: Option<(Uid, Gid, Vec<Gid>)>,
    pub(super) umask: Option<u32>,
    pub(super) open_files: Option<Rlimit>,
}

/// What failed in the new process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure {
    pub(super) doing: Doing,
    pub(super) candidate: usize,
    pub(super) errno: i32,
}

impl Failure {
    /// The step, the candidate, and the error: one write, which a pipe takes as a whole.
    pub(super) const BYTES: usize = 12;

    fn encode(self) -> [u8; Self::BYTES] {
        let step = Doing::ALL.iter().position(|doing| *doing == self.doing).unwrap_or_default();
        let mut bytes = [0; Self::BYTES];
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_ne_bytes();
        let fields = [number(step), number(self.candidate), self.errno.to_ne_bytes()];
        for (into, from) in bytes.iter_mut().zip(fields.iter().flatten()) {
            *into = *from;
        }
        bytes
    }

    /// `None` if nothing was said.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let field = |from: usize| {
            let bytes = bytes.get(from..from + 4)?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?))
        };
        let doing = *Doing::ALL.get(usize::try_from(field(0)?).ok()?)?;
        let candidate = usize::try_from(field(4)?).ok()?;
        Some(Failure { doing, candidate, errno: field(8)?.cast_signed() })
    }
}

/// Makes the process, and in it runs everything up to the program. Gives its ID.
pub(super) fn fork(prepared: &mut Prepared, report: &OwnedFd) -> io::Result<u32> {
    let report = report.as_raw_fd();
    let before = block_all()?;
    // SAFETY: needed because no safe call forks. Sound: in the new process, which has this thread only, `run` makes
    // system calls on memory that is all there, and never returns.
    #[allow(unsafe_code, reason = "see above")]
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        run(prepared, report);
    }
    let failure = io::Error::last_os_error();
    set_mask(&before)?;
    u32::try_from(pid).map_err(|_| failure)
}

/// The whole of the new process's life before its program.
fn run(prepared: &mut Prepared, report: RawFd) -> ! {
    let mut report = report;
    let failure = match become_program(prepared, &mut report) {
        Ok(never) => match never {},
        Err(failure) => failure.encode(),
    };
    // SAFETY: needed because no descriptor here has an owner in this process, and an end that runs no destructors of
    // another one's threads. Sound: the buffer is this function's, and neither call touches other memory.
    #[allow(unsafe_code, reason = "see above")]
    unsafe {
        libc::write(report, failure.as_ptr().cast(), failure.len());
        libc::_exit(NO_PROGRAM)
    }
}

fn become_program(prepared: &mut Prepared, report: &mut RawFd) -> Result<std::convert::Infallible, Failure> {
    let failed = |doing| move |errno: Errno| Failure { doing, candidate: 0, errno: errno.raw_os_error() };
    reset_signals();
    rustix::process::setsid().map_err(failed(Doing::Session))?;
    if let Some(group) = prepared.control_group {
        join(group).map_err(failed(Doing::ControlGroup))?;
    }
    place(&mut prepared.moves, report).map_err(failed(Doing::Descriptors))?;
    if let Some(limit) = prepared.open_files {
        rustix::process::setrlimit(Resource::Nofile, limit).map_err(failed(Doing::OpenFiles))?;
    }
    if let Some(umask) = prepared.umask {
        rustix::process::umask(Mode::from_raw_mode(umask));
    }
    if let Some((uid, gid, groups)) = &prepared.identity {
        // The thread's are the process's: there is no other thread.
        rustix::thread::set_thread_groups(groups).map_err(failed(Doing::User))?;
        rustix::thread::set_thread_res_gid(*gid, *gid, *gid).map_err(failed(Doing::User))?;
        rustix::thread::set_thread_res_uid(*uid, *uid, *uid).map_err(failed(Doing::User))?;
    }
    if let Some(directory) = &prepared.directory {
        rustix::process::chdir(directory.as_c_str()).map_err(failed(Doing::Directory))?;
    }
    let (arguments, environment) = (prepared.arguments.fill(), prepared.environment.fill());
    unblock_all().map_err(failed(Doing::Signals))?;
    Err(execute(&prepared.candidates, arguments, environment))
}

/// Every signal gets its default disposition: what is ignored stays so in the next program (execve(2)).
fn reset_signals() {
    // All zero, the kernel's `struct sigaction` is SIG_DFL with an empty mask and no flags, on every architecture; it is
    // at most this long.
    let action = [0_u64; 8];
    for signal in 1..=SIGNALS {
        // SAFETY: needed because no safe call sets a disposition, and the C library's own refuses two signals that a
        // careless parent may have left ignored. Sound: the kernel reads `action` (rt_sigaction(2)), writes nothing, and
        // refuses the signals that have no disposition.
        #[allow(unsafe_code, reason = "see above")]
        unsafe {
            let none = std::ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), none, SIGNAL_SET_BYTES);
        }
    }
}

/// Joins the control group (cgroups(7)): 0 is who writes.
fn join(group: RawFd) -> Result<(), Errno> {
    // SAFETY: needed because the descriptor has no owner in this process. Sound: the text is static.
    #[allow(unsafe_code, reason = "see above")]
    let written = unsafe { libc::write(group, c"0".as_ptr().cast(), 1) };
    if written == 1 { Ok(()) } else { Err(last_error()) }
}

/// Puts every descriptor where it belongs, and makes all others close-on-exec. First copies of all, above the highest
/// target, so that none is overwritten that is still needed; then from there to the targets.
fn place(moves: &mut [Move], report: &mut RawFd) -> Result<(), Errno> {
    let above = moves.iter().map(|one| one.target.saturating_add(1)).max().unwrap_or_default();
    *report = duplicate(*report, above)?;
    for one in &mut *moves {
        one.copy = duplicate(one.source, above)?;
    }
    close_others_on_exec();
    for one in moves {
        // SAFETY: needed because the numbers have no owners in this process. Sound: dup2(2) takes two integers; what was
        // open under the target's number is closed in this process only, and nothing here has it as its own.
        #[allow(unsafe_code, reason = "see above")]
        let placed = unsafe { libc::dup2(one.copy, one.target) };
        if placed < 0 {
            return Err(last_error());
        }
    }
    Ok(())
}

fn duplicate(descriptor: RawFd, above: RawFd) -> Result<RawFd, Errno> {
    // SAFETY: needed because the number has no owner in this process. Sound: fcntl(2) takes three integers and returns a
    // new descriptor, or says why not.
    #[allow(unsafe_code, reason = "see above")]
    let copy = unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, above) };
    if copy < 0 { Err(last_error()) } else { Ok(copy) }
}

fn close_others_on_exec() {
    if crate::process::close_others_on_exec() {
        return;
    }
    for descriptor in 3..HIGHEST {
        // SAFETY: needed because the number has no owner in this process. Sound: fcntl(2) takes three integers, and says
        // so if none is open there.
        #[allow(unsafe_code, reason = "see above")]
        unsafe {
            libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}

/// Executes the first of the candidates that can be. Returns only if none can.
fn execute(
    candidates: &[CString],
    arguments: *const *const libc::c_char,
    environment: *const *const libc::c_char,
) -> Failure {
    let failed =
        |candidate, errno: Errno| Failure { doing: Doing::Execute, candidate, errno: errno.raw_os_error() };
    let mut refused = None;
    for (at, candidate) in candidates.iter().enumerate() {
        // SAFETY: needed because no safe call executes another program. Sound: the path is NUL-terminated, and both
        // arrays end with a null pointer and point to NUL-terminated texts of `Prepared`, which outlives this call.
        #[allow(unsafe_code, reason = "see above")]
        unsafe {
            libc::execve(candidate.as_ptr(), arguments, environment);
        }
        match last_error() {
            // Looked for further, as execvp(3) does.
            Errno::ACCESS => refused = refused.or(Some(at)),
            Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP => {}
            errno => return failed(at, errno),
        }
    }
    match refused {
        Some(at) => failed(at, Errno::ACCESS),
        None => failed(0, Errno::NOENT),
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

/// Blocks all signals in this thread, so that no handler runs in the new process. Gives those that were blocked before.
fn block_all() -> io::Result<libc::sigset_t> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: needed because a signal set can only be built by the C library, and no safe call sets a thread's mask.
    // Sound: `sigfillset` initialises the first set; the second one is written by the call, which is checked.
    #[allow(unsafe_code, reason = "see above")]
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        let error = libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        if error == 0 { Ok(before.assume_init()) } else { Err(io::Error::from_raw_os_error(error)) }
    }
}

fn set_mask(mask: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: needed because no safe call sets a thread's mask. Sound: `mask` is initialised; a null pointer for the old
    // one is allowed (pthread_sigmask(3)).
    #[allow(unsafe_code, reason = "see above")]
    let error = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Blocks no signal in this thread.
fn unblock_all() -> Result<(), Errno> {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: needed because a signal set can only be built by the C library. Sound: `sigemptyset` initialises all of it.
    #[allow(unsafe_code, reason = "see above")]
    let none = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        none.assume_init()
    };
    set_mask(&none).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for number in [0, 7, 10, 999, 4_194_304, u32::MAX] {
            let mut text = [0; PID_DIGITS];
            write_number(&mut text, number);
            let digits = text.iter().take_while(|byte| **byte != 0).count();
            assert_eq!(std::str::from_utf8(&text[..digits]).unwrap(), number.to_string());
        }
    }

    #[test]
    fn a_failure_arrives_as_it_was_sent() {
        for doing in Doing::ALL {
            let sent = Failure { doing, candidate: 3, errno: libc::EPERM };
            let got = Failure::decode(&sent.encode()).unwrap();
            assert_eq!((got.doing, got.candidate, got.errno), (doing, 3, libc::EPERM));
        }
        assert!(Failure::decode(&[]).is_none());
    }
}
