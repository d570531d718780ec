//! One running copy of a program: started, signalled, ended, found again.
//!
//! ```text
//!   Order ── start ─▶ Copy ── exited (its first process) ─▶ what it left behind ── signal_rest, kill_all ─▶ gone
//!                      │                                                                             ▲
//!                      └── save ─▶ SavedCopy + pidfd ─▶ restore (after execve, or in another supervisor) ┘
//! ```
//!
//! A copy is all of its processes: those of its session and control group, their descendants, and whatever else has its
//! mark in its environment. The first one is not reaped before the last one is gone, so that its ID cannot come to mean
//! another session.

mod environment;
mod killing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use handover_handoff::launch::{Doing, Identity, Launch, LaunchError};
use handover_handoff::process::{Child, Exit};
use handover_handoff::reactor;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::groups::{self, Belonging, Group, Groups, Survey};
use crate::protocol::{Pass, ResourceLimits, User};
use crate::sparing::SparedChild;

pub(crate) use killing::Killed;

/// What a copy is started with.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    /// The program's name.
    pub(crate) program: &'a str,
    /// The copy's number, from 1.
    pub(crate) number: u32,
    /// What tells it from every other copy that ever was: of [`new_mark`].
    pub(crate) mark: &'a str,
    /// The command and its arguments, everything in braces filled in.
    pub(crate) command: &'a [String],
    /// Where it is started; this process's directory if `None`.
    pub(crate) directory: Option<&'a Path>,
    /// Variables beside those of this process, and in their place. `LISTEN_*`, `NOTIFY_SOCKET`, `HANDOVER_PROGRAM` and
    /// `HANDOVER_COPY` are set here; `HOME`, `USER` and `LOGNAME` if it runs as another user.
    pub(crate) environment: &'a BTreeMap<String, String>,
    /// Whether it gets none of this process's own variables (but `PATH`, `HOME`, `USER`, `LANG`).
    pub(crate) clear_environment: bool,
    /// As whom it runs; as this process if `None`.
    pub(crate) user: Option<&'a User>,
    /// What it may use.
    pub(crate) limits: &'a ResourceLimits,
    /// The sockets that it gets, with their names.
    pub(crate) sockets: &'a [(&'a str, BorrowedFd<'a>)],
    /// How they are announced, and where the first one is placed.
    pub(crate) pass: &'a Pass,
    /// Where it may say what it does (`NOTIFY_SOCKET`).
    pub(crate) notify: Option<&'a Path>,
    /// Its standard input; empty if `None`.
    pub(crate) stdin: Option<BorrowedFd<'a>>,
    /// Its standard output; `output` if `None`.
    pub(crate) stdout: Option<BorrowedFd<'a>>,
    /// Its standard error, and output: from [`super::output::Outputs::open`].
    pub(crate) output: BorrowedFd<'a>,
    /// Where it gets a control group of its own, if there is such a place.
    pub(crate) groups: &'a Groups,
}

/// Why a copy was not started.
#[derive(Debug, thiserror::Error)]
#[error("copy {number} of {program} cannot be started: {why}")]
pub(crate) struct NotStarted {
    program: String,
    number: u32,
    /// What could not be done, and why.
    pub(crate) why: String,
    /// The kernel's reason.
    #[source]
    pub(crate) source: io::Error,
}

/// A copy that was started.
#[derive(Debug)]
pub(crate) struct Started {
    /// It.
    pub(crate) copy: Copy,
    /// What of the order could not be kept, a sentence each: limits without a control group.
    pub(crate) warnings: Vec<String>,
}

/// A mark that no other copy has.
///
/// # Errors
/// No random numbers can be had.
pub(crate) fn new_mark(program: &str, number: u32) -> io::Result<String> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no random numbers can be had"))?;
    Ok(format!("{program}/{number}-{:016x}", u64::from_be_bytes(bytes)))
}

/// Starts a copy. Needs a tokio runtime. Takes a millisecond or so; if the directory or the command lies on a disk that
/// does not answer, at most [`handover_handoff::launch::LAUNCH_LIMIT`].
///
/// # Errors
/// What could not be done, and why. Then no process is left.
pub(crate) fn start(order: &Order<'_>) -> Result<Started, NotStarted> {
    let failed = |why: String, source: io::Error| NotStarted {
        program: order.program.to_owned(),
        number: order.number,
        why,
        source,
    };
    let (mut group, mut warnings) = order.groups.make(order.mark, order.limits);
    let child = match launch(order, group.as_ref()) {
        Err(error) if error.doing == Doing::ControlGroup => {
            warnings.push(format!("copy {} of {} runs without limits: {error}", order.number, order.program));
            group.take().iter().for_each(Group::remove);
            launch(order, None)
        }
        launched => launched,
    };
    let child = child.map_err(|error| {
        group.iter().for_each(Group::remove);
        failed(error.to_string(), error.source)
    })?;
    let pid = child.child.pid();
    let saved = SavedCopy {
        pid,
        // As long as it was not reaped it is there; if it has ended already, nothing of it can be older than now.
        began: groups::began(pid).unwrap_or_default(),
        boot: groups::boot(),
        mark: order.mark.to_owned(),
        group: group.map(|group| group.path().to_owned()),
        started_at: crate::journal::now(),
        exit_code: None,
        exit_signal: None,
    };
    let main = Main::new(child, true);
    let main = main.map_err(|source| failed(format!("it cannot be watched: {source}"), source))?;
    Ok(Started { copy: Copy::new(saved, Some(main)), warnings })
}

fn launch(order: &Order<'_>, group: Option<&Group>) -> Result<SparedChild, LaunchError> {
    // If it is not there any more, it cannot be joined: told as such by the launch.
    let door = group.map(|group| group.door().or_else(|_| std::fs::File::open("/dev/null")));
    let door = door.transpose().unwrap_or_default();
    let command: Vec<OsString> = order.command.iter().map(OsString::from).collect();
    let sockets: Vec<BorrowedFd<'_>> = order.sockets.iter().map(|(_, socket)| *socket).collect();
    let environment = environment::environment(order);
    let launch = Launch {
        command: &command,
        environment: &environment,
        pid_variable: environment::pid_variable(order),
        directory: order.directory,
        identity: order.user.map(|user| Identity { uid: user.uid, gid: user.gid, groups: &user.groups }),
        umask: None,
        open_files: order.limits.nofile,
        control_group: door.as_ref().map(AsFd::as_fd),
        stdin: order.stdin,
        stdout: order.stdout.unwrap_or(order.output),
        stderr: order.output,
        sockets: &sockets,
        first_socket: order.pass.first_fd,
    };
    SparedChild::start(|| launch.start())
}

/// Makes a listening socket wait in `accept`, as programs expect it that know nothing else. The flag belongs to the
/// socket, not to the descriptor: for one that copies share, to be called once, before the first of them is started
/// (one that runs may have set it otherwise and rely on it).
///
/// # Errors
/// None that is known of.
pub(crate) fn make_blocking(socket: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&socket)?;
    Ok(rustix::fs::fcntl_setfl(&socket, flags - rustix::fs::OFlags::NONBLOCK)?)
}

/// Makes accept(2) on a listening socket return at once, as programs expect it that wait for events and take that for granted.
///
/// # Errors
/// None that is known of.
pub(crate) fn make_nonblocking(socket: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&socket)?;
    Ok(rustix::fs::fcntl_setfl(&socket, flags | rustix::fs::OFlags::NONBLOCK)?)
}

/// A copy: all of its processes. Dropping it ends nothing.
#[derive(Debug)]
pub(crate) struct Copy {
    saved: SavedCopy,
    /// Its first process. `None` for one of an earlier life, of which nobody has the pidfd.
    main: Option<Main>,
    exit: OnceLock<Exit>,
    /// Processes that were seen to belong to it, and when each began.
    known: Mutex<BTreeMap<u32, u64>>,
}

/// The first process.
#[derive(Debug)]
struct Main {
    process: SparedChild,
    ended: AsyncFd<Arc<Child>>,
    /// Whether it is a child of this process, so that its ID is its own until it is reaped.
    is_child: bool,
}

impl Main {
    fn new(process: SparedChild, is_child: bool) -> io::Result<Self> {
        Ok(Main { ended: reactor::register_child(Arc::clone(&process.child))?, process, is_child })
    }

    /// How it ended, if it did.
    fn exit(&self) -> Option<Exit> {
        if self.is_child {
            return self.process.child.peek().unwrap_or(Some(Exit::Unknown));
        }
        let polled = &mut [rustix::event::PollFd::new(&*self.process.child, rustix::event::PollFlags::IN)];
        let ended = rustix::event::poll(polled, Some(&rustix::event::Timespec::default()));
        ended.is_ok_and(|count| count > 0).then_some(Exit::Unknown)
    }
}

/// What is to be known of a copy to find it again; goes with its pidfd, if there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedCopy {
    /// Its first process.
    pub(crate) pid: u32,
    /// When that began, in ticks after boot.
    pub(crate) began: u64,
    /// Which boot that was (`/proc/sys/kernel/random/boot_id`).
    pub(crate) boot: String,
    /// What its processes have in their environment.
    pub(crate) mark: String,
    /// Its control group.
    pub(crate) group: Option<PathBuf>,
    /// When it was started, RFC 3339.
    pub(crate) started_at: String,
    /// Its first process has ended already: with this code, or by this signal.
    pub(crate) exit_code: Option<i32>,
    /// See `exit_code`.
    pub(crate) exit_signal: Option<i32>,
}

impl SavedCopy {
    /// One of which nothing but the mark is known, of this boot.
    pub(crate) fn only(mark: &str) -> Self {
        SavedCopy { mark: mark.to_owned(), boot: groups::boot(), ..SavedCopy::default() }
    }
}

impl Copy {
    fn new(saved: SavedCopy, main: Option<Main>) -> Self {
        let exit = match (saved.exit_code, saved.exit_signal) {
            (Some(code), _) => OnceLock::from(Exit::Code(code)),
            (None, Some(signal)) => OnceLock::from(Exit::Signal(signal)),
            (None, None) => OnceLock::new(),
        };
        Copy { saved, main, exit, known: Mutex::default() }
    }

    /// Its first process.
    pub(crate) fn pid(&self) -> u32 {
        self.saved.pid
    }

    /// What its processes have in their environment.
    pub(crate) fn mark(&self) -> &str {
        &self.saved.mark
    }

    /// When it was started, RFC 3339.
    pub(crate) fn started_at(&self) -> &str {
        &self.saved.started_at
    }

    /// Waits until the first process has ended; at once if it has. [`Exit::Unknown`] for one that is not this process's
    /// child. Cancel-safe, and may be called as often as one likes.
    pub(crate) async fn exited(&self) -> Exit {
        loop {
            if let Some(exit) = self.exit() {
                return exit;
            }
            let Some(main) = &self.main else { return Exit::Unknown };
            match main.ended.readable().await {
                // It stays readable.
                Ok(_) => {}
                Err(_) => return Exit::Unknown,
            }
        }
    }

    /// How the first process has ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        let found = match &self.main {
            _ if self.exit.get().is_some() => None,
            Some(main) => main.exit(),
            None => Some(Exit::Unknown),
        };
        if let Some(found) = found {
            // Somebody else may have noted the same.
            let _ = self.exit.set(found);
        }
        self.exit.get().copied()
    }

    /// Sends a signal to the first process. That it has ended is no error.
    ///
    /// # Errors
    /// There is no such signal, or it may not be sent.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        let signal = named(signal)?;
        if self.saved.group.is_none() {
            // Before it can end: what it leaves behind without a parent and without its mark is known then.
            // A look that is a moment old takes nothing away from what a newer one has found.
            let found = Survey::recent().members(&Belonging { mark: String::new(), ..self.belonging() });
            self.known.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
        }
        self.main.as_ref().map_or(Ok(()), |main| main.process.child.signal(signal))
    }

    /// Its processes that live.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.processes_of(&Survey::take())
    }

    /// The same, for several copies after one look.
    pub(crate) fn processes_of(&self, survey: &Survey) -> Vec<u32> {
        self.members(survey).into_keys().collect()
    }

    /// How many bytes of memory it uses: what its control group says, or else the resident pages of its processes, of which
    /// shared ones are counted several times. `None` if nothing of it lives, or nobody can tell. Reads files of `/proc` or of the
    /// group: for a thread that may block.
    pub(crate) fn memory(&self, survey: &Survey) -> Option<u64> {
        if let Some(bytes) = self.group().as_ref().and_then(Group::memory) {
            return Some(bytes);
        }
        let resident: Vec<u64> = self.processes_of(survey).into_iter().filter_map(groups::resident).collect();
        (!resident.is_empty()).then(|| resident.iter().fold(0, |sum, one| u64::saturating_add(sum, *one)))
    }

    /// Whether this process belongs to it; also one that has just ended and was not reaped by its parent.
    pub(crate) fn owns(&self, pid: u32) -> bool {
        self.belonging().has(pid)
    }

    /// Its control group, if it has one.
    pub(crate) fn group(&self) -> Option<Group> {
        self.saved.group.clone().map(Group::at)
    }

    /// What is written down of it.
    pub(crate) fn save(&self) -> SavedCopy {
        let mut saved = self.saved.clone();
        match self.exit() {
            Some(Exit::Code(code)) => saved.exit_code = Some(code),
            Some(Exit::Signal(signal)) => saved.exit_signal = Some(signal),
            Some(Exit::Unknown) | None => {}
        }
        saved
    }

    /// The pidfd that goes with it; none if nobody has one any more.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.main.as_ref().map(|main| main.process.child.as_fd())
    }

    /// A copy that was saved. Without a pidfd, what carries its mark or is in its group is found all the same: that is how
    /// a supervisor which starts after a crash ends what an earlier one has left. Needs a tokio runtime.
    ///
    /// # Errors
    /// The pidfd cannot be watched.
    pub(crate) fn restore(mut saved: SavedCopy, pidfd: Option<OwnedFd>) -> io::Result<Copy> {
        if saved.boot != groups::boot() {
            // Nothing of it can be there: its numbers are others' by now.
            (saved.pid, saved.began, saved.group) = (0, u64::MAX, None);
            return Ok(Copy::new(saved, None));
        }
        let is_it = |child: &Child| groups::began(child.pid()).is_none_or(|began| began == saved.began);
        let child = match pidfd {
            Some(pidfd) => Some(Child::from_pidfd(saved.pid, pidfd)),
            // The number may be another's: looked at again after it is held.
            None => Child::of(saved.pid).ok().filter(|_| groups::began(saved.pid) == Some(saved.began)),
        };
        let main = match child.filter(is_it) {
            Some(child) => {
                // ECHILD for one that is not.
                let is_child = child.peek().is_ok();
                Some(Main::new(SparedChild::adopt(child), is_child)?)
            }
            None => None,
        };
        Ok(Copy::new(saved, main))
    }

    /// By what its processes are known now.
    fn belonging(&self) -> Belonging {
        let is_held = self.main.as_ref().is_some_and(|main| main.is_child || main.exit().is_none());
        Belonging {
            session: is_held.then_some(self.saved.pid),
            mark: self.saved.mark.clone(),
            began: self.saved.began,
            group: self.group(),
            known: self.known.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Its processes that live, which are known from now on.
    fn members(&self, survey: &Survey) -> BTreeMap<u32, u64> {
        let members = survey.members(&self.belonging());
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&members);
        members
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Some(main) = self.main.as_ref().filter(|main| main.is_child) {
            // If it has ended. Otherwise it is an orphan from now on.
            let _ = main.process.child.try_wait();
        }
        // It goes only if nothing is in it any more.
        self.group().iter().for_each(Group::remove);
    }
}

fn named(signal: i32) -> io::Result<Signal> {
    Signal::from_named_raw(signal)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("there is no signal {signal}")))
}
