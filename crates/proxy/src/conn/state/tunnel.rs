//! A tunnel that is open.
//!
//! ```text
//!   client(up finished, down finished)  endpoint  bytes in, out  idle limit(ticks)  ticks left
//!   flow up  flow down  read from the client  to be sent to it  read from the endpoint  to be sent to it
//! ```

use handover_http1::Side;

use super::codec::{Decoder, Encoder, MAX_AMOUNT};
use super::proxy::{read_flow, write_flow};
use super::socket::{ClientState, DialState, GoalState, MAX_BUFFER_BYTES, MAX_TICKS};
use super::{Names, StateError};
use crate::conn::TunnelKind;
use crate::conn::flow::Flow;

/// A tunnel.
#[derive(Debug)]
pub(in crate::conn) struct TunnelState<'a> {
    pub(in crate::conn) kind: TunnelKind,
    pub(in crate::conn) client: ClientState<'a>,
    pub(in crate::conn) dial: DialState<'a>,
    pub(in crate::conn) bytes_in: u64,
    pub(in crate::conn) bytes_out: u64,
    /// How long it may be silent (ticks).
    pub(in crate::conn) idle: u32,
    /// Ticks until it has been silent for too long.
    pub(in crate::conn) left: u64,
    pub(in crate::conn) up: HalfState,
    pub(in crate::conn) down: HalfState,
    /// From and to the client.
    pub(in crate::conn) client_in: &'a [u8],
    pub(in crate::conn) client_out: &'a [u8],
    /// From and to the endpoint.
    pub(in crate::conn) inbuf: &'a [u8],
    pub(in crate::conn) out: &'a [u8],
}

/// One direction.
#[derive(Debug, Clone, Copy)]
pub(in crate::conn) struct HalfState {
    pub(in crate::conn) flow: Flow,
    pub(in crate::conn) finished: bool,
}

impl<'a> TunnelState<'a> {
    pub(super) fn buffered(&self) -> usize {
        self.client_in.len() + self.client_out.len() + self.inbuf.len() + self.out.len()
    }

    pub(super) fn write(&self, encoder: &mut Encoder) {
        self.client.write([self.up.finished, self.down.finished, false], encoder);
        self.dial.write(encoder);
        encoder.number(self.bytes_in);
        encoder.number(self.bytes_out);
        encoder.number(u64::from(self.idle));
        encoder.number(self.left);
        write_flow(&self.up.flow, encoder);
        write_flow(&self.down.flow, encoder);
        for buffer in [self.client_in, self.client_out, self.inbuf, self.out] {
            encoder.bytes(buffer);
        }
    }

    pub(super) fn read(
        decoder: &mut Decoder<'a, '_>,
        names: &Names<'_>,
        kind: TunnelKind,
    ) -> Result<Self, StateError> {
        const WHAT: &str = "a tunnel";
        let (client, [up_finished, down_finished, nothing]) = ClientState::read(decoder)?;
        names.check_listener(client.listener, client.socket.is_protected(), kind == TunnelKind::Websocket)?;
        let dial = DialState::read(decoder)?;
        names.check_endpoint(dial.endpoint, dial.goal.is_protected())?;
        let bytes_in = decoder.number("bytes read", MAX_AMOUNT)?;
        let bytes_out = decoder.number("bytes written", MAX_AMOUNT)?;
        let idle = decoder.small("the time that a tunnel may be silent", u32::MAX)?;
        let left = decoder.number("the time that a tunnel may be silent", MAX_TICKS)?;
        let mut half = |finished: bool| -> Result<HalfState, StateError> {
            let flow = read_flow(decoder, Side::Response)?;
            let fits = flow.is_endless() && (!finished || flow.is_read());
            if fits { Ok(HalfState { flow, finished }) } else { Err(StateError::Value(WHAT)) }
        };
        let (up, down) = (half(up_finished)?, half(down_finished)?);
        let mut buffer = || decoder.bytes(WHAT, MAX_BUFFER_BYTES);
        let (client_in, client_out, inbuf, out) = (buffer()?, buffer()?, buffer()?, buffer()?);
        if nothing || !matches!(dial.goal, GoalState::Reached(_)) {
            return Err(StateError::Value(WHAT));
        }
        Ok(Self {
            kind,
            client,
            dial,
            bytes_in,
            bytes_out,
            idle,
            left,
            up,
            down,
            client_in,
            client_out,
            inbuf,
            out,
        })
    }
}
