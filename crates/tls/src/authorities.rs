//! Certificate authorities: whom we trust, from a file or from the system.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::RootCertStore;

use crate::certificate::CertificateFacts;
use crate::check::{facts_of, parse_all, short_name};
use crate::files::Files;
use crate::load::Moment;
use crate::pem::Sections;
use crate::problem::{CertificateError, CertificateWarning, Concern, Reason};

/// Certificate authorities that are trusted; two are equal if the bytes that they were read from are.
pub struct Authorities {
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) digest: [u8; 32],
    pub(crate) facts: Vec<CertificateFacts>,
}

impl Authorities {
    /// Reads a file with one or more certificates of authorities (PEM). `serving`: those that serve, which are taken
    /// if the file did not change.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn load(
        path: &Path,
        files: &mut dyn Files,
        moment: &Moment<'_>,
        serving: &[&Arc<Self>],
    ) -> Result<(Arc<Self>, Vec<CertificateWarning>), CertificateError> {
        let wrong = |reason| CertificateError { pair: 0, file: path.to_owned(), reason };
        let bytes = files.read(path).map_err(|error| wrong(Reason::unreadable(&error)))?;
        let digest = *blake3::hash(&bytes).as_bytes();
        let known = serving.iter().find(|authorities| authorities.digest == digest);
        let authorities = match known {
            Some(known) => Arc::clone(known),
            None => Arc::new(Self::read(&bytes, digest).map_err(wrong)?),
        };
        let now = moment.seconds();
        let expired = authorities.facts.iter().enumerate().filter(|(_, facts)| now > facts.not_after);
        let warnings = expired.map(|(at, facts)| CertificateWarning {
            pair: 0,
            file: path.to_owned(),
            concern: Concern::ChainExpired {
                number: at + 1,
                subject: facts.subject.clone(),
                not_after: facts.not_after,
            },
        });
        let warnings = warnings.collect();
        Ok((authorities, warnings))
    }

    fn read(bytes: &[u8], digest: [u8; 32]) -> Result<Self, Reason> {
        let certificates = Sections::read(bytes)?.into_certificates()?;
        let of = certificates.len();
        let mut roots = RootCertStore::empty();
        let mut facts = Vec::with_capacity(of);
        for (at, (der, parsed)) in certificates.iter().zip(parse_all(&certificates)?).enumerate() {
            let number = at + 1;
            // One that vouches for itself is trusted as it is, whatever it says that it may do.
            let own = parsed.subject().as_raw() == parsed.issuer().as_raw();
            if !parsed.is_ca() && !own {
                return Err(Reason::NotAuthority { number, of, subject: short_name(parsed.subject()) });
            }
            roots.add(der.clone()).map_err(|_| Reason::Unparsable { number, of })?;
            facts.push(facts_of(&parsed, der));
        }
        Ok(Self { roots: Arc::new(roots), digest, facts })
    }

    /// Digest (BLAKE3) of the bytes that they were read from.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// What is known about each.
    #[must_use]
    pub fn facts(&self) -> &[CertificateFacts] {
        &self.facts
    }

    /// What rustls verifies with.
    #[must_use]
    pub fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Authorities {}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.facts.iter().map(|facts| &facts.subject)).finish()
    }
}

/// The system's authorities, once they could be read: they change with the system's packages, and then the server is
/// started anew.
static SYSTEM: Mutex<Option<Arc<RootCertStore>>> = Mutex::new(None);

/// The authorities that this system trusts (`SSL_CERT_FILE`, `SSL_CERT_DIR`, or its usual places). The first call takes
/// some milliseconds.
///
/// # Errors
/// Where there are none, in words.
pub fn system_roots() -> Result<Arc<RootCertStore>, String> {
    let mut system = SYSTEM.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(roots) = &*system {
        return Ok(Arc::clone(roots));
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A few that cannot be used are no reason to trust none.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(match found.errors.first() {
            Some(error) => error.to_string(),
            None => "there are none in the usual places".to_owned(),
        });
    }
    let roots = Arc::new(roots);
    *system = Some(Arc::clone(&roots));
    Ok(roots)
}
