//! What is said while an operation takes its time: nothing for half a second, then which step it is at.
//!
//! On a terminal, one line that changes; otherwise one plain line, so that a log shows what was waited for.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use handover_api::{Call, Client, Event, EventKind, Operation, human_time, percent_encoded};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::note;

/// Whatever is done by then needs no progress.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often the line moves.
const TICK: Duration = Duration::from_millis(100);

/// Waits for `work` and tells how it goes, from the server's events about the operation `id`.
pub(crate) async fn with_progress<T>(
    client: &Client,
    what: &str,
    id: &str,
    work: impl Future<Output = T>,
) -> T {
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = tokio::time::sleep(PATIENCE) => {}
    }
    if !std::io::stderr().is_terminal() {
        note(format!("waiting for {what} {id}").trim_end());
        return work.await;
    }
    let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        line.set_style(style);
    }
    line.set_message(what.to_owned());
    line.enable_steady_tick(TICK);
    let done = tokio::select! {
        biased;
        done = &mut work => done,
        // Ends only when there are no more events to hear.
        () = steps(client, what, id, &line) => work.await,
    };
    line.finish_and_clear();
    done
}

async fn steps(client: &Client, what: &str, id: &str, line: &ProgressBar) {
    let Ok(mut events) = client.events().await else { return };
    // Steps that began before anybody listened.
    let mut at = match client.send(Call::get(format!("/v1/operations/{}", percent_encoded(id)))).await {
        Ok(answer) if answer.status == 200 => answer.json().ok().and_then(|operation| At::of(&operation)),
        _ => None,
    };
    loop {
        if let Some(at) = &at {
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
            None => Self::Step(step.name.replace('_', " ")),
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
