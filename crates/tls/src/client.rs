//! What a service needs to shake hands with its endpoints: rustls's configuration, made of ours.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::authorities::Authorities;
use crate::certificate::Certified;
use crate::handshake::prepare_client;
use crate::server::SettingsError;
use crate::suite::Version;

/// How endpoints are spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSettings {
    /// Who is believed.
    pub trust: Trust,
    /// Our own certificate, for endpoints that ask.
    pub identity: Option<Arc<Certified>>,
    /// The oldest version.
    pub minimum_version: Version,
    /// Protocols (RFC 7301), the preferred one first; empty: none is offered.
    pub alpn: Vec<Arc<str>>,
}

/// Who is believed to be who they say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Trust {
    /// Those whose certificates lead to an authority that this system trusts.
    #[default]
    System,
    /// Those whose certificates lead to one of these.
    Authorities(Arc<Authorities>),
    /// Everybody: whoever sits on the way reads and changes everything.
    Anybody,
}

/// The configuration of a service. Keep it, and the sessions in it, as long as the settings are equal. The first one with
/// [`Trust::System`] reads the system's authorities, which takes some milliseconds.
///
/// # Errors
/// Where rustls refuses the settings, or the system has no authorities.
pub fn client_config(settings: &ClientSettings) -> Result<Arc<ClientConfig>, SettingsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    prepare_client(&mut config);
    config.alpn_protocols = settings.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}
