//! Why the journal could not be used, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

/// Why the journal could not be used. Every message names the path and says what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JournalError {
    /// No room (ENOSPC, EDQUOT, EFBIG).
    #[error(
        "cannot {doing} the journal {}: {reason}; nothing is changed that cannot be written down: make room there",
        path.display()
    )]
    Full {
        /// What was tried.
        doing: &'static str,
        /// The journal's file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The file system is read-only.
    #[error(
        "cannot {doing} the journal {}: {reason}; remount it read-write or name another directory with --state",
        path.display()
    )]
    ReadOnly {
        /// What was tried.
        doing: &'static str,
        /// The journal's file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The directory or file may not be used by this user, or by others too.
    #[error("cannot {doing} the journal {}: {reason}", path.display())]
    NotPermitted {
        /// What was tried.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's words, or what is wrong with its owner or mode.
        reason: String,
    },
    /// Another supervisor has it open.
    #[error("the journal {} is in use by another supervisor; stop it, or give each its own --state", path.display())]
    InUse {
        /// The journal's directory.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot {doing} the journal {}: {reason}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
}

/// Why a generation cannot be loaded. Other generations, and what serves, are not concerned.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GenerationError {
    /// Its files are not there (any more).
    #[error("generation {generation} is not kept{}", kept_ones(kept))]
    NotKept {
        /// Which.
        generation: u64,
        /// Those that are, in order.
        kept: Vec<u64>,
    },
    /// One of its files, or the list of them, is damaged or cannot be read.
    #[error("generation {generation} cannot be used any more: {reason}")]
    Damaged {
        /// Which.
        generation: u64,
        /// Which file and what is wrong with it.
        reason: String,
    },
}

fn kept_ones(kept: &[u64]) -> String {
    match kept {
        [] => "; none is".to_owned(),
        kept => format!("; kept are {}", kept.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
    }
}

impl JournalError {
    pub(super) fn from_io(doing: &'static str, path: &Path, source: &io::Error) -> Self {
        let path = path.to_owned();
        let reason = source.to_string();
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Self::Full { doing, path, reason },
            Some(Errno::ROFS) => Self::ReadOnly { doing, path, reason },
            Some(Errno::ACCESS | Errno::PERM) => Self::NotPermitted { doing, path, reason },
            _ => Self::Io { doing, path, reason },
        }
    }
}
