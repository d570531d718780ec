//! Whoever signs binaries, in the format of minisign: a key pair, and detached signatures made with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use minisign::KeyPair;

/// A key pair of the test's own.
#[derive(Debug)]
pub struct Signer(KeyPair);

impl Default for Signer {
    fn default() -> Self {
        Self::new()
    }
}

impl Signer {
    /// Makes a key pair.
    #[must_use]
    pub fn new() -> Self {
        Self(KeyPair::generate_unencrypted_keypair().expect("a key pair"))
    }

    /// The public key as it stands in the second line of `minisign.pub`, in base64.
    #[must_use]
    pub fn public_key(&self) -> String {
        self.0.pk.to_base64()
    }

    /// Signs a file: writes `FILE.minisig`.
    pub fn sign(&self, path: &Path) -> PathBuf {
        let file = File::open(path).expect("file to be signed");
        let signature = minisign::sign(Some(&self.0.pk), &self.0.sk, file, Some("a test's binary"), None);
        let beside = signature_of(path);
        fs::write(&beside, signature.expect("a signature").into_string()).expect("signature written");
        beside
    }
}

/// Where the signature of a file stands.
#[must_use]
pub fn signature_of(path: &Path) -> PathBuf {
    let mut beside = path.to_owned().into_os_string();
    beside.push(".minisig");
    beside.into()
}
