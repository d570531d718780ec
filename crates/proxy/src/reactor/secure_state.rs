//! What a connection over TLS has besides its socket, written down: the bytes that travel to another process.
//!
//! ```text
//!   flags(1) facts(varint: their number in a table) session: length(1) bytes
//!   then, as the flags say:  received: length(varint) bytes
//!                            plain:    length(varint) bytes       what was not taken
//!                            sealed:   length(varint) bytes owed(varint)    what was not sent
//! ```
//!
//! An idle connection over TLS 1.3 takes 88 bytes with a SHA-256 suite and 120 with a SHA-384 one. They hold keys: whoever
//! has them overwrites them afterwards.

use std::sync::Arc;

use handover_tls::{Facts, Session};

use super::Secure;
use crate::moving::bytes::{Damaged, Input, put_bytes, put_varint};

const RECEIVED: u8 = 1;
const UNOPENED: u8 = 2;
const PLAIN: u8 = 4;
const SEALED: u8 = 8;
const ENDED: u8 = 16;
const BROKEN: u8 = 32;
const SHUT: u8 = 64;
const CUT: u8 = 128;

impl Secure {
    /// Appends everything that another process needs to go on. `facts` is the number under which [`Secure::facts`] will be found there.
    /// From then on only one of the two may go on.
    pub(crate) fn write(&self, facts: u32, out: &mut Vec<u8>) {
        let (plain, sealed) = (self.untaken(), self.unsent());
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.push(
            flag(!self.received.is_empty(), RECEIVED)
                | flag(self.unopened, UNOPENED)
                | flag(!plain.is_empty(), PLAIN)
                | flag(!sealed.is_empty(), SEALED)
                | flag(self.ended, ENDED)
                | flag(self.broken, BROKEN)
                | flag(self.shut, SHUT)
                | flag(self.cut, CUT),
        );
        put_varint(out, u64::from(facts));
        let length_at = out.len();
        out.push(0);
        self.session.write(out);
        let length = out.len() - length_at - 1;
        // At most `STATE_BYTES`, which is less than 256.
        if let (Some(place), Ok(length)) = (out.get_mut(length_at), u8::try_from(length)) {
            *place = length;
        }
        if !self.received.is_empty() {
            put_bytes(out, &self.received);
        }
        if !plain.is_empty() {
            put_bytes(out, plain);
        }
        if !sealed.is_empty() {
            put_bytes(out, sealed);
            put_varint(out, self.owed() as u64);
        }
    }

    /// What [`Secure::write`] wrote; `facts` gives facts by their numbers. Keys are built when they are first needed.
    ///
    /// # Errors
    /// Bytes that are not that, or facts that are not there.
    pub(crate) fn read(
        input: &mut Input<'_>,
        facts: impl FnOnce(u32) -> Option<Arc<Facts>>,
    ) -> Result<Self, Damaged> {
        let flags = input.byte()?;
        let has = |flag: u8| flags & flag != 0;
        let facts = u32::try_from(input.varint()?).ok().and_then(facts).ok_or(Damaged)?;
        let length = usize::from(input.byte()?);
        let session = Session::read(input.take(length)?).map_err(|_| Damaged)?;
        let mut part = |flag: u8| {
            if has(flag) { Ok(input.bytes()?.to_vec()) } else { Ok(Vec::new()) }
        };
        let (received, plain, sealed) = (part(RECEIVED)?, part(PLAIN)?, part(SEALED)?);
        let owed = if has(SEALED) { usize::try_from(input.varint()?).map_err(|_| Damaged)? } else { 0 };
        let mut secure = Self::new(session, facts, received, Vec::new());
        secure.unopened = has(UNOPENED);
        secure.keep_plain(&plain);
        secure.keep_sealed(&sealed, owed);
        secure.ended = has(ENDED);
        secure.broken = has(BROKEN);
        secure.shut = has(SHUT);
        secure.cut = has(CUT);
        Ok(secure)
    }
}
