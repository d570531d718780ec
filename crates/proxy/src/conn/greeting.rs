//! The client's side of a TLS handshake, with an endpoint.
//!
//! ```text
//!   connected ▶ Greeting: our message out ──▶ wait ──▶ a step of the handshake ──▶ done: the connection is protected
//!                  └──────────◀── more ◀──────────────────┘    └──▶ failed: said in words, for the log and whoever asks
//! ```

use std::fmt;
use std::sync::Arc;

use handover_tls::{Connecting, Established, Fed, HandshakeError};

use crate::buffers::Buf;
use crate::generation::EndpointTls;
use crate::reactor::{Io, Received, Secure};

use super::context::Cx;

/// A handshake that is under way.
pub(crate) struct Greeting {
    handshake: Connecting,
    /// To be sent, from `sent` on.
    out: Vec<u8>,
    sent: usize,
}

/// What a run brought.
pub(crate) enum Greeted {
    /// An event must come.
    Wait,
    /// There is a step to compute: see [`Cx::takes_step`].
    Later,
    /// Everything that passes is protected by this.
    Done(Box<Secure>),
}

impl Greeting {
    /// Begins; the first message is ready to be sent.
    ///
    /// # Errors
    /// Why that cannot be, in words.
    pub(crate) fn new(tls: &Arc<EndpointTls>) -> Result<Self, String> {
        let mut out = Vec::new();
        let handshake = Connecting::new(Arc::clone(&tls.config), tls.name.clone(), &mut out)
            .map_err(|error| error.to_string())?;
        Ok(Self { handshake, out, sent: 0 })
    }

    /// Does what can be done now.
    ///
    /// # Errors
    /// Why there is no TLS with this endpoint, in words.
    pub(crate) fn run(&mut self, io: &Io, cx: &mut Cx) -> Result<Greeted, String> {
        self.send(io, cx)?;
        if !cx.reactor.is_readable(io) {
            return Ok(Greeted::Wait);
        }
        if !cx.takes_step() {
            return Ok(Greeted::Later);
        }
        let mut input = Buf::none();
        cx.buffers.ensure_small(&mut input);
        let result = match cx.reactor.recv(io, &mut input) {
            Ok(Received::Blocked) => Ok(Greeted::Wait),
            Ok(Received::End) => Err("the endpoint closed the connection during the handshake".to_owned()),
            Err(errno) => Err(format!("the connection broke during the handshake: {errno}")),
            Ok(Received::Bytes(_)) => self.feed(input.unread(), io, cx),
        };
        cx.buffers.release(&mut input);
        result
    }

    fn feed(&mut self, input: &[u8], io: &Io, cx: &mut Cx) -> Result<Greeted, String> {
        match self.handshake.feed(input, &mut self.out) {
            Ok(Fed::More) => {
                self.send(io, cx)?;
                Ok(if cx.reactor.is_readable(io) { Greeted::Later } else { Greeted::Wait })
            }
            Ok(Fed::Done(established)) => {
                let Established { session, facts, leftover } = *established;
                let mut out = std::mem::take(&mut self.out);
                out.drain(..self.sent);
                Ok(Greeted::Done(Box::new(Secure::new(session, Arc::new(facts), leftover, out))))
            }
            Err(error) => {
                // The alert: the endpoint's log may say why, too.
                let _ = self.send(io, cx);
                Err(words(&error))
            }
        }
    }

    fn send(&mut self, io: &Io, cx: &mut Cx) -> Result<(), String> {
        let rest = self.out.get(self.sent..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        let count = cx
            .reactor
            .send(io, rest)
            .map_err(|errno| format!("the connection broke during the handshake: {errno}"))?;
        self.sent += count;
        if self.sent == self.out.len() {
            (self.out, self.sent) = (Vec::new(), 0);
        }
        Ok(())
    }
}

/// What an error means behind "no TLS with 10.0.0.5:443:".
fn words(error: &HandshakeError) -> String {
    match error {
        HandshakeError::Certificate(_, why) => format!("its certificate is refused: {why}"),
        other => other.to_string(),
    }
}

impl fmt::Debug for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Greeting").finish_non_exhaustive()
    }
}
