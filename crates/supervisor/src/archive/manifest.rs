//! The manifest: what an archive holds, in which order.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ArchiveError, FORMAT, FORMAT_VERSION, MAX_HISTORY_BYTES};
use crate::protocol::MAX_CARRIED_BYTES;
use handover_handoff::bundle::{MAX_BUNDLE_BYTES, MAX_BUNDLE_FILES};

/// The longest path (PATH_MAX of Linux).
const MAX_PATH_BYTES: usize = 4096;
/// Characters of a file's own name that an entry's name shows.
const NAME_CHARACTERS: usize = 48;

/// Whether private keys are in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keys {
    /// They are: whoever can read the archive has them.
    Included,
    /// Every file with a private key was left out, and the carried state.
    LeftOut,
}

/// The first entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `handover backup`.
    pub format: String,
    /// [`FORMAT_VERSION`].
    pub version: u32,
    /// When it was made, RFC 3339 in UTC.
    pub created: String,
    /// Name of the server.
    pub server: String,
    /// Version of the server.
    pub server_version: String,
    /// Number of the generation.
    pub generation: u64,
    /// When the generation was committed, RFC 3339 in UTC.
    pub committed_at: String,
    /// BLAKE3 over the paths and digests of all files, those that were left out too.
    pub digest: String,
    /// Whether private keys are in it.
    pub keys: Keys,
    /// The files: the top-level one first, if there is one.
    pub files: Vec<ArchivedFile>,
    /// The carried state (keys of session tickets).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carried: Option<Part>,
    /// The last operations, one JSON object a line, the newest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Part>,
}

/// An entry that is no file of the generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its length in bytes.
    pub bytes: u64,
    /// BLAKE3 of it, hexadecimal.
    pub blake3: String,
}

/// One file of the generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchivedFile {
    /// Its path as it was read, or the name of what is no file.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// BLAKE3 of its content, hexadecimal.
    pub blake3: String,
    /// Whether it is the top-level file.
    #[serde(default, skip_serializing_if = "is_false")]
    pub top: bool,
    /// True for what was no file: built into the program, or from a store of configurations.
    #[serde(default, skip_serializing_if = "is_false")]
    pub built_in: bool,
    /// Whether there is a private key in it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub key: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Manifest {
    /// Reads a manifest and checks all that can be checked without what it describes.
    pub(super) fn parse(json: &[u8]) -> Result<Self, ArchiveError> {
        /// What every version of the form has.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u64,
        }
        let head: Head = serde_json::from_slice(json).map_err(|_| ArchiveError::NotAnArchive)?;
        if head.format != FORMAT {
            return Err(ArchiveError::NotAnArchive);
        }
        if head.version != u64::from(FORMAT_VERSION) {
            return Err(ArchiveError::Version { found: head.version });
        }
        let manifest: Self =
            serde_json::from_slice(json).map_err(|error| ArchiveError::Manifest(error.to_string()))?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ArchiveError> {
        let wrong = |what: String| Err(ArchiveError::Manifest(what));
        if self.files.len() > MAX_BUNDLE_FILES {
            let count = self.files.len();
            return Err(ArchiveError::TooBig(format!("{count} files, and {MAX_BUNDLE_FILES} can be served")));
        }
        let total = self.files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.bytes));
        if total > MAX_BUNDLE_BYTES as u64 {
            let most = MAX_BUNDLE_BYTES;
            return Err(ArchiveError::TooBig(format!(
                "its files have {total} bytes, and {most} can be served"
            )));
        }
        for (name, part, most) in [
            ("carried state", &self.carried, MAX_CARRIED_BYTES),
            ("history", &self.history, MAX_HISTORY_BYTES),
        ] {
            if part.as_ref().is_some_and(|part| part.bytes > most as u64) {
                return Err(ArchiveError::TooBig(format!("its {name} may have {most} bytes")));
            }
        }
        if self.keys == Keys::LeftOut && self.carried.is_some() {
            return wrong("it says that keys were left out, and has those of session tickets".to_owned());
        }
        let mut paths = std::collections::HashSet::new();
        for (at, file) in self.files.iter().enumerate() {
            let shown = file.path.display();
            if file.top && at > 0 {
                return wrong(format!("{shown} cannot be the top-level file: that one is the first"));
            }
            if file.built_in && !file.top {
                return wrong(format!("{shown} is no file, and only the top-level one can be none"));
            }
            if let Some(reason) = wrong_path(&file.path, file.built_in) {
                return wrong(format!("the path {:?} {reason}", file.path));
            }
            if !paths.insert(&file.path) {
                return wrong(format!("{shown} is named twice"));
            }
        }
        Ok(())
    }

    /// Whether the archive holds this file.
    #[must_use]
    pub fn holds(&self, file: &ArchivedFile) -> bool {
        self.keys == Keys::Included || !file.key
    }

    /// `the backup of generation 7, made 2026-11-22T03:01:35Z`.
    #[must_use]
    pub fn title(&self) -> String {
        // Both are from outside: a title is one line without surprises.
        let created: String = self.created.chars().filter(char::is_ascii_graphic).take(40).collect();
        format!("the backup of generation {}, made {created}", self.generation)
    }
}

fn wrong_path(path: &Path, built_in: bool) -> Option<&'static str> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.len() > MAX_PATH_BYTES {
        Some("is empty or too long")
    } else if bytes.contains(&0) {
        Some("has a NUL byte")
    } else if !built_in && (!path.is_absolute() || path.file_name().is_none()) {
        Some("is not the whole path of a file")
    } else if built_in && path.to_str().is_none() {
        Some("is no text")
    } else {
        None
    }
}

/// The name of a file's entry: its place, so that no two are the same, and for people the end of its path.
pub(super) fn entry_name(at: usize, file: &ArchivedFile) -> String {
    let name = file.path.file_name().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = name.chars().take(NAME_CHARACTERS).map(plain).collect();
    format!("files/{:05}-{name}", at.saturating_add(1))
}

/// A path in JSON: as text where it is text, else byte by byte.
mod path_text {
    use serde::{Deserializer, Serializer};

    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum PathText {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => PathText::Text(text.to_owned()),
            None => PathText::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
        .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Ok(match PathText::deserialize(deserializer)? {
            PathText::Text(text) => PathBuf::from(text),
            PathText::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        })
    }
}
