//! The API's description (OpenAPI), made from the endpoints and types themselves.
//!
//! `docs/openapi.json` is a copy of it that people can read and diff; a test fails when they differ.

use handover_api::{PROBLEM_CONTENT_TYPE, ProblemDetails};
use utoipa::openapi::path::{Operation as Endpoint, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Required, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi, PartialSchema};

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
    components(schemas(ProblemDetails)),
    modifiers(&WhatAllHave)
)]
struct Description;

/// What all endpoints of a kind take and answer, beside what each says of itself.
struct WhatAllHave;

impl Modify for WhatAllHave {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut api.paths.paths {
            let has_name = path.contains("{name}");
            [&mut item.get, &mut item.post].into_iter().flatten().for_each(|it| complete(it, has_name));
        }
        let components = api.components.get_or_insert_default();
        components.parameters.extend(HEADERS.map(|(name, says)| (name.to_owned(), header(name, says))));
    }
}

/// The headers that every request takes which becomes an operation.
const HEADERS: [(&str, &str); 3] = [
    ("Idempotency-Key", "The operation's ID: the same key again gets the same operation's answer"),
    ("If-Match", "Only if this generation serves"),
    ("Prefer", "`wait=SECONDS`, `respond-async` (RFC 7240)"),
];

fn complete(endpoint: &mut Endpoint, has_name: bool) {
    let responses = &mut endpoint.responses.responses;
    // Whatever becomes an operation can be asked for without waiting for its end.
    let operation = Ref::from_schema_name("Operation");
    let becomes_one = matches!(responses.get("200"), Some(RefOr::T(done)) if is(done, &operation));
    if becomes_one && endpoint.tags.iter().flatten().any(|tag| tag != "look") {
        let runs = described("It runs; Location says where to ask");
        let runs = runs.content("application/json", ContentBuilder::new().schema(Some(operation)).build());
        responses.entry("202".to_owned()).or_insert(runs.build().into());
        endpoint
            .parameters
            .get_or_insert_default()
            .extend(HEADERS.map(|(name, _)| RefOr::Ref(Ref::new(format!("#/components/parameters/{name}")))));
    }
    if has_name {
        let unknown = described("There is none with this name; those that there are");
        responses.entry("404".to_owned()).or_insert(unknown.build().into());
    }
    let refused = "Anything else. 400: a parameter or header is not understood; 403: not permitted; 500: what was asked for \
                   did not work out, or cannot be written down";
    responses.entry("default".to_owned()).or_insert(described(refused).build().into());
    // Whatever is refused or fails is told in the same form.
    let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("ProblemDetails"))).build();
    for (status, response) in responses {
        if let RefOr::T(response) = response
            && (status.starts_with(['4', '5']) || status == "default")
        {
            response.content.insert(PROBLEM_CONTENT_TYPE.to_owned(), problem.clone().into());
        }
    }
}

/// Whether the answer is an object of this kind.
fn is(response: &Response, kind: &Ref) -> bool {
    response.content.values().any(|content| {
        let RefOr::T(content) = content else { return false };
        matches!(&content.schema, Some(RefOr::Ref(schema)) if schema.ref_location == kind.ref_location)
    })
}

fn described(description: &str) -> ResponseBuilder {
    ResponseBuilder::new().description(description)
}

fn header(name: &str, description: &str) -> RefOr<Parameter> {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .description(Some(description))
        .required(Required::False)
        .schema(Some(String::schema()))
        .build()
        .into()
}

/// The description as JSON, with a line feed at the end.
#[must_use]
pub fn description() -> String {
    let mut json = Description::openapi().to_pretty_json().unwrap_or_default();
    json.push('\n');
    json
}
