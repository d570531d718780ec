//! Addresses to listen on.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// An address to listen on, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ListenerSpec {
    /// The listener's name in the configuration; one listener may have several addresses.
    pub name: String,
    /// The address.
    pub address: Address,
    /// Connections that the kernel keeps until they are accepted (listen(2)).
    pub backlog: u32,
}

/// An address to listen on. Two of them are the same listener if they are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// TCP over IPv4 or IPv6 (never both: `IPV6_V6ONLY` is set). Port 0: the kernel chooses one, once.
    Tcp(SocketAddr),
    /// A Unix socket (unix(7)) at a path.
    Unix {
        /// The path, absolute.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A Unix socket with an abstract name, which is given without the NUL byte in front.
    Abstract(String),
}

impl Address {
    /// Whether both mean the same place, whatever its mode.
    #[must_use]
    pub fn is_same_place(&self, other: &Address) -> bool {
        match (self, other) {
            (Address::Unix { path: a, .. }, Address::Unix { path: b, .. }) => a == b,
            _ => self == other,
        }
    }
}

/// `127.0.0.1:8080`, `unix:/run/app.sock`, `unix:@app`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix { path, .. } => write!(f, "unix:{}", path.display()),
            Address::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}
