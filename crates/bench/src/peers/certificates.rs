//! The certificates of a comparison: the same pairs for every proxy, in files as each wants them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use handover_testkit::{Authority, KeyType, Pair};

use super::{Kind, Peer};
use crate::Result;

/// The name whose certificate has an ECDSA P-256 key.
pub(crate) const ECDSA: &str = "ecdsa.test";
/// The name whose certificate has an RSA 2048 key.
pub(crate) const RSA: &str = "rsa.test";

/// Where a proxy's certificates lie.
pub(super) fn directory(root: &Path) -> PathBuf {
    root.join("certificates")
}

/// A pair for [`ECDSA`] and one for [`RSA`].
pub(crate) fn of_both_kinds() -> Arc<Vec<Pair>> {
    let authority = Authority::new("bench");
    let rsa = authority.leaf(&[RSA]).key_type(KeyType::Rsa2048).make();
    Arc::new(vec![authority.pair(&[ECDSA]), rsa])
}

/// Pairs for `n0.test`, `n1.test` and so on, ECDSA P-256.
pub(crate) fn many(authority: &Authority, count: usize) -> Arc<Vec<Pair>> {
    Arc::new((0..count).map(|number| authority.pair(&[&format!("n{number}.test")])).collect())
}

impl Peer {
    /// Puts a pair into the files of certificate `number`, without telling the proxy.
    pub(crate) fn put(&self, number: usize, pair: &Pair) -> Result<()> {
        put(self.kind, self.workspace.root(), number, pair)
    }
}

/// Writes the files of one certificate. HAProxy wants the key in the same file; whatever else lies in its directory it
/// would read too.
pub(super) fn put(kind: Kind, root: &Path, number: usize, pair: &Pair) -> Result<()> {
    let directory = directory(root);
    std::fs::create_dir_all(&directory)?;
    let replace = |name: String, text: &str| {
        // Outside the directory, so that nobody reads the half of it.
        let other = root.join("certificate.new");
        std::fs::write(&other, text)?;
        std::fs::rename(&other, directory.join(name))
    };
    if kind == Kind::Haproxy {
        replace(format!("{number}.pem"), &format!("{}{}", pair.certificate(), pair.key))?;
    } else {
        replace(format!("{number}.pem"), &pair.certificate())?;
        replace(format!("{number}.key"), &pair.key)?;
    }
    Ok(())
}
