//! One line of the journal: `<checksum> <json>\n`.
//!
//! The checksum is the first [`CHECKSUM_DIGITS`] hexadecimal digits of the BLAKE3 hash of the JSON text. It
//! tells a torn or damaged line from a whole one; it is no seal against somebody who may write the file.

use std::io;

use handover_api::{Binary, Generation, Operation};
use handover_lifecycle::PendingEnd;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::MAX_RECORD_BYTES;
use super::upgrades::WrittenUpgrade;

/// Hexadecimal digits of the hash that stand before the JSON text.
const CHECKSUM_DIGITS: usize = 16;
/// Entries that are left of each list when a record would be longer than [`MAX_RECORD_BYTES`].
const SHORTENED_ENTRIES: usize = 20;
/// Bytes that are left of each text when even that is not enough.
const SHORTENED_TEXT: usize = 500;

/// One record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// An operation was admitted and runs.
    Admitted {
        /// The operation.
        operation: Operation,
    },
    /// The worker is about to be told to commit.
    Intent {
        /// For which operation.
        operation_id: String,
        /// Which generation.
        generation: u64,
        /// Written by versions before this one: BLAKE3 of its files in one, hexadecimal, which was their file's name.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        bundle: String,
        /// BLAKE3 of the list of its files, hexadecimal: the object's name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        manifest: Option<String>,
        /// The generation that served until then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        back_to: Option<u64>,
        /// When it goes back unless it is confirmed, RFC 3339.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        confirm: Option<String>,
        /// When, RFC 3339.
        at: String,
    },
    /// A change awaits confirmation, or has another deadline than before.
    Pending {
        /// The operation that made it, or moved its deadline.
        operation_id: String,
        /// The generation on probation.
        generation: u64,
        /// The one that serves again if nobody confirms.
        back_to: u64,
        /// When that is, RFC 3339.
        until: String,
        /// When this was written, RFC 3339.
        at: String,
    },
    /// A change is confirmed.
    Confirmed {
        /// By which operation.
        operation_id: String,
        /// Which generation.
        generation: u64,
        /// When, RFC 3339.
        at: String,
    },
    /// A change was taken back.
    TakenBack {
        /// Which generation.
        generation: u64,
        /// What became of its probation; none if it had none (any more).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        how: Option<PendingEnd>,
        /// When, RFC 3339.
        at: String,
    },
    /// A worker of another binary is about to take over.
    UpgradeIntent {
        /// What is made.
        #[serde(flatten)]
        made: WrittenUpgrade,
        /// When it goes back unless it is confirmed, RFC 3339.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        confirm: Option<String>,
        /// When, RFC 3339.
        at: String,
    },
    /// An upgrade awaits confirmation.
    UpgradePending {
        /// What was made.
        #[serde(flatten)]
        made: WrittenUpgrade,
        /// When it goes back, RFC 3339.
        until: String,
        /// When this was written, RFC 3339.
        at: String,
    },
    /// An upgrade is on probation no longer.
    UpgradeOver {
        /// The worker that had taken over.
        worker: u64,
        /// What became of it.
        how: PendingEnd,
        /// By which operation it is confirmed, if it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        operation_id: Option<String>,
        /// When, RFC 3339.
        at: String,
    },
    /// A copy of this binary is kept, to be gone back to.
    PreviousBinary {
        /// Which.
        binary: Binary,
        /// When, RFC 3339.
        at: String,
    },
    /// A generation serves.
    Generation {
        /// The generation.
        generation: Generation,
    },
    /// An operation ended, or a request was refused and never became one (`refused` says why).
    Done {
        /// The operation with its outcome.
        operation: Operation,
    },
}

impl Record {
    /// Whether it says what is so already, written down or not; others say what is about to happen, and does not if they
    /// cannot be written.
    pub(super) fn has_happened(&self) -> bool {
        match self {
            Self::Generation { .. }
            | Self::TakenBack { .. }
            | Self::PreviousBinary { .. }
            | Self::Done { .. } => true,
            Self::UpgradeOver { how, .. } => *how != PendingEnd::Confirmed,
            Self::Admitted { .. }
            | Self::Intent { .. }
            | Self::Pending { .. }
            | Self::Confirmed { .. }
            | Self::UpgradeIntent { .. }
            | Self::UpgradePending { .. } => false,
        }
    }

    /// The same, short enough to be written whole.
    pub(super) fn bounded(mut self) -> Self {
        let too_long =
            |record: &Self| serde_json::to_vec(record).map_or(0, |text| text.len()) > MAX_RECORD_BYTES;
        if too_long(&self) {
            self.shorten_lists(SHORTENED_ENTRIES);
        }
        if too_long(&self) {
            self.shorten_lists(1);
            self.shorten_texts();
        }
        self
    }

    fn shorten_lists(&mut self, entries: usize) {
        match self {
            Self::Admitted { operation } | Self::Done { operation } => {
                let all = operation.changes.len() + operation.errors.len() + operation.warnings.len();
                operation.changes.truncate(entries);
                operation.errors.truncate(entries);
                operation.warnings.truncate(entries);
                operation.steps.truncate(entries);
                if let Some(upgrade) = &mut operation.upgrade {
                    upgrade.last_lines.truncate(entries);
                }
                let kept = operation.changes.len() + operation.errors.len() + operation.warnings.len();
                operation.left_out += (all - kept) as u64;
            }
            Self::Generation { generation } => {
                generation.changes.truncate(entries);
                generation.files.truncate(entries);
            }
            Self::Intent { .. }
            | Self::Pending { .. }
            | Self::Confirmed { .. }
            | Self::TakenBack { .. }
            | Self::UpgradeIntent { .. }
            | Self::UpgradePending { .. }
            | Self::UpgradeOver { .. }
            | Self::PreviousBinary { .. } => {}
        }
    }

    fn shorten_texts(&mut self) {
        if let Self::Admitted { operation } | Self::Done { operation } = self {
            for problem in operation.errors.iter_mut().chain(&mut operation.warnings) {
                problem.excerpt = None;
                shorten(&mut problem.detail);
                problem.help.as_mut().map(shorten);
            }
            for change in &mut operation.changes {
                shorten(&mut change.name);
                change.detail.as_mut().map(shorten);
            }
            if let Some(upgrade) = &mut operation.upgrade {
                upgrade.last_lines.iter_mut().for_each(shorten);
            }
            shorten(&mut operation.message);
            operation.answer.as_mut().map(shorten);
            operation.comment.as_mut().map(shorten);
        }
    }
}

fn shorten(text: &mut String) {
    if text.len() > SHORTENED_TEXT {
        text.truncate(text.floor_char_boundary(SHORTENED_TEXT));
        text.push('…');
    }
}

/// Where the files of a generation are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stored {
    /// One object each, named in a list that is an object too; this is its digest.
    Objects(blake3::Hash),
    /// In one file with this name: so wrote versions before this one.
    Blob(String),
}

impl Stored {
    pub(super) fn of(manifest: Option<&str>, blob: &str) -> Option<Self> {
        match manifest {
            Some(manifest) => blake3::Hash::from_hex(manifest).ok().map(Self::Objects),
            // It becomes a file's name.
            None => blake3::Hash::from_hex(blob).ok().map(|_| Self::Blob(blob.to_owned())),
        }
    }

    pub(super) fn manifest(&self) -> Option<blake3::Hash> {
        match self {
            Self::Objects(digest) => Some(*digest),
            Self::Blob(_) => None,
        }
    }

    pub(super) fn blob(&self) -> &str {
        match self {
            Self::Objects(_) => "",
            Self::Blob(name) => name,
        }
    }
}

/// The time now as the journal writes it: RFC 3339, UTC, milliseconds.
#[must_use]
pub fn now() -> String {
    written(Timestamp::now())
}

/// Any time as the journal writes it.
pub(crate) fn written(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn checksum(json: &[u8]) -> String {
    blake3::hash(json).to_hex().as_str().chars().take(CHECKSUM_DIGITS).collect()
}

/// The line of a record, with its line feed.
pub(super) fn encode(record: &Record) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(record).map_err(io::Error::other)?;
    let mut line = Vec::with_capacity(CHECKSUM_DIGITS + 2 + json.len());
    line.extend_from_slice(checksum(&json).as_bytes());
    line.push(b' ');
    line.extend_from_slice(&json);
    line.push(b'\n');
    Ok(line)
}

/// One line as it was found.
pub(super) enum Line {
    /// A whole record, and where the byte after its line feed is.
    Whole {
        /// The record.
        record: Box<Record>,
        /// Offset of the next line.
        end: u64,
    },
    /// A whole line in a form that this version does not know.
    Foreign {
        /// Offset of the next line.
        end: u64,
    },
    /// Anything else: torn or damaged.
    Damaged,
}

/// Goes through the lines of a file.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = Line> {
    let mut end = 0_u64;
    bytes.split_inclusive(|byte| *byte == b'\n').map(move |line| {
        end += line.len() as u64;
        match checked(line).map(serde_json::from_slice::<Record>) {
            Some(Ok(record)) => Line::Whole { record: Box::new(record), end },
            Some(Err(_)) => Line::Foreign { end },
            None => Line::Damaged,
        }
    })
}

/// The JSON text of a line whose checksum is right.
fn checked(line: &[u8]) -> Option<&[u8]> {
    let (sum, rest) = line.strip_suffix(b"\n")?.split_at_checked(CHECKSUM_DIGITS)?;
    let json = rest.strip_prefix(b" ")?;
    (checksum(json).as_bytes() == sum).then_some(json)
}
