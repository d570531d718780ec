//! What changed between two configurations, in the words of the file.
//!
//! Things are known by name: a listener that only moved within the file did not change. Indices are never compared.

mod programs;
mod tls;

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::hash::Hash;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use handover_api::{Change, ChangeKind, What};

use super::model::{
    Action, Balance, Config, Directory, Endpoint, Fixed, Guard, HeaderEdits, HeaderField, HostPattern,
    Incoming, ListenAddress, Listener, LogFormat, LogLevel, LogTarget, Matcher, PathPattern, Piece, Protocol,
    Redirect, Route, Service, Upgrade, Watch,
};
use super::values::{show_mode, show_size, show_time};

/// The most items of a list that a detail names.
const MAX_NAMED: usize = 4;
/// The longest value that a detail quotes.
const MAX_QUOTED_CHARS: usize = 60;

/// What `new` serves differently from `old`, the most telling first: listeners, routes, services, endpoints, settings;
/// of each first what was added and changed, in the order of the file, then what was removed. Empty if nothing differs.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    let both = (old, new);
    named(
        &mut changes,
        ChangeKind::Listener,
        (&old.listeners, &new.listeners),
        |listener| &listener.name,
        |old, new| listener(old, new, both),
    );
    // Indices mean the same on both sides if the names do; then routes can be compared as a whole.
    let same_names = old.listeners.iter().map(|l| &l.name).eq(new.listeners.iter().map(|l| &l.name))
        && old.services.iter().map(|s| &s.name).eq(new.services.iter().map(|s| &s.name));
    named(
        &mut changes,
        ChangeKind::Route,
        (&old.routes, &new.routes),
        |route| &route.name,
        |old, new| {
            if same_names && old == new {
                return Vec::new();
            }
            route(old, new, both)
        },
    );
    let services = (&*old.services, &*new.services);
    let before = changes.len();
    named(&mut changes, ChangeKind::Service, services, |service| &service.name, service);
    leave_out_implied(&mut changes, before, both);
    endpoints(&mut changes, old, new);
    let programs = (&*old.programs, &*new.programs);
    named(&mut changes, ChangeKind::Program, programs, |program| &program.spec.name, programs::program);
    changes.extend(tls::certificates(old, new));
    settings(&mut changes, old, new);
    changes
}

/// Leaves out services that came or went with a program of the same name: mostly no table of the file has them.
fn leave_out_implied(changes: &mut Vec<Change>, from: usize, (before, after): (&Config, &Config)) {
    let is_implied = |config: &Config, name: &str| {
        let service = config.services.iter().find(|service| &*service.name == name);
        service.is_some_and(|service| service.program.as_deref() == Some(name))
    };
    let mut at = 0;
    changes.retain(|change| {
        at += 1;
        at <= from
            || match change.what {
                What::Added => !is_implied(after, &change.name),
                What::Removed => !is_implied(before, &change.name),
                _ => true,
            }
    });
}

/// Compares two lists of things with names.
fn named<'c, T>(
    changes: &mut Vec<Change>,
    kind: ChangeKind,
    (old, new): (&'c [T], &'c [T]),
    name: impl Fn(&'c T) -> &'c str,
    mut differences: impl FnMut(&'c T, &'c T) -> Vec<String>,
) {
    // Mostly nothing is moved: then nothing is hashed.
    if old.len() == new.len() && old.iter().zip(new).all(|(old, new)| name(old) == name(new)) {
        for (old, new) in old.iter().zip(new) {
            changed(changes, kind, name(new), &differences(old, new));
        }
        return;
    }
    let mut before: HashMap<&str, &T> = old.iter().map(|thing| (name(thing), thing)).collect();
    for thing in new {
        match before.remove(name(thing)) {
            Some(old) => changed(changes, kind, name(thing), &differences(old, thing)),
            None => changes.push(Change::new(What::Added, kind, name(thing))),
        }
    }
    let removed = old.iter().filter(|thing| before.contains_key(name(thing)));
    changes.extend(removed.map(|thing| Change::new(What::Removed, kind, name(thing))));
}

fn changed(changes: &mut Vec<Change>, kind: ChangeKind, name: &str, differences: &[String]) {
    if !differences.is_empty() {
        changes.push(Change::new(What::Changed, kind, name).with_detail(differences.join(", ")));
    }
}

/// Gathers differences between two values of a kind.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    /// `key old → new`, if they differ.
    fn value<T: PartialEq, S: Display>(&mut self, key: &str, old: &T, new: &T, show: impl Fn(&T) -> S) {
        if old != new {
            let short = |value: &T| shortened(&show(value).to_string());
            self.0.push(format!("{key} {} → {}", short(old), short(new)));
        }
    }

    /// `key +added −removed`, if they differ, or that only the order does.
    fn list<T: Eq + Hash>(&mut self, key: &str, old: &[T], new: &[T], show: impl Fn(&T) -> String) {
        if old == new {
            return;
        }
        let (was, is): (HashSet<&T>, HashSet<&T>) = (old.iter().collect(), new.iter().collect());
        let mut items: Vec<String> = Vec::new();
        let shown = |sign: char, item: &T| format!("{sign}{}", shortened(&show(item)));
        items.extend(new.iter().filter(|item| !was.contains(item)).map(|item| shown('+', item)));
        items.extend(old.iter().filter(|item| !is.contains(item)).map(|item| shown('−', item)));
        if items.is_empty() {
            self.0.push(format!("{key} in another order"));
            return;
        }
        let more = items.len().saturating_sub(MAX_NAMED);
        items.truncate(MAX_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        self.0.push(format!("{key} {}{more}", items.join(" ")));
    }

    fn fields(&mut self, key: &str, old: &[HeaderField], new: &[HeaderField]) {
        self.list(key, old, new, |field| format!("{}: {}", field.name, field.value));
    }

    fn edits(&mut self, key: &str, old: &HeaderEdits, new: &HeaderEdits) {
        self.fields(&format!("{key}.set"), &old.set, &new.set);
        self.list(&format!("{key}.remove"), &old.remove, &new.remove, |name| name.to_string());
    }

    fn time(&mut self, key: &str, old: Duration, new: Duration) {
        self.value(key, &old, &new, |time| show_time(*time));
    }
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= MAX_QUOTED_CHARS {
        return text.to_owned();
    }
    text.chars().take(MAX_QUOTED_CHARS).chain(['…']).collect()
}

fn address(address: &ListenAddress) -> String {
    match address {
        ListenAddress::Unix { mode, .. } => format!("{address} (mode {})", show_mode(*mode)),
        other => other.to_string(),
    }
}

fn service_name(config: &Config, service: usize) -> &str {
    config.services.get(service).map_or("?", |service| &service.name)
}

fn listener(old: &Listener, new: &Listener, (before, after): (&Config, &Config)) -> Vec<String> {
    let mut found = Differences::default();
    found.list("address", &old.addresses, &new.addresses, address);
    let protocol = |listener: &Listener, config| match listener.protocol {
        Protocol::Http => "http".to_owned(),
        Protocol::Tcp { service } => format!("tcp to {}", service_name(config, service)),
    };
    found.value("protocol", &protocol(old, before), &protocol(new, after), Clone::clone);
    found.value("backlog", &old.backlog, &new.backlog, Clone::clone);
    let (was, is) = (&old.limits, &new.limits);
    let bytes = |size: &usize| show_size(u64::try_from(*size).unwrap_or(u64::MAX));
    found.value("limits.connections", &was.connections, &is.connections, Clone::clone);
    found.value("limits.header_bytes", &was.header_bytes, &is.header_bytes, bytes);
    found.value("limits.headers", &was.headers, &is.headers, Clone::clone);
    found.value("limits.target_bytes", &was.target_bytes, &is.target_bytes, bytes);
    found.value("limits.body_bytes", &was.body_bytes, &is.body_bytes, |limit| {
        limit.map_or_else(|| "unlimited".to_owned(), show_size)
    });
    let (was, is) = (&old.timeouts, &new.timeouts);
    found.time("timeouts.header", was.header, is.header);
    found.time("timeouts.idle", was.idle, is.idle);
    found.time("timeouts.body", was.body, is.body);
    found.time("timeouts.tunnel", was.tunnel, is.tunnel);
    tls::listener(&mut found, old.tls.as_ref(), new.tls.as_ref());
    found.0
}

fn route(old: &Route, new: &Route, (before, after): (&Config, &Config)) -> Vec<String> {
    let mut found = Differences::default();
    let (was, is) = (&old.matcher, &new.matcher);
    found.list("host", &was.hosts, &is.hosts, |host| match host {
        HostPattern::Exact(host) => host.to_string(),
        HostPattern::Below(host) => format!("*.{host}"),
    });
    let exact = |matcher: &Matcher| -> Vec<Arc<str>> {
        matcher
            .paths
            .iter()
            .filter_map(|p| if let PathPattern::Exact(p) = p { Some(p.clone()) } else { None })
            .collect()
    };
    let prefix = |matcher: &Matcher| -> Vec<Arc<str>> {
        matcher
            .paths
            .iter()
            .filter_map(|p| if let PathPattern::Prefix(p) = p { Some(p.clone()) } else { None })
            .collect()
    };
    found.list("path", &exact(was), &exact(is), |path| path.to_string());
    found.list("path_prefix", &prefix(was), &prefix(is), |path| path.to_string());
    found.list("method", &was.methods, &is.methods, |method| method.to_string());
    // A route on all listeners stays so when one is added.
    if !(is_on_all(was, before) && is_on_all(is, after)) {
        found.list("listeners", &listener_names(was, before), &listener_names(is, after), |name| {
            name.to_string()
        });
    }
    found.value("health", &old.health, &new.health, Clone::clone);
    match (&old.action, &new.action) {
        (Action::Service(old), Action::Service(new)) => {
            found.value("service", &service_name(before, *old), &service_name(after, *new), |name| {
                (*name).to_owned()
            });
        }
        (Action::Fixed(old), Action::Fixed(new)) => fixed(&mut found, old, new),
        (Action::Redirect(old), Action::Redirect(new)) => redirect(&mut found, old, new),
        (Action::Directory(old), Action::Directory(new)) => directory(&mut found, old, new),
        (old, new) => {
            found.0.push(format!(
                "{} instead of {}",
                describe_action(new, after),
                describe_action(old, before)
            ));
        }
    }
    found.0
}

fn is_on_all(matcher: &Matcher, config: &Config) -> bool {
    let http =
        config.listeners.iter().enumerate().filter(|(_, listener)| listener.protocol == Protocol::Http);
    http.map(|(index, _)| index).eq(matcher.listeners.iter().copied())
}

fn listener_names(matcher: &Matcher, config: &Config) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = Vec::with_capacity(matcher.listeners.len());
    names.extend(
        matcher.listeners.iter().filter_map(|at| config.listeners.get(*at)).map(|l| Arc::clone(&l.name)),
    );
    names.sort_unstable();
    names
}

fn describe_action(action: &Action, config: &Config) -> String {
    match action {
        Action::Service(service) => format!("service {}", service_name(config, *service)),
        Action::Fixed(_) => "a fixed response".to_owned(),
        Action::Redirect(_) => "a redirect".to_owned(),
        Action::Directory(_) => "a directory".to_owned(),
    }
}

fn fixed(found: &mut Differences, old: &Fixed, new: &Fixed) {
    found.value("status", &old.status, &new.status, Clone::clone);
    let file = |file: &Option<std::path::PathBuf>| match file {
        Some(path) => path.display().to_string(),
        None => "none".to_owned(),
    };
    found.value("body_file", &old.body_file, &new.body_file, file);
    if old.body != new.body {
        found.0.push(match (old.body.len(), new.body.len()) {
            (1, 1) => "another body of 1 byte".to_owned(),
            (old, new) if old == new => format!("another body of {new} bytes"),
            (old, 1) => format!("body {old} → 1 byte"),
            (old, new) => format!("body {old} → {new} bytes"),
        });
    }
    let none_or = |text: &Option<Arc<str>>| text.as_deref().unwrap_or("none").to_owned();
    found.value("content_type", &old.content_type, &new.content_type, none_or);
    found.fields("headers", &old.headers, &new.headers);
}

fn redirect(found: &mut Differences, old: &Redirect, new: &Redirect) {
    found.value("status", &old.status, &new.status, Clone::clone);
    found.value("to", &old.to, &new.to, |pieces| {
        let text = |piece: &Piece| match piece {
            Piece::Literal(literal) => literal.to_string(),
            Piece::Host => "{host}".to_owned(),
            Piece::Path => "{path}".to_owned(),
            Piece::Query => "{query}".to_owned(),
        };
        pieces.iter().map(text).collect::<String>()
    });
}

fn directory(found: &mut Differences, old: &Directory, new: &Directory) {
    found.value("root", &old.root, &new.root, |root| root.display().to_string());
    found.list("index", &old.index, &new.index, |name| name.to_string());
    found.value("hidden", &old.hidden, &new.hidden, Clone::clone);
    found.fields("headers", &old.headers, &new.headers);
}

fn service(old: &Service, new: &Service) -> Vec<String> {
    let mut found = Differences::default();
    let program = |service: &Service| service.program.as_deref().unwrap_or("none").to_owned();
    found.value("program", &program(old), &program(new), Clone::clone);
    found.value("balance", &old.balance, &new.balance, |balance| match balance {
        Balance::RoundRobin => "round-robin",
        Balance::LeastConnections => "least-connections",
    });
    found.time("connect_timeout", old.connect_timeout, new.connect_timeout);
    found.time("response_timeout", old.response_timeout, new.response_timeout);
    found.value("keep_alive.idle", &old.keep_alive.idle, &new.keep_alive.idle, Clone::clone);
    found.time("keep_alive.idle_timeout", old.keep_alive.idle_timeout, new.keep_alive.idle_timeout);
    found.edits("request_headers", &old.request_headers, &new.request_headers);
    found.edits("response_headers", &old.response_headers, &new.response_headers);
    let (was, is) = (&old.forwarded, &new.forwarded);
    found.value("forwarded.x_forwarded", &was.x_forwarded, &is.x_forwarded, Clone::clone);
    found.value("forwarded.rfc7239", &was.forwarded, &is.forwarded, Clone::clone);
    found.value("forwarded.via", &was.via, &is.via, Clone::clone);
    found.value("forwarded.incoming", &was.incoming, &is.incoming, |incoming| match incoming {
        Incoming::Replace => "replace",
        Incoming::Append => "append",
        Incoming::Trust => "trust",
    });
    tls::service(&mut found, old.tls.as_ref(), new.tls.as_ref());
    found.0
}

/// Endpoints of services that were there before and still are; those of new ones go without saying.
fn endpoints(changes: &mut Vec<Change>, old: &Config, new: &Config) {
    let before: HashMap<&str, &Service> =
        old.services.iter().map(|service| (&*service.name, service)).collect();
    for service in &new.services {
        let Some(was) = before.get(&*service.name) else { continue };
        if was.endpoints == service.endpoints {
            continue;
        }
        let mut named: Vec<Change> = Vec::new();
        let addresses = |endpoint: &Endpoint| -> String {
            endpoint.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        self::named(
            &mut named,
            ChangeKind::Endpoint,
            (&was.endpoints, &service.endpoints),
            |endpoint| &endpoint.name,
            |old, new| {
                let mut found = Differences::default();
                found.value("resolves to", &addresses(old), &addresses(new), Clone::clone);
                found.0
            },
        );
        for change in &mut named {
            change.name = format!("{} of {}", change.name, service.name);
        }
        if named.is_empty() {
            let order = "endpoints in another order".to_owned();
            changed(changes, ChangeKind::Service, &service.name, &[order]);
        }
        changes.extend(named);
    }
}

/// Everything that is set once for the server.
fn settings(changes: &mut Vec<Change>, old: &Config, new: &Config) {
    let mut set = |name: &str, old: String, new: String| {
        if old != new {
            let detail = format!("{} → {}", shortened(&old), shortened(&new));
            changes.push(Change::new(What::Changed, ChangeKind::Setting, name).with_detail(detail));
        }
    };
    let path =
        |path: Option<&Path>| path.map_or_else(|| "default".to_owned(), |path| path.display().to_string());
    let numbers = |list: &[u32]| match list {
        [] => "none".to_owned(),
        list => list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    };
    let (was, is) = (&old.control, &new.control);
    set("control.socket", path(was.socket.as_deref()), path(is.socket.as_deref()));
    set("control.mode", show_mode(was.mode), show_mode(is.mode));
    let group = |group: Option<u32>| group.map_or_else(|| "default".to_owned(), |group| group.to_string());
    set("control.group", group(was.group), group(is.group));
    for (role, was, is) in [
        ("admin", &was.roles.admin, &is.roles.admin),
        ("operate", &was.roles.operate, &is.roles.operate),
        ("read", &was.roles.read, &is.roles.read),
    ] {
        set(&format!("control.roles.{role}.users"), numbers(&was.users), numbers(&is.users));
        set(&format!("control.roles.{role}.groups"), numbers(&was.groups), numbers(&is.groups));
    }
    set("control.state", path(was.state.as_deref()), path(is.state.as_deref()));
    set("control.history", was.history.to_string(), is.history.to_string());
    set("control.generations", was.generations.to_string(), is.generations.to_string());

    let (was, is) = (&old.log, &new.log);
    set("log.format", log_format(was.format).to_owned(), log_format(is.format).to_owned());
    set("log.to", log_target(Some(&was.to)), log_target(Some(&is.to)));
    set("log.level", log_level(was.level).to_owned(), log_level(is.level).to_owned());
    set("log.access", log_target(was.access.as_ref()), log_target(is.access.as_ref()));

    let addresses = |config: &Config| match &config.metrics {
        Some(metrics) => metrics.addresses.iter().map(address).collect::<Vec<_>>().join(" "),
        None => "none".to_owned(),
    };
    set("metrics.address", addresses(old), addresses(new));
    if let (Some(was), Some(is)) = (&old.metrics, &new.metrics) {
        set("metrics.path", was.path.to_string(), is.path.to_string());
    }
    set("drain.timeout", show_time(old.drain.timeout), show_time(new.drain.timeout));
    set("tickets.rotate", show_time(old.tickets.rotate), show_time(new.tickets.rotate));
    set("tickets.keep", old.tickets.keep.to_string(), new.tickets.keep.to_string());
    let watch = |watch: Option<Watch>| match watch {
        Some(Watch { settle, retry, poll }) => {
            format!("settle {}, retry {}, poll {}", show_time(settle), show_time(retry), show_time(poll))
        }
        None => "off".to_owned(),
    };
    set("watch", watch(old.watch), watch(new.watch));
    let guard = |guard: Option<Guard>| match guard {
        Some(guard) => format!(
            "{}, {} requests, 5xx {}, connects {}, handshakes {}",
            show_time(guard.watch),
            guard.requests,
            guard.errors_5xx,
            guard.connect_failures,
            guard.handshake_failures
        ),
        None => "off".to_owned(),
    };
    set("guard", guard(old.guard), guard(new.guard));
    upgrade(&mut set, &old.upgrade, &new.upgrade);
}

/// Which binaries an upgrade may run.
fn upgrade(set: &mut dyn FnMut(&str, String, String), old: &Upgrade, new: &Upgrade) {
    let directories = |rules: &Upgrade| match rules.directories.as_slice() {
        [] => "any".to_owned(),
        some => some.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" "),
    };
    set("upgrade.directories", directories(old), directories(new));
    let owner = |rules: &Upgrade| rules.owner.map_or_else(|| "default".to_owned(), |owner| owner.to_string());
    set("upgrade.owner", owner(old), owner(new));
    let given = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    set("upgrade.sha256", given(&old.sha256), given(&new.sha256));
    set("upgrade.public_key", given(&old.public_key), given(&new.public_key));
}

fn log_format(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}

fn log_level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

fn log_target(target: Option<&LogTarget>) -> String {
    match target {
        None => "off".to_owned(),
        Some(LogTarget::Stderr) => "stderr".to_owned(),
        Some(LogTarget::Stdout) => "stdout".to_owned(),
        Some(LogTarget::File(path)) => path.display().to_string(),
    }
}
