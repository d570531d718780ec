//! Keys of sessions: where the traffic secrets come from, and what is derived from them (RFC 8446 §7).
//!
//! ```text
//!   rustls' key log ──▶ traffic secret ── "key", "iv" ──▶ key and IV of one direction
//!                            │
//!                            └── "traffic upd" ──▶ the next traffic secret (KeyUpdate), numbered from 0 again
//! ```
//!
//! TLS 1.2 has no traffic secrets: key and IV are what the handshake agreed on, for as long as the connection lives.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::{aead, hkdf};
use rustls::KeyLog;
use zeroize::Zeroize;

use crate::suite::{Cipher, Suite, Version};

/// Bytes of the longest secret: a traffic secret of a SHA-384 suite.
pub(crate) const SECRET_BYTES: usize = 48;

/// Bytes of an IV, with all ciphers.
pub(crate) const IV_BYTES: usize = aead::NONCE_LEN;

/// Bytes of the longest key.
const KEY_BYTES: usize = 32;

/// A key could not be made: the library refused, which with lengths that fit it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyError;

impl From<aws_lc_rs::error::Unspecified> for KeyError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self
    }
}

/// Secret bytes of a known length; overwritten when dropped, and never shown.
#[derive(Clone)]
pub(crate) struct Secret {
    bytes: [u8; SECRET_BYTES],
    length: usize,
}

impl Secret {
    /// A copy of `bytes`, unless they are too many.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        let mut copy = [0; SECRET_BYTES];
        copy.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self { bytes: copy, length: bytes.len() })
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What protects one direction of a session.
pub(crate) struct Direction {
    /// Number of the next record under this key.
    pub(crate) number: u64,
    /// TLS 1.3: the traffic secret. TLS 1.2: the key itself.
    secret: Secret,
    /// TLS 1.3: of use only while `key` is there.
    iv: [u8; IV_BYTES],
    /// The expanded key, once it was needed.
    key: Option<aead::LessSafeKey>,
}

impl fmt::Debug for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direction").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Drop for Direction {
    fn drop(&mut self) {
        self.iv.zeroize();
    }
}

impl Direction {
    /// A direction of TLS 1.3; the length of the secret must be that of the suite.
    pub(crate) fn tls13(suite: Suite, number: u64, secret: Secret) -> Option<Self> {
        (suite.version() == Version::Tls13 && secret.length == suite.secret_bytes()).then(|| Self {
            number,
            secret,
            iv: [0; IV_BYTES],
            key: None,
        })
    }

    /// A direction of TLS 1.2; the length of the key must be that of the suite.
    pub(crate) fn tls12(suite: Suite, number: u64, key: Secret, iv: [u8; IV_BYTES]) -> Option<Self> {
        (suite.version() == Version::Tls12 && key.length == suite.cipher().key_bytes()).then(|| Self {
            number,
            secret: key,
            iv,
            key: None,
        })
    }

    /// The traffic secret or the key.
    pub(crate) fn secret(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    pub(crate) fn iv(&self) -> &[u8; IV_BYTES] {
        &self.iv
    }

    /// The key and the IV, built if they are not there.
    pub(crate) fn ready(&mut self, suite: Suite) -> Result<(&aead::LessSafeKey, &[u8; IV_BYTES]), KeyError> {
        if self.key.is_none() {
            let cipher = suite.cipher();
            self.key = Some(match suite.version() {
                Version::Tls13 => {
                    expand_label(suite, &self.secret, "iv", &mut self.iv)?;
                    let mut key = [0; KEY_BYTES];
                    let expanded = key.get_mut(..cipher.key_bytes()).ok_or(KeyError).and_then(|key| {
                        expand_label(suite, &self.secret, "key", key)?;
                        expanded(cipher, key)
                    });
                    key.zeroize();
                    expanded?
                }
                Version::Tls12 => expanded(cipher, self.secret.as_bytes())?,
            });
        }
        self.key.as_ref().map(|key| (key, &self.iv)).ok_or(KeyError)
    }

    /// Goes on to the next traffic secret (RFC 8446 §7.2).
    pub(crate) fn update(&mut self, suite: Suite) -> Result<(), KeyError> {
        let mut next = Secret { bytes: [0; SECRET_BYTES], length: self.secret.length };
        expand_label(suite, &self.secret, "traffic upd", next.bytes.get_mut(..next.length).ok_or(KeyError)?)?;
        self.secret = next;
        self.number = 0;
        self.key = None;
        Ok(())
    }

    /// Lets go of the expanded key until it is needed.
    pub(crate) fn rest(&mut self) {
        self.key = None;
    }

    #[cfg(test)]
    pub(crate) fn is_built(&self) -> bool {
        self.key.is_some()
    }
}

fn expanded(cipher: Cipher, key: &[u8]) -> Result<aead::LessSafeKey, KeyError> {
    Ok(aead::LessSafeKey::new(aead::UnboundKey::new(cipher.algorithm(), key)?))
}

/// The length of what is expanded, as the library wants to be told it.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446 §7.1).
fn expand_label(suite: Suite, secret: &Secret, label: &str, out: &mut [u8]) -> Result<(), KeyError> {
    const PREFIX: &str = "tls13 ";
    let length = u16::try_from(out.len()).map_err(|_| KeyError)?.to_be_bytes();
    let label_length = [u8::try_from(PREFIX.len() + label.len()).map_err(|_| KeyError)?];
    let info: [&[u8]; 5] = [&length, &label_length, PREFIX.as_bytes(), label.as_bytes(), &[0]];
    let secret = hkdf::Prk::new_less_safe(suite.hash(), secret.as_bytes());
    let expanded = secret.expand(&info, Length(out.len()))?;
    Ok(expanded.fill(out)?)
}

/// The two traffic secrets of a handshake of TLS 1.3.
#[derive(Debug, Default)]
pub(crate) struct Captured {
    pub(crate) client: Option<Secret>,
    pub(crate) server: Option<Secret>,
}

thread_local! {
    /// Where the hook puts secrets: there only while a handshake of this thread is being fed.
    static CAPTURING: RefCell<Option<Captured>> = const { RefCell::new(None) };
}

/// The hook in rustls configurations that hands the traffic secrets of TLS 1.3 to the handshake being fed.
///
/// KeyUpdate needs the secrets, and rustls gives them to its key log only. A handshake is fed synchronously, so the
/// secrets are kept in the thread for the duration of one call of `feed`, and nowhere else: a connection that others
/// drive with the same configuration leaves nothing behind.
#[derive(Debug, Clone, Copy)]
pub struct TrafficSecrets;

impl TrafficSecrets {
    /// The hook, to put into a configuration.
    #[must_use]
    pub fn hook() -> Arc<dyn KeyLog> {
        Arc::new(Self)
    }

    /// Calls `feed`; the secrets that come up in it are added to `captured`.
    pub(crate) fn capture<T>(captured: &mut Captured, feed: impl FnOnce() -> T) -> T {
        CAPTURING.set(Some(Captured::default()));
        let result = feed();
        if let Some(found) = CAPTURING.take() {
            captured.client = found.client.or_else(|| captured.client.take());
            captured.server = found.server.or_else(|| captured.server.take());
        }
        result
    }
}

impl KeyLog for TrafficSecrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        CAPTURING.with_borrow_mut(|capturing| {
            let Some(captured) = capturing else { return };
            match label {
                "CLIENT_TRAFFIC_SECRET_0" => captured.client = Secret::new(secret),
                "SERVER_TRAFFIC_SECRET_0" => captured.server = Secret::new(secret),
                _ => {}
            }
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, "CLIENT_TRAFFIC_SECRET_0" | "SERVER_TRAFFIC_SECRET_0")
    }
}
