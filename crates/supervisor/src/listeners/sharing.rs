//! The sockets that programs accept from: the same that are held for them, whoever serves.

use std::sync::Arc;

use handover_lifecycle::CandidateKey;

use super::{Held, Listeners};
use crate::programs::{SharedSocket, Sockets};
use crate::protocol::ListenerSpec;

impl Listeners {
    /// The sockets of what serves, for programs that accept from them.
    pub(crate) fn of_serving(&self) -> Sockets {
        shared(&self.serving)
    }

    /// The same of a candidate.
    pub(crate) fn of_candidate(&self, candidate: CandidateKey) -> Sockets {
        self.candidates.get(&candidate).map_or_else(Sockets::new, |held| shared(held))
    }
}

fn shared(listeners: &[(ListenerSpec, Arc<Held>)]) -> Sockets {
    let shared = |(spec, held): &(ListenerSpec, Arc<Held>)| SharedSocket {
        listener: spec.name.clone(),
        address: spec.address.clone(),
        actual: held.actual.clone(),
        socket: held.socket.clone(),
    };
    listeners.iter().map(shared).collect()
}
