//! What the records say, in memory; and the records that say the same again, when the file is rewritten.

use std::collections::{BTreeMap, HashMap, VecDeque};

use handover_api::{ActorKind, Generation, Kind, Operation, Outcome};
use handover_lifecycle::PendingEnd;
use jiff::Timestamp;

use super::record::{Record, Stored, now, written};
use super::upgrades::Upgrades;
use super::{KEPT_GENERATIONS, Unconfirmed, Unfinished};

/// What the records say.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Ended and refused operations, oldest first.
    pub(super) history: VecDeque<Operation>,
    /// How many entries were dropped from the front of `history`.
    dropped: usize,
    /// Ended operations by ID: position in `history` plus `dropped`. Refused ones are not found by ID.
    by_id: HashMap<String, usize>,
    pub(super) generations: BTreeMap<u64, Generation>,
    /// Committed generations in the order in which they came to serve, without those that were taken back.
    pub(super) order: Vec<u64>,
    /// Generations whose files are kept; the one that was written last comes last.
    pub(super) kept: VecDeque<Kept>,
    pub(super) unfinished: Vec<Unfinished>,
    pub(super) probation: Option<Probation>,
    pub(super) upgrades: Upgrades,
}

/// A generation whose files are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) number: u64,
    pub(super) stored: Stored,
}

/// A change that was not confirmed.
#[derive(Debug, Clone)]
pub(super) struct Probation {
    pub(super) change: Unconfirmed,
    /// It was taken back, and the disk may still have it.
    over: Option<PendingEnd>,
    /// It was asked for again, to stay.
    asked_for: bool,
    /// What was known before, as long as this one has not served: if nothing comes of it, that is true again.
    before: Option<Box<Probation>>,
}

impl Probation {
    fn new(change: Unconfirmed, before: Option<Self>) -> Self {
        Self { change, over: None, asked_for: false, before: before.map(Box::new) }
    }
}

/// A deadline that was written down at this time, but no later than it was then: a clock that was set back meanwhile
/// gives nobody more time than was asked for.
pub(super) fn not_later(until: Timestamp, written_at: &str) -> Timestamp {
    let now = Timestamp::now();
    match written_at.parse::<Timestamp>() {
        Ok(at) if now < at => now.checked_add(until.duration_since(at)).map_or(until, |then| then.min(until)),
        _ => until,
    }
}

impl Contents {
    pub(super) fn operation(&self, id: &str) -> Option<&Operation> {
        let position = self.by_id.get(id)?.checked_sub(self.dropped)?;
        self.history.get(position)
    }

    /// An ended operation, or else a request that was refused. Those are not found by ID when the same is asked for again.
    pub(super) fn entry(&self, id: &str) -> Option<&Operation> {
        self.operation(id).or_else(|| self.history.iter().rev().find(|operation| operation.id == id))
    }

    pub(super) fn serving(&self) -> Option<u64> {
        self.generations.values().find(|generation| generation.serving).map(|generation| generation.number)
    }

    /// Takes a record in.
    pub(super) fn take(&mut self, record: Record, keep: usize) {
        match record {
            Record::Admitted { operation } => self.admitted(operation),
            Record::Intent { operation_id, generation, bundle, manifest, back_to, confirm, at } => {
                if let Some(stored) = Stored::of(manifest.as_deref(), &bundle) {
                    self.kept.retain(|kept| kept.number != generation);
                    self.kept.push_back(Kept { number: generation, stored });
                }
                if let Some(unfinished) = self.unfinished.iter_mut().find(|u| u.operation.id == operation_id)
                {
                    unfinished.intent = Some(generation);
                    unfinished.back_to = back_to;
                }
                if let Some(known) =
                    self.probation.as_mut().filter(|known| known.change.generation == generation)
                {
                    known.asked_for = true;
                }
                let until = confirm.and_then(|until| until.parse().ok());
                if let (Some(back_to), Some(until)) = (back_to, until) {
                    let until = not_later(until, &at);
                    self.meant(Unconfirmed { operation_id, generation, back_to, until });
                }
            }
            Record::Pending { operation_id, generation, back_to, until, at } => {
                let Ok(until) = until.parse() else { return };
                let until = not_later(until, &at);
                self.pending(Unconfirmed { operation_id, generation, back_to, until });
            }
            Record::Confirmed { operation_id, generation, .. } => {
                self.probation = self.probation.take().filter(|known| known.change.generation != generation);
                if let Some(unfinished) = self.unfinished.iter_mut().find(|u| u.operation.id == operation_id)
                {
                    unfinished.intent = Some(generation);
                }
            }
            Record::TakenBack { generation, how, at } => self.taken_back(generation, how, at.parse().ok()),
            Record::UpgradeIntent { made, confirm, at } => self.upgrade_meant(made, confirm.as_deref(), &at),
            Record::UpgradePending { made, until, at } => self.upgrade_pending(made, &until, &at),
            Record::UpgradeOver { worker, operation_id, .. } => {
                self.upgrade_over(worker, operation_id.as_deref());
            }
            Record::PreviousBinary { binary, .. } => self.previous_binary(binary),
            Record::Generation { generation } => self.committed(generation),
            Record::Done { operation } => self.done(operation),
        }
        self.trim(keep);
    }

    fn admitted(&mut self, operation: Operation) {
        // What only brings a generation back writes no intent.
        let goes_back = operation.kind == Kind::Cancel
            || (operation.kind == Kind::Rollback && operation.actor.kind == ActorKind::Supervisor);
        let pending = self.probation.as_ref().filter(|known| goes_back && known.over.is_none());
        let intent = pending.map(|known| known.change.back_to);
        let upgrade = self.upgrades.worker().filter(|_| goes_back);
        let intent = intent.filter(|_| upgrade.is_none());
        self.unfinished.push(Unfinished { operation, intent, back_to: None, upgrade, made: None });
    }

    /// A change is about to be made that must be confirmed.
    fn meant(&mut self, change: Unconfirmed) {
        let before = self.probation.take();
        self.probation = Some(Probation::new(change, before));
    }

    /// A change awaits confirmation. Whoever made it stays the one who did, whoever moves its deadline.
    fn pending(&mut self, mut change: Unconfirmed) {
        let before = match self.probation.take() {
            Some(known) if known.change.generation == change.generation => {
                change.operation_id = known.change.operation_id;
                known.before.map(|before| *before)
            }
            before => before,
        };
        self.probation = Some(Probation::new(change, before));
    }

    fn taken_back(&mut self, generation: u64, how: Option<PendingEnd>, at: Option<Timestamp>) {
        self.order.retain(|number| *number != generation);
        let Some(known) = &mut self.probation else { return };
        if known.change.generation != generation {
            return;
        }
        match how {
            Some(PendingEnd::NotConfirmed | PendingEnd::WorkersDied) => {
                known.over = how;
                known.change.until = at.map_or(known.change.until, |at| at.min(known.change.until));
            }
            _ => self.probation = None,
        }
    }

    fn committed(&mut self, generation: Generation) {
        let number = generation.number;
        if let Some(Probation { change, over, asked_for, before }) = &mut self.probation {
            if number == change.generation {
                *before = None;
            }
            let asked_for = number == change.generation && (over.is_some() || *asked_for);
            let newer = number > change.generation && number != change.back_to;
            if asked_for || newer {
                self.probation = None;
            }
        }
        for other in self.generations.values_mut() {
            other.serving = false;
        }
        self.order.retain(|other| *other != number);
        self.order.push(number);
        self.generations.insert(number, generation);
        self.forget_descriptions();
    }

    /// Old generations go. Those of which no bytes are kept any more stay without the list of their files: with many
    /// certificates it is by far the largest part.
    fn forget_descriptions(&mut self) {
        let serving = self.serving();
        for (number, generation) in &mut self.generations {
            if Some(*number) != serving && !self.kept.iter().any(|kept| kept.number == *number) {
                generation.files = Vec::new();
            }
        }
        while self.generations.len() > KEPT_GENERATIONS.max(self.kept.len().saturating_add(1)) {
            let unneeded = |number: &u64| {
                self.serving() != Some(*number) && !self.kept.iter().any(|kept| kept.number == *number)
            };
            let Some(oldest) = self.generations.keys().copied().find(unneeded) else { return };
            self.generations.remove(&oldest);
            self.order.retain(|number| *number != oldest);
        }
    }

    fn done(&mut self, operation: Operation) {
        self.unfinished.retain(|u| u.operation.id != operation.id);
        let stays = operation.outcome.is_some_and(|outcome| outcome.is_success());
        self.upgrades.done(&operation.id, stays);
        let changed_nothing = operation.outcome.is_some_and(|outcome| !outcome.may_have_changed());
        let made_it = |known: &Probation| known.change.operation_id == operation.id && known.over.is_none();
        if changed_nothing && self.probation.as_ref().is_some_and(made_it) {
            self.probation = self.probation.take().and_then(|known| known.before).map(|before| *before);
        }
        let is_change = matches!(operation.kind, Kind::Reload | Kind::Rollback | Kind::Restore);
        if let (Some(Outcome::RolledBack), Some(number), true) =
            (operation.outcome, operation.generation, is_change)
        {
            self.order.retain(|other| *other != number);
        }
        // Its outcome is written again after a failure.
        if let Some(position) = self.by_id.get(&operation.id).and_then(|at| at.checked_sub(self.dropped))
            && let Some(known) = self.history.get_mut(position)
        {
            *known = operation;
            return;
        }
        if operation.refused.is_none() {
            self.by_id.insert(operation.id.clone(), self.dropped + self.history.len());
        }
        self.history.push_back(operation);
    }

    /// Forgets the oldest operations.
    pub(super) fn trim(&mut self, keep: usize) {
        while self.history.len() > keep {
            if let Some(gone) = self.history.pop_front() {
                if self.by_id.get(&gone.id) == Some(&self.dropped) {
                    self.by_id.remove(&gone.id);
                }
                self.dropped += 1;
            }
        }
    }

    /// Whether a generation's files must not go, however old they are.
    pub(super) fn is_needed(&self, number: u64) -> bool {
        let probation = self.probation.as_ref().map(|known| &known.change);
        self.serving() == Some(number)
            || probation.is_some_and(|change| change.generation == number || change.back_to == number)
            || self.unfinished.iter().any(|u| u.intent == Some(number) || u.back_to == Some(number))
    }

    /// ID of the operation that meant to make this generation.
    fn operation_of(&self, generation: u64) -> Option<&str> {
        let unfinished = self.unfinished.iter().find(|u| u.intent == Some(generation));
        let made = self.generations.get(&generation).and_then(|g| g.operation_id.as_deref());
        unfinished.map(|u| u.operation.id.as_str()).or(made)
    }

    fn back_to_of(&self, generation: u64) -> Option<u64> {
        self.unfinished.iter().find(|u| u.intent == Some(generation)).and_then(|u| u.back_to)
    }

    /// The records that say the same as all that were taken.
    pub(super) fn records(&self) -> impl Iterator<Item = Record> {
        let stays = |number: &u64| self.order.contains(number);
        let taken_back = self.generations.values().filter(move |known| !stays(&known.number));
        let taken_back = taken_back.flat_map(|generation| {
            let (number, how) = (generation.number, None);
            [
                Record::Generation { generation: generation.clone() },
                Record::TakenBack { generation: number, how, at: now() },
            ]
        });
        let in_order = self.order.iter().filter_map(|number| self.generations.get(number));
        let in_order = in_order.map(|generation| Record::Generation { generation: generation.clone() });
        let history = self.history.iter().map(|operation| Record::Done { operation: operation.clone() });
        // Before the operations that take one back.
        let upgrades = self.upgrades.records();
        let admitted = self.unfinished.iter().flat_map(|u| {
            let admitted = Record::Admitted { operation: u.operation.clone() };
            std::iter::once(admitted).chain(u.upgrade_intent())
        });
        let intents = self.kept.iter().map(|kept| Record::Intent {
            operation_id: self.operation_of(kept.number).unwrap_or_default().to_owned(),
            generation: kept.number,
            bundle: kept.stored.blob().to_owned(),
            manifest: kept.stored.manifest().map(|digest| digest.to_hex().to_string()),
            back_to: self.back_to_of(kept.number),
            confirm: None,
            at: now(),
        });
        let before = self.probation.iter().filter_map(|known| known.before.as_deref());
        let probation = before.chain(&self.probation).flat_map(|Probation { change, over, .. }| {
            let pending = Record::Pending {
                operation_id: change.operation_id.clone(),
                generation: change.generation,
                back_to: change.back_to,
                until: written(change.until),
                at: now(),
            };
            let over = over.map(|how| Record::TakenBack {
                generation: change.generation,
                how: Some(how),
                at: written(change.until),
            });
            std::iter::once(pending).chain(over)
        });
        let operations = history.chain(upgrades).chain(admitted);
        taken_back.chain(in_order).chain(operations).chain(intents).chain(probation)
    }
}
