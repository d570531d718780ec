//! Times in people's words. No clock: what time it is now is always given.

/// Seconds of a day.
const DAY: i64 = 24 * 60 * 60;

/// Seconds since 1970 as a time that can be computed with, the nearest one for what lies outside of all calendars.
fn timestamp(seconds: i64) -> jiff::Timestamp {
    let bounded = seconds.clamp(jiff::Timestamp::MIN.as_second(), jiff::Timestamp::MAX.as_second());
    jiff::Timestamp::from_second(bounded).unwrap_or_default()
}

/// `2026-11-22T12:00:00Z` (RFC 3339).
pub(crate) fn rfc3339(seconds: i64) -> String {
    timestamp(seconds).to_string()
}

/// `2026-11-22 12:00:00 UTC`.
pub(crate) fn day_and_time(seconds: i64) -> String {
    timestamp(seconds).strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// `3 days ago`.
pub(crate) fn ago(now: i64, then: i64) -> String {
    format!("{} ago", span(now.saturating_sub(then)))
}

/// `in 3 days`.
pub(crate) fn ahead(now: i64, then: i64) -> String {
    format!("in {}", span(then.saturating_sub(now)))
}

/// A length of time in its largest whole unit.
fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (count, unit) = match seconds {
        DAY.. => (seconds / DAY, "day"),
        3600.. => (seconds / 3600, "hour"),
        60.. => (seconds / 60, "minute"),
        _ => (seconds, "second"),
    };
    if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_their_largest_whole_unit() {
        assert_eq!(ago(100, 99), "1 second ago");
        assert_eq!(ago(10_000, 0), "2 hours ago");
        assert_eq!(ahead(0, 3 * DAY + 5), "in 3 days");
        assert_eq!(ahead(5, 0), "in 0 seconds");
        assert_eq!(day_and_time(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(rfc3339(1_763_812_800), "2025-11-22T12:00:00Z");
    }

    #[test]
    fn a_time_beyond_all_calendars_is_the_last_one() {
        assert!(day_and_time(i64::MAX).starts_with("9999-12-"));
        assert!(rfc3339(i64::MIN).starts_with("-009999-01-"));
    }
}
