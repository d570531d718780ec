//! From a service to a connection: which endpoint, kept or new, and what if it does not work.
//!
//! ```text
//!   Seeking ──kept connection────────────────────────────────────────────────▶ Ready
//!      │  ▲
//!      │  └─ refused, too slow, not who it should be, dead ◀─┐
//!      └──new──▶ Connecting ──made──▶ Greeting (TLS) ──▶ Ready ┘
//!
//!   after MAX_ATTEMPTS, or one more than there are endpoints: given up
//!   or, where it leads to a program: Waiting ──its turn, for as long as a connection may take──▶ Seeking
//! ```
//!
//! A program that is started again answers soon: who waits for it is served, and nobody is told of an error.
//!
//! The last message of a TLS handshake goes out together with the first bytes of the request.

mod moved;

use std::rc::Rc;
use std::sync::Arc;

use crate::clock::Ticks;
use crate::config::Balance;
use crate::generation::ServicePlan;
use crate::metrics::ServiceCells;
use crate::reactor::{ConnKey, Io};
use crate::traffic::WakePlan;
use crate::upstream::{self, Endpoint};

use super::context::{Cx, Local};
use super::greeting::{Greeted, Greeting};
use super::hold::{Path, patience};

/// The most endpoints tried for one request.
pub(super) const MAX_ATTEMPTS: usize = 4;

/// A request or tunnel on an endpoint: counts itself out when it goes.
#[derive(Debug)]
struct Turn {
    endpoint: Rc<Endpoint>,
    /// Counted over all threads as well: only worth its cost where connections are compared.
    shared: bool,
}

impl Turn {
    fn new(endpoint: Rc<Endpoint>, shared: bool) -> Self {
        endpoint.begin(shared);
        Self { endpoint, shared }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.endpoint.finish(self.shared);
    }
}

/// The way to a service for one request or tunnel.
#[derive(Debug)]
pub(crate) struct Dial {
    local: Rc<Local>,
    service: usize,
    turn: Option<Turn>,
    io: Option<Io>,
    making: Making,
    /// Why the last handshake failed.
    trouble: Option<Arc<str>>,
    reused: bool,
    /// Kept connections are not taken: they are not for this one, or one turned out dead and the next ones probably are, too.
    fresh_only: bool,
    attempts: usize,
    /// When the connection that is being made must be there.
    until: u64,
    /// No endpoint of a program answers: it tries again when it is its turn.
    waiting: bool,
    /// When that is given up; 0: it has not waited.
    wait_until: u64,
}

/// How far a connection is.
#[derive(Debug)]
enum Making {
    Made,
    Connecting,
    Greeting(Box<Greeting>),
}

/// No endpoint can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GivenUp;

/// What a look at the way brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The connection can be used.
    Ready,
    /// It is being made.
    Wait,
    /// It is being made, and there is much to compute: see [`Cx::takes_step`].
    Later,
}

impl Dial {
    /// The way to a service of a generation.
    pub(crate) fn new(local: Rc<Local>, service: usize) -> Self {
        Self {
            local,
            service,
            turn: None,
            io: None,
            making: Making::Made,
            trouble: None,
            reused: false,
            fresh_only: false,
            attempts: 0,
            until: 0,
            waiting: false,
            wait_until: 0,
        }
    }

    /// As [`Dial::new`], but for what takes a connection for good: those that are kept are for requests.
    pub(crate) fn fresh(local: Rc<Local>, service: usize) -> Self {
        Self { fresh_only: true, ..Self::new(local, service) }
    }

    /// It cannot be sent twice: where another connection costs little, it does not go over one that may be closing just now.
    pub(super) fn spare_kept(&mut self) {
        self.fresh_only |= self.plan().is_some_and(|plan| plan.program.is_some());
    }

    /// The service.
    pub(crate) fn plan(&self) -> Option<&ServicePlan> {
        self.local.generation.services.get(self.service)
    }

    /// The service, and the view in which it is that.
    pub(super) fn place(&self) -> (&Rc<Local>, usize) {
        (&self.local, self.service)
    }

    /// It has not begun.
    pub(super) fn is_new(&self) -> bool {
        self.io.is_none() && self.attempts == 0 && !self.waiting
    }

    /// No endpoint answers at present: it waits for one that does.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// The socket, once there is one.
    pub(crate) fn io(&self) -> Option<&Io> {
        self.io.as_ref()
    }

    /// The connection carried another request before.
    pub(crate) fn is_reused(&self) -> bool {
        self.reused
    }

    /// When the present attempt to connect has taken too long. Each attempt has the whole time.
    pub(crate) fn until(&self) -> u64 {
        self.until
    }

    /// The endpoint that was chosen last.
    pub(crate) fn endpoint(&self) -> Option<&Rc<Endpoint>> {
        self.turn.as_ref().map(|turn| &turn.endpoint)
    }

    /// Why the last attempt failed, if it was for TLS.
    pub(crate) fn trouble(&self) -> Option<&Arc<str>> {
        self.trouble.as_ref()
    }

    /// This service's counters.
    pub(crate) fn cells<'a>(&'a self, cx: &Cx) -> Option<&'a ServiceCells> {
        self.plan().map(|plan| plan.cells.of(cx.thread))
    }

    /// Goes on until there is a connection, or one is being made.
    #[inline]
    pub(crate) fn go(&mut self, key: ConnKey, cx: &mut Cx) -> Result<Way, GivenUp> {
        if matches!(self.making, Making::Made) && self.io.is_some() {
            return Ok(Way::Ready);
        }
        self.go_on(key, cx)
    }

    fn go_on(&mut self, key: ConnKey, cx: &mut Cx) -> Result<Way, GivenUp> {
        loop {
            let Some(io) = &self.io else {
                if self.waiting && !self.may_retry(cx) {
                    return Ok(Way::Wait);
                }
                self.next(key, cx)?;
                continue;
            };
            match &mut self.making {
                Making::Made => return Ok(Way::Ready),
                Making::Connecting => match upstream::connect_result(io, &cx.reactor) {
                    None => return Ok(Way::Wait),
                    Some(Ok(())) => self.is_connected(cx),
                    Some(Err(_)) => self.failed(cx),
                },
                Making::Greeting(greeting) => match greeting.run(io, cx) {
                    Ok(Greeted::Wait) => return Ok(Way::Wait),
                    Ok(Greeted::Later) => return Ok(Way::Later),
                    Ok(Greeted::Done(secure)) => {
                        cx.reactor.protect(io, secure);
                        self.greeted(None, cx);
                    }
                    Err(why) => {
                        self.greeted(Some(why), cx);
                        self.failed(cx);
                    }
                },
            }
        }
    }

    /// The socket is connected: over TLS, that is only the beginning.
    fn is_connected(&mut self, cx: &mut Cx) {
        self.making = Making::Made;
        let tls = self.turn.as_ref().and_then(|turn| turn.endpoint.plan.tls.as_ref());
        let Some(tls) = tls else { return };
        match Greeting::new(tls) {
            Ok(greeting) => self.making = Making::Greeting(Box::new(greeting)),
            Err(why) => {
                self.greeted(Some(why), cx);
                self.failed(cx);
            }
        }
    }

    /// A handshake is over; `why` it failed.
    fn greeted(&mut self, why: Option<String>, cx: &Cx) {
        self.making = Making::Made;
        if let Some(cells) = self.cells(cx) {
            let cell = if why.is_none() { &cells.handshakes } else { &cells.handshake_failures };
            cell.add(1);
        }
        let (Some(turn), Some(plan)) = (&self.turn, self.plan()) else { return };
        let trouble = turn.endpoint.note_trouble(why, &plan.name, &cx.clock);
        self.trouble = trouble;
    }

    /// Chooses an endpoint and takes, or begins, a connection to it. Where none of a program answers, it waits.
    fn next(&mut self, key: ConnKey, cx: &mut Cx) -> Result<(), GivenUp> {
        (self.local, self.service) = cx.present(&self.local, self.service);
        // Who has waited is told to come again; a request that has just come in is served, however little time is left.
        if cx.closing && self.wait_until != 0 {
            return Err(GivenUp);
        }
        // The first attempt has just passed the gate.
        if (self.wait_until != 0 || self.turn.is_some()) && self.is_paused(key, cx)? {
            return Ok(());
        }
        match self.try_next(key, cx) {
            Err(GivenUp) if self.plan().is_some_and(|plan| plan.program.is_some()) => self.wait(key, cx),
            result => result,
        }
    }

    /// It is its turn to try again, or its time is over and it is the last time.
    fn may_retry(&mut self, cx: &mut Cx) -> bool {
        std::mem::take(&mut cx.holding.may_retry)
            || cx.clock.tick() >= self.wait_until
            || cx.draining
            || cx.closing
    }

    /// Waits until it is its turn again.
    #[cold]
    fn wait(&mut self, key: ConnKey, cx: &mut Cx) -> Result<(), GivenUp> {
        // It may not only have ended, but sleep by now.
        let wake = self.local.view.wake(self.service);
        if self.wait_until == 0 {
            let limit = self.plan().map(|plan| patience(plan, wake)).unwrap_or_default();
            self.wait_until = cx.clock.tick() + limit;
        }
        wake.into_iter().for_each(WakePlan::tell);
        if cx.draining || cx.clock.tick() >= self.wait_until {
            self.waiting = false;
            return Err(GivenUp);
        }
        (self.turn, self.attempts, self.waiting) = (None, 0, true);
        self.until = self.wait_until;
        cx.holding.wait(key);
        Ok(())
    }

    /// Who waits for an endpoint is held by a pause like everybody else.
    #[cold]
    fn is_paused(&mut self, key: ConnKey, cx: &mut Cx) -> Result<bool, GivenUp> {
        let path =
            Path { local: &self.local, listener: usize::MAX, route: None, service: Some(self.service) };
        let Some(pause) = cx.pause_of(path) else { return Ok(false) };
        if pause.refuse {
            self.waiting = false;
            return Err(GivenUp);
        }
        if cx.draining {
            return Ok(false);
        }
        let limit = self.plan().map(|plan| plan.connect).unwrap_or_default();
        self.wait_until = cx.clock.after(Ticks::from(pause.left())) + u64::from(limit.0);
        self.wait(key, cx)?;
        Ok(true)
    }

    fn try_next(&mut self, key: ConnKey, cx: &mut Cx) -> Result<(), GivenUp> {
        let local = Rc::clone(&self.local);
        let plan = local.generation.services.get(self.service).ok_or(GivenUp)?;
        let balancer = local.balancers.get(self.service).ok_or(GivenUp)?;
        let cells = plan.cells.of(cx.thread);
        loop {
            if self.attempts > balancer.len().min(MAX_ATTEMPTS) {
                return Err(GivenUp);
            }
            self.waiting = false;
            self.attempts += 1;
            self.turn = None;
            let endpoint = balancer.choose(plan.balance, &cx.clock).ok_or(GivenUp)?;
            self.turn = Some(Turn::new(endpoint, plan.balance == Balance::LeastConnections));
            let Some(turn) = &self.turn else { return Err(GivenUp) };
            if !self.fresh_only
                && let Some(io) = cx.upstreams.take_idle(&turn.endpoint, key, &mut cx.reactor)
            {
                cells.reused.add(1);
                (self.io, self.making, self.reused) = (Some(io), Making::Made, true);
                return Ok(());
            }
            // Those who wait try often: that says nothing new.
            let news = u64::from(self.wait_until == 0);
            cells.connects.add(news);
            match upstream::connect(&turn.endpoint, key, &mut cx.reactor) {
                Ok(connected) => {
                    self.until = cx.clock.after(plan.connect);
                    (self.io, self.making, self.reused) = (Some(connected.io), Making::Connecting, false);
                    if connected.ready {
                        self.is_connected(cx);
                    }
                    return Ok(());
                }
                Err(_) => {
                    cells.connect_failures.add(news);
                    turn.endpoint.failed(&cx.clock);
                }
            }
        }
    }

    /// The connection could not be made, or not in time: the next endpoint's turn.
    pub(crate) fn failed(&mut self, cx: &mut Cx) {
        if let (0, Some(cells)) = (self.wait_until, self.cells(cx)) {
            cells.connect_failures.add(1);
        }
        if matches!(self.making, Making::Greeting(_)) {
            self.greeted(Some("the TLS handshake did not end in time".to_owned()), cx);
        }
        if let Some(turn) = &self.turn {
            turn.endpoint.failed(&cx.clock);
        }
        self.hang_up(cx);
    }

    /// The kept connection was dead: another one's turn.
    pub(crate) fn was_dead(&mut self, cx: &mut Cx) {
        if let Some(cells) = self.cells(cx) {
            cells.retries.add(1);
        }
        self.fresh_only = true;
        self.attempts = self.attempts.saturating_sub(1);
        self.hang_up(cx);
    }

    /// Who was reached broke off before it answered: the next endpoint's turn.
    pub(super) fn died(&mut self, cx: &mut Cx) {
        if let Some(cells) = self.cells(cx) {
            cells.retries.add(1);
        }
        if let Some(turn) = &self.turn {
            turn.endpoint.failed(&cx.clock);
        }
        self.hang_up(cx);
    }

    /// Closes the connection.
    pub(crate) fn hang_up(&mut self, cx: &mut Cx) {
        if let Some(io) = self.io.take() {
            cx.reactor.close(io);
        }
        self.making = Making::Made;
    }

    /// The request is over and the connection can carry another one.
    pub(crate) fn keep(&mut self, cx: &mut Cx) {
        let local = Rc::clone(&self.local);
        let Some(io) = self.io.take() else { return };
        match (local.generation.services.get(self.service), &self.turn) {
            (Some(plan), Some(turn)) => {
                cx.upstreams.give_back(&turn.endpoint, io, plan, &cx.clock, &mut cx.reactor);
            }
            _ => cx.reactor.close(io),
        }
    }
}
