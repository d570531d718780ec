//! What is served differently from before.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What happened to a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It was not there before.
    Added,
    /// It was there, and differs.
    Changed,
    /// It is there no more.
    Removed,
}

/// Which sort of thing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// A listening address.
    Listener,
    /// A route.
    Route,
    /// A service that routes proxy to.
    Service,
    /// One endpoint of a service.
    Endpoint,
    /// A certificate with its key; named by its first DNS name. [`certificate_changes`](crate::certificate_changes)
    /// makes these, so that they read alike everywhere.
    Certificate,
    /// A file that the configuration names.
    File,
    /// A value that an embedding server declared reloadable.
    Value,
    /// A program that the server runs.
    Program,
    /// Any other setting: control, log, metrics.
    Setting,
}

impl ChangeKind {
    /// The word for `count` of these.
    fn noun(self, count: usize) -> &'static str {
        match (self, count) {
            (Self::Listener, 1) => "listener",
            (Self::Listener, _) => "listeners",
            (Self::Route, 1) => "route",
            (Self::Route, _) => "routes",
            (Self::Service, 1) => "service",
            (Self::Service, _) => "services",
            (Self::Endpoint, 1) => "endpoint",
            (Self::Endpoint, _) => "endpoints",
            (Self::Certificate, 1) => "certificate",
            (Self::Certificate, _) => "certificates",
            (Self::File, 1) => "file",
            (Self::File, _) => "files",
            (Self::Value, 1) => "value",
            (Self::Value, _) => "values",
            (Self::Program, 1) => "program",
            (Self::Program, _) => "programs",
            (Self::Setting, 1) => "setting",
            (Self::Setting, _) => "settings",
        }
    }
}

impl What {
    /// `added`, `changed`, `removed`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// One thing that differs between two generations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// Added, changed or removed.
    pub what: What,
    /// Which sort of thing.
    pub kind: ChangeKind,
    /// Its name in the configuration.
    pub name: String,
    /// What about it, in a few words: `limits.body_bytes 1 MiB → 2 MiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Change {
    /// A change without details.
    #[must_use]
    pub fn new(what: What, kind: ChangeKind, name: impl Into<String>) -> Self {
        Self { what, kind, name: name.into(), detail: None }
    }

    /// The same with a few words about what differs.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// `changed route hello: fixed response`, `renewed certificate example.org: not after 2027-02-20, was 2026-12-01`.
    #[must_use]
    pub fn line(&self) -> String {
        let (verb, detail) = self.said();
        let mut line = format!("{verb} {} {}", self.kind.noun(1), self.name);
        if let Some(detail) = detail {
            let _ = write!(line, ": {detail}");
        }
        line
    }

    /// What happened to it in one word, and the details. A certificate's details begin with a word of their own.
    fn said(&self) -> (&str, Option<&str>) {
        let detail = self.detail.as_deref();
        if let (ChangeKind::Certificate, What::Changed, Some(text)) = (self.kind, self.what, detail) {
            for verb in ["renewed", "replaced"] {
                if text == verb {
                    return (verb, None);
                }
                if let Some(rest) = text.strip_prefix(verb).and_then(|rest| rest.strip_prefix(": ")) {
                    return (verb, Some(rest));
                }
            }
        }
        (self.what.as_str(), detail)
    }
}

/// Names given in a sentence before it says "and n more".
const NAMES_IN_A_SENTENCE: usize = 3;

/// `1 route changed (hello), 2 listeners added (http, admin)`; `nothing changed` for none. A single certificate is told
/// with its details: that is what people look for after a renewal.
///
/// Groups keep the order in which the changes were given, so the most telling should come first.
#[must_use]
pub fn summarize_changes(changes: &[Change]) -> String {
    if let [only @ Change { kind: ChangeKind::Certificate, .. }] = changes
        && let (verb, Some(detail)) = only.said()
    {
        return format!("certificate {} {verb} ({detail})", only.name);
    }
    let mut groups: Vec<(ChangeKind, &str, Vec<&str>)> = Vec::new();
    for change in changes {
        let (verb, _) = change.said();
        match groups.iter_mut().find(|(kind, what, _)| (*kind, *what) == (change.kind, verb)) {
            Some((_, _, names)) => names.push(&change.name),
            None => groups.push((change.kind, verb, vec![&change.name])),
        }
    }
    if groups.is_empty() {
        return "nothing changed".to_owned();
    }
    let parts: Vec<String> = groups
        .iter()
        .map(|(kind, what, names)| {
            let shown = names.iter().take(NAMES_IN_A_SENTENCE).copied().collect::<Vec<_>>().join(", ");
            let more = match names.len().saturating_sub(NAMES_IN_A_SENTENCE) {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            format!("{} {} {what} ({shown}{more})", names.len(), kind.noun(names.len()))
        })
        .collect();
    parts.join(", ")
}
