//! Why connections that were written down cannot be read back.

/// What is wrong with a state. Whoever gets it has changed nothing: no connection of that state is served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StateError {
    /// It is in a format that this build does not know.
    #[error("connections are written in format {0}, which this build cannot read")]
    Format(u16),
    /// It ends too early.
    #[error("the state of connections ends in the middle of {0}")]
    Short(&'static str),
    /// Something follows where nothing should.
    #[error("{0} bytes follow the state of connections")]
    Long(usize),
    /// Something has a value that it cannot have.
    #[error("the state of a connection has a value that cannot be: {0}")]
    Value(&'static str),
    /// Something is larger than it can be.
    #[error("the state of a connection has {what} of {found}, more than {limit}")]
    Limit {
        /// What it is.
        what: &'static str,
        /// What is said there.
        found: u64,
        /// The most that can be.
        limit: u64,
    },
    /// A connection came in on a listener that is not served here.
    #[error("connections came in on the listener {name} at {address}, which does not exist here")]
    Listener {
        /// Its name.
        name: String,
        /// Where it listens.
        address: String,
    },
    /// A connection needs a service that is not there.
    #[error("connections are on their way to the service {0}, which does not exist here")]
    Service(String),
    /// A socket did not come, or belongs to another connection.
    #[error("socket number {0} of a connection did not come with it")]
    Socket(u64),
    /// A listener with TLS has a connection without, or the other way round.
    #[error("a connection on the listener {0} is protected otherwise than that listener says")]
    Protection(String),
}
