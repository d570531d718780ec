//! A way that leads to an endpoint, on its way to another process: see [`super::super::state`].

use std::rc::Rc;
use std::sync::Arc;

use super::{Cx, Dial, Io, Making, Turn};
use crate::config::Balance;
use crate::conn::state::{DialState, EndpointPlace, Giver, GoalState, Taker};

impl Dial {
    /// True if it leads to an endpoint, or waits for one, of a service that the generation has that this thread follows.
    pub(in crate::conn) fn is_movable(&self, cx: &Cx) -> bool {
        let there = matches!(self.making, Making::Made) && self.io.is_some() && self.turn.is_some();
        let (own, present) = (&self.local.generation, &cx.local().generation);
        let known = || {
            let name = self.plan().map(|plan| &plan.name);
            name.is_some_and(|name| present.services.iter().any(|service| service.name == *name))
        };
        let waits = self.waiting && cx.gives_waiting;
        (there || waits) && (Arc::ptr_eq(own, present) || known())
    }

    pub(in crate::conn) fn to_state<'a>(&'a self, giver: &mut Giver<'_, 'a>) -> Option<DialState<'a>> {
        let (endpoint, goal) = match (&self.io, &self.turn) {
            (Some(io), Some(turn)) => {
                (giver.endpoint(&turn.endpoint, io), GoalState::Reached(giver.socket(io)))
            }
            _ if self.waiting => {
                let left = giver.left(self.wait_until);
                (giver.any_endpoint(&self.plan()?.name), GoalState::Awaited(left))
            }
            _ => return None,
        };
        Some(DialState {
            endpoint,
            goal,
            reused: self.reused,
            fresh_only: self.fresh_only,
            attempts: self.attempts,
        })
    }

    /// The same way from here: the service and the endpoint have one more.
    pub(in crate::conn) fn from_state(
        state: &DialState<'_>,
        place: &EndpointPlace,
        io: Option<Io>,
        taker: &Taker<'_>,
    ) -> Self {
        let plan = place.local.generation.services.get(place.service);
        let shared = plan.is_some_and(|plan| plan.balance == Balance::LeastConnections);
        if let Some(plan) = plan {
            plan.cells.of(taker.cx.thread).active.add(1);
        }
        let wait_until = match state.goal {
            GoalState::Reached(_) => 0,
            // It is tried at once, and then when it is its turn.
            GoalState::Awaited(left) => taker.tick_in(left).max(1),
        };
        Self {
            turn: io.as_ref().map(|_| Turn::new(Rc::clone(&place.endpoint), shared)),
            io,
            wait_until,
            reused: state.reused,
            fresh_only: state.fresh_only,
            attempts: state.attempts,
            ..Self::new(Rc::clone(&place.local), place.service)
        }
    }

    /// It goes on elsewhere: closed without a word, and one fewer for the service and the endpoint.
    pub(in crate::conn) fn let_go(mut self, cx: &mut Cx) {
        if let Some(cells) = self.cells(cx) {
            cells.active.sub(1);
        }
        if let Some(io) = self.io.take() {
            drop(cx.reactor.release(io));
        }
    }
}
