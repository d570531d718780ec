//! The guard of a generation that was just committed: its figures, once a second, against those of the one before.
//!
//! ```text
//!   commit ─▶ the ring of samples becomes that of the generation before, and a new one begins
//!   Guard ─▶ running ──┬── a limit is passed ─▶ GuardEnded, not passed
//!                      ├── the time is over ──▶ GuardEnded, passed
//!                      └── EndGuard ──────────▶ somebody has decided already
//! ```
//!
//! No clock and no channel in here: the control thread brings both.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use handover_supervisor::protocol::{GuardFigures, GuardLimits, ToSupervisor};

use super::control::Control;
use crate::guard::{between, judge_both};
use crate::moving::Sample;
use crate::types::Figures;

/// How often figures are sampled.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Samples kept at that interval.
const FINE: usize = 64;
/// One of so many is kept for longer.
const COARSE_EVERY: u32 = 60;
/// How many of those: as many as [`GuardLimits::LONGEST_WATCH`] takes.
const COARSE: usize = 61;

/// Totals of one generation, the last minute's by the second and the last hour's by the minute.
#[derive(Debug, Default)]
struct Ring {
    fine: VecDeque<(Instant, Figures)>,
    coarse: VecDeque<(Instant, Figures)>,
    until_coarse: u32,
}

impl Ring {
    fn push(&mut self, at: Instant, figures: Figures) {
        if self.until_coarse == 0 {
            self.until_coarse = COARSE_EVERY;
            keep(&mut self.coarse, COARSE, (at, figures));
        }
        self.until_coarse -= 1;
        keep(&mut self.fine, FINE, (at, figures));
    }

    /// What happened in the last `span` before the newest sample, or since the oldest one.
    fn last(&self, span: Duration) -> Figures {
        let Some((end, newest)) = self.fine.back() else { return Figures::default() };
        let old_enough = |(at, _): &&(Instant, Figures)| end.saturating_duration_since(*at) >= span;
        let start = self.fine.iter().rev().find(old_enough);
        let start = start.or_else(|| self.coarse.iter().rev().find(old_enough));
        let start = start.or(self.coarse.front()).or(self.fine.front());
        start.map_or_else(Figures::default, |(_, oldest)| between(oldest, newest))
    }
}

fn keep(samples: &mut VecDeque<(Instant, Figures)>, most: usize, sample: (Instant, Figures)) {
    if samples.len() >= most {
        samples.pop_front();
    }
    samples.push_back(sample);
}

/// A guard that runs.
#[derive(Debug)]
struct Running {
    call: u64,
    limits: GuardLimits,
    until: Instant,
}

/// What a guard came to.
#[derive(Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) call: u64,
    pub(super) passed: bool,
    pub(super) detail: String,
    pub(super) figures: GuardFigures,
}

/// Samples of the generation that serves and of the one before, and the guard that compares them.
#[derive(Debug, Default)]
pub(super) struct Guards {
    now: Ring,
    before: Ring,
    /// The totals at the last commit.
    start: Figures,
    /// Whether the service has figures.
    has_figures: bool,
    sample_at: Option<Instant>,
    running: Option<Running>,
}

impl Guards {
    /// A generation was committed; the totals right before and after.
    pub(super) fn committed(&mut self, at: Instant, before: Option<Figures>, after: Option<Figures>) {
        if let Some(figures) = before {
            self.now.push(at, figures);
        }
        self.before = std::mem::take(&mut self.now);
        self.start = after.unwrap_or_default();
        self.has_figures = after.is_some();
        if let Some(figures) = after {
            self.now.push(at, figures);
        }
        self.sample_at = Some(at + SAMPLE_EVERY);
    }

    /// The samples of the generation that serves, for the worker that takes over.
    pub(super) fn export(&self, now: Instant) -> Vec<Sample> {
        let of = |ring: &VecDeque<(Instant, Figures)>, coarse| {
            let sample = |(at, figures): &(Instant, Figures)| Sample {
                ago: now.saturating_duration_since(*at),
                coarse,
                figures: *figures,
            };
            ring.iter().map(sample).collect::<Vec<_>>()
        };
        [of(&self.now.coarse, true), of(&self.now.fine, false)].concat()
    }

    /// This worker has taken over from another one, whose samples these are: they are what comes before.
    pub(super) fn took_over(&mut self, at: Instant, samples: &[Sample], after: Option<Figures>) {
        self.now = Ring::default();
        for sample in samples {
            // A machine that has not run for so long has no such moment.
            let Some(then) = at.checked_sub(sample.ago) else { continue };
            let (ring, most) =
                if sample.coarse { (&mut self.now.coarse, COARSE) } else { (&mut self.now.fine, FINE) };
            keep(ring, most, (then, sample.figures));
        }
        self.committed(at, None, after);
    }

    /// Compares from now on.
    pub(super) fn begin(&mut self, now: Instant, call: u64, limits: GuardLimits) {
        let until = now + limits.watch.min(GuardLimits::LONGEST_WATCH);
        self.running = Some(Running { call, limits, until });
    }

    /// Somebody has decided.
    pub(super) fn end(&mut self, call: u64, passed: bool) {
        if self.running.take_if(|running| running.call == call).is_some() {
            tracing::debug!(call, passed, "the guard was ended");
        }
    }

    /// The supervisor that asked is gone.
    pub(super) fn forget(&mut self) {
        self.running = None;
    }

    /// When to bring the next figures. A service without figures is asked only when a guard runs out.
    pub(super) fn next(&self) -> Option<Instant> {
        let sample = self.sample_at.filter(|_| self.has_figures);
        sample.into_iter().chain(self.running.as_ref().map(|running| running.until)).min()
    }

    /// Takes the totals of this moment, and says what the guard came to, if it has come to something.
    pub(super) fn sample(&mut self, now: Instant, figures: Option<Figures>) -> Option<Ended> {
        if self.sample_at.is_some_and(|at| at <= now) {
            self.sample_at = Some(now + SAMPLE_EVERY);
            if let Some(figures) = figures {
                self.now.push(now, figures);
            }
        }
        let running = self.running.as_ref()?;
        let compared = GuardFigures {
            before: self.before.last(running.limits.watch),
            after: figures.map_or_else(Figures::default, |figures| between(&self.start, &figures)),
        };
        let verdict = judge_both(&compared, &running.limits);
        if verdict.passed && now < running.until {
            return None;
        }
        let call = self.running.take()?.call;
        let detail = match figures {
            Some(_) => verdict.detail,
            None => "this server counts nothing that could be compared; its worker lived".to_owned(),
        };
        Some(Ended { call, passed: verdict.passed, detail, figures: compared })
    }
}

impl Control {
    /// Begins to compare.
    pub(super) fn guard(&mut self, call: u64, limits: GuardLimits) {
        self.guards.begin(Instant::now(), call, limits);
    }

    /// Brings figures to the guard when it is time.
    pub(super) fn look_at_figures(&mut self, now: Instant) {
        if self.guards.next().is_none_or(|at| now < at) {
            return;
        }
        let figures = self.errands.service.figures();
        if let Some(Ended { call, passed, detail, figures }) = self.guards.sample(now, figures) {
            self.send(&ToSupervisor::GuardEnded { call, passed, detail, figures }, &[]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn totals(requests: u64, errors: u64) -> Option<Figures> {
        Some(Figures { requests, errors_5xx: errors, ..Figures::default() })
    }

    fn limits(watch: u64) -> GuardLimits {
        GuardLimits { watch: seconds(watch), ..GuardLimits::DEFAULT }
    }

    /// Guards after one generation that answered 100 requests a second for so long, half of them badly in the first
    /// half of the time.
    fn after_one_generation(served: u64) -> (Guards, Instant, Figures) {
        let (mut guards, begin) = (Guards::default(), Instant::now());
        guards.committed(begin, totals(0, 0), totals(0, 0));
        let at = |second: u64| totals(second * 100, second.min(served / 2) * 50);
        for second in 1..=served {
            assert_eq!(guards.sample(begin + seconds(second), at(second)), None);
        }
        let end = begin + seconds(served);
        guards.committed(end, at(served), at(served));
        (guards, end, at(served).unwrap())
    }

    #[test]
    fn the_new_generation_is_compared_with_the_last_seconds_of_the_old_one() {
        for served in [60, 1_000] {
            let (mut guards, end, base) = after_one_generation(served);
            guards.begin(end, 7, limits(10));
            let ended =
                guards.sample(end + seconds(10), totals(base.requests + 200, base.errors_5xx)).unwrap();
            assert!(ended.passed);
            assert_eq!((ended.figures.before.requests, ended.figures.before.errors_5xx), (1_000, 0));
            assert_eq!((ended.figures.after.requests, ended.figures.after.errors_5xx), (200, 0));
        }
    }

    #[test]
    fn a_long_look_back_is_as_exact_as_a_minute() {
        let (mut guards, end, base) = after_one_generation(1_200);
        guards.begin(end, 7, limits(900));
        let ended = guards.sample(end + seconds(900), Some(base)).unwrap();
        let before = ended.figures.before.requests;
        assert!((90_000..=96_100).contains(&before), "{before}");
        assert!(ended.figures.before.errors_5xx > 0, "the bad half is in it");
    }

    #[test]
    fn a_guard_ends_early_when_a_limit_is_passed_and_only_once() {
        let (mut guards, end, base) = after_one_generation(20);
        guards.begin(end, 7, limits(10));
        let bad = totals(base.requests + 30, base.errors_5xx + 30);
        let ended = guards.sample(end + seconds(1), bad).unwrap();
        assert_eq!((ended.call, ended.passed), (7, false));
        assert_eq!(guards.sample(end + seconds(2), bad), None);
    }

    #[test]
    fn a_guard_that_somebody_ended_says_nothing_more() {
        let (mut guards, end, base) = after_one_generation(20);
        guards.begin(end, 7, limits(10));
        guards.end(6, true);
        assert_eq!(guards.next(), Some(end + SAMPLE_EVERY));
        guards.end(7, true);
        assert_eq!(guards.sample(end + seconds(30), Some(base)), None);
    }

    #[test]
    fn a_service_without_figures_is_not_woken_and_its_guard_ends_with_its_time() {
        let (mut guards, begin) = (Guards::default(), Instant::now());
        guards.committed(begin, None, None);
        assert_eq!(guards.next(), None);
        guards.begin(begin, 7, limits(10));
        assert_eq!(guards.next(), Some(begin + seconds(10)));
        let ended = guards.sample(begin + seconds(10), None).unwrap();
        assert!(ended.passed && ended.detail.contains("counts nothing"), "{ended:?}");
        assert_eq!(guards.next(), None);
    }

    #[test]
    fn what_the_old_worker_saw_is_what_the_new_one_is_compared_with() {
        let (mut old, begin) = (Guards::default(), Instant::now());
        old.committed(begin, totals(0, 0), totals(0, 0));
        for second in 1..=30 {
            old.sample(begin + seconds(second), totals(second * 100, 0));
        }
        let mut new = Guards::default();
        // It has stood by; its totals went on where the old one's ended.
        new.committed(begin, totals(0, 0), totals(0, 0));
        let handed_over = begin + seconds(31);
        new.took_over(handed_over, &old.export(handed_over), totals(3_000, 0));
        new.begin(handed_over, 7, limits(10));
        let ended = new.sample(handed_over + seconds(10), totals(3_500, 0)).unwrap();
        assert_eq!((ended.figures.before.requests, ended.figures.after.requests), (1_000, 500));
    }

    #[test]
    fn the_rings_are_bounded() {
        let (guards, _, _) = after_one_generation(20_000);
        assert_eq!((guards.before.fine.len(), guards.before.coarse.len()), (FINE, COARSE));
    }
}
