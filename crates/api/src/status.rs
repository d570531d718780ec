//! What runs now.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::outcome::PhaseSchema;
use crate::{
    Binary, Certificate, Generation, Operation, PauseStatus, Pending, Phase, ProgramStatus, WorkerRole,
};

/// One listening address that the supervisor holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListenerStatus {
    /// Its name in the configuration.
    pub name: String,
    /// `127.0.0.1:8080`, `unix:/run/app.sock`, `abstract:app`.
    pub address: String,
    /// True when it came from the service manager (LISTEN_FDS).
    #[serde(default)]
    pub inherited: bool,
}

/// A worker process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerStatus {
    /// Its number, counted from 1.
    pub number: u64,
    /// Its process ID.
    pub pid: u32,
    /// Since when, RFC 3339 in UTC.
    pub started_at: String,
    /// Its program's version.
    pub version: String,
    /// SHA-256 of the binary that it runs, 64 hexadecimal digits; absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What it is there for.
    #[serde(default)]
    pub role: WorkerRole,
}

/// How the journal fares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JournalStatus {
    /// Its file.
    pub path: String,
    /// Records that it holds.
    pub records: u64,
    /// Bytes of a torn tail that were dropped when it was opened.
    #[serde(default)]
    pub recovered_bytes: u64,
    /// Why the last record could not be written, as long as that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// What runs now, as `GET /v1/status` answers it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Name of the server: `handover`, or the embedding program's.
    pub name: String,
    /// The supervisor's version.
    pub version: String,
    /// What it is doing.
    #[schema(value_type = PhaseSchema)]
    pub phase: Phase,
    /// The supervisor's process ID, which never changes.
    pub pid: u32,
    /// Since when the supervisor runs, RFC 3339 in UTC.
    pub started_at: String,
    /// The configuration's file; absent for the embedded default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// The control socket's path.
    pub control: String,
    /// What serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// The change that goes back by itself unless it is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
    /// The generation that serves because of a rollback or a restore, although the files on disk differ from it. The next
    /// reload or start serves the files again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_in_force: Option<u64>,
    /// The version of what serves where its source has versions: `etcd revision 42`, `ETag "a1"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_version: Option<String>,
    /// Certificates that serve and are over or expire within 14 days, the soonest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expiring: Vec<Certificate>,
    /// Files on disk that differ from what serves (drift); see `diff`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<String>,
    /// The worker that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerStatus>,
    /// All workers, the one that serves first: an upgrade has two of them, and so has one that awaits confirmation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workers: Vec<WorkerStatus>,
    /// The binary that the supervisor runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<Binary>,
    /// The binary that served before the last upgrade, which is kept: `handover rollback --binary` goes back to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_binary: Option<Binary>,
    /// How often a dead worker was replaced.
    #[serde(default)]
    pub respawns: u64,
    /// Connections open now, where the worker said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// The addresses that are held.
    pub listeners: Vec<ListenerStatus>,
    /// The programs that the supervisor runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<ProgramStatus>,
    /// Everything that is paused: programs, and services, routes and listeners.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paused: Vec<PauseStatus>,
    /// Endpoints that get nothing new because an operator said so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints_off: Vec<String>,
    /// The server's own actions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<String>,
    /// The operation that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Operation>,
    /// The operation that ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Operation>,
    /// How the journal fares.
    pub journal: JournalStatus,
}
