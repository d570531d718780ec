//! Verbs that change nothing.

use std::process::ExitCode;

use comfy_table::{Cell, ContentArrangement, Table, presets};
use handover_api::{
    Call, Certificate, Diff, ExitCode as Code, Generation, Operation, OperationState, Status, human_ms,
    percent_encoded,
};

use crate::args::{self, Generations, History, Show};
use crate::asking::ended;
use crate::session::{Session, diff_from_here, seen_from_here};

/// Characters of a sentence that a table shows.
const CELL_CHARACTERS: usize = 60;
/// Names of a certificate that a table shows.
const NAMES_IN_A_CELL: usize = 3;

pub(crate) fn status(session: &Session) -> ExitCode {
    shown(session, Call::get("/v1/status"), |status: Status| (status.report(), Code::Success))
}

pub(crate) fn history(session: &Session, history: &History) -> ExitCode {
    let call = Call::get("/v1/history").query("limit", &history.limit.to_string());
    shown(session, call, |operations: Vec<Operation>| {
        let operations: Vec<Operation> = operations.into_iter().map(seen_from_here).collect();
        (history_table(&operations), Code::Success)
    })
}

pub(crate) fn show(session: &Session, show: &Show) -> ExitCode {
    let Some(limit) = show.timeout else {
        let call = Call::get(format!("/v1/operations/{}", percent_encoded(&show.id)));
        // Looking at what runs is no failure, waiting for it in vain is.
        return shown(session, call, |operation: Operation| {
            let code = match operation.state {
                OperationState::Running => Code::Success,
                OperationState::Done => Code::from(&operation),
            };
            (seen_from_here(operation).full_report(), code)
        });
    };
    session.run(async {
        let answer = ended(session.client(), &show.id, limit).await?;
        if answer.status >= 400 {
            return Ok(session.refused(&answer));
        }
        let operation: Operation = answer.json()?;
        let code = Code::from(&operation);
        if session.output().is_json() {
            session.output().json(&answer.body);
            return Ok(code.into());
        }
        Ok(session.output().result(&seen_from_here(operation).full_report(), code))
    })
}

pub(crate) fn generations(session: &Session, generations: &Generations) -> ExitCode {
    match generations.number {
        Some(number) => {
            shown(session, Call::get(format!("/v1/generations/{number}")), |generation: Generation| {
                (generation.report(), Code::Success)
            })
        }
        None => shown(session, Call::get("/v1/generations"), |generations: Vec<Generation>| {
            let lines: Vec<String> = generations.iter().map(Generation::line).collect();
            (lines.join("\n"), Code::Success)
        }),
    }
}

pub(crate) fn diff(session: &Session, diff: &args::Diff) -> ExitCode {
    let mut call = Call::get("/v1/diff");
    if let Some(against) = diff.against {
        call = call.query("against", &against.to_string());
    }
    shown(session, call, |diff: Diff| {
        let code = if diff.same { Code::Success } else { Code::Differs };
        (diff_from_here(diff).report(), code)
    })
}

pub(crate) fn certificates(session: &Session) -> ExitCode {
    shown(session, Call::get("/v1/certificates"), |certificates: Vec<Certificate>| {
        (certificates_table(&certificates, jiff::Timestamp::now()), Code::Success)
    })
}

pub(crate) fn config(session: &Session) -> ExitCode {
    raw(session, "/v1/config")
}

pub(crate) fn metrics(session: &Session) -> ExitCode {
    raw(session, "/metrics")
}

pub(crate) fn connections(session: &Session) -> ExitCode {
    shown(session, Call::get("/v1/connections"), |connections: Vec<serde_json::Value>| {
        (connections_table(&connections), Code::Success)
    })
}

/// Asks, and prints the answer as it is or as `text` says it.
pub(crate) fn shown<T: serde::de::DeserializeOwned>(
    session: &Session,
    call: Call,
    text: impl FnOnce(T) -> (String, Code),
) -> ExitCode {
    session.run(async {
        let answer = match session.look(call).await? {
            Ok(answer) => answer,
            Err(code) => return Ok(code),
        };
        let (text, code) = text(answer.json()?);
        if session.output().is_json() {
            session.output().json(&answer.body);
            return Ok(code.into());
        }
        Ok(session.output().result(&text, code))
    })
}

/// Asks, and prints the bytes of the answer.
fn raw(session: &Session, path: &str) -> ExitCode {
    session.run(async {
        match session.look(Call::get(path)).await? {
            Ok(answer) => {
                session.output().bytes(&answer.body);
                Ok(Code::Success.into())
            }
            Err(code) => Ok(code),
        }
    })
}

/// When, what, outcome, how long, who, and why or what came of it.
fn history_table(operations: &[Operation]) -> String {
    if operations.is_empty() {
        return "nothing has happened yet".to_owned();
    }
    let mut table = plain_table();
    table.set_header(["WHEN (UTC)", "WHO", "WHAT", "OUTCOME", "TOOK", "ID", "COMMENT OR SENTENCE"]);
    for operation in operations {
        let words = operation.comment.as_ref().unwrap_or(&operation.message);
        table.add_row([
            Cell::new(readable_time(&operation.started_at)),
            Cell::new(&operation.actor),
            Cell::new(operation.title()),
            Cell::new(operation.result_word()),
            Cell::new(human_ms(operation.ms)),
            Cell::new(&operation.id),
            Cell::new(shortened(words)),
        ]);
    }
    trimmed(&table)
}

/// For whom, from whom, until when, with what kind of key, and where.
fn certificates_table(certificates: &[Certificate], now: jiff::Timestamp) -> String {
    if certificates.is_empty() {
        return "no certificate serves".to_owned();
    }
    let mut table = plain_table();
    table.set_header(["NAMES", "ISSUER", "NOT AFTER", "LEFT", "KEY", "WHERE"]);
    for certificate in certificates {
        table.add_row([
            several(&certificate.names),
            certificate.issuer.clone(),
            certificate.not_after.split('T').next().unwrap_or_default().to_owned(),
            certificate.left(now),
            certificate.key_type.clone(),
            places(certificate),
        ]);
    }
    trimmed(&table)
}

/// The first few of them.
fn several(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_IN_A_CELL).map(String::as_str).collect::<Vec<_>>().join(" ");
    match names.len().saturating_sub(NAMES_IN_A_CELL) {
        0 => shown,
        more => format!("{shown} +{more}"),
    }
}

/// Listeners by their names, services as such.
fn places(certificate: &Certificate) -> String {
    let listeners = certificate.listeners.iter().cloned();
    let services = certificate.services.iter().map(|service| format!("service {service}"));
    listeners.chain(services).collect::<Vec<_>>().join(", ")
}

/// One row for each connection, one column for each field of the first: the form is the server's own.
fn connections_table(connections: &[serde_json::Value]) -> String {
    let Some(first) = connections.first().and_then(serde_json::Value::as_object) else {
        return format!("{} connections", connections.len());
    };
    let names: Vec<&String> = first.keys().collect();
    let mut table = plain_table();
    table.set_header(names.iter().map(|name| name.to_uppercase().replace('_', " ")));
    for connection in connections {
        table.add_row(names.iter().map(|name| match connection.get(name.as_str()) {
            None | Some(serde_json::Value::Null) => String::new(),
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }));
    }
    trimmed(&table)
}

pub(crate) fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// Columns without borders leave blanks at both ends of a line.
pub(crate) fn trimmed(table: &Table) -> String {
    let lines: Vec<String> =
        table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect();
    lines.join("\n")
}

/// `2026-11-22 03:01:35`.
fn readable_time(rfc3339: &str) -> String {
    match rfc3339.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => rfc3339.to_owned(),
    }
}

pub(crate) fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= CELL_CHARACTERS {
        return line.to_owned();
    }
    let mut short: String = line.chars().take(CELL_CHARACTERS - 1).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use handover_api::{Actor, Cause, Kind, Outcome, Problem, Refused};

    use super::*;

    fn operation(id: &str, kind: Kind, actor: Actor) -> Operation {
        let mut operation = Operation::running(id, kind, actor, "2026-11-22T03:01:35.123Z");
        operation.serving_generation = Some(2);
        operation
    }

    #[test]
    fn a_history_is_a_readable_table() {
        let curl = || Actor::peer(1000, 1000, Some(4711), Some("curl".to_owned()));
        let mut applied = operation("a-1", Kind::Reload, curl());
        applied.comment = Some("ticket 42".to_owned());
        applied.finish(Outcome::Applied, Cause::Done, 3.1);
        let mut rejected = operation("a-2", Kind::Reload, Actor::signal("HUP"));
        rejected.errors = vec![Problem::new("unknown key").in_file("hello.toml").at(7, 3)];
        rejected.finish(Outcome::Rejected, Cause::Refused, 0.8);
        let refused = operation("a-3", Kind::Stop, curl()).refused(&Refused::Stopping, Some(2));
        let running = operation("a-4", Kind::Drain, Actor::peer(0, 0, None, None));
        let table = history_table(&[running, refused, rejected, applied]);
        let expected = [
            "WHEN (UTC)           WHO                  WHAT    OUTCOME             TOOK    ID   COMMENT OR SENTENCE",
            "2026-11-22 03:01:35  root                 drain   running             0.0 ms  a-4  running: drain a-4, asked for by root",
            "2026-11-22 03:01:35  uid 1000 curl[4711]  stop    refused (stopping)  0.0 ms  a-3  the server is shutting down",
            "2026-11-22 03:01:35  signal HUP           reload  rejected            0.8 ms  a-2  rejected: hello.toml:7:3: unknown key; generation 2 still s…",
            "2026-11-22 03:01:35  uid 1000 curl[4711]  reload  applied             3.1 ms  a-1  ticket 42",
        ];
        assert_eq!(table.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn connections_are_shown_with_the_servers_own_fields() {
        let list: Vec<serde_json::Value> =
            serde_json::from_str(r#"[{"kind":"tcp","open_s":3},{"kind":"http","open_s":null}]"#).unwrap();
        assert_eq!(connections_table(&list), "KIND  OPEN S\ntcp   3\nhttp");
        assert_eq!(connections_table(&[]), "0 connections");
    }
}
