//! The small numbers by which the machine and its driver mean the same thing.
//!
//! They are types of their own so that a candidate cannot be taken for a worker. None of them is
//! shown to an operator except the generation number.

/// A number of its own type, shown as a word and itself.
macro_rules! key {
    ($(#[$meta:meta])* $name:ident, $word:literal) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!($word, " {}"), self.0)
            }
        }
    };
}
pub(crate) use key;

key!(
    /// One request that was given to the machine. The driver chooses it, never twice in one life of the
    /// supervisor, and keeps the operation's public ID beside it.
    OperationKey,
    "operation"
);
impl OperationKey {
    /// From here on keys are the machine's own, for operations that it begins by itself
    /// ([`crate::Effect::Own`]). The driver's are below.
    pub const OWN: Self = Self(1 << 63);
}

key!(
    /// One worker process. Never used twice, not even by the next supervisor.
    WorkerKey,
    "worker"
);
key!(
    /// One prepared or preparing candidate inside a worker. Never used twice, not even by the next
    /// supervisor, so that a late answer about an earlier candidate cannot be taken for this one's.
    CandidateKey,
    "candidate"
);
key!(
    /// One question to a worker (drain, resume, action) whose answer repeats it.
    CallKey,
    "call"
);
key!(
    /// The number of a generation, counted from 1 and never given to two different states.
    GenerationNumber,
    "generation"
);

impl GenerationNumber {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}
