//! From a finished handshake of rustls to a session of ours.
//!
//! ```text
//!   TLS 1.3: traffic secrets from the key log hook, numbered from what was sent under them ─┐
//!   TLS 1.2: keys, IVs and numbers that rustls gives out ───────────────────────────────────┴▶ Session
//! ```
//!
//! With TLS 1.3 the keys are derived by us from the start, with what KeyUpdate and a move to another process need: a
//! wrong secret would show in the first record, not hours later.

use rustls::{CommonState, ConnectionTrafficSecrets, ExtractedSecrets, HandshakeKind};

use super::{Facts, HandshakeError};
use crate::keys::{Captured, Direction, IV_BYTES, Secret};
use crate::session::{Session, Side};
use crate::suite::{Suite, Version};

/// What was agreed.
pub(super) fn facts(state: &CommonState) -> Result<Facts, HandshakeError> {
    let suite = state.negotiated_cipher_suite().and_then(|suite| Suite::of(suite.suite()));
    let suite =
        suite.ok_or_else(|| HandshakeError::Internal("no known cipher suite was agreed on".to_owned()))?;
    Ok(Facts {
        sni: None,
        alpn: state.alpn_protocol().map(Box::from),
        version: suite.version(),
        suite,
        resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
        group: state.negotiated_key_exchange_group().and_then(|group| group.name().as_str()),
        client_subject: None,
    })
}

/// The session that goes on from here. `sent`: records already sent under the first traffic key of TLS 1.3.
pub(super) fn session(
    side: Side,
    suite: Suite,
    captured: Captured,
    sent: u64,
    extract: impl FnOnce() -> Result<ExtractedSecrets, rustls::Error>,
) -> Result<Session, HandshakeError> {
    let directions = match suite.version() {
        Version::Tls13 => {
            let (theirs, ours) = match side {
                Side::Server => (captured.client, captured.server),
                Side::Client => (captured.server, captured.client),
            };
            let reading = theirs.and_then(|secret| Direction::tls13(suite, 0, secret));
            let writing = ours.and_then(|secret| Direction::tls13(suite, sent, secret));
            reading.zip(writing)
        }
        Version::Tls12 => {
            let ExtractedSecrets { tx, rx } =
                extract().map_err(|error| HandshakeError::Internal(error.to_string()))?;
            tls12(suite, &rx).zip(tls12(suite, &tx))
        }
    };
    let (reading, writing) = directions.ok_or_else(|| {
        HandshakeError::Internal(
            "the secrets did not come: the configuration lacks the key log hook".to_owned(),
        )
    })?;
    Ok(Session::new(suite, side, reading, writing))
}

fn tls12(suite: Suite, (number, secrets): &(u64, ConnectionTrafficSecrets)) -> Option<Direction> {
    let (key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key, iv),
        _ => return None,
    };
    let iv: [u8; IV_BYTES] = iv.as_ref().try_into().ok()?;
    Direction::tls12(suite, *number, Secret::new(key.as_ref())?, iv)
}
