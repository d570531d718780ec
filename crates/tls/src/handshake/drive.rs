//! Feeds rustls one record at a time, so that nothing behind the handshake's last record enters it.
//!
//! ```text
//!            ┌─────────────── a record is there ◀──────────────┐
//!            ▼                                                 │
//!   rustls takes it ──▶ bytes to send ──▶ needs more ──────────┴──▶ Step::More
//!                                    ├──▶ traffic may flow ───────▶ Step::Finished
//!                                    └──▶ error ──▶ its alert ────▶ Step::Failed
//! ```
//!
//! Records stay where they are until rustls lets go of them: a message may be spread over several.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus,
};

use super::HandshakeError;
use crate::alert::Alert;
use crate::record::{ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HEADER_BYTES};

/// The most bytes of records that a handshake may take: the longest message that rustls reads is 64 KiB.
pub(super) const HANDSHAKE_BYTES: usize = 160 * 1_024;

/// A length of records that no version allows (RFC 5246 §6.2.3).
const TOO_LONG: usize = 16_384 + 2_048 + 1;

/// The connection types of rustls, for which it has no common name.
pub(super) trait Side {
    type Data;

    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// True if it has bytes ready that were not taken.
    fn has_words(&self) -> bool;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(records)
    }

    fn has_words(&self) -> bool {
        self.wants_write()
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(records)
    }

    fn has_words(&self) -> bool {
        self.wants_write()
    }
}

/// Where the handshake is.
#[derive(Debug)]
pub(super) enum Step {
    /// More bytes are needed.
    More,
    /// It is done.
    Finished,
    /// rustls gave up, and its alert is among the bytes to send.
    Failed(rustls::Error),
    /// We gave up, or the peer left.
    Ended(HandshakeError),
}

/// What rustls wants next.
enum Next {
    Again,
    Record,
    Return(Step),
}

/// The bytes between the wire and rustls.
#[derive(Debug, Default)]
pub(super) struct Drive {
    incoming: Vec<u8>,
    /// Bytes at the front that rustls has let go of.
    start: usize,
    /// The end of the last record that was given to rustls.
    given: usize,
    /// Bytes given in all.
    total: usize,
    /// Where, in the bytes to send, the answer to the last record begins.
    answer: usize,
    /// True once anything was sent.
    pub(super) has_sent: bool,
}

impl Drive {
    /// Takes bytes in; [`Drive::run`] works on them.
    pub(super) fn take(&mut self, input: &[u8]) {
        self.incoming.extend_from_slice(input);
    }

    /// What has come and was not given to rustls yet.
    pub(super) fn waiting(&self) -> &[u8] {
        self.incoming.get(self.given..).unwrap_or_default()
    }

    /// Lets rustls work until it needs more. Each record is shown to `look` before.
    pub(super) fn run<S: Side>(
        &mut self,
        side: &mut S,
        out: &mut Vec<u8>,
        mut look: impl FnMut(&[u8]),
    ) -> Step {
        let before = out.len();
        self.answer = before;
        let step = loop {
            let records = self.incoming.get_mut(self.start..self.given).unwrap_or_default();
            let UnbufferedStatus { discard, state } = side.process(records);
            let next = next(state, out);
            self.start = (self.start + discard).min(self.given);
            match next {
                Next::Again => {}
                Next::Record => match self.give(out.len()) {
                    Ok(Some(record)) => look(record),
                    Ok(None) => break Step::More,
                    Err(error) => break Step::Ended(error),
                },
                Next::Return(Step::Failed(error)) => {
                    last_words(side, out);
                    break Step::Failed(error);
                }
                Next::Return(step) => break step,
            }
        };
        if self.start == self.incoming.len() {
            self.incoming.clear();
            (self.start, self.given) = (0, 0);
        }
        self.has_sent |= out.len() > before;
        step
    }

    /// Gives rustls one more record, if one is there whole. What cannot be a record is given as it is: rustls knows
    /// the alert for it.
    fn give(&mut self, answer: usize) -> Result<Option<&[u8]>, HandshakeError> {
        let waiting = self.incoming.get(self.given..).unwrap_or_default();
        let Some(&[content, major, _, high, low]) = waiting.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let possible =
            (CHANGE_CIPHER_SPEC..=APPLICATION_DATA + 1).contains(&content) && major == 3 && length < TOO_LONG;
        let whole = if possible { HEADER_BYTES + length } else { waiting.len() };
        let Some(record) = waiting.get(..whole) else { return Ok(None) };
        self.total += whole;
        if self.total > HANDSHAKE_BYTES {
            return Err(HandshakeError::TooLong(HANDSHAKE_BYTES));
        }
        self.given += whole;
        self.answer = answer;
        Ok(Some(record))
    }

    /// How many encrypted records the answer to the last record holds: after a server's handshake of TLS 1.3 these are
    /// those under the first traffic key (tickets).
    pub(super) fn encrypted_records(&self, out: &[u8]) -> u64 {
        let mut rest = out.get(self.answer..).unwrap_or_default();
        let mut count = 0;
        while let Some((&[content, _, _, high, low], behind)) = rest.split_first_chunk::<HEADER_BYTES>() {
            count += u64::from(content == APPLICATION_DATA);
            rest = behind.get(usize::from(u16::from_be_bytes([high, low]))..).unwrap_or_default();
        }
        count
    }

    /// What came behind the handshake.
    pub(super) fn leftover(&mut self) -> Vec<u8> {
        let mut leftover = std::mem::take(&mut self.incoming);
        leftover.drain(..self.given.min(leftover.len()));
        leftover
    }
}

fn next<Data>(state: Result<ConnectionState<'_, '_, Data>, rustls::Error>, out: &mut Vec<u8>) -> Next {
    match state {
        Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out),
        Ok(ConnectionState::TransmitTlsData(sent)) => {
            sent.done();
            Next::Again
        }
        Ok(ConnectionState::BlockedHandshake) => Next::Record,
        Ok(ConnectionState::WriteTraffic(_)) => Next::Return(Step::Finished),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
            Next::Return(Step::Ended(HandshakeError::Closed))
        }
        Ok(other) => {
            let what = format!("rustls wants what the handshake does not do: {other:?}");
            Next::Return(Step::Ended(HandshakeError::Internal(what)))
        }
        Err(error) => Next::Return(Step::Failed(error)),
    }
}

/// Appends what rustls wants to send.
fn encode<Data>(mut data: EncodeTlsData<'_, Data>, out: &mut Vec<u8>) -> Next {
    let at = out.len();
    let mut written = data.encode(&mut []);
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = written {
        out.resize(at + required_size, 0);
        written = data.encode(out.get_mut(at..).unwrap_or_default());
    }
    match written {
        Ok(written) => {
            out.truncate(at + written);
            Next::Again
        }
        Err(error) => Next::Return(Step::Ended(HandshakeError::Internal(error.to_string()))),
    }
}

/// Appends the alert that rustls has ready after an error. It must not get to look at its messages again, whose places
/// in the records it remembers: it would fail again, and object to having two alerts. While it has bytes ready it does
/// not look.
fn last_words<S: Side>(side: &mut S, out: &mut Vec<u8>) {
    while side.has_words() {
        match side.process(&mut []).state {
            Ok(ConnectionState::EncodeTlsData(data)) => match encode(data, out) {
                Next::Again => {}
                _ => return,
            },
            _ => return,
        }
    }
}

/// Appends a fatal alert that is not encrypted: for the time before there are keys.
pub(super) fn plain_alert(alert: Alert, out: &mut Vec<u8>) {
    const FATAL: u8 = 2;
    out.extend_from_slice(&[ALERT, 3, 3, 0, 2, FATAL, alert.0]);
}
