//! The journal as a model: it survives the supervisor, may be full, and may hang.
//!
//! What it says is what was written, in the order in which the writes were begun: one thread writes.

use std::time::Duration;

use handover_lifecycle::{
    GenerationNumber, Kind, OperationKey, PendingEnd, Recovered, Unfinished, Verdict, WorkerKey,
};

use crate::seeds::rng::Rng;

/// What the disk under the journal does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Well,
    Full,
    /// Writes end, but long after everybody has stopped waiting.
    Slow,
}

/// One write on its way. Deadlines are times of the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Write {
    Intent {
        operation: OperationKey,
        generation: GenerationNumber,
        content: u32,
        back_to: Option<GenerationNumber>,
        until: Option<Duration>,
    },
    Upgrade {
        operation: OperationKey,
        generation: GenerationNumber,
        worker: WorkerKey,
        until: Option<Duration>,
    },
    Pending {
        operation: OperationKey,
        generation: GenerationNumber,
        back_to: GenerationNumber,
        upgrade: Option<WorkerKey>,
        until: Duration,
    },
    Confirm {
        operation: OperationKey,
        generation: GenerationNumber,
        upgrade: Option<WorkerKey>,
    },
    Over {
        generation: GenerationNumber,
        upgrade: Option<WorkerKey>,
        how: PendingEnd,
    },
    /// A generation came to serve.
    Serves {
        generation: GenerationNumber,
    },
    Outcome {
        operation: OperationKey,
        verdict: Verdict,
    },
}

/// A change that was not confirmed, as the journal tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unconfirmed {
    pub(crate) operation: OperationKey,
    pub(crate) generation: GenerationNumber,
    pub(crate) back_to: GenerationNumber,
    pub(crate) until: Duration,
    pub(crate) over: Option<PendingEnd>,
    /// It was asked for again, without a probation.
    pub(crate) asked_for: bool,
}

/// An upgrade that was not confirmed, as the journal tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnconfirmedUpgrade {
    pub(crate) operation: OperationKey,
    pub(crate) generation: GenerationNumber,
    pub(crate) worker: WorkerKey,
    pub(crate) until: Duration,
}

/// Everything that was ever synced.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    pub(crate) mode: Mode,
    /// Operations that began, and what those bring back, or the worker that they take it back from, that write no intent.
    pub(crate) began: Vec<(OperationKey, Kind, Option<GenerationNumber>, Option<WorkerKey>)>,
    pub(crate) intents: Vec<(OperationKey, GenerationNumber, u32)>,
    pub(crate) outcomes: Vec<(OperationKey, Verdict)>,
    /// All writes that say something about changes on probation, by when they were begun.
    log: Vec<(u64, Write)>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self {
            mode: Mode::Well,
            began: Vec::new(),
            intents: Vec::new(),
            outcomes: Vec::new(),
            log: Vec::new(),
        }
    }

    /// How long a write that is begun now takes, and whether it succeeds.
    pub(crate) fn fate(&self, rng: &mut Rng) -> (Duration, bool) {
        match self.mode {
            Mode::Well => (rng.millis(0, 15), true),
            Mode::Full => (rng.millis(0, 15), false),
            Mode::Slow => (rng.millis(3_000, 60_000), rng.chance(500)),
        }
    }

    /// A write that was begun as number `seq` has come to the disk.
    pub(crate) fn append(&mut self, seq: u64, write: Write) {
        match write {
            Write::Intent { operation, generation, content, .. } => {
                self.intents.push((operation, generation, content));
            }
            Write::Outcome { operation, verdict } => self.outcomes.push((operation, verdict)),
            _ => {}
        }
        let at = self.log.partition_point(|(other, _)| *other <= seq);
        self.log.insert(at, (seq, write));
    }

    pub(crate) fn outcome(&self, operation: OperationKey) -> Option<Verdict> {
        self.outcomes.iter().find(|(key, _)| *key == operation).map(|(_, verdict)| *verdict)
    }

    pub(crate) fn content(&self, generation: GenerationNumber) -> Option<u32> {
        self.intents.iter().rev().find(|(_, number, _)| *number == generation).map(|(_, _, content)| *content)
    }

    pub(crate) fn is_confirmed(&self, operation: OperationKey) -> bool {
        self.log
            .iter()
            .any(|(_, write)| matches!(write, Write::Confirm { operation: key, .. } if *key == operation))
    }

    /// The change that was not confirmed.
    pub(crate) fn unconfirmed(&self) -> Option<Unconfirmed> {
        let mut known: Option<Unconfirmed> = None;
        for (_, write) in &self.log {
            match *write {
                Write::Intent { operation, generation, back_to, until, .. } => {
                    if let Some(known) = known.as_mut().filter(|known| known.generation == generation) {
                        known.asked_for = true;
                    }
                    if let (Some(back_to), Some(until)) = (back_to, until) {
                        let (over, asked_for) = (None, false);
                        known = Some(Unconfirmed { operation, generation, back_to, until, over, asked_for });
                    }
                }
                Write::Pending { operation, generation, back_to, upgrade: None, until } => {
                    let made_by = known.filter(|known| known.generation == generation);
                    let operation = made_by.map_or(operation, |known| known.operation);
                    let (over, asked_for) = (None, false);
                    known = Some(Unconfirmed { operation, generation, back_to, until, over, asked_for });
                }
                Write::Confirm { generation, upgrade: None, .. } => {
                    known = known.filter(|known| known.generation != generation);
                }
                Write::Over { generation, upgrade: None, how } => {
                    let Some(about) = known.filter(|known| known.generation == generation) else { continue };
                    known = match how {
                        PendingEnd::NotConfirmed | PendingEnd::WorkersDied => {
                            Some(Unconfirmed { until: Duration::ZERO, over: Some(how), ..about })
                        }
                        _ => None,
                    };
                }
                Write::Serves { generation } => {
                    known = known.filter(|known| {
                        let again = known.over.is_some() || known.asked_for;
                        let asked_for = known.generation == generation && again;
                        let newer = generation > known.generation && generation != known.back_to;
                        !asked_for && !newer
                    });
                }
                Write::Outcome { operation, verdict } => {
                    let failed = !verdict.outcome.may_have_changed();
                    known = known
                        .filter(|known| !(failed && known.operation == operation && known.over.is_none()));
                }
                Write::Upgrade { .. }
                | Write::Pending { .. }
                | Write::Confirm { .. }
                | Write::Over { .. } => {}
            }
        }
        known
    }

    /// The upgrade that was not confirmed.
    pub(crate) fn unconfirmed_upgrade(&self) -> Option<UnconfirmedUpgrade> {
        let mut known: Option<UnconfirmedUpgrade> = None;
        for (_, write) in &self.log {
            match *write {
                Write::Upgrade { operation, generation, worker, until } => {
                    known = until.map(|until| UnconfirmedUpgrade { operation, generation, worker, until });
                }
                Write::Pending { operation, generation, upgrade: Some(worker), until, .. } => {
                    let made_by = known.filter(|known| known.worker == worker);
                    let operation = made_by.map_or(operation, |known| known.operation);
                    known = Some(UnconfirmedUpgrade { operation, generation, worker, until });
                }
                Write::Confirm { upgrade: Some(worker), .. } | Write::Over { upgrade: Some(worker), .. } => {
                    known = known.filter(|known| known.worker != worker);
                }
                Write::Serves { generation } => known = known.filter(|known| known.generation == generation),
                Write::Outcome { operation, verdict } if !verdict.outcome.may_have_changed() => {
                    known = known.filter(|known| known.operation != operation);
                }
                _ => {}
            }
        }
        known
    }

    /// Whether it knows which worker this upgrade hands over to.
    pub(crate) fn has_upgrade(&self, operation: OperationKey) -> bool {
        let of = |write: &Write| matches!(write, Write::Upgrade { operation: key, .. } if *key == operation);
        self.log.iter().any(|(_, write)| of(write))
    }

    /// The generation to serve if the store cannot be reached.
    fn last_good(&self) -> Option<GenerationNumber> {
        let unconfirmed = self.unconfirmed();
        let served = self.log.iter().rev().filter_map(|(_, write)| match write {
            Write::Serves { generation } => Some(*generation),
            _ => None,
        });
        let good = |number: &GenerationNumber| unconfirmed.is_none_or(|known| known.generation != *number);
        unconfirmed
            .map(|known| known.back_to)
            .or_else(|| served.filter(good).find(|_| true))
            .filter(|number| self.content(*number).is_some())
    }

    /// What the next supervisor reads.
    pub(crate) fn recover(&self, keys_from: u64) -> Recovered {
        let unfinished = self
            .began
            .iter()
            .filter(|(operation, ..)| self.outcome(*operation).is_none())
            .map(|&(operation, kind, brings_back, takes_back)| {
                let intent = self.log.iter().rev().find_map(|(_, write)| match *write {
                    Write::Intent { operation: key, generation, .. }
                    | Write::Upgrade { operation: key, generation, .. }
                    | Write::Confirm { operation: key, generation, .. }
                        if key == operation =>
                    {
                        Some(generation)
                    }
                    _ => None,
                });
                let upgrade = self.log.iter().find_map(|(_, write)| match *write {
                    Write::Upgrade { operation: key, worker, .. } if key == operation => Some(worker),
                    _ => None,
                });
                let upgrade = upgrade.or(takes_back);
                Unfinished { operation, kind, intent: intent.or(brings_back), upgrade }
            })
            .collect();
        let numbers = self.log.iter().filter_map(|(_, write)| match *write {
            Write::Intent { generation, .. }
            | Write::Pending { generation, .. }
            | Write::Serves { generation } => Some(generation),
            _ => None,
        });
        let last_generation = numbers.max().unwrap_or_default();
        Recovered { last_generation, keys_from, last_good: self.last_good(), unfinished }
    }

    /// Numbers of generations that a rollback can name.
    pub(crate) fn numbers(&self) -> Vec<GenerationNumber> {
        self.intents.iter().map(|(_, number, _)| *number).collect()
    }
}
