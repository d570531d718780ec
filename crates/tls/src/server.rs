//! What a listener needs to shake hands: rustls's configuration, made of ours.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::SupportedProtocolVersion;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};

use crate::authorities::Authorities;
use crate::handshake::prepare_server;
use crate::provider::{has_fast_aes, provider};
use crate::suite::Version;
use crate::tickets::Tickets;

/// Tickets that a TLS 1.3 client gets after a full handshake: browsers open two connections at once.
const TLS13_TICKETS: usize = 2;

/// What a listener speaks.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Chooses the certificate: a [`crate::Resolver`] or a [`crate::CertificateStore`].
    pub resolver: Arc<dyn ResolvesServerCert>,
    /// The oldest version.
    pub minimum_version: Version,
    /// Protocols (RFC 7301), the preferred one first; empty: none is agreed on. A client that offers only others is
    /// refused with the alert `no_application_protocol`.
    pub alpn: Vec<Arc<str>>,
    /// Whether and which certificates clients show.
    pub clients: ClientAuth,
    /// Keys of tickets; `None`: sessions are not resumed.
    pub tickets: Option<Arc<Tickets>>,
    /// The listener's name: its tickets are good for no other one.
    pub name: Arc<str>,
}

/// Whether and which certificates clients show.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// They are not asked.
    #[default]
    None,
    /// They are asked; who has none is let in, who shows one that cannot be verified is not.
    Optional(Arc<Authorities>),
    /// Who shows none is not let in.
    Required(Arc<Authorities>),
}

/// Why there is no configuration.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SettingsError {
    /// What rustls says.
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
    /// The authorities for clients' certificates.
    #[error("the authorities for clients' certificates cannot be used: {0}")]
    Clients(String),
    /// The system's authorities.
    #[error("the system's certificate authorities cannot be read: {0}")]
    SystemRoots(String),
}

/// The configuration of a listener, fit for [`crate::Accepting`]. Costs microseconds; make it once for each generation.
///
/// # Errors
/// Where rustls refuses the settings.
pub fn server_config(settings: &ServerSettings) -> Result<Arc<ServerConfig>, SettingsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(settings.minimum_version))?;
    let builder = match settings.clients.verifier()? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::clone(&settings.resolver));
    prepare_server(&mut config);
    config.alpn_protocols = settings.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    // Clients without AES in hardware ask for ChaCha20 first; where we have none either, they are right.
    config.ignore_client_order = has_fast_aes();
    config.max_early_data_size = 0;
    // Sessions travel in tickets; what is kept here would be lost with the worker.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    match &settings.tickets {
        Some(tickets) => {
            config.ticketer = tickets.bound_to(settings.context());
            config.send_tls13_tickets = TLS13_TICKETS;
        }
        None => config.send_tls13_tickets = 0,
    }
    Ok(Arc::new(config))
}

/// The versions from one on.
pub(crate) fn versions(minimum: Version) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_12: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
    static FROM_13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    match minimum {
        Version::Tls12 => &FROM_12,
        Version::Tls13 => &FROM_13,
    }
}

impl ServerSettings {
    /// What tickets are bound to: the listener, and what it asks of clients. A ticket outlives neither the removal of an
    /// authority nor a change from optional to required.
    fn context(&self) -> [u8; 32] {
        let (mode, authorities) = match &self.clients {
            ClientAuth::None => (0, None),
            ClientAuth::Optional(authorities) => (1, Some(authorities)),
            ClientAuth::Required(authorities) => (2, Some(authorities)),
        };
        let mut hasher = blake3::Hasher::new_derive_key("handover 2026 context of session tickets");
        hasher.update(&[mode]);
        hasher.update(authorities.map_or(&[0; 32], |authorities| authorities.digest()));
        hasher.update(self.name.as_bytes());
        *hasher.finalize().as_bytes()
    }
}

impl ClientAuth {
    fn verifier(&self) -> Result<Option<Arc<dyn ClientCertVerifier>>, SettingsError> {
        let (authorities, optional) = match self {
            Self::None => return Ok(None),
            Self::Optional(authorities) => (authorities, true),
            Self::Required(authorities) => (authorities, false),
        };
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(authorities.roots()), provider());
        let builder = if optional { builder.allow_unauthenticated() } else { builder };
        builder.build().map(Some).map_err(|error| SettingsError::Clients(error.to_string()))
    }
}
