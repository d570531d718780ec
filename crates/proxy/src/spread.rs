//! Spreading closes over time, so that not everybody reconnects at the same moment.

use crate::clock::Ticks;

/// A small generator (xorshift64*): which connection closes when need not be unpredictable, only even.
#[derive(Debug)]
pub(crate) struct Spread(u64);

impl Spread {
    /// A generator; the seed tells threads apart.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Some time from 0 to `limit`.
    pub(crate) fn within(&mut self, limit: Ticks) -> Ticks {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let random = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        let scaled = (random * (u64::from(limit.0) + 1)) >> 32;
        Ticks(u32::try_from(scaled).unwrap_or(limit.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_the_time_is_used_and_no_more() {
        let mut spread = Spread::new(1);
        let drawn: std::collections::BTreeSet<u32> = (0..1_000).map(|_| spread.within(Ticks(9)).0).collect();
        assert_eq!(drawn, (0..=9).collect());
        assert_eq!(spread.within(Ticks(0)), Ticks(0));
    }
}
