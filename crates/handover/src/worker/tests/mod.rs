//! The worker's control thread, with a test in the supervisor's place at the other end of a real channel.

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use handover_handoff::succession::knock;
use handover_supervisor::protocol::{
    Address, BindResult, PROTOCOL_VERSION, Report, Scope, Serving, Source, SupervisorChannel, ToSupervisor,
    ToWorker,
};
use tempfile::TempDir;

use super::*;
use crate::drain::{Drain, DrainEnd};
use crate::prepare::{BindError, Bound, CalledOff, Prepare};
use crate::service::Candidate;
use crate::traffic::{Target, Traffic};
use crate::types::{Change, ChangeKind, Figures, Problem, Settings, What};
use crate::watch::Watch;

mod ending;
mod lasting;
mod listeners;
mod moving;
mod traffic;

/// No wait of these tests is longer; none is expected to come near it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the next prepare does.
enum Script {
    /// Read this file, need these listeners, be ready.
    Ready {
        file: Option<PathBuf>,
        listeners: Vec<ListenerSpec>,
    },
    /// Wait for the word, then be ready.
    Hang(Receiver<()>),
    /// Be ready with these listeners, and close them not before the word.
    Keep(Vec<ListenerSpec>, Receiver<()>),
    Panic,
    Refuse,
    /// Read this top-level file, this other file and this certificate, and tell their bytes and the carried state.
    Read([PathBuf; 3]),
    /// Say that the source cannot be reached.
    Unreachable,
}

/// What happened to the service.
#[derive(Debug, PartialEq, Eq)]
enum Happened {
    Began(u64),
    /// Which listeners it got: local ports, 0 for those only checked.
    Bound(Vec<Result<u16, String>>),
    Committed(u64),
    Dropped(u64),
    Draining,
    Resumed,
    Cut,
    Facts(String),
    ClosedListeners,
    Traffic(Traffic),
    /// What is waited for, and for how long.
    Quiet(Target, Duration),
    CalledOff,
    /// What each file said, and the carried state.
    Read([String; 3], Option<String>),
}

/// Handles that services were given, for tests of one of them.
type Attached = Arc<Mutex<Option<WorkerHandle>>>;

struct Scripted {
    scripts: Mutex<Receiver<Script>>,
    happened: Sender<Happened>,
    open: Arc<AtomicUsize>,
    hanging_action: Mutex<Receiver<()>>,
    attached: Attached,
    figures: Arc<Mutex<Option<Figures>>>,
    watch: Arc<Mutex<Option<Watch>>>,
    quiet: Mutex<Receiver<Quiet>>,
}

struct Scriptable {
    generation: u64,
    committed: bool,
    happened: Sender<Happened>,
    watch: Option<Watch>,
    /// Sockets, and for what their end waits.
    kept: Option<(Vec<OwnedFd>, Receiver<()>)>,
}

impl Candidate for Scriptable {
    fn changes(&self) -> Vec<Change> {
        vec![Change::new(What::Changed, ChangeKind::Setting, "script")]
    }

    fn settings(&self) -> Settings {
        Settings { drain_limit: Some(Duration::from_secs(7)), ..Settings::default() }
    }

    fn summary(&self) -> Vec<String> {
        vec![format!("generation {}", self.generation)]
    }

    fn watch(&self) -> Option<Watch> {
        self.watch.clone()
    }

    fn commit(mut self: Box<Self>) {
        self.committed = true;
        let _ = self.happened.send(Happened::Committed(self.generation));
    }
}

impl Drop for Scriptable {
    fn drop(&mut self) {
        if let Some((_, word)) = &self.kept {
            word.recv().unwrap();
        }
        if !self.committed {
            let _ = self.happened.send(Happened::Dropped(self.generation));
        }
    }
}

impl Service for Scripted {
    fn prepare(&self, cx: &mut Prepare) -> Result<Box<dyn Candidate>, Vec<Problem>> {
        let script = self.scripts.lock().unwrap().recv().unwrap();
        let generation = cx.generation();
        self.happened.send(Happened::Began(generation)).unwrap();
        let mut kept = None;
        match script {
            Script::Ready { file, listeners } => {
                if let Some(file) = file {
                    cx.read_top(&file).map_err(|error| vec![Problem::new(error.to_string())])?;
                }
                if !listeners.is_empty() {
                    let port = |bound: Result<Bound, BindError>| match bound {
                        Ok(Bound::Socket(socket)) => {
                            Ok(TcpListener::from(socket).local_addr().unwrap().port())
                        }
                        Ok(Bound::OnlyChecked) => Ok(0),
                        Err(error) => Err(error.to_string()),
                    };
                    let bound = cx.bind(&listeners).into_iter().map(port).collect();
                    self.happened.send(Happened::Bound(bound)).unwrap();
                }
            }
            Script::Hang(word) => word.recv().unwrap(),
            Script::Keep(listeners, word) => {
                let socket = |bound: Result<Bound, BindError>| match bound {
                    Ok(Bound::Socket(socket)) => socket,
                    _ => panic!("no socket"),
                };
                kept = Some((cx.bind(&listeners).into_iter().map(socket).collect(), word));
            }
            Script::Panic => panic!("scripted"),
            Script::Read([top, other, certificate]) => {
                let text = |bytes: io::Result<Arc<[u8]>>| match bytes {
                    Ok(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                    Err(error) => error.to_string(),
                };
                let read =
                    [text(cx.read_top(&top)), text(cx.read(&other)), text(cx.read_certificate(&certificate))];
                let carried = cx.carried().map(|carried| String::from_utf8(carried.to_vec()).unwrap());
                if !cx.is_certificates_only() {
                    cx.set_version("scripted 7");
                }
                self.happened.send(Happened::Read(read, carried)).unwrap();
            }
            Script::Unreachable => {
                cx.unreachable();
                return Err(vec![Problem::new("cannot be reached")]);
            }
            Script::Refuse => return Err(vec![Problem::new("no"), Problem::new("and no")]),
        }
        let watch = self.watch.lock().unwrap().clone();
        let happened = self.happened.clone();
        Ok(Box::new(Scriptable { generation, committed: false, happened, watch, kept }))
    }

    fn drain(&self, drain: &Drain) -> Losses {
        let open = self.open.load(Ordering::SeqCst) as u64;
        drain.progress(open);
        self.happened.send(Happened::Draining).unwrap();
        let mut losses = Losses::default();
        if open > 0 && drain.wait(PATIENCE) != Some(DrainEnd::Resumed) {
            losses.add("tcp", open);
        }
        losses
    }

    fn resume(&self) {
        self.happened.send(Happened::Resumed).unwrap();
    }

    fn stop_now(&self) -> Losses {
        self.happened.send(Happened::Cut).unwrap();
        let mut losses = Losses::default();
        losses.add("tcp", self.open.load(Ordering::SeqCst) as u64);
        losses
    }

    fn close_listeners(&self) {
        self.happened.send(Happened::ClosedListeners).unwrap();
    }

    fn traffic(&self, traffic: Traffic) {
        assert!(!traffic.off.contains(&"panic".to_owned()), "scripted");
        self.happened.send(Happened::Traffic(traffic)).unwrap();
    }

    fn quiet(&self, target: &Target, limit: Duration, called_off: &CalledOff) -> Quiet {
        self.happened.send(Happened::Quiet(target.clone(), limit)).unwrap();
        let quiet = self.quiet.lock().unwrap().recv().unwrap();
        if called_off.is_set() {
            self.happened.send(Happened::CalledOff).unwrap();
        }
        quiet
    }

    fn metrics(&self) -> String {
        "metrics".to_owned()
    }

    fn facts(&self, metrics: String) {
        self.happened.send(Happened::Facts(metrics)).unwrap();
    }

    fn actions(&self) -> Vec<String> {
        vec!["greet".to_owned()]
    }

    fn figures(&self) -> Option<Figures> {
        *self.figures.lock().unwrap()
    }

    fn attach(&self, worker: WorkerHandle) {
        *self.attached.lock().unwrap() = Some(worker);
    }

    fn action(&self, name: &str, body: &str, files: &mut Prepare) -> Result<String, String> {
        match name {
            "greet" => Ok(format!("hello {body}")),
            "read" => {
                files.read(Path::new(body)).map(|_| "read".to_owned()).map_err(|error| error.to_string())
            }
            "hang" => self
                .hanging_action
                .lock()
                .unwrap()
                .recv()
                .map(|()| "late".to_owned())
                .map_err(|e| e.to_string()),
            "panic" => panic!("scripted"),
            _ => Err("unknown".to_owned()),
        }
    }
}

/// A worker in a thread, and all its ends.
struct Worker {
    channel: SupervisorChannel,
    scripts: Sender<Script>,
    happened: Receiver<Happened>,
    open: Arc<AtomicUsize>,
    action_word: Sender<()>,
    attached: Attached,
    figures: Arc<Mutex<Option<Figures>>>,
    watch: Arc<Mutex<Option<Watch>>>,
    quiet: Sender<Quiet>,
    thread: JoinHandle<ExitCode>,
    directory: TempDir,
    calls: u64,
}

impl Worker {
    fn start() -> Self {
        let mut worker = Self::unwelcomed();
        assert!(worker.welcome().is_none());
        worker
    }

    fn unwelcomed() -> Self {
        let (ours, theirs) = SupervisorChannel::pair().unwrap();
        let (scripts, script) = mpsc::channel();
        let (happened_to, happened) = mpsc::channel();
        let (action_word, hanging_action) = mpsc::channel();
        let (quiet, quiet_word) = mpsc::channel();
        let open = Arc::new(AtomicUsize::new(0));
        let attached = Attached::default();
        let (figures, watch) = (Arc::default(), Arc::default());
        let service = Scripted {
            scripts: Mutex::new(script),
            happened: happened_to,
            open: Arc::clone(&open),
            hanging_action: Mutex::new(hanging_action),
            attached: Arc::clone(&attached),
            figures: Arc::clone(&figures),
            watch: Arc::clone(&watch),
            quiet: Mutex::new(quiet_word),
        };
        let directory = tempfile::tempdir().unwrap();
        let setup = Setup {
            channel: theirs.into_socket(),
            succession: Some(directory.path().join("door")),
            version: "1.2.3".to_owned(),
            service: Arc::new(service),
        };
        let thread = std::thread::spawn(move || run(setup));
        Self {
            channel: ours,
            scripts,
            happened,
            open,
            action_word,
            attached,
            figures,
            watch,
            quiet,
            thread,
            directory,
            calls: 0,
        }
    }

    /// Introduces a supervisor, and returns what the worker says it serves.
    fn welcome(&mut self) -> Option<(Serving, Vec<OwnedFd>)> {
        self.say(&ToWorker::Welcome {
            protocol: PROTOCOL_VERSION,
            oldest: 0,
            worker: 5,
            carried: false,
            candidate: false,
        });
        let (hello, fds) = self.hear_with_fds();
        let ToSupervisor::Hello { protocol, version, actions, serving, .. } = hello else {
            panic!("{hello:?}")
        };
        assert_eq!(
            (protocol, version.as_str(), actions),
            (PROTOCOL_VERSION, "1.2.3", vec!["greet".to_owned()])
        );
        serving.map(|serving| (*serving, fds))
    }

    fn say(&self, message: &ToWorker) {
        self.channel.send(message, &[], PATIENCE).unwrap();
    }

    fn hear_with_fds(&self) -> (ToSupervisor, Vec<OwnedFd>) {
        self.channel.recv(Some(PATIENCE)).unwrap()
    }

    fn hear(&self) -> ToSupervisor {
        self.hear_with_fds().0
    }

    fn happens(&self) -> Happened {
        self.happened.recv_timeout(PATIENCE).unwrap()
    }

    /// That the control thread answers now, and has nothing else to say before.
    fn ping(&mut self) {
        self.calls += 1;
        self.say(&ToWorker::Ping { call: self.calls });
        assert_eq!(self.hear(), ToSupervisor::Pong { call: self.calls });
    }

    fn prepare(&self, candidate: u64, script: Script) {
        self.scripts.send(script).unwrap();
        let generation = candidate;
        self.say(&order(candidate, Source::Disk));
        assert_eq!(self.happens(), Happened::Began(generation));
    }

    fn simple() -> Script {
        Script::Ready { file: None, listeners: Vec::new() }
    }

    /// Prepares and commits a generation with one listener and one file.
    fn serve(&mut self, candidate: u64) -> (TcpListener, PathBuf) {
        let file = self.directory.path().join("top.toml");
        std::fs::write(&file, format!("generation = {candidate}")).unwrap();
        let listeners = vec![spec("web")];
        self.prepare(candidate, Script::Ready { file: Some(file.clone()), listeners: listeners.clone() });
        assert_eq!(self.hear(), ToSupervisor::Need { candidate, listeners });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = ToWorker::Bound { candidate, results: vec![BindResult::Bound] };
        self.channel.send(&bound, &[listener.as_fd()], PATIENCE).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(self.happens(), Happened::Bound(vec![Ok(port)]));
        assert!(matches!(self.hear(), ToSupervisor::Prepared { .. }));
        self.say(&ToWorker::Commit { candidate, accept: true });
        assert_eq!(self.happens(), Happened::Committed(candidate));
        assert_eq!(self.hear(), ToSupervisor::Committed { candidate });
        (listener, file)
    }

    /// The supervisor dies, and the next one comes in.
    fn succeed(&mut self) -> Option<(Serving, Vec<OwnedFd>)> {
        let socket = knock(&self.directory.path().join("door")).unwrap();
        self.channel = SupervisorChannel::from_socket(socket).unwrap();
        self.welcome()
    }

    fn stop(self) {
        self.say(&ToWorker::Stop { now: true });
        assert_eq!(self.thread.join().unwrap(), ExitCode::SUCCESS);
    }
}

/// A prepare of everything, of the generation with the candidate's number.
fn order(candidate: u64, source: Source) -> ToWorker {
    ToWorker::Prepare {
        candidate,
        generation: candidate,
        source,
        dry_run: false,
        scope: Scope::All,
        continues: false,
        given_carried: false,
        made: None,
    }
}

fn spec(name: &str) -> ListenerSpec {
    ListenerSpec { name: name.to_owned(), address: Address::Tcp("127.0.0.1:0".parse().unwrap()), backlog: 16 }
}

#[test]
fn a_hanging_prepare_does_not_stop_the_worker_from_answering() {
    let mut worker = Worker::start();
    let (word, hang) = mpsc::channel();
    worker.prepare(1, Script::Hang(hang));
    worker.ping();
    worker.say(&ToWorker::Abort { candidate: 1 });
    worker.ping();
    // The next one is prepared although the first still hangs.
    worker.prepare(2, Worker::simple());
    assert!(matches!(worker.hear(), ToSupervisor::Prepared { candidate: 2, .. }));
    // What the first one comes to at last is dropped, and nobody is told of it.
    word.send(()).unwrap();
    assert_eq!(worker.happens(), Happened::Dropped(1));
    worker.say(&ToWorker::Commit { candidate: 2, accept: true });
    assert_eq!(worker.happens(), Happened::Committed(2));
    assert_eq!(worker.hear(), ToSupervisor::Committed { candidate: 2 });
    worker.ping();
    worker.stop();
}

#[test]
fn a_panic_in_prepare_is_a_problem_and_the_next_prepare_works() {
    let mut worker = Worker::start();
    worker.prepare(1, Script::Panic);
    let ToSupervisor::Rejected { candidate: 1, problems, .. } = worker.hear() else { panic!() };
    assert_eq!(problems[0].detail, "preparing panicked: scripted");
    worker.prepare(2, Script::Refuse);
    let ToSupervisor::Rejected { candidate: 2, problems, .. } = worker.hear() else { panic!() };
    assert_eq!(problems.len(), 2);
    worker.serve(3);
    worker.stop();
}

#[test]
fn an_aborted_candidate_is_dropped_and_cannot_be_committed() {
    let mut worker = Worker::start();
    worker.prepare(1, Worker::simple());
    assert!(matches!(worker.hear(), ToSupervisor::Prepared { candidate: 1, .. }));
    worker.say(&ToWorker::Abort { candidate: 1 });
    assert_eq!(worker.happens(), Happened::Dropped(1));
    worker.say(&ToWorker::Commit { candidate: 1, accept: true });
    worker.ping();
    worker.stop();
}

#[test]
fn a_worker_that_is_started_again_prepares_from_the_bundle_and_not_from_the_disk() {
    let mut worker = Worker::start();
    let file = worker.directory.path().join("top.toml");
    std::fs::write(&file, "then").unwrap();
    worker.prepare(1, Script::Ready { file: Some(file.clone()), listeners: Vec::new() });
    let (_, fds) = worker.hear_with_fds();
    std::fs::write(&file, "now").unwrap();

    worker.scripts.send(Script::Ready { file: Some(file.clone()), listeners: Vec::new() }).unwrap();
    let prepare = order(2, Source::Bundle);
    worker.channel.send(&prepare, &[fds[0].as_fd()], PATIENCE).unwrap();
    let (_, fds) = worker.hear_with_fds();
    assert_eq!(&**Bundle::from_memfd(&fds[0]).unwrap().get(&file).unwrap(), b"then");

    // Promised, and not sent.
    worker.say(&order(3, Source::Bundle));
    assert!(matches!(worker.hear(), ToSupervisor::Rejected { candidate: 3, .. }));
    worker.ping();
    worker.stop();
}

#[test]
fn an_orphaned_worker_serves_and_is_adopted() {
    let mut worker = Worker::start();
    let (listener, file) = worker.serve(4);
    // Two things are under way when the supervisor dies: neither may reach the next one.
    worker.prepare(5, Worker::simple());
    assert!(matches!(worker.hear(), ToSupervisor::Prepared { candidate: 5, .. }));
    worker.say(&ToWorker::Action { call: 1, name: "hang".to_owned(), body: String::new() });
    let (serving, fds) = worker.succeed().unwrap();
    assert_eq!(worker.happens(), Happened::Dropped(5));
    worker.action_word.send(()).unwrap();

    assert_eq!((serving.worker, serving.generation, serving.accepting), (5, 4, true));
    assert_eq!(serving.listeners, [spec("web")]);
    assert_eq!(serving.settings.drain_limit, Some(Duration::from_secs(7)));
    assert_eq!(serving.summary, ["generation 4"]);
    let [bundle, socket, _executable] = <[OwnedFd; 3]>::try_from(fds).unwrap();
    assert_eq!(Bundle::from_memfd(bundle).unwrap().top(), Some(file.as_path()));
    let same = TcpListener::from(socket);
    assert_eq!(same.local_addr().unwrap(), listener.local_addr().unwrap());

    // It goes on with the new supervisor as with the old one, again and again.
    worker.serve(6);
    let (serving, _) = worker.succeed().unwrap();
    assert_eq!(serving.generation, 6);
    worker.ping();
    worker.stop();
}

#[test]
fn nobody_is_let_in_while_the_supervisor_lives() {
    let mut worker = Worker::start();
    worker.serve(1);
    let stranger = knock(&worker.directory.path().join("door")).unwrap();
    let stranger = SupervisorChannel::from_socket(stranger).unwrap();
    stranger
        .send(
            &ToWorker::Welcome {
                protocol: PROTOCOL_VERSION,
                oldest: 0,
                worker: 9,
                carried: false,
                candidate: false,
            },
            &[],
            PATIENCE,
        )
        .unwrap();
    worker.ping();
    assert!(stranger.try_recv().unwrap().is_none());
    // Once it is gone, the one that waits is next.
    worker.channel = stranger;
    let ToSupervisor::Hello { serving: Some(serving), .. } = worker.hear() else { panic!() };
    assert_eq!(serving.worker, 5, "its first supervisor's key stays");
    worker.stop();
}

#[test]
fn an_orphan_that_serves_nothing_ends() {
    let worker = Worker::start();
    let (word, hang) = mpsc::channel();
    worker.prepare(1, Script::Hang(hang));
    drop(worker.channel);
    assert_eq!(worker.thread.join().unwrap(), ExitCode::from(70));
    drop(word);
}

#[test]
fn a_service_that_cannot_go_on_ends_the_worker() {
    let mut worker = Worker::start();
    worker.serve(1);
    let handle = worker.attached.lock().unwrap().clone().unwrap();
    handle.fail("a thread has died");
    assert_eq!(worker.thread.join().unwrap(), ExitCode::from(70));
}
