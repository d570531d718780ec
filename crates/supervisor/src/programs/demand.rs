//! The first connection, and idleness, without looking again and again.
//!
//! ```text
//!   stopped ──a connection waits──▶ (started) ──none for so long──▶ (stopped)
//! ```
//!
//! The event loop says when a connection comes to a socket. So a program that nobody connects to costs nothing; and one that
//! runs costs one wake-up and one look at the kernel's tables each quarter of its idle time, if idleness is looked for at all.
//! A short connection that its far client closes first, and that the program accepts before the event loop has looked, may be
//! overlooked; the worst that follows is that the program is stopped early, and started again by the next one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use handover_handoff::reactor;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use super::connections;
use crate::protocol::Address;

/// Looks in one idle time.
const LOOKS: u32 = 4;
/// The longest time between two looks.
const LONGEST_LOOK: Duration = Duration::from_secs(30);
/// The shortest.
const SHORTEST_LOOK: Duration = Duration::from_millis(50);

/// Waits until a connection waits at one of these sockets, and says at which. It accepts nothing. Cancel-safe.
///
/// # Errors
/// A socket cannot be watched: the system is out of descriptors or watches.
pub(crate) async fn connection_waits(sockets: &[Arc<OwnedFd>]) -> io::Result<usize> {
    let arrivals = Arrivals::watch(sockets)?;
    loop {
        let at = arrivals.next().await?;
        // Somebody may have accepted it already, or it may have gone away.
        if waits(&sockets[at])? {
            return Ok(at);
        }
    }
}

/// Whether a connection waits there now.
fn waits(socket: impl AsFd) -> io::Result<bool> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&now))? > 0)
}

/// What is passed to a program by the worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Use {
    /// In flight, or held.
    pub(crate) open: u64,
    /// Another number after each.
    pub(crate) begun: u64,
}

/// Waits until there has been no connection at these sockets and addresses for `time`, none came, and none is there; and until nothing
/// was passed by the worker for as long, as `uses` says (`None`: nobody knows, so it may be used). `places` are the addresses of the
/// sockets, and those where the program itself has bound.
///
/// # Errors
/// As [`connection_waits`], or the kernel's tables cannot be read.
pub(crate) async fn idle<F: Future<Output = Option<Use>>>(
    sockets: &[Arc<OwnedFd>],
    places: &[Address],
    time: Duration,
    mut uses: impl FnMut() -> F,
) -> io::Result<()> {
    let look = (time / LOOKS).clamp(SHORTEST_LOOK, LONGEST_LOOK);
    let mut quiet_since = Instant::now();
    let mut passed = uses().await;
    loop {
        let looked = Instant::now();
        let came = came_until(sockets, (looked + look).min(quiet_since + time)).await?;
        let there = connections::established_on(places.to_vec()).await? > 0;
        let before = std::mem::replace(&mut passed, uses().await);
        let is_passed = passed.is_none_or(|now| now.open > 0) || passed != before;
        if came || there || is_passed || connections::ended_within(places.to_vec(), looked.elapsed()).await? {
            quiet_since = Instant::now();
        } else if quiet_since.elapsed() >= time {
            return Ok(());
        }
    }
}

/// Waits until then, and says whether a connection came meanwhile. After the first it listens no more: however many come,
/// they wake up nobody here.
async fn came_until(sockets: &[Arc<OwnedFd>], until: Instant) -> io::Result<bool> {
    let came = {
        let arrivals = Arrivals::watch(sockets)?;
        tokio::select! {
            at = arrivals.next() => at.map(|_| true)?,
            () = sleep_until(until) => false,
        }
    };
    sleep_until(until).await;
    Ok(came)
}

/// Listening sockets, in the event loop.
#[derive(Debug)]
pub(crate) struct Arrivals {
    // Duplicates: a descriptor can be in the event loop only once, and others may watch the same socket.
    sockets: Vec<AsyncFd<OwnedFd>>,
}

impl Arrivals {
    /// Watches these.
    ///
    /// # Errors
    /// The system is out of descriptors or watches.
    pub(crate) fn watch(sockets: &[Arc<OwnedFd>]) -> io::Result<Self> {
        let watch = |socket: &Arc<OwnedFd>| reactor::register_readable(socket.try_clone()?);
        Ok(Self { sockets: sockets.iter().map(watch).collect::<io::Result<_>>()? })
    }

    /// The next socket to which a connection came, or where one waits already. For ever, if there are no sockets. It tells each
    /// arrival at most once: if it is not accepted, look yourself. Cancel-safe.
    ///
    /// # Errors
    /// None that is known of.
    pub(crate) async fn next(&self) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            for (at, socket) in self.sockets.iter().enumerate() {
                if let Poll::Ready(ready) = socket.poll_read_ready(cx) {
                    ready?.clear_ready();
                    return Poll::Ready(Ok(at));
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(200);

    /// Nothing is passed.
    async fn nothing() -> Option<Use> {
        Some(Use::default())
    }

    fn bound() -> (Arc<OwnedFd>, TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (Arc::new(OwnedFd::from(listener.try_clone().unwrap())), listener, address)
    }

    #[tokio::test]
    async fn a_connection_is_noticed_that_waits_already_or_comes_later_and_stays_in_the_queue() {
        let (first, _first_listener, _) = bound();
        let (second, listener, address) = bound();
        let sockets = [first, second];
        assert!(tokio::time::timeout(SHORT, connection_waits(&sockets)).await.is_err(), "nobody came");
        let (at, client) = tokio::join!(connection_waits(&sockets), async {
            tokio::task::yield_now().await;
            TcpStream::connect(address).unwrap()
        });
        assert_eq!(at.unwrap(), 1);
        assert_eq!(connection_waits(&sockets).await.unwrap(), 1, "it still waits");
        let (accepted, peer) = listener.accept().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        assert!(tokio::time::timeout(SHORT, connection_waits(&sockets)).await.is_err(), "it was accepted");
        drop(accepted);
    }

    #[tokio::test]
    async fn two_can_watch_the_same_socket() {
        let (socket, _listener, address) = bound();
        let sockets = [socket];
        let _client = TcpStream::connect(address).unwrap();
        let (one, other) = tokio::join!(connection_waits(&sockets), connection_waits(&sockets));
        assert_eq!((one.unwrap(), other.unwrap()), (0, 0));
    }

    #[tokio::test]
    async fn it_is_idle_when_no_connection_is_there_and_none_came() {
        let (socket, listener, address) = bound();
        let (sockets, places) = ([socket], [Address::Tcp(address)]);
        let client = TcpStream::connect(address).unwrap();
        let waits = tokio::time::timeout(SHORT * 3, idle(&sockets, &places, SHORT, nothing)).await;
        assert!(waits.is_err(), "a connection waits");
        let (accepted, _) = listener.accept().unwrap();
        let lasts = tokio::time::timeout(SHORT * 3, idle(&sockets, &places, SHORT, nothing)).await;
        assert!(lasts.is_err(), "a connection lasts");
        drop((client, accepted));
        tokio::time::timeout(LIMIT, idle(&sockets, &places, SHORT, nothing)).await.expect("idle").unwrap();
    }

    #[tokio::test]
    async fn connections_that_come_and_go_between_two_looks_are_noticed() {
        let (socket, listener, address) = bound();
        let (sockets, places) = ([socket], [Address::Tcp(address)]);
        let busy = async {
            for _ in 0..30 {
                let client = TcpStream::connect(address).unwrap();
                // The client closes first: nothing stays at the server's end.
                drop(client);
                drop(listener.accept().unwrap());
                sleep_until(Instant::now() + SHORT / 10).await;
            }
        };
        tokio::select! {
            biased;
            idle = idle(&sockets, &places, SHORT, nothing) => panic!("it was busy all the time: {idle:?}"),
            () = busy => {}
        }
    }

    #[tokio::test]
    async fn what_the_worker_passes_keeps_it_busy_also_between_two_looks() {
        let looks = std::cell::Cell::new(0);
        let said = |use_of: &dyn Fn(u64) -> Option<Use>| {
            looks.set(looks.get() + 1);
            std::future::ready(use_of(looks.get()))
        };
        let last = 12;
        // Something is in flight, then nobody knows, then one request has come and gone each time.
        let busy = |look| match look {
            ..4 => Some(Use { open: 1, begun: 7 }),
            4..8 => None,
            _ => Some(Use { open: 0, begun: look.min(last) }),
        };
        let ended = tokio::time::timeout(LIMIT, idle(&[], &[], SHORT, || said(&busy))).await;
        ended.expect("idle").unwrap();
        assert!(looks.get() >= last + u64::from(LOOKS), "{}", looks.get());
    }
}
