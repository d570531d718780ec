//! What the service is told of the traffic, and asked about it.

use std::time::Duration;

use handover::CalledOff;
use handover::traffic::{Quiet, Target, Traffic};

use super::ProxyService;
use crate::event_loop::Command;
use crate::traffic::wait_for_quiet;

impl ProxyService {
    /// See [`handover::Service::traffic`].
    pub(super) fn follow(&self, traffic: Traffic) {
        // Held to the end, so that what must be freed is not freed by a data thread.
        let before = self.published.traffic(traffic, self.worker.get());
        if let Some(plane) = self.running() {
            plane.threads.ask(|done| Command::Traffic { done });
        }
        drop(before);
    }

    /// See [`handover::Service::held`].
    pub(super) fn held_by_pauses(&self) -> String {
        let held = self.published.held().into_iter();
        let held: serde_json::Map<_, _> =
            held.map(|(target, held)| (target.to_string(), held.into())).collect();
        serde_json::Value::Object(held).to_string()
    }

    /// See [`handover::Service::quiet`].
    pub(super) fn wait(&self, target: &Target, limit: Duration, called_off: &CalledOff) -> Quiet {
        let Some(plane) = self.running() else { return Quiet::default() };
        let quiet = wait_for_quiet(&plane.threads, target, limit, called_off);
        // Read after the count: what began since is seen in one of them, or in the next answer.
        Quiet { begun: self.published.generation().begun(target), ..quiet }
    }
}
