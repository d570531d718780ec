//! The endpoints that change nothing.

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use handover_api::{
    Certificate, Diff, EventKind, Generation, Operation, OperationState, ProblemDetails, Refused, Status,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::answer::Answer;
use super::asked::{Preference, Strict};
use super::crossing::Connection;
use super::openapi;
use super::role::{Role, Visitor};
use super::server::App;

/// Operations that a history shows if it is not asked for more.
const DEFAULT_HISTORY: usize = 20;
/// The most that it shows.
const MAX_HISTORY: usize = 10_000;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/", get(index))
        .route("/v1/status", get(status))
        .route("/v1/generations", get(generations))
        .route("/v1/generations/{number}", get(generation))
        .route("/v1/diff", get(diff))
        .route("/v1/history", get(history))
        .route("/v1/operations/{id}", get(operation))
        .route("/v1/connections", get(connections))
        .route("/v1/certificates", get(certificates))
        .route("/v1/config", get(config))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(description))
}

/// Who asks, and what they may do: worked out for every request, because roles can change between two.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) visitor: Arc<Visitor>,
    pub(super) role: Role,
    pub(super) connection: Option<Arc<Connection>>,
}

impl FromRequestParts<App> for Asker {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Answer> {
        let Some(visitor) = parts.extensions.get::<Arc<Visitor>>().cloned() else {
            return Err(Refused::Unavailable("the peer is not known".to_owned()).into());
        };
        let role = visitor.role(&app.driver.settings().borrow(), app.server_uid);
        let connection = parts.extensions.get::<Arc<Connection>>().cloned();
        Ok(Self { visitor, role, connection })
    }
}

impl Asker {
    /// The refusal, if this role is not enough for `what`.
    pub(super) fn refusal(&self, needs: Role, what: &str) -> Option<Refused> {
        (self.role < needs).then(|| Refused::Forbidden {
            who: self.visitor.actor().to_string(),
            has: self.role.to_string(),
            what: what.to_owned(),
            needs: needs.to_string(),
        })
    }

    pub(super) fn may(&self, needs: Role, what: &str) -> Result<(), Answer> {
        match self.refusal(needs, what) {
            None => Ok(()),
            Some(refused) => {
                tracing::warn!(%refused, "a control request was refused");
                Err(refused.into())
            }
        }
    }
}

async fn index(State(app): State<App>, asker: Asker) -> Result<Answer, Answer> {
    asker.may(Role::Read, "the index")?;
    let status = app.driver.status().await?;
    let text = format!(
        "{}\n\nGET  /v1/status /v1/history /v1/operations/{{id}} /v1/generations /v1/generations/{{n}}\n     /v1/diff /v1/config /v1/certificates /v1/connections /v1/backup /v1/events /metrics\n     /openapi.json\nPOST /v1/validate /v1/reload /v1/confirm /v1/cancel /v1/rollback /v1/restore /v1/upgrade\n     /v1/drain /v1/resume /v1/stop /v1/actions/{{name}}\n\nGET  /v1/programs /v1/programs/{{name}} /v1/programs/{{name}}/logs\nPOST /v1/programs/{{name}}/start|stop|restart|reload|deploy|rollback|confirm|cancel\n     /v1/pause /v1/endpoints/{{name}}/drain|enable\n\nJSON with 'Accept: application/json'.",
        status.sentence()
    );
    Ok(Answer::ok(&status, text))
}

/// What runs now.
#[utoipa::path(get, path = "/v1/status", tag = "look", responses(
    (status = 200, description = "What runs now", body = Status),
    (status = 403, description = "The role `read` is needed"),
))]
pub(super) async fn status(State(app): State<App>, asker: Asker) -> Result<Answer, Answer> {
    asker.may(Role::Read, "status")?;
    let mut status = app.driver.status().await?;
    let generation = status.generation.as_ref().map(|generation| generation.number);
    // With memory and connections as they are now.
    if !status.programs.is_empty()
        && let Ok(programs) = app.driver.programs().await
    {
        status.programs = programs;
    }
    status.expiring = app.expiring.of(&app.driver, generation).await;
    Ok(Answer::ok(&status, status.report()))
}

/// The generations that are remembered, the newest first.
#[utoipa::path(get, path = "/v1/generations", tag = "look", responses(
    (status = 200, description = "The newest first", body = Vec<Generation>),
))]
pub(super) async fn generations(State(app): State<App>, asker: Asker) -> Result<Answer, Answer> {
    asker.may(Role::Read, "generations")?;
    let generations = app.driver.generations().await?;
    let lines: Vec<String> = generations.iter().map(Generation::line).collect();
    Ok(Answer::ok(&generations, lines.join("\n")))
}

/// One generation.
#[utoipa::path(get, path = "/v1/generations/{number}", tag = "look",
    params(("number" = u64, Path, description = "Its number")),
    responses(
        (status = 200, description = "The generation with its files", body = Generation),
        (status = 404, description = "It is not remembered"),
    ))]
pub(super) async fn generation(
    State(app): State<App>,
    asker: Asker,
    Path(number): Path<String>,
) -> Result<Answer, Answer> {
    asker.may(Role::Read, "generations")?;
    let generations = app.driver.generations().await?;
    let wanted: Option<u64> = number.parse().ok();
    match generations.iter().find(|generation| Some(generation.number) == wanted) {
        Some(generation) => Ok(Answer::ok(generation, generation.report())),
        None => Err(Answer::not_found(format!(
            "there is no generation {number:?}; {}",
            match generations.as_slice() {
                [] => "none was served yet".to_owned(),
                [newest, .., oldest] => format!("there are {} to {}", oldest.number, newest.number),
                [only] => format!("there is only {}", only.number),
            }
        ))),
    }
}

/// The query of `/v1/diff`.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DiffQuery {
    /// The generation to compare with; the files on disk if not given.
    against: Option<u64>,
}

/// How the files on disk, or another generation, differ from what serves: what a reload or a rollback would change.
#[utoipa::path(get, path = "/v1/diff", tag = "look", params(DiffQuery), responses(
    (status = 200, description = "The differences; `same` if there are none", body = Diff),
    (status = 404, description = "The bytes of that generation are not kept"),
))]
pub(super) async fn diff(
    State(app): State<App>,
    asker: Asker,
    Strict(query): Strict<DiffQuery>,
) -> Result<Answer, Answer> {
    asker.may(Role::Operate, "the configuration's text")?;
    let diff = app.driver.diff(query.against, asker.visitor.actor()).await?;
    Ok(Answer::ok(&diff, diff.report()))
}

/// The query of `/v1/history`.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// How many, the newest first; 20 if not given.
    limit: Option<usize>,
}

/// The last operations, refused ones too, the newest first.
#[utoipa::path(get, path = "/v1/history", tag = "look", params(HistoryQuery), responses(
    (status = 200, description = "The newest first", body = Vec<Operation>),
))]
pub(super) async fn history(
    State(app): State<App>,
    asker: Asker,
    Strict(query): Strict<HistoryQuery>,
) -> Result<Answer, Answer> {
    asker.may(Role::Read, "history")?;
    let count = query.limit.unwrap_or(DEFAULT_HISTORY).min(MAX_HISTORY);
    let operations = app.driver.history(count).await?;
    let lines: Vec<String> = operations.iter().map(Operation::history_line).collect();
    Ok(Answer::ok(&operations, lines.join("\n")))
}

/// The query of `/v1/operations/{id}`.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OperationQuery {
    /// How long to wait for its outcome, e.g. `30s`; not at all if not given.
    timeout: Option<String>,
}

/// One operation, running or ended. Always 200: the operation itself says how it went.
#[utoipa::path(get, path = "/v1/operations/{id}", tag = "look",
    params(("id" = String, Path, description = "Its ID, which is the Idempotency-Key if one was given"), OperationQuery),
    responses(
        (status = 200, description = "The operation as it is", body = Operation),
        (status = 404, description = "There is none with this ID, or the journal has forgotten it"),
    ))]
pub(super) async fn operation(
    State(app): State<App>,
    asker: Asker,
    headers: HeaderMap,
    Path(id): Path<String>,
    Strict(query): Strict<OperationQuery>,
) -> Result<Answer, Answer> {
    asker.may(Role::Read, "operations")?;
    let wait = match query.timeout.as_deref().map(handover_api::parse_duration) {
        Some(Ok(wait)) => Some(wait),
        Some(Err(error)) => return Err(Answer::bad_request(error)),
        None => Preference::of(&headers).wait,
    };
    // Before the first look, so that an end between look and wait is not missed.
    let mut events = app.driver.subscribe();
    let unknown = || Answer::not_found(format!("there is no operation {id:?}; see 'handover history'"));
    let mut operation = app.driver.operation(&id).await?.ok_or_else(unknown)?;
    if let (OperationState::Running, Some(wait)) = (operation.state, wait) {
        let ended = async {
            loop {
                match events.recv().await {
                    Ok(event) if event.kind == EventKind::OperationDone => {
                        if event.operation.is_some_and(|ended| ended.id == id) {
                            return;
                        }
                    }
                    Ok(_) => {}
                    // Events were missed, or there will be no more: look.
                    Err(_) => return,
                }
            }
        };
        // In any case the operation is then told as it is; whoever wants to wait on asks again, and is heard by the program
        // that the supervisor has become by then.
        tokio::select! {
            _ = tokio::time::timeout(wait, ended) => {}
            () = app.driver.crossing.left() => {}
        }
        operation = app.driver.operation(&id).await?.ok_or_else(unknown)?;
    }
    Ok(Answer::ok(&operation, operation.full_report()))
}

/// The connections that the worker has open.
#[utoipa::path(get, path = "/v1/connections", tag = "look", responses(
    (status = 200, description = "One object for each; its form is the server's own", body = Vec<serde_json::Value>),
    (status = 503, description = "The worker does not answer"),
))]
pub(super) async fn connections(State(app): State<App>, asker: Asker) -> Result<Answer, Answer> {
    asker.may(Role::Read, "connections")?;
    let unavailable = |why: &str| Answer::from(Refused::Unavailable(why.to_owned()));
    let json = app.driver.connections().await?.ok_or_else(|| unavailable("no worker answers"))?;
    let list: Vec<serde_json::Value> =
        serde_json::from_str(&json).map_err(|_| unavailable("the worker's answer is no list"))?;
    let lines: Vec<String> = list.iter().map(ToString::to_string).collect();
    Ok(Answer::ok(&list, format!("{} open\n{}", list.len(), lines.join("\n")).trim_end()))
}

/// The certificates that serve: presented by listeners, or to the endpoints of services.
#[utoipa::path(get, path = "/v1/certificates", tag = "look", responses(
    (status = 200, description = "One object for each", body = Vec<Certificate>),
    (status = 503, description = "The worker does not answer"),
))]
pub(super) async fn certificates(State(app): State<App>, asker: Asker) -> Result<Answer, Answer> {
    asker.may(Role::Read, "certificates")?;
    let unavailable = |why: &str| Answer::from(Refused::Unavailable(why.to_owned()));
    let json = app.driver.certificates().await?.ok_or_else(|| unavailable("no worker answers"))?;
    let list: Vec<Certificate> =
        serde_json::from_str(&json).map_err(|_| unavailable("the worker's answer is no list"))?;
    let now = jiff::Timestamp::now();
    let lines: Vec<String> = list.iter().map(|certificate| certificate.line(now)).collect();
    let text = if lines.is_empty() { "no certificate serves".to_owned() } else { lines.join("\n") };
    Ok(Answer::ok(&list, text))
}

/// The top-level file of what serves, byte for byte.
#[utoipa::path(get, path = "/v1/config", tag = "look", responses(
    (status = 200, description = "The file; its ETag is the generation", body = String, content_type = "text/plain"),
    (status = 304, description = "If-None-Match names the generation that serves"),
    (status = 404, description = "Nothing serves yet, or the server has no such file"),
))]
pub(super) async fn config(
    State(app): State<App>,
    asker: Asker,
    headers: HeaderMap,
) -> Result<Response, Answer> {
    asker.may(Role::Operate, "the configuration's text")?;
    let Some(config) = app.driver.config().await? else {
        return Err(Answer::not_found("no configuration file serves"));
    };
    let tag = format!("\"{}\"", config.generation);
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    if known.flat_map(|value| value.split(',')).any(|known| known.trim() == tag || known.trim() == "*") {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let headers = [(header::ETAG, tag), (header::CONTENT_TYPE, "text/plain; charset=utf-8".to_owned())];
    Ok((headers, config.bytes.to_vec()).into_response())
}

/// Metrics of supervisor and worker.
#[utoipa::path(get, path = "/metrics", tag = "look", responses(
    (status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"),
))]
pub(super) async fn metrics(State(app): State<App>, asker: Asker) -> Result<Response, Answer> {
    asker.may(Role::Read, "metrics")?;
    let metrics = app.driver.metrics().await?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, content_type)], metrics).into_response())
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "look", responses(
    (status = 200, description = "OpenAPI 3.1", body = String, content_type = "application/json"),
))]
pub(super) async fn description(asker: Asker) -> Result<Response, Answer> {
    asker.may(Role::Read, "the description")?;
    Ok(([(header::CONTENT_TYPE, "application/json")], openapi::description()).into_response())
}

pub(super) async fn unknown_path(uri: Uri) -> Answer {
    Answer::not_found(format!("there is no {}; GET / lists what there is", uri.path()))
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> Answer {
    let detail = format!("{} does not take {method}; the Allow header says what it takes", uri.path());
    Answer::problem(&ProblemDetails::new(405, "method_not_allowed", "Wrong method", detail))
}
