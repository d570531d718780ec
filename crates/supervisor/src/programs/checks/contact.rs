//! A connection that was accepted by a certain copy.
//!
//! ```text
//!   connect ─▶ waiting in the queue ─▶ accepted ─┬─ by the copy ───────▶ Contact
//!                        │                       └─ by another one: held, and the next one is made
//!                        └─ for too long ─▶ Waiting: nobody's yet
//! ```
//!
//! Connections that another copy has accepted are held until the try is over: a copy that serves one connection at a time
//! is busy then, and leaves the next one to the copy that is asked. A try is short, so that this holds up nobody.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout};

use super::finding::Finding;
use super::{Place, Processes};
use crate::programs::connections::{self, FarEnd};
use crate::protocol::Address;

/// How long making a connection may take, to a socket of this machine.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// The first pause between looks at who has accepted, and the longest.
const LOOK_PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(16));

/// A stream of either kind.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Over the loopback, or an address of this machine.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// What the kernel is asked with for the far end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Link {
    Tcp { near: SocketAddr, far: SocketAddr },
    Unix { inode: u64 },
}

/// Whose a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// It waits in the queue.
    Nobodys,
    /// This process of the copy has it.
    Copys(u32),
    /// Somebody else has it.
    Anothers,
    /// Its far end is closed, or not on this machine's side of a network namespace.
    Gone,
}

impl Link {
    /// Asks the kernel, once.
    ///
    /// # Errors
    /// The kernel does not tell, or the copy's processes may not be looked at.
    pub(crate) fn whose(self, processes: &Processes) -> io::Result<Whose> {
        let end = match self {
            Link::Tcp { near, far } => connections::far_end_tcp(near, far)?,
            Link::Unix { inode } => connections::far_end_unix(inode)?,
        };
        Ok(match end {
            FarEnd::Waiting => Whose::Nobodys,
            FarEnd::Gone => Whose::Gone,
            FarEnd::Accepted(inode) => {
                let unseen = |error| io::Error::other(format!("its processes may not be looked at: {error}"));
                let holder = connections::holder(&processes.now(), inode).map_err(unseen)?;
                holder.map_or(Whose::Anothers, Whose::Copys)
            }
        })
    }

    /// Asks again and again until somebody has accepted it, at most until `until`.
    ///
    /// # Errors
    /// As [`Link::whose`].
    pub(crate) async fn accepted(self, processes: &Processes, until: Instant) -> io::Result<Whose> {
        let (mut pause, longest) = LOOK_PAUSES;
        let mut anothers = false;
        loop {
            let whose = self.whose(processes)?;
            match whose {
                // Whoever accepts may pass it on to a process of its own: one more look, later.
                Whose::Anothers if !anothers => anothers = true,
                Whose::Nobodys => {}
                _ => return Ok(whose),
            }
            if Instant::now() + pause > until {
                return Ok(whose);
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }
}

/// A connection, and what is known of its far end.
#[derive(Debug)]
pub(crate) struct Contact {
    pub(crate) stream: Stream,
    pub(crate) link: Link,
    pub(crate) whose: Whose,
}

/// How a contact is looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Search {
    /// Connections that are made at most.
    pub(crate) crowd: usize,
    /// How long each may wait to be accepted.
    pub(crate) wait: Duration,
}

/// Makes connections until the copy has accepted one. If nobody accepts, the one that waits is returned as
/// [`Whose::Nobodys`]. Where only this copy can accept, whoever has accepted is it.
pub(crate) async fn contact(
    place: &Place,
    processes: &Processes,
    search: Search,
) -> Result<Contact, Finding> {
    let mut held = Vec::new();
    let mut gone = 0;
    for _ in 0..search.crowd.max(1) {
        let (stream, link) = connect(place).await?;
        let unseen = |error: io::Error| Finding::CannotBeSeen {
            place: place.address.to_string(),
            why: error.to_string(),
        };
        let whose = match link.accepted(processes, Instant::now() + search.wait).await {
            Ok(whose) => whose,
            // Nobody else can have accepted it; only whether anybody has, is not known.
            Err(_) if place.own => Whose::Gone,
            Err(error) => return Err(unseen(error)),
        };
        match whose {
            Whose::Copys(_) | Whose::Nobodys => return Ok(Contact { stream, link, whose }),
            Whose::Anothers | Whose::Gone if place.own => return Ok(Contact { stream, link, whose }),
            Whose::Anothers => held.push(stream),
            Whose::Gone => gone += 1,
        }
    }
    let place = place.address.to_string();
    let tries = held.len();
    Err(if tries == 0 && gone > 0 {
        Finding::ClosedAtOnce { place }
    } else {
        Finding::AnotherCopy { place, tries }
    })
}

async fn connect(place: &Place) -> Result<(Stream, Link), Finding> {
    match timeout(CONNECT_LIMIT, connect_to(&place.address)).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(error)) => Err(Finding::no_connection(place, &error)),
        Err(_) => Err(Finding::no_connection(place, &io::ErrorKind::TimedOut.into())),
    }
}

async fn connect_to(address: &Address) -> io::Result<(Stream, Link)> {
    let stream = match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(reachable(*address)).await?;
            let link = Link::Tcp { near: stream.local_addr()?, far: stream.peer_addr()? };
            return Ok((Stream::Tcp(stream), link));
        }
        Address::Unix { path, .. } => UnixStream::connect(path).await?,
        Address::Abstract(name) => {
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)?
        }
    };
    let inode = rustix::fs::fstat(stream.as_fd())?.st_ino;
    Ok((Stream::Unix(stream), Link::Unix { inode }))
}

/// Where a socket is reached that listens at this address: one that listens everywhere, at the loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
