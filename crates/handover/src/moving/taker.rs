//! The side that stands by and takes over. Pure: no clock, no socket; events in, actions out.
//!
//! ```text
//!   Waiting ─ Offered ─▶ Taking ─ State ─▶ Adopting ─ Adopted ─▶ Acked ─ Commit ─▶ Serving ─ Served ─▶ Following ─ Bye, closed ─▶ Over
//!      │                   │                  │                    │                  ▲
//!      │  closed, dead     │                  │ (when it has)      │                  │
//!      └───────────────────┴──────────▶ Alone ◀────────────────────┘                  │
//!                                         └── the giver is dead for certain ──────────┘  with what was adopted, or none
//!
//!   nonsense, out of time, cannot adopt: from any state before Serving ─▶ (refuse, fail): it never serves
//! ```
//!
//! It serves in two cases only: the giver has said so, or the giver is dead. A giver that has closed its end and lives may
//! be about to go on itself.

use std::time::Duration;

/// How long a move may take up to the commit, from this side: longer than the giver has for all its steps, and for ending this
/// process.
const COMMIT_WITHIN: Duration = Duration::from_secs(25);
/// How long a giver that has closed its end may take to be dead.
const ALONE_WITHIN: Duration = Duration::from_secs(5);
/// How long the service may take to serve.
const SERVE_WITHIN: Duration = Duration::from_secs(5);

/// What happens to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The giver has said what it can move, and there is a format for it, or there is nothing to move.
    Offered,
    /// It has sent sockets ahead.
    Sockets,
    /// It has sent everything that was written down.
    State,
    /// The service has read and checked everything, or cannot.
    Adopted(Result<(), String>),
    /// The giver says that this side serves.
    Commit,
    /// It has sent one connection late.
    Late,
    /// It has said its totals.
    Totals,
    /// It has said its last word.
    Bye,
    /// Its messages make no sense, or cannot be received.
    Nonsense(String),
    /// It has closed its end. Everything that it has sent before was brought before.
    Closed,
    /// Its process has ended. [`Event::Closed`] was brought before.
    Dead,
    /// What [`Action::Deadline`] asked for has come.
    TimeOver,
    /// The service serves.
    Served,
    /// This worker is about to give everything back: nothing more is to come.
    Finish,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Answer the offer.
    Accept,
    /// Give the sockets of this message to the service.
    Take,
    /// Have the service read and check what came.
    Adopt,
    /// Say that everything was checked.
    SayReady,
    /// Say why this side cannot.
    Refuse(String),
    /// Have the service serve: what was adopted, or without that.
    Serve { adopted: bool },
    /// Tell the worker that it serves. `orphaned`: because the giver has died.
    TookOver { orphaned: bool },
    /// Tell it that this process never will.
    Failed(String),
    /// End this process: nobody knows what it serves.
    GiveUp(String),
    /// Give the late connection of this message to the service.
    Late,
    /// Give it the totals.
    Totals,
    /// Ask for nothing more.
    SayEnough,
    /// Bring [`Event::TimeOver`] after this long, instead of what was asked for before; `None`: never.
    Deadline(Option<Duration>),
    /// Nothing is left to be done.
    End,
}

/// The side that takes.
#[derive(Debug)]
pub(crate) struct Taker {
    state: State,
    /// The giver has closed its end.
    closed: bool,
    /// Its process has ended.
    dead: bool,
    /// Nothing more is to come.
    finish: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Taking,
    Adopting,
    Acked,
    Alone { adopted: bool },
    Serving { orphaned: bool },
    Following,
    Over,
}

impl Taker {
    /// A move that begins, and what is to be done first.
    pub(crate) fn begin() -> (Self, Vec<Action>) {
        let taker = Self { state: State::Waiting, closed: false, dead: false, finish: false };
        (taker, vec![Action::Deadline(Some(COMMIT_WITHIN))])
    }

    /// Whether nothing is left to be done.
    #[cfg(test)]
    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// What follows from what happened.
    pub(crate) fn step(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Closed => self.closed = true,
            Event::Dead => (self.closed, self.dead) = (true, true),
            Event::Finish => self.finish = true,
            _ => {}
        }
        match self.state {
            State::Waiting | State::Taking | State::Adopting | State::Acked => self.before(event),
            State::Alone { adopted } => self.alone(&event, adopted),
            State::Serving { orphaned } => self.serving(&event, orphaned),
            State::Following => self.following(event),
            State::Over => Vec::new(),
        }
    }

    /// Before the commit.
    fn before(&mut self, event: Event) -> Vec<Action> {
        match (self.state, event) {
            (State::Waiting, Event::Offered) => self.go(State::Taking, vec![Action::Accept]),
            (State::Taking, Event::Sockets) => vec![Action::Take],
            (State::Taking, Event::State) => self.go(State::Adopting, vec![Action::Adopt]),
            (State::Adopting, Event::Adopted(Ok(()))) => {
                self.state = State::Acked;
                let mut actions = vec![Action::SayReady];
                if self.closed {
                    actions.extend(self.be_alone(true));
                }
                actions
            }
            (State::Adopting, Event::Adopted(Err(why))) => self.fail(why),
            (State::Acked, Event::Commit) => self.serve(true, false),
            (State::Waiting | State::Taking, Event::Closed | Event::Dead) => self.be_alone(false),
            (State::Acked, Event::Closed | Event::Dead) => self.be_alone(true),
            // The service reads the states; what it comes to is waited for.
            (State::Adopting, Event::Closed | Event::Dead) | (_, Event::Finish) => Vec::new(),
            (_, Event::Nonsense(why)) => self.fail(why),
            (State::Acked, Event::TimeOver) => {
                self.fail("the old worker did not say in time who serves".to_owned())
            }
            (_, Event::TimeOver) => self.fail("it took too long".to_owned()),
            (_, event) => self.fail(format!("the old worker said what was not its turn ({event:?})")),
        }
    }

    fn be_alone(&mut self, adopted: bool) -> Vec<Action> {
        if self.dead {
            return self.serve(adopted, true);
        }
        self.go(State::Alone { adopted }, vec![Action::Deadline(Some(ALONE_WITHIN))])
    }

    fn alone(&mut self, event: &Event, adopted: bool) -> Vec<Action> {
        match event {
            Event::Dead => self.serve(adopted, true),
            Event::TimeOver => self.fail("the old worker has closed the conversation, and lives".to_owned()),
            _ => Vec::new(),
        }
    }

    fn serve(&mut self, adopted: bool, orphaned: bool) -> Vec<Action> {
        let actions = vec![Action::Deadline(Some(SERVE_WITHIN)), Action::Serve { adopted }];
        self.go(State::Serving { orphaned }, actions)
    }

    fn serving(&mut self, event: &Event, orphaned: bool) -> Vec<Action> {
        match event {
            Event::Served => {
                let mut actions = vec![Action::Deadline(None), Action::TookOver { orphaned }];
                if self.closed {
                    actions.extend(self.go(State::Over, vec![Action::End]));
                } else {
                    self.state = State::Following;
                    actions.extend(self.finish.then_some(Action::SayEnough));
                }
                actions
            }
            Event::TimeOver => self.go(
                State::Over,
                vec![Action::GiveUp("the service did not serve in time".to_owned()), Action::End],
            ),
            // They wait for the service behind what it is doing.
            Event::Late => vec![Action::Late],
            Event::Totals => vec![Action::Totals],
            Event::Bye => {
                self.closed = true;
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// It serves; only late ones come.
    fn following(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Late => vec![Action::Late],
            Event::Totals => vec![Action::Totals],
            Event::Finish => vec![Action::SayEnough],
            Event::Sockets
            | Event::Served
            | Event::Offered
            | Event::State
            | Event::Commit
            | Event::Adopted(_)
            | Event::TimeOver => Vec::new(),
            Event::Bye | Event::Closed | Event::Dead | Event::Nonsense(_) => {
                self.go(State::Over, vec![Action::End])
            }
        }
    }

    fn fail(&mut self, why: String) -> Vec<Action> {
        self.go(State::Over, vec![Action::Refuse(why.clone()), Action::Failed(why), Action::End])
    }

    fn go(&mut self, state: State, actions: Vec<Action>) -> Vec<Action> {
        self.state = state;
        actions
    }
}
