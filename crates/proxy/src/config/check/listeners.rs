//! Listeners: addresses, and that no two of them exclude each other.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::super::address;
use super::super::decode::{Field, Named, OneOrMany};
use super::super::model::{Limits, ListenAddress, Listener, ListenerIndex, Protocol, Timeouts};
use super::super::raw::{MAX_LISTENERS, RawLimits, RawListener, RawTimeouts, Spoken};
use super::super::sink::{Located, Span};
use super::tls::{self, Loaded};
use super::{Cx, NO_SERVICE, Names};

/// The most addresses of one configuration, all listeners together.
const MAX_ADDRESSES: usize = 4096;
/// The name that the addresses of `[metrics]` have among the listeners.
const METRICS: &str = "metrics";

/// A listener that was checked, and what only the checks need to know of it.
pub(super) struct Checked {
    pub(super) listener: Listener,
    /// Its position in the file, which is that in the validated list if nothing is wrong.
    pub(super) index: ListenerIndex,
    pub(super) is_http: bool,
}

/// The addresses that were seen, to find two that exclude each other.
#[derive(Default)]
pub(super) struct Taken {
    tcp: HashMap<u16, Vec<(IpAddr, Span)>>,
    other: HashMap<ListenAddress, Span>,
    count: usize,
}

impl Taken {
    /// Notes an address; the place of another one that excludes it, if there is one.
    pub(super) fn add(&mut self, address: &ListenAddress, span: Span) -> Option<Span> {
        self.count += 1;
        let ListenAddress::Tcp(tcp) = address else {
            // Two sockets cannot have one path, whatever their permissions.
            let key = match address {
                ListenAddress::Unix { path, .. } => ListenAddress::Unix { path: path.clone(), mode: 0 },
                other => other.clone(),
            };
            return self.other.insert(key, span);
        };
        if tcp.port() == 0 {
            return None;
        }
        let others = self.tcp.entry(tcp.port()).or_default();
        let excludes = |other: &IpAddr| {
            other.is_ipv4() == tcp.is_ipv4()
                && (*other == tcp.ip() || other.is_unspecified() || tcp.ip().is_unspecified())
        };
        let found = others.iter().find(|(other, _)| excludes(other)).map(|(_, span)| *span);
        others.push((tcp.ip(), span));
        found
    }
}

/// Checks all listeners.
pub(super) fn check(
    raw: Named<RawListener, MAX_LISTENERS>,
    services: &mut Names,
    taken: &mut Taken,
    loaded: &Loaded,
    cx: &mut Cx<'_>,
) -> Vec<Checked> {
    let mut checked = Vec::with_capacity(raw.0.len());
    for (index, (name, raw)) in raw.0.into_iter().enumerate() {
        cx.name(&name, "listener");
        if name.value == METRICS {
            cx.sink
                .error(name.span, "the name \"metrics\" belongs to the addresses of [metrics]")
                .help("give the listener another name");
        }
        if let Field::Set(raw) = raw {
            checked.push(check_one(index, &name, raw, services, taken, loaded, cx));
        }
    }
    checked
}

fn check_one(
    index: ListenerIndex,
    name: &Located<String>,
    raw: Located<RawListener>,
    services: &mut Names,
    taken: &mut Taken,
    loaded: &Loaded,
    cx: &mut Cx<'_>,
) -> Checked {
    let Located { value: raw, span } = raw;
    let spoken = raw.protocol().0;
    let mode = raw.mode().0;
    let backlog = raw.backlog().0;
    let limits = raw.limits;
    let timeouts = raw.timeouts;
    let tls = tls::listener(name, raw.tls, spoken, loaded, cx);
    let addresses = addresses(raw.address, &raw.mode, mode, taken, cx);
    let is_http = spoken == Spoken::Http && raw.protocol.is_present() == raw.protocol.get().is_some();
    let protocol = match (spoken, raw.service.get()) {
        (Spoken::Tcp, Some(service)) => {
            Protocol::Tcp { service: services.refer(service, cx.sink).unwrap_or(NO_SERVICE) }
        }
        (Spoken::Tcp, None) => {
            if !raw.service.is_present() {
                cx.sink
                    .error(span, format!("listener {:?} speaks tcp, so it needs a service", name.value))
                    .help("add service = \"…\"")
                    .lacks(&["service"]);
            }
            Protocol::Tcp { service: NO_SERVICE }
        }
        (Spoken::Http, Some(service)) if is_http => {
            cx.sink
                .error(service.span, "a listener that speaks http has no service of its own")
                .help("add protocol = \"tcp\", or a route with this service");
            Protocol::Http
        }
        (Spoken::Http, _) => Protocol::Http,
    };
    if spoken == Spoken::Tcp {
        http_only(&limits, &timeouts, cx);
    }
    let listener = Listener {
        name: Arc::from(name.value.as_str()),
        addresses,
        protocol,
        backlog,
        limits: check_limits(&limits.or_default()),
        timeouts: check_timeouts(&timeouts.or_default()),
        tls,
    };
    Checked { listener, index, is_http }
}

/// Checks a list of addresses to listen on.
pub(super) fn addresses(
    raw: Field<OneOrMany<String>>,
    mode_field: &Field<super::super::values::Mode>,
    mode: u32,
    taken: &mut Taken,
    cx: &mut Cx<'_>,
) -> Vec<ListenAddress> {
    let Some(raw) = raw.take() else {
        return Vec::new();
    };
    let mut checked = Vec::with_capacity(raw.value.as_slice().len());
    let mut wrong = false;
    for text in raw.value.as_slice() {
        match address::listen(&text.value, cx.base, mode) {
            Ok(address) => {
                if let Some(other) = taken.add(&address, text.span) {
                    cx.sink
                        .error(text.span, format!("{address} cannot be bound beside another address"))
                        .also(other, "this one");
                } else if taken.count == MAX_ADDRESSES + 1 {
                    cx.sink.error(text.span, format!("more than {MAX_ADDRESSES} addresses"));
                }
                checked.push(address);
            }
            Err(error) => {
                wrong = true;
                cx.wrong(text.span, error);
            }
        }
    }
    if let Some(mode) = mode_field.get()
        && !wrong
        && !checked.iter().any(|address| matches!(address, ListenAddress::Unix { .. }))
    {
        cx.sink.warning(mode.span, "mode has no effect: none of the addresses is a Unix socket with a path");
    }
    checked
}

/// Points out limits that a TCP listener does not have.
fn http_only(limits: &Field<RawLimits>, timeouts: &Field<RawTimeouts>, cx: &mut Cx<'_>) {
    let mut spans: Vec<(&str, Span)> = Vec::new();
    if let Some(limits) = limits.get() {
        let limits = &limits.value;
        spans.extend(limits.header_bytes.get().map(|field| ("limits.header_bytes", field.span)));
        spans.extend(limits.headers.get().map(|field| ("limits.headers", field.span)));
        spans.extend(limits.target_bytes.get().map(|field| ("limits.target_bytes", field.span)));
        spans.extend(limits.body_bytes.get().map(|field| ("limits.body_bytes", field.span)));
    }
    if let Some(timeouts) = timeouts.get() {
        let timeouts = &timeouts.value;
        spans.extend(timeouts.header.get().map(|field| ("timeouts.header", field.span)));
        spans.extend(timeouts.idle.get().map(|field| ("timeouts.idle", field.span)));
        spans.extend(timeouts.body.get().map(|field| ("timeouts.body", field.span)));
    }
    for (key, span) in spans {
        cx.sink.warning(span, format!("{key} has no effect on a listener that speaks tcp"));
    }
}

fn check_limits(raw: &RawLimits) -> Limits {
    // The bounds of the raw types fit usize wherever this runs; saturating says so without a way to panic.
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    Limits {
        connections: raw.connections().0,
        header_bytes: size(raw.header_bytes().0),
        headers: usize::try_from(raw.headers().0).unwrap_or(usize::MAX),
        target_bytes: size(raw.target_bytes().0),
        body_bytes: raw.body_bytes().0,
    }
}

fn check_timeouts(raw: &RawTimeouts) -> Timeouts {
    Timeouts { header: raw.header().0, idle: raw.idle().0, body: raw.body().0, tunnel: raw.tunnel().0 }
}
