//! Time limits: one coarse timer per connection.
//!
//! A connection's deadline moves with nearly every byte, and nearly always to a later time. So the wheel is lazy:
//! moving a deadline later is a write to a field of the connection and does not touch the wheel. When the wheel comes to the time
//! at which a connection was last *armed*, it asks for the deadline as it is now and arms it anew if that is still to come.
//! Only a deadline that moves *earlier* than the armed time costs an insertion, and that happens about once per
//! timer period, not once per request.
//!
//! The wheel knows connections by their index in the thread's table, not by identity. An index that changes its
//! connection keeps its armed time, so that short connections leave nothing behind in the wheel.
//!
//! Pure: time is a tick count that the caller gives.

use std::time::Duration;

/// Length of a tick: the accuracy of every time limit of the data plane.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// Number of slots; a deadline further away than this many ticks is looked at once per turn of the wheel.
const SLOTS: usize = 512;
const WORDS: usize = SLOTS / 64;
/// Armed time of an index that is not in the wheel.
const NOT_ARMED: u64 = u64::MAX;

/// The wheel.
#[derive(Debug)]
pub(crate) struct Wheel {
    slots: Vec<Vec<u32>>,
    /// One bit per slot: set if the slot holds anything.
    occupied: [u64; WORDS],
    /// By index: the tick at which its valid entry is due.
    armed: Vec<u64>,
    /// The last tick that was processed.
    now: u64,
}

impl Wheel {
    /// An empty wheel at tick `now`.
    pub(crate) fn new(now: u64) -> Self {
        Self { slots: vec![Vec::new(); SLOTS], occupied: [0; WORDS], armed: Vec::new(), now }
    }

    /// Makes sure that the wheel looks at `index` at tick `deadline` or before.
    #[inline]
    pub(crate) fn arm(&mut self, index: u32, deadline: u64) {
        if let Some(armed) = self.armed.get(index as usize)
            && *armed <= deadline
        {
            return;
        }
        self.insert(index, deadline);
    }

    #[cold]
    fn insert(&mut self, index: u32, deadline: u64) {
        let due = deadline.clamp(self.now + 1, self.now + SLOTS as u64 - 1);
        let position = index as usize;
        if position >= self.armed.len() {
            self.armed.resize(position + 1, NOT_ARMED);
        }
        if let Some(armed) = self.armed.get_mut(position) {
            if *armed <= due {
                return;
            }
            *armed = due;
        }
        let slot = slot_of(due);
        if let Some(entries) = self.slots.get_mut(slot) {
            entries.push(index);
        }
        if let Some(word) = self.occupied.get_mut(slot / 64) {
            *word |= 1 << (slot % 64);
        }
    }

    /// Goes on to tick `now`. For each index that is due, `deadline_of` is asked for the deadline as it is now: `None` if the
    /// index has no connection, a tick after `now` to be armed anew, anything else if it is over: it goes to `expired`.
    pub(crate) fn advance(
        &mut self,
        now: u64,
        mut deadline_of: impl FnMut(u32) -> Option<u64>,
        expired: &mut Vec<u32>,
    ) {
        while self.now < now {
            self.now += 1;
            let slot = slot_of(self.now);
            let Some(word) = self.occupied.get_mut(slot / 64) else { continue };
            if *word & (1 << (slot % 64)) == 0 {
                continue;
            }
            *word &= !(1 << (slot % 64));
            let Some(mut entries) = self.slots.get_mut(slot).map(std::mem::take) else { continue };
            for index in entries.drain(..) {
                let Some(armed) = self.armed.get_mut(index as usize) else { continue };
                if *armed != self.now {
                    // An entry that an earlier one has replaced.
                    continue;
                }
                *armed = NOT_ARMED;
                match deadline_of(index) {
                    None => {}
                    Some(deadline) if deadline > now => self.insert(index, deadline),
                    Some(_) => expired.push(index),
                }
            }
            // Keep the memory of the slot, unless something came in meanwhile.
            if let Some(place) = self.slots.get_mut(slot)
                && place.is_empty()
            {
                *place = entries;
            }
        }
    }

    /// The tick at which the wheel must be advanced next; `None` if nothing is armed.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let from = self.now + 1;
        let mut distance = 0;
        while distance < SLOTS as u64 {
            let slot = slot_of(from + distance);
            let word = self.occupied.get(slot / 64).copied().unwrap_or_default() >> (slot % 64);
            if word != 0 {
                return Some(from + distance + u64::from(word.trailing_zeros()));
            }
            distance += 64 - (slot % 64) as u64;
        }
        None
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is smaller than SLOTS")]
const fn slot_of(tick: u64) -> usize {
    (tick % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator (xorshift64*), so that a failing seed can be run again.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound
        }
    }

    /// Deadlines move both ways, connections come and go on the same index, time jumps; none may expire before its deadline,
    /// and all must expire at the first advance at or after it.
    fn simulate(seed: u64) {
        let mut random = Random(seed | 1);
        let mut now = random.below(10_000);
        let mut wheel = Wheel::new(now);
        let mut deadlines: Vec<Option<u64>> = vec![None; 40];
        for _ in 0..2_000 {
            match random.below(10) {
                0 => {
                    let index = random.below(40) as usize;
                    deadlines[index] = None;
                }
                1..=6 => {
                    let index = random.below(40) as usize;
                    let far = [3, 100, 600, 3_000][random.below(4) as usize];
                    let deadline = now + 1 + random.below(far);
                    deadlines[index] = Some(deadline);
                    wheel.arm(u32::try_from(index).unwrap(), deadline);
                }
                _ => {
                    let jump = [2, 20, 1_200][random.below(3) as usize];
                    now += random.below(jump);
                    let mut expired = Vec::new();
                    wheel.advance(now, |index| deadlines[index as usize], &mut expired);
                    for index in &expired {
                        let deadline = deadlines[*index as usize].take().expect("expired twice");
                        assert!(deadline <= now, "seed {seed}: {index} expired at {now}, before {deadline}");
                    }
                    for (index, deadline) in deadlines.iter().enumerate() {
                        assert!(deadline.is_none_or(|at| at > now), "seed {seed}: {index} missed at {now}");
                    }
                    if let Some(first) = deadlines.iter().flatten().min() {
                        assert!(wheel.next_due().is_some_and(|due| due <= *first), "seed {seed}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_deadline_is_met_and_none_early() {
        let seeds = match std::env::var("WHEEL_SEED") {
            Ok(seed) => {
                let seed: u64 = seed.parse().unwrap();
                seed..seed + 1
            }
            Err(_) => 1..300,
        };
        for seed in seeds {
            simulate(seed);
        }
    }

    #[test]
    fn short_connections_leave_nothing_behind() {
        let mut wheel = Wheel::new(0);
        for request in 0..100_000_u64 {
            wheel.arm(7, 100 + request / 1_000);
        }
        assert_eq!(wheel.slots.iter().map(Vec::len).sum::<usize>(), 1);
    }
}
