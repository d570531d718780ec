//! Status, history, differences and events as plain text, for people who ask with curl or the command line.

use std::fmt::Write as _;

use crate::{
    Binary, Certificate, Diff, Event, EventKind, Generation, Operation, OperationState, Phase,
    ProblemDetails, Status, WorkerRole, human_ms, sentence,
};

impl Status {
    /// A few lines: the first says what serves.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = self.sentence();
        let mut line = |name: &str, value: &str| {
            let _ = write!(text, "\n  {name:<11} {value}");
        };
        if let Some(pending) = &self.pending {
            line("pending", &pending.sentence());
        }
        if let Some(generation) = self.rollback_in_force {
            line("rollback", &in_force(generation));
        }
        line("config", self.config.as_deref().unwrap_or("built in"));
        if let Some(version) = &self.source_version {
            line("version", version);
        }
        for listener in &self.listeners {
            let inherited = if listener.inherited { ", inherited" } else { "" };
            line("listener", &format!("{} ({}{inherited})", listener.address, listener.name));
        }
        if let Some(connections) = self.connections {
            line("connections", &connections.to_string());
        }
        for (name, process) in self.processes() {
            line(name, &process);
        }
        for (name, what) in self.programs_in_lines() {
            line(name, &what);
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
        let now = jiff::Timestamp::now();
        for certificate in &self.expiring {
            let day = crate::certificate::day(&certificate.not_after);
            let what = match certificate.left(now).as_str() {
                "over" => format!("{}: it expired on {day}", certificate.name()),
                left => format!("{}: it expires on {day}, in {left}", certificate.name()),
            };
            line("certificate", &what);
        }
        if !self.drift.is_empty() && self.rollback_in_force.is_none() {
            let differ = if self.drift.len() == 1 { "differs" } else { "differ" };
            line(
                "drift",
                &format!("{} {differ} from what serves: see 'handover diff'", self.drift.join(", ")),
            );
        }
        if let Some(failure) = &self.journal.failure {
            line("journal", failure);
        }
        text
    }

    /// The supervisor, the workers, and the binary that one could go back to.
    fn processes(&self) -> Vec<(&'static str, String)> {
        let runs = |version: &str, sha256: Option<&String>| {
            let sha256 = sha256.cloned();
            Binary { version: Some(version.to_owned()), sha256, path: String::new() }.to_string()
        };
        let sha256 = self.binary.as_ref().and_then(|binary| binary.sha256.as_ref());
        let binary = runs(&self.version, sha256);
        let supervisor = format!("pid {}, version {binary}, since {}", self.pid, self.started_at);
        let mut processes = vec![("supervisor", supervisor)];
        let workers = if self.workers.is_empty() { self.worker.as_slice() } else { &self.workers };
        for worker in workers {
            let own = runs(&worker.version, worker.sha256.as_ref());
            let version = if own == binary { String::new() } else { format!(", version {own}") };
            let more = match (worker.role, self.respawns) {
                (WorkerRole::Serving, 0) => String::new(),
                (WorkerRole::Serving, 1) => ", replaced once".to_owned(),
                (WorkerRole::Serving, n) => format!(", replaced {n} times"),
                (WorkerRole::Candidate, _) => ", a candidate".to_owned(),
                (WorkerRole::Draining, _) => ", draining".to_owned(),
                (WorkerRole::Warm, _) => ", kept warm until the upgrade is confirmed".to_owned(),
            };
            let worker = format!("pid {}{version}, since {}{more}", worker.pid, worker.started_at);
            processes.push(("worker", worker));
        }
        // While an upgrade awaits confirmation, going back is another way; to what serves already, it is none.
        let serves = workers.iter().find_map(|worker| worker.sha256.as_ref());
        let differs = |previous: &&Binary| previous.sha256.as_ref() != serves;
        if let Some(previous) = self.previous_binary.as_ref().filter(differs)
            && self.pending.as_ref().is_none_or(|pending| pending.upgrade.is_none())
        {
            let previous = format!("{previous} is kept: 'handover rollback --binary' goes back to it");
            processes.push(("previous", previous));
        }
        processes
    }

    /// Programs with their copies, and what is paused or switched off of everything else.
    fn programs_in_lines(&self) -> Vec<(&'static str, String)> {
        let now = jiff::Timestamp::now();
        let mut lines = Vec::new();
        for program in &self.programs {
            lines.push(("program", program.line()));
            lines.extend(program.details(now).into_iter().map(|detail| ("", format!("  {detail}"))));
        }
        let of_program = |paused: &&crate::PauseStatus| {
            let mut shown = self.programs.iter().filter_map(|program| program.paused.as_ref());
            shown.any(|shown| shown.target == paused.target)
        };
        for paused in self.paused.iter().filter(|paused| !of_program(paused)) {
            lines.push(("paused", paused.sentence()));
        }
        if !self.endpoints_off.is_empty() {
            let off = self.endpoints_off.join(", ");
            lines.push(("off", format!("{off}: nothing new until 'handover enable ENDPOINT'")));
        }
        lines
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

fn in_force(generation: u64) -> String {
    format!(
        "generation {generation} serves (gone back to, or restored), and the files on disk differ: the next reload serves the files, and so does the next start unless nobody confirmed them in time"
    )
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
        if let Some(source) = &self.source {
            line("source", source);
        }
        if let Some(guard) = &self.guard {
            line("guard", guard);
        }
        if let Some((from, to)) =
            self.program.as_ref().and_then(|program| program.from.as_ref().zip(program.to.as_ref()))
        {
            line("from", from);
            line("to", to);
        }
        if let Some(upgrade) = &self.upgrade {
            line("from", &upgrade.from.in_full());
            line("to", &upgrade.to.in_full());
        }
        for change in &self.changes {
            line("change", &change.line());
        }
        if self.left_out > 0 {
            line("", &format!("and {} more that the journal left out", self.left_out));
        }
        let steps = self.steps_in_words();
        let steps: Vec<String> = steps.iter().map(|(step, ms)| format!("{step} {}", human_ms(*ms))).collect();
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
        let serving = match (self.serving, self.forgotten) {
            (true, _) => "  serves",
            (false, true) => "  (files no longer kept)",
            (false, false) => "",
        };
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
    /// A sentence; then what would be served differently; then the unified differences of the files.
    #[must_use]
    pub fn report(&self) -> String {
        let serves = match self.serving_generation {
            Some(generation) => format!("generation {generation}, which serves"),
            None => "what serves".to_owned(),
        };
        let other = match self.against {
            Some(generation) => format!("generation {generation}"),
            None => "the files on disk".to_owned(),
        };
        let equal = if self.against.is_some() { "equals" } else { "equal" };
        let mut text = if self.same {
            format!("same: {other} {equal} {serves}")
        } else {
            let differ = if self.against.is_some() { "differs" } else { "differ" };
            format!("differs: {other} {differ} from {serves}")
        };
        if let Some(generation) = self.rollback_in_force {
            let _ = write!(text, "\n{}", in_force(generation));
        }
        if !self.same {
            let how = if self.against.is_some() { "a rollback to it" } else { "a reload" };
            text.push_str(&self.consequences(how));
        }
        // What was so before needs no telling when nothing differs.
        for warning in self.warnings.iter().filter(|_| !self.same) {
            let _ = write!(text, "\nwarning: {warning}");
        }
        for file in &self.files {
            // A difference of lines has the path in its head.
            let path = if file.diff.starts_with("--- ") { String::new() } else { format!("{}: ", file.path) };
            let _ = write!(text, "\n\n{path}{}", file.diff.trim_end());
        }
        text
    }
}

impl Diff {
    /// What `how` would do, line by line.
    fn consequences(&self, how: &str) -> String {
        let mut text = String::new();
        if !self.errors.is_empty() {
            let _ = write!(text, "\n{how} would be refused:");
            for error in &self.errors {
                let _ = write!(text, "\n  {error}");
            }
        } else if self.changes.is_empty() {
            let _ = write!(text, "\n{how} would change nothing but the text");
        } else {
            let _ = write!(text, "\n{how} would change:");
            for change in &self.changes {
                let _ = write!(text, "\n  {}", change.line());
            }
        }
        text
    }
}

impl Event {
    /// One line. Of a step it says which.
    #[must_use]
    pub fn line(&self) -> String {
        match self.step() {
            Some((operation, step)) => format!("{}  {} {}: {step}", self.at, operation.title(), operation.id),
            None => format!("{}  {}", self.at, self.message),
        }
    }

    /// The step that it tells of, in the user's word for it: of several that have one word, each is told.
    #[must_use]
    pub fn step(&self) -> Option<(&Operation, String)> {
        let operation = self.operation.as_ref().filter(|_| self.kind == EventKind::OperationStep)?;
        Some((operation, operation.steps_in_words().pop()?.0))
    }
}

impl Certificate {
    /// One line: for whom, until when, what kind of key, from whom, and where.
    #[must_use]
    pub fn line(&self, now: jiff::Timestamp) -> String {
        let mut line = format!(
            "{}  not after {} ({})  {}  issuer {}",
            self.names.join(" "),
            crate::certificate::day(&self.not_after),
            self.left(now),
            self.key_type,
            self.issuer
        );
        for (what, names) in [("listeners", &self.listeners), ("services", &self.services)] {
            if !names.is_empty() {
                let _ = write!(line, "  {what}: {}", names.join(", "));
            }
        }
        line
    }
}
