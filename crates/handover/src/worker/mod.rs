//! The worker: what the supervisor asks over the channel, this process does and answers.
//!
//! ```text
//!   supervisor ══ channel ══▶ control thread (this one) ──▶ commit
//!                               ▲       │
//!                       mailbox │       ├─▶ prepare   ┐
//!                               │       ├─▶ drain     │ a thread each, which may block or hang;
//!                               └───────┼─▶ action    │ the channel is answered all the same
//!                                       └─▶ report    ┘
//! ```
//!
//! The control thread is the main thread. It waits in one `poll` for the channel, the mailbox, signals and a
//! successor; nothing that it does itself blocks, except a commit, which is bounded by the service's contract, and
//! sending, which is bounded by [`SEND_WITHIN`].

mod acting;
mod candidates;
mod control;
mod drains;
mod errands;
mod guards;
mod lasting;
mod loans;
mod mailbox;
mod messages;
mod moves;
#[cfg(test)]
mod tests;
mod traffic;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use handover_handoff::inherit::DESCRIPTORS_VARIABLE;
use handover_handoff::succession::Door;
use handover_handoff::{Bundle, Channel};
use handover_supervisor::protocol::{ListenerSpec, WorkerChannel};

use crate::service::Service;
use crate::traffic::Quiet;
use crate::types::Losses;
use candidates::{Binding, Failed, Ready};

pub(crate) use candidates::panic_text;
use control::Control;
pub(crate) use mailbox::{Mailbox, Post, mailbox};
use moves::MoveNotice;

/// How long the supervisor may leave the channel full before it is taken for dead.
pub(crate) const SEND_WITHIN: Duration = Duration::from_secs(10);

/// What a worker needs to begin.
pub(crate) struct Setup {
    /// The channel, as it was inherited.
    pub(crate) channel: OwnedFd,
    /// Where a successor of the supervisor will look for this process.
    pub(crate) succession: Option<PathBuf>,
    /// The program's version.
    pub(crate) version: String,
    pub(crate) service: Arc<dyn Service>,
}

/// First thing in a worker, before it has other threads: keeps session keys from other processes and from core dumps, and
/// makes room for the connections of the worker that it may take over from.
pub(crate) fn first_thing() {
    if let Err(error) = handover_handoff::own::undumpable() {
        tracing::warn!("this process can be dumped, with the keys in its memory: {error}");
    }
    if let Err(error) = handover_handoff::own::use_all_descriptors(true) {
        tracing::warn!("no more descriptors can be opened than at first: {error}");
    }
    let wanted = std::env::var(DESCRIPTORS_VARIABLE).ok().and_then(|text| text.parse().ok());
    if let Some(Err(error)) = wanted.map(handover_handoff::own::grow_descriptor_table) {
        tracing::warn!("room for descriptors is made when they come: {error}");
    }
}

/// Serves until told to stop.
pub(crate) fn run(setup: Setup) -> ExitCode {
    if let Err(error) = handover_handoff::process::take_programs_name() {
        tracing::warn!("this process keeps a number for its name: {error}");
    }
    let control = match begin(setup) {
        Ok(control) => control,
        Err(error) => {
            tracing::error!("the worker cannot begin: {error}");
            return ExitCode::FAILURE;
        }
    };
    control.run()
}

fn begin(setup: Setup) -> io::Result<Control> {
    // Relative paths keep their meaning if the program changes its directory later.
    let base = std::env::current_dir()?;
    let signals = handover_handoff::signals::Signals::new()?;
    let door = match &setup.succession {
        Some(path) => Some(Door::open(path)?),
        None => None,
    };
    let succession = setup.succession;
    let channel: WorkerChannel = Channel::from_socket(setup.channel).map_err(io::Error::other)?;
    let (mailbox, post) = mailbox()?;
    setup.service.attach(WorkerHandle { post: post.clone() });
    Ok(Control::new(control::Parts {
        service: setup.service,
        version: setup.version,
        base,
        post,
        mailbox,
        signals,
        door,
        succession,
        channel,
    }))
}

/// What a service may tell the worker that hosts it. Clones are the same.
#[derive(Clone)]
pub struct WorkerHandle {
    post: Post<Notice>,
}

impl WorkerHandle {
    /// Says that this process cannot serve any more, say because one of its threads died. The process exits, and the
    /// supervisor starts another, with the generation that served, while connections wait.
    pub fn fail(&self, why: &str) {
        self.post.send(Notice::Failed { why: why.to_owned() });
    }

    /// Hands over what must outlive this process and is in no file, say the keys of session tickets: the next worker, and
    /// a backup, get these bytes, see [`Prepare::carried`](crate::Prepare::carried). Call it whenever they have changed;
    /// the last ones count. At most [`MAX_CARRIED_BYTES`](handover_supervisor::protocol::MAX_CARRIED_BYTES).
    pub fn carry(&self, bytes: Vec<u8>) {
        self.post.send(Notice::Carry { bytes });
    }

    /// Says that somebody waits for this program, which is among [`Traffic::wakes`](crate::traffic::Traffic::wakes): the supervisor starts
    /// it. After each [`Service::traffic`](crate::Service::traffic) it must be said again if somebody still does.
    pub fn want_program(&self, program: &str) {
        self.post.send(Notice::Wanted { program: program.to_owned() });
    }

    /// Asks for a reload, because of `why`, in a few words. It is an operation like any other, and refused while another
    /// one is under way; what comes of it is logged.
    pub fn ask_reload(&self, why: &str) {
        self.post.send(Notice::AskReload { why: why.to_owned() });
    }
}

impl fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerHandle").finish_non_exhaustive()
    }
}

/// A number that a supervisor gave out: that of a candidate or of a call. It means nothing to the next supervisor,
/// hence the count of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number {
    pub(crate) channel: u64,
    pub(crate) number: u64,
}

/// What other threads tell the control thread.
pub(crate) enum Notice {
    /// A prepare needs listeners, and waits.
    Need { number: Number, specs: Vec<ListenerSpec>, reply: SyncSender<Binding> },
    /// A prepare has ended.
    Prepared { number: Number, result: Box<Result<Ready, Failed>> },
    /// An action has ended, having read `files`.
    ActionDone { call: Number, result: Result<String, String>, files: Bundle },
    /// A report is written.
    Reported { call: Number, body: String },
    /// The service has drained or cut everything.
    Drained { losses: Losses },
    /// The service serves again.
    Resumed,
    /// A move of connections has come to something.
    Moved { serial: u64, notice: MoveNotice },
    /// Every thread has answered a probe.
    Probed { call: Number },
    /// A wait for quiet has ended.
    Quiet { call: Number, quiet: Quiet },
    /// Somebody waits for a program that is started when it is needed.
    Wanted { program: String },
    /// The service cannot go on.
    Failed { why: String },
    /// State that outlives this process has changed.
    Carry { bytes: Vec<u8> },
    /// The service wants a reload.
    AskReload { why: String },
    /// What is watched has changed.
    WatchAsks { why: String },
}
