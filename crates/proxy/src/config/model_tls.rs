//! The part of the validated configuration that is about TLS: what listeners present, and whom services trust.
//!
//! The certificates themselves are part of it, read and checked ([`Certified`]): those whose bytes did not change are the
//! same objects in all generations that name them. Two values are equal if paths, bytes and settings are.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use handover_tls::{Authorities, Certified, Version};
use rustls::pki_types::ServerName;

use super::model::Config;

/// TLS on a listener's connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// One or more, in the order of the file.
    pub certificates: Vec<Certificate>,
    /// Position of the one that clients get that name no host.
    pub default: usize,
    /// What clients get that name a host which no certificate has.
    pub unknown_names: UnknownNames,
    /// The oldest version that is spoken.
    pub minimum_version: Version,
    /// Protocols that are offered (RFC 7301), the preferred one first; empty: none.
    pub alpn: Vec<Arc<str>>,
    /// Certificates that clients show; `None`: they are not asked for any.
    pub clients: Option<ClientCertificates>,
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Absolute path of the file with the certificate and its chain.
    pub certificate: PathBuf,
    /// Absolute path of the file with its key; the same where both are in one file.
    pub key: PathBuf,
    /// What was in them.
    pub loaded: Arc<Certified>,
}

/// What becomes of a client that names a host which no certificate of the listener has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownNames {
    /// It gets the default certificate, and decides itself.
    Default,
    /// The handshake ends with the alert `unrecognized_name` (RFC 6066 §3).
    Refuse,
}

/// What clients have to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// A client without a certificate is refused; otherwise it is let in. A certificate that cannot be verified is
    /// refused in any case.
    pub required: bool,
    /// Absolute path of the file with the authorities.
    pub ca: PathBuf,
    /// Who must have issued them.
    pub authorities: Arc<Authorities>,
    /// The header field in which endpoints get the subject; it is removed from what clients send, in any case.
    pub subject_header: Option<Arc<str>>,
}

/// TLS to a service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceTls {
    /// For each of [`super::Service::endpoints`] the name that is asked for and verified: the one given, or the host of
    /// the endpoint.
    pub server_names: Vec<ServerName<'static>>,
    /// The file with the authorities that are trusted, and those; `None`: the system's.
    pub ca: Option<(PathBuf, Arc<Authorities>)>,
    /// Our own certificate, for endpoints that ask for one.
    pub identity: Option<Certificate>,
    /// False: whoever answers is believed.
    pub verify: bool,
}

/// How keys of session tickets change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tickets {
    /// How long one key makes tickets.
    pub rotate: Duration,
    /// How many older keys still open them.
    pub keep: u32,
}

impl Default for Tickets {
    fn default() -> Self {
        Self { rotate: Duration::from_secs(12 * 60 * 60), keep: 2 }
    }
}

impl Config {
    /// All certificates of listeners, with the listener's name, in the order of the file.
    pub fn certificates(&self) -> impl Iterator<Item = (&Arc<str>, &Certificate)> {
        self.listeners.iter().flat_map(|listener| {
            let tls = listener.tls.iter();
            tls.flat_map(|tls| &tls.certificates).map(|certificate| (&listener.name, certificate))
        })
    }
}
