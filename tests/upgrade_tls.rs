//! Upgrades of TLS: handshakes and records that are under way, sessions that are resumed, keys that change, and an independent
//! client. Hazards 24 and 25.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{PipeWriter, Write as _};
use std::process::Command;
use std::thread;

use handover_testkit::http::{Connection, Stream, request_bytes};
use handover_testkit::relay::Relay;
use handover_testkit::{DEADLINE, Everything, Process, handover, have, pattern, wait_for_exit};

/// Upgrades, and waits until the old worker is gone: whatever lives now was moved.
#[track_caller]
fn upgrade(server: &Everything, version: &str) {
    let worker = server.handover.worker();
    server.upgrade_to(version, &[]).expect_code(0);
    assert!(wait_for_exit(worker, DEADLINE), "the old worker ends");
}

/// What is between a handshake's first byte and its last ends where it began, and goes along then.
#[test]
fn a_handshake_that_is_under_way_ends_and_its_connection_goes_along_late() {
    let server = Everything::start(handover!());
    for client in [server.client().only_tls13(), server.client().only_tls12()] {
        let worker = server.handover.worker();
        let relay = Relay::holding(server.secure.address(), client.hello().len() / 2);
        thread::scope(|scope| {
            let shaking = scope.spawn(|| client.connect(relay.address()).connection);
            relay.wait_held();
            let upgrading = server.begin_upgrade_to("next", &[]);
            server.wait_for_another_worker(worker);
            relay.release();
            let mut connection = shaking.join().unwrap();
            upgrading.join().unwrap().expect_code(0);
            assert!(wait_for_exit(worker, DEADLINE), "the old worker ends");
            assert_eq!(connection.get("/bytes/1000").body, pattern::bytes(1000));
        });
    }
}

/// A record of which the first half is with the server: it is opened by whoever gets the second.
#[test]
fn half_a_record_goes_along() {
    let server = Everything::start(handover!());
    for client in [server.client().only_tls13(), server.client().only_tls12()] {
        let mut connection = client.connect(server.secure.address()).connection;
        assert_eq!(connection.get("/bytes/10").body, pattern::bytes(10));
        let (stream, _) = connection.into_stream();
        let Stream::Tls(mut stream) = stream else { panic!("TLS is TLS") };
        let mut sealed = Vec::new();
        stream.conn.writer().write_all(&request_bytes("GET", "/bytes/5000", &[], b"")).unwrap();
        stream.conn.write_tls(&mut sealed).unwrap();
        stream.sock.write_all(&sealed[..sealed.len() / 2]).unwrap();
        upgrade(&server, "next");
        stream.sock.write_all(&sealed[sealed.len() / 2..]).unwrap();
        let mut connection = Connection::over(Stream::Tls(stream)).unwrap();
        assert_eq!(connection.response("GET").body, pattern::bytes(5000));
    }
}

/// Hazard 24: whoever had a session before the upgrade goes on with it after it, and after the next.
#[test]
fn sessions_are_resumed_after_upgrades() {
    let server = Everything::start(handover!());
    for client in [server.client().only_tls13(), server.client().only_tls12()] {
        let client = client.remembering();
        let (served, _) = client.get(server.secure.address(), "/");
        assert!(!served.resumed, "the first handshake is a full one");
        for version in ["2", "3"] {
            upgrade(&server, version);
            let (served, _) = client.get(server.secure.address(), "/");
            assert!(served.resumed, "after the upgrade to {version}");
        }
    }
}

/// OpenSSL's own client, which talks through a tunnel to something that sends back what it gets.
struct OpenSsl {
    client: Process,
    input: PipeWriter,
    sent: usize,
}

impl OpenSsl {
    fn connect(server: &Everything, version: &str) -> Self {
        let mut command = Command::new("openssl");
        command.args(["s_client", version, "-connect", &server.tls.address().to_string()]);
        let (output, input) = std::io::pipe().unwrap();
        let client = Process::try_start_with_input(command, output).unwrap();
        let mut this = Self { client, input, sent: 0 };
        // What it says of the handshake comes before what it is sent back.
        this.echo(10);
        this
    }

    /// Sends a line of this many digits, none like another, and waits until it has come back, whole.
    fn echo(&mut self, length: usize) {
        self.sent += 1;
        let digits: String = pattern::bytes(length).iter().map(|byte| char::from(b'0' + byte % 10)).collect();
        let line = format!("{} {digits} end {}", self.sent, self.sent);
        writeln!(self.input, "{line}").unwrap();
        let end = format!(" end {}", self.sent);
        let back =
            self.client.stdout_line(&end).unwrap_or_else(|| panic!("it ended: {}", self.client.stderr()));
        assert!(back == line, "line {} of {length} digits is another one: {back:.100}", self.sent);
    }

    /// New keys, and a request that the other side change its own, too.
    fn update_keys(&mut self) {
        let before = self.client.stderr().matches("KEYUPDATE").count();
        writeln!(self.input, "K").unwrap();
        handover_testkit::until("the keys are changed", || {
            (self.client.stderr().matches("KEYUPDATE").count() > before).then_some(())
        });
    }
}

/// Hazard 25: another implementation, keys that change every fifty records, lines of up to 900 KB, and tens of moves.
#[test]
fn openssl_notices_nothing_of_many_moves_with_many_keys() {
    const MOVES: usize = 12;
    const ROUNDS: usize = 25;
    if !have("openssl", "openssl_notices_nothing_of_many_moves_with_many_keys") {
        return;
    }
    let server = Everything::start(handover!());
    let mut modern = OpenSsl::connect(&server, "-tls1_3");
    let mut older = OpenSsl::connect(&server, "-tls1_2");
    for number in 0..MOVES {
        for round in 0..ROUNDS {
            modern.echo(round * 11 + 1);
            older.echo(round * 11 + 1);
        }
        modern.update_keys();
        upgrade(&server, if number.is_multiple_of(2) { "a" } else { "b" });
        if number + 1 == MOVES {
            modern.echo(900_000);
            older.echo(900_000);
        }
    }
    modern.update_keys();
    modern.echo(50_000);
    assert_eq!(server.echo.accepted(), 2);
}
