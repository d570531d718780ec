//! TLS: certificates that are read, checked and published as one set, and sessions that can be written down.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod alert;
mod handshake;
mod keys;
mod session;
mod suite;

pub use alert::Alert;
pub use handshake::{
    Accepting, Connecting, Established, Facts, Fed, HandshakeError, prepare_client, prepare_server,
};
pub use keys::TrafficSecrets;
pub use session::{
    OVERHEAD_BYTES, Opened, PLAINTEXT_BYTES, Progress, RECORD_BYTES, RecordError, STATE_BYTES, SealError,
    Sealed, Session, StateError,
};
pub use suite::{Suite, Version};
