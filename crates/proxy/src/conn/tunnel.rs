//! Bytes passed unread, both ways: TCP listeners, and connections after `101 Switching Protocols`.
//!
//! ```text
//!   tcp:        accept ──▶ Connecting ──made──▶ Open ──one side finished──▶ half open ──the other too──▶ over
//!   websocket:  101 ─────────────────────────────┘
//!
//!   each direction:  Flowing ──end read, all of it written──▶ Finished (the end is passed on by shutdown)
//! ```
//!
//! A half that is finished stays so while the other goes on: the end of one direction is not the end of the
//! connection. Silence in both directions for the tunnel's time limit is.

mod moved;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustix::net::sockopt::socket_error;

use crate::access_log::PastTunnel;
use crate::buffers::Buf;
use crate::clock::Ticks;
use crate::generation::ListenerKind;
use crate::reactor::{ConnKey, Io};

use super::client::Client;
use super::context::{Cx, Local};
use super::dial::{Dial, Way};
use super::flow::{End as FlowEnd, Flow, Moved, PumpError, Pumped};
use super::hold::Waits;
use super::shown::Shown;
use super::{END_LABELS, End, Fate, Side, TURN_BYTES};

/// What a tunnel began as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TunnelKind {
    /// A connection on a TCP listener.
    Tcp,
    /// An upgraded HTTP connection.
    Websocket,
}

impl TunnelKind {
    /// As losses and metrics name it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Websocket => "websocket",
        }
    }
}

/// One direction.
#[derive(Debug)]
struct Half {
    flow: Flow,
    finished: bool,
}

/// Two sockets and what flows between them.
#[derive(Debug)]
pub(crate) struct Tunnel {
    kind: TunnelKind,
    pub(super) key: ConnKey,
    peer: Option<IpAddr>,
    /// When it became a tunnel.
    pub(super) since_us: u64,
    client: Side,
    pub(super) dial: Dial,
    /// Read from the endpoint, not yet written to the client, and the other way round.
    inbuf: Buf,
    out: Buf,
    up: Half,
    down: Half,
    pub(super) local: Rc<Local>,
    pub(super) position: usize,
    listener: u32,
    /// It is connected to its endpoint.
    open: bool,
    /// It must wait before it may be connected: see [`super::hold`].
    pub(super) held: bool,
    pub(super) waits: Waits,
    /// Position of the route on which it was upgraded, if that is known.
    route: Option<usize>,
    idle: Ticks,
    deadline: u64,
    cut_at: Option<u64>,
    /// Bytes from and to the client; counted at its end.
    bytes_in: u64,
    bytes_out: u64,
}

impl Tunnel {
    /// A connection that was just accepted on a TCP listener.
    pub(crate) fn tcp(
        key: ConnKey,
        io: Io,
        peer: Option<IpAddr>,
        listener: u32,
        cx: &Cx,
    ) -> Result<Self, Io> {
        let Some(place) = cx.listener(listener) else { return Err(io) };
        let Some(plan) = place.plan() else { return Err(io) };
        let ListenerKind::Tcp(service) = plan.kind else { return Err(io) };
        let dial = Dial::fresh(Rc::clone(&place.local), service);
        dial.cells(cx).into_iter().for_each(|cells| cells.active.add(1));
        Ok(Self {
            kind: TunnelKind::Tcp,
            key,
            peer,
            since_us: cx.clock.now_us(),
            client: Side::new(io),
            dial,
            inbuf: Buf::none(),
            out: Buf::none(),
            up: Half::new(),
            down: Half::new(),
            local: Rc::clone(&place.local),
            position: place.position,
            listener,
            open: false,
            held: false,
            waits: Waits::default(),
            route: None,
            idle: plan.tunnel,
            deadline: cx.clock.after(plan.tunnel),
            cut_at: None,
            bytes_in: 0,
            bytes_out: 0,
        })
    }

    /// An HTTP connection after 101: the head of that response is still in `client.out`.
    pub(crate) fn upgraded(
        client: Client,
        cut_at: Option<u64>,
        dial: Dial,
        inbuf: Buf,
        mut out: Buf,
        cx: &mut Cx,
    ) -> Self {
        let mut client = client;
        // An endpoint that did not wait for the end of the request: what is sealed of it goes out, and nothing of the tunnel instead.
        dial.io().into_iter().for_each(|io| cx.reactor.disown(io));
        cx.buffers.release(&mut out);
        cx.buffers.release(client.request.line.buf());
        let idle = client.plan().map(|plan| plan.tunnel).unwrap_or_default();
        let route = client.request.route();
        Self {
            kind: TunnelKind::Websocket,
            key: client.key,
            peer: client.peer,
            since_us: cx.clock.now_us(),
            client: client.side,
            dial,
            inbuf,
            out,
            up: Half::new(),
            down: Half::new(),
            local: client.request.local,
            position: client.request.position,
            listener: client.listener,
            open: true,
            held: false,
            waits: Waits::default(),
            route,
            idle,
            deadline: cx.clock.after(idle),
            cut_at,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    pub(crate) fn kind(&self) -> TunnelKind {
        self.kind
    }

    /// It is connected to its endpoint.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn route(&self) -> Option<usize> {
        self.route
    }

    pub(crate) fn listener(&self) -> u32 {
        self.listener
    }

    /// See [`super::Conn::sockets`].
    pub(crate) fn sockets(&self) -> (&Io, Option<&Io>) {
        (&self.client.io, self.dial.io())
    }

    pub(crate) fn deadline(&self) -> u64 {
        self.cut_at.map_or(self.deadline, |cut| cut.min(self.deadline))
    }

    /// See [`super::Conn::retire`]: a tunnel goes on until its end, or until it is cut.
    pub(crate) fn retire(&mut self, cut_at: Option<u64>) {
        self.cut_at = cut_at.or(self.cut_at);
    }

    /// See [`super::Conn::unretire`].
    pub(crate) fn unretire(&mut self) {
        self.cut_at = None;
    }

    /// Does everything that can be done now.
    pub(crate) fn run(&mut self, cx: &mut Cx) -> Fate {
        if !cx.reactor.is_registered(&self.client.io) && cx.reactor.register(&self.client.io).is_err() {
            return Fate::Over(End::Unwatched);
        }
        if !self.open && self.dial.is_new() {
            match self.meet_gate(cx) {
                Ok(None) => {}
                Ok(Some(_)) if cx.reactor.is_broken(&self.client.io) => return Fate::Over(End::ClientGone),
                Ok(Some(until)) => {
                    self.deadline = until;
                    return Fate::Parked;
                }
                Err(()) => return Fate::Over(End::UpstreamUnreachable),
            }
        }
        match self.dial.go(self.key, cx) {
            Ok(Way::Ready) if self.open => {}
            Ok(Way::Ready) => {
                self.open = true;
                if let Some(io) = self.dial.io() {
                    // The last message of a handshake: the endpoint may be the one that speaks first.
                    cx.reactor.flush(io);
                }
                self.deadline = cx.clock.after(self.idle);
            }
            Ok(Way::Wait) if cx.reactor.is_broken(&self.client.io) => return Fate::Over(End::ClientGone),
            Ok(way) => {
                self.deadline = self.dial.until();
                return if way == Way::Later { Fate::Later } else { Fate::Parked };
            }
            Err(_) => return Fate::Over(End::UpstreamUnreachable),
        }
        let mut budget = TURN_BYTES;
        let (mut up, mut down) = (Moved::default(), Moved::default());
        let result = self.pump(cx, &mut budget, &mut up, &mut down);
        self.bytes_in += up.received;
        self.bytes_out += down.sent;
        if up.received + up.sent + down.received + down.sent > 0 {
            self.deadline = cx.clock.after(self.idle);
        }
        match result {
            Err(end) => Fate::Over(end),
            Ok(()) if self.up.finished && self.down.finished => Fate::Over(End::Done),
            // Nothing is read any more from a side that had finished: only the poller says that it has gone altogether.
            Ok(()) if self.up.finished && cx.reactor.is_broken(&self.client.io) => {
                Fate::Over(End::ClientGone)
            }
            Ok(()) if self.down.finished && self.endpoint_is_gone(cx) => Fate::Over(End::UpstreamCut),
            Ok(()) if budget == 0 => Fate::Again,
            Ok(()) => Fate::Parked,
        }
    }

    /// True after a reset. A Unix socket also breaks when its peer closes it in order: then the client may still read what
    /// it was sent, and ends the tunnel when it has.
    fn endpoint_is_gone(&self, cx: &Cx) -> bool {
        let gone = |io: &Io| cx.reactor.is_broken(io) && !matches!(socket_error(io), Ok(Ok(())));
        self.dial.io().is_some_and(gone)
    }

    fn pump(&mut self, cx: &mut Cx, budget: &mut usize, up: &mut Moved, down: &mut Moved) -> Result<(), End> {
        let Some(endpoint) = self.dial.io() else { return Ok(()) };
        if !self.up.finished {
            let mut source = FlowEnd { io: &self.client.io, buf: &mut self.client.inbuf };
            let mut sink = FlowEnd { io: endpoint, buf: &mut self.out };
            self.up.pump(cx, &mut source, &mut sink, budget, up, End::ClientGone, End::UpstreamCut)?;
        }
        if !self.down.finished {
            let mut source = FlowEnd { io: endpoint, buf: &mut self.inbuf };
            let mut sink = FlowEnd { io: &self.client.io, buf: &mut self.client.out };
            self.down.pump(cx, &mut source, &mut sink, budget, down, End::UpstreamCut, End::ClientGone)?;
        }
        Ok(())
    }

    /// Its deadline has passed.
    pub(crate) fn expire(&mut self, cx: &mut Cx) -> Fate {
        let now = cx.clock.tick();
        if self.cut_at.is_some_and(|cut| cut <= now) {
            return Fate::Over(End::Cut);
        }
        if self.open {
            return Fate::Over(End::TunnelIdle);
        }
        if !self.held && !self.dial.is_waiting() {
            self.dial.failed(cx);
        }
        self.unhold(cx);
        self.run(cx)
    }

    /// See [`super::Conn::show`].
    pub(crate) fn show(&self, cx: &Cx) -> Shown {
        Shown {
            kind: self.kind.label(),
            listener: cx.listener(self.listener).map(|place| Arc::clone(&place.name)).unwrap_or_default(),
            client: self.peer,
            state: match (self.open, self.up.finished || self.down.finished) {
                (false, _) if self.held => "held",
                (false, _) => "connecting",
                (true, false) => "open",
                (true, true) => "half-open",
            },
            age_us: cx.clock.now_us().saturating_sub(self.since_us),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            service: self.dial.plan().map(|plan| Arc::clone(&plan.name)),
            endpoint: self.dial.endpoint().map(|endpoint| Arc::clone(&endpoint.plan)),
            tls: cx.reactor.secure(&self.client.io).map(|secure| Arc::clone(secure.facts())),
            trouble: self.dial.trouble().cloned(),
        }
    }

    /// Leaves a line in the access log.
    fn log(&self, end: End, cx: &mut Cx) {
        if !cx.log.is_on() {
            return;
        }
        let past = PastTunnel {
            kind: self.kind.label(),
            listener: self.local.generation.listeners.get(self.position).map_or("", |plan| &plan.name),
            peer: self.peer,
            end: END_LABELS.get(end as usize).copied().unwrap_or_default(),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            duration_us: cx.clock.now_us().saturating_sub(self.since_us),
            endpoint: self.dial.endpoint().map(|endpoint| &*endpoint.plan.label),
            tls: cx.reactor.secure(&self.client.io).map(|secure| &**secure.facts()),
        };
        let dropped = cx.log.tunnel(&past, &cx.clock);
        cx.cells().log_dropped.add(dropped);
    }

    /// Closes both sockets.
    pub(crate) fn close(mut self, end: End, cx: &mut Cx) {
        self.unhold(cx);
        self.log(end, cx);
        if let Some(cells) = self.dial.cells(cx) {
            cells.active.sub(1);
        }
        if let Some(plan) = self.local.generation.listeners.get(self.position) {
            let cells = plan.cells.of(cx.thread);
            cells.bytes_in.add(self.bytes_in);
            cells.bytes_out.add(self.bytes_out);
        }
        cx.buffers.release(&mut self.inbuf);
        cx.buffers.release(&mut self.out);
        if !end.is_in_order() {
            cx.reactor.cut(&self.client.io);
            self.dial.io().into_iter().for_each(|io| cx.reactor.cut(io));
        }
        self.dial.hang_up(cx);
        self.client.close(&mut cx.reactor, &mut cx.buffers);
    }
}

impl Half {
    fn new() -> Self {
        Self { flow: Flow::endless(), finished: false }
    }

    #[expect(clippy::too_many_arguments, reason = "two ends, two accounts, two ways to break")]
    fn pump(
        &mut self,
        cx: &mut Cx,
        source: &mut FlowEnd<'_>,
        sink: &mut FlowEnd<'_>,
        budget: &mut usize,
        moved: &mut Moved,
        source_lost: End,
        sink_lost: End,
    ) -> Result<(), End> {
        match self.flow.pump(&mut cx.reactor, &mut cx.buffers, source, sink, budget, moved) {
            Ok(Pumped::Done) => {
                // If the last words do not go out now, the next run comes here again. The peer may have gone meanwhile; then the
                // other direction notices.
                self.finished = cx.reactor.finish(sink.io);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(PumpError::SinkLost(_)) => Err(sink_lost),
            Err(PumpError::Source(_) | PumpError::SourceLost(_)) => Err(source_lost),
        }
    }
}
