//! What is and was served, and how the disk differs from it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Change;

/// One file of a generation, by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileDigest {
    /// The path as it was read.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// BLAKE3 of its content, hexadecimal.
    pub blake3: String,
}

/// One numbered, immutable state of what is served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Generation {
    /// Its number; numbers are never used twice in the life of a journal.
    pub number: u64,
    /// Whether it serves now.
    pub serving: bool,
    /// When it was committed, RFC 3339 in UTC.
    pub committed_at: String,
    /// The operation that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_id: Option<String>,
    /// Its files: the configuration first, then what it names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileDigest>,
    /// What differed from the generation before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

/// How one file on disk compares with what serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// The content differs.
    Differs,
    /// It cannot be read any more.
    Unreadable,
}

/// One file on disk that differs from the bytes that serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileDiff {
    /// The path.
    pub path: String,
    /// How it differs.
    pub state: FileState,
    /// A unified diff from what serves to the disk, or the reason why there is none.
    pub diff: String,
}

/// How the disk differs from what serves (drift).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Diff {
    /// The generation that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving_generation: Option<u64>,
    /// True when every file on disk equals the bytes that serve.
    pub same: bool,
    /// The files that differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileDiff>,
}
