//! What a connection is to a program, a service, a route, a listener or an endpoint: nothing, something in flight, or something held.

use handover::traffic::Target;

use super::context::Cx;
use super::dial::Dial;
use super::hold::Path;
use super::http::{HttpConn, Phase};
use super::{Conn, Tunnel};
use crate::generation::Action;

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Nothing of it.
    Nothing,
    /// A request that is being answered, or a tunnel.
    InFlight,
    /// It waits: held by a pause, or for an endpoint.
    Held,
}

impl Part {
    fn of(concerned: bool, held: bool) -> Self {
        match (concerned, held) {
            (false, _) => Self::Nothing,
            (true, false) => Self::InFlight,
            (true, true) => Self::Held,
        }
    }
}

impl Conn {
    /// What it is to this.
    pub(crate) fn part_of(&self, target: &Target, cx: &Cx) -> Part {
        match self {
            Self::Http(http) => http.part_of(target, cx),
            Self::Tunnel(tunnel) => tunnel.part_of(target, cx),
            Self::Handshake(_) => Part::Nothing,
        }
    }
}

impl HttpConn {
    /// Position of the service that its request is for.
    pub(super) fn held_for(&self) -> Option<usize> {
        let request = &self.client.request;
        match request.local.generation.actions.get(request.route()?)? {
            Action::Service(service) => Some(*service),
            _ => None,
        }
    }

    fn part_of(&self, target: &Target, cx: &Cx) -> Part {
        let request = &self.client.request;
        let (held, dial) = match &self.phase {
            Phase::Head { .. } | Phase::Linger(_) => return Part::Nothing,
            Phase::Held { .. } => (true, None),
            Phase::Answer(_) => (false, None),
            Phase::Proxy(proxy) => (proxy.dial().is_waiting(), Some(proxy.dial())),
        };
        let service = if held { self.held_for() } else { None };
        let path =
            Path { local: &request.local, listener: request.position, route: request.route(), service };
        Part::of(concerns(target, path, self.client.listener, dial, cx), held)
    }
}

impl Tunnel {
    fn part_of(&self, target: &Target, cx: &Cx) -> Part {
        let held = self.held || self.dial.is_waiting();
        let path = Path { local: &self.local, listener: self.position, route: self.route(), service: None };
        Part::of(concerns(target, path, self.listener(), Some(&self.dial), cx), held)
    }
}

fn concerns(target: &Target, path: Path<'_>, listener: u32, dial: Option<&Dial>, cx: &Cx) -> bool {
    let (_, route, held_for) = path.names();
    let plan = dial.and_then(Dial::plan).or(held_for);
    match target {
        Target::Program(name) => plan.is_some_and(|plan| plan.program.as_deref() == Some(name)),
        Target::Service(name) => plan.is_some_and(|plan| *plan.name == **name),
        Target::Route(name) => route == Some(name),
        Target::Listener(name) => cx.listener(listener).is_some_and(|listener| *listener.name == **name),
        Target::Endpoint(name) => dial
            .and_then(Dial::endpoint)
            .is_some_and(|endpoint| *endpoint.plan.name == **name || *endpoint.plan.label == **name),
    }
}
