//! Open connections, as `handover connections` shows them.
//!
//! A data thread only notes what it has at hand, without copying text; the thread that was asked makes text of it.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use handover_tls::Facts;

use crate::generation::EndpointPlan;

/// One open connection.
#[derive(Debug)]
pub(crate) struct Shown {
    /// `http`, `websocket`, `tcp`, or `tls` before it is known to be one of these.
    pub(crate) kind: &'static str,
    /// Name of the listener that it came in on.
    pub(crate) listener: Arc<str>,
    /// `None`: it came in on a Unix socket.
    pub(crate) client: Option<IpAddr>,
    /// What it is doing.
    pub(crate) state: &'static str,
    /// Since it was accepted; a WebSocket: since it became one.
    pub(crate) age_us: u64,
    /// Bytes from and to the client since then.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Where its request, or what passes through it, goes.
    pub(crate) service: Option<Arc<str>>,
    pub(crate) endpoint: Option<Arc<EndpointPlan>>,
    /// What was agreed on with the client, over TLS.
    pub(crate) tls: Option<Arc<Facts>>,
    /// Why the last attempt to speak TLS with an endpoint failed, while another one is made.
    pub(crate) trouble: Option<Arc<str>>,
}

impl Shown {
    /// As an object.
    pub(crate) fn json(&self) -> Value {
        json!({
            "kind": self.kind,
            "listener": &*self.listener,
            "client": self.client.map_or_else(|| "unix".to_owned(), |client| client.to_string()),
            "state": self.state,
            "age_ms": self.age_us / 1000,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "service": self.service.as_deref(),
            "endpoint": self.endpoint.as_ref().map(|endpoint| &*endpoint.label),
            "upstream_error": self.trouble.as_deref(),
            "tls": self.tls.as_ref().map(|facts| facts.version.name()),
            "resumed": self.tls.as_ref().map(|facts| facts.resumed),
            "sni": self.tls.as_ref().and_then(|facts| facts.sni.as_deref()),
            "client_subject": self.tls.as_ref().and_then(|facts| facts.client_subject.as_deref()),
        })
    }
}
