//! One process at a time, which gets the socket when a connection waits.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::{Order, Running, View};
use crate::protocol::Stop;

/// Waits for connections and starts the process that accepts them. Dropped, it starts nothing more.
#[derive(Debug)]
pub(crate) struct Wait;

impl Wait {
    /// Begins. `adopted`: the process that an earlier supervisor has started, if it still runs.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub(crate) fn start(order: Order, adopted: Option<(Running, OwnedFd)>) -> io::Result<Self> {
        let _ = (order, adopted);
        Ok(Self)
    }

    /// From the next start on, this is started.
    ///
    /// # Errors
    /// The socket cannot be watched; then nothing has changed.
    pub(crate) fn replace(&self, order: Order) -> io::Result<()> {
        let _ = order;
        Ok(())
    }

    /// How it stands.
    pub(crate) fn view(&self) -> View {
        View::default()
    }

    /// What runs, with its pidfd, for the next supervisor.
    pub(crate) fn save(&self) -> Option<(Running, Arc<OwnedFd>)> {
        None
    }

    /// Starts nothing more; the process is asked to end, and killed with its process group at the limit. Says whether it was
    /// killed.
    pub(crate) async fn stop(self, stop: &Stop) -> bool {
        let _ = stop;
        false
    }
}
