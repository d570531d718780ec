//! Verbs that become an operation.
//!
//! Each asks, waits, and says how it went. The ID is chosen here, before asking, so that the outcome can be
//! asked for later whatever happens to the connection.

use std::process::ExitCode;
use std::time::Duration;

use handover_api::{
    Call, Change, ChangeKind, ClientError, ExitCode as Code, Kind, Operation, OperationState, percent_encoded,
};

use crate::args::{
    Action, Cancel, Confirm, Drain, GoBackTo, Operate, Reload, Resume, Rollback, Stop, Terms, Upgrade,
    Validate,
};
use crate::asking::answered;
use crate::local;
use crate::output::note;
use crate::progress::with_progress;
use crate::session::{Session, seen_from_here};

/// How much longer than `--timeout` the server's own answer is waited for.
const GRACE: Duration = Duration::from_secs(2);
/// Changed certificates that are listed under the sentence.
const MAX_CERTIFICATES_SHOWN: usize = 50;

pub(crate) fn reload(session: &Session, reload: &Reload) -> ExitCode {
    if let Some(name) = &reload.name {
        return about_program(session, "reload", name, &reload.operate);
    }
    let mut call = under(Call::post("/v1/reload"), &reload.terms);
    if reload.dry_run {
        call = call.query("dry_run", "true");
    }
    if reload.certs {
        call = call.query("certs", "true");
    }
    operate(session, if reload.dry_run { "validation" } else { "reload" }, call, &reload.operate)
}

pub(crate) fn confirm(session: &Session, confirm: &Confirm) -> ExitCode {
    if let Some(name) = &confirm.name {
        return about_program(session, "confirm", name, &confirm.operate);
    }
    operate(session, "confirm", Call::post("/v1/confirm"), &confirm.operate)
}

pub(crate) fn cancel(session: &Session, cancel: &Cancel) -> ExitCode {
    if let Some(name) = &cancel.name {
        return about_program(session, "cancel", name, &cancel.operate);
    }
    operate(session, "cancel", Call::post("/v1/cancel"), &cancel.operate)
}

pub(crate) fn rollback(session: &Session, rollback: &Rollback) -> ExitCode {
    let mut call = under(Call::post("/v1/rollback"), &rollback.terms);
    match &rollback.to {
        None => {}
        Some(GoBackTo::Generation(to)) => call = call.query("to", &to.to_string()),
        Some(GoBackTo::Program(_)) if !rollback.terms.is_none() => {
            let message =
                "a program goes back at once: --confirm-within and --guard are for generations and deploys";
            return session.output().failure(message, Code::Usage);
        }
        Some(GoBackTo::Program(name)) => {
            return about_program(session, "rollback", name, &rollback.operate);
        }
    }
    if rollback.binary {
        call = call.query("binary", "true");
    }
    operate(session, "rollback", call, &rollback.operate)
}

pub(crate) fn upgrade(session: &Session, upgrade: &Upgrade) -> ExitCode {
    let mut call = under(Call::post("/v1/upgrade"), &upgrade.terms);
    if let Some(binary) = &upgrade.binary {
        // The server has another working directory.
        let path = std::path::absolute(binary).unwrap_or_else(|_| binary.clone());
        let Some(path) = path.to_str() else {
            let message = format!("{}: a path that is no UTF-8 text cannot be asked for", path.display());
            return session.output().failure(&message, Code::Usage);
        };
        call = call.query("binary", path);
    }
    if let Some(sha256) = &upgrade.sha256 {
        call = call.query("sha256", sha256);
    }
    if upgrade.dry_run {
        call = call.query("dry_run", "true");
    }
    operate(session, "upgrade", call, &upgrade.operate)
}

/// Adds the terms of a change to its request.
pub(crate) fn under(mut call: Call, terms: &Terms) -> Call {
    if let Some(within) = terms.confirm_within {
        call = call.query("confirm_within", &milliseconds(within));
    }
    match terms.guard {
        _ if terms.no_guard => call.query("guard", "false"),
        None => call,
        Some(None) => call.query("guard", "true"),
        Some(Some(watch)) => call.query("guard", &milliseconds(watch)),
    }
}

pub(crate) fn validate(session: &Session, validate: &Validate) -> ExitCode {
    match &validate.file {
        Some(file) => local::validate(file, session.output()),
        None => operate(session, "validation", Call::post("/v1/validate"), &validate.operate),
    }
}

pub(crate) fn drain(session: &Session, drain: &Drain) -> ExitCode {
    let (path, what) = match &drain.name {
        Some(name) => (format!("/v1/endpoints/{}/drain", percent_encoded(name)), format!("drain {name}")),
        None => ("/v1/drain".to_owned(), "drain".to_owned()),
    };
    operate(session, &what, limited(Call::post(path), drain.limit), &drain.operate)
}

pub(crate) fn resume(session: &Session, resume: &Resume) -> ExitCode {
    let call = Call::post("/v1/resume");
    match &resume.name {
        Some(name) => operate(session, &format!("resume {name}"), call.query("name", name), &resume.operate),
        None => operate(session, "resume", call, &resume.operate),
    }
}

pub(crate) fn stop(session: &Session, stop: &Stop) -> ExitCode {
    if let Some(name) = &stop.name {
        return about_program(session, "stop", name, &stop.operate);
    }
    let mut call = limited(Call::post("/v1/stop"), stop.limit);
    if stop.now {
        call = call.query("now", "true");
    }
    operate(session, "stop", call, &stop.operate)
}

pub(crate) fn action(session: &Session, action: &Action) -> ExitCode {
    let call = Call::post(format!("/v1/actions/{}", percent_encoded(&action.name))).body(action.body.clone());
    operate(session, &format!("action {}", action.name), call, &action.operate)
}

fn limited(call: Call, limit: Option<Duration>) -> Call {
    match limit {
        Some(limit) => call.query("limit", &milliseconds(limit)),
        None => call,
    }
}

pub(crate) fn milliseconds(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// One of the verbs that a program takes without more.
pub(crate) fn about_program(session: &Session, verb: &str, name: &str, how: &Operate) -> ExitCode {
    operate(session, &format!("{verb} {name}"), program_call(name, verb), how)
}

/// `POST /v1/programs/NAME/VERB`.
pub(crate) fn program_call(name: &str, verb: &str) -> Call {
    Call::post(format!("/v1/programs/{}/{verb}", percent_encoded(name)))
}

pub(crate) fn operate(session: &Session, what: &str, call: Call, how: &Operate) -> ExitCode {
    operate_then(session, what, call, how, async |_, code| Ok(code.into()))
}

/// Asks for an operation, waits, and says how it went; `then` goes on from there and says how it all ends.
pub(crate) fn operate_then(
    session: &Session,
    what: &str,
    call: Call,
    how: &Operate,
    then: impl AsyncFnOnce(&Operation, Code) -> Result<ExitCode, ClientError>,
) -> ExitCode {
    let id = how.idempotency_key.clone().unwrap_or_else(handover_api::operation_id);
    let call = with_options(call, &id, how);
    session.run(async {
        let asked = async {
            let answer = answered(session.client(), call, &id, how.detach);
            match how.timeout {
                Some(limit) => tokio::time::timeout(limit + GRACE, answer).await,
                None => Ok(answer.await),
            }
        };
        let (answer, mut told) = tokio::select! {
            done = with_progress(session.client(), what, &id, asked) => done,
            _ = tokio::signal::ctrl_c() => return Ok(outcome_unknown(session, what, &id, "not waited for")),
        };
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(lost @ ClientError::Lost { .. })) => {
                return Ok(outcome_unknown(session, what, &id, &lost.to_string()));
            }
            Ok(Err(error)) => return Err(error),
            Err(_elapsed) => return Ok(outcome_unknown(session, what, &id, "no answer in time")),
        };
        if answer.status >= 400 {
            if let Some(operation) = answer.problem().and_then(|problem| problem.operation) {
                told.rest(&operation);
            }
            return Ok(session.refused(&answer));
        }
        let operation: Operation = answer.json()?;
        told.rest(&operation);
        if operation.http_status() >= 400 {
            return Ok(session.failed(operation));
        }
        let code = match operation.state {
            OperationState::Running if how.detach => Code::Success,
            _ => Code::from(&operation),
        };
        if session.output().is_json() {
            session.output().json(&answer.body);
        } else {
            session.output().text(&text_of(&seen_from_here(operation.clone())));
        }
        if operation.state == OperationState::Running && !how.detach {
            note(&format!("it goes on; ask with 'handover show {}'", operation.id));
        }
        then(&operation, code).await
    })
}

fn with_options(mut call: Call, id: &str, how: &Operate) -> Call {
    call = call.header("idempotency-key", id);
    if let Some(generation) = how.if_match {
        call = call.header("if-match", format!("\"{generation}\""));
    }
    if let Some(comment) = &how.comment {
        call = call.query("comment", comment);
    }
    if how.detach {
        call = call.query("detach", "true");
    }
    match how.timeout {
        Some(timeout) => call.query("timeout", &milliseconds(timeout)),
        None => call,
    }
}

/// The sentence; every change of a validation, because that is what was asked, and every certificate that changed,
/// unless the sentence has it; then what is wrong.
fn text_of(operation: &Operation) -> String {
    let all = operation.kind == Kind::DryRun;
    let untold = |change: &&Change| match operation.changes.as_slice() {
        [_only] => all,
        _ => all || change.kind == ChangeKind::Certificate,
    };
    let untold: Vec<&Change> = operation.changes.iter().filter(untold).collect();
    let shown = if all { untold.len() } else { MAX_CERTIFICATES_SHOWN };
    let mut lines = String::new();
    for change in untold.iter().take(shown) {
        lines.push_str("\n  ");
        lines.push_str(&change.line());
    }
    if let Some(more) = untold.len().checked_sub(shown).filter(|more| *more > 0) {
        lines.push_str(&format!("\n  and {more} more; 'handover show {}' lists them", operation.id));
    }
    let report = operation.report();
    match report.strip_prefix(&operation.message) {
        Some(rest) => format!("{}{lines}{rest}", operation.message),
        None => report + &lines,
    }
}

fn outcome_unknown(session: &Session, what: &str, id: &str, why: &str) -> ExitCode {
    let message = format!("unknown: {why}; {what} {id} may go on; ask with 'handover show {id}'");
    session.output().failure(&message, Code::Unknown)
}
