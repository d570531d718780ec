//! The driver's side of programs: what is asked of them, what they say, and what is said to workers about them.
//!
//! ```text
//!   machine ── Carry, Examine, Serve, Release, StopPrograms ─▶ Programs
//!   machine ◀─ Carried, Examined, ProgramsStopped ──────────── Programs
//!   worker  ── TrafficSet, Quiet, Wanted ────────────────────▶ Programs
//!   worker  ◀─ Traffic (every worker, before it serves), AwaitQuiet, Keep (the one that serves)
//! ```
//!
//! What the supervisor itself wants done about a program is an operation like all others; if another one runs, it is asked
//! for again when that one has ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::time::Duration;

use handover_api::{Actor, EventKind, Operation, PauseStatus, ProgramStatus, Refused};
use handover_lifecycle::{
    CandidateKey, Cause, Event, Exam, Finding, GenerationNumber, OperationKey, Outcome, Phase, WorkerKey,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Driver;
use crate::handle::{Ask, NewOperation, ProgramLogs};
use crate::programs::{Asked, Asker, Ended, Out, Programs, Said};
use crate::protocol::{PROGRAMS_VERSION, Report, Settings, ToWorker, Traffic};
use crate::worker::Worker;

/// What is kept for the next supervisor is sent at most this often: a rolling restart changes it many times a second.
const KEEP_INTERVAL: Duration = Duration::from_millis(50);
/// What is kept is sent when what was sent before is on its way: that is looked at this often.
const KEEP_AGAIN: Duration = Duration::from_millis(5);
/// Operations of the supervisor's own that may wait for their turn. There is one for each program at most.
const MAX_OWN: usize = 1024;
/// Descriptors that a worker is given to keep at most: one message has no room for more than 4096.
const MAX_KEPT: usize = 4000;
/// The calls of the driver's own `Traffic` messages are counted from here; those of the programs' are below.
const OWN_CALLS: u64 = 1 << 63;

/// What the driver remembers about programs.
#[derive(Debug, Default)]
pub(super) struct Hosting {
    /// The exam that runs or has passed, and its candidate, until that serves or is gone.
    pub(super) exam: Option<(OperationKey, CandidateKey)>,
    /// What the supervisor wants done, and why.
    pub(super) own: VecDeque<(Asked, String)>,
    /// When what is kept is to be sent to the worker.
    pub(super) keep_at: Option<Instant>,
    pub(super) kept_last: Option<Instant>,
    /// Workers that serve or may: they know where requests go, and keep what the next supervisor needs.
    pub(super) told: BTreeSet<WorkerKey>,
    /// Whether there was anything to be said about traffic, or to be kept, so far.
    pub(super) says_traffic: bool,
    pub(super) says_keep: bool,
    /// The operation on a program during which the worker died: connections through it were cut.
    pub(super) cut: Option<OperationKey>,
    /// The exit code of the program, when all have ended and the server ends with them.
    pub(super) code: Option<u8>,
    /// The server is ready when its programs are: who was to be told that it is, and the start that the banner tells of.
    pub(super) awaited: bool,
    pub(super) ready_waits: bool,
    pub(super) banner_waits: Option<Box<Operation>>,
}

impl Driver {
    /// Does what programs say, oldest first. False if they said nothing.
    pub(super) fn hear_programs(&mut self) -> bool {
        let out = self.programs.out();
        let heard = !out.is_empty();
        let ends = out.iter().any(|out| matches!(out, Out::Ended(_)));
        let mut keep_now = false;
        for out in out {
            match out {
                Out::ToWorker(message) => self.pass_to_workers(message),
                Out::Step { operation, step } => self.progress(operation, step),
                Out::Ended(ended) => self.program_ended(*ended),
                Out::Examined { operation, passed, problems, warnings } => {
                    if let Some(entry) = self.operations.get_mut(operation) {
                        entry.operation.errors.extend(problems);
                        entry.operation.warnings.extend(warnings);
                    }
                    let Some((_, candidate)) = self.hosting.exam.filter(|(of, _)| *of == operation) else {
                        continue;
                    };
                    let finding = if passed { Finding::Passed } else { Finding::Failed };
                    let exam = Exam::Programs { candidate };
                    self.pending.push_back(Event::Examined { operation, exam, finding });
                }
                Out::Own { asked, comment } => self.want(asked, comment),
                Out::KeepNow => keep_now = true,
                Out::Keep => {
                    let soonest = self.hosting.kept_last.map(|last| last + KEEP_INTERVAL);
                    let now = Instant::now();
                    self.hosting.keep_at.get_or_insert(soonest.map_or(now, |soonest| soonest.max(now)));
                }
                Out::Settled => self.programs_settled(),
                Out::Notice(what) => {
                    tracing::info!("{what}");
                    self.tell(EventKind::Notice, what, None);
                }
                Out::Stopped { clean, losses } => {
                    self.lose_connections(&losses);
                    self.pending.push_back(Event::ProgramsStopped { clean });
                }
                Out::AllEnded { code } => self.all_ended(code),
            }
        }
        if keep_now || ends && self.hosting.keep_at.is_some() {
            // What is about to be answered outlives this process.
            self.keep();
        }
        heard
    }

    /// A message of the programs, to the worker that serves. What is routed how, all workers hear that may serve.
    fn pass_to_workers(&mut self, message: ToWorker) {
        let serving = self.serving.as_ref().map(|serving| serving.worker);
        let is_for_all = matches!(message, ToWorker::Traffic { .. });
        self.hosting.says_traffic |= is_for_all;
        for (key, worker) in &self.workers {
            let hears = Some(*key) == serving || (is_for_all && self.hosting.told.contains(key));
            if hears && hears_of_programs(worker) {
                worker.send(message.clone(), Vec::new());
            }
        }
    }

    /// Tells a worker that is about to serve where requests go that are passed to programs.
    pub(super) fn tell_traffic(&mut self, key: WorkerKey) {
        self.hosting.told.insert(key);
        let traffic = Box::new(self.programs.traffic());
        self.hosting.says_traffic |= *traffic != Traffic::default();
        if !self.hosting.says_traffic {
            // A server without programs, or a worker that has never heard of them.
            return;
        }
        self.calls += 1;
        let message = ToWorker::Traffic { call: OWN_CALLS | self.calls, traffic };
        if let Some(worker) = self.workers.get(&key).filter(|worker| hears_of_programs(worker)) {
            worker.send(message, Vec::new());
        }
        // It may be the only one that lives when this process dies.
        self.hosting.keep_at.get_or_insert_with(Instant::now);
    }

    /// Another worker serves.
    pub(super) fn worker_changed(&mut self) {
        let Some(worker) = self.serving.as_ref().map(|serving| serving.worker) else { return };
        self.tell_traffic(worker);
        self.programs.worker_changed();
        self.keep();
    }

    /// Gives the worker that serves, and any that may come to, what the next supervisor needs to go on with the programs.
    pub(super) fn keep(&mut self) {
        self.hosting.keep_at = None;
        // Hundreds of copies get ready at once: if each of them sent all descriptors of all, there would soon be none left.
        if self.keepers().any(Worker::is_given_something) {
            self.hosting.keep_at = Some(Instant::now() + KEEP_AGAIN);
            return;
        }
        let kept = self.programs.save();
        self.hosting.says_keep |= !kept.json.is_empty();
        if !self.hosting.says_keep {
            return;
        }
        self.hosting.kept_last = Some(Instant::now());
        if kept.descriptors.len() > MAX_KEPT {
            return tracing::error!(
                "{} descriptors are more than a worker can keep: if this supervisor dies, its programs are started anew",
                kept.descriptors.len()
            );
        }
        for worker in self.keepers() {
            let message = ToWorker::Keep { programs: kept.json.clone() };
            worker.send(message, kept.descriptors.clone());
        }
        // They have changed, too.
        self.send_facts();
    }

    /// The worker that serves, and those that may come to.
    fn keepers(&self) -> impl Iterator<Item = &Worker> {
        let serving = self.serving.as_ref().map(|serving| serving.worker);
        let keeps = move |key: &WorkerKey| Some(*key) == serving || self.hosting.told.contains(key);
        let keepers = self.workers.iter().filter(move |(key, _)| keeps(key)).map(|(_, worker)| worker);
        keepers.filter(|worker| hears_of_programs(worker))
    }

    /// What a worker has said about traffic: only the one that serves is asked.
    pub(super) fn said_about_traffic(&mut self, key: WorkerKey, said: Said) {
        let call = match said {
            Said::TrafficSet { call } | Said::Quiet { call, .. } => call,
        };
        let serves = self.serving.as_ref().is_some_and(|serving| serving.worker == key);
        if serves && call & OWN_CALLS == 0 {
            self.programs.worker_said(said);
            self.go_on();
        }
    }

    /// Somebody waits for a program that is started when it is needed. Only the worker that serves is believed; another one says it again
    /// when it does, for it is told of the traffic then.
    pub(super) fn program_wanted(&mut self, key: WorkerKey, program: &str) {
        if self.serving.as_ref().is_some_and(|serving| serving.worker == key) {
            self.programs.wanted(program);
            self.go_on();
        }
    }

    /// Whether a resume that names nothing is about requests that are held: the server itself serves.
    pub(super) fn holds_requests(&self) -> bool {
        self.machine.view().phase == Phase::Serving && !self.programs.paused().is_empty()
    }

    /// What a request about a program asks for begins.
    pub(super) fn carry_program(&mut self, operation: OperationKey) {
        let Some(entry) = self.operations.get(operation) else { return };
        let Some(Ask::Program(asked)) = entry.ask.clone() else { return };
        let asker = Asker {
            id: entry.operation.id.clone(),
            actor: entry.operation.actor.clone(),
            comment: entry.operation.comment.clone(),
        };
        self.programs.ask(operation, &asked, asker);
    }

    fn program_ended(&mut self, ended: Ended) {
        let Ended { operation, outcome, cause, problems, warnings, losses, answer, program } = ended;
        if let Some(entry) = self.operations.get_mut(operation) {
            let record = &mut entry.operation;
            record.errors.extend(problems);
            record.warnings.extend(warnings);
            record.losses.merge(&losses);
            record.answer = record.answer.take().or(answer);
            record.program = Some(Box::new(program));
        }
        let cut = self.hosting.cut.take() == Some(operation) && outcome == Outcome::Applied;
        let (outcome, cause) =
            if cut { (Outcome::AppliedWithLosses, Cause::WorkerDied) } else { (outcome, cause) };
        self.pending.push_back(Event::Carried { operation, outcome, cause });
    }

    /// The worker that serves has died: what goes on meanwhile has not gone without a loss.
    pub(super) fn cut_meanwhile(&mut self) {
        let carried = self.active().filter(|operation| {
            self.operations.get(*operation).is_some_and(|entry| entry.operation.kind.is_carried())
        });
        self.hosting.cut = carried.or(self.hosting.cut);
    }

    /// The supervisor wants something done about a program: as soon as nothing else runs.
    fn want(&mut self, asked: Asked, comment: String) {
        let known = self.hosting.own.iter().any(|(waits, _)| *waits == asked);
        if !known && self.hosting.own.len() < MAX_OWN {
            self.hosting.own.push_back((asked, comment));
        }
    }

    /// Asks for what the supervisor wants done, if nothing else runs.
    pub(super) fn ask_for_own(&mut self) {
        if self.hosting.own.is_empty() || self.machine.view().operation.is_some() || self.looks() {
            return;
        }
        let Some((asked, comment)) = self.hosting.own.pop_front() else { return };
        let mut new = NewOperation::new(Ask::Program(asked), Actor::supervisor());
        new.comment = Some(comment);
        self.admit(new, None, None);
    }

    /// Whether the programs of a candidate need an exam, and how long that may take.
    pub(super) fn programs_differ(&self, candidate: CandidateKey) -> Option<Duration> {
        let prepared = self.candidates.get(&candidate)?.prepared.as_ref()?;
        self.programs.differs(&prepared.settings.programs)
    }

    /// Starts what is new in the programs of this candidate.
    pub(super) fn examine_programs(&mut self, operation: OperationKey, candidate: CandidateKey) {
        self.hosting.exam = Some((operation, candidate));
        let prepared = self.candidates.get(&candidate).and_then(|noted| noted.prepared.as_ref());
        let Some(prepared) = prepared else {
            let (exam, finding) = (Exam::Programs { candidate }, Finding::Failed);
            return self.pending.push_back(Event::Examined { operation, exam, finding });
        };
        let sockets = self.parts.listeners.of_candidate(candidate);
        self.programs.examine(operation, &prepared.settings.programs, sockets);
    }

    /// The candidate does not come to serve: what was started for it ends.
    pub(super) fn abort_programs(&mut self, candidate: CandidateKey) {
        if let Some((operation, _)) = self.hosting.exam.take_if(|(_, of)| *of == candidate) {
            self.programs.abort(operation);
        }
    }

    fn abort_exam(&mut self) {
        if let Some((operation, _)) = self.hosting.exam.take() {
            self.programs.abort(operation);
        }
    }

    /// What serves has these programs.
    pub(super) fn apply_programs(
        &mut self,
        candidate: CandidateKey,
        generation: GenerationNumber,
        settings: &Settings,
    ) {
        if self.machine.view().phase == Phase::Stopping {
            // It was being committed when the stop came: all programs end, and none is begun.
            return self.abort_exam();
        }
        let examined = self.hosting.exam.take();
        let examined = examined.filter(|(operation, of)| {
            // Or the worker that was to serve it died, and another one serves the same.
            let same = *of == candidate
                || self.candidates.get(of).is_some_and(|noted| noted.generation == generation);
            if !same {
                self.programs.abort(*operation);
            }
            same
        });
        let sockets = self.parts.listeners.of_serving();
        self.programs.apply(
            &settings.programs,
            &settings.names,
            sockets,
            examined.map(|(operation, _)| operation),
        );
        self.machine.set_programs(self.programs.longest_stop());
    }

    /// Takes over the programs of an earlier supervisor, which its worker has kept.
    pub(super) fn adopt_programs(&mut self, kept: Option<&str>, descriptors: Vec<OwnedFd>) {
        let Some(kept) = kept.filter(|kept| !kept.is_empty()) else { return };
        let options = &self.parts.options;
        let setup = super::programs_setup(&options.name, self.parts.lock.control(), &options.state);
        match Programs::restore(setup, kept, descriptors) {
            Ok(programs) => self.programs = programs,
            Err(why) => tracing::error!(
                "the programs that an earlier supervisor has left cannot be taken over, and are started anew: {why}"
            ),
        }
    }

    /// What served before this supervisor, or before it was this binary, serves on, and so do its programs.
    pub(super) fn go_on_with_programs(&mut self, settings: &Settings) {
        let sockets = self.parts.listeners.of_serving();
        self.programs.apply(&settings.programs, &settings.names, sockets, None);
        self.machine.set_programs(self.programs.longest_stop());
    }

    /// A request about programs that runs on is told to come to an end.
    pub(super) fn call_off_program(&mut self, operation: OperationKey) {
        self.programs.call_off(operation);
    }

    pub(super) fn stop_programs(&mut self, limit: Duration) {
        self.hosting.own.clear();
        self.programs.stop(limit);
    }

    /// Whether the server, which is up, says so only when its programs are.
    pub(super) fn awaits_programs(&self) -> bool {
        self.hosting.awaited && !self.programs.is_settled()
    }

    /// Every program has been ready, or has failed once: whoever waits for the server hears of it.
    fn programs_settled(&mut self) {
        self.hosting.awaited = false;
        if let Some(start) = self.hosting.banner_waits.take() {
            self.print_banner(&start);
        }
        if std::mem::take(&mut self.hosting.ready_waits) {
            self.parts.notifier.ready();
        }
    }

    fn all_ended(&mut self, code: u8) {
        if !self.parts.options.for_programs || self.hosting.code.is_some() {
            return;
        }
        self.hosting.code = Some(code);
        tracing::info!(code, "all programs have ended, and so does the server");
        let limit = self.drain_limit();
        self.request(NewOperation::new(Ask::Stop { now: false, limit }, Actor::supervisor()), None);
    }

    /// The programs, with memory and connections as they are now; who asks is answered from elsewhere.
    pub(super) fn answer_programs(&mut self, answer: oneshot::Sender<Vec<ProgramStatus>>) {
        let measure = self.programs.measure();
        let held = self.report_held();
        tokio::spawn(async move {
            let (mut programs, held) = tokio::join!(measure, held);
            held.fill(programs.iter_mut().filter_map(|program| program.paused.as_mut()));
            // Whoever asked may be gone.
            let _ = answer.send(programs);
        });
    }

    /// How many requests each pause holds now, as the worker says.
    pub(super) fn report_held(&mut self) -> impl Future<Output = Held> + Send + 'static + use<> {
        let serving = self.serving.as_ref().and_then(|serving| self.workers.get(&serving.worker));
        let asks = serving.is_some_and(hears_of_programs) && !self.programs.paused().is_empty();
        let said = asks.then(|| self.report(Report::Held));
        async move {
            let text = match said {
                Some(said) => said.wait().await,
                None => None,
            };
            Held(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
        }
    }

    pub(super) fn answer_logs(
        &self,
        name: &str,
        lines: usize,
        answer: oneshot::Sender<Result<ProgramLogs, Refused>>,
    ) {
        let follow = self.programs.follow();
        let found = self.programs.logs(name, lines).map(|lines| ProgramLogs { lines, follow });
        let known = || self.programs.status().into_iter().map(|program| program.name).collect();
        let _ = answer
            .send(found.ok_or_else(|| Refused::NoSuchProgram { name: name.to_owned(), known: known() }));
    }
}

/// How many requests each pause holds, by what is paused.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<String, u64>);

impl Held {
    /// Says so. What nobody has said anything about stays as it was.
    pub(super) fn fill<'a>(&self, pauses: impl Iterator<Item = &'a mut PauseStatus>) {
        for pause in pauses {
            pause.held = self.0.get(&pause.target).copied().or(pause.held);
        }
    }
}

/// Whether it would understand, and anything is worth saying to it.
fn hears_of_programs(worker: &Worker) -> bool {
    worker.protocol >= PROGRAMS_VERSION && !worker.is_ending
}
