//! Which certificate a client gets: by the name that it asks for, and by the signatures that it understands.
//!
//! ```text
//!   name ─▶ exact ─▶ *.rest (one label) ─▶ default, or refused ─▶ of several: the first that the client can verify
//! ```
//!
//! Looking up costs one or two hashes and no allocation, however many certificates there are.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::certificate::{Certified, Pair};
use crate::problem::{CertificateWarning, Concern};

/// The longest DNS name, in bytes (RFC 1035 §2.3.4).
const MAX_NAME_BYTES: usize = 253;

/// The most names that a warning tells.
const MAX_NAMED: usize = 3;

/// What a client gets that names a host which no certificate has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Unknown {
    /// The default certificate.
    #[default]
    Default,
    /// The alert `unrecognized_name` (RFC 6066 §3).
    Refuse,
}

/// Positions of certificates for one name: nearly always one, so that nothing more is allocated for it.
#[derive(Debug, Clone)]
enum Several {
    One(u32),
    Many(Vec<u32>),
}

type ByName = HashMap<Arc<str>, Several, foldhash::fast::RandomState>;

/// The certificates of one listener by name; never changed once built.
pub struct Resolver {
    certificates: Vec<Arc<Certified>>,
    exact: ByName,
    /// By what follows `*.`.
    wildcard: ByName,
    default_position: usize,
    /// The default one, or those for the same name.
    default: Vec<u32>,
    unknown: Unknown,
    shadowed: Vec<Shadowed>,
}

/// A certificate that is never chosen for some of its names, because another of the same key type comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadowed {
    /// Its position.
    pub certificate: usize,
    /// The position of the one that is chosen.
    pub by: usize,
    /// The names, sorted.
    pub names: Vec<Arc<str>>,
}

impl Shadowed {
    /// The warning about it, with the files of these pairs.
    #[must_use]
    pub fn warning(&self, pairs: &[Pair]) -> Option<CertificateWarning> {
        let file = |at: usize| pairs.get(at).map(|pair| pair.certificate.clone());
        let more = if self.names.len() > MAX_NAMED { " …" } else { "" };
        let names = self.names.iter().take(MAX_NAMED).map(|name| &**name).collect::<Vec<_>>().join(" ");
        let concern = Concern::Shadowed { names: names + more, first: file(self.by)? };
        Some(CertificateWarning { pair: self.certificate, file: file(self.certificate)?, concern })
    }
}

impl Resolver {
    /// Certificates by their names. `default` is the position of the one for clients that name no host; of several for one
    /// name and key type the first is chosen.
    #[must_use]
    pub fn new(certificates: &[Arc<Certified>], default: usize, unknown: Unknown) -> Self {
        let mut resolver = Self {
            certificates: certificates.to_vec(),
            exact: HashMap::default(),
            wildcard: HashMap::default(),
            default_position: default,
            default: Vec::new(),
            unknown,
            shadowed: Vec::new(),
        };
        resolver.exact.reserve(certificates.len());
        for (at, certified) in (0_u32..).zip(certificates) {
            for name in &certified.facts().names {
                match name.strip_prefix("*.") {
                    Some(rest) => insert(&mut resolver.wildcard, rest.into(), at),
                    None => insert(&mut resolver.exact, Arc::clone(name), at),
                }
            }
        }
        let mut shadowed: BTreeMap<(usize, usize), Vec<Arc<str>>> = BTreeMap::new();
        let tables = [(&mut resolver.exact, ""), (&mut resolver.wildcard, "*.")];
        for (table, prefix) in tables {
            for (name, several) in table {
                prefer(several, certificates, |by, hidden| {
                    shadowed.entry((hidden, by)).or_default().push(format!("{prefix}{name}").into());
                });
            }
        }
        resolver.shadowed.extend(shadowed.into_iter().map(|((certificate, by), mut names)| {
            names.sort_unstable();
            Shadowed { certificate, by, names }
        }));
        resolver.default = resolver.like(default);
        resolver
    }

    /// The certificate at a position, and those that stand for the same first name with other key types.
    fn like(&self, position: usize) -> Vec<u32> {
        let Ok(at) = u32::try_from(position) else { return Vec::new() };
        let Some(certified) = self.certificates.get(position) else { return Vec::new() };
        let first = certified.facts().names.first().and_then(|name| self.several(name));
        let mut like: Vec<u32> = first.map(Several::as_slice).unwrap_or_default().to_vec();
        if !like.contains(&at) {
            like.insert(0, at);
        }
        like
    }

    /// The certificates for a name as a certificate has it: `*.example.org` is one.
    fn several(&self, name: &str) -> Option<&Several> {
        match name.strip_prefix("*.") {
            Some(rest) => self.wildcard.get(rest),
            None => self.exact.get(name),
        }
    }

    /// The certificates for a host, in lower case, in order of preference.
    fn find(&self, host: &str) -> Option<&[u32]> {
        let wildcard = || self.wildcard.get(host.split_once('.').filter(|(label, _)| !label.is_empty())?.1);
        self.exact.get(host).or_else(wildcard).map(Several::as_slice)
    }

    /// True if a certificate has this name, exactly or by a wildcard; without regard to case.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        if host.parse::<IpAddr>().is_ok() {
            return self.exact.contains_key(host);
        }
        lower(host, |host| self.find(host).is_some()).unwrap_or(false)
    }

    /// True if a certificate has the wildcard `*.` followed by this.
    #[must_use]
    pub fn covers_below(&self, domain: &str) -> bool {
        lower(domain, |domain| self.wildcard.contains_key(domain)).unwrap_or(false)
    }

    /// True if it was built of these very objects.
    #[must_use]
    pub fn is_of(&self, certificates: &[Arc<Certified>], default: usize, unknown: Unknown) -> bool {
        let both = || self.certificates.iter().zip(certificates);
        self.certificates.len() == certificates.len()
            && self.default_position == default
            && self.unknown == unknown
            && both().all(|(ours, theirs)| Arc::ptr_eq(ours, theirs))
    }

    /// Certificates that are never chosen for a name, because another comes first.
    #[must_use]
    pub fn shadowed(&self) -> &[Shadowed] {
        &self.shadowed
    }

    /// The certificate for a client that names this host (`None`: none) and understands these signatures. Where it
    /// understands none of them it gets the first, and will say so.
    #[must_use]
    pub fn choose(&self, host: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Arc<Certified>> {
        let named = host.map(|host| lower(host, |host| self.find(host)).flatten());
        let several = match (named, self.unknown) {
            (Some(Some(several)), _) => several,
            (Some(None), Unknown::Refuse) => return None,
            (None, _) | (Some(None), Unknown::Default) => &self.default,
        };
        let certified = |at: &u32| self.certificates.get(usize::try_from(*at).ok()?);
        let understood = |certified: &&Arc<Certified>| {
            certified.kind.schemes().iter().any(|scheme| schemes.contains(scheme))
        };
        match several {
            [only] => certified(only),
            _ => {
                several.iter().filter_map(certified).find(understood).or_else(|| certified(several.first()?))
            }
        }
    }
}

/// Calls with the name in lower case, if it is short enough to be one.
fn lower<'r, T>(name: &str, then: impl FnOnce(&str) -> T + 'r) -> Option<T> {
    if !name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(then(name.strip_suffix('.').unwrap_or(name)));
    }
    let mut buffer = [0; MAX_NAME_BYTES + 1];
    let lower = buffer.get_mut(..name.len())?;
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    let name = std::str::from_utf8(lower).ok()?;
    Some(then(name.strip_suffix('.').unwrap_or(name)))
}

fn insert(table: &mut ByName, name: Arc<str>, at: u32) {
    match table.entry(name) {
        std::collections::hash_map::Entry::Vacant(free) => {
            free.insert(Several::One(at));
        }
        std::collections::hash_map::Entry::Occupied(mut taken) => {
            let mut several = taken.get().as_slice().to_vec();
            several.push(at);
            taken.insert(Several::Many(several));
        }
    }
}

/// Puts the preferred kind of key first, and leaves one of each kind: the first.
fn prefer(several: &mut Several, certificates: &[Arc<Certified>], mut hidden: impl FnMut(usize, usize)) {
    let Several::Many(many) = several else { return };
    let index = |at: u32| usize::try_from(at).unwrap_or(usize::MAX);
    let kind = |at: u32| certificates.get(index(at)).map(|certified| certified.kind);
    // Stable: among those of one kind the order of the file stays.
    many.sort_by_key(|at| kind(*at));
    many.dedup_by(|later, first| {
        let same = kind(*later) == kind(*first);
        if same {
            hidden(index(*first), index(*later));
        }
        same
    });
}

impl Several {
    fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chosen = self.choose(client_hello.server_name(), client_hello.signature_schemes())?;
        Some(Arc::clone(chosen.certified_key()))
    }
}

/// Two are equal if they choose among equal certificates in the same way.
impl PartialEq for Resolver {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates
            && self.default_position == other.default_position
            && self.unknown == other.unknown
    }
}

impl Eq for Resolver {}

/// How many certificates and names; there may be ten thousand.
impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("certificates", &self.certificates.len())
            .field("names", &(self.exact.len() + self.wildcard.len()))
            .field("unknown", &self.unknown)
            .finish_non_exhaustive()
    }
}
