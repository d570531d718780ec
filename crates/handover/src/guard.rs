//! Whether a new generation fares worse than the one before: a comparison of figures, without a clock.
//!
//! ```text
//!   totals, once a second ─▶ the old one's last N seconds ─┐
//!                         └▶ the new one's first seconds ──┴─▶ judge ─▶ may stay, or must go and why
//! ```
//!
//! Three shares are compared: answers with a 5xx status among the requests, failed connects among those to endpoints,
//! failed TLS handshakes among those that clients began. One of them is too high if all of this holds:
//!
//! - it is higher than the old one's by more percentage points than its limit;
//! - it is made of at least [`GuardLimits::min_requests`] requests (connects, handshakes);
//! - at least [`FEWEST_FAILURES`] of them failed.
//!
//! If nothing happened under the old generation, its share counts as zero.

use std::fmt::Write as _;

use crate::types::{Figures, GuardFigures, GuardLimits};

/// Fewer failures than this are taken for chance, whatever share of all they are.
pub const FEWEST_FAILURES: u64 = 5;

/// What the figures say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the new generation may stay.
    pub passed: bool,
    /// The figures in words, those that decided first.
    pub detail: String,
}

/// One share that is compared.
struct Share {
    /// What is counted as bad, and among what.
    words: (&'static str, &'static str),
    before: (u64, u64),
    after: (u64, u64),
    /// Percentage points.
    limit: f64,
}

/// Compares what happened under the new generation with what happened under the old one, both as counts.
#[must_use]
pub fn judge(before: &Figures, after: &Figures, limits: &GuardLimits) -> Verdict {
    let shares = shares(before, after, limits);
    let bad: Vec<String> =
        shares.iter().filter(|share| share.is_bad(limits)).map(|share| share.words_with(limits)).collect();
    if !bad.is_empty() {
        return Verdict { passed: false, detail: bad.join("; ") };
    }
    let seen: Vec<String> = shares.iter().filter(|share| share.after.1 > 0).map(Share::words).collect();
    let detail =
        if seen.is_empty() { "nothing came that could be compared".to_owned() } else { seen.join("; ") };
    Verdict { passed: true, detail }
}

/// What happened between two totals.
#[must_use]
pub fn between(start: &Figures, end: &Figures) -> Figures {
    Figures {
        requests: end.requests.saturating_sub(start.requests),
        errors_5xx: end.errors_5xx.saturating_sub(start.errors_5xx),
        connects: end.connects.saturating_sub(start.connects),
        connect_failures: end.connect_failures.saturating_sub(start.connect_failures),
        handshakes: end.handshakes.saturating_sub(start.handshakes),
        handshake_failures: end.handshake_failures.saturating_sub(start.handshake_failures),
    }
}

/// [`judge`] for both at once.
pub(crate) fn judge_both(figures: &GuardFigures, limits: &GuardLimits) -> Verdict {
    judge(&figures.before, &figures.after, limits)
}

fn shares(before: &Figures, after: &Figures, limits: &GuardLimits) -> [Share; 3] {
    [
        Share {
            words: ("5xx", "requests"),
            before: (before.errors_5xx, before.requests),
            after: (after.errors_5xx, after.requests),
            limit: limits.errors_5xx_points,
        },
        Share {
            words: ("failures to connect", "connects"),
            before: (before.connect_failures, before.connects),
            after: (after.connect_failures, after.connects),
            limit: limits.connect_failures_points,
        },
        Share {
            words: ("failed TLS handshakes", "handshakes"),
            before: (before.handshake_failures, before.handshakes),
            after: (after.handshake_failures, after.handshakes),
            limit: limits.handshake_failures_points,
        },
    ]
}

impl Share {
    fn is_bad(&self, limits: &GuardLimits) -> bool {
        let (failures, all) = self.after;
        all >= limits.min_requests
            && failures >= FEWEST_FAILURES
            && percent(self.after) > percent(self.before) + self.limit.max(0.0)
    }

    /// `5xx 41 % of 120 requests, was 0.2 % of 4,000`.
    fn words(&self) -> String {
        let (what, of) = self.words;
        let was = match self.before.1 {
            0 => "there were none before".to_owned(),
            all => format!("was {} of {}", show(percent(self.before)), thousands(all)),
        };
        format!("{what} {} of {} {of}, {was}", show(percent(self.after)), thousands(self.after.1))
    }

    fn words_with(&self, limits: &GuardLimits) -> String {
        let mut words = self.words();
        let (limit, least) = (number(self.limit.max(0.0)), thousands(limits.min_requests));
        let (points, of) = (if limit == "1" { "point" } else { "points" }, self.words.1);
        // Writing into a string does not fail.
        let _ = write!(words, "; limit: {limit} {points} and {least} {of}");
        words
    }
}

fn percent((part, all): (u64, u64)) -> f64 {
    // Failures that are counted before what they belong to are all of it, not more than that.
    if all == 0 { 0.0 } else { (part.min(all) as f64) * 100.0 / (all as f64) }
}

fn show(percent: f64) -> String {
    if percent > 0.0 && percent < 0.05 { "under 0.1 %".to_owned() } else { format!("{} %", number(percent)) }
}

/// `0`, `0.2`, `41`.
fn number(value: f64) -> String {
    if value >= 10.0 {
        return format!("{value:.0}");
    }
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// `4,000`.
fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn requests(errors: u64, all: u64) -> Figures {
        Figures { requests: all, errors_5xx: errors, ..Figures::default() }
    }

    #[test]
    fn more_errors_than_the_limit_allows_are_told_with_their_figures() {
        let verdict = judge(&requests(8, 4_000), &requests(49, 120), &GuardLimits::DEFAULT);
        assert_eq!(
            verdict.detail,
            "5xx 41 % of 120 requests, was 0.2 % of 4,000; limit: 5 points and 10 requests"
        );
        assert!(!verdict.passed);
    }

    #[test]
    fn a_generation_that_fares_like_the_one_before_stays_and_its_figures_are_told() {
        let verdict = judge(&requests(400, 4_000), &requests(14, 120), &GuardLimits::DEFAULT);
        assert!(verdict.passed, "10 % before, 11.7 % now");
        assert_eq!(verdict.detail, "5xx 12 % of 120 requests, was 10 % of 4,000");
    }

    #[test]
    fn few_failures_and_few_requests_are_no_ground() {
        let nothing = Figures::default();
        assert!(judge(&nothing, &requests(4, 10), &GuardLimits::DEFAULT).passed);
        assert!(judge(&nothing, &requests(9, 9), &GuardLimits::DEFAULT).passed);
        let verdict = judge(&nothing, &requests(5, 10), &GuardLimits::DEFAULT);
        assert!(!verdict.passed);
        assert!(verdict.detail.starts_with("5xx 50 % of 10 requests, there were none before"), "{verdict:?}");
        assert_eq!(
            judge(&nothing, &nothing, &GuardLimits::DEFAULT).detail,
            "nothing came that could be compared"
        );
    }

    #[test]
    fn each_share_has_its_own_limit_and_all_that_are_bad_are_named() {
        let after = Figures {
            connects: 100,
            connect_failures: 20,
            handshakes: 1_000,
            handshake_failures: 300,
            ..requests(0, 5_000)
        };
        let verdict = judge(&Figures::default(), &after, &GuardLimits::DEFAULT);
        assert!(verdict.detail.contains("failures to connect 20 % of 100 connects"), "{verdict:?}");
        assert!(verdict.detail.contains("failed TLS handshakes 30 % of 1,000 handshakes"), "{verdict:?}");
        let patient = GuardLimits {
            connect_failures_points: 25.0,
            handshake_failures_points: 30.0,
            ..GuardLimits::DEFAULT
        };
        assert!(judge(&Figures::default(), &after, &patient).passed);
    }

    #[test]
    fn small_shares_are_not_shown_as_none() {
        let verdict = judge(&requests(0, 100_000), &requests(1, 1_234_567), &GuardLimits::DEFAULT);
        assert_eq!(verdict.detail, "5xx under 0.1 % of 1,234,567 requests, was 0 % of 100,000");
    }

    proptest! {
        #[test]
        fn a_share_that_is_not_higher_never_fails(
            all in 0..1_000_000_u64, errors in 0..1_000_000_u64, times in 1..50_u64, points in 0.0..100.0_f64,
        ) {
            let before = requests(errors.min(all), all);
            let after = requests(errors.min(all) * times, all * times);
            let limits = GuardLimits { errors_5xx_points: points, ..GuardLimits::DEFAULT };
            // The same share of more requests; a millionth of a point is for rounding.
            let limits = GuardLimits { errors_5xx_points: limits.errors_5xx_points + 1e-6, ..limits };
            prop_assert!(judge(&before, &after, &limits).passed);
        }

        #[test]
        fn more_failures_never_save_a_generation_and_more_patience_never_condemns_one(
            before in (0..1_000_u64, 0..1_000_u64), all in 0..10_000_u64, errors in 0..10_000_u64,
            more in 0..10_000_u64, points in 0.0..100.0_f64,
        ) {
            let before = requests(before.0.min(before.1), before.1);
            let limits = GuardLimits { errors_5xx_points: points, ..GuardLimits::DEFAULT };
            let few = judge(&before, &requests(errors.min(all), all), &limits);
            let many = judge(&before, &requests((errors + more).min(all), all), &limits);
            prop_assert!(few.passed || !many.passed);
            let patient = GuardLimits { errors_5xx_points: points + 1.0, ..limits };
            let again = judge(&before, &requests(errors.min(all), all), &patient);
            prop_assert!(!few.passed || again.passed);
        }

        #[test]
        fn figures_that_make_no_sense_are_judged_all_the_same(
            a in any::<[u64; 6]>(), b in any::<[u64; 6]>(), points in any::<f64>(), least in any::<u64>(),
        ) {
            let figures = |of: [u64; 6]| Figures {
                requests: of[0], errors_5xx: of[1], connects: of[2],
                connect_failures: of[3], handshakes: of[4], handshake_failures: of[5],
            };
            let limits = GuardLimits {
                errors_5xx_points: points, connect_failures_points: points, handshake_failures_points: points,
                min_requests: least, ..GuardLimits::DEFAULT
            };
            prop_assert!(!judge(&figures(a), &figures(b), &limits).detail.is_empty());
            let _ = between(&figures(a), &figures(b));
        }
    }
}
