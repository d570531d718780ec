//! The examples, run as what they are: programs of one supervisor and one worker each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use handover_testkit::curl::over_unix;
use handover_testkit::{
    Control, DEADLINE, Event, Output, Port, Process, Signal, Workspace, proc, until, wait_for_exit,
};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

mod upgrades;

/// An example that runs.
struct Example {
    workspace: Workspace,
    port: Port,
    process: Process,
    control: Control,
}

/// Where cargo puts a package's examples, seen from where it puts its tests.
fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is not built: `cargo build -p handover --examples`", path.display());
    path
}

impl Example {
    fn start(name: &str, listener: &str, workspace: Workspace, files: &[&str]) -> Self {
        let port = Port::claim();
        let process = Process::start(command(name, listener, &workspace, &port, files));
        let control = Control::at(
            &workspace.runtime().join(format!("handover/{}.sock", name.replace('_', "-") + "-example")),
        );
        let example = Self { workspace, port, process, control };
        example.wait_ready();
        example
    }

    /// The banner's line with the control socket comes once the first generation serves.
    fn wait_ready(&self) {
        let socket = self.control.path().display().to_string();
        assert!(self.process.stdout_line(&socket).is_some(), "{}", self.process.stderr());
    }

    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    fn post(&self, path: &str) -> Output {
        over_unix(
            self.control.path(),
            &["--fail-with-body", "-X", "POST", &format!("http://localhost{path}")],
        )
    }

    /// Sends HUP and waits for the operation that it began.
    fn hup(&mut self) -> serde_json::Value {
        let mut events = self.control.events();
        self.process.signal(Signal::HUP);
        let ended = |event: &Event| event.data["operation"]["state"] == "done";
        let id = events.wait_for("the end of the reload", ended).data["operation"]["id"].clone();
        self.history().into_iter().find(|operation| operation["id"] == id).unwrap()
    }

    fn history(&self) -> Vec<serde_json::Value> {
        let history = self.control.get("/v1/history");
        history.as_array().cloned().unwrap_or_else(|| panic!("{history}"))
    }

    fn terminate(mut self) -> Output {
        self.process.signal(Signal::TERM);
        self.process.wait()
    }
}

fn command(name: &str, listener: &str, workspace: &Workspace, port: &Port, files: &[&str]) -> Command {
    command_of(&binary(name), listener, workspace, port, files)
}

fn command_of(program: &Path, listener: &str, workspace: &Workspace, port: &Port, files: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(files)
        .current_dir(workspace.root())
        .env("XDG_RUNTIME_DIR", workspace.runtime())
        .env("XDG_STATE_HOME", workspace.state())
        .env("HOME", workspace.path("home"))
        .env_remove("NOTIFY_SOCKET")
        .env(format!("HANDOVER_LISTEN_{}", listener.to_uppercase()), port.address().to_string());
    command
}

/// Writes a new self-signed pair and returns its certificate.
fn renew(workspace: &Workspace) -> CertificateDer<'static> {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    workspace.write("cert.pem", pair.cert.pem());
    workspace.write("key.pem", pair.signing_key.serialize_pem());
    pair.cert.der().clone()
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Connects, trusting this certificate and no other.
fn connect(address: SocketAddr, trusted: &CertificateDer<'static>) -> Result<Tls, std::io::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let client = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(DEADLINE))?;
    let mut stream = StreamOwned::new(client, tcp);
    stream.conn.complete_io(&mut stream.sock)?;
    assert_eq!(stream.conn.peer_certificates().unwrap()[0], *trusted);
    Ok(stream)
}

fn get(stream: &mut Tls) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"Hello, World!\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.extend(byte);
    }
    String::from_utf8(bytes).unwrap()
}

fn axum() -> (Example, CertificateDer<'static>) {
    let workspace = Workspace::new();
    let certificate = renew(&workspace);
    (Example::start("axum", "https", workspace, &["cert.pem", "key.pem"]), certificate)
}

#[test]
fn the_action_reloads_the_certificate_and_open_connections_go_on() {
    let (example, first) = axum();
    let mut before = connect(example.address(), &first).unwrap();
    assert!(get(&mut before).starts_with("HTTP/1.1 200 OK\r\n"));

    let second = renew(&example.workspace);
    let answer = example.post("/v1/actions/reload_certs");
    assert_eq!(answer.expect_code(0).stdout.trim_end(), "Successfully reloaded cert");
    assert!(get(&mut connect(example.address(), &second).unwrap()).contains("200 OK"));
    assert!(connect(example.address(), &first).is_err(), "the old certificate is not served any more");
    assert!(get(&mut before).contains("200 OK"));
}

#[test]
fn a_certificate_that_is_missing_is_answered_with_500_and_the_old_one_stays() {
    let (example, first) = axum();
    example.workspace.remove("cert.pem");
    let answer = example.control.ask("POST", "/v1/actions/reload_certs", &[], "");
    assert_eq!(answer.status(), 500);
    let reason = "could not reload cert: cert.pem: cannot be read: No such file or directory (os error 2)";
    assert_eq!(answer.text().trim_end(), reason);
    connect(example.address(), &first).unwrap();
}

#[test]
fn a_key_of_another_certificate_is_never_served() {
    let (example, first) = axum();
    let key = example.workspace.read("key.pem");
    let second = renew(&example.workspace);
    let new_key = example.workspace.read("key.pem");
    example.workspace.write("key.pem", key);
    assert_eq!(example.control.ask("POST", "/v1/actions/reload_certs", &[], "").status(), 500);
    connect(example.address(), &first).unwrap();
    example.workspace.write("key.pem", new_key);
    assert_eq!(example.control.ask("POST", "/v1/actions/reload_certs", &[], "").status(), 200);
    connect(example.address(), &second).unwrap();
}

#[test]
fn hup_reloads_the_certificate_and_its_outcome_is_in_the_history() {
    let (mut example, _) = axum();
    let second = renew(&example.workspace);
    let operation = example.hup();
    assert_eq!(operation["outcome"], "applied", "{operation}");
    assert_eq!(operation["actor"]["signal"], "HUP", "{operation}");
    connect(example.address(), &second).unwrap();

    example.workspace.remove("key.pem");
    let operation = example.hup();
    assert_eq!(operation["outcome"], "rejected", "{operation}");
    let error = &operation["errors"][0];
    assert_eq!(error["file"], "key.pem", "{operation}");
    assert_eq!(error["detail"], "cannot be read: No such file or directory (os error 2)", "{operation}");
    connect(example.address(), &second).unwrap();
}

#[test]
fn certificates_alone_are_reloaded_and_what_serves_can_be_asked_for() {
    let (example, first) = axum();
    let second = renew(&example.workspace);
    example.post("/v1/reload?certs=true").expect_code(0).says("generation 2");
    connect(example.address(), &second).unwrap();
    assert!(connect(example.address(), &first).is_err());
    let shown = example.control.get("/v1/certificates").to_string();
    assert!(shown.contains("\"localhost\"") && shown.contains("cert.pem"), "{shown}");
    // Going back serves the bytes of then, although no file has them any more.
    example.post("/v1/rollback").expect_code(0).says("generation 1");
    connect(example.address(), &first).unwrap();
}

#[test]
fn a_worker_that_is_killed_comes_back_with_the_certificate_that_an_action_loaded() {
    let (example, _) = axum();
    let second = renew(&example.workspace);
    example.post("/v1/actions/reload_certs").expect_code(0);
    let _third = renew(&example.workspace);
    let worker = example.control.worker();
    handover_testkit::signal(worker, Signal::KILL);
    // The connection waits in the supervisor's queue until there is a worker again.
    assert!(get(&mut connect(example.address(), &second).unwrap()).contains("200 OK"));
    assert_ne!(example.control.worker(), worker);
}

#[test]
fn without_a_certificate_the_program_does_not_start_and_says_why() {
    let (workspace, port) = (Workspace::new(), Port::claim());
    let output = handover_testkit::run(command("axum", "https", &workspace, &port, &[]));
    output.expect_code(10);
    let reason = "cert.pem: cannot be read: No such file or directory (os error 2)";
    assert!(output.stderr.contains(reason), "{}", output.stderr);
}

/// A connection to the line server, past its greeting.
struct Line(BufReader<TcpStream>);

impl Line {
    fn open(address: SocketAddr, greeting: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut line = Self(BufReader::new(stream));
        assert_eq!(line.next(), greeting);
        line
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    fn say(&mut self, line: &str) -> String {
        self.0.get_mut().write_all(line.as_bytes()).unwrap();
        self.next()
    }
}

fn raw_tcp() -> Example {
    let workspace = Workspace::new();
    workspace.write("greeting.txt", "hello\n");
    Example::start("raw_tcp", "lines", workspace, &["greeting.txt"])
}

#[test]
fn a_new_greeting_is_for_new_connections_and_old_ones_go_on() {
    let example = raw_tcp();
    let mut old = Line::open(example.address(), "hello\n");
    example.workspace.write("greeting.txt", "good morning\n");
    example.post("/v1/reload").expect_code(0).says("generation 2");
    let mut new = Line::open(example.address(), "good morning\n");
    assert_eq!(old.say("one\n"), "one\n");
    assert_eq!(new.say("two\n"), "two\n");
}

#[test]
fn a_stop_lets_a_connection_end_and_cuts_nothing() {
    let mut example = raw_tcp();
    let mut line = Line::open(example.address(), "hello\n");
    example.process.signal(Signal::TERM);
    until("nobody new is taken", || TcpStream::connect(example.address()).is_err().then_some(()));
    assert_eq!(line.say("last words\n"), "last words\n");
    assert_eq!(line.next(), "(this server is about to stop, goodbye)\n");
    example.process.wait().expect_code(0);
}

#[test]
fn a_worker_whose_supervisor_is_killed_serves_on_and_the_next_one_adopts_it() {
    let mut example = raw_tcp();
    let mut line = Line::open(example.address(), "hello\n");
    let worker = example.control.worker();
    example.process.signal(Signal::KILL);
    assert!(wait_for_exit(example.process.pid(), DEADLINE));
    assert_eq!(line.say("anybody there?\n"), "anybody there?\n");
    Line::open(example.address(), "hello\n");

    let again = command("raw_tcp", "lines", &example.workspace, &example.port, &["greeting.txt"]);
    let successor = Process::start(again);
    let socket = example.control.path().display().to_string();
    assert!(successor.stdout_line(&socket).is_some(), "{}", successor.stderr());
    assert_eq!(example.control.worker(), worker, "the same process serves");
    assert_eq!(line.say("still there?\n"), "still there?\n");

    // The successor does with it what a supervisor does.
    example.workspace.write("greeting.txt", "good morning\n");
    example.post("/v1/reload").expect_code(0).says("generation 2");
    Line::open(example.address(), "good morning\n");
    drop(line);
    let mut successor = successor;
    successor.signal(Signal::TERM);
    successor.wait().expect_code(0);
    assert!(!proc::alive(worker));
}

#[test]
fn an_orphaned_worker_ends_on_term_and_takes_its_socket_along() {
    let mut example = raw_tcp();
    let worker = example.control.worker();
    example.process.signal(Signal::KILL);
    assert!(wait_for_exit(example.process.pid(), DEADLINE));
    handover_testkit::signal(worker, Signal::TERM);
    assert!(wait_for_exit(worker, DEADLINE));
    let left: Vec<String> = example.workspace.listing();
    assert!(!left.iter().any(|path| path.contains("worker")), "{left:?}");
}

#[test]
fn stray_signals_do_a_supervised_worker_no_harm() {
    let example = raw_tcp();
    let worker = example.control.worker();
    let mut line = Line::open(example.address(), "hello\n");
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::INT, Signal::QUIT, Signal::TERM] {
        handover_testkit::signal(worker, signal);
        assert_eq!(line.say("well?\n"), "well?\n");
    }
    example.post("/v1/reload").expect_code(0);
    assert_eq!(example.control.worker(), worker);
    assert_eq!(line.say("well?\n"), "well?\n");
    drop(line);
    example.terminate().expect_code(0);
}

#[test]
fn a_drain_is_taken_back_and_who_waited_is_served() {
    let example = raw_tcp();
    example.post("/v1/drain").expect_code(0);
    let waiting = TcpStream::connect(example.address()).unwrap();
    example.post("/v1/resume").expect_code(0);
    waiting.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(Line(BufReader::new(waiting)).next(), "hello\n");
}
