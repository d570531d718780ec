//! The part of the validated configuration that is about TLS: what listeners present, and whom services trust.
//!
//! The certificates themselves are part of it, read and checked ([`Certified`]): those whose bytes did not change are the
//! same objects in all generations that name them. Two values are equal if paths, bytes and settings are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use handover_tls::{Authorities, Certified, Resolver, Version};
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
    /// The certificates by their names, ready to be chosen from.
    pub resolver: Arc<Resolver>,
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
    /// The name that is given for all of them, if one is.
    pub server_name: Option<Arc<str>>,
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
    /// What the control API shows of all certificates: each once, with the listeners that present it and the services
    /// whose endpoints get to see it.
    #[must_use]
    pub fn shown_certificates(&self) -> Vec<handover_api::Certificate> {
        self.shown_certificates_if(|_| true)
    }

    /// The same of those that are wanted.
    pub(super) fn shown_certificates_if(
        &self,
        wanted: impl Fn(&Certificate) -> bool,
    ) -> Vec<handover_api::Certificate> {
        let mut shown: Vec<handover_api::Certificate> = Vec::new();
        let mut places: HashMap<(&Path, &Path), usize> = HashMap::new();
        let of_listeners = self.certificates().map(|(name, certificate)| (certificate, Some(name), None));
        let of_services = self.services.iter().filter_map(|service| {
            Some((service.tls.as_ref()?.identity.as_ref()?, None, Some(&service.name)))
        });
        for (certificate, listener, service) in of_listeners.chain(of_services) {
            if !wanted(certificate) {
                continue;
            }
            let Certificate { certificate: path, key, loaded } = certificate;
            let at = *places.entry((path, key)).or_insert_with(|| {
                shown.push(loaded.shown(path, key));
                shown.len() - 1
            });
            if let Some(shown) = shown.get_mut(at) {
                shown.listeners.extend(listener.map(ToString::to_string));
                shown.services.extend(service.map(ToString::to_string));
            }
        }
        shown
    }

    /// All certificates of listeners, with the listener's name, in the order of the file.
    pub fn certificates(&self) -> impl Iterator<Item = (&Arc<str>, &Certificate)> {
        self.listeners.iter().flat_map(|listener| {
            let tls = listener.tls.iter();
            tls.flat_map(|tls| &tls.certificates).map(|certificate| (&listener.name, certificate))
        })
    }
}
