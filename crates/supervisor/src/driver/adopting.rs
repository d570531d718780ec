//! The beginning: alone, or with a worker that was left behind; and what was in force before.
//!
//! ```text
//!   a worker lives ──▶ adopted: what it serves goes on, an unconfirmed change with the time that is left
//!   none ──▶ started ─┬─ from the disk; but an unconfirmed change past its time is not used
//!                     └─ from the journal, if the command line says so
//! ```

use std::os::fd::OwnedFd;
use std::sync::Arc;

use handover_api::{Actor, Binary, Generation, Kind, Operation, Problem, Upgrade, operation_id};
use handover_handoff::Bundle;
use handover_lifecycle::{Event, GenerationNumber, OperationKey, Pending, PendingEnd, Source, WorkerKey};
use jiff::Timestamp;

use super::changes::{log_unwritten, written};
use super::{CarriedState, Driver, Loaded, Probation, Serving};
use crate::found::{Adopted, Found};
use crate::journal::{Journal, Unconfirmed, UnconfirmedUpgrade, now};
use crate::options::StartFrom;
use crate::worker::Reporter;

/// What the journal says of the time before this supervisor.
#[derive(Debug, Default)]
pub(crate) struct Before {
    /// The change that was not confirmed, and the operation that made it.
    unconfirmed: Option<(Unconfirmed, Option<Operation>)>,
    /// Its bytes, to compare the disk with, if none is adopted.
    loaded: Option<Loaded>,
    /// The upgrades that an earlier supervisor had begun: the worker that was to take over, and the binary before.
    begun: Vec<(WorkerKey, Binary)>,
    /// The upgrade that was not confirmed, and the operation that made it.
    upgrade: Option<(UnconfirmedUpgrade, Option<Operation>)>,
    /// The generation that served because of a rollback or a restore, and the digest of its files.
    rolled_back: Option<(u64, Option<String>)>,
    /// Whether the store could not be reached at the start.
    pub(super) unreachable: bool,
}

impl Before {
    /// Reads what there is. `adopts`: a worker lives, so that no bytes are needed.
    pub(crate) fn of(journal: &Journal, adopts: bool) -> Self {
        let unconfirmed = journal.unconfirmed().cloned();
        let loaded = unconfirmed.as_ref().filter(|_| !adopts).and_then(|unconfirmed| {
            Loaded::from_journal(journal, unconfirmed.generation, None)
                .inspect_err(|error| {
                    tracing::warn!("the change that was not confirmed is not known: {error}")
                })
                .ok()
        });
        let generations = journal.generations();
        let newest = generations.first().map(|newest| newest.number);
        let serving = generations.iter().find(|generation| generation.serving);
        let rolled_back = serving.filter(|serving| {
            let made_by = serving.operation_id.as_deref().and_then(|id| journal.operation(id));
            Some(serving.number) != newest || made_by.is_some_and(|made_by| made_by.kind == Kind::Restore)
        });
        let rolled_back = rolled_back.map(|serving| (serving.number, journal.digest(serving.number)));
        let unconfirmed = unconfirmed.map(|unconfirmed| {
            let made_by = journal.operation(&unconfirmed.operation_id).cloned();
            (unconfirmed, made_by)
        });
        let upgrade = journal.unconfirmed_upgrade().cloned().map(|unconfirmed| {
            let made_by = journal.operation(&unconfirmed.made.operation_id).cloned();
            (unconfirmed, made_by)
        });
        let begun = journal.recovery().unfinished.iter().filter_map(|unfinished| unfinished.upgraded_from());
        let begun = begun.map(|(worker, from)| (WorkerKey(worker), from.clone())).collect();
        Before { unconfirmed, loaded, begun, upgrade, rolled_back, unreachable: false }
    }

    /// The number of the generation that was not confirmed.
    pub(super) fn not_confirmed(&self) -> Option<u64> {
        self.unconfirmed.as_ref().map(|(unconfirmed, _)| unconfirmed.generation)
    }

    fn pending(&self) -> Option<Pending> {
        let (unconfirmed, _) = self.unconfirmed.as_ref()?;
        Some(Pending {
            generation: GenerationNumber(unconfirmed.generation),
            back_to: GenerationNumber(unconfirmed.back_to),
            upgrade: None,
            left: unconfirmed.left(Timestamp::now()),
        })
    }

    fn probation(&self) -> Option<Probation> {
        let (unconfirmed, made_by) = self.unconfirmed.as_ref()?;
        Some(Probation {
            operation_id: unconfirmed.operation_id.clone(),
            actor: made_by.as_ref().map_or_else(Actor::supervisor, |made_by| made_by.actor.clone()),
            comment: made_by.as_ref().and_then(|made_by| made_by.comment.clone()),
            generation: GenerationNumber(unconfirmed.generation),
            back_to: GenerationNumber(unconfirmed.back_to),
            until: written(unconfirmed.until),
            upgrade: None,
        })
    }

    fn pending_upgrade(&self) -> Option<Pending> {
        let (unconfirmed, _) = self.upgrade.as_ref()?;
        let generation = GenerationNumber(unconfirmed.made.generation);
        Some(Pending {
            generation,
            back_to: generation,
            upgrade: Some(WorkerKey(unconfirmed.made.worker)),
            left: unconfirmed.left(Timestamp::now()),
        })
    }

    fn probation_of_upgrade(&self) -> Option<Probation> {
        let (unconfirmed, made_by) = self.upgrade.as_ref()?;
        let generation = GenerationNumber(unconfirmed.made.generation);
        let upgrade = Upgrade::new(unconfirmed.made.from.clone(), unconfirmed.made.to.clone());
        Some(Probation {
            operation_id: unconfirmed.made.operation_id.clone(),
            actor: made_by.as_ref().map_or_else(Actor::supervisor, |made_by| made_by.actor.clone()),
            comment: made_by.as_ref().and_then(|made_by| made_by.comment.clone()),
            generation,
            back_to: generation,
            until: written(unconfirmed.until),
            upgrade: Some((WorkerKey(unconfirmed.made.worker), Box::new(upgrade))),
        })
    }
}

/// Whether what the command line makes is another configuration than that of these files.
pub(super) fn differs(made: Option<&str>, bundle: &Bundle) -> bool {
    let top = bundle.top().and_then(|top| bundle.get(top));
    made.is_some_and(|made| top.is_some_and(|top| top[..] != *made.as_bytes()))
}

/// What an adopted worker carries, if it can be read.
fn carried_by_adopted(file: OwnedFd) -> Option<CarriedState> {
    CarriedState::of(file)
        .inspect_err(|why| tracing::warn!("what the adopted worker carries cannot be read: {why}"))
        .ok()
}

/// The generation to start from, if not from the disk.
///
/// # Errors
/// What was asked for is not kept; the numbers of those that are.
pub(crate) fn start_from(journal: &Journal, wanted: StartFrom) -> Result<u64, Vec<u64>> {
    let kept = journal.kept();
    let number = match wanted {
        StartFrom::Last => journal.last_good(),
        StartFrom::Generation(number) => Some(number),
    };
    number.filter(|number| kept.contains(number)).ok_or(kept)
}

impl Driver {
    /// The supervisor's own first operation.
    fn own_start(&mut self) -> OperationKey {
        self.operations.own(Operation::running(operation_id(), Kind::Start, Actor::supervisor(), now()))
    }

    /// Begins without a worker. Gives the event to begin with. `from` is a generation of the journal instead of the disk.
    pub(crate) fn begin(&mut self, mut before: Before, from: Option<u64>) -> Event {
        self.replaced_upgrade(&before);
        self.learn_digests();
        let pending = before.pending();
        if let (Some(loaded), Some(pending)) = (before.loaded.take(), pending) {
            self.loaded.insert(pending.generation, Arc::new(loaded));
            self.probation = before.probation();
        }
        self.before = before;
        let source = match from {
            Some(number) => {
                self.notes.push(format!(
                    "generation {number} is started from the journal, as the command line says: the files on disk are not looked at"
                ));
                Source::Generation(GenerationNumber(number))
            }
            None => Source::Disk,
        };
        Event::Start { operation: self.own_start(), source, pending }
    }

    /// Takes over a worker of an earlier supervisor, as if this one had started it and made it serve. Gives the
    /// event to begin with. `known` is what the journal knows of the generation that it serves; if that supervisor died
    /// before it could write down that it serves, `made_by` is the operation that meant to make it.
    pub(crate) fn adopt(
        &mut self,
        found: Found,
        known: Option<Generation>,
        made_by: Option<String>,
        before: Before,
    ) -> std::io::Result<Event> {
        let (key, generation) = (WorkerKey(found.serving.worker), GenerationNumber(found.serving.generation));
        self.workers_started += 1;
        let report = Reporter::new(key, self.from_workers.clone());
        let Adopted { serving, bundle, bundle_file, listeners, held, carried, programs, worker } =
            found.adopt(self.workers_started, &self.binaries.own, report)?;
        self.binaries.serving = Arc::clone(&worker.program);
        self.learn_digests();
        let pid = worker.process.pid();
        tracing::info!(pid, "adopted the worker that an earlier supervisor left behind");
        self.note_what_was_adopted(&bundle);
        self.workers.insert(key, worker);
        self.holding = !held.is_empty();
        let held = serving.held.into_iter().zip(held).collect();
        self.parts.listeners.adopt(serving.listeners.into_iter().zip(listeners).collect(), held);
        self.store_listeners();
        self.carried = carried.and_then(carried_by_adopted);
        self.adopt_programs(serving.programs.as_deref(), programs);
        self.go_on_with_programs(&serving.settings);
        let mut loaded = Loaded::new(bundle, bundle_file, None);
        loaded.version.clone_from(&serving.version);
        if let Some(known) = &known {
            loaded.changes.clone_from(&known.changes);
            loaded.operation_id.clone_from(&known.operation_id);
        } else {
            loaded.operation_id = made_by;
        }
        let is_written = known.as_ref().is_some_and(|known| known.serving);
        let loaded = Arc::new(loaded);
        self.loaded.insert(generation, Arc::clone(&loaded));
        self.apply_settings(&serving.settings);
        self.metrics.serves(generation.0);
        self.serving = Some(Serving {
            worker: key,
            generation,
            loaded,
            settings: serving.settings,
            summary: serving.summary,
            committed_at: known.map_or_else(now, |known| known.committed_at),
            is_rollback: before.rolled_back.as_ref().is_some_and(|(number, _)| *number == generation.0),
        });
        if !is_written {
            self.record_generation();
        }
        let pending = before.pending().filter(|pending| pending.generation == generation);
        self.probation = before.probation().filter(|_| pending.is_some());
        // Of two that await confirmation the upgrade is the later one: nothing else is let in while one does.
        let pending = self.adopt_upgrade(&before, key).or(pending);
        self.metrics.pending(pending.is_some());
        match pending {
            Some(pending) => self.back_to = Some(pending.back_to),
            None => {
                self.metrics.confirmed(generation.0);
                // Held for a change that is final by now.
                self.parts.listeners.let_go();
                self.hold();
            }
        }
        let operation = self.own_start();
        Ok(Event::Adopted { operation, worker: key, generation, accepting: serving.accepting, pending })
    }

    /// The worker that was adopted has taken over in an upgrade that nobody has confirmed yet: it still awaits that.
    fn adopt_upgrade(&mut self, before: &Before, worker: WorkerKey) -> Option<Pending> {
        let Some(pending) = before.pending_upgrade() else {
            // It took over, and nobody needs to confirm that: what was before can be gone back to.
            if let Some((_, from)) = before.begun.iter().find(|(taker, _)| *taker == worker) {
                self.keep_previous_if_copied(from.clone());
            }
            return None;
        };
        if pending.upgrade != Some(worker) {
            self.replaced_upgrade(before);
            return None;
        }
        if let Some((unconfirmed, _)) = &before.upgrade {
            self.find_previous(unconfirmed);
        }
        self.probation = before.probation_of_upgrade();
        Some(pending)
    }

    /// The worker of an upgrade that was not confirmed is gone: whatever serves now was started for it.
    fn replaced_upgrade(&mut self, before: &Before) {
        let Some((unconfirmed, _)) = &before.upgrade else { return };
        let worker = unconfirmed.made.worker;
        self.parts.scribe.later(move |journal| {
            log_unwritten(journal.upgrade_over(worker, PendingEnd::Replaced));
        });
        let note = format!(
            "the upgrade from {} to {} was not confirmed when its worker ended: what was started now serves",
            unconfirmed.made.from, unconfirmed.made.to
        );
        tracing::warn!("{note}");
        self.notes.push(note);
    }

    /// Says where the worker that was adopted differs from what this supervisor was told to serve.
    fn note_what_was_adopted(&mut self, bundle: &Bundle) {
        let options = &self.parts.options;
        let mut note = None;
        if let (Some(named), Some(top)) = (&options.config, bundle.top()) {
            if named != top {
                note = Some(format!(
                    "the adopted worker serves {}, and reloads read that, not {}; to serve that one, stop and start anew",
                    top.display(),
                    named.display()
                ));
            } else if differs(options.made.as_deref(), bundle) {
                note = Some(
                    "what an earlier command line has started runs on as it was: 'handover diff' shows what this one says otherwise, \
                     and 'handover reload' applies it"
                        .to_owned(),
                );
            }
        }
        if let Some(note) = note {
            tracing::warn!("{note}");
            self.notes.push(note);
        }
        if self.parts.options.start_from.is_some() {
            tracing::warn!(
                "a worker was adopted, so what it serves goes on: use 'rollback' to serve another generation"
            );
        }
    }

    /// The first generation serves: if another one was in force by a rollback, and this is not what it was, it is said.
    pub(super) fn note_end_of_rollback(&mut self) {
        let Some((number, digest)) = self.before.rolled_back.take() else { return };
        let Some(serving) = &self.serving else { return };
        if serving.is_rollback || digest.as_deref() == Some(serving.loaded.drift.digest()) {
            return;
        }
        let note = format!(
            "generation {number} served before because of a rollback, a restore or a change that was taken back; now the files on disk serve again \
             ('--generation last' starts from the journal instead)"
        );
        tracing::warn!("{note}");
        if let Some(entry) = self.active().and_then(|key| self.operations.get_mut(key)) {
            entry.operation.warnings.push(Problem::new(note.clone()));
        }
        self.notes.push(note);
    }
}
