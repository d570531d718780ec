//! How a connection goes to another thread between two requests: it holds nothing then but its socket.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use super::client::Client;
use super::context::Cx;
use super::http::HttpConn;
use crate::reactor::Secure;

/// A connection between two requests, on its way to another thread.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) fd: OwnedFd,
    /// What protects it.
    pub(crate) secure: Option<Box<Secure>>,
    pub(crate) peer: Option<IpAddr>,
    pub(crate) past: Past,
}

/// For how long a connection has been open, and what it has carried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Past {
    age_us: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl HttpConn {
    /// Once it has been kept after a response, and nothing has come since, it may go to another thread: true only then, and only
    /// once.
    #[inline]
    pub(crate) fn looks_for_place(&mut self) -> bool {
        if self.placed || self.client.counted_in == 0 || !self.is_idle() {
            return false;
        }
        self.placed = true;
        !self.client.retired
    }

    /// Takes it out of this thread. Only if [`HttpConn::looks_for_place`] says so: it holds nothing then but its socket.
    pub(crate) fn leave(mut self, cx: &mut Cx) -> Kept {
        cx.buffers.release(self.client.request.line.buf());
        let Client { side, peer, counted_in, counted_out, since_us, .. } = self.client;
        let age_us = cx.clock.now_us().saturating_sub(since_us);
        let past = Past { age_us, bytes_in: counted_in, bytes_out: counted_out };
        let (fd, secure) = side.leave(&mut cx.reactor, &mut cx.buffers);
        Kept { fd, secure, peer, past }
    }

    /// It goes on here as it was there: the idle limit holds.
    pub(crate) fn go_on(&mut self, past: Past, cx: &Cx) {
        self.placed = true;
        // What its handshake had left went out with the first response.
        self.unsaid = false;
        (self.client.counted_in, self.client.counted_out) = (past.bytes_in, past.bytes_out);
        self.client.since_us = cx.clock.now_us().saturating_sub(past.age_us);
        if let Some(plan) = self.client.plan() {
            self.phase_limit = cx.clock.after(plan.idle);
            self.deadline = self.phase_limit;
        }
    }
}
