//! What the supervisor must know of a configuration, which only workers read.
//!
//! ```text
//!   configuration ─▶ worker ── Prepared {settings} ─▶ supervisor: in force as soon as the generation serves
//! ```

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{GuardLimits, Names, ProgramSpec};

/// What the supervisor must know of a generation's configuration. It takes effect when the generation serves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Permission bits of the control socket; 0600 if not given.
    pub control_mode: Option<u32>,
    /// The group that owns the control socket; that of the process if not given.
    pub control_group: Option<u32>,
    /// Who may do what over the control socket, beside root and the user that runs the server.
    pub roles: Roles,
    /// How many operations the journal keeps.
    pub history: Option<usize>,
    /// How many generations the journal keeps with all their bytes; 20 if not given.
    pub generations: Option<usize>,
    /// Every reload, rollback and restore is guarded like this unless it says otherwise; without it none is that does
    /// not ask.
    pub guard: Option<GuardLimits>,
    /// How long connections may take to end, in a drain or stop that names no limit.
    pub drain_limit: Option<Duration>,
    /// How the supervisor logs; as before if not given.
    pub log: Option<LogSettings>,
    /// Which binaries an upgrade may run.
    pub upgrade: UpgradeRules,
    /// The programs that are to run.
    pub programs: Vec<ProgramSpec>,
    /// What can be named in a request about traffic.
    pub names: Names,
}

/// Which binaries an upgrade may run. Every rule that is given must be kept, beside those that always hold: nobody but
/// its owner, who is root or the user that runs the server, may be able to change it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpgradeRules {
    /// It must lie in one of these directories or below (absolute); anywhere if there are none.
    pub directories: Vec<PathBuf>,
    /// The user that it must belong to.
    pub owner: Option<u32>,
    /// Its SHA-256 digest, 64 lower-case hexadecimal digits.
    pub sha256: Option<String>,
    /// The minisign public key (the second line of a `.pub` file) for which `PATH.minisig` must be its signature.
    pub public_key: Option<String>,
}

/// How a process logs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSettings {
    /// One JSON object a line instead of text for people.
    pub json: bool,
    /// Where to.
    pub to: LogTarget,
    /// The least severe lines that are written: `error`, `warn`, `info`, `debug` or `trace`; `info` if not given.
    pub level: Option<String>,
}

/// Where log lines go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogTarget {
    /// The standard error stream.
    #[default]
    Stderr,
    /// The standard output stream.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// Who may do what. A higher role includes those below it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Roles {
    /// Everything, stopping too.
    pub admin: Grant,
    /// Reload, drain, resume, actions, and everything below.
    pub operate: Grant,
    /// Looking only.
    pub read: Grant,
}

/// Users and groups that have a role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grant {
    /// User IDs.
    pub users: Vec<u32>,
    /// Group IDs.
    pub groups: Vec<u32>,
}
