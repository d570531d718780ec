//! Sessions against OpenSSL, over loopback: data, key updates from both sides, resumption, renegotiation, the end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod peers;

use std::io::{PipeWriter, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;

use handover_testkit::{DEADLINE, Deadline, Port, Process, Workspace, have, until};
use handover_tls::{Accepting, Connecting, Established, Facts, Fed, Opened, RecordError, Session, Version};
use peers::{NAME, World, moved};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs::Ticketer;

/// A connection with our session on it.
struct Line {
    stream: TcpStream,
    session: Session,
    facts: Facts,
    waiting: Vec<u8>,
}

impl Line {
    fn new(stream: TcpStream, established: Established) -> Self {
        let Established { session, facts, leftover } = established;
        Self { stream, session, facts, waiting: leftover }
    }

    /// Reads until `handshake` is done.
    fn shake(
        mut stream: TcpStream,
        first: &[u8],
        mut feed: impl FnMut(&[u8], &mut Vec<u8>) -> Result<Fed, handover_tls::HandshakeError>,
    ) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(first).unwrap();
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "the peer closed during the handshake");
            let mut out = Vec::new();
            let fed = feed(&buffer[..count], &mut out);
            stream.write_all(&out).unwrap();
            if let Fed::Done(established) = fed.unwrap() {
                return Self::new(stream, *established);
            }
        }
    }

    /// The next record, of whatever kind: its data.
    fn record(&mut self) -> Result<(Vec<u8>, Opened), RecordError> {
        let deadline = Deadline::after(DEADLINE);
        loop {
            let opened = self.session.open_record(&mut self.waiting)?;
            let (consumed, plain) = match &opened {
                Opened::Partial { .. } => {
                    let mut buffer = vec![0; 20_000];
                    let count = self.stream.read(&mut buffer).unwrap();
                    assert!(count > 0, "the stream ended without close_notify");
                    assert!(!deadline.passed());
                    self.waiting.extend_from_slice(&buffer[..count]);
                    continue;
                }
                Opened::Data { consumed, plain } => (*consumed, self.waiting[plain.clone()].to_vec()),
                Opened::Nothing { consumed } | Opened::Closed { consumed } => (*consumed, Vec::new()),
            };
            self.waiting.drain(..consumed);
            return Ok((plain, opened));
        }
    }

    /// Reads until these bytes have come, and no others.
    fn hear(&mut self, expected: &[u8]) {
        let mut heard = Vec::new();
        while heard.len() < expected.len() {
            heard.extend(self.record().unwrap().0);
        }
        assert!(heard == expected, "heard {} bytes, other than the {} expected", heard.len(), expected.len());
    }

    /// Reads until a record without data has come.
    fn hear_nothing(&mut self) {
        let (plain, opened) = self.record().unwrap();
        assert!(plain.is_empty() && matches!(opened, Opened::Nothing { .. }), "{opened:?}");
    }

    fn say(&mut self, plain: &[u8]) {
        let mut out = Vec::new();
        self.session.seal(plain, &mut out).unwrap();
        self.stream.write_all(&out).unwrap();
    }

    fn reply(&mut self) {
        assert!(self.session.has_reply());
        let mut out = Vec::new();
        self.session.take_reply(&mut out).unwrap();
        self.stream.write_all(&out).unwrap();
    }

    fn update_key(&mut self, ask: bool) {
        let mut out = Vec::new();
        self.session.update_key(ask, &mut out).unwrap();
        self.stream.write_all(&out).unwrap();
    }

    fn close(&mut self) {
        let mut out = Vec::new();
        self.session.close_notify(&mut out);
        self.stream.write_all(&out).unwrap();
    }

    /// The same connection in another process.
    fn moved(mut self) -> Self {
        self.session = moved(self.session);
        self
    }
}

/// OpenSSL, and what it reads its commands and its data from.
struct OpenSsl {
    process: Process,
    input: PipeWriter,
}

impl OpenSsl {
    fn start(arguments: &[&str], workspace: &Workspace) -> Self {
        let mut command = Command::new("openssl");
        command.args(arguments).current_dir(workspace.root());
        let (reader, input) = std::io::pipe().unwrap();
        Self { process: Process::try_start_with_input(command, reader).unwrap(), input }
    }

    fn write(&mut self, text: &str) {
        self.input.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until it has printed a line with `text`.
    fn prints(&self, text: &str) {
        assert!(self.process.stdout_line(text).is_some(), "no {text:?} in: {}", self.process.stdout());
    }
}

fn workspace(world: &World) -> Workspace {
    let workspace = Workspace::new();
    workspace.write("ca.pem", world.authority.pem());
    world.ecdsa.write(&workspace, "ecdsa");
    world.rsa.write(&workspace, "rsa");
    workspace
}

/// Lines of digits: OpenSSL takes some letters at the beginning of what it reads for commands.
fn digits(seed: usize, length: usize) -> String {
    let mut text: String =
        (0..length).map(|at| if at % 61 == 60 { '\n' } else { digit(seed + at / 61 + at) }).collect();
    text.push('\n');
    text
}

fn digit(number: usize) -> char {
    char::from_digit(u32::try_from(number % 10).unwrap(), 10).unwrap()
}

/// The suites of OpenSSL's words for which both kinds of keys are tried.
const SUITES: [(&str, &str, &str); 9] = [
    ("-tls1_3", "TLS_AES_128_GCM_SHA256", "ecdsa"),
    ("-tls1_3", "TLS_AES_256_GCM_SHA384", "ecdsa"),
    ("-tls1_3", "TLS_CHACHA20_POLY1305_SHA256", "rsa"),
    ("-tls1_2", "ECDHE-ECDSA-AES128-GCM-SHA256", "ecdsa"),
    ("-tls1_2", "ECDHE-ECDSA-AES256-GCM-SHA384", "ecdsa"),
    ("-tls1_2", "ECDHE-ECDSA-CHACHA20-POLY1305", "ecdsa"),
    ("-tls1_2", "ECDHE-RSA-AES128-GCM-SHA256", "rsa"),
    ("-tls1_2", "ECDHE-RSA-AES256-GCM-SHA384", "rsa"),
    ("-tls1_2", "ECDHE-RSA-CHACHA20-POLY1305", "rsa"),
];

fn suite_option(version: &str) -> &'static str {
    if version == "-tls1_3" { "-ciphersuites" } else { "-cipher" }
}

/// The next connection.
fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let (stream, _) = until("OpenSSL connects", || listener.accept().ok());
    stream.set_nonblocking(false).unwrap();
    stream
}

/// We serve, OpenSSL is the client.
fn served(world: &World, workspace: &Workspace, version: &str, suite: &str, key: &str) -> (Line, OpenSsl) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let client = OpenSsl::start(
        &[
            "s_client",
            "-connect",
            &address,
            "-servername",
            NAME,
            "-CAfile",
            "ca.pem",
            "-verify_return_error",
            version,
            suite_option(version),
            suite,
        ],
        workspace,
    );
    let mut config = world.server_showing(if key == "rsa" { &world.rsa } else { &world.ecdsa });
    config.ticketer = Ticketer::new().unwrap();
    handover_tls::prepare_server(&mut config);
    let mut accepting = Accepting::new(Arc::new(config)).unwrap();
    let stream = accept(&listener);
    let line = Line::shake(stream, &[], |bytes, out| accepting.feed(bytes, out));
    (line, client)
}

#[test]
fn openssl_s_client_is_served_with_every_suite() {
    if !have("openssl", "openssl_s_client_is_served_with_every_suite") {
        return;
    }
    let world = World::new();
    let workspace = workspace(&world);
    for (version, suite, key) in SUITES {
        let (mut line, mut client) = served(&world, &workspace, version, suite, key);
        assert_eq!(line.facts.sni.as_deref(), Some(NAME));
        client.prints("Verify return code: 0 (ok)");
        for round in 0..6 {
            let text = digits(round, 10 + round * 9_000);
            client.write(&text);
            line.hear(text.as_bytes());
            line = line.moved();
            line.say(format!("{text}end of round {round}\n").as_bytes());
            client.prints(&format!("end of round {round}"));
            assert!(client.process.stdout().contains(&text), "{version} {suite}: round {round}");
        }
        client.write("Q\n");
        assert!(matches!(line.record(), Ok((_, Opened::Closed { .. }))));
        line.close();
        client.process.wait().expect_code(0);
    }
}

#[test]
fn openssl_s_client_changes_keys_and_so_do_we() {
    if !have("openssl", "openssl_s_client_changes_keys_and_so_do_we") {
        return;
    }
    let world = World::new();
    let workspace = workspace(&world);
    for (version, suite, key) in SUITES.into_iter().filter(|(version, ..)| *version == "-tls1_3") {
        let (mut line, mut client) = served(&world, &workspace, version, suite, key);
        for round in 0..5 {
            // It wants one of ours too.
            client.write("K\n");
            line.hear_nothing();
            line = line.moved();
            line.reply();
            // It wants none.
            client.write("k\n");
            line.hear_nothing();
            assert!(!line.session.has_reply());
            // We want one of its: it comes with its next data.
            line.update_key(true);
            line.say(format!("under a new key, round {round}\n").as_bytes());
            client.prints(&format!("under a new key, round {round}"));
            line = line.moved();
            let text = digits(round, 40_000);
            client.write(&text);
            line.hear(text.as_bytes());
            // We want none.
            line.update_key(false);
            line.say(format!("{text}and round {round} is over\n").as_bytes());
            client.prints(&format!("and round {round} is over"));
            assert!(client.process.stdout().contains(&text), "{suite}: round {round}");
        }
        line.close();
        client.process.wait().expect_code(0);
    }
}

#[test]
fn openssl_s_client_is_told_that_there_is_no_renegotiation() {
    if !have("openssl", "openssl_s_client_is_told_that_there_is_no_renegotiation") {
        return;
    }
    let world = World::new();
    let workspace = workspace(&world);
    let (mut line, mut client) =
        served(&world, &workspace, "-tls1_2", "ECDHE-ECDSA-AES128-GCM-SHA256", "ecdsa");
    client.write("R\n");
    line.hear_nothing();
    line.reply();
    assert!(client.process.stderr_line("no renegotiation").is_some());
    let error = line.record().unwrap_err();
    assert_eq!(error.to_string(), "the peer ended the connection with the alert handshake_failure");
}

#[test]
fn openssl_s_client_resumes() {
    if !have("openssl", "openssl_s_client_resumes") {
        return;
    }
    let world = World::new();
    let workspace = workspace(&world);
    for version in ["-tls1_3", "-tls1_2"] {
        let mut config = world.server(None);
        config.ticketer = Ticketer::new().unwrap();
        handover_tls::prepare_server(&mut config);
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        for round in 0..3 {
            let session = if round == 0 { ["-sess_out", "session.pem"] } else { ["-sess_in", "session.pem"] };
            let common =
                ["s_client", "-connect", &address, "-servername", NAME, "-CAfile", "ca.pem", version];
            let mut client = OpenSsl::start(&[&common[..], &session[..]].concat(), &workspace);
            let stream = accept(&listener);
            let mut accepting = Accepting::new(Arc::clone(&config)).unwrap();
            let mut line = Line::shake(stream, &[], |bytes, out| accepting.feed(bytes, out));
            assert_eq!(line.facts.resumed, round > 0, "{version}");
            line.say(b"welcome\n");
            client.prints("welcome");
            client.write("Q\n");
            assert!(matches!(line.record(), Ok((_, Opened::Closed { .. }))));
            line.close();
            client.process.wait().expect_code(0);
        }
    }
}

/// OpenSSL serves.
fn server(workspace: &Workspace, port: &Port, version: &str, suite: &str, key: &str) -> OpenSsl {
    let (certificate, key) = (format!("{key}.pem"), format!("{key}.key"));
    let address = format!("127.0.0.1:{}", port.number());
    let server = OpenSsl::start(
        &[
            "s_server",
            "-accept",
            &address,
            "-cert",
            &certificate,
            "-key",
            &key,
            version,
            suite_option(version),
            suite,
        ],
        workspace,
    );
    server.prints("ACCEPT");
    server
}

fn connected(config: &Arc<ClientConfig>, port: &Port) -> Line {
    let stream = TcpStream::connect(("127.0.0.1", port.number())).unwrap();
    let mut hello = Vec::new();
    let mut connecting = Connecting::new(Arc::clone(config), peers::name(), &mut hello).unwrap();
    Line::shake(stream, &hello, |bytes, out| connecting.feed(bytes, out))
}

#[test]
fn openssl_s_server_is_talked_to_with_every_suite_and_resumed() {
    if !have("openssl", "openssl_s_server_is_talked_to_with_every_suite_and_resumed") {
        return;
    }
    let world = World::new();
    let workspace = workspace(&world);
    for (version, suite, key) in SUITES {
        let port = Port::claim();
        let mut server = server(&workspace, &port, version, suite, key);
        let mut config = world.client(None);
        handover_tls::prepare_client(&mut config);
        let config = Arc::new(config);
        for connection in 0..2 {
            let mut line = connected(&config, &port);
            assert_eq!(line.facts.resumed, connection > 0, "{version} {suite}");
            assert_eq!(line.facts.version == Version::Tls13, version == "-tls1_3");
            for round in 0..4 {
                let text = digits(round + connection, 10 + round * 9_000);
                line.say(format!("{text}end of round {connection}.{round}\n").as_bytes());
                server.prints(&format!("end of round {connection}.{round}"));
                assert!(server.process.stdout().contains(&text), "{version} {suite}: round {round}");
                server.write(&text);
                line.hear(text.as_bytes());
            }
            line.close();
            assert!(matches!(line.record(), Ok((_, Opened::Closed { .. }))));
        }
    }
}

#[test]
fn openssl_s_server_changes_keys_and_so_do_we() {
    if !have("openssl", "openssl_s_server_changes_keys_and_so_do_we") {
        return;
    }
    let world = World::new();
    let workspace = workspace(&world);
    let port = Port::claim();
    let mut server = server(&workspace, &port, "-tls1_3", "TLS_AES_256_GCM_SHA384", "ecdsa");
    let mut config = world.client(None);
    handover_tls::prepare_client(&mut config);
    let mut line = connected(&Arc::new(config), &port);
    server.write("begin\n");
    line.hear(b"begin\n");
    for round in 0..5 {
        line = line.moved();
        server.write("K\n");
        line.hear_nothing();
        line.reply();
        server.write("k\n");
        line.hear_nothing();
        line.update_key(round % 2 == 0);
        line.say(format!("under a new key, round {round}\n").as_bytes());
        server.prints(&format!("under a new key, round {round}"));
        let text = digits(round, 30_000);
        server.write(&text);
        line.hear(text.as_bytes());
    }
}
