//! Routes: conditions, names, and that no two of them claim the same requests.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::net::Ipv6Addr;
use std::sync::Arc;

use super::super::address::{Wrong, check_host_name};
use super::super::decode::{Many, OneOrMany};
use super::super::model::{
    Action, Config, HostPattern, Listener, ListenerIndex, Matcher, PathPattern, Protocol, Route,
};
use super::super::raw::{MAX_ROUTES, RawRoute};
use super::super::sink::{Located, Sink, Span};
use super::listeners::Checked;
use super::{Cx, MAX_ROUTE_NAME_BYTES, Names, Targets, actions, http_listeners};
use crate::routes::Conflict;

/// The longest path of a route.
const MAX_PATH_BYTES: usize = 4096;
/// The longest method: what the codec accepts.
const MAX_METHOD_BYTES: usize = handover_http1::limits::MAX_METHOD_BYTES;

/// Checks all routes; gives the place of each as well, `None` for those that have errors: what is
/// wrong with them may make them look like others.
pub(super) fn check(
    raw: Many<RawRoute, MAX_ROUTES>,
    listeners: &[Checked],
    listener_names: &mut Names,
    targets: &mut Targets,
    cx: &mut Cx<'_>,
) -> (Vec<Route>, Vec<Option<Span>>) {
    let http = http_listeners(listeners);
    let mut routes = Vec::with_capacity(raw.0.len());
    let mut spans = Vec::with_capacity(raw.0.len());
    let mut given: HashMap<Arc<str>, Span> = HashMap::new();
    for raw in raw.0 {
        let span = raw.span;
        let errors = cx.sink.errors();
        if let Some(name) = raw.value.name.get() {
            check_route_name(name, cx.sink);
            if let Some(first) = given.insert(name.value.as_str().into(), name.span) {
                cx.sink
                    .error(name.span, format!("there are two routes with the name {:?}", name.value))
                    .also(first, "the other one");
            }
        }
        let route = check_one(raw, &http, listeners, listener_names, targets, cx);
        routes.push(route);
        spans.push((cx.sink.errors() == errors).then_some(span));
    }
    tell_names_apart(&mut routes, &given);
    if let (true, Some(Some(first))) = (http.is_empty(), spans.first()) {
        cx.sink
            .warning(*first, "there is no listener that speaks http, so no request ever comes to the routes");
    }
    warn_about_idle_listeners(&routes, listeners, listener_names, cx.sink);
    (routes, spans)
}

fn check_one(
    raw: Located<RawRoute>,
    http: &Arc<[ListenerIndex]>,
    listeners: &[Checked],
    listener_names: &mut Names,
    targets: &mut Targets,
    cx: &mut Cx<'_>,
) -> Route {
    let Located { value: mut raw, span } = raw;
    let hosts = patterns(std::mem::take(&mut raw.host).take(), cx.sink, host_pattern);
    let mut paths = patterns(std::mem::take(&mut raw.path).take(), cx.sink, |text, sink| {
        check_path(text, sink);
        warn_about_star(text, "path_prefix", sink);
        Some(PathPattern::Exact(text.value.as_str().into()))
    });
    paths.extend(patterns(std::mem::take(&mut raw.path_prefix).take(), cx.sink, |text, sink| {
        check_path(text, sink);
        warn_about_star(text, "path_prefix", sink);
        Some(PathPattern::Prefix(text.value.as_str().into()))
    }));
    let methods = patterns(std::mem::take(&mut raw.method).take(), cx.sink, method);
    let on = match std::mem::take(&mut raw.listeners).take() {
        Some(names) => on_listeners(&names.value, listeners, listener_names, cx.sink),
        None => Arc::clone(http),
    };
    let matcher = Matcher { hosts, paths, methods, listeners: on };
    let name = match raw.name.get() {
        Some(name) => name.value.as_str().into(),
        None => derived_name(&matcher, http, listeners).into(),
    };
    let health = (raw.health(), raw.health.get().map(|health| health.span));
    let action = actions::check(raw, span, targets, cx);
    if let ((true, Some(given)), Action::Fixed(_) | Action::Redirect(_) | Action::Directory(_)) =
        (health, &action)
    {
        cx.sink.warning(given, "health has no effect: the route leads to no service");
    }
    Route { name, matcher, action, health: health.0 }
}

/// Checks each of a list, and that none is there twice.
fn patterns<T: Clone + Eq + std::hash::Hash>(
    list: Option<Located<OneOrMany<String>>>,
    sink: &mut Sink,
    mut check: impl FnMut(&Located<String>, &mut Sink) -> Option<T>,
) -> Vec<T> {
    let Some(list) = list else {
        return Vec::new();
    };
    let texts = list.value.as_slice();
    let mut checked: Vec<T> = Vec::with_capacity(texts.len());
    let mut seen: HashSet<T> = HashSet::new();
    for text in texts {
        let Some(pattern) = check(text, sink) else { continue };
        // Most routes have one host and one path: no set is built for those.
        if texts.len() > 1 && !seen.insert(pattern.clone()) {
            sink.error(text.span, format!("{:?} is listed twice", text.value));
        }
        checked.push(pattern);
    }
    checked
}

fn on_listeners(
    names: &OneOrMany<String>,
    listeners: &[Checked],
    listener_names: &mut Names,
    sink: &mut Sink,
) -> Arc<[ListenerIndex]> {
    let mut found: Vec<(ListenerIndex, &Located<String>)> = Vec::with_capacity(names.as_slice().len());
    for name in names.as_slice() {
        let Some(index) = listener_names.refer(name, sink) else { continue };
        if listener(listeners, index).is_some_and(|listener| listener.protocol != Protocol::Http) {
            sink.error(
                name.span,
                format!("listener {:?} speaks tcp: it has a service, and no routes", name.value),
            );
        }
        found.push((index, name));
    }
    found.sort_by_key(|(index, _)| *index);
    for pair in found.windows(2) {
        if let [(first, _), (second, name)] = pair
            && first == second
        {
            sink.error(name.span, format!("{:?} is listed twice", name.value));
        }
    }
    found.into_iter().map(|(index, _)| index).collect()
}

/// A listener by its position in the file; `None` if it could not be read.
fn listener(listeners: &[Checked], index: ListenerIndex) -> Option<&Listener> {
    let at = listeners.binary_search_by_key(&index, |checked| checked.index).ok()?;
    listeners.get(at).map(|checked| &checked.listener)
}

fn host_pattern(text: &Located<String>, sink: &mut Sink) -> Option<HostPattern> {
    match parse_host(&text.value) {
        Ok(pattern) => Some(pattern),
        Err(wrong) => {
            let report = sink.error(text.span, wrong.detail);
            if let Some(help) = wrong.help {
                report.help(help);
            }
            None
        }
    }
}

fn parse_host(text: &str) -> Result<HostPattern, Wrong> {
    if text == "*" {
        return Err(Wrong::help("\"*\" is not a host", "leave host out to match every host"));
    }
    if let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) {
        let host = rest.split('/').next().unwrap_or(rest);
        return Err(Wrong::help(format!("{text:?} is a URL, not a host"), format!("write {host:?}")));
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return match inner.parse::<Ipv6Addr>() {
            Ok(ip) => Ok(HostPattern::Exact(format!("[{ip}]").into())),
            Err(_) => Err(Wrong::new(format!("{text:?} is not an IPv6 address"))),
        };
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(Wrong::help(format!("{text:?} needs brackets"), format!("write \"[{text}]\"")));
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && port.parse::<u16>().is_ok()
    {
        return Err(Wrong::help(
            format!("{text:?} has a port, and hosts are compared without"),
            format!("write {host:?}, and listeners = [\"…\"] to tell ports apart"),
        ));
    }
    let (below, name) = match text.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if name.contains('*') {
        return Err(Wrong::help(
            format!("{text:?} has a star in a place where none can be"),
            "a star stands only at the beginning, as in \"*.example.org\", for one or more labels",
        ));
    }
    check_host_name(name)?;
    let name: Arc<str> = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into();
    Ok(if below { HostPattern::Below(name) } else { HostPattern::Exact(name) })
}

/// The bytes that a path can have: `pchar` and `/` (RFC 3986 §3.3).
const IN_PATHS: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = b'a';
    while byte <= b'z' {
        allowed[byte as usize] = true;
        allowed[byte.to_ascii_uppercase() as usize] = true;
        byte += 1;
    }
    let others = b"0123456789-._~!$&'()*+,;=:@%/";
    let mut at = 0;
    while at < others.len() {
        allowed[others[at] as usize] = true;
        at += 1;
    }
    allowed
};

/// Checks a path that is compared with those of requests.
pub(super) fn check_path(path: &Located<String>, sink: &mut Sink) {
    let text = path.value.as_str();
    let allowed = |b: u8| IN_PATHS[usize::from(b)];
    if !text.starts_with('/') {
        sink.error(path.span, format!("the path {text:?} does not begin with \"/\""))
            .help(format!("write \"/{text}\""));
    } else if text.len() > MAX_PATH_BYTES {
        sink.error(path.span, format!("a path of more than {MAX_PATH_BYTES} bytes"));
    } else if text.contains('?') {
        sink.error(path.span, format!("the path {text:?} has a query, and routes do not look at queries"));
    } else if !text.bytes().all(allowed) {
        let mut encoded = String::with_capacity(text.len());
        for byte in text.bytes() {
            if allowed(byte) {
                encoded.push(char::from(byte));
            } else {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
        sink.error(path.span, format!("the path {text:?} has characters that clients send encoded"))
            .help(format!("write {encoded:?}"));
    } else if text.contains("/.") && text.split('/').any(|segment| matches!(segment, "." | "..")) {
        sink.error(
            path.span,
            format!("the path {text:?} has a \".\" or \"..\", which clients resolve before they send it"),
        );
    }
}

/// Points out a star that looks like a wildcard and is none.
fn warn_about_star(path: &Located<String>, key: &str, sink: &mut Sink) {
    if let Some(before) = path.value.strip_suffix('*') {
        sink.warning(path.span, "a star in a path stands for itself")
            .help(format!("for all paths that begin so, write {key} = {before:?}"));
    }
}

fn method(text: &Located<String>, sink: &mut Sink) -> Option<Arc<str>> {
    let name = text.value.as_str();
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > MAX_METHOD_BYTES || !name.bytes().all(token) {
        sink.error(text.span, format!("{name:?} is not a method"));
        return None;
    }
    if name.bytes().any(|b| b.is_ascii_lowercase()) {
        sink.error(text.span, format!("{name:?} has small letters, and methods are case-sensitive"))
            .help(format!("did you mean {:?}?", name.to_ascii_uppercase()));
        return None;
    }
    Some(name.into())
}

fn check_route_name(name: &Located<String>, sink: &mut Sink) {
    let text = &name.value;
    if text.is_empty() || text.len() > MAX_ROUTE_NAME_BYTES || text.chars().any(char::is_control) {
        sink.error(name.span, format!("{text:?} cannot be the name of a route"))
            .help(format!("use 1 to {MAX_ROUTE_NAME_BYTES} bytes without control characters"));
    }
}

/// A name made of the conditions: `GET,POST example.org/api/* on web`.
fn derived_name(matcher: &Matcher, http: &Arc<[ListenerIndex]>, listeners: &[Checked]) -> String {
    let mut name = String::with_capacity(64);
    let mut listed = |texts: &mut dyn Iterator<Item = (&str, &str, &str)>| {
        for (at, (before, text, after)) in texts.enumerate() {
            if name.len() > MAX_ROUTE_NAME_BYTES / 2 {
                name.push('…');
                break;
            }
            if at > 0 {
                name.push(',');
            }
            name.extend([before, text, after]);
        }
        name.len()
    };
    listed(&mut matcher.methods.iter().map(|method| ("", &**method, "")));
    if !matcher.methods.is_empty() {
        listed(&mut std::iter::once(("", " ", "")));
    }
    listed(&mut matcher.hosts.iter().map(|host| match host {
        HostPattern::Exact(host) => ("", &**host, ""),
        HostPattern::Below(host) => ("*.", &**host, ""),
    }));
    if matcher.paths.is_empty() {
        listed(&mut std::iter::once(("", if matcher.hosts.is_empty() { "*" } else { "/*" }, "")));
    }
    listed(&mut matcher.paths.iter().map(|path| match path {
        PathPattern::Exact(path) => ("", &**path, ""),
        PathPattern::Prefix(path) => ("", &**path, if path.ends_with('/') { "*" } else { "[/*]" }),
    }));
    if !Arc::ptr_eq(&matcher.listeners, http) {
        listed(&mut std::iter::once(("", " on ", "")));
        let named = |index: &ListenerIndex| listeners.iter().find(|checked| checked.index == *index);
        listed(
            &mut matcher.listeners.iter().filter_map(named).map(|checked| ("", &*checked.listener.name, "")),
        );
    }
    name
}

/// Gives routes whose made-up names are the same a number each.
fn tell_names_apart(routes: &mut [Route], given: &HashMap<Arc<str>, Span>) {
    let mut seen: HashMap<Arc<str>, usize, foldhash::fast::RandomState> = HashMap::default();
    seen.reserve(routes.len());
    let mut repeated: Vec<(usize, usize)> = Vec::new();
    for (at, route) in routes.iter().enumerate() {
        let count = seen.entry(Arc::clone(&route.name)).or_insert(0);
        *count += 1;
        if *count > 1 {
            repeated.push((at, *count));
        }
    }
    for (at, count) in repeated {
        if let Some(route) = routes.get_mut(at)
            && !given.contains_key(&route.name)
        {
            route.name = format!("{} ({count})", route.name).into();
        }
    }
}

fn warn_about_idle_listeners(routes: &[Route], listeners: &[Checked], names: &Names, sink: &mut Sink) {
    let mut served = vec![false; names.order.len()];
    let mut last: Option<&Arc<[ListenerIndex]>> = None;
    for route in routes {
        if last.is_some_and(|last| Arc::ptr_eq(last, &route.matcher.listeners)) {
            continue;
        }
        last = Some(&route.matcher.listeners);
        for index in route.matcher.listeners.iter() {
            if let Some(served) = served.get_mut(*index) {
                *served = true;
            }
        }
    }
    for checked in listeners.iter().filter(|checked| checked.is_http) {
        if served.get(checked.index) == Some(&false)
            && let Some(name) = names.order.get(checked.index)
        {
            sink.warning(
                name.span,
                format!("listener {:?} has no route: it answers every request with 404", name.value),
            );
        }
    }
}

/// Reports routes that claim the same requests.
pub(super) fn report_conflicts(
    config: &Config,
    conflicts: &[Conflict],
    spans: &[Option<Span>],
    sink: &mut Sink,
) {
    let mut seen = HashSet::new();
    for conflict in conflicts {
        let place = |route: usize| spans.get(route).copied().flatten();
        let (Some(first), Some(second)) = (place(conflict.first), place(conflict.second)) else { continue };
        if conflict.first == conflict.second || !seen.insert((conflict.first, conflict.second)) {
            continue;
        }
        let listener = match config.listeners.as_slice() {
            [_] => String::new(),
            listeners => listeners
                .get(conflict.listener)
                .map(|l| format!(" on listener {:?}", l.name))
                .unwrap_or_default(),
        };
        let what = &conflict.what;
        // Where the syntax is broken, a condition of one of them may be what was not understood.
        sink.error(second, format!("two routes claim {what}{listener}"))
            .also(first, "the other one")
            .absence();
    }
}
