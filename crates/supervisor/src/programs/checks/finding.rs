//! What one try has found, in words that an operator can act on.

use std::fmt;
use std::time::Duration;

use super::Place;

/// Why a try was no proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The time was over before it was asked for the first time.
    NotAsked,
    /// Nobody listens, or the connection could not be made for another reason.
    NoConnection { place: String, why: String },
    /// It waits in the queue.
    NobodyAccepted { place: String },
    /// It was accepted, but never by this copy.
    AnotherCopy { place: String, tries: usize },
    /// It was closed before the kernel could be asked who has accepted it.
    ClosedAtOnce { place: String },
    /// The kernel does not tell who has accepted it.
    CannotBeSeen { place: String, why: String },
    /// It has answered, but not as it should.
    Answered { status: u16, target: String, wanted: Option<u16> },
    /// No answer within the time of one try.
    NoAnswer { place: String, limit: Duration },
    /// What came is no answer.
    NotHttp { place: String, why: String },
    /// The command says no.
    Command(String),
    /// It has not said `READY=1`.
    NotSaid { status: Option<String> },
    /// The check cannot be made at all.
    Impossible(&'static str),
}

impl Finding {
    /// A connection could not be made.
    pub(super) fn no_connection(place: &Place, error: &std::io::Error) -> Self {
        let why = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            std::io::ErrorKind::NotFound => "no such socket".to_owned(),
            std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => {
                "nobody took the connection: the queue is full".to_owned()
            }
            _ => error.to_string(),
        };
        Finding::NoConnection { place: place.address.to_string(), why }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::NotAsked => f.write_str("there was no time to ask"),
            Finding::NoConnection { place, why } => write!(f, "{why} at {place}"),
            Finding::NobodyAccepted { place } => write!(f, "nobody accepted a connection at {place}"),
            Finding::AnotherCopy { place, tries: 1 } => {
                write!(f, "another copy answered at {place}: it accepted the connection")
            }
            Finding::AnotherCopy { place, tries } => {
                write!(f, "another copy answered at {place}: it accepted all {tries} connections")
            }
            Finding::ClosedAtOnce { place } => {
                write!(f, "the connection to {place} was closed before it could be seen who has accepted it")
            }
            Finding::CannotBeSeen { place, why } => {
                write!(
                    f,
                    "who accepts at {place} cannot be seen ({why}); use a private socket, READY=1 or a command"
                )
            }
            Finding::Answered { status, target, wanted: None } => {
                write!(f, "answered {status} to GET {target}")
            }
            Finding::Answered { status, target, wanted: Some(wanted) } => {
                write!(f, "answered {status} to GET {target}, {wanted} is wanted")
            }
            Finding::NoAnswer { place, limit } => write!(f, "no answer from {place} within {limit:.0?}"),
            Finding::NotHttp { place, why } => write!(f, "no HTTP answer from {place}: {why}"),
            Finding::Command(sentence) => f.write_str(sentence),
            Finding::NotSaid { status: None } => f.write_str("it has not said READY=1"),
            Finding::NotSaid { status: Some(status) } => {
                write!(f, "it has not said READY=1; the last it said is \"{status}\"")
            }
            Finding::Impossible(why) => f.write_str(why),
        }
    }
}
