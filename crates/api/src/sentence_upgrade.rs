//! The sentences about upgrades: what came of one, of its confirmation, and of taking it back.
//!
//! ```text
//!   upgrade ──┬─ applied       upgraded from A to B …; what moved, drained, was cut; how long all stood still
//!             ├─ rejected      which rule; A still serves
//!             ├─ not ready     in which step, and why; A still serves      (+ the new binary's last lines)
//!             └─ rolled back   why; A serves again
//!   confirm, cancel, the supervisor's own rollback: the same record, and what became of it
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::pending::clock;
use crate::{Cause, Kind, Losses, Operation, Outcome, Step, Upgrade, human_ms, human_time};

/// Steps in which nothing fails any more: what went wrong was before.
const AFTERMATH: [&str; 4] = ["record", "stop_worker", "settle", "go_back"];

/// What follows when an upgrade cannot be taken back.
const STAYS: &str = ", and stays, with nothing that awaits confirmation: upgrade to a binary that works ('handover upgrade --binary PATH')";

impl Step {
    /// What a step of an upgrade is called: those that only the machine tells apart have one name.
    #[must_use]
    pub fn word(&self) -> String {
        match self.name.as_str() {
            "start_worker" => "start".to_owned(),
            "bind" => "prepare".to_owned(),
            "probe" => "ready".to_owned(),
            // The new worker publishes what it has prepared, and accepts nothing yet.
            "commit" => "prepare".to_owned(),
            "journal" => "commit".to_owned(),
            "hand_over" => "moving connections".to_owned(),
            "stop_worker" => "stop".to_owned(),
            "go_back" => "going back".to_owned(),
            name => name.replace('_', " "),
        }
    }
}

impl Operation {
    /// The step that it had come to: what followed only cleaned up and wrote it down.
    #[must_use]
    pub fn furthest_step(&self) -> Option<&Step> {
        self.steps.iter().rev().find(|step| !AFTERMATH.contains(&step.name.as_str()))
    }

    /// The steps and how long they took, in milliseconds, as people call them: of an upgrade, those that only the machine
    /// tells apart count as one.
    #[must_use]
    pub fn steps_in_words(&self) -> Vec<(String, f64)> {
        let mut steps: Vec<(String, f64)> = Vec::new();
        let is_upgrade = self.upgrade.is_some();
        let mut has_moved = self.kind == Kind::Confirm;
        for step in &self.steps {
            has_moved |= step.name == "hand_over";
            let word = match step.name.as_str() {
                _ if self.kind.is_carried() => step.program_word(),
                name if !is_upgrade => name.to_owned(),
                // The end of the old worker belongs to its drain.
                "stop_worker" if has_moved => "drain".to_owned(),
                _ => step.word(),
            };
            match steps.last_mut() {
                Some((last, ms)) if is_upgrade && *last == word => *ms += step.ms,
                _ => steps.push((word, step.ms)),
            }
        }
        steps
    }

    /// The sentence of an operation that upgrades, or keeps an upgrade, or takes one back; none for what is said as of any
    /// other operation.
    pub(crate) fn upgrade_sentence(&self, upgrade: &Upgrade, outcome: Outcome) -> Option<String> {
        let Upgrade { from, to, .. } = upgrade;
        Some(match outcome {
            Outcome::Applied => self.upgraded("applied", upgrade),
            Outcome::AppliedWithLosses => self.upgraded("applied with losses", upgrade),
            Outcome::Unchanged if self.kind == Kind::DryRun => format!(
                "valid: {to}{} could take over from {from}: it may be run, it can serve what serves, and it understands the supervisor's state; nothing was touched, in {}",
                if upgrade.is_same() { ", the same binary," } else { "" },
                human_ms(self.ms)
            ),
            Outcome::Rejected => format!("rejected: {}; {}", self.why(), self.still(upgrade)),
            Outcome::NotReady => {
                let (why, still) = (self.why_not_ready(upgrade), self.still(upgrade));
                // Whoever takes over after a supervisor has died goes on with it.
                let over = is_the_way_back(self.kind) && self.cause != Some(Cause::SupervisorDied);
                format!("not ready: {why}; {still}{}", if over { STAYS } else { "" })
            }
            Outcome::RolledBack => self.upgrade_rolled_back(upgrade),
            Outcome::Unchanged | Outcome::Sent | Outcome::Unknown => return None,
        })
    }

    fn upgraded(&self, word: &str, upgrade: &Upgrade) -> String {
        let Upgrade { from, to, .. } = upgrade;
        let stays = self.cause == Some(Cause::NotTakenBack);
        let lost = self.outcome == Some(Outcome::AppliedWithLosses) && !stays;
        let uncounted = lost && self.losses.is_empty();
        let (took, along) = (human_ms(self.ms), upgrade.along(&self.losses, uncounted));
        let end = format!("{}{}", self.supervisor_stays(upgrade), self.unless_upgrade_is_confirmed(upgrade));
        let guard = if stays { self.not_taken_back(upgrade) } else { self.guard_saw().to_owned() };
        match self.kind {
            Kind::Confirm => format!(
                "{word}: the upgrade from {from} to {to} is confirmed and stays, {}, in {took}{end}",
                self.losses
            ),
            Kind::Cancel | Kind::Rollback => format!(
                "{word}: the upgrade to {from} was taken back and {to} serves again, in {took}; {along}{end}"
            ),
            _ if upgrade.is_same() => format!(
                "{word}: {to} serves with a new worker, the same binary as before, in {took}; {along}{guard}{end}"
            ),
            _ => format!("{word}: upgraded from {from} to {to} in {took}; {along}{guard}{end}"),
        }
    }

    /// What went wrong: with the file itself, or in which step.
    fn why_not_ready(&self, upgrade: &Upgrade) -> String {
        let why = self.why();
        // A client may have shortened the path in its own directory.
        let is_it = |file: &String| {
            upgrade
                .to
                .path
                .strip_suffix(file.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
        };
        if self.errors.iter().filter_map(|error| error.file.as_ref()).any(is_it) {
            return why;
        }
        let what = if is_the_way_back(self.kind) { "going back" } else { "the upgrade" };
        match self.furthest_step() {
            Some(step) => format!("{what} to {} failed in the step '{}': {why}", upgrade.to, step.word()),
            None => format!("{what} to {} failed: {why}", upgrade.to),
        }
    }

    fn upgrade_rolled_back(&self, upgrade: &Upgrade) -> String {
        let Upgrade { from, to, .. } = upgrade;
        // What takes an upgrade back goes the other way.
        let (new, old) = if is_the_way_back(self.kind) { (from, to) } else { (to, from) };
        let why = match self.cause {
            Some(Cause::NotConfirmed) => "was not confirmed in time".to_owned(),
            Some(Cause::Cancelled) => "was cancelled".to_owned(),
            Some(Cause::GuardFailed) if self.errors.is_empty() => {
                "fared worse than the guard allows".to_owned()
            }
            Some(Cause::GuardFailed) => format!("fared worse than the guard allows: {}", self.why()),
            _ => format!("was taken back: {}", self.why()),
        };
        let along = match upgrade.total_moved() {
            0 => self.losses.to_string(),
            _ => upgrade.along(&self.losses, false),
        };
        let serves = if self.serving_generation.is_some() {
            format!("{old} serves again")
        } else {
            "nothing serves".to_owned()
        };
        format!("rolled back: the upgrade to {new} {why}; {serves}, in {}; {along}", human_ms(self.ms))
    }

    /// `0.1.0 (sha256 1a2b3c4d5e6f) still serves generation 4`.
    fn still(&self, upgrade: &Upgrade) -> String {
        match self.serving_generation {
            Some(generation) => format!("{} still serves generation {generation}", upgrade.from),
            None => "nothing serves".to_owned(),
        }
    }

    /// `; but the supervisor could not become it, and goes on as it was`, if that is so. Why is a warning.
    fn supervisor_stays(&self, upgrade: &Upgrade) -> &'static str {
        if upgrade.supervisor_stays.is_some() || self.cause == Some(Cause::NotReexecuted) {
            "; but the supervisor could not become it, and goes on as it was"
        } else {
            ""
        }
    }

    /// An upgrade that should not have stayed.
    fn not_taken_back(&self, upgrade: &Upgrade) -> String {
        let Upgrade { from, .. } = upgrade;
        format!(
            "; it was to be taken back, but {from} could not be made to serve ({}): the new one serves on{STAYS}",
            self.why()
        )
    }

    fn guard_saw(&self) -> &'static str {
        if self.guard.is_some() { "; the guard saw nothing worse" } else { "" }
    }

    fn unless_upgrade_is_confirmed(&self, upgrade: &Upgrade) -> String {
        let Some(back) = &self.goes_back else { return String::new() };
        format!(
            "; it goes back to {} at {} (in {}) unless 'handover confirm' comes",
            upgrade.from,
            clock(&back.at),
            human_time(Duration::from_millis(back.within_ms)),
        )
    }
}

/// Whether an operation of this kind takes an upgrade back, so that its record goes from the new binary to the old one.
fn is_the_way_back(kind: Kind) -> bool {
    matches!(kind, Kind::Rollback | Kind::Cancel)
}

impl Upgrade {
    /// Whether it is to the very binary that served before.
    fn is_same(&self) -> bool {
        self.from.sha256.is_some() && self.from.sha256 == self.to.sha256
    }

    /// `10,012 connections moved (9,800 http, 200 websocket, 12 tcp), 3 drained, none cut; frozen for 7.1 ms`.
    /// `uncounted`: some were lost, and whoever could have counted them is dead.
    pub(crate) fn along(&self, cut: &Losses, uncounted: bool) -> String {
        let total = self.total_moved();
        if total == 0 && self.drained == 0 && cut.is_empty() && !uncounted {
            return "no connection was open".to_owned();
        }
        let mut text = self.moved_in_words();
        if self.drained > 0 {
            let _ = write!(text, ", {} drained", grouped(self.drained));
        }
        match cut.total() {
            0 if uncounted => text.push_str(", and a worker died with those that it had"),
            0 => text.push_str(", none cut"),
            n => {
                let _ = write!(text, ", {} cut ({})", grouped(n), by_kind(&cut.0));
            }
        }
        if let Some(frozen) = self.frozen() {
            let _ = write!(text, "; {frozen}");
        }
        text
    }

    /// `10,012 connections moved (9,800 http, 200 websocket, 12 tcp), frozen for 7.1 ms`; nothing if none did.
    #[must_use]
    pub fn moves(&self) -> Option<String> {
        let frozen = self.frozen().map(|frozen| format!(", {frozen}")).unwrap_or_default();
        (self.total_moved() > 0).then(|| self.moved_in_words() + &frozen)
    }

    fn moved_in_words(&self) -> String {
        match self.total_moved() {
            0 => "no connection moved".to_owned(),
            1 => format!("1 connection moved ({})", by_kind(&self.moved)),
            n => format!("{} connections moved ({})", grouped(n), by_kind(&self.moved)),
        }
    }

    /// `frozen for 7.1 ms`, if any moved.
    fn frozen(&self) -> Option<String> {
        let frozen = Duration::from_micros(self.freeze_us.filter(|_| self.total_moved() > 0)?);
        Some(format!("frozen for {}", human_ms(frozen.as_secs_f64() * 1e3)))
    }

    /// The last lines of a new binary that failed, for a terminal.
    pub(crate) fn last_words(&self) -> Option<String> {
        if self.last_lines.is_empty() {
            return None;
        }
        let mut text = "the last lines of the new binary:".to_owned();
        for line in &self.last_lines {
            let shown: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let _ = write!(text, "\n  | {}", shown.trim_end());
        }
        Some(text)
    }
}

/// `9,800 http, 200 websocket, 12 tcp`: the most first.
pub(crate) fn by_kind(counts: &BTreeMap<String, u64>) -> String {
    let mut counts: Vec<(&String, u64)> =
        counts.iter().map(|(kind, count)| (kind, *count)).filter(|(_, count)| *count > 0).collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let words: Vec<String> =
        counts.iter().map(|(kind, count)| format!("{} {kind}", grouped(*count))).collect();
    words.join(", ")
}

/// `10,012`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
