//! What is said while an operation takes its time: nothing for half a second, then which step it is at.
//!
//! On a terminal, one line that changes; otherwise one plain line, so that a log shows what was waited for.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use handover_api::{Client, EventKind, Events, human_time};
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
    while let Ok(Some(event)) = events.next().await {
        let Some(operation) = event.operation.filter(|operation| operation.id == id) else { continue };
        let (EventKind::OperationStep, Some(step)) = (event.kind, operation.steps.last()) else { continue };
        match operation.guard_ms.filter(|_| step.name == GUARDING) {
            Some(ms) => {
                let over = Instant::now() + Duration::from_millis(ms);
                guarding(&mut events, what, id, line, over).await;
            }
            None => line.set_message(format!("{what}: {}", step.name.replace('_', " "))),
        }
    }
}

/// The step in which a guard watches.
const GUARDING: &str = "guard";

/// Shows the time that a guard still watches, until the operation goes on.
async fn guarding(events: &mut Events, what: &str, id: &str, line: &ProgressBar, over: Instant) {
    loop {
        let left = over.saturating_duration_since(Instant::now());
        line.set_message(format!("{what}: the guard watches for another {}", human_time(left)));
        tokio::select! {
            event = events.next() => match event {
                Ok(Some(event)) if event.operation.as_ref().is_none_or(|operation| operation.id != id) => {}
                _ => return,
            },
            () = tokio::time::sleep(TICK * 5) => {}
        }
    }
}
