//! Giving, with a clock, a socket and a service: performs what [`Giver`] says.
//!
//! ```text
//!   thread of the move: socket, pidfd, mailbox, clock ─▶ Giver ─▶ actions
//!   thread of the calls:   precopy, freeze, thaw, release, totals
//!   the service's threads: sockets and late connections, through the outlet
//! ```

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use handover_handoff::{Channel, ChannelError, Companion, memfd, own};

use super::calls::Calls;
use super::giver::{Action, Event, Giver};
use super::link::{Link, LinkSink, Unsent};
use super::waiting::{Ends, wait};
use super::wire::{OLDEST_PEER_VERSION, PEER_VERSION, Sample, ToGiver, ToTaker, seal};
use super::{Counts, Frozen, Outlet, formats};
use crate::service::Service;
use crate::worker::{Mailbox, Post, mailbox};

/// How long a service may take to go on after a move that was called off; by contract that is at once.
const THAW_WITHIN: Duration = Duration::from_secs(2);

/// What is to be given, and to whom.
pub(crate) struct Give {
    pub(crate) service: Arc<dyn Service>,
    /// This end of the socket pair.
    pub(crate) socket: OwnedFd,
    /// The taker's process.
    pub(crate) companion: Companion,
    /// What a guard compares with, as of now.
    pub(crate) figures: Vec<Sample>,
    /// By when the taker must serve, or nothing is moved.
    pub(crate) until: Instant,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Gave {
    /// The taker serves, and this worker accepts nothing more. About so many connections are `left`.
    HandedOver { moved: Counts, freeze: Duration, left: u64 },
    /// Nothing has changed: this worker serves on.
    Failed { why: String },
    /// This process must end.
    GiveUp { why: String },
    /// After `HandedOver`: the conversation is over.
    Parted { late: Counts },
}

/// A move that gives, for the control thread.
#[derive(Debug)]
pub(crate) struct Giving {
    post: Post<Note>,
}

impl Giving {
    /// Begins; what comes of it is told to `tell`, from other threads.
    ///
    /// # Errors
    /// The socket is none, or the process is out of descriptors or threads. Nothing has begun then, and the taker was
    /// sent SIGKILL.
    pub(crate) fn begin(give: Give, tell: impl Fn(Gave) + Send + 'static) -> io::Result<Self> {
        let Give { service, socket, companion, figures, until } = give;
        let parts = || {
            let (mailbox, post) = mailbox()?;
            let link = Link::new(Channel::from_socket(socket).map_err(io::Error::other)?);
            Ok::<_, io::Error>((mailbox, post, link, Calls::start(&service)?))
        };
        let (mailbox, post, link, calls) = match parts() {
            Ok(parts) => parts,
            Err(error) => {
                companion.kill()?;
                return Err(error);
            }
        };
        let (machine, first) = Giver::begin();
        let driver = Driver {
            machine,
            link,
            companion,
            calls,
            mailbox,
            post: post.clone(),
            tell: Box::new(tell),
            figures: (Instant::now(), figures),
            ends: Ends::default(),
            until,
            deadline: None,
            format: None,
            outlet: None,
            frozen: None,
            moved: Counts::new(),
            open: None,
            froze_at: Instant::now(),
            freeze: Duration::ZERO,
            handed_over: false,
            over: false,
        };
        std::thread::Builder::new().name("moving".to_owned()).spawn(move || driver.run(first))?;
        Ok(Self { post })
    }

    /// The service has drained: nothing is left that could be sent.
    pub(crate) fn drained(&self) {
        self.post.send(Note::Event(Event::Drained));
    }
}

/// What other threads tell the thread of the move.
enum Note {
    Event(Event),
    Frozen(Result<Frozen, String>),
    Totals(Vec<u8>),
}

struct Driver {
    machine: Giver,
    link: Arc<Link>,
    companion: Companion,
    calls: Calls,
    mailbox: Mailbox<Note>,
    post: Post<Note>,
    tell: Box<dyn Fn(Gave) + Send>,
    /// With the time to which they count back.
    figures: (Instant, Vec<Sample>),
    ends: Ends,
    until: Instant,
    deadline: Option<Instant>,
    /// What is written; none if nothing moves.
    format: Option<u16>,
    outlet: Option<Arc<Outlet>>,
    frozen: Option<Frozen>,
    moved: Counts,
    /// Connections that were open at the beginning.
    open: Option<u64>,
    froze_at: Instant,
    freeze: Duration,
    handed_over: bool,
    over: bool,
}

impl Driver {
    fn run(mut self, first: Vec<Action>) {
        self.act(first);
        while !self.over {
            if let Err(error) = wait(&*self.link, &self.companion, &self.mailbox, &self.ends, self.deadline) {
                self.event(Event::Nonsense(format!("the new worker cannot be waited for: {error}")));
                // Without poll nothing can be heard any more; the deadline still comes.
                std::thread::yield_now();
            }
            self.read();
            while let Some(note) = self.mailbox.next() {
                self.note(note);
            }
            self.look_at_companion();
            if self.deadline.is_some_and(|at| Instant::now() >= at) {
                self.deadline = None;
                self.event(Event::TimeOver);
            }
        }
        if self.handed_over {
            let late = self.outlet.as_ref().map_or_else(Counts::new, |outlet| outlet.late());
            (self.tell)(Gave::Parted { late });
        }
    }

    fn read(&mut self) {
        while !self.over && !self.ends.closed {
            match self.link.try_recv() {
                Ok(Some((message, _no_fds))) => self.hear(message),
                Ok(None) => return,
                Err(error) => {
                    self.ends.closed = true;
                    self.event(match error {
                        ChannelError::Closed => Event::Closed,
                        error => Event::Nonsense(format!("the new worker cannot be understood: {error}")),
                    });
                }
            }
        }
    }

    /// What it has said before it ended counts first.
    fn look_at_companion(&mut self) {
        if !self.ends.dead && self.companion.has_ended().unwrap_or(false) {
            self.read();
            self.ends.dead = true;
            self.event(Event::Dead);
        }
    }

    fn hear(&mut self, message: ToGiver) {
        match message {
            ToGiver::Accept { version, format } => {
                let ours = formats(self.calls.service());
                let known = format.is_none_or(|format| ours.is_some_and(|ours| ours.contains(&format)));
                if !known || !(OLDEST_PEER_VERSION..=PEER_VERSION).contains(&version) {
                    let why = format!("the new worker wants version {version} and format {format:?}");
                    return self.event(Event::Nonsense(why));
                }
                self.format = format;
                self.event(Event::Accepted { moves: format.is_some() });
            }
            ToGiver::Taken { messages } => {
                if let Err(why) = self.link.taken(messages) {
                    self.event(Event::Nonsense(why));
                }
            }
            ToGiver::Ready => self.event(Event::Ready),
            ToGiver::Refuse { why } => self.event(Event::Refused(why)),
            ToGiver::Enough => self.event(Event::Enough),
        }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Event(event) => self.event(event),
            Note::Frozen(Ok(frozen)) => {
                self.moved.clone_from(&frozen.moved);
                self.frozen = Some(frozen);
                self.event(Event::Frozen(Ok(())));
            }
            Note::Frozen(Err(why)) => self.event(Event::Frozen(Err(why))),
            Note::Totals(totals) => self.part(&totals),
        }
    }

    fn event(&mut self, event: Event) {
        let actions = self.machine.step(event);
        self.act(actions);
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            if let Some(event) = self.perform(action) {
                self.event(event);
            }
        }
    }

    fn perform(&mut self, action: Action) -> Option<Event> {
        tracing::trace!(?action, "giving");
        match action {
            Action::Offer => return self.offer(),
            Action::Precopy => self.precopy(),
            Action::Freeze => return self.freeze(),
            Action::SendState => return self.send_state(),
            Action::Commit => return Some(self.commit()),
            Action::CloseOutlet => self.link.close(),
            Action::Kill => {
                if let Err(error) = self.companion.kill() {
                    tracing::error!("process {} cannot be ended: {error}", self.companion.pid());
                }
            }
            Action::Thaw => self.thaw(),
            Action::Release => self.release(),
            Action::HandedOver => {
                self.handed_over = true;
                let moved = std::mem::take(&mut self.moved);
                let left = self.open.unwrap_or(0).saturating_sub(moved.values().sum());
                (self.tell)(Gave::HandedOver { moved, freeze: self.freeze, left });
            }
            Action::Failed(why) => (self.tell)(Gave::Failed { why }),
            Action::GiveUp(why) => (self.tell)(Gave::GiveUp { why }),
            Action::Part => return self.totals(),
            Action::Deadline(within) => {
                let at = Instant::now() + within;
                let first = self.machine.may_be_called_off();
                self.deadline = Some(if first { at.min(self.until) } else { at });
            }
            Action::End => self.over = true,
        }
        None
    }

    /// Sends a message; says what it means if that fails.
    fn say(&mut self, message: &ToTaker, file: Option<&OwnedFd>) -> Option<Event> {
        let fds: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
        match self.link.say(message, &fds) {
            Ok(()) => None,
            Err(Unsent::Closed) => Some(Event::Closed),
            Err(Unsent::Failed(why)) => Some(Event::Nonsense(why)),
        }
    }

    fn offer(&mut self) -> Option<Event> {
        let formats = formats(self.calls.service()).map(|formats| [*formats.start(), *formats.end()]);
        let open = self.calls.service().open_connections();
        let versions = [OLDEST_PEER_VERSION, PEER_VERSION];
        self.open = open;
        self.say(&ToTaker::Offer { versions, formats, open }, None)
    }

    fn precopy(&mut self) {
        let outlet = Outlet::new(Box::new(LinkSink(Arc::clone(&self.link))));
        self.outlet = Some(Arc::clone(&outlet));
        let (post, format) = (self.post.clone(), self.format.unwrap_or_default());
        let call = move |service: &dyn Service| {
            if let Some(moving) = service.moving() {
                moving.precopy(&outlet, format);
            }
        };
        self.calls.call("sending sockets ahead", call, move |result| {
            post.send(Note::Event(match result {
                Ok(()) => Event::Copied,
                Err(why) => Event::Nonsense(why),
            }));
        });
    }

    fn freeze(&mut self) -> Option<Event> {
        self.froze_at = Instant::now();
        if self.format.is_none() {
            self.frozen = Some(Frozen::default());
            return Some(Event::Frozen(Ok(())));
        }
        let post = self.post.clone();
        let call =
            |service: &dyn Service| service.moving().map_or(Ok(Frozen::default()), |moving| moving.freeze());
        self.calls.call("writing the connections down", call, move |result| match result {
            Ok(frozen) => post.send(Note::Frozen(frozen)),
            // Some threads may stand still: they are told to go on, when that is safe.
            Err(why) => {
                post.send(Note::Event(Event::Nonsense(why)));
                post.send(Note::Frozen(Ok(Frozen::default())));
            }
        });
        None
    }

    fn send_state(&mut self) -> Option<Event> {
        let frozen = self.frozen.take().unwrap_or_default();
        let (as_of, mut figures) = (self.figures.0, std::mem::take(&mut self.figures.1));
        for sample in &mut figures {
            sample.ago += as_of.elapsed();
        }
        // Nothing is accepted while all stands still: what is kept back is for this.
        if let Err(error) = own::use_all_descriptors(true) {
            tracing::warn!("the limit of open descriptors cannot be changed: {error}");
        }
        let sealed = seal(&frozen, figures);
        if let Err(error) = own::use_all_descriptors(false) {
            tracing::warn!("the limit of open descriptors cannot be changed: {error}");
        }
        match sealed {
            Ok((state, file)) => self.say(&ToTaker::State(Box::new(state)), Some(&file)),
            Err(why) => Some(Event::Nonsense(format!("the connections cannot be sent: {why}"))),
        }
    }

    fn commit(&mut self) -> Event {
        let frozen = self.froze_at.elapsed();
        match self.link.say(&ToTaker::Commit { frozen }, &[]) {
            Ok(()) => {
                self.freeze = self.froze_at.elapsed();
                self.link.committed();
                Event::CommitSent
            }
            Err(Unsent::Closed) => Event::Nonsense("the new worker has ended".to_owned()),
            Err(Unsent::Failed(why)) => Event::Nonsense(why),
        }
    }

    /// Waits for it, since the supervisor is told next that this worker serves as before; but not for ever.
    fn thaw(&mut self) {
        if self.format.is_none() {
            return;
        }
        let (done, returned) = mpsc::channel();
        let call = |service: &dyn Service| service.moving().into_iter().for_each(super::Moving::thaw);
        self.calls.call("going on", call, move |result| {
            let _ = done.send(result);
        });
        match returned.recv_timeout(THAW_WITHIN) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::error!("{why}"),
            Err(_) => tracing::error!("the service takes long to go on after a move that was called off"),
        }
    }

    fn release(&mut self) {
        let (post, moves) = (self.post.clone(), self.format.is_some());
        let call = move |service: &dyn Service| {
            if let Some(moving) = service.moving().filter(|_| moves) {
                moving.release();
            }
        };
        self.calls.call("letting go of connections", call, move |result| match result {
            Ok(()) => post.send(Note::Event(Event::Released)),
            // It is not certain that nothing is touched any more: the deadline ends this process.
            Err(why) => tracing::error!("{why}"),
        });
    }

    fn totals(&mut self) -> Option<Event> {
        if self.format.is_none() {
            self.part(&[]);
            return None;
        }
        let post = self.post.clone();
        let call = |service: &dyn Service| service.moving().map_or_else(Vec::new, super::Moving::totals);
        self.calls.call("adding up", call, move |result| {
            post.send(Note::Totals(result.unwrap_or_default()));
        });
        None
    }

    /// The last words. If nobody hears them, nothing but figures is lost.
    fn part(&mut self, totals: &[u8]) {
        if !totals.is_empty() {
            match memfd::sealed("handover-totals", totals) {
                Ok(file) => drop(self.say(&ToTaker::Totals, Some(&file))),
                Err(error) => tracing::warn!("what this worker counted last is lost: {error}"),
            }
        }
        let _ = self.say(&ToTaker::Bye, None);
        self.event(Event::Parted);
    }
}
