//! Memory and processes during many reloads with WebSockets held: do the old generations go?

use handover_testkit::websocket::WebSocket;
use serde::Serialize;

use crate::peers::{Common, Peer, Setting, own_origin};
use crate::{Result, print_json};

/// How to watch.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// How many reloads.
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// WebSockets that are held meanwhile; as many are opened anew over the reloads, so that each old generation is
    /// held by some, where a proxy works that way.
    #[arg(long, default_value_t = 100)]
    websockets: usize,
    /// Routes.
    #[arg(long, default_value_t = 0)]
    routes: usize,
    /// Sample after this many reloads.
    #[arg(long, default_value_t = 10)]
    sample_every: u64,
}

#[derive(Debug, Clone, Serialize)]
struct Sample {
    reloads: u64,
    processes: usize,
    resident_kib: u64,
    proportional_kib: u64,
}

#[derive(Debug, Serialize)]
struct Line {
    proxy: String,
    samples: Vec<Sample>,
    websockets_cut: usize,
}

/// Runs and prints.
pub(crate) fn run(options: &Options, json: bool) -> Result<()> {
    let (origin, echo) = own_origin()?;
    let mut lines = Vec::new();
    for kind in options.common.kinds() {
        let setting = Setting { routes: options.routes, ..Setting::of(origin, echo) };
        let mut peer = Peer::start(kind, &options.common, &setting)?;
        lines.push(one(options, &mut peer)?);
    }
    if json {
        return print_json(&lines);
    }
    println!("| proxy | reloads | processes | RSS | PSS | WebSockets cut |");
    println!("|---|---:|---:|---:|---:|---:|");
    for line in &lines {
        for sample in &line.samples {
            println!(
                "| {} | {} | {} | {} KiB | {} KiB | {} |",
                line.proxy,
                sample.reloads,
                sample.processes,
                sample.resident_kib,
                sample.proportional_kib,
                line.websockets_cut
            );
        }
    }
    Ok(())
}

fn one(options: &Options, peer: &mut Peer) -> Result<Line> {
    let mut held: Vec<WebSocket> =
        (0..options.websockets).map(|_| WebSocket::open(peer.http(), "/ws")).collect();
    let mut samples = vec![sample(peer, 0)];
    let mut cut = 0;
    for number in 1..=options.count {
        peer.settle();
        peer.write(number + 1)?;
        peer.reload()?;
        peer.wait_for_version(number + 1)?;
        // One goes and another comes, as in life; the newest belongs to the newest generation.
        if !held.is_empty() {
            held.remove(0);
            held.push(WebSocket::open(peer.http(), "/ws"));
        }
        let before = held.len();
        held.retain_mut(|socket| socket.try_echo("still there?").is_ok());
        cut += before - held.len();
        if number % options.sample_every.max(1) == 0 {
            samples.push(sample(peer, number));
            eprintln!("{}: {:?}", peer.name, samples.last());
        }
    }
    Ok(Line { proxy: peer.name.clone(), samples, websockets_cut: cut })
}

fn sample(peer: &Peer, reloads: u64) -> Sample {
    let memory = peer.memory();
    Sample {
        reloads,
        processes: peer.processes(),
        resident_kib: memory.resident / 1024,
        proportional_kib: memory.proportional / 1024,
    }
}
