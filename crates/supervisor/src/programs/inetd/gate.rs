//! How many processes may be started, and how fast: decided without a clock and without a process.
//!
//! ```text
//!   ask ─▶ now │ full, until one ends │ at a later moment
//! ```

use std::time::Duration;

/// Whether one more may be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Yes, now.
    Now,
    /// Not before one has ended.
    Full,
    /// Not before then (the time of [`Gate::ask`]).
    At(Duration),
}

/// Lets so many be there at the same time, and so many pass in a second; after a rest, a whole second's worth at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gate {
    processes: u32,
    /// The time between two, in the long run.
    interval: Duration,
    /// How far ahead of that it may be.
    burst: Duration,
    /// When the next one would be due, if nobody had rested.
    due: Duration,
}

impl Gate {
    /// A gate with these limits; 0 counts as 1.
    pub(super) fn new(processes: u32, per_second: u32) -> Self {
        let per_second = per_second.max(1);
        let interval = Duration::from_secs(1) / per_second;
        let burst = interval * (per_second - 1);
        Self { processes: processes.max(1), interval, burst, due: Duration::ZERO }
    }

    /// The same limits hold for what has passed.
    pub(super) fn change(&mut self, processes: u32, per_second: u32) {
        *self = Self { due: self.due, ..Self::new(processes, per_second) };
    }

    /// Whether one may be started at this time (since any fixed moment), while `running` are there.
    pub(super) fn ask(&self, now: Duration, running: usize) -> Admission {
        if u32::try_from(running).is_ok_and(|running| running < self.processes) {
            let at = self.due.saturating_sub(self.burst);
            if at > now { Admission::At(at) } else { Admission::Now }
        } else {
            Admission::Full
        }
    }

    /// One is started now.
    pub(super) fn pass(&mut self, now: Duration) {
        self.due = self.due.max(now) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_room_for_so_many_at_once_and_the_next_waits() {
        let mut gate = Gate::new(100, 4);
        let now = Duration::from_secs(5);
        for _ in 0..4 {
            assert_eq!(gate.ask(now, 0), Admission::Now);
            gate.pass(now);
        }
        let Admission::At(at) = gate.ask(now, 0) else { panic!("there is no room for a fifth") };
        assert_eq!(at, now + Duration::from_millis(250));
        assert_eq!(gate.ask(at, 0), Admission::Now);
    }

    #[test]
    fn in_the_long_run_no_more_pass_than_may() {
        let mut gate = Gate::new(1, 10);
        let (mut now, mut passed) = (Duration::ZERO, 0);
        while now < Duration::from_secs(100) {
            match gate.ask(now, 0) {
                Admission::Now => {
                    gate.pass(now);
                    passed += 1;
                }
                Admission::At(at) => now = at,
                Admission::Full => panic!("none is there"),
            }
        }
        assert!((1000..=1010).contains(&passed), "{passed}");
    }

    #[test]
    fn when_all_are_there_it_is_full_whatever_the_rate() {
        let gate = Gate::new(2, 1000);
        assert_eq!(gate.ask(Duration::ZERO, 1), Admission::Now);
        assert_eq!(gate.ask(Duration::ZERO, 2), Admission::Full);
        assert_eq!(Gate::new(0, 0).ask(Duration::ZERO, 0), Admission::Now);
    }

    #[test]
    fn other_limits_hold_at_once_and_what_has_passed_still_counts() {
        let mut gate = Gate::new(1, 1);
        gate.pass(Duration::ZERO);
        assert!(matches!(gate.ask(Duration::ZERO, 0), Admission::At(_)));
        gate.change(5, 100);
        assert_eq!(gate.ask(Duration::from_millis(500), 3), Admission::Now);
    }
}
