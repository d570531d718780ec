//! What belongs to no connection and goes to the other worker all the same: totals, and the keys of session tickets.
//!
//! ```text
//!   format(1) keys: length(varint) bytes   totals: see `metrics::totals`
//! ```

use handover::moving::Piece;
use handover_tls::{Schedule, Tickets};

use super::bytes::{Input, put_bytes};
use crate::metrics::Totals;

/// The format that this release writes.
const FORMAT: u8 = 1;

/// The most bytes of the format and the length of the keys.
const LENGTH_BYTES: usize = 16;

/// What has arrived, checked.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) keys: Piece,
    pub(super) totals: Totals,
}

/// Writes both down. There are keys in it.
pub(super) fn write(keys: &[u8], totals: &Totals) -> Vec<u8> {
    let mut counted = Vec::new();
    totals.write(&mut counted);
    // Large enough at once: what grows leaves copies of keys behind.
    let mut out = Vec::with_capacity(LENGTH_BYTES + keys.len() + counted.len());
    out.push(FORMAT);
    put_bytes(&mut out, keys);
    out.extend_from_slice(&counted);
    out
}

/// What [`write`] wrote.
///
/// # Errors
/// Why it cannot be used, in words.
pub(super) fn read(bytes: &[u8]) -> Result<Common, String> {
    let damaged = |_| "the counters of the other worker are damaged".to_owned();
    let mut input = Input::new(bytes);
    match input.byte().map_err(damaged)? {
        FORMAT => {}
        other => {
            return Err(format!(
                "the other worker's counters are in format {other}, which this one cannot read"
            ));
        }
    }
    let keys = Piece::from(input.bytes().map_err(damaged)?.to_vec());
    let totals = Totals::read(&mut input).map_err(damaged)?;
    // Tried on keys of nobody, so that nothing can go wrong when it is time to serve.
    let now = std::time::SystemTime::now();
    let any = Schedule { rotate: std::time::Duration::from_secs(3_600), keep: 2 };
    let nobody = Tickets::new(any, now).map_err(|error| error.to_string())?;
    nobody
        .import(&keys, now)
        .map_err(|error| format!("the other worker's keys of session tickets: {error}"))?;
    Ok(Common { keys, totals })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn keys_and_totals_arrive_and_what_is_neither_is_refused() {
        let schedule = Schedule { rotate: Duration::from_secs(3_600), keep: 2 };
        let tickets = Tickets::new(schedule, SystemTime::now()).unwrap();
        let metrics = Metrics::new(1);
        metrics.by_thread.of(0).accept_errors.add(7);
        let whole = write(&tickets.export(), &metrics.totals());
        let common = read(&whole).unwrap();
        assert_eq!(*common.keys, **tickets.export());
        assert_eq!(common.totals, metrics.totals());
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
        assert!(read(&write(b"no keys", &metrics.totals())).is_err());
        assert!(read(&[9]).unwrap_err().contains("format 9"));
    }
}
