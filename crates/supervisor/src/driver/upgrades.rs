//! One worker taking over from another: what is given to both, what they say, and what is written of it.
//!
//! ```text
//!   WriteUpgrade ─▶ journal: which worker, from which binary to which ─▶ IntentWritten
//!   HandOver ─▶ one socket pair, each other's pidfd ─┬─▶ TookOver ───▶ Serve, Switch: this one serves
//!                                                    ├─▶ HandedOver ─▶ Drained: the rest has ended
//!                                                    └─▶ HandoffFailed
//!   Pending ─▶ journal: until when ─▶ confirmed: written; or taken back: the same the other way round
//! ```
//!
//! What is sent to workers is let go of as soon as it is sent: nothing of a handoff stays open here, however it ends.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use handover_api::{Actor, EventKind, GoesBack, Kind, Losses, Operation, Upgrade};
use handover_handoff::channel;
use handover_lifecycle::{CallKey, Event, Exam, GenerationNumber, OperationKey, PendingEnd, WorkerKey};

use super::changes::{log_unwritten, wall_clock, written};
use super::{CarriedState, Driver, Input, Probation};
use crate::journal::{UnconfirmedUpgrade, UpgradeMade};
use crate::protocol::ToWorker;

/// Descriptors that a new worker should make room for beside those of connections.
const MORE_DESCRIPTORS: u64 = 1024;
/// Descriptors of one connection: the client's and the endpoint's.
const DESCRIPTORS_EACH: u64 = 2;

/// Kinds of connections that a worker's word is taken for; more are not told apart, and none with a longer name.
const KINDS: usize = 32;
const LONGEST_KIND: usize = 32;

/// What is remembered of an upgrade while it runs.
#[derive(Debug, Default)]
pub(super) struct Upgrading {
    /// What is being found out.
    pub(super) exam: Option<(OperationKey, Exam)>,
    /// Connections of the worker that serves.
    pub(super) connections: Option<u64>,
    /// The handoff that runs, or whose giver still lets connections end.
    handing_over: Option<HandingOver>,
    /// Carried state of workers that do not serve: it counts when they do.
    pub(super) carried: BTreeMap<WorkerKey, CarriedState>,
}

/// A handoff that was begun.
#[derive(Debug)]
struct HandingOver {
    call: u64,
    operation: OperationKey,
    to: WorkerKey,
    /// What was given, as long as nobody has said that it has it.
    given: BTreeMap<String, u64>,
    /// Whether somebody has.
    taken: bool,
}

/// A handoff as the machine asks for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handoff {
    pub(super) operation: OperationKey,
    pub(super) call: CallKey,
    pub(super) from: WorkerKey,
    pub(super) to: WorkerKey,
    pub(super) within: Duration,
    pub(super) limit: Duration,
}

impl Driver {
    /// For how many descriptors a worker that is started beside another one should make room.
    pub(super) fn room_for_descriptors(&self) -> u64 {
        self.upgrading
            .connections
            .unwrap_or(0)
            .saturating_mul(DESCRIPTORS_EACH)
            .saturating_add(MORE_DESCRIPTORS)
    }

    pub(super) fn write_upgrade(
        &mut self,
        operation: OperationKey,
        worker: WorkerKey,
        confirm: Option<Duration>,
    ) {
        let generation = self.serving.as_ref().map(|serving| serving.generation);
        let held_to = self.machine.view().held_to.or(generation).unwrap_or_default();
        let entry = self.operations.get(operation).map(|entry| &entry.operation);
        let Some((operation_id, upgrade)) = entry.and_then(|of| Some((of.id.clone(), of.upgrade.clone()?)))
        else {
            return self.pending.push_back(Event::IntentFailed { operation, generation: held_to });
        };
        let Upgrade { from, to, .. } = *upgrade;
        let made = UpgradeMade { operation_id, worker: worker.0, generation: held_to.0, from, to };
        let confirm = confirm.map(wall_clock);
        let inputs = self.inputs.clone();
        // Whoever comes after this process goes back by the copy: it must be whole before there is anything to go back from.
        let whole_copy = confirm.map(|_| self.whole_copy());
        self.parts.scribe.later(move |journal| {
            if let Some(wait) = whole_copy {
                wait();
            }
            let failure = journal.intend_upgrade(&made, confirm).err().map(|error| error.to_string());
            let _ = inputs.blocking_send(Input::Intent { operation, generation: held_to, failure });
        });
    }

    /// Gives the two workers what they need to move everything from one to the other.
    pub(super) fn hand_over(&mut self, handoff: Handoff) {
        let Handoff { operation, call, from, to, within, limit } = handoff;
        let given = BTreeMap::new();
        let record = self.operations.get_mut(operation).map(|entry| &mut entry.operation);
        if let Some(upgrade) = record.and_then(|record| record.upgrade.as_mut()) {
            // Of an operation that goes back, the way back counts.
            (upgrade.moved, upgrade.freeze_us) = (BTreeMap::new(), None);
        }
        self.upgrading.handing_over = Some(HandingOver { call: call.0, operation, to, given, taken: false });
        let (Some(giver), Some(taker)) = (self.workers.get(&from), self.workers.get(&to)) else {
            let gone = if self.workers.contains_key(&to) { from } else { to };
            return self.pending.push_back(Event::ChannelLost { worker: gone });
        };
        let (for_giver, for_taker) = match Ends::new(giver.process.as_fd(), taker.process.as_fd()) {
            Ok(ends) => (ends.for_giver, ends.for_taker),
            Err(error) => {
                self.note_failure(operation, format!("no socket pair for the handoff: {error}"), Vec::new());
                return self.call_off_handoff(handoff);
            }
        };
        let take = ToWorker::TakeOver { call: call.0, peer_pid: giver.process.pid() };
        let give = ToWorker::HandOver { call: call.0, within, limit, peer_pid: taker.process.pid() };
        if !taker.send(take, for_taker) {
            return self.call_off_handoff(handoff);
        }
        if !giver.send(give, for_giver) {
            self.pending.push_back(Event::ChannelLost { worker: from });
        }
    }

    /// Neither of the two knows of it: as if the giver had called it off and made sure that the other one is dead.
    fn call_off_handoff(&mut self, handoff: Handoff) {
        let Handoff { call, from, to, .. } = handoff;
        self.kill_worker(to);
        self.pending.push_back(Event::ChannelLost { worker: to });
        self.pending.push_back(Event::HandoffFailed { worker: from, call });
    }

    /// The record of the operation whose handoff this is.
    fn of_handoff(&mut self, call: u64) -> Option<&mut Operation> {
        let handing_over = self.upgrading.handing_over.as_ref().filter(|running| running.call == call)?;
        Some(&mut self.operations.get_mut(handing_over.operation)?.operation)
    }

    pub(super) fn took_over(
        &mut self,
        worker: WorkerKey,
        call: u64,
        moved: BTreeMap<String, u64>,
        losses: &Losses,
        freeze: Duration,
    ) {
        let moved = bounded(moved);
        let running = self.upgrading.handing_over.as_mut();
        if let Some(running) = running.filter(|running| running.call == call && running.to == worker) {
            running.given.clear();
            running.taken = true;
            self.metrics.moved(&moved, freeze);
        }
        if let Some(operation) = self.of_handoff(call) {
            operation.losses.merge(losses);
            if let Some(upgrade) = &mut operation.upgrade {
                // The giver may have said before which ones it has sent late.
                for (kind, count) in moved {
                    let moved = upgrade.moved.entry(kind).or_default();
                    *moved = moved.saturating_add(count);
                }
                upgrade.freeze_us = upgrade.freeze_us.max(Some(microseconds(freeze)));
            }
        }
        self.step(Event::TookOver { worker, call: CallKey(call), clean: losses.is_empty() });
    }

    pub(super) fn handed_over(
        &mut self,
        worker: WorkerKey,
        call: u64,
        moved: BTreeMap<String, u64>,
        freeze: Duration,
    ) {
        if let Some(upgrade) = self.of_handoff(call).and_then(|operation| operation.upgrade.as_mut()) {
            // The giver stood still for longer than the other one knows.
            upgrade.freeze_us = upgrade.freeze_us.max(Some(microseconds(freeze)));
        }
        let running = self.upgrading.handing_over.as_mut();
        if let Some(running) = running.filter(|running| running.call == call && !running.taken) {
            running.given = bounded(moved);
            let to = running.to;
            if !self.workers.contains_key(&to) {
                self.lost_taker(to);
            }
        }
        self.step(Event::HandedOver { worker, call: CallKey(call) });
    }

    pub(super) fn handoff_failed(&mut self, worker: WorkerKey, call: u64, why: String) {
        tracing::error!(%worker, "the handoff was called off: {why}");
        let running = self.upgrading.handing_over.as_ref().filter(|running| running.call == call);
        if let Some(operation) = running.map(|running| running.operation) {
            self.note_failure(operation, why, Vec::new());
        }
        let serves = self.serving.as_ref().is_some_and(|serving| serving.worker == worker);
        match serves {
            true => self.step(Event::HandoffFailed { worker, call: CallKey(call) }),
            // The one that was to take over will not: the other one notices when it is dead.
            false => self.step(Event::ChannelLost { worker }),
        }
    }

    /// Whether everything is being moved to this worker, and it has not said that it has it.
    pub(super) fn is_to_take_over(&self, worker: WorkerKey) -> bool {
        self.upgrading.handing_over.as_ref().is_some_and(|running| running.to == worker && !running.taken)
    }

    /// A worker has ended. What was given to it and what it has not said to have is lost.
    pub(super) fn lost_taker(&mut self, worker: WorkerKey) {
        let running = self.upgrading.handing_over.as_mut().filter(|running| running.to == worker);
        let Some(HandingOver { call, given, .. }) = running else { return };
        let (call, given) = (*call, std::mem::take(given));
        if let Some(operation) = self.of_handoff(call) {
            operation.losses.merge(&Losses(given));
        }
    }

    /// A worker has no connection left.
    pub(super) fn drained(
        &mut self,
        worker: WorkerKey,
        call: u64,
        losses: &Losses,
        late: BTreeMap<String, u64>,
        ended: u64,
    ) {
        let late = bounded(late);
        let serves = self.serving.as_ref().is_some_and(|serving| serving.worker == worker);
        match self.of_handoff(call) {
            Some(operation) => {
                operation.losses.merge(losses);
                if let Some(upgrade) = &mut operation.upgrade {
                    for (kind, count) in &late {
                        let moved = upgrade.moved.entry(kind.clone()).or_default();
                        *moved = moved.saturating_add(*count);
                    }
                    upgrade.drained = upgrade.drained.saturating_add(ended);
                }
                self.metrics.moved_late(&late);
            }
            None => self.lose_connections(losses),
        }
        if serves {
            self.connections = Some(0);
        }
        self.step(Event::Drained { worker, call: CallKey(call), clean: losses.is_empty() });
    }

    /// This worker serves now, in place of another.
    pub(super) fn switch(&mut self, worker: WorkerKey) {
        let Some(to) = self.workers.get_mut(&worker) else { return };
        // From now on it writes to the real one.
        to.last_lines = None;
        let (number, program) = (to.number, Arc::clone(&to.program));
        let what = format!("worker {number} (pid {}) serves", to.process.pid());
        self.binaries.switch(&program);
        if let Some(serving) = &mut self.serving {
            serving.worker = worker;
        }
        if let Some(carried) = self.upgrading.carried.remove(&worker) {
            self.carried = Some(carried);
        }
        self.connections = None;
        self.pings.unanswered = 0;
        tracing::info!(worker = number, program = %program.path().display(), "{what}");
        self.tell(EventKind::Worker, what, None);
        self.hold();
        self.worker_changed();
        self.send_facts();
    }

    /// An upgrade awaits confirmation.
    pub(super) fn await_upgrade(
        &mut self,
        operation: OperationKey,
        generation: GenerationNumber,
        worker: WorkerKey,
        left: Duration,
    ) {
        let until = wall_clock(left);
        let within_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let at = written(until);
        let known = self.operations.get_mut(operation).and_then(|entry| {
            let of = &mut entry.operation;
            let upgrade = of.upgrade.as_mut()?;
            upgrade.warm = true;
            let plain = Upgrade::new(upgrade.from.clone(), upgrade.to.clone());
            of.goes_back = Some(GoesBack { to: generation.0, at: at.clone(), within_ms });
            Some((of.id.clone(), of.actor.clone(), of.comment.clone(), plain))
        });
        let Some((operation_id, actor, comment, upgrade)) = known else {
            return self.pending.push_back(Event::IntentFailed { operation, generation });
        };
        let unconfirmed = UnconfirmedUpgrade {
            made: UpgradeMade {
                operation_id: operation_id.clone(),
                worker: worker.0,
                generation: generation.0,
                from: upgrade.from.clone(),
                to: upgrade.to.clone(),
            },
            until,
        };
        let upgrade = Some((worker, Box::new(upgrade)));
        self.probation = Some(Probation {
            operation_id,
            actor,
            comment,
            generation,
            back_to: generation,
            until: at,
            upgrade,
        });
        self.metrics.pending(true);
        let inputs = self.inputs.clone();
        self.parts.scribe.later(move |journal| {
            let failure = journal.pend_upgrade(&unconfirmed).err().map(|error| error.to_string());
            let _ = inputs.blocking_send(Input::Intent { operation, generation, failure });
        });
    }

    pub(super) fn confirm_upgrade(
        &mut self,
        operation: OperationKey,
        generation: GenerationNumber,
        worker: WorkerKey,
    ) {
        let Some(entry) = self.operations.get_mut(operation) else { return };
        let id = entry.operation.id.clone();
        let inputs = self.inputs.clone();
        self.parts.scribe.later(move |journal| {
            let failure = journal.confirm_upgrade(&id, worker.0).err().map(|error| error.to_string());
            let _ = inputs.blocking_send(Input::Intent { operation, generation, failure });
        });
    }

    /// An upgrade awaits confirmation no longer.
    pub(super) fn upgrade_confirmation_over(&mut self, worker: WorkerKey, how: PendingEnd) {
        let upgrade = self.probation.take().and_then(|probation| probation.upgrade);
        self.metrics.pending(false);
        if how != PendingEnd::Confirmed {
            self.parts.scribe.later(move |journal| {
                log_unwritten(journal.upgrade_over(worker.0, how));
            });
        }
        let to = upgrade.map_or_else(|| "another binary".to_owned(), |(_, upgrade)| upgrade.to.to_string());
        let what = match how {
            PendingEnd::Confirmed => "is confirmed",
            PendingEnd::Cancelled => "was cancelled",
            PendingEnd::NotConfirmed => "was not confirmed in time",
            PendingEnd::WorkersDied => "was taken back: its worker died",
            PendingEnd::Replaced => "was not confirmed, and something else serves by now",
            PendingEnd::NotPossible => {
                "was to be taken back, and nothing of the binary before could be made to serve: it stays; upgrade to a binary that works"
            }
        };
        if how == PendingEnd::NotPossible {
            tracing::error!("the upgrade to {to} {what}");
        }
        self.tell(EventKind::Notice, format!("the upgrade to {to} {what}"), None);
    }

    /// The record of an operation that decides about the upgrade that awaits confirmation: of one that takes it back, the
    /// other way round.
    pub(super) fn record_of_pending(&self, kind: Kind, actor: &Actor) -> Option<Box<Upgrade>> {
        let (_, upgrade) = self.probation.as_ref()?.upgrade.as_ref()?;
        let Upgrade { from, to, .. } = &**upgrade;
        let goes_back = kind == Kind::Cancel || (kind == Kind::Rollback && *actor == Actor::supervisor());
        match kind {
            Kind::Confirm => Some(Box::new(Upgrade::new(from.clone(), to.clone()))),
            _ if goes_back => Some(Box::new(Upgrade::new(to.clone(), from.clone()))),
            _ => None,
        }
    }

    /// A worker has ended, or cannot be talked to (`why`, if that was not wanted): for whoever asked for the upgrade that
    /// runs, with the last lines of one that has not served.
    pub(super) fn note_lost(&mut self, key: WorkerKey, why: Option<&str>) {
        let Some(operation) = self.active() else { return };
        let lines = self.workers.get(&key).and_then(|worker| worker.last_lines.as_ref());
        let lines = lines.map(crate::tee::LastLines::get).unwrap_or_default();
        let entry = self.operations.get_mut(operation).map(|entry| &mut entry.operation);
        let Some(upgrade) = entry.and_then(|operation| operation.upgrade.as_mut()) else { return };
        if !lines.is_empty() {
            upgrade.last_lines = lines;
        }
        if let Some(why) = why {
            self.note_failure(operation, why.to_owned(), Vec::new());
        }
    }
}

/// What each of the two gets.
struct Ends {
    for_giver: Vec<Arc<OwnedFd>>,
    for_taker: Vec<Arc<OwnedFd>>,
}

impl Ends {
    fn new(giver: std::os::fd::BorrowedFd<'_>, taker: std::os::fd::BorrowedFd<'_>) -> io::Result<Self> {
        let (for_giver, for_taker) = channel::socket_pair().map_err(io::Error::other)?;
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        let shared = |descriptors: Vec<OwnedFd>| descriptors.into_iter().map(Arc::new).collect();
        Ok(Ends {
            for_giver: shared(vec![for_giver, taker.try_clone_to_owned()?]),
            for_taker: shared(vec![for_taker, giver.try_clone_to_owned()?, stderr]),
        })
    }
}

/// What a worker says of the kinds that it has moved, no longer than anybody wants to read it.
fn bounded(kinds: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    kinds.into_iter().filter(|(kind, _)| kind.len() <= LONGEST_KIND).take(KINDS).collect()
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
