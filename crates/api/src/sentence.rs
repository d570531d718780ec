//! The one sentence that says how an operation went.

use crate::{Kind, Operation, Outcome, summarize_changes};

impl Operation {
    /// The one sentence that says how it went, the same for the command line, curl, the log and systemd.
    ///
    /// It begins with the outcome's word and a colon, except for an action, which answers in its own words.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Some(outcome) = self.outcome else { return self.running_sentence() };
        match outcome {
            Outcome::Applied => self.applied("applied"),
            Outcome::AppliedWithLosses => self.applied("applied with losses"),
            Outcome::Unchanged => self.unchanged(),
            Outcome::Rejected => self.failed("rejected"),
            Outcome::NotReady => self.failed("not ready"),
            Outcome::RolledBack => self.failed("rolled back"),
            Outcome::Unknown => format!(
                "unknown: nobody can say how {} {} ended{}; ask with 'handover status' what serves",
                self.title(),
                self.id,
                self.first_error().map(|e| format!(" ({e})")).unwrap_or_default(),
            ),
        }
    }

    /// `reload`, `dry run of reload`, `action reload_certs`.
    #[must_use]
    pub fn title(&self) -> String {
        let name = match self.kind {
            Kind::Start => "start",
            Kind::Reload if self.dry_run => "validation",
            Kind::Reload => "reload",
            Kind::Action => {
                return format!("action {}", self.action.as_deref().unwrap_or("?"));
            }
            Kind::Drain => "drain",
            Kind::Resume => "resume",
            Kind::Stop => "stop",
            Kind::Respawn => "respawn",
        };
        name.to_owned()
    }

    fn running_sentence(&self) -> String {
        format!("running: {} {}, asked for by {}", self.title(), self.id, self.actor)
    }

    fn applied(&self, word: &str) -> String {
        let took = human_ms(self.ms);
        let generation = self.serving_generation.or(self.generation).unwrap_or(0);
        match self.kind {
            Kind::Action => {
                self.answer.clone().unwrap_or_else(|| format!("{word}: {} in {took}", self.title()))
            }
            Kind::Reload if self.dry_run => format!(
                "valid: a reload would do this: {}; nothing was changed, generation {generation} serves",
                summarize_changes(&self.changes)
            ),
            Kind::Reload => format!(
                "{word}: generation {generation} serves, {}, {}, in {took}",
                summarize_changes(&self.changes),
                self.losses
            ),
            Kind::Start => format!("{word}: generation {generation} serves, started in {took}"),
            Kind::Respawn => format!("{word}: a new worker serves generation {generation}, in {took}"),
            Kind::Resume => format!("{word}: generation {generation} serves again, in {took}"),
            Kind::Drain => format!(
                "{word}: drained, {}, in {took}; the listeners are held, 'handover resume' serves again",
                self.losses
            ),
            Kind::Stop => format!("{word}: stopped, {}, in {took}", self.losses),
        }
    }

    fn unchanged(&self) -> String {
        let generation = self.serving_generation.or(self.generation).unwrap_or(0);
        match self.kind {
            Kind::Reload if self.dry_run => {
                format!(
                    "valid: a reload would change nothing, the files equal generation {generation}, which serves"
                )
            }
            Kind::Reload => format!(
                "unchanged: the files equal generation {generation}, which serves, in {}",
                human_ms(self.ms)
            ),
            Kind::Action => self.answer.clone().unwrap_or_else(|| "unchanged".to_owned()),
            _ => format!("unchanged: {} had nothing to do, generation {generation} serves", self.title()),
        }
    }

    fn failed(&self, word: &str) -> String {
        if self.kind == Kind::Action
            && let Some(answer) = &self.answer
        {
            return answer.clone();
        }
        let why = match self.errors.as_slice() {
            [] => format!("{} failed without a reason", self.title()),
            [only] => only.to_string(),
            [first, ..] => format!("{} mistakes, the first: {first}", self.errors.len()),
        };
        match self.serving_generation {
            Some(generation) => format!("{word}: {why}; generation {generation} still serves"),
            None => format!("{word}: {why}; nothing serves"),
        }
    }

    fn first_error(&self) -> Option<String> {
        self.errors.first().map(ToString::to_string)
    }

    /// The sentence, then every problem with its place and excerpt, then every warning: what a person reads.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = self.sentence();
        let told_already = matches!(self.errors.as_slice(), [only] if only.excerpt.is_none());
        if !told_already {
            for problem in &self.errors {
                text.push_str("\n\n");
                text.push_str(&problem.report());
            }
        }
        for warning in &self.warnings {
            text.push_str("\n\nwarning: ");
            text.push_str(&warning.report());
        }
        text
    }

    /// The HTTP status of this operation's answer (202 while it runs).
    #[must_use]
    pub fn http_status(&self) -> u16 {
        match self.outcome {
            None => 202,
            Some(Outcome::Applied | Outcome::Unchanged | Outcome::AppliedWithLosses) => 200,
            Some(Outcome::Rejected) if self.kind != Kind::Action => 422,
            Some(_) => 500,
        }
    }
}

/// A duration for people: `0.4 ms`, `3.1 ms`, `312 ms`, `4.2 s`, `3 min 5 s`.
#[must_use]
pub fn human_ms(ms: f64) -> String {
    let ms = if ms.is_finite() { ms.max(0.0) } else { 0.0 };
    if ms < 99.95 {
        format!("{ms:.1} ms")
    } else if ms < 9_999.5 {
        format!("{ms:.0} ms")
    } else if ms < 99_950.0 {
        format!("{:.1} s", ms / 1_000.0)
    } else {
        let seconds = (ms / 1_000.0).round();
        format!("{:.0} min {:.0} s", (seconds / 60.0).floor(), seconds % 60.0)
    }
}
