//! Which certificates the status names because they are over or soon will be.
//!
//! Asking the worker for all its certificates with every status would cost more than the rest of the status: the
//! answer is kept for a while, as long as the same generation serves.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use handover_api::Certificate;

use crate::handle::DriverHandle;

/// How soon is soon, in days.
const SOON_DAYS: i64 = 14;
/// The most that are named.
const MAX_NAMED: usize = 20;
/// How long an answer is good.
const KEPT: Duration = Duration::from_secs(60);
/// How long the worker is waited for, for an answer that is good without it too.
const LIMIT: Duration = Duration::from_millis(500);

/// What was found out last.
#[derive(Debug, Default)]
pub(super) struct Expiring(Mutex<Option<Known>>);

#[derive(Debug)]
struct Known {
    generation: u64,
    at: Instant,
    soon: Vec<Certificate>,
}

impl Expiring {
    /// Those of this generation, the soonest first; none without an answer in time.
    pub(super) async fn of(&self, driver: &DriverHandle, generation: Option<u64>) -> Vec<Certificate> {
        let Some(generation) = generation else { return Vec::new() };
        if let Some(soon) = self.known(generation) {
            return soon;
        }
        let asked = tokio::time::timeout(LIMIT, driver.certificates()).await;
        let Ok(Ok(Some(json))) = asked else { return Vec::new() };
        let Ok(all) = serde_json::from_str(&json) else { return Vec::new() };
        let soon = soon(all, jiff::Timestamp::now());
        let known = Known { generation, at: Instant::now(), soon: soon.clone() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        soon
    }

    fn known(&self, generation: u64) -> Option<Vec<Certificate>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref().filter(|known| known.generation == generation)?;
        (known.at.elapsed() < KEPT).then(|| known.soon.clone())
    }
}

fn soon(mut all: Vec<Certificate>, now: jiff::Timestamp) -> Vec<Certificate> {
    all.retain(|certificate| certificate.days_left(now).is_some_and(|days| days < SOON_DAYS));
    all.sort_by(|a, b| a.not_after.cmp(&b.not_after));
    all.truncate(MAX_NAMED);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_or_soon_over_is_named_the_soonest_first() {
        let certificate = |name: &str, not_after: &str| Certificate {
            names: vec![name.to_owned()],
            not_after: not_after.to_owned(),
            ..Certificate::default()
        };
        let all = vec![
            certificate("in 13 days", "2026-12-05T12:00:00Z"),
            certificate("in 14 days", "2026-12-06T12:00:00Z"),
            certificate("over", "2026-11-01T00:00:00Z"),
            certificate("no time", "soon"),
        ];
        let now = "2026-11-22T12:00:00Z".parse().unwrap();
        let named: Vec<String> =
            soon(all, now).into_iter().map(|mut certificate| certificate.names.remove(0)).collect();
        assert_eq!(named, ["over", "in 13 days"]);
    }
}
