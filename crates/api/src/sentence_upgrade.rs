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

impl Step {
    /// What a step of an upgrade is called: those that only the machine tells apart have one name.
    #[must_use]
    pub fn word(&self) -> String {
        match self.name.as_str() {
            "start_worker" => "start".to_owned(),
            "bind" => "prepare".to_owned(),
            "probe" => "ready".to_owned(),
            "journal" => "commit".to_owned(),
            "hand_over" => "moving connections".to_owned(),
            name => name.replace('_', " "),
        }
    }
}

impl Operation {
    /// The step that it had come to: what followed only cleaned up and wrote it down.
    #[must_use]
    pub fn furthest_step(&self) -> Option<&Step> {
        let steps = self.steps.iter().rev();
        steps.clone().find(|step| !AFTERMATH.contains(&step.name.as_str())).or(self.steps.last())
    }

    /// The sentence of an operation that upgrades, or keeps an upgrade, or takes one back; none for what is said as of any
    /// other operation.
    pub(crate) fn upgrade_sentence(&self, upgrade: &Upgrade, outcome: Outcome) -> Option<String> {
        let took = human_ms(self.ms);
        let Upgrade { from, to, .. } = upgrade;
        let along = upgrade.along(&self.losses);
        let end =
            || format!("{}{}", self.supervisor_stays(upgrade), self.unless_upgrade_is_confirmed(upgrade));
        Some(match (outcome, self.kind) {
            (Outcome::Applied | Outcome::AppliedWithLosses, kind) => {
                let word = outcome.as_str().replace('_', " ");
                match kind {
                    Kind::Confirm => format!(
                        "{word}: the upgrade from {from} to {to} is confirmed and stays, {}, in {took}{}",
                        self.losses,
                        self.supervisor_stays(upgrade)
                    ),
                    Kind::Cancel | Kind::Rollback => format!(
                        "{word}: the upgrade to {from} was taken back and {to} serves again, in {took}; {along}"
                    ),
                    _ if upgrade.is_same() => format!(
                        "{word}: {to} serves with a new worker, the same binary as before, in {took}; {along}{}{}",
                        self.guard_saw(),
                        end()
                    ),
                    _ => format!(
                        "{word}: upgraded from {from} to {to} in {took}; {along}{}{}",
                        self.guard_saw(),
                        end()
                    ),
                }
            }
            (Outcome::Unchanged, Kind::DryRun) => format!(
                "valid: {to}{} could take over from {from}: it was let in, it can serve what serves, and it understands the supervisor's state; nothing was touched, in {took}",
                if upgrade.is_same() { ", the same binary," } else { "" }
            ),
            (Outcome::Rejected, _) => format!("rejected: {}; {}", self.why(), self.still(upgrade)),
            (Outcome::NotReady, kind) => {
                let step = self.furthest_step().map(|step| format!(" in the step '{}'", step.word()));
                format!(
                    "not ready: {} to {to} failed{}: {}; {}",
                    if is_the_way_back(kind) { "going back" } else { "the upgrade" },
                    step.unwrap_or_default(),
                    self.why(),
                    self.still(upgrade)
                )
            }
            (Outcome::RolledBack, kind) => {
                // What takes an upgrade back goes the other way.
                let (new, old) = if is_the_way_back(kind) { (from, to) } else { (to, from) };
                let why = match self.cause {
                    Some(Cause::NotConfirmed) => "was not confirmed in time".to_owned(),
                    Some(Cause::Cancelled) => "was cancelled".to_owned(),
                    Some(Cause::GuardFailed) if self.errors.is_empty() => {
                        "fared worse than the guard allows".to_owned()
                    }
                    Some(Cause::GuardFailed) => {
                        format!("fared worse than the guard allows: {}", self.why())
                    }
                    _ => format!("was taken back: {}", self.why()),
                };
                let moved = if upgrade.moved.is_empty() { self.losses.to_string() } else { along };
                format!("rolled back: the upgrade to {new} {why}; {old} serves again, in {took}; {moved}")
            }
            (Outcome::Unchanged | Outcome::Unknown, _) => return None,
        })
    }

    /// `0.1.0 (sha256 1a2b3c4d5e6f) still serves generation 4`.
    fn still(&self, upgrade: &Upgrade) -> String {
        match self.serving_generation {
            Some(generation) => format!("{} still serves generation {generation}", upgrade.from),
            None => "nothing serves".to_owned(),
        }
    }

    /// `; but the supervisor itself still runs 0.1.0 (…): why; what becomes of it`, if that is so.
    fn supervisor_stays(&self, upgrade: &Upgrade) -> String {
        let why = match (&upgrade.supervisor_stays, self.cause) {
            (Some(why), _) => format!(": {why}"),
            (None, Some(Cause::NotReexecuted)) => String::new(),
            (None, _) => return String::new(),
        };
        format!(
            "; but the supervisor still runs {}{why}; it goes on as before, and the next upgrade or start takes it along",
            upgrade.from
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
    pub(crate) fn along(&self, cut: &Losses) -> String {
        let total = self.total_moved();
        if total == 0 && self.drained == 0 && cut.is_empty() {
            return "no connection was open".to_owned();
        }
        let mut text = match total {
            0 => "no connection moved".to_owned(),
            1 => format!("1 connection moved ({})", by_kind(&self.moved)),
            n => format!("{} connections moved ({})", grouped(n), by_kind(&self.moved)),
        };
        if self.drained > 0 {
            let _ = write!(text, ", {} drained", grouped(self.drained));
        }
        match cut.total() {
            0 => text.push_str(", none cut"),
            n => {
                let _ = write!(text, ", {} cut ({})", grouped(n), by_kind(&cut.0));
            }
        }
        if let Some(freeze_us) = self.freeze_us.filter(|_| total > 0) {
            let _ = write!(
                text,
                "; frozen for {}",
                human_ms(Duration::from_micros(freeze_us).as_secs_f64() * 1e3)
            );
        }
        text
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
