//! What is said while an operation takes its time: nothing for half a second, then which step it is at.
//!
//! On a terminal, one line that changes; otherwise one plain line, so that a log shows what was waited for. An upgrade, and
//! what is done about a program, has many steps, and each is told when it has ended, with its time: on a terminal all of
//! them, otherwise those of what takes longer than half a second.
//!
//! ```text
//!   work ──────────────────────────────────────────────▶ answer ─▶ Told::rest: steps that nobody has heard of yet
//!   events ─▶ step ─▶ step ─✂ (the supervisor becomes another binary) ─▶ again ─▶ step
//! ```

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use handover_api::{
    Call, Client, Event, EventKind, Operation, OperationState, human_ms, human_time, percent_encoded,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::note;

/// Whatever is done by then needs no progress.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often the line moves.
const TICK: Duration = Duration::from_millis(100);
/// How long until events are asked for again after they have ended.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits for `work` and tells how it goes, from the server's events about the operation `id`.
pub(crate) async fn with_progress<T>(
    client: &Client,
    what: &str,
    id: &str,
    work: impl Future<Output = T>,
) -> (T, Told) {
    let is_terminal = std::io::stderr().is_terminal();
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return (done, Told::new(None, is_terminal)),
        () = tokio::time::sleep(PATIENCE) => {}
    }
    let mut told = Told::new(is_terminal.then(|| spinner(what)), true);
    if !is_terminal {
        note(format!("waiting for {what} {id}").trim_end());
    }
    let done = tokio::select! {
        biased;
        done = &mut work => done,
        // Never ends: there may always be more events to hear.
        () = follow(client, what, id, &mut told) => work.await,
    };
    if let Some(line) = told.line.take() {
        line.finish_and_clear();
    }
    (done, told)
}

fn spinner(what: &str) -> ProgressBar {
    let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        line.set_style(style);
    }
    line.set_message(what.to_owned());
    line.enable_steady_tick(TICK);
    line
}

/// What was told of an operation so far.
pub(crate) struct Told {
    /// The line that changes, on a terminal.
    line: Option<ProgressBar>,
    /// Whether steps are worth telling.
    is_shown: bool,
    /// Steps that were told, those of one name counted once.
    steps: usize,
}

impl Told {
    fn new(line: Option<ProgressBar>, is_shown: bool) -> Self {
        Self { line, is_shown, steps: 0 }
    }

    /// Tells the steps that have ended and were not told yet.
    pub(crate) fn rest(&mut self, operation: &Operation) {
        if !self.is_shown || !has_told_steps(operation) {
            return;
        }
        for line in ended_steps(operation).iter().skip(self.steps) {
            self.steps += 1;
            match &self.line {
                Some(above) => above.println(line),
                None => note(line),
            }
        }
    }
}

/// Whether each of its steps is told: of what may take long and is watched, so that one sees where it hangs.
fn has_told_steps(operation: &Operation) -> bool {
    operation.upgrade.is_some() || operation.kind.is_carried()
}

/// A line for each step of an upgrade, or of what is done about a program, that has ended.
fn ended_steps(operation: &Operation) -> Vec<String> {
    let mut steps = operation.steps_in_words();
    if operation.state == OperationState::Running {
        steps.pop();
    }
    // That it was written down goes without saying.
    steps.retain(|(word, _)| word != RECORD);
    let told = |(word, ms): &(String, f64)| {
        let moved = operation.upgrade.as_ref().filter(|_| word == MOVING).and_then(|upgrade| upgrade.moves());
        let moved = moved.map(|moved| format!("  {moved}")).unwrap_or_default();
        format!("  {word:<19} {:>9}{moved}", human_ms(*ms))
    };
    steps.iter().map(told).collect()
}

/// The last step of every operation.
const RECORD: &str = "record";
/// The step of an upgrade in which connections change hands.
const MOVING: &str = "moving connections";

/// Tells what happens to the operation; when the supervisor becomes another binary, events end, and are asked for again.
async fn follow(client: &Client, what: &str, id: &str, told: &mut Told) {
    loop {
        steps(client, what, id, told).await;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn steps(client: &Client, what: &str, id: &str, told: &mut Told) {
    let Ok(mut events) = client.events().await else { return };
    // Steps that began before anybody listened.
    let known = client.send(Call::get(format!("/v1/operations/{}", percent_encoded(id)))).await;
    let mut at = None;
    if let Ok(answer) = known
        && answer.status == 200
        && let Ok(operation) = answer.json()
    {
        told.rest(&operation);
        at = At::of(&operation);
    }
    loop {
        if let (Some(line), Some(at)) = (&told.line, &at) {
            line.set_message(format!("{what}: {at}"));
        }
        let event = tokio::select! {
            event = events.next() => event,
            // The time that is left becomes less without an event.
            () = tokio::time::sleep(TICK * 5) => continue,
        };
        match event {
            Ok(Some(Event { kind: EventKind::OperationStep, operation: Some(operation), .. }))
                if operation.id == id =>
            {
                told.rest(&operation);
                at = At::of(&operation);
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

/// Which step an operation is at.
enum At {
    /// This one.
    Step(String),
    /// Its guard watches until then.
    Guarded(Instant),
}

/// The step in which a guard watches.
const GUARD: &str = "guard";

impl At {
    fn of(operation: &Operation) -> Option<Self> {
        let step = operation.steps.last()?;
        Some(match operation.guard_ms.filter(|_| step.name == GUARD) {
            Some(ms) => {
                let past = Duration::try_from_secs_f64(step.ms / 1000.0).unwrap_or_default();
                Self::Guarded(Instant::now() + Duration::from_millis(ms).saturating_sub(past))
            }
            None => Self::Step(operation.steps_in_words().pop()?.0.replace('_', " ")),
        })
    }
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Step(name) => f.write_str(name),
            Self::Guarded(until) => {
                let left = until.saturating_duration_since(Instant::now());
                write!(f, "the guard watches for another {}", human_time(left))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use handover_api::{Actor, Binary, Cause, Kind, Outcome, Step, Upgrade};

    use super::*;

    #[test]
    fn each_step_of_a_deploy_is_told_in_words() {
        let mut operation = Operation::running("d-1", Kind::ProgramDeploy, Actor::signal("USR2"), "");
        let step = |name: &str, ms| Step { name: name.to_owned(), ms };
        operation.steps = vec![step("start_program", 3.0), step("ready", 1_200.0), step("quiet", 2.0)];
        assert_eq!(At::of(&operation).unwrap().to_string(), "in-flight work");
        assert_eq!(
            ended_steps(&operation),
            ["  start                  3.0 ms", "  ready                  1.20 s"]
        );
    }

    #[test]
    fn each_step_of_an_upgrade_is_told_once_when_it_has_ended_with_what_moved() {
        let mut operation = Operation::running("u-1", Kind::Upgrade, Actor::signal("USR2"), "");
        let step = |name: &str, ms| Step { name: name.to_owned(), ms };
        operation.steps = vec![
            step("admission", 3.0),
            step("preflight", 21.0),
            step("prepare", 4.0),
            step("bind", 1.0),
            step("prepare", 2.0),
            step("hand_over", 12.3),
        ];
        let mut upgrade = Upgrade::new(Binary::at("/a"), Binary::at("/b"));
        operation.upgrade = Some(Box::new(upgrade.clone()));
        assert_eq!(ended_steps(&operation).len(), 3);
        upgrade.moved.insert("http".to_owned(), 10_012);
        upgrade.freeze_us = Some(7_100);
        operation.upgrade = Some(Box::new(upgrade));
        operation.steps.push(step("record", 0.1));
        operation.finish(Outcome::Applied, Cause::Done, 50.0);
        assert_eq!(
            ended_steps(&operation),
            [
                "  admission              3.0 ms",
                "  preflight             21.0 ms",
                "  prepare                7.0 ms",
                "  moving connections    12.3 ms  10,012 connections moved (10,012 http), frozen for 7.1 ms",
            ]
        );
    }
}
