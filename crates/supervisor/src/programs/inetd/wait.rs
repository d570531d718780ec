//! One process at a time, which gets the socket when a connection waits.
//!
//! ```text
//!   ┌─▶ a connection waits ──▶ process, the socket is its standard input ──ends──┐
//!   └──── pause, if it ended at once and has accepted nothing ◀──────────────────┘
//! ```

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use handover_handoff::process::Exit;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::processes::Processes;
use super::{Order, SavedProcess, View};
use crate::programs::{connections, copy, demand};
use crate::protocol::Stop;

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
    /// Begins. `adopted`: the process that an earlier supervisor has started, if it still runs. Needs a tokio runtime.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub(crate) fn start(order: Order, adopted: Option<(SavedProcess, Option<OwnedFd>)>) -> io::Result<Self> {
        drop(demand::Arrivals::watch(&order.sockets)?);
        let processes = Processes::default();
        processes.restore(adopted.into_iter().collect(), &order);
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

    /// How it stands.
    pub(crate) fn view(&self) -> View {
        self.shared.processes.view()
    }

    /// What runs, with its pidfd, for the next supervisor.
    pub(crate) fn save(&self) -> Option<(SavedProcess, Option<Arc<OwnedFd>>)> {
        self.shared.processes.save().pop()
    }

    /// Starts nothing more, from this moment on; the process is asked to end, and killed with all that it has started at the
    /// limit. Says whether it was killed.
    pub(crate) fn stop(&self, stop: &Stop) -> impl Future<Output = bool> + Send + 'static + use<> {
        self.task.abort();
        self.shared.processes.signal(stop.signal);
        let (processes, limit) = (self.shared.processes.clone(), stop.limit);
        async move { processes.end(limit).await > 0 }
    }
}

impl Shared {
    fn order(&self) -> Arc<Order> {
        Arc::clone(&self.order.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn run(self: Arc<Self>) {
        let mut pause = None;
        loop {
            // One that was adopted comes first.
            loop {
                let ended = self.processes.one_ended();
                tokio::pin!(ended);
                ended.as_mut().enable();
                if self.processes.count() == 0 {
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
                        &order.program,
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
                        self.processes.complain(&order.program, "at once", &what);
                        pause
                    }
                }
            }
            Err(why) => {
                self.processes.failed(&order.program, "start", why);
                longer(pause, order)
            }
        }
    }

    fn launch(&self, order: &Order, at: usize) -> Result<tokio::task::JoinHandle<Exit>, String> {
        let say = |error: io::Error| error.to_string();
        let socket = order.sockets.get(at).ok_or("it has no socket")?;
        copy::make_blocking(socket).map_err(say)?;
        let mark = copy::new_mark(&order.program, 1).map_err(say)?;
        let started = order.start(&mark, 1, socket.as_fd(), None, &[]).map_err(|error| error.to_string())?;
        for warning in started.warnings {
            self.processes.complain(&order.program, "warning", &warning);
        }
        Ok(self.processes.add(started.copy, None, order, true))
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
