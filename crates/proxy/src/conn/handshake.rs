//! A client that is being let in over TLS.
//!
//! ```text
//!   accept ▶ Silent ──first bytes──▶ Begun ──established──▶ HttpConn, or Tunnel
//!              │                       │ └──failed, with an alert to be read──▶ Refused ──read, or not──▶ over
//!              └──plain HTTP──▶ Refused (a 400 that says so)
//!              └──nothing came in time──▶ over
//! ```
//!
//! Nothing is allocated for a client that says nothing. A step of a handshake costs as much as hundreds of requests, so it is
//! taken only when it is this connection's turn ([`Cx::takes_step`]): one step for some events of others.
//!
//! What a TLS 1.3 handshake leaves to be sent at its end, tickets, goes out with the first response.

use std::net::IpAddr;
use std::sync::Arc;

use handover_http1::{Delivery, Version, write_plain};
use handover_tls::{Accepting, Established, Fed, HandshakeError};
use rustls::ServerConfig;

use crate::buffers::Buf;
use crate::clock::Ticks;
use crate::generation::ListenerKind;
use crate::metrics::HandshakeFailure;
use crate::reactor::{ConnKey, Io, Received, Secure};

use super::context::Cx;
use super::http::HttpConn;
use super::shown::Shown;
use super::tunnel::Tunnel;
use super::{Conn, End, Fate};

/// Who was refused has so long to read why (2 s).
const REFUSED: Ticks = Ticks(20);
/// … and may send so much meanwhile.
const REFUSED_BYTES: usize = 256 * 1024;

/// A client that is being let in.
#[derive(Debug)]
pub(crate) struct Handshake {
    key: ConnKey,
    io: Io,
    peer: Option<IpAddr>,
    listener: u32,
    /// It becomes a tunnel.
    tcp: bool,
    stage: Stage,
    /// To be sent, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    since_us: u64,
    bytes_in: u64,
    bytes_out: u64,
    deadline: u64,
    cut_at: Option<u64>,
    /// Its listener goes, or the server drains: what it becomes ends after this tick.
    retired: Option<u64>,
}

#[derive(Debug)]
enum Stage {
    Silent,
    Begun(Box<Step>),
    Done(Box<Established>),
    /// It may still send so many bytes, which nobody wants.
    Refused {
        left: usize,
        told: bool,
    },
}

/// What rustls holds.
struct Step(Accepting);

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Step")
    }
}

impl Handshake {
    /// A connection that was just accepted on a listener with TLS.
    pub(crate) fn new(
        key: ConnKey,
        io: Io,
        peer: Option<IpAddr>,
        listener: u32,
        cx: &Cx,
    ) -> Result<Self, Io> {
        let Some(plan) = cx.listener(listener).and_then(|place| place.plan()) else { return Err(io) };
        if plan.tls.is_none() {
            return Err(io);
        }
        Ok(Self {
            key,
            io,
            peer,
            listener,
            tcp: matches!(plan.kind, ListenerKind::Tcp(_)),
            stage: Stage::Silent,
            out: Vec::new(),
            sent: 0,
            since_us: cx.clock.now_us(),
            bytes_in: 0,
            bytes_out: 0,
            deadline: cx.clock.after(plan.header),
            cut_at: None,
            retired: None,
        })
    }

    pub(crate) fn listener(&self) -> u32 {
        self.listener
    }

    pub(crate) fn deadline(&self) -> u64 {
        self.cut_at.map_or(self.deadline, |cut| cut.min(self.deadline))
    }

    /// See [`super::Conn::retire`]: who has begun may end, and make one request.
    pub(crate) fn retire(&mut self, idle_until: u64, cut_at: Option<u64>) {
        self.retired = Some(idle_until);
        self.cut_at = cut_at.or(self.cut_at);
        if matches!(self.stage, Stage::Silent) {
            self.deadline = self.deadline.min(idle_until);
        }
    }

    /// See [`super::Conn::unretire`].
    pub(crate) fn unretire(&mut self) {
        self.retired = None;
        self.cut_at = None;
    }

    /// See [`super::Conn::loss`].
    pub(crate) fn is_loss(&self) -> bool {
        matches!(self.stage, Stage::Begun(_) | Stage::Done(_))
    }

    /// See [`super::Conn::show`].
    pub(crate) fn show(&self, cx: &Cx) -> Shown {
        Shown {
            kind: "tls",
            listener: cx.listener(self.listener).map(|place| Arc::clone(&place.name)).unwrap_or_default(),
            client: self.peer,
            state: match self.stage {
                Stage::Silent => "silent",
                Stage::Begun(_) | Stage::Done(_) => "handshake",
                Stage::Refused { .. } => "closing",
            },
            age_us: cx.clock.now_us().saturating_sub(self.since_us),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            service: None,
            endpoint: None,
            tls: None,
            trouble: None,
        }
    }

    /// Does what can be done now.
    pub(crate) fn run(&mut self, cx: &mut Cx) -> Fate {
        if !cx.reactor.is_registered(&self.io) && cx.reactor.register(&self.io).is_err() {
            return Fate::Over(End::Unwatched);
        }
        if cx.reactor.is_broken(&self.io) {
            return self.gone(cx);
        }
        if let Err(fate) = self.send(cx) {
            return fate;
        }
        match self.stage {
            Stage::Done(_) => Fate::Upgraded,
            Stage::Refused { .. } => self.drain(cx),
            Stage::Silent | Stage::Begun(_) if !cx.reactor.is_readable(&self.io) => Fate::Parked,
            Stage::Silent | Stage::Begun(_) if !cx.takes_step() => Fate::Later,
            Stage::Silent | Stage::Begun(_) => self.step(cx),
        }
    }

    /// Sends what there is, as far as it goes.
    fn send(&mut self, cx: &mut Cx) -> Result<(), Fate> {
        let rest = self.out.get(self.sent..).unwrap_or_default();
        if rest.is_empty() || (matches!(self.stage, Stage::Done(_)) && self.can_wait()) {
            return Ok(());
        }
        match cx.reactor.send(&self.io, rest) {
            Ok(count) => {
                self.sent += count;
                self.bytes_out += count as u64;
                if self.sent == self.out.len() {
                    (self.out, self.sent) = (Vec::new(), 0);
                }
                Ok(())
            }
            Err(_) => Err(self.gone(cx)),
        }
    }

    /// What the handshake leaves to be sent is nothing that the client waits for.
    fn can_wait(&self) -> bool {
        match &self.stage {
            Stage::Done(established) => {
                established.facts.version == handover_tls::Version::Tls13 && !self.tcp
            }
            _ => false,
        }
    }

    /// Reads once, and goes on with that.
    fn step(&mut self, cx: &mut Cx) -> Fate {
        let mut input = Buf::none();
        cx.buffers.ensure_small(&mut input);
        let fate = match cx.reactor.recv(&self.io, &mut input) {
            Ok(Received::Blocked) => Fate::Parked,
            Ok(Received::End) | Err(_) => self.gone(cx),
            Ok(Received::Bytes(count)) => {
                self.bytes_in += count as u64;
                self.feed(input.unread(), cx)
            }
        };
        cx.buffers.release(&mut input);
        fate
    }

    /// Of the generation that serves at this very moment, however long ago the client was accepted: no certificate is shown after
    /// another one was loaded. Of the last one that had its listener, if that goes.
    fn config(&self, cx: &mut Cx) -> Option<Arc<ServerConfig>> {
        cx.refresh();
        let tls = cx.listener(self.listener)?.plan()?.tls.as_ref()?;
        Some(Arc::clone(&tls.config))
    }

    fn feed(&mut self, input: &[u8], cx: &mut Cx) -> Fate {
        if matches!(self.stage, Stage::Silent) {
            let Some(config) = self.config(cx) else { return Fate::Over(End::Retired) };
            match Accepting::new(config) {
                Ok(accepting) => self.stage = Stage::Begun(Box::new(Step(accepting))),
                Err(error) => return self.fail(&error, cx),
            }
        }
        let Stage::Begun(begun) = &mut self.stage else { return Fate::Parked };
        match begun.0.feed(input, &mut self.out) {
            Ok(Fed::More) => match self.send(cx) {
                Ok(()) if cx.reactor.is_readable(&self.io) => Fate::Later,
                Ok(()) => Fate::Parked,
                Err(fate) => fate,
            },
            Ok(Fed::Done(established)) => {
                let facts = &established.facts;
                if let Some(cells) = cx.listener_cells(self.listener) {
                    cells.handshake(facts.version == handover_tls::Version::Tls13, facts.resumed);
                }
                self.stage = Stage::Done(established);
                match self.send(cx) {
                    Ok(()) => Fate::Upgraded,
                    Err(fate) => fate,
                }
            }
            Err(error) => self.fail(&error, cx),
        }
    }

    /// The client is refused, and told so.
    fn fail(&mut self, error: &HandshakeError, cx: &mut Cx) -> Fate {
        self.count(HandshakeFailure::of(error), cx);
        if let Some(listener) = cx.listener(self.listener) {
            tracing::debug!(listener = %listener.name, client = ?self.peer, "no TLS: {error}");
        }
        if matches!(error, HandshakeError::PlainHttp) {
            self.out.clear();
            let text = "this port speaks TLS: use https://";
            let delivery = Delivery { version: Version::Http11, keep_alive: false, head_only: false };
            write_plain(&mut self.out, 400, text, delivery, cx.clock.date());
        }
        if self.out.is_empty() {
            return Fate::Over(End::HandshakeFailed);
        }
        self.stage = Stage::Refused { left: REFUSED_BYTES, told: false };
        self.deadline = cx.clock.after(REFUSED);
        match self.send(cx) {
            Ok(()) => self.drain(cx),
            Err(fate) => fate,
        }
    }

    /// Waits until the client has read why it was refused, and closes.
    fn drain(&mut self, cx: &mut Cx) -> Fate {
        let Stage::Refused { left, told } = &mut self.stage else { return Fate::Parked };
        if !self.out.is_empty() {
            return Fate::Parked;
        }
        if !*told {
            *told = cx.reactor.finish(&self.io);
        }
        let mut input = Buf::none();
        cx.buffers.ensure_small(&mut input);
        let fate = loop {
            input.clear();
            match cx.reactor.recv(&self.io, &mut input) {
                Ok(Received::Bytes(count)) if count < *left => *left -= count,
                Ok(Received::Blocked) => break Fate::Parked,
                _ => break Fate::Over(End::HandshakeFailed),
            }
        };
        cx.buffers.release(&mut input);
        fate
    }

    /// The client has gone. That is no failure if it never said anything: somebody looked whether the port is open.
    fn gone(&self, cx: &Cx) -> Fate {
        match self.stage {
            Stage::Silent => Fate::Over(End::ClientClosed),
            Stage::Refused { .. } => Fate::Over(End::HandshakeFailed),
            Stage::Begun(_) | Stage::Done(_) => {
                self.count(HandshakeFailure::Gone, cx);
                Fate::Over(End::HandshakeFailed)
            }
        }
    }

    fn count(&self, why: HandshakeFailure, cx: &Cx) {
        if let Some(cells) = cx.listener_cells(self.listener) {
            cells.handshake_failed(why);
        }
    }

    /// Its deadline has passed.
    pub(crate) fn expire(&mut self, cx: &mut Cx) -> Fate {
        if self.cut_at.is_some_and(|cut| cut <= cx.clock.tick()) {
            return Fate::Over(End::Cut);
        }
        match self.stage {
            Stage::Silent if self.retired.is_some() => Fate::Over(End::Retired),
            Stage::Silent => Fate::Over(End::IdleLimit),
            Stage::Refused { .. } => Fate::Over(End::HandshakeFailed),
            Stage::Begun(_) | Stage::Done(_) => {
                self.count(HandshakeFailure::Timeout, cx);
                Fate::Over(End::HandshakeLimit)
            }
        }
    }

    /// After [`Fate::Upgraded`]: what was agreed holds from now on, and the connection goes on as what it is for. The second: it
    /// cannot, because its listener does not exist any more.
    pub(crate) fn into_conn(mut self: Box<Self>, cx: &mut Cx) -> Result<Conn, Box<Self>> {
        let stage = std::mem::replace(&mut self.stage, Stage::Silent);
        let Stage::Done(established) = stage else {
            self.stage = stage;
            return Err(self);
        };
        let (mut out, sent) = (std::mem::take(&mut self.out), self.sent);
        out.drain(..sent);
        let Established { session, facts, leftover } = *established;
        let Self { key, io, peer, listener, tcp, .. } = *self;
        cx.reactor.protect(&io, Box::new(Secure::new(session, Arc::new(facts), leftover, out)));
        let made = if tcp {
            cx.reactor.flush(&io);
            Tunnel::tcp(key, io, peer, listener, cx).map(|tunnel| Conn::Tunnel(Box::new(tunnel)))
        } else {
            HttpConn::new(key, io, peer, listener, cx).map(|http| Conn::Http(Box::new(http)))
        };
        match made {
            Ok(mut conn) => {
                if let Some(cells) = cx.listener_cells(listener) {
                    cells.bytes_in.add(self.bytes_in);
                    cells.bytes_out.add(self.bytes_out);
                }
                if let Some(idle_until) = self.retired {
                    conn.retire(idle_until, self.cut_at);
                }
                Ok(conn)
            }
            Err(io) => {
                self.io = io;
                self.stage = Stage::Refused { left: 0, told: true };
                Err(self)
            }
        }
    }

    /// Closes the socket.
    pub(crate) fn close(self, cx: &mut Cx) {
        if let Some(cells) = cx.listener_cells(self.listener) {
            cells.bytes_in.add(self.bytes_in);
            cells.bytes_out.add(self.bytes_out);
        }
        cx.reactor.close(self.io);
    }
}
