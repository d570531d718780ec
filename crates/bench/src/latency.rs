//! From asking for a reload to the first new answer, and whether an old answer is given after it.
//!
//! Several clients ask `/version` again and again, some on a new connection each time, some on one that is kept, with a
//! short rest, so that they do not take the processor from the reload that they measure. Time runs from the moment
//! before the reload is asked for. An answer is *stale* if its request was sent after some client
//! had already received a new one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use handover_testkit::http::Connection;
use serde::Serialize;

use crate::compare::median;
use crate::peers::{Common, Peer, Setting, own_origin};
use crate::{Result, print_json};

/// Clients on new connections, and as many on kept ones.
const CLIENTS: usize = 2;
/// How long each client rests between two requests; the first new answer is seen that much too late at most.
const REST: Duration = Duration::from_micros(500);
/// How long the clients go on after the first new answer.
const AFTER: Duration = Duration::from_millis(300);
/// A reload that shows no effect within this time is an error.
const LONGEST: Duration = Duration::from_secs(60);

/// How to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Reloads of each.
    #[arg(long, default_value_t = 10)]
    count: u64,
    /// Numbers of routes.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10_000])]
    routes: Vec<usize>,
}

#[derive(Debug, Serialize)]
struct Line {
    proxy: String,
    routes: usize,
    /// From asking to the first new answer, each time.
    new_answer_ms: Vec<f64>,
    /// From asking to the command's own answer, each time; only handover answers.
    answer_ms: Vec<f64>,
    /// Stale answers, all reloads together.
    stale: u64,
    /// From the first new answer to the last stale one, the longest.
    stale_for_ms: f64,
    /// Requests on kept connections that got no answer.
    lost: u64,
}

/// What the clients of one reload share.
struct Watch {
    began: Instant,
    wanted: String,
    stop: AtomicBool,
    /// Microseconds after `began` of the first new answer; `u64::MAX` before there is one.
    first_new: AtomicU64,
    stale: AtomicU64,
    last_stale: AtomicU64,
    lost: AtomicU64,
}

/// Runs and prints.
pub(crate) fn run(options: &Options, json: bool) -> Result<()> {
    let (origin, echo) = own_origin()?;
    let mut lines = Vec::new();
    for routes in &options.routes {
        for kind in options.common.kinds() {
            // The two routes of the templates are there in any case.
            let extra = if *routes > 2 { *routes } else { 0 };
            let setting = Setting { routes: extra, ..Setting::of(origin, echo) };
            let mut peer = Peer::start(kind, &options.common, &setting)?;
            let line = one(options, *routes, &mut peer)?;
            eprintln!("{line:?}");
            lines.push(line);
        }
    }
    if json {
        return print_json(&lines);
    }
    println!(
        "| proxy | routes | asked → new answer, median | worst | command answered, median | stale answers | for at most |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for line in &lines {
        let worst = line.new_answer_ms.iter().copied().max_by(f64::total_cmp).unwrap_or(f64::NAN);
        let answer = match median(line.answer_ms.iter().copied()) {
            ms if ms.is_nan() => "–".to_owned(),
            ms => format!("{ms:.1} ms"),
        };
        println!(
            "| {} | {} | {:.1} ms | {worst:.1} ms | {answer} | {} | {:.1} ms |",
            line.proxy,
            line.routes,
            median(line.new_answer_ms.iter().copied()),
            line.stale,
            line.stale_for_ms
        );
    }
    Ok(())
}

fn one(options: &Options, routes: usize, peer: &mut Peer) -> Result<Line> {
    let mut line = Line {
        proxy: peer.name.clone(),
        routes,
        new_answer_ms: Vec::new(),
        answer_ms: Vec::new(),
        stale: 0,
        stale_for_ms: 0.0,
        lost: 0,
    };
    for number in 1..=options.count {
        peer.settle();
        peer.write(number + 1)?;
        let watch = Arc::new(Watch::new(number + 1));
        let clients = watch.clients(peer.http());
        // The clients' connections are open and have been answered once: the kept ones know the old worker.
        let asked = watch.now_us();
        if peer.reload()?.is_some() {
            line.answer_ms.push(ms(watch.now_us() - asked));
        }
        let first = watch.wait_for_new(peer)?;
        std::thread::sleep(AFTER);
        watch.stop.store(true, Ordering::Release);
        for client in clients {
            let _ = client.join();
        }
        line.new_answer_ms.push(ms(first.saturating_sub(asked)));
        line.stale += watch.stale.load(Ordering::Acquire);
        let stale_for = watch.last_stale.load(Ordering::Acquire).saturating_sub(first);
        line.stale_for_ms = line.stale_for_ms.max(ms(stale_for));
        line.lost += watch.lost.load(Ordering::Acquire);
    }
    Ok(line)
}

#[allow(clippy::cast_precision_loss, reason = "microseconds of one run stay far below 2^53")]
pub(crate) fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

impl Watch {
    fn new(version: u64) -> Self {
        Self {
            began: Instant::now(),
            wanted: format!("v{version}"),
            stop: AtomicBool::new(false),
            first_new: AtomicU64::new(u64::MAX),
            stale: AtomicU64::new(0),
            last_stale: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Starts the clients; returns once each kept connection is open and was answered.
    fn clients(self: &Arc<Self>, address: SocketAddr) -> Vec<JoinHandle<()>> {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let watch = Arc::clone(self);
            clients.push(std::thread::spawn(move || watch.ask_on_new(address)));
            let watch = Arc::clone(self);
            let kept = watch.open_kept(address);
            clients.push(std::thread::spawn(move || watch.ask_on_kept(address, kept)));
        }
        clients
    }

    fn open_kept(&self, address: SocketAddr) -> Option<Connection> {
        let mut connection = Connection::try_open(address).ok()?;
        connection.try_get("/version").ok()?;
        Some(connection)
    }

    fn ask_on_new(&self, address: SocketAddr) {
        while !self.stop.load(Ordering::Acquire) {
            std::thread::sleep(REST);
            let sent = self.now_us();
            let Ok(mut connection) = Connection::try_open(address) else { continue };
            let request = "GET /version HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
            let asked = connection.try_send(request);
            if let Ok(response) = asked.and_then(|()| connection.try_response("GET")) {
                self.got(sent, &response.text());
            }
        }
    }

    fn ask_on_kept(&self, address: SocketAddr, mut connection: Option<Connection>) {
        while !self.stop.load(Ordering::Acquire) {
            std::thread::sleep(REST);
            let sent = self.now_us();
            let Some(open) = &mut connection else {
                connection = self.open_kept(address);
                continue;
            };
            match open.try_get("/version") {
                Ok(response) => {
                    self.got(sent, &response.text());
                    if response.head.closes() {
                        connection = None;
                    }
                }
                Err(_) => {
                    self.lost.fetch_add(1, Ordering::AcqRel);
                    connection = None;
                }
            }
        }
    }

    fn got(&self, sent: u64, answer: &str) {
        if answer == self.wanted {
            self.first_new.fetch_min(self.now_us(), Ordering::AcqRel);
        } else if sent > self.first_new.load(Ordering::Acquire) {
            self.stale.fetch_add(1, Ordering::AcqRel);
            self.last_stale.fetch_max(self.now_us(), Ordering::AcqRel);
        }
    }

    fn wait_for_new(&self, peer: &Peer) -> Result<u64> {
        let until = Instant::now() + LONGEST;
        while Instant::now() < until {
            match self.first_new.load(Ordering::Acquire) {
                u64::MAX => std::thread::park_timeout(Duration::from_millis(1)),
                first => return Ok(first),
            }
        }
        self.stop.store(true, Ordering::Release);
        Err(format!("{}: no new answer within {LONGEST:?}\n{}", peer.name, peer.complaints()).into())
    }
}
