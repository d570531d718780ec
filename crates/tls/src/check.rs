//! Does a certificate go with its key and its chain? Pure: bytes in, a [`Certified`] or everything that is wrong out.
//!
//! ```text
//!   certificate's bytes ─▶ sections ─▶ parsed ─┬─▶ chain: issuer, subject, signature ─┬─▶ Certified + lasting concerns
//!   key's bytes         ─▶ sections ─▶ key ────┴─▶ does the key belong to it?        ─┘
//! ```
//!
//! What depends on the time is not decided here but in [`at`], each time anew.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_PKCS1_RSAENCRYPTION;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

use crate::certificate::{CertificateFacts, Certified, KeyKind, Pair};
use crate::pem::Sections;
use crate::problem::{Concern, Reason};

/// The most certificates of one chain: clients give up far earlier.
const MAX_CHAIN: usize = 16;
/// Clients refuse RSA keys that are shorter, in bits.
const LEAST_RSA_BITS: usize = 2048;
/// How long before its end a certificate is warned about, in seconds.
const SOON: i64 = 14 * 24 * 60 * 60;

/// Which of a pair's two files something is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Certificate,
    Key,
}

/// Everything that is wrong with a pair.
pub(crate) type Wrong = Vec<(Part, Reason)>;

/// Checks the bytes of a pair's files.
pub(crate) fn check(
    pair: &Pair,
    digest: [u8; 32],
    certificate: &[u8],
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<Certified, Wrong> {
    let chain = read_chain(certificate);
    let key = read_key(key, provider);
    let (chain, key) = match (chain, key) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => {
            let chain = chain.err().map(|reason| (Part::Certificate, reason));
            return Err(chain.into_iter().chain(key.err().map(|reason| (Part::Key, reason))).collect());
        }
    };
    let parsed = match parse_all(&chain) {
        Ok(parsed) => parsed,
        Err(reason) => return Err(vec![(Part::Certificate, reason)]),
    };
    let Some(leaf) = parsed.first() else { return Err(vec![(Part::Certificate, Reason::Empty)]) };
    let (kind, key_type) = key_kind(leaf);
    let kind = match kind.map_err(|reason| vec![(Part::Certificate, reason)]) {
        Ok(kind) => kind,
        // The mistake may be that another certificate comes first.
        Err(wrong) => {
            return Err(place_of_key(&key, &parsed)
                .map_or(wrong, |place| vec![(Part::Certificate, Reason::LeafNotFirst { place })]));
        }
    };
    key_belongs(&key, &parsed, &pair.key).map_err(|reason| vec![(Part::Certificate, reason)])?;
    chain_holds(&parsed).map_err(|reason| vec![(Part::Certificate, reason)])?;
    let facts = facts(leaf, chain.first(), key_type, parsed.len());
    let concerns = lasting_concerns(leaf);
    let chain_ends = parsed
        .iter()
        .enumerate()
        .skip(1)
        .map(|(at, certificate)| ChainEnd {
            number: at + 1,
            subject: short_name(certificate.subject()),
            not_after: certificate.validity().not_after.timestamp(),
        })
        .min_by_key(|end| end.not_after);
    drop(parsed);
    let key = Arc::new(CertifiedKey::new(chain, key));
    Ok(Certified { facts, digest, kind, key, concerns, chain_end: chain_ends })
}

/// The certificate above the leaf whose time is over first.
#[derive(Debug)]
pub(crate) struct ChainEnd {
    pub(crate) number: usize,
    pub(crate) subject: String,
    pub(crate) not_after: i64,
}

fn read_chain(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Reason> {
    let chain = Sections::read(bytes)?.into_certificates()?;
    if chain.len() > MAX_CHAIN {
        return Err(Reason::TooMany { most: MAX_CHAIN });
    }
    Ok(chain)
}

fn read_key(bytes: &[u8], provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, Reason> {
    let key = Sections::read(bytes)?.into_key()?;
    provider.key_provider.load_private_key(key).map_err(|_| Reason::UnusableKey)
}

/// Parses certificates, all of which must be whole.
pub(crate) fn parse_all<'c>(
    chain: &'c [CertificateDer<'static>],
) -> Result<Vec<X509Certificate<'c>>, Reason> {
    let of = chain.len();
    let parse = |(at, der): (usize, &'c CertificateDer<'static>)| match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Reason::Unparsable { number: at + 1, of }),
    };
    chain.iter().enumerate().map(parse).collect()
}

/// The kind of a certificate's key, and what it is called.
fn key_kind(certificate: &X509Certificate<'_>) -> (Result<KeyKind, Reason>, String) {
    let key = certificate.public_key();
    let oid = key.algorithm.algorithm.to_id_string();
    let curve = || key.algorithm.parameters.as_ref()?.as_oid().ok().map(|oid| oid.to_id_string());
    let (kind, name) = match oid.as_str() {
        "1.2.840.113549.1.1.1" => {
            // Counted from the first bit that is set: the parsed size is in whole bytes.
            let bits = match key.parsed() {
                Ok(PublicKey::RSA(rsa)) => significant_bits(rsa.modulus),
                _ => 0,
            };
            let kind = if bits < LEAST_RSA_BITS { Err(Reason::WeakKey { bits }) } else { Ok(KeyKind::Rsa) };
            return (kind, format!("RSA {bits}"));
        }
        "1.2.840.10045.2.1" => match curve().as_deref() {
            Some("1.2.840.10045.3.1.7") => (Some(KeyKind::EcdsaP256), "ECDSA P-256".to_owned()),
            Some("1.3.132.0.34") => (Some(KeyKind::EcdsaP384), "ECDSA P-384".to_owned()),
            Some("1.3.132.0.35") => (Some(KeyKind::EcdsaP521), "ECDSA P-521".to_owned()),
            Some("1.3.132.0.10") => (None, "ECDSA secp256k1".to_owned()),
            Some(other) => (None, format!("ECDSA on the curve {other}")),
            None => (None, "ECDSA on a curve of its own".to_owned()),
        },
        "1.3.101.112" => (Some(KeyKind::Ed25519), "Ed25519".to_owned()),
        "1.3.101.113" => (None, "Ed448".to_owned()),
        "1.2.840.10040.4.1" => (None, "DSA".to_owned()),
        "1.2.840.113549.1.1.10" => (None, "RSA-PSS".to_owned()),
        other => (None, format!("of the kind {other}")),
    };
    (kind.ok_or_else(|| Reason::UnsupportedKeyType { key_type: name.clone() }), name)
}

/// Bits of a number from the first one that is set.
fn significant_bits(number: &[u8]) -> usize {
    let number: &[u8] = match number.iter().position(|byte| *byte != 0) {
        Some(first) => number.get(first..).unwrap_or_default(),
        None => return 0,
    };
    let unset = number.first().map_or(0, |byte| byte.leading_zeros());
    number.len() * 8 - usize::try_from(unset).unwrap_or(0)
}

/// The place, from 1, of the certificate that a key belongs to.
fn place_of_key(key: &Arc<dyn SigningKey>, chain: &[X509Certificate<'_>]) -> Option<usize> {
    let public = key.public_key()?;
    let (_, parsed) = SubjectPublicKeyInfo::from_der(&public).ok()?;
    let belongs = |certificate: &X509Certificate<'_>| {
        let theirs = certificate.public_key();
        // Some leave out the parameters of RSA keys, which say nothing (RFC 3279 §2.3.1).
        let same_rsa = theirs.algorithm.algorithm == OID_PKCS1_RSAENCRYPTION
            && theirs.algorithm.algorithm == parsed.algorithm.algorithm
            && theirs.subject_public_key == parsed.subject_public_key;
        same_rsa || *theirs.raw == *public
    };
    chain.iter().position(belongs).map(|at| at + 1)
}

fn key_belongs(key: &Arc<dyn SigningKey>, chain: &[X509Certificate<'_>], file: &Path) -> Result<(), Reason> {
    if key.public_key().is_none() {
        return Err(Reason::UnusableKey);
    }
    match place_of_key(key, chain) {
        Some(1) => Ok(()),
        Some(place) => Err(Reason::LeafNotFirst { place }),
        None => Err(Reason::KeyMismatch { key: file.to_owned() }),
    }
}

/// Was each certificate issued by the one that follows it?
fn chain_holds(chain: &[X509Certificate<'_>]) -> Result<(), Reason> {
    for (at, certificate) in chain.iter().enumerate() {
        let same = |other: &X509Certificate<'_>| other.as_raw() == certificate.as_raw();
        if let Some(first) = chain.iter().take(at).position(same) {
            return Err(Reason::Repeated { first: first + 1, second: at + 1 });
        }
    }
    for (at, pair) in chain.windows(2).enumerate() {
        let [certificate, next] = pair else { continue };
        let number = at + 1;
        let subject = || short_name(certificate.subject());
        if certificate.issuer().as_raw() != next.subject().as_raw() {
            let issued =
                |other: &X509Certificate<'_>| other.subject().as_raw() == certificate.issuer().as_raw();
            let place = chain.iter().position(issued).filter(|place| *place != at).map(|place| place + 1);
            return Err(Reason::ChainOrder {
                number,
                subject: subject(),
                issuer: short_name(certificate.issuer()),
                place,
            });
        }
        if is_signature_wrong(certificate, next) {
            return Err(Reason::ChainSignature { number, subject: subject() });
        }
    }
    Ok(())
}

/// True if a signature was looked at and is not the issuer's; false also where it is of a kind that is not known here.
fn is_signature_wrong(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    let weak = matches!(issuer.public_key().parsed(), Ok(PublicKey::RSA(rsa)) if significant_bits(rsa.modulus) < LEAST_RSA_BITS);
    !weak
        && matches!(
            certificate.verify_signature(Some(issuer.public_key())),
            Err(X509Error::SignatureVerificationError)
        )
}

/// What is known about a certificate.
pub(crate) fn facts_of(certificate: &X509Certificate<'_>, der: &CertificateDer<'_>) -> CertificateFacts {
    let (_, key_type) = key_kind(certificate);
    facts(certificate, Some(der), key_type, 1)
}

fn facts(
    leaf: &X509Certificate<'_>,
    der: Option<&CertificateDer<'_>>,
    key_type: String,
    chain: usize,
) -> CertificateFacts {
    let digest = der.map(|der| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der));
    CertificateFacts {
        names: names(leaf),
        subject: leaf.subject().to_string(),
        issuer: short_name(leaf.issuer()),
        not_before: leaf.validity().not_before.timestamp(),
        not_after: leaf.validity().not_after.timestamp(),
        key_type,
        serial: hex(leaf.raw_serial()),
        sha256: digest.map(|digest| hex(digest.as_ref())).unwrap_or_default(),
        chain,
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| DIGITS.get(usize::from(value & 15)).copied().map_or('?', char::from);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// The common name, or the whole distinguished name where there is none.
pub(crate) fn short_name(name: &X509Name<'_>) -> String {
    match common_name(name) {
        Some(common) => common.to_owned(),
        None => name.to_string(),
    }
}

fn common_name<'n>(name: &'n X509Name<'_>) -> Option<&'n str> {
    name.iter_common_name().next().and_then(|common| common.as_str().ok()).filter(|common| !common.is_empty())
}

/// The names that a certificate is for.
fn names(leaf: &X509Certificate<'_>) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = Vec::new();
    let mut seen: HashSet<Arc<str>> = HashSet::new();
    for name in general_names(leaf) {
        let name = match name {
            GeneralName::DNSName(name) => name.trim_end_matches('.').to_ascii_lowercase(),
            GeneralName::IPAddress(bytes) => match ip_address(bytes) {
                Some(address) => address.to_string(),
                None => continue,
            },
            _ => continue,
        };
        let name: Arc<str> = name.into();
        if !name.is_empty() && seen.insert(Arc::clone(&name)) {
            names.push(name);
        }
    }
    if names.is_empty()
        && let Some(common) = common_name(leaf.subject())
        && looks_like_host(common)
    {
        names.push(common.to_ascii_lowercase().into());
    }
    names
}

fn general_names<'l>(leaf: &'l X509Certificate<'_>) -> impl Iterator<Item = &'l GeneralName<'l>> {
    let extension = leaf.subject_alternative_name().ok().flatten();
    extension.into_iter().flat_map(|extension| &extension.value.general_names)
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

fn looks_like_host(name: &str) -> bool {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    rest.contains('.')
        && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

/// What is odd about a certificate whatever the time.
fn lasting_concerns(leaf: &X509Certificate<'_>) -> Vec<Concern> {
    let mut concerns = Vec::new();
    let is_name =
        |name: &GeneralName<'_>| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_));
    if !general_names(leaf).any(is_name) {
        concerns.push(Concern::NoNames);
    }
    if leaf.is_ca() {
        concerns.push(Concern::Authority);
    }
    if let Ok(Some(usage)) = leaf.extended_key_usage()
        && !(usage.value.any || usage.value.server_auth)
    {
        concerns.push(Concern::NotForServers);
    }
    concerns
}

/// What the time makes of a certificate.
#[derive(Debug, Default)]
pub(crate) struct InTime {
    /// It is not valid: a reason to refuse it, or at least to say so.
    pub(crate) invalid: Option<(Reason, Concern)>,
    /// It is valid, but.
    pub(crate) concerns: Vec<Concern>,
}

/// Looks at a certificate's times, `now` in seconds since 1970.
pub(crate) fn at(certified: &Certified, now: i64) -> InTime {
    let mut found = InTime::default();
    let CertificateFacts { not_before, not_after, .. } = certified.facts;
    if now > not_after {
        found.invalid = Some((Reason::Expired { not_after, now }, Concern::Expired { not_after, now }));
    } else if now < not_before {
        found.invalid =
            Some((Reason::NotYetValid { not_before, now }, Concern::NotYetValid { not_before, now }));
    } else if not_after - now <= SOON {
        // One that lives for a week is renewed by those who issue such: half its time left is soon enough.
        let life = not_after.saturating_sub(not_before);
        if not_after - now <= life / 2 {
            found.concerns.push(Concern::ExpiresSoon { not_after, now });
        }
    }
    if let Some(end) = &certified.chain_end
        && now > end.not_after
    {
        let (number, subject) = (end.number, end.subject.clone());
        found.concerns.push(Concern::ChainExpired { number, subject, not_after: end.not_after });
    }
    found
}
