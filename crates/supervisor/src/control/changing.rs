//! The endpoints that change something: each becomes one operation.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::routing::post;
use handover_api::{Operation, OperationState, ProblemDetails, Refused};

use super::answer::Answer;
use super::asked::{Change, ChangeQuery};
use super::looking::Asker;
use super::programs;
use super::role::Role;
use super::server::App;
use crate::handle::{Ask, NewOperation, WhichBinary};

/// The longest body of an action.
pub(super) const MAX_BODY_BYTES: usize = 256 * 1024;
/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/validate", post(validate))
        .route("/v1/reload", post(reload))
        .route("/v1/confirm", post(confirm))
        .route("/v1/cancel", post(cancel))
        .route("/v1/rollback", post(rollback))
        .route("/v1/upgrade", post(upgrade))
        .route("/v1/drain", post(drain))
        .route("/v1/resume", post(resume))
        .route("/v1/stop", post(stop))
        .route("/v1/actions/{name}", post(action))
}

/// Everything of a reload except that it serves: nothing is changed and nothing bound.
#[utoipa::path(post, path = "/v1/validate", tag = "change", params(ChangeQuery), responses(
    (status = 200, description = "What a reload would do", body = Operation),
    (status = 422, description = "What is wrong, all of it"),
))]
pub(super) async fn validate(State(app): State<App>, asker: Asker, change: Change) -> Result<Answer, Answer> {
    perform(&app, &asker, change, Ask::Validate, Role::Operate).await
}

/// Serve what is on disk.
#[utoipa::path(post, path = "/v1/reload", tag = "change",
    params(ChangeQuery),
    responses(
        (status = 200, description = "Applied or unchanged", body = Operation),
        (status = 403, description = "The role `operate` is needed"),
        (status = 409, description = "Another operation runs or a change awaits confirmation (its ID is in operation_id), or it is drained, starting or stopping"),
        (status = 412, description = "Another generation serves than If-Match names"),
        (status = 422, description = "Rejected: what is wrong, all of it; what served still serves"),
        (status = 500, description = "The candidate was not ready, or it was rolled back"),
    ))]
pub(super) async fn reload(State(app): State<App>, asker: Asker, change: Change) -> Result<Answer, Answer> {
    let ask = if change.query.dry_run {
        Ask::Validate
    } else {
        Ask::Reload { certs_only: change.query.certs, terms: change.query.terms() }
    };
    perform(&app, &asker, change, ask, Role::Operate).await
}

/// Keep the change that awaits confirmation, or that a guard watches.
#[utoipa::path(post, path = "/v1/confirm", tag = "change", params(ChangeQuery), responses(
    (status = 200, description = "It stays", body = Operation),
    (status = 409, description = "Nothing awaits confirmation, or another operation runs"),
))]
pub(super) async fn confirm(State(app): State<App>, asker: Asker, change: Change) -> Result<Answer, Answer> {
    perform(&app, &asker, change, Ask::Confirm, Role::Operate).await
}

/// Go back at once from the change that awaits confirmation, or that a guard watches.
#[utoipa::path(post, path = "/v1/cancel", tag = "change", params(ChangeQuery), responses(
    (status = 200, description = "The generation before serves again", body = Operation),
    (status = 409, description = "Nothing awaits confirmation, or another operation runs"),
))]
pub(super) async fn cancel(State(app): State<App>, asker: Asker, change: Change) -> Result<Answer, Answer> {
    perform(&app, &asker, change, Ask::Cancel, Role::Operate).await
}

/// Serve a generation that served before, byte for byte; the files on disk stay as they are. While an upgrade awaits
/// confirmation and nothing else is asked for, that is taken back. With `binary`, upgrade to the binary that served before.
#[utoipa::path(post, path = "/v1/rollback", tag = "change", params(ChangeQuery), responses(
    (status = 200, description = "It serves again, or does already", body = Operation),
    (status = 404, description = "Its bytes (or the binary) are not kept, or none served before"),
    (status = 409, description = "Another operation runs, or a change awaits confirmation: operation_id names it"),
    (status = 422, description = "It can no longer be served, and why"),
    (status = 500, description = "It was not ready, or a guard took it back"),
))]
pub(super) async fn rollback(State(app): State<App>, asker: Asker, change: Change) -> Result<Answer, Answer> {
    let terms = change.query.terms();
    if change.query.goes_back_to_binary()? {
        let ask = Ask::Upgrade { binary: WhichBinary::Previous, sha256: None, dry_run: false, terms };
        return perform(&app, &asker, change, ask, Role::Admin).await;
    }
    let ask = Ask::Rollback { to: change.query.to, terms };
    perform(&app, &asker, change, ask, Role::Operate).await
}

/// Run another binary, or the same one anew: a worker of it takes over listeners and connections, then the supervisor
/// becomes it. Waits until all that is done, or until it awaits confirmation.
#[utoipa::path(post, path = "/v1/upgrade", tag = "change",
    params(ChangeQuery),
    responses(
        (status = 200, description = "Applied; `upgrade` says from which binary to which, and what moved. Or, for a dry run, it could be", body = Operation),
        (status = 403, description = "The role `admin` is needed"),
        (status = 404, description = "No binary served before this one, or its copy is gone (`previous`)"),
        (status = 409, description = "Another operation runs or a change awaits confirmation (its ID is in operation_id), or it is drained, starting or stopping"),
        (status = 412, description = "Another generation serves than If-Match names"),
        (status = 422, description = "Rejected: which rule forbids this binary"),
        (status = 500, description = "It was not ready (`phase` says in which step, `operation.upgrade.last_lines` what it said), or it was rolled back"),
    ))]
pub(super) async fn upgrade(State(app): State<App>, asker: Asker, change: Change) -> Result<Answer, Answer> {
    let query = &change.query;
    let (binary, sha256) = (query.which_binary()?, query.sha256.clone());
    let ask = Ask::Upgrade { binary, sha256, dry_run: query.dry_run, terms: query.terms() };
    perform(&app, &asker, change, ask, Role::Admin).await
}

/// Let what is in flight end; listeners are held, new connections wait.
#[utoipa::path(post, path = "/v1/drain", tag = "change", params(ChangeQuery), responses(
    (status = 200, description = "Drained; losses say what had to be cut", body = Operation),
    (status = 409, description = "Another operation runs"),
))]
pub(super) async fn drain(State(app): State<App>, asker: Asker, change: Change) -> Result<Answer, Answer> {
    let ask = Ask::Drain { limit: change.query.limit };
    perform(&app, &asker, change, ask, Role::Operate).await
}

/// Serve again after a drain, or call one off. With a name, or if nothing is drained and something is paused: let go what is held.
#[utoipa::path(post, path = "/v1/resume", tag = "change", params(ChangeQuery), responses(
    (status = 200, description = "It serves again; `program` says how many requests were let go", body = Operation),
    (status = 404, description = "Nothing has this name"),
    (status = 409, description = "Another operation runs"),
))]
pub(super) async fn resume(State(app): State<App>, asker: Asker, change: Change) -> Result<Answer, Answer> {
    let name = change.query.name.clone();
    programs::resumed(&app, &asker, change, name).await
}

/// Drain, then end supervisor and worker. Answered before they are gone.
#[utoipa::path(post, path = "/v1/stop", tag = "change", params(ChangeQuery), responses(
    (status = 200, description = "Stopped; losses say what had to be cut", body = Operation),
    (status = 403, description = "The role `admin` is needed"),
))]
pub(super) async fn stop(State(app): State<App>, asker: Asker, change: Change) -> Result<Answer, Answer> {
    let ask = Ask::Stop { now: change.query.now, limit: change.query.limit };
    perform(&app, &asker, change, ask, Role::Admin).await
}

/// Run one of the server's own actions. The text answer is the action's own.
#[utoipa::path(post, path = "/v1/actions/{name}", tag = "change",
    params(("name" = String, Path, description = "Its name; /v1/status lists them"), ChangeQuery),
    request_body(content = String, description = "Given to the action", content_type = "text/plain"),
    responses(
        (status = 200, description = "It worked; `answer` is what it says", body = Operation),
        (status = 404, description = "There is no such action"),
        (status = 500, description = "It did not work, and says why"),
    ))]
pub(super) async fn action(
    State(app): State<App>,
    asker: Asker,
    Path(name): Path<String>,
    change: Change,
    body: Body,
) -> Result<Answer, Answer> {
    // The role first: a body is read only of those whose request may run.
    if asker.role >= Role::Operate {
        let body = text_of(body).await?;
        perform(&app, &asker, change, Ask::Action { name, body }, Role::Operate).await
    } else {
        perform(&app, &asker, change, Ask::Action { name, body: String::new() }, Role::Operate).await
    }
}

async fn text_of(body: Body) -> Result<String, Answer> {
    let problem = |status, word: &str, detail: String| {
        Answer::problem(&ProblemDetails::new(status, word, "The body cannot be used", detail))
    };
    let bytes = match tokio::time::timeout(BODY_LIMIT, axum::body::to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => {
            let detail = format!("it is incomplete or longer than {MAX_BODY_BYTES} bytes");
            return Err(problem(413, "too_long", detail));
        }
        Err(_elapsed) => {
            let detail = format!("it did not arrive within {} s", BODY_LIMIT.as_secs());
            return Err(problem(408, "too_slow", detail));
        }
    };
    String::from_utf8(bytes.to_vec()).map_err(|_| problem(415, "not_text", "it is no UTF-8 text".to_owned()))
}

/// Asks the driver and waits as long as the request wants to wait.
pub(super) async fn perform(
    app: &App,
    asker: &Asker,
    change: Change,
    ask: Ask,
    needs: Role,
) -> Result<Answer, Answer> {
    let what = word_for(&ask);
    let wait = change.wait;
    let new = new_operation(asker, change, ask);
    if let Some(refused) = asker.refusal(needs, &what) {
        return Err(refused_and_noted(app, new, refused).await);
    }
    let ticket = match app.driver.request(new).await {
        Ok(ticket) => ticket,
        Err(refused) => return Err(refusal(app, refused).await),
    };
    let admitted = ticket.operation.clone();
    let Some(wait) = wait else { return Ok(Answer::operation(&admitted)) };
    // If this process becomes another program meanwhile, the answer comes from there.
    let _waits = app.driver.crossing.wait(asker.connection.as_ref(), &admitted.id, wait);
    match tokio::time::timeout(wait, ticket.done()).await {
        Ok(Ok(ended)) => Ok(Answer::operation(&ended)),
        Ok(Err(refused)) => Err(lost(&admitted, &refused)),
        Err(_elapsed) => Ok(Answer::operation(&as_it_is(app, admitted).await)),
    }
}

fn word_for(ask: &Ask) -> String {
    match ask {
        Ask::Validate => "validate".to_owned(),
        Ask::Reload { .. } => "reload".to_owned(),
        Ask::Rollback { .. } => "rollback".to_owned(),
        Ask::Restore { .. } => "restore".to_owned(),
        Ask::Upgrade { .. } => "upgrade".to_owned(),
        Ask::Confirm => "confirm".to_owned(),
        Ask::Cancel => "cancel".to_owned(),
        Ask::Drain { .. } => "drain".to_owned(),
        Ask::Resume => "resume".to_owned(),
        Ask::Stop { .. } => "stop".to_owned(),
        Ask::Action { name, .. } => format!("action {name}"),
        Ask::Program(asked) => programs::word_for(asked),
    }
}

pub(super) fn new_operation(asker: &Asker, change: Change, ask: Ask) -> NewOperation {
    NewOperation {
        ask,
        actor: asker.visitor.actor(),
        comment: change.query.comment.filter(|comment| !comment.is_empty()),
        id: change.id,
        if_match: change.if_match,
    }
}

/// A refusal that is in the history, too, unless there are too many of them.
pub(super) async fn refused_and_noted(app: &App, new: NewOperation, refused: Refused) -> Answer {
    tracing::warn!(%refused, "a control request was refused");
    if app.refusals.take() {
        // The journal may be full or the driver busy: the refusal stands all the same.
        let _ = app.driver.refuse(new, refused.clone()).await;
    }
    refused.into()
}

/// A refusal with the generation that serves, where that can be found out.
async fn refusal(app: &App, refused: Refused) -> Answer {
    let mut details = refused.problem_details();
    if !matches!(refused, Refused::Unavailable(_))
        && let Ok(status) = app.driver.status().await
    {
        details.serving_generation = status.generation.map(|generation| generation.number);
    }
    Answer::problem(&details)
}

async fn as_it_is(app: &App, admitted: Operation) -> Operation {
    match app.driver.operation(&admitted.id).await {
        Ok(Some(operation)) if operation.state == OperationState::Running => operation,
        // It ended in this very moment; 202 and asking again is still right.
        _ => admitted,
    }
}

/// The supervisor ends before the operation does: its outcome is for the next one to find out.
fn lost(admitted: &Operation, refused: &Refused) -> Answer {
    let mut details = refused.problem_details();
    details.operation_id = Some(admitted.id.clone());
    details.detail = format!(
        "unknown: {refused}, so nobody can say how {} {} ended; ask for it by its ID",
        admitted.title(),
        admitted.id
    );
    Answer::problem(&details)
}

/// How many refused requests are written into the journal: enough to see who tried, too few to push
/// everything else out of it.
#[derive(Debug)]
pub(super) struct RefusalLimit {
    state: Mutex<(f64, Instant)>,
}

/// Refusals that are written at once.
const REFUSALS_AT_ONCE: f64 = 20.0;
/// Refusals that are written per second in the long run.
const REFUSALS_PER_SECOND: f64 = 0.1;

impl Default for RefusalLimit {
    fn default() -> Self {
        Self { state: Mutex::new((REFUSALS_AT_ONCE, Instant::now())) }
    }
}

impl RefusalLimit {
    /// Whether this one is written.
    fn take(&self) -> bool {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, since) = *state;
        let gained = now.saturating_duration_since(since).as_secs_f64() * REFUSALS_PER_SECOND;
        let left = (left + gained).min(REFUSALS_AT_ONCE);
        let take = left >= 1.0;
        *state = (if take { left - 1.0 } else { left }, now);
        take
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_cannot_push_everything_else_out_of_the_journal() {
        let limit = RefusalLimit::default();
        let start = Instant::now();
        let written = (0..1_000).filter(|_| limit.take_at(start)).count();
        assert_eq!(written, 20);
        assert!(!limit.take_at(start + Duration::from_secs(9)));
        assert!(limit.take_at(start + Duration::from_secs(11)));
        assert!(!limit.take_at(start + Duration::from_secs(11)));
    }
}
