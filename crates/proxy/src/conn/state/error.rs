//! Why connections that were written down cannot be read back.

/// What is wrong with a state. Whoever gets it serves none of the connections in it, and nobody else has been touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StateError {
    /// It is in a format that this build does not know.
    #[error("connections are written down in format {0}, which this build cannot read")]
    Format(u16),
    /// Something ends too early, or has a value that it cannot have.
    #[error("connections that were written down are damaged: {0}")]
    Value(&'static str),
    /// Something is larger than it can be.
    #[error("connections that were written down are damaged: {what} of {found}, where {limit} is the most")]
    Limit {
        /// What it is.
        what: &'static str,
        /// What is said there.
        found: u64,
        /// The most that can be.
        limit: u64,
    },
    /// A connection came in on a listener that is not served here.
    #[error("a connection came in on the listener {name} at {address}, which does not exist here")]
    Listener {
        /// Its name.
        name: String,
        /// Where it listens.
        address: String,
    },
    /// A connection needs a service that is not there.
    #[error("a connection is on its way to the service {0}, which does not exist here")]
    Service(String),
    /// A socket did not come, or came for another connection.
    #[error("socket number {0} of a connection did not come with it")]
    Socket(u64),
    /// A connection is protected by TLS and should not be, or the other way round; or it is a tunnel where requests are served, or the
    /// other way round.
    #[error("a connection does not fit {0}: one of the two is over TLS, or for HTTP, and the other is not")]
    Misfit(String),
}
