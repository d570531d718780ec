//! The machine of one program: which copies of it run, which get requests, and how one edition follows another.

mod effect;
mod event;
mod keys;
mod plan;
mod saved;
mod view;

use std::time::Duration;

pub use effect::{Effect, Figures, Why};
pub use event::{Ask, Event};
pub use keys::{CopyKey, EditionKey};
pub use plan::{Plan, Restart, Swap};
pub use saved::{Durable, Saved};
pub use view::{CopyView, PendingView, Role, Stage, State, View};

/// One program.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The next key for a copy or a call.
    next_key: u64,
}

impl Machine {
    /// A machine that has not begun. Keys of copies and calls count up from `keys_from`.
    #[must_use]
    pub fn new(keys_from: u64) -> Self {
        Self { next_key: keys_from }
    }

    /// Takes in one event and says what must be done, in this order.
    ///
    /// `now` is the time since an arbitrary start, monotonic. Deadlines that have passed at `now` are acted upon after the event.
    #[must_use]
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        let _ = (now, event);
        Vec::new()
    }

    /// The earliest time at which [`Event::Time`] is wanted. Ask again after every step.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        None
    }

    /// The longest time that this operation can take if it begins now.
    #[must_use]
    pub fn longest(&self, ask: &Ask) -> Duration {
        let _ = ask;
        Duration::from_secs(60)
    }

    /// The longest time that the exam of this plan can take if it begins now.
    #[must_use]
    pub fn longest_exam(&self, plan: &Plan) -> Duration {
        let _ = plan;
        Duration::from_secs(60)
    }

    /// A picture of the machine.
    #[must_use]
    pub fn view(&self) -> View {
        View {
            state: State::New,
            edition: None,
            wanted: None,
            before: None,
            warm_until: None,
            pending: None,
            paused_until: None,
            operation: None,
            step: None,
            copies: Vec::new(),
            restarts: 0,
            next_start: None,
        }
    }

    /// What a start has to know, as of the last [`Effect::Save`].
    #[must_use]
    pub fn durable(&self) -> Durable {
        Durable::default()
    }

    /// Everything, for another process. `now` as in [`Machine::step`].
    #[must_use]
    pub fn save(&self, now: Duration) -> Saved {
        let _ = now;
        Saved { next_key: self.next_key }
    }

    /// The machine as it was saved; its first event is [`Event::Resumed`]. What has become of copies meanwhile is told it as
    /// events after that.
    #[must_use]
    pub fn resume(now: Duration, saved: &Saved) -> Self {
        let _ = now;
        Self { next_key: saved.next_key }
    }
}
