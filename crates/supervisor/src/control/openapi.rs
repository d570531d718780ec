//! The API's description (OpenAPI), made from the endpoints and types themselves.
//!
//! `docs/openapi.json` is a copy of it that people can read and diff; a test fails when they differ.

use utoipa::openapi::path::Operation as Endpoint;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use super::{archiving, changing, events, logs, looking, programs};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "handover control API",
        version = "1.0.0",
        description = "HTTP/1.1 on a Unix socket. Who may do what follows from the peer's user and groups, \
                       as the kernel knows them. Without `Accept: application/json`, every answer is one \
                       sentence or a short text for people. Errors are RFC 9457 problem details.",
        license(name = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "look", description = "Changes nothing"),
        (name = "programs", description = "Programs and the traffic to them: what changes something becomes an operation, too"),
        (name = "change", description = "Becomes an operation: one outcome, in the journal before it is answered"),
    ),
    paths(
        looking::status,
        looking::generations,
        looking::generation,
        looking::diff,
        looking::history,
        looking::operation,
        looking::connections,
        looking::certificates,
        looking::config,
        looking::metrics,
        looking::description,
        archiving::backup,
        events::events,
        changing::validate,
        changing::reload,
        changing::confirm,
        changing::cancel,
        changing::rollback,
        changing::upgrade,
        archiving::restore,
        changing::drain,
        changing::resume,
        changing::stop,
        changing::action,
        programs::programs,
        programs::program,
        logs::logs,
        programs::start,
        programs::stop,
        programs::restart,
        programs::reload,
        programs::deploy,
        programs::rollback,
        programs::confirm,
        programs::cancel,
        programs::pause,
        programs::drain,
        programs::enable,
    ),
    modifiers(&WhatAllHave)
)]
struct Description;

/// What every endpoint can answer, beside what each says of itself.
struct WhatAllHave;

impl Modify for WhatAllHave {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        for path in api.paths.paths.values_mut() {
            [&mut path.get, &mut path.post].into_iter().flatten().for_each(complete);
        }
    }
}

fn complete(endpoint: &mut Endpoint) {
    let responses = &mut endpoint.responses.responses;
    // Whatever becomes an operation can be asked for without waiting for its end.
    let operation = Ref::from_schema_name("Operation");
    let becomes_one = matches!(responses.get("200"), Some(RefOr::T(done)) if is(done, &operation));
    if becomes_one && endpoint.tags.iter().flatten().any(|tag| tag != "look") {
        let runs = answer("It runs; Location says where to ask", "application/json", operation);
        responses.entry("202".to_owned()).or_insert(RefOr::T(runs));
    }
    let refused = "Anything else. 400: a parameter or header is not understood; 403: not permitted; 500: what was asked for \
                   did not work out, or cannot be written down";
    let refused = answer(refused, "application/problem+json", Ref::from_schema_name("ProblemDetails"));
    responses.entry("default".to_owned()).or_insert(RefOr::T(refused));
}

/// Whether the answer is an object of this kind.
fn is(response: &Response, kind: &Ref) -> bool {
    response.content.values().any(|content| {
        let RefOr::T(content) = content else { return false };
        matches!(&content.schema, Some(RefOr::Ref(schema)) if schema.ref_location == kind.ref_location)
    })
}

fn answer(description: &str, content_type: &str, body: Ref) -> Response {
    let content = ContentBuilder::new().schema(Some(body)).build();
    ResponseBuilder::new().description(description).content(content_type, content).build()
}

/// The description as JSON, with a line feed at the end.
#[must_use]
pub fn description() -> String {
    let mut json = Description::openapi().to_pretty_json().unwrap_or_default();
    json.push('\n');
    json
}
