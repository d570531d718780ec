//! Where requests go that are passed to programs, what is taken out, and what is held: said to the worker as a whole.
//!
//! ```text
//!   supervisor ── Traffic {all of it} ─▶ worker: every thread acts on it ── TrafficSet ─▶
//!              ── AwaitQuiet {target} ─▶ nothing of it is in flight any more ── Quiet ─▶
//!                  a request waits for a program that is started when somebody needs it ── Wanted ─▶
//! ```
//!
//! It is no part of a generation: it changes when copies come and go. A new worker is told before it serves.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Address;

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// The endpoints of programs, by the program's name. An empty list: requests wait as for an endpoint that does not answer.
    pub programs: BTreeMap<String, Vec<ProgramEndpoint>>,
    /// Endpoints of services that get nothing new, by name (`127.0.0.1:9001`, `web/1`).
    pub off: Vec<String>,
    /// What is paused.
    pub pauses: Vec<Pause>,
    /// Programs that have no endpoint at present, and are started when somebody waits for them, by name: what waits is held, and the
    /// worker says so with [`super::ToSupervisor::Wanted`], at least once after each of these messages.
    pub wakes: BTreeMap<String, Wake>,
}

/// How long, and how many, wait for a program that is started when somebody needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wake {
    /// Nobody waits longer than this, and the time to connect to it; then it is answered with 503 and `Retry-After`.
    pub limit: Duration,
    /// Held at most; what comes then is answered so at once.
    pub max_held: u32,
}

/// An endpoint of a program: one copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramEndpoint {
    /// Its name: `web/1`.
    pub name: String,
    /// Where it is reached.
    pub address: Address,
    /// Whether it gets new requests. If not, it is there for those in flight only.
    pub on: bool,
}

/// New requests for this are held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// For what.
    pub target: Target,
    /// The time left, from the moment this is sent; then the worker goes on by itself, if nobody has said so before.
    pub left: Duration,
    /// Held at most; what comes then is answered with 503 and `Retry-After`.
    pub max_held: u32,
    /// If true, nothing more is held: everything that is and that comes is answered with 503 at once (the server stops, and
    /// nobody is there who could answer).
    #[serde(default)]
    pub refuse: bool,
}

/// What can be paused, or be quiet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// All services that lead to this program.
    Program(String),
    /// A service.
    Service(String),
    /// A route.
    Route(String),
    /// A listener: HTTP requests are held; of TCP, connections wait in the queue.
    Listener(String),
    /// One endpoint, in all services.
    Endpoint(String),
}

/// `program web`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match self {
            Target::Program(name) => ("program", name),
            Target::Service(name) => ("service", name),
            Target::Route(name) => ("route", name),
            Target::Listener(name) => ("listener", name),
            Target::Endpoint(name) => ("endpoint", name),
        };
        write!(f, "{kind} {name}")
    }
}

/// What can be named in a request about traffic: the worker says so with [`super::ToSupervisor::Prepared`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Names {
    /// Services, each with the program that it leads to, if it does.
    pub services: BTreeMap<String, Option<String>>,
    /// Routes.
    pub routes: Vec<String>,
    /// Listeners, without those of programs.
    pub listeners: Vec<String>,
    /// Endpoints that the configuration names.
    pub endpoints: Vec<String>,
}
