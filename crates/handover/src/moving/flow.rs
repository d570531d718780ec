//! How much may be on its way to the taker. Pure.
//!
//! ```text
//!   sent ─▶ on its way ─▶ taken (acknowledged)
//!           at most four batches' descriptors
//! ```
//!
//! Descriptors that were sent and not received count against the sender's limit of open descriptors (ETOOMANYREFS,
//! unix(7)), and a taker that is slower than the giver must not be buried.

use std::collections::VecDeque;

use super::Outlet;

/// Batches that may be on their way.
const BATCHES: usize = 4;
/// Descriptors that may be on their way.
const MAX_DESCRIPTORS: usize = BATCHES * Outlet::MAX_BATCH;
/// Messages with descriptors that may be on their way: late connections have few each.
const MAX_MESSAGES: usize = 64;

/// What was sent, and what of it was taken.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Messages that were sent.
    sent: u64,
    /// The descriptors of each message that was not taken yet.
    on_its_way: VecDeque<usize>,
    descriptors: usize,
}

impl Flow {
    /// Whether a message with so many descriptors may be sent now. What is alone on its way always may.
    pub(crate) fn has_room_for(&self, descriptors: usize) -> bool {
        self.on_its_way.is_empty()
            || (self.descriptors + descriptors <= MAX_DESCRIPTORS && self.on_its_way.len() < MAX_MESSAGES)
    }

    /// A message is sent.
    pub(crate) fn sent(&mut self, descriptors: usize) {
        self.sent += 1;
        self.on_its_way.push_back(descriptors);
        self.descriptors += descriptors;
    }

    /// It was not sent after all.
    pub(crate) fn unsent(&mut self, descriptors: usize) {
        if let Some(at) = self.on_its_way.iter().rposition(|one| *one == descriptors) {
            self.on_its_way.remove(at);
            self.descriptors -= descriptors;
            self.sent -= 1;
        }
    }

    /// The taker has taken so many messages since the beginning.
    ///
    /// # Errors
    /// More than were sent.
    pub(crate) fn taken(&mut self, messages: u64) -> Result<(), String> {
        if messages > self.sent {
            return Err(format!(
                "the new worker has taken {messages} messages of {} that were sent",
                self.sent
            ));
        }
        let left = self.sent - messages;
        while u64::try_from(self.on_its_way.len()).unwrap_or(u64::MAX) > left {
            self.descriptors -= self.on_its_way.pop_front().unwrap_or(0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_full_batches_may_be_on_their_way_and_not_a_fifth() {
        let mut flow = Flow::default();
        for _ in 0..BATCHES {
            assert!(flow.has_room_for(Outlet::MAX_BATCH));
            flow.sent(Outlet::MAX_BATCH);
        }
        assert!(!flow.has_room_for(1));
        flow.taken(1).unwrap();
        assert!(flow.has_room_for(Outlet::MAX_BATCH));
        // An answer that says less than one before changes nothing.
        flow.taken(0).unwrap();
        flow.taken(4).unwrap();
        assert!(flow.on_its_way.is_empty() && flow.descriptors == 0 && flow.taken(5).is_err());
    }

    #[test]
    fn many_small_messages_are_bounded_too() {
        let mut flow = Flow::default();
        let sent = (0..1_000).take_while(|_| flow.has_room_for(2).then(|| flow.sent(2)).is_some()).count();
        assert_eq!(sent, MAX_MESSAGES);
        flow.taken(64).unwrap();
        assert!(flow.on_its_way.is_empty());
    }

    #[test]
    fn what_could_not_be_sent_takes_no_room() {
        let mut flow = Flow::default();
        flow.sent(200);
        flow.sent(3);
        flow.unsent(200);
        assert_eq!((flow.sent, flow.descriptors), (1, 3));
        flow.taken(1).unwrap();
        assert_eq!(flow.descriptors, 0);
    }
}
