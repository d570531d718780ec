//! How one edition of a program is run: numbers and times only. Names, commands and paths stay with the driver.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How copies of an edition are started, watched and retired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// Copies that run side by side, at least 1.
    pub copies: u32,
    /// Whether two editions may run at the same time.
    pub swap: Swap,
    /// Whether each copy has an address of its own: then it gets requests only when [`super::Effect::Route`] says so, what is
    /// in flight can be waited for, and it can be kept warm. Otherwise all copies accept from shared sockets.
    pub private: bool,
    /// The longest time until a copy that was started is ready.
    pub ready_limit: Duration,
    /// How long a new copy must stay ready before it counts, where another one would serve on instead.
    pub settle: Duration,
    /// The longest time for what is in flight at a copy that gets nothing new.
    pub quiet_limit: Duration,
    /// From asking a copy to stop until it is killed.
    pub stop_limit: Duration,
    /// After which end a copy is started again.
    pub restart: Restart,
    /// The pause before the first start after a failure; it doubles with each further one.
    pub backoff_first: Duration,
    /// The longest such pause.
    pub backoff_longest: Duration,
    /// A copy that was ready for so long begins with the first pause again.
    pub backoff_reset: Duration,
    /// It is started when the first connection comes.
    pub on_demand: bool,
    /// Whether it is stopped when the driver finds it idle. Only with `on_demand`.
    pub idle: bool,
    /// How long what a deploy replaces is kept warm.
    pub warm: Duration,
    /// Copies that a rolling restart replaces at the same time, at least 1.
    pub batch: u32,
    /// New copies that may fail before a rolling restart stops.
    pub max_unhealthy: u32,
    /// The longest time for which a swap that stops first holds requests.
    pub pause_limit: Duration,
}

impl Plan {
    /// What is usual: one copy on shared sockets.
    pub const USUAL: Self = Self {
        copies: 1,
        swap: Swap::Overlap,
        private: false,
        ready_limit: Duration::from_secs(30),
        settle: Duration::from_secs(1),
        quiet_limit: Duration::from_secs(10),
        stop_limit: Duration::from_secs(10),
        restart: Restart::Always,
        backoff_first: Duration::from_millis(100),
        backoff_longest: Duration::from_secs(30),
        backoff_reset: Duration::from_secs(10),
        on_demand: false,
        idle: false,
        warm: Duration::ZERO,
        batch: 1,
        max_unhealthy: 0,
        pause_limit: Duration::from_secs(30),
    };
}

impl Default for Plan {
    fn default() -> Self {
        Self::USUAL
    }
}

/// Whether two editions may run at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Swap {
    /// The next copy is ready before the old one is asked to stop.
    #[default]
    Overlap,
    /// The old copies have ended before the next ones are started.
    StopFirst,
}

/// After which end a copy is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// After every end.
    #[default]
    Always,
    /// Unless its first process ended with 0.
    OnFailure,
    /// Never.
    Never,
}

impl Plan {
    /// From [`super::Effect::Start`] until `Started` or `NotStarted`; then it counts as not started, and is killed.
    pub const START_LIMIT: Duration = Duration::from_secs(10);
    /// From [`super::Effect::Kill`] until `Gone`; then it is given up: still tracked, but nothing waits for it.
    pub const KILL_LIMIT: Duration = Duration::from_secs(5);
    /// From [`super::Effect::Route`] or `Pause` until `TrafficSet`; then it goes on without.
    pub const TRAFFIC_LIMIT: Duration = Duration::from_secs(5);
    /// How much later than its limit a `Quiet` may come before it counts as unclean.
    pub const QUIET_GRACE: Duration = Duration::from_secs(2);
    /// From [`super::Effect::Save`] until `Saved`; then it counts as failed.
    pub const SAVE_LIMIT: Duration = Duration::from_secs(10);
    /// How long what a reload's exam has started waits for the reload's end; then it is taken as aborted.
    pub const HELD_LIMIT: Duration = Duration::from_secs(10 * 60);
    /// From [`super::Effect::Propose`] until the proposed operation must have begun; then the machine goes back without one.
    pub const PROPOSE_LIMIT: Duration = Duration::from_secs(5);
    /// The same where nothing of the edition on probation serves.
    pub const PROPOSE_LIMIT_DOWN: Duration = Duration::from_secs(1);

    /// The pause after so many failures in a row.
    #[must_use]
    pub(crate) fn pause_after(&self, failures: u32) -> Duration {
        let doubled = failures.saturating_sub(1).min(31);
        let longer = 2_u32.checked_pow(doubled).unwrap_or(u32::MAX);
        self.backoff_first
            .saturating_mul(longer)
            .min(self.backoff_longest)
            .max(self.backoff_first.min(self.backoff_longest))
    }

    const SHORTEST: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    /// More copies than anybody runs of one program on one machine.
    const MOST_COPIES: u32 = 10_000;

    /// The same plan, none of its numbers so that it could not work, nor so that sums of times overflow.
    #[must_use]
    pub(crate) fn bounded(self) -> Self {
        let some = |limit: Duration| limit.clamp(Self::SHORTEST, Self::LONGEST);
        Self {
            copies: self.copies.clamp(1, Self::MOST_COPIES),
            ready_limit: some(self.ready_limit),
            settle: self.settle.min(Self::LONGEST),
            quiet_limit: self.quiet_limit.min(Self::LONGEST),
            stop_limit: self.stop_limit.min(Self::LONGEST),
            backoff_first: some(self.backoff_first),
            backoff_longest: some(self.backoff_longest),
            backoff_reset: some(self.backoff_reset),
            warm: self.warm.min(Self::LONGEST),
            batch: self.batch.max(1),
            pause_limit: some(self.pause_limit),
            ..self
        }
    }
}
