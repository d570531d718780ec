//! Deploys that are taken back: by the guard, because nobody has confirmed them, because somebody says so.
//!
//! ```text
//!   deployed ── guard ──┬─ its time is over ─▶ done ── awaits confirmation ──┬─ confirm ─▶ stays
//!                       └─ one fails ─▶ goes back                            ├─ cancel, rollback ─▶ goes back
//!                                                                            └─ time over, or it cannot be started ─▶ GoBack
//! ```
//!
//! What is watched is how processes end that the new edition has started: otherwise than with 0 is a failure, unless it is only
//! that the client has hung up (SIGPIPE). One connection that fails is no reason to take back a deploy of an hour ago: then it
//! must not even be possible to start it.

use std::time::Duration;

use handover_api::{Problem, ProgramGoesBack, ProgramPending};
use handover_lifecycle::Cause;

use super::super::asked::{Asked, Asker, What};
use super::super::common::Common;
use super::super::hosted::unix_milliseconds;
use super::super::out::Out;
use super::changing::Move;
use super::{Served, Waits};

/// A deploy that awaits confirmation. What it goes back to is what served before.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    /// Until when, as machines know the time.
    pub(super) until: Duration,
    /// Who deployed it.
    pub(super) by: Asker,
    /// Whether the supervisor was asked to take it back.
    proposed: bool,
}

impl Pending {
    pub(super) fn new(until: Duration, by: Asker) -> Self {
        Pending { until, by, proposed: false }
    }

    /// The time left.
    pub(super) fn left(&self, common: &Common) -> Duration {
        self.until.saturating_sub(common.now())
    }

    /// Until when, in milliseconds since 1970.
    pub(super) fn time_of_day(&self, common: &Common) -> u64 {
        unix_milliseconds().saturating_add(milliseconds(self.left(common)))
    }
}

impl Served {
    /// When the time is to be looked at.
    pub(in super::super) fn deadline(&self) -> Option<Duration> {
        let guard = match self.active.as_ref().and_then(|active| active.waits.as_ref()) {
            Some(Waits::Guard(until)) => Some(*until),
            _ => None,
        };
        let pending = self.pending.as_ref().filter(|pending| self.begun && !pending.proposed);
        guard.into_iter().chain(pending.map(|pending| pending.until)).min()
    }

    /// A deadline may have come.
    pub(in super::super) fn time(&mut self, common: &mut Common) {
        let now = common.now();
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        if let Some(active) = &mut self.active
            && matches!(active.waits, Some(Waits::Guard(until)) if until <= now)
        {
            active.waits = None;
            self.guarded(common);
        }
        if self.pending.as_ref().is_some_and(|pending| pending.until <= now) {
            self.propose(common, "nobody confirmed the deploy in time".to_owned());
        }
    }

    /// The guard has seen nothing wrong; perhaps it has not seen anything.
    fn guarded(&mut self, common: &mut Common) {
        let seen = self.processes.watched();
        let Some(active) = &mut self.active else { return };
        if seen.ended == 0 {
            let what = match seen.started {
                0 => "nobody connected while the guard watched: nothing of the new version has run yet",
                _ => "no process of the new version has ended while the guard watched",
            };
            active.ended.warnings.push(Problem::new(what));
        }
        // The time to confirm begins now.
        if let (Some(pending), What::Deploy { confirm: Some(confirm), .. }) =
            (&mut self.pending, &active.what)
        {
            pending.until = common.now() + *confirm;
            self.note_state(common);
        }
        self.done(common);
    }

    /// A process was started, has ended, or could not be started.
    pub(super) fn judge(&mut self, common: &mut Common) {
        let is_guarded =
            self.active.as_ref().is_some_and(|active| matches!(active.waits, Some(Waits::Guard(_))));
        let seen = self.processes.watched();
        if is_guarded && let Some(why) = seen.not_started.clone().or(seen.failed) {
            self.note(why);
            return self.go_back(common);
        }
        if !is_guarded
            && self.pending.is_some()
            && let Some(why) = seen.not_started
        {
            self.propose(common, format!("what was deployed cannot be started: {why}"));
        }
    }

    /// The supervisor is asked to take it back: as an operation, so that somebody hears of it.
    fn propose(&mut self, common: &mut Common, comment: String) {
        let Some(pending) = self.pending.as_mut().filter(|pending| !pending.proposed) else { return };
        pending.proposed = true;
        let asked = Asked { target: Some(self.name.clone()), what: What::GoBack };
        common.out.push(Out::Own { asked, comment });
    }

    /// What serves stays.
    pub(super) fn confirm(&mut self, common: &mut Common) {
        if self.pending.is_none() {
            return self.refuse(common, Cause::Unfit, "no deploy awaits confirmation");
        }
        let (next, before) = (self.edition.clone(), self.before.clone());
        self.move_to(common, Move { next, before, pending: None, back: false });
    }

    /// What awaits confirmation is taken back.
    pub(super) fn take_back(&mut self, common: &mut Common) {
        match self.pending {
            Some(_) => self.go_back(common),
            None => self.refuse(common, Cause::Unfit, "no deploy awaits confirmation"),
        }
    }

    /// What served before the deploy serves again.
    fn go_back(&mut self, common: &mut Common) {
        let Some(next) = self.before.clone() else { return self.done(common) };
        if let Some(active) = &mut self.active {
            active.goes_back = true;
        }
        self.move_to(common, Move { next, before: None, pending: None, back: true });
    }

    /// What becomes of the deploy if nobody confirms it.
    pub(super) fn goes_back(&self, common: &Common) -> Option<ProgramGoesBack> {
        let pending = self.pending.as_ref()?;
        let left = pending.left(common);
        Some(ProgramGoesBack { to: self.back_to(), at: common.in_time(left), within_ms: milliseconds(left) })
    }

    /// The same, as it is shown.
    pub(super) fn pending_shown(&self, common: &Common) -> Option<ProgramPending> {
        let pending = self.pending.as_ref()?;
        let left = pending.left(common);
        Some(ProgramPending {
            operation_id: pending.by.id.clone(),
            slot: self.place().unwrap_or_default(),
            back_to: self.back_to(),
            actor: pending.by.actor.clone(),
            comment: pending.by.comment.clone(),
            until: common.in_time(left),
            left_ms: milliseconds(left),
        })
    }

    fn back_to(&self) -> String {
        let before = self.before.as_ref().and_then(|before| before.place.as_ref());
        before.map_or_else(|| "what ran before".to_owned(), ToString::to_string)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
