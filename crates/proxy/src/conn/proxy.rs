//! One request on its way through an endpoint and back.
//!
//! The two directions are independent: a response may begin, and even end, while the request's body is still coming.
//!
//! ```text
//!  request:   Whole ───────────sent──────────▶ Sent       (head and body, if any, in one buffer: can be sent again)
//!             Streaming ──last byte written──▶ Sent
//!                  └──────endpoint stopped reading──▶ Stopped   (its response may still come)
//!
//!  response:  Head ──1xx: passed on──▶ Head
//!              │ └──101──▶ upgraded
//!              └──▶ Body ──last byte written──▶ finished
//!
//!  the connection breaks before the first byte of a response:
//!     nothing was sent, or (kept connection and idempotent and Whole)  ──▶ once more, elsewhere
//!     else                                                             ──▶ 502
//! ```

mod again;
mod moved;

use std::rc::Rc;
use std::sync::Arc;

use handover_http1::{
    Asked, BodyKind, BodyReader, HeadLimits, HeaderStorage, Parsed, Refusal, RequestHead, ResponseHead,
    ToClient, parse_response_head, write_request_head, write_response_head,
};

use crate::buffers::Buf;
use crate::generation::EndpointPlan;
use crate::reactor::{Io, Received};

use super::begin::push_subject;
use super::client::Client;
use super::context::{Cx, Local};
use super::dial::{Dial, Way};
use super::flow::{End as FlowEnd, Flow, Moved, PumpError, Pumped};
use super::http::Step;
use super::patience::Patience;
use super::{End, TURN_BYTES};

/// A response's head may be this large.
const RESPONSE_HEAD: HeadLimits =
    HeadLimits { head_bytes: 64 * 1024, headers: handover_http1::limits::MAX_HEADERS, target_bytes: 0 };
/// An endpoint may send this many 1xx responses before the real one.
pub(super) const MAX_INTERIM: u8 = 16;
/// Request bodies up to this size go behind the head if they are there already, so that they can be sent again.
const WHOLE_BODY_BYTES: u64 = 4 * 1024;

/// One request through an endpoint.
#[derive(Debug)]
pub(crate) struct Proxy {
    dial: Dial,
    /// Read from the endpoint, not yet passed on.
    inbuf: Buf,
    /// So many bytes of a response's head were looked at in vain.
    seen: usize,
    /// To be sent to the endpoint.
    out: Buf,
    sending: Sending,
    receiving: Receiving,
    asked: Asked,
    idempotent: bool,
    /// The whole request is in `out` until a response begins.
    replayable: bool,
    connect_timed_out: bool,
    /// Some bytes of the request have been sent on the present connection.
    began: bool,
    interim: u8,
    /// Copies of a program that died before they answered.
    deaths: u8,
    /// Both sides were ready to keep the endpoint's connection, and the response came whole.
    reusable: bool,
    stage: Stage,
    /// When the stage is over, or must be looked at.
    until: u64,
    patience: Patience,
}

#[derive(Debug)]
enum Sending {
    Whole,
    Streaming(Flow),
    Sent,
    Stopped,
}

#[derive(Debug)]
enum Receiving {
    Head,
    Body {
        flow: Flow,
        /// What the endpoint says about its connection.
        upstream_keeps: bool,
        /// What we said about the client's.
        client_keeps: bool,
    },
}

/// What is being waited for: decides which time limit holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connect,
    SendBody,
    AwaitHead,
    Body,
}

/// Why the two directions cannot go on.
enum Trouble {
    /// The endpoint's connection broke before a response began.
    Lost,
    /// The exchange ends so.
    Ends(Step),
}

impl Proxy {
    /// Writes the head for the endpoint, with a short body behind it if that is there already. Says how many bytes of `input`, which
    /// begins behind the client's head, were used.
    pub(crate) fn start(
        local: &Rc<Local>,
        service: usize,
        head: &RequestHead<'_, '_>,
        body: BodyReader,
        input: &[u8],
        client: &Client,
        cx: &mut Cx,
    ) -> (Self, usize) {
        let mut dial = Dial::new(Rc::clone(local), service);
        let mut out = Buf::none();
        cx.buffers.ensure_small(&mut out);
        if let Some(plan) = dial.plan() {
            write_request_head(out.tail(), head, &plan.request_rules, &client.label, false);
            push_subject(out.tail(), client);
            plan.cells.of(cx.thread).active.add(1);
        }
        let mut used = 0;
        let sending = match head.body {
            BodyKind::None | BodyKind::Length(0) => Sending::Whole,
            BodyKind::Length(length) if length <= WHOLE_BODY_BYTES && !head.expect_continue => {
                match usize::try_from(length).ok().and_then(|length| input.get(..length)) {
                    Some(body) if body.len() <= out.room() => {
                        out.tail().extend_from_slice(body);
                        used = body.len();
                        Sending::Whole
                    }
                    _ => Sending::Streaming(Flow::new(body, head.body, head.body)),
                }
            }
            kind => {
                let guarding = dial.plan().is_some_and(|plan| plan.request_rules.headers.is_guarding());
                Sending::Streaming(Flow::new(body, kind, kind).without_trailers(guarding))
            }
        };
        let replayable = matches!(sending, Sending::Whole);
        if !(replayable && head.is_idempotent()) {
            dial.spare_kept();
        }
        let asked = Asked { head: head.is_head(), upgrade: head.upgrade.is_some() };
        let proxy = Self {
            dial,
            inbuf: Buf::none(),
            seen: 0,
            out,
            sending,
            receiving: Receiving::Head,
            asked,
            idempotent: head.is_idempotent(),
            replayable,
            connect_timed_out: false,
            began: false,
            interim: 0,
            deaths: 0,
            reusable: false,
            stage: Stage::Connect,
            until: 0,
            patience: Patience::default(),
        };
        (proxy, used)
    }

    /// What it is doing, for `handover connections`.
    pub(crate) fn state(&self) -> &'static str {
        match self.stage {
            Stage::Connect => "connecting",
            Stage::SendBody => "sending",
            Stage::AwaitHead => "waiting",
            Stage::Body => "proxying",
        }
    }

    /// The way to the endpoint.
    pub(crate) fn dial(&self) -> &Dial {
        &self.dial
    }

    /// When this must be looked at even if nothing happens.
    pub(crate) fn until(&self) -> u64 {
        self.until
    }

    /// True if an event on the client's socket is what is waited for, not only one from the endpoint.
    pub(crate) fn waits_for_client(&self) -> bool {
        !matches!(self.sending, Sending::Whole | Sending::Sent)
            || matches!(self.receiving, Receiving::Body { .. })
    }

    /// True once nothing of the request's body is left to read from the client.
    pub(crate) fn request_is_read(&self) -> bool {
        match &self.sending {
            Sending::Whole | Sending::Sent => true,
            Sending::Streaming(flow) => flow.is_read(),
            Sending::Stopped => false,
        }
    }

    /// Does everything that can be done now.
    pub(crate) fn run(&mut self, client: &mut Client, cx: &mut Cx) -> Step {
        if cx.reactor.is_broken(&client.side.io) {
            return Step::Over(End::ClientGone);
        }
        let mut budget = TURN_BYTES;
        let mut moved = Moved::default();
        loop {
            match self.dial.go(client.key, cx) {
                Ok(Way::Ready) => {}
                Ok(way) => {
                    self.enter(Stage::Connect, true, client, cx);
                    return if way == Way::Later { Step::Later } else { Step::Wait };
                }
                Err(_) if self.dial.trouble().is_some() => {
                    return Step::Fail(Refusal::new(
                        502,
                        "no endpoint of this service can be reached over TLS",
                    ));
                }
                Err(_) if self.connect_timed_out => {
                    return Step::Fail(Refusal::new(504, "the endpoint could not be connected to in time"));
                }
                Err(_) => return Step::Fail(Refusal::new(503, "no endpoint of this service can be reached")),
            }
            let sent = self.send(client, cx, &mut budget, &mut moved);
            let received = match sent {
                Ok(_) => self.receive(client, cx, &mut budget, &mut moved),
                Err(trouble) => Err(trouble),
            };
            match received {
                Ok(Some(step)) | Err(Trouble::Ends(step)) => return step,
                Ok(None) => {}
                Err(Trouble::Lost) => match self.lost(cx) {
                    None => continue,
                    Some(step) => return step,
                },
            }
            self.enter(self.present_stage(), moved.sent != 0 || moved.received != 0, client, cx);
            return if budget == 0 { Step::Again } else { Step::Wait };
        }
    }

    /// The request's direction.
    fn send(
        &mut self,
        client: &mut Client,
        cx: &mut Cx,
        budget: &mut usize,
        moved: &mut Moved,
    ) -> Result<(), Trouble> {
        let Some(io) = self.dial.io() else { return Ok(()) };
        let mut here = Moved::default();
        let result = match &mut self.sending {
            Sending::Sent | Sending::Stopped => return Ok(()),
            Sending::Whole => match cx.reactor.send(io, self.out.unread()) {
                Ok(count) => {
                    here.sent = count as u64;
                    self.out.advance(count);
                    Ok(if self.out.is_empty() { Pumped::Done } else { Pumped::WaitSink })
                }
                Err(errno) => Err(PumpError::SinkLost(errno)),
            },
            Sending::Streaming(flow) => {
                let mut source = FlowEnd { io: &client.side.io, buf: &mut client.side.inbuf };
                let mut sink = FlowEnd { io, buf: &mut self.out };
                flow.pump(&mut cx.reactor, &mut cx.buffers, &mut source, &mut sink, budget, &mut here)
            }
        };
        self.began |= here.sent > 0 || cx.reactor.has_begun(io);
        client.bytes_in += here.received;
        moved.sent += here.sent;
        moved.received += here.received;
        match result {
            Ok(Pumped::Done) => self.sending = Sending::Sent,
            Ok(_) => {}
            Err(PumpError::SinkLost(_)) if !self.began => return Err(Trouble::Lost),
            // The response may be there already.
            Err(PumpError::SinkLost(_)) => self.sending = Sending::Stopped,
            Err(PumpError::SourceLost(_)) => return Err(Trouble::Ends(Step::Over(End::ClientGone))),
            Err(PumpError::Source(_)) if self.response_has_begun() => {
                return Err(Trouble::Ends(Step::Over(End::Refused)));
            }
            Err(PumpError::Source(refusal)) => return Err(Trouble::Ends(Step::Fail(refusal))),
        }
        Ok(())
    }

    /// The response's direction.
    fn receive(
        &mut self,
        client: &mut Client,
        cx: &mut Cx,
        budget: &mut usize,
        moved: &mut Moved,
    ) -> Result<Option<Step>, Trouble> {
        while matches!(self.receiving, Receiving::Head) {
            match self.read_head(client, cx) {
                HeadRead::Wait => return Ok(None),
                HeadRead::Lost => return Err(Trouble::Lost),
                HeadRead::Interim => {
                    let sent = cx.reactor.send(&client.side.io, client.side.out.unread());
                    let Ok(sent) = sent else { return Err(Trouble::Ends(Step::Over(End::ClientGone))) };
                    client.side.out.consume(sent);
                    client.bytes_out += sent as u64;
                }
                HeadRead::Upgraded => return Ok(Some(Step::Upgrade)),
                HeadRead::Refused(refusal) => return Err(Trouble::Ends(Step::Fail(refusal))),
                HeadRead::Body => {}
            }
        }
        let Receiving::Body { flow, upstream_keeps, client_keeps } = &mut self.receiving else {
            return Ok(None);
        };
        let Some(io) = self.dial.io() else { return Ok(None) };
        let mut source = FlowEnd { io, buf: &mut self.inbuf };
        let mut sink = FlowEnd { io: &client.side.io, buf: &mut client.side.out };
        let mut here = Moved::default();
        let result = flow.pump(&mut cx.reactor, &mut cx.buffers, &mut source, &mut sink, budget, &mut here);
        client.bytes_out += here.sent;
        moved.sent += here.sent;
        moved.received += here.received;
        match result {
            Ok(Pumped::Done) => {
                let whole = matches!(self.sending, Sending::Sent);
                self.reusable = *upstream_keeps && whole && self.inbuf.is_empty();
                Ok(Some(Step::Finished { keep: *client_keeps && whole }))
            }
            Ok(_) => Ok(None),
            Err(PumpError::SinkLost(_)) => Err(Trouble::Ends(Step::Over(End::ClientGone))),
            Err(PumpError::Source(_) | PumpError::SourceLost(_)) => {
                Err(Trouble::Ends(Step::Over(End::UpstreamCut)))
            }
        }
    }

    /// Reads until the head is whole and writes the client's.
    fn read_head(&mut self, client: &mut Client, cx: &mut Cx) -> HeadRead {
        loop {
            if !self.inbuf.is_empty() && RESPONSE_HEAD.worth_parsing(self.inbuf.unread(), self.seen) {
                match self.understand(client, cx) {
                    HeadRead::Wait => {}
                    done => return done,
                }
            }
            let Some(io) = self.dial.io() else { return HeadRead::Wait };
            if !cx.reactor.is_readable(io) {
                return HeadRead::Wait;
            }
            cx.buffers.ensure_small(&mut self.inbuf);
            if self.inbuf.room() == 0 {
                if self.inbuf.len() >= RESPONSE_HEAD.head_bytes {
                    return HeadRead::Refused(Refusal::new(502, "the response's head is too large"));
                }
                let total = (self.inbuf.len() * 2).min(RESPONSE_HEAD.head_bytes);
                cx.buffers.grow(&mut self.inbuf, total);
            }
            match cx.reactor.recv(io, &mut self.inbuf) {
                Ok(Received::Bytes(_)) => {}
                Ok(Received::Blocked) => return HeadRead::Wait,
                Ok(Received::End) if self.inbuf.is_empty() && self.interim == 0 => return HeadRead::Lost,
                Err(_) if self.inbuf.is_empty() && self.interim == 0 => return HeadRead::Lost,
                Ok(Received::End) | Err(_) => {
                    return HeadRead::Refused(Refusal::new(502, "the response broke off within its head"));
                }
            }
        }
    }

    /// Looks for a head in what was read.
    fn understand(&mut self, client: &mut Client, cx: &mut Cx) -> HeadRead {
        let inbuf = std::mem::take(&mut self.inbuf);
        let mut storage = HeaderStorage::new();
        let parsed = parse_response_head(inbuf.unread(), self.asked, &RESPONSE_HEAD, &mut storage);
        let (read, used) = match parsed {
            Ok(Parsed::Partial) => (HeadRead::Wait, 0),
            Err(refusal) => (HeadRead::Refused(refusal), 0),
            Ok(Parsed::Complete(head)) => (self.head_is_whole(&head, client, cx), head.len),
        };
        self.inbuf = inbuf;
        self.inbuf.consume(used);
        self.seen = if used == 0 { self.inbuf.len() } else { 0 };
        read
    }

    fn head_is_whole(&mut self, head: &ResponseHead<'_, '_>, client: &mut Client, cx: &mut Cx) -> HeadRead {
        let version = client.request.version;
        if head.is_interim() {
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return HeadRead::Refused(Refusal::new(502, "the endpoint sent too many interim responses"));
            }
            if version == handover_http1::Version::Http10 {
                return HeadRead::Interim;
            }
        }
        if matches!(self.sending, Sending::Sent) {
            // It will not be sent again.
            cx.buffers.release(&mut self.out);
        }
        let Some(plan) = self.dial.plan() else { return HeadRead::Wait };
        let keep_alive = client.may_keep(cx) && matches!(self.sending, Sending::Sent);
        cx.buffers.ensure_small(&mut client.side.out);
        let out = client.side.out.tail();
        let to = ToClient { version, keep_alive };
        let outgoing = write_response_head(out, head, &plan.response_rules, to, cx.clock.date());
        if head.is_interim() {
            return HeadRead::Interim;
        }
        client.request.status = head.status;
        if head.is_upgrade() {
            return HeadRead::Upgraded;
        }
        self.receiving = Receiving::Body {
            flow: Flow::new(BodyReader::response(head.body), head.body, outgoing.body),
            upstream_keeps: head.keep_alive && head.body != BodyKind::UntilClose,
            client_keeps: outgoing.keep_alive,
        };
        HeadRead::Body
    }

    fn response_has_begun(&self) -> bool {
        matches!(self.receiving, Receiving::Body { .. })
    }

    fn present_stage(&self) -> Stage {
        match (&self.receiving, &self.sending) {
            (Receiving::Body { .. }, _) => Stage::Body,
            (Receiving::Head, Sending::Sent | Sending::Stopped) => Stage::AwaitHead,
            (Receiving::Head, _) => Stage::SendBody,
        }
    }

    /// Notes what is waited for now; the time limit begins anew if that changed or anything moved.
    fn enter(&mut self, stage: Stage, moved: bool, client: &Client, cx: &Cx) {
        if stage == Stage::Connect {
            (self.stage, self.until) = (stage, self.dial.until());
            return;
        }
        if stage == self.stage && !moved && self.until != 0 {
            return;
        }
        self.stage = stage;
        let Some(plan) = self.dial.plan() else { return };
        let limit = match stage {
            Stage::Connect | Stage::AwaitHead => plan.response,
            Stage::SendBody | Stage::Body => {
                client.plan().map(|listener| listener.body).unwrap_or(plan.response)
            }
        };
        self.until = match self.full_sink(client) {
            Some(_) => self.patience.begin(cx.clock.tick(), limit),
            None => cx.clock.after(limit),
        };
    }

    /// The socket that takes nothing more now, if that is what a body waits for, and not its source.
    fn full_sink<'a>(&'a self, client: &'a Client) -> Option<&'a Io> {
        match self.stage {
            Stage::SendBody if !self.out.is_empty() || !client.side.inbuf.is_empty() => self.dial.io(),
            Stage::Body if !client.side.out.is_empty() || !self.inbuf.is_empty() => Some(&client.side.io),
            _ => None,
        }
    }

    /// The time limit has passed, or it is time to look: when to look again if the one that a body goes to takes some of it.
    fn is_taken_slowly(&mut self, client: &Client, cx: &Cx) -> Option<u64> {
        let limit = client.plan()?.body;
        let mut patience = self.patience;
        let next = patience.look(self.full_sink(client)?, &cx.reactor, cx.clock.tick(), limit);
        self.patience = patience;
        next
    }

    /// The time limit of the present stage has passed.
    pub(crate) fn expire(&mut self, client: &Client, cx: &mut Cx) -> Step {
        let from_endpoint = |cx: &Cx, proxy: &Self| {
            if let Some(cells) = proxy.dial.cells(cx) {
                cells.timeouts.add(1);
            }
        };
        if let Some(next) = self.is_taken_slowly(client, cx) {
            self.until = next;
            return Step::Wait;
        }
        match self.stage {
            Stage::Connect => {
                if !self.dial.is_waiting() {
                    from_endpoint(cx, self);
                    self.dial.failed(cx);
                    self.connect_timed_out = true;
                }
                self.until = 0;
                Step::Next
            }
            Stage::SendBody if self.full_sink(client).is_none() => {
                Step::Fail(Refusal::new(408, "the request's body did not come in time"))
            }
            Stage::SendBody => {
                from_endpoint(cx, self);
                Step::Fail(Refusal::new(504, "the endpoint did not take the request in time"))
            }
            Stage::AwaitHead => {
                from_endpoint(cx, self);
                Step::Fail(Refusal::new(504, "the endpoint did not answer in time"))
            }
            Stage::Body if self.full_sink(client).is_none() => {
                from_endpoint(cx, self);
                Step::Over(End::UpstreamCut)
            }
            Stage::Body => Step::Over(End::BodyLimit),
        }
    }

    /// The request is over: its connection goes to the pool if it may, and everything that it holds is given back.
    pub(crate) fn close(mut self, status: u16, cx: &mut Cx) {
        if let Some(cells) = self.dial.cells(cx) {
            cells.active.sub(1);
            if let Some(cell) = cells.responses.get(usize::from(status / 100)) {
                cell.add(1);
            }
        }
        cx.buffers.release(&mut self.inbuf);
        cx.buffers.release(&mut self.out);
        if self.reusable {
            self.dial.keep(cx);
        } else {
            self.dial.hang_up(cx);
        }
    }

    /// After 101: the way and the endpoint's side, for a tunnel.
    pub(crate) fn into_parts(self) -> (Dial, Buf, Buf) {
        (self.dial, self.inbuf, self.out)
    }

    /// The endpoint that was chosen last.
    pub(crate) fn endpoint(&self) -> Option<Arc<EndpointPlan>> {
        self.dial.endpoint().map(|endpoint| Arc::clone(&endpoint.plan))
    }

    /// Name of the endpoint, for the log.
    pub(crate) fn endpoint_label(&self) -> Option<&str> {
        self.dial.endpoint().map(|endpoint| &*endpoint.plan.label)
    }
}

/// What a look for the response's head brought.
enum HeadRead {
    Wait,
    Lost,
    Interim,
    Upgraded,
    Refused(Refusal),
    Body,
}
