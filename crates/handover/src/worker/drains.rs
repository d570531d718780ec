//! Whether the worker accepts, drains, or is on its way out. Pure: what is to be done is returned.
//!
//! ```text
//!                 Drain                     drained
//!   Accepting ───────────────▶ Draining ───────────────▶ Drained
//!       ▲                         │ Resume                  │ Resume
//!       │       resumed           ▼ (the drain is ended)    ▼
//!       └───────────────────── Resuming ◀───────────────────┘
//!
//!   Stop, in any of them ─▶ what is open is ended or cut ─▶ the process ends
//! ```
//!
//! A drain that comes while the service resumes begins when it has.

use std::time::{Duration, Instant};

use super::errands::{STOP_AT_THE_LATEST, STOP_GRACE};
use crate::drain::{Drain, DrainEnd};

/// What the worker does with connections.
#[derive(Debug, Default)]
pub(crate) struct Drains {
    state: State,
    /// The drain that somebody waits for, and the resume.
    drain_call: Option<u64>,
    resume_call: Option<u64>,
    /// A drain that was asked for while the service resumes.
    queued: Option<Duration>,
    exit_by: Option<Instant>,
    told: u64,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Accepting,
    Draining(Drain),
    Drained,
    Resuming,
    /// Cutting, without a drain.
    Cutting,
}

/// What is to be done.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct ToDo {
    /// Have the service drain.
    pub(crate) drain: Option<Drain>,
    /// Have it cut everything.
    pub(crate) stop_now: bool,
    /// Have it resume.
    pub(crate) resume: bool,
    /// Answer this drain.
    pub(crate) drained: Option<u64>,
    /// Answer this resume.
    pub(crate) resumed: Option<u64>,
    /// End the process.
    pub(crate) exit: bool,
}

impl Drains {
    /// The supervisor asks to drain.
    pub(crate) fn drain(&mut self, call: Option<u64>, limit: Duration) -> ToDo {
        let mut todo = ToDo::default();
        self.drain_call = call;
        match &self.state {
            State::Accepting => todo.drain = Some(self.begin(limit)),
            State::Draining(running) => running.shorten(limit),
            State::Drained => todo.drained = self.drain_call.take(),
            State::Resuming => self.queued = Some(limit),
            State::Cutting => {}
        }
        todo
    }

    /// The supervisor asks to serve again.
    pub(crate) fn resume(&mut self, call: u64) -> ToDo {
        let mut todo = ToDo::default();
        self.queued = None;
        match &self.state {
            State::Accepting => todo.resumed = Some(call),
            State::Draining(running) if self.exit_by.is_none() => {
                running.end(DrainEnd::Resumed);
                self.drain_call = None;
                self.resume_call = Some(call);
            }
            State::Drained => {
                self.state = State::Resuming;
                self.resume_call = Some(call);
                todo.resume = true;
            }
            State::Resuming => self.resume_call = Some(call),
            State::Draining(_) | State::Cutting => {} // the process ends, which is answer enough
        }
        todo
    }

    /// The process is to end. Asked again, it ends at once.
    pub(crate) fn stop(&mut self, now: bool, grace: Option<Duration>) -> ToDo {
        let mut todo = ToDo::default();
        let now = now || self.exit_by.is_some();
        let grace = if now { Duration::ZERO } else { grace.unwrap_or(STOP_GRACE) };
        let by = Instant::now() + grace + STOP_AT_THE_LATEST;
        self.exit_by = Some(self.exit_by.map_or(by, |earlier| earlier.min(by)));
        match &self.state {
            State::Draining(running) if now => running.end(DrainEnd::StopNow),
            State::Draining(running) => running.shorten(grace),
            State::Accepting | State::Resuming if now => {
                self.state = State::Cutting;
                todo.stop_now = true;
            }
            State::Accepting => todo.drain = Some(self.begin(grace)),
            State::Resuming => self.queued = Some(grace),
            State::Drained => todo.exit = true,
            State::Cutting => {}
        }
        todo
    }

    /// The service has drained, called off or not, or has cut everything.
    pub(crate) fn drained(&mut self) -> ToDo {
        let mut todo = ToDo::default();
        if self.exit_by.is_some() {
            self.state = State::Drained;
            todo.exit = true;
        } else if self.resume_call.is_some() {
            self.state = State::Resuming;
            todo.resume = true;
        } else {
            self.state = State::Drained;
            todo.drained = self.drain_call.take();
        }
        todo
    }

    /// The service serves again.
    pub(crate) fn resumed(&mut self) -> ToDo {
        let mut todo = ToDo { resumed: self.resume_call.take(), ..ToDo::default() };
        if matches!(self.state, State::Resuming) {
            self.state = State::Accepting;
        }
        if let Some(limit) = self.queued.take() {
            todo.drain = Some(self.begin(limit));
        }
        todo
    }

    /// Another worker serves, and this one accepts nothing until it is told to.
    pub(crate) fn stand_by(&mut self) {
        self.state = State::Drained;
    }

    /// The worker is about to take connections over: a drain that runs is called off, and nobody is answered. Whether
    /// it is over.
    pub(crate) fn call_off(&mut self) -> bool {
        (self.drain_call, self.resume_call, self.queued) = (None, None, None);
        match &self.state {
            State::Draining(running) => {
                running.end(DrainEnd::Resumed);
                false
            }
            _ => true,
        }
    }

    /// The service has taken over, and accepts.
    pub(crate) fn serves(&mut self) {
        if self.exit_by.is_none() {
            self.state = State::Accepting;
        }
    }

    /// What a drain that runs has left of its time.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        match &self.state {
            State::Draining(running) => Some(running.remaining()),
            _ => None,
        }
    }

    /// The supervisor that asked is gone. What runs goes on; nobody waits for an answer.
    pub(crate) fn forget_calls(&mut self) {
        self.drain_call = None;
        // A drain that was called off is still to be followed by its resume.
        if matches!(self.state, State::Accepting | State::Drained) {
            self.resume_call = None;
        }
    }

    /// Whether new connections are taken.
    pub(crate) fn accepting(&self) -> bool {
        match &self.state {
            State::Accepting | State::Resuming => true,
            State::Draining(running) => running.ended() == Some(DrainEnd::Resumed),
            State::Drained | State::Cutting => false,
        }
    }

    /// The number of open connections, with the drain that wants to know, if it changed since it was last told.
    pub(crate) fn progress(&mut self) -> Option<(u64, u64)> {
        let State::Draining(running) = &self.state else { return None };
        let (call, open) = (self.drain_call?, running.connections());
        let news = open != std::mem::replace(&mut self.told, open);
        news.then_some((call, open))
    }

    /// Whether [`Drains::progress`] should be asked now and then.
    pub(crate) fn is_draining(&self) -> bool {
        matches!(self.state, State::Draining(_))
    }

    /// When the process ends, whatever the service does.
    pub(crate) fn exit_by(&self) -> Option<Instant> {
        self.exit_by
    }

    /// What was open when it was last said: what is lost if the service never answers.
    pub(crate) fn open(&self) -> u64 {
        match &self.state {
            State::Draining(running) => running.connections(),
            _ => 0,
        }
    }

    fn begin(&mut self, limit: Duration) -> Drain {
        let drain = Drain::new(limit);
        self.told = 0;
        self.state = State::Draining(drain.clone());
        drain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_drain_that_is_called_off_is_not_answered_and_the_resume_is() {
        let mut drains = Drains::default();
        let drain = drains.drain(Some(1), MINUTE).drain.unwrap();
        assert!(!drains.accepting());
        let todo = drains.resume(2);
        assert!(!todo.resume, "the drain must have ended first");
        assert_eq!(drain.ended(), Some(DrainEnd::Resumed));
        let todo = drains.drained();
        assert_eq!((todo.drained, todo.resume), (None, true));
        assert_eq!(drains.resumed().resumed, Some(2));
        assert!(drains.accepting());
    }

    #[test]
    fn a_drain_asked_for_while_the_service_resumes_is_not_lost() {
        let mut drains = Drains::default();
        let _ = drains.drain(Some(1), MINUTE);
        assert_eq!(drains.drained().drained, Some(1));
        assert!(drains.resume(2).resume);
        assert!(drains.drain(Some(3), MINUTE).drain.is_none());
        let todo = drains.resumed();
        assert_eq!(todo.resumed, Some(2));
        assert!(todo.drain.is_some());
        assert_eq!(drains.drained().drained, Some(3));
    }

    #[test]
    fn a_drain_of_what_is_drained_is_answered_at_once() {
        let mut drains = Drains::default();
        let _ = drains.drain(Some(1), MINUTE);
        let _ = drains.drained();
        assert_eq!(drains.drain(Some(2), MINUTE).drained, Some(2));
    }

    #[test]
    fn a_second_stop_ends_what_the_first_one_waits_for() {
        let mut drains = Drains::default();
        let drain = drains.stop(false, Some(MINUTE)).drain.unwrap();
        assert_eq!(drain.ended(), None);
        let _ = drains.stop(false, Some(MINUTE));
        assert_eq!(drain.ended(), Some(DrainEnd::StopNow));
        assert!(drains.exit_by().unwrap() <= Instant::now() + STOP_AT_THE_LATEST);
        assert!(drains.drained().exit);
    }

    #[test]
    fn a_stop_in_any_state_ends_in_an_exit() {
        for now in [false, true] {
            let mut drained = Drains::default();
            let _ = drained.drain(Some(1), MINUTE);
            let _ = drained.drained();
            assert!(drained.stop(now, None).exit);

            let mut resuming = Drains::default();
            let _ = resuming.drain(Some(1), MINUTE);
            let _ = resuming.drained();
            let _ = resuming.resume(2);
            let _ = resuming.stop(now, None);
            let _ = resuming.resumed();
            assert!(resuming.drained().exit);

            let mut called_off = Drains::default();
            let _ = called_off.drain(Some(1), MINUTE);
            let _ = called_off.resume(2);
            let _ = called_off.stop(now, None);
            assert!(called_off.drained().exit);
        }
    }

    #[test]
    fn a_drain_that_gives_way_to_a_takeover_is_not_answered() {
        let mut drains = Drains::default();
        let drain = drains.drain(Some(1), MINUTE).drain.unwrap();
        assert!(!drains.call_off());
        assert_eq!(drain.ended(), Some(DrainEnd::Resumed));
        let todo = drains.drained();
        assert_eq!((todo.drained, todo.resume, todo.exit), (None, false, false));
        assert!(drains.call_off() && !drains.accepting());
        drains.serves();
        assert!(drains.accepting());
    }

    #[test]
    fn a_worker_that_stands_by_ends_at_once_when_it_is_stopped() {
        let mut drains = Drains::default();
        drains.stand_by();
        assert!(!drains.accepting());
        assert!(drains.stop(false, Some(MINUTE)).exit);
    }

    #[test]
    fn a_resume_whose_supervisor_is_gone_still_follows_the_drain_that_it_called_off() {
        let mut drains = Drains::default();
        let _ = drains.drain(Some(1), MINUTE);
        let _ = drains.resume(2);
        drains.forget_calls();
        assert!(drains.drained().resume);
    }
}
