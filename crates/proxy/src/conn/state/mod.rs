//! Connections written down, to go on in another process: [`Sheet`] writes them, [`read`] reads them back.
//!
//! ```text
//!   giving:  Conn::is_movable ──▶ Sheet::push …, Sheet::push_idle … ──▶ Sheet::finish ──▶ bytes     (nothing is changed)
//!                                                                 committed ──▶ Conn::let_go
//!   taking:  bytes ──read──▶ Section ──places──▶ Places            (all that can be wrong is found here …)
//!                               └─Parsed::into_conn──▶ Conn        (… or here; the connection has not run yet)
//! ```
//!
//! A section is what one thread writes, or one connection that comes late:
//!
//! ```text
//!   where the tables begin(8)
//!   each connection:  kind(1)  see `http`, `proxy`, `tunnel`, `socket`
//!   tables:           see `names`; what was agreed on over TLS
//! ```
//!
//! Sockets are named by the numbers under which they were sent, times are what is left or has passed, and what has a name is named by it:
//! nothing means something else in another process. What one process alone knows is made anew: plans, turns, gauges, the thread's own
//! listener, and that a peer has gone, which its socket says again. If an attempt to reach an endpoint failed before another did not,
//! the reason is forgotten.
//!
//! Format 1 leaves out how old connections are, and what is known of peers that take things slowly; format 2 has everything. Both
//! must stay as they are, byte by byte, for as long as they are read (`fixtures/connections-1.bin`, `-2.bin`). Format 3 knows what waits
//! for an endpoint, a held TCP connection too, and by which route something was begun. (A request that is held is written down like one
//! whose head is not whole yet, in any format.)

mod codec;
mod error;
mod http;
mod names;
mod proxy;
mod socket;
#[cfg(test)]
mod tests;
mod tunnel;

use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;

use super::context::Cx;
use super::{Conn, HttpConn, Tunnel, TunnelKind};
use crate::buffers::Buf;
use crate::clock::Ticks;
use crate::generation::{EndpointPlan, Generation};
use crate::moving::bytes::Input;
use crate::moving::facts::FactsIn;
use crate::reactor::{ConnKey, Io, Owner};
use crate::upstream::Endpoint;

use codec::{Decoder, Encoder, Guard};
use names::{Book, Names};
use socket::IdleState;

pub(crate) use error::StateError;
pub(super) use http::{HttpState, KeptState, PhaseState, WaitingState};
pub(crate) use names::Places;
pub(super) use names::{EndpointPlace, ListenerPlace};
pub(super) use proxy::{PatienceState, ProxyState, ReceivingState, SendingState};
pub(super) use socket::{ClientState, DialState, GoalState, MAX_BUFFER_BYTES, SocketState};
pub(super) use tunnel::{HalfState, TunnelState};

/// The formats that are written and read here.
pub(crate) const FORMATS: RangeInclusive<u16> = 1..=3;

/// Whether what waits for an endpoint can be written down in this format.
pub(crate) fn has_waiting(format: u16) -> bool {
    format >= codec::WAITING_FORMAT
}

const WAITING: u8 = 0;
const PASSING: u8 = 1;
const TCP: u8 = 2;
const WEBSOCKET: u8 = 3;
const IDLE: u8 = 4;
const HELD: u8 = 5;

/// Where the tables begin.
const HEADER_BYTES: usize = 8;

/// Connections of one thread, being written down. Only what is written changes: the connections can go on if they stay after all.
#[derive(Debug)]
pub(crate) struct Sheet {
    encoder: Encoder,
    book: Book,
}

impl Sheet {
    /// An empty one, in one of [`FORMATS`].
    pub(crate) fn new(format: u16) -> Self {
        Self { encoder: begin(format), book: Book::default() }
    }

    /// Writes a connection down that [`Conn::is_movable`]. `sockets` says under which number a socket travels.
    pub(crate) fn push(&mut self, conn: &Conn, cx: &Cx, sockets: &mut dyn FnMut(&Io) -> u64) {
        let mut giver = Giver { cx, book: &mut self.book, sockets };
        let item = match conn {
            Conn::Http(http) => http.to_state(&mut giver).map(Item::Http),
            Conn::Tunnel(tunnel) if tunnel.is_open() => {
                tunnel.to_state(&mut giver).map(|tunnel| Item::Tunnel(Box::new(tunnel)))
            }
            Conn::Tunnel(tunnel) => Some(Item::Held(tunnel.to_held_state(&mut giver))),
            Conn::Handshake(_) => None,
        };
        if let Some(item) = item {
            item.write(&mut self.encoder);
        }
    }

    /// Writes down a connection to an endpoint that waits for a request, for at most so many ticks more.
    pub(crate) fn push_idle(
        &mut self,
        endpoint: &Arc<EndpointPlan>,
        io: &Io,
        left: Ticks,
        cx: &Cx,
        sockets: &mut dyn FnMut(&Io) -> u64,
    ) {
        let number = self.book.endpoint(endpoint, true, cx.reactor.secure(io).is_some());
        let mut giver = Giver { cx, book: &mut self.book, sockets };
        let socket = giver.socket(io);
        Item::Idle(IdleState { endpoint: number, socket, left: u64::from(left.0) }).write(&mut self.encoder);
    }

    /// The bytes. They hold the keys of connections over TLS: to be kept in memory only, and overwritten afterwards.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let tables = self.encoder.len();
        self.book.write(&mut self.encoder);
        end(self.encoder, tables)
    }
}

fn begin(format: u16) -> Encoder {
    let mut encoder = Encoder::new(format);
    encoder.raw(&[0; HEADER_BYTES]);
    encoder
}

fn end(mut encoder: Encoder, tables: usize) -> Vec<u8> {
    encoder.facts_table();
    encoder.patch(0, tables as u64);
    encoder.finish()
}

/// What is needed to write a connection down.
pub(super) struct Giver<'g, 'c> {
    pub(super) cx: &'c Cx,
    book: &'g mut Book,
    sockets: &'g mut dyn FnMut(&Io) -> u64,
}

impl<'c> Giver<'_, 'c> {
    pub(super) fn socket(&mut self, io: &Io) -> SocketState<'c> {
        SocketState { number: (self.sockets)(io), guard: self.cx.reactor.secure(io).map(Guard::Used) }
    }

    pub(super) fn listener(&mut self, number: u32) -> u64 {
        self.book.listener(number, self.cx)
    }

    /// `io` leads there.
    pub(super) fn endpoint(&mut self, endpoint: &Endpoint, io: &Io) -> u64 {
        self.book.endpoint(&endpoint.plan, !endpoint.is_retired(), self.cx.reactor.secure(io).is_some())
    }

    /// Some endpoint of a service, for what waits for any of them.
    pub(super) fn any_endpoint(&mut self, service: &Arc<str>) -> u64 {
        self.book.any_endpoint(service)
    }

    /// A route of a generation.
    pub(super) fn route(&mut self, generation: &Generation, route: Option<usize>) -> Option<u64> {
        let route = generation.config.routes.get(route?)?;
        Some(self.book.route(&route.name))
    }

    /// Ticks until one that is to come.
    pub(super) fn left(&self, tick: u64) -> u64 {
        tick.saturating_sub(self.cx.clock.tick()).min(socket::MAX_TICKS)
    }

    /// Microseconds since a moment.
    pub(super) fn since_us(&self, moment_us: u64) -> u64 {
        self.cx.clock.now_us().saturating_sub(moment_us)
    }
}

/// One of the things that a section holds.
#[derive(Debug)]
enum Item<'a> {
    Http(HttpState<'a>),
    Tunnel(Box<TunnelState<'a>>),
    Idle(IdleState<'a>),
    /// A TCP connection for which there is no endpoint yet.
    Held(ClientState<'a>),
}

impl<'a> Item<'a> {
    fn write(&self, encoder: &mut Encoder) {
        match self {
            Self::Http(http) => {
                encoder.make_room(http.buffered());
                encoder.byte(if matches!(http.phase, PhaseState::Waiting(_)) { WAITING } else { PASSING });
                http.write(encoder);
            }
            Self::Tunnel(tunnel) => {
                encoder.make_room(tunnel.buffered());
                encoder.byte(if tunnel.kind == TunnelKind::Tcp { TCP } else { WEBSOCKET });
                tunnel.write(encoder);
            }
            Self::Idle(idle) => {
                encoder.make_room(0);
                encoder.byte(IDLE);
                idle.write(encoder);
            }
            Self::Held(client) => {
                encoder.make_room(0);
                encoder.byte(HELD);
                client.write([false; 3], encoder);
            }
        }
    }

    fn read(decoder: &mut Decoder<'a, '_>, names: &Names<'_>) -> Result<Self, StateError> {
        const WHAT: &str = "the kind of a connection";
        Ok(match decoder.byte(WHAT)? {
            WAITING => Self::Http(HttpState::read(decoder, names, false)?),
            PASSING => Self::Http(HttpState::read(decoder, names, true)?),
            TCP => Self::Tunnel(Box::new(TunnelState::read(decoder, names, TunnelKind::Tcp)?)),
            WEBSOCKET => Self::Tunnel(Box::new(TunnelState::read(decoder, names, TunnelKind::Websocket)?)),
            IDLE => {
                let idle = IdleState::read(decoder)?;
                names.check_endpoint(idle.endpoint, idle.socket.is_protected())?;
                Self::Idle(idle)
            }
            HELD if decoder.has_waiting() => {
                let (client, marks) = ClientState::read(decoder)?;
                names.check_listener(client.listener, client.socket.is_protected(), false)?;
                if marks != [false; 3] {
                    return Err(StateError::Value(WHAT));
                }
                Self::Held(client)
            }
            _ => return Err(StateError::Value(WHAT)),
        })
    }
}

/// What [`Sheet::finish`] gave, read and found right in itself. Buffers are still where they were read.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    names: Names<'a>,
    pub(crate) conns: Vec<Parsed<'a>>,
    pub(crate) idle: Vec<ParsedIdle<'a>>,
}

/// Reads a section. Pure; allocates no more than in proportion to `bytes`.
///
/// # Errors
/// Anything that [`Sheet::finish`] would not have written.
pub(crate) fn read(format: u16, bytes: &[u8]) -> Result<Section<'_>, StateError> {
    const WHAT: &str = "the beginning of the tables";
    if !FORMATS.contains(&format) {
        return Err(StateError::Format(format));
    }
    let tables = bytes.first_chunk().map(|header| u64::from_be_bytes(*header));
    let tables = tables.and_then(|tables| usize::try_from(tables).ok()).ok_or(StateError::Value(WHAT))?;
    let (Some(items), Some(tables)) = (bytes.get(HEADER_BYTES..tables), bytes.get(tables..)) else {
        return Err(StateError::Value(WHAT));
    };
    let none = FactsIn::default();
    let mut decoder = Decoder::new(format, tables, &none);
    let names = Names::read(&mut decoder)?;
    let facts =
        decoder.with("what was agreed on over TLS", |input: &mut Input<'_>| FactsIn::read(input).ok())?;
    if !decoder.is_at_end() {
        return Err(StateError::Value("the end of the tables"));
    }
    let mut section = Section { names, conns: Vec::new(), idle: Vec::new() };
    let mut decoder = Decoder::new(format, items, &facts);
    while !decoder.is_at_end() {
        match Item::read(&mut decoder, &section.names)? {
            Item::Idle(idle) => section.idle.push(ParsedIdle::new(idle)),
            item => section.conns.push(Parsed(item)),
        }
    }
    Ok(section)
}

impl Section<'_> {
    /// Finds the listeners, services and endpoints that the connections name among those of this thread.
    ///
    /// # Errors
    /// A listener or service that does not exist here, or is another one by now.
    pub(crate) fn places(&self, cx: &Cx) -> Result<Places, StateError> {
        self.names.places(cx)
    }

    /// The same once more, as [`Sheet::finish`] would have written it.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn write(&self, format: u16) -> Vec<u8> {
        let mut encoder = begin(format);
        self.conns.iter().for_each(|conn| conn.0.write(&mut encoder));
        self.idle.iter().for_each(|idle| {
            encoder.make_room(0);
            encoder.byte(IDLE);
            idle.state.write(&mut encoder);
        });
        let tables = encoder.len();
        self.names.write(&mut encoder);
        end(encoder, tables)
    }
}

/// A connection that was read.
#[derive(Debug)]
pub(crate) struct Parsed<'a>(Item<'a>);

impl Parsed<'_> {
    /// The connection: its sockets belong to `key` and are protected as they were; gauges of its service and endpoint count it, those of
    /// its listener ([`Conn::listener`]) and thread are the caller's. It must be run once, unless [`Conn::is_at_rest`]: then the
    /// event that something has come is enough.
    ///
    /// # Errors
    /// A socket that is not there. The other one is closed without a word.
    pub(crate) fn into_conn(
        self,
        places: &Places,
        cx: &mut Cx,
        key: ConnKey,
        take: &mut dyn FnMut(u64) -> Option<Io>,
    ) -> Result<Conn, StateError> {
        let mut taker = Taker { cx, places, key, take };
        Ok(match self.0 {
            Item::Http(HttpState { kept, phase: PhaseState::Waiting(waiting) }) => {
                Conn::Http(Box::new(HttpConn::from_waiting(kept, &waiting, &mut taker)?))
            }
            Item::Http(HttpState { kept, phase: PhaseState::Passing(proxy) }) => {
                Conn::Http(Box::new(HttpConn::from_passing(kept, *proxy, &mut taker)?))
            }
            Item::Tunnel(tunnel) => Conn::Tunnel(Box::new(Tunnel::from_state(*tunnel, &mut taker)?)),
            Item::Held(client) => Conn::Tunnel(Box::new(Tunnel::from_held_state(client, &mut taker)?)),
            Item::Idle(_) => return Err(StateError::Value("the kind of a connection")),
        })
    }
}

/// What is needed to make a connection of what was read.
pub(super) struct Taker<'t> {
    pub(super) cx: &'t mut Cx,
    pub(super) places: &'t Places,
    pub(super) key: ConnKey,
    take: &'t mut dyn FnMut(u64) -> Option<Io>,
}

impl Taker<'_> {
    /// The connection's socket, protected as it was.
    pub(super) fn io(&mut self, socket: &mut SocketState<'_>) -> Result<Io, StateError> {
        let io = (self.take)(socket.number).ok_or(StateError::Socket(socket.number))?;
        self.cx.reactor.set_owner(&io, Owner::Conn(self.key));
        socket.protect(&io, &mut self.cx.reactor);
        Ok(io)
    }

    /// Two of them, or none.
    pub(super) fn both(
        &mut self,
        client: &mut SocketState<'_>,
        endpoint: &mut SocketState<'_>,
    ) -> Result<(Io, Io), StateError> {
        let io = self.io(client)?;
        match self.io(endpoint) {
            Ok(other) => Ok((io, other)),
            Err(error) => {
                drop(self.cx.reactor.release(io));
                Err(error)
            }
        }
    }

    /// A tick that is to come.
    pub(super) fn tick_in(&self, left: u64) -> u64 {
        self.cx.clock.tick() + left
    }

    /// A moment that has passed.
    pub(super) fn moment_before(&self, since_us: u64) -> u64 {
        self.cx.clock.now_us().saturating_sub(since_us)
    }

    /// A buffer with these bytes, of which so many are read.
    pub(super) fn buf(&mut self, bytes: &[u8], start: usize) -> Buf {
        let mut buf = Buf::none();
        self.cx.buffers.fill(&mut buf, bytes, start);
        buf
    }
}

/// A connection to an endpoint that waits for a request, read.
#[derive(Debug)]
pub(crate) struct ParsedIdle<'a> {
    /// It is closed after this.
    pub(crate) left: Ticks,
    state: IdleState<'a>,
}

impl<'a> ParsedIdle<'a> {
    fn new(state: IdleState<'a>) -> Self {
        Self { left: Ticks(u32::try_from(state.left).unwrap_or(u32::MAX)), state }
    }
}

impl ParsedIdle<'_> {
    /// The connection, protected as it was and belonging to nobody, the position of its service, and its endpoint. `None` if that is not
    /// configured here: then it is closed without a word.
    ///
    /// # Errors
    /// A socket that is not there.
    pub(crate) fn into_io(
        mut self,
        places: &Places,
        cx: &mut Cx,
        take: &mut dyn FnMut(u64) -> Option<Io>,
    ) -> Result<Option<(Io, usize, Rc<Endpoint>)>, StateError> {
        let place = places.endpoint(self.state.endpoint)?.clone();
        let number = self.state.socket.number;
        let io = take(number).ok_or(StateError::Socket(number))?;
        if place.endpoint.is_retired() {
            drop(cx.reactor.release(io));
            return Ok(None);
        }
        cx.reactor.set_owner(&io, Owner::Nobody);
        self.state.socket.protect(&io, &mut cx.reactor);
        Ok(Some((io, place.service, place.endpoint)))
    }
}

impl Conn {
    /// True if it can be written down as it is: it waits for a request, or for the rest of one, or is held; a request and its response pass through
    /// to and from an endpoint; or it is a tunnel that is open. False while it shakes hands or connects to an endpoint, while it is answered
    /// by us, and while it lingers: that ends by itself. And false if its listener or its service is not in the generation that this
    /// thread follows ([`Cx::refresh`] first): nobody else would know them.
    pub(crate) fn is_movable(&self, cx: &Cx) -> bool {
        match self {
            Self::Http(http) => http.is_movable(cx),
            Self::Tunnel(tunnel) => tunnel.is_movable(cx),
            Self::Handshake(_) => false,
        }
    }

    /// It goes on in another process: closes its sockets here without a word to anybody, and counts it out of its service and endpoint, not
    /// among the ways to end. Gauges of its listener and thread are the caller's.
    pub(crate) fn let_go(self, cx: &mut Cx) {
        match self {
            Self::Http(http) => http.let_go(cx),
            Self::Tunnel(tunnel) => tunnel.let_go(cx),
            Self::Handshake(handshake) => handshake.close(cx),
        }
    }
}
