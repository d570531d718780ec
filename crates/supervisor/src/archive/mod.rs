//! Backups: everything that a server needs to serve the same again, in one file.
//!
//! ```text
//!   zstd ( tar ( manifest.json │ files/0001-site.toml │ files/0002-a.pem │ … │ carried │ history.jsonl ) )
//!                  │
//!                  └─ says what follows, in this order, each with its length and BLAKE3
//! ```
//!
//! [`write()`] makes one from what serves, [`read()`] takes one apart and believes nothing of it: every entry must be
//! the one that the manifest names next, of the length and digest that it names. Entries' names mean nothing but
//! that; the files' paths are in the manifest. What is read is bounded in memory and time whatever the archive says.
//!
//! Private keys can be left out ([`Keys::LeftOut`]): every file with a private key in PEM, and the carried state
//! (the keys of session tickets). The manifest then has the digests of those files, and [`Archive::restored`] takes
//! them from the disk.

mod error;
mod manifest;
mod read;
mod restored;
#[cfg(test)]
mod tests;
mod write;

pub use error::ArchiveError;
pub use manifest::{ArchivedFile, Keys, Manifest, Part};
pub use read::{Archive, read};
pub use restored::unpacked_path;
pub use write::write;

use crate::protocol::MAX_CARRIED_BYTES;
use handover_handoff::bundle::{MAX_BUNDLE_BYTES, MAX_BUNDLE_FILES};

/// The version of the archive's form.
pub const FORMAT_VERSION: u32 = 1;
/// The longest archive, compressed: files that cannot be compressed, and some room for what surrounds them.
pub const MAX_ARCHIVE_BYTES: u64 = 320 * 1024 * 1024;

/// The word by which a manifest is known.
const FORMAT: &str = "handover backup";
/// The names of the entries that are no files.
const MANIFEST: &str = "manifest.json";
const CARRIED: &str = "carried";
const HISTORY: &str = "history.jsonl";

/// The longest manifest: as many files as may be, at a generous length of path.
const MAX_MANIFEST_BYTES: u64 = MAX_BUNDLE_FILES as u64 * 1024;
/// The longest history.
const MAX_HISTORY_BYTES: usize = 16 * 1024 * 1024;
/// What may follow the last entry: the zeros with which a tar file ends.
const MAX_PADDING_BYTES: u64 = 64 * 1024;
/// The most that is decompressed, all in all; every entry's length is rounded up to tar's blocks.
const MAX_PLAIN_BYTES: u64 = MAX_BUNDLE_BYTES as u64
    + MAX_MANIFEST_BYTES
    + (MAX_CARRIED_BYTES + MAX_HISTORY_BYTES) as u64
    + 1024 * (MAX_BUNDLE_FILES as u64 + 4)
    + MAX_PADDING_BYTES;
/// The largest window of the compression that is read, as a power of two: 8 MiB.
const MAX_WINDOW_LOG: u32 = 23;
/// How hard is compressed: quickly.
const LEVEL: i32 = 3;

/// Whether a private key in PEM is among these bytes (RFC 7468 §10, §11; also those of older tools, and encrypted
/// ones).
#[must_use]
pub fn has_private_key(bytes: &[u8]) -> bool {
    const MARK: &[u8] = b"PRIVATE KEY-----";
    bytes.windows(MARK.len()).any(|window| window == MARK)
}

/// Whether these are the first bytes of a file that age has encrypted (age-encryption.org/v1).
#[must_use]
pub fn is_encrypted(start: &[u8]) -> bool {
    start.starts_with(b"age-encryption.org/") || start.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----")
}
