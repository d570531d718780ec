//! The part of the validated configuration that is about programs.

use handover::program::ProgramSpec;

/// A program that the supervisor runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Everything that the supervisor needs to run it; names of users and groups are resolved, paths absolute.
    pub spec: ProgramSpec,
    /// The most connections that the kernel keeps waiting on each of its shared sockets (`listen(2)`).
    pub backlog: u32,
}
