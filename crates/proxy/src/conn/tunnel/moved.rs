//! A tunnel on its way to another process: see [`super::super::state`].

use super::{Buf, Cx, Dial, Half, Side, Ticks, Tunnel, Waits};
use crate::conn::state::{
    ClientState, Giver, GoalState, HalfState, MAX_BUFFER_BYTES, StateError, Taker, TunnelState,
};

impl Tunnel {
    /// See [`crate::conn::Conn::is_movable`].
    pub(crate) fn is_movable(&self, cx: &Cx) -> bool {
        let stays = cx.listener(self.listener).is_none_or(|listener| listener.removed);
        let fits = |buf: &Buf| buf.len() <= MAX_BUFFER_BYTES;
        let all_fit = [&self.client.inbuf, &self.client.out, &self.inbuf, &self.out].into_iter().all(fits);
        let waits = !self.open && cx.gives_waiting && (self.held || self.dial.is_waiting());
        let there = self.open && self.dial.is_movable(cx);
        (there || waits) && all_fit && !stays
    }

    /// What is written down of it; `None` if it is not movable.
    pub(in crate::conn) fn to_state<'a>(&'a self, giver: &mut Giver<'_, 'a>) -> Option<TunnelState<'a>> {
        let half = |half: &Half| HalfState { flow: half.flow, finished: half.finished };
        Some(TunnelState {
            kind: self.kind,
            client: ClientState {
                listener: giver.listener(self.listener),
                peer: self.peer,
                socket: giver.socket(&self.client.io),
                age_us: giver.since_us(self.since_us),
                route: giver.route(&self.local.generation, self.route),
            },
            dial: self.dial.to_state(giver)?,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            idle: self.idle.0,
            left: giver.left(self.deadline),
            up: half(&self.up),
            down: half(&self.down),
            client_in: self.client.inbuf.unread(),
            client_out: self.client.out.unread(),
            inbuf: self.inbuf.unread(),
            out: self.out.unread(),
        })
    }

    /// The tunnel goes on here.
    pub(in crate::conn) fn from_state(
        mut state: TunnelState<'_>,
        taker: &mut Taker<'_>,
    ) -> Result<Self, StateError> {
        let place = taker.places.listener(state.client.listener)?;
        let endpoint = taker.places.endpoint(state.dial.endpoint)?;
        let GoalState::Reached(socket) = &mut state.dial.goal else {
            return Err(StateError::Value("a tunnel"));
        };
        let (io, endpoint_io) = taker.both(&mut state.client.socket, socket)?;
        let route = taker.places.route(state.client.route);
        let half = |half: HalfState| Half { flow: half.flow, finished: half.finished };
        let mut client = Side::new(io);
        client.inbuf = taker.buf(state.client_in, 0);
        client.out = taker.buf(state.client_out, 0);
        Ok(Self {
            kind: state.kind,
            key: taker.key,
            peer: state.client.peer,
            since_us: taker.moment_before(state.client.age_us),
            client,
            dial: Dial::from_state(&state.dial, endpoint, Some(endpoint_io), taker),
            inbuf: taker.buf(state.inbuf, 0),
            out: taker.buf(state.out, 0),
            up: half(state.up),
            down: half(state.down),
            local: place.local.clone(),
            position: place.position,
            listener: place.number,
            open: true,
            held: false,
            waits: Waits::default(),
            route,
            idle: Ticks(state.idle),
            deadline: taker.tick_in(state.left),
            cut_at: None,
            bytes_in: state.bytes_in,
            bytes_out: state.bytes_out,
        })
    }

    /// One that is held, or waits for an endpoint: nothing was read of it.
    pub(in crate::conn) fn to_held_state<'a>(&'a self, giver: &mut Giver<'_, 'a>) -> ClientState<'a> {
        ClientState {
            listener: giver.listener(self.listener),
            peer: self.peer,
            socket: giver.socket(&self.client.io),
            age_us: giver.since_us(self.since_us),
            route: None,
        }
    }

    /// It begins here as one that was just accepted, and came when it came.
    pub(in crate::conn) fn from_held_state(
        mut client: ClientState<'_>,
        taker: &mut Taker<'_>,
    ) -> Result<Self, StateError> {
        let listener = taker.places.listener(client.listener)?.number;
        let io = taker.io(&mut client.socket)?;
        match Self::tcp(taker.key, io, client.peer, listener, taker.cx) {
            Ok(tunnel) => Ok(Self { since_us: taker.moment_before(client.age_us), ..tunnel }),
            Err(io) => {
                drop(taker.cx.reactor.release(io));
                Err(StateError::Value("a connection that is held"))
            }
        }
    }

    /// See [`crate::conn::Conn::let_go`].
    pub(crate) fn let_go(mut self, cx: &mut Cx) {
        self.unhold(cx);
        cx.buffers.release(&mut self.inbuf);
        cx.buffers.release(&mut self.out);
        self.dial.let_go(cx);
        drop(self.client.leave(&mut cx.reactor, &mut cx.buffers));
    }
}
