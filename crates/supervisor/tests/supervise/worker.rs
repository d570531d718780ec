//! A worker that serves one line of text on TCP ports, and misbehaves as its configuration file says.
//!
//! | line | does |
//! |---|---|
//! | `listen NAME ADDRESS` | listens; `ADDRESS` is `IP:PORT` or `unix:PATH` |
//! | `body TEXT` | what a connection is answered, after generation and process ID |
//! | `file PATH` | reads that file too; without it, refuses |
//! | `guarded` / `guard pass` / `guard fail` / `guard hang` / `guard die` | every change is guarded / how a guard ends |
//! | `unreachable` | refuses, as if the file were in a store that cannot be reached |
//! | `reject TEXT` | refuses the file, once for each such line |
//! | `prepare hang` / `prepare die` | never answers / exits |
//! | `commit die` / `commit die-once PATH` | exits when told to commit / only if PATH is not there, which it makes |
//! | `commit orphan-once PATH` | kills the supervisor when told to commit, and then commits; the same condition |
//! | `drain hang` / `losses N` | never says that it has drained / says that N connections were cut |
//! | `stop hang` | does not exit |
//! | `hold NAME ADDRESS` | holds that listener, and accepts nothing from it: it is a program's |
//! | `program JSON` | has that program |
//! | `quiet hang` | never says that nothing is in flight |
//!
//! Actions: `echo`, `fail`, `die`, `orphan`; `carry TEXT` hands TEXT over as carried state, `carried` says what it has of
//! that; `traffic` says where requests to programs go, `kept` how many descriptors it keeps for them; `asked` says what came of the reload that it asks for when told to open log files again; `held` says how many
//! sockets it holds.

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use handover_api::{Change, ChangeKind, Losses, Problem, What};
use handover_handoff::inherit::{self, SUCCESSION_VARIABLE};
use handover_handoff::process::Executable;
use handover_handoff::succession::Door;
use handover_handoff::{Bundle, ChannelError, memfd};
use handover_supervisor::protocol::{
    Address, BindResult, GuardFigures, GuardLimits, ListenerSpec, PROTOCOL_VERSION, Report, Serving,
    Settings, Source, ToSupervisor, ToWorker, Traffic, WorkerChannel,
};
use rustix::event::{PollFd, PollFlags, poll};

use crate::upgrading::{self, Ended, Role};

/// Variable with the path of the configuration file.
pub const CONFIG: &str = "FAKE_CONFIG";
const LIMIT: Duration = Duration::from_secs(20);

struct Candidate {
    number: u64,
    generation: u64,
    text: String,
    bundle: Bundle,
    specs: Vec<ListenerSpec>,
    sockets: Vec<OwnedFd>,
    dry_run: bool,
    carried: Option<OwnedFd>,
}

/// What accepts connections; dropping it stops that.
struct Acceptor {
    stop: Option<std::io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

struct Worker {
    channel: WorkerChannel,
    key: u64,
    candidate: Option<Candidate>,
    serving: Option<Candidate>,
    acceptor: Option<Acceptor>,
    facts: String,
    carried: Option<OwnedFd>,
    held: Vec<(ListenerSpec, OwnedFd)>,
    asked: Option<(bool, String)>,
    traffic: Traffic,
    kept: Option<(String, Vec<OwnedFd>)>,
    mark: String,
    role: Role,
}

pub fn run() -> ExitCode {
    let channel = WorkerChannel::from_socket(inherit::channel().unwrap().unwrap()).unwrap();
    let door = Door::open(Path::new(&std::env::var_os(SUCCESSION_VARIABLE).unwrap())).unwrap();
    let mut worker = Worker {
        channel,
        key: 0,
        candidate: None,
        serving: None,
        acceptor: None,
        facts: String::new(),
        carried: None,
        held: Vec::new(),
        asked: None,
        traffic: Traffic::default(),
        kept: None,
        mark: upgrading::mark(),
        role: Role::Serves,
    };
    loop {
        match worker.channel.recv(None) {
            Ok((message, fds)) => {
                if let Some(code) = worker.hear(message, fds) {
                    return code;
                }
            }
            // Another one serves, or it was not told to.
            Err(ChannelError::Closed) if worker.role != Role::Serves => return ExitCode::SUCCESS,
            Err(ChannelError::Closed) => {
                worker.candidate = None;
                poll(&mut [PollFd::new(&door, PollFlags::IN)], None).unwrap();
                worker.channel = WorkerChannel::from_socket(door.accept().unwrap().unwrap()).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

impl Worker {
    fn say(&self, message: &ToSupervisor, fds: &[BorrowedFd<'_>]) {
        match self.channel.send(message, fds, LIMIT) {
            Ok(()) | Err(ChannelError::Closed) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn hear(&mut self, message: ToWorker, fds: Vec<OwnedFd>) -> Option<ExitCode> {
        match message {
            ToWorker::Welcome { worker, carried, candidate, .. } => {
                self.welcome(worker, candidate, carried.then(|| fds.into_iter().next()).flatten());
            }
            ToWorker::Prepare { candidate, generation, source, dry_run, given_carried, .. } => {
                self.prepare(candidate, generation, source, dry_run, &fds);
                if let Some(candidate) = self.candidate.as_mut().filter(|_| given_carried) {
                    candidate.carried = fds.into_iter().nth(1);
                }
            }
            ToWorker::Bound { candidate, results } => self.bound(candidate, &results, fds),
            ToWorker::Commit { candidate, accept } => {
                if !accept && upgrading::at(&self.mark, "standby") {
                    return None;
                }
                self.commit(candidate, accept);
            }
            ToWorker::Probe { nonce, .. } => {
                upgrading::probe(&self.mark, self.key, nonce, fds.into_iter().next().unwrap());
            }
            ToWorker::HandOver { call, within, peer_pid, .. } => {
                self.acceptor = None;
                self.handed(call, upgrading::give(&self.mark, call, within, peer_pid, fds));
            }
            ToWorker::TakeOver { call, peer_pid } => {
                self.handed(call, upgrading::take(&self.mark, call, peer_pid, fds));
            }
            ToWorker::Abort { .. } => self.candidate = None,
            ToWorker::Drain { call, .. } => self.drain(call),
            ToWorker::Resume { call } => {
                self.role = Role::Serves;
                self.accept();
                self.say(&ToSupervisor::Resumed { call }, &[]);
            }
            ToWorker::Traffic { call, traffic } => {
                self.traffic = *traffic;
                self.say(&ToSupervisor::TrafficSet { call }, &[]);
            }
            ToWorker::AwaitQuiet { .. } if self.says("quiet hang") => {}
            ToWorker::AwaitQuiet { call, .. } => {
                self.say(&ToSupervisor::Quiet { call, left: 0, held: 0, begun: None }, &[]);
            }
            ToWorker::Keep { programs } => self.kept = Some((programs, fds)),
            ToWorker::Action { call, name, body } => self.act(call, &name, &body),
            ToWorker::Report { call, what } => self.report(call, &what),
            ToWorker::Ping { call } => self.say(&ToSupervisor::Pong { call }, &[]),
            ToWorker::Facts { metrics } => self.facts = metrics,
            ToWorker::Guard { call, .. } => self.guard(call),
            ToWorker::Asked { done, detail, .. } => self.asked = Some((done, detail)),
            ToWorker::Hold { listeners } => self.held = listeners.into_iter().zip(fds).collect(),
            ToWorker::EndGuard { .. } => {}
            ToWorker::ReopenLogs => {
                self.say(&ToSupervisor::Ask { call: 7, why: "fake.conf has changed".to_owned() }, &[]);
            }
            ToWorker::CloseListeners => {
                self.acceptor = None;
                self.serving.as_mut().into_iter().for_each(|serving| serving.sockets.clear());
            }
            ToWorker::Stop { .. } if self.says("stop hang") => {}
            ToWorker::Stop { .. } => return Some(ExitCode::SUCCESS),
        }
        None
    }

    fn report(&mut self, call: u64, what: &Report) {
        let body = match what {
            Report::Metrics => format!("fake_facts {}\n", self.facts.lines().count()),
            Report::Connections => "[]".to_owned(),
            Report::ConnectionCount => "7".to_owned(),
            Report::Certificates => String::new(),
            Report::Held => "{}".to_owned(),
        };
        self.say(&ToSupervisor::Reported { call, body }, &[]);
    }

    fn welcome(&mut self, key: u64, candidate: bool, carried: Option<OwnedFd>) {
        if candidate {
            self.role = Role::Candidate;
            if upgrading::at(&self.mark, "hello") {
                return;
            }
        }
        self.carried = carried.or(self.carried.take());
        self.hello(key);
    }

    fn drain(&mut self, call: u64) {
        self.acceptor = None;
        if !self.says("drain hang") {
            let mut losses = Losses::default();
            losses.add("test", self.value("losses").and_then(|n| n.parse().ok()).unwrap_or(0));
            self.say(&ToSupervisor::Drained { call, losses, late: Default::default(), ended: 0 }, &[]);
        }
    }

    fn hello(&mut self, key: u64) {
        let serving = self.serving.as_ref().map(|serving| {
            Box::new(Serving {
                worker: self.key,
                generation: serving.generation,
                listeners: serving.specs.clone(),
                settings: settings(&serving.text),
                summary: vec!["fake".to_owned()],
                accepting: self.acceptor.is_some(),
                version: None,
                held: self.held.iter().map(|(spec, _)| spec.clone()).collect(),
                carried: self.carried.is_some(),
                executable: true,
                programs: self.kept.as_ref().map(|(programs, _)| programs.clone()),
            })
        });
        if serving.is_none() {
            self.key = key;
        }
        let bundle = self.serving.as_ref().map(|serving| serving.bundle.to_memfd().unwrap());
        let sockets = self.serving.iter().flat_map(|serving| &serving.sockets);
        let held = self.held.iter().map(|(_, socket)| socket);
        let carried = self.carried.iter().filter(|_| serving.is_some());
        let executable = Executable::current().unwrap();
        let mut fds: Vec<_> =
            bundle.iter().chain(sockets).chain(held).chain(carried).map(AsFd::as_fd).collect();
        fds.extend(serving.is_some().then_some(executable.as_fd()));
        let kept = self.kept.iter().filter(|_| serving.is_some()).flat_map(|(_, kept)| kept);
        fds.extend(kept.map(AsFd::as_fd));
        let actions =
            ["echo", "fail", "die", "orphan", "carry", "carried", "asked", "held", "traffic", "kept"];
        let actions = actions.map(str::to_owned).to_vec();
        let version = upgrading::version();
        let is_old = self.role == Role::Candidate && self.mark.contains("hello-old");
        self.say(
            &ToSupervisor::Hello {
                protocol: if is_old { 2 } else { PROTOCOL_VERSION },
                oldest: 0,
                version,
                actions,
                serving,
                formats: [1, 1],
                threads: upgrading::THREADS,
                movable: true,
            },
            &fds,
        );
    }

    fn prepare(&mut self, number: u64, generation: u64, source: Source, dry_run: bool, fds: &[OwnedFd]) {
        let mut bundle = Bundle::new();
        match source {
            Source::Disk => {
                let path = PathBuf::from(std::env::var_os(CONFIG).unwrap());
                bundle.insert_top(&path, Arc::from(std::fs::read(&path).unwrap())).unwrap();
            }
            Source::Bundle => bundle = Bundle::from_memfd(&fds[0]).unwrap(),
        }
        let text = String::from_utf8(bundle.top_bytes().unwrap().to_vec()).unwrap();
        let mut problems: Vec<Problem> = values(&text, "reject").map(Problem::new).collect();
        for path in values(&text, "file").map(PathBuf::from) {
            match (source, std::fs::read(&path)) {
                (Source::Disk, Ok(bytes)) => bundle.insert(&path, Arc::from(bytes)).unwrap(),
                (Source::Disk, Err(error)) => problems.push(Problem::new(error.to_string())),
                (Source::Bundle, _) => assert!(bundle.get(&path).is_some()),
            }
        }
        if self.role == Role::Candidate && upgrading::at(&self.mark, "prepare") {
            return;
        }
        let rejects = self.role == Role::Candidate && self.mark.contains("prepare-reject");
        problems.extend(rejects.then(|| Problem::new("this version does not know that setting")));
        let unreachable = text.lines().any(|line| line == "unreachable");
        problems.extend(unreachable.then(|| Problem::new("the store cannot be reached")));
        if text.contains("prepare hang") {
            return;
        }
        if text.contains("prepare die") {
            std::process::exit(7);
        }
        if !problems.is_empty() {
            return self.say(&ToSupervisor::Rejected { candidate: number, problems, unreachable }, &[]);
        }
        let listeners = values(&text, "listen").chain(values(&text, "hold"));
        let specs: Vec<ListenerSpec> = listeners.map(|listen| spec(&listen)).collect();
        self.say(&ToSupervisor::Need { candidate: number, listeners: specs.clone() }, &[]);
        let sockets = Vec::new();
        let carried = None;
        self.candidate =
            Some(Candidate { number, generation, text, bundle, specs, sockets, dry_run, carried });
    }

    fn bound(&mut self, number: u64, results: &[BindResult], fds: Vec<OwnedFd>) {
        let Some(candidate) = self.candidate.as_mut().filter(|candidate| candidate.number == number) else {
            return;
        };
        let failed = results.iter().filter_map(|result| match result {
            BindResult::Bound => None,
            BindResult::Failed { detail, .. } => Some(Problem::new(detail.clone())),
        });
        let problems: Vec<Problem> = failed.collect();
        if !problems.is_empty() {
            self.candidate = None;
            return self
                .say(&ToSupervisor::Rejected { candidate: number, problems, unreachable: false }, &[]);
        }
        assert_eq!(fds.len(), if candidate.dry_run { 0 } else { results.len() });
        candidate.sockets = fds;
        let body = |text: &str| values(text, "body").next().unwrap_or_default();
        let before = self.serving.as_ref().map(|serving| body(&serving.text));
        let now = body(&candidate.text);
        let now_text = &candidate.text;
        let change =
            Change { what: What::Changed, kind: ChangeKind::Setting, name: "body".to_owned(), detail: None };
        let prepared = ToSupervisor::Prepared {
            candidate: number,
            changes: before.filter(|before| *before != now).map(|_| change).into_iter().collect(),
            warnings: Vec::new(),
            settings: Box::new(settings(now_text)),
            summary: vec!["fake".to_owned()],
            version: None,
        };
        let bundle = candidate.bundle.to_memfd().unwrap();
        self.say(&prepared, &[bundle.as_fd()]);
    }

    /// What came of a handoff.
    fn handed(&mut self, call: u64, ended: Ended) {
        match ended {
            Ended::Took(message) => {
                self.role = Role::Serves;
                self.accept();
                self.say(&message, &[]);
                upgrading::at(&self.mark, "took");
            }
            Ended::Gave(message) => {
                self.role = Role::Gave;
                self.say(&message, &[]);
                let losses = Losses::default();
                self.say(&ToSupervisor::Drained { call, losses, late: Default::default(), ended: 1 }, &[]);
            }
            Ended::Stayed(message) => {
                if self.role == Role::Serves {
                    self.accept();
                }
                self.say(&message, &[]);
            }
            Ended::Nothing => {}
        }
    }

    fn commit(&mut self, number: u64, accept: bool) {
        let mut candidate = self.candidate.take().unwrap();
        assert_eq!(candidate.number, number);
        if candidate.text.contains("commit die\n") {
            std::process::exit(8);
        }
        let once = |what: &str| {
            let mut paths = values(&candidate.text, "commit");
            let path = paths.find_map(|value| value.strip_prefix(what).map(str::to_owned));
            path.is_some_and(|path| std::fs::File::create_new(path).is_ok())
        };
        if once("die-once ") {
            std::process::exit(8);
        }
        if once("orphan-once ") {
            let supervisor = rustix::process::getppid().unwrap();
            rustix::process::kill_process(supervisor, rustix::process::Signal::KILL).unwrap();
        }
        self.acceptor = None;
        if let Some(file) = candidate.carried.take() {
            self.say(&ToSupervisor::Carry, &[file.as_fd()]);
            self.carried = Some(file);
        }
        self.serving = Some(candidate);
        if accept {
            self.accept();
        }
        self.say(&ToSupervisor::Committed { candidate: number }, &[]);
    }

    fn accept(&mut self) {
        let serving = self.serving.as_ref().unwrap();
        let line = format!("{} {}\n", serving.generation, self.value("body").unwrap_or_default());
        let listeners: Vec<(bool, OwnedFd)> = serving
            .specs
            .iter()
            .zip(&serving.sockets)
            .filter(|(spec, _)| {
                !values(&serving.text, "hold").any(|held| held.starts_with(&format!("{} ", spec.name)))
            })
            .map(|(spec, socket)| (matches!(spec.address, Address::Tcp(_)), socket.try_clone().unwrap()))
            .collect();
        self.acceptor = Some(Acceptor::start(listeners, line));
    }

    fn guard(&self, call: u64) {
        let fails = self.mark.contains("guard-fail").then(|| "fail".to_owned());
        let (passed, detail) = match fails.or(self.value("guard")).as_deref() {
            Some("fail") => (false, "5xx 41 % of 120 requests, was 0.2 % of 4,000"),
            Some("hang") => return,
            Some("die") => std::process::exit(10),
            _ => (true, "no worse than before"),
        };
        let (detail, figures) = (detail.to_owned(), GuardFigures::default());
        self.say(&ToSupervisor::GuardEnded { call, passed, detail, figures }, &[]);
    }

    fn act(&mut self, call: u64, name: &str, body: &str) {
        let (ok, message) = match name {
            "carry" => {
                let file = memfd::sealed("carried", body.as_bytes()).unwrap();
                self.say(&ToSupervisor::Carry, &[file.as_fd()]);
                self.carried = Some(file);
                (true, String::new())
            }
            "carried" => {
                let bytes = self.carried.as_ref().map(|file| memfd::read_sealed(file, 1 << 20).unwrap());
                (true, bytes.map_or("none".to_owned(), |bytes| String::from_utf8(bytes).unwrap()))
            }
            "asked" => (true, format!("{:?}", self.asked)),
            "held" => (true, self.held.len().to_string()),
            "traffic" => (true, serde_json::to_string(&self.traffic).unwrap()),
            "kept" => (true, self.kept.as_ref().map_or(0, |(_, kept)| kept.len()).to_string()),
            "echo" => (true, body.to_owned()),
            "die" => std::process::exit(9),
            "orphan" => {
                // The shell's child loses its parent, and ends.
                let mut shell = std::process::Command::new("sh");
                shell.args(["-c", "true & echo $!"]);
                (true, String::from_utf8(shell.output().unwrap().stdout).unwrap().trim().to_owned())
            }
            _ => (false, "it failed".to_owned()),
        };
        self.say(&ToSupervisor::ActionDone { call, ok, message }, &[]);
    }

    fn value(&self, key: &str) -> Option<String> {
        values(&self.serving.as_ref()?.text, key).next()
    }

    fn says(&self, line: &str) -> bool {
        self.serving.as_ref().is_some_and(|serving| serving.text.lines().any(|l| l == line))
    }
}

impl Acceptor {
    fn start(listeners: Vec<(bool, OwnedFd)>, line: String) -> Self {
        let (stopped, stop) = std::io::pipe().unwrap();
        let thread = thread::spawn(move || {
            loop {
                let mut fds: Vec<PollFd<'_>> =
                    listeners.iter().map(|(_, socket)| PollFd::new(socket, PollFlags::IN)).collect();
                fds.push(PollFd::new(&stopped, PollFlags::IN));
                poll(&mut fds, None).unwrap();
                if !fds.last().unwrap().revents().is_empty() {
                    return;
                }
                for (is_tcp, socket) in &listeners {
                    answer(*is_tcp, socket, &line);
                }
            }
        });
        Acceptor { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop = None;
        self.thread.take().into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// The listener does not block: no connection, no answer.
fn answer(is_tcp: bool, socket: &OwnedFd, line: &str) {
    let socket = socket.try_clone().unwrap();
    if is_tcp {
        if let Ok((mut connection, _)) = TcpListener::from(socket).accept() {
            let _ = connection.write_all(line.as_bytes());
        }
    } else if let Ok((mut connection, _)) = UnixListener::from(socket).accept() {
        let _ = connection.write_all(line.as_bytes());
    }
}

fn settings(text: &str) -> Settings {
    let guarded = text.lines().any(|line| line == "guarded");
    Settings {
        control_mode: Some(0o640),
        drain_limit: Some(Duration::from_secs(10)),
        guard: guarded.then_some(GuardLimits::DEFAULT),
        programs: values(text, "program").map(|json| serde_json::from_str(&json).unwrap()).collect(),
        ..Settings::default()
    }
}

fn values<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = String> + 'a {
    text.lines().filter_map(move |line| Some(line.strip_prefix(key)?.strip_prefix(' ')?.to_owned()))
}

fn spec(text: &str) -> ListenerSpec {
    let (name, address) = text.split_once(' ').unwrap();
    let address = match address.strip_prefix("unix:") {
        Some(path) => Address::Unix { path: PathBuf::from(path), mode: 0o600 },
        None => Address::Tcp(address.parse().unwrap()),
    };
    ListenerSpec { name: name.to_owned(), address, backlog: 64 }
}
