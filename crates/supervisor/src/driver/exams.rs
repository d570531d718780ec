//! A new binary looked at, asked about itself, and probed: everything that can be found out before it serves.
//!
//! ```text
//!   Admission ─▶ a thread: file, rules, digest, signature ──────────▶ it is the candidate
//!   Preflight ─▶ a thread: a child says its versions, and reads what this process would leave
//!   Probe ─────▶ the worker: a listening socket; a thread: connects, and reads who answers
//!   Rehearsal ─▶ as preflight, with what this process would leave now
//!                    └────────────────────────── Input::Examined ─▶ the operation's record, the machine
//! ```
//!
//! Each has a deadline of its own here, shorter than the machine's, so that what is waited for is told, and nothing is left
//! running.

use std::sync::Arc;
use std::time::Duration;

use handover_api::{Binary, Problem};
use handover_handoff::process::Child;
use handover_lifecycle::{Event, Exam, Finding, Kind, OperationKey, WorkerKey};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Driver, Input};
use crate::binary::{self, Admitted, NotAdmitted};
use crate::handle::{Ask, WhichBinary};
use crate::image::Image;
use crate::operations::Entry;
use crate::preflight::{NotUsable, Preflight, Stated};
use crate::probe::{Expected, Probe};
use crate::protocol::{Report, ToWorker};

/// What is left of the machine's limit for an exam, for clearing away what did not answer.
const CLEARING: Duration = Duration::from_secs(1);
/// How long a worker that has not answered a probe is given to end by itself: that says more than that it has not.
const LAST_BREATH: Duration = Duration::from_millis(200);

/// What came out of an exam.
#[derive(Debug)]
pub(crate) enum Examined {
    Admission(Box<Result<Admitted, NotAdmitted>>),
    Asked(Result<Stated, NotUsable>),
    Probe(Result<(), String>),
}

impl Driver {
    pub(super) fn examine(&mut self, operation: OperationKey, exam: Exam) {
        if let Exam::Programs { candidate } = exam {
            return self.examine_programs(operation, candidate);
        }
        self.upgrading.exam = Some((operation, exam));
        match exam {
            Exam::Admission => self.examine_file(operation),
            Exam::Preflight => {
                self.count_connections(operation);
                self.ask_binary(operation, exam);
            }
            Exam::Rehearsal => self.ask_binary(operation, exam),
            Exam::Probe { worker } => self.probe(operation, worker),
            Exam::Programs { .. } => {}
        }
    }

    /// Nobody waits for it any more. What was started ends by its own deadline, or with the worker.
    pub(super) fn call_off(&mut self, operation: OperationKey, exam: Exam) {
        if let Exam::Programs { candidate } = exam {
            return self.abort_programs(candidate);
        }
        self.upgrading.exam.take_if(|running| *running == (operation, exam));
    }

    fn limit(&self, limit: Duration) -> Duration {
        limit.saturating_sub(CLEARING).max(limit / 2)
    }

    fn examine_file(&mut self, operation: OperationKey) {
        let entry = self.operations.get(operation);
        let Some(Ask::Upgrade { binary, sha256, .. }) = entry.and_then(|entry| entry.ask.clone()) else {
            return self.pending.push_back(failed(operation, Exam::Admission));
        };
        let path = match binary {
            WhichBinary::Default => Some(self.binaries.installed.clone()),
            WhichBinary::Path(path) => Some(path),
            // The kept copy, which nobody has put there but this server.
            WhichBinary::Previous => None,
        };
        let kept = entry.and_then(|entry| entry.binary.clone()).and_then(|binary| binary.sha256);
        let rules = self.serving.as_ref().map(|serving| serving.settings.upgrade.clone()).unwrap_or_default();
        let state = self.parts.options.state.clone();
        let serving = Arc::clone(&self.binaries.serving);
        self.conduct(operation, Exam::Admission, move || {
            // Both ends of the record, found out in one go.
            if let Err(error) = serving.find_sha256() {
                tracing::warn!("the digest of {} cannot be known: {error}", serving.path().display());
            }
            Examined::Admission(Box::new(match path {
                Some(path) => binary::admit(&path, &rules, sha256.as_deref()),
                None => binary::admit_kept(&state, &kept.unwrap_or_default()),
            }))
        });
    }

    /// Asks a binary about itself, and whether it can go on with what this process would leave for it.
    fn ask_binary(&mut self, operation: OperationKey, exam: Exam) {
        let program = self.binaries.candidate.as_ref().unwrap_or(&self.binaries.serving);
        let program = Arc::clone(program);
        let saved = match self.rehearsal() {
            Ok(saved) => saved,
            Err(why) => {
                let unusable = NotUsable { why, said: Vec::new() };
                return self.examined_later(operation, exam, Examined::Asked(Err(unusable)));
            }
        };
        let arguments = self.parts.options.arguments.clone();
        let environment = self.parts.options.environment.clone();
        let name = self.parts.options.name.clone();
        let limit = self.limit(self.parts.options.limits.examine);
        self.conduct(operation, exam, move || {
            let unusable = |why: String| NotUsable { why, said: Vec::new() };
            let checked = program.check().map_err(|why| unusable(why.to_string()));
            let preflight = Preflight {
                executable: program.executable(),
                name: &name,
                arguments: &arguments,
                environment: &environment,
                saved: saved.as_ref().map(std::os::fd::AsFd::as_fd),
                limit,
            };
            Examined::Asked(checked.and_then(|()| preflight.run()))
        });
    }

    fn probe(&mut self, operation: OperationKey, key: WorkerKey) {
        let exam = Exam::Probe { worker: key };
        let asked = self.workers.get(&key).map(|worker| (Arc::clone(&worker.process), worker.threads));
        let Some((process, threads)) = asked else {
            return self.pending.push_back(failed(operation, exam));
        };
        let (probe, socket) = match Probe::new(threads) {
            Ok(made) => made,
            Err(error) => {
                let why = format!("no socket to ask it through: {error}");
                return self.examined_later(operation, exam, Examined::Probe(Err(why)));
            }
        };
        self.calls += 1;
        let message = ToWorker::Probe { call: self.calls, nonce: probe.nonce.clone() };
        if !self.workers.get(&key).is_some_and(|worker| worker.send(message, vec![Arc::new(socket)])) {
            return self.pending.push_back(Event::ChannelLost { worker: key });
        }
        let expected = Expected { worker: key.0, pid: process.pid() };
        let limit = self.limit(self.parts.options.limits.probe);
        let inputs = self.inputs.clone();
        tokio::task::spawn_blocking(move || {
            let answered = probe.ask(expected, limit);
            // Then its end is reported, and is the reason.
            if answered.is_ok() || !ends_within(&process, LAST_BREATH) {
                let result = Examined::Probe(answered);
                let _ = inputs.blocking_send(Input::Examined { operation, exam, result });
            }
        });
    }

    /// Does it in another thread.
    fn conduct(
        &self,
        operation: OperationKey,
        exam: Exam,
        conducted: impl FnOnce() -> Examined + Send + 'static,
    ) {
        let inputs = self.inputs.clone();
        tokio::task::spawn_blocking(move || {
            let result = conducted();
            let _ = inputs.blocking_send(Input::Examined { operation, exam, result });
        });
    }

    fn examined_later(&self, operation: OperationKey, exam: Exam, result: Examined) {
        self.conduct(operation, exam, move || result);
    }

    pub(super) fn examined(&mut self, operation: OperationKey, exam: Exam, result: Examined) {
        if self.upgrading.exam.take_if(|running| *running == (operation, exam)).is_none() {
            // Called off meanwhile.
            return;
        }
        let finding = match result {
            Examined::Admission(admitted) => self.admitted(operation, *admitted),
            Examined::Asked(asked) => self.answered(operation, exam, asked),
            Examined::Probe(Ok(())) => Finding::Passed,
            Examined::Probe(Err(why)) => {
                self.note_failure(operation, why, Vec::new());
                Finding::Failed
            }
        };
        self.step(Event::Examined { operation, exam, finding });
    }

    fn admitted(&mut self, operation: OperationKey, admitted: Result<Admitted, NotAdmitted>) -> Finding {
        let entry = self.operations.get_mut(operation);
        let finding = match &admitted {
            Ok(_) => Finding::Passed,
            Err(NotAdmitted::Refused { .. }) => Finding::Refused,
            Err(NotAdmitted::Broken { .. }) => Finding::Failed,
        };
        match admitted {
            Ok(admitted) => {
                let program = Arc::new(Image::admitted(admitted));
                // A kept copy is called by where it was found when it served.
                let known = entry.as_ref().and_then(|entry| entry.binary.clone());
                if let Some(version) = known.and_then(|known| known.version) {
                    program.is_version(version);
                }
                self.binaries.candidate = Some(program);
                if !self.is_dry_run(operation) {
                    // In time, so that it is done when the processors are needed for the handoff.
                    self.copy(Arc::clone(&self.binaries.serving), false);
                }
            }
            Err(why) => {
                if let Some(entry) = entry {
                    entry.operation.errors.push(why.problem());
                }
            }
        }
        self.note_binaries(operation);
        finding
    }

    fn answered(&mut self, operation: OperationKey, exam: Exam, asked: Result<Stated, NotUsable>) -> Finding {
        match asked {
            Ok(stated) => {
                if let (Exam::Preflight, Some(candidate)) = (exam, &self.binaries.candidate) {
                    candidate.is_version(stated.version);
                }
                self.note_binaries(operation);
                Finding::Passed
            }
            Err(NotUsable { why, said }) => {
                let stays = exam == Exam::Rehearsal && !self.is_dry_run(operation);
                match self.operations.get_mut(operation) {
                    // What it was for is done: the new binary serves.
                    Some(entry) if stays => supervisor_stays(entry, why),
                    _ => self.note_failure(operation, why, said),
                }
                Finding::Failed
            }
        }
    }

    fn is_dry_run(&self, operation: OperationKey) -> bool {
        self.operations.get(operation).is_some_and(|entry| entry.operation.kind == Kind::DryRun)
    }

    /// Writes into the record what is known of both binaries by now, as long as there are two.
    fn note_binaries(&mut self, operation: OperationKey) {
        let Some(candidate) = self.binaries.candidate.as_ref().map(|candidate| candidate.described()) else {
            return;
        };
        let serving = self.binaries.serving.described();
        let entry = self.operations.get_mut(operation);
        if let Some(upgrade) = entry.and_then(|entry| entry.operation.upgrade.as_mut()) {
            (upgrade.from, upgrade.to) = (serving, candidate);
        }
    }

    /// Why the new binary, or its worker, is no good.
    pub(super) fn note_failure(&mut self, operation: OperationKey, why: String, last_lines: Vec<String>) {
        let Some(entry) = self.operations.get_mut(operation) else { return };
        let problem = Problem::new(why);
        if !entry.operation.errors.contains(&problem) {
            entry.operation.errors.push(problem);
        }
        if let Some(upgrade) = entry.operation.upgrade.as_mut().filter(|_| !last_lines.is_empty()) {
            upgrade.last_lines = last_lines;
        }
    }

    /// The worker that is to take over is told for how many descriptors it should make room.
    fn count_connections(&mut self, operation: OperationKey) {
        let counted = self.report(Report::ConnectionCount);
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let connections = counted.wait().await.and_then(|count| count.parse().ok());
            if let Some(connections) = connections {
                let _ = inputs.send(Input::Counted { operation, connections }).await;
            }
        });
    }

    pub(super) fn counted(&mut self, operation: OperationKey, connections: u64) {
        if self.active() == Some(operation) {
            self.upgrading.connections = Some(connections);
        }
    }
}

/// Whether a process has ended, or does within this time. Blocks.
fn ends_within(process: &Child, within: Duration) -> bool {
    let mut polled = [PollFd::new(process, PollFlags::IN)];
    poll(&mut polled, Timespec::try_from(within).ok().as_ref()) == Ok(1)
}

/// The new binary serves, and this process goes on as it is.
pub(super) fn supervisor_stays(entry: &mut Entry, why: String) {
    let warning = format!(
        "the supervisor goes on in the binary that it runs: {why}; the next upgrade or start takes it along"
    );
    entry.operation.warnings.push(Problem::new(warning));
    if let Some(upgrade) = &mut entry.operation.upgrade {
        upgrade.supervisor_stays = Some(why);
    }
}

fn failed(operation: OperationKey, exam: Exam) -> Event {
    Event::Examined { operation, exam, finding: Finding::Failed }
}

/// What an upgrade is to, as far as it is known when it is asked for.
pub(super) fn asked_for(ask: &Ask, installed: &std::path::Path, kept: Option<&Binary>) -> Option<Binary> {
    let Ask::Upgrade { binary, .. } = ask else { return None };
    Some(match (binary, kept) {
        (WhichBinary::Path(path), _) => Binary::at(path.display().to_string()),
        (WhichBinary::Previous, Some(kept)) => kept.clone(),
        (WhichBinary::Default | WhichBinary::Previous, _) => Binary::at(installed.display().to_string()),
    })
}
