//! TLS: certificates are read, all at once, before listeners and services are checked that name them.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use handover_tls::{Authorities, CertificateWarning, Certified, Concern, Pair, Reason, Resolver, Unknown};
use rustls::pki_types::ServerName;

use super::super::address::{self, Place};
use super::super::decode::{Field, Named, OneOrMany};
use super::super::model::{
    Certificate, ClientCertificates, EndpointAddress, HostPattern, Listener, ListenerTls, Route, ServiceTls,
    UnknownNames,
};
use super::super::raw::{MAX_LISTENERS, MAX_SERVICES, RawListener, RawService, Spoken};
use super::super::raw_tls::{Asked, MAX_CERTIFICATES, RawListenerTls, RawServiceTls};
use super::super::sink::{Located, Sink, Span};
use super::super::{Files, Moment};
use super::listeners::Checked;
use super::{Cx, Names};

/// The longest name of a protocol (RFC 7301 §3.1).
const MAX_ALPN_BYTES: usize = 255;
/// What HTTP/1.1 is called there.
const HTTP_1_1: &str = "http/1.1";
/// The most hosts that one warning names.
const MAX_NAMED: usize = 3;

/// What was read for all listeners and services.
#[derive(Default)]
pub(super) struct Loaded {
    certificates: HashMap<(PathBuf, PathBuf), Arc<Certified>>,
    authorities: HashMap<PathBuf, Arc<Authorities>>,
}

/// A pair and where the configuration names its files.
struct Wanted {
    pair: Pair,
    certificate: Span,
    key: Span,
    /// No listener presents it: it need not be one for servers.
    ours: bool,
}

/// Certificates' files through the configuration's.
struct CertificateFiles<'a>(&'a mut dyn Files);

impl handover_tls::Files for CertificateFiles<'_> {
    fn read(&mut self, path: &Path) -> io::Result<Arc<[u8]>> {
        self.0.read_certificate(path)
    }

    fn mode(&mut self, path: &Path) -> Option<u32> {
        self.0.mode(path)
    }
}

/// Reads and checks everything that listeners and services name.
pub(super) fn load(
    listeners: &Named<RawListener, MAX_LISTENERS>,
    services: &Named<RawService, MAX_SERVICES>,
    cx: &mut Cx<'_>,
) -> Loaded {
    let of_listeners = listeners.0.iter().filter_map(|(_, raw)| raw.get()?.value.tls.get());
    let of_services = services.0.iter().filter_map(|(_, raw)| raw.get()?.value.tls.get());
    let mut named: Vec<(&Field<String>, &Field<String>, bool)> = Vec::new();
    let mut authorities: Vec<&Located<String>> = Vec::new();
    for tls in of_listeners {
        let tls = &tls.value;
        named.push((&tls.certificate, &tls.key, false));
        let list = tls.certificates.get().into_iter().flat_map(|list| &list.value.0);
        named.extend(list.map(|listed| (&listed.value.certificate, &listed.value.key, false)));
        authorities.extend(tls.client_ca.get());
    }
    for tls in of_services {
        named.push((&tls.value.certificate, &tls.value.key, true));
        authorities.extend(tls.value.ca.get());
    }
    let mut wanted: Vec<Wanted> = Vec::with_capacity(named.len());
    let mut seen = std::collections::HashSet::with_capacity(named.len());
    for (certificate, key, ours) in named {
        let Some(certificate) = certificate.get() else { continue };
        let key = match key {
            Field::Missing => certificate,
            Field::Bad => continue,
            Field::Set(key) => key,
        };
        let Some((pair, spans)) = pair(certificate, key, cx) else { continue };
        if seen.insert((pair.certificate.clone(), pair.key.clone())) {
            wanted.push(Wanted { pair, certificate: spans.0, key: spans.1, ours });
        }
        if wanted.len() > MAX_CERTIFICATES {
            cx.sink.error(certificate.span, format!("more than {MAX_CERTIFICATES} certificates"));
            return Loaded::default();
        }
    }
    let mut loaded = Loaded::default();
    loaded.read_certificates(&wanted, cx);
    loaded.read_authorities(&authorities, cx);
    loaded
}

/// The files of a certificate, as absolute paths, and where they are named.
fn pair(
    certificate: &Located<String>,
    key: &Located<String>,
    cx: &mut Cx<'_>,
) -> Option<(Pair, (Span, Span))> {
    let path = cx.path(certificate)?;
    let key_path = if key.span == certificate.span { path.clone() } else { cx.path(key)? };
    Some((Pair::new(path, key_path), (certificate.span, key.span)))
}

impl Loaded {
    fn read_certificates(&mut self, wanted: &[Wanted], cx: &mut Cx<'_>) {
        let pairs: Vec<Pair> = wanted.iter().map(|wanted| wanted.pair.clone()).collect();
        let moment = tls_moment(&cx.moment);
        let place = |at: usize, file: &Path| -> Span {
            wanted.get(at).map_or(Span::default(), |wanted| {
                if file == wanted.pair.certificate { wanted.certificate } else { wanted.key }
            })
        };
        match handover_tls::load(&pairs, &mut CertificateFiles(cx.files), &moment) {
            Ok(found) => {
                let ours = |at: usize| wanted.get(at).is_some_and(|wanted| wanted.ours);
                let for_servers = |warning: &CertificateWarning| {
                    matches!(warning.concern, Concern::NoNames | Concern::NotForServers | Concern::Authority)
                };
                for warning in
                    found.warnings.iter().filter(|warning| !(ours(warning.pair) && for_servers(warning)))
                {
                    warn(warning, place(warning.pair, &warning.file), cx.sink);
                }
                let keys = pairs.into_iter().map(|pair| (pair.certificate, pair.key));
                self.certificates = keys.zip(found.certificates).collect();
            }
            Err(errors) => {
                for error in errors {
                    let alone = wanted.get(error.pair).is_some_and(|wanted| wanted.key == wanted.certificate);
                    let report = cx.sink.error(place(error.pair, &error.file), error.to_string());
                    match error.help() {
                        _ if alone && matches!(error.reason, Reason::NoKey { .. }) => {
                            report.help("add key = \"…\" if the key is in a file of its own");
                        }
                        Some(help) => {
                            report.help(help);
                        }
                        None => {}
                    }
                }
            }
        }
    }

    fn read_authorities(&mut self, named: &[&Located<String>], cx: &mut Cx<'_>) {
        let moment = tls_moment(&cx.moment);
        let serving: Vec<&Arc<Authorities>> = cx.moment.serving.map(authorities).unwrap_or_default();
        for text in named {
            let Some(path) = cx.path(text) else { continue };
            if self.authorities.contains_key(&path) {
                continue;
            }
            match Authorities::load(&path, &mut CertificateFiles(cx.files), &moment, &serving) {
                Ok((authorities, warnings)) => {
                    warnings.iter().for_each(|warning| warn(warning, text.span, cx.sink));
                    self.authorities.insert(path, authorities);
                }
                Err(error) => {
                    let report = cx.sink.error(text.span, error.to_string());
                    if let Some(help) = error.help() {
                        report.help(help);
                    }
                }
            }
        }
    }

    /// The certificate of two keys of the configuration, if it could be read.
    fn certificate(
        &self,
        certificate: &Located<String>,
        key: &Field<String>,
        cx: &Cx<'_>,
    ) -> Option<Certificate> {
        let path = cx.base.join(&certificate.value);
        let key = match key {
            Field::Missing => path.clone(),
            Field::Bad => return None,
            Field::Set(key) => cx.base.join(&key.value),
        };
        let both = (path, key);
        let loaded = Arc::clone(self.certificates.get(&both)?);
        Some(Certificate { certificate: both.0, key: both.1, loaded })
    }

    fn authorities(&self, text: &Located<String>, cx: &Cx<'_>) -> Option<(PathBuf, Arc<Authorities>)> {
        let path = cx.base.join(&text.value);
        let authorities = Arc::clone(self.authorities.get(&path)?);
        Some((path, authorities))
    }
}

fn warn(warning: &CertificateWarning, span: Span, sink: &mut Sink) {
    let report = sink.warning(span, warning.to_string());
    if let Some(help) = warning.help() {
        report.help(help);
    }
}

fn tls_moment<'a>(moment: &Moment<'a>) -> handover_tls::Moment<'a> {
    let serving = moment.serving.map(|config| {
        let of_listeners = config.certificates().map(|(_, certificate)| certificate);
        let of_services =
            config.services.iter().filter_map(|service| service.tls.as_ref()?.identity.as_ref());
        of_listeners.chain(of_services).map(|certificate| &certificate.loaded).collect()
    });
    handover_tls::Moment { now: moment.now, serving: serving.unwrap_or_default(), lenient: moment.lenient }
}

/// All authorities that serve.
fn authorities(config: &super::super::Config) -> Vec<&Arc<Authorities>> {
    let of_listeners = config
        .listeners
        .iter()
        .filter_map(|listener| listener.tls.as_ref()?.clients.as_ref().map(|clients| &clients.authorities));
    let of_services =
        config.services.iter().filter_map(|service| service.tls.as_ref()?.ca.as_ref().map(|(_, ca)| ca));
    of_listeners.chain(of_services).collect()
}

/// Checks the TLS of a listener; `None` if there is none, or if something is wrong with it.
pub(super) fn listener(
    name: &Located<String>,
    raw: Field<RawListenerTls>,
    spoken: Spoken,
    loaded: &Loaded,
    cx: &mut Cx<'_>,
) -> Option<ListenerTls> {
    let Located { value: raw, span } = raw.take()?;
    let errors = cx.sink.errors();
    let unknown_names = raw.unknown_names().0;
    let minimum_version = raw.minimum_version().0;
    let (certificates, default) = certificates(&raw, span, loaded, cx);
    let clients = clients(&raw, span, spoken, loaded, cx);
    let alpn = alpn(raw.alpn.take(), spoken, cx.sink);
    if cx.sink.errors() > errors || certificates.is_empty() {
        return None;
    }
    let unknown = match unknown_names {
        UnknownNames::Default => Unknown::Default,
        UnknownNames::Refuse => Unknown::Refuse,
    };
    let list: Vec<Arc<Certified>> =
        certificates.iter().map(|(certificate, _)| Arc::clone(&certificate.loaded)).collect();
    let serving = cx.moment.serving.into_iter().flat_map(|config| &config.listeners);
    let serving =
        serving.filter(|listener| *listener.name == *name.value).find_map(|listener| listener.tls.as_ref());
    let resolver = match serving {
        Some(tls) if tls.resolver.is_of(&list, default, unknown) => Arc::clone(&tls.resolver),
        _ => Arc::new(Resolver::new(&list, default, unknown)),
    };
    let pairs: Vec<Pair> = certificates.iter().map(|(c, _)| Pair::new(&c.certificate, &c.key)).collect();
    for warning in resolver.shadowed().iter().filter_map(|shadowed| shadowed.warning(&pairs)) {
        let span = certificates.get(warning.pair).map_or(span, |(_, span)| *span);
        warn(&warning, span, cx.sink);
    }
    let certificates = certificates.into_iter().map(|(certificate, _)| certificate).collect();
    Some(ListenerTls { certificates, default, unknown_names, resolver, minimum_version, alpn, clients })
}

/// The certificates of a listener with their places, and the position of the default one.
fn certificates(
    raw: &RawListenerTls,
    span: Span,
    loaded: &Loaded,
    cx: &mut Cx<'_>,
) -> (Vec<(Certificate, Span)>, usize) {
    let list = raw.certificates.get().map(|list| list.value.0.as_slice()).unwrap_or_default();
    if !raw.certificate.is_present() {
        if let Some(key) = raw.key.get() {
            cx.sink.error(key.span, "there is a key, and no certificate").help("add certificate = \"…\"");
        } else if list.is_empty()
            && !(raw.key.is_present() || raw.certificates.get().is_none() && raw.certificates.is_present())
        {
            cx.sink
                .error(span, "TLS needs a certificate")
                .help("add certificate = \"…\" and key = \"…\"")
                .lacks(&["certificate", "certificates"]);
        }
    }
    let mut found: Vec<(Certificate, Span)> = Vec::with_capacity(list.len() + 1);
    let mut places: HashMap<&str, Span> = HashMap::with_capacity(list.len() + 1);
    let mut chosen: Option<(usize, Span)> = None;
    let single = raw.certificate.get().map(|certificate| (certificate, &raw.key, None));
    let listed = list.iter().filter_map(|Located { value: entry, span }| {
        let at = entry.default.get().map_or(*span, |given| given.span);
        Some((entry.certificate.get()?, &entry.key, entry.default().then_some(at)))
    });
    for (certificate, key, default) in single.into_iter().chain(listed) {
        if let Some(first) = places.insert(&certificate.value, certificate.span) {
            cx.sink
                .error(certificate.span, format!("{:?} is listed twice", certificate.value))
                .also(first, "here as well");
        }
        if let Some(at) = default {
            if let Some((_, first)) = chosen {
                cx.sink.error(at, "there are two default certificates").also(first, "the other one");
            }
            chosen = Some((found.len(), at));
        }
        found.extend(loaded.certificate(certificate, key, cx).map(|loaded| (loaded, certificate.span)));
    }
    (found, chosen.map_or(0, |(at, _)| at))
}

/// What clients have to show.
fn clients(
    raw: &RawListenerTls,
    span: Span,
    spoken: Spoken,
    loaded: &Loaded,
    cx: &mut Cx<'_>,
) -> Option<ClientCertificates> {
    let subject_header = raw.client_subject_header.get();
    let rules = raw.client_certificates.get();
    if let Some(header) = subject_header {
        let rule = [(header.value.as_str(), "x")];
        if let Err(error) = handover_http1::HeaderRules::new::<_, _, &str>(&rule, &[]) {
            cx.sink.error(header.span, error.to_string());
        } else if header.value.as_str().eq_ignore_ascii_case("host") {
            cx.sink
                .error(header.span, "Host says which site a request is for, and cannot say who asks")
                .help("name a header of your own, such as X-Client-Subject");
        } else if spoken == Spoken::Tcp {
            cx.sink.warning(header.span, "client_subject_header has no effect on a listener that speaks tcp");
        } else if !raw.client_certificates.is_present() {
            cx.sink
                .error(header.span, "clients are not asked for certificates, so they have no subject")
                .help("add client_certificates = \"required\"");
        }
    }
    match (rules, raw.client_ca.get()) {
        (Some(rules), Some(ca)) => {
            let (path, authorities) = loaded.authorities(ca, cx)?;
            Some(ClientCertificates {
                required: rules.value.0 == Asked::Required,
                ca: path,
                authorities,
                subject_header: subject_header.map(|header| header.value.as_str().into()),
            })
        }
        (Some(_), None) if !raw.client_ca.is_present() => {
            cx.sink
                .error(span, "client_certificates needs the authorities that they must come from")
                .help("add client_ca = \"…\"")
                .lacks(&["client_ca"]);
            None
        }
        (None, Some(ca)) if !raw.client_certificates.is_present() => {
            cx.sink
                .error(ca.span, "clients are not asked for certificates, so there is nothing to verify")
                .help("add client_certificates = \"required\" or \"optional\"");
            None
        }
        _ => None,
    }
}

/// The protocols that are offered.
fn alpn(raw: Option<Located<OneOrMany<String>>>, spoken: Spoken, sink: &mut Sink) -> Vec<Arc<str>> {
    let Some(raw) = raw else {
        return if spoken == Spoken::Http { vec![HTTP_1_1.into()] } else { Vec::new() };
    };
    let mut protocols: Vec<Arc<str>> = Vec::new();
    for text in raw.value.as_slice() {
        let name = text.value.as_str();
        if name.is_empty() || name.len() > MAX_ALPN_BYTES {
            sink.error(text.span, format!("{name:?} cannot be the name of a protocol"));
        } else if spoken == Spoken::Http && name != HTTP_1_1 {
            sink.error(text.span, format!("the protocol {name:?} is not spoken on a listener for http"))
                .help("leave alpn out, or write \"http/1.1\"");
        } else if protocols.iter().any(|known| **known == *name) {
            sink.error(text.span, format!("{name:?} is listed twice"));
        }
        protocols.push(name.into());
    }
    protocols
}

/// Checks the TLS of a service. `endpoints` are those that could be understood, as they are written.
pub(super) fn service(
    raw: Field<RawServiceTls>,
    endpoints: &[Located<String>],
    loaded: &Loaded,
    cx: &mut Cx<'_>,
) -> Option<ServiceTls> {
    let Located { value: raw, .. } = raw.take()?;
    let verify = raw.verify();
    if let Some(given) = raw.verify.get().filter(|given| !given.value) {
        cx.sink
            .warning(
                given.span,
                "whoever answers is believed: who sits on the way can read and change everything",
            )
            .help("name the authority that issued the endpoints' certificates with ca = \"…\" instead");
        if let Some(ca) = raw.ca.get() {
            cx.sink.warning(ca.span, "ca has no effect with verify = false");
        }
    }
    if let (Field::Missing, Some(key)) = (&raw.certificate, raw.key.get()) {
        cx.sink.error(key.span, "there is a key, and no certificate").help("add certificate = \"…\"");
    }
    let given = raw.server_name.get().map(|text| (text, server_name(text, cx.sink)));
    let mut server_names = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        server_names.extend(match &given {
            Some((_, name)) => name.clone(),
            None => host_of(endpoint, cx),
        });
    }
    let identity =
        raw.certificate.get().and_then(|certificate| loaded.certificate(certificate, &raw.key, cx));
    let ca = raw.ca.get().and_then(|ca| loaded.authorities(ca, cx));
    let server_name = given.map(|(text, _)| text.value.as_str().into());
    Some(ServiceTls { server_names, server_name, ca, identity, verify })
}

fn server_name(text: &Located<String>, sink: &mut Sink) -> Option<ServerName<'static>> {
    match ServerName::try_from(text.value.as_str()) {
        Ok(name) => Some(name.to_owned()),
        Err(_) => {
            sink.error(text.span, format!("{:?} is neither a host name nor an IP address", text.value))
                .help("write it without port and brackets");
            None
        }
    }
}

/// The name of an endpoint that is asked for and verified.
fn host_of(endpoint: &Located<String>, cx: &mut Cx<'_>) -> Option<ServerName<'static>> {
    match address::endpoint(&endpoint.value, cx.base) {
        Ok(Place::Name(host, _)) => server_name(&Located { value: host, span: endpoint.span }, cx.sink),
        Ok(Place::Address(EndpointAddress::Tcp(address))) => Some(ServerName::IpAddress(address.ip().into())),
        Ok(Place::Address(_)) => {
            cx.sink
                .error(
                    endpoint.span,
                    format!("{:?} has no host whose certificate could be verified", endpoint.value),
                )
                .help("add server_name = \"…\" to the tls of the service");
            None
        }
        // Reported where endpoints are checked.
        Err(_) => None,
    }
}

/// Points out routes for hosts that a TLS listener has no certificate for.
pub(super) fn warn_about_uncovered_hosts(
    routes: &[Route],
    spans: &[Option<Span>],
    listeners: &[Checked],
    names: &Names,
    sink: &mut Sink,
) {
    let speaking: HashMap<usize, (&Listener, &ListenerTls)> = listeners
        .iter()
        .filter_map(|checked| Some((checked.index, (&checked.listener, checked.listener.tls.as_ref()?))))
        .collect();
    if speaking.is_empty() || names.order.is_empty() {
        return;
    }
    for (route, span) in routes.iter().zip(spans) {
        let Some(span) = span else { continue };
        for (listener, tls) in route.matcher.listeners.iter().filter_map(|index| speaking.get(index)) {
            let uncovered: Vec<String> = route
                .matcher
                .hosts
                .iter()
                .filter(|host| !is_covered(host, &tls.resolver))
                .map(shown)
                .collect();
            let Some(first) = uncovered.first() else { continue };
            let more = match uncovered.len() {
                1..=MAX_NAMED => String::new(),
                many => format!(" and {} more", many - MAX_NAMED),
            };
            let named = uncovered.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            sink.warning(
                *span,
                format!("no certificate of listener {:?} is for {named}{more}", listener.name),
            )
            .help(format!(
                "clients that ask for https://{} refuse what they get",
                first.trim_start_matches("*.")
            ));
        }
    }
}

fn is_covered(host: &HostPattern, resolver: &Resolver) -> bool {
    match host {
        HostPattern::Exact(host) => resolver.covers(host.trim_start_matches('[').trim_end_matches(']')),
        HostPattern::Below(domain) => resolver.covers_below(domain),
    }
}

fn shown(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(host) => host.to_string(),
        HostPattern::Below(domain) => format!("*.{domain}"),
    }
}
