//! A request that passes through, on its way to another process: see [`super::super::state`].

use handover_http1::{Asked, Version};

use super::{Buf, Client, Cx, Dial, Io, Patience, Proxy, Receiving, Sending, Stage};
use crate::conn::state::{
    EndpointPlace, Giver, MAX_BUFFER_BYTES, ProxyState, ReceivingState, SendingState, Taker,
};

impl Proxy {
    /// See [`crate::conn::Conn::is_movable`].
    pub(in crate::conn) fn is_movable(&self, cx: &Cx) -> bool {
        let fits = |buf: &Buf| buf.whole().0.len() <= MAX_BUFFER_BYTES;
        (self.stage != Stage::Connect || self.dial.is_waiting())
            && self.dial.is_movable(cx)
            && fits(&self.inbuf)
            && fits(&self.out)
    }

    /// What is written down of it; `None` if it is not movable.
    pub(in crate::conn) fn to_state<'a>(
        &'a self,
        client: &'a Client,
        giver: &mut Giver<'_, 'a>,
    ) -> Option<ProxyState<'a>> {
        let request = &client.request;
        let (whole, sent) = self.out.whole();
        let (out, out_sent) = if self.replayable { (whole, sent) } else { (self.out.unread(), 0) };
        Some(ProxyState {
            http10: request.version == Version::Http10,
            head_only: request.head_only,
            line: request.line.begun(),
            upgrade_asked: self.asked.upgrade,
            idempotent: self.idempotent,
            replayable: self.replayable,
            connect_timed_out: self.connect_timed_out,
            since_us: giver.since_us(request.started_us),
            bytes_in: client.bytes_in,
            bytes_out: client.bytes_out,
            client_in: client.side.inbuf.unread(),
            client_out: client.side.out.unread(),
            dial: self.dial.to_state(giver)?,
            inbuf: self.inbuf.unread(),
            out,
            out_sent,
            began: self.began,
            interim: self.interim,
            sending: match self.sending {
                Sending::Whole => SendingState::Whole,
                Sending::Streaming(flow) => SendingState::Streaming(flow),
                Sending::Sent => SendingState::Sent,
                Sending::Stopped => SendingState::Stopped,
            },
            receiving: match self.receiving {
                Receiving::Head => ReceivingState::Head { seen: self.seen },
                Receiving::Body { flow, upstream_keeps, client_keeps } => {
                    ReceivingState::Body { status: request.status, flow, upstream_keeps, client_keeps }
                }
            },
            left: giver.left(self.until),
            patience: self.patience.to_state(giver.cx.clock.tick()),
        })
    }

    /// The request goes on here, through this connection to an endpoint.
    pub(in crate::conn) fn from_state(
        state: &ProxyState<'_>,
        place: &EndpointPlace,
        io: Option<Io>,
        taker: &mut Taker<'_>,
    ) -> Self {
        let (receiving, seen) = match state.receiving {
            ReceivingState::Head { seen } => (Receiving::Head, seen),
            ReceivingState::Body { flow, upstream_keeps, client_keeps, .. } => {
                (Receiving::Body { flow, upstream_keeps, client_keeps }, 0)
            }
        };
        let mut proxy = Self {
            dial: Dial::from_state(&state.dial, place, io, taker),
            inbuf: taker.buf(state.inbuf, 0),
            seen,
            out: taker.buf(state.out, state.out_sent),
            sending: match state.sending {
                SendingState::Whole => Sending::Whole,
                SendingState::Streaming(flow) => Sending::Streaming(flow),
                SendingState::Sent => Sending::Sent,
                SendingState::Stopped => Sending::Stopped,
            },
            receiving,
            asked: Asked { head: state.head_only, upgrade: state.upgrade_asked },
            idempotent: state.idempotent,
            replayable: state.replayable,
            connect_timed_out: state.connect_timed_out,
            began: state.began,
            interim: state.interim,
            deaths: 0,
            reusable: false,
            stage: Stage::Connect,
            // 0 would say that nothing was waited for yet.
            until: taker.tick_in(state.left).max(1),
            patience: Patience::from_state(state.patience, taker.cx.clock.tick()),
        };
        if proxy.dial.io().is_some() {
            proxy.stage = proxy.present_stage();
        }
        proxy
    }

    /// See [`crate::conn::Conn::let_go`].
    pub(in crate::conn) fn let_go(mut self, cx: &mut Cx) {
        cx.buffers.release(&mut self.inbuf);
        cx.buffers.release(&mut self.out);
        self.dial.let_go(cx);
    }
}
