//! From the bytes of a request's head to what is done about it.

use std::rc::Rc;

use handover_http1::{BodyKind, BodyReader, HeaderStorage, Parsed, Refusal, RequestHead, parse_request_head};

use crate::generation::{Action, ListenerKind, ListenerPlan};
use crate::routes::Lookup;

use super::answer::Answer;
use super::client::{Client, NO_ROUTE};
use super::context::{Cx, Local};
use super::hold::{Gate, Path};
use super::http::{HttpConn, Phase};
use super::proxy::Proxy;

impl HttpConn {
    /// Reads a head, if there is a whole one, and begins the request.
    pub(super) fn understand(&mut self, input: &[u8], cx: &mut Cx) -> Understood {
        cx.refresh();
        let Some((local, position)) =
            cx.listener(self.client.listener).map(|listener| (Rc::clone(&listener.local), listener.position))
        else {
            return Understood::Nowhere;
        };
        let Some(plan) = local.generation.listeners.get(position) else { return Understood::Nowhere };
        let mut storage = HeaderStorage::new();
        let parsed = parse_request_head(input, &plan.head, &mut storage);
        let request = &mut self.client.request;
        request.local = Rc::clone(&local);
        request.position = position;
        request.status = 0;
        let head = match parsed {
            Ok(Parsed::Partial) => return Understood::Partial,
            Err(refusal) => return Understood::Refused(refusal),
            Ok(Parsed::Complete(head)) => head,
        };
        request.version = head.version;
        request.head_only = head.is_head();
        request.keep_alive = head.keep_alive;
        if self.client.bytes_in == 0 && !request.waits.waited {
            // A pipelined request: it begins now.
            request.started_us = cx.clock.now_us();
        }
        if cx.log.is_on() {
            cx.log.begin(&mut request.line, self.client.peer, &head, &cx.clock, &mut cx.buffers);
        }
        match BodyReader::request(head.body, plan.body_bytes) {
            Ok(body) => self.begin(&head, body, input, &local, plan, cx),
            Err(refusal) => Understood::Refused(refusal),
        }
    }

    fn begin(
        &mut self,
        head: &RequestHead<'_, '_>,
        body: BodyReader,
        input: &[u8],
        local: &Rc<Local>,
        plan: &ListenerPlan,
        cx: &mut Cx,
    ) -> Understood {
        let client = &mut self.client;
        let phase = |answer| Understood::Begun { used: head.len, phase: Phase::Answer(answer) };
        if is_for_another(head, client, plan) {
            let reason = "this connection was made for another name: use one of its own";
            return phase(Answer::error(client, head, body, 421, reason, cx));
        }
        let answer = match &plan.kind {
            ListenerKind::Http(table) => {
                let host = head.host.map(|host| host.raw.as_bytes()).unwrap_or_default();
                let lookup = table.lookup(host, head.path.as_bytes(), head.method.as_bytes());
                let service = client.find_route(&lookup, local);
                let request = &mut client.request;
                let path = Path { local, listener: request.position, route: request.route(), service };
                match cx.gate(path, &mut request.waits) {
                    Gate::Open => {}
                    Gate::Held(until) => return Understood::Held { until },
                    Gate::Health => return phase(Answer::health(client, head, body, cx)),
                    Gate::Refused { seconds, why, last } => {
                        client.retired |= last;
                        return phase(Answer::come_again(client, head, body, seconds, why, cx));
                    }
                }
                match lookup {
                    Lookup::Found(found) => match local.generation.actions.get(found.route as usize) {
                        Some(Action::Service(service)) => {
                            let rest = input.get(head.len..).unwrap_or_default();
                            let (proxy, used) = Proxy::start(local, *service, head, body, rest, client, cx);
                            return Understood::Begun { used: head.len + used, phase: Phase::Proxy(proxy) };
                        }
                        Some(action) => Answer::action(client, head, body, action, found, cx),
                        None => Answer::error(client, head, body, 404, "there is nothing here", cx),
                    },
                    Lookup::MethodNotAllowed => {
                        let allowed = table.allowed(host, head.path.as_bytes());
                        Answer::not_allowed(client, head, body, &allowed, cx)
                    }
                    Lookup::NotFound => Answer::error(client, head, body, 404, "there is nothing here", cx),
                }
            }
            ListenerKind::Metrics(path) if **path == *head.path => Answer::metrics(client, head, body, cx),
            ListenerKind::Metrics(_) | ListenerKind::Tcp(_) => {
                Answer::error(client, head, body, 404, "there is nothing here", cx)
            }
        };
        phase(answer)
    }
}

impl Client {
    /// Notes the route that was found, and says which service that leads to.
    fn find_route(&mut self, lookup: &Lookup, local: &Local) -> Option<usize> {
        let Lookup::Found(found) = lookup else {
            self.request.route = NO_ROUTE;
            return None;
        };
        self.request.route = found.route;
        match local.generation.actions.get(found.route as usize) {
            Some(Action::Service(service)) => Some(*service),
            _ => None,
        }
    }
}

/// Where clients show certificates, a connection is for the name that its handshake named, and for no other: whoever checks
/// certificates name by name must not be led past that (RFC 9110 §7.4). Elsewhere one connection may serve many names.
fn is_for_another(head: &RequestHead<'_, '_>, client: &Client, plan: &ListenerPlan) -> bool {
    let asks = plan.tls.as_ref().is_some_and(|tls| tls.asks_clients);
    let named = client.tls.as_ref().and_then(|tls| tls.sni.as_deref());
    match (asks, named, &head.host) {
        (true, Some(named), Some(host)) => {
            !host.name.trim_end_matches('.').eq_ignore_ascii_case(named.trim_end_matches('.'))
        }
        _ => false,
    }
}

/// Adds the subject of the client's certificate to a head that is written, where the listener says so. What the client sent under that
/// name is not in it any more.
pub(super) fn push_subject(head: &mut Vec<u8>, client: &Client) {
    const END: &[u8] = b"\r\n";
    let header = || client.plan()?.tls.as_ref()?.subject_header.as_deref();
    let subject = || client.tls.as_ref()?.client_subject.as_deref();
    let (Some(header), Some(subject)) = (header(), subject()) else { return };
    head.truncate(head.len().saturating_sub(END.len()));
    head.extend_from_slice(header.as_bytes());
    head.extend_from_slice(b": ");
    for byte in subject.bytes() {
        match byte {
            b' '..=b'~' => head.push(byte),
            // As RFC 4514 §2.4 lets any byte of UTF-8 be written.
            other => head.extend_from_slice(format!("\\{other:02X}").as_bytes()),
        }
    }
    head.extend_from_slice(END);
    head.extend_from_slice(END);
}

/// What a look at a request's head brought.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, and boxing it would allocate per request"
)]
pub(super) enum Understood {
    Partial,
    Refused(Refusal),
    Begun {
        used: usize,
        phase: Phase,
    },
    /// It must wait, until this tick at the latest; nothing of the input is used.
    Held {
        until: u64,
    },
    /// The listener does not exist any more.
    Nowhere,
}

/// True if nothing follows the head.
pub(super) fn has_no_body(head: &RequestHead<'_, '_>) -> bool {
    matches!(head.body, BodyKind::None | BodyKind::Length(0))
}
