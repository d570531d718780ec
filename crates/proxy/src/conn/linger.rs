//! How a connection ends after its last answer, so that the client gets the whole of it.
//!
//! When a socket is closed while bytes lie in it that nobody has read, or when some come afterwards, the kernel answers
//! with a reset, and what the client has not got yet of the answer is lost (RFC 9112 §9.6). So, after the last answer:
//!
//! ```text
//!   the rest of a body, or another request, is known to come  ──────────────▶ linger
//!   else one read:   end ─────────────────────────────────────────────────▶ close
//!                    bytes (nobody wants them) ───────────────────────────▶ linger
//!                    nothing ──client had said that it will send nothing more, and the answer was short──▶ close
//!                            └─else: a request may be on its way ─────────▶ linger, shorter
//! ```
//!
//! To linger is to say that nothing more will be sent, and to read and forget until the client has finished too, is silent for
//! some time, or has talked for too long.

use crate::clock::Ticks;
use crate::reactor::Received;

use super::client::Client;
use super::context::Cx;
use super::http::Step;
use super::{End, Side, TURN_BYTES};

/// A client that still sends may be silent for so long (5 s)…
const SILENCE: Ticks = Ticks(50);
/// … and one of which nothing is known so long (1 s): a request that crossed the answer has arrived by then …
const SUSPICION: Ticks = Ticks(10);
/// … and all together may take so long (30 s), however much comes.
const LINGER: Ticks = Ticks(300);
/// An answer up to this size is with the client, or as good as, when it is written.
const SHORT_ANSWER_BYTES: u64 = 64 * 1024;

/// Waiting for the client to finish.
#[derive(Debug, Clone, Copy)]
pub(super) struct Linger {
    end: End,
    /// The client was told that nothing more will be sent.
    told: bool,
    /// When it is over unless something comes.
    silent_until: u64,
    /// When it is over.
    until: u64,
}

impl Linger {
    /// For a connection that is closed at once.
    pub(super) fn none(end: End) -> Self {
        Self { end, told: true, silent_until: 0, until: 0 }
    }

    /// The last answer is written; `read`: nothing of its request is still to come. `None`: the socket can be closed.
    pub(super) fn begin(client: &Client, read: bool, end: End, cx: &mut Cx) -> Option<Self> {
        let silence = if read && client.side.inbuf.is_empty() { look(client, cx)? } else { SILENCE };
        let told = cx.reactor.finish(&client.side.io);
        let until = cx.clock.after(LINGER);
        Some(Self { end, told, silent_until: cx.clock.after(silence), until })
    }

    /// As what the connection ends.
    pub(super) fn end(&self) -> End {
        self.end
    }

    /// When this must be looked at even if nothing happens: then it is over.
    pub(super) fn limit(&self) -> u64 {
        self.silent_until.min(self.until)
    }

    /// Reads what the client still sends, and forgets it.
    pub(super) fn run(&mut self, side: &mut Side, cx: &mut Cx) -> Step {
        self.told = self.told || cx.reactor.finish(&side.io);
        let mut budget = TURN_BYTES;
        while budget > 0 {
            side.inbuf.clear();
            cx.buffers.ensure_small(&mut side.inbuf);
            match cx.reactor.recv(&side.io, &mut side.inbuf) {
                Ok(Received::Bytes(count)) => {
                    budget = budget.saturating_sub(count);
                    self.silent_until = cx.clock.after(SILENCE);
                }
                Ok(Received::Blocked) => {
                    cx.buffers.release(&mut side.inbuf);
                    return Step::Wait;
                }
                Ok(Received::End) | Err(_) => return Step::Over(self.end),
            }
        }
        Step::Again
    }

    /// True if closing the socket now could cost the client something of the answer.
    pub(super) fn is_loss(client: &Client, cx: &Cx) -> bool {
        // One is the end itself. What was written to a Unix socket (whose clients have no address) is with the peer already.
        client.peer.is_some() && cx.reactor.unsent_bytes(&client.side.io).is_ok_and(|count| count > 1)
    }
}

/// Nothing more is expected from the client: has it sent something all the same? How long to linger; `None`: not at all.
fn look(client: &Client, cx: &mut Cx) -> Option<Ticks> {
    // Whatever the flags say: they are as old as the last event, and a short connection is not registered at all.
    match cx.reactor.look(&client.side.io) {
        Ok(Received::End) => None,
        Ok(Received::Bytes(_)) => Some(SILENCE),
        Ok(Received::Blocked) => {
            let announced = !client.request.keep_alive && client.bytes_out <= SHORT_ANSWER_BYTES;
            (!announced).then_some(SUSPICION)
        }
        Err(_) => None,
    }
}
