//! The small numbers by which the machine of a program and its driver mean the same thing.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! key {
    ($(#[$meta:meta])* $name:ident, $word:literal) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " {}"), self.0)
            }
        }
    };
}

key!(
    /// One copy of one program. The machine gives it; never twice, as long as its state lives (see [`super::Machine::new`]).
    CopyKey,
    "copy"
);
key!(
    /// What copies are started from: a definition and a slot. The driver gives it and knows what it stands for.
    EditionKey,
    "edition"
);
