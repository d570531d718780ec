//! Changes that await confirmation: what the journal knows of them, and what of that the next supervisor finds.
//!
//! ```text
//!   intent, with a deadline ──▶ pending ──▶ confirmed                      it stays
//!                                │   ▲  └──▶ taken back: cancelled         nothing is left of it
//!                                └───┘  └──▶ taken back: not confirmed     a start does not serve it from the disk,
//!                            new deadline                                  until something newer has served
//! ```
//!
//! The intent has the deadline already, so that no crash between the commit and the next record makes a change stay that
//! nobody has confirmed. Deadlines are times of the wall clock: they go on while no supervisor lives.

use std::time::Duration;

use handover_lifecycle::PendingEnd;
use jiff::Timestamp;

use super::record::{Record, now, written};
use super::{Journal, JournalError};

/// A change that was not confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unconfirmed {
    /// The operation that made it.
    pub operation_id: String,
    /// The generation on probation.
    pub generation: u64,
    /// The generation that serves again if nobody confirms.
    pub back_to: u64,
    /// When that is.
    pub until: Timestamp,
}

impl Unconfirmed {
    /// The time left; zero if it is over.
    #[must_use]
    pub fn left(&self, now: Timestamp) -> Duration {
        Duration::try_from(self.until.duration_since(now)).unwrap_or(Duration::ZERO)
    }
}

impl Journal {
    /// A change awaits confirmation from now on, or has another deadline than before. Whoever made it stays the one who
    /// did, if this generation was on probation already.
    ///
    /// # Errors
    /// It could not be written: the deadline is the one of the intent, or of the last time.
    pub fn pend(&mut self, unconfirmed: &Unconfirmed) -> Result<(), JournalError> {
        let Unconfirmed { operation_id, generation, back_to, until } = unconfirmed;
        self.append(Record::Pending {
            operation_id: operation_id.clone(),
            generation: *generation,
            back_to: *back_to,
            until: written(*until),
            at: now(),
        })
    }

    /// This generation is confirmed.
    ///
    /// # Errors
    /// It could not be written; then it is not.
    pub fn confirm(&mut self, operation_id: &str, generation: u64) -> Result<(), JournalError> {
        let operation_id = operation_id.to_owned();
        self.append(Record::Confirmed { operation_id, generation, at: now() })
    }

    /// A change is on probation no longer, and was not confirmed.
    ///
    /// # Errors
    /// It could not be written; it is known in memory all the same, and written when the disk allows it.
    pub fn pending_over(&mut self, generation: u64, how: PendingEnd) -> Result<(), JournalError> {
        self.append(Record::TakenBack { generation, how: Some(how), at: now() })
    }

    /// The change that was not confirmed, if there is one: it awaits confirmation, or its time was over and nothing
    /// newer has served since. None too if the generation before it is not kept, so that there is nothing to go back to.
    #[must_use]
    pub fn unconfirmed(&self) -> Option<&Unconfirmed> {
        let change = self.contents.probation.as_ref().map(|known| &known.change)?;
        self.is_kept(change.back_to).then_some(change)
    }

    /// The newest generation that was confirmed, or needed no confirmation, and whose files are kept.
    #[must_use]
    pub fn last_good(&self) -> Option<u64> {
        let unconfirmed = self.unconfirmed();
        let back_to = unconfirmed.map(|change| change.back_to).filter(|number| self.is_kept(*number));
        let good = |number: &u64| unconfirmed.is_none_or(|change| change.generation != *number);
        back_to.or_else(|| {
            self.contents.order.iter().rev().copied().find(|number| good(number) && self.is_kept(*number))
        })
    }
}
