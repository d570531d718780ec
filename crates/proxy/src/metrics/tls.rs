//! What is counted of TLS, and the totals by which a change is judged.

use std::sync::PoisonError;

use handover::Figures;
use handover_tls::HandshakeError;

use super::{ByName, Cells, ListenerCells, Metrics, Registry, ServiceCells, Table};

/// Why a handshake with a client failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandshakeFailure {
    /// The client spoke plain HTTP.
    PlainHttp = 0,
    /// What came is no TLS.
    NotTls,
    /// No version in common.
    Version,
    /// The name that the client asked for is not served.
    NoCertificate,
    /// The client showed no certificate, or one that was refused.
    ClientCertificate,
    /// No cipher suite, group, signature or protocol in common.
    NothingInCommon,
    /// The client gave up and said so: it may not trust the certificate.
    Alert,
    /// The client went away.
    Gone,
    /// The client did not go on in time.
    Timeout,
    /// The client broke the rules of TLS.
    Protocol,
    /// Something here failed.
    Internal,
}

/// The reasons, as metrics name them.
pub(crate) const HANDSHAKE_FAILURES: [&str; 11] = [
    "plain_http",
    "not_tls",
    "version",
    "no_certificate",
    "client_certificate",
    "nothing_in_common",
    "alert",
    "gone",
    "timeout",
    "protocol",
    "internal",
];

impl HandshakeFailure {
    /// What an error is counted as.
    pub(crate) fn of(error: &HandshakeError) -> Self {
        match error {
            HandshakeError::PlainHttp => Self::PlainHttp,
            HandshakeError::NotTls(_) => Self::NotTls,
            HandshakeError::Version(_) => Self::Version,
            HandshakeError::NoCertificate(_) => Self::NoCertificate,
            HandshakeError::CertificateRequired | HandshakeError::Certificate(..) => Self::ClientCertificate,
            HandshakeError::NothingInCommon(..) => Self::NothingInCommon,
            HandshakeError::Alert(..) => Self::Alert,
            HandshakeError::Closed => Self::Gone,
            HandshakeError::Protocol(..) | HandshakeError::TooLong(_) => Self::Protocol,
            HandshakeError::Internal(_) => Self::Internal,
        }
    }
}

/// When a certificate expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expiry {
    /// The first of its names.
    pub(crate) name: String,
    /// Name of the listener or service that uses it.
    pub(crate) place: String,
    pub(crate) key_type: String,
    /// Seconds since 1970.
    pub(crate) not_after: i64,
}

impl Metrics {
    /// The certificates of the generation that serves.
    pub(crate) fn set_certificates(&self, expiries: Vec<Expiry>) {
        *self.certificates.lock().unwrap_or_else(PoisonError::into_inner) = expiries;
    }

    /// The totals by which a change is judged.
    pub(crate) fn figures(&self) -> Figures {
        let mut figures = *self.past.lock().unwrap_or_else(PoisonError::into_inner);
        for cells in self.listeners.lock().unwrap_or_else(PoisonError::into_inner).values() {
            add_listener(&mut figures, cells);
        }
        for cells in self.services.lock().unwrap_or_else(PoisonError::into_inner).values() {
            add_service(&mut figures, cells);
        }
        figures
    }
}

/// Adds what a listener has counted.
pub(super) fn add_listener(figures: &mut Figures, cells: &Cells<ListenerCells>) {
    for block in cells.0.iter().map(|block| &block.0) {
        figures.requests += block.requests.iter().map(super::Cell::get).sum::<u64>();
        figures.errors_5xx += block.requests.last().map_or(0, super::Cell::get);
        figures.handshakes += block.handshakes.iter().map(super::Cell::get).sum::<u64>();
        // Who speaks no TLS at all says nothing about ours.
        let strangers = [HandshakeFailure::PlainHttp as usize, HandshakeFailure::NotTls as usize];
        let failures = block.handshake_failures.iter().enumerate();
        let failed: u64 =
            failures.filter(|(why, _)| !strangers.contains(why)).map(|(_, cell)| cell.get()).sum();
        figures.handshakes += failed;
        figures.handshake_failures += failed;
    }
}

/// Adds what a service has counted.
pub(super) fn add_service(figures: &mut Figures, cells: &Cells<ServiceCells>) {
    figures.connects += cells.sum(|cells| &cells.connects);
    figures.connect_failures += cells.sum(|cells| &cells.connect_failures);
}

/// What is told of handshakes with clients, for listeners that speak TLS.
pub(super) fn register(registry: &mut Registry, all: &ByName<ListenerCells>) {
    const KINDS: [(&str, &str); 4] =
        [("TLSv1.2", "no"), ("TLSv1.2", "yes"), ("TLSv1.3", "no"), ("TLSv1.3", "yes")];
    let (mut handshakes, mut failures) = (Table::counter(), Table::counter());
    for (name, cells) in all.iter().filter(|(_, cells)| cells.sum(|cells| &cells.secure) > 0) {
        for (kind, (version, resumed)) in KINDS.iter().enumerate() {
            let count = cells.sum(|cells| cells.handshakes.get(kind).unwrap_or(&cells.full));
            handshakes.add(&[("listener", name), ("version", version), ("resumed", resumed)], count);
        }
        for (why, reason) in HANDSHAKE_FAILURES.iter().enumerate() {
            let count = cells.sum(|cells| cells.handshake_failures.get(why).unwrap_or(&cells.full));
            failures.add(&[("listener", name), ("reason", reason)], count);
        }
    }
    registry.register("tls_handshakes", "TLS handshakes with clients that succeeded", handshakes);
    registry.register("tls_handshake_failures", "TLS handshakes with clients that failed", failures);
}

/// When certificates expire.
pub(super) fn register_certificates(registry: &mut Registry, certificates: Vec<Expiry>) {
    let mut table = Table::gauge();
    for Expiry { name, place, key_type, not_after } in certificates {
        let labels = [("name", &*name), ("used_by", &*place), ("key_type", &*key_type)];
        table.add(&labels, u64::try_from(not_after).unwrap_or(0));
    }
    registry.register(
        "certificate_not_after_seconds",
        "When certificates expire, in seconds since 1970: the ones that do so first",
        table,
    );
}
