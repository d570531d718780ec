//! What a copy has said on its `NOTIFY_SOCKET`, as far as anybody waits for it (sd_notify(3)).
//!
//! ```text
//!   starting ──READY=1──▶ ready ──RELOADING=1 MONOTONIC_USEC=t──▶ reloading since t ──READY=1──▶ ready, reloaded at t
//! ```

/// What is known from all that it has said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Spoken {
    /// Whether it has said `READY=1`, ever.
    pub(crate) ready: bool,
    /// It said `RELOADING=1`, and when (CLOCK_MONOTONIC, microseconds); `READY=1` has not followed yet.
    pub(crate) reloading: Option<u64>,
    /// When the last reload began that has ended, on the same clock.
    pub(crate) reloaded: Option<u64>,
    /// Whether it has said `STOPPING=1`.
    pub(crate) stopping: bool,
    /// Its last `STATUS=`.
    pub(crate) status: Option<String>,
    /// Its last `ERRNO=`.
    pub(crate) errno: Option<i32>,
}

/// The longest status that is kept, in characters.
const MAX_STATUS: usize = 200;

impl Spoken {
    /// Takes in one message: its lines, each `NAME=value`. `now` is the clock's time, in microseconds, for a `RELOADING=1` that
    /// does not say when.
    pub(crate) fn hear<'a>(&mut self, lines: impl IntoIterator<Item = &'a str>, now: u64) {
        let (mut ready, mut reloading, mut since) = (false, false, None);
        for (name, value) in lines.into_iter().filter_map(|line| line.split_once('=')) {
            match (name, value.trim_end()) {
                ("READY", "1") => ready = true,
                ("RELOADING", "1") => reloading = true,
                ("STOPPING", "1") => self.stopping = true,
                ("MONOTONIC_USEC", value) => since = value.parse().ok(),
                ("STATUS", value) => self.status = Some(value.chars().take(MAX_STATUS).collect()),
                ("ERRNO", value) => self.errno = value.parse().ok(),
                _ => {}
            }
        }
        if reloading {
            self.reloading = Some(since.unwrap_or(now));
        }
        if ready {
            self.ready = true;
            self.reloaded = self.reloading.take().or(self.reloaded);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_has_ended_only_with_the_ready_that_follows_it() {
        let mut spoken = Spoken::default();
        spoken.hear(["READY=1", "STATUS=serving"], 0);
        assert_eq!((spoken.ready, spoken.reloaded), (true, None));
        spoken.hear(["RELOADING=1", "MONOTONIC_USEC=7000"], 0);
        assert_eq!((spoken.reloading, spoken.reloaded), (Some(7000), None));
        spoken.hear(["STATUS=reading"], 0);
        assert_eq!(spoken.reloaded, None);
        spoken.hear(["READY=1"], 0);
        assert_eq!((spoken.reloading, spoken.reloaded), (None, Some(7000)));
        spoken.hear(["READY=1"], 0);
        assert_eq!(spoken.reloaded, Some(7000));
    }

    #[test]
    fn without_a_time_the_moment_counts_when_it_was_heard() {
        let mut spoken = Spoken::default();
        spoken.hear(["RELOADING=1"], 9000);
        assert_eq!(spoken.reloading, Some(9000));
    }

    #[test]
    fn what_it_does_not_know_does_not_matter() {
        let mut spoken = Spoken::default();
        spoken.hear(["READY=0", "X_OTHER=1", "nonsense", "", "ERRNO=28", "STOPPING=1"], 0);
        assert_eq!(spoken, Spoken { stopping: true, errno: Some(28), ..Spoken::default() });
        spoken.hear([format!("STATUS={}", "ü".repeat(1000)).as_str()], 0);
        assert_eq!(spoken.status.unwrap().chars().count(), MAX_STATUS);
    }
}
