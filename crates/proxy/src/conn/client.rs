//! The client's side of an HTTP connection, and what must be known of its present request.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use handover_http1::{ClientLabel, Delivery, Version};

use crate::access_log::{Ended, Line};
use crate::generation::{EndpointPlan, ListenerPlan};
use crate::reactor::ConnKey;
use handover_tls::Facts;

use super::Side;
use super::context::{Cx, Local};
use super::hold::Waits;

/// The client's side, and the request that it made.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) key: ConnKey,
    pub(crate) side: Side,
    pub(crate) label: ClientLabel,
    pub(crate) peer: Option<IpAddr>,
    /// What was agreed on, over TLS.
    pub(crate) tls: Option<Arc<Facts>>,
    pub(crate) listener: u32,
    pub(crate) request: Request,
    /// Bytes read and written that are not yet counted.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Those that are counted.
    pub(crate) counted_in: u64,
    pub(crate) counted_out: u64,
    /// When it was accepted.
    pub(crate) since_us: u64,
    /// The present response is the last one.
    pub(crate) retired: bool,
}

/// What must be known of a request until it is over.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) local: Rc<Local>,
    /// Position of the listener in that generation.
    pub(crate) position: usize,
    pub(crate) started_us: u64,
    pub(crate) version: Version,
    pub(crate) head_only: bool,
    /// The client wants to go on afterwards.
    pub(crate) keep_alive: bool,
    /// 0 until it is known.
    pub(crate) status: u16,
    pub(crate) line: Line,
    /// The endpoint that was tried in vain, if the answer is one of our own.
    pub(crate) tried: Option<Arc<EndpointPlan>>,
    /// Position of its route in that generation; [`NO_ROUTE`]: none.
    pub(crate) route: u32,
    /// Whether it was held, and for what.
    pub(crate) waits: Waits,
}

/// A request that no route is for.
pub(crate) const NO_ROUTE: u32 = u32::MAX;

impl Request {
    /// Its route, if there is one.
    pub(super) fn route(&self) -> Option<usize> {
        (self.route != NO_ROUTE).then_some(self.route as usize)
    }
}

impl Client {
    /// The listener, as the request's generation has it.
    pub(crate) fn plan(&self) -> Option<&ListenerPlan> {
        self.request.local.generation.listeners.get(self.request.position)
    }

    /// Whether another request may follow on this connection.
    pub(crate) fn may_keep(&self, cx: &Cx) -> bool {
        self.request.keep_alive
            && !self.retired
            && !cx.draining
            && cx.listener(self.listener).is_some_and(|listener| !listener.removed)
    }

    /// How a response made here goes out.
    pub(crate) fn delivery(&self, keep_alive: bool) -> Delivery {
        Delivery { version: self.request.version, keep_alive, head_only: self.request.head_only }
    }

    /// Counts and logs the request.
    pub(crate) fn finish(&mut self, endpoint: Option<&str>, cx: &mut Cx) {
        let duration_us = cx.clock.now_us().saturating_sub(self.request.started_us);
        if let Some(plan) = self.plan() {
            let cells = plan.cells.of(cx.thread);
            cells.request(self.request.status, duration_us);
            cells.bytes_in.add(self.bytes_in);
            cells.bytes_out.add(self.bytes_out);
        }
        if self.request.line.is_begun() {
            let status = self.request.status;
            let line = &mut self.request.line;
            let tried = self.request.tried.as_ref().map(|endpoint| &*endpoint.label);
            let endpoint = endpoint.or(tried);
            let ended =
                Ended { status, bytes: self.bytes_out, duration_us, endpoint, tls: self.tls.as_deref() };
            let dropped = cx.log.end(line, &ended, &mut cx.buffers);
            cx.cells().log_dropped.add(dropped);
        }
        self.request.tried = None;
        if self.request.waits.waited {
            self.request.waits = Waits::default();
        }
        self.counted_in += self.bytes_in;
        self.counted_out += self.bytes_out;
        (self.bytes_in, self.bytes_out) = (0, 0);
    }
}
