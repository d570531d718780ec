//! What traffic is told in tests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use handover::traffic::{Pause, ProgramEndpoint, Quiet, Target, Traffic};
use handover::{Address, CalledOff, Service as _};
use handover_testkit::{DEADLINE, until};

use super::Plane;

/// A pause of so many at most.
pub(crate) fn pause(target: Target, max_held: u32) -> Traffic {
    pause_for(target, max_held, DEADLINE * 10)
}

/// The same, for so long.
pub(crate) fn pause_for(target: Target, max_held: u32, left: Duration) -> Traffic {
    let pause = Pause { target, left, max_held, refuse: false };
    Traffic { pauses: vec![pause], ..Traffic::default() }
}

/// These endpoints get nothing new.
pub(crate) fn off(names: &[&str]) -> Traffic {
    Traffic { off: names.iter().map(|name| (*name).to_owned()).collect(), ..Traffic::default() }
}

/// A copy at an address.
pub(crate) fn copy(name: &str, address: SocketAddr, on: bool) -> ProgramEndpoint {
    ProgramEndpoint { name: name.to_owned(), address: Address::Tcp(address), on }
}

/// A copy at a Unix socket.
pub(crate) fn copy_at(name: &str, path: &Path, on: bool) -> ProgramEndpoint {
    let address = Address::Unix { path: path.to_owned(), mode: 0o600 };
    ProgramEndpoint { name: name.to_owned(), address, on }
}

/// These are the copies of the program `app`.
pub(crate) fn copies(copies: &[ProgramEndpoint]) -> Traffic {
    let programs = BTreeMap::from([("app".to_owned(), copies.to_vec())]);
    Traffic { programs, ..Traffic::default() }
}

pub(crate) fn service(name: &str) -> Target {
    Target::Service(name.to_owned())
}

impl Plane {
    /// Tells it.
    pub(crate) fn traffic(&self, traffic: Traffic) {
        self.service.traffic(traffic);
    }

    /// Everything goes on.
    pub(crate) fn resume(&self) {
        self.traffic(Traffic::default());
    }

    /// Waits until nothing of this is in flight.
    pub(crate) fn quiet(&self, target: &Target) -> Quiet {
        self.quiet_within(target, DEADLINE)
    }

    /// The same, for so long.
    pub(crate) fn quiet_within(&self, target: &Target, limit: Duration) -> Quiet {
        self.service.quiet(target, limit, &CalledOff::default())
    }

    /// Waits until so many TCP connections are open.
    #[track_caller]
    pub(crate) fn wait_for_tunnels(&self, count: u64) {
        until("so many tunnels", || {
            (self.metric("handover_open_connections{kind=\"tcp\"}") == count).then_some(())
        });
    }

    /// Waits until so many are held.
    #[track_caller]
    pub(crate) fn wait_for_held(&self, count: u64) {
        until("so many to be held", || (self.metric("handover_held") == count).then_some(()));
    }
}

/// Everything goes to the copies of the program `app`.
pub(crate) const PROGRAM: &str =
    "[program.app]\ncommand = [\"/bin/true\"]\n\n[[routes]]\nprogram = \"app\"\n\n";
