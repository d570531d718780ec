//! The control thread: one turn of waiting and answering after the other.
//!
//! ```text
//!   supervised ◀──────── a successor connects ───────── orphan
//!       │                                                  ▲
//!       └── the channel ends, something is served ─────────┘
//!       └── the channel ends, nothing is served ──▶ exit
//! ```
//!
//! As an orphan the process serves what it served. TERM then means what `stop` means to a supervisor.

use std::cell::RefCell;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use handover_handoff::signals::{self, Signals};
use handover_handoff::succession::Door;
use handover_handoff::{Bundle, Channel, ChannelError};
use handover_supervisor::protocol::{ToSupervisor, WorkerChannel};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::candidates::Pending;
use super::drains::{Drains, ToDo};
use super::errands::Errands;
use super::guards::Guards;
use super::lasting::{Asks, Carried};
use super::loans::Loans;
use super::mailbox::{Mailbox, Post};
use super::moves::{After, Moves, Role};
use super::traffic::{KeptPrograms, Waits};
use super::{Notice, Number, SEND_WITHIN};
use crate::service::Service;
use crate::types::{ListenerSpec, Losses, Settings};

/// How often a drain's progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// How long an orphan drains on TERM if its configuration says nothing about it.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// How long the door stays shut after an accept failed, say because this process is out of descriptors.
const DOOR_PAUSE: Duration = Duration::from_millis(200);

/// The exit code of a worker whose service failed (sysexits.h, EX_SOFTWARE).
const EXIT_FAILED: u8 = 70;

/// What the control thread is made of.
pub(crate) struct Parts {
    pub(crate) service: Arc<dyn Service>,
    pub(crate) version: String,
    pub(crate) base: PathBuf,
    pub(crate) post: Post<Notice>,
    pub(crate) mailbox: Mailbox<Notice>,
    pub(crate) signals: Signals,
    pub(crate) door: Option<Door>,
    pub(crate) succession: Option<PathBuf>,
    pub(crate) channel: WorkerChannel,
}

/// The generation that serves, and what the next supervisor must be told of it.
pub(super) struct Served {
    pub(super) generation: u64,
    pub(super) bundle: Arc<Bundle>,
    pub(super) memfd: OwnedFd,
    pub(super) listeners: Vec<(ListenerSpec, OwnedFd)>,
    pub(super) settings: Settings,
    pub(super) summary: Vec<String>,
    /// The source's own name for it.
    pub(super) version: Option<String>,
}

/// The control thread's state.
pub(crate) struct Control {
    pub(super) errands: Errands,
    pub(super) version: String,
    pub(super) base: PathBuf,
    mailbox: Mailbox<Notice>,
    signals: Signals,
    /// Where the next supervisor comes in.
    door: Option<Door>,
    /// Where that is.
    succession: Option<PathBuf>,
    door_opens_at: Option<Instant>,
    /// `None` for an orphan.
    channel: Option<WorkerChannel>,
    /// Counts channels, so that the numbers of one are not taken for those of the next.
    pub(super) channels: u64,
    /// Whether this channel's supervisor has spoken.
    pub(super) welcomed: bool,
    /// The key that the first supervisor gave this worker.
    pub(super) key: Option<u64>,
    pub(super) pending: Option<Pending>,
    pub(super) served: Option<Served>,
    /// Sockets that are kept for the next supervisor, beside those that serve.
    pub(super) held: Vec<(ListenerSpec, OwnedFd)>,
    pub(super) carried: Option<Carried>,
    /// What the next supervisor needs to go on with the programs.
    pub(super) kept: Option<KeptPrograms>,
    pub(super) waits: Waits,
    pub(super) guards: Guards,
    pub(super) asks: Asks,
    pub(super) drains: Drains,
    pub(super) moves: Moves,
    pub(super) actions: usize,
    told_at: Instant,
    exit: Option<ExitCode>,
    /// Why the channel is of no more use, until the end of the turn in which that was found.
    broken: RefCell<Option<ChannelError>>,
}

impl Control {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            errands: Errands { service: parts.service, post: parts.post, loans: Loans::default() },
            version: parts.version,
            base: parts.base,
            mailbox: parts.mailbox,
            signals: parts.signals,
            door: parts.door,
            succession: parts.succession,
            door_opens_at: None,
            channel: Some(parts.channel),
            channels: 1,
            welcomed: false,
            key: None,
            pending: None,
            served: None,
            held: Vec::new(),
            carried: None,
            kept: None,
            waits: Waits::default(),
            guards: Guards::default(),
            asks: Asks::default(),
            drains: Drains::default(),
            moves: Moves::default(),
            actions: 0,
            told_at: Instant::now(),
            exit: None,
            broken: RefCell::new(None),
        }
    }

    /// Takes turns until the process is to end.
    pub(crate) fn run(mut self) -> ExitCode {
        loop {
            if let Some(code) = self.exit {
                return code;
            }
            if let Err(error) = self.wait() {
                // Nothing but poll itself fails here, and without it nothing can be waited for.
                tracing::error!("the worker cannot wait for its supervisor: {error}");
                return ExitCode::FAILURE;
            }
            self.take_messages();
            self.take_notices();
            self.take_signals();
            self.take_successor();
            self.look_at_clock();
            self.look_at_channel();
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) -> io::Result<()> {
        let mut fds =
            vec![PollFd::new(&self.mailbox, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(self.channel.as_ref().map(|channel| PollFd::new(channel, PollFlags::IN)));
        fds.extend(self.open_door().map(|door| PollFd::new(door, PollFlags::IN)));
        let timeout = self.timeout().and_then(|timeout| Timespec::try_from(timeout).ok());
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let tick = self.drains.is_draining().then(|| self.told_at + PROGRESS_EVERY);
        let moves = self.moves.next_at();
        let times = [tick, self.drains.exit_by(), self.door_opens_at, self.guards.next(), moves];
        let next = times.into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Descriptors that come with a message must find room, however many connections are open: the message is lost without them, and the
    /// supervisor with it. For no longer than that, so that no connection takes it; who accepts nothing yet may use all.
    fn take_messages(&mut self) {
        self.use_all_descriptors(true);
        self.take_all_messages();
        self.use_all_descriptors(matches!(self.moves.role, Role::StandingBy | Role::Taking));
    }

    fn use_all_descriptors(&self, all: bool) {
        if let Err(error) = handover_handoff::own::use_all_descriptors(all) {
            tracing::warn!("the limit of open descriptors cannot be changed: {error}");
        }
    }

    fn take_all_messages(&mut self) {
        while self.exit.is_none() && self.broken.borrow().is_none() {
            let Some(channel) = &self.channel else { return };
            match channel.try_recv() {
                Ok(Some((message, fds))) => self.handle(message, fds),
                Ok(None) => return,
                Err(error) => return self.supervisor_is_gone(&error),
            }
        }
    }

    fn take_notices(&mut self) {
        while let Some(notice) = self.mailbox.next() {
            self.note(notice);
        }
    }

    /// A supervised worker is told what to do by its supervisor, and by nobody else.
    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.next() {
            let name = signals::name(signal).unwrap_or("unknown");
            if self.channel.is_some() {
                tracing::debug!("signal {name} ignored: this worker listens to its supervisor");
                continue;
            }
            match name {
                "TERM" | "INT" | "QUIT" => {
                    tracing::info!("signal {name}: there is no supervisor, so the worker stops by itself");
                    let limit = self.served.as_ref().and_then(|served| served.settings.drain_limit);
                    self.stop(false, Some(limit.unwrap_or(DRAIN_LIMIT)));
                }
                "USR1" => self.reopen_logs(),
                _ => tracing::debug!("signal {name} ignored: there is no supervisor"),
            }
        }
    }

    /// The door, if somebody may come in: the supervisor is gone, and no successor has spoken yet.
    fn open_door(&self) -> Option<&Door> {
        let alone = self.channel.is_none() || (self.channels > 1 && !self.welcomed);
        let alone = alone && self.moves.role == Role::Serving;
        self.door.as_ref().filter(|_| alone && self.door_opens_at.is_none())
    }

    /// Another worker serves: that one is to be found.
    pub(super) fn close_door(&mut self) {
        self.door = None;
    }

    pub(super) fn open_door_again(&mut self) {
        let Some(path) = self.succession.as_ref().filter(|_| self.door.is_none()) else { return };
        match Door::open(path) {
            Ok(door) => self.door = Some(door),
            Err(error) => tracing::error!("the next supervisor will not find this worker: {error}"),
        }
    }

    /// The process is to end: when a move has ended.
    pub(super) fn stop(&mut self, now: bool, grace: Option<Duration>) {
        if !self.postpone_stop(now, grace) {
            let todo = self.drains.stop(now, grace);
            self.carry_out(todo, Losses::default());
        }
    }

    fn take_successor(&mut self) {
        match self.open_door().map(Door::accept) {
            None | Some(Ok(None)) => {}
            Some(Ok(Some(socket))) => self.follow(socket),
            Some(Err(error)) => {
                tracing::warn!("a would-be supervisor waits: {error}");
                self.door_opens_at = Some(Instant::now() + DOOR_PAUSE);
            }
        }
    }

    /// Takes a new supervisor. It speaks first; until it has, another may take its place.
    fn follow(&mut self, socket: OwnedFd) {
        match Channel::from_socket(socket) {
            Ok(channel) => {
                tracing::info!("another supervisor takes over this worker");
                self.channel = Some(channel);
                self.channels += 1;
                self.welcomed = false;
            }
            Err(error) => tracing::warn!("a would-be supervisor was turned away: {error}"),
        }
    }

    fn look_at_clock(&mut self) {
        let now = Instant::now();
        self.door_opens_at = self.door_opens_at.filter(|at| now < *at);
        self.look_at_figures(now);
        if self.moves.next_at().is_some_and(|at| now >= at) {
            self.begin_next();
        }
        if now >= self.told_at + PROGRESS_EVERY {
            self.told_at = now;
            if let Some((call, connections)) = self.drains.progress() {
                self.send(&ToSupervisor::DrainProgress { call, connections }, &[]);
            }
        }
        if self.exit.is_none() && self.drains.exit_by().is_some_and(|by| now >= by) {
            tracing::warn!("the service did not end in time; the process ends without it");
            let mut losses = Losses::default();
            losses.add("connection", self.drains.open());
            self.leave(&losses);
        }
    }

    /// Does what the drains ask for; `losses` are those of the drain that ended.
    pub(super) fn carry_out(&mut self, todo: ToDo, losses: Losses) {
        if let Some(drain) = &todo.drain {
            self.errands.drain(drain);
        }
        if todo.stop_now {
            self.errands.stop_now();
        }
        if todo.resume {
            self.errands.resume();
        }
        if let Some(call) = todo.resumed {
            self.send(&ToSupervisor::Resumed { call }, &[]);
        }
        if todo.exit {
            if !self.part(After::Exit, &losses) {
                self.leave(&losses);
            }
            return;
        }
        if let Some(call) = todo.drained {
            if self.part(After::Answer(call), &losses) {
                return;
            }
            self.send(&ToSupervisor::Drained { call, losses, late: Default::default(), ended: 0 }, &[]);
        }
    }

    /// Ends the process, after saying what that cost.
    pub(super) fn leave(&mut self, losses: &Losses) {
        if !losses.is_empty() {
            if self.channel.is_none() {
                tracing::warn!("the worker ends: {losses}");
            }
            self.send(&ToSupervisor::Stopping { losses: losses.clone() }, &[]);
        }
        self.exit = Some(ExitCode::SUCCESS);
    }

    /// The service cannot go on: the supervisor sees the process end, and starts another.
    pub(super) fn fail(&mut self, why: &str) {
        tracing::error!("the worker gives up: {why}");
        self.exit = Some(ExitCode::from(EXIT_FAILED));
    }

    /// Sends a message. A channel that breaks over it is noticed at the end of the turn.
    ///
    /// # Errors
    /// The message cannot be sent as it is; the channel is of use for others.
    pub(super) fn try_send(
        &self,
        message: &ToSupervisor,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let Some(channel) = &self.channel else { return Ok(()) };
        if self.broken.borrow().is_some() {
            return Ok(());
        }
        match channel.send(message, fds, SEND_WITHIN) {
            Err(error) if error.is_before_sending() => Err(error),
            Err(error) => {
                self.broken.replace(Some(error));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Sends a message that nothing takes the place of.
    pub(super) fn send(&self, message: &ToSupervisor, fds: &[BorrowedFd<'_>]) {
        if let Err(error) = self.try_send(message, fds) {
            tracing::error!("a message to the supervisor was not sent: {error}");
        }
    }

    /// Lets go of a channel that broke while something was sent.
    fn look_at_channel(&mut self) {
        let broken = self.broken.take();
        if let Some(error) = broken {
            self.supervisor_is_gone(&error);
        }
    }

    /// The channel has ended: what somebody waited for there is dropped, and what serves goes on serving.
    fn supervisor_is_gone(&mut self, why: &ChannelError) {
        self.channel = None;
        self.drains.forget_calls();
        self.guards.forget();
        self.waits.call_off();
        if let Some(pending) = self.pending.take() {
            pending.abandon();
        }
        if self.exit.is_some() || self.drains.exit_by().is_some() {
            return; // on the way out anyway
        }
        match self.moves.role {
            Role::Serving => {}
            Role::StandingBy => {
                tracing::info!("the supervisor is gone, and another worker serves: this one ends");
                self.exit = Some(ExitCode::SUCCESS);
                return;
            }
            Role::Leaving => return self.leave_when_drained(),
            Role::Giving | Role::Taking => {
                tracing::warn!("the supervisor is gone; connections are moved to the end");
                return;
            }
        }
        let known = matches!(why, ChannelError::Closed);
        match &self.served {
            None => self.fail(&format!("there is no supervisor, and nothing is served yet: {why}")),
            Some(served) if known => {
                tracing::warn!(generation = served.generation, "the supervisor is gone; serving goes on");
            }
            Some(served) => tracing::error!(
                generation = served.generation,
                "the channel to the supervisor is broken; serving goes on: {why}"
            ),
        }
    }

    /// The number, as one of the channel that is open now.
    pub(super) fn number(&self, number: u64) -> Number {
        Number { channel: self.channels, number }
    }

    pub(super) fn is_of_now(&self, number: Number) -> bool {
        self.channel.is_some() && number.channel == self.channels
    }

    /// Whether a supervisor listens.
    pub(super) fn is_supervised(&self) -> bool {
        self.channel.is_some() && self.welcomed
    }

    pub(super) fn reopen_logs(&self) {
        crate::host::reopen_logs();
        self.errands.service.reopen_logs();
    }
}
