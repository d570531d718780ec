//! TLS: certificates that are read, checked and published as one set, and sessions that can be written down.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod alert;
mod authorities;
mod certificate;
mod check;
mod client;
mod files;
mod handshake;
mod keys;
mod load;
mod pem;
mod problem;
mod provider;
mod record;
mod remembered;
mod resolver;
mod server;
mod session;
mod store;
mod suite;
mod tickets;
mod verify;
mod words;

pub use alert::Alert;
pub use authorities::{Authorities, system_roots};
pub use certificate::{CertificateFacts, Certified, Pair};
pub use client::{ClientSettings, Trust, client_config};
pub use files::{Disk, Files, MAX_PEM_BYTES};
pub use handshake::{
    Accepting, Connecting, Established, Facts, Fed, HandshakeError, Peer, prepare_client, prepare_server,
};
pub use keys::TrafficSecrets;
pub use load::{Loaded, Moment, load};
pub use problem::{Binary, CertificateError, CertificateWarning, Concern, Reason};
pub use resolver::{Resolver, Shadowed, Unknown};
pub use server::{ClientAuth, ServerSettings, SettingsError, server_config};
pub use session::{
    OVERHEAD_BYTES, Opened, PLAINTEXT_BYTES, Progress, RECORD_BYTES, RecordError, STATE_BYTES, SealError,
    Sealed, Session, StateError,
};
pub use store::{CertificateStore, Prepared};
pub use suite::{Suite, Version};
pub use tickets::{ImportError, NoRandom, Schedule, Tickets};
