//! The task that waits at the listening sockets of a program. What it starts can be replaced while it waits.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::processes::Processes;
use super::{Order, each, wait};
use crate::programs::demand::Arrivals;

/// Such a task. Dropped, nothing more is accepted or started, from that moment on; processes that run go on.
#[derive(Debug)]
pub(crate) struct Listening {
    shared: Arc<Shared>,
    watch: Watch,
    task: AbortHandle,
}

/// Makes sockets what they have to be, and watches them.
type Watch = fn(&Order) -> io::Result<Arrivals>;

/// What the task looks at.
#[derive(Debug)]
pub(super) struct Shared {
    order: Mutex<Arc<Order>>,
    /// The order is another one.
    pub(super) changed: Notify,
    pub(super) processes: Processes,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listening {
    /// A process for each connection, within the limits of the order; those that run already count. Needs a tokio runtime.
    ///
    /// # Errors
    /// A socket cannot be watched.
    pub(crate) fn each(order: Order, processes: Processes) -> io::Result<Self> {
        let arrivals = each::watch(&order)?;
        Ok(Self::start(order, processes, each::watch, |shared| each::run(shared, arrivals)))
    }

    /// One process at a time, which accepts; the one that runs already comes first. Needs a tokio runtime.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub(crate) fn wait(order: Order, processes: Processes) -> io::Result<Self> {
        drop(wait::watch(&order)?);
        Ok(Self::start(order, processes, wait::watch, wait::run))
    }

    fn start<F>(order: Order, processes: Processes, watch: Watch, run: impl FnOnce(Arc<Shared>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let order = Mutex::new(Arc::new(order));
        let shared = Arc::new(Shared { order, changed: Notify::new(), processes });
        let task = tokio::spawn(run(Arc::clone(&shared))).abort_handle();
        Self { shared, watch, task }
    }

    /// From the next connection on, this is started, and without a pause. Those that run end as they were started.
    ///
    /// # Errors
    /// A socket cannot be watched; then nothing has changed.
    pub(crate) fn replace(&self, order: Order) -> io::Result<()> {
        drop((self.watch)(&order)?);
        *self.shared.order.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(order);
        // Kept for the task if it does something else at this moment.
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl Shared {
    pub(super) fn order(&self) -> Arc<Order> {
        Arc::clone(&self.order.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
