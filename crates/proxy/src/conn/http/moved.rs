//! A connection that speaks HTTP, on its way to another process: see [`super::super::state`].

use std::sync::Arc;

use handover_http1::{ClientLabel, Version};

use super::{Client, Cx, HttpConn, Line, NO_ROUTE, Phase, Proxy, Request, SAY_AFTER, Side, Waits};
use crate::conn::state::{
    ClientState, Giver, GoalState, HttpState, KeptState, ListenerPlace, MAX_BUFFER_BYTES, PhaseState,
    ProxyState, StateError, Taker, WaitingState,
};
use crate::reactor::Io;

impl HttpConn {
    /// See [`crate::conn::Conn::is_movable`].
    pub(crate) fn is_movable(&self, cx: &Cx) -> bool {
        let side = &self.client.side;
        let stays = cx.listener(self.client.listener).is_none_or(|listener| listener.removed);
        let fits = side.inbuf.len() <= MAX_BUFFER_BYTES && side.out.len() <= MAX_BUFFER_BYTES;
        let at_rest = match &self.phase {
            Phase::Head { .. } | Phase::Held { .. } => side.out.is_empty(),
            Phase::Proxy(proxy) => proxy.is_movable(cx),
            Phase::Answer(_) | Phase::Linger(_) => false,
        };
        at_rest && fits && !stays
    }

    /// What is written down of it; `None` if it is not movable.
    pub(in crate::conn) fn to_state<'a>(&'a self, giver: &mut Giver<'_, 'a>) -> Option<HttpState<'a>> {
        let client = &self.client;
        let kept = KeptState {
            client: ClientState {
                listener: giver.listener(client.listener),
                peer: client.peer,
                socket: giver.socket(&client.side.io),
                age_us: giver.since_us(client.since_us),
                route: match self.phase {
                    Phase::Proxy(_) => giver.route(&client.request.local.generation, client.request.route()),
                    _ => None,
                },
            },
            unsaid: self.unsaid,
            placed: self.placed,
            keep_alive: client.request.keep_alive,
            counted_in: client.counted_in,
            counted_out: client.counted_out,
        };
        let phase = match &self.phase {
            Phase::Head { seen } => PhaseState::Waiting(WaitingState {
                left: giver.left(self.limit_elsewhere(giver.cx)),
                inbuf: client.side.inbuf.unread(),
                seen: *seen,
                bytes_in: client.bytes_in,
                since_us: giver.since_us(client.request.started_us),
            }),
            // There it is read again, and held if that is still to be.
            Phase::Held { .. } => PhaseState::Waiting(WaitingState {
                left: self.client.plan().map_or(0, |plan| u64::from(plan.header.0) + 1),
                inbuf: client.side.inbuf.unread(),
                seen: 0,
                bytes_in: client.bytes_in,
                since_us: giver.since_us(client.request.started_us),
            }),
            Phase::Proxy(proxy) => PhaseState::Passing(Box::new(proxy.to_state(client, giver)?)),
            Phase::Answer(_) | Phase::Linger(_) => return None,
        };
        Some(HttpState { kept, phase })
    }

    /// When its time in the phase `Head` is over where nothing drains: whoever goes there need not hurry.
    fn limit_elsewhere(&self, cx: &Cx) -> u64 {
        match self.client.plan() {
            Some(plan) if self.client.retired && self.is_idle() => cx.clock.after(plan.idle),
            _ => self.phase_limit,
        }
    }

    /// A connection that waits for a request, or for the rest of one.
    pub(in crate::conn) fn from_waiting(
        mut kept: KeptState<'_>,
        waiting: &WaitingState<'_>,
        taker: &mut Taker<'_>,
    ) -> Result<Self, StateError> {
        let place = taker.places.listener(kept.client.listener)?;
        let io = taker.io(&mut kept.client.socket)?;
        let mut conn = Self::rebuilt(&kept, place, io, taker);
        conn.phase = Phase::Head { seen: waiting.seen };
        conn.client.side.inbuf = taker.buf(waiting.inbuf, 0);
        conn.client.bytes_in = waiting.bytes_in;
        conn.client.request.started_us = taker.moment_before(waiting.since_us);
        conn.phase_limit = taker.tick_in(waiting.left);
        conn.deadline = conn.phase_limit;
        if conn.unsaid {
            conn.deadline = conn.deadline.min(taker.cx.clock.after(SAY_AFTER));
        }
        Ok(conn)
    }

    /// A connection whose request passes through.
    pub(in crate::conn) fn from_passing(
        mut kept: KeptState<'_>,
        mut state: ProxyState<'_>,
        taker: &mut Taker<'_>,
    ) -> Result<Self, StateError> {
        let place = taker.places.listener(kept.client.listener)?;
        let endpoint = taker.places.endpoint(state.dial.endpoint)?;
        let (io, endpoint_io) = match &mut state.dial.goal {
            GoalState::Reached(socket) => {
                let (io, endpoint) = taker.both(&mut kept.client.socket, socket)?;
                (io, Some(endpoint))
            }
            GoalState::Awaited(_) => (taker.io(&mut kept.client.socket)?, None),
        };
        let mut conn = Self::rebuilt(&kept, place, io, taker);
        let Client { side, request, bytes_in, bytes_out, .. } = &mut conn.client;
        (*bytes_in, *bytes_out) = (state.bytes_in, state.bytes_out);
        side.inbuf = taker.buf(state.client_in, 0);
        side.out = taker.buf(state.client_out, 0);
        request.started_us = taker.moment_before(state.since_us);
        request.version = if state.http10 { Version::Http10 } else { Version::Http11 };
        request.head_only = state.head_only;
        request.status = state.status();
        if let Some((format, line)) = state.line {
            request.line = Line::go_on(format, taker.buf(line, 0));
        }
        conn.phase = Phase::Proxy(Proxy::from_state(&state, endpoint, endpoint_io, taker));
        conn.deadline = conn.limit();
        Ok(conn)
    }

    /// What a connection is apart from what it does.
    fn rebuilt(kept: &KeptState<'_>, place: &ListenerPlace, io: Io, taker: &Taker<'_>) -> Self {
        let tls = taker.cx.reactor.secure(&io).map(|secure| Arc::clone(secure.facts()));
        let route = taker.places.route(kept.client.route);
        let request = Request {
            local: place.local.clone(),
            position: place.position,
            started_us: taker.cx.clock.now_us(),
            version: Version::Http11,
            head_only: false,
            keep_alive: kept.keep_alive,
            status: 0,
            line: Line::none(),
            tried: None,
            route: route.and_then(|route| u32::try_from(route).ok()).unwrap_or(NO_ROUTE),
            waits: Waits::default(),
        };
        let client = Client {
            key: taker.key,
            side: Side::new(io),
            label: ClientLabel::new(kept.client.peer, tls.is_some()),
            peer: kept.client.peer,
            tls,
            listener: place.number,
            request,
            bytes_in: 0,
            bytes_out: 0,
            counted_in: kept.counted_in,
            counted_out: kept.counted_out,
            since_us: taker.moment_before(kept.client.age_us),
            retired: false,
        };
        Self {
            client,
            phase: Phase::Head { seen: 0 },
            deadline: 0,
            phase_limit: 0,
            unwatched: false,
            unsaid: kept.unsaid,
            cut_at: None,
            placed: kept.placed,
        }
    }

    /// See [`crate::conn::Conn::let_go`].
    pub(crate) fn let_go(mut self, cx: &mut Cx) {
        self.unhold(cx);
        if let Phase::Proxy(proxy) = self.phase {
            proxy.let_go(cx);
        }
        cx.buffers.release(self.client.request.line.buf());
        drop(self.client.side.leave(&mut cx.reactor, &mut cx.buffers));
    }
}
