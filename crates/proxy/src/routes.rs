//! Route tables: from a request's host, path and method to its route, by hashing, whatever the number of routes.
//!
//! A route matches a request if all of its conditions hold. Of those that match, the most specific one is taken; their
//! order in the file decides nothing. Compared are, in this order:
//!
//! 1. the host: the exact one, then the longest `*.` pattern, then none;
//! 2. the path: the exact one, then the longest prefix, then none (a prefix of `/` is none);
//! 3. the method: listed, then `HEAD` where `GET` is listed, then none.
//!
//! So a request that the most specific host and path do not take because of its method goes on to the next ones. If no
//! route takes it, but one would for another method, that is [`Lookup::MethodNotAllowed`]. Two routes that are equally
//! specific for some request are a [`Conflict`].
//!
//! ```text
//!  RouteTable ── exact host ──┐
//!             ── *.host ──────┼─▶ HostTable ── exact path ─┐
//!             ── any host ────┘             ── prefix ─────┼─▶ Leaf ── by method ─┬─▶ route
//!                                           ── any path ───┘        ── any method ┘
//! ```
//!
//! Looking up costs one hash for the host (and one for each of its labels, if there are `*.` patterns), one for the
//! path, and one for each length that prefixes of this host have and at which the path has a segment boundary. The keys
//! in the tables are the operator's own, so that no client can make them collide.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use crate::config::{Config, HostPattern, ListenerIndex, PathPattern, Protocol};

#[cfg(test)]
mod tests;

/// What a request matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// This route.
    Found(Match),
    /// No route for this method, but at least one for another: 405, with [`RouteTable::allowed`].
    MethodNotAllowed,
    /// No route: 404.
    NotFound,
}

/// The route that a request matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// Position of the route in [`Config::routes`].
    pub route: u32,
    /// How many bytes at the start of the path the route's prefix took, a slash at its end not counted: what follows
    /// is empty or begins with `/`, and names the file in a directory. 0 for an exact path and for none.
    pub prefix: u32,
}

/// Two routes that claim the same requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Position of the one that comes first in the file.
    pub first: usize,
    /// Position of the other one.
    pub second: usize,
    /// A listener on which they meet.
    pub listener: ListenerIndex,
    /// The requests, for people: `GET example.org/api/*`.
    pub what: String,
}

/// The routes of all listeners.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    /// By listener; those with the same routes share a table.
    tables: Vec<Option<Arc<RouteTable>>>,
}

/// The routes that exist on one listener.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    exact: Map<HostTable>,
    below: Map<HostTable>,
    any: HostTable,
}

/// A hash table by name. The hash is seeded anew in each process.
type Map<T> = HashMap<Key, T, foldhash::fast::RandomState>;

/// A name in a table: shared with the configuration, looked up by bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key(Arc<str>);

impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.as_bytes().hash(state);
    }
}

impl std::borrow::Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// The routes of one host pattern.
#[derive(Debug, Clone, Default)]
struct HostTable {
    exact: Map<Leaf>,
    prefixes: Map<Leaf>,
    /// The lengths that `prefixes` has, longest first.
    lengths: Vec<usize>,
    any: Leaf,
}

/// The routes of one host pattern and one path pattern.
#[derive(Debug, Clone, Default)]
struct Leaf {
    by_method: Vec<(Arc<str>, u32)>,
    any: Option<u32>,
}

/// What a leaf says to a method.
enum Answer {
    Route(u32),
    OtherMethods,
    Nothing,
}

/// The longest host that can match: a name has at most 253 bytes (RFC 1035 §2.3.4).
const MAX_HOST_BYTES: usize = 255;

impl Routes {
    /// Builds the tables of a configuration. [`crate::config::parse`] did that already: [`crate::config::Checked`].
    #[must_use]
    pub fn build(config: &Config) -> Self {
        Self::build_checked(config).0
    }

    /// The same, with the conflicts, of which a checked configuration has none.
    #[must_use]
    pub fn build_checked(config: &Config) -> (Self, Vec<Conflict>) {
        let mut conflicts = Vec::new();
        let mut built: HashMap<Vec<usize>, Arc<RouteTable>> = HashMap::new();
        let sets = ListenerSets::of(config);
        let tables = config
            .listeners
            .iter()
            .enumerate()
            .map(|(listener, spoken)| {
                if spoken.protocol != Protocol::Http {
                    return None;
                }
                let wanted = sets.containing(listener);
                Some(match built.entry(wanted) {
                    Entry::Occupied(same) => Arc::clone(same.get()),
                    Entry::Vacant(new) => {
                        let mut wanted = vec![false; sets.sets.len()];
                        for set in new.key() {
                            wanted[*set] = true;
                        }
                        let routes = config.routes.iter().enumerate().zip(&sets.of_route);
                        let mut table = RouteTable::default();
                        for ((at, route), _) in routes.filter(|(_, set)| wanted[**set]) {
                            table.insert(at, &route.matcher, &mut |first, what| {
                                conflicts.push(Conflict { first, second: at, listener, what });
                            });
                        }
                        table.finish();
                        Arc::clone(new.insert(Arc::new(table)))
                    }
                })
            })
            .collect();
        (Self { tables }, conflicts)
    }

    /// How many entries the tables of a configuration have: for each route hosts times paths, for each table. Computed
    /// without building them, so that too many can be refused.
    #[must_use]
    pub fn entries(config: &Config) -> usize {
        let sets = ListenerSets::of(config);
        let mut of_set = vec![0_usize; sets.sets.len()];
        for (route, set) in config.routes.iter().zip(&sets.of_route) {
            let entries = route.matcher.hosts.len().max(1).saturating_mul(route.matcher.paths.len().max(1));
            of_set[*set] = of_set[*set].saturating_add(entries);
        }
        let http =
            config.listeners.iter().enumerate().filter(|(_, listener)| listener.protocol == Protocol::Http);
        let tables: HashSet<Vec<usize>> = http.map(|(listener, _)| sets.containing(listener)).collect();
        tables.iter().flatten().map(|set| of_set[*set]).fold(0, usize::saturating_add)
    }

    /// The table of a listener; `None` if it has none, because it does not speak HTTP.
    #[must_use]
    pub fn table(&self, listener: ListenerIndex) -> Option<&Arc<RouteTable>> {
        self.tables.get(listener)?.as_ref()
    }
}

/// The different sets of listeners that routes name: few, even where there are many routes.
struct ListenerSets {
    sets: Vec<Arc<[ListenerIndex]>>,
    of_route: Vec<usize>,
}

impl ListenerSets {
    fn of(config: &Config) -> Self {
        let mut numbers: HashMap<Arc<[ListenerIndex]>, usize> = HashMap::new();
        let mut sets: Vec<Arc<[ListenerIndex]>> = Vec::new();
        let mut last: Option<usize> = None;
        let of_route = config
            .routes
            .iter()
            .map(|route| {
                let on = &route.matcher.listeners;
                // Neighbours usually share one list: then nothing is hashed.
                if let Some(last) = last
                    && Arc::ptr_eq(on, &sets[last])
                {
                    return last;
                }
                let number = *numbers.entry(Arc::clone(on)).or_insert_with(|| {
                    sets.push(Arc::clone(on));
                    sets.len() - 1
                });
                last = Some(number);
                number
            })
            .collect();
        Self { sets, of_route }
    }

    fn containing(&self, listener: ListenerIndex) -> Vec<usize> {
        let sets = self.sets.iter().enumerate();
        sets.filter(|(_, set)| set.binary_search(&listener).is_ok()).map(|(number, _)| number).collect()
    }
}

impl RouteTable {
    fn insert(
        &mut self,
        route: usize,
        matcher: &crate::config::Matcher,
        conflict: &mut dyn FnMut(usize, String),
    ) {
        // A configuration has far fewer routes: its size is limited.
        let number = u32::try_from(route).unwrap_or(u32::MAX);
        let Self { exact, below, any } = self;
        let mut on_host = |host: Option<&HostPattern>, table: &mut HostTable| {
            let mut on_path = |path: Option<&PathPattern>, leaf: &mut Leaf| {
                leaf.insert(number, &matcher.methods, &mut |first, method| {
                    conflict(usize::try_from(first).unwrap_or(usize::MAX), describe(host, path, method));
                });
            };
            if matcher.paths.is_empty() {
                on_path(None, &mut table.any);
            }
            for path in &matcher.paths {
                let leaf = match path {
                    PathPattern::Exact(exact) => table.exact.entry(Key(Arc::clone(exact))).or_default(),
                    PathPattern::Prefix(prefix) if &**prefix == "/" => &mut table.any,
                    PathPattern::Prefix(prefix) => table.prefixes.entry(Key(Arc::clone(prefix))).or_default(),
                };
                on_path(Some(path), leaf);
            }
        };
        if matcher.hosts.is_empty() {
            on_host(None, any);
        }
        for host in &matcher.hosts {
            let table = match host {
                HostPattern::Exact(name) => exact.entry(Key(Arc::clone(name))).or_default(),
                HostPattern::Below(name) => below.entry(Key(Arc::clone(name))).or_default(),
            };
            on_host(Some(host), table);
        }
    }

    fn finish(&mut self) {
        for table in self.exact.values_mut().chain(self.below.values_mut()).chain([&mut self.any]) {
            let mut lengths: Vec<usize> = table.prefixes.keys().map(|prefix| prefix.0.len()).collect();
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.dedup();
            table.lengths = lengths;
        }
    }

    /// Finds the route of a request, without allocation.
    ///
    /// `host` as in the request's authority, with or without port, in any case; empty if there is none. `path` as sent,
    /// without query.
    #[must_use]
    pub fn lookup(&self, host: &[u8], path: &[u8], method: &[u8]) -> Lookup {
        let mut other_methods = false;
        let found = self.walk(host, path, &mut |leaf, prefix| match leaf.answer(method) {
            // A prefix is part of a path, and that of a head of at most `MAX_HEADER_BYTES`.
            Answer::Route(route) => Some(Match { route, prefix: u32::try_from(prefix).unwrap_or(0) }),
            Answer::OtherMethods => {
                other_methods = true;
                None
            }
            Answer::Nothing => None,
        });
        match found {
            Some(found) => Lookup::Found(found),
            None if other_methods => Lookup::MethodNotAllowed,
            None => Lookup::NotFound,
        }
    }

    /// The value of `Allow` for a request that met [`Lookup::MethodNotAllowed`]: `GET, HEAD, POST`.
    #[must_use]
    pub fn allowed(&self, host: &[u8], path: &[u8]) -> String {
        let mut methods: Vec<&str> = Vec::new();
        self.walk(host, path, &mut |leaf, _| -> Option<()> {
            for (method, _) in &leaf.by_method {
                methods.push(method);
                if &**method == "GET" {
                    methods.push("HEAD");
                }
            }
            None
        });
        methods.sort_unstable();
        methods.dedup();
        methods.join(", ")
    }

    /// Shows `visit` every leaf that fits host and path, the most specific first, until it answers.
    fn walk<'t, T>(
        &'t self,
        host: &[u8],
        path: &[u8],
        visit: &mut dyn FnMut(&'t Leaf, usize) -> Option<T>,
    ) -> Option<T> {
        if !(self.exact.is_empty() && self.below.is_empty()) {
            let mut buffer = [0; MAX_HOST_BYTES];
            let host = normal_host(host, &mut buffer);
            if let Some(found) = self.exact.get(host).and_then(|table| table.walk(path, visit)) {
                return Some(found);
            }
            if !self.below.is_empty() {
                let mut rest = host;
                while let Some(dot) = memchr::memchr(b'.', rest) {
                    rest = &rest[dot + 1..];
                    if let Some(found) = self.below.get(rest).and_then(|table| table.walk(path, visit)) {
                        return Some(found);
                    }
                }
            }
        }
        self.any.walk(path, visit)
    }
}

/// The host in lower case, without port and without a dot at its end; empty if it is too long to match anything.
fn normal_host<'b>(host: &[u8], buffer: &'b mut [u8; MAX_HOST_BYTES]) -> &'b [u8] {
    let end = match host.first() {
        Some(b'[') => memchr::memchr(b']', host).map_or(host.len(), |at| at + 1),
        _ => memchr::memchr(b':', host).unwrap_or(host.len()),
    };
    let name = &host[..end];
    let name = name.strip_suffix(b".").unwrap_or(name);
    match buffer.get_mut(..name.len()) {
        Some(buffer) => {
            buffer.copy_from_slice(name);
            buffer.make_ascii_lowercase();
            buffer
        }
        None => &[],
    }
}

impl HostTable {
    fn walk<'t, T>(&'t self, path: &[u8], visit: &mut dyn FnMut(&'t Leaf, usize) -> Option<T>) -> Option<T> {
        if !self.exact.is_empty()
            && let Some(found) = self.exact.get(path).and_then(|leaf| visit(leaf, 0))
        {
            return Some(found);
        }
        for length in &self.lengths {
            let Some((prefix, rest)) = path.split_at_checked(*length) else { continue };
            // Whole segments: the prefix ends with a slash, or the path ends here, or its next segment begins.
            let slash = prefix.last() == Some(&b'/');
            if !(slash || matches!(rest.first(), None | Some(b'/'))) {
                continue;
            }
            if let Some(found) =
                self.prefixes.get(prefix).and_then(|leaf| visit(leaf, length - usize::from(slash)))
            {
                return Some(found);
            }
        }
        visit(&self.any, 0)
    }
}

impl Leaf {
    fn insert(&mut self, route: u32, methods: &[Arc<str>], conflict: &mut dyn FnMut(u32, Option<&str>)) {
        if methods.is_empty() {
            match self.any {
                Some(first) => conflict(first, None),
                None => self.any = Some(route),
            }
        }
        for method in methods {
            match self.by_method.iter().find(|(known, _)| known == method) {
                Some((_, first)) => conflict(*first, Some(method)),
                None => self.by_method.push((Arc::clone(method), route)),
            }
        }
    }

    fn answer(&self, method: &[u8]) -> Answer {
        let of = |wanted: &[u8]| {
            self.by_method.iter().find(|(method, _)| method.as_bytes() == wanted).map(|(_, route)| *route)
        };
        let listed = match method {
            _ if self.by_method.is_empty() => None,
            b"HEAD" => of(b"HEAD").or_else(|| of(b"GET")),
            method => of(method),
        };
        match listed.or(self.any) {
            Some(route) => Answer::Route(route),
            None if self.by_method.is_empty() => Answer::Nothing,
            None => Answer::OtherMethods,
        }
    }
}

/// Requests, for people.
fn describe(host: Option<&HostPattern>, path: Option<&PathPattern>, method: Option<&str>) -> String {
    let mut text = String::new();
    if let Some(method) = method {
        let _ = write!(text, "{method} ");
    }
    let _ = match host {
        Some(HostPattern::Exact(host)) => write!(text, "{host}"),
        Some(HostPattern::Below(host)) => write!(text, "*.{host}"),
        None => Ok(()),
    };
    let _ = match path {
        Some(PathPattern::Exact(path)) => write!(text, "{path}"),
        Some(PathPattern::Prefix(path)) if path.ends_with('/') => write!(text, "{path}*"),
        Some(PathPattern::Prefix(path)) => write!(text, "{path}[/*]"),
        None if host.is_some() => write!(text, "/*"),
        None => write!(text, "every request"),
    };
    text
}
