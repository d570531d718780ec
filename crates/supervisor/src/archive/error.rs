//! Why an archive cannot be made or used. Each is one sentence that says what is wrong and what to do.

use std::path::PathBuf;

use thiserror::Error;

/// Why an archive cannot be used. Nothing was changed by trying.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// It does not begin like one.
    #[error("this is no backup of handover: it does not begin like one")]
    NotAnArchive,
    /// It is encrypted.
    #[error("this backup is encrypted: 'handover restore FILE' asks for its passphrase")]
    Encrypted,
    /// It is cut short or damaged.
    #[error("the backup is cut short or damaged: {0}")]
    Damaged(String),
    /// Its form is another one.
    #[error(
        "the backup has form {found}, and this version of handover reads form {}: use the version that made it",
        super::FORMAT_VERSION
    )]
    Version {
        /// The form's version.
        found: u64,
    },
    /// Its manifest cannot be believed.
    #[error("the backup's manifest is wrong: {0}")]
    Manifest(String),
    /// Something else is where an entry should be.
    #[error("the backup was altered: it has {found} where {expected} must be")]
    Unexpected {
        /// What is there.
        found: String,
        /// What must be there.
        expected: String,
    },
    /// An entry is not as long as the manifest says.
    #[error("the backup was altered: {entry} has {found} bytes, and its manifest says {said}")]
    Length {
        /// The entry's name, or the path of its file.
        entry: String,
        /// What the manifest says.
        said: u64,
        /// How long it is.
        found: u64,
    },
    /// An entry does not have the digest that the manifest gives it.
    #[error("the backup was altered or damaged: {entry} does not have the digest that its manifest gives it")]
    Digest {
        /// The entry's name, or the path of its file.
        entry: String,
    },
    /// It holds more than can be served.
    #[error("the backup is too big: {0}")]
    TooBig(String),
    /// A key that the archive does not have cannot be read from the disk.
    #[error(
        "the backup was made without private keys, and {} cannot be read from the disk: {reason}; put it there first",
        path.display()
    )]
    KeyMissing {
        /// The key's file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// Two files would be unpacked to the same place.
    #[error("the backup has two files for {}", .0.display())]
    SamePlace(PathBuf),
}
