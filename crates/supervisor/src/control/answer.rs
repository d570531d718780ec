//! Answers: what an endpoint says, before it is known whether a person or a program reads it.
//!
//! Endpoints return an [`Answer`]. It travels through the router as an extension of an empty response, and
//! [`render`] turns it into text or JSON when the request's `Accept` is at hand. So no endpoint knows about
//! formats, and the router's own refusals (404, 405) look like all others.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use handover_api::{Operation, PROBLEM_CONTENT_TYPE, ProblemDetails, Refused};
use serde::Serialize;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// What an endpoint says.
#[derive(Debug, Clone)]
pub(super) struct Answer(Box<Said>);

#[derive(Debug, Clone)]
struct Said {
    status: StatusCode,
    json_type: &'static str,
    json: Vec<u8>,
    text: String,
    headers: HeaderMap,
}

impl Answer {
    /// 200 with both forms.
    pub(super) fn ok(json: &impl Serialize, text: impl Into<String>) -> Self {
        Self::new(StatusCode::OK, JSON, json, text)
    }

    fn new(
        status: StatusCode,
        json_type: &'static str,
        json: &impl Serialize,
        text: impl Into<String>,
    ) -> Self {
        // Serialising these types cannot fail: they have string keys only.
        let json = serde_json::to_vec(json).unwrap_or_default();
        Self(Box::new(Said { status, json_type, json, text: text.into(), headers: HeaderMap::new() }))
    }

    /// An operation as it is now: 200 if it ended well, 202 if it runs, an error otherwise.
    pub(super) fn operation(operation: &Operation) -> Self {
        let place = format!("/v1/operations/{}", operation.id);
        let status = status_code(operation.http_status());
        if status.is_success() {
            let name = if status == StatusCode::ACCEPTED { "location" } else { "content-location" };
            return Self::new(status, JSON, operation, operation.report()).with_header(name, &place);
        }
        Self::problem(&operation.problem_details()).with_header("content-location", &place)
    }

    /// An error.
    pub(super) fn problem(problem: &ProblemDetails) -> Self {
        Self::new(status_code(problem.status), PROBLEM_CONTENT_TYPE, problem, problem.report())
    }

    /// A request that is not understood.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::problem(&ProblemDetails::new(400, "bad_request", "The request is not understood", detail))
    }

    /// Something that is not there.
    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::problem(&ProblemDetails::new(404, "not_found", "Not found", detail))
    }

    pub(super) fn with_header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }
}

fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl From<Refused> for Answer {
    fn from(refused: Refused) -> Self {
        Self::problem(&refused.problem_details())
    }
}

impl From<PathRejection> for Answer {
    fn from(rejection: PathRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives an answer the form that the request accepts. Responses that are no [`Answer`] are left as they are.
pub(super) fn render(accept: &HeaderMap, mut response: Response) -> Response {
    let Some(Answer(said)) = response.extensions_mut().remove::<Answer>() else { return response };
    let (content_type, mut body) = match wanted(accept) {
        Format::Json => (said.json_type, said.json),
        Format::Text => (TEXT, said.text.into_bytes()),
    };
    if body.last() != Some(&b'\n') {
        body.push(b'\n');
    }
    // Anything that the router added (Allow of a 405) stays.
    response.headers_mut().extend(said.headers);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().remove(axum::http::header::CONTENT_LENGTH);
    *response.status_mut() = said.status;
    *response.body_mut() = Body::from(body);
    response
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

/// Whether a program reads the answer.
pub(super) fn wants_json(headers: &HeaderMap) -> bool {
    wanted(headers) == Format::Json
}

/// Text for people, unless JSON is asked for more (RFC 9110 §12.5.1). `*/*` is what curl sends: text.
fn wanted(headers: &HeaderMap) -> Format {
    let (mut json, mut text) = (0, 0);
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for range in values.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(1_000, thousandths);
        match name.as_str() {
            JSON | PROBLEM_CONTENT_TYPE | "application/*" => json = json.max(quality),
            "text/plain" | "text/*" => text = text.max(quality),
            _ => {}
        }
    }
    if json > text { Format::Json } else { Format::Text }
}

/// A quality value (RFC 9110 §12.4.2) in thousandths; 0 if it is none.
fn thousandths(quality: &str) -> u16 {
    match quality.trim().parse::<f32>() {
        Ok(value) if (0.0..=1.0).contains(&value) => {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1,000")]
            let thousandths = (value * 1_000.0).round() as u16;
            thousandths
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_get_text_and_programs_get_json() {
        let wanted = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            wanted(&headers)
        };
        assert_eq!(super::wanted(&HeaderMap::new()), Format::Text);
        for accept in ["*/*", "text/plain", "text/html, */*;q=0.8", "application/json;q=0", "image/png", ""] {
            assert_eq!(wanted(accept), Format::Text, "{accept}");
        }
        for accept in [
            "application/json",
            "application/problem+json",
            "Application/JSON, */*",
            "text/plain;q=0.5, application/json",
        ] {
            assert_eq!(wanted(accept), Format::Json, "{accept}");
        }
        assert_eq!(wanted("application/json;q=0.5, text/plain;q=0.9"), Format::Text);
    }
}
