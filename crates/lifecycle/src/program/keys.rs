//! The small numbers by which the machine of a program and its driver mean the same thing.

use crate::ids::key;

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
