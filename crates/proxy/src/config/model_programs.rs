//! The part of the validated configuration that is about programs.

use handover::Address;
use handover::program::ProgramSpec;

use super::model::{EndpointAddress, ListenAddress};

/// A program that the supervisor runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Everything that the supervisor needs to run it; names of users and groups are resolved, paths absolute.
    pub spec: ProgramSpec,
    /// The most connections that the kernel keeps waiting on each of its shared sockets (`listen(2)`).
    pub backlog: u32,
}

/// The same in the words of the supervisor.
impl From<&ListenAddress> for Address {
    fn from(address: &ListenAddress) -> Self {
        match address {
            ListenAddress::Tcp(address) => Self::Tcp(*address),
            ListenAddress::Unix { path, mode } => Self::Unix { path: path.clone(), mode: *mode },
            ListenAddress::Abstract(name) => Self::Abstract(name.to_string()),
        }
    }
}

/// The same in the words of the supervisor. To connect, a mode is of no use.
impl From<&EndpointAddress> for Address {
    fn from(address: &EndpointAddress) -> Self {
        match address {
            EndpointAddress::Tcp(address) => Self::Tcp(*address),
            EndpointAddress::Unix(path) => Self::Unix { path: path.clone(), mode: 0 },
            EndpointAddress::Abstract(name) => Self::Abstract(name.to_string()),
        }
    }
}
