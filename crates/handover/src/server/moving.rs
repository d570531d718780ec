//! How an embedding program's worker hands over and takes over. Its connections are the program's own, so none is written down
//! in the moment of the freeze: those that can move are given late, one by one, when their handlers have come to a place
//! where they can; the rest drains.
//!
//! ```text
//!   candidate: the closure runs up to `Context::listener`, which waits ─▶ serve: it goes on, and accepts
//!   giver:     release: draining ends, Mover::asked ends ─▶ give ─▶ … ─▶ drained
//! ```

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::hosted::Hosted;
use super::movable::{Exit, split};
use crate::guard::between;
use crate::moving::{Counts, Frozen, FrozenView, Moving, Outlet, Probe};
use crate::service::Service as _;
use crate::types::Figures;

/// How long a server that was drained may take to come as far as its listeners again.
const READY_WITHIN: Duration = Duration::from_millis(2_500);

/// A move that gives.
#[derive(Default)]
pub(super) struct GivingAway {
    exit: Option<Arc<Exit>>,
    /// What was counted up to the freeze.
    counted: Figures,
}

impl Moving for Hosted {
    fn formats(&self) -> RangeInclusive<u16> {
        self.declared.state_formats.clone()
    }

    fn threads(&self) -> u32 {
        1
    }

    fn precopy(&self, outlet: &Arc<Outlet>, format: u16) {
        self.giving_away().exit = Some(Exit::new(Arc::clone(outlet), format));
    }

    fn freeze(&self) -> Result<Frozen, String> {
        let counted = self.figures().unwrap_or_default();
        self.giving_away().counted = counted;
        let common = serde_json::to_vec(&counted).map_err(|error| error.to_string())?;
        Ok(Frozen { sections: Vec::new(), common, moved: Counts::new() })
    }

    fn thaw(&self) {
        *self.giving_away() = GivingAway::default();
    }

    fn release(&self) {
        let Some(exit) = self.giving_away().exit.clone() else { return };
        if let Some(run) = &self.serving().run {
            run.move_out(&exit);
        }
        for kind in &self.declared.kinds {
            kind.give_waiting(&exit);
        }
    }

    fn totals(&self) -> Vec<u8> {
        let counted = std::mem::take(&mut *self.giving_away()).counted;
        let since = between(&counted, &self.figures().unwrap_or_default());
        serde_json::to_vec(&since).unwrap_or_default()
    }

    fn stand_by(&self) {
        self.stands_by.store(true, Ordering::Relaxed);
    }

    /// The program accepts by itself, and cannot be asked before it may: what answers is its process, in which it has come as far
    /// as it can.
    fn probe(&self, probe: Arc<Probe>) {
        probe.answer_elsewhere();
    }

    /// Nothing is ever sent ahead.
    fn sockets(&self, _thread: u32, _first: u64, _sockets: Vec<OwnedFd>) {}

    fn adopt(&self, _format: u16, frozen: FrozenView) -> Result<Counts, String> {
        if let (Some(counters), false) = (&self.declared.counters, frozen.common.is_empty()) {
            let counted = serde_json::from_slice(&frozen.common).map_err(|error| error.to_string())?;
            counters.set(&counted);
        }
        self.stands_by.store(true, Ordering::Relaxed);
        if self.serving().run.is_none() {
            self.start_again(|run| {
                let until = Instant::now() + READY_WITHIN;
                run.wait_ready(|| Instant::now() < until)
            })?;
        }
        Ok(Counts::new())
    }

    fn serve(&self) {
        // Its run, or a new one if the worker before has died before it gave anything.
        self.resume();
    }

    fn late(&self, format: u16, _thread: u32, state: &[u8], sockets: Vec<OwnedFd>) {
        let taken = match split(state) {
            Some((name, state)) => match self.declared.kinds.iter().find(|kind| kind.name() == name) {
                Some(kind) => kind.adopt(format, state, sockets),
                None => Err(format!("this program has no movable connections named {name:?}")),
            },
            None => Err("its state makes no sense".to_owned()),
        };
        if let Err(why) = taken {
            tracing::error!("a connection of the worker before is lost: {why}");
        }
    }

    fn add_totals(&self, totals: &[u8]) {
        match (&self.declared.counters, serde_json::from_slice(totals)) {
            (Some(counters), Ok(since)) => counters.add(&since),
            (Some(_), Err(error)) => tracing::warn!("what the worker before counted last is lost: {error}"),
            (None, _) => {}
        }
    }
}
