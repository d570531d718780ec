//! From raw to validated: whether the values go together.
//!
//! Every check reports what it finds and goes on, so that one run shows everything. What cannot be checked because
//! something it depends on is wrong is left out quietly: each mistake is reported once.

mod actions;
mod listeners;
mod programs;
mod routes;
mod services;
mod settings;
mod tls;
mod upgrade;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use handover_http1::HeaderRules;

use super::model::{Config, HeaderField, ListenerIndex, ServiceIndex};
use super::raw::{Fields, RawConfig};
use super::resolve::Resolve;
use super::sink::{Located, Sink, Span, suggestion};
use super::{Files, Moment};
use crate::routes::Routes;

/// The longest name of a listener or a service.
const MAX_NAME_BYTES: usize = 64;
/// The longest name of a route.
const MAX_ROUTE_NAME_BYTES: usize = 200;

/// The most entries of all route tables together.
const MAX_TABLE_ENTRIES: usize = 2_000_000;

/// What the checks share.
pub(super) struct Cx<'a> {
    pub(super) sink: &'a mut Sink,
    /// What relative paths are relative to.
    pub(super) base: &'a Path,
    pub(super) files: &'a mut dyn Files,
    pub(super) resolve: &'a mut dyn Resolve,
    pub(super) moment: Moment<'a>,
    /// Host names that were looked up already: each name is asked for once.
    hosts: HashMap<(String, u16), Result<Vec<SocketAddr>, String>>,
}

/// Names that can be referred to, in the order of the file, which is that of the validated lists.
struct Names {
    what: &'static str,
    /// The table in which they stand.
    table: &'static str,
    index: HashMap<String, usize>,
    order: Vec<Located<String>>,
    used: Vec<bool>,
}

impl Names {
    fn new<'n>(
        what: &'static str,
        table: &'static str,
        names: impl Iterator<Item = &'n Located<String>>,
    ) -> Self {
        let order: Vec<Located<String>> = names.cloned().collect();
        let index = order.iter().enumerate().map(|(at, name)| (name.value.clone(), at)).collect();
        Self { what, table, index, used: vec![false; order.len()], order }
    }

    fn len(&self) -> usize {
        self.order.len()
    }

    /// The name at a position.
    fn get(&self, at: usize) -> Option<&Located<String>> {
        self.order.get(at)
    }

    /// The position of a name, or a report.
    fn refer(&mut self, name: &Located<String>, sink: &mut Sink) -> Option<usize> {
        if let Some(at) = self.index.get(&name.value) {
            if let Some(used) = self.used.get_mut(*at) {
                *used = true;
            }
            return Some(*at);
        }
        let report = sink.error(name.span, format!("there is no {} {:?}", self.what, name.value)).absence();
        let candidates = self.order.iter().map(|name| name.value.as_str());
        match suggestion(&name.value, candidates) {
            Some(help) => report.help(help),
            None => report.help(format!("define it with [{}.{}]", self.table, name.value)),
        };
        None
    }

    fn unused(&self) -> impl Iterator<Item = &Located<String>> {
        self.order.iter().zip(&self.used).filter(|(_, used)| !**used).map(|(name, _)| name)
    }
}

/// Where a route can lead.
struct Targets {
    services: Names,
    programs: programs::Leading,
}

/// What the checks made of a file. Only meaningful if they reported no error.
pub(super) struct Outcome {
    pub(super) config: Config,
    pub(super) routes: Routes,
}

/// Checks everything.
pub(super) fn check(raw: RawConfig, cx: &mut Cx<'_>) -> Outcome {
    let listeners_wrong = raw.listeners.is_present() && raw.listeners.get().is_none();
    let raw_listeners = raw.listeners.or_default();
    let raw_services = raw.services.or_default();
    let programs_wrong = raw.program.is_present() && raw.program.get().is_none();
    let raw_programs = raw.program.or_default();
    let leading = programs::Leading::new(raw_programs.0.iter().map(|(name, _)| name), &raw_services.0, cx);
    let mut listener_names =
        Names::new("listener", "listeners", raw_listeners.0.iter().map(|(name, _)| name));
    let mut service_names = Names::new("service", "services", raw_services.0.iter().map(|(name, _)| name));
    let nothing = raw_listeners.0.is_empty() && raw_programs.0.is_empty();
    if nothing && !listeners_wrong && !programs_wrong {
        cx.sink
            .error_without_place("there is no listener and no program, so nothing would be served")
            .absence()
            .help("begin with [listeners.web] and address = \"127.0.0.1:8080\"");
    }

    let loaded = tls::load(&raw_listeners, &raw_services, cx);
    let mut taken = listeners::Taken::default();
    let listeners = listeners::check(raw_listeners, &mut service_names, &mut taken, &loaded, cx);
    let metrics = raw.metrics.take().and_then(|raw| settings::metrics(raw, &mut taken, cx));
    let control = settings::control(raw.control.or_default(), &mut taken, cx);
    let mut services = services::check(raw_services, &loaded, cx);
    let mut targets = Targets { services: service_names, programs: leading };
    let (routes, spans) =
        routes::check(raw.routes.or_default(), &listeners, &mut listener_names, &mut targets, cx);
    let Targets { services: service_names, programs: mut leading } = targets;
    services.extend(leading.implied_services(&loaded, cx));
    let programs = programs::check(raw_programs, &mut leading, &mut taken, cx);
    tls::warn_about_uncovered_hosts(&routes, &spans, &listeners, &listener_names, cx.sink);
    let log = settings::log(&raw.log.or_default(), cx);
    let drain = settings::drain(&raw.drain.or_default());

    for name in service_names.unused() {
        cx.sink.warning(name.span, format!("service {:?} is used by no route and no listener", name.value));
    }
    let listeners = listeners.into_iter().map(|checked| checked.listener).collect();
    let config = Config {
        listeners,
        routes,
        services,
        control,
        log,
        metrics,
        drain,
        tickets: settings::tickets(&raw.tickets.or_default()),
        watch: raw.watch.take().map(|raw| settings::watch(&raw.value)),
        guard: raw.guard.take().map(|raw| settings::guard(&raw.value)),
        upgrade: upgrade::upgrade(raw.upgrade.take(), cx),
        programs,
    };
    let entries = Routes::entries(&config);
    if entries > MAX_TABLE_ENTRIES {
        let detail = format!(
            "the route tables would have {entries} entries, and at most {MAX_TABLE_ENTRIES} are built"
        );
        cx.sink
            .error_without_place(detail)
            .help("a route has as many as hosts times paths, in the table of each listener that differs from others");
        return Outcome { config, routes: Routes::default() };
    }
    let (tables, conflicts) = Routes::build_checked(&config);
    routes::report_conflicts(&config, &conflicts, &spans, cx.sink);
    Outcome { config, routes: tables }
}

impl<'a> Cx<'a> {
    pub(super) fn new(
        sink: &'a mut Sink,
        base: &'a Path,
        files: &'a mut dyn Files,
        resolve: &'a mut dyn Resolve,
        moment: Moment<'a>,
    ) -> Self {
        Self { sink, base, files, resolve, moment, hosts: HashMap::new() }
    }

    /// Reports what is wrong with a text.
    fn wrong(&mut self, span: Span, wrong: super::address::Wrong) {
        let report = self.sink.error(span, wrong.detail);
        if let Some(help) = wrong.help {
            report.help(help);
        }
    }

    /// Checks the name of a listener or a service: it stands in metrics, logs and LISTEN_FDNAMES.
    fn name(&mut self, name: &Located<String>, what: &str) {
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let text = &name.value;
        if text.is_empty() || text.len() > MAX_NAME_BYTES || !text.bytes().all(ok) {
            self.sink
                .error(name.span, format!("{text:?} cannot be the name of a {what}"))
                .help(format!("use up to {MAX_NAME_BYTES} letters (a to z), digits, \"-\", \"_\" and \".\""));
        }
    }

    /// An absolute path, or a report if it cannot be one.
    fn path(&mut self, text: &Located<String>) -> Option<PathBuf> {
        if text.value.is_empty() || text.value.contains('\0') {
            self.sink.error(text.span, format!("{:?} is not a path", text.value));
            return None;
        }
        Some(self.base.join(&text.value))
    }

    /// Header fields that are to be set: each name once, no name that the proxy itself is in charge of.
    fn fields(&mut self, fields: Fields) -> Vec<HeaderField> {
        let mut checked: Vec<HeaderField> = Vec::with_capacity(fields.0.len());
        for (name, value) in fields.0 {
            if let Err(error) = HeaderRules::new::<_, _, &str>(&[(&name.value, &value.value)], &[]) {
                let span = match error {
                    handover_http1::RuleError::Value(_) => value.span,
                    _ => name.span,
                };
                self.sink.error(span, error.to_string());
            } else if checked.iter().any(|field| field.name.eq_ignore_ascii_case(&name.value)) {
                self.sink
                    .error(name.span, format!("{} is set twice", name.value))
                    .help("case makes no difference");
            } else {
                checked.push(HeaderField { name: name.value.into(), value: value.value.into() });
            }
        }
        checked
    }

    /// Looks up all names that are not known yet, at the same time.
    fn resolve_hosts(&mut self, names: impl Iterator<Item = (String, u16)>) {
        let mut wanted: Vec<(String, u16)> = names.filter(|name| !self.hosts.contains_key(name)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let found = self.resolve.hosts(&wanted);
        for (name, found) in wanted.into_iter().zip(found) {
            let found = match found {
                Ok(addresses) if addresses.is_empty() => Err("it has no address".to_owned()),
                Ok(mut addresses) => {
                    // getaddrinfo may name an address twice; the resolver's order of preference stays.
                    let mut seen = HashSet::new();
                    addresses.retain(|address| seen.insert(*address));
                    Ok(addresses)
                }
                Err(error) => Err(error.to_string()),
            };
            self.hosts.insert(name, found);
        }
    }

    /// The addresses of a host that was looked up.
    fn resolved(&self, host: &str, port: u16) -> Result<&[SocketAddr], &str> {
        match self.hosts.get(&(host.to_owned(), port)) {
            Some(Ok(addresses)) => Ok(addresses),
            Some(Err(why)) => Err(why),
            None => Err("it was not looked up"),
        }
    }
}

/// All listeners that speak HTTP.
fn http_listeners(listeners: &[listeners::Checked]) -> Arc<[ListenerIndex]> {
    listeners.iter().filter(|checked| checked.is_http).map(|checked| checked.index).collect()
}

/// A service that a reference could not be resolved to: the file is refused, so the index is never looked at.
const NO_SERVICE: ServiceIndex = ServiceIndex::MAX;
