//! One thread's time: read once per turn of the loop, used by everything in that turn.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use handover_http1::DateText;

use crate::reactor::TICK;

/// What a clock says when it begins (ten years, µs): connections that come from another process may be older than this one.
const BEGINNING_US: u64 = 10 * 365 * 24 * 60 * 60 * 1_000_000;

/// The time of the present turn.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    /// Wall clock at `start`; read anew once a second, so that a clock that is set is followed.
    wall_at_start: Duration,
    /// Microseconds since the loop began, and [`BEGINNING_US`].
    now_us: u64,
    /// Seconds since the epoch that `date` says.
    second: u64,
    date: DateText,
}

impl Clock {
    /// A clock that begins now.
    pub(crate) fn new() -> Self {
        let mut clock = Self {
            start: Instant::now(),
            wall_at_start: Duration::ZERO,
            now_us: BEGINNING_US,
            second: u64::MAX,
            date: DateText::new(SystemTime::now()),
        };
        clock.set_wall();
        clock
    }

    /// Reads the clock.
    pub(crate) fn update(&mut self) {
        let elapsed = self.start.elapsed();
        self.now_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).saturating_add(BEGINNING_US);
        let second = (self.wall_at_start + elapsed).as_secs();
        if second != self.second {
            self.set_wall();
        }
    }

    #[cold]
    fn set_wall(&mut self) {
        let wall = SystemTime::now();
        let since_epoch = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.wall_at_start = since_epoch.saturating_sub(self.start.elapsed());
        self.second = since_epoch.as_secs();
        self.date = DateText::new(wall);
    }

    /// Microseconds since a moment long before the loop began.
    pub(crate) fn now_us(&self) -> u64 {
        self.now_us
    }

    /// Ticks of the timer wheel since that moment.
    pub(crate) fn tick(&self) -> u64 {
        self.now_us / micros(TICK)
    }

    /// How long until a tick.
    pub(crate) fn until(&self, tick: u64) -> Duration {
        Duration::from_micros((tick * micros(TICK)).saturating_sub(self.now_us))
    }

    /// How long until a moment of [`Clock::now_us`].
    pub(crate) fn until_us(&self, moment_us: u64) -> Duration {
        Duration::from_micros(moment_us.saturating_sub(self.now_us))
    }

    /// The tick at which something that takes `limit` from now is over.
    pub(crate) fn after(&self, limit: Ticks) -> u64 {
        // One more, because the present tick has begun already: never early.
        self.tick() + u64::from(limit.0) + 1
    }

    /// The text for `Date`.
    pub(crate) fn date(&self) -> &DateText {
        &self.date
    }
}

/// A time limit, in ticks of the wheel, rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ticks(pub(crate) u32);

impl From<Duration> for Ticks {
    fn from(limit: Duration) -> Self {
        let ticks = limit.as_millis().div_ceil(TICK.as_millis());
        Self(u32::try_from(ticks).unwrap_or(u32::MAX))
    }
}

const fn micros(duration: Duration) -> u64 {
    duration.as_secs() * 1_000_000 + duration.subsec_micros() as u64
}
