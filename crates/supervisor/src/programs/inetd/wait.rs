//! One process at a time, which gets the socket when a connection waits.
//!
//! ```text
//!   ┌─▶ a connection waits ──▶ process, the socket is its standard input ──ends──┐
//!   └──── pause, if it ended at once and has accepted nothing ◀──────────────────┘
//! ```

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use handover_handoff::process::Exit;
use tokio::time::{Instant, sleep};

use super::Order;
use super::listening::Shared;
use super::processes::{Kind, Processes};
use crate::programs::demand::{self, Arrivals};
use crate::programs::{connections, copy};

/// A process that lived for less than this may have done nothing.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Watches its socket, which stays as it is.
pub(super) fn watch(order: &Order) -> io::Result<Arrivals> {
    Arrivals::watch(&order.sockets)
}

/// Waits for connections and starts the process that accepts them.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut pause = None;
    loop {
        // One that runs comes first: an earlier supervisor has started it, or it was asked to end.
        loop {
            let ended = shared.processes.one_ended();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if shared.processes.count_of(Kind::Socket) == 0 {
                break;
            }
            ended.await;
        }
        let order = shared.order();
        let next = async {
            if let Some(pause) = pause {
                sleep(pause).await;
            }
            demand::connection_waits(&order.sockets).await
        };
        let waits = tokio::select! {
            biased;
            () = shared.changed.notified() => {
                pause = None;
                continue;
            }
            waits = next => waits,
        };
        pause = match waits {
            Ok(at) => serve(&shared.processes, &order, at, pause).await,
            Err(error) => {
                shared.processes.complain(
                    &order.care.program,
                    "watch",
                    &format!("its socket cannot be watched: {error}"),
                );
                longer(pause, &order)
            }
        };
        shared.processes.pauses(pause.filter(|pause| !pause.is_zero()));
    }
}

/// Runs the process until it ends; says how long the next start has to wait.
async fn serve(processes: &Processes, order: &Order, at: usize, pause: Option<Duration>) -> Option<Duration> {
    let before = waiting(order, pause).await;
    let began = Instant::now();
    match launch(processes, order, at) {
        Ok(ended) => {
            let exit = ended.await.unwrap_or(Exit::Unknown);
            if began.elapsed() >= AT_ONCE {
                return None;
            }
            match before {
                // The first time it may have been in a hurry; from then on it is looked.
                None if exit == Exit::Code(0) => Some(Duration::ZERO),
                Some(before)
                    if !before.is_subset(&waiting(order, Some(Duration::ZERO)).await.unwrap_or_default()) =>
                {
                    Some(Duration::ZERO)
                }
                _ => {
                    let pause = longer(pause, order);
                    let what = format!(
                        "it {exit} at once, and connections wait; the next start is in {:?}",
                        pause.unwrap_or_default()
                    );
                    processes.complain(&order.care.program, "at once", &what);
                    pause
                }
            }
        }
        Err(why) => {
            processes.not_started(&order.care, why);
            longer(pause, order)
        }
    }
}

fn launch(processes: &Processes, order: &Order, at: usize) -> Result<tokio::task::JoinHandle<Exit>, String> {
    let say = |error: io::Error| error.to_string();
    let socket = order.sockets.get(at).ok_or("it has no socket")?;
    copy::make_blocking(socket).map_err(say)?;
    let started = order.start(1, None, socket.as_fd(), None, &[])?;
    for warning in started.warnings {
        processes.complain(&order.care.program, "warning", &warning);
    }
    Ok(processes.add(started.copy, None, &order.care))
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
