//! The endpoints about programs and the traffic to them.
//!
//! ```text
//!   GET  programs, programs/NAME                   what runs
//!        programs/NAME/logs                        what it writes: see `logs`
//!   POST programs/NAME/start|stop|restart|reload|deploy|rollback|confirm|cancel
//!        pause?name=, resume?name=                 a program, service, route or listener
//!        endpoints/NAME/drain|enable               one endpoint
//! ```
//!
//! All of it is `operate`, but a deploy from a directory: that says which code runs, as an upgrade does, and needs `admin`.

use axum::Router;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::routing::{get, post};
use handover_api::{Operation, Phase, ProgramStatus, Refused};

use super::answer::Answer;
use super::asked::{Change, Named, ProgramChange, ProgramQuery};
use super::changing::perform;
use super::looking::Asker;
use super::role::Role;
use super::server::App;
use crate::handle::{Ask, ProgramAsked, ProgramWhat};

/// The longest name.
const MAX_NAME_BYTES: usize = 1_024;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/programs", get(programs))
        .route("/v1/programs/{name}", get(program))
        .route("/v1/programs/{name}/start", post(start))
        .route("/v1/programs/{name}/stop", post(stop))
        .route("/v1/programs/{name}/restart", post(restart))
        .route("/v1/programs/{name}/reload", post(reload))
        .route("/v1/programs/{name}/deploy", post(deploy))
        .route("/v1/programs/{name}/rollback", post(rollback))
        .route("/v1/programs/{name}/confirm", post(confirm))
        .route("/v1/programs/{name}/cancel", post(cancel))
        .route("/v1/pause", post(pause))
        .route("/v1/endpoints/{name}/drain", post(drain))
        .route("/v1/endpoints/{name}/enable", post(enable))
}

/// All programs with their copies, memory and connections as they are now.
#[utoipa::path(get, path = "/v1/programs", tag = "programs", responses(
    (status = 200, description = "By name", body = Vec<ProgramStatus>),
))]
pub(super) async fn programs(State(app): State<App>, asker: Asker) -> Result<Answer, Answer> {
    asker.may(Role::Read, "programs")?;
    let programs = app.driver.programs().await?;
    let now = jiff::Timestamp::now();
    let reports: Vec<String> = programs.iter().map(|program| program.report(now)).collect();
    let text = if reports.is_empty() { "this server runs no program".to_owned() } else { reports.join("\n") };
    Ok(Answer::ok(&programs, text))
}

/// One program.
#[utoipa::path(get, path = "/v1/programs/{name}", tag = "programs", params(Named), responses(
    (status = 200, description = "The program with its copies", body = ProgramStatus),
))]
pub(super) async fn program(
    State(app): State<App>,
    asker: Asker,
    Path(Named { name }): Path<Named>,
) -> Result<Answer, Answer> {
    asker.may(Role::Read, "programs")?;
    let programs = app.driver.programs().await?;
    match programs.iter().find(|program| program.name == name) {
        Some(program) => Ok(Answer::ok(program, program.report(jiff::Timestamp::now()))),
        None => {
            let known = programs.into_iter().map(|program| program.name).collect();
            Err(Refused::NoSuchProgram { name, known }.into())
        }
    }
}

/// Start a program that was stopped, and wait until it is ready.
#[utoipa::path(post, path = "/v1/programs/{name}/start", tag = "programs", params(Named, ProgramQuery), responses(
    (status = 200, description = "It runs and is ready, or did already", body = Operation),
    (status = 500, description = "It was not ready: `operation.program.last_lines` is what it wrote"),
))]
pub(super) async fn start(wanted: Wanted) -> Result<Answer, Answer> {
    wanted.perform(ProgramWhat::Start).await
}

/// Ask a program to end; it is not started again until somebody starts it. Its sockets stay: connections wait in their queues.
#[utoipa::path(post, path = "/v1/programs/{name}/stop", tag = "programs", params(Named, ProgramQuery), responses(
    (status = 200, description = "Nothing of it runs; what had to be killed or cut is counted", body = Operation),
))]
pub(super) async fn stop(wanted: Wanted) -> Result<Answer, Answer> {
    wanted.perform(ProgramWhat::Stop).await
}

/// Start new copies, prove them ready, let them take over, ask the old ones to end.
#[utoipa::path(post, path = "/v1/programs/{name}/restart", tag = "programs", params(Named, ProgramQuery), responses(
    (status = 200, description = "The new copies serve; `program` says what proved them, what was held, killed and cut", body = Operation),
    (status = 409, description = "Another operation runs: operation_id names it"),
    (status = 500, description = "The new copies were not ready, and the old ones serve on; `operation.program.last_lines` is what they wrote"),
))]
pub(super) async fn restart(wanted: Wanted) -> Result<Answer, Answer> {
    let ProgramQuery { batch, max_unhealthy, .. } = wanted.change.own;
    wanted.perform(ProgramWhat::Restart { batch, max_unhealthy }).await
}

/// Have a program read its configuration anew, in the way that is configured for it.
#[utoipa::path(post, path = "/v1/programs/{name}/reload", tag = "programs", params(Named, ProgramQuery), responses(
    (status = 200, description = "`applied`: it was proved. `sent`: a signal was sent, and nothing says what became of it", body = Operation),
    (status = 422, description = "The program said no, or no way to reload it is configured"),
    (status = 500, description = "It said nothing in time"),
))]
pub(super) async fn reload(wanted: Wanted) -> Result<Answer, Answer> {
    wanted.perform(ProgramWhat::Reload).await
}

/// Run what is in another slot (the idle one if none is named), or in a directory: hook, start, proof, switch, drain.
#[utoipa::path(post, path = "/v1/programs/{name}/deploy", tag = "programs", params(Named, ProgramQuery), responses(
    (status = 200, description = "It serves; `program` says from which slot to which, and what becomes of the one before", body = Operation),
    (status = 403, description = "The role `operate` is needed, for a directory `admin`"),
    (status = 409, description = "Another operation runs: operation_id names it"),
    (status = 422, description = "There is no such slot, it serves already, or the hook failed"),
    (status = 500, description = "It was not ready, or the guard took it back; what served before serves"),
))]
pub(super) async fn deploy(wanted: Wanted) -> Result<Answer, Answer> {
    let ProgramQuery { slot, directory, confirm_within, .. } = &wanted.change.own;
    if slot.is_some() && directory.is_some() {
        return Err(Answer::bad_request("a deploy is of a slot or of a directory: ask for one of the two"));
    }
    let what = ProgramWhat::Deploy {
        slot: slot.clone(),
        directory: directory.clone(),
        confirm: *confirm_within,
        guard: wanted.change.own.guard_time(),
    };
    wanted.perform(what).await
}

/// Run again what ran before the last deploy: at once while that is kept warm.
#[utoipa::path(post, path = "/v1/programs/{name}/rollback", tag = "programs", params(Named, ProgramQuery), responses(
    (status = 200, description = "It serves again", body = Operation),
    (status = 422, description = "Nothing was deployed before"),
))]
pub(super) async fn rollback(wanted: Wanted) -> Result<Answer, Answer> {
    wanted.perform(ProgramWhat::Rollback).await
}

/// Keep the deploy that awaits confirmation.
#[utoipa::path(post, path = "/v1/programs/{name}/confirm", tag = "programs", params(Named, ProgramQuery), responses(
    (status = 200, description = "It stays", body = Operation),
    (status = 422, description = "None awaits confirmation"),
))]
pub(super) async fn confirm(wanted: Wanted) -> Result<Answer, Answer> {
    wanted.perform(ProgramWhat::Confirm).await
}

/// Take back the deploy that awaits confirmation, at once.
#[utoipa::path(post, path = "/v1/programs/{name}/cancel", tag = "programs", params(Named, ProgramQuery), responses(
    (status = 200, description = "What served before serves again", body = Operation),
    (status = 422, description = "None awaits confirmation"),
))]
pub(super) async fn cancel(wanted: Wanted) -> Result<Answer, Answer> {
    wanted.perform(ProgramWhat::Cancel).await
}

/// Hold new requests, and answer when those in flight have ended. It ends by itself after `for`.
#[utoipa::path(post, path = "/v1/pause", tag = "programs", params(ProgramQuery), responses(
    (status = 200, description = "It is paused; `program` says what has ended and what is held", body = Operation),
    (status = 404, description = "Nothing has this name"),
    (status = 422, description = "Several things have this name, or it cannot be paused, and why"),
))]
pub(super) async fn pause(
    State(app): State<App>,
    asker: Asker,
    change: ProgramChange,
) -> Result<Answer, Answer> {
    let Some(name) = change.own.name.clone() else {
        return Err(Answer::bad_request("name says what is paused: a program, service, route or listener"));
    };
    let what = ProgramWhat::Pause { time: change.own.time, max_held: change.own.max_held };
    about(&app, &asker, name, change.change, what).await
}

/// `POST /v1/resume` where it is not about a drain of the whole server: with a name, or while something is paused.
pub(super) async fn resumed(
    app: &App,
    asker: &Asker,
    change: Change,
    name: Option<String>,
) -> Result<Answer, Answer> {
    let name = match name {
        Some(name) => name,
        // Who may not is told so, and nothing else.
        None if asker.role < Role::Operate => {
            return perform(app, asker, change, Ask::Resume, Role::Operate).await;
        }
        None => {
            let status = app.driver.status().await?;
            let is_drained = matches!(status.phase, Phase::Draining | Phase::Drained);
            if is_drained || status.paused.is_empty() {
                return perform(app, asker, change, Ask::Resume, Role::Operate).await;
            }
            let asked = ProgramAsked { target: None, what: ProgramWhat::Resume };
            return perform(app, asker, change, Ask::Program(asked), Role::Operate).await;
        }
    };
    about(app, asker, name, change, ProgramWhat::Resume).await
}

/// An endpoint gets nothing new; waits until what is in flight has ended, at most for `limit`. Nothing is cut.
#[utoipa::path(post, path = "/v1/endpoints/{name}/drain", tag = "programs",
    params(("name" = String, Path, description = "Its name: `127.0.0.1:9001`, or `web/1`, as one segment (`web%2F1`)"), ProgramQuery),
    responses(
        (status = 200, description = "It gets nothing new; `program` says what has ended and what is left", body = Operation),
    ))]
pub(super) async fn drain(wanted: Wanted) -> Result<Answer, Answer> {
    let limit = wanted.change.own.limit;
    wanted.perform(ProgramWhat::DrainEndpoint { limit }).await
}

/// An endpoint that was drained gets new requests again.
#[utoipa::path(post, path = "/v1/endpoints/{name}/enable", tag = "programs",
    params(("name" = String, Path, description = "Its name, as one segment"), ProgramQuery),
    responses(
        (status = 200, description = "It gets requests", body = Operation),
    ))]
pub(super) async fn enable(wanted: Wanted) -> Result<Answer, Answer> {
    wanted.perform(ProgramWhat::EnableEndpoint).await
}

/// A request to change something about what its path names.
#[derive(Debug)]
pub(super) struct Wanted {
    app: App,
    asker: Asker,
    name: String,
    change: ProgramChange,
}

impl FromRequestParts<App> for Wanted {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Answer> {
        let asker = Asker::from_request_parts(parts, app).await?;
        let Path(Named { name }) = Path::from_request_parts(parts, app).await?;
        let change = ProgramChange::from_request_parts(parts, app).await?;
        Ok(Self { app: app.clone(), asker, name, change })
    }
}

impl Wanted {
    async fn perform(self, what: ProgramWhat) -> Result<Answer, Answer> {
        about(&self.app, &self.asker, self.name, self.change.change, what).await
    }
}

async fn about(
    app: &App,
    asker: &Asker,
    name: String,
    change: Change,
    what: ProgramWhat,
) -> Result<Answer, Answer> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(Answer::bad_request("this is no name of anything"));
    }
    // Which code runs is said by whoever may upgrade.
    let needs = match what {
        ProgramWhat::Deploy { directory: Some(_), .. } => Role::Admin,
        _ => Role::Operate,
    };
    let asked = ProgramAsked { target: Some(name), what };
    perform(app, asker, change, Ask::Program(asked), needs).await
}

/// `restart web`, for a refusal.
pub(super) fn word_for(asked: &ProgramAsked) -> String {
    let what = match asked.what {
        ProgramWhat::Start => "start",
        ProgramWhat::Stop => "stop",
        ProgramWhat::Restart { .. } => "restart",
        ProgramWhat::Reload => "reload",
        ProgramWhat::Deploy { directory: Some(_), .. } => "deploy of a directory for",
        ProgramWhat::Deploy { .. } => "deploy",
        ProgramWhat::Rollback | ProgramWhat::GoBack => "rollback",
        ProgramWhat::Confirm => "confirm",
        ProgramWhat::Cancel => "cancel",
        ProgramWhat::Pause { .. } => "pause",
        ProgramWhat::Resume => "resume",
        ProgramWhat::DrainEndpoint { .. } => "drain",
        ProgramWhat::EnableEndpoint => "enable",
    };
    match &asked.target {
        Some(target) => format!("{what} {target}"),
        None => what.to_owned(),
    }
}
