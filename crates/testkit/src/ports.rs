//! TCP ports that belong to one test.
//!
//! Asking the kernel for a free port (`:0`) and closing it again would leave a moment in which another test, or an
//! outgoing connection, takes it. So a port is taken from below the range of outgoing connections and *claimed* by a
//! locked file for as long as the [`Port`] lives: no other test process takes it, whatever the program under test
//! does with it meanwhile (bind, close, bind again).

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::fs::{FlockOperation, flock};

/// The first port that tests may claim.
const FIRST: u16 = 12_000;
/// How many ports follow it; they end below the kernel's default range of outgoing connections (32,768).
const COUNT: u16 = 20_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A claimed port of 127.0.0.1, free when it was claimed.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: File,
}

impl Port {
    /// Claims a port that nobody listens on.
    #[must_use]
    pub fn claim() -> Self {
        let directory = directory();
        let start = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or_default();
        for _ in 0..COUNT {
            // Steps of a prime keep two test processes with neighbouring ids apart.
            let step = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(7);
            let number = FIRST + (start.wrapping_mul(61).wrapping_add(step)) % COUNT;
            if let Some(port) = Self::try_claim(&directory, number) {
                return port;
            }
        }
        panic!("no free port between {FIRST} and {}", FIRST + COUNT);
    }

    fn try_claim(directory: &std::path::Path, number: u16) -> Option<Self> {
        let claim = OpenOptions::new()
            .create(true)
            .append(true)
            .open(directory.join(number.to_string()))
            .expect("claim file of a port");
        flock(&claim, FlockOperation::NonBlockingLockExclusive).ok()?;
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _claim: claim })
    }

    /// The port's number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}", self.number)
    }
}

fn directory() -> PathBuf {
    let directory = std::env::temp_dir().join("handover-test-ports");
    fs::create_dir_all(&directory).expect("directory of claimed ports");
    directory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_claims_never_give_the_same_port() {
        let ports: Vec<Port> = (0..50).map(|_| Port::claim()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 50);
    }
}
