//! The IDs of operations.
//!
//! ```text
//!   20261122-032755-7k3m0x
//!   date     time   ││└──┴─ 20 bits that nobody else has
//!   (UTC)           └┴───── the millisecond, 0 to 999 as two digits
//! ```
//!
//! The digits after the last dash are those of Crockford's base 32, which has no letters that look like figures. Sorted as
//! text, IDs are sorted by time. Whoever makes an operation chooses its ID: the command line, so that it can ask for an
//! operation that it lost sight of, and the supervisor for all that come without one.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicI64, Ordering};

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The millisecond of the ID that this process made last: no two are of one, so that they differ and are in order.
static LAST_MS: AtomicI64 = AtomicI64::new(0);

/// A new ID for an operation: greater than those that this process has made before, and other than those that other
/// processes make.
#[must_use]
pub fn operation_id() -> String {
    let now = jiff::Timestamp::now().as_millisecond();
    let next = |last: i64| now.max(last.saturating_add(1));
    let last = LAST_MS.fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(next(last)));
    // A hasher's keys come from the system's random numbers, and differ from one to the next.
    written(next(last.unwrap_or(0)), RandomState::new().build_hasher().finish())
}

fn written(ms: i64, random: u64) -> String {
    // The clock of a machine does not come near the end of what can be written.
    let at = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    let mut id = at.strftime("%Y%m%d-%H%M%S-").to_string();
    let bits = ms.rem_euclid(1000).unsigned_abs() << 20 | random & 0xF_FFFF;
    for place in (0..6).rev() {
        let digit = usize::try_from(bits >> (5 * place) & 31).unwrap_or(0);
        id.push(char::from(DIGITS[digit]));
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_when_and_sorts_by_time() {
        assert_eq!(written(0, 0), "19700101-000000-000000");
        assert_eq!(written(951_782_399_999, 0), "20000228-235959-z70000");
        assert_eq!(written(951_782_400_000, 0), "20000229-000000-000000");
        assert_eq!(written(1_795_318_075_001, u64::MAX), "20261122-032755-01zzzz");
    }

    #[test]
    fn ids_are_short_keys_in_the_order_in_which_they_were_made() {
        let ids: Vec<String> = (0..1000).map(|_| operation_id()).collect();
        assert!(ids.iter().zip(&ids[1..]).all(|(one, next)| one < next), "{ids:?}");
        assert!(
            ids.iter().all(|id| id.len() == 22 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        );
    }
}
