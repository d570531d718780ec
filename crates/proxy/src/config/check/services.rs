//! Services: endpoints and what is said to them.

use std::sync::Arc;

use super::super::address::{self, Place};
use super::super::decode::{Field, Named};
use super::super::model::{Endpoint, EndpointAddress, Forwarded, HeaderEdits, KeepAlive, Service};
use super::super::raw::{MAX_SERVICES, RawForwarded, RawHeaderEdits, RawKeepAlive, RawService};
use super::super::sink::{Located, Span};
use super::Cx;
use super::tls::{self, Loaded};

/// The most endpoints of one service, counting each address that a name resolves to.
const MAX_ENDPOINTS: usize = 1024;

/// Checks all services.
pub(super) fn check(raw: Named<RawService, MAX_SERVICES>, loaded: &Loaded, cx: &mut Cx<'_>) -> Vec<Service> {
    resolve_names(&raw, cx);
    let mut checked = Vec::with_capacity(raw.0.len());
    for (name, raw) in raw.0 {
        cx.name(&name, "service");
        if let Field::Set(raw) = raw {
            checked.push(check_one(&name, raw.value, raw.span, loaded, cx));
        }
    }
    checked
}

/// Looks up the names of all endpoints.
fn resolve_names(raw: &Named<RawService, MAX_SERVICES>, cx: &mut Cx<'_>) {
    let base = cx.base;
    let services = raw.0.iter().filter_map(|(_, service)| service.get());
    let endpoints =
        services.filter_map(|service| service.value.endpoints.get()).flat_map(|list| list.value.as_slice());
    let names = endpoints.filter_map(|text| match address::endpoint(&text.value, base) {
        Ok(Place::Name(host, port)) => Some((host, port)),
        _ => None,
    });
    cx.resolve_hosts(names);
}

/// Checks one; also one that a route implies.
pub(super) fn check_one(
    name: &Located<String>,
    raw: RawService,
    span: Span,
    loaded: &Loaded,
    cx: &mut Cx<'_>,
) -> Service {
    leads_somewhere(&raw, span, cx);
    let balance = raw.balance().0;
    let connect_timeout = raw.connect_timeout().0;
    let response_timeout = raw.response_timeout().0;
    let program = raw.program.get().map(|program| Arc::from(program.value.as_str()));
    let texts = raw.endpoints.take();
    let written = texts.as_ref().map(|texts| texts.value.as_slice()).unwrap_or_default();
    let tls = tls::service(raw.tls, written, loaded, cx);
    Service {
        name: Arc::from(name.value.as_str()),
        endpoints: texts.map(|texts| endpoints(texts.value.as_slice(), cx)).unwrap_or_default(),
        program,
        balance,
        connect_timeout,
        response_timeout,
        keep_alive: keep_alive(&raw.keep_alive.or_default()),
        request_headers: edits(raw.request_headers.or_default(), cx),
        response_headers: edits(raw.response_headers.or_default(), cx),
        forwarded: forwarded(&raw.forwarded.or_default()),
        tls,
    }
}

/// That it has endpoints, or leads to a program; whether that exists is looked at elsewhere.
fn leads_somewhere(raw: &RawService, span: Span, cx: &mut Cx<'_>) {
    match (raw.endpoints.get(), raw.program.get()) {
        (Some(endpoints), Some(program)) => {
            cx.sink
                .error(program.span, "the service has both endpoints and program")
                .help("leave one of them out")
                .also(endpoints.span, "this one");
        }
        (None, None) if !raw.endpoints.is_present() && !raw.program.is_present() => {
            cx.sink
                .error(span, "a service needs the key \"endpoints\", or \"program\"")
                .lacks(&["endpoints", "program"]);
        }
        (None, Some(_)) => {
            if let Some(tls) = raw.tls.get() {
                cx.sink.error(tls.span, "what is passed to a program is not encrypted").help("leave tls out");
            }
        }
        _ => {}
    }
}

fn endpoints(texts: &[Located<String>], cx: &mut Cx<'_>) -> Vec<Endpoint> {
    let mut checked: Vec<Endpoint> = Vec::with_capacity(texts.len());
    let mut seen = std::collections::HashMap::with_capacity(texts.len());
    let mut count = 0;
    for text in texts {
        let place = match address::endpoint(&text.value, cx.base) {
            Ok(place) => place,
            Err(wrong) => {
                cx.wrong(text.span, wrong);
                continue;
            }
        };
        if let Some(first) = seen.insert(text.value.clone(), text.span) {
            cx.sink
                .error(text.span, format!("endpoint {:?} is listed twice", text.value))
                .also(first, "here as well");
            continue;
        }
        let addresses = match place {
            Place::Address(address) => vec![address],
            Place::Name(host, port) => match cx.resolved(&host, port) {
                Ok(addresses) => addresses.iter().copied().map(EndpointAddress::Tcp).collect(),
                Err(why) => {
                    let detail = format!("cannot resolve {host:?}: {why}");
                    cx.sink
                        .error(text.span, detail)
                        .help("names of endpoints are resolved when the configuration is loaded");
                    continue;
                }
            },
        };
        let before = count;
        count += addresses.len();
        if before <= MAX_ENDPOINTS && count > MAX_ENDPOINTS {
            cx.sink.error(text.span, format!("more than {MAX_ENDPOINTS} endpoints in one service"));
        }
        checked.push(Endpoint { name: text.value.as_str().into(), addresses });
    }
    checked
}

fn keep_alive(raw: &RawKeepAlive) -> KeepAlive {
    KeepAlive { idle: raw.idle().0, idle_timeout: raw.idle_timeout().0 }
}

fn forwarded(raw: &RawForwarded) -> Forwarded {
    Forwarded {
        x_forwarded: raw.x_forwarded(),
        forwarded: raw.rfc7239(),
        via: raw.via(),
        incoming: raw.incoming().0,
    }
}

fn edits(raw: RawHeaderEdits, cx: &mut Cx<'_>) -> HeaderEdits {
    let set = cx.fields(raw.set.or_default());
    let mut remove: Vec<Arc<str>> = Vec::new();
    for name in raw.remove.or_default().as_slice() {
        match handover_http1::HeaderRules::new::<&str, &str, _>(&[], &[&name.value]) {
            Err(error) => {
                cx.sink.error(name.span, error.to_string());
            }
            Ok(_) => remove.push(name.value.to_ascii_lowercase().into()),
        }
    }
    HeaderEdits { set, remove }
}
