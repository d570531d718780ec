//! A tunnel on its way to another process: see [`super::super::state`].

use super::{Buf, Cx, Dial, Half, Side, Ticks, Tunnel, Waits};
use crate::conn::state::{ClientState, Giver, HalfState, MAX_BUFFER_BYTES, StateError, Taker, TunnelState};

impl Tunnel {
    /// See [`crate::conn::Conn::is_movable`].
    pub(crate) fn is_movable(&self, cx: &Cx) -> bool {
        let stays = cx.listener(self.listener).is_none_or(|listener| listener.removed);
        let fits = |buf: &Buf| buf.len() <= MAX_BUFFER_BYTES;
        let all_fit = [&self.client.inbuf, &self.client.out, &self.inbuf, &self.out].into_iter().all(fits);
        self.open && self.dial.is_movable(cx) && all_fit && !stays
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
        let (io, endpoint_io) = taker.both(&mut state.client.socket, &mut state.dial.socket)?;
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
            dial: Dial::from_state(&state.dial, endpoint, endpoint_io, taker),
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
            route: None,
            idle: Ticks(state.idle),
            deadline: taker.tick_in(state.left),
            cut_at: None,
            bytes_in: state.bytes_in,
            bytes_out: state.bytes_out,
        })
    }

    /// See [`crate::conn::Conn::let_go`].
    pub(crate) fn let_go(mut self, cx: &mut Cx) {
        cx.buffers.release(&mut self.inbuf);
        cx.buffers.release(&mut self.out);
        self.dial.let_go(cx);
        drop(self.client.leave(&mut cx.reactor, &mut cx.buffers));
    }
}
