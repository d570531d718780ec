//! HTTP to a store: one request, one bounded answer, every wait with an end.
//!
//! What it comes to is sorted by what it says about the configuration: nothing at all ([`Trouble::Unreachable`]: the
//! last good one may be served), or that the store has none for us ([`Trouble::Refused`]).

use std::io;
use std::path::Path;
use std::sync::Arc;

use ureq::http::{Response, StatusCode, header};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, Body};

use super::access::Access;
use super::location::Location;

/// The longest configuration, in bytes.
pub(super) const MAX_CONFIG_BYTES: usize = 8 * 1024 * 1024;
/// The longest head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// The longest file of certificates or key, in bytes.
const MAX_PEM_BYTES: u64 = 4 * 1024 * 1024;
/// The most bytes of an error's text that are shown.
const MAX_SHOWN: usize = 200;

/// Why there is no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// The store could not be reached, or did not answer as one does.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The store has answered, and it has none for us.
    #[error("{0}")]
    Refused(String),
}

impl Trouble {
    pub(super) fn unreachable(why: impl Into<String>) -> Self {
        Self::Unreachable(why.into())
    }

    pub(super) fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }
}

/// Somebody who asks one store. Connections are not kept: a store that was restarted is no surprise.
pub(super) fn agent(location: &Location, access: &Access) -> Result<Agent, Trouble> {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .https_only(location.tls)
        .proxy(None)
        // An answer from elsewhere is not an answer of the store that was named.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("handover/", env!("CARGO_PKG_VERSION")))
        .max_response_header_size(MAX_HEAD_BYTES)
        .max_idle_connections(0)
        .timeout_resolve(Some(access.patience.connect))
        .timeout_connect(Some(access.patience.connect))
        .timeout_global(Some(access.patience.answer));
    if location.tls {
        config = config.tls_config(tls(access)?);
    }
    Ok(config.build().new_agent())
}

fn tls(access: &Access) -> Result<TlsConfig, Trouble> {
    let roots = match &access.authorities {
        Some(path) => certificates(path)?,
        None => {
            let system = rustls_native_certs::load_native_certs();
            system.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
        }
    };
    if roots.is_empty() {
        return Err(Trouble::unreachable("there are no certificate authorities to check its certificate by"));
    }
    let identity = match &access.identity {
        Some((certificate, key)) => {
            Some(ClientCert::new_with_certs(&certificates(certificate)?, private_key(key)?))
        }
        None => None,
    };
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .root_certs(RootCerts::from(roots))
        .client_cert(identity)
        .build())
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, Trouble> {
    let items = pem(path)?.into_iter();
    let certificates = items.filter_map(|item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = certificates.collect();
    if certificates.is_empty() {
        return Err(Trouble::refused(format!("{} has no certificate in it", path.display())));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKey<'static>, Trouble> {
    let key = pem(path)?.into_iter().find_map(|item| match item {
        PemItem::PrivateKey(key) => Some(key),
        _ => None,
    });
    key.ok_or_else(|| Trouble::refused(format!("{} has no private key in it", path.display())))
}

fn pem(path: &Path) -> Result<Vec<PemItem<'static>>, Trouble> {
    let refused = |why: String| Trouble::refused(format!("{} cannot be read: {why}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| refused(error.to_string()))?.len();
    if length > MAX_PEM_BYTES {
        return Err(refused("it is too long".to_owned()));
    }
    let bytes = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    parse_pem(&bytes).collect::<Result<_, _>>().map_err(|_| refused("it is no PEM file".to_owned()))
}

/// What a request came to that was not answered.
pub(super) fn unanswered(error: ureq::Error) -> Trouble {
    match error {
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            Trouble::unreachable("no connection in time")
        }
        ureq::Error::Timeout(_) => Trouble::unreachable("no whole answer in time"),
        ureq::Error::HostNotFound => Trouble::unreachable("its host name cannot be resolved"),
        ureq::Error::Io(error) => Trouble::unreachable(io_words(&error)),
        ureq::Error::Rustls(error) => Trouble::unreachable(format!("TLS: {error}")),
        ureq::Error::BodyExceedsLimit(_) => {
            let most = MAX_CONFIG_BYTES / (1024 * 1024);
            Trouble::refused(format!("it is longer than {most} MiB"))
        }
        // It would repeat the URL, which may have a secret in it.
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => Trouble::refused("its URL cannot be asked for"),
        other => Trouble::unreachable(format!("it does not answer as a server should: {other}")),
    }
}

fn io_words(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if let Some(error) = inner {
        return format!("TLS: {error}");
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it closed the connection in the middle of its answer".to_owned(),
        _ => error.to_string(),
    }
}

/// Whether a stream has only been silent for too long.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    matches!(inner, Some(ureq::Error::Timeout(_))) || error.kind() == io::ErrorKind::TimedOut
}

/// The whole body of an answer.
pub(super) fn body(response: Response<Body>, most: usize) -> Result<Vec<u8>, Trouble> {
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    response.into_body().into_with_config().limit(most).read_to_vec().map_err(unanswered)
}

/// An answer that has what was asked for; anything else with the store's own words, `said`.
pub(super) fn judge(status: StatusCode, said: &str) -> Result<(), Trouble> {
    let words = if said.is_empty() { String::new() } else { format!(": {}", shown(said)) };
    match status.as_u16() {
        200 => Ok(()),
        401 | 403 => Err(Trouble::refused(format!(
            "the store does not let us read it (status {status}{words}): set HANDOVER_SOURCE_USER and \
             HANDOVER_SOURCE_PASSWORD, or HANDOVER_SOURCE_TOKEN"
        ))),
        404 | 410 => Err(Trouble::refused(format!("there is nothing there (status {status}{words})"))),
        300..=399 => Err(Trouble::refused(format!(
            "the store sends us elsewhere (status {status}), which is not followed: name the place itself"
        ))),
        408 | 425 | 429 | 500..=599 => {
            Err(Trouble::unreachable(format!("the store answers with status {status}{words}")))
        }
        _ => Err(Trouble::refused(format!("the store answers with status {status}{words}"))),
    }
}

/// Something that a store said, fit to be shown in one line.
pub(super) fn shown(text: &str) -> String {
    let line = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(MAX_SHOWN).collect()
}

/// The value of an `Authorization` field (RFC 9110 §11.6.2).
pub(super) const AUTHORIZATION: header::HeaderName = header::AUTHORIZATION;
