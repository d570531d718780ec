//! `handover events`: what happens, as it happens, also across a supervisor that becomes another binary.
//!
//! ```text
//!   events ─▶ printed ─▶ … ─✂─▶ asked for again ──┬─▶ what ended in between, then events as before
//!                                                 └─▶ nobody is there: the server has ended
//! ```

use std::collections::{HashMap, HashSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use handover_api::{
    Call, Client, ClientError, Event, EventKind, Events, ExitCode as Code, Operation, OperationState,
    percent_encoded,
};

use crate::output::{Output, note};
use crate::session::Session;

/// How long nobody may be there before the server counts as ended.
const SILENCE: Duration = Duration::from_secs(1);
/// How long until it is tried again.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) fn events(session: &Session) -> ExitCode {
    session.run(async {
        let (client, output) = (session.client(), session.output());
        let mut events = match client.events().await {
            Ok(events) => events,
            Err(ClientError::Invalid(answer)) => return Ok(output.failure(&answer, Code::NotPermitted)),
            Err(error) => return Err(error),
        };
        let mut heard = Heard::default();
        loop {
            match events.next().await {
                Ok(Some(event)) => heard.tell(event, output),
                Ok(None) | Err(ClientError::Lost { .. }) => match again(client).await {
                    Some(others) => {
                        events = others;
                        heard.catch_up(client, output).await;
                    }
                    None => {
                        note("the server has ended");
                        return Ok(Code::NotRunning.into());
                    }
                },
                Err(error) => return Err(error),
            }
        }
    })
}

/// The events of whoever listens on the socket by now.
async fn again(client: &Client) -> Option<Events> {
    let lost = Instant::now();
    loop {
        match client.events().await {
            Ok(events) => return Some(events),
            Err(_) if lost.elapsed() > SILENCE => return None,
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// What was heard so far, as far as something may be missing of it.
#[derive(Debug, Default)]
struct Heard {
    /// Operations that have begun, and whose end was not heard; with the step that was told last.
    running: HashMap<String, Option<String>>,
    /// Operations whose end was told without its event, which may still come.
    told: HashSet<String>,
}

impl Heard {
    fn tell(&mut self, event: Event, output: Output) {
        let is_new = self.is_new(&event);
        let says_more = self.says_more(&event) || output.is_json();
        if is_new && says_more {
            print(&event, output);
        }
    }

    /// Whether this was not told yet.
    fn is_new(&mut self, event: &Event) -> bool {
        let Some(operation) = &event.operation else { return true };
        match event.kind {
            EventKind::OperationStarted | EventKind::OperationStep => {
                self.running.entry(operation.id.clone()).or_default();
                true
            }
            EventKind::OperationDone => {
                self.running.remove(&operation.id);
                !self.told.remove(&operation.id)
            }
            EventKind::Refused | EventKind::Worker | EventKind::Notice => true,
        }
    }

    /// Whether it is more than another step of which people would read the same.
    fn says_more(&mut self, event: &Event) -> bool {
        let Some((operation, step)) = event.step() else { return true };
        let Some(last) = self.running.get_mut(&operation.id) else { return true };
        last.replace(step.clone()) != Some(step)
    }

    /// Tells of operations that ended while nobody was heard.
    async fn catch_up(&mut self, client: &Client, output: Output) {
        for id in self.running.keys().cloned().collect::<Vec<_>>() {
            let call = Call::get(format!("/v1/operations/{}", percent_encoded(&id)));
            let Ok(answer) = client.send(call).await else { continue };
            let Ok(operation) = answer.json::<Operation>() else { continue };
            if operation.state == OperationState::Done {
                self.running.remove(&id);
                self.told.insert(id);
                print(&end_of(operation), output);
            }
        }
    }
}

/// The event that was missed.
fn end_of(operation: Operation) -> Event {
    let begun = operation.started_at.parse::<jiff::Timestamp>();
    let took = Duration::try_from_secs_f64(operation.ms / 1000.0).unwrap_or_default();
    let ended = begun.ok().and_then(|begun| begun.checked_add(took).ok());
    let at = ended.unwrap_or_else(jiff::Timestamp::now).strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
    let message = operation.message.clone();
    Event { kind: EventKind::OperationDone, at, message, operation: Some(operation) }
}

fn print(event: &Event, output: Output) {
    if output.is_json() {
        output.json(&serde_json::to_vec(event).unwrap_or_default());
    } else {
        output.text(&event.line());
    }
}

#[cfg(test)]
mod tests {
    use handover_api::{Actor, Cause, Kind, Outcome, Step, Upgrade};

    use super::*;

    fn operation() -> Operation {
        let mut operation =
            Operation::running("a-1", Kind::Upgrade, Actor::signal("USR2"), "2026-11-22T03:01:35.500Z");
        operation.finish(Outcome::Applied, Cause::Done, 1_600.0);
        operation
    }

    #[test]
    fn an_end_that_was_asked_for_has_its_time_and_is_not_told_twice() {
        let mut heard = Heard::default();
        let done = end_of(operation());
        assert_eq!(
            (done.at.as_str(), done.message.as_str()),
            ("2026-11-22T03:01:37.100Z", &*operation().message)
        );
        let step = Event { kind: EventKind::OperationStep, ..done.clone() };
        assert!(heard.is_new(&step));
        assert!(heard.running.contains_key("a-1"));
        heard.told.insert("a-1".to_owned());
        assert!(!heard.is_new(&done));
        assert!(heard.running.is_empty() && heard.told.is_empty());
        assert!(heard.is_new(&done), "another one with the same ID is another one");
    }

    #[test]
    fn steps_that_have_one_word_are_told_once() {
        let mut heard = Heard::default();
        let mut told = |steps: &[&str]| {
            let steps = steps.iter().map(|name| Step { name: (*name).to_owned(), ms: 1.0 }).collect();
            let upgrade = Some(Box::new(Upgrade::default()));
            let operation = Operation { upgrade, steps, ..operation() };
            let event = Event { kind: EventKind::OperationStep, ..end_of(operation) };
            assert!(heard.is_new(&event), "it is no end");
            heard.says_more(&event)
        };
        assert!(told(&["prepare"]));
        assert!(!told(&["prepare", "bind"]), "the listeners of what is prepared");
        assert!(!told(&["prepare", "bind", "prepare"]));
        assert!(told(&["prepare", "bind", "prepare", "hand_over"]));
    }
}
