//! The machine itself.

use std::time::Duration;

use crate::{Effect, Event, Limits, Phase, Recovered, View};

/// The lifecycle of one server. See the module for its states.
#[derive(Clone, Debug)]
pub struct Machine {
    limits: Limits,
    recovered: Recovered,
    phase: Phase,
}

impl Machine {
    /// A machine that has not begun: its first event is [`Event::Start`] or [`Event::Adopted`].
    #[must_use]
    pub fn new(limits: Limits, recovered: Recovered) -> Self {
        Self { limits, recovered, phase: Phase::New }
    }

    /// Takes in one event and says what must be done, in this order.
    ///
    /// `now` is the time since an arbitrary start, monotonic; a value before the last one counts as the
    /// last one. Deadlines that have passed at `now` are acted upon after the event.
    #[must_use]
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        let _ = (now, event, &self.limits, &self.recovered);
        Vec::new()
    }

    /// The earliest time at which [`Event::Tick`] is wanted. Ask again after every step.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        None
    }

    /// A picture of the machine, for `status`.
    #[must_use]
    pub fn view(&self) -> View {
        View {
            phase: self.phase,
            serving: None,
            committing: None,
            held_to: None,
            workers: Vec::new(),
            operation: None,
            deferred: None,
            restarts: 0,
            next_restart: None,
        }
    }
}
