//! Programs that are restarted, swapped and deployed under load: what fails, how long the longest wait is, what it costs to
//! supervise many.
//!
//! | what | how |
//! |---|---|
//! | `restarts` | gunicorn and Node.js are restarted again and again under new connections at a fixed rate and kept ones: behind the proxy, and on the socket that they share with the next copy; beside that what people do without handover: stop it, start it again |
//! | `swaps` | a program that needs two seconds to start, and cannot run twice, swapped stop-first under the same load |
//! | `back` | from asking for a rollback to a warm slot to the first answer of it |
//! | `idle` | CPU time and memory of the supervisor with many programs that do nothing |

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use handover_testkit::http::{self, Connection};
use handover_testkit::servers::{self, toml};
use handover_testkit::{Deadline, Handover, Port, Process, Signal, Workspace, proc};
use serde::Serialize;
use serde_json::Value;

use crate::compare::median;
use crate::latency::ms;
use crate::load::{self, Mix, Report};
use crate::{Result, print_json};

/// Load before the first change and after the last one.
const MARGIN: Duration = Duration::from_secs(2);
/// What a client waits for at most: a swap must be over by then.
const LIMIT_MS: u64 = 20_000;
/// How long an answer of another version is looked for.
const LOOK: Duration = Duration::from_secs(10);
/// How long the program that is swapped needs to start.
const SLOW_START_MS: &str = "2000";
/// How long many idle programs are watched.
const WATCH: Duration = Duration::from_secs(30);

/// How to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// The handover binary.
    #[arg(long, default_value = "target/dist/handover")]
    handover: PathBuf,
    /// What to measure: restarts, swaps, back, idle; all of it if nothing is named.
    what: Vec<What>,
    /// How many restarts, swaps or rollbacks.
    #[arg(long, default_value_t = 20)]
    count: u32,
    /// New connections a second.
    #[arg(long, default_value_t = 500)]
    fresh_rate: usize,
    /// Kept connections.
    #[arg(long, default_value_t = 64)]
    keepalive: usize,
    /// Milliseconds that those rest between two requests.
    #[arg(long, default_value_t = 100)]
    pause_ms: u64,
    /// Idle programs.
    #[arg(long, default_value_t = 100)]
    programs: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Restarts,
    Swaps,
    Back,
    Idle,
}

/// What came of a load while something was changed again and again.
#[derive(Debug, Serialize)]
struct Line {
    what: String,
    changes: u32,
    /// How each of them ended.
    outcomes: BTreeMap<String, u32>,
    /// From asking to the answer, in milliseconds.
    took_ms: f64,
    exchanges: u64,
    failures: String,
    /// Kept connections that were closed between two requests.
    closed: u64,
    p50_ms: f64,
    p99_ms: f64,
    longest_ms: f64,
    /// What handover itself counted as cut, all changes together.
    told: u64,
    /// And as closed by the program itself, after it was asked to end.
    told_closed: u64,
}

/// Runs and prints.
pub(crate) fn run(options: &Options, json: bool) -> Result<()> {
    let wanted = |what| options.what.is_empty() || options.what.contains(&what);
    let mut lines = Vec::new();
    if wanted(What::Restarts) {
        for server in ["gunicorn", "node"] {
            for way in [Way::Proxy, Way::Socket, Way::Plain] {
                lines.extend(restarts(options, server, way)?);
            }
        }
    }
    if wanted(What::Swaps) {
        lines.push(swaps(options)?);
    }
    if json {
        print_json(&lines)?;
    } else if !lines.is_empty() {
        print(&lines);
    }
    if wanted(What::Back) {
        back(options)?;
    }
    if wanted(What::Idle) {
        idle(options)?;
    }
    Ok(())
}

fn print(lines: &[Line]) {
    println!(
        "| | changes | took | exchanges | failures | closed | told: cut, by itself | p50 | p99 | longest |"
    );
    println!("|---|---:|---:|---:|---|---:|---:|---:|---:|---:|");
    for line in lines {
        println!(
            "| {} | {} | {:.0} ms | {} | {} | {} | {}, {} | {:.2} ms | {:.1} ms | {:.0} ms |",
            line.what,
            line.changes,
            line.took_ms,
            line.exchanges,
            line.failures,
            line.closed,
            line.told,
            line.told_closed,
            line.p50_ms,
            line.p99_ms,
            line.longest_ms
        );
    }
}

/// How requests come to a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Proxy,
    Socket,
    /// Without handover.
    Plain,
}

/// handover with one program in `app/`, reached at its port.
struct Scene {
    handover: Handover,
    port: Port,
    /// Its files last as long as it does.
    _workspace: Workspace,
}

impl Scene {
    fn start(options: &Options, workspace: Workspace, way: Way, table: &str) -> Self {
        let port = Port::claim();
        let text = configuration(&port, way, table);
        let handover = Handover::of(&options.handover, &workspace).config(text).start();
        let scene = Self { handover, port, _workspace: workspace };
        scene.wait_for("");
        scene
    }

    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Waits until answers begin with this.
    fn wait_for(&self, version: &str) {
        let deadline = Deadline::after(LOOK);
        while !asks(self.address()).is_ok_and(|text| text.starts_with(version)) && !deadline.passed() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks for a change and waits for its answer.
    fn change(&self, path: &str) -> Value {
        let (_, answer) = self.handover.control.post(path, &[]);
        handover_testkit::operation_of(&answer).clone()
    }
}

fn asks(address: SocketAddr) -> std::io::Result<String> {
    let mut connection = Connection::try_open(address)?;
    Ok(connection.try_get("/")?.text())
}

fn configuration(port: &Port, way: Way, table: &str) -> String {
    let address = port.address();
    match way {
        Way::Socket => format!("[program.app]\nlisten = [\"{address}\"]\n{table}"),
        Way::Proxy | Way::Plain => format!(
            "[listeners.web]\naddress = \"{address}\"\n[[routes]]\nprogram = \"app\"\n[program.app]\n{table}"
        ),
    }
}

fn mix(options: &Options, target: SocketAddr, seconds: f64) -> Mix {
    Mix {
        path: "/".to_owned(),
        fresh_rate: options.fresh_rate,
        keepalive: options.keepalive,
        pause_ms: options.pause_ms,
        limit_ms: LIMIT_MS,
        ..Mix::quiet(target, seconds)
    }
}

/// Puts load on `target` and makes a change every so often: the load's report, each change's operation, and what it took.
fn under_load(
    options: &Options,
    target: SocketAddr,
    every: Duration,
    mut change: impl FnMut(u32) -> Value,
) -> Result<(Report, Vec<Value>, Vec<f64>)> {
    let seconds = (every * options.count + 2 * MARGIN).as_secs_f64();
    let running = load::start(&mix(options, target, seconds));
    let first = Instant::now() + MARGIN;
    let (mut operations, mut took) = (Vec::new(), Vec::new());
    for number in 0..options.count {
        std::thread::sleep((first + every * number).saturating_duration_since(Instant::now()));
        let asked = Instant::now();
        operations.push(change(number));
        took.push(asked.elapsed().as_secs_f64() * 1000.0);
    }
    Ok((running.finish()?, operations, took))
}

fn line(what: String, report: &Report, operations: &[Value], took: &[f64]) -> Line {
    let mut outcomes = BTreeMap::new();
    let (mut told, mut told_closed) = (0, 0);
    for operation in operations {
        let outcome = operation.get("outcome").and_then(Value::as_str).unwrap_or("none");
        *outcomes.entry(outcome.to_owned()).or_default() += 1;
        let losses = operation.get("losses").and_then(Value::as_object);
        told += losses.into_iter().flat_map(|losses| losses.values()).filter_map(Value::as_u64).sum::<u64>();
        told_closed +=
            operation.pointer("/program/closed_by_program").and_then(Value::as_u64).unwrap_or_default();
    }
    let worst = |of: fn(&load::Latency) -> u64| report.parts.values().map(|part| of(&part.latency_us)).max();
    let changes = u32::try_from(operations.len()).unwrap_or(u32::MAX);
    eprintln!("{what}: {outcomes:?}");
    Line {
        what,
        changes,
        outcomes,
        took_ms: median(took.iter().copied()),
        exchanges: report.ok(),
        failures: load::counts(&report.failures()),
        closed: report.parts.values().map(|part| part.closed_idle).sum(),
        p50_ms: ms(worst(|latency| latency.p50).unwrap_or_default()),
        p99_ms: ms(worst(|latency| latency.p99).unwrap_or_default()),
        longest_ms: ms(worst(|latency| latency.max).unwrap_or_default()),
        told,
        told_closed,
    }
}

/// A real server; `None` if it is not installed.
fn server(workspace: &Workspace, name: &str) -> Option<(Vec<String>, &'static str)> {
    match name {
        "gunicorn" => Some((servers::gunicorn(workspace, "app", "bench")?, "ready = \"notify\"\n")),
        _ => Some((servers::node(workspace, "app", "bench")?, "")),
    }
}

fn restarts(options: &Options, name: &str, way: Way) -> Result<Option<Line>> {
    let workspace = Workspace::new();
    let Some((command, more)) = server(&workspace, name) else { return Ok(None) };
    let every = Duration::from_secs(3);
    let what = format!(
        "{name}, {}",
        match way {
            Way::Proxy => "behind the proxy",
            Way::Socket => "on its own socket",
            Way::Plain => "stopped and started by hand",
        }
    );
    if way == Way::Plain {
        let (report, operations, took) = plain(options, &workspace, name, &command, every)?;
        return Ok(Some(line(what, &report, &operations, &took)));
    }
    let table = format!("command = {}\ndirectory = \"app\"\n{more}", toml(&command));
    let scene = Scene::start(options, workspace, way, &table);
    let (report, operations, took) =
        under_load(options, scene.address(), every, |_| scene.change("/v1/programs/app/restart"))?;
    Ok(Some(line(what, &report, &operations, &took)))
}

/// The same server without handover: it binds its port itself, is asked to end, and is started again.
fn plain(
    options: &Options,
    workspace: &Workspace,
    name: &str,
    command: &[String],
    every: Duration,
) -> Result<(Report, Vec<Value>, Vec<f64>)> {
    let port = Port::claim();
    let address = port.address();
    let start = || {
        let mut words = command.to_vec();
        let mut process = if name == "gunicorn" {
            words.extend(["--bind".to_owned(), address.to_string()]);
            Command::new(&words[0])
        } else {
            let text = std::fs::read_to_string(workspace.path("app/server.js")).unwrap_or_default();
            let own = format!("{{ port: {}, host: \"127.0.0.1\" }}", address.port());
            let text = text.replace("{ fd: Number(process.argv[2]) }", &own);
            words = vec!["node".to_owned(), workspace.write("app/plain.js", text).display().to_string()];
            Command::new("node")
        };
        process.args(&words[1..]).current_dir(workspace.path("app"));
        let started = Process::start(process);
        let deadline = Deadline::after(LOOK);
        while asks(address).is_err() && !deadline.passed() {
            std::thread::sleep(Duration::from_millis(5));
        }
        started
    };
    let mut process = start();
    under_load(options, address, every, |_| {
        process.signal(Signal::TERM);
        process.wait();
        process = start();
        serde_json::json!({ "outcome": "done" })
    })
}

fn any_program(options: &Options, words: &[&str]) -> Result<Vec<String>> {
    let binary = options.handover.to_str().ok_or("a path in UTF-8")?;
    Ok(servers::any_program(binary, words))
}

/// A program that cannot run twice and takes its time to start.
fn swaps(options: &Options) -> Result<Line> {
    let workspace = Workspace::new();
    let lock = workspace.path("lock").display().to_string();
    let command = any_program(options, &["notify", "lock", &lock, "starts-slowly", SLOW_START_MS])?;
    let table = format!("command = {}\nready = \"notify\"\nswap = \"stop-first\"\n", toml(&command));
    let scene = Scene::start(options, workspace, Way::Proxy, &table);
    let every = Duration::from_secs(6);
    let (report, operations, took) =
        under_load(options, scene.address(), every, |_| scene.change("/v1/programs/app/restart"))?;
    Ok(line("stop-first, two seconds to start".to_owned(), &report, &operations, &took))
}

/// From asking for the slot before to its first answer.
fn back(options: &Options) -> Result<()> {
    let workspace = Workspace::new();
    for slot in ["a", "b"] {
        workspace.write(format!("releases/{slot}/version"), slot);
    }
    let command = any_program(options, &["notify"])?;
    let table = format!(
        "command = {}\nready = \"notify\"\nslots = [\"releases/a\", \"releases/b\"]\nwarm = \"10m\"\n",
        toml(&command)
    );
    let scene = Scene::start(options, workspace, Way::Proxy, &table);
    let (mut answered, mut seen) = (Vec::new(), Vec::new());
    for _ in 0..options.count {
        scene.change("/v1/programs/app/deploy");
        let before = asks(scene.address())?;
        let asked = Instant::now();
        std::thread::scope(|scope| {
            let answer = scope.spawn(|| {
                scene.change("/v1/programs/app/rollback");
                asked.elapsed()
            });
            let deadline = Deadline::after(LOOK);
            while asks(scene.address()).is_ok_and(|text| text == before) && !deadline.passed() {}
            seen.push(asked.elapsed().as_secs_f64() * 1000.0);
            answered.extend(answer.join().map(|took| took.as_secs_f64() * 1000.0));
        });
    }
    let longest = |all: &[f64]| all.iter().copied().fold(0.0, f64::max);
    println!(
        "rollback to a warm slot, {} times: first answer of it after {:.1} ms (longest {:.1}), answered after {:.1} ms ({:.1})",
        seen.len(),
        median(seen.iter().copied()),
        longest(&seen),
        median(answered.iter().copied()),
        longest(&answered)
    );
    Ok(())
}

/// Many programs that do nothing.
fn idle(options: &Options) -> Result<()> {
    let workspace = Workspace::new();
    let text: String = (0..options.programs)
        .map(|number| format!("[program.p{number}]\ncommand = [\"tail\", \"-f\", \"/dev/null\"]\n"))
        .collect();
    let port = Port::claim();
    let text = format!(
        "{text}[listeners.web]\naddress = \"{}\"\n[[routes]]\nfixed = {{ body = \"well\" }}\n",
        port.address()
    );
    let handover = Handover::of(&options.handover, &workspace).config(text).start();
    let _ = http::get(port.address(), "/");
    let everybody = Deadline::after(LOOK);
    while proc::tree(handover.pid()).len() < options.programs + 2 && !everybody.passed() {
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(MARGIN);
    let cpu = || proc::stat(handover.pid()).map(|stat| stat.cpu).unwrap_or_default();
    let before = cpu();
    std::thread::sleep(WATCH);
    let used = cpu().saturating_sub(before);
    println!(
        "{} idle programs: {:.3} % of a core, {:.1} MiB in the supervisor; {} processes",
        options.programs,
        used.as_secs_f64() / WATCH.as_secs_f64() * 100.0,
        mebibytes(handover.pid()),
        proc::tree(handover.pid()).len()
    );
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
fn mebibytes(pid: u32) -> f64 {
    proc::memory(pid).resident as f64 / 1_048_576.0
}
