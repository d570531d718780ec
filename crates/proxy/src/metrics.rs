//! Counters that cost a few nanoseconds: each thread writes its own, without a lock prefix, and they are added up when somebody asks.
//!
//! A [`Cells`] block belongs to one thread and one listener or service; blocks of different threads never share a cache line.
//! One more block has what workers before this one have counted: see [`totals`].
//! The registry keeps blocks by name across generations, so that a reload does not set a counter back.

mod tls;
mod totals;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use handover::Figures;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};

pub(crate) use tls::{Expiry, HANDSHAKE_FAILURES, HandshakeFailure};
pub(crate) use totals::Totals;

/// A counter with one writer: no read-modify-write instruction is needed.
#[derive(Debug, Default)]
pub(crate) struct Cell(AtomicU64);

impl Cell {
    /// Counts `count` more. Only the thread that owns the cell may do this.
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Takes `count` off, for gauges. Only the thread that owns the cell may do this.
    #[inline]
    pub(crate) fn sub(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(count), Ordering::Relaxed);
    }

    /// Sets a gauge. Only the thread that owns the cell may do this.
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it says now.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the duration histogram, in microseconds.
pub(crate) const DURATION_BOUNDS_US: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000, 60_000_000,
];

/// What is counted per listener.
#[derive(Debug, Default)]
pub(crate) struct ListenerCells {
    /// Connections taken in.
    pub(crate) accepted: Cell,
    /// Connections open now.
    pub(crate) open: Cell,
    /// Requests answered, by the hundreds of their status; 0: ended without an answer.
    pub(crate) requests: [Cell; 6],
    /// Bytes read from clients.
    pub(crate) bytes_in: Cell,
    /// Bytes written to clients.
    pub(crate) bytes_out: Cell,
    /// Times that accepting paused because the listener was full.
    pub(crate) full: Cell,
    /// Requests by duration, not cumulative; the last is beyond all bounds.
    pub(crate) durations: [Cell; DURATION_BOUNDS_US.len() + 1],
    /// Sum of all durations in microseconds.
    pub(crate) duration_us: Cell,
    /// 1 if the listener has ever spoken TLS.
    pub(crate) secure: Cell,
    /// Handshakes that succeeded: TLS 1.2 and 1.3, each new and resumed.
    pub(crate) handshakes: [Cell; 4],
    /// Handshakes that failed, by reason.
    pub(crate) handshake_failures: [Cell; HANDSHAKE_FAILURES.len()],
}

impl ListenerCells {
    /// Counts a request.
    #[inline]
    pub(crate) fn request(&self, status: u16, duration_us: u64) {
        if let Some(cell) = self.requests.get(usize::from(status / 100)) {
            cell.add(1);
        }
        let bucket = DURATION_BOUNDS_US.iter().position(|bound| duration_us <= *bound);
        if let Some(cell) = self.durations.get(bucket.unwrap_or(DURATION_BOUNDS_US.len())) {
            cell.add(1);
        }
        self.duration_us.add(duration_us);
    }

    /// Counts a handshake that succeeded.
    pub(crate) fn handshake(&self, tls13: bool, resumed: bool) {
        let kind = usize::from(tls13) * 2 + usize::from(resumed);
        self.handshakes.get(kind).into_iter().for_each(|cell| cell.add(1));
    }

    /// Counts a handshake that failed.
    pub(crate) fn handshake_failed(&self, why: HandshakeFailure) {
        self.handshake_failures.get(why as usize).into_iter().for_each(|cell| cell.add(1));
    }
}

/// What is counted per service.
#[derive(Debug, Default)]
pub(crate) struct ServiceCells {
    /// Responses passed on, by the hundreds of their status; 0: ended without one.
    pub(crate) responses: [Cell; 6],
    /// Requests or tunnels in progress.
    pub(crate) active: Cell,
    /// Connections made.
    pub(crate) connects: Cell,
    /// Connections that could not be made.
    pub(crate) connect_failures: Cell,
    /// Requests sent once more, on another connection.
    pub(crate) retries: Cell,
    /// Requests that used a kept connection.
    pub(crate) reused: Cell,
    /// Time limits that passed.
    pub(crate) timeouts: Cell,
    /// TLS handshakes with endpoints that succeeded, and that failed.
    pub(crate) handshakes: Cell,
    pub(crate) handshake_failures: Cell,
}

/// What is counted per thread.
#[derive(Debug, Default)]
pub(crate) struct ThreadCells {
    /// Times that the kernel refused to accept (no descriptors left).
    pub(crate) accept_errors: Cell,
    /// Open connections that speak HTTP.
    pub(crate) http: Cell,
    /// Open upgraded connections.
    pub(crate) websocket: Cell,
    /// Open TCP tunnels.
    pub(crate) tcp: Cell,
    /// Open connections that are being let in over TLS.
    pub(crate) tls: Cell,
    /// Idle upstream connections.
    pub(crate) idle_upstream: Cell,
    /// Bytes of buffers that connections hold.
    pub(crate) buffer_bytes: Cell,
    /// Connections cut, by what they were doing: see [`crate::conn::End`].
    pub(crate) ends: [Cell; crate::conn::END_KINDS],
    /// Access log lines dropped because the writer could not keep up.
    pub(crate) log_dropped: Cell,
    /// Connections that came from another worker after all others, and could not be taken.
    pub(crate) moves_failed: Cell,
    /// Requests and connections that are held now, that were ever, and that were refused because too many were.
    pub(crate) held: Cell,
    pub(crate) held_total: Cell,
    pub(crate) held_refused: Cell,
}

/// A block on cache lines of its own (two, because they are fetched in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

/// The blocks of all threads for one thing, and the one that carries.
#[derive(Debug)]
pub(crate) struct Cells<T>(Box<[Apart<T>]>);

impl<T: Default> Cells<T> {
    fn new(threads: usize) -> Self {
        Self((0..=threads).map(|_| Apart::default()).collect())
    }
}

impl<T> Cells<T> {
    /// The block of a thread. There is one for every thread; a number too high gets the one that carries.
    #[inline]
    pub(crate) fn of(&self, thread: usize) -> &T {
        let last = self.0.len().saturating_sub(1);
        &self.0[thread.min(last)].0
    }

    fn sum(&self, pick: impl Fn(&T) -> &Cell) -> u64 {
        self.0.iter().map(|block| pick(&block.0).get()).fold(0, u64::wrapping_add)
    }
}

impl Cells<ServiceCells> {
    /// Another number after each request or tunnel that was passed on, and after each answer.
    pub(crate) fn begun(&self) -> u64 {
        let answered = (0..6).map(|hundreds| self.sum(|cells| &cells.responses[hundreds]));
        answered
            .fold(self.sum(|cells| &cells.connects), u64::wrapping_add)
            .wrapping_add(self.sum(|cells| &cells.reused))
    }
}

/// All counters of a worker.
#[derive(Debug)]
pub(crate) struct Metrics {
    threads: usize,
    pub(crate) by_thread: Cells<ThreadCells>,
    listeners: Mutex<BTreeMap<Arc<str>, Arc<Cells<ListenerCells>>>>,
    services: Mutex<BTreeMap<Arc<str>, Arc<Cells<ServiceCells>>>>,
    certificates: Mutex<Vec<Expiry>>,
    /// Of listeners and services that are forgotten: totals never go back.
    past: Mutex<Figures>,
}

impl Metrics {
    /// Counters for so many threads.
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            threads,
            by_thread: Cells::new(threads),
            listeners: Mutex::default(),
            services: Mutex::default(),
            certificates: Mutex::default(),
            past: Mutex::default(),
        }
    }

    /// The counters of the listener of that name.
    pub(crate) fn listener(&self, name: &Arc<str>) -> Arc<Cells<ListenerCells>> {
        let mut all = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(Arc::clone(name)).or_insert_with(|| Arc::new(Cells::new(self.threads))))
    }

    /// The counters of the service of that name.
    pub(crate) fn service(&self, name: &Arc<str>) -> Arc<Cells<ServiceCells>> {
        let mut all = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(Arc::clone(name)).or_insert_with(|| Arc::new(Cells::new(self.threads))))
    }

    /// Forgets things that no generation names any more and that nothing uses.
    pub(crate) fn prune(&self) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|_, cells| {
            let used = Arc::strong_count(cells) > 1;
            if !used {
                tls::add_listener(&mut past, cells);
            }
            used
        });
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.retain(|_, cells| {
            let used = Arc::strong_count(cells) > 1;
            if !used {
                tls::add_service(&mut past, cells);
            }
            used
        });
    }

    /// Connections open now, of all kinds.
    pub(crate) fn open(&self) -> u64 {
        self.by_thread.0.iter().fold(0, |sum, block| {
            let cells = &block.0;
            sum.wrapping_add(cells.http.get())
                .wrapping_add(cells.websocket.get())
                .wrapping_add(cells.tcp.get())
                .wrapping_add(cells.tls.get())
        })
    }

    /// Bytes of buffers that connections hold, over all threads.
    pub(crate) fn buffer_bytes(&self) -> u64 {
        self.by_thread.sum(|cells| &cells.buffer_bytes)
    }

    /// The Prometheus text, without the final `# EOF`.
    pub(crate) fn encode(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::with_prefix("handover");
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.register_listeners(&mut registry, &listeners);
        self.register_services(&mut registry, &services);
        self.register_threads(&mut registry);
        tls::register(&mut registry, &listeners);
        let certificates = self.certificates.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tls::register_certificates(&mut registry, certificates);
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = prometheus_client::encoding::text::encode_registry(&mut text, &registry);
        text
    }

    fn register_listeners(&self, registry: &mut Registry, all: &ByName<ListenerCells>) {
        let mut requests = Table::counter();
        let (mut bytes_in, mut bytes_out, mut accepted) =
            (Table::counter(), Table::counter(), Table::counter());
        let (mut open, mut full) = (Table::gauge(), Table::counter());
        let mut durations = Durations::default();
        for (name, cells) in all {
            for (class, label) in CLASSES.iter().enumerate() {
                let count = cells.sum(|cells| cells.requests.get(class).unwrap_or(&cells.full));
                requests.add(&[("listener", name), ("status", label)], count);
            }
            bytes_in.add(&[("listener", name)], cells.sum(|cells| &cells.bytes_in));
            bytes_out.add(&[("listener", name)], cells.sum(|cells| &cells.bytes_out));
            accepted.add(&[("listener", name)], cells.sum(|cells| &cells.accepted));
            open.add(&[("listener", name)], cells.sum(|cells| &cells.open));
            full.add(&[("listener", name)], cells.sum(|cells| &cells.full));
            durations.add(name, cells);
        }
        registry.register("requests", "Requests by listener and class of status", requests);
        registry.register("listener_received_bytes", "Bytes read from clients", bytes_in);
        registry.register("listener_sent_bytes", "Bytes written to clients", bytes_out);
        registry.register("listener_accepted_connections", "Connections taken in", accepted);
        registry.register("listener_open_connections", "Connections open now", open);
        registry.register("listener_full", "Times that accepting paused at the limit", full);
        registry.register(
            "request_duration_seconds",
            "Time from a request's head to its answer's end",
            durations,
        );
    }

    fn register_services(&self, registry: &mut Registry, all: &ByName<ServiceCells>) {
        let mut responses = Table::counter();
        let mut active = Table::gauge();
        type Pick = fn(&ServiceCells) -> &Cell;
        let rest: [(&str, &str, Pick); 7] = [
            ("service_connects", "Connections made to endpoints", |cells| &cells.connects),
            ("service_connect_failures", "Connections to endpoints that failed", |cells| {
                &cells.connect_failures
            }),
            ("service_retries", "Requests sent once more", |cells| &cells.retries),
            ("service_reused_connections", "Requests that used a kept connection", |cells| &cells.reused),
            ("service_timeouts", "Time limits of endpoints that passed", |cells| &cells.timeouts),
            ("service_tls_handshakes", "TLS handshakes with endpoints that succeeded", |cells| {
                &cells.handshakes
            }),
            ("service_tls_handshake_failures", "TLS handshakes with endpoints that failed", |cells| {
                &cells.handshake_failures
            }),
        ];
        let mut tables: Vec<Table> = rest.iter().map(|_| Table::counter()).collect();
        for (name, cells) in all {
            for (class, label) in CLASSES.iter().enumerate() {
                let count = cells.sum(|cells| cells.responses.get(class).unwrap_or(&cells.connects));
                responses.add(&[("service", name), ("status", label)], count);
            }
            active.add(&[("service", name)], cells.sum(|cells| &cells.active));
            for (table, (_, _, pick)) in tables.iter_mut().zip(&rest) {
                table.add(&[("service", name)], cells.sum(pick));
            }
        }
        registry.register("service_responses", "Responses by service and class of status", responses);
        registry.register("service_active", "Requests and tunnels in progress", active);
        for (table, (name, help, _)) in tables.into_iter().zip(rest) {
            registry.register(name, help, table);
        }
    }

    fn register_threads(&self, registry: &mut Registry) {
        let cells = &self.by_thread;
        let mut open = Table::gauge();
        open.add(&[("kind", "http")], cells.sum(|cells| &cells.http));
        open.add(&[("kind", "websocket")], cells.sum(|cells| &cells.websocket));
        open.add(&[("kind", "tcp")], cells.sum(|cells| &cells.tcp));
        open.add(&[("kind", "tls_handshake")], cells.sum(|cells| &cells.tls));
        registry.register("open_connections", "Connections open now, by kind", open);
        let mut ends = Table::counter();
        for (index, label) in crate::conn::END_LABELS.iter().enumerate() {
            let count = cells.sum(|cells| cells.ends.get(index).unwrap_or(&cells.accept_errors));
            ends.add(&[("why", label)], count);
        }
        registry.register("closed_connections", "Connections closed, by reason", ends);
        let mut one = |name: &str, help: &str, mut table: Table, value: u64| {
            table.add(&[], value);
            registry.register(name, help, table);
        };
        let errors = cells.sum(|cells| &cells.accept_errors);
        one("accept_errors", "Times that the kernel refused to accept", Table::counter(), errors);
        let idle = cells.sum(|cells| &cells.idle_upstream);
        one("idle_upstream_connections", "Kept connections to endpoints", Table::gauge(), idle);
        one("buffer_bytes", "Memory that connections hold in buffers", Table::gauge(), self.buffer_bytes());
        let dropped = cells.sum(|cells| &cells.log_dropped);
        one("access_log_dropped_lines", "Access log lines dropped", Table::counter(), dropped);
        let held = cells.sum(|cells| &cells.held);
        one("held", "Requests and connections that are held now", Table::gauge(), held);
        let held = cells.sum(|cells| &cells.held_total);
        one("holds", "Requests and connections that were held", Table::counter(), held);
        let refused = cells.sum(|cells| &cells.held_refused);
        one("held_refused", "Requests refused because too many were held", Table::counter(), refused);
        let failed = cells.sum(|cells| &cells.moves_failed);
        one(
            "failed_moves",
            "Connections of another worker that could not be taken",
            Table::counter(),
            failed,
        );
    }
}

type Registry = prometheus_client::registry::Registry;
type ByName<T> = BTreeMap<Arc<str>, Arc<Cells<T>>>;

const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Numbers with labels, as they are at the moment of asking.
#[derive(Debug)]
struct Table {
    gauge: bool,
    rows: Vec<(Vec<(String, String)>, u64)>,
}

impl Table {
    fn counter() -> Self {
        Self { gauge: false, rows: Vec::new() }
    }

    fn gauge() -> Self {
        Self { gauge: true, rows: Vec::new() }
    }

    fn add(&mut self, labels: &[(&str, &str)], value: u64) {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.rows.push((labels, value));
    }
}

impl EncodeMetric for Table {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (labels, value) in &self.rows {
            // Threads are read one after the other: what moved meanwhile may be counted out and not in.
            let signed = value.cast_signed().max(0);
            match (self.gauge, labels.is_empty()) {
                (true, true) => encoder.encode_gauge(&signed)?,
                (false, true) => encoder.encode_counter::<NoLabelSet, _, u64>(value, None)?,
                (true, false) => encoder.encode_family(labels)?.encode_gauge(&signed)?,
                (false, false) => {
                    encoder.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)?;
                }
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> prometheus_client::metrics::MetricType {
        if self.gauge {
            prometheus_client::metrics::MetricType::Gauge
        } else {
            prometheus_client::metrics::MetricType::Counter
        }
    }
}

/// The duration histograms of all listeners.
#[derive(Debug, Default)]
struct Durations(Vec<Duration>);

/// That of one listener.
#[derive(Debug)]
struct Duration {
    listener: String,
    sum: f64,
    count: u64,
    buckets: Vec<(f64, u64)>,
}

impl Durations {
    fn add(&mut self, listener: &str, cells: &Cells<ListenerCells>) {
        let mut buckets = Vec::new();
        let mut count = 0_u64;
        for (index, bound) in
            DURATION_BOUNDS_US.iter().map(|us| seconds(*us)).chain([f64::INFINITY]).enumerate()
        {
            let here = cells.sum(|cells| cells.durations.get(index).unwrap_or(&cells.full));
            count = count.wrapping_add(here);
            buckets.push((bound, here));
        }
        let sum = seconds(cells.sum(|cells| &cells.duration_us));
        self.0.push(Duration { listener: listener.to_owned(), sum, count, buckets });
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a metric of microseconds may lose its last digits beyond 285 years"
)]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for Duration { listener, sum, count, buckets } in &self.0 {
            let labels = [("listener", listener.as_str())];
            encoder.encode_family(&labels)?.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> prometheus_client::metrics::MetricType {
        prometheus_client::metrics::MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_added_up_and_counters_survive_generations() {
        let metrics = Metrics::new(2);
        let web: Arc<str> = "web".into();
        let first = metrics.listener(&web);
        first.of(0).request(200, 700);
        first.of(1).request(200, 70_000_000);
        let again = metrics.listener(&web);
        again.of(1).request(404, 1);
        let text = metrics.encode();
        assert!(text.contains("handover_requests_total{listener=\"web\",status=\"2xx\"} 2\n"), "{text}");
        assert!(text.contains("handover_requests_total{listener=\"web\",status=\"4xx\"} 1\n"), "{text}");
        assert!(text.contains("handover_request_duration_seconds_count{listener=\"web\"} 3\n"), "{text}");
        assert!(
            text.contains("handover_request_duration_seconds_bucket{le=\"0.001\",listener=\"web\"} 2\n"),
            "{text}"
        );
        assert!(text.contains("le=\"+Inf\"") && !text.contains("EOF"), "{text}");
    }
}
