//! Session tickets that a server sends after the handshake (RFC 8446 §4.6.1): handed to rustls, which keeps them in the
//! client configuration's store, so that the next connection to the same server is resumed.
//!
//! What rustls needs for it is kept with the session until a ticket and then data have come, or until data has come a
//! few times without any: most servers send their tickets right after the handshake.

use std::fmt;

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;

use super::RecordError;
use super::messages::BODY_BYTES;

/// How many records with data are waited for a first ticket.
const RECORDS_TO_WAIT: u8 = 8;

/// What receives tickets.
pub(crate) struct Resumption {
    connection: KernelConnection<ClientConnectionData>,
    /// Pieces of a ticket that more than one record carries.
    pieces: Vec<u8>,
    waiting: u8,
}

impl fmt::Debug for Resumption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resumption")
    }
}

impl Resumption {
    pub(crate) fn new(connection: KernelConnection<ClientConnectionData>) -> Self {
        Self { connection, pieces: Vec::new(), waiting: RECORDS_TO_WAIT }
    }

    /// Takes a piece of a ticket's body; with the last one the ticket is kept.
    pub(crate) fn take(&mut self, body: &[u8], last: bool) -> Result<(), RecordError> {
        if !last || !self.pieces.is_empty() {
            let most = usize::try_from(BODY_BYTES).unwrap_or(usize::MAX);
            if self.pieces.len() + body.len() > most {
                return Err(RecordError::Malformed("a session ticket longer than any can be"));
            }
            self.pieces.extend_from_slice(body);
        }
        if last {
            let pieces = std::mem::take(&mut self.pieces);
            let whole = if pieces.is_empty() { body } else { &pieces };
            self.waiting = 1;
            self.connection
                .handle_new_session_ticket(whole)
                .map_err(|_| RecordError::Malformed("a session ticket that cannot be read"))?;
        }
        Ok(())
    }

    /// Counts a record with data: true when no more tickets are to be waited for.
    pub(crate) fn is_done_after_data(&mut self) -> bool {
        self.waiting = self.waiting.saturating_sub(1);
        self.waiting == 0
    }
}
