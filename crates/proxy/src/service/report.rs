//! What is said about certificates: to `handover certificates`, and in metrics.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use handover_api::Certificate;

use crate::config::{self, Config};
use crate::metrics::Expiry;

/// The most certificates that metrics tell of: those that expire first.
const MOST_EXPIRIES: usize = 200;

/// Who uses a certificate.
#[derive(Clone, Copy)]
enum User<'a> {
    Listener(&'a str),
    Service(&'a str),
}

/// The certificates of listeners, then those of services, in the order of the file.
fn uses(config: &Config) -> impl Iterator<Item = (User<'_>, &config::Certificate)> {
    let listeners = config.certificates().map(|(name, certificate)| (User::Listener(name), certificate));
    let services = config
        .services
        .iter()
        .filter_map(|service| Some((User::Service(&service.name), service.tls.as_ref()?.identity.as_ref()?)));
    listeners.chain(services)
}

/// Every certificate once, with all listeners that present it and services that show it.
pub(super) fn certificates(config: &Config) -> Vec<Certificate> {
    let mut known: HashMap<(&[u8; 32], &Path, &Path), usize> = HashMap::new();
    let mut all: Vec<Certificate> = Vec::new();
    for (user, certificate) in uses(config) {
        let (file, key) = (certificate.certificate.as_path(), certificate.key.as_path());
        let position = *known.entry((certificate.loaded.digest(), file, key)).or_insert(all.len());
        if position == all.len() {
            all.push(certificate.loaded.shown(file, key));
        }
        let Some(shown) = all.get_mut(position) else { continue };
        let (names, name) = match user {
            User::Listener(name) => (&mut shown.listeners, name),
            User::Service(name) => (&mut shown.services, name),
        };
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    all
}

/// When certificates expire, the first ones first: one for each listener or service, name and type of key.
pub(super) fn expiries(config: &Config) -> Vec<Expiry> {
    let mut by_time: Vec<(User<'_>, &config::Certificate)> = uses(config).collect();
    by_time.sort_by_key(|(_, certificate)| certificate.loaded.facts().not_after);
    let mut told = HashSet::new();
    let mut all = Vec::new();
    for (user, certificate) in by_time {
        if all.len() >= MOST_EXPIRIES {
            break;
        }
        let facts = certificate.loaded.facts();
        let name = match facts.names.first() {
            Some(name) => name.to_string(),
            None => certificate.certificate.display().to_string(),
        };
        let (User::Listener(place) | User::Service(place)) = user;
        // Later ones of the same are those that clients get no more, or of another file.
        if told.insert((name.clone(), place, facts.key_type.as_str())) {
            let (place, key_type) = (place.to_owned(), facts.key_type.clone());
            all.push(Expiry { name, place, key_type, not_after: facts.not_after });
        }
    }
    all
}
