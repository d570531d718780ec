//! What a connection over TLS has besides its socket: the session, and bytes that are between two states.
//!
//! ```text
//!   kernel ──recv──▶ received ──open──▶ plain ──▶ caller       (usually straight through: both stay empty)
//!                    (part of a record) (no room for it)
//!
//!   caller ──seal──▶ sealed ──send──▶ kernel                   (usually straight through, too)
//!                    (the kernel did not take it)
//! ```
//!
//! An idle connection holds no memory but this struct. What the kernel did not take of what was sealed is kept here, and the
//! caller is told that its bytes are sent when the last of their records is out: until then it comes again with the
//! same bytes in front. Records cannot be taken back: a caller that has changed its mind says [`Secure::disown`].

use std::mem;
use std::sync::Arc;

use handover_tls::{Facts, RecordError, Session};

/// What a connection over TLS has besides its socket.
#[derive(Debug)]
pub(crate) struct Secure {
    pub(super) session: Session,
    facts: Arc<Facts>,
    /// From the peer: the beginning of a record; or, if `unopened`, perhaps whole ones.
    pub(super) received: Vec<u8>,
    pub(super) unopened: bool,
    /// From the peer, opened, and not taken from `taken` on.
    plain: Vec<u8>,
    taken: usize,
    /// For the peer, sealed, and not sent from `sent` on.
    sealed: Vec<u8>,
    sent: usize,
    /// How many of the caller's bytes are in `sealed`.
    owed: usize,
    /// The peer has said that nothing more follows.
    pub(super) ended: bool,
    /// The peer has broken the rules: nothing can be read any more.
    pub(super) broken: bool,
    /// The socket was told that nothing more will be sent.
    pub(super) shut: bool,
    /// What is sent has no end: it breaks off, and the peer must be able to tell.
    pub(super) cut: bool,
}

impl Secure {
    /// A session that begins now. `received`: what came behind the handshake's last record. `unsent`: what the handshake leaves to be
    /// sent; it goes out with the first bytes that are.
    pub(crate) fn new(session: Session, facts: Arc<Facts>, received: Vec<u8>, unsent: Vec<u8>) -> Self {
        // An empty vector may hold memory all the same.
        let held = |bytes: Vec<u8>| if bytes.is_empty() { Vec::new() } else { bytes };
        Self {
            session,
            facts,
            unopened: !received.is_empty(),
            received: held(received),
            plain: Vec::new(),
            taken: 0,
            sealed: held(unsent),
            sent: 0,
            owed: 0,
            ended: false,
            broken: false,
            shut: false,
            cut: false,
        }
    }

    /// What the handshake found out.
    pub(crate) fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }

    /// Memory that it holds besides itself.
    pub(super) fn held(&self) -> usize {
        self.received.capacity() + self.plain.capacity() + self.sealed.capacity()
    }

    /// True if a read would bring something without asking the kernel.
    pub(super) fn has_input(&self) -> bool {
        !self.plain.is_empty() || self.unopened || self.ended || self.broken
    }

    /// Bytes were opened and are not all taken.
    pub(super) fn has_plain(&self) -> bool {
        !self.plain.is_empty()
    }

    /// The beginning of a record has come, and not its end.
    pub(super) fn has_part(&self) -> bool {
        !self.received.is_empty()
    }

    /// Gives up to `room` opened bytes to `to`.
    pub(super) fn give(&mut self, to: &mut Vec<u8>, room: usize) -> usize {
        let rest = self.plain.get(self.taken..).unwrap_or_default();
        let count = rest.len().min(room);
        to.extend_from_slice(rest.get(..count).unwrap_or_default());
        self.taken += count;
        if self.taken >= self.plain.len() {
            self.plain = Vec::new();
            self.taken = 0;
        }
        count
    }

    /// Keeps opened bytes for which there was no room.
    pub(super) fn keep_plain(&mut self, bytes: &[u8]) {
        self.plain.extend_from_slice(bytes);
    }

    /// Keeps what is left of received bytes: part of a record.
    pub(super) fn keep_received(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || self.ended || self.broken {
            self.received = Vec::new();
        } else {
            self.received.clear();
            self.received.extend_from_slice(bytes);
        }
    }

    /// The peer has broken the rules: it is told so with whatever is sent next.
    pub(super) fn refuse(&mut self, error: RecordError) {
        self.broken = true;
        self.session.refuse(error, &mut self.sealed);
    }

    /// Nothing more will be sent: the peer is told so behind what waits.
    pub(super) fn end(&mut self) {
        self.session.close_notify(&mut self.sealed);
    }

    /// What was sealed and is not sent.
    pub(super) fn unsent(&self) -> &[u8] {
        self.sealed.get(self.sent..).unwrap_or_default()
    }

    /// `count` bytes of [`Secure::unsent`] were sent. When all are: how many of the caller's bytes that were.
    pub(super) fn was_sent(&mut self, count: usize) -> Option<usize> {
        self.sent += count;
        if self.sent < self.sealed.len() {
            return None;
        }
        self.sealed = Vec::new();
        self.sent = 0;
        Some(mem::take(&mut self.owed))
    }

    /// Keeps sealed bytes that the kernel did not take; `owed` of the caller's bytes are in them. Nothing else waits.
    pub(super) fn keep_sealed(&mut self, bytes: &[u8], owed: usize) {
        self.sealed.clear();
        self.sealed.extend_from_slice(bytes);
        self.sent = 0;
        self.owed = owed;
    }

    /// How many of the caller's bytes are among those that wait.
    pub(super) fn owed(&self) -> usize {
        self.owed
    }

    /// Opened bytes that were not taken.
    pub(super) fn untaken(&self) -> &[u8] {
        self.plain.get(self.taken..).unwrap_or_default()
    }

    /// Some of the caller's bytes are among those that wait: it comes again with them.
    pub(super) fn owes(&self) -> bool {
        self.owed > 0
    }

    /// The caller will not come again with the bytes that are in records already: they go out all the same, in front of what it
    /// comes with next.
    pub(super) fn disown(&mut self) {
        self.owed = 0;
    }
}
