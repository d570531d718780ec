//! Facts about the certificates that serve, and what differs between two sets of them.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Change, ChangeKind, What};

/// What is known about one certificate that serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Certificate {
    /// The DNS names and IP addresses that it is for (subjectAltName), in its order.
    pub names: Vec<String>,
    /// Who issued it: the common name, or the whole distinguished name where there is none.
    pub issuer: String,
    /// Valid from, RFC 3339 in UTC.
    pub not_before: String,
    /// Valid until, RFC 3339 in UTC.
    pub not_after: String,
    /// `ECDSA P-256`, `RSA 2048`, `Ed25519` …
    pub key_type: String,
    /// The issuer's number for it, hexadecimal.
    pub serial: String,
    /// SHA-256 of the certificate (DER), hexadecimal.
    pub sha256: String,
    /// The files that it was read from: the certificate's, then the key's if that is another.
    pub files: Vec<String>,
    /// The listeners that present it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<String>,
    /// The services whose endpoints are shown it (mutual TLS).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
}

/// Days until this RFC 3339 time, rounded down; negative once it is over. `None` if it is no time.
#[must_use]
pub fn days_until(rfc3339: &str, now: jiff::Timestamp) -> Option<i64> {
    let then = rfc3339.parse::<jiff::Timestamp>().ok()?;
    Some(then.as_second().saturating_sub(now.as_second()).div_euclid(24 * 60 * 60))
}

impl Certificate {
    /// What a sentence calls it: its first name, or else its first file.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().or(self.files.first()).map_or("without a name", String::as_str)
    }

    /// Whole days until it expires, negative afterwards.
    #[must_use]
    pub fn days_left(&self, now: jiff::Timestamp) -> Option<i64> {
        days_until(&self.not_after, now)
    }

    /// `91 days`, `1 day`, `hours`, `over`.
    #[must_use]
    pub fn left(&self, now: jiff::Timestamp) -> String {
        match self.days_left(now) {
            Some(days) if days < 0 => "over".to_owned(),
            Some(0) => "hours".to_owned(),
            Some(1) => "1 day".to_owned(),
            Some(days) => format!("{days} days"),
            None => "unknown".to_owned(),
        }
    }

    /// `issuer Example CA, not after 2027-02-20, ECDSA P-256`.
    fn facts(&self) -> String {
        format!("issuer {}, not after {}, {}", self.issuer, day(&self.not_after), self.key_type)
    }

    fn names_or_none(&self) -> String {
        if self.names.is_empty() { "none".to_owned() } else { self.names.join(" ") }
    }

    /// What differs from an earlier certificate for the same purpose.
    fn difference(&self, before: &Self) -> String {
        let part =
            |what: &str, now: &str, was: &str| (now != was).then(|| format!("{what} {now}, was {was}"));
        let mut parts: Vec<String> = [
            part("not after", day(&self.not_after), day(&before.not_after)),
            part("issuer", &self.issuer, &before.issuer),
            part("key", &self.key_type, &before.key_type),
            part("names", &self.names_or_none(), &before.names_or_none()),
        ]
        .into_iter()
        .flatten()
        .collect();
        if parts.is_empty() {
            parts.extend(part("serial", &self.serial, &before.serial));
        }
        let word = if self.not_after > before.not_after { "renewed" } else { "replaced" };
        if parts.is_empty() { word.to_owned() } else { format!("{word}: {}", parts.join(", ")) }
    }
}

/// `2027-02-20` of `2027-02-20T23:59:59Z`.
pub(crate) fn day(rfc3339: &str) -> &str {
    rfc3339.split('T').next().unwrap_or(rfc3339)
}

/// What differs between two sets of certificates: one change for each that was added, removed, or replaced by
/// one for the same names (also if its files have other names now).
///
/// The detail of a replaced one begins with `renewed` or `replaced`. Linear in their number.
#[must_use]
pub fn certificate_changes(before: &[Certificate], after: &[Certificate]) -> Vec<Change> {
    let mut left = Unmatched::of(before);
    let mut changes = Vec::new();
    let mut unmatched = Vec::new();
    // Equal ones first, so that one of several for the same names is not taken for another of them.
    let rest: Vec<&Certificate> = after.iter().filter(|new| !left.take_same(new)).collect();
    for new in rest {
        match left.replaced_by(new) {
            Some(old) => changes.push(
                Change::new(What::Changed, ChangeKind::Certificate, new.name())
                    .with_detail(new.difference(old)),
            ),
            None => unmatched.push(new),
        }
    }
    changes.extend(
        unmatched.into_iter().map(|new| {
            Change::new(What::Added, ChangeKind::Certificate, new.name()).with_detail(new.facts())
        }),
    );
    changes.extend(
        left.rest().map(|old| {
            Change::new(What::Removed, ChangeKind::Certificate, old.name()).with_detail(old.facts())
        }),
    );
    changes
}

/// Certificates of the earlier set that none of the later set was found for yet.
struct Unmatched<'a> {
    all: &'a [Certificate],
    taken: Vec<bool>,
    by_digest: HashMap<&'a str, VecDeque<usize>>,
    by_names: HashMap<String, VecDeque<usize>>,
    by_file: HashMap<&'a str, VecDeque<usize>>,
}

impl<'a> Unmatched<'a> {
    fn of(all: &'a [Certificate]) -> Self {
        let mut left = Self {
            all,
            taken: vec![false; all.len()],
            by_digest: HashMap::new(),
            by_names: HashMap::new(),
            by_file: HashMap::new(),
        };
        for (at, certificate) in all.iter().enumerate() {
            left.by_digest.entry(&certificate.sha256).or_default().push_back(at);
            left.by_names.entry(sorted_names(certificate)).or_default().push_back(at);
            if let Some(file) = certificate.files.first() {
                left.by_file.entry(file).or_default().push_back(at);
            }
        }
        left
    }

    /// Takes the earlier one that is the very same, if there is one.
    fn take_same(&mut self, new: &Certificate) -> bool {
        let at = next(self.by_digest.get_mut(new.sha256.as_str()), &self.taken);
        if let Some(at) = at {
            self.taken[at] = true;
        }
        at.is_some()
    }

    /// The earlier one for the same names, or else from the same file.
    fn replaced_by(&mut self, new: &Certificate) -> Option<&'a Certificate> {
        let names = sorted_names(new);
        let at = next(self.by_names.get_mut(&names), &self.taken)
            .or_else(|| next(self.by_file.get_mut(new.files.first()?.as_str()), &self.taken))?;
        self.taken[at] = true;
        self.all.get(at)
    }

    fn rest(self) -> impl Iterator<Item = &'a Certificate> {
        self.all.iter().zip(self.taken).filter(|(_, taken)| !taken).map(|(certificate, _)| certificate)
    }
}

/// The first that is not taken; those that are taken are not looked at again.
fn next(queue: Option<&mut VecDeque<usize>>, taken: &[bool]) -> Option<usize> {
    let queue = queue?;
    while let Some(at) = queue.pop_front() {
        if !taken[at] {
            return Some(at);
        }
    }
    None
}

fn sorted_names(certificate: &Certificate) -> String {
    let mut names: Vec<&str> = certificate.names.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.join("\n")
}
