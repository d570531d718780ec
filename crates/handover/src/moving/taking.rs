//! Taking over, with a clock, a socket and a service: performs what [`Taker`] says.
//!
//! ```text
//!   thread of the move: socket, pidfd, mailbox, clock ─▶ Taker ─▶ actions
//!   thread of the calls:  sockets, adopt, serve, late, add_totals: in the order in which they came
//! ```

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use handover_handoff::{Channel, ChannelError, Companion, memfd};
use zeroize::Zeroizing;

use super::calls::Calls;
use super::taker::{Action, Event, Taker};
use super::waiting::{Ends, wait};
use super::wire::{
    MAX_LATE_BYTES, OLDEST_PEER_VERSION, PEER_VERSION, Sample, State, TakerChannel, ToGiver, ToTaker, common,
    unseal,
};
use super::{Counts, Outlet, formats};
use crate::service::{Candidate, Service};
use crate::types::Losses;
use crate::worker::{Mailbox, Post, mailbox};

/// How long the giver may leave the socket full.
const SEND_WITHIN: Duration = Duration::from_secs(2);

/// What is to be taken over, and from whom.
pub(crate) struct Take {
    pub(crate) service: Arc<dyn Service>,
    /// A generation that is committed only now, because the service cannot stand by.
    pub(crate) deferred: Option<Box<dyn Candidate>>,
    /// This end of the socket pair.
    pub(crate) socket: OwnedFd,
    /// The giver's process.
    pub(crate) companion: Companion,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Took {
    /// This worker serves.
    Serves { moved: Counts, losses: Losses, freeze: Duration, figures: Vec<Sample> },
    /// It never will.
    Failed { why: String },
    /// This process must end.
    GiveUp { why: String },
    /// After `Serves`: the conversation is over, and everything that came late has been taken.
    Over,
}

/// A move that takes, for the control thread.
#[derive(Debug)]
pub(crate) struct Taking {
    post: Post<Note>,
}

impl Taking {
    /// Begins; what comes of it is told to `tell`, from other threads.
    ///
    /// # Errors
    /// The socket is none, or the process is out of descriptors or threads. Nothing has begun then.
    pub(crate) fn begin(take: Take, tell: impl Fn(Took) + Send + 'static) -> io::Result<Self> {
        let Take { service, deferred, socket, companion } = take;
        let (mailbox, post) = mailbox()?;
        let channel = Channel::from_socket(socket).map_err(io::Error::other)?;
        let calls = Calls::start(&service)?;
        let (machine, first) = Taker::begin();
        let driver = Driver {
            machine,
            channel,
            companion,
            calls,
            mailbox,
            post: post.clone(),
            tell: Box::new(tell),
            deferred,
            ends: Ends::default(),
            deadline: None,
            format: None,
            open: None,
            incoming: None,
            messages: 0,
            adopted: Counts::new(),
            figures: Vec::new(),
            frozen: None,
            serves: false,
            over: false,
        };
        std::thread::Builder::new().name("moving".to_owned()).spawn(move || driver.run(first))?;
        Ok(Self { post })
    }

    /// This worker is about to give everything back: asks the giver of before to send nothing more. [`Took::Over`] follows.
    pub(crate) fn finish(&self) {
        self.post.send(Note::Event(Event::Finish));
    }
}

/// What other threads tell the thread of the move.
enum Note {
    Event(Event),
    Adopted(Result<Counts, String>),
    /// So many messages were taken.
    Taken(u64),
}

/// What came with the message that is acted upon.
enum Incoming {
    Sockets { thread: u32, first: u64, sockets: Vec<OwnedFd> },
    State { state: Box<State>, file: OwnedFd },
    Late { thread: u32, file: OwnedFd, sockets: Vec<OwnedFd> },
    Totals { file: OwnedFd },
}

struct Driver {
    machine: Taker,
    channel: TakerChannel,
    companion: Companion,
    calls: Calls,
    mailbox: Mailbox<Note>,
    post: Post<Note>,
    tell: Box<dyn Fn(Took) + Send>,
    deferred: Option<Box<dyn Candidate>>,
    ends: Ends,
    deadline: Option<Instant>,
    /// The version to be spoken, and what is read; none if nothing moves.
    format: Option<u16>,
    /// How many connections the giver had open when it began.
    open: Option<u64>,
    incoming: Option<Incoming>,
    /// Messages with sockets that came.
    messages: u64,
    adopted: Counts,
    figures: Vec<Sample>,
    /// For how long nothing had been served at the commit, and when that was.
    frozen: Option<(Duration, Instant)>,
    serves: bool,
    over: bool,
}

impl Driver {
    fn run(mut self, first: Vec<Action>) {
        self.act(first);
        while !self.over {
            if let Err(error) = wait(&self.channel, &self.companion, &self.mailbox, &self.ends, self.deadline)
            {
                self.event(Event::Nonsense(format!("the old worker cannot be waited for: {error}")));
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
        if self.serves {
            let Self { calls, tell, .. } = self;
            calls.finish();
            tell(Took::Over);
        }
    }

    fn read(&mut self) {
        while !self.over && !self.ends.closed {
            match self.channel.try_recv() {
                Ok(Some((message, fds))) => {
                    let event = self.hear(message, fds).unwrap_or_else(Event::Nonsense);
                    self.event(event);
                }
                Ok(None) => return,
                Err(error) => {
                    self.ends.closed = true;
                    self.event(match error {
                        ChannelError::Closed => Event::Closed,
                        error @ ChannelError::Truncated { .. } => Event::Nonsense(error.to_string()),
                        error => Event::Nonsense(format!("the old worker cannot be understood: {error}")),
                    });
                }
            }
        }
    }

    /// What it has said before it ended counts first.
    fn look_at_companion(&mut self) {
        if !self.ends.dead && self.companion.has_ended().unwrap_or(false) {
            self.read();
            if !std::mem::replace(&mut self.ends.closed, true) {
                self.event(Event::Closed);
            }
            self.ends.dead = true;
            self.event(Event::Dead);
        }
    }

    /// What the message means.
    fn hear(&mut self, message: ToTaker, fds: Vec<OwnedFd>) -> Result<Event, String> {
        let mut fds = fds.into_iter();
        let mut file = || fds.next().ok_or_else(|| "a message came without what belongs to it".to_owned());
        match message {
            ToTaker::Offer { versions, formats: theirs, open } => {
                if common(&(OLDEST_PEER_VERSION..=PEER_VERSION), versions).is_none() {
                    return Err(format!("the old worker hands over in versions {versions:?} only"));
                }
                let ours = formats(self.calls.service());
                self.format = ours.zip(theirs).and_then(|(ours, theirs)| common(&ours, theirs));
                self.open = open;
                Ok(Event::Offered)
            }
            ToTaker::Sockets { thread, first } => {
                let sockets: Vec<OwnedFd> = fds.collect();
                if sockets.is_empty() || sockets.len() > Outlet::MAX_BATCH || self.format.is_none() {
                    return Err(format!("{} sockets came in one message", sockets.len()));
                }
                self.incoming = Some(Incoming::Sockets { thread, first, sockets });
                Ok(Event::Sockets)
            }
            ToTaker::State(state) => {
                self.incoming = Some(Incoming::State { state, file: file()? });
                Ok(Event::State)
            }
            ToTaker::Commit { frozen } => {
                self.frozen = Some((frozen, Instant::now()));
                Ok(Event::Commit)
            }
            ToTaker::Late { thread } => {
                let file = file()?;
                self.incoming = Some(Incoming::Late { thread, file, sockets: fds.collect() });
                Ok(Event::Late)
            }
            ToTaker::Totals => {
                self.incoming = Some(Incoming::Totals { file: file()? });
                Ok(Event::Totals)
            }
            ToTaker::Bye => Ok(Event::Bye),
        }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Event(event) => self.event(event),
            Note::Adopted(Ok(counts)) => {
                self.adopted = counts;
                self.event(Event::Adopted(Ok(())));
            }
            Note::Adopted(Err(why)) => self.event(Event::Adopted(Err(why))),
            // A giver that does not hear it sends no more; that it is gone is noticed by reading.
            Note::Taken(messages) => drop(self.say(&ToGiver::Taken { messages })),
        }
    }

    fn event(&mut self, event: Event) {
        let actions = self.machine.step(event);
        self.incoming = self.incoming.take().filter(|_| !actions.is_empty());
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
        tracing::trace!(?action, "taking over");
        match action {
            Action::Accept => {
                return self.say(&ToGiver::Accept { version: PEER_VERSION, format: self.format });
            }
            Action::SayReady => return self.say(&ToGiver::Ready),
            Action::Refuse(why) => drop(self.say(&ToGiver::Refuse { why })),
            Action::SayEnough => drop(self.say(&ToGiver::Enough)),
            Action::Take | Action::Late | Action::Totals => self.take(),
            Action::Adopt => self.adopt(),
            Action::Serve { adopted } => self.serve(adopted),
            Action::TookOver { orphaned } => self.took_over(orphaned),
            Action::Failed(why) => (self.tell)(Took::Failed { why }),
            Action::GiveUp(why) => (self.tell)(Took::GiveUp { why }),
            Action::Deadline(within) => self.deadline = within.map(|within| Instant::now() + within),
            Action::End => self.over = true,
        }
        None
    }

    fn say(&mut self, message: &ToGiver) -> Option<Event> {
        match self.channel.send(message, &[], SEND_WITHIN) {
            Ok(()) | Err(ChannelError::Closed) => None,
            Err(error) => Some(Event::Nonsense(format!("the old worker cannot be told: {error}"))),
        }
    }

    /// Gives what came to the service, behind everything that came before.
    fn take(&mut self) {
        let format = self.format.unwrap_or_default();
        match self.incoming.take() {
            Some(Incoming::Sockets { thread, first, sockets }) => self.hand(move |service| {
                if let Some(moving) = service.moving() {
                    moving.sockets(thread, first, sockets);
                }
            }),
            Some(Incoming::Late { thread, file, sockets }) => self.hand(move |service| {
                let state = match memfd::read_sealed(&file, MAX_LATE_BYTES) {
                    Ok(state) => Zeroizing::new(state),
                    Err(error) => return tracing::error!("a connection that came late is lost: {error}"),
                };
                if let Some(moving) = service.moving() {
                    moving.late(format, thread, &state, sockets);
                }
            }),
            Some(Incoming::Totals { file }) => {
                let call = move |service: &dyn Service| match memfd::read_sealed(&file, MAX_LATE_BYTES) {
                    Ok(totals) => service.moving().into_iter().for_each(|moving| moving.add_totals(&totals)),
                    Err(error) => tracing::warn!("what the old worker counted last is lost: {error}"),
                };
                self.calls.call("adding totals", call, log);
            }
            Some(Incoming::State { .. }) | None => {}
        }
    }

    /// A message with sockets: acknowledged when the service has them.
    fn hand(&mut self, call: impl FnOnce(&dyn Service) + Send + 'static) {
        self.messages += 1;
        let (post, messages) = (self.post.clone(), self.messages);
        self.calls.call("taking connections", call, move |result| {
            log(result);
            post.send(Note::Taken(messages));
        });
    }

    fn adopt(&mut self) {
        let Some(Incoming::State { mut state, file }) = self.incoming.take() else { return };
        self.figures = std::mem::take(&mut state.figures);
        let (post, format) = (self.post.clone(), self.format);
        let call = move |service: &dyn Service| {
            let view = unseal(&state, &file)?;
            match service.moving().zip(format) {
                Some((moving, format)) => moving.adopt(format, view),
                None => Ok(Counts::new()),
            }
        };
        self.calls.call("reading the connections", call, move |result| {
            post.send(Note::Adopted(result.and_then(|adopted| adopted)));
        });
    }

    fn serve(&mut self, adopted: bool) {
        if !adopted {
            self.adopted = Counts::new();
        }
        let (post, deferred) = (self.post.clone(), self.deferred.take());
        let call = move |service: &dyn Service| match (service.moving(), deferred) {
            (Some(moving), _) => moving.serve(),
            (None, Some(candidate)) => candidate.commit(),
            (None, None) => service.resume(),
        };
        self.calls.call("serving", call, move |result| match result {
            Ok(()) => post.send(Note::Event(Event::Served)),
            // Nobody knows what serves: the deadline ends this process.
            Err(why) => tracing::error!("{why}"),
        });
    }

    fn took_over(&mut self, orphaned: bool) {
        self.serves = true;
        let moved = std::mem::take(&mut self.adopted);
        let mut losses = Losses::default();
        if orphaned {
            match self.open {
                Some(open) => losses.add("connection", open.saturating_sub(moved.values().sum())),
                None => losses.add("unknown", 1),
            }
        }
        let freeze = self.frozen.map_or(Duration::ZERO, |(frozen, at)| frozen + at.elapsed());
        let figures = std::mem::take(&mut self.figures);
        (self.tell)(Took::Serves { moved, losses, freeze, figures });
    }
}

fn log(result: Result<(), String>) {
    if let Err(why) = result {
        tracing::error!("{why}");
    }
}
