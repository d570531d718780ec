//! Load: several kinds of clients at once, each counted for itself.
//!
//! | kind | what one client does |
//! |---|---|
//! | `keepalive` | one request after the other over one connection (closed loop) |
//! | `fresh` | a new connection for each request, a fixed number of them a second whatever the answers do (open loop) |
//! | `fresh_loop` | a new connection for each request, as fast as they are answered (closed loop) |
//! | `idle` | a kept connection with one request every while |
//! | `websocket` | a held WebSocket with an echo every while |
//! | `tcp` | a held TCP connection with an echo every while |
//! | `download` | a response body that comes slowly |
//! | `upload` | a request body that is sent slowly |
//!
//! A connection that the server ends between two requests is counted as `closed` and is no failure. One that it ends
//! after a request was sent and before a byte of the response came is a failure: a lost request.
//!
//! All but `tcp` speak TLS if so wished: full handshakes, on terms that are checked.
//!
//! Each thread runs one single-threaded runtime with its share of the clients and its own counts.

mod client;
mod kinds;
mod report;
mod tally;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(crate) use client::{Client, Expect};
#[cfg(test)]
use report::Part;
pub(crate) use report::{Latency, Report, counts};
use tally::Tally;
pub(crate) use wire::{Suite, Tls};

/// What to do, and for how long.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Mix {
    /// Address of the HTTP server.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub(crate) target: SocketAddr,
    /// Address of the TCP echo, for --tcp.
    #[arg(long)]
    pub(crate) tcp_target: Option<SocketAddr>,
    /// What is asked for; /bytes/N of the origin is checked byte for byte.
    #[arg(long, default_value = "/bytes/128")]
    pub(crate) path: String,
    /// Speak TLS 1.3 with this suite, X25519, and no resumption; what is agreed on otherwise is a failure.
    #[arg(long)]
    pub(crate) tls: Option<Suite>,
    /// Check that the server has the key of its certificate, which may be anybody's.
    #[arg(long)]
    pub(crate) tls_checked: bool,
    /// The Host field, and the name that is asked for over TLS.
    #[arg(long, default_value = "localhost")]
    pub(crate) host: String,
    /// Connections that send one request after the other.
    #[arg(long, default_value_t = 0)]
    pub(crate) keepalive: usize,
    /// Milliseconds that those rest between two requests.
    #[arg(long, default_value_t = 0)]
    pub(crate) pause_ms: u64,
    /// From one request of such a connection to the next, whatever the answers do (open loop), instead of a rest.
    #[arg(skip)]
    pub(crate) pace: Option<Duration>,
    /// New connections a second, one request each.
    #[arg(long, default_value_t = 0)]
    pub(crate) fresh_rate: usize,
    /// Clients that open a new connection for each request.
    #[arg(long, default_value_t = 0)]
    pub(crate) fresh_loop: usize,
    /// Kept connections that are idle most of the time.
    #[arg(long, default_value_t = 0)]
    pub(crate) idle: usize,
    /// Milliseconds between two requests of an idle connection.
    #[arg(long, default_value_t = 1000)]
    pub(crate) idle_every_ms: u64,
    /// WebSockets held at /ws.
    #[arg(long, default_value_t = 0)]
    pub(crate) websocket: usize,
    /// TCP connections held.
    #[arg(long, default_value_t = 0)]
    pub(crate) tcp: usize,
    /// Milliseconds between two echoes of a held connection.
    #[arg(long, default_value_t = 100)]
    pub(crate) echo_every_ms: u64,
    /// Clients that receive slow bodies from /drip/….
    #[arg(long, default_value_t = 0)]
    pub(crate) download: usize,
    /// Clients that send slow bodies to /sink.
    #[arg(long, default_value_t = 0)]
    pub(crate) upload: usize,
    /// Seconds.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Milliseconds after which a wait is a failure.
    #[arg(long, default_value_t = 5000)]
    pub(crate) limit_ms: u64,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
    /// While it is set, exchanges that end are also counted apart.
    #[arg(skip)]
    pub(crate) mark: Arc<AtomicBool>,
}

impl Mix {
    /// No load at all, for as long as `seconds`: a base to add to.
    pub(crate) fn quiet(target: SocketAddr, seconds: f64) -> Self {
        Self {
            target,
            tcp_target: None,
            path: "/bytes/128".to_owned(),
            tls: None,
            tls_checked: false,
            host: "localhost".to_owned(),
            keepalive: 0,
            pause_ms: 0,
            pace: None,
            fresh_rate: 0,
            fresh_loop: 0,
            idle: 0,
            idle_every_ms: 1000,
            websocket: 0,
            tcp: 0,
            echo_every_ms: 100,
            download: 0,
            upload: 0,
            seconds,
            limit_ms: 5000,
            threads: 1,
            mark: Arc::default(),
        }
    }

    /// The share of one thread of several.
    fn share(&self, thread: usize) -> Self {
        let of = |count: usize| count / self.threads + usize::from(thread < count % self.threads);
        Self {
            keepalive: of(self.keepalive),
            fresh_rate: of(self.fresh_rate),
            fresh_loop: of(self.fresh_loop),
            idle: of(self.idle),
            websocket: of(self.websocket),
            tcp: of(self.tcp),
            download: of(self.download),
            upload: of(self.upload),
            ..self.clone()
        }
    }
}

/// Counts by kind of load.
type Tallies = BTreeMap<&'static str, Tally>;

/// A load that runs.
pub(crate) struct Running {
    threads: Vec<JoinHandle<io::Result<Tallies>>>,
    began: Instant,
    /// When it stops by itself.
    until: Instant,
}

/// Starts a load.
pub(crate) fn start(mix: &Mix) -> Running {
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(mix.seconds);
    let mix = Mix { threads: mix.threads.max(1), ..mix.clone() };
    let threads = (0..mix.threads)
        .map(|thread| {
            let share = mix.share(thread);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let tasks = tokio::task::LocalSet::new();
                let tls = share.tls.map(|suite| Tls::new(suite, share.tls_checked)).transpose()?;
                Ok(tasks.block_on(&runtime, kinds::run(share, tls, until)))
            })
        })
        .collect();
    Running { threads, began, until }
}

impl Running {
    /// Waits for the end and adds up.
    pub(crate) fn finish(self) -> io::Result<Report> {
        let mut sum = Tallies::new();
        for thread in self.threads {
            let tallies = thread.join().map_err(|_| io::Error::other("a thread of the load panicked"))??;
            for (name, tally) in &tallies {
                sum.entry(name).or_default().merge(tally);
            }
        }
        let seconds = self.until.duration_since(self.began).as_secs_f64();
        Ok(Report::new(seconds, &sum))
    }
}

/// Runs a load to its end.
pub(crate) fn run(mix: &Mix) -> io::Result<Report> {
    start(mix).finish()
}
