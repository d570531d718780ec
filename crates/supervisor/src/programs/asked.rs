//! What can be asked about programs and their traffic.
//!
//! ```text
//!   handover deploy web --slot b ─▶ control ─▶ Ask::Program(Asked {target: "web", what: Deploy {…}}) ─▶ Programs::ask
//! ```

use std::path::PathBuf;
use std::time::Duration;

use handover_api::Actor;
use serde::{Deserialize, Serialize};

/// One request about a program, an endpoint, or what can be paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// A program's name; of a pause also a service, a route or a listener, and of drain and enable an endpoint. `route:NAME` and
    /// the like say which is meant. `None` (resume only): all that is paused.
    pub target: Option<String>,
    /// What is to be done.
    pub what: What,
}

impl Asked {
    /// The program that is meant: `web`, or `program:web`.
    pub(crate) fn program(&self) -> Option<&str> {
        let name = self.target.as_deref()?;
        Some(name.strip_prefix("program:").unwrap_or(name))
    }
}

/// Who asks, for what has to be told later: a deploy that awaits confirmation, a pause.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Asker {
    /// The operation's public ID.
    pub(crate) id: String,
    /// Who.
    pub(crate) actor: Actor,
    /// Why.
    pub(crate) comment: Option<String>,
}

impl Asker {
    /// The supervisor, for what nobody remembers who has asked for it.
    pub(crate) fn supervisor() -> Self {
        Asker { id: String::new(), actor: Actor::supervisor(), comment: None }
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Start it, if it does not run.
    Start,
    /// Ask it to end, and do not start it again.
    Stop,
    /// The same edition anew.
    Restart {
        /// Copies at a time, in place of the configured number.
        batch: Option<u32>,
        /// Copies that may be missing, in place of the configured number.
        max_unhealthy: Option<u32>,
    },
    /// Read its configuration anew.
    Reload,
    /// Run the version in another slot.
    Deploy {
        /// Which slot; the idle one if `None`.
        slot: Option<String>,
        /// A directory instead of a slot; absolute.
        directory: Option<PathBuf>,
        /// It goes back after this long unless it is confirmed.
        confirm: Option<Duration>,
        /// It is watched for this long, and goes back if it fares badly.
        guard: Option<Duration>,
    },
    /// Run again what ran before the last deploy.
    Rollback,
    /// The deploy that awaits confirmation stays.
    Confirm,
    /// The deploy that awaits confirmation is taken back.
    Cancel,
    /// The supervisor takes back a deploy that nobody has confirmed, or that fares badly. Nobody else asks for this.
    GoBack,
    /// Hold new requests.
    Pause {
        /// For how long at most; the usual time if `None`.
        time: Option<Duration>,
        /// How many at most; the configured number if `None`.
        max_held: Option<u32>,
    },
    /// Let go what is held.
    Resume,
    /// The endpoint gets nothing new.
    DrainEndpoint {
        /// How long what is in flight may take until the answer; nothing is cut.
        limit: Option<Duration>,
    },
    /// The endpoint gets new requests again.
    EnableEndpoint,
}

impl What {
    /// Whether it is about traffic only, and no copy comes or goes.
    pub(crate) fn is_about_traffic(&self) -> bool {
        matches!(self, What::Pause { .. } | What::Resume | What::DrainEndpoint { .. } | What::EnableEndpoint)
    }
}

/// How long a guard watches a deploy that names no time.
pub const GUARD_TIME: Duration = Duration::from_secs(10);
/// How long a pause lasts that names no time.
pub(crate) const PAUSE_TIME: Duration = Duration::from_secs(30);
/// How many requests a pause holds that names no number and whose program names none.
pub(crate) const MAX_HELD: u32 = 10_000;
