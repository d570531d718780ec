//! Who asked.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// By which way a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// A process that connected to the control socket; the kernel vouches for its uid, gid and pid.
    Peer,
    /// A signal; Linux does not tell who sent it in a way that can be trusted later.
    Signal,
    /// The supervisor itself: the first start, a dead worker replaced, a change that nobody confirmed.
    Supervisor,
    /// The watch on files or on a store of configurations.
    Watch,
}

/// Who asked for an operation, as far as the kernel vouches for it (unix(7), SO_PEERCRED).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Actor {
    /// By which way the request came.
    pub kind: ActorKind,
    /// User ID of the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Primary group ID of the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Process ID of the peer when it connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Command name of the peer (`/proc/PID/comm`); a hint, because the peer chooses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Name of the signal without `SIG`, e.g. `HUP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

impl Actor {
    /// A process on the control socket.
    #[must_use]
    pub fn peer(uid: u32, gid: u32, pid: Option<u32>, command: Option<String>) -> Self {
        Self { kind: ActorKind::Peer, uid: Some(uid), gid: Some(gid), pid, command, signal: None }
    }

    /// A signal, by its name without `SIG`.
    #[must_use]
    pub fn signal(name: impl Into<String>) -> Self {
        Self {
            kind: ActorKind::Signal,
            uid: None,
            gid: None,
            pid: None,
            command: None,
            signal: Some(name.into()),
        }
    }

    /// The supervisor itself.
    #[must_use]
    pub fn supervisor() -> Self {
        Self::itself(ActorKind::Supervisor)
    }

    /// The watch on files or on a store of configurations; what it saw is the operation's comment.
    #[must_use]
    pub fn watch() -> Self {
        Self::itself(ActorKind::Watch)
    }

    fn itself(kind: ActorKind) -> Self {
        Self { kind, uid: None, gid: None, pid: None, command: None, signal: None }
    }
}

/// `uid 1000 curl[4711]`, `signal HUP`, `supervisor`, `watch`.
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ActorKind::Supervisor => f.write_str("supervisor"),
            ActorKind::Watch => f.write_str("watch"),
            ActorKind::Signal => write!(f, "signal {}", self.signal.as_deref().unwrap_or("?")),
            ActorKind::Peer => {
                match self.uid {
                    Some(0) => f.write_str("root")?,
                    Some(uid) => write!(f, "uid {uid}")?,
                    None => f.write_str("unknown peer")?,
                }
                match (&self.command, self.pid) {
                    (Some(command), Some(pid)) => write!(f, " {command}[{pid}]"),
                    (Some(command), None) => write!(f, " {command}"),
                    (None, Some(pid)) => write!(f, " pid {pid}"),
                    (None, None) => Ok(()),
                }
            }
        }
    }
}
