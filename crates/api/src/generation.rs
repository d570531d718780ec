//! What is and was served, and how the disk differs from it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Change, Problem};

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
    /// The version of what it was made from, where the source has versions: `etcd revision 42`, `ETag "a1"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Its files: the configuration first, then what it names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileDigest>,
    /// What differed from the generation before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// Whether its files are no longer kept, so that there is no going back to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forgotten: bool,
}

/// How one file on disk compares with what serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// The content differs.
    Differs,
    /// It cannot be read any more.
    Unreadable,
    /// Only what it is compared with has it.
    Added,
    /// Only what serves has it.
    Removed,
}

/// One file that differs from the bytes that serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileDiff {
    /// The path.
    pub path: String,
    /// How it differs.
    pub state: FileState,
    /// A unified diff from what serves to what it is compared with, or the reason why there is none.
    pub diff: String,
}

/// How the disk, or another generation, differs from what serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Diff {
    /// The generation that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving_generation: Option<u64>,
    /// The generation that it is compared with; the files on disk if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<u64>,
    /// True when every file equals the bytes that serve.
    pub same: bool,
    /// What would be served differently: by a reload, or by a rollback to the generation that it is compared with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// Why that would be refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Problem>,
    /// What would be accepted and deserves a look.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Problem>,
    /// The generation that serves because of a rollback or a restore although the files on disk differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_in_force: Option<u64>,
    /// The files that differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileDiff>,
}
