//! Requests that are answered here: fixed responses, redirects, files, metrics, errors.
//!
//! The head, and a short body, stand in the client's output buffer from the beginning; what is longer follows from where it lies. Meanwhile the
//! request's own body, if it is short, is read and forgotten, so that the connection can go on; a long one ends the
//! connection instead.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use handover_http1::{
    BodyKind, BodyReader, CONTINUE, Delivery, Refusal, RequestHead, write_own_head, write_plain,
};

use crate::config::{Piece, Redirect};
use crate::files::{self, Served, on_this_host};
use crate::generation::{Action, Root};
use crate::routes::Match;

use super::begin::has_no_body;
use super::client::Client;
use super::context::{Cx, Local};
use super::flow::{End as FlowEnd, Pumped, discard};
use super::hold::COME_AGAIN;
use super::http::Step;
use super::patience::Patience;
use super::{End, TURN_BYTES};

/// Request bodies longer than this are not read to the end when nobody wants them: the connection closes.
const DISCARD_BYTES: u64 = 256 * 1024;
/// Bodies up to this size go into the output buffer, behind the head.
const COPIED_BODY_BYTES: usize = 8 * 1024;
/// Bytes of a file sent with one system call.
const FILE_STEP_BYTES: u64 = 256 * 1024;

/// One answer on its way.
#[derive(Debug)]
pub(crate) struct Answer {
    body: Body,
    /// What is left of the request's body, to be read and forgotten.
    rest: Option<BodyReader>,
    discard_left: u64,
    /// The request's body was read, or there was none.
    read: bool,
    keep: bool,
    end: End,
    until: u64,
    /// The client's socket is full.
    blocked: bool,
    patience: Patience,
}

/// What follows the output buffer.
#[derive(Debug)]
enum Body {
    Nothing,
    /// The body of this route's fixed response, from this position.
    Fixed {
        local: Rc<Local>,
        route: usize,
        sent: usize,
    },
    Owned {
        bytes: Vec<u8>,
        sent: usize,
    },
    File {
        file: OwnedFd,
        offset: u64,
        end: u64,
    },
}

impl Answer {
    /// An error in the middle of things. `keep`: the connection can go on; `read`: nothing of the request is still to come.
    pub(crate) fn plain(
        client: &mut Client,
        why: Refusal,
        keep: bool,
        read: bool,
        end: End,
        cx: &mut Cx,
    ) -> Self {
        cx.buffers.ensure_small(&mut client.side.out);
        let delivery = client.delivery(keep);
        let out = client.side.out.tail();
        if why.status == 503 {
            write_come_again(out, why.reason, COME_AGAIN, delivery, cx);
        } else {
            write_plain(out, why.status, why.reason, delivery, cx.clock.date());
        }
        client.request.status = why.status;
        Self::new(client, Body::Nothing, None, read, keep, end, cx)
    }

    /// An error instead of what was asked for.
    pub(crate) fn error(
        client: &mut Client,
        head: &RequestHead<'_, '_>,
        body: BodyReader,
        status: u16,
        reason: &str,
        cx: &mut Cx,
    ) -> Self {
        let start = Start::new(client, head, body, cx);
        client.request.status = status;
        write_plain(client.side.out.tail(), status, reason, start.delivery, cx.clock.date());
        start.with(client, Body::Nothing, cx)
    }

    /// 503: after so many seconds it is worth to come again.
    #[cold]
    pub(super) fn come_again(
        client: &mut Client,
        head: &RequestHead<'_, '_>,
        body: BodyReader,
        seconds: u64,
        why: &str,
        cx: &mut Cx,
    ) -> Self {
        let start = Start::new(client, head, body, cx);
        client.request.status = 503;
        write_come_again(client.side.out.tail(), why, seconds, start.delivery, cx);
        start.with(client, Body::Nothing, cx)
    }

    /// Who asks whether all is well is told so by us, while those who know cannot answer.
    #[cold]
    pub(super) fn health(
        client: &mut Client,
        head: &RequestHead<'_, '_>,
        body: BodyReader,
        cx: &mut Cx,
    ) -> Self {
        let start = Start::new(client, head, body, cx);
        client.request.status = 200;
        let headers: [(&str, &[u8]); 2] =
            [("Content-Type", b"text/plain; charset=utf-8"), ("Cache-Control", b"no-store")];
        start.write(client, 200, b"paused\n", &headers, cx)
    }

    /// 405, with the methods that would do.
    pub(crate) fn not_allowed(
        client: &mut Client,
        head: &RequestHead<'_, '_>,
        body: BodyReader,
        allowed: &str,
        cx: &mut Cx,
    ) -> Self {
        let start = Start::new(client, head, body, cx);
        client.request.status = 405;
        let text = b"this method is not allowed here\n";
        let headers: [(&str, &[u8]); 2] = [("Allow", allowed.as_bytes()), ("Content-Type", b"text/plain")];
        start.write(client, 405, text, &headers, cx)
    }

    /// Metrics of the data plane, and the supervisor's own.
    pub(crate) fn metrics(
        client: &mut Client,
        head: &RequestHead<'_, '_>,
        body: BodyReader,
        cx: &mut Cx,
    ) -> Self {
        if !matches!(head.method, "GET" | "HEAD") {
            return Self::not_allowed(client, head, body, "GET, HEAD", cx);
        }
        let mut text = cx.metrics.encode();
        text.push_str(&cx.facts.load());
        text.push_str("# EOF\n");
        let start = Start::new(client, head, body, cx);
        client.request.status = 200;
        let kind = b"application/openmetrics-text; version=1.0.0; charset=utf-8";
        let length = Some(text.len() as u64);
        let out = client.side.out.tail();
        write_own_head(out, 200, length, &[("Content-Type", kind)], start.delivery, cx.clock.date());
        let body =
            if head.is_head() { Body::Nothing } else { Body::Owned { bytes: text.into_bytes(), sent: 0 } };
        start.with(client, body, cx)
    }

    /// What a route says.
    pub(crate) fn action(
        client: &mut Client,
        head: &RequestHead<'_, '_>,
        body: BodyReader,
        action: &Action,
        found: Match,
        cx: &mut Cx,
    ) -> Self {
        let local = Rc::clone(&client.request.local);
        match action {
            Action::Fixed { status, prepared } => {
                let start = Start::new(client, head, body, cx);
                client.request.status = *status;
                let out = client.side.out.tail();
                if head.is_head() || prepared.body().len() <= COPIED_BODY_BYTES {
                    prepared.write(out, start.delivery, cx.clock.date());
                    return start.with(client, Body::Nothing, cx);
                }
                prepared.write_head(out, start.delivery, cx.clock.date());
                let fixed = Body::Fixed { local, route: found.route as usize, sent: 0 };
                start.with(client, fixed, cx)
            }
            Action::Redirect(redirect) => {
                let Some(location) = location(redirect, head) else {
                    return Self::error(client, head, body, 400, "this redirect needs a Host", cx);
                };
                let start = Start::new(client, head, body, cx);
                client.request.status = redirect.status;
                start.write(client, redirect.status, b"", &[("Location", location.as_bytes())], cx)
            }
            Action::Directory(root) => Self::directory(client, head, body, root, found, cx),
            Action::Service(_) => {
                Self::error(client, head, body, 500, "a service cannot be answered here", cx)
            }
        }
    }

    fn directory(
        client: &mut Client,
        head: &RequestHead<'_, '_>,
        body: BodyReader,
        root: &Root,
        found: Match,
        cx: &mut Cx,
    ) -> Self {
        let served = files::serve(root, head, found.prefix as usize);
        let start = Start::new(client, head, body, cx);
        client.request.status = served.status();
        match served {
            Served::Plain { status, reason } => {
                let out = client.side.out.tail();
                write_plain(out, status, reason, start.delivery, cx.clock.date());
                start.with(client, Body::Nothing, cx)
            }
            Served::NotAllowed => start.write(
                client,
                405,
                b"only GET and HEAD are allowed here\n",
                &[("Allow", b"GET, HEAD")],
                cx,
            ),
            Served::Redirect { location } => {
                start.write(client, 301, b"", &[("Location", location.as_bytes())], cx)
            }
            Served::File { status, file, offset, end, headers } => {
                let further = if status < 400 { &*root.plan.headers } else { &[] };
                let extra = further.iter().map(|field| (&*field.name, field.value.as_bytes()));
                let all: Vec<(&str, &[u8])> =
                    headers.iter().map(|(name, value)| (*name, value.as_bytes())).chain(extra).collect();
                let length = (status != 304).then_some(end - offset);
                let out = client.side.out.tail();
                write_own_head(out, status, length, &all, start.delivery, cx.clock.date());
                let body = match file {
                    Some(file) if !head.is_head() && end > offset => Body::File { file, offset, end },
                    _ => Body::Nothing,
                };
                start.with(client, body, cx)
            }
        }
    }

    fn new(
        client: &Client,
        body: Body,
        rest: Option<BodyReader>,
        read: bool,
        keep: bool,
        end: End,
        cx: &Cx,
    ) -> Self {
        let until = client.plan().map_or(0, |plan| cx.clock.after(plan.body));
        let patience = Patience::default();
        Self { body, rest, discard_left: DISCARD_BYTES, read, keep, end, until, blocked: false, patience }
    }

    /// When the client must have taken some of it.
    pub(crate) fn until(&self) -> u64 {
        self.until
    }

    /// Nothing of the request is still to come.
    pub(crate) fn request_is_read(&self) -> bool {
        self.read
    }

    /// As what the connection ends if this is its last answer.
    pub(crate) fn end(&self) -> End {
        self.end
    }

    /// Does everything that can be done now.
    pub(crate) fn run(&mut self, client: &mut Client, cx: &mut Cx) -> Step {
        if cx.reactor.is_broken(&client.side.io) {
            return Step::Over(End::ClientGone);
        }
        let sent_before = client.bytes_out;
        let sent = match self.send(client, cx) {
            Ok(Sent::Everything) => true,
            Ok(Sent::Blocked) => false,
            Ok(Sent::Enough) => {
                self.blocked = false;
                self.progress(client, cx);
                return Step::Again;
            }
            Err(step) => return step,
        };
        self.blocked = !sent;
        if let Some(reader) = &mut self.rest {
            let mut source = FlowEnd { io: &client.side.io, buf: &mut client.side.inbuf };
            match discard(reader, &mut cx.reactor, &mut cx.buffers, &mut source, &mut self.discard_left) {
                Ok(Pumped::Done) => {
                    self.rest = None;
                    self.read = true;
                }
                Ok(Pumped::Budget) | Err(_) => {
                    // Too long, or not to be understood: the answer is the last.
                    self.rest = None;
                    self.keep = false;
                }
                Ok(Pumped::WaitSource | Pumped::WaitSink) => {}
            }
        }
        if client.bytes_out != sent_before {
            self.progress(client, cx);
        }
        if sent && self.rest.is_none() { Step::Finished { keep: self.keep } } else { Step::Wait }
    }

    fn progress(&mut self, client: &Client, cx: &Cx) {
        let Some(plan) = client.plan() else { return };
        self.until = if self.blocked {
            self.patience.begin(cx.clock.tick(), plan.body)
        } else {
            cx.clock.after(plan.body)
        };
    }

    /// Its time limit has passed, or it is time to look whether the client takes anything.
    pub(crate) fn expire(&mut self, client: &Client, cx: &Cx) -> Step {
        let limit = client.plan().map(|plan| plan.body).unwrap_or_default();
        if self.blocked
            && let Some(next) = self.patience.look(&client.side.io, &cx.reactor, cx.clock.tick(), limit)
        {
            self.until = next;
            return Step::Wait;
        }
        Step::Over(End::BodyLimit)
    }

    fn send(&mut self, client: &mut Client, cx: &mut Cx) -> Result<Sent, Step> {
        let gone = |_| Step::Over(End::ClientGone);
        let out = &mut client.side.out;
        let io = &client.side.io;
        let mut budget = TURN_BYTES as u64;
        loop {
            let (body, done): (&[u8], usize) = match &self.body {
                Body::Nothing | Body::File { .. } => (&[], 0),
                Body::Owned { bytes, sent } => (bytes.get(*sent..).unwrap_or_default(), *sent),
                Body::Fixed { local, route, sent } => (fixed_body(local, *route, *sent), *sent),
            };
            let count = cx.reactor.send_two(io, out.unread(), body).map_err(gone)?;
            client.bytes_out += count as u64;
            let of_head = count.min(out.len());
            let of_body = count - of_head;
            let body_left = body.len() - of_body;
            out.consume(of_head);
            cx.buffers.release_if_empty(out);
            match &mut self.body {
                Body::Owned { sent, .. } | Body::Fixed { sent, .. } => *sent = done + of_body,
                Body::Nothing | Body::File { .. } => {}
            }
            if !out.is_empty() || body_left > 0 {
                return Ok(Sent::Blocked);
            }
            let Body::File { file, offset, end } = &mut self.body else { return Ok(Sent::Everything) };
            let left = end.saturating_sub(*offset);
            if left == 0 {
                return Ok(Sent::Everything);
            }
            if budget == 0 {
                return Ok(Sent::Enough);
            }
            let step = usize::try_from(left.min(FILE_STEP_BYTES)).unwrap_or(usize::MAX);
            let count = cx.reactor.send_file(io, &*file, offset, step).map_err(gone)?;
            client.bytes_out += count as u64;
            budget = budget.saturating_sub(count as u64);
            if count == 0 {
                if cx.reactor.is_writable(io) {
                    // The file has become shorter than it was: the length that was promised cannot be kept.
                    return Err(Step::Over(End::UpstreamCut));
                }
                return Ok(Sent::Blocked);
            }
        }
    }
}

enum Sent {
    Everything,
    Blocked,
    Enough,
}

/// What every answer to a head begins with: what becomes of the connection, and of the request's body.
struct Start {
    delivery: Delivery,
    rest: Option<BodyReader>,
    read: bool,
}

impl Start {
    fn new(client: &mut Client, head: &RequestHead<'_, '_>, body: BodyReader, cx: &mut Cx) -> Self {
        cx.buffers.ensure_small(&mut client.side.out);
        let none = has_no_body(head);
        let short = match head.body {
            BodyKind::Length(length) => length <= DISCARD_BYTES,
            _ => !head.expect_continue,
        };
        if !none && short && head.expect_continue {
            client.side.out.tail().extend_from_slice(CONTINUE);
        }
        let keep = client.may_keep(cx) && (none || short);
        let rest = (!none && short).then_some(body);
        Self { delivery: client.delivery(keep), rest, read: none }
    }

    fn with(self, client: &Client, body: Body, cx: &Cx) -> Answer {
        Answer::new(client, body, self.rest, self.read, self.delivery.keep_alive, End::Done, cx)
    }

    /// A short answer with header fields.
    fn write(
        self,
        client: &mut Client,
        status: u16,
        text: &[u8],
        headers: &[(&str, &[u8])],
        cx: &Cx,
    ) -> Answer {
        let out = client.side.out.tail();
        write_own_head(out, status, Some(text.len() as u64), headers, self.delivery, cx.clock.date());
        if !self.delivery.head_only {
            out.extend_from_slice(text);
        }
        self.with(client, Body::Nothing, cx)
    }
}

fn write_come_again(out: &mut Vec<u8>, why: &str, seconds: u64, delivery: Delivery, cx: &Cx) {
    let text = format!("{why}\n");
    let seconds = seconds.to_string();
    let headers: [(&str, &[u8]); 2] =
        [("Content-Type", b"text/plain; charset=utf-8"), ("Retry-After", seconds.as_bytes())];
    write_own_head(out, 503, Some(text.len() as u64), &headers, delivery, cx.clock.date());
    if !delivery.head_only {
        out.extend_from_slice(text.as_bytes());
    }
}

fn fixed_body(local: &Local, route: usize, sent: usize) -> &[u8] {
    match local.generation.actions.get(route) {
        Some(Action::Fixed { prepared, .. }) => prepared.body().get(sent..).unwrap_or_default(),
        _ => &[],
    }
}

/// Where a redirect leads this request; `None` if that takes the request's host and it has none: then the beginning of
/// the path would be taken for it.
fn location(redirect: &Redirect, head: &RequestHead<'_, '_>) -> Option<String> {
    let mut location = String::new();
    for piece in &redirect.to {
        match piece {
            Piece::Literal(text) => location.push_str(text),
            Piece::Host => {
                let name = head.host.map(|host| host.name).filter(|name| !name.is_empty())?;
                location.push_str(name);
            }
            Piece::Path => location.push_str(head.path),
            Piece::Query => {
                if let Some(query) = head.query {
                    location.push('?');
                    location.push_str(query);
                }
            }
        }
    }
    // "/{query}{path}" of a request without query.
    Some(if location.starts_with("//") { on_this_host(&location).to_owned() } else { location })
}
