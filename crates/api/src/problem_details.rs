//! Errors over HTTP: RFC 9457.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Cause, Operation, Outcome, Problem};

/// The media type of [`ProblemDetails`] (RFC 9457 §3).
pub const PROBLEM_CONTENT_TYPE: &str = "application/problem+json";

/// An error answer (RFC 9457 §3.1) with what an operator needs to go on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProblemDetails {
    /// A stable word for the sort of error: `rejected`, `busy`, `forbidden`, `stale`, `not_found` … (a relative URI reference).
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for people, in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time, in one sentence.
    pub detail: String,
    /// The operation that this is about, or, for `busy`, the one that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<String>,
    /// How far it got: the step that it had come to. Of an upgrade `admission`, `preflight`, `start`, `prepare`, `ready`,
    /// `commit`, `moving connections`, `guard`, `drain` or `supervisor`; of a program `hook`, `start`, `ready`, `settle`, `switch`,
    /// `in-flight work`, `stop`, `reload`, `guard` or `going back`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The generation that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving_generation: Option<u64>,
    /// Everything that is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Problem>,
    /// The whole operation, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
}

impl Operation {
    /// The error answer about an operation that ended without success.
    #[must_use]
    pub fn problem_details(&self) -> ProblemDetails {
        let word = self.refused.as_deref().or(self.outcome.map(Outcome::as_str)).unwrap_or("running");
        let title = match self.outcome {
            Some(Outcome::Rejected) if self.cause == Some(Cause::Pending) => "A change awaits confirmation",
            Some(Outcome::Rejected) if self.is_untimely() => "Nothing awaits confirmation",
            Some(Outcome::Rejected) => "What was asked for is wrong; nothing changed",
            Some(Outcome::NotReady) => "The candidate was not ready; nothing changed",
            Some(Outcome::RolledBack) => "It was begun and undone",
            Some(Outcome::Unknown) => "The outcome is unknown",
            Some(Outcome::Applied | Outcome::Unchanged | Outcome::AppliedWithLosses | Outcome::Sent)
            | None => "No error",
        };
        ProblemDetails {
            operation_id: Some(self.id.clone()),
            phase: self.phase_word(),
            serving_generation: self.serving_generation,
            errors: self.errors.clone(),
            operation: Some(self.clone()),
            ..ProblemDetails::new(self.http_status(), word, title, self.message.clone())
        }
    }
}

impl Operation {
    fn phase_word(&self) -> Option<String> {
        let step = self.furthest_step()?;
        Some(match self.upgrade {
            Some(_) => step.word(),
            None if self.kind.is_carried() => step.program_word(),
            None => step.name.clone(),
        })
    }
}

impl ProblemDetails {
    /// An error that is not about an operation.
    #[must_use]
    pub fn new(status: u16, kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: kind.to_owned(),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            ..Self::default()
        }
    }
}
