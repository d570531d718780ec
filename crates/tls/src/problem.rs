//! What can be wrong with certificates, keys and authorities, in people's words, with what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why a certificate cannot be served, or authorities cannot be trusted.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", .file.display())]
pub struct CertificateError {
    /// Position among the pairs that were wanted.
    pub pair: usize,
    /// The file at fault.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: Reason,
}

impl CertificateError {
    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        self.reason.help(&self.file)
    }
}

/// What is odd about a certificate that is served all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {concern}", .file.display())]
pub struct CertificateWarning {
    /// Position among the pairs that were wanted.
    pub pair: usize,
    /// The file that it is about.
    pub file: PathBuf,
    /// What is odd.
    pub concern: Concern,
}

impl CertificateWarning {
    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        self.concern.help(&self.file)
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The system does not give it.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// There is nothing in it.
    #[error("the file is empty")]
    Empty,
}

impl Reason {
    /// What to do about it.
    #[must_use]
    pub fn help(&self, file: &Path) -> Option<String> {
        let _ = file;
        None
    }
}

/// What is odd about a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Concern {
    /// Others can read the key.
    #[error("other users can read this key (mode {mode:04o})")]
    Exposed {
        /// Permission bits.
        mode: u32,
    },
}

impl Concern {
    /// What to do about it.
    #[must_use]
    pub fn help(&self, file: &Path) -> Option<String> {
        match self {
            Self::Exposed { .. } => Some(format!("chmod go= {}", file.display())),
        }
    }
}
