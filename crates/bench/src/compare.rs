//! Requests per second and CPU per request, the proxies taking turns.
//!
//! CPU per request is what a proxy costs: user and system time of all its processes, divided by the requests that were
//! answered meanwhile. On a machine that the load and the origin share it says more than requests per second, which
//! depend on what is left of the cores. The proxies take turns (A B C A B C …), so that a change of the machine's mood
//! meets all of them; medians are compared.
//!
//! Over TLS all proxies have the same two keys, and the load offers one version, one suite and one group, resumes nothing,
//! and counts as a failure what is agreed on otherwise. A handshake is counted with the one request after it. The load
//! takes any signature for a right one there: it needs its share of the cores for itself.

use std::process::Command;

use serde::Serialize;

use crate::load::{self, Mix, Suite};
use crate::peers::certificates::{self, ECDSA, RSA};
use crate::peers::{Common, Kind, Peer, Setting, own_origin};
use crate::{Result, print_json};

/// How to compare.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// How often each proxy has its turn in each scenario.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a turn.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds of load before each turn that are not counted.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Connections at once.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Threads of the load; over TLS twice as many, for a client's side of a handshake costs about as much as a server's.
    #[arg(long, default_value_t = 1)]
    load_threads: usize,
    /// Use wrk instead of the load that is built in, without TLS: wrk cannot be told on which terms to shake hands.
    #[arg(long)]
    wrk: bool,
    /// Only scenarios whose names contain this.
    #[arg(long)]
    scenario: Option<String>,
}

struct Scenario {
    name: &'static str,
    path: &'static str,
    fresh: bool,
    /// Over TLS 1.3 with this suite, asking for this name.
    tls: Option<(Suite, &'static str)>,
}

const SCENARIOS: [Scenario; 9] = [
    Scenario { name: "keep-alive, 128 B", path: SMALL, fresh: false, tls: None },
    Scenario { name: "keep-alive, 10 KB", path: LARGE, fresh: false, tls: None },
    Scenario { name: "new connection per request, 128 B", path: SMALL, fresh: true, tls: None },
    Scenario {
        name: "TLS handshake and one request, ECDSA P-256",
        path: SMALL,
        fresh: true,
        tls: Some((Suite::Aes128, ECDSA)),
    },
    Scenario {
        name: "TLS handshake and one request, RSA 2048",
        path: SMALL,
        fresh: true,
        tls: Some((Suite::Aes128, RSA)),
    },
    Scenario {
        name: "TLS keep-alive, 128 B, AES-128-GCM",
        path: SMALL,
        fresh: false,
        tls: Some((Suite::Aes128, ECDSA)),
    },
    Scenario {
        name: "TLS keep-alive, 10 KB, AES-128-GCM",
        path: LARGE,
        fresh: false,
        tls: Some((Suite::Aes128, ECDSA)),
    },
    Scenario {
        name: "TLS keep-alive, 128 B, AES-256-GCM",
        path: SMALL,
        fresh: false,
        tls: Some((Suite::Aes256, ECDSA)),
    },
    Scenario {
        name: "TLS keep-alive, 10 KB, AES-256-GCM",
        path: LARGE,
        fresh: false,
        tls: Some((Suite::Aes256, ECDSA)),
    },
];

const SMALL: &str = "/bytes/128";
const LARGE: &str = "/bytes/10240";

/// One turn of one proxy.
#[derive(Debug, Clone, Serialize)]
struct Turn {
    requests_per_second: f64,
    cpu_us_per_request: f64,
    p50_us: u64,
    p99_us: u64,
    failures: u64,
}

/// All turns of one proxy in one scenario.
#[derive(Debug, Clone, Serialize)]
struct Line {
    proxy: String,
    turns: Vec<Turn>,
    median_requests_per_second: f64,
    median_cpu_us_per_request: f64,
}

#[derive(Debug, Serialize)]
struct Table {
    scenario: &'static str,
    lines: Vec<Line>,
    /// handover's CPU per request divided by that of the better of the others.
    cpu_ratio: Option<f64>,
    /// handover's requests per second divided by those of the better of the others.
    rate_ratio: Option<f64>,
}

/// Compares and prints.
pub(crate) fn run(options: &Options, json: bool) -> Result<()> {
    let (origin, echo) = own_origin()?;
    let setting = Setting { certificates: certificates::of_both_kinds(), ..Setting::of(origin, echo) };
    let kinds = options.common.kinds();
    let mut peers = Vec::new();
    for kind in &kinds {
        eprintln!("{}", kind.version(&options.common));
        peers.push((*kind, Peer::start(*kind, &options.common, &setting)?));
    }
    let mut tables = Vec::new();
    for scenario in &SCENARIOS {
        if options.scenario.as_ref().is_none_or(|wanted| scenario.name.contains(wanted)) {
            tables.push(compare(options, scenario, &peers)?);
        }
    }
    if json {
        return print_json(&tables);
    }
    tables.iter().for_each(print);
    Ok(())
}

fn compare(options: &Options, scenario: &Scenario, peers: &[(Kind, Peer)]) -> Result<Table> {
    let mut turns: Vec<Vec<Turn>> = vec![Vec::new(); peers.len()];
    for round in 1..=options.rounds {
        for ((_, peer), turns) in peers.iter().zip(&mut turns) {
            let turn = turn(options, scenario, peer)?;
            eprintln!(
                "{} · round {round} · {:<10} {:>8.0} requests/s {:>6.2} us CPU/request  p99 {} us  failures {}",
                scenario.name,
                peer.name,
                turn.requests_per_second,
                turn.cpu_us_per_request,
                turn.p99_us,
                turn.failures
            );
            turns.push(turn);
        }
    }
    let lines: Vec<(Kind, Line)> = peers
        .iter()
        .zip(turns)
        .map(|((kind, peer), turns)| {
            let line = Line {
                proxy: peer.name.clone(),
                median_requests_per_second: median(turns.iter().map(|turn| turn.requests_per_second)),
                median_cpu_us_per_request: median(turns.iter().map(|turn| turn.cpu_us_per_request)),
                turns,
            };
            (*kind, line)
        })
        .collect();
    let ours = lines.iter().find(|(kind, _)| *kind == Kind::Handover).map(|(_, line)| line);
    let others = || lines.iter().filter(|(kind, _)| *kind != Kind::Handover).map(|(_, line)| line);
    let best_cpu = others().map(|line| line.median_cpu_us_per_request).min_by(f64::total_cmp);
    let best_rate = others().map(|line| line.median_requests_per_second).max_by(f64::total_cmp);
    Ok(Table {
        scenario: scenario.name,
        cpu_ratio: ours.zip(best_cpu).map(|(line, best)| line.median_cpu_us_per_request / best),
        rate_ratio: ours.zip(best_rate).map(|(line, best)| line.median_requests_per_second / best),
        lines: lines.into_iter().map(|(_, line)| line).collect(),
    })
}

fn turn(options: &Options, scenario: &Scenario, peer: &Peer) -> Result<Turn> {
    let (target, threads) = match scenario.tls {
        Some(_) => (peer.https(), options.load_threads * 2),
        None => (peer.http(), options.load_threads),
    };
    let mix = |seconds| {
        let connections = if scenario.fresh { 0 } else { options.connections };
        let fresh_loop = if scenario.fresh { options.connections } else { 0 };
        Mix {
            path: scenario.path.to_owned(),
            keepalive: connections,
            fresh_loop,
            threads,
            tls: scenario.tls.map(|(suite, _)| suite),
            host: scenario.tls.map_or("localhost", |(_, name)| name).to_owned(),
            ..Mix::quiet(target, seconds)
        }
    };
    load::run(&mix(options.warm_up))?;
    let before = peer.cpu();
    let mut turn = if options.wrk && scenario.tls.is_none() {
        wrk(options, scenario, peer)?
    } else {
        let report = load::run(&mix(options.seconds))?;
        let part = report.parts.values().next().ok_or("no load")?;
        Turn {
            requests_per_second: report.rate(),
            cpu_us_per_request: 0.0,
            p50_us: part.latency_us.p50,
            p99_us: part.latency_us.p99,
            failures: part.failures.values().sum(),
        }
    };
    let cpu_us = (peer.cpu() - before).as_secs_f64() * 1e6;
    turn.cpu_us_per_request = cpu_us / (turn.requests_per_second * options.seconds);
    Ok(turn)
}

/// A turn with wrk, which reports no more than it prints.
fn wrk(options: &Options, scenario: &Scenario, peer: &Peer) -> Result<Turn> {
    let mut command = Command::new("wrk");
    command.arg(format!("-t{}", options.load_threads)).arg(format!("-c{}", options.connections));
    command.arg(format!("-d{}s", options.seconds)).arg("--latency");
    if scenario.fresh {
        command.args(["-H", "Connection: close"]);
    }
    let output = command.arg(format!("http://{}{}", peer.http(), scenario.path)).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let after = |label: &str| {
        let rest = text.lines().find_map(|line| line.trim().strip_prefix(label))?;
        rest.split_whitespace().next().map(str::to_owned)
    };
    let rate = after("Requests/sec:").and_then(|rate| rate.parse().ok());
    let errors = text.lines().any(|line| line.contains("Socket errors") || line.contains("Non-2xx"));
    Ok(Turn {
        requests_per_second: rate.ok_or_else(|| format!("wrk said:\n{text}"))?,
        cpu_us_per_request: 0.0,
        p50_us: after("50%").as_deref().map_or(0, microseconds),
        p99_us: after("99%").as_deref().map_or(0, microseconds),
        failures: u64::from(errors),
    })
}

/// `1.23ms` → 1230.
fn microseconds(text: &str) -> u64 {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = match &text[digits.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        _ => 1.0,
    };
    let seconds = digits.parse::<f64>().unwrap_or_default() * seconds;
    std::time::Duration::try_from_secs_f64(seconds)
        .map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

/// The middle value, or the mean of the two middle ones.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => f64::NAN,
        (length, middle) if length % 2 == 1 => values[middle],
        (_, middle) => f64::midpoint(values[middle - 1], values[middle]),
    }
}

fn print(table: &Table) {
    println!("\n### {}\n", table.scenario);
    println!("| proxy | requests/s | CPU per request | CPU, each turn | p99 |");
    println!("|---|---:|---:|---|---:|");
    for line in &table.lines {
        let turns: Vec<String> =
            line.turns.iter().map(|turn| format!("{:.2}", turn.cpu_us_per_request)).collect();
        println!(
            "| {} | {:.0} | {:.2} µs | {} | {:.0} µs |",
            line.proxy,
            line.median_requests_per_second,
            line.median_cpu_us_per_request,
            turns.join(" "),
            median(line.turns.iter().map(|turn| f64::from(u32::try_from(turn.p99_us).unwrap_or(u32::MAX))))
        );
    }
    let failures: u64 = table.lines.iter().flat_map(|line| &line.turns).map(|turn| turn.failures).sum();
    if let (Some(cpu), Some(rate)) = (table.cpu_ratio, table.rate_ratio) {
        println!(
            "\nhandover against the better of the others: CPU per request {cpu:.2}, requests per second {rate:.2}"
        );
    }
    println!("\nfailed requests in all turns: {failures}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
    }

    #[test]
    fn times_of_wrk_are_read() {
        assert_eq!(microseconds("1.50ms"), 1500);
        assert_eq!(microseconds("12.00us"), 12);
        assert_eq!(microseconds("2.00s"), 2_000_000);
    }
}
