//! Upgrades: which worker was to take over from which binary, what of that awaits confirmation, and what can be gone
//! back to.
//!
//! ```text
//!   admitted ──▶ upgrade intent ──▶ (the worker takes over) ──▶ done
//!                    │ with a deadline       └─▶ upgrade pending ──▶ upgrade over: confirmed, cancelled, not confirmed …
//!                    └─ of which nothing comes: done, and nothing awaits confirmation
//!   previous binary: its copy is whole, and nothing awaits confirmation any more
//! ```
//!
//! The intent names the key of the worker that is to take over. Who finds that worker alive knows that the upgrade was
//! made, and who finds an older one knows that it was not: keys are never given twice, and only grow.

use std::time::Duration;

use handover_api::{Binary, Upgrade};
use handover_lifecycle::PendingEnd;
use jiff::Timestamp;

use super::contents::{Contents, not_later};
use super::record::{Record, now, written};
use super::{Journal, JournalError, Unfinished};

/// A worker of another binary is about to take over, or has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeMade {
    /// The operation that upgrades.
    pub operation_id: String,
    /// The key of the worker that takes over.
    pub worker: u64,
    /// The generation that both serve.
    pub generation: u64,
    /// The binary before.
    pub from: Binary,
    /// The new one.
    pub to: Binary,
}

/// An upgrade that was not confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnconfirmedUpgrade {
    /// What was made.
    pub made: UpgradeMade,
    /// When the binary before serves again if nobody confirms.
    pub until: Timestamp,
}

impl UnconfirmedUpgrade {
    /// The time left; zero if it is over.
    #[must_use]
    pub fn left(&self, now: Timestamp) -> Duration {
        Duration::try_from(self.until.duration_since(now)).unwrap_or(Duration::ZERO)
    }
}

impl Journal {
    /// A worker of another binary is about to take over. With `confirm` it awaits confirmation until then.
    ///
    /// # Errors
    /// It could not be written; do not hand over.
    pub fn intend_upgrade(
        &mut self,
        made: &UpgradeMade,
        confirm: Option<Timestamp>,
    ) -> Result<(), JournalError> {
        let confirm = confirm.map(written);
        self.append(Record::UpgradeIntent { made: made.into(), confirm, at: now() })
    }

    /// An upgrade awaits confirmation from now on.
    ///
    /// # Errors
    /// It could not be written: the deadline is the one of the intent.
    pub fn pend_upgrade(&mut self, unconfirmed: &UnconfirmedUpgrade) -> Result<(), JournalError> {
        let made = (&unconfirmed.made).into();
        self.append(Record::UpgradePending { made, until: written(unconfirmed.until), at: now() })
    }

    /// The upgrade is confirmed that this worker made.
    ///
    /// # Errors
    /// It could not be written; then it is not.
    pub fn confirm_upgrade(&mut self, operation_id: &str, worker: u64) -> Result<(), JournalError> {
        let operation_id = Some(operation_id.to_owned());
        self.append(Record::UpgradeOver { worker, how: PendingEnd::Confirmed, operation_id, at: now() })
    }

    /// The upgrade that this worker made is on probation no longer, and was not confirmed.
    ///
    /// # Errors
    /// It could not be written; it is known in memory all the same, and written when the disk allows it.
    pub fn upgrade_over(&mut self, worker: u64, how: PendingEnd) -> Result<(), JournalError> {
        self.append(Record::UpgradeOver { worker, how, operation_id: None, at: now() })
    }

    /// A copy of this binary is kept, to be gone back to: it served before the last upgrade that stayed.
    ///
    /// # Errors
    /// It could not be written; it is known in memory all the same, and written when the disk allows it.
    pub fn keep_binary(&mut self, binary: &Binary) -> Result<(), JournalError> {
        self.append(Record::PreviousBinary { binary: binary.clone(), at: now() })
    }

    /// The upgrade that was not confirmed, if there is one.
    #[must_use]
    pub fn unconfirmed_upgrade(&self) -> Option<&UnconfirmedUpgrade> {
        self.contents.upgrades.unconfirmed.as_ref()
    }

    /// The binary that served before the last upgrade that stayed, if a copy of it was kept. Its path is where it was
    /// found when it was run; the copy is found by its digest.
    #[must_use]
    pub fn previous_binary(&self) -> Option<&Binary> {
        self.contents.upgrades.previous.as_ref()
    }
}

/// An upgrade as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct WrittenUpgrade {
    operation_id: String,
    worker: u64,
    generation: u64,
    from: Binary,
    to: Binary,
}

impl From<&UpgradeMade> for WrittenUpgrade {
    fn from(made: &UpgradeMade) -> Self {
        let UpgradeMade { operation_id, worker, generation, from, to } = made.clone();
        WrittenUpgrade { operation_id, worker, generation, from, to }
    }
}

impl From<WrittenUpgrade> for UpgradeMade {
    fn from(written: WrittenUpgrade) -> Self {
        let WrittenUpgrade { operation_id, worker, generation, from, to } = written;
        UpgradeMade { operation_id, worker, generation, from, to }
    }
}

/// What the records say about upgrades.
#[derive(Debug, Default)]
pub(super) struct Upgrades {
    unconfirmed: Option<UnconfirmedUpgrade>,
    previous: Option<Binary>,
}

impl Upgrades {
    /// The worker of the upgrade that awaits confirmation.
    pub(super) fn worker(&self) -> Option<u64> {
        self.unconfirmed.as_ref().map(|unconfirmed| unconfirmed.made.worker)
    }

    /// An operation has ended. If it is an upgrade of which nothing stayed, nothing awaits confirmation.
    pub(super) fn done(&mut self, operation_id: &str, stays: bool) {
        let made_it = |unconfirmed: &mut UnconfirmedUpgrade| unconfirmed.made.operation_id == operation_id;
        if !stays {
            self.unconfirmed.take_if(made_it);
        }
    }

    fn pending(&mut self, made: WrittenUpgrade, until: &str, at: &str) {
        if let Ok(until) = until.parse() {
            self.unconfirmed = Some(UnconfirmedUpgrade { made: made.into(), until: not_later(until, at) });
        }
    }

    /// The records that say the same as all that were taken; those of unfinished operations aside.
    pub(super) fn records(&self) -> impl Iterator<Item = Record> {
        let previous = self.previous.iter();
        let previous = previous.map(|binary| Record::PreviousBinary { binary: binary.clone(), at: now() });
        let unconfirmed = self.unconfirmed.iter().map(|unconfirmed| Record::UpgradePending {
            made: (&unconfirmed.made).into(),
            until: written(unconfirmed.until),
            at: now(),
        });
        previous.chain(unconfirmed)
    }
}

impl Unfinished {
    /// Of an upgrade whose intent was written: the worker that was to take over, and the binary before.
    #[must_use]
    pub fn upgraded_from(&self) -> Option<(u64, &Binary)> {
        self.made.as_ref().map(|made| (made.worker, &made.from))
    }

    /// The intent of an unfinished upgrade, once more. Its deadline is in another record.
    pub(super) fn upgrade_intent(&self) -> Option<Record> {
        let made = self.made.as_ref()?;
        Some(Record::UpgradeIntent { made: made.into(), confirm: None, at: now() })
    }
}

impl Contents {
    pub(super) fn upgrade_meant(&mut self, made: WrittenUpgrade, confirm: Option<&str>, at: &str) {
        let meant: UpgradeMade = made.clone().into();
        let mut unfinished = self.unfinished.iter_mut();
        if let Some(unfinished) = unfinished.find(|u| u.operation.id == meant.operation_id) {
            // What it was found out to be since it was admitted.
            let upgrade = unfinished.operation.upgrade.get_or_insert_with(Box::<Upgrade>::default);
            upgrade.from.clone_from(&meant.from);
            upgrade.to.clone_from(&meant.to);
            unfinished.upgrade = Some(meant.worker);
            unfinished.made = Some(meant);
        }
        if let Some(until) = confirm {
            self.upgrades.pending(made, until, at);
        }
    }

    pub(super) fn upgrade_pending(&mut self, made: WrittenUpgrade, until: &str, at: &str) {
        self.upgrades.pending(made, until, at);
    }

    pub(super) fn upgrade_over(&mut self, worker: u64, operation_id: Option<&str>) {
        let over = self.upgrades.unconfirmed.take_if(|unconfirmed| unconfirmed.made.worker == worker);
        let confirms = self.unfinished.iter_mut().find(|u| Some(u.operation.id.as_str()) == operation_id);
        if let (Some(confirms), Some(over)) = (confirms, over) {
            confirms.intent = Some(over.made.generation);
        }
    }

    pub(super) fn previous_binary(&mut self, binary: Binary) {
        self.upgrades.previous = Some(binary);
    }
}
