//! What a service needs to shake hands with its endpoints: rustls's configuration, made of ours.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::sign::SingleCertAndKey;

use crate::authorities::{Authorities, system_roots};
use crate::certificate::Certified;
use crate::handshake::prepare_client;
use crate::provider::provider;
use crate::server::{SettingsError, versions};
use crate::suite::Version;
use crate::verify::Anybody;

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

/// The configuration of a service, fit for [`crate::Connecting`]. Keep it, and the sessions in it, as long as the settings
/// are equal. The first one with [`Trust::System`] reads the system's authorities, which takes some milliseconds.
///
/// # Errors
/// Where rustls refuses the settings, or the system has no authorities.
pub fn client_config(settings: &ClientSettings) -> Result<Arc<ClientConfig>, SettingsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(settings.minimum_version))?;
    let builder = match &settings.trust {
        Trust::System => builder.with_root_certificates(system_roots().map_err(SettingsError::SystemRoots)?),
        Trust::Authorities(authorities) => builder.with_root_certificates(Arc::clone(authorities.roots())),
        Trust::Anybody => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody::new())),
    };
    let mut config = match &settings.identity {
        Some(certified) => {
            let identity = SingleCertAndKey::from(Arc::clone(certified.certified_key()));
            builder.with_client_cert_resolver(Arc::new(identity))
        }
        None => builder.with_no_client_auth(),
    };
    prepare_client(&mut config);
    config.alpn_protocols = settings.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}
