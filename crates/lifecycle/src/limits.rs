//! Every wait of the machine, by name.

use std::time::Duration;

/// How long the machine waits for what. Every wait has one of these; none is endless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From starting a worker's process until it says hello.
    pub worker_start: Duration,
    /// From asking a worker to prepare until it is prepared or refuses, binding included.
    pub prepare: Duration,
    /// From a worker's list of listeners until they are bound or refused.
    pub bind: Duration,
    /// From sending the commit until the worker says that every thread has switched.
    pub commit: Duration,
    /// How long connections may take to end in a drain or a stop that names no limit of its own.
    pub drain: Duration,
    /// The longest drain that may be asked for.
    pub drain_longest: Duration,
    /// How much later than its drain limit a worker may answer before it counts as hung.
    pub drain_grace: Duration,
    /// From telling a worker to stop until its process has ended.
    pub stop: Duration,
    /// The same when it is told to stop at once.
    pub stop_now: Duration,
    /// From killing a worker until it has been reaped; after that it is given up.
    pub kill: Duration,
    /// How long the admission, the preflight or the rehearsal of a binary may take, each.
    pub examine: Duration,
    /// From asking for a probe until every thread of the new worker has answered.
    pub probe: Duration,
    /// How long a worker may take until it has handed over; after that it calls the handoff off by itself.
    pub handoff: Duration,
    /// How much later than that the two may answer before one of them counts as hung: a handoff that is called off waits
    /// for the other's death.
    pub handoff_grace: Duration,
    /// From asking the supervisor to execute the new binary until that must have happened; then it counts as failed.
    pub reexec: Duration,
    /// From asking a worker to resume until it says that it accepts again.
    pub resume: Duration,
    /// How long an embedder's own action may take.
    pub action: Duration,
    /// The longest time in which a change may have to be confirmed.
    pub confirm_longest: Duration,
    /// The longest time for which a new generation may be guarded.
    pub guard_longest: Duration,
    /// How much later than its guard's time a worker may answer before it counts as hung.
    pub guard_grace: Duration,
    /// The longest that anything about programs may take.
    pub carried_longest: Duration,
    /// From calling such a thing off until it must have ended.
    pub call_off: Duration,
    /// How long one write of the journal may take.
    pub journal: Duration,
    /// The same where a generation's files are written too: there may be tens of thousands. What serves, serves on.
    pub intent: Duration,
    /// The pause before a failed write of an outcome is tried again.
    pub journal_retry: Duration,
    /// How often an outcome is tried to be written before it is answered unrecorded.
    pub journal_attempts: u32,
    /// The pause before the first restart of a dead worker; it doubles with each further one.
    pub backoff_first: Duration,
    /// The longest pause before a restart.
    pub backoff_longest: Duration,
    /// How long a worker must have served for the pause to start from the beginning again.
    pub backoff_reset: Duration,
}

impl Limits {
    /// The limits used unless an operator sets others.
    pub const DEFAULT: Self = Self {
        worker_start: Duration::from_secs(10),
        prepare: Duration::from_secs(30),
        bind: Duration::from_secs(5),
        commit: Duration::from_secs(10),
        drain: Duration::from_secs(30),
        drain_longest: Duration::from_secs(24 * 60 * 60),
        drain_grace: Duration::from_secs(2),
        stop: Duration::from_secs(5),
        stop_now: Duration::from_secs(1),
        kill: Duration::from_secs(5),
        examine: Duration::from_secs(15),
        probe: Duration::from_secs(5),
        handoff: Duration::from_secs(10),
        handoff_grace: Duration::from_secs(7),
        reexec: Duration::from_secs(10),
        resume: Duration::from_secs(5),
        action: Duration::from_secs(30),
        confirm_longest: Duration::from_secs(7 * 24 * 60 * 60),
        guard_longest: Duration::from_secs(60 * 60),
        guard_grace: Duration::from_secs(5),
        carried_longest: Duration::from_secs(25 * 60 * 60),
        call_off: Duration::from_secs(30),
        journal: Duration::from_secs(5),
        intent: Duration::from_secs(30),
        journal_retry: Duration::from_millis(100),
        journal_attempts: 3,
        backoff_first: Duration::from_millis(100),
        backoff_longest: Duration::from_secs(10),
        backoff_reset: Duration::from_secs(10),
    };

    /// The same limits, none of them too short to let time pass nor so long that sums of them overflow.
    #[must_use]
    pub(crate) fn bounded(self) -> Self {
        let bounded = |limit: Duration| limit.clamp(Self::SHORTEST, Self::LONGEST);
        Self {
            worker_start: bounded(self.worker_start),
            prepare: bounded(self.prepare),
            bind: bounded(self.bind),
            commit: bounded(self.commit),
            drain: self.drain.min(Self::LONGEST),
            drain_longest: bounded(self.drain_longest),
            drain_grace: bounded(self.drain_grace),
            stop: bounded(self.stop),
            stop_now: bounded(self.stop_now),
            kill: bounded(self.kill),
            examine: bounded(self.examine),
            probe: bounded(self.probe),
            handoff: bounded(self.handoff),
            handoff_grace: bounded(self.handoff_grace),
            reexec: bounded(self.reexec),
            resume: bounded(self.resume),
            action: bounded(self.action),
            confirm_longest: bounded(self.confirm_longest),
            guard_longest: bounded(self.guard_longest),
            guard_grace: bounded(self.guard_grace),
            carried_longest: bounded(self.carried_longest),
            call_off: bounded(self.call_off),
            journal: bounded(self.journal),
            intent: bounded(self.intent),
            journal_retry: bounded(self.journal_retry),
            journal_attempts: self.journal_attempts.max(1),
            backoff_first: bounded(self.backoff_first),
            backoff_longest: bounded(self.backoff_longest),
            backoff_reset: bounded(self.backoff_reset),
        }
    }

    const SHORTEST: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
