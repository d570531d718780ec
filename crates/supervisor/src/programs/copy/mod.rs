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

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use handover_handoff::process::Exit;
use serde::{Deserialize, Serialize};

use super::groups::{Groups, Survey};
use crate::protocol::{Pass, ResourceLimits, User};

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
#[error("{sentence}")]
pub(crate) struct NotStarted {
    sentence: String,
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
/// hangs, at most the launch limit of `handoff`.
///
/// # Errors
/// What could not be done, and why.
pub(crate) fn start(order: &Order<'_>) -> Result<Started, NotStarted> {
    let sentence = format!("{} cannot be started", order.program);
    Err(NotStarted { sentence, source: io::ErrorKind::Unsupported.into() })
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

/// A copy: all of its processes. Dropping it ends nothing.
#[derive(Debug)]
pub(crate) struct Copy {
    saved: SavedCopy,
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

/// What became of a kill.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Killed {
    /// Processes that had to be killed.
    pub(crate) killed: u32,
    /// Processes that could not be (they wait for a device, uninterruptibly), after the time was over.
    pub(crate) left: u32,
}

impl Copy {
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
        std::future::pending().await
    }

    /// Waits until nothing of it is left. Cancel-safe.
    pub(crate) async fn gone(&self) {
        std::future::pending().await
    }

    /// Sends a signal to the first process. That it has ended is no error.
    ///
    /// # Errors
    /// There is no such signal, or it may not be sent.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        let _ = signal;
        Ok(())
    }

    /// Sends a signal to all others; says to how many.
    ///
    /// # Errors
    /// There is no such signal.
    pub(crate) fn signal_rest(&self, signal: i32) -> io::Result<u32> {
        let _ = signal;
        Ok(0)
    }

    /// Kills everything that is left of it, also what is forked meanwhile, and waits until it has ended.
    pub(crate) async fn kill_all(&self, limit: Duration) -> Killed {
        let _ = limit;
        Killed::default()
    }

    /// Its processes that live.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.processes_of(&Survey::take())
    }

    /// The same, for several copies after one look.
    pub(crate) fn processes_of(&self, survey: &Survey) -> Vec<u32> {
        let _ = survey;
        Vec::new()
    }

    /// Whether this process belongs to it.
    pub(crate) fn owns(&self, pid: u32) -> bool {
        let _ = pid;
        false
    }

    /// What is written down of it.
    pub(crate) fn save(&self) -> SavedCopy {
        self.saved.clone()
    }

    /// The pidfd that goes with it; none if the first process has ended.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// A copy that was saved. Without a pidfd, what carries its mark or is in its group is found all the same: that is how
    /// a supervisor which starts after a crash ends what an earlier one has left. Needs a tokio runtime.
    ///
    /// # Errors
    /// The pidfd cannot be watched.
    pub(crate) fn restore(saved: SavedCopy, pidfd: Option<OwnedFd>) -> io::Result<Copy> {
        drop(pidfd);
        Ok(Copy { saved })
    }
}
