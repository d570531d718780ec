//! When to look and when to ask. Pure: times come in, and what is to be done goes out.
//!
//! ```text
//!            event                    settle over: Look
//!   quiet ───────────▶ unsettled ─────────────────────────┬─ it moved meanwhile ─▶ unsettled
//!     ▲                  ▲                                ├─ as it was read last ─▶ quiet
//!     │                  │ event                          └─ it differs ──▶ asking
//!     │                  │                                                    │ answered
//!     ├──── done ────────┼────────────────────────────────────────────────────┤
//!     └── retry over ─ waiting ◀──────────────── not done ────────────────────┘
//! ```
//!
//! Not more than one question is open. What was taken back by a rollback is not tried again before it changes.

use std::time::{Duration, Instant};

use super::LONGEST_RETRY;

/// The state of the watch.
#[derive(Debug)]
pub(super) struct Decide {
    settle: Duration,
    retry: Duration,
    /// When the last thing happened that is not looked at yet.
    unsettled: Option<Instant>,
    /// Something that is no file has changed, in a few words.
    source: Option<String>,
    asking: bool,
    /// A generation that is not the disk's was committed since the question.
    taken_back: bool,
    retry_at: Option<Instant>,
    /// Questions in a row that came to nothing.
    in_vain: u32,
}

/// What a look has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// Files were changed since the look before.
    Moving,
    /// All is as it was read last.
    Same,
    /// This differs, in a few words.
    Differs(String),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    /// Nothing.
    Wait,
    /// Ask for a reload, for this reason.
    Ask(String),
}

impl Decide {
    pub(super) fn new(settle: Duration, retry: Duration) -> Self {
        Self {
            settle,
            retry,
            unsettled: None,
            source: None,
            asking: false,
            taken_back: false,
            retry_at: None,
            in_vain: 0,
        }
    }

    /// Other intervals from now on.
    pub(super) fn set(&mut self, settle: Duration, retry: Duration) {
        (self.settle, self.retry) = (settle, retry);
    }

    /// Something has happened to a file.
    pub(super) fn event(&mut self, now: Instant) {
        self.unsettled = Some(now);
    }

    /// Whether nothing has happened yet that is not looked at: the next event begins a new burst.
    pub(super) fn is_quiet(&self) -> bool {
        self.unsettled.is_none()
    }

    /// Something that is no file has changed.
    pub(super) fn source(&mut self, now: Instant, what: String) {
        self.source = Some(what);
        self.event(now);
    }

    /// When to look.
    pub(super) fn look_at(&self) -> Option<Instant> {
        if self.asking {
            return None;
        }
        let settled = self.unsettled.map(|at| at + self.settle);
        settled.into_iter().chain(self.retry_at).min()
    }

    /// What to do about what was found.
    pub(super) fn looked(&mut self, now: Instant, found: Found) -> Act {
        let due = self.retry_at.is_some_and(|at| at <= now);
        let why = match (found, self.source.take()) {
            (Found::Moving, source) => {
                self.source = source;
                self.unsettled = Some(now);
                return Act::Wait;
            }
            (Found::Differs(file), None) => file,
            (Found::Differs(file), Some(source)) => format!("{source}; {file}"),
            (Found::Same, Some(source)) => source,
            (Found::Same, None) if due => "tried again".to_owned(),
            (Found::Same, None) => {
                self.unsettled = None;
                return Act::Wait;
            }
        };
        self.unsettled = None;
        self.retry_at = None;
        self.taken_back = false;
        self.asking = true;
        Act::Ask(why)
    }

    /// The question was answered. What happened while it was open is looked at when it has settled.
    pub(super) fn answered(&mut self, now: Instant, done: bool) {
        if !std::mem::take(&mut self.asking) {
            return;
        }
        if done || self.taken_back {
            (self.in_vain, self.retry_at) = (0, None);
            return;
        }
        let doubled = self.retry.saturating_mul(2_u32.saturating_pow(self.in_vain.min(16)));
        self.in_vain = self.in_vain.saturating_add(1);
        self.retry_at = Some(now + doubled.min(LONGEST_RETRY.max(self.retry)));
    }

    /// A generation was committed, by whoever's wish.
    pub(super) fn serving(&mut self, from_disk: bool) {
        self.retry_at = None;
        self.in_vain = 0;
        self.taken_back = !from_disk;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTLE: Duration = Duration::from_millis(500);
    const RETRY: Duration = Duration::from_secs(10);

    fn start() -> (Decide, Instant) {
        (Decide::new(SETTLE, RETRY), Instant::now())
    }

    fn differs() -> Found {
        Found::Differs("a.pem changed".to_owned())
    }

    #[test]
    fn several_changes_in_a_row_are_one_question_once_they_are_still() {
        let (mut decide, now) = start();
        assert_eq!(decide.look_at(), None);
        for step in 0..10 {
            decide.event(now + SETTLE / 2 * step);
        }
        let last = now + SETTLE / 2 * 9;
        assert_eq!(decide.look_at(), Some(last + SETTLE));
        assert_eq!(decide.looked(last + SETTLE, Found::Moving), Act::Wait);
        assert_eq!(decide.look_at(), Some(last + SETTLE * 2), "it is still being written");
        assert_eq!(decide.looked(last + SETTLE * 2, differs()), Act::Ask("a.pem changed".to_owned()));
        assert_eq!(decide.look_at(), None, "one question is open");
    }

    #[test]
    fn what_is_as_it_was_read_last_is_not_asked_about() {
        let (mut decide, now) = start();
        decide.event(now);
        assert_eq!(decide.looked(now + SETTLE, Found::Same), Act::Wait);
        assert_eq!(decide.look_at(), None);
    }

    #[test]
    fn what_comes_to_nothing_is_tried_again_at_growing_intervals_without_end() {
        let (mut decide, mut now) = start();
        decide.event(now);
        assert!(matches!(decide.looked(now, differs()), Act::Ask(_)));
        let mut waits = Vec::new();
        for _ in 0..20 {
            decide.answered(now, false);
            let at = decide.look_at().unwrap();
            waits.push((at - now).as_secs());
            now = at;
            assert_eq!(decide.looked(now, Found::Same), Act::Ask("tried again".to_owned()));
        }
        assert_eq!(&waits[..6], [10, 20, 40, 80, 160, 300]);
        assert!(waits.iter().all(|wait| *wait <= 300));
    }

    #[test]
    fn a_change_meanwhile_is_asked_about_as_soon_as_it_is_still() {
        let (mut decide, now) = start();
        decide.event(now);
        assert!(matches!(decide.looked(now, differs()), Act::Ask(_)));
        decide.event(now + SETTLE);
        decide.answered(now + SETTLE, false);
        assert_eq!(decide.look_at(), Some(now + SETTLE * 2));
        assert!(matches!(decide.looked(now + SETTLE * 2, differs()), Act::Ask(_)));
    }

    #[test]
    fn what_cannot_be_asked_for_now_is_not_asked_for_at_once_again() {
        let (mut decide, now) = start();
        decide.event(now);
        assert!(matches!(decide.looked(now, differs()), Act::Ask(_)));
        decide.answered(now, false);
        assert_eq!(decide.look_at(), Some(now + RETRY), "another change is under way, say");
        assert!(matches!(decide.looked(now + RETRY, differs()), Act::Ask(_)));
    }

    #[test]
    fn what_was_taken_back_is_not_tried_again_before_it_changes() {
        let (mut decide, now) = start();
        decide.event(now);
        assert!(matches!(decide.looked(now, differs()), Act::Ask(_)));
        decide.serving(true);
        decide.serving(false);
        decide.answered(now, false);
        assert_eq!(decide.looked(now + SETTLE, Found::Same), Act::Wait);
        assert_eq!(decide.look_at(), None);
        decide.event(now + RETRY);
        assert!(matches!(decide.looked(now + RETRY + SETTLE, differs()), Act::Ask(_)));
    }

    #[test]
    fn an_operators_own_reload_that_serves_ends_the_retries() {
        let (mut decide, now) = start();
        decide.event(now);
        assert!(matches!(decide.looked(now, differs()), Act::Ask(_)));
        decide.answered(now, false);
        assert_eq!(decide.looked(now + SETTLE, Found::Same), Act::Wait);
        assert!(decide.look_at().is_some());
        decide.serving(true);
        assert_eq!(decide.look_at(), None);
    }

    #[test]
    fn a_store_that_changed_is_asked_about_together_with_the_files() {
        let (mut decide, now) = start();
        decide.source(now, "etcd revision 7".to_owned());
        assert_eq!(decide.looked(now + SETTLE, Found::Moving), Act::Wait);
        let act = decide.looked(now + SETTLE * 2, differs());
        assert_eq!(act, Act::Ask("etcd revision 7; a.pem changed".to_owned()));
    }

    proptest! {
        #[test]
        fn a_change_is_never_forgotten_and_never_asked_about_twice_at_once(
            steps in proptest::collection::vec((0..6_u8, 0..20_000_u64), 1..200),
        ) {
            let (mut decide, mut now) = start();
            // Whether something was changed that was not read, whether a question is open, and whether something was
            // changed since it was asked.
            let (mut dirty, mut open, mut since) = (false, false, false);
            for (step, millis) in steps {
                now += Duration::from_millis(millis);
                match step {
                    0 | 1 => { (dirty, since) = (true, true); decide.event(now); }
                    2 if open => { (open, dirty) = (false, since); decide.answered(now, true); }
                    3 if open => { open = false; decide.answered(now, false); }
                    _ => {}
                }
                if decide.look_at().is_some_and(|at| at <= now) {
                    let found = if dirty { differs() } else { Found::Same };
                    if let Act::Ask(_) = decide.looked(now, found) {
                        prop_assert!(!open, "two questions at once");
                        (open, since) = (true, false);
                    }
                }
                prop_assert!(!dirty || open || decide.look_at().is_some(), "a change was forgotten");
            }
        }
    }
}
