//! Many idle connections while the binary is upgraded: for how long they stand still, how soon the old process is gone, how
//! many of them notice.
//!
//! Each connection has made one request, which the proxy answered itself, and makes another one after the upgrade. One
//! that the proxy ended meanwhile is `closed`; what goes wrong with the second request is a failure.
//!
//! Time runs from the moment before the upgrade is asked for. An old process is one that was there before and is no
//! longer there at the end; the process that was started first stays, with handover and HAProxy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use handover_testkit::proc;
use serde::Serialize;
use tokio::task::{JoinSet, LocalSet};

use crate::compare::median;
use crate::failure::Failure;
use crate::load::{Client, Expect, Suite, Tls};
use crate::peers::certificates::{self, ECDSA};
use crate::peers::{Common, Peer, Setting, own_origin};
use crate::{Error, Result, print_json};

/// Connections that are opened, or make their request, at the same time.
const AT_ONCE: usize = 64;
/// How long every single wait of a client may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long an old process may take to go; where it waits for its connections, longer would say nothing new.
const GONE_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// How many connections.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// How many upgrades, each with all connections.
    #[arg(long, default_value_t = 5)]
    count: usize,
    /// Over TLS 1.3.
    #[arg(long)]
    tls: bool,
}

#[derive(Debug, Default, Serialize)]
struct Line {
    proxy: String,
    connections: usize,
    /// For how long connections stood still, as handover says.
    freeze_ms: Vec<f64>,
    /// From asking until the old process was gone; none where it was not within ten seconds.
    gone_ms: Vec<f64>,
    /// From asking to the command's own answer; only handover answers.
    answer_ms: Vec<f64>,
    /// Connections that were closed, all upgrades together.
    closed: usize,
    /// Second requests that failed.
    failures: BTreeMap<&'static str, u64>,
    /// Resident memory of the processes that serve: before the first upgrade, and after each.
    resident_kib: Vec<u64>,
}

/// Runs and prints.
pub(crate) fn run(options: &Options, json: bool) -> Result<()> {
    let (origin, echo) = own_origin()?;
    let mut lines = Vec::new();
    for kind in options.common.kinds() {
        let certificates = if options.tls { certificates::of_both_kinds() } else { Default::default() };
        let setting = Setting { certificates, ..Setting::of(origin, echo) };
        let mut peer = Peer::start(kind, &options.common, &setting)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let connections = options.connections.min(kind.most_connections());
        if connections < options.connections {
            eprintln!("{}: {connections} connections only, for its own limit", peer.name);
        }
        let line = LocalSet::new().block_on(&runtime, one(options, connections, &mut peer))?;
        eprintln!("{line:?}");
        lines.push(line);
    }
    if json {
        return print_json(&lines);
    }
    println!(
        "| proxy | connections | stood still, median | worst | old process gone, median | worst | answered, median | closed | failures | memory before | after the first | after the last |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|");
    for line in &lines {
        print(line);
    }
    Ok(())
}

fn print(line: &Line) {
    let time = |all: &[f64], pick: fn(&[f64]) -> f64| match pick(all) {
        ms if ms.is_nan() => "–".to_owned(),
        ms => format!("{ms:.1} ms"),
    };
    let middle = |all: &[f64]| median(all.iter().copied());
    let worst = |all: &[f64]| all.iter().copied().max_by(f64::total_cmp).unwrap_or(f64::NAN);
    let mib = |at: Option<&u64>| at.map_or_else(|| "–".to_owned(), |kib| format!("{} MiB", kib / 1024));
    println!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        line.proxy,
        line.connections,
        time(&line.freeze_ms, middle),
        time(&line.freeze_ms, worst),
        time(&line.gone_ms, middle),
        time(&line.gone_ms, worst),
        time(&line.answer_ms, middle),
        line.closed,
        crate::load::counts(&line.failures),
        mib(line.resident_kib.first()),
        mib(line.resident_kib.get(1)),
        mib(line.resident_kib.last())
    );
}

async fn one(options: &Options, connections: usize, peer: &mut Peer) -> Result<Line> {
    let tls = options.tls.then(|| Tls::new(Suite::Aes128, false)).transpose()?;
    let mut line = Line { proxy: peer.name.clone(), connections, ..Line::default() };
    let mut clients = Vec::new();
    for number in 0..options.count {
        let missing = connections - clients.len();
        clients.extend(open(peer, tls.as_ref(), missing).await?);
        if number == 0 {
            line.resident_kib.push(resident(peer));
        }
        peer.settle();
        let before: BTreeSet<u32> = peer.serving_pids();
        let asked = Instant::now();
        let (answer, gone) = upgrade(peer, &before, asked)?;
        if let Some(answer) = answer {
            line.answer_ms.push(answer.took_ms);
            line.freeze_ms.extend(answer.freeze_ms);
        }
        line.gone_ms.extend(gone.map(|gone| gone.as_secs_f64() * 1000.0));
        clients = ask(clients, &mut line).await;
        line.resident_kib.push(resident(peer));
    }
    Ok(line)
}

/// What handover says of an upgrade.
struct Answer {
    took_ms: f64,
    freeze_ms: Option<f64>,
}

/// Upgrades in a thread of its own, and watches the old processes meanwhile.
fn upgrade(
    peer: &mut Peer,
    before: &BTreeSet<u32>,
    asked: Instant,
) -> Result<(Option<Answer>, Option<Duration>)> {
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let answer = peer.upgrade();
            (answer, asked.elapsed())
        });
        let gone = loop {
            if before.iter().all(|pid| !proc::alive(*pid)) {
                break Some(asked.elapsed());
            }
            if asked.elapsed() > GONE_LIMIT {
                break None;
            }
            std::thread::sleep(LOOK_EVERY);
        };
        let (answer, took) = asking.join().map_err(|_| Error::from("the upgrade panicked"))?;
        Ok((answer?.map(|operation| of(&operation, took)), gone))
    })
}

fn of(operation: &serde_json::Value, took: Duration) -> Answer {
    let freeze_ms = operation["upgrade"]["freeze_us"].as_f64().map(|us| us / 1000.0);
    Answer { took_ms: took.as_secs_f64() * 1000.0, freeze_ms }
}

fn resident(peer: &Peer) -> u64 {
    peer.serving_pids().iter().map(|pid| proc::memory(*pid).resident / 1024).sum()
}

const REQUEST: &[u8] = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Opens connections and makes one request on each.
async fn open(peer: &Peer, tls: Option<&Tls>, count: usize) -> Result<Vec<Client>> {
    let target = if tls.is_some() { peer.https() } else { peer.http() };
    let (mut tasks, mut clients) = (JoinSet::new(), Vec::with_capacity(count));
    for number in 0..count + AT_ONCE {
        if number < count {
            let tls = tls.cloned();
            tasks.spawn_local(async move {
                let mut client = Client::connect(target, tls.as_ref().map(|tls| (tls, ECDSA)), LIMIT).await?;
                client.exchange(REQUEST, Expect::Any).await.map(|_| client)
            });
        }
        if number >= AT_ONCE
            && let Some(opened) = tasks.join_next().await
        {
            clients.push(opened?.map_err(|failure: Failure| {
                format!("{}: a connection could not be opened: {}", peer.name, failure.name())
            })?);
        }
    }
    Ok(clients)
}

/// Makes another request on each connection that is still open.
async fn ask(clients: Vec<Client>, line: &mut Line) -> Vec<Client> {
    let (mut tasks, mut left) = (JoinSet::new(), Vec::with_capacity(clients.len()));
    let mut waiting = clients.into_iter();
    loop {
        while tasks.len() < AT_ONCE
            && let Some(mut client) = waiting.next()
        {
            tasks.spawn_local(async move {
                if !client.rest(LOOK_EVERY).await {
                    return Ok(None);
                }
                client.exchange(REQUEST, Expect::Any).await.map(|_| Some(client))
            });
        }
        match tasks.join_next().await {
            None => return left,
            Some(Ok(Ok(Some(client)))) => left.push(client),
            Some(Ok(Ok(None))) => line.closed += 1,
            Some(Ok(Err(failure))) => *line.failures.entry(failure.name()).or_insert(0) += 1,
            Some(Err(_)) => *line.failures.entry("panicked").or_insert(0) += 1,
        }
    }
}
