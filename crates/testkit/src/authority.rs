//! Certificates for tests: an authority, leaves of any age and kind, chains, keys that are locked.
//!
//! ```text
//! Authority ──signs──▶ Authority (intermediate) ──signs──▶ Leaf ──make──▶ Pair: chain and key, as PEM
//! ```

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, RsaKeySize, SerialNumber,
};

use crate::process::run;
use crate::workspace::Workspace;

/// A day.
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long authorities are good for, before and after now.
const AUTHORITY_AGE: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// Every certificate of a test process has a serial number of its own.
static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);

fn next_serial() -> u64 {
    // The upper half tells two test processes apart, for nothing but a reader's peace.
    u64::from(std::process::id()) << 24 | NEXT_SERIAL.fetch_add(1, Ordering::Relaxed)
}

/// The kinds of keys that servers use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyType {
    /// ECDSA with P-256.
    #[default]
    EcdsaP256,
    /// ECDSA with P-384.
    EcdsaP384,
    /// Ed25519.
    Ed25519,
    /// RSA with 2048 bits; making one takes a while.
    Rsa2048,
}

impl KeyType {
    /// A new key of this kind.
    #[must_use]
    pub fn generate(self) -> KeyPair {
        match self {
            Self::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::EcdsaP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            Self::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            Self::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
        }
        .expect("a new key")
    }
}

/// Somebody who signs certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    /// The certificates between this one and the root, this one first; empty for a root.
    above: String,
}

impl Authority {
    /// A root of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let (params, key) = (Self::params(name), KeyType::EcdsaP256.generate());
        let certificate = params.self_signed(&key).expect("a root").pem();
        Self { issuer: Issuer::new(params, key), certificate, above: String::new() }
    }

    /// An intermediate of this name, signed by this authority.
    #[must_use]
    pub fn intermediate(&self, name: &str) -> Self {
        let (params, key) = (Self::params(name), KeyType::EcdsaP256.generate());
        let certificate = params.signed_by(&key, &self.issuer).expect("an intermediate").pem();
        let above = format!("{certificate}{}", self.above);
        Self { issuer: Issuer::new(params, key), certificate, above }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are good names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from(next_serial()));
        params.not_before = (SystemTime::now() - AUTHORITY_AGE).into();
        params.not_after = (SystemTime::now() + AUTHORITY_AGE).into();
        params
    }

    /// Its own certificate, as PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.certificate
    }

    /// A certificate for these names is to be made (DNS names, wildcards, IP addresses).
    #[must_use]
    pub fn leaf(&self, names: &[&str]) -> Leaf<'_> {
        Leaf {
            authority: self,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            subject: names.first().copied().unwrap_or("nobody").to_owned(),
            key_type: KeyType::default(),
            not_before: SystemTime::now() - DAY,
            not_after: SystemTime::now() + DAY * 90,
            client: false,
        }
    }

    /// A pair for these names with everything as usual: ECDSA P-256, from yesterday, for 90 days.
    #[must_use]
    pub fn pair(&self, names: &[&str]) -> Pair {
        self.leaf(names).make()
    }
}

/// A certificate that is to be made.
#[derive(Debug)]
pub struct Leaf<'a> {
    authority: &'a Authority,
    names: Vec<String>,
    subject: String,
    key_type: KeyType,
    not_before: SystemTime,
    not_after: SystemTime,
    client: bool,
}

impl Leaf<'_> {
    /// With a key of this kind.
    #[must_use]
    pub fn key_type(mut self, key_type: KeyType) -> Self {
        self.key_type = key_type;
        self
    }

    /// Good from this moment.
    #[must_use]
    pub fn not_before(mut self, moment: SystemTime) -> Self {
        self.not_before = moment;
        self
    }

    /// Good until this moment.
    #[must_use]
    pub fn not_after(mut self, moment: SystemTime) -> Self {
        self.not_after = moment;
        self
    }

    /// Expired yesterday.
    #[must_use]
    pub fn expired(self) -> Self {
        let now = SystemTime::now();
        self.not_before(now - DAY * 30).not_after(now - DAY)
    }

    /// Good from tomorrow.
    #[must_use]
    pub fn not_yet_valid(self) -> Self {
        let now = SystemTime::now();
        self.not_before(now + DAY).not_after(now + DAY * 30)
    }

    /// With this common name instead of the first name.
    #[must_use]
    pub fn subject(mut self, common_name: &str) -> Self {
        common_name.clone_into(&mut self.subject);
        self
    }

    /// For a client instead of a server.
    #[must_use]
    pub fn client(mut self) -> Self {
        self.client = true;
        self
    }

    /// Makes it, with a new key.
    #[must_use]
    pub fn make(self) -> Pair {
        let key = self.key_type.generate();
        self.make_with(&key)
    }

    /// Makes it for a key that is there already: what a renewal that keeps the key does.
    #[must_use]
    pub fn make_with(self, key: &KeyPair) -> Pair {
        let serial = next_serial();
        let mut params = CertificateParams::new(self.names.clone()).expect("names of a certificate");
        params.distinguished_name.push(DnType::CommonName, &*self.subject);
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = self.not_before.into();
        params.not_after = self.not_after.into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![if self.client {
            ExtendedKeyUsagePurpose::ClientAuth
        } else {
            ExtendedKeyUsagePurpose::ServerAuth
        }];
        let leaf = params.signed_by(key, &self.authority.issuer).expect("a certificate").pem();
        Pair {
            leaf,
            above: self.authority.above.clone(),
            key: key.serialize_pem(),
            serial,
            names: self.names,
        }
    }
}

/// A certificate with its chain, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The leaf alone, as PEM.
    pub leaf: String,
    /// What stands between the leaf and the root, as PEM; the root is not among them.
    pub above: String,
    /// The key, as PEM (PKCS #8).
    pub key: String,
    /// The serial number of the leaf.
    pub serial: u64,
    /// Its names.
    pub names: Vec<String>,
}

impl Pair {
    /// The chain as a server sends it: the leaf first.
    #[must_use]
    pub fn certificate(&self) -> String {
        format!("{}{}", self.leaf, self.above)
    }

    /// The chain in the wrong order: the leaf last.
    #[must_use]
    pub fn leaf_last(&self) -> String {
        format!("{}{}", self.above, self.leaf)
    }

    /// Writes `NAME.pem` and `NAME.key` (mode 0600) into a workspace, each put in place by a rename.
    pub fn write(&self, workspace: &Workspace, name: &str) {
        self.write_certificate(workspace, name);
        self.write_key(workspace, name);
    }

    /// Writes `NAME.pem` alone.
    pub fn write_certificate(&self, workspace: &Workspace, name: &str) {
        workspace.write(format!("{name}.pem"), self.certificate());
    }

    /// Writes `NAME.key` alone, with mode 0600.
    pub fn write_key(&self, workspace: &Workspace, name: &str) {
        let name = format!("{name}.key");
        workspace.write(&name, &self.key);
        workspace.mode(&name, 0o600);
    }

    /// The key locked with a passphrase (`BEGIN ENCRYPTED PRIVATE KEY`), made by OpenSSL, which must be there: see
    /// [`crate::have`].
    #[must_use]
    pub fn encrypted_key(&self, directory: &Path, passphrase: &str) -> String {
        let (plain, locked) = (directory.join("plain.key"), directory.join("locked.key"));
        std::fs::write(&plain, &self.key).expect("key written");
        let mut openssl = Command::new("openssl");
        openssl.args(["pkcs8", "-topk8", "-v2", "aes-256-cbc"]);
        openssl.arg("-passout").arg(format!("pass:{passphrase}"));
        openssl.arg("-in").arg(&plain).arg("-out").arg(&locked);
        run(openssl).expect_code(0);
        std::fs::remove_file(&plain).expect("plain key removed");
        std::fs::read_to_string(&locked).expect("locked key")
    }
}
