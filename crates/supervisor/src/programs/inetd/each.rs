//! A process for each connection.
//!
//! ```text
//!   ┌─▶ is there room? ──yes──▶ accept ──▶ start a process ──┐
//!   │       │ no: until one ends, or its time comes          │
//!   └───────┴─────────────────────────────────────────────────┘
//! ```

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use tokio::time::{Instant, sleep, sleep_until};

use super::gate::{Admission, Gate};
use super::listening::Shared;
use super::processes::{Kind, Processes};
use super::{Order, is_shortage};
use crate::programs::demand::Arrivals;

/// Connections in a row that may be gone before they are accepted, until the next socket is looked at.
const MAX_GONE: usize = 64;
/// How long it waits when the system is short of something.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(200);

/// Sets its sockets to what is needed to accept from them here, and watches them.
pub(super) fn watch(order: &Order) -> io::Result<Arrivals> {
    for socket in &order.sockets {
        rustix::io::ioctl_fionbio(socket, true)?;
    }
    Arrivals::watch(&order.sockets)
}

/// Accepts connections and starts a process for each.
pub(super) async fn run(shared: Arc<Shared>, mut arrivals: Arrivals) {
    let mut order = shared.order();
    let mut gate = Gate::new(order.processes, order.per_second);
    let epoch = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = shared.changed.notified() => {}
            () = serve(&shared.processes, &order, &arrivals, &mut gate, epoch) => {}
        }
        order = shared.order();
        gate.change(order.processes, order.per_second);
        match watch(&order) {
            Ok(watched) => arrivals = watched,
            Err(error) => {
                shared.processes.complain(
                    &order.care.program,
                    "watch",
                    &format!("its sockets cannot be watched: {error}"),
                );
                sleep(SHORTAGE_PAUSE).await;
                shared.changed.notify_one();
            }
        }
    }
}

/// Serves one connection after the other, for ever. Nothing is lost when it is dropped: it waits only while no connection
/// was accepted.
async fn serve(processes: &Processes, order: &Order, arrivals: &Arrivals, gate: &mut Gate, epoch: Instant) {
    let mut was_held = false;
    loop {
        let ended = processes.one_ended();
        tokio::pin!(ended);
        ended.as_mut().enable();
        let admission = gate.ask(epoch.elapsed(), processes.count_of(Kind::Connection));
        if admission != Admission::Now && !was_held && waits(order) {
            was_held = true;
            processes.held_back(&order.care.program, &told(admission, order));
        }
        let room = async {
            match admission {
                Admission::Full => ended.await,
                Admission::At(at) => sleep_until(epoch + at).await,
                Admission::Now => {}
            }
        };
        if admission != Admission::Now {
            tokio::select! {
                () = room => {}
                // Who comes now has to wait, which is to be counted.
                _ = arrivals.next(), if !was_held => {}
            }
            continue;
        }
        match accept(order) {
            Ok(Some((connection, peer))) => {
                was_held = false;
                gate.pass(epoch.elapsed());
                launch(processes, order, &connection, peer);
            }
            Ok(None) => drop(arrivals.next().await),
            Err(error) => {
                let what = format!("a connection cannot be accepted: {error}");
                processes.complain(&order.care.program, "accept", &what);
                sleep(SHORTAGE_PAUSE).await;
            }
        }
    }
}

/// Starts a process for a connection; if that fails, the connection is closed.
fn launch(processes: &Processes, order: &Order, connection: &OwnedFd, peer: Option<SocketAddr>) {
    let mut more = Vec::new();
    if let Some(peer) = peer {
        let host = peer.ip().to_canonical().to_string();
        more.extend([
            ("REMOTE_ADDR", host.clone()),
            ("REMOTE_HOST", host),
            ("REMOTE_PORT", peer.port().to_string()),
        ]);
    }
    let number = u32::try_from(processes.started() + 1).unwrap_or(u32::MAX);
    // As people know it, also where a socket of IPv6 takes connections of IPv4.
    let peer = peer.map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port()));
    let peer = peer.map_or("a local process".to_owned(), |peer| peer.to_string());
    match order.start(number, Some(&peer), connection.as_fd(), Some(connection.as_fd()), &more) {
        Ok(started) => {
            for warning in started.warnings {
                processes.complain(&order.care.program, "warning", &warning);
            }
            drop(processes.add(started.copy, Some(peer), &order.care));
        }
        Err(why) => processes.not_started(&order.care, why),
    }
}

fn told(admission: Admission, order: &Order) -> String {
    match admission {
        Admission::Full => {
            format!("{} processes run, as many as may: connections wait until one ends", order.processes)
        }
        _ => format!(
            "{} processes were started in a second, as many as may: connections wait",
            order.per_second
        ),
    }
}

/// Whether a connection waits at any of its sockets.
fn waits(order: &Order) -> bool {
    let mut polled: Vec<PollFd<'_>> =
        order.sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// The next connection of any of its sockets, and who is at the other end (nobody knows, over a Unix socket).
fn accept(order: &Order) -> io::Result<Option<(OwnedFd, Option<SocketAddr>)>> {
    for socket in &order.sockets {
        for _ in 0..MAX_GONE {
            // The connection itself waits for its reader, as such programs expect it.
            match rustix::net::acceptfrom_with(socket, SocketFlags::CLOEXEC) {
                Ok((connection, peer)) => {
                    return Ok(Some((connection, peer.and_then(|peer| SocketAddr::try_from(peer).ok()))));
                }
                Err(Errno::AGAIN) => break,
                Err(errno) if is_shortage(&errno.into()) => return Err(errno.into()),
                Err(Errno::INVAL | Errno::BADF | Errno::NOTSOCK) => break,
                // It was gone before it was accepted (accept(2)).
                Err(_) => {}
            }
        }
    }
    Ok(None)
}
