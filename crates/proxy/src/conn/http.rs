//! A connection that speaks HTTP/1.1 with a client.
//!
//! ```text
//!      Held ◀─┐  (paused, or no endpoint: see `hold`)
//!        └──┐ │
//!            ┌───────────────────── kept alive ─────────────────────┐
//!            ▼                                                      │
//!  accept ▶ Head ──service──▶ Proxy ──answered──▶───────────────────┤
//!            │ │                │ └──failed before a response──┐    │
//!            │ └──local action──┼──────────▶ Answer ◀──────────┘    │
//!            │                  │               └──────────▶────────┤
//!            │ refused: Answer  │ 101                               │ last response
//!            ▼                  ▼                                   ▼
//!           Over              Tunnel            over, or Linger: the client may not have finished sending,
//!                                               and must be able to read the answer before a reset comes
//! ```
//!
//! While it waits for a request it holds no buffer.

mod moved;

use std::mem;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use handover_http1::{ClientLabel, Refusal, Version};

use crate::access_log::Line;
use crate::clock::Ticks;
use crate::reactor::{ConnKey, Io, Received};

use super::answer::Answer;
use super::begin::Understood;
use super::client::{Client, NO_ROUTE, Request};
use super::context::{Cx, LocalListener};
use super::dial::Dial;
use super::hold::Waits;
use super::linger::Linger;
use super::proxy::Proxy;
use super::shown::Shown;
use super::tunnel::Tunnel;
use super::{End, Fate, Side, TURN_BYTES};

/// A socket that need not be watched yet is, after this long (200 ms): to notice a client that goes away.
const WATCH_AFTER: Ticks = Ticks(1);

/// What a handshake has left to be sent is, after this long (200 ms), if no response was.
const SAY_AFTER: Ticks = Ticks(1);

/// Requests that one connection may make in one turn before others get theirs.
const TURN_REQUESTS: usize = 32;

/// What the connection is doing.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, and boxing it would allocate per request"
)]
pub(super) enum Phase {
    /// Waiting for a request, or for the rest of its head: so many bytes were looked at in vain.
    Head {
        seen: usize,
    },
    /// It waits, its head in the buffer: until this tick at the latest.
    Held {
        until: u64,
    },
    Proxy(Proxy),
    Answer(Answer),
    Linger(Linger),
}

/// What one step brought.
#[derive(Debug)]
pub(crate) enum Step {
    /// Go on with the (perhaps new) phase.
    Next,
    /// An event or the deadline must come.
    Wait,
    /// Others want their turn.
    Again,
    /// It must be its turn to compute something long.
    Later,
    /// The request was answered; `keep`: the connection may go on.
    Finished { keep: bool },
    /// No response has begun; the client must get this one.
    Fail(Refusal),
    /// The connection is over.
    Over(End),
    /// The endpoint has changed the protocol.
    Upgrade,
}

/// A connection that speaks HTTP.
#[derive(Debug)]
pub(crate) struct HttpConn {
    pub(super) client: Client,
    pub(super) phase: Phase,
    /// When it must be looked at.
    pub(super) deadline: u64,
    /// The time limit of the phase `Head`.
    pub(super) phase_limit: u64,
    /// It is not watched yet, and will be at `deadline`.
    unwatched: bool,
    /// A handshake has left something to be sent, which goes out with the first response, or at `deadline`.
    pub(super) unsaid: bool,
    cut_at: Option<u64>,
    /// The thread on which it stays is settled.
    pub(super) placed: bool,
}

impl HttpConn {
    /// A connection that was just accepted. `local` and `position` are its listener's.
    pub(crate) fn new(
        key: ConnKey,
        io: Io,
        peer: Option<IpAddr>,
        listener: u32,
        cx: &Cx,
    ) -> Result<Self, Io> {
        let Some(place) = cx.listener(listener) else { return Err(io) };
        let Some(plan) = place.plan() else { return Err(io) };
        let limit = cx.clock.after(plan.header);
        let tls = cx.reactor.secure(&io).map(|secure| Arc::clone(secure.facts()));
        let request = Request {
            local: Rc::clone(&place.local),
            position: place.position,
            started_us: cx.clock.now_us(),
            version: Version::Http11,
            head_only: false,
            keep_alive: false,
            status: 0,
            line: Line::none(),
            tried: None,
            route: NO_ROUTE,
            waits: Waits::default(),
        };
        let client = Client {
            key,
            side: Side::new(io),
            label: ClientLabel::new(peer, tls.is_some()),
            peer,
            listener,
            request,
            bytes_in: 0,
            bytes_out: 0,
            counted_in: 0,
            counted_out: 0,
            since_us: cx.clock.now_us(),
            retired: false,
            tls,
        };
        Ok(Self {
            unsaid: client.tls.is_some(),
            client,
            phase: Phase::Head { seen: 0 },
            deadline: limit,
            phase_limit: limit,
            unwatched: false,
            cut_at: None,
            placed: false,
        })
    }

    pub(crate) fn listener(&self) -> u32 {
        self.client.listener
    }

    pub(crate) fn deadline(&self) -> u64 {
        self.cut_at.map_or(self.deadline, |cut| cut.min(self.deadline))
    }

    /// Between two requests, or before the first.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Head { .. }) && self.client.side.inbuf.is_empty()
    }

    /// See [`super::Conn::sockets`].
    pub(crate) fn sockets(&self) -> (&Io, Option<&Io>) {
        let endpoint = match &self.phase {
            Phase::Proxy(proxy) => proxy.dial().io(),
            _ => None,
        };
        (&self.client.side.io, endpoint)
    }

    /// See [`super::Conn::is_at_rest`].
    pub(crate) fn is_at_rest(&self, cx: &Cx) -> bool {
        self.is_idle() && !self.unsaid && !cx.reactor.is_readable(&self.client.side.io)
    }

    /// A request is in progress: cutting the connection loses it.
    pub(crate) fn is_busy(&self) -> bool {
        match self.phase {
            Phase::Head { .. } => !self.client.side.inbuf.is_empty(),
            Phase::Held { .. } | Phase::Proxy(_) | Phase::Answer(_) => true,
            Phase::Linger(_) => false,
        }
    }

    /// See [`super::Conn::loss`].
    pub(crate) fn is_loss(&self, cx: &Cx) -> bool {
        match self.phase {
            Phase::Linger(_) => Linger::is_loss(&self.client, cx),
            _ => self.is_busy(),
        }
    }

    /// See [`super::Conn::show`].
    pub(crate) fn show(&self, cx: &Cx) -> Shown {
        let (state, dial) = match &self.phase {
            Phase::Head { .. } if self.client.side.inbuf.is_empty() => ("idle", None),
            Phase::Head { .. } => ("reading", None),
            Phase::Held { .. } => ("held", None),
            Phase::Proxy(proxy) => (proxy.state(), Some(proxy.dial())),
            Phase::Answer(_) => ("answering", None),
            Phase::Linger(_) => ("closing", None),
        };
        let client = &self.client;
        let held_for = if state == "held" { self.held_for() } else { None };
        let held_for = held_for.and_then(|held| client.request.local.generation.services.get(held));
        Shown {
            kind: "http",
            listener: cx.listener(client.listener).map(|place| Arc::clone(&place.name)).unwrap_or_default(),
            client: client.peer,
            state,
            age_us: cx.clock.now_us().saturating_sub(client.since_us),
            bytes_in: client.counted_in + client.bytes_in,
            bytes_out: client.counted_out + client.bytes_out,
            service: dial.and_then(Dial::plan).or(held_for).map(|plan| Arc::clone(&plan.name)),
            endpoint: dial.and_then(Dial::endpoint).map(|endpoint| Arc::clone(&endpoint.plan)),
            tls: client.tls.clone(),
            trouble: dial.and_then(Dial::trouble).cloned(),
        }
    }

    /// See [`super::Conn::retire`].
    pub(crate) fn retire(&mut self, idle_until: u64, cut_at: Option<u64>) {
        self.client.retired = true;
        self.cut_at = cut_at.or(self.cut_at);
        if self.is_idle() {
            self.phase_limit = self.phase_limit.min(idle_until);
            self.deadline = self.phase_limit;
        }
    }

    /// See [`super::Conn::unretire`].
    pub(crate) fn unretire(&mut self, cx: &Cx) {
        self.client.retired = false;
        self.cut_at = None;
        if let (true, Some(plan)) = (self.is_idle(), self.client.plan()) {
            self.phase_limit = cx.clock.after(plan.idle);
            self.deadline = self.phase_limit;
        }
    }

    /// Does everything that can be done now.
    pub(crate) fn run(&mut self, cx: &mut Cx) -> Fate {
        let mut answered = 0;
        let counted = self.client.counted_in + self.client.counted_out;
        loop {
            let step = match &mut self.phase {
                Phase::Head { .. } => self.read_head(cx),
                Phase::Held { .. } if cx.has_left(&self.client.side.io) => Step::Over(End::ClientGone),
                Phase::Held { .. } => Step::Wait,
                Phase::Proxy(proxy) => proxy.run(&mut self.client, cx),
                Phase::Answer(answer) => answer.run(&mut self.client, cx),
                Phase::Linger(linger) => linger.run(&mut self.client.side, cx),
            };
            let finished = matches!(step, Step::Finished { .. });
            if let Some(fate) = self.apply(step, cx) {
                return fate;
            }
            if finished {
                answered += 1;
                let moved = self.client.counted_in + self.client.counted_out - counted;
                if (answered >= TURN_REQUESTS || moved >= TURN_BYTES as u64) && self.has_input(cx) {
                    self.deadline = self.limit();
                    return Fate::Again;
                }
            }
        }
    }

    /// The client has sent something that is not read or not looked at.
    fn has_input(&self, cx: &Cx) -> bool {
        !self.client.side.inbuf.is_empty() || cx.reactor.is_readable(&self.client.side.io)
    }

    /// Its deadline has passed, or some limit that was earlier than it.
    pub(crate) fn expire(&mut self, cx: &mut Cx) -> Fate {
        let now = cx.clock.tick();
        if self.cut_at.is_some_and(|cut| cut <= now) {
            let Phase::Held { until } = &mut self.phase else { return Fate::Over(End::Cut) };
            // Nobody who was told to wait is left without a word.
            *until = now;
            self.client.request.waits.in_vain = true;
            self.cut_at = None;
        }
        if self.unwatched && cx.reactor.register(&self.client.side.io).is_err() {
            return Fate::Over(End::Unwatched);
        }
        self.unwatched = false;
        if mem::take(&mut self.unsaid) {
            cx.reactor.flush(&self.client.side.io);
        }
        let limit = self.limit();
        if limit > now {
            self.deadline = limit;
            return Fate::Parked;
        }
        let step = match &mut self.phase {
            Phase::Head { .. } if self.client.side.inbuf.is_empty() => {
                Step::Over(if self.client.retired { End::Retired } else { End::IdleLimit })
            }
            Phase::Head { .. } => Step::Fail(Refusal::new(408, "the request's head did not come in time")),
            Phase::Held { .. } => {
                self.unhold(cx);
                Step::Next
            }
            Phase::Proxy(proxy) => proxy.expire(&self.client, cx),
            Phase::Answer(answer) => answer.expire(&self.client, cx),
            Phase::Linger(linger) => Step::Over(linger.end()),
        };
        match self.apply(step, cx) {
            Some(fate) => fate,
            None => self.run(cx),
        }
    }

    /// The time limit of what it is doing.
    fn limit(&self) -> u64 {
        match &self.phase {
            Phase::Head { .. } => self.phase_limit,
            Phase::Held { until } => *until,
            Phase::Linger(linger) => linger.limit(),
            Phase::Proxy(proxy) => proxy.until(),
            Phase::Answer(answer) => answer.until(),
        }
    }

    /// What follows from a step; `None`: go on.
    fn apply(&mut self, step: Step, cx: &mut Cx) -> Option<Fate> {
        match step {
            Step::Next => None,
            Step::Wait => Some(self.park(cx)),
            Step::Again => {
                self.deadline = self.limit();
                Some(Fate::Again)
            }
            Step::Later => {
                self.deadline = self.limit();
                Some(Fate::Later)
            }
            Step::Finished { keep } => self.finished(keep, cx),
            Step::Fail(refusal) => {
                self.fail(refusal, cx);
                None
            }
            Step::Over(end) => {
                if self.is_busy() {
                    self.enter(Phase::Linger(Linger::none(end)), cx);
                }
                Some(Fate::Over(end))
            }
            Step::Upgrade => Some(Fate::Upgraded),
        }
    }

    /// Nothing more can be done now: make sure that something wakes it.
    fn park(&mut self, cx: &mut Cx) -> Fate {
        self.deadline = self.limit();
        if self.unsaid {
            self.deadline = self.deadline.min(cx.clock.after(SAY_AFTER));
        }
        if cx.reactor.is_registered(&self.client.side.io) {
            return Fate::Parked;
        }
        let can_wait = matches!(&self.phase, Phase::Proxy(proxy) if !proxy.waits_for_client());
        if can_wait {
            // Only the endpoint's answer is waited for. Often that is all, and watching would have been for nothing.
            self.unwatched = true;
            self.deadline = self.deadline.min(cx.clock.after(WATCH_AFTER));
            return Fate::Parked;
        }
        match cx.reactor.register(&self.client.side.io) {
            Ok(()) => Fate::Parked,
            Err(_) => Fate::Over(End::Unwatched),
        }
    }

    /// The request was answered.
    fn finished(&mut self, keep: bool, cx: &mut Cx) -> Option<Fate> {
        let (read, end) = match &self.phase {
            Phase::Proxy(proxy) => (proxy.request_is_read(), End::Done),
            Phase::Answer(answer) => (answer.request_is_read(), answer.end()),
            _ => (true, End::Done),
        };
        self.unsaid = false;
        if keep {
            self.enter(Phase::Head { seen: 0 }, cx);
            let plan = self.client.plan();
            let limit =
                plan.map(|plan| if self.client.side.inbuf.is_empty() { plan.idle } else { plan.header });
            self.phase_limit = cx.clock.after(limit.unwrap_or_default());
            return None;
        }
        let linger = Linger::begin(&self.client, read, end, cx);
        self.enter(Phase::Linger(linger.unwrap_or(Linger::none(end))), cx);
        if linger.is_some() { None } else { Some(Fate::Over(end)) }
    }

    /// Answers with an error of our own.
    fn fail(&mut self, refusal: Refusal, cx: &mut Cx) {
        // What was prepared to be sent and did not go out, e.g. the head of a response that then could not be understood.
        cx.reactor.disown(&self.client.side.io);
        cx.buffers.release(&mut self.client.side.out);
        let read = matches!(&self.phase, Phase::Proxy(proxy) if proxy.request_is_read());
        let keep = read && self.client.may_keep(cx);
        let end = match refusal.status {
            408 => End::HeaderLimit,
            _ if refusal.status < 500 => End::Refused,
            _ => End::Done,
        };
        if matches!(self.phase, Phase::Head { .. }) {
            self.client.request.version = Version::Http11;
            self.client.request.head_only = false;
            self.begin_line_of_refused(cx);
        }
        let answer = Answer::plain(&mut self.client, refusal, keep, read, end, cx);
        self.enter(Phase::Answer(answer), cx);
    }

    /// A request that was refused in its head leaves a line, too.
    fn begin_line_of_refused(&mut self, cx: &mut Cx) {
        let Client { side, request, peer, .. } = &mut self.client;
        if cx.log.is_on() && !request.line.is_begun() {
            let head = side.inbuf.unread();
            cx.log.begin_refused(&mut request.line, *peer, head, &cx.clock, &mut cx.buffers);
        }
    }

    /// Changes the phase. A request that was in progress is counted, and what it held is given back.
    fn enter(&mut self, phase: Phase, cx: &mut Cx) {
        let failed = matches!(phase, Phase::Answer(_));
        let held = matches!(self.phase, Phase::Held { .. });
        if held {
            self.unhold(cx);
            self.begin_line_of_refused(cx);
        }
        match mem::replace(&mut self.phase, phase) {
            Phase::Proxy(proxy) => {
                if failed {
                    // The answer that follows is this request's.
                    self.client.request.tried = proxy.endpoint();
                    proxy.close(0, cx);
                } else {
                    self.client.finish(proxy.endpoint_label(), cx);
                    proxy.close(self.client.request.status, cx);
                }
            }
            Phase::Answer(_) => self.client.finish(None, cx),
            Phase::Head { .. } if held => self.client.finish(None, cx),
            Phase::Head { .. } | Phase::Held { .. } | Phase::Linger(_) => {}
        }
    }

    /// Waits for a head, and begins what it asks for.
    fn read_head(&mut self, cx: &mut Cx) -> Step {
        let Phase::Head { seen } = self.phase else { return Step::Next };
        let side = &mut self.client.side;
        if side.inbuf.len() == seen {
            if !cx.reactor.is_readable(&side.io) {
                cx.buffers.release_if_empty(&mut side.inbuf);
                return Step::Wait;
            }
            let was_empty = side.inbuf.is_empty();
            cx.buffers.ensure_small(&mut side.inbuf);
            if side.inbuf.room() == 0 {
                let total = side.inbuf.len() * 2;
                cx.buffers.grow(&mut side.inbuf, total);
            }
            match cx.reactor.recv(&side.io, &mut side.inbuf) {
                Ok(Received::Bytes(count)) => {
                    self.client.bytes_in += count as u64;
                    if was_empty {
                        self.client.request.started_us = cx.clock.now_us();
                    }
                }
                Ok(Received::Blocked) => {
                    if was_empty && cx.reactor.has_part(&side.io) {
                        // A head has begun, in a record that is not whole yet.
                        let header = self.client.plan().map(|plan| plan.header).unwrap_or_default();
                        self.phase_limit = self.phase_limit.min(cx.clock.after(header));
                    }
                    cx.buffers.release_if_empty(&mut self.client.side.inbuf);
                    return Step::Wait;
                }
                Ok(Received::End) | Err(_) => {
                    return Step::Over(if was_empty { End::ClientClosed } else { End::ClientGone });
                }
            }
        }
        self.look_at_head(seen, cx)
    }

    fn look_at_head(&mut self, seen: usize, cx: &mut Cx) -> Step {
        let unread = self.client.side.inbuf.unread();
        let plan = cx.listener(self.client.listener).and_then(LocalListener::plan);
        if plan.is_some_and(|plan| !plan.head.worth_parsing(unread, seen)) {
            self.phase = Phase::Head { seen: unread.len() };
            return self.head_is_partial(seen, cx);
        }
        let inbuf = mem::take(&mut self.client.side.inbuf);
        let understood = self.understand(inbuf.unread(), cx);
        let len = inbuf.len();
        self.client.side.inbuf = inbuf;
        match understood {
            Understood::Partial => {
                self.phase = Phase::Head { seen: len };
                self.head_is_partial(seen, cx)
            }
            Understood::Refused(refusal) => Step::Fail(refusal),
            Understood::Begun { used, phase } => {
                self.client.side.inbuf.consume(used);
                cx.buffers.release_if_empty(&mut self.client.side.inbuf);
                self.phase = phase;
                Step::Next
            }
            Understood::Held { until } => {
                self.hold(until, cx);
                Step::Next
            }
            Understood::Nowhere => Step::Over(End::Retired),
        }
    }

    /// The head is not whole. Its time limit begins with its first byte.
    fn head_is_partial(&mut self, seen: usize, cx: &Cx) -> Step {
        let Some(plan) = cx.listener(self.client.listener).and_then(|listener| listener.plan()) else {
            return Step::Over(End::Retired);
        };
        if self.client.side.inbuf.len() >= plan.head.head_bytes {
            return Step::Fail(Refusal::new(431, "the request's head is larger than allowed here"));
        }
        if seen == 0 {
            self.phase_limit = cx.clock.after(plan.header);
        }
        Step::Next
    }

    /// After [`Fate::Upgraded`]: the same connection as a tunnel.
    pub(crate) fn into_tunnel(mut self: Box<Self>, cx: &mut Cx) -> Result<Tunnel, Box<Self>> {
        let phase = mem::replace(&mut self.phase, Phase::Linger(Linger::none(End::Done)));
        let Phase::Proxy(proxy) = phase else {
            self.phase = phase;
            return Err(self);
        };
        self.client.finish(proxy.endpoint_label(), cx);
        let (dial, inbuf, out) = proxy.into_parts();
        let Self { client, cut_at, .. } = *self;
        Ok(Tunnel::upgraded(client, cut_at, dial, inbuf, out, cx))
    }

    /// Closes both sockets.
    pub(crate) fn close(mut self, end: End, cx: &mut Cx) {
        if self.is_busy() {
            self.enter(Phase::Linger(Linger::none(End::Done)), cx);
        }
        if !end.is_in_order() {
            cx.reactor.cut(&self.client.side.io);
        }
        cx.buffers.release(self.client.request.line.buf());
        self.client.side.close(&mut cx.reactor, &mut cx.buffers);
    }
}
