//! A certificate with its key, read and checked, and what is known about it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::sign::CertifiedKey;

use crate::check::ChainEnd;
use crate::problem::Concern;
use crate::words::rfc3339;

/// The files of one certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The certificate, followed by those of the authorities between it and a root (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM, not encrypted); may be the same file.
    pub key: PathBuf,
    /// The one that clients get who name no host, or, unless told otherwise, an unknown one. Without any the first is it.
    pub default: bool,
}

impl Pair {
    /// A certificate with its key.
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { certificate: certificate.into(), key: key.into(), default: false }
    }

    /// The same as the default.
    #[must_use]
    pub fn as_default(mut self) -> Self {
        self.default = true;
        self
    }
}

/// What is known about a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The DNS names, in lower case, and IP addresses that it is for (subjectAltName, RFC 5280 §4.2.1.6), in its order;
    /// where it has none, the common name of its subject if that looks like a host.
    pub names: Vec<Arc<str>>,
    /// Whose it is: the distinguished name.
    pub subject: String,
    /// Who issued it: the common name, or the whole distinguished name where there is none.
    pub issuer: String,
    /// Valid from, in seconds since 1970.
    pub not_before: i64,
    /// Valid until, in seconds since 1970.
    pub not_after: i64,
    /// `ECDSA P-256`, `RSA 2048`, `Ed25519` …
    pub key_type: String,
    /// The issuer's number for it, hexadecimal.
    pub serial: String,
    /// SHA-256 of the certificate (DER), hexadecimal: what browsers and `openssl x509 -fingerprint` show.
    pub sha256: String,
    /// How many certificates the file has, itself included.
    pub chain: usize,
}

/// A certificate and its key, read, checked and ready to serve. Unchanged files give the same object in every generation;
/// two are equal if the bytes of their files are.
pub struct Certified {
    pub(crate) facts: CertificateFacts,
    /// Of the bytes of both files.
    pub(crate) digest: [u8; 32],
    pub(crate) kind: KeyKind,
    pub(crate) key: Arc<CertifiedKey>,
    /// What is odd about it whatever the time.
    pub(crate) concerns: Vec<Concern>,
    pub(crate) chain_end: Option<ChainEnd>,
}

impl Certified {
    /// What is known about it.
    #[must_use]
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// Digest (BLAKE3) of the bytes of both files: the same for the same bytes, wherever they stood.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// What the control API shows of it, read from these files.
    #[must_use]
    pub fn shown(&self, certificate: &Path, key: &Path) -> handover_api::Certificate {
        let facts = &self.facts;
        let mut files = vec![certificate.display().to_string()];
        if key != certificate {
            files.push(key.display().to_string());
        }
        handover_api::Certificate {
            names: facts.names.iter().map(ToString::to_string).collect(),
            issuer: facts.issuer.clone(),
            not_before: rfc3339(facts.not_before),
            not_after: rfc3339(facts.not_after),
            key_type: facts.key_type.clone(),
            serial: facts.serial.clone(),
            sha256: facts.sha256.clone(),
            files,
            ..handover_api::Certificate::default()
        }
    }

    /// What rustls serves.
    #[must_use]
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

impl PartialEq for Certified {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Certified {}

/// Names, key type and digest; never the key.
impl fmt::Debug for Certified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certified")
            .field("names", &self.facts.names)
            .field("key_type", &self.facts.key_type)
            .field("sha256", &self.facts.sha256)
            .finish_non_exhaustive()
    }
}

/// Kinds of keys, the one that is preferred first: signing costs less CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum KeyKind {
    EcdsaP256,
    Ed25519,
    EcdsaP384,
    EcdsaP521,
    Rsa,
}

impl KeyKind {
    /// The signatures that such a key can make (RFC 8446 §4.2.3).
    pub(crate) fn schemes(self) -> &'static [SignatureScheme] {
        match self {
            Self::EcdsaP256 => &[SignatureScheme::ECDSA_NISTP256_SHA256],
            Self::Ed25519 => &[SignatureScheme::ED25519],
            Self::EcdsaP384 => &[SignatureScheme::ECDSA_NISTP384_SHA384],
            Self::EcdsaP521 => &[SignatureScheme::ECDSA_NISTP521_SHA512],
            Self::Rsa => &[
                SignatureScheme::RSA_PSS_SHA256,
                SignatureScheme::RSA_PSS_SHA384,
                SignatureScheme::RSA_PSS_SHA512,
                SignatureScheme::RSA_PKCS1_SHA256,
                SignatureScheme::RSA_PKCS1_SHA384,
                SignatureScheme::RSA_PKCS1_SHA512,
            ],
        }
    }
}
