//! The URL of a configuration: read strictly, and shown without anything that may be secret.
//!
//! ```text
//!   etcd://HOST[:2379]/KEY     etcds://HOST[:2379]/KEY     over TLS
//!   https://HOST[:443]/PATH    http://LOOPBACK[:80]/PATH   only from this machine
//! ```

use std::fmt;

use ureq::http::Uri;

/// The port on which etcd serves its clients.
const ETCD_PORT: u16 = 2379;

/// Where a configuration is kept that is no file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub(crate) kind: Kind,
    /// Whether it is reached over TLS.
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// What is asked for there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The value of this key.
    Etcd { key: String },
    /// The page with this path and query.
    Web { path_and_query: String },
}

/// Why a URL is none of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocationError {
    /// It cannot be read at all.
    #[error("it is no URL: write etcd://HOST:PORT/KEY or https://HOST/PATH")]
    Malformed,
    /// It has a scheme that is not known here.
    #[error("nothing is known about {0:?} URLs: write etcd://, etcds:// or https://")]
    Scheme(String),
    /// It has a user or a password in it, which everybody can see in the list of processes.
    #[error(
        "it must not have a user or password in it, where everybody can see them: \
         set HANDOVER_SOURCE_USER and HANDOVER_SOURCE_PASSWORD in the environment"
    )]
    Secret,
    /// It names no key.
    #[error("it names no key: write etcd://HOST:PORT/KEY")]
    NoKey,
    /// It would be read without TLS from another machine.
    #[error("http:// is for this machine only (127.0.0.1, [::1], localhost): write https://")]
    PlainText,
}

impl Location {
    /// Reads a URL.
    ///
    /// # Errors
    /// Why it is none; the message does not repeat the URL.
    pub fn parse(url: &str) -> Result<Self, LocationError> {
        let uri: Uri = url.parse().map_err(|_| LocationError::Malformed)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(LocationError::Malformed);
        };
        if authority.as_str().contains('@') {
            return Err(LocationError::Secret);
        }
        let host = authority.host().to_owned();
        let port = match authority.port() {
            Some(port) => port.as_str().parse().map_err(|_| LocationError::Malformed)?,
            None if authority.as_str().ends_with(':') => return Err(LocationError::Malformed),
            None => match scheme {
                "https" => 443,
                "http" => 80,
                _ => ETCD_PORT,
            },
        };
        let tls = match scheme {
            "etcd" => false,
            "etcds" | "https" => true,
            "http" if is_loopback(&host) => false,
            "http" => return Err(LocationError::PlainText),
            other => return Err(LocationError::Scheme(other.to_owned())),
        };
        let kind = if scheme.starts_with("etcd") {
            // Everything after the slash is the key: etcd's keys usually begin with a slash of their own, which is
            // then written twice.
            let key = url.splitn(4, '/').nth(3).unwrap_or_default().to_owned();
            if key.is_empty() {
                return Err(LocationError::NoKey);
            }
            Kind::Etcd { key }
        } else {
            let path_and_query = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
            Kind::Web { path_and_query }
        };
        Ok(Self { kind, tls, host, port })
    }

    /// The beginning of every URL that is asked for there.
    pub(crate) fn root(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }
}

/// The URL, without the query: that may hold a secret.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual, path) = match (&self.kind, self.tls) {
            (Kind::Etcd { key }, tls) => (if tls { "etcds" } else { "etcd" }, ETCD_PORT, format!("/{key}")),
            (Kind::Web { path_and_query }, tls) => {
                let path = match path_and_query.split_once('?') {
                    Some((path, _)) => format!("{path}?…"),
                    None => path_and_query.clone(),
                };
                if tls { ("https", 443, path) } else { ("http", 80, path) }
            }
        };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port != usual {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(&path)
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
