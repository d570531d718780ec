//! What a listener needs to shake hands: rustls's configuration, made of ours.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;

use crate::authorities::Authorities;
use crate::handshake::prepare_server;
use crate::suite::Version;
use crate::tickets::Tickets;

/// What a listener speaks.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Chooses the certificate: a [`crate::Resolver`] or a [`crate::CertificateStore`].
    pub resolver: Arc<dyn ResolvesServerCert>,
    /// The oldest version.
    pub minimum_version: Version,
    /// Protocols (RFC 7301), the preferred one first; empty: none is agreed on.
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

/// The configuration of a listener. Costs microseconds; make it once for each generation.
///
/// # Errors
/// Where rustls refuses the settings.
pub fn server_config(settings: &ServerSettings) -> Result<Arc<ServerConfig>, SettingsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::clone(&settings.resolver));
    prepare_server(&mut config);
    config.alpn_protocols = settings.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}
