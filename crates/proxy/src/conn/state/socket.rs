//! One socket of a connection: the number under which it travels, and what protects it.

use std::net::IpAddr;

use super::StateError;
use super::codec::{Decoder, Encoder, Guard, MAX_AMOUNT};
use crate::reactor::{Io, Reactor};

/// The longest that a buffer can be when connections are written down. Heads may have 64 KiB and are read into twice that; what is
/// written for an endpoint or a client may be longer by what is added to it.
pub(in crate::conn) const MAX_BUFFER_BYTES: usize = 1024 * 1024;

/// The most that a time limit can be away: the longest limit, and the tick that has begun.
pub(super) const MAX_TICKS: u64 = u32::MAX as u64 + 1;

/// A socket.
#[derive(Debug)]
pub(in crate::conn) struct SocketState<'a> {
    pub(super) number: u64,
    pub(super) guard: Option<Guard<'a>>,
}

impl<'a> SocketState<'a> {
    pub(super) fn is_protected(&self) -> bool {
        self.guard.is_some()
    }

    /// Gives what protects it to the socket itself.
    pub(super) fn protect(&mut self, io: &Io, reactor: &mut Reactor) {
        if let Some(Guard::Read(secure)) = self.guard.take() {
            reactor.protect(io, secure);
        }
    }

    /// Whether it is protected must be known from elsewhere.
    pub(super) fn write(&self, encoder: &mut Encoder) {
        encoder.number(self.number);
        if let Some(guard) = &self.guard {
            encoder.secure(guard);
        }
    }

    pub(super) fn read(decoder: &mut Decoder<'a, '_>, protected: bool) -> Result<Self, StateError> {
        let number = decoder.number("the number of a socket", u64::from(u32::MAX))?;
        let guard = if protected { Some(Guard::Read(decoder.secure()?)) } else { None };
        Ok(Self { number, guard })
    }
}

/// What all connections of clients have: where they came in, and from where.
#[derive(Debug)]
pub(in crate::conn) struct ClientState<'a> {
    /// The number of its listener in the table of names.
    pub(in crate::conn) listener: u64,
    /// `None`: it came in on a Unix socket.
    pub(in crate::conn) peer: Option<IpAddr>,
    pub(in crate::conn) socket: SocketState<'a>,
    /// For how long it has been what it is (µs). Not in format 1: it begins anew.
    pub(in crate::conn) age_us: u64,
    /// The number of the route of what is in flight in the table of names. Not in formats 1 and 2: it is forgotten.
    pub(in crate::conn) route: Option<u64>,
}

impl<'a> ClientState<'a> {
    /// With three answers of whoever it belongs to.
    pub(super) fn write(&self, marks: [bool; 3], encoder: &mut Encoder) {
        let (v4, v6) = (matches!(self.peer, Some(IpAddr::V4(_))), matches!(self.peer, Some(IpAddr::V6(_))));
        let [first, second, third] = marks;
        encoder.bits([self.socket.is_protected(), v4, v6, first, second, third]);
        encoder.number(self.listener);
        match self.peer {
            Some(IpAddr::V4(ip)) => encoder.raw(&ip.octets()),
            Some(IpAddr::V6(ip)) => encoder.raw(&ip.octets()),
            None => {}
        }
        self.socket.write(encoder);
        if encoder.is_full() {
            encoder.number(self.age_us);
        }
        if encoder.has_waiting() {
            encoder.number(self.route.map_or(0, |route| route + 1));
        }
    }

    pub(super) fn read(decoder: &mut Decoder<'a, '_>) -> Result<(Self, [bool; 3]), StateError> {
        const WHAT: &str = "a client";
        let [protected, v4, v6, first, second, third] = decoder.bits(WHAT)?;
        let listener = decoder.number("the number of a listener", u64::from(u32::MAX))?;
        let peer = match (v4, v6) {
            (false, false) => None,
            (true, false) => Some(IpAddr::from(decoder.raw::<4>(WHAT)?)),
            (false, true) => Some(IpAddr::from(decoder.raw::<16>(WHAT)?)),
            (true, true) => return Err(StateError::Value(WHAT)),
        };
        let socket = SocketState::read(decoder, protected)?;
        let age_us = if decoder.is_full() { decoder.number("an age", MAX_AMOUNT)? } else { 0 };
        let route = if decoder.has_waiting() {
            decoder.number("the number of a route", u64::from(u32::MAX))?
        } else {
            0
        };
        let route = route.checked_sub(1);
        Ok((Self { listener, peer, socket, age_us, route }, [first, second, third]))
    }
}

/// The way to an endpoint, once it leads somewhere; from format 3 on also while it waits for one that answers.
#[derive(Debug)]
pub(in crate::conn) struct DialState<'a> {
    /// The number of its endpoint in the table of names; while it waits that of any of the same service.
    pub(in crate::conn) endpoint: u64,
    pub(in crate::conn) goal: GoalState<'a>,
    pub(in crate::conn) reused: bool,
    pub(in crate::conn) fresh_only: bool,
    pub(in crate::conn) attempts: usize,
}

/// How far it leads.
#[derive(Debug)]
pub(in crate::conn) enum GoalState<'a> {
    /// To an endpoint.
    Reached(SocketState<'a>),
    /// Nowhere yet; ticks until that is given up.
    Awaited(u64),
}

impl GoalState<'_> {
    pub(super) fn is_protected(&self) -> bool {
        matches!(self, Self::Reached(socket) if socket.is_protected())
    }
}

impl<'a> DialState<'a> {
    pub(super) fn write(&self, encoder: &mut Encoder) {
        let waits = matches!(self.goal, GoalState::Awaited(_));
        encoder.bits([self.goal.is_protected(), self.reused, self.fresh_only, waits]);
        encoder.number(self.endpoint);
        match &self.goal {
            GoalState::Reached(socket) => socket.write(encoder),
            GoalState::Awaited(left) => encoder.number(*left),
        }
        encoder.number(self.attempts as u64);
    }

    pub(super) fn read(decoder: &mut Decoder<'a, '_>) -> Result<Self, StateError> {
        const WHAT: &str = "the way to an endpoint";
        let [protected, reused, fresh_only, waits] = decoder.bits(WHAT)?;
        if waits && (protected || !decoder.has_waiting()) {
            return Err(StateError::Value(WHAT));
        }
        Ok(Self {
            endpoint: decoder.number("the number of an endpoint", u64::from(u32::MAX))?,
            goal: if waits {
                GoalState::Awaited(decoder.number("the time to reach an endpoint", MAX_TICKS)?)
            } else {
                GoalState::Reached(SocketState::read(decoder, protected)?)
            },
            reused,
            fresh_only,
            attempts: decoder.small("a number of attempts", crate::conn::dial::MAX_ATTEMPTS + 1)?,
        })
    }
}

/// A connection to an endpoint that waits for a request.
#[derive(Debug)]
pub(super) struct IdleState<'a> {
    pub(super) endpoint: u64,
    pub(super) socket: SocketState<'a>,
    /// It is closed after so many ticks.
    pub(super) left: u64,
}

impl<'a> IdleState<'a> {
    pub(super) fn write(&self, encoder: &mut Encoder) {
        encoder.bits([self.socket.is_protected()]);
        encoder.number(self.endpoint);
        self.socket.write(encoder);
        encoder.number(self.left);
    }

    pub(super) fn read(decoder: &mut Decoder<'a, '_>) -> Result<Self, StateError> {
        let [protected] = decoder.bits("an idle connection")?;
        Ok(Self {
            endpoint: decoder.number("the number of an endpoint", u64::from(u32::MAX))?,
            socket: SocketState::read(decoder, protected)?,
            left: decoder.number("the time that an idle connection is kept", MAX_TICKS)?,
        })
    }
}
