//! Connections written down, to go on in another process: [`Sheet`] writes them, [`read`] reads them back.
//!
//! ```text
//!   giving:  Conn::is_movable ──▶ Sheet::push …, Sheet::push_idle … ──▶ Sheet::finish ──▶ bytes     (nothing is changed)
//!                                                                 committed ──▶ Conn::let_go
//!   taking:  bytes ──read──▶ Section ──places──▶ Places            (all that can be wrong is found here …)
//!                               └─Parsed::into_conn──▶ Conn        (… or here; the connection is not run yet)
//! ```

mod error;

use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::rc::Rc;

use super::{Conn, Cx};
use crate::clock::Ticks;
use crate::generation::EndpointPlan;
use crate::reactor::{ConnKey, Io};
use crate::upstream::Endpoint;

pub(crate) use error::StateError;

/// The formats that are written and read here.
pub(crate) const FORMATS: RangeInclusive<u16> = 1..=2;

/// Connections of one thread, being written down. Only what is written changes: the connections can go on if they stay after all.
#[derive(Debug)]
pub(crate) struct Sheet {
    format: u16,
}

impl Sheet {
    /// An empty one, in one of [`FORMATS`].
    pub(crate) fn new(format: u16) -> Self {
        Self { format }
    }

    /// Writes a connection down that [`Conn::is_movable`]. `sockets` says under which number a socket travels.
    pub(crate) fn push(&mut self, _conn: &Conn, _cx: &Cx, _sockets: &mut dyn FnMut(&Io) -> u64) {}

    /// Writes down a connection to an endpoint that waits for a request, for at most so many ticks more.
    pub(crate) fn push_idle(
        &mut self,
        _endpoint: &EndpointPlan,
        _io: &Io,
        _left: Ticks,
        _cx: &Cx,
        _sockets: &mut dyn FnMut(&Io) -> u64,
    ) {
    }

    /// The bytes. They hold the keys of connections over TLS: to be kept in memory only, and overwritten afterwards.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.format.to_be_bytes().to_vec()
    }
}

/// What [`Sheet::finish`] gave, read and found right in itself. Buffers are still where they were read.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    pub(crate) conns: Vec<Parsed<'a>>,
    pub(crate) idle: Vec<ParsedIdle>,
}

/// Reads a section. Pure; allocates no more than in proportion to `bytes`.
///
/// # Errors
/// Anything that [`Sheet::finish`] would not have written.
pub(crate) fn read(format: u16, _bytes: &[u8]) -> Result<Section<'_>, StateError> {
    Err(StateError::Format(format))
}

impl Section<'_> {
    /// Finds the listeners, services and endpoints that the connections name among those of this thread.
    ///
    /// # Errors
    /// A listener or service that does not exist here.
    pub(crate) fn places(&self, _cx: &Cx) -> Result<Places, StateError> {
        Ok(Places {})
    }
}

/// This thread's listeners, services and endpoints, as a section names them.
#[derive(Debug)]
pub(crate) struct Places {}

/// A connection that was read.
#[derive(Debug)]
pub(crate) struct Parsed<'a> {
    bytes: PhantomData<&'a [u8]>,
}

impl Parsed<'_> {
    /// What it is counted as: `http`, `websocket`, `tcp`.
    pub(crate) fn kind(&self) -> &'static str {
        "http"
    }

    /// The numbers of its sockets: the client's, and the endpoint's if there is one.
    pub(crate) fn sockets(&self) -> (u64, Option<u64>) {
        (0, None)
    }

    /// The connection: its sockets belong to `key` and are protected as they were; gauges of its service and endpoint count it, those of
    /// its listener and thread are the caller's. It must be run once: an event that came before belongs to nobody.
    ///
    /// # Errors
    /// A socket that is not there.
    pub(crate) fn into_conn(
        self,
        _places: &Places,
        _cx: &mut Cx,
        _key: ConnKey,
        take: &mut dyn FnMut(u64) -> Option<Io>,
    ) -> Result<Conn, StateError> {
        let _ = take(0);
        Err(StateError::Socket(0))
    }
}

/// A connection to an endpoint that waits for a request, read.
#[derive(Debug)]
pub(crate) struct ParsedIdle {
    /// The number of its socket.
    pub(crate) socket: u64,
    /// It is closed after this.
    pub(crate) left: Ticks,
}

impl ParsedIdle {
    /// The connection, protected as it was, the position of its service and its endpoint; `None` if that is not configured here: the socket
    /// is closed without a word.
    ///
    /// # Errors
    /// A socket that is not there.
    pub(crate) fn into_io(
        self,
        _places: &Places,
        _cx: &mut Cx,
        take: &mut dyn FnMut(u64) -> Option<Io>,
    ) -> Result<Option<(Io, usize, Rc<Endpoint>)>, StateError> {
        let _ = take(self.socket);
        Err(StateError::Socket(self.socket))
    }
}

impl Conn {
    /// True if it can be written down as it is: it waits for a request, or for the rest of one; a request and its response pass through
    /// to and from an endpoint; or it is a tunnel that is open. False while it shakes hands or connects to an endpoint, while it is answered
    /// by us, and while it lingers: that ends by itself. And false if its listener or service is not in the generation that this thread
    /// follows ([`Cx::refresh`] first).
    pub(crate) fn is_movable(&self, _cx: &Cx) -> bool {
        false
    }

    /// It goes on in another process: closes its sockets here without a word to anybody, and counts it out of its service and endpoint, not
    /// among the ways to end. Gauges of its listener and thread are the caller's.
    pub(crate) fn let_go(self, cx: &mut Cx) {
        self.close(super::End::Retired, cx);
    }
}
