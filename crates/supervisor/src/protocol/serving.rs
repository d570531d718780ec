//! What a worker says of itself that has outlived its supervisor.

use serde::{Deserialize, Serialize};

use super::{ListenerSpec, Settings};

/// What a worker serves that has outlived its supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Serving {
    /// The key that `Welcome` gave it.
    pub worker: u64,
    /// The generation's number.
    pub generation: u64,
    /// Its listeners, as it needed them.
    pub listeners: Vec<ListenerSpec>,
    /// Its settings.
    pub settings: Settings,
    /// Its lines for the banner.
    pub summary: Vec<String>,
    /// False after a drain.
    pub accepting: bool,
    /// The source's own name for what it serves (see `Prepared`).
    #[serde(default)]
    pub version: Option<String>,
    /// The sockets that it was told to hold.
    #[serde(default)]
    pub held: Vec<ListenerSpec>,
    /// Whether it has carried state.
    #[serde(default)]
    pub carried: bool,
    /// Whether it passes the executable that it runs, as the last descriptor: workers that replace it are started from that.
    /// (Nobody else can find out: it keeps its memory, and with it `/proc/PID/exe`, from other processes.)
    #[serde(default)]
    pub executable: bool,
    /// What it was told to keep of the programs, if anything; all descriptors after the others came with it.
    #[serde(default)]
    pub programs: Option<String>,
}
