//! What listeners and services need to shake hands: built once, and shared by all generations in which nothing about it changed.
//!
//! ```text
//!   config::ListenerTls ── equal to the one before ──▶ the same object: tickets and handshakes go on as they were
//!                       └─ else ──▶ resolver by names ──▶ rustls configuration
//!   config::ServiceTls  ── equal ──▶ the same object: kept connections stay in the pool
//!                       └─ else ──▶ another one: nothing that was agreed on under other settings is used again
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use handover_tls::{
    ClientAuth, ClientSettings, ServerSettings, SettingsError, Tickets, Trust, Version, client_config,
    server_config,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use super::{BuildError, Generation};
use crate::config::{self, Config};

/// How a listener's connections begin.
#[derive(Debug)]
pub(crate) struct ListenerTls {
    pub(crate) config: Arc<ServerConfig>,
    /// Clients are asked for certificates.
    pub(crate) asks_clients: bool,
    /// The header field in which endpoints get the subject of the client's certificate.
    pub(crate) subject_header: Option<Arc<str>>,
    clients: ClientAuth,
}

impl ListenerTls {
    /// True if whoever was let in by the one would be let in by the other: new certificates of our own change nothing for
    /// connections that are there, new rules for those of clients do.
    pub(super) fn lets_in_like(&self, other: &Self) -> bool {
        self.clients == other.clients
    }
}

/// How connections to an endpoint begin.
#[derive(Debug)]
pub(crate) struct EndpointTls {
    pub(crate) config: Arc<ClientConfig>,
    /// Who the endpoint must prove to be.
    pub(crate) name: ServerName<'static>,
}

impl EndpointTls {
    /// True if a connection that began with the one is as good as one that begins with the other.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config) && self.name == other.name
    }
}

/// Builds the TLS of all listeners, by their positions.
pub(super) fn build_listeners(
    config: &Config,
    previous: Option<&Generation>,
    tickets: &Arc<Tickets>,
    errors: &mut Vec<BuildError>,
) -> Vec<Option<Arc<ListenerTls>>> {
    let old: HashMap<&str, (&config::ListenerTls, &Arc<ListenerTls>)> = previous
        .into_iter()
        .flat_map(|generation| generation.config.listeners.iter().zip(&generation.listeners))
        .filter_map(|(listener, plan)| Some((&*listener.name, (listener.tls.as_ref()?, plan.tls.as_ref()?))))
        .collect();
    let build = |listener: &config::Listener| {
        let wanted = listener.tls.as_ref()?;
        if let Some((before, built)) = old.get(&*listener.name)
            && *before == wanted
        {
            return Some(Arc::clone(built));
        }
        match build_listener(&listener.name, wanted, tickets) {
            Ok(built) => Some(Arc::new(built)),
            Err(error) => {
                errors.push(BuildError::ListenerTls { listener: Arc::clone(&listener.name), error });
                None
            }
        }
    };
    config.listeners.iter().map(build).collect()
}

fn build_listener(
    name: &Arc<str>,
    wanted: &config::ListenerTls,
    tickets: &Arc<Tickets>,
) -> Result<ListenerTls, SettingsError> {
    let clients = match &wanted.clients {
        None => ClientAuth::None,
        Some(clients) if clients.required => ClientAuth::Required(Arc::clone(&clients.authorities)),
        Some(clients) => ClientAuth::Optional(Arc::clone(&clients.authorities)),
    };
    let config = server_config(&ServerSettings {
        resolver: Arc::clone(&wanted.resolver) as _,
        minimum_version: wanted.minimum_version,
        alpn: wanted.alpn.clone(),
        clients: clients.clone(),
        tickets: Some(Arc::clone(tickets)),
        name: Arc::clone(name),
    })?;
    let subject_header = wanted.clients.as_ref().and_then(|clients| clients.subject_header.clone());
    Ok(ListenerTls { config, asks_clients: wanted.clients.is_some(), subject_header, clients })
}

/// Builds the TLS of all services, by their positions.
pub(super) fn build_services(
    config: &Config,
    previous: Option<&Generation>,
    errors: &mut Vec<BuildError>,
) -> Vec<Option<Arc<ClientConfig>>> {
    type Built<'a> = (&'a config::ServiceTls, Vec<Arc<str>>, &'a Arc<ClientConfig>);
    let old: HashMap<&str, Built<'_>> = previous
        .into_iter()
        .flat_map(|generation| {
            let both = generation.config.services.iter().zip(&generation.services).enumerate();
            both.filter_map(|(index, (service, plan))| {
                let (tls, built) = (service.tls.as_ref()?, plan.tls.as_ref()?);
                Some((&*service.name, (tls, alpn(&generation.config, index), built)))
            })
        })
        .collect();
    let build = |(index, service): (usize, &config::Service)| {
        let wanted = service.tls.as_ref()?;
        let alpn = alpn(config, index);
        if let Some((before, before_alpn, built)) = old.get(&*service.name)
            && (&before.ca, &before.identity, before.verify) == (&wanted.ca, &wanted.identity, wanted.verify)
            && *before_alpn == alpn
        {
            return Some(Arc::clone(built));
        }
        match client_config(&client_settings(wanted, alpn)) {
            Ok(built) => Some(built),
            Err(error) => {
                errors.push(BuildError::ServiceTls { service: Arc::clone(&service.name), error });
                None
            }
        }
    };
    config.services.iter().enumerate().map(build).collect()
}

fn client_settings(wanted: &config::ServiceTls, alpn: Vec<Arc<str>>) -> ClientSettings {
    let trust = match (&wanted.ca, wanted.verify) {
        (_, false) => Trust::Anybody,
        (Some((_, authorities)), true) => Trust::Authorities(Arc::clone(authorities)),
        (None, true) => Trust::System,
    };
    let identity = wanted.identity.as_ref().map(|identity| Arc::clone(&identity.loaded));
    ClientSettings { trust, identity, minimum_version: Version::Tls12, alpn }
}

/// What is spoken with a service's endpoints: HTTP, unless only TCP listeners use it.
fn alpn(config: &Config, service: usize) -> Vec<Arc<str>> {
    let is_http =
        |route: &config::Route| matches!(route.action, config::Action::Service(index) if index == service);
    if config.routes.iter().any(is_http) { vec!["http/1.1".into()] } else { Vec::new() }
}

/// The header fields in which any listener names clients' certificates: whoever sends them himself, on whichever listener,
/// must not be believed.
pub(super) fn subject_headers(config: &Config) -> Vec<Arc<str>> {
    let clients =
        |listener: &config::Listener| listener.tls.as_ref()?.clients.as_ref()?.subject_header.clone();
    config.listeners.iter().filter_map(clients).collect()
}
