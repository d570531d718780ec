//! What can be wrong with certificates, keys and authorities, in people's words, with what to do about it.
//!
//! Each problem names the file at fault. Whether it is a reason to refuse the whole set ([`CertificateError`]) or only
//! something to be told about ([`CertificateWarning`]) follows from what is right for those who are served: see
//! [`crate::Moment`].

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::certificate::Pair;
use crate::words::{ago, ahead, day_and_time};

/// Why a certificate cannot be served, or authorities cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", .file.display())]
pub struct CertificateError {
    /// Position among the pairs that were wanted.
    pub pair: usize,
    /// The file at fault.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: Reason,
}

impl CertificateError {
    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        self.reason.help(&self.file)
    }
}

/// What is odd about a certificate that is served all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {concern}", .file.display())]
pub struct CertificateWarning {
    /// Position among the pairs that were wanted.
    pub pair: usize,
    /// The file that it is about.
    pub file: PathBuf,
    /// What is odd.
    pub concern: Concern,
}

impl CertificateWarning {
    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        self.concern.help(&self.file)
    }
}

/// What a file is that is no PEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// A certificate in DER, the binary form.
    DerCertificate,
    /// A key in DER.
    DerKey,
    /// A PKCS#12 archive, `.p12` or `.pfx`.
    Pkcs12,
    /// A PKCS#7 bundle, `.p7b`.
    Pkcs7,
    /// Java's key store.
    JavaKeyStore,
    /// Text in UTF-16.
    Utf16,
}

impl fmt::Display for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DerCertificate => "a certificate in the binary form (DER)",
            Self::DerKey => "a private key in the binary form (DER)",
            Self::Pkcs12 => "a PKCS#12 archive",
            Self::Pkcs7 => "a PKCS#7 bundle in the binary form",
            Self::JavaKeyStore => "a Java key store",
            Self::Utf16 => "text in UTF-16",
        })
    }
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The system does not give it.
    #[error("cannot be read: {detail}")]
    Unreadable {
        /// What sort of error.
        kind: io::ErrorKind,
        /// The system's words.
        detail: String,
    },
    /// There is nothing in it.
    #[error("the file is empty")]
    Empty,
    /// It is longer than [`crate::MAX_PEM_BYTES`].
    #[error("the file has {bytes} bytes, and at most {} are read", crate::MAX_PEM_BYTES)]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// It has more certificates than any chain or list of authorities.
    #[error("the file has more than {most} certificates")]
    TooMany {
        /// The most that are read.
        most: usize,
    },
    /// It is something else.
    #[error("the file is {0}, not PEM")]
    Binary(Binary),
    /// Nothing in it looks like PEM.
    #[error("the file is not PEM: it has no line that begins with \"-----BEGIN\"")]
    NotPem,
    /// A section of it cannot be decoded.
    #[error("the section {label:?} that begins on line {line} is cut off or spoilt")]
    Spoilt {
        /// What it says it is.
        label: String,
        /// Its first line, from 1.
        line: usize,
    },
    /// It has no certificate.
    #[error("there is no certificate in the file{}", instead(.found))]
    NoCertificate {
        /// The label of what is in there.
        found: String,
    },
    /// It has no key.
    #[error("there is no private key in the file{}", instead(.found))]
    NoKey {
        /// The label of what is in there.
        found: String,
    },
    /// It has several keys.
    #[error("there are {count} private keys in the file")]
    SeveralKeys {
        /// How many.
        count: usize,
    },
    /// Its key needs a passphrase.
    #[error("the private key is encrypted, and there is nobody to type its passphrase")]
    EncryptedKey,
    /// Its key cannot be decoded.
    #[error("the private key is damaged, or of a kind that is not supported")]
    UnusableKey,
    /// A certificate cannot be decoded.
    #[error("{} cannot be understood: it is damaged", nth(*.number, *.of))]
    Unparsable {
        /// Which, from 1.
        number: usize,
        /// Of how many.
        of: usize,
    },
    /// The certificate's key is of a kind that TLS here does not speak.
    #[error("its key is {key_type}, which is not supported")]
    UnsupportedKeyType {
        /// What it is.
        key_type: String,
    },
    /// The certificate's key is too short.
    #[error("its key has only {bits} bits, and clients refuse RSA keys of less than 2048")]
    WeakKey {
        /// How long it is.
        bits: usize,
    },
    /// The key is another certificate's.
    #[error("the key in {} does not belong to this certificate", .key.display())]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
    },
    /// The key belongs to a certificate further down.
    #[error(
        "the chain is out of order: the certificate of the key stands in place {place}, the leaf must come first"
    )]
    LeafNotFirst {
        /// Where it stands, from 1.
        place: usize,
    },
    /// A certificate is followed by one that did not issue it.
    #[error("the chain is out of order: certificate {number} ({subject}) was issued by {issuer}, which {}", stands(.place, *.number))]
    ChainOrder {
        /// Which, from 1.
        number: usize,
        /// Whose it is.
        subject: String,
        /// Who must come next.
        issuer: String,
        /// Where that one stands instead, if it is there.
        place: Option<usize>,
    },
    /// A certificate is followed by one with the right name and the wrong key.
    #[error("the chain does not hold: certificate {} has the name of the issuer of certificate {number} ({subject}), but did not sign it", .number + 1)]
    ChainSignature {
        /// Which, from 1.
        number: usize,
        /// Whose it is.
        subject: String,
    },
    /// Two places hold the same certificate.
    #[error("certificates {first} and {second} are the same")]
    Repeated {
        /// From 1.
        first: usize,
        /// From 1.
        second: usize,
    },
    /// Its time is over.
    #[error("the certificate expired on {}, {}", day_and_time(*.not_after), ago(*.now, *.not_after))]
    Expired {
        /// When, in seconds since 1970.
        not_after: i64,
        /// The time that it is now.
        now: i64,
    },
    /// Its time has not come.
    #[error("the certificate is not valid before {}, {}", day_and_time(*.not_before), ahead(*.now, *.not_before))]
    NotYetValid {
        /// From when on, in seconds since 1970.
        not_before: i64,
        /// The time that it is now.
        now: i64,
    },
    /// A certificate among the authorities cannot issue others.
    #[error("{} ({subject}) is not that of an authority", nth(*.number, *.of))]
    NotAuthority {
        /// Which, from 1.
        number: usize,
        /// Of how many.
        of: usize,
        /// Whose it is.
        subject: String,
    },
}

/// `, only a certificate request`.
fn instead(found: &str) -> String {
    if found.is_empty() { String::new() } else { format!(", only {}", section(found)) }
}

/// What a section is called in words.
fn section(label: &str) -> String {
    match label {
        "CERTIFICATE" => "a certificate".to_owned(),
        "TRUSTED CERTIFICATE" => "a certificate in OpenSSL's own form".to_owned(),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => "a certificate request".to_owned(),
        "PUBLIC KEY" | "RSA PUBLIC KEY" => "a public key".to_owned(),
        "OPENSSH PRIVATE KEY" => "a key in OpenSSH's own form".to_owned(),
        "PKCS7" => "a PKCS#7 bundle".to_owned(),
        "X509 CRL" => "a revocation list".to_owned(),
        label if label.ends_with("PRIVATE KEY") => "a private key".to_owned(),
        label => format!("a section {label:?}"),
    }
}

/// `the certificate`, or, of several, `certificate 2`.
fn nth(number: usize, of: usize) -> String {
    if of == 1 { "the certificate".to_owned() } else { format!("certificate {number}") }
}

fn stands(place: &Option<usize>, number: usize) -> String {
    match place {
        Some(place) => format!("stands in place {place} instead of {}", number + 1),
        None => "is not the one that follows".to_owned(),
    }
}

impl Reason {
    /// What the system says.
    pub(crate) fn unreadable(error: &io::Error) -> Self {
        Self::Unreadable { kind: error.kind(), detail: error.to_string() }
    }

    /// The same of another pair with the same bytes: only the names of files can differ.
    pub(crate) fn again(&self, pair: &Pair) -> Self {
        match self {
            Self::KeyMismatch { .. } => Self::KeyMismatch { key: pair.key.clone() },
            other => other.clone(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn help(&self, file: &Path) -> Option<String> {
        let path = file.display();
        Some(match self {
            Self::Unreadable { kind: io::ErrorKind::PermissionDenied, .. } => {
                "the user that the server runs as must be able to read it".to_owned()
            }
            Self::Binary(binary) => binary.help(file)?,
            Self::NoCertificate { found } | Self::NoKey { found } => self.help_instead(found, file)?,
            Self::SeveralKeys { .. } => "leave only the one that belongs to the certificate".to_owned(),
            Self::EncryptedKey => format!("decrypt it: openssl pkey -in {path} -out {path}.plain"),
            Self::UnusableKey => {
                "supported are RSA from 2048 bits on, ECDSA on P-256, P-384 and P-521, and Ed25519".to_owned()
            }
            Self::UnsupportedKeyType { .. } => {
                "have one issued for a key of type ECDSA P-256, or RSA with 2048 bits".to_owned()
            }
            Self::WeakKey { .. } => "have one issued for a key of at least 2048 bits".to_owned(),
            Self::KeyMismatch { .. } => {
                "if only one of the two was replaced so far, replace the other as well and reload again"
                    .to_owned()
            }
            Self::LeafNotFirst { .. } => {
                "first the server's own certificate, then the one that issued it, and so on".to_owned()
            }
            Self::ChainOrder { .. } => {
                "each certificate must be followed by the one that issued it".to_owned()
            }
            Self::ChainSignature { .. } => {
                "take the intermediate certificates that came with this certificate".to_owned()
            }
            Self::Repeated { .. } => "leave one of them out".to_owned(),
            Self::Expired { .. } => "have it renewed".to_owned(),
            Self::NotYetValid { .. } => "is the clock of this machine right?".to_owned(),
            Self::NotAuthority { .. } => "only certificates that may issue others belong here".to_owned(),
            Self::Spoilt { .. } | Self::Unparsable { .. } => {
                "copy it anew from where it came from".to_owned()
            }
            _ => return None,
        })
    }

    fn help_instead(&self, found: &str, file: &Path) -> Option<String> {
        let path = file.display();
        Some(match (self, found) {
            (Self::NoCertificate { .. }, label) if label.ends_with("PRIVATE KEY") => {
                "are certificate and key the wrong way round?".to_owned()
            }
            (Self::NoKey { .. }, "CERTIFICATE") => "are certificate and key the wrong way round?".to_owned(),
            (_, "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST") => {
                "send it to an authority; what comes back is the certificate".to_owned()
            }
            (_, "TRUSTED CERTIFICATE") => format!("convert it: openssl x509 -in {path} -out {path}.pem"),
            (_, "OPENSSH PRIVATE KEY") => format!("convert it: ssh-keygen -p -m PEM -f {path}"),
            (_, "PKCS7") => format!("convert it: openssl pkcs7 -print_certs -in {path} -out {path}.pem"),
            _ => return None,
        })
    }
}

impl Binary {
    /// How to make PEM of it.
    fn help(self, file: &Path) -> Option<String> {
        let path = file.display();
        Some(match self {
            Self::DerCertificate => {
                format!("convert it: openssl x509 -inform der -in {path} -out {path}.pem")
            }
            Self::DerKey => format!("convert it: openssl pkey -inform der -in {path} -out {path}.pem"),
            Self::Pkcs12 => format!("unpack it: openssl pkcs12 -in {path} -nodes -out {path}.pem"),
            Self::Pkcs7 => {
                format!("convert it: openssl pkcs7 -inform der -print_certs -in {path} -out {path}.pem")
            }
            Self::JavaKeyStore => {
                "export it: keytool -importkeystore -deststoretype PKCS12, then openssl pkcs12".to_owned()
            }
            Self::Utf16 => "save it as plain text (ASCII or UTF-8)".to_owned(),
        })
    }
}

/// What is odd about a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Concern {
    /// Others can read the key.
    #[error("every user of this machine can read this private key (mode {mode:04o})")]
    Exposed {
        /// Permission bits.
        mode: u32,
    },
    /// Its time is over; it serves all the same, for want of a better one.
    #[error("the certificate expired on {}, {}", day_and_time(*.not_after), ago(*.now, *.not_after))]
    Expired {
        /// When, in seconds since 1970.
        not_after: i64,
        /// The time that it is now.
        now: i64,
    },
    /// Its time has not come; it serves all the same, for want of a better one.
    #[error("the certificate is not valid before {}, {}", day_and_time(*.not_before), ahead(*.now, *.not_before))]
    NotYetValid {
        /// From when on, in seconds since 1970.
        not_before: i64,
        /// The time that it is now.
        now: i64,
    },
    /// Its time is nearly over.
    #[error("the certificate expires on {}, {}", day_and_time(*.not_after), ahead(*.now, *.not_after))]
    ExpiresSoon {
        /// When, in seconds since 1970.
        not_after: i64,
        /// The time that it is now.
        now: i64,
    },
    /// The certificate of an authority further up is no longer valid.
    #[error("certificate {number} ({subject}) expired on {}", day_and_time(*.not_after))]
    ChainExpired {
        /// Which, from 1.
        number: usize,
        /// Whose it is.
        subject: String,
        /// When, in seconds since 1970.
        not_after: i64,
    },
    /// It says its name only in the old way.
    #[error("the certificate has no subjectAltName: clients refuse it, whatever the host")]
    NoNames,
    /// It is that of an authority.
    #[error("the certificate is that of an authority, not of a server: clients may refuse it")]
    Authority,
    /// It is for something else.
    #[error(
        "the certificate is not for servers (its extended key usage lacks serverAuth): clients refuse it"
    )]
    NotForServers,
    /// Another one of the same key type has the same name, and comes first.
    #[error("it is never chosen for {names}: {} has the same and comes first", .first.display())]
    Shadowed {
        /// The names, some of them.
        names: String,
        /// The other file.
        first: PathBuf,
    },
}

impl Concern {
    /// What to do about it.
    #[must_use]
    pub fn help(&self, file: &Path) -> Option<String> {
        Some(match self {
            Self::Exposed { .. } => format!("chmod o= {}", file.display()),
            Self::Expired { .. } | Self::ExpiresSoon { .. } => "have it renewed".to_owned(),
            Self::NotYetValid { .. } => "is the clock of this machine right?".to_owned(),
            Self::ChainExpired { .. } => {
                "take the intermediate certificates that came with the latest renewal".to_owned()
            }
            Self::NoNames => "have one issued with the host as its subjectAltName".to_owned(),
            Self::Authority | Self::NotForServers => "have one issued for this server".to_owned(),
            Self::Shadowed { .. } => return None,
        })
    }
}
