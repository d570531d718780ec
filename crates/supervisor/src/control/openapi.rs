//! The API's description (OpenAPI), made from the endpoints and types themselves.
//!
//! `docs/openapi.json` is a copy of it that people can read and diff; a test fails when they differ.

use utoipa::OpenApi;

use super::{archiving, changing, events, looking};

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
    )
)]
struct Description;

/// The description as JSON, with a line feed at the end.
#[must_use]
pub fn description() -> String {
    let mut json = Description::openapi().to_pretty_json().unwrap_or_default();
    json.push('\n');
    json
}
