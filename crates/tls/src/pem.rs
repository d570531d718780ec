//! The certificates and keys in a file's bytes, or, in people's words, what else is in there.
//!
//! ```text
//!   bytes ─▶ PEM at all? ─▶ sections ─▶ certificates, keys
//!               │               └─▶ cut off, spoilt, encrypted
//!               └─▶ empty, DER, PKCS#12, UTF-16 …
//! ```
//!
//! Decoding is the library's. What it passes over in silence (sections of other kinds, encrypted keys) is looked for
//! here, because that is where the mistakes are.

use rustls_pki_types::pem::{PemObject as _, SectionKind};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};

use crate::files::MAX_PEM_BYTES;
use crate::problem::{Binary, Reason};

/// What stands at the beginning of a section, up to its label.
const BEGIN: &str = "-----BEGIN ";
/// The most certificates in one file: the system's authorities are some 150.
const MAX_CERTIFICATES: usize = 4096;

/// What was found in a file.
#[derive(Debug, Default)]
pub(crate) struct Sections {
    /// In their order.
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    /// In their order.
    pub(crate) keys: Vec<PrivateKeyDer<'static>>,
    /// The labels of all sections, those that mean nothing here included.
    labels: Vec<String>,
    /// A key in here cannot be used without a passphrase.
    encrypted: bool,
}

impl Sections {
    /// Reads a file's bytes.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Reason> {
        if bytes.len() > MAX_PEM_BYTES {
            return Err(Reason::TooLarge { bytes: bytes.len() });
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(Reason::Empty);
        }
        // Some editors put a byte order mark in front.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = String::from_utf8_lossy(bytes);
        let begins = begins(&text);
        if begins.is_empty() {
            return Err(Binary::of(bytes).map_or(Reason::NotPem, Reason::Binary));
        }
        let mut sections = Self {
            labels: begins.iter().map(|begin| begin.label.to_owned()).collect(),
            encrypted: text.contains("Proc-Type: 4,ENCRYPTED")
                || begins.iter().any(|begin| begin.label == "ENCRYPTED PRIVATE KEY"),
            ..Self::default()
        };
        if sections.encrypted {
            // The library would take the header lines of the older form for Base64.
            sections.certificates = certificates_only(bytes, &begins);
            return Ok(sections);
        }
        sections.decode(bytes, &begins)?;
        Ok(sections)
    }

    fn decode(&mut self, bytes: &[u8], begins: &[Begin<'_>]) -> Result<(), Reason> {
        let known = |read: usize| begins.iter().filter(|begin| is_known(begin.label)).nth(read);
        for (read, section) in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes).enumerate() {
            let Ok((kind, der)) = section else {
                let at = known(read).or(begins.last());
                let (label, line) = at.map_or(("", 1), |begin| (begin.label, begin.line));
                return Err(Reason::Spoilt { label: label.to_owned(), line });
            };
            self.take(kind, der)?;
        }
        Ok(())
    }

    fn take(&mut self, kind: SectionKind, der: Vec<u8>) -> Result<(), Reason> {
        match kind {
            SectionKind::Certificate if self.certificates.len() == MAX_CERTIFICATES => {
                return Err(Reason::TooMany { most: MAX_CERTIFICATES });
            }
            SectionKind::Certificate => self.certificates.push(der.into()),
            SectionKind::PrivateKey => self.keys.push(PrivatePkcs8KeyDer::from(der).into()),
            SectionKind::RsaPrivateKey => self.keys.push(PrivatePkcs1KeyDer::from(der).into()),
            SectionKind::EcPrivateKey => self.keys.push(PrivateSec1KeyDer::from(der).into()),
            _ => {}
        }
        Ok(())
    }

    /// The certificates, of which there must be one.
    pub(crate) fn into_certificates(self) -> Result<Vec<CertificateDer<'static>>, Reason> {
        if self.certificates.is_empty() {
            return Err(Reason::NoCertificate { found: self.found() });
        }
        Ok(self.certificates)
    }

    /// The key, of which there must be exactly one, without a passphrase.
    pub(crate) fn into_key(mut self) -> Result<PrivateKeyDer<'static>, Reason> {
        if self.encrypted {
            return Err(Reason::EncryptedKey);
        }
        match (self.keys.pop(), self.keys.len()) {
            (Some(key), 0) => Ok(key),
            (Some(_), others) => Err(Reason::SeveralKeys { count: others + 1 }),
            (None, _) => Err(Reason::NoKey { found: self.found() }),
        }
    }

    /// The label that tells most about what this file is instead.
    fn found(&self) -> String {
        let telling = |label: &&String| !matches!(label.as_str(), "EC PARAMETERS" | "DH PARAMETERS");
        self.labels.iter().find(telling).or(self.labels.first()).cloned().unwrap_or_default()
    }
}

/// Where a section begins.
struct Begin<'t> {
    label: &'t str,
    /// From 1.
    line: usize,
}

fn begins(text: &str) -> Vec<Begin<'_>> {
    let lines = text.lines().enumerate();
    lines
        .filter_map(|(at, line)| {
            let label = line.strip_prefix(BEGIN)?;
            let label = label.split("-----").next().unwrap_or(label);
            Some(Begin { label: label.trim_end(), line: at + 1 })
        })
        .collect()
}

/// Does the library decode sections with this label?
fn is_known(label: &str) -> bool {
    SectionKind::try_from(label.as_bytes()).is_ok()
}

/// The certificates of a file in which a key is encrypted, as far as they can be read.
fn certificates_only(bytes: &[u8], begins: &[Begin<'_>]) -> Vec<CertificateDer<'static>> {
    let sections = CertificateDer::pem_slice_iter(bytes).take(begins.len());
    sections.filter_map(Result::ok).collect()
}

impl Binary {
    /// What bytes that are no PEM look like.
    fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            return Some(Self::Utf16);
        }
        if bytes.starts_with(&[0xfe, 0xed, 0xfe, 0xed]) {
            return Some(Self::JavaKeyStore);
        }
        // A DER sequence (X.690 §8.9), its length, then what it begins with.
        let rest = bytes.strip_prefix(&[0x30])?;
        let length_bytes = match rest.first()? {
            first @ 0x81..=0x84 => usize::from(first & 0x7f) + 1,
            _ => 1,
        };
        let inner = rest.get(length_bytes..)?;
        Some(match inner {
            [0x02, 0x01, 0x03, ..] => Self::Pkcs12,
            [0x02, 0x01, 0x00 | 0x01, ..] => Self::DerKey,
            [0x30, ..] => Self::DerCertificate,
            [0x06, ..] => Self::Pkcs7,
            _ => return None,
        })
    }
}
