//! The journal as a model: it survives the supervisor, may be full, and may hang.

use std::time::Duration;

use handover_lifecycle::{GenerationNumber, Kind, OperationKey, Recovered, Unfinished, Verdict};

use crate::rng::Rng;

/// What the disk under the journal does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Well,
    Full,
    /// Writes end, but long after everybody has stopped waiting.
    Slow,
}

/// One write on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Write {
    Intent { operation: OperationKey, generation: GenerationNumber, content: u32 },
    Outcome { operation: OperationKey, verdict: Verdict },
}

/// Everything that was ever synced.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    pub(crate) mode: Mode,
    pub(crate) began: Vec<(OperationKey, Kind)>,
    pub(crate) intents: Vec<(OperationKey, GenerationNumber, u32)>,
    pub(crate) outcomes: Vec<(OperationKey, Verdict)>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self { mode: Mode::Well, began: Vec::new(), intents: Vec::new(), outcomes: Vec::new() }
    }

    /// How long a write that is begun now takes, and whether it succeeds.
    pub(crate) fn fate(&self, rng: &mut Rng) -> (Duration, bool) {
        match self.mode {
            Mode::Well => (rng.millis(0, 15), true),
            Mode::Full => (rng.millis(0, 15), false),
            Mode::Slow => (rng.millis(3_000, 60_000), rng.chance(500)),
        }
    }

    pub(crate) fn append(&mut self, write: Write) {
        match write {
            Write::Intent { operation, generation, content, .. } => {
                self.intents.push((operation, generation, content));
            }
            Write::Outcome { operation, verdict } => self.outcomes.push((operation, verdict)),
        }
    }

    pub(crate) fn outcome(&self, operation: OperationKey) -> Option<Verdict> {
        self.outcomes.iter().find(|(key, _)| *key == operation).map(|(_, verdict)| *verdict)
    }

    pub(crate) fn content(&self, generation: GenerationNumber) -> Option<u32> {
        self.intents.iter().rev().find(|(_, number, _)| *number == generation).map(|(_, _, content)| *content)
    }

    /// What the next supervisor reads.
    pub(crate) fn recover(&self, keys_from: u64) -> Recovered {
        let unfinished = self
            .began
            .iter()
            .filter(|(operation, _)| self.outcome(*operation).is_none())
            .map(|&(operation, kind)| Unfinished {
                operation,
                kind,
                intent: self
                    .intents
                    .iter()
                    .rev()
                    .find(|(key, ..)| *key == operation)
                    .map(|(_, number, _)| *number),
            })
            .collect();
        let last_generation = self.intents.iter().map(|(_, number, _)| *number).max().unwrap_or_default();
        Recovered { last_generation, keys_from, last_good: None, unfinished }
    }
}
