//! Connections: plain structs whose every wait is a return to the loop.
//!
//! ```text
//!   accept ──▶ HttpConn ──────101──────▶ Tunnel (websocket)
//!   accept ──▶ Tunnel (tcp)
//!   accept ──▶ Handshake (TLS) ──established──▶ HttpConn, or Tunnel
//! ```
//!
//! `run` does everything that can be done without waiting and says why it stopped ([`Fate`]). It may be called at any time, for any
//! reason: it looks at the state, not at the event. All the ways in which a connection may end stand in [`End`].

mod answer;
mod begin;
mod client;
mod context;
mod dial;
mod flow;
mod greeting;
mod handshake;
mod hold;
mod http;
mod kept;
mod linger;
mod part;
mod patience;
mod proxy;
mod shown;
pub(crate) mod state;
mod tunnel;

use std::os::fd::OwnedFd;

use crate::buffers::{Buf, Buffers};
use crate::reactor::{Io, Reactor, Secure};

pub(crate) use context::{Cx, LocalListener};
pub(crate) use handshake::Handshake;
pub(crate) use http::HttpConn;
pub(crate) use kept::{Kept, Past};
pub(crate) use part::Part;
pub(crate) use shown::Shown;
pub(crate) use tunnel::{Tunnel, TunnelKind};

/// Bytes that one connection may read in one turn before others get theirs.
pub(crate) const TURN_BYTES: usize = 512 * 1024;

/// What becomes of a connection after a run.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It waits for an event or its deadline.
    Parked,
    /// It has more to do: run it again in the next turn.
    Again,
    /// It has much to compute: run it when it is its turn to do so ([`Cx::takes_step`]).
    Later,
    /// It is over.
    Over(End),
    /// It goes on as something else: a tunnel, or, after a handshake, what it is for.
    Upgraded,
}

/// All the ways in which a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything was said: the last response carried `Connection: close`, or both sides of a tunnel finished.
    Done = 0,
    /// The client closed between two requests.
    ClientClosed,
    /// The client went away in the middle of a request or tunnel.
    ClientGone,
    /// The client's message was refused; it got an answer that says why.
    Refused,
    /// Nothing came for the idle time.
    IdleLimit,
    /// The head of a request did not come in time; it was answered 408.
    HeaderLimit,
    /// A body, or a response being taken by the client, stood still for too long.
    BodyLimit,
    /// The endpoint broke off in the middle of a response or tunnel.
    UpstreamCut,
    /// No connection to an endpoint could be made (tunnels; requests get an answer).
    UpstreamUnreachable,
    /// Neither side of a tunnel said anything for the tunnel time.
    TunnelIdle,
    /// It was idle, and its listener goes or the server stops.
    Retired,
    /// It was in use when the time to drain was over.
    Cut,
    /// The kernel refused to watch the socket.
    Unwatched,
    /// No TLS with this client: see the metric of handshake failures.
    HandshakeFailed,
    /// The handshake did not come to its end in time.
    HandshakeLimit,
}

impl End {
    /// True if whoever is at the other end has got all that there was to send. Otherwise it must not be told over TLS that it has.
    fn is_in_order(self) -> bool {
        match self {
            Self::Done
            | Self::ClientClosed
            | Self::Refused
            | Self::IdleLimit
            | Self::HeaderLimit
            | Self::Retired
            | Self::HandshakeFailed
            | Self::HandshakeLimit => true,
            Self::ClientGone
            | Self::BodyLimit
            | Self::UpstreamCut
            | Self::UpstreamUnreachable
            | Self::TunnelIdle
            | Self::Cut
            | Self::Unwatched => false,
        }
    }
}

/// How many ways there are.
pub(crate) const END_KINDS: usize = 15;

/// The ways, as metrics name them.
pub(crate) const END_LABELS: [&str; END_KINDS] = [
    "done",
    "client_closed",
    "client_gone",
    "refused",
    "idle_limit",
    "header_limit",
    "body_limit",
    "upstream_cut",
    "upstream_unreachable",
    "tunnel_idle",
    "retired",
    "cut",
    "unwatched",
    "handshake_failed",
    "handshake_limit",
];

/// One socket of a connection, with what was read from it and what is still to be written to it.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) io: Io,
    pub(crate) inbuf: Buf,
    pub(crate) out: Buf,
}

impl Side {
    /// A socket without buffers.
    pub(crate) fn new(io: Io) -> Self {
        Self { io, inbuf: Buf::none(), out: Buf::none() }
    }

    /// Gives the buffers back, and the socket and what protects it to whoever takes them.
    pub(crate) fn leave(
        mut self,
        reactor: &mut Reactor,
        buffers: &mut Buffers,
    ) -> (OwnedFd, Option<Box<Secure>>) {
        buffers.release(&mut self.inbuf);
        buffers.release(&mut self.out);
        reactor.release(self.io)
    }

    /// Closes the socket and gives the buffers back.
    pub(crate) fn close(mut self, reactor: &mut Reactor, buffers: &mut Buffers) {
        buffers.release(&mut self.inbuf);
        buffers.release(&mut self.out);
        reactor.close(self.io);
    }
}

/// A connection, whichever kind it is.
#[derive(Debug)]
pub(crate) enum Conn {
    /// It speaks HTTP.
    Http(Box<HttpConn>),
    /// It passes bytes.
    Tunnel(Box<Tunnel>),
    /// It is being let in over TLS.
    Handshake(Box<Handshake>),
}

impl Conn {
    /// Does everything that can be done now.
    pub(crate) fn run(&mut self, cx: &mut Cx) -> Fate {
        match self {
            Self::Http(http) => http.run(cx),
            Self::Tunnel(tunnel) => tunnel.run(cx),
            Self::Handshake(handshake) => handshake.run(cx),
        }
    }

    /// Its deadline has passed.
    pub(crate) fn expire(&mut self, cx: &mut Cx) -> Fate {
        match self {
            Self::Http(http) => http.expire(cx),
            Self::Tunnel(tunnel) => tunnel.expire(cx),
            Self::Handshake(handshake) => handshake.expire(cx),
        }
    }

    /// The tick at which it must be looked at.
    pub(crate) fn deadline(&self) -> u64 {
        match self {
            Self::Http(http) => http.deadline(),
            Self::Tunnel(tunnel) => tunnel.deadline(),
            Self::Handshake(handshake) => handshake.deadline(),
        }
    }

    /// The listener that it came in on.
    pub(crate) fn listener(&self) -> u32 {
        match self {
            Self::Http(http) => http.listener(),
            Self::Tunnel(tunnel) => tunnel.listener(),
            Self::Handshake(handshake) => handshake.listener(),
        }
    }

    /// The client's socket, and the one to an endpoint if there is one; nothing while it shakes hands.
    pub(crate) fn sockets(&self) -> Option<(&Io, Option<&Io>)> {
        match self {
            Self::Http(http) => Some(http.sockets()),
            Self::Tunnel(tunnel) => Some(tunnel.sockets()),
            Self::Handshake(_) => None,
        }
    }

    /// It waits for a request, nothing has come, and nothing is to be sent: a run would do nothing.
    pub(crate) fn is_at_rest(&self, cx: &Cx) -> bool {
        matches!(self, Self::Http(http) if http.is_at_rest(cx))
    }

    /// Its listener goes, or the server drains: it should end by itself. If nothing is in progress, at `idle_until`; whatever it
    /// does, at `cut_at`.
    pub(crate) fn retire(&mut self, idle_until: u64, cut_at: Option<u64>) {
        match self {
            Self::Http(http) => http.retire(idle_until, cut_at),
            Self::Tunnel(tunnel) => tunnel.retire(cut_at),
            Self::Handshake(handshake) => handshake.retire(idle_until, cut_at),
        }
    }

    /// The drain was called off.
    pub(crate) fn unretire(&mut self, cx: &Cx) {
        match self {
            Self::Http(http) => http.unretire(cx),
            Self::Tunnel(tunnel) => tunnel.unretire(),
            Self::Handshake(handshake) => handshake.unretire(),
        }
    }

    /// What it is lost as when it is cut; `None` if that is no loss.
    pub(crate) fn loss(&self, cx: &Cx) -> Option<&'static str> {
        match self {
            Self::Http(http) => http.is_loss(cx).then_some("http request"),
            Self::Tunnel(tunnel) => Some(tunnel.kind().label()),
            Self::Handshake(handshake) => handshake.is_loss().then_some("tls handshake"),
        }
    }

    /// What can be said of it.
    pub(crate) fn show(&self, cx: &Cx) -> Shown {
        match self {
            Self::Http(http) => http.show(cx),
            Self::Tunnel(tunnel) => tunnel.show(cx),
            Self::Handshake(handshake) => handshake.show(cx),
        }
    }

    /// Closes its sockets and gives back all that it holds.
    pub(crate) fn close(self, end: End, cx: &mut Cx) {
        cx.cells().ends.get(end as usize).into_iter().for_each(|cell| cell.add(1));
        match self {
            Self::Http(http) => http.close(end, cx),
            Self::Tunnel(tunnel) => tunnel.close(end, cx),
            Self::Handshake(handshake) => handshake.close(cx),
        }
    }
}
