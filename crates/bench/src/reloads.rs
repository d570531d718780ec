//! Reloads, or upgrades, under load: what the clients notice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use handover_testkit::{Authority, Pair};
use serde::Serialize;

use crate::load::{self, Mix, Report, Suite, counts};
use crate::peers::certificates::ECDSA;
use crate::peers::{Common, Peer, Setting, own_origin};
use crate::{Result, print_json};

/// How to reload.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// How many reloads.
    #[arg(long, default_value_t = 20)]
    count: u64,
    /// Milliseconds from one to the next.
    #[arg(long, default_value_t = 1000)]
    every_ms: u64,
    /// Seconds of load before the first reload and after the last one.
    #[arg(long, default_value_t = 2.0)]
    margin: f64,
    /// Clients of each held kind (WebSocket, TCP, slow download, slow upload).
    #[arg(long, default_value_t = 10)]
    held: usize,
    /// Connections that send one request after the other, with a rest of 5 ms.
    #[arg(long, default_value_t = 32)]
    keepalive: usize,
    /// Connections that send one request a second.
    #[arg(long, default_value_t = 50)]
    idle: usize,
    /// New connections a second.
    #[arg(long, default_value_t = 200)]
    fresh_rate: usize,
    /// Speak TLS (all but the raw TCP), and change certificate and key from each reload to the next.
    #[arg(long)]
    tls: bool,
    /// Upgrade the binary (with the same one) instead of reloading.
    #[arg(long)]
    upgrade: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    proxy: String,
    reloads: u64,
    /// Reloads that were answered; only handover answers.
    answered: u64,
    /// Upgrades that were not taken.
    refused: u64,
    /// What handover said each took.
    answer_ms: Vec<f64>,
    failures: BTreeMap<&'static str, u64>,
    load: Report,
}

/// Runs and prints.
pub(crate) fn run(options: &Options, json: bool) -> Result<()> {
    let (origin, echo) = own_origin()?;
    let pairs = if options.tls { alternating() } else { Vec::new() };
    let mut lines = Vec::new();
    for kind in options.common.kinds() {
        for tuned in [false, true] {
            if tuned && let Err(why) = kind.can_be_tuned() {
                eprintln!("{} tuned: SKIPPED, {why}", kind.name());
                continue;
            }
            let certificates = pairs.iter().take(1).cloned().collect::<Vec<_>>().into();
            let setting = Setting { tuned, certificates, ..Setting::of(origin, echo) };
            let mut peer = Peer::start(kind, &options.common, &setting)?;
            let line = one(options, &pairs, &mut peer)?;
            eprintln!("\n{}: {} reloads\n{}\n", line.proxy, line.reloads, line.load);
            lines.push(line);
        }
    }
    if json {
        return print_json(&lines);
    }
    let what = if options.upgrade { "upgrades" } else { "reloads" };
    println!("| proxy | {what} | not taken | exchanges | failures | idle connections closed |");
    println!("|---|---:|---:|---:|---|---:|");
    for line in &lines {
        let closed: u64 = line.load.parts.values().map(|part| part.closed_idle).sum();
        let failures = counts(&line.failures);
        let Line { proxy, reloads, refused, load, .. } = line;
        println!("| {proxy} | {reloads} | {refused} | {} | {failures} | {closed} |", load.ok());
    }
    Ok(())
}

/// Two pairs for the same name, with different keys.
fn alternating() -> Vec<Pair> {
    let authority = Authority::new("bench");
    vec![authority.pair(&[ECDSA]), authority.pair(&[ECDSA])]
}

fn one(options: &Options, pairs: &[Pair], peer: &mut Peer) -> Result<Line> {
    let every = Duration::from_millis(options.every_ms);
    let reloading = every * u32::try_from(options.count).unwrap_or(u32::MAX);
    let target = if options.tls { peer.https() } else { peer.http() };
    let mix = Mix {
        keepalive: options.keepalive,
        pause_ms: 5,
        idle: options.idle,
        fresh_rate: options.fresh_rate,
        websocket: options.held,
        download: options.held,
        upload: options.held,
        tcp: if peer.tcp().is_some() { options.held } else { 0 },
        tcp_target: peer.tcp(),
        tls: options.tls.then_some(Suite::Aes128),
        tls_checked: true,
        host: if options.tls { ECDSA } else { "localhost" }.to_owned(),
        ..Mix::quiet(target, reloading.as_secs_f64() + 2.0 * options.margin)
    };
    if peer.tcp().is_none() {
        eprintln!("{}: no TCP in its mix (nginx: libnginx-mod-stream is not installed)", peer.name);
    }
    let began = Instant::now();
    let running = load::start(&mix);
    let first = began + Duration::from_secs_f64(options.margin);
    let (mut answered, mut refused, mut answer_ms) = (0, 0, Vec::new());
    for number in 1..=options.count {
        let due = first + every * u32::try_from(number - 1).unwrap_or(u32::MAX);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        peer.settle();
        if options.upgrade {
            match peer.upgrade() {
                Ok(operation) => {
                    answered += u64::from(operation.is_some());
                    answer_ms.extend(operation.and_then(|operation| operation.get("ms")?.as_f64()));
                }
                Err(error) => {
                    refused += 1;
                    eprintln!("{}: upgrade {number}: {error}", peer.name);
                }
            }
            continue;
        }
        peer.write(number + 1)?;
        if let Some(pair) = pairs.iter().cycle().nth(usize::try_from(number % 2)?) {
            peer.put(0, pair)?;
        }
        if let Some(operation) = peer.reload()? {
            answered += 1;
            answer_ms.extend(operation.get("ms").and_then(serde_json::Value::as_f64));
        }
    }
    let report = running.finish()?;
    peer.wait_for_version(if options.upgrade { 1 } else { options.count + 1 })?;
    Ok(Line {
        proxy: peer.name.clone(),
        reloads: options.count,
        answered,
        refused,
        answer_ms,
        failures: report.failures(),
        load: report,
    })
}
