//! What a request, or a TCP connection, meets before it goes on: it may be held, be answered by us, or be refused.
//!
//! ```text
//!             ┌─ nothing in its way ─────────────────────────────────────────────▶ Open
//!   head read ┤─ it asks for health, and its service cannot answer ──────────────▶ Health
//!             ├─ paused ──room──▶ Held ──resumed, or the pause's time is over──▶ once more from the beginning
//!             │             └─no room, or nothing is held any more──▶ Refused
//!             └─ no endpoint gets anything ──▶ Held, as long as a connection may take ──▶ Refused
//!                     └─ a program that is started when somebody waits for it: that is told, and it may take longer
//! ```
//!
//! What is held has its head in the buffer, parsed and not consumed. When it goes on it is read anew, by whatever is published then: so it
//! follows reloads, and goes to another process like any connection that waits for a request. Its own time limits begin afterwards.

use std::rc::Rc;

use super::context::{Cx, Local};
use super::http::{HttpConn, Phase};
use super::{Conn, Tunnel};
use crate::access_log::Line;
use crate::clock::Ticks;
use crate::generation::ServicePlan;
use crate::reactor::Io;
use crate::traffic::{PausePlan, Ticket, WakePlan};

/// What a pause holds is looked at by itself so long (10 s) after its end, if nobody has come to it in turn.
const MARGIN_TICKS: u64 = 100;
/// Seconds after which it is worth to come again, where nobody knows better.
pub(super) const COME_AGAIN: u64 = 1;

/// What is in the way.
#[derive(Debug)]
pub(super) enum Gate {
    /// Nothing.
    Open,
    /// It is held, until this tick at the latest.
    Held(u64),
    /// It asks for health, and is answered by us.
    Health,
    /// It is answered with 503.
    Refused {
        /// After so many seconds it may come again.
        seconds: u64,
        why: &'static str,
        /// Its connection, too, is over.
        last: bool,
    },
}

/// What is known of something that waits.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    /// It has been held.
    pub(super) waited: bool,
    /// Its listener has gone, and so has the time that was left to it.
    pub(super) in_vain: bool,
    /// Its place among those that a pause holds, or that wait for a program to be started.
    ticket: Option<Ticket>,
    /// Since when it waits for an endpoint; 0: that is not what it waits for.
    since: u64,
}

/// Where something is on its way, by positions in a generation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path<'a> {
    pub(super) local: &'a Rc<Local>,
    pub(super) listener: usize,
    pub(super) route: Option<usize>,
    pub(super) service: Option<usize>,
}

impl<'a> Path<'a> {
    pub(super) fn plan(&self) -> Option<&'a ServicePlan> {
        self.local.generation.services.get(self.service?)
    }

    fn asks_for_health(&self) -> bool {
        let route = self.route.and_then(|route| self.local.generation.config.routes.get(route));
        self.service.is_some() && route.is_some_and(|route| route.health)
    }

    /// Names of the listener, the route and the service.
    pub(super) fn names(&self) -> (Option<&'a str>, Option<&'a str>, Option<&'a ServicePlan>) {
        let generation = &self.local.generation;
        let listener = generation.listeners.get(self.listener).map(|listener| &*listener.name);
        let route =
            self.route.and_then(|route| generation.config.routes.get(route)).map(|route| &*route.name);
        (listener, route, self.plan())
    }
}

/// Ticks for which an endpoint is waited for.
pub(super) fn patience(plan: &ServicePlan, wake: Option<&WakePlan>) -> u64 {
    // One more, because the present tick has begun already: never early.
    u64::from(plan.connect.0) + wake.map_or(0, |wake| u64::from(wake.limit.0)) + 1
}

impl Cx {
    /// What is in the way at present. While nothing is paused and every service has endpoints, this is two comparisons.
    #[inline]
    pub(super) fn gate(&mut self, path: Path<'_>, waits: &mut Waits) -> Gate {
        let reachable =
            |service: usize| path.local.balancers.get(service).is_some_and(|known| known.len() > 0);
        if self.local().view.pauses.is_none() && !waits.waited && path.service.is_none_or(reachable) {
            return Gate::Open;
        }
        match self.look_at_gate(path, waits) {
            Gate::Held(_) if waits.in_vain => {
                let why = "this had to wait, and its listener has gone meanwhile";
                Gate::Refused { seconds: COME_AGAIN, why, last: true }
            }
            gate => gate,
        }
    }

    #[cold]
    fn look_at_gate(&mut self, path: Path<'_>, waits: &mut Waits) -> Gate {
        if self.closing {
            return Gate::Refused { seconds: COME_AGAIN, why: "the server is stopping", last: true };
        }

        match self.pause_of(path) {
            Some(_) if path.asks_for_health() => return Gate::Health,
            Some(pause) if pause.refuse => {
                let why = "the server is stopping, or cannot serve this at present";
                return Gate::Refused { seconds: pause.retry_after(), why, last: true };
            }
            // Nobody is held while the server goes.
            Some(pause) if !self.draining => {
                waits.since = 0;
                waits.ticket = pause.ticket(waits.ticket.take());
                if waits.ticket.is_some() {
                    return Gate::Held(self.clock.after(Ticks::from(pause.left())) + MARGIN_TICKS);
                }
                self.cells().held_refused.add(1);
                let why = "this is paused, and too many requests are held already";
                return Gate::Refused { seconds: pause.retry_after(), why, last: false };
            }
            Some(_) | None => {}
        }
        let place = waits.ticket.take();
        let Some(plan) = path.plan() else { return Gate::Open };
        let (local, service) = self.present(path.local, path.service.unwrap_or(usize::MAX));
        if local.balancers.get(service).is_some_and(|balancer| balancer.len() > 0) {
            waits.since = 0;
            return Gate::Open;
        }
        if path.asks_for_health() {
            return Gate::Health;
        }
        if waits.since == 0 {
            waits.since = self.clock.tick();
        }
        let wake = local.view.wake(service);
        let until = waits.since + patience(plan, wake);
        if self.draining || self.clock.tick() >= until {
            let why = "no endpoint of this service can be reached";
            return Gate::Refused { seconds: COME_AGAIN, why, last: false };
        }
        if let Some(wake) = wake {
            waits.ticket = wake.ticket(place);
            if waits.ticket.is_none() {
                self.cells().held_refused.add(1);
                let why = "this is being started, and too many requests wait for it already";
                return Gate::Refused { seconds: COME_AGAIN, why, last: false };
            }
            wake.tell();
        }
        Gate::Held(until)
    }

    /// The pause that is in the way, if one is.
    pub(super) fn pause_of(&self, path: Path<'_>) -> Option<&PausePlan> {
        let view = &self.local().view;
        let pauses = view.pauses.as_ref()?;
        let found = if std::sync::Arc::ptr_eq(&view.generation, &path.local.generation) {
            pauses.find(Some(path.listener), path.route, path.service)
        } else {
            let (listener, route, service) = path.names();
            let service = service.map(|plan| (&*plan.name, plan.program.as_deref()));
            pauses.find_by_name(listener, route, service)
        };
        found.map(|pause| &**pause)
    }

    /// The endpoints that a service has now, for what began with another view: always if only the traffic is another, and if it leads
    /// to a program. Requests keep the endpoints of the generation that they began with.
    pub(super) fn present(&self, local: &Rc<Local>, service: usize) -> (Rc<Local>, usize) {
        let own = || (Rc::clone(local), service);
        let present = self.local();
        if Rc::ptr_eq(local, present) {
            return own();
        }
        if std::sync::Arc::ptr_eq(&local.generation, &present.generation) {
            return (Rc::clone(present), service);
        }
        let Some(plan) = local.generation.services.get(service).filter(|plan| plan.program.is_some()) else {
            return own();
        };
        let services = &present.generation.services;
        let found =
            services.iter().position(|other| other.name == plan.name && other.program == plan.program);
        found.map_or_else(own, |found| (Rc::clone(present), found))
    }

    /// True if whoever it is will not read an answer: it has closed its connection, as far as anybody can tell.
    pub(super) fn has_left(&self, io: &Io) -> bool {
        self.reactor.is_broken(io) || self.reactor.has_finished(io)
    }

    /// Something is held from now on. `first`: it was not before.
    fn hold(&mut self, came_us: u64, key: crate::reactor::ConnKey, first: bool) {
        if self.holding.enter(came_us, key) {
            self.cells().held.add(1);
        }
        if first {
            self.cells().held_total.add(1);
        }
    }

    /// It goes on, or is gone.
    fn unhold(&mut self, came_us: u64, key: crate::reactor::ConnKey) {
        if self.holding.leave(came_us, key) {
            self.cells().held.sub(1);
        }
    }
}

impl HttpConn {
    /// The request waits, its head in the buffer.
    #[cold]
    pub(super) fn hold(&mut self, until: u64, cx: &mut Cx) {
        let request = &mut self.client.request;
        let first = !std::mem::replace(&mut request.waits.waited, true);
        // The line begins anew, and buffers are for those that are served: ten thousand may be held.
        cx.buffers.release(request.line.buf());
        request.line = Line::none();
        cx.buffers.shrink(&mut self.client.side.inbuf);
        cx.hold(request.started_us, self.client.key, first);
        self.phase = Phase::Held { until };
    }

    /// It does not wait any more: its head is looked at again. Where it has a place among those held, it keeps that until then.
    #[cold]
    pub(super) fn unhold(&mut self, cx: &mut Cx) {
        if !matches!(self.phase, Phase::Held { .. }) {
            return;
        }
        cx.unhold(self.client.request.started_us, self.client.key);
        cx.buffers.unshrink(&mut self.client.side.inbuf);
        self.phase = Phase::Head { seen: 0 };
        let header = self.client.plan().map(|plan| plan.header).unwrap_or_default();
        self.phase_limit = cx.clock.after(header);
    }
}

impl Tunnel {
    /// Before an endpoint is dialed: when it must be looked at again, if it must wait; an error if there is nothing to wait for.
    #[cold]
    pub(super) fn meet_gate(&mut self, cx: &mut Cx) -> Result<Option<u64>, ()> {
        let local = Rc::clone(&self.local);
        let service = Some(self.dial.place().1);
        let path = Path { local: &local, listener: self.position, route: None, service };
        let until = match (cx.gate(path, &mut self.waits), cx.pause_of(path)) {
            (Gate::Open, _) => {
                self.unhold(cx);
                return Ok(None);
            }
            (Gate::Held(until), _) => until,
            // Over the limit are those that were accepted before the listener rested: they are few.
            (Gate::Refused { last: false, .. }, Some(pause)) if !cx.draining => {
                cx.clock.after(Ticks::from(pause.left())) + MARGIN_TICKS
            }
            (Gate::Refused { .. } | Gate::Health, _) => return Err(()),
        };
        let first = !std::mem::replace(&mut self.waits.waited, true);
        cx.hold(self.since_us, self.key, first);
        self.held = true;
        Ok(Some(until))
    }

    /// It does not wait any more.
    pub(super) fn unhold(&mut self, cx: &mut Cx) {
        if std::mem::take(&mut self.held) {
            cx.unhold(self.since_us, self.key);
        }
    }
}

impl Conn {
    /// Something has changed: what is held is looked at once more in the run that follows.
    pub(crate) fn go_on(&mut self, cx: &mut Cx) {
        match self {
            Self::Http(http) => http.unhold(cx),
            Self::Tunnel(tunnel) => tunnel.unhold(cx),
            Self::Handshake(_) => {}
        }
    }
}
