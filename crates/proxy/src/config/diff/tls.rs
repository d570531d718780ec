//! What differs in TLS: the settings of listeners and services, and the certificates themselves.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use handover_api::{Change, certificate_changes};
use handover_tls::{Authorities, Version};

use super::super::model::{Certificate, ClientCertificates, Config, ListenerTls, ServiceTls, UnknownNames};
use super::Differences;

/// Certificates that were added, renewed, replaced or removed. Costs little where few differ, however many there are.
pub(super) fn certificates(old: &Config, new: &Config) -> Vec<Change> {
    type Key<'c> = (&'c Path, &'c [u8; 32]);
    fn key(certificate: &Certificate) -> Key<'_> {
        (&certificate.certificate, certificate.loaded.digest())
    }
    fn all(config: &Config) -> HashSet<Key<'_>, foldhash::fast::RandomState> {
        let identities = config.services.iter().filter_map(|service| service.tls.as_ref()?.identity.as_ref());
        config.certificates().map(|(_, certificate)| certificate).chain(identities).map(key).collect()
    }
    let (before, after) = (all(old), all(new));
    let gone = old.shown_certificates_if(|certificate| !after.contains(&key(certificate)));
    let come = new.shown_certificates_if(|certificate| !before.contains(&key(certificate)));
    certificate_changes(&gone, &come)
}

/// Authorities, known by their file, that differ also where only the file's bytes do.
fn authorities(
    found: &mut Differences,
    key: &str,
    old: Option<(&PathBuf, &Arc<Authorities>)>,
    new: Option<(&PathBuf, &Arc<Authorities>)>,
    otherwise: &str,
) {
    let path = |authorities: &Option<(&PathBuf, &Arc<Authorities>)>| match authorities {
        Some((path, _)) => path.display().to_string(),
        None => otherwise.to_owned(),
    };
    found.value(key, &path(&old), &path(&new), Clone::clone);
    if let (Some((was_path, was)), Some((is_path, is))) = (old, new)
        && was_path == is_path
        && was != is
    {
        let subjects = |authorities: &Authorities| -> Vec<String> {
            authorities.facts().iter().map(|facts| facts.subject.clone()).collect()
        };
        let (was, is) = (subjects(was), subjects(is));
        if was == is {
            found.0.push(format!("{key} renewed"));
        } else {
            found.list(key, &was, &is, Clone::clone);
        }
    }
}

pub(super) fn listener(found: &mut Differences, old: Option<&ListenerTls>, new: Option<&ListenerTls>) {
    let (old, new) = match (old, new) {
        (None, None) => return,
        (None, Some(_)) => return found.0.push("tls added".to_owned()),
        (Some(_), None) => return found.0.push("tls removed".to_owned()),
        (Some(old), Some(new)) => (old, new),
    };
    // What became of each certificate is told on its own: here only which files are named.
    let files = |tls: &ListenerTls| -> Vec<PathBuf> {
        tls.certificates.iter().map(|certificate| certificate.certificate.clone()).collect()
    };
    let (was, is) = (files(old), files(new));
    found.list("tls.certificates", &was, &is, |path| path.display().to_string());
    let default = |files: &[PathBuf], at: usize| files.get(at).cloned();
    let (was, is) = (default(&was, old.default), default(&is, new.default));
    let shown =
        |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    found.value("tls.default", &was, &is, shown);
    found.value("tls.unknown_names", &old.unknown_names, &new.unknown_names, |names| match names {
        UnknownNames::Default => "default",
        UnknownNames::Refuse => "refuse",
    });
    found.value("tls.minimum_version", &old.minimum_version, &new.minimum_version, |version| match version {
        Version::Tls12 => "1.2",
        Version::Tls13 => "1.3",
    });
    let alpn = |protocols: &Vec<Arc<str>>| {
        if protocols.is_empty() { "none".to_owned() } else { protocols.join(" ") }
    };
    found.value("tls.alpn", &old.alpn, &new.alpn, alpn);
    clients(found, old.clients.as_ref(), new.clients.as_ref());
}

fn clients(found: &mut Differences, old: Option<&ClientCertificates>, new: Option<&ClientCertificates>) {
    let rule = |clients: &Option<bool>| match clients {
        Some(true) => "required",
        Some(false) => "optional",
        None => "not asked for",
    };
    let required = |clients: Option<&ClientCertificates>| clients.map(|clients| clients.required);
    found.value("tls.client_certificates", &required(old), &required(new), rule);
    if let (Some(was), Some(is)) = (old, new) {
        let (was, is) = ((&was.ca, &was.authorities), (&is.ca, &is.authorities));
        authorities(found, "tls.client_ca", Some(was), Some(is), "none");
    }
    let header =
        |clients: Option<&ClientCertificates>| clients.and_then(|clients| clients.subject_header.clone());
    found.value("tls.client_subject_header", &header(old), &header(new), |name| {
        name.as_deref().unwrap_or("none").to_owned()
    });
}

pub(super) fn service(found: &mut Differences, old: Option<&ServiceTls>, new: Option<&ServiceTls>) {
    let (old, new) = match (old, new) {
        (None, None) => return,
        (None, Some(_)) => return found.0.push("tls added".to_owned()),
        (Some(_), None) => return found.0.push("tls removed".to_owned()),
        (Some(old), Some(new)) => (old, new),
    };
    found.value("tls.verify", &old.verify, &new.verify, Clone::clone);
    // Where an endpoint was added its name was, too: only a name of one's own is worth a word.
    let own = |tls: &ServiceTls| tls.server_name.clone();
    found.value("tls.server_name", &own(old), &own(new), |name| {
        name.as_deref().unwrap_or("each host").to_owned()
    });
    let (was, is) = (old.ca.as_ref(), new.ca.as_ref());
    authorities(
        found,
        "tls.ca",
        was.map(|(path, ca)| (path, ca)),
        is.map(|(path, ca)| (path, ca)),
        "the system's",
    );
    let identity = |tls: &ServiceTls| tls.identity.as_ref().map(|identity| identity.certificate.clone());
    found.value("tls.certificate", &identity(old), &identity(new), |path| {
        path.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string())
    });
}
