//! The side that serves and gives away. Pure: no clock, no socket; events in, actions out.
//!
//! ```text
//!   Offering ─ Accepted ─▶ Copying ─ Copied ─▶ Freezing ─ Frozen ─▶ Sealed ─ Ready ─▶ Committing ─ CommitSent ─▶ Releasing
//!      │ (nothing can move) ──────────────────────▲                                        │                      │ Released
//!      │                                                                                   │                      ▼
//!      └── refused, broken, nonsense, dead, out of time: from any of these ────────────────┘                   Following
//!                      │                                                                                          │ Drained, Enough
//!                      ▼                                                                                          ▼
//!                  Stopping ─ the taker is dead and the service stands still no more ─▶ (thaw, failed)         Parting ─▶ Over
//!                      │ out of time
//!                      ├── no state was sent: the taker has nothing to serve ─▶ (thaw, failed)
//!                      └── it has the states, and may live ─▶ (give up: this process ends)
//! ```
//!
//! Two processes that both go on with a connection would encrypt different bytes under the same key and nonce, and answer one
//! request twice. So once states were sent, this side serves again only when the taker is dead for certain.

use std::time::Duration;

/// How long the taker may take to say which format it wants.
const OFFER_WITHIN: Duration = Duration::from_secs(3);
/// How long sockets are sent ahead while everything is served.
const COPY_WITHIN: Duration = Duration::from_secs(4);
/// How long the threads may take to stand still and to write everything down.
const FREEZE_WITHIN: Duration = Duration::from_secs(3);
/// How long the taker may take to read and check all states.
const READY_WITHIN: Duration = Duration::from_secs(3);
/// How long the threads may take to let go of what was handed over.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);
/// How long a process may take to die of SIGKILL, and the service to come back from what it was doing.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How long the last words may take. They are sent by then, or nobody reads them.
const PART_WITHIN: Duration = Duration::from_secs(2);

/// What happens to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The taker has answered the offer. False: nothing can move, and it only wants the word to serve.
    Accepted { moves: bool },
    /// The taker cannot, and says why.
    Refused(String),
    /// The service has sent nearly all sockets ahead.
    Copied,
    /// The service stands still and has written everything down, or cannot.
    Frozen(Result<(), String>),
    /// The taker has checked everything.
    Ready,
    /// The taker's messages make no sense, or something could not be sent.
    Nonsense(String),
    /// The taker has closed its end.
    Closed,
    /// The taker's process has ended.
    Dead,
    /// What [`Action::Deadline`] asked for has come.
    TimeOver,
    /// The commit is on its way: the taker will read it.
    CommitSent,
    /// The service has let go of everything that moved.
    Released,
    /// The service has drained.
    Drained,
    /// The taker wants nothing more: it is about to give everything back.
    Enough,
    /// The last words were sent, or cannot be.
    Parted,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Say what can be moved.
    Offer,
    /// Have the service send sockets ahead.
    Precopy,
    /// Have it stand still and write everything down.
    Freeze,
    /// Send what it has written down.
    SendState,
    /// Say that the taker serves. Answered at once by [`Event::CommitSent`], or by [`Event::Nonsense`] if it is certain
    /// that the taker will never read it.
    Commit,
    /// Let nothing more be sent by the service's threads.
    CloseOutlet,
    /// End the taker's process.
    Kill,
    /// Have the service go on as before.
    Thaw,
    /// Have it let go of everything that moved.
    Release,
    /// Tell the worker that the taker serves.
    HandedOver,
    /// Tell it that nothing has changed, and why.
    Failed(String),
    /// End this process: it must not serve again, and cannot give.
    GiveUp(String),
    /// Say the last words: totals and goodbye.
    Part,
    /// Bring [`Event::TimeOver`] after this long, instead of what was asked for before.
    Deadline(Duration),
    /// Nothing is left to be done.
    End,
}

/// The side that gives.
#[derive(Debug)]
pub(crate) struct Giver {
    state: State,
    /// The taker's process has ended.
    dead: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Offering,
    Copying,
    Freezing,
    Sealed,
    Committing,
    Releasing { enough: bool },
    Following,
    Parting,
    Stopping(Stopping),
    Over,
}

/// A move that is called off.
#[derive(Debug, PartialEq, Eq)]
struct Stopping {
    why: String,
    phase: Phase,
}

/// How far a move was when it was called off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The service has not begun, or goes on by itself.
    NothingDone,
    /// It sends sockets ahead, and serves.
    Copying,
    /// It has sent them, or stands still; it must be told to go on.
    Copied,
    /// It is about to stand still.
    Freezing,
    /// The same, and the taker may have all states.
    Sealed,
}

impl Phase {
    fn is_busy(self) -> bool {
        matches!(self, Phase::Copying | Phase::Freezing)
    }
}

impl Giver {
    /// A move that begins, and what is to be done first.
    pub(crate) fn begin() -> (Self, Vec<Action>) {
        let actions = vec![Action::Deadline(OFFER_WITHIN), Action::Offer];
        (Self { state: State::Offering, dead: false }, actions)
    }

    /// Whether the taker has not been told to serve, and nothing has gone wrong.
    pub(crate) fn may_be_called_off(&self) -> bool {
        matches!(self.state, State::Offering | State::Copying | State::Freezing | State::Sealed)
    }

    /// Whether the taker was told to serve.
    #[cfg(test)]
    pub(crate) fn has_committed(&self) -> bool {
        matches!(self.state, State::Releasing { .. } | State::Following | State::Parting)
    }

    /// Whether nothing is left to be done.
    #[cfg(test)]
    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// What follows from what happened.
    pub(crate) fn step(&mut self, event: Event) -> Vec<Action> {
        if event == Event::Dead {
            self.dead = true;
        }
        match std::mem::replace(&mut self.state, State::Over) {
            State::Offering => self.offering(event),
            State::Copying => self.copying(event),
            State::Freezing => self.freezing(event),
            State::Sealed => self.sealed(event),
            State::Committing => self.committing(event),
            State::Releasing { enough } => self.releasing(&event, enough),
            State::Following => self.following(&event),
            State::Parting => self.parting(&event),
            State::Stopping(stopping) => self.stopping(&event, stopping),
            State::Over => Vec::new(),
        }
    }

    fn go(&mut self, state: State, actions: Vec<Action>) -> Vec<Action> {
        self.state = state;
        actions
    }

    fn offering(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Accepted { moves: true } => {
                self.go(State::Copying, vec![Action::Deadline(COPY_WITHIN), Action::Precopy])
            }
            Event::Accepted { moves: false } => self.freeze(),
            event => self.call_off(event, "the new worker did not answer in time", Phase::NothingDone),
        }
    }

    fn freeze(&mut self) -> Vec<Action> {
        self.go(State::Freezing, vec![Action::Deadline(FREEZE_WITHIN), Action::Freeze])
    }

    fn copying(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Copied => self.freeze(),
            event => self.call_off(event, "sending the sockets ahead took too long", Phase::Copying),
        }
    }

    fn freezing(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Frozen(Ok(())) => {
                self.go(State::Sealed, vec![Action::Deadline(READY_WITHIN), Action::SendState])
            }
            // The service goes on by itself then.
            Event::Frozen(Err(why)) => {
                self.stop(format!("the connections cannot be written down: {why}"), Phase::NothingDone)
            }
            event => self.call_off(event, "writing the connections down took too long", Phase::Freezing),
        }
    }

    fn sealed(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Ready => self.go(State::Committing, vec![Action::Commit]),
            event => {
                self.call_off(event, "the new worker did not check the connections in time", Phase::Sealed)
            }
        }
    }

    fn committing(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::CommitSent => self.go(
                State::Releasing { enough: false },
                vec![Action::Deadline(RELEASE_WITHIN), Action::Release],
            ),
            Event::Nonsense(why) => self.stop(why, Phase::Sealed),
            // Whatever else happens: whether it was sent is said at once.
            _ => self.go(State::Committing, Vec::new()),
        }
    }

    fn releasing(&mut self, event: &Event, enough: bool) -> Vec<Action> {
        match event {
            Event::Released => {
                let mut actions = self.go(State::Following, vec![Action::HandedOver]);
                if enough {
                    actions.extend(self.following(&Event::Enough));
                }
                actions
            }
            // A service that does not let go of what is another's must not go on.
            Event::TimeOver => self.give_up("the service did not let go of what was handed over"),
            Event::Dead | Event::Closed => self.go(State::Releasing { enough }, vec![Action::CloseOutlet]),
            Event::Enough => self.go(State::Releasing { enough: true }, Vec::new()),
            _ => self.go(State::Releasing { enough }, Vec::new()),
        }
    }

    fn following(&mut self, event: &Event) -> Vec<Action> {
        match event {
            Event::Drained | Event::Enough => {
                let actions = vec![Action::CloseOutlet, Action::Deadline(PART_WITHIN), Action::Part];
                self.go(State::Parting, actions)
            }
            Event::Dead | Event::Closed | Event::Nonsense(_) | Event::Refused(_) => {
                self.go(State::Following, vec![Action::CloseOutlet])
            }
            _ => self.go(State::Following, Vec::new()),
        }
    }

    fn parting(&mut self, event: &Event) -> Vec<Action> {
        match event {
            Event::Parted | Event::TimeOver => vec![Action::End],
            _ => self.go(State::Parting, Vec::new()),
        }
    }

    /// Something happened before the commit that is not the next step.
    fn call_off(&mut self, event: Event, late: &str, phase: Phase) -> Vec<Action> {
        let why = match event {
            Event::Refused(why) => format!("the new worker cannot take over: {why}"),
            Event::Nonsense(why) => why,
            Event::Closed | Event::Dead => "the new worker has ended".to_owned(),
            Event::TimeOver => late.to_owned(),
            event => format!("the new worker said what was not its turn ({event:?})"),
        };
        self.stop(why, phase)
    }

    fn stop(&mut self, why: String, phase: Phase) -> Vec<Action> {
        let mut actions = vec![Action::CloseOutlet, Action::Deadline(STOP_WITHIN), Action::Kill];
        actions.extend(self.stopped(Stopping { why, phase }));
        actions
    }

    /// Whether all that a called-off move waits for has come.
    fn stopped(&mut self, stopping: Stopping) -> Vec<Action> {
        if self.dead && !stopping.phase.is_busy() {
            return Self::failed(stopping);
        }
        self.go(State::Stopping(stopping), Vec::new())
    }

    fn stopping(&mut self, event: &Event, mut stopping: Stopping) -> Vec<Action> {
        match (event, stopping.phase) {
            (Event::Copied, Phase::Copying) => stopping.phase = Phase::Copied,
            (Event::Frozen(Ok(())), Phase::Freezing) => stopping.phase = Phase::Copied,
            (Event::Frozen(Err(_)), Phase::Freezing) => stopping.phase = Phase::NothingDone,
            (Event::TimeOver, _) => return self.out_of_time(stopping),
            _ => {}
        }
        self.stopped(stopping)
    }

    fn out_of_time(&mut self, stopping: Stopping) -> Vec<Action> {
        match stopping.phase {
            Phase::Freezing => self.give_up("the service stands still and does not go on"),
            Phase::Sealed if !self.dead => {
                self.give_up("the new worker has all connections and cannot be ended")
            }
            // It serves all the time; the thaw comes when it has time for it.
            _ => Self::failed(stopping),
        }
    }

    fn failed(stopping: Stopping) -> Vec<Action> {
        let thaw = (stopping.phase != Phase::NothingDone).then_some(Action::Thaw);
        thaw.into_iter().chain([Action::Failed(stopping.why), Action::End]).collect()
    }

    fn give_up(&mut self, why: &str) -> Vec<Action> {
        vec![Action::GiveUp(why.to_owned()), Action::End]
    }
}
