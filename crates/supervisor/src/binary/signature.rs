//! A detached signature beside the binary, in the format of minisign: Ed25519 over BLAKE2b of the file.
//!
//! ```text
//!   PATH.minisig ─▶ read, the key's? ─▶ fed with the bytes while they are read for the digest ─▶ right or wrong
//! ```
//!
//! The bytes are fed as they are read, in the same pass as the digest's: what is verified is what is started.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use minisign_verify::{Error, PublicKey, Signature};

/// The longest signature file: four lines, two of them comments.
const MAX_SIGNATURE_BYTES: u64 = 16 * 1024;

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotSigned {
    /// The configured key is none.
    #[error("the configured public key is not one of minisign")]
    Key,
    /// There is no signature.
    #[error("its signature {} cannot be read: {why}", path.display())]
    Unread {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The file is no signature.
    #[error("{} is not a signature of minisign", path.display())]
    Damaged {
        /// Where it is.
        path: PathBuf,
    },
    /// It is an old form, over the file itself.
    #[error("{} is a signature of the old form, over the file and not over its hash", path.display())]
    Legacy {
        /// Where it is.
        path: PathBuf,
    },
    /// Another key has made it.
    #[error("{} was made with another key than the configured one", path.display())]
    OtherKey {
        /// Where it is.
        path: PathBuf,
    },
    /// It is not this file's, or was changed.
    #[error("{} is not the signature of these bytes", path.display())]
    Wrong {
        /// Where it is.
        path: PathBuf,
    },
}

/// What is to be verified.
pub(super) struct Detached {
    key: PublicKey,
    signature: Signature,
    path: PathBuf,
}

/// The path of the signature of the binary at `path`.
pub(super) fn path_of(path: &Path) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(".minisig");
    PathBuf::from(text)
}

impl Detached {
    /// Reads the signature of the binary at `path`. `key` is the second line of a `.pub` file.
    pub(super) fn of(path: &Path, key: &str) -> Result<Self, NotSigned> {
        let key = PublicKey::from_base64(key.trim()).map_err(|_| NotSigned::Key)?;
        let path = path_of(path);
        let unread = |error: std::io::Error| NotSigned::Unread { path: path.clone(), why: error.to_string() };
        let mut text = String::new();
        let file = super::open(&path).map_err(unread)?;
        file.take(MAX_SIGNATURE_BYTES).read_to_string(&mut text).map_err(unread)?;
        match Signature::decode(&text) {
            Ok(signature) => Ok(Self { key, signature, path }),
            Err(_) => Err(NotSigned::Damaged { path }),
        }
    }

    /// Begins to verify. `feed` gives all bytes of the file, in order, to what it is called with.
    pub(super) fn verify<E>(
        &self,
        feed: impl FnOnce(&mut dyn FnMut(&[u8])) -> Result<(), E>,
    ) -> Result<Result<(), NotSigned>, E> {
        let mut verifier = match self.key.verify_stream(&self.signature) {
            Ok(verifier) => verifier,
            Err(error) => return Ok(Err(self.explain(&error))),
        };
        feed(&mut |bytes| verifier.update(bytes))?;
        Ok(verifier.finalize().map_err(|error| self.explain(&error)))
    }

    fn explain(&self, error: &Error) -> NotSigned {
        let path = self.path.clone();
        match error {
            Error::UnexpectedKeyId => NotSigned::OtherKey { path },
            Error::UnsupportedLegacyMode | Error::UnexpectedAlgorithm => NotSigned::Legacy { path },
            _ => NotSigned::Wrong { path },
        }
    }
}
