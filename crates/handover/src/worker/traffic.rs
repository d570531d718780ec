//! Traffic to programs, and what is kept of them for the next supervisor.
//!
//! ```text
//!   Traffic    ─▶ the service, on the control thread ─▶ TrafficSet     whatever is committed later comes later
//!   AwaitQuiet ─▶ a thread of its own waits          ─▶ Quiet          nobody is told if that supervisor is gone
//!   Keep       ─▶ kept, in place of what was         ─▶ in Hello to the next supervisor
//!   the service: somebody waits for a program        ─▶ Wanted         said again by the service after the next Traffic
//! ```
//!
//! What a service was told stays in force while there is no supervisor; a pause ends by the service's own clock.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use handover_supervisor::protocol::{Target, ToSupervisor, Traffic};

use super::control::Control;
use super::moves::Role;
use super::{Number, panic_text};
use crate::prepare::CalledOff;
use crate::traffic::Quiet;

/// Waits for quiet that may go on at the same time: a rolling restart has as many as it replaces copies at once.
const MAX_WAITS: usize = 256;

/// What the next supervisor needs to go on with the programs.
#[derive(Debug)]
pub(super) struct KeptPrograms {
    /// What the descriptors are, as the supervisor has written it.
    pub(super) programs: String,
    descriptors: Vec<OwnedFd>,
}

impl KeptPrograms {
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.descriptors.iter().map(|descriptor| descriptor.as_fd())
    }
}

/// The waits for quiet that go on.
#[derive(Debug, Default)]
pub(super) struct Waits {
    open: Vec<(Number, CalledOff)>,
}

impl Waits {
    /// Nobody waits for their answers any more.
    pub(super) fn call_off(&mut self) {
        for (_, called_off) in self.open.drain(..) {
            called_off.set();
        }
    }
}

impl Control {
    /// Acts on it before anything else is done: what is committed after it is served by it from its first request on.
    pub(super) fn traffic(&mut self, call: u64, traffic: Traffic) {
        let service = &self.errands.service;
        match catch_unwind(AssertUnwindSafe(|| service.traffic(traffic))) {
            Ok(()) => self.send(&ToSupervisor::TrafficSet { call }, &[]),
            // Nobody knows by now which thread does what.
            Err(payload) => self.fail(&format!("directing traffic panicked: {}", panic_text(&payload))),
        }
    }

    pub(super) fn await_quiet(&mut self, call: u64, target: Target, limit: Duration) {
        let number = self.number(call);
        if self.waits.open.len() >= MAX_WAITS {
            tracing::error!("{MAX_WAITS} waits go on already: nobody waits until {target} is quiet");
            return self
                .send(&ToSupervisor::Quiet { call, left: Quiet::UNKNOWN.left, held: 0, begun: None }, &[]);
        }
        let called_off = CalledOff::default();
        self.waits.open.push((number, called_off.clone()));
        self.errands.quiet(number, target, limit, called_off);
    }

    /// A wait has ended.
    pub(super) fn is_quiet(&mut self, number: Number, Quiet { left, held, begun }: Quiet) {
        self.waits.open.retain(|(open, _)| *open != number);
        if self.is_of_now(number) {
            self.send(&ToSupervisor::Quiet { call: number.number, left, held, begun }, &[]);
        }
    }

    /// Somebody waits for a program. Where nobody would act on it now it is forgotten: whoever will tells this worker of the traffic, and
    /// then the service says it again.
    pub(super) fn wanted(&mut self, program: String) {
        if self.moves.role == Role::Serving && self.is_supervised() {
            self.send(&ToSupervisor::Wanted { program }, &[]);
        }
    }

    /// Keeps this for the next supervisor, in place of what was kept before; with nothing, lets go of that.
    pub(super) fn keep(&mut self, programs: String, descriptors: Vec<OwnedFd>) {
        let nothing = programs.is_empty() && descriptors.is_empty();
        self.kept = (!nothing).then_some(KeptPrograms { programs, descriptors });
    }
}
