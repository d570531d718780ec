//! One process at a time, which gets the socket when a connection waits.
//!
//! ```text
//!   ┌─▶ a connection waits ──▶ process, the socket is its standard input ──ends──┐
//!   └──── pause, if it ended at once and has accepted nothing ◀──────────────────┘
//! ```

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use handover_handoff::process::Exit;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::Order;
use super::processes::{Kind, Processes};
use crate::programs::{connections, copy, demand};

/// A process that lived for less than this may have done nothing.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Waits for connections and starts the process that accepts them. Dropped, it starts nothing more; what runs goes on.
#[derive(Debug)]
pub(crate) struct Wait {
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    order: Mutex<Arc<Order>>,
    changed: Notify,
    processes: Processes,
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Wait {
    /// Begins; the one that runs already comes first. Needs a tokio runtime.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub(crate) fn start(order: Order, processes: Processes) -> io::Result<Self> {
        drop(demand::Arrivals::watch(&order.sockets)?);
        let order = Mutex::new(Arc::new(order));
        let shared = Arc::new(Shared { order, changed: Notify::new(), processes });
        let task = tokio::spawn(Arc::clone(&shared).run()).abort_handle();
        Ok(Self { shared, task })
    }

    /// From the next start on, this is started, and without a pause.
    ///
    /// # Errors
    /// The socket cannot be watched; then nothing has changed.
    pub(crate) fn replace(&self, order: Order) -> io::Result<()> {
        drop(demand::Arrivals::watch(&order.sockets)?);
        *self.shared.order.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(order);
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl Shared {
    fn order(&self) -> Arc<Order> {
        Arc::clone(&self.order.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn run(self: Arc<Self>) {
        let mut pause = None;
        loop {
            // One that runs comes first: an earlier supervisor has started it, or it was asked to end.
            loop {
                let ended = self.processes.one_ended();
                tokio::pin!(ended);
                ended.as_mut().enable();
                if self.processes.count_of(Kind::Socket) == 0 {
                    break;
                }
                ended.await;
            }
            let order = self.order();
            let next = async {
                if let Some(pause) = pause {
                    sleep(pause).await;
                }
                demand::connection_waits(&order.sockets).await
            };
            let waits = tokio::select! {
                biased;
                () = self.changed.notified() => {
                    pause = None;
                    continue;
                }
                waits = next => waits,
            };
            pause = match waits {
                Ok(at) => self.serve(&order, at, pause).await,
                Err(error) => {
                    self.processes.complain(
                        &order.care.program,
                        "watch",
                        &format!("its socket cannot be watched: {error}"),
                    );
                    longer(pause, &order)
                }
            };
            self.processes.pauses(pause.filter(|pause| !pause.is_zero()));
        }
    }

    /// Runs the process until it ends; says how long the next start has to wait.
    async fn serve(&self, order: &Order, at: usize, pause: Option<Duration>) -> Option<Duration> {
        let before = waiting(order, pause).await;
        let began = Instant::now();
        match self.launch(order, at) {
            Ok(ended) => {
                let exit = ended.await.unwrap_or(Exit::Unknown);
                if began.elapsed() >= AT_ONCE {
                    return None;
                }
                match before {
                    // The first time it may have been in a hurry; from then on it is looked.
                    None if exit == Exit::Code(0) => Some(Duration::ZERO),
                    Some(before)
                        if !before
                            .is_subset(&waiting(order, Some(Duration::ZERO)).await.unwrap_or_default()) =>
                    {
                        Some(Duration::ZERO)
                    }
                    _ => {
                        let pause = longer(pause, order);
                        let what = format!(
                            "it {exit} at once, and connections wait; the next start is in {:?}",
                            pause.unwrap_or_default()
                        );
                        self.processes.complain(&order.care.program, "at once", &what);
                        pause
                    }
                }
            }
            Err(why) => {
                self.processes.not_started(&order.care, why);
                longer(pause, order)
            }
        }
    }

    fn launch(&self, order: &Order, at: usize) -> Result<tokio::task::JoinHandle<Exit>, String> {
        let say = |error: io::Error| error.to_string();
        let socket = order.sockets.get(at).ok_or("it has no socket")?;
        copy::make_blocking(socket).map_err(say)?;
        let started = order.start(1, None, socket.as_fd(), None, &[])?;
        for warning in started.warnings {
            self.processes.complain(&order.care.program, "warning", &warning);
        }
        Ok(self.processes.add(started.copy, None, &order.care))
    }
}

/// Twice as long, from the first pause to the longest.
fn longer(pause: Option<Duration>, order: &Order) -> Option<Duration> {
    let doubled = pause.map(|pause| pause.saturating_mul(2)).unwrap_or_default();
    Some(doubled.max(order.restart.first).min(order.restart.longest))
}

/// Which connections wait to be accepted; not looked at as long as all goes well, since it takes a look at all connections.
async fn waiting(order: &Order, pause: Option<Duration>) -> Option<BTreeSet<String>> {
    pause?;
    connections::waiting_at(order.places()).await.ok()
}
