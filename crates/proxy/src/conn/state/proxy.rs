//! One request on its way through an endpoint and back.
//!
//! ```text
//!   bits(HTTP/1.0, HEAD, log line, that in JSON, upgrade asked, idempotent, replayable, connecting took too long)
//!   µs since it began  bytes in, out  [log line]  read from the client  to be sent to it
//!   endpoint  read from it  to be sent to it  [if replayable: how much of that is sent]
//!   bits(began, sending(2), body, endpoint keeps, client keeps)  interim responses
//!   [sending a stream: flow]
//!   waiting for the response's head: seen          its body: status flow
//!   ticks left  [held by the kernel at the last look + 1, or 0  ticks of patience left]
//! ```

use handover_http1::Side;

use super::codec::{Decoder, Encoder, MAX_AMOUNT};
use super::socket::{DialState, GoalState, MAX_BUFFER_BYTES, MAX_TICKS};
use super::{Names, StateError};
use crate::access_log::MAX_LINE_BYTES;
use crate::config::LogFormat;
use crate::conn::flow::Flow;
use crate::conn::proxy::MAX_INTERIM;

/// A request that passes through.
#[derive(Debug)]
pub(in crate::conn) struct ProxyState<'a> {
    pub(in crate::conn) http10: bool,
    pub(in crate::conn) head_only: bool,
    pub(in crate::conn) line: Option<(LogFormat, &'a [u8])>,
    pub(in crate::conn) upgrade_asked: bool,
    pub(in crate::conn) idempotent: bool,
    pub(in crate::conn) replayable: bool,
    pub(in crate::conn) connect_timed_out: bool,
    pub(in crate::conn) since_us: u64,
    pub(in crate::conn) bytes_in: u64,
    pub(in crate::conn) bytes_out: u64,
    /// From and to the client.
    pub(in crate::conn) client_in: &'a [u8],
    pub(in crate::conn) client_out: &'a [u8],
    pub(in crate::conn) dial: DialState<'a>,
    /// From the endpoint.
    pub(in crate::conn) inbuf: &'a [u8],
    /// To the endpoint: if it can be sent again, all of it, and how much is sent.
    pub(in crate::conn) out: &'a [u8],
    pub(in crate::conn) out_sent: usize,
    pub(in crate::conn) began: bool,
    pub(in crate::conn) interim: u8,
    pub(in crate::conn) sending: SendingState,
    pub(in crate::conn) receiving: ReceivingState,
    /// Ticks until it must be looked at.
    pub(in crate::conn) left: u64,
    pub(in crate::conn) patience: PatienceState,
}

/// How far the request is.
#[derive(Debug, Clone, Copy)]
pub(in crate::conn) enum SendingState {
    Whole,
    Streaming(Flow),
    Sent,
    Stopped,
}

/// How far the response is.
#[derive(Debug, Clone, Copy)]
pub(in crate::conn) enum ReceivingState {
    Head { seen: usize },
    Body { status: u16, flow: Flow, upstream_keeps: bool, client_keeps: bool },
}

/// Whether a peer takes what was written to it. Not in format 1: it begins anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::conn) struct PatienceState {
    pub(in crate::conn) held: Option<usize>,
    pub(in crate::conn) left: u64,
}

const BUFFER: &str = "a buffer";
const REQUEST: &str = "a request";

impl<'a> ProxyState<'a> {
    pub(super) fn buffered(&self) -> usize {
        let line = self.line.map_or(0, |(_, line)| line.len());
        line + self.client_in.len() + self.client_out.len() + self.inbuf.len() + self.out.len()
    }

    pub(super) fn write(&self, encoder: &mut Encoder) {
        encoder.bits([
            self.http10,
            self.head_only,
            self.line.is_some(),
            matches!(self.line, Some((LogFormat::Json, _))),
            self.upgrade_asked,
            self.idempotent,
            self.replayable,
            self.connect_timed_out,
        ]);
        encoder.number(self.since_us);
        encoder.number(self.bytes_in);
        encoder.number(self.bytes_out);
        if let Some((_, line)) = self.line {
            encoder.bytes(line);
        }
        encoder.bytes(self.client_in);
        encoder.bytes(self.client_out);
        self.dial.write(encoder);
        encoder.bytes(self.inbuf);
        encoder.bytes(self.out);
        if self.replayable {
            encoder.number(self.out_sent as u64);
        }
        self.write_directions(encoder);
        encoder.number(self.left);
        if encoder.is_full() {
            encoder.number(self.patience.held.map_or(0, |held| held as u64 + 1));
            encoder.number(self.patience.left);
        }
    }

    /// 0 until it is known.
    pub(in crate::conn) fn status(&self) -> u16 {
        match self.receiving {
            ReceivingState::Head { .. } => 0,
            ReceivingState::Body { status, .. } => status,
        }
    }

    fn write_directions(&self, encoder: &mut Encoder) {
        let (low, high) = match self.sending {
            SendingState::Whole => (false, false),
            SendingState::Streaming(_) => (true, false),
            SendingState::Sent => (false, true),
            SendingState::Stopped => (true, true),
        };
        let (body, upstream_keeps, client_keeps) = match self.receiving {
            ReceivingState::Head { .. } => (false, false, false),
            ReceivingState::Body { upstream_keeps, client_keeps, .. } => (true, upstream_keeps, client_keeps),
        };
        encoder.bits([self.began, low, high, body, upstream_keeps, client_keeps]);
        encoder.byte(self.interim);
        if let SendingState::Streaming(flow) = self.sending {
            write_flow(&flow, encoder);
        }
        match self.receiving {
            ReceivingState::Head { seen } => encoder.number(seen as u64),
            ReceivingState::Body { status, flow, .. } => {
                encoder.number(u64::from(status));
                write_flow(&flow, encoder);
            }
        }
    }

    pub(super) fn read(decoder: &mut Decoder<'a, '_>, names: &Names<'_>) -> Result<Self, StateError> {
        let [http10, head_only, has_line, json, upgrade_asked, idempotent, replayable, connect_timed_out] =
            decoder.bits(REQUEST)?;
        let since_us = decoder.number("the age of a request", MAX_AMOUNT)?;
        let bytes_in = decoder.number("bytes read", MAX_AMOUNT)?;
        let bytes_out = decoder.number("bytes written", MAX_AMOUNT)?;
        let line = read_line(decoder, has_line, json)?;
        let client_in = decoder.bytes(BUFFER, MAX_BUFFER_BYTES)?;
        let client_out = decoder.bytes(BUFFER, MAX_BUFFER_BYTES)?;
        let dial = DialState::read(decoder)?;
        names.check_endpoint(dial.endpoint, dial.goal.is_protected())?;
        let inbuf = decoder.bytes(BUFFER, MAX_BUFFER_BYTES)?;
        let out = decoder.bytes(BUFFER, MAX_BUFFER_BYTES)?;
        let out_sent = if replayable { decoder.small("bytes sent", out.len())? } else { 0 };
        let [began, low, high, body, upstream_keeps, client_keeps] = decoder.bits(REQUEST)?;
        let interim = decoder.byte(REQUEST)?;
        let sending = match (low, high) {
            (false, false) => SendingState::Whole,
            (true, false) => SendingState::Streaming(read_flow(decoder, Side::Request)?),
            (false, true) => SendingState::Sent,
            (true, true) => SendingState::Stopped,
        };
        let receiving = if body {
            let status = decoder.small("a status", 999)?;
            let flow = read_flow(decoder, Side::Response)?;
            ReceivingState::Body { status, flow, upstream_keeps, client_keeps }
        } else {
            ReceivingState::Head { seen: decoder.small("bytes looked at", inbuf.len())? }
        };
        let left = decoder.number("the time for a request", MAX_TICKS)?;
        let patience = PatienceState::read(decoder)?;
        let fits = interim <= MAX_INTERIM
            && (replayable || !matches!(sending, SendingState::Whole))
            && matches!(receiving, ReceivingState::Head { .. } | ReceivingState::Body { status: 200.., .. })
            && (body || !(upstream_keeps || client_keeps))
            // Who waits has neither sent nor received anything.
            && (matches!(dial.goal, GoalState::Reached(_)) || !(began || body || matches!(sending, SendingState::Sent | SendingState::Stopped)));
        if !fits {
            return Err(StateError::Value(REQUEST));
        }
        Ok(Self {
            http10,
            head_only,
            line,
            upgrade_asked,
            idempotent,
            replayable,
            connect_timed_out,
            since_us,
            bytes_in,
            bytes_out,
            client_in,
            client_out,
            dial,
            inbuf,
            out,
            out_sent,
            began,
            interim,
            sending,
            receiving,
            left,
            patience,
        })
    }
}

/// The line may end in the log as it stands: it must be one line.
fn read_line<'a>(
    decoder: &mut Decoder<'a, '_>,
    has_line: bool,
    json: bool,
) -> Result<Option<(LogFormat, &'a [u8])>, StateError> {
    const WHAT: &str = "a line of the access log";
    if !has_line {
        return if json { Err(StateError::Value(WHAT)) } else { Ok(None) };
    }
    let line = decoder.bytes(WHAT, MAX_LINE_BYTES)?;
    if line.is_empty() || !line.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return Err(StateError::Value(WHAT));
    }
    Ok(Some((if json { LogFormat::Json } else { LogFormat::Text }, line)))
}

impl PatienceState {
    fn read(decoder: &mut Decoder<'_, '_>) -> Result<Self, StateError> {
        const WHAT: &str = "how long a peer is waited for";
        if !decoder.is_full() {
            return Ok(Self::default());
        }
        let held: usize = decoder.small(WHAT, usize::MAX)?;
        Ok(Self { held: held.checked_sub(1), left: decoder.number(WHAT, MAX_TICKS)? })
    }
}

pub(super) fn write_flow(flow: &Flow, encoder: &mut Encoder) {
    flow.write(encoder.tail());
}

/// A direction whose body comes from this side.
pub(super) fn read_flow(decoder: &mut Decoder<'_, '_>, side: Side) -> Result<Flow, StateError> {
    decoder.with("where a body is", |input| Flow::read(input).filter(|flow| flow.side() == side))
}
