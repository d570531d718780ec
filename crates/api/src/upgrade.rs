//! What an upgrade was from, what it was to, and what went along with it.
//!
//! ```text
//!   from ── the binary that served when it was asked for
//!   to   ── the binary that was to serve: its path at once, its digest once it is read, its version once it has said it
//!     moved    connections that went from the old worker to the new one, by kind
//!     drained  connections that ended on the old worker instead
//!     (those that were cut are the operation's losses)
//! ```
//!
//! An operation that takes an upgrade back (cancel, nobody confirmed) has the same record the other way round: `from` is
//! what is left, `to` what serves again.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::operation::is_zero;

/// Characters of a digest in a sentence: enough to tell binaries apart, and found by `sha256sum` at a glance.
const DIGEST_CHARACTERS: usize = 12;

/// One executable, to the byte.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Binary {
    /// The version that it says it is; absent as long as it has not been run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// SHA-256 of its bytes, 64 hexadecimal digits as `sha256sum` prints them; absent if it was not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The path that it was opened at. Another file may be there by now.
    pub path: String,
}

impl Binary {
    /// A binary at a path, of which nothing else is known yet.
    #[must_use]
    pub fn at(path: impl Into<String>) -> Self {
        Self { version: None, sha256: None, path: path.into() }
    }

    /// `0.2.0, sha256 1a2b…, /usr/bin/handover`: all that is known.
    #[must_use]
    pub fn in_full(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.version.clone());
        parts.extend(self.sha256.as_ref().map(|sha256| format!("sha256 {sha256}")));
        parts.push(self.path.clone());
        parts.join(", ")
    }

    /// The first digits of its digest.
    #[must_use]
    pub fn short_digest(&self) -> Option<&str> {
        self.sha256.as_deref().map(|sha256| sha256.get(..DIGEST_CHARACTERS).unwrap_or(sha256))
    }
}

/// `0.2.0 (sha256 1a2b3c4d5e6f)`; the path instead of what is not known.
impl fmt::Display for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.version.as_deref().unwrap_or(&self.path))?;
        match self.short_digest() {
            Some(digest) => write!(f, " (sha256 {digest})"),
            None => Ok(()),
        }
    }
}

/// What a worker process is there for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerRole {
    /// It serves.
    #[default]
    Serving,
    /// It is to serve once an upgrade has found it ready.
    Candidate,
    /// It serves no more, and lets the connections end that could not move.
    Draining,
    /// It served before an upgrade that awaits confirmation, and would serve again at once.
    Warm,
}

impl WorkerRole {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Candidate => "candidate",
            Self::Draining => "draining",
            Self::Warm => "warm",
        }
    }
}

/// The part of an operation that is an upgrade, or takes one back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Upgrade {
    /// What served when it was asked for.
    pub from: Binary,
    /// What was to serve.
    pub to: Binary,
    /// Connections that went from one worker to the other, by kind: `http`, `websocket`, `tcp` …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub moved: BTreeMap<String, u64>,
    /// Connections that ended on the old worker in their own time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub drained: u64,
    /// How long no connection was served while they changed hands, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_us: Option<u64>,
    /// The old worker is kept warm until the upgrade is confirmed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warm: bool,
    /// Why the supervisor itself still runs the old binary, if it does so for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor_stays: Option<String>,
    /// The last lines that the new binary wrote to stderr, if it failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
}

impl Upgrade {
    /// An upgrade that has just begun.
    #[must_use]
    pub fn new(from: Binary, to: Binary) -> Self {
        Self { from, to, ..Self::default() }
    }

    /// How many connections moved.
    #[must_use]
    pub fn total_moved(&self) -> u64 {
        self.moved.values().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// Hexadecimal digits of a SHA-256 digest.
const SHA256_DIGITS: usize = 64;

/// Reads a SHA-256 digest as `sha256sum` prints it, in lower-case digits.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn parse_sha256(text: &str) -> Result<String, String> {
    let text = text.trim();
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    if digits.len() == SHA256_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(digits.to_ascii_lowercase());
    }
    let what = if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        format!("this one has {} digits", digits.len())
    } else {
        format!("{text:?} is none")
    };
    Err(format!("a SHA-256 digest has {SHA256_DIGITS} hexadecimal digits, as sha256sum prints them: {what}"))
}
