//! Sentences about programs and the traffic to them.
//!
//! ```text
//!   word: WHAT HAPPENED (proof), figures, what was cut, in TIME; WHAT TO KNOW OR DO NEXT
//!   word: NAME: WHY; WHAT SERVES
//! ```

use std::fmt::Write as _;
use std::time::Duration;

use crate::pending::clock;
use crate::sentence_upgrade::grouped;
use crate::{Cause, Kind, Operation, Outcome, ProgramResult, ServesNow, Step, human_ms, human_time};

impl Operation {
    /// `restart web`, `pause route:api`, `resume`.
    pub(crate) fn program_title(&self) -> String {
        let verb = verb(self.kind);
        match &self.target {
            Some(target) => format!("{verb} {target}"),
            None => verb.to_owned(),
        }
    }

    /// The sentence of an operation that [`Kind::is_carried`].
    pub(crate) fn program_sentence(&self, outcome: Outcome) -> String {
        let nothing = ProgramResult::default();
        let result = self.program.as_deref().unwrap_or(&nothing);
        match outcome {
            Outcome::Applied => self.program_applied("applied", result),
            Outcome::AppliedWithLosses => self.program_applied("applied with losses", result),
            Outcome::Unchanged => self.program_unchanged(result),
            Outcome::Rejected => self.program_failed("rejected", result),
            Outcome::NotReady => self.program_failed("not ready", result),
            Outcome::RolledBack => self.program_failed("rolled back", result),
            Outcome::Sent => self.program_told(result),
            Outcome::Unknown => format!(
                "unknown: {}, so nobody can say how {} {} ended; 'handover ps' says what runs",
                self.why(),
                self.program_title(),
                self.id,
            ),
        }
    }

    /// What it is about; never nothing.
    fn about(&self) -> &str {
        self.target.as_deref().unwrap_or("it")
    }

    fn program_applied(&self, word: &str, result: &ProgramResult) -> String {
        let name = self.about();
        let head = match self.kind {
            Kind::ProgramStart | Kind::ProgramRestart if result.next_connection => {
                format!("{name} {}ed, the next connection starts it", verb(self.kind))
            }
            Kind::ProgramDeploy if result.next_connection => {
                format!("{name}: the next connection starts {}", result.target())
            }
            Kind::ProgramRollback if result.next_connection => {
                format!("{name}: the next connection starts {} again", result.target())
            }
            Kind::ProgramCancel if result.next_connection => {
                let (before, target) = (result.before(), result.target());
                format!("{name}: {before} was taken back, the next connection starts {target} again")
            }
            Kind::ProgramDeploy | Kind::ProgramRollback if result.serves == ServesNow::Nothing => {
                format!(
                    "{name}: nothing of it serves now, and {} is what a start begins with",
                    result.target()
                )
            }
            Kind::ProgramStart => format!("{name} started, {}", result.new_copies()),
            Kind::ProgramStop => format!("{name} stopped{}", copies_ended(result.stopped)),
            Kind::ProgramRestart => format!("{name} restarted, {}", result.new_copies()),
            Kind::ProgramReload => format!("{name} has reloaded{}", result.because()),
            Kind::ProgramDeploy => format!("{name}: {} serves{}", result.target(), result.because()),
            Kind::ProgramRollback => format!("{name}: {} serves again{}", result.target(), result.because()),
            Kind::ProgramConfirm => format!("{name}: {} is confirmed and stays", result.confirmed()),
            Kind::ProgramCancel => {
                let nothing = result.serves == ServesNow::Nothing;
                let serves = if nothing { "is what a start begins with" } else { "serves again" };
                format!("{name}: {} was taken back, {} {serves}", result.before(), result.target())
            }
            // Its time was over before what was in flight had ended, or the server stops.
            Kind::Pause if self.cause == Some(Cause::NotQuiet) => format!("{name} was paused"),
            Kind::Pause => format!("{name} is paused"),
            Kind::ResumeTraffic => match &self.target {
                Some(name) => format!("{name} goes on"),
                None => "everything that was paused goes on".to_owned(),
            },
            Kind::DrainEndpoint => format!("{name} gets nothing new"),
            Kind::EnableEndpoint => format!("{name} gets requests again"),
            _ => self.program_title(),
        };
        let figures = self.program_figures(result);
        format!("{word}: {head}{figures}, in {}{}", human_ms(self.ms), self.program_next(result))
    }

    /// `, 14 requests were held, the longest for 2.1 s, 1 process did not end in time and was killed, no connection cut`.
    fn program_figures(&self, result: &ProgramResult) -> String {
        let mut text = String::new();
        let mut add = |part: String| {
            let _ = write!(text, ", {part}");
        };
        if let Some(ended) = result.in_flight_ended {
            add(match ended {
                0 if result.in_flight_left > 0 => "nothing in flight has ended".to_owned(),
                0 => "nothing was in flight".to_owned(),
                1 => "1 request in flight has ended".to_owned(),
                n => format!("{} requests in flight have ended", grouped(n)),
            });
        }
        let cuts = self.ends_copies();
        // What is kept warm goes on answering; what was asked to end need not.
        let asked = cuts && result.warm_until.is_none();
        match (result.in_flight_left, asked) {
            (0, _) => {}
            (1, false) => add("1 is still in flight".to_owned()),
            (n, false) => add(format!("{} are still in flight", grouped(n))),
            (1, true) => add("1 was still in flight at a copy when that was asked to end".to_owned()),
            (n, true) => {
                add(format!("{} were still in flight at copies when those were asked to end", grouped(n)));
            }
        }
        if let Some(held) = result.held {
            // A pause that is over is told as everything else.
            let is_over = self.cause == Some(Cause::NotQuiet);
            let kind = if self.kind == Kind::Pause && is_over { Kind::ProgramRestart } else { self.kind };
            add(held_in_words(kind, held, result.longest_wait_ms));
        }
        match result.killed_processes {
            0 => {}
            1 => add("1 process did not end in time and was killed".to_owned()),
            n => add(format!("{n} processes did not end in time and were killed")),
        }
        match result.left_processes {
            0 => {}
            1 => add("1 process that was left behind was ended".to_owned()),
            n => add(format!("{n} processes that were left behind were ended")),
        }
        match result.closed_by_program {
            None | Some(0) => {}
            Some(1) => add("the program itself closed 1 connection".to_owned()),
            Some(n) => add(format!("the program itself closed {} connections", grouped(n))),
        }
        // Nobody knows whether what was in flight has ended by itself.
        let unknown = asked && result.in_flight_left > 0;
        let lost = self.outcome == Some(Outcome::AppliedWithLosses);
        if (cuts && !unknown && !lost) || !self.losses.is_empty() {
            add(self.losses.to_string());
        }
        if self.cause == Some(Cause::WorkerDied) && lost {
            add("the worker died meanwhile, and the connections through it with it".to_owned());
        }
        if self.steps.iter().any(|step| step.name == "guard") && self.outcome.is_some_and(Outcome::is_success)
        {
            add(match self.cause {
                Some(Cause::ShuttingDown) => "the guard was cut short".to_owned(),
                _ => "the guard saw nothing wrong".to_owned(),
            });
        }
        text
    }

    /// Whether copies come to an end by it.
    fn ends_copies(&self) -> bool {
        matches!(
            self.kind,
            Kind::ProgramStop
                | Kind::ProgramRestart
                | Kind::ProgramDeploy
                | Kind::ProgramRollback
                | Kind::ProgramCancel
        )
    }

    /// What comes after it, and what can be done.
    fn program_next(&self, result: &ProgramResult) -> String {
        let name = self.about();
        match self.kind {
            Kind::ProgramStop => format!("; 'handover start {name}' starts it again"),
            Kind::ProgramDeploy | Kind::ProgramRollback | Kind::ProgramCancel => {
                self.program_way_back(result)
            }
            Kind::Pause if self.cause == Some(Cause::NotQuiet) => "; it goes on now".to_owned(),
            Kind::Pause => match &result.paused_until {
                Some(until) => {
                    format!("; it goes on at {}, or with 'handover resume {name}'", clock(until))
                }
                None => format!("; it goes on with 'handover resume {name}'"),
            },
            Kind::DrainEndpoint => format!("; 'handover enable {name}' gives it requests again"),
            _ => String::new(),
        }
    }

    /// How a deploy can be taken back, or is by itself.
    fn program_way_back(&self, result: &ProgramResult) -> String {
        let name = self.about();
        if let Some(back) = &result.goes_back {
            return format!(
                "; it goes back to {} at {} (in {}) unless 'handover confirm {name}' comes",
                place(&back.to),
                clock(&back.at),
                human_time(Duration::from_millis(back.within_ms)),
            );
        }
        if result.serves == ServesNow::Nothing && !result.next_connection {
            return format!("; 'handover start {name}' starts it");
        }
        // A server that stops keeps nothing warm.
        let stops = self.cause == Some(Cause::ShuttingDown);
        match (&result.from, &result.warm_until) {
            (Some(from), Some(until)) if !stops => format!(
                "; {} is kept warm until {}: 'handover rollback {name}' goes back to it at once",
                place(from),
                clock(until)
            ),
            (Some(from), _) if self.kind == Kind::ProgramDeploy && result.next_connection => {
                format!("; 'handover rollback {name}' goes back to {}", place(from))
            }
            (Some(from), _) if self.kind == Kind::ProgramDeploy => {
                format!("; 'handover rollback {name}' starts {} again", place(from))
            }
            _ => String::new(),
        }
    }

    fn program_unchanged(&self, result: &ProgramResult) -> String {
        let name = self.about();
        let what = match self.kind {
            Kind::ProgramStart => format!("{name} runs already"),
            Kind::ProgramStop => format!("{name} is stopped already; 'handover start {name}' starts it"),
            Kind::ProgramDeploy | Kind::ProgramRollback => {
                format!("{name}: {} serves already", result.target())
            }
            Kind::Pause => format!("{name} is paused already"),
            Kind::ResumeTraffic => match &self.target {
                Some(name) => format!("{name} is not paused"),
                None => "nothing is paused".to_owned(),
            },
            Kind::DrainEndpoint => {
                format!("{name} gets nothing new already; 'handover enable {name}' changes that")
            }
            Kind::EnableEndpoint => format!("{name} gets requests already"),
            _ => format!("{} had nothing to do", self.program_title()),
        };
        format!("unchanged: {what}")
    }

    /// Why, then what serves.
    fn program_failed(&self, word: &str, result: &ProgramResult) -> String {
        let why = match (&result.exit, self.errors.as_slice()) {
            (Some(exit), []) => format!("{} ({exit})", self.why()),
            _ => self.why(),
        };
        let why = match self.cause {
            Some(Cause::NotConfirmed) if self.errors.is_empty() => {
                format!("{} was not confirmed in time", result.undone(self.kind))
            }
            Some(Cause::GuardFailed) if self.errors.is_empty() => {
                format!("{} did not pass the guard", result.undone(self.kind))
            }
            Some(Cause::GuardFailed) => format!("{} did not pass the guard: {why}", result.undone(self.kind)),
            Some(Cause::Cancelled) => format!("{} was cancelled", result.undone(self.kind)),
            _ => why,
        };
        let subject = match &self.target {
            Some(target) if !names(&why, target) => format!("{target}: "),
            _ => String::new(),
        };
        let figures = if word == "rolled back" {
            format!("{}, in {}", self.program_figures(result), human_ms(self.ms))
        } else {
            String::new()
        };
        match self.program_serves(result) {
            Some(serves) => format!("{word}: {subject}{why}; {serves}{figures}"),
            None => format!("{word}: {subject}{why}"),
        }
    }

    /// What serves of it after a failure; nothing where that was never in question.
    fn program_serves(&self, result: &ProgramResult) -> Option<String> {
        let name = self.about();
        let slot = |served: &Option<String>| served.as_deref().map(place);
        let of_copies = matches!(
            self.kind,
            Kind::ProgramStart
                | Kind::ProgramStop
                | Kind::ProgramRestart
                | Kind::ProgramDeploy
                | Kind::ProgramRollback
                | Kind::ProgramCancel
        );
        match (self.kind, result.serves) {
            // What a signal has ended does not run on, and the reason says so.
            (Kind::ProgramReload, ServesNow::Nothing) => None,
            (Kind::ProgramReload, _) => Some("it runs on as it was".to_owned()),
            (Kind::ProgramStart, ServesNow::Old) => None,
            // The new one had taken over by then.
            (_, ServesNow::Old) if of_copies && self.outcome == Some(Outcome::RolledBack) => {
                Some(match slot(&result.from) {
                    Some(slot) => format!("{slot} serves again"),
                    None => "what ran before serves again".to_owned(),
                })
            }
            (_, ServesNow::Old) if of_copies => Some(match slot(&result.from) {
                Some(slot) => format!("{slot} still serves, untouched"),
                None => "what ran before still serves, untouched".to_owned(),
            }),
            (_, ServesNow::OldAgain) if result.next_connection => Some(match slot(&result.from) {
                Some(slot) => format!("the next connection starts {slot} again"),
                None => "the next connection starts what ran before".to_owned(),
            }),
            (_, ServesNow::OldAgain) => Some(match slot(&result.from) {
                Some(slot) => format!("{slot} was started again and serves"),
                None => "what ran before was started again and serves".to_owned(),
            }),
            (_, ServesNow::New) => Some(match slot(&result.to) {
                Some(slot) => format!("{slot} serves"),
                None => "the new copies serve".to_owned(),
            }),
            (_, ServesNow::Nothing) if of_copies => {
                Some(format!("nothing of it serves now: 'handover ps' and 'handover logs {name}' say more"))
            }
            _ => None,
        }
    }

    /// A signal was sent, and that is all that is known.
    fn program_told(&self, result: &ProgramResult) -> String {
        let name = self.about();
        let what = result.proof.as_deref().unwrap_or("the signal");
        format!(
            "sent, not confirmed: {name} got {what}, and nothing says what it made of it; a reload_check in [program.{name}] would prove it"
        )
    }

    /// The last lines of what failed, or what the program answered: for a terminal, under the sentence.
    pub(crate) fn program_words(&self) -> Option<String> {
        if !self.kind.is_carried() || self.refused.is_some() {
            return None;
        }
        let nothing = ProgramResult::default();
        let result = self.program.as_deref().unwrap_or(&nothing);
        let failed = self.outcome.is_some_and(Outcome::is_failure) || self.outcome == Some(Outcome::Unknown);
        let answer: Vec<String> =
            self.answer.iter().flat_map(|answer| answer.lines().map(str::to_owned)).collect();
        if failed && !result.last_lines.is_empty() {
            let head = match self.cause {
                Some(Cause::HookFailed) => "the last lines of the hook:",
                Some(Cause::ReloadRefused) if result.serves != ServesNow::Nothing => "what it answered:",
                _ => "the last lines that it wrote:",
            };
            return Some(quoted(head, &result.last_lines));
        }
        if answer.is_empty() { None } else { Some(quoted("it answered:", &answer)) }
    }
}

impl Step {
    /// A step of an operation on programs, as people call it.
    pub(crate) fn program_word(&self) -> String {
        match self.name.as_str() {
            "start_program" => "start".to_owned(),
            "settle_program" => "settle".to_owned(),
            "stop_program" => "stop".to_owned(),
            "reload_program" => "reload".to_owned(),
            "quiet" => "in-flight work".to_owned(),
            "go_back" => "going back".to_owned(),
            name => name.replace('_', " "),
        }
    }
}

impl ProgramResult {
    /// `2 new copies serve (it said READY=1)`.
    fn new_copies(&self) -> String {
        let serve = match self.started {
            0 | 1 => "the new copy serves".to_owned(),
            n => format!("{n} new copies serve"),
        };
        serve + &self.because()
    }

    /// ` (GET /health answered 200)`.
    fn because(&self) -> String {
        self.proof.as_ref().map(|proof| format!(" ({proof})")).unwrap_or_default()
    }

    fn target(&self) -> String {
        self.to.as_deref().map_or_else(|| "what ran before".to_owned(), place)
    }

    fn confirmed(&self) -> String {
        self.to.as_deref().map_or_else(|| "the deploy".to_owned(), place)
    }

    fn before(&self) -> String {
        self.from.as_deref().map_or_else(|| "the deploy".to_owned(), place)
    }

    /// What was taken back: what an operation that goes back comes from, and another one goes to.
    fn undone(&self, kind: Kind) -> String {
        let undone = match kind {
            Kind::ProgramRollback | Kind::ProgramCancel => &self.from,
            _ => &self.to,
        };
        undone.as_deref().map_or_else(|| "the deploy".to_owned(), place)
    }
}

/// The word by which it is asked for.
pub(crate) fn verb(kind: Kind) -> &'static str {
    match kind {
        Kind::ResumeTraffic => "resume",
        Kind::DrainEndpoint => "drain",
        Kind::EnableEndpoint => "enable",
        kind => kind.as_str().trim_start_matches("program_"),
    }
}

/// Whether a sentence says this name already, as a word of its own: `c` is none of `copy 1 is late`.
fn names(sentence: &str, name: &str) -> bool {
    let goes_on = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    !name.is_empty()
        && sentence.match_indices(name).any(|(at, _)| {
            let (before, after) = (&sentence[..at], &sentence[at + name.len()..]);
            !before.ends_with(|c| goes_on(c) || c == '.' || c == '/') && !after.starts_with(goes_on)
        })
}

/// `slot b`; a directory as it is.
pub(crate) fn place(name: &str) -> String {
    if name.contains('/') { name.to_owned() } else { format!("slot {name}") }
}

fn copies_ended(count: u32) -> String {
    match count {
        0 => String::new(),
        1 => ", its copy has ended".to_owned(),
        n => format!(", its {n} copies have ended"),
    }
}

/// Of a pause what is held now; of a resume what was let go; of everything else what was held meanwhile.
fn held_in_words(kind: Kind, held: u64, longest_ms: Option<u64>) -> String {
    let count = match held {
        0 if kind == Kind::Pause => return "nothing is held yet".to_owned(),
        0 => return "nothing was held".to_owned(),
        1 => "1 request".to_owned(),
        n => format!("{} requests", grouped(n)),
    };
    let (is, was) = if held == 1 { ("is", "was") } else { ("are", "were") };
    let time = |ms| human_ms(Duration::from_millis(ms).as_secs_f64() * 1e3);
    let longest = match longest_ms {
        Some(ms) if held == 1 => format!(" for {}", time(ms)),
        Some(ms) => format!(", the longest for {}", time(ms)),
        None => String::new(),
    };
    match kind {
        Kind::Pause => format!("{count} {is} held so far"),
        Kind::ResumeTraffic => format!("{count} {was} let go{}", longest.replace(" for ", " held for ")),
        _ => format!("{count} {was} held{longest}"),
    }
}

/// A heading, then lines that somebody else wrote, harmless for a terminal.
fn quoted(head: &str, lines: &[String]) -> String {
    let mut text = head.to_owned();
    for line in lines {
        let shown: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let _ = write!(text, "\n  | {}", shown.trim_end());
    }
    text
}
