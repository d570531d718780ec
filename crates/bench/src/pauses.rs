//! How much longer answers take while the binary is upgraded, at half of what the proxy can do.
//!
//! First the capacity is found: a closed loop over many connections. Then the same connections send at half of that rate, at
//! due times from which latencies count, and the proxy is upgraded again and again. Exchanges that end between asking for an upgrade and a moment after the old
//! process has gone are counted apart; the rest of the same run is what they are compared with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use handover_testkit::{Deadline, proc};
use serde::Serialize;

use crate::load::{self, Mix, Suite};
use crate::peers::{Common, Peer, Setting, certificates, own_origin};
use crate::{Result, print_json};

/// Load before the first upgrade and after the last one.
const MARGIN: Duration = Duration::from_secs(2);
/// How long the load that finds the capacity lasts.
const CAPACITY_SECONDS: f64 = 3.0;
/// The old process of a proxy that waits for its connections is not waited for longer.
const GONE_LIMIT: Duration = Duration::from_secs(1);

/// How to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// How many upgrades.
    #[arg(long, default_value_t = 10)]
    count: u32,
    /// Milliseconds from one to the next.
    #[arg(long, default_value_t = 1500)]
    every_ms: u64,
    /// Connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Over TLS 1.3.
    #[arg(long)]
    tls: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    proxy: String,
    /// Requests a second that it can do.
    capacity: f64,
    /// Those that it was given.
    given: f64,
    /// In milliseconds, without and with an upgrade under way.
    p99_ms: f64,
    p99_upgrading_ms: f64,
    max_upgrading_ms: f64,
    failures: String,
}

/// Runs and prints.
pub(crate) fn run(options: &Options, json: bool) -> Result<()> {
    let (origin, echo) = own_origin()?;
    let mut lines = Vec::new();
    for kind in options.common.kinds() {
        let certificates = if options.tls { certificates::of_both_kinds() } else { Arc::default() };
        let setting = Setting { certificates, ..Setting::of(origin, echo) };
        let mut peer = Peer::start(kind, &options.common, &setting)?;
        let line = one(options, &mut peer)?;
        eprintln!("{line:?}");
        lines.push(line);
    }
    if json {
        return print_json(&lines);
    }
    println!(
        "| proxy | capacity | given | p99 | p99 during an upgrade | added | longest during an upgrade | failures |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---|");
    for line in &lines {
        println!(
            "| {} | {:.0}/s | {:.0}/s | {:.2} ms | {:.2} ms | {:.2} ms | {:.2} ms | {} |",
            line.proxy,
            line.capacity,
            line.given,
            line.p99_ms,
            line.p99_upgrading_ms,
            line.p99_upgrading_ms - line.p99_ms,
            line.max_upgrading_ms,
            line.failures
        );
    }
    Ok(())
}

fn one(options: &Options, peer: &mut Peer) -> Result<Line> {
    let target = if options.tls { peer.https() } else { peer.http() };
    let mix = |seconds, pace, mark| Mix {
        keepalive: options.connections,
        pace,
        tls: options.tls.then_some(Suite::Aes128),
        host: if options.tls { certificates::ECDSA } else { "localhost" }.to_owned(),
        mark,
        ..Mix::quiet(target, seconds)
    };
    let capacity = load::run(&mix(CAPACITY_SECONDS, None, Arc::default()))?.rate();
    #[allow(clippy::cast_precision_loss, reason = "a few thousand connections")]
    let pace = Duration::from_secs_f64(options.connections as f64 / (capacity / 2.0));
    let every = Duration::from_millis(options.every_ms);
    let seconds = (every * options.count + 2 * MARGIN).as_secs_f64();
    let mark = Arc::new(AtomicBool::new(false));
    let running = load::start(&mix(seconds, Some(pace), Arc::clone(&mark)));
    let first = Instant::now() + MARGIN;
    for number in 0..options.count {
        std::thread::sleep((first + every * number).saturating_duration_since(Instant::now()));
        peer.settle();
        let before = peer.serving_pids();
        mark.store(true, Ordering::Relaxed);
        if let Err(error) = peer.upgrade() {
            eprintln!("{}: upgrade {number}: {error}", peer.name);
        }
        let deadline = Deadline::after(GONE_LIMIT);
        while !deadline.passed() && before.iter().any(|pid| proc::alive(*pid)) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(2 * pace);
        mark.store(false, Ordering::Relaxed);
    }
    let report = running.finish()?;
    let part = report.parts.get("keepalive").ok_or("no load")?;
    let marked = part.marked_us.as_ref().ok_or("nothing was answered during the upgrades")?;
    let ms = crate::latency::ms;
    Ok(Line {
        proxy: peer.name.clone(),
        capacity,
        given: report.rate(),
        p99_ms: ms(part.latency_us.p99),
        p99_upgrading_ms: ms(marked.p99),
        max_upgrading_ms: ms(marked.max),
        failures: load::counts(&report.failures()),
    })
}
