//! The proxy moves its live connections: [`Moving`] in terms of the data plane, if it runs by then.

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use handover::moving::{Counts, Frozen, FrozenView, Moving, Outlet, Probe};

use super::ProxyService;
use crate::conn::state;

/// What there is to say before anything was prepared.
const NOTHING_RUNS: &str = "nothing is served here yet";

impl Moving for ProxyService {
    fn formats(&self) -> RangeInclusive<u16> {
        state::FORMATS
    }

    fn threads(&self) -> u32 {
        u32::try_from(self.threads).unwrap_or(u32::MAX)
    }

    fn precopy(&self, outlet: &Arc<Outlet>, format: u16) {
        if let Some(plane) = self.running() {
            self.mover.precopy(&plane.threads, outlet, format);
        }
    }

    fn freeze(&self) -> Result<Frozen, String> {
        let plane = self.running().ok_or(NOTHING_RUNS)?;
        self.mover.freeze(&plane.threads, &plane.shared)
    }

    fn thaw(&self) {
        if let Some(plane) = self.running() {
            self.mover.thaw(&plane.threads);
        }
    }

    fn release(&self) {
        if let Some(plane) = self.running() {
            self.mover.release(&plane.threads);
        }
    }

    fn totals(&self) -> Vec<u8> {
        self.running().map(|plane| self.mover.totals(&plane.shared)).unwrap_or_default()
    }

    fn stand_by(&self) {
        self.mover.stand_by(self.running().map(|plane| &plane.threads));
    }

    fn probe(&self, probe: Arc<Probe>) {
        if let Some(plane) = self.running() {
            self.mover.probe(&plane.threads, &probe);
        }
    }

    fn sockets(&self, thread: u32, first: u64, sockets: Vec<OwnedFd>) {
        if let Some(plane) = self.running() {
            self.mover.sockets(&plane.threads, thread, first, sockets);
        }
    }

    fn adopt(&self, format: u16, frozen: FrozenView) -> Result<Counts, String> {
        let plane = self.running().ok_or(NOTHING_RUNS)?;
        self.mover.adopt(&plane.threads, format, frozen)
    }

    fn serve(&self) {
        if let Some(plane) = self.running() {
            self.mover.serve(&plane.threads, &plane.shared);
        }
    }

    fn late(&self, format: u16, thread: u32, state: &[u8], sockets: Vec<OwnedFd>) {
        if let Some(plane) = self.running() {
            self.mover.late(&plane.threads, format, thread, state, sockets);
        }
    }

    fn add_totals(&self, totals: &[u8]) {
        if let Some(plane) = self.running() {
            self.mover.add_totals(&plane.shared, totals);
        }
    }
}
