//! Durations as people write them on a command line or in a query: `30`, `30s`, `500ms`, `2m`, `1h`.

use std::time::Duration;

/// The longest duration that is taken: more than that is a slip of the finger.
pub const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads a duration: a whole or decimal number with `ms`, `s`, `m` or `h`; seconds if there is no unit.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let wrong = || format!("{text:?} is no duration: write 500ms, 30s, 2m or 1h");
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "ms" => number / 1_000.0,
        "" | "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3_600.0,
        _ => return Err(wrong()),
    };
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if duration <= MAX_DURATION => Ok(duration),
        _ => Err(format!("{text:?} is too long: at most 24h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_understood_and_the_rest_is_refused() {
        let ok = |text, ms| assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        ok("30", 30_000);
        ok("30s", 30_000);
        ok("1.5s", 1_500);
        ok("500ms", 500);
        ok("2m", 120_000);
        ok("1h", 3_600_000);
        ok("0", 0);
        for text in
            ["", "s", "-1", "1d", "30 s", "1e3", "nan", "inf", "1.2.3", "25h", "99999999999999999999h"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
