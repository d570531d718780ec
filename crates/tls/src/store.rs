//! Certificates that are replaced as one set, in one step, while they serve.
//!
//! ```text
//!   prepare:  read ─▶ check ─▶ Prepared ──commit──▶ serves, from the next handshake on
//!                       │          └────dropped──▶ nothing happened
//!                       └─▶ everything that is wrong; what serves goes on
//! ```
//!
//! It stands on its own: a program that uses nothing else of this workspace gives it to rustls and reloads it when it
//! wants to.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use handover_api::{Certificate, Change, certificate_changes};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::certificate::{Certified, Pair};
use crate::files::Files;
use crate::load::{Loaded, Moment, load};
use crate::problem::{CertificateError, CertificateWarning};
use crate::resolver::{Resolver, Unknown};

/// Certificates that serve; give it to rustls as the resolver.
///
/// ```
/// use std::sync::Arc;
/// use std::time::SystemTime;
///
/// use handover_tls::{CertificateStore, Disk, Pair};
///
/// # let directory = tempfile::tempdir()?;
/// # let made = rcgen::generate_simple_self_signed(["example.org".to_owned()])?;
/// # std::fs::write(directory.path().join("example.org.pem"), made.cert.pem())?;
/// # std::fs::write(directory.path().join("example.org.key"), made.signing_key.serialize_pem())?;
/// # std::env::set_current_dir(directory.path())?;
/// let store = Arc::new(CertificateStore::new());
/// let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
/// let server = rustls::ServerConfig::builder_with_provider(provider)
///     .with_safe_default_protocol_versions()?
///     .with_no_client_auth()
///     .with_cert_resolver(store.clone());
///
/// // At the start, and each time that files may have changed:
/// let wanted = [Pair::new("example.org.pem", "example.org.key")];
/// match store.prepare(&wanted, &mut Disk, SystemTime::now()) {
///     Ok(prepared) => {
///         for change in prepared.changes() {
///             println!("{}", change.line()); // "added certificate example.org: issuer …"
///         }
///         prepared.commit(); // The next handshake gets the new set, all of it.
///     }
///     // What serves goes on. "example.org.pem: the key in example.org.key does not belong to this certificate"
///     Err(errors) => errors.iter().for_each(|error| eprintln!("{error}")),
/// }
/// # assert_eq!(store.certificates()[0].names, ["example.org"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct CertificateStore {
    current: Arc<ArcSwap<Set>>,
    unknown: Unknown,
}

/// What is published.
#[derive(Debug)]
struct Set {
    pairs: Vec<Pair>,
    certificates: Vec<Arc<Certified>>,
    resolver: Resolver,
}

/// A set that is ready to serve.
#[derive(Debug)]
#[must_use = "nothing changes before it is committed"]
pub struct Prepared {
    into: Arc<ArcSwap<Set>>,
    set: Arc<Set>,
    changes: Vec<Change>,
    warnings: Vec<CertificateWarning>,
}

impl CertificateStore {
    /// A store that serves nothing yet: until the first commit every handshake fails.
    #[must_use]
    pub fn new() -> Self {
        Self::with_unknown(Unknown::Default)
    }

    /// The same, with a say in what clients get that name an unknown host.
    #[must_use]
    pub fn with_unknown(unknown: Unknown) -> Self {
        let set =
            Set { pairs: Vec::new(), certificates: Vec::new(), resolver: Resolver::new(&[], 0, unknown) };
        Self { current: Arc::new(ArcSwap::from_pointee(set)), unknown }
    }

    /// Reads and checks the certificates that shall serve. Nothing changes before [`Prepared::commit`].
    ///
    /// # Errors
    /// Everything that is wrong with any of them.
    pub fn prepare(
        &self,
        wanted: &[Pair],
        files: &mut dyn Files,
        now: SystemTime,
    ) -> Result<Prepared, Vec<CertificateError>> {
        // Nothing serves yet: then this is the start, and an expired certificate is better than none.
        let lenient = self.current.load().certificates.is_empty();
        self.prepare_for(wanted, files, now, lenient)
    }

    /// [`CertificateStore::prepare`] for a set that served before, say one that is rolled back to: that a certificate of
    /// it has expired by now is a warning.
    ///
    /// # Errors
    /// Everything else that is wrong with any of them.
    pub fn prepare_again(
        &self,
        wanted: &[Pair],
        files: &mut dyn Files,
        now: SystemTime,
    ) -> Result<Prepared, Vec<CertificateError>> {
        self.prepare_for(wanted, files, now, true)
    }

    fn prepare_for(
        &self,
        wanted: &[Pair],
        files: &mut dyn Files,
        now: SystemTime,
        lenient: bool,
    ) -> Result<Prepared, Vec<CertificateError>> {
        let before = self.current.load_full();
        let serving = before.certificates.iter().collect();
        let moment = Moment { now, serving, lenient };
        let Loaded { certificates, mut warnings } = load(wanted, files, &moment)?;
        let default = wanted.iter().position(|pair| pair.default).unwrap_or(0);
        let resolver = Resolver::new(&certificates, default, self.unknown);
        warnings.extend(resolver.shadowed().iter().filter_map(|shadowed| shadowed.warning(wanted)));
        let set = Arc::new(Set { pairs: wanted.to_vec(), certificates, resolver });
        let changes = set.changes_since(&before);
        Ok(Prepared { into: Arc::clone(&self.current), set, changes, warnings })
    }

    /// What serves.
    #[must_use]
    pub fn certificates(&self) -> Vec<Certificate> {
        self.current.load().shown()
    }
}

impl Default for CertificateStore {
    fn default() -> Self {
        Self::new()
    }
}

impl ResolvesServerCert for CertificateStore {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load().resolver.resolve(client_hello)
    }
}

impl Prepared {
    /// What will be served differently.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// What is odd, but no reason to refuse it.
    #[must_use]
    pub fn warnings(&self) -> &[CertificateWarning] {
        &self.warnings
    }

    /// What will serve.
    #[must_use]
    pub fn certificates(&self) -> Vec<Certificate> {
        self.set.shown()
    }

    /// Serves it: every handshake that begins from now on gets the new set. Cannot fail.
    pub fn commit(self) {
        self.into.store(self.set);
    }
}

impl Set {
    fn shown(&self) -> Vec<Certificate> {
        self.shown_if(|_| true)
    }

    fn shown_if(&self, wanted: impl Fn(&Arc<Certified>) -> bool) -> Vec<Certificate> {
        let both = self.pairs.iter().zip(&self.certificates).filter(|(_, certified)| wanted(certified));
        both.map(|(pair, certified)| certified.shown(&pair.certificate, &pair.key)).collect()
    }

    /// What differs from an earlier set. Only what is not in both is compared: mostly that is one or two.
    fn changes_since(&self, before: &Self) -> Vec<Change> {
        type Digests<'c> = HashSet<&'c [u8; 32], foldhash::fast::RandomState>;
        let was: Digests<'_> = before.certificates.iter().map(|certified| certified.digest()).collect();
        let is: Digests<'_> = self.certificates.iter().map(|certified| certified.digest()).collect();
        let gone = before.shown_if(|certified| !is.contains(certified.digest()));
        let come = self.shown_if(|certified| !was.contains(certified.digest()));
        certificate_changes(&gone, &come)
    }
}
