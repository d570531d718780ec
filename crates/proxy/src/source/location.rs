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
        let usual = match scheme {
            "https" => 443,
            "http" => 80,
            _ => ETCD_PORT,
        };
        let port = match authority.as_str().strip_prefix(host.as_str()) {
            Some("") => usual,
            Some(rest) => {
                let digits = rest.strip_prefix(':').ok_or(LocationError::Malformed)?;
                digits.parse().map_err(|_| LocationError::Malformed)?
            }
            None => return Err(LocationError::Malformed),
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

    /// What deserves a look in being told so.
    pub(crate) fn warning(&self) -> Option<&'static str> {
        match (&self.kind, self.tls) {
            (_, true) => None,
            (Kind::Web { .. }, false) => {
                Some("is read without TLS: who can listen on that port of this machine says what is served")
            }
            (Kind::Etcd { .. }, false) if is_loopback(&self.host) => None,
            (Kind::Etcd { .. }, false) => {
                Some("is read without TLS: who is on the way can change what is served; write etcds://")
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_kinds_of_url_are_read_and_shown() {
        for (url, root, shown) in [
            ("etcd://127.0.0.1/site", "http://127.0.0.1:2379", "etcd://127.0.0.1/site"),
            (
                "etcd://[::1]:23790//config/site.toml",
                "http://[::1]:23790",
                "etcd://[::1]:23790//config/site.toml",
            ),
            ("etcds://store.example/a/b", "https://store.example:2379", "etcds://store.example/a/b"),
            ("https://store.example", "https://store.example:443", "https://store.example/"),
            (
                "https://store.example:8443/a?token=s3cret",
                "https://store.example:8443",
                "https://store.example:8443/a?…",
            ),
            ("http://localhost:8080/a", "http://localhost:8080", "http://localhost:8080/a"),
        ] {
            let location = Location::parse(url).unwrap();
            assert_eq!((location.root().as_str(), location.to_string().as_str()), (root, shown), "{url}");
        }
    }

    #[test]
    fn everything_after_the_slash_is_the_key() {
        let key = |url: &str| match Location::parse(url).unwrap().kind {
            Kind::Etcd { key } => key,
            Kind::Web { .. } => panic!("{url}"),
        };
        assert_eq!(key("etcd://host/site"), "site");
        assert_eq!(key("etcd://host//config/site"), "/config/site");
    }

    #[test]
    fn what_is_no_url_of_a_configuration_is_refused_and_never_repeated() {
        for (url, why) in [
            ("site.toml", LocationError::Malformed),
            ("etcd://", LocationError::Malformed),
            ("etcd://host:99999/key", LocationError::Malformed),
            ("https://host:/a", LocationError::Malformed),
            ("etcd://host", LocationError::NoKey),
            ("etcd://host/", LocationError::NoKey),
            ("ftp://host/a", LocationError::Scheme("ftp".to_owned())),
            ("http://store.example/a", LocationError::PlainText),
            ("http://10.0.0.1/a", LocationError::PlainText),
            ("https://me:s3cret@host/a", LocationError::Secret),
            ("etcd://me@host/a", LocationError::Secret),
        ] {
            let error = Location::parse(url).unwrap_err();
            assert_eq!(error, why, "{url}");
            assert!(!error.to_string().contains("s3cret"));
        }
    }

    #[test]
    fn a_store_without_tls_deserves_a_look() {
        for (url, warned) in [
            ("etcd://127.0.0.1/a", false),
            ("etcd://10.0.0.1/a", true),
            ("etcds://10.0.0.1/a", false),
            ("https://10.0.0.1/a", false),
            ("http://127.0.0.1/a", true),
        ] {
            assert_eq!(Location::parse(url).unwrap().warning().is_some(), warned, "{url}");
        }
    }
}
