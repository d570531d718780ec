//! One certificate of many is renewed: from asking for the reload to a handshake that shows it, and memory afterwards.
//!
//! Time runs from the moment before the reload is asked for. Two clients shake hands with the renewed name again and
//! again, with a short rest; a third one shakes hands with the other names, which must go on being served. A handshake
//! that fails is counted.
//!
//! Memory is that of all of a proxy's processes, once those that a reload leaves behind are gone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use handover_testkit::{Authority, Deadline, TlsClient};
use serde::Serialize;

use crate::compare::median;
use crate::latency::ms;
use crate::peers::{Common, Peer, Setting, certificates, own_origin};
use crate::{Result, print_json};

/// Clients that look for the renewed certificate.
const CLIENTS: usize = 2;
/// How long each client rests between two handshakes; the new certificate is seen that much too late at most.
const REST: Duration = Duration::from_millis(1);
/// How long the clients go on after the first handshake with the new certificate.
const AFTER: Duration = Duration::from_millis(300);
/// A reload that shows no effect within this time is an error.
const LONGEST: Duration = Duration::from_secs(120);

/// How to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Reloads of each, each with one renewed certificate.
    #[arg(long, default_value_t = 10)]
    count: u64,
    /// Numbers of certificates.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 10_000])]
    certificates: Vec<usize>,
    /// Reloads of handover alone after those, to see whether its memory grows.
    #[arg(long, default_value_t = 40)]
    more: u64,
}

#[derive(Debug, Serialize)]
struct Line {
    proxy: String,
    certificates: usize,
    /// From asking to the first handshake that showed the new certificate, each time.
    new_certificate_ms: Vec<f64>,
    /// From asking to the command's own answer, each time; only handover answers.
    answer_ms: Vec<f64>,
    /// Handshakes that failed, all reloads together.
    failed: u64,
    /// Handshakes that showed the old certificate and began after one had shown the new one.
    stale: u64,
    /// Resident memory before the first reload and after each.
    resident_kib: Vec<u64>,
}

/// What the clients of one reload share.
struct Watch {
    began: Instant,
    wanted: u64,
    stop: AtomicBool,
    /// Microseconds after `began`; `u64::MAX` before there was one.
    first_new: AtomicU64,
    failed: AtomicU64,
    stale: AtomicU64,
}

/// Runs and prints.
pub(crate) fn run(options: &Options, json: bool) -> Result<()> {
    let (origin, echo) = own_origin()?;
    let authority = Authority::new("bench");
    let mut lines = Vec::new();
    for count in &options.certificates {
        let certificates = certificates::many(&authority, (*count).max(2));
        for kind in options.common.kinds() {
            let certificates = Arc::clone(&certificates);
            let setting = Setting { certificates, ..Setting::of(origin, echo) };
            let mut peer = Peer::start(kind, &options.common, &setting)?;
            let line = one(options, &authority, &mut peer, *count)?;
            eprintln!("{line:?}");
            lines.push(line);
        }
    }
    if json {
        return print_json(&lines);
    }
    print(&lines);
    println!("\nCaddy: not measured, for it is not in Debian.");
    Ok(())
}

fn print(lines: &[Line]) {
    println!(
        "| proxy | certificates | asked → new certificate, median | worst | command answered, median | failed handshakes | old after new | RSS before | after the first reload | after the last |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for line in lines {
        let worst = line.new_certificate_ms.iter().copied().max_by(f64::total_cmp).unwrap_or(f64::NAN);
        let answer = match median(line.answer_ms.iter().copied()) {
            ms if ms.is_nan() => "–".to_owned(),
            ms => format!("{ms:.1} ms"),
        };
        let mib = |at: Option<&u64>| at.map_or_else(|| "–".to_owned(), |kib| format!("{} MiB", kib / 1024));
        println!(
            "| {} | {} | {:.1} ms | {worst:.1} ms | {answer} | {} | {} | {} | {} | {} |",
            line.proxy,
            line.certificates,
            median(line.new_certificate_ms.iter().copied()),
            line.failed,
            line.stale,
            mib(line.resident_kib.first()),
            mib(line.resident_kib.get(1)),
            mib(line.resident_kib.last())
        );
    }
}

fn one(options: &Options, authority: &Authority, peer: &mut Peer, count: usize) -> Result<Line> {
    let processes = peer.processes();
    let mut line = Line {
        proxy: peer.name.clone(),
        certificates: count,
        new_certificate_ms: Vec::new(),
        answer_ms: Vec::new(),
        failed: 0,
        stale: 0,
        resident_kib: vec![peer.memory().resident / 1024],
    };
    let more = if peer.answers() { options.more } else { 0 };
    for number in 0..options.count + more {
        // A name in the middle, another one each time.
        let at = (count / 2 + usize::try_from(number)?) % count;
        let pair = authority.pair(&[&format!("n{at}.test")]);
        peer.settle();
        peer.put(at, &pair)?;
        renew(peer, at, pair.serial, &mut line)?;
        let deadline = Deadline::usual();
        while peer.processes() > processes && !deadline.passed() {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        line.resident_kib.push(peer.memory().resident / 1024);
    }
    Ok(line)
}

/// One reload, watched.
fn renew(peer: &mut Peer, at: usize, serial: u64, line: &mut Line) -> Result<()> {
    let watch = Watch {
        began: Instant::now(),
        wanted: serial,
        stop: AtomicBool::new(false),
        first_new: AtomicU64::new(u64::MAX),
        failed: AtomicU64::new(0),
        stale: AtomicU64::new(0),
    };
    let address = peer.https();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| watch.look(address, at));
        }
        scope.spawn(|| watch.look_elsewhere(address, line.certificates, at));
        let asked = watch.now_us();
        let done = peer.reload().and_then(|answer| {
            line.answer_ms.extend(answer.map(|_| ms(watch.now_us() - asked)));
            watch.wait_for_new(peer)
        });
        if done.is_ok() {
            std::thread::sleep(AFTER);
        }
        watch.stop.store(true, Ordering::Release);
        line.new_certificate_ms.push(ms(done?.saturating_sub(asked)));
        Ok::<_, crate::Error>(())
    })?;
    line.failed += watch.failed.load(Ordering::Acquire);
    line.stale += watch.stale.load(Ordering::Acquire);
    Ok(())
}

impl Watch {
    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Shakes hands with the renewed name.
    fn look(&self, address: SocketAddr, at: usize) {
        let client = TlsClient::curious(&format!("n{at}.test"));
        while !self.stop.load(Ordering::Acquire) {
            std::thread::sleep(REST);
            let sent = self.now_us();
            match client.try_connect(address) {
                Ok(one) if one.served.serial == self.wanted => {
                    self.first_new.fetch_min(self.now_us(), Ordering::AcqRel);
                }
                Ok(_) if sent > self.first_new.load(Ordering::Acquire) => {
                    self.stale.fetch_add(1, Ordering::AcqRel);
                }
                Ok(_) => {}
                Err(_) => drop(self.failed.fetch_add(1, Ordering::AcqRel)),
            }
        }
    }

    /// Shakes hands with the other names, one after the other.
    fn look_elsewhere(&self, address: SocketAddr, count: usize, at: usize) {
        let client = TlsClient::curious("n0.test");
        for number in (0..count).cycle().filter(|number| *number != at) {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            std::thread::sleep(REST * 5);
            let name = format!("n{number}.test");
            let shown = client.clone().name(&name).try_connect(address);
            if !shown.is_ok_and(|one| one.served.names == [name]) {
                self.failed.fetch_add(1, Ordering::AcqRel);
            }
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
        Err(format!("{}: no new certificate within {LONGEST:?}\n{}", peer.name, peer.complaints()).into())
    }
}
