//! Executables that are kept open, processes started from them, and how their end is noticed.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};

use crate::inherit::{self, PRIVATE_VARIABLES};
use crate::signals;

/// An executable file that is kept open: it can be started again although its path has since been
/// deleted, replaced or half overwritten by a copy.
#[derive(Debug)]
pub struct Executable {
    file: OwnedFd,
    path: PathBuf,
}

impl Executable {
    /// The one that this process runs. The kernel knows it whatever became of its path.
    ///
    /// # Errors
    /// `/proc` is not mounted, or the process is out of descriptors.
    pub fn current() -> io::Result<Self> {
        let path = std::fs::read_link("/proc/self/exe")?;
        Ok(Executable { file: open_executable(Path::new("/proc/self/exe"))?, path })
    }

    /// The one at this path, as it is now.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Executable { file: open_executable(path)?, path: path.to_owned() })
    }

    /// The one that `descriptor` is open for, whether for reading or as a mere path (`O_PATH`). `path` is where it was found.
    #[must_use]
    pub fn from_descriptor(descriptor: OwnedFd, path: PathBuf) -> Self {
        Executable { file: descriptor, path }
    }

    /// Where it was found.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same file, opened anew for reading: the descriptor that is kept may be for executing only.
    ///
    /// # Errors
    /// It may be executed but not read.
    pub fn read(&self) -> io::Result<File> {
        File::open(self.by_descriptor())
    }

    /// BLAKE3 of the file, hexadecimal.
    ///
    /// # Errors
    /// It may be executed but not read, or reading failed.
    pub fn digest(&self) -> io::Result<String> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(self.read()?)?;
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn by_descriptor(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

impl AsFd for Executable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn open_executable(path: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    // O_PATH, because a file that may be executed need not be readable (open(2)).
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// What a process is to be started with.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// What to execute.
    pub executable: &'a Executable,
    /// `argv`, its name (`argv[0]`) first.
    pub arguments: &'a [OsString],
    /// Variables to set beside those that are passed on. [`PRIVATE_VARIABLES`] are not passed on.
    pub environment: &'a [(OsString, OsString)],
    /// Descriptors that the process keeps, under the same numbers; all others are close-on-exec.
    pub descriptors: &'a [BorrowedFd<'a>],
    /// Its standard output; this process's if `None`.
    pub stdout: Option<BorrowedFd<'a>>,
    /// Its standard error; this process's if `None`.
    pub stderr: Option<BorrowedFd<'a>>,
    /// Whether the kernel kills it as soon as the thread ends that has started it, with its process or alone
    /// (`PR_SET_PDEATHSIG`, prctl(2)). What it has started itself goes on.
    pub ends_with_thread: bool,
}

impl Spawn<'_> {
    /// Starts the process, in a process group of its own, so that a terminal's signals reach the parent only,
    /// with standard input empty, and with [`signals::MANAGED`] blocked, so that a stray signal cannot end it
    /// before it has decided what to do with signals.
    ///
    /// # Errors
    /// As execve(2) and fork(2): out of processes, descriptors or memory, or the file cannot be executed.
    pub fn start(&self) -> io::Result<Child> {
        let mut command = Command::new(self.executable.by_descriptor());
        let (name, arguments) = match self.arguments.split_first() {
            Some((name, arguments)) => (name.clone(), arguments),
            None => (self.executable.path().as_os_str().to_owned(), &[][..]),
        };
        command.arg0(name).args(arguments).stdin(Stdio::null()).process_group(0);
        if let Some(stdout) = self.stdout {
            command.stdout(stdout.try_clone_to_owned()?);
        }
        if let Some(stderr) = self.stderr {
            command.stderr(stderr.try_clone_to_owned()?);
        }
        for variable in PRIVATE_VARIABLES {
            command.env_remove(variable);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        // Duplicates would be closed with the closure; the numbers stay valid because `self` borrows the
        // descriptors until the child has been started.
        let mut kept = Vec::with_capacity(self.descriptors.len());
        for descriptor in self.descriptors {
            kept.push(Kept { number: descriptor.as_raw_fd() });
        }
        let (ends_with_thread, parent) = (self.ends_with_thread, rustix::process::getpid());
        let in_child = move || {
            close_others_on_exec();
            if ends_with_thread {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                if rustix::process::getppid() != Some(parent) {
                    // It ended before the kernel knew.
                    return Err(Errno::SRCH.into());
                }
            }
            for descriptor in &kept {
                inherit::set_inheritable(descriptor, true)?;
            }
            signals::block_managed()
        };
        // SAFETY: needed because what a child keeps must be decided between fork and exec: done in the parent,
        // every other child started meanwhile would get the descriptors too. Sound: the closure makes only
        // system calls (close_range, prctl, getppid, fcntl, sigprocmask), which are async-signal-safe; it neither
        // allocates nor locks.
        #[allow(unsafe_code, reason = "pre_exec; see above")]
        unsafe {
            command.pre_exec(in_child);
        }
        let child = command.spawn()?;
        Child::of(child.id())
    }
}

/// Sets everything but the standard streams close-on-exec, also what this process got from its own parent without
/// knowing. A kernel that cannot (before 5.11) leaves the latter as it is; then this is `false`.
pub(crate) fn close_others_on_exec() -> bool {
    const FIRST: libc::c_uint = 3;
    // SAFETY: needed because no safe call does it. Sound: the call (close_range(2)) takes three integers and, with
    // this flag, closes nothing now; descriptors of this process's parent are not touched, since it runs in the child.
    #[allow(unsafe_code, reason = "see above")]
    unsafe {
        libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) == 0
    }
}

/// A descriptor's number, of which its owner is known to outlive the spawning.
struct Kept {
    number: i32,
}

impl AsFd for Kept {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: needed because the closure of `pre_exec` must be 'static and so cannot borrow. Sound: it runs
        // inside `Command::spawn`, during which `Spawn::descriptors` is borrowed, hence open.
        #[allow(unsafe_code, reason = "see above")]
        unsafe {
            BorrowedFd::borrow_raw(self.number)
        }
    }
}

/// A process, held so that its ID cannot come to mean another one: by a pidfd (pidfd_open(2)), which
/// becomes readable when the process ends.
///
/// Dropping it does not end the process.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    pidfd: OwnedFd,
}

impl Child {
    /// Takes hold of a process by its ID. For a child of this process that was not waited for yet, the ID is
    /// certain; for another one, prove afterwards that it still lives (by an answer on its channel).
    ///
    /// # Errors
    /// It does not exist, or the process is out of descriptors.
    pub fn of(pid: u32) -> io::Result<Child> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        Ok(Child { pid, pidfd: rustix::process::pidfd_open(raw, PidfdFlags::empty())? })
    }

    /// The process with this ID, which `pidfd` has held since it was certain.
    #[must_use]
    pub fn from_pidfd(pid: u32, pidfd: OwnedFd) -> Child {
        Child { pid, pidfd }
    }

    /// Its process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends it a signal. That it has ended already is no error.
    ///
    /// # Errors
    /// It may not be signalled by this user.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Ends it at once (SIGKILL).
    ///
    /// # Errors
    /// As [`Child::signal`].
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// How it ended, if it did; this reaps it. Only for a child of this process.
    ///
    /// # Errors
    /// ECHILD: it is not a child, or was waited for already.
    pub fn try_wait(&self) -> io::Result<Option<Exit>> {
        self.wait_with(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// The same, but it stays to be reaped: until then no other process gets its ID, nor a session or group of that number.
    ///
    /// # Errors
    /// As [`Child::try_wait`].
    pub fn peek(&self) -> io::Result<Option<Exit>> {
        self.wait_with(WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
    }

    fn wait_with(&self, options: WaitIdOptions) -> io::Result<Option<Exit>> {
        let status = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?;
        Ok(status.map(|status| Exit::of(&status)))
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for Child {
    fn as_raw_fd(&self) -> i32 {
        self.pidfd.as_raw_fd()
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was not this process's child, so nobody told.
    Unknown,
}

impl Exit {
    fn of(status: &WaitIdStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Unknown,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exited with code {code}"),
            Exit::Signal(signal) => match signals::name(*signal) {
                Some(name) => write!(f, "was ended by signal {name}"),
                None => write!(f, "was ended by signal {signal}"),
            },
            Exit::Unknown => f.write_str("ended"),
        }
    }
}

/// Reaps every child that has ended, except for `spared` ones, which whoever started them waits for: orphans that
/// fell to this process as PID 1 or subreaper. Says which, and how they ended.
///
/// # Errors
/// Never for want of children; otherwise as waitid(2).
pub fn reap_orphans(spared: &[u32]) -> io::Result<Vec<(u32, Exit)>> {
    let mut reaped = Vec::new();
    for pid in children()? {
        let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw).filter(|_| !spared.contains(&pid))
        else {
            continue;
        };
        match rustix::process::waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => reaped.push((pid, Exit::of(&status))),
            Ok(None) | Err(Errno::CHILD) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(reaped)
}

/// The children of this process, dead or alive (`/proc/self/task/<tid>/children`, proc(5)). One may be missed while another
/// is reaped, and all are where the kernel was built without that list.
///
/// # Errors
/// `/proc` is not mounted.
pub fn children() -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for task in std::fs::read_dir("/proc/self/task")? {
        // A thread that has ended meanwhile has given its children to another one.
        let text = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        children.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(children)
}

/// Gives the calling thread the name by which this process's program was called: as if it had been found by that path. In
/// the main thread that is the name of the process, for ps, top and pgrep: a process that was executed by a descriptor
/// begins with the descriptor's number for a name. It is the same whichever file was executed, so that who looks for a
/// process by its name finds it after an upgrade, too.
///
/// # Errors
/// It was called by no name, and `/proc` is not mounted.
pub fn take_programs_name() -> io::Result<()> {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let path = match called.file_name() {
        Some(_) => called,
        None => std::fs::read_link("/proc/self/exe")?,
    };
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    // The kernel marks a path that leads nowhere any more.
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    // It keeps the first fifteen bytes (PR_SET_NAME, prctl(2)). A path has no NUL byte.
    let name = std::ffi::CString::new(name).unwrap_or_default();
    Ok(rustix::thread::set_name(&name)?)
}

/// Whether [`become_subreaper`] was called.
#[must_use]
pub fn is_subreaper() -> bool {
    rustix::process::child_subreaper().is_ok_and(|reaper| reaper.is_some())
}

/// Makes descendants of this process that lose their parent its children, so that it can reap them
/// (PR_SET_CHILD_SUBREAPER, prctl(2)).
///
/// # Errors
/// The kernel does not allow it.
pub fn become_subreaper() -> io::Result<()> {
    // Any process ID but none switches it on.
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

#[cfg(test)]
mod tests {
    use handover_testkit::{is_alone, is_alone_in};
    use rustix::event::{PollFd, PollFlags, Timespec};

    use super::*;

    fn shell(script: &str, environment: &[(OsString, OsString)], descriptors: &[BorrowedFd<'_>]) -> Child {
        let executable = Executable::open(Path::new("/bin/sh")).unwrap();
        let arguments = ["sh", "-c", script].map(OsString::from);
        Spawn {
            executable: &executable,
            arguments: &arguments,
            environment,
            descriptors,
            stdout: None,
            stderr: None,
            ends_with_thread: false,
        }
        .start()
        .unwrap()
    }

    fn end(child: &Child) -> Exit {
        let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
        let ready = rustix::event::poll(&mut [PollFd::new(child, PollFlags::IN)], Some(&limit)).unwrap();
        assert_eq!(ready, 1, "the process did not end in time");
        child.try_wait().unwrap().unwrap()
    }

    #[test]
    fn a_kept_executable_starts_although_its_path_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("true");
        std::fs::copy("/bin/true", &path).unwrap();
        let executable = Executable::open(&path).unwrap();
        let digest = executable.digest().unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "not a program").unwrap();
        let spawn = Spawn {
            executable: &executable,
            arguments: &[],
            environment: &[],
            descriptors: &[],
            stdout: None,
            stderr: None,
            ends_with_thread: false,
        };
        assert_eq!(end(&spawn.start().unwrap()), Exit::Code(0));
        assert_eq!(executable.digest().unwrap(), digest);
    }

    #[test]
    fn a_child_has_the_descriptors_it_was_given_and_no_others() {
        let (mine, given) = io::pipe().unwrap();
        let (_other_read, other) = io::pipe().unwrap();
        // As if it had come from a parent that did not care.
        inherit::set_inheritable(&other, true).unwrap();
        let script = format!(
            "test -e /proc/self/fd/{} && ! test -e /proc/self/fd/{} && ! test -e /proc/self/fd/{}",
            given.as_raw_fd(),
            other.as_raw_fd(),
            mine.as_raw_fd()
        );
        assert_eq!(end(&shell(&script, &[], &[given.as_fd()])), Exit::Code(0));
    }

    #[test]
    fn a_child_gets_no_variable_that_is_meant_for_its_parent() {
        let with_variables = || {
            let mut own = Command::new(std::env::current_exe().unwrap());
            own.envs([("LISTEN_FDS", "1"), ("NOTIFY_SOCKET", "/nowhere")]);
            own
        };
        let test = "process::tests::a_child_gets_no_variable_that_is_meant_for_its_parent";
        if !is_alone_in(test, with_variables) {
            return;
        }
        assert_eq!(std::env::var("LISTEN_FDS").unwrap(), "1");
        let script = "test -z \"$LISTEN_FDS\" && test -z \"$NOTIFY_SOCKET\" && test \"$MINE\" = yes";
        assert_eq!(end(&shell(script, &[("MINE".into(), "yes".into())], &[])), Exit::Code(0));
    }

    #[test]
    fn a_stray_signal_does_not_end_a_child_that_has_not_decided_about_signals() {
        let script = "for s in HUP TERM INT QUIT USR1 USR2; do kill -s $s $$; done; exit 3";
        assert_eq!(end(&shell(script, &[], &[])), Exit::Code(3));
    }

    #[test]
    fn a_child_that_ends_with_its_thread_does() {
        let executable = Executable::open(Path::new("/bin/sh")).unwrap();
        let arguments = ["sh", "-c", "exec sleep 1000"].map(OsString::from);
        let child = std::thread::spawn(move || {
            Spawn {
                executable: &executable,
                arguments: &arguments,
                environment: &[],
                descriptors: &[],
                stdout: None,
                stderr: None,
                ends_with_thread: true,
            }
            .start()
            .unwrap()
        });
        assert_eq!(end(&child.join().unwrap()), Exit::Signal(9));
    }

    #[test]
    fn an_end_by_a_signal_is_told_by_its_name() {
        let child = shell("exec sleep 1000", &[], &[]);
        child.kill().unwrap();
        let exit = end(&child);
        assert_eq!(exit, Exit::Signal(9));
        assert_eq!(exit.to_string(), "was ended by signal KILL");
        child.kill().unwrap();
    }

    #[test]
    fn an_orphan_is_reaped_and_a_spared_child_is_left_for_who_waits_for_it() {
        // In a process of its own: other tests have children too.
        if !is_alone("process::tests::an_orphan_is_reaped_and_a_spared_child_is_left_for_who_waits_for_it") {
            return;
        }
        become_subreaper().unwrap();
        let spared = shell("exit 4", &[], &[]);
        let (mut read, write) = io::pipe().unwrap();
        // It stays until its parent is gone: a shell reaps what ends before it does.
        let (held, hold) = io::pipe().unwrap();
        let (said, held) = (write.as_fd(), held.as_fd());
        let script = format!(
            "(exec 2>&{0}; read line </proc/self/fd/{1}; exit 5) & echo $! >&{0}",
            said.as_raw_fd(),
            held.as_raw_fd()
        );
        let parent = shell(&script, &[], &[said, held]);
        drop(write);
        assert_eq!(end(&parent), Exit::Code(0));
        drop(hold);
        // At the end of the pipe the orphan is gone too, or about to be.
        let mut text = String::new();
        io::Read::read_to_string(&mut read, &mut text).unwrap();
        let orphan: u32 = text.trim().parse().unwrap();
        if let Ok(orphan) = Child::of(orphan) {
            let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
            rustix::event::poll(&mut [PollFd::new(&orphan, PollFlags::IN)], Some(&limit)).unwrap();
        }
        assert_eq!(reap_orphans(&[spared.pid()]).unwrap(), [(orphan, Exit::Code(5))]);
        assert_eq!(end(&spared), Exit::Code(4));
        assert_eq!(reap_orphans(&[]).unwrap(), []);
    }

    #[test]
    fn what_cannot_be_executed_is_an_error_and_leaves_no_child() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("text");
        std::fs::write(&path, "text").unwrap();
        let executable = Executable::open(&path).unwrap();
        let spawn = Spawn {
            executable: &executable,
            arguments: &[],
            environment: &[],
            descriptors: &[],
            stdout: None,
            stderr: None,
            ends_with_thread: false,
        };
        assert_eq!(spawn.start().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
