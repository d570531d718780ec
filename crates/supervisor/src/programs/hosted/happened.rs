//! What came of tasks, told to the machine.

use handover_api::{Problem, ServesNow};
use handover_handoff::process::Exit;
use handover_lifecycle::program::{CopyKey, Event};
use handover_lifecycle::{CallKey, OperationKey};

use super::super::checks::{NotReady, Proof};
use super::super::commands::{Failed, Finished};
use super::super::common::Common;
use super::super::copy::Killed;
use super::super::happened::Of;
use super::super::out::Out;
use super::super::traffic::Quiet;
use super::copies::Wish;
use super::starting::Born;
use super::{Hosted, LastEnd};

/// Lines of output that are answered of a copy that failed.
pub(super) const LAST_LINES: usize = 20;

impl Hosted {
    /// Takes in what happened.
    pub(in super::super) fn happened(&mut self, common: &mut Common, what: Of) {
        match what {
            Of::Started { copy, born } => self.started(common, copy, born),
            Of::Proved { copy, proof } => self.proved(common, copy, proof),
            Of::Fares { copy, finding } => {
                self.failed(common, copy, &format!("fares badly: {finding}"));
                self.step(common, Event::NotReady { copy });
            }
            Of::Over { copy } => {
                // What comes from now on would wait for nobody, and break.
                if common.board.switch_off(&self.name, copy) {
                    common.say_traffic(None);
                }
            }
            Of::Exited { copy, exit, left } => self.exited(common, copy, exit, left),
            Of::Gone { copy } => self.gone(common, copy),
            Of::Stopping { copy, accepted } => {
                if let Some(entry) = self.copies.get_mut(&copy) {
                    entry.accepted = accepted;
                }
            }
            Of::Killed { copy, killed, accepted } => self.killed(common, copy, killed, accepted),
            Of::Hooked { operation, result } => self.hooked(common, operation, result),
            Of::Demand { watch } => self.demanded(common, watch),
            Of::Idle { watch } => self.idle(common, watch),
            Of::AskUse { watch, answer } => self.ask_use(common, watch, answer),
            Of::Looked { operation, result } => self.looked(common, operation, result),
            Of::Reloaded { operation, result } => self.reloaded(common, operation, result),
            Of::Inetd { .. } | Of::Serves => {}
        }
    }

    /// The worker acts on what was said.
    pub(in super::super) fn traffic_set(&mut self, common: &mut Common, call: CallKey) {
        self.step(common, Event::TrafficSet { call });
    }

    /// Nothing is in flight any more at what was asked about, or the limit is over.
    pub(in super::super) fn quiet(&mut self, common: &mut Common, call: CallKey, quiet: Quiet) {
        if let Some(active) = &mut self.active {
            let result = &mut active.ended.program;
            result.in_flight_left = result.in_flight_left.saturating_add(quiet.left);
            result.held = result.held.max(Some(quiet.held).filter(|_| self.held_since.is_some()));
        }
        self.step(common, Event::Quiet { call, clean: quiet.left == 0 });
    }

    /// How many are held by now.
    pub(in super::super) fn held(&mut self, common: &mut Common, held: u64) {
        self.asked_held = self.asked_held.saturating_sub(1);
        let active = self.active.as_mut().map(|active| &mut active.ended);
        let ended = active.or(self.late.as_mut().map(|(ended, _)| ended.as_mut()));
        if let Some(ended) = ended {
            ended.program.held = ended.program.held.max(Some(held));
        }
        if self.asked_held == 0 {
            self.answer_late(common);
        }
    }

    /// What a start has to know was written, or not.
    pub(in super::super) fn saved(&mut self, common: &mut Common, call: CallKey, ok: bool) {
        self.step(common, Event::Saved { call, ok });
    }

    fn started(&mut self, common: &mut Common, copy: CopyKey, born: Result<Box<Born>, String>) {
        let teller = common.teller(&self.name);
        let Some(entry) = self.copies.get_mut(&copy) else { return };
        let number = entry.number;
        match born {
            Err(why) => {
                let wanted = entry.wanted;
                self.failed(common, copy, &format!("was not started: {why}"));
                self.copies.remove(&copy);
                self.step(common, Event::NotStarted { copy });
                if wanted == Wish::Kill {
                    self.step(common, Event::Gone { copy });
                }
            }
            Ok(born) => {
                let (pid, saved) = (born.copy.pid(), born.copy.save());
                tracing::info!(program = self.name, copy = number, pid, "{}/{number} was started", self.name);
                for warning in &born.warnings {
                    tracing::warn!(program = self.name, "{}: {warning}", self.name);
                }
                if let Some(active) = self.active.as_mut().filter(|active| active.copies.contains(&copy)) {
                    let known = &mut active.ended.warnings;
                    let warnings = born.warnings.iter().map(Problem::new);
                    let news: Vec<_> = warnings.filter(|warning| !known.contains(warning)).collect();
                    known.extend(news);
                }
                entry.run(copy, *born, &teller);
                let edition = self.editions.get(&entry.edition);
                match (entry.wanted, edition) {
                    (Wish::Kill, edition) => entry.kill(copy, edition, &teller),
                    (Wish::Stop, Some(edition)) => entry.stop(copy, edition, &teller),
                    _ => {}
                }
                common.save_copy(&self.name, copy, saved);
                self.step(common, Event::Started { copy });
            }
        }
    }

    fn proved(&mut self, common: &mut Common, copy: CopyKey, proof: Result<Proof, NotReady>) {
        let Some(entry) = self.copies.get_mut(&copy) else { return };
        match proof {
            Ok(proof) => {
                let (number, pid) = (entry.number, entry.pid());
                tracing::info!(
                    program = self.name,
                    copy = number,
                    pid,
                    "{}/{number} is ready: {}",
                    self.name,
                    proof.how
                );
                if let Some(active) = self.active.as_mut().filter(|active| active.copies.contains(&copy)) {
                    active.ended.program.proof = Some(proof.how.clone());
                }
                entry.proof = Some(proof);
                common.out.push(Out::KeepNow);
                self.ask_held(common);
                self.step(common, Event::Ready { copy });
            }
            Err(not_ready) => {
                self.failed(common, copy, &format!("was {not_ready}"));
                self.step(common, Event::NotReady { copy });
            }
        }
    }

    fn exited(&mut self, common: &mut Common, copy: CopyKey, exit: Exit, left: u32) {
        let Some(entry) = self.copies.get_mut(&copy) else { return };
        entry.exit = Some(exit);
        entry.end_check();
        let (asked, was_ready, number) = (entry.asked, entry.proof.is_some(), entry.number);
        if left > 0 {
            tracing::warn!(
                program = self.name,
                copy = number,
                "{}/{number} left processes behind ({left}): they are ended too",
                self.name
            );
            if let Some(active) = &mut self.active {
                let sum = &mut active.ended.program.left_processes;
                *sum = sum.saturating_add(left);
            }
        }
        if asked {
            tracing::info!(program = self.name, copy = number, "{}/{number} {exit}", self.name);
            // The first process was asked alone: it has not passed that on.
            let teller = common.teller(&self.name);
            let known = self.copies.get_mut(&copy).filter(|_| left > 0);
            if let Some(entry) = known
                && let Some(edition) = self.editions.get(&entry.edition)
            {
                entry.stop(copy, edition, &teller);
            }
        } else if was_ready {
            self.lost(common, copy, exit);
        } else {
            self.failed(common, copy, &ended_early(exit, left));
        }
        self.step(common, Event::Exited { copy, ok: exit == Exit::Code(0) });
    }

    fn gone(&mut self, common: &mut Common, copy: CopyKey) {
        if let Some(mut entry) = self.copies.remove(&copy) {
            entry.clear();
            if let (Some(born), Some(outputs)) = (&entry.born, common.outputs_if_any()) {
                outputs.finish(born.output);
            }
            if let (Some(accepted), Some(active)) = (entry.accepted, &mut self.active) {
                let sum = &mut active.ended.program.closed_by_program;
                *sum = Some(sum.unwrap_or(0).saturating_add(accepted));
            }
        }
        common.forget_copy(&self.name, copy);
        if common.board.drop_copy(&self.name, copy) {
            common.say_traffic(None);
        }
        self.step(common, Event::Gone { copy });
    }

    fn killed(&mut self, common: &mut Common, copy: CopyKey, killed: Killed, accepted: Option<u64>) {
        let Some(entry) = self.copies.get_mut(&copy) else { return };
        let name = format!("{}/{}", self.name, entry.number);
        match killed.killed {
            0 => {}
            1 => tracing::warn!(program = self.name, "1 process of {name} was killed"),
            n => tracing::warn!(program = self.name, "{n} processes of {name} were killed"),
        }
        match killed.left {
            0 => {}
            1 => tracing::error!(program = self.name, "1 process of {name} cannot be killed"),
            n => tracing::error!(program = self.name, "{n} processes of {name} cannot be killed"),
        }
        let cut = accepted.unwrap_or(0);
        entry.accepted = entry.accepted.map(|before| before.saturating_sub(cut));
        let is_new = self.active.as_ref().is_some_and(|active| active.copies.contains(&copy));
        if let Some(active) = &mut self.active {
            let sum = &mut active.ended.program.killed_processes;
            *sum = sum.saturating_add(killed.killed);
            if !is_new {
                active.ended.losses.add("program", cut);
            }
        } else {
            common.lost.add("program", cut);
        }
    }

    fn hooked(&mut self, common: &mut Common, operation: OperationKey, result: Result<Finished, Failed>) {
        let ok = result.is_ok();
        if let Some(active) = self.active.as_mut().filter(|active| active.inner == operation) {
            active.task = None;
            let said = match &result {
                Ok(finished) => Some(&finished.said),
                Err(Failed::Ended { said, .. } | Failed::TooLong { said, .. }) => Some(said),
                Err(Failed::NotStarted { .. }) => None,
            };
            let lines: Vec<&str> = said.map(|said| said.text.lines().collect()).unwrap_or_default();
            let first = lines.len().saturating_sub(LAST_LINES);
            if let Err(failed) = &result {
                active
                    .ended
                    .problems
                    .push(Problem::new(format!("the hook of {} failed: {failed}", self.name)));
                active.ended.program.last_lines =
                    lines.iter().skip(first).map(|line| (*line).to_owned()).collect();
            }
        }
        self.step(common, Event::HookDone { operation, ok });
    }

    /// A copy that served has ended, and nobody had asked it to.
    fn lost(&mut self, common: &Common, copy: CopyKey, exit: Exit) {
        let Some(entry) = self.copies.get(&copy) else { return };
        let sentence = format!("{}/{} {exit}", self.name, entry.number);
        tracing::warn!(program = self.name, copy = entry.number, "{sentence}, and nobody had asked it to");
        self.last_end = Some(LastEnd { sentence: sentence.clone(), exit: Some(exit) });
        self.settled = true;
        let is_new = self.active.as_ref().is_some_and(|active| active.copies.contains(&copy));
        if is_new || self.exam.as_ref().is_some_and(|exam| exam.copies.contains(&copy)) {
            self.note(common, copy, &format!("{exit} after it had been ready"));
        }
    }

    /// A copy was not started, did not get ready, or ended before it was.
    fn failed(&mut self, common: &Common, copy: CopyKey, how: &str) {
        let Some(entry) = self.copies.get(&copy) else { return };
        let sentence = format!("{}/{} {how}", self.name, entry.number);
        tracing::warn!(program = self.name, copy = entry.number, "{sentence}");
        self.last_end = Some(LastEnd { sentence, exit: entry.exit });
        self.settled = true;
        self.note(common, copy, how);
    }

    /// The operation, or the exam, that wanted this copy is told why it failed.
    fn note(&mut self, common: &Common, copy: CopyKey, how: &str) {
        let Some(entry) = self.copies.get(&copy) else { return };
        let process = entry.pid().map(|pid| format!(" (process {pid})")).unwrap_or_default();
        let sentence = format!("copy {} of {}{process} {how}", entry.number, self.name);
        let lines = match (&entry.born, common.outputs_if_any()) {
            (Some(born), Some(outputs)) => outputs.last_lines(born.output, LAST_LINES),
            _ => Vec::new(),
        };
        if let Some(active) = self.active.as_mut().filter(|active| active.copies.contains(&copy)) {
            let result = &mut active.ended.program;
            active.ended.problems.push(Problem::new(sentence.clone()));
            result.exit = entry.exit.map(|exit| exit.to_string()).or(result.exit.take());
            if !lines.is_empty() {
                result.last_lines.clone_from(&lines);
            }
            result.serves = ServesNow::Old;
        }
        if let Some(exam) = self.exam.as_mut().filter(|exam| exam.copies.contains(&copy)) {
            exam.problems.push(sentence);
            exam.last_lines = lines;
        }
    }
}

/// How a copy ended before it was ready. One that goes into the background leaves the work to processes that nobody can watch.
fn ended_early(exit: Exit, left: u32) -> String {
    let behind = match left {
        0 => return format!("{exit} before it was ready"),
        1 => "one process".to_owned(),
        more => format!("{more} processes"),
    };
    format!(
        "{exit} before it was ready; its first process left {behind} behind (ended too): run it in the foreground"
    )
}
