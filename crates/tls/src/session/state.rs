//! A session written down: the bytes that travel to another process.
//!
//! ```text
//!   format(1) suite(2) flags(1)
//!   begun message: have(1) head(have) [left(4) when have = 4]
//!   reading: number(8), TLS 1.3: secret(32|48), TLS 1.2: key(16|32) IV(12)
//!   writing: the same
//! ```
//!
//! Numbers are big-endian. Keys are not built from it before they are needed.

use super::messages::{Pending, Side};
use super::{Due, Patience, STATE_BYTES, Session, StateError};
use crate::keys::{Direction, IV_BYTES, Secret};
use crate::suite::{Suite, Version};

/// The format that this release writes.
const FORMAT: u8 = 1;

const CLIENT: u8 = 1;
const PEER_ENDED: u8 = 2;
const WE_ENDED: u8 = 4;
const OVER: u8 = 8;
const ANSWER: u8 = 16;
const ASK: u8 = 32;
const REBUFF: u8 = 64;
const REBUFFED: u8 = 128;

impl Session {
    /// Appends everything that another process needs to go on: at most [`STATE_BYTES`]. It holds the keys: keep it in
    /// memory only, and overwrite it afterwards. Session tickets that have not come yet are forgotten.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.reserve(STATE_BYTES);
        out.push(FORMAT);
        out.extend_from_slice(&self.suite.number().to_be_bytes());
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.push(
            flag(self.side == Side::Client, CLIENT)
                | flag(self.peer_ended, PEER_ENDED)
                | flag(self.we_ended, WE_ENDED)
                | flag(self.over, OVER)
                | flag(self.due.answer, ANSWER)
                | flag(self.due.ask, ASK)
                | flag(self.due.rebuff, REBUFF)
                | flag(self.rebuffed, REBUFFED),
        );
        self.pending.write(out);
        for direction in [&self.reading, &self.writing] {
            out.extend_from_slice(&direction.number.to_be_bytes());
            out.extend_from_slice(direction.secret());
            if self.suite.version() == Version::Tls12 {
                out.extend_from_slice(direction.iv());
            }
        }
    }

    /// The session that [`Session::write`] wrote. Keys are built when they are first needed.
    ///
    /// # Errors
    /// Bytes that are not exactly one session's state.
    pub fn read(bytes: &[u8]) -> Result<Self, StateError> {
        match bytes.first() {
            Some(&FORMAT) => read(bytes).ok_or(StateError::Damaged),
            Some(&format) => Err(StateError::Format(format)),
            None => Err(StateError::Damaged),
        }
    }
}

fn read(bytes: &[u8]) -> Option<Session> {
    let mut rest = bytes.get(1..)?;
    let mut take = |count: usize| {
        let (front, back) = rest.split_at_checked(count)?;
        rest = back;
        Some(front)
    };
    let suite = Suite::from_number(u16::from_be_bytes(*take(2)?.first_chunk()?))?;
    let flags = *take(1)?.first()?;
    let has = |flag: u8| flags & flag != 0;
    let side = if has(CLIENT) { Side::Client } else { Side::Server };
    let pending = Pending::read(side, suite.version(), &mut take)?;
    let mut direction = || {
        let number = u64::from_be_bytes(*take(8)?.first_chunk()?);
        match suite.version() {
            Version::Tls13 => Direction::tls13(suite, number, Secret::new(take(suite.secret_bytes())?)?),
            Version::Tls12 => {
                let key = Secret::new(take(suite.cipher().key_bytes())?)?;
                Direction::tls12(suite, number, key, *take(IV_BYTES)?.first_chunk()?)
            }
        }
    };
    let (reading, writing) = (direction()?, direction()?);
    let due = Due { answer: has(ANSWER), ask: has(ASK), rebuff: has(REBUFF) };
    let fits = match suite.version() {
        Version::Tls13 => !has(REBUFF) && !has(REBUFFED),
        Version::Tls12 => !has(ANSWER) && !has(ASK),
    };
    (fits && rest.is_empty()).then_some(Session {
        suite,
        side,
        reading,
        writing,
        pending,
        due,
        peer_ended: has(PEER_ENDED),
        we_ended: has(WE_ENDED),
        over: has(OVER),
        rebuffed: has(REBUFFED),
        patience: Patience::FRESH,
        resumption: None,
    })
}
