//! Status, history, differences and events as plain text, for people who ask with curl or the command line.

use std::fmt::Write as _;

use crate::{
    Diff, Event, Generation, Operation, OperationState, Phase, ProblemDetails, Status, human_ms, sentence,
};

impl Status {
    /// A few lines: the first says what serves.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = self.sentence();
        let mut line = |name: &str, value: &str| {
            let _ = write!(text, "\n  {name:<11} {value}");
        };
        line("config", self.config.as_deref().unwrap_or("built in"));
        for listener in &self.listeners {
            let inherited = if listener.inherited { ", inherited" } else { "" };
            line("listener", &format!("{} ({}{inherited})", listener.address, listener.name));
        }
        if let Some(connections) = self.connections {
            line("connections", &connections.to_string());
        }
        line("supervisor", &format!("pid {}, version {}, since {}", self.pid, self.version, self.started_at));
        if let Some(worker) = &self.worker {
            let respawns = match self.respawns {
                0 => String::new(),
                1 => ", replaced once".to_owned(),
                n => format!(", replaced {n} times"),
            };
            line("worker", &format!("pid {}, since {}{respawns}", worker.pid, worker.started_at));
        }
        line("control", &self.control);
        if !self.actions.is_empty() {
            line("actions", &self.actions.join(", "));
        }
        if let Some(running) = &self.running {
            line("running", &running.message);
        }
        if let Some(last) = &self.last {
            line("last", &format!("{} by {}: {}", last.title(), last.actor, last.message));
        }
        if !self.drift.is_empty() {
            line("drift", &format!("{} differs on disk: see 'handover diff'", self.drift.join(", ")));
        }
        if let Some(failure) = &self.journal.failure {
            line("journal", failure);
        }
        text
    }

    /// `serving generation 2 since …`.
    #[must_use]
    pub fn sentence(&self) -> String {
        let phase = match self.phase {
            Phase::New | Phase::Starting => "starting",
            Phase::Serving if self.worker.is_none() => "the worker is being replaced, connections wait",
            Phase::Serving => "serving",
            Phase::Draining => "draining",
            Phase::Drained => "drained, connections wait for 'handover resume'",
            Phase::Stopping | Phase::Stopped => "stopping",
        };
        match &self.generation {
            Some(generation) => {
                format!(
                    "{}: {phase}; generation {} since {}",
                    self.name, generation.number, generation.committed_at
                )
            }
            None => format!("{}: {phase}; no generation yet", self.name),
        }
    }
}

impl Operation {
    /// One line of a history: when, who, what, outcome, how long, and the sentence or the comment.
    #[must_use]
    pub fn history_line(&self) -> String {
        let comment = self.comment.as_ref().map(|comment| format!("  # {comment}")).unwrap_or_default();
        format!(
            "{}  {:<12}  {:<19}  {:>9}  {}{comment}  [{}]",
            self.started_at,
            self.title(),
            self.result_word(),
            human_ms(self.ms),
            self.actor,
            self.id,
        )
    }

    /// `applied`, `running`, `refused (busy)`.
    #[must_use]
    pub fn result_word(&self) -> String {
        match (self.state, self.outcome, &self.refused) {
            (_, _, Some(word)) => format!("refused ({word})"),
            (OperationState::Running, _, _) | (_, None, _) => "running".to_owned(),
            (_, Some(outcome), _) => outcome.as_str().replace('_', " "),
        }
    }

    /// Everything about one operation: the report, then who, when, why and what took how long.
    #[must_use]
    pub fn full_report(&self) -> String {
        let mut text = self.report();
        let mut line = |name: &str, value: &str| {
            let _ = write!(text, "\n  {name:<9} {value}");
        };
        line("operation", &format!("{} ({})", self.id, self.title()));
        line("by", &self.actor.to_string());
        line("at", &self.started_at);
        if let Some(comment) = &self.comment {
            line("comment", comment);
        }
        for change in &self.changes {
            line("change", &change.line());
        }
        if self.left_out > 0 {
            line("", &format!("and {} more that the journal left out", self.left_out));
        }
        let steps: Vec<String> =
            self.steps.iter().map(|step| format!("{} {}", step.name, human_ms(step.ms))).collect();
        if !steps.is_empty() {
            line("steps", &steps.join(", "));
        }
        text
    }
}

impl ProblemDetails {
    /// What a person reads instead of the JSON.
    #[must_use]
    pub fn report(&self) -> String {
        match &self.operation {
            Some(operation) if operation.refused.is_none() => operation.report(),
            _ => sentence::report(&self.detail, &self.errors, &[]),
        }
    }
}

impl Generation {
    /// One line: number, when, by which operation, how many files.
    #[must_use]
    pub fn line(&self) -> String {
        let serving = if self.serving { "  serves" } else { "" };
        let operation = self.operation_id.as_ref().map(|id| format!("  [{id}]")).unwrap_or_default();
        let changes = crate::summarize_changes(&self.changes);
        format!("{:>6}  {}  {changes}{operation}{serving}", self.number, self.committed_at)
    }

    /// The line, then every file with its length and hash.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = self.line();
        for file in &self.files {
            let _ = write!(text, "\n  {}  {} bytes  {}", file.blake3, file.bytes, file.path);
        }
        for change in &self.changes {
            let _ = write!(text, "\n  {}", change.line());
        }
        text
    }
}

impl Diff {
    /// A sentence if nothing differs, else the unified differences.
    #[must_use]
    pub fn report(&self) -> String {
        let serves =
            self.serving_generation.map_or_else(|| "what serves".to_owned(), |g| format!("generation {g}"));
        if self.same {
            return format!("same: the files on disk equal {serves}");
        }
        let names: Vec<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        let mut text = format!("differs from {serves}: {}", names.join(", "));
        for file in &self.files {
            let _ = write!(text, "\n\n{}", file.diff.trim_end());
        }
        text
    }
}

impl Event {
    /// One line.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{}  {}", self.at, self.message)
    }
}
