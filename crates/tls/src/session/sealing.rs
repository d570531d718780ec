//! The sending half of a session: data, key updates and alerts become records.
//!
//! ```text
//!   what is due (a key update asked for, a warning) ──▶ data, in full records ──▶ … ──▶ close_notify or an alert
//!                                                         └ a key update when the key is worn out
//! ```

use super::{
    Due, KEY_UPDATE_BYTES, OVERHEAD_BYTES, PLAINTEXT_BYTES, RecordError, SealError, Sealed, Session,
};
use crate::alert::Alert;
use crate::record::{self, Content};
use crate::suite::Version;

/// Levels of alerts (RFC 8446 §6).
const WARNING: u8 = 1;
const FATAL: u8 = 2;

impl Session {
    /// Seals the parts, one after the other as if they were one text, into full records in `out`, as many as fit; the
    /// last one may be shorter. A reply that is due goes first. Nothing is allocated; each byte is read once and
    /// written once, except where a record spans parts. `out` should have [`Session::sealed_bytes`] of a record's
    /// plaintext at least; with less than some 100 bytes nothing may ever fit.
    ///
    /// # Errors
    /// Nothing can be sealed any more. Nothing was written.
    pub fn seal_into(&mut self, parts: &[&[u8]], out: &mut [u8]) -> Result<Sealed, SealError> {
        if self.we_ended {
            return Err(SealError::Ended);
        }
        let mut sealed = Sealed { taken: 0, written: 0 };
        if self.has_reply() {
            let Some(written) = self.put_reply(out)? else { return Ok(sealed) };
            sealed.written = written;
        }
        let overhead = record::overhead_bytes(self.suite);
        let mut cursor = Cursor::new(parts);
        loop {
            let wanted = cursor.left.min(PLAINTEXT_BYTES);
            let room = out.len().saturating_sub(sealed.written + overhead);
            // Short records only at the end, and where not even one full one fits.
            let length = if sealed.taken == 0 { wanted.min(room) } else { wanted };
            if length == 0 || length > room {
                return Ok(sealed);
            }
            let rest = out.get_mut(sealed.written..).unwrap_or_default();
            if self.writing.number >= self.records_per_key() {
                match self.put_key_update(false, rest) {
                    Err(SealError::Exhausted) if sealed.taken > 0 => return Ok(sealed),
                    Err(error) => return Err(error),
                    Ok(None) => return Ok(sealed),
                    Ok(Some(written)) => sealed.written += written,
                }
                continue;
            }
            sealed.written += match cursor.whole(length) {
                Some(part) => self.put(record::APPLICATION_DATA, Content::Whole(part), rest)?,
                None => {
                    let mut copy = |body: &mut [u8]| cursor.copy(body);
                    self.put(record::APPLICATION_DATA, Content::Gathered(length, &mut copy), rest)?
                }
            };
            sealed.taken += length;
        }
    }

    /// Seals one record at the front of `out`.
    fn put(&mut self, content_type: u8, content: Content<'_>, out: &mut [u8]) -> Result<usize, SealError> {
        Ok(record::seal(self.suite, &mut self.writing, content_type, content, out)?)
    }

    /// Writes what is due to the front of `out`, if there is room for it.
    fn put_reply(&mut self, out: &mut [u8]) -> Result<Option<usize>, SealError> {
        if out.len() < KEY_UPDATE_BYTES + record::overhead_bytes(self.suite) {
            return Ok(None);
        }
        let due = std::mem::replace(&mut self.due, Due::NOTHING);
        if due.rebuff {
            let warning = [WARNING, Alert::NO_RENEGOTIATION.0];
            return self.put(record::ALERT, Content::Whole(&warning), out).map(Some);
        }
        self.put_key_update(due.ask, out)
    }

    /// Writes a key update to the front of `out`, if there is room for it, and goes on with the next key.
    fn put_key_update(&mut self, ask: bool, out: &mut [u8]) -> Result<Option<usize>, SealError> {
        if self.suite.version() == Version::Tls12 {
            return Err(SealError::Exhausted);
        }
        if out.len() < KEY_UPDATE_BYTES + record::overhead_bytes(self.suite) {
            return Ok(None);
        }
        let message: [u8; KEY_UPDATE_BYTES] = [24, 0, 0, 1, u8::from(ask)];
        let written = self.put(record::HANDSHAKE, Content::Whole(&message), out)?;
        self.writing.update(self.suite)?;
        self.due.answer = false;
        Ok(Some(written))
    }

    /// Appends all of `plaintext` to `out`, as records.
    ///
    /// # Errors
    /// As [`Session::seal_into`]; `out` is as it was, except that what fitted under the last key has been appended.
    pub fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let mut rest = plaintext;
        loop {
            let at = out.len();
            out.resize(at + Self::sealed_bytes(rest.len()), 0);
            let sealed = self.seal_into(&[rest], out.get_mut(at..).unwrap_or_default());
            out.truncate(at + sealed.as_ref().map_or(0, |sealed| sealed.written));
            rest = rest.get(sealed?.taken..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// The bytes that sealing `plain` bytes takes at most, replies and key updates included.
    #[must_use]
    pub const fn sealed_bytes(plain: usize) -> usize {
        let records = plain.div_ceil(PLAINTEXT_BYTES);
        plain + records * OVERHEAD_BYTES + 2 * (KEY_UPDATE_BYTES + OVERHEAD_BYTES)
    }

    /// True if [`Session::take_reply`] has something to send.
    #[must_use]
    pub fn has_reply(&self) -> bool {
        self.due != Due::NOTHING && !self.we_ended
    }

    /// Appends what the peer must be answered with (a key update it asked for); nothing, when nothing is due. What is
    /// not taken goes out with the next data.
    ///
    /// # Errors
    /// A key that cannot be made.
    pub fn take_reply(&mut self, out: &mut Vec<u8>) -> Result<(), SealError> {
        if !self.has_reply() {
            return Ok(());
        }
        append(out, |room| self.put_reply(room))
    }

    /// TLS 1.3: appends a key update, and seals with the next key from then on; `ask` wants the same of the peer.
    /// TLS 1.2 has none: nothing happens. Done by itself before the limits of the cipher.
    ///
    /// # Errors
    /// As [`Session::seal_into`].
    pub fn update_key(&mut self, ask: bool, out: &mut Vec<u8>) -> Result<(), SealError> {
        if self.we_ended {
            return Err(SealError::Ended);
        }
        match self.suite.version() {
            Version::Tls13 => append(out, |room| self.put_key_update(ask, room)),
            Version::Tls12 => Ok(()),
        }
    }

    /// Appends close_notify: the orderly end of what we send. Once; again it appends nothing.
    pub fn close_notify(&mut self, out: &mut Vec<u8>) {
        self.end(WARNING, Alert::CLOSE_NOTIFY, out);
    }

    /// Appends the alert that belongs to `error`, if one does; nothing can be sent after it.
    pub fn refuse(&mut self, error: RecordError, out: &mut Vec<u8>) {
        match error.alert() {
            Some(alert) => self.end_with(alert, out),
            None => (self.over, self.we_ended) = (true, true),
        }
    }

    /// Appends a fatal alert.
    pub(crate) fn end_with(&mut self, alert: Alert, out: &mut Vec<u8>) {
        self.over = true;
        self.end(FATAL, alert, out);
    }

    /// Appends an alert after which nothing may come; nothing if one went before.
    fn end(&mut self, level: u8, alert: Alert, out: &mut Vec<u8>) {
        if !self.we_ended {
            let content = [level, alert.0];
            // A key that cannot be made leaves the connection to end without a word.
            let _ = append(out, |room| self.put(record::ALERT, Content::Whole(&content), room).map(Some));
            self.we_ended = true;
        }
    }
}

/// Lets `put` write one short record behind what is in `out`.
fn append(
    out: &mut Vec<u8>,
    put: impl FnOnce(&mut [u8]) -> Result<Option<usize>, SealError>,
) -> Result<(), SealError> {
    let at = out.len();
    out.resize(at + KEY_UPDATE_BYTES + OVERHEAD_BYTES, 0);
    let written = put(out.get_mut(at..).unwrap_or_default());
    out.truncate(at + written.as_ref().ok().copied().flatten().unwrap_or(0));
    written.map(|_| ())
}

/// A place in several parts that are read as one text.
struct Cursor<'a> {
    parts: &'a [&'a [u8]],
    /// Bytes of the first part that are done with.
    at: usize,
    left: usize,
}

impl<'a> Cursor<'a> {
    fn new(parts: &'a [&'a [u8]]) -> Self {
        Self { parts, at: 0, left: parts.iter().map(|part| part.len()).sum() }
    }

    /// What is left of the first part that is not done with.
    fn here(&mut self) -> &'a [u8] {
        while let Some((first, rest)) = self.parts.split_first() {
            match first.get(self.at..) {
                Some(here) if !here.is_empty() => return here,
                _ => (self.parts, self.at) = (rest, 0),
            }
        }
        &[]
    }

    /// The next `count` bytes, if they are in one part.
    fn whole(&mut self, count: usize) -> Option<&'a [u8]> {
        let whole = self.here().get(..count)?;
        self.at += count;
        self.left -= count;
        Some(whole)
    }

    /// Copies the next bytes, from as many parts as it takes.
    fn copy(&mut self, mut to: &mut [u8]) {
        while !to.is_empty() {
            let here = self.here();
            let count = here.len().min(to.len());
            if count == 0 {
                return;
            }
            let (now, later) = to.split_at_mut(count);
            now.copy_from_slice(here.get(..count).unwrap_or_default());
            self.at += count;
            self.left -= count;
            to = later;
        }
    }
}
