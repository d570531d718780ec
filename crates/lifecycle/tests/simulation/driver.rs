//! The driver as a model: it performs the machine's effects in the model world, by the letter of their
//! documentation, and says so when they ask for something that makes no sense.

use std::time::Duration;

use handover_lifecycle::{
    Caller, CandidateKey, Effect, Event, Exam, Exit, GenerationNumber, Kind, Machine, Message, Notice,
    OperationKey, PendingEnd, Source, View, WorkerKey,
};

use crate::journal::{Mode, Write};
use crate::programs::{LONGEST_PROOF, STOP};
use crate::upgrading::Binaries;
use crate::worker::{Act, listeners};
use crate::world::{Happening, World};

/// After so many supervisors nobody starts another one, until the weather is calm.
const MANY_LIVES: u64 = 6;

/// The supervisor's process around the machine.
pub(crate) struct Driver {
    pub(crate) machine: Machine,
    pub(crate) view: View,
    /// The listeners of what serves, those that are kept for going back, and those bound for candidates.
    pub(crate) held: u8,
    pub(crate) kept: u8,
    pub(crate) bound: Vec<(CandidateKey, u8)>,
    /// Bundles that are at hand, with the candidate that they came from.
    pub(crate) bundles: Vec<(GenerationNumber, CandidateKey, u32)>,
    /// It was told to start from the journal.
    pub(crate) from_journal: bool,
    /// Whether anything has served in this life, and whether the listeners were closed for good.
    pub(crate) serves: bool,
    pub(crate) closed: bool,
    pub(crate) exit: Option<Exit>,
    /// `RELOADING` was said and not yet `READY`.
    pub(crate) reloading: bool,
    /// A signal asked for a reload, and `RELOADING` was not said since.
    pub(crate) signalled: bool,
    /// Candidates that were committed or aborted: neither happens twice, nor one after the other.
    pub(crate) committed: Vec<CandidateKey>,
    pub(crate) aborted: Vec<CandidateKey>,
    pub(crate) prepared: Vec<(CandidateKey, Source, bool)>,
    pub(crate) binaries: Binaries,
    /// The exam that was asked for last.
    pub(crate) exam: Option<(OperationKey, Exam)>,
    /// Whether the machine was told that there are programs.
    pub(crate) hosts: bool,
    /// When the clock of this machine began: with the process, or the binary in it.
    pub(crate) epoch: Duration,
}

impl Driver {
    pub(crate) fn new(machine: Machine, binaries: Binaries) -> Self {
        let view = machine.view();
        Self {
            machine,
            view,
            held: 0,
            kept: 0,
            bound: Vec::new(),
            bundles: Vec::new(),
            from_journal: false,
            serves: false,
            closed: false,
            exit: None,
            reloading: false,
            signalled: false,
            committed: Vec::new(),
            aborted: Vec::new(),
            prepared: Vec::new(),
            binaries,
            exam: None,
            hosts: false,
            epoch: Duration::ZERO,
        }
    }

    pub(crate) fn adopt(&mut self, generation: GenerationNumber, content: u32, kept: u8) {
        self.held = listeners(content);
        self.kept = kept;
        self.bundles.push((generation, CandidateKey(0), content));
        self.serves = true;
    }

    pub(crate) fn holds(&self) -> u8 {
        self.bound.iter().fold(self.held | self.kept, |all, (_, bits)| all | bits)
    }
}

impl World {
    /// Tells the machine, does what it says, and looks whether every rule still holds.
    pub(crate) fn feed(&mut self, event: Event) {
        let Some(driver) = &self.driver else { return };
        let now = self.machine_time() - driver.epoch;
        let before = driver.view.phase;
        if let Event::WorkerExited { worker } | Event::ChannelLost { worker } = event
            && let Some(gone) = self.workers.iter_mut().find(|w| w.key == worker)
        {
            gone.heard = true;
        }
        if matches!(
            event,
            Event::WorkerExited { .. } | Event::ChannelLost { .. } | Event::WorkerNotStarted { .. }
        ) {
            self.tally.lost = Some(self.now);
        }
        self.note_proof(&event);
        let told = self.spoil_event(event);
        let spoilt = self.spoil_machine(now, told);
        let Some(driver) = &mut self.driver else { return };
        let effects = spoilt.unwrap_or_else(|| driver.machine.step(now, told));
        driver.view = driver.machine.view();
        if self.trace.is_some() {
            self.note(format!("    ▶ {event:?}"));
        }
        let effects = self.spoil(effects);
        self.watch_probation(&event);
        if let Event::Request { operation, .. } = event {
            self.check_answered_at_once(operation, &effects);
            self.expect_notice(&event, &effects);
        }
        for effect in effects {
            if self.trace.is_some() {
                self.note(format!("        ◀ {effect:?}"));
            }
            self.perform(effect, before);
            self.check_listeners();
        }
        self.check_view();
        self.check_undecided();
        if self.driver.as_ref().is_some_and(|driver| driver.exit.is_some()) {
            self.end_supervisor();
        }
    }

    /// `systemctl reload` waits for a `RELOADING` that is younger than its signal, then for `READY`.
    fn expect_notice(&mut self, event: &Event, effects: &[Effect]) {
        let Event::Request { asked, .. } = event else { return };
        let reload = asked.request.kind() == Kind::Reload && asked.caller == Caller::Signal;
        let refused = effects.iter().any(|effect| matches!(effect, Effect::Refuse { .. }));
        if let Some(driver) = &mut self.driver
            && reload
            && !refused
        {
            driver.signalled = true;
        }
    }

    /// The bytes of a generation: at hand, or from the journal.
    pub(crate) fn bundle(&self, generation: GenerationNumber) -> Option<u32> {
        let bundles = &self.driver.as_ref()?.bundles;
        let at_hand =
            bundles.iter().find(|(number, ..)| *number == generation).map(|(_, _, content)| *content);
        at_hand.or_else(|| self.journal.content(generation))
    }

    /// The bytes that the server is held to.
    pub(crate) fn held_content(&self) -> Option<u32> {
        self.bundle(self.driver.as_ref()?.view.held_to?)
    }

    /// The bytes that candidates are compared with.
    pub(crate) fn compared_content(&self) -> Option<u32> {
        self.bundle(self.driver.as_ref()?.view.compared_with?)
    }

    fn perform(&mut self, effect: Effect, before: handover_lifecycle::Phase) {
        self.check_effect(&effect, before);
        if matches!(effect, Effect::Release { .. } | Effect::Serve { .. }) {
            self.perform_programs(effect);
        }
        match effect {
            Effect::Started { operation } => self.op_started(operation),
            Effect::Deferred { request } => self.op_deferred(request),
            Effect::Joined { request, operation } => self.op_joined(request, operation),
            Effect::Refuse { request, refusal } => self.op_refused(request, refusal),
            Effect::Answer { operation, verdict, recorded } => self.op_answered(operation, verdict, recorded),
            Effect::Progress { .. } => {}
            Effect::StartWorker { worker, binary } => self.start_worker(worker, binary),
            Effect::Send { worker, message } => self.send(worker, message),
            Effect::Bind { worker, candidate, dry_run } => self.bind(worker, candidate, dry_run),
            Effect::KillWorker { worker } => self.kill(worker),
            Effect::WriteIntent { .. }
            | Effect::Pending { .. }
            | Effect::WriteConfirm { .. }
            | Effect::PendingOver { .. }
            | Effect::WriteUpgrade { .. }
            | Effect::WriteOutcome { .. } => self.write(effect),
            Effect::Examine { exam: Exam::Programs { .. }, .. }
            | Effect::CallOff { exam: Exam::Programs { .. }, .. } => self.perform_programs(effect),
            Effect::Examine { .. }
            | Effect::CallOff { .. }
            | Effect::HandOver { .. }
            | Effect::Switch { .. }
            | Effect::Forget { .. }
            | Effect::Reexec { .. } => self.perform_upgrade(effect),
            Effect::Carry { .. } | Effect::CallOffProgram { .. } | Effect::StopPrograms { .. } => {
                self.perform_programs(effect);
            }
            Effect::Own { operation, kind } => self.op_own(operation, kind),
            Effect::Serve { candidate, generation, worker } => self.serve(candidate, generation, worker),
            Effect::LetGo | Effect::Release { .. } | Effect::CloseListeners => self.let_go(effect),
            Effect::Notify(notice) => {
                if let Some(driver) = &mut self.driver {
                    driver.reloading = notice == Notice::Reloading;
                    driver.signalled &= notice != Notice::Reloading;
                }
            }
            Effect::Exit(exit) => {
                if let Some(driver) = &mut self.driver {
                    driver.exit = Some(exit);
                }
            }
        }
    }

    /// What is to stand in the journal.
    fn write(&mut self, effect: Effect) {
        let write = match effect {
            Effect::WriteIntent { operation, candidate, generation, back_to, confirm } => {
                let content = self.candidate_content(candidate).unwrap_or_default();
                if let Some(driver) = &mut self.driver {
                    driver.bundles.push((generation, candidate, content));
                }
                // Nobody holds what the one before had, also for the supervisor after this one.
                if self.ops.iter().any(|op| op.key == operation && op.kind == Kind::Start) {
                    self.tally.begun_anew.push(generation);
                }
                let until = confirm.map(|within| self.wall_clock() + within);
                Write::Intent { operation, generation, content, back_to, until }
            }
            Effect::WriteUpgrade { operation, worker, confirm } => {
                let until = confirm.map(|within| self.wall_clock() + within);
                let Some(driver) = &self.driver else { return };
                // What it would go back to is on disk before the journal says so.
                self.kept_binary = Some(driver.binaries.serving).filter(|_| confirm.is_some());
                let Some(generation) = driver.view.held_to else { return };
                Write::Upgrade { operation, generation, worker, until }
            }
            Effect::Pending { operation, generation, back_to, upgrade, left } => {
                let until = self.wall_clock() + left;
                Write::Pending { operation, generation, back_to, upgrade, until }
            }
            Effect::WriteConfirm { operation, generation, upgrade } => {
                Write::Confirm { operation, generation, upgrade }
            }
            Effect::PendingOver { generation, upgrade, how } if how != PendingEnd::Confirmed => {
                Write::Over { generation, upgrade, how }
            }
            Effect::WriteOutcome { operation, verdict } => {
                self.op_decided(operation, verdict);
                Write::Outcome { operation, verdict }
            }
            _ => return,
        };
        self.begin_write(write);
    }

    /// The worker has switched: what served before is kept until the machine says otherwise.
    fn serve(&mut self, candidate: CandidateKey, generation: GenerationNumber, worker: WorkerKey) {
        let content = self.candidate_content(candidate);
        let mut kept = 0;
        self.tally.not_held = self.tally.not_held.filter(|number| *number != generation);
        if let Some(driver) = &mut self.driver {
            driver.serves = true;
            if let Some(content) = content.filter(|_| !driver.closed) {
                driver.kept |= driver.held;
                driver.held = listeners(content);
                kept = driver.kept;
            }
            driver.bound.clear();
        }
        // It is given them too, for the supervisor that comes after this one. One that stops has none left to give.
        let closed = self.driver.as_ref().is_some_and(|driver| driver.closed);
        if let Some(worker) = self.worker(worker).filter(|_| !closed) {
            worker.kept = kept;
        }
        self.begin_write(Write::Serves { generation });
    }

    /// Listeners and bundles that nobody needs any more.
    fn let_go(&mut self, effect: Effect) {
        let Some(driver) = &mut self.driver else { return };
        match effect {
            Effect::LetGo => {
                let held_to = driver.view.held_to;
                driver.kept = 0;
                driver.bundles.retain(|(number, ..)| Some(*number) == held_to);
                self.workers.iter_mut().for_each(|worker| worker.kept = 0);
            }
            Effect::Release { candidate } => {
                driver.bound.retain(|(key, _)| *key != candidate);
                driver.bundles.retain(|(_, key, _)| *key != candidate);
            }
            Effect::CloseListeners => {
                driver.closed = true;
                driver.held = 0;
                driver.kept = 0;
                driver.bound.clear();
            }
            _ => {}
        }
    }

    pub(crate) fn kill(&mut self, worker: WorkerKey) {
        // Now and then one cannot be killed at once.
        let stuck = self.faulty(self.faults.kill);
        let wait = if stuck { self.rng.millis(1_000, 40_000) } else { self.rng.millis(0, 10) };
        let now = self.machine_time();
        if let Some(killed) = self.worker(worker) {
            let cut = killed.cuts_connections() && !killed.killed;
            killed.killed = true;
            killed.killed_at = now;
            self.later(wait, Happening::Kill { worker });
            self.ops.iter_mut().filter(|op| op.is_open()).for_each(|op| op.cut |= cut);
        }
    }

    /// What the candidate was built from: the driver got it as a bundle; here it is remembered.
    pub(crate) fn candidate_content(&self, candidate: CandidateKey) -> Option<u32> {
        self.tally.contents.iter().rev().find(|(key, _)| *key == candidate).map(|(_, content)| *content)
    }

    fn send(&mut self, key: WorkerKey, message: Message) {
        let wait = self.rng.millis(0, 3);
        let at = self.now + wait;
        let life = self.life;
        let to_keep = self.driver.as_ref().map_or(0, |driver| driver.kept | driver.held);
        let Some(worker) = self.worker(key) else { return };
        if !worker.connected || worker.life != life {
            return;
        }
        if matches!(message, Message::Commit { .. }) {
            // If its supervisor does not live to hear of it, the next one may have to go back.
            worker.to_keep = to_keep;
        }
        // From here it may be the one again.
        worker.standby &= !matches!(message, Message::Resume { .. });
        worker.inbound = worker.inbound.max(at);
        let at = worker.inbound;
        self.at(at, Happening::ToWorker { worker: key, message });
        self.meddle();
    }

    fn bind(&mut self, worker: WorkerKey, candidate: CandidateKey, dry_run: bool) {
        let content = self.worker(worker).and_then(|w| w.candidate).filter(|known| known.key == candidate);
        if let (Some(known), false, Some(driver)) = (content, dry_run, &mut self.driver)
            && !driver.closed
        {
            driver.bound.push((candidate, listeners(known.content)));
        }
        let slow = self.faulty(self.faults.slow);
        let wait = if slow { self.rng.millis(2_000, 20_000) } else { self.rng.millis(0, 20) };
        let life = self.life;
        self.later(wait, Happening::ToSupervisor { life, event: Event::Bound { worker, candidate } });
        let wait = wait + self.rng.millis(1, 40);
        self.later(wait, Happening::Act { worker, act: Act::EndPrepare(candidate, true) });
    }

    fn begin_write(&mut self, write: Write) {
        let (wait, ok) = self.journal.fate(&mut self.rng);
        let life = self.life;
        self.writes += 1;
        let seq = self.writes;
        self.later(wait, Happening::EndWrite { life, seq, write, ok });
    }

    pub(crate) fn end_write(&mut self, seq: u64, write: Write, ok: bool) {
        if ok {
            self.check_append(write);
            self.journal.append(seq, write);
        }
        let event = match write {
            Write::Intent { operation, generation, .. }
            | Write::Upgrade { operation, generation, .. }
            | Write::Pending { operation, generation, .. }
            | Write::Confirm { operation, generation, .. } => match ok {
                true => Event::IntentWritten { operation, generation },
                false => Event::IntentFailed { operation, generation },
            },
            Write::Outcome { operation, .. } if ok => Event::OutcomeWritten { operation },
            Write::Outcome { operation, .. } => Event::OutcomeFailed { operation },
            // Nobody waits for these; what has happened is written when the disk allows it.
            Write::Over { .. } | Write::Serves { .. } => {
                if !ok {
                    self.journal.append(seq, write);
                }
                return;
            }
        };
        self.feed(event);
    }

    /// A note that an operation began: not synced, and lost when the disk is full.
    pub(crate) fn note_began(&mut self, operation: OperationKey, kind: Kind) {
        if self.journal.mode == Mode::Well && !self.journal.began.iter().any(|(key, ..)| *key == operation) {
            let goes_back = kind == Kind::Cancel || operation >= OperationKey::OWN;
            let upgrade = self.tracked.and_then(|tracked| tracked.upgrade).filter(|_| goes_back);
            let unconfirmed = self.journal.unconfirmed();
            let unconfirmed =
                unconfirmed.filter(|known| goes_back && known.over.is_none() && upgrade.is_none());
            self.journal.began.push((operation, kind, unconfirmed.map(|known| known.back_to), upgrade));
        }
    }

    /// The process has ended by its own will. Somebody starts it again, later.
    fn end_supervisor(&mut self) {
        self.check_exit();
        self.driver = None;
        // A process manager starts it again, but not for ever.
        if !self.calm && self.life < MANY_LIVES {
            let wait = self.rng.millis(10, 10_000);
            self.later(wait, Happening::StartSupervisor);
        }
    }

    /// How long the deadlines of an operation of this kind can add up to.
    pub(crate) fn bound(&self, kind: Kind, limit: Option<Duration>, guard: Option<Duration>) -> Duration {
        let l = &self.limits;
        let load = l.prepare + l.intent + l.commit;
        let replace = l.kill + l.backoff_longest + l.worker_start;
        let record = (l.journal + l.journal_retry) * l.journal_attempts;
        let end = l.drain_grace + l.stop_now + l.stop + l.kill;
        let drain = limit.unwrap_or(l.drain).min(l.drain_longest);
        let guard = guard.map_or(Duration::ZERO, |watch| watch.min(l.guard_longest) + l.guard_grace);
        // A worker that is being restarted, the generation before in it, the same in another one.
        let go_back = replace + load * 2 + replace + load;
        // One after the other, each until the hung one of the two is killed and the other has acted upon it.
        let handoff = l.handoff + (l.handoff_grace + l.kill) * 3;
        let raise = l.worker_start + load + l.probe + l.kill;
        let retire = l.drain + l.drain_grace + l.stop + l.kill;
        let supervisor = l.examine + l.reexec * 2 + record;
        let take_back = l.handoff + retire + (raise + handoff) * 2 + l.resume + go_back + retire + l.reexec;
        let upgrade = l.examine * 3 + raise + l.journal + handoff + guard + retire + supervisor + take_back;
        let work = match kind {
            Kind::Start | Kind::Resume => l.resume + replace + load * 2,
            Kind::Reload | Kind::Restore | Kind::DryRun => {
                let load = load + LONGEST_PROOF;
                replace + load + load + (replace + load) * 2 + guard + go_back + l.examine * 3 + raise
            }
            // The machine's own may be that of an upgrade.
            Kind::Rollback => {
                let load = load + LONGEST_PROOF;
                replace + load + load + (replace + load) * 2 + guard + go_back + take_back
            }
            Kind::Confirm => l.journal + retire + supervisor,
            Kind::Cancel => go_back + take_back,
            Kind::Upgrade => upgrade,
            Kind::Action => l.action,
            kind if kind.is_carried() => limit.unwrap_or_default().min(l.carried_longest) + l.call_off,
            Kind::Drain => drain + end,
            // What it overtakes may still be switching.
            _ => drain + end + l.commit + record + handoff + l.call_off + STOP + l.kill,
        };
        work + end + record + Duration::from_secs(1)
    }
}
