//! The one sentence that says how an operation went.

use std::time::Duration;

use crate::pending::clock;
use crate::{Cause, Kind, Operation, Outcome, Problem, summarize_changes};

impl Operation {
    /// The one sentence that says how it went, the same for the command line, curl, the log and systemd.
    ///
    /// It begins with the outcome's word and a colon, except for an action, which answers in its own words.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Some(outcome) = self.outcome else { return self.running_sentence() };
        if let Some(upgrade) = self.upgrade.as_ref().filter(|_| self.refused.is_none())
            && let Some(sentence) = self.upgrade_sentence(upgrade, outcome)
        {
            return sentence;
        }
        if self.kind.is_carried() && self.refused.is_none() {
            return self.program_sentence(outcome);
        }
        match outcome {
            Outcome::Applied => self.applied("applied"),
            Outcome::AppliedWithLosses => self.applied("applied with losses"),
            Outcome::Unchanged => self.unchanged(),
            Outcome::Rejected if self.refused.is_some() => self.why(),
            Outcome::Rejected => self.failed("rejected"),
            Outcome::NotReady => self.failed("not ready"),
            Outcome::Sent => self.program_sentence(outcome),
            Outcome::RolledBack => self.rolled_back(),
            Outcome::Unknown => format!(
                "unknown: {}, so nobody can say how {} {} ended; 'handover status' says what serves",
                self.why(),
                self.title(),
                self.id,
            ),
        }
    }

    /// `reload`, `validation`, `action reload_certs`.
    #[must_use]
    pub fn title(&self) -> String {
        match (self.kind, &self.action) {
            (Kind::Action, Some(name)) => format!("action {name}"),
            (Kind::DryRun, _) => "validation".to_owned(),
            (kind, _) if kind.is_carried() => self.program_title(),
            (kind, _) => kind.as_str().to_owned(),
        }
    }

    fn running_sentence(&self) -> String {
        format!("running: {} {}, asked for by {}", self.title(), self.id, self.actor)
    }

    fn applied(&self, word: &str) -> String {
        let took = human_ms(self.ms);
        let serves = self.serving();
        match self.kind {
            Kind::Action => {
                self.answer.clone().unwrap_or_else(|| format!("{word}: {} in {took}", self.title()))
            }
            Kind::Start if self.cause == Some(Cause::Adopted) => {
                let back = self.unless_confirmed();
                format!("{word}: adopted the worker that was running, {serves}, in {took}{back}")
            }
            Kind::Start if self.cause == Some(Cause::Unreachable) => format!(
                "{word}: {serves}, the last good one, because the store that has the configuration cannot be reached; started in {took}"
            ),
            Kind::Start => {
                format!("{word}: {serves}{}, started in {took}{}", self.out_of(), self.unless_confirmed())
            }
            Kind::Reload | Kind::Restore | Kind::DryRun => format!(
                "{word}: {serves}{}, {}{}",
                self.out_of(),
                self.what_changed(),
                self.unless_confirmed()
            ),
            Kind::Rollback => format!(
                "{word}: {serves} again, {}{}; the files on disk stay as they are, and the next reload or start serves them",
                self.what_changed(),
                self.unless_confirmed()
            ),
            Kind::Upgrade => format!("{word}: upgraded, {serves}, {}, in {took}", self.losses),
            Kind::Confirm => {
                format!("{word}: generation {} is confirmed and stays, in {took}", self.confirmed())
            }
            Kind::Cancel => match self.undone {
                Some(undone) => {
                    format!(
                        "{word}: generation {undone} was taken back, {serves} again, {}, in {took}",
                        self.losses
                    )
                }
                None => format!("{word}: {serves} again, {}, in {took}", self.losses),
            },
            Kind::Resume => format!("{word}: {serves} again, in {took}"),
            Kind::Drain => format!(
                "{word}: drained, {}, in {took}; new connections wait, 'handover resume' serves them",
                self.losses
            ),
            Kind::Stop => format!("{word}: stopped, {}, in {took}", self.losses),
            // What is about programs has sentences of its own.
            _ => format!("{word}: {} in {took}", self.title()),
        }
    }

    /// `1 route changed (hello), no connection cut, the guard is content, in 3.1 ms`.
    fn what_changed(&self) -> String {
        let guard = if self.guard.is_some() { ", the guard saw nothing worse" } else { "" };
        format!("{}, {}{guard}, in {}", summarize_changes(&self.changes), self.losses, human_ms(self.ms))
    }

    /// ` from etcd revision 42`; nothing for files on disk.
    fn out_of(&self) -> String {
        self.source.as_ref().map(|source| format!(" from {source}")).unwrap_or_default()
    }

    /// `; it goes back to generation 4 at 12:10:03 UTC (in 10 min) unless 'handover confirm' comes`, if that is so.
    fn unless_confirmed(&self) -> String {
        let Some(back) = &self.goes_back else { return String::new() };
        format!(
            "; it goes back to generation {} at {} (in {}) unless 'handover confirm' comes",
            back.to,
            clock(&back.at),
            human_time(Duration::from_millis(back.within_ms)),
        )
    }

    /// The number of the generation that a confirm keeps.
    fn confirmed(&self) -> String {
        let number = self.generation.or(self.serving_generation);
        number.map_or_else(|| "that serves".to_owned(), |number| number.to_string())
    }

    fn unchanged(&self) -> String {
        let serves = self.serving();
        let what = match self.kind {
            Kind::DryRun => {
                let how = match &self.source {
                    Some(source) => format!("restoring {source}"),
                    None => "a reload".to_owned(),
                };
                if self.changes.is_empty() {
                    return format!("valid: {how} would change nothing; {serves}");
                }
                let changes = summarize_changes(&self.changes);
                return format!("valid: {how} would make this of it: {changes}; {serves}");
            }
            Kind::Reload => match self.out_of() {
                source if source.is_empty() => "what is on disk serves already",
                _ => "what is in the store serves already",
            },
            Kind::Rollback => "that generation serves already",
            Kind::Restore => "what the backup holds serves already",
            Kind::Action => {
                return self.answer.clone().unwrap_or_else(|| format!("unchanged: {}", self.title()));
            }
            Kind::Drain => return "unchanged: drained already; 'handover resume' serves again".to_owned(),
            Kind::Start if self.cause == Some(Cause::Adopted) => {
                let (took, back) = (human_ms(self.ms), self.unless_confirmed());
                return format!("unchanged: adopted the worker that was running, {serves}, in {took}{back}");
            }
            Kind::Resume => return format!("unchanged: nothing is drained or paused; {serves}"),
            _ => return format!("unchanged: {} had nothing to do; {serves}", self.title()),
        };
        format!("unchanged: {what}; {serves}, in {}{}", human_ms(self.ms), self.unless_confirmed())
    }

    /// What was begun and undone. What serves then is said by who knows it: it serves again, or still.
    fn rolled_back(&self) -> String {
        let generation =
            self.undone.or(self.generation.filter(|made| Some(*made) != self.serving_generation));
        let subject =
            generation.map_or_else(|| "the change".to_owned(), |number| format!("generation {number}"));
        let what = match self.cause {
            Some(Cause::NotConfirmed) => format!("{subject} was not confirmed in time"),
            Some(Cause::Cancelled) => format!("{subject} was cancelled"),
            Some(Cause::GuardFailed) if self.errors.is_empty() => {
                format!("{subject} fared worse than the guard allows")
            }
            Some(Cause::GuardFailed) => {
                format!("{subject} fared worse than the guard allows: {}", self.why())
            }
            _ => return self.failed("rolled back"),
        };
        let took = human_ms(self.ms);
        match (self.serving_generation, self.kind) {
            (None, _) => format!("rolled back: {what}; nothing serves"),
            (Some(number), Kind::Start) => format!(
                "rolled back: {what}, so generation {number} was started, in {took}; the files on disk are still those of {subject}, and the next reload serves them"
            ),
            (Some(number), _) => format!("rolled back: {what}; generation {number} serves again, in {took}"),
        }
    }

    fn failed(&self, word: &str) -> String {
        if let (Kind::Action, None, Some(answer)) = (self.kind, &self.refused, &self.answer) {
            return answer.clone();
        }
        let then = match self.cause {
            Some(Cause::Pending) => "; 'handover confirm' keeps it, 'handover cancel' goes back",
            _ => "",
        };
        match self.serving_generation {
            Some(generation) => format!("{word}: {}; generation {generation} still serves{then}", self.why()),
            None => format!("{word}: {}; nothing serves", self.why()),
        }
    }

    /// The first mistake and how many there are, or else the cause.
    pub(crate) fn why(&self) -> String {
        match self.errors.as_slice() {
            [] => self.cause.map_or_else(|| "no reason is known".to_owned(), |cause| cause.to_string()),
            [only] => only.to_string(),
            [first, ..] => format!("{} mistakes, the first: {first}", self.errors.len()),
        }
    }

    fn serving(&self) -> String {
        match self.serving_generation {
            Some(generation) => format!("generation {generation} serves"),
            None => "nothing serves".to_owned(),
        }
    }

    /// The sentence, then every problem with its place and excerpt, then every warning, then the last lines of a new
    /// binary or of a program that failed: what a person reads.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = report(&self.message, &self.errors, &self.warnings);
        if let Some(lines) = self.upgrade.as_ref().and_then(|upgrade| upgrade.last_words()) {
            text.push_str("\n\n");
            text.push_str(&lines);
        }
        if let Some(lines) = self.program_words() {
            text.push_str("\n\n");
            text.push_str(&lines);
        }
        text
    }

    /// The HTTP status of this operation's answer (202 while it runs).
    #[must_use]
    pub fn http_status(&self) -> u16 {
        match self.outcome {
            None => 202,
            Some(Outcome::Applied | Outcome::Unchanged | Outcome::AppliedWithLosses | Outcome::Sent) => 200,
            Some(Outcome::Rejected) if self.is_untimely() => 409,
            Some(Outcome::Rejected) if self.kind != Kind::Action => 422,
            Some(_) => 500,
        }
    }

    /// Whether it was rejected only because of when it came: a change awaits confirmation, or no deploy of this program
    /// does that was to be confirmed or cancelled.
    pub(crate) fn is_untimely(&self) -> bool {
        let ends_one = matches!(self.kind, Kind::ProgramConfirm | Kind::ProgramCancel);
        self.outcome == Some(Outcome::Rejected)
            && (self.cause == Some(Cause::Pending) || (ends_one && self.cause == Some(Cause::Unfit)))
    }
}

/// A sentence, then every problem and every warning under it. A single problem without an excerpt is in the
/// sentence already.
pub(crate) fn report(sentence: &str, errors: &[Problem], warnings: &[Problem]) -> String {
    let mut text = sentence.to_owned();
    let told_already = matches!(errors, [only] if only.excerpt.is_none());
    if !told_already {
        for problem in errors {
            text.push_str("\n\n");
            text.push_str(&problem.report());
        }
    }
    for warning in warnings {
        text.push_str("\n\nwarning: ");
        text.push_str(&warning.report());
    }
    text
}

/// A time to wait, for people: `0 s`, `42 s`, `9 min 30 s`, `10 min`, `1 h 5 min`. Seconds are rounded up, so that what
/// is left never reads as nothing.
#[must_use]
pub fn human_time(time: Duration) -> String {
    let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes, rest) {
        (0, 0, s) => format!("{s} s"),
        (0, m, 0) => format!("{m} min"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, 0, _) => format!("{h} h"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// A duration for people: `0.4 ms`, `3.1 ms`, `312 ms`, `1.23 s`, `12.3 s`, `3 min 5 s`.
#[must_use]
pub fn human_ms(ms: f64) -> String {
    let ms = if ms.is_finite() { ms.max(0.0) } else { 0.0 };
    if ms < 99.95 {
        format!("{ms:.1} ms")
    } else if ms < 999.5 {
        format!("{ms:.0} ms")
    } else if ms < 9_995.0 {
        format!("{:.2} s", ms / 1_000.0)
    } else if ms < 99_950.0 {
        format!("{:.1} s", ms / 1_000.0)
    } else {
        let seconds = (ms / 1_000.0).round();
        format!("{:.0} min {:.0} s", (seconds / 60.0).floor(), seconds % 60.0)
    }
}
